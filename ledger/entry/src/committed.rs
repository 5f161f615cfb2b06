//! The proof that lets work begin: a fact that is in the log, checked against a checkpoint under a configured key.
//!
//! [`TrustedLog`] is built from the root key that its holder was configured with and the log's genesis; it yields
//! [`VerifiedCheckpoint`], once per checkpoint; only that yields [`Committed`]. None has another constructor, so a
//! value of type `Committed<Start>` in a function's argument list is the proof that the start is durable.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use countersign_gateway_model::{LogId, OrgId};
use countersign_ledger_merkle::{Hash, leaf_hash, verify_inclusion};

use crate::EntryError;
use crate::body::{Body, Durability, Fact, Genesis, SignatureMode, StreamKind};
use crate::entry::{Entry, Header};
use crate::key::{self, VKey};
use crate::note::{Checkpoint, Note};

/// A log as its holder trusts it: origin, organization and log key, all following from the configured root key.
#[derive(Clone, Debug)]
pub struct TrustedLog {
    root: VKey,
    log: VKey,
    genesis: Genesis,
    genesis_header: Header,
}

impl TrustedLog {
    /// Accepts a log whose genesis the configured root key signed.
    ///
    /// # Errors
    /// [`EntryError::Genesis`], [`EntryError::Signature`] or [`EntryError::OtherLog`] if `leaf` is not that genesis.
    pub fn new(root: &VKey, leaf: &[u8]) -> Result<Self, EntryError> {
        let entry = Entry::parse(leaf)?;
        entry.verify(leaf, root.key())?;
        let header = entry.header;
        let Body::Genesis(genesis) = &header.body else {
            return Err(EntryError::Genesis("the first entry is of another kind"));
        };
        let genesis = genesis.clone();
        if header.sequence != 0 || header.previous.is_some() || header.stream.kind != StreamKind::Log {
            return Err(EntryError::Genesis("it is not the first entry of the log's own stream"));
        }
        if header.stream.id.as_bytes() != genesis.log.as_bytes() {
            return Err(EntryError::Genesis("its stream is not the log's"));
        }
        if root.name() != key::root_name(&header.origin) {
            return Err(EntryError::OtherLog { expected: root.name().to_owned(), found: header.origin });
        }
        if header.boot != 0 || header.key != root.id() {
            return Err(EntryError::Genesis("it names another key than the root key, or a boot"));
        }
        if header.origin.rsplit_once('/').map(|(_, id)| id) != Some(const_hex::encode(genesis.log.as_bytes()).as_str())
        {
            return Err(EntryError::Genesis("the origin does not end in the log's id"));
        }
        if !genesis.root_keys.iter().any(|k| k.0 == *root.key().as_bytes()) {
            return Err(EntryError::Genesis("the signing key is not in root document version 1"));
        }
        let log = VKey::new(&header.origin, key::public_key(&genesis.log_key.0)?)?;
        Ok(Self { root: root.clone(), log, genesis, genesis_header: header })
    }

    /// The root key.
    pub fn root(&self) -> &VKey {
        &self.root
    }

    /// The key of checkpoints and evidence.
    pub fn log(&self) -> &VKey {
        &self.log
    }

    /// Origin line.
    pub fn origin(&self) -> &str {
        self.log.name()
    }

    /// The log's id.
    pub fn id(&self) -> LogId {
        self.genesis.log
    }

    /// The organization whose log this is.
    pub fn org(&self) -> OrgId {
        self.genesis.org
    }

    /// The first entry's body.
    pub fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// The first entry's header.
    pub fn genesis_header(&self) -> &Header {
        &self.genesis_header
    }

    /// How entries are signed.
    pub fn signatures(&self) -> SignatureMode {
        self.genesis.signatures
    }

    /// When receipts are released.
    pub fn durability(&self) -> Durability {
        self.genesis.durability
    }

    /// Checks a checkpoint note.
    ///
    /// # Errors
    /// [`EntryError`] if it is malformed, of another log, or not signed by the log key.
    pub fn checkpoint(&self, note: &str) -> Result<VerifiedCheckpoint, EntryError> {
        let parsed = Note::parse(note)?;
        parsed.verify(&self.log)?;
        let checkpoint = Checkpoint::parse(parsed.text)?;
        if checkpoint.origin != self.origin() {
            return Err(EntryError::OtherLog { expected: self.origin().to_owned(), found: checkpoint.origin });
        }
        Ok(VerifiedCheckpoint { checkpoint, note: note.to_owned(), org: self.org() })
    }
}

/// A checkpoint whose signature was checked under the log key that the configured root key vouches for.
#[derive(Clone, Debug)]
pub struct VerifiedCheckpoint {
    checkpoint: Checkpoint,
    note: String,
    org: OrgId,
}

impl VerifiedCheckpoint {
    /// Size and root.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The signed note.
    pub fn note(&self) -> &str {
        &self.note
    }

    /// The organization whose log this is.
    pub fn org(&self) -> OrgId {
        self.org
    }
}

/// Where an entry is in the log, with the proof. Text form: C2SP tlog-proof.
#[derive(Clone, Debug)]
pub struct Receipt {
    /// Place in the log.
    pub index: u64,
    /// Leaf hash.
    pub leaf_hash: Hash,
    /// Inclusion proof, leaf side first.
    pub proof: Vec<Hash>,
    /// The checkpoint that the proof leads to.
    pub checkpoint: Arc<VerifiedCheckpoint>,
}

impl Receipt {
    /// The receipt as a `.tlog-proof` file.
    pub fn tlog_proof(&self) -> String {
        let mut out = format!("c2sp.org/tlog-proof@v1\nindex {}\n", self.index);
        for hash in &self.proof {
            out.push_str(&STANDARD.encode(hash.0));
            out.push('\n');
        }
        out.push('\n');
        out.push_str(self.checkpoint.note());
        out
    }
}

/// A fact that is durable in the log: it holds the leaf, its receipt, and what the leaf says.
#[derive(Clone, Debug)]
pub struct Committed<T> {
    fact: T,
    header: Header,
    leaf: Arc<[u8]>,
    receipt: Receipt,
}

impl<T: Fact + Clone> Committed<T> {
    /// Checks that `leaf` is in the log at `receipt.index`, and that it is a `T`.
    ///
    /// # Errors
    /// [`EntryError::NotIncluded`] if the proof does not hold, [`EntryError::OtherKind`] if the leaf says something
    /// else, [`EntryError::OtherLog`] if it names another log.
    pub fn check(leaf: Arc<[u8]>, receipt: Receipt) -> Result<Self, EntryError> {
        let hash = leaf_hash(&leaf);
        let at = receipt.checkpoint.checkpoint();
        verify_inclusion(&hash, receipt.index, at.size, &receipt.proof, &at.root).map_err(EntryError::NotIncluded)?;
        let header = Entry::parse(&leaf)?.header;
        if header.origin != at.origin {
            return Err(EntryError::OtherLog { expected: at.origin.clone(), found: header.origin });
        }
        let fact = T::from_body(&header.body).ok_or(EntryError::OtherKind(header.body.kind().as_str()))?.clone();
        Ok(Self { fact, header, leaf, receipt: Receipt { leaf_hash: hash, ..receipt } })
    }
}

impl<T> Committed<T> {
    /// What is committed.
    pub fn fact(&self) -> &T {
        &self.fact
    }

    /// The whole header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The leaf's bytes.
    pub fn leaf(&self) -> &Arc<[u8]> {
        &self.leaf
    }

    /// The proof.
    pub fn receipt(&self) -> &Receipt {
        &self.receipt
    }

    /// The organization whose log it is in.
    pub fn org(&self) -> OrgId {
        self.receipt.checkpoint.org()
    }
}

#[cfg(test)]
mod tests;
