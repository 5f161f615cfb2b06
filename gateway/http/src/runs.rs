//! Runs: what runners carry out, and its output.
//!
//! Absent: dispatch, which follows from a started action (the engine).

use std::borrow::Cow;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_gateway_engine as engine;
use countersign_gateway_model::{Digest, InstanceId, Name, PermitId, RunId};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Auth;
use crate::context::note_instance;
use crate::input::{Id, Paging, Params, Wait, param};
use crate::problem::Problem;
use crate::reply;
use crate::state::AppState;
use crate::wire::{Page, Time};

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list_runs)).routes(routes!(get_run)).routes(routes!(get_run_logs))
}

/// A dispatched job.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "id": "run_0192f3a1b2c37d4e8f9a0b1c2d3e4f5a", "instance": "inst_0192f3a1b2c37d4e8f9a0b1c2d3e4f5a",
    "permit": "perm_0192f3a1b2c37d4e8f9a0b1c2d3e4f5a", "attempt": 1, "backend": "process", "phase": "succeeded",
    "outcome": "succeeded", "exit": 0, "sandbox_level": 3, "started": "2026-11-20T09:00:00.000Z",
    "ended": "2026-11-20T09:00:02.000Z"
}))]
pub(crate) struct Run {
    /// Its id.
    #[schema(value_type = String)]
    id: RunId,
    /// The instance.
    #[schema(value_type = String)]
    instance: InstanceId,
    /// The permit that it was started under.
    #[schema(value_type = String)]
    permit: PermitId,
    /// Which try, from 1.
    attempt: u32,
    /// The runner.
    #[schema(value_type = String)]
    backend: Name,
    /// Where it stands, as its runner sees it: `submitting`, `queued`, `pending`, `running`, `succeeded`, `failed`,
    /// `cancelled`, `timed_out`, `lost`. Shown, never authority. More words may come.
    phase: String,
    /// The outcome on record: `succeeded`, `failed`, `cancelled`, `timed_out` or `unknown`.
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    /// Exit code, where there was one; 128 and the number where a signal ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    exit: Option<i32>,
    /// Why it failed or has to wait, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// How strong the sandbox was that was enforced.
    #[serde(skip_serializing_if = "Option::is_none")]
    sandbox_level: Option<u8>,
    /// When it was started.
    #[schema(value_type = String, format = DateTime)]
    started: Time,
    /// When its outcome was committed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    ended: Option<Time>,
    /// Digest of the tree that it left.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    workspace: Option<Digest>,
}

impl From<engine::RunRecord> for Run {
    fn from(record: engine::RunRecord) -> Self {
        Self {
            id: record.run,
            instance: record.instance,
            permit: record.permit,
            attempt: record.attempt,
            backend: record.backend,
            phase: record.phase,
            outcome: record.outcome.map(countersign_gateway_model::Outcome::as_str),
            exit: record.exit,
            reason: record.reason,
            sandbox_level: record.sandbox_level,
            started: record.started.into(),
            ended: record.ended.map(Into::into),
            workspace: record.workspace,
        }
    }
}

/// Which runs to list.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct RunFilter {
    /// Only this instance's.
    instance: Option<String>,
    /// Cursor that the page before gave as `next`.
    after: Option<String>,
    /// How many at most: 1 to 200, usually 50.
    limit: Option<usize>,
}

/// From where to read output.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct LogFrom {
    /// First byte of standard output to read.
    #[serde(default)]
    stdout_from: u64,
    /// First byte of standard error to read.
    #[serde(default)]
    stderr_from: u64,
}

/// A piece of output: bytes, or a gap.
#[derive(Serialize, ToSchema)]
pub(crate) struct LogPiece {
    /// `stdout` or `stderr`.
    #[schema(value_type = String, example = "stdout")]
    stream: &'static str,
    /// Byte offset of the piece in its stream.
    offset: u64,
    /// The bytes, where they are UTF-8 text.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    text: Option<Cow<'static, str>>,
    /// The bytes in base64, where they are not.
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
    /// These bytes are not to be had. With `to`, they end before that offset.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    gap: bool,
    /// First byte behind the gap, where known.
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<u64>,
}

/// Output of a run from a position on.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "items": [{ "stream": "stdout", "offset": 0, "text": "ok 1 - adds\n" }],
    "ended": true, "stdout_next": 12, "stderr_next": 0
}))]
pub(crate) struct Logs {
    /// The pieces, in order.
    items: Vec<LogPiece>,
    /// Nothing will follow.
    ended: bool,
    /// Where to go on in standard output.
    stdout_next: u64,
    /// Where to go on in standard error.
    stderr_next: u64,
}

impl From<engine::LogItem> for LogPiece {
    fn from(item: engine::LogItem) -> Self {
        match item {
            engine::LogItem::Chunk { stream, offset, bytes } => {
                let (text, base64) = match String::from_utf8(bytes) {
                    Ok(text) => (Some(Cow::Owned(text)), None),
                    Err(error) => (None, Some(STANDARD.encode(error.as_bytes()))),
                };
                Self { stream, offset, text, base64, gap: false, to: None }
            }
            engine::LogItem::Gap { stream, from, to } => {
                Self { stream, offset: from, text: None, base64: None, gap: true, to }
            }
        }
    }
}

/// List runs
///
/// Newest first.
#[utoipa::path(
    get, path = "/api/v1/runs", operation_id = "listRuns", tag = "runs",
    params(RunFilter),
    responses((status = 200, description = "A page", body = Page<Run>)),
)]
async fn list_runs(
    State(app): State<AppState>,
    Auth(who): Auth,
    Params(filter): Params<RunFilter>,
) -> Result<Response, Problem> {
    let instance: Option<InstanceId> = param("instance", filter.instance.as_deref())?;
    let page = app.engine.runs(&who, instance, filter.after, Paging::limit(filter.limit)?).await?;
    reply::ok(&Page::of(page, Run::from))
}

/// Read a run
///
/// With `Prefer: wait=N` the answer waits up to N seconds for its outcome.
#[utoipa::path(
    get, path = "/api/v1/runs/{id}", operation_id = "getRun", tag = "runs",
    params(("id" = String, Path, description = "The run")),
    responses((status = 200, description = "The run", body = Run)),
)]
async fn get_run(
    State(app): State<AppState>,
    Auth(who): Auth,
    Id(id): Id<RunId>,
    wait: Wait,
) -> Result<Response, Problem> {
    let mut record = app.engine.run(&who, id).await?;
    note_instance(record.instance);
    let mut kept = false;
    if let (None, Some(time), Ok(_slot)) = (record.outcome, wait.0, app.waits.try_acquire()) {
        kept = true;
        let until = tokio::time::Instant::now() + time;
        // The outcome is an entry of the instance's stream; others may come before it.
        while record.outcome.is_none() {
            let Ok(instance) = app.engine.instance(&who, record.instance).await else { break };
            // Read after the sequence was, so that an entry in between is not missed.
            record = app.engine.run(&who, id).await?;
            if record.outcome.is_some() {
                break;
            }
            let changed = app.engine.changed(&who, record.instance, instance.sequence);
            match tokio::time::timeout_at(until, changed).await {
                Ok(changed) => changed?,
                Err(_) => break,
            }
            record = app.engine.run(&who, id).await?;
        }
    }
    let response = reply::ok(&Run::from(record))?;
    Ok(if kept { reply::waited(response) } else { response })
}

/// Read a run's output
///
/// From a position on; go on with the offsets of the answer. With `Prefer: wait=N` the answer waits up to N seconds
/// where there is nothing yet.
#[utoipa::path(
    get, path = "/api/v1/runs/{id}/logs", operation_id = "getRunLogs", tag = "runs",
    params(("id" = String, Path, description = "The run"), LogFrom),
    responses((status = 200, description = "Output", body = Logs)),
)]
async fn get_run_logs(
    State(app): State<AppState>,
    Auth(who): Auth,
    Id(id): Id<RunId>,
    Params(from): Params<LogFrom>,
    wait: Wait,
) -> Result<Response, Problem> {
    let slot = wait.0.and_then(|time| Some((time, app.waits.try_acquire().ok()?)));
    let time = slot.as_ref().map_or(Duration::ZERO, |(time, _)| *time);
    let page = app.engine.run_logs(&who, id, (from.stdout_from, from.stderr_from), time).await?;
    let response = reply::ok(&Logs {
        items: page.items.into_iter().map(Into::into).collect(),
        ended: page.ended,
        stdout_next: page.next.0,
        stderr_next: page.next.1,
    })?;
    Ok(if slot.is_some() { reply::waited(response) } else { response })
}
