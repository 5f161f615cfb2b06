//! What the tests of this crate share: counted random bytes, a clock moved by hand, short ways to nouns.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use countersign_gateway_model::{Assurance, Clock, Name, OrgId, Principal, Pseudonym, Scope, Timestamp};

use crate::{Entropy, EntropyError, Session, Subject, secret};

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
    let org = org();
    format!(
        r#"{{"iss":"iss","aud":"aud","sub":"person:ada","org":"{org}","jti":"tok_1","iat":10,"nbf":10,"exp":900,"iat_ms":10500,"scope":"act","cid":"cred_1","assurance":"password","amr":["pwd"]}}"#
    )
}
