//! The bytes of an entry: canonical CBOR, signatures, checkpoints, salted payloads, receipts, `Committed<T>`.
//!
//! A leaf is deterministic CBOR `[h, sig]`; its hash is SHA-256(0x00 ‖ leaf) in an RFC 6962 tree. The stored
//! bytes are the truth: nothing is re-serialised to be verified, but bytes that are not in their one canonical
//! form are refused. Formats of checkpoints and notes are the C2SP family (signed-note, tlog-checkpoint,
//! tlog-proof; C2SP at 5ba5ee8).
//!
//! Absent on purpose: storage, clocks, randomness (salts and keys are passed in), and what the entries mean
//! (`gateway/flow`). Read next: `body` for the schema, `entry` for the leaf, `committed` for the proof that lets
//! work begin.

pub mod append;
pub mod assertion;
pub mod body;
mod codec;
pub mod committed;
pub mod entry;
mod error;
pub mod key;
pub mod note;
pub mod payload;

pub use append::{Blob, Draft, Frame, Payload, Row};
pub use body::{Body, Fact, Kind, StreamKind};
pub use codec::{Bytes32, Bytes64};
pub use committed::{Committed, Receipt, TrustedLog, VerifiedCheckpoint};
pub use entry::{AppendPosition, Entry, Header, PayloadRef, PayloadRole, SignedEntry, Stream};
pub use error::EntryError;

/// Entry format written and read by this crate.
pub const FORMAT: u8 = 1;

/// Semantics version written: which kinds exist and how the state machine moves. Every version from 1 on is read.
///
/// 2 adds the kinds `lift`, `review` and `person_key`, reads task grants, and holds signatures of decisions to be valid. In a
/// log versions ascend: once a program has written a version, no earlier one follows.
pub const SEMANTICS: u16 = 2;

/// Longest leaf (tlog-tiles entry bundles carry 16-bit lengths).
pub const MAX_LEAF: usize = 65_535;

/// Most entries in one append.
pub const MAX_APPEND: usize = 64;
