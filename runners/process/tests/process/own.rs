//! What only this runner can show: torn files, killed shims, the walls as a workload meets them, agents.

use std::future::Future;
use std::pin::Pin;

use crate::Place;

pub(crate) struct OwnCase {
    pub name: &'static str,
    pub run: fn(Place) -> Pin<Box<dyn Future<Output = ()>>>,
}

pub(crate) const CASES: &[OwnCase] = &[];
