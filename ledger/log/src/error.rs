//! What can go wrong with a log and with an append, each with what to do next.

use std::path::PathBuf;

use thiserror::Error;

use countersign_gateway_model::{Digest, Duration, LogId, OrgId, Timestamp};
use countersign_ledger_entry::EntryError;
use countersign_ledger_merkle::ProofError;

use crate::journal::JournalError;
use crate::keys::KeyError;

/// Where a stream stands: what the next append to it must say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Sequence of the next entry.
    pub next_sequence: u64,
    /// Leaf hash of the last entry.
    pub last_hash: Digest,
}

/// Why an append was not committed. In every case but [`AppendError::Unknown`] it certainly was not.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AppendError {
    /// The stream has moved on: load it, decide again.
    #[error("the stream has moved on; load it and decide again")]
    Conflict {
        /// Where it stands; none if it has no entry.
        head: Option<Head>,
    },
    /// The queue or the database is full of work.
    #[error("the ledger is busy; try again in {} ms", retry_after.0)]
    Busy {
        /// When to try again.
        retry_after: Duration,
    },
    /// The claimed time is too far from the committer's: sign again.
    #[error("the claimed time is not acceptable; sign again, claiming `{resign}` or later")]
    ClockSkew {
        /// Claim this or later.
        resign: Timestamp,
    },
    /// The clock is behind the newest entry by more than is allowed; only urgent appends pass.
    #[error("the clock says `{now}`, which is behind the log's newest entry of `{newest}`; set the clock")]
    ClockBehind {
        /// What the clock says.
        now: Timestamp,
        /// What the log says.
        newest: Timestamp,
    },
    /// The disk's reserve is kept for entries that stop something.
    #[error("the disk is full but for the reserve that is kept for stopping; free disk space")]
    DiskFull,
    /// The idempotency key was used before, in the same scope: here is what it was answered.
    #[error("the idempotency key was used before")]
    Replay(Replay),
    /// The append contradicts itself; nothing was changed.
    #[error("the append is malformed: {0}")]
    Malformed(&'static str),
    /// The ledger has stopped signing; the process is about to end.
    #[error("the ledger has stopped: {0}")]
    Refusing(String),
    /// The storage failed at COMMIT: whether the append is durable is known only after a restart.
    #[error("the outcome is not known; the process is going down, ask again after it has restarted")]
    Unknown,
    /// The storage failed while a stream was read.
    #[error("the stream could not be read")]
    Journal(#[from] JournalError),
}

/// What an idempotency key was answered before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// Digest of the request that it came with: another one is a conflict.
    pub request: Digest,
    /// The answer that was committed with it.
    pub answer: Vec<u8>,
}

/// Why a log cannot be opened, read or begun.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LogError {
    /// The storage failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A key is missing.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// What is stored is no valid entry, checkpoint or genesis.
    #[error("log `{log}` holds something that is not valid")]
    Entry {
        /// The log.
        log: LogId,
        /// Why.
        #[source]
        source: EntryError,
    },
    /// A later program wrote to it.
    #[error(
        "log `{log}` holds entries of semantics version {semantics}, which this program does not write: run the program that \
         wrote them, or a later one"
    )]
    Later {
        /// The log.
        log: LogId,
        /// The version of its last entry.
        semantics: u16,
    },
    /// What is stored does not lead to the signed root.
    #[error("log `{log}` does not lead to its own checkpoint; nothing will be signed: run `countersign ledger fsck`")]
    Proof {
        /// The log.
        log: LogId,
        /// Why.
        #[source]
        source: ProofError,
    },
    /// What is stored contradicts itself.
    #[error("log `{log}` is damaged: {what}; nothing will be signed: run `countersign ledger fsck`")]
    Damaged {
        /// The log.
        log: LogId,
        /// What was found.
        what: String,
    },
    /// The anchor remembers more than the journal: an old copy was restored.
    #[error(
        "log `{log}` has {local} entries but the anchor `{}` remembers {anchor}: an old copy of the journal was \
         restored. Nothing will be signed. Restore the newest copy; only if it is lost for good, keep `{}` as evidence \
         and remove the anchor",
        path.display(), evidence.display()
    )]
    RolledBack {
        /// The log.
        log: LogId,
        /// Entries here.
        local: u64,
        /// Entries that the anchor remembers.
        anchor: u64,
        /// The anchor.
        path: PathBuf,
        /// Where both checkpoints were kept.
        evidence: PathBuf,
    },
    /// The anchor remembers another history.
    #[error(
        "log `{log}` and the anchor `{}` disagree about the first {size} entries: there are two histories. Nothing will \
         be signed. Keep `{}` as evidence and find out which copy is genuine",
        path.display(), evidence.display()
    )]
    Forked {
        /// The log.
        log: LogId,
        /// The size at which they disagree.
        size: u64,
        /// The anchor.
        path: PathBuf,
        /// Where both checkpoints were kept.
        evidence: PathBuf,
    },
    /// The anchor cannot be used.
    #[error("the anchor `{}` cannot be used: {what}", path.display())]
    Anchor {
        /// The anchor.
        path: PathBuf,
        /// Why.
        what: String,
    },
    /// There is no log for this organization.
    #[error("organization `{0}` has no log; create it first")]
    NoLog(OrgId),
    /// There is one already.
    #[error("organization `{0}` has a log already")]
    Exists(OrgId),
    /// This gateway has not introduced itself to the log since it started.
    #[error("log `{0}` has no boot entry of this gateway; boot it first")]
    NotBooted(LogId),
    /// The request makes no sense.
    #[error("a new log cannot be begun: {0}")]
    New(&'static str),
    /// No random bytes.
    #[error("the source of random bytes failed")]
    Entropy(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// An entry of the log's own stream was not committed.
    #[error("an entry of the log's own stream was not committed")]
    Append(#[from] AppendError),
    /// The committer's thread cannot be started.
    #[error("the committer cannot be started")]
    Start(#[source] std::io::Error),
    /// Not in the log.
    #[error("log `{log}` has no such {what}")]
    Absent {
        /// The log.
        log: LogId,
        /// What was asked for.
        what: &'static str,
    },
}
