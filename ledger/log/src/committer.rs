//! The one committer: from what waits in the queue to one transaction, one checkpoint per touched log, and receipts.
//!
//! Per batch, in this order, and nothing is released before the last step:
//!
//! 1. admit: expected sequence, chain, claimed time, idempotency, room on the disk; the others are told at once
//! 2. `Journal::stage`: store, and read the entries back
//! 3. hash what was read back, extend the tree, check consistency with the verifier's code
//! 4. sign one checkpoint per log and check it as any holder would
//! 5. `Journal::commit`: compare-and-swap of size and root, COMMIT, sync
//! 6. memory, anchor, receipts
//!
//! Absent: signing of entries (callers do it), a timer (the batch is what came while the last one was on its way to the
//! disk), retries of a COMMIT that failed. Read next: `state`.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::hash::{Hash as StdHash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use tokio::sync::oneshot;

use countersign_gateway_model::{Digest, Duration, Timestamp};
use countersign_ledger_entry::note::Checkpoint;
use countersign_ledger_entry::{Header, Receipt, Row, Stream, StreamKind, VerifiedCheckpoint};
use countersign_ledger_merkle::{
    Extension, Hash, TILE_HEIGHT, TILE_WIDTH, TileCoord, encode_tile, leaf_hash, verify_consistency,
};

use crate::anchor;
use crate::append::{Appended, AppendedEntry, IdempotencyScope};
use crate::config::LogsConfig;
use crate::error::{AppendError, Head, Replay};
use crate::journal::{
    Advance, Batch, CommitError, Erase, FullTile, IdempotencyRecord, Journal, JournalError, LogNumber, NewBlob,
    NewEntry, NewIdempotency, NewLogRow, NewPayload, NewRow, NewStream, StreamNumber,
};
use crate::lock;
use crate::queue::Queue;
use crate::state::{
    IdempotencyKey, Known, LogState, LogTable, StreamKey, StreamMap, StreamState, StreamTable, StreamUpdate, Tip,
};
use crate::stats::{Counters, add};

/// How far a claimed time may be behind the log's running maximum, or off the committer's clock.
pub(crate) const TOLERANCE: Duration = Duration::from_secs(5);

/// When to come back, for those who are pushed back.
pub(crate) const RETRY_AFTER: Duration = Duration(250);

/// Free disk space, in bytes, below which the reserve is given up for urgent appends: some batches of them fit in it.
const LOW: u64 = 8 << 20;

/// Commits between two looks for idempotency keys that are older than their window.
const FORGET_EVERY: u64 = 1024;

const WIDTH: usize = TILE_WIDTH as usize;

/// What all handles and the committer share.
pub(crate) struct Core {
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) config: LogsConfig,
    pub(crate) queue: Queue<Pending>,
    pub(crate) logs: LogTable,
    pub(crate) streams: StreamTable,
    pub(crate) counters: Counters,
    pub(crate) anchor: Option<anchor::Writer>,
    /// Boots of this process by log: a log that leaves memory keeps its boot.
    pub(crate) boots: Mutex<HashMap<LogNumber, u64>>,
    pub(crate) next_log: AtomicU32,
    pub(crate) next_stream: AtomicU64,
    pub(crate) stopped: OnceLock<String>,
    pub(crate) done: AtomicBool,
}

/// An append on its way, in the form in which it can be tried again without copying its bytes.
pub(crate) struct Pending {
    pub(crate) log: Arc<LogState>,
    /// The append begins the log: its one entry is genesis.
    pub(crate) genesis: bool,
    pub(crate) stream: Stream,
    pub(crate) expected: u64,
    pub(crate) entries: Vec<PendingEntry>,
    pub(crate) blobs: Vec<(Digest, Arc<[u8]>)>,
    pub(crate) rows: Vec<Arc<Row>>,
    pub(crate) idempotency: Option<(IdempotencyScope, Arc<IdempotencyRecord>)>,
    pub(crate) erase: Vec<(u64, Digest)>,
    pub(crate) urgent: bool,
    pub(crate) reply: oneshot::Sender<Result<Appended, AppendError>>,
}

pub(crate) struct PendingEntry {
    pub(crate) header: Header,
    pub(crate) hash: Hash,
    pub(crate) leaf: Arc<[u8]>,
    pub(crate) payloads: Vec<(Digest, Arc<[u8]>)>,
}

impl Pending {
    /// About how much memory and disk it takes.
    pub(crate) fn bytes(&self) -> usize {
        let entry = |e: &PendingEntry| e.leaf.len() + e.payloads.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
        let row = |r: &Arc<Row>| r.key.len() + r.columns.as_ref().map_or(0, Vec::len);
        self.entries.iter().map(entry).sum::<usize>()
            + self.blobs.iter().map(|(_, bytes)| bytes.len()).sum::<usize>()
            + self.rows.iter().map(row).sum::<usize>()
            + self.idempotency.as_ref().map_or(0, |(_, record)| record.answer.len())
    }
}

/// A batch while it is put together.
#[derive(Default)]
struct Work {
    batch: Batch,
    logs: HashMap<LogNumber, LogWork>,
    streams: StreamMap<StreamWork>,
    rows: HashMap<RowKey, usize>,
    /// Some stream was taken for new because its append expects sequence 0; the journal has not been asked.
    guessed: bool,
}

struct LogWork {
    state: Arc<LogState>,
    tip: Tip,
    size: u64,
    newest: Timestamp,
    /// Positions in the batch of this log's entries, in order of index.
    positions: Vec<usize>,
}

struct StreamWork {
    number: StreamNumber,
    is_new: bool,
    head: Option<Head>,
    keys: HashMap<IdempotencyKey, Arc<IdempotencyRecord>>,
}

/// A row by organization, table and key.
struct RowKey(LogNumber, Arc<Row>);

impl PartialEq for RowKey {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0 && self.1.table == other.1.table && self.1.key == other.1.key
    }
}

impl Eq for RowKey {}

impl StdHash for RowKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
        self.1.table.hash(state);
        self.1.key.hash(state);
    }
}

/// An admitted append with the place of its first entry.
struct Admitted {
    pending: Pending,
    index: u64,
}

/// A log of the batch after its stored bytes were hashed.
struct Proven {
    state: Arc<LogState>,
    extension: Extension,
    tail: Vec<Hash>,
    checkpoint: Arc<VerifiedCheckpoint>,
    newest: Timestamp,
    authority: countersign_ledger_entry::body::AuthorityMode,
}

/// Stops the ledger if the committer ends in any other way than by coming to the end of its work.
struct Watch<'a>(&'a Core);

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if !self.0.done.load(Ordering::Acquire) {
            // A defect of ours: what was on its way is not known, and nobody would answer what comes after it.
            self.0.stop("the committer has panicked");
            drop(self.0.queue.drain());
            (self.0.config.on_fatal)("the committer has panicked");
        }
    }
}

impl Core {
    /// Drains the queue until it is closed. Runs alone, on a thread of its own.
    pub(crate) async fn run(&self) {
        let _watch = Watch(self);
        loop {
            let waiting = self.queue.take().await;
            if waiting.is_empty() {
                break;
            }
            let mut again = self.commit_batch(waiting, false, false).await;
            // A batch is tried again at most twice: with every stream looked up, and with the reserve given up.
            for _ in 0..2 {
                let Some((rest, sure, reserve)) = again else { break };
                again = self.commit_batch(rest, sure, reserve).await;
            }
            if let Some((rest, _, _)) = again {
                refuse(rest, || AppendError::Busy { retry_after: RETRY_AFTER }, self);
            }
            if let Some(reason) = self.stopped.get() {
                refuse(self.queue.take().await, || AppendError::Refusing(reason.clone()), self);
                // Everybody has an answer: now the process may end.
                (self.config.on_fatal)(reason);
                break;
            }
        }
        self.done.store(true, Ordering::Release);
    }

    /// Says that nothing may be signed any more. The first reason stands.
    fn stop(&self, reason: &str) {
        if self.stopped.set(reason.to_owned()).is_ok() {
            self.queue.close();
        }
    }

    /// Commits what can be committed of `waiting`. What is given back is to be tried again, with all streams looked up
    /// (`sure`) or with the reserve given up (`reserve`).
    async fn commit_batch(
        &self,
        waiting: Vec<Pending>,
        sure: bool,
        reserve: bool,
    ) -> Option<(Vec<Pending>, bool, bool)> {
        let free = self.journal.free_space();
        let room = free.is_none_or(|free| free >= self.config.reserve);
        if free.is_some_and(|free| free < LOW) && waiting.iter().any(|p| p.urgent) && self.journal.release_reserve() {
            // Before it is needed: without room COMMIT itself would fail, and that ends the process.
            tracing::warn!("the disk is nearly full; the reserve was given up for entries that stop something");
        }
        let now = self.config.clock.now();
        let mut work = Work::default();
        let mut admitted = Vec::with_capacity(waiting.len());
        for pending in waiting {
            if !room && !pending.urgent {
                refuse([pending], || AppendError::DiskFull, self);
                continue;
            }
            match self.admit(&mut work, &pending, now, sure).await {
                Ok(index) => admitted.push(Admitted { pending, index }),
                Err(error) => {
                    let mut error = Some(error);
                    refuse([pending], || error.take().unwrap_or(AppendError::Unknown), self);
                }
            }
        }
        if admitted.is_empty() {
            return None;
        }
        let back = |admitted: Vec<Admitted>| admitted.into_iter().map(|a| a.pending).collect::<Vec<_>>();
        let stored = match self.journal.stage(&work.batch).await {
            Ok(stored) => stored,
            Err(JournalError::StreamExists) if work.guessed => return Some((back(admitted), true, reserve)),
            Err(JournalError::Busy) => {
                refuse(back(admitted), || AppendError::Busy { retry_after: RETRY_AFTER }, self);
                return None;
            }
            Err(JournalError::Full) => {
                let (urgent, rest): (Vec<_>, Vec<_>) = back(admitted).into_iter().partition(|p| p.urgent);
                refuse(rest, || AppendError::DiskFull, self);
                if !urgent.is_empty() && !reserve && self.journal.release_reserve() {
                    tracing::warn!("the disk is full; the reserve was given up for entries that stop something");
                    return Some((urgent, sure, true));
                }
                refuse(urgent, || AppendError::DiskFull, self);
                return None;
            }
            Err(error) => {
                // Nothing of the batch is left, but storage that fails so cannot be trusted with the next one either.
                let reason = format!("the journal could not store a batch: {}", chain(&error));
                self.stop(&reason);
                refuse(back(admitted), || AppendError::Refusing(reason.clone()), self);
                return None;
            }
        };
        // Crash from here to COMMIT: the transaction is not committed, nobody holds a receipt, nothing was signed away.
        let (proven, advances) = match self.prove(&mut work, &stored).await {
            Ok(both) => both,
            Err(reason) => {
                if let Err(error) = self.journal.rollback().await {
                    tracing::error!(error = %chain(&error), "the batch could not be rolled back");
                }
                self.stop(&reason);
                refuse(back(admitted), || AppendError::Refusing(reason.clone()), self);
                return None;
            }
        };
        match self.journal.commit(&advances).await {
            Ok(()) => {}
            Err(CommitError::RolledBack(JournalError::Busy)) => {
                refuse(back(admitted), || AppendError::Busy { retry_after: RETRY_AFTER }, self);
                return None;
            }
            Err(CommitError::RolledBack(JournalError::Full)) => {
                refuse(back(admitted), || AppendError::DiskFull, self);
                return None;
            }
            Err(CommitError::RolledBack(error)) => {
                let reason = format!("the batch was not committed: {}", chain(&error));
                self.stop(&reason);
                refuse(back(admitted), || AppendError::Refusing(reason.clone()), self);
                return None;
            }
            Err(CommitError::Unknown(error)) => {
                // After a failed sync the kernel may hold the pages as clean: a second COMMIT could succeed and prove
                // nothing. Only a new process, which writes the log of the database again and reads its tail, may go on.
                let reason = format!("COMMIT failed and its outcome is not known: {}", chain(&error));
                self.stop(&reason);
                refuse(back(admitted), || AppendError::Unknown, self);
                return None;
            }
        }
        // Crash from here on: everything is durable; callers who got no answer find it by their idempotency key.
        self.release(work, &stored, proven, admitted);
        None
    }

    /// Checks one append against what the batch has made of the journal so far, and adds it. Changes nothing on an error.
    async fn admit(&self, work: &mut Work, pending: &Pending, now: Timestamp, sure: bool) -> Result<u64, AppendError> {
        let log = pending.log.number;
        let key = (log, pending.stream);
        self.know(work, key, sure || pending.expected > 0).await?;
        if let Some((scope, _)) = &pending.idempotency {
            self.know(work, (log, scope.stream), scope.stream != pending.stream || sure).await?;
        }
        let head = work.streams.get(&key).and_then(|s| s.head);
        check_chain(pending, head)?;
        if let Some((scope, record)) = &pending.idempotency {
            let id = (record.principal, record.key);
            let scoped = (log, scope.stream);
            let (here, is_new) =
                work.streams.get(&scoped).map_or((None, true), |s| (s.keys.get(&id).cloned(), s.is_new));
            let known = match (here, self.streams.read(&scoped, |s| s.keys.get(&id).cloned())) {
                (Some(record), _) | (None, Known::Ready(Some(record))) => Some(record),
                (None, Known::Ready(None)) => None,
                (None, Known::Absent) if is_new => None,
                // It was in memory a moment ago: a key must not be missed because memory was short.
                (None, Known::Absent) => self.load_stream(scoped).await?.keys.get(&id).cloned(),
            };
            if let Some(known) = known {
                return Err(AppendError::Replay(Replay { request: known.request, answer: known.answer.clone() }));
            }
        }
        let log_work = work.logs.entry(log).or_insert_with(|| {
            let tip = lock(&pending.log.tip).clone();
            let (size, newest) = (tip.range.size(), tip.newest);
            LogWork { state: Arc::clone(&pending.log), tip, size, newest, positions: Vec::new() }
        });
        if pending.genesis != (log_work.size == 0) {
            return Err(AppendError::Malformed("genesis is the first entry of a log and no other"));
        }
        let claimed = check_time(pending, log_work.newest, now)?;

        // From here on nothing can fail.
        let index = log_work.size;
        log_work.newest = log_work.newest.max(claimed);
        if pending.genesis {
            let trusted = &pending.log.trusted;
            work.batch.logs.push(NewLogRow { number: log, id: trusted.id(), org: trusted.org() });
        }
        let number = work.streams.get(&key).map_or(StreamNumber(0), |s| s.number);
        for (at, sequence, entry) in numbered(index, pending.expected, &pending.entries) {
            log_work.positions.push(work.batch.entries.len());
            work.batch.entries.push(NewEntry {
                log,
                index: at,
                stream: number,
                sequence,
                leaf: Arc::clone(&entry.leaf),
            });
            for (n, (digest, bytes)) in (0_u8..).zip(&entry.payloads) {
                let bytes = Arc::clone(bytes);
                work.batch.payloads.push(NewPayload { log, index: at, n, digest: *digest, bytes });
            }
            log_work.size = at + 1;
        }
        for (digest, bytes) in &pending.blobs {
            work.batch.blobs.push(NewBlob { log, digest: *digest, bytes: Arc::clone(bytes) });
        }
        for (at, digest) in &pending.erase {
            work.batch.erase.push(Erase { log, index: *at, digest: *digest });
        }
        for row in &pending.rows {
            let new = NewRow { log, row: Arc::clone(row) };
            match work.rows.entry(RowKey(log, Arc::clone(row))) {
                Slot::Occupied(held) => {
                    if let Some(slot) = work.batch.rows.get_mut(*held.get()) {
                        *slot = new;
                    }
                }
                Slot::Vacant(slot) => {
                    slot.insert(work.batch.rows.len());
                    work.batch.rows.push(new);
                }
            }
        }
        if let Some(stream) = work.streams.get_mut(&key)
            && let Some(last) = pending.entries.last()
        {
            let next_sequence = pending.expected + u64::try_from(pending.entries.len()).unwrap_or(u64::MAX);
            stream.head = Some(Head { next_sequence, last_hash: Digest(last.hash.0) });
        }
        if let Some((scope, record)) = &pending.idempotency
            && let Some(stream) = work.streams.get_mut(&(log, scope.stream))
        {
            let record = Arc::clone(record);
            stream.keys.insert((record.principal, record.key), Arc::clone(&record));
            let other = Some(stream.number).filter(|_| scope.stream != pending.stream);
            work.batch.idempotency.push(NewIdempotency { log, index, scope: other, record });
        }
        Ok(index)
    }

    /// Makes a stream known to the batch: from the batch, from memory, from the journal, or, for an append that begins
    /// a stream, by a guess that the journal checks when it stores the batch.
    async fn know(&self, work: &mut Work, key: StreamKey, sure: bool) -> Result<(), AppendError> {
        if work.streams.contains_key(&key) {
            return Ok(());
        }
        let (number, head) = match self.streams.read(&key, |s| (s.number, s.head)) {
            Known::Ready(both) => both,
            Known::Absent if sure => {
                let state = self.load_stream(key).await?;
                (state.number, state.head)
            }
            Known::Absent => {
                work.guessed = true;
                (None, None)
            }
        };
        let is_new = number.is_none();
        let number = number.unwrap_or_else(|| StreamNumber(self.next_stream.fetch_add(1, Ordering::Relaxed)));
        if is_new {
            let (log, stream) = key;
            work.batch.streams.push(NewStream { number, log, stream });
        }
        work.streams.insert(key, StreamWork { number, is_new, head, keys: HashMap::new() });
        Ok(())
    }

    /// Reads a stream from the journal into memory.
    pub(crate) async fn load_stream(&self, key: StreamKey) -> Result<StreamState, JournalError> {
        let token = self.streams.loading(key);
        let read = self.read_stream(key).await;
        self.streams.loaded(key, token, read.as_ref().ok().cloned());
        read
    }

    async fn read_stream(&self, (log, stream): StreamKey) -> Result<StreamState, JournalError> {
        let Some(record) = self.journal.stream(log, stream).await? else { return Ok(StreamState::default()) };
        let since = match stream.kind {
            StreamKind::Instance => Timestamp(0),
            StreamKind::Organization | StreamKind::Log => self.idempotency_since(),
        };
        let keys = self.journal.idempotency(log, stream, since).await?;
        Ok(StreamState {
            number: Some(record.number),
            head: record.last.map(|(sequence, hash)| Head { next_sequence: sequence + 1, last_hash: Digest(hash.0) }),
            keys: keys.into_iter().map(|record| ((record.principal, record.key), Arc::new(record))).collect(),
        })
    }

    /// From when on the idempotency keys of a stream that never closes are remembered.
    pub(crate) fn idempotency_since(&self) -> Timestamp {
        Timestamp(self.config.clock.now().0.saturating_sub(self.config.idempotency_window.0))
    }

    /// From stored bytes to signed checkpoints. The error is the reason why nothing may be signed.
    async fn prove(&self, work: &mut Work, stored: &[Vec<u8>]) -> Result<(Vec<Proven>, Vec<Advance>), String> {
        if stored.len() != work.batch.entries.len() {
            return Err(format!("{} entries were stored and {} read back", work.batch.entries.len(), stored.len()));
        }
        let mut proven = Vec::with_capacity(work.logs.len());
        let mut advances = Vec::with_capacity(work.logs.len());
        for (number, log) in work.logs.drain() {
            if log.positions.is_empty() {
                continue;
            }
            let origin = log.state.trusted.origin();
            let mut hashes = Vec::with_capacity(log.positions.len());
            for position in &log.positions {
                let (sent, back) =
                    work.batch.entries.get(*position).zip(stored.get(*position)).ok_or("a lost position")?;
                // Hashed from what the journal gave back, which is not the memory that the signature was made from.
                if *back != *sent.leaf {
                    return Err(format!("entry {} of `{origin}` was read back with other bytes", sent.index));
                }
                hashes.push(leaf_hash(back));
            }
            let old = log.tip.range;
            let (old_size, old_root) = (old.size(), old.root());
            let extension = old.extend(&hashes);
            let (size, root) = (extension.size(), extension.root());
            let proof = extension.consistency().map_err(|e| e.to_string())?;
            verify_consistency(old_size, size, &proof, &old_root, &root).map_err(|e| format!("`{origin}`: {e}"))?;
            let mut tail = log.tip.tail;
            tail.extend_from_slice(&hashes);
            let tiles = self.full_tiles(number, &extension, &mut tail).await.map_err(|e| format!("`{origin}`: {e}"))?;
            let note = Checkpoint { origin: origin.to_owned(), size, root }.sign(&log.state.key);
            let checkpoint = log.state.trusted.checkpoint(&note).map_err(|e| format!("`{origin}`: {e}"))?;
            advances.push(Advance { log: number, old_size, old_root, size, root, note, newest: log.newest, tiles });
            proven.push(Proven {
                state: log.state,
                extension,
                tail,
                checkpoint: Arc::new(checkpoint),
                newest: log.newest,
                authority: log.tip.authority,
            });
        }
        Ok((proven, advances))
    }

    /// The tiles that the batch completed. `tail` is cut to what comes after the last full one.
    async fn full_tiles(
        &self,
        log: LogNumber,
        extension: &Extension,
        tail: &mut Vec<Hash>,
    ) -> Result<Vec<FullTile>, JournalError> {
        let broken = |what: &str| JournalError::Corrupt(what.to_owned());
        let mut tiles = Vec::new();
        let mut level = 0_u8;
        loop {
            let (first, roots) = extension.completed((level + 1) * TILE_HEIGHT);
            if roots.is_empty() {
                return Ok(tiles);
            }
            for (index, root) in (first..).zip(roots) {
                let coord = TileCoord::new(level, index, TILE_WIDTH).map_err(|e| broken(&e.to_string()))?;
                let hashes: Vec<Hash> = if level == 0 {
                    if tail.len() < WIDTH {
                        return Err(broken("the tail is shorter than the tile that it completes"));
                    }
                    tail.drain(..WIDTH).collect()
                } else {
                    // Once in 65,536 entries: older roots from the journal, the newest from this batch.
                    let from = index * u64::from(TILE_WIDTH);
                    let mut hashes =
                        self.journal.tile_roots(log, level - 1, from..from + u64::from(TILE_WIDTH)).await?;
                    let (new_first, new) = extension.completed(level * TILE_HEIGHT);
                    let held = from + u64::try_from(hashes.len()).unwrap_or(u64::MAX);
                    hashes.extend((new_first..).zip(new).filter(|(i, _)| *i >= held).map(|(_, h)| *h));
                    hashes.truncate(WIDTH);
                    if hashes.len() < WIDTH {
                        return Err(broken("a tile's hashes are missing"));
                    }
                    hashes
                };
                tiles.push(FullTile { coord, root: *root, hashes: encode_tile(&hashes) });
            }
            level += 1;
        }
    }

    /// Everything is durable: memory first, so that whoever has a receipt finds what it is for, then the receipts.
    fn release(&self, work: Work, stored: &[Vec<u8>], proven: Vec<Proven>, admitted: Vec<Admitted>) {
        let leaf_bytes: usize = stored.iter().map(Vec::len).sum();
        let payload_bytes: usize = work.batch.payloads.iter().map(|p| p.bytes.len()).sum::<usize>()
            + work.batch.blobs.iter().map(|b| b.bytes.len()).sum::<usize>();
        add(&self.counters.commits, 1);
        add(&self.counters.appends, admitted.len() as u64);
        add(&self.counters.entries, stored.len() as u64);
        add(&self.counters.leaf_bytes, leaf_bytes as u64);
        add(&self.counters.payload_bytes, payload_bytes as u64);
        self.counters.batch(stored.len());

        if self.counters.commits.load(Ordering::Relaxed).is_multiple_of(FORGET_EVERY) {
            let since = self.idempotency_since();
            for key in work.streams.keys().filter(|(_, stream)| stream.kind != StreamKind::Instance) {
                self.streams.forget(key, since);
            }
        }
        self.streams.committed(work.streams.into_iter().map(|(key, stream)| {
            let StreamWork { number, is_new, head, keys } = stream;
            (key, StreamUpdate { number, head, keys: keys.into_values().collect(), is_new })
        }));
        let mut logs: HashMap<LogNumber, (Extension, Arc<VerifiedCheckpoint>)> = HashMap::with_capacity(proven.len());
        for log in proven {
            let authority = admitted
                .iter()
                .rev()
                .find(|a| a.pending.log.number == log.state.number)
                .and_then(|a| a.pending.entries.last())
                .map_or(log.authority, |entry| entry.header.authority);
            let (range, checkpoint) = (log.extension.range().clone(), Arc::clone(&log.checkpoint));
            let (tail, newest) = (log.tail, log.newest);
            *lock(&log.state.tip) = Tip { range, tail, checkpoint, newest, authority };
            logs.insert(log.state.number, (log.extension, log.checkpoint));
        }
        if let Some(anchor) = &self.anchor {
            anchor.remember(logs.values().map(|(_, checkpoint)| Arc::clone(checkpoint)));
        }
        for Admitted { pending, index } in admitted {
            let answer = match logs.get(&pending.log.number) {
                Some((extension, checkpoint)) => receipts(pending.entries, index, extension, checkpoint),
                // Every admitted append has its log in the batch.
                None => Err(AppendError::Unknown),
            };
            // Who has gone away finds the append by its idempotency key.
            drop(pending.reply.send(answer));
        }
    }
}

fn receipts(
    entries: Vec<PendingEntry>,
    first: u64,
    extension: &Extension,
    checkpoint: &Arc<VerifiedCheckpoint>,
) -> Result<Appended, AppendError> {
    let mut out = Vec::with_capacity(entries.len());
    for (index, entry) in (first..).zip(entries) {
        let position = usize::try_from(index - extension.old_size()).map_err(|_| AppendError::Unknown)?;
        // The position is within the batch, so there is a proof.
        let proof = extension.inclusion(position).map_err(|_| AppendError::Unknown)?;
        let receipt = Receipt { index, leaf_hash: entry.hash, proof, checkpoint: Arc::clone(checkpoint) };
        out.push(AppendedEntry { header: entry.header, leaf: entry.leaf, receipt });
    }
    Ok(Appended { entries: out })
}

fn refuse(pending: impl IntoIterator<Item = Pending>, mut error: impl FnMut() -> AppendError, core: &Core) {
    for pending in pending {
        add(&core.counters.refused, 1);
        drop(pending.reply.send(Err(error())));
    }
}

/// Entries with their index in the log and their sequence in the stream.
fn numbered(index: u64, sequence: u64, entries: &[PendingEntry]) -> impl Iterator<Item = (u64, u64, &PendingEntry)> {
    (index..).zip(sequence..).zip(entries).map(|((index, sequence), entry)| (index, sequence, entry))
}

/// The append begins where the stream ends, in sequence and in hash. Its inner chain was checked by the caller's side.
fn check_chain(pending: &Pending, head: Option<Head>) -> Result<(), AppendError> {
    let first = pending.entries.first().ok_or(AppendError::Malformed("an append has at least one entry"))?;
    let expected = head.map_or(0, |head| head.next_sequence);
    if pending.expected != expected || first.header.previous != head.map(|head| head.last_hash) {
        return Err(AppendError::Conflict { head });
    }
    Ok(())
}

/// The claimed time of the append, if it is acceptable.
fn check_time(pending: &Pending, newest: Timestamp, now: Timestamp) -> Result<Timestamp, AppendError> {
    // A clock that was set back must not stop what stops something: its time goes on from the newest entry.
    let behind = now + TOLERANCE < newest;
    if behind && !pending.urgent {
        return Err(AppendError::ClockBehind { now, newest });
    }
    let now = if behind { newest } else { now };
    let mut latest = Timestamp(0);
    for entry in &pending.entries {
        let claimed = entry.header.claimed;
        if claimed + TOLERANCE < newest || claimed + TOLERANCE < now || claimed > now + TOLERANCE {
            return Err(AppendError::ClockSkew { resign: now });
        }
        latest = latest.max(claimed);
    }
    Ok(latest)
}

/// An error with all its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
