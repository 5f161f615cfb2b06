//! Instances: create, start, read, list, complete, terminate.
//!
//! Absent: what happens inside one (`actions`, `gates`, `runs`).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use countersign_gateway_engine as engine;
use countersign_gateway_engine::OnDeny;
use countersign_gateway_model::{Digest, InstanceId, Name, PermitId, Principal, PrincipalKind};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Auth;
use crate::context::note_instance;
use crate::input::{Id, Input, Paging, Params, Wait, param};
use crate::problem::{PARAMETER_INVALID, Problem};
use crate::reply;
use crate::reviews::LiftedRule;
use crate::state::AppState;
use crate::wire::{GateLink, Page, Receipt, Time, gate_path};

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(create_instance, list_instances))
        .routes(routes!(get_instance))
        .routes(routes!(start_instance))
        .routes(routes!(complete_instance))
        .routes(routes!(terminate_instance))
}

/// A new instance of a workflow.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "workflow": "fix-tests", "agent": "fixer", "labels": { "ticket": "OPS-12" } }))]
pub(crate) struct NewInstance {
    /// The workflow.
    #[schema(value_type = String)]
    workflow: Name,
    /// The agent that will act; absent: the caller.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    agent: Option<Name>,
    /// Id of the person answerable for it; absent: the initiator or the agent's owner. It confers no permission.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    accountable: Option<Name>,
    /// Digest of the uploaded tree that its first run starts from.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    workspace: Option<Digest>,
    /// Words of the caller's own; at most 16. Policy never reads them.
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// Seconds until the gateway terminates it.
    #[serde(default)]
    deadline_s: Option<u64>,
    /// What a denied action does: `refuse` it, or `terminate` the instance. The workflow's stricter word stands.
    #[serde(default = "refuse")]
    #[schema(value_type = String, example = "refuse", default = "refuse")]
    on_deny: OnDeny,
    /// Start at once; else it rests in `CREATED`.
    #[serde(default = "yes")]
    #[schema(default = true)]
    start: bool,
}

fn refuse() -> OnDeny {
    OnDeny::Refuse
}

fn yes() -> bool {
    true
}

/// A governed execution.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "id": "inst_0192f3a1b2c37d4e8f9a0b1c2d3e4f5a", "workflow": "fix-tests",
    "workflow_version": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", "state": "RUNNING",
    "initiator": "person/ada", "accountable": "person/ada", "owner": "person/ada", "acting": "agent/fixer",
    "created": "2026-11-20T09:00:00.000Z", "updated": "2026-11-20T09:00:01.000Z", "open_starts": [], "denials": 0,
    "labels": {}, "runnable": true, "reasons": [], "enforced": true, "sequence": 2
}))]
pub(crate) struct Instance {
    /// Its id.
    #[schema(value_type = String)]
    id: InstanceId,
    /// The workflow.
    #[schema(value_type = String)]
    workflow: Name,
    /// Digest of the workflow version.
    #[schema(value_type = String)]
    workflow_version: Digest,
    /// `CREATED`, `RUNNING`, `WAITING_FOR_HUMAN`, `APPROVED`, `REJECTED`, `OVERRIDDEN`, `RESUMED`, `COMPLETED` or
    /// `TERMINATED`. The last two are final.
    state: &'static str,
    /// Who caused it: `person/<id>` or `service/<id>`.
    initiator: String,
    /// The person answerable.
    accountable: String,
    /// Who answers for the acting agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    /// Who acts in it.
    acting: String,
    /// When it came into being.
    #[schema(value_type = String, format = DateTime)]
    created: Time,
    /// When its stream last grew.
    #[schema(value_type = String, format = DateTime)]
    updated: Time,
    /// The open gate.
    #[serde(skip_serializing_if = "Option::is_none")]
    gate: Option<GateLink>,
    /// Permits whose start has no outcome yet.
    #[schema(value_type = Vec<String>)]
    open_starts: Vec<PermitId>,
    /// Denials so far.
    denials: u64,
    /// Digest of the tree that the next run starts from.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    workspace: Option<Digest>,
    /// Words of the caller's own.
    labels: BTreeMap<String, String>,
    /// When the gateway terminates it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    deadline: Option<Time>,
    /// Whether a proposal could be carried out now, as far as readiness goes.
    runnable: bool,
    /// Why not.
    reasons: Vec<String>,
    /// Whether policy is held to in it now. `false`: its workflow is in shadow, and a no that is not firm stops nothing.
    /// Not for agents, whose permits say so.
    #[serde(skip_serializing_if = "Option::is_none")]
    enforced: Option<bool>,
    /// Next sequence of its stream: grows with every entry.
    sequence: u64,
    /// Rules that were lifted in it without their quorum, in order; not in lists, and not for agents.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lifts: Vec<LiftedRule>,
}

impl From<engine::InstanceRecord> for Instance {
    fn from(record: engine::InstanceRecord) -> Self {
        Self {
            id: record.id,
            workflow: record.workflow,
            workflow_version: record.workflow_version,
            state: record.state.as_str(),
            initiator: record.initiator,
            accountable: record.accountable,
            owner: record.owner,
            acting: record.acting,
            created: record.created.into(),
            updated: record.updated.into(),
            gate: record.gate.map(Into::into),
            open_starts: record.open_starts,
            denials: record.denials,
            workspace: record.workspace,
            labels: record.labels,
            deadline: record.deadline.map(Into::into),
            runnable: record.runnable,
            reasons: record.reasons,
            enforced: Some(record.enforced),
            sequence: record.sequence,
            lifts: Vec::new(),
        }
    }
}

impl Instance {
    /// What this reader is told of an instance.
    fn told(who: &Principal, record: engine::InstanceRecord) -> Self {
        let instance = Self::from(record);
        if who.kind == PrincipalKind::Agent { Self { enforced: None, ..instance } } else { instance }
    }
}

/// An instance that was made, with the proof.
#[derive(Serialize, ToSchema)]
pub(crate) struct InstanceCreated {
    instance: Instance,
    /// The gate that its start waits at.
    #[serde(skip_serializing_if = "Option::is_none")]
    gate: Option<GateLink>,
    /// Proof of its last entry.
    receipt: Receipt,
}

/// Where an instance stands after a request to move it.
#[derive(Serialize, ToSchema)]
pub(crate) struct Moved {
    /// Its state: see `Instance`.
    #[schema(value_type = String, example = "COMPLETED")]
    state: Cow<'static, str>,
    /// The gate that it waits at.
    #[serde(skip_serializing_if = "Option::is_none")]
    gate: Option<GateLink>,
    /// It was finished before; nothing was done.
    already: bool,
    /// Proof of its last entry; absent where nothing was done.
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<Receipt>,
}

/// Which instances to list.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct InstanceFilter {
    /// Only those in this state.
    state: Option<String>,
    /// Only those of this workflow.
    workflow: Option<String>,
    /// Cursor that the page before gave as `next`.
    after: Option<String>,
    /// How many at most: 1 to 200, usually 50.
    limit: Option<usize>,
}

/// Create an instance
///
/// Policy is asked whether the caller may start the workflow. Where people must approve the start, the answer is 202
/// and the instance waits at the gate; with `Prefer: wait=N` the answer waits up to N seconds for them.
#[utoipa::path(
    post, path = "/api/v1/instances", operation_id = "createInstance", tag = "instances",
    request_body = NewInstance,
    responses(
        (status = 201, description = "It exists, and runs unless it was to rest", body = InstanceCreated),
        (status = 202, description = "It exists, and waits for people", body = InstanceCreated),
    ),
)]
async fn create_instance(
    State(app): State<AppState>,
    Auth(who): Auth,
    wait: Wait,
    input: Input,
) -> Result<Response, Problem> {
    let body: NewInstance = input.read()?;
    if let Some(workspace) = body.workspace {
        crate::workspaces::kept(&app, &who, workspace).await?;
    }
    let new = engine::NewInstance {
        workflow: body.workflow,
        agent: body.agent,
        accountable: body.accountable,
        workspace: body.workspace,
        labels: body.labels,
        deadline_s: body.deadline_s,
        on_deny: body.on_deny,
        start: body.start,
    };
    let mut answer = app.engine.create_instance(who.clone(), new, input.key).await?;
    let id = answer.instance.id;
    note_instance(id);
    crate::context::note_entry(answer.receipt.index);
    let mut kept = false;
    if let (Some(gate), Some(time)) = (answer.gate, wait.0) {
        kept = true;
        if let Some(record) = until_gate_closes(&app, &who, answer.instance.clone(), gate, time).await? {
            answer.gate = record.gate;
            answer.instance = record;
        }
    }
    let waits = answer.gate.is_some();
    let wire = InstanceCreated {
        gate: answer.gate.map(Into::into),
        instance: Instance::told(&who, answer.instance),
        receipt: answer.receipt.into(),
    };
    let location = format!("/api/v1/instances/{id}");
    let response = if waits {
        reply::waiting(&wire, &location)?
    } else {
        reply::located(reply::json(StatusCode::CREATED, &wire)?, &location)
    };
    Ok(if kept { reply::waited(response) } else { response })
}

/// Waits until the instance has left `gate`; none where the time passed, or as many wait already as may.
pub(crate) async fn until_gate_closes(
    app: &AppState,
    who: &Principal,
    mut record: engine::InstanceRecord,
    gate: countersign_gateway_model::GateId,
    time: Duration,
) -> Result<Option<engine::InstanceRecord>, Problem> {
    let Ok(_slot) = app.waits.try_acquire() else { return Ok(None) };
    let until = tokio::time::Instant::now() + time;
    while record.gate == Some(gate) {
        let changed = app.engine.changed(who, record.id, record.sequence);
        match tokio::time::timeout_at(until, changed).await {
            Ok(changed) => changed?,
            Err(_) => return Ok(None),
        }
        record = app.engine.instance(who, record.id).await?;
    }
    Ok(Some(record))
}

/// List instances
#[utoipa::path(
    get, path = "/api/v1/instances", operation_id = "listInstances", tag = "instances",
    params(InstanceFilter),
    responses((status = 200, description = "A page", body = Page<Instance>)),
)]
async fn list_instances(
    State(app): State<AppState>,
    Auth(who): Auth,
    Params(filter): Params<InstanceFilter>,
) -> Result<Response, Problem> {
    let state = filter.state.as_deref().map(|text| {
        let known = countersign_gateway_model::State::ALL.into_iter().find(|state| state.as_str() == text);
        known.ok_or_else(|| Problem::new(PARAMETER_INVALID, "`state` is not a state: see the `Instance` schema"))
    });
    let query = engine::InstanceQuery {
        state: state.transpose()?,
        workflow: param("workflow", filter.workflow.as_deref())?,
        after: filter.after,
        limit: Paging::limit(filter.limit)?,
    };
    reply::ok(&Page::of(app.engine.instances(&who, query).await?, |record| Instance::told(&who, record)))
}

/// Read an instance
///
/// With `Prefer: wait=N` the answer waits up to N seconds until its stream grows.
#[utoipa::path(
    get, path = "/api/v1/instances/{id}", operation_id = "getInstance", tag = "instances",
    params(("id" = String, Path, description = "The instance")),
    responses((status = 200, description = "The instance", body = Instance)),
)]
async fn get_instance(
    State(app): State<AppState>,
    Auth(who): Auth,
    Id(id): Id<InstanceId>,
    wait: Wait,
) -> Result<Response, Problem> {
    note_instance(id);
    let mut record = app.engine.instance(&who, id).await?;
    let Some(time) = wait.0 else { return reply::ok(&whole(&app, &who, record).await?) };
    if let Ok(_slot) = app.waits.try_acquire()
        && let Ok(changed) = tokio::time::timeout(time, app.engine.changed(&who, id, record.sequence)).await
    {
        changed?;
        record = app.engine.instance(&who, id).await?;
    }
    reply::ok(&whole(&app, &who, record).await?).map(reply::waited)
}

/// An instance with what was lifted in it.
async fn whole(app: &AppState, who: &Principal, record: engine::InstanceRecord) -> Result<Instance, Problem> {
    let lifts = app.engine.lifts(who, record.id).await?;
    Ok(Instance { lifts: lifts.into_iter().map(Into::into).collect(), ..Instance::told(who, record) })
}

/// Start an instance
///
/// For one that rests in `CREATED`. A refusal terminates it.
#[utoipa::path(
    post, path = "/api/v1/instances/{id}/start", operation_id = "startInstance", tag = "instances",
    params(("id" = String, Path, description = "The instance")),
    responses(
        (status = 200, description = "It runs", body = Moved),
        (status = 202, description = "It waits for people", body = Moved),
    ),
)]
async fn start_instance(
    State(app): State<AppState>,
    Auth(who): Auth,
    Id(id): Id<InstanceId>,
    input: Input,
) -> Result<Response, Problem> {
    note_instance(id);
    let Empty {} = input.read_or_default()?;
    moved(app.engine.start_instance(who, id, input.key).await?)
}

/// Complete an instance
///
/// Refused while something that was started has no outcome.
#[utoipa::path(
    post, path = "/api/v1/instances/{id}/complete", operation_id = "completeInstance", tag = "instances",
    params(("id" = String, Path, description = "The instance")),
    responses(
        (status = 200, description = "It is complete", body = Moved),
        (status = 202, description = "It waits for people", body = Moved),
    ),
)]
async fn complete_instance(
    State(app): State<AppState>,
    Auth(who): Auth,
    Id(id): Id<InstanceId>,
    input: Input,
) -> Result<Response, Problem> {
    note_instance(id);
    let Empty {} = input.read_or_default()?;
    moved(app.engine.complete(who, id, input.key).await?)
}

/// Terminate an instance
///
/// Those whose work it is always may: policy's objection is recorded, and stops nothing. Running work is cancelled.
#[utoipa::path(
    post, path = "/api/v1/instances/{id}/terminate", operation_id = "terminateInstance", tag = "instances",
    params(("id" = String, Path, description = "The instance")),
    responses(
        (status = 200, description = "It is terminated", body = Moved),
        (status = 202, description = "It waits for people", body = Moved),
    ),
)]
async fn terminate_instance(
    State(app): State<AppState>,
    Auth(who): Auth,
    Id(id): Id<InstanceId>,
    input: Input,
) -> Result<Response, Problem> {
    note_instance(id);
    let Empty {} = input.read_or_default()?;
    moved(app.engine.terminate(who, id, input.key).await?)
}

/// The body of operations that need none.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Empty {}

fn moved(moved: engine::Moved) -> Result<Response, Problem> {
    if let Some(receipt) = &moved.receipt {
        crate::context::note_entry(receipt.index);
    }
    let wire = Moved {
        state: Cow::Borrowed(moved.state.as_str()),
        gate: moved.gate.map(Into::into),
        already: moved.already,
        receipt: moved.receipt.map(Into::into),
    };
    match moved.gate {
        Some(gate) => reply::waiting(&wire, &gate_path(gate)),
        None => reply::ok(&wire),
    }
}
