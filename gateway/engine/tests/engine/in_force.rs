//! What is in force for a whole organization: policy and freezes, one change at a time.

use std::sync::Arc;
use std::time::Duration as Span;

use countersign_gateway_engine::{EngineError, EntryQuery, InstanceQuery};
use countersign_gateway_model::{InstanceId, Principal};
use countersign_policy_bundle::sha256;
use serde_json::json;

use crate::bench::with_rule;
use crate::runner::Asked;
use crate::world::{Deciding, World, name, read};

#[tokio::test(flavor = "multi_thread")]
async fn a_freeze_and_an_activation_come_into_force_in_the_order_of_the_log() {
    let world = World::new().await;
    let admin = world.person("ada", &["ADMIN", "POLICY_ADMIN", "STOP", "AUDITOR"]);
    let files = with_rule("merge", |rule| rule["quorum"]["persons"] = 2.into());
    let confirmed = sha256(format!("{} files", files.len()).as_bytes());
    let bundle = serde_json::to_vec(&files).unwrap();
    let before = world.engine.snapshot(admin.org).digests();

    world.policies.hold_checks(true);
    let activation = tokio::spawn({
        let (engine, admin) = (world.engine.clone(), Arc::clone(&admin));
        async move { engine.activate_policy(admin, bundle, Some(confirmed)).await }
    });
    while world.policies.checks() == 0 {
        tokio::time::sleep(Span::from_millis(5)).await;
    }
    // The activation is at work on its candidate: whatever else changes what is in force waits for its turn.
    let freeze = tokio::spawn({
        let (engine, admin) = (world.engine.clone(), Arc::clone(&admin));
        async move { engine.freeze(admin, None, false, None).await }
    });
    tokio::time::sleep(Span::from_millis(200)).await;
    assert!(!freeze.is_finished(), "the freeze came into force in the middle of an activation");
    world.policies.hold_checks(false);
    let (candidate, activated) = activation.await.unwrap().map_err(|e| e.to_string()).unwrap();
    let frozen = freeze.await.unwrap().unwrap();

    assert!(activated.index < frozen.index);
    let entries = world.engine.entries(&admin, EntryQuery { limit: 100, ..EntryQuery::default() }).await.unwrap();
    let kinds: Vec<&str> = entries.items.iter().map(|entry| entry.kind).collect();
    assert_eq!(&kinds[kinds.len() - 2..], ["policy", "freeze"], "{kinds:?}");
    let after = world.engine.snapshot(admin.org).digests();
    assert_ne!(before, after);
    assert_eq!(after.bundle, candidate.digest);
    // The freeze was decided by what was in force when its entry was made: replay under it gives the same verdict.
    let replayed = world.engine.replay(&admin, frozen.index).await.unwrap();
    assert_eq!(replayed.computed, Some(replayed.stored));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_activations_at_once_the_second_is_checked_against_the_first() {
    let world = World::new().await;
    let admin = world.person("ada", &["ADMIN", "POLICY_ADMIN", "STOP", "AUDITOR"]);
    let mut activations = Vec::new();
    for persons in [2, 3] {
        let files = with_rule("merge", |rule| rule["quorum"]["persons"] = persons.into());
        let confirmed = sha256(format!("{} files", files.len()).as_bytes());
        let bundle = serde_json::to_vec(&files).unwrap();
        let (engine, admin) = (world.engine.clone(), Arc::clone(&admin));
        activations.push(tokio::spawn(async move { engine.activate_policy(admin, bundle, Some(confirmed)).await }));
    }
    let mut candidates = Vec::new();
    for activation in activations {
        candidates.push(activation.await.unwrap().map_err(|e| e.to_string()).unwrap());
    }
    candidates.sort_by_key(|(_, receipt)| receipt.index);
    let [(first, _), (second, _)] = &candidates[..] else { panic!("two were asked for") };
    assert_eq!((first.version, second.version), (2, 3));
    assert_eq!(second.predecessor, Some(first.digest));
    assert_eq!(world.engine.snapshot(admin.org).digests().bundle, second.digest);
}

/// Whether an instance may go on, as it says itself and as the list says.
async fn runnable(world: &World, who: &Principal, id: InstanceId) -> (bool, Vec<String>) {
    let single = world.engine.instance(who, id).await.unwrap();
    let query = InstanceQuery { limit: 50, ..InstanceQuery::default() };
    let list = world.engine.instances(who, query).await.unwrap().items;
    let listed = list.into_iter().find(|listed| listed.id == id).unwrap();
    assert_eq!((single.runnable, &single.reasons), (listed.runnable, &listed.reasons), "single read and list agree");
    (single.runnable, single.reasons)
}

fn code<T: std::fmt::Debug>(answer: Result<T, EngineError>) -> &'static str {
    answer.unwrap_err().code()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_team_holds_its_own_work_and_nobody_elses() {
    let mut world = World::new().await;
    let owner = world.person("olga", &["OPERATOR", "ADMIN", "STOP"]);
    let ada = world.person("ada", &["APPROVER"]);
    let agent = world.agent("robot", &owner);
    world.workflow_of(&owner, "ours", Some("red")).await;
    world.workflow_of(&owner, "theirs", Some("blue")).await;
    let note = || [("notes.append", json!({ "text": "x" }))];
    let merge = || [("repo.merge", json!({ "branch": "main" }))];
    let mut at = Vec::new();
    for workflow in ["ours", "theirs"] {
        let working = world.instance(&owner, workflow, &agent).await.instance.id;
        let permitted = world.propose(&agent, working, &note()).await.unwrap().items[0].action;
        world.propose(&agent, working, &[read("README.md")]).await.unwrap();
        let waiting = world.instance(&owner, workflow, &agent).await.instance.id;
        let gate = world.propose(&agent, waiting, &merge()).await.unwrap().gate.unwrap();
        at.push((working, permitted, waiting, gate));
    }
    let [ours, theirs] = at[..] else { panic!("two teams") };
    world.runner.until("two orders", |asked| asked.len() == 2).await;
    world.engine.freeze(Arc::clone(&owner), Some(name("red")), false, None).await.unwrap();
    let cancelled = |asked: &[Asked]| asked.iter().filter(|asked| matches!(asked, Asked::Cancel(_))).count();
    world.runner.until("the end of the team's run", |asked| cancelled(asked) == 1).await;

    for restarted in [false, true] {
        if restarted {
            world.restart().await;
        }
        assert_eq!(code(world.propose(&agent, ours.0, &note()).await), "frozen", "restarted: {restarted}");
        assert_eq!(code(world.engine.begin(Arc::clone(&agent), ours.1, None).await), "frozen");
        assert_eq!(code(world.decide(&ada, ours.3, Deciding::Approve).await), "frozen");
        assert_eq!(runnable(&world, &owner, ours.0).await, (false, vec!["frozen".to_owned()]));
        let both = vec!["frozen".to_owned(), "waiting_for_human".to_owned()];
        assert_eq!(runnable(&world, &owner, ours.2).await, (false, both));
        assert_eq!(runnable(&world, &owner, theirs.0).await, (true, vec![]));
        world.propose(&agent, theirs.0, &note()).await.unwrap();
        // The runner of the next start is another one, and knows of nothing.
        assert_eq!(cancelled(&world.runner.asked()), usize::from(!restarted), "nobody else's run is cancelled");
    }
    world.engine.begin(Arc::clone(&agent), theirs.1, None).await.unwrap();
    world.decide(&ada, theirs.3, Deciding::Approve).await.unwrap();

    world.engine.freeze(Arc::clone(&owner), Some(name("red")), true, None).await.unwrap();
    assert_eq!(runnable(&world, &owner, ours.0).await, (true, vec![]));
    world.propose(&agent, ours.0, &note()).await.unwrap();
    world.decide(&ada, ours.3, Deciding::Approve).await.unwrap();

    // What goes over to another team is frozen with that one, also what is in memory as the first one's.
    world.engine.freeze(Arc::clone(&owner), Some(name("green")), false, None).await.unwrap();
    world.propose(&agent, ours.0, &note()).await.unwrap();
    world.workflow_version(&owner, ("ours", "2"), Some("green")).await;
    assert_eq!(code(world.propose(&agent, ours.0, &note()).await), "frozen");
    assert_eq!(runnable(&world, &owner, ours.0).await, (false, vec!["frozen".to_owned()]));
}
