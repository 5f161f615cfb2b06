//! A process that appends and says aloud which receipts it was given, and the judgement whether a folder still honours
//! them: each is there, each is proven, and nothing that is served is half of something.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use countersign_ledger_entry::Entry;
use countersign_ledger_log::{AppendError, FsckLevel, LogError, LogHandle, Logs, fsck};
use countersign_ledger_merkle::{Hash, leaf_hash, verify_consistency, verify_inclusion};
use countersign_ledger_sql::{SqlJournal, SqlOptions};

use crate::traced::Event;
use crate::world::{Hand, Ring, append, config, new_log, org, stream};

/// What the process ends with when nothing may be signed any more.
pub const FATAL: i32 = 86;

/// What it ends with when the folder cannot be opened.
pub const REFUSED: i32 = 87;

/// A receipt that was released.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    pub index: u64,
    pub hash: Hash,
    pub size: u64,
    pub root: Hash,
    pub proof: Vec<Hash>,
}

/// One write a line, so that nothing is said by halves.
pub fn say(line: &str) {
    std::io::stderr().write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// The receipts of `events`.
pub fn released(events: &[Event]) -> Vec<Receipt> {
    let lines = events.iter().filter_map(|event| match event {
        Event::Said(text) => Some(text.lines()),
        _ => None,
    });
    lines.flatten().filter_map(receipt).collect()
}

fn receipt(line: &str) -> Option<Receipt> {
    let mut parts = line.strip_prefix("receipt ")?.strip_suffix('.')?.split(' ');
    let mut next = || parts.next();
    let (index, hash) = (next()?.parse().ok()?, next()?.parse().ok()?);
    let (size, root) = (next()?.parse().ok()?, next()?.parse().ok()?);
    let proof = next()?.split(',').filter(|hash| !hash.is_empty()).map(|hash| hash.parse().unwrap()).collect();
    Some(Receipt { index, hash, size, root, proof })
}

/// Options under which the write-ahead log is copied often.
fn options(folder: &Path) -> SqlOptions {
    SqlOptions { reserve: 0, checkpoint_after: 48 << 10, ..SqlOptions::new(folder) }
}

/// Opens the ledger of the folder, or makes it, and boots its log.
async fn open(folder: &Path, clock: &Arc<Hand>, ends: bool) -> Result<(Logs, LogHandle), String> {
    let text = |error: &dyn std::error::Error| format!("{error}: {:?}", error.source().map(ToString::to_string));
    let mut config = config(clock);
    if ends {
        config.on_fatal = Arc::new(|reason| {
            say(&format!("fatal {reason}"));
            std::process::exit(FATAL);
        });
    }
    let journal = SqlJournal::open(options(folder)).await.map_err(|e| text(&e))?;
    let logs = Logs::open(Arc::new(journal), config, Arc::new(Ring)).await.map_err(|e| text(&e))?;
    let log = match logs.create(new_log(1)).await {
        Err(LogError::Exists(org)) => logs.log(org).await,
        other => other,
    };
    let log = log.map_err(|e| text(&e))?;
    logs.boot(org(1), None).await.map_err(|e| text(&e))?;
    Ok((logs, log))
}

async fn tell(log: &LogHandle, clock: &Hand, number: u64, entries: u64) {
    if let Err(error) = log.head(stream(number)).await {
        return say(&format!("refused {number}: {error}"));
    }
    say(&format!("asks {number}"));
    match append(log, stream(number), entries, clock).await {
        Ok(appended) => {
            let mut lines = String::new();
            for entry in &appended.entries {
                let receipt = &entry.receipt;
                let at = receipt.checkpoint.checkpoint();
                let proof: Vec<String> = receipt.proof.iter().map(ToString::to_string).collect();
                let (index, hash, proof) = (receipt.index, receipt.leaf_hash, proof.join(","));
                writeln!(lines, "receipt {index} {hash} {} {} {proof}.", at.size, at.root).unwrap();
            }
            say(lines.trim_end());
        }
        // Pushed back: nothing was committed, and that was said.
        Err(error @ (AppendError::Busy { .. } | AppendError::DiskFull)) => say(&format!("refused {number}: {error}")),
        // The process is about to end; its exit status says whether it did.
        Err(error) => {
            say(&format!("failed {number}: {error}"));
            std::thread::sleep(std::time::Duration::from_secs(30));
        }
    }
}

/// What the traced process does: opens the folder, appends in `tasks` at once, closes, and does it again, `times` times.
pub fn work(folder: &Path, times: u64, tasks: u64, appends: u64) -> ! {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let clock = Hand::new();
        for round in 0..times {
            let (logs, log) = open(folder, &clock, true).await.unwrap_or_else(|error| {
                say(&format!("not opened: {error}"));
                std::process::exit(REFUSED);
            });
            let mut running = Vec::new();
            for task in 0..tasks {
                let (log, clock) = (log.clone(), Arc::clone(&clock));
                running.push(tokio::spawn(async move {
                    for n in 0..appends {
                        tell(&log, &clock, 1 + task * 3 + n % 3 + round, 1 + (n * 5 + task) % 9).await;
                    }
                }));
            }
            for task in running {
                task.await.unwrap();
            }
            if let Err(error) = logs.shutdown().await {
                say(&format!("not closed: {error}"));
            }
        }
    });
    std::process::exit(0);
}

/// Opens a folder as the next start would, and says what is wrong with it.
pub async fn honours(folder: &Path, receipts: &[Receipt]) -> Result<(), String> {
    let clock = Hand::new();
    let (logs, log) = open(folder, &clock, false).await?;
    let outcome = judge(&logs, &log, receipts, &clock).await;
    logs.shutdown().await.map_err(|e| e.to_string())?;
    outcome
}

async fn judge(logs: &Logs, log: &LogHandle, receipts: &[Receipt], clock: &Hand) -> Result<(), String> {
    let report = fsck(&**logs.journal(), &**logs.keys(), FsckLevel::Payloads, None, &mut |_| {}).await;
    let report = report.map_err(|e| e.to_string())?;
    if !report.sound {
        return Err(format!("fsck: {report:?}"));
    }
    let checkpoint = log.checkpoint();
    let now = checkpoint.checkpoint();
    let entries = log.entries(0..now.size).await.map_err(|e| e.to_string())?;
    for receipt in receipts {
        let place = usize::try_from(receipt.index).map_err(|e| e.to_string())?;
        let entry = entries.get(place).ok_or_else(|| format!("entry {place} of {} is lost", now.size))?;
        if leaf_hash(&entry.leaf) != receipt.hash {
            return Err(format!("entry {place} is another one"));
        }
        verify_inclusion(&receipt.hash, receipt.index, receipt.size, &receipt.proof, &receipt.root)
            .map_err(|e| format!("the receipt of entry {place}: {e}"))?;
        let proof = log.consistency(receipt.size, now.size).await.map_err(|e| format!("entry {place}: {e}"))?;
        verify_consistency(receipt.size, now.size, &proof, &receipt.root, &now.root)
            .map_err(|e| format!("the checkpoint of entry {place} is not of this history: {e}"))?;
    }
    // Whole appends, and of each stream the row that was written with its last append.
    let mut rows = BTreeMap::new();
    let mut left = 0;
    for entry in &entries {
        let header = Entry::parse(&entry.leaf).map_err(|e| e.to_string())?.header;
        if (header.append.index == 0) != (left == 0) {
            return Err(format!("entry {} is part of half an append", entry.index));
        }
        if left == 0 {
            left = header.append.length;
            if header.stream
                != (countersign_ledger_entry::Stream {
                    kind: countersign_ledger_entry::StreamKind::Log,
                    id: log.id().into(),
                })
            {
                rows.insert(header.stream.id.as_bytes().to_vec(), header.sequence);
            }
        }
        left -= 1;
    }
    if left > 0 {
        return Err("the last append is not whole".to_owned());
    }
    for (key, sequence) in rows {
        let row = log.view("instance", &key).await.map_err(|e| e.to_string())?;
        if row != Some(format!("{{\"sequence\":{sequence}}}").into_bytes()) {
            return Err(format!("the projection is not of append {sequence}: {row:?}"));
        }
    }
    // And it goes on.
    append(log, stream(1), 2, clock).await.map_err(|e| format!("no append after it: {e}"))?;
    Ok(())
}
