//! Figures of the committer: how many commits, how large, how many syncs. Counters only; who exports them is elsewhere.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// Batches by size: `batches[i]` had at least `1 << i` and less than `2 << i` entries.
pub const BUCKETS: usize = 13;

/// Figures since the ledger was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Transactions committed.
    pub commits: u64,
    /// Appends committed.
    pub appends: u64,
    /// Entries committed.
    pub entries: u64,
    /// Bytes of leaves committed.
    pub leaf_bytes: u64,
    /// Bytes of payloads and shared bytes committed.
    pub payload_bytes: u64,
    /// Appends refused: conflicts, replays, push-back, clock, disk.
    pub refused: u64,
    /// Batches by number of entries, see [`BUCKETS`].
    pub batches: [u64; BUCKETS],
    /// Syncs that the journal asked for.
    pub syncs: u64,
    /// Bytes written ahead and not yet in their final place.
    pub wal_bytes: u64,
    /// Bytes free on the journal's disk.
    pub free_bytes: Option<u64>,
    /// Entries that wait.
    pub queued: usize,
    /// Logs in memory.
    pub logs: usize,
    /// Streams in memory.
    pub streams: usize,
    /// Bytes of streams in memory, estimated.
    pub stream_bytes: usize,
    /// Why nothing is signed any more; none in good order.
    pub stopped: Option<String>,
}

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) commits: AtomicU64,
    pub(crate) appends: AtomicU64,
    pub(crate) entries: AtomicU64,
    pub(crate) leaf_bytes: AtomicU64,
    pub(crate) payload_bytes: AtomicU64,
    pub(crate) refused: AtomicU64,
    batches: [AtomicU64; BUCKETS],
}

pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

impl Counters {
    pub(crate) fn batch(&self, entries: usize) {
        let bucket = entries.checked_ilog2().and_then(|log| usize::try_from(log).ok()).unwrap_or(0);
        if let Some(counter) = self.batches.get(bucket.min(BUCKETS - 1)) {
            add(counter, 1);
        }
    }

    pub(crate) fn snapshot(&self) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            commits: read(&self.commits),
            appends: read(&self.appends),
            entries: read(&self.entries),
            leaf_bytes: read(&self.leaf_bytes),
            payload_bytes: read(&self.payload_bytes),
            refused: read(&self.refused),
            batches: std::array::from_fn(|at| self.batches.get(at).map_or(0, read)),
            ..Stats::default()
        }
    }
}
