//! Agents: list, make, read, change.
//!
//! Absent: their credentials (`service_accounts`).

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use countersign_gateway_engine::Operation;
use countersign_gateway_identity::{AgentRecord, IdentityError, NewAgent, PrincipalChange, Subject};
use countersign_gateway_model::{Name, PrincipalKind};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::{Auth, subject};
use crate::governed::{governed, of_subject, organization};
use crate::input::{Id, Input, Params};
use crate::people::{AccountFilter, page};
use crate::problem::Problem;
use crate::reply;
use crate::state::AppState;
use crate::wire::{Page, Time};

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list_agents, create_agent)).routes(routes!(get_agent, change_agent))
}

/// An AI agent of the organization.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "id": "fixer", "display_name": "", "owner": "ada", "teams": ["core"], "autonomy": 1, "scopes": ["repo:read"],
    "disabled": false, "created": "2026-11-20T09:00:00.000Z"
}))]
pub(crate) struct Agent {
    /// Id within the organization.
    #[schema(value_type = String)]
    id: Name,
    /// For views.
    display_name: String,
    /// The person who answers for it.
    #[schema(value_type = String)]
    owner: Name,
    /// Teams it belongs to.
    #[schema(value_type = Vec<String>)]
    teams: Vec<Name>,
    /// How much it does without people: 0 nothing … 4 unattended. Policy reads it.
    autonomy: u8,
    /// Tool scopes that it holds, such as `repo:read`.
    #[schema(value_type = Vec<String>)]
    scopes: Vec<Name>,
    /// Gets no token.
    disabled: bool,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    created: Time,
}

impl From<AgentRecord> for Agent {
    fn from(record: AgentRecord) -> Self {
        let AgentRecord { id, display_name, owner, teams, autonomy, scopes, disabled, created, .. } = record;
        Self { id, display_name, owner, teams, autonomy, scopes, disabled, created: created.into() }
    }
}

/// An agent to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "id": "fixer", "owner": "ada", "teams": ["core"], "autonomy": 2, "scopes": ["repo:read"] }))]
pub(crate) struct AgentToCreate {
    /// Id within the organization.
    #[schema(value_type = String)]
    id: Name,
    /// For views; at most 200 characters.
    #[serde(default)]
    display_name: String,
    /// Id of the person who answers for it.
    #[schema(value_type = String)]
    owner: Name,
    /// Teams it belongs to.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    teams: Vec<Name>,
    /// How much it may do without people: 0 nothing … 4 unattended.
    #[serde(default = "little")]
    #[schema(default = 1)]
    autonomy: u8,
    /// Tool scopes that it holds, such as `repo:read`.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    scopes: Vec<Name>,
}

fn little() -> u8 {
    1
}

/// What to change of an agent; what is absent stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "disabled": true }))]
pub(crate) struct AgentToChange {
    /// For views; at most 200 characters.
    #[serde(default)]
    display_name: Option<String>,
    /// Id of the person who answers for it.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    owner: Option<Name>,
    /// Teams it belongs to.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    teams: Option<Vec<Name>>,
    /// How much it may do without people: 0 nothing … 4 unattended.
    #[serde(default)]
    autonomy: Option<u8>,
    /// Tool scopes that it holds, such as `repo:read`.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    scopes: Option<Vec<Name>>,
    /// Gets no token; what it holds ends at once.
    #[serde(default)]
    disabled: Option<bool>,
}

/// List agents
#[utoipa::path(
    get, path = "/api/v1/agents", operation_id = "listAgents", tag = "accounts",
    params(AccountFilter),
    responses((status = 200, description = "A page, by id", body = Page<Agent>)),
)]
async fn list_agents(
    State(app): State<AppState>,
    Auth(who): Auth,
    Params(filter): Params<AccountFilter>,
) -> Result<Response, Problem> {
    app.engine.may(&who, Operation::ListPrincipals, organization(&who), "list of agents")?;
    let (after, limit) = filter.read()?;
    let records = app.identity.directory.agents(who.org, after.as_ref(), limit).await?;
    reply::ok(&page::<_, Agent>(records, limit, |record| &record.id))
}

/// Create an agent
#[utoipa::path(
    post, path = "/api/v1/agents", operation_id = "createAgent", tag = "accounts",
    request_body = AgentToCreate,
    responses((status = 201, description = "The agent", body = Agent)),
)]
async fn create_agent(State(app): State<AppState>, Auth(who): Auth, input: Input) -> Result<Response, Problem> {
    let body: AgentToCreate = input.read()?;
    let details = json!({
        "operation": "registerAgent", "id": body.id, "owner": body.owner, "teams": body.teams, "autonomy": body.autonomy,
        "scopes": body.scopes,
    });
    let new = NewAgent {
        id: body.id,
        display_name: body.display_name,
        owner: body.owner,
        teams: body.teams,
        autonomy: body.autonomy,
        scopes: body.scopes,
    };
    let (directory, org, by, now) = (Arc::clone(&app.identity.directory), who.org, subject(&who)?, app.engine.now());
    let change = async move { directory.create_agent(org, new, by, now).await };
    let record = governed(&app, &who, Operation::RegisterAgent, organization(&who), &details, change).await?;
    let location = format!("/api/v1/agents/{}", record.id);
    Ok(reply::located(reply::json(StatusCode::CREATED, &Agent::from(record))?, &location))
}

/// Read an agent
#[utoipa::path(
    get, path = "/api/v1/agents/{id}", operation_id = "getAgent", tag = "accounts",
    params(("id" = String, Path, description = "The agent")),
    responses((status = 200, description = "The agent", body = Agent)),
)]
async fn get_agent(State(app): State<AppState>, Auth(who): Auth, Id(id): Id<Name>) -> Result<Response, Problem> {
    if who.kind != PrincipalKind::Agent || who.id != id {
        app.engine.may(&who, Operation::ListPrincipals, organization(&who), "agent")?;
    }
    let record = app.identity.directory.agent(who.org, &id).await?;
    let record = record.ok_or_else(|| IdentityError::AccountUnknown(format!("agent:{id}")))?;
    reply::ok(&Agent::from(record))
}

/// Change an agent
///
/// What is taken away is gone with its next request.
#[utoipa::path(
    patch, path = "/api/v1/agents/{id}", operation_id = "changeAgent", tag = "accounts",
    params(("id" = String, Path, description = "The agent")),
    request_body = AgentToChange,
    responses((status = 200, description = "The agent", body = Agent)),
)]
async fn change_agent(
    State(app): State<AppState>,
    Auth(who): Auth,
    Id(id): Id<Name>,
    input: Input,
) -> Result<Response, Problem> {
    let body: AgentToChange = input.read()?;
    let details = json!({
        "operation": "updatePrincipal", "id": id, "owner": body.owner, "teams": body.teams, "autonomy": body.autonomy,
        "scopes": body.scopes, "disabled": body.disabled,
    });
    let change = PrincipalChange {
        display_name: body.display_name,
        owner: body.owner,
        teams: body.teams,
        autonomy: body.autonomy,
        scopes: body.scopes,
        disabled: body.disabled,
    };
    let resource = of_subject(&app, &who, &Subject::agent(id.clone())).await?;
    let (directory, org) = (Arc::clone(&app.identity.directory), who.org);
    let change = async move { directory.change_agent(org, &id, change).await };
    let record = governed(&app, &who, Operation::UpdatePrincipal, resource, &details, change).await?;
    reply::ok(&Agent::from(record))
}
