//! What is in force for a whole organization: policy and freezes, one change at a time.

use std::sync::Arc;
use std::time::Duration as Span;

use countersign_gateway_engine::EntryQuery;
use countersign_policy_bundle::sha256;

use crate::bench::with_rule;
use crate::world::World;

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
