//! Which evaluations leave an entry, and what waits for the next append that takes them.
//!
//! Absent: asking and appending, which need the organization that this is a part of. Read next: `evaluations`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use tokio::sync::oneshot;

use countersign_gateway_model::{Decision, PolicyDigests, Pseudonym, Timestamp};
use countersign_ledger_entry::{Draft, Receipt};

use crate::beside::Beside;
use crate::error::EngineError;

/// Which evaluations leave an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recording {
    /// Every one.
    #[default]
    All,
    /// Those that are not allowed.
    Denials,
    /// None.
    None,
}

impl Recording {
    /// All of them, by name.
    pub const ALL: [Self; 3] = [Self::All, Self::Denials, Self::None];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Denials => "denials",
            Self::None => "none",
        }
    }

    /// From its name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|recording| recording.as_str() == text)
    }

    pub(crate) fn keeps(self, decision: Decision) -> bool {
        match self {
            Self::All => true,
            Self::Denials => decision != Decision::Allow,
            Self::None => false,
        }
    }
}

/// Evaluations of one call, on their way into an append.
pub(crate) struct Waiting {
    pub(crate) policy: PolicyDigests,
    pub(crate) drafts: Vec<Draft>,
    pub(crate) beside: Beside,
    pub(crate) done: oneshot::Sender<Result<Vec<Receipt>, EngineError>>,
}

/// What an organization's evaluations share.
#[derive(Default)]
pub(crate) struct Evaluations {
    pub(crate) waiting: Mutex<VecDeque<Waiting>>,
    pub(crate) over_quota: Mutex<BTreeMap<Pseudonym, OverQuota>>,
}

/// Calls of one principal that were turned away.
pub(crate) struct OverQuota {
    pub(crate) since: Timestamp,
    pub(crate) calls: u32,
}

/// Nothing that a panic could leave half done is kept under these locks.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
