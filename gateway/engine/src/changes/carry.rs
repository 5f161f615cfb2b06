//! Carries out what was permitted: the start, the last check, the entry that puts it in force, the swap.
//!
//! The order is the promise: a crash between any two of its steps is finished at the next start, and a request is asked
//! of one policy or the other, never of none.

use std::any::Any;
use std::sync::Arc;

use countersign_gateway_flow::{Actor, Begin, Now, Proposal, StartTerms, decide};
use countersign_gateway_model::PermitId;
use countersign_ledger_entry::Blob;
use countersign_ledger_entry::body::Step;
use countersign_policy_decide::Operation;
use serde_json::Value;

use crate::Engine;
use crate::asking::{ask, chain};
use crate::beside::Beside;
use crate::changes::names::Subject;
use crate::changes::row::{ChangeRow, Stage};
use crate::changes::under_way::UnderWay;
use crate::error::EngineError;
use crate::org::Org;

/// What was checked a last time and can come into force.
pub(super) struct Ready {
    /// What its entry names.
    pub(super) blobs: Vec<Blob>,
    /// What its entry says in its payload; none: what that of every step says.
    pub(super) description: Option<Value>,
    /// What is swapped in.
    pub(super) prepared: Box<dyn Any + Send>,
}

impl Engine {
    /// Puts what a permit is for in force, or says why not.
    pub(super) async fn carry_out(
        &self,
        org: &Arc<Org>,
        change: &UnderWay,
        mut row: ChangeRow,
        permit: PermitId,
    ) -> Result<(), EngineError> {
        // One change of what is in force at a time, so that what is checked here is what comes into force after it.
        let _one_at_a_time = org.in_force.lock().await;
        if !self.begin_operation(org, &row, permit).await? {
            return self.fail_change(org, change, row, &[Step::Failed], "it was stopped, or not begun in time").await;
        }
        // Whoever reads what came into force reads, too, that somebody lifted what stood before it.
        row.break_glass |= !self.hold(org, row.instance).await?.fold()?.lifts().is_empty();
        // Crash here: a start without an outcome. The next start finds the row at the question and comes here again.
        let ready = match row.subject {
            Subject::Bundle => self.ready_bundle(org, &row).await?,
            Subject::Catalogue => self.ready_catalogue(org, &mut row, permit).await?,
        };
        let approved = if row.gate.is_some() { &[Step::Approved][..] } else { &[] };
        let Ready { blobs, description, prepared } = match ready {
            Ok(ready) => ready,
            Err(why) => {
                return self.fail_change(org, change, row, &[approved, &[Step::Failed]].concat(), &why).await;
            }
        };
        let mut beside = Beside { blobs, ..Beside::default() };
        let asked = self.permitted(org, row.instance, permit, &mut beside).await?;
        row.stage = Stage::Activated;
        let description = description.unwrap_or_else(|| row.description());
        let steps = [approved, &[Step::Activated]].concat();
        self.note_saying(org, change, row, (&steps, description), (beside, asked)).await?;
        // Durable: the ledger says that it is in force. A crash here leaves what was before in memory only, and the next
        // start loads what the newest such entry names. Questions under way keep the policy they began with.
        self.policies().activate(org.id, prepared)?;
        self.counted_snapshot(org).await.map(drop)
    }

    /// The candidate of a row, checked against what is in force now.
    async fn ready_bundle(&self, org: &Arc<Org>, row: &ChangeRow) -> Result<Result<Ready, String>, EngineError> {
        if row.gate.is_none() && !self.still_allowed(org, row, Operation::ActivatePolicy).await? {
            return Ok(Err("policy asks for another person by now".to_owned()));
        }
        let candidate = match self.checked(org, self.bundle_of(org, row).await?).await {
            Ok(candidate) if candidate.digest == row.digest => candidate,
            Ok(_) => return Err(EngineError::damaged("the candidate's bytes are of another bundle")),
            Err(EngineError::Bundle(why) | EngineError::LockedOut(why)) => {
                return Ok(Err(format!("it does not fit what is in force now: {why}")));
            }
            Err(error) => return Err(error),
        };
        // Before it is in force: nobody who asks under it waits for that, and where it fails nothing has changed.
        org.counting.count_under(&candidate.counters).await?;
        Ok(Ok(Ready { blobs: candidate.blobs, description: None, prepared: candidate.prepared }))
    }

    /// Whether policy still lets its author do it alone: what is in force, or the authority mode, may have changed since.
    pub(super) async fn still_allowed(
        &self,
        org: &Arc<Org>,
        row: &ChangeRow,
        operation: Operation,
    ) -> Result<bool, EngineError> {
        let author = Self::author(org, row)?;
        self.describe_row(org, row)?;
        let snapshot = self.counted_snapshot(org).await?;
        let asked = self.question_of(org, &author, row, operation)?;
        Ok(ask(&snapshot, org.facts(), chain(&author, asked)).allowed())
    }

    /// Consumes the permit, unless that was done before a crash. No: it is too late to begin.
    pub(super) async fn begin_operation(
        &self,
        org: &Arc<Org>,
        row: &ChangeRow,
        permit: PermitId,
    ) -> Result<bool, EngineError> {
        let now = self.now();
        let mut held = self.hold(org, row.instance).await?;
        let fold = held.fold()?;
        if fold.state().is_terminal() {
            // Begun before a crash and stopped since: stopping cannot be vetoed.
            return Ok(false);
        }
        if org.is_frozen(None) {
            return Err(countersign_gateway_flow::Illegal::Frozen.into());
        }
        if let Some(begun) = fold.open_start(permit).or_else(|| fold.unknown_start(permit)) {
            return Ok(now <= begun.not_after);
        }
        let Some(live) = fold.live_permit(permit).filter(|live| now <= live.expires) else { return Ok(false) };
        let snapshot = self.snapshot(org.id);
        let terms = StartTerms { not_after: live.expires, run: None };
        let proposal = Proposal::Begin(Begin { permit, terms, payloads: Vec::new() });
        let state = Now { at: now, frozen: org.is_frozen(None), by: Actor::SYSTEM };
        let decided = decide(held.live.fold.as_ref(), proposal, &state)?;
        self.commit_held(org, &mut held, decided, (Beside::default(), now, &snapshot)).await?;
        Ok(true)
    }
}
