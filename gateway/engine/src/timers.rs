//! Clocks: gates that expire, instances whose deadline passes, starts whose outcome never comes.
//!
//! What is due stands in the `timers` projection, so it survives a restart; what it does is an entry, so it happens
//! once. Stopping cannot be vetoed: policy is asked, and a denial is an objection on record.

use std::sync::Arc;
use std::time::Duration as Span;

use serde_json::json;

use countersign_gateway_flow::rows::{self, TimerKind, TimerRow};
use countersign_gateway_flow::{
    Actor, Asked, Deadline, Expire, Illegal, Now, Proposal, Reply, SweepStart, SystemReject, decide,
};
use countersign_gateway_model::{GateId, InstanceId, PermitId, Timestamp};
use countersign_policy_decide::{EntityRef, Operation, Question};

use crate::Engine;
use crate::asking::ask;
use crate::beside::Beside;
use crate::error::EngineError;
use crate::mint::MintExt as _;
use crate::org::Org;
use crate::stream::{Held, four_eyes, instance_name};

/// How long the loop rests where nothing is due: the clock may be moved by others than time.
const REST: Span = Span::from_millis(500);

/// How often open gates are looked through for a step that is due. The loop itself turns whenever an instance moves.
const CLIMB: Span = Span::from_secs(1);

/// Timers looked at in one turn.
const TURN: usize = 256;

impl Engine {
    /// Acts on what is due, until the engine ends.
    pub async fn run_timers(self) {
        let mut ending = self.ending();
        let mut climbing = tokio::time::interval(CLIMB);
        climbing.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut climbs = true;
        loop {
            for org in self.orgs() {
                if let Err(error) = self.turn(&org).await {
                    tracing::error!(%error, org = %org.id, "timers");
                }
                if climbs && let Err(error) = self.climb(&org).await {
                    tracing::error!(%error, org = %org.id, "reminders and further circles");
                }
                if let Err(error) = self.record_over_quota(&org, false).await {
                    tracing::warn!(%error, org = %org.id, "calls over quota are not on record yet");
                }
                self.drive_changes(&org);
                org.evict();
            }
            climbs = false;
            tokio::select! {
                _ = ending.wait_for(|ending| *ending) => break,
                _ = climbing.tick() => climbs = true,
                () = self.timers().notified() => {}
                () = tokio::time::sleep(REST) => {}
            }
        }
        for org in self.orgs() {
            if let Err(error) = self.record_over_quota(&org, true).await {
                tracing::warn!(%error, org = %org.id, "calls over quota of the last minute are not on record");
            }
        }
    }

    /// Acts on what is due now in one organization. Gives how many timers were acted on.
    pub(crate) async fn turn(&self, org: &Arc<Org>) -> Result<usize, EngineError> {
        let now = self.now();
        let (mut done, mut after) = (0, None);
        loop {
            let page =
                org.log.scan(rows::TIMERS, b"", after.as_deref(), TURN, false).await.map_err(EngineError::ledger)?;
            let whole = page.len() == TURN;
            for row in page {
                let (due, id) = rows::timer_of(&row.key).ok_or_else(|| EngineError::damaged("a timer's key"))?;
                if due > now {
                    return Ok(done);
                }
                after = Some(row.key);
                let timer: TimerRow = serde_json::from_slice(&row.columns).map_err(EngineError::damaged)?;
                // The outcome of a start is due some time after nothing may be begun any more.
                if timer.kind == TimerKind::Start && due + self.options().sweep_after > now {
                    continue;
                }
                match self.fire(org, &timer, (due, id)).await {
                    Ok(()) => done += 1,
                    Err(EngineError::Illegal(illegal)) => tracing::debug!(%illegal, "a timer had nothing to do"),
                    Err(error) => tracing::warn!(%error, instance = %timer.instance, "a timer could not act yet"),
                }
            }
            if !whole {
                return Ok(done);
            }
        }
    }

    async fn fire(
        &self,
        org: &Arc<Org>,
        timer: &TimerRow,
        (due, id): (Timestamp, [u8; 16]),
    ) -> Result<(), EngineError> {
        let (this, org, instance, kind) = (self.clone(), Arc::clone(org), timer.instance, timer.kind);
        Self::whole(async move {
            let mut held = this.hold(&org, instance).await?;
            match kind {
                TimerKind::Gate => {
                    let gate = GateId::from_bytes(id);
                    this.stop_by_clock(&org, &mut held, Operation::Expire, |asked, reject| {
                        Proposal::Expire(Box::new(Expire { gate, asked, reject }))
                    })
                    .await
                }
                TimerKind::Deadline => {
                    this.stop_by_clock(&org, &mut held, Operation::Terminate, |asked, reject| {
                        Proposal::Deadline(Box::new(Deadline { asked, reject }))
                    })
                    .await
                }
                TimerKind::Start => this.sweep(&org, &mut held, (PermitId::from_bytes(id), due)).await,
            }
        })
        .await
    }

    async fn stop_by_clock(
        &self,
        org: &Arc<Org>,
        held: &mut Held,
        operation: Operation,
        proposal: impl FnOnce(Asked, SystemReject) -> Proposal,
    ) -> Result<(), EngineError> {
        let now = self.now();
        let snapshot = self.counted_snapshot(org).await?;
        let fold = held.fold()?;
        let instance: InstanceId = fold.id();
        let mut beside = Beside { urgent: true, ..Beside::default() };
        let resource = match (operation, fold.gate()) {
            (Operation::Expire, Some(gate)) => Self::gate_entity(org, gate.gate)?,
            _ => Self::instance_entity(org, instance)?,
        };
        if let Some(gate) = fold.gate() {
            self.describe_gate_now(org, held, gate.gate)?;
        }
        let mut question = Question::new(EntityRef::system(org.id), operation, resource, now);
        question.instance =
            Some(EntityRef::new(org.id, countersign_policy_decide::EntityKind::Instance, instance_name(instance)?));
        question.four_eyes = four_eyes(org);
        let answered = ask(&snapshot, org.facts(), vec![question]);
        let action = serde_json::to_vec(&json!({ "question": operation.as_str(), "instance": instance }))
            .map_err(EngineError::damaged)?;
        let (reference, _) = beside.add(answered.evidence(&self.mint().salt(), &action));
        let asked = answered.asked(Some(reference));
        let reject = SystemReject { decision: self.mint().decision() };
        let state = Now { at: now, frozen: org.is_frozen(held.live.team.as_ref()), by: Actor::SYSTEM };
        let decided = decide(held.live.fold.as_ref(), proposal(asked, reject), &state)?;
        let reply = decided.reply.clone();
        if decided.drafts.is_empty() {
            return Ok(());
        }
        self.commit_held(org, held, decided, (beside, now, &snapshot)).await?;
        if let Reply::Terminated { cancel, .. } | Reply::Rejected { cancel } = &reply {
            self.cancel_runs(org, held.fold()?, cancel);
        }
        Ok(())
    }

    /// A start without an outcome is closed as `unknown`. One that a runner has is left to its watcher until its runner should
    /// long have ended it: a runner that hangs, or is gone for good, must not keep the instance open for ever. `due` is when it
    /// could last be begun. What the runner says later still supersedes it.
    async fn sweep(
        &self,
        org: &Arc<Org>,
        held: &mut Held,
        (permit, due): (PermitId, Timestamp),
    ) -> Result<(), EngineError> {
        let fold = held.fold()?;
        let Some(start) = fold.open_start(permit) else { return Err(EngineError::Illegal(Illegal::NotBegun(permit))) };
        if let Some(run) = &start.run {
            if due + self.options().run_deadline + self.options().sweep_after > self.now() {
                return Err(EngineError::Illegal(Illegal::NotBegun(permit)));
            }
            tracing::error!(run = %run.run, "the run should have ended long ago: what became of it is not known");
            self.cancel_runs(org, fold, &[permit]);
        }
        let proposal = Proposal::Sweep(SweepStart { permit });
        self.commit_outcome(org, held, proposal, Actor::SYSTEM, Beside::default()).await.map(drop)
    }
}
