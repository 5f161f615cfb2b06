//! The second wall: what of the file system, the network and other processes a workload may touch, by Landlock.
//!
//! Absent: rules for `/proc`. A rule for `/proc/self` that is opened before the fork would pin the opener's folder and
//! show its environment; with namespaces the sandbox has a `/proc` of its own, without them it has none.
//!
//! Read next: `sandbox`, which applies it just before seccomp.

use std::io;
use std::path::Path;

use countersign_runners_contract::NetworkMode;
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, NetPort, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, RulesetStatus, Scope,
};

use crate::spec::{DEVICES, ETC, ETC_NETWORK, ETC_VISIBLE, Level, NET, SYSTEM, SandboxSpec, WORKSPACE};

/// The newest version whose rights are asked for; an older kernel enforces what it knows, and the canary decides
/// whether that is enough for the level.
const NEWEST: ABI = ABI::V9;

/// Builds the rules. At L2 and above this is called inside the new root, at L1 outside.
pub(crate) fn build(spec: &SandboxSpec) -> io::Result<RulesetCreated> {
    let failed = |error: landlock::RulesetError| io::Error::other(error);
    let mut ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))
        .map_err(failed)?
        .scope(Scope::from_all(NEWEST))
        .map_err(failed)?;
    if spec.network != NetworkMode::Open {
        ruleset = ruleset.handle_access(AccessNet::from_all(NEWEST)).map_err(failed)?;
    }
    let mut rules = Rules(Some(ruleset.create().map_err(failed)?));
    if spec.level >= Level::L2 {
        // The root holds nothing but what was put there for this run.
        rules.add(Path::new("/"), read())?;
        for writable in [WORKSPACE, "/tmp", "/dev"] {
            rules.add(Path::new(writable), AccessFs::from_all(NEWEST))?;
        }
        rules.add(Path::new(NET), read() | AccessFs::ResolveUnix)?;
    } else {
        for path in SYSTEM.iter().chain(&ETC).chain(&ETC_VISIBLE) {
            rules.add(Path::new(path), read())?;
        }
        if spec.network == NetworkMode::Open {
            for path in ETC_NETWORK {
                rules.add(Path::new(path), read())?;
            }
        }
        for path in &spec.read_only {
            rules.add(path, read())?;
        }
        rules.add(&spec.folder.join("inputs"), read())?;
        for path in ["workspace", "tmp"] {
            rules.add(&spec.folder.join(path), AccessFs::from_all(NEWEST))?;
        }
        for path in DEVICES {
            rules.add(Path::new(path), AccessFs::ReadFile | AccessFs::WriteFile)?;
        }
    }
    let mut ruleset = rules.0.take().ok_or_else(|| io::Error::other("the rules are gone"))?;
    if let Some(port) = spec.port {
        ruleset = ruleset.add_rule(NetPort::new(port, AccessNet::ConnectTcp)).map_err(failed)?;
    }
    Ok(ruleset)
}

/// Applies them to this process; an error if the kernel enforced nothing.
pub(crate) fn apply(rules: RulesetCreated) -> io::Result<()> {
    let status = rules.restrict_self().map_err(io::Error::other)?;
    if status.ruleset == RulesetStatus::NotEnforced {
        return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
    }
    Ok(())
}

fn read() -> BitFlags<AccessFs> {
    AccessFs::from_read(NEWEST)
}

struct Rules(Option<RulesetCreated>);

impl Rules {
    /// Adds a rule for what exists; what does not exist needs none.
    fn add(&mut self, path: &Path, access: impl Into<BitFlags<AccessFs>>) -> io::Result<()> {
        let Ok(metadata) = std::fs::metadata(path) else { return Ok(()) };
        let Ok(fd) = PathFd::new(path) else { return Ok(()) };
        let access = access.into();
        let access = if metadata.is_dir() { access } else { access & AccessFs::from_file(NEWEST) };
        let rules = self.0.take().ok_or_else(|| io::Error::other("the rules are gone"))?;
        self.0 = Some(rules.add_rule(PathBeneath::new(fd, access)).map_err(io::Error::other)?);
        Ok(())
    }
}
