//! Every setting, with its default and its meaning. The reference page is generated from these comments.

use std::net::SocketAddr;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The whole configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// Where everything that must last is kept. The folder is created with mode 0700.
    pub data: Data,
    /// Where the gateway answers.
    pub listen: Listen,
    /// Credentials.
    pub identity: Identity,
    /// The signed log.
    pub ledger: Ledger,
    /// Policies.
    pub policy: Policy,
    /// Runners.
    pub runner: Runner,
    /// Where the values behind `secret://…` references of tools come from. No value stands in the configuration.
    pub secrets: Secrets,
    /// Bounds on what one caller may do.
    pub limits: Limits,
    /// What the gateway says about itself.
    pub log: Log,
}

/// Where everything that must last is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Data {
    /// Folder of the ledger, the keys, the bundles and the runs. Not on a network filesystem.
    pub dir: PathBuf,
    /// Bytes of disk below which only acts toward less authority are accepted (stop, reject, recovery).
    pub reserve_bytes: u64,
}

/// Where the gateway answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Listen {
    /// Address and port. Port 0 takes a free one. Off loopback, TLS or `insecure` is needed.
    pub address: SocketAddr,
    /// PEM file with the certificate chain. Read again when it changes.
    pub tls_certificate: Option<PathBuf>,
    /// PEM file with the private key. Read again when it changes.
    pub tls_key: Option<PathBuf>,
    /// Answer plain HTTP off loopback: for a proxy on a trusted network that ends TLS.
    pub insecure: bool,
    /// Seconds that running requests are given after SIGTERM.
    pub drain_s: u64,
}

/// Credentials.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Identity {
    /// Name of this installation in tokens (`iss` and `aud`).
    pub issuer: String,
    /// Seconds that a token of an agent, service or person lasts; at most 3600.
    pub token_ttl_s: u64,
    /// Seconds that a token with scope `decide` lasts; at most 900, and never longer than `token_ttl_s`.
    pub decide_ttl_s: u64,
}

/// The signed log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Ledger {
    /// First part of the origin line of new logs. It is public wherever checkpoints go: name no tenant in it.
    pub origin: String,
    /// File that new checkpoints are written to, within 100 ms and at the end, and that is read at start: an outside memory
    /// that shows a rollback.
    /// `countersign verify --known` takes a copy of it as it is.
    pub anchor: Option<PathBuf>,
    /// Entries that may wait for the committer before requests are answered 503.
    pub queue_entries: usize,
}

/// Policies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Policy {
    /// Seconds that a permit lasts before it lapses unstarted.
    pub permit_ttl_s: u64,
    /// The program cvc5, which proves the invariants of a bundle that is checked or activated. Unset: none is proved, and a
    /// bundle that insists on it is refused.
    pub solver: Option<PathBuf>,
    /// Seconds that all proofs about one bundle may take together.
    pub solver_s: u64,
    /// A folder or file of a sealed and signed bundle of the organization `default`: whatever is put there is checked like a
    /// candidate, and the log says what was found. Nobody's word is taken from a folder: a person puts it in force.
    pub watch: Option<PathBuf>,
    /// Seconds between two looks there.
    pub watch_s: u64,
}

/// Runners.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Runner {
    /// Run jobs in sandboxed processes on this machine.
    pub process: bool,
    /// Lowest sandbox level that is accepted (0 to 3); unset: the level found at the first start.
    pub min_level: Option<u8>,
    /// User id that runs drop to where the gateway runs as root.
    pub uid: u32,
    /// Seconds a run may take unless its tool says less.
    pub deadline_s: u64,
    /// Days for which a workspace is kept after nothing names it any more; 0: for ever.
    pub keep_workspaces_days: u64,
    /// Refuse jobs of workflows in shadow, for which policy is judged and not enforced.
    pub refuse_unenforced: bool,
}

/// Where the values behind `secret://…` references of tools come from. No value stands in the configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Secrets {
    /// Variables of the gateway's environment that tools of the organization `default` may name: `secret://env/NAME`. As
    /// a variable or a flag: names with commas between them. One that is not set, empty or some example's default refuses
    /// to start.
    pub environment: Vec<String>,
    /// Folder of files, with one folder for each organization, called by its id: `secret://file/PATH`, or
    /// `secret://file/PATH?key=KEY` for a member of a JSON object. Files that others can read are refused.
    pub folder: Option<PathBuf>,
}

/// Bounds on what one caller may do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Limits {
    /// Requests a second for each principal, sustained.
    pub requests_per_second: u32,
    /// Requests a principal may make at once before the rate counts.
    pub burst: u32,
    /// Largest request body in bytes; workspaces and packs have their own bound.
    pub body_bytes: usize,
    /// Largest workspace upload in bytes.
    pub workspace_bytes: usize,
}

/// What the gateway says about itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Log {
    /// What to log: a level, or `tracing` directives such as `info,countersign=debug`. At `debug` of
    /// `countersign_gateway_http` each answered request is logged with its id, status, instance and entry; at `info`
    /// those that are answered with a status of 401, 403, 429, or 500 and above.
    pub filter: String,
    /// One JSON object a line instead of text.
    pub json: bool,
}

impl Default for Data {
    fn default() -> Self {
        Self { dir: PathBuf::from("countersign-data"), reserve_bytes: 64 << 20 }
    }
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 7777)),
            tls_certificate: None,
            tls_key: None,
            insecure: false,
            drain_s: 20,
        }
    }
}

impl Default for Identity {
    fn default() -> Self {
        Self { issuer: "countersign".to_owned(), token_ttl_s: 900, decide_ttl_s: 900 }
    }
}

impl Default for Ledger {
    fn default() -> Self {
        Self { origin: "countersign.local".to_owned(), anchor: None, queue_entries: 4096 }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self { permit_ttl_s: 300, solver: None, solver_s: 20, watch: None, watch_s: 5 }
    }
}

impl Default for Runner {
    fn default() -> Self {
        Self {
            process: true,
            min_level: None,
            uid: 65_534,
            deadline_s: 600,
            keep_workspaces_days: 30,
            refuse_unenforced: true,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { requests_per_second: 200, burst: 400, body_bytes: 1 << 20, workspace_bytes: 32 << 20 }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { filter: "info".to_owned(), json: false }
    }
}
