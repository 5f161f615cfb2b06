//! What an auditor brings beside the pack: the root key, and a checkpoint from before. Texts to values, or what is wrong.
//!
//! Absent: where the texts come from; whoever reads files does it (`main`, and the gateway's own program).

use countersign_ledger_entry::EntryError;
use countersign_ledger_entry::key::{VKey, root_name};
use countersign_ledger_entry::note::{Checkpoint, Note};

/// Longest text of a key or a checkpoint.
pub const MAX_TEXT: u64 = 64 * 1024;

/// Why what was given with a pack cannot be used. It says nothing about the pack.
#[derive(Debug, thiserror::Error)]
pub enum GivenError {
    /// Not a root key.
    #[error("{0}; give a vkey or a file that holds one")]
    Key(#[source] EntryError),
    /// Not a signed checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] EntryError),
    /// Of another log.
    #[error("it is a checkpoint of log `{0}`, not of --key's")]
    OtherLog(String),
}

impl GivenError {
    /// Stable name of the problem, for `openapi/problems/<code>.md`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Key(_) => "root-key-unreadable",
            Self::Checkpoint(_) => "checkpoint-unreadable",
            Self::OtherLog(_) => "checkpoint-foreign",
        }
    }
}

/// A root key, in text form.
///
/// # Errors
/// [`GivenError::Key`].
pub fn root_key(text: &str) -> Result<VKey, GivenError> {
    text.trim().parse().map_err(GivenError::Key)
}

/// Whether a note can be compared with a pack at all; anything else would accuse the pack of what is wrong with the
/// question.
///
/// # Errors
/// [`GivenError::Checkpoint`], [`GivenError::OtherLog`].
pub fn check_known(note: &str, root: &VKey) -> Result<(), GivenError> {
    let checkpoint = Note::parse(note).and_then(|note| Checkpoint::parse(note.text))?;
    if root_name(&checkpoint.origin) == root.name() { Ok(()) } else { Err(GivenError::OtherLog(checkpoint.origin)) }
}
