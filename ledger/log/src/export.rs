//! Copies a log into a store of objects, as a tlog-tiles log that other people's tools read.
//!
//! Below a prefix: `checkpoint`, `tile/<L>/<N>`, `tile/entries/<N>`, each partial one at the exported size. Full tiles and
//! bundles are immutable and only put once; the checkpoint comes last, so that whoever reads it finds what it covers.
//! Absent: payloads, which are not public with the log.

use countersign_ledger_merkle::{bundles_between, tiles_between};

use crate::error::LogError;
use crate::logs::LogHandle;
use crate::objects::{ObjectError, Objects, Put};

/// Why a log was not exported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The store refused.
    #[error(transparent)]
    Object(#[from] ObjectError),
}

/// What an export did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Exported {
    /// Size of the exported checkpoint.
    pub size: u64,
    /// Objects that are new.
    pub stored: u64,
    /// Objects that were there already.
    pub unchanged: u64,
}

/// Exports the log as it is now. `from` is the size of an export that is complete already, 0 for none: what it covers is
/// not put again.
///
/// # Errors
/// [`ExportError`]; an export that failed can be run again.
pub async fn export(log: &LogHandle, objects: &dyn Objects, prefix: &str, from: u64) -> Result<Exported, ExportError> {
    let checkpoint = log.checkpoint();
    let size = checkpoint.checkpoint().size;
    let mut exported = Exported { size, ..Exported::default() };
    let name = |path: String| if prefix.is_empty() { path } else { format!("{prefix}/{path}") };
    for tile in tiles_between(from, size) {
        count(&mut exported, objects.put(&name(tile.path()), &log.tile(tile).await?).await?);
    }
    for bundle in bundles_between(from, size) {
        count(&mut exported, objects.put(&name(bundle.path()), &log.entry_bundle(bundle).await?).await?);
    }
    // Crash before this: the older checkpoint stands, and everything it covers is there.
    objects.replace(&name("checkpoint".to_owned()), checkpoint.note().as_bytes()).await?;
    Ok(exported)
}

fn count(exported: &mut Exported, put: Put) {
    match put {
        Put::Stored => exported.stored += 1,
        Put::Unchanged => exported.unchanged += 1,
    }
}
