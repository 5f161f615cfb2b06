//! Policies in force, behind the engine's door: `policy/store` with the local root key that signs in mode `solo`.
//!
//! What is activated is kept twice: the store's folder for a quick start, and blobs in the ledger from which any policy
//! of the past is built again. The ledger says which bundle is active. Absent: who may activate (policy itself).

mod roots;

use std::any::Any;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use countersign_gateway_engine::{
    Candidate, CatalogueCandidate, Electorate, InvariantOutcome, OwnEntry, Policies, PolicyProblem, Snapshot,
};
use countersign_gateway_model::{Clock, Digest, OrgId, PolicyDigests};
use countersign_ledger_log::LogHandle;
use countersign_policy_store::bundle::{
    AuthorityStatement, Bundle, BundleError, CATALOGUE_FORMAT, CanonicalError, CatalogueStatement, Custody, Diff,
    Draft, Lineage, MANIFEST_FILE, People, Purpose, RootDocument, RootError, RootKey, RootKeyEntry, SignedAuthority,
    SignedCatalogue, SignedRoot, Standing, Thresholds, check, check_draft, locked_out, sha256,
};
use countersign_policy_store::decide::catalogue::Catalogue;
use countersign_policy_store::decide::{PolicyParts, PolicySnapshot};
use countersign_policy_store::{
    Active, Change, LastGood, Prepared, Store, StoreError, default_catalogue, default_draft,
};
use countersign_runners_contract::entry::body::{PolicyStep, SignedBy, Step};
use countersign_runners_contract::entry::{Blob, Body, Entry, StreamKind};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

/// Entries of the organization's stream looked at a time.
const PAGE: usize = 256;

/// Policies of the past held ready for each organization; others are built again from the ledger.
const PAST: usize = 8;

/// Why there is no policy.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PoliciesError {
    /// The store.
    #[error("the policy store cannot be opened")]
    Store(#[from] StoreError),
    /// The bundle that is compiled in.
    #[error("the default bundle of this program cannot be used")]
    Default(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The root key.
    #[error(transparent)]
    Keys(#[from] crate::keys::KeysError),
    /// Another bundle than the one that a recovery puts in force.
    #[error(
        "bundle `{got}` is not the one that a recovery puts in force here and now, which is `{wanted}`: write that one with \
         `countersign recover --out`, and have it signed"
    )]
    NotRecovery {
        /// Given.
        got: Digest,
        /// What it must be.
        wanted: Digest,
    },
    /// The folder holds older root documents than the ledger names.
    #[error(
        "the ledger names root document `{wanted}`, and the policy folder ends with version {version}, before it: restore \
         the `roots` folder from a newer copy; nothing is served without it"
    )]
    RootMissing {
        /// On record.
        wanted: Digest,
        /// The last one here.
        version: u64,
    },
    /// A tool catalogue is signed here or nowhere, and the key that is here is not enough.
    #[error(
        "a tool catalogue is signed by the root key in the data folder, and root version {version} asks for {wanted} \
         signatures, of which that key gives {got}: no tool is registered until a root document with `--catalogue 1` lists \
         that key (`countersign policy root next`, then `policy root install`)"
    )]
    CatalogueKey {
        /// The root document in force.
        version: u64,
        /// How many must sign.
        wanted: u32,
        /// How many of them are here.
        got: usize,
    },
    /// The ledger.
    #[error("the ledger cannot be read, or not written")]
    Ledger(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl PoliciesError {
    /// Stable name of the problem, for `openapi/problems/<code>.md`; none where the folder is not what is wrong.
    pub(crate) fn code(&self) -> Option<&'static str> {
        match self {
            Self::Keys(error) => error.code(),
            Self::RootMissing { .. } => Some("folder-incomplete"),
            _ => None,
        }
    }
}

/// A draft on its way: files by path. What the command line sends, where nothing is sealed yet.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DraftFiles {
    /// Always `countersign-draft/1`.
    pub format: String,
    /// Path to text.
    pub files: BTreeMap<String, String>,
}

impl DraftFiles {
    /// The only format.
    pub(crate) const FORMAT: &'static str = "countersign-draft/1";
}

/// The door.
pub(crate) struct LocalPolicies {
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    runtime: Handle,
    /// What answers for an organization that is not here: its own kernel refuses everybody else.
    nobody: Snapshot,
    held: RwLock<HashMap<OrgId, Arc<Held>>>,
}

/// What is held for one organization.
struct Held {
    /// Signs its bundles in mode `solo`.
    key: RootKey,
    log: LogHandle,
    recovery: Snapshot,
    past: Past,
    /// Version of the newest catalogue; 0 before the first.
    catalogue: AtomicU64,
}

/// A catalogue that is checked and signed, on its way.
struct PreparedCatalogue {
    prepared: Prepared,
    version: u64,
}

/// Policies of the past of one organization.
#[derive(Default)]
struct Past {
    /// Those that were asked for lately, the latest at the end.
    lately: Mutex<VecDeque<(PolicyDigests, Snapshot)>>,
    /// Held by whoever builds one again. Whoever asks meanwhile waits, and finds it remembered if it is the same.
    building: Mutex<()>,
}

impl Past {
    fn remember(&self, snapshot: Snapshot) {
        let digests = snapshot.digests();
        let mut lately = self.lately.lock().unwrap_or_else(PoisonError::into_inner);
        lately.retain(|(known, _)| *known != digests);
        lately.push_back((digests, snapshot));
        if lately.len() > PAST {
            lately.pop_front();
        }
    }

    fn remembered(&self, digests: &PolicyDigests) -> Option<Snapshot> {
        let lately = self.lately.lock().unwrap_or_else(PoisonError::into_inner);
        lately.iter().find(|(known, _)| known == digests).map(|(_, snapshot)| Arc::clone(snapshot))
    }

    /// What is remembered, or else is built now: one at a time, since each takes a processor for long.
    fn remembered_or(&self, digests: &PolicyDigests, build: impl FnOnce() -> Option<Snapshot>) -> Option<Snapshot> {
        if let Some(known) = self.remembered(digests) {
            return Some(known);
        }
        let building = self.building.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = self.remembered(digests) {
            return Some(known);
        }
        let built = build()?;
        self.remember(Arc::clone(&built));
        drop(building);
        Some(built)
    }
}

impl std::fmt::Debug for LocalPolicies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalPolicies").finish_non_exhaustive()
    }
}

/// The root document of an organization whose only key is kept by the gateway itself.
pub(crate) fn root_document(org: OrgId, key: &RootKey) -> Result<SignedRoot, PoliciesError> {
    let wrong = |e: countersign_policy_store::bundle::RootError| PoliciesError::Default(Box::new(e));
    let entry = RootKeyEntry { vkey: key.vkey().clone(), custody: Custody::Local };
    let document = RootDocument::first(org, vec![entry], Thresholds::all(1)).map_err(wrong)?;
    let mut signed = SignedRoot::unsigned(document);
    signed.sign(key).map_err(wrong)?;
    Ok(signed)
}

fn kernel_of(org: OrgId) -> Result<Snapshot, PoliciesError> {
    Ok(Arc::new(PolicySnapshot::build(PolicyParts::recovery(org)).map_err(StoreError::Kernel)?))
}

impl LocalPolicies {
    /// A door over a store, with no organization behind it yet. `nobody` is an organization that nobody belongs to.
    pub(crate) fn new(store: Arc<Store>, clock: Arc<dyn Clock>, nobody: OrgId) -> Result<Self, PoliciesError> {
        let (runtime, nobody) = (Handle::current(), kernel_of(nobody)?);
        Ok(Self { store, clock, runtime, nobody, held: RwLock::default() })
    }

    /// Opens an organization's policy: what the newest activation in its log says, or nothing yet. `key` signs for it.
    pub(crate) async fn open(&self, log: &LogHandle, key: RootKey) -> Result<(), PoliciesError> {
        let active = last_activation(log).await?;
        let last_good = match active {
            Some((bundle, ref catalogue)) => {
                LastGood::Ledgered { bundle, catalogue: catalogue.as_ref().map(|step| step.digest) }
            }
            None => LastGood::Nothing,
        };
        let org = log.org();
        let genesis = log.trusted().genesis().root_document;
        let opened = self.store.open(org, genesis, last_good).await?;
        let chain = self.store.root_chain(&org).ok_or(StoreError::UnknownOrganization(org))?;
        roots::compare(&chain, log).await?;
        if let Some(trouble) = opened.trouble {
            tracing::error!(error = %crate::words(&trouble), %org, "the active bundle cannot be loaded; the kernel alone decides");
        }
        let version = active.and_then(|(_, catalogue)| catalogue).map_or(0, |step| step.version);
        let held = Held {
            key,
            log: log.clone(),
            recovery: kernel_of(org)?,
            past: Past::default(),
            catalogue: AtomicU64::new(version),
        };
        self.held.write().unwrap_or_else(PoisonError::into_inner).insert(org, Arc::new(held));
        Ok(())
    }

    fn held(&self, org: OrgId) -> Option<Arc<Held>> {
        self.held.read().unwrap_or_else(PoisonError::into_inner).get(&org).cloned()
    }

    /// Whether a bundle is in force.
    pub(crate) fn has_bundle(&self, org: OrgId) -> bool {
        self.store.active(&org).is_some_and(|active| active.head.is_some())
    }

    /// The first policy of an organization: the default bundle and its catalogue, signed by the local root key.
    pub(crate) async fn first(&self, org: OrgId) -> Result<(Vec<OwnEntry>, Prepared), PoliciesError> {
        let draft = default_draft().map_err(|e| PoliciesError::Default(Box::new(e)))?;
        let catalogue = default_catalogue().map_err(|e| PoliciesError::Default(Box::new(e)))?;
        let bundle = self.seal(org, draft).map_err(|e| PoliciesError::Default(Box::new(e)))?;
        let change = Change { bundle: Some(bundle), catalogue: Some(catalogue) };
        let prepared = self.store.prepare(org, change, self.clock.now()).await?;
        let next = Arc::clone(prepared.next());
        let mut entries = Vec::new();
        if let Some(catalogue) = &next.catalogue {
            let candidate = self.signed(org, catalogue, None)?;
            entries.push(candidate.entry());
            if let Some(held) = self.held(org) {
                held.catalogue.store(candidate.version, Ordering::Release);
            }
        }
        if let Some(bundle) = &next.bundle {
            entries.push(bundle_entry(bundle, next.standing.as_ref())?);
        }
        Ok((entries, prepared))
    }

    /// The bundle that a recovery puts in force: the one that ships, for this organization, after the last one that the
    /// ledger names, though that one may be unreadable. Signed by the local key alone.
    pub(crate) async fn recovery_bundle(&self, org: OrgId) -> Result<Bundle, PoliciesError> {
        let held = self.held(org).ok_or(StoreError::UnknownOrganization(org))?;
        let active = self.store.active(&org).ok_or(StoreError::UnknownOrganization(org))?;
        let chain = self.store.root_chain(&org).ok_or(StoreError::UnknownOrganization(org))?;
        let (last, _) = last_steps(&held.log).await?;
        let lineage = Lineage {
            organization: org,
            version: last.as_ref().map_or(1, |step| step.version.saturating_add(1)),
            predecessor: active.head,
            root_version: chain.current().version,
        };
        let mut draft = default_draft().map_err(|e| PoliciesError::Default(Box::new(e)))?;
        draft.settings.purpose = Purpose::Recovery;
        let mut bundle = draft.seal(lineage).map_err(StoreError::from)?;
        bundle.sign(&held.key);
        Ok(bundle)
    }

    /// Checks a recovery, its threshold of signatures too, and says what the ledger must hold before it is in force. A
    /// tool catalogue that the shipped bundle does not fit gives way to the one that ships with it.
    pub(crate) async fn recovery(
        &self,
        org: OrgId,
        bundle: Bundle,
    ) -> Result<(Vec<OwnEntry>, Prepared), PoliciesError> {
        let held = self.held(org).ok_or(StoreError::UnknownOrganization(org))?;
        let wanted = self.recovery_bundle(org).await?;
        if bundle.digest() != wanted.digest() {
            return Err(PoliciesError::NotRecovery { got: bundle.digest(), wanted: wanted.digest() });
        }
        let (_, catalogue) = last_steps(&held.log).await?;
        let now = self.clock.now();
        let alone = Change { bundle: Some(bundle.clone()), catalogue: None };
        let prepared = match self.store.prepare(org, alone, now).await {
            Err(StoreError::Rejected(_)) => {
                let shipped = default_catalogue().map_err(|e| PoliciesError::Default(Box::new(e)))?;
                let both = Change { bundle: Some(bundle), catalogue: Some(shipped) };
                self.store.prepare(org, both, now).await?
            }
            other => other?,
        };
        let next = Arc::clone(prepared.next());
        let mut entries = Vec::new();
        let before = catalogue.as_ref().map(|step| step.digest);
        if let Some(next) = next.catalogue.as_ref().filter(|next| Some(next.digest()) != before) {
            let version = catalogue.as_ref().map_or(1, |step| step.version.saturating_add(1));
            let root_version = wanted.manifest().root_version;
            entries.push(catalogue_entry(next, before, (version, root_version)));
        }
        if let Some(bundle) = &next.bundle {
            entries.push(bundle_entry(bundle, next.standing.as_ref())?);
        }
        Ok((entries, prepared))
    }

    /// What has to be signed so that the authority mode is lowered, signed by the local root key alone. `since` is the
    /// entry since which it is raised.
    pub(crate) fn lowering(&self, org: OrgId, since: u64) -> Result<SignedAuthority, PoliciesError> {
        let held = self.held(org).ok_or(StoreError::UnknownOrganization(org))?;
        let chain = self.store.root_chain(&org).ok_or(StoreError::UnknownOrganization(org))?;
        let statement = AuthorityStatement::lowering(org, since, chain.current().version);
        let mut signed = SignedAuthority::unsigned(statement);
        let wrong = |error: CanonicalError| PoliciesError::Store(StoreError::Root(error.into()));
        signed.sign(&held.key).map_err(wrong)?;
        Ok(signed)
    }

    /// Whether as many root keys as a recovery needs signed that the authority mode is lowered, here and now.
    pub(crate) fn may_lower(
        &self,
        org: OrgId,
        since: u64,
        signed: &SignedAuthority,
    ) -> Result<Standing, PoliciesError> {
        let chain = self.store.root_chain(&org).ok_or(StoreError::UnknownOrganization(org))?;
        signed.verify(&chain, since).map_err(|error| PoliciesError::Store(StoreError::Root(error)))
    }

    /// Puts a prepared policy in force, once its entries are durable.
    pub(crate) async fn commit(&self, prepared: Prepared) {
        self.store.commit(prepared).await;
    }

    /// The next version of a catalogue, signed by the local root key, as far as that key's signature is enough.
    fn signed(
        &self,
        org: OrgId,
        catalogue: &Catalogue,
        predecessor: Option<Digest>,
    ) -> Result<CatalogueCandidate, PoliciesError> {
        let held = self.held(org).ok_or(StoreError::UnknownOrganization(org))?;
        let chain = self.store.root_chain(&org).ok_or(StoreError::UnknownOrganization(org))?;
        let statement = CatalogueStatement {
            format: CATALOGUE_FORMAT.to_owned(),
            organization: org,
            version: held.catalogue.load(Ordering::Acquire).saturating_add(1),
            predecessor,
            root_version: chain.current().version,
            catalogue: catalogue.digest(),
        };
        let mut signed = SignedCatalogue::unsigned(statement);
        signed.sign(&held.key).map_err(|error| StoreError::Root(error.into()))?;
        let standing = signed.verify(&chain).map_err(|error| match error {
            RootError::Threshold { version, got, wanted, .. } => PoliciesError::CatalogueKey { version, wanted, got },
            other => StoreError::Root(other).into(),
        })?;
        let canonical = catalogue.canonical();
        Ok(CatalogueCandidate {
            digest: signed.statement.catalogue,
            predecessor,
            version: signed.statement.version,
            root_version: signed.statement.root_version,
            signed_by: signer(Some(&standing)),
            signed: serde_json::to_value(&signed).map_err(|e| StoreError::Root(CanonicalError::from(e).into()))?,
            blob: Blob { digest: signed.statement.catalogue, bytes: canonical.into() },
            prepared: Box::new(()),
        })
    }

    fn seal(&self, org: OrgId, draft: Draft) -> Result<Bundle, StoreError> {
        let held = self.held(org).ok_or(StoreError::UnknownOrganization(org))?;
        let active = self.store.active(&org).ok_or(StoreError::UnknownOrganization(org))?;
        let chain = self.store.root_chain(&org).ok_or(StoreError::UnknownOrganization(org))?;
        let lineage = Lineage {
            organization: org,
            version: active.bundle.as_ref().map_or(1, |bundle| bundle.manifest().version.saturating_add(1)),
            predecessor: active.head,
            root_version: chain.current().version,
        };
        let mut bundle = draft.seal(lineage)?;
        bundle.sign(&held.key);
        Ok(bundle)
    }

    /// Refuses a bundle that names the tools in force by another version of the catalogue. The store knows digests alone.
    fn names_version(&self, org: OrgId, prepared: &Prepared) -> Result<(), PolicyProblem> {
        let (version, bundle) = (self.catalogue_version(org), prepared.next().bundle.as_ref());
        match bundle.and_then(|bundle| bundle.manifest().catalogue).filter(|named| named.version != version) {
            None => Ok(()),
            Some(named) => Err(PolicyProblem::Rejected(format!(
                "the bundle names version {} of the tool catalogue, and version {version} is in force: name that one, or \
                 leave `catalogue` out of `bundle.json`",
                named.version
            ))),
        }
    }

    /// The bundle that the one in force replaced. Called on a blocking thread.
    fn before(&self, org: OrgId) -> Result<Bundle, StoreError> {
        let active = self.store.active(&org).ok_or(StoreError::UnknownOrganization(org))?;
        let before = active.bundle.as_ref().and_then(|bundle| bundle.manifest().predecessor);
        self.runtime.block_on(self.store.bundle(org, before.ok_or(StoreError::NoneBefore)?))
    }

    /// A sealed bundle as it is, or a draft sealed and signed by the local root key.
    fn read(&self, org: OrgId, bytes: &[u8]) -> Result<Bundle, StoreError> {
        match serde_json::from_slice::<DraftFiles>(bytes) {
            Ok(draft) if draft.format == DraftFiles::FORMAT => {
                let files = draft.files.into_iter().map(|(path, text)| (path, text.into_bytes()));
                self.seal(org, Draft::from_files(files)?)
            }
            _ => Ok(Bundle::from_bytes(bytes)?),
        }
    }
}

/// Says that a catalogue is in force, and keeps it. `(version, root_version)`.
fn catalogue_entry(next: &Catalogue, predecessor: Option<Digest>, (version, root_version): (u64, u64)) -> OwnEntry {
    let mut entry = OwnEntry::new(Body::Catalogue(PolicyStep {
        step: Step::Activated,
        digest: next.digest(),
        predecessor,
        version,
        root_version,
        signed_by: SignedBy::Local,
        break_glass: false,
    }));
    entry.blobs.push(Blob { digest: next.digest(), bytes: next.canonical().into() });
    entry
}

/// Says that a bundle is in force, and keeps it.
fn bundle_entry(bundle: &Bundle, standing: Option<&Standing>) -> Result<OwnEntry, PoliciesError> {
    let manifest = bundle.manifest();
    let mut entry = OwnEntry::new(Body::Policy(PolicyStep {
        step: Step::Activated,
        digest: bundle.digest(),
        predecessor: manifest.predecessor,
        version: manifest.version,
        root_version: manifest.root_version,
        signed_by: signer(standing),
        break_glass: false,
    }));
    entry.blobs = blobs(bundle).map_err(|e| PoliciesError::Default(Box::new(e)))?;
    Ok(entry)
}

fn signer(standing: Option<&Standing>) -> SignedBy {
    match standing {
        Some(standing) if !standing.local => SignedBy::Threshold,
        _ => SignedBy::Local,
    }
}

/// A bundle as blobs: its manifest under the bundle's digest, each file under its own, which the manifest names.
fn blobs(bundle: &Bundle) -> Result<Vec<Blob>, StoreError> {
    let blob = |bytes: Vec<u8>| Blob { digest: sha256(&bytes), bytes: bytes.into() };
    Ok(bundle.to_files()?.into_values().map(blob).collect())
}

/// Bundle and catalogue of the newest activations in the ledger.
async fn last_activation(log: &LogHandle) -> Result<Option<(Digest, Option<PolicyStep>)>, PoliciesError> {
    let (bundle, catalogue) = last_steps(log).await?;
    Ok(bundle.map(|bundle| (bundle.digest, catalogue)))
}

/// The newest activations of a bundle and of a catalogue in the ledger.
async fn last_steps(log: &LogHandle) -> Result<(Option<PolicyStep>, Option<PolicyStep>), PoliciesError> {
    let ledger = |e: Box<dyn std::error::Error + Send + Sync>| PoliciesError::Ledger(e);
    let stream = countersign_runners_contract::entry::Stream { kind: StreamKind::Organization, id: log.org().into() };
    let head = log.head(stream).await.map_err(|e| ledger(e.into()))?;
    let mut end = head.map_or(0, |head| head.next_sequence);
    let (mut bundle, mut catalogue) = (None, None);
    while end > 0 && (bundle.is_none() || catalogue.is_none()) {
        let from = end.saturating_sub(u64::try_from(PAGE).unwrap_or(u64::MAX));
        let limit = usize::try_from(end - from).unwrap_or(PAGE);
        let page = log.stream_entries(stream, from, limit).await.map_err(|e| ledger(e.into()))?;
        for stored in page.iter().rev() {
            match Entry::parse(&stored.leaf).map_err(|e| ledger(e.into()))?.header.body {
                Body::Policy(step) if step.step == Step::Activated => bundle = bundle.or(Some(step)),
                Body::Catalogue(step) if step.step == Step::Activated => catalogue = catalogue.or(Some(step)),
                _ => {}
            }
        }
        end = from;
    }
    Ok((bundle, catalogue))
}

/// The catalogue in force, as the ledger keeps it; none before the first one.
pub(crate) async fn active_catalogue(log: &LogHandle) -> Result<Option<Catalogue>, PoliciesError> {
    let ledger = |e: Box<dyn std::error::Error + Send + Sync>| PoliciesError::Ledger(e);
    let (_, Some(PolicyStep { digest, .. })) = last_steps(log).await? else { return Ok(None) };
    let bytes = log.blob(&digest).await.map_err(|e| ledger(e.into()))?;
    let bytes = bytes.ok_or_else(|| ledger(format!("it lacks the catalogue `{digest}` that is in force").into()))?;
    Catalogue::parse(&bytes).map(Some).map_err(|e| ledger(e.into()))
}

/// A policy of the past, built again from what the ledger keeps.
async fn rebuild(log: &LogHandle, digests: &PolicyDigests) -> Option<Snapshot> {
    let none = Digest([0; 32]);
    let catalogue = if digests.catalogue == none {
        None
    } else {
        let bytes = log.blob(&digests.catalogue).await.ok()??;
        Some(Catalogue::parse(&bytes).ok()?)
    };
    let built = if digests.bundle == none {
        let parts = PolicyParts { catalogue, ..PolicyParts::recovery(log.org()) };
        Arc::new(PolicySnapshot::build(parts).ok()?)
    } else {
        #[derive(Deserialize)]
        struct Named {
            files: BTreeMap<String, Digest>,
        }
        let manifest = log.blob(&digests.bundle).await.ok()??;
        let Named { files } = serde_json::from_slice(&manifest).ok()?;
        let mut held = vec![(MANIFEST_FILE.to_owned(), manifest)];
        for (path, digest) in files {
            held.push((path, log.blob(&digest).await.ok()??));
        }
        let bundle = Bundle::from_files(held).ok()?;
        Arc::clone(check(&bundle, catalogue.as_ref()).built()?)
    };
    // Kernel and base schema are this program's: a verdict of another program's is not computed again by this one.
    (built.digests() == *digests).then_some(built)
}

fn candidate(
    prepared: Prepared,
    predecessor: Option<Digest>,
    (transport, restores): (Vec<u8>, bool),
) -> Result<Candidate, PolicyProblem> {
    let next: Arc<Active> = Arc::clone(prepared.next());
    let bundle = next.bundle.as_ref().ok_or_else(|| PolicyProblem::Rejected("there is no bundle in it".to_owned()))?;
    let words = prepared.report().invariants.iter().fold(diff_words(prepared.diff()), |words, invariant| {
        // What is known of them is what a person confirms with the difference.
        format!("{words}{invariant}\n")
    });
    let manifest = bundle.manifest();
    Ok(Candidate {
        digest: bundle.digest(),
        predecessor,
        version: manifest.version,
        root_version: manifest.root_version,
        signed_by: signer(next.standing.as_ref()),
        diff_digest: sha256(words.as_bytes()),
        // Whether a change of Cedar text loosens cannot be known without a solver: what might, counts.
        weakens: prepared.diff().may_weaken(),
        diff: words,
        restores,
        transport,
        blobs: blobs(bundle).map_err(|e| problem(&e))?,
        proofs: InvariantOutcome::of(&prepared.report().invariants),
        counters: next.snapshot.counters().clone(),
        prepared: Box::new(prepared),
    })
}

/// Refuses what would leave nobody who can propose a policy, carry a change of it through, or terminate work: the way
/// back from such a bundle would need the root key and a stopped gateway.
fn nobody_locked_out(snapshot: &PolicySnapshot, electorate: &Electorate<'_>) -> Result<(), PolicyProblem> {
    let people = People {
        store: electorate.entities,
        persons: &electorate.persons,
        second_factors: &electorate.second_factors,
        now: electorate.now,
        four_eyes: electorate.four_eyes,
    };
    let found = locked_out(snapshot, &people).map_err(|error| PolicyProblem::Rejected(crate::words(&error)))?;
    if found.is_empty() {
        return Ok(());
    }
    let words: Vec<String> = found.iter().map(ToString::to_string).collect();
    Err(PolicyProblem::LockedOut(words.join("\n")))
}

/// What would decide with a bundle or a draft, unsigned and untested.
pub(crate) fn tried(org: OrgId, bytes: &[u8], catalogue: Option<&Catalogue>) -> Result<Snapshot, PolicyProblem> {
    let checked = match serde_json::from_slice::<DraftFiles>(bytes) {
        Ok(draft) if draft.format == DraftFiles::FORMAT => {
            let files = draft.files.into_iter().map(|(path, text)| (path, text.into_bytes()));
            let draft = Draft::from_files(files).map_err(|e| problem(&e.into()))?;
            check_draft(&draft, org, catalogue)
        }
        _ => {
            let bundle = Bundle::from_bytes(bytes).map_err(|e| problem(&e.into()))?;
            if bundle.manifest().organization != org {
                return Err(problem(&BundleError::Organization.into()));
            }
            check(&bundle, catalogue)
        }
    };
    match checked.built() {
        Some(snapshot) => Ok(Arc::clone(snapshot)),
        None => Err(PolicyProblem::Rejected(checked.report.to_string())),
    }
}

fn diff_words(diff: &Diff) -> String {
    if diff.is_empty() { "nothing changes\n".to_owned() } else { diff.to_string() }
}

fn problem(error: &StoreError) -> PolicyProblem {
    PolicyProblem::Rejected(crate::words(error))
}

impl Policies for LocalPolicies {
    fn snapshot(&self, org: OrgId) -> Snapshot {
        let recovery = || self.held(org).map_or_else(|| Arc::clone(&self.nobody), |held| Arc::clone(&held.recovery));
        self.store.snapshot(&org).unwrap_or_else(recovery)
    }

    fn past(&self, org: OrgId, digests: &PolicyDigests) -> Option<Snapshot> {
        let active = self.snapshot(org);
        if active.digests() == *digests {
            return Some(active);
        }
        let held = self.held(org)?;
        held.past.remembered_or(digests, || {
            let (log, runtime, wanted) = (held.log.clone(), self.runtime.clone(), *digests);
            // A thread of its own, because this is asked from within the runtime, which must not wait for itself.
            std::thread::spawn(move || runtime.block_on(rebuild(&log, &wanted))).join().ok()?
        })
    }

    fn active(&self, org: OrgId) -> Option<(u64, SignedBy)> {
        let active = self.store.active(&org)?;
        let bundle = active.bundle.as_ref()?;
        Some((bundle.manifest().version, signer(active.standing.as_ref())))
    }

    fn check(&self, org: OrgId, bundle: &[u8], electorate: &Electorate<'_>) -> Result<Candidate, PolicyProblem> {
        let bundle = self.read(org, bundle).map_err(|e| problem(&e))?;
        let predecessor = bundle.manifest().predecessor;
        let transport = bundle.to_bytes().map_err(|e| problem(&e.into()))?;
        let content = |bundle: &Bundle| {
            let mut draft = bundle.to_draft();
            draft.settings.catalogue = None;
            draft
        };
        let restores = self.before(org).is_ok_and(|before| content(&before) == content(&bundle));
        let change = Change { bundle: Some(bundle), catalogue: None };
        // Called on a blocking thread: the store's own waits are for files and for its turn.
        let prepared =
            self.runtime.block_on(self.store.prepare(org, change, self.clock.now())).map_err(|e| problem(&e))?;
        self.names_version(org, &prepared)?;
        nobody_locked_out(&prepared.next().snapshot, electorate)?;
        candidate(prepared, predecessor, (transport, restores))
    }

    fn locked_out(&self, org: OrgId, electorate: &Electorate<'_>) -> Result<(), PolicyProblem> {
        nobody_locked_out(&self.snapshot(org), electorate)
    }

    fn previous(&self, org: OrgId) -> Result<Vec<u8>, PolicyProblem> {
        let mut draft = self.before(org).map_err(|e| problem(&e))?.to_draft();
        // Tools may have changed since: it comes back with those in force, and the check says whether it stands with them.
        draft.settings.catalogue = None;
        // Where a threshold of keys must sign, this one is not enough, and the check says so: the content of the bundle
        // before is then sealed and signed offline, and proposed like any other.
        let bundle = self.seal(org, draft).map_err(|e| problem(&e))?;
        bundle.to_bytes().map_err(|e| problem(&e.into()))
    }

    fn candidate(&self, org: OrgId, bundle: &[u8]) -> Result<Snapshot, PolicyProblem> {
        let active = self.store.active(&org).ok_or_else(|| problem(&StoreError::UnknownOrganization(org)))?;
        tried(org, bundle, active.catalogue.as_deref())
    }

    fn check_catalogue(&self, org: OrgId, catalogue: Catalogue) -> Result<CatalogueCandidate, PolicyProblem> {
        let before = self.store.active(&org).and_then(|active| active.catalogue.as_ref().map(|c| c.digest()));
        // Signed before anything is tried: where the key that is here is not enough, nothing else is worth saying.
        let signed = self.signed(org, &catalogue, before);
        let mut candidate = signed.map_err(|error| PolicyProblem::Rejected(crate::words(&error)))?;
        let change = Change { bundle: None, catalogue: Some(catalogue) };
        let prepared =
            self.runtime.block_on(self.store.prepare(org, change, self.clock.now())).map_err(|e| problem(&e))?;
        candidate.prepared = Box::new(PreparedCatalogue { prepared, version: candidate.version });
        Ok(candidate)
    }

    fn catalogue_version(&self, org: OrgId) -> u64 {
        self.held(org).map_or(0, |held| held.catalogue.load(Ordering::Acquire))
    }

    fn activate(&self, org: OrgId, prepared: Box<dyn Any + Send>) -> Result<(), PolicyProblem> {
        let (prepared, catalogue) = match prepared.downcast::<PreparedCatalogue>() {
            Ok(catalogue) => (Box::new(catalogue.prepared), Some(catalogue.version)),
            Err(other) => {
                let other = other.downcast::<Prepared>();
                (other.map_err(|_| PolicyProblem::Rejected("that is no prepared activation".to_owned()))?, None)
            }
        };
        if let Some(held) = self.held(org) {
            held.past.remember(self.snapshot(org));
            if let Some(version) = catalogue {
                held.catalogue.store(version, Ordering::Release);
            }
        }
        let (store, runtime) = (Arc::clone(&self.store), self.runtime.clone());
        let done = std::thread::spawn(move || runtime.block_on(store.commit(*prepared))).join();
        done.map(drop)
            .map_err(|_| PolicyProblem::Rejected("the activation was cut off; restart the gateway".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn whoever_asks_at_once_for_a_policy_of_the_past_has_it_built_once() {
        let snapshot = kernel_of(OrgId::from_bytes([1; 16])).unwrap();
        let (past, built, start) = (Past::default(), AtomicUsize::new(0), Barrier::new(10));
        std::thread::scope(|scope| {
            for _ in 0..10 {
                scope.spawn(|| {
                    start.wait();
                    let got = past.remembered_or(&snapshot.digests(), || {
                        built.fetch_add(1, Ordering::SeqCst);
                        // As long as others need to ask too.
                        std::thread::sleep(std::time::Duration::from_millis(100));
                        Some(Arc::clone(&snapshot))
                    });
                    assert!(got.is_some_and(|got| Arc::ptr_eq(&got, &snapshot)));
                });
            }
        });
        assert_eq!(built.load(Ordering::SeqCst), 1);
        // What cannot be built is not remembered: whoever asks next tries again.
        let past = Past::default();
        assert!(past.remembered_or(&snapshot.digests(), || None).is_none());
        assert!(past.remembered_or(&snapshot.digests(), || Some(Arc::clone(&snapshot))).is_some());
    }
}
