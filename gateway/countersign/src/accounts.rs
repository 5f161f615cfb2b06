//! The vault of accounts over the ledger: rows in memory, each change one append with a `principal` entry.
//!
//! A change of an account is a change of who may do what, so it is on record like any other: the rows travel in the
//! transaction of the entry that says what happened. Who did it and what policy said of it was decided before, and is
//! found in `engine::acting`; without it the gateway itself acts. After the commit the engine is told who is who.
//!
//! Absent: what a row means to a credential (`gateway/identity`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use countersign_gateway_engine::{Engine, Known, OwnEntry, acting};
use countersign_gateway_identity::{
    Accounts, AgentRecord, EnrolmentRecord, PersonRecord, RecordKey, RecordKind, Revocation, RevocationTarget,
    ServiceAccountRecord, ServiceRecord, StoreError, Stored, Subject, Write,
};
use countersign_gateway_model::{Digest, Name, OrgId, PrincipalKind, Pseudonym};
use countersign_policy_store::decide::{AgentFacts, PersonFacts, Record, ServiceFacts};
use countersign_runners_contract::entry::Row;
use countersign_runners_contract::entry::body::{Principal as PrincipalBody, PrincipalChange};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

/// Table of accounts: kind, zero byte, id.
const ACCOUNTS: &str = "accounts";

/// Rows read at a time.
const PAGE: usize = 1000;

#[derive(Serialize, Deserialize)]
struct Columns<'a> {
    version: u64,
    #[serde(borrow)]
    value: &'a RawValue,
}

/// The rows of all organizations of this gateway.
type Rows = BTreeMap<RecordKey, Stored>;

/// The vault.
#[derive(Clone)]
pub(crate) struct Vault(Arc<Inner>);

struct Inner {
    engine: Engine,
    rows: RwLock<Rows>,
    /// One change at a time: versions are checked and written as one.
    turn: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Vault")
    }
}

fn failed(what: &str) -> impl FnOnce(Box<dyn std::error::Error + Send + Sync>) -> StoreError + '_ {
    move |source| StoreError::new(what, source)
}

impl Vault {
    /// Reads the accounts of organizations that the engine has opened, and tells the engine of them.
    pub(crate) async fn open(engine: Engine, orgs: &[OrgId]) -> Result<Self, StoreError> {
        let vault = Self(Arc::new(Inner { engine, rows: RwLock::default(), turn: tokio::sync::Mutex::default() }));
        for org in orgs {
            vault.load(*org).await?;
            vault.introduce_all(*org)?;
        }
        Ok(vault)
    }

    async fn load(&self, org: OrgId) -> Result<(), StoreError> {
        let log = self.0.engine.log_of(org).map_err(|e| failed("the log is not open")(e.into()))?;
        let mut rows = Rows::new();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = log
                .scan(ACCOUNTS, b"", after.as_deref(), PAGE, false)
                .await
                .map_err(|e| failed("the rows cannot be read")(e.into()))?;
            let whole = page.len() == PAGE;
            for row in page {
                let damaged =
                    || StoreError::new("a row is damaged: run `countersign ledger fsck`", "its key or its value");
                let (kind, id) = read_key(&row.key).ok_or_else(damaged)?;
                let columns: Columns<'_> = serde_json::from_slice(&row.columns).map_err(|_| damaged())?;
                let stored = Stored { version: columns.version, value: columns.value.get().as_bytes().to_vec() };
                rows.insert(RecordKey::new(kind, org, id), stored);
                after = Some(row.key);
            }
            if !whole {
                break;
            }
        }
        let mut held = self.0.rows.write().unwrap_or_else(PoisonError::into_inner);
        held.retain(|key, _| key.org != org);
        held.extend(rows);
        Ok(())
    }

    fn read<T>(&self, use_rows: impl FnOnce(&Rows) -> T) -> T {
        use_rows(&self.0.rows.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Tells the engine who is who, and what policy may know of them.
    fn introduce_all(&self, org: OrgId) -> Result<(), StoreError> {
        let rows = self.read(Rows::clone);
        Directory { rows: &rows, engine: &self.0.engine, org }.introduce(None)
    }

    /// Commits a batch that was checked against the rows in memory, then takes it up there.
    async fn commit(
        &self,
        writes: Vec<Write>,
        authority: Option<(Arc<countersign_gateway_model::Principal>, countersign_gateway_engine::Allowed)>,
    ) -> Result<bool, StoreError> {
        let _turn = self.0.turn.lock().await;
        let Some(org) = writes.first().map(|write| write.key.org) else { return Ok(true) };
        if writes.iter().any(|write| write.key.org != org) {
            return Err(StoreError::new("a batch names two organizations", "nothing was written"));
        }
        let (fits, mut next) = self.read(|rows| {
            let fits = writes.iter().all(|w| rows.get(&w.key).map(|stored| stored.version) == w.expected);
            (fits, rows.clone())
        });
        if !fits {
            return Ok(false);
        }
        let body = what_happened(&writes, &next)?;
        let mut ledger_rows = Vec::with_capacity(writes.len());
        for write in &writes {
            let version = write.expected.unwrap_or(0).saturating_add(1);
            ledger_rows.push(Row { table: ACCOUNTS, key: write_key(&write.key), columns: columns(write, version)? });
            match &write.value {
                Some(value) => drop(next.insert(write.key.clone(), Stored { version, value: value.clone() })),
                None => drop(next.remove(&write.key)),
            }
        }
        let mut entry = OwnEntry::new(body);
        entry.rows = ledger_rows;
        let committed = match authority {
            Some((who, allowed)) => self.0.engine.commit_own(&who, allowed, entry).await,
            None => self.0.engine.commit_system(org, entry).await,
        };
        if let Err(error) = committed {
            // What is on disk may be ahead of memory if the answer was lost: it is read again before it is used.
            if error.code() == "outcome-unknown" {
                self.load(org).await?;
                self.introduce_all(org)?;
            }
            return Err(failed("the ledger did not take the change")(error.into()));
        }
        // Durable. A crash from here on loses only this process's view, which the next start reads again.
        {
            let mut rows = self.0.rows.write().unwrap_or_else(PoisonError::into_inner);
            rows.clone_from(&next);
        }
        let changed: Vec<&RecordKey> = writes.iter().map(|w| &w.key).collect();
        Directory { rows: &next, engine: &self.0.engine, org }.introduce(Some(&changed))?;
        Ok(true)
    }
}

#[async_trait]
impl Accounts for Vault {
    async fn get(&self, key: &RecordKey) -> Result<Option<Stored>, StoreError> {
        Ok(self.read(|rows| rows.get(key).cloned()))
    }

    async fn find(&self, kind: RecordKind, id: &str) -> Result<Option<(RecordKey, Stored)>, StoreError> {
        Ok(self.read(|rows| {
            let found = rows.iter().find(|(key, _)| key.kind == kind && key.id == id);
            found.map(|(key, stored)| (key.clone(), stored.clone()))
        }))
    }

    async fn list(
        &self,
        kind: RecordKind,
        org: Option<OrgId>,
        after: Option<&RecordKey>,
        limit: usize,
    ) -> Result<Vec<(RecordKey, Stored)>, StoreError> {
        Ok(self.read(|rows| {
            rows.iter()
                .filter(|(key, _)| key.kind == kind && org.is_none_or(|org| key.org == org))
                .filter(|(key, _)| after.is_none_or(|after| *key > after))
                .take(limit)
                .map(|(key, stored)| (key.clone(), stored.clone()))
                .collect()
        }))
    }

    async fn put(&self, writes: &[Write]) -> Result<bool, StoreError> {
        // Taken here: the authority belongs to the task of the request, the work must outlive it.
        let authority = acting::take();
        let (this, writes) = (self.clone(), writes.to_vec());
        match tokio::spawn(async move { this.commit(writes, authority).await }).await {
            Ok(done) => done,
            Err(error) => Err(StoreError::new("the change was cut off", error)),
        }
    }
}

fn write_key(key: &RecordKey) -> Vec<u8> {
    [key.kind.as_str().as_bytes(), &[0], key.id.as_bytes()].concat()
}

fn read_key(key: &[u8]) -> Option<(RecordKind, String)> {
    let (kind, id) = std::str::from_utf8(key).ok()?.split_once('\0')?;
    let kind = RecordKind::ALL.into_iter().find(|k| k.as_str() == kind)?;
    Some((kind, id.to_owned()))
}

fn columns(write: &Write, version: u64) -> Result<Option<Vec<u8>>, StoreError> {
    let Some(value) = &write.value else { return Ok(None) };
    let value: &RawValue = serde_json::from_slice(value).map_err(|e| StoreError::new("a record is not JSON", e))?;
    serde_json::to_vec(&Columns { version, value })
        .map(Some)
        .map_err(|e| StoreError::new("a record cannot be written", e))
}

fn record<T: DeserializeOwned>(value: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(value).map_err(|e| StoreError::new("a record cannot be read", e))
}

/// Digest of a credential's id: the id itself is of use to nobody who reads the log, and of some to a thief.
fn credential(id: &str) -> Digest {
    Digest(Sha256::new().chain_update("countersign/credential-id/v1\0").chain_update(id).finalize().into())
}

/// The entry of a batch: what it does to the account that it is about.
fn what_happened(writes: &[Write], before: &Rows) -> Result<PrincipalBody, StoreError> {
    let order = |kind| match kind {
        RecordKind::Person | RecordKind::Agent | RecordKind::Service => 0,
        RecordKind::ServiceAccount => 1,
        RecordKind::Revocation => 2,
        RecordKind::Enrolment => 3,
        RecordKind::Pseudonym => 4,
    };
    let write = writes
        .iter()
        .min_by_key(|w| order(w.key.kind))
        .ok_or_else(|| StoreError::new("a batch has no rows", "nothing was written"))?;
    let old = before.get(&write.key).map(|stored| stored.value.as_slice());
    let value = write.value.as_deref().or(old);
    let value = value.ok_or_else(|| StoreError::new("a row that is not there is deleted", "nothing was written"))?;
    let directory = |subject: &Subject| pseudonym(before, write.key.org, subject);
    let change = |disabled: bool, was: Option<bool>| match (write.expected, &write.value) {
        (_, None) => PrincipalChange::Deactivated,
        (None, Some(_)) => PrincipalChange::Created,
        _ if disabled && was == Some(false) => PrincipalChange::Deactivated,
        _ => PrincipalChange::Updated,
    };
    let nobody = |change, id: &str| PrincipalBody {
        change,
        principal: Pseudonym::SYSTEM,
        kind: PrincipalKind::System,
        owner: None,
        roles: Vec::new(),
        teams: Vec::new(),
        credential: Some(credential(id)),
    };
    Ok(match write.key.kind {
        RecordKind::Person => {
            let person: PersonRecord = record(value)?;
            let was: Option<PersonRecord> = old.map(record).transpose()?;
            let mut change = change(person.disabled, was.as_ref().map(|w| w.disabled));
            if change == PrincipalChange::Updated && was.is_some_and(|w| w.credential != person.credential) {
                change = PrincipalChange::CredentialIssued;
            }
            PrincipalBody {
                change,
                principal: person.pseudonym,
                kind: PrincipalKind::Person,
                owner: None,
                roles: person.roles,
                teams: person.teams,
                credential: (change == PrincipalChange::CredentialIssued)
                    .then(|| credential(person.credential.as_str())),
            }
        }
        RecordKind::Agent => {
            let agent: AgentRecord = record(value)?;
            let was: Option<AgentRecord> = old.map(record).transpose()?;
            PrincipalBody {
                change: change(agent.disabled, was.map(|w| w.disabled)),
                principal: agent.pseudonym,
                kind: PrincipalKind::Agent,
                owner: directory(&Subject::person(agent.owner)),
                roles: Vec::new(),
                teams: agent.teams,
                credential: None,
            }
        }
        RecordKind::Service => {
            let service: ServiceRecord = record(value)?;
            let was: Option<ServiceRecord> = old.map(record).transpose()?;
            PrincipalBody {
                change: change(service.disabled, was.map(|w| w.disabled)),
                principal: service.pseudonym,
                kind: PrincipalKind::Service,
                owner: directory(&Subject::person(service.owner)),
                roles: Vec::new(),
                teams: service.teams,
                credential: None,
            }
        }
        RecordKind::ServiceAccount => {
            let account: ServiceAccountRecord = record(value)?;
            let revoked = account.disabled || write.value.is_none();
            PrincipalBody {
                change: if revoked { PrincipalChange::CredentialRevoked } else { PrincipalChange::CredentialIssued },
                principal: directory(&account.bound_to).unwrap_or(Pseudonym::SYSTEM),
                kind: account.bound_to.kind(),
                owner: None,
                roles: Vec::new(),
                teams: Vec::new(),
                credential: Some(credential(account.client_id.as_str())),
            }
        }
        RecordKind::Revocation => {
            let revocation: Revocation = record(value)?;
            let mut body = nobody(PrincipalChange::CredentialRevoked, &revocation.target.to_string());
            if let RevocationTarget::Principal(subject) = &revocation.target
                && let Some(who) = directory(subject)
            {
                body = PrincipalBody { principal: who, kind: subject.kind(), credential: None, ..body };
            }
            body
        }
        RecordKind::Enrolment => {
            let enrolment: EnrolmentRecord = record(value)?;
            let issued = write.value.is_some() && enrolment.used.is_none();
            let change = if issued { PrincipalChange::CredentialIssued } else { PrincipalChange::CredentialRevoked };
            nobody(change, enrolment.id.as_str())
        }
        RecordKind::Pseudonym => nobody(PrincipalChange::Updated, &write.key.id),
    })
}

fn row<T: DeserializeOwned>(rows: &Rows, kind: RecordKind, org: OrgId, id: &Name) -> Option<T> {
    rows.get(&RecordKey::new(kind, org, id.as_str())).and_then(|stored| serde_json::from_slice(&stored.value).ok())
}

fn pseudonym(rows: &Rows, org: OrgId, subject: &Subject) -> Option<Pseudonym> {
    match subject.kind() {
        PrincipalKind::Person => row::<PersonRecord>(rows, RecordKind::Person, org, subject.id()).map(|r| r.pseudonym),
        PrincipalKind::Agent => row::<AgentRecord>(rows, RecordKind::Agent, org, subject.id()).map(|r| r.pseudonym),
        PrincipalKind::Service => {
            row::<ServiceRecord>(rows, RecordKind::Service, org, subject.id()).map(|r| r.pseudonym)
        }
        PrincipalKind::System => None,
    }
}

/// Rows as the engine must know them.
struct Directory<'a> {
    rows: &'a Rows,
    engine: &'a Engine,
    org: OrgId,
}

impl Directory<'_> {
    fn all<T: DeserializeOwned>(&self, kind: RecordKind) -> Result<Vec<T>, StoreError> {
        let of_kind = self.rows.iter().filter(|(key, _)| key.kind == kind && key.org == self.org);
        of_kind.map(|(_, stored)| record(&stored.value)).collect()
    }

    /// Tells the engine of everybody, or of those whom a change of `only` can concern.
    fn introduce(&self, only: Option<&[&RecordKey]>) -> Result<(), StoreError> {
        let persons: Vec<PersonRecord> = self.all(RecordKind::Person)?;
        let accounts: Vec<ServiceAccountRecord> = self.all(RecordKind::ServiceAccount)?;
        let concerned = |kind: RecordKind, id: &Name| {
            only.is_none_or(|keys| {
                keys.iter()
                    .any(|key| (key.kind == kind && key.id == id.as_str()) || key.kind == RecordKind::ServiceAccount)
            })
        };
        for person in &persons {
            // A new account of a human being may be the first of them: everybody with the same key is told again.
            if concerned(RecordKind::Person, &person.id) || only.is_some() && person.person.is_some() {
                self.person(person, &persons)?;
            }
        }
        let issuers = |subject: &Subject| -> BTreeSet<Pseudonym> {
            let of = accounts.iter().filter(|account| account.bound_to == *subject);
            of.filter_map(|account| pseudonym(self.rows, self.org, &account.issued_by)).collect()
        };
        for agent in self.all::<AgentRecord>(RecordKind::Agent)? {
            if concerned(RecordKind::Agent, &agent.id) {
                let issuers = issuers(&Subject::agent(agent.id.clone()));
                self.agent(agent, issuers)?;
            }
        }
        for service in self.all::<ServiceRecord>(RecordKind::Service)? {
            if concerned(RecordKind::Service, &service.id) {
                let issuers = issuers(&Subject::service(service.id.clone()));
                self.service(service, issuers)?;
            }
        }
        for key in only.unwrap_or_default() {
            if key.kind == RecordKind::Person && !self.rows.contains_key(*key) {
                self.gone(&key.id)?;
            }
        }
        Ok(())
    }

    fn put(&self, who: Pseudonym, known: Known, record: Record) -> Result<(), StoreError> {
        for team in &known.teams {
            self.describe(Record::team(self.org, team.clone(), Vec::new(), self.engine.now()))?;
        }
        self.engine
            .introduce(self.org, who, known, record)
            .map_err(|e| StoreError::new("policy cannot be told of an account", e))
    }

    fn describe(&self, record: Record) -> Result<(), StoreError> {
        self.engine.describe(self.org, record).map_err(|e| StoreError::new("policy cannot be told of a team", e))
    }

    fn person(&self, person: &PersonRecord, all: &[PersonRecord]) -> Result<(), StoreError> {
        for group in &person.groups {
            self.describe(Record::group(self.org, group.clone(), Vec::new(), self.engine.now()))?;
        }
        // The oldest account stands for the human being behind all of them.
        let human = person.person.as_ref().and_then(|key| {
            let same = all.iter().filter(|other| other.person.as_ref() == Some(key));
            same.min_by_key(|other| (other.created, other.pseudonym)).map(|other| other.pseudonym)
        });
        let known = Known {
            kind: PrincipalKind::Person,
            id: person.id.clone(),
            person: human,
            person_key: person.person.clone(),
            owner: None,
            issuers: BTreeSet::new(),
            teams: person.teams.clone(),
            groups: person.groups.clone(),
        };
        let facts = PersonFacts {
            active: !person.disabled,
            roles: person.roles.clone(),
            teams: person.teams.clone(),
            groups: person.groups.clone(),
            person: person.person.clone(),
        };
        let record = Record::person(self.org, person.id.clone(), facts, self.engine.now());
        self.put(person.pseudonym, known, record)
    }

    fn agent(&self, agent: AgentRecord, issuers: BTreeSet<Pseudonym>) -> Result<(), StoreError> {
        let known = Known {
            kind: PrincipalKind::Agent,
            id: agent.id.clone(),
            person: None,
            person_key: None,
            owner: pseudonym(self.rows, self.org, &Subject::person(agent.owner.clone())),
            issuers,
            teams: agent.teams.clone(),
            groups: Vec::new(),
        };
        let facts = AgentFacts {
            active: !agent.disabled,
            owner: agent.owner,
            autonomy: agent.autonomy,
            scopes: agent.scopes,
            teams: agent.teams,
        };
        let record = Record::agent(self.org, agent.id, facts, self.engine.now());
        self.put(agent.pseudonym, known, record)
    }

    fn service(&self, service: ServiceRecord, issuers: BTreeSet<Pseudonym>) -> Result<(), StoreError> {
        let known = Known {
            kind: PrincipalKind::Service,
            id: service.id.clone(),
            person: None,
            person_key: None,
            owner: pseudonym(self.rows, self.org, &Subject::person(service.owner.clone())),
            issuers,
            teams: service.teams.clone(),
            groups: Vec::new(),
        };
        let facts = ServiceFacts {
            active: !service.disabled,
            owner: Some(service.owner),
            scopes: service.scopes,
            purpose: None,
            teams: service.teams,
        };
        let record = Record::service(self.org, service.id, facts, self.engine.now());
        self.put(service.pseudonym, known, record)
    }

    /// An erased person is nobody to policy: known by id, never active, without a role.
    fn gone(&self, id: &str) -> Result<(), StoreError> {
        let id = Name::new(id).map_err(|e| StoreError::new("an account's id is no name", e))?;
        self.describe(Record::person(self.org, id, PersonFacts::default(), self.engine.now()))
    }
}
