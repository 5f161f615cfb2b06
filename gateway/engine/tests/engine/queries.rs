//! Questions about policy say what would happen, and make nothing happen.

use std::sync::Arc;

use countersign_gateway_engine::{
    Approvers, Effect, EngineError, EntryQuery, EntryRecord, Permission, QuestionExplained,
};
use countersign_gateway_model::{Decision, Delegator, GateId, InstanceId, Name, Principal, PrincipalKind, Verdict};
use countersign_policy_decide::Operation;
use serde_json::{Value, json};

use crate::bench::{Files, default_files};
use crate::world::{Deciding, Of, World, name, org};

async fn entries(world: &World, who: &Principal, instance: Option<InstanceId>) -> Vec<EntryRecord> {
    let query = EntryQuery { instance, limit: 200, ..EntryQuery::default() };
    world.engine.entries(who, query).await.unwrap().items
}

/// What is on record for the newest question of an instance.
async fn recorded(world: &World, who: &Principal, instance: InstanceId) -> (Verdict, Vec<Name>) {
    let all = entries(world, who, Some(instance)).await;
    let last = all.into_iter().rev().find(|entry| entry.verdict.is_some()).unwrap();
    (last.verdict.unwrap(), last.determining.concat())
}

fn code(result: Result<impl std::fmt::Debug, EngineError>) -> &'static str {
    result.unwrap_err().code()
}

/// A gate of a tool, in an instance of its own.
async fn gate(world: &World, owner: &Arc<Principal>, agent: &Arc<Principal>, (tool, input): (&str, Value)) -> GateId {
    let instance = world.instance(owner, "work", agent).await.instance.id;
    world.propose(agent, instance, &[(tool, input)]).await.unwrap().gate.unwrap()
}

fn said<'a>(answer: &'a Approvers, person: &Principal) -> (bool, &'a [String]) {
    let found = answer.persons.iter().find(|one| one.person == person.id).unwrap();
    (found.may, &found.items[0].why_not)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_of_each_person_is_what_becomes_of_their_vote() {
    let world = World::new().await;
    let dana = world.person("dana", &["ADMIN", "OPERATOR", "AUDITOR", "APPROVER"]);
    let ann = world.person("ann", &["APPROVER"]);
    let bob = world.person("bob", &["OPERATOR"]);
    let agent = world.agent("fixer", &dana);
    world.workflow(&dana, "work").await;
    let refund = || ("payments.refund", json!({ "amount": 5, "currency": "EUR", "order": "o-1" }));
    let merge = || ("repo.merge", json!({ "branch": "main", "message": "fix" }));
    let mut may = Vec::new();
    for (tool, input) in [refund(), merge()] {
        for person in [&dana, &ann, &bob] {
            let gate = gate(&world, &dana, &agent, (tool, input.clone())).await;
            let before = entries(&world, &dana, None).await.len();
            let answer = world.engine.approvers(&dana, gate, None, 200).await.unwrap();
            assert_eq!(entries(&world, &dana, None).await.len(), before, "nothing is recorded");
            let (says, why_not) = said(&answer, person);
            let effect = world.decide(person, gate, Deciding::Approve).await.unwrap().effect;
            assert_eq!(
                says,
                matches!(effect, Effect::Counted | Effect::Resolving),
                "{tool} {}: {why_not:?}",
                person.id
            );
            assert_eq!(says, why_not.is_empty(), "{tool} {}: {why_not:?}", person.id);
            may.push((person.id.to_string(), says, why_not.join("; ")));
        }
    }
    let words = |at: usize| (may[at].0.as_str(), may[at].1, may[at].2.as_str());
    // The owner's own agent asks for money: the rule excludes them; a merge it does not.
    assert!(matches!(words(0), ("dana", false, why) if why.starts_with("excluded: ")), "{may:?}");
    assert!(matches!(words(3), ("dana", true, "")), "{may:?}");
    let (_, bob_may, why) = words(2);
    assert!(!bob_may && why.contains("rule `payment`: asks for role APPROVER, which they do not have"), "{why}");
    assert!(why.contains("policy `eligible-approves`"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_voted_what_is_closed_and_what_stands_in_everybodys_way_is_said() {
    let world = World::under(&crate::bench::with_rule("merge", |rule| rule["quorum"]["persons"] = 2.into())).await;
    let dana = world.person("dana", &["ADMIN", "OPERATOR", "AUDITOR", "STOP"]);
    let (ann, amy) = (world.person("ann", &["APPROVER"]), world.person("amy", &["APPROVER"]));
    let agent = world.agent("fixer", &dana);
    world.workflow(&dana, "work").await;
    let gate = gate(&world, &dana, &agent, ("repo.merge", json!({ "branch": "main", "message": "fix" }))).await;
    world.decide(&ann, gate, Deciding::Approve).await.unwrap();
    let first = world.engine.approvers(&dana, gate, None, 1).await.unwrap();
    assert_eq!((first.persons.len(), first.next.clone()), (1, Some(amy.id.clone())));
    let rest = world.engine.approvers(&dana, gate, first.next.as_ref(), 200).await.unwrap();
    let voted = |answer: &Approvers, who: &Principal| {
        answer.persons.iter().find(|p| p.person == who.id).unwrap().items[0].voted
    };
    assert!(voted(&rest, &ann) && !voted(&first, &amy) && rest.next.is_none());
    assert!(rest.gate.items[0].rules.iter().any(|rule| (rule.counted, rule.quorum) == (1, 2)));

    world.engine.freeze(Arc::clone(&dana), None, false, None).await.unwrap();
    let frozen = world.engine.approvers(&dana, gate, None, 200).await.unwrap();
    assert!(frozen.notes[0].contains("frozen") && frozen.persons.iter().all(|person| !person.may));
    world.engine.freeze(Arc::clone(&dana), None, true, None).await.unwrap();
    world.decide(&amy, gate, Deciding::Approve).await.unwrap();
    let closed = world.engine.approvers(&dana, gate, None, 200).await.unwrap();
    assert!(closed.persons.is_empty() && closed.notes[0].contains("closed"));
}

#[test]
fn who_may_approve_is_worked_out_beside_the_runtime_and_without_the_streams_lock() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build().unwrap();
    runtime.block_on(async {
        let world = World::new().await;
        let dana = world.person("dana", &["ADMIN", "OPERATOR", "AUDITOR", "APPROVER"]);
        let agent = world.agent("fixer", &dana);
        world.workflow(&dana, "work").await;
        let gate = gate(&world, &dana, &agent, ("repo.merge", json!({ "branch": "main", "message": "fix" }))).await;
        let instance = world.engine.gate(&dana, gate).await.unwrap().gate.instance;
        // The one thread beside the runtime is busy: the answer has to wait for it, and nobody else does.
        let (release, held) = std::sync::mpsc::sync_channel::<()>(1);
        let busy = tokio::task::spawn_blocking(move || held.recv().is_ok());
        let (engine, asks) = (world.engine.clone(), Arc::clone(&dana));
        let asking = tokio::spawn(async move { engine.approvers(&asks, gate, None, 200).await });
        for _ in 0..200 {
            // Takes the stream's lock.
            let read = tokio::time::timeout(std::time::Duration::from_secs(20), world.engine.instance(&dana, instance));
            read.await.unwrap().unwrap();
            tokio::task::yield_now().await;
        }
        assert!(!asking.is_finished(), "it was worked out on the runtime's own thread");
        release.send(()).unwrap();
        assert!(busy.await.unwrap());
        let answer = asking.await.unwrap().unwrap();
        assert!(said(&answer, &dana).0, "{answer:?}");
    });
}

/// The questions about tools that the default bundle's own tests ask.
fn tool_cases(files: &Files) -> Vec<(String, String, Value, Option<String>)> {
    let mut found = Vec::new();
    for text in files.iter().filter(|(path, _)| path.starts_with("tests/")).map(|(_, text)| text) {
        let tests: Value = serde_json::from_str(text).unwrap();
        for case in tests["cases"].as_array().unwrap() {
            let ask = &case["ask"];
            let Some(tool) = ask["resource"].as_str().and_then(|resource| resource.strip_prefix("Tool::")) else {
                continue;
            };
            let input = ask.get("input").cloned().unwrap_or(json!({}));
            let revision = ask["revision"].as_str().map(str::to_owned);
            found.push((ask["op"].as_str().unwrap().to_owned(), tool.to_owned(), input, revision));
        }
    }
    found.sort_by_key(|(op, tool, input, _)| (op.clone(), tool.clone(), input.to_string()));
    found.dedup();
    found
}

/// Asks what would be said to a proposal, makes it, and gives both answers.
async fn both(
    world: &World,
    (owner, agent): (&Arc<Principal>, &Arc<Principal>),
    (op, tool, input): (&str, &str, &Value),
) -> (Result<QuestionExplained, EngineError>, (Verdict, Vec<Name>)) {
    let instance = world.instance(owner, "work", agent).await.instance.id;
    let question = json!({
        "asked": format!("Agent::{}", agent.id), "op": op, "resource": format!("Tool::{tool}"),
        "instance": format!("Instance::{instance}"), "input": input,
    });
    let supposed = world.engine.what_if(owner, question.to_string().as_bytes()).await;
    // Permitted, waiting or refused: each is on record with its verdict. Held up before policy: nothing is.
    match world.propose(agent, instance, &[(tool, input.clone())]).await {
        Ok(_) | Err(EngineError::Refused(_)) => (supposed, recorded(world, owner, instance).await),
        Err(error) => panic!("{op} {tool} {input}: {error}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_if_says_of_each_case_of_the_default_bundle_what_a_proposal_is_told() {
    let world = World::new().await;
    let dana = world.person("dana", &["ADMIN", "OPERATOR", "AUDITOR", "SECURITY"]);
    let agent = world.agent("fixer", &dana);
    world.workflow(&dana, "work").await;
    let snapshot = world.engine.snapshot(dana.org);
    let (mut looked, mut decisions) = (0, Vec::new());
    for (op, tool, input, _) in tool_cases(&default_files()) {
        let listed = snapshot.tool(&tool);
        // The way of a proposal chooses the operation by the tool, and refuses what does not fit before policy is asked.
        let runs = listed.is_some_and(|tool| tool.tool.runner.is_some());
        let fits = listed
            .is_none_or(|tool| countersign_policy_decide::input::parse(tool, input.to_string().as_bytes()).is_ok());
        if !fits || listed.is_some() && runs != (op == "dispatch") {
            continue;
        }
        let (supposed, (verdict, determining)) = both(&world, (&dana, &agent), (&op, &tool, &input)).await;
        let supposed = supposed.unwrap();
        assert_eq!((&supposed.verdict, &supposed.determining), (&verdict, &determining), "{op} {tool} {input}");
        decisions.push(verdict.decision);
        looked += 1;
    }
    assert!(looked >= 20, "{looked}");
    for decision in [Decision::Allow, Decision::NeedsApproval, Decision::Deny] {
        assert!(decisions.contains(&decision), "no case is {decision:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_if_masks_and_transforms_an_input_as_a_proposal_does() {
    let world = World::under(&crate::transforms::files()).await;
    let dana = world.person("dana", &["ADMIN", "OPERATOR", "AUDITOR", "SECURITY"]);
    let agent = world.agent("fixer", &dana);
    world.workflow(&dana, "work").await;
    for (op, tool, input, decision) in [
        ("callTool", "notes.append", json!({ "text": "the password is hunter2, 4711" }), Decision::Allow),
        ("callTool", "notes.append", json!({ "text": "later" }), Decision::Allow),
        ("callTool", "repo.merge", json!({ "branch": "main", "message": "4711" }), Decision::NeedsApproval),
        ("callTool", "nothing.known", json!({ "message": "4711" }), Decision::Deny),
    ] {
        let (supposed, (verdict, determining)) = both(&world, (&dana, &agent), (op, tool, &input)).await;
        let supposed = supposed.unwrap();
        assert_eq!((&supposed.verdict, &supposed.determining), (&verdict, &determining), "{tool} {input}");
        assert_eq!(verdict.decision, decision, "{tool} {input}");
        let told = format!("{supposed:?}");
        assert!(!told.contains("4711"), "a raw value is nowhere in an explanation: {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_principal_may_do_is_what_it_is_permitted() {
    let world = World::new().await;
    let dana = world.person("dana", &["ADMIN", "OPERATOR", "AUDITOR"]);
    let agent = world.agent("fixer", &dana);
    world.workflow(&dana, "work").await;
    let nowhere = world.engine.permissions(&dana, (PrincipalKind::Agent, &agent.id), None).await.unwrap();
    assert!(nowhere.instance.is_none() && nowhere.notes[0].contains("no open instance"));
    let instance = world.instance(&dana, "work", &agent).await.instance.id;
    let before = entries(&world, &dana, None).await.len();
    let answer = world.engine.permissions(&dana, (PrincipalKind::Agent, &agent.id), None).await.unwrap();
    assert_eq!(entries(&world, &dana, None).await.len(), before, "nothing is recorded");
    assert_eq!(answer.instance, Some(instance));
    let snapshot = world.engine.snapshot(dana.org);
    let tools: Vec<&Permission> =
        answer.lines.iter().filter(|line| snapshot.tool(line.resource.id.as_str()).is_some()).collect();
    assert_eq!(tools.len(), snapshot.tools().count());
    for line in tools {
        let tool = snapshot.tool(line.resource.id.as_str()).unwrap();
        let input: Value = serde_json::from_slice(&tool.shape.smallest().unwrap().canonical()).unwrap();
        let fresh = world.instance(&dana, "work", &agent).await.instance.id;
        let _ = world.propose(&agent, fresh, &[(line.resource.id.as_str(), input)]).await;
        let (verdict, determining) = recorded(&world, &dana, fresh).await;
        assert_eq!((line.decision, &line.rules, &line.determining), (verdict.decision, &verdict.rules, &determining));
    }
    let of = |lines: &[Permission], operation: Operation| {
        lines.iter().find(|line| line.operation == operation).unwrap().decision
    };
    assert_eq!(of(&answer.lines, Operation::RegisterTool), Decision::Deny);
    assert_eq!(of(&answer.lines, Operation::ListTools), Decision::Allow);
    assert_eq!(of(&answer.lines, Operation::Complete), Decision::Allow);
    let person = world.engine.permissions(&dana, (PrincipalKind::Person, &dana.id), Some(instance)).await.unwrap();
    assert_eq!(of(&person.lines, Operation::RegisterWorkflow), Decision::Allow);
    assert_eq!(of(&person.lines, Operation::RegisterTool), Decision::Deny);
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_about_policy_are_not_for_agents_nor_about_others_and_leave_nothing() {
    let world = World::with(&[org(1), org(2)]).await;
    let dana = world.person("dana", &["ADMIN", "OPERATOR", "AUDITOR"]);
    let bob = world.person("bob", &["OPERATOR"]);
    let agent = world.agent("fixer", &dana);
    let other = world.person_of(org(2), "olga", Of { roles: &["ADMIN", "AUDITOR"], ..Of::default() });
    world.workflow(&dana, "work").await;
    let gate = gate(&world, &dana, &agent, ("repo.merge", json!({ "branch": "main", "message": "fix" }))).await;
    let mut behalf = (*agent).clone();
    behalf.on_behalf_of = vec![Delegator { kind: dana.kind, id: dana.id.clone(), pseudonym: dana.pseudonym }];
    let before = entries(&world, &dana, None).await.len();
    let question = json!({ "asked": "Person::dana", "op": "listTools", "resource": "Organization::self" }).to_string();
    let question = question.as_bytes();
    for who in [&*agent, &behalf, &bob, &other] {
        assert_eq!(code(world.engine.approvers(who, gate, None, 10).await), "not-found");
        assert_eq!(code(world.engine.permissions(who, (PrincipalKind::Agent, &agent.id), None).await), "not-found");
        if who.org == org(1) {
            assert_eq!(code(world.engine.what_if(who, question).await), "not-found");
            assert_eq!(code(world.engine.what_if_each(who, &[question]).await), "not-found");
        }
    }
    // Many at once: each by itself, bounded.
    let wrong = b"{\"asked\": 7}".as_slice();
    let answers = world.engine.what_if_each(&dana, &[question, wrong, question]).await.unwrap();
    assert_eq!(answers.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
    assert_eq!(code(world.engine.what_if_each(&dana, &[question; 101]).await), "parameter-invalid");
    assert_eq!(code(world.engine.what_if_each(&dana, &[]).await), "parameter-invalid");
    assert_eq!(entries(&world, &dana, None).await.len(), before);
    let unknown = (PrincipalKind::Agent, &name("nobody"));
    assert_eq!(code(world.engine.permissions(&dana, unknown, None).await), "not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_bundle_opens_questions_about_policy_to_agents() {
    let mut files = default_files();
    files.get_mut("policies.cedar").unwrap().push_str(
        r#"
@id("agents-read-everything")
@title("Agents of autonomy 4 read everything")
permit (
  principal is Countersign::Agent,
  action in Countersign::Action::"read",
  resource
)
when { principal.autonomy >= 4 };
"#,
    );
    let world = World::under(&files).await;
    let dana = world.person("dana", &["ADMIN", "OPERATOR", "AUDITOR"]);
    let agent = world.agent("fixer", &dana);
    world.workflow(&dana, "work").await;
    let gate = gate(&world, &dana, &agent, ("repo.merge", json!({ "branch": "main", "message": "fix" }))).await;
    let asked = entries(&world, &dana, None).await;
    let asked = asked.iter().rev().find(|entry| entry.verdict.is_some()).unwrap().index;
    let mut behalf = (*agent).clone();
    behalf.on_behalf_of = vec![Delegator { kind: dana.kind, id: dana.id.clone(), pseudonym: dana.pseudonym }];
    let question = json!({ "asked": "Person::dana", "op": "listTools", "resource": "Organization::self" }).to_string();
    let question = question.as_bytes();
    let fixer = (PrincipalKind::Agent, &agent.id);
    let engine = &world.engine;
    for who in [&*agent, &behalf] {
        // What the bundle can open is open.
        assert!(!entries(&world, who, None).await.is_empty());
        assert_eq!(code(engine.explain(who, asked).await), "not-found");
        assert_eq!(code(engine.what_if(who, question).await), "not-found");
        assert_eq!(code(engine.what_if_each(who, &[question]).await), "not-found");
        assert_eq!(code(engine.permissions(who, fixer, None).await), "not-found");
        assert_eq!(code(engine.approvers(who, gate, None, 10).await), "not-found");
        assert_eq!(code(engine.counters(who).await), "not-found");
        let candidate = serde_json::to_vec(&files).unwrap();
        assert_eq!(engine.begin_backtest(who, candidate).await.err().unwrap().code(), "not-found");
    }
    assert!(!engine.explain(&dana, asked).await.unwrap().is_empty());
    engine.approvers(&dana, gate, None, 10).await.unwrap();
    engine.counters(&dana).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_budget_leaves_is_part_of_what_may_be_done_and_what_a_rule_asks_of_a_login_is_said() {
    let world = World::under(&crate::counters::files_of("1.0", 86_400)).await;
    let dana = world.person("dana", &["ADMIN", "OPERATOR", "AUDITOR"]);
    let agent = world.agent("fixer", &dana);
    world.workflow(&dana, "work").await;
    let instance = world.instance(&dana, "work", &agent).await.instance.id;
    for (decision, note) in [(Decision::Allow, true), (Decision::Deny, false)] {
        let answer = world.engine.permissions(&dana, (PrincipalKind::Agent, &agent.id), Some(instance)).await.unwrap();
        let line = answer.lines.iter().find(|line| line.resource.id == name("notes.append")).unwrap();
        assert_eq!(line.decision, decision, "{line:?}");
        if note {
            world.propose(&agent, instance, &[("notes.append", json!({ "text": "a" }))]).await.unwrap();
        }
    }

    let demanding = crate::bench::with_rule("merge", |rule| rule["demand"] = json!({ "fresh_s": 300 }));
    let world = World::under(&demanding).await;
    let dana = world.person("dana", &["ADMIN", "OPERATOR", "AUDITOR"]);
    let agent = world.agent("fixer", &dana);
    world.workflow(&dana, "work").await;
    let gate = gate(&world, &dana, &agent, ("repo.merge", json!({ "branch": "main", "message": "fix" }))).await;
    let answer = world.engine.approvers(&dana, gate, None, 10).await.unwrap();
    assert_eq!(answer.demands, ["rule `merge`: a login no older than 300 seconds"]);
}
