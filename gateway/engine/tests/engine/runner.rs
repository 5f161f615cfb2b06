//! A runner that carries nothing out: it keeps orders, and moves when a test says so.
//!
//! It fills the contract's door honestly (orders are kept by their name, a run ends once), but no real one can be held
//! between the commit of a start and its hand-over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use countersign_gateway_model::{Duration, Name, PermitId};
use countersign_ledger_entry::body::Start;
use countersign_runners_contract::{
    Artifact, Capabilities, Delivery, Evidence, Exit, Fingerprint, Handle, Health, LogCursor, LogRead, LogResume,
    Manifest, NetworkMode, Observation, Order, Phase, Runner, RunnerError, Scope, Times, TreePath,
};
use tokio::sync::watch;

/// What the runner does with the next orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Takes them and lets them run until they are told to end.
    Accept,
    /// Answers nobody: the order is on its way and does not arrive.
    Hold,
    /// Takes none.
    Refuse,
    /// Takes them, and ends none however it is asked.
    Deaf,
}

/// What was asked of the runner, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// An order came, whether or not it was taken.
    Order(Name),
    /// A run was to be cancelled, whether or not it was there.
    Cancel(Name),
}

struct Run {
    handle: Handle,
    phase: Phase,
    permit: PermitId,
    inputs: BTreeMap<TreePath, Vec<u8>>,
}

#[derive(Default)]
struct State {
    runs: BTreeMap<Name, Run>,
    asked: Vec<Asked>,
    reaped: BTreeSet<Name>,
}

/// What a refusal does before it is given.
type BeforeRefusal = Box<dyn Fn() + Send + Sync>;

/// The runner.
pub(crate) struct HeldRunner {
    backend: Name,
    state: Mutex<State>,
    mode: watch::Sender<Mode>,
    moved: watch::Sender<u64>,
    before_refusal: Mutex<Option<BeforeRefusal>>,
}

impl HeldRunner {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            backend: Name::new("process").unwrap(),
            state: Mutex::default(),
            mode: watch::Sender::new(Mode::Accept),
            moved: watch::Sender::new(0),
            before_refusal: Mutex::default(),
        })
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// What happens on this machine right before an order is refused.
    pub(crate) fn before_refusal(&self, work: impl Fn() + Send + Sync + 'static) {
        *self.before_refusal.lock().unwrap() = Some(Box::new(work));
    }

    /// Waits until the runner was asked for what `wanted` looks for.
    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&[Asked]) -> bool) {
        let mut moved = self.moved.subscribe();
        let seen = async {
            loop {
                if wanted(&self.state.lock().unwrap().asked) {
                    return;
                }
                moved.changed().await.unwrap();
            }
        };
        let waited = tokio::time::timeout(std::time::Duration::from_secs(20), seen).await;
        assert!(waited.is_ok(), "the runner never saw: {what}; it saw {:?}", self.state.lock().unwrap().asked);
    }

    /// Everything that was asked of it so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.state.lock().unwrap().asked.clone()
    }

    /// The input file of the run that was started under a permit.
    pub(crate) fn input_of(&self, permit: PermitId, file: &str) -> Option<String> {
        let state = self.state.lock().unwrap();
        let run = state.runs.values().find(|run| run.permit == permit)?;
        let bytes = run.inputs.get(&TreePath::new(file).unwrap())?;
        Some(String::from_utf8(bytes.clone()).unwrap())
    }

    /// Ends every run.
    pub(crate) fn end_all(&self, phase: &Phase) {
        for run in self.state.lock().unwrap().runs.values_mut().filter(|run| !run.phase.is_final()) {
            run.phase = phase.clone();
        }
        self.moved();
    }

    /// Forgets every run, as a machine does whose disk is gone.
    pub(crate) fn forget_all(&self) {
        self.state.lock().unwrap().runs.clear();
        self.moved();
    }

    fn moved(&self) {
        self.moved.send_modify(|n| *n += 1);
    }

    fn note(&self, asked: Asked) {
        self.state.lock().unwrap().asked.push(asked);
        self.moved();
    }
}

#[async_trait]
impl Runner for HeldRunner {
    fn backend(&self) -> &Name {
        &self.backend
    }

    async fn probe(&self) -> Result<Fingerprint, RunnerError> {
        Ok(Fingerprint {
            backend: self.backend.clone(),
            health: Health::Ready,
            capabilities: Capabilities {
                delivery: Delivery::AtMostOnce,
                isolation: Evidence::default(),
                networks: BTreeSet::from([NetworkMode::None]),
                features: BTreeSet::new(),
                log_resume: LogResume::Bytes,
                max_wall: None,
            },
            facts: BTreeMap::new(),
        })
    }

    async fn submit(&self, order: Order) -> Result<Handle, RunnerError> {
        let handle = Handle::of(&order);
        self.note(Asked::Order(handle.external_name.clone()));
        let mut mode = self.mode.subscribe();
        let mode = *mode.wait_for(|mode| *mode != Mode::Hold).await.unwrap();
        if mode == Mode::Refuse {
            if let Some(work) = &*self.before_refusal.lock().unwrap() {
                work();
            }
            let why = "it takes nothing in this test".to_owned();
            return Err(RunnerError::Unsupported { backend: self.backend.clone(), why });
        }
        let start: &Start = order.start().fact();
        let inputs = order.job().spec().inputs.iter().map(|(path, input)| (path.clone(), input.bytes.clone()));
        let run = Run { handle: handle.clone(), phase: Phase::Running, permit: start.permit, inputs: inputs.collect() };
        self.state.lock().unwrap().runs.entry(handle.external_name.clone()).or_insert(run);
        self.moved();
        Ok(handle)
    }

    async fn observe(&self, handle: &Handle) -> Result<Observation, RunnerError> {
        let state = self.state.lock().unwrap();
        let name = &handle.external_name;
        let run = state.runs.get(name).ok_or_else(|| RunnerError::NotFound(name.clone()))?;
        Ok(Observation {
            phase: run.phase.clone(),
            never_started: false,
            exit: (run.phase == Phase::Succeeded).then_some(Exit::Code(0)),
            oom: false,
            times: Times::default(),
            evidence: Evidence { isolation: "L0".to_owned(), ..Evidence::default() },
            workspace: None,
            fence: run.handle.fence,
        })
    }

    async fn logs(&self, handle: &Handle, cursor: LogCursor) -> Result<LogRead, RunnerError> {
        self.observe(handle).await?;
        Ok(LogRead { items: Vec::new(), next: cursor })
    }

    async fn cancel(&self, handle: &Handle, _grace: Duration) -> Result<(), RunnerError> {
        let deaf = *self.mode.borrow() == Mode::Deaf;
        if let Some(run) = self.state.lock().unwrap().runs.get_mut(&handle.external_name)
            && !run.phase.is_final()
            && !deaf
        {
            run.phase = Phase::Cancelled;
        }
        self.note(Asked::Cancel(handle.external_name.clone()));
        Ok(())
    }

    async fn collect(&self, handle: &Handle) -> Result<Manifest, RunnerError> {
        self.observe(handle).await?;
        Ok(Manifest { files: Vec::new(), refused: Vec::new() })
    }

    async fn fetch(&self, handle: &Handle, _: &Artifact, _: u64, _: usize) -> Result<Vec<u8>, RunnerError> {
        Err(RunnerError::NotFound(handle.external_name.clone()))
    }

    async fn reap(&self, handle: &Handle) -> Result<(), RunnerError> {
        let mut state = self.state.lock().unwrap();
        state.runs.remove(&handle.external_name);
        state.reaped.insert(handle.external_name.clone());
        Ok(())
    }

    async fn list_owned(&self, _: Scope) -> Result<Vec<Handle>, RunnerError> {
        Ok(self.state.lock().unwrap().runs.values().map(|run| run.handle.clone()).collect())
    }
}
