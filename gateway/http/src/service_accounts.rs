//! Service accounts: client ids with secrets, each bound to an agent or a service.
//!
//! Absent: tokens, which they are exchanged for (`tokens`).

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use countersign_gateway_engine::Operation;
use countersign_gateway_identity::{IdentityError, Secret, ServiceAccountRecord, Subject};
use countersign_gateway_model::{Duration, Name, Principal};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::{Auth, subject};
use crate::governed::{governed, of_subject, organization};
use crate::input::{Id, Input, Params};
use crate::instances::Empty;
use crate::people::{AccountFilter, page};
use crate::problem::Problem;
use crate::reply;
use crate::state::AppState;
use crate::wire::{Page, Time};

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list_service_accounts, create_service_account))
        .routes(routes!(get_service_account, change_service_account))
        .routes(routes!(rotate_client_secret))
}

/// A client id, bound to the agent or service that it speaks for.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "client_id": "client_5b0f6b2c3a9d4e1f8c7a6b5d4e3f2a1b", "bound_to": "agent:fixer", "issued_by": "person:ada",
    "created": "2026-11-20T09:00:00.000Z", "disabled": false
}))]
pub(crate) struct ServiceAccount {
    /// What it is called at the token endpoint.
    #[schema(value_type = String)]
    client_id: Name,
    /// Whom it speaks for: `agent:<id>` or `service:<id>`.
    #[schema(value_type = String)]
    bound_to: Subject,
    /// Who issued it; they are excluded from approving what it proposes.
    #[schema(value_type = String)]
    issued_by: Subject,
    /// When it was issued.
    #[schema(value_type = String, format = DateTime)]
    created: Time,
    /// When it ends by itself; absent: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    expires: Option<Time>,
    /// Gets no token.
    disabled: bool,
}

impl From<ServiceAccountRecord> for ServiceAccount {
    fn from(record: ServiceAccountRecord) -> Self {
        let ServiceAccountRecord { client_id, bound_to, issued_by, created, expires, disabled, .. } = record;
        Self { client_id, bound_to, issued_by, created: created.into(), expires: expires.map(Into::into), disabled }
    }
}

/// A service account with its secret, which is shown here and never again.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "service_account": {
        "client_id": "client_5b0f6b2c3a9d4e1f8c7a6b5d4e3f2a1b", "bound_to": "agent:fixer", "issued_by": "person:ada",
        "created": "2026-11-20T09:00:00.000Z", "disabled": false
    },
    "client_secret": "cs_client_…"
}))]
pub(crate) struct ServiceAccountSecret {
    service_account: ServiceAccount,
    /// The secret. Only its hash is kept.
    client_secret: String,
}

impl From<(ServiceAccountRecord, Secret)> for ServiceAccountSecret {
    fn from((record, secret): (ServiceAccountRecord, Secret)) -> Self {
        Self { service_account: record.into(), client_secret: secret.expose().to_owned() }
    }
}

/// A service account to be issued.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "bound_to": "agent:fixer", "expires_s": 2_592_000 }))]
pub(crate) struct ServiceAccountToCreate {
    /// Whom it is to speak for: `agent:<id>` or `service:<id>`.
    #[schema(value_type = String)]
    bound_to: Subject,
    /// Seconds until it ends by itself; absent: never.
    #[serde(default)]
    expires_s: Option<u32>,
}

/// What to change of a service account.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "disabled": true }))]
pub(crate) struct ServiceAccountToChange {
    /// Gets no token; what it holds ends at once.
    disabled: bool,
}

/// List service accounts
#[utoipa::path(
    get, path = "/api/v1/service-accounts", operation_id = "listServiceAccounts", tag = "accounts",
    params(AccountFilter),
    responses((status = 200, description = "A page, by client id", body = Page<ServiceAccount>)),
)]
async fn list_service_accounts(
    State(app): State<AppState>,
    Auth(who): Auth,
    Params(filter): Params<AccountFilter>,
) -> Result<Response, Problem> {
    app.engine.may(&who, Operation::ListPrincipals, organization(&who), "list of service accounts")?;
    let (after, limit) = filter.read()?;
    let records = app.identity.directory.service_accounts(who.org, after.as_ref(), limit).await?;
    reply::ok(&page::<_, ServiceAccount>(records, limit, |record| &record.client_id))
}

/// Create a service account
///
/// Issues a client id and a secret. The secret is in this answer and nowhere else.
#[utoipa::path(
    post, path = "/api/v1/service-accounts", operation_id = "createServiceAccount", tag = "accounts",
    request_body = ServiceAccountToCreate,
    responses((status = 201, description = "The service account with its secret", body = ServiceAccountSecret)),
)]
async fn create_service_account(
    State(app): State<AppState>,
    Auth(who): Auth,
    input: Input,
) -> Result<Response, Problem> {
    let body: ServiceAccountToCreate = input.read()?;
    let details = json!({
        "operation": "createServiceAccount", "bound_to": body.bound_to, "expires_s": body.expires_s,
    });
    let (directory, org, by, now) = (Arc::clone(&app.identity.directory), who.org, subject(&who)?, app.engine.now());
    let expires = body.expires_s.map(|seconds| now + Duration::from_secs(seconds.into()));
    let bound_to = body.bound_to;
    let change = async move { directory.create_service_account(org, bound_to, by, expires, now).await };
    let made = governed(&app, &who, Operation::CreateServiceAccount, organization(&who), &details, change).await?;
    let location = format!("/api/v1/service-accounts/{}", made.0.client_id);
    Ok(reply::located(reply::json(StatusCode::CREATED, &ServiceAccountSecret::from(made))?, &location))
}

/// Read a service account
#[utoipa::path(
    get, path = "/api/v1/service-accounts/{client_id}", operation_id = "getServiceAccount", tag = "accounts",
    params(("client_id" = String, Path, description = "The client id")),
    responses((status = 200, description = "The service account", body = ServiceAccount)),
)]
async fn get_service_account(
    State(app): State<AppState>,
    Auth(who): Auth,
    Id(id): Id<Name>,
) -> Result<Response, Problem> {
    app.engine.may(&who, Operation::ListPrincipals, organization(&who), "service account")?;
    reply::ok(&ServiceAccount::from(found(&app, &who, &id).await?))
}

/// Enable or disable a service account
///
/// Every token of a disabled one ends.
#[utoipa::path(
    patch, path = "/api/v1/service-accounts/{client_id}", operation_id = "changeServiceAccount", tag = "accounts",
    params(("client_id" = String, Path, description = "The client id")),
    request_body = ServiceAccountToChange,
    responses((status = 200, description = "The service account", body = ServiceAccount)),
)]
async fn change_service_account(
    State(app): State<AppState>,
    Auth(who): Auth,
    Id(id): Id<Name>,
    input: Input,
) -> Result<Response, Problem> {
    let ServiceAccountToChange { disabled } = input.read()?;
    let resource = of_subject(&app, &who, &found(&app, &who, &id).await?.bound_to).await?;
    // Taking credentials away is asked as stopping, giving them back as issuing.
    let operation = if disabled { Operation::RevokeToken } else { Operation::IssueToken };
    let details = json!({ "operation": operation.as_str(), "client_id": id, "disabled": disabled });
    let (directory, org) = (Arc::clone(&app.identity.directory), who.org);
    let change = async move { directory.disable_service_account(org, &id, disabled).await };
    let record = governed(&app, &who, operation, resource, &details, change).await?;
    reply::ok(&ServiceAccount::from(record))
}

/// Give a service account a new secret
///
/// Every token of the old one ends.
#[utoipa::path(
    post, path = "/api/v1/service-accounts/{client_id}/rotate", operation_id = "rotateClientSecret", tag = "accounts",
    params(("client_id" = String, Path, description = "The client id")),
    responses((status = 200, description = "The service account with its new secret", body = ServiceAccountSecret)),
)]
async fn rotate_client_secret(
    State(app): State<AppState>,
    Auth(who): Auth,
    Id(id): Id<Name>,
    input: Input,
) -> Result<Response, Problem> {
    let Empty {} = input.read_or_default()?;
    let resource = of_subject(&app, &who, &found(&app, &who, &id).await?.bound_to).await?;
    let details = json!({ "operation": "issueToken", "client_id": id, "what": "secret" });
    let (directory, org) = (Arc::clone(&app.identity.directory), who.org);
    let change = async move { directory.rotate_client_secret(org, &id).await };
    let rotated = governed(&app, &who, Operation::IssueToken, resource, &details, change).await?;
    reply::ok(&ServiceAccountSecret::from(rotated))
}

async fn found(app: &AppState, who: &Principal, id: &Name) -> Result<ServiceAccountRecord, Problem> {
    let record = app.identity.directory.service_account(who.org, id).await?;
    Ok(record.ok_or_else(|| IdentityError::AccountUnknown(id.to_string()))?)
}
