//! What a failing disk, a failing process or a second process can do to the ledger: nothing that was acknowledged is
//! lost, nothing that failed is acknowledged, and what is not known is called so.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod world;

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use countersign_gateway_model::{Clock as _, Digest, LogId, OrgId, Timestamp};
use countersign_ledger_entry::Stream;
use countersign_ledger_log::journal::{
    Advance, Batch, HeldPayload, IdempotencyRecord, JournalStats, LogRecord, StreamRecord,
};
use countersign_ledger_log::{
    AppendError, CommitError, FsckLevel, Journal, JournalError, LogError, LogHandle, LogNumber, Logs, StoredEntry,
    StreamNumber, ViewRow, Views, fsck,
};
use countersign_ledger_merkle::Hash;
use countersign_ledger_sql::{SqlJournal, SqlOptions};
use world::{Hand, Ring, append, config, journal, ledger, log_id, new_log, open, org, prepare, stream};

/// What goes wrong, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The batch is not stored: the database is busy.
    StageBusy,
    /// The batch is not stored: no room.
    StageFull,
    /// The batch is not stored, and nobody knows why.
    StageFails,
    /// The batch is stored, but an error is told, and the transaction stays open.
    StageHappensAndFails,
    /// The batch is stored with one bit changed.
    StageTorn,
    /// The batch is stored without its last entry.
    StageShort,
    /// The committer panics.
    StagePanics,
    /// As `StageTorn`, and it cannot be rolled back.
    StageTornAndStuck,
    /// COMMIT is not reached: the database is busy.
    CommitBusy,
    /// COMMIT is not reached: another committer was faster.
    CommitFenced,
    /// COMMIT fails, and nothing is stored.
    CommitFails,
    /// COMMIT fails, and everything is stored.
    CommitHappensAndFails,
    /// COMMIT takes long.
    CommitSlow,
}

/// What the caller is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Committed,
    Busy,
    Full,
    Refusing,
    Unknown,
}

/// A journal in which something goes wrong when it is asked for.
struct Faulty {
    inner: SqlJournal,
    fault: Mutex<Option<Fault>>,
}

fn backend() -> JournalError {
    JournalError::Backend { doing: "was tested", source: "input/output error".into() }
}

impl Faulty {
    async fn new(folder: &Path) -> Arc<Self> {
        Arc::new(Self { inner: journal(folder).await, fault: Mutex::new(None) })
    }

    fn arm(&self, fault: Fault) {
        *self.fault.lock().unwrap() = Some(fault);
    }

    fn take(&self, of: &[Fault]) -> Option<Fault> {
        let mut held = self.fault.lock().unwrap();
        held.filter(|fault| of.contains(fault)).inspect(|fault| {
            if *fault != Fault::StageTornAndStuck {
                *held = None;
            }
        })
    }
}

#[async_trait]
impl Journal for Faulty {
    async fn stage(&self, batch: &Batch) -> Result<Vec<Vec<u8>>, JournalError> {
        use Fault::{
            StageBusy, StageFails, StageFull, StageHappensAndFails, StagePanics, StageShort, StageTorn,
            StageTornAndStuck,
        };
        let clean = [StageBusy, StageFull, StageFails, StagePanics];
        let of = [StageHappensAndFails, StageTorn, StageShort, StageTornAndStuck];
        match self.take(&clean).or_else(|| self.take(&of)) {
            Some(StagePanics) => panic!("as the test wants"),
            Some(StageBusy) => Err(JournalError::Busy),
            Some(StageFull) => Err(JournalError::Full),
            Some(StageFails) => Err(backend()),
            Some(StageHappensAndFails) => {
                self.inner.stage(batch).await?;
                Err(backend())
            }
            Some(StageTorn | StageTornAndStuck) => {
                let mut stored = self.inner.stage(batch).await?;
                let leaf = stored.last_mut().unwrap();
                let middle = leaf.len() / 2;
                leaf[middle] ^= 1;
                Ok(stored)
            }
            Some(StageShort) => {
                let mut stored = self.inner.stage(batch).await?;
                stored.pop();
                Ok(stored)
            }
            _ => self.inner.stage(batch).await,
        }
    }

    async fn commit(&self, advances: &[Advance]) -> Result<(), CommitError> {
        use Fault::{CommitBusy, CommitFails, CommitFenced, CommitHappensAndFails, CommitSlow};
        match self.take(&[CommitBusy, CommitFenced, CommitFails, CommitHappensAndFails, CommitSlow]) {
            Some(CommitBusy) => {
                self.inner.rollback().await.map_err(CommitError::Unknown)?;
                Err(CommitError::RolledBack(JournalError::Busy))
            }
            Some(CommitFenced) => {
                self.inner.rollback().await.map_err(CommitError::Unknown)?;
                Err(CommitError::RolledBack(JournalError::Fenced))
            }
            Some(CommitFails) => {
                self.inner.rollback().await.map_err(CommitError::Unknown)?;
                Err(CommitError::Unknown(backend()))
            }
            Some(CommitHappensAndFails) => {
                self.inner.commit(advances).await?;
                Err(CommitError::Unknown(backend()))
            }
            Some(CommitSlow) => {
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                self.inner.commit(advances).await
            }
            _ => self.inner.commit(advances).await,
        }
    }

    async fn rollback(&self) -> Result<(), JournalError> {
        match self.take(&[Fault::StageTornAndStuck]) {
            Some(_) => Err(backend()),
            None => self.inner.rollback().await,
        }
    }

    async fn numbers(&self) -> Result<(LogNumber, StreamNumber), JournalError> {
        self.inner.numbers().await
    }
    async fn logs(&self, after: LogNumber, limit: usize) -> Result<Vec<LogRecord>, JournalError> {
        self.inner.logs(after, limit).await
    }
    async fn log_of(&self, org: OrgId) -> Result<Option<LogRecord>, JournalError> {
        self.inner.log_of(org).await
    }
    async fn log_by_id(&self, id: LogId) -> Result<Option<LogRecord>, JournalError> {
        self.inner.log_by_id(id).await
    }
    async fn last_index(&self, log: LogNumber) -> Result<Option<u64>, JournalError> {
        self.inner.last_index(log).await
    }
    async fn entries(&self, log: LogNumber, range: Range<u64>) -> Result<Vec<StoredEntry>, JournalError> {
        self.inner.entries(log, range).await
    }
    async fn stream(&self, log: LogNumber, stream: Stream) -> Result<Option<StreamRecord>, JournalError> {
        self.inner.stream(log, stream).await
    }
    async fn stream_entries(
        &self,
        log: LogNumber,
        stream: Stream,
        from: u64,
        limit: usize,
    ) -> Result<Vec<StoredEntry>, JournalError> {
        self.inner.stream_entries(log, stream, from, limit).await
    }
    async fn idempotency(
        &self,
        log: LogNumber,
        stream: Stream,
        since: Timestamp,
    ) -> Result<Vec<IdempotencyRecord>, JournalError> {
        self.inner.idempotency(log, stream, since).await
    }
    async fn payloads(&self, log: LogNumber, index: u64) -> Result<Vec<(Digest, Vec<u8>)>, JournalError> {
        self.inner.payloads(log, index).await
    }
    async fn payloads_of(&self, log: LogNumber, range: Range<u64>) -> Result<Vec<HeldPayload>, JournalError> {
        self.inner.payloads_of(log, range).await
    }
    async fn blob(&self, log: LogNumber, digest: &Digest) -> Result<Option<Vec<u8>>, JournalError> {
        self.inner.blob(log, digest).await
    }
    async fn blobs(&self, log: LogNumber, after: Option<Digest>, limit: usize) -> Result<Vec<Digest>, JournalError> {
        self.inner.blobs(log, after, limit).await
    }
    async fn tile(&self, log: LogNumber, level: u8, index: u64) -> Result<Option<Vec<u8>>, JournalError> {
        self.inner.tile(log, level, index).await
    }
    async fn tile_roots(&self, log: LogNumber, level: u8, range: Range<u64>) -> Result<Vec<Hash>, JournalError> {
        self.inner.tile_roots(log, level, range).await
    }
    async fn checkpoint(&self, log: LogNumber, size: u64) -> Result<Option<String>, JournalError> {
        self.inner.checkpoint(log, size).await
    }
    async fn checkpoint_sizes(&self, log: LogNumber, after: u64, limit: usize) -> Result<Vec<u64>, JournalError> {
        self.inner.checkpoint_sizes(log, after, limit).await
    }
    fn free_space(&self) -> Option<u64> {
        self.inner.free_space()
    }
    fn release_reserve(&self) -> bool {
        self.inner.release_reserve()
    }
    fn stats(&self) -> JournalStats {
        self.inner.stats()
    }
    async fn close(&self) -> Result<(), JournalError> {
        self.inner.close().await
    }
}

#[async_trait]
impl Views for Faulty {
    async fn get(&self, org: OrgId, table: &str, key: &[u8]) -> Result<Option<Vec<u8>>, JournalError> {
        self.inner.get(org, table, key).await
    }
    async fn scan(
        &self,
        org: OrgId,
        table: &str,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        reverse: bool,
    ) -> Result<Vec<ViewRow>, JournalError> {
        self.inner.scan(org, table, prefix, after, limit, reverse).await
    }
}

async fn length(log: &LogHandle, of: Stream) -> u64 {
    log.head(of).await.unwrap().map_or(0, |head| head.next_sequence)
}

async fn assert_sound(logs: &Logs) {
    let report = fsck(&**logs.journal(), &**logs.keys(), FsckLevel::Payloads, None, &mut |_| {}).await.unwrap();
    assert!(report.sound, "{report:?}");
}

#[tokio::test]
async fn every_fault_at_the_door_is_told_as_it_is_and_leaves_all_or_nothing() {
    use Fault as F;
    // Fault; what the caller is told; whether the append is there after a restart; whether the ledger goes on.
    let table = [
        (F::StageBusy, Told::Busy, false, true),
        (F::StageFull, Told::Full, false, true),
        (F::StageFails, Told::Refusing, false, false),
        (F::StageHappensAndFails, Told::Refusing, false, false),
        (F::StageTorn, Told::Refusing, false, false),
        (F::StageShort, Told::Refusing, false, false),
        (F::StageTornAndStuck, Told::Refusing, false, false),
        (F::StagePanics, Told::Unknown, false, false),
        (F::CommitBusy, Told::Busy, false, true),
        (F::CommitFenced, Told::Refusing, false, false),
        (F::CommitFails, Told::Unknown, false, false),
        (F::CommitHappensAndFails, Told::Unknown, true, false),
        (F::CommitSlow, Told::Committed, true, true),
    ];
    for (fault, told, there, goes_on) in table {
        let folder = tempfile::tempdir().unwrap();
        let clock = Hand::new();
        let faulty = Faulty::new(folder.path()).await;
        let fatal = Arc::new(AtomicUsize::new(0));
        let mut config = config(&clock);
        config.on_fatal = {
            let fatal = Arc::clone(&fatal);
            Arc::new(move |_| {
                fatal.fetch_add(1, Ordering::SeqCst);
            })
        };
        let door: Arc<dyn Journal> = Arc::<Faulty>::clone(&faulty);
        let logs = Logs::open(door, config, Arc::new(Ring)).await.unwrap();
        let log = logs.create(new_log(1)).await.unwrap();
        logs.boot(org(1), None).await.unwrap();
        append(&log, stream(1), 2, &clock).await.unwrap();
        let before = log.checkpoint().checkpoint().size;

        faulty.arm(fault);
        let found = match append(&log, stream(1), 3, &clock).await {
            Ok(_) => Told::Committed,
            Err(AppendError::Busy { .. }) => Told::Busy,
            Err(AppendError::DiskFull) => Told::Full,
            Err(AppendError::Refusing(_)) => Told::Refusing,
            Err(AppendError::Unknown) => Told::Unknown,
            Err(other) => panic!("{fault:?}: {other}"),
        };
        assert_eq!(found, told, "{fault:?}");
        // A panic is told while its thread unwinds; the ledger stops at the end of that.
        for _ in 0..1000 {
            if goes_on || logs.stopped().is_some() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        assert_eq!(logs.stopped().is_none(), goes_on, "{fault:?}");
        let signed = log.checkpoint().checkpoint().size;
        assert_eq!(signed, if told == Told::Committed { before + 3 } else { before }, "{fault:?}: memory is not ahead");
        let again = append(&log, stream(2), 1, &clock).await;
        match again {
            Ok(_) => assert!(goes_on, "{fault:?}"),
            Err(AppendError::Refusing(_)) => assert!(!goes_on, "{fault:?}"),
            Err(other) => panic!("{fault:?}: {other}"),
        }
        // The process ends: what was staged goes with its connection.
        logs.shutdown().await.unwrap();
        assert_eq!(fatal.load(Ordering::SeqCst), usize::from(!goes_on), "{fault:?}");
        drop((logs, log, faulty));

        let (logs, log) = ledger(folder.path(), &clock).await;
        assert_eq!(length(&log, stream(1)).await, if there { 5 } else { 2 }, "{fault:?}");
        assert_eq!(length(&log, stream(2)).await, u64::from(goes_on), "{fault:?}");
        append(&log, stream(1), 1, &clock).await.unwrap();
        assert_sound(&logs).await;
        logs.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn of_two_committers_on_one_file_only_the_later_can_sign() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Hand::new();
    let (first, first_log) = ledger(folder.path(), &clock).await;
    append(&first_log, stream(1), 1, &clock).await.unwrap();
    // Somebody removes the lock file, as operators do.
    std::fs::remove_file(folder.path().join("ledger.lock")).unwrap();
    let (second, second_log) = ledger(folder.path(), &clock).await;
    let size = second_log.checkpoint().checkpoint().size;

    let late = append(&first_log, stream(9), 1, &clock).await;
    assert!(matches!(late, Err(AppendError::Refusing(_))), "{late:?}");
    assert!(first.stopped().unwrap().contains("another committer"));
    append(&second_log, stream(1), 1, &clock).await.unwrap();
    assert_eq!(second_log.checkpoint().checkpoint().size, size + 1);
    assert_sound(&second).await;
    second.shutdown().await.unwrap();
    drop(first);
}

#[tokio::test]
async fn a_full_disk_refuses_cleanly_and_keeps_what_was_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Hand::new();
    let options = SqlOptions { reserve: 1 << 20, max_pages: Some(160), ..SqlOptions::new(folder.path()) };
    let logs = open(Arc::new(SqlJournal::open(options).await.unwrap()), &clock).await.unwrap();
    let log = logs.create(new_log(1)).await.unwrap();
    logs.boot(org(1), None).await.unwrap();
    let mut acknowledged = 0;
    let mut refused = 0;
    for n in 0..200 {
        match append(&log, stream(n % 7), 8, &clock).await {
            Ok(appended) => acknowledged += appended.entries.len(),
            Err(AppendError::DiskFull) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(acknowledged > 0 && refused > 0, "{acknowledged} and {refused}");
    assert_eq!(logs.stopped(), None, "a full disk does not end the process");
    // What stops something gets the reserve first; only when that does not help is it refused.
    let mut urgent = prepare(&log, stream(1), 64, clock.now()).await;
    urgent.urgent = true;
    assert!(matches!(log.append(urgent).await, Err(AppendError::DiskFull)));
    assert!(!logs.journal().release_reserve(), "it was given up");
    logs.shutdown().await.unwrap();
    drop((logs, log));

    let (logs, log) = ledger(folder.path(), &clock).await;
    assert_eq!(log.checkpoint().checkpoint().size, 3 + u64::try_from(acknowledged).unwrap());
    append(&log, stream(1), 1, &clock).await.unwrap();
    assert_sound(&logs).await;
    logs.shutdown().await.unwrap();
}

#[tokio::test]
async fn below_the_reserve_only_urgent_appends_pass() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Hand::new();
    let mut config = config(&clock);
    config.reserve = u64::MAX;
    let logs = Logs::open(Arc::new(journal(folder.path()).await), config, Arc::new(Ring)).await.unwrap();
    let log = logs.create(new_log(1)).await.unwrap();
    logs.boot(org(1), None).await.unwrap();
    assert!(matches!(append(&log, stream(1), 1, &clock).await, Err(AppendError::DiskFull)));
    let mut stop = prepare(&log, stream(1), 1, clock.now()).await;
    stop.urgent = true;
    log.append(stop).await.unwrap();
    logs.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_full_queue_pushes_back() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Hand::new();
    let faulty = Faulty::new(folder.path()).await;
    let mut config = config(&clock);
    config.queue_entries = 4;
    let door: Arc<dyn Journal> = Arc::<Faulty>::clone(&faulty);
    let logs = Logs::open(door, config, Arc::new(Ring)).await.unwrap();
    let log = logs.create(new_log(1)).await.unwrap();
    logs.boot(org(1), None).await.unwrap();
    faulty.arm(Fault::CommitSlow);
    let mut tasks = Vec::new();
    for n in 0..20 {
        let (log, clock) = (log.clone(), Arc::clone(&clock));
        tasks.push(tokio::spawn(async move { append(&log, stream(n), 1, &clock).await }));
        tokio::task::yield_now().await;
    }
    let mut busy = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => {}
            Err(AppendError::Busy { retry_after }) => {
                assert!(retry_after.0 > 0);
                busy += 1;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(busy > 0);
    append(&log, stream(50), 1, &clock).await.unwrap();
    logs.shutdown().await.unwrap();
}

/// Copies a closed data folder.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap().path();
        std::fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
    }
}

async fn anchored(folder: &Path, anchor: &Path, clock: &Arc<Hand>) -> Result<(Logs, LogHandle), LogError> {
    let mut config = config(clock);
    config.anchor = Some(anchor.to_owned());
    let journal = journal(folder).await;
    let logs = match Logs::open(Arc::new(journal), config, Arc::new(Ring)).await {
        Ok(logs) => logs,
        Err(error) => return Err(error),
    };
    let log = match logs.create(new_log(1)).await {
        Err(LogError::Exists(_)) => logs.log(org(1)).await?,
        other => other?,
    };
    logs.boot(org(1), None).await?;
    Ok((logs, log))
}

#[tokio::test]
async fn a_restored_old_copy_or_another_history_is_not_signed_for() {
    let temp = tempfile::tempdir().unwrap();
    let [live, old, fork, anchor] = ["live", "old", "fork", "anchor"].map(|name| temp.path().join(name));
    let clock = Hand::new();
    let (logs, log) = anchored(&live, &anchor, &clock).await.unwrap();
    append(&log, stream(1), 3, &clock).await.unwrap();
    logs.shutdown().await.unwrap();
    drop((logs, log));
    copy(&live, &old);
    copy(&live, &fork);
    let (logs, log) = anchored(&live, &anchor, &clock).await.unwrap();
    append(&log, stream(1), 2, &clock).await.unwrap();
    let newest = log.checkpoint().checkpoint().clone();
    logs.shutdown().await.unwrap();
    drop((logs, log));

    // An old copy: shorter than the anchor.
    let Err(LogError::RolledBack { local, anchor: remembered, evidence, .. }) = anchored(&old, &anchor, &clock).await
    else {
        panic!("an old copy was opened")
    };
    assert_eq!((local, remembered), (newest.size - 3, newest.size));
    assert!(std::fs::read_to_string(&evidence).unwrap().contains("the journal holds"));

    // Another history: first shorter, then of the same size, then longer.
    let (logs, log) = ledger(&fork, &clock).await;
    append(&log, stream(2), 2, &clock).await.unwrap();
    assert_eq!(log.checkpoint().checkpoint().size, newest.size);
    logs.shutdown().await.unwrap();
    drop((logs, log));
    for _ in 0..2 {
        let other = anchored(&fork, &anchor, &clock).await;
        assert!(matches!(other, Err(LogError::Forked { .. })), "{:?}", other.err());
        let (logs, log) = ledger(&fork, &clock).await;
        append(&log, stream(2), 2, &clock).await.unwrap();
        logs.shutdown().await.unwrap();
    }

    // The anchor was not touched by any of it, and the live journal goes on.
    let (logs, log) = anchored(&live, &anchor, &clock).await.unwrap();
    assert_eq!(log.checkpoint().checkpoint().size, newest.size + 1, "one more boot");
    logs.shutdown().await.unwrap();
    drop((logs, log));

    // An anchor that was cut short or is not ours is refused, not ignored.
    let whole = std::fs::read_to_string(&anchor).unwrap();
    let foreign = whole.replace(log_id(1).to_string().trim_start_matches("log_"), &"0".repeat(32));
    for bad in [&whole[..whole.len() - 1], &whole[..20], foreign.as_str()] {
        std::fs::write(&anchor, bad).unwrap();
        assert!(anchored(&live, &anchor, &clock).await.is_err(), "{bad}");
    }
}

/// The test runs itself again in a process of its own, which appends until it is killed.
#[test]
fn a_killed_process_loses_nothing_that_it_acknowledged() {
    #[expect(clippy::disallowed_methods, reason = "the parent says where")]
    let folder = std::env::var("LEDGER_TEST_FOLDER");
    match folder {
        Ok(folder) => append_until_killed(&folder),
        Err(_) => tokio::runtime::Runtime::new().unwrap().block_on(kill_and_compare()),
    }
}

fn append_until_killed(folder: &str) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let clock = Hand::new();
        let (_logs, log) = ledger(Path::new(folder), &clock).await;
        for n in 0..16 {
            let (log, clock) = (log.clone(), Arc::clone(&clock));
            tokio::spawn(async move {
                loop {
                    let appended = append(&log, stream(n), 1 + n % 4, &clock).await.unwrap();
                    for entry in &appended.entries {
                        // One write a line, so that a kill leaves no half line that looks whole.
                        let line = format!("ack {} {}.\n", entry.receipt.index, entry.receipt.leaf_hash);
                        std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).unwrap();
                    }
                }
            });
        }
        std::future::pending::<()>().await;
    });
}

async fn kill_and_compare() {
    use std::io::BufRead as _;
    let folder = tempfile::tempdir().unwrap();
    let clock = Hand::new();
    for round in 0..4 {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_killed_process_loses_nothing_that_it_acknowledged", "--nocapture"])
            .env("LEDGER_TEST_FOLDER", folder.path())
            .stderr(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let mut acknowledged = Vec::new();
        let mut lines = std::io::BufReader::new(child.stderr.take().unwrap()).lines();
        while let Some(Ok(line)) = lines.next() {
            let Some((index, hash)) =
                line.strip_prefix("ack ").and_then(|l| l.strip_suffix('.')).and_then(|l| l.split_once(' '))
            else {
                continue;
            };
            acknowledged.push((index.parse::<u64>().unwrap(), hash.parse::<Hash>().unwrap()));
            if acknowledged.len() == 100 + 77 * round {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(acknowledged.len() >= 100);
        let (logs, log) = ledger(folder.path(), &clock).await;
        let size = log.checkpoint().checkpoint().size;
        let entries = log.entries(0..size).await.unwrap();
        for (index, hash) in acknowledged {
            let entry = &entries[usize::try_from(index).unwrap()];
            assert_eq!(countersign_ledger_merkle::leaf_hash(&entry.leaf), hash, "entry {index}");
        }
        assert_sound(&logs).await;
        logs.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_flipped_bit_anywhere_is_found_by_the_level_that_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Hand::new();
    let (logs, log) = ledger(folder.path(), &clock).await;
    for n in 0..6 {
        append(&log, stream(n), 60, &clock).await.unwrap();
    }
    assert_sound(&logs).await;
    logs.shutdown().await.unwrap();
    drop((logs, log));
    let flip = |table: &str, column: &str, key: &str| {
        format!(
            "UPDATE {table} SET {column} = CAST(substr({column}, 1, 40) || char(unicode(substr({column}, 41, 1)) + 1) || \
             substr({column}, 42) AS TEXT) WHERE {key}"
        )
    };
    let blob = |table: &str, column: &str, key: &str| {
        format!(
            "UPDATE {table} SET {column} = unhex(substr(hex({column}), 1, 80) || \
             CASE substr(hex({column}), 81, 1) WHEN '0' THEN '1' ELSE '0' END || substr(hex({column}), 82)) WHERE {key}"
        )
    };
    // What is changed, the lowest level that must find it.
    let table = [
        (blob("entry", "leaf", "key & 1023 = 360"), FsckLevel::Start),
        (blob("tile", "hashes", "1"), FsckLevel::Tiles),
        (blob("entry", "leaf", "key & 1023 = 100"), FsckLevel::Entries),
        (flip("checkpoint", "note", "key & 1023 = 62"), FsckLevel::Entries),
        ("UPDATE log SET newest = newest + 1".to_owned(), FsckLevel::Signatures),
        (blob("payload", "bytes", "1"), FsckLevel::Payloads),
        ("DELETE FROM payload".to_owned(), FsckLevel::Payloads),
    ];
    for (damage, level) in table {
        let copied = tempfile::tempdir().unwrap();
        copy(folder.path(), copied.path());
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(copied.path().join("ledger.db"));
        let mut conn = sqlx::ConnectOptions::connect(&options).await.unwrap();
        for trigger in ["entry_stays", "tile_stays", "checkpoint_stays"] {
            let drop = sqlx::AssertSqlSafe(format!("DROP TRIGGER {trigger}"));
            sqlx::Executor::execute(&mut conn, drop).await.unwrap();
        }
        let sql = sqlx::AssertSqlSafe(damage.clone());
        let done = sqlx::Executor::execute(&mut conn, sql).await.unwrap();
        assert!(done.rows_affected() > 0, "{damage}");
        sqlx::Connection::close(conn).await.unwrap();
        let journal = journal(copied.path()).await;
        for number in 0..=5 {
            let at = FsckLevel::from_number(number).unwrap();
            let report = fsck(&journal, &Ring, at, None, &mut |_| {}).await.unwrap();
            assert_eq!(report.sound, at < level, "`{damage}` at level {number}: {report:?}");
        }
        journal.close().await.unwrap();
    }
}
