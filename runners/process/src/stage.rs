//! The program as its own tool: stages that `main` branches into before any runtime or thread.
//!
//! Absent: anything a person would call; how a stage is started (`self_exec`).

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::Path;

use crate::self_exec::{AGENT, CANARY, SHIM};
use crate::{agent, canary, shim, sys};

/// Branches into a stage if this process was started as one; returns at once otherwise.
///
/// The first thing in `main`, before a runtime, a thread or an argument parser: stages fork, and a fork copies one
/// thread only. A program that does not call this cannot run anything.
pub fn shim_main_if_asked() {
    let mut arguments = std::env::args_os().skip(1);
    let Some(word) = arguments.next() else { return };
    let rest: Vec<OsString> = arguments.collect();
    match (word.to_str(), rest.as_slice()) {
        (Some(SHIM), [folder]) => shim::main(Path::new(folder)),
        (Some(CANARY), []) => end(canary_main()),
        (Some(AGENT), []) => agent::main(),
        (Some(SHIM | CANARY | AGENT), _) => end(Err(io::Error::other("a stage was started with other arguments"))),
        _ => {}
    }
}

fn canary_main() -> io::Result<()> {
    let request: canary::Request = serde_json::from_reader(io::stdin().lock())?;
    let found = canary::probe(&request);
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, &found)?;
    out.flush()
}

fn end(outcome: io::Result<()>) -> ! {
    match outcome {
        Ok(()) => sys::exit_now(0),
        Err(error) => {
            eprintln!("countersign: {error}");
            sys::exit_now(1)
        }
    }
}
