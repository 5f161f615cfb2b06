//! From drafts to one append: adjacent, chained, signed entries of one stream, with what travels beside them.

use ed25519_dalek::SigningKey;

use countersign_gateway_model::{Determining, Digest, GatewayId, PolicyDigests, Pseudonym, Timestamp, Verdict};

use crate::body::{AuthorityMode, Body};
use crate::entry::{AppendPosition, Header, PayloadRef, SignedEntry, Stream};
use crate::{EntryError, MAX_APPEND, SEMANTICS};

/// What an entry will say, before its place is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// What happened.
    pub body: Body,
    /// What policy said, where it was asked.
    pub verdict: Option<Verdict>,
    /// The policies that determined it, per asked principal.
    pub determining: Determining,
    /// Who acted.
    pub actor: Pseudonym,
    /// On whose behalf, outermost first.
    pub on_behalf_of: Vec<Pseudonym>,
    /// Payloads kept beside the ledger.
    pub payloads: Vec<PayloadRef>,
    /// Salted commitments to single fields.
    pub fields: Vec<Digest>,
}

impl Draft {
    /// A draft by `actor` without verdict, chain or payloads.
    pub fn new(body: impl Into<Body>, actor: Pseudonym) -> Self {
        Self {
            body: body.into(),
            verdict: None,
            determining: Vec::new(),
            actor,
            on_behalf_of: Vec::new(),
            payloads: Vec::new(),
            fields: Vec::new(),
        }
    }
}

/// What all entries of one append share.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Origin line of the log.
    pub origin: String,
    /// The stream.
    pub stream: Stream,
    /// Sequence of the first entry.
    pub sequence: u64,
    /// Leaf hash of the stream's last entry.
    pub previous: Option<Digest>,
    /// The policy snapshot in force.
    pub policy: Option<PolicyDigests>,
    /// Who may approve what.
    pub authority: AuthorityMode,
    /// The gateway that writes.
    pub gateway: GatewayId,
    /// Its boot in this log.
    pub boot: u64,
    /// C2SP key id of the signing key.
    pub key: [u8; 4],
    /// When, as the gateway claims.
    pub claimed: Timestamp,
}

/// Chains and signs `drafts` as one append. Without a key the entries are unsigned (`checkpoint_only`).
///
/// # Errors
/// [`EntryError::Position`] for none or more than 64 drafts, and as [`Header::sign`].
pub fn seal(frame: &Frame, drafts: Vec<Draft>, key: Option<&SigningKey>) -> Result<Vec<SignedEntry>, EntryError> {
    let length = drafts.len();
    let count = u8::try_from(length).ok().filter(|n| *n > 0 && length <= MAX_APPEND);
    let Some(count) = count else {
        return Err(EntryError::Position { index: 0, length: u8::try_from(length).unwrap_or(u8::MAX) });
    };
    let mut previous = frame.previous;
    let mut sealed = Vec::with_capacity(length);
    for (index, draft) in (0..count).zip(drafts) {
        let header = Header {
            semantics: SEMANTICS,
            origin: frame.origin.clone(),
            stream: frame.stream,
            sequence: frame.sequence + u64::from(index),
            previous,
            append: AppendPosition { index, length: count },
            body: draft.body,
            verdict: draft.verdict,
            determining: draft.determining,
            policy: frame.policy,
            authority: frame.authority,
            actor: draft.actor,
            on_behalf_of: draft.on_behalf_of,
            gateway: frame.gateway,
            boot: frame.boot,
            key: frame.key,
            claimed: frame.claimed,
            payloads: draft.payloads,
            fields: draft.fields,
        };
        let entry = match key {
            Some(key) => header.sign(key)?,
            None => header.unsigned()?,
        };
        previous = Some(Digest(entry.hash.0));
        sealed.push(entry);
    }
    Ok(sealed)
}

/// One row of a projection, computed beside the entries that imply it and put in their transaction.
///
/// A projection is thrown away and rebuilt at will; nothing in it is authority. The storage scopes rows by
/// organization; keys sort as bytes, and scans go by key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Which projection or vault.
    pub table: &'static str,
    /// Its key within organization and table.
    pub key: Vec<u8>,
    /// JSON columns; none deletes the row.
    pub columns: Option<Vec<u8>>,
}

/// Bytes kept beside the ledger in the same transaction, named by a digest that an entry holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// `payload::digest` of the bytes.
    pub digest: Digest,
    /// Salt and content.
    pub bytes: Vec<u8>,
}

/// Bytes shared by many entries and stored once: an entity version, a bundle, a catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// Plain SHA-256 of the bytes, which no entry names directly unless they are public policy.
    pub digest: Digest,
    /// Content.
    pub bytes: std::sync::Arc<[u8]>,
}

#[cfg(test)]
mod tests;
