//! Keeps the write-ahead log short, off the way of a commit.
//!
//! A thread of its own copies the log into the database (`PASSIVE`: it waits for nobody). Under load new frames come
//! while it copies, so the log would never be empty and would grow for ever; therefore it then asks the writer to copy
//! the short rest between two commits, after which the next commit begins the log anew.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

use rusqlite::Connection;

use countersign_ledger_log::JournalError;

use crate::error::Failure as _;

pub(crate) struct Checkpointer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the thread is to do next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    Nothing,
    Copy,
    End,
}

struct Shared {
    asked: Mutex<Asked>,
    wake: Condvar,
    written: AtomicU64,
    /// Bytes written by appends after which the log is copied. The log itself is some times as long: it holds whole pages.
    copy_after: u64,
    /// The long part is copied: a short copy between two commits would let the log begin anew.
    settle: AtomicBool,
    /// Why a copy failed: the disk cannot be trusted with the next commit either.
    failed: OnceLock<String>,
    syncs: Arc<AtomicU64>,
}

impl Checkpointer {
    pub(crate) fn start(conn: Connection, syncs: Arc<AtomicU64>, copy_after: u64) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            asked: Mutex::new(Asked::Nothing),
            wake: Condvar::new(),
            written: AtomicU64::new(0),
            copy_after: copy_after.max(1),
            settle: AtomicBool::new(false),
            failed: OnceLock::new(),
            syncs,
        });
        let thread = std::thread::Builder::new().name("ledger-checkpoint".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || {
                while shared.wait() {
                    shared.written.store(0, Ordering::Relaxed);
                    shared.copy(&conn);
                    shared.settle.store(true, Ordering::Release);
                }
                if let Err((_, error)) = conn.close() {
                    tracing::warn!(%error, "the checkpointer's connection did not close");
                }
            }
        })?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Notes that a commit wrote about `bytes`.
    pub(crate) fn wrote(&self, bytes: u64) {
        let written = self.shared.written.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let after = self.shared.copy_after;
        if written >= after && written - bytes < after {
            self.shared.ask(Asked::Copy);
        }
    }

    /// Between two commits: copies the short rest, if it is time to. An error if any copy has failed.
    pub(crate) fn settle(&self, writer: &Connection) -> Result<(), JournalError> {
        if self.shared.settle.swap(false, Ordering::AcqRel) {
            self.shared.copy(writer);
        }
        match self.shared.failed.get() {
            None => Ok(()),
            Some(why) => {
                Err(JournalError::Backend { doing: "copied its write-ahead log", source: why.as_str().into() })
            }
        }
    }

    /// Ends the thread.
    pub(crate) fn close(&self) {
        self.shared.ask(Asked::End);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the checkpointer has panicked");
        }
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.shared.ask(Asked::End);
    }
}

impl Shared {
    fn ask(&self, what: Asked) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        // Who ends does not copy any more.
        if *asked != Asked::End {
            *asked = what;
        }
        self.wake.notify_one();
    }

    /// Waits for something to do. False when the thread is to end.
    fn wait(&self) -> bool {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.wake.wait_while(asked, |asked| *asked == Asked::Nothing);
        let mut asked = waited.unwrap_or_else(PoisonError::into_inner);
        let copy = *asked == Asked::Copy;
        if copy {
            *asked = Asked::Nothing;
        }
        copy
    }

    /// A copy that fails loses nothing, for the frames stay in the log. A full disk or a busy database is tried again; after
    /// any other error nothing more is committed, for a sync that failed once may be told to one of two connections only.
    fn copy(&self, conn: &Connection) {
        match conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())) {
            Ok(()) => {
                // The log before the copy, the database after it.
                self.syncs.fetch_add(2, Ordering::Relaxed);
            }
            Err(error) if error.is_passing() => tracing::warn!(%error, "the write-ahead log was not copied"),
            Err(error) => {
                tracing::error!(%error, "the write-ahead log could not be copied");
                // The first reason stands.
                drop(self.failed.set(error.to_string()));
            }
        }
    }
}
