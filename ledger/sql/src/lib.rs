//! `Journal` and `Views` of the ledger on SQLite: the whole embedded store is one folder.
//!
//! The committer writes through rusqlite, on its own thread; reads go through sqlx, which keeps them off the runtime's
//! threads. Both are linked to the one SQLite, so their versions move together.
//!
//! [`SqlJournal::open`] takes the folder's lock, refuses what it must not touch (a newer schema, a network file system, an
//! old SQLite), brings the write-ahead log to its final place, and starts the checkpointer. Absent: what may be appended
//! and what is signed (`ledger/log`); anything that is not in the ledger's transaction.
//!
//! Read next: `schema` (the tables and why they are keyed so), `write` (one batch, few statements), `folder`.
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "tests"))]

mod error;
mod folder;
mod key;
mod open;
mod read;
mod schema;
mod stage;
mod wal;
mod write;

pub use error::SqlError;
pub use open::{SqlJournal, SqlOptions};
pub use schema::SCHEMA_VERSION;
