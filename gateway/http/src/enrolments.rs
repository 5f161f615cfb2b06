//! Enrolments: one-time tokens that let the first person in, and agents and runners register.
//!
//! Absent: where the token of a first start is printed (the program).

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use countersign_gateway_engine::{Operation, trail};
use countersign_gateway_identity::{Enrolment, NewLogin, Purpose, Secret, Subject};
use countersign_gateway_model::{Duration, Name};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::{Auth, subject};
use crate::governed::{check_roles, governed, of_subject, organization};
use crate::input::Input;
use crate::people::Person;
use crate::problem::Problem;
use crate::reply;
use crate::service_accounts::ServiceAccountSecret;
use crate::state::AppState;
use crate::wire::Time;

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(invite_person))
        .routes(routes!(invite_service_account))
        .routes(routes!(enrol_person))
        .routes(routes!(enrol_service_account))
}

/// What an invited person will hold.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "roles": ["OPERATOR"], "teams": ["core"] }))]
pub(crate) struct PersonInvitation {
    /// Roles.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    roles: Vec<Name>,
    /// Teams.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    teams: Vec<Name>,
    /// Named groups.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    groups: Vec<Name>,
}

/// For whom a service account is to be registered.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "bound_to": "agent:fixer" }))]
pub(crate) struct ServiceAccountInvitation {
    /// `agent:<id>` or `service:<id>`.
    #[schema(value_type = String)]
    bound_to: Subject,
    /// Seconds from now until the service account ends by itself; absent: never.
    #[serde(default)]
    expires_s: Option<u32>,
}

/// An enrolment token, which is shown here and never again.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "id": "enrol_5b0f6b2c3a9d4e1f8c7a6b5d4e3f2a1b", "token": "cs_enrol_…", "expires": "2026-11-20T09:15:00.000Z"
}))]
pub(crate) struct Invitation {
    /// Its id.
    #[schema(value_type = String)]
    id: Name,
    /// The token: one use, 15 minutes.
    token: String,
    /// When it ends.
    #[schema(value_type = String, format = DateTime)]
    expires: Time,
}

impl From<Enrolment> for Invitation {
    fn from(enrolment: Enrolment) -> Self {
        Self { token: enrolment.token.expose().to_owned(), id: enrolment.id, expires: enrolment.expires.into() }
    }
}

/// A person with an enrolment token.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "token": "cs_enrol_…", "id": "ada", "display_name": "Ada", "password": "correct horse battery staple"
}))]
pub(crate) struct PersonEnrolment {
    /// The enrolment token.
    #[schema(format = Password)]
    token: String,
    /// Id that the person chooses, and will sign in with.
    #[schema(value_type = String)]
    id: Name,
    /// How people call them; at most 200 characters.
    #[serde(default)]
    display_name: String,
    /// The password.
    #[schema(format = Password)]
    password: String,
    /// Which human being this is, where they have several accounts; absent: the id.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    person: Option<Name>,
}

/// An enrolment token for a service account.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "token": "cs_enrol_…" }))]
pub(crate) struct ServiceAccountEnrolment {
    /// The enrolment token.
    #[schema(format = Password)]
    token: String,
}

/// Invite a person
///
/// Makes an enrolment token for somebody who will choose their own name and password.
#[utoipa::path(
    post, path = "/api/v1/enrolments/people", operation_id = "invitePerson", tag = "enrolments",
    request_body = Option<PersonInvitation>,
    responses((status = 201, description = "The token", body = Invitation)),
)]
async fn invite_person(State(app): State<AppState>, Auth(who): Auth, input: Input) -> Result<Response, Problem> {
    let body: PersonInvitation = input.read_or_default()?;
    check_roles(&app, &who, &body.roles)?;
    let details = json!({
        "operation": "createPerson", "roles": body.roles, "teams": body.teams, "groups": body.groups,
        "what": "enrolment",
    });
    let purpose = Purpose::Person { roles: body.roles, teams: body.teams, groups: body.groups };
    let (enrolments, org, by, now) = (Arc::clone(&app.identity.enrolments), who.org, subject(&who)?, app.engine.now());
    let change = async move { enrolments.mint(org, purpose, Some(by), now).await };
    let enrolment = governed(&app, &who, Operation::CreatePerson, organization(&who), &details, change).await?;
    reply::json(StatusCode::CREATED, &Invitation::from(enrolment))
}

/// Invite an agent or a service
///
/// Makes an enrolment token with which an existing agent or service registers itself.
#[utoipa::path(
    post, path = "/api/v1/enrolments/service-accounts", operation_id = "inviteServiceAccount", tag = "enrolments",
    request_body = ServiceAccountInvitation,
    responses((status = 201, description = "The token", body = Invitation)),
)]
async fn invite_service_account(
    State(app): State<AppState>,
    Auth(who): Auth,
    input: Input,
) -> Result<Response, Problem> {
    let body: ServiceAccountInvitation = input.read()?;
    let details = json!({
        "operation": "issueToken", "bound_to": body.bound_to, "expires_s": body.expires_s, "what": "enrolment",
    });
    let resource = of_subject(&app, &who, &body.bound_to).await?;
    let (enrolments, org, by, now) = (Arc::clone(&app.identity.enrolments), who.org, subject(&who)?, app.engine.now());
    let expires = body.expires_s.map(|seconds| now + Duration::from_secs(seconds.into()));
    let purpose = Purpose::ServiceAccount { bound_to: body.bound_to, expires };
    let change = async move { enrolments.mint(org, purpose, Some(by), now).await };
    let enrolment = governed(&app, &who, Operation::IssueToken, resource, &details, change).await?;
    reply::json(StatusCode::CREATED, &Invitation::from(enrolment))
}

/// Enrol as a person
///
/// The token of a first start makes the first human, who holds every role that it takes to set up the rest.
#[utoipa::path(
    post, path = "/api/v1/enrol/person", operation_id = "enrolPerson", tag = "enrolments", security(()),
    request_body = PersonEnrolment,
    responses((status = 201, description = "The person, who can sign in now", body = Person)),
)]
async fn enrol_person(State(app): State<AppState>, input: Input) -> Result<Response, Problem> {
    let body: PersonEnrolment = input.read()?;
    let login = NewLogin {
        id: body.id,
        display_name: body.display_name,
        password: Secret::new(body.password),
        person: body.person,
    };
    let (enrolments, token, now) = (Arc::clone(&app.identity.enrolments), Secret::new(body.token), app.engine.now());
    let made = whole(async move { enrolments.enrol_person(&token, login, now).await }).await?;
    reply::json(StatusCode::CREATED, &Person::from(made))
}

/// Enrol as an agent or a service
///
/// Issues the service account that the token stands for.
#[utoipa::path(
    post, path = "/api/v1/enrol/service-account", operation_id = "enrolServiceAccount", tag = "enrolments", security(()),
    request_body = ServiceAccountEnrolment,
    responses((status = 201, description = "The service account with its secret", body = ServiceAccountSecret)),
)]
async fn enrol_service_account(State(app): State<AppState>, input: Input) -> Result<Response, Problem> {
    let body: ServiceAccountEnrolment = input.read()?;
    let (enrolments, token, now) = (Arc::clone(&app.identity.enrolments), Secret::new(body.token), app.engine.now());
    let made = whole(async move { enrolments.register(&token, now).await }).await?;
    reply::json(StatusCode::CREATED, &ServiceAccountSecret::from(made))
}

/// Runs `work` to its end even if the caller goes away in the middle: the token is spent with what it made, or not at
/// all.
async fn whole<T: Send + 'static>(
    work: impl Future<Output = Result<T, countersign_gateway_identity::IdentityError>> + Send + 'static,
) -> Result<T, Problem> {
    match trail::spawn(work).await {
        Ok(done) => Ok(done?),
        Err(error) => Err(Problem::internal("an enrolment ended early", &error)),
    }
}
