//! People decide: votes that policy finds eligible are weighed, and what the last one permits is prepared.
//!
//! An APPROVE asks the stored question again with fresh entities and the current bundle; an OVERRIDE asks a new one.
//! What was asked, shown and said is kept as payloads of the entries. Counting is `flow::gate`'s. Read next: `gates`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};

use countersign_gateway_flow::{
    Asked, Ballot, BallotItem, Change, Decide, Force, Grant, Now, OpenGate, OpenItem, Proposal, Reply, SystemReject,
    decide, gate as counting,
};
use countersign_gateway_model::{
    ActionId, Assurance, DecisionId, Digest, GateId, ItemId, Name, Principal, PrincipalKind, Scope, State, Timestamp,
};
use countersign_ledger_entry::PayloadRole;
use countersign_ledger_entry::body::{DecisionKind, Effect, GateSubject, QuestionKind, Reservation};
use countersign_ledger_entry::payload::{self, Salt};
use countersign_ledger_log::Appended;
use countersign_policy_decide::{EntityKind, EntityRef, Operation, Question, input};

use crate::answers::{last_receipt, refusal_record, refused, refused_before, result_of};
use crate::api::{ActionAnswer, DecisionAnswer, DecisionRequest, Idempotency, RuleProgress};
use crate::asking::{Answered, actor_of, ask, ask_reading, ask_transforming, question, with_satisfied};
use crate::beside::Beside;
use crate::counters::{REPEATS, Reading};
use crate::demands::{HeldKeys, check_signature, delta_bytes, demands_met, hold_keys};
use crate::error::EngineError;
use crate::gates::{Opened, Pending, circles, shown_digest};
use crate::mint::MintExt as _;
use crate::org::{Org, instance_stream};
use crate::permits::{PreparedRun, in_shadow};
use crate::reasking::{Again, Settled};
use crate::stream::{Held, four_eyes};
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
        let mut held = self.hold(&org, row.instance).await?;
        self.visible(&org, who, held.fold()?)?;
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
            return Err(countersign_gateway_flow::Illegal::GateClosed(id).into());
        };
        let opened = self.opened(&org, &snapshot, &held, &gate).await?;
        self.describe_gate(&org, &held, id, row.opened, row.expires)?;
        let unsigned = self.unsigned_votes(&org, &snapshot, &gate).await?;
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
                unsigned: &unsigned,
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
        held: Held,
        (snapshot, gate, now): (&Snapshot, &OpenGate, Timestamp),
        (decision, reply, runs, appended): Decision,
    ) -> Result<DecisionAnswer, EngineError> {
        let receipt = last_receipt(&appended)?;
        if let Reply::Refused(reason) = reply {
            return Err(refused(reason, "refused by policy".to_owned(), receipt));
        }
        let fold = held.fold()?;
        let (effect, cancel) = effect_of(&reply);
        self.cancel_runs(org, fold, &cancel);
        let expires = now + self.permit_ttl();
        let items = match &reply {
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
                    ActionAnswer { action, tool, result }
                })
                .collect(),
            _ => Vec::new(),
        };
        let mut state = fold.state();
        let remaining = fold.gate().map(|gate| remaining(snapshot, gate)).unwrap_or_default();
        let instance = fold.id();
        // Released before the runner is called: a run that ends at once takes the stream's lock for its outcome.
        drop(held);
        self.dispatch_started(org, instance, &appended, runs.into_iter().map(|(_, run)| run).collect()).await;
        let operation = gate.subject == GateSubject::Actions
            && gate.items.iter().any(|item| item.question == QuestionKind::Operation);
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
        Ok(DecisionAnswer { decision, effect, state, items, remaining, receipt })
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
        let mut answer = json!({ "decision": decision });
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
        let decision: countersign_gateway_model::DecisionId =
            decision.ok_or_else(|| EngineError::damaged("a stored answer without its decision"))?;
        let columns = org
            .log
            .view(countersign_gateway_flow::rows::DECISIONS, decision.as_bytes())
            .await
            .map_err(EngineError::ledger)?;
        let row: countersign_gateway_flow::rows::DecisionRow =
            serde_json::from_slice(&columns.ok_or(EngineError::NotFound("decision"))?).map_err(EngineError::damaged)?;
        let fold = held.fold()?;
        let receipt = self.receipt_of_last(org, fold.id(), row.sequence).await?;
        Ok(DecisionAnswer {
            decision,
            effect: row.effect,
            state: fold.state(),
            items: Vec::new(),
            remaining: Vec::new(),
            receipt,
        })
    }

    /// Everything that the state machine needs to weigh a decision.
    fn decision_proposal(
        &self,
        work: &Deciding<'_>,
        held: &Held,
        request: DecisionRequest,
        (beside, reading): (&mut Beside, &mut Reading),
    ) -> Result<(Proposal, Vec<(ActionId, PreparedRun)>), EngineError> {
        let Deciding { org, snapshot, who, gate, opened, .. } = *work;
        let kind = request.kind;
        if request.role.as_ref().is_some_and(|role| !who.roles.contains(role)) {
            return Err(EngineError::invalid("role", "you do not hold this role: name one of yours, or none"));
        }
        if kind == DecisionKind::Override && gate.subject == GateSubject::Grant {
            return Err(countersign_gateway_flow::Illegal::GrantOverride.into());
        }
        if kind == DecisionKind::Override && request.delta.is_empty() {
            return Err(countersign_gateway_flow::Illegal::OverrideWithoutDelta.into());
        }
        let chosen: Vec<&OpenItem> = match kind {
            DecisionKind::Reject => Vec::new(),
            _ if request.items.is_empty() && request.delta.is_empty() => gate.live_items().collect(),
            DecisionKind::Override => request
                .delta
                .keys()
                .map(|id| gate.item(*id).ok_or(countersign_gateway_flow::Illegal::UnknownItem(*id)))
                .collect::<Result<_, _>>()?,
            DecisionKind::Approve => request
                .items
                .iter()
                .map(|id| gate.item(*id).ok_or(countersign_gateway_flow::Illegal::UnknownItem(*id)))
                .collect::<Result<_, _>>()?,
        };
        let offer = self.describe_offer(org, held, gate, who.id.clone())?;
        let mut asked = self.ask_decider(work, kind, (&chosen, offer), request.role.as_ref());
        let eligible = asked.iter().all(Answered::allowed);
        // The questions themselves are asked for the state in which what they permit will be carried out.
        self.describe_instance_in(org, &held.live, State::Running)?;
        let role = request.role.clone().or_else(|| default_role(who, gate, snapshot));

        let stale = opened.is_stale(snapshot, gate);

        // OVERRIDE: a new typed input, decided from the first round.
        let mut replaced: BTreeMap<ItemId, Replaced> = BTreeMap::new();
        for (id, change) in &request.delta {
            if let (Some(item), Some(change)) = (gate.item(*id), change) {
                replaced.insert(*id, self.replace(work, item, change)?);
            }
        }
        let mut ballot = Ballot {
            kind,
            person: org.person_of(who.pseudonym),
            role: role.clone(),
            teams: who.teams.clone(),
            groups: org.known(who.pseudonym).map(|known| known.groups).unwrap_or_default(),
            items: Vec::new(),
            current: Vec::new(),
            lapsed: Vec::new(),
        };
        for item in &chosen {
            let change = match (kind, request.delta.get(&item.item)) {
                (DecisionKind::Override, Some(None)) => Change::Drop,
                (DecisionKind::Override, Some(Some(_))) => {
                    replaced.get(&item.item).map_or(Change::Keep, |r| Change::Replace(r.digest))
                }
                _ => Change::Keep,
            };
            let rules: Vec<Name> = match replaced.get(&item.item) {
                Some(new) => new.answered.verdict.rules.clone(),
                None => item.rules.iter().map(|r| r.rule.clone()).collect(),
            };
            let rules: Vec<Name> =
                rules.into_iter().filter(|r| admits(snapshot, gate, r, (who, &ballot.groups), role.as_ref())).collect();
            if kind != DecisionKind::Reject {
                demands_met(snapshot, (who, work.now), &rules, request.assertion.is_some())?;
            }
            ballot.items.push(BallotItem { item: item.item, digest: item.digest, rules, change });
        }
        let mut settled = Settled::default();
        if eligible && !stale && kind != DecisionKind::Reject {
            settled = self.settle(work, held, &replaced, &mut ballot, reading)?;
        }
        let Settled { met, mut reasked, asked_again } = settled;
        let (mut runs, mut grants) = (Vec::new(), Vec::new());
        if met {
            (grants, runs) = self.grants(work, held, &replaced, &mut reasked, (&mut *beside, &mut *reading))?;
        }
        let mut delta = None;
        if !request.delta.is_empty() {
            let kept = serde_json::to_value(kept_delta(&request.delta, &replaced)).map_err(EngineError::damaged)?;
            let content = delta_bytes(kept).map_err(EngineError::damaged)?;
            let salt = request.assertion.as_ref().and_then(|signed| signed.delta_salt);
            let salt = salt.unwrap_or_else(|| self.mint().salt());
            delta = Some(payload::salted(payload::DELTA, &salt, &content));
            let reference = beside.payload(PayloadRole::Delta, payload::seal(&salt, &content));
            asked.push_payload(reference);
        }
        if let Some(signed) = &request.assertion {
            check_signature(work, signed, &ballot, (delta, request.shown_digest))?;
        }
        if kind == DecisionKind::Override && !met && !stale {
            // Votes are missing: whoever decides next reads, and is asked about, what this makes of the gate.
            for new in replaced.values() {
                let (reference, _) = beside.add(new.answered.evidence(&new.salt, &new.canonical));
                asked.push_payload(reference);
            }
            let pending = Self::after_override(work, &request, &replaced);
            asked.push_payload(self.show_again(org, snapshot, held, gate, &pending, beside)?);
        }
        let (min, max) = bounds(snapshot, gate);
        let justification = match (&request.justification, kind) {
            (Some(text), DecisionKind::Reject) if text.trim().is_empty() => None,
            (Some(text), _) => Some(counting::justification(text, min, max)?),
            (None, _) => None,
        };
        let mut decided = asked.into_asked(self, beside)?;
        if let Some(text) = &justification {
            let sealed = payload::seal(&self.mint().salt(), text.as_bytes());
            decided.payloads.push(beside.payload(PayloadRole::Justification, sealed));
        }
        let reasked = reasked.iter().map(|again| self.keep(again, beside)).collect();
        for run in &runs {
            let (_, prepared): &(ActionId, PreparedRun) = run;
            decided.payloads.push(prepared.reference);
        }
        let proposal = Proposal::Decide(Box::new(Decide {
            decision: self.mint().decision(),
            gate: gate.gate,
            ballot,
            asked: decided,
            justification,
            shown: request.shown_digest,
            view: shown_digest(&opened.view),
            delta,
            assurance: who.assurance,
            assertion: request.assertion.map(|signed| signed.assertion),
            stale,
            reasked,
            asked_again,
            grants,
            reject: SystemReject { decision: self.mint().decision() },
        }));
        Ok((proposal, runs))
    }

    /// Asks policy whether this person may decide: on the gate for REJECT, on each item else.
    fn ask_decider(
        &self,
        work: &Deciding<'_>,
        kind: DecisionKind,
        (items, offer): (&[&OpenItem], Option<EntityRef>),
        role: Option<&Name>,
    ) -> DeciderAnswers {
        let Deciding { org, snapshot, who, gate, now, .. } = *work;
        let operation = match kind {
            DecisionKind::Approve if offer.is_some() => Operation::GrantTask,
            DecisionKind::Approve => Operation::Approve,
            DecisionKind::Reject => Operation::Reject,
            DecisionKind::Override => Operation::Override,
        };
        let resources: Vec<EntityRef> = if items.is_empty() {
            Self::gate_entity(org, gate.gate).into_iter().collect()
        } else if let Some(offer) = offer {
            vec![offer]
        } else {
            items
                .iter()
                .filter_map(|i| Name::new(&i.item.to_string()).ok())
                .map(|id| EntityRef::new(org.id, EntityKind::Item, id))
                .collect()
        };
        let answers = resources
            .into_iter()
            .map(|resource| {
                let mut asked = question(who, operation, resource, now);
                asked.four_eyes = four_eyes(org);
                asked.role = role.cloned();
                ask(snapshot, org.facts(), vec![asked])
            })
            .collect();
        DeciderAnswers { answers, payloads: Vec::new() }
    }

    /// Permits for what a gate of actions that resolves stands in front of, and the runs that they begin.
    pub(crate) fn grants(
        &self,
        work: &Deciding<'_>,
        held: &Held,
        replaced: &BTreeMap<ItemId, Replaced>,
        reasked: &mut [Again],
        (beside, reading): (&mut Beside, &mut Reading),
    ) -> Result<(Vec<Grant>, Runs), EngineError> {
        let Deciding { gate, opened, .. } = *work;
        let (mut grants, mut runs) = (Vec::new(), Vec::new());
        if gate.subject != GateSubject::Actions {
            return Ok((grants, runs));
        }
        for item in gate.live_items() {
            let input = match replaced.get(&item.item) {
                Some(new) => Some(new.input.clone()),
                None => opened.items.get(&item.item).and_then(|o| canonical_input(&o.action)),
            };
            let again = reasked.iter_mut().find(|again| again.item == item.item);
            let reservations = again.map(|again| std::mem::take(&mut again.reservations)).unwrap_or_default();
            grants.extend(self.grant_of(work, held, item, (input, reservations), beside, &mut runs)?);
        }
        for cleared in &gate.cleared {
            grants.extend(self.grant_cleared(work, held, cleared.action, (beside, &mut *reading), &mut runs)?);
        }
        Ok((grants, runs))
    }

    /// The gate's items as they stand once an OVERRIDE is counted.
    fn after_override(
        work: &Deciding<'_>,
        request: &DecisionRequest,
        replaced: &BTreeMap<ItemId, Replaced>,
    ) -> Vec<Pending> {
        let Deciding { org, snapshot, gate, opened, now, .. } = *work;
        let stays = |item: &&OpenItem| !matches!(request.delta.get(&item.item), Some(None));
        let mut pending = Vec::new();
        for item in gate.live_items().filter(stays) {
            let words = |answered: &Answered| answered.reasons().map(str::to_owned).collect();
            if let Some(new) = replaced.get(&item.item) {
                let rules = new.answered.verdict.rules.clone();
                pending.push(Pending::of_item(snapshot, item, &new.action, rules, words(&new.answered)));
            } else if let Some(stored) = opened.items.get(&item.item) {
                let questions = with_satisfied(&stored.questions, &BTreeSet::new(), &BTreeSet::new(), now);
                let answered = ask(snapshot, org.facts(), questions);
                let rules = item.rules.iter().map(|form| form.rule.clone()).collect();
                pending.push(Pending::of_item(snapshot, item, &stored.action, rules, words(&answered)));
            }
        }
        pending
    }

    /// The new input of an OVERRIDE: only keys that every rule of the item lets people change, then schema and policy.
    fn replace(
        &self,
        work: &Deciding<'_>,
        item: &OpenItem,
        change: &BTreeMap<String, Value>,
    ) -> Result<Replaced, EngineError> {
        let Deciding { org, snapshot, opened, now, who, .. } = *work;
        let stored =
            opened.items.get(&item.item).ok_or_else(|| EngineError::damaged("the item's question was erased"))?;
        let tool = item.tool.as_ref().and_then(|t| snapshot.tool(t.as_str())).ok_or(EngineError::NotFound("tool"))?;
        let mut value = stored.action.get("input").cloned().unwrap_or_default();
        for (pointer, new) in change {
            let allowed = item.rules.iter().all(|form| {
                snapshot
                    .rules()
                    .get(form.rule.as_str())
                    .is_some_and(|rule| rule.overridable.iter().any(|p| p == pointer))
            });
            if !allowed {
                return Err(EngineError::invalid(
                    "delta",
                    format!("`{pointer}` may not be overridden under these rules"),
                ));
            }
            let slot = value
                .pointer_mut(pointer)
                .ok_or_else(|| EngineError::invalid("delta", format!("`{pointer}` is not in the input")))?;
            *slot = new.clone();
        }
        // Read as strictly as a proposal's input, so that a number that no double holds is refused and not rounded.
        let bytes = serde_json::to_vec(&value).map_err(EngineError::damaged)?;
        let typed = input::parse(tool, &bytes)
            .map_err(|source| EngineError::Input { tool: tool.tool.name.to_string(), source })?;
        let typed = Arc::new(typed);
        let questions: Vec<Question> = stored
            .questions
            .iter()
            .cloned()
            .map(|mut q| {
                q.input = Some(Arc::clone(&typed));
                q.now = now;
                q.satisfied = BTreeSet::new();
                q.overridden = BTreeSet::new();
                q
            })
            .collect();
        let reading = org.counting.reading(snapshot, now, None);
        let answered = ask_transforming(snapshot, &org.entities, questions, &reading);
        let typed = answered.input().cloned().unwrap_or(typed);
        let questions = answered.questions().to_vec();
        let mut action = stored.action.clone();
        if let Some(map) = action.as_object_mut() {
            // The typed form, as policy saw it and as it will be carried out.
            let typed = serde_json::from_slice(typed.canonical()).map_err(EngineError::damaged)?;
            map.insert("input".to_owned(), typed);
            map.insert("overridden_by".to_owned(), json!(org.label(who.pseudonym)));
        }
        let canonical = serde_json::to_vec(&action).map_err(EngineError::damaged)?;
        let salt = self.mint().salt();
        Ok(Replaced {
            digest: payload::salted(payload::ACTION, &salt, &canonical),
            salt,
            input: typed.canonical().to_vec(),
            action,
            canonical,
            questions,
            answered,
        })
    }

    fn grant_of(
        &self,
        work: &Deciding<'_>,
        held: &Held,
        item: &OpenItem,
        (input, reservations): (Option<Vec<u8>>, Vec<Reservation>),
        beside: &mut Beside,
        runs: &mut Vec<(ActionId, PreparedRun)>,
    ) -> Result<Option<Grant>, EngineError> {
        if item.question == QuestionKind::Operation {
            return Ok(self.grant_operation(work, item));
        }
        let Some(tool) = item.tool.as_ref().and_then(|t| work.snapshot.tool(t.as_str())).cloned() else {
            return Ok(None);
        };
        let Some(input) = input else { return Ok(None) };
        let (permit, run) =
            self.permit_terms(Some(&tool), &input, held, (false, true, reservations), work.now, beside)?;
        if let Some(run) = run {
            runs.push((item.action, run));
        }
        Ok(Some(Grant {
            action: item.action,
            question: item.question,
            tool: tool.tool.name.clone(),
            tool_version: tool.version,
            mutable_target: tool.tool.mutable_target,
            permit,
            cleared: None,
        }))
    }

    /// The permit of one of the gateway's own operations, on what the question named.
    fn grant_operation(&self, work: &Deciding<'_>, item: &OpenItem) -> Option<Grant> {
        let stored = work.opened.items.get(&item.item)?;
        Some(Grant {
            action: item.action,
            question: item.question,
            tool: item.tool.clone()?,
            tool_version: serde_json::from_value(stored.action.get("tool_version")?.clone()).ok()?,
            mutable_target: false,
            permit: self.operation_terms(work.now),
            cleared: None,
        })
    }

    fn grant_cleared(
        &self,
        work: &Deciding<'_>,
        held: &Held,
        action: ActionId,
        (beside, reading): (&mut Beside, &mut Reading),
        runs: &mut Vec<(ActionId, PreparedRun)>,
    ) -> Result<Option<Grant>, EngineError> {
        let Deciding { org, snapshot, opened, now, .. } = *work;
        let Some(stored) = opened.cleared.get(&action) else { return Ok(None) };
        let tool = stored.action.get("tool").and_then(Value::as_str).and_then(|t| snapshot.tool(t)).cloned();
        let Some(tool) = tool else { return Ok(None) };
        let Some(input) = canonical_input(&stored.action) else { return Ok(None) };
        let questions = with_satisfied(&stored.questions, &BTreeSet::new(), &BTreeSet::new(), now);
        let answered = ask_reading(snapshot, &org.entities, questions, reading).in_shadow(in_shadow(
            snapshot,
            held.fold()?.created(),
            now,
        ));
        let enforced = answered.force() == Force::Enforced;
        let allowed = answered.allowed().then(|| answered.questions().first()).flatten();
        let reservations = reading.reserve(snapshot, allowed)?;
        let bytes = serde_json::to_vec(&stored.action).map_err(EngineError::damaged)?;
        let (reference, _) = beside.add(answered.evidence(&self.mint().salt(), &bytes));
        let dispatched = tool.tool.runner.is_some();
        let (permit, run) =
            self.permit_terms(Some(&tool), &input, held, (false, enforced, reservations), now, beside)?;
        if let Some(run) = run {
            runs.push((action, run));
        }
        Ok(Some(Grant {
            action,
            question: if dispatched { QuestionKind::Dispatch } else { QuestionKind::CallTool },
            tool: tool.tool.name.clone(),
            tool_version: tool.version,
            mutable_target: tool.tool.mutable_target,
            permit,
            cleared: Some(answered.asked(Some(reference))),
        }))
    }
}

/// Runs that begin with a decision, by action.
pub(crate) type Runs = Vec<(ActionId, PreparedRun)>;

/// A decision that is on record: its id, what it came to, the runs that it starts, and its append.
pub(crate) type Decision = (DecisionId, Reply, Runs, Appended);

/// What a decision is weighed in.
pub(crate) struct Deciding<'a> {
    pub(crate) org: &'a Org,
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) who: &'a Principal,
    pub(crate) gate: &'a OpenGate,
    pub(crate) opened: &'a Opened,
    pub(crate) now: Timestamp,
    /// Votes without a signature, where a rule demands one.
    pub(crate) unsigned: &'a BTreeSet<DecisionId>,
    /// Persons' keys, where the decision is signed.
    pub(crate) keys: Option<&'a HeldKeys<'a>>,
}

/// A changed input on its way.
pub(crate) struct Replaced {
    digest: Digest,
    /// Salt of the digest: the evidence under the same salt opens it.
    pub(crate) salt: Salt,
    input: Vec<u8>,
    action: Value,
    pub(crate) canonical: Vec<u8>,
    pub(crate) questions: Vec<Question>,
    pub(crate) answered: Answered,
}

/// A delta as it is put on record: what each value came to. A mask may have changed what the person wrote, and what it
/// hides is kept nowhere.
fn kept_delta(
    delta: &BTreeMap<ItemId, Option<BTreeMap<String, Value>>>,
    replaced: &BTreeMap<ItemId, Replaced>,
) -> BTreeMap<ItemId, Option<BTreeMap<String, Value>>> {
    let came_to = |item: &ItemId, pointer: &String| {
        let input = replaced.get(item).and_then(|new| new.action.get("input"));
        input.and_then(|input| input.pointer(pointer)).cloned().unwrap_or_default()
    };
    delta
        .iter()
        .map(|(item, change)| {
            let change = change
                .as_ref()
                .map(|values| values.keys().map(|pointer| (pointer.clone(), came_to(item, pointer))).collect());
            (*item, change)
        })
        .collect()
}

/// What policy said of the person who decides.
struct DeciderAnswers {
    answers: Vec<Answered>,
    payloads: Vec<countersign_ledger_entry::PayloadRef>,
}

impl DeciderAnswers {
    fn iter(&self) -> impl Iterator<Item = &Answered> {
        self.answers.iter()
    }

    fn push_payload(&mut self, reference: countersign_ledger_entry::PayloadRef) {
        self.payloads.push(reference);
    }

    /// One answer over all items: the strictest, with the policies of each.
    fn into_asked(self, engine: &Engine, beside: &mut Beside) -> Result<Asked, EngineError> {
        let strictest = self
            .answers
            .iter()
            .max_by_key(|a| a.verdict.decision)
            .ok_or_else(|| EngineError::damaged("a decision that asked nothing"))?;
        let action = br#"{"question":"decide"}"#;
        let (reference, _) = beside.add(strictest.evidence(&engine.mint().salt(), action));
        let mut asked = strictest.asked(Some(reference));
        asked.payloads.extend(self.payloads);
        Ok(asked)
    }
}

/// Deciding takes a person, with a credential that was made for it.
pub(crate) fn decides(org: &Org, who: &Principal) -> Result<(), EngineError> {
    if who.kind != PrincipalKind::Person {
        return Err(countersign_gateway_flow::Illegal::NotAPerson.into());
    }
    if !who.has(Scope::Decide) {
        return Err(EngineError::ScopeMissing);
    }
    if who.assurance == Assurance::Demo && !org.log.is_demo() {
        return Err(EngineError::DemoOnly);
    }
    Ok(())
}

/// Whether this person's vote counts for a rule, as far as its authority goes.
pub(crate) fn admits(
    snapshot: &Snapshot,
    gate: &OpenGate,
    name: &Name,
    (person, groups): (&Principal, &[Name]),
    role: Option<&Name>,
) -> bool {
    let Some(rule) = snapshot.rules().get(name.as_str()) else {
        // The bundle no longer has it: the pinned form counts by role, and the role must be held.
        return role.is_some_and(|role| person.roles.contains(role));
    };
    circles(Some(gate), name, rule).any(|circle| circle.admits(&person.roles, groups, &person.teams))
}

pub(crate) fn default_role(who: &Principal, gate: &OpenGate, snapshot: &Snapshot) -> Option<Name> {
    gate.live_items()
        .flat_map(|i| i.rules.iter())
        .filter_map(|form| Some((&form.rule, snapshot.rules().get(form.rule.as_str())?)))
        .flat_map(|(name, rule)| circles(Some(gate), name, rule))
        .flat_map(|circle| circle.roles.iter())
        .find(|role| who.roles.contains(role))
        .cloned()
}

fn bounds(snapshot: &Snapshot, gate: &OpenGate) -> (usize, usize) {
    let rules = gate.live_items().flat_map(|i| i.rules.iter()).filter_map(|f| snapshot.rules().get(f.rule.as_str()));
    let (mut min, mut max) = (1, 4000);
    for rule in rules {
        min = min.max(usize::try_from(rule.justification.min).unwrap_or(usize::MAX));
        max = max.min(usize::try_from(rule.justification.max).unwrap_or(usize::MAX));
    }
    (min, max)
}

fn canonical_input(action: &Value) -> Option<Vec<u8>> {
    serde_json::to_vec(action.get("input")?).ok()
}

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
                liftable: crate::lifts::break_glass_of(snapshot, rule).is_some(),
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
