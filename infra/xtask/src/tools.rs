//! Tools that are neither Debian packages nor part of the Rust toolchain: found, or built once and kept.
//!
//! Kept under `~/.cache/countersign/tools/<name>-<version>`, so that a clean checkout does not build them again. Next: `test.rs`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

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

/// The version of the solver that proofs are tried with.
const CVC5: &str = "1.3.1";

/// The solver as a program over its Python package, which has no program of its own.
const CVC5_PROGRAM: &str = include_str!("cvc5.py");

/// Where `cvc5` is, after fetching its Python package if need be (about 15 MB, once).
///
/// One on the search path is not taken: another version answers otherwise, and the tests are about this one.
pub fn cvc5(surroundings: &Surroundings) -> Result<PathBuf> {
    let home = surroundings.tools()?.join(format!("cvc5-{CVC5}"));
    let program = home.join("bin/cvc5");
    if is_executable(&program) && fs::read_to_string(&program).is_ok_and(|text| text == CVC5_PROGRAM) {
        return Ok(program);
    }
    println!("fetching cvc5 {CVC5}, once, into {}", home.display());
    let unfinished = home.with_file_name(format!("cvc5-{CVC5}-unfinished"));
    for old in [&home, &unfinished] {
        if old.exists() {
            fs::remove_dir_all(old).with_context(|| format!("cannot remove `{}`", old.display()))?;
        }
    }
    let status = Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", "--no-deps"])
        .args(["--only-binary", ":all:", "--target"])
        .arg(unfinished.join("packages"))
        .arg(format!("cvc5=={CVC5}"))
        .status()
        .context("cannot run `python3`; install python3 and python3-pip")?;
    ensure!(status.success(), "`pip install cvc5=={CVC5}` failed with {status}");
    let bin = unfinished.join("bin");
    fs::create_dir_all(&bin).with_context(|| format!("cannot make `{}`", bin.display()))?;
    let written = bin.join("cvc5");
    fs::write(&written, CVC5_PROGRAM).with_context(|| format!("cannot write `{}`", written.display()))?;
    fs::set_permissions(&written, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot make `{}` executable", written.display()))?;
    if let Err(error) = fs::rename(&unfinished, &home) {
        ensure!(is_executable(&program), "cannot move `{}` to `{}`: {error}", unfinished.display(), home.display());
    }
    Ok(program)
}
