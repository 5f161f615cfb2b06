//! From the text of a token to what it says: one verifier an issuer. The first one is this gateway's own, with Ed25519.
//!
//! An `OpenID` Connect verifier joins by implementing [`TokenVerifier`]; what holds for every token whoever issued it
//! (times, scopes, chains, revocation, the account's state) is checked after it, in `authenticate`.
//! Absent: accounts and caches. Read next: `authenticate`.

use std::sync::Arc;

use async_trait::async_trait;
use countersign_gateway_model::Timestamp;

use crate::claims::{self, ACCESS, CONSENT, VerifiedToken};
use crate::{IdentityError, Subject, TokenKeys};

/// Verifies the tokens of one issuer.
#[async_trait]
pub trait TokenVerifier: Send + Sync + 'static {
    /// The issuer, as its tokens spell it in `iss`.
    fn issuer(&self) -> &str;

    /// What the token says. Checks form, signature, issuer and audience; times are checked by the caller.
    async fn verify(&self, token: &str, now: Timestamp) -> Result<VerifiedToken, IdentityError>;
}

/// Verifies what this gateway's own keys signed.
#[derive(Clone, Debug)]
pub struct EdDsaVerifier {
    keys: Arc<TokenKeys>,
    issuer: String,
    audience: String,
}

impl EdDsaVerifier {
    /// A verifier for tokens of `issuer` made for `audience`.
    pub fn new(keys: Arc<TokenKeys>, issuer: impl Into<String>, audience: impl Into<String>) -> Self {
        Self { keys, issuer: issuer.into(), audience: audience.into() }
    }

    /// What a consent says, and to whom it was given.
    pub(crate) fn consent(&self, token: &str, now: Timestamp) -> Result<(VerifiedToken, Subject), IdentityError> {
        match claims::read(&self.keys.set(), CONSENT, &self.issuer, &self.audience, token, now)? {
            (verified, Some(may_act)) => Ok((verified, may_act)),
            (_, None) => Err(IdentityError::malformed("its claims contradict each other")),
        }
    }

    /// Signs what `token` says; with `may_act` as a consent.
    pub(crate) fn issue(&self, token: &VerifiedToken, may_act: Option<&Subject>) -> Result<String, IdentityError> {
        claims::issue(&self.keys.set(), &self.audience, token, may_act)
    }
}

#[async_trait]
impl TokenVerifier for EdDsaVerifier {
    fn issuer(&self) -> &str {
        &self.issuer
    }

    async fn verify(&self, token: &str, now: Timestamp) -> Result<VerifiedToken, IdentityError> {
        claims::read(&self.keys.set(), ACCESS, &self.issuer, &self.audience, token, now).map(|(verified, _)| verified)
    }
}
