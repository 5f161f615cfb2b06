//! Debian packages that a lane needs: installed where this runs as root, else the one command that would.
//!
//! Absent: other distributions; there a person reads the name of the program that is missing. Next: `lane.rs`.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::surroundings::Surroundings;

/// A program that a lane runs, and the Debian packages that bring it.
#[derive(Debug)]
pub struct Need {
    /// Found on the search path once it is there.
    pub program: &'static str,
    /// What `apt-get install` is given.
    pub packages: &'static [&'static str],
}

/// Why a lane cannot run here: what is missing and the command that mends it.
pub type Missing = String;

/// Brings what is missing, or says why it cannot be.
pub fn provide(surroundings: &Surroundings, needs: &[Need]) -> Result<(), Missing> {
    let missing: Vec<_> = needs.iter().filter(|need| surroundings.find(need.program).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let programs = missing.iter().map(|need| format!("`{}`", need.program)).collect::<Vec<_>>().join(", ");
    let packages: Vec<_> = missing.iter().flat_map(|need| need.packages.iter().copied()).collect();
    let by_hand =
        format!("{programs} missing; run: sudo apt-get install -y --no-install-recommends {}", packages.join(" "));
    if !surroundings.is_root || surroundings.find("apt-get").is_none() {
        return Err(by_hand);
    }
    println!("installing {} for {programs}", packages.join(" "));
    install(&packages).map_err(|error| format!("{by_hand} ({error:#})"))?;
    match missing.iter().find(|need| surroundings.find(need.program).is_none()) {
        None => Ok(()),
        Some(need) => Err(format!("`{}` is missing still after installing {}", need.program, need.packages.join(" "))),
    }
}

fn install(packages: &[&str]) -> Result<()> {
    apt_get(&["update", "--quiet"])?;
    apt_get(&[&["install", "--yes", "--quiet", "--no-install-recommends"], packages].concat())
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let status = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .status()
        .context("cannot run `apt-get`")?;
    ensure!(status.success(), "`apt-get {}` failed with {status}", arguments.join(" "));
    Ok(())
}
