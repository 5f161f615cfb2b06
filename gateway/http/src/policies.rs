//! Policy: which is in force, checking a candidate, activating it.
//!
//! A bundle travels as its transport bytes, so that its digest is over what was sent. Absent: authoring.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use countersign_gateway_engine as engine;
use countersign_gateway_model::{Digest, Name};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Auth;
use crate::input::{Id, Params, Upload, param};
use crate::problem::Problem;
use crate::reply;
use crate::state::AppState;
use crate::wire::{Receipt, Verdict};

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(get_policy))
        .routes(routes!(check_policy))
        .routes(routes!(activate_policy))
        .routes(routes!(explain_verdict))
        .routes(routes!(explain_question))
}

/// The policy in force.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "kernel": "9f86…", "schema": "9f86…", "bundle": "9f86…", "catalogue": "9f86…", "version": 1, "signed_by": "local",
    "authority": "solo", "policies": ["agents-may-read"]
}))]
pub(crate) struct Policy {
    /// Digest of the fixed policies in the program.
    #[schema(value_type = String)]
    kernel: Digest,
    /// Digest of the base schema.
    #[schema(value_type = String)]
    schema: Digest,
    /// Digest of the bundle; all zero before the first activation.
    #[schema(value_type = String)]
    bundle: Digest,
    /// Digest of the tool catalogue.
    #[schema(value_type = String)]
    catalogue: Digest,
    /// The bundle's version.
    version: u64,
    /// Who signed it: `local` or `threshold`.
    signed_by: String,
    /// `solo`: one person may change policy. `four_eyes`: a second one must approve.
    #[schema(value_type = String)]
    authority: &'static str,
    /// Names of its policies.
    #[schema(value_type = Vec<String>)]
    policies: Vec<Name>,
    /// The bundle of the oldest recovery whose review is open.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    recovery: Option<Digest>,
}

/// A bundle whose every check has passed, and what it would change.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "bundle": "9f86…", "version": 2, "diff": "policy `agents-may-read`: changed\n", "diff_digest": "9f86…",
    "weakens": false
}))]
pub(crate) struct PolicyChecked {
    /// Digest of the bundle.
    #[schema(value_type = String)]
    bundle: Digest,
    /// The bundle that it follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    predecessor: Option<Digest>,
    /// Its version.
    version: u64,
    /// The difference to the active bundle, in words.
    diff: String,
    /// Digest of those words: what a person confirms.
    #[schema(value_type = String)]
    diff_digest: Digest,
    /// It loosens something.
    weakens: bool,
}

impl From<&engine::Candidate> for PolicyChecked {
    fn from(candidate: &engine::Candidate) -> Self {
        Self {
            bundle: candidate.digest,
            predecessor: candidate.predecessor,
            version: candidate.version,
            diff: candidate.diff.clone(),
            diff_digest: candidate.diff_digest,
            weakens: candidate.weakens,
        }
    }
}

/// A bundle that is in force now, with the proof.
#[derive(Serialize, ToSchema)]
pub(crate) struct PolicyActivated {
    policy: PolicyChecked,
    /// Proof of the activation's entry.
    receipt: Receipt,
}

/// Why policy says what it says to one question.
#[derive(Serialize, ToSchema)]
pub(crate) struct QuestionExplained {
    /// Whom it is asked about.
    asked: String,
    /// What is asked.
    operation: &'static str,
    /// What it is done to.
    resource: String,
    /// What policy says.
    verdict: Verdict,
    /// The policies that determine it.
    #[schema(value_type = Vec<String>)]
    determining: Vec<Name>,
    /// What policy would say with the policies in shadow in force, where one of them holds. Never the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    would_be: Option<WouldBe>,
    /// Each policy that fits the question, with the first clause that is not true: forbids that hold, then permits.
    #[schema(value_type = Vec<Object>)]
    policies: serde_json::Value,
    /// What detectors found in the input, and where.
    #[schema(value_type = Vec<Object>)]
    found: serde_json::Value,
    /// Whether it is held to. `false`: the workflow is in shadow, and this is on record and stops nothing.
    enforced: bool,
    /// All of it in words.
    text: String,
}

/// What policy would say with the policies in shadow in force.
#[derive(Serialize, ToSchema)]
pub(crate) struct WouldBe {
    /// What it would say.
    verdict: Verdict,
    /// The policies that would determine it.
    #[schema(value_type = Vec<String>)]
    determining: Vec<Name>,
    /// The policies in shadow that hold or err.
    #[schema(value_type = Vec<String>)]
    shadow: Vec<Name>,
}

impl From<engine::WouldBe> for WouldBe {
    fn from(would_be: engine::WouldBe) -> Self {
        let engine::WouldBe { verdict, determining, transforms: _, shadow } = would_be;
        Self { verdict: verdict.into(), determining, shadow }
    }
}

/// Explanations, one for each question behind a verdict.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({ "questions": [{
    "asked": "Agent::fixer", "operation": "callTool", "resource": "Tool::repo.read",
    "verdict": { "decision": "deny", "rules": [], "error": false }, "determining": ["credential-files"],
    "policies": [{
        "policy": "credential-files", "forbids": true, "shadow": false, "place": "policies.cedar:520:1",
        "outcome": "holds", "clauses": [{ "text": "context.input.path like \"*credentials*\"", "outcome": "holds" }],
        "unasked": 0
    }],
    "found": [], "enforced": true, "text": "deny\nforbid credential-files (policies.cedar:520:1): holds"
}] }))]
pub(crate) struct VerdictExplained {
    questions: Vec<QuestionExplained>,
}

impl TryFrom<engine::QuestionExplained> for QuestionExplained {
    type Error = Problem;

    fn try_from(one: engine::QuestionExplained) -> Result<Self, Problem> {
        let internal = |error: serde_json::Error| Problem::internal("an explanation could not be written", &error);
        Ok(Self {
            asked: one.asked,
            operation: one.operation,
            resource: one.resource,
            verdict: one.verdict.into(),
            determining: one.determining,
            would_be: one.would_be.map(Into::into),
            policies: serde_json::to_value(&one.policies).map_err(internal)?,
            found: serde_json::to_value(&one.found).map_err(internal)?,
            enforced: one.enforced,
            text: one.text,
        })
    }
}

/// What the person has confirmed.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Confirmed {
    /// `diff_digest` of the check: the difference to the bundle that is active now was read.
    pub(crate) confirmed_diff: Option<String>,
}

/// Read the active policy
#[utoipa::path(
    get, path = "/api/v1/policies/active", operation_id = "getPolicy", tag = "policies",
    responses((status = 200, description = "The policy in force", body = Policy)),
)]
async fn get_policy(State(app): State<AppState>, Auth(who): Auth) -> Result<Response, Problem> {
    let record = app.engine.policy(&who)?;
    let recovery = app.engine.open_recoveries(who.org)?.into_iter().next();
    reply::ok(&Policy {
        kernel: record.digests.kernel,
        schema: record.digests.schema,
        bundle: record.digests.bundle,
        catalogue: record.digests.catalogue,
        version: record.version,
        signed_by: record.signed_by,
        authority: record.authority,
        policies: record.policies,
        recovery,
    })
}

/// Check a policy bundle
///
/// Strict validation, lint, its own tests, its signature, and that nobody is locked out. Changes nothing.
#[utoipa::path(
    post, path = "/api/v1/policies/check", operation_id = "checkPolicy", tag = "policies",
    request_body(content = String, content_type = "application/json", description = "The bundle's transport form"),
    responses((status = 200, description = "Every check has passed", body = PolicyChecked)),
)]
async fn check_policy(State(app): State<AppState>, Auth(who): Auth, upload: Upload) -> Result<Response, Problem> {
    let candidate = app.engine.check_policy(&who, upload.bytes.into()).await?;
    reply::ok(&PolicyChecked::from(&candidate))
}

/// Activate a policy bundle
///
/// Every check, then the confirmed difference, then the word of the policy that is active now, then the entry, then the
/// change: in this order. Until `confirmed_diff` names the difference, the answer is the problem `diff-unconfirmed`. Where
/// that policy asks for a shadow window or another person it refuses: propose the bundle instead.
#[utoipa::path(
    post, path = "/api/v1/policies/activate", operation_id = "activatePolicy", tag = "policies",
    params(Confirmed),
    request_body(content = String, content_type = "application/json", description = "The bundle's transport form"),
    responses((status = 200, description = "It is in force", body = PolicyActivated)),
)]
async fn activate_policy(
    State(app): State<AppState>,
    Auth(who): Auth,
    Params(confirmed): Params<Confirmed>,
    upload: Upload,
) -> Result<Response, Problem> {
    let confirmed: Option<Digest> = param("confirmed_diff", confirmed.confirmed_diff.as_deref())?;
    let (candidate, receipt) = app.engine.activate_policy(who, upload.bytes.into(), confirmed).await?;
    let index = receipt.index;
    let wire = PolicyActivated { policy: PolicyChecked::from(&candidate), receipt: receipt.into() };
    reply::committed(StatusCode::OK, &wire, index)
}

/// Explain the verdict of an entry
///
/// Policy by policy, with the clause that stood in the way, as the policy of then answers the question on record. Not for
/// agents.
#[utoipa::path(
    get, path = "/api/v1/audit/entries/{index}/explanation", operation_id = "explainVerdict", tag = "policies",
    params(("index" = u64, Path, description = "Place in the log")),
    responses((status = 200, description = "One explanation a question", body = VerdictExplained)),
)]
async fn explain_verdict(
    State(app): State<AppState>,
    Auth(who): Auth,
    Id(index): Id<u64>,
) -> Result<Response, Problem> {
    let explained = app.engine.explain(&who, index).await?;
    let questions = explained.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?;
    reply::ok(&VerdictExplained { questions })
}

/// Explain what policy would say
///
/// To a question in the form of a bundle's tests (`asked`, `op`, `resource`, `instance`, `input` and what else matters), with
/// what is known now. Nothing is permitted by it, and nothing is recorded. Not for agents.
#[utoipa::path(
    post, path = "/api/v1/policies/explain", operation_id = "explainQuestion", tag = "policies",
    request_body(content = serde_json::Value, example = json!({
        "asked": "Agent::fixer", "op": "callTool", "resource": "Tool::notes.append", "input": { "text": "a" }
    })),
    responses((status = 200, description = "The explanation", body = QuestionExplained)),
)]
async fn explain_question(State(app): State<AppState>, Auth(who): Auth, upload: Upload) -> Result<Response, Problem> {
    let explained = app.engine.what_if(&who, &upload.bytes).await?;
    reply::ok(&QuestionExplained::try_from(explained)?)
}
