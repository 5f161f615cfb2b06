//! The checks, in order: container, evidence note, trust, checkpoint, tree, then every entry from first to last.

use std::collections::{BTreeMap, HashSet};

use countersign_gateway_model::{Assurance, Outcome, Pseudonym, Timestamp};
use countersign_ledger_entry::body::{Body, DecisionKind, Effect};
use countersign_ledger_entry::entry::UnknownEntry;
use countersign_ledger_entry::key::VKey;
use countersign_ledger_entry::note::Checkpoint;
use countersign_ledger_entry::{Entry, EntryError, Header, TrustedLog, VerifiedCheckpoint, payload};
use countersign_ledger_merkle::{
    Hash, Tree, bundles_between, decode_bundle, encode_tile, leaf_hash, tile_hashes, tiles_between,
};

use crate::keys::Keys;
use crate::pack::{BLOBS, CHECKPOINT, PAYLOADS, Pack, blob_name};
use crate::streams::{Links, StreamsFold};
use crate::{Report, Verdict, VerifyError};

/// A claimed time may lie this far behind the latest one before it in the log.
const CLOCK_MARGIN: u64 = 5_000;

/// Verifies a pack under the root key that the caller was configured with.
///
/// `known` is a checkpoint note of the same log that the caller holds from before. Never fails: whatever is wrong is
/// in the report.
pub fn verify(root: &VKey, pack: &[u8], known: Option<&str>) -> Report {
    match check(root, pack, known) {
        Ok(report) => report,
        Err(error) => {
            let mut problem = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(inner) = cause {
                problem = format!("{problem}: {inner}");
                cause = inner.source();
            }
            Report::invalid(&root.to_string(), problem)
        }
    }
}

fn check(root: &VKey, file: &[u8], known: Option<&str>) -> Result<Report, VerifyError> {
    let pack = Pack::read(file)?;
    let checkpoint_note = part(&pack, CHECKPOINT)?;
    let checkpoint_note =
        std::str::from_utf8(checkpoint_note).map_err(|_| VerifyError::Part(CHECKPOINT.to_owned()))?;

    // The size that the checkpoint claims says which parts there must be; it is believed only once it is signed.
    let first = pack
        .parts
        .iter()
        .find(|(name, _)| name.starts_with("tile/entries/000"))
        .ok_or_else(|| VerifyError::Part("tile/entries/000".to_owned()))?;
    let genesis = first_entry(first.1).ok_or_else(|| VerifyError::Part((*first.0).to_owned()))?;
    let log = TrustedLog::new(root, genesis).map_err(VerifyError::Trust)?;
    if pack.origin != log.origin() {
        return Err(VerifyError::Evidence("it is of another log"));
    }
    pack.evidence.verify(log.log()).map_err(VerifyError::Note)?;
    let checkpoint = log.checkpoint(checkpoint_note).map_err(VerifyError::Note)?;

    let (leaves, tree) = entries(&pack, checkpoint.checkpoint())?;
    let mut walk = Walk::new(&log);
    for (index, leaf) in (0..).zip(&leaves) {
        walk.entry(index, leaf)?;
    }
    walk.finish(checkpoint.checkpoint().size)?;
    let disclosed = disclosures(&pack, &walk.payloads)?;
    let known = known.map(|note| compare(&log, &tree, note, &checkpoint)).transpose()?;
    Ok(report(root, &checkpoint, walk, disclosed, known))
}

fn part<'a>(pack: &Pack<'a>, name: &str) -> Result<&'a [u8], VerifyError> {
    pack.parts.get(name).copied().ok_or_else(|| VerifyError::Part(name.to_owned()))
}

fn first_entry(bundle: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bundle.split_first_chunk::<2>()?;
    rest.get(..usize::from(u16::from_be_bytes(*length)))
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
        let path = bundle.path();
        let decoded = decode_bundle(bundle, part(pack, &path)?).map_err(|_| VerifyError::Part(path.clone()))?;
        leaves.extend(decoded);
        expected.insert(path);
    }
    let tree: Tree = leaves.iter().map(|leaf| leaf_hash(leaf)).collect();
    if tree.root()? != checkpoint.root || tree.size() != checkpoint.size {
        return Err(VerifyError::Root);
    }
    for tile in tiles_between(0, checkpoint.size) {
        let path = tile.path();
        if part(pack, &path)? != encode_tile(&tile_hashes(tile, &tree)?) {
            return Err(VerifyError::Part(path));
        }
        expected.insert(path);
    }
    let extra = pack.parts.keys().find(|name| {
        !name.starts_with(PAYLOADS) && !name.starts_with(BLOBS) && !expected.contains(**name)
    });
    match extra {
        Some(name) => Err(VerifyError::Part((*name).to_owned())),
        None => Ok((leaves, tree)),
    }
}

/// Checks that what is disclosed is what entries committed to; returns how many payloads are.
fn disclosures(pack: &Pack<'_>, named: &HashSet<String>) -> Result<u64, VerifyError> {
    let mut disclosed = 0;
    for (name, bytes) in &pack.parts {
        if let Some(digest) = name.strip_prefix(PAYLOADS) {
            if payload::digest(bytes).to_string() != digest || !named.contains(digest) {
                return Err(VerifyError::Part((*name).to_owned()));
            }
            disclosed += 1;
        } else if let Some(digest) = name.strip_prefix(BLOBS)
            && blob_name(bytes) != digest
        {
            return Err(VerifyError::Part((*name).to_owned()));
        }
    }
    Ok(disclosed)
}

/// What the auditor's own checkpoint says about this log.
enum Known {
    /// It lies on it.
    Consistent(u64),
    /// It is of a later size than the pack.
    Newer(u64),
}

fn compare(log: &TrustedLog, tree: &Tree, note: &str, pack: &VerifiedCheckpoint) -> Result<Known, VerifyError> {
    let known = log.checkpoint(note).map_err(VerifyError::Note)?;
    let known = known.checkpoint();
    if known.size > pack.checkpoint().size {
        return Ok(Known::Newer(known.size));
    }
    if tree.root_at(known.size)? == known.root {
        Ok(Known::Consistent(known.size))
    } else {
        Err(VerifyError::Fork { size: known.size })
    }
}

/// Everything that is carried from entry to entry.
struct Walk<'a> {
    log: &'a TrustedLog,
    keys: Keys<'a>,
    links: Links,
    folds: StreamsFold,
    latest: Timestamp,
    first: Option<Timestamp>,
    counts: crate::Counts,
    authority: BTreeMap<String, u64>,
    boots: u64,
    sandbox_levels: Vec<u8>,
    payloads: HashSet<String>,
    erasures: u64,
    unknown: BTreeMap<u16, u64>,
}

impl<'a> Walk<'a> {
    fn new(log: &'a TrustedLog) -> Self {
        Self {
            log,
            keys: Keys::new(log),
            links: Links::default(),
            folds: StreamsFold::default(),
            latest: Timestamp(0),
            first: None,
            counts: crate::Counts::default(),
            authority: BTreeMap::new(),
            boots: 0,
            sandbox_levels: Vec::new(),
            payloads: HashSet::new(),
            erasures: 0,
            unknown: BTreeMap::new(),
        }
    }

    fn entry(&mut self, index: u64, leaf: &[u8]) -> Result<(), VerifyError> {
        let broken = |problem: String| VerifyError::Broken { index, problem };
        let hash = leaf_hash(leaf);
        match Entry::parse(leaf) {
            Ok(entry) => {
                let header = &entry.header;
                self.place(index, &header.origin, header.claimed).map_err(broken)?;
                self.links
                    .follow(header.stream, header.sequence, header.previous, header.append, hash)
                    .map_err(broken)?;
                if index > 0 {
                    if matches!(header.body, Body::Genesis(_)) {
                        return Err(broken("a log has one genesis, its first entry".to_owned()));
                    }
                    self.keys.check(index, &entry, leaf).map_err(broken)?;
                }
                self.folds.apply(index, header, hash)?;
                self.decision(index, header)?;
                self.count(header);
                Ok(())
            }
            Err(EntryError::UnknownKind(_)) => self.unknown(index, leaf, hash),
            Err(source) => Err(VerifyError::Entry { index, source }),
        }
    }

    /// An entry of a later semantics version: its bytes, links and signature are checked, its meaning cannot be.
    fn unknown(&mut self, index: u64, leaf: &[u8], hash: Hash) -> Result<(), VerifyError> {
        let broken = |problem: String| VerifyError::Broken { index, problem };
        let entry = UnknownEntry::parse(leaf).map_err(|source| VerifyError::Entry { index, source })?;
        if entry.semantics <= countersign_ledger_entry::SEMANTICS {
            let source = EntryError::UnknownKind(entry.kind);
            return Err(VerifyError::Entry { index, source });
        }
        self.place(index, &entry.origin, entry.claimed).map_err(broken)?;
        self.links.follow(entry.stream, entry.sequence, entry.previous, entry.append, hash).map_err(broken)?;
        self.keys.check_unknown(&entry, leaf.last() != Some(&0x40), leaf).map_err(broken)?;
        self.folds.unknown(entry.stream);
        *self.unknown.entry(entry.kind).or_default() += 1;
        Ok(())
    }

    fn place(&mut self, index: u64, origin: &str, claimed: Timestamp) -> Result<(), String> {
        if origin != self.log.origin() {
            return Err(format!("it names log `{origin}`"));
        }
        if claimed.0.saturating_add(CLOCK_MARGIN) < self.latest.0 {
            return Err("its claimed time is more than 5 s behind an entry before it".to_owned());
        }
        self.latest = self.latest.max(claimed);
        if index == 0 {
            self.first = Some(claimed);
        }
        Ok(())
    }

    /// What no policy and no operator may do.
    fn decision(&self, index: u64, header: &Header) -> Result<(), VerifyError> {
        let Body::Decision(decision) = &header.body else { return Ok(()) };
        let broken = |problem: &str| Err(VerifyError::Broken { index, problem: problem.to_owned() });
        if header.actor == Pseudonym::SYSTEM && decision.kind != DecisionKind::Reject {
            return broken("SYSTEM may reject, never approve");
        }
        let stand_in = decision.assurance == Assurance::Demo && header.actor != Pseudonym::SYSTEM;
        if stand_in && !self.log.genesis().demo {
            return broken("a demonstration's stand-in decided in a log that is none");
        }
        Ok(())
    }

    fn count(&mut self, header: &Header) {
        let counts = &mut self.counts;
        *counts.kinds.entry(header.body.kind().as_str().to_owned()).or_default() += 1;
        *self.authority.entry(header.authority.as_str().to_owned()).or_default() += 1;
        self.payloads.extend(header.payloads.iter().map(|p| p.digest.to_string()));
        match &header.body {
            Body::Refusal(_) => counts.refused += 1,
            Body::Decision(d) => match (d.kind, d.effect) {
                (DecisionKind::Approve, Effect::Resolving) => counts.approved += 1,
                (DecisionKind::Override, Effect::Resolving) => counts.overridden += 1,
                (DecisionKind::Reject, Effect::Resolving) => counts.rejected += 1,
                _ => {}
            },
            Body::Outcome(o) => *counts.outcomes.entry(o.outcome.as_str().to_owned()).or_default() += 1,
            Body::Sweep(_) => *counts.outcomes.entry(Outcome::Unknown.as_str().to_owned()).or_default() += 1,
            Body::Edge(e) if e.objection => counts.objections += 1,
            Body::Boot(boot) => {
                self.boots += 1;
                if let Some(level) = boot.sandbox_level
                    && !self.sandbox_levels.contains(&level)
                {
                    self.sandbox_levels.push(level);
                }
            }
            Body::Erasure(_) => self.erasures += 1,
            _ => {}
        }
    }

    fn finish(&self, size: u64) -> Result<(), VerifyError> {
        self.links.finish().map_err(|problem| VerifyError::Broken { index: size.saturating_sub(1), problem })
    }
}

fn report(root: &VKey, checkpoint: &VerifiedCheckpoint, walk: Walk<'_>, disclosed: u64, known: Option<Known>) -> Report {
    let at = checkpoint.checkpoint();
    let log = walk.log;
    let mut problems = Vec::new();
    for (kind, count) in &walk.unknown {
        problems.push(format!("{count} entries of kind {kind} are of a later version: their meaning cannot be judged"));
    }
    let mut proven = vec![
        format!("every byte of the {} entries is what the log key signed at size {}", at.size, at.size),
        "each entry is by a gateway key that the log key or the root key certified".to_owned(),
        format!("population: entries 0 to {} are complete, none is missing between them", at.size.saturating_sub(1)),
        "every transition replays through the state machine; every permit was started at most once".to_owned(),
        "no approval is by SYSTEM, and every approved item met its rules as they were pinned at its gate".to_owned(),
    ];
    let known_size = match known {
        Some(Known::Consistent(size)) => {
            proven.push(format!("the checkpoint that you hold, of size {size}, lies on this log"));
            Some(size)
        }
        Some(Known::Newer(size)) => {
            problems.push(format!("the checkpoint that you hold is newer (size {size}): ask for a pack up to there"));
            None
        }
        None => None,
    };
    let mut not_proven = Vec::new();
    if known_size.is_none() {
        not_proven.push("that no second history exists: no witness cosigned, and you gave no checkpoint".to_owned());
        not_proven.push("rollback not excluded: entries after the last one here may exist or have existed".to_owned());
    }
    not_proven.extend([
        "that no request was left out: a log shows what was committed, not what was asked".to_owned(),
        "that an approval came from the person named: no approver signed with a key of their own".to_owned(),
        "that claimed times are true, beyond their order within 5 s".to_owned(),
        "that verdicts follow from the policies: replay them with the gateway from the stored questions".to_owned(),
    ]);
    if log.genesis().demo {
        not_proven.push("that any human was involved: this log is a demonstration".to_owned());
    }
    let verdict = if problems.is_empty() { Verdict::Valid } else { Verdict::Inconclusive };
    Report {
        verdict,
        problems,
        origin: log.origin().to_owned(),
        organization: log.org().to_string(),
        root_key: root.to_string(),
        covered: (0, at.size),
        root: at.root.to_string(),
        signatures: log.signatures().as_str().to_owned(),
        durability: log.durability().as_str().to_owned(),
        authority: walk.authority,
        demo: log.genesis().demo,
        claimed: walk.first.map(|first| (first.to_string(), walk.latest.to_string())),
        boots: walk.boots,
        sandbox_levels: walk.sandbox_levels,
        payloads: (u64::try_from(walk.payloads.len()).unwrap_or(u64::MAX), disclosed),
        erasures: walk.erasures,
        counts: walk.counts,
        streams: walk.folds.summary(),
        witnesses: 0,
        known: known_size,
        proven,
        not_proven,
    }
}
