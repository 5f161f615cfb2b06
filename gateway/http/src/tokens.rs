//! Tokens: sign in, client credentials, consent, exchange, revocation, and who one is.
//!
//! Absent: what tokens say and how long they live (`gateway/identity`).

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use countersign_gateway_engine::Operation;
use countersign_gateway_identity::{RevocationTarget, Secret, Subject, TokenGrant, TokenKind};
use countersign_gateway_model::{Duration, Name, OrgId, Principal, Scope};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::{Auth, Caller};
use crate::governed::{governed, of_subject};
use crate::input::Input;
use crate::problem::{BODY_VALUE_INVALID, Problem};
use crate::reply;
use crate::state::AppState;
use crate::wire::Time;

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(login))
        .routes(routes!(client_credentials))
        .routes(routes!(consent))
        .routes(routes!(exchange))
        .routes(routes!(revoke))
        .routes(routes!(whoami))
}

/// A person's sign-in.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "id": "ada", "password": "correct horse battery staple", "scope": "act decide" }))]
pub(crate) struct Login {
    /// The person's id.
    id: String,
    /// Their password.
    #[schema(format = Password)]
    password: String,
    /// The code that their authenticator app shows, where they have a second factor: six digits. Each is taken once.
    #[serde(default)]
    #[schema(format = Password)]
    otp: Option<String>,
    /// What the token is for, separated by spaces: `act` (usual), `decide`. With `decide` it lives 15 minutes at most.
    #[serde(default)]
    scope: String,
    /// The organization; absent: this gateway's own.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    organization: Option<OrgId>,
}

/// A service account's credentials.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "client_id": "client_5b0f6b2c3a9d4e1f8c7a6b5d4e3f2a1b", "client_secret": "cs_client_…" }))]
pub(crate) struct ClientCredentials {
    /// The client id.
    client_id: String,
    /// Its secret.
    #[schema(format = Password)]
    client_secret: String,
    /// What the token is for: `act`.
    #[serde(default)]
    scope: String,
}

/// A token.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "access_token": "eyJ0eXAiOiJhdCtqd3Qi…", "token_type": "Bearer",
    "issued_token_type": "urn:ietf:params:oauth:token-type:access_token", "id": "tok_5b0f6b2c3a9d4e1f8c7a6b5d4e3f2a1b",
    "subject": "agent:fixer", "scope": "act", "expires_in": 899, "expires": "2026-11-20T09:15:00.000Z"
}))]
#[expect(clippy::struct_field_names, reason = "these are the names on the wire")]
pub(crate) struct Token {
    /// The token.
    access_token: String,
    /// `Bearer`; `N_A` for a consent, which is good for nothing but to be exchanged.
    #[schema(value_type = String)]
    token_type: &'static str,
    /// What it is (RFC 8693).
    #[schema(value_type = String)]
    issued_token_type: &'static str,
    /// Its id: what to revoke.
    #[schema(value_type = String)]
    id: Name,
    /// Who it speaks for.
    #[schema(value_type = String)]
    subject: Subject,
    /// What it may be used for.
    scope: String,
    /// Seconds that it lives.
    expires_in: u64,
    /// Until when it holds.
    #[schema(value_type = String, format = DateTime)]
    expires: Time,
}

impl From<TokenGrant> for Token {
    fn from(grant: TokenGrant) -> Self {
        Self {
            access_token: grant.token.expose().to_owned(),
            token_type: if grant.kind == TokenKind::Access { "Bearer" } else { "N_A" },
            issued_token_type: grant.kind.urn(),
            scope: grant.scope(),
            expires_in: grant.expires_in(),
            expires: grant.expires.into(),
            id: grant.id,
            subject: grant.subject,
        }
    }
}

/// To whom the caller lends their authority.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "agent": "fixer", "life_s": 3600 }))]
pub(crate) struct NewConsent {
    /// The agent that may act on the caller's behalf.
    #[schema(value_type = String)]
    agent: Name,
    /// Seconds that the consent holds; absent: as long as the gateway allows.
    #[serde(default)]
    life_s: Option<u32>,
}

/// A consent to be exchanged.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "consent": "eyJ0eXAiOiJjb25zZW50…" }))]
pub(crate) struct Exchange {
    /// The consent, as its giver got it.
    consent: String,
}

/// What to revoke: exactly one of these. None: the token of this request.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "account": "agent:fixer" }))]
pub(crate) struct Revoke {
    /// The id of a token or consent of the caller's own.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    token: Option<Name>,
    /// Everything of one account: `person:<id>`, `agent:<id>` or `service:<id>`.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    account: Option<Subject>,
}

/// Who a token speaks for.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "organization": "org_0192f3a1b2c37d4e8f9a0b1c2d3e4f5a", "subject": "agent:fixer",
    "pseudonym": "who_5b0f6b2c3a9d4e1f8c7a6b5d4e3f2a1b", "on_behalf_of": ["person:ada"], "scopes": ["act"],
    "assurance": "secret", "roles": [], "teams": ["core"], "expires": "2026-11-20T09:15:00.000Z"
}))]
pub(crate) struct Whoami {
    /// The organization.
    #[schema(value_type = String)]
    organization: OrgId,
    /// `person:<id>`, `agent:<id>` or `service:<id>`.
    subject: String,
    /// What stands for it in entries.
    #[schema(value_type = String)]
    pseudonym: countersign_gateway_model::Pseudonym,
    /// On whose behalf, outermost first.
    on_behalf_of: Vec<String>,
    /// What the token may be used for: `act`, `decide`.
    #[schema(value_type = Vec<String>)]
    scopes: Vec<Scope>,
    /// How sure the sign-in was: `demo`, `secret`, `password` or `mfa`.
    #[schema(value_type = String)]
    assurance: countersign_gateway_model::Assurance,
    /// Roles held.
    #[schema(value_type = Vec<String>)]
    roles: Vec<Name>,
    /// Teams belonged to.
    #[schema(value_type = Vec<String>)]
    teams: Vec<Name>,
    /// When the token ends.
    #[schema(value_type = String, format = DateTime)]
    expires: Time,
}

/// Sign in
///
/// A person's name and password for a token, and the code of their second factor where they have one. `decide` is only had
/// like this, and so is assurance `mfa`.
#[utoipa::path(
    post, path = "/api/v1/tokens/login", operation_id = "login", tag = "tokens", security(()),
    request_body = Login,
    responses((status = 200, description = "A token", body = Token)),
)]
async fn login(State(app): State<AppState>, input: Input) -> Result<Response, Problem> {
    let body: Login = input.read()?;
    let org = body.organization.unwrap_or(app.info.organization);
    let (password, code) = (Secret::new(body.password), body.otp.map(Secret::new));
    let given = (&password, code.as_ref());
    let grant = app.identity.tokens.login(org, &body.id, given, &body.scope, app.engine.now()).await?;
    reply::ok(&Token::from(grant))
}

/// Exchange client credentials
///
/// A service account's id and secret for a token of the agent or service that it is bound to.
#[utoipa::path(
    post, path = "/api/v1/tokens/client-credentials", operation_id = "clientCredentials", tag = "tokens", security(()),
    request_body = ClientCredentials,
    responses((status = 200, description = "A token", body = Token)),
)]
async fn client_credentials(State(app): State<AppState>, input: Input) -> Result<Response, Problem> {
    let body: ClientCredentials = input.read()?;
    let (secret, now) = (Secret::new(body.client_secret), app.engine.now());
    let grant = app.identity.tokens.exchange_client_credentials(&body.client_id, &secret, &body.scope, now).await?;
    reply::ok(&Token::from(grant))
}

/// Consent
///
/// Lets an agent act on the caller's behalf. Only that agent can exchange the consent. It confers nothing that the
/// caller may not do: policy asks about both, every time.
#[utoipa::path(
    post, path = "/api/v1/tokens/consent", operation_id = "consent", tag = "tokens",
    request_body = NewConsent,
    responses((status = 200, description = "A consent", body = Token)),
)]
async fn consent(State(app): State<AppState>, Caller(session): Caller, input: Input) -> Result<Response, Problem> {
    let body: NewConsent = input.read()?;
    let life = body.life_s.map(|seconds| Duration::from_secs(seconds.into()));
    let grant = app.identity.tokens.consent(&session, &body.agent, life, app.engine.now()).await?;
    reply::ok(&Token::from(grant))
}

/// Exchange a consent
///
/// The agent that a consent names gets a token with which it acts on behalf of whoever gave it.
#[utoipa::path(
    post, path = "/api/v1/tokens/exchange", operation_id = "exchangeConsent", tag = "tokens",
    request_body = Exchange,
    responses((status = 200, description = "A token", body = Token)),
)]
async fn exchange(State(app): State<AppState>, Caller(session): Caller, input: Input) -> Result<Response, Problem> {
    let body: Exchange = input.read()?;
    let consent = Secret::new(body.consent);
    let grant = app.identity.tokens.exchange_on_behalf(&session, &consent, app.engine.now()).await?;
    reply::ok(&Token::from(grant))
}

/// Revoke tokens
///
/// The token of the request, another one of the caller's own, or everything of an account. It holds at once.
#[utoipa::path(
    post, path = "/api/v1/tokens/revoke", operation_id = "revokeToken", tag = "tokens",
    request_body = Option<Revoke>,
    responses((status = 204, description = "Revoked")),
)]
async fn revoke(State(app): State<AppState>, Caller(session): Caller, input: Input) -> Result<StatusCode, Problem> {
    let body: Revoke = input.read_or_default()?;
    let who: &Arc<Principal> = &session.principal;
    let (target, whose) = match (body.token, body.account) {
        (None, None) => (RevocationTarget::Token(session.token.clone()), session.subject.clone()),
        // Whoever knows the id of a token of somebody else cannot tell whose it is, and neither can this gateway:
        // token ids are 128 random bits that only their holder was told.
        (Some(token), None) => (RevocationTarget::Token(token), session.subject.clone()),
        (None, Some(account)) => (RevocationTarget::Principal(account.clone()), account),
        (Some(_), Some(_)) => {
            return Err(Problem::new(BODY_VALUE_INVALID, "name a `token` or an `account`, not both").at(""));
        }
    };
    let details = json!({ "operation": "revokeToken", "target": target.to_string() });
    let (authenticator, org, now) = (Arc::clone(&app.identity.authenticator), who.org, app.engine.now());
    let change = async move { authenticator.revoke(org, target, now).await };
    let resource = of_subject(&app, who, &whose).await?;
    governed(&app, who, Operation::RevokeToken, resource, &details, change).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Say who I am
#[utoipa::path(
    get, path = "/api/v1/me", operation_id = "whoami", tag = "tokens",
    responses((status = 200, description = "What the token says", body = Whoami)),
)]
async fn whoami(Auth(who): Auth) -> Result<Response, Problem> {
    let label = |kind, id: &Name| {
        Subject::new(kind, id.clone()).map_or_else(|_| format!("system:{id}"), |subject| subject.to_string())
    };
    reply::ok(&Whoami {
        organization: who.org,
        subject: label(who.kind, &who.id),
        pseudonym: who.pseudonym,
        on_behalf_of: who.on_behalf_of.iter().map(|delegator| label(delegator.kind, &delegator.id)).collect(),
        scopes: who.scopes.clone(),
        assurance: who.assurance,
        roles: who.roles.clone(),
        teams: who.teams.clone(),
        expires: who.expires.into(),
    })
}
