//! Credentials to `model::Principal`: tokens, logins, service accounts, enrolment, chains, the rate limit.
//!
//! Absent on purpose: HTTP, storage, the clock, randomness and the environment. Records live behind [`Accounts`],
//! random bytes come from [`Entropy`], the time is an argument. No crate of a second crypto stack: tokens are compact
//! JWS with Ed25519 and nothing else (`jws`).
//!
//! Read next: [`Identity`] (how the parts are put together), [`Authenticator`] (the hot path), [`TokenService`] (how
//! tokens come to be), [`Directory`] (who exists), [`Enrolments`] (how the first person comes in).

#![cfg_attr(
    test,
    expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on has found something")
)]

mod accounts;
mod attempts;
mod authenticate;
mod cache;
mod chain;
mod claims;
mod directory;
mod enrolment;
mod entropy;
mod error;
mod identity;
mod jws;
mod key;
mod limit;
mod memory;
mod password;
mod record;
mod revocation;
mod second_factor;
mod secret;
mod session;
mod subject;
#[cfg(test)]
mod testing;
mod token;
mod verifier;
mod weak;

pub use accounts::{Accounts, RecordKey, RecordKind, StoreError, Stored, Write};
pub use authenticate::{Authenticator, AuthenticatorStats};
pub use chain::MAX_CHAIN_DEPTH;
pub use claims::VerifiedToken;
pub use directory::{Directory, NewAgent, NewPerson, NewService, PersonChange, PrincipalChange};
pub use enrolment::{ENROLMENT_LIFE, Enrolment, EnrolmentRecord, Enrolments, NewLogin, Purpose};
pub use entropy::{Entropy, EntropyError};
pub use error::{Fault, IdentityError};
pub use identity::{Identity, IdentityConfig, Swept};
pub use key::{RetiredKey, TokenKeys};
pub use limit::{RateFacts, RateLimited, RateLimiter, RateQuota};
pub use memory::MemoryAccounts;
pub use record::{AgentRecord, PersonRecord, ServiceAccountRecord, ServiceRecord};
pub use revocation::{Revocation, RevocationTarget};
pub use second_factor::{NewSecondFactor, SECOND_FACTOR_LIFE, SecondFactorRecord, SecondFactors};
pub use secret::Secret;
pub use session::{ChainLink, Session, require_scope};
pub use subject::{Subject, SubjectError};
pub use token::{DECIDE_LIFE, TokenGrant, TokenKind, TokenService};
pub use verifier::{EdDsaVerifier, TokenVerifier};
pub use weak::refuse_default_secret;
