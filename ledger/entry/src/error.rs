//! What can be wrong with bytes that claim to be ledger material.

use thiserror::Error;

/// Why bytes are not an entry, a checkpoint, a receipt or a proof.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EntryError {
    /// Not CBOR of the entry's shape.
    #[error("the entry cannot be decoded")]
    Decode(#[from] minicbor::decode::Error),
    /// Not CBOR of the body's shape.
    #[error("the body of a `{kind}` entry cannot be decoded")]
    Body {
        /// The kind it claims to be.
        kind: &'static str,
        /// What the decoder says.
        source: minicbor::decode::Error,
    },
    /// The bytes decode, but another, shorter or sorted form exists: only that one is an entry.
    #[error("the bytes are not in canonical form")]
    NotCanonical,
    /// A format that this program does not know.
    #[error("entry format `{0}` is not supported")]
    Format(u8),
    /// A body of a kind that this semantics version does not know.
    #[error("entry kind `{0}` is not known")]
    UnknownKind(u16),
    /// The kind came with a later semantics version than the entry claims.
    #[error("there is no `{kind}` entry under semantics version {semantics}: it came with version {since}")]
    BeforeItsTime {
        /// The kind.
        kind: &'static str,
        /// The version that it came with.
        since: u16,
        /// The version claimed.
        semantics: u16,
    },
    /// The kind may not stand in this kind of stream.
    #[error("a `{kind}` entry may not stand in a {stream:?} stream")]
    Misplaced {
        /// The kind.
        kind: &'static str,
        /// The stream.
        stream: crate::StreamKind,
    },
    /// Longer than a leaf may be.
    #[error("the entry has {0} bytes; at most 65535 fit a leaf")]
    TooLong(usize),
    /// The position names no place in an append of 1 to 64 entries.
    #[error("position {index} of {length} is not a place in an append of 1 to 64 entries")]
    Position {
        /// Place, from 0.
        index: u8,
        /// Length.
        length: u8,
    },
    /// The signature does not verify under the key that must have made it.
    #[error("the signature on `{0}` does not verify")]
    Signature(&'static str),
    /// Only Ed25519 signs for a person.
    #[error("signature algorithm {0} is not taken: sign with Ed25519, which is COSE algorithm -8")]
    Algorithm(i32),
    /// Not 32 bytes of a valid Ed25519 public key.
    #[error("`{0}` is not a valid Ed25519 public key")]
    PublicKey(String),
    /// Not a C2SP signed note.
    #[error("the note is malformed: {0}")]
    Note(&'static str),
    /// A note without a signature by the key that was asked for.
    #[error("the note is not signed by `{0}`")]
    NotSignedBy(String),
    /// Not a tlog-checkpoint.
    #[error("the checkpoint is malformed: {0}")]
    Checkpoint(&'static str),
    /// A checkpoint or an entry of another log.
    #[error("belongs to log `{found}`, not to `{expected}`")]
    OtherLog {
        /// The log that was configured.
        expected: String,
        /// The log found.
        found: String,
    },
    /// The first entry of a log is not the genesis that the root key vouches for.
    #[error("the genesis entry is not acceptable: {0}")]
    Genesis(&'static str),
    /// The inclusion proof does not lead to the checkpoint's root.
    #[error("the entry is not proven to be in the log")]
    NotIncluded(#[source] countersign_ledger_merkle::ProofError),
    /// The entry is proven, but it is not of the kind that was asked for.
    #[error("the entry is a `{0}`, which is not what was asked for")]
    OtherKind(&'static str),
}
