//! What policy changes in an input, and what it only watches: masks, transforms, policies in shadow.

use std::sync::Arc;

use countersign_gateway_engine::{
    ActionResult, ChangedBy, EngineError, EntryQuery, Idempotency, Instead, OutcomeReport, Semantic,
};
use countersign_gateway_model::{ActionId, Decision, Digest, InstanceId, Outcome, Principal, PrincipalKind, State};
use serde_json::{Value, json};

use crate::bench::{Files, default_files};
use crate::evaluations::{asks, enforcement_point};
use crate::world::{Deciding, World, org, replace, request};

const MASKS: &str = r#"{
  "masks": {"branch": {"steps": [{"tools": ["repo.merge"], "at": ["/message"], "with": "stars"}]}},
  "transforms": {"shorten": {"steps": [{"tools": ["notes.append"], "at": ["/text"], "with": {"constant": "[removed]"}}]}}
}"#;

const POLICIES: &str = r#"
@id("no-secrets-in-notes")
@title("A secret is cut out of a note")
@transform("shorten")
forbid (principal, action == Countersign::Action::"callTool:notes.append", resource)
when { context.input.text like "*hunter2*" }
unless { context.applied.contains("shorten") };

@id("no-notes-at-all")
@title("Notes are to be stopped next week")
forbid (principal, action == Countersign::Action::"callTool:notes.append", resource)
when { context.input.text like "*later*" };
"#;

/// The default bundle with a mask, a transform, and a policy in shadow.
pub(crate) fn files() -> Files {
    let mut files = default_files();
    files.get_mut("policies.cedar").unwrap().push_str(POLICIES);
    files.insert("masks.json".to_owned(), MASKS.to_owned());
    let shadow = json!({ "policies": [{ "id": "no-notes-at-all", "until": 1_900_000_000_000_u64 }] });
    let settings = json!({ "transforms": ["shorten"], "shadow": shadow });
    files.insert("bundle.json".to_owned(), settings.to_string());
    files
}

/// An instance at work under a bundle that masks, transforms and watches.
struct Scene {
    world: World,
    dana: Arc<Principal>,
    agent: Arc<Principal>,
    instance: InstanceId,
}

async fn scene() -> Scene {
    let world = World::new().await;
    world.policies.install(org(1), &files());
    let dana = world.person("dana", &["OPERATOR", "ADMIN", "AUDITOR"]);
    let agent = world.agent("fixer", &dana);
    world.workflow(&dana, "repair").await;
    let instance = world.instance(&dana, "repair", &agent).await.instance.id;
    Scene { world, dana, agent, instance }
}

/// Everything that the organization's evidence shows, payloads included.
async fn shown(world: &World, who: &Principal) -> String {
    String::from_utf8_lossy(&world.engine.pack(who, true).await.unwrap()).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transformed_field_reaches_neither_tool_nor_record_raw_and_its_verdict_can_be_computed_again() {
    let Scene { world, dana, agent, instance } = scene().await;
    let note = json!({ "text": "the password is hunter2" });
    let proposed = world.propose(&agent, instance, &[("notes.append", note)]).await.unwrap();
    assert!(matches!(proposed.items[0].result, ActionResult::Permitted { .. }), "{:?}", proposed.items[0].result);
    let evidence = shown(&world, &dana).await;
    assert!(!evidence.contains("hunter2"), "the raw text is on record");
    assert!(evidence.contains("[removed]"), "what the permit is bound to is the new input");
    let query = EntryQuery { instance: Some(instance), from: 0, limit: 100 };
    for entry in world.engine.entries(&dana, query).await.unwrap().items {
        if entry.verdict.is_some() {
            let replay = world.engine.replay(&dana, entry.index).await.unwrap();
            assert_eq!(replay.computed.as_ref(), Some(&replay.stored), "entry {} ({})", entry.index, entry.kind);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_override_is_transformed_like_a_proposal_and_a_masked_field_reaches_no_approver_raw() {
    let Scene { world, dana, agent, instance } = scene().await;
    let ada = world.person("ada", &["APPROVER"]);
    let merge = json!({ "branch": "main", "message": "hunter2 again" });
    let proposed = world.propose(&agent, instance, &[("repo.merge", merge)]).await.unwrap();
    let gate = proposed.gate.unwrap();
    let view = world.engine.gate(&ada, gate).await.unwrap();
    let text = format!("{view:?}");
    assert!(!text.contains("hunter2") && text.contains("*************"), "{text}");
    let item = view.gate.items[0].item;
    let message = Value::from("hunter2 once more");
    world.decide(&ada, gate, replace(item, "/message", message)).await.unwrap();
    let evidence = shown(&world, &dana).await;
    assert!(!evidence.contains("hunter2"), "a masked field is on record raw");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_in_shadow_stops_nothing_and_what_it_would_have_said_is_on_record() {
    let Scene { world, dana, agent, instance } = scene().await;
    for (text, watched) in [("now", false), ("later", true)] {
        let proposed = world.propose(&agent, instance, &[("notes.append", json!({ "text": text }))]).await.unwrap();
        assert!(matches!(proposed.items[0].result, ActionResult::Permitted { .. }));
        let evidence = shown(&world, &dana).await;
        assert_eq!(evidence.contains("\"would_be\":"), watched, "{text}");
    }
    let evidence = shown(&world, &dana).await;
    assert!(evidence.contains("\"shadow\":[\"no-notes-at-all\"]"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_explanation_names_the_clause_that_stood_in_the_way_and_agents_get_none() {
    let Scene { world, dana, agent, instance } = scene().await;
    let secret = json!({ "path": "credentials" });
    let refused = world.propose(&agent, instance, &[("repo.read", secret)]).await.unwrap_err();
    let EngineError::Refused(refused) = refused else { panic!("{refused}") };
    let explained = world.engine.explain(&dana, refused.receipt.index).await.unwrap();
    assert_eq!((explained.len(), explained[0].asked.as_str()), (1, "Agent::fixer"));
    let first = &explained[0].policies[0];
    assert!(first.forbids && explained[0].determining.contains(&first.policy), "{first:?}");
    assert!(explained[0].text.contains("context.input.path"), "{}", explained[0].text);

    let question = json!({
        "asked": "Agent::fixer", "op": "callTool", "resource": "Tool::notes.append",
        "instance": format!("Instance::{instance}"), "input": { "text": "a" },
    });
    let bytes = serde_json::to_vec(&question).unwrap();
    let what_if = world.engine.what_if(&dana, &bytes).await.unwrap();
    assert_eq!(what_if.verdict.decision, Decision::Allow, "{}", what_if.text);
    let before = world.engine.entries(&dana, EntryQuery { instance: None, from: 0, limit: 200 }).await.unwrap();
    for who in [&agent, &world.person("eve", &["OPERATOR"])] {
        let one = world.engine.explain(who, refused.receipt.index).await.unwrap_err();
        let other = world.engine.what_if(who, &bytes).await.unwrap_err();
        assert_eq!((one.code(), other.code()), ("not-found", "not-found"));
    }
    let after = world.engine.entries(&dana, EntryQuery { instance: None, from: 0, limit: 200 }).await.unwrap();
    assert_eq!(before.items.len(), after.items.len(), "an explanation leaves no entry");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mask_that_came_into_force_while_people_were_asked_lets_nothing_raw_through() {
    let world = World::new().await;
    let dana = world.person("dana", &["OPERATOR", "ADMIN", "AUDITOR"]);
    let ada = world.person("ada", &["APPROVER"]);
    let agent = world.agent("fixer", &dana);
    world.workflow(&dana, "repair").await;
    let instance = world.instance(&dana, "repair", &agent).await.instance.id;
    let merge = json!({ "branch": "main", "message": "hunter2" });
    let gate = world.propose(&agent, instance, &[("repo.merge", merge)]).await.unwrap().gate.unwrap();
    world.policies.install(org(1), &files());
    let answer = world.decide(&ada, gate, Deciding::Approve).await;
    assert!(answer.is_err() || world.state(&dana, instance).await == State::WaitingForHuman, "{answer:?}");
    let query = EntryQuery { instance: Some(instance), from: 0, limit: 100 };
    let entries = world.engine.entries(&dana, query).await.unwrap().items;
    assert!(entries.iter().all(|entry| entry.kind != "permit"), "the raw input was permitted");
    world.decide(&ada, gate, Deciding::Reject).await.unwrap();
    assert_eq!(world.state(&dana, instance).await, State::Terminated);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evaluation_of_an_input_that_policy_would_change_is_no_yes_and_leaves_nothing_raw() {
    let world = World::new().await;
    world.policies.install(org(1), &files());
    let dana = world.person("dana", &["OPERATOR", "ADMIN", "AUDITOR"]);
    let proxy = enforcement_point(&world, &dana, &["evaluate"]);
    world.agent("fixer", &dana);
    let merge = json!({ "branch": "main", "message": "hunter2" });
    let request = asks(PrincipalKind::Agent, "fixer", "repo.merge", &merge);
    let answers = world.engine.evaluate(proxy, vec![request], Semantic::ExecuteAll).await.unwrap();
    assert_eq!(answers[0].decision, Decision::Deny);
    assert!(answers[0].reason.as_ref().unwrap().contains("masks"), "{:?}", answers[0].reason);
    assert!(!shown(&world, &dana).await.contains("hunter2"));
}

/// What is to be carried out instead of what was sent, and what made it so.
fn told(instead: Option<&Instead>) -> Option<(Value, Vec<&'static str>)> {
    instead.map(|instead| {
        let by = instead.changed_by.iter().copied().map(ChangedBy::as_str).collect();
        (serde_json::from_slice(&instead.input).unwrap(), by)
    })
}

fn keyed(key: &str) -> Idempotency {
    Idempotency { key: key.to_owned(), request: Digest([3; 32]) }
}

impl Scene {
    async fn read(&self, who: &Principal, action: ActionId) -> Option<(Value, Vec<&'static str>)> {
        told(self.world.engine.action(who, action).await.unwrap().instead.as_ref())
    }

    async fn begin(&self, action: ActionId, key: Option<Idempotency>) -> (bool, Option<(Value, Vec<&'static str>)>) {
        let begun = self.world.engine.begin(Arc::clone(&self.agent), action, key).await.unwrap();
        (begun.start.first, told(begun.instead.as_ref()))
    }

    async fn propose(&self, tool: &str, input: Value, begin: bool, key: &str) -> (ActionId, bool, Option<Instead>) {
        let requests = vec![request(tool, &input)];
        let agent = Arc::clone(&self.agent);
        let proposed =
            self.world.engine.propose(agent, self.instance, requests, begin, Some(keyed(key))).await.unwrap();
        (proposed.items[0].action, proposed.first, proposed.items[0].instead.clone())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_carries_it_out_is_given_what_was_permitted() {
    let mut at = scene().await;
    let ada = at.world.person("ada", &["APPROVER"]);
    let note = json!({ "text": "the password is hunter2" });
    let short = Some((json!({ "text": "[removed]" }), vec!["transform"]));

    // In the answer with the permit, in the same answer again, to whoever reads the action, and at its start.
    let (action, first, instead) = at.propose("notes.append", note.clone(), false, "k1").await;
    assert_eq!((first, told(instead.as_ref())), (true, short.clone()));
    let (again, first, instead) = at.propose("notes.append", note.clone(), false, "k1").await;
    assert_eq!((again, first, told(instead.as_ref())), (action, false, short.clone()));
    assert_eq!((at.read(&at.agent, action).await, at.read(&at.dana, action).await), (short.clone(), short.clone()));
    at.world.restart().await;
    assert_eq!(
        at.begin(action, Some(keyed("b1"))).await,
        (true, short.clone()),
        "read from the ledger by another process"
    );
    assert_eq!(at.begin(action, Some(keyed("b1"))).await, (false, short.clone()));
    let done = OutcomeReport { outcome: Outcome::Succeeded, output: None };
    at.world.engine.report(Arc::clone(&at.agent), action, done, None).await.unwrap();
    assert_eq!(at.read(&at.agent, action).await, short, "it stays what was permitted");
    let (begun, _, instead) = at.propose("notes.append", note, true, "k2").await;
    assert_eq!((told(instead.as_ref()), at.read(&at.agent, begun).await), (short.clone(), short));
    let done = OutcomeReport { outcome: Outcome::Succeeded, output: None };
    at.world.engine.report(Arc::clone(&at.agent), begun, done, None).await.unwrap();

    // After a gate: what a mask left, and what a person made of it.
    let starred = json!({ "branch": "main", "message": "*******" });
    let staging = json!({ "branch": "staging", "message": "*******" });
    for (sent, change, expected) in [
        (json!({ "branch": "main", "message": "hunter2" }), None, (starred, vec!["mask"])),
        (json!({ "branch": "main", "message": "hunter2" }), Some("staging"), (staging, vec!["mask", "override"])),
        (json!({ "branch": "main" }), Some("staging"), (json!({ "branch": "staging" }), vec!["override"])),
    ] {
        let proposed = at.world.propose(&at.agent, at.instance, &[("repo.merge", sent)]).await.unwrap();
        let (gate, action) = (proposed.gate.unwrap(), proposed.items[0].action);
        assert!(proposed.items[0].instead.is_none(), "nothing is permitted yet");
        assert_eq!(at.read(&at.agent, action).await, None);
        let item = at.world.engine.gate(&ada, gate).await.unwrap().gate.items[0].item;
        let decision = change.map_or(Deciding::Approve, |branch| replace(item, "/branch", json!(branch)));
        let decided = at.world.decide(&ada, gate, decision).await.unwrap();
        assert_eq!(told(decided.items[0].instead.as_ref()), Some(expected.clone()));
        assert_eq!(at.read(&at.agent, action).await, Some(expected.clone()));
        assert_eq!(at.begin(action, None).await, (true, Some(expected)));
        let done = OutcomeReport { outcome: Outcome::Succeeded, output: None };
        at.world.engine.report(Arc::clone(&at.agent), action, done, None).await.unwrap();
    }
    assert!(!shown(&at.world, &at.dana).await.contains("hunter2"), "what is told is what is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_unchanged_is_not_told_again_and_others_are_told_nothing() {
    let mut at = scene().await;
    let (plain, _, instead) = at.propose("notes.append", json!({ "text": "plain" }), false, "k1").await;
    assert_eq!((instead, at.read(&at.agent, plain).await), (None, None));
    assert_eq!(at.begin(plain, None).await, (true, None));
    let (plain, ..) = at.propose("notes.append", json!({ "text": "plain" }), false, "k2").await;
    at.world.restart().await;
    assert_eq!(at.begin(plain, None).await, (true, None));
    let (secret, ..) = at.propose("notes.append", json!({ "text": "hunter2" }), false, "k3").await;
    let stranger = at.world.agent("stranger", &at.dana);
    assert_eq!(at.world.engine.action(&stranger, secret).await.unwrap_err().code(), "not-found");
    assert_eq!(at.world.engine.begin(stranger, secret, None).await.unwrap_err().code(), "not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn once_its_inputs_are_erased_a_verdict_is_not_computed_and_what_was_changed_is_not_started() {
    let at = scene().await;
    let (action, ..) = at.propose("notes.append", json!({ "text": "hunter2" }), false, "k1").await;
    let query = EntryQuery { instance: Some(at.instance), from: 0, limit: 100 };
    let entries = at.world.engine.entries(&at.dana, query).await.unwrap().items;
    let permit = entries.iter().find(|entry| entry.kind == "permit").unwrap().index;
    let before = at.world.engine.replay(&at.dana, permit).await.unwrap();
    assert_eq!(before.computed, Some(before.stored.clone()));
    // A process that has not permitted it itself, so that nothing is remembered.
    let mut at = at;
    at.world.restart().await;
    at.world.erase(org(1), permit).await;

    let after = at.world.engine.replay(&at.dana, permit).await.unwrap();
    assert_eq!((after.stored, after.computed), (before.stored, None), "not a mismatch: nobody can tell any more");
    let explained = at.world.engine.explain(&at.dana, permit).await.unwrap_err();
    assert_eq!(explained.code(), "not-found");
    assert!(explained.to_string().contains("it was erased"), "{explained}");
    assert_eq!(at.read(&at.agent, action).await, None);
    let begun = at.world.engine.begin(Arc::clone(&at.agent), action, None).await.unwrap_err();
    assert!(begun.to_string().contains("it was erased"), "nobody can be told what to carry out: {begun}");
    assert_eq!(at.world.engine.action(&at.agent, action).await.unwrap().status, "permitted", "and nothing began");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_masked_field_reaches_the_runner_as_the_mask_left_it() {
    let mut files = default_files();
    let masks = json!({ "masks": { "content": { "steps": [
        { "tools": ["repo.write_patch"], "at": ["/content"], "with": "stars" }
    ] } } });
    files.insert("masks.json".to_owned(), masks.to_string());
    let world = World::under(&files).await;
    let dana = world.person("dana", &["OPERATOR", "ADMIN", "AUDITOR"]);
    let agent = world.agent("fixer", &dana);
    world.workflow(&dana, "repair").await;
    let instance = world.instance(&dana, "repair", &agent).await.instance.id;
    let patch = json!({ "path": "a.txt", "content": "hunter2" });
    let proposed = world.propose(&agent, instance, &[("repo.write_patch", patch)]).await.unwrap();
    let ActionResult::Dispatched { start, .. } = &proposed.items[0].result else { panic!("{proposed:?}") };
    world.runner.until("an order", |asked| !asked.is_empty()).await;
    let file = |name| world.runner.input_of(start.permit, name).unwrap();
    assert_eq!((file("content").as_str(), file("path").as_str()), ("*******", "a.txt"));
    assert_eq!(file("input.json"), r#"{"content":"*******","path":"a.txt"}"#);
    let starred = json!({ "path": "a.txt", "content": "*******" });
    assert_eq!(told(proposed.items[0].instead.as_ref()), Some((starred, vec!["mask"])));
    assert!(!shown(&world, &dana).await.contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approver_is_shown_that_policy_changed_what_the_agent_sent() {
    let Scene { world, dana: _, agent, instance } = scene().await;
    let ada = world.person("ada", &["APPROVER"]);
    for (message, told) in [(Some("hunter2"), true), (None, false)] {
        let mut merge = json!({ "branch": "main" });
        if let Some(message) = message {
            merge["message"] = json!(message);
        }
        let gate = world.propose(&agent, instance, &[("repo.merge", merge)]).await.unwrap().gate.unwrap();
        let view = world.engine.gate(&ada, gate).await.unwrap().view;
        let line = "Rewritten: by mask branch; what is permitted is not what the agent sent\n";
        assert_eq!(view.contains(line), told, "{view}");
        assert_eq!(view.contains("or changed where Rewritten says so"), told, "{view}");
        let item = world.engine.gate(&ada, gate).await.unwrap().gate.items[0].item;
        let drop = Deciding::Override(std::collections::BTreeMap::from([(item, None)]));
        world.decide(&ada, gate, drop).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mask_that_can_neither_replace_nor_drop_a_field_refuses_on_record_and_nothing_raw_stays() {
    let world = World::new().await;
    let mut files = default_files();
    // As it was put in force before: a check refuses such a mask where the schema tells, and its tests with it.
    files.retain(|path, _| !path.starts_with("tests/"));
    let masks = json!({ "masks": { "sum": { "steps": [
        { "tools": ["payments.refund"], "at": ["/amount"], "with": "stars" }
    ] } } });
    files.insert("masks.json".to_owned(), masks.to_string());
    world.policies.install(org(1), &files);
    let dana = world.person("dana", &["OPERATOR", "ADMIN", "AUDITOR"]);
    let agent = world.agent("fixer", &dana);
    world.workflow(&dana, "repair").await;
    let instance = world.instance(&dana, "repair", &agent).await.instance.id;
    let refund = json!({ "amount": 98765.4, "currency": "CHF", "order": "4711" });
    let refused = world.propose(&agent, instance, &[("payments.refund", refund)]).await.unwrap_err();
    let EngineError::Refused(refused) = refused else { panic!("{refused}") };
    let explained = world.engine.explain(&dana, refused.receipt.index).await.unwrap();
    let grounds: Vec<&str> = explained[0].determining.iter().map(countersign_gateway_model::Name::as_str).collect();
    assert_eq!(grounds, ["gateway:mask-failed"]);
    assert!(explained[0].text.contains("mask `sum`"), "{}", explained[0].text);
    let replay = world.engine.replay(&dana, refused.receipt.index).await.unwrap();
    assert_eq!(replay.computed.as_ref(), Some(&replay.stored));
    let evidence = shown(&world, &dana).await;
    assert!(evidence.contains("4711") && evidence.contains("mask-failed:sum"), "the rest of the call is on record");
    assert!(!evidence.contains("98765"), "the field that could not be masked is on record");
}
