//! How this program starts itself as one of its own stages.
//!
//! The words are no commands and stand in no help. Absent: what the stages do (`stage`).

use std::ffi::OsStr;

/// Runs one order: `<word> <folder of the run>`.
pub(crate) const SHIM: &str = "__countersign-shim";
/// Tries the levels: a request on standard input, the findings on standard output.
pub(crate) const CANARY: &str = "__countersign-canary";
/// Runs an agent: its spec on standard input.
pub(crate) const AGENT: &str = "__countersign-agent";

/// The command that starts a stage of `program`, with an empty environment.
pub(crate) fn command(program: &OsStr, word: &str) -> std::process::Command {
    let mut command = std::process::Command::new(program);
    command.arg(word).env_clear().current_dir("/");
    command
}
