//! The authority fold: what a stream of entries means, from leaf facts alone.
//!
//! [`Instance::advance`] applies one entry and refuses whatever no proposal could have written: a gap, a broken link, a
//! torn append, an edge outside the eleven, a start without a live permit, a permit without its rules met. Appends are
//! read with a small automaton ([`Step`]): each is a row of the proposal table, whole. Payloads are never looked into.
//!
//! The time of a stream never goes back: the latest claimed time seen is "now" for expiries, so that a clock that was
//! set back gives no permit a second life.
//!
//! Read next: `propose` for who writes these rows.

use std::collections::BTreeMap;

use countersign_gateway_model::{
    ActionId, Decision as Answer, Digest, GateId, GatewayId, InstanceId, Outcome as OutcomeKind, PermitId, Pseudonym,
    State, Timestamp, Verdict,
};
use countersign_ledger_entry::body::{
    Cause, Conflict, Created, Decision, DecisionKind, Edge, Effect, Gate, GateEvent, GateEventKind, GateItem,
    GateItemRef, GateSubject, OnDeny, OnTimeout, Outcome, Permit, QuestionKind, Refusal, RefusalReason, RunStart,
    Start, StartedBy, Sweep,
};
use countersign_ledger_entry::{Body, Header, PayloadRole, Row, SEMANTICS, SignedEntry, StreamKind};

use crate::MAX_ITEMS;
use crate::edges::{is_edge, may_rest};
use crate::error::EvolveError;
use crate::gate::{Cast, OpenGate, OpenItem, distinct};
use crate::rows;

/// A permit that was not started yet. Whether it has lapsed is a question of time: derived, never an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LivePermit {
    /// No start after this.
    pub expires: Timestamp,
    /// Stream sequence of its entry.
    pub sequence: u64,
}

/// A start without a final outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenStart {
    /// Stream sequence of the start's entry: the fence.
    pub sequence: u64,
    /// Stream sequence of the permit's entry.
    pub permit_sequence: u64,
    /// When it was started.
    pub started: Timestamp,
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
    gate: Option<Box<OpenGate>>,
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
    gate: Option<Option<Box<OpenGate>>>,
    /// The last append is the stream's first.
    begun: bool,
}

#[derive(Clone, Debug)]
enum Change {
    Live(PermitId, Option<LivePermit>),
    Open(PermitId, Option<OpenStart>),
    Unknown(PermitId, Option<OpenStart>),
    Settled(PermitId, Option<Settled>),
}

/// Where in a row of the table an append is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// The append may end here; nothing may follow.
    Whole,
    /// After `created`: the append may end here (queued), or the start follows.
    Created { verdict: Option<Verdict> },
    /// After an edge that policy made conditional: the gate follows.
    Gate { subject: GateSubject, verdict: Option<Verdict> },
    /// After the gate: the edge to WAITING follows.
    Wait { verdict: Option<Verdict> },
    /// After the refusal of a queued start: the edge to RUNNING follows.
    StartDenied { verdict: Option<Verdict> },
    /// After a denial that ends the instance: the edge to TERMINATED follows.
    Deny { verdict: Option<Verdict> },
    /// After CREATED→RUNNING on the way to TERMINATED.
    Stop { cause: Cause, objection: bool, verdict: Option<Verdict> },
    /// Among the answers to a batch of actions.
    Batch(Batch),
    /// After a decision that brought policy's denial to light: SYSTEM's REJECT follows.
    SystemReject,
    /// After a REJECT: the edge to REJECTED follows.
    Reject { by: Rejecting, verdict: Option<Verdict> },
    /// After the edge to REJECTED: the one to TERMINATED follows.
    Fall { objection: bool, verdict: Option<Verdict> },
    /// After the last vote: the edge to APPROVED or OVERRIDDEN follows.
    Resolve { decision: Option<Verdict> },
    /// After that: the edge to RESUMED.
    Resume { verdict: Option<Verdict> },
    /// After that: the edge to RUNNING.
    Rerun { verdict: Option<Verdict> },
    /// What was approved is carried out: COMPLETED or TERMINATED.
    Carry { to: State, action: ActionId, verdict: Option<Verdict> },
    /// What was approved is permitted.
    Grant(Grants),
}

/// Who rejects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rejecting {
    /// A person.
    Person,
    /// SYSTEM, because policy denies by now.
    Denied,
    /// SYSTEM, for whoever stops, or for a clock.
    System { stopper: Option<Pseudonym> },
}

/// Answers to a batch so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Batch {
    items: usize,
    permits: usize,
    denied: bool,
    denial: Option<Verdict>,
    fresh: Option<Fresh>,
}

/// Permits of a resolved gate so far.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Grants {
    gate: Box<OpenGate>,
    given: Vec<ActionId>,
    fresh: Option<Fresh>,
}

/// A permit in the entry before: only its own start may follow as adjacent.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fresh {
    permit: PermitId,
    /// Its start must follow at once.
    dispatch: bool,
    verdict: Option<Verdict>,
}

/// Entry in hand, with what is asked of it again and again.
#[derive(Clone, Copy)]
struct Now<'h> {
    header: &'h Header,
    at: Timestamp,
    first: bool,
}

impl Now<'_> {
    fn unlawful(&self, why: &'static str) -> EvolveError {
        EvolveError::Unlawful { sequence: self.header.sequence, kind: self.header.body.kind().as_str(), why }
    }

    fn ensure(&self, holds: bool, why: &'static str) -> Result<(), EvolveError> {
        if holds { Ok(()) } else { Err(self.unlawful(why)) }
    }

    fn answer(&self) -> Option<Answer> {
        self.header.verdict.as_ref().map(|v| v.decision)
    }

    fn allowed(&self) -> Result<(), EvolveError> {
        self.ensure(self.answer() == Some(Answer::Allow), "policy did not allow it")
    }

    fn same(&self, verdict: Option<&Verdict>) -> Result<(), EvolveError> {
        self.ensure(self.header.verdict.as_ref() == verdict, "it carries another verdict than its append")
    }

    fn verdict(&self) -> Option<Verdict> {
        self.header.verdict.clone()
    }

    /// Whether policy said anything but yes, an error included.
    fn objects(&self) -> bool {
        self.answer() != Some(Answer::Allow)
    }
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

    /// Applies one whole append in place and gives its projection rows. On an error nothing has changed. Until the append
    /// is durable, [`Instance::rollback`] takes it back.
    ///
    /// # Errors
    /// As [`Instance::evolve`], or if `entries` are not one whole append.
    pub fn apply(this: &mut Option<Self>, entries: &[SignedEntry]) -> Result<Vec<Row>, EvolveError> {
        let before = this.as_ref().map(|i| i.core.sequence);
        let mut rows = Vec::new();
        let applied = entries.iter().try_for_each(|entry| {
            let hash = Digest(entry.hash.0);
            match this {
                None => *this = Some(Self::begin(&entry.header, hash)?),
                Some(instance) => instance.advance(&entry.header, hash)?,
            }
            if let Some(instance) = this.as_ref() {
                rows::project(instance, &entry.header, &mut rows);
            }
            Ok(())
        });
        let whole = this.as_ref().is_none_or(Self::is_whole);
        let applied = applied.and_then(|()| {
            let sequence = entries.last().map_or(0, |e| e.header.sequence);
            if whole && !entries.is_empty() {
                Ok(())
            } else {
                Err(EvolveError::Append { sequence, why: "entries are missing" })
            }
        });
        match applied {
            Ok(()) => Ok(rows::latest(rows)),
            Err(error) => {
                // Only what was begun here is taken back, never the append before.
                if this.as_ref().map(|i| i.core.sequence) != before {
                    Self::rollback(this);
                }
                Err(error)
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
        while let Some(change) = instance.undo.permits.pop() {
            match change {
                Change::Live(id, was) => restore(&mut instance.live, id, was),
                Change::Open(id, was) => restore(&mut instance.open, id, was),
                Change::Unknown(id, was) => restore(&mut instance.unknown, id, was),
                Change::Settled(id, was) => restore(&mut instance.settled, id, was),
            }
        }
        if let Some(gate) = instance.undo.gate.take() {
            instance.gate = gate;
        }
        instance.step = Step::Whole;
    }

    fn begin(header: &Header, leaf_hash: Digest) -> Result<Self, EvolveError> {
        let now = Now { header, at: header.claimed, first: true };
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
        now.ensure(
            matches!(now.answer(), None | Some(Answer::Allow | Answer::NeedsApproval)),
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
            gate: None,
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
            self.undo.gate = None;
            self.undo.begun = false;
            self.step = Step::Whole;
        }
        let now = Now { header, at: header.claimed.max(self.core.latest), first };
        self.core.latest = now.at;
        // From here on the entry is being applied: an error leaves this to `rollback`.
        self.core.sequence = header.sequence;
        self.core.index = header.append.index;
        self.core.length = header.append.length;
        self.core.gateway = header.gateway;
        self.core.boot = header.boot;
        self.core.claimed = header.claimed;
        self.read(now)?;
        self.core.last = leaf_hash;
        self.check_end(header)
    }

    fn check_append(&self, header: &Header) -> Result<(), EvolveError> {
        let torn = |why| Err(EvolveError::Append { sequence: header.sequence, why });
        let at = header.append;
        if at.index == 0 {
            return if self.is_whole() { Ok(()) } else { torn("the append before lacks its end") };
        }
        if at.index != self.core.index + 1 || at.length != self.core.length {
            return torn("its entries are not adjacent");
        }
        if (header.gateway, header.boot, header.claimed) != (self.core.gateway, self.core.boot, self.core.claimed) {
            return torn("its entries were not written as one");
        }
        Ok(())
    }

    /// At the last entry of an append, it must be a whole row of the table.
    fn check_end(&self, header: &Header) -> Result<(), EvolveError> {
        if header.append.index + 1 < header.append.length {
            return Ok(());
        }
        let why = match &self.step {
            Step::Whole => None,
            Step::Created { verdict } => {
                let queued = verdict.as_ref().is_none_or(|v| v.decision == Answer::Allow);
                (!queued).then_some("a start that needs approval was left out")
            }
            Step::Batch(batch) if batch.fresh.as_ref().is_some_and(|f| f.dispatch) => {
                Some("a dispatch is started in its permit's append")
            }
            Step::Batch(batch) if batch.denied && self.created.on_deny == OnDeny::Terminate => {
                Some("a denial ends this instance")
            }
            Step::Batch(_) => None,
            Step::Grant(grants) if grants.fresh.as_ref().is_some_and(|f| f.dispatch) => {
                Some("a dispatch is started in its permit's append")
            }
            Step::Grant(grants) if !grants.is_complete() => Some("an approved action got no permit"),
            Step::Grant(_) => None,
            _ => Some("its row of the table is not complete"),
        };
        match why {
            Some(why) => Err(EvolveError::Append { sequence: header.sequence, why }),
            None if may_rest(self.core.state) => Ok(()),
            None => Err(EvolveError::Append { sequence: header.sequence, why: "no instance rests in this state" }),
        }
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

    fn read(&mut self, now: Now<'_>) -> Result<(), EvolveError> {
        if now.first { self.read_first(now) } else { self.read_next(now) }
    }

    /// The first entry of an append says which row of the table it is.
    fn read_first(&mut self, now: Now<'_>) -> Result<(), EvolveError> {
        let state = self.core.state;
        match &now.header.body {
            Body::Outcome(outcome) => self.outcome(now, outcome),
            Body::Sweep(sweep) => self.sweep(now, sweep),
            Body::Conflict(conflict) => self.conflict(now, conflict),
            _ if state.is_terminal() => Err(now.unlawful("the instance is terminal")),
            Body::Edge(edge) => self.first_edge(now, edge),
            Body::Refusal(refusal) => self.first_refusal(now, refusal),
            Body::Permit(permit) => self.batch_permit(now, permit, Batch::default()),
            Body::Start(start) => {
                now.ensure(now.header.verdict.is_none(), "a start of its own asks nobody")?;
                self.start(now, start, false)?;
                self.step = Step::Whole;
                Ok(())
            }
            Body::Gate(gate) => {
                now.ensure(state == State::Running, "a gate opens in RUNNING")?;
                now.ensure(gate.subject != GateSubject::Start, "a start is gated in its own append")?;
                self.open_gate(now, gate, 0)
            }
            Body::GateEvent(event) => self.gate_event(now, event),
            Body::Decision(decision) => self.decision(now, decision),
            _ => Err(now.unlawful("no row of the table begins with it")),
        }
    }

    /// What follows is set by what came before.
    fn read_next(&mut self, now: Now<'_>) -> Result<(), EvolveError> {
        let step = std::mem::replace(&mut self.step, Step::Whole);
        match (step, &now.header.body) {
            (Step::Created { verdict }, Body::Edge(edge)) => {
                now.same(verdict.as_ref())?;
                self.start_edge(now, edge)
            }
            (Step::Gate { subject, verdict }, Body::Gate(gate)) => {
                now.same(verdict.as_ref())?;
                now.ensure(gate.subject == subject, "the gate stands in front of something else")?;
                self.open_gate(now, gate, 0)
            }
            (Step::Wait { verdict }, Body::Edge(edge)) => {
                now.same(verdict.as_ref())?;
                self.edge(now, edge, State::WaitingForHuman, Cause::Gate, false)
            }
            (Step::StartDenied { verdict }, Body::Edge(edge)) => {
                now.same(verdict.as_ref())?;
                self.edge(now, edge, State::Running, Cause::Start, false)?;
                self.step = Step::Deny { verdict };
                Ok(())
            }
            (Step::Deny { verdict }, Body::Edge(edge)) => {
                now.same(verdict.as_ref())?;
                self.edge(now, edge, State::Terminated, Cause::Denial, false)
            }
            (Step::Stop { cause, objection, verdict }, Body::Edge(edge)) => {
                now.same(verdict.as_ref())?;
                self.edge(now, edge, State::Terminated, cause, objection)
            }
            (Step::Batch(batch), body) => self.next_of_batch(now, body, batch),
            (Step::SystemReject, Body::Decision(decision)) => {
                self.system_reject(now, decision)?;
                now.ensure(decision.on_behalf.is_none(), "nobody stopped it")?;
                now.ensure(now.answer() == Some(Answer::Deny), "policy does not deny")?;
                self.step = Step::Reject { by: Rejecting::Denied, verdict: now.verdict() };
                Ok(())
            }
            (Step::Reject { by, verdict }, Body::Edge(edge)) => {
                now.same(verdict.as_ref())?;
                self.rejected_edge(now, edge, by)
            }
            (Step::Fall { objection, verdict }, Body::Edge(edge)) => {
                now.same(verdict.as_ref())?;
                self.edge(now, edge, State::Terminated, Cause::Follow, objection)
            }
            (Step::Resolve { decision }, Body::Edge(edge)) => self.resolving_edge(now, edge, decision.as_ref()),
            (Step::Resume { verdict }, Body::Edge(edge)) => {
                now.same(verdict.as_ref())?;
                self.edge(now, edge, State::Resumed, Cause::Follow, false)?;
                self.step = Step::Rerun { verdict };
                Ok(())
            }
            (Step::Rerun { verdict }, Body::Edge(edge)) => {
                now.same(verdict.as_ref())?;
                self.rerun(now, edge, verdict)
            }
            (Step::Carry { to, action, verdict }, Body::Edge(edge)) => {
                now.same(verdict.as_ref())?;
                now.ensure(edge.action == Some(action), "another proposal was approved")?;
                let cause = if to == State::Completed { Cause::Complete } else { Cause::Terminate };
                self.edge(now, edge, to, cause, false)
            }
            (Step::Grant(grants), body) => self.next_of_grants(now, body, grants),
            _ => Err(now.unlawful("it does not follow from the entry before")),
        }
    }

    /// One edge. Gates close when WAITING is left.
    fn edge(&mut self, now: Now<'_>, edge: &Edge, to: State, cause: Cause, objection: bool) -> Result<(), EvolveError> {
        if edge.from != self.core.state || !is_edge(edge.from, edge.to) {
            return Err(EvolveError::Edge {
                sequence: now.header.sequence,
                state: self.core.state,
                from: edge.from,
                to: edge.to,
            });
        }
        now.ensure(edge.to == to, "it leads elsewhere than its row of the table")?;
        now.ensure(edge.cause == cause, "it names another cause than its row of the table")?;
        now.ensure(edge.objection == objection, "objection and verdict do not agree")?;
        if to == State::Completed {
            now.ensure(self.open.is_empty(), "a start is open")?;
        }
        if to == State::WaitingForHuman {
            let caller = self.gate.as_ref().and_then(|g| g.caller);
            now.ensure(self.open.keys().all(|p| Some(*p) == caller), "a start is open")?;
            now.ensure(caller.is_none_or(|p| self.open.contains_key(&p)), "the caller's start is not open")?;
        }
        self.core.state = to;
        self.core.updated = now.header.claimed;
        Ok(())
    }

    fn start_edge(&mut self, now: Now<'_>, edge: &Edge) -> Result<(), EvolveError> {
        let verdict = now.verdict();
        self.edge(now, edge, State::Running, Cause::Start, false)?;
        self.step = match now.answer() {
            Some(Answer::Allow) => Step::Whole,
            Some(Answer::NeedsApproval) => Step::Gate { subject: GateSubject::Start, verdict },
            Some(Answer::Deny) | None => return Err(now.unlawful("policy did not allow it")),
        };
        Ok(())
    }

    fn first_edge(&mut self, now: Now<'_>, edge: &Edge) -> Result<(), EvolveError> {
        match (self.core.state, edge.cause) {
            (State::Created, Cause::Start) => self.start_edge(now, edge),
            (State::Created, Cause::Terminate | Cause::Deadline) => {
                self.check_clock(now, edge.cause)?;
                let objection = now.objects();
                self.edge(now, edge, State::Running, edge.cause, objection)?;
                self.step = Step::Stop { cause: edge.cause, objection, verdict: now.verdict() };
                Ok(())
            }
            (State::Running, Cause::Terminate | Cause::Deadline) => {
                self.check_clock(now, edge.cause)?;
                let objection = now.objects();
                self.edge(now, edge, State::Terminated, edge.cause, objection)
            }
            (State::Running, Cause::Complete) => {
                now.allowed()?;
                self.edge(now, edge, State::Completed, Cause::Complete, false)
            }
            (state, _) => Err(if is_edge(edge.from, edge.to) && edge.from == state {
                now.unlawful("no row of the table takes this edge by itself")
            } else {
                EvolveError::Edge { sequence: now.header.sequence, state, from: edge.from, to: edge.to }
            }),
        }
    }

    /// Clocks are SYSTEM's, and act only once their time has come.
    fn check_clock(&self, now: Now<'_>, cause: Cause) -> Result<(), EvolveError> {
        let due = match cause {
            Cause::Deadline => self.created.deadline.is_some_and(|deadline| now.at >= deadline),
            Cause::Expiry => self.gate.as_ref().is_some_and(|gate| gate.has_expired(now.at)),
            _ => return Ok(()),
        };
        now.ensure(now.header.actor == Pseudonym::SYSTEM, "only SYSTEM acts on a clock")?;
        now.ensure(due, "its time had not come")
    }

    fn rejected_edge(&mut self, now: Now<'_>, edge: &Edge, by: Rejecting) -> Result<(), EvolveError> {
        let (fits, objection) = match by {
            Rejecting::Person | Rejecting::Denied => (edge.cause == Cause::Decision, false),
            Rejecting::System { stopper: Some(stopper) } => {
                (edge.cause == Cause::Terminate && now.header.actor == stopper, now.objects())
            }
            Rejecting::System { stopper: None } => {
                (matches!(edge.cause, Cause::Expiry | Cause::Deadline), now.objects())
            }
        };
        now.ensure(fits, "the cause is not that of the REJECT before")?;
        self.check_clock(now, edge.cause)?;
        self.edge(now, edge, State::Rejected, edge.cause, objection)?;
        self.take_gate();
        self.step = Step::Fall { objection, verdict: now.verdict() };
        Ok(())
    }

    fn resolving_edge(&mut self, now: Now<'_>, edge: &Edge, decided: Option<&Verdict>) -> Result<(), EvolveError> {
        now.allowed()?;
        let Some(gate) = &self.gate else { return Err(now.unlawful("no gate is open")) };
        let to = if gate.is_overridden() { State::Overridden } else { State::Approved };
        if gate.live_items().next().is_none() {
            // Nothing is left to be asked about: the edge follows from the decision itself.
            now.same(decided)?;
        }
        self.edge(now, edge, to, Cause::Decision, false)?;
        self.step = Step::Resume { verdict: now.verdict() };
        Ok(())
    }

    fn rerun(&mut self, now: Now<'_>, edge: &Edge, verdict: Option<Verdict>) -> Result<(), EvolveError> {
        self.edge(now, edge, State::Running, Cause::Follow, false)?;
        let Some(gate) = self.take_gate() else { return Err(now.unlawful("no gate is open")) };
        let carried = gate.live_items().next().map(|item| item.action);
        self.step = match (gate.subject, carried) {
            (GateSubject::Complete, Some(action)) => Step::Carry { to: State::Completed, action, verdict },
            (GateSubject::Terminate, Some(action)) => Step::Carry { to: State::Terminated, action, verdict },
            (GateSubject::Start | GateSubject::Complete | GateSubject::Terminate, _) => Step::Whole,
            (GateSubject::Actions, _) => Step::Grant(Grants { gate, given: Vec::new(), fresh: None }),
        };
        Ok(())
    }

    fn first_refusal(&mut self, now: Now<'_>, refusal: &Refusal) -> Result<(), EvolveError> {
        self.check_refusal(now, refusal)?;
        let frozen = refusal.reason == RefusalReason::Frozen;
        self.step = match (self.core.state, refusal.question) {
            (State::Created, QuestionKind::Start) if frozen => Step::Whole,
            (State::Created, QuestionKind::Start) => Step::StartDenied { verdict: now.verdict() },
            (State::Running, QuestionKind::CallTool | QuestionKind::Dispatch) => {
                self.denied(refusal);
                let mut batch = Batch { items: 1, ..Batch::default() };
                batch.refuse(now, refusal);
                Step::Batch(batch)
            }
            (State::Running, QuestionKind::Complete) => Step::Whole,
            (State::Created | State::Running | State::WaitingForHuman, QuestionKind::Terminate) if !frozen => {
                Step::Whole
            }
            (State::WaitingForHuman, QuestionKind::Approve | QuestionKind::Override) if frozen => Step::Whole,
            (State::WaitingForHuman, QuestionKind::Operation) if !frozen => Step::Whole,
            _ => return Err(now.unlawful("nothing of the kind can be refused in this state")),
        };
        Ok(())
    }

    fn check_refusal(&self, now: Now<'_>, refusal: &Refusal) -> Result<(), EvolveError> {
        let verdict = now.header.verdict.as_ref();
        // An operation is not gated: whatever is not a yes to it is a no.
        let operation = refusal.question == QuestionKind::Operation;
        let denied = verdict.is_some_and(|v| v.decision == Answer::Deny || operation && v.decision != Answer::Allow);
        let error = verdict.is_some_and(|v| v.error);
        let fits = match refusal.reason {
            RefusalReason::Policy => denied && !error,
            RefusalReason::PolicyError => denied && error,
            RefusalReason::UnknownTool => denied,
            RefusalReason::Frozen => true,
        };
        now.ensure(fits, "reason and verdict do not agree")
    }

    fn denied(&mut self, refusal: &Refusal) {
        if refusal.reason != RefusalReason::Frozen {
            self.core.denials = self.core.denials.saturating_add(1);
        }
    }

    fn next_of_batch(&mut self, now: Now<'_>, body: &Body, mut batch: Batch) -> Result<(), EvolveError> {
        if let Some(fresh) = batch.fresh.take() {
            match body {
                Body::Start(start) if start.permit == fresh.permit => {
                    now.same(fresh.verdict.as_ref())?;
                    self.start(now, start, fresh.dispatch)?;
                    self.step = Step::Batch(batch);
                    return Ok(());
                }
                _ => now.ensure(!fresh.dispatch, "a dispatch is started in its permit's append")?,
            }
        }
        match body {
            Body::Permit(permit) => self.batch_permit(now, permit, batch),
            Body::Refusal(refusal) => {
                let action = matches!(refusal.question, QuestionKind::CallTool | QuestionKind::Dispatch);
                now.ensure(action, "it does not belong to a batch of actions")?;
                self.check_refusal(now, refusal)?;
                batch.items += 1;
                now.ensure(batch.items <= MAX_ITEMS, "a batch has at most 16 actions")?;
                self.denied(refusal);
                batch.refuse(now, refusal);
                self.step = Step::Batch(batch);
                Ok(())
            }
            Body::Gate(gate) => {
                now.ensure(gate.subject == GateSubject::Actions, "the gate stands in front of something else")?;
                now.ensure(batch.permits == 0, "a gated batch is permitted when its gate resolves")?;
                let ends = batch.denied && self.created.on_deny == OnDeny::Terminate;
                now.ensure(!ends, "a denial ends this instance")?;
                self.open_gate(now, gate, batch.items)
            }
            Body::Edge(edge) => {
                let ends = batch.denied && self.created.on_deny == OnDeny::Terminate;
                now.ensure(ends && batch.permits == 0, "no denial ends this instance")?;
                now.same(batch.denial.as_ref())?;
                self.edge(now, edge, State::Terminated, Cause::Denial, false)
            }
            _ => Err(now.unlawful("it does not belong to a batch of actions")),
        }
    }

    fn batch_permit(&mut self, now: Now<'_>, permit: &Permit, mut batch: Batch) -> Result<(), EvolveError> {
        now.ensure(permit.item.is_none(), "it names a gate that it did not come through")?;
        batch.items += 1;
        batch.permits += 1;
        now.ensure(batch.items <= MAX_ITEMS, "a batch has at most 16 actions")?;
        batch.fresh = Some(self.permit(now, permit)?);
        self.step = Step::Batch(batch);
        Ok(())
    }

    fn permit(&mut self, now: Now<'_>, permit: &Permit) -> Result<Fresh, EvolveError> {
        now.ensure(self.core.state == State::Running, "permits are given in RUNNING")?;
        now.allowed()?;
        let dispatch = match permit.question {
            QuestionKind::CallTool => false,
            QuestionKind::Dispatch => true,
            _ => return Err(now.unlawful("only an action is permitted")),
        };
        let id = permit.permit;
        let seen = self.live.contains_key(&id)
            || self.open.contains_key(&id)
            || self.unknown.contains_key(&id)
            || self.settled.contains_key(&id);
        now.ensure(!seen, "the permit was given before")?;
        now.ensure(permit.enforced == self.created.enforced, "it is enforced otherwise than its instance")?;
        now.ensure(permit.expires > now.at, "it has expired")?;
        let live = LivePermit { expires: permit.expires, sequence: now.header.sequence };
        let was = self.live.insert(id, live);
        self.undo.permits.push(Change::Live(id, was));
        Ok(Fresh { permit: id, dispatch, verdict: now.verdict() })
    }

    /// Consumes a permit, in RUNNING and before its expiry.
    fn start(&mut self, now: Now<'_>, start: &Start, dispatch: bool) -> Result<(), EvolveError> {
        now.ensure(self.core.state == State::Running, "starts are taken in RUNNING")?;
        let Some(permit) = self.live.get(&start.permit).copied() else {
            return Err(now.unlawful("there is no such permit to consume"));
        };
        now.ensure(now.at <= permit.expires, "the permit had expired")?;
        now.ensure(start.not_after >= now.at, "nothing might be begun any more")?;
        let run = match &start.by {
            StartedBy::Agent => {
                now.ensure(!dispatch, "a dispatch is carried out by a runner")?;
                None
            }
            StartedBy::Run(run) => {
                now.ensure(dispatch, "a runner carries out dispatches only")?;
                now.ensure(run.fence == now.header.sequence, "the fence is not the start's sequence")?;
                now.ensure(run.attempt > 0, "attempts count from 1")?;
                Some(Box::new(run.clone()))
            }
        };
        self.live.remove(&start.permit);
        self.undo.permits.push(Change::Live(start.permit, Some(permit)));
        let open = OpenStart {
            sequence: now.header.sequence,
            permit_sequence: permit.sequence,
            started: now.header.claimed,
            not_after: start.not_after,
            run,
        };
        self.open.insert(start.permit, open);
        self.undo.permits.push(Change::Open(start.permit, None));
        Ok(())
    }

    fn settle(&mut self, permit: PermitId, outcome: OutcomeKind) {
        if let Some(open) = self.open.remove(&permit) {
            self.undo.permits.push(Change::Open(permit, Some(open.clone())));
            if outcome == OutcomeKind::Unknown {
                self.unknown.insert(permit, open);
                self.undo.permits.push(Change::Unknown(permit, None));
                return;
            }
        } else if let Some(open) = self.unknown.remove(&permit) {
            self.undo.permits.push(Change::Unknown(permit, Some(open)));
        }
        let was = self.settled.insert(permit, Settled::Outcome(outcome));
        self.undo.permits.push(Change::Settled(permit, was));
    }

    fn outcome(&mut self, now: Now<'_>, outcome: &Outcome) -> Result<(), EvolveError> {
        if outcome.supersedes {
            now.ensure(self.unknown.contains_key(&outcome.permit), "there is no unknown outcome to replace")?;
            now.ensure(outcome.outcome != OutcomeKind::Unknown, "unknown does not replace unknown")?;
        } else {
            now.ensure(self.open.contains_key(&outcome.permit), "there is no such start without an outcome")?;
        }
        self.settle(outcome.permit, outcome.outcome);
        self.step = Step::Whole;
        Ok(())
    }

    fn sweep(&mut self, now: Now<'_>, sweep: &Sweep) -> Result<(), EvolveError> {
        now.ensure(now.header.actor == Pseudonym::SYSTEM, "only SYSTEM sweeps")?;
        now.ensure(self.open.contains_key(&sweep.permit), "there is no such start without an outcome")?;
        self.settle(sweep.permit, OutcomeKind::Unknown);
        self.step = Step::Whole;
        Ok(())
    }

    fn conflict(&mut self, now: Now<'_>, conflict: &Conflict) -> Result<(), EvolveError> {
        let settled = matches!(self.settled.get(&conflict.permit), Some(Settled::Outcome(_)));
        let unknown = self.unknown.contains_key(&conflict.permit) && conflict.outcome == OutcomeKind::Unknown;
        now.ensure(settled || unknown, "there is no final outcome that it conflicts with")?;
        self.step = Step::Whole;
        Ok(())
    }

    /// Opens a gate; `answered` actions of the same batch stand before it in the append.
    fn open_gate(&mut self, now: Now<'_>, gate: &Gate, answered: usize) -> Result<(), EvolveError> {
        now.ensure(self.gate.is_none(), "a gate is open")?;
        let Some(verdict) = now.header.verdict.as_ref().filter(|v| v.decision == Answer::NeedsApproval) else {
            return Err(now.unlawful("policy asked nobody"));
        };
        let count = gate.items.len() + gate.cleared.len();
        now.ensure(!gate.items.is_empty() && count + answered <= MAX_ITEMS, "a gate has 1 to 16 items")?;
        now.ensure(distinct(gate.items.iter().map(|i| i.item)), "an item stands twice")?;
        let actions = gate.items.iter().map(|i| i.action).chain(gate.cleared.iter().map(|c| c.action));
        now.ensure(distinct(actions), "an action stands twice")?;
        now.ensure(gate.items.iter().all(|item| item_fits(gate.subject, item)), "an item is not the gate's subject's")?;
        let single = gate.subject == GateSubject::Actions || (gate.items.len() == 1 && gate.cleared.is_empty());
        now.ensure(single, "only actions come in batches")?;
        now.ensure(gate.items.iter().all(rules_are_sound), "an item has no rules, or not in order")?;
        let named = gate.items.iter().flat_map(|i| &i.rules).all(|r| verdict.rules.contains(&r.rule));
        let covered = verdict.rules.iter().all(|n| gate.items.iter().any(|i| i.rules.iter().any(|r| r.rule == *n)));
        now.ensure(named && covered, "its rules are not those of the verdict")?;
        let expiry = match gate.on_timeout {
            OnTimeout::Reject => gate.expires.is_some_and(|expires| expires > now.at),
            OnTimeout::Never => gate.expires.is_none(),
        };
        now.ensure(expiry, "expiry and timeout do not agree")?;
        now.ensure(gate.caller.is_none() || gate.subject != GateSubject::Complete, "COMPLETED waits for every start")?;
        self.keep_gate();
        self.gate = Some(Box::new(OpenGate {
            gate: gate.gate,
            subject: gate.subject,
            sequence: now.header.sequence,
            opened: now.header.claimed,
            expires: gate.expires,
            on_timeout: gate.on_timeout,
            caller: gate.caller,
            proposer: now.header.actor,
            chain: now.header.on_behalf_of.clone(),
            items: gate.items.iter().map(open_item).collect(),
            cleared: gate.cleared.clone(),
            fired: std::collections::BTreeSet::new(),
        }));
        self.step = Step::Wait { verdict: now.verdict() };
        Ok(())
    }

    /// Remembers the gate as it was when the append began.
    fn keep_gate(&mut self) {
        if self.undo.gate.is_none() {
            self.undo.gate = Some(self.gate.clone());
        }
    }

    fn take_gate(&mut self) -> Option<Box<OpenGate>> {
        self.keep_gate();
        self.gate.take()
    }

    fn waiting_at(&self, now: Now<'_>, gate: GateId) -> Result<&OpenGate, EvolveError> {
        now.ensure(self.core.state == State::WaitingForHuman, "the instance is not waiting")?;
        match &self.gate {
            Some(open) if open.gate == gate => Ok(open),
            _ => Err(now.unlawful("the gate is not open")),
        }
    }

    fn gate_event(&mut self, now: Now<'_>, event: &GateEvent) -> Result<(), EvolveError> {
        let open = self.waiting_at(now, event.gate)?;
        now.ensure(now.answer() != Some(Answer::Deny), "policy refused it")?;
        now.ensure(
            (event.event == GateEventKind::Reassign) == event.to.is_some(),
            "only a reassignment names a person",
        )?;
        let fired = OpenGate::fired_key(event.event, event.rule.as_ref(), event.step);
        now.ensure(fired.is_some() == event.step.is_some(), "only a timer has steps, and has one")?;
        if let Some(fired) = fired {
            now.ensure(!open.fired.contains(&fired), "this step has fired before")?;
            self.keep_gate();
            if let Some(gate) = &mut self.gate {
                gate.fired.insert(fired);
            }
        }
        self.step = Step::Whole;
        Ok(())
    }

    fn system_reject(&self, now: Now<'_>, decision: &Decision) -> Result<(), EvolveError> {
        self.waiting_at(now, decision.gate)?;
        let system = now.header.actor == Pseudonym::SYSTEM && decision.person == Pseudonym::SYSTEM;
        now.ensure(system && decision.kind == DecisionKind::Reject, "it is not SYSTEM's REJECT")?;
        let bare = decision.items.is_empty()
            && decision.rules.is_empty()
            && decision.lapsed.is_empty()
            && decision.delta.is_none()
            && decision.effect == Effect::Resolving;
        now.ensure(bare, "SYSTEM decides about the gate as a whole")
    }

    fn decision(&mut self, now: Now<'_>, decision: &Decision) -> Result<(), EvolveError> {
        if now.header.actor == Pseudonym::SYSTEM || decision.person == Pseudonym::SYSTEM {
            self.system_reject(now, decision)?;
            let by = Rejecting::System { stopper: decision.on_behalf };
            self.step = Step::Reject { by, verdict: now.verdict() };
            return Ok(());
        }
        let open = self.waiting_at(now, decision.gate)?;
        now.ensure(decision.on_behalf.is_none(), "a person decides for themselves")?;
        now.ensure(!open.has_expired(now.at), "the gate had expired")?;
        now.ensure(now.header.verdict.is_some(), "policy was not asked who may decide")?;
        check_form(now, open, decision)?;
        let excluded = open.excluded(
            decision.kind,
            now.header.actor,
            decision.person,
            decision.items.iter().map(|i| i.item),
            &self.chain,
        );
        let eligible = !now.objects() && excluded.is_none();
        match decision.effect {
            Effect::NotEligible => now.ensure(!eligible, "the person is eligible")?,
            Effect::Stale | Effect::PolicyError => {
                let erred = now.header.verdict.as_ref().is_some_and(|v| v.error);
                now.ensure(
                    eligible || (decision.effect == Effect::PolicyError && erred),
                    "the person is not eligible",
                )?;
            }
            Effect::HardDenied => {
                now.ensure(eligible && decision.kind != DecisionKind::Reject, "the person is not eligible")?;
                now.ensure(
                    decision.rules.is_empty() && decision.lapsed.is_empty(),
                    "what is not effective changes nothing",
                )?;
                self.step = Step::SystemReject;
                return Ok(());
            }
            Effect::Counted | Effect::Resolving => {
                now.ensure(eligible, "the person is not eligible")?;
                return self.effective(now, decision);
            }
        }
        now.ensure(decision.rules.is_empty() && decision.lapsed.is_empty(), "what is not effective changes nothing")?;
        self.step = Step::Whole;
        Ok(())
    }

    /// An eligible vote: counted again, from its entry.
    fn effective(&mut self, now: Now<'_>, decision: &Decision) -> Result<(), EvolveError> {
        let resolving = decision.effect == Effect::Resolving;
        if decision.kind == DecisionKind::Reject {
            now.ensure(resolving, "an eligible REJECT ends the instance")?;
            self.step = Step::Reject { by: Rejecting::Person, verdict: now.verdict() };
            return Ok(());
        }
        self.keep_gate();
        let Some(gate) = &mut self.gate else { return Err(now.unlawful("no gate is open")) };
        gate.cast(&Cast::of(decision, now.header.actor));
        now.ensure(gate.is_met() == resolving, "the votes do not come to what the decision claims")?;
        self.step = if resolving { Step::Resolve { decision: now.verdict() } } else { Step::Whole };
        Ok(())
    }

    fn next_of_grants(&mut self, now: Now<'_>, body: &Body, mut grants: Grants) -> Result<(), EvolveError> {
        if let Some(fresh) = grants.fresh.take() {
            match body {
                Body::Start(start) if start.permit == fresh.permit => {
                    // A tool's start is begun by its agent, which is not there while people are asked.
                    now.ensure(fresh.dispatch, "an approved action is begun by its agent")?;
                    now.same(fresh.verdict.as_ref())?;
                    self.start(now, start, true)?;
                    self.step = Step::Grant(grants);
                    return Ok(());
                }
                _ => now.ensure(!fresh.dispatch, "a dispatch is started in its permit's append")?,
            }
        }
        match body {
            Body::Permit(permit) => {
                now.ensure(!grants.given.contains(&permit.action), "one approval gives one permit")?;
                let fits = match grants.gate.live_items().find(|i| i.action == permit.action) {
                    Some(item) => {
                        let through = GateItemRef { gate: grants.gate.gate, item: item.item };
                        permit.item == Some(through)
                            && permit.question == item.question
                            && Some(&permit.tool) == item.tool.as_ref()
                            && permit.digest == item.digest
                    }
                    None => {
                        let cleared = grants.gate.cleared.iter().find(|c| c.action == permit.action);
                        permit.item.is_none() && cleared.is_some_and(|c| c.digest == permit.digest)
                    }
                };
                now.ensure(fits, "it is not what was approved")?;
                grants.fresh = Some(self.permit(now, permit)?);
                grants.given.push(permit.action);
            }
            Body::Refusal(refusal) => {
                let cleared = refusal.action.filter(|a| grants.gate.cleared.iter().any(|c| c.action == *a));
                let Some(action) = cleared else { return Err(now.unlawful("what was approved is not refused")) };
                now.ensure(!grants.given.contains(&action), "it was answered before")?;
                now.ensure(
                    now.objects() && refusal.reason != RefusalReason::Frozen,
                    "reason and verdict do not agree",
                )?;
                self.denied(refusal);
                grants.given.push(action);
            }
            _ => return Err(now.unlawful("it does not follow from the entry before")),
        }
        self.step = Step::Grant(grants);
        Ok(())
    }
}

impl Batch {
    fn refuse(&mut self, now: Now<'_>, refusal: &Refusal) {
        if refusal.reason != RefusalReason::Frozen {
            self.denied = true;
            // The first denial is the one that ends the instance, where one does.
            if self.denial.is_none() {
                self.denial = now.verdict();
            }
        }
    }
}

impl Grants {
    fn is_complete(&self) -> bool {
        let live = self.gate.live_items().map(|i| i.action);
        live.chain(self.gate.cleared.iter().map(|c| c.action)).all(|action| self.given.contains(&action))
    }
}

/// What can be told of a decision's form from its entry.
fn check_form(now: Now<'_>, gate: &OpenGate, decision: &Decision) -> Result<(), EvolveError> {
    let reject = decision.kind == DecisionKind::Reject;
    now.ensure(reject == decision.items.is_empty(), "APPROVE and OVERRIDE name items, REJECT is of the gate")?;
    now.ensure(
        (decision.kind == DecisionKind::Override) == decision.delta.is_some(),
        "an OVERRIDE, and only it, has a delta",
    )?;
    now.ensure(distinct(decision.items.iter().map(|i| i.item)), "an item stands twice")?;
    now.ensure(distinct(decision.rules.iter().map(|i| i.item)), "an item stands twice")?;
    for decided in &decision.items {
        let Some(item) = gate.item(decided.item).filter(|i| !i.dropped) else {
            return Err(now.unlawful("the gate has no such item"));
        };
        now.ensure(item.digest == decided.digest, "it decides about something else")?;
        let approve = decision.kind == DecisionKind::Approve;
        now.ensure(!approve || decided.instead.is_none(), "only an OVERRIDE changes an item")?;
        now.ensure(decided.instead != Some(item.digest), "an OVERRIDE changes its item")?;
        let dropped = decision.kind == DecisionKind::Override && decided.instead.is_none();
        now.ensure(!dropped || gate.subject != GateSubject::Start, "a start cannot be dropped")?;
    }
    for forms in &decision.rules {
        let sorted = forms.rules.is_sorted_by(|a, b| a.rule < b.rule) && !forms.rules.is_empty();
        now.ensure(sorted && gate.item(forms.item).is_some_and(|i| !i.dropped), "its rules are not in order")?;
    }
    if reject {
        return now.ensure(decision.rules.is_empty() && decision.lapsed.is_empty(), "a REJECT counts nothing");
    }
    let justified = now.header.payloads.iter().any(|p| p.role == PayloadRole::Justification);
    now.ensure(justified, "it has no justification")?;
    now.ensure(decision.shown.is_some(), "it does not say what was shown")
}

fn check_header(header: &Header) -> Result<(), EvolveError> {
    if header.semantics != SEMANTICS {
        return Err(EvolveError::Semantics(header.semantics));
    }
    if header.stream.kind != StreamKind::Instance {
        return Err(EvolveError::Stream);
    }
    if header.append.index >= header.append.length {
        return Err(EvolveError::Append { sequence: header.sequence, why: "its position is past its end" });
    }
    Ok(())
}

fn item_fits(subject: GateSubject, item: &GateItem) -> bool {
    match subject {
        GateSubject::Start => item.question == QuestionKind::Start && item.tool.is_none(),
        GateSubject::Complete => item.question == QuestionKind::Complete && item.tool.is_none(),
        GateSubject::Terminate => item.question == QuestionKind::Terminate && item.tool.is_none(),
        GateSubject::Actions => {
            matches!(item.question, QuestionKind::CallTool | QuestionKind::Dispatch) && item.tool.is_some()
        }
    }
}

fn rules_are_sound(item: &GateItem) -> bool {
    !item.rules.is_empty() && item.rules.is_sorted_by(|a, b| a.rule < b.rule)
}

fn open_item(item: &GateItem) -> OpenItem {
    OpenItem {
        item: item.item,
        action: item.action,
        question: item.question,
        tool: item.tool.clone(),
        digest: item.digest,
        rules: item.rules.clone(),
        involved: item.involved.clone(),
        authors: Vec::new(),
        votes: Vec::new(),
        replaced: false,
        dropped: false,
    }
}

fn restore<V>(map: &mut BTreeMap<PermitId, V>, id: PermitId, was: Option<V>) {
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

    /// A permit that was given and not started; it may have lapsed.
    pub fn live_permit(&self, permit: PermitId) -> Option<LivePermit> {
        self.live.get(&permit).copied()
    }

    /// Permits that could be started at `at`.
    pub fn startable(&self, at: Timestamp) -> impl Iterator<Item = (PermitId, LivePermit)> + '_ {
        let at = at.max(self.core.latest);
        let running = self.core.state == State::Running;
        self.live.iter().filter(move |(_, p)| running && at <= p.expires).map(|(id, p)| (*id, *p))
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

    /// Acting principal, then those on whose behalf it was created.
    pub(crate) fn chain(&self) -> &[Pseudonym] {
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
            && self.gate == other.gate
            && (self.is_whole() || self.step == other.step)
    }
}

impl Eq for Instance {}
