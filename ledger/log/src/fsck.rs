//! Checks what is stored, from its bytes, in levels that each include the ones before.
//!
//! 0: what is checked when a log is loaded (genesis, own checkpoint, tail). 1: tiles, from level 0 up to the root. 2: every
//! entry hashed again, every stored checkpoint met on the way. 3: every entry's form, signature, stream chain, append and
//! claimed time, every boot's certificate. 4: the copies elsewhere, of which this crate knows none: it says so. 5: the
//! digests of payloads and shared bytes.
//!
//! Read-only. Absent: repair; the verifier that trusts nobody (`ledger/verify`), which needs no journal.

use std::collections::{HashMap, HashSet};

use ed25519_dalek::VerifyingKey;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use countersign_gateway_model::{Digest, GatewayId, LogId, OrgId, Timestamp};
use countersign_ledger_entry::body::{Boot, CertifiedBy, SignatureMode};
use countersign_ledger_entry::entry::UnknownEntry;
use countersign_ledger_entry::key::{check_certificate, gateway_name, key_id, public_key};
use countersign_ledger_entry::{AppendPosition, Body, Entry, EntryError, Header, Stream, TrustedLog, payload};
use countersign_ledger_merkle::{CompactRange, Hash, TILE_WIDTH, TileCoord, decode_tile, leaf_hash};

use crate::committer::{TOLERANCE, chain};
use crate::error::LogError;
use crate::journal::{Journal, JournalError, LogNumber, LogRecord};
use crate::keys::KeyRing;
use crate::start;
use crate::tree;

const WIDTH: u64 = TILE_WIDTH as u64;

/// Most faults that are told of one log; the rest is counted.
const MAX_FAULTS: usize = 1000;

/// Logs, checkpoints and digests read at a time.
const PAGE: usize = 256;

/// How much is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(into = "u8")]
pub enum FsckLevel {
    /// What is checked at start.
    Start,
    /// And tiles.
    Tiles,
    /// And the hash of every entry.
    Entries,
    /// And every signature and chain.
    Signatures,
    /// And copies elsewhere.
    Stores,
    /// And payloads and shared bytes.
    Payloads,
}

impl FsckLevel {
    /// The level with this number, 0 to 5.
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::Start, Self::Tiles, Self::Entries, Self::Signatures, Self::Stores, Self::Payloads]
            .get(usize::from(number))
            .copied()
    }
}

impl From<FsckLevel> for u8 {
    fn from(level: FsckLevel) -> Self {
        match level {
            FsckLevel::Start => 0,
            FsckLevel::Tiles => 1,
            FsckLevel::Entries => 2,
            FsckLevel::Signatures => 3,
            FsckLevel::Stores => 4,
            FsckLevel::Payloads => 5,
        }
    }
}

/// Something that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The entry, where it is about one.
    pub index: Option<u64>,
    /// What.
    pub what: String,
}

/// What was found in one log.
#[derive(Clone, Debug, Serialize)]
pub struct LogReport {
    /// The log.
    pub log: LogId,
    /// Whose.
    pub org: OrgId,
    /// Its origin line; empty if genesis is not acceptable.
    pub origin: String,
    /// Entries according to its checkpoint.
    pub size: u64,
    /// Root according to its checkpoint, in hex.
    pub root: String,
    /// Full tiles checked.
    pub tiles: u64,
    /// Entries hashed.
    pub entries: u64,
    /// Checkpoints whose signature and root were checked.
    pub checkpoints: u64,
    /// Entry signatures checked.
    pub signatures: u64,
    /// Entries of kinds that this program does not know: their meaning was not checked.
    pub unknown: u64,
    /// Payloads and shared bytes whose digest was checked.
    pub payloads: u64,
    /// Payloads that an erasure entry accounts for.
    pub erased: u64,
    /// Everything wrong, at most a thousand.
    pub faults: Vec<Fault>,
    /// Faults that were not told.
    pub more_faults: u64,
}

impl LogReport {
    /// Nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.faults.is_empty()
    }

    fn fault(&mut self, index: impl Into<Option<u64>>, what: impl Into<String>) {
        if self.faults.len() < MAX_FAULTS {
            self.faults.push(Fault { index: index.into(), what: what.into() });
        } else {
            self.more_faults += 1;
        }
    }
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct FsckReport {
    /// How much was checked.
    pub level: FsckLevel,
    /// True if nothing is wrong.
    pub sound: bool,
    /// Each log.
    pub logs: Vec<LogReport>,
    /// What was not checked, in words.
    pub not_checked: Vec<&'static str>,
}

/// How far a check is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The log.
    pub log: LogId,
    /// Entries or tiles' entries seen.
    pub done: u64,
    /// Entries in all.
    pub of: u64,
}

/// Checks every log of a journal, or that of one organization.
///
/// # Errors
/// [`LogError::Journal`] or [`LogError::Key`] if it cannot be read; what is read and wrong is in the report.
pub async fn fsck(
    journal: &dyn Journal,
    keys: &dyn KeyRing,
    level: FsckLevel,
    only: Option<OrgId>,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<FsckReport, LogError> {
    let mut logs = Vec::new();
    let mut after = LogNumber(0);
    loop {
        let records = journal.logs(after, PAGE).await?;
        let Some(last) = records.last() else { break };
        after = last.number;
        for record in &records {
            if only.is_none_or(|org| org == record.org) {
                logs.push(check_log(journal, keys, level, record, progress).await?);
            }
        }
    }
    let mut not_checked = Vec::new();
    if level >= FsckLevel::Stores {
        not_checked.push("copies elsewhere: no object store, ClickHouse or witness is configured here");
    }
    Ok(FsckReport { level, sound: logs.iter().all(LogReport::is_sound), logs, not_checked })
}

async fn check_log(
    journal: &dyn Journal,
    keys: &dyn KeyRing,
    level: FsckLevel,
    record: &LogRecord,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<LogReport, LogError> {
    let mut report = LogReport {
        log: record.id,
        org: record.org,
        origin: String::new(),
        size: record.size,
        root: record.root.to_string(),
        tiles: 0,
        entries: 0,
        checkpoints: 0,
        signatures: 0,
        unknown: 0,
        payloads: 0,
        erased: 0,
        faults: Vec::new(),
        more_faults: 0,
    };
    match start::load(journal, keys, record).await {
        Ok(_) => {}
        Err(error @ (LogError::Journal(_) | LogError::Key(_))) => return Err(error),
        Err(error) => report.fault(None, chain(&error)),
    }
    if level >= FsckLevel::Tiles {
        check_tiles(journal, record, &mut report, progress).await?;
    }
    // Without genesis nothing else has a meaning.
    let Ok((trusted, _)) = start::trust(journal, keys, record).await else { return Ok(report) };
    trusted.origin().clone_into(&mut report.origin);
    if level >= FsckLevel::Entries {
        check_entries(journal, &trusted, level, record, &mut report, progress).await?;
    }
    if level >= FsckLevel::Payloads {
        check_blobs(journal, record, &mut report).await?;
    }
    Ok(report)
}

/// Every full tile hashes to its root, and the roots are the hashes of the tile above.
async fn check_tiles(
    journal: &dyn Journal,
    record: &LogRecord,
    report: &mut LogReport,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<(), JournalError> {
    let log = record.number;
    for level in 0_u8..7 {
        let count = record.size >> (8 * u32::from(level) + 8);
        for index in 0..count {
            if level == 0 {
                progress(Progress { log: record.id, done: index * WIDTH, of: record.size });
            }
            let Ok(coord) = TileCoord::new(level, index, TILE_WIDTH) else { continue };
            let Some(bytes) = journal.tile(log, level, index).await? else {
                report.fault(None, format!("`{coord}` is missing"));
                continue;
            };
            let Ok(hashes) = decode_tile(coord, &bytes) else {
                report.fault(None, format!("`{coord}` has {} bytes", bytes.len()));
                continue;
            };
            report.tiles += 1;
            let root: CompactRange = hashes.iter().fold(CompactRange::new(), |mut range, hash| {
                range.push(*hash);
                range
            });
            let stored = journal.tile_roots(log, level, index..index + 1).await?;
            if stored != [root.root()] {
                report.fault(None, format!("`{coord}` does not hash to the root that is stored beside it"));
            }
            if level > 0 {
                let first = index * WIDTH;
                if journal.tile_roots(log, level - 1, first..first + WIDTH).await? != hashes {
                    report.fault(None, format!("`{coord}` is not made of the tiles below it"));
                }
            }
        }
    }
    match tree::edge(journal, log, record.size).await {
        Ok(edge) if edge.root() == record.root => Ok(()),
        Ok(edge) => {
            report.fault(None, format!("the tiles lead to root `{}`", edge.root()));
            Ok(())
        }
        Err(tree::TreeError::Journal(error @ JournalError::Backend { .. })) => Err(error),
        Err(error) => {
            report.fault(None, chain(&error));
            Ok(())
        }
    }
}

/// Reads the log from its first entry to its last.
async fn check_entries(
    journal: &dyn Journal,
    trusted: &TrustedLog,
    level: FsckLevel,
    record: &LogRecord,
    report: &mut LogReport,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<(), JournalError> {
    let log = record.number;
    let mut range = CompactRange::new();
    let mut signed = Signed::default();
    let mut held = Payloads::default();
    let mut sizes: Vec<u64> = Vec::new();
    let mut last_size = 0;
    let mut at = 0;
    while at < record.size {
        progress(Progress { log: record.id, done: at, of: record.size });
        let to = (at + WIDTH).min(record.size);
        let entries = journal.entries(log, at..to).await?;
        let tile = match journal.tile(log, 0, at / WIDTH).await? {
            Some(bytes) => TileCoord::new(0, at / WIDTH, TILE_WIDTH).and_then(|coord| decode_tile(coord, &bytes)).ok(),
            None => None,
        };
        let mut entries = entries.into_iter().peekable();
        for index in at..to {
            let Some(entry) = entries.next_if(|entry| entry.index == index) else {
                report.fault(index, "the entry is missing");
                // The tree cannot go on without a leaf; what follows is still read.
                range.push(Hash::default());
                continue;
            };
            let hash = leaf_hash(&entry.leaf);
            range.push(hash);
            report.entries += 1;
            let place = usize::try_from(index - at).ok();
            let in_tile = tile.as_ref().zip(place).and_then(|(tile, place)| tile.get(place).copied());
            if in_tile.is_some_and(|held| held != hash) {
                report.fault(index, "the entry does not hash to what its tile holds");
            }
            if level >= FsckLevel::Signatures {
                let header = signed.check(trusted, index, &entry.leaf, hash, report);
                if level >= FsckLevel::Payloads
                    && let Some(header) = header
                {
                    held.check(journal, log, index, &header, report).await?;
                }
            }
            if sizes.last().is_none_or(|size| *size <= index) {
                sizes = journal.checkpoint_sizes(log, last_size, PAGE).await?;
                sizes.retain(|size| *size > index);
                last_size = sizes.last().copied().unwrap_or(u64::MAX - 1);
            }
            if sizes.contains(&(index + 1)) {
                check_checkpoint(journal, trusted, log, &range, report).await?;
            }
        }
        at = to;
    }
    if range.root() != record.root {
        report.fault(None, format!("the entries lead to root `{}`", range.root()));
    }
    if level >= FsckLevel::Signatures {
        signed.finish(record, report);
    }
    if level >= FsckLevel::Payloads {
        held.finish(report);
    }
    Ok(())
}

async fn check_checkpoint(
    journal: &dyn Journal,
    trusted: &TrustedLog,
    log: LogNumber,
    range: &CompactRange,
    report: &mut LogReport,
) -> Result<(), JournalError> {
    let size = range.size();
    let Some(note) = journal.checkpoint(log, size).await? else { return Ok(()) };
    match trusted.checkpoint(&note) {
        Ok(held) if held.checkpoint().size == size && held.checkpoint().root == range.root() => {
            report.checkpoints += 1;
        }
        Ok(held) => {
            let at = held.checkpoint();
            report.fault(None, format!("the checkpoint of size {size} says {} with root `{}`", at.size, at.root));
        }
        Err(error) => report.fault(None, format!("the checkpoint of size {size}: {}", chain(&error))),
    }
    Ok(())
}

/// What the entries read so far have established.
#[derive(Default)]
struct Signed {
    streams: HashMap<Stream, (u64, Hash)>,
    keys: HashMap<(GatewayId, u64), VerifyingKey>,
    /// Latest claimed time so far, in milliseconds.
    newest: u64,
    /// Stream, next sequence and next position of an append that is not complete yet.
    open: Option<(Stream, AppendPosition)>,
}

impl Signed {
    /// Checks an entry against all before it. Gives its header back, if its kind is known.
    fn check(
        &mut self,
        trusted: &TrustedLog,
        index: u64,
        leaf: &[u8],
        hash: Hash,
        report: &mut LogReport,
    ) -> Option<Header> {
        let entry = match Entry::parse(leaf) {
            Ok(entry) => entry,
            Err(EntryError::UnknownKind(_)) => {
                report.unknown += 1;
                let Ok(unknown) = UnknownEntry::parse(leaf) else {
                    report.fault(index, "the entry cannot be read");
                    return None;
                };
                self.place(index, &Place::of(&unknown.header), hash, trusted, report);
                if let Some(key) = self.keys.get(&(unknown.header.gateway, unknown.header.boot)) {
                    report.signatures += 1;
                    if unknown.verify(leaf, key).is_err() {
                        report.fault(index, "the signature does not verify");
                    }
                }
                return None;
            }
            Err(error) => {
                report.fault(index, chain(&error));
                return None;
            }
        };
        self.place(index, &Place::of(&entry.header), hash, trusted, report);
        self.signature(trusted, index, leaf, &entry, report);
        Some(entry.header)
    }

    /// Origin, stream chain, append and claimed time.
    fn place(&mut self, index: u64, place: &Place, hash: Hash, trusted: &TrustedLog, report: &mut LogReport) {
        if place.origin != trusted.origin() {
            report.fault(index, format!("the entry is of log `{}`", place.origin));
        }
        let expected =
            self.streams.get(&place.stream).map_or((0, None), |(sequence, hash)| (sequence + 1, Some(Digest(hash.0))));
        if (place.sequence, place.previous) != expected {
            report.fault(index, format!("the entry does not follow its stream, whose next sequence is {}", expected.0));
        }
        self.streams.insert(place.stream, (place.sequence, hash));
        let next = place.append.index.checked_add(1).filter(|next| *next < place.append.length);
        let fits = match self.open {
            Some((stream, position)) => stream == place.stream && position == place.append,
            None => place.append.index == 0,
        };
        if !fits {
            report.fault(index, "the append that the entry is of, or the one before it, is not whole");
        }
        self.open = next.map(|index| (place.stream, AppendPosition { index, length: place.append.length }));
        if place.claimed.0.saturating_add(TOLERANCE.0) < self.newest {
            report.fault(index, "the claimed time is more than 5 s behind an earlier entry's");
        }
        self.newest = self.newest.max(place.claimed.0);
    }

    fn signature(&mut self, trusted: &TrustedLog, index: u64, leaf: &[u8], entry: &Entry, report: &mut LogReport) {
        let header = &entry.header;
        let key = match &header.body {
            // Checked when genesis was trusted.
            Body::Genesis(_) if index == 0 => {
                report.signatures += 1;
                return;
            }
            Body::Boot(boot) => match boot_key(trusted, header, boot) {
                Ok(key) => {
                    self.keys.insert((boot.gateway, boot.boot), key);
                    key
                }
                Err(what) => return report.fault(index, what),
            },
            _ => match self.keys.get(&(header.gateway, header.boot)) {
                Some(key) => *key,
                None if trusted.signatures() == SignatureMode::CheckpointOnly => return,
                None => return report.fault(index, "no boot entry before it introduces the key that signs the entry"),
            },
        };
        if entry.signature.is_none() && trusted.signatures() == SignatureMode::CheckpointOnly {
            return;
        }
        if header.key != key_id(&gateway_name(trusted.origin(), header.gateway), &key) {
            report.fault(index, "the entry names another key than its boot's");
        }
        report.signatures += 1;
        if entry.verify(leaf, &key).is_err() {
            report.fault(index, "the signature does not verify");
        }
    }

    fn finish(&self, record: &LogRecord, report: &mut LogReport) {
        if self.open.is_some() {
            report.fault(None, "the last append is not whole");
        }
        if Timestamp(self.newest) != record.newest {
            report.fault(None, "the latest claimed time is not what the log's row says");
        }
    }
}

/// What every entry has, known kind or not.
struct Place<'a> {
    origin: &'a str,
    stream: Stream,
    sequence: u64,
    previous: Option<Digest>,
    append: AppendPosition,
    claimed: Timestamp,
}

impl<'a> Place<'a> {
    fn of<B>(header: &'a Header<B>) -> Self {
        let Header { origin, stream, sequence, previous, append, claimed, .. } = header;
        Self { origin, stream: *stream, sequence: *sequence, previous: *previous, append: *append, claimed: *claimed }
    }
}

/// The key that a boot entry introduces, if its certificate holds.
fn boot_key(trusted: &TrustedLog, header: &Header, boot: &Boot) -> Result<VerifyingKey, String> {
    if boot.gateway != header.gateway || boot.boot != header.boot {
        return Err("the boot entry introduces another gateway or boot than the one that wrote it".to_owned());
    }
    let key = public_key(&boot.key.0).map_err(|error| error.to_string())?;
    let by = match boot.certified_by {
        CertifiedBy::Root => trusted.root().key(),
        CertifiedBy::Log => trusted.log().key(),
    };
    let name = gateway_name(trusted.origin(), boot.gateway);
    check_certificate(by, trusted.origin(), &name, &boot.key.0, &boot.certificate.0)
        .map_err(|error| error.to_string())?;
    Ok(key)
}

/// Payloads seen, missing and erased.
#[derive(Default)]
struct Payloads {
    seen: HashSet<Digest>,
    missing: Vec<(u64, Digest)>,
    erased: HashSet<Digest>,
    /// An erasure by subject does not name the payloads it took.
    subject_erased: bool,
}

impl Payloads {
    async fn check(
        &mut self,
        journal: &dyn Journal,
        log: LogNumber,
        index: u64,
        header: &Header,
        report: &mut LogReport,
    ) -> Result<(), JournalError> {
        if let Body::Erasure(erasure) = &header.body {
            self.erased.extend(&erasure.payloads);
            self.subject_erased |= erasure.subject.is_some();
        }
        let held: HashMap<Digest, Vec<u8>> = if header.payloads.is_empty() {
            HashMap::new()
        } else {
            journal.payloads(log, index).await?.into_iter().collect()
        };
        for named in &header.payloads {
            match held.get(&named.digest) {
                Some(bytes) => {
                    report.payloads += 1;
                    self.seen.insert(named.digest);
                    if payload::digest(bytes) != named.digest || u32::try_from(bytes.len()) != Ok(named.length) {
                        report.fault(index, format!("the payload `{}` has other bytes", named.digest));
                    }
                }
                None => self.missing.push((index, named.digest)),
            }
        }
        Ok(())
    }

    fn finish(self, report: &mut LogReport) {
        for (index, digest) in self.missing {
            if self.seen.contains(&digest) {
                continue;
            }
            if self.erased.contains(&digest) || self.subject_erased {
                report.erased += 1;
            } else {
                report.fault(index, format!("the payload `{digest}` is missing and no erasure entry says why"));
            }
        }
    }
}

async fn check_blobs(journal: &dyn Journal, record: &LogRecord, report: &mut LogReport) -> Result<(), JournalError> {
    let mut after = None;
    loop {
        let digests = journal.blobs(record.number, after, PAGE).await?;
        let Some(last) = digests.last() else { return Ok(()) };
        after = Some(*last);
        for digest in digests {
            let bytes = journal.blob(record.number, &digest).await?.unwrap_or_default();
            report.payloads += 1;
            if Digest(Sha256::digest(&bytes).into()) != digest {
                report.fault(None, format!("the shared bytes `{digest}` have another digest"));
            }
        }
    }
}
