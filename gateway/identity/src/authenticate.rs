//! The hot path: `authorization` header to principal. One hash and one look-up for a token seen before.
//!
//! A token not seen before is verified by its issuer's [`TokenVerifier`], held to the rules that no issuer may break,
//! and joined with its account in the vault; then it is kept until it ends, is revoked, or its account changes. Nothing
//! is kept of tokens that fail. Absent: how tokens come to be (`token`). Read next: `cache`, `verifier`.

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
        self.sessions.revoke(&revocation);
        self.keep_revocation(revocation).await
    }

    /// Takes over a revocation that another gateway of this installation stored.
    pub fn apply(&self, revocation: &Revocation) {
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
                    self.sessions.revoke(&revocation);
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
        let says = verifier.verify(token, now).await?;
        if says.issuer != issuer {
            return Err(IdentityError::TokenWrongIssuer);
        }
        self.check_times(&says, now)?;
        self.check_rules(&says)?;
        let generation = self.sessions.generation();
        if self.is_revoked(&says) {
            return Err(IdentityError::TokenRevoked);
        }
        let session = Arc::new(self.join(says, now).await?);
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
            issued: token.issued,
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

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;
    use crate::testing::{MINUTE, START, World, ada, after, bearer, name, new_person, org};
    use crate::{
        DECIDE_LIFE, EdDsaVerifier, Identity, IdentityConfig, PersonChange, PrincipalChange, RecordKey, RecordKind,
        StoreError, Stored, TokenKeys, Write, session::ChainLink,
    };

    #[tokio::test]
    async fn a_token_is_verified_once_and_then_known_by_its_hash() {
        let world = World::new().await;
        world.person("ada").await;
        let grant = world.login("ada", "", START).await;
        let first = world.identity.authenticator.authenticate(&bearer(&grant), START).await.unwrap();
        for scheme in ["Bearer", "bearer", "BEARER"] {
            let header = format!("{scheme} {}", grant.token.expose());
            let again = world.identity.authenticator.authenticate(&header, after(1)).await.unwrap();
            assert!(Arc::ptr_eq(&first, &again));
        }
        let stats = world.identity.authenticator.stats();
        assert_eq!((stats.hits, stats.misses, stats.cached), (3, 1, 1));

        assert_eq!(first.org, org());
        assert_eq!((first.kind, first.id.as_str()), (PrincipalKind::Person, "ada"));
        assert_eq!(first.roles, [name("operator")]);
        assert_eq!(first.teams, [name("core")]);
        assert_eq!(first.person, Some(name("ada")));
        assert_eq!(first.assurance, Assurance::Password);
        assert_eq!(first.scopes, [Scope::Act]);
        assert_eq!(first.expires, grant.expires);
        assert!(first.on_behalf_of.is_empty());
        let session = world.session(&grant, after(1)).await.unwrap();
        assert_eq!(session.groups, [name("legal")]);
        assert_eq!(session.require(Scope::Decide).unwrap_err().code(), "scope-missing");
    }

    #[tokio::test]
    async fn headers_without_a_bearer_token_are_refused() {
        let world = World::new().await;
        for (header, code) in [
            ("", "token-missing"),
            ("Bearer", "token-missing"),
            ("Bearer ", "token-missing"),
            ("Basic YWRhOnB3", "token-missing"),
            ("Bearer  x.y.z", "token-malformed"),
            ("Bearer x.y.z, Bearer x.y.z", "token-malformed"),
            ("Bearer x.y", "token-malformed"),
            ("Bearer x.y.z", "token-malformed"),
            ("Bearer x.e30.z", "token-malformed"),
            ("Bearer x.eyJpc3MiOiJ4In0.z", "token-wrong-issuer"),
            ("Bearer x.eyJpc3MiOiJ4IiwiaXNzIjoiaXNzIn0.z", "token-malformed"),
        ] {
            let got = world.identity.authenticator.authenticate(header, START).await.unwrap_err();
            assert_eq!(got.code(), code, "{header}");
        }
        assert_eq!(world.identity.authenticator.stats().cached, 0);
    }

    #[tokio::test]
    async fn a_token_holds_from_its_start_to_its_end_cached_or_not() {
        let world = World::new().await;
        world.person("ada").await;
        let grant = world.login("ada", "", START).await;
        assert_eq!(world.code(&grant, Timestamp(START.0 - 6_000)).await, "token-not-yet-valid");
        let last = Timestamp(grant.expires.0 - 1);
        assert_eq!(world.code(&grant, grant.expires).await, "token-expired");
        assert_eq!(world.code(&grant, last).await, "ok");
        assert_eq!(world.code(&grant, grant.expires).await, "token-expired");
    }

    #[tokio::test]
    async fn forged_and_tampered_tokens_are_refused_and_not_kept() {
        let world = World::new().await;
        world.person("ada").await;
        world.person("bob").await;
        let (ada, bob) = (world.login("ada", "", START).await, world.login("bob", "decide", START).await);
        let parts = |grant: &crate::TokenGrant| {
            let mut parts = grant.token.expose().split('.').map(str::to_owned).collect::<Vec<_>>();
            let (signature, payload) = (parts.pop().unwrap(), parts.pop().unwrap());
            (parts.pop().unwrap(), payload, signature)
        };
        let ((head, payload, signature), (_, other, _)) = (parts(&ada), parts(&bob));
        let elsewhere = EdDsaVerifier::new(Arc::new(TokenKeys::new(&[8; 32], &[]).unwrap()), "iss", "aud");
        let own = EdDsaVerifier::new(world.keys.clone(), "iss", "aud");
        let says = own.verify(ada.token.expose(), START).await.unwrap();
        let audience = EdDsaVerifier::new(world.keys.clone(), "iss", "another gateway");
        for (token, code) in [
            (format!("{head}.{other}.{signature}"), "token-signature-invalid"),
            (format!("{head}.{payload}.{}", parts(&bob).2), "token-signature-invalid"),
            (elsewhere.issue(&says, None).unwrap(), "token-signature-invalid"),
            (audience.issue(&says, None).unwrap(), "token-wrong-audience"),
            (format!("{head}.{payload}."), "token-malformed"),
        ] {
            let got = world.identity.authenticator.session_of_token(&token, START).await.unwrap_err();
            assert_eq!(got.code(), code);
        }
        assert_eq!(world.identity.authenticator.stats().cached, 0);
    }

    #[tokio::test]
    async fn a_revocation_ends_cached_tokens_at_once_and_after_a_restart_and_later_ones_live() {
        let world = World::new().await;
        world.person("ada").await;
        world.person("bob").await;
        let bob = world.login("bob", "", START).await;
        let mut now = START;
        for target in 0..3 {
            let grant = world.login("ada", "", now).await;
            assert_eq!(world.code(&grant, now).await, "ok");
            let session = world.session(&grant, now).await.unwrap();
            let target = match target {
                0 => RevocationTarget::Token(session.token.clone()),
                1 => RevocationTarget::Credential(session.credential.clone().unwrap()),
                _ => RevocationTarget::Principal(ada()),
            };
            let elsewhere = OrgId::from_bytes([9; 16]);
            world.identity.authenticator.revoke(elsewhere, target.clone(), now).await.unwrap();
            assert_eq!(world.code(&grant, now).await, "ok");
            world.identity.authenticator.revoke(world.org, target.clone(), now).await.unwrap();
            assert_eq!(world.code(&grant, now).await, "token-revoked");

            let restarted = world.restarted(now).await;
            let got = restarted.authenticator.authenticate(&bearer(&grant), now).await.unwrap_err();
            assert_eq!(got.code(), "token-revoked", "{target}");
            // A login in the same second, a millisecond later, is a new one.
            now = Timestamp(now.0 + 1);
            assert_eq!(world.code(&world.login("ada", "", now).await, now).await, "ok");
            assert_eq!(world.code(&bob, now).await, "ok");
        }
    }

    #[tokio::test]
    async fn revocations_and_their_rows_are_forgotten_when_no_token_they_hit_can_live() {
        let world = World::new().await;
        let target = RevocationTarget::Principal(ada());
        world.identity.authenticator.revoke(world.org, target.clone(), START).await.unwrap();
        world.identity.authenticator.revoke(world.org, target, after(1)).await.unwrap();
        assert_eq!(world.identity.authenticator.stats().revocations, 1);
        assert_eq!(world.identity.sweep(after(8 * 60 * MINUTE)).await.unwrap().revocations, 0);
        assert_eq!(world.identity.sweep(after(8 * 60 * MINUTE + 1)).await.unwrap().revocations, 1);
        assert_eq!(world.identity.authenticator.stats().revocations, 0);
    }

    #[tokio::test]
    async fn changes_of_an_account_show_with_the_next_request() {
        let world = World::new().await;
        world.person("ada").await;
        let client = world.agent("fixer").await;
        let (ada, fixer) = (world.login("ada", "", START).await, world.exchange(&client, START).await);
        let directory = &world.identity.directory;
        assert_eq!((world.code(&ada, START).await, world.code(&fixer, START).await), ("ok", "ok"));

        let change = PersonChange { roles: Some(Vec::new()), ..PersonChange::default() };
        directory.change_person(world.org, &name("ada"), change).await.unwrap();
        assert!(world.session(&ada, START).await.unwrap().principal.roles.is_empty());

        let disable = PersonChange { disabled: Some(true), ..PersonChange::default() };
        directory.change_person(world.org, &name("ada"), disable).await.unwrap();
        assert_eq!(world.code(&ada, START).await, "token-revoked");
        let enable = PersonChange { disabled: Some(false), ..PersonChange::default() };
        directory.change_person(world.org, &name("ada"), enable).await.unwrap();
        assert_eq!(world.code(&ada, START).await, "ok");
        directory.set_password(world.org, &name("ada"), &crate::Secret::new("another long password")).await.unwrap();
        assert_eq!(world.code(&ada, START).await, "token-revoked");

        let disable = PrincipalChange { disabled: Some(true), ..PrincipalChange::default() };
        directory.change_agent(world.org, &name("fixer"), disable).await.unwrap();
        assert_eq!(world.code(&fixer, START).await, "token-revoked");
        let enable = PrincipalChange { disabled: Some(false), ..PrincipalChange::default() };
        directory.change_agent(world.org, &name("fixer"), enable).await.unwrap();
        assert_eq!(world.code(&fixer, START).await, "ok");
        directory.rotate_client_secret(world.org, &client.0.client_id).await.unwrap();
        assert_eq!(world.code(&fixer, START).await, "token-revoked");
    }

    #[tokio::test]
    async fn rotated_keys_still_verify_until_they_are_withdrawn() {
        let world = World::new().await;
        world.person("ada").await;
        let (old_kid, old) = (world.keys.kid(), world.login("ada", "", START).await);
        world.keys.rotate(&[9; 32], after(60 * MINUTE));
        let new = world.login("ada", "", START).await;
        assert_eq!((world.code(&old, START).await, world.code(&new, START).await), ("ok", "ok"));
        world.keys.withdraw(&old_kid);
        world.identity.authenticator.forget_all();
        assert_eq!(world.code(&old, START).await, "token-signature-invalid");
        assert_eq!(world.code(&new, START).await, "ok");
    }

    /// An issuer that says whatever it was told.
    struct Says(VerifiedToken);

    #[async_trait]
    impl TokenVerifier for Says {
        fn issuer(&self) -> &'static str {
            "other"
        }

        async fn verify(&self, _: &str, _: Timestamp) -> Result<VerifiedToken, IdentityError> {
            Ok(self.0.clone())
        }
    }

    #[tokio::test]
    async fn what_no_token_may_say_is_refused_whoever_issued_it() {
        // {"iss":"other"}
        const TOKEN: &str = "Bearer e30.eyJpc3MiOiJvdGhlciJ9.e30";
        let good = VerifiedToken {
            issuer: "other".into(),
            token: name("tok_1"),
            subject: ada(),
            org: org(),
            issued: START,
            not_before: START,
            expires: START + DECIDE_LIFE,
            scopes: vec![Scope::Act, Scope::Decide],
            chain: Vec::new(),
            assurance: Assurance::Mfa,
            methods: vec![name("otp")],
            credential: None,
        };
        let link = |subject: &str| ChainLink {
            subject: subject.parse().unwrap(),
            token: name("tok_0"),
            credential: name("cred_0"),
        };
        let agent = VerifiedToken {
            subject: "agent:fixer".parse().unwrap(),
            assurance: Assurance::Secret,
            scopes: vec![Scope::Act],
            ..good.clone()
        };
        let too_long = Timestamp((START + DECIDE_LIFE).0 + 1);
        let cases: Vec<(&str, VerifiedToken)> = vec![
            ("ok", good.clone()),
            ("ok", agent.clone()),
            ("scope-refused", VerifiedToken { scopes: vec![Scope::Decide], ..agent.clone() }),
            ("scope-refused", VerifiedToken { expires: too_long, ..good.clone() }),
            ("scope-refused", VerifiedToken { methods: Vec::new(), ..good.clone() }),
            ("scope-refused", VerifiedToken { chain: vec![link("person:bob")], ..good.clone() }),
            ("token-malformed", VerifiedToken { assurance: Assurance::Secret, ..good.clone() }),
            ("token-malformed", VerifiedToken { assurance: Assurance::Password, ..agent.clone() }),
            ("demo-refused", VerifiedToken { assurance: Assurance::Demo, ..good.clone() }),
            ("token-malformed", VerifiedToken { expires: after(9 * 60 * MINUTE), ..agent.clone() }),
            ("token-expired", VerifiedToken { expires: START, ..agent.clone() }),
            ("token-not-yet-valid", VerifiedToken { not_before: after(6), ..agent.clone() }),
            ("token-not-yet-valid", VerifiedToken { issued: after(6), ..agent.clone() }),
            ("token-wrong-issuer", VerifiedToken { issuer: "iss".into(), ..agent.clone() }),
            ("token-revoked", VerifiedToken { subject: "agent:nobody".parse().unwrap(), ..agent.clone() }),
            ("token-revoked", VerifiedToken { org: OrgId::from_bytes([9; 16]), ..agent.clone() }),
            ("token-revoked", VerifiedToken { credential: Some(name("cred_9")), ..good.clone() }),
            ("token-revoked", VerifiedToken { credential: Some(name("client_9/1")), ..agent.clone() }),
            ("token-revoked", VerifiedToken { credential: Some(name("client_9")), ..agent.clone() }),
            ("token-revoked", VerifiedToken { chain: vec![link("person:ada")], ..agent.clone() }),
            ("chain-refused", VerifiedToken { chain: vec![link("agent:fixer")], ..agent.clone() }),
            ("chain-too-deep", VerifiedToken { chain: vec![link("agent:x"); 9], ..agent.clone() }),
        ];
        for (code, says) in cases {
            let context = format!("{says:?}");
            let config = IdentityConfig::new("iss", "aud");
            let world = World::with(config, vec![Arc::new(Says(says))]).await;
            world.identity.directory.create_person(world.org, new_person("ada"), None, START).await.unwrap();
            world.agent("fixer").await;
            let got = world.identity.authenticator.authenticate(TOKEN, START).await;
            assert_eq!(got.map_or_else(|e| e.code(), |_| "ok"), code, "{context}");
        }
    }

    #[tokio::test]
    async fn a_demo_person_is_believed_with_demo_assurance_only_and_nobody_else_has_it() {
        const TOKEN: &str = "Bearer e30.eyJpc3MiOiJvdGhlciJ9.e30";
        for (id, assurance, code) in [
            ("human", Assurance::Demo, "ok"),
            ("human", Assurance::Password, "token-malformed"),
            ("ada", Assurance::Demo, "token-malformed"),
            ("ada", Assurance::Password, "ok"),
        ] {
            let says = VerifiedToken {
                issuer: "other".into(),
                token: name("tok_1"),
                subject: Subject::person(name(id)),
                org: org(),
                issued: START,
                not_before: START,
                expires: after(MINUTE),
                scopes: vec![Scope::Act],
                chain: Vec::new(),
                assurance,
                methods: Vec::new(),
                credential: None,
            };
            let config = IdentityConfig { demo: true, ..IdentityConfig::new("iss", "aud") };
            let world = World::with(config, vec![Arc::new(Says(says))]).await;
            for (id, demo) in [("ada", false), ("human", true)] {
                let new = crate::NewPerson { demo, ..new_person(id) };
                world.identity.directory.create_person(world.org, new, None, START).await.unwrap();
            }
            let got = world.identity.authenticator.authenticate(TOKEN, START).await;
            assert_eq!(got.map_or_else(|e| e.code(), |_| "ok"), code, "{id} {assurance:?}");
        }
    }

    #[tokio::test]
    async fn a_credential_speaks_for_the_account_it_is_bound_to_and_no_other() {
        let world = World::new().await;
        world.person("ada").await;
        let a = world.agent("a").await;
        world.agent("b").await;
        let signer = EdDsaVerifier::new(world.keys.clone(), "iss", "aud");
        let says = signer.verify(world.exchange(&a, START).await.token.expose(), START).await.unwrap();
        for (subject, code) in [("agent:a", "ok"), ("agent:b", "token-revoked")] {
            let says = VerifiedToken { subject: subject.parse().unwrap(), ..says.clone() };
            let token = signer.issue(&says, None).unwrap();
            let got = world.identity.authenticator.session_of_token(&token, START).await;
            assert_eq!(got.map_or_else(|e| e.code(), |_| "ok"), code, "{subject}");
        }
    }

    /// A store that does not answer.
    struct Broken;

    #[async_trait]
    impl Accounts for Broken {
        async fn get(&self, _: &RecordKey) -> Result<Option<Stored>, StoreError> {
            Err(StoreError::new("read", "disk on fire"))
        }

        async fn find(&self, _: RecordKind, _: &str) -> Result<Option<(RecordKey, Stored)>, StoreError> {
            Err(StoreError::new("read", "disk on fire"))
        }

        async fn list(
            &self,
            _: RecordKind,
            _: Option<OrgId>,
            _: Option<&RecordKey>,
            _: usize,
        ) -> Result<Vec<(RecordKey, Stored)>, StoreError> {
            Ok(Vec::new())
        }

        async fn put(&self, _: &[Write]) -> Result<bool, StoreError> {
            Err(StoreError::new("write", "disk on fire"))
        }
    }

    #[tokio::test]
    async fn a_store_that_fails_grants_nothing_and_revokes_all_the_same() {
        let world = World::new().await;
        world.person("ada").await;
        let grant = world.login("ada", "", START).await;
        let (config, keys, entropy) = (world.config.clone(), world.keys.clone(), world.entropy.clone());
        let broken = Identity::open(config, Arc::new(Broken), entropy, keys, Vec::new(), START).await.unwrap();
        let got = broken.authenticator.authenticate(&bearer(&grant), START).await.unwrap_err();
        assert_eq!(got.code(), "identity-unavailable");
        let password = crate::Secret::new(crate::testing::PASSWORD);
        let got = broken.tokens.login(world.org, "ada", (&password, None), "", START).await.unwrap_err();
        assert_eq!(got.code(), "identity-unavailable");

        let target = RevocationTarget::Principal(ada());
        assert_eq!(
            broken.authenticator.revoke(world.org, target, START).await.unwrap_err().code(),
            "identity-unavailable"
        );
        let got = broken.authenticator.authenticate(&bearer(&grant), START).await.unwrap_err();
        assert_eq!(got.code(), "token-revoked");
    }

    #[tokio::test]
    async fn sessions_stay_within_their_bound() {
        let config = IdentityConfig { cache_capacity: 64, ..IdentityConfig::new("iss", "aud") };
        let world = World::with(config, Vec::new()).await;
        world.person("ada").await;
        let client = world.agent("fixer").await;
        for _ in 0..300 {
            let grant = world.exchange(&client, START).await;
            assert_eq!(world.code(&grant, START).await, "ok");
            assert!(world.identity.authenticator.stats().cached <= 64);
        }
    }
}
