//! Why a pack is not valid.

use countersign_gateway_flow::EvolveError;
use countersign_ledger_entry::EntryError;
use countersign_ledger_merkle::ProofError;
use thiserror::Error;

/// The first defect found. Whatever it is, nothing in the pack is proven.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// Too large to be looked at.
    #[error("the pack is over a limit: {0}")]
    Limit(&'static str),
    /// A part is compressed: the file was packed again by another program, or is a bomb.
    #[error("a part is compressed, and a pack holds its parts as they are: nothing was unpacked")]
    Compressed,
    /// The file ends before the pack does.
    #[error("the file is not a whole evidence pack: {0}")]
    Truncated(&'static str),
    /// Not a pack in its canonical form.
    #[error("the file is not an evidence pack: {0}")]
    Container(&'static str),
    /// The signed note over the parts does not fit them.
    #[error("the note `EVIDENCE` does not hold: {0}")]
    Evidence(&'static str),
    /// That note is malformed, or not signed by the log key.
    #[error("the note `EVIDENCE` does not hold")]
    EvidenceNote(#[source] EntryError),
    /// The checkpoint is malformed, or not signed by the log key.
    #[error("the note `checkpoint` does not hold")]
    Checkpoint(#[source] EntryError),
    /// The log is not the one that the root key vouches for.
    #[error("the log does not follow from the root key")]
    Trust(#[source] EntryError),
    /// A part that a pack of this version does not have, or one that it must have and has not.
    #[error("part `{0}` is missing, is one too many, or has another content than the log implies")]
    Part(String),
    /// The tree over the entries has another root than the checkpoint.
    #[error("the entries do not have the root that the checkpoint signs")]
    Root,
    /// An entry is not acceptable as bytes.
    #[error("entry {index} is not acceptable")]
    Entry {
        /// Its index.
        index: u64,
        /// Why.
        source: EntryError,
    },
    /// An entry does not continue what was before it.
    #[error("entry {index} breaks the log: {problem}")]
    Broken {
        /// Its index.
        index: u64,
        /// How.
        problem: String,
    },
    /// An entry is not signed as it must be, or what it says of a gateway's keys does not hold.
    #[error("entry {index} is not by a key that this log knows: {problem}")]
    Signer {
        /// Its index.
        index: u64,
        /// How.
        problem: String,
    },
    /// What no policy and no operator may do.
    #[error("entry {index} is not lawful: {problem}")]
    Rule {
        /// Its index.
        index: u64,
        /// What.
        problem: String,
    },
    /// An entry states another authority mode than follows from the log.
    #[error("entry {index} and the authority mode do not fit: {problem}")]
    Authority {
        /// Its index.
        index: u64,
        /// How.
        problem: String,
    },
    /// What an entry says of a person's key, or signs with it, does not hold.
    #[error("entry {index} and the keys of persons do not fit: {problem}")]
    PersonKey {
        /// Its index.
        index: u64,
        /// How.
        problem: String,
    },
    /// An entry that the state machine does not allow.
    #[error("entry {index} is not lawful")]
    Unlawful {
        /// Its index.
        index: u64,
        /// Why.
        source: EvolveError,
    },
    /// What people read of a grant is not what is counted.
    #[error("entry {index} asks for another grant than people read of: {problem}")]
    Terms {
        /// Index of the entry that asks for it.
        index: u64,
        /// How they differ.
        problem: &'static str,
    },
    /// The auditor's own checkpoint is none of this log's, so nothing can be said of it.
    #[error("the checkpoint that you hold cannot be compared: it is not one of this log")]
    Known(#[source] EntryError),
    /// The checkpoint that the auditor holds does not lie on this log.
    #[error("the checkpoint that you hold is of another history: size {size}; keep both, they show a second history")]
    Fork {
        /// Its size.
        size: u64,
    },
    /// The arithmetic of a proof does not hold.
    #[error("a proof does not hold")]
    Proof(#[from] ProofError),
}
