//! An idle log costs a row: ten thousand logs with one append each fit in little memory, and nothing of them is loaded
//! before somebody asks.
#![expect(clippy::unwrap_used, reason = "tests")]

mod world;

use std::sync::Arc;

use countersign_ledger_log::Logs;
use world::{Hand, Ring, append, config, journal, new_log, org, stream};

const LOGS: u32 = 10_000;

/// Bytes of this process in memory.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_logs_with_one_append_each_fit_in_little_memory() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Hand::new();
    let mut settings = config(&clock);
    settings.cached_logs = 2_000;
    let logs = Logs::open(Arc::new(journal(folder.path()).await), settings.clone(), Arc::new(Ring)).await.unwrap();
    let before = resident();
    let mut tasks = Vec::new();
    for task in 0..100 {
        let (logs, clock) = (logs.clone(), Arc::clone(&clock));
        tasks.push(tokio::spawn(async move {
            for n in (1 + task..=LOGS).step_by(100) {
                logs.create(new_log(n)).await.unwrap();
                let log = logs.boot(org(n), None).await.unwrap();
                append(&log, stream(n.into()), 1, &clock).await.unwrap();
                log.close_stream(stream(n.into()));
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let used = resident().saturating_sub(before);
    assert!(used < 150 << 20, "{} MiB", used >> 20);
    let stats = logs.stats();
    assert_eq!(stats.entries, u64::from(LOGS) * 3);
    assert!(stats.logs <= 2_100, "{}", stats.logs);
    // One that left memory is verified again and goes on, in the same boot.
    let log = logs.log(org(1)).await.unwrap();
    assert_eq!(log.boot(), Some(1));
    append(&log, stream(1), 1, &clock).await.unwrap();
    assert_eq!(log.checkpoint().checkpoint().size, 4);
    logs.shutdown().await.unwrap();
    drop((logs, log));

    let logs = Logs::open(Arc::new(journal(folder.path()).await), settings, Arc::new(Ring)).await.unwrap();
    assert_eq!(logs.stats().logs, 0, "nothing is loaded before somebody asks");
    let log = logs.log(org(LOGS)).await.unwrap();
    assert_eq!(log.checkpoint().checkpoint().size, 3);
    logs.shutdown().await.unwrap();
}
