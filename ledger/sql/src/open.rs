//! Opens a data folder: lock, checks, schema, write-ahead log to its final place, connections, checkpointer.
//!
//! Nothing is appended before all of it has succeeded. Absent: verification of the logs inside (`ledger/log`).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use sqlx::ConnectOptions as _;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions};

use countersign_gateway_model::OrgId;
use countersign_ledger_log::LogNumber;

use crate::error::SqlError;
use crate::folder::Folder;
use crate::schema::{APPLICATION_ID, SCHEMA_VERSION, STEPS};
use crate::wal::Checkpointer;
use crate::write::{COMPILED, Writer};

/// The oldest SQLite without the WAL-reset defect, in which a checkpoint could lose committed pages.
const MINIMUM_SQLITE: &str = "3.51.3";

/// How long a statement waits for another process that holds the database.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How a data folder is used.
#[derive(Clone, Debug)]
pub struct SqlOptions {
    /// The folder. Made if it is not there.
    pub folder: PathBuf,
    /// Room kept for entries that must not be lost when the disk is full, in bytes.
    pub reserve: u64,
    /// Connections for reads.
    pub readers: u32,
    /// Most pages of the database, in pages of 4 KiB; none: as many as fit the disk. A quota for small devices.
    pub max_pages: Option<u32>,
    /// Bytes written by appends after which the write-ahead log is copied into the database.
    pub checkpoint_after: u64,
}

impl SqlOptions {
    /// The defaults of an embedded gateway.
    pub fn new(folder: impl AsRef<Path>) -> Self {
        Self {
            folder: folder.as_ref().to_owned(),
            reserve: 16 << 20,
            readers: 4,
            max_pages: None,
            checkpoint_after: 8 << 20,
        }
    }
}

/// The journal of one data folder.
pub struct SqlJournal {
    pub(crate) writer: tokio::sync::Mutex<Option<Writer>>,
    pub(crate) readers: SqlitePool,
    pub(crate) folder: Folder,
    /// None where the folder is only read.
    pub(crate) checkpointer: Option<Checkpointer>,
    pub(crate) syncs: Arc<AtomicU64>,
    pub(crate) statements: Arc<AtomicU64>,
    /// How often a reader was taken from the pool.
    pub(crate) reads: Arc<AtomicU64>,
    pub(crate) names: Names,
}

impl std::fmt::Debug for SqlJournal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqlJournal").field("folder", &self.folder).finish_non_exhaustive()
    }
}

/// Numbers that stand for organizations and table names: read once, for they never change.
#[derive(Default)]
pub(crate) struct Names {
    pub(crate) orgs: RwLock<HashMap<OrgId, LogNumber>>,
    pub(crate) tables: RwLock<HashMap<String, i64>>,
}

impl SqlJournal {
    /// Opens a data folder, or makes one. Blocks the thread for as long as the disk takes: nothing runs before the ledger.
    ///
    /// # Errors
    /// See [`SqlError`]; in every case the folder is as it was, but for what SQLite itself brings to its final place.
    pub async fn open(options: SqlOptions) -> Result<Self, SqlError> {
        let folder = Folder::take(&options.folder)?;
        let path = folder.database();
        let failed = |source| database(&path, source);
        let mut conn = connect(&path, OpenFlags::SQLITE_OPEN_CREATE).map_err(failed)?;
        check_sqlite(&conn, &path)?;
        migrate(&mut conn, &path)?;
        if let Some(pages) = options.max_pages {
            conn.pragma_update(None, "max_page_count", pages).map_err(failed)?;
        }
        // A sync that failed before the last crash may have left pages in the kernel's memory that it holds for written.
        // Writing all of them again and syncing is what makes the tail that is read next the tail that is on the disk.
        conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(failed)?;
        folder.sync(&path)?;
        // From here on a process that still writes with an older epoch fails at its next commit. Not with RETURNING: its
        // row comes before its commit, whose error would go unheard.
        conn.execute("UPDATE lease SET epoch = epoch + 1", []).map_err(failed)?;
        let epoch = conn.query_row("SELECT epoch FROM lease", [], |row| row.get(0)).map_err(failed)?;
        let (statements, reads) = (Arc::default(), Arc::default());
        let readers = open_readers(&path, options.readers, &reads).await?;
        let maintenance = connect(&path, OpenFlags::empty()).map_err(failed)?;
        if options.reserve > 0 {
            folder.keep_reserve(options.reserve);
        }
        let syncs = Arc::new(AtomicU64::new(0));
        let checkpointer = Checkpointer::start(maintenance, Arc::clone(&syncs), options.checkpoint_after)
            .map_err(|source| SqlError::Io { doing: "served by a checkpointer", path: path.clone(), source })?;
        let journal = Self {
            writer: tokio::sync::Mutex::new(Some(Writer::new(conn, epoch, Arc::clone(&statements)))),
            readers,
            folder,
            checkpointer: Some(checkpointer),
            syncs,
            statements,
            reads,
            names: Names::default(),
        };
        journal.load_names().await.map_err(|source| database(&path, source))?;
        Ok(journal)
    }

    /// Opens a data folder to read it, while a gateway may be writing to it: for checks, exports and packs.
    ///
    /// # Errors
    /// [`SqlError::Newer`], [`SqlError::Foreign`] for a folder without a ledger of this version, or what SQLite says.
    pub async fn inspect(folder: &Path) -> Result<Self, SqlError> {
        let folder = Folder::look(folder);
        let path = folder.database();
        let failed = |source| database(&path, source);
        let conn = connect(&path, OpenFlags::empty()).map_err(failed)?;
        check_sqlite(&conn, &path)?;
        let (id, found) = versions(&conn).map_err(failed)?;
        conn.close().map_err(|(_, source)| failed(source))?;
        if id != APPLICATION_ID || found < SCHEMA_VERSION {
            return Err(SqlError::Foreign(path));
        }
        if found > SCHEMA_VERSION {
            return Err(SqlError::Newer { found, supported: SCHEMA_VERSION });
        }
        let reads = Arc::default();
        let journal = Self {
            writer: tokio::sync::Mutex::new(None),
            readers: open_readers(&path, 2, &reads).await?,
            folder,
            checkpointer: None,
            syncs: Arc::default(),
            statements: Arc::default(),
            reads,
            names: Names::default(),
        };
        journal.load_names().await.map_err(|source| database(&path, source))?;
        Ok(journal)
    }

    async fn load_names(&self) -> Result<(), sqlx::Error> {
        let tables: Vec<(String, i64)> =
            sqlx::query_as("SELECT name, number FROM view_name").fetch_all(&self.readers).await?;
        if let Ok(mut held) = self.names.tables.write() {
            held.extend(tables);
        }
        Ok(())
    }

    pub(crate) fn synced(&self, times: u64) {
        self.syncs.fetch_add(times, Ordering::Relaxed);
    }
}

fn database(path: &Path, source: impl std::error::Error + Send + Sync + 'static) -> SqlError {
    SqlError::Database { path: path.to_owned(), source: Box::new(source) }
}

/// A connection that may write. `more`: to make the database if it is not there.
fn connect(path: &Path, more: OpenFlags) -> Result<Connection, rusqlite::Error> {
    // One thread at a time has it, so SQLite need not lock it.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | more;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    conn.set_prepared_statement_cache_capacity(COMPILED);
    // In this order: the size of a page is fixed once there is one. The checkpoint inside COMMIT is what makes a commit
    // wait for milliseconds: the checkpointer does it. Without `temp_store` SQLite makes and deletes a file for every
    // statement that could fail half-way. What is erased is overwritten, not only unlinked.
    conn.execute_batch(
        "PRAGMA page_size = 4096; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = OFF; \
         PRAGMA wal_autocheckpoint = 0; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -32768; \
         PRAGMA secure_delete = ON;",
    )?;
    Ok(conn)
}

/// Reads go through a pool: they come from many tasks, and none of them may hold a runtime's thread up.
async fn open_readers(path: &Path, count: u32, reads: &Arc<AtomicU64>) -> Result<SqlitePool, SqlError> {
    let connect = SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(BUSY_TIMEOUT)
        .foreign_keys(false)
        .pragma("query_only", "ON")
        .pragma("temp_store", "MEMORY")
        .pragma("cache_size", "-8192")
        // The last one to close may be one of these: the checkpointer is not to be overtaken.
        .pragma("wal_autocheckpoint", "0")
        .statement_cache_capacity(COMPILED)
        .row_buffer_size(64)
        .thread_name(|id| format!("ledger-sql-{id}"))
        .disable_statement_logging();
    let reads = Arc::clone(reads);
    let options = SqlitePoolOptions::new().max_connections(count.max(1)).before_acquire(move |_, _| {
        reads.fetch_add(1, Ordering::Relaxed);
        Box::pin(std::future::ready(Ok(true)))
    });
    options.connect_with(connect).await.map_err(|source| database(path, source))
}

impl SqlJournal {
    /// The version of SQLite that keeps the journal, as its own connection says.
    ///
    /// # Errors
    /// [`SqlError::Database`] with what SQLite says.
    pub async fn sqlite_version(&self) -> Result<String, SqlError> {
        let version = sqlx::query_scalar("SELECT sqlite_version()").fetch_one(&self.readers).await;
        version.map_err(|source| SqlError::Database { path: self.folder.database(), source: source.into() })
    }
}

/// Application id and schema version.
fn versions(conn: &Connection) -> Result<(i64, i64), rusqlite::Error> {
    let of = |pragma| conn.pragma_query_value(None, pragma, |row| row.get(0));
    Ok((of("application_id")?, of("user_version")?))
}

/// Refuses an SQLite that can lose data, and settings that did not take.
fn check_sqlite(conn: &Connection, path: &Path) -> Result<(), SqlError> {
    let failed = |source| database(path, source);
    let found = rusqlite::version().to_owned();
    if !new_enough(&found) {
        return Err(SqlError::OldSqlite { found, minimum: MINIMUM_SQLITE });
    }
    let mode: String = conn.pragma_query_value(None, "journal_mode", |row| row.get(0)).map_err(failed)?;
    if mode != "wal" {
        return Err(SqlError::Setting { pragma: "journal_mode", expected: "wal", found: mode });
    }
    let synchronous: i64 = conn.pragma_query_value(None, "synchronous", |row| row.get(0)).map_err(failed)?;
    if synchronous != 2 {
        let found = synchronous.to_string();
        return Err(SqlError::Setting { pragma: "synchronous", expected: "2", found });
    }
    Ok(())
}

/// Brings the tables to this program's version, or refuses those of a newer one.
fn migrate(conn: &mut Connection, path: &Path) -> Result<(), SqlError> {
    let failed = |source| database(path, source);
    let (id, found) = versions(conn).map_err(failed)?;
    let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed)?;
    if id != APPLICATION_ID && (id != 0 || found != 0 || tables != 0) {
        return Err(SqlError::Foreign(path.to_owned()));
    }
    if found > SCHEMA_VERSION {
        return Err(SqlError::Newer { found, supported: SCHEMA_VERSION });
    }
    for (version, step) in (0..).zip(STEPS) {
        if version < found {
            continue;
        }
        // One transaction a step. Crash inside: the old version stands.
        let transaction = conn.transaction().map_err(failed)?;
        transaction.execute_batch(step).map_err(failed)?;
        let marks = format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {};", version + 1);
        transaction.execute_batch(&marks).map_err(failed)?;
        transaction.commit().map_err(failed)?;
    }
    Ok(())
}

/// Whether a version of SQLite is the least that is supported, or a later one.
fn new_enough(found: &str) -> bool {
    let parts = |version: &str| version.split('.').map(|part| part.parse::<u32>().unwrap_or(0)).collect::<Vec<_>>();
    parts(found) >= parts(MINIMUM_SQLITE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_sqlite_before_the_least_supported_one_is_told_apart() {
        let minimum: Vec<u32> = MINIMUM_SQLITE.split('.').map(|part| part.parse().unwrap()).collect();
        let [major, minor, patch] = <[u32; 3]>::try_from(minimum).unwrap();
        for older in
            [format!("{major}.{minor}.{}", patch - 1), format!("{major}.{}.99", minor - 1), "2.99.99".to_owned()]
        {
            assert!(!new_enough(&older), "{older}");
        }
        for newer in [MINIMUM_SQLITE.to_owned(), format!("{major}.{}.0", minor + 1), format!("{}.0.0", major + 1)] {
            assert!(new_enough(&newer), "{newer}");
        }
        // As numbers, not as text; and what is no version is not new enough.
        assert!(new_enough(&format!("{major}.{}.0", minor + 100)));
        assert!(!new_enough("") && !new_enough("unknown"));
        assert!(new_enough(rusqlite::version()), "the one that this program brings along");
    }
}
