//! The doors to storage: `Journal` gives order and durability, `Views` answers from projections.
//!
//! One committer writes through `Journal`; everybody reads. A door decides nothing: what may be appended is checked in
//! `committer`, and what was stored is hashed and signed there. Absent: SQL (`ledger/sql`), the tree's arithmetic
//! (`ledger/merkle`). Read next: `committer`, which calls `stage` and `commit` in that order for every batch.

use std::error::Error as StdError;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use thiserror::Error;

use countersign_gateway_model::{Digest, LogId, OrgId, Pseudonym, Timestamp};
use countersign_ledger_entry::{Row, Stream};
use countersign_ledger_merkle::{Hash, TileCoord};

/// Logs that a journal holds at most: their numbers are part of short keys.
pub const MAX_LOGS: u32 = (1 << 19) - 1;

/// Payloads that one entry names at most.
pub const MAX_PAYLOADS: usize = 64;

/// A log's number within one journal, from 1 to [`MAX_LOGS`]. Short, so that keys are short; it means nothing outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogNumber(pub u32);

/// A stream's number within one journal, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamNumber(pub u64);

/// Why storage did not do as asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum JournalError {
    /// Somebody else holds the database; nothing was changed and the same call may succeed later.
    #[error("the journal is busy; try again")]
    Busy,
    /// No room; nothing was changed.
    #[error("the journal has no room left; free disk space")]
    Full,
    /// Another committer has taken this journal over, or changed what this one believes.
    #[error("another committer has written to this journal; only one may: stop it, then start again")]
    Fenced,
    /// A stream that the batch wanted to begin is there already.
    #[error("a stream of the batch exists already")]
    StreamExists,
    /// What is stored contradicts itself.
    #[error("the journal is damaged: {0}; run `countersign ledger fsck`")]
    Corrupt(String),
    /// Anything else that the storage reports.
    #[error("the journal failed while it {doing}")]
    Backend {
        /// What was being done, in the past progressive.
        doing: &'static str,
        /// What the storage says.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
}

/// How a commit failed.
#[derive(Debug, Error)]
pub enum CommitError {
    /// It failed before COMMIT and was rolled back: certainly nothing was kept.
    #[error("the batch was rolled back")]
    RolledBack(#[source] JournalError),
    /// It failed in COMMIT or in the sync: what was kept is not known until the journal is opened again.
    #[error("the outcome of COMMIT is not known")]
    Unknown(#[source] JournalError),
}

/// A log as the journal holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// Its number here.
    pub number: LogNumber,
    /// Its id.
    pub id: LogId,
    /// Whose it is.
    pub org: OrgId,
    /// Entries.
    pub size: u64,
    /// Root at that size.
    pub root: Hash,
    /// The signed checkpoint of that size; empty before genesis is committed.
    pub note: String,
    /// Latest claimed time of any entry.
    pub newest: Timestamp,
}

/// An entry as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEntry {
    /// Place in the log.
    pub index: u64,
    /// The leaf's bytes.
    pub leaf: Vec<u8>,
}

/// A payload as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldPayload {
    /// The entry that names it.
    pub index: u64,
    /// Its digest, as it was stored with it.
    pub digest: Digest,
    /// Salt and content.
    pub bytes: Vec<u8>,
}

/// Where a stream stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamRecord {
    /// Its number here.
    pub number: StreamNumber,
    /// Sequence of its last entry and that entry's leaf hash, computed from the stored bytes; none without entries.
    pub last: Option<(u64, Hash)>,
}

/// An idempotency key with what it was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyRecord {
    /// Whose key.
    pub principal: Pseudonym,
    /// Digest of the key.
    pub key: Digest,
    /// Digest of the request it came with.
    pub request: Digest,
    /// The answer given.
    pub answer: Vec<u8>,
    /// Claimed time of the append.
    pub at: Timestamp,
}

/// A projection row as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewRow {
    /// Key within organization and table.
    pub key: Vec<u8>,
    /// JSON columns.
    pub columns: Vec<u8>,
}

/// A log to be begun by a batch.
#[derive(Clone, Copy, Debug)]
pub struct NewLogRow {
    /// Number: one that was never used.
    pub number: LogNumber,
    /// Id.
    pub id: LogId,
    /// Whose.
    pub org: OrgId,
}

/// A stream to be begun by a batch.
#[derive(Clone, Copy, Debug)]
pub struct NewStream {
    /// Number: one that was never used.
    pub number: StreamNumber,
    /// In which log.
    pub log: LogNumber,
    /// Kind and id.
    pub stream: Stream,
}

/// An entry to be stored by a batch.
#[derive(Clone, Debug)]
pub struct NewEntry {
    /// Log.
    pub log: LogNumber,
    /// Place in the log.
    pub index: u64,
    /// Stream.
    pub stream: StreamNumber,
    /// Place in the stream.
    pub sequence: u64,
    /// The leaf.
    pub leaf: Arc<[u8]>,
}

/// A payload to be stored beside its entry.
#[derive(Clone, Debug)]
pub struct NewPayload {
    /// Log.
    pub log: LogNumber,
    /// The entry that names it.
    pub index: u64,
    /// Which of the entry's payloads, from 0.
    pub n: u8,
    /// Its digest.
    pub digest: Digest,
    /// Salt and content.
    pub bytes: Arc<[u8]>,
}

/// Shared bytes, stored once per log.
#[derive(Clone, Debug)]
pub struct NewBlob {
    /// Log.
    pub log: LogNumber,
    /// Plain SHA-256.
    pub digest: Digest,
    /// Content.
    pub bytes: Arc<[u8]>,
}

/// A projection row to be put, or deleted where there are no columns.
#[derive(Clone, Debug)]
pub struct NewRow {
    /// Log of the organization.
    pub log: LogNumber,
    /// Table, key and columns.
    pub row: Arc<Row>,
}

/// An idempotency key to be kept.
#[derive(Clone, Debug)]
pub struct NewIdempotency {
    /// Log.
    pub log: LogNumber,
    /// First entry of the append.
    pub index: u64,
    /// The stream that it is scoped to, where that is another one than the entry's.
    pub scope: Option<StreamNumber>,
    /// The record.
    pub record: Arc<IdempotencyRecord>,
}

/// A payload to be erased: salt and value go, the digest in the entry stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Erase {
    /// Log.
    pub log: LogNumber,
    /// The entry that names it.
    pub index: u64,
    /// Which of its payloads.
    pub digest: Digest,
}

/// Everything that one commit stores, but for the checkpoints, which are made from what was stored.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Logs begun.
    pub logs: Vec<NewLogRow>,
    /// Streams begun.
    pub streams: Vec<NewStream>,
    /// Entries, in the order of their log and index.
    pub entries: Vec<NewEntry>,
    /// Payloads.
    pub payloads: Vec<NewPayload>,
    /// Shared bytes.
    pub blobs: Vec<NewBlob>,
    /// Projection rows; no two have the same log, table and key.
    pub rows: Vec<NewRow>,
    /// Idempotency keys.
    pub idempotency: Vec<NewIdempotency>,
    /// Payloads erased.
    pub erase: Vec<Erase>,
}

/// A tile that will never change, with the hash of the subtree that it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FullTile {
    /// Which.
    pub coord: TileCoord,
    /// Hash over its 256 hashes.
    pub root: Hash,
    /// Its hashes, 8,192 bytes.
    pub hashes: Vec<u8>,
}

/// The step of one log from its last checkpoint to the next.
#[derive(Clone, Debug)]
pub struct Advance {
    /// Log.
    pub log: LogNumber,
    /// Size that the journal must still hold.
    pub old_size: u64,
    /// Root that the journal must still hold.
    pub old_root: Hash,
    /// Size from now on.
    pub size: u64,
    /// Root from now on.
    pub root: Hash,
    /// The signed checkpoint.
    pub note: String,
    /// Latest claimed time of any entry from now on.
    pub newest: Timestamp,
    /// Tiles completed on the way.
    pub tiles: Vec<FullTile>,
}

/// What the storage can say of itself, for operators and benchmarks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JournalStats {
    /// Syncs of its files that were asked for, as far as the storage can know them.
    pub syncs: u64,
    /// Bytes that are written ahead and not yet in their final place.
    pub wal_bytes: u64,
    /// Bytes free where it lives; none if it cannot tell.
    pub free_bytes: Option<u64>,
    /// Statements that batches took so far.
    pub statements: u64,
    /// Reads of everybody but the committer so far.
    pub reads: u64,
}

/// Order and durability. One committer calls the writing methods, in the order `stage`, then `commit` or `rollback`.
///
/// Every method is all or nothing. Reads see only what was committed.
#[async_trait]
pub trait Journal: Views {
    /// Highest log and stream numbers in use; 0 where there is none.
    async fn numbers(&self) -> Result<(LogNumber, StreamNumber), JournalError>;

    /// Logs in the order of their numbers, after `after`, at most `limit`.
    async fn logs(&self, after: LogNumber, limit: usize) -> Result<Vec<LogRecord>, JournalError>;

    /// The log of an organization.
    async fn log_of(&self, org: OrgId) -> Result<Option<LogRecord>, JournalError>;

    /// The log with this id.
    async fn log_by_id(&self, id: LogId) -> Result<Option<LogRecord>, JournalError>;

    /// Highest entry index in the log; none if it is empty.
    async fn last_index(&self, log: LogNumber) -> Result<Option<u64>, JournalError>;

    /// Entries of `range`, in order; fewer if the log ends before.
    async fn entries(&self, log: LogNumber, range: Range<u64>) -> Result<Vec<StoredEntry>, JournalError>;

    /// Where a stream stands; none if the journal does not know it.
    async fn stream(&self, log: LogNumber, stream: Stream) -> Result<Option<StreamRecord>, JournalError>;

    /// Entries of a stream from sequence `from` on, in order, at most `limit`.
    async fn stream_entries(
        &self,
        log: LogNumber,
        stream: Stream,
        from: u64,
        limit: usize,
    ) -> Result<Vec<StoredEntry>, JournalError>;

    /// Idempotency keys scoped to a stream whose append claims a time not before `since`.
    async fn idempotency(
        &self,
        log: LogNumber,
        stream: Stream,
        since: Timestamp,
    ) -> Result<Vec<IdempotencyRecord>, JournalError>;

    /// The payloads of an entry that are still there, by number: digest and bytes.
    async fn payloads(&self, log: LogNumber, index: u64) -> Result<Vec<(Digest, Vec<u8>)>, JournalError>;

    /// The payloads of the entries of `range` that are still there, in order: entry, digest and bytes.
    async fn payloads_of(&self, log: LogNumber, range: Range<u64>) -> Result<Vec<HeldPayload>, JournalError>;

    /// Shared bytes.
    async fn blob(&self, log: LogNumber, digest: &Digest) -> Result<Option<Vec<u8>>, JournalError>;

    /// Digests of a log's shared bytes in order, after `after`, at most `limit`.
    async fn blobs(&self, log: LogNumber, after: Option<Digest>, limit: usize) -> Result<Vec<Digest>, JournalError>;

    /// The hashes of a full tile.
    async fn tile(&self, log: LogNumber, level: u8, index: u64) -> Result<Option<Vec<u8>>, JournalError>;

    /// The subtree hashes of the full tiles `range` of a level, in order; fewer if there are fewer.
    async fn tile_roots(&self, log: LogNumber, level: u8, range: Range<u64>) -> Result<Vec<Hash>, JournalError>;

    /// The signed checkpoint of exactly this size.
    async fn checkpoint(&self, log: LogNumber, size: u64) -> Result<Option<String>, JournalError>;

    /// Sizes of signed checkpoints, ascending, after `after`, at most `limit`.
    async fn checkpoint_sizes(&self, log: LogNumber, after: u64, limit: usize) -> Result<Vec<u64>, JournalError>;

    /// Begins a transaction, stores the batch, and reads its entries back: their stored bytes in the batch's order.
    /// On an error nothing of it is left and no transaction is open.
    ///
    /// # Errors
    /// [`JournalError::StreamExists`] if a stream of `batch.streams` is there already.
    async fn stage(&self, batch: &Batch) -> Result<Vec<Vec<u8>>, JournalError>;

    /// Moves each log from the size and root that the committer believes to the next, and commits what was staged.
    async fn commit(&self, advances: &[Advance]) -> Result<(), CommitError>;

    /// Forgets what was staged.
    async fn rollback(&self) -> Result<(), JournalError>;

    /// Bytes free where the journal lives; none if it cannot tell.
    fn free_space(&self) -> Option<u64>;

    /// Gives the reserved room up, so that entries that must not be lost still fit. True if there was some.
    fn release_reserve(&self) -> bool;

    /// Figures.
    fn stats(&self) -> JournalStats;

    /// Brings everything to its final place and closes. Nothing may be called after it.
    async fn close(&self) -> Result<(), JournalError>;
}

/// Projections: rows by organization, table and key. They are put only within a commit.
#[async_trait]
pub trait Views: Send + Sync + 'static {
    /// One row's JSON columns.
    async fn get(&self, org: OrgId, table: &str, key: &[u8]) -> Result<Option<Vec<u8>>, JournalError>;

    /// Rows whose key begins with `prefix`, in the order of their keys (descending with `reverse`), beginning after the
    /// key `after`, at most `limit`.
    async fn scan(
        &self,
        org: OrgId,
        table: &str,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        reverse: bool,
    ) -> Result<Vec<ViewRow>, JournalError>;
}
