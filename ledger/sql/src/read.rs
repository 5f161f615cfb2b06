//! Reads, on connections of their own: they see what was committed and never hold the writer up.
//!
//! Absent: writes (`write`). The two traits of `ledger/log` are implemented here, each method by one statement.

use std::ops::Range;

use async_trait::async_trait;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use countersign_gateway_model::{Digest, LogId, OrgId, Pseudonym, Timestamp};
use countersign_ledger_entry::Stream;
use countersign_ledger_log::journal::{
    Advance, Batch, HeldPayload, IdempotencyRecord, JournalStats, LogRecord, StreamRecord,
};
use countersign_ledger_log::{
    CommitError, Journal, JournalError, LogNumber, StoredEntry, StreamNumber, ViewRow, Views,
};
use countersign_ledger_merkle::{Hash, leaf_hash};

use crate::error::journal_error;
use crate::key;
use crate::open::SqlJournal;
use crate::write::{log_number, stream_kind};

const READING: &str = "was read";

fn failed(error: sqlx::Error) -> JournalError {
    journal_error(READING, error)
}

fn limited(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

fn bytes<const N: usize>(row: &SqliteRow, column: usize) -> Result<[u8; N], JournalError> {
    let held: &[u8] = row.try_get(column).map_err(failed)?;
    held.try_into().map_err(|_| JournalError::Corrupt(format!("a column of {} bytes where {N} belong", held.len())))
}

fn unsigned(row: &SqliteRow, column: usize) -> Result<u64, JournalError> {
    let held: i64 = row.try_get(column).map_err(failed)?;
    u64::try_from(held).map_err(|_| JournalError::Corrupt(format!("a column holds `{held}`")))
}

fn log_record(row: &SqliteRow) -> Result<LogRecord, JournalError> {
    Ok(LogRecord {
        number: log_number(row.try_get(0).map_err(failed)?)?,
        id: LogId::from_bytes(bytes(row, 1)?),
        org: OrgId::from_bytes(bytes(row, 2)?),
        size: unsigned(row, 3)?,
        root: Hash(bytes(row, 4)?),
        newest: Timestamp(unsigned(row, 5)?),
        note: row.try_get::<Option<String>, _>(6).map_err(failed)?.unwrap_or_default(),
    })
}

fn entry(row: &SqliteRow) -> Result<StoredEntry, JournalError> {
    Ok(StoredEntry { index: key::index(row.try_get(0).map_err(failed)?), leaf: row.try_get(1).map_err(failed)? })
}

/// `number << 38 | size`, as `key::entry` packs it.
const LOG_COLUMNS: &str = "SELECT l.number, l.id, l.org, l.size, l.root, l.newest, c.note FROM log AS l \
                           LEFT JOIN checkpoint AS c ON c.key = (l.number << 38 | l.size)";

impl SqlJournal {
    async fn one_log(&self, filter: &'static str, id: &[u8]) -> Result<Option<LogRecord>, JournalError> {
        let sql = sqlx::AssertSqlSafe(format!("{LOG_COLUMNS} WHERE {filter} = ?"));
        let row = sqlx::query(sql).bind(id).fetch_optional(&self.readers).await.map_err(failed)?;
        row.as_ref().map(log_record).transpose()
    }

    async fn org_number(&self, org: OrgId) -> Result<Option<LogNumber>, JournalError> {
        if let Some(number) = self.names.orgs.read().ok().and_then(|held| held.get(&org).copied()) {
            return Ok(Some(number));
        }
        let number: Option<i64> = sqlx::query_scalar("SELECT number FROM log WHERE org = ?")
            .bind(&org.as_bytes()[..])
            .fetch_optional(&self.readers)
            .await
            .map_err(failed)?;
        let Some(number) = number.map(log_number).transpose()? else { return Ok(None) };
        if let Ok(mut held) = self.names.orgs.write() {
            held.insert(org, number);
        }
        Ok(Some(number))
    }

    fn table_number(&self, table: &str) -> Option<i64> {
        self.names.tables.read().ok().and_then(|held| held.get(table).copied())
    }
}

#[async_trait]
impl Journal for SqlJournal {
    async fn numbers(&self) -> Result<(LogNumber, StreamNumber), JournalError> {
        let sql = "SELECT (SELECT coalesce(max(number), 0) FROM log), (SELECT coalesce(max(number), 0) FROM stream)";
        let row = sqlx::query(sql).fetch_one(&self.readers).await.map_err(failed)?;
        Ok((log_number(row.try_get(0).map_err(failed)?)?, StreamNumber(unsigned(&row, 1)?)))
    }

    async fn logs(&self, after: LogNumber, limit: usize) -> Result<Vec<LogRecord>, JournalError> {
        let sql = sqlx::AssertSqlSafe(format!("{LOG_COLUMNS} WHERE l.number > ? ORDER BY l.number LIMIT ?"));
        let query = sqlx::query(sql).bind(i64::from(after.0)).bind(limited(limit));
        query.fetch_all(&self.readers).await.map_err(failed)?.iter().map(log_record).collect()
    }

    async fn log_of(&self, org: OrgId) -> Result<Option<LogRecord>, JournalError> {
        self.one_log("l.org", org.as_bytes()).await
    }

    async fn log_by_id(&self, id: LogId) -> Result<Option<LogRecord>, JournalError> {
        self.one_log("l.id", id.as_bytes()).await
    }

    async fn last_index(&self, log: LogNumber) -> Result<Option<u64>, JournalError> {
        let Some(keys) = key::entries(log, 0, u64::MAX)? else { return Ok(None) };
        let last: Option<i64> = sqlx::query_scalar("SELECT max(key) FROM entry WHERE key BETWEEN ? AND ?")
            .bind(*keys.start())
            .bind(*keys.end())
            .fetch_one(&self.readers)
            .await
            .map_err(failed)?;
        Ok(last.map(key::index))
    }

    async fn entries(&self, log: LogNumber, range: Range<u64>) -> Result<Vec<StoredEntry>, JournalError> {
        let Some(keys) = key::entries(log, range.start, range.end)? else { return Ok(Vec::new()) };
        let rows = sqlx::query("SELECT key, leaf FROM entry WHERE key BETWEEN ? AND ? ORDER BY key")
            .bind(*keys.start())
            .bind(*keys.end())
            .fetch_all(&self.readers)
            .await
            .map_err(failed)?;
        rows.iter().map(entry).collect()
    }

    async fn stream(&self, log: LogNumber, stream: Stream) -> Result<Option<StreamRecord>, JournalError> {
        let sql = "SELECT s.number, e.sequence, e.leaf FROM stream AS s LEFT JOIN entry AS e ON e.stream = s.number \
                   WHERE s.id = ? AND s.kind = ? AND s.log = ? ORDER BY e.sequence DESC LIMIT 1";
        let row = sqlx::query(sql)
            .bind(&stream.id.as_bytes()[..])
            .bind(stream_kind(stream.kind))
            .bind(i64::from(log.0))
            .fetch_optional(&self.readers)
            .await
            .map_err(failed)?;
        let Some(row) = row else { return Ok(None) };
        let leaf: Option<&[u8]> = row.try_get(2).map_err(failed)?;
        let last = match leaf {
            Some(leaf) => Some((unsigned(&row, 1)?, leaf_hash(leaf))),
            None => None,
        };
        Ok(Some(StreamRecord { number: StreamNumber(unsigned(&row, 0)?), last }))
    }

    async fn stream_entries(
        &self,
        log: LogNumber,
        stream: Stream,
        from: u64,
        limit: usize,
    ) -> Result<Vec<StoredEntry>, JournalError> {
        let sql = "SELECT e.key, e.leaf FROM stream AS s JOIN entry AS e ON e.stream = s.number \
                   WHERE s.id = ? AND s.kind = ? AND s.log = ? AND e.sequence >= ? ORDER BY e.sequence LIMIT ?";
        let rows = sqlx::query(sql)
            .bind(&stream.id.as_bytes()[..])
            .bind(stream_kind(stream.kind))
            .bind(i64::from(log.0))
            .bind(i64::try_from(from).unwrap_or(i64::MAX))
            .bind(limited(limit))
            .fetch_all(&self.readers)
            .await
            .map_err(failed)?;
        rows.iter().map(entry).collect()
    }

    async fn idempotency(
        &self,
        log: LogNumber,
        stream: Stream,
        since: Timestamp,
    ) -> Result<Vec<IdempotencyRecord>, JournalError> {
        let sql = "WITH s AS (SELECT number FROM stream WHERE id = ?1 AND kind = ?2 AND log = ?3) \
                   SELECT i.principal, i.key, i.request, i.at, i.answer FROM s JOIN entry AS e ON e.stream = s.number \
                   JOIN idempotency AS i ON i.entry = e.key WHERE i.scope IS NULL AND i.at >= ?4 \
                   UNION ALL \
                   SELECT i.principal, i.key, i.request, i.at, i.answer FROM s JOIN idempotency AS i \
                   ON i.scope = s.number WHERE i.at >= ?4";
        let rows = sqlx::query(sql)
            .bind(&stream.id.as_bytes()[..])
            .bind(stream_kind(stream.kind))
            .bind(i64::from(log.0))
            .bind(i64::try_from(since.0).unwrap_or(i64::MAX))
            .fetch_all(&self.readers)
            .await
            .map_err(failed)?;
        rows.iter()
            .map(|row| {
                Ok(IdempotencyRecord {
                    principal: Pseudonym::from_bytes(bytes(row, 0)?),
                    key: Digest(bytes(row, 1)?),
                    request: Digest(bytes(row, 2)?),
                    at: Timestamp(unsigned(row, 3)?),
                    answer: row.try_get(4).map_err(failed)?,
                })
            })
            .collect()
    }

    async fn payloads(&self, log: LogNumber, index: u64) -> Result<Vec<(Digest, Vec<u8>)>, JournalError> {
        let keys = key::payloads(log, index)?;
        let rows = sqlx::query("SELECT digest, bytes FROM payload WHERE key BETWEEN ? AND ? ORDER BY key")
            .bind(*keys.start())
            .bind(*keys.end())
            .fetch_all(&self.readers)
            .await
            .map_err(failed)?;
        rows.iter().map(|row| Ok((Digest(bytes(row, 0)?), row.try_get(1).map_err(failed)?))).collect()
    }

    async fn payloads_of(&self, log: LogNumber, range: Range<u64>) -> Result<Vec<HeldPayload>, JournalError> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let (first, last) = (key::payloads(log, range.start)?, key::payloads(log, range.end - 1)?);
        let rows = sqlx::query("SELECT key, digest, bytes FROM payload WHERE key BETWEEN ? AND ? ORDER BY key")
            .bind(*first.start())
            .bind(*last.end())
            .fetch_all(&self.readers)
            .await
            .map_err(failed)?;
        rows.iter()
            .map(|row| {
                Ok(HeldPayload {
                    index: key::index_of_payload(row.try_get(0).map_err(failed)?),
                    digest: Digest(bytes(row, 1)?),
                    bytes: row.try_get(2).map_err(failed)?,
                })
            })
            .collect()
    }

    async fn blob(&self, log: LogNumber, digest: &Digest) -> Result<Option<Vec<u8>>, JournalError> {
        sqlx::query_scalar("SELECT bytes FROM blob WHERE log = ? AND digest = ?")
            .bind(i64::from(log.0))
            .bind(&digest.0[..])
            .fetch_optional(&self.readers)
            .await
            .map_err(failed)
    }

    async fn blobs(&self, log: LogNumber, after: Option<Digest>, limit: usize) -> Result<Vec<Digest>, JournalError> {
        let after = after.map_or(Vec::new(), |digest| digest.0.to_vec());
        let rows = sqlx::query("SELECT digest FROM blob WHERE log = ? AND digest > ? ORDER BY digest LIMIT ?")
            .bind(i64::from(log.0))
            .bind(after)
            .bind(limited(limit))
            .fetch_all(&self.readers)
            .await
            .map_err(failed)?;
        rows.iter().map(|row| Ok(Digest(bytes(row, 0)?))).collect()
    }

    async fn tile(&self, log: LogNumber, level: u8, index: u64) -> Result<Option<Vec<u8>>, JournalError> {
        sqlx::query_scalar("SELECT hashes FROM tile WHERE key = ?")
            .bind(key::tile(log, level, index)?)
            .fetch_optional(&self.readers)
            .await
            .map_err(failed)
    }

    async fn tile_roots(&self, log: LogNumber, level: u8, range: Range<u64>) -> Result<Vec<Hash>, JournalError> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let rows = sqlx::query("SELECT root FROM tile WHERE key BETWEEN ? AND ? ORDER BY key")
            .bind(key::tile(log, level, range.start)?)
            .bind(key::tile(log, level, range.end - 1)?)
            .fetch_all(&self.readers)
            .await
            .map_err(failed)?;
        rows.iter().map(|row| Ok(Hash(bytes(row, 0)?))).collect()
    }

    async fn checkpoint(&self, log: LogNumber, size: u64) -> Result<Option<String>, JournalError> {
        sqlx::query_scalar("SELECT note FROM checkpoint WHERE key = ?")
            .bind(key::entry(log, size)?)
            .fetch_optional(&self.readers)
            .await
            .map_err(failed)
    }

    async fn checkpoint_sizes(&self, log: LogNumber, after: u64, limit: usize) -> Result<Vec<u64>, JournalError> {
        let Some(keys) = key::entries(log, after.saturating_add(1), u64::MAX)? else { return Ok(Vec::new()) };
        let sizes: Vec<i64> =
            sqlx::query_scalar("SELECT key FROM checkpoint WHERE key BETWEEN ? AND ? ORDER BY key LIMIT ?")
                .bind(*keys.start())
                .bind(*keys.end())
                .bind(limited(limit))
                .fetch_all(&self.readers)
                .await
                .map_err(failed)?;
        Ok(sizes.into_iter().map(key::index).collect())
    }

    async fn stage(&self, batch: &Batch) -> Result<Vec<Vec<u8>>, JournalError> {
        self.stage_batch(batch).await
    }

    async fn commit(&self, advances: &[Advance]) -> Result<(), CommitError> {
        self.commit_batch(advances).await
    }

    async fn rollback(&self) -> Result<(), JournalError> {
        self.roll_back().await
    }

    fn free_space(&self) -> Option<u64> {
        self.folder.free_space()
    }

    fn release_reserve(&self) -> bool {
        self.folder.release_reserve()
    }

    fn stats(&self) -> JournalStats {
        JournalStats {
            syncs: self.syncs.load(std::sync::atomic::Ordering::Relaxed),
            wal_bytes: std::fs::metadata(self.folder.wal()).map_or(0, |meta| meta.len()),
            free_bytes: self.folder.free_space(),
            statements: self.statements.load(std::sync::atomic::Ordering::Relaxed),
            reads: self.reads.load(std::sync::atomic::Ordering::Relaxed),
        }
    }

    async fn close(&self) -> Result<(), JournalError> {
        // The checkpointer first, then the readers: the last connection to go is the one that empties the log.
        if let Some(checkpointer) = &self.checkpointer {
            checkpointer.close();
        }
        self.readers.close().await;
        if let Some(writer) = self.writer.lock().await.take() {
            writer.close().map_err(|error| journal_error("was closed", error))?;
        }
        self.folder.leave();
        Ok(())
    }
}

#[async_trait]
impl Views for SqlJournal {
    async fn get(&self, org: OrgId, table: &str, key: &[u8]) -> Result<Option<Vec<u8>>, JournalError> {
        let (Some(log), Some(name)) = (self.org_number(org).await?, self.table_number(table)) else {
            return Ok(None);
        };
        sqlx::query_scalar("SELECT columns FROM view WHERE log = ? AND name = ? AND key = ?")
            .bind(i64::from(log.0))
            .bind(name)
            .bind(key)
            .fetch_optional(&self.readers)
            .await
            .map_err(failed)
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
        let (Some(log), Some(name)) = (self.org_number(org).await?, self.table_number(table)) else {
            return Ok(Vec::new());
        };
        // Half-open interval of keys; no upper end where the prefix is empty or all ones.
        let end = successor(prefix);
        let sql = match (reverse, after.is_some(), end.is_some()) {
            (false, false, false) => scan_sql!(">= ?", "", "ASC"),
            (false, false, true) => scan_sql!(">= ?", "AND key < ?", "ASC"),
            (false, true, false) => scan_sql!("> ?", "", "ASC"),
            (false, true, true) => scan_sql!("> ?", "AND key < ?", "ASC"),
            (true, false, false) => scan_sql!(">= ?", "", "DESC"),
            (true, false, true) | (true, true, _) => scan_sql!(">= ?", "AND key < ?", "DESC"),
        };
        let mut query = sqlx::query(sql).bind(i64::from(log.0)).bind(name);
        query = match (reverse, after) {
            (false, Some(after)) => query.bind(after.max(prefix)),
            _ => query.bind(prefix),
        };
        let upper = match (reverse, after, &end) {
            (true, Some(after), Some(end)) => Some(after.min(end)),
            (true, Some(after), None) => Some(after),
            (_, _, end) => end.as_deref(),
        };
        if let Some(upper) = upper {
            query = query.bind(upper);
        }
        let rows = query.bind(limited(limit)).fetch_all(&self.readers).await.map_err(failed)?;
        rows.iter()
            .map(|row| Ok(ViewRow { key: row.try_get(0).map_err(failed)?, columns: row.try_get(1).map_err(failed)? }))
            .collect()
    }
}

macro_rules! scan_sql {
    ($from:literal, $to:literal, $order:literal) => {
        concat!(
            "SELECT key, columns FROM view WHERE log = ? AND name = ? AND key ",
            $from,
            " ",
            $to,
            " ORDER BY key ",
            $order,
            " LIMIT ?"
        )
    };
}
use scan_sql;

/// The least key that is greater than every key with this prefix; none if there is none.
fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut next = prefix.to_vec();
    while let Some(last) = next.pop() {
        if last < u8::MAX {
            next.push(last + 1);
            return Some(next);
        }
    }
    None
}
