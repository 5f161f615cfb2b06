//! Policies in force for tests: the bundle that ships, changed where a test needs another rule, checked as at activation.
//!
//! What is left out of the program's own door is signing and disk; every check of a bundle is the real one.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Condvar, Mutex, RwLock};

use countersign_gateway_engine::{
    Candidate, Catalogue, CatalogueCandidate, Electorate, InvariantOutcome, Policies, PolicyProblem, Snapshot,
};
use countersign_gateway_model::{Digest, Name, OrgId, PolicyDigests, Timestamp};
use countersign_ledger_entry::Blob;
use countersign_ledger_entry::body::SignedBy;
use countersign_policy_bundle::{
    Bundle, Draft, Lineage, People, RuleId, Severity, Shadowed, check, check_draft, locked_out, sha256,
};
use countersign_policy_store::{default_catalogue, default_draft};

/// Files of a bundle, by path.
pub(crate) type Files = BTreeMap<String, String>;

#[derive(Clone)]
struct InForce {
    ready: Ready,
    /// What its bundle replaced.
    before: Option<Bundle>,
}

/// The door.
#[derive(Default)]
pub(crate) struct Bench {
    in_force: RwLock<HashMap<OrgId, InForce>>,
    past: RwLock<HashMap<(OrgId, PolicyDigests), Snapshot>>,
    /// A check waits while this is true.
    held: Mutex<bool>,
    released: Condvar,
    /// The next activation is cut off after its entry is durable.
    cut: std::sync::atomic::AtomicBool,
    /// What it would have put in force.
    lost: Mutex<Option<Ready>>,
    /// How many checks have begun.
    begun: std::sync::atomic::AtomicUsize,
    /// Whoever asks for a policy of the past waits while this is true.
    past_held: Mutex<bool>,
    past_released: Condvar,
    /// How often one was asked for.
    past_asked: tokio::sync::watch::Sender<usize>,
    /// What comes into force once what is in force was looked up so often.
    coming: Mutex<Option<(usize, OrgId, Ready)>>,
}

/// A bundle and a catalogue that go together.
#[derive(Clone)]
struct Ready {
    snapshot: Snapshot,
    bundle: Bundle,
    catalogue: Catalogue,
    catalogue_version: u64,
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

    /// Puts a first bundle in force, as at a first start.
    pub(crate) fn install(&self, org: OrgId, files: &Files) {
        self.swap(org, Self::loaded(self.seal(org, files.clone()).unwrap(), self.catalogue(org)));
    }

    /// Puts a bundle in force in the middle of something: once what is in force was looked up `lookups` more times.
    pub(crate) fn install_after(&self, lookups: usize, org: OrgId, files: &Files) {
        let ready = Self::ready(self.seal(org, files.clone()).unwrap(), self.catalogue(org)).unwrap();
        *self.coming.lock().unwrap() = Some((lookups, org, ready));
    }

    /// Puts a bundle in force under which these workflows are in shadow until an instant.
    pub(crate) fn install_shadowed(&self, org: OrgId, files: &Files, workflows: &[&str], until: Timestamp) {
        let lineage = match self.in_force.read().unwrap().get(&org) {
            Some(now) => now.ready.bundle.next_lineage(),
            None => Lineage { organization: org, version: 1, predecessor: None, root_version: 1 },
        };
        let raw = files.clone().into_iter().map(|(path, text)| (path, text.into_bytes()));
        let mut draft = Draft::from_files(raw).unwrap();
        let shadowed = |id: &&str| Shadowed { id: Name::new(id).unwrap(), until };
        draft.settings.shadow.workflows = workflows.iter().map(shadowed).collect();
        self.swap(org, Self::ready(draft.seal(lineage).unwrap(), self.catalogue(org)).unwrap());
    }

    /// Holds every check, or lets them go.
    pub(crate) fn hold_checks(&self, hold: bool) {
        *self.held.lock().unwrap() = hold;
        self.released.notify_all();
    }

    /// Cuts the next activation off between its entry and the swap.
    pub(crate) fn cut_off(&self) {
        self.cut.store(true, std::sync::atomic::Ordering::SeqCst);
    }

    /// What a next start does: what the newest activation on record names is in force.
    pub(crate) fn load(&self, org: OrgId) {
        if let Some(ready) = self.lost.lock().unwrap().take() {
            self.swap(org, ready);
        }
    }

    /// How many checks have begun.
    pub(crate) fn checks(&self) -> usize {
        self.begun.load(std::sync::atomic::Ordering::SeqCst)
    }

    /// Holds whoever asks for a policy of the past, or lets them go.
    pub(crate) fn hold_past(&self, hold: bool) {
        *self.past_held.lock().unwrap() = hold;
        self.past_released.notify_all();
    }

    /// How often a policy of the past was asked for, for those who wait for it.
    pub(crate) fn past_asked(&self) -> tokio::sync::watch::Receiver<usize> {
        self.past_asked.subscribe()
    }

    fn seal(&self, org: OrgId, files: Files) -> Result<Bundle, PolicyProblem> {
        let lineage = match self.in_force.read().unwrap().get(&org) {
            Some(now) => now.ready.bundle.next_lineage(),
            None => Lineage { organization: org, version: 1, predecessor: None, root_version: 1 },
        };
        let raw = files.into_iter().map(|(path, text)| (path, text.into_bytes()));
        Draft::from_files(raw).and_then(|draft| draft.seal(lineage)).map_err(|e| rejected(&e))
    }

    /// Every check of a bundle with a catalogue. Each pair is checked once for all tests of this process.
    fn ready(bundle: Bundle, (catalogue, catalogue_version): (Catalogue, u64)) -> Result<Ready, PolicyProblem> {
        static CHECKED: Mutex<BTreeMap<(Digest, Digest), Snapshot>> = Mutex::new(BTreeMap::new());
        let mut known = CHECKED.lock().unwrap();
        let pair = (bundle.digest(), catalogue.digest());
        if let Some(snapshot) = known.get(&pair) {
            return Ok(Ready { snapshot: Arc::clone(snapshot), bundle, catalogue, catalogue_version });
        }
        let checked = check(&bundle, Some(&catalogue));
        let Some(snapshot) = checked.accepted() else {
            return Err(PolicyProblem::Rejected(checked.report.to_string()));
        };
        known.insert(pair, Arc::clone(snapshot));
        Ok(Ready { snapshot: Arc::clone(snapshot), bundle, catalogue, catalogue_version })
    }

    /// What a start does with a bundle that was put in force before: it is loaded, though it may say what no bundle of today
    /// may, as nothing of this program answers to it.
    fn loaded(bundle: Bundle, (catalogue, catalogue_version): (Catalogue, u64)) -> Ready {
        if let Ok(ready) = Self::ready(bundle.clone(), (catalogue.clone(), catalogue_version)) {
            return ready;
        }
        let checked = check(&bundle, Some(&catalogue));
        let errors = checked.report.findings.iter().filter(|finding| finding.severity == Severity::Error);
        let since = [RuleId::Unsupported, RuleId::Mask];
        let others: Vec<String> =
            errors.filter(|finding| !since.contains(&finding.rule)).map(ToString::to_string).collect();
        assert!(others.is_empty(), "{others:?}");
        Ready { snapshot: Arc::clone(checked.built().unwrap()), bundle, catalogue, catalogue_version }
    }

    /// The catalogue in force and its version; the one that ships where there is none yet.
    fn catalogue(&self, org: OrgId) -> (Catalogue, u64) {
        let now = self.in_force.read().unwrap();
        let held = now.get(&org).map(|now| (now.ready.catalogue.clone(), now.ready.catalogue_version));
        held.unwrap_or_else(|| (default_catalogue().unwrap(), 1))
    }

    /// Files, which are sealed as what comes next, or a sealed bundle, which must be that.
    fn read(&self, org: OrgId, bundle: &[u8]) -> Result<Ready, PolicyProblem> {
        let bundle = match serde_json::from_slice::<Files>(bundle) {
            Ok(files) => self.seal(org, files)?,
            Err(_) => Bundle::from_bytes(bundle).map_err(|e| rejected(&e))?,
        };
        if let Some(now) = self.in_force.read().unwrap().get(&org) {
            bundle.follows(&now.ready.bundle).map_err(|e| rejected(&e))?;
        }
        Self::ready(bundle, self.catalogue(org))
    }

    fn swap(&self, org: OrgId, ready: Ready) {
        self.past.write().unwrap().insert((org, ready.snapshot.digests()), Arc::clone(&ready.snapshot));
        let mut in_force = self.in_force.write().unwrap();
        let before = in_force.remove(&org).and_then(|now| {
            let same = now.ready.bundle.digest() == ready.bundle.digest();
            if same { now.before } else { Some(now.ready.bundle) }
        });
        in_force.insert(org, InForce { ready, before });
    }
}

fn nobody_locked_out(snapshot: &Snapshot, electorate: &Electorate<'_>) -> Result<(), PolicyProblem> {
    let Electorate { entities, ref persons, ref second_factors, now, four_eyes } = *electorate;
    let found = locked_out(snapshot, &People { store: entities, persons, second_factors, now, four_eyes }).unwrap();
    if found.is_empty() { Ok(()) } else { Err(PolicyProblem::LockedOut(format!("{found:?}"))) }
}

fn rejected(error: &dyn std::error::Error) -> PolicyProblem {
    PolicyProblem::Rejected(error.to_string())
}

impl Policies for Bench {
    fn snapshot(&self, org: OrgId) -> Snapshot {
        let mut coming = self.coming.lock().unwrap();
        match coming.take() {
            Some((0, of, ready)) => self.swap(of, ready),
            Some((lookups, of, ready)) => *coming = Some((lookups - 1, of, ready)),
            None => {}
        }
        Arc::clone(&self.in_force.read().unwrap()[&org].ready.snapshot)
    }

    fn past(&self, org: OrgId, digests: &PolicyDigests) -> Option<Snapshot> {
        self.past_asked.send_modify(|asked| *asked += 1);
        // Bounded, so that a test that fails while it holds it ends.
        let held = self.past_held.lock().unwrap();
        drop(self.past_released.wait_timeout_while(held, std::time::Duration::from_secs(20), |held| *held).unwrap());
        self.past.read().unwrap().get(&(org, *digests)).cloned()
    }

    fn active(&self, org: OrgId) -> Option<(u64, SignedBy)> {
        self.in_force.read().unwrap().get(&org).map(|now| (now.ready.bundle.manifest().version, SignedBy::Local))
    }

    fn check(&self, org: OrgId, bundle: &[u8], electorate: &Electorate<'_>) -> Result<Candidate, PolicyProblem> {
        self.begun.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        // Bounded, so that a test that fails while it holds the check ends.
        let held = self.held.lock().unwrap();
        drop(self.released.wait_timeout_while(held, std::time::Duration::from_secs(20), |held| *held).unwrap());
        let ready = self.read(org, bundle)?;
        let (predecessor, restores) = match self.in_force.read().unwrap().get(&org) {
            Some(now) => {
                let before = now.before.as_ref();
                (Some(now.ready.bundle.digest()), before.is_some_and(|before| before.files() == ready.bundle.files()))
            }
            None => (None, false),
        };
        let diff = format!("{} files", ready.bundle.files().len());
        let tried = ready.bundle.files().iter().any(|(path, _)| path.as_str().starts_with("invariants/"));
        // Without a solver none is proved.
        let proofs = if tried {
            InvariantOutcome::of(&check(&ready.bundle, Some(&ready.catalogue)).report.invariants)
        } else {
            Vec::new()
        };
        nobody_locked_out(&ready.snapshot, electorate)?;
        Ok(Candidate {
            digest: ready.bundle.digest(),
            predecessor,
            version: ready.bundle.manifest().version,
            root_version: 1,
            signed_by: SignedBy::Local,
            diff_digest: sha256(diff.as_bytes()),
            diff,
            weakens: false,
            restores,
            transport: ready.bundle.to_bytes().unwrap(),
            blobs: Vec::new(),
            proofs,
            counters: ready.snapshot.counters().clone(),
            prepared: Box::new(ready),
        })
    }

    fn candidate(&self, org: OrgId, bundle: &[u8]) -> Result<Snapshot, PolicyProblem> {
        // Each is built once for all tests of this process.
        static BUILT: Mutex<Vec<(OrgId, Files, Snapshot)>> = Mutex::new(Vec::new());
        let Ok(files) = serde_json::from_slice::<Files>(bundle) else {
            return Ok(
                Self::ready(Bundle::from_bytes(bundle).map_err(|e| rejected(&e))?, self.catalogue(org))?.snapshot
            );
        };
        let mut built = BUILT.lock().unwrap();
        if let Some((.., known)) = built.iter().find(|(of, held, _)| *of == org && *held == files) {
            return Ok(Arc::clone(known));
        }
        let raw = files.clone().into_iter().map(|(path, text)| (path, text.into_bytes()));
        let draft = Draft::from_files(raw).map_err(|e| PolicyProblem::Rejected(e.to_string()))?;
        let checked = check_draft(&draft, org, Some(&self.catalogue(org).0));
        let Some(snapshot) = checked.built() else {
            return Err(PolicyProblem::Rejected(checked.report.to_string()));
        };
        built.push((org, files, Arc::clone(snapshot)));
        Ok(Arc::clone(snapshot))
    }

    fn locked_out(&self, org: OrgId, electorate: &Electorate<'_>) -> Result<(), PolicyProblem> {
        nobody_locked_out(&self.snapshot(org), electorate)
    }

    fn previous(&self, org: OrgId) -> Result<Vec<u8>, PolicyProblem> {
        let in_force = self.in_force.read().unwrap();
        let now = &in_force[&org];
        let Some(before) = &now.before else { return Err(PolicyProblem::Rejected("there is none before".to_owned())) };
        let bundle = before.to_draft().seal(now.ready.bundle.next_lineage()).map_err(|e| rejected(&e))?;
        Ok(bundle.to_bytes().unwrap())
    }

    fn check_catalogue(&self, org: OrgId, catalogue: Catalogue) -> Result<CatalogueCandidate, PolicyProblem> {
        let now = self.in_force.read().unwrap()[&org].ready.clone();
        let predecessor = now.catalogue.digest();
        let ready = Self::ready(now.bundle, (catalogue.clone(), now.catalogue_version + 1))?;
        let digest = catalogue.digest();
        Ok(CatalogueCandidate {
            digest,
            predecessor: Some(predecessor),
            version: ready.catalogue_version,
            root_version: 1,
            signed_by: SignedBy::Local,
            signed: serde_json::json!({ "catalogue": digest }),
            blob: Blob { digest, bytes: catalogue.canonical().into() },
            prepared: Box::new(ready),
        })
    }

    fn catalogue_version(&self, org: OrgId) -> u64 {
        self.in_force.read().unwrap()[&org].ready.catalogue_version
    }

    fn activate(&self, org: OrgId, prepared: Box<dyn Any + Send>) -> Result<(), PolicyProblem> {
        let ready =
            prepared.downcast::<Ready>().map_err(|_| PolicyProblem::Rejected("not prepared here".to_owned()))?;
        tracing::info!("a bundle comes into force");
        if self.cut.swap(false, std::sync::atomic::Ordering::SeqCst) {
            *self.lost.lock().unwrap() = Some(*ready);
            return Err(PolicyProblem::Rejected("cut off".to_owned()));
        }
        self.swap(org, *ready);
        Ok(())
    }
}
