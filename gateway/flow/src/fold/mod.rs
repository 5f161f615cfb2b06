//! The authority fold: what a stream of entries means, from leaf facts alone.
//!
//! [`Instance::advance`] applies one entry and refuses whatever no proposal could have written: a gap, a broken link, a
//! torn append, an edge outside the eleven, a start without a live permit, a permit without its rules met. Appends are
//! read with a small automaton (`append`): each is a row of the proposal table, whole. Payloads are never looked into.
//!
//! The time of a stream never goes back: the latest claimed time seen is "now" for expiries, so that a clock that was
//! set back gives no permit a second life.
//!
//! Read next: `propose` for who writes these rows.

mod append;
mod grants;
mod lifting;
mod permits;
mod step;
mod waiting;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use countersign_gateway_model::{
    Decision as Answer, DecisionId, Digest, GatewayId, GrantId, InstanceId, ItemId, Name, Outcome as OutcomeKind,
    PermitId, Pseudonym, State, Timestamp,
};
use countersign_ledger_entry::body::{Created, DecisionKind, Reservation, RunStart};
use countersign_ledger_entry::{Body, Header};

use crate::error::EvolveError;
use crate::gate::{OpenGate, UNNAMED_PERSON};
use crate::grant::HeldGrant;
use crate::reply::WhyNot;

use step::{Reading, Step, check_header};

/// A permit that was not started yet. Whether it has lapsed is a question of time: derived, never an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LivePermit {
    /// No start after this.
    pub expires: Timestamp,
    /// Stream sequence of its entry.
    pub sequence: u64,
    /// Of one of the gateway's own operations: the gateway alone begins it.
    pub operation: bool,
    /// What it took from counters; none for one that took nothing.
    pub reserved: Option<Arc<Reserved>>,
}

/// What a permit took from counters, and when: amounts count in the window in which they were taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// Claimed time of the permit's entry.
    pub at: Timestamp,
    /// Its permit lapses after this.
    pub expires: Timestamp,
    /// By counter, each once.
    pub held: Vec<Reservation>,
}

/// A start without a final outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenStart {
    /// Stream sequence of the start's entry: the fence.
    pub sequence: u64,
    /// Stream sequence of the permit's entry.
    pub permit_sequence: u64,
    /// What its permit took from counters.
    pub reserved: Option<Arc<Reserved>>,
    /// When it was started.
    pub started: Timestamp,
    /// Of one of the gateway's own operations: the gateway alone says how it ended.
    pub operation: bool,
    /// Nothing may be begun after this.
    pub not_after: Timestamp,
    /// The run; none: the agent itself.
    pub run: Option<Box<RunStart>>,
}

/// What is kept of a permit that can do nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// Its start has its final outcome.
    Outcome(OutcomeKind),
    /// It was never started in time.
    Lapsed,
}

/// One governed execution, as its stream says. Equal streams give equal instances.
#[derive(Clone, Debug)]
pub struct Instance {
    id: InstanceId,
    created: Created,
    created_at: Timestamp,
    /// Acting principal, then those on whose behalf the first entry was written.
    chain: Vec<Pseudonym>,
    core: Core,
    live: BTreeMap<PermitId, LivePermit>,
    open: BTreeMap<PermitId, OpenStart>,
    /// Starts whose outcome is `unknown`, which one later outcome may replace.
    unknown: BTreeMap<PermitId, OpenStart>,
    settled: BTreeMap<PermitId, Settled>,
    /// By counter, the version that the stream's last reservation read: each reads a later one.
    versions: BTreeMap<Name, u64>,
    /// What people gave in advance, taken back, used up and expired or not.
    grants: BTreeMap<GrantId, HeldGrant>,
    gate: Option<Box<OpenGate>>,
    /// Rules lifted without their quorum, in order: what was done under a gate that is gone stays said.
    lifts: Vec<DecisionId>,
    /// Those that lifted nothing: their ids are taken all the same.
    idle_lifts: Vec<DecisionId>,
    step: Step,
    undo: Undo,
    /// How many live permits are too many not to look for lapsed ones.
    sweep_at: usize,
}

/// Fewer live permits than this are not looked through for lapsed ones.
const OFTEN_ENOUGH: usize = 1024;

/// The part that is copied when an append begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Core {
    state: State,
    updated: Timestamp,
    sequence: u64,
    last: Digest,
    denials: u32,
    latest: Timestamp,
    /// Of the last entry: no later one is under an earlier version.
    semantics: u16,
    /// Of the last entry's append.
    index: u8,
    length: u8,
    gateway: GatewayId,
    boot: u64,
    claimed: Timestamp,
}

/// How to take the last append back.
#[derive(Clone, Debug, Default)]
struct Undo {
    core: Option<Core>,
    permits: Vec<Change>,
    gate: GateBefore,
    /// How many rules had been lifted, and how often in vain.
    lifts: (usize, usize),
    /// The last append is the stream's first.
    begun: bool,
}

/// The open gate as it was when the append began.
#[derive(Clone, Debug, Default)]
enum GateBefore {
    /// It was not touched.
    #[default]
    Untouched,
    /// It was this.
    Was(Option<Box<OpenGate>>),
}

#[derive(Clone, Debug)]
enum Change {
    Live(PermitId, Option<LivePermit>),
    Open(PermitId, Option<OpenStart>),
    Unknown(PermitId, Option<OpenStart>),
    Settled(PermitId, Option<Settled>),
    Version(Name, Option<u64>),
    Grant(GrantId, Option<Box<HeldGrant>>),
}

impl Instance {
    /// Applies one entry: the first with `previous` none. What a verifier folds with.
    ///
    /// # Errors
    /// Whatever no lawful history has at this place.
    pub fn evolve(previous: Option<Self>, header: &Header, leaf_hash: Digest) -> Result<Self, EvolveError> {
        match previous {
            None => Self::begin(header, leaf_hash),
            Some(mut instance) => {
                instance.advance(header, leaf_hash)?;
                Ok(instance)
            }
        }
    }

    /// Takes the last append back, whole or not: it did not become durable. None if it was the first.
    pub fn rollback(this: &mut Option<Self>) {
        let Some(instance) = this else { return };
        let Some(core) = instance.undo.core.take() else {
            if instance.undo.begun {
                *this = None;
            }
            return;
        };
        instance.core = core;
        instance.lifts.truncate(instance.undo.lifts.0);
        instance.idle_lifts.truncate(instance.undo.lifts.1);
        while let Some(change) = instance.undo.permits.pop() {
            match change {
                Change::Live(id, was) => restore(&mut instance.live, id, was),
                Change::Open(id, was) => restore(&mut instance.open, id, was),
                Change::Unknown(id, was) => restore(&mut instance.unknown, id, was),
                Change::Settled(id, was) => restore(&mut instance.settled, id, was),
                Change::Version(counter, was) => restore(&mut instance.versions, counter, was),
                Change::Grant(id, was) => restore(&mut instance.grants, id, was.map(|was| *was)),
            }
        }
        if let GateBefore::Was(gate) = std::mem::take(&mut instance.undo.gate) {
            instance.gate = gate;
        }
        instance.step = Step::Whole;
    }

    pub(crate) fn begin(header: &Header, leaf_hash: Digest) -> Result<Self, EvolveError> {
        let now = Reading { header, at: header.claimed, first: true };
        check_header(header)?;
        if header.sequence != 0 {
            return Err(EvolveError::Sequence { expected: 0, found: header.sequence });
        }
        if header.previous.is_some() {
            return Err(EvolveError::Previous(0));
        }
        if header.append.index != 0 {
            return Err(EvolveError::Append { sequence: 0, why: "its first entry is missing" });
        }
        let Body::Created(created) = &header.body else {
            return Err(now.unlawful("an instance begins with `created`"));
        };
        let error = header.verdict.as_ref().is_some_and(|verdict| verdict.error);
        let shadow = header.semantics > 1 && !created.enforced && !error;
        now.ensure(
            shadow || matches!(now.answer(), None | Some(Answer::Allow | Answer::NeedsApproval)),
            "a refused start makes no instance",
        )?;
        let mut chain = vec![created.acting];
        chain.extend(header.on_behalf_of.iter().copied());
        let instance = Self {
            id: InstanceId::from_bytes(*header.stream.id.as_bytes()),
            created: created.clone(),
            created_at: header.claimed,
            chain,
            core: Core {
                state: State::Created,
                updated: header.claimed,
                sequence: 0,
                last: leaf_hash,
                denials: 0,
                latest: header.claimed,
                semantics: header.semantics,
                index: 0,
                length: header.append.length,
                gateway: header.gateway,
                boot: header.boot,
                claimed: header.claimed,
            },
            live: BTreeMap::new(),
            open: BTreeMap::new(),
            unknown: BTreeMap::new(),
            settled: BTreeMap::new(),
            versions: BTreeMap::new(),
            grants: BTreeMap::new(),
            gate: None,
            lifts: Vec::new(),
            idle_lifts: Vec::new(),
            step: Step::Created { verdict: header.verdict.clone() },
            undo: Undo { begun: true, ..Undo::default() },
            sweep_at: OFTEN_ENOUGH,
        };
        instance.check_end(header)?;
        Ok(instance)
    }

    /// Applies the next entry in place. After an error, [`Instance::rollback`] leads back to the last whole append.
    ///
    /// # Errors
    /// Whatever no lawful history has at this place.
    pub fn advance(&mut self, header: &Header, leaf_hash: Digest) -> Result<(), EvolveError> {
        check_header(header)?;
        if header.stream.id.as_bytes() != self.id.as_bytes() {
            return Err(EvolveError::Stream);
        }
        let expected = self.core.sequence + 1;
        if header.sequence != expected {
            return Err(EvolveError::Sequence { expected, found: header.sequence });
        }
        if header.previous != Some(self.core.last) {
            return Err(EvolveError::Previous(header.sequence));
        }
        let first = header.append.index == 0;
        self.check_append(header)?;
        if first {
            self.forget_lapsed();
            self.undo.core = Some(self.core);
            self.undo.permits.clear();
            self.undo.gate = GateBefore::Untouched;
            self.undo.lifts = (self.lifts.len(), self.idle_lifts.len());
            self.undo.begun = false;
            self.step = Step::Whole;
        }
        let now = Reading { header, at: header.claimed.max(self.core.latest), first };
        self.core.latest = now.at;
        // From here on the entry is being applied: an error leaves this to `rollback`.
        self.core.sequence = header.sequence;
        self.core.semantics = header.semantics;
        self.core.index = header.append.index;
        self.core.length = header.append.length;
        self.core.gateway = header.gateway;
        self.core.boot = header.boot;
        self.core.claimed = header.claimed;
        self.read(now)?;
        self.core.last = leaf_hash;
        self.check_end(header)
    }

    /// Permits that lapsed are kept by id alone. Done when many gathered, and only between appends.
    fn forget_lapsed(&mut self) {
        if self.live.len() < self.sweep_at {
            return;
        }
        let now = self.core.latest;
        let settled = &mut self.settled;
        self.live.retain(|id, permit| {
            let lapsed = permit.expires < now;
            if lapsed {
                settled.insert(*id, Settled::Lapsed);
            }
            !lapsed
        });
        self.sweep_at = OFTEN_ENOUGH.max(self.live.len().saturating_mul(2));
    }
}

fn restore<K: Ord, V>(map: &mut BTreeMap<K, V>, id: K, was: Option<V>) {
    match was {
        Some(value) => {
            map.insert(id, value);
        }
        None => {
            map.remove(&id);
        }
    }
}

/// What may be read of an instance.
impl Instance {
    /// Its id: the stream's.
    pub fn id(&self) -> InstanceId {
        self.id
    }

    /// What its first entry says.
    pub fn created(&self) -> &Created {
        &self.created
    }

    /// When its first entry was claimed to be written.
    pub fn created_at(&self) -> Timestamp {
        self.created_at
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        self.core.state
    }

    /// When it last took an edge.
    pub fn updated(&self) -> Timestamp {
        self.core.updated
    }

    /// The latest claimed time of its stream: never goes back.
    pub fn latest(&self) -> Timestamp {
        self.core.latest
    }

    /// Stream sequence of its last entry.
    pub fn sequence(&self) -> u64 {
        self.core.sequence
    }

    /// Leaf hash of its last entry.
    pub fn last(&self) -> Digest {
        self.core.last
    }

    /// How many of its actions were denied.
    pub fn denials(&self) -> u32 {
        self.core.denials
    }

    /// The open gate.
    pub fn gate(&self) -> Option<&OpenGate> {
        self.gate.as_deref()
    }

    /// Rules that were lifted in it without their quorum, in order: the glass that was broken.
    pub fn lifts(&self) -> &[DecisionId] {
        &self.lifts
    }

    /// Whose instance it is, and who is involved in an item of its open gate: what was lifted for them, others review.
    pub fn concerned(&self, item: ItemId) -> Vec<Pseudonym> {
        let created = &self.created;
        let theirs = [Some(created.initiator), created.owner, Some(created.accountable)];
        let involved = self.gate.iter().filter_map(|gate| gate.item(item)).flat_map(|item| &item.involved);
        let all: BTreeSet<Pseudonym> = theirs.into_iter().flatten().chain(involved.copied()).collect();
        all.into_iter().collect()
    }

    /// Whether a lift of this id is on record, whatever it did.
    pub(crate) fn has_lift(&self, lift: DecisionId) -> bool {
        self.lifts.contains(&lift) || self.idle_lifts.contains(&lift)
    }

    /// A permit that was given and not started; it may have lapsed.
    pub fn live_permit(&self, permit: PermitId) -> Option<LivePermit> {
        self.live.get(&permit).cloned()
    }

    /// How many permits were given and not started, lapsed or not.
    pub fn live_permits(&self) -> usize {
        self.live.len()
    }

    /// Permits that were given and not started, lapsed or not, of which something is reserved.
    pub(crate) fn live_reserved(&self) -> impl Iterator<Item = (PermitId, &Reserved)> {
        self.live.iter().filter_map(|(id, permit)| Some((*id, &**permit.reserved.as_ref()?)))
    }

    /// Permits that could be started at `at`.
    pub fn startable(&self, at: Timestamp) -> impl Iterator<Item = (PermitId, LivePermit)> + '_ {
        let at = at.max(self.core.latest);
        let running = self.core.state == State::Running;
        self.live.iter().filter(move |(_, p)| running && at <= p.expires).map(|(id, p)| (*id, p.clone()))
    }

    /// Starts without an outcome.
    pub fn open_starts(&self) -> impl Iterator<Item = (PermitId, &OpenStart)> {
        self.open.iter().map(|(id, start)| (*id, start))
    }

    /// A start without an outcome.
    pub fn open_start(&self, permit: PermitId) -> Option<&OpenStart> {
        self.open.get(&permit)
    }

    /// A start whose outcome is `unknown`.
    pub fn unknown_start(&self, permit: PermitId) -> Option<&OpenStart> {
        self.unknown.get(&permit)
    }

    /// A permit that can do nothing more.
    pub fn settled(&self, permit: PermitId) -> Option<Settled> {
        self.settled.get(&permit).copied()
    }

    /// Whether its last append is whole: false says that the stream is torn, or that more is to come.
    pub fn is_whole(&self) -> bool {
        self.core.index + 1 == self.core.length
    }

    /// Terminal, and every start has its outcome.
    pub fn is_closed(&self) -> bool {
        self.core.state.is_terminal() && self.open.is_empty()
    }

    /// Whether a stop by this principal cannot be vetoed: the acting principal, one of its chain, the owner or the initiator.
    pub fn is_insider(&self, who: Pseudonym) -> bool {
        self.chain.contains(&who) || self.created.owner == Some(who) || self.created.initiator == who
    }

    /// The gate of whose resolution the entry in hand is part.
    pub(crate) fn resolving(&self) -> Option<&OpenGate> {
        match &self.step {
            Step::Grant(grants) => Some(&grants.gate),
            _ => None,
        }
    }

    /// The start that the last append gave an outcome.
    pub(crate) fn just_settled(&self, permit: PermitId) -> Option<&OpenStart> {
        self.undo.permits.iter().rev().find_map(|change| match change {
            Change::Open(id, Some(open)) | Change::Unknown(id, Some(open)) if *id == permit => Some(open),
            _ => None,
        })
    }

    /// Why a person may not approve an item of the open gate, whatever policy says: for those who ask who may, before
    /// anybody votes.
    pub fn bars(&self, actor: Pseudonym, person: Option<Pseudonym>, item: ItemId) -> Option<WhyNot> {
        let (gate, person) = (self.gate()?, person.unwrap_or(UNNAMED_PERSON));
        gate.excluded(DecisionKind::Approve, actor, person, std::iter::once(item), self.chain())
    }

    /// Acting principal, then those on whose behalf it was created.
    pub fn chain(&self) -> &[Pseudonym] {
        &self.chain
    }
}

/// Equal in what the stream says; how the last append would be taken back is not part of that.
impl PartialEq for Instance {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
            && self.created == other.created
            && self.created_at == other.created_at
            && self.chain == other.chain
            && self.core == other.core
            && self.live == other.live
            && self.open == other.open
            && self.unknown == other.unknown
            && self.settled == other.settled
            && self.versions == other.versions
            && self.grants == other.grants
            && self.gate == other.gate
            && self.lifts == other.lifts
            && self.idle_lifts == other.idle_lifts
            && (self.is_whole() || self.step == other.step)
    }
}

impl Eq for Instance {}
