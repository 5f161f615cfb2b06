//! The door that every backend fills: probe, submit, observe, logs, cancel, collect, reap, list.
//!
//! Absent: policy, the ledger, retries. A runner does what an order says once, and says what became of it.
//!
//! Read next: `conformance`, the suite that each implementation passes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration as Span;

use async_trait::async_trait;
use countersign_gateway_model::{Duration, Name, NameError, OrgId, RunId};
use serde::{Deserialize, Serialize};

use crate::{
    Artifact, Evidence, LogCursor, LogRead, Manifest, NetworkMode, Observation, Order, OrderError, SecretError,
};

/// How often [`Runner::watch`] looks, where the backend cannot tell by itself.
const WATCH_INTERVAL: Span = Span::from_millis(40);

/// Why a runner did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunnerError {
    /// The order may not be begun.
    #[error("the order is refused")]
    Order(#[from] OrderError),
    /// The backend cannot do what the job asks.
    #[error("backend `{backend}` cannot run this job: {why}")]
    Unsupported {
        /// The backend.
        backend: Name,
        /// What it cannot do, and what to do about it.
        why: String,
    },
    /// The machine isolates less than it did when the minimum was set.
    #[error("isolation `{found}` is below the configured minimum `{minimum}`: {fix}")]
    Isolation {
        /// What the canary found now.
        found: String,
        /// What is asked for.
        minimum: String,
        /// What would raise it.
        fix: String,
    },
    /// A later start of the same run is known.
    #[error("run `{run}` is at fence {known}; {given} is out of date")]
    StaleFence {
        /// The run.
        run: RunId,
        /// The highest fence that is known.
        known: u64,
        /// The fence that came.
        given: u64,
    },
    /// The name is taken by another order.
    #[error("`{0}` was submitted with another order")]
    Conflict(Name),
    /// The run ended and was reaped; it is not begun again.
    #[error("`{0}` has ended and was cleared away; an order is carried out once")]
    Reaped(Name),
    /// Nothing is known under that name.
    #[error("`{0}` is not known to this runner")]
    NotFound(Name),
    /// The run has not ended yet.
    #[error("`{0}` has not ended yet: wait for it or cancel it")]
    NotFinished(Name),
    /// A secret cannot be had.
    #[error("a secret of the job cannot be used")]
    Secret(#[from] SecretError),
    /// The workspace that the run is to start from is not here or not sound.
    #[error("the workspace of the job cannot be used")]
    Workspace(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The backend does not answer. That says nothing about its runs.
    #[error("backend `{backend}` does not answer")]
    Unreachable {
        /// The backend.
        backend: Name,
        /// What happened.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The runner's own storage or machine failed.
    #[error("{what}")]
    Local {
        /// What was being done, with the name of the thing.
        what: String,
        /// What happened.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What a runner knows a run by. Plain data: the engine stores it and gives it back after a restart.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Handle {
    /// Whose run it is.
    pub org: OrgId,
    /// The run.
    pub run: RunId,
    /// The attempt, from 1.
    pub attempt: u32,
    /// The backend that has it.
    pub backend: Name,
    /// The name under which the backend knows it.
    pub external_name: Name,
    /// The fence of the start; a lower one than the runner knows is refused.
    pub fence: u64,
}

impl Handle {
    /// The handle that an order will have, known before it is submitted.
    pub fn of(order: &Order) -> Self {
        let run = order.run();
        Self {
            org: order.org(),
            run: run.run,
            attempt: run.attempt,
            backend: run.backend.clone(),
            external_name: run.external_name.clone(),
            fence: run.fence,
        }
    }
}

/// The external name to put into a start: the same for the same run and attempt, and a legal name for every backend
/// (a DNS label: lowercase letters, digits and dashes, below 64 characters).
///
/// # Errors
/// Never for real ids; the check is the name's own.
pub fn external_name(run: RunId, attempt: u32) -> Result<Name, NameError> {
    let text = run.to_string();
    let hex = text.strip_prefix(RunId::PREFIX).unwrap_or(&text);
    Name::new(&format!("cs-{hex}-{attempt}"))
}

/// Whose runs `list_owned` gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every organization's: for adoption when a gateway starts.
    All,
    /// One organization's.
    Organization(OrgId),
}

/// How many times a backend may carry a submitted order out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// Once or never.
    AtMostOnce,
    /// Once or more: for a backend that restarts by itself.
    AtLeastOnce,
}

/// From where a log can be resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogResume {
    /// From every byte.
    Bytes,
    /// From a time, with duplicates to drop.
    Time,
    /// Not at all.
    None,
}

/// Something that not every backend can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Feature {
    /// Runs container images.
    Images,
    /// Carries workspaces from run to run.
    Workspaces,
    /// Collects artifacts.
    Artifacts,
    /// Tells the two output streams apart.
    SplitLogs,
    /// A run outlives the gateway's process.
    SurvivesGatewayRestart,
    /// Asks a workload to end before it kills it.
    GracefulCancel,
}

/// What a backend can do, as its probe found it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// How many times an order may be carried out.
    pub delivery: Delivery,
    /// What holds a workload in, as a canary found it.
    pub isolation: Evidence,
    /// Network modes it enforces.
    pub networks: BTreeSet<NetworkMode>,
    /// What it can do beyond running a command.
    pub features: BTreeSet<Feature>,
    /// From where a log can be resumed.
    pub log_resume: LogResume,
    /// The longest wall time that the backend takes.
    pub max_wall: Option<Duration>,
}

/// How a backend is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "health")]
pub enum Health {
    /// It takes orders.
    Ready,
    /// It takes orders, and something should be seen to.
    Degraded {
        /// What, and how to fix it.
        reason: String,
    },
    /// It refuses orders.
    Unavailable {
        /// Why, and how to fix it.
        reason: String,
    },
}

/// What `probe` gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// The backend's name.
    pub backend: Name,
    /// How it is.
    pub health: Health,
    /// What it can do.
    pub capabilities: Capabilities,
    /// Facts for people, by short name.
    pub facts: BTreeMap<String, String>,
}

/// A backend.
///
/// Every method may be called at any time, by several callers at once, and again after any error. Dropping the future
/// of one leaves the run as it is.
#[async_trait]
pub trait Runner: Send + Sync {
    /// The name that a start has to carry.
    fn backend(&self) -> &Name;

    /// Finds out what the backend can do, by trying.
    async fn probe(&self) -> Result<Fingerprint, RunnerError>;

    /// Begins an order. Idempotent by external name: the second of two equal orders gets the first one's handle and
    /// begins nothing.
    async fn submit(&self, order: Order) -> Result<Handle, RunnerError>;

    /// What is known now.
    async fn observe(&self, handle: &Handle) -> Result<Observation, RunnerError>;

    /// Waits until what is known differs from `seen`, or is final.
    async fn watch(&self, handle: &Handle, seen: Option<&Observation>) -> Result<Observation, RunnerError> {
        loop {
            let now = self.observe(handle).await?;
            if now.phase.is_final() || seen != Some(&now) {
                return Ok(now);
            }
            tokio::time::sleep(WATCH_INTERVAL).await;
        }
    }

    /// Output from the cursor on, at most some hundred kilobytes at once.
    async fn logs(&self, handle: &Handle, cursor: LogCursor) -> Result<LogRead, RunnerError>;

    /// Asks the workload to end, and kills it after `grace`. Idempotent; a run that is gone or has ended is fine.
    async fn cancel(&self, handle: &Handle, grace: Duration) -> Result<(), RunnerError>;

    /// The files that the job asked for, once the run has ended.
    async fn collect(&self, handle: &Handle) -> Result<Manifest, RunnerError>;

    /// Bytes of a collected file from `offset` on, at most `max` and at most 1 MiB of them; empty at its end.
    async fn fetch(
        &self,
        handle: &Handle,
        artifact: &Artifact,
        offset: u64,
        max: usize,
    ) -> Result<Vec<u8>, RunnerError>;

    /// Clears a run away that has ended. The caller has made result, log and artifacts durable. Idempotent.
    async fn reap(&self, handle: &Handle) -> Result<(), RunnerError>;

    /// The runs that this runner has, ended ones that were not reaped included.
    async fn list_owned(&self, scope: Scope) -> Result<Vec<Handle>, RunnerError>;
}
