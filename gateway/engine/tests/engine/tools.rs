//! Tools: who may change the catalogue, what a call of a registered tool comes to, and what never changes it.

use std::collections::BTreeMap;
use std::sync::Arc;

use countersign_gateway_engine::{
    ActionResult, Change, DataClass, Definition, Effect, EngineError, EntryQuery, McpTools, Proposed, ToolsChanged,
    ToolsRequest, Words,
};
use countersign_gateway_model::{Decision, Principal, Scope, State, Verdict};
use serde_json::{Value, json};

use crate::bench::{Files, default_files};
use crate::world::{Deciding, World, name, org};

/// A tool that the world's agents hold the scope of.
pub(crate) fn tickets(input: Value, words: Words) -> Definition {
    Definition {
        name: name("tickets.create"),
        description: "Creates a ticket.".to_owned(),
        input,
        output: None,
        words,
        runner: None,
    }
}

pub(crate) fn schema() -> Value {
    json!({"type": "object", "required": ["title"], "properties": {
        "title": {"type": "string", "maxLength": 20}, "labels": {"type": "array", "items": {"type": "string"}}
    }})
}

/// Data of the organization's own, a scope that agents hold; risk is left out, and so the highest.
pub(crate) fn internal() -> Words {
    Words { data_class: Some(DataClass::Internal), scopes: Some(vec![name("notes:write")]), ..Words::default() }
}

pub(crate) async fn register(
    world: &World,
    who: &Arc<Principal>,
    tool: Definition,
) -> Result<ToolsChanged, EngineError> {
    world.engine.change_tools(Arc::clone(who), ToolsRequest::Register(vec![tool])).await
}

fn code(result: Result<impl std::fmt::Debug, EngineError>) -> &'static str {
    result.unwrap_err().code()
}

async fn entries(world: &World, who: &Principal) -> Vec<(String, Value)> {
    let page = world.engine.entries(who, EntryQuery { limit: 200, ..EntryQuery::default() }).await.unwrap();
    page.items.into_iter().map(|entry| (entry.kind.to_owned(), entry.body)).collect()
}

async fn call(
    world: &World,
    agent: &Arc<Principal>,
    owner: &Arc<Principal>,
    input: Value,
) -> Result<Proposed, EngineError> {
    let instance = world.instance(owner, "work", agent).await.instance.id;
    world.propose(agent, instance, &[("tickets.create", input)]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registered_tool_is_called_under_its_schema_its_scopes_and_its_risk() {
    let world = World::new().await;
    let security = world.person("sam", &["SECURITY", "ADMIN", "OPERATOR", "AUDITOR"]);
    let agent = world.agent("fixer", &security);
    world.workflow(&security, "work").await;
    let title = json!({ "title": "broken" });
    assert_eq!(code(call(&world, &agent, &security, title.clone()).await), "tool-unknown");

    let changed = register(&world, &security, tickets(schema(), internal())).await.unwrap();
    assert_eq!((changed.version, changed.changes[0].change), (2, Change::Added));
    let detail = world.engine.tool(&security, &name("tickets.create")).unwrap();
    assert_eq!((detail.tool.risk, detail.report.action.as_str()), (4, "callTool:tickets.create"));

    // The highest risk: a person is asked.
    let proposed = call(&world, &agent, &security, title.clone()).await.unwrap();
    assert!(matches!(proposed.items[0].result, ActionResult::Waiting { .. }), "{proposed:?}");
    // What does not fit the schema is no question at all.
    for bad in
        [json!({}), json!({ "title": 7 }), json!({ "title": "t", "more": 1 }), json!({ "title": "t".repeat(21) })]
    {
        assert_eq!(code(call(&world, &agent, &security, bad).await), "input-invalid");
    }

    // The same tool at low risk goes through, for those who hold its scope.
    let low = Words { risk: Some(1), ..internal() };
    let again = register(&world, &security, tickets(schema(), low.clone())).await.unwrap();
    assert_eq!(again.changes[0].change, Change::Reclassified);
    assert_eq!(again.changes[0].before, again.changes[0].version, "what a registrar says is not the definition");
    let proposed = call(&world, &agent, &security, title.clone()).await.unwrap();
    assert!(matches!(proposed.items[0].result, ActionResult::Permitted { .. }), "{proposed:?}");
    let scopes = Words { scopes: None, ..low.clone() };
    register(&world, &security, tickets(schema(), scopes)).await.unwrap();
    assert_eq!(code(call(&world, &agent, &security, title.clone()).await), "policy-denied", "a scope nobody holds");
    // Left out, the data are of the highest class, which no agent touches.
    register(&world, &security, tickets(schema(), Words { data_class: None, ..low })).await.unwrap();
    assert_eq!(code(call(&world, &agent, &security, title.clone()).await), "policy-denied");

    let retired = ToolsRequest::Retire(name("tickets.create"));
    let gone = world.engine.change_tools(Arc::clone(&security), retired.clone()).await.unwrap();
    assert_eq!((gone.changes[0].change, gone.changes[0].version), (Change::Retired, None));
    assert_eq!(code(call(&world, &agent, &security, title).await), "tool-unknown");
    assert_eq!(code(world.engine.change_tools(security, retired).await), "not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_definition_is_another_version_and_the_gate_of_the_old_one_cannot_be_approved() {
    let world = World::new().await;
    let security = world.person("sam", &["SECURITY", "ADMIN", "OPERATOR", "AUDITOR"]);
    let approver = world.person("ann", &["APPROVER"]);
    let agent = world.agent("fixer", &security);
    world.workflow(&security, "work").await;
    let first = register(&world, &security, tickets(schema(), internal())).await.unwrap();
    let proposed = call(&world, &agent, &security, json!({ "title": "broken" })).await.unwrap();
    let gate = proposed.gate.unwrap();

    let mut other = schema();
    other["properties"]["title"] = json!({ "type": "integer" });
    let second = register(&world, &security, tickets(other, internal())).await.unwrap();
    assert_eq!(second.changes[0].change, Change::Redefined);
    assert_eq!(second.changes[0].before, first.changes[0].version);
    assert_ne!(second.changes[0].version, first.changes[0].version);
    assert_eq!((second.version, second.predecessor), (3, Some(first.catalogue)));

    // What people were shown is of a version that is no longer listed: their word counts for nothing.
    let said = world.decide(&approver, gate, Deciding::Approve).await.unwrap();
    assert_eq!((said.effect, said.state), (Effect::Stale, State::WaitingForHuman));
    assert!(said.remaining.iter().all(|rule| rule.counted == 0));
    let instance = world.engine.gate(&security, gate).await.unwrap().gate.instance;
    world.decide(&approver, gate, Deciding::Reject).await.unwrap();
    assert_eq!(world.state(&security, instance).await, State::Terminated);
    assert_eq!(code(call(&world, &agent, &security, json!({ "title": "broken" })).await), "input-invalid");
    let proposed = call(&world, &agent, &security, json!({ "title": 7 })).await.unwrap();
    assert!(matches!(proposed.items[0].result, ActionResult::Waiting { .. }));
    // The verdict of the old version is still computed again, under the catalogue that it names.
    let page = world.engine.entries(&security, EntryQuery { limit: 200, ..EntryQuery::default() }).await.unwrap();
    let waits = |verdict: &Verdict| verdict.decision == Decision::NeedsApproval;
    let asked: Vec<u64> =
        page.items.iter().filter(|e| e.verdict.as_ref().is_some_and(waits)).map(|entry| entry.index).collect();
    assert!(asked.len() >= 2, "one under each version: {asked:?}");
    for index in asked {
        let replay = world.engine.replay(&security, index).await.unwrap();
        assert_eq!(replay.computed, Some(replay.stored));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_words_of_a_server_about_a_tool_are_another_version_too() {
    let world = World::new().await;
    let security = world.person("sam", &["SECURITY", "ADMIN", "OPERATOR", "AUDITOR"]);
    let approver = world.person("ann", &["APPROVER"]);
    let agent = world.agent("fixer", &security);
    world.workflow(&security, "work").await;
    register(&world, &security, tickets(schema(), internal())).await.unwrap();
    let title = json!({ "title": "broken" });
    let gate = call(&world, &agent, &security, title.clone()).await.unwrap().gate.unwrap();
    let other = Definition { description: "Deletes every ticket.".to_owned(), ..tickets(schema(), internal()) };
    assert_eq!(register(&world, &security, other).await.unwrap().changes[0].change, Change::Redefined);
    let said = world.decide(&approver, gate, Deciding::Approve).await.unwrap();
    assert_eq!((said.effect, said.state), (Effect::Stale, State::WaitingForHuman));
    // What the registrar says of it is asked anew, and does not make another version.
    let gate = call(&world, &agent, &security, title).await.unwrap().gate.unwrap();
    let mutable = Words { mutable_target: Some(true), ..internal() };
    let again = Definition { description: "Deletes every ticket.".to_owned(), ..tickets(schema(), mutable) };
    assert_eq!(register(&world, &security, again).await.unwrap().changes[0].change, Change::Reclassified);
    assert_eq!(world.decide(&approver, gate, Deciding::Approve).await.unwrap().effect, Effect::Resolving);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_register_changes_nothing_and_the_refusal_is_on_record() {
    let world = World::with(&[org(1), org(2)]).await;
    let admin = world.person("ada", &["ADMIN", "OPERATOR", "AUDITOR"]);
    let security = world.person("sam", &["SECURITY"]);
    let agent = world.agent("fixer", &security);
    let before = world.engine.snapshot(admin.org).digests();
    // An agent, an agent on behalf of one who might, and a person without the role.
    let mut behalf = (*agent).clone();
    behalf.on_behalf_of = vec![countersign_gateway_model::Delegator {
        kind: security.kind,
        id: security.id.clone(),
        pseudonym: security.pseudonym,
    }];
    behalf.scopes = vec![Scope::Act];
    for who in [agent, Arc::new(behalf), Arc::clone(&admin)] {
        for request in [
            ToolsRequest::Register(vec![tickets(schema(), internal())]),
            ToolsRequest::Retire(name("notes.append")),
            ToolsRequest::ImportMcp(Box::new(import(json!({ "tools": [issue()] })))),
        ] {
            let count = entries(&world, &admin).await.len();
            let result = world.engine.change_tools(Arc::clone(&who), request).await;
            assert_eq!(code(result), "policy-denied");
            assert_eq!(entries(&world, &admin).await.len(), count + 1);
        }
    }
    assert_eq!(world.engine.snapshot(admin.org).digests(), before);

    register(&world, &security, tickets(schema(), internal())).await.unwrap();
    let other = world.person_of(org(2), "sam", crate::world::Of { roles: &["SECURITY"], ..Default::default() });
    assert_eq!(
        code(world.engine.tool(&other, &name("tickets.create"))),
        "not-found",
        "tools are an organization's own"
    );
    assert_eq!(world.engine.snapshot(org(2)).digests(), {
        let mut same = before;
        same.bundle = world.engine.snapshot(org(2)).digests().bundle;
        same
    });
    let retire = ToolsRequest::Retire(name("tickets.create"));
    assert_eq!(code(world.engine.change_tools(other, retire).await), "not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalogue_with_which_the_active_bundle_fails_is_refused_and_nothing_changes() {
    let world = World::new().await;
    let security = world.person("sam", &["SECURITY", "ADMIN", "AUDITOR"]);
    let before = world.engine.snapshot(security.org).digests();
    let count = entries(&world, &security).await.len();
    let request = ToolsRequest::Retire(name("repo.read"));
    let error = world.engine.change_tools(Arc::clone(&security), request.clone()).await.unwrap_err();
    assert_eq!(error.code(), "catalogue-rejected");
    assert!(error.to_string().contains("dispatch:repo.read"), "{error}");
    // Wrong in itself: the rule and the place are named.
    let wrong = tickets(json!({ "type": "array" }), internal());
    let error = register(&world, &security, wrong).await.unwrap_err();
    assert_eq!(error.code(), "tools-invalid");
    let EngineError::Tools(faults) = error else { panic!("{error}") };
    assert!(faults.to_string().starts_with("/tools/0/input: tool `tickets.create`: its input schema"), "{faults}");
    // A check says the same and changes as little; so does what is there already.
    assert_eq!(code(world.engine.check_tools(&security, request).await), "catalogue-rejected");
    let checked =
        world.engine.check_tools(&security, ToolsRequest::Register(vec![tickets(schema(), internal())])).await;
    let checked = checked.unwrap();
    assert_eq!((checked.version, checked.receipt.is_none()), (2, true));
    assert_eq!(world.engine.snapshot(security.org).digests(), before);
    assert_eq!(entries(&world, &security).await.len(), count);
    register(&world, &security, tickets(schema(), internal())).await.unwrap();
    let count = entries(&world, &security).await.len();
    let same = register(&world, &security, tickets(schema(), internal())).await.unwrap();
    assert_eq!((same.changes[0].change, same.receipt.is_none(), same.version), (Change::Unchanged, true, 2));
    assert_eq!(entries(&world, &security).await.len(), count);
}

/// The bundle that ships, with a person's approval for registering tools.
pub(crate) fn approved_registration() -> Files {
    let mut files = default_files();
    let gate = r#"
@id("tools-need-approval")
@requires_approval("policy-change")
@title("Registering tools takes a second person")
forbid (principal, action == Countersign::Action::"registerTool", resource)
unless { context.satisfied.contains(Countersign::ApprovalRule::"policy-change") };
"#;
    files.get_mut("policies.cedar").unwrap().push_str(gate);
    for text in files.values_mut().filter(|text| text.contains("\"registerTool\"") && text.contains("\"expect\"")) {
        let mut tests: Value = serde_json::from_str(text).unwrap();
        tests["cases"].as_array_mut().unwrap().retain(|test| test["ask"]["op"] != "registerTool");
        *text = tests.to_string();
    }
    files
}

fn issue() -> Value {
    json!({"name": "create_issue", "description": "Creates an issue.",
        "inputSchema": {"type": "object", "properties": {"title": {"type": "string"}}},
        "annotations": {"readOnlyHint": true}})
}

fn import(list: Value) -> McpTools {
    McpTools { server: name("github"), tools_list: list, defaults: Words::default(), tools: BTreeMap::new() }
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_of_a_server_are_listed_at_the_highest_risk_and_what_it_drops_is_named() {
    let world = World::new().await;
    let security = world.person("sam", &["SECURITY", "ADMIN", "AUDITOR"]);
    let more = json!({ "name": "two words", "inputSchema": { "type": "object" } });
    let list = import(json!({ "tools": [issue(), more] }));
    let changed =
        world.engine.change_tools(Arc::clone(&security), ToolsRequest::ImportMcp(Box::new(list))).await.unwrap();
    assert_eq!((changed.skipped.len(), changed.ignored), (1, vec!["annotations".to_owned()]));
    let tool = world.engine.tool(&security, &name("github.create_issue")).unwrap().tool;
    assert_eq!((tool.risk, tool.data_class, tool.scopes), (4, "restricted", vec![name("github:create_issue")]));
    let other = json!({ "name": "close_issue", "inputSchema": { "type": "object" } });
    let list = import(json!({ "tools": [other] }));
    let changed = world.engine.change_tools(security, ToolsRequest::ImportMcp(Box::new(list))).await.unwrap();
    assert_eq!(changed.missing, [name("github.create_issue")]);
}
