//! How many questions a second a backtest asks, over a real ledger with as many questions as it is told.
//!
//! Each question is a tool call that an agent proposed: decided by the bundle that ships, signed, synced and stored by the
//! engine, as in a gateway. Then a candidate is asked all of them again from the stored bytes, with one thread and with as
//! many as run at once here. Absent: HTTP. What the figures are held for is in `docs/backtest.md`.
//!
//! ```sh
//! cargo run --profile dist -p countersign-gateway-engine --example backtest -- 100000
//! ```
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a measurement that fails says where")]
#![expect(clippy::disallowed_methods, reason = "what is measured is measured with the machine's own clock")]

#[expect(dead_code, reason = "shared with the tests, which use more of it")]
#[path = "../tests/engine/bench.rs"]
mod bench;
#[expect(dead_code, reason = "shared with the tests, which use more of it")]
#[path = "../tests/engine/faulty.rs"]
mod faulty;
#[expect(dead_code, reason = "shared with the tests, which use more of it")]
#[path = "../tests/engine/runner.rs"]
mod runner;
#[expect(dead_code, reason = "shared with the tests, which use more of it")]
#[path = "../tests/engine/world.rs"]
mod world;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use countersign_gateway_engine::{BacktestWindow, all_threads, backtest_log};
use serde_json::json;

use crate::world::{World, org};

/// Proposals under way at a time, each in an instance of its own.
const AT_ONCE: usize = 64;

#[tokio::main]
async fn main() {
    let wanted: usize = std::env::args().nth(1).map_or(100_000, |n| n.parse().unwrap());
    let world = Arc::new(World::new().await);
    let dana = world.person("dana", &["OPERATOR", "ADMIN", "AUDITOR"]);
    let agent = world.agent("fixer", &dana);
    world.workflow(&dana, "repair").await;
    let began = Instant::now();
    let mut work = Vec::new();
    for worker in 0..AT_ONCE {
        let (world, dana, agent) = (Arc::clone(&world), Arc::clone(&dana), Arc::clone(&agent));
        let share = wanted / AT_ONCE + usize::from(worker < wanted % AT_ONCE);
        work.push(tokio::spawn(async move {
            let mut instance = world.instance(&dana, "repair", &agent).await.instance.id;
            for n in 0..share {
                // An instance does some work and is followed by the next, as in life.
                if n % 50 == 49 {
                    instance = world.instance(&dana, "repair", &agent).await.instance.id;
                }
                let note = json!({ "text": format!("worker {worker} has come to step {n} of its work") });
                world.propose(&agent, instance, &[("notes.append", note)]).await.unwrap();
            }
        }));
    }
    for each in work {
        each.await.unwrap();
    }
    let log = world.engine.log_of(org(1)).unwrap();
    let entries = log.checkpoint().checkpoint().size;
    println!("a ledger of {entries} entries in {:.1} s", began.elapsed().as_secs_f64());
    let candidate = world.engine.snapshot(org(1));
    let counts = if all_threads() > 1 { vec![1, all_threads()] } else { vec![1] };
    for threads in counts {
        let began = Instant::now();
        let (log, candidate) = (log.clone(), Arc::clone(&candidate));
        let go_on = |_| ControlFlow::Continue(());
        let report = backtest_log(&log, candidate, BacktestWindow::default(), threads, go_on, ()).await;
        let report = report.unwrap().unwrap();
        let took = began.elapsed().as_secs_f64();
        assert_eq!((report.all.changes(), report.all.not_computable), (0, 0), "the same policy says the same");
        let asked = u32::try_from(report.asked).unwrap();
        println!("{threads} threads: {asked} questions in {took:.1} s, {:.0} a second", f64::from(asked) / took);
    }
}
