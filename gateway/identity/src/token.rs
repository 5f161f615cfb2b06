//! How tokens come to be: login, client credentials, consent and exchange. Every grant is short and says what it is
//! for.
//!
//! | grant | who | scopes | longest life |
//! |---|---|---|---|
//! | login with password, and a code where there is a second factor | a person | `act`; `decide` where asked for | `person_life`; 15 minutes with `decide` |
//! | demo | the demo's person | the same | the same |
//! | client credentials | an agent or service | `act` | `machine_life` |
//! | consent | a person, or an agent for others down the chain | none: names who may use it | `consent_life` |
//! | exchange of a consent | the agent it names | `act` | `machine_life`, never past the consent or its own token |
//!
//! `decide` comes of a password (or the demo) given for it, never of another token; so does what a second factor is worth:
//! no token that a machine has, whoever stands behind it, says `mfa`. Absent: HTTP forms, who may consent
//! to what (policy asks each delegator at each action). Read next: `claims`, `authenticate`.

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
    Accounts, Authenticator, Directory, EdDsaVerifier, Entropy, IdentityConfig, IdentityError, PersonRecord,
    SecondFactors, Secret, ServiceAccountRecord, Session, Subject, TokenVerifier as _, VerifiedToken, chain,
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
    second_factors: Arc<SecondFactors>,
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
    methods: &'static [&'static str],
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
        second_factors: Arc<SecondFactors>,
        passwords: Arc<Passwords>,
        attempts: Attempts,
    ) -> Self {
        Self { config, accounts, entropy, signer, authenticator, directory, second_factors, passwords, attempts }
    }

    /// A person's login. `scope` is space-separated, `act` where it is empty; with `decide` the token lives 15 minutes
    /// at most. An unknown name, a wrong password and a disabled account are one answer, after the same work. Whoever has a
    /// second factor gives its code, too: the token says so.
    pub async fn login(
        &self,
        org: OrgId,
        id: &str,
        (password, code): (&Secret, Option<&Secret>),
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
            Some(person) => {
                let used = self.second_factors.spend(org, &person.id, code, now).await?;
                self.attempts.forgive(org, id);
                let how =
                    if used { (Assurance::Mfa, &["pwd", "otp"][..]) } else { (Assurance::Password, &["pwd"][..]) };
                self.grant_person(person, scopes, how, now)
            }
            None => Err(IdentityError::CredentialsInvalid),
        }
    }

    /// Lets a test try as often as it likes.
    #[cfg(test)]
    pub(crate) fn forgive_passwords(&self, org: OrgId, id: &str) {
        self.attempts.forgive(org, id);
    }

    /// Whether this is the person's password: asked of those who are about to replace it. Guesses are slowed down with those
    /// at the login.
    ///
    /// # Errors
    /// [`IdentityError::CredentialsInvalid`] where it is not.
    pub async fn confirm(&self, org: OrgId, id: &Name, password: &Secret) -> Result<(), IdentityError> {
        self.attempts.count(org, id.as_str())?;
        let person = self.directory.person(org, id).await?;
        let stored = person.as_ref().and_then(|person| person.password.as_deref());
        let holds = self.passwords.verify(password, stored).await?;
        if person.is_some_and(|person| holds && !person.disabled && !person.demo) {
            self.attempts.forgive(org, id.as_str());
            Ok(())
        } else {
            Err(IdentityError::CredentialsInvalid)
        }
    }

    /// A token for the stand-in human of a demo: refused unless this gateway's log is marked demo and the person is
    /// too.
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
            Some(person) => self.grant_person(person, scopes, (Assurance::Demo, &["demo"]), now),
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
                methods: &["client_secret"],
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
                methods: &["consent"],
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
                until: consent.expires.min(session.principal.expires),
                chain,
                assurance: Assurance::Secret,
                methods: &["client_secret"],
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
        (assurance, methods): (Assurance, &'static [&'static str]),
        now: Timestamp,
    ) -> Result<TokenGrant, IdentityError> {
        let life = if scopes.contains(&Scope::Decide) {
            self.config.person_life.min(self.config.decide_life)
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
                methods,
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
            methods: terms.methods.iter().map(|method| minted(method)).collect::<Result<_, _>>()?,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{MINUTE, PASSWORD, START, World, ada, after, bearer, name, new_person};
    use crate::{MAX_CHAIN_DEPTH, PersonChange, RevocationTarget};

    fn code<T>(result: Result<T, IdentityError>) -> &'static str {
        result.map_or_else(|error| error.code(), |_| "ok")
    }

    #[tokio::test]
    async fn every_refused_login_is_one_answer_after_the_same_work() {
        let world = World::new().await;
        world.person("ada").await;
        world.person("gone").await;
        let disable = PersonChange { disabled: Some(true), ..PersonChange::default() };
        world.identity.directory.change_person(world.org, &name("gone"), disable).await.unwrap();
        world.identity.directory.create_person(world.org, new_person("keyless"), None, START).await.unwrap();
        let tokens = &world.identity.tokens;
        let elsewhere = OrgId::from_bytes([9; 16]);
        for (org, id, password, expected) in [
            (world.org, "ada", PASSWORD, "ok"),
            (world.org, "ada", "wrong password at all", "credentials-invalid"),
            (world.org, "ada", "", "credentials-invalid"),
            (world.org, "nobody", PASSWORD, "credentials-invalid"),
            (world.org, "not a name", PASSWORD, "credentials-invalid"),
            (world.org, "", PASSWORD, "credentials-invalid"),
            (world.org, "gone", PASSWORD, "credentials-invalid"),
            (world.org, "keyless", PASSWORD, "credentials-invalid"),
            (world.org, "keyless", "", "credentials-invalid"),
            (elsewhere, "ada", PASSWORD, "credentials-invalid"),
        ] {
            let before = tokens.passwords.computed();
            let got = tokens.login(org, id, (&Secret::new(password), None), "", START).await;
            assert_eq!(code(got), expected, "{id}");
            assert_eq!(tokens.passwords.computed(), before + 1, "the work for `{id}` differs");
        }
    }

    #[tokio::test]
    async fn guessing_is_slowed_down_also_for_names_that_do_not_exist() {
        let world = World::new().await;
        let wrong = Secret::new("wrong password at all");
        let mut codes = Vec::new();
        for _ in 0..11 {
            codes.push(code(world.identity.tokens.login(world.org, "nobody", (&wrong, None), "", START).await));
        }
        assert_eq!(codes.pop(), Some("rate-limited"));
        assert!(codes.iter().all(|code| *code == "credentials-invalid"));
    }

    #[tokio::test]
    async fn whoever_knows_the_password_is_not_slowed_down() {
        let world = World::new().await;
        world.person("ada").await;
        for _ in 0..15 {
            world.login("ada", "", START).await;
        }
    }

    #[tokio::test]
    async fn decide_is_for_a_persons_own_login_and_lives_fifteen_minutes() {
        let world = World::new().await;
        world.person("ada").await;
        let (agent, service) = (world.agent("fixer").await, world.service("ci").await);

        let act = world.login("ada", "", START).await;
        assert_eq!((act.scope().as_str(), act.expires_in()), ("act", 3599));
        assert!(!world.session(&act, START).await.unwrap().principal.has(Scope::Decide));
        for scope in ["decide", "act decide", "decide act decide"] {
            let grant = world.login("ada", scope, START).await;
            assert!(grant.expires.since(START) <= DECIDE_LIFE);
            let principal = world.session(&grant, START).await.unwrap().principal.clone();
            assert!(principal.has(Scope::Decide));
            assert_eq!(world.code(&grant, after(15 * MINUTE)).await, "token-expired");
        }
        for (client, secret) in [&agent, &service] {
            for scope in ["decide", "act decide"] {
                let id = client.client_id.as_str();
                let got = world.identity.tokens.exchange_client_credentials(id, secret, scope, START).await;
                assert_eq!(code(got), "scope-refused");
            }
        }
        assert_eq!(
            code(world.identity.tokens.login(world.org, "ada", (&Secret::new(PASSWORD), None), "root", START).await),
            "scope-unknown"
        );
    }

    #[tokio::test]
    async fn client_credentials_give_the_agent_or_service_they_are_bound_to() {
        let world = World::new().await;
        world.person("ada").await;
        let (agent, service) = (world.agent("fixer").await, world.service("ci").await);
        for (client, subject) in [(&agent, "agent:fixer"), (&service, "service:ci")] {
            let grant = world.exchange(client, START).await;
            assert_eq!(grant.subject.to_string(), subject);
            assert!(grant.expires_in() <= 15 * MINUTE);
            let session = world.session(&grant, START).await.unwrap();
            assert_eq!(session.subject.to_string(), subject);
            assert_eq!(session.principal.assurance, Assurance::Secret);
            assert_eq!(session.principal.person, None);
            assert_eq!(session.credential, client.0.credential());
        }
        let tokens = &world.identity.tokens;
        let id = agent.0.client_id.as_str();
        for (client, secret) in [
            (id, service.1.clone()),
            (id, Secret::new("")),
            (id, Secret::new(format!("{}x", agent.1.expose()))),
            ("client_00000000000000000000000000000000", agent.1.clone()),
            ("not a name", agent.1.clone()),
        ] {
            let got = tokens.exchange_client_credentials(client, &secret, "", START).await;
            assert_eq!(code(got), "credentials-invalid", "{client}");
        }
        let disabled = world.identity.directory.disable_service_account(world.org, &agent.0.client_id, true).await;
        assert!(disabled.unwrap().disabled);
        let got = tokens.exchange_client_credentials(id, &agent.1, "", START).await;
        assert_eq!(code(got), "credentials-invalid");
    }

    #[tokio::test]
    async fn a_service_account_ends_when_it_was_to_end_and_its_tokens_not_later() {
        let world = World::new().await;
        world.person("ada").await;
        world.agent("fixer").await;
        let fixer = Subject::agent(name("fixer"));
        let directory = &world.identity.directory;
        let client =
            directory.create_service_account(world.org, fixer, ada(), Some(after(MINUTE)), START).await.unwrap();
        let grant = world.exchange(&client, START).await;
        assert!(grant.expires <= after(MINUTE));
        let id = client.0.client_id.as_str();
        let late = world.identity.tokens.exchange_client_credentials(id, &client.1, "", after(MINUTE)).await;
        assert_eq!(code(late), "credentials-invalid");
    }

    #[tokio::test]
    async fn a_password_is_confirmed_by_itself_alone_and_guesses_are_slowed_down() {
        let world = World::new().await;
        world.person("ada").await;
        let tokens = &world.identity.tokens;
        let right = Secret::new(crate::testing::PASSWORD);
        tokens.confirm(world.org, &name("ada"), &right).await.unwrap();
        let wrong = Secret::new("something else entirely");
        assert_eq!(code(tokens.confirm(world.org, &name("nobody"), &right).await), "credentials-invalid");
        for _ in 0..10 {
            assert_eq!(code(tokens.confirm(world.org, &name("ada"), &wrong).await), "credentials-invalid");
        }
        assert_eq!(code(tokens.confirm(world.org, &name("ada"), &right).await), "rate-limited");
        assert_eq!(code(tokens.login(world.org, "ada", (&right, None), "", START).await), "rate-limited");
    }

    #[tokio::test]
    async fn the_demo_person_is_believed_in_a_demo_only() {
        let demo = World::with(IdentityConfig { demo: true, ..IdentityConfig::new("iss", "aud") }, Vec::new()).await;
        demo.person("ada").await;
        let human = crate::NewPerson { demo: true, ..new_person("human") };
        demo.identity.directory.create_person(demo.org, human, None, START).await.unwrap();
        let grant = demo.identity.tokens.demo_login(demo.org, &name("human"), "act decide", START).await.unwrap();
        let principal = demo.session(&grant, START).await.unwrap().principal.clone();
        assert_eq!(principal.assurance, Assurance::Demo);
        assert!(principal.has(Scope::Decide) && grant.expires.since(START) <= DECIDE_LIFE);

        let tokens = &demo.identity.tokens;
        assert_eq!(code(tokens.demo_login(demo.org, &name("ada"), "", START).await), "demo-refused");
        assert_eq!(
            code(tokens.login(demo.org, "human", (&Secret::new(""), None), "", START).await),
            "credentials-invalid"
        );
        let password = Secret::new("a long enough password");
        assert_eq!(
            code(demo.identity.directory.set_password(demo.org, &name("human"), &password).await),
            "account-invalid"
        );

        demo.agent("a").await;
        let client = demo.agent("b").await;
        let human = demo.session(&grant, START).await.unwrap();
        let consent = tokens.consent(&human, &name("b"), None, START).await.unwrap();
        let agent = demo.session(&demo.exchange(&client, START).await, START).await.unwrap();
        let acting = tokens.exchange_on_behalf(&agent, &consent.token, START).await.unwrap();
        let further = demo.session(&acting, START).await.unwrap();
        let further = tokens.consent(&further, &name("a"), None, START).await.unwrap();

        // The same vault and keys under a gateway that is no demo.
        let config = IdentityConfig { demo: false, ..demo.config.clone() };
        let accounts = demo.accounts.clone();
        let opened = crate::Identity::open(config, accounts, demo.entropy.clone(), demo.keys.clone(), vec![], START);
        let real = opened.await.unwrap();
        assert_eq!(code(real.authenticator.authenticate(&bearer(&grant), START).await), "demo-refused");
        assert_eq!(code(real.tokens.demo_login(demo.org, &name("human"), "", START).await), "demo-refused");
        assert_eq!(code(real.authenticator.authenticate(&bearer(&acting), START).await), "demo-refused");
        assert_eq!(code(real.tokens.exchange_on_behalf(&agent, &consent.token, START).await), "demo-refused");
        let other = Session { subject: Subject::agent(name("a")), ..Session::clone(&agent) };
        assert_eq!(code(real.tokens.exchange_on_behalf(&other, &further.token, START).await), "demo-refused");
    }

    #[tokio::test]
    async fn an_agent_acts_for_a_person_who_consented_and_passes_the_chain_on() {
        let world = World::new().await;
        world.person("ada").await;
        let (a, b) = (world.agent("a").await, world.agent("b").await);
        let tokens = &world.identity.tokens;
        let ada = world.session(&world.login("ada", "", START).await, START).await.unwrap();
        let own_a = world.session(&world.exchange(&a, START).await, START).await.unwrap();
        let own_b = world.session(&world.exchange(&b, START).await, START).await.unwrap();

        let consent = tokens.consent(&ada, &name("a"), None, START).await.unwrap();
        assert_eq!((consent.kind, consent.scope().as_str()), (TokenKind::Consent, ""));
        assert_eq!(world.code(&consent, START).await, "token-malformed");
        let for_ada = tokens.exchange_on_behalf(&own_a, &consent.token, START).await.unwrap();
        assert_eq!(for_ada.scope(), "act");
        let a_for_ada = world.session(&for_ada, START).await.unwrap();
        let chain = |session: &Session| {
            session.principal.on_behalf_of.iter().map(|d| format!("{:?}:{}", d.kind, d.id)).collect::<Vec<_>>()
        };
        assert_eq!(a_for_ada.subject.to_string(), "agent:a");
        assert_eq!(chain(&a_for_ada), ["Person:ada"]);
        assert_eq!(a_for_ada.principal.on_behalf_of[0].pseudonym, ada.principal.pseudonym);

        let consent = tokens.consent(&a_for_ada, &name("b"), None, START).await.unwrap();
        assert!(consent.expires <= a_for_ada.principal.expires);
        let grant = tokens.exchange_on_behalf(&own_b, &consent.token, START).await.unwrap();
        let b_for_both = world.session(&grant, START).await.unwrap();
        assert_eq!(b_for_both.subject.to_string(), "agent:b");
        assert_eq!(chain(&b_for_both), ["Person:ada", "Agent:a"]);
        assert!(!b_for_both.principal.has(Scope::Decide));
        // The circle back is refused before it is signed.
        assert_eq!(code(tokens.consent(&b_for_both, &name("a"), None, START).await), "chain-refused");
    }

    #[tokio::test]
    async fn a_delegation_that_does_not_hold_is_refused() {
        let world = World::new().await;
        world.person("ada").await;
        let (a, b, ci) = (world.agent("a").await, world.agent("b").await, world.service("ci").await);
        let tokens = &world.identity.tokens;
        let login = world.login("ada", "", START).await;
        let ada = world.session(&login, START).await.unwrap();
        let own_a = world.session(&world.exchange(&a, START).await, START).await.unwrap();
        let own_b = world.session(&world.exchange(&b, START).await, START).await.unwrap();
        let ci = world.session(&world.exchange(&ci, START).await, START).await.unwrap();
        let decide_only = world.session(&world.login("ada", "decide", START).await, START).await.unwrap();
        let consent = tokens.consent(&ada, &name("a"), Some(Duration::from_secs(600)), START).await.unwrap();

        for (session, to, expected) in [
            (&ada, "nobody", "account-unknown"),
            (&ada, "ci", "account-unknown"),
            (&own_a, "a", "chain-refused"),
            (&ci, "a", "chain-refused"),
            (&decide_only, "a", "scope-missing"),
        ] {
            assert_eq!(code(tokens.consent(session, &name(to), None, START).await), expected, "{to}");
        }
        for (session, token, now, expected) in [
            (&own_b, &consent.token, START, "chain-refused"),
            (&ada, &consent.token, START, "chain-refused"),
            (&decide_only, &consent.token, START, "scope-missing"),
            (&own_a, &login.token, START, "token-malformed"),
            (&own_a, &Secret::new("x.y.z"), START, "token-malformed"),
            (&own_a, &consent.token, after(600), "token-expired"),
        ] {
            assert_eq!(code(tokens.exchange_on_behalf(session, token, now).await), expected);
        }
        let acting = tokens.exchange_on_behalf(&own_a, &consent.token, START).await.unwrap();
        assert!(acting.expires <= consent.expires);
        let acting = world.session(&acting, START).await.unwrap();
        assert_eq!(code(tokens.exchange_on_behalf(&acting, &consent.token, START).await), "chain-refused");
    }

    #[tokio::test]
    async fn a_delegation_never_crosses_organizations() {
        let world = World::new().await;
        world.person("ada").await;
        let elsewhere = OrgId::from_bytes([9; 16]);
        world.person_in(elsewhere, "eve").await;
        let a = world.session(&world.exchange(&world.agent("a").await, START).await, START).await.unwrap();
        let tokens = &world.identity.tokens;
        let grant = tokens.login(elsewhere, "eve", (&Secret::new(PASSWORD), None), "", START).await.unwrap();
        let eve = world.session(&grant, START).await.unwrap();
        assert_eq!(eve.principal.org, elsewhere);
        assert_eq!(code(tokens.consent(&eve, &name("a"), None, START).await), "account-unknown");
        // An agent of the same name elsewhere does not help.
        let new = crate::NewAgent {
            id: name("a"),
            display_name: "a".into(),
            owner: name("eve"),
            teams: vec![],
            autonomy: 1,
            scopes: vec![],
        };
        let by = Subject::person(name("eve"));
        world.identity.directory.create_agent(elsewhere, new, by, START).await.unwrap();
        let consent = tokens.consent(&eve, &name("a"), None, START).await.unwrap();
        assert_eq!(code(tokens.exchange_on_behalf(&a, &consent.token, START).await), "wrong-organization");
    }

    #[tokio::test]
    async fn taking_authority_away_from_a_delegator_ends_what_came_of_it() {
        for case in ["consent", "login", "credential", "principal", "disabled", "password", "erased", "middle"] {
            let world = World::new().await;
            world.person("ada").await;
            let (a, b) = (world.agent("a").await, world.agent("b").await);
            let tokens = &world.identity.tokens;
            let login = world.login("ada", "", START).await;
            let ada_session = world.session(&login, START).await.unwrap();
            let own_a = world.session(&world.exchange(&a, START).await, START).await.unwrap();
            let own_b = world.session(&world.exchange(&b, START).await, START).await.unwrap();
            let first = tokens.consent(&ada_session, &name("a"), None, START).await.unwrap();
            let grant = tokens.exchange_on_behalf(&own_a, &first.token, START).await.unwrap();
            let acting = world.session(&grant, START).await.unwrap();
            let second = tokens.consent(&acting, &name("b"), None, START).await.unwrap();
            let grant = tokens.exchange_on_behalf(&own_b, &second.token, START).await.unwrap();
            assert_eq!(world.code(&grant, START).await, "ok");

            let (authenticator, directory) = (&world.identity.authenticator, &world.identity.directory);
            let credential = ada_session.credential.clone().unwrap();
            let revoke = |target| authenticator.revoke(world.org, target, after(1));
            let (id, org) = (name("ada"), world.org);
            let survives = match case {
                "consent" => revoke(RevocationTarget::Token(first.id.clone())).await.map(|()| false),
                // Logging out ends the login, not what was consented to.
                "login" => revoke(RevocationTarget::Token(login.id.clone())).await.map(|()| true),
                "credential" => revoke(RevocationTarget::Credential(credential)).await.map(|()| false),
                "principal" => revoke(RevocationTarget::Principal(ada())).await.map(|()| false),
                "disabled" => {
                    let change = PersonChange { disabled: Some(true), ..PersonChange::default() };
                    directory.change_person(org, &id, change).await.map(|_| false)
                }
                "password" => {
                    let password = Secret::new("quite another password");
                    directory.set_password(org, &id, &password).await.map(|_| false)
                }
                "erased" => directory.erase_person(org, &id).await.map(|()| false),
                _ => directory.disable_service_account(org, &a.0.client_id, true).await.map(|_| false),
            };
            let expected = if survives.unwrap() { "ok" } else { "token-revoked" };
            assert_eq!(world.code(&grant, after(1)).await, expected, "{case}");
            let again = tokens.exchange_on_behalf(&own_b, &second.token, after(1)).await;
            assert_eq!(code(again), expected, "{case}");
        }
    }

    #[tokio::test]
    async fn a_chain_ends_at_its_bound() {
        let world = World::new().await;
        world.person("ada").await;
        let tokens = &world.identity.tokens;
        let mut holder = world.session(&world.login("ada", "", START).await, START).await.unwrap();
        for depth in 0..=MAX_CHAIN_DEPTH {
            let id = format!("agent{depth}");
            let client = world.agent(&id).await;
            let own = world.session(&world.exchange(&client, START).await, START).await.unwrap();
            let consent = tokens.consent(&holder, &name(&id), None, START).await;
            if depth == MAX_CHAIN_DEPTH {
                assert_eq!(code(consent), "chain-too-deep");
                return;
            }
            let grant = tokens.exchange_on_behalf(&own, &consent.unwrap().token, START).await.unwrap();
            holder = world.session(&grant, START).await.unwrap();
            assert_eq!(holder.principal.on_behalf_of.len(), depth + 1);
        }
    }

    #[tokio::test]
    async fn settings_out_of_their_bounds_are_refused_by_name() {
        let good = || IdentityConfig::new("iss", "aud");
        let hours = |n: u64| Duration::from_secs(n * 3600);
        let world = World::new().await;
        for config in [
            IdentityConfig { issuer: String::new(), ..good() },
            IdentityConfig { audience: "x".repeat(201), ..good() },
            IdentityConfig { machine_life: hours(2), ..good() },
            IdentityConfig { machine_life: Duration(0), ..good() },
            IdentityConfig { person_life: hours(13), ..good() },
            IdentityConfig { consent_life: hours(25), ..good() },
        ] {
            let (accounts, entropy, keys) = (world.accounts.clone(), world.entropy.clone(), world.keys.clone());
            let opened = crate::Identity::open(config, accounts, entropy, keys, Vec::new(), START).await;
            assert_eq!(code(opened), "account-invalid");
        }
    }
}
