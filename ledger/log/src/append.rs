//! What a caller hands to the committer, and what it gets back.
//!
//! Absent: how drafts become signed entries (`ledger/entry::append`). Read next: `logs`.

use std::sync::Arc;

use countersign_gateway_model::{Digest, PolicyDigests, Pseudonym, Timestamp};
use countersign_ledger_entry::body::{AuthorityMode, Fact};
use countersign_ledger_entry::{Blob, Committed, EntryError, Header, Payload, Receipt, Row, SignedEntry, Stream};

/// What the entries of one append share, besides what the log knows of itself.
#[derive(Clone, Copy, Debug)]
pub struct Sealing {
    /// The stream.
    pub stream: Stream,
    /// Sequence of the first entry: [`crate::Head::next_sequence`], or 0.
    pub sequence: u64,
    /// Leaf hash of the stream's last entry: [`crate::Head::last_hash`], or none.
    pub previous: Option<Digest>,
    /// The policy snapshot in force.
    pub policy: Option<PolicyDigests>,
    /// Who may approve what.
    pub authority: AuthorityMode,
    /// When, as this gateway claims.
    pub claimed: Timestamp,
}

/// An idempotency key is valid for one principal within one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IdempotencyScope {
    /// The stream: the instance's, or the organization's for what begins an instance.
    pub stream: Stream,
    /// Whose key.
    pub principal: Pseudonym,
}

/// An idempotency key with the answer that is committed beside the entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// Where the key is valid.
    pub scope: IdempotencyScope,
    /// Digest of the key.
    pub key: Digest,
    /// Digest of the request.
    pub request: Digest,
    /// What to answer when the key comes again.
    pub answer: Vec<u8>,
}

/// 1 to 64 entries of one stream, with what travels beside them: all or none.
#[derive(Clone, Debug, Default)]
pub struct Append {
    /// Sequence that the first entry must get.
    pub expected: u64,
    /// The entries, sealed by [`crate::LogHandle::seal`].
    pub entries: Vec<SignedEntry>,
    /// Payloads; each is named by one of the entries.
    pub payloads: Vec<Payload>,
    /// Shared bytes, stored once per log.
    pub blobs: Vec<Blob>,
    /// Projection rows.
    pub rows: Vec<Row>,
    /// The idempotency key of the request, where it has one.
    pub idempotency: Option<Idempotency>,
    /// Payloads whose bytes are erased with this append: index of the entry that names it, and digest.
    pub erase: Vec<(u64, Digest)>,
    /// Stops, rejects or recovers something: passes below the disk's reserve and with a clock that is behind.
    pub urgent: bool,
}

/// One committed entry.
#[derive(Clone, Debug)]
pub struct AppendedEntry {
    /// What it says.
    pub header: Header,
    /// Its bytes, as read back from the journal before they were signed for.
    pub leaf: Arc<[u8]>,
    /// The proof that it is in the log.
    pub receipt: Receipt,
}

impl AppendedEntry {
    /// The fact with its proof, checked again from the leaf's bytes.
    ///
    /// # Errors
    /// As [`Committed::check`].
    pub fn committed<T: Fact + Clone>(&self) -> Result<Committed<T>, EntryError> {
        Committed::check(Arc::clone(&self.leaf), self.receipt.clone())
    }
}

/// A committed append.
#[derive(Clone, Debug)]
pub struct Appended {
    /// The entries in order, at adjacent indices.
    pub entries: Vec<AppendedEntry>,
}

impl Appended {
    /// The receipts in order.
    pub fn receipts(&self) -> impl ExactSizeIterator<Item = &Receipt> {
        self.entries.iter().map(|entry| &entry.receipt)
    }

    /// The first entry that is a `T`, with its proof; none if there is no such entry.
    pub fn first<T: Fact + Clone>(&self) -> Option<Result<Committed<T>, EntryError>> {
        self.entries.iter().find(|entry| T::from_body(&entry.header.body).is_some()).map(AppendedEntry::committed)
    }
}
