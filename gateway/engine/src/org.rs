//! One organization at work: its log, its entities, its streams. Nothing in here is shared with another organization.
//!
//! Each instance stream has a cell with a fair lock: one append in flight, so that heads are known when signing.
//! Read next: `writing` (how an append is made), `instances`.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tokio::sync::watch;

use countersign_gateway_flow::Instance;
use countersign_gateway_model::{
    Assurance, Digest, Duration, InstanceId, Name, OrgId, PermitId, PrincipalKind, Pseudonym, State, StreamId,
    Timestamp,
};
use countersign_ledger_entry::body::AuthorityMode;
use countersign_ledger_entry::{Stream, StreamKind};
use countersign_ledger_log::LogHandle;
use countersign_policy_decide::rules::Authority;
use countersign_policy_decide::{Attr, EntityError, EntityKind, EntityRef, EntityStore, Record};

use crate::changes::under_way::Changes;
use crate::counters::Counting;
use crate::keyring::PersonKeys;
use crate::ladders::Ladders;
use crate::own_fold::OwnFold;
use crate::recording::{Evaluations, Recording};
use crate::terms::{Frozen, ShadowWindow};

/// Who a pseudonym stands for, and what the exclusions need to know of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The sort.
    pub kind: PrincipalKind,
    /// Id within the organization.
    pub id: Name,
    /// For a person: the pseudonym that stands for the human being behind all their accounts; none: not known.
    pub person: Option<Pseudonym>,
    /// For a person: the key that says which human being this is.
    pub person_key: Option<Name>,
    /// For an agent or a service: who answers for it.
    pub owner: Option<Pseudonym>,
    /// Who issued credentials for it.
    pub issuers: BTreeSet<Pseudonym>,
    /// Teams it belongs to.
    pub teams: Vec<Name>,
    /// For a person: groups of the directory that they are in.
    pub groups: Vec<Name>,
    /// For a person: each login of theirs needs a code beside the password.
    pub second_factor: bool,
}

impl Known {
    /// How sure a login of theirs is: whoever has a second factor never logs in without it.
    pub(crate) fn assurance(&self) -> Assurance {
        if self.second_factor { Assurance::Mfa } else { Assurance::Password }
    }

    pub(crate) fn entity(&self, org: OrgId) -> EntityRef {
        EntityRef::new(org, EntityKind::from(self.kind), self.id.clone())
    }

    /// `person/dana`.
    pub(crate) fn label(&self) -> String {
        format!("{}/{}", word(self.kind), self.id)
    }
}

/// What an account is now, as far as rules ask for it.
pub(crate) struct Standing {
    pub(crate) active: bool,
    pub(crate) roles: Vec<Name>,
    groups: Vec<Name>,
    teams: Vec<Name>,
}

impl Standing {
    /// Whether these are asked.
    pub(crate) fn is_of(&self, authority: &Authority) -> bool {
        authority.admits(&self.roles, &self.groups, &self.teams)
    }
}

pub(crate) fn word(kind: PrincipalKind) -> &'static str {
    match kind {
        PrincipalKind::Person => "person",
        PrincipalKind::Agent => "agent",
        PrincipalKind::Service => "service",
        PrincipalKind::System => "system",
    }
}

/// An instance in memory: the fold of its stream, and what people gave it to go with.
#[derive(Default)]
pub(crate) struct Live {
    /// None before the stream was read, and for a stream without entries.
    pub(crate) fold: Option<Instance>,
    /// The tree that the next run starts from.
    pub(crate) workspace: Option<Digest>,
    pub(crate) labels: BTreeMap<String, String>,
    /// The team that owns its workflow.
    pub(crate) team: Option<Name>,
    /// Live permits of which this process knows that they are for the very input that was sent.
    pub(crate) as_sent: BTreeSet<PermitId>,
}

/// A stream's place in memory.
pub(crate) struct Cell {
    pub(crate) live: Arc<tokio::sync::Mutex<Live>>,
    /// The stream's next sequence, for those who wait for a change.
    pub(crate) changed: watch::Sender<u64>,
    /// What policy was told of the stream's gate and its items: forgotten when the gate closes, or with the stream.
    described: Mutex<BTreeSet<EntityRef>>,
}

impl Cell {
    fn new() -> Self {
        Self { live: Arc::default(), changed: watch::Sender::new(0), described: Mutex::default() }
    }
}

/// Who is known, by pseudonym and by what people call them.
#[derive(Default)]
struct Names {
    known: HashMap<Pseudonym, Known>,
    pseudonyms: HashMap<(PrincipalKind, Name), Pseudonym>,
}

/// One organization.
pub(crate) struct Org {
    pub(crate) id: OrgId,
    pub(crate) log: LogHandle,
    pub(crate) entities: EntityStore,
    /// One append at a time to the organization's own stream.
    pub(crate) own: tokio::sync::Mutex<()>,
    /// One change at a time of what is in force (policy, freezes, settings): the order in the log is the order in
    /// memory.
    pub(crate) in_force: tokio::sync::Mutex<()>,
    /// One check of policy at a time: each takes a thread, and waits on it for others.
    pub(crate) checking: Arc<tokio::sync::Mutex<()>>,
    /// One backtest at a time.
    pub(crate) backtest: Arc<tokio::sync::Mutex<()>>,
    pub(crate) frozen: RwLock<Frozen>,
    pub(crate) public_read: AtomicBool,
    pub(crate) evaluations: Evaluations,
    pub(crate) counting: Counting,
    pub(crate) changes: Changes,
    pub(crate) ladders: Ladders,
    pub(crate) person_keys: PersonKeys,
    recording: RwLock<Recording>,
    /// How long a candidate is compared with the past.
    shadow_window: RwLock<ShadowWindow>,
    cells: Mutex<HashMap<InstanceId, Arc<Cell>>>,
    names: RwLock<Names>,
    stored: Mutex<HashSet<Digest>>,
    /// What questions are asked under. While the mode is raised it is ahead of `stated`.
    authority: RwLock<AuthorityMode>,
    /// What entries say, in the order of the log: held for reading until an append is answered, for writing by the one that
    /// sets the mode.
    pub(crate) stated: tokio::sync::RwLock<AuthorityMode>,
    /// The fold of the organization's own stream.
    own_fold: Mutex<OwnFold>,
}

/// Most digests of stored blobs that are remembered, so that they are not sent again.
const REMEMBERED_BLOBS: usize = 200_000;

impl Org {
    pub(crate) fn new(id: OrgId, log: LogHandle, fold: OwnFold) -> Self {
        let keys = fold.person_keys.iter().map(|(id, row)| (*id, *row)).collect();
        Self {
            id,
            counting: Counting::new(log.clone()),
            log,
            entities: EntityStore::new(),
            own: tokio::sync::Mutex::new(()),
            in_force: tokio::sync::Mutex::new(()),
            checking: Arc::default(),
            backtest: Arc::default(),
            frozen: RwLock::new(fold.frozen.clone()),
            public_read: AtomicBool::new(fold.public_read),
            evaluations: Evaluations::default(),
            changes: Changes::default(),
            shadow_window: RwLock::new(fold.shadow_window),
            ladders: Ladders::default(),
            person_keys: PersonKeys::new(keys),
            recording: RwLock::new(fold.recording),
            cells: Mutex::default(),
            names: RwLock::default(),
            stored: Mutex::default(),
            authority: RwLock::new(fold.authority),
            stated: tokio::sync::RwLock::new(fold.authority),
            own_fold: Mutex::new(fold),
        }
    }

    /// What questions are answered from.
    pub(crate) fn facts(&self) -> (&EntityStore, &Counting) {
        (&self.entities, &self.counting)
    }

    pub(crate) fn authority(&self) -> AuthorityMode {
        *self.authority.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_authority(&self, mode: AuthorityMode) {
        *self.authority.write().unwrap_or_else(PoisonError::into_inner) = mode;
    }

    /// What the organization's own stream says, as far as it is durable.
    pub(crate) fn own_fold(&self) -> MutexGuard<'_, OwnFold> {
        guard(&self.own_fold)
    }

    /// Which evaluations leave an entry.
    pub(crate) fn recording(&self) -> Recording {
        *self.recording.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_recording(&self, recording: Recording) {
        *self.recording.write().unwrap_or_else(PoisonError::into_inner) = recording;
    }

    /// How long a proposed policy is compared with the past before anybody is asked.
    pub(crate) fn shadow_window(&self, now: Timestamp) -> Duration {
        let window = *self.shadow_window.read().unwrap_or_else(PoisonError::into_inner);
        window.at(self.authority(), now)
    }

    pub(crate) fn set_shadow_window(&self, window: ShadowWindow) {
        *self.shadow_window.write().unwrap_or_else(PoisonError::into_inner) = window;
    }

    pub(crate) fn frozen(&self) -> Frozen {
        self.frozen.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn is_frozen(&self, team: Option<&Name>) -> bool {
        self.frozen.read().unwrap_or_else(PoisonError::into_inner).covers(team)
    }

    /// The cell of an instance, made if it is not in memory.
    pub(crate) fn cell(&self, id: InstanceId) -> Arc<Cell> {
        let mut cells = guard(&self.cells);
        Arc::clone(cells.entry(id).or_insert_with(|| Arc::new(Cell::new())))
    }

    /// Whether an instance is in memory, or on its way there.
    pub(crate) fn in_memory(&self, id: InstanceId) -> bool {
        guard(&self.cells).contains_key(&id)
    }

    /// Drops a cell that nobody else holds: the stream is read again when it is needed.
    pub(crate) fn release(&self, id: InstanceId) {
        let mut cells = guard(&self.cells);
        if cells.get(&id).is_some_and(|cell| Arc::strong_count(cell) == 1) {
            cells.remove(&id);
        }
    }

    /// Forgets instances that are closed and that nobody is at work on; their streams are read again when needed.
    pub(crate) fn evict(&self) {
        let mut cells = guard(&self.cells);
        cells.retain(|id, cell| {
            let idle = Arc::strong_count(cell) == 1;
            let closed = match cell.live.try_lock() {
                Ok(live) => live.fold.as_ref().is_none_or(Instance::is_closed),
                Err(_) => false,
            };
            let keep = !(idle && closed);
            if !keep {
                self.log.close_stream(instance_stream(*id));
                self.forget_described(cell);
                if let Ok(name) = Name::new(&id.to_string()) {
                    self.entities.forget(&EntityRef::new(self.id, EntityKind::Instance, name));
                }
            }
            keep
        });
    }

    /// Tells policy of something that lasts no longer than a gate of this stream.
    pub(crate) fn describe(&self, cell: &Cell, record: Record) -> Result<(), EntityError> {
        guard(&cell.described).insert(record.entity.clone());
        self.entities.put(record).map(drop)
    }

    /// Forgets what [`Org::describe`] told. Whoever asks about it under the stream's lock tells it again first.
    pub(crate) fn forget_described(&self, cell: &Cell) {
        for entity in std::mem::take(&mut *guard(&cell.described)) {
            self.entities.forget(&entity);
        }
    }

    /// The state of an instance in memory, and whether people are asked; none where it is not, or somebody is at work.
    pub(crate) fn peek(&self, id: InstanceId) -> Option<(State, bool)> {
        let cell = guard(&self.cells).get(&id).cloned()?;
        let live = cell.live.try_lock().ok()?;
        live.fold.as_ref().map(|fold| (fold.state(), fold.gate().is_some()))
    }

    /// Instances in memory.
    pub(crate) fn cells(&self) -> Vec<(InstanceId, Arc<Cell>)> {
        guard(&self.cells).iter().map(|(id, cell)| (*id, Arc::clone(cell))).collect()
    }

    pub(crate) fn known(&self, who: Pseudonym) -> Option<Known> {
        self.names.read().unwrap_or_else(PoisonError::into_inner).known.get(&who).cloned()
    }

    pub(crate) fn known_by_id(&self, kind: PrincipalKind, id: &Name) -> Option<(Pseudonym, Known)> {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        let who = names.pseudonyms.get(&(kind, id.clone()))?;
        names.known.get(who).map(|known| (*who, known.clone()))
    }

    /// All persons.
    pub(crate) fn persons(&self) -> Vec<Name> {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        names.known.values().filter(|k| k.kind == PrincipalKind::Person).map(|k| k.id.clone()).collect()
    }

    /// Those of them who have a second factor.
    pub(crate) fn second_factors(&self) -> BTreeSet<Name> {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        let sure = names.known.values().filter(|k| k.kind == PrincipalKind::Person && k.second_factor);
        sure.map(|k| k.id.clone()).collect()
    }

    /// How sure the usual login of a person is.
    pub(crate) fn assurance_of(&self, person: &Name) -> Assurance {
        self.known_by_id(PrincipalKind::Person, person).map_or(Assurance::Password, |(_, known)| known.assurance())
    }

    pub(crate) fn introduce(&self, who: Pseudonym, known: Known) {
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        names.pseudonyms.insert((known.kind, known.id.clone()), who);
        names.known.insert(who, known);
    }

    /// `person/dana`, or the pseudonym where nobody is known by it.
    pub(crate) fn label(&self, who: Pseudonym) -> String {
        if who == Pseudonym::SYSTEM {
            return "system".to_owned();
        }
        self.known(who).map_or_else(|| who.to_string(), |k| k.label())
    }

    /// The human being behind an account, as quorum counts them.
    pub(crate) fn person_of(&self, who: Pseudonym) -> Option<Pseudonym> {
        self.known(who).and_then(|k| k.person)
    }

    /// What an account is now; none where nobody is known by it.
    pub(crate) fn standing(&self, who: Pseudonym) -> Option<Standing> {
        let Known { teams, groups, kind, id, .. } = self.known(who)?;
        let version = self.entities.get(&EntityRef::new(self.id, EntityKind::from(kind), id))?;
        let record = version.record();
        let active = record.attrs.get("active") == Some(&Attr::Bool(true));
        Some(Standing { active, roles: record.roles.iter().cloned().collect(), groups, teams })
    }

    /// Keeps of `blobs` those that were not stored before, as far as is remembered.
    pub(crate) fn unstored(&self, blobs: &mut Vec<countersign_ledger_entry::Blob>) {
        let stored = guard(&self.stored);
        let mut seen = HashSet::new();
        blobs.retain(|blob| !stored.contains(&blob.digest) && seen.insert(blob.digest));
    }

    /// Remembers that these are durable.
    pub(crate) fn remember(&self, blobs: impl Iterator<Item = Digest>) {
        let mut stored = guard(&self.stored);
        if stored.len() > REMEMBERED_BLOBS {
            stored.clear();
        }
        stored.extend(blobs);
    }

    /// The organization's own stream.
    pub(crate) fn own_stream(&self) -> Stream {
        Stream { kind: StreamKind::Organization, id: StreamId::from(self.id) }
    }
}

/// The stream of an instance.
pub(crate) fn instance_stream(id: InstanceId) -> Stream {
    Stream { kind: StreamKind::Instance, id: StreamId::from(id) }
}

/// Nothing that a panic could leave half done is kept under these locks.
fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
