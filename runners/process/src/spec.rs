//! What one sandbox is to be: level, identity, folders, limits, network, command. Plain data.
//!
//! Absent: how any of it is enforced (`sandbox`), and where it comes from (`runner`, `agent`).
//!
//! Read next: `sandbox`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use countersign_runners_contract::{NetworkMode, Resources};
use serde::{Deserialize, Serialize};

/// How well this machine can hold a workload in. Ordered: a greater level holds more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Level {
    /// Nothing but resource limits. Never used for a run unless it was configured.
    L0,
    /// Landlock, seccomp, resource limits: the machine is visible in part, and not writable.
    L1,
    /// Namespaces, seccomp, resource limits, and Landlock where there is one: the machine is not visible.
    L2,
    /// As L2, with memory and processes of the whole run bound by a control group.
    L3,
}

impl Level {
    /// Every level, strongest first.
    pub const STRONGEST_FIRST: [Self; 4] = [Self::L3, Self::L2, Self::L1, Self::L0];

    /// `L0` to `L3`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::L0 => "L0",
            Self::L1 => "L1",
            Self::L2 => "L2",
            Self::L3 => "L3",
        }
    }

    /// 0 to 3, as it stands in an entry.
    pub fn number(self) -> u8 {
        match self {
            Self::L0 => 0,
            Self::L1 => 1,
            Self::L2 => 2,
            Self::L3 => 3,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The user and group that workloads run as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunUser {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl Default for RunUser {
    /// `nobody` and `nogroup` of every common distribution.
    fn default() -> Self {
        Self { uid: 65534, gid: 65534 }
    }
}

/// Where the gateway listens, as seen from outside the sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GatewayEndpoint {
    /// A Unix socket.
    Unix(PathBuf),
    /// A TCP address.
    Tcp(SocketAddr),
}

/// One sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SandboxSpec {
    /// The level, which is set up whole or not at all.
    pub level: Level,
    /// The user to become; none where the program is not root already.
    pub user: Option<RunUser>,
    /// The folder that holds `workspace`, `tmp`, `inputs`, `net` and `root`.
    pub folder: PathBuf,
    /// Program and arguments.
    pub command: Vec<OsString>,
    /// The environment without secrets.
    pub env: BTreeMap<String, OsString>,
    /// The folder to start in, below the workspace.
    pub workdir: Option<PathBuf>,
    /// What can be reached.
    pub network: NetworkMode,
    /// At L1 in mode `gateway`: the only TCP port that may be connected to.
    pub port: Option<u16>,
    /// Limits.
    pub resources: Resources,
    /// Further folders and files of the machine that are visible read-only, at the same path.
    pub read_only: Vec<PathBuf>,
    /// The delegated control group of the run, at L3.
    pub cgroup: Option<PathBuf>,
}

/// Where things are inside, at levels with namespaces.
pub(crate) const WORKSPACE: &str = "/workspace";
/// Read-only inputs, as above.
pub(crate) const INPUTS: &str = "/run/inputs";
/// The folder of the gateway's socket, as above.
pub(crate) const NET: &str = "/run/countersign";
/// The file name of the gateway's socket.
pub(crate) const SOCKET: &str = "gateway.sock";
/// Where programs are searched.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Variable: where the read-only inputs are.
pub const ENV_INPUTS: &str = "COUNTERSIGN_INPUTS";
/// Variable: path of the gateway's Unix socket, where the sandbox has one.
pub const ENV_SOCKET: &str = "COUNTERSIGN_GATEWAY_SOCKET";
/// Variable: TCP address of the gateway, where the sandbox has no socket of its own.
pub const ENV_ADDRESS: &str = "COUNTERSIGN_GATEWAY_ADDRESS";
/// Variable: the workspace.
pub const ENV_WORKSPACE: &str = "COUNTERSIGN_WORKSPACE";

/// System folders that a program needs to start, read-only.
pub(crate) const SYSTEM: [&str; 8] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store"];

/// Files of `/etc` that programs need to start.
pub(crate) const ETC: [&str; 3] = ["/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime"];

/// What of `/etc` programs give up over if they see it and may not read it, where it cannot be hidden.
pub(crate) const ETC_VISIBLE: [&str; 2] = ["/etc/gitconfig", "/etc/ssl/openssl.cnf"];

/// What of `/etc` is needed where the network is open.
pub(crate) const ETC_NETWORK: [&str; 7] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/services",
    "/etc/ssl",
    "/etc/pki",
    "/etc/ca-certificates",
];

/// Devices that every program may use.
pub(crate) const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];
