//! Tools: the catalogue in force, registration, import from an MCP server, retirement.
//!
//! Whoever registers says risk, data class and scopes; what is left out is the highest. Absent: calling a tool
//! (`actions`).

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use countersign_gateway_engine as engine;
use countersign_gateway_model::{Digest, GateId, InstanceId, Name, Principal, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Auth;
use crate::context::note_instance;
use crate::input::{Id, Params, Upload};
use crate::problem::Problem;
use crate::proposals::ProposalStep;
use crate::reply;
use crate::state::AppState;
use crate::wire::{Page, Receipt};

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list_tools, register_tools))
        .routes(routes!(import_mcp_tools))
        .routes(routes!(get_registration))
        .routes(routes!(get_tool, retire_tool))
}

/// A tool of the catalogue in force.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "name": "repo.read_file", "description": "Reads one file", "risk": 0, "data_class": "internal",
    "scopes": ["repo:read"], "mutable_target": false, "version": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "input": { "type": "object", "properties": { "path": { "type": "string" } }, "required": ["path"] }
}))]
pub(crate) struct Tool {
    /// `<server>.<tool>`.
    #[schema(value_type = String)]
    name: Name,
    /// What it does; text of others. Policy never reads it.
    description: String,
    /// 0 reads only, 1 changes what is the agent's own, 2 changes what others see, 3 is hard to undo, 4 cannot be
    /// undone.
    risk: u8,
    /// The most confidential data it touches: `public`, `internal`, `confidential` or `restricted`.
    #[schema(value_type = String)]
    data_class: &'static str,
    /// Scopes that the caller must hold, all of them.
    #[schema(value_type = Vec<String>)]
    scopes: Vec<Name>,
    /// What it acts on has no revision that a permit could be bound to.
    mutable_target: bool,
    /// The runner's kind, where a runner carries it out; absent: the agent does, and reports the outcome.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    runner: Option<&'static str>,
    /// Digest of its definition.
    #[schema(value_type = String)]
    version: Digest,
    /// JSON Schema of its input.
    #[schema(value_type = Object)]
    input: Value,
    /// JSON Schema of its output.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    output: Option<Value>,
}

impl From<engine::ToolRecord> for Tool {
    fn from(record: engine::ToolRecord) -> Self {
        Self {
            name: record.name,
            description: record.description,
            risk: record.risk,
            data_class: record.data_class,
            scopes: record.scopes,
            mutable_target: record.mutable_target,
            runner: record.runner,
            version: record.version,
            input: record.input,
            output: record.output,
        }
    }
}

/// A tool with its report.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "name": "tickets.create", "description": "Creates a ticket", "risk": 2, "data_class": "internal",
    "scopes": ["tickets:write"], "mutable_target": false,
    "version": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "input": { "type": "object", "properties": { "title": { "type": "string" } }, "required": ["title"] },
    "report": {
        "action": "callTool:tickets.create",
        "seen": [{ "pointer": "/title", "attribute": "context.input.title", "type": "String", "optional": false }],
        "sometimes": [], "never": [], "notes": []
    }
}))]
pub(crate) struct ToolDetail {
    #[serde(flatten)]
    tool: Tool,
    report: ToolReport,
}

/// What policy knows of a tool, and what it cannot see of its input.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "action": "callTool:tickets.create",
    "seen": [{ "pointer": "/title", "attribute": "context.input.title", "type": "String", "optional": false }],
    "sometimes": [], "never": [{ "pointer": "/labels", "reason": "it may be of several types" }], "notes": []
}))]
pub(crate) struct ToolReport {
    /// Its action in policies: `callTool:<server>.<tool>`, or `dispatch:…` where a runner carries it out.
    action: String,
    /// What policy sees of the input.
    seen: Vec<Seen>,
    /// What it sees unless the value has no exact form; then the place is in `context.opaque`.
    sometimes: Vec<Unseen>,
    /// What it never sees; where it stands in an input, the place is in `context.opaque`.
    never: Vec<Unseen>,
    /// What else is worth knowing.
    notes: Vec<String>,
}

/// A part of an input that policies can ask about.
#[derive(Serialize, ToSchema)]
pub(crate) struct Seen {
    /// JSON pointer in the input.
    pointer: String,
    /// How a policy writes it.
    attribute: String,
    /// Its Cedar type.
    r#type: String,
    /// A policy must ask `has` first.
    optional: bool,
}

/// A part of an input that policies cannot see.
#[derive(Serialize, ToSchema)]
pub(crate) struct Unseen {
    /// JSON pointer in the input.
    pointer: String,
    /// Why.
    reason: String,
}

impl From<engine::ToolReport> for ToolReport {
    fn from(report: engine::ToolReport) -> Self {
        let unseen = |blind: engine::Blind| Unseen { pointer: blind.pointer, reason: blind.reason };
        let seen = |seen: engine::Seen| Seen {
            pointer: seen.pointer,
            attribute: seen.attribute,
            r#type: seen.cedar_type,
            optional: seen.optional,
        };
        Self {
            action: report.action,
            seen: report.sight.seen.into_iter().map(seen).collect(),
            sometimes: report.sight.sometimes.into_iter().map(unseen).collect(),
            never: report.sight.never.into_iter().map(unseen).collect(),
            notes: report.notes,
        }
    }
}

/// What the registrar says of a tool, never the tool of itself. What is left out is the highest.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "risk": 2, "data_class": "internal", "scopes": ["tickets:write"] }))]
pub(crate) struct ToolWords {
    /// 0 reads only … 4 cannot be undone; absent: 4.
    risk: Option<u8>,
    /// The most confidential data it touches; absent: `restricted`.
    #[schema(value_type = Option<String>)]
    data_class: Option<engine::DataClass>,
    /// Scopes that the caller must hold; absent: `<server>:<tool>`, which nobody holds until it is granted.
    #[schema(value_type = Option<Vec<String>>)]
    scopes: Option<Vec<Name>>,
    /// What it acts on has no revision that a permit could be bound to.
    mutable_target: Option<bool>,
}

impl From<ToolWords> for engine::Words {
    fn from(words: ToolWords) -> Self {
        let ToolWords { risk, data_class, scopes, mutable_target } = words;
        Self { risk, data_class, scopes, mutable_target }
    }
}

/// A tool to register. It replaces, whole, what is listed under its name.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ToolToRegister {
    /// `<server>.<tool>`.
    #[schema(value_type = String)]
    name: Name,
    /// What it does.
    #[serde(default)]
    description: String,
    /// JSON Schema of its input: an object.
    #[schema(value_type = Object)]
    input: Value,
    /// JSON Schema of its output.
    #[schema(value_type = Option<Object>)]
    output: Option<Value>,
    /// 0 reads only … 4 cannot be undone; absent: 4.
    risk: Option<u8>,
    /// The most confidential data it touches; absent: `restricted`.
    #[schema(value_type = Option<String>)]
    data_class: Option<engine::DataClass>,
    /// Scopes that the caller must hold; absent: `<server>:<tool>`, which nobody holds until it is granted.
    #[schema(value_type = Option<Vec<String>>)]
    scopes: Option<Vec<Name>>,
    /// What it acts on has no revision that a permit could be bound to.
    mutable_target: Option<bool>,
    /// How a runner carries it out: `kind`, `environment`, `command`, `deadline_s`. Absent: the agent does.
    #[schema(value_type = Option<Object>)]
    runner: Option<engine::ToolRunner>,
}

impl From<ToolToRegister> for engine::Definition {
    fn from(tool: ToolToRegister) -> Self {
        let ToolToRegister { name, description, input, output, risk, data_class, scopes, mutable_target, runner } =
            tool;
        let words = engine::Words { risk, data_class, scopes, mutable_target };
        Self { name, description, input, output, words, runner }
    }
}

/// Tools to register: all of them or none.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "tools": [{
    "name": "tickets.create", "description": "Creates a ticket", "risk": 2, "data_class": "internal",
    "scopes": ["tickets:write"],
    "input": { "type": "object", "properties": { "title": { "type": "string" } }, "required": ["title"] }
}] }))]
pub(crate) struct ToolsToRegister {
    tools: Vec<ToolToRegister>,
}

/// The tools of an MCP server.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "server": "github",
    "tools_list": { "tools": [{
        "name": "create_issue", "description": "Creates an issue",
        "inputSchema": { "type": "object", "properties": { "title": { "type": "string" } }, "required": ["title"] }
    }] },
    "defaults": { "data_class": "internal" }, "tools": { "create_issue": { "risk": 2 } }
}))]
pub(crate) struct McpToolsToImport {
    /// What the server is called here: the part before the dot of each name.
    #[schema(value_type = String)]
    server: Name,
    /// The result of `tools/list`, all pages in one, or the whole JSON-RPC answer.
    #[schema(value_type = Object)]
    tools_list: Value,
    /// The registrar's words about every tool of the list.
    #[serde(default)]
    defaults: ToolWords,
    /// The registrar's words about one tool, by its name at the server; they come first.
    #[serde(default)]
    tools: BTreeMap<String, ToolWords>,
}

impl From<McpToolsToImport> for engine::McpTools {
    fn from(list: McpToolsToImport) -> Self {
        Self {
            server: list.server,
            tools_list: list.tools_list,
            defaults: list.defaults.into(),
            tools: list.tools.into_iter().map(|(name, words)| (name, words.into())).collect(),
        }
    }
}

/// What becomes of one tool.
#[derive(Serialize, ToSchema)]
pub(crate) struct ToolChanged {
    /// The tool.
    #[schema(value_type = String)]
    name: Name,
    /// `added`, `redefined` (another version), `reclassified` (other words of the registrar), `unchanged` or `retired`.
    #[schema(value_type = String)]
    change: &'static str,
    /// Its version before.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    before: Option<Digest>,
    /// Its version from now on.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    version: Option<Digest>,
    /// What policy sees of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    report: Option<ToolReport>,
}

/// A tool of an imported list that is not listed here, and so stays unknown.
#[derive(Serialize, ToSchema)]
pub(crate) struct ToolSkipped {
    /// JSON pointer in the body.
    pointer: String,
    /// Its name at the server.
    tool: String,
    /// Why, and what to do.
    problem: String,
}

/// What becomes of the catalogue.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "catalogue": "9f86…", "predecessor": "60f5…", "version": 2,
    "tools": [{ "name": "tickets.create", "change": "added", "version": "9f86…" }], "skipped": [], "ignored": [],
    "missing": []
}))]
pub(crate) struct ToolsChanged {
    /// Digest of the catalogue.
    #[schema(value_type = String)]
    catalogue: Digest,
    /// Digest of the catalogue before it; absent where nothing changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    predecessor: Option<Digest>,
    /// Its version.
    version: u64,
    /// The tools that were handed in, by name.
    tools: Vec<ToolChanged>,
    /// What an import leaves out.
    skipped: Vec<ToolSkipped>,
    /// Members of the imported tools that are not taken over: what a server says of its own harm is among them.
    ignored: Vec<String>,
    /// Tools that are listed for the imported server, and that it does not offer any more.
    #[schema(value_type = Vec<String>)]
    missing: Vec<Name>,
    /// Proof of the entry; absent for a check, and where nothing changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<Receipt>,
    /// Where people are, or were, asked; nothing has changed unless its `state` is `activated`.
    #[serde(skip_serializing_if = "Option::is_none")]
    registration: Option<ToolRegistration>,
}

/// A change of the catalogue that people are, or were, asked about.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "id": "inst_0198c7a4e1b27c4e9a3f5d6b7c8d9e0f", "catalogue": "9f86…", "predecessor": "60f5…", "version": 2,
    "state": "waiting", "registrar": "person/dana", "registered": "2026-11-20T09:00:00.000Z",
    "gate": "gate_0198c7a4e1b27c4e9a3f5d6b7c8d9e0f", "steps": [{ "step": "proposed", "at": "2026-11-20T09:00:00.000Z" }],
    "words": "Tool:        tickets.create of server tickets: added\n"
}))]
pub(crate) struct ToolRegistration {
    /// Its id: the instance whose one action it is.
    #[schema(value_type = String)]
    id: InstanceId,
    /// Digest of the catalogue.
    #[schema(value_type = String)]
    catalogue: Digest,
    /// The catalogue that it follows; where another came into force meanwhile, it fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    predecessor: Option<Digest>,
    /// Its version.
    version: u64,
    /// `waiting` (at its gate), `approved` (not in force yet), `activated`, `failed` or `withdrawn`. More words may come.
    state: &'static str,
    /// Who registers.
    registrar: String,
    /// When.
    #[schema(value_type = String)]
    registered: Timestamp,
    /// The gate where people decide, or decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    gate: Option<GateId>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Its steps, in order; each is an entry of the organization's stream.
    steps: Vec<ProposalStep>,
    /// What becomes of each tool, as people are shown it.
    words: String,
}

impl From<engine::ToolRegistration> for ToolRegistration {
    fn from(record: engine::ToolRegistration) -> Self {
        Self {
            id: record.id,
            catalogue: record.catalogue,
            predecessor: record.predecessor,
            version: record.version,
            state: record.state,
            registrar: record.registrar,
            registered: record.registered,
            gate: record.gate,
            reason: record.reason,
            steps: record.steps.into_iter().map(Into::into).collect(),
            words: record.words,
        }
    }
}

impl From<engine::ToolsChanged> for ToolsChanged {
    fn from(changed: engine::ToolsChanged) -> Self {
        let tool = |change: engine::ToolChange| ToolChanged {
            name: change.name,
            change: change.change.as_str(),
            before: change.before,
            version: change.version,
            report: change.report.map(Into::into),
        };
        let skipped =
            |fault: engine::Fault| ToolSkipped { pointer: fault.pointer, tool: fault.tool, problem: fault.problem };
        Self {
            catalogue: changed.catalogue,
            predecessor: changed.predecessor,
            version: changed.version,
            tools: changed.changes.into_iter().map(tool).collect(),
            skipped: changed.skipped.into_iter().map(skipped).collect(),
            ignored: changed.ignored,
            missing: changed.missing,
            receipt: changed.receipt.map(Into::into),
            registration: changed.registration.map(Into::into),
        }
    }
}

/// Whether it is only asked what would happen.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Check {
    /// `true`: every check, and what would change; nothing is changed and nothing recorded.
    check: Option<bool>,
}

/// The status for a change that people are, or were, asked about. `done` is that of one that is in force.
fn status_of(state: &str, done: StatusCode) -> StatusCode {
    match state {
        "waiting" | "approved" => StatusCode::ACCEPTED,
        "activated" => done,
        // It ended, and nothing changed: there is nothing to wait for.
        _ => StatusCode::OK,
    }
}

async fn change(
    app: &AppState,
    who: Arc<Principal>,
    check: &Check,
    done: StatusCode,
    request: engine::ToolsRequest,
) -> Result<Response, Problem> {
    if check.check == Some(true) {
        return reply::ok(&ToolsChanged::from(app.engine.check_tools(&who, request).await?));
    }
    let changed = app.engine.change_tools(who, request).await?;
    if let Some(registration) = &changed.registration {
        note_instance(registration.id);
        let location = format!("/api/v1/tools/registrations/{}", registration.id);
        return match status_of(registration.state, done) {
            StatusCode::ACCEPTED => reply::waiting(&ToolsChanged::from(changed), &location),
            status => reply::json(status, &ToolsChanged::from(changed)),
        };
    }
    match changed.receipt.as_ref().map(|receipt| receipt.index) {
        Some(index) => reply::committed(done, &ToolsChanged::from(changed), index),
        None => reply::ok(&ToolsChanged::from(changed)),
    }
}

/// List tools
///
/// What the catalogue in force has: a tool that is not here is refused.
#[utoipa::path(
    get, path = "/api/v1/tools", operation_id = "listTools", tag = "tools",
    responses((status = 200, description = "All of them, by name", body = Page<Tool>)),
)]
async fn list_tools(State(app): State<AppState>, Auth(who): Auth) -> Result<Response, Problem> {
    let items = app.engine.tools(&who)?.into_iter().map(Tool::from).collect();
    reply::ok(&Page { items, next: None })
}

/// Read a tool
///
/// Its definition, and what of its input policy can see.
#[utoipa::path(
    get, path = "/api/v1/tools/{name}", operation_id = "getTool", tag = "tools",
    params(("name" = String, Path, description = "The tool")),
    responses((status = 200, description = "The tool, with its report", body = ToolDetail)),
)]
async fn get_tool(State(app): State<AppState>, Auth(who): Auth, Id(name): Id<Name>) -> Result<Response, Problem> {
    let detail = app.engine.tool(&who, &name)?;
    reply::ok(&ToolDetail { tool: detail.tool.into(), report: detail.report.into() })
}

/// Read a registration
///
/// One that people are, or were, asked about: whoever asked for it reads it, and those who may read policy. Terminating its
/// instance, which has the same id, withdraws it.
#[utoipa::path(
    get, path = "/api/v1/tools/registrations/{id}", operation_id = "getToolRegistration", tag = "tools",
    params(("id" = String, Path, description = "The registration")),
    responses((status = 200, description = "The registration, as far as it is", body = ToolRegistration)),
)]
async fn get_registration(
    State(app): State<AppState>,
    Auth(who): Auth,
    Id(id): Id<InstanceId>,
) -> Result<Response, Problem> {
    reply::ok(&ToolRegistration::from(app.engine.tool_registration(&who, id).await?))
}

/// Register tools
///
/// Every check (bounds, schemas, and whether the active bundle with its tests stands with them), then the word of policy,
/// then the entry, then the change: in this order, all tools or none. Another definition is another version; permits and
/// gates name the version that they are for. Where policy asks for people, a gate is opened and the change waits there; the
/// same change again finds that gate. An account has one registration that waits, and an organization a few.
#[utoipa::path(
    post, path = "/api/v1/tools", operation_id = "registerTools", tag = "tools", params(Check),
    request_body = ToolsToRegister,
    responses(
        (status = 200, description = "A check, or nothing changes; a `registration` in it says how it ended", body = ToolsChanged),
        (status = 201, description = "They are in force", body = ToolsChanged),
        (status = 202, description = "People are asked first: see `registration`", body = ToolsChanged),
    ),
)]
async fn register_tools(
    State(app): State<AppState>,
    Auth(who): Auth,
    Params(check): Params<Check>,
    upload: Upload,
) -> Result<Response, Problem> {
    let body: ToolsToRegister = upload.read()?;
    let tools = body.tools.into_iter().map(Into::into).collect();
    change(&app, who, &check, StatusCode::CREATED, engine::ToolsRequest::Register(tools)).await
}

/// Import the tools of an MCP server
///
/// Names, descriptions and schemas are taken from its `tools/list` result. What the server says of its own harm is not:
/// risk, data class and scopes are the registrar's words, which stay with a definition that did not change, and are the
/// highest where nothing is said. A tool that cannot be listed is left out with the reason.
#[utoipa::path(
    post, path = "/api/v1/tools/import-mcp", operation_id = "importMcpTools", tag = "tools", params(Check),
    request_body = McpToolsToImport,
    responses(
        (status = 200, description = "A check, or nothing changes; a `registration` in it says how it ended", body = ToolsChanged),
        (status = 201, description = "They are in force", body = ToolsChanged),
        (status = 202, description = "People are asked first: see `registration`", body = ToolsChanged),
    ),
)]
async fn import_mcp_tools(
    State(app): State<AppState>,
    Auth(who): Auth,
    Params(check): Params<Check>,
    upload: Upload,
) -> Result<Response, Problem> {
    let body: McpToolsToImport = upload.read()?;
    let request = engine::ToolsRequest::ImportMcp(Box::new(body.into()));
    change(&app, who, &check, StatusCode::CREATED, request).await
}

/// Retire a tool
///
/// From then on it is unknown, and every call of it is refused. What was permitted before stays permitted until it
/// expires.
#[utoipa::path(
    delete, path = "/api/v1/tools/{name}", operation_id = "retireTool", tag = "tools",
    params(("name" = String, Path, description = "The tool"), Check),
    responses(
        (status = 200, description = "It is not listed any more; or a check; a `registration` in it says how it ended", body = ToolsChanged),
        (status = 202, description = "People are asked first: see `registration`", body = ToolsChanged),
    ),
)]
async fn retire_tool(
    State(app): State<AppState>,
    Auth(who): Auth,
    Id(name): Id<Name>,
    Params(check): Params<Check>,
) -> Result<Response, Problem> {
    change(&app, who, &check, StatusCode::OK, engine::ToolsRequest::Retire(name)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_registration_that_can_still_come_into_force_is_accepted_and_not_done() {
        for (state, status) in [
            ("waiting", StatusCode::ACCEPTED),
            ("approved", StatusCode::ACCEPTED),
            ("activated", StatusCode::CREATED),
            ("failed", StatusCode::OK),
            ("withdrawn", StatusCode::OK),
        ] {
            assert_eq!(status_of(state, StatusCode::CREATED), status, "{state}");
        }
    }
}
