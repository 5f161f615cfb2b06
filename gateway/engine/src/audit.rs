//! History and evidence: entries, receipts, proofs, packs, the log itself, and verdicts computed again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use countersign_gateway_model::{InstanceId, LogId, OrgId, Principal, StreamId};
use countersign_ledger_entry::body::Body;
use countersign_ledger_entry::{Entry, PayloadRole, Receipt, Stream, StreamKind, note};
use countersign_ledger_log::{KeyRing, LogHandle, StoredEntry};
use countersign_ledger_merkle::{Hash, LogPath, leaf_hash};
use countersign_ledger_verify::Contents;
use countersign_policy_decide::{EntityRef, Operation};

use crate::Engine;
use crate::api::{EntryQuery, EntryRecord, Page};
use crate::asking::StoredEvidence;
use crate::error::EngineError;
use crate::org::{Org, instance_stream};
use crate::receipts::stored_entry;

/// Most entries of one page.
const MAX_PAGE: usize = 500;

impl Engine {
    pub(crate) fn may_audit(&self, org: &Org, who: &Principal, what: &'static str) -> Result<(), EngineError> {
        self.may_read(org, who, Operation::ReadVerdict, EntityRef::organization(org.id), what)
    }

    /// Entries of the log, or of one instance's stream.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] for those who may not read verdicts.
    pub async fn entries(&self, who: &Principal, query: EntryQuery) -> Result<Page<EntryRecord>, EngineError> {
        let org = self.org(who.org)?;
        self.may_audit(&org, who, "log")?;
        let limit = query.limit.clamp(1, MAX_PAGE);
        let from = query.from;
        let stored = match query.instance {
            Some(instance) => org.log.stream_entries(instance_stream(instance), from, limit).await,
            None => org.log.entries(from..from.saturating_add(u64::try_from(limit).unwrap_or(u64::MAX))).await,
        }
        .map_err(EngineError::ledger)?;
        let next = (stored.len() == limit).then(|| (from + u64::try_from(limit).unwrap_or(0)).to_string());
        let items = stored.iter().map(|entry| entry_record(&org, entry)).collect::<Result<Vec<_>, _>>()?;
        Ok(Page { items, next })
    }

    /// One entry.
    ///
    /// # Errors
    /// [`EngineError::NotFound`].
    pub async fn entry(&self, who: &Principal, index: u64) -> Result<EntryRecord, EngineError> {
        let org = self.org(who.org)?;
        self.may_audit(&org, who, "entry")?;
        entry_record(&org, &stored_entry(&org, index).await?)
    }

    /// Proof that an entry is in the log as it is now.
    ///
    /// # Errors
    /// [`EngineError::NotFound`].
    pub async fn receipt(&self, who: &Principal, index: u64) -> Result<Receipt, EngineError> {
        let org = self.org(who.org)?;
        self.may_audit(&org, who, "entry")?;
        self.receipt_at(&org, index).await
    }

    /// Inclusion proof of an entry in the tree of `size` entries.
    ///
    /// # Errors
    /// [`EngineError::NotFound`].
    pub async fn proof(&self, who: &Principal, index: u64, size: u64) -> Result<Vec<Hash>, EngineError> {
        let org = self.org(who.org)?;
        self.may_audit(&org, who, "proof")?;
        org.log.proof(index, size).await.map_err(|_| EngineError::NotFound("proof"))
    }

    /// Consistency proof between two sizes.
    ///
    /// # Errors
    /// [`EngineError::NotFound`].
    pub async fn consistency(&self, who: &Principal, old: u64, new: u64) -> Result<Vec<Hash>, EngineError> {
        let org = self.org(who.org)?;
        self.may_audit(&org, who, "proof")?;
        org.log.consistency(old, new).await.map_err(|_| EngineError::NotFound("proof"))
    }

    /// The evidence pack of the whole log as it is now. With `disclose`, payloads and blobs go in too.
    ///
    /// # Errors
    /// [`EngineError::Refused`] for those who may not export.
    pub async fn pack(&self, who: &Principal, disclose: bool) -> Result<Vec<u8>, EngineError> {
        let org = self.org(who.org)?;
        self.may_read(&org, who, Operation::ExportPack, EntityRef::organization(org.id), "pack")?;
        pack_of(&org.log, &**self.logs().keys(), disclose).await
    }

    /// The log in tlog-tiles form, for principals who may read verdicts, or for everyone where it is public.
    fn public_log(&self, who: Option<&Principal>, id: LogId) -> Result<Arc<Org>, EngineError> {
        let org = self.orgs().into_iter().find(|org| org.log.id() == id).ok_or(EngineError::NotFound("log"))?;
        if org.public_read.load(Ordering::Acquire) {
            return Ok(org);
        }
        let who = who.filter(|w| w.org == org.id).ok_or(EngineError::NotFound("log"))?;
        self.may_audit(&org, who, "log")?;
        Ok(org)
    }

    /// The newest signed checkpoint.
    ///
    /// # Errors
    /// [`EngineError::NotFound`].
    pub fn log_checkpoint(&self, who: Option<&Principal>, id: LogId) -> Result<String, EngineError> {
        let org = self.public_log(who, id)?;
        Ok(org.log.checkpoint().note().to_owned())
    }

    /// A tile or an entry bundle, by its path (`tile/0/000`, `tile/entries/000.p/5`).
    ///
    /// # Errors
    /// [`EngineError::NotFound`].
    pub async fn log_tile(&self, who: Option<&Principal>, id: LogId, path: &str) -> Result<Vec<u8>, EngineError> {
        let org = self.public_log(who, id)?;
        let bytes = match path.parse::<LogPath>().map_err(|_| EngineError::NotFound("tile"))? {
            LogPath::Tile(tile) => org.log.tile(tile).await,
            LogPath::Entries(bundle) => org.log.entry_bundle(bundle).await,
        };
        bytes.map_err(|_| EngineError::NotFound("tile"))
    }

    /// Root key, origin and id of the organization's log: what an auditor is given out of band.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] for an unknown organization.
    pub fn log_of(&self, org: OrgId) -> Result<LogHandle, EngineError> {
        self.org(org).map(|org| org.log.clone())
    }
}

/// The pack of a whole log.
///
/// # Errors
/// [`EngineError::Ledger`] if the log cannot be read, [`EngineError::Damaged`] if it cannot be packed.
pub async fn pack_of(log: &LogHandle, keys: &dyn KeyRing, disclose: bool) -> Result<Vec<u8>, EngineError> {
    let checkpoint = log.checkpoint();
    let size = checkpoint.checkpoint().size;
    let mut entries: Vec<StoredEntry> = Vec::new();
    while u64::try_from(entries.len()).unwrap_or(u64::MAX) < size {
        let from = u64::try_from(entries.len()).unwrap_or(u64::MAX);
        let page = log.entries(from..size.min(from + 4096)).await.map_err(EngineError::ledger)?;
        if page.is_empty() {
            return Err(EngineError::damaged("entries are missing"));
        }
        entries.extend(page);
    }
    let (mut payloads, mut blobs) = (BTreeMap::new(), BTreeMap::new());
    if disclose {
        for entry in &entries {
            let Ok(parsed) = Entry::parse(&entry.leaf) else { continue };
            for reference in &parsed.header.payloads {
                let held = log.payload(entry.index, &reference.digest).await.map_err(EngineError::ledger)?;
                let Some(bytes) = held else { continue };
                if reference.role == PayloadRole::Question
                    && let Some((_, content)) = countersign_ledger_entry::payload::open(&bytes)
                    && let Ok(stored) = StoredEvidence::read(content)
                {
                    for digest in stored.entities {
                        if let Some(blob) = log.blob(&digest).await.map_err(EngineError::ledger)? {
                            blobs.insert(digest.to_string(), blob);
                        }
                    }
                }
                payloads.insert(reference.digest.to_string(), bytes);
            }
            if let Body::Policy(step) | Body::Catalogue(step) = &parsed.header.body
                && let Some(blob) = log.blob(&step.digest).await.map_err(EngineError::ledger)?
            {
                blobs.insert(step.digest.to_string(), blob);
            }
        }
    }
    let contents = Contents {
        origin: log.trusted().origin(),
        checkpoint: checkpoint.note(),
        leaves: entries.iter().map(|e| e.leaf.as_slice()).collect(),
        payloads: payloads.iter().map(|(digest, bytes)| (digest.clone(), bytes.as_slice())).collect(),
        blobs: blobs.iter().map(|(digest, bytes)| (digest.clone(), bytes.as_slice())).collect(),
    };
    let key = keys.log_key(log.id()).map_err(EngineError::ledger)?;
    countersign_ledger_verify::write(&contents, |text| note::sign(text, log.trusted().origin(), &key))
        .map_err(EngineError::damaged)
}

fn entry_record(org: &Org, stored: &StoredEntry) -> Result<EntryRecord, EngineError> {
    let header = Entry::parse(&stored.leaf)?.header;
    let hash = leaf_hash(&stored.leaf).to_string();
    let (stream, stream_id) = stream_words(header.stream);
    Ok(EntryRecord {
        index: stored.index,
        hash,
        stream,
        stream_id,
        sequence: header.sequence,
        kind: header.body.kind().as_str(),
        body: serde_json::to_value(&header.body).map_err(EngineError::damaged)?,
        verdict: header.verdict,
        determining: header.determining,
        actor: header.actor.to_string(),
        actor_name: Some(org.label(header.actor)).filter(|label| !label.starts_with("who_")),
        on_behalf_of: header.on_behalf_of.iter().map(ToString::to_string).collect(),
        claimed: header.claimed,
        authority: header.authority.as_str(),
        payloads: header
            .payloads
            .iter()
            .map(|p| {
                let role = serde_json::to_value(p.role).ok().and_then(|v| v.as_str().map(str::to_owned));
                (role.unwrap_or_default(), p.digest, p.length)
            })
            .collect(),
    })
}

fn stream_words(stream: Stream) -> (&'static str, String) {
    let hex = |id: StreamId| id.to_string().trim_start_matches(StreamId::PREFIX).to_owned();
    match stream.kind {
        StreamKind::Instance => ("instance", format!("{}{}", InstanceId::PREFIX, hex(stream.id))),
        StreamKind::Organization => ("organization", format!("{}{}", OrgId::PREFIX, hex(stream.id))),
        StreamKind::Log => ("log", format!("{}{}", LogId::PREFIX, hex(stream.id))),
    }
}
