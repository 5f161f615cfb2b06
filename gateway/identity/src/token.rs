//! How tokens come to be: login, client credentials, consent and exchange. Every grant is short and says what it is for.
//!
//! | grant | who | scopes | longest life |
//! |---|---|---|---|
//! | login with password | a person | `act`; `decide` where asked for | `person_life`; 15 minutes with `decide` |
//! | demo | the demo's person | the same | the same |
//! | client credentials | an agent or service | `act` | `machine_life` |
//! | consent | a person, or an agent for others down the chain | none: names who may use it | `consent_life` |
//! | exchange of a consent | the agent it names | `act` | `machine_life`, never past the consent |
//!
//! `decide` comes of a password (or the demo) given for it, never of another token. Absent: HTTP forms, who may consent to
//! what (policy asks each delegator at each action). Read next: `claims`, `authenticate`.

use std::sync::Arc;

use countersign_gateway_model::{Assurance, Duration, Name, OrgId, PrincipalKind, Scope, Timestamp};

use crate::accounts::{self, RecordKind, Versioned};
use crate::attempts::Attempts;
use crate::authenticate::DECIDE_RULE;
use crate::claims::{scopes_from_text, scopes_to_text};
use crate::directory::minted;
use crate::entropy::hex128;
use crate::password::Passwords;
use crate::session::ChainLink;
use crate::{
    Accounts, Authenticator, Directory, EdDsaVerifier, Entropy, IdentityConfig, IdentityError, PersonRecord, Secret,
    ServiceAccountRecord, Session, Subject, TokenVerifier as _, VerifiedToken, chain,
};

/// The longest life of a token with scope `decide`.
pub const DECIDE_LIFE: Duration = Duration::from_secs(15 * 60);

/// What a granted token is (RFC 8693 section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// An access token.
    Access,
    /// A consent: to be exchanged by the agent it names, good for nothing else.
    Consent,
}

impl TokenKind {
    /// The token type identifier.
    pub fn urn(self) -> &'static str {
        match self {
            Self::Access => "urn:ietf:params:oauth:token-type:access_token",
            Self::Consent => "urn:countersign:token-type:consent",
        }
    }
}

/// A token, as the token endpoint answers it.
#[derive(Clone, Debug)]
pub struct TokenGrant {
    /// The token; shown once.
    pub token: Secret,
    /// What it is.
    pub kind: TokenKind,
    /// Its id: what to revoke.
    pub id: Name,
    /// Who it speaks for.
    pub subject: Subject,
    /// What it may be used for; empty for a consent.
    pub scopes: Vec<Scope>,
    /// When it was issued.
    pub issued: Timestamp,
    /// Until when it holds, exclusive; whole seconds.
    pub expires: Timestamp,
}

impl TokenGrant {
    /// `expires_in` of RFC 6749: whole seconds from its issue.
    pub fn expires_in(&self) -> u64 {
        self.expires.since(self.issued).0 / 1000
    }

    /// `scope` of RFC 6749.
    pub fn scope(&self) -> String {
        scopes_to_text(&self.scopes)
    }
}

/// The logic of the token endpoint.
pub struct TokenService {
    config: IdentityConfig,
    accounts: Arc<dyn Accounts>,
    entropy: Arc<dyn Entropy>,
    signer: EdDsaVerifier,
    authenticator: Arc<Authenticator>,
    directory: Arc<Directory>,
    passwords: Arc<Passwords>,
    attempts: Attempts,
}

impl std::fmt::Debug for TokenService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenService").field("config", &self.config).finish_non_exhaustive()
    }
}

/// What a new token is to say.
struct Terms {
    org: OrgId,
    subject: Subject,
    scopes: Vec<Scope>,
    life: Duration,
    /// Not later than this.
    until: Timestamp,
    chain: Vec<ChainLink>,
    assurance: Assurance,
    method: &'static str,
    credential: Name,
    may_act: Option<Subject>,
}

impl TokenService {
    #[expect(clippy::too_many_arguments, reason = "called once, where the room is put together")]
    pub(crate) fn new(
        config: IdentityConfig,
        accounts: Arc<dyn Accounts>,
        entropy: Arc<dyn Entropy>,
        signer: EdDsaVerifier,
        authenticator: Arc<Authenticator>,
        directory: Arc<Directory>,
        passwords: Arc<Passwords>,
        attempts: Attempts,
    ) -> Self {
        Self { config, accounts, entropy, signer, authenticator, directory, passwords, attempts }
    }

    /// A person's login. `scope` is space-separated, `act` where it is empty; with `decide` the token lives 15 minutes at
    /// most. An unknown name, a wrong password and a disabled account are one answer, after the same work.
    pub async fn login(
        &self,
        org: OrgId,
        id: &str,
        password: &Secret,
        scope: &str,
        now: Timestamp,
    ) -> Result<TokenGrant, IdentityError> {
        let scopes = asked(scope)?;
        self.attempts.count(org, id)?;
        let person = match Name::new(id) {
            Ok(id) => self.directory.person(org, &id).await?,
            Err(_) => None,
        };
        let stored = person.as_ref().and_then(|person| person.password.as_deref());
        let holds = self.passwords.verify(password, stored).await?;
        match person.filter(|person| holds && !person.disabled && !person.demo) {
            Some(person) => self.grant_person(person, scopes, Assurance::Password, "pwd", now),
            None => Err(IdentityError::CredentialsInvalid),
        }
    }

    /// A token for the stand-in human of a demo: refused unless this gateway's log is marked demo and the person is too.
    pub async fn demo_login(
        &self,
        org: OrgId,
        id: &Name,
        scope: &str,
        now: Timestamp,
    ) -> Result<TokenGrant, IdentityError> {
        if !self.config.demo {
            return Err(IdentityError::DemoRefused);
        }
        let scopes = asked(scope)?;
        match self.directory.person(org, id).await?.filter(|person| person.demo && !person.disabled) {
            Some(person) => self.grant_person(person, scopes, Assurance::Demo, "demo", now),
            None => Err(IdentityError::DemoRefused),
        }
    }

    /// A token for the agent or service that a client id is bound to (RFC 6749 section 4.4). Never with `decide`.
    /// An unknown client id, a wrong secret and a disabled account are one answer.
    pub async fn exchange_client_credentials(
        &self,
        client_id: &str,
        secret: &Secret,
        scope: &str,
        now: Timestamp,
    ) -> Result<TokenGrant, IdentityError> {
        let scopes = asked(scope)?;
        if scopes.contains(&Scope::Decide) {
            return Err(decide_refused());
        }
        let record = match Name::new(client_id) {
            Ok(client_id) => self.service_account(&client_id).await?,
            Err(_) => None,
        };
        let stored = record.as_ref().map_or(countersign_gateway_model::Digest([0; 32]), |record| record.secret);
        // Compared in every case, so that a known client id takes no longer than an unknown one.
        let matches = secret.matches(&stored);
        let record = record.filter(|record| matches && record.is_live(now)).ok_or(IdentityError::CredentialsInvalid)?;
        let credential = record.credential().ok_or(IdentityError::CredentialsInvalid)?;
        // The agent or service itself may be disabled.
        match self.authenticator.account(record.org, &record.bound_to, Some(&credential), now).await {
            Ok(_) => {}
            Err(IdentityError::TokenRevoked) => return Err(IdentityError::CredentialsInvalid),
            Err(error) => return Err(error),
        }
        self.grant(
            Terms {
                org: record.org,
                subject: record.bound_to,
                scopes,
                life: self.config.machine_life,
                until: record.expires.unwrap_or(Timestamp(u64::MAX)),
                chain: Vec::new(),
                assurance: Assurance::Secret,
                method: "client_secret",
                credential,
                may_act: None,
            },
            now,
        )
    }

    /// The holder of `session` lends their authority to `agent`: a consent that only this agent can exchange.
    /// An agent that acts for others passes its chain on. Consents of agents end with the agent's own token.
    pub async fn consent(
        &self,
        session: &Session,
        agent: &Name,
        life: Option<Duration>,
        now: Timestamp,
    ) -> Result<TokenGrant, IdentityError> {
        session.require(Scope::Act)?;
        let to = Subject::agent(agent.clone());
        let org = session.principal.org;
        if self.directory.agent(org, agent).await?.is_none_or(|agent| agent.disabled) {
            return Err(IdentityError::AccountUnknown(to.to_string()));
        }
        let credential = session.credential.clone();
        let credential =
            credential.ok_or(IdentityError::ChainRefused { reason: "a consent needs a credential of this gateway" })?;
        let own = ChainLink {
            subject: session.subject.clone(),
            token: session.token.clone(),
            credential: credential.clone(),
        };
        // Only to refuse early what the exchange would refuse.
        chain::extend(&session.chain, own, &to)?;
        let until = match session.subject.kind() {
            PrincipalKind::Person => Timestamp(u64::MAX),
            _ => session.principal.expires,
        };
        self.grant(
            Terms {
                org,
                subject: session.subject.clone(),
                scopes: Vec::new(),
                life: life.map_or(self.config.consent_life, |life| life.min(self.config.consent_life)),
                until,
                chain: session.chain.clone(),
                assurance: session.principal.assurance,
                method: "consent",
                credential,
                may_act: Some(to),
            },
            now,
        )
    }

    /// The agent of `session` takes up a consent that names it: a token with the chain, outermost first, and the
    /// delegator at its end. The consent must still hold, and everyone in it.
    pub async fn exchange_on_behalf(
        &self,
        session: &Session,
        consent: &Secret,
        now: Timestamp,
    ) -> Result<TokenGrant, IdentityError> {
        session.require(Scope::Act)?;
        let (consent, may_act) = self.signer.consent(consent.expose(), now)?;
        self.authenticator.check_times(&consent, now)?;
        if consent.org != session.principal.org {
            return Err(IdentityError::WrongOrganization);
        }
        if may_act != session.subject {
            return Err(IdentityError::ChainRefused { reason: "the consent names another agent" });
        }
        if !session.chain.is_empty() {
            return Err(IdentityError::ChainRefused { reason: "the agent acts for others already; use its own token" });
        }
        if self.authenticator.is_revoked(&consent) {
            return Err(IdentityError::TokenRevoked);
        }
        if consent.assurance == Assurance::Demo && !self.config.demo {
            return Err(IdentityError::DemoRefused);
        }
        self.authenticator.account(consent.org, &consent.subject, consent.credential.as_ref(), now).await?;
        self.authenticator.delegators(&consent, now).await?;
        let given_with = consent.credential.clone().ok_or(IdentityError::TokenRevoked)?;
        let own = ChainLink { subject: consent.subject, token: consent.token, credential: given_with };
        let chain = chain::extend(&consent.chain, own, &session.subject)?;
        let credential = session.credential.clone();
        let credential =
            credential.ok_or(IdentityError::ChainRefused { reason: "the agent needs a credential of this gateway" })?;
        self.grant(
            Terms {
                org: consent.org,
                subject: session.subject.clone(),
                scopes: vec![Scope::Act],
                life: self.config.machine_life,
                until: consent.expires,
                chain,
                assurance: Assurance::Secret,
                method: "client_secret",
                credential,
                may_act: None,
            },
            now,
        )
    }

    fn grant_person(
        &self,
        person: PersonRecord,
        scopes: Vec<Scope>,
        assurance: Assurance,
        method: &'static str,
        now: Timestamp,
    ) -> Result<TokenGrant, IdentityError> {
        let life = if scopes.contains(&Scope::Decide) {
            self.config.person_life.min(DECIDE_LIFE)
        } else {
            self.config.person_life
        };
        self.grant(
            Terms {
                org: person.org,
                subject: Subject::person(person.id),
                scopes,
                life,
                until: Timestamp(u64::MAX),
                chain: Vec::new(),
                assurance,
                method,
                credential: person.credential,
                may_act: None,
            },
            now,
        )
    }

    /// The one place where tokens are signed.
    fn grant(&self, terms: Terms, now: Timestamp) -> Result<TokenGrant, IdentityError> {
        let decides = terms.scopes.contains(&Scope::Decide);
        let own_login = terms.subject.kind() == PrincipalKind::Person && terms.chain.is_empty();
        if decides && !(own_login && terms.may_act.is_none() && terms.life <= DECIDE_LIFE) {
            return Err(decide_refused());
        }
        let end = (now + terms.life).min(terms.until);
        let expires = Timestamp(end.0 / 1000 * 1000);
        if expires <= now {
            return Err(IdentityError::TokenExpired);
        }
        let id = minted(&format!("tok_{}", hex128(&*self.entropy)?))?;
        let says = VerifiedToken {
            issuer: self.signer.issuer().to_owned(),
            token: id.clone(),
            subject: terms.subject.clone(),
            org: terms.org,
            issued: now,
            not_before: now,
            expires,
            scopes: terms.scopes.clone(),
            chain: terms.chain,
            assurance: terms.assurance,
            methods: vec![minted(terms.method)?],
            credential: Some(terms.credential),
        };
        let token = self.signer.issue(&says, terms.may_act.as_ref())?;
        let kind = if terms.may_act.is_some() { TokenKind::Consent } else { TokenKind::Access };
        let (subject, scopes) = (terms.subject, terms.scopes);
        Ok(TokenGrant { token: Secret::new(token), kind, id, subject, scopes, issued: now, expires })
    }

    async fn service_account(&self, client_id: &Name) -> Result<Option<ServiceAccountRecord>, IdentityError> {
        let Some((key, stored)) = self.accounts.find(RecordKind::ServiceAccount, client_id.as_str()).await? else {
            return Ok(None);
        };
        let found: Versioned<ServiceAccountRecord> = accounts::decode(&key, &stored)?;
        Ok(Some(found.record).filter(|record| record.org == key.org))
    }
}

/// The scopes asked for; `act` where none is.
fn asked(scope: &str) -> Result<Vec<Scope>, IdentityError> {
    let scopes = scopes_from_text(scope)?;
    Ok(if scopes.is_empty() { vec![Scope::Act] } else { scopes })
}

fn decide_refused() -> IdentityError {
    IdentityError::ScopeRefused { scope: Scope::Decide, reason: DECIDE_RULE }
}
