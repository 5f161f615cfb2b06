//! Services: list, make, read, change.
//!
//! Absent: their credentials (`service_accounts`).

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use countersign_gateway_engine::Operation;
use countersign_gateway_identity::{IdentityError, NewService, PrincipalChange, ServiceRecord, Subject};
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
    OpenApiRouter::new().routes(routes!(list_services, create_service)).routes(routes!(get_service, change_service))
}

/// A program of the organization that is not an agent: CI, a webhook receiver.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "id": "ci", "display_name": "", "owner": "ada", "teams": ["core"], "scopes": ["repo:read"],
    "disabled": false, "created": "2026-11-20T09:00:00.000Z"
}))]
pub(crate) struct Service {
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
    /// Tool scopes that it holds, such as `repo:read`.
    #[schema(value_type = Vec<String>)]
    scopes: Vec<Name>,
    /// Gets no token.
    disabled: bool,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    created: Time,
}

impl From<ServiceRecord> for Service {
    fn from(record: ServiceRecord) -> Self {
        let ServiceRecord { id, display_name, owner, teams, scopes, disabled, created, .. } = record;
        Self { id, display_name, owner, teams, scopes, disabled, created: created.into() }
    }
}

/// A service to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "id": "ci", "owner": "ada", "teams": ["core"], "scopes": ["repo:read"] }))]
pub(crate) struct ServiceToCreate {
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
    /// Tool scopes that it holds, such as `repo:read`.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    scopes: Vec<Name>,
}

/// What to change of a service; what is absent stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "disabled": true }))]
pub(crate) struct ServiceToChange {
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
    /// Tool scopes that it holds, such as `repo:read`.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    scopes: Option<Vec<Name>>,
    /// Gets no token; what it holds ends at once.
    #[serde(default)]
    disabled: Option<bool>,
}

/// List services
#[utoipa::path(
    get, path = "/api/v1/services", operation_id = "listServices", tag = "accounts",
    params(AccountFilter),
    responses((status = 200, description = "A page, by id", body = Page<Service>)),
)]
async fn list_services(
    State(app): State<AppState>,
    Auth(who): Auth,
    Params(filter): Params<AccountFilter>,
) -> Result<Response, Problem> {
    app.engine.may(&who, Operation::ListPrincipals, organization(&who), "list of services")?;
    let (after, limit) = filter.read()?;
    let records = app.identity.directory.services(who.org, after.as_ref(), limit).await?;
    reply::ok(&page::<_, Service>(records, limit, |record| &record.id))
}

/// Create a service
#[utoipa::path(
    post, path = "/api/v1/services", operation_id = "createService", tag = "accounts",
    request_body = ServiceToCreate,
    responses((status = 201, description = "The service", body = Service)),
)]
async fn create_service(State(app): State<AppState>, Auth(who): Auth, input: Input) -> Result<Response, Problem> {
    let body: ServiceToCreate = input.read()?;
    let details = json!({
        "operation": "createService", "id": body.id, "owner": body.owner, "teams": body.teams,
        "scopes": body.scopes,
    });
    let new = NewService {
        id: body.id,
        display_name: body.display_name,
        owner: body.owner,
        teams: body.teams,
        scopes: body.scopes,
    };
    let (directory, org, by, now) = (Arc::clone(&app.identity.directory), who.org, subject(&who)?, app.engine.now());
    let change = async move { directory.create_service(org, new, by, now).await };
    let record = governed(&app, &who, Operation::CreateService, organization(&who), &details, change).await?;
    let location = format!("/api/v1/services/{}", record.id);
    Ok(reply::located(reply::json(StatusCode::CREATED, &Service::from(record))?, &location))
}

/// Read a service
#[utoipa::path(
    get, path = "/api/v1/services/{id}", operation_id = "getService", tag = "accounts",
    params(("id" = String, Path, description = "The service")),
    responses((status = 200, description = "The service", body = Service)),
)]
async fn get_service(State(app): State<AppState>, Auth(who): Auth, Id(id): Id<Name>) -> Result<Response, Problem> {
    if who.kind != PrincipalKind::Service || who.id != id {
        app.engine.may(&who, Operation::ListPrincipals, organization(&who), "service")?;
    }
    let record = app.identity.directory.service(who.org, &id).await?;
    let record = record.ok_or_else(|| IdentityError::AccountUnknown(format!("service:{id}")))?;
    reply::ok(&Service::from(record))
}

/// Change a service
///
/// What is taken away is gone with its next request.
#[utoipa::path(
    patch, path = "/api/v1/services/{id}", operation_id = "changeService", tag = "accounts",
    params(("id" = String, Path, description = "The service")),
    request_body = ServiceToChange,
    responses((status = 200, description = "The service", body = Service)),
)]
async fn change_service(
    State(app): State<AppState>,
    Auth(who): Auth,
    Id(id): Id<Name>,
    input: Input,
) -> Result<Response, Problem> {
    let body: ServiceToChange = input.read()?;
    let details = json!({
        "operation": "updatePrincipal", "id": id, "owner": body.owner, "teams": body.teams,
        "scopes": body.scopes, "disabled": body.disabled,
    });
    let change = PrincipalChange {
        display_name: body.display_name,
        owner: body.owner,
        teams: body.teams,
        autonomy: None,
        scopes: body.scopes,
        disabled: body.disabled,
    };
    let resource = of_subject(&app, &who, &Subject::service(id.clone())).await?;
    let (directory, org) = (Arc::clone(&app.identity.directory), who.org);
    let change = async move { directory.change_service(org, &id, change).await };
    let record = governed(&app, &who, Operation::UpdatePrincipal, resource, &details, change).await?;
    reply::ok(&Service::from(record))
}
