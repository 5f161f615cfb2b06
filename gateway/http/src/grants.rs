//! Task grants: asking people to meet a rule in advance, what was granted, and taking it back.
//!
//! Absent: who may give one (policy, at the gate that a request opens: `gates`), and its use, which is no operation: an action
//! that is within a grant's terms is answered like any other that is allowed (`actions`).

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::Response;
use countersign_gateway_engine as engine;
use countersign_gateway_engine::{Bound, ToolTerms};
use countersign_gateway_model::{GateId, GrantId, InstanceId, Name};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Auth;
use crate::context::{note_entry, note_instance};
use crate::input::{Id, Ids, Input, Paging, Params};
use crate::instances::Empty;
use crate::problem::Problem;
use crate::reply;
use crate::state::AppState;
use crate::wire::{GateLink, Page, Receipt, Time, gate_path};

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(request_grant, list_grants)).routes(routes!(revoke_grant))
}

/// A rule to be met in advance.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "rule": "external-communication", "uses": 5, "for_s": 3600, "reason": "five reminders to one shop",
    "tools": [{
        "tool": "mail.send",
        "input": { "/to": { "each_of": ["shop@example.com"] }, "/subject": { "equals": "Reminder" }, "/body": "any" }
    }]
}))]
pub(crate) struct NewGrant {
    /// The approval rule. Its data must let it be met in advance (`grantable`), for so long and so often.
    #[schema(value_type = String)]
    rule: Name,
    /// For which tools, and for which of their inputs: 1 to 16.
    tools: Vec<GrantedTool>,
    /// Uses at most.
    uses: u32,
    /// How long it lasts once it is given, in seconds; never longer than the instance.
    for_s: u64,
    /// How much its uses take of a counter at most.
    #[serde(default)]
    budget: Option<GrantBudget>,
    /// Why. Shown to those who are asked as the asker's own words.
    reason: String,
}

/// One tool of a grant.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct GrantedTool {
    /// The tool, as the catalogue names it. Another version of it is another tool.
    #[schema(value_type = String, example = "mail.send")]
    tool: Name,
    /// The one revision of its target; absent: any.
    #[serde(default)]
    revision: Option<String>,
    /// What may stand where in the input, by JSON pointer: `"any"`, `{"equals": …}`, `{"one_of": […]}`, `{"each_of": […]}` of
    /// a list, `{"prefix": "src/"}`, `{"maximum": 500}` (from 0), `{"between": [1, 5]}`. What is not named may not be there.
    #[serde(default)]
    #[schema(value_type = Object)]
    input: BTreeMap<String, Bound>,
}

/// How much of a counter.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct GrantBudget {
    /// The counter.
    #[schema(value_type = String)]
    counter: Name,
    /// Decimal text.
    #[schema(example = "500.0")]
    amount: String,
    /// What the uses took so far; only in answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    spent: Option<String>,
}

/// A grant that people are asked for.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "grant": "grant_0192f3a1b2c37d4e8f9a0b1c2d3e4f5a",
    "gate": {
        "id": "gate_0192f3a1b2c37d4e8f9a0b1c2d3e4f5a",
        "href": "/api/v1/gates/gate_0192f3a1b2c37d4e8f9a0b1c2d3e4f5a"
    },
    "state": "WAITING_FOR_HUMAN", "receipt": { "index": 41, "leaf_hash": "5b0f…", "proof": ["q7Zq…"], "checkpoint": "…" }
}))]
pub(crate) struct GrantAsked {
    /// Its id.
    #[schema(value_type = String)]
    grant: GrantId,
    /// The gate at which people are asked.
    gate: GateLink,
    /// Where the instance stands.
    #[schema(value_type = String)]
    state: &'static str,
    /// Proof of the last entry.
    receipt: Receipt,
}

/// A grant.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "id": "grant_0192f3a1b2c37d4e8f9a0b1c2d3e4f5a", "gate": "gate_0192f3a1b2c37d4e8f9a0b1c2d3e4f5a",
    "rule": "external-communication", "state": "live", "uses": 5, "used": 2, "given": "2026-11-20T09:00:00.000Z",
    "until": "2026-11-20T10:00:00.000Z", "approvers": ["person/ada"]
}))]
pub(crate) struct Grant {
    /// Its id.
    #[schema(value_type = String)]
    id: GrantId,
    /// The gate at which it is, or was, asked for.
    #[schema(value_type = String)]
    gate: GateId,
    /// The rule that it meets.
    #[schema(value_type = String)]
    rule: Name,
    /// `waiting` for people, `live`, `used_up`, `expired`, `revoked`, `ended` with its instance, or `stopped`: what it rests on
    /// no longer stands. More words may come.
    state: &'static str,
    /// Why it is `stopped`; for people only.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'static str>,
    /// Uses at most.
    uses: u32,
    /// Uses so far.
    used: u32,
    /// When it was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    given: Option<Time>,
    /// Not after.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    until: Option<Time>,
    /// How much its uses take of a counter at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    budget: Option<GrantBudget>,
    /// What it is good for, by tool; absent if its terms were erased or are not what is counted, and then
    /// it is good for nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    terms: Option<BTreeMap<Name, ToolTerms>>,
    /// Who gave it; for people only.
    #[serde(skip_serializing_if = "Option::is_none")]
    approvers: Option<Vec<String>>,
}

impl From<engine::GrantRecord> for Grant {
    fn from(record: engine::GrantRecord) -> Self {
        Self {
            id: record.grant,
            gate: record.gate,
            rule: record.rule,
            state: record.state,
            why: record.why,
            uses: record.uses,
            used: record.used,
            given: record.given.map(Into::into),
            until: record.until.map(Into::into),
            budget: record.budget.map(|(counter, amount, spent)| GrantBudget { counter, amount, spent: Some(spent) }),
            terms: record.terms,
            approvers: record.approvers,
        }
    }
}

/// Which page of grants.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct GrantPage {
    /// Cursor that the page before gave as `next`.
    after: Option<String>,
    /// How many at most: 1 to 200, usually 50.
    limit: Option<usize>,
}

/// What became of a request to take a grant back.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "already": false, "receipt": { "index": 44, "leaf_hash": "5b0f…", "proof": ["q7Zq…"], "checkpoint": "…" }
}))]
pub(crate) struct GrantRevoked {
    /// It was taken back before, or its instance has ended: nothing was done.
    already: bool,
    /// Proof of the entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<Receipt>,
}

/// Ask for a task grant
///
/// By the acting agent, or by one whose work the instance is. Opens a gate of the instance: the rule's own quorum gives the
/// grant, and a rejection ends the instance. From then on, what is within the terms is permitted without asking anybody
/// about that rule, as often and as long as was said.
///
/// Who asks for what waits already is answered with its gate; nothing is committed for that, and another idempotency key than
/// the first one's is bound to nothing.
#[utoipa::path(
    post, path = "/api/v1/instances/{id}/grants", operation_id = "requestGrant", tag = "gates",
    params(("id" = String, Path, description = "The instance")),
    request_body = NewGrant,
    responses((status = 202, description = "People are asked", body = GrantAsked)),
)]
async fn request_grant(
    State(app): State<AppState>,
    Auth(who): Auth,
    Id(id): Id<InstanceId>,
    input: Input,
) -> Result<Response, Problem> {
    note_instance(id);
    let body: NewGrant = input.read()?;
    let tools = body.tools.into_iter().map(|one| engine::GrantTool {
        tool: one.tool,
        revision: one.revision,
        input: one.input,
    });
    let request = engine::GrantRequest {
        rule: body.rule,
        tools: tools.collect(),
        uses: body.uses,
        for_s: body.for_s,
        budget: body.budget.map(|budget| engine::GrantBudget { counter: budget.counter, amount: budget.amount }),
        reason: body.reason,
    };
    let asked = app.engine.request_grant(who, id, request, input.key).await?;
    note_entry(asked.receipt.index);
    let gate = asked.gate;
    let wire = GrantAsked {
        grant: asked.grant,
        gate: gate.into(),
        state: asked.state.as_str(),
        receipt: asked.receipt.into(),
    };
    reply::waiting(&wire, &gate_path(gate))
}

/// List the task grants of an instance
///
/// In the order in which they were asked for. The acting agent sees its own, without names of people.
#[utoipa::path(
    get, path = "/api/v1/instances/{id}/grants", operation_id = "listGrants", tag = "gates",
    params(("id" = String, Path, description = "The instance"), GrantPage),
    responses((status = 200, description = "A page", body = Page<Grant>)),
)]
async fn list_grants(
    State(app): State<AppState>,
    Auth(who): Auth,
    Id(id): Id<InstanceId>,
    Params(page): Params<GrantPage>,
) -> Result<Response, Problem> {
    note_instance(id);
    let limit = Paging::limit(page.limit)?;
    reply::ok(&Page::of(app.engine.task_grants(&who, id, page.after.as_deref(), limit).await?, Grant::from))
}

/// Take a task grant back
///
/// At once, by whoever gave it and by those whose work it is, whatever policy says; by anybody else if policy lets them
/// (`revokeGrant`). What was permitted under it stays permitted. While people are still asked for it, whoever asked and the
/// owner withdraw it: its gate closes as `WITHDRAWN`, and the instance goes on.
#[utoipa::path(
    post, path = "/api/v1/instances/{id}/grants/{grant}/revoke", operation_id = "revokeGrant", tag = "gates",
    params(("id" = String, Path, description = "The instance"), ("grant" = String, Path, description = "The grant")),
    responses((status = 200, description = "It is good for nothing more", body = GrantRevoked)),
)]
async fn revoke_grant(
    State(app): State<AppState>,
    Auth(who): Auth,
    Ids(id, grant): Ids<InstanceId, GrantId>,
    input: Input,
) -> Result<Response, Problem> {
    note_instance(id);
    let Empty {} = input.read_or_default()?;
    let revoked = app.engine.revoke_grant(who, id, grant, input.key).await?;
    if let Some(receipt) = &revoked.receipt {
        note_entry(receipt.index);
    }
    reply::ok(&GrantRevoked { already: revoked.already, receipt: revoked.receipt.map(Into::into) })
}
