//! A ledger's door at which the next append goes wrong, once, as a disk or a process goes wrong.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use countersign_gateway_model::{Digest, LogId, OrgId, Timestamp};
use countersign_ledger_entry::Stream;
use countersign_ledger_log::journal::{
    Advance, Batch, HeldPayload, IdempotencyRecord, JournalStats, LogRecord, StreamRecord,
};
use countersign_ledger_log::{
    CommitError, Journal, JournalError, LogNumber, StoredEntry, StreamNumber, ViewRow, Views,
};
use countersign_ledger_merkle::Hash;
use countersign_ledger_sql::SqlJournal;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// There is no room for it.
    Full,
    /// It is not stored, and nobody knows why.
    NotStored,
    /// It is stored, and an error is told.
    StoredAndLost,
    /// The next change is not read.
    Unreadable,
    /// Whatever is read of changes says the second catalogue where it says the first: from now on, not once.
    OtherCatalogue(Digest, Digest),
}

/// What goes wrong next, at whichever start.
pub(crate) type Faults = Arc<Mutex<Option<Fault>>>;

/// The real journal behind that door.
pub(crate) struct Faulty {
    pub(crate) inner: SqlJournal,
    pub(crate) faults: Faults,
    /// Entries of streams that were read so far.
    pub(crate) read: Arc<AtomicU64>,
}

impl Faulty {
    fn take(&self, of: &[Fault]) -> Option<Fault> {
        let mut armed = self.faults.lock().unwrap();
        armed.filter(|fault| of.contains(fault)).inspect(|_| *armed = None)
    }

    fn altered(&self, table: &str, columns: Vec<u8>) -> Vec<u8> {
        match *self.faults.lock().unwrap() {
            Some(Fault::OtherCatalogue(one, other)) if table == CHANGES => {
                String::from_utf8(columns).unwrap().replace(&one.to_string(), &other.to_string()).into_bytes()
            }
            _ => columns,
        }
    }
}

/// Table of changes.
const CHANGES: &str = "changes";

fn broken() -> JournalError {
    JournalError::Backend { doing: "was tested", source: "input/output error".into() }
}

#[async_trait]
impl Journal for Faulty {
    async fn stage(&self, batch: &Batch) -> Result<Vec<Vec<u8>>, JournalError> {
        match self.take(&[Fault::Full, Fault::NotStored]) {
            Some(Fault::Full) => Err(JournalError::Full),
            Some(_) => Err(broken()),
            None => self.inner.stage(batch).await,
        }
    }

    async fn commit(&self, advances: &[Advance]) -> Result<(), CommitError> {
        self.inner.commit(advances).await?;
        self.take(&[Fault::StoredAndLost]).map_or(Ok(()), |_| Err(CommitError::Unknown(broken())))
    }

    async fn rollback(&self) -> Result<(), JournalError> {
        self.inner.rollback().await
    }
    async fn numbers(&self) -> Result<(LogNumber, StreamNumber), JournalError> {
        self.inner.numbers().await
    }
    async fn logs(&self, after: LogNumber, limit: usize) -> Result<Vec<LogRecord>, JournalError> {
        self.inner.logs(after, limit).await
    }
    async fn log_of(&self, org: OrgId) -> Result<Option<LogRecord>, JournalError> {
        self.inner.log_of(org).await
    }
    async fn log_by_id(&self, id: LogId) -> Result<Option<LogRecord>, JournalError> {
        self.inner.log_by_id(id).await
    }
    async fn last_index(&self, log: LogNumber) -> Result<Option<u64>, JournalError> {
        self.inner.last_index(log).await
    }
    async fn entries(&self, log: LogNumber, range: Range<u64>) -> Result<Vec<StoredEntry>, JournalError> {
        self.inner.entries(log, range).await
    }
    async fn stream(&self, log: LogNumber, stream: Stream) -> Result<Option<StreamRecord>, JournalError> {
        self.inner.stream(log, stream).await
    }
    async fn stream_entries(
        &self,
        log: LogNumber,
        stream: Stream,
        from: u64,
        limit: usize,
    ) -> Result<Vec<StoredEntry>, JournalError> {
        let entries = self.inner.stream_entries(log, stream, from, limit).await?;
        self.read.fetch_add(u64::try_from(entries.len()).unwrap(), Ordering::Relaxed);
        Ok(entries)
    }
    async fn idempotency(
        &self,
        log: LogNumber,
        stream: Stream,
        since: Timestamp,
    ) -> Result<Vec<IdempotencyRecord>, JournalError> {
        self.inner.idempotency(log, stream, since).await
    }
    async fn payloads(&self, log: LogNumber, index: u64) -> Result<Vec<(Digest, Vec<u8>)>, JournalError> {
        self.inner.payloads(log, index).await
    }
    async fn payloads_of(&self, log: LogNumber, range: Range<u64>) -> Result<Vec<HeldPayload>, JournalError> {
        self.inner.payloads_of(log, range).await
    }
    async fn blob(&self, log: LogNumber, digest: &Digest) -> Result<Option<Vec<u8>>, JournalError> {
        self.inner.blob(log, digest).await
    }
    async fn blobs(&self, log: LogNumber, after: Option<Digest>, limit: usize) -> Result<Vec<Digest>, JournalError> {
        self.inner.blobs(log, after, limit).await
    }
    async fn tile(&self, log: LogNumber, level: u8, index: u64) -> Result<Option<Vec<u8>>, JournalError> {
        self.inner.tile(log, level, index).await
    }
    async fn tile_roots(&self, log: LogNumber, level: u8, range: Range<u64>) -> Result<Vec<Hash>, JournalError> {
        self.inner.tile_roots(log, level, range).await
    }
    async fn checkpoint(&self, log: LogNumber, size: u64) -> Result<Option<String>, JournalError> {
        self.inner.checkpoint(log, size).await
    }
    async fn checkpoint_sizes(&self, log: LogNumber, after: u64, limit: usize) -> Result<Vec<u64>, JournalError> {
        self.inner.checkpoint_sizes(log, after, limit).await
    }
    fn free_space(&self) -> Option<u64> {
        self.inner.free_space()
    }
    fn release_reserve(&self) -> bool {
        self.inner.release_reserve()
    }
    fn stats(&self) -> JournalStats {
        self.inner.stats()
    }
    async fn close(&self) -> Result<(), JournalError> {
        self.inner.close().await
    }
}

#[async_trait]
impl Views for Faulty {
    async fn get(&self, org: OrgId, table: &str, key: &[u8]) -> Result<Option<Vec<u8>>, JournalError> {
        if table == CHANGES && self.take(&[Fault::Unreadable]).is_some() {
            return Err(broken());
        }
        let columns = self.inner.get(org, table, key).await?;
        Ok(columns.map(|columns| self.altered(table, columns)))
    }
    async fn scan(
        &self,
        org: OrgId,
        table: &str,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        reverse: bool,
    ) -> Result<Vec<ViewRow>, JournalError> {
        let rows = self.inner.scan(org, table, prefix, after, limit, reverse).await?;
        let altered = |row: ViewRow| ViewRow { columns: self.altered(table, row.columns), ..row };
        Ok(rows.into_iter().map(altered).collect())
    }
}
