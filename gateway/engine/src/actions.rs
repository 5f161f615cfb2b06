//! The way of an action: typed input, question, verdict, permit, start, outcome.
//!
//! A tool with a runner is a dispatch: its permit and start are one append, and the order is built from the start that
//! came back proven. Everything else is carried out by the agent, under a permit that is good for one start.

use std::sync::Arc;

use serde_json::value::RawValue;
use serde_json::{Value, json};

use countersign_gateway_flow::{
    Action, ActionAnswer as FlowAnswer, Actions, Begin, Force, ItemTerms, Now, Proposal, Reply, Report, StartTerms,
    decide,
};
use countersign_gateway_model::{
    ActionId, Decision, Digest, GrantId, InstanceId, Name, PermitId, Principal, Pseudonym, RunId, Timestamp,
};
use countersign_ledger_entry::PayloadRole;
use countersign_ledger_entry::body::{GateSubject, QuestionKind, Reservation};
use countersign_ledger_entry::payload;
use countersign_ledger_log::Appended;
use countersign_policy_decide::catalogue::CompiledTool;
use countersign_policy_decide::input::{self, TypedInput};
use countersign_policy_decide::{EntityKind, EntityRef, Operation};

use crate::answers::{last_receipt, refused, result_of};
use crate::api::{
    ActionAnswer, ActionRecord, ActionRequest, ActionResult, Begun, Idempotency, OutcomeReport, Proposed, Recorded,
    StartAnswer,
};
use crate::asking::{Answered, actor_of, ask_transforming, chain, question};
use crate::beside::Beside;
use crate::counters::{REPEATS, Reading};
use crate::error::EngineError;
use crate::gates::Pending;
use crate::grants::{Acting, Resting, Usable};
use crate::instead::{instead_of, permit_of, remember, rewritten};
use crate::mint::MintExt as _;
use crate::org::{Org, instance_stream};
use crate::permits::{PreparedRun, in_shadow, may_change};
use crate::stream::{Held, instance_name};
use crate::{Engine, Snapshot};

/// Most actions of one batch.
const MAX_BATCH: usize = 16;

/// Longest output of an agent's report, as JSON.
const MAX_OUTPUT: usize = 64 * 1024;

/// One action on its way.
struct Asking {
    id: ActionId,
    tool: Name,
    compiled: Option<Arc<CompiledTool>>,
    input: Option<Arc<TypedInput>>,
    answered: Answered,
    /// What it takes from counters, where it is allowed.
    reservations: Vec<Reservation>,
    run: Option<PreparedRun>,
    revision: Option<String>,
    /// What it rests on, where people said yes in advance.
    grants: Vec<GrantId>,
}

/// A batch as it is proposed, at one moment.
struct Proposing<'a> {
    org: &'a Org,
    snapshot: &'a Snapshot,
    who: &'a Principal,
    acting: Acting<'a>,
    id: InstanceId,
    requests: &'a [ActionRequest],
    begin: bool,
    now: Timestamp,
    /// What people said yes to in advance.
    usable: &'a [Usable],
}

/// Canonical JSON of what a permit is bound to. The order of its members is part of the format.
pub(crate) fn canonical_action(
    who: &Principal,
    instance: InstanceId,
    workflow_version: &Digest,
    action: ActionId,
    question: &str,
    (tool, version, revision): (&Name, Option<&Digest>, Option<&str>),
    input: &[u8],
) -> Result<Vec<u8>, EngineError> {
    #[derive(serde::Serialize)]
    struct Canonical<'a> {
        action: ActionId,
        input: &'a RawValue,
        instance: InstanceId,
        on_behalf_of: Vec<String>,
        organization: countersign_gateway_model::OrgId,
        principal: String,
        question: &'a str,
        revision: Option<&'a str>,
        tool: &'a Name,
        tool_version: Option<&'a Digest>,
        workflow_version: &'a Digest,
    }
    let input = std::str::from_utf8(input).map_err(EngineError::damaged)?;
    let canonical = Canonical {
        action,
        input: serde_json::from_str(input).map_err(EngineError::damaged)?,
        instance,
        on_behalf_of: who.on_behalf_of.iter().map(|d| format!("{}/{}", crate::org::word(d.kind), d.id)).collect(),
        organization: who.org,
        principal: format!("{}/{}", crate::org::word(who.kind), who.id),
        question,
        revision,
        tool,
        tool_version: version,
        workflow_version,
    };
    serde_json::to_vec(&canonical).map_err(EngineError::damaged)
}

impl Engine {
    /// Proposes a batch of 1 to 16 actions on an instance.
    ///
    /// # Errors
    /// A single refused action is [`EngineError::Refused`]; in a batch each item has its own answer.
    pub async fn propose(
        &self,
        who: Arc<Principal>,
        id: InstanceId,
        requests: Vec<ActionRequest>,
        begin: bool,
        key: Option<Idempotency>,
    ) -> Result<Proposed, EngineError> {
        let this = self.clone();
        Self::whole(async move { Box::pin(this.propose_actions(&who, id, requests, begin, key)).await }).await
    }

    async fn propose_actions(
        &self,
        who: &Principal,
        id: InstanceId,
        requests: Vec<ActionRequest>,
        begin: bool,
        key: Option<Idempotency>,
    ) -> Result<Proposed, EngineError> {
        let org = self.org(who.org)?;
        let mut held = self.hold(&org, id).await?;
        let stream = instance_stream(id);
        if let Some(answer) = self.replayed(&org, stream, who, key.as_ref()).await? {
            self.visible(&org, who, held.fold()?)?;
            return self.proposed_before(&org, &held, &answer).await;
        }
        let snapshot = self.counted_snapshot(&org).await?;
        let fold = held.fold()?;
        self.visible(&org, who, fold)?;
        self.acts(who, &held)?;
        if !(1..=MAX_BATCH).contains(&requests.len()) {
            return Err(countersign_gateway_flow::Illegal::BatchSize(requests.len()).into());
        }
        if let Some(gate) = fold.gate() {
            let waiting = EngineError::Waiting(gate.gate);
            return self.proposed_already(&org, &snapshot, who, &held, &requests).await?.ok_or(waiting);
        }
        let chain: Vec<Pseudonym> = who.on_behalf_of.iter().map(|delegator| delegator.pseudonym).collect();
        let acting = Acting { who: who.pseudonym, chain: &chain };
        let usable = self.usable_grants(&org, &snapshot, &held, acting).await?;
        let single = requests.len() == 1;
        let mut turn = None;
        let mut attempt = 1;
        let (mut asking, answers, reply, appended) = loop {
            let now = self.now();
            let reading = org.counting.reading(&snapshot, now, turn);
            let usable = usable.as_slice();
            let proposal =
                Proposing { org: &org, snapshot: &snapshot, who, acting, id, requests: &requests, begin, now, usable };
            match Box::pin(self.propose_once(&proposal, &mut held, reading, key.as_ref())).await {
                // Others took from the same counters meanwhile. From now on they wait.
                Err(EngineError::CountersBusy) if attempt < REPEATS => attempt += 1,
                proposed => break proposed?,
            }
            turn = Some(org.counting.turn().await);
        };
        let receipt = last_receipt(&appended)?;
        let (gate, cancel) = match &reply {
            Reply::Waiting { gate, .. } => (Some(*gate), Vec::new()),
            Reply::Denied { cancel, .. } => (None, cancel.clone()),
            Reply::Refused(reason) => {
                let message = asking.first().map(|a| a.answered.agent_message()).unwrap_or_default();
                return Err(refused(*reason, message, receipt));
            }
            _ => (None, Vec::new()),
        };
        remember(&mut held, &answers);
        let fold = held.fold()?;
        self.cancel_runs(&org, fold, &cancel);
        let state = fold.state();
        // Released before the runner is called: a run that ends at once takes the stream's lock for its outcome.
        drop(held);
        self.dispatch_started(&org, id, &appended, asking.iter_mut().filter_map(|a| a.run.take()).collect()).await;
        if single && let Some(ActionAnswer { result: ActionResult::Refused { code, message }, .. }) = answers.first() {
            return Err(EngineError::Refused(Box::new(crate::error::Refused {
                code,
                message: message.clone(),
                receipt,
            })));
        }
        Ok(Proposed { items: answers, gate, state, receipt, first: true })
    }

    /// Asks about a batch, decides and commits it. With [`EngineError::CountersBusy`] nothing has changed.
    async fn propose_once(
        &self,
        proposal: &Proposing<'_>,
        held: &mut Held,
        mut reading: Reading,
        key: Option<&Idempotency>,
    ) -> Result<(Vec<Asking>, Vec<ActionAnswer>, Reply, Appended), EngineError> {
        let Proposing { org, snapshot, who, id, requests, begin, now, .. } = *proposal;
        let mut beside = Beside::default();
        let mut asking = self.ask_batch(proposal, held, &mut reading)?;
        let mut items = Vec::with_capacity(requests.len());
        let mut pending = Vec::new();
        for one in &mut asking {
            let (action, waits) = self.action_of(who, held, one, begin, (id, now), &mut beside)?;
            pending.extend(waits);
            items.push(action);
        }
        let mut gate = None;
        if !pending.is_empty() {
            let scene = self.gate_scene(org, snapshot, who, held.fold()?.created(), id, now);
            let (terms, made) = self.open_gate(&scene, GateSubject::Actions, &pending, &mut beside)?;
            gate = Some(terms);
            let mut made = made.into_iter();
            for item in &mut items {
                if item.asked.effective() == Some(Decision::NeedsApproval) {
                    item.item = made.next();
                }
            }
        }
        let state = Now { at: now, frozen: org.is_frozen(held.live.team.as_ref()), by: actor_of(who) };
        let decided = decide(held.live.fold.as_ref(), Proposal::Actions(Actions { items, gate }), &state)?;
        let reply = decided.reply.clone();
        let answers = self.answers(&reply, &asking, now);
        let stored = stored_answer(&answers, &reply)?;
        beside.idempotency = key.map(|k| crate::writing::idempotency(instance_stream(id), who, k, stored));
        beside.reading = Some(reading);
        let appended = self.commit_held(org, held, decided, (beside, now, snapshot)).await?;
        Ok((asking, answers, reply, appended))
    }

    /// Asks about every action of a batch; about those that people said yes to in advance, with that. Where anybody must be
    /// asked all the same, they are asked about all: what was said in advance is kept for when it spares them a gate.
    fn ask_batch(
        &self,
        proposal: &Proposing<'_>,
        held: &Held,
        reading: &mut Reading,
    ) -> Result<Vec<Asking>, EngineError> {
        let Proposing { org, snapshot, acting, requests, now, usable, .. } = *proposal;
        let mut resting = Resting::on(usable, acting, now.max(held.fold()?.latest()));
        let mut asking = Vec::with_capacity(requests.len());
        for request in requests {
            let mut one = self.ask_action(proposal, held, reading, request)?;
            if let Some(input) = one.input.as_ref().filter(|_| !usable.is_empty()) {
                let facts = (&**snapshot, &org.entities);
                let met = resting.ask(facts, &one.answered, (input, one.revision.as_deref()), reading)?;
                if let Some(met) = met {
                    (one.answered, one.grants, one.reservations) = (met.answered, met.grants, met.reservations);
                }
            }
            asking.push(one);
        }
        let waits = asking.iter().any(|one| one.answered.decision() == Decision::NeedsApproval);
        if waits && asking.iter().any(|one| !one.grants.is_empty()) {
            reading.forget_taken();
            return requests.iter().map(|request| self.ask_action(proposal, held, reading, request)).collect();
        }
        Ok(asking)
    }

    /// Reads one action strictly, and asks policy.
    fn ask_action(
        &self,
        proposal: &Proposing<'_>,
        held: &Held,
        reading: &mut Reading,
        request: &ActionRequest,
    ) -> Result<Asking, EngineError> {
        let Proposing { org, snapshot, who, id, now, .. } = *proposal;
        if request.revision.as_ref().is_some_and(|r| r.len() > 128 || !r.chars().all(|c| c.is_ascii_graphic())) {
            return Err(EngineError::invalid("revision", "give at most 128 printable ASCII characters"));
        }
        let compiled = snapshot.tool(request.tool.as_str()).cloned();
        let input = match &compiled {
            Some(tool) => Some(input::parse(tool, &request.input)),
            // Nothing is known of the tool, but what goes into the record must still be one strict form.
            None => input::canonicalize(&request.input).map(|_| None).transpose(),
        };
        let input = input
            .transpose()
            .map_err(|source| EngineError::Input { tool: request.tool.to_string(), source })?
            .map(Arc::new);
        let dispatched = compiled.as_ref().is_some_and(|c| c.tool.runner.is_some());
        let operation = if dispatched { Operation::Dispatch } else { Operation::CallTool };
        let fold = held.fold()?;
        let resource = EntityRef::new(org.id, EntityKind::Tool, request.tool.clone());
        let mut asked = question(who, operation, resource, now);
        asked.instance = Some(EntityRef::new(org.id, EntityKind::Instance, instance_name(id)?));
        asked.input.clone_from(&input);
        asked.denials = u64::from(fold.denials());
        asked.four_eyes = crate::stream::four_eyes(org);
        asked.revision.clone_from(&request.revision);
        let answered = ask_transforming(snapshot, &org.entities, chain(who, asked), reading);
        let answered = answered.in_shadow(in_shadow(snapshot, fold.created(), now));
        let input = answered.input().cloned();
        let allowed = answered.allowed().then(|| answered.questions().first()).flatten();
        let reservations = reading.reserve(snapshot, allowed)?;
        Ok(Asking {
            id: self.mint().action(),
            tool: request.tool.clone(),
            compiled,
            input,
            answered,
            reservations,
            run: None,
            revision: request.revision.clone(),
            grants: Vec::new(),
        })
    }

    /// The action as the state machine takes it, with its permit's terms, and what people would be asked.
    fn action_of(
        &self,
        who: &Principal,
        held: &Held,
        one: &mut Asking,
        begin: bool,
        (id, now): (InstanceId, Timestamp),
        beside: &mut Beside,
    ) -> Result<(Action, Option<Pending>), EngineError> {
        let fold = held.fold()?;
        let dispatched = one.compiled.as_ref().is_some_and(|c| c.tool.runner.is_some());
        let kind = if dispatched { QuestionKind::Dispatch } else { QuestionKind::CallTool };
        let word = if dispatched { "dispatch" } else { "callTool" };
        let version = one.compiled.as_ref().map(|c| c.version);
        let input: &[u8] = one.input.as_ref().map_or(b"null", |i| i.canonical());
        let canonical = canonical_action(
            who,
            id,
            &fold.created().workflow_version,
            one.id,
            word,
            (&one.tool, version.as_ref(), one.revision.as_deref()),
            input,
        )?;
        let evidence = one.answered.evidence(&self.mint().salt(), &canonical);
        let fields = evidence.fields.clone();
        let (reference, digest) = beside.add(evidence);
        let mut asked = one.answered.asked(Some(reference));
        asked.fields = fields;
        let decision = one.answered.decision();
        let mut permit = None;
        let mut pending = None;
        match decision {
            Decision::Allow => {
                let (terms, run) = self.permit_terms(
                    one.compiled.as_deref(),
                    input,
                    held,
                    (begin, one.answered.force() == Force::Enforced, std::mem::take(&mut one.reservations)),
                    now,
                    beside,
                )?;
                if let Some(run) = &run {
                    asked.payloads.push(run.reference);
                }
                permit = Some(terms);
                one.run = run;
            }
            Decision::NeedsApproval => {
                pending = Some(Pending {
                    what: format!("{} {}", if dispatched { "dispatch" } else { "call" }, one.tool),
                    tool: one.compiled.clone(),
                    rules: one.answered.verdict.rules.clone(),
                    input: serde_json::from_slice(input).map_err(EngineError::damaged)?,
                    revision: one.revision.clone(),
                    reasons: one.answered.reasons().map(str::to_owned).collect(),
                    changed_by: None,
                    rewritten: one.input.as_deref().map(rewritten).unwrap_or_default(),
                    found: Vec::new(),
                    terms: Vec::new(),
                });
            }
            Decision::Deny => {}
        }
        let action = Action {
            action: one.id,
            question: kind,
            tool: one.tool.clone(),
            tool_version: version,
            digest,
            mutable_target: one.compiled.as_ref().is_some_and(|c| may_change(c, one.revision.as_deref())),
            asked,
            permit,
            item: None::<ItemTerms>,
            grants: one.grants.clone(),
        };
        Ok((action, pending))
    }

    /// The state machine's answers in the caller's words.
    fn answers(&self, reply: &Reply, asking: &[Asking], now: Timestamp) -> Vec<ActionAnswer> {
        let actions = match reply {
            Reply::Answered(actions) | Reply::Waiting { actions, .. } | Reply::Denied { actions, .. } => {
                actions.as_slice()
            }
            _ => &[],
        };
        let expires = now + self.options().permit_ttl;
        actions
            .iter()
            .zip(asking)
            .map(|(answer, one)| ActionAnswer {
                action: one.id,
                tool: one.tool.clone(),
                result: result_of(answer, expires, one.run.as_ref().map(|r| r.run), || one.answered.agent_message()),
                instead: one.input.as_deref().filter(|_| is_permitted(answer)).and_then(instead_of),
            })
            .collect()
    }

    async fn proposed_before(&self, org: &Org, held: &Held, answer: &Value) -> Result<Proposed, EngineError> {
        let fold = held.fold()?;
        let receipt = self.receipt_of_last(org, fold.id(), fold.sequence()).await?;
        let stored: StoredProposed = serde_json::from_value(answer.clone()).map_err(EngineError::damaged)?;
        if let (Some(refusal), true) = (stored.items.first().and_then(StoredItem::refusal), stored.items.len() == 1) {
            let (code, message) = refusal;
            return Err(EngineError::Refused(Box::new(crate::error::Refused { code, message, receipt })));
        }
        let mut items: Vec<ActionAnswer> = stored.items.into_iter().map(StoredItem::answer).collect();
        for item in items.iter_mut().filter(|item| permit_of(&item.result).is_some()) {
            // Not kept with the key: what was permitted is in the question alone, and is gone once that is erased.
            let entry = self.action_row(org, item.action).await?.permit_entry();
            item.instead = self.readable_instead(org, fold.id(), entry).await?;
        }
        Ok(Proposed { items, gate: stored.gate, state: fold.state(), receipt, first: false })
    }

    /// Consumes the permit of an action: the agent may carry it out now, if this is the first answer.
    ///
    /// # Errors
    /// [`EngineError::Illegal`] if the permit was started, has lapsed, or the instance is not RUNNING.
    pub async fn begin(
        &self,
        who: Arc<Principal>,
        action: ActionId,
        key: Option<Idempotency>,
    ) -> Result<Begun, EngineError> {
        let this = self.clone();
        Self::whole(async move {
            let org = this.org(who.org)?;
            let row = this.action_row(&org, action).await?;
            let mut held = this.hold(&org, row.instance).await?;
            this.acts(&who, &held)?;
            let stream = instance_stream(row.instance);
            let permit = row.permit.ok_or(EngineError::NotFound("permit"))?;
            if let Some(answer) = this.replayed(&org, stream, &who, key.as_ref()).await? {
                let receipt = this.receipt_of_last(&org, row.instance, held.fold()?.sequence()).await?;
                let fence = answer.get("fence").and_then(Value::as_u64).unwrap_or_default();
                let not_after = Timestamp(answer.get("not_after").and_then(Value::as_u64).unwrap_or_default());
                let instead = this.readable_instead(&org, row.instance, row.permit_entry()).await?;
                return Ok(Begun { start: StartAnswer { permit, not_after, first: false, fence }, instead, receipt });
            }
            let snapshot = this.snapshot(org.id);
            let now = this.now();
            let live = held.fold()?.live_permit(permit).map(|live| (live.expires, live.sequence));
            let not_after = live.map_or(now, |(expires, _)| expires);
            // Read before anything is begun: what cannot be told must not be started.
            let instead = match live {
                Some((_, sequence)) if !held.live.as_sent.contains(&permit) => {
                    this.permitted_instead(&org, row.instance, sequence).await?
                }
                _ => None,
            };
            let fence = held.fold()?.sequence() + 1;
            let proposal =
                Proposal::Begin(Begin { permit, terms: StartTerms { not_after, run: None }, payloads: Vec::new() });
            let state = Now { at: now, frozen: org.is_frozen(held.live.team.as_ref()), by: actor_of(&who) };
            let decided = decide(held.live.fold.as_ref(), proposal, &state)?;
            let answer =
                serde_json::to_vec(&json!({ "fence": fence, "not_after": not_after })).map_err(EngineError::damaged)?;
            let beside = Beside {
                idempotency: key.as_ref().map(|k| crate::writing::idempotency(stream, &who, k, answer)),
                ..Beside::default()
            };
            let appended = this.commit_held(&org, &mut held, decided, (beside, now, &snapshot)).await?;
            held.live.as_sent.remove(&permit);
            let start = StartAnswer { permit, not_after, first: true, fence };
            Ok(Begun { start, instead, receipt: last_receipt(&appended)? })
        })
        .await
    }

    /// Records what became of an action that the agent carried out.
    ///
    /// # Errors
    /// [`EngineError::Illegal`] if it was never started.
    pub async fn report(
        &self,
        who: Arc<Principal>,
        action: ActionId,
        report: OutcomeReport,
        key: Option<Idempotency>,
    ) -> Result<Recorded, EngineError> {
        let this = self.clone();
        Self::whole(async move {
            let org = this.org(who.org)?;
            let row = this.action_row(&org, action).await?;
            let mut held = this.hold(&org, row.instance).await?;
            this.acts(&who, &held)?;
            if row.run.is_some() {
                return Err(EngineError::invalid(
                    "outcome",
                    "a runner reports the outcome of a dispatch, not the agent",
                ));
            }
            let stream = instance_stream(row.instance);
            if this.replayed(&org, stream, &who, key.as_ref()).await?.is_some() {
                let receipt = this.receipt_of_last(&org, row.instance, held.fold()?.sequence()).await?;
                return Ok(Recorded { outcome: report.outcome, conflict: false, receipt });
            }
            let permit = row.permit.ok_or(EngineError::NotFound("permit"))?;
            let mut beside = Beside::default();
            let mut asked = countersign_gateway_flow::Asked::nothing();
            let mut output = None;
            if let Some(value) = &report.output {
                let content = serde_json::to_vec(value).map_err(EngineError::damaged)?;
                if content.len() > MAX_OUTPUT {
                    return Err(EngineError::invalid("output", "give at most 65536 bytes of JSON"));
                }
                let salt = this.mint().salt();
                output = Some(payload::salted(payload::OUTPUT, &salt, &content));
                asked.payloads.push(beside.payload(PayloadRole::Output, payload::seal(&salt, &content)));
            }
            let proposal = Proposal::Outcome(Box::new(Report {
                permit,
                outcome: report.outcome,
                output,
                workspace: None,
                sandbox_level: None,
                asked,
            }));
            let answer = serde_json::to_vec(&json!({ "outcome": report.outcome })).map_err(EngineError::damaged)?;
            beside.idempotency = key.as_ref().map(|k| crate::writing::idempotency(stream, &who, k, answer));
            let (reply, appended) = this.commit_outcome(&org, &mut held, proposal, actor_of(&who), beside).await?;
            let receipt = match appended {
                Some(appended) => last_receipt(&appended)?,
                None => this.receipt_of_last(&org, row.instance, held.fold()?.sequence()).await?,
            };
            Ok(Recorded { outcome: report.outcome, conflict: matches!(reply, Reply::Conflict(_)), receipt })
        })
        .await
    }

    /// An action as people read it.
    ///
    /// # Errors
    /// [`EngineError::NotFound`].
    pub async fn action(&self, who: &Principal, id: ActionId) -> Result<ActionRecord, EngineError> {
        let org = self.org(who.org)?;
        let row = self.action_row(&org, id).await?;
        let held = self.hold(&org, row.instance).await?;
        self.visible_as(&org, who, held.fold()?, "action")?;
        let instead = self.readable_instead(&org, row.instance, row.permit_entry()).await?;
        Ok(self.action_record(&row, held.fold()?, instead))
    }
}

fn is_permitted(answer: &FlowAnswer) -> bool {
    matches!(answer, FlowAnswer::Permitted { .. } | FlowAnswer::Begun { .. })
}

/// An answer as it is kept under an idempotency key.
#[derive(serde::Serialize, serde::Deserialize)]
struct StoredProposed {
    items: Vec<StoredItem>,
    gate: Option<countersign_gateway_model::GateId>,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct StoredItem {
    action: ActionId,
    tool: Name,
    kind: String,
    permit: Option<PermitId>,
    expires: Option<Timestamp>,
    fence: Option<u64>,
    run: Option<RunId>,
    item: Option<countersign_gateway_model::ItemId>,
    message: Option<String>,
}

/// The codes that a refused action can have.
const REFUSALS: [&str; 6] =
    ["policy-denied", "policy-error", "tool-unknown", "frozen", "item-dropped", "instance-finished"];

impl StoredItem {
    fn of(answer: &ActionAnswer) -> Self {
        let mut stored = Self {
            action: answer.action,
            tool: answer.tool.clone(),
            kind: String::new(),
            permit: None,
            expires: None,
            fence: None,
            run: None,
            item: None,
            message: None,
        };
        let started = |stored: &mut Self, start: &StartAnswer| {
            stored.permit = Some(start.permit);
            stored.expires = Some(start.not_after);
            stored.fence = Some(start.fence);
        };
        let kind = match &answer.result {
            ActionResult::Permitted { permit, expires } => {
                stored.permit = Some(*permit);
                stored.expires = Some(*expires);
                "permitted"
            }
            ActionResult::Started(start) => {
                started(&mut stored, start);
                "started"
            }
            ActionResult::Dispatched { run, start } => {
                started(&mut stored, start);
                stored.run = Some(*run);
                "dispatched"
            }
            ActionResult::Waiting { item } => {
                stored.item = *item;
                "waiting"
            }
            ActionResult::Refused { code, message } => {
                stored.message = Some(message.clone());
                code
            }
        };
        kind.clone_into(&mut stored.kind);
        stored
    }

    fn refusal(&self) -> Option<(&'static str, String)> {
        let code = REFUSALS.into_iter().find(|code| *code == self.kind)?;
        Some((code, self.message.clone().unwrap_or_default()))
    }

    fn answer(self) -> ActionAnswer {
        let refusal = self.refusal();
        let start =
            || Some(StartAnswer { permit: self.permit?, not_after: self.expires?, first: false, fence: self.fence? });
        let result = match (self.kind.as_str(), self.permit, self.expires, start()) {
            ("permitted", Some(permit), Some(expires), _) => ActionResult::Permitted { permit, expires },
            ("started", .., Some(start)) => ActionResult::Started(start),
            ("dispatched", .., Some(start)) => match self.run {
                Some(run) => ActionResult::Dispatched { run, start },
                None => ActionResult::Started(start),
            },
            ("waiting", ..) => ActionResult::Waiting { item: self.item },
            _ => {
                let (code, message) = refusal.unwrap_or(("policy-denied", String::new()));
                ActionResult::Refused { code, message }
            }
        };
        ActionAnswer { action: self.action, tool: self.tool, result, instead: None }
    }
}

fn stored_answer(answers: &[ActionAnswer], reply: &Reply) -> Result<Vec<u8>, EngineError> {
    let gate = if let Reply::Waiting { gate, .. } = reply { Some(*gate) } else { None };
    let stored = StoredProposed { items: answers.iter().map(StoredItem::of).collect(), gate };
    serde_json::to_vec(&stored).map_err(EngineError::damaged)
}
