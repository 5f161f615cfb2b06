//! The rows of accounts in memory, and who is behind which: what a change costs depends on what it changes, not on how
//! many accounts there are.
//!
//! Absent: durability (`accounts`), and what a row means to policy (`introductions`).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use countersign_gateway_identity::{
    AgentRecord, PersonRecord, RecordKey, RecordKind, SecondFactorRecord, ServiceAccountRecord, ServiceRecord,
    StoreError, Stored, Subject,
};
use countersign_gateway_model::{Name, OrgId, PrincipalKind, Pseudonym};
use serde::de::DeserializeOwned;

/// The rows of all organizations of this gateway.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Book {
    rows: BTreeMap<RecordKey, Stored>,
    /// Accounts of the same human being, by the key of that human being.
    persons: BTreeMap<(OrgId, Name), BTreeSet<Name>>,
    /// Client ids of the credentials of an agent or a service.
    credentials: BTreeMap<(OrgId, Subject), BTreeSet<Name>>,
    /// Whose a row is, for the kinds whose ids are unique over all organizations.
    owners: BTreeMap<(RecordKind, String), OrgId>,
}

/// One row as it will be, read before anything depends on it: taking it up cannot fail.
#[derive(Debug)]
pub(super) struct Change {
    key: RecordKey,
    stored: Option<Stored>,
    before: Handle,
    after: Handle,
}

/// What a row is found by beside its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Handle {
    /// A person's account, and the human being it belongs to.
    Person { human: Name, account: Name },
    /// A credential, and whom it speaks for.
    Credential { bound_to: Subject, client_id: Name },
    /// Nothing more: a second factor in force goes by its person.
    SecondFactor,
    /// Nothing.
    Key,
}

impl Handle {
    fn of(kind: RecordKind, stored: Option<&Stored>) -> Result<Self, StoreError> {
        let Some(stored) = stored else { return Ok(Self::Key) };
        Ok(match kind {
            RecordKind::Person => {
                let person: PersonRecord = record(&stored.value)?;
                person.person.map_or(Self::Key, |human| Self::Person { human, account: person.id })
            }
            RecordKind::SecondFactor => {
                let factor: SecondFactorRecord = record(&stored.value)?;
                if factor.is_in_force() { Self::SecondFactor } else { Self::Key }
            }
            RecordKind::ServiceAccount => {
                let account: ServiceAccountRecord = record(&stored.value)?;
                Self::Credential { bound_to: account.bound_to, client_id: account.client_id }
            }
            _ => Self::Key,
        })
    }
}

impl Change {
    /// The row.
    pub(super) fn key(&self) -> &RecordKey {
        &self.key
    }

    /// What it was and what it will be found by.
    pub(super) fn handles(&self) -> [&Handle; 2] {
        [&self.before, &self.after]
    }
}

impl Book {
    pub(super) fn get(&self, key: &RecordKey) -> Option<&Stored> {
        self.rows.get(key)
    }

    /// The row of a kind whose ids are unique over all organizations.
    pub(super) fn find(&self, kind: RecordKind, id: &str) -> Option<(&RecordKey, &Stored)> {
        let org = self.owners.get(&(kind, id.to_owned()))?;
        self.rows.get_key_value(&RecordKey::new(kind, *org, id))
    }

    /// Rows of a kind, of one organization or of all, in the order of (organization, id), after `after`.
    pub(super) fn list<'a>(
        &'a self,
        kind: RecordKind,
        org: Option<OrgId>,
        after: Option<&RecordKey>,
    ) -> impl Iterator<Item = (&'a RecordKey, &'a Stored)> + use<'a> {
        // Below every key of the kind, and of the organization where one is named.
        let first = RecordKey::new(kind, org.unwrap_or(OrgId::from_bytes([0; 16])), "");
        let from = match after {
            Some(after) if *after >= first => Bound::Excluded(after.clone()),
            _ => Bound::Included(first),
        };
        let of = move |key: &RecordKey| key.kind == kind && org.is_none_or(|org| key.org == org);
        self.rows.range((from, Bound::Unbounded)).take_while(move |(key, _)| of(key))
    }

    /// Reads what the change of a row is to the rest of the book.
    ///
    /// # Errors
    /// [`StoreError`] if the row, as it is or as it will be, is no record of its kind.
    pub(super) fn change(&self, key: RecordKey, stored: Option<Stored>) -> Result<Change, StoreError> {
        let before = Handle::of(key.kind, self.rows.get(&key))?;
        let after = Handle::of(key.kind, stored.as_ref())?;
        Ok(Change { key, stored, before, after })
    }

    /// Takes up a change.
    pub(super) fn take_up(&mut self, change: Change) {
        let Change { key, stored, before, after } = change;
        let org = key.org;
        match before {
            Handle::Person { human, account } => leave(&mut self.persons, &(org, human), &account),
            Handle::Credential { bound_to, client_id } => leave(&mut self.credentials, &(org, bound_to), &client_id),
            Handle::SecondFactor | Handle::Key => {}
        }
        match after {
            Handle::Person { human, account } => drop(self.persons.entry((org, human)).or_default().insert(account)),
            Handle::Credential { bound_to, client_id } => {
                self.credentials.entry((org, bound_to)).or_default().insert(client_id);
            }
            Handle::SecondFactor | Handle::Key => {}
        }
        let unique = matches!(key.kind, RecordKind::ServiceAccount | RecordKind::Enrolment);
        if let Some(stored) = stored {
            if unique {
                self.owners.insert((key.kind, key.id.clone()), org);
            }
            self.rows.insert(key, stored);
        } else {
            self.rows.remove(&key);
            let id = (key.kind, key.id);
            if self.owners.get(&id) == Some(&org) {
                self.owners.remove(&id);
            }
        }
    }

    /// Puts rows of an organization, all of them, in the place of those that were here.
    pub(super) fn replace(&mut self, org: OrgId, fresh: Self) {
        self.rows.retain(|key, _| key.org != org);
        self.persons.retain(|(of, _), _| *of != org);
        self.credentials.retain(|(of, _), _| *of != org);
        self.owners.retain(|_, of| *of != org);
        self.rows.extend(fresh.rows);
        self.persons.extend(fresh.persons);
        self.credentials.extend(fresh.credentials);
        self.owners.extend(fresh.owners);
    }

    /// A record, if there is one.
    ///
    /// # Errors
    /// [`StoreError`] if what is there cannot be read.
    pub(super) fn record<T: DeserializeOwned>(
        &self,
        kind: RecordKind,
        org: OrgId,
        id: &str,
    ) -> Result<Option<T>, StoreError> {
        self.rows.get(&RecordKey::new(kind, org, id)).map(|stored| record(&stored.value)).transpose()
    }

    /// The accounts of a human being.
    pub(super) fn accounts_of(&self, org: OrgId, human: &Name) -> impl Iterator<Item = &Name> {
        self.persons.get(&(org, human.clone())).into_iter().flatten()
    }

    /// The credentials of an agent or a service.
    pub(super) fn credentials_of(&self, org: OrgId, subject: &Subject) -> impl Iterator<Item = &Name> {
        self.credentials.get(&(org, subject.clone())).into_iter().flatten()
    }

    /// What stands for an account in entries.
    pub(super) fn pseudonym(&self, org: OrgId, subject: &Subject) -> Option<Pseudonym> {
        let id = subject.id().as_str();
        match subject.kind() {
            PrincipalKind::Person => {
                self.record(RecordKind::Person, org, id).ok().flatten().map(|r: PersonRecord| r.pseudonym)
            }
            PrincipalKind::Agent => {
                self.record(RecordKind::Agent, org, id).ok().flatten().map(|r: AgentRecord| r.pseudonym)
            }
            PrincipalKind::Service => {
                self.record(RecordKind::Service, org, id).ok().flatten().map(|r: ServiceRecord| r.pseudonym)
            }
            PrincipalKind::System => None,
        }
    }
}

fn leave<K: Ord>(index: &mut BTreeMap<K, BTreeSet<Name>>, key: &K, id: &Name) {
    if let Some(held) = index.get_mut(key) {
        held.remove(id);
        if held.is_empty() {
            index.remove(key);
        }
    }
}

/// Reads a record of JSON.
pub(super) fn record<T: DeserializeOwned>(value: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(value).map_err(|e| StoreError::new("a record cannot be read", e))
}
