//! Loads a log and refuses one that does not verify: what is done before anything may be signed.
//!
//! In order: genesis under the configured root key → own checkpoint under the log key that genesis certifies → tail since
//! the last full tile hashed again from the stored bytes → contiguity → root. The anchor is compared before that for
//! every log that it remembers. Absent: hashing everything (`fsck`).

use std::path::Path;
use std::sync::Arc;

use countersign_gateway_model::LogId;
use countersign_ledger_entry::entry::UnknownEntry;
use countersign_ledger_entry::{Body, Entry, EntryError, SEMANTICS, TrustedLog, VerifiedCheckpoint};
use countersign_ledger_merkle::{CompactRange, Hash, TILE_WIDTH, leaf_hash, verify_consistency};

use crate::anchor;
use crate::error::LogError;
use crate::journal::{Journal, JournalError, LogRecord};
use crate::keys::KeyRing;
use crate::state::Tip;
use crate::tree::{self, TreeError};

const WIDTH: u64 = TILE_WIDTH as u64;

/// A log that verified.
pub(crate) struct Loaded {
    pub(crate) trusted: Arc<TrustedLog>,
    pub(crate) tip: Tip,
}

pub(crate) fn tree_error(log: LogId, error: TreeError) -> LogError {
    match error {
        TreeError::Journal(JournalError::Corrupt(what)) => LogError::Damaged { log, what },
        TreeError::Journal(error) => LogError::Journal(error),
        TreeError::Proof(source) => LogError::Proof { log, source },
    }
}

/// Genesis under the configured root key, and the newest checkpoint under the log key that it certifies.
pub(crate) async fn trust(
    journal: &dyn Journal,
    keys: &dyn KeyRing,
    record: &LogRecord,
) -> Result<(Arc<TrustedLog>, Arc<VerifiedCheckpoint>), LogError> {
    let log = record.id;
    let damaged = |what: &str| LogError::Damaged { log, what: what.to_owned() };
    let invalid = |source: EntryError| LogError::Entry { log, source };
    let genesis = journal.entries(record.number, 0..1).await?;
    let genesis = genesis.first().ok_or_else(|| damaged("it has no genesis entry"))?;
    let trusted = TrustedLog::new(&keys.root(log)?, &genesis.leaf).map_err(invalid)?;
    if trusted.id() != log || trusted.org() != record.org {
        return Err(damaged("its genesis names another log or another organization"));
    }
    let checkpoint = trusted.checkpoint(&record.note).map_err(invalid)?;
    let at = checkpoint.checkpoint();
    if at.size != record.size || at.root != record.root {
        return Err(damaged("its signed checkpoint does not say what its row says"));
    }
    Ok((Arc::new(trusted), Arc::new(checkpoint)))
}

/// Verifies a log and loads its right edge.
pub(crate) async fn load(journal: &dyn Journal, keys: &dyn KeyRing, record: &LogRecord) -> Result<Loaded, LogError> {
    let log = record.id;
    let damaged = |what: String| LogError::Damaged { log, what };
    let (trusted, checkpoint) = trust(journal, keys, record).await?;
    let size = record.size;
    let last = journal.last_index(record.number).await?;
    if last.map(|index| index + 1) != Some(size) {
        return Err(damaged(format!("its checkpoint is of size {size}, its last entry is {last:?}")));
    }
    let first = size - size % WIDTH;
    let entries = journal.entries(record.number, first..size).await?;
    if !entries.iter().map(|entry| entry.index).eq(first..size) {
        return Err(damaged(format!("entries from {first} on are missing")));
    }
    let tail: Vec<Hash> = entries.iter().map(|entry| leaf_hash(&entry.leaf)).collect();
    let mut range: CompactRange =
        tree::edge(journal, record.number, first).await.map_err(|error| tree_error(log, error))?;
    for hash in &tail {
        range.push(*hash);
    }
    if range.root() != record.root {
        return Err(damaged(format!(
            "its entries lead to root `{}`, its checkpoint says `{}`",
            range.root(),
            record.root
        )));
    }
    let newest = match entries.last() {
        Some(entry) => entry.leaf.clone(),
        None => journal.entries(record.number, size - 1..size).await?.pop().map(|e| e.leaf).unwrap_or_default(),
    };
    // Of whatever kind: mode and version stand in every entry.
    let newest = UnknownEntry::parse(&newest).map_err(|source| LogError::Entry { log, source })?.header;
    let (authority, semantics) = (newest.authority, newest.semantics);
    // What this program would append behind it is of an earlier version, and no verifier would accept the log again.
    if semantics > SEMANTICS {
        return Err(LogError::Later { log, semantics });
    }
    let key_matches = keys.log_key(log)?.verifying_key() == *trusted.log().key();
    if !key_matches {
        return Err(damaged("the key ring's log key is not the one that genesis certifies".to_owned()));
    }
    Ok(Loaded { trusted, tip: Tip { range, tail, checkpoint, newest: record.newest, authority } })
}

/// Compares every log that the anchor remembers with the journal.
pub(crate) async fn check_anchor(
    journal: &dyn Journal,
    keys: &dyn KeyRing,
    path: &Path,
) -> Result<Vec<(String, String)>, LogError> {
    let anchor_error = |what: String| LogError::Anchor { path: path.to_owned(), what };
    let notes = anchor::read(path).map_err(anchor_error)?;
    for (origin, note) in &notes {
        let id = origin
            .rsplit_once('/')
            .and_then(|(_, hex)| format!("{}{hex}", LogId::PREFIX).parse::<LogId>().ok())
            .ok_or_else(|| anchor_error(format!("`{origin}` is not the origin of a log")))?;
        let Some(record) = journal.log_by_id(id).await? else {
            let evidence = anchor::keep_evidence(path, note, "nothing of this log");
            let anchor = note.lines().nth(1).and_then(|size| size.parse().ok()).unwrap_or(0);
            return Err(LogError::RolledBack { log: id, local: 0, anchor, path: path.to_owned(), evidence });
        };
        let (trusted, own) = trust(journal, keys, &record).await?;
        // Under our key: an anchor that anybody could have written must not be able to stop us with a claim.
        let remembered = trusted
            .checkpoint(note)
            .map_err(|error| anchor_error(format!("its checkpoint of `{origin}` is not valid: {error}")))?;
        let (there, here) = (remembered.checkpoint(), own.checkpoint());
        if there.size > here.size {
            let evidence = anchor::keep_evidence(path, note, own.note());
            return Err(LogError::RolledBack {
                log: id,
                local: here.size,
                anchor: there.size,
                path: path.to_owned(),
                evidence,
            });
        }
        let proof = tree::consistency(journal, record.number, there.size, here.size)
            .await
            .map_err(|error| tree_error(id, error))?;
        if verify_consistency(there.size, here.size, &proof, &there.root, &here.root).is_err() {
            let evidence = anchor::keep_evidence(path, note, own.note());
            return Err(LogError::Forked { log: id, size: there.size, path: path.to_owned(), evidence });
        }
    }
    Ok(notes)
}

/// How often `gateway` has booted in this log so far.
pub(crate) async fn boots(
    journal: &dyn Journal,
    record: (crate::journal::LogNumber, LogId),
    gateway: countersign_gateway_model::GatewayId,
    next_sequence: u64,
) -> Result<u64, LogError> {
    let (number, log) = record;
    let stream = countersign_ledger_entry::Stream { kind: countersign_ledger_entry::StreamKind::Log, id: log.into() };
    let mut end = next_sequence;
    while end > 0 {
        // From the newest backwards: the last boot of this gateway is most often the last entry of the stream.
        let from = end.saturating_sub(64);
        let limit = usize::try_from(end - from).unwrap_or(64);
        for entry in journal.stream_entries(number, stream, from, limit).await?.iter().rev() {
            let header = match Entry::parse(&entry.leaf) {
                Ok(entry) => entry.header,
                Err(EntryError::UnknownKind(_)) => continue,
                Err(source) => return Err(LogError::Entry { log, source }),
            };
            if let Body::Boot(boot) = header.body
                && boot.gateway == gateway
            {
                return Ok(boot.boot);
            }
        }
        end = from;
    }
    Ok(0)
}
