//! Keeps the write-ahead log short, off the way of a commit.
//!
//! A thread of its own copies the log into the database (`PASSIVE`: it waits for nobody). Under load new frames come
//! while it copies, so the log would never be empty and would grow for ever; therefore it then asks the writer to copy
//! the short rest between two commits, after which the next commit begins the log anew.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use sqlx::Connection as _;
use sqlx::sqlite::SqliteConnection;
use tokio::sync::Notify;

pub(crate) struct Checkpointer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    written: AtomicU64,
    /// Bytes written by appends after which the log is copied. The log itself is some times as long: it holds whole pages.
    copy_after: u64,
    wake: Notify,
    closed: AtomicBool,
    /// The long part is copied: a short copy between two commits would let the log begin anew.
    settle: AtomicBool,
    syncs: Arc<AtomicU64>,
}

impl Checkpointer {
    pub(crate) fn start(mut conn: SqliteConnection, syncs: Arc<AtomicU64>, copy_after: u64) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            written: AtomicU64::new(0),
            copy_after: copy_after.max(1),
            wake: Notify::new(),
            closed: AtomicBool::new(false),
            settle: AtomicBool::new(false),
            syncs,
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let thread = std::thread::Builder::new().name("ledger-checkpoint".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || {
                runtime.block_on(async {
                    loop {
                        shared.wake.notified().await;
                        if shared.closed.load(Ordering::Acquire) {
                            break;
                        }
                        shared.written.store(0, Ordering::Relaxed);
                        shared.copy(&mut conn).await;
                        shared.settle.store(true, Ordering::Release);
                    }
                    if let Err(error) = conn.close().await {
                        tracing::warn!(%error, "the checkpointer's connection did not close");
                    }
                });
            }
        })?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Notes that a commit wrote about `bytes`.
    pub(crate) fn wrote(&self, bytes: u64) {
        let written = self.shared.written.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let after = self.shared.copy_after;
        if written >= after && written - bytes < after {
            self.shared.wake.notify_one();
        }
    }

    /// Between two commits: copies the short rest, if it is time to.
    pub(crate) async fn settle(&self, writer: &mut SqliteConnection) {
        if self.shared.settle.swap(false, Ordering::AcqRel) {
            self.shared.copy(writer).await;
        }
    }

    /// Ends the thread.
    pub(crate) fn close(&self) {
        self.shared.closed.store(true, Ordering::Release);
        self.shared.wake.notify_one();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the checkpointer has panicked");
        }
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Release);
        self.shared.wake.notify_one();
    }
}

impl Shared {
    /// A copy that fails loses nothing: the frames stay in the log, and the next copy takes them.
    async fn copy(&self, conn: &mut SqliteConnection) {
        match sqlx::query("PRAGMA wal_checkpoint(PASSIVE)").execute(conn).await {
            Ok(_) => {
                // The log before the copy, the database after it.
                self.syncs.fetch_add(2, Ordering::Relaxed);
            }
            Err(error) => tracing::warn!(%error, "the write-ahead log was not copied"),
        }
    }
}
