//! Breaking the glass: one rule of one item lifted without its quorum, and the review that another person owes it.
//!
//! Absent: who may, and what it does (policy, the bundle's data and the engine).

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use countersign_gateway_engine as engine;
use countersign_gateway_engine::{Effect, Finding};
use countersign_gateway_model::{DecisionId, Digest, GateId, InstanceId, ItemId, Name};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Auth;
use crate::context::{note_entry, note_instance};
use crate::gates::{NewAssertion, assertion};
use crate::input::{Id, Input, Paging, Params};
use crate::problem::Problem;
use crate::reply;
use crate::state::AppState;
use crate::wire::{Answer, Page, Receipt, Rule, Time};
use crate::without_effect::NoEffect;

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(break_glass))
        .routes(routes!(break_glass_policy))
        .routes(routes!(list_reviews))
        .routes(routes!(close_review))
}

/// One rule that is to be lifted without its quorum.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "rule": "production", "justification": "The shop is down and nobody else answers",
    "shown_digest": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
}))]
pub(crate) struct NewLift {
    /// The rule.
    #[schema(value_type = String)]
    rule: Name,
    /// The item; absent: the one that asks for the rule.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    item: Option<ItemId>,
    /// Why. Required, and not blank. Kept as a payload.
    justification: String,
    /// Digest of the view that was read.
    #[schema(value_type = String)]
    shown_digest: Digest,
    /// The role used, where the person holds several.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    role: Option<Name>,
    /// The person's own signature over what was lifted.
    #[serde(default)]
    assertion: Option<NewAssertion>,
}

/// One rule that is to be lifted, and the shadow window that ends with it.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "rule": "policy-change", "justification": "The rule in force stops every refund",
    "diff_digest": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
}))]
pub(crate) struct NewPolicyLift {
    /// The rule.
    #[schema(value_type = String)]
    rule: Name,
    /// Why. Required, and not blank. Kept as a payload.
    justification: String,
    /// Digest of the difference that was read.
    #[schema(value_type = String)]
    diff_digest: Digest,
    /// The role used, where the person holds several.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    role: Option<Name>,
}

/// What a lift did.
#[derive(Serialize, ToSchema)]
pub(crate) struct LiftDone {
    /// Its id, and that of its review.
    #[schema(value_type = String)]
    lift: DecisionId,
    /// `counted`: the rule is lifted, others are still unmet. `resolving`: it was the last one. `not_eligible`, `stale`,
    /// `hard_denied`, `policy_error`: on record, and nothing was lifted.
    #[schema(value_type = String, example = "resolving")]
    effect: Effect,
    /// Why nothing was lifted; absent where something was.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<NoEffect>,
    /// Where the instance stands.
    #[schema(value_type = String, example = "RUNNING")]
    state: &'static str,
    /// What the gate's items got, where it resolved.
    actions: Vec<Answer>,
    /// Rules that are still unmet.
    remaining: Vec<Rule>,
    /// Another person owes a review until then; absent where nothing was lifted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    review_by: Option<Time>,
    /// Proof of the last entry.
    receipt: Receipt,
}

/// A rule that was lifted without its quorum.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "id": "dec_0192f3a1b2c37d4e8f9a0b1c2d3e4f5a", "instance": "inst_0192f3a1b2c37d4e8f9a0b1c2d3e4f5a",
    "gate": "gate_0192f3a1b2c37d4e8f9a0b1c2d3e4f5a", "item": "item_0192f3a1b2c37d4e8f9a0b1c2d3e4f5a",
    "tool": "repo.merge", "rule": "merge", "by": "person/sara", "at": "2026-11-20T09:00:00.000Z",
    "justification": "The shop is down and nobody else answers", "review_by": "2026-11-21T09:00:00.000Z", "overdue": false
}))]
pub(crate) struct LiftedRule {
    /// Its id, and that of its review.
    #[schema(value_type = String)]
    id: DecisionId,
    /// The instance.
    #[schema(value_type = String)]
    instance: InstanceId,
    /// The gate.
    #[schema(value_type = String)]
    gate: GateId,
    /// The item.
    #[schema(value_type = String)]
    item: ItemId,
    /// The tool that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    tool: Option<Name>,
    /// The rule.
    #[schema(value_type = String)]
    rule: Name,
    /// Who lifted it.
    by: String,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    at: Time,
    /// Why, as they said; absent where it was erased.
    #[serde(skip_serializing_if = "Option::is_none")]
    justification: Option<String>,
    /// The review is owed until then.
    #[schema(value_type = String, format = DateTime)]
    review_by: Time,
    /// The review is owed and its time has passed: the rule is not lifted again until somebody closes it.
    overdue: bool,
    /// The review, where it is closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    review: Option<Review>,
}

/// A review that is closed.
#[derive(Serialize, ToSchema)]
pub(crate) struct Review {
    /// Who reviewed.
    by: String,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    at: Time,
    /// `upheld`: it was right; `not_upheld`: it was not.
    #[schema(value_type = String, example = "upheld")]
    finding: Finding,
}

impl From<engine::LiftRecord> for LiftedRule {
    fn from(record: engine::LiftRecord) -> Self {
        let review =
            record.review.map(|closed| Review { by: closed.by, at: closed.at.into(), finding: closed.finding });
        Self {
            id: record.id,
            instance: record.instance,
            gate: record.gate,
            item: record.item,
            tool: record.tool,
            rule: record.rule,
            by: record.by,
            at: record.at.into(),
            justification: record.justification,
            review_by: record.review_by.into(),
            overdue: record.overdue,
            review,
        }
    }
}

/// Which reviews to list.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ReviewFilter {
    /// Only those whose time has passed.
    #[serde(default)]
    overdue: bool,
    /// Cursor that the page before gave as `next`.
    after: Option<String>,
    /// How many at most: 1 to 200, usually 50.
    limit: Option<usize>,
}

/// What a reviewer found.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "finding": "upheld", "justification": "I read the incident and asked who was on call" }))]
pub(crate) struct NewReview {
    /// `upheld`: it was right; `not_upheld`: it was not. Nothing is undone by either.
    #[schema(value_type = String)]
    finding: Finding,
    /// What was looked at. Required, and not blank. Kept as a payload.
    justification: String,
}

/// A review that was closed, with the proof.
#[derive(Serialize, ToSchema)]
pub(crate) struct Reviewed {
    lift: LiftedRule,
    /// Proof of the review's entry.
    receipt: Receipt,
}

/// Break the glass
///
/// Lifts one rule of one item of an open gate without its quorum, where the rule's data names who may (`break_glass`) and
/// policy agrees. What was asked is asked again, and a denial stays one. Needs a token with scope `decide`. Another person owes
/// a review; while one of the same rule is overdue, nobody lifts it again.
#[utoipa::path(
    post, path = "/api/v1/gates/{id}/break-glass", operation_id = "breakGlass", tag = "gates",
    params(("id" = String, Path, description = "The gate")),
    request_body = NewLift,
    responses((status = 200, description = "It is on record", body = LiftDone)),
)]
async fn break_glass(
    State(app): State<AppState>,
    Auth(who): Auth,
    Id(id): Id<GateId>,
    input: Input,
) -> Result<Response, Problem> {
    let body: NewLift = input.read()?;
    let request = engine::LiftRequest {
        rule: body.rule,
        item: body.item,
        justification: body.justification,
        shown_digest: body.shown_digest,
        role: body.role,
        assertion: body.assertion.as_ref().map(assertion).transpose()?,
    };
    lifted(app.engine.break_glass(who, id, request, input.key).await?)
}

/// Break the glass at a policy proposal
///
/// While the shadow window of a proposal runs: the window ends at once, the gate opens, and one rule of it is lifted, where the
/// rule's data names who may and policy agrees. Checks, tests and who would be locked out are held to all the same. If the lift
/// has no effect, the proposal fails. Once its gate is open the glass is broken there (`instance-waiting` names it).
#[utoipa::path(
    post, path = "/api/v1/policies/proposals/{id}/break-glass", operation_id = "breakGlassPolicy", tag = "policies",
    params(("id" = String, Path, description = "The proposal")),
    request_body = NewPolicyLift,
    responses((status = 200, description = "It is on record", body = LiftDone)),
)]
async fn break_glass_policy(
    State(app): State<AppState>,
    Auth(who): Auth,
    Id(id): Id<InstanceId>,
    input: Input,
) -> Result<Response, Problem> {
    note_instance(id);
    let body: NewPolicyLift = input.read()?;
    let request = engine::PolicyGlass {
        rule: body.rule,
        justification: body.justification,
        diff_digest: body.diff_digest,
        role: body.role,
    };
    lifted(app.engine.break_glass_policy(who, id, request, input.key).await?)
}

fn lifted(done: engine::LiftAnswer) -> Result<Response, Problem> {
    let engine::LiftAnswer { answer, review_by } = done;
    note_instance(answer.instance);
    note_entry(answer.receipt.index);
    reply::ok(&LiftDone {
        lift: answer.decision,
        effect: answer.effect,
        problem: NoEffect::of(answer.effect, answer.why),
        state: answer.state.as_str(),
        actions: answer.items.into_iter().map(Into::into).collect(),
        remaining: answer.remaining.into_iter().map(Into::into).collect(),
        review_by: review_by.map(Into::into),
        receipt: answer.receipt.into(),
    })
}

/// List the reviews that are owed
///
/// Rules that were lifted without their quorum and that nobody has reviewed since, oldest first. For persons only.
#[utoipa::path(
    get, path = "/api/v1/reviews", operation_id = "listReviews", tag = "gates",
    params(ReviewFilter),
    responses((status = 200, description = "A page", body = Page<LiftedRule>)),
)]
async fn list_reviews(
    State(app): State<AppState>,
    Auth(who): Auth,
    Params(filter): Params<ReviewFilter>,
) -> Result<Response, Problem> {
    let limit = Paging::limit(filter.limit)?;
    let page = app.engine.reviews(&who, filter.overdue, filter.after.as_deref(), limit).await?;
    reply::ok(&Page::of(page, LiftedRule::from))
}

/// Close a review
///
/// Another person than the one who lifted the rule says what they found. Needs a token with scope `decide`; policy is asked as
/// for the review of a recovery. Nothing is undone by it.
#[utoipa::path(
    post, path = "/api/v1/reviews/{id}", operation_id = "closeReview", tag = "gates",
    params(("id" = String, Path, description = "The lift")),
    request_body = NewReview,
    responses((status = 200, description = "The review is closed", body = Reviewed)),
)]
async fn close_review(
    State(app): State<AppState>,
    Auth(who): Auth,
    Id(id): Id<DecisionId>,
    input: Input,
) -> Result<Response, Problem> {
    let body: NewReview = input.read()?;
    let said = (body.finding, body.justification);
    let (lift, receipt) = app.engine.close_review(who, id, said, input.key).await?;
    let index = receipt.index;
    reply::committed(StatusCode::OK, &Reviewed { lift: lift.into(), receipt: receipt.into() }, index)
}
