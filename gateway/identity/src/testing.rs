//! What the tests of this crate share: counted random bytes, a clock moved by hand, a small organization.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use countersign_gateway_model::{Assurance, Clock, Name, OrgId, Principal, Pseudonym, Scope, Timestamp};

use crate::{
    Accounts, Entropy, EntropyError, Identity, IdentityConfig, IdentityError, MemoryAccounts, NewAgent, NewPerson,
    NewService, Secret, ServiceAccountRecord, Session, Subject, TokenGrant, TokenKeys, TokenVerifier, secret,
};

/// The password of every person here.
pub(crate) const PASSWORD: &str = "correct horse battery staple";
/// The time of every test's start: not a whole second.
pub(crate) const START: Timestamp = Timestamp(1_800_000_000_500);

/// Random-looking bytes that are the same in every run.
pub(crate) struct Counted(AtomicU64);

impl Counted {
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(0))
    }
}

impl Entropy for Counted {
    fn fill(&self, into: &mut [u8]) -> Result<(), EntropyError> {
        for chunk in into.chunks_mut(32) {
            let block = secret::digest(&self.0.fetch_add(1, Ordering::Relaxed).to_be_bytes());
            chunk.copy_from_slice(&block.as_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

/// A clock that stands still until it is moved.
pub(crate) struct HandClock(AtomicU64);

impl HandClock {
    pub(crate) fn at(millis: u64) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(millis)))
    }

    pub(crate) fn advance(&self, millis: u64) {
        self.0.fetch_add(millis, Ordering::Relaxed);
    }
}

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::Relaxed))
    }
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub(crate) fn org() -> OrgId {
    OrgId::from_bytes([1; 16])
}

pub(crate) fn principal(subject: &str) -> Principal {
    let subject: Subject = subject.parse().unwrap();
    let [pseudonym @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] =
        *secret::digest(subject.to_string().as_bytes()).as_bytes();
    Principal {
        org: org(),
        kind: subject.kind(),
        id: subject.id().clone(),
        pseudonym: Pseudonym::from_bytes(pseudonym),
        on_behalf_of: Vec::new(),
        scopes: vec![Scope::Act],
        assurance: Assurance::Password,
        roles: Vec::new(),
        teams: Vec::new(),
        person: None,
        issued: Timestamp(0),
        expires: Timestamp(u64::MAX),
    }
}

pub(crate) fn session(subject: &str, expires: Timestamp) -> Session {
    Session {
        principal: Arc::new(Principal { expires, ..principal(subject) }),
        subject: subject.parse().unwrap(),
        issuer: "iss".into(),
        token: name("tok_1"),
        credential: Some(name("cred_1")),
        issued: Timestamp(0),
        methods: vec![name("pwd")],
        chain: Vec::new(),
        groups: Vec::new(),
    }
}

/// The claims of a good token for issuer `iss` and audience `aud`, as text to be spoiled.
pub(crate) fn claims_json() -> String {
    format!(
        concat!(
            r#"{{"iss":"iss","aud":"aud","sub":"person:ada","org":"{}","jti":"tok_1","iat":10,"nbf":10,"exp":900,"#,
            r#""iat_ms":10500,"scope":"act","cid":"cred_1","assurance":"password","amr":["pwd"]}}"#
        ),
        org()
    )
}

/// A gateway's identity over a vault in memory.
pub(crate) struct World {
    pub(crate) accounts: Arc<MemoryAccounts>,
    pub(crate) keys: Arc<TokenKeys>,
    pub(crate) entropy: Arc<Counted>,
    pub(crate) config: IdentityConfig,
    pub(crate) identity: Identity,
    pub(crate) org: OrgId,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(IdentityConfig::new("iss", "aud"), Vec::new()).await
    }

    pub(crate) async fn with(config: IdentityConfig, others: Vec<Arc<dyn TokenVerifier>>) -> Self {
        let accounts = Arc::new(MemoryAccounts::new());
        let keys = Arc::new(TokenKeys::new(&[7; 32], &[]).unwrap());
        let entropy = Arc::new(Counted::new());
        let identity = open(&config, accounts.clone(), &entropy, &keys, others, START).await;
        Self { accounts, keys, entropy, config, identity, org: org() }
    }

    /// The same vault and keys after a restart.
    pub(crate) async fn restarted(&self, now: Timestamp) -> Identity {
        open(&self.config, self.accounts.clone(), &self.entropy, &self.keys, Vec::new(), now).await
    }

    pub(crate) async fn person(&self, id: &str) {
        self.person_in(self.org, id).await;
    }

    pub(crate) async fn person_in(&self, org: OrgId, id: &str) {
        let new = NewPerson { password: Some(Secret::new(PASSWORD)), ..new_person(id) };
        self.identity.directory.create_person(org, new, None, START).await.unwrap();
    }

    /// An agent owned by `ada` with its client id and secret.
    pub(crate) async fn agent(&self, id: &str) -> (ServiceAccountRecord, Secret) {
        let new = NewAgent {
            id: name(id),
            display_name: id.into(),
            owner: name("ada"),
            teams: vec![name("core")],
            autonomy: 1,
            scopes: vec![],
        };
        self.identity.directory.create_agent(self.org, new, ada(), START).await.unwrap();
        self.client(&Subject::agent(name(id))).await
    }

    /// A service owned by `ada` with its client id and secret.
    pub(crate) async fn service(&self, id: &str) -> (ServiceAccountRecord, Secret) {
        let new =
            NewService { id: name(id), display_name: id.into(), owner: name("ada"), teams: Vec::new(), scopes: vec![] };
        self.identity.directory.create_service(self.org, new, ada(), START).await.unwrap();
        self.client(&Subject::service(name(id))).await
    }

    async fn client(&self, subject: &Subject) -> (ServiceAccountRecord, Secret) {
        let issued = self.identity.directory.create_service_account(self.org, subject.clone(), ada(), None, START);
        issued.await.unwrap()
    }

    pub(crate) async fn login(&self, id: &str, scope: &str, now: Timestamp) -> TokenGrant {
        self.identity.tokens.login(self.org, id, (&Secret::new(PASSWORD), None), scope, now).await.unwrap()
    }

    pub(crate) async fn exchange(&self, client: &(ServiceAccountRecord, Secret), now: Timestamp) -> TokenGrant {
        let id = client.0.client_id.as_str();
        self.identity.tokens.exchange_client_credentials(id, &client.1, "", now).await.unwrap()
    }

    pub(crate) async fn session(&self, grant: &TokenGrant, now: Timestamp) -> Result<Arc<Session>, IdentityError> {
        self.identity.authenticator.session(&bearer(grant), now).await
    }

    /// The code of authenticating with `grant`, or `ok`.
    pub(crate) async fn code(&self, grant: &TokenGrant, now: Timestamp) -> &'static str {
        let got = self.identity.authenticator.authenticate(&bearer(grant), now).await;
        got.map_or_else(|error| error.code(), |_| "ok")
    }
}

async fn open(
    config: &IdentityConfig,
    accounts: Arc<dyn Accounts>,
    entropy: &Arc<Counted>,
    keys: &Arc<TokenKeys>,
    others: Vec<Arc<dyn TokenVerifier>>,
    now: Timestamp,
) -> Identity {
    Identity::open(config.clone(), accounts, entropy.clone(), keys.clone(), others, now).await.unwrap()
}

pub(crate) fn ada() -> Subject {
    Subject::person(name("ada"))
}

pub(crate) fn bearer(grant: &TokenGrant) -> String {
    format!("Bearer {}", grant.token.expose())
}

/// A person without a password.
pub(crate) fn new_person(id: &str) -> NewPerson {
    NewPerson {
        id: name(id),
        display_name: id.into(),
        roles: vec![name("operator")],
        teams: vec![name("core")],
        groups: vec![name("legal")],
        person: Some(name(id)),
        password: None,
        demo: false,
    }
}

/// `START` and so many seconds.
pub(crate) fn after(seconds: u64) -> Timestamp {
    Timestamp(START.0 + seconds * 1000)
}

pub(crate) const MINUTE: u64 = 60;
