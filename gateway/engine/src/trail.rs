//! What the work of one request leaves in the ledger: the last entry, and the instance that it is about.
//!
//! Whoever answers a request logs both with it. Not every answer carries a receipt, some fail before they have one, and
//! accounts are changed through a store that knows no request; so both are noted where they become known, in a
//! task-local that goes along into the tasks that a request's work is moved to. Work that no request waits for has a trail
//! of its own, which nobody reads. Nothing is decided by it. Absent: the log (`gateway/http`).

use std::sync::{Arc, Mutex, PoisonError};

use countersign_gateway_model::InstanceId;
use countersign_ledger_log::Appended;
use tokio::task::JoinHandle;
use tracing::Instrument as _;

tokio::task_local! {
    static TRAIL: Trail;
}

/// What one request has left so far.
#[derive(Clone, Debug, Default)]
pub struct Trail(Arc<Mutex<Left>>);

#[derive(Debug, Default)]
struct Left {
    instance: Option<InstanceId>,
    entry: Option<u64>,
}

impl Trail {
    /// Runs the work of a request, which leaves its trail here.
    pub async fn follow<F: Future>(self, work: F) -> F::Output {
        TRAIL.scope(self, work).await
    }

    /// The instance that the work was about.
    pub fn instance(&self) -> Option<InstanceId> {
        self.with(|left| left.instance)
    }

    /// The index of the last entry that it left.
    pub fn entry(&self) -> Option<u64> {
        self.with(|left| left.entry)
    }

    fn with<T>(&self, work: impl FnOnce(&mut Left) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Runs work of the request of this task in a task of its own, where it goes on if the request's is given up. What it logs
/// belongs to the request.
pub fn spawn<F>(work: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    let trail = TRAIL.try_with(Clone::clone).unwrap_or_default();
    tokio::spawn(TRAIL.scope(trail, work).in_current_span())
}

/// Notes which instance the work is about.
pub(crate) fn about(instance: InstanceId) {
    let _ = TRAIL.try_with(|trail| trail.with(|left| left.instance = Some(instance)));
}

/// Notes what was committed.
pub(crate) fn leaves(appended: &Appended) {
    let Some(last) = appended.entries.last() else { return };
    let _ = TRAIL.try_with(|trail| trail.with(|left| left.entry = Some(last.receipt.index)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_trail_goes_along_into_tasks_of_the_same_request_and_into_no_others() {
        let (trail, instance) = (Trail::default(), InstanceId::from_bytes([7; 16]));
        assert_eq!((trail.instance(), trail.entry()), (None, None));
        let work = trail.clone().follow(async {
            let another = tokio::spawn(async { about(InstanceId::from_bytes([8; 16])) }).await;
            another.and(spawn(async move { about(instance) }).await)
        });
        assert!(work.await.is_ok());
        assert_eq!(trail.instance(), Some(instance));
        // Where no request waits, nothing breaks.
        assert!(spawn(async move { about(instance) }).await.is_ok());
        about(instance);
    }
}
