//! The engine over a real ledger and the real default policy, at moments that no real runner can be held at.
//!
//! One gateway process is a `World`: SQLite in a temporary folder, Cedar with the bundle that ships, a clock moved by
//! hand, and a runner that does what a test tells it. Absent: HTTP, tokens, sandboxes; they have tests of their own.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that meets what it did not expect has failed"
)]

mod backtest;
mod bench;
mod changes;
mod counters;
mod detectors;
mod erased;
mod evaluations;
mod faulty;
mod gates;
mod grants;
mod in_force;
mod lifts;
mod memory;
mod organizations;
mod own_fold;
mod queries;
mod registration;
mod rules;
mod runner;
mod runs;
mod shadow;
mod signatures;
mod tools;
mod transforms;
mod world;
