//! `countersign`: an authorization gateway in front of AI agents.
//!
//! This crate assembles: configuration, keys, the data folder, the rooms below, the command line. It decides nothing. Read
//! next: `cli` (what it can be told), `gateway` (how one gateway is put together), `demo` (the shortest proof that it works).

#![cfg_attr(test, expect(clippy::unwrap_used, reason = "a test that cannot go on has found something"))]

mod accounts;
mod agent;
mod cli;
mod client;
mod clock;
mod config;
mod demo;
mod environment;
mod folder;
mod gateway;
mod installation;
mod keys;
mod mint;
mod organizations;
mod policies;
mod proving;
mod refusals;
mod runners;
mod secrets;
mod serve;
mod telemetry;
mod text;
mod trees;
mod watching;

use std::process::ExitCode;

/// A request makes some hundred small allocations on one thread and frees them on another; the system's allocator takes a
/// seventh of the whole processor time for that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // First of all, before a thread or a runtime: stages of the process runner fork, and a fork copies one thread only.
    countersign_runners_process::shim_main_if_asked();
    cli::main()
}

/// An error with its causes, in one line.
fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.ends_with(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}
