//! Workflows: what instances are made of.
//!
//! Absent: the tools that they call (`tools`).

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use countersign_gateway_engine as engine;
use countersign_gateway_engine::OnDeny;
use countersign_gateway_model::{Digest, Name};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Auth;
use crate::input::{Id, Input};
use crate::problem::Problem;
use crate::reply;
use crate::state::AppState;
use crate::wire::{Page, Receipt};

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list_workflows, register_workflow)).routes(routes!(get_workflow))
}

/// A version of a workflow. It cannot be changed once it is registered; another version can be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "id": "fix-tests", "version": "1", "title": "Make the tests pass", "team": "core", "materiality": 2,
    "tools": ["repo.read_file", "repo.run_tests"]
}))]
pub(crate) struct WorkflowToRegister {
    /// Its id.
    #[schema(value_type = String)]
    id: Name,
    /// Its version: 1 to 64 printable characters.
    version: String,
    /// One line for people.
    #[serde(default)]
    title: String,
    /// The owning team.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    team: Option<Name>,
    /// How much is at stake: 0 nothing to 4 critical.
    #[serde(default)]
    materiality: u8,
    /// Tools that it may use; absent: every one that is listed.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    tools: Option<Vec<Name>>,
    /// What a denied action does to an instance: `refuse` it, or `terminate` the instance.
    #[serde(default = "refuse")]
    #[schema(value_type = String, example = "refuse", default = "refuse")]
    on_deny: OnDeny,
}

fn refuse() -> OnDeny {
    OnDeny::Refuse
}

/// A registered workflow, its newest version.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "id": "fix-tests", "version": "1", "title": "Make the tests pass", "team": "core", "materiality": 2,
    "tools": ["repo.read_file", "repo.run_tests"], "on_deny": "refuse",
    "digest": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
}))]
pub(crate) struct Workflow {
    /// Its id.
    #[schema(value_type = String)]
    id: Name,
    /// Its version.
    version: String,
    /// One line for people.
    title: String,
    /// The owning team.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    team: Option<Name>,
    /// How much is at stake: 0 to 4.
    materiality: u8,
    /// Tools that it may use; absent: every one that is listed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    tools: Option<Vec<Name>>,
    /// What a denied action does to an instance.
    #[schema(value_type = String)]
    on_deny: OnDeny,
    /// Digest of its canonical form.
    #[schema(value_type = String)]
    digest: Digest,
}

impl From<engine::WorkflowRecord> for Workflow {
    fn from(record: engine::WorkflowRecord) -> Self {
        let engine::WorkflowRecord { spec, digest } = record;
        Self {
            id: spec.id,
            version: spec.version,
            title: spec.title,
            team: spec.team,
            materiality: spec.materiality,
            tools: spec.tools,
            on_deny: spec.on_deny,
            digest,
        }
    }
}

/// A workflow that was registered, with the proof.
#[derive(Serialize, ToSchema)]
pub(crate) struct WorkflowRegistered {
    workflow: Workflow,
    /// Proof of its entry.
    receipt: Receipt,
}

/// List workflows
#[utoipa::path(
    get, path = "/api/v1/workflows", operation_id = "listWorkflows", tag = "workflows",
    responses((status = 200, description = "All of them, newest versions, by id", body = Page<Workflow>)),
)]
async fn list_workflows(State(app): State<AppState>, Auth(who): Auth) -> Result<Response, Problem> {
    let items = app.engine.workflows(&who).await?.into_iter().map(Workflow::from).collect();
    reply::ok(&Page { items, next: None })
}

/// Register a workflow version
#[utoipa::path(
    post, path = "/api/v1/workflows", operation_id = "registerWorkflow", tag = "workflows",
    request_body = WorkflowToRegister,
    responses((status = 201, description = "It is registered", body = WorkflowRegistered)),
)]
async fn register_workflow(State(app): State<AppState>, Auth(who): Auth, input: Input) -> Result<Response, Problem> {
    let body: WorkflowToRegister = input.read()?;
    let spec = engine::WorkflowSpec {
        id: body.id,
        version: body.version,
        title: body.title,
        team: body.team,
        materiality: body.materiality,
        tools: body.tools,
        on_deny: body.on_deny,
    };
    let (record, receipt) = app.engine.register_workflow(who, spec).await?;
    let location = format!("/api/v1/workflows/{}", record.spec.id);
    let index = receipt.index;
    let wire = WorkflowRegistered { workflow: record.into(), receipt: receipt.into() };
    Ok(reply::located(reply::committed(StatusCode::CREATED, &wire, index)?, &location))
}

/// Read a workflow
#[utoipa::path(
    get, path = "/api/v1/workflows/{id}", operation_id = "getWorkflow", tag = "workflows",
    params(("id" = String, Path, description = "The workflow")),
    responses((status = 200, description = "Its newest version", body = Workflow)),
)]
async fn get_workflow(State(app): State<AppState>, Auth(who): Auth, Id(id): Id<Name>) -> Result<Response, Problem> {
    reply::ok(&Workflow::from(app.engine.workflow(&who, &id).await?))
}
