//! What stays in memory: people, agents and workflows, and nothing of work that has ended.

use std::sync::Arc;
use std::time::Duration as Span;

use countersign_gateway_engine::InMemory;
use countersign_gateway_model::{Digest, State};
use countersign_policy_bundle::sha256;
use countersign_runners_contract::Phase;
use serde_json::json;

use crate::bench::with_rule;
use crate::world::{Deciding, World, org, read};

impl World {
    /// Waits until memory holds this much.
    async fn until_memory(&self, wanted: InMemory) {
        let mut held = self.engine.in_memory(org(1)).unwrap();
        for _ in 0..200 {
            if held == wanted {
                return;
            }
            tokio::time::sleep(Span::from_millis(25)).await;
            held = self.engine.in_memory(org(1)).unwrap();
        }
        assert_eq!(held, wanted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_holds_nothing_of_instances_gates_items_and_runs_that_have_ended() {
    let world = World::new().await;
    let owner = world.person("olga", &["OPERATOR", "ADMIN", "STOP"]);
    let anna = world.person("anna", &["APPROVER"]);
    let agent = world.agent("robot", &owner);
    world.workflow(&owner, "fix").await;
    let before = world.engine.in_memory(org(1)).unwrap();
    let timers = tokio::spawn(world.engine.clone().run_timers());

    for round in 0..8 {
        let instance = world.instance(&owner, "fix", &agent).await.instance.id;
        let dispatched = world.propose(&agent, instance, &[read("README.md")]).await.unwrap();
        let run = world.engine.action(&owner, dispatched.items[0].action).await.unwrap().run.unwrap();
        world.engine.run(&anna, run).await.unwrap();
        world.runner.end_all(&Phase::Succeeded);
        world.until_status(&owner, dispatched.items[0].action, "succeeded").await;
        let merges = [("repo.merge", json!({ "branch": "main" })), ("repo.merge", json!({ "branch": "next" }))];
        let gate = world.propose(&agent, instance, &merges).await.unwrap().gate.unwrap();
        let decision = if round % 2 == 0 { Deciding::Approve } else { Deciding::Reject };
        world.decide(&anna, gate, decision).await.unwrap();
        if round % 2 == 0 {
            world.engine.complete(Arc::clone(&owner), instance, None).await.unwrap();
        }
        assert!(world.state(&owner, instance).await.is_terminal());
        // Reading what has ended brings it back for as long as it is read.
        world.engine.gate(&anna, gate).await.unwrap();
        world.engine.run(&anna, run).await.unwrap();
    }
    world.until_memory(before).await;
    world.engine.end();
    timers.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_of_an_instance_that_goes_on_does_not_grow_with_its_gates_and_runs() {
    let world = World::new().await;
    let owner = world.person("olga", &["OPERATOR", "ADMIN"]);
    let anna = world.person("anna", &["APPROVER"]);
    let agent = world.agent("robot", &owner);
    world.workflow(&owner, "fix").await;
    let before = world.engine.in_memory(org(1)).unwrap();
    let instance = world.instance(&owner, "fix", &agent).await.instance.id;
    for _ in 0..5 {
        let merges = [("repo.merge", json!({ "branch": "main" })), ("repo.merge", json!({ "branch": "next" }))];
        let gate = world.propose(&agent, instance, &merges).await.unwrap().gate.unwrap();
        world.decide(&anna, gate, Deciding::Approve).await.unwrap();
        world.engine.gate(&anna, gate).await.unwrap();
        let dispatched = world.propose(&agent, instance, &[read("README.md")]).await.unwrap();
        let run = world.engine.action(&owner, dispatched.items[0].action).await.unwrap().run.unwrap();
        world.engine.run(&anna, run).await.unwrap();
        world.runner.end_all(&Phase::Succeeded);
        world.until_status(&owner, dispatched.items[0].action, "succeeded").await;
    }
    assert_eq!(world.state(&owner, instance).await, State::Running);
    let held = world.engine.in_memory(org(1)).unwrap();
    assert_eq!(held, InMemory { entities: before.entities + 1, streams: 1 }, "the instance itself, and nothing else");
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_holds_no_bundle_beside_the_policy_in_force() {
    let world = World::new().await;
    let admin = world.person("ada", &["ADMIN", "POLICY_ADMIN", "STOP"]);
    let operator = world.person("otto", &["OPERATOR"]);
    let before = world.engine.in_memory(org(1)).unwrap();
    for (persons, by, refused) in [(2, &admin, None), (3, &operator, Some("policy-denied")), (4, &admin, None)] {
        let files = with_rule("merge", |rule| rule["quorum"]["persons"] = persons.into());
        let confirmed = sha256(format!("{} files", files.len()).as_bytes());
        let bundle = serde_json::to_vec(&files).unwrap();
        let answer = world.engine.activate_policy(Arc::clone(by), bundle, Some(confirmed)).await;
        assert_eq!(answer.err().map(|error| error.code()), refused);
    }
    assert_eq!(world.engine.in_memory(org(1)).unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_is_live_while_an_instance_that_has_not_ended_names_it() {
    let mut world = World::new().await;
    let owner = world.person("olga", &["OPERATOR", "ADMIN"]);
    let agent = world.agent("robot", &owner);
    world.workflow(&owner, "fix").await;
    let tree = |n: u8| Digest([n; 32]);
    let mut instances = Vec::new();
    for n in 1..=3 {
        instances.push(world.instance_on(&owner, "fix", &agent, Some(tree(n))).await.instance.id);
    }
    world.instance(&owner, "fix", &agent).await;
    let live = world.engine.live_workspaces(org(1)).await.unwrap();
    assert_eq!(live, [tree(1), tree(2), tree(3)].into());
    world.engine.complete(Arc::clone(&owner), instances[1], None).await.unwrap();
    assert_eq!(world.engine.live_workspaces(org(1)).await.unwrap(), [tree(1), tree(3)].into());
    world.restart().await;
    assert_eq!(world.engine.live_workspaces(org(1)).await.unwrap(), [tree(1), tree(3)].into());
    assert_eq!(world.engine.in_memory(org(1)).unwrap().streams, 0, "looking brings nothing into memory");
}
