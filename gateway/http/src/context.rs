//! What one request leaves behind for the layer around it: its id, the caller's rate, instance, entry and problem.
//!
//! A task-local, so that an error can name its request wherever it becomes a reply. Absent: any policy.
//! Read next: `layers`, which opens and reads it.

use std::cell::Cell;
use std::fmt;

use countersign_gateway_identity::RateFacts;
use countersign_gateway_model::InstanceId;
use serde::{Serialize, Serializer};

/// Names one request, in its reply, in the log and in problems: `req_` and 32 hex digits that sort by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestId(pub(crate) [u8; 16]);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("req_")?;
        f.write_str(const_hex::Buffer::<16>::new().format(&self.0))
    }
}

impl Serialize for RequestId {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// The facts of one request.
pub(crate) struct Context {
    pub(crate) id: RequestId,
    pub(crate) rate: Cell<Option<RateFacts>>,
    pub(crate) instance: Cell<Option<InstanceId>>,
    pub(crate) entry: Cell<Option<u64>>,
    pub(crate) problem: Cell<Option<&'static str>>,
}

impl Context {
    pub(crate) fn new(id: RequestId) -> Self {
        Self { id, rate: Cell::new(None), instance: Cell::new(None), entry: Cell::new(None), problem: Cell::new(None) }
    }
}

tokio::task_local! {
    pub(crate) static CURRENT: Context;
}

/// The id of the request that this task works on.
pub(crate) fn request_id() -> Option<RequestId> {
    CURRENT.try_with(|context| context.id).ok()
}

/// Notes which instance the request is about.
pub(crate) fn note_instance(id: InstanceId) {
    let _ = CURRENT.try_with(|context| context.instance.set(Some(id)));
}

/// Notes the last entry that the request left.
pub(crate) fn note_entry(index: u64) {
    let _ = CURRENT.try_with(|context| context.entry.set(Some(index)));
}

/// Notes what is left of the caller's rate.
pub(crate) fn note_rate(facts: RateFacts) {
    let _ = CURRENT.try_with(|context| context.rate.set(Some(facts)));
}

/// Notes the code of the problem that the request is answered with.
pub(crate) fn note_problem(code: &'static str) {
    let _ = CURRENT.try_with(|context| context.problem.set(Some(code)));
}
