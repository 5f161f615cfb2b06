//! Who exists in an organization, and with which credentials: makes, reads, changes and ends accounts.
//!
//! Every change that takes something away drops the cached sessions of the account before it answers, so the next
//! request sees it. Whether somebody *may* change accounts is policy's to say, before; the entry in the ledger is the
//! engine's. Absent: tokens (`token`). Read next: `record`, `enrolment`.

use std::sync::Arc;

use countersign_gateway_model::{Name, OrgId, PrincipalKind, Pseudonym, Timestamp};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::accounts::{self, RecordKey, RecordKind, Versioned, Write, read};
use crate::cache::Sessions;
use crate::entropy::{draw, hex128};
use crate::password::Passwords;
use crate::weak::refuse_weak_password;
use crate::{
    Accounts, AgentRecord, Entropy, IdentityError, PersonRecord, Secret, ServiceAccountRecord, ServiceRecord, Subject,
};

/// What a client secret starts with.
const CLIENT_SECRET: &str = "cs_client_";
/// The most roles, teams or groups of one account: sessions stay small.
const MAX_NAMES: usize = 64;
const MAX_DISPLAY_NAME: usize = 200;
const PAGE: usize = 500;

/// A person to be made.
#[derive(Clone, Debug)]
pub struct NewPerson {
    /// Id and login name.
    pub id: Name,
    /// For views, at most 200 characters.
    pub display_name: String,
    /// Roles held.
    pub roles: Vec<Name>,
    /// Teams belonged to.
    pub teams: Vec<Name>,
    /// Named groups.
    pub groups: Vec<Name>,
    /// Which human being this is; accounts without one count as the same person.
    pub person: Option<Name>,
    /// The first password; `None` for one who cannot log in by password.
    pub password: Option<Secret>,
    /// The stand-in human of a demo.
    pub demo: bool,
}

/// What to change of a person; `None` leaves it.
#[derive(Clone, Debug, Default)]
pub struct PersonChange {
    /// For views, at most 200 characters.
    pub display_name: Option<String>,
    /// Roles held.
    pub roles: Option<Vec<Name>>,
    /// Teams belonged to.
    pub teams: Option<Vec<Name>>,
    /// Named groups.
    pub groups: Option<Vec<Name>>,
    /// No login, no token.
    pub disabled: Option<bool>,
}

/// An agent to be made.
#[derive(Clone, Debug)]
pub struct NewAgent {
    /// Id.
    pub id: Name,
    /// For views, at most 200 characters.
    pub display_name: String,
    /// The person who answers for it; must exist.
    pub owner: Name,
    /// Teams it belongs to.
    pub teams: Vec<Name>,
    /// 0 none … 4 unattended.
    pub autonomy: u8,
    /// Tool scopes held, such as `repo:read`.
    pub scopes: Vec<Name>,
}

/// A service to be made.
#[derive(Clone, Debug)]
pub struct NewService {
    /// Id.
    pub id: Name,
    /// For views, at most 200 characters.
    pub display_name: String,
    /// The person who answers for it; must exist.
    pub owner: Name,
    /// Teams it belongs to.
    pub teams: Vec<Name>,
    /// Tool scopes held, such as `repo:read`.
    pub scopes: Vec<Name>,
}

/// What to change of an agent or a service; `None` leaves it.
#[derive(Clone, Debug, Default)]
pub struct PrincipalChange {
    /// For views, at most 200 characters.
    pub display_name: Option<String>,
    /// The person who answers for it; must exist.
    pub owner: Option<Name>,
    /// Teams it belongs to.
    pub teams: Option<Vec<Name>>,
    /// 0 none … 4 unattended; of agents only.
    pub autonomy: Option<u8>,
    /// Tool scopes held, such as `repo:read`.
    pub scopes: Option<Vec<Name>>,
    /// No token.
    pub disabled: Option<bool>,
}

/// Accounts and credentials of all organizations; each call names one.
pub struct Directory {
    accounts: Arc<dyn Accounts>,
    entropy: Arc<dyn Entropy>,
    sessions: Arc<Sessions>,
    passwords: Arc<Passwords>,
}

impl std::fmt::Debug for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Directory").finish_non_exhaustive()
    }
}

impl Directory {
    pub(crate) fn new(
        accounts: Arc<dyn Accounts>,
        entropy: Arc<dyn Entropy>,
        sessions: Arc<Sessions>,
        passwords: Arc<Passwords>,
    ) -> Self {
        Self { accounts, entropy, sessions, passwords }
    }

    /// The person.
    pub async fn person(&self, org: OrgId, id: &Name) -> Result<Option<PersonRecord>, IdentityError> {
        Ok(self.read_one(RecordKind::Person, org, id).await?.map(|found| found.record))
    }

    /// The agent.
    pub async fn agent(&self, org: OrgId, id: &Name) -> Result<Option<AgentRecord>, IdentityError> {
        Ok(self.read_one(RecordKind::Agent, org, id).await?.map(|found| found.record))
    }

    /// The service.
    pub async fn service(&self, org: OrgId, id: &Name) -> Result<Option<ServiceRecord>, IdentityError> {
        Ok(self.read_one(RecordKind::Service, org, id).await?.map(|found| found.record))
    }

    /// The service account of a client id, if it is of this organization.
    pub async fn service_account(
        &self,
        org: OrgId,
        client_id: &Name,
    ) -> Result<Option<ServiceAccountRecord>, IdentityError> {
        Ok(self.read_one(RecordKind::ServiceAccount, org, client_id).await?.map(|found| found.record))
    }

    /// Up to `limit` (at most 500) persons in order of id, after `after`.
    pub async fn persons(
        &self,
        org: OrgId,
        after: Option<&Name>,
        limit: usize,
    ) -> Result<Vec<PersonRecord>, IdentityError> {
        self.page(RecordKind::Person, org, after, limit).await
    }

    /// Up to `limit` (at most 500) agents in order of id, after `after`.
    pub async fn agents(
        &self,
        org: OrgId,
        after: Option<&Name>,
        limit: usize,
    ) -> Result<Vec<AgentRecord>, IdentityError> {
        self.page(RecordKind::Agent, org, after, limit).await
    }

    /// Up to `limit` (at most 500) services in order of id, after `after`.
    pub async fn services(
        &self,
        org: OrgId,
        after: Option<&Name>,
        limit: usize,
    ) -> Result<Vec<ServiceRecord>, IdentityError> {
        self.page(RecordKind::Service, org, after, limit).await
    }

    /// Up to `limit` (at most 500) service accounts in order of client id, after `after`.
    pub async fn service_accounts(
        &self,
        org: OrgId,
        after: Option<&Name>,
        limit: usize,
    ) -> Result<Vec<ServiceAccountRecord>, IdentityError> {
        self.page(RecordKind::ServiceAccount, org, after, limit).await
    }

    /// All service accounts of an agent or service: whoever issued them is excluded from its approvals.
    pub async fn service_accounts_of(
        &self,
        org: OrgId,
        subject: &Subject,
    ) -> Result<Vec<ServiceAccountRecord>, IdentityError> {
        let mut found: Vec<ServiceAccountRecord> = Vec::new();
        let mut after: Option<Name> = None;
        loop {
            let page = self.service_accounts(org, after.as_ref(), PAGE).await?;
            let Some(last) = page.last() else { return Ok(found) };
            after = Some(last.client_id.clone());
            found.extend(page.into_iter().filter(|record| record.bound_to == *subject));
        }
    }

    /// Who a pseudonym of an entry stands for; `None` for SYSTEM, strangers and the erased.
    pub async fn subject_of(&self, org: OrgId, pseudonym: Pseudonym) -> Result<Option<Subject>, IdentityError> {
        let key = RecordKey::new(RecordKind::Pseudonym, org, pseudonym.to_string());
        Ok(read(&*self.accounts, &key).await?.map(|found| found.record))
    }

    /// The pseudonym of an account.
    pub async fn pseudonym_of(&self, org: OrgId, subject: &Subject) -> Result<Option<Pseudonym>, IdentityError> {
        let id = subject.id();
        Ok(match subject.kind() {
            PrincipalKind::Person => self.person(org, id).await?.map(|record| record.pseudonym),
            PrincipalKind::Agent => self.agent(org, id).await?.map(|record| record.pseudonym),
            PrincipalKind::Service => self.service(org, id).await?.map(|record| record.pseudonym),
            PrincipalKind::System => Some(Pseudonym::SYSTEM),
        })
    }

    /// Whether an organization has nobody yet, so that its first person must enrol.
    pub async fn is_empty(&self, org: OrgId) -> Result<bool, IdentityError> {
        Ok(self.accounts.list(RecordKind::Person, Some(org), None, 1).await?.is_empty())
    }

    /// Makes a person. `by` is who asks for it.
    pub async fn create_person(
        &self,
        org: OrgId,
        new: NewPerson,
        by: Option<Subject>,
        now: Timestamp,
    ) -> Result<PersonRecord, IdentityError> {
        let (record, writes) = self.new_person(org, new, by, now).await?;
        self.commit(writes, || IdentityError::AccountExists(Subject::person(record.id.clone()).to_string())).await?;
        Ok(record)
    }

    /// Changes a person. Sessions are dropped, so roles taken away are gone with the next request.
    pub async fn change_person(
        &self,
        org: OrgId,
        id: &Name,
        change: PersonChange,
    ) -> Result<PersonRecord, IdentityError> {
        self.change(RecordKind::Person, org, &Subject::person(id.clone()), |record: &mut PersonRecord| {
            set(&mut record.display_name, change.display_name);
            set(&mut record.roles, change.roles);
            set(&mut record.teams, change.teams);
            set(&mut record.groups, change.groups);
            set(&mut record.disabled, change.disabled);
            check_names(&record.display_name, &[&record.roles, &record.teams, &record.groups])
        })
        .await
    }

    /// Gives a person a new password. Every token of the old one ends, and every consent given with it.
    pub async fn set_password(&self, org: OrgId, id: &Name, password: &Secret) -> Result<PersonRecord, IdentityError> {
        refuse_weak_password(password.expose(), id.as_str())?;
        let phc = self.passwords.hash(password, draw(&*self.entropy)?).await?;
        let credential = self.new_credential()?;
        self.change(RecordKind::Person, org, &Subject::person(id.clone()), |record: &mut PersonRecord| {
            if record.demo {
                return Err(IdentityError::Invalid { field: "password", problem: "cannot be had by a demo person" });
            }
            record.password = Some(phc);
            record.credential = credential;
            Ok(())
        })
        .await
    }

    /// Makes an agent, whose owner must be a person of the organization.
    pub async fn create_agent(
        &self,
        org: OrgId,
        new: NewAgent,
        by: Subject,
        now: Timestamp,
    ) -> Result<AgentRecord, IdentityError> {
        check_names(&new.display_name, &[&new.teams, &new.scopes])?;
        check_autonomy(new.autonomy)?;
        self.check_owner(org, &new.owner).await?;
        let record = AgentRecord {
            org,
            id: new.id,
            pseudonym: self.new_pseudonym()?,
            display_name: new.display_name,
            owner: new.owner,
            teams: sorted(new.teams),
            autonomy: new.autonomy,
            scopes: sorted(new.scopes),
            disabled: false,
            created: now,
            created_by: by,
        };
        let subject = Subject::agent(record.id.clone());
        self.create(RecordKind::Agent, org, &subject, record.pseudonym, &record).await?;
        Ok(record)
    }

    /// Changes an agent and drops its sessions.
    pub async fn change_agent(
        &self,
        org: OrgId,
        id: &Name,
        change: PrincipalChange,
    ) -> Result<AgentRecord, IdentityError> {
        if let Some(owner) = &change.owner {
            self.check_owner(org, owner).await?;
        }
        self.change(RecordKind::Agent, org, &Subject::agent(id.clone()), |record: &mut AgentRecord| {
            set(&mut record.display_name, change.display_name);
            set(&mut record.owner, change.owner);
            set(&mut record.teams, change.teams);
            set(&mut record.autonomy, change.autonomy);
            set(&mut record.scopes, change.scopes);
            set(&mut record.disabled, change.disabled);
            check_autonomy(record.autonomy)?;
            check_names(&record.display_name, &[&record.teams, &record.scopes])
        })
        .await
    }

    /// Makes a service, whose owner must be a person of the organization.
    pub async fn create_service(
        &self,
        org: OrgId,
        new: NewService,
        by: Subject,
        now: Timestamp,
    ) -> Result<ServiceRecord, IdentityError> {
        check_names(&new.display_name, &[&new.teams, &new.scopes])?;
        self.check_owner(org, &new.owner).await?;
        let record = ServiceRecord {
            org,
            id: new.id,
            pseudonym: self.new_pseudonym()?,
            display_name: new.display_name,
            owner: new.owner,
            teams: sorted(new.teams),
            scopes: sorted(new.scopes),
            disabled: false,
            created: now,
            created_by: by,
        };
        let subject = Subject::service(record.id.clone());
        self.create(RecordKind::Service, org, &subject, record.pseudonym, &record).await?;
        Ok(record)
    }

    /// Changes a service and drops its sessions.
    pub async fn change_service(
        &self,
        org: OrgId,
        id: &Name,
        change: PrincipalChange,
    ) -> Result<ServiceRecord, IdentityError> {
        if let Some(owner) = &change.owner {
            self.check_owner(org, owner).await?;
        }
        self.change(RecordKind::Service, org, &Subject::service(id.clone()), |record: &mut ServiceRecord| {
            set(&mut record.display_name, change.display_name);
            set(&mut record.owner, change.owner);
            set(&mut record.teams, change.teams);
            set(&mut record.scopes, change.scopes);
            set(&mut record.disabled, change.disabled);
            if change.autonomy.is_some() {
                return Err(IdentityError::Invalid { field: "autonomy", problem: "is had by agents only" });
            }
            check_names(&record.display_name, &[&record.teams, &record.scopes])
        })
        .await
    }

    /// Issues a client id and a secret for an agent or a service. The secret is given out here and nowhere else.
    pub async fn create_service_account(
        &self,
        org: OrgId,
        bound_to: Subject,
        issued_by: Subject,
        expires: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<(ServiceAccountRecord, Secret), IdentityError> {
        let (record, secret, writes) = self.new_service_account(org, bound_to, issued_by, expires, now).await?;
        self.commit(writes, || IdentityError::AccountExists(record.client_id.to_string())).await?;
        Ok((record, secret))
    }

    /// Gives a client id a new secret. Every token of the old one ends.
    pub async fn rotate_client_secret(
        &self,
        org: OrgId,
        client_id: &Name,
    ) -> Result<(ServiceAccountRecord, Secret), IdentityError> {
        let secret = Secret::mint(CLIENT_SECRET, &*self.entropy)?;
        let digest = secret.digest();
        let record = self
            .change_service_account(org, client_id, |record| {
                record.secret = digest;
                record.generation = record.generation.saturating_add(1);
            })
            .await?;
        Ok((record, secret))
    }

    /// Disables or enables a client id. Every token of a disabled one ends.
    pub async fn disable_service_account(
        &self,
        org: OrgId,
        client_id: &Name,
        disabled: bool,
    ) -> Result<ServiceAccountRecord, IdentityError> {
        self.change_service_account(org, client_id, |record| record.disabled = disabled).await
    }

    /// Erases a person and who their pseudonym stood for; entries keep the pseudonym. Their tokens end.
    pub async fn erase_person(&self, org: OrgId, id: &Name) -> Result<(), IdentityError> {
        let subject = Subject::person(id.clone());
        let unknown = || IdentityError::AccountUnknown(subject.to_string());
        let found: Versioned<PersonRecord> = self.read_one(RecordKind::Person, org, id).await?.ok_or_else(unknown)?;
        let key = RecordKey::new(RecordKind::Person, org, id.as_str());
        let mut writes = vec![Write { key, expected: Some(found.version), value: None }];
        let key = RecordKey::new(RecordKind::Pseudonym, org, found.record.pseudonym.to_string());
        if let Some(stored) = self.accounts.get(&key).await? {
            writes.push(Write { key, expected: Some(stored.version), value: None });
        }
        let key = RecordKey::new(RecordKind::SecondFactor, org, id.as_str());
        if let Some(stored) = self.accounts.get(&key).await? {
            writes.push(Write { key, expected: Some(stored.version), value: None });
        }
        self.commit(writes, || IdentityError::AccountChanged(subject.to_string())).await?;
        self.sessions.forget(org, &subject);
        Ok(())
    }

    /// The record and rows of a person to be made.
    pub(crate) async fn new_person(
        &self,
        org: OrgId,
        new: NewPerson,
        by: Option<Subject>,
        now: Timestamp,
    ) -> Result<(PersonRecord, Vec<Write>), IdentityError> {
        check_names(&new.display_name, &[&new.roles, &new.teams, &new.groups])?;
        let password = match &new.password {
            Some(_) if new.demo => {
                return Err(IdentityError::Invalid { field: "password", problem: "cannot be had by a demo person" });
            }
            Some(password) => {
                refuse_weak_password(password.expose(), new.id.as_str())?;
                Some(self.passwords.hash(password, draw(&*self.entropy)?).await?)
            }
            None => None,
        };
        let record = PersonRecord {
            org,
            id: new.id,
            pseudonym: self.new_pseudonym()?,
            display_name: new.display_name,
            roles: sorted(new.roles),
            teams: sorted(new.teams),
            groups: sorted(new.groups),
            person: new.person,
            password,
            demo: new.demo,
            credential: self.new_credential()?,
            disabled: false,
            created: now,
            created_by: by,
        };
        let subject = Subject::person(record.id.clone());
        let writes = rows(RecordKind::Person, org, &subject, record.pseudonym, &record)?;
        Ok((record, writes))
    }

    /// The record, the secret and the row of a service account to be issued.
    pub(crate) async fn new_service_account(
        &self,
        org: OrgId,
        bound_to: Subject,
        issued_by: Subject,
        expires: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<(ServiceAccountRecord, Secret, Vec<Write>), IdentityError> {
        let exists = match bound_to.kind() {
            PrincipalKind::Agent => self.agent(org, bound_to.id()).await?.is_some_and(|agent| !agent.disabled),
            PrincipalKind::Service => self.service(org, bound_to.id()).await?.is_some_and(|service| !service.disabled),
            PrincipalKind::Person | PrincipalKind::System => {
                let problem = "must be an agent or a service: people log in themselves";
                return Err(IdentityError::Invalid { field: "bound_to", problem });
            }
        };
        if !exists {
            return Err(IdentityError::AccountUnknown(bound_to.to_string()));
        }
        let client_id = format!("client_{}", hex128(&*self.entropy)?);
        let secret = Secret::mint(CLIENT_SECRET, &*self.entropy)?;
        let record = ServiceAccountRecord {
            client_id: minted(&client_id)?,
            org,
            bound_to,
            secret: secret.digest(),
            generation: 1,
            issued_by,
            created: now,
            expires,
            disabled: false,
        };
        let write = accounts::write(RecordKey::new(RecordKind::ServiceAccount, org, client_id), None, &record)?;
        Ok((record, secret, vec![write]))
    }

    /// Writes all or none; `refused` says what it means where a row was not as expected.
    pub(crate) async fn commit(
        &self,
        writes: Vec<Write>,
        refused: impl FnOnce() -> IdentityError,
    ) -> Result<(), IdentityError> {
        if self.accounts.put(&writes).await? { Ok(()) } else { Err(refused()) }
    }

    async fn create<T: Serialize>(
        &self,
        kind: RecordKind,
        org: OrgId,
        subject: &Subject,
        pseudonym: Pseudonym,
        record: &T,
    ) -> Result<(), IdentityError> {
        let writes = rows(kind, org, subject, pseudonym, record)?;
        self.commit(writes, || IdentityError::AccountExists(subject.to_string())).await
    }

    async fn change<T: Serialize + DeserializeOwned>(
        &self,
        kind: RecordKind,
        org: OrgId,
        subject: &Subject,
        edit: impl FnOnce(&mut T) -> Result<(), IdentityError>,
    ) -> Result<T, IdentityError> {
        let found: Option<Versioned<T>> = self.read_one(kind, org, subject.id()).await?;
        let Versioned { version, mut record } =
            found.ok_or_else(|| IdentityError::AccountUnknown(subject.to_string()))?;
        edit(&mut record)?;
        let key = RecordKey::new(kind, org, subject.id().as_str());
        let write = accounts::write(key, Some(version), &record)?;
        self.commit(vec![write], || IdentityError::AccountChanged(subject.to_string())).await?;
        self.sessions.forget(org, subject);
        Ok(record)
    }

    async fn change_service_account(
        &self,
        org: OrgId,
        client_id: &Name,
        edit: impl FnOnce(&mut ServiceAccountRecord),
    ) -> Result<ServiceAccountRecord, IdentityError> {
        let found: Option<Versioned<ServiceAccountRecord>> =
            self.read_one(RecordKind::ServiceAccount, org, client_id).await?;
        let Versioned { version, mut record } =
            found.ok_or_else(|| IdentityError::AccountUnknown(client_id.to_string()))?;
        edit(&mut record);
        let key = RecordKey::new(RecordKind::ServiceAccount, org, client_id.as_str());
        let write = accounts::write(key, Some(version), &record)?;
        self.commit(vec![write], || IdentityError::AccountChanged(client_id.to_string())).await?;
        self.sessions.forget(org, &record.bound_to);
        Ok(record)
    }

    async fn check_owner(&self, org: OrgId, owner: &Name) -> Result<(), IdentityError> {
        match self.person(org, owner).await? {
            Some(person) if !person.disabled => Ok(()),
            _ => Err(IdentityError::AccountUnknown(Subject::person(owner.clone()).to_string())),
        }
    }

    async fn read_one<T: DeserializeOwned>(
        &self,
        kind: RecordKind,
        org: OrgId,
        id: &Name,
    ) -> Result<Option<Versioned<T>>, IdentityError> {
        Ok(read(&*self.accounts, &RecordKey::new(kind, org, id.as_str())).await?)
    }

    async fn page<T: DeserializeOwned>(
        &self,
        kind: RecordKind,
        org: OrgId,
        after: Option<&Name>,
        limit: usize,
    ) -> Result<Vec<T>, IdentityError> {
        let after = after.map(|id| RecordKey::new(kind, org, id.as_str()));
        let rows = self.accounts.list(kind, Some(org), after.as_ref(), limit.min(PAGE)).await?;
        rows.iter().map(|(key, stored)| Ok(accounts::decode(key, stored)?.record)).collect()
    }

    fn new_pseudonym(&self) -> Result<Pseudonym, IdentityError> {
        match Pseudonym::from_bytes(draw(&*self.entropy)?) {
            Pseudonym::SYSTEM => Err(IdentityError::Internal { what: "drawing a pseudonym", source: None }),
            pseudonym => Ok(pseudonym),
        }
    }

    pub(crate) fn new_credential(&self) -> Result<Name, IdentityError> {
        minted(&format!("cred_{}", hex128(&*self.entropy)?))
    }
}

/// A name made here of letters that names may have.
pub(crate) fn minted(text: &str) -> Result<Name, IdentityError> {
    Name::new(text).map_err(|source| IdentityError::internal("minting an id", source))
}

/// The row of an account and that of its pseudonym.
fn rows<T: Serialize>(
    kind: RecordKind,
    org: OrgId,
    subject: &Subject,
    pseudonym: Pseudonym,
    record: &T,
) -> Result<Vec<Write>, IdentityError> {
    let account = RecordKey::new(kind, org, subject.id().as_str());
    let map = RecordKey::new(RecordKind::Pseudonym, org, pseudonym.to_string());
    Ok(vec![accounts::write(account, None, record)?, accounts::write(map, None, subject)?])
}

fn set<T>(slot: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *slot = value;
    }
}

fn sorted(mut names: Vec<Name>) -> Vec<Name> {
    names.sort();
    names.dedup();
    names
}

const MAX_AUTONOMY: u8 = 4;

fn check_autonomy(autonomy: u8) -> Result<(), IdentityError> {
    if autonomy > MAX_AUTONOMY {
        return Err(IdentityError::Invalid { field: "autonomy", problem: "must be 0 (none) to 4 (unattended)" });
    }
    Ok(())
}

fn check_names(display_name: &str, lists: &[&Vec<Name>]) -> Result<(), IdentityError> {
    if display_name.chars().count() > MAX_DISPLAY_NAME {
        return Err(IdentityError::Invalid { field: "display_name", problem: "is longer than 200 characters" });
    }
    if display_name.chars().any(char::is_control) {
        return Err(IdentityError::Invalid { field: "display_name", problem: "has control characters" });
    }
    if lists.iter().any(|names| names.len() > MAX_NAMES) {
        return Err(IdentityError::Invalid { field: "roles, teams or groups", problem: "are more than 64" });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{START, World, ada, name, new_person};

    fn code<T>(result: Result<T, IdentityError>) -> &'static str {
        result.map_or_else(|error| error.code(), |_| "ok")
    }

    fn elsewhere() -> OrgId {
        OrgId::from_bytes([9; 16])
    }

    #[tokio::test]
    async fn nothing_of_one_organization_is_seen_from_another() {
        let world = World::new().await;
        world.person("ada").await;
        let (client, _) = world.agent("fixer").await;
        world.service("ci").await;
        let directory = &world.identity.directory;
        let pseudonym = directory.pseudonym_of(world.org, &ada()).await.unwrap().unwrap();
        assert_eq!(directory.subject_of(world.org, pseudonym).await.unwrap(), Some(ada()));

        let org = elsewhere();
        assert_eq!(directory.person(org, &name("ada")).await.unwrap(), None);
        assert_eq!(directory.agent(org, &name("fixer")).await.unwrap(), None);
        assert_eq!(directory.service(org, &name("ci")).await.unwrap(), None);
        assert_eq!(directory.service_account(org, &client.client_id).await.unwrap(), None);
        assert_eq!(directory.subject_of(org, pseudonym).await.unwrap(), None);
        assert_eq!(directory.persons(org, None, 10).await.unwrap(), []);
        assert_eq!(directory.agents(org, None, 10).await.unwrap(), []);
        assert_eq!(directory.services(org, None, 10).await.unwrap(), []);
        assert_eq!(directory.service_accounts(org, None, 10).await.unwrap(), []);
        assert_eq!(code(directory.rotate_client_secret(org, &client.client_id).await), "account-unknown");
        assert_eq!(code(directory.disable_service_account(org, &client.client_id, true).await), "account-unknown");
        assert_eq!(code(directory.erase_person(org, &name("ada")).await), "account-unknown");
        let bound = directory.create_service_account(org, "agent:fixer".parse().unwrap(), ada(), None, START).await;
        assert_eq!(code(bound), "account-unknown");
    }

    #[tokio::test]
    async fn ids_are_unique_for_a_kind_of_one_organization_and_pseudonyms_are_everywhere() {
        let world = World::new().await;
        let directory = &world.identity.directory;
        let first = directory.create_person(world.org, new_person("ada"), None, START).await.unwrap();
        assert_eq!(code(directory.create_person(world.org, new_person("ada"), None, START).await), "account-exists");
        let other = directory.create_person(elsewhere(), new_person("ada"), None, START).await.unwrap();
        assert_ne!(first.pseudonym, other.pseudonym);
        let new = NewAgent {
            id: name("ada"),
            display_name: String::new(),
            owner: name("ada"),
            teams: vec![],
            autonomy: 1,
            scopes: vec![],
        };
        let agent = directory.create_agent(world.org, new.clone(), ada(), START).await.unwrap();
        assert_ne!(first.pseudonym, agent.pseudonym);
        assert_eq!(code(directory.create_agent(world.org, new, ada(), START).await), "account-exists");
    }

    #[tokio::test]
    async fn accounts_that_do_not_hold_are_refused() {
        let world = World::new().await;
        world.person("ada").await;
        let directory = &world.identity.directory;
        let many: Vec<Name> = (0..65).map(|i| name(&format!("r{i}"))).collect();
        let demo = NewPerson { demo: true, password: Some(Secret::new("a long enough one")), ..new_person("x") };
        for (new, expected) in [
            (NewPerson { display_name: "x".repeat(201), ..new_person("x") }, "account-invalid"),
            (NewPerson { display_name: "a\u{7}b".into(), ..new_person("x") }, "account-invalid"),
            (NewPerson { roles: many, ..new_person("x") }, "account-invalid"),
            (NewPerson { password: Some(Secret::new("changeme")), ..new_person("x") }, "weak-secret"),
            (demo, "account-invalid"),
        ] {
            assert_eq!(code(directory.create_person(world.org, new, None, START).await), expected);
        }
        let orphan = NewAgent {
            id: name("a"),
            display_name: String::new(),
            owner: name("nobody"),
            teams: vec![],
            autonomy: 1,
            scopes: vec![],
        };
        assert_eq!(code(directory.create_agent(world.org, orphan, ada(), START).await), "account-unknown");
        for (subject, expected) in [
            ("person:ada", "account-invalid"),
            ("agent:nobody", "account-unknown"),
            ("service:nobody", "account-unknown"),
        ] {
            let subject = subject.parse().unwrap();
            let got = directory.create_service_account(world.org, subject, ada(), None, START).await;
            assert_eq!(code(got), expected);
        }
        let change = PrincipalChange { owner: Some(name("nobody")), ..PrincipalChange::default() };
        world.agent("fixer").await;
        assert_eq!(code(directory.change_agent(world.org, &name("fixer"), change).await), "account-unknown");
    }

    #[tokio::test]
    async fn who_issued_an_agents_credentials_can_be_told() {
        let world = World::new().await;
        world.person("ada").await;
        world.agent("fixer").await;
        world.agent("other").await;
        let fixer: Subject = "agent:fixer".parse().unwrap();
        let bob = Subject::person(name("bob"));
        let directory = &world.identity.directory;
        directory.create_service_account(world.org, fixer.clone(), bob.clone(), None, START).await.unwrap();
        let mut issuers: Vec<_> =
            directory.service_accounts_of(world.org, &fixer).await.unwrap().into_iter().map(|a| a.issued_by).collect();
        issuers.sort();
        assert_eq!(issuers, [ada(), bob]);
    }

    #[tokio::test]
    async fn an_erased_person_leaves_no_name_behind() {
        let world = World::new().await;
        world.person("ada").await;
        let directory = &world.identity.directory;
        let pseudonym = directory.pseudonym_of(world.org, &ada()).await.unwrap().unwrap();
        directory.erase_person(world.org, &name("ada")).await.unwrap();
        assert_eq!(directory.person(world.org, &name("ada")).await.unwrap(), None);
        assert_eq!(directory.subject_of(world.org, pseudonym).await.unwrap(), None);
    }

    #[tokio::test]
    async fn lists_go_page_by_page() {
        let world = World::new().await;
        let directory = &world.identity.directory;
        for id in ["d", "b", "a", "c"] {
            directory.create_person(world.org, new_person(id), None, START).await.unwrap();
        }
        let ids = |page: Vec<PersonRecord>| page.into_iter().map(|p| p.id.to_string()).collect::<String>();
        assert_eq!(ids(directory.persons(world.org, None, 3).await.unwrap()), "abc");
        assert_eq!(ids(directory.persons(world.org, Some(&name("c")), 3).await.unwrap()), "d");
    }
}
