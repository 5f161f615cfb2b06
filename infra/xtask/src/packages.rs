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
    let by_hand = by_hand(&missing);
    if !surroundings.is_root || surroundings.find("apt-get").is_none() {
        return Err(by_hand);
    }
    let packages: Vec<_> = missing.iter().flat_map(|need| need.packages.iter().copied()).collect();
    println!("installing {}", packages.join(" "));
    install(&packages).map_err(|error| format!("{by_hand} ({error:#})"))?;
    match missing.iter().find(|need| surroundings.find(need.program).is_none()) {
        None => Ok(()),
        Some(need) => Err(format!("`{}` is missing still after installing {}", need.program, need.packages.join(" "))),
    }
}

/// Names what is missing and the one command that mends it.
fn by_hand(missing: &[&Need]) -> Missing {
    let programs: Vec<_> = missing.iter().map(|need| format!("`{}`", need.program)).collect();
    let packages: Vec<_> = missing.iter().flat_map(|need| need.packages.iter().copied()).collect();
    format!(
        "{} missing; run: sudo apt-get update && sudo apt-get install -y --no-install-recommends {}",
        programs.join(", "),
        packages.join(" ")
    )
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn one_command_brings_all_that_is_missing() {
        let cc = Need { program: "cc", packages: &["gcc", "libc6-dev"] };
        let strace = Need { program: "strace", packages: &["strace"] };
        let said = by_hand(&[&cc, &strace]);
        assert!(said.starts_with("`cc`, `strace` missing; run: "), "{said}");
        assert!(said.ends_with("apt-get install -y --no-install-recommends gcc libc6-dev strace"), "{said}");
    }
    #[test]
    fn who_is_not_root_is_told_the_command_and_nothing_is_installed() {
        let mut surroundings = Surroundings::read().unwrap();
        surroundings.is_root = false;
        let there = Need { program: "sh", packages: &["dash"] };
        assert_eq!(provide(&surroundings, &[there]), Ok(()));
        let invented = Need { program: "no-such-program-of-countersign", packages: &["no-such-package"] };
        let said = provide(&surroundings, &[invented]).unwrap_err();
        assert!(said.contains("`no-such-program-of-countersign` missing; run: sudo apt-get update"), "{said}");
    }
}
