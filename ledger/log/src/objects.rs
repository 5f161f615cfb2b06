//! The third door: immutable bytes by name. Full tiles, entry bundles and checkpoints go through it.
//!
//! A name is given bytes once; the same bytes again are welcome, other bytes are refused and told of. Absent: listing and
//! deleting. Implementations: `files` (a folder), `ledger/s3`.

use async_trait::async_trait;
use thiserror::Error;

/// Why an object could not be put or read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ObjectError {
    /// The name is there with other bytes: somebody has changed it, or there are two histories.
    #[error("object `{0}` is there already with other bytes; keep it as evidence")]
    Different(String),
    /// Not a name that an object may have.
    #[error("`{0}` is not an object name: relative path of letters, digits and `._-`, without `..`")]
    Name(String),
    /// The store failed.
    #[error("object `{name}` could not be {doing}")]
    Store {
        /// Which.
        name: String,
        /// What was being done.
        doing: &'static str,
        /// What the store says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What a put did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The object is new, and durable.
    Stored,
    /// It was there with the same bytes.
    Unchanged,
}

/// A store of immutable objects.
#[async_trait]
pub trait Objects: Send + Sync + 'static {
    /// Puts an object if its name is free; durable when this returns.
    async fn put(&self, name: &str, bytes: &[u8]) -> Result<Put, ObjectError>;

    /// Puts the one object that may be replaced: a log's newest checkpoint. Durable when this returns.
    async fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), ObjectError>;

    /// Reads an object.
    async fn get(&self, name: &str) -> Result<Option<Vec<u8>>, ObjectError>;
}

/// Checks an object name: it must mean the same as a path on every store.
pub(crate) fn check_name(name: &str) -> Result<(), ObjectError> {
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    };
    if name.len() <= 512 && name.split('/').all(part) {
        Ok(())
    } else {
        Err(ObjectError::Name(name.chars().take(128).collect()))
    }
}
