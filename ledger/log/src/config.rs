//! How a ledger is run: names, bounds, and what the program lends it. Absent: reading any of it from a file.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use ed25519_dalek::{SigningKey, VerifyingKey};

use countersign_gateway_model::{Clock, Digest, Duration, GatewayId, LogId, OrgId};
use countersign_ledger_entry::body::{AuthorityMode, Durability, SignatureMode};

use crate::keys::Entropy;

/// Called once, with the reason, when nothing may be signed any more, after every waiting caller was given its answer. It
/// ends the process, after the moment that the answers need to leave it.
pub type OnFatal = Arc<dyn Fn(&str) + Send + Sync>;

/// How the ledger of one process is run.
#[derive(Clone)]
pub struct LogsConfig {
    /// First part of every origin line: `<this>/<32 hex>`.
    pub origin_name: String,
    /// This gateway.
    pub gateway: GatewayId,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Random bytes: the gateway's key of this boot is made of them.
    pub entropy: Arc<dyn Entropy>,
    /// Where checkpoints are remembered outside the journal; compared with it at start.
    pub anchor: Option<PathBuf>,
    /// Least time between two writes of the anchor.
    pub anchor_interval: Duration,
    /// Most entries that wait; beyond it callers are told to come back.
    pub queue_entries: usize,
    /// Most bytes that wait.
    pub queue_bytes: usize,
    /// Free disk space, in bytes, below which only urgent appends pass.
    pub reserve: u64,
    /// Most bytes of stream heads and idempotency answers held in memory; beyond it the least recently used go.
    pub cache_bytes: usize,
    /// Most logs held in memory without a handle to them.
    pub cached_logs: usize,
    /// How long an idempotency key scoped to an organization's stream, which never closes, is remembered.
    pub idempotency_window: Duration,
    /// What ends the process.
    pub on_fatal: OnFatal,
}

impl LogsConfig {
    /// The defaults of an embedded gateway. A fatal error is only traced: a program gives `on_fatal`.
    pub fn new(origin_name: &str, gateway: GatewayId, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        Self {
            origin_name: origin_name.to_owned(),
            gateway,
            clock,
            entropy,
            anchor: None,
            anchor_interval: Duration(100),
            queue_entries: 4096,
            queue_bytes: 4 << 20,
            reserve: 64 << 20,
            cache_bytes: 64 << 20,
            cached_logs: 16_384,
            idempotency_window: Duration::from_secs(24 * 3600),
            on_fatal: Arc::new(|reason| tracing::error!(reason, "the ledger has stopped")),
        }
    }
}

impl fmt::Debug for LogsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogsConfig")
            .field("origin_name", &self.origin_name)
            .field("gateway", &self.gateway)
            .field("anchor", &self.anchor)
            .field("queue_entries", &self.queue_entries)
            .field("queue_bytes", &self.queue_bytes)
            .field("reserve", &self.reserve)
            .field("cache_bytes", &self.cache_bytes)
            .finish_non_exhaustive()
    }
}

/// A log to be begun. Its keys must be in the key ring before: a log whose key was never kept could not be continued.
pub struct NewLog {
    /// Whose.
    pub org: OrgId,
    /// Its id: random bits, for they are public in the origin line.
    pub log: LogId,
    /// Signs genesis, and nothing else here. Its public key is what [`crate::KeyRing::root`] gives for this log.
    pub root_signer: SigningKey,
    /// Public keys of root document version 1.
    pub root_keys: Vec<VerifyingKey>,
    /// How many of them a change needs.
    pub root_threshold: u8,
    /// Plain digest of root document version 1.
    pub root_document: Digest,
    /// How entries are signed.
    pub signatures: SignatureMode,
    /// When receipts are released. This committer knows `journal` only and refuses the others.
    pub durability: Durability,
    /// Who may approve what, at first.
    pub authority: AuthorityMode,
    /// A demonstration.
    pub demo: bool,
}

impl fmt::Debug for NewLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewLog").field("org", &self.org).field("log", &self.log).finish_non_exhaustive()
    }
}
