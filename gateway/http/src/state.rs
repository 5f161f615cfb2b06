//! What handlers work with: the engine, accounts, limits, figures, and what the program says of itself.
//!
//! Absent: how any of it comes to be (the program). Read next: `lib`.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use countersign_gateway_engine::Engine;
use countersign_gateway_identity::{Identity, RateLimiter};
use countersign_gateway_model::{Digest, OrgId, Principal};
use tokio::sync::Semaphore;

use crate::metrics::Metrics;

/// What the program lends the handlers.
pub struct Parts {
    /// The engine.
    pub engine: Engine,
    /// Accounts and tokens.
    pub identity: Identity,
    /// How much each principal may ask.
    pub rate: RateLimiter,
    /// Where uploaded trees go.
    pub workspaces: Arc<dyn Workspaces>,
    /// How much is taken at a time.
    pub limits: Limits,
    /// What is said to anybody.
    pub info: Info,
    /// Figures; the program may register its own beside them.
    pub metrics: Metrics,
    /// Whether the gateway takes work.
    pub lifecycle: Arc<Lifecycle>,
}

/// [`Parts`], shared by all requests.
#[derive(Clone)]
pub struct AppState(Arc<Shared>);

/// [`Parts`] with what only this room needs.
pub struct Shared {
    parts: Parts,
    pub(crate) requests: Semaphore,
    pub(crate) waits: Semaphore,
    pub(crate) uploads: Arc<Semaphore>,
}

impl AppState {
    /// Shares the parts.
    pub fn new(parts: Parts) -> Self {
        let requests = Semaphore::new(parts.limits.requests);
        let waits = Semaphore::new(parts.limits.waits);
        let uploads = Arc::new(Semaphore::new(parts.limits.uploads));
        Self(Arc::new(Shared { parts, requests, waits, uploads }))
    }
}

impl Deref for AppState {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Deref for Shared {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.parts
    }
}

/// How much is taken at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of an ordinary body: 256 KiB.
    pub body_bytes: usize,
    /// How long an ordinary body may take to arrive: 10 s.
    pub body_time: Duration,
    /// Bytes of an upload (workspaces, bundles, packs): 32 MiB.
    pub upload_bytes: usize,
    /// How long an upload may take to arrive: 120 s.
    pub upload_time: Duration,
    /// How long a request may take in all, uploads and waiting included: 180 s.
    pub request_time: Duration,
    /// Requests worked on at a time; more get 503: 2048.
    pub requests: usize,
    /// Of these, requests that wait for a change; more are answered at once: 1024.
    pub waits: usize,
    /// Uploads that are worked on at a time, each with its bytes in memory: 4.
    pub uploads: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 256 * 1024,
            body_time: Duration::from_secs(10),
            upload_bytes: 32 * 1024 * 1024,
            upload_time: Duration::from_mins(2),
            request_time: Duration::from_mins(3),
            requests: 2048,
            waits: 1024,
            uploads: 4,
        }
    }
}

/// What the gateway says of itself to anybody.
#[derive(Clone, Debug)]
pub struct Info {
    /// The program's version.
    pub version: String,
    /// Where people sign in who name no organization.
    pub organization: OrgId,
    /// Root verifier keys of the log of that organization, in text form: what an auditor is configured with.
    pub root_keys: Vec<String>,
    /// The log is marked as a demonstration's.
    pub demo: bool,
    /// `/metrics` answers without a credential: for gateways that listen on loopback only.
    pub open_metrics: bool,
}

/// Where the gateway is in its life.
#[derive(Debug, Default)]
pub struct Lifecycle(AtomicU8);

/// Whether the gateway takes work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not yet.
    Starting,
    /// Yes.
    Ready,
    /// Not any more.
    Draining,
}

impl Lifecycle {
    /// Moves on.
    pub fn set(&self, phase: Phase) {
        let value = match phase {
            Phase::Starting => 0,
            Phase::Ready => 1,
            Phase::Draining => 2,
        };
        self.0.store(value, Ordering::Release);
    }

    /// Where it is; it begins with [`Phase::Starting`].
    pub fn phase(&self) -> Phase {
        match self.0.load(Ordering::Acquire) {
            0 => Phase::Starting,
            1 => Phase::Ready,
            _ => Phase::Draining,
        }
    }
}

/// One file of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkspaceFile {
    /// Relative, `/` between its parts, none of them `.` or `..`: checked before.
    pub path: String,
    /// Whether it may be executed.
    pub executable: bool,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// The tree was not stored.
#[derive(Debug)]
pub enum WorkspaceError {
    /// It cannot be, whoever asks: the reason is for the caller.
    Invalid(String),
    /// It could not be now: the reason is for the log.
    Unavailable(Box<dyn std::error::Error + Send + Sync>),
}

/// Where trees are kept that first runs start from. The program fills it.
#[async_trait]
pub trait Workspaces: Send + Sync + 'static {
    /// Keeps a tree for the principal's organization; its digest names it from then on.
    async fn put(&self, who: &Principal, files: Vec<WorkspaceFile>) -> Result<Digest, WorkspaceError>;

    /// Keeps a tree of the principal's organization for as long as if it had just been put; false if it has no such tree.
    async fn renew(&self, who: &Principal, tree: Digest) -> Result<bool, WorkspaceError>;
}
