//! Actions: propose, begin, report, read. Proposing is the hot path: one read of the body, one write of the answer.
//!
//! Absent: what a tool may be given (the engine and the catalogue).

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use countersign_gateway_engine as engine;
use countersign_gateway_engine::ActionResult;
use countersign_gateway_model::{ActionId, InstanceId, Name, Outcome, PermitId, Principal, RunId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Auth;
use crate::context::{note_entry, note_instance};
use crate::input::{Id, Input, Wait};
use crate::instances::{Empty, until_gate_closes};
use crate::problem::Problem;
use crate::reply;
use crate::state::AppState;
use crate::wire::{Answer, GateLink, Instead, Permit, Receipt, Start, Time, gate_path};

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(propose_actions))
        .routes(routes!(get_action))
        .routes(routes!(start_action))
        .routes(routes!(report_outcome))
}

/// One to sixteen proposals to call tools. Those that people must approve come into one gate, each with its own digest.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "actions": [{ "tool": "repo.read_file", "input": { "path": "README.md" } }], "begin": true }))]
pub(crate) struct ProposedActions<'a> {
    /// The proposals: 1 to 16.
    #[serde(borrow)]
    actions: Vec<ProposedAction<'a>>,
    /// Also start what is allowed. Without it each gets a permit, to be started by `POST /api/v1/actions/{id}/start`.
    /// What a runner carries out is always started.
    #[serde(default)]
    begin: bool,
}

/// A proposal to call a tool.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProposedAction<'a> {
    /// The tool, as the catalogue names it.
    #[schema(value_type = String, example = "repo.read_file")]
    tool: Name,
    /// Its input, as its schema in the catalogue has it.
    #[serde(borrow)]
    #[schema(value_type = Object)]
    input: &'a RawValue,
    /// Commit, image or content digest of what it acts on, where known: the permit is bound to it.
    #[serde(default)]
    revision: Option<String>,
}

/// What became of the proposals.
#[derive(Serialize, ToSchema)]
pub(crate) struct ActionsProposed {
    /// In the order of the request.
    actions: Vec<Answer>,
    /// The gate that those wait at which need people.
    #[serde(skip_serializing_if = "Option::is_none")]
    gate: Option<GateLink>,
    /// Where the instance stands.
    #[schema(value_type = String, example = "RUNNING")]
    state: &'static str,
    /// `false`: this repeats the answer to an earlier request with the same idempotency key. Starts in it are no
    /// authority.
    first: bool,
    /// Proof of the last entry.
    receipt: Receipt,
}

/// An action.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "id": "act_0192f3a1b2c37d4e8f9a0b1c2d3e4f5a", "instance": "inst_0192f3a1b2c37d4e8f9a0b1c2d3e4f5a",
    "tool": "repo.run_tests", "status": "succeeded", "run": "run_0192f3a1b2c37d4e8f9a0b1c2d3e4f5a",
    "permit": "perm_0192f3a1b2c37d4e8f9a0b1c2d3e4f5a", "proposed": "2026-11-20T09:00:00.000Z"
}))]
pub(crate) struct Action {
    /// Its id.
    #[schema(value_type = String)]
    id: ActionId,
    /// The instance.
    #[schema(value_type = String)]
    instance: InstanceId,
    /// The tool.
    #[schema(value_type = String)]
    tool: Name,
    /// `waiting`, `refused`, `permitted`, `started`, `lapsed`, `voided`, or its outcome: `succeeded`, `failed`,
    /// `cancelled`, `timed_out`, `unknown`. More words may come.
    status: String,
    /// Its run, if a runner carries it out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    run: Option<RunId>,
    /// Its permit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    permit: Option<PermitId>,
    /// When it was proposed.
    #[schema(value_type = String, format = DateTime)]
    proposed: Time,
    /// What it was permitted for, where that is not what was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    instead: Option<Instead>,
}

impl From<engine::ActionRecord> for Action {
    fn from(record: engine::ActionRecord) -> Self {
        let engine::ActionRecord { id, instance, tool, status, run, permit, proposed, instead } = record;
        let (proposed, instead) = (proposed.into(), instead.map(Into::into));
        Self { id, instance, tool, status, run, permit, proposed, instead }
    }
}

/// A start, with the proof.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "permit": "perm_0192f3a1b2c37d4e8f9a0b1c2d3e4f5a", "not_after": "2026-11-20T09:05:00.000Z", "first": true, "fence": 4,
    "receipt": { "index": 41, "leaf_hash": "5b0f…", "proof": ["q7Zq…"], "checkpoint": "…" }
}))]
pub(crate) struct ActionStarted {
    #[serde(flatten)]
    start: Start,
    /// What is to be carried out, where that is not what was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    instead: Option<Instead>,
    /// Proof of the start's entry.
    receipt: Receipt,
}

/// How an action ended that the agent carried out itself.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "outcome": "succeeded", "output": { "bytes": 512 } }))]
pub(crate) struct OutcomeReport {
    /// `succeeded`, `failed`, `cancelled`, `timed_out` or `unknown`. Final once, but for `unknown`, which may be
    /// superseded once.
    #[schema(value_type = String)]
    outcome: Outcome,
    /// What came out, as JSON; at most 64 KiB. Kept as a payload, which can be erased; its digest stays.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    output: Option<Value>,
}

/// What became of a report.
#[derive(Serialize, ToSchema)]
pub(crate) struct OutcomeRecorded {
    /// The outcome on record.
    #[schema(value_type = String, example = "succeeded")]
    outcome: &'static str,
    /// The report differed from a final outcome: the conflict is on record, and nothing changed.
    conflict: bool,
    /// Proof of the entry.
    receipt: Receipt,
}

/// Propose actions
///
/// Each is asked of policy, and the answer is in the ledger before it is given. A single proposal that is refused
/// answers with the problem `policy-denied` and the receipt of the refusal; in a batch each has its own answer. Where
/// people must approve, the answer is 202 and names the gate; with `Prefer: wait=N` it waits up to N seconds for them.
///
/// Where an answer has `instead`, what is permitted is not what was sent: policy masked or transformed it. Carry out that
/// input. One that a person changed at a gate is told after the wait, at the start, and by `GET /api/v1/actions/{id}`.
///
/// Who asks for what waits already is answered with its gate. Nothing is committed for that, so its idempotency key, if it
/// is another than the first one's, is bound to nothing: after the gate it would be a proposal of its own.
#[utoipa::path(
    post, path = "/api/v1/instances/{id}/actions", operation_id = "proposeActions", tag = "actions",
    params(("id" = String, Path, description = "The instance")),
    request_body = ProposedActions,
    responses(
        (status = 200, description = "Every action has its answer", body = ActionsProposed, example = json!({
            "actions": [{
                "action": "act_0192f3a1b2c37d4e8f9a0b1c2d3e4f5a", "tool": "repo.read_file", "status": "started",
                "start": {
                    "permit": "perm_0192f3a1b2c37d4e8f9a0b1c2d3e4f5a", "not_after": "2026-11-20T09:05:00.000Z",
                    "first": true, "fence": 4
                }
            }],
            "state": "RUNNING", "first": true,
            "receipt": { "index": 41, "leaf_hash": "5b0f…", "proof": ["q7Zq…"], "checkpoint": "…" }
        })),
        (status = 202, description = "People must approve at least one of them", body = ActionsProposed),
    ),
)]
async fn propose_actions(
    State(app): State<AppState>,
    Auth(who): Auth,
    Id(id): Id<InstanceId>,
    wait: Wait,
    input: Input,
) -> Result<Response, Problem> {
    note_instance(id);
    let body: ProposedActions<'_> = input.read()?;
    let requests = body.actions.into_iter().map(|action| engine::ActionRequest {
        tool: action.tool,
        input: action.input.get().as_bytes().to_vec(),
        revision: action.revision,
    });
    let (requests, begin) = (requests.collect(), body.begin);
    let waiter = wait.0.map(|time| (Arc::clone(&who), time));
    let proposed = app.engine.propose(who, id, requests, begin, input.key).await.inspect_err(|error| {
        app.metrics.refused(error);
    })?;
    note_entry(proposed.receipt.index);
    for answer in &proposed.items {
        app.metrics.judged(&answer.result);
    }
    if let (Some(gate), Some((who, time))) = (proposed.gate, waiter) {
        return after_wait(&app, &who, id, proposed, gate, time).await.map(reply::waited);
    }
    answer(proposed)
}

fn answer(proposed: engine::Proposed) -> Result<Response, Problem> {
    let gate = proposed.gate;
    let wire = ActionsProposed {
        actions: proposed.items.into_iter().map(Into::into).collect(),
        gate: gate.map(Into::into),
        state: proposed.state.as_str(),
        first: proposed.first,
        receipt: proposed.receipt.into(),
    };
    match gate {
        Some(gate) => reply::waiting(&wire, &gate_path(gate)),
        None => reply::ok(&wire),
    }
}

/// As [`answer`], with what became of the waiting ones once the gate has closed.
async fn after_wait(
    app: &AppState,
    who: &Principal,
    id: InstanceId,
    proposed: engine::Proposed,
    gate: countersign_gateway_model::GateId,
    time: Duration,
) -> Result<Response, Problem> {
    let record = app.engine.instance(who, id).await?;
    let Some(record) = until_gate_closes(app, who, record, gate, time).await? else {
        return answer(proposed);
    };
    let mut actions = Vec::with_capacity(proposed.items.len());
    for item in proposed.items {
        let waited = matches!(item.result, ActionResult::Waiting { .. });
        let mut wire = Answer::from(item);
        if waited {
            let now = app.engine.action(who, wire.action).await?;
            wire.permit = now.permit.filter(|_| now.status == "permitted").map(|id| Permit { id, expires: None });
            wire.run = now.run;
            wire.instead = now.instead.map(Into::into);
            wire.status = Cow::Owned(now.status);
        }
        actions.push(wire);
    }
    reply::ok(&ActionsProposed {
        actions,
        gate: Some(gate.into()),
        state: record.state.as_str(),
        first: proposed.first,
        receipt: proposed.receipt.into(),
    })
}

/// Read an action
#[utoipa::path(
    get, path = "/api/v1/actions/{id}", operation_id = "getAction", tag = "actions",
    params(("id" = String, Path, description = "The action")),
    responses((status = 200, description = "The action", body = Action)),
)]
async fn get_action(State(app): State<AppState>, Auth(who): Auth, Id(id): Id<ActionId>) -> Result<Response, Problem> {
    let record = app.engine.action(&who, id).await?;
    note_instance(record.instance);
    reply::ok(&Action::from(record))
}

/// Start a permitted action
///
/// Consumes the permit. Only the first answer is authority to carry the action out: where `first` is `false`, it was
/// given before, and what became of it is unknown to you.
///
/// Where `instead` stands, policy or a person changed the input: carry out that one. What was sent is not permitted.
#[utoipa::path(
    post, path = "/api/v1/actions/{id}/start", operation_id = "startAction", tag = "actions",
    params(("id" = String, Path, description = "The action")),
    responses((status = 200, description = "It may be carried out", body = ActionStarted)),
)]
async fn start_action(
    State(app): State<AppState>,
    Auth(who): Auth,
    Id(id): Id<ActionId>,
    input: Input,
) -> Result<Response, Problem> {
    let Empty {} = input.read_or_default()?;
    let engine::Begun { start, instead, receipt } = app.engine.begin(who, id, input.key).await?;
    note_entry(receipt.index);
    reply::ok(&ActionStarted { start: start.into(), instead: instead.map(Into::into), receipt: receipt.into() })
}

/// Report an outcome
///
/// Of an action that the agent carried out itself. Accepted in every state of the instance.
#[utoipa::path(
    post, path = "/api/v1/actions/{id}/outcome", operation_id = "reportOutcome", tag = "actions",
    params(("id" = String, Path, description = "The action")),
    request_body = OutcomeReport,
    responses((status = 200, description = "It is on record", body = OutcomeRecorded)),
)]
async fn report_outcome(
    State(app): State<AppState>,
    Auth(who): Auth,
    Id(id): Id<ActionId>,
    input: Input,
) -> Result<Response, Problem> {
    let body: OutcomeReport = input.read()?;
    let report = engine::OutcomeReport { outcome: body.outcome, output: body.output };
    let recorded = app.engine.report(who, id, report, input.key).await?;
    note_entry(recorded.receipt.index);
    reply::ok(&OutcomeRecorded {
        outcome: recorded.outcome.as_str(),
        conflict: recorded.conflict,
        receipt: recorded.receipt.into(),
    })
}
