//! Policies in force for tests: the bundle that ships, changed where a test needs another rule, checked as at activation.
//!
//! What is left out of the program's own door is signing and disk; every check of a bundle is the real one.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Condvar, Mutex, RwLock};

use countersign_gateway_engine::{Candidate, Electorate, Policies, PolicyProblem, Snapshot};
use countersign_gateway_model::{Digest, OrgId, PolicyDigests};
use countersign_ledger_entry::body::SignedBy;
use countersign_policy_bundle::{Bundle, Draft, Lineage, People, check, check_draft, locked_out, sha256};
use countersign_policy_store::{default_catalogue, default_draft};

/// Files of a bundle, by path.
pub(crate) type Files = BTreeMap<String, String>;

struct InForce {
    snapshot: Snapshot,
    bundle: Digest,
    version: u64,
}

/// The door.
#[derive(Default)]
pub(crate) struct Bench {
    in_force: RwLock<HashMap<OrgId, InForce>>,
    past: RwLock<HashMap<(OrgId, PolicyDigests), Snapshot>>,
    /// A check waits while this is true.
    held: Mutex<bool>,
    released: Condvar,
    /// How many checks have begun.
    begun: std::sync::atomic::AtomicUsize,
}

#[derive(Clone)]
struct Ready {
    snapshot: Snapshot,
    bundle: Digest,
    version: u64,
}

/// The files of the bundle that ships.
pub(crate) fn default_files() -> Files {
    let draft = default_draft().unwrap();
    draft.files.iter().map(|(path, text)| (path.to_string(), text.to_string())).collect()
}

/// The default bundle with one of its rules changed.
pub(crate) fn with_rule(rule: &str, change: impl FnOnce(&mut serde_json::Value)) -> Files {
    let mut files = default_files();
    let mut rules: serde_json::Value = serde_json::from_str(&files["rules.json"]).unwrap();
    change(&mut rules["rules"][rule]);
    files.insert("rules.json".to_owned(), serde_json::to_string(&rules).unwrap());
    files
}

impl Bench {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Puts a first bundle in force, as at a first start. Each is checked once for all tests of this process.
    pub(crate) fn install(&self, org: OrgId, files: &Files) {
        static CHECKED: Mutex<Vec<(OrgId, Files, Ready)>> = Mutex::new(Vec::new());
        let mut checked = CHECKED.lock().unwrap();
        let known = checked.iter().find(|(of, held, _)| *of == org && held == files).map(|(.., ready)| ready.clone());
        let ready = known.unwrap_or_else(|| {
            let ready = self.read(org, files.clone()).unwrap();
            checked.push((org, files.clone(), ready.clone()));
            ready
        });
        drop(checked);
        self.swap(org, ready);
    }

    /// Holds every check, or lets them go.
    pub(crate) fn hold_checks(&self, hold: bool) {
        *self.held.lock().unwrap() = hold;
        self.released.notify_all();
    }

    /// How many checks have begun.
    pub(crate) fn checks(&self) -> usize {
        self.begun.load(std::sync::atomic::Ordering::SeqCst)
    }

    fn read(&self, org: OrgId, files: Files) -> Result<Ready, PolicyProblem> {
        let wrong = |e: &dyn std::error::Error| PolicyProblem::Rejected(e.to_string());
        let (version, predecessor) = {
            let in_force = self.in_force.read().unwrap();
            in_force.get(&org).map_or((1, None), |now| (now.version + 1, Some(now.bundle)))
        };
        let raw = files.into_iter().map(|(path, text)| (path, text.into_bytes()));
        let lineage = Lineage { organization: org, version, predecessor, root_version: 1 };
        let bundle: Bundle = Draft::from_files(raw).and_then(|draft| draft.seal(lineage)).map_err(|e| wrong(&e))?;
        let checked = check(&bundle, Some(&default_catalogue().unwrap()));
        let Some(snapshot) = checked.accepted() else {
            return Err(PolicyProblem::Rejected(checked.report.to_string()));
        };
        Ok(Ready { snapshot: Arc::clone(snapshot), bundle: bundle.digest(), version })
    }

    fn swap(&self, org: OrgId, ready: Ready) {
        let Ready { snapshot, bundle, version } = ready;
        self.past.write().unwrap().insert((org, snapshot.digests()), Arc::clone(&snapshot));
        self.in_force.write().unwrap().insert(org, InForce { snapshot, bundle, version });
    }
}

impl Policies for Bench {
    fn snapshot(&self, org: OrgId) -> Snapshot {
        Arc::clone(&self.in_force.read().unwrap()[&org].snapshot)
    }

    fn past(&self, org: OrgId, digests: &PolicyDigests) -> Option<Snapshot> {
        self.past.read().unwrap().get(&(org, *digests)).cloned()
    }

    fn active(&self, org: OrgId) -> Option<(u64, SignedBy)> {
        self.in_force.read().unwrap().get(&org).map(|now| (now.version, SignedBy::Local))
    }

    fn check(&self, org: OrgId, bundle: &[u8], electorate: &Electorate<'_>) -> Result<Candidate, PolicyProblem> {
        self.begun.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        // Bounded, so that a test that fails while it holds the check ends.
        let held = self.held.lock().unwrap();
        drop(self.released.wait_timeout_while(held, std::time::Duration::from_secs(20), |held| *held).unwrap());
        let files: Files = serde_json::from_slice(bundle).map_err(|e| PolicyProblem::Rejected(e.to_string()))?;
        let diff = format!("{} files", files.len());
        let predecessor = self.in_force.read().unwrap().get(&org).map(|now| now.bundle);
        let ready = self.read(org, files)?;
        let Electorate { entities, ref persons, now, four_eyes } = *electorate;
        let found = locked_out(&ready.snapshot, &People { store: entities, persons, now, four_eyes }).unwrap();
        if !found.is_empty() {
            return Err(PolicyProblem::LockedOut(format!("{found:?}")));
        }
        Ok(Candidate {
            digest: ready.bundle,
            predecessor,
            version: ready.version,
            root_version: 1,
            signed_by: SignedBy::Local,
            diff_digest: sha256(diff.as_bytes()),
            diff,
            weakens: false,
            blobs: Vec::new(),
            prepared: Box::new(ready),
        })
    }

    fn candidate(&self, org: OrgId, bundle: &[u8]) -> Result<Snapshot, PolicyProblem> {
        // Each is built once for all tests of this process.
        static BUILT: Mutex<Vec<(OrgId, Files, Snapshot)>> = Mutex::new(Vec::new());
        let files: Files = serde_json::from_slice(bundle).map_err(|e| PolicyProblem::Rejected(e.to_string()))?;
        let mut built = BUILT.lock().unwrap();
        if let Some((.., known)) = built.iter().find(|(of, held, _)| *of == org && *held == files) {
            return Ok(Arc::clone(known));
        }
        let raw = files.clone().into_iter().map(|(path, text)| (path, text.into_bytes()));
        let draft = Draft::from_files(raw).map_err(|e| PolicyProblem::Rejected(e.to_string()))?;
        let checked = check_draft(&draft, org, Some(&default_catalogue().unwrap()));
        let Some(snapshot) = checked.built() else {
            return Err(PolicyProblem::Rejected(checked.report.to_string()));
        };
        built.push((org, files, Arc::clone(snapshot)));
        Ok(Arc::clone(snapshot))
    }

    fn activate(&self, org: OrgId, prepared: Box<dyn Any + Send>) -> Result<(), PolicyProblem> {
        let ready =
            prepared.downcast::<Ready>().map_err(|_| PolicyProblem::Rejected("not prepared here".to_owned()))?;
        self.swap(org, *ready);
        Ok(())
    }
}
