//! A small organization, and snapshots of few policies over it, for the tests beside this folder.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]
#![allow(dead_code, reason = "not every test file that shares this needs all of it")]

use std::collections::BTreeMap;
use std::sync::Arc;

use countersign_gateway_model::{Digest, Name, OrgId, State, Timestamp};
use countersign_policy_decide::catalogue::Catalogue;
use countersign_policy_decide::rules::Rules;
use countersign_policy_decide::{
    AgentFacts, Answer, BuildError, EntityKind, EntityRef, EntityStore, InstanceFacts, Operation, PersonFacts,
    PolicyParts, PolicySnapshot, Question, Record, WorkflowFacts, decide, decide_by_full_walk, input,
};

pub(crate) const NOW: Timestamp = Timestamp(1_795_219_200_000);

pub(crate) fn org() -> OrgId {
    OrgId::from_bytes([1; 16])
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub(crate) fn entity(text: &str) -> EntityRef {
    EntityRef::parse(org(), text).unwrap()
}

/// What most tests let through: an agent calls tools.
pub(crate) const PERMIT: &str = r#"@id("permit") permit (principal is Countersign::Agent,
    action in [Countersign::Action::"callTool", Countersign::Action::"dispatch"], resource);"#;

/// A gate on every tool call.
pub(crate) fn gate(id: &str, rule: &str, when: &str) -> String {
    format!(
        r#"@id("{id}") @requires_approval("{rule}") forbid (principal, action in Countersign::Action::"callTool", resource)
        {when} unless {{ context.satisfied.contains(Countersign::ApprovalRule::"{rule}") }};"#
    )
}

pub(crate) fn parts(policies: &str) -> PolicyParts {
    let catalogue = br#"{"tools":[
        {"name":"repo.read","risk":0,"data_class":"internal","input":{"type":"object","required":["path"],
         "properties":{"path":{"type":"string"},"extra":{"type":"object","additionalProperties":{"type":"string"}}}}},
        {"name":"pay.refund","risk":4,"data_class":"internal","input":{"type":"object","required":["amount"],
         "properties":{"amount":{"type":"number"},"currency":{"type":"string"}}}},
        {"name":"repo.test","risk":1,"data_class":"internal","input":{"type":"object"},
         "runner":{"kind":"process","environment":"sandbox"}}]}"#;
    let rules = br#"{"rules":{"a":{"authority":{"roles":["APPROVER"]}},"b":{"authority":{"roles":["APPROVER"]}}}}"#;
    PolicyParts {
        bundle: Digest([7; 32]),
        policies: BTreeMap::from([("test.cedar".to_owned(), policies.to_owned())]),
        rules: Rules::parse(rules).unwrap(),
        roles: [name("APPROVER"), name("OPERATOR")].into(),
        catalogue: Some(Catalogue::parse(catalogue).unwrap()),
        ..PolicyParts::recovery(org())
    }
}

pub(crate) fn build(policies: &str) -> Result<PolicySnapshot, BuildError> {
    PolicySnapshot::build(parts(policies))
}

pub(crate) fn snapshot(policies: &str) -> PolicySnapshot {
    build(policies).unwrap_or_else(|e| panic!("{e}"))
}

pub(crate) fn instance(state: State) -> InstanceFacts {
    InstanceFacts {
        workflow: name("fix"),
        state,
        actor: entity("Agent::coder"),
        initiator: entity("Person::ida"),
        owner: Some(name("olga")),
        accountable: name("ida"),
        parent: None,
        team: Some(name("inner")),
        legal_hold: false,
        frozen: false,
    }
}

pub(crate) fn agent() -> AgentFacts {
    AgentFacts {
        active: true,
        owner: name("olga"),
        autonomy: 2,
        scopes: vec![name("repo:read")],
        teams: vec![name("inner")],
    }
}

pub(crate) fn person(active: bool, team: &str) -> PersonFacts {
    PersonFacts { active, roles: vec![name("APPROVER")], teams: vec![name(team)], ..PersonFacts::default() }
}

/// Everything there is: team `inner` within `middle` within `outer`, two persons, an agent, a workflow, an instance.
pub(crate) fn world() -> EntityStore {
    let store = EntityStore::new();
    let org = org();
    for (team, within) in [("outer", vec![]), ("middle", vec![name("outer")]), ("inner", vec![name("middle")])] {
        store.put(Record::team(org, name(team), within, NOW)).unwrap();
    }
    for id in ["olga", "ida"] {
        store.put(Record::person(org, name(id), person(true, "inner"), NOW)).unwrap();
    }
    store.put(Record::agent(org, name("coder"), agent(), NOW)).unwrap();
    let facts = WorkflowFacts { team: Some(name("inner")), materiality: 2, version: "1".into(), ..Default::default() };
    store.put(Record::workflow(org, name("fix"), facts, NOW)).unwrap();
    store.put(Record::instance(org, name("i1"), instance(State::Running), NOW)).unwrap();
    store
}

pub(crate) fn call(snapshot: &PolicySnapshot, tool: &str, input: &str) -> Question {
    let compiled = snapshot.tool(tool).unwrap();
    let operation = if compiled.tool.runner.is_some() { Operation::Dispatch } else { Operation::CallTool };
    let resource = EntityRef::new(org(), EntityKind::Tool, name(tool));
    let mut question = Question::new(entity("Agent::coder"), operation, resource, NOW);
    question.input = Some(Arc::new(input::parse(compiled, input.as_bytes()).unwrap()));
    question.instance = Some(entity("Instance::i1"));
    question
}

/// The agent reads a file.
pub(crate) fn read(snapshot: &PolicySnapshot) -> Question {
    call(snapshot, "repo.read", r#"{"path":"a"}"#)
}

/// The answer, with the production slicer, by the index and by the full walk, which must agree.
pub(crate) fn ask(snapshot: &PolicySnapshot, store: &EntityStore, question: &Question) -> Answer {
    let slice = store.slice(snapshot, question);
    let answer = decide(snapshot, &slice, question);
    assert_eq!(answer, decide_by_full_walk(snapshot, &slice, question), "index and full walk differ");
    answer
}
