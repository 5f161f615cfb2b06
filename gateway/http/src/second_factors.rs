//! Second factors of persons: codes of an authenticator app. Begin, confirm with a first code, say what there is, take away.
//!
//! A person enrols themselves alone. Absent: codes themselves (`gateway/identity`), and signing in with one (`tokens`).

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use countersign_gateway_engine::Operation;
use countersign_gateway_identity::{IdentityError, NewSecondFactor, SecondFactorRecord, Secret, Subject};
use countersign_gateway_model::{Name, PrincipalKind};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Auth;
use crate::governed::{governed, of_subject, organization};
use crate::input::{Id, Input};
use crate::problem::Problem;
use crate::reply;
use crate::state::AppState;
use crate::wire::Time;

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(get_second_factor, begin_second_factor, remove_second_factor))
        .routes(routes!(confirm_second_factor))
}

/// What a person has beside their password.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({ "state": "in_force", "since": "2026-11-20T09:00:00.000Z" }))]
pub(crate) struct SecondFactor {
    /// `none`; `begun`: its first code has not come; `in_force`: each login needs a code.
    #[schema(value_type = String)]
    state: &'static str,
    /// Since when that is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    since: Option<Time>,
}

impl From<Option<SecondFactorRecord>> for SecondFactor {
    fn from(record: Option<SecondFactorRecord>) -> Self {
        match record {
            None => Self { state: "none", since: None },
            Some(SecondFactorRecord { in_force: Some(since), .. }) => {
                Self { state: "in_force", since: Some(since.into()) }
            }
            Some(record) => Self { state: "begun", since: Some(record.begun.into()) },
        }
    }
}

/// A secret for an authenticator app: shown here and nowhere else.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "secret": "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ",
    "uri": "otpauth://totp/Countersign:ada?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=Countersign",
    "expires": "2026-11-20T09:15:00.000Z"
}))]
pub(crate) struct SecondFactorBegun {
    /// In base32, to be typed into the app: 160 bits, SHA-1, six digits, thirty seconds (RFC 6238).
    #[schema(format = Password)]
    secret: String,
    /// The same for an app to open, or for a QR code.
    #[schema(format = Password)]
    uri: String,
    /// Until when its first code must have come.
    #[schema(value_type = String, format = DateTime)]
    expires: Time,
}

impl From<NewSecondFactor> for SecondFactorBegun {
    fn from(new: NewSecondFactor) -> Self {
        let NewSecondFactor { secret, uri, expires } = new;
        Self { secret: secret.expose().to_owned(), uri: uri.expose().to_owned(), expires: expires.into() }
    }
}

/// Whose second factor it is to be, shown once more.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "password": "a long password of theirs" }))]
pub(crate) struct CurrentPassword {
    /// The current password.
    #[schema(format = Password)]
    password: String,
}

/// The first code.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "otp": "287082" }))]
pub(crate) struct FirstCode {
    /// Six digits, as the app shows them now.
    #[schema(format = Password)]
    otp: String,
}

/// Say what a person has beside their password
///
/// To the person themselves, and to those who may list principals.
#[utoipa::path(
    get, path = "/api/v1/people/{id}/second-factor", operation_id = "getSecondFactor", tag = "accounts",
    params(("id" = String, Path, description = "The person")),
    responses((status = 200, description = "Whether there is one", body = SecondFactor)),
)]
async fn get_second_factor(
    State(app): State<AppState>,
    Auth(who): Auth,
    Id(id): Id<Name>,
) -> Result<Response, Problem> {
    if who.kind != PrincipalKind::Person || !who.on_behalf_of.is_empty() || who.id != id {
        app.engine.may(&who, Operation::ListPrincipals, organization(&who), "person")?;
    }
    if app.identity.directory.person(who.org, &id).await?.is_none() {
        return Err(IdentityError::AccountUnknown(format!("person:{id}")).into());
    }
    let record = app.identity.second_factors.of(who.org, &id, app.engine.now()).await?;
    reply::ok(&SecondFactor::from(record))
}

/// Begin a second factor of one's own
///
/// Gives a secret for an authenticator app, once. Logins stay as they are until its first code is confirmed, within 15
/// minutes; beginning again replaces it. Needs a token with scope `decide` of that very person, and their password once more: from the
/// first code on, nobody comes in with the password alone.
#[utoipa::path(
    post, path = "/api/v1/people/{id}/second-factor", operation_id = "beginSecondFactor", tag = "accounts",
    params(("id" = String, Path, description = "The person")),
    request_body = CurrentPassword,
    responses((status = 201, description = "The secret", body = SecondFactorBegun)),
)]
async fn begin_second_factor(
    State(app): State<AppState>,
    Auth(who): Auth,
    Id(id): Id<Name>,
    input: Input,
) -> Result<Response, Problem> {
    let CurrentPassword { password } = input.read()?;
    if who.kind == PrincipalKind::Person && who.id == id {
        app.identity.tokens.confirm(who.org, &id, &Secret::new(password)).await?;
    }
    let details = json!({ "operation": "issueToken", "id": id, "what": "second factor", "step": "begin" });
    let resource = of_subject(&app, &who, &Subject::person(id.clone())).await?;
    let (factors, asker, now) = (Arc::clone(&app.identity.second_factors), Arc::clone(&who), app.engine.now());
    let change = async move { factors.begin(&asker, &id, now).await };
    let begun = governed(&app, &who, Operation::IssueToken, resource, &details, change).await?;
    reply::json(StatusCode::CREATED, &SecondFactorBegun::from(begun))
}

/// Confirm a second factor with its first code
///
/// From then on each login of the person needs a code. Every token of theirs from before ends, that of this request too.
#[utoipa::path(
    post, path = "/api/v1/people/{id}/second-factor/confirm", operation_id = "confirmSecondFactor", tag = "accounts",
    params(("id" = String, Path, description = "The person")),
    request_body = FirstCode,
    responses((status = 200, description = "It is in force", body = SecondFactor)),
)]
async fn confirm_second_factor(
    State(app): State<AppState>,
    Auth(who): Auth,
    Id(id): Id<Name>,
    input: Input,
) -> Result<Response, Problem> {
    let FirstCode { otp } = input.read()?;
    let code = Secret::new(otp);
    let details = json!({ "operation": "issueToken", "id": id, "what": "second factor", "step": "confirm" });
    let resource = of_subject(&app, &who, &Subject::person(id.clone())).await?;
    let (factors, asker, now) = (Arc::clone(&app.identity.second_factors), Arc::clone(&who), app.engine.now());
    let change = async move { factors.confirm(&asker, &id, &code, now).await };
    let record = governed(&app, &who, Operation::IssueToken, resource, &details, change).await?;
    reply::ok(&SecondFactor::from(Some(record)))
}

/// Take a second factor away
///
/// By its person, with a login that used it; where it is lost, by those whom policy lets revoke the person's credentials.
/// Either with a token of scope `decide`, from a login of the last 5 minutes. Every token of the person ends, and the password alone is asked for until they enrol another one.
#[utoipa::path(
    delete, path = "/api/v1/people/{id}/second-factor", operation_id = "removeSecondFactor", tag = "accounts",
    params(("id" = String, Path, description = "The person")),
    responses((status = 204, description = "It is gone")),
)]
async fn remove_second_factor(
    State(app): State<AppState>,
    Auth(who): Auth,
    Id(id): Id<Name>,
) -> Result<StatusCode, Problem> {
    let details = json!({ "operation": "revokeToken", "id": id, "what": "second factor" });
    let resource = of_subject(&app, &who, &Subject::person(id.clone())).await?;
    let (factors, asker, now) = (Arc::clone(&app.identity.second_factors), Arc::clone(&who), app.engine.now());
    let change = async move { factors.remove(&asker, &id, now).await };
    governed(&app, &who, Operation::RevokeToken, resource, &details, change).await?;
    Ok(StatusCode::NO_CONTENT)
}
