//! Where signing keys and random bytes come from: the program fills both traits.
//!
//! Absent: files, vaults, hardware. Read next: `logs`, which asks for a log's keys once, when it loads the log.

use std::error::Error as StdError;

use ed25519_dalek::SigningKey;
use thiserror::Error;

use countersign_gateway_model::LogId;
use countersign_ledger_entry::key::VKey;

/// Why a key could not be given.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The key ring has no key for this log.
    #[error("the key ring has no {what} for `{log}`; restore the key folder that belongs to this data folder")]
    Unknown {
        /// Which key.
        what: &'static str,
        /// Of which log.
        log: LogId,
    },
    /// The key ring cannot be read.
    #[error("the key ring cannot be read")]
    Source(#[source] Box<dyn StdError + Send + Sync>),
}

/// The keys that this installation was configured with.
pub trait KeyRing: Send + Sync + 'static {
    /// The root key that is trusted for this log. It is what everything else is checked against.
    fn root(&self, log: LogId) -> Result<VKey, KeyError>;

    /// The key that signs this log's checkpoints and certifies this gateway's keys in it.
    fn log_key(&self, log: LogId) -> Result<SigningKey, KeyError>;
}

/// A source of random bytes, fit for keys.
pub trait Entropy: Send + Sync + 'static {
    /// 32 bytes that no one can guess.
    fn secret(&self) -> Result<[u8; 32], Box<dyn StdError + Send + Sync>>;
}

impl<F> Entropy for F
where
    F: Fn() -> Result<[u8; 32], Box<dyn StdError + Send + Sync>> + Send + Sync + 'static,
{
    fn secret(&self) -> Result<[u8; 32], Box<dyn StdError + Send + Sync>> {
        self()
    }
}
