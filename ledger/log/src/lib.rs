//! The committer and its doors: an append becomes durable entries, a signed checkpoint and receipts, or nothing.
//!
//! [`Logs`] opens a [`Journal`], verifies what it loads and runs one committer for all logs in it. A [`LogHandle`] seals
//! and appends entries of one log and reads it. [`Objects`] keeps immutable bytes; [`files`] is it on a folder.
//!
//! Absent on purpose: SQL (`ledger/sql`), what entries mean (`gateway/flow`), HTTP, configuration files, key storage.
//! Read in this order: `logs` (what callers see), `committer` (what happens to an append), `start` (what is verified
//! before anything is signed), `journal` (what storage must promise).
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "tests"))]

mod anchor;
mod append;
mod committer;
mod config;
mod error;
mod export;
pub mod files;
mod fsck;
pub mod journal;
mod keys;
mod logs;
mod objects;
mod queue;
mod start;
mod state;
mod stats;
mod tree;

pub use append::{Append, Appended, AppendedEntry, Idempotency, IdempotencyScope, Sealing};
pub use config::{LogsConfig, NewLog, OnFatal};
pub use error::{AppendError, Head, LogError, Replay};
pub use export::{ExportError, Exported, export};
pub use fsck::{Fault, FsckLevel, FsckReport, LogReport, Progress, fsck};
pub use journal::{
    CommitError, HeldPayload, Journal, JournalError, LogNumber, LogRecord, StoredEntry, StreamNumber, ViewRow, Views,
};
pub use keys::{Entropy, KeyError, KeyRing};
pub use logs::{LogHandle, Logs};
pub use objects::{ObjectError, Objects, Put};
pub use stats::{BUCKETS, Stats};

/// Takes a lock. What it guards is changed in single steps that cannot panic half-way, so a poisoned one is whole.
pub(crate) fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
