//! Opens a data folder: lock, checks, schema, write-ahead log to its final place, connections, checkpointer.
//!
//! Nothing is appended before all of it has succeeded. Absent: verification of the logs inside (`ledger/log`).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _};

use countersign_gateway_model::OrgId;
use countersign_ledger_log::LogNumber;

use crate::error::SqlError;
use crate::folder::Folder;
use crate::schema::{APPLICATION_ID, SCHEMA_VERSION, STEPS};
use crate::wal::Checkpointer;
use crate::write::Writer;

/// The oldest SQLite without the WAL-reset defect, in which a checkpoint could lose committed pages.
const MINIMUM_SQLITE: &str = "3.51.3";

/// How a data folder is used.
#[derive(Clone, Debug)]
pub struct SqlOptions {
    /// The folder. Made if it is not there.
    pub folder: PathBuf,
    /// Room kept for entries that must not be lost when the disk is full, in bytes.
    pub reserve: u64,
    /// Connections for reads.
    pub readers: u32,
    /// Most pages of the database, in pages of 8 KiB; none: as many as fit the disk. A quota for small devices.
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
    /// Opens a data folder, or makes one.
    ///
    /// # Errors
    /// See [`SqlError`]; in every case the folder is as it was, but for what SQLite itself brings to its final place.
    pub async fn open(options: SqlOptions) -> Result<Self, SqlError> {
        let folder = Folder::take(&options.folder)?;
        let path = folder.database();
        let failed = |source| SqlError::Database { path: path.clone(), source };
        let connect = connect_options(&path).create_if_missing(true);
        let mut conn = connect.connect().await.map_err(failed)?;
        check_sqlite(&mut conn, &path).await?;
        migrate(&mut conn, &path).await?;
        if let Some(pages) = options.max_pages {
            let pragma = AssertSqlSafe(format!("PRAGMA max_page_count = {pages}"));
            conn.execute(pragma).await.map_err(failed)?;
        }
        // A sync that failed before the last crash may have left pages in the kernel's memory that it holds for written.
        // Writing all of them again and syncing is what makes the tail that is read next the tail that is on the disk.
        conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").await.map_err(failed)?;
        folder.sync(&path)?;
        // From here on a process that still writes with an older epoch fails at its next commit.
        // Not with RETURNING: its row comes before its commit, whose error would go unheard.
        conn.execute("UPDATE lease SET epoch = epoch + 1").await.map_err(failed)?;
        let epoch: i64 = sqlx::query_scalar("SELECT epoch FROM lease").fetch_one(&mut conn).await.map_err(failed)?;
        let readers = open_readers(connect.clone(), options.readers).await.map_err(failed)?;
        let maintenance = connect.clone().connect().await.map_err(failed)?;
        if options.reserve > 0 {
            folder.keep_reserve(options.reserve);
        }
        let syncs = Arc::new(AtomicU64::new(0));
        let checkpointer = Checkpointer::start(maintenance, Arc::clone(&syncs), options.checkpoint_after)
            .map_err(|source| SqlError::Io { doing: "served by a checkpointer", path: path.clone(), source })?;
        let names = Names::default();
        let journal = Self {
            writer: tokio::sync::Mutex::new(Some(Writer::new(conn, epoch))),
            readers,
            folder,
            checkpointer: Some(checkpointer),
            syncs,
            names,
        };
        journal.load_names().await.map_err(failed)?;
        Ok(journal)
    }

    /// Opens a data folder to read it, while a gateway may be writing to it: for checks, exports and packs.
    ///
    /// # Errors
    /// [`SqlError::Newer`], [`SqlError::Foreign`] for a folder without a ledger of this version, or what SQLite says.
    pub async fn inspect(folder: &Path) -> Result<Self, SqlError> {
        let folder = Folder::look(folder);
        let path = folder.database();
        let failed = |source| SqlError::Database { path: path.clone(), source };
        let connect = connect_options(&path);
        let mut conn = connect.connect().await.map_err(failed)?;
        check_sqlite(&mut conn, &path).await?;
        let (id, found) = versions(&mut conn).await.map_err(failed)?;
        conn.close().await.map_err(failed)?;
        if id != APPLICATION_ID || found < SCHEMA_VERSION {
            return Err(SqlError::Foreign(path));
        }
        if found > SCHEMA_VERSION {
            return Err(SqlError::Newer { found, supported: SCHEMA_VERSION });
        }
        let journal = Self {
            writer: tokio::sync::Mutex::new(None),
            readers: open_readers(connect, 2).await.map_err(failed)?,
            folder,
            checkpointer: None,
            syncs: Arc::default(),
            names: Names::default(),
        };
        journal.load_names().await.map_err(failed)?;
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

fn connect_options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .page_size(8192)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(Duration::from_secs(5))
        .foreign_keys(false)
        // The checkpoint inside COMMIT is what makes a commit wait for milliseconds: the checkpointer does it.
        .pragma("wal_autocheckpoint", "0")
        // Or SQLite makes and deletes a file for every statement that could fail half-way.
        .pragma("temp_store", "MEMORY")
        .pragma("cache_size", "-32768")
        // What is erased is overwritten, not only unlinked.
        .pragma("secure_delete", "ON")
        .statement_cache_capacity(256)
        .command_buffer_size(64)
        .row_buffer_size(8192)
        .thread_name(|id| format!("ledger-sql-{id}"))
        .disable_statement_logging()
}

async fn open_readers(connect: SqliteConnectOptions, count: u32) -> Result<SqlitePool, sqlx::Error> {
    let options = SqlitePoolOptions::new().max_connections(count.max(1));
    options.connect_with(connect.pragma("query_only", "ON").pragma("cache_size", "-8192").row_buffer_size(64)).await
}

/// Application id and schema version.
async fn versions(conn: &mut SqliteConnection) -> Result<(i64, i64), sqlx::Error> {
    let id = sqlx::query_scalar("PRAGMA application_id").fetch_one(&mut *conn).await?;
    Ok((id, sqlx::query_scalar("PRAGMA user_version").fetch_one(conn).await?))
}

/// Refuses an SQLite that can lose data, and settings that did not take.
async fn check_sqlite(conn: &mut SqliteConnection, path: &Path) -> Result<(), SqlError> {
    let failed = |source| SqlError::Database { path: path.to_owned(), source };
    let found: String = sqlx::query_scalar("SELECT sqlite_version()").fetch_one(&mut *conn).await.map_err(failed)?;
    let parts = |version: &str| version.split('.').map(|part| part.parse::<u32>().unwrap_or(0)).collect::<Vec<_>>();
    if parts(&found) < parts(MINIMUM_SQLITE) {
        return Err(SqlError::OldSqlite { found, minimum: MINIMUM_SQLITE });
    }
    let mode: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut *conn).await.map_err(failed)?;
    if mode != "wal" {
        return Err(SqlError::Setting { pragma: "journal_mode", expected: "wal", found: mode });
    }
    let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(&mut *conn).await.map_err(failed)?;
    if synchronous != 2 {
        let found = synchronous.to_string();
        return Err(SqlError::Setting { pragma: "synchronous", expected: "2", found });
    }
    Ok(())
}

/// Brings the tables to this program's version, or refuses those of a newer one.
async fn migrate(conn: &mut SqliteConnection, path: &Path) -> Result<(), SqlError> {
    let failed = |source| SqlError::Database { path: path.to_owned(), source };
    let (id, found) = versions(conn).await.map_err(failed)?;
    let tables: i64 =
        sqlx::query_scalar("SELECT count(*) FROM sqlite_schema").fetch_one(&mut *conn).await.map_err(failed)?;
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
        let mut transaction = conn.begin().await.map_err(failed)?;
        transaction.execute(step).await.map_err(failed)?;
        let marks = format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {};", version + 1);
        transaction.execute(AssertSqlSafe(marks)).await.map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
    }
    Ok(())
}
