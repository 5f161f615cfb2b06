//! What policy changes in an input, and what it only watches: masks, transforms, policies in shadow.

use std::sync::Arc;

use countersign_gateway_engine::{ActionResult, EngineError, EntryQuery, Semantic};
use countersign_gateway_model::{Decision, InstanceId, Principal, PrincipalKind, State};
use serde_json::{Value, json};

use crate::bench::{Files, default_files};
use crate::evaluations::{asks, enforcement_point};
use crate::world::{Deciding, World, org, replace};

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
