//! The checks, in order: container and evidence root, trust, the two notes, parts and tree, then every entry from first
//! to last, then disclosures, then the checkpoint that the auditor holds. The first defect ends it.

use std::collections::HashSet;

use sha2::{Digest as _, Sha256};

use countersign_gateway_model::Digest;
use countersign_ledger_entry::key::VKey;
use countersign_ledger_entry::note::{Checkpoint, Note};
use countersign_ledger_entry::{TrustedLog, payload};
use countersign_ledger_merkle::{
    BundleCoord, Tree, bundles_between, decode_bundle, encode_tile, leaf_hash, tile_hashes, tiles_between,
};

use crate::given::held_of;
use crate::pack::{BLOBS, CHECKPOINT, PAYLOADS, Pack};
use crate::walk::Walk;
use crate::{Code, Population, Problem, Report, Verdict, VerifyError, Witnesses};

/// Longest text of a problem.
const MAX_PROBLEM: usize = 600;

/// Verifies a pack under the root key that the caller was configured with.
///
/// `known` is what the caller holds from before: checkpoint notes, of the same log at least one. Never fails: whatever is
/// wrong is in the report. Takes time and memory in proportion to the pack.
pub fn verify(root: &VKey, pack: &[u8], known: Option<&str>) -> Report {
    check(root, pack, known).unwrap_or_else(|error| invalid(root, &error))
}

/// The report on a file that is larger than [`crate::MAX_PACK`], which nobody has to read for that.
pub fn too_large(root: &VKey) -> Report {
    invalid(root, &VerifyError::Limit("it is larger than 2 GiB"))
}

fn invalid(root: &VKey, error: &VerifyError) -> Report {
    let mut problem = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        problem = format!("{problem}: {inner}");
        cause = inner.source();
    }
    let problem = Problem { code: error.code(), entry: error.entry(), detail: plain(&problem) };
    Report::invalid(root.to_string(), problem)
}

/// Printable ASCII: what an entry says must not steer the auditor's terminal.
fn plain(text: &str) -> String {
    let escaped = text.chars().flat_map(|c| {
        let printable = c.is_ascii_graphic() || c == ' ';
        let (kept, escaped) = if printable { (Some(c), None) } else { (None, Some(c.escape_unicode())) };
        kept.into_iter().chain(escaped.into_iter().flatten())
    });
    escaped.take(MAX_PROBLEM).collect()
}

fn check(root: &VKey, file: &[u8], known: Option<&str>) -> Result<Report, VerifyError> {
    let pack = Pack::read(file)?;
    let log = TrustedLog::new(root, genesis(&pack)?).map_err(VerifyError::Trust)?;
    if pack.origin != log.origin() {
        return Err(VerifyError::Evidence("it is of another log"));
    }
    pack.evidence.verify(log.log()).map_err(VerifyError::EvidenceNote)?;
    let note = std::str::from_utf8(part(&pack, CHECKPOINT)?).map_err(|_| VerifyError::Part(CHECKPOINT.to_owned()))?;
    let checkpoint = log.checkpoint(note).map_err(VerifyError::Checkpoint)?;
    let checkpoint = checkpoint.checkpoint();

    let (leaves, tree) = entries(&pack, checkpoint)?;
    let mut walk = Walk::new(&log);
    for (index, leaf) in (0..).zip(&leaves) {
        walk.entry(index, leaf)?;
    }
    walk.finish(checkpoint.size)?;
    let payloads = disclosures(&pack, &walk)?;
    let known = known.map(|note| compare(&log, &tree, note, checkpoint)).transpose()?;
    Ok(report(root, note, checkpoint, walk, payloads, known))
}

fn part<'a>(pack: &Pack<'a>, name: &str) -> Result<&'a [u8], VerifyError> {
    pack.parts.get(name).copied().ok_or_else(|| VerifyError::Part(name.to_owned()))
}

/// The first leaf, from which trust in everything else follows. That its bundle is the log's is seen later.
fn genesis<'a>(pack: &Pack<'a>) -> Result<&'a [u8], VerifyError> {
    let mut bundles = pack.parts.range("tile/entries/000".."tile/entries/001");
    let (name, bundle) = bundles.next().ok_or_else(|| VerifyError::Part("tile/entries/000".to_owned()))?;
    let leaf =
        bundle.split_first_chunk::<2>().and_then(|(length, rest)| rest.get(..usize::from(u16::from_be_bytes(*length))));
    leaf.ok_or_else(|| VerifyError::Part((*name).to_owned()))
}

/// Every leaf, in order, after checking that bundles and tiles are exactly those of a log of this size and root.
fn entries<'a>(pack: &Pack<'a>, checkpoint: &Checkpoint) -> Result<(Vec<&'a [u8]>, Tree), VerifyError> {
    let mut expected: HashSet<String> = HashSet::from([CHECKPOINT.to_owned()]);
    // A signed size that the file cannot hold would only make us walk: every entry takes at least two bytes.
    let held: usize = pack.parts.values().map(|part| part.len()).sum();
    if checkpoint.size > u64::try_from(held / 2).unwrap_or(u64::MAX) {
        return Err(VerifyError::Part("tile/entries".to_owned()));
    }
    let mut leaves = Vec::new();
    for bundle in bundles_between(0, checkpoint.size) {
        leaves.extend(entries_of(pack, bundle, &mut expected)?);
    }
    let tree: Tree = leaves.iter().map(|leaf| leaf_hash(leaf)).collect();
    if tree.size() != checkpoint.size || tree.root()? != checkpoint.root {
        return Err(VerifyError::Root);
    }
    for tile in tiles_between(0, checkpoint.size) {
        let path = tile.path();
        if part(pack, &path)? != encode_tile(&tile_hashes(tile, &tree)?) {
            return Err(VerifyError::Part(path));
        }
        expected.insert(path);
    }
    let disclosed = |name: &str| name.starts_with(PAYLOADS) || name.starts_with(BLOBS);
    match pack.parts.keys().find(|name| !disclosed(name) && !expected.contains(**name)) {
        Some(name) => Err(VerifyError::Part((*name).to_owned())),
        None => Ok((leaves, tree)),
    }
}

fn entries_of<'a>(
    pack: &Pack<'a>,
    bundle: BundleCoord,
    expected: &mut HashSet<String>,
) -> Result<Vec<&'a [u8]>, VerifyError> {
    let path = bundle.path();
    let decoded = decode_bundle(bundle, part(pack, &path)?).map_err(|_| VerifyError::Part(path.clone()))?;
    expected.insert(path);
    Ok(decoded)
}

/// What the pack discloses.
#[derive(Clone, Copy, Default)]
struct Disclosed {
    payloads: u64,
    blobs: u64,
    /// Payloads that an erasure entry calls erased.
    contradicting: u64,
    /// Grants whose terms are here.
    terms: u64,
}

/// Checks that what is disclosed is what entries committed to, and counts it.
fn disclosures(pack: &Pack<'_>, walk: &Walk<'_>) -> Result<Disclosed, VerifyError> {
    let mut out = Disclosed::default();
    for (name, bytes) in &pack.parts {
        let wrong = || VerifyError::Part((*name).to_owned());
        if let Some(digest) = name.strip_prefix(PAYLOADS) {
            let digest: Digest = digest.parse().map_err(|_| wrong())?;
            let length = walk.named(&digest).ok_or_else(wrong)?;
            if payload::digest(bytes) != digest || u32::try_from(bytes.len()) != Ok(length) {
                return Err(wrong());
            }
            out.payloads += 1;
            out.contradicting += u64::from(walk.is_erased(&digest));
        } else if let Some(digest) = name.strip_prefix(BLOBS) {
            let digest: Digest = digest.parse().map_err(|_| wrong())?;
            if Digest(Sha256::digest(bytes).into()) != digest {
                return Err(wrong());
            }
            out.blobs += 1;
        }
    }
    out.terms = walk.terms.compare(&pack.parts)?;
    Ok(out)
}

/// What the auditor's own checkpoints say about this log. In order of size: what is newer is larger than the pack.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Known {
    /// It lies on it.
    Consistent(u64),
    /// It is of a later size than the pack.
    Newer(u64),
}

/// Holds every checkpoint of this log to it; the largest is what is told.
fn compare(log: &TrustedLog, tree: &Tree, held: &str, pack: &Checkpoint) -> Result<Known, VerifyError> {
    let mut largest = Known::Consistent(0);
    for note in held_of(held, log.origin()).map_err(VerifyError::Known)? {
        let known = log.checkpoint(note).map_err(VerifyError::Known)?;
        let known = known.checkpoint();
        if known.size > pack.size {
            largest = largest.max(Known::Newer(known.size));
        } else if tree.root_at(known.size)? == known.root {
            largest = largest.max(Known::Consistent(known.size));
        } else {
            return Err(VerifyError::Fork { size: known.size });
        }
    }
    Ok(largest)
}

fn report(
    root: &VKey,
    note: &str,
    at: &Checkpoint,
    walk: Walk<'_>,
    disclosed: Disclosed,
    known: Option<Known>,
) -> Report {
    let mut problems = walk.problems();
    if disclosed.contradicting > 0 {
        let detail = format!("{} payloads are here that an erasure entry calls erased", disclosed.contradicting);
        problems.push(Problem { code: Code::ErasedPayload, entry: None, detail });
    }
    let mut facts = walk.into_facts();
    facts.population = Population { from: 0, to: at.size, complete: true };
    facts.root = at.root.to_string();
    facts.payloads.disclosed = disclosed.payloads;
    facts.payloads.blobs = disclosed.blobs;
    facts.counts.grants.terms = disclosed.terms;
    let lines = Note::parse(note).map_or(0, |note| note.signature_count());
    facts.witnesses = Witnesses { checked: 0, unchecked: u64::try_from(lines).unwrap_or(u64::MAX).saturating_sub(1) };
    match known {
        Some(Known::Consistent(size)) => facts.known = Some(size),
        Some(Known::Newer(size)) => {
            let detail = format!("the checkpoint that you hold is newer (size {size}): ask for a pack up to there");
            problems.push(Problem { code: Code::CheckpointNewer, entry: None, detail });
        }
        None => {}
    }
    Report {
        verdict: if problems.is_empty() { Verdict::Valid } else { Verdict::Inconclusive },
        problems,
        root_key: root.to_string(),
        proven: facts.proven(),
        not_proven: facts.not_proven(),
        facts: Some(facts),
    }
}
