//! Persons: list, make, change, set a password, erase.
//!
//! Absent: the first one, who comes with an enrolment (`enrolments`).

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use countersign_gateway_engine::Operation;
use countersign_gateway_identity::{IdentityError, NewPerson, PersonChange, PersonRecord, Secret, Subject};
use countersign_gateway_model::{Name, PrincipalKind};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::{Auth, subject};
use crate::governed::{check_roles, governed, of_subject, organization};
use crate::input::{Cursor, Id, Input, Paging, Params};
use crate::problem::{BODY_MISSING_FIELD, Problem};
use crate::reply;
use crate::state::AppState;
use crate::wire::{Page, Time};

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list_people, create_person))
        .routes(routes!(get_person, change_person, erase_person))
        .routes(routes!(set_password))
}

/// Where a list of accounts begins.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct AccountFilter {
    /// Cursor that the page before gave as `next`.
    pub(crate) after: Option<String>,
    /// How many at most: 1 to 200, usually 50.
    pub(crate) limit: Option<usize>,
}

impl AccountFilter {
    pub(crate) fn read(&self) -> Result<(Option<Name>, usize), Problem> {
        Ok((Cursor::read(self.after.as_deref())?, Paging::limit(self.limit)?))
    }
}

/// A page of accounts, which go by id.
pub(crate) fn page<R, T: From<R>>(records: Vec<R>, limit: usize, id: impl Fn(&R) -> &Name) -> Page<T> {
    let next = (records.len() == limit).then(|| records.last().map(|last| Cursor::write(id(last)))).flatten();
    Page { items: records.into_iter().map(T::from).collect(), next }
}

/// A human being of the organization.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "id": "ada", "display_name": "Ada", "roles": ["OPERATOR"], "teams": ["core"], "groups": [], "person": "ada",
    "disabled": false, "created": "2026-11-20T09:00:00.000Z"
}))]
#[expect(clippy::struct_field_names, reason = "these are the names on the wire")]
pub(crate) struct Person {
    /// Id within the organization, and name to sign in with.
    #[schema(value_type = String)]
    id: Name,
    /// How people call them.
    display_name: String,
    /// Roles held.
    #[schema(value_type = Vec<String>)]
    roles: Vec<Name>,
    /// Teams belonged to.
    #[schema(value_type = Vec<String>)]
    teams: Vec<Name>,
    /// Named groups, which approval rules count.
    #[schema(value_type = Vec<String>)]
    groups: Vec<Name>,
    /// Which human being this is: accounts of the same one count once. Absent: not known, and so the same as all others
    /// without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    person: Option<Name>,
    /// Cannot sign in.
    disabled: bool,
    /// When the account was made.
    #[schema(value_type = String, format = DateTime)]
    created: Time,
}

impl From<PersonRecord> for Person {
    fn from(record: PersonRecord) -> Self {
        let PersonRecord { id, display_name, roles, teams, groups, person, disabled, created, .. } = record;
        Self { id, display_name, roles, teams, groups, person, disabled, created: created.into() }
    }
}

/// A person to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "id": "bob", "display_name": "Bob", "roles": ["OPERATOR"], "teams": ["core"], "person": "bob",
    "password": "correct horse battery staple"
}))]
pub(crate) struct PersonToCreate {
    /// Id within the organization, and name to sign in with.
    #[schema(value_type = String)]
    id: Name,
    /// How people call them; at most 200 characters.
    #[serde(default)]
    display_name: String,
    /// Roles held.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    roles: Vec<Name>,
    /// Teams belonged to.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    teams: Vec<Name>,
    /// Named groups.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    groups: Vec<Name>,
    /// Which human being this is. Without it they count as the same person as all others without one.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    person: Option<Name>,
    /// The first password. Without it they cannot sign in until one is set.
    #[serde(default)]
    #[schema(format = Password)]
    password: Option<String>,
}

/// What to change of a person; what is absent stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "roles": ["OPERATOR", "STOP"] }))]
pub(crate) struct PersonToChange {
    /// How people call them.
    #[serde(default)]
    display_name: Option<String>,
    /// Roles held.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    roles: Option<Vec<Name>>,
    /// Teams belonged to.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    teams: Option<Vec<Name>>,
    /// Named groups.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    groups: Option<Vec<Name>>,
    /// Cannot sign in; what they hold ends at once.
    #[serde(default)]
    disabled: Option<bool>,
}

/// A new password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "password": "correct horse battery staple", "current": "the one before it, all lower case" }))]
pub(crate) struct NewPassword {
    /// The password.
    #[schema(format = Password)]
    password: String,
    /// The one that it replaces; required of those who change their own, so that a stolen login does not become an account.
    #[serde(default)]
    #[schema(format = Password)]
    current: Option<String>,
}

/// List people
#[utoipa::path(
    get, path = "/api/v1/people", operation_id = "listPeople", tag = "accounts",
    params(AccountFilter),
    responses((status = 200, description = "A page, by id", body = Page<Person>)),
)]
async fn list_people(
    State(app): State<AppState>,
    Auth(who): Auth,
    Params(filter): Params<AccountFilter>,
) -> Result<Response, Problem> {
    app.engine.may(&who, Operation::ListPrincipals, organization(&who), "list of people")?;
    let (after, limit) = filter.read()?;
    let records = app.identity.directory.persons(who.org, after.as_ref(), limit).await?;
    reply::ok(&page::<_, Person>(records, limit, |record| &record.id))
}

/// Create a person
#[utoipa::path(
    post, path = "/api/v1/people", operation_id = "createPerson", tag = "accounts",
    request_body = PersonToCreate,
    responses((status = 201, description = "The person", body = Person)),
)]
async fn create_person(State(app): State<AppState>, Auth(who): Auth, input: Input) -> Result<Response, Problem> {
    let body: PersonToCreate = input.read()?;
    check_roles(&app, &who, &body.roles)?;
    let details = json!({
        "operation": "createPerson", "id": body.id, "roles": body.roles, "teams": body.teams, "groups": body.groups,
    });
    let new = NewPerson {
        id: body.id,
        display_name: body.display_name,
        roles: body.roles,
        teams: body.teams,
        groups: body.groups,
        person: body.person,
        password: body.password.map(Secret::new),
        demo: false,
    };
    let (directory, org, by, now) = (Arc::clone(&app.identity.directory), who.org, subject(&who)?, app.engine.now());
    let change = async move { directory.create_person(org, new, Some(by), now).await };
    let record = governed(&app, &who, Operation::CreatePerson, organization(&who), &details, change).await?;
    let location = format!("/api/v1/people/{}", record.id);
    Ok(reply::located(reply::json(StatusCode::CREATED, &Person::from(record))?, &location))
}

/// Read a person
#[utoipa::path(
    get, path = "/api/v1/people/{id}", operation_id = "getPerson", tag = "accounts",
    params(("id" = String, Path, description = "The person")),
    responses((status = 200, description = "The person", body = Person)),
)]
async fn get_person(State(app): State<AppState>, Auth(who): Auth, Id(id): Id<Name>) -> Result<Response, Problem> {
    if who.kind != PrincipalKind::Person || who.id != id {
        app.engine.may(&who, Operation::ListPrincipals, organization(&who), "person")?;
    }
    let record = app.identity.directory.person(who.org, &id).await?;
    let record = record.ok_or_else(|| IdentityError::AccountUnknown(format!("person:{id}")))?;
    reply::ok(&Person::from(record))
}

/// Change a person
///
/// What is taken away is gone with their next request.
#[utoipa::path(
    patch, path = "/api/v1/people/{id}", operation_id = "changePerson", tag = "accounts",
    params(("id" = String, Path, description = "The person")),
    request_body = PersonToChange,
    responses((status = 200, description = "The person", body = Person)),
)]
async fn change_person(
    State(app): State<AppState>,
    Auth(who): Auth,
    Id(id): Id<Name>,
    input: Input,
) -> Result<Response, Problem> {
    let body: PersonToChange = input.read()?;
    check_roles(&app, &who, body.roles.as_deref().unwrap_or_default())?;
    let details = json!({
        "operation": "updatePrincipal", "id": id, "roles": body.roles, "teams": body.teams, "groups": body.groups,
        "disabled": body.disabled,
    });
    let change = PersonChange {
        display_name: body.display_name,
        roles: body.roles,
        teams: body.teams,
        groups: body.groups,
        disabled: body.disabled,
    };
    let resource = of_subject(&app, &who, &Subject::person(id.clone())).await?;
    let (directory, org) = (Arc::clone(&app.identity.directory), who.org);
    let change = async move { directory.change_person(org, &id, change).await };
    let record = governed(&app, &who, Operation::UpdatePrincipal, resource, &details, change).await?;
    reply::ok(&Person::from(record))
}

/// Set a person's password
///
/// Every token of the old one ends. Whoever changes their own gives the current one, too; who has forgotten it asks somebody
/// who may set it for them.
#[utoipa::path(
    put, path = "/api/v1/people/{id}/password", operation_id = "setPassword", tag = "accounts",
    params(("id" = String, Path, description = "The person")),
    request_body = NewPassword,
    responses((status = 200, description = "The person", body = Person)),
)]
async fn set_password(
    State(app): State<AppState>,
    Auth(who): Auth,
    Id(id): Id<Name>,
    input: Input,
) -> Result<Response, Problem> {
    let body: NewPassword = input.read()?;
    let password = Secret::new(body.password);
    if who.kind == PrincipalKind::Person && who.id == id {
        let detail = "whoever changes their own password gives the current one, too";
        let current = body.current.ok_or_else(|| Problem::new(BODY_MISSING_FIELD, detail).at("/current"))?;
        app.identity.tokens.confirm(who.org, &id, &Secret::new(current)).await?;
    }
    let details = json!({ "operation": "issueToken", "id": id, "what": "password" });
    let resource = of_subject(&app, &who, &Subject::person(id.clone())).await?;
    let (directory, org) = (Arc::clone(&app.identity.directory), who.org);
    let change = async move { directory.set_password(org, &id, &password).await };
    let record = governed(&app, &who, Operation::IssueToken, resource, &details, change).await?;
    reply::ok(&Person::from(record))
}

/// Erase a person
///
/// The account goes, and who their pseudonym in the ledger stands for. Entries stay, and prove what they proved.
#[utoipa::path(
    delete, path = "/api/v1/people/{id}", operation_id = "erasePerson", tag = "accounts",
    params(("id" = String, Path, description = "The person")),
    responses((status = 204, description = "Erased")),
)]
async fn erase_person(State(app): State<AppState>, Auth(who): Auth, Id(id): Id<Name>) -> Result<StatusCode, Problem> {
    let details = json!({ "operation": "eraseData", "id": id });
    let resource = of_subject(&app, &who, &Subject::person(id.clone())).await?;
    let (directory, org) = (Arc::clone(&app.identity.directory), who.org);
    let change = async move { directory.erase_person(org, &id).await };
    governed(&app, &who, Operation::EraseData, resource, &details, change).await?;
    Ok(StatusCode::NO_CONTENT)
}
