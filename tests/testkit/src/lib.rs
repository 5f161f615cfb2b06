//! A real gateway in a test: the program itself, on an empty folder and a free loopback port.
//!
//! Nothing is mocked: the process is the one that users run, the ledger is on disk, the sandbox is real. A test can
//! stop it, kill it in the middle of work, and start it again on the same folder. Absent: what is promised (each test
//! in `tests/suite` owns one promise).

#![expect(clippy::missing_panics_doc, reason = "a test that cannot go on panics with what it saw")]
#![expect(clippy::expect_used, clippy::panic, reason = "for tests only")]
#![expect(clippy::disallowed_methods, reason = "a test waits in real time, and gives a program the search path")]
#![expect(clippy::indexing_slicing, reason = "for tests only: a missing JSON member reads as null")]

mod gateway;
mod policy;
mod tenant;
mod terminal;

pub use gateway::{Answer, Gateway, Options, PASSWORD, countersign, countersign_verify};
pub use policy::{default_snapshot, snapshot_beside_default};
pub use tenant::Tenant;
pub use terminal::Terminal;
