//! Permits, starts and outcomes: given once, consumed once, final once.

use std::sync::Arc;

use countersign_gateway_model::{Outcome as OutcomeKind, PermitId, Pseudonym, State};
use countersign_ledger_entry::body::{Conflict, Outcome, Permit, QuestionKind, Start, StartedBy, Sweep};

use super::step::{Batch, Fresh, Reading, Step};
use super::{Change, Instance, LivePermit, OpenStart, Reserved, Settled};
use crate::MAX_ITEMS;
use crate::error::EvolveError;

impl Instance {
    pub(super) fn batch_permit(
        &mut self,
        now: Reading<'_>,
        permit: &Permit,
        mut batch: Batch,
    ) -> Result<(), EvolveError> {
        now.ensure(permit.item.is_none(), "it names a gate that it did not come through")?;
        if let Some(resting) = batch.uses.take() {
            self.rest_on(now, permit, &resting)?;
        }
        batch.items += 1;
        batch.permits += 1;
        now.ensure(batch.items <= MAX_ITEMS, "a batch has at most 16 actions")?;
        batch.fresh = Some(self.permit(now, permit)?);
        self.step = Step::Batch(batch);
        Ok(())
    }

    pub(super) fn permit(&mut self, now: Reading<'_>, permit: &Permit) -> Result<Fresh, EvolveError> {
        now.ensure(self.core.state == State::Running, "permits are given in RUNNING")?;
        if permit.enforced {
            now.allowed()?;
        } else {
            now.ensure(!self.created.enforced, "it is enforced otherwise than its instance")?;
            self.passes(now)?;
        }
        let dispatch = match permit.question {
            QuestionKind::CallTool | QuestionKind::Operation => false,
            QuestionKind::Dispatch => true,
            _ => return Err(now.unlawful("only an action is permitted")),
        };
        let id = permit.permit;
        let seen = self.live.contains_key(&id)
            || self.open.contains_key(&id)
            || self.unknown.contains_key(&id)
            || self.settled.contains_key(&id);
        now.ensure(!seen, "the permit was given before")?;
        // Under version 1 no workflow was in shadow; from version 2 on a shadow may end while an instance lives.
        let fits = now.header.semantics > 1 || permit.enforced == self.created.enforced;
        now.ensure(fits, "it is enforced otherwise than its instance")?;
        now.ensure(permit.expires > now.at, "it has expired")?;
        let operation = permit.question == QuestionKind::Operation;
        let reserved = self.reserve(now, permit)?;
        let live = LivePermit { expires: permit.expires, sequence: now.header.sequence, operation, reserved };
        let was = self.live.insert(id, live);
        self.undo.permits.push(Change::Live(id, was));
        Ok(Fresh { permit: id, dispatch, verdict: now.verdict() })
    }

    /// What a permit takes from counters. Each taking reads a later version, so that no two have read the same state.
    fn reserve(&mut self, now: Reading<'_>, permit: &Permit) -> Result<Option<Arc<Reserved>>, EvolveError> {
        if permit.reservations.is_empty() {
            return Ok(None);
        }
        for reservation in &permit.reservations {
            let was = self.versions.get(&reservation.counter).copied();
            now.ensure(was.is_none_or(|was| reservation.version > was), "a reservation reads no later version")?;
            self.versions.insert(reservation.counter.clone(), reservation.version);
            self.undo.permits.push(Change::Version(reservation.counter.clone(), was));
        }
        let (at, expires, held) = (now.header.claimed, permit.expires, permit.reservations.clone());
        Ok(Some(Arc::new(Reserved { at, expires, held })))
    }

    /// Consumes a permit, in RUNNING and before its expiry.
    pub(super) fn start(&mut self, now: Reading<'_>, start: &Start, dispatch: bool) -> Result<(), EvolveError> {
        now.ensure(self.core.state == State::Running, "starts are taken in RUNNING")?;
        let Some(permit) = self.live.get(&start.permit).cloned() else {
            return Err(now.unlawful("there is no such permit to consume"));
        };
        now.ensure(now.at <= permit.expires, "the permit had expired")?;
        now.ensure(start.not_after >= now.at, "nothing might be begun any more")?;
        now.by_gateway(permit.operation)?;
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
        self.undo.permits.push(Change::Live(start.permit, Some(permit.clone())));
        let open = OpenStart {
            sequence: now.header.sequence,
            permit_sequence: permit.sequence,
            reserved: permit.reserved,
            started: now.header.claimed,
            operation: permit.operation,
            not_after: start.not_after,
            run,
        };
        self.open.insert(start.permit, open);
        self.undo.permits.push(Change::Open(start.permit, None));
        Ok(())
    }

    pub(super) fn settle(&mut self, permit: PermitId, outcome: OutcomeKind) {
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

    pub(super) fn outcome(&mut self, now: Reading<'_>, outcome: &Outcome) -> Result<(), EvolveError> {
        if outcome.supersedes {
            now.ensure(self.unknown.contains_key(&outcome.permit), "there is no unknown outcome to replace")?;
            now.ensure(outcome.outcome != OutcomeKind::Unknown, "unknown does not replace unknown")?;
        } else {
            now.ensure(self.open.contains_key(&outcome.permit), "there is no such start without an outcome")?;
        }
        let begun = self.open.get(&outcome.permit).or_else(|| self.unknown.get(&outcome.permit));
        now.by_gateway(begun.is_some_and(|start| start.operation))?;
        self.settle(outcome.permit, outcome.outcome);
        self.step = Step::Whole;
        Ok(())
    }

    pub(super) fn sweep(&mut self, now: Reading<'_>, sweep: &Sweep) -> Result<(), EvolveError> {
        now.ensure(now.header.actor == Pseudonym::SYSTEM, "only SYSTEM sweeps")?;
        now.ensure(self.open.contains_key(&sweep.permit), "there is no such start without an outcome")?;
        self.settle(sweep.permit, OutcomeKind::Unknown);
        self.step = Step::Whole;
        Ok(())
    }

    pub(super) fn conflict(&mut self, now: Reading<'_>, conflict: &Conflict) -> Result<(), EvolveError> {
        let settled = matches!(self.settled.get(&conflict.permit), Some(Settled::Outcome(_)));
        let unknown = self.unknown.contains_key(&conflict.permit) && conflict.outcome == OutcomeKind::Unknown;
        now.ensure(settled || unknown, "there is no final outcome that it conflicts with")?;
        self.step = Step::Whole;
        Ok(())
    }
}
