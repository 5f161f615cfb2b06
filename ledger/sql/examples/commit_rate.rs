//! How many durable appends a second, at what cost: run by hand, built as what is shipped is, on a machine that does nothing else.
//!
//! `cargo run --profile dist -p countersign-ledger-sql --example commit_rate -- [seconds] [in flight] [plain|full] [appends a stream] [folder]`
//!
//! Each task has one append in flight, as the engine has: seal, append, wait for the receipt; after 20 appends (or as
//! many as said) it goes on with a new stream. `plain` is an entry alone; `full` (the default) has a payload of 700 bytes, two projection rows and an idempotency key. Beside
//! it stands what the disk alone can do in the same minute: 4 KiB appended and synced, over and over.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    reason = "a measurement run by hand: it measures real time and stops at the first surprise"
)]

#[path = "../tests/world/mod.rs"]
mod world;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use countersign_gateway_model::{Clock, Digest, Timestamp};
use countersign_ledger_entry::{PayloadRef, PayloadRole, Row, SignedEntry};
use countersign_ledger_log::{Append, Head, Idempotency, IdempotencyScope, LogHandle, Logs};
use world::{Ring, draft, new_log, org, payload_of, sealing, stream, who};

struct System;

impl Clock for System {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        Timestamp(u64::try_from(since.as_millis()).unwrap())
    }
}

/// CPU seconds of this process, by thread name.
fn threads() -> BTreeMap<String, f64> {
    let mut by_name = BTreeMap::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let path = task.unwrap().path();
        let (Ok(stat), Ok(name)) =
            (std::fs::read_to_string(path.join("schedstat")), std::fs::read_to_string(path.join("comm")))
        else {
            continue;
        };
        let ns: f64 = stat.split_whitespace().next().unwrap().parse().unwrap();
        *by_name.entry(name.trim().to_owned()).or_insert(0.0) += ns / 1e9;
    }
    by_name
}

/// Bytes that this process has written to files.
fn written() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap();
    io.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap().parse().unwrap()
}

fn percentile(sorted: &[Duration], p: f64) -> Duration {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index of a short list")]
    let at = ((sorted.len() - 1) as f64 * p) as usize;
    sorted[at]
}

/// 4 KiB appended and synced, for a second.
fn probe(folder: &std::path::Path) {
    let path = folder.join("probe");
    let mut file = std::fs::File::create(&path).unwrap();
    let mut times = Vec::new();
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(1) {
        let one = Instant::now();
        file.write_all(&[7; 4096]).unwrap();
        file.sync_data().unwrap();
        times.push(one.elapsed());
    }
    let rate = times.len() as f64 / begin.elapsed().as_secs_f64();
    times.sort_unstable();
    println!("probe: {rate:.0} syncs/s, p50 {:?}, p99 {:?}", percentile(&times, 0.5), percentile(&times, 0.99));
    std::fs::remove_file(path).unwrap();
}

async fn one(log: &LogHandle, n: u64, head: &mut Option<Head>, full: bool) {
    let at = stream(n);
    let now = System.now();
    let sealing = sealing(at, *head, now);
    let number = n << 32 | sealing.sequence;
    let mut draft = draft(number);
    let mut append = Append { expected: sealing.sequence, ..Append::default() };
    if full {
        let payload = payload_of(number, 700);
        draft.payloads = vec![PayloadRef { role: PayloadRole::Question, digest: payload.digest, length: 732 }];
        append.payloads = vec![payload];
        append.rows = vec![
            Row { table: "instance", key: at.id.as_bytes().to_vec(), columns: Some(vec![b'i'; 300]) },
            // Ids sort by time, so new rows come after all others.
            Row {
                table: "action",
                key: [now.0, number].map(u64::to_be_bytes).concat(),
                columns: Some(vec![b'a'; 200]),
            },
        ];
        let mut key = [0; 32];
        key[..8].copy_from_slice(&number.to_be_bytes());
        append.idempotency = Some(Idempotency {
            scope: IdempotencyScope { stream: at, principal: who(1) },
            key: Digest(key),
            request: Digest([2; 32]),
            answer: vec![b'r'; 300],
        });
    }
    append.entries = log.seal(&sealing, vec![draft]).unwrap();
    let hash = append.entries.last().map(|e: &SignedEntry| e.hash).unwrap();
    let appended = log.append(append).await.unwrap();
    assert_eq!(appended.entries[0].receipt.leaf_hash, hash);
    *head = Some(Head { next_sequence: sealing.sequence + 1, last_hash: Digest(hash.0) });
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let mut args = std::env::args().skip(1);
    let seconds = args.next().map_or(5, |a| a.parse().unwrap());
    let in_flight: u64 = args.next().map_or(64, |a| a.parse().unwrap());
    let full = args.next().is_none_or(|a| a == "full");
    let per_stream: usize = args.next().map_or(20, |a| a.parse().unwrap());
    let temp = tempfile::tempdir().unwrap();
    let folder = args.next().map_or(temp.path().to_owned(), PathBuf::from);
    probe(&folder);

    let journal = Arc::new(world::journal(&folder).await);
    let mut config = world::config(&world::Hand::new());
    config.clock = Arc::new(System);
    config.on_fatal = Arc::new(|reason| println!("fatal: {reason}"));
    let logs = Logs::open(journal, config, Arc::new(Ring)).await.unwrap();
    let log = logs.create(new_log(1)).await.unwrap();
    logs.boot(org(1), None).await.unwrap();

    let stop = Arc::new(AtomicBool::new(false));
    let before = logs.stats();
    let (cpu_before, written_before, begin) = (threads(), written(), Instant::now());
    let mut tasks = Vec::new();
    for n in 0..in_flight {
        let (log, stop) = (log.clone(), Arc::clone(&stop));
        tasks.push(tokio::spawn(async move {
            let (mut head, mut times) = (None, Vec::new());
            let mut at = n;
            while !stop.load(Ordering::Relaxed) {
                let one_begin = Instant::now();
                one(&log, at, &mut head, full).await;
                times.push(one_begin.elapsed());
                if times.len() % per_stream == 0 {
                    log.close_stream(stream(at));
                    (at, head) = (at + in_flight, None);
                }
            }
            times
        }));
    }
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    stop.store(true, Ordering::Relaxed);
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.unwrap());
    }
    let elapsed = begin.elapsed().as_secs_f64();
    let (after, cpu_after) = (logs.stats(), threads());
    times.sort_unstable();
    let appends = after.appends - before.appends;
    println!(
        "{in_flight} in flight, {}: {:.0} appends/s, p50 {:?}, p99 {:?}, p99.9 {:?}",
        if full { "full" } else { "plain" },
        appends as f64 / elapsed,
        percentile(&times, 0.5),
        percentile(&times, 0.99),
        percentile(&times, 0.999),
    );
    println!(
        "{} commits ({:.0}/s), {} syncs, {:.1} appends a commit, log {} MiB",
        after.commits - before.commits,
        (after.commits - before.commits) as f64 / elapsed,
        after.syncs - before.syncs,
        appends as f64 / (after.commits - before.commits) as f64,
        after.wal_bytes >> 20,
    );
    println!("{:.1} KiB written an append", (written() - written_before) as f64 / 1024.0 / appends as f64);
    for (bucket, count) in after.batches.iter().enumerate().filter(|(_, count)| **count > 0) {
        println!("  batches of {:>4} and more: {count}", 1_u64 << bucket);
    }
    let mut total = 0.0;
    for (name, seconds) in cpu_after {
        let used = seconds - cpu_before.get(&name).copied().unwrap_or(0.0);
        total += used;
        println!("  cpu {name:<20} {:>6.1} µs an append", used * 1e6 / appends as f64);
    }
    println!("  cpu {:<20} {:>6.1} µs an append", "all", total * 1e6 / appends as f64);
    logs.shutdown().await.unwrap();
}
