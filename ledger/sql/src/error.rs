//! Why a folder is not opened, and how SQLite's result codes become the journal's errors.

use std::path::PathBuf;

use thiserror::Error;

use countersign_ledger_log::JournalError;

/// Why a data folder cannot be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SqlError {
    /// Another process has it.
    #[error("the data folder `{}` is in use by another process; only one gateway may write to it: stop the other one", .0.display())]
    Locked(PathBuf),
    /// A newer program wrote it.
    #[error("the data folder is of schema version {found}, this program knows {supported}; use the newer program")]
    Newer {
        /// Version found.
        found: i64,
        /// Newest version known.
        supported: i64,
    },
    /// A database of something else.
    #[error("`{}` is not a ledger database; choose another data folder", .0.display())]
    Foreign(PathBuf),
    /// On a network file system, where locks and syncs do not hold what they promise.
    #[error("the data folder `{}` is on a network file system ({kind}), where SQLite cannot be durable; use a local disk", path.display())]
    Network {
        /// The folder.
        path: PathBuf,
        /// Its file system.
        kind: &'static str,
    },
    /// An SQLite that can lose data.
    #[error("SQLite {found} is older than {minimum}, which fixed a loss of data in WAL mode; build with a newer one")]
    OldSqlite {
        /// Version linked.
        found: String,
        /// Oldest version accepted.
        minimum: &'static str,
    },
    /// SQLite did not take a setting that durability rests on.
    #[error("SQLite answered `{found}` where `PRAGMA {pragma}` must be `{expected}`; the folder cannot be used safely")]
    Setting {
        /// Which.
        pragma: &'static str,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// The file system refused.
    #[error("`{}` cannot be {doing}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// SQLite refused.
    #[error("the database `{}` cannot be opened", path.display())]
    Database {
        /// The database.
        path: PathBuf,
        /// What SQLite says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl SqlError {
    /// Stable name of the problem, for `openapi/problems/<code>.md`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Locked(_) => "folder-in-use",
            Self::Newer { .. } => "folder-newer",
            Self::Foreign(_) => "folder-foreign",
            Self::Network { .. } => "folder-network",
            Self::OldSqlite { .. } | Self::Setting { .. } => "database-unsafe",
            Self::Io { .. } | Self::Database { .. } => "folder-unusable",
        }
    }
}

/// Primary result codes of SQLite (sqlite.org/rescode.html): the low byte of an extended one.
const BUSY: u32 = 5;
const LOCKED: u32 = 6;
const FULL: u32 = 13;
const CONSTRAINT: u32 = 19;

/// An error of SQLite, whichever library it came through.
pub(crate) trait Failure: std::error::Error + Send + Sync + Sized + 'static {
    /// SQLite's extended result code.
    fn code(&self) -> Option<u32>;

    fn primary(&self) -> Option<u32> {
        self.code().map(|code| code & 0xff)
    }

    /// A constraint did not hold: the caller knows which one that can be.
    fn is_constraint(&self) -> bool {
        self.primary() == Some(CONSTRAINT)
    }

    /// It may pass by itself: nothing is wrong with the disk but that it is busy or full.
    fn is_passing(&self) -> bool {
        matches!(self.primary(), Some(BUSY | LOCKED | FULL))
    }
}

impl Failure for sqlx::Error {
    fn code(&self) -> Option<u32> {
        self.as_database_error()?.code()?.parse().ok()
    }
}

impl Failure for rusqlite::Error {
    fn code(&self) -> Option<u32> {
        u32::try_from(self.sqlite_error()?.extended_code).ok()
    }
}

/// What the journal's callers are told.
pub(crate) fn journal_error(doing: &'static str, error: impl Failure) -> JournalError {
    match error.primary() {
        Some(BUSY | LOCKED) => JournalError::Busy,
        Some(FULL) => JournalError::Full,
        _ => JournalError::Backend { doing, source: Box::new(error) },
    }
}
