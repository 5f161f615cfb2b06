//! Runs at the moments between a start's commit, its hand-over and its outcome.

use std::sync::Arc;

use countersign_gateway_engine::{ActionResult, EngineError, EntryQuery, EntryRecord};
use countersign_gateway_model::{Duration, InstanceId, Principal, State};
use countersign_runners_contract::Phase;

use crate::faulty::Fault;
use crate::runner::{Asked, Mode};
use crate::world::{World, read, request};

fn orders(asked: &[Asked]) -> usize {
    asked.iter().filter(|a| matches!(a, Asked::Order(_))).count()
}

fn cancels(asked: &[Asked]) -> usize {
    asked.iter().filter(|a| matches!(a, Asked::Cancel(_))).count()
}

/// A world in which an order is on its way to the runner, and what came of the proposal.
async fn on_its_way()
-> (World, Arc<countersign_gateway_model::Principal>, countersign_gateway_model::InstanceId, Proposing) {
    let world = World::new().await;
    let owner = world.person("olga", &["OPERATOR", "ADMIN", "STOP"]);
    let agent = world.agent("robot", &owner);
    world.workflow(&owner, "fix").await;
    let instance = world.instance(&owner, "fix", &agent).await.instance.id;
    world.runner.set(Mode::Hold);
    let (engine, by) = (world.engine.clone(), Arc::clone(&agent));
    let (tool, input) = read("README.md");
    let requests = vec![request(tool, &input)];
    let proposing = tokio::spawn(async move { engine.propose(by, instance, requests, false, None).await });
    world.runner.until("the order", |asked| orders(asked) == 1).await;
    (world, owner, instance, proposing)
}

type Proposing = tokio::task::JoinHandle<Result<countersign_gateway_engine::Proposed, EngineError>>;

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_instance_ended_before_its_hand_over_is_cancelled() {
    let (world, owner, instance, proposing) = on_its_way().await;
    world.engine.terminate(Arc::clone(&owner), instance, None).await.unwrap();
    world.runner.until("the stop's own cancellation, which finds nothing", |asked| cancels(asked) == 1).await;
    world.runner.set(Mode::Accept);
    let proposed = proposing.await.unwrap().unwrap();
    world.until_status(&owner, proposed.items[0].action, "cancelled").await;
    assert_eq!(world.state(&owner, instance).await, State::Terminated);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_frozen_before_its_hand_over_is_cancelled() {
    let (world, owner, instance, proposing) = on_its_way().await;
    world.engine.freeze(Arc::clone(&owner), None, false, None).await.unwrap();
    world.runner.until("the freeze's own cancellation, which finds nothing", |asked| cancels(asked) == 1).await;
    world.runner.set(Mode::Accept);
    let proposed = proposing.await.unwrap().unwrap();
    world.until_status(&owner, proposed.items[0].action, "cancelled").await;
    assert_eq!(world.state(&owner, instance).await, State::Running, "a freeze stops work, not instances");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_nobody_stopped_is_left_alone() {
    let (world, owner, _, proposing) = on_its_way().await;
    world.runner.set(Mode::Accept);
    let proposed = proposing.await.unwrap().unwrap();
    world.runner.end_all(&Phase::Succeeded);
    world.until_status(&owner, proposed.items[0].action, "succeeded").await;
    assert_eq!(cancels(&world.runner.asked()), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_each_start_of_a_batch_gets_the_job_that_is_its_own() {
    let mut world = World::new().await;
    let owner = world.person("olga", &["OPERATOR", "ADMIN"]);
    let agent = world.agent("robot", &owner);
    world.workflow(&owner, "fix").await;
    let instance = world.instance(&owner, "fix", &agent).await.instance.id;
    let paths = ["one.txt", "two.txt", "three.txt"];
    world.runner.set(Mode::Hold);
    let (engine, by) = (world.engine.clone(), Arc::clone(&agent));
    let requests = paths.iter().map(|path| request("repo.read", &read(path).1)).collect();
    let lost = tokio::spawn(async move { engine.propose(by, instance, requests, false, None).await });
    world.runner.until("the first order, which never arrives", |asked| orders(asked) == 1).await;
    lost.abort();

    world.restart().await;
    assert_eq!(world.engine.adopt().await.unwrap(), 3, "three starts are open");
    world.runner.until("three orders", |asked| orders(asked) == 3).await;
    let record = world.engine.instance(&owner, instance).await.unwrap();
    assert_eq!(record.open_starts.len(), 3);
    // Permits are minted in the order of the batch.
    let mut starts = record.open_starts;
    starts.sort();
    let found: Vec<Option<String>> = starts.iter().map(|permit| world.runner.input_of(*permit, "path")).collect();
    assert_eq!(found, paths.map(|path| Some(path.to_owned())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_whose_instance_ended_while_no_gateway_ran_is_never_handed_over() {
    let (mut world, owner, instance, lost) = on_its_way().await;
    world.engine.terminate(Arc::clone(&owner), instance, None).await.unwrap();
    lost.abort();
    world.restart().await;
    world.engine.adopt().await.unwrap();
    assert_eq!(orders(&world.runner.asked()), 0);
    assert_eq!(world.engine.instance(&owner, instance).await.unwrap().open_starts, vec![]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_refused_order_is_committed_once_the_ledger_takes_it() {
    let world = World::new().await;
    let owner = world.person("olga", &["OPERATOR", "ADMIN"]);
    let agent = world.agent("robot", &owner);
    world.workflow(&owner, "fix").await;
    let instance = world.instance(&owner, "fix", &agent).await.instance.id;
    world.runner.set(Mode::Refuse);
    let clock = Arc::clone(&world.clock);
    // The ledger takes nothing that is claimed far behind its newest entry.
    world.runner.before_refusal(move || clock.back(Duration::from_secs(3600)));
    let proposed = world.propose(&agent, instance, &[read("README.md")]).await.unwrap();
    let action = &proposed.items[0];
    assert!(matches!(action.result, ActionResult::Dispatched { .. }));
    assert_eq!(world.engine.action(&owner, action.action).await.unwrap().status, "started");
    world.clock.forward(Duration::from_secs(3600));
    world.until_status(&owner, action.action, "failed").await;
}

/// A world in which an agent is about to have a tool run.
async fn about_to_run() -> (World, Arc<Principal>, Arc<Principal>, InstanceId) {
    let world = World::new().await;
    let owner = world.person("olga", &["OPERATOR", "ADMIN", "STOP", "AUDITOR"]);
    let agent = world.agent("robot", &owner);
    world.workflow(&owner, "fix").await;
    let instance = world.instance(&owner, "fix", &agent).await.instance.id;
    (world, owner, agent, instance)
}

async fn entries(world: &World, who: &Principal, instance: InstanceId, kind: &str) -> Vec<EntryRecord> {
    let query = EntryQuery { instance: Some(instance), from: 0, limit: 200 };
    let all = world.engine.entries(who, query).await.unwrap().items;
    all.into_iter().filter(|entry| entry.kind == kind).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatch_that_is_not_committed_gives_no_order() {
    for fault in [Fault::Full, Fault::NotStored] {
        let (mut world, owner, agent, instance) = about_to_run().await;
        *world.faults.lock().unwrap() = Some(fault);
        let refused = world.propose(&agent, instance, &[read("README.md")]).await.unwrap_err();
        assert!(matches!(refused, EngineError::Append(_)), "{fault:?}: {refused}");
        assert_eq!(*world.faults.lock().unwrap(), None, "{fault:?} came about");
        assert_eq!(orders(&world.runner.asked()), 0, "{fault:?}");
        assert!(entries(&world, &owner, instance, "start").await.is_empty(), "{fault:?}");
        // Nor does a later start of the gateway find anything to hand over.
        world.restart().await;
        assert_eq!(world.engine.adopt().await.unwrap(), 0, "{fault:?}");
        assert_eq!(orders(&world.runner.asked()), 0, "{fault:?}");
        // The same asked again is carried out, once.
        world.propose(&agent, instance, &[read("README.md")]).await.unwrap();
        assert_eq!(orders(&world.runner.asked()), 1, "{fault:?}");
        assert_eq!(entries(&world, &owner, instance, "start").await.len(), 1, "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatch_of_which_the_commit_is_not_known_is_handed_over_by_the_next_start_alone_and_once() {
    let (mut world, owner, agent, instance) = about_to_run().await;
    *world.faults.lock().unwrap() = Some(Fault::StoredAndLost);
    let refused = world.propose(&agent, instance, &[read("README.md")]).await.unwrap_err();
    assert!(matches!(refused, EngineError::Append(_)), "{refused}");
    assert_eq!(orders(&world.runner.asked()), 0, "what may not be on record is not carried out");
    world.restart().await;
    assert_eq!(world.engine.adopt().await.unwrap(), 1);
    world.runner.until("the order that is on record", |asked| orders(asked) == 1).await;
    world.runner.end_all(&Phase::Succeeded);
    until_entries(&world, &owner, instance, ("outcome", 1)).await;
    assert_eq!(entries(&world, &owner, instance, "start").await.len(), 1);
    assert_eq!(orders(&world.runner.asked()), 1);
}

async fn until_entries(world: &World, who: &Principal, instance: InstanceId, (kind, count): (&str, usize)) {
    for _ in 0..400 {
        if entries(world, who, instance, kind).await.len() >= count {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    assert_eq!(entries(world, who, instance, kind).await.len(), count, "{kind}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_its_runner_lost_becomes_unknown_once_and_is_not_ordered_again() {
    for forgotten in [false, true] {
        let (mut world, owner, agent, instance) = about_to_run().await;
        let proposed = world.propose(&agent, instance, &[read("README.md")]).await.unwrap();
        let action = proposed.items[0].action;
        if forgotten {
            world.runner.forget_all();
        } else {
            world.runner.end_all(&Phase::Lost);
        }
        world.until_status(&owner, action, "unknown").await;
        assert_eq!(orders(&world.runner.asked()), 1);
        world.restart().await;
        assert_eq!(world.engine.adopt().await.unwrap(), 0, "nothing is open any more");
        assert_eq!(orders(&world.runner.asked()), 0, "it is never tried again on a guess");
        let outcomes = entries(&world, &owner, instance, "outcome").await;
        assert_eq!(outcomes.len(), 1);
        assert_eq!(outcomes[0].body["outcome"], "unknown");
        assert_eq!(world.engine.action(&owner, action).await.unwrap().status, "unknown");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_whose_run_never_ends_is_closed_as_unknown_once_its_time_is_long_over() {
    let (world, owner, agent, instance) = about_to_run().await;
    world.runner.set(Mode::Deaf);
    let proposed = world.propose(&agent, instance, &[read("README.md")]).await.unwrap();
    let action = proposed.items[0].action;
    // An action that the agent carries out itself is swept first: it says that the clocks have turned.
    let note = [("notes.append", serde_json::json!({ "text": "x" }))];
    let own = world.propose(&agent, instance, &note).await.unwrap().items[0].action;
    world.engine.begin(Arc::clone(&agent), own, None).await.unwrap();
    let timers = tokio::spawn(world.engine.clone().run_timers());
    // A permit's life, an hour, and all but the last seconds of the longest run.
    world.clock.forward(Duration::from_secs(300 + 3_600 + 590));
    world.until_status(&owner, own, "unknown").await;
    assert_eq!(world.engine.action(&owner, action).await.unwrap().status, "started", "its runner may still end it");
    assert_eq!(cancels(&world.runner.asked()), 0);
    let refused = world.engine.complete(Arc::clone(&owner), instance, None).await.unwrap_err();
    assert_eq!(refused.code(), "starts-open");

    world.clock.forward(Duration::from_secs(20));
    world.until_status(&owner, action, "unknown").await;
    world.runner.until("a last cancellation", |asked| cancels(asked) == 1).await;
    assert_eq!(entries(&world, &owner, instance, "sweep").await.len(), 2, "one of each, once");
    // What the runner finds out after all supersedes it, once.
    world.runner.end_all(&Phase::TimedOut);
    world.until_status(&owner, action, "timed_out").await;
    let outcomes = entries(&world, &owner, instance, "outcome").await;
    assert_eq!(outcomes.len(), 1);
    assert_eq!(outcomes[0].body["supersedes"], true);
    world.engine.complete(Arc::clone(&owner), instance, None).await.unwrap();
    world.engine.end();
    timers.await.unwrap();
}
