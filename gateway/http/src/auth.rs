//! Who asks, as extractors: a handler's argument list is its authorization.
//!
//! The rate limit stands here, before anything is read or decided. What a principal may do is asked of policy, by the
//! engine. Absent: tokens themselves (`gateway/identity`).

use std::sync::Arc;

use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use countersign_gateway_identity::{IdentityError, Session, Subject};
use countersign_gateway_model::Principal;

use crate::context;
use crate::problem::Problem;
use crate::state::AppState;

/// An authenticated principal within its rate.
pub(crate) struct Auth(pub(crate) Arc<Principal>);

impl FromRequestParts<AppState> for Auth {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        let who = state.identity.authenticator.authenticate(header(parts)?, state.engine.now()).await?;
        within_rate(state, &who)?;
        Ok(Self(who))
    }
}

/// None only where no credential was sent: one that does not hold is refused, never overlooked.
impl OptionalFromRequestParts<AppState> for Auth {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Option<Self>, Problem> {
        if parts.headers.contains_key(AUTHORIZATION) {
            <Self as FromRequestParts<AppState>>::from_request_parts(parts, state).await.map(Some)
        } else {
            Ok(None)
        }
    }
}

/// As [`Auth`], for enforcement points: their calls over quota leave one entry a minute.
pub(crate) struct EnforcementPoint(pub(crate) Arc<Principal>);

impl FromRequestParts<AppState> for EnforcementPoint {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        let who = state.identity.authenticator.authenticate(header(parts)?, state.engine.now()).await?;
        within_rate(state, &who).inspect_err(|_| state.engine.over_quota(&who))?;
        Ok(Self(who))
    }
}

/// As [`Auth`], with the facts about the credential, for operations on credentials.
pub(crate) struct Caller(pub(crate) Arc<Session>);

impl FromRequestParts<AppState> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        let session = state.identity.authenticator.session(header(parts)?, state.engine.now()).await?;
        within_rate(state, &session.principal)?;
        Ok(Self(session))
    }
}

fn header(parts: &Parts) -> Result<&str, IdentityError> {
    let mut values = parts.headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or(IdentityError::TokenMissing)?;
    if values.next().is_some() {
        return Err(IdentityError::TokenMalformed { reason: "there are two `authorization` headers" });
    }
    value.to_str().map_err(|_| IdentityError::TokenMalformed { reason: "it has a character that no token has" })
}

fn within_rate(state: &AppState, who: &Principal) -> Result<(), Problem> {
    match state.rate.check(who) {
        Ok(facts) => {
            context::note_rate(facts);
            Ok(())
        }
        Err(limited) => {
            context::note_rate(countersign_gateway_identity::RateFacts {
                limit: limited.limit,
                remaining: limited.remaining,
                reset: limited.reset,
            });
            state.metrics.rate_limited.inc();
            Err(limited.into())
        }
    }
}

/// The principal as accounts name it.
pub(crate) fn subject(who: &Principal) -> Result<Subject, Problem> {
    // SYSTEM has no credential, so no request comes from it.
    Subject::new(who.kind, who.id.clone()).map_err(|error| Problem::internal("a principal is no subject", &error))
}
