//! Tools that are neither Debian packages nor part of the Rust toolchain: found, or built once and kept.
//!
//! Kept under `~/.cache/countersign/tools/<name>-<version>`, so that a clean checkout does not build them again. Next: `test.rs`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use crate::surroundings::{Surroundings, is_executable};

/// The version that we build; a newer one that is on the search path is taken as it is.
const CARGO_DENY: &str = "0.20.2";

/// Where `cargo-deny` is, after building it if need be (about three minutes on two cores, once).
pub fn cargo_deny(surroundings: &Surroundings) -> Result<PathBuf> {
    if let Some(found) = surroundings.find("cargo-deny") {
        return Ok(found);
    }
    let home = surroundings.tools()?.join(format!("cargo-deny-{CARGO_DENY}"));
    let program = home.join("bin/cargo-deny");
    if is_executable(&program) {
        return Ok(program);
    }
    println!("building cargo-deny {CARGO_DENY}, once, into {}", home.display());
    // Built beside its place and renamed: a build that was interrupted leaves nothing that looks whole.
    let beside = |what| home.with_file_name(format!("cargo-deny-{CARGO_DENY}-{what}"));
    let (unfinished, build) = (beside("unfinished"), beside("build"));
    let status = surroundings
        .cargo(&["install", "cargo-deny", "--version", CARGO_DENY, "--locked", "--no-track", "--force", "--root"])
        .arg(&unfinished)
        .arg("--target-dir")
        .arg(&build)
        .status()
        .context("cannot run `cargo install`")?;
    ensure!(status.success(), "`cargo install cargo-deny` failed with {status}");
    if let Err(error) = fs::rename(&unfinished, &home) {
        // Another run was quicker: what it built serves.
        ensure!(is_executable(&program), "cannot move `{}` to `{}`: {error}", unfinished.display(), home.display());
    }
    if let Err(error) = fs::remove_dir_all(&build) {
        println!("could not remove {}: {error}", build.display());
    }
    Ok(program)
}
