//! Carries out what was permitted: the last check, the start, the entry that puts a bundle in force, the swap.
//!
//! The order is the promise: a crash between any two of its steps is finished at the next start, and a request is asked
//! of one policy or the other, never of none.

use std::sync::Arc;

use countersign_gateway_flow::{Actor, Begin, Now, Proposal, StartTerms, decide};
use countersign_gateway_model::PermitId;
use countersign_ledger_entry::body::Step;

use countersign_policy_decide::Operation;

use crate::Engine;
use crate::asking::{ask, chain};
use crate::beside::Beside;
use crate::changes::row::{ChangeRow, Stage};
use crate::changes::under_way::UnderWay;
use crate::error::EngineError;
use crate::org::Org;

impl Engine {
    /// Puts the candidate of a permit in force, or says why not.
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
        if row.gate.is_none() && !self.still_allowed(org, &row).await? {
            let why = "policy asks for another person by now";
            return self.fail_change(org, change, row, &[Step::Failed], why).await;
        }
        // Crash here: a start without an outcome. The next start finds the row at the question and comes here again.
        let approved = if row.gate.is_some() { &[Step::Approved][..] } else { &[] };
        let bundle = self.bundle_of(org, &row).await?;
        let mut candidate = match self.checked(org, bundle).await {
            Ok(candidate) if candidate.digest == row.digest => candidate,
            Ok(_) => return Err(EngineError::damaged("the candidate's bytes are of another bundle")),
            Err(EngineError::Bundle(why) | EngineError::LockedOut(why)) => {
                let steps = [approved, &[Step::Failed]].concat();
                let why = format!("it does not fit what is in force now: {why}");
                return self.fail_change(org, change, row, &steps, &why).await;
            }
            Err(error) => return Err(error),
        };
        // Before it is in force: nobody who asks under it waits for that, and where it fails nothing has changed.
        org.counting.count_under(&candidate.counters).await?;
        let mut beside = Beside { blobs: std::mem::take(&mut candidate.blobs), ..Beside::default() };
        let asked = self.permitted(org, row.instance, permit, &mut beside).await?;
        row.stage = Stage::Activated;
        let steps = [approved, &[Step::Activated]].concat();
        self.note(org, change, row, &steps, (beside, asked)).await?;
        // Durable: the ledger says that this bundle is in force. A crash here leaves the one before in memory only, and
        // the next start loads what the newest such entry names. Questions under way keep the policy they began with.
        let prepared = std::mem::replace(&mut candidate.prepared, Box::new(()));
        self.policies().activate(org.id, prepared)?;
        self.counted_snapshot(org).await.map(drop)
    }

    /// Whether policy still lets its author do it alone: the authority mode may have been raised since.
    async fn still_allowed(&self, org: &Arc<Org>, row: &ChangeRow) -> Result<bool, EngineError> {
        let author = Self::author(org, row)?;
        self.describe_row(org, row)?;
        let snapshot = self.counted_snapshot(org).await?;
        let asked = self.question_of(org, &author, row, Operation::ActivatePolicy)?;
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
