//! The floor for `cargo xtask bench`: axum endpoints that ask Cedar the same question and keep nothing.
//!
//! The same snapshot, entities, slice, typed input and decision as the gateway's, over the same HTTP stack; no
//! credential is checked, nothing is signed, nothing is stored. What the gateway costs beyond this is what it is for.
//! Governed actions need no flags. For evaluations `--organization`, `--policies` (a Cedar file that stands beside the
//! default bundle), `--tool` (one tool as JSON) and `--agents` (a file of ids, one a line) say what is granted to whom.

#![expect(clippy::disallowed_methods, reason = "the floor's clock is the machine's; it is no part of the product")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use axum::extract::{Path, State};
use axum::routing::post;
use axum::{Json, Router};
use countersign_gateway_model::{Decision, Name, OrgId, State as InstanceState, Timestamp};
use countersign_policy_decide::catalogue::Tool;
use countersign_policy_decide::{
    AgentFacts, EntityKind, EntityRef, EntityStore, InstanceFacts, Operation, PersonFacts, PolicySnapshot, Question,
    Record, WorkflowFacts, decide, input,
};
use serde_json::value::RawValue;

struct Floor {
    org: OrgId,
    snapshot: Arc<PolicySnapshot>,
    entities: EntityStore,
}

#[derive(serde::Deserialize)]
struct Request {
    actions: Vec<Item>,
}

#[derive(serde::Deserialize)]
struct Item {
    tool: String,
    input: Box<RawValue>,
}

/// A request for an evaluation, in the form of AuthZEN. Policy sees no properties of subject and resource.
#[derive(serde::Deserialize)]
struct Evaluation {
    subject: Entity,
    action: Action,
    resource: Entity,
    #[serde(default)]
    context: BTreeMap<String, serde_json::Value>,
}

#[derive(serde::Deserialize)]
struct Entity {
    r#type: String,
    id: String,
}

#[derive(serde::Deserialize)]
struct Action {
    name: String,
    #[serde(default)]
    properties: serde_json::Map<String, serde_json::Value>,
}

/// What the flags say beside the default bundle.
struct Beside {
    org: OrgId,
    policies: Option<String>,
    tool: Option<Tool>,
    agents: Vec<String>,
}

fn main() -> Result<()> {
    let beside = beside()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let floor = Arc::new(floor(beside)?);
        let router = Router::new()
            .route("/api/v1/instances/{id}/actions", post(ask))
            .route("/access/v1/evaluation", post(evaluate))
            .with_state(floor);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        axum::serve(listener, router).await?;
        Ok(())
    })
}

fn beside() -> Result<Beside> {
    let mut beside = Beside { org: OrgId::from_bytes([7; 16]), policies: None, tool: None, agents: Vec::new() };
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let value = arguments.next().with_context(|| format!("`{flag}` has no value"))?;
        let file = || std::fs::read_to_string(&value).with_context(|| format!("`{value}` cannot be read"));
        match flag.as_str() {
            "--organization" => beside.org = value.parse()?,
            "--policies" => beside.policies = Some(file()?),
            "--tool" => beside.tool = Some(serde_json::from_str(&file()?)?),
            "--agents" => beside.agents = file()?.lines().map(str::to_owned).collect(),
            _ => bail!("there is no `{flag}`"),
        }
    }
    Ok(beside)
}

async fn ask(
    State(floor): State<Arc<Floor>>,
    Path(id): Path<String>,
    Json(request): Json<Request>,
) -> Json<serde_json::Value> {
    let answers: Vec<_> = request.actions.iter().map(|item| answer(&floor, &id, item)).collect();
    Json(serde_json::json!({ "actions": answers }))
}

fn answer(floor: &Floor, id: &str, item: &Item) -> Option<serde_json::Value> {
    let tool = floor.snapshot.tool(&item.tool)?;
    let typed = input::parse(tool, item.input.get().as_bytes()).ok()?;
    let name = |text: &str| Name::new(text).ok();
    let operation = if tool.tool.runner.is_some() { Operation::Dispatch } else { Operation::CallTool };
    let mut question = Question::new(
        EntityRef::new(floor.org, EntityKind::Agent, name("bench")?),
        operation,
        EntityRef::new(floor.org, EntityKind::Tool, tool.tool.name.clone()),
        now(),
    );
    question.scopes = ["act"].into_iter().collect();
    question.instance = Some(EntityRef::new(floor.org, EntityKind::Instance, name(id)?));
    question.input = Some(Arc::new(typed));
    let slice = floor.entities.slice(&floor.snapshot, &question);
    let answer = decide(&floor.snapshot, &slice, &question);
    Some(serde_json::json!({ "decision": answer.verdict.decision, "policies": answer.determining }))
}

async fn evaluate(State(floor): State<Arc<Floor>>, Json(request): Json<Evaluation>) -> Json<serde_json::Value> {
    let decision = evaluation(&floor, &request).unwrap_or(Decision::Deny);
    let verdict = match decision {
        Decision::Allow => "allow",
        Decision::NeedsApproval => "needs_approval",
        Decision::Deny => "deny",
    };
    Json(serde_json::json!({ "decision": decision == Decision::Allow, "context": { "verdict": verdict } }))
}

/// The question of an agent's call of the tool `<resource type>.<action>`; nobody asks it, so nobody is asked about first.
fn evaluation(floor: &Floor, request: &Evaluation) -> Option<Decision> {
    let Evaluation { subject, action, resource, context } = request;
    let tool = floor.snapshot.tool(&format!("{}.{}", resource.r#type, action.name))?;
    let mut input = action.properties.clone();
    input.insert("id".to_owned(), resource.id.clone().into());
    let typed = input::parse(tool, &serde_json::to_vec(&input).ok()?).ok()?;
    let name = |text: &str| Name::new(text).ok();
    let agent = name(&subject.id).filter(|_| subject.r#type == "agent")?;
    let mut question = Question::new(
        EntityRef::new(floor.org, EntityKind::Agent, agent),
        Operation::CallTool,
        EntityRef::new(floor.org, EntityKind::Tool, tool.tool.name.clone()),
        now(),
    );
    question.scopes = ["act"].into_iter().collect();
    question.unreserved = true;
    let claim = |(key, value): (&String, &serde_json::Value)| match value {
        serde_json::Value::String(text) => format!("{key}={text}"),
        other => format!("{key}={other}"),
    };
    question.claims = context.iter().map(claim).collect();
    question.input = Some(Arc::new(typed));
    let slice = floor.entities.slice(&floor.snapshot, &question);
    Some(decide(&floor.snapshot, &slice, &question).verdict.decision)
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// One agent, its owner, one workflow, 64 running instances, the default bundle; and what stands beside it.
fn floor(Beside { org, policies, tool, agents }: Beside) -> Result<Floor> {
    let snapshot = countersign_tests_testkit::snapshot_beside_default(org, policies, tool)?;
    let entities = EntityStore::new();
    let name = |text: &str| Name::new(text).context("a name");
    let at = now();
    let owner = PersonFacts { active: true, person: Some(name("owner")?), ..PersonFacts::default() };
    entities.put(Record::person(org, name("owner")?, owner, at))?;
    let scopes = ["repo:read", "repo:write", "repo:test", "notes:write"];
    let agent = AgentFacts {
        active: true,
        owner: name("owner")?,
        autonomy: 2,
        scopes: scopes.into_iter().map(name).collect::<Result<_>>()?,
        teams: Vec::new(),
    };
    for id in agents {
        let unscoped = AgentFacts { scopes: Vec::new(), ..agent.clone() };
        entities.put(Record::agent(org, name(&id)?, unscoped, at))?;
    }
    entities.put(Record::agent(org, name("bench")?, agent, at))?;
    let workflow = WorkflowFacts { version: "1".to_owned(), open: true, ..WorkflowFacts::default() };
    entities.put(Record::workflow(org, name("bench")?, workflow, at))?;
    for number in 0..64 {
        let facts = InstanceFacts {
            workflow: name("bench")?,
            state: InstanceState::Running,
            actor: EntityRef::new(org, EntityKind::Agent, name("bench")?),
            initiator: EntityRef::new(org, EntityKind::Person, name("owner")?),
            owner: Some(name("owner")?),
            accountable: name("owner")?,
            parent: None,
            team: None,
            legal_hold: false,
            frozen: false,
        };
        entities.put(Record::instance(org, name(&format!("inst_{number:032x}"))?, facts, at))?;
    }
    Ok(Floor { org, snapshot, entities })
}
