//! What the tests of the journal share: keys, a hand-moved clock, a log to write to.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "each test file and the example use a part of it"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ed25519_dalek::SigningKey;

use countersign_gateway_model::{
    ActionId, Clock, Digest, GatewayId, InstanceId, LogId, Name, OrgId, PermitId, PolicyDigests, Pseudonym, StreamId,
    Timestamp, Verdict,
};
use countersign_ledger_entry::body::{AuthorityMode, Durability, Permit, QuestionKind, SignatureMode};
use countersign_ledger_entry::key::{VKey, origin, root_name};
use countersign_ledger_entry::payload::{self, Salt};
use countersign_ledger_entry::{Draft, Payload, PayloadRef, PayloadRole, Row, Stream, StreamKind};
use countersign_ledger_log::{
    Append, AppendError, Appended, Journal, KeyError, KeyRing, LogError, LogHandle, Logs, LogsConfig, NewLog, Sealing,
};
use countersign_ledger_sql::{SqlJournal, SqlOptions};

pub const NAME: &str = "ledger.test";

/// A clock that moves only when told.
pub struct Hand(AtomicU64);

impl Hand {
    pub fn new() -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(1_795_219_200_000)))
    }

    pub fn set(&self, at: Timestamp) {
        self.0.store(at.0, Ordering::SeqCst);
    }

    pub fn forward(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

/// Keys that follow from the log's id.
pub struct Ring;

impl Ring {
    pub fn root_signer(log: LogId) -> SigningKey {
        let [a, b, ..] = *log.as_bytes();
        SigningKey::from_bytes(&[a ^ b ^ 0x5a; 32])
    }
}

impl KeyRing for Ring {
    fn root(&self, log: LogId) -> Result<VKey, KeyError> {
        let name = root_name(&origin(NAME, log).unwrap());
        Ok(VKey::new(&name, Self::root_signer(log).verifying_key()).unwrap())
    }

    fn log_key(&self, log: LogId) -> Result<SigningKey, KeyError> {
        let [a, b, ..] = *log.as_bytes();
        Ok(SigningKey::from_bytes(&[a ^ b ^ 0xa5; 32]))
    }
}

pub fn org(n: u32) -> OrgId {
    let [a, b, c, d] = n.to_be_bytes();
    OrgId::from_bytes([a, b, c, d, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1])
}

pub fn log_id(n: u32) -> LogId {
    let [a, b, c, d] = n.to_be_bytes();
    LogId::from_bytes([d, c, b, a, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2])
}

pub fn stream(n: u64) -> Stream {
    let [a, b, c, d, e, f, g, h] = n.to_be_bytes();
    let id = InstanceId::from_bytes([a, b, c, d, e, f, g, h, 3, 3, 3, 3, 3, 3, 3, 3]);
    Stream { kind: StreamKind::Instance, id: StreamId::from(id) }
}

pub fn who(n: u8) -> Pseudonym {
    Pseudonym::from_bytes([n; 16])
}

pub fn config(clock: &Arc<Hand>) -> LogsConfig {
    let clock: Arc<dyn Clock> = Arc::<Hand>::clone(clock);
    let entropy = Arc::new(|| Ok([0x77; 32]));
    let mut config = LogsConfig::new(NAME, GatewayId::from_bytes([9; 16]), clock, entropy);
    config.reserve = 0;
    config
}

pub fn new_log(n: u32) -> NewLog {
    let log = log_id(n);
    let root_signer = Ring::root_signer(log);
    NewLog {
        org: org(n),
        log,
        root_keys: vec![root_signer.verifying_key()],
        root_signer,
        root_threshold: 1,
        root_document: Digest([4; 32]),
        signatures: SignatureMode::PerEntry,
        durability: Durability::Journal,
        authority: AuthorityMode::FourEyes,
        demo: true,
    }
}

pub async fn journal(folder: &std::path::Path) -> SqlJournal {
    let mut options = SqlOptions::new(folder);
    options.reserve = 0;
    SqlJournal::open(options).await.unwrap()
}

pub async fn open(journal: Arc<dyn Journal>, clock: &Arc<Hand>) -> Result<Logs, LogError> {
    Logs::open(journal, config(clock), Arc::new(Ring)).await
}

/// A ledger with one booted log.
pub async fn ledger(folder: &std::path::Path, clock: &Arc<Hand>) -> (Logs, LogHandle) {
    let logs = open(Arc::new(journal(folder).await), clock).await.unwrap();
    let log = match logs.create(new_log(1)).await {
        Ok(log) => log,
        Err(LogError::Exists(org)) => logs.log(org).await.unwrap(),
        Err(other) => panic!("{other}"),
    };
    logs.boot(log.org(), Some(2)).await.unwrap();
    (logs, log)
}

pub fn draft(n: u64) -> Draft {
    let [a, b, c, d, e, f, g, h] = n.to_be_bytes();
    let id = [a, b, c, d, e, f, g, h, 4, 4, 4, 4, 4, 4, 4, 4];
    let permit = Permit {
        permit: PermitId::from_bytes(id),
        action: ActionId::from_bytes(id),
        item: None,
        question: QuestionKind::CallTool,
        tool: Name::new("github.create_pull_request").unwrap(),
        tool_version: Digest([5; 32]),
        digest: Digest([6; 32]),
        expires: Timestamp(1_795_219_800_000),
        mutable_target: false,
        reservations: Vec::new(),
        enforced: true,
    };
    let mut draft = Draft::new(permit, who(1));
    draft.verdict = Some(Verdict::allow());
    draft.determining = vec![vec![Name::new("agents-may-open-pull-requests").unwrap()]];
    draft
}

pub fn payload_of(n: u64, length: usize) -> Payload {
    let mut salt = [0; 32];
    salt[..8].copy_from_slice(&n.to_be_bytes());
    let bytes = payload::seal(&Salt(salt), &vec![b'x'; length]);
    Payload { digest: payload::digest(&bytes), bytes }
}

pub fn sealing(stream: Stream, head: Option<countersign_ledger_log::Head>, claimed: Timestamp) -> Sealing {
    Sealing {
        stream,
        sequence: head.map_or(0, |h| h.next_sequence),
        previous: head.map(|h| h.last_hash),
        policy: Some(PolicyDigests {
            kernel: Digest([1; 32]),
            schema: Digest([2; 32]),
            bundle: Digest([3; 32]),
            catalogue: Digest([4; 32]),
        }),
        authority: AuthorityMode::FourEyes,
        claimed,
    }
}

/// An append of `n` entries to `stream` as its head says, with a payload and a row.
pub async fn prepare(log: &LogHandle, stream: Stream, n: u64, claimed: Timestamp) -> Append {
    let head = log.head(stream).await.unwrap();
    let sealing = sealing(stream, head, claimed);
    let payload = payload_of(sealing.sequence, 200);
    let mut drafts: Vec<Draft> = (0..n).map(|i| draft(sealing.sequence + i)).collect();
    let length = u32::try_from(payload.bytes.len()).unwrap();
    drafts[0].payloads = vec![PayloadRef { role: PayloadRole::Question, digest: payload.digest, length }];
    let columns = format!("{{\"sequence\":{}}}", sealing.sequence).into_bytes();
    Append {
        expected: sealing.sequence,
        entries: log.seal(&sealing, drafts).unwrap(),
        payloads: vec![payload],
        rows: vec![Row { table: "instance", key: stream.id.as_bytes().to_vec(), columns: Some(columns) }],
        ..Append::default()
    }
}

pub async fn append(log: &LogHandle, stream: Stream, n: u64, clock: &Hand) -> Result<Appended, AppendError> {
    let append = prepare(log, stream, n, clock.now()).await;
    log.append(append).await
}
