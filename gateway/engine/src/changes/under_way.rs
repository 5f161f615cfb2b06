//! Changes under way, in memory: which there are, how far each is, and whose turn it is to take it further.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use countersign_gateway_model::{Duration, InstanceId, Timestamp};

use crate::changes::row::ChangeRow;

/// How long a change rests after a step that failed.
const REST: Duration = Duration::from_secs(5);

/// Whether another step can be taken at once.
#[derive(PartialEq, Eq)]
pub(super) enum Turn {
    Further,
    Wait,
}

/// Changes under way, by instance.
#[derive(Default)]
pub(crate) struct Changes(Mutex<BTreeMap<InstanceId, Arc<UnderWay>>>);

/// One change under way.
pub(crate) struct UnderWay {
    row: Mutex<ChangeRow>,
    /// One at a time takes it further.
    pub(super) turn: tokio::sync::Mutex<()>,
    /// When a step failed last.
    failed: Mutex<Option<Timestamp>>,
}

impl UnderWay {
    pub(super) fn row(&self) -> ChangeRow {
        guard(&self.row).clone()
    }

    pub(super) fn set(&self, row: ChangeRow) {
        *guard(&self.row) = row;
    }

    /// A step failed: it is not tried again at once.
    pub(super) fn rest(&self, now: Timestamp) {
        *guard(&self.failed) = Some(now);
    }

    pub(super) fn rests(&self, now: Timestamp) -> bool {
        guard(&self.failed).is_some_and(|at| now < at + REST)
    }
}

impl Changes {
    pub(super) fn insert(&self, row: &ChangeRow) {
        let under_way =
            UnderWay { row: Mutex::new(row.clone()), turn: tokio::sync::Mutex::default(), failed: Mutex::default() };
        guard(&self.0).insert(row.instance, Arc::new(under_way));
    }

    pub(crate) fn get(&self, id: InstanceId) -> Option<Arc<UnderWay>> {
        guard(&self.0).get(&id).cloned()
    }

    pub(super) fn remove(&self, id: InstanceId) {
        guard(&self.0).remove(&id);
    }

    pub(super) fn all(&self) -> Vec<(InstanceId, Arc<UnderWay>)> {
        guard(&self.0).iter().map(|(id, change)| (*id, Arc::clone(change))).collect()
    }
}

/// Nothing that a panic could leave half done is kept under these locks.
fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
