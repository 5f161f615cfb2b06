//! Reading an append: each is one row of the proposal table, whole, recognised by a small automaton.

use countersign_gateway_model::{ActionId, Decision as Answer, PermitId, Pseudonym, State, Timestamp, Verdict};
use countersign_ledger_entry::body::{Cause, Edge, GateSubject, OnDeny, QuestionKind, Refusal, RefusalReason};
use countersign_ledger_entry::{Body, Header, SEMANTICS, StreamKind};

use super::Instance;
use crate::MAX_ITEMS;
use crate::edges::{is_edge, may_rest};
use crate::error::EvolveError;
use crate::gate::{OpenGate, is_action};
use crate::grant::Offer;

use super::grants::Resting;

/// Where in a row of the table an append is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
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
    /// After what is asked for in advance: its gate follows.
    Offer(Box<Offer>),
    /// After the edge to RUNNING from a grant's gate: what was given follows.
    Given { gate: Box<OpenGate>, verdict: Option<Verdict> },
}

/// Who rejects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rejecting {
    /// A person.
    Person,
    /// SYSTEM, because policy denies by now.
    Denied,
    /// SYSTEM, for whoever stops, or for a clock.
    System { stopper: Option<Pseudonym> },
}

/// Answers to a batch so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) items: usize,
    pub(super) permits: usize,
    pub(super) denied: bool,
    pub(super) denial: Option<Verdict>,
    pub(super) fresh: Option<Fresh>,
    /// Uses of grants on which the next permit rests.
    pub(super) uses: Option<Box<Resting>>,
}

/// Permits of a resolved gate so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Grants {
    pub(super) gate: Box<OpenGate>,
    pub(super) given: Vec<ActionId>,
    pub(super) fresh: Option<Fresh>,
}

/// A permit in the entry before: only its own start may follow as adjacent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fresh {
    pub(super) permit: PermitId,
    /// Its start must follow at once.
    pub(super) dispatch: bool,
    pub(super) verdict: Option<Verdict>,
}

/// Entry in hand, with what is asked of it again and again.
#[derive(Clone, Copy)]
pub(super) struct Reading<'h> {
    pub(super) header: &'h Header,
    pub(super) at: Timestamp,
    pub(super) first: bool,
}

impl Reading<'_> {
    pub(super) fn unlawful(&self, why: &'static str) -> EvolveError {
        EvolveError::Unlawful { sequence: self.header.sequence, kind: self.header.body.kind().as_str(), why }
    }

    pub(super) fn ensure(&self, holds: bool, why: &'static str) -> Result<(), EvolveError> {
        if holds { Ok(()) } else { Err(self.unlawful(why)) }
    }

    pub(super) fn answer(&self) -> Option<Answer> {
        self.header.verdict.as_ref().map(|v| v.decision)
    }

    pub(super) fn allowed(&self) -> Result<(), EvolveError> {
        self.ensure(self.answer() == Some(Answer::Allow), "policy did not allow it")
    }

    /// The gateway alone begins an operation of its own and says how it ended.
    pub(super) fn by_gateway(&self, operation: bool) -> Result<(), EvolveError> {
        let gateway = self.header.actor == Pseudonym::SYSTEM;
        self.ensure(gateway || !operation, "an operation is carried out by the gateway")
    }

    pub(super) fn same(&self, verdict: Option<&Verdict>) -> Result<(), EvolveError> {
        self.ensure(self.header.verdict.as_ref() == verdict, "it carries another verdict than its append")
    }

    pub(super) fn verdict(&self) -> Option<Verdict> {
        self.header.verdict.clone()
    }

    /// Whether policy said anything but yes, an error included.
    pub(super) fn objects(&self) -> bool {
        self.answer() != Some(Answer::Allow)
    }
}

impl Batch {
    pub(super) fn refuse(&mut self, now: Reading<'_>, refusal: &Refusal) {
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
    pub(super) fn is_complete(&self) -> bool {
        let live = self.gate.live_items().map(|i| i.action);
        live.chain(self.gate.cleared.iter().map(|c| c.action)).all(|action| self.given.contains(&action))
    }
}

pub(super) fn check_header(header: &Header) -> Result<(), EvolveError> {
    if !(1..=SEMANTICS).contains(&header.semantics) || header.body.kind().since() > header.semantics {
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

impl Instance {
    pub(super) fn check_append(&self, header: &Header) -> Result<(), EvolveError> {
        let torn = |why| Err(EvolveError::Append { sequence: header.sequence, why });
        let at = header.append;
        if header.semantics < self.core.semantics {
            return Err(EvolveError::Backwards { from: self.core.semantics, to: header.semantics });
        }
        if at.index == 0 {
            return if self.is_whole() { Ok(()) } else { torn("the append before lacks its end") };
        }
        if at.index != self.core.index + 1 || at.length != self.core.length {
            return torn("its entries are not adjacent");
        }
        let as_one = (header.semantics, header.gateway, header.boot, header.claimed)
            == (self.core.semantics, self.core.gateway, self.core.boot, self.core.claimed);
        if !as_one {
            return torn("its entries were not written as one");
        }
        Ok(())
    }

    /// At the last entry of an append, it must be a whole row of the table.
    pub(super) fn check_end(&self, header: &Header) -> Result<(), EvolveError> {
        if header.append.index + 1 < header.append.length {
            return Ok(());
        }
        let why = match &self.step {
            Step::Created { verdict } => {
                let queued = verdict.as_ref().is_none_or(|v| v.decision == Answer::Allow)
                    || !self.created.enforced && header.semantics > 1;
                (!queued).then_some("a start that needs approval was left out")
            }
            Step::Batch(batch) if batch.uses.is_some() => Some("no permit rests on a grant's use"),
            Step::Batch(batch) if batch.fresh.as_ref().is_some_and(|f| f.dispatch) => {
                Some("a dispatch is started in its permit's append")
            }
            Step::Batch(batch) if batch.denied && self.created.on_deny == OnDeny::Terminate => {
                Some("a denial ends this instance")
            }
            Step::Grant(grants) if grants.fresh.as_ref().is_some_and(|f| f.dispatch) => {
                Some("a dispatch is started in its permit's append")
            }
            Step::Grant(grants) if !grants.is_complete() => Some("an approved action got no permit"),
            Step::Whole | Step::Batch(_) | Step::Grant(_) => None,
            _ => Some("its row of the table is not complete"),
        };
        match why {
            Some(why) => Err(EvolveError::Append { sequence: header.sequence, why }),
            None if may_rest(self.core.state) => Ok(()),
            None => Err(EvolveError::Append { sequence: header.sequence, why: "no instance rests in this state" }),
        }
    }

    pub(super) fn read(&mut self, now: Reading<'_>) -> Result<(), EvolveError> {
        if now.first { self.read_first(now) } else { self.read_next(now) }
    }

    /// The first entry of an append says which row of the table it is.
    pub(super) fn read_first(&mut self, now: Reading<'_>) -> Result<(), EvolveError> {
        let state = self.core.state;
        match &now.header.body {
            Body::Outcome(outcome) => self.outcome(now, outcome),
            Body::Sweep(sweep) => self.sweep(now, sweep),
            Body::Conflict(conflict) => self.conflict(now, conflict),
            _ if state.is_terminal() => Err(now.unlawful("the instance is terminal")),
            Body::Edge(edge) => self.first_edge(now, edge),
            Body::Refusal(refusal) => self.first_refusal(now, refusal),
            Body::Permit(permit) => self.batch_permit(now, permit, Batch::default()),
            Body::TaskGrantUse(used) => self.grant_use(now, used, Batch::default()),
            Body::TaskGrant(grant) if grant.revoked => self.revoke_grant(now, grant),
            Body::TaskGrant(grant) => self.ask_grant(now, grant),
            Body::Start(start) => {
                now.ensure(now.header.verdict.is_none(), "a start of its own asks nobody")?;
                self.start(now, start, false)?;
                self.step = Step::Whole;
                Ok(())
            }
            Body::Gate(gate) => {
                now.ensure(state == State::Running, "a gate opens in RUNNING")?;
                now.ensure(gate.subject != GateSubject::Start, "a start is gated in its own append")?;
                self.open_gate(now, gate, 0, None)
            }
            Body::GateEvent(event) => self.gate_event(now, event),
            Body::Decision(decision) => self.decision(now, decision),
            Body::Lift(lift) => self.lift(now, lift),
            _ => Err(now.unlawful("no row of the table begins with it")),
        }
    }

    /// What follows is set by what came before.
    pub(super) fn read_next(&mut self, now: Reading<'_>) -> Result<(), EvolveError> {
        let step = std::mem::replace(&mut self.step, Step::Whole);
        match (step, &now.header.body) {
            (Step::Created { verdict }, Body::Edge(edge)) => {
                now.same(verdict.as_ref())?;
                self.start_edge(now, edge)
            }
            (Step::Gate { subject, verdict }, Body::Gate(gate)) => {
                now.same(verdict.as_ref())?;
                now.ensure(gate.subject == subject, "the gate stands in front of something else")?;
                self.open_gate(now, gate, 0, None)
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
                self.edge(now, edge, State::Terminated, Cause::Follow, objection)?;
                self.take_gate();
                Ok(())
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
            (Step::Offer(offer), Body::Gate(gate)) => {
                now.same(None)?;
                self.open_gate(now, gate, 0, Some(offer))
            }
            (Step::Given { gate, verdict }, Body::TaskGrant(grant)) => {
                now.same(verdict.as_ref())?;
                self.given(now, &gate, grant)
            }
            _ => Err(now.unlawful("it does not follow from the entry before")),
        }
    }

    /// Policy's yes; or, in an instance whose workflow began in shadow, any answer of policy that is no error. Whether the no
    /// was one that holds in shadow too is in the policies, and not in these bytes.
    pub(super) fn passes(&self, now: Reading<'_>) -> Result<(), EvolveError> {
        let error = now.header.verdict.as_ref().is_none_or(|verdict| verdict.error);
        if self.created.enforced || error || now.header.semantics < 2 { now.allowed() } else { Ok(()) }
    }

    /// One edge. Gates close when WAITING is left.
    pub(super) fn edge(
        &mut self,
        now: Reading<'_>,
        edge: &Edge,
        to: State,
        cause: Cause,
        objection: bool,
    ) -> Result<(), EvolveError> {
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

    pub(super) fn start_edge(&mut self, now: Reading<'_>, edge: &Edge) -> Result<(), EvolveError> {
        let verdict = now.verdict();
        self.edge(now, edge, State::Running, Cause::Start, false)?;
        // A start is the last of its append, unless people are asked.
        let ends = now.header.append.index + 1 == now.header.append.length;
        self.step = match now.answer() {
            Some(Answer::NeedsApproval) if !ends => Step::Gate { subject: GateSubject::Start, verdict },
            _ => {
                self.passes(now)?;
                Step::Whole
            }
        };
        Ok(())
    }

    pub(super) fn first_edge(&mut self, now: Reading<'_>, edge: &Edge) -> Result<(), EvolveError> {
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
                self.passes(now)?;
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
    pub(super) fn check_clock(&self, now: Reading<'_>, cause: Cause) -> Result<(), EvolveError> {
        let due = match cause {
            Cause::Deadline => self.created.deadline.is_some_and(|deadline| now.at >= deadline),
            Cause::Expiry => self.gate.as_ref().is_some_and(|gate| gate.has_expired(now.at)),
            _ => return Ok(()),
        };
        now.ensure(now.header.actor == Pseudonym::SYSTEM, "only SYSTEM acts on a clock")?;
        now.ensure(due, "its time had not come")
    }

    pub(super) fn rerun(&mut self, now: Reading<'_>, edge: &Edge, verdict: Option<Verdict>) -> Result<(), EvolveError> {
        self.edge(now, edge, State::Running, Cause::Follow, false)?;
        let Some(gate) = self.take_gate() else { return Err(now.unlawful("no gate is open")) };
        let carried = gate.live_items().next().map(|item| item.action);
        self.step = match (gate.subject, carried) {
            (GateSubject::Complete, Some(action)) => Step::Carry { to: State::Completed, action, verdict },
            (GateSubject::Terminate, Some(action)) => Step::Carry { to: State::Terminated, action, verdict },
            (GateSubject::Start | GateSubject::Complete | GateSubject::Terminate, _) => Step::Whole,
            (GateSubject::Actions, _) => Step::Grant(Grants { gate, given: Vec::new(), fresh: None }),
            (GateSubject::Grant, _) => Step::Given { gate, verdict },
        };
        Ok(())
    }

    pub(super) fn first_refusal(&mut self, now: Reading<'_>, refusal: &Refusal) -> Result<(), EvolveError> {
        use QuestionKind as Q;
        check_refusal(now, refusal)?;
        let frozen = refusal.reason == RefusalReason::Frozen;
        let lawful = match self.core.state {
            State::Created => matches!((refusal.question, frozen), (Q::Start, _) | (Q::Terminate, false)),
            State::Running => {
                matches!(
                    (refusal.question, frozen),
                    (Q::CallTool | Q::Dispatch | Q::Operation | Q::Complete, _) | (Q::Terminate, false)
                )
            }
            State::WaitingForHuman => matches!(
                (refusal.question, frozen),
                (Q::Terminate | Q::Operation, false) | (Q::Approve | Q::Override, true)
            ),
            _ => false,
        };
        now.ensure(lawful, "nothing of the kind can be refused in this state")?;
        self.step = match refusal.question {
            Q::Start if !frozen => Step::StartDenied { verdict: now.verdict() },
            _ if self.core.state == State::Running && is_action(refusal.question) => {
                self.denied(refusal);
                let mut batch = Batch { items: 1, ..Batch::default() };
                batch.refuse(now, refusal);
                Step::Batch(batch)
            }
            _ => Step::Whole,
        };
        Ok(())
    }

    pub(super) fn denied(&mut self, refusal: &Refusal) {
        if refusal.reason != RefusalReason::Frozen {
            self.core.denials = self.core.denials.saturating_add(1);
        }
    }

    pub(super) fn next_of_batch(&mut self, now: Reading<'_>, body: &Body, mut batch: Batch) -> Result<(), EvolveError> {
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
        now.ensure(
            batch.uses.is_none() || matches!(body, Body::Permit(_) | Body::TaskGrantUse(_)),
            "no permit rests on a grant's use",
        )?;
        match body {
            Body::TaskGrantUse(used) => self.grant_use(now, used, batch),
            Body::Permit(permit) => self.batch_permit(now, permit, batch),
            Body::Refusal(refusal) => {
                now.ensure(is_action(refusal.question), "it does not belong to a batch of actions")?;
                check_refusal(now, refusal)?;
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
                self.open_gate(now, gate, batch.items, None)
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
}

/// Reason and verdict of a refusal must agree.
fn check_refusal(now: Reading<'_>, refusal: &Refusal) -> Result<(), EvolveError> {
    let verdict = now.header.verdict.as_ref();
    // An operation that is no action of the instance is not gated: whatever is not a yes to it is a no.
    let operation = refusal.question == QuestionKind::Operation && refusal.action.is_none();
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
