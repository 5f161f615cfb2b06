//! The folder of one run: its files, how they are written, and what they say together about where the run stands.
//!
//! ```text
//! runs/<run>-<attempt>/   order handle  written before the folder has its name
//!                         lock          held by whoever may begin the run, then by its shim
//!                         cancel        a request, with the grace in milliseconds
//!                         started       synced before the program is executed
//!                         result        synced and renamed into place; final
//!                         log           frames
//!                         workspace tmp inputs net root
//! runs/<run>-<attempt>.reaped           that it was, so that its order is never begun again
//! ```
//!
//! Result: final. Else lock held: alive. Else `started`: lost. Else: never begun. Read next: `shim`, `runner`.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use countersign_runners_contract::model::{Digest, Duration, RunId, Timestamp};
use countersign_runners_contract::{Evidence, Handle, Manifest, Observation, Resources, StreamEnd};
use serde::{Deserialize, Serialize};

use crate::spec::{GatewayEndpoint, Level, RunUser};
use crate::workspace::Caps;

/// What the shim is told, beside the sealed order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Setup {
    /// The backend's name, which the order has to carry.
    pub backend: String,
    /// The root key that the runner was configured with.
    pub root_vkey: String,
    /// The level to set up.
    pub level: Level,
    /// The user to become.
    pub user: Option<RunUser>,
    /// Where trees are kept.
    pub trees: PathBuf,
    /// The tree that the run starts from.
    pub workspace: Option<Digest>,
    /// Caps of a tree.
    pub caps: Caps,
    /// Where the gateway listens.
    pub gateway: Option<GatewayEndpoint>,
    /// Visible read-only.
    pub read_only: Vec<PathBuf>,
    /// The delegated control group.
    pub cgroup: Option<PathBuf>,
    /// When the order was accepted.
    pub submitted: Timestamp,
    /// The job's salted digest, for the time after the order.
    pub job: Digest,
    /// Nothing may be begun after this.
    pub not_after: Timestamp,
    /// The gateway's clock minus the machine's, in milliseconds.
    pub clock_offset: i64,
    /// The Landlock version, for the evidence.
    pub landlock_version: i64,
    /// How long the workload may go on; folders that were made before it was written here do not say.
    #[serde(default)]
    pub wall: Option<Duration>,
}

/// Says that the program was about to be executed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Started {
    /// When.
    pub at: Timestamp,
    /// The shim.
    pub pid: i32,
    /// When the shim began, in ticks of this boot.
    pub start_time: u64,
    /// Which boot.
    pub boot: String,
    /// When, in milliseconds of this boot; folders that were made before it was written here do not say.
    #[serde(default)]
    pub since_start: Option<u64>,
    /// What holds the workload in.
    pub evidence: Evidence,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Finished {
    /// The last observation.
    pub observation: Observation,
    /// Artifacts.
    pub manifest: Manifest,
    /// Standard output, if its end is known.
    pub stdout: Option<StreamEnd>,
    /// Standard error, if its end is known.
    pub stderr: Option<StreamEnd>,
}

/// Stays when a run was reaped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tombstone {
    /// Its handle.
    pub handle: Handle,
    /// The job's salted digest.
    pub job: Digest,
    /// Nothing could be begun after this, so nothing has to be remembered for long after it.
    pub not_after: Timestamp,
}

/// The name of a run's folder.
pub(crate) fn name(run: RunId, attempt: u32) -> String {
    format!("{run}-{attempt}")
}

/// Folders of a sandbox, with owners and modes: the run's user may enter the run's folder, and own its workspace.
pub(crate) fn make_folders(folder: &Path, user: Option<RunUser>) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    fs::set_permissions(folder, Permissions::from_mode(0o711))?;
    for (name, mode, theirs) in [
        ("workspace", 0o700, true),
        ("tmp", 0o700, true),
        ("inputs", 0o755, false),
        ("net", 0o755, false),
        ("root", 0o755, true),
    ] {
        let path = folder.join(name);
        fs::create_dir_all(&path)?;
        fs::set_permissions(&path, Permissions::from_mode(mode))?;
        if let (true, Some(user)) = (theirs, user) {
            chown(&path, Some(user.uid), Some(user.gid))?;
        }
    }
    Ok(())
}

/// Takes the lock of a folder if nobody holds it. It is held until every descriptor of this open file is closed, so a
/// process that is handed one holds it on.
pub(crate) fn try_lock(folder: &Path) -> io::Result<Option<File>> {
    let path = folder.join("lock");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// What was asked of the limits, as the evidence names it.
pub(crate) fn evidence(level: Level, resources: &Resources, facts: &BTreeMap<&str, bool>, landlock: i64) -> Evidence {
    let has = |fact: &str| facts.get(fact).copied().unwrap_or(false);
    let mut evidence = Evidence { isolation: level.to_string(), ..Evidence::default() };
    let mut put = |enforced: bool, text: String| {
        if enforced {
            evidence.enforced.insert(text)
        } else {
            evidence.absent.insert(text)
        };
    };
    put(true, "no_new_privs".to_owned());
    put(true, "capabilities:none".to_owned());
    put(level >= Level::L1, "seccomp:allow-list".to_owned());
    for namespace in ["user", "mount", "pid", "ipc", "uts", "cgroup"] {
        put(level >= Level::L2, format!("namespace:{namespace}"));
    }
    let network = if has("open") { "network:as-ordered-open" } else { "network:none-but-ordered" };
    put(level >= Level::L1, network.to_owned());
    put(level >= Level::L2 && !has("open"), "namespace:net".to_owned());
    put(level >= Level::L2, "root:read-only".to_owned());
    let version = if has("landlock") { format!("landlock:{landlock}") } else { "landlock".to_owned() };
    put(has("landlock"), version);
    put(has("proc"), "proc:private".to_owned());
    put(has("user"), "user:unprivileged".to_owned());
    // Landlock does not guard modes and times: without namespaces a workload that shares the gateway's user may change
    // those of that user's files, though never what is in them.
    put(level >= Level::L2 || has("other_user"), "attributes:own-files-only".to_owned());
    put(level >= Level::L3, format!("cgroup:memory={}", resources.memory_bytes));
    put(level >= Level::L3, format!("cgroup:pids={}", resources.pids));
    put(true, format!("rlimit:as={}", resources.memory_bytes));
    put(true, format!("rlimit:cpu={}", resources.cpu_seconds));
    put(true, format!("rlimit:fsize={}", resources.file_bytes));
    put(true, format!("rlimit:nofile={}", resources.open_files));
    // Without a user namespace it counts whatever else the user runs, and bounds the run only roughly.
    put(level >= Level::L2, format!("rlimit:nproc={}", resources.pids));
    put(level >= Level::L2, format!("tmp:size={}", resources.tmp_bytes));
    put(true, format!("workspace:watched={}", resources.workspace_bytes));
    put(true, format!("wall:ms={}", resources.wall.0));
    put(true, format!("output:bytes={}", resources.output_bytes));
    evidence
}
