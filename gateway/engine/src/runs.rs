//! Dispatch: a job from a tool and its input, an order from a committed start, and what became of it.
//!
//! The intent is durable before the runner is called. After a restart a run is found by its name and adopted; it is
//! never submitted a second time on a guess. Unreachable is not failed.

use std::sync::Arc;
use std::time::Duration as Span;

use serde_json::json;

use countersign_gateway_flow::rows::{self, TimerKind, TimerRow};
use countersign_gateway_flow::{Actor, Asked, Instance, Proposal, Reply, Report};
use countersign_gateway_model::{Digest, Duration, InstanceId, Name, Outcome, PermitId, Principal, RunId};
use countersign_ledger_entry::body::{Body, Start, StartedBy};
use countersign_ledger_entry::payload;
use countersign_ledger_entry::{Entry, PayloadRole};
use countersign_ledger_log::Appended;
use countersign_policy_decide::{EntityKind, EntityRef, Operation, Record};
use countersign_runners_contract::{
    Exit, Handle, Job, JobSalt, LogCursor, LogItem as RunnerLogItem, Observation, Order, Phase, Runner, RunnerError,
    Scope,
};

use crate::Engine;
use crate::api::{LogItem, LogPage, Page, RunRecord};
use crate::beside::Beside;
use crate::error::EngineError;
use crate::mint::MintExt as _;
use crate::org::{Org, instance_stream};
use crate::permits::PreparedRun;
use crate::stream::{Held, instance_name};

/// Time that a cancelled run is given to end by itself.
const GRACE: Duration = Duration::from_secs(5);

/// How often a runner that does not answer is asked again.
const PATIENCE: Span = Span::from_secs(2);

impl Engine {
    /// Hands every started run of a committed append to its runner.
    pub(crate) async fn dispatch_started(
        &self,
        org: &Arc<Org>,
        instance: InstanceId,
        appended: &Appended,
        runs: Vec<PreparedRun>,
    ) {
        for run in runs {
            let start = appended.entries.iter().find_map(|entry| match &entry.header.body {
                Body::Start(start) if start.permit == run.permit => Some(entry.committed::<Start>()),
                _ => None,
            });
            // Prepared, but what was decided did not start it: nothing is owed to anybody.
            let Some(start) = start else { continue };
            let order = match start {
                Ok(start) => Order::new(org.id, run.job, run.salt, start, self.now()).map_err(|e| e.to_string()),
                Err(error) => Err(error.to_string()),
            };
            match order {
                Ok(order) => self.submit(Arc::clone(org), instance, run.permit, order).await,
                Err(error) => {
                    // A bug of ours: nothing was begun, and that is what is recorded.
                    tracing::error!(%error, run = %run.run, "a committed start makes no order");
                    self.close_start(org, instance, run.permit, Outcome::Failed, &error).await;
                }
            }
        }
    }

    /// Submits an order and watches it. Idempotent by the order's external name.
    async fn submit(&self, org: Arc<Org>, instance: InstanceId, permit: PermitId, order: Order) {
        let Some(runner) = self.by_backend(&order.run().backend) else {
            self.close_start(&org, instance, permit, Outcome::Failed, "no such runner").await;
            return;
        };
        let handle = Handle::of(&order);
        match runner.submit(order).await {
            Ok(handle) => {
                self.watch(Arc::clone(&org), instance, permit, runner, handle);
                self.cancel_if_over(&org, instance, permit).await;
            }
            Err(RunnerError::Unreachable { source, .. }) => {
                // It may have begun. It is looked for by its name until it is found or its time is over.
                tracing::warn!(error = %source, run = %handle.run, "the runner does not answer; the run is looked for");
                self.watch(Arc::clone(&org), instance, permit, runner, handle);
                self.cancel_if_over(&org, instance, permit).await;
            }
            Err(error) => {
                let reason = words(&error);
                tracing::warn!(error = %reason, run = %handle.run, "the runner refused the order");
                self.close_start(&org, instance, permit, Outcome::Failed, &reason).await;
            }
        }
    }

    /// Cancels a run whose instance ended, or was frozen, between its start's commit and its hand-over: whoever
    /// cancelled then found nothing at the runner.
    async fn cancel_if_over(&self, org: &Arc<Org>, instance: InstanceId, permit: PermitId) {
        match self.hold(org, instance).await {
            Ok(held) if is_over(org, &held) => {
                if let Ok(fold) = held.fold() {
                    self.cancel_runs(org, fold, &[permit]);
                }
            }
            Ok(_) => {}
            Err(error) => tracing::error!(%error, %permit, "whether the run may go on is not known"),
        }
    }

    fn by_backend(&self, backend: &Name) -> Option<Arc<dyn Runner>> {
        self.runners().map(|(_, runner)| runner).find(|r| r.backend() == backend).cloned()
    }

    /// Follows a run to its end in a task of its own, then commits its outcome.
    fn watch(&self, org: Arc<Org>, instance: InstanceId, permit: PermitId, runner: Arc<dyn Runner>, handle: Handle) {
        let this = self.clone();
        tokio::spawn(async move {
            let mut ending = this.ending();
            let mut seen = None;
            loop {
                let observation = tokio::select! {
                    // The run goes on without us and is adopted at the next start.
                    _ = ending.wait_for(|ending| *ending) => return,
                    observation = runner.watch(&handle, seen.as_ref()) => observation,
                };
                match observation {
                    Ok(observation) if observation.phase.is_final() => {
                        this.finish(&org, instance, permit, &*runner, &handle, &observation).await;
                        return;
                    }
                    Ok(observation) => seen = Some(observation),
                    Err(RunnerError::NotFound(_)) => {
                        this.close_start(&org, instance, permit, Outcome::Unknown, "the runner does not know it").await;
                        return;
                    }
                    Err(error) => {
                        tracing::warn!(error = %words(&error), run = %handle.run, "the runner does not answer");
                        tokio::time::sleep(PATIENCE).await;
                    }
                }
            }
        });
    }

    /// Collects what a run left, commits its outcome, and only then clears it away.
    async fn finish(
        &self,
        org: &Arc<Org>,
        instance: InstanceId,
        permit: PermitId,
        runner: &dyn Runner,
        handle: &Handle,
        observation: &Observation,
    ) {
        let outcome = observation.phase.outcome().unwrap_or(Outcome::Unknown);
        let log = match tail(runner, handle).await {
            Ok(log) => log,
            Err(error) => {
                tracing::warn!(error = %words(&error), run = %handle.run, "the output cannot be read");
                json!({ "unreadable": words(&error) })
            }
        };
        let artifacts = match runner.collect(handle).await {
            Ok(manifest) => serde_json::to_value(&manifest).unwrap_or_default(),
            Err(error) => json!({ "unreadable": words(&error) }),
        };
        let output = json!({
            "run": handle.run, "attempt": handle.attempt, "observation": observation,
            "log": log, "artifacts": artifacts,
        });
        let level = observation.evidence.isolation.strip_prefix('L').and_then(|l| l.parse().ok());
        let report = (outcome, observation.workspace, level);
        let mut ending = self.ending();
        while let Err(error) = self.record_outcome(org, instance, permit, report, &output).await {
            tracing::error!(%error, run = %handle.run, "the outcome is not committed yet");
            if matches!(error, EngineError::Illegal(_) | EngineError::NotFound(_)) {
                return;
            }
            // The run's folder is kept: if this process ends first, the next start finds it and commits its outcome.
            tokio::select! {
                _ = ending.wait_for(|ending| *ending) => return,
                () = tokio::time::sleep(PATIENCE) => {}
            }
        }
        // The result is durable. A crash before this leaves an ended run that the next start clears away.
        if let Err(error) = runner.reap(handle).await {
            tracing::warn!(error = %words(&error), run = %handle.run, "the run is not cleared away");
        }
    }

    /// Closes a start that never ran, or of which nothing is known.
    pub(crate) async fn close_start(
        &self,
        org: &Arc<Org>,
        instance: InstanceId,
        permit: PermitId,
        outcome: Outcome,
        reason: &str,
    ) {
        let output = json!({ "reason": reason });
        let Err(error) = self.record_outcome(org, instance, permit, (outcome, None, None), &output).await else {
            return;
        };
        tracing::error!(%error, %permit, "the outcome is not committed yet");
        if matches!(error, EngineError::Illegal(_) | EngineError::NotFound(_)) {
            return;
        }
        // The caller does not wait: what is left open when this process ends is closed by the next start.
        let (this, org) = (self.clone(), Arc::clone(org));
        tokio::spawn(async move {
            let mut ending = this.ending();
            loop {
                tokio::select! {
                    _ = ending.wait_for(|ending| *ending) => return,
                    () = tokio::time::sleep(PATIENCE) => {}
                }
                match this.record_outcome(&org, instance, permit, (outcome, None, None), &output).await {
                    Ok(_) | Err(EngineError::Illegal(_) | EngineError::NotFound(_)) => return,
                    Err(error) => tracing::error!(%error, %permit, "the outcome is not committed yet"),
                }
            }
        });
    }

    async fn record_outcome(
        &self,
        org: &Arc<Org>,
        instance: InstanceId,
        permit: PermitId,
        (outcome, workspace, sandbox_level): (Outcome, Option<Digest>, Option<u8>),
        output: &serde_json::Value,
    ) -> Result<Reply, EngineError> {
        let (this, org) = (self.clone(), Arc::clone(org));
        let content = serde_json::to_vec(output).map_err(EngineError::damaged)?;
        Self::whole(async move {
            let mut held = this.hold(&org, instance).await?;
            let mut beside = Beside::default();
            let salt = this.mint().salt();
            let digest = payload::salted(payload::OUTPUT, &salt, &content);
            let mut asked = Asked::nothing();
            asked.payloads.push(beside.payload(PayloadRole::Output, payload::seal(&salt, &content)));
            let proposal = Proposal::Outcome(Box::new(Report {
                permit,
                outcome,
                output: Some(digest),
                workspace,
                sandbox_level,
                asked,
            }));
            let (reply, _) = this.commit_outcome(&org, &mut held, proposal, Actor::SYSTEM, beside).await?;
            if matches!(reply, Reply::Recorded { .. }) && workspace.is_some() {
                held.live.workspace = workspace;
            }
            Ok(reply)
        })
        .await
    }

    /// Cancels the runs behind these permits.
    pub(crate) fn cancel_runs(&self, org: &Arc<Org>, fold: &Instance, permits: &[PermitId]) {
        for permit in permits {
            let Some(run) = fold.open_start(*permit).and_then(|start| start.run.as_ref()) else { continue };
            let Some(runner) = self.by_backend(&run.backend) else { continue };
            let handle = Handle {
                org: org.id,
                run: run.run,
                attempt: run.attempt,
                backend: run.backend.clone(),
                external_name: run.external_name.clone(),
                fence: run.fence,
            };
            tokio::spawn(async move {
                if let Err(error) = runner.cancel(&handle, GRACE).await {
                    tracing::warn!(error = %words(&error), run = %handle.run, "the run is not cancelled");
                }
            });
        }
    }

    /// Cancels what runs under a freeze.
    pub(crate) async fn cancel_frozen(&self, org: &Arc<Org>) {
        for (id, _) in org.cells() {
            let Ok(held) = self.hold(org, id).await else { continue };
            if !org.is_frozen(held.live.team.as_ref()) {
                continue;
            }
            if let Ok(fold) = held.fold() {
                let permits: Vec<PermitId> = fold.open_starts().map(|(permit, _)| permit).collect();
                self.cancel_runs(org, fold, &permits);
            }
        }
    }

    /// After a start of the gateway: every open start that a runner has is followed again; one that no runner has is
    /// submitted if it can have been lost before it was handed over, else it is closed as `unknown`.
    ///
    /// # Errors
    /// [`EngineError::Runner`] if a runner cannot say what it has: then nothing is assumed.
    pub async fn adopt(&self) -> Result<usize, EngineError> {
        let mut adopted = 0;
        for (_, runner) in self.runners() {
            let owned = runner.list_owned(Scope::All).await.map_err(|e| EngineError::Runner(Box::new(e)))?;
            for org in self.orgs() {
                adopted += self.adopt_org(&org, runner, &owned).await?;
            }
        }
        Ok(adopted)
    }

    async fn adopt_org(
        &self,
        org: &Arc<Org>,
        runner: &Arc<dyn Runner>,
        owned: &[Handle],
    ) -> Result<usize, EngineError> {
        for handle in owned.iter().filter(|h| h.org == org.id) {
            // Ended and on record: what is left of it at the runner is no longer needed.
            if let Ok((_, row)) = self.run_row(org, handle.run).await
                && row.outcome.is_some()
                && let Err(error) = runner.reap(handle).await
            {
                tracing::warn!(error = %words(&error), run = %handle.run, "an ended run is not cleared away");
            }
        }
        let (mut adopted, mut after) = (0, None);
        loop {
            // Each open start has a timer, and only open ones do.
            let page =
                org.log.scan(rows::TIMERS, b"", after.as_deref(), 200, false).await.map_err(EngineError::ledger)?;
            let whole = page.len() == 200;
            for row in page {
                let (_, id) = rows::timer_of(&row.key).ok_or_else(|| EngineError::damaged("a timer's key"))?;
                after = Some(row.key);
                let timer: TimerRow = serde_json::from_slice(&row.columns).map_err(EngineError::damaged)?;
                if timer.kind != TimerKind::Start {
                    continue;
                }
                let permit = PermitId::from_bytes(id);
                let held = self.hold(org, timer.instance).await?;
                let run = held.fold()?.open_start(permit).and_then(|start| start.run.clone());
                let over = is_over(org, &held);
                drop(held);
                let Some(run) = run.filter(|run| run.backend == *runner.backend()) else { continue };
                adopted += 1;
                match owned.iter().find(|h| h.external_name == run.external_name) {
                    Some(handle) => {
                        self.watch(Arc::clone(org), timer.instance, permit, Arc::clone(runner), handle.clone());
                        if over {
                            self.cancel_if_over(org, timer.instance, permit).await;
                        }
                    }
                    None if over => {
                        let reason = "the instance ended, or was frozen, before the order was handed over";
                        self.close_start(org, timer.instance, permit, Outcome::Cancelled, reason).await;
                    }
                    None => self.resubmit(org, timer.instance, permit, (run.run, run.attempt), run.fence).await?,
                }
            }
            if !whole {
                return Ok(adopted);
            }
        }
    }

    /// A durable start that its runner never got: the crash was between the commit and the hand-over.
    async fn resubmit(
        &self,
        org: &Arc<Org>,
        instance: InstanceId,
        permit: PermitId,
        (run, attempt): (RunId, u32),
        fence: u64,
    ) -> Result<(), EngineError> {
        match self.order_again(org, instance, permit, fence).await {
            Ok(Some(order)) => self.submit(Arc::clone(org), instance, permit, order).await,
            Ok(None) => {
                let reason = "the gateway ended before the order was handed over, and its time is over";
                self.close_start(org, instance, permit, Outcome::Unknown, reason).await;
            }
            Err(error) => {
                tracing::error!(%error, %run, attempt, "the order cannot be built again");
                self.close_start(org, instance, permit, Outcome::Unknown, &error.to_string()).await;
            }
        }
        Ok(())
    }

    async fn order_again(
        &self,
        org: &Arc<Org>,
        instance: InstanceId,
        permit: PermitId,
        fence: u64,
    ) -> Result<Option<Order>, EngineError> {
        let stream = instance_stream(instance);
        // The job's payload stands at the first entry of the append: the permit, or the decision before it.
        let from = fence.saturating_sub(64);
        let stored = org.log.stream_entries(stream, from, 65).await.map_err(EngineError::ledger)?;
        let mut jobs = Vec::new();
        for entry in stored {
            let header = Entry::parse(&entry.leaf)?.header;
            for reference in header.payloads.iter().filter(|p| p.role == PayloadRole::Job) {
                let held = self.salted_payload(org, entry.index, &reference.digest).await?;
                let Some((salt, bytes)) = held else { continue };
                let job = Job::from_canonical(&bytes).map_err(EngineError::damaged)?;
                jobs.push((JobSalt::from_bytes(salt.0), job));
            }
            let Body::Start(start) = &header.body else { continue };
            let StartedBy::Run(run) = &start.by else { continue };
            if start.permit != permit {
                continue;
            }
            // A batch has several jobs before its first start: the start says which one is its own.
            let own = jobs.into_iter().find(|(salt, job)| job.digest(salt) == run.job);
            let Some((salt, job)) = own else { return Ok(None) };
            if self.now() > start.not_after {
                return Ok(None);
            }
            let checkpoint = org.log.checkpoint();
            let proof = org.log.proof(entry.index, checkpoint.checkpoint().size).await.map_err(EngineError::ledger)?;
            let receipt = self.receipt_from(entry.index, &entry.leaf, proof, checkpoint);
            let start = countersign_ledger_entry::Committed::<Start>::check(entry.leaf.into(), receipt)?;
            return Order::new(org.id, job, salt, start, self.now()).map(Some).map_err(EngineError::damaged);
        }
        Ok(None)
    }

    /// Runs, newest first.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] for those who may not list them.
    pub async fn runs(
        &self,
        who: &Principal,
        instance: Option<InstanceId>,
        after: Option<String>,
        limit: usize,
    ) -> Result<Page<RunRecord>, EngineError> {
        let org = self.org(who.org)?;
        self.may_read(&org, who, Operation::ListRuns, EntityRef::organization(org.id), "run list")?;
        let (rows, next) = self.run_rows(&org, after.as_deref(), limit).await?;
        let mut items = Vec::new();
        for (run, attempt, row) in rows {
            if instance.is_none_or(|i| i == row.instance) {
                items.push(self.run_record(&org, run, attempt, &row).await);
            }
        }
        Ok(Page { items, next })
    }

    /// A run.
    ///
    /// # Errors
    /// [`EngineError::NotFound`].
    pub async fn run(&self, who: &Principal, run: RunId) -> Result<RunRecord, EngineError> {
        let org = self.org(who.org)?;
        let (attempt, row) = self.run_row(&org, run).await?;
        self.may_read_run(&org, who, run, row.instance).await?;
        Ok(self.run_record(&org, run, attempt, &row).await)
    }

    async fn may_read_run(
        &self,
        org: &Arc<Org>,
        who: &Principal,
        run: RunId,
        instance: InstanceId,
    ) -> Result<(), EngineError> {
        let held = self.hold(org, instance).await?;
        if held.fold()?.is_insider(who.pseudonym) {
            return Ok(());
        }
        let id = Name::new(&run.to_string()).map_err(EngineError::damaged)?;
        let entity = EntityRef::new(org.id, EntityKind::Run, id.clone());
        let record = Record::run(org.id, id, instance_name(instance)?, self.now());
        org.entities.put(record).map_err(EngineError::damaged)?;
        // Under the stream's lock: nobody else is asking about this run.
        let may = self.may_read(org, who, Operation::ReadRun, entity.clone(), "run");
        org.entities.forget(&entity);
        may
    }

    async fn run_record(
        &self,
        org: &Arc<Org>,
        run: RunId,
        attempt: u32,
        row: &countersign_gateway_flow::rows::RunRow,
    ) -> RunRecord {
        let mut record = RunRecord {
            run,
            instance: row.instance,
            attempt,
            permit: row.permit,
            backend: row.backend.clone(),
            phase: "submitting".to_owned(),
            outcome: row.outcome.as_ref().map(|o| o.outcome),
            exit: None,
            reason: None,
            sandbox_level: row.outcome.as_ref().and_then(|o| o.sandbox_level),
            started: row.started,
            ended: row.outcome.as_ref().map(|o| o.at),
            workspace: row.outcome.as_ref().and_then(|o| o.workspace),
        };
        let observation = match &row.outcome {
            Some(outcome) => {
                phase_word(outcome.outcome).clone_into(&mut record.phase);
                self.stored_output(org, row.instance, outcome.sequence)
                    .await
                    .and_then(|output| serde_json::from_value::<Observation>(output.get("observation")?.clone()).ok())
            }
            None => match self.by_backend(&row.backend) {
                Some(runner) => runner.observe(&handle_of(org, run, attempt, row)).await.ok(),
                None => None,
            },
        };
        if let Some(observation) = observation {
            observation.phase.as_str().clone_into(&mut record.phase);
            record.exit = observation.exit.map(|exit| match exit {
                Exit::Code(code) => code,
                Exit::Signal(signal) => 128 + signal,
            });
            record.reason = match observation.phase {
                Phase::Failed { reason, .. } | Phase::Pending { reason } => Some(reason),
                _ => None,
            };
        }
        record
    }

    async fn stored_output(&self, org: &Org, instance: InstanceId, sequence: u64) -> Option<serde_json::Value> {
        let stored = org.log.stream_entries(instance_stream(instance), sequence, 1).await.ok()?.into_iter().next()?;
        let header = Entry::parse(&stored.leaf).ok()?.header;
        let reference = header.payloads.iter().find(|p| p.role == PayloadRole::Output)?;
        let content = self.payload(org, stored.index, &reference.digest).await.ok()??;
        serde_json::from_slice(&content).ok()
    }

    /// Output of a run from a position on; waits up to `wait` for more where there is none yet.
    ///
    /// # Errors
    /// [`EngineError::NotFound`].
    pub async fn run_logs(
        &self,
        who: &Principal,
        run: RunId,
        from: (u64, u64),
        wait: Span,
    ) -> Result<LogPage, EngineError> {
        let org = self.org(who.org)?;
        let until = tokio::time::Instant::now() + wait;
        loop {
            let (attempt, row) = self.run_row(&org, run).await?;
            self.may_read_run(&org, who, run, row.instance).await?;
            let page = match &row.outcome {
                Some(outcome) => {
                    let output = self.stored_output(&org, row.instance, outcome.sequence).await;
                    stored_log(output.as_ref(), from)
                }
                None => match self.by_backend(&row.backend) {
                    Some(runner) => live_log(&*runner, &handle_of(&org, run, attempt, &row), from).await,
                    None => LogPage { items: Vec::new(), ended: false, next: from },
                },
            };
            if page.ended || !page.items.is_empty() || tokio::time::Instant::now() >= until {
                return Ok(page);
            }
            tokio::time::sleep(Span::from_millis(50)).await;
        }
    }
}

/// Nothing of this instance may run now: it ended, or it is frozen.
fn is_over(org: &Org, held: &Held) -> bool {
    held.fold().is_ok_and(|fold| fold.state().is_terminal()) || org.is_frozen(held.live.team.as_ref())
}

fn handle_of(org: &Org, run: RunId, attempt: u32, row: &countersign_gateway_flow::rows::RunRow) -> Handle {
    Handle {
        org: org.id,
        run,
        attempt,
        backend: row.backend.clone(),
        external_name: row.external_name.clone(),
        fence: row.fence,
    }
}

fn phase_word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Unknown => "lost",
        other => other.as_str(),
    }
}

/// An error with its causes, in one line.
pub(crate) fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// Most bytes of output that are kept with the outcome; what is before them is said to be missing.
const KEPT_OUTPUT: usize = 256 * 1024;

/// The output of an ended run as it is kept: pieces in order, at most the last [`KEPT_OUTPUT`] bytes.
async fn tail(runner: &dyn Runner, handle: &Handle) -> Result<serde_json::Value, RunnerError> {
    use base64::Engine as _;
    let mut cursor = LogCursor::default();
    let mut pieces = std::collections::VecDeque::new();
    let (mut held, mut cut, mut ends) = (0, 0_u64, json!(null));
    loop {
        let read = runner.logs(handle, cursor).await?;
        let ended = read.ended();
        let nothing = read.items.is_empty();
        for item in read.items {
            match item {
                RunnerLogItem::Chunk { stream, offset, bytes, .. } => {
                    held += bytes.len();
                    let text = base64::engine::general_purpose::STANDARD.encode(&bytes);
                    pieces.push_back((bytes.len(), json!({ "stream": stream, "offset": offset, "bytes": text })));
                }
                RunnerLogItem::Gap { stream, from, to, reason } => {
                    pieces.push_back((
                        0,
                        json!({ "stream": stream, "gap": { "from": from, "to": to, "reason": reason } }),
                    ));
                }
                RunnerLogItem::Eof { stdout, stderr } => ends = json!({ "stdout": stdout, "stderr": stderr }),
            }
            while held > KEPT_OUTPUT {
                let Some((length, _)) = pieces.pop_front() else { break };
                held -= length;
                cut += u64::try_from(length).unwrap_or(u64::MAX);
            }
        }
        if ended || (nothing && read.next == cursor) {
            break;
        }
        cursor = read.next;
    }
    let pieces: Vec<serde_json::Value> = pieces.into_iter().map(|(_, piece)| piece).collect();
    Ok(json!({ "pieces": pieces, "cut": cut, "ends": ends }))
}

async fn live_log(runner: &dyn Runner, handle: &Handle, from: (u64, u64)) -> LogPage {
    let cursor = LogCursor { stdout: from.0, stderr: from.1 };
    let Ok(read) = runner.logs(handle, cursor).await else {
        return LogPage { items: Vec::new(), ended: false, next: from };
    };
    let next = (read.next.stdout, read.next.stderr);
    let items = read
        .items
        .into_iter()
        .filter_map(|item| match item {
            RunnerLogItem::Chunk { stream, offset, bytes, .. } => {
                Some(LogItem::Chunk { stream: stream.as_str(), offset, bytes })
            }
            RunnerLogItem::Gap { stream, from, to, .. } => {
                Some(LogItem::Gap { stream: stream.map_or("unknown", |s| s.as_str()), from, to })
            }
            RunnerLogItem::Eof { .. } => None,
        })
        .collect();
    // The end is told from the outcome's entry, so that it is never told before that is durable.
    LogPage { items, ended: false, next }
}

fn stored_log(output: Option<&serde_json::Value>, from: (u64, u64)) -> LogPage {
    use base64::Engine as _;
    let pieces = output.and_then(|o| o.pointer("/log/pieces")).and_then(serde_json::Value::as_array);
    let mut next = from;
    let mut items = Vec::new();
    for piece in pieces.into_iter().flatten() {
        let stderr = piece.get("stream").and_then(serde_json::Value::as_str) == Some("stderr");
        let stream = if stderr { "stderr" } else { "stdout" };
        let at = if stderr { &mut next.1 } else { &mut next.0 };
        let offset = piece.get("offset").and_then(serde_json::Value::as_u64);
        let bytes = piece
            .get("bytes")
            .and_then(serde_json::Value::as_str)
            .and_then(|text| base64::engine::general_purpose::STANDARD.decode(text).ok());
        let (Some(offset), Some(bytes)) = (offset, bytes) else { continue };
        let end = offset + u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if end <= *at {
            continue;
        }
        if offset > *at {
            items.push(LogItem::Gap { stream, from: *at, to: Some(offset) });
            *at = offset;
        }
        let skip = usize::try_from(*at - offset).unwrap_or(usize::MAX);
        items.push(LogItem::Chunk { stream, offset: *at, bytes: bytes.into_iter().skip(skip).collect() });
        *at = end;
    }
    LogPage { items, ended: true, next }
}
