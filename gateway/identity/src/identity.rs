//! How the parts of this room are put together, and what the program sets.
//!
//! Absent: files and the environment. Read next: `authenticate`.

use std::sync::Arc;

use countersign_gateway_model::{Duration, Timestamp};

use crate::attempts::Attempts;
use crate::cache::Sessions;
use crate::limit::Ticks;
use crate::password::Passwords;
use crate::{
    Accounts, Authenticator, DECIDE_LIFE, Directory, EdDsaVerifier, Enrolments, Entropy, IdentityError, RecordKind,
    Revocation, SecondFactors, TokenKeys, TokenService, TokenVerifier, accounts,
};

const MAX_MACHINE_LIFE: Duration = Duration::from_secs(60 * 60);
const MAX_PERSON_LIFE: Duration = Duration::from_secs(12 * 60 * 60);
const MAX_CONSENT_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// What the program sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityConfig {
    /// `iss` of this installation's tokens.
    pub issuer: String,
    /// `aud` of this installation's tokens: nobody else's are accepted.
    pub audience: String,
    /// Life of agents' and services' tokens: 15 minutes, at most an hour.
    pub machine_life: Duration,
    /// Life of persons' tokens with scope `act`: an hour, at most twelve. With `decide` it is [`DECIDE_LIFE`] at most.
    pub person_life: Duration,
    /// Longest life of persons' tokens with scope `decide`: [`DECIDE_LIFE`], and no more than that.
    pub decide_life: Duration,
    /// Longest life of a consent: 8 hours, at most 24.
    pub consent_life: Duration,
    /// Sessions cached: 16,384, about 1 KiB each.
    pub cache_capacity: usize,
    /// The log is marked demo: demo persons exist and are believed.
    pub demo: bool,
}

impl IdentityConfig {
    /// The defaults, for an issuer and an audience.
    pub fn new(issuer: impl Into<String>, audience: impl Into<String>) -> Self {
        Self {
            issuer: issuer.into(),
            audience: audience.into(),
            machine_life: Duration::from_secs(15 * 60),
            person_life: Duration::from_secs(60 * 60),
            decide_life: DECIDE_LIFE,
            consent_life: Duration::from_secs(8 * 60 * 60),
            cache_capacity: 16_384,
            demo: false,
        }
    }

    fn check(&self) -> Result<(), IdentityError> {
        let refuse = |field, problem| Err(IdentityError::Invalid { field, problem });
        for (field, value) in [("issuer", &self.issuer), ("audience", &self.audience)] {
            if value.is_empty() || value.len() > 200 {
                return refuse(field, "must have 1 to 200 bytes");
            }
        }
        for (field, life, most, problem) in [
            ("machine_life", self.machine_life, MAX_MACHINE_LIFE, "must be 1 s to 1 h"),
            ("person_life", self.person_life, MAX_PERSON_LIFE, "must be 1 s to 12 h"),
            ("decide_life", self.decide_life, DECIDE_LIFE, "must be 1 s to 15 min"),
            ("consent_life", self.consent_life, MAX_CONSENT_LIFE, "must be 1 s to 24 h"),
        ] {
            if life < Duration::from_secs(1) || life > most {
                return refuse(field, problem);
            }
        }
        Ok(())
    }

    /// No token of this installation lives longer.
    fn longest(&self) -> Duration {
        self.machine_life.max(self.person_life).max(self.consent_life).max(DECIDE_LIFE)
    }
}

/// What a sweep deleted from the vault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Revocations that can hit nothing any more.
    pub revocations: usize,
    /// Enrolments that ended a day ago.
    pub enrolments: usize,
    /// Second factors that were begun, and whose first code never came.
    pub second_factors: usize,
}

/// The parts of this room over one vault of accounts.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Tokens to principals.
    pub authenticator: Arc<Authenticator>,
    /// Credentials to tokens.
    pub tokens: Arc<TokenService>,
    /// Who exists.
    pub directory: Arc<Directory>,
    /// How the first come in.
    pub enrolments: Arc<Enrolments>,
    /// What persons have beside their password.
    pub second_factors: Arc<SecondFactors>,
    vault: Vault,
}

#[derive(Clone)]
struct Vault(Arc<dyn Accounts>, Arc<Sessions>);

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Vault")
    }
}

impl Identity {
    /// Puts the parts together and loads the live revocations. `others` verify tokens of other issuers.
    pub async fn open(
        config: IdentityConfig,
        accounts: Arc<dyn Accounts>,
        entropy: Arc<dyn Entropy>,
        keys: Arc<TokenKeys>,
        others: Vec<Arc<dyn TokenVerifier>>,
        now: Timestamp,
    ) -> Result<Self, IdentityError> {
        config.check()?;
        let own = EdDsaVerifier::new(keys, config.issuer.clone(), config.audience.clone());
        let mut verifiers: Vec<Arc<dyn TokenVerifier>> = others;
        if verifiers.iter().any(|other| other.issuer() == config.issuer) {
            return Err(IdentityError::Invalid { field: "issuer", problem: "is the one of another verifier" });
        }
        verifiers.push(Arc::new(own.clone()));
        let sessions = Arc::new(Sessions::new(config.cache_capacity));
        let passwords = Arc::new(Passwords::new());
        let authenticator = Arc::new(Authenticator::new(
            Arc::clone(&accounts),
            verifiers,
            Arc::clone(&sessions),
            config.longest(),
            config.demo,
        ));
        authenticator.load(now).await?;
        let directory = Arc::new(Directory::new(
            Arc::clone(&accounts),
            Arc::clone(&entropy),
            Arc::clone(&sessions),
            Arc::clone(&passwords),
        ));
        let enrolments = Arc::new(Enrolments::new(Arc::clone(&accounts), Arc::clone(&entropy), Arc::clone(&directory)));
        let second_factors = Arc::new(SecondFactors::new(
            Arc::clone(&accounts),
            Arc::clone(&entropy),
            Arc::clone(&sessions),
            Arc::clone(&directory),
            Attempts::of_codes(Ticks::monotonic()),
        ));
        let tokens = Arc::new(TokenService::new(
            config,
            Arc::clone(&accounts),
            entropy,
            own,
            Arc::clone(&authenticator),
            Arc::clone(&directory),
            Arc::clone(&second_factors),
            passwords,
            Attempts::new(Ticks::monotonic()),
        ));
        Ok(Self { authenticator, tokens, directory, enrolments, second_factors, vault: Vault(accounts, sessions) })
    }

    /// Drops what has ended, from memory and from the vault: once a minute is often enough.
    pub async fn sweep(&self, now: Timestamp) -> Result<Swept, IdentityError> {
        let Vault(accounts, sessions) = &self.vault;
        sessions.sweep(now);
        let revocations =
            accounts::sweep(&**accounts, RecordKind::Revocation, |revocation: &Revocation| revocation.until <= now)
                .await?;
        let enrolments = self.enrolments.sweep(now).await?;
        let second_factors = self.second_factors.sweep(now).await?;
        Ok(Swept { revocations, enrolments, second_factors })
    }
}
