//! A batch on its way to the writer: who holds it, what is undone after an error, what the write-ahead log is told.
//!
//! Absent: the statements (`write`), the copying of the log (`wal`), opening (`open`).

use countersign_ledger_log::journal::{Advance, Batch};
use countersign_ledger_log::{CommitError, JournalError};

use crate::open::SqlJournal;
use crate::write::Writer;

impl SqlJournal {
    pub(crate) async fn stage_batch(&self, batch: &Batch) -> Result<Vec<Vec<u8>>, JournalError> {
        let mut held = self.writer.lock().await;
        let writer = held.as_mut().ok_or_else(closed)?;
        if let Some(checkpointer) = &self.checkpointer {
            checkpointer.settle(writer.connection())?;
        }
        let names = self.table_numbers(writer, batch)?;
        match writer.stage(batch, &names) {
            Ok(stored) => {
                if let Some(checkpointer) = &self.checkpointer {
                    checkpointer.wrote(written(batch));
                }
                Ok(stored)
            }
            Err(error) => {
                // Crash before the rollback: SQLite forgets what was not committed.
                writer.rollback()?;
                Err(error)
            }
        }
    }

    pub(crate) async fn commit_batch(&self, advances: &[Advance]) -> Result<(), CommitError> {
        let mut held = self.writer.lock().await;
        let writer = held.as_mut().ok_or_else(|| CommitError::RolledBack(closed()))?;
        match writer.commit(advances) {
            Ok(()) => {
                self.synced(1);
                Ok(())
            }
            Err(CommitError::RolledBack(error)) => match writer.rollback() {
                Ok(()) => Err(CommitError::RolledBack(error)),
                Err(error) => Err(CommitError::Unknown(error)),
            },
            Err(unknown) => Err(unknown),
        }
    }

    pub(crate) async fn roll_back(&self) -> Result<(), JournalError> {
        let mut held = self.writer.lock().await;
        held.as_mut().ok_or_else(closed)?.rollback()
    }

    /// The numbers of the batch's tables, in the order of its rows; a name that is new gets one.
    fn table_numbers(&self, writer: &mut Writer, batch: &Batch) -> Result<Vec<i64>, JournalError> {
        let mut numbers = Vec::with_capacity(batch.rows.len());
        for new in &batch.rows {
            let known = self.names.tables.read().ok().and_then(|held| held.get(new.row.table).copied());
            if let Some(number) = known {
                numbers.push(number);
                continue;
            }
            let number = writer.table_number(new.row.table)?;
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
