//! What detectors find in an input, where policy forbids it: at a proposal, in an OVERRIDE, in an evaluation, and in a what-if.

use std::sync::Arc;

use countersign_gateway_engine::{Effect, EngineError, EntryQuery, Semantic};
use countersign_gateway_model::{Decision, InstanceId, Principal, PrincipalKind, State};
use serde_json::{Value, json};

use crate::bench::{Files, default_files};
use crate::evaluations::{asks, enforcement_point};
use crate::world::{Deciding, World, org, replace};

const SECRET: &str = "KEY-4711";

/// The default bundle, in which no key leaves in a note or a merge, and in which agents may write notes anywhere.
fn files() -> Files {
    let mut files = default_files();
    let detectors = json!({ "detectors": { "deploy-key": { "find": { "patterns": ["KEY-[0-9]+"] } } } });
    files.insert("detectors.json".to_owned(), detectors.to_string());
    files.get_mut("policies.cedar").unwrap().push_str(
        r#"
@id("no-keys-out")
@severity("hard")
@title("No key is in an input")
forbid (
  principal,
  action in [Countersign::Action::"callTool:notes.append", Countersign::Action::"callTool:repo.merge"],
  resource
)
when { context.facts.contains("deploy-key") };

@id("notes-anywhere")
@title("Agents write notes outside of any instance")
permit (principal is Countersign::Agent, action == Countersign::Action::"callTool:notes.append", resource);
"#,
    );
    files
}

struct Scene {
    world: World,
    dana: Arc<Principal>,
    ada: Arc<Principal>,
    agent: Arc<Principal>,
    instance: InstanceId,
}

async fn scene(files: &Files) -> Scene {
    let world = World::under(files).await;
    let dana = world.person("dana", &["OPERATOR", "ADMIN", "AUDITOR"]);
    let ada = world.person("ada", &["APPROVER"]);
    let agent = world.agent("fixer", &dana);
    world.workflow(&dana, "repair").await;
    let instance = world.instance(&dana, "repair", &agent).await.instance.id;
    Scene { world, dana, ada, agent, instance }
}

impl Scene {
    /// Every verdict on record is computed again from what is stored.
    async fn replays(&self) {
        let query = EntryQuery { limit: 500, ..EntryQuery::default() };
        for entry in self.world.engine.entries(&self.dana, query).await.unwrap().items {
            if entry.verdict.is_some() {
                let again = self.world.engine.replay(&self.dana, entry.index).await.unwrap();
                assert_eq!(again.computed.as_ref(), Some(&again.stored), "entry {} ({})", entry.index, entry.kind);
            }
        }
    }

    async fn permits(&self) -> usize {
        let query = EntryQuery { instance: Some(self.instance), from: 0, limit: 500 };
        let entries = self.world.engine.entries(&self.dana, query).await.unwrap().items;
        entries.iter().filter(|entry| entry.kind == "permit").count()
    }
}

fn note(text: &str) -> (&'static str, Value) {
    ("notes.append", json!({ "text": text }))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_detector_finds_is_refused_and_explained_by_its_place_and_not_by_its_text() {
    let at = scene(&files()).await;
    at.world.propose(&at.agent, at.instance, &[note("nothing to see")]).await.unwrap();
    let refused = at.world.propose(&at.agent, at.instance, &[note(&format!("use {SECRET}"))]).await.unwrap_err();
    assert!(!refused.to_string().contains("deploy-key"), "an agent is not taught what is looked for: {refused}");
    let EngineError::Refused(refused) = refused else { panic!("{refused}") };
    assert_eq!(refused.code, "policy-denied");
    let explained = at.world.engine.explain(&at.dana, refused.receipt.index).await.unwrap();
    let found: Vec<_> = explained[0].found.iter().map(|found| (found.detector.as_str(), found.at.as_str())).collect();
    assert_eq!(found, [("deploy-key", "/text")]);
    assert!(explained[0].text.contains("deploy-key") && explained[0].text.contains("/text"), "{}", explained[0].text);
    assert!(!format!("{explained:?}").contains(SECRET), "the place of a find is kept, and not what it is");
    assert_eq!(at.permits().await, 1);
    at.replays().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_override_is_searched_like_a_proposal() {
    let at = scene(&files()).await;
    let merge = json!({ "branch": "main" });
    let gate = at.world.propose(&at.agent, at.instance, &[("repo.merge", merge)]).await.unwrap().gate.unwrap();
    let item = at.world.engine.gate(&at.ada, gate).await.unwrap().gate.items[0].item;
    let changed = at.world.decide(&at.ada, gate, replace(item, "/branch", json!(SECRET))).await.unwrap();
    assert_eq!((changed.effect, changed.state), (Effect::HardDenied, State::Terminated));
    assert_eq!(at.permits().await, 0);
    at.replays().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evaluation_and_a_what_if_say_what_a_proposal_would_be_told() {
    let at = scene(&files()).await;
    let proxy = enforcement_point(&at.world, &at.dana, &["evaluate"]);
    for (text, decision) in [("nothing to see", Decision::Allow), (SECRET, Decision::Deny)] {
        let request = asks(PrincipalKind::Agent, "fixer", "notes.append", &json!({ "text": text }));
        let answers = at.world.engine.evaluate(Arc::clone(&proxy), vec![request], Semantic::ExecuteAll).await.unwrap();
        assert_eq!(answers[0].decision, decision, "{text}");
        let question = json!({
            "asked": "Agent::fixer", "op": "callTool", "resource": "Tool::notes.append",
            "instance": format!("Instance::{}", at.instance), "input": { "text": text },
        });
        let what_if = at.world.engine.what_if(&at.dana, &serde_json::to_vec(&question).unwrap()).await.unwrap();
        assert_eq!((what_if.verdict.decision, what_if.found.len()), (decision, usize::from(text == SECRET)), "{text}");
    }
    at.replays().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detector_that_came_into_force_while_people_were_asked_is_asked_too() {
    let at = scene(&default_files()).await;
    let merge = json!({ "branch": "main", "message": SECRET });
    let gate = at.world.propose(&at.agent, at.instance, &[("repo.merge", merge)]).await.unwrap().gate.unwrap();
    at.world.policies.install(org(1), &files());
    let vote = at.world.decide(&at.ada, gate, Deciding::Approve).await.unwrap();
    assert_eq!((vote.effect, vote.state), (Effect::HardDenied, State::Terminated), "no vote lifts it");
    assert_eq!(at.permits().await, 0);
    at.replays().await;
}
