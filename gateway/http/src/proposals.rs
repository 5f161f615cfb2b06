//! Proposals to change policy: proposed, compared, approved by somebody else where policy says so, carried out.
//!
//! People decide at the proposal's gate like at any other. Absent: checking, activating in one step (`policies`).

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use countersign_gateway_engine as engine;
use countersign_gateway_model::{Digest, GateId, InstanceId, Name, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Auth;
use crate::context::note_instance;
use crate::input::{Id, Input, Paging, Params, Upload, param};
use crate::policies::Confirmed;
use crate::problem::Problem;
use crate::reply;
use crate::state::AppState;
use crate::wire::Page;

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(propose_policy, list_proposals))
        .routes(routes!(get_proposal))
        .routes(routes!(withdraw_proposal))
        .routes(routes!(rollback_policy))
}

/// One step of a proposal.
#[derive(Serialize, ToSchema)]
pub(crate) struct ProposalStep {
    /// `proposed`, `checked`, `tested`, `shadowed` (its window began), `approved`, `activated`, `failed`, `withdrawn`.
    step: &'static str,
    /// When.
    #[schema(value_type = String)]
    at: Timestamp,
}

impl From<engine::ProposalStep> for ProposalStep {
    fn from(step: engine::ProposalStep) -> Self {
        Self { step: step.step, at: step.at }
    }
}

/// What was asked while the shadow window ran, asked of the candidate.
#[derive(Serialize, ToSchema)]
pub(crate) struct Compared {
    /// How many questions.
    asked: u64,
    /// Answered as then.
    unchanged: u64,
    /// Answered differently, by kind: `allow_to_deny`, `deny_to_allow`, `allow_to_needs_approval` and others.
    changed: BTreeMap<String, u64>,
    /// Not to be answered any more: erased, or of another tool.
    not_computable: u64,
}

/// A proposal to put a bundle in force.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "id": "inst_0198c7a4e1b27c4e9a3f5d6b7c8d9e0f", "bundle": "9f86…", "version": 2, "state": "waiting",
    "author": "person/dana", "proposed": "2026-11-20T09:00:00.000Z", "window_ends": "2026-11-21T09:00:00.000Z",
    "weakens": false, "rollback": false, "break_glass": false, "gate": "gate_0198c7a4e1b27c4e9a3f5d6b7c8d9e0f",
    "steps": [{ "step": "proposed", "at": "2026-11-20T09:00:00.000Z" }],
    "compared": { "asked": 12, "unchanged": 11, "changed": { "allow_to_deny": 1 }, "not_computable": 0 },
    "diff_digest": "9f86…", "diff": "policy `agents-may-read`: changed\n"
}))]
pub(crate) struct PolicyProposal {
    /// Its id: the instance whose one action it is.
    #[schema(value_type = String)]
    id: InstanceId,
    /// Digest of the bundle.
    #[schema(value_type = String)]
    bundle: Digest,
    /// The bundle that it follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    predecessor: Option<Digest>,
    /// Its version.
    version: u64,
    /// `shadowing`, `waiting` (at its gate), `approved`, `activated`, `failed` or `withdrawn`. More words may come.
    state: &'static str,
    /// Who proposed it.
    author: String,
    /// When.
    #[schema(value_type = String)]
    proposed: Timestamp,
    /// When its shadow window ends; the time of the proposal where there is none.
    #[schema(value_type = String)]
    window_ends: Timestamp,
    /// It loosens something, or may.
    weakens: bool,
    /// It is the content of the bundle that the one in force replaced.
    rollback: bool,
    /// It did not wait for its window or its quorum: an after-review is owed.
    break_glass: bool,
    /// The gate where people decide, or decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    gate: Option<GateId>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Its steps, in order; each is an entry of the organization's stream.
    steps: Vec<ProposalStep>,
    /// What its shadow window showed.
    #[serde(skip_serializing_if = "Option::is_none")]
    compared: Option<Compared>,
    /// What is known of its invariants; absent where it has none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    proofs: Vec<InvariantOutcome>,
    /// Digest of the difference.
    #[schema(value_type = String)]
    diff_digest: Digest,
    /// The difference to the bundle that it follows, in words; absent in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    diff: Option<String>,
}

impl From<engine::PolicyProposal> for PolicyProposal {
    fn from(record: engine::PolicyProposal) -> Self {
        Self {
            id: record.id,
            bundle: record.bundle,
            predecessor: record.predecessor,
            version: record.version,
            state: record.state,
            author: record.author,
            proposed: record.proposed,
            window_ends: record.window_ends,
            weakens: record.weakens,
            rollback: record.rollback,
            break_glass: record.break_glass,
            gate: record.gate,
            reason: record.reason,
            steps: record.steps.into_iter().map(Into::into).collect(),
            compared: record.compared.map(|c| Compared {
                asked: c.asked,
                unchanged: c.unchanged,
                changed: c.changed,
                not_computable: c.not_computable,
            }),
            proofs: record.proofs.into_iter().map(Into::into).collect(),
            diff_digest: record.diff_digest,
            diff: record.diff,
        }
    }
}

/// One invariant of a candidate, and what is known of it.
#[derive(Serialize, ToSchema)]
pub(crate) struct InvariantOutcome {
    /// Its id.
    #[schema(value_type = String)]
    invariant: Name,
    /// `proved` or `not_proved`. A candidate with one that is refuted, or unproved where it must be proved, is not taken.
    outcome: String,
    /// Why it is not proved.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

impl From<engine::InvariantOutcome> for InvariantOutcome {
    fn from(known: engine::InvariantOutcome) -> Self {
        Self { invariant: known.invariant, outcome: known.outcome, why: known.why }
    }
}

/// Which proposals.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ProposalFilter {
    /// From where: `next` of the page before.
    after: Option<String>,
    /// How many at most.
    limit: Option<usize>,
}

/// 202 while it is on its way, else 201.
fn proposed(record: engine::PolicyProposal) -> Result<Response, Problem> {
    note_instance(record.id);
    let location = format!("/api/v1/policies/proposals/{}", record.id);
    let wire = PolicyProposal::from(record);
    if ["shadowing", "waiting", "approved"].contains(&wire.state) {
        return reply::waiting(&wire, &location);
    }
    Ok(reply::located(reply::json(StatusCode::CREATED, &wire)?, &location))
}

/// Propose a policy bundle
///
/// It is checked; compared with what is asked while its shadow window runs; asked of the policy in force; approved by
/// somebody else where that policy says so; checked again and put in force by the gateway itself. In mode `solo` the
/// answer is the problem `diff-unconfirmed` until `confirmed_diff` names the difference. Not for agents.
#[utoipa::path(
    post, path = "/api/v1/policies/proposals", operation_id = "proposePolicy", tag = "policies",
    params(Confirmed),
    request_body(content = String, content_type = "application/json", description = "The bundle's transport form"),
    responses(
        (status = 201, description = "It is in force, or has failed: see `state`", body = PolicyProposal),
        (status = 202, description = "It is on its way: its window runs, or people are asked", body = PolicyProposal),
    ),
)]
async fn propose_policy(
    State(app): State<AppState>,
    Auth(who): Auth,
    Params(confirmed): Params<Confirmed>,
    upload: Upload,
) -> Result<Response, Problem> {
    let confirmed: Option<Digest> = param("confirmed_diff", confirmed.confirmed_diff.as_deref())?;
    proposed(app.engine.propose_policy(who, upload.bytes.into(), confirmed, upload.key).await?)
}

/// List proposals
///
/// Newest first.
#[utoipa::path(
    get, path = "/api/v1/policies/proposals", operation_id = "listPolicyProposals", tag = "policies",
    params(ProposalFilter),
    responses((status = 200, description = "A page", body = Page<PolicyProposal>)),
)]
async fn list_proposals(
    State(app): State<AppState>,
    Auth(who): Auth,
    Params(filter): Params<ProposalFilter>,
) -> Result<Response, Problem> {
    let page = app.engine.policy_proposals(&who, filter.after.as_deref(), Paging::limit(filter.limit)?).await?;
    reply::ok(&Page::of(page, PolicyProposal::from))
}

/// Read a proposal
#[utoipa::path(
    get, path = "/api/v1/policies/proposals/{id}", operation_id = "getPolicyProposal", tag = "policies",
    params(("id" = String, Path, description = "The proposal")),
    responses((status = 200, description = "The proposal, with the difference in words", body = PolicyProposal)),
)]
async fn get_proposal(
    State(app): State<AppState>,
    Auth(who): Auth,
    Id(id): Id<InstanceId>,
) -> Result<Response, Problem> {
    reply::ok(&PolicyProposal::from(app.engine.policy_proposal(&who, id).await?))
}

/// Withdraw a proposal
///
/// Its instance is terminated. Its author cannot be vetoed; of others policy is asked whether they may stop it.
#[utoipa::path(
    post, path = "/api/v1/policies/proposals/{id}/withdraw", operation_id = "withdrawPolicyProposal", tag = "policies",
    params(("id" = String, Path, description = "The proposal")),
    responses((status = 200, description = "As it is now", body = PolicyProposal)),
)]
async fn withdraw_proposal(
    State(app): State<AppState>,
    Auth(who): Auth,
    Id(id): Id<InstanceId>,
    input: Input,
) -> Result<Response, Problem> {
    note_instance(id);
    reply::ok(&PolicyProposal::from(app.engine.withdraw_policy(who, id, input.key).await?))
}

/// Go back to the policy before
///
/// Proposes the content of the bundle that the one in force replaced, sealed as the next version. Within a day of the
/// replacement it needs no shadow window; it always needs what policy asks for. Where a threshold of root keys must sign,
/// seal and sign it offline, and propose it.
#[utoipa::path(
    post, path = "/api/v1/policies/rollback", operation_id = "rollbackPolicy", tag = "policies",
    params(Confirmed),
    responses(
        (status = 201, description = "It is in force, or has failed: see `state`", body = PolicyProposal),
        (status = 202, description = "It is on its way: its window runs, or people are asked", body = PolicyProposal),
    ),
)]
async fn rollback_policy(
    State(app): State<AppState>,
    Auth(who): Auth,
    Params(confirmed): Params<Confirmed>,
    input: Input,
) -> Result<Response, Problem> {
    let confirmed: Option<Digest> = param("confirmed_diff", confirmed.confirmed_diff.as_deref())?;
    proposed(app.engine.rollback_policy(who, confirmed, input.key).await?)
}
