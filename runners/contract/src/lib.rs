//! What every runner is: jobs, orders, phases, logs, artifacts, secrets, the trait, and the suite that tests it.
//!
//! Nothing is run without an [`Order`], and an order is built only from a committed start: see `order`. Absent on
//! purpose: any backend, any clock (instants are passed in), any policy.
//!
//! Read next: `job` (what is run), `order` (what lets it run), `runner` (who runs it), `conformance` (the promises).

#![cfg_attr(test, expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests"))]

mod artifact;
pub mod conformance;
mod job;
mod log;
mod order;
mod phase;
mod runner;
mod secret;
mod tree;

pub use countersign_gateway_model as model;
pub use countersign_ledger_entry as entry;

pub use artifact::{Artifact, Manifest, Refusal, Refused};
pub use countersign_gateway_model::SecretRef;
pub use job::{
    Input, Job, JobError, JobSalt, JobSpec, MAX_ARGUMENT_BYTES, MAX_JOB_BYTES, NetworkMode, RESERVED_ENV, Resources,
};
pub use log::{GapReason, LogCursor, LogItem, LogRead, Stream, StreamEnd};
pub use order::{LogTrust, MAX_SEALED_BYTES, Order, OrderError, SingleTrust, Trust};
pub use phase::{Evidence, Exit, FailureClass, Observation, Phase, Times};
pub use runner::{
    Capabilities, Delivery, Feature, Fingerprint, Handle, Health, LogResume, Runner, RunnerError, Scope, external_name,
};
pub use secret::{MASK, MAX_SECRET_BYTES, MIN_SECRET_BYTES, Masker, NoSecrets, SecretError, SecretSource, SecretValue};
pub use tree::{PathError, Pattern, TreePath};
