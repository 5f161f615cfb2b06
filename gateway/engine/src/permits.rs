//! Terms of a permit; for a dispatch with the job of its run. What a permit can still do.
//!
//! Absent: handing a run over, which needs the committed start: `runs`.

use std::collections::BTreeMap;

use countersign_gateway_flow::{Instance, PermitTerms, RunTerms, StartTerms};
use countersign_gateway_model::{Digest, Duration, Name, PermitId, RunId, Timestamp};
use countersign_ledger_entry::body::{Created, Reservation};
use countersign_ledger_entry::payload;
use countersign_ledger_entry::{PayloadRef, PayloadRole};
use countersign_policy_decide::PolicySnapshot;
use countersign_policy_decide::catalogue::{CompiledTool, ToolRunner};
use countersign_runners_contract::{Input, Job, JobSalt, JobSpec, NetworkMode, TreePath, external_name};

use crate::Engine;
use crate::beside::Beside;
use crate::error::EngineError;
use crate::mint::MintExt as _;
use crate::stream::Held;

/// A run whose permit is about to be committed.
pub(crate) struct PreparedRun {
    pub(crate) run: RunId,
    pub(crate) backend: Name,
    pub(crate) external_name: Name,
    /// Salted digest of the job.
    pub(crate) digest: Digest,
    /// The job's payload.
    pub(crate) reference: PayloadRef,
    pub(crate) permit: PermitId,
    pub(crate) job: Job,
    pub(crate) salt: JobSalt,
}

impl Engine {
    /// Terms of a permit; for a dispatch with its run, whose job becomes a payload.
    pub(crate) fn permit_terms(
        &self,
        tool: Option<&CompiledTool>,
        input: &[u8],
        held: &Held,
        (begin, enforced, reservations): (bool, bool, Vec<Reservation>),
        now: Timestamp,
        beside: &mut Beside,
    ) -> Result<(PermitTerms, Option<PreparedRun>), EngineError> {
        let permit = self.mint().permit();
        let expires = now + self.options().permit_ttl;
        let runner = tool.and_then(|t| t.tool.runner.as_ref().map(|r| (t, r)));
        let mut run = None;
        let start = match runner {
            Some((tool, runner)) => {
                let prepared = self.prepare_run((tool, runner), input, held, (permit, enforced), beside)?;
                let terms = StartTerms {
                    // Long enough to reach the runner; the run's own length is bounded by its job.
                    not_after: expires,
                    run: Some(RunTerms {
                        run: prepared.run,
                        attempt: 1,
                        backend: prepared.backend.clone(),
                        external_name: prepared.external_name.clone(),
                        job: prepared.digest,
                    }),
                };
                run = Some(prepared);
                Some(terms)
            }
            None if begin => Some(StartTerms { not_after: expires, run: None }),
            None => None,
        };
        Ok((PermitTerms { permit, expires, reservations, begin: start }, run))
    }

    /// Builds the job of a dispatch. The command is the registrar's; the input reaches it as read-only files.
    pub(crate) fn prepare_run(
        &self,
        (tool, runner): (&CompiledTool, &ToolRunner),
        input: &[u8],
        held: &Held,
        (permit, enforced): (PermitId, bool),
        beside: &mut Beside,
    ) -> Result<PreparedRun, EngineError> {
        let kind = runner.kind.as_str();
        let backend = self.runner(kind)?.backend().clone();
        let mut spec = JobSpec::command(runner.command.iter().cloned());
        spec.workspace = held.live.workspace;
        spec.network = NetworkMode::None;
        let longest = self.options().run_deadline;
        spec.resources.wall = runner.deadline_s.map_or(longest, |s| Duration::from_secs(s).min(longest));
        spec.inputs = inputs(input)?;
        spec.secrets.clone_from(&runner.secrets);
        spec.enforced = enforced;
        let job = Job::new(spec).map_err(EngineError::damaged)?;
        let salt = self.mint().salt();
        let job_salt = JobSalt::from_bytes(salt.0);
        let digest = job.digest(&job_salt);
        let reference = beside.payload(PayloadRole::Job, payload::seal(&salt, job.canonical()));
        let run = self.mint().run();
        let external_name = external_name(run, 1).map_err(EngineError::damaged)?;
        tracing::debug!(%run, tool = %tool.tool.name, "job prepared");
        Ok(PreparedRun { run, backend, external_name, digest, reference, permit, job, salt: job_salt })
    }

    /// How long after its permit an action can still be started.
    pub(crate) fn permit_ttl(&self) -> Duration {
        self.options().permit_ttl
    }
}

/// Whether policy is judged and not enforced for an instance now: it began in shadow, and the shadow has not ended.
///
/// One that began before its workflow was put in shadow goes on being held to policy.
pub(crate) fn in_shadow(snapshot: &PolicySnapshot, created: &Created, now: Timestamp) -> bool {
    !created.enforced && snapshot.workflow_in_shadow(&created.workflow, now)
}

/// Whether what a permit is for may become something else before it is carried out: its tool says so, or nobody named a
/// revision that the permit could be bound to.
pub(crate) fn may_change(tool: &CompiledTool, revision: Option<&str>) -> bool {
    tool.tool.mutable_target || revision.is_none()
}

/// The fold of an instance says what has become of an action's permit.
pub(crate) fn permit_status(fold: &Instance, permit: PermitId, now: Timestamp) -> Option<&'static str> {
    if let Some(live) = fold.live_permit(permit) {
        return Some(if fold.state().is_terminal() {
            "voided"
        } else if live.expires < now {
            "lapsed"
        } else {
            "permitted"
        });
    }
    if fold.open_start(permit).is_some() {
        return Some("started");
    }
    fold.unknown_start(permit).map(|_| "unknown")
}

/// The input as files: `input.json`, and each top-level string, number and boolean under its own name.
fn inputs(input: &[u8]) -> Result<BTreeMap<TreePath, Input>, EngineError> {
    let mut files = BTreeMap::new();
    let mut put = |name: &str, bytes: Vec<u8>| {
        if let Ok(path) = TreePath::new(name) {
            files.insert(path, Input { bytes, executable: false });
        }
    };
    put("input.json", input.to_vec());
    let value: serde_json::Value = serde_json::from_slice(input).map_err(EngineError::damaged)?;
    for (key, value) in value.as_object().into_iter().flatten() {
        let plain = Name::new(key).is_ok() && !key.contains(['/', '.', ':']);
        match value {
            serde_json::Value::String(text) if plain => put(key, text.clone().into_bytes()),
            serde_json::Value::Number(number) if plain => put(key, number.to_string().into_bytes()),
            serde_json::Value::Bool(flag) if plain => put(key, flag.to_string().into_bytes()),
            _ => {}
        }
    }
    Ok(files)
}
