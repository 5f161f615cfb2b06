//! The process runner: workloads as sandboxed processes of this machine, with no other program and no privilege.
//!
//! A run is a folder, a shim and a sandbox. The folder is the memory; the shim is the program itself, executed again,
//! which outlives the gateway; the sandbox is built by hand from namespaces, Landlock, seccomp and resource limits, at
//! the level that a canary found possible. Nothing runs without an order, but an agent, which can only ask ([`agent`]).
//!
//! Absent on purpose: policy, the ledger, images, any network but the gateway or what an order opens.
//!
//! Read next: `runner` (the contract), `shim` (one run), `sandbox` (the walls), `canary` (what they are worth).
#![cfg_attr(test, expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests"))]

#[cfg(not(target_os = "linux"))]
compile_error!("the process runner's sandbox is made of Linux namespaces, Landlock and seccomp");

pub mod agent;
mod canary;
mod cgroup;
mod config;
pub mod doctor;
mod durable;
mod frames;

mod overdue;
mod procfs;
mod prune;
mod relay;
mod rundir;
mod runner;
mod runs;
mod sandbox;
mod self_exec;
mod shim;
mod spec;
mod stage;
mod sys;
mod time;
pub mod workspace;

pub use canary::{Found, Trial};
pub use config::{OpenError, ProcessConfig};
pub use prune::Pruned;
pub use runner::ProcessRunner;
pub use spec::{ENV_ADDRESS, ENV_INPUTS, ENV_SOCKET, ENV_WORKSPACE, GatewayEndpoint, Level, RunUser};
pub use stage::shim_main_if_asked;
