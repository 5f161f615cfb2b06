//! One batch in few statements: a statement per table and 64 rows, and few round trips to SQLite's thread.
//!
//! sqlx runs SQLite on a thread of its own; every call to it costs a wake-up there and back, and every new shape of a
//! statement costs its compilation. So a call carries several statements, and the number of rows is rounded up to a power
//! of two: the rows that only fill up are NULL and filtered out. A usual batch is two calls: everything up to the
//! read-back, then checkpoint, compare-and-swap and COMMIT. Absent: what the rows mean.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::Arc;

use futures::TryStreamExt as _;
use sqlx::sqlite::{SqliteArguments, SqliteConnection, SqliteRow};
use sqlx::{Arguments as _, AssertSqlSafe, Connection as _, Either, Encode, Executor as _, Row as _, Sqlite, Type};

use countersign_ledger_log::journal::{Advance, Batch, FullTile};
use countersign_ledger_log::{CommitError, JournalError, LogNumber};
use countersign_ledger_merkle::EMPTY_ROOT;

use crate::error::{is_constraint, journal_error};
use crate::key;
use crate::open::SqlJournal;

/// Most rows of one statement.
const CHUNK: usize = 64;

/// Most statements of a call that carries a varying number of them.
const MAX_PARTS: usize = 16;

/// Most statement texts that are kept.
const MAX_TEXTS: usize = 1024;

/// The connection that writes, and what it has compiled.
pub(crate) struct Writer {
    conn: SqliteConnection,
    /// This process's place in the line of committers: a commit under an older one fails.
    epoch: i64,
    /// Statement texts by the shape of the call, so that a text is put together once.
    texts: HashMap<Shape, Arc<str>>,
    in_transaction: bool,
}

/// What a call consists of: for each part, which and for how many rows.
type Shape = Vec<(Part, usize)>;

/// A statement of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Part {
    Begin,
    Log,
    Stream,
    Entry,
    Payload,
    Blob,
    Put,
    Delete,
    Idempotency,
    Erase,
    /// Entries of one log, adjacent: the stored leaves as one text.
    ReadRange,
    /// Entries of several logs.
    ReadKeys,
    Tile,
    Checkpoint,
    Swap,
    Commit,
}

impl Part {
    /// Columns of a row, 0 for a statement without rows.
    fn width(self) -> usize {
        match self {
            Self::Begin | Self::Commit => 0,
            Self::ReadKeys | Self::Delete => 1,
            Self::Checkpoint | Self::ReadRange => 2,
            Self::Blob | Self::Payload | Self::Tile | Self::Erase => 3,
            Self::Log | Self::Stream | Self::Entry | Self::Put => 4,
            Self::Idempotency => 7,
            Self::Swap => 8,
        }
    }

    /// Values before the rows.
    fn head(self) -> usize {
        if self == Self::Delete { 2 } else { 0 }
    }

    fn text(self, rows: usize, out: &mut String) {
        let insert = |out: &mut String, into: &str, columns: &str| {
            // `OR FAIL`: whatever fails, the whole transaction goes, so SQLite need not keep what would undo one statement.
            // Writing to a string cannot fail.
            let _ = write!(out, "INSERT OR FAIL INTO {into} SELECT {columns} FROM (");
            values(out, self.width(), rows);
            out.push_str(") WHERE column1 IS NOT NULL;");
        };
        match self {
            Self::Begin => out.push_str("BEGIN IMMEDIATE;"),
            Self::Commit => out.push_str("COMMIT;"),
            Self::Log => insert(
                out,
                "log (number, id, org, epoch, size, root, newest)",
                "column1, column2, column3, 0, 0, column4, 0",
            ),
            Self::Stream => insert(out, "stream (number, log, kind, id)", "column1, column2, column3, column4"),
            Self::Entry => insert(out, "entry (key, stream, sequence, leaf)", "column1, column2, column3, column4"),
            Self::Payload => insert(out, "payload (key, digest, bytes)", "column1, column2, column3"),
            Self::Blob => {
                out.push_str("INSERT OR IGNORE INTO blob (log, digest, bytes) SELECT column1, column2, column3 FROM (");
                values(out, 3, rows);
                out.push_str(") WHERE column1 IS NOT NULL;");
            }
            Self::Put => {
                out.push_str("INSERT OR REPLACE INTO view (log, name, key, columns) ");
                out.push_str("SELECT column1, column2, column3, column4 FROM (");
                values(out, 4, rows);
                out.push_str(") WHERE column1 IS NOT NULL;");
            }
            // Of one log and table: for a list of whole row values SQLite would scan the table.
            Self::Delete => {
                out.push_str("DELETE FROM view WHERE log = ? AND name = ? AND key IN (");
                values(out, 1, rows);
                out.push_str(");");
            }
            Self::Idempotency => insert(
                out,
                "idempotency (entry, scope, principal, key, request, at, answer)",
                "column1, column2, column3, column4, column5, column6, column7",
            ),
            Self::Erase => out.push_str("DELETE FROM payload WHERE key BETWEEN ? AND ? AND digest = ?;"),
            // One row instead of one per entry: every row is a wake-up on the other side.
            // One row instead of one per entry: every row is a wake-up on the other side. As text, bytes keep what they
            // are; whatever else came back would differ from what was sent, and nothing would be signed.
            Self::ReadRange => out.push_str(
                "SELECT group_concat(length(leaf), ' '), CAST(group_concat(leaf, '') AS BLOB) \
                 FROM (SELECT leaf FROM entry WHERE key BETWEEN ? AND ? ORDER BY key);",
            ),
            Self::ReadKeys => {
                out.push_str("SELECT key, leaf FROM entry WHERE key IN (");
                values(out, 1, rows);
                out.push_str(");");
            }
            Self::Tile => insert(out, "tile (key, root, hashes)", "column1, column2, column3"),
            Self::Checkpoint => insert(out, "checkpoint (key, note)", "column1, column2"),
            // Where another committer has moved the log or taken the lease, the size becomes NULL, which the table
            // refuses: the statement fails, and with it the call, before it comes to COMMIT.
            Self::Swap => {
                out.push_str(
                    "UPDATE log SET epoch = v.column2, root = v.column6, newest = v.column7, size = CASE \
                     WHEN log.size = v.column3 AND log.root = v.column4 AND log.epoch <= v.column2 \
                     AND v.column8 = (SELECT epoch FROM lease) THEN v.column5 END FROM (",
                );
                values(out, 8, rows);
                out.push_str(") AS v WHERE log.number = v.column1;");
            }
        }
    }
}

/// `VALUES (?,?),(?,?)`
fn values(out: &mut String, width: usize, rows: usize) {
    out.push_str("VALUES ");
    for row in 0..rows {
        out.push_str(if row == 0 { "(" } else { ",(" });
        for column in 0..width {
            out.push_str(if column == 0 { "?" } else { ",?" });
        }
        out.push(')');
    }
}

/// A call in the making.
#[derive(Default)]
struct Call {
    shape: Shape,
    args: SqliteArguments,
    /// Rows still to come of the last part.
    open: usize,
}

impl Call {
    /// Begins a statement for `rows` rows, of which every argument must be bound before the next one.
    fn part(&mut self, part: Part, rows: usize) -> Result<(), JournalError> {
        self.fill()?;
        let padded = if part.width() == 0 { 0 } else { rows.next_power_of_two() };
        self.shape.push((part, padded));
        self.open = part.head() + padded * part.width();
        Ok(())
    }

    fn bind<'t, T: Encode<'t, Sqlite> + Type<Sqlite>>(&mut self, value: T) -> Result<&mut Self, JournalError> {
        self.args.add(value).map_err(|source| JournalError::Backend { doing: "bound a value", source })?;
        self.open = self.open.saturating_sub(1);
        Ok(self)
    }

    /// Fills up the rows of the last part with NULL.
    fn fill(&mut self) -> Result<(), JournalError> {
        while self.open > 0 {
            self.bind(None::<i64>)?;
        }
        Ok(())
    }
}

/// What a call gave back: how many of its statements finished, rows, and the sum of rows changed by the last one.
struct Outcome {
    finished: usize,
    changed: u64,
    rows: Vec<SqliteRow>,
    error: Option<sqlx::Error>,
}

impl Writer {
    pub(crate) fn new(conn: SqliteConnection, epoch: i64) -> Self {
        Self { conn, epoch, texts: HashMap::new(), in_transaction: false }
    }

    pub(crate) async fn close(self) -> Result<(), sqlx::Error> {
        self.conn.close().await
    }

    /// Runs a call to its end or to its first error.
    async fn run(&mut self, mut call: Call) -> Result<Outcome, JournalError> {
        call.fill()?;
        if self.texts.len() > MAX_TEXTS {
            self.texts.clear();
        }
        let text = self.texts.entry(call.shape).or_insert_with_key(|shape| {
            let mut text = String::new();
            for (part, rows) in shape {
                part.text(*rows, &mut text);
            }
            text.into()
        });
        let query = sqlx::query_with(AssertSqlSafe(Arc::clone(text)), call.args);
        let mut outcome = Outcome { finished: 0, changed: 0, rows: Vec::new(), error: None };
        let mut results = self.conn.fetch_many(query);
        loop {
            match results.try_next().await {
                Ok(Some(Either::Left(done))) => {
                    outcome.finished += 1;
                    outcome.changed = done.rows_affected();
                }
                Ok(Some(Either::Right(row))) => outcome.rows.push(row),
                Ok(None) => return Ok(outcome),
                Err(error) => {
                    outcome.error = Some(error);
                    return Ok(outcome);
                }
            }
        }
    }

    /// Runs a call of which every statement must succeed.
    async fn run_all(&mut self, call: Call, doing: &'static str) -> Result<Vec<SqliteRow>, JournalError> {
        let parts: Vec<Part> = call.shape.iter().map(|(part, _)| *part).collect();
        let outcome = self.run(call).await?;
        match outcome.error {
            None => Ok(outcome.rows),
            Some(error) if is_constraint(&error) => match parts.get(outcome.finished) {
                Some(Part::Stream) => Err(JournalError::StreamExists),
                // The committer gives every index once: somebody else has written here.
                Some(Part::Entry) => Err(JournalError::Fenced),
                _ => Err(journal_error(doing, error)),
            },
            Some(error) => Err(journal_error(doing, error)),
        }
    }

    pub(crate) async fn rollback(&mut self) -> Result<(), JournalError> {
        if !std::mem::replace(&mut self.in_transaction, false) {
            return Ok(());
        }
        match self.conn.execute("ROLLBACK").await {
            Ok(_) => Ok(()),
            // After some errors, a full disk among them, SQLite has rolled back by itself.
            Err(error) if error.to_string().contains("no transaction is active") => Ok(()),
            Err(error) => Err(journal_error("rolled a batch back", error)),
        }
    }

    /// Stores a batch and reads its leaves back. On an error the caller rolls back.
    async fn stage(&mut self, batch: &Batch, names: &[i64]) -> Result<Vec<Vec<u8>>, JournalError> {
        let mut call = Call::default();
        call.part(Part::Begin, 0)?;
        self.in_transaction = true;
        // What does not fit one statement goes ahead in calls of its own; a usual batch has none of that.
        macro_rules! store {
            ($part:expr, $rows:expr, |$call:ident, $row:ident| $bind:expr) => {
                let mut chunks = $rows.chunks(CHUNK).peekable();
                while let Some(chunk) = chunks.next() {
                    call.part($part, chunk.len())?;
                    for $row in chunk {
                        let $call = &mut call;
                        $bind;
                    }
                    if chunks.peek().is_some() {
                        self.run_all(std::mem::take(&mut call), "stored a batch").await?;
                    }
                }
            };
        }
        store!(Part::Log, batch.logs, |call, log| {
            call.bind(i64::from(log.number.0))?.bind(&log.id.as_bytes()[..])?.bind(&log.org.as_bytes()[..])?;
            call.bind(&EMPTY_ROOT.0[..])?
        });
        store!(Part::Stream, batch.streams, |call, stream| {
            call.bind(stream.number.0.cast_signed())?.bind(i64::from(stream.log.0))?;
            call.bind(stream_kind(stream.stream.kind))?.bind(&stream.stream.id.as_bytes()[..])?
        });
        store!(Part::Entry, batch.entries, |call, entry| {
            call.bind(key::entry(entry.log, entry.index)?)?.bind(entry.stream.0.cast_signed())?;
            call.bind(entry.sequence.cast_signed())?.bind(&*entry.leaf)?
        });
        store!(Part::Payload, batch.payloads, |call, payload| {
            call.bind(key::payload(payload.log, payload.index, payload.n)?)?;
            call.bind(&payload.digest.0[..])?.bind(&*payload.bytes)?
        });
        store!(Part::Blob, batch.blobs, |call, blob| {
            call.bind(i64::from(blob.log.0))?.bind(&blob.digest.0[..])?.bind(&*blob.bytes)?
        });
        let rows = || batch.rows.iter().zip(names);
        let puts: Vec<_> =
            rows().filter_map(|(new, name)| Some((new.log, *name, &new.row.key, new.row.columns.as_ref()?))).collect();
        store!(Part::Put, puts, |call, put| {
            call.bind(i64::from(put.0.0))?.bind(put.1)?.bind(&put.2[..])?.bind(&put.3[..])?
        });
        let mut deletes: BTreeMap<(LogNumber, i64), Vec<&[u8]>> = BTreeMap::new();
        for (new, name) in rows().filter(|(new, _)| new.row.columns.is_none()) {
            deletes.entry((new.log, *name)).or_default().push(&new.row.key);
        }
        for ((log, name), keys) in deletes {
            for chunk in keys.chunks(CHUNK) {
                call.part(Part::Delete, chunk.len())?;
                call.bind(i64::from(log.0))?.bind(name)?;
                for key in chunk {
                    call.bind(*key)?;
                }
                if call.shape.len() > MAX_PARTS {
                    self.run_all(std::mem::take(&mut call), "deleted rows").await?;
                }
            }
        }
        store!(Part::Idempotency, batch.idempotency, |call, kept| {
            let record = &kept.record;
            call.bind(key::entry(kept.log, kept.index)?)?.bind(kept.scope.map(|scope| scope.0.cast_signed()))?;
            call.bind(&record.principal.as_bytes()[..])?.bind(&record.key.0[..])?.bind(&record.request.0[..])?;
            call.bind(record.at.0.cast_signed())?.bind(&record.answer[..])?
        });
        for erase in &batch.erase {
            let keys = key::payloads(erase.log, erase.index)?;
            call.part(Part::Erase, 1)?;
            call.bind(*keys.start())?.bind(*keys.end())?.bind(&erase.digest.0[..])?;
            if call.shape.len() > MAX_PARTS {
                self.run_all(std::mem::take(&mut call), "erased payloads").await?;
            }
        }
        self.read_back(call, batch).await
    }

    /// The leaves of the batch as the database holds them, in the batch's order.
    async fn read_back(&mut self, mut call: Call, batch: &Batch) -> Result<Vec<Vec<u8>>, JournalError> {
        const DOING: &str = "read a batch back";
        let corrupt = |what: &str| JournalError::Corrupt(format!("the read-back {what}"));
        let (Some(first), Some(last)) = (batch.entries.first(), batch.entries.last()) else {
            self.run_all(call, DOING).await?;
            return Ok(Vec::new());
        };
        let adjacent = batch.entries.iter().zip(first.index..).all(|(e, index)| e.log == first.log && e.index == index);
        if adjacent {
            call.part(Part::ReadRange, 1)?;
            call.bind(key::entry(first.log, first.index)?)?.bind(key::entry(last.log, last.index)?)?;
            let rows = self.run_all(call, DOING).await?;
            let row = rows.first().ok_or_else(|| corrupt("has no row"))?;
            let get = |source| journal_error(DOING, source);
            let (lengths, mut bytes): (&str, &[u8]) = (row.try_get(0).map_err(get)?, row.try_get(1).map_err(get)?);
            let mut leaves = Vec::with_capacity(batch.entries.len());
            for length in lengths.split(' ') {
                let length = length.parse().map_err(|_| corrupt("has no length"))?;
                let (leaf, rest) = bytes.split_at_checked(length).ok_or_else(|| corrupt("is too short"))?;
                leaves.push(leaf.to_vec());
                bytes = rest;
            }
            return if bytes.is_empty() { Ok(leaves) } else { Err(corrupt("is too long")) };
        }
        let mut held: HashMap<i64, Vec<u8>> = HashMap::with_capacity(batch.entries.len());
        for chunk in batch.entries.chunks(CHUNK) {
            call.part(Part::ReadKeys, chunk.len())?;
            for entry in chunk {
                call.bind(key::entry(entry.log, entry.index)?)?;
            }
            for row in self.run_all(std::mem::take(&mut call), DOING).await? {
                let get = |source| journal_error(DOING, source);
                held.insert(row.try_get(0).map_err(get)?, row.try_get(1).map_err(get)?);
            }
        }
        let take = |entry: &countersign_ledger_log::journal::NewEntry| {
            held.remove(&key::entry(entry.log, entry.index)?).ok_or_else(|| corrupt("lacks an entry"))
        };
        batch.entries.iter().map(take).collect()
    }

    async fn commit(&mut self, advances: &[Advance]) -> Result<(), CommitError> {
        let before = |error: JournalError| CommitError::RolledBack(error);
        let mut call = Call::default();
        for advance in advances {
            for FullTile { coord, root, hashes } in &advance.tiles {
                call.part(Part::Tile, 1).map_err(before)?;
                let key = key::tile(advance.log, coord.level(), coord.index()).map_err(before)?;
                call.bind(key).and_then(|c| c.bind(&root.0[..])).and_then(|c| c.bind(&hashes[..])).map_err(before)?;
                if call.shape.len() > MAX_PARTS {
                    self.run_all(std::mem::take(&mut call), "stored tiles").await.map_err(before)?;
                }
            }
        }
        let mut chunks = advances.chunks(CHUNK).peekable();
        while let Some(chunk) = chunks.next() {
            self.advance(&mut call, chunk).map_err(before)?;
            if chunks.peek().is_some() {
                let swapped = self.run(std::mem::take(&mut call)).await.map_err(before)?;
                check_swap(&swapped, chunk.len()).map_err(before)?;
            }
        }
        call.part(Part::Commit, 0).map_err(before)?;
        let statements = call.shape.len();
        // Point of no return: after this call the batch is durable, or its fate is not known.
        let outcome = self.run(call).await.map_err(before)?;
        match outcome.error {
            None if outcome.finished == statements => {
                self.in_transaction = false;
                Ok(())
            }
            Some(error) if outcome.finished + 1 < statements => {
                if is_constraint(&error) {
                    Err(before(JournalError::Fenced))
                } else {
                    Err(before(journal_error("signed off a batch", error)))
                }
            }
            Some(error) => {
                let source = Box::new(error);
                Err(CommitError::Unknown(JournalError::Backend { doing: "committed a batch", source }))
            }
            None => {
                let what = format!("{} of {statements} statements finished", outcome.finished);
                Err(CommitError::Unknown(JournalError::Corrupt(what)))
            }
        }
    }

    /// Adds checkpoints and compare-and-swaps to a call.
    fn advance(&self, call: &mut Call, advances: &[Advance]) -> Result<(), JournalError> {
        call.part(Part::Checkpoint, advances.len())?;
        for advance in advances {
            call.bind(key::entry(advance.log, advance.size)?)?.bind(advance.note.as_str())?;
        }
        call.part(Part::Swap, advances.len())?;
        for advance in advances {
            call.bind(i64::from(advance.log.0))?.bind(self.epoch)?;
            call.bind(advance.old_size.cast_signed())?.bind(&advance.old_root.0[..])?;
            call.bind(advance.size.cast_signed())?.bind(&advance.root.0[..])?;
            call.bind(advance.newest.0.cast_signed())?.bind(self.epoch)?;
        }
        Ok(())
    }
}

/// Every log was moved.
fn check_swap(outcome: &Outcome, logs: usize) -> Result<(), JournalError> {
    match &outcome.error {
        Some(error) if is_constraint(error) => Err(JournalError::Fenced),
        Some(error) => Err(JournalError::Corrupt(format!("the checkpoints were not stored: {error}"))),
        None if usize::try_from(outcome.changed) == Ok(logs) => Ok(()),
        None => Err(JournalError::Fenced),
    }
}

pub(crate) fn stream_kind(kind: countersign_ledger_entry::StreamKind) -> i64 {
    match kind {
        countersign_ledger_entry::StreamKind::Instance => 0,
        countersign_ledger_entry::StreamKind::Organization => 1,
        countersign_ledger_entry::StreamKind::Log => 2,
    }
}

impl SqlJournal {
    pub(crate) async fn stage_batch(&self, batch: &Batch) -> Result<Vec<Vec<u8>>, JournalError> {
        let mut held = self.writer.lock().await;
        let writer = held.as_mut().ok_or_else(closed)?;
        if let Some(checkpointer) = &self.checkpointer {
            checkpointer.settle(&mut writer.conn).await;
        }
        let names = self.table_numbers(writer, batch).await?;
        match writer.stage(batch, &names).await {
            Ok(stored) => {
                if let Some(checkpointer) = &self.checkpointer {
                    checkpointer.wrote(written(batch));
                }
                Ok(stored)
            }
            Err(error) => {
                // Crash before the rollback: SQLite forgets what was not committed.
                writer.rollback().await?;
                Err(error)
            }
        }
    }

    pub(crate) async fn commit_batch(&self, advances: &[Advance]) -> Result<(), CommitError> {
        let mut held = self.writer.lock().await;
        let writer = held.as_mut().ok_or_else(|| CommitError::RolledBack(closed()))?;
        match writer.commit(advances).await {
            Ok(()) => {
                self.synced(1);
                Ok(())
            }
            Err(CommitError::RolledBack(error)) => match writer.rollback().await {
                Ok(()) => Err(CommitError::RolledBack(error)),
                Err(error) => Err(CommitError::Unknown(error)),
            },
            Err(unknown) => Err(unknown),
        }
    }

    pub(crate) async fn roll_back(&self) -> Result<(), JournalError> {
        let mut held = self.writer.lock().await;
        held.as_mut().ok_or_else(closed)?.rollback().await
    }

    /// The numbers of the batch's tables, in the order of its rows; a name that is new gets one.
    async fn table_numbers(&self, writer: &mut Writer, batch: &Batch) -> Result<Vec<i64>, JournalError> {
        let mut numbers = Vec::with_capacity(batch.rows.len());
        for new in &batch.rows {
            let known = self.names.tables.read().ok().and_then(|held| held.get(new.row.table).copied());
            if let Some(number) = known {
                numbers.push(number);
                continue;
            }
            // Outside the batch's transaction: a name without rows harms nobody, and the number stays when it is undone.
            // Not with RETURNING: its row comes before its commit, whose error would go unheard.
            let doing = |error| journal_error("named a table", error);
            sqlx::query("INSERT INTO view_name (name) VALUES (?) ON CONFLICT DO NOTHING")
                .bind(new.row.table)
                .execute(&mut writer.conn)
                .await
                .map_err(doing)?;
            let number: i64 = sqlx::query_scalar("SELECT number FROM view_name WHERE name = ?")
                .bind(new.row.table)
                .fetch_one(&mut writer.conn)
                .await
                .map_err(doing)?;
            if let Ok(mut held) = self.names.tables.write() {
                held.insert(new.row.table.to_owned(), number);
            }
            numbers.push(number);
        }
        Ok(numbers)
    }
}

pub(crate) fn closed() -> JournalError {
    JournalError::Backend { doing: "was written to", source: "it is closed, or open for reading only".into() }
}

/// About how many bytes a batch adds to the write-ahead log, not counting that it holds whole pages.
fn written(batch: &Batch) -> u64 {
    let bytes = batch.entries.iter().map(|e| e.leaf.len() + 32).sum::<usize>()
        + batch.payloads.iter().map(|p| p.bytes.len() + 48).sum::<usize>()
        + batch.blobs.iter().map(|b| b.bytes.len()).sum::<usize>()
        + batch.rows.iter().map(|r| r.row.key.len() + r.row.columns.as_ref().map_or(0, Vec::len) + 16).sum::<usize>()
        + batch.idempotency.iter().map(|i| i.record.answer.len() + 120).sum::<usize>()
        + 8192;
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// Where the batch's log is: used by reads that name an organization.
pub(crate) fn log_number(number: i64) -> Result<LogNumber, JournalError> {
    u32::try_from(number)
        .map(LogNumber)
        .map_err(|_| JournalError::Corrupt(format!("log number `{number}` is out of range")))
}
