//! The vault of accounts over the ledger: rows in memory, each change one append with a `principal` entry.
//!
//! A change of an account is a change of who may do what, so it is on record like any other: the rows travel in the
//! transaction of the entry that says what happened. Who did it and what policy said of it was decided before, and is
//! found in `engine::acting`; without it the gateway itself acts. After the commit the engine is told who is who.
//!
//! Absent: what a row means to a credential (`gateway/identity`). Read next: `book`, `introductions`.

mod book;
mod entry;
mod introductions;

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use countersign_gateway_engine::{Engine, OwnEntry, acting, trail};
use countersign_gateway_identity::{Accounts, RecordKey, RecordKind, StoreError, Stored, Write};
use countersign_gateway_model::OrgId;
use countersign_runners_contract::entry::Row;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use self::book::{Book, Change};
use self::introductions::{Concerned, Introduction};

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

/// The vault.
#[derive(Clone)]
pub(crate) struct Vault(Arc<Inner>);

struct Inner {
    engine: Engine,
    book: RwLock<Book>,
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
        let vault = Self(Arc::new(Inner { engine, book: RwLock::default(), turn: tokio::sync::Mutex::default() }));
        for org in orgs {
            vault.load(*org).await?;
            vault.introduce_all(*org)?;
        }
        Ok(vault)
    }

    async fn load(&self, org: OrgId) -> Result<(), StoreError> {
        let log = self.0.engine.log_of(org).map_err(|e| failed("the log is not open")(e.into()))?;
        let mut fresh = Book::default();
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
                let change = fresh.change(RecordKey::new(kind, org, id), Some(stored))?;
                fresh.take_up(change);
                after = Some(row.key);
            }
            if !whole {
                break;
            }
        }
        self.0.book.write().unwrap_or_else(PoisonError::into_inner).replace(org, fresh);
        Ok(())
    }

    fn read<T>(&self, use_book: impl FnOnce(&Book) -> T) -> T {
        use_book(&self.0.book.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Tells the engine of everybody.
    fn introduce_all(&self, org: OrgId) -> Result<(), StoreError> {
        let now = self.0.engine.now();
        self.tell(org, self.read(|book| Concerned::all(book, org)?.introductions(book, org, now))?)
    }

    /// Tells all of it, whatever of it fails; gives the first failure.
    fn tell(&self, org: OrgId, introductions: Vec<Introduction>) -> Result<(), StoreError> {
        let mut first = Ok(());
        for introduction in introductions {
            let told = match introduction {
                Introduction::Principal { who, known, record } => self.0.engine.introduce(org, who, *known, record),
                Introduction::Other(record) => self.0.engine.describe(org, record),
            };
            first = first.and(told.map_err(|e| StoreError::new("policy cannot be told of an account", e)));
        }
        first
    }

    /// Reads everything again after a change whose fate is not known, and tells the engine of everybody, and of those whom
    /// the change concerned even if they are gone.
    async fn recall(&self, org: OrgId, concerned: &Concerned) -> Result<(), StoreError> {
        self.load(org).await?;
        self.introduce_all(org)?;
        let now = self.0.engine.now();
        self.tell(org, self.read(|book| concerned.introductions(book, org, now))?)
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
        let keys: BTreeSet<&RecordKey> = writes.iter().map(|write| &write.key).collect();
        if keys.len() != writes.len() {
            return Err(StoreError::new("a batch names a row twice", "nothing was written"));
        }
        let prepared = self.read(|book| prepare(book, &writes))?;
        let Some((mut entry, changes, concerned)) = prepared else { return Ok(false) };
        if authority.is_none() {
            let done = self.read(|book| entry::OfSecondFactor::by(&writes, book))?;
            entry.description = done.map(entry::OfSecondFactor::in_words);
            // Whoever would stop something has to come in first.
            entry.urgent = done == Some(entry::OfSecondFactor::Used);
        }
        let committed = match authority {
            Some((who, allowed)) => self.0.engine.commit_own(&who, allowed, entry).await,
            None => self.0.engine.commit_system(org, entry).await,
        };
        if let Err(error) = committed {
            // What is on disk may be ahead of memory if the answer was lost: it is read again before it is used.
            if error.code() == "outcome-unknown"
                && let Err(reading) = self.recall(org, &concerned).await
            {
                tracing::error!(error = %crate::words(&reading), "the accounts cannot be read again: restart the gateway");
            }
            return Err(failed("the ledger did not take the change")(error.into()));
        }
        // Durable. A crash from here on loses only this process's view, which the next start reads again.
        let introductions = {
            let mut book = self.0.book.write().unwrap_or_else(PoisonError::into_inner);
            for change in changes {
                book.take_up(change);
            }
            concerned.introductions(&book, org, self.0.engine.now())
        };
        // It is done, whoever could not be told of it: a caller who heard of a failure would do it again.
        if let Err(error) = introductions.and_then(|introductions| self.tell(org, introductions)) {
            tracing::error!(error = %crate::words(&error), "policy was not told of a change: restart the gateway");
        }
        Ok(true)
    }
}

#[async_trait]
impl Accounts for Vault {
    async fn get(&self, key: &RecordKey) -> Result<Option<Stored>, StoreError> {
        Ok(self.read(|book| book.get(key).cloned()))
    }

    async fn find(&self, kind: RecordKind, id: &str) -> Result<Option<(RecordKey, Stored)>, StoreError> {
        Ok(self.read(|book| book.find(kind, id).map(|(key, stored)| (key.clone(), stored.clone()))))
    }

    async fn list(
        &self,
        kind: RecordKind,
        org: Option<OrgId>,
        after: Option<&RecordKey>,
        limit: usize,
    ) -> Result<Vec<(RecordKey, Stored)>, StoreError> {
        Ok(self.read(|book| {
            let rows = book.list(kind, org, after).take(limit);
            rows.map(|(key, stored)| (key.clone(), stored.clone())).collect()
        }))
    }

    async fn put(&self, writes: &[Write]) -> Result<bool, StoreError> {
        // Taken here: the authority belongs to the task of the request, the work must outlive it.
        let authority = acting::take();
        let (this, writes) = (self.clone(), writes.to_vec());
        match trail::spawn(async move { this.commit(writes, authority).await }).await {
            Ok(done) => done,
            Err(error) => Err(StoreError::new("the change was cut off", error)),
        }
    }
}

/// The entry of a batch, what it changes in memory, and whom that concerns; none where an expected version differs.
fn prepare(book: &Book, writes: &[Write]) -> Result<Option<(OwnEntry, Vec<Change>, Concerned)>, StoreError> {
    if writes.iter().any(|w| book.get(&w.key).map(|stored| stored.version) != w.expected) {
        return Ok(None);
    }
    let mut entry = OwnEntry::new(entry::what_happened(writes, book)?);
    let mut changes = Vec::with_capacity(writes.len());
    for write in writes {
        let version = write.expected.unwrap_or(0).saturating_add(1);
        entry.rows.push(Row { table: ACCOUNTS, key: write_key(&write.key), columns: columns(write, version)? });
        let stored = write.value.clone().map(|value| Stored { version, value });
        changes.push(book.change(write.key.clone(), stored)?);
    }
    let concerned = Concerned::by(book, &changes)?;
    Ok(Some((entry, changes, concerned)))
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
