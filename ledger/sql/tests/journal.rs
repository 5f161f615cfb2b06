//! What the ledger on SQLite promises in good order: receipts that prove, reads that agree, all or none, and a restart
//! that finds everything.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod world;

use std::sync::Arc;

use countersign_gateway_model::{Clock as _, Digest, Timestamp};
use countersign_ledger_entry::body::{Permit, SignatureMode};
use countersign_ledger_entry::{Blob, Body, Entry, Header, Row, SEMANTICS, Stream, StreamKind};
use countersign_ledger_log::files::FileObjects;
use countersign_ledger_log::journal::Batch;
use countersign_ledger_log::{
    Append, AppendError, FsckLevel, Idempotency, IdempotencyScope, Journal, LogError, Objects as _, export, fsck,
};
use countersign_ledger_merkle::{
    BundleCoord, TileCoord, TileSet, bundles_between, decode_bundle, leaf_hash, tiles_between, verify_consistency,
    verify_inclusion,
};
use countersign_ledger_sql::{SqlError, SqlJournal, SqlOptions};
use world::*;

#[tokio::test]
async fn a_receipt_proves_its_entry_and_a_restart_finds_it() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Hand::new();
    let (logs, log) = ledger(folder.path(), &clock).await;
    let appended = append(&log, stream(1), 3, &clock).await.unwrap();
    let fact = appended.first::<Permit>().unwrap().unwrap();
    assert_eq!(fact.org(), org(1));
    assert_eq!(fact.receipt().index, 2, "after genesis and boot");
    let before = log.checkpoint();
    assert_eq!(before.checkpoint().size, 5);
    assert_eq!(log.boot(), Some(1));
    logs.shutdown().await.unwrap();

    let (logs, log) = ledger(folder.path(), &clock).await;
    assert_eq!(log.boot(), Some(2), "every start is a boot");
    assert_eq!(log.checkpoint().checkpoint().size, 6);
    let head = log.head(stream(1)).await.unwrap().unwrap();
    assert_eq!(head.next_sequence, 3);
    append(&log, stream(1), 1, &clock).await.unwrap();
    let after = log.checkpoint();
    let proof = log.consistency(5, 7).await.unwrap();
    let (old, new) = (before.checkpoint(), after.checkpoint());
    verify_consistency(old.size, new.size, &proof, &old.root, &new.root).unwrap();
    logs.shutdown().await.unwrap();
}

#[tokio::test]
async fn many_appends_at_once_share_commits_and_every_read_agrees() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Hand::new();
    let (logs, log) = ledger(folder.path(), &clock).await;
    let mut tasks = Vec::new();
    for n in 0..40 {
        let (log, clock) = (log.clone(), Arc::clone(&clock));
        tasks.push(tokio::spawn(async move {
            for _ in 0..15 {
                append(&log, stream(n), 1 + n % 3, &clock).await.unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let checkpoint = log.checkpoint();
    let (size, root) = (checkpoint.checkpoint().size, checkpoint.checkpoint().root);
    assert_eq!(size, 2 + (0..40).map(|n| 15 * (1 + n % 3)).sum::<u64>());
    let stats = logs.stats();
    assert!(stats.commits < stats.appends, "{stats:?}");
    assert_eq!(stats.entries, size);

    // Entries, tiles and bundles are one tree.
    let entries = log.entries(0..size).await.unwrap();
    let mut tiles = TileSet::new();
    for coord in tiles_between(0, size) {
        tiles.insert(coord, &log.tile(coord).await.unwrap()).unwrap();
    }
    assert_eq!(countersign_ledger_merkle::root(size, &tiles).unwrap(), root);
    for bundle in bundles_between(0, size) {
        let bytes = log.entry_bundle(bundle).await.unwrap();
        let leaves = decode_bundle(bundle, &bytes).unwrap();
        for (index, leaf) in bundle.entries().zip(leaves) {
            assert_eq!(entries[usize::try_from(index).unwrap()].leaf, leaf);
        }
    }
    for index in [0, 1, 255, 256, 300, size - 1] {
        let proof = log.proof(index, size).await.unwrap();
        let hash = leaf_hash(&entries[usize::try_from(index).unwrap()].leaf);
        verify_inclusion(&hash, index, size, &proof, &root).unwrap();
    }
    for old in log.checkpoint_sizes(0, 1000).await.unwrap() {
        let before = log.checkpoint_at(old).await.unwrap();
        let proof = log.consistency(old, size).await.unwrap();
        verify_consistency(old, size, &proof, &before.checkpoint().root, &root).unwrap();
    }
    let of_stream = log.stream_entries(stream(5), 0, 1000).await.unwrap();
    assert_eq!(of_stream.len(), 45);
    let mut previous = None;
    for (sequence, entry) in (0..).zip(of_stream) {
        let header = Entry::parse(&entry.leaf).unwrap().header;
        assert_eq!((header.sequence, header.previous), (sequence, previous));
        previous = Some(Digest(leaf_hash(&entry.leaf).0));
    }
    assert!(log.tile(TileCoord::new(0, 100, 1).unwrap()).await.is_err(), "a tile beyond the log is not there");
    assert!(log.entry_bundle(BundleCoord::new(0, 256).unwrap()).await.is_ok());
    logs.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_append_is_all_or_none_and_a_conflict_names_the_head() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Hand::new();
    let (logs, log) = ledger(folder.path(), &clock).await;
    let first = prepare(&log, stream(1), 4, clock.now()).await;
    let second = prepare(&log, stream(1), 2, clock.now()).await;
    let (first, second) = tokio::join!(log.append(first), log.append(second));
    assert_eq!(first.unwrap().entries.len(), 4);
    let Err(AppendError::Conflict { head: Some(head) }) = second else { panic!("{second:?}") };
    assert_eq!(head.next_sequence, 4);
    assert_eq!(log.head(stream(1)).await.unwrap(), Some(head));
    assert_eq!(log.checkpoint().checkpoint().size, 6, "nothing of the second one is there");

    // Sequence right, chain wrong: the writer has seen another last entry.
    let mut sealing = sealing(stream(1), Some(head), clock.now());
    sealing.previous = Some(Digest([1; 32]));
    let entries = log.seal(&sealing, vec![draft(9)]).unwrap();
    let wrong = Append { expected: head.next_sequence, entries, ..Append::default() };
    assert!(matches!(log.append(wrong).await, Err(AppendError::Conflict { .. })));

    // Entries that are not one append.
    let mut torn = prepare(&log, stream(1), 3, clock.now()).await;
    torn.entries.remove(1);
    assert!(matches!(log.append(torn).await, Err(AppendError::Malformed(_))));
    let mut unnamed = prepare(&log, stream(1), 1, clock.now()).await;
    unnamed.payloads.push(payload_of(77, 10));
    assert!(matches!(log.append(unnamed).await, Err(AppendError::Malformed(_))));
    logs.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_stream_that_begins_twice_begins_once() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Hand::new();
    let (logs, log) = ledger(folder.path(), &clock).await;
    append(&log, stream(1), 1, &clock).await.unwrap();
    log.close_stream(stream(1));
    // Not in memory, so it is taken for new until the journal says otherwise; its neighbour is committed all the same.
    let again = Append {
        entries: log.seal(&sealing(stream(1), None, clock.now()), vec![draft(0)]).unwrap(),
        ..Append::default()
    };
    let fresh = Append {
        entries: log.seal(&sealing(stream(2), None, clock.now()), vec![draft(0)]).unwrap(),
        ..Append::default()
    };
    let (again, fresh) = tokio::join!(log.append(again), log.append(fresh));
    let Err(AppendError::Conflict { head: Some(head) }) = again else { panic!("{again:?}") };
    assert_eq!(head.next_sequence, 1);
    fresh.unwrap();
    logs.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_travels_with_an_append_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Hand::new();
    let (logs, log) = ledger(folder.path(), &clock).await;
    let mut with = prepare(&log, stream(1), 1, clock.now()).await;
    let payload = with.payloads[0].clone();
    let blob = Blob { digest: Digest([8; 32]), bytes: vec![1, 2, 3].into() };
    with.blobs = vec![blob.clone(), blob.clone()];
    for n in 0_u8..5 {
        with.rows.push(Row { table: "t", key: vec![1, n], columns: Some(vec![n]) });
    }
    with.rows.push(Row { table: "t", key: vec![2], columns: Some(vec![9]) });
    // The last word on a key stands.
    with.rows.push(Row { table: "t", key: vec![1, 3], columns: Some(vec![33]) });
    with.rows.push(Row { table: "t", key: vec![1, 4], columns: None });
    let appended = log.append(with).await.unwrap();
    let index = appended.entries[0].receipt.index;
    assert_eq!(log.payload(index, &payload.digest).await.unwrap(), Some(payload.bytes.clone()));
    assert_eq!(log.payload(index, &Digest([0; 32])).await.unwrap(), None);
    assert_eq!(log.blob(&blob.digest).await.unwrap().as_deref(), Some(&[1, 2, 3][..]));
    assert_eq!(log.view("t", &[1, 3]).await.unwrap(), Some(vec![33]));
    let scan = async |prefix: &[u8], after: Option<&[u8]>, limit, reverse| {
        let rows = log.scan("t", prefix, after, limit, reverse).await.unwrap();
        rows.into_iter().map(|row| row.key).collect::<Vec<_>>()
    };
    let keys = |keys: &[&[u8]]| keys.iter().map(|key| key.to_vec()).collect::<Vec<_>>();
    assert_eq!(scan(&[1], None, 10, false).await, keys(&[&[1, 0], &[1, 1], &[1, 2], &[1, 3]]));
    assert_eq!(scan(&[1], Some(&[1, 1]), 1, false).await, keys(&[&[1, 2]]));
    assert_eq!(scan(&[1], None, 2, true).await, keys(&[&[1, 3], &[1, 2]]));
    assert_eq!(scan(&[1], Some(&[1, 2]), 9, true).await, keys(&[&[1, 1], &[1, 0]]));
    assert_eq!(scan(&[], Some(&[1, 3]), 9, false).await, keys(&[&[2]]));
    assert_eq!(scan(&[], None, 1, true).await, keys(&[&[2]]));
    assert_eq!(scan(&[3], None, 9, false).await, keys(&[]));
    assert!(logs.views().get(org(2), "t", &[2]).await.unwrap().is_none(), "nothing crosses organizations");

    // Many rows go at once, in more statements than one call takes.
    let mut many = prepare(&log, stream(1), 1, clock.now()).await;
    many.rows = (0..200_u8).map(|n| Row { table: "m", key: vec![n], columns: Some(vec![n]) }).collect();
    log.append(many).await.unwrap();
    let mut fewer = prepare(&log, stream(1), 1, clock.now()).await;
    fewer.rows = (0..199_u8).map(|n| Row { table: "m", key: vec![n], columns: None }).collect();
    log.append(fewer).await.unwrap();
    let left = log.scan("m", &[], None, 300, false).await.unwrap();
    assert_eq!(left.into_iter().map(|row| row.key).collect::<Vec<_>>(), [[199]]);

    // Erasure takes the bytes and leaves the entry.
    let mut erasing = prepare(&log, stream(1), 1, clock.now()).await;
    erasing.erase = vec![(index, payload.digest)];
    log.append(erasing).await.unwrap();
    assert_eq!(log.payload(index, &payload.digest).await.unwrap(), None);
    assert!(log.proof(index, log.checkpoint().checkpoint().size).await.is_ok());
    logs.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_idempotency_key_is_answered_once_across_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Hand::new();
    let (logs, log) = ledger(folder.path(), &clock).await;
    let organization = Stream { kind: StreamKind::Organization, id: org(1).into() };
    let keyed = |scope: Stream, answer: &[u8]| Idempotency {
        scope: IdempotencyScope { stream: scope, principal: who(1) },
        key: Digest([1; 32]),
        request: Digest([2; 32]),
        answer: answer.to_vec(),
    };
    let mut answers = Vec::new();
    for (n, scope) in [(1, stream(1)), (2, organization)] {
        let mut first = prepare(&log, stream(n), 1, clock.now()).await;
        first.idempotency = Some(keyed(scope, b"first"));
        let mut second = prepare(&log, stream(n + 10), 1, clock.now()).await;
        second.idempotency = Some(keyed(scope, b"second"));
        // At once: one is committed, and the other is told what that one was answered.
        let (first, second) = tokio::join!(log.append(first), log.append(second));
        let (winner, loser) = if first.is_ok() { (&b"first"[..], second) } else { (&b"second"[..], first) };
        let Err(AppendError::Replay(replay)) = loser else { panic!("{loser:?}") };
        assert_eq!(replay.answer, winner);
        answers.push(replay.answer);
    }
    logs.shutdown().await.unwrap();

    let (logs, log) = ledger(folder.path(), &clock).await;
    let mut at = IdempotencyScope { stream: stream(1), principal: who(1) };
    let replay = log.idempotent(at, &Digest([1; 32])).await.unwrap().unwrap();
    assert_eq!((replay.answer, replay.request), (answers[0].clone(), Digest([2; 32])));
    assert_eq!(log.idempotent(at, &Digest([9; 32])).await.unwrap(), None);
    at.principal = who(2);
    assert_eq!(log.idempotent(at, &Digest([1; 32])).await.unwrap(), None, "keys are scoped to a principal");
    let mut again = prepare(&log, stream(30), 1, clock.now()).await;
    again.idempotency = Some(keyed(organization, b"third"));
    assert!(matches!(log.append(again).await, Err(AppendError::Replay(_))));
    // After the window an organization's keys are forgotten; an instance's are kept as long as its stream.
    logs.shutdown().await.unwrap();
    clock.forward(25 * 3600 * 1000);
    let (logs, log) = ledger(folder.path(), &clock).await;
    let mut again = prepare(&log, stream(31), 1, clock.now()).await;
    again.idempotency = Some(keyed(organization, b"fourth"));
    log.append(again).await.unwrap();
    let mut again = prepare(&log, stream(32), 1, clock.now()).await;
    again.idempotency = Some(keyed(stream(1), b"fifth"));
    assert!(matches!(log.append(again).await, Err(AppendError::Replay(_))));
    logs.shutdown().await.unwrap();
}

#[tokio::test]
async fn claimed_times_follow_the_clock_and_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Hand::new();
    let (logs, log) = ledger(folder.path(), &clock).await;
    let start = clock.now().0;
    append(&log, stream(1), 1, &clock).await.unwrap();
    // Milliseconds from the clock, and whether they are taken.
    for (offset, taken) in [(-5000, true), (5000, true), (-5001, false), (5001, false)] {
        let claimed = Timestamp(clock.now().0.checked_add_signed(offset).unwrap());
        let result = log.append(prepare(&log, stream(1), 1, claimed).await).await;
        match result {
            Ok(_) => assert!(taken, "{offset}"),
            Err(AppendError::ClockSkew { resign }) => {
                assert!(!taken, "{offset}");
                log.append(prepare(&log, stream(1), 1, resign).await).await.unwrap();
            }
            Err(other) => panic!("{other}"),
        }
        clock.forward(20_000);
    }
    // The clock is set back: only what stops something passes, and its time goes on from the newest entry.
    let newest = log.newest();
    clock.set(Timestamp(start));
    let result = append(&log, stream(1), 1, &clock).await;
    assert!(matches!(result, Err(AppendError::ClockBehind { .. })), "{result:?}");
    let mut stop = prepare(&log, stream(1), 1, clock.now()).await;
    stop.urgent = true;
    let Err(AppendError::ClockSkew { resign }) = log.append(stop).await else { panic!("not sent back") };
    assert_eq!(resign, newest);
    let mut stop = prepare(&log, stream(1), 1, resign).await;
    stop.urgent = true;
    log.append(stop).await.unwrap();
    logs.shutdown().await.unwrap();
    // A gateway starts all the same, or nothing could be stopped.
    let (logs, log) = ledger(folder.path(), &clock).await;
    assert_eq!(log.boot(), Some(2));
    logs.shutdown().await.unwrap();
}

#[tokio::test]
async fn entries_sealed_elsewhere_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Hand::new();
    let (logs, log) = ledger(folder.path(), &clock).await;
    let other = logs.create(new_log(2)).await.unwrap();
    assert!(matches!(other.seal(&sealing(stream(1), None, clock.now()), vec![draft(1)]), Err(LogError::NotBooted(_))));
    logs.boot(org(2), None).await.unwrap();
    let foreign = prepare(&other, stream(1), 1, clock.now()).await;
    assert!(matches!(log.append(foreign).await, Err(AppendError::Malformed(_))), "of another log");
    let mut forged = prepare(&log, stream(1), 1, clock.now()).await;
    forged.entries[0].leaf.push(0);
    assert!(matches!(log.append(forged).await, Err(AppendError::Malformed(_))), "with another hash");
    let mut genesis = prepare(&log, stream(1), 1, clock.now()).await;
    let body = Entry::parse(&log.entries(0..1).await.unwrap()[0].leaf).unwrap().header.body;
    assert!(matches!(body, Body::Genesis(_)));
    genesis.entries[0].header.body = body;
    assert!(matches!(log.append(genesis).await, Err(AppendError::Malformed(_))), "a second genesis");
    assert!(matches!(logs.create(new_log(2)).await, Err(LogError::Exists(_))));
    logs.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_log_that_a_later_program_wrote_to_takes_nothing_from_an_earlier_one() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Hand::new();
    let (logs, log) = ledger(folder.path(), &clock).await;
    let mut later = prepare(&log, stream(1), 1, clock.now()).await;
    let header = Header { semantics: SEMANTICS + 1, ..later.entries[0].header.clone() };
    later.entries = vec![header.sign(&Ring::root_signer(log_id(1))).unwrap()];
    log.append(later).await.unwrap();
    logs.shutdown().await.unwrap();
    drop((logs, log));
    let logs = open(Arc::new(journal(folder.path()).await), &clock).await.unwrap();
    let refused = logs.log(org(1)).await;
    assert!(matches!(refused, Err(LogError::Later { semantics, .. }) if semantics == SEMANTICS + 1));
    logs.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_folder_is_refused_while_it_is_used_or_if_it_is_newer_or_foreign() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Hand::new();
    let (logs, log) = ledger(folder.path(), &clock).await;
    let second = SqlJournal::open(SqlOptions::new(folder.path())).await;
    assert!(matches!(second, Err(SqlError::Locked(_))), "{second:?}");
    logs.shutdown().await.unwrap();
    drop((logs, log));

    let edit = async |sql: &'static str| {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(folder.path().join("ledger.db"));
        let mut conn = sqlx::ConnectOptions::connect(&options).await.unwrap();
        sqlx::Executor::execute(&mut conn, sql).await.unwrap();
        sqlx::Connection::close(conn).await.unwrap();
    };
    edit("PRAGMA user_version = 99").await;
    let newer = SqlJournal::open(SqlOptions::new(folder.path())).await;
    assert!(matches!(newer, Err(SqlError::Newer { found: 99, .. })), "{newer:?}");
    edit("PRAGMA user_version = 1; PRAGMA application_id = 7").await;
    let foreign = SqlJournal::open(SqlOptions::new(folder.path())).await;
    assert!(matches!(foreign, Err(SqlError::Foreign(_))), "{foreign:?}");
}

#[tokio::test]
async fn a_folder_in_use_can_be_read_and_checked_but_not_written() {
    let folder = tempfile::tempdir().unwrap();
    assert!(SqlJournal::inspect(folder.path()).await.is_err(), "reading makes no folder");
    let clock = Hand::new();
    let (logs, log) = ledger(folder.path(), &clock).await;
    append(&log, stream(1), 5, &clock).await.unwrap();
    let looking = SqlJournal::inspect(folder.path()).await.unwrap();
    let report = fsck(&looking, &Ring, FsckLevel::Payloads, None, &mut |_| {}).await.unwrap();
    assert!(report.sound && report.logs[0].entries == 7, "{report:?}");
    assert!(looking.stage(&Batch::default()).await.is_err());
    append(&log, stream(1), 1, &clock).await.unwrap();
    assert_eq!(looking.last_index(log.number()).await.unwrap(), Some(7), "it sees what is committed meanwhile");
    looking.close().await.unwrap();
    append(&log, stream(1), 1, &clock).await.unwrap();
    logs.shutdown().await.unwrap();
}

#[tokio::test]
async fn entries_checkpoints_and_tiles_cannot_be_changed_in_place() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Hand::new();
    let (logs, log) = ledger(folder.path(), &clock).await;
    for n in 0..5 {
        append(&log, stream(n), 60, &clock).await.unwrap();
    }
    logs.shutdown().await.unwrap();
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(folder.path().join("ledger.db"));
    let mut conn = sqlx::ConnectOptions::connect(&options).await.unwrap();
    for (table, column) in [("entry", "leaf"), ("tile", "hashes"), ("checkpoint", "note"), ("log", "id")] {
        let count = format!("SELECT count(*) FROM {table}");
        let count: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(count)).fetch_one(&mut conn).await.unwrap();
        assert!(count > 0, "{table}");
        let delete = sqlx::AssertSqlSafe(format!("DELETE FROM {table}"));
        assert!(sqlx::Executor::execute(&mut conn, delete).await.is_err(), "{table}");
        if table != "log" {
            let update = sqlx::AssertSqlSafe(format!("UPDATE {table} SET {column} = {column}"));
            assert!(sqlx::Executor::execute(&mut conn, update).await.is_err(), "{table}");
        }
    }
}

#[tokio::test]
async fn a_log_that_does_not_verify_is_not_loaded() {
    let clock = Hand::new();
    // What somebody did to the database, and what is said of it.
    for (damage, expected) in [
        ("UPDATE entry SET leaf = zeroblob(length(leaf)) WHERE key & 255 = 4", "root"),
        ("DELETE FROM entry WHERE key & 255 = 4", "missing"),
        ("DELETE FROM entry WHERE key & 255 = 6", "last entry"),
        ("UPDATE log SET size = 6", "note"),
        ("UPDATE log SET org = zeroblob(16)", "another organization"),
        (
            "UPDATE checkpoint SET note = replace(note, char(10) || '7' || char(10), char(10) || '8' || char(10))",
            "sign",
        ),
        ("UPDATE entry SET leaf = (SELECT leaf FROM entry WHERE key & 255 = 1) WHERE key & 255 = 0", "sign"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (logs, log) = ledger(folder.path(), &clock).await;
        append(&log, stream(1), 5, &clock).await.unwrap();
        logs.shutdown().await.unwrap();
        drop((logs, log));
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(folder.path().join("ledger.db"));
        let mut conn = sqlx::ConnectOptions::connect(&options).await.unwrap();
        for trigger in ["entry_stays", "entry_remains", "checkpoint_stays"] {
            let drop = sqlx::AssertSqlSafe(format!("DROP TRIGGER {trigger}"));
            sqlx::Executor::execute(&mut conn, drop).await.unwrap();
        }
        sqlx::Executor::execute(&mut conn, damage).await.unwrap();
        sqlx::Connection::close(conn).await.unwrap();
        let journal: Arc<dyn Journal> = Arc::new(journal(folder.path()).await);
        let logs = open(journal, &clock).await.unwrap();
        let Err(found) = logs.by_id(log_id(1)).await else { panic!("loaded after `{damage}`") };
        let mut text = found.to_string();
        if let Some(source) = std::error::Error::source(&found) {
            text.push_str(&source.to_string());
        }
        assert!(text.contains(expected), "`{damage}`: {text}");
        logs.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_of_many_tiles_is_exported_as_others_read_it() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Hand::new();
    let logs = open(Arc::new(journal(folder.path()).await), &clock).await.unwrap();
    // Unsigned entries: this is about tiles, and 66,000 signatures are a second each way.
    let unsigned = countersign_ledger_log::NewLog { signatures: SignatureMode::CheckpointOnly, ..new_log(1) };
    let log = logs.create(unsigned).await.unwrap();
    logs.boot(org(1), None).await.unwrap();
    let mut tasks = Vec::new();
    for n in 0..8 {
        let (log, clock) = (log.clone(), Arc::clone(&clock));
        tasks.push(tokio::spawn(async move {
            for _ in 0..129 {
                append(&log, stream(n), 64, &clock).await.unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let checkpoint = log.checkpoint();
    let (size, root) = (checkpoint.checkpoint().size, checkpoint.checkpoint().root);
    assert_eq!(size, 2 + 8 * 129 * 64);
    assert!(size > 65_536, "there is a full tile of level 1");

    let out = tempfile::tempdir().unwrap();
    let objects = FileObjects::open(out.path()).unwrap();
    let exported = export(&log, &objects, "a", 0).await.unwrap();
    assert_eq!((exported.size, exported.unchanged), (size, 0));
    let again = export(&log, &objects, "a", 0).await.unwrap();
    assert_eq!((again.stored, again.unchanged), (0, exported.stored), "an export can be run again");
    let mut tiles = TileSet::new();
    for coord in tiles_between(0, size) {
        let bytes = objects.get(&format!("a/{coord}")).await.unwrap().unwrap();
        tiles.insert(coord, &bytes).unwrap();
    }
    assert_eq!(countersign_ledger_merkle::root(size, &tiles).unwrap(), root);
    let note = objects.get("a/checkpoint").await.unwrap().unwrap();
    log.trusted().checkpoint(std::str::from_utf8(&note).unwrap()).unwrap();
    // What comes after is what is new.
    append(&log, stream(1), 1, &clock).await.unwrap();
    let more = export(&log, &objects, "a", size).await.unwrap();
    assert_eq!(more.stored, 2, "the partial tile of level 0 and the partial bundle; the levels above have not grown");

    // From anywhere to anywhere.
    let now = log.checkpoint();
    let (size, root) = (now.checkpoint().size, now.checkpoint().root);
    for index in [0, 255, 256, 65_535, 65_536, 65_600, size - 1] {
        let leaf = log.entries(index..index + 1).await.unwrap().remove(0).leaf;
        let proof = log.proof(index, size).await.unwrap();
        verify_inclusion(&leaf_hash(&leaf), index, size, &proof, &root).unwrap();
    }
    let report = fsck(&**logs.journal(), &**logs.keys(), FsckLevel::Payloads, None, &mut |_| {}).await.unwrap();
    assert!(report.sound, "{report:?}");
    assert_eq!((report.logs[0].entries, report.logs[0].tiles), (size, size / 256 + 1));
    logs.shutdown().await.unwrap();
    // The tail of such a log is found again from its tiles.
    let logs = open(Arc::new(journal(folder.path()).await), &clock).await.unwrap();
    let log = logs.log(org(1)).await.unwrap();
    assert_eq!(log.checkpoint().checkpoint().root, root);
    logs.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_batch_takes_one_statement_a_table_and_an_append_to_a_known_stream_reads_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Hand::new();
    let (logs, log) = ledger(folder.path(), &clock).await;
    for n in 0..64 {
        append(&log, stream(n), 1, &clock).await.unwrap();
    }
    let (before, made) = (logs.journal().stats(), logs.stats());
    let mut tasks = Vec::new();
    for n in 0..64 {
        let (log, clock) = (log.clone(), Arc::clone(&clock));
        tasks.push(tokio::spawn(async move {
            for _ in 0..16 {
                append(&log, stream(n), 1, &clock).await.unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let (after, done) = (logs.journal().stats(), logs.stats());
    let commits = done.commits - made.commits;
    assert!(commits * 4 < 64 * 16, "{commits} commits for 1,024 appends: nothing was shared");
    // BEGIN, entries, payloads, rows, the read-back, checkpoint, log, COMMIT; and a tile whenever one is full.
    let (statements, tiles) = (after.statements - before.statements, 64 * 17 / 256 + 1);
    assert!(commits * 8 <= statements && statements <= commits * 8 + tiles, "{statements} for {commits} commits");
    assert_eq!(after.reads, before.reads, "an append to a stream that is in memory read from the journal");
    // What is asked of the journal is counted: else the line above says nothing.
    log.entries(0..1).await.unwrap();
    assert_eq!(logs.journal().stats().reads, after.reads + 1);
    logs.shutdown().await.unwrap();
}
