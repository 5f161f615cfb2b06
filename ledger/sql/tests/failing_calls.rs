//! Each call by which the ledger reaches the disk fails, one at a time: what was acknowledged stays, what failed is not
//! acknowledged, an error at COMMIT ends the process, and the next start finds a log that is whole.
#![expect(clippy::unwrap_used, reason = "tests")]

mod receipts;
mod traced;
mod world;

use std::path::Path;

use receipts::{FATAL, REFUSED, Receipt, honours, released, work};
use traced::{Dice, Disk, Event, FOLDER, Lost, Trace, run, strace_or_skip};

/// Where the parent told this process to work, if it is the traced one.
fn told() -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "the parent says where")]
    std::env::var(FOLDER).ok()
}

/// A folder with a log in it, closed in good order, and what it holds.
async fn prepared() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    honours(folder.path(), &[]).await.unwrap();
    folder
}

fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap().path();
        std::fs::copy(&file, to.path().join(file.file_name().unwrap())).unwrap();
    }
    to
}

/// The threads that write to the write-ahead log.
fn writers(trace: &Trace) -> Vec<u32> {
    let of = |event: &Event| match event {
        Event::Write { name, thread, .. } if name == "ledger.db-wal" => Some(*thread),
        _ => None,
    };
    trace.events.iter().filter_map(of).collect()
}

/// Whether an append was under way at this place among the events.
fn within_an_append(events: &[Event], at: usize) -> bool {
    let said = events.iter().take(at).rev().find_map(|event| match event {
        Event::Said(text) => Some(text.starts_with("asks")),
        _ => None,
    });
    said.unwrap_or(false)
}

/// What the process that met the fault did and said. The error is what it should not have done.
fn behaved(trace: &Trace, own: &str) -> Result<(), String> {
    let code = trace.status.code();
    if !matches!(code, Some(0 | FATAL | REFUSED)) {
        return Err(format!("it ended with {:?}", trace.status));
    }
    let writers = writers(trace);
    for fault in trace.injected.iter().filter(|fault| fault.path.contains(own)) {
        let sync = fault.call.ends_with("sync");
        let on_log = fault.path.ends_with("ledger.db-wal");
        let at_commit = on_log && within_an_append(&trace.events, fault.at) && writers.contains(&fault.thread);
        let after = trace.events.get(fault.at..).unwrap_or_default();
        let answered = after.iter().filter(|e| matches!(e, Event::Said(text) if text.starts_with("receipt"))).count();
        if at_commit && (sync || fault.call == "pwrite64") && (answered > 0 || code != Some(FATAL)) {
            return Err(format!("{fault:?}: {answered} answers after it, ended with {code:?}"));
        }
        // SQLite goes on where it cannot sync the folder, and the start-up that follows syncs it by itself. Otherwise one
        // append may have been on its way past the copying of the log.
        if sync && !fault.path.ends_with(own) && answered > 1 {
            return Err(format!("{fault:?}: it went on for {answered} answers"));
        }
    }
    Ok(())
}

/// A kind of call, how it fails, and which of its occurrences are tried: every one, or every so many.
struct Row {
    call: &'static str,
    error: &'static str,
    every: usize,
}

/// Makes one call after another fail, until there is none left to fail. Gives how many were tried.
async fn matrix(name: &str, start: Option<&Path>, rows: &[Row], broken: &mut Vec<String>) -> usize {
    let mut dice = Dice::new(3);
    let mut tried = 0;
    for Row { call, error, every } in rows {
        for n in (1..).step_by(*every) {
            let folder = start.map_or_else(|| tempfile::tempdir().unwrap(), copy);
            let own = folder.path().to_str().unwrap().to_owned();
            let mut disk = Disk::of(folder.path());
            let inject = ["-e".to_owned(), format!("inject={call}:error={error}:when={n}")];
            let trace = run(name, folder.path(), &inject, &[]);
            if trace.injected.is_empty() {
                break;
            }
            // The first calls of some kinds are those of the dynamic linker: no business of ours.
            if !trace.injected.iter().any(|fault| fault.path.contains(&own)) {
                continue;
            }
            tried += 1;
            let what = format!("{call} {error} {n} on {:?}", trace.injected.first().map(|fault| &fault.path));
            if let Err(why) = behaved(&trace, &own) {
                broken.push(format!("{what}: {why}"));
            }
            let mut receipts = released(&trace.events);
            trace.events.iter().for_each(|event| disk.apply(event));
            disk.process_ends();
            // The power fails before anybody can start it again.
            holds(&disk, &receipts, &mut dice, &format!("{what}, then a power cut"), broken).await;
            if call.ends_with("sync") {
                // It is started again, finds in the kernel's memory what never came to the disk, and then the power fails.
                let again = run(name, folder.path(), &[], &[]);
                if !again.status.success() {
                    broken.push(format!("{what}: the next start ended with {:?}", again.status));
                }
                again.events.iter().for_each(|event| disk.apply(event));
                receipts.extend(released(&again.events));
                holds(&disk, &receipts, &mut dice, &format!("{what}, a start, then a power cut"), broken).await;
            }
            if let Err(why) = honours(folder.path(), &receipts).await {
                broken.push(format!("{what}: after a new start: {why}"));
            }
        }
    }
    tried
}

async fn holds(disk: &Disk, receipts: &[Receipt], dice: &mut Dice, what: &str, broken: &mut Vec<String>) {
    for lost in [Lost::Everything, Lost::Sectors(2)] {
        let image = tempfile::tempdir().unwrap();
        disk.image(lost, dice, image.path());
        if let Err(why) = honours(image.path(), receipts).await {
            broken.push(format!("{what}, lost {lost:?}: {why}"));
        }
    }
}

#[tokio::test]
async fn each_sync_that_fails_ends_the_process_and_the_next_start_finds_every_receipt() {
    const NAME: &str = "each_sync_that_fails_ends_the_process_and_the_next_start_finds_every_receipt";
    if let Some(folder) = told() {
        std::thread::spawn(move || work(Path::new(&folder), 1, 1, 3)).join().unwrap();
    }
    if !strace_or_skip(NAME) {
        return;
    }
    let mut broken = Vec::new();
    // Each by itself: occurrences are counted for each call. SQLite syncs data alone, as it was built to; the rest are ours.
    let [mut first, mut later] = [Vec::new(), Vec::new()];
    for call in ["fsync", "fdatasync"] {
        let rows = [Row { call, error: "EIO", every: 1 }];
        // The first start, then one on a folder that has a log.
        first.push(matrix(NAME, None, &rows, &mut broken).await);
        later.push(matrix(NAME, Some(prepared().await.path()), &rows, &mut broken).await);
    }
    assert!(broken.is_empty(), "{broken:#?}");
    let enough = matches!((&first[..], &later[..]), ([(2..), (11..)], [(2..), (4..)]));
    assert!(enough, "{first:?} and {later:?}");
}

#[tokio::test]
async fn each_write_that_fails_acknowledges_nothing_and_leaves_all_or_nothing() {
    const NAME: &str = "each_write_that_fails_acknowledges_nothing_and_leaves_all_or_nothing";
    if let Some(folder) = told() {
        std::thread::spawn(move || work(Path::new(&folder), 1, 1, 2)).join().unwrap();
    }
    if !strace_or_skip(NAME) {
        return;
    }
    let mut broken = Vec::new();
    let rows = [
        Row { call: "pwrite64", error: "EIO", every: 1 },
        Row { call: "pwrite64", error: "ENOSPC", every: 2 },
        Row { call: "ftruncate", error: "EIO", every: 1 },
        Row { call: "pread64", error: "EIO", every: 2 },
    ];
    let tried = matrix(NAME, Some(prepared().await.path()), &rows, &mut broken).await;
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(tried > 60, "{tried}");
}

/// A write that ends early, as on a disk that fills up half-way through it: files may grow to so many blocks, and not by a
/// byte more.
#[tokio::test]
async fn a_write_that_ends_early_acknowledges_nothing_and_leaves_all_or_nothing() {
    const NAME: &str = "a_write_that_ends_early_acknowledges_nothing_and_leaves_all_or_nothing";
    if let Some(folder) = told() {
        std::thread::spawn(move || work(Path::new(&folder), 1, 1, 4)).join().unwrap();
    }
    let prepared = prepared().await;
    let (mut broken, mut ended, mut went_on) = (Vec::new(), 0, 0);
    for blocks in (66..600).step_by(29) {
        let folder = copy(prepared.path());
        // An ignored signal stays ignored in the program that follows, so that the write fails instead of ending it.
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\"");
        let output = std::process::Command::new("sh")
            .args(["-c", &script, "sh"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture"])
            .env(FOLDER, folder.path())
            .stdout(std::process::Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        match output.status.code() {
            Some(FATAL | REFUSED) => ended += 1,
            Some(0) => went_on += 1,
            other => broken.push(format!("{blocks} blocks: it ended with {other:?}: {said}")),
        }
        let receipts = released(&[Event::Said(said)]);
        if let Err(why) = honours(folder.path(), &receipts).await {
            broken.push(format!("{blocks} blocks: {why}"));
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(ended > 3 && went_on > 0, "{ended} ended, {went_on} went on");
}
