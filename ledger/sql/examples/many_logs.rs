//! What a log costs: ten thousand of them in one process, one append each. Run by hand, built as what is shipped is.
//!
//! `cargo run --profile dist -p countersign-ledger-sql --example many_logs -- [logs] [cached logs]`
//!
//! Prints memory before and after (all logs stay in memory unless fewer are asked for), time, and bytes on the disk.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    reason = "a measurement run by hand: it measures real time and stops at the first surprise"
)]

#[path = "../tests/world/mod.rs"]
mod world;

use std::sync::Arc;
use std::time::Instant;

use countersign_ledger_log::Logs;
use world::{Hand, Ring, append, config, journal, new_log, org, stream};

/// A line of `/proc/self/status`, in MiB.
fn memory(line: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let value = status.lines().find_map(|l| l.strip_prefix(line)).unwrap();
    value.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let mut args = std::env::args().skip(1);
    let count: u32 = args.next().map_or(10_000, |a| a.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let clock = Hand::new();
    let mut settings = config(&clock);
    if let Some(cached) = args.next() {
        settings.cached_logs = cached.parse().unwrap();
    }
    let logs = Logs::open(Arc::new(journal(folder.path()).await), settings.clone(), Arc::new(Ring)).await.unwrap();
    let (before, begin) = (memory("VmRSS"), Instant::now());
    let mut tasks = Vec::new();
    for task in 0..64 {
        let (logs, clock) = (logs.clone(), Arc::clone(&clock));
        tasks.push(tokio::spawn(async move {
            for n in (1 + task..=count).step_by(64) {
                logs.create(new_log(n)).await.unwrap();
                let log = logs.boot(org(n), None).await.unwrap();
                append(&log, stream(n.into()), 1, &clock).await.unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let (seconds, stats) = (begin.elapsed().as_secs_f64(), logs.stats());
    let after = memory("VmRSS");
    println!("{count} logs begun, booted and appended to once in {seconds:.1} s, {} commits", stats.commits);
    println!(
        "{} logs and {} streams in memory ({} KiB by its own count)",
        stats.logs,
        stats.streams,
        stats.stream_bytes >> 10
    );
    println!("memory: {before:.1} MiB before, {after:.1} MiB after, {:.1} MiB at most", memory("VmHWM"));
    println!("{:.2} KiB a log that is open", (after - before) * 1024.0 / f64::from(count));
    logs.shutdown().await.unwrap();
    drop(logs);
    let bytes: u64 = std::fs::read_dir(folder.path()).unwrap().map(|f| f.unwrap().metadata().unwrap().len()).sum();
    println!(
        "{:.1} MiB on the disk, {:.2} KiB a log",
        bytes as f64 / 1_048_576.0,
        bytes as f64 / 1024.0 / f64::from(count)
    );

    let logs = Logs::open(Arc::new(journal(folder.path()).await), settings, Arc::new(Ring)).await.unwrap();
    let begin = Instant::now();
    for n in 1..=count {
        logs.boot(org(n), None).await.unwrap();
    }
    println!(
        "{:.1} s to open all of them again, one after the other, each with a boot entry",
        begin.elapsed().as_secs_f64()
    );
    logs.shutdown().await.unwrap();
}
