//! All logs of one journal, and the handle to one of them.
//!
//! `Logs` opens the journal, verifies what it loads, and runs the committer. A `LogHandle` seals entries on its caller's
//! thread, queues appends, and reads. Absent: what entries mean (`gateway/flow`), who may read them (`gateway/http`).
//! Read next: `committer`.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;

use ed25519_dalek::SigningKey;
use tokio::sync::oneshot;

use countersign_gateway_model::{Digest, LogId, OrgId, Pseudonym, Timestamp};
use countersign_ledger_entry::append::seal;
use countersign_ledger_entry::body::{AuthorityMode, Boot, CertifiedBy, Durability, Genesis, SignatureMode};
use countersign_ledger_entry::key::{certify, gateway_name, key_id, origin, root_name};
use countersign_ledger_entry::note::{self, Checkpoint, Note};
use countersign_ledger_entry::{
    AppendPosition, Body, Bytes32, Bytes64, Draft, EntryError, Frame, Header, SEMANTICS, SignedEntry, Stream,
    StreamKind, TrustedLog, VerifiedCheckpoint,
};
use countersign_ledger_merkle::{
    BundleCoord, CompactRange, EMPTY_ROOT, Hash, TileCoord, encode_bundle, encode_tile, leaf_hash,
};

use crate::anchor;
use crate::append::{Append, Appended, IdempotencyScope, Sealing};
use crate::committer::{Core, Pending, PendingEntry, RETRY_AFTER};
use crate::config::{LogsConfig, NewLog};
use crate::error::{AppendError, Head, LogError, Replay};
use crate::journal::{
    HeldPayload, IdempotencyRecord, Journal, LogNumber, LogRecord, MAX_LOGS, MAX_PAYLOADS, StoredEntry, ViewRow, Views,
};
use crate::keys::KeyRing;
use crate::lock;
use crate::queue::{Queue, Refused};
use crate::start::{self, tree_error};
use crate::state::{Known, LogState, LogTable, StreamTable, Tip};
use crate::stats::{Counters, Stats};
use crate::tree;

/// How often an entry of the log's own stream is signed again before its failure is told.
const OWN_STREAM_TRIES: usize = 4;

/// All logs of one journal. Clones are handles to the same ledger.
#[derive(Clone)]
pub struct Logs {
    shared: Arc<Shared>,
}

struct Shared {
    core: Arc<Core>,
    keys: Arc<dyn KeyRing>,
    /// Signs this process's entries in every log, certified by each log's key.
    gateway: Arc<SigningKey>,
    /// One is held while a log is loaded or begun, so that none is there twice; which one follows from the organization.
    loading: [tokio::sync::Mutex<()>; 64],
    committer: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Logs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Logs").field("config", &self.shared.core.config).finish_non_exhaustive()
    }
}

impl Logs {
    /// Opens the ledger: compares the anchor with the journal, makes this boot's gateway key, starts the committer.
    ///
    /// A log is verified when it is loaded, before the first append to it. Nothing is written here.
    ///
    /// # Errors
    /// [`LogError::RolledBack`] or [`LogError::Forked`] if the anchor knows better; storage, key and entropy errors.
    pub async fn open(journal: Arc<dyn Journal>, config: LogsConfig, keys: Arc<dyn KeyRing>) -> Result<Self, LogError> {
        let anchor = match &config.anchor {
            Some(path) => {
                let known = start::check_anchor(&*journal, &*keys, path).await?;
                let interval = std::time::Duration::from_millis(config.anchor_interval.0);
                Some(anchor::Writer::start(path, interval, known).map_err(LogError::Start)?)
            }
            None => None,
        };
        let gateway = SigningKey::from_bytes(&config.entropy.secret().map_err(LogError::Entropy)?);
        let (last_log, last_stream) = journal.numbers().await?;
        let core = Arc::new(Core {
            journal,
            queue: Queue::new(config.queue_entries, config.queue_bytes),
            logs: LogTable::new(config.cached_logs),
            streams: StreamTable::new(config.cache_bytes),
            counters: Counters::default(),
            anchor,
            boots: Mutex::new(HashMap::new()),
            next_log: AtomicU32::new(last_log.0 + 1),
            next_stream: AtomicU64::new(last_stream.0 + 1),
            stopped: OnceLock::new(),
            done: AtomicBool::new(false),
            config,
        });
        // A thread of its own: a handler that holds a runtime's worker too long must not hold the ledger.
        // Without sockets: to be woken costs a thread less when no one has to be asked for them.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(LogError::Start)?;
        let committer = std::thread::Builder::new()
            .name("ledger-committer".to_owned())
            .spawn({
                let core = Arc::clone(&core);
                move || runtime.block_on(core.run())
            })
            .map_err(LogError::Start)?;
        let shared = Shared {
            core,
            keys,
            gateway: Arc::new(gateway),
            loading: std::array::from_fn(|_| tokio::sync::Mutex::new(())),
            committer: Mutex::new(Some(committer)),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Begins a log: genesis, signed by the root key, is committed when this returns.
    ///
    /// # Errors
    /// [`LogError::Exists`] if the organization has one; [`LogError::New`] if the parts do not fit.
    pub async fn create(&self, new: NewLog) -> Result<LogHandle, LogError> {
        let shared = &self.shared;
        let _one = shared.loading(new.org).await;
        if shared.core.journal.log_of(new.org).await?.is_some() {
            return Err(LogError::Exists(new.org));
        }
        let log = new.log;
        let invalid = |source: EntryError| LogError::Entry { log, source };
        let log_key = shared.keys.log_key(log)?;
        let root = shared.keys.root(log)?;
        if *root.key() != new.root_signer.verifying_key() {
            return Err(LogError::New("the key ring trusts another root key than the one that signs genesis"));
        }
        if new.durability != Durability::Journal {
            return Err(LogError::New("this gateway has no object store or ClickHouse: its durability is `journal`"));
        }
        let threshold = usize::from(new.root_threshold);
        if threshold == 0 || threshold > new.root_keys.len() {
            return Err(LogError::New("the root threshold is not between 1 and the number of root keys"));
        }
        let core = &shared.core;
        let origin = origin(&core.config.origin_name, log).map_err(invalid)?;
        let genesis = Genesis {
            org: new.org,
            log,
            root_keys: new.root_keys.iter().map(|key| Bytes32(key.to_bytes())).collect(),
            root_threshold: new.root_threshold,
            root_document: new.root_document,
            log_key: Bytes32(log_key.verifying_key().to_bytes()),
            signatures: new.signatures,
            durability: new.durability,
            demo: new.demo,
        };
        let header = Header {
            semantics: SEMANTICS,
            origin: origin.clone(),
            stream: Stream { kind: StreamKind::Log, id: log.into() },
            sequence: 0,
            previous: None,
            append: AppendPosition { index: 0, length: 1 },
            body: Body::Genesis(genesis),
            verdict: None,
            determining: Vec::new(),
            policy: None,
            authority: new.authority,
            actor: Pseudonym::SYSTEM,
            on_behalf_of: Vec::new(),
            gateway: core.config.gateway,
            boot: 0,
            key: key_id(&root_name(&origin), &new.root_signer.verifying_key()),
            claimed: core.config.clock.now(),
            payloads: Vec::new(),
            fields: Vec::new(),
        };
        let entry = header.sign(&new.root_signer).map_err(invalid)?;
        // As any holder would: a genesis that does not verify is never stored.
        let trusted = Arc::new(TrustedLog::new(&root, &entry.leaf).map_err(invalid)?);
        let next = |last: u32| Some(last + 1).filter(|_| last <= MAX_LOGS);
        let number = core.next_log.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        let number = LogNumber(number.map_err(|_| LogError::New("this journal holds as many logs as it can"))?);
        // Of the empty tree: it is in memory until genesis is committed, and no one is given it.
        let note = Checkpoint { origin, size: 0, root: EMPTY_ROOT }.sign(&log_key);
        let checkpoint = Arc::new(trusted.checkpoint(&note).map_err(invalid)?);
        let tip = Tip {
            range: CompactRange::new(),
            tail: Vec::new(),
            checkpoint,
            newest: Timestamp(0),
            authority: new.authority,
        };
        let state =
            Arc::new(LogState::new(number, Arc::clone(&trusted), log_key, shared.gateway_key_id(&trusted), tip));
        let append = Append { entries: vec![entry], urgent: true, ..Append::default() };
        // Crash before this returns: either there is no such log, or it is whole; its keys are in the ring in both cases.
        shared.core.append(&state, true, append).await?;
        Ok(LogHandle { shared: Arc::clone(shared), log: core.logs.put(state) })
    }

    /// The log of an organization, verified when it is loaded.
    ///
    /// # Errors
    /// [`LogError::NoLog`]; anything that keeps it from being verified.
    pub async fn log(&self, org: OrgId) -> Result<LogHandle, LogError> {
        let shared = &self.shared;
        if let Some(log) = shared.core.logs.get(org) {
            return Ok(LogHandle { shared: Arc::clone(shared), log });
        }
        let _one = shared.loading(org).await;
        if let Some(log) = shared.core.logs.get(org) {
            return Ok(LogHandle { shared: Arc::clone(shared), log });
        }
        let record = shared.core.journal.log_of(org).await?.ok_or(LogError::NoLog(org))?;
        let log = shared.load(&record).await?;
        Ok(LogHandle { shared: Arc::clone(shared), log })
    }

    /// The log with this id, as the tile server knows it.
    ///
    /// # Errors
    /// [`LogError::Absent`]; as [`Logs::log`].
    pub async fn by_id(&self, id: LogId) -> Result<LogHandle, LogError> {
        let record = self.shared.core.journal.log_by_id(id).await?;
        let record = record.ok_or(LogError::Absent { log: id, what: "log in this journal" })?;
        self.log(record.org).await
    }

    /// Introduces this gateway's key of this boot to a log, once per process; then the log takes entries from it.
    ///
    /// # Errors
    /// As [`Logs::log`], and [`LogError::Append`] if the entry is not committed.
    pub async fn boot(&self, org: OrgId, sandbox_level: Option<u8>) -> Result<LogHandle, LogError> {
        let handle = self.log(org).await?;
        let log = &Arc::clone(&handle.log);
        let _one = log.booting.lock().await;
        if log.booted().is_some() {
            return Ok(handle);
        }
        let (shared, core) = (&self.shared, &self.shared.core);
        let trusted = &log.trusted;
        let stream = Stream { kind: StreamKind::Log, id: trusted.id().into() };
        let key = shared.gateway.verifying_key();
        let name = gateway_name(trusted.origin(), core.config.gateway);
        let certificate = Bytes64(certify(&log.key, trusted.origin(), &name, &key));
        let invalid = |source: EntryError| LogError::Entry { log: trusted.id(), source };
        let mut claimed = core.config.clock.now();
        for tried in 1.. {
            let head = handle.head(stream).await?.ok_or(LogError::NoLog(org))?;
            let before = (log.number, trusted.id());
            let boot = 1 + start::boots(&*core.journal, before, core.config.gateway, head.next_sequence).await?;
            let (size_seen, authority) = {
                let tip = lock(&log.tip);
                (tip.range.size(), tip.authority)
            };
            let body = Boot {
                gateway: core.config.gateway,
                boot,
                key: Bytes32(key.to_bytes()),
                certificate,
                certified_by: CertifiedBy::Log,
                size_seen,
                sandbox_level,
            };
            let frame = Frame {
                origin: trusted.origin().to_owned(),
                stream,
                sequence: head.next_sequence,
                previous: Some(head.last_hash),
                policy: None,
                authority,
                gateway: core.config.gateway,
                boot,
                key: log.gateway_key_id,
                claimed,
            };
            // Signed in every mode: it is what the signatures of this boot are checked against.
            let draft = Draft::new(body, Pseudonym::SYSTEM);
            let entries = seal(&frame, vec![draft], Some(&shared.gateway)).map_err(invalid)?;
            let append = Append { expected: head.next_sequence, entries, urgent: true, ..Append::default() };
            match core.append(log, true, append).await {
                Ok(_) => {
                    log.boot.store(boot, Ordering::Release);
                    lock(&core.boots).insert(log.number, boot);
                    break;
                }
                Err(AppendError::ClockSkew { resign }) if tried < OWN_STREAM_TRIES => claimed = resign,
                Err(AppendError::Conflict { .. }) if tried < OWN_STREAM_TRIES => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(handle)
    }

    /// Logs of the journal in the order in which they were begun, after `after`, at most `limit`.
    ///
    /// # Errors
    /// [`LogError::Journal`].
    pub async fn list(&self, after: Option<LogNumber>, limit: usize) -> Result<Vec<LogRecord>, LogError> {
        Ok(self.shared.core.journal.logs(after.unwrap_or(LogNumber(0)), limit).await?)
    }

    /// Projections of all organizations.
    pub fn views(&self) -> Arc<dyn Views> {
        let journal: Arc<dyn Journal> = Arc::clone(&self.shared.core.journal);
        journal
    }

    /// The journal below, for `fsck` and export.
    pub fn journal(&self) -> &Arc<dyn Journal> {
        &self.shared.core.journal
    }

    /// The keys that this ledger was configured with.
    pub fn keys(&self) -> &Arc<dyn KeyRing> {
        &self.shared.keys
    }

    /// Figures.
    pub fn stats(&self) -> Stats {
        let core = &self.shared.core;
        let journal = core.journal.stats();
        let (streams, stream_bytes) = core.streams.size();
        Stats {
            syncs: journal.syncs,
            wal_bytes: journal.wal_bytes,
            free_bytes: journal.free_bytes,
            queued: core.queue.depth(),
            logs: core.logs.len(),
            streams,
            stream_bytes,
            stopped: core.stopped.get().cloned(),
            ..core.counters.snapshot()
        }
    }

    /// Why nothing is signed any more; none in good order. For readiness.
    pub fn stopped(&self) -> Option<&str> {
        self.shared.core.stopped.get().map(String::as_str)
    }

    /// Why the anchor was not written; none in good order or without one. For readiness.
    pub fn anchor_failed(&self) -> Option<String> {
        self.shared.core.anchor.as_ref().and_then(anchor::Writer::failed)
    }

    /// Takes no more appends, commits what waits, writes the anchor, closes the journal.
    ///
    /// # Errors
    /// [`LogError::Journal`] if the journal did not close in good order; what was acknowledged is durable all the same.
    pub async fn shutdown(&self) -> Result<(), LogError> {
        let core = Arc::clone(&self.shared.core);
        core.queue.close();
        let committer = lock(&self.shared.committer).take();
        let joined = tokio::task::spawn_blocking(move || {
            let joined = committer.is_none_or(|thread| thread.join().is_ok());
            if let Some(anchor) = &core.anchor {
                anchor.close();
            }
            joined
        });
        if !joined.await.unwrap_or(false) {
            tracing::error!("the committer has panicked");
        }
        self.shared.core.journal.close().await?;
        Ok(())
    }
}

impl Drop for Shared {
    /// The last handle is gone: what waits is still committed, then the committer's thread ends.
    fn drop(&mut self) {
        self.core.queue.close();
    }
}

impl Shared {
    async fn loading(&self, org: OrgId) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        let sum = org.as_bytes().iter().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add((*byte).into()));
        match self.loading.get(sum % self.loading.len()) {
            Some(one) => Some(one.lock().await),
            None => None,
        }
    }

    fn gateway_key_id(&self, trusted: &TrustedLog) -> [u8; 4] {
        let name = gateway_name(trusted.origin(), self.core.config.gateway);
        key_id(&name, &self.gateway.verifying_key())
    }

    async fn load(&self, record: &LogRecord) -> Result<Arc<LogState>, LogError> {
        let loaded = start::load(&*self.core.journal, &*self.keys, record).await?;
        let key = self.keys.log_key(record.id)?;
        let id = self.gateway_key_id(&loaded.trusted);
        let state = LogState::new(record.number, loaded.trusted, key, id, loaded.tip);
        let boot = lock(&self.core.boots).get(&record.number).copied().unwrap_or(0);
        state.boot.store(boot, Ordering::Release);
        Ok(self.core.logs.put(Arc::new(state)))
    }
}

impl Core {
    /// Checks what the caller's thread can check, queues the append, and waits for its receipts.
    async fn append(&self, log: &Arc<LogState>, own: bool, append: Append) -> Result<Appended, AppendError> {
        if let Some(reason) = self.stopped.get() {
            return Err(AppendError::Refusing(reason.clone()));
        }
        let (reply, answer) = oneshot::channel();
        let pending = self.pend(log, own, append, reply)?;
        // Read here, so that the committer finds it in memory.
        let scope = pending.idempotency.as_ref().map(|(scope, _)| scope.stream).filter(|s| *s != pending.stream);
        for stream in Some(pending.stream).filter(|_| pending.expected > 0).into_iter().chain(scope) {
            let key = (log.number, stream);
            if let Known::Absent = self.streams.read(&key, |_| ()) {
                self.load_stream(key).await?;
            }
        }
        let (entries, bytes) = (pending.entries.len(), pending.bytes());
        match self.queue.push(pending, entries, bytes) {
            Ok(()) => {}
            Err(Refused::Full) => return Err(AppendError::Busy { retry_after: RETRY_AFTER }),
            Err(Refused::Closed) => {
                let reason = self.stopped.get().cloned().unwrap_or_else(|| "it is shutting down".to_owned());
                return Err(AppendError::Refusing(reason));
            }
        }
        // Dropping this future does not take the append back: it is committed, and nobody hears of it here.
        answer.await.unwrap_or(Err(AppendError::Unknown))
    }

    fn pend(
        &self,
        log: &Arc<LogState>,
        own: bool,
        append: Append,
        reply: oneshot::Sender<Result<Appended, AppendError>>,
    ) -> Result<Pending, AppendError> {
        let Append { expected, entries, payloads, blobs, rows, idempotency, erase, urgent } = append;
        let first = entries.first().ok_or(AppendError::Malformed("an append has at least one entry"))?;
        let stream = first.header.stream;
        let genesis = matches!(first.header.body, Body::Genesis(_));
        let claimed = first.header.claimed;
        let length =
            u8::try_from(entries.len()).map_err(|_| AppendError::Malformed("an append has at most 64 entries"))?;
        let mut payloads: Vec<_> = payloads.into_iter().map(|p| Some((p.digest, Arc::<[u8]>::from(p.bytes)))).collect();
        let mut previous = first.header.previous;
        let mut out = Vec::with_capacity(entries.len());
        for (place, entry) in (0..length).zip(entries) {
            let SignedEntry { leaf, hash, header } = entry;
            self.check_entry(log, own, &header)?;
            let in_place = header.append == AppendPosition { index: place, length }
                && header.stream == stream
                && header.sequence == expected + u64::from(place)
                && header.previous == previous;
            if !in_place {
                return Err(AppendError::Malformed("its entries are not adjacent entries of one stream"));
            }
            if header.payloads.len() > MAX_PAYLOADS {
                return Err(AppendError::Malformed("an entry names at most 64 payloads"));
            }
            if leaf_hash(&leaf) != hash {
                return Err(AppendError::Malformed("an entry's hash is not the hash of its leaf"));
            }
            previous = Some(Digest(hash.0));
            let mut kept = Vec::new();
            for named in &header.payloads {
                let found = payloads.iter_mut().find(|p| p.as_ref().is_some_and(|(digest, _)| *digest == named.digest));
                kept.extend(found.and_then(Option::take));
            }
            out.push(PendingEntry { header, hash, leaf: leaf.into(), payloads: kept });
        }
        if payloads.iter().any(Option::is_some) {
            return Err(AppendError::Malformed("a payload is not named by an entry, or was given twice"));
        }
        Ok(Pending {
            log: Arc::clone(log),
            genesis,
            stream,
            expected,
            entries: out,
            blobs: blobs.into_iter().map(|blob| (blob.digest, blob.bytes)).collect(),
            rows: rows.into_iter().map(Arc::new).collect(),
            idempotency: idempotency.map(|i| {
                let principal = i.scope.principal;
                let (key, request, answer) = (i.key, i.request, i.answer);
                (i.scope, Arc::new(IdempotencyRecord { principal, key, request, answer, at: claimed }))
            }),
            erase,
            urgent,
            reply,
        })
    }

    /// The entry is of this log and was written by this gateway in this boot.
    fn check_entry(&self, log: &LogState, own: bool, header: &Header) -> Result<(), AppendError> {
        if header.origin != log.trusted.origin() {
            return Err(AppendError::Malformed("an entry is of another log"));
        }
        let own_kind = matches!(header.body, Body::Genesis(_) | Body::Boot(_));
        if own != own_kind {
            return Err(AppendError::Malformed("genesis and boot entries are written by the ledger itself"));
        }
        let mine = header.gateway == self.config.gateway
            && (own || (log.booted() == Some(header.boot) && header.key == log.gateway_key_id));
        if !mine {
            return Err(AppendError::Malformed("an entry was not sealed by this gateway in this boot"));
        }
        Ok(())
    }
}

/// One log. Clones are handles to the same log; holding one keeps it in memory.
#[derive(Clone)]
pub struct LogHandle {
    shared: Arc<Shared>,
    log: Arc<LogState>,
}

impl std::fmt::Debug for LogHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogHandle").field("origin", &self.log.trusted.origin()).finish_non_exhaustive()
    }
}

impl LogHandle {
    /// The log as everybody trusts it: root key, log key, genesis.
    pub fn trusted(&self) -> &Arc<TrustedLog> {
        &self.log.trusted
    }

    /// The organization.
    pub fn org(&self) -> OrgId {
        self.log.trusted.org()
    }

    /// The log's id.
    pub fn id(&self) -> LogId {
        self.log.trusted.id()
    }

    /// A demonstration: the only log that accepts the stand-in human.
    pub fn is_demo(&self) -> bool {
        self.log.trusted.genesis().demo
    }

    /// How entries are signed.
    pub fn signatures(&self) -> SignatureMode {
        self.log.trusted.signatures()
    }

    /// This process's boot in this log; none before [`Logs::boot`].
    pub fn boot(&self) -> Option<u64> {
        self.log.booted()
    }

    /// The mode that the newest entry states.
    pub fn authority(&self) -> AuthorityMode {
        lock(&self.log.tip).authority
    }

    /// Latest claimed time of any entry.
    pub fn newest(&self) -> Timestamp {
        lock(&self.log.tip).newest
    }

    /// Chains and signs drafts on the caller's thread, about 15 µs an entry.
    ///
    /// # Errors
    /// [`LogError::NotBooted`]; [`LogError::Entry`] if the drafts can be no entries.
    pub fn seal(&self, sealing: &Sealing, drafts: Vec<Draft>) -> Result<Vec<SignedEntry>, LogError> {
        let trusted = &self.log.trusted;
        let boot = self.log.booted().ok_or(LogError::NotBooted(trusted.id()))?;
        let frame = Frame {
            origin: trusted.origin().to_owned(),
            stream: sealing.stream,
            sequence: sealing.sequence,
            previous: sealing.previous,
            policy: sealing.policy,
            authority: sealing.authority,
            gateway: self.shared.core.config.gateway,
            boot,
            key: self.log.gateway_key_id,
            claimed: sealing.claimed,
        };
        let key = match trusted.signatures() {
            SignatureMode::PerEntry => Some(&*self.shared.gateway),
            SignatureMode::CheckpointOnly => None,
        };
        seal(&frame, drafts, key).map_err(|source| LogError::Entry { log: trusted.id(), source })
    }

    /// Signs with the log key that this gateway has checked what has this digest, so that it is known again from a row.
    /// `heading` says what it is; no checkpoint and no other note has it for its first line.
    pub fn vouch(&self, heading: &str, digest: &Digest) -> String {
        let origin = self.log.trusted.origin();
        note::sign(&vouched(heading, origin, digest), origin, &self.log.key)
    }

    /// Whether a note is what [`LogHandle::vouch`] gave for this digest in this log.
    pub fn vouches(&self, heading: &str, digest: &Digest, note: &str) -> bool {
        let trusted = &self.log.trusted;
        let expected = vouched(heading, trusted.origin(), digest);
        Note::parse(note).is_ok_and(|note| note.text == expected && note.verify(trusted.log()).is_ok())
    }

    /// Commits an append: when this returns, its entries are durable and proven.
    ///
    /// Dropping the future does not take the append back.
    ///
    /// # Errors
    /// See [`AppendError`]; in every case but `Unknown` nothing was committed.
    pub async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        self.shared.core.append(&self.log, false, append).await
    }

    /// Where a stream stands: from memory while it is open, from the journal otherwise. None if it has no entry.
    ///
    /// # Errors
    /// [`AppendError::Journal`].
    pub async fn head(&self, stream: Stream) -> Result<Option<Head>, AppendError> {
        let key = (self.log.number, stream);
        match self.shared.core.streams.read(&key, |state| state.head) {
            Known::Ready(head) => Ok(head),
            Known::Absent => Ok(self.shared.core.load_stream(key).await?.head),
        }
    }

    /// What an idempotency key was answered, if it was used in this scope.
    ///
    /// # Errors
    /// [`AppendError::Journal`].
    pub async fn idempotent(&self, scope: IdempotencyScope, key: &Digest) -> Result<Option<Replay>, AppendError> {
        let stream = (self.log.number, scope.stream);
        let id = (scope.principal, *key);
        let record = match self.shared.core.streams.read(&stream, |state| state.keys.get(&id).cloned()) {
            Known::Ready(record) => record,
            Known::Absent => self.shared.core.load_stream(stream).await?.keys.get(&id).cloned(),
        };
        Ok(record.map(|record| Replay { request: record.request, answer: record.answer.clone() }))
    }

    /// The stream is closed: its head and its idempotency keys leave memory. They are still in the journal, so a late
    /// entry finds them.
    pub fn close_stream(&self, stream: Stream) {
        self.shared.core.streams.drop_stream(&(self.log.number, stream));
    }

    /// The newest checkpoint.
    pub fn checkpoint(&self) -> Arc<VerifiedCheckpoint> {
        self.log.checkpoint()
    }

    /// The signed checkpoint of exactly this size: one that ended a batch.
    ///
    /// # Errors
    /// [`LogError::Absent`] if no batch ended there.
    pub async fn checkpoint_at(&self, size: u64) -> Result<VerifiedCheckpoint, LogError> {
        let note = self.journal().checkpoint(self.log.number, size).await?;
        let note = note.ok_or(LogError::Absent { log: self.id(), what: "checkpoint" })?;
        self.log.trusted.checkpoint(&note).map_err(|source| LogError::Entry { log: self.id(), source })
    }

    /// Sizes of which there is a signed checkpoint, ascending, after `after`, at most `limit`.
    ///
    /// # Errors
    /// [`LogError::Journal`].
    pub async fn checkpoint_sizes(&self, after: u64, limit: usize) -> Result<Vec<u64>, LogError> {
        Ok(self.journal().checkpoint_sizes(self.log.number, after, limit).await?)
    }

    /// Entries of `range` in order; fewer if the log ends before.
    ///
    /// # Errors
    /// [`LogError::Journal`].
    pub async fn entries(&self, range: Range<u64>) -> Result<Vec<StoredEntry>, LogError> {
        Ok(self.journal().entries(self.log.number, range).await?)
    }

    /// Entries of a stream from sequence `from` on, in order, at most `limit`.
    ///
    /// # Errors
    /// [`LogError::Journal`].
    pub async fn stream_entries(&self, stream: Stream, from: u64, limit: usize) -> Result<Vec<StoredEntry>, LogError> {
        Ok(self.journal().stream_entries(self.log.number, stream, from, limit).await?)
    }

    /// Inclusion proof of entry `index` in the tree of `size` entries, leaf side first.
    ///
    /// # Errors
    /// [`LogError::Proof`] if the log is not that long.
    pub async fn proof(&self, index: u64, size: u64) -> Result<Vec<Hash>, LogError> {
        self.within(size)?;
        tree::inclusion(&**self.journal(), self.log.number, index, size).await.map_err(|e| tree_error(self.id(), e))
    }

    /// Consistency proof between the trees of `old` and `new` entries.
    ///
    /// # Errors
    /// [`LogError::Proof`] if the log is not that long.
    pub async fn consistency(&self, old: u64, new: u64) -> Result<Vec<Hash>, LogError> {
        self.within(new)?;
        tree::consistency(&**self.journal(), self.log.number, old, new).await.map_err(|e| tree_error(self.id(), e))
    }

    /// A tile's bytes (C2SP tlog-tiles).
    ///
    /// # Errors
    /// [`LogError::Absent`] if the log is not that long.
    pub async fn tile(&self, tile: TileCoord) -> Result<Vec<u8>, LogError> {
        if !tile.is_within(self.checkpoint().checkpoint().size) {
            return Err(LogError::Absent { log: self.id(), what: "tile" });
        }
        Ok(encode_tile(&tree::tile_hashes(&**self.journal(), self.log.number, tile).await?))
    }

    /// An entry bundle's bytes (C2SP tlog-tiles).
    ///
    /// # Errors
    /// [`LogError::Absent`] if the log is not that long.
    pub async fn entry_bundle(&self, bundle: BundleCoord) -> Result<Vec<u8>, LogError> {
        if !bundle.is_within(self.checkpoint().checkpoint().size) {
            return Err(LogError::Absent { log: self.id(), what: "entry bundle" });
        }
        let entries = self.entries(bundle.entries()).await?;
        encode_bundle(entries.iter().map(|entry| &entry.leaf))
            .map_err(|error| LogError::Damaged { log: self.id(), what: error.to_string() })
    }

    /// A payload of entry `index`: salt and content. None if it was erased, or is named by another entry.
    ///
    /// # Errors
    /// [`LogError::Journal`].
    pub async fn payload(&self, index: u64, digest: &Digest) -> Result<Option<Vec<u8>>, LogError> {
        let held = self.journal().payloads(self.log.number, index).await?;
        Ok(held.into_iter().find(|(held, _)| held == digest).map(|(_, bytes)| bytes))
    }

    /// The payloads of the entries of `range` that were not erased, in order: for those who read many.
    ///
    /// # Errors
    /// [`LogError::Journal`].
    pub async fn payloads_of(&self, range: Range<u64>) -> Result<Vec<HeldPayload>, LogError> {
        Ok(self.journal().payloads_of(self.log.number, range).await?)
    }

    /// Shared bytes.
    ///
    /// # Errors
    /// [`LogError::Journal`].
    pub async fn blob(&self, digest: &Digest) -> Result<Option<Vec<u8>>, LogError> {
        Ok(self.journal().blob(self.log.number, digest).await?)
    }

    /// One projection row of this organization.
    ///
    /// # Errors
    /// [`LogError::Journal`].
    pub async fn view(&self, table: &str, key: &[u8]) -> Result<Option<Vec<u8>>, LogError> {
        Ok(self.journal().get(self.org(), table, key).await?)
    }

    /// Projection rows of this organization, see [`Views::scan`].
    ///
    /// # Errors
    /// [`LogError::Journal`].
    pub async fn scan(
        &self,
        table: &str,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        reverse: bool,
    ) -> Result<Vec<ViewRow>, LogError> {
        Ok(self.journal().scan(self.org(), table, prefix, after, limit, reverse).await?)
    }

    /// This log's number in its journal.
    pub fn number(&self) -> LogNumber {
        self.log.number
    }

    fn journal(&self) -> &Arc<dyn Journal> {
        &self.shared.core.journal
    }

    fn within(&self, size: u64) -> Result<(), LogError> {
        if size <= self.checkpoint().checkpoint().size {
            Ok(())
        } else {
            Err(LogError::Absent { log: self.id(), what: "size" })
        }
    }
}

/// A text that can be no checkpoint: that has an origin, which holds no space, for its first line.
fn vouched(heading: &str, origin: &str, digest: &Digest) -> String {
    format!("{heading}\n{origin}\n{digest}\n")
}
