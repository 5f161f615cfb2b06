//! What an auditor brings beside the pack: the root key, and checkpoints from before. Texts to values, or what is wrong.
//!
//! Checkpoints come as one signed note or as several, one after another, as an anchor holds them: those of other logs are
//! left out.
//!
//! Absent: where the texts come from; whoever reads files does it (`main`, and the gateway's own program).

use countersign_ledger_entry::EntryError;
use countersign_ledger_entry::key::{VKey, root_name};
use countersign_ledger_entry::note::{Checkpoint, Note, apart};

/// Longest text of a key, or of checkpoints: an anchor of ten thousands of logs.
pub const MAX_TEXT: u64 = 16 * 1024 * 1024;

/// Most names of other logs that are told.
const MAX_TOLD: usize = 3;

/// Why what was given with a pack cannot be used. It says nothing about the pack.
#[derive(Debug, thiserror::Error)]
pub enum GivenError {
    /// Not a root key.
    #[error("{0}; give a vkey or a file that holds one")]
    Key(#[source] EntryError),
    /// Not a signed checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] EntryError),
    /// Of other logs alone.
    #[error("it holds no checkpoint of --key's log: what it holds is of `{0}`, not of --key's")]
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

/// Whether what an auditor holds can be compared with a pack at all; anything else would accuse the pack of what is wrong
/// with the question.
///
/// # Errors
/// [`GivenError::Checkpoint`], [`GivenError::OtherLog`].
pub fn check_known(held: &str, root: &VKey) -> Result<(), GivenError> {
    if u64::try_from(held.len()).is_ok_and(|length| length >= MAX_TEXT) {
        // It was read up to here: what stands behind may be what counts.
        return Err(EntryError::Note("longer than 16 MiB").into());
    }
    let notes = apart(held).map_err(EntryError::Note)?;
    let read = |note: &&str| Note::parse(note).and_then(|note| Checkpoint::parse(note.text));
    let own: Vec<&str> = notes.iter().copied().filter(|note| root_name(first_line(note)) == root.name()).collect();
    if !own.is_empty() {
        return Ok(own.iter().try_for_each(|note| read(note).map(drop))?);
    }
    let others = notes.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    if others.is_empty() {
        return Err(EntryError::Note("empty").into());
    }
    let more = others.len().saturating_sub(MAX_TOLD);
    let told: Vec<String> = others.into_iter().take(MAX_TOLD).map(|checkpoint| checkpoint.origin).collect();
    let more = if more > 0 { format!("` and of {more} others: `…") } else { String::new() };
    Err(GivenError::OtherLog(told.join("`, `") + &more))
}

/// The checkpoints of one log among what an auditor holds; there is one at least.
pub(crate) fn held_of<'h>(held: &'h str, origin: &str) -> Result<Vec<&'h str>, EntryError> {
    let notes = apart(held).map_err(EntryError::Note)?;
    let own: Vec<&str> = notes.into_iter().filter(|note| first_line(note) == origin).collect();
    if own.is_empty() { Err(EntryError::Note("there is no checkpoint of this log in it")) } else { Ok(own) }
}

fn first_line(note: &str) -> &str {
    note.split('\n').next().unwrap_or_default()
}
