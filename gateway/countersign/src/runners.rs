//! The process runner of each organization, behind one door: nothing that a run of one leaves is in reach of another's.
//!
//! Each has a folder of its own, and with it a tree store with a salt of its own: the digest of a workspace means nothing
//! in another organization. Orders and handles name their organization; one that is not here has no runner. What is seen
//! on the way is counted by phase. Absent: anything about sandboxes (`runners/process`).

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use countersign_gateway_model::{Duration, Name, OrgId, RunId};
use countersign_runners_contract::{
    Artifact, Fingerprint, Handle, LogCursor, LogRead, Manifest, Observation, Order, Phase, Runner, RunnerError, Scope,
};
use countersign_runners_process::ProcessRunner;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Runners by organization. Cheap to clone.
#[derive(Clone)]
pub(crate) struct OrgRunners(Arc<Inner>);

struct Inner {
    backend: Name,
    /// The one that answers for the machine.
    first: ProcessRunner,
    by_org: BTreeMap<OrgId, ProcessRunner>,
    seen: Mutex<Seen>,
}

/// What was seen of runs since this process began.
#[derive(Default)]
struct Seen {
    /// Runs that have not ended, by where they stand.
    live: HashMap<RunId, &'static str>,
    /// How many ended how.
    ended: BTreeMap<&'static str, u64>,
}

/// Phases of a run that has not ended.
const LIVE: [&str; 5] = ["queued", "submitting", "pending", "running", "cancelling"];

/// Phases of one that has.
const ENDED: [&str; 5] = ["succeeded", "failed", "timed_out", "cancelled", "lost"];

impl Seen {
    fn submitted(&mut self, run: RunId) {
        self.live.entry(run).or_insert("submitting");
    }

    /// An end counts once, however often it is seen: only a run that was live can end.
    fn stands(&mut self, run: RunId, phase: &Phase) {
        if !phase.is_final() {
            self.live.insert(run, phase.as_str());
        } else if self.live.remove(&run).is_some() {
            *self.ended.entry(phase.as_str()).or_default() += 1;
        }
    }
}

impl OrgRunners {
    /// A door over `others` and `first`, whose backend they all are.
    pub(crate) fn new(
        (org, first): (OrgId, ProcessRunner),
        others: impl IntoIterator<Item = (OrgId, ProcessRunner)>,
    ) -> Self {
        let mut by_org: BTreeMap<OrgId, ProcessRunner> = others.into_iter().collect();
        by_org.insert(org, first.clone());
        let backend = first.backend().clone();
        Self(Arc::new(Inner { backend, first, by_org, seen: Mutex::default() }))
    }

    /// The runner of one organization.
    pub(crate) fn of(&self, org: OrgId) -> Option<&ProcessRunner> {
        self.0.by_org.get(&org)
    }

    /// The runner that answers for the machine: that of the first organization.
    pub(crate) fn first(&self) -> &ProcessRunner {
        &self.0.first
    }

    fn having(&self, handle: &Handle) -> Result<&ProcessRunner, RunnerError> {
        self.of(handle.org).ok_or_else(|| RunnerError::NotFound(handle.external_name.clone()))
    }

    fn seen<T>(&self, change: impl FnOnce(&mut Seen) -> T) -> T {
        change(&mut self.0.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for OrgRunners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OrgRunners").field("organizations", &self.0.by_org.keys()).finish_non_exhaustive()
    }
}

#[async_trait]
impl Runner for OrgRunners {
    fn backend(&self) -> &Name {
        &self.0.backend
    }

    async fn probe(&self) -> Result<Fingerprint, RunnerError> {
        self.0.first.probe().await
    }

    async fn submit(&self, order: Order) -> Result<Handle, RunnerError> {
        let handle = Handle::of(&order);
        let runner = self.having(&handle)?;
        self.seen(|seen| seen.submitted(handle.run));
        let submitted = runner.submit(order).await;
        if submitted.is_err() {
            // It may have begun all the same; whoever asks for it again says where it stands.
            self.seen(|seen| seen.live.remove(&handle.run));
        }
        submitted
    }

    async fn observe(&self, handle: &Handle) -> Result<Observation, RunnerError> {
        let observation = self.having(handle)?.observe(handle).await?;
        self.seen(|seen| seen.stands(handle.run, &observation.phase));
        Ok(observation)
    }

    async fn watch(&self, handle: &Handle, seen: Option<&Observation>) -> Result<Observation, RunnerError> {
        let runner = self.having(handle)?;
        if seen.is_none() {
            // A run that an earlier process left may have ended before anybody looked.
            self.seen(|seen| seen.submitted(handle.run));
        }
        let observation = runner.watch(handle, seen).await?;
        self.seen(|seen| seen.stands(handle.run, &observation.phase));
        Ok(observation)
    }

    async fn logs(&self, handle: &Handle, cursor: LogCursor) -> Result<LogRead, RunnerError> {
        self.having(handle)?.logs(handle, cursor).await
    }

    async fn cancel(&self, handle: &Handle, grace: Duration) -> Result<(), RunnerError> {
        self.having(handle)?.cancel(handle, grace).await
    }

    async fn collect(&self, handle: &Handle) -> Result<Manifest, RunnerError> {
        self.having(handle)?.collect(handle).await
    }

    async fn fetch(
        &self,
        handle: &Handle,
        artifact: &Artifact,
        offset: u64,
        max: usize,
    ) -> Result<Vec<u8>, RunnerError> {
        self.having(handle)?.fetch(handle, artifact, offset, max).await
    }

    async fn reap(&self, handle: &Handle) -> Result<(), RunnerError> {
        self.having(handle)?.reap(handle).await
    }

    async fn list_owned(&self, scope: Scope) -> Result<Vec<Handle>, RunnerError> {
        let mut owned = Vec::new();
        for (org, runner) in &self.0.by_org {
            if matches!(scope, Scope::All) || scope == Scope::Organization(*org) {
                // What lies in an organization's folder and names another one is nobody's.
                owned.extend(runner.list_owned(Scope::Organization(*org)).await?);
            }
        }
        Ok(owned)
    }
}

impl Collector for OrgRunners {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (live, ended) = self.seen(|seen| {
            let live = LIVE.map(|phase| seen.live.values().filter(|stands| **stands == phase).count());
            (live, ENDED.map(|phase| seen.ended.get(phase).copied().unwrap_or_default()))
        });
        let mut runs =
            encoder.encode_descriptor("runs", "Runs that have not ended, by phase", None, MetricType::Gauge)?;
        for (phase, count) in LIVE.into_iter().zip(live) {
            let count = ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
            count.encode(runs.encode_family(&[("phase", phase)])?)?;
        }
        let help = "Runs that ended since the start, by phase";
        let mut runs = encoder.encode_descriptor("runs_ended", help, None, MetricType::Counter)?;
        for (phase, count) in ENDED.into_iter().zip(ended) {
            ConstCounter::new(count).encode(runs.encode_family(&[("phase", phase)])?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use countersign_runners_contract::FailureClass;

    use super::*;

    #[test]
    fn a_run_is_in_one_phase_and_ends_once() {
        let (one, two) = (RunId::from_bytes([1; 16]), RunId::from_bytes([2; 16]));
        let mut seen = Seen::default();
        seen.submitted(one);
        seen.stands(one, &Phase::Running);
        seen.submitted(one);
        assert_eq!(seen.live.get(&one), Some(&"running"));
        let failed = Phase::Failed { class: FailureClass::User, reason: String::new() };
        seen.stands(one, &failed);
        seen.stands(one, &failed);
        seen.stands(two, &Phase::Succeeded);
        assert!(seen.live.is_empty());
        assert_eq!(seen.ended, BTreeMap::from([("failed", 1)]));
    }

    #[test]
    fn each_phase_of_a_run_has_its_figure() {
        let reason = String::new;
        let all = [
            Phase::Queued,
            Phase::Submitting,
            Phase::Pending { reason: reason() },
            Phase::Running,
            Phase::Cancelling,
            Phase::Succeeded,
            Phase::Failed { class: FailureClass::User, reason: reason() },
            Phase::TimedOut,
            Phase::Cancelled,
            Phase::Lost,
        ];
        for phase in &all {
            let names: &[&str] = if phase.is_final() { &ENDED } else { &LIVE };
            assert!(names.contains(&phase.as_str()), "{phase:?}");
        }
        assert_eq!(all.len(), LIVE.len() + ENDED.len());
    }
}
