//! Finds out which level this machine can hold, by building a sandbox and trying to break out of it.
//!
//! Nothing is concluded from versions or settings: a level is had if the canary, running where a workload would run,
//! fails at everything a workload must not do, succeeds at what it must be able to do, and executes a program.
//!
//! Read next: `sandbox` (what is tried), `doctor` (what to do about a low level).

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use countersign_runners_contract::{NetworkMode, Resources};
use nix::sys::wait::waitpid;
use serde::{Deserialize, Serialize};

use crate::cgroup;
use crate::sandbox::{self, BREACHES, Bait, Payload, Said};
use crate::spec::{Level, RunUser, SandboxSpec};
use crate::sys;

/// What the canary asks of the stage that runs it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Request {
    /// A folder for sandboxes.
    pub folder: PathBuf,
    /// The user that runs become.
    pub user: Option<RunUser>,
    /// The strongest level to try.
    pub strongest: Level,
    /// The delegated control group, if one was found.
    pub cgroup: Option<PathBuf>,
}

/// How one level fared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// The level.
    pub level: Level,
    /// True if it is had.
    pub held: bool,
    /// What failed or was breached, empty if it is had.
    pub problems: Vec<String>,
    /// True if the sandbox had a `/proc` of its own.
    pub proc: bool,
    /// True if Landlock was in force.
    pub landlock: bool,
}

/// What the canary found: the strongest level that is had comes last; stronger ones that are not had come before it,
/// with their problems.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// In the order of trial, strongest first.
    pub trials: Vec<Trial>,
    /// The Landlock version of the kernel, 0 for none.
    pub landlock_version: i64,
}

impl Found {
    /// The strongest level that is had.
    pub fn level(&self) -> Level {
        self.trials.iter().find(|trial| trial.held).map_or(Level::L0, |trial| trial.level)
    }

    /// The trial that was held.
    pub fn held(&self) -> Option<&Trial> {
        self.trials.iter().find(|trial| trial.held)
    }
}

/// Tries levels from the strongest down until one is had. Runs in a stage of its own, with a single thread.
pub(crate) fn probe(request: &Request) -> Found {
    let mut trials = Vec::new();
    for level in Level::STRONGEST_FIRST.into_iter().filter(|level| *level <= request.strongest) {
        let trial = match level {
            Level::L0 => Trial {
                level,
                held: true,
                problems: Vec::new(),
                proc: Path::new("/proc/self").exists(),
                landlock: false,
            },
            Level::L3 if request.cgroup.is_none() => Trial {
                level,
                held: false,
                problems: vec!["no delegated control group (cgroup v2 with memory and pids) was found".to_owned()],
                proc: false,
                landlock: false,
            },
            _ => attempt(request, level).unwrap_or_else(|error| Trial {
                level,
                held: false,
                problems: vec![format!("the canary could not be prepared: {error}")],
                proc: false,
                landlock: false,
            }),
        };
        let held = trial.held;
        trials.push(trial);
        if held {
            break;
        }
    }
    Found { trials, landlock_version: sys::landlock_version() }
}

fn attempt(request: &Request, level: Level) -> io::Result<Trial> {
    let folder = request.folder.join(level.as_str());
    let bait =
        Bait { file: folder.join("bait"), folder: folder.join("outside"), process: nix::unistd::getpid().as_raw() };
    crate::rundir::make_folders(&folder, request.user)?;
    fs::write(&bait.file, "bait")?;
    fs::set_permissions(&bait.file, fs::Permissions::from_mode(0o644))?;
    fs::create_dir_all(&bait.folder)?;
    fs::set_permissions(&bait.folder, fs::Permissions::from_mode(0o777))?;
    let group = match (level, &request.cgroup) {
        (Level::L3, Some(parent)) => Some(cgroup::Group::create(parent, "canary", &Resources::default())?),
        _ => None,
    };
    let spec = SandboxSpec {
        level,
        user: request.user,
        folder: folder.clone(),
        command: ["sh", "-c", "exit 42"].map(OsString::from).into(),
        env: std::collections::BTreeMap::new(),
        workdir: None,
        network: NetworkMode::None,
        port: None,
        resources: Resources::default(),
        read_only: Vec::new(),
        cgroup: group.as_ref().map(|group| group.path().to_owned()),
    };
    let null = || OpenOptions::new().read(true).write(true).open("/dev/null").map(Into::into);
    let mut launched = sandbox::launch(&spec, &Payload::Canary(bait), [null()?, null()?, null()?])?;
    let mut status = fs::File::from(launched.status.try_clone()?);
    let mut trial = Trial { level, held: false, problems: Vec::new(), proc: false, landlock: false };
    let (mut held, mut sang, mut code) = (Vec::new(), None, None);
    let mut buffer = [0u8; 4096];
    loop {
        let n = status.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        held.extend_from_slice(buffer.get(..n).unwrap_or_default());
        for said in sandbox::parse(&mut held) {
            match said {
                Said::Ready { proc, landlock } => {
                    (trial.proc, trial.landlock) = (proc, landlock);
                    launched.go()?;
                }
                Said::Sang(bits) => sang = Some(bits),
                Said::Code(number) => code = Some(number),
                Said::Signal(number) => trial.problems.push(format!("the canary was ended by signal {number}")),
                Said::NotExecuted(errno) => trial.problems.push(format!("a program could not be executed: {errno}")),
                Said::Failed(step) => trial.problems.push(step.to_string()),
            }
        }
    }
    let _ = waitpid(launched.outer, None);
    if let Some(group) = group {
        group.remove();
    }
    let bits = sang.unwrap_or_default();
    trial.problems.extend(
        BREACHES.iter().enumerate().filter(|(bit, _)| bits & (1 << bit) != 0).map(|(_, name)| (*name).to_owned()),
    );
    if trial.problems.is_empty() && sang.is_none() {
        trial.problems.push("the canary said nothing".to_owned());
    }
    if trial.problems.is_empty() && code != Some(42) {
        trial.problems.push(format!("a program ended with {code:?} instead of 42"));
    }
    trial.held = trial.problems.is_empty();
    fs::remove_dir_all(&folder)?;
    Ok(trial)
}
