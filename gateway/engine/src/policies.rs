//! The door to policies in force, and their activation as an operation like any other.
//!
//! `policy/store` is behind the door: it checks and swaps. Here the activation in one step is asked of the *active* policy,
//! committed, and only then carried out. What takes a shadow window or another person is proposed instead: `changes`.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::json;

use countersign_gateway_model::{Digest, Name, OrgId, PolicyDigests, Principal, PrincipalKind, Timestamp};
use countersign_ledger_entry::body::{AuthorityMode, PolicyStep, SignedBy, Step};
use countersign_ledger_entry::{Blob, Body, Receipt};
use countersign_policy_bundle::sha256;
use countersign_policy_decide::catalogue::Catalogue;
use countersign_policy_decide::counters::Counter;
use countersign_policy_decide::{BundleFacts, EntityKind, EntityRef, EntityStore, Operation, Record};

use crate::api::PolicyRecord;
use crate::changes::InvariantOutcome;
use crate::changes::row::InForce;
use crate::error::EngineError;
use crate::org::Org;
use crate::own::OwnEntry;
use crate::{Engine, Snapshot};

/// A candidate whose every check has passed, and what the person must have seen before it is activated.
pub struct Candidate {
    /// The bundle.
    pub digest: Digest,
    /// What it follows.
    pub predecessor: Option<Digest>,
    /// Its version.
    pub version: u64,
    /// Version of the root document it is signed under.
    pub root_version: u64,
    /// Who signed.
    pub signed_by: SignedBy,
    /// The difference to the active bundle, in words.
    pub diff: String,
    /// SHA-256 of those words: what a person confirms.
    pub diff_digest: Digest,
    /// It loosens something.
    pub weakens: bool,
    /// Its content is that of the bundle which the one in force replaced.
    pub restores: bool,
    /// Its transport form, sealed and signed: what is checked again before it is activated.
    pub transport: Vec<u8>,
    /// What must be kept so that verdicts under it can be computed again.
    pub blobs: Vec<Blob>,
    /// What is known of its invariants.
    pub proofs: Vec<InvariantOutcome>,
    /// Its counters: they are counted before it is in force.
    pub counters: BTreeMap<Name, Counter>,
    /// The prepared activation, for [`Policies::activate`].
    pub prepared: Box<dyn Any + Send>,
}

/// A tool catalogue with which the active bundle passes every check, signed as the next version.
pub struct CatalogueCandidate {
    /// Its plain digest.
    pub digest: Digest,
    /// What it follows.
    pub predecessor: Option<Digest>,
    /// Its version.
    pub version: u64,
    /// Version of the root document it is signed under.
    pub root_version: u64,
    /// Who signed.
    pub signed_by: SignedBy,
    /// What was signed, with the signatures; kept beside the entry.
    pub signed: serde_json::Value,
    /// The canonical bytes under their digest: what the next start loads.
    pub blob: Blob,
    /// The prepared activation, for [`Policies::activate`].
    pub prepared: Box<dyn Any + Send>,
}

impl CatalogueCandidate {
    /// The entry that puts it in force.
    pub fn entry(&self) -> OwnEntry {
        let mut entry = OwnEntry::new(Body::Catalogue(PolicyStep {
            step: Step::Activated,
            digest: self.digest,
            predecessor: self.predecessor,
            version: self.version,
            root_version: self.root_version,
            signed_by: self.signed_by,
            break_glass: false,
        }));
        entry.blobs.push(self.blob.clone());
        entry.description = Some(json!({ "signed": self.signed }));
        entry
    }
}

/// Why a candidate cannot be activated, in words for its author.
#[derive(Debug, thiserror::Error)]
pub enum PolicyProblem {
    /// A check found something, or it could not be kept.
    #[error("{0}")]
    Rejected(String),
    /// Sound in itself, and nobody could change it again or stop work under it.
    #[error("{0}")]
    LockedOut(String),
}

impl From<PolicyProblem> for EngineError {
    fn from(problem: PolicyProblem) -> Self {
        match problem {
            PolicyProblem::Rejected(findings) => Self::Bundle(findings),
            PolicyProblem::LockedOut(findings) => Self::LockedOut(findings),
        }
    }
}

/// The people of an organization as they are now: whom a candidate must not lock out.
#[derive(Clone, Debug)]
pub struct Electorate<'a> {
    /// Where their entity versions are.
    pub entities: &'a EntityStore,
    /// All persons.
    pub persons: Vec<Name>,
    /// Those of them who have a second factor: every login of theirs uses it.
    pub second_factors: BTreeSet<Name>,
    /// Now.
    pub now: Timestamp,
    /// Whether a change of policy takes a second person.
    pub four_eyes: bool,
}

/// Policies in force, by organization. The program fills it with `policy/store`.
pub trait Policies: Send + Sync + 'static {
    /// The snapshot in force; the kernel's recovery snapshot where there is no bundle.
    fn snapshot(&self, org: OrgId) -> Snapshot;

    /// A snapshot that was in force once, for replay; none if it is not kept.
    fn past(&self, org: OrgId, digests: &PolicyDigests) -> Option<Snapshot>;

    /// Version and signer of the active bundle.
    fn active(&self, org: OrgId) -> Option<(u64, SignedBy)>;

    /// Checks a bundle from its transport bytes: strict validation, lint, its own tests, signatures, nobody locked out.
    ///
    /// # Errors
    /// [`PolicyProblem`] with every finding; the active bundle stays.
    fn check(&self, org: OrgId, bundle: &[u8], people: &Electorate<'_>) -> Result<Candidate, PolicyProblem>;

    /// What would decide with a bundle or a draft, to be tried on the past: signatures, succession and the bundle's own
    /// tests are not asked for, and nothing changes.
    ///
    /// # Errors
    /// [`PolicyProblem`] with every finding, where it decides nothing.
    fn candidate(&self, org: OrgId, bundle: &[u8]) -> Result<Snapshot, PolicyProblem>;

    /// The bundle that the one in force replaced, sealed as the next version: what goes back to it.
    ///
    /// # Errors
    /// [`PolicyProblem`] where there is none, or it cannot be read.
    fn previous(&self, org: OrgId) -> Result<Vec<u8>, PolicyProblem>;

    /// Whether the policy in force leaves these people able to change it and to stop work.
    ///
    /// # Errors
    /// [`PolicyProblem::LockedOut`] with every finding.
    fn locked_out(&self, org: OrgId, people: &Electorate<'_>) -> Result<(), PolicyProblem>;

    /// Checks the active bundle with another tool catalogue, as an activation of it would be, and signs the catalogue as
    /// the next version.
    ///
    /// # Errors
    /// [`PolicyProblem`] with every finding; the catalogue in force stays.
    fn check_catalogue(&self, org: OrgId, catalogue: Catalogue) -> Result<CatalogueCandidate, PolicyProblem>;

    /// Version of the tool catalogue in force; 0 if there is none.
    fn catalogue_version(&self, org: OrgId) -> u64;

    /// Puts a checked candidate, of a bundle or of a catalogue, in force, after its entry is durable.
    ///
    /// # Errors
    /// [`PolicyProblem`] if another one was activated since, or it cannot be kept.
    fn activate(&self, org: OrgId, prepared: Box<dyn Any + Send>) -> Result<(), PolicyProblem>;
}

impl Engine {
    /// Which policy is in force.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] for those who may not read it.
    pub fn policy(&self, who: &Principal) -> Result<PolicyRecord, EngineError> {
        let org = self.org(who.org)?;
        self.may_read(&org, who, Operation::ReadPolicy, EntityRef::organization(org.id), "policy")?;
        let snapshot = self.snapshot(org.id);
        let (version, signed_by) = self.policies().active(org.id).unwrap_or((0, SignedBy::Local));
        Ok(PolicyRecord {
            digests: snapshot.digests(),
            version,
            signed_by: match signed_by {
                SignedBy::Local => "local",
                SignedBy::Threshold => "threshold",
            }
            .to_owned(),
            authority: org.authority().as_str(),
            policies: snapshot.policies().iter().map(|p| p.id.clone()).collect(),
        })
    }

    /// Checks a candidate without changing anything.
    ///
    /// # Errors
    /// [`EngineError::Bundle`] with every finding.
    pub async fn check_policy(&self, who: &Principal, bundle: Vec<u8>) -> Result<Candidate, EngineError> {
        let org = self.org(who.org)?;
        self.may_read(&org, who, Operation::ReadPolicy, EntityRef::organization(org.id), "policy")?;
        self.checked(&org, bundle).await
    }

    /// Checks a candidate for the gateway's own operator, who reads of it in the log: nobody's rights are asked, and nothing
    /// changes.
    ///
    /// # Errors
    /// [`EngineError::Bundle`] and [`EngineError::LockedOut`] with every finding.
    pub async fn try_policy(&self, org: OrgId, bundle: Vec<u8>) -> Result<Candidate, EngineError> {
        let org = self.org(org)?;
        self.checked(&org, bundle).await
    }

    pub(crate) async fn checked(&self, org: &Arc<Org>, bundle: Vec<u8>) -> Result<Candidate, EngineError> {
        let (policies, org, now) = (Arc::clone(self.policies()), Arc::clone(org), self.now());
        // Taken before the thread and given back by it: those who wait hold no thread, so that one is always free for the
        // work that the check itself waits for.
        let one_at_a_time = Arc::clone(&org.checking).lock_owned().await;
        let check = move || {
            let _one_at_a_time = one_at_a_time;
            let four_eyes = org.authority() == AuthorityMode::FourEyes;
            let second_factors = org.second_factors();
            let people = Electorate { entities: &org.entities, persons: org.persons(), second_factors, now, four_eyes };
            policies.check(org.id, &bundle, &people)
        };
        Ok(tokio::task::spawn_blocking(check).await.map_err(EngineError::damaged)??)
    }

    /// Refuses whoever may not even read policy before anything is sealed, tested or stored for them. The refusal is on
    /// record, about what was handed in.
    pub(crate) async fn may_change_policy(
        &self,
        org: &Arc<Org>,
        who: &Principal,
        operation: Operation,
        handed_in: &[u8],
    ) -> Result<(), EngineError> {
        if self.may_read(org, who, Operation::ReadPolicy, EntityRef::organization(org.id), "policy").is_ok() {
            return Ok(());
        }
        let digest = sha256(handed_in);
        let name = Name::new(&digest.to_string()).map_err(EngineError::damaged)?;
        let entity = EntityRef::new(org.id, EntityKind::PolicyBundle, name.clone());
        let facts =
            BundleFacts { author: None, version: 0, checked: false, shadowed: false, weakens: true, rollback: false };
        org.entities.put(Record::bundle(org.id, name, facts, self.now())).map_err(EngineError::damaged)?;
        let details = json!({ "operation": operation.as_str(), "handed_in": digest });
        let allowed = self.authorize(who, operation, entity.clone(), &details).await;
        org.entities.forget(&entity);
        allowed.map(drop)
    }

    /// Activates a bundle in one step: checks, confirmed difference, the active policy's word, the entry, then the swap.
    ///
    /// # Errors
    /// [`EngineError::ConfirmDiff`] until `confirmed` names the difference to the bundle that is active now;
    /// [`EngineError::Refused`] where policy asks for a shadow window or another person: propose it instead.
    pub async fn activate_policy(
        &self,
        who: Arc<Principal>,
        bundle: Vec<u8>,
        confirmed: Option<Digest>,
    ) -> Result<(Candidate, Receipt), EngineError> {
        let this = self.clone();
        Self::whole(async move {
            let org = this.org(who.org)?;
            this.may_change_policy(&org, &who, Operation::ActivatePolicy, &bundle).await?;
            let _one_at_a_time = org.in_force.lock().await;
            let mut candidate = this.checked(&org, bundle).await?;
            if confirmed != Some(candidate.diff_digest) {
                let Candidate { diff_digest: digest, diff, .. } = candidate;
                return Err(EngineError::ConfirmDiff { digest, diff });
            }
            let name = Name::new(&candidate.digest.to_string()).map_err(EngineError::damaged)?;
            let now = this.now();
            let (restores, predecessor) = (candidate.restores, candidate.predecessor);
            let shadowed = this.window_end(&org, restores, predecessor, now).await? <= now;
            let facts = BundleFacts {
                author: (who.kind == PrincipalKind::Person).then(|| who.id.clone()),
                version: candidate.version,
                checked: true,
                shadowed,
                weakens: candidate.weakens,
                rollback: candidate.restores,
            };
            let entity = EntityRef::new(org.id, EntityKind::PolicyBundle, name.clone());
            org.entities.put(Record::bundle(org.id, name, facts, now)).map_err(EngineError::damaged)?;
            let details =
                json!({ "operation": "activatePolicy", "bundle": candidate.digest, "diff": candidate.diff_digest });
            let allowed = this.authorize(&who, Operation::ActivatePolicy, entity.clone(), &details).await;
            // Asked about once, whatever the answer: a bundle that is in force, or was, is no resource of any question.
            org.entities.forget(&entity);
            let allowed = allowed.map_err(propose_instead)?;
            let mut entry = OwnEntry::new(Body::Policy(PolicyStep {
                step: Step::Activated,
                digest: candidate.digest,
                predecessor: candidate.predecessor,
                version: candidate.version,
                root_version: candidate.root_version,
                signed_by: candidate.signed_by,
                break_glass: false,
            }));
            entry.blobs.append(&mut candidate.blobs);
            entry.rows.push(InForce::row(candidate.digest, candidate.predecessor, now)?);
            entry.description = Some(json!({ "diff": candidate.diff }));
            // Before it is in force: nobody who asks under it waits for years of reservations to be read, and where they
            // cannot be read nothing has changed.
            org.counting.count_under(&candidate.counters).await?;
            let receipt = this.commit_own(&who, allowed, entry).await?;
            // Durable: a crash here leaves an entry whose bundle is not active. The next start activates the bundle of
            // the newest such entry, so the swap below is only the first of two ways to the same state.
            let prepared = std::mem::replace(&mut candidate.prepared, Box::new(()));
            this.policies().activate(org.id, prepared)?;
            Ok((candidate, receipt))
        })
        .await
    }
}

/// A refusal in words that say what would do.
fn propose_instead(error: EngineError) -> EngineError {
    match error {
        EngineError::Refused(mut refused) if refused.code == "policy-denied" => {
            "policy does not let this be activated in one step: propose it, so that its shadow window can pass and those \
             who must approve it can"
                .clone_into(&mut refused.message);
            EngineError::Refused(refused)
        }
        error => error,
    }
}
