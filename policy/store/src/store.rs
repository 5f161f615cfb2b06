//! The store: one active policy per organization, and the two phases in which it changes.
//!
//! Readers take an `Arc` without a lock and keep it for their whole question; a change is one pointer swap.
//! Read next: `disk` for what outlives the process.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use countersign_policy_bundle::{
    Bundle, BundleError, Checked, Diff, Digest, Draft, Lineage, OrgId, Proof, Report, RootChain, RootError, SignedRoot,
    Standing, Timestamp, check, check_draft, diff,
};
use countersign_policy_decide::catalogue::{Catalogue, CatalogueError};
use countersign_policy_decide::{BuildError, PolicyParts, PolicySnapshot};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tracing::{error, info, warn};

use crate::disk::{OrgFolder, Pointer};
use crate::folder::FolderError;

/// Why policy was not loaded or not changed. Whatever it says, what was in force still is.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No such organization here.
    #[error("organization `{0}` is not open in this store; open or create it first")]
    UnknownOrganization(OrgId),
    /// It exists.
    #[error("organization `{0}` exists already; open it instead of creating it")]
    Exists(OrgId),
    /// The disk.
    #[error(transparent)]
    Disk(#[from] FolderError),
    /// Not a bundle, or signatures that do not hold.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// Root documents that do not hold.
    #[error(transparent)]
    Root(#[from] RootError),
    /// A catalogue that does not read.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// The kernel alone could not be made ready: the program is damaged.
    #[error("the kernel policy cannot be made ready; reinstall the program")]
    Kernel(#[source] BuildError),
    /// The bundle does not follow the active one: replayed, skipped or forked.
    #[error("the bundle is version {version} after `{predecessor}`, but {wanted}; seal and sign it again")]
    Lineage {
        /// Its version.
        version: u64,
        /// The predecessor it names.
        predecessor: String,
        /// What would follow.
        wanted: String,
    },
    /// The bundle in force replaced none.
    #[error("there is nothing to go back to: no bundle was in force before this one")]
    NoneBefore,
    /// Neither a bundle nor a catalogue was given.
    #[error("nothing is to change; give a bundle or a catalogue")]
    Nothing,
    /// The active bundle cannot be read, so its version is not known here.
    #[error("bundle `{0}` is active but cannot be read; restore it, or seal its successor with an explicit version")]
    VersionUnknown(Digest),
    /// Another tool catalogue is in force than the one that the bundle names.
    #[error(
        "the bundle names tool catalogue `{named}`, and {in_force} is in force: check it with that one and name it, or leave \
         `catalogue` out of `bundle.json`"
    )]
    OtherCatalogue {
        /// The one that it was written for.
        named: Digest,
        /// What is.
        in_force: String,
    },
    /// Past its end date.
    #[error("the bundle was not to be activated after {0}; seal it with a later end date")]
    Expired(Timestamp),
    /// A check or a test of the bundle fails.
    #[error("the bundle does not pass its checks:\n{0}")]
    Rejected(Box<Report>),
    /// What the disk holds under a digest has another one.
    #[error("`{wanted}` is damaged on disk: it has digest `{got}`; restore it from a copy")]
    Damaged {
        /// The name.
        wanted: Digest,
        /// What the bytes are.
        got: Digest,
    },
    /// A worker of this process was cancelled.
    #[error("the work was interrupted; try again")]
    Interrupted,
}

/// What is in force for one organization. Immutable.
#[derive(Debug)]
pub struct Active {
    /// What decides. Names its four digests.
    pub snapshot: Arc<PolicySnapshot>,
    /// The bundle; none while only the kernel holds.
    pub bundle: Option<Arc<Bundle>>,
    /// Who signed it.
    pub standing: Option<Standing>,
    /// The catalogue, if there is one.
    pub catalogue: Option<Arc<Catalogue>>,
    /// The digest of the last activated bundle, even where that bundle could not be loaded: the next one names it.
    pub head: Option<Digest>,
}

/// Which bundle and catalogue to load when an organization is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastGood {
    /// What the ledger says: the last activation that was committed. The gateway's way.
    Ledgered {
        /// The active bundle.
        bundle: Digest,
        /// The catalogue in force.
        catalogue: Option<Digest>,
    },
    /// The ledger says that none was ever activated.
    Nothing,
    /// What the disk remembers: for tools that have no ledger at hand.
    Remembered,
}

/// What is to change. At least one of them.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// The next bundle; none keeps the one in force.
    pub bundle: Option<Bundle>,
    /// The next catalogue; none keeps the one in force.
    pub catalogue: Option<Catalogue>,
}

/// How opening an organization went.
#[derive(Debug)]
pub struct Opened {
    /// What is in force now.
    pub active: Arc<Active>,
    /// Why the bundle that should be in force is not: then the kernel alone decides (read, stop, recover).
    pub trouble: Option<StoreError>,
}

/// Everything about a change is done but the change. Holds the organization's turn: no other change can begin until it
/// is committed or dropped. Dropping it changes nothing.
#[derive(Debug)]
pub struct Prepared {
    org: OrgId,
    next: Arc<Active>,
    report: Report,
    diff: Diff,
    turn: OwnedMutexGuard<()>,
}

impl Prepared {
    /// What will be in force.
    pub fn next(&self) -> &Arc<Active> {
        &self.next
    }

    /// What the checks found (warnings only).
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// What changes, in words.
    pub fn diff(&self) -> &Diff {
        &self.diff
    }
}

/// What a commit did.
#[derive(Debug)]
pub struct Activation {
    /// What is in force now.
    pub active: Arc<Active>,
    /// Whether the disk remembers it as last good. The ledger decides at the next start either way.
    pub remembered: bool,
}

#[derive(Debug)]
struct Slot {
    active: ArcSwap<Active>,
    chain: ArcSwap<RootChain>,
    folder: OrgFolder,
    turn: Arc<Mutex<()>>,
}

/// Proves invariants of a bundle, where there is a solver. It is asked on a thread that may wait.
pub trait Prover: std::fmt::Debug + Send + Sync {
    /// What it says of the invariants in `bundle`, by their ids, of what decides from `now` on.
    fn prove(&self, snapshot: &PolicySnapshot, bundle: &Draft, now: Timestamp) -> Vec<(String, Proof)>;
}

/// A checked bundle with what a prover says of its invariants.
pub fn proved(checked: Checked, bundle: &Draft, prover: Option<&dyn Prover>, now: Timestamp) -> Checked {
    match (prover, checked.built()) {
        (Some(prover), Some(snapshot)) if !checked.report.invariants.is_empty() => {
            let said = prover.prove(snapshot, bundle, now);
            checked.with_proofs(said)
        }
        _ => checked,
    }
}

/// Policy of every organization that is open. Cheap to share in an `Arc`.
#[derive(Debug)]
pub struct Store {
    prover: Option<Arc<dyn Prover>>,
    folder: PathBuf,
    slots: ArcSwap<HashMap<OrgId, Arc<Slot>>>,
    opening: Mutex<()>,
}

impl Store {
    /// A store over a folder. Nothing is read until an organization is opened or created.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { prover: None, folder: folder.into(), slots: ArcSwap::default(), opening: Mutex::default() }
    }

    /// With somebody who proves invariants; without, none is proved.
    #[must_use]
    pub fn with_prover(self, prover: Option<Arc<dyn Prover>>) -> Self {
        Self { prover, ..self }
    }

    /// Begins an organization with version 1 of its root document; the caller puts its digest into genesis. Until a
    /// first bundle is committed the kernel alone decides. May be repeated until then, as after a crash before genesis.
    pub async fn create(&self, root: SignedRoot) -> Result<Arc<Active>, StoreError> {
        let _alone = self.opening.lock().await;
        let chain = RootChain::first(root)?;
        let org = chain.organization();
        let folder = OrgFolder::new(&self.folder, org);
        if self.slots.load().contains_key(&org) {
            return Err(StoreError::Exists(org));
        }
        let (active, chain) = blocking({
            let folder = folder.clone();
            move || {
                if folder.read_pointer()?.is_some() {
                    return Err(StoreError::Exists(org));
                }
                for document in chain.documents() {
                    folder.write_root(document.root.version, &document.to_bytes()?)?;
                }
                Ok((kernel_alone(org, None, None)?, chain))
            }
        })
        .await?;
        Ok(self.insert(org, active, chain, folder))
    }

    /// Opens an organization: root documents against the digest in genesis, then the bundle that should be in force. If
    /// that one cannot be loaded, no older one takes its place: the kernel alone decides and `trouble` says why.
    pub async fn open(&self, org: OrgId, genesis: Digest, last_good: LastGood) -> Result<Opened, StoreError> {
        let _alone = self.opening.lock().await;
        let folder = OrgFolder::new(&self.folder, org);
        let (active, chain, trouble) = blocking({
            let folder = folder.clone();
            move || {
                let documents = folder.read_roots()?;
                let documents: Vec<SignedRoot> =
                    documents.iter().map(|bytes| SignedRoot::from_bytes(bytes)).collect::<Result<_, _>>()?;
                let chain = RootChain::verify(documents, &genesis)?;
                if chain.organization() != org {
                    return Err(StoreError::Bundle(BundleError::Organization));
                }
                let pointer = match last_good {
                    LastGood::Ledgered { bundle, catalogue } => Some(Pointer { bundle, catalogue }),
                    LastGood::Nothing => None,
                    LastGood::Remembered => folder.read_pointer()?,
                };
                let Some(pointer) = pointer else { return Ok((kernel_alone(org, None, None)?, chain, None)) };
                match load(&folder, &chain, &pointer) {
                    Ok(active) => {
                        if folder.read_pointer()? != Some(pointer) {
                            // A crash came between the ledger's commit and the pointer; the ledger is right.
                            folder.write_pointer(&pointer)?;
                        }
                        Ok((active, chain, None))
                    }
                    Err(trouble) => {
                        error!(%org, bundle = %pointer.bundle, %trouble, "the active bundle cannot be loaded");
                        // The catalogue is kept if it can be: the next bundle names its tools.
                        let catalogue = pointer.catalogue.and_then(|digest| read_catalogue(&folder, &digest).ok());
                        let alone = kernel_alone(org, Some(pointer.bundle), catalogue.map(Arc::new))?;
                        Ok((alone, chain, Some(trouble)))
                    }
                }
            }
        })
        .await?;
        Ok(Opened { active: self.insert(org, active, chain, folder), trouble })
    }

    fn insert(&self, org: OrgId, active: Active, chain: RootChain, folder: OrgFolder) -> Arc<Active> {
        let active = Arc::new(active);
        let slot = Arc::new(Slot {
            active: ArcSwap::new(Arc::clone(&active)),
            chain: ArcSwap::from_pointee(chain),
            folder,
            turn: Arc::default(),
        });
        self.slots.rcu(|slots| {
            let mut slots = HashMap::clone(slots);
            slots.insert(org, Arc::clone(&slot));
            slots
        });
        active
    }

    /// What is in force. Never blocks; hold the `Arc` for a whole question.
    pub fn active(&self, org: &OrgId) -> Option<Arc<Active>> {
        self.slots.load().get(org).map(|slot| slot.active.load_full())
    }

    /// What decides. Never blocks.
    pub fn snapshot(&self, org: &OrgId) -> Option<Arc<PolicySnapshot>> {
        self.slots.load().get(org).map(|slot| Arc::clone(&slot.active.load().snapshot))
    }

    /// The root documents in force.
    pub fn root_chain(&self, org: &OrgId) -> Option<Arc<RootChain>> {
        self.slots.load().get(org).map(|slot| slot.chain.load_full())
    }

    /// The organizations that are open.
    pub fn organizations(&self) -> Vec<OrgId> {
        self.slots.load().keys().copied().collect()
    }

    fn slot(&self, org: OrgId) -> Result<Arc<Slot>, StoreError> {
        self.slots.load().get(&org).cloned().ok_or(StoreError::UnknownOrganization(org))
    }

    /// Where the next bundle stands: after the one in force, under the current root document. What a draft is sealed
    /// with.
    pub fn next_lineage(&self, org: OrgId) -> Result<Lineage, StoreError> {
        let slot = self.slot(org)?;
        let active = slot.active.load_full();
        let version = match (&active.bundle, active.head) {
            (Some(bundle), _) => bundle.manifest().version.saturating_add(1),
            (None, None) => 1,
            // The version stands in the bundle that could not be loaded; a person who has it says it.
            (None, Some(head)) => return Err(StoreError::VersionUnknown(head)),
        };
        let root_version = slot.chain.load().current().version;
        Ok(Lineage { organization: org, version, predecessor: active.head, root_version })
    }

    /// Checks a draft as an activation would, and says what it changes. Writes nothing, changes nothing.
    pub async fn try_out(&self, org: OrgId, draft: Draft) -> Result<(Checked, Diff), StoreError> {
        let active = self.slot(org)?.active.load_full();
        blocking(move || {
            let before = active.bundle.as_ref().map(|b| b.to_draft()).unwrap_or_default();
            let difference = diff(&before, &draft);
            Ok((check_draft(&draft, org, active.catalogue.as_deref()), difference))
        })
        .await
    }

    /// First phase: signatures, organization, lineage, end date, every check and the bundle's own tests; then the bytes
    /// are made durable under their digest. Waits its turn behind another change of the same organization.
    pub async fn prepare(&self, org: OrgId, change: Change, now: Timestamp) -> Result<Prepared, StoreError> {
        let slot = self.slot(org)?;
        let turn = Arc::clone(&slot.turn).lock_owned().await;
        let prover = self.prover.clone();
        let (next, report, diff) = blocking(move || prepare(org, &slot, change, prover.as_deref(), now)).await?;
        Ok(Prepared { org, next: Arc::new(next), report, diff, turn })
    }

    /// Second phase, after the ledger entry is durable: swaps. Questions under way keep the policy they began with.
    pub async fn commit(&self, prepared: Prepared) -> Activation {
        let Prepared { org, next, turn, .. } = prepared;
        let Ok(slot) = self.slot(org) else {
            // A slot is never removed while the process lives; were it, the ledger still governs the next start.
            error!(%org, "an activation was committed for an organization that is not open");
            return Activation { active: next, remembered: false };
        };
        // Point of no return for readers: from here on questions are asked of the new policy. Crash before: the ledger
        // names the new bundle, whose bytes are durable, and the next start loads it.
        slot.active.store(Arc::clone(&next));
        let digests = next.snapshot.digests();
        info!(%org, bundle = %digests.bundle, catalogue = %digests.catalogue, "policy activated");
        let pointer = next.head.map(|bundle| Pointer {
            bundle,
            catalogue: next.catalogue.as_ref().map(|_| next.snapshot.digests().catalogue),
        });
        let remembered = match pointer {
            None => Ok(()),
            // Crash before this: the disk remembers the bundle before, and the ledger corrects it at the next start.
            Some(pointer) => blocking(move || Ok(slot.folder.write_pointer(&pointer)?)).await,
        };
        if let Err(trouble) = &remembered {
            warn!(%org, %trouble, "the active bundle is in force but not remembered on disk");
        }
        drop(turn);
        Activation { active: next, remembered: remembered.is_ok() }
    }

    /// Verifies the next root document and keeps it. The active bundle stays; the next one is signed under the new
    /// root.
    pub async fn add_root(&self, org: OrgId, next: SignedRoot) -> Result<Arc<RootChain>, StoreError> {
        let slot = self.slot(org)?;
        let _turn = Arc::clone(&slot.turn).lock_owned().await;
        blocking(move || {
            let mut chain = RootChain::clone(&slot.chain.load());
            let (version, bytes) = (next.root.version, next.to_bytes()?);
            chain.extend(next)?;
            // Crash before this: the old root stands. After it: the next start reads and verifies the new one.
            slot.folder.write_root(version, &bytes)?;
            let chain = Arc::new(chain);
            slot.chain.store(Arc::clone(&chain));
            Ok(chain)
        })
        .await
    }

    /// A bundle that was once prepared here, by digest; its signatures are not asked again.
    pub async fn bundle(&self, org: OrgId, digest: Digest) -> Result<Bundle, StoreError> {
        let slot = self.slot(org)?;
        blocking(move || read_bundle(&slot.folder, &digest)).await
    }

    /// A catalogue that was once prepared here, by digest.
    pub async fn catalogue(&self, org: OrgId, digest: Digest) -> Result<Catalogue, StoreError> {
        let slot = self.slot(org)?;
        blocking(move || read_catalogue(&slot.folder, &digest)).await
    }

    /// The snapshot that a verdict of the past was made with, built again from kept bytes: for replay. The caller
    /// compares all four digests, since kernel and base schema are this program's.
    pub async fn past(
        &self,
        org: OrgId,
        bundle: Option<Digest>,
        catalogue: Option<Digest>,
    ) -> Result<Arc<PolicySnapshot>, StoreError> {
        let slot = self.slot(org)?;
        blocking(move || {
            let catalogue = catalogue.map(|digest| read_catalogue(&slot.folder, &digest)).transpose()?;
            let Some(bundle) = bundle else {
                return Ok(kernel_alone(org, None, catalogue.map(Arc::new))?.snapshot);
            };
            let bundle = read_bundle(&slot.folder, &bundle)?;
            let checked = check(&bundle, catalogue.as_ref());
            checked.built().cloned().ok_or_else(|| StoreError::Rejected(Box::new(checked.report)))
        })
        .await
    }

    /// Where everything is kept.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// Files, signatures and Cedar take their time: never on a thread that serves requests.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| StoreError::Interrupted)?
}

/// No bundle: reading, stopping, recovering.
fn kernel_alone(org: OrgId, head: Option<Digest>, catalogue: Option<Arc<Catalogue>>) -> Result<Active, StoreError> {
    let parts = PolicyParts { catalogue: catalogue.as_deref().cloned(), ..PolicyParts::recovery(org) };
    let snapshot = Arc::new(PolicySnapshot::build(parts).map_err(StoreError::Kernel)?);
    Ok(Active { snapshot, bundle: None, standing: None, catalogue, head })
}

fn read_bundle(folder: &OrgFolder, digest: &Digest) -> Result<Bundle, StoreError> {
    let bundle = Bundle::from_bytes(&folder.read_bundle(digest)?)?;
    if bundle.digest() == *digest {
        Ok(bundle)
    } else {
        Err(StoreError::Damaged { wanted: *digest, got: bundle.digest() })
    }
}

fn read_catalogue(folder: &OrgFolder, digest: &Digest) -> Result<Catalogue, StoreError> {
    let catalogue = Catalogue::parse(&folder.read_catalogue(digest)?)?;
    if catalogue.digest() == *digest {
        Ok(catalogue)
    } else {
        Err(StoreError::Damaged { wanted: *digest, got: catalogue.digest() })
    }
}

/// What was activated before. Its tests passed then; a program that reads them differently must not lose its policy.
fn load(folder: &OrgFolder, chain: &RootChain, pointer: &Pointer) -> Result<Active, StoreError> {
    let bundle = read_bundle(folder, &pointer.bundle)?;
    let standing = bundle.verify_active(chain)?;
    let catalogue = pointer.catalogue.map(|digest| read_catalogue(folder, &digest)).transpose()?;
    let checked = check(&bundle, catalogue.as_ref());
    let Some(snapshot) = checked.built().cloned() else {
        return Err(StoreError::Rejected(Box::new(checked.report)));
    };
    Ok(Active {
        snapshot,
        head: Some(bundle.digest()),
        bundle: Some(Arc::new(bundle)),
        standing: Some(standing),
        catalogue: catalogue.map(Arc::new),
    })
}

fn prepare(
    org: OrgId,
    slot: &Slot,
    change: Change,
    prover: Option<&dyn Prover>,
    now: Timestamp,
) -> Result<(Active, Report, Diff), StoreError> {
    let active = slot.active.load_full();
    if change.bundle.is_none() && change.catalogue.is_none() {
        return Err(StoreError::Nothing);
    }
    let catalogue = change.catalogue.map(Arc::new).or_else(|| active.catalogue.clone());
    let tools_alone = change.bundle.is_none();
    let (bundle, standing) = match change.bundle {
        Some(bundle) => {
            let standing = bundle.verify_candidate(&slot.chain.load())?;
            follows(&bundle, &active)?;
            if let Some(end) = bundle.manifest().expires.filter(|end| now > *end) {
                return Err(StoreError::Expired(end));
            }
            let digest = catalogue.as_ref().map(|catalogue| catalogue.digest());
            if let Some(named) = bundle.manifest().catalogue.filter(|named| Some(named.digest) != digest) {
                let in_force = digest.map_or_else(|| "none".to_owned(), |digest| format!("`{digest}`"));
                return Err(StoreError::OtherCatalogue { named: named.digest, in_force });
            }
            (Some(Arc::new(bundle)), Some(standing))
        }
        None => (active.bundle.clone(), active.standing.clone()),
    };
    let Some(bundle) = bundle else {
        let next = kernel_alone(org, active.head, catalogue)?;
        keep(&slot.folder, &next)?;
        return Ok((next, Report::default(), Diff::default()));
    };
    let draft = bundle.to_draft();
    let checked = proved(check(&bundle, catalogue.as_deref()), &draft, prover, now);
    let accepted = if tools_alone { checked.stands() } else { checked.accepted() };
    let Some(snapshot) = accepted.cloned() else {
        return Err(StoreError::Rejected(Box::new(checked.report)));
    };
    let before = active.bundle.as_ref().map(|b| b.to_draft()).unwrap_or_default();
    let difference = diff(&before, &draft);
    let next = Active { snapshot, head: Some(bundle.digest()), bundle: Some(bundle), standing, catalogue };
    keep(&slot.folder, &next)?;
    Ok((next, checked.report, difference))
}

/// Makes the bytes durable before the ledger may name them. A change that is dropped leaves files that nothing names.
fn keep(folder: &OrgFolder, next: &Active) -> Result<(), StoreError> {
    if let Some(bundle) = &next.bundle {
        folder.write_bundle(&bundle.digest(), &bundle.to_bytes()?)?;
    }
    if let Some(catalogue) = &next.catalogue {
        folder.write_catalogue(&catalogue.digest(), &catalogue.canonical())?;
    }
    Ok(())
}

/// One version after another, each naming the one before: an older bundle, however well signed, does not come back.
fn follows(bundle: &Bundle, active: &Active) -> Result<(), StoreError> {
    let manifest = bundle.manifest();
    let wanted = active.bundle.as_ref().map(|b| b.manifest().version.saturating_add(1));
    let in_order = wanted.map_or(active.head.is_some() || manifest.version == 1, |wanted| manifest.version == wanted);
    if in_order && manifest.predecessor == active.head {
        return Ok(());
    }
    let name = |digest: Option<Digest>| digest.map_or_else(|| "nothing".to_owned(), |d| d.to_string());
    let next = match (wanted, active.head) {
        (Some(version), head) => format!("version {version} after `{}` is next", name(head)),
        (None, Some(head)) => format!("a bundle after `{head}` is next"),
        (None, None) => "version 1 is the first".to_owned(),
    };
    Err(StoreError::Lineage { version: manifest.version, predecessor: name(manifest.predecessor), wanted: next })
}

#[cfg(test)]
mod tests;
