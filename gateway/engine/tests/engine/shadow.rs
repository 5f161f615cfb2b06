//! Workflows in shadow: what policy would not allow is done and recorded as such, hard policies hold, and the shadow ends.

use std::sync::Arc;

use countersign_gateway_engine::{ActionResult, EngineError, EntryQuery, Proposed, verify_evidence};
use countersign_gateway_model::{Duration, InstanceId, Principal, State, Timestamp};
use serde_json::{Value, json};

use crate::bench::default_files;
use crate::world::{Deciding, World, org};

const MERGE: &str = "repo.merge";

fn merge() -> (&'static str, Value) {
    (MERGE, json!({ "branch": "main", "message": "m" }))
}

fn close() -> (&'static str, Value) {
    ("issues.close", json!({ "issue": "i-1" }))
}

struct At {
    world: World,
    owner: Arc<Principal>,
    agent: Arc<Principal>,
    until: Timestamp,
}

/// A rule that is never in shadow.
const FIRM: &str = r#"
@id("gate-releases")
@requires_approval("production")
@severity("hard")
forbid (principal, action == Countersign::Action::"callTool:repo.merge", resource is Countersign::Tool)
when { context.input.branch == "release" }
unless { context.satisfied.contains(Countersign::ApprovalRule::"production") };
"#;

/// A gateway where workflow `trial` is in shadow for an hour, and `fix` is not.
async fn trial() -> At {
    let world = World::new().await;
    let owner = world.person("olga", &["OPERATOR", "ADMIN", "AUDITOR"]);
    let agent = world.agent("robot", &owner);
    world.workflow(&owner, "trial").await;
    world.workflow(&owner, "fix").await;
    let until = world.engine.now() + Duration::from_secs(3600);
    world.policies.install_shadowed(org(1), &default_files(), &["trial"], until);
    At { world, owner, agent, until }
}

fn code<T: std::fmt::Debug>(answer: Result<T, EngineError>) -> &'static str {
    answer.unwrap_err().code()
}

impl At {
    async fn begin(&self, workflow: &str) -> InstanceId {
        self.world.instance(&self.owner, workflow, &self.agent).await.instance.id
    }

    async fn propose(&self, instance: InstanceId, what: (&str, Value)) -> Result<Proposed, EngineError> {
        self.world.propose(&self.agent, instance, &[what]).await
    }

    /// Permits of an instance: whether each is enforced, and what policy said.
    async fn permits(&self, instance: InstanceId) -> Vec<(bool, String)> {
        let query = EntryQuery { instance: Some(instance), from: 0, limit: 500 };
        let entries = self.world.engine.entries(&self.owner, query).await.unwrap().items;
        let permits = entries.into_iter().filter(|entry| entry.kind == "permit");
        permits
            .map(|entry| {
                let said = serde_json::to_value(entry.verdict.unwrap()).unwrap();
                (entry.body["enforced"].as_bool().unwrap(), said["decision"].as_str().unwrap().to_owned())
            })
            .collect()
    }

    async fn verifies(&self) -> String {
        let pack = self.world.engine.pack(&self.owner, true).await.unwrap();
        let report = verify_evidence(&self.world.root_vkey(org(1)), &pack).unwrap();
        assert_eq!(report.verdict.as_str(), "VALID", "{report:?}");
        report.render()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_shadow_what_policy_would_hold_back_is_done_and_on_record_as_not_enforced() {
    let at = trial().await;
    let held = at.begin("fix").await;
    let shadowed = at.begin("trial").await;
    // What is held back elsewhere: one by people, one by nobody's permit.
    assert!(at.propose(held, merge()).await.unwrap().gate.is_some());
    let other = at.begin("fix").await;
    assert_eq!(code(at.propose(other, close()).await), "policy-denied");
    for what in [merge(), close(), ("notes.append", json!({ "text": "a" }))] {
        let answer = at.propose(shadowed, what).await.unwrap();
        assert!(matches!(answer.items[0].result, ActionResult::Permitted { .. }), "{answer:?}");
        assert!(answer.gate.is_none());
    }
    let said = |decision: &str| (false, decision.to_owned());
    assert_eq!(at.permits(shadowed).await, [said("needs_approval"), said("deny"), said("allow")]);
    at.world.engine.complete(Arc::clone(&at.agent), shadowed, None).await.unwrap();
    assert_eq!(at.world.state(&at.owner, shadowed).await, State::Completed);
    let report = at.verifies().await;
    assert!(report.contains("1 instances, 3 unenforced permits, 2 against policy's word"), "{report}");
    assert!(report.contains("but for 3 of workflows in shadow"), "{report}");
    // The verdicts are the policies' own: each is computed again from what was asked.
    let query = EntryQuery { instance: Some(shadowed), from: 0, limit: 500 };
    for entry in at.world.engine.entries(&at.owner, query).await.unwrap().items {
        if entry.kind == "permit" {
            let again = at.world.engine.replay(&at.owner, entry.index).await.unwrap();
            assert_eq!(again.computed.as_ref(), Some(&again.stored), "entry {}", entry.index);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hard_policies_the_kernel_and_unknown_tools_hold_in_shadow_too() {
    let at = trial().await;
    let shadowed = at.begin("trial").await;
    let secrets = ("secrets.read", json!({ "name": "db" }));
    assert_eq!(code(at.propose(shadowed, secrets).await), "policy-denied");
    let outside = ("repo.read", json!({ "path": "../../etc/passwd" }));
    assert_eq!(code(at.propose(shadowed, outside).await), "policy-denied");
    assert_eq!(code(at.propose(shadowed, ("no.such", json!({}))).await), "tool-unknown");
    at.world.engine.freeze(Arc::clone(&at.owner), None, false, None).await.unwrap();
    assert_eq!(code(at.propose(shadowed, merge()).await), "frozen");
    assert!(at.permits(shadowed).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_ends_at_its_instant_and_reaches_no_instance_that_began_before_it() {
    let mut at = trial().await;
    let shadowed = at.begin("trial").await;
    at.propose(shadowed, merge()).await.unwrap();
    at.world.restart().await;
    at.world.clock.forward(Duration(at.until.0 - at.world.engine.now().0));
    assert!(at.propose(shadowed, merge()).await.unwrap().gate.is_some(), "people are asked from the instant on");
    assert_eq!(at.permits(shadowed).await.len(), 1);
    // Put in shadow again: whoever began in between goes on being held to policy.
    let between = at.begin("trial").await;
    let until = at.world.engine.now() + Duration::from_secs(60);
    at.world.policies.install_shadowed(org(1), &default_files(), &["trial"], until);
    assert!(at.propose(between, merge()).await.unwrap().gate.is_some());
    at.verifies().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_that_a_firm_rule_holds_back_waits_beside_those_that_the_shadow_lets_through() {
    let at = trial().await;
    // A rule that holds in shadow too, beside policy's soft no and a soft rule.
    let mut files = default_files();
    files.get_mut("policies.cedar").unwrap().push_str(FIRM);
    at.world.policies.install_shadowed(org(1), &files, &["trial"], at.until);
    let shadowed = at.begin("trial").await;
    let release = ("repo.merge", json!({ "branch": "release", "message": "m" }));
    let proposed = at.world.propose(&at.agent, shadowed, &[close(), merge(), release]).await.unwrap();
    assert!(matches!(proposed.items[2].result, ActionResult::Waiting { .. }), "{proposed:?}");
    let query = EntryQuery { instance: Some(shadowed), from: 0, limit: 500 };
    for entry in at.world.engine.entries(&at.owner, query).await.unwrap().items {
        if entry.verdict.is_some() {
            let again = at.world.engine.replay(&at.owner, entry.index).await.unwrap();
            assert_eq!(again.computed.as_ref(), Some(&again.stored), "entry {} of kind {}", entry.index, entry.kind);
        }
    }
    let anna = at.world.person("anna", &["APPROVER"]);
    at.world.decide(&anna, proposed.gate.unwrap(), Deciding::Approve).await.unwrap();
    assert_eq!(at.permits(shadowed).await.len(), 3);
    at.verifies().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn explanations_and_the_instance_say_that_a_verdict_under_shadow_is_not_enforced() {
    let at = trial().await;
    let (held, shadowed) = (at.begin("fix").await, at.begin("trial").await);
    at.propose(shadowed, close()).await.unwrap();
    let secrets = ("secrets.read", json!({ "name": "db" }));
    assert_eq!(code(at.propose(shadowed, secrets.clone()).await), "policy-denied");
    assert_eq!(code(at.propose(held, close()).await), "policy-denied");
    // What is on record.
    let of = async |instance: InstanceId, kind: &str| {
        let query = EntryQuery { instance: Some(instance), from: 0, limit: 500 };
        let entries = at.world.engine.entries(&at.owner, query).await.unwrap().items;
        let entry = entries.into_iter().find(|entry| entry.kind == kind).unwrap();
        let explained = at.world.engine.explain(&at.owner, entry.index).await.unwrap();
        (explained[0].enforced, explained[0].text.clone())
    };
    let (enforced, text) = of(shadowed, "permit").await;
    assert!(!enforced && text.contains("not enforced: the workflow is in shadow"), "{text}");
    let (enforced, text) = of(shadowed, "refusal").await;
    assert!(enforced && text.contains("enforced although the workflow is in shadow"), "{text}");
    let (enforced, text) = of(held, "refusal").await;
    assert!(enforced && !text.contains("shadow:") && !text.contains("in shadow"), "{text}");
    assert!(!of(shadowed, "created").await.0, "it was started in shadow too");
    // What would be said now.
    let ask = async |instance: InstanceId, (tool, input): (&str, Value)| {
        let question = json!({
            "asked": "Agent::robot", "op": "callTool", "resource": format!("Tool::{tool}"),
            "instance": format!("Instance::{instance}"), "input": input,
        });
        at.world.engine.what_if(&at.owner, question.to_string().as_bytes()).await.unwrap()
    };
    let supposed = ask(shadowed, merge()).await;
    assert!(!supposed.enforced && supposed.text.contains("not enforced"), "{}", supposed.text);
    assert!(ask(shadowed, secrets).await.enforced, "a firm no holds in shadow too");
    let supposed = ask(held, merge()).await;
    assert!(supposed.enforced && !supposed.text.contains("not enforced"), "{}", supposed.text);
    let start = json!({ "asked": "Person::olga", "op": "start", "resource": "Workflow::trial" }).to_string();
    assert!(!at.world.engine.what_if(&at.owner, start.as_bytes()).await.unwrap().enforced);
    // The instance, by itself and in a list; and only while the shadow lasts.
    let seen = async || {
        let one = at.world.engine.instance(&at.owner, shadowed).await.unwrap().enforced;
        let query = countersign_gateway_engine::InstanceQuery { limit: 10, ..Default::default() };
        let list = at.world.engine.instances(&at.owner, query).await.unwrap().items;
        let of = |id| list.iter().find(|record| record.id == id).unwrap().enforced;
        (one, of(shadowed), of(held))
    };
    assert_eq!(seen().await, (false, false, true));
    at.world.clock.forward(Duration(at.until.0 - at.world.engine.now().0));
    assert_eq!(seen().await, (true, true, true));
    assert!(ask(shadowed, merge()).await.enforced);
    assert!(!of(shadowed, "permit").await.0, "what was said then was said under shadow");
}
