//! The door to the vault of accounts: versioned rows of bytes, written in batches that happen whole or not at all.
//!
//! The program fills it (one table is enough: kind, organization, id, version, value). Values are JSON of the records
//! in `record`; they hold hashes of secrets, and one secret that must be readable (`second_factor`). Absent: any
//! implementation for production. Read next: `directory`, which is what others call.

use std::fmt;

use async_trait::async_trait;
use countersign_gateway_model::OrgId;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKind {
    /// [`crate::PersonRecord`], by the person's id.
    Person,
    /// [`crate::AgentRecord`], by the agent's id.
    Agent,
    /// [`crate::ServiceRecord`], by the service's id.
    Service,
    /// [`crate::ServiceAccountRecord`], by client id; client ids are unique over all organizations.
    ServiceAccount,
    /// [`crate::EnrolmentRecord`], by enrolment id; unique over all organizations.
    Enrolment,
    /// The identity map: [`crate::Subject`] by the text of its pseudonym.
    Pseudonym,
    /// [`crate::Revocation`], by a text made of its target.
    Revocation,
    /// [`crate::SecondFactorRecord`], by the id of its person.
    SecondFactor,
}

impl RecordKind {
    /// All kinds.
    pub const ALL: [Self; 8] = [
        Self::Person,
        Self::Agent,
        Self::Service,
        Self::ServiceAccount,
        Self::Enrolment,
        Self::Pseudonym,
        Self::Revocation,
        Self::SecondFactor,
    ];

    /// A stable name for a column.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Person => "person",
            Self::Agent => "agent",
            Self::Service => "service",
            Self::ServiceAccount => "service_account",
            Self::Enrolment => "enrolment",
            Self::Pseudonym => "pseudonym",
            Self::Revocation => "revocation",
            Self::SecondFactor => "second_factor",
        }
    }
}

/// Where a row lives. Rows of one organization cannot be named from another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordKey {
    /// What it is.
    pub kind: RecordKind,
    /// Whose it is.
    pub org: OrgId,
    /// Its id; at most 300 bytes of ASCII.
    pub id: String,
}

impl RecordKey {
    /// A key.
    pub fn new(kind: RecordKind, org: OrgId, id: impl Into<String>) -> Self {
        Self { kind, org, id: id.into() }
    }
}

/// A row as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Starts at 1 and grows by 1 with each write of the row.
    pub version: u64,
    /// JSON.
    pub value: Vec<u8>,
}

/// One row of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The row.
    pub key: RecordKey,
    /// The version that must be stored now: `None` for a row that must not exist, `Some(n)` for exactly version `n`.
    pub expected: Option<u64>,
    /// The new value; `None` deletes the row.
    pub value: Option<Vec<u8>>,
}

/// The store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[error("store of accounts: {what}")]
pub struct StoreError {
    /// What was being done.
    pub what: String,
    /// Why.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl StoreError {
    /// With a source.
    pub fn new(what: impl Into<String>, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { what: what.into(), source: Some(source.into()) }
    }
}

/// The vault of accounts. Reads see every earlier write that answered `true`.
#[async_trait]
pub trait Accounts: Send + Sync + 'static {
    /// The row, if there is one.
    async fn get(&self, key: &RecordKey) -> Result<Option<Stored>, StoreError>;

    /// The row of a kind whose ids are unique over all organizations (service accounts, enrolments).
    async fn find(&self, kind: RecordKind, id: &str) -> Result<Option<(RecordKey, Stored)>, StoreError>;

    /// Up to `limit` rows of a kind, of one organization or of all, in the order of (organization, id), after `after`.
    async fn list(
        &self,
        kind: RecordKind,
        org: Option<OrgId>,
        after: Option<&RecordKey>,
        limit: usize,
    ) -> Result<Vec<(RecordKey, Stored)>, StoreError>;

    /// Writes all rows durably and answers `true`, or writes none and answers `false` because an expected version
    /// differs. No batch names a row twice.
    async fn put(&self, writes: &[Write]) -> Result<bool, StoreError>;
}

/// A record with the version it was read at.
#[derive(Clone, Debug)]
pub(crate) struct Versioned<T> {
    pub(crate) version: u64,
    pub(crate) record: T,
}

/// Reads a record of JSON.
pub(crate) async fn read<T: DeserializeOwned>(
    accounts: &dyn Accounts,
    key: &RecordKey,
) -> Result<Option<Versioned<T>>, StoreError> {
    accounts.get(key).await?.map(|stored| decode(key, &stored)).transpose()
}

pub(crate) fn decode<T: DeserializeOwned>(key: &RecordKey, stored: &Stored) -> Result<Versioned<T>, StoreError> {
    let record = serde_json::from_slice(&stored.value).map_err(|source| StoreError::new(unreadable(key), source))?;
    Ok(Versioned { version: stored.version, record })
}

fn unreadable(key: &RecordKey) -> impl Into<String> + fmt::Display {
    format!("row `{}` of kind `{}` cannot be read", key.id, key.kind.as_str())
}

/// A write of a record as JSON.
pub(crate) fn write<T: Serialize>(key: RecordKey, expected: Option<u64>, record: &T) -> Result<Write, StoreError> {
    let value = serde_json::to_vec(record).map_err(|source| StoreError::new("a record cannot be written", source))?;
    Ok(Write { key, expected, value: Some(value) })
}

/// Deletes the rows of a kind that have `ended`, each by itself; the number of rows.
pub(crate) async fn sweep<T: DeserializeOwned>(
    accounts: &dyn Accounts,
    kind: RecordKind,
    ended: impl Fn(&T) -> bool,
) -> Result<usize, StoreError> {
    let (mut after, mut swept) = (None, 0usize);
    loop {
        let page = accounts.list(kind, None, after.as_ref(), 500).await?;
        for (key, stored) in &page {
            if ended(&decode::<T>(key, stored)?.record) {
                let write = Write { key: key.clone(), expected: Some(stored.version), value: None };
                swept = swept.saturating_add(usize::from(accounts.put(&[write]).await?));
            }
        }
        match page.into_iter().next_back() {
            Some((key, _)) => after = Some(key),
            None => return Ok(swept),
        }
    }
}
