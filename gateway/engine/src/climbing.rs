//! Reminders and further circles, taken when they are due: what a rule asks for while people are silent, each once.
//!
//! A step is an entry of SYSTEM's that policy was asked about, so another process does not take it again. Absent:
//! telling people, which is for whoever watches the gate; expiry, which is a timer. Read next: `ladders`, `timers`.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::json;

use countersign_gateway_flow::rows::{self, GateRow, OpenGateRow};
use countersign_gateway_flow::{Actor, GateNote, Now, Proposal, Reply, decide};
use countersign_gateway_model::{GateId, InstanceId, Name, PolicyDigests, Timestamp};
use countersign_ledger_entry::body::GateEventKind;
use countersign_policy_decide::{EntityKind, EntityRef, Operation, PolicySnapshot, Question};

use crate::Engine;
use crate::asking::ask;
use crate::beside::Beside;
use crate::error::EngineError;
use crate::ladders::{Step, steps};
use crate::mint::MintExt as _;
use crate::org::Org;
use crate::stream::{Held, four_eyes, instance_name};

/// Gates read at a time.
const PAGE: usize = 256;

impl Engine {
    /// Takes the steps that are due at the open gates of an organization.
    pub(crate) async fn climb(&self, org: &Arc<Org>) -> Result<(), EngineError> {
        let (now, snapshot) = (self.now(), self.counted_snapshot(org).await?);
        let (mut open, mut after) = (HashSet::new(), None::<Vec<u8>>);
        loop {
            let page = org.log.scan(rows::OPEN_GATES, b"", after.as_deref(), PAGE, false).await;
            let page = page.map_err(EngineError::ledger)?;
            let whole = page.len() == PAGE;
            for row in page {
                let id: [u8; 16] = row.key.as_slice().try_into().map_err(EngineError::damaged)?;
                let gate = GateId::from_bytes(id);
                open.insert(gate);
                if !org.ladders.rests(gate, snapshot.digests(), now) {
                    let row: OpenGateRow = serde_json::from_slice(&row.columns).map_err(EngineError::damaged)?;
                    if let Err(error) = self.climb_gate(org, &snapshot, (row.instance, gate), now).await {
                        tracing::warn!(%error, %gate, "a gate's next step could not be taken yet");
                        org.ladders.fail(gate, now);
                    }
                }
                after = Some(row.key);
            }
            if !whole {
                break;
            }
        }
        org.ladders.keep(&open);
        Ok(())
    }

    async fn climb_gate(
        &self,
        org: &Arc<Org>,
        snapshot: &PolicySnapshot,
        (instance, gate): (InstanceId, GateId),
        now: Timestamp,
    ) -> Result<(), EngineError> {
        let Some(row) = org.log.view(rows::GATES, gate.as_bytes()).await.map_err(EngineError::ledger)? else {
            return Ok(());
        };
        let row: GateRow = serde_json::from_slice(&row).map_err(EngineError::damaged)?;
        let rules = row.items.iter().filter(|item| !item.dropped).flat_map(|item| &item.rules).map(|rule| &rule.rule);
        let steps = steps(snapshot, rules, (row.opened, row.expires));
        let policy = snapshot.digests();
        let due = steps.iter().filter(|(due, step)| *due <= now && org.ladders.asks(gate, step, policy, now));
        let due: Vec<Step> = due.map(|(_, step)| step.clone()).collect();
        if !due.is_empty() && row.expires.is_none_or(|expires| expires > now) {
            let (this, org) = (self.clone(), Arc::clone(org));
            Self::whole(async move { this.take_steps(&org, instance, gate, due).await }).await?;
        }
        let next = steps.iter().map(|(due, _)| *due).find(|due| *due > now);
        org.ladders.rest(gate, policy, next);
        Ok(())
    }

    /// Takes those of the steps that were not taken before.
    async fn take_steps(
        &self,
        org: &Arc<Org>,
        instance: InstanceId,
        gate: GateId,
        due: Vec<Step>,
    ) -> Result<(), EngineError> {
        let mut held = self.hold(org, instance).await?;
        for (event, rule, step) in due {
            let open = held.fold()?.gate().filter(|open| open.gate == gate);
            let Some(open) = open else { break };
            if open.has_fired(event, &rule, step) {
                continue;
            }
            if let Some((policy, at)) = self.take_step(org, &mut held, gate, (event, &rule, step)).await? {
                // Before the next one, which may fail: a refusal is recorded once.
                org.ladders.refuse(gate, (event, rule, step), policy, at);
            }
        }
        Ok(())
    }

    /// Takes a step. Gives the policy that refused it, and when, if one did.
    async fn take_step(
        &self,
        org: &Arc<Org>,
        held: &mut Held,
        gate: GateId,
        (event, rule, step): (GateEventKind, &Name, u16),
    ) -> Result<Option<(PolicyDigests, Timestamp)>, EngineError> {
        let now = self.now();
        let snapshot = self.counted_snapshot(org).await?;
        let operation = if event == GateEventKind::Escalation { Operation::Escalate } else { Operation::Remind };
        let instance = held.fold()?.id();
        self.describe_gate_now(org, held, gate)?;
        let mut question = Question::new(EntityRef::system(org.id), operation, Self::gate_entity(org, gate)?, now);
        question.instance = Some(EntityRef::new(org.id, EntityKind::Instance, instance_name(instance)?));
        question.four_eyes = four_eyes(org);
        let answered = ask(&snapshot, org.facts(), vec![question]);
        let action = json!({ "question": operation.as_str(), "gate": gate, "rule": rule, "step": step });
        let action = serde_json::to_vec(&action).map_err(EngineError::damaged)?;
        let mut beside = Beside::default();
        let (reference, _) = beside.add(answered.evidence(&self.mint().salt(), &action));
        let asked = answered.asked(Some(reference));
        let note = GateNote { gate, event, rule: Some(rule.clone()), to: None, step: Some(step), asked };
        let state = Now { at: now, frozen: false, by: Actor::SYSTEM };
        let decided = decide(held.live.fold.as_ref(), Proposal::GateEvent(Box::new(note)), &state)?;
        let taken = matches!(decided.reply, Reply::Noted(_));
        self.commit_held(org, held, decided, (beside, now, &snapshot)).await?;
        tracing::info!(%gate, %rule, step, taken, "{}", operation.as_str());
        Ok((!taken).then(|| (snapshot.digests(), now)))
    }
}
