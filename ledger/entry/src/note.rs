//! C2SP signed notes and tlog-checkpoints.
//!
//! A note is text ending in a line feed, a blank line, and signature lines `— <name> base64(key id ‖ signature)`.
//! Unknown signatures are ignored; a known key whose signature fails makes the whole note invalid.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer, SigningKey};

use countersign_ledger_merkle::Hash;

use crate::EntryError;
use crate::key::{VKey, check_key_name, key_id};

/// Longest note that is read.
const MAX_NOTE: usize = 64 * 1024;

/// Most signature lines that are read.
const MAX_SIGNATURES: usize = 64;

/// A note taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note<'a> {
    /// The text, with its last line feed.
    pub text: &'a str,
    signatures: Vec<(&'a str, Vec<u8>)>,
}

impl<'a> Note<'a> {
    /// Takes a note apart; no signature is checked yet.
    ///
    /// # Errors
    /// [`EntryError::Note`] if it is not a signed note.
    pub fn parse(note: &'a str) -> Result<Self, EntryError> {
        if note.len() > MAX_NOTE {
            return Err(EntryError::Note("longer than 64 KiB"));
        }
        if note.chars().any(|c| c.is_control() && c != '\n') {
            return Err(EntryError::Note("has control characters"));
        }
        let split = note.rfind("\n\n").ok_or(EntryError::Note("no blank line before the signatures"))?;
        let (text, rest) = note.split_at(split + 1);
        let lines = rest
            .strip_prefix('\n')
            .and_then(|r| r.strip_suffix('\n'))
            .ok_or(EntryError::Note("does not end in a line feed"))?;
        let mut signatures = Vec::new();
        for line in lines.split('\n') {
            let rest =
                line.strip_prefix("— ").ok_or(EntryError::Note("a signature line does not begin with a dash"))?;
            let (name, encoded) = rest.split_once(' ').ok_or(EntryError::Note("a signature line has no name"))?;
            let bytes = STANDARD.decode(encoded).map_err(|_| EntryError::Note("a signature is not base64"))?;
            check_key_name(name)?;
            if bytes.len() < 5 || signatures.len() == MAX_SIGNATURES {
                return Err(EntryError::Note("a signature line is too short, or one of more than 64"));
            }
            signatures.push((name, bytes));
        }
        Ok(Self { text, signatures })
    }

    /// How many signature lines there are.
    pub fn signature_count(&self) -> usize {
        self.signatures.len()
    }

    /// Names on the signature lines.
    pub fn signers(&self) -> impl Iterator<Item = &str> {
        self.signatures.iter().map(|(name, _)| *name)
    }

    /// Checks the signature by `key`.
    ///
    /// # Errors
    /// [`EntryError::NotSignedBy`] if there is none, [`EntryError::Signature`] if it fails.
    pub fn verify(&self, key: &VKey) -> Result<(), EntryError> {
        let id = key.id();
        let mut found = false;
        for (name, bytes) in &self.signatures {
            let Some((line_id, signature)) = bytes.split_first_chunk::<4>() else { continue };
            if *name != key.name() || *line_id != id {
                continue;
            }
            let signature = Signature::from_slice(signature).map_err(|_| EntryError::Signature("note"))?;
            key.key().verify_strict(self.text.as_bytes(), &signature).map_err(|_| EntryError::Signature("note"))?;
            found = true;
        }
        if found { Ok(()) } else { Err(EntryError::NotSignedBy(key.name().to_owned())) }
    }
}

/// Takes notes that stand one after another apart: each begins where the signatures of the one before end. Nothing of them
/// is read yet.
///
/// # Errors
/// In words, if the last one was cut short.
pub fn apart(text: &str) -> Result<Vec<&str>, &'static str> {
    let mut notes = Vec::new();
    let (mut rest, mut end, mut signed) = (text, 0, false);
    for line in text.split_inclusive('\n') {
        if !line.ends_with('\n') {
            return Err("it does not end in a line feed: it was cut short");
        }
        let signature = line.starts_with("— ");
        if signed && !signature {
            let (note, more) = rest.split_at_checked(end).unwrap_or((rest, ""));
            notes.push(note);
            (rest, end, signed) = (more, 0, false);
        }
        signed |= signature;
        end += line.len();
    }
    if signed {
        notes.push(rest);
    } else if !rest.is_empty() {
        return Err("its last checkpoint has no signature: it was cut short");
    }
    Ok(notes)
}

/// Signs `text`, which must end in a line feed, as `name`.
pub fn sign(text: &str, name: &str, key: &SigningKey) -> String {
    debug_assert!(text.ends_with('\n'), "a note's text ends in a line feed");
    let mut line = Vec::with_capacity(68);
    line.extend_from_slice(&key_id(name, &key.verifying_key()));
    line.extend_from_slice(&key.sign(text.as_bytes()).to_bytes());
    format!("{text}\n— {name} {}\n", STANDARD.encode(line))
}

/// Size and root of a log at one moment (C2SP tlog-checkpoint).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Origin line.
    pub origin: String,
    /// Entries.
    pub size: u64,
    /// RFC 6962 root.
    pub root: Hash,
}

impl Checkpoint {
    /// The note's text.
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root.0))
    }

    /// The checkpoint as a note signed by the log key.
    pub fn sign(&self, key: &SigningKey) -> String {
        sign(&self.text(), &self.origin, key)
    }

    /// Reads a note's text: exactly three lines. Extension lines, which the specification discourages, are refused.
    ///
    /// # Errors
    /// [`EntryError::Checkpoint`].
    pub fn parse(text: &str) -> Result<Self, EntryError> {
        let mut lines = text.strip_suffix('\n').ok_or(EntryError::Checkpoint("no last line feed"))?.split('\n');
        let (Some(origin), Some(size), Some(root), None) = (lines.next(), lines.next(), lines.next(), lines.next())
        else {
            return Err(EntryError::Checkpoint("not three lines"));
        };
        let number: u64 = size.parse().map_err(|_| EntryError::Checkpoint("the size is not a number"))?;
        if origin.is_empty() || number.to_string() != size {
            return Err(EntryError::Checkpoint("the origin is empty or the size is not in its shortest form"));
        }
        let root = STANDARD
            .decode(root)
            .ok()
            .and_then(|r| <[u8; 32]>::try_from(r).ok())
            .ok_or(EntryError::Checkpoint("the root is not 32 bytes of base64"))?;
        Ok(Self { origin: origin.to_owned(), size: number, root: Hash(root) })
    }
}

#[cfg(test)]
mod tests;
