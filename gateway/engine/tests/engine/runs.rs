//! Runs at the moments between a start's commit, its hand-over and its outcome.

use std::sync::Arc;

use countersign_gateway_engine::{ActionResult, EngineError};
use countersign_gateway_model::{Duration, State};
use countersign_runners_contract::Phase;

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
