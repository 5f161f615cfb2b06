//! Reading an append: each is one row of the proposal table, whole, recognised by a small automaton.
//!
//! What it remembers between entries is in `step`.

use countersign_gateway_model::{Decision as Answer, Pseudonym, State, Verdict};
use countersign_ledger_entry::body::{Cause, Edge, GateSubject, OnDeny, QuestionKind, Refusal, RefusalReason};
use countersign_ledger_entry::{Body, Header};

use super::Instance;
use super::step::{Batch, Grants, Reading, Rejecting, Step};
use crate::MAX_ITEMS;
use crate::edges::{is_edge, may_rest};
use crate::error::EvolveError;
use crate::gate::is_action;

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
            (Step::Withdrawn, Body::Edge(edge)) => {
                now.same(None)?;
                self.edge(now, edge, State::Overridden, Cause::Follow, false)?;
                self.step = Step::Resume { verdict: None };
                Ok(())
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
            // It was withdrawn.
            (GateSubject::Grant, _) if gate.offer.is_none() => Step::Whole,
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
