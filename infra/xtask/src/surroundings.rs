//! What this program knows of the machine: the one place where it reads the environment and the clock.
//!
//! Absent: any decision. Next: `test.rs`, which is handed a [`Surroundings`].

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// The machine and the checkout that this run works on.
pub struct Surroundings {
    /// The folder of the workspace manifest.
    pub root: PathBuf,
    /// Where cargo builds.
    pub target: PathBuf,
    /// Whether continuous integration asks (`CI` is set, and not to `false`): then what is skipped has failed.
    pub ci: bool,
    /// Whether this runs as root, and so may install packages.
    pub is_root: bool,
    /// Whether a person watches.
    pub terminal: bool,
    cargo: OsString,
    search: Vec<PathBuf>,
    cache: Option<PathBuf>,
}

impl Surroundings {
    /// Reads them once. Fails if this is not run by cargo within its checkout.
    #[expect(clippy::disallowed_methods, reason = "this program reads the environment here, once")]
    pub fn read() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .ancestors()
            .nth(2)
            .filter(|root| root.join("Cargo.lock").is_file())
            .context("the checkout that built this program is gone: run `cargo xtask` in the checkout")?
            .to_owned();
        let search = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
        let home = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let mut read = Self {
            target: PathBuf::new(),
            ci: env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false"),
            is_root: fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0),
            terminal: std::io::IsTerminal::is_terminal(&std::io::stderr()),
            cargo: env::var_os("CARGO").unwrap_or_else(|| "cargo".into()),
            search,
            cache: home("XDG_CACHE_HOME").or_else(|| home("HOME").map(|home| home.join(".cache"))),
            root,
        };
        read.target = read.target_directory()?;
        Ok(read)
    }

    fn target_directory(&self) -> Result<PathBuf> {
        let output = self
            .cargo(&["metadata", "--no-deps", "--format-version", "1"])
            .stderr(Stdio::inherit())
            .output()
            .context("cannot run `cargo metadata`")?;
        ensure!(output.status.success(), "`cargo metadata` failed");
        let metadata: Value =
            serde_json::from_slice(&output.stdout).context("`cargo metadata` did not answer in JSON")?;
        let target = metadata.get("target_directory").and_then(Value::as_str);
        Ok(target.context("`cargo metadata` names no `target_directory`")?.into())
    }

    /// Cargo, in the workspace, as if called from a shell.
    pub fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.cargo);
        command.args(arguments).current_dir(&self.root);
        // Set for this program by the cargo that runs it. Some build scripts watch them, and would build again each time.
        for name in own_cargo_variables() {
            command.env_remove(name);
        }
        if self.terminal {
            command.env("CARGO_TERM_COLOR", "always");
        }
        if self.ci {
            command.env("CARGO_INCREMENTAL", "0");
        }
        command
    }

    /// The program as the workspace's dev profile builds it.
    pub fn built_program(&self) -> PathBuf {
        self.target.join("debug/countersign")
    }

    /// Where `name` is found on the search path.
    pub fn find(&self, name: &str) -> Option<PathBuf> {
        self.search.iter().map(|folder| folder.join(name)).find(|path| is_executable(path))
    }

    /// Where tools that we build once are kept, apart from the checkout so that a clean one finds them again.
    pub fn tools(&self) -> Result<PathBuf> {
        let cache =
            self.cache.as_ref().context("neither `XDG_CACHE_HOME` nor `HOME` is set: no place to keep tools")?;
        Ok(cache.join("countersign/tools"))
    }
}

/// Whether `path` is a file that its owner may execute.
pub fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.mode() & 0o100 != 0)
}

#[expect(clippy::disallowed_methods, reason = "names what the children are not to inherit")]
fn own_cargo_variables() -> Vec<OsString> {
    let own = |name: &str| {
        ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| name.starts_with(prefix))
            || name == "CARGO_PRIMARY_PACKAGE"
    };
    env::vars_os().map(|(name, _)| name).filter(|name| name.to_str().is_some_and(own)).collect()
}

/// Measures how long a step took.
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts now.
    #[expect(clippy::disallowed_methods, reason = "a duration shown to a person")]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The time since the start.
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}
