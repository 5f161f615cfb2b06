//! What can go wrong between a credential and a principal, with the stable code of each.
//!
//! Absent: HTTP status numbers; [`Fault`] sorts the errors so that `gateway/http` can choose them.
//! No error says whether an account exists: every refused login is `credentials-invalid`.
//! Read next: `authenticate`.

use countersign_gateway_model::Scope;

use crate::{EntropyError, RateLimited, StoreError};

/// What sort of fault an error is, for the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Nobody knows who asks: no credential, or one that does not hold.
    Unauthenticated,
    /// Known, but not allowed to use the credential for this.
    Forbidden,
    /// The request itself is wrong.
    Invalid,
    /// The state of an account does not fit the request.
    Conflict,
    /// Too many requests.
    TooMany,
    /// The gateway could not find out; nothing was granted.
    Unavailable,
}

/// Why no principal, no token or no account came of a request. Nothing was granted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The request carries no bearer token.
    #[error("no bearer token: send `authorization: Bearer <token>`")]
    TokenMissing,
    /// The token is not one that this gateway could have issued.
    #[error("the token is malformed: {reason}; ask for a new one")]
    TokenMalformed {
        /// What is wrong with its form.
        reason: &'static str,
    },
    /// No known key signed these bytes.
    #[error("the token's signature does not hold; ask for a new token")]
    TokenSignatureInvalid,
    /// The token's end has passed.
    #[error("the token has expired; ask for a new one")]
    TokenExpired,
    /// The token's start lies ahead.
    #[error("the token is not valid yet; check the clocks")]
    TokenNotYetValid,
    /// The token, its credential or its principal was revoked, disabled or removed.
    #[error("the token was revoked; sign in again")]
    TokenRevoked,
    /// The token was made for another gateway.
    #[error("the token was issued for another audience; ask this gateway for one")]
    TokenWrongAudience,
    /// No verifier is set up for the token's issuer.
    #[error("the token's issuer is not trusted here; ask this gateway for one")]
    TokenWrongIssuer,
    /// Unknown account, wrong password, wrong secret, disabled account: never said which.
    #[error("the credentials do not hold; check the name and the secret")]
    CredentialsInvalid,
    /// The password held, and the login needs a code of the second factor, or a fresh one with it.
    #[error("a second factor is needed: {reason}")]
    SecondFactorRequired {
        /// What to do.
        reason: &'static str,
    },
    /// The token holds, and its login was too long ago for what is asked.
    #[error("this needs a login of the last 5 minutes: log in again, with scope `decide`")]
    LoginStale,
    /// The code does not hold, or held before.
    #[error("the code of the second factor is refused: {reason}")]
    SecondFactorRefused {
        /// Why, and what to do.
        reason: &'static str,
    },
    /// A second factor is in force, and would be replaced.
    #[error("`{0}` has a second factor: take it away first")]
    SecondFactorInForce(String),
    /// There is no second factor to be confirmed or taken away.
    #[error("there is no such second factor: {what}")]
    SecondFactorUnknown {
        /// What is not there, and what to do.
        what: &'static str,
    },
    /// The enrolment token is unknown or its secret is wrong.
    #[error("the enrolment token does not hold; ask for a new one")]
    EnrolmentInvalid,
    /// The enrolment token was used before.
    #[error("the enrolment token was already used; ask for a new one")]
    EnrolmentUsed,
    /// The enrolment token's 15 minutes have passed.
    #[error("the enrolment token has expired; ask for a new one")]
    EnrolmentExpired,
    /// The enrolment token was made for something else.
    #[error("the enrolment token is for {purpose}; use the matching command")]
    EnrolmentPurpose {
        /// What it was made for.
        purpose: &'static str,
    },
    /// The credential may not be used for this.
    #[error("scope `{}` is missing; sign in asking for it", scope_name(*.0))]
    ScopeMissing(Scope),
    /// A scope was asked for that this credential can never have.
    #[error("scope `{}` is refused: {reason}", scope_name(*.scope))]
    ScopeRefused {
        /// The scope asked for.
        scope: Scope,
        /// Why it cannot be had.
        reason: &'static str,
    },
    /// The scope parameter names something unknown.
    #[error("scope `{0}` is unknown: `act` and `decide` are known")]
    ScopeUnknown(String),
    /// The chain of delegators would be longer than the bound.
    #[error("the on-behalf chain would be longer than {max}; delegate from nearer the person")]
    ChainTooDeep {
        /// The bound.
        max: usize,
    },
    /// The delegation does not hold.
    #[error("the delegation is refused: {reason}")]
    ChainRefused {
        /// Why.
        reason: &'static str,
    },
    /// Two sides of a request are of different organizations. Callers answer as if the other side did not exist.
    #[error("the other account is not in this organization")]
    WrongOrganization,
    /// Too many requests by one principal, or too many logins to one account.
    #[error(transparent)]
    RateLimited(#[from] RateLimited),
    /// A secret is empty, a default or easy to guess.
    #[error("`{name}` {problem}; {fix}")]
    WeakSecret {
        /// The setting or field.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
        /// What to do.
        fix: &'static str,
    },
    /// A field of a new or changed account does not hold.
    #[error("`{field}` {problem}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The account does not exist in this organization.
    #[error("account `{0}` does not exist")]
    AccountUnknown(String),
    /// The account exists already.
    #[error("account `{0}` exists already; choose another id")]
    AccountExists(String),
    /// The account changed between reading and writing.
    #[error("account `{0}` was changed at the same time; try again")]
    AccountChanged(String),
    /// Demo credentials outside a folder marked demo.
    #[error("demo credentials are accepted only by a gateway whose log is marked demo")]
    DemoRefused,
    /// The store of accounts did not answer.
    #[error("the store of accounts did not answer; nothing was granted")]
    Store(#[from] StoreError),
    /// No random bytes.
    #[error("no random bytes; nothing was granted")]
    Entropy(#[from] EntropyError),
    /// Work of this crate that should not fail did.
    #[error("{what} failed; nothing was granted")]
    Internal {
        /// What was being done.
        what: &'static str,
        /// Why, where known.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
}

fn scope_name(scope: Scope) -> &'static str {
    match scope {
        Scope::Act => "act",
        Scope::Decide => "decide",
    }
}

impl IdentityError {
    /// All codes, sorted: one page each.
    pub const CODES: [&str; 32] = [
        "account-changed",
        "account-exists",
        "account-invalid",
        "account-unknown",
        "chain-refused",
        "chain-too-deep",
        "credentials-invalid",
        "demo-refused",
        "enrolment-expired",
        "enrolment-invalid",
        "enrolment-purpose",
        "enrolment-used",
        "identity-unavailable",
        "login-stale",
        "rate-limited",
        "scope-missing",
        "scope-refused",
        "scope-unknown",
        "second-factor-in-force",
        "second-factor-refused",
        "second-factor-required",
        "second-factor-unknown",
        "token-expired",
        "token-malformed",
        "token-missing",
        "token-not-yet-valid",
        "token-revoked",
        "token-signature-invalid",
        "token-wrong-audience",
        "token-wrong-issuer",
        "weak-secret",
        "wrong-organization",
    ];

    /// The stable kebab-case code: the last part of the problem's `type`, the label of the metric.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TokenMissing => "token-missing",
            Self::TokenMalformed { .. } => "token-malformed",
            Self::TokenSignatureInvalid => "token-signature-invalid",
            Self::TokenExpired => "token-expired",
            Self::TokenNotYetValid => "token-not-yet-valid",
            Self::TokenRevoked => "token-revoked",
            Self::TokenWrongAudience => "token-wrong-audience",
            Self::TokenWrongIssuer => "token-wrong-issuer",
            Self::CredentialsInvalid => "credentials-invalid",
            Self::SecondFactorRequired { .. } => "second-factor-required",
            Self::LoginStale => "login-stale",
            Self::SecondFactorRefused { .. } => "second-factor-refused",
            Self::SecondFactorInForce(_) => "second-factor-in-force",
            Self::SecondFactorUnknown { .. } => "second-factor-unknown",
            Self::EnrolmentInvalid => "enrolment-invalid",
            Self::EnrolmentUsed => "enrolment-used",
            Self::EnrolmentExpired => "enrolment-expired",
            Self::EnrolmentPurpose { .. } => "enrolment-purpose",
            Self::ScopeMissing(_) => "scope-missing",
            Self::ScopeRefused { .. } => "scope-refused",
            Self::ScopeUnknown(_) => "scope-unknown",
            Self::ChainTooDeep { .. } => "chain-too-deep",
            Self::ChainRefused { .. } => "chain-refused",
            Self::WrongOrganization => "wrong-organization",
            Self::RateLimited(_) => "rate-limited",
            Self::WeakSecret { .. } => "weak-secret",
            Self::Invalid { .. } => "account-invalid",
            Self::AccountUnknown(_) => "account-unknown",
            Self::AccountExists(_) => "account-exists",
            Self::AccountChanged(_) => "account-changed",
            Self::DemoRefused => "demo-refused",
            Self::Store(_) | Self::Entropy(_) | Self::Internal { .. } => "identity-unavailable",
        }
    }

    /// The sort of fault.
    pub fn fault(&self) -> Fault {
        match self {
            Self::TokenMissing
            | Self::TokenMalformed { .. }
            | Self::TokenSignatureInvalid
            | Self::TokenExpired
            | Self::TokenNotYetValid
            | Self::TokenRevoked
            | Self::TokenWrongAudience
            | Self::TokenWrongIssuer
            | Self::CredentialsInvalid
            | Self::SecondFactorRequired { .. }
            | Self::SecondFactorRefused { .. }
            | Self::EnrolmentInvalid
            | Self::EnrolmentUsed
            | Self::EnrolmentExpired
            | Self::DemoRefused => Fault::Unauthenticated,
            Self::LoginStale
            | Self::ScopeMissing(_)
            | Self::ScopeRefused { .. }
            | Self::ChainRefused { .. }
            | Self::WrongOrganization => Fault::Forbidden,
            Self::EnrolmentPurpose { .. }
            | Self::ScopeUnknown(_)
            | Self::ChainTooDeep { .. }
            | Self::WeakSecret { .. }
            | Self::Invalid { .. }
            | Self::AccountUnknown(_) => Fault::Invalid,
            Self::AccountExists(_)
            | Self::AccountChanged(_)
            | Self::SecondFactorInForce(_)
            | Self::SecondFactorUnknown { .. } => Fault::Conflict,
            Self::RateLimited(_) => Fault::TooMany,
            Self::Store(_) | Self::Entropy(_) | Self::Internal { .. } => Fault::Unavailable,
        }
    }

    pub(crate) fn malformed(reason: &'static str) -> Self {
        Self::TokenMalformed { reason }
    }

    pub(crate) fn internal(what: &'static str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Internal { what, source: Some(source.into()) }
    }
}

#[cfg(test)]
mod tests {
    use countersign_gateway_model::Duration;

    use super::*;

    #[test]
    fn every_code_is_kebab_case_and_every_text_is_lower_case() {
        let all = [
            IdentityError::TokenMissing,
            IdentityError::malformed("x"),
            IdentityError::TokenSignatureInvalid,
            IdentityError::TokenExpired,
            IdentityError::TokenNotYetValid,
            IdentityError::TokenRevoked,
            IdentityError::TokenWrongAudience,
            IdentityError::TokenWrongIssuer,
            IdentityError::CredentialsInvalid,
            IdentityError::EnrolmentInvalid,
            IdentityError::EnrolmentUsed,
            IdentityError::EnrolmentExpired,
            IdentityError::EnrolmentPurpose { purpose: "a person" },
            IdentityError::ScopeMissing(Scope::Decide),
            IdentityError::ScopeRefused { scope: Scope::Decide, reason: "x" },
            IdentityError::ScopeUnknown("x".into()),
            IdentityError::SecondFactorInForce("ada".into()),
            IdentityError::SecondFactorRefused { reason: "x" },
            IdentityError::SecondFactorRequired { reason: "x" },
            IdentityError::LoginStale,
            IdentityError::SecondFactorUnknown { what: "x" },
            IdentityError::ChainTooDeep { max: 8 },
            IdentityError::ChainRefused { reason: "x" },
            IdentityError::WrongOrganization,
            IdentityError::RateLimited(RateLimited {
                retry_after: Duration(1),
                limit: 1,
                remaining: 0,
                reset: Duration(1),
            }),
            IdentityError::WeakSecret { name: "a".into(), problem: "is empty", fix: "set it" },
            IdentityError::Invalid { field: "a", problem: "is empty" },
            IdentityError::AccountUnknown("a".into()),
            IdentityError::AccountExists("a".into()),
            IdentityError::AccountChanged("a".into()),
            IdentityError::DemoRefused,
            IdentityError::Internal { what: "hashing", source: None },
        ];
        let mut codes: Vec<_> = all.iter().map(IdentityError::code).collect();
        for (error, code) in all.iter().zip(&codes) {
            assert!(code.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{code}");
            assert!(!error.to_string().starts_with(char::is_uppercase), "{error}");
        }
        codes.sort_unstable();
        assert_eq!(codes, IdentityError::CODES);
    }
}
