//! A verified token with what the vault knows of its account: what one authenticated request is.
//!
//! Read next: `authenticate`.

use std::sync::Arc;

use countersign_gateway_model::{Name, Principal, Scope, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{IdentityError, Subject};

/// One delegator of a chain, with the consent that put them there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChainLink {
    /// Who lends their authority.
    #[serde(rename = "sub")]
    pub subject: Subject,
    /// Id of the consent: revoking it ends what came of it.
    #[serde(rename = "jti")]
    pub token: Name,
    /// Credential id that the consent was given with.
    #[serde(rename = "cid")]
    pub credential: Name,
}

/// An authenticated token: the principal, and the facts about the credential that only this room needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Who asks.
    pub principal: Arc<Principal>,
    /// Kind and id of the principal.
    pub subject: Subject,
    /// Who issued the token.
    pub issuer: String,
    /// Id of the token (`jti`).
    pub token: Name,
    /// Id of the credential that the token came of; `None` where another issuer keeps it.
    pub credential: Option<Name>,
    /// When the token was issued.
    pub issued: Timestamp,
    /// How the login was done (`amr`, RFC 8176): `pwd`, `otp`, `demo`, `client_secret`.
    pub methods: Vec<Name>,
    /// The chain, outermost first, in step with `principal.on_behalf_of`.
    pub chain: Vec<ChainLink>,
    /// Named groups of a person, which approval rules count.
    pub groups: Vec<Name>,
}

impl Session {
    /// Refuses where the token lacks `scope`.
    pub fn require(&self, scope: Scope) -> Result<(), IdentityError> {
        require_scope(&self.principal, scope)
    }
}

/// Refuses where the principal's credential lacks `scope`.
pub fn require_scope(principal: &Principal, scope: Scope) -> Result<(), IdentityError> {
    if principal.has(scope) { Ok(()) } else { Err(IdentityError::ScopeMissing(scope)) }
}
