//! The evidence pack: its parts, the root over them, and the signed note `EVIDENCE`.
//!
//! Parts: `checkpoint` (the signed note), `tile/<L>/<N>…` and `tile/entries/<N>…` (unpacked, a valid tlog-tiles log),
//! `payloads/<hex>` and `blobs/<hex>` (disclosures, where the exporter added them). `EVIDENCE` is a note of four lines
//! with exactly one signature, by the log key, over the root of an RFC 6962 tree of all other parts in name order,
//! leaf = name ‖ 0x00 ‖ bytes. This version writes and reads whole logs, [0, size).

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rs_merkle::{Hasher, MerkleTree};
use sha2::{Digest as _, Sha256};

use countersign_ledger_entry::note::{Checkpoint, Note};
use countersign_ledger_merkle::{
    Tree, bundles_between, encode_bundle, encode_tile, leaf_hash, tile_hashes, tiles_between,
};

use crate::{VerifyError, zip};

/// First line of `EVIDENCE`.
const TITLE: &str = "countersign evidence v1";

/// Name of the signed note over all other parts.
pub(crate) const EVIDENCE: &str = "EVIDENCE";

/// Name of the checkpoint part.
pub(crate) const CHECKPOINT: &str = "checkpoint";

/// Prefix of disclosed payloads.
pub(crate) const PAYLOADS: &str = "payloads/";

/// Prefix of disclosed blobs.
pub(crate) const BLOBS: &str = "blobs/";

/// RFC 6962 hashing for `rs_merkle`, whose default has no domain separation.
#[derive(Clone)]
struct Rfc6962;

impl Hasher for Rfc6962 {
    type Hash = [u8; 32];

    fn hash(data: &[u8]) -> [u8; 32] {
        Sha256::new().chain_update([0]).chain_update(data).finalize().into()
    }

    fn concat_and_hash(left: &[u8; 32], right: Option<&[u8; 32]>) -> [u8; 32] {
        right.map_or(*left, |right| {
            Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
        })
    }
}

/// Root over all parts but `EVIDENCE`, which are sorted by name.
fn parts_root<'a>(parts: impl Iterator<Item = (&'a str, &'a [u8])>) -> Option<[u8; 32]> {
    let leaves: Vec<[u8; 32]> = parts
        .map(|(name, data)| {
            Sha256::new().chain_update([0]).chain_update(name).chain_update([0]).chain_update(data).finalize().into()
        })
        .collect();
    MerkleTree::<Rfc6962>::from_leaves(&leaves).root()
}

/// What a pack is made of.
#[derive(Clone, Debug, Default)]
pub struct Contents<'a> {
    /// Origin line of the log.
    pub origin: &'a str,
    /// The signed checkpoint note of the size that the pack covers.
    pub checkpoint: &'a str,
    /// Every leaf, in order.
    pub leaves: Vec<&'a [u8]>,
    /// Payloads to disclose, by their digest in hex.
    pub payloads: BTreeMap<String, &'a [u8]>,
    /// Blobs to disclose, by their plain SHA-256 in hex.
    pub blobs: BTreeMap<String, &'a [u8]>,
}

/// Writes the pack of a whole log. `sign` makes a note of a text with the log key.
///
/// # Errors
/// [`VerifyError::Limit`] if the log is too large for one pack, [`VerifyError::Container`] if a leaf or a name cannot
/// be in one, [`VerifyError::Root`] if the checkpoint is not one of these leaves.
pub fn write(contents: &Contents<'_>, sign: impl FnOnce(&str) -> String) -> Result<Vec<u8>, VerifyError> {
    let mut parts: BTreeMap<String, Cow<'_, [u8]>> = BTreeMap::new();
    parts.insert(CHECKPOINT.to_owned(), Cow::Borrowed(contents.checkpoint.as_bytes()));
    let size = u64::try_from(contents.leaves.len()).unwrap_or(u64::MAX);
    let tree: Tree = contents.leaves.iter().map(|leaf| leaf_hash(leaf)).collect();
    check_checkpoint(contents, &tree)?;
    for tile in tiles_between(0, size) {
        let hashes = tile_hashes(tile, &tree).map_err(|_| VerifyError::Container("a tile of the log is missing"))?;
        parts.insert(tile.path(), Cow::Owned(encode_tile(&hashes)));
    }
    for bundle in bundles_between(0, size) {
        let range = bundle.entries();
        let (from, to) = (usize::try_from(range.start), usize::try_from(range.end));
        let leaves = match (from, to) {
            (Ok(from), Ok(to)) => contents.leaves.get(from..to),
            _ => None,
        }
        .ok_or(VerifyError::Container("an entry of the log is missing"))?;
        let bytes = encode_bundle(leaves).map_err(|_| VerifyError::Container("an entry is longer than 65535 bytes"))?;
        parts.insert(bundle.path(), Cow::Owned(bytes));
    }
    for (prefix, items) in [(PAYLOADS, &contents.payloads), (BLOBS, &contents.blobs)] {
        for (digest, bytes) in items {
            parts.insert(format!("{prefix}{digest}"), Cow::Borrowed(bytes));
        }
    }
    let listed = || parts.iter().map(|(name, data)| (name.as_str(), &**data));
    let root = parts_root(listed()).ok_or(VerifyError::Container("there is nothing to put in"))?;
    let evidence = sign(&format!("{TITLE}\n{}\n{}\n{}\n", contents.origin, parts.len(), STANDARD.encode(root)));
    let mut all: Vec<(&str, &[u8])> = listed().collect();
    all.push((EVIDENCE, evidence.as_bytes()));
    all.sort_unstable_by_key(|(name, _)| *name);
    zip::write(&all)
}

/// A pack that could not verify is not written: whoever exports must hear of it, not the auditor.
fn check_checkpoint(contents: &Contents<'_>, tree: &Tree) -> Result<(), VerifyError> {
    let note = Note::parse(contents.checkpoint).map_err(VerifyError::Checkpoint)?;
    let checkpoint = Checkpoint::parse(note.text).map_err(VerifyError::Checkpoint)?;
    if checkpoint.origin == contents.origin && checkpoint.size == tree.size() && checkpoint.root == tree.root()? {
        Ok(())
    } else {
        Err(VerifyError::Root)
    }
}

/// A pack taken apart: the container is canonical and `EVIDENCE` has the right root; its signature is not yet checked.
pub(crate) struct Pack<'a> {
    /// The signed note.
    pub(crate) evidence: Note<'a>,
    /// Origin line as the note has it.
    pub(crate) origin: &'a str,
    /// Every other part.
    pub(crate) parts: BTreeMap<&'a str, &'a [u8]>,
}

impl<'a> Pack<'a> {
    pub(crate) fn read(file: &'a [u8]) -> Result<Self, VerifyError> {
        let mut parts: BTreeMap<&str, &[u8]> = zip::read(file)?.into_iter().collect();
        let evidence = parts.remove(EVIDENCE).ok_or(VerifyError::Evidence("there is no part `EVIDENCE`"))?;
        let evidence = std::str::from_utf8(evidence).map_err(|_| VerifyError::Evidence("it is not text"))?;
        let evidence = Note::parse(evidence).map_err(VerifyError::EvidenceNote)?;
        if evidence.signature_count() != 1 {
            return Err(VerifyError::Evidence("it does not have exactly one signature"));
        }
        let mut lines = evidence.text.split('\n');
        let (Some(TITLE), Some(origin), Some(count), Some(root), Some(""), None) =
            (lines.next(), lines.next(), lines.next(), lines.next(), lines.next(), lines.next())
        else {
            return Err(VerifyError::Evidence("its text is not that of this version"));
        };
        if count != parts.len().to_string() {
            return Err(VerifyError::Evidence("the number of parts is another"));
        }
        let actual = parts_root(parts.iter().map(|(name, data)| (*name, *data)));
        if actual.map(|root| STANDARD.encode(root)).as_deref() != Some(root) {
            return Err(VerifyError::Evidence("the parts are not those that were signed"));
        }
        Ok(Self { evidence, origin, parts })
    }
}
