//! What is held in memory: a log's right edge, and the heads of streams with their idempotency answers.
//!
//! Memory is never ahead of the journal: the committer writes here only after COMMIT. An idle log costs a row in the
//! journal and nothing here. Absent: reading either from storage (`start`, `logs`).

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use ed25519_dalek::SigningKey;

use countersign_gateway_model::{Digest, OrgId, Pseudonym, Timestamp};
use countersign_ledger_entry::body::AuthorityMode;
use countersign_ledger_entry::{Stream, TrustedLog, VerifiedCheckpoint};
use countersign_ledger_merkle::{CompactRange, Hash};

use crate::error::Head;
use crate::journal::{IdempotencyRecord, LogNumber, StreamNumber};
use crate::lock;

/// One log. There is never more than one of these for a log in a process.
pub(crate) struct LogState {
    pub(crate) number: LogNumber,
    pub(crate) trusted: Arc<TrustedLog>,
    /// Signs checkpoints.
    pub(crate) key: SigningKey,
    /// C2SP key id of this gateway's key under its name in this log.
    pub(crate) gateway_key_id: [u8; 4],
    /// This process's boot in this log; 0 before its boot entry is committed.
    pub(crate) boot: AtomicU64,
    /// Held while the boot entry is made.
    pub(crate) booting: tokio::sync::Mutex<()>,
    pub(crate) tip: Mutex<Tip>,
    used: AtomicU64,
}

/// The newest end of a log.
#[derive(Clone)]
pub(crate) struct Tip {
    pub(crate) range: CompactRange,
    /// Leaf hashes since the last full tile.
    pub(crate) tail: Vec<Hash>,
    pub(crate) checkpoint: Arc<VerifiedCheckpoint>,
    pub(crate) newest: Timestamp,
    /// The mode that the last entry states.
    pub(crate) authority: AuthorityMode,
}

impl LogState {
    pub(crate) fn new(
        number: LogNumber,
        trusted: Arc<TrustedLog>,
        key: SigningKey,
        gateway_key_id: [u8; 4],
        tip: Tip,
    ) -> Self {
        Self {
            number,
            trusted,
            key,
            gateway_key_id,
            boot: AtomicU64::new(0),
            booting: tokio::sync::Mutex::new(()),
            tip: Mutex::new(tip),
            used: AtomicU64::new(0),
        }
    }

    pub(crate) fn booted(&self) -> Option<u64> {
        Some(self.boot.load(Ordering::Acquire)).filter(|boot| *boot > 0)
    }

    pub(crate) fn checkpoint(&self) -> Arc<VerifiedCheckpoint> {
        Arc::clone(&lock(&self.tip).checkpoint)
    }
}

/// The logs in memory, by organization.
pub(crate) struct LogTable {
    inner: Mutex<HashMap<OrgId, Arc<LogState>>>,
    tick: AtomicU64,
    limit: usize,
}

impl LogTable {
    pub(crate) fn new(limit: usize) -> Self {
        Self { inner: Mutex::new(HashMap::new()), tick: AtomicU64::new(0), limit: limit.max(1) }
    }

    pub(crate) fn get(&self, org: OrgId) -> Option<Arc<LogState>> {
        let log = lock(&self.inner).get(&org).cloned()?;
        log.used.store(self.tick.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        Some(log)
    }

    /// Puts a log in, and gives back the one that is in force: another call may have been faster.
    ///
    /// Beyond the limit, those that nobody holds and that were idle longest go. Nobody can hold one that is dropped:
    /// the only way to it is through this table's lock.
    pub(crate) fn put(&self, log: Arc<LogState>) -> Arc<LogState> {
        log.used.store(self.tick.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        let mut inner = lock(&self.inner);
        let kept = Arc::clone(inner.entry(log.trusted.org()).or_insert(log));
        if inner.len() > self.limit {
            let mut idle: Vec<(u64, OrgId)> = inner
                .iter()
                .filter(|(_, log)| Arc::strong_count(log) == 1)
                .map(|(org, log)| (log.used.load(Ordering::Relaxed), *org))
                .collect();
            idle.sort_unstable();
            for (_, org) in idle.into_iter().take(self.limit.div_ceil(4)) {
                inner.remove(&org);
            }
        }
        kept
    }

    pub(crate) fn len(&self) -> usize {
        lock(&self.inner).len()
    }
}

/// Names a stream among those of all logs.
pub(crate) type StreamKey = (LogNumber, Stream);

/// A map by stream. An id is 128 bits that the program mints, so nobody can choose ids that collide, and mixing them by a
/// multiplication serves; an append looks its stream up ten times.
pub(crate) type StreamMap<T> = HashMap<StreamKey, T, BuildHasherDefault<IdHasher>>;

/// Mixes ids, see [`StreamMap`].
#[derive(Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, n: u8) {
        self.write_u64(n.into());
    }

    fn write_u32(&mut self, n: u32) {
        self.write_u64(n.into());
    }

    fn write_u64(&mut self, n: u64) {
        // An odd constant near 2^64 / golden ratio.
        self.0 = (self.0.rotate_left(23) ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }

    fn write_isize(&mut self, n: isize) {
        self.write_u64(n.cast_unsigned() as u64);
    }

    fn finish(&self) -> u64 {
        // The map takes places from the low bits, which a multiplication mixes least: fold the high ones down, twice.
        let folded = (self.0 ^ (self.0 >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        folded ^ (folded >> 32)
    }
}

/// Names an idempotency key within its stream.
pub(crate) type IdempotencyKey = (Pseudonym, Digest);

/// A stream as the journal holds it.
#[derive(Clone, Default)]
pub(crate) struct StreamState {
    /// None where the journal does not know the stream yet.
    pub(crate) number: Option<StreamNumber>,
    pub(crate) head: Option<Head>,
    pub(crate) keys: HashMap<IdempotencyKey, Arc<IdempotencyRecord>>,
}

impl StreamState {
    fn weight(&self) -> usize {
        EMPTY_WEIGHT + self.keys.values().map(|record| key_weight(record)).sum::<usize>()
    }
}

/// About how many bytes a stream takes in memory without its keys.
const EMPTY_WEIGHT: usize = 256;

/// About how many bytes an idempotency key takes in memory.
fn key_weight(record: &IdempotencyRecord) -> usize {
    160 + record.answer.len()
}

/// What a commit made true of a stream.
pub(crate) struct StreamUpdate {
    pub(crate) number: StreamNumber,
    pub(crate) head: Option<Head>,
    /// Keys added.
    pub(crate) keys: Vec<Arc<IdempotencyRecord>>,
    /// The commit began the stream: it has no other keys.
    pub(crate) is_new: bool,
}

enum Slot {
    /// Somebody reads it from the journal; a commit meanwhile takes this away, and what was read is not put in.
    Loading(u64),
    Ready {
        state: StreamState,
        weight: usize,
        used: u64,
    },
}

/// Streams in memory. Only what is true of the journal is in here; what is not in here is read from it.
pub(crate) struct StreamTable {
    inner: Mutex<Streams>,
    limit: usize,
}

#[derive(Default)]
struct Streams {
    slots: StreamMap<Slot>,
    bytes: usize,
    tick: u64,
}

/// What the table knows of a stream.
pub(crate) enum Known<T> {
    Ready(T),
    /// Not in memory.
    Absent,
}

impl StreamTable {
    pub(crate) fn new(limit: usize) -> Self {
        Self { inner: Mutex::default(), limit }
    }

    /// Reads a stream in memory.
    pub(crate) fn read<T>(&self, key: &StreamKey, read: impl FnOnce(&StreamState) -> T) -> Known<T> {
        let mut inner = lock(&self.inner);
        inner.tick += 1;
        let tick = inner.tick;
        match inner.slots.get_mut(key) {
            Some(Slot::Ready { state, used, .. }) => {
                *used = tick;
                Known::Ready(read(state))
            }
            _ => Known::Absent,
        }
    }

    /// Notes that the stream is about to be read from the journal; give the token to [`Self::loaded`].
    pub(crate) fn loading(&self, key: StreamKey) -> u64 {
        let mut inner = lock(&self.inner);
        inner.tick += 1;
        let token = inner.tick;
        inner.slots.entry(key).or_insert(Slot::Loading(token));
        token
    }

    /// Puts in what was read (nothing, where the read failed), unless a commit came in between.
    pub(crate) fn loaded(&self, key: StreamKey, token: u64, state: Option<StreamState>) {
        let mut inner = lock(&self.inner);
        if matches!(inner.slots.get(&key), Some(Slot::Loading(held)) if *held == token) {
            match state {
                Some(state) => {
                    let weight = state.weight();
                    inner.put(key, state, weight);
                }
                None => drop(inner.slots.remove(&key)),
            }
            inner.sweep(self.limit);
        }
    }

    /// Puts in what a commit has made true. `keys` are added to those that are there.
    pub(crate) fn committed(&self, updates: impl IntoIterator<Item = (StreamKey, StreamUpdate)>) {
        let mut inner = lock(&self.inner);
        for (key, update) in updates {
            let (mut state, mut weight) = match inner.slots.remove(&key) {
                Some(Slot::Ready { state, weight, .. }) => {
                    inner.bytes = inner.bytes.saturating_sub(weight);
                    (state, weight)
                }
                Some(Slot::Loading(_)) | None if update.is_new => (StreamState::default(), EMPTY_WEIGHT),
                // It was dropped from memory while its batch was on the way: its older keys must be read again.
                Some(Slot::Loading(_)) | None => continue,
            };
            state.number = Some(update.number);
            state.head = update.head.or(state.head);
            for record in update.keys {
                // Added up, not counted anew: a long stream has many keys.
                weight += key_weight(&record);
                state.keys.insert((record.principal, record.key), record);
            }
            inner.put(key, state, weight);
        }
        inner.sweep(self.limit);
    }

    /// Drops a stream that will not be needed soon.
    pub(crate) fn drop_stream(&self, key: &StreamKey) {
        let mut inner = lock(&self.inner);
        if let Some(Slot::Ready { .. }) = inner.slots.get(key) {
            inner.remove(key);
        }
    }

    /// Forgets idempotency keys of a stream from before `since`.
    pub(crate) fn forget(&self, key: &StreamKey, since: Timestamp) {
        let mut inner = lock(&self.inner);
        let Some(Slot::Ready { mut state, weight, .. }) = inner.slots.remove(key) else { return };
        inner.bytes = inner.bytes.saturating_sub(weight);
        state.keys.retain(|_, record| record.at >= since);
        let weight = state.weight();
        inner.put(*key, state, weight);
    }

    pub(crate) fn size(&self) -> (usize, usize) {
        let inner = lock(&self.inner);
        (inner.slots.len(), inner.bytes)
    }
}

impl Streams {
    fn put(&mut self, key: StreamKey, state: StreamState, weight: usize) {
        self.tick += 1;
        self.bytes += weight;
        self.slots.insert(key, Slot::Ready { state, weight, used: self.tick });
    }

    fn remove(&mut self, key: &StreamKey) {
        if let Some(Slot::Ready { weight, .. }) = self.slots.remove(key) {
            self.bytes = self.bytes.saturating_sub(weight);
        }
    }

    /// Beyond the limit, the least recently used quarter goes: one pass in many calls, no list to keep in order.
    fn sweep(&mut self, limit: usize) {
        if self.bytes <= limit {
            return;
        }
        let mut ages: Vec<(u64, StreamKey)> = self
            .slots
            .iter()
            .filter_map(|(key, slot)| match slot {
                Slot::Ready { used, .. } => Some((*used, *key)),
                Slot::Loading(_) => None,
            })
            .collect();
        ages.sort_unstable_by_key(|(used, _)| *used);
        let target = limit - limit / 4;
        for (_, key) in ages {
            if self.bytes <= target {
                break;
            }
            self.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_gateway_model::InstanceId;
    use countersign_ledger_entry::StreamKind;
    use std::hash::BuildHasher as _;

    fn key(n: u64) -> StreamKey {
        // As minted: time in front, then what counts up, then noise that may be none.
        let id = (u128::from(1_795_219_200_000 + n / 7) << 80) | u128::from(n);
        let stream = Stream { kind: StreamKind::Instance, id: InstanceId::from_bytes(id.to_be_bytes()).into() };
        (LogNumber(1), stream)
    }

    fn head(n: u64) -> Head {
        Head { next_sequence: n, last_hash: Digest([0; 32]) }
    }

    fn update(n: u64, is_new: bool) -> StreamUpdate {
        StreamUpdate { number: StreamNumber(1), head: Some(head(n)), keys: Vec::new(), is_new }
    }

    #[test]
    fn ids_that_sort_by_time_spread_over_the_map() {
        let build = BuildHasherDefault::<IdHasher>::default();
        let mut buckets = [0_u32; 1024];
        for n in 0..10_240 {
            let bucket = usize::try_from(build.hash_one(key(n)) % 1024).unwrap();
            if let Some(count) = buckets.get_mut(bucket) {
                *count += 1;
            }
        }
        assert!(buckets.iter().all(|count| *count < 40), "{:?}", buckets.iter().max());
    }

    #[test]
    fn what_was_read_before_a_commit_does_not_replace_what_the_commit_made_true() {
        let table = StreamTable::new(1 << 20);
        let (one, two) = (key(1), key(2));
        // Read, commit, put in.
        let token = table.loading(one);
        table.committed([(one, update(5, false))]);
        let stale = StreamState { number: Some(StreamNumber(1)), head: Some(head(4)), keys: HashMap::new() };
        table.loaded(one, token, Some(stale.clone()));
        assert!(matches!(table.read(&one, |_| ()), Known::Absent), "it must be read again");
        // Two readers, the first of them from before the commit.
        let early = table.loading(two);
        table.committed([(two, update(5, false))]);
        let late = table.loading(two);
        table.loaded(two, early, Some(stale));
        assert!(matches!(table.read(&two, |_| ()), Known::Absent));
        let fresh = StreamState { number: Some(StreamNumber(1)), head: Some(head(5)), keys: HashMap::new() };
        table.loaded(two, late, Some(fresh));
        assert!(matches!(table.read(&two, |s| s.head), Known::Ready(Some(h)) if h == head(5)));
        // A failed read leaves nothing behind.
        let token = table.loading(one);
        table.loaded(one, token, None);
        assert_eq!(table.size().0, 1);
    }

    #[test]
    fn the_least_recently_used_streams_go_first() {
        let table = StreamTable::new(100 * 256);
        for n in 0..100 {
            table.committed([(key(n), update(n, true))]);
        }
        assert_eq!(table.size(), (100, 100 * 256));
        assert!(matches!(table.read(&key(0), |_| ()), Known::Ready(())));
        table.committed([(key(100), update(100, true))]);
        assert!(table.size().1 <= 100 * 256);
        assert!(matches!(table.read(&key(0), |_| ()), Known::Ready(())), "it was used just now");
        assert!(matches!(table.read(&key(1), |_| ()), Known::Absent));
        table.drop_stream(&key(0));
        assert!(matches!(table.read(&key(0), |_| ()), Known::Absent));
    }
}
