//! People decide: the way of a decision from the request to what follows once it is durable.
//!
//! Absent: what it comes to (`weighing`), and who may (`voters`). Read next: `weighing`.

use std::sync::Arc;

use serde::Deserialize as _;
use serde_json::{Value, json};

use countersign_gateway_flow::rows::{DECISIONS, DecisionRow};
use countersign_gateway_flow::{Illegal, Now, OpenGate, Proposal, Reply, WhyNot, decide};
use countersign_gateway_model::{ActionId, DecisionId, GateId, Principal, Timestamp};
use countersign_ledger_entry::body::{DecisionKind, Effect};
use countersign_ledger_log::Appended;

use crate::answers::{last_receipt, refusal_record, refused, refused_before, result_of};
use crate::api::{ActionAnswer, DecisionAnswer, DecisionRequest, Idempotency, RuleProgress};
use crate::asking::actor_of;
use crate::beside::Beside;
use crate::counters::{REPEATS, Reading};
use crate::deciding::Deciding;
use crate::error::EngineError;
use crate::keyring::hold_keys;
use crate::liftable::break_glass_of;
use crate::mint::MintExt as _;
use crate::org::{Org, instance_stream};
use crate::resolving::Runs;
use crate::stream::Held;
use crate::voters::decides;
use crate::{Engine, Snapshot};

impl Engine {
    /// A person decides at a gate.
    ///
    /// # Errors
    /// [`EngineError::ScopeMissing`] without an interactive credential; [`EngineError::Illegal`] for a decision that
    /// comes too late, names another view, or lacks what it needs.
    pub async fn decide(
        &self,
        who: Arc<Principal>,
        id: GateId,
        request: DecisionRequest,
        key: Option<Idempotency>,
    ) -> Result<DecisionAnswer, EngineError> {
        let this = self.clone();
        Self::whole(async move { Box::pin(this.decide_whole(&who, id, request, key)).await }).await
    }

    async fn decide_whole(
        &self,
        who: &Principal,
        id: GateId,
        request: DecisionRequest,
        key: Option<Idempotency>,
    ) -> Result<DecisionAnswer, EngineError> {
        let org = self.org(who.org)?;
        let row = self.gate_row(&org, id).await?;
        crate::trail::about(row.instance);
        let mut held = self.hold(&org, row.instance).await?;
        self.visible_as(&org, who, held.fold()?, "gate")?;
        decides(&org, who)?;
        let stream = instance_stream(row.instance);
        if let Some(answer) = self.replayed(&org, stream, who, key.as_ref()).await? {
            if answer.get("refused").is_some() {
                let receipt = self.receipt_of_last(&org, row.instance, held.fold()?.sequence()).await?;
                return Err(refused_before(&answer, receipt)?);
            }
            return self.decided_before(&org, &held, &answer).await;
        }
        let snapshot = self.counted_snapshot(&org).await?;
        let Some(gate) = held.fold()?.gate().filter(|g| g.gate == id).cloned() else {
            return Err(Illegal::GateClosed(id).into());
        };
        let opened = self.opened(&org, &snapshot, &held, &gate).await?;
        self.describe_gate(&org, &held, id, row.opened, row.expires)?;
        let cast = self.votes_cast(&org, &snapshot, &gate).await?;
        // Until the decision is durable.
        let keys = hold_keys(&org.person_keys, request.assertion.is_some()).await;
        let mut turn = None;
        let mut attempt = 1;
        let (now, decision, reply, runs, appended) = loop {
            let now = self.now();
            let work = Deciding {
                org: &org,
                snapshot: &snapshot,
                who,
                gate: &gate,
                opened: &opened,
                now,
                cast: &cast,
                keys: keys.as_ref(),
            };
            let reading = org.counting.reading(&snapshot, now, turn);
            match Box::pin(self.decide_once(&work, &mut held, request.clone(), reading, key.as_ref())).await {
                // Others took from the same counters meanwhile. From now on they wait.
                Err(EngineError::CountersBusy) if attempt < REPEATS => attempt += 1,
                decided => {
                    let (decision, reply, runs, appended) = decided?;
                    break (now, decision, reply, runs, appended);
                }
            }
            turn = Some(org.counting.turn().await);
        };
        drop(keys);
        self.decided(&org, held, (&snapshot, &gate, now), (decision, reply, runs, appended)).await
    }

    /// What follows once a decision, or a lift, is durable: runs are cancelled and begun, an operation is carried out.
    pub(crate) async fn decided(
        &self,
        org: &Arc<Org>,
        mut held: Held,
        (snapshot, gate, now): (&Snapshot, &OpenGate, Timestamp),
        (decision, reply, runs, appended): Decision,
    ) -> Result<DecisionAnswer, EngineError> {
        let receipt = last_receipt(&appended)?;
        if let Reply::Refused(reason) = reply {
            return Err(refused(reason, "refused by policy".to_owned(), receipt));
        }
        let fold = held.fold()?;
        let (effect, cancel) = effect_of(&reply);
        let why = why_of(&reply);
        self.cancel_runs(org, fold, &cancel);
        let expires = now + self.permit_ttl();
        let mut items: Vec<ActionAnswer> = match &reply {
            Reply::Resolved { actions, .. } => actions
                .iter()
                .map(|answer| {
                    let action = action_id(answer);
                    let run = runs.iter().find(|(of, _)| *of == action).map(|(_, run)| run.run);
                    let tool = gate
                        .items
                        .iter()
                        .find(|i| i.action == action)
                        .and_then(|i| i.tool.clone())
                        .unwrap_or_else(|| fold.created().workflow.clone());
                    let result = result_of(answer, expires, run, || "refused by policy".to_owned());
                    ActionAnswer { action, tool, result, instead: None }
                })
                .collect(),
            _ => Vec::new(),
        };
        let mut state = fold.state();
        let remaining = fold.gate().map(|gate| remaining(snapshot, gate)).unwrap_or_default();
        let instance = fold.id();
        if let Err(error) = self.tell_instead(org, &mut held, &mut items).await {
            // What was decided is durable. Whoever begins an action is told, or does not begin it.
            tracing::warn!(%error, %instance, "what was permitted could not be read back");
        }
        // Released before the runner is called: a run that ends at once takes the stream's lock for its outcome.
        drop(held);
        self.dispatch_started(org, instance, &appended, runs.into_iter().map(|(_, run)| run).collect()).await;
        // Only changes are in the gateway's own workflows, and only while they are under way.
        let operation = org.changes.get(instance).is_some();
        if operation && effect == Effect::Resolving {
            // What was decided is durable. What it permits is carried out now, or by the timers if this fails.
            match Box::pin(self.advance(org, instance)).await {
                // It may have ended, and been forgotten, by now.
                Ok(()) => state = self.hold(org, instance).await?.fold()?.state(),
                Err(error) => {
                    tracing::warn!(%error, change = %instance, "an approved operation waits to be carried out");
                }
            }
        }
        Ok(DecisionAnswer { decision, effect, why, instance, state, items, remaining, receipt })
    }

    /// Weighs a decision and commits it. With [`EngineError::CountersBusy`] nothing has changed.
    async fn decide_once(
        &self,
        work: &Deciding<'_>,
        held: &mut Held,
        request: DecisionRequest,
        mut reading: Reading,
        key: Option<&Idempotency>,
    ) -> Result<Decision, EngineError> {
        let Deciding { org, snapshot, who, now, .. } = *work;
        let mut beside = Beside { urgent: request.kind == DecisionKind::Reject, ..Beside::default() };
        let weighed = self.decision_proposal(work, held, request, (&mut beside, &mut reading));
        self.describe_instance(org, &held.live)?;
        let (proposal, runs) = weighed?;
        let state = Now { at: now, frozen: org.is_frozen(held.live.team.as_ref()), by: actor_of(who) };
        let decision = if let Proposal::Decide(decide) = &proposal { decide.decision } else { self.mint().decision() };
        let decided = decide(held.live.fold.as_ref(), proposal, &state)?;
        let reply = decided.reply.clone();
        let mut answer = json!({ "decision": decision, "why": why_of(&reply) });
        if let Reply::Refused(reason) = &reply {
            answer = refusal_record(*reason, "refused by policy");
        }
        let stored = serde_json::to_vec(&answer).map_err(EngineError::damaged)?;
        let stream = instance_stream(held.fold()?.id());
        beside.idempotency = key.map(|k| crate::writing::idempotency(stream, who, k, stored));
        beside.reading = Some(reading);
        let appended = self.commit_held(org, held, decided, (beside, now, snapshot)).await?;
        Ok((decision, reply, runs, appended))
    }

    async fn decided_before(&self, org: &Org, held: &Held, answer: &Value) -> Result<DecisionAnswer, EngineError> {
        let decision = answer.get("decision").and_then(Value::as_str).and_then(|d| d.parse().ok());
        let decision: DecisionId =
            decision.ok_or_else(|| EngineError::damaged("a stored answer without its decision"))?;
        let columns = org.log.view(DECISIONS, decision.as_bytes()).await.map_err(EngineError::ledger)?;
        let row: DecisionRow =
            serde_json::from_slice(&columns.ok_or(EngineError::NotFound("decision"))?).map_err(EngineError::damaged)?;
        let fold = held.fold()?;
        let receipt = self.receipt_of_last(org, fold.id(), row.sequence).await?;
        Ok(DecisionAnswer {
            decision,
            effect: row.effect,
            why: why_before(answer)?,
            instance: fold.id(),
            state: fold.state(),
            items: Vec::new(),
            remaining: Vec::new(),
            receipt,
        })
    }
}

/// A decision that is on record: its id, what it came to, the runs that it starts, and its append.
pub(crate) type Decision = (DecisionId, Reply, Runs, Appended);

fn remaining(snapshot: &Snapshot, gate: &OpenGate) -> Vec<RuleProgress> {
    let standing = gate.standing();
    standing
        .items
        .iter()
        .flat_map(|item| item.remaining.iter().map(move |rule| (item.item, rule)))
        .filter_map(|(id, rule)| {
            let item = gate.item(id)?;
            let form = item.rules.iter().find(|f| f.rule == *rule)?;
            Some(RuleProgress {
                rule: rule.clone(),
                quorum: u32::from(form.quorum),
                counted: u32::try_from(item.counted(form)).unwrap_or(u32::MAX),
                met: false,
                lifted: false,
                liftable: break_glass_of(snapshot, rule).is_some(),
                title: snapshot.rules().get(rule.as_str()).map(|r| r.title.clone()).unwrap_or_default(),
                roles: form.roles.clone(),
            })
        })
        .collect()
}

fn effect_of(reply: &Reply) -> (Effect, Vec<countersign_gateway_model::PermitId>) {
    match reply {
        Reply::Counted { effect, .. } => (*effect, Vec::new()),
        Reply::HardDenied { cancel } => (Effect::HardDenied, cancel.clone()),
        Reply::Rejected { cancel } | Reply::Resolved { cancel, .. } => (Effect::Resolving, cancel.clone()),
        _ => (Effect::NotEligible, Vec::new()),
    }
}

pub(crate) fn why_of(reply: &Reply) -> Option<WhyNot> {
    match reply {
        Reply::Counted { why, .. } => *why,
        _ => None,
    }
}

/// What [`why_of`] said when the same key came first.
pub(crate) fn why_before(answer: &Value) -> Result<Option<WhyNot>, EngineError> {
    answer.get("why").map_or(Ok(None), |why| Option::deserialize(why).map_err(EngineError::damaged))
}

fn action_id(answer: &countersign_gateway_flow::ActionAnswer) -> ActionId {
    use countersign_gateway_flow::ActionAnswer as A;
    match answer {
        A::Permitted { action, .. }
        | A::Begun { action, .. }
        | A::Waiting { action, .. }
        | A::Cleared(action)
        | A::Refused { action, .. }
        | A::Dropped(action)
        | A::Voided(action) => *action,
    }
}
