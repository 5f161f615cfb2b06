//! How the process runner is set up, and why it cannot be opened.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use countersign_runners_contract::model::Name;

use crate::durable;
use crate::spec::{GatewayEndpoint, Level, RunUser};
use crate::workspace::{Caps, WorkspaceError};

/// How the runner is set up.
#[derive(Debug, Clone)]
pub struct ProcessConfig {
    /// Its folder: runs, workspaces, the remembered level. Only its owner may list it.
    pub folder: PathBuf,
    /// The backend's name, which a start has to carry.
    pub backend: Name,
    /// Who runs become where this program is root. Ignored where it is not.
    pub user: RunUser,
    /// The least level that runs may have. None: the level found at the first start, remembered in the folder; and
    /// where that is `L0`, no run at all. `L0` is only ever had by asking for it here.
    pub minimum: Option<Level>,
    /// The strongest level to use: `L3`, but for machines whose stronger levels disturb the work.
    pub strongest: Level,
    /// Where the gateway listens, for network mode `gateway`.
    pub gateway: Option<GatewayEndpoint>,
    /// Further files and folders that every run sees read-only.
    pub read_only: Vec<PathBuf>,
    /// A delegated control group (cgroup v2). None: this process' own, if it may be divided.
    pub cgroup: Option<PathBuf>,
    /// Whether jobs of workflows in shadow, which policy was not enforced for, are refused.
    pub refuse_unenforced: bool,
    /// Caps of a workspace.
    pub caps: Caps,
    /// The program that branches into stages; none is this one.
    pub program: Option<PathBuf>,
}

impl ProcessConfig {
    /// Defaults around a folder.
    pub fn new(folder: PathBuf, backend: Name) -> Self {
        Self {
            folder,
            backend,
            user: RunUser::default(),
            minimum: None,
            strongest: Level::L3,
            gateway: None,
            read_only: Vec::new(),
            cgroup: None,
            refuse_unenforced: true,
            caps: Caps::default(),
            program: None,
        }
    }
}

/// Why the runner cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its folder cannot be used.
    #[error("the runner's folder `{folder}` cannot be used")]
    Folder {
        /// Which.
        folder: PathBuf,
        /// What the machine said.
        #[source]
        source: io::Error,
    },
    /// Its store of workspaces cannot be used.
    #[error("the runner's workspaces cannot be used")]
    Workspaces(#[source] WorkspaceError),
    /// The canary could not be run.
    #[error("the sandbox canary could not be run: does `main` call `shim_main_if_asked` first?")]
    Canary(#[source] io::Error),
    /// Runs would be root's.
    #[error("`runner.uid` is 0: runs may not be root's; choose an unprivileged user")]
    Root,
}

/// The program that branches into stages.
pub(crate) fn program_of(config: &ProcessConfig) -> OsString {
    // The very file that runs, also when its name has been given to a newer one.
    config.program.clone().map_or_else(|| OsString::from("/proc/self/exe"), PathBuf::into_os_string)
}

/// The least level that runs may have: as configured, or as found at the first start and remembered.
pub(crate) fn minimum(config: &ProcessConfig, folder: &Path, found: Level) -> io::Result<Option<Level>> {
    if config.minimum.is_some() {
        return Ok(config.minimum);
    }
    let path = folder.join("minimum-level");
    if let Some(level) = durable::read_json::<Level>(&path)? {
        return Ok(Some(level));
    }
    if found == Level::L0 {
        return Ok(None);
    }
    durable::write_json(&path, &found)?;
    Ok(Some(found))
}
