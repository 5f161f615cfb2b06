//! A candidate asked about the past of a real ledger: what decided then changes nothing, and what would change is counted.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use countersign_gateway_engine::{BacktestLimits, BacktestReport, BacktestWindow, EngineError};
use countersign_gateway_model::{Clock as _, Duration, Principal};
use countersign_policy_bundle::Shift;
use serde_json::{Value, json};

use crate::bench::{Files, default_files};
use crate::world::{Deciding, World, org, read, replace};

fn files_with(policies: &str) -> Files {
    let mut files = default_files();
    files.get_mut("policies.cedar").unwrap().push_str(policies);
    files
}

/// Nobody may do this any more.
fn stopping(action: &str) -> Vec<u8> {
    let policy = format!(
        "\n@id(\"stopped\")\n@title(\"It is stopped\")\nforbid (principal, action == \
         Countersign::Action::\"{action}\", resource);\n"
    );
    let mut files = files_with(&policy);
    // What its own tests say of it is not what is asked here.
    files.retain(|path, _| !path.starts_with("tests/"));
    serde_json::to_vec(&files).unwrap()
}

/// A day's work: allowed, refused, approved alone and among others, overridden, rejected, finished.
async fn work(world: &World) -> (Arc<Principal>, Arc<Principal>) {
    let dana = world.person("dana", &["OPERATOR", "ADMIN", "AUDITOR", "POLICY_ADMIN"]);
    let ada = world.person("ada", &["APPROVER"]);
    let agent = world.agent("fixer", &dana);
    world.workflow(&dana, "repair").await;
    let at_work = async |actions: &[(&str, Value)]| {
        let instance = world.instance(&dana, "repair", &agent).await.instance.id;
        world.propose(&agent, instance, actions).await
    };
    for path in ["README.md", "src/lib.rs", "credentials"] {
        let refused = at_work(&[read(path)]).await.is_err();
        assert_eq!(refused, path == "credentials");
    }
    let merge = |message: &str| ("repo.merge", json!({ "branch": "main", "message": message }));
    let gate = at_work(&[merge("one")]).await.unwrap().gate.unwrap();
    world.decide(&ada, gate, Deciding::Approve).await.unwrap();
    let gate = at_work(&[read("a"), merge("two"), read("b"), merge("three")]).await.unwrap().gate.unwrap();
    world.decide(&ada, gate, Deciding::Approve).await.unwrap();
    let gate = at_work(&[merge("four")]).await.unwrap().gate.unwrap();
    let item = world.engine.gate(&ada, gate).await.unwrap().gate.items[0].item;
    world.decide(&ada, gate, replace(item, "/message", json!("better"))).await.unwrap();
    let gate = at_work(&[merge("five")]).await.unwrap().gate.unwrap();
    world.decide(&ada, gate, Deciding::Reject).await.unwrap();
    (dana, agent)
}

async fn ask(world: &World, who: &Principal, bundle: Vec<u8>, window: BacktestWindow) -> BacktestReport {
    let turn = world.engine.begin_backtest(who, bundle).await.unwrap();
    turn.run(window, |_| ControlFlow::Continue(())).await.unwrap().unwrap()
}

fn in_force() -> Vec<u8> {
    serde_json::to_vec(&default_files()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_decided_then_changes_nothing_and_every_question_is_asked_again() {
    let world = World::new().await;
    let (dana, _) = work(&world).await;
    let report = ask(&world, &dana, in_force(), BacktestWindow::default()).await;
    assert_eq!((report.all.changes(), report.all.not_computable), (0, 0), "{report:#?}");
    let tool = |tool: &str| report.by_tool.get(tool).map_or(0, |counts| counts.unchanged);
    // Three alone and two in the batch; then again at the permits of the batch.
    assert!(tool("Tool::repo.read") >= 5, "{report:#?}");
    assert!(tool("Tool::repo.merge") >= 5, "{report:#?}");
    assert!(tool("approve") >= 2 && tool("reject") == 1 && tool("override") == 1, "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_item_of_a_batch_is_compared_with_what_was_said_to_it_alone() {
    let world = World::new().await;
    let (dana, _) = work(&world).await;
    let report = ask(&world, &dana, stopping("dispatch:repo.read"), BacktestWindow::default()).await;
    // The reads of the batch stood at a gate and were allowed; the merges beside them needed a person and still do.
    assert_eq!(report.all.changed.get(&Shift::NeedsApprovalToDeny), None, "{report:#?}");
    assert!(report.all.changed[&Shift::AllowToDeny] >= 4, "{report:#?}");
    assert_eq!(report.all.changes(), report.by_policy["stopped"].changes());
    let report = ask(&world, &dana, stopping("callTool:repo.merge"), BacktestWindow::default()).await;
    assert_eq!(report.all.changed[&Shift::NeedsApprovalToDeny], 5, "{report:#?}");
    let example = &report.examples[&Shift::NeedsApprovalToDeny][0];
    assert_eq!((example.resource.as_str(), example.asked.as_str()), ("Tool::repo.merge", "Agent::fixer"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_holds_what_was_asked_in_it_and_no_more() {
    let world = World::new().await;
    let (dana, agent) = work(&world).await;
    let all = ask(&world, &dana, in_force(), BacktestWindow::default()).await.asked;
    world.clock.forward(Duration::from_secs(3600));
    let since = world.clock.now();
    for path in ["one", "two", "three"] {
        let instance = world.instance(&dana, "repair", &agent).await.instance.id;
        world.propose(&agent, instance, &[read(path)]).await.unwrap();
    }
    let whole = ask(&world, &dana, in_force(), BacktestWindow::default()).await.asked;
    let windowed = |window| ask(&world, &dana, in_force(), window);
    let later = windowed(BacktestWindow { since: Some(since), ..BacktestWindow::default() }).await;
    let earlier = windowed(BacktestWindow { until: Some(since), ..BacktestWindow::default() }).await;
    assert_eq!((earlier.asked, earlier.asked + later.asked), (all, whole));
    assert!(later.entries.unwrap().0 > earlier.entries.unwrap().1);
    let last = windowed(BacktestWindow { last: Some(2), ..BacktestWindow::default() }).await;
    assert_eq!((last.asked, last.entries.unwrap().1), (2, later.entries.unwrap().1), "the newest two");
    assert_eq!(windowed(BacktestWindow { last: Some(0), ..BacktestWindow::default() }).await.asked, 0);
    let none = BacktestLimits { examples: 0 };
    let quiet = BacktestWindow { limits: none, ..BacktestWindow::default() };
    let report = ask(&world, &dana, stopping("dispatch:repo.read"), quiet).await;
    assert!(report.all.changes() > 0 && report.examples.is_empty(), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_backtest_runs_at_a_time_and_one_that_is_broken_off_gives_its_turn_back_and_no_report() {
    let world = World::new().await;
    let (dana, _) = work(&world).await;
    let turn = world.engine.begin_backtest(&dana, in_force()).await.unwrap();
    let second = world.engine.begin_backtest(&dana, in_force()).await.err().unwrap();
    assert_eq!(second.code(), "backtest-running");
    let told = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&told);
    let stop = move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        ControlFlow::Break(())
    };
    assert!(turn.run(BacktestWindow::default(), stop).await.unwrap().is_none());
    assert_eq!(told.load(Ordering::SeqCst), 1);
    let report = ask(&world, &dana, in_force(), BacktestWindow::default()).await;
    let candidate = world.engine.snapshot(org(1));
    let own = world.engine.backtest(org(1), candidate, BacktestWindow::default(), |_| ControlFlow::Continue(()));
    assert_eq!(own.await.unwrap().unwrap().asked, report.asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_and_those_who_may_not_read_verdicts_get_no_backtest_and_no_hint_of_one() {
    let world = World::new().await;
    let (_, agent) = work(&world).await;
    let plain = world.person("pat", &[]);
    for who in [&agent, &plain] {
        let error = world.engine.begin_backtest(who, b"not even a bundle".to_vec()).await.err().unwrap();
        assert!(matches!(error, EngineError::NotFound(_)), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_decides_nothing_is_refused_with_its_findings() {
    let world = World::new().await;
    let (dana, _) = work(&world).await;
    let broken = serde_json::to_vec(&files_with("\npermit (nonsense")).unwrap();
    let error = world.engine.begin_backtest(&dana, broken).await.err().unwrap();
    assert_eq!(error.code(), "bundle-rejected");
    assert!(world.engine.begin_backtest(&dana, in_force()).await.is_ok(), "the turn is free again");
}

#[tokio::test(flavor = "multi_thread")]
async fn payloads_read_by_the_range_are_those_read_one_by_one() {
    let world = World::new().await;
    work(&world).await;
    let log = world.engine.log_of(org(1)).unwrap();
    let size = log.checkpoint().checkpoint().size;
    for range in [0..size, 3..size, 5..6, 7..7, 0..1] {
        let mut one_by_one = Vec::new();
        for stored in log.entries(range.clone()).await.unwrap() {
            for reference in countersign_ledger_entry::Entry::parse(&stored.leaf).unwrap().header.payloads {
                let bytes = log.payload(stored.index, &reference.digest).await.unwrap().unwrap();
                one_by_one.push((stored.index, reference.digest, bytes));
            }
        }
        let held = log.payloads_of(range).await.unwrap();
        let held: Vec<_> = held.into_iter().map(|p| (p.index, p.digest, p.bytes)).collect();
        assert_eq!(held, one_by_one);
    }
}
