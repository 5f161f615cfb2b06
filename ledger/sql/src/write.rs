//! One batch in few statements: one per table and 64 rows, run on the thread that asks.
//!
//! The committer has a thread of its own, and SQLite runs on it: a connection behind another thread costs two wake-ups a
//! call, which is more than the statements take. Every new shape of a statement costs its compilation, so the number of
//! rows is rounded up to a power of two: the rows that only fill up are NULL and filtered out. Absent: what the rows mean;
//! reads for anybody but the committer (`read`).

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::{CachedStatement, Connection, ToSql};

use countersign_ledger_log::journal::{Advance, Batch, FullTile, NewEntry};
use countersign_ledger_log::{CommitError, JournalError, LogNumber};
use countersign_ledger_merkle::EMPTY_ROOT;

use crate::error::{Failure as _, journal_error};
use crate::key;

/// Most rows of one statement.
const CHUNK: usize = 64;

/// Statements that stay compiled: every part in every size.
pub(crate) const COMPILED: usize = 256;

/// The connection that writes.
pub(crate) struct Writer {
    conn: Connection,
    /// This process's place in the line of committers: a commit under an older one fails.
    epoch: i64,
    /// Statement texts by what they are and for how many rows.
    texts: HashMap<(Part, usize), String>,
    /// Statements given so far.
    statements: Arc<AtomicU64>,
}

/// A statement of a batch.
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
    /// Entries of one log, adjacent.
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
            Self::ReadRange => out.push_str("SELECT key, leaf FROM entry WHERE key BETWEEN ? AND ? ORDER BY key;"),
            Self::ReadKeys => {
                out.push_str("SELECT key, leaf FROM entry WHERE key IN (");
                values(out, 1, rows);
                out.push_str(");");
            }
            Self::Tile => insert(out, "tile (key, root, hashes)", "column1, column2, column3"),
            Self::Checkpoint => insert(out, "checkpoint (key, note)", "column1, column2"),
            // Where another committer has moved the log or taken the lease, the size becomes NULL, which the table
            // refuses: the statement fails before it comes to COMMIT.
            // One log is what nearly every batch touches: to join it to a list SQLite would open two tables of its own.
            Self::Swap if rows == 1 => out.push_str(
                "UPDATE log SET epoch = ?2, root = ?6, newest = ?7, size = CASE WHEN size = ?3 AND root = ?4 \
                 AND epoch <= ?2 AND ?8 = (SELECT epoch FROM lease) THEN ?5 END WHERE number = ?1;",
            ),
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

/// A statement whose values are being given, in the order in which they stand in it. What is not given is NULL.
struct Given<'c> {
    part: Part,
    statement: CachedStatement<'c>,
    next: usize,
}

impl Given<'_> {
    fn bind(&mut self, value: impl ToSql) -> Result<&mut Self, JournalError> {
        self.statement.raw_bind_parameter(self.next, value).map_err(|e| journal_error("bound a value", e))?;
        self.next += 1;
        Ok(self)
    }

    /// Runs it. Gives how many rows it changed.
    fn run(&mut self, doing: &'static str) -> Result<usize, JournalError> {
        self.statement.raw_execute().map_err(|error| match self.part {
            Part::Stream if error.is_constraint() => JournalError::StreamExists,
            // The committer gives every index once: somebody else has written here.
            Part::Entry | Part::Tile | Part::Checkpoint | Part::Swap if error.is_constraint() => JournalError::Fenced,
            _ => journal_error(doing, error),
        })
    }

    /// Runs it, and gives each row's key and leaf.
    fn leaves(&mut self, mut each: impl FnMut(i64, &[u8])) -> Result<(), JournalError> {
        let failed = |error| journal_error(READING_BACK, error);
        let mut rows = self.statement.raw_query();
        while let Some(row) = rows.next().map_err(failed)? {
            let leaf = row.get_ref(1).map_err(failed)?.as_blob();
            let leaf = leaf.map_err(|_| JournalError::Corrupt("the read-back is not of bytes".to_owned()))?;
            each(row.get(0).map_err(failed)?, leaf);
        }
        Ok(())
    }
}

const READING_BACK: &str = "read a batch back";

impl Writer {
    pub(crate) fn new(conn: Connection, epoch: i64, statements: Arc<AtomicU64>) -> Self {
        Self { conn, epoch, texts: HashMap::new(), statements }
    }

    pub(crate) fn close(self) -> Result<(), rusqlite::Error> {
        self.conn.close().map_err(|(_, error)| error)
    }

    /// A statement for `rows` rows, compiled before or now.
    fn give(&mut self, part: Part, rows: usize) -> Result<Given<'_>, JournalError> {
        let padded = if part.width() == 0 { 0 } else { rows.next_power_of_two() };
        let text = self.texts.entry((part, padded)).or_insert_with(|| {
            let mut text = String::new();
            part.text(padded, &mut text);
            text
        });
        let statement = self.conn.prepare_cached(text).map_err(|e| journal_error("compiled a statement", e))?;
        self.statements.fetch_add(1, Ordering::Relaxed);
        Ok(Given { part, statement, next: 1 })
    }

    /// Stores rows, `CHUNK` a statement.
    fn store<T>(
        &mut self,
        part: Part,
        rows: &[T],
        bind: impl Fn(&mut Given<'_>, &T) -> Result<(), JournalError>,
    ) -> Result<(), JournalError> {
        for chunk in rows.chunks(CHUNK) {
            let mut given = self.give(part, chunk.len())?;
            for row in chunk {
                bind(&mut given, row)?;
            }
            given.run("stored a batch")?;
        }
        Ok(())
    }

    /// The connection, for the copying of the log between batches.
    pub(crate) fn connection(&self) -> &Connection {
        &self.conn
    }

    pub(crate) fn rollback(&mut self) -> Result<(), JournalError> {
        // After some errors, a full disk among them, SQLite has rolled back by itself.
        if self.conn.is_autocommit() {
            return Ok(());
        }
        self.conn.execute_batch("ROLLBACK").map_err(|error| journal_error("rolled a batch back", error))
    }

    /// Stores a batch and reads its leaves back. On an error the caller rolls back.
    pub(crate) fn stage(&mut self, batch: &Batch, names: &[i64]) -> Result<Vec<Vec<u8>>, JournalError> {
        self.give(Part::Begin, 0)?.run("began a batch")?;
        self.store(Part::Log, &batch.logs, |given, log| {
            given.bind(log.number.0)?.bind(&log.id.as_bytes()[..])?.bind(&log.org.as_bytes()[..])?;
            given.bind(&EMPTY_ROOT.0[..]).map(drop)
        })?;
        self.store(Part::Stream, &batch.streams, |given, stream| {
            given.bind(stream.number.0.cast_signed())?.bind(stream.log.0)?;
            given.bind(stream_kind(stream.stream.kind))?.bind(&stream.stream.id.as_bytes()[..]).map(drop)
        })?;
        self.store(Part::Entry, &batch.entries, |given, entry| {
            given.bind(key::entry(entry.log, entry.index)?)?.bind(entry.stream.0.cast_signed())?;
            given.bind(entry.sequence.cast_signed())?.bind(&*entry.leaf).map(drop)
        })?;
        self.store(Part::Payload, &batch.payloads, |given, payload| {
            given.bind(key::payload(payload.log, payload.index, payload.n)?)?;
            given.bind(&payload.digest.0[..])?.bind(&*payload.bytes).map(drop)
        })?;
        self.store(Part::Blob, &batch.blobs, |given, blob| {
            given.bind(blob.log.0)?.bind(&blob.digest.0[..])?.bind(&*blob.bytes).map(drop)
        })?;
        let rows = || batch.rows.iter().zip(names);
        let puts: Vec<_> =
            rows().filter_map(|(new, name)| Some((new.log, *name, &new.row.key, new.row.columns.as_ref()?))).collect();
        self.store(Part::Put, &puts, |given, put| {
            given.bind(put.0.0)?.bind(put.1)?.bind(&put.2[..])?.bind(&put.3[..]).map(drop)
        })?;
        let mut deletes: BTreeMap<(LogNumber, i64), Vec<&[u8]>> = BTreeMap::new();
        for (new, name) in rows().filter(|(new, _)| new.row.columns.is_none()) {
            deletes.entry((new.log, *name)).or_default().push(&new.row.key);
        }
        for ((log, name), keys) in deletes {
            for chunk in keys.chunks(CHUNK) {
                let mut given = self.give(Part::Delete, chunk.len())?;
                given.bind(log.0)?.bind(name)?;
                for key in chunk {
                    given.bind(*key)?;
                }
                given.run("deleted rows")?;
            }
        }
        self.store(Part::Idempotency, &batch.idempotency, |given, kept| {
            let record = &kept.record;
            given.bind(key::entry(kept.log, kept.index)?)?.bind(kept.scope.map(|scope| scope.0.cast_signed()))?;
            given.bind(&record.principal.as_bytes()[..])?.bind(&record.key.0[..])?.bind(&record.request.0[..])?;
            given.bind(record.at.0.cast_signed())?.bind(&record.answer[..]).map(drop)
        })?;
        for erase in &batch.erase {
            let keys = key::payloads(erase.log, erase.index)?;
            let mut given = self.give(Part::Erase, 1)?;
            given.bind(*keys.start())?.bind(*keys.end())?.bind(&erase.digest.0[..])?;
            given.run("erased payloads")?;
        }
        self.read_back(&batch.entries)
    }

    /// The leaves of the batch as the database holds them, in the batch's order.
    fn read_back(&mut self, entries: &[NewEntry]) -> Result<Vec<Vec<u8>>, JournalError> {
        let lacks = || JournalError::Corrupt("the read-back lacks an entry".to_owned());
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return Ok(Vec::new()) };
        let adjacent = entries.iter().zip(first.index..).all(|(e, index)| e.log == first.log && e.index == index);
        if adjacent {
            let (from, to) = (key::entry(first.log, first.index)?, key::entry(last.log, last.index)?);
            let mut leaves = Vec::with_capacity(entries.len());
            let mut in_order = true;
            let mut given = self.give(Part::ReadRange, 1)?;
            given.bind(from)?.bind(to)?;
            let mut next = from;
            given.leaves(|key, leaf| {
                in_order &= key == next;
                next += 1;
                leaves.push(leaf.to_vec());
            })?;
            return if in_order && leaves.len() == entries.len() { Ok(leaves) } else { Err(lacks()) };
        }
        let mut held: HashMap<i64, Vec<u8>> = HashMap::with_capacity(entries.len());
        for chunk in entries.chunks(CHUNK) {
            let mut given = self.give(Part::ReadKeys, chunk.len())?;
            for entry in chunk {
                given.bind(key::entry(entry.log, entry.index)?)?;
            }
            given.leaves(|key, leaf| drop(held.insert(key, leaf.to_vec())))?;
        }
        entries.iter().map(|entry| held.remove(&key::entry(entry.log, entry.index)?).ok_or_else(lacks)).collect()
    }

    pub(crate) fn commit(&mut self, advances: &[Advance]) -> Result<(), CommitError> {
        self.sign_off(advances).map_err(CommitError::RolledBack)?;
        let mut commit = self.give(Part::Commit, 0).map_err(CommitError::RolledBack)?;
        // Point of no return: after this statement the batch is durable, or its fate is not known.
        commit.statement.raw_execute().map(drop).map_err(|error| {
            let source = Box::new(error);
            CommitError::Unknown(JournalError::Backend { doing: "committed a batch", source })
        })
    }

    /// Full tiles, checkpoints, and each log moved by compare-and-swap.
    fn sign_off(&mut self, advances: &[Advance]) -> Result<(), JournalError> {
        for advance in advances {
            for FullTile { coord, root, hashes } in &advance.tiles {
                let mut given = self.give(Part::Tile, 1)?;
                let key = key::tile(advance.log, coord.level(), coord.index())?;
                given.bind(key)?.bind(&root.0[..])?.bind(&hashes[..])?;
                given.run("stored tiles")?;
            }
        }
        let epoch = self.epoch;
        for chunk in advances.chunks(CHUNK) {
            let mut given = self.give(Part::Checkpoint, chunk.len())?;
            for advance in chunk {
                given.bind(key::entry(advance.log, advance.size)?)?.bind(advance.note.as_str())?;
            }
            given.run("stored checkpoints")?;
            drop(given);
            let mut given = self.give(Part::Swap, chunk.len())?;
            for advance in chunk {
                given.bind(advance.log.0)?.bind(epoch)?;
                given.bind(advance.old_size.cast_signed())?.bind(&advance.old_root.0[..])?;
                given.bind(advance.size.cast_signed())?.bind(&advance.root.0[..])?;
                given.bind(advance.newest.0.cast_signed())?.bind(epoch)?;
            }
            if given.run("signed off a batch")? != chunk.len() {
                // A log's row is gone: not by this process.
                return Err(JournalError::Fenced);
            }
        }
        Ok(())
    }

    /// The number of a table's name; a name that is new gets one.
    pub(crate) fn table_number(&mut self, table: &str) -> Result<i64, JournalError> {
        // Outside the batch's transaction: a name without rows harms nobody, and the number stays when it is undone.
        // Not with RETURNING: its row comes before its commit, whose error would go unheard.
        let doing = |error| journal_error("named a table", error);
        let sql = "INSERT INTO view_name (name) VALUES (?) ON CONFLICT DO NOTHING";
        self.conn.execute(sql, [table]).map_err(doing)?;
        self.conn.query_row("SELECT number FROM view_name WHERE name = ?", [table], |row| row.get(0)).map_err(doing)
    }
}

pub(crate) fn stream_kind(kind: countersign_ledger_entry::StreamKind) -> i64 {
    match kind {
        countersign_ledger_entry::StreamKind::Instance => 0,
        countersign_ledger_entry::StreamKind::Organization => 1,
        countersign_ledger_entry::StreamKind::Log => 2,
    }
}

/// Where the batch's log is: used by reads that name an organization.
pub(crate) fn log_number(number: i64) -> Result<LogNumber, JournalError> {
    u32::try_from(number)
        .map(LogNumber)
        .map_err(|_| JournalError::Corrupt(format!("log number `{number}` is out of range")))
}
