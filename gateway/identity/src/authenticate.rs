//! The hot path: `authorization` header to principal. One hash and one look-up for a token seen before.
//!
//! A token not seen before is verified by its issuer's [`TokenVerifier`], held to the rules that no issuer may break, and
//! joined with its account in the vault; then it is kept until it ends, is revoked, or its account changes.
//! Nothing is kept of tokens that fail. Absent: how tokens come to be (`token`). Read next: `cache`, `verifier`.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use countersign_gateway_model::{
    Assurance, Delegator, Duration, Name, OrgId, Principal, PrincipalKind, Pseudonym, Scope, Timestamp,
};

use crate::accounts::{self, RecordKey, RecordKind, read};
use crate::cache::Sessions;
use crate::revocation::Facts;
use crate::{
    Accounts, AgentRecord, IdentityError, PersonRecord, Revocation, RevocationTarget, ServiceAccountRecord,
    ServiceRecord, Session, Subject, TokenVerifier, VerifiedToken, chain, jws, secret,
};

/// How far the clocks of two gateways of one installation may be apart.
const LEEWAY: Duration = Duration::from_secs(5);

/// Tries before giving up on a row that keeps changing.
const TRIES: usize = 8;

/// Counts since start, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct AuthenticatorStats {
    /// Requests answered from the cache.
    pub hits: u64,
    /// Requests that had to be verified, whatever came of it.
    pub misses: u64,
    /// Sessions held now.
    pub cached: usize,
    /// Revocations held now.
    pub revocations: usize,
}

/// Turns bearer tokens into principals.
pub struct Authenticator {
    accounts: Arc<dyn Accounts>,
    verifiers: HashMap<String, Arc<dyn TokenVerifier>>,
    sessions: Arc<Sessions>,
    longest: Duration,
    demo: bool,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authenticator").field("issuers", &self.verifiers.keys()).finish_non_exhaustive()
    }
}

/// What the vault says about an account, if its credential is still good.
pub(crate) struct Account {
    pub(crate) pseudonym: Pseudonym,
    roles: Vec<Name>,
    teams: Vec<Name>,
    groups: Vec<Name>,
    person: Option<Name>,
    demo: bool,
}

impl Authenticator {
    pub(crate) fn new(
        accounts: Arc<dyn Accounts>,
        verifiers: Vec<Arc<dyn TokenVerifier>>,
        sessions: Arc<Sessions>,
        longest: Duration,
        demo: bool,
    ) -> Self {
        let verifiers = verifiers.into_iter().map(|verifier| (verifier.issuer().to_owned(), verifier)).collect();
        Self { accounts, verifiers, sessions, longest, demo, hits: AtomicU64::new(0), misses: AtomicU64::new(0) }
    }

    /// The principal of an `authorization` header's value (empty where the request has none).
    pub async fn authenticate(
        &self,
        authorization_header: &str,
        now: Timestamp,
    ) -> Result<Arc<Principal>, IdentityError> {
        let token = bearer(authorization_header)?;
        let hash = secret::digest(token.as_bytes());
        if let Some(principal) = self.sessions.get(hash.as_bytes(), now, |session| Arc::clone(&session.principal)) {
            self.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(principal);
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        self.verify_and_keep(token, *hash.as_bytes(), now).await.map(|session| Arc::clone(&session.principal))
    }

    /// As [`Self::authenticate`], with the facts about the credential: for logout, exchange and account commands.
    pub async fn session(&self, authorization_header: &str, now: Timestamp) -> Result<Arc<Session>, IdentityError> {
        let token = bearer(authorization_header)?;
        self.session_of_token(token, now).await
    }

    /// As [`Self::session`], for a token that did not come in a header.
    pub async fn session_of_token(&self, token: &str, now: Timestamp) -> Result<Arc<Session>, IdentityError> {
        let hash = secret::digest(token.as_bytes());
        if let Some(session) = self.sessions.get(hash.as_bytes(), now, Arc::clone) {
            self.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(session);
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        self.verify_and_keep(token, *hash.as_bytes(), now).await
    }

    /// Ends tokens before their time: at once here, and durably. Tokens issued until `now`, inclusive, are hit.
    ///
    /// On an error the tokens are ended in this process, but perhaps not after a restart: say so and try again.
    pub async fn revoke(&self, org: OrgId, target: RevocationTarget, now: Timestamp) -> Result<(), IdentityError> {
        let revocation = Revocation { org, target, at: now, until: now + self.longest };
        self.sessions.revoke(revocation.clone());
        self.keep_revocation(revocation).await
    }

    /// Takes over a revocation that another gateway of this installation stored.
    pub fn apply(&self, revocation: Revocation) {
        self.sessions.revoke(revocation);
    }

    /// Drops the cached sessions of an account that changed in the vault, and those in whose chain it stands.
    /// [`crate::Directory`] does it by itself; a gateway that learns of another's change calls it.
    pub fn forget(&self, org: OrgId, subject: &Subject) {
        self.sessions.forget(org, subject);
    }

    /// Drops all cached sessions: after a key was withdrawn or a verifier changed.
    pub fn forget_all(&self) {
        self.sessions.forget_all();
    }

    /// Counts since start.
    pub fn stats(&self) -> AuthenticatorStats {
        AuthenticatorStats {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            cached: self.sessions.len(),
            revocations: self.sessions.revocations(),
        }
    }

    /// Reads the live revocations of the vault.
    pub(crate) async fn load(&self, now: Timestamp) -> Result<(), IdentityError> {
        let mut after = None;
        loop {
            let page = self.accounts.list(RecordKind::Revocation, None, after.as_ref(), 500).await?;
            for (key, stored) in &page {
                let revocation: Revocation = accounts::decode(key, stored)?.record;
                if now < revocation.until {
                    self.sessions.revoke(revocation);
                }
            }
            match page.into_iter().next_back() {
                Some((key, _)) => after = Some(key),
                None => return Ok(()),
            }
        }
    }

    /// Whether the account exists, is not disabled, and still has the credential.
    pub(crate) async fn account(
        &self,
        org: OrgId,
        subject: &Subject,
        credential: Option<&Name>,
        now: Timestamp,
    ) -> Result<Account, IdentityError> {
        let account = match subject.kind() {
            PrincipalKind::Person => self.person(org, subject.id(), credential).await?,
            PrincipalKind::Agent => {
                let key = RecordKey::new(RecordKind::Agent, org, subject.id().as_str());
                let agent = read::<AgentRecord>(&*self.accounts, &key).await?.map(|found| found.record);
                agent.filter(|agent| !agent.disabled).map(|agent| Account::machine(agent.pseudonym, agent.teams))
            }
            PrincipalKind::Service => {
                let key = RecordKey::new(RecordKind::Service, org, subject.id().as_str());
                let service = read::<ServiceRecord>(&*self.accounts, &key).await?.map(|found| found.record);
                service.filter(|s| !s.disabled).map(|service| Account::machine(service.pseudonym, service.teams))
            }
            PrincipalKind::System => None,
        };
        let account = account.ok_or(IdentityError::TokenRevoked)?;
        if subject.kind() != PrincipalKind::Person
            && let Some(credential) = credential
        {
            self.service_account(org, subject, credential, now).await?;
        }
        Ok(account)
    }

    /// Whether a revocation ends a token that says this.
    pub(crate) fn is_revoked(&self, token: &VerifiedToken) -> bool {
        self.sessions.is_revoked(&facts(token))
    }

    /// Whether the times of a token hold.
    pub(crate) fn check_times(&self, token: &VerifiedToken, now: Timestamp) -> Result<(), IdentityError> {
        if now >= token.expires {
            return Err(IdentityError::TokenExpired);
        }
        if token.not_before > now + LEEWAY || token.issued > now + LEEWAY {
            return Err(IdentityError::TokenNotYetValid);
        }
        if token.expires.since(token.issued) > self.longest {
            return Err(IdentityError::malformed("it lives longer than any token may"));
        }
        Ok(())
    }

    /// The delegators of a chain, each with an account and a credential that are still good.
    pub(crate) async fn delegators(
        &self,
        token: &VerifiedToken,
        now: Timestamp,
    ) -> Result<Vec<Delegator>, IdentityError> {
        let mut delegators = Vec::with_capacity(token.chain.len());
        for link in &token.chain {
            let account = self.account(token.org, &link.subject, Some(&link.credential), now).await?;
            if account.demo && !self.demo {
                return Err(IdentityError::DemoRefused);
            }
            delegators.push(Delegator {
                kind: link.subject.kind(),
                id: link.subject.id().clone(),
                pseudonym: account.pseudonym,
            });
        }
        Ok(delegators)
    }

    async fn verify_and_keep(
        &self,
        token: &str,
        hash: [u8; 32],
        now: Timestamp,
    ) -> Result<Arc<Session>, IdentityError> {
        let issuer = jws::claimed_issuer(token)?;
        let verifier = self.verifiers.get(&issuer).ok_or(IdentityError::TokenWrongIssuer)?;
        let verified = verifier.verify(token, now).await?;
        if verified.issuer != issuer {
            return Err(IdentityError::TokenWrongIssuer);
        }
        self.check_times(&verified, now)?;
        self.check_rules(&verified)?;
        let generation = self.sessions.generation();
        if self.is_revoked(&verified) {
            return Err(IdentityError::TokenRevoked);
        }
        let session = Arc::new(self.join(verified, now).await?);
        self.sessions.insert(hash, Arc::clone(&session), generation, now);
        // A revocation between the check above and here may have found nothing to drop yet.
        if self.sessions.generation() != generation && self.sessions.is_revoked(&session.facts()) {
            return Err(IdentityError::TokenRevoked);
        }
        Ok(session)
    }

    /// What no token may say, whoever issued it.
    fn check_rules(&self, token: &VerifiedToken) -> Result<(), IdentityError> {
        let person = token.subject.kind() == PrincipalKind::Person;
        if person == (token.assurance == Assurance::Secret) {
            return Err(IdentityError::malformed("its assurance does not fit its kind of account"));
        }
        if token.assurance == Assurance::Demo && !self.demo {
            return Err(IdentityError::DemoRefused);
        }
        if token.scopes.contains(&Scope::Decide) {
            let life = token.expires.since(token.issued);
            if !person || !token.chain.is_empty() || token.methods.is_empty() || life > crate::DECIDE_LIFE {
                return Err(IdentityError::ScopeRefused { scope: Scope::Decide, reason: DECIDE_RULE });
            }
        }
        chain::check(&token.chain, &token.subject)
    }

    async fn join(&self, token: VerifiedToken, now: Timestamp) -> Result<Session, IdentityError> {
        let account = self.account(token.org, &token.subject, token.credential.as_ref(), now).await?;
        if account.demo != (token.assurance == Assurance::Demo) {
            return Err(IdentityError::malformed("its assurance does not fit its account"));
        }
        let on_behalf_of = self.delegators(&token, now).await?;
        let principal = Principal {
            org: token.org,
            kind: token.subject.kind(),
            id: token.subject.id().clone(),
            pseudonym: account.pseudonym,
            on_behalf_of,
            scopes: token.scopes,
            assurance: token.assurance,
            roles: account.roles,
            teams: account.teams,
            person: account.person,
            expires: token.expires,
        };
        Ok(Session {
            principal: Arc::new(principal),
            subject: token.subject,
            issuer: token.issuer,
            token: token.token,
            credential: token.credential,
            issued: token.issued,
            methods: token.methods,
            chain: token.chain,
            groups: account.groups,
        })
    }

    async fn person(&self, org: OrgId, id: &Name, credential: Option<&Name>) -> Result<Option<Account>, IdentityError> {
        let key = RecordKey::new(RecordKind::Person, org, id.as_str());
        let person = read::<PersonRecord>(&*self.accounts, &key).await?.map(|found| found.record);
        let live = person.filter(|p| !p.disabled && credential.is_none_or(|credential| p.credential == *credential));
        Ok(live.map(|person| Account {
            pseudonym: person.pseudonym,
            roles: person.roles,
            teams: person.teams,
            groups: person.groups,
            person: person.person,
            demo: person.demo,
        }))
    }

    async fn service_account(
        &self,
        org: OrgId,
        subject: &Subject,
        credential: &Name,
        now: Timestamp,
    ) -> Result<(), IdentityError> {
        let (client, _) = credential.as_str().rsplit_once('/').ok_or(IdentityError::TokenRevoked)?;
        let key = RecordKey::new(RecordKind::ServiceAccount, org, client);
        let record = read::<ServiceAccountRecord>(&*self.accounts, &key).await?.map(|found| found.record);
        let good = record.is_some_and(|record| {
            record.is_live(now) && record.bound_to == *subject && record.credential().as_ref() == Some(credential)
        });
        if good { Ok(()) } else { Err(IdentityError::TokenRevoked) }
    }

    async fn keep_revocation(&self, mut revocation: Revocation) -> Result<(), IdentityError> {
        let key = RecordKey::new(RecordKind::Revocation, revocation.org, revocation.target.to_string());
        for _ in 0..TRIES {
            let stored = read::<Revocation>(&*self.accounts, &key).await?;
            if let Some(stored) = &stored {
                revocation.at = revocation.at.max(stored.record.at);
                revocation.until = revocation.until.max(stored.record.until);
            }
            let version = stored.map(|stored| stored.version);
            if self.accounts.put(&[accounts::write(key.clone(), version, &revocation)?]).await? {
                return Ok(());
            }
        }
        Err(IdentityError::AccountChanged(key.id))
    }
}

/// Why `decide` was refused.
pub(crate) const DECIDE_RULE: &str = "only a person's own interactive login, for at most 15 minutes, may decide";

impl Account {
    fn machine(pseudonym: Pseudonym, teams: Vec<Name>) -> Self {
        Self { pseudonym, roles: Vec::new(), teams, groups: Vec::new(), person: None, demo: false }
    }
}

fn facts(token: &VerifiedToken) -> Facts<'_> {
    Facts {
        org: token.org,
        token: &token.token,
        credential: token.credential.as_ref(),
        subject: &token.subject,
        chain: &token.chain,
        issued: token.issued,
    }
}

/// The token of `Bearer <token>` (RFC 6750); the scheme in any case, one space.
fn bearer(header: &str) -> Result<&str, IdentityError> {
    let (scheme, token) = header.split_once(' ').unwrap_or((header, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(IdentityError::TokenMissing);
    }
    let ok = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    match token {
        "" => Err(IdentityError::TokenMissing),
        token if token.len() > jws::MAX_TOKEN_BYTES => Err(IdentityError::malformed("it is longer than 8192 bytes")),
        token if token.bytes().all(ok) => Ok(token),
        _ => Err(IdentityError::malformed("it has a character that no token has")),
    }
}
