//! The floor for `cargo xtask bench`: an axum endpoint that asks Cedar the same question and keeps nothing.
//!
//! The same snapshot, entities, slice, typed input and decision as the gateway's, over the same HTTP stack; no
//! credential is checked, nothing is signed, nothing is stored. What the gateway costs beyond this is what it is for.

#![expect(clippy::disallowed_methods, reason = "the floor's clock is the machine's; it is no part of the product")]

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use axum::extract::{Path, State};
use axum::routing::post;
use axum::{Json, Router};
use countersign_gateway_model::{Name, OrgId, State as InstanceState, Timestamp};
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

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let floor = Arc::new(floor()?);
        let router = Router::new().route("/api/v1/instances/{id}/actions", post(ask)).with_state(floor);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        axum::serve(listener, router).await?;
        Ok(())
    })
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

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// One agent, its owner, one workflow, 64 running instances, the default bundle.
fn floor() -> Result<Floor> {
    let org = OrgId::from_bytes([7; 16]);
    let snapshot = countersign_tests_testkit::default_snapshot(org)?;
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
