//! The process beside a workload: it checks the start once more, runs the job, and records what became of it.
//!
//! It is the program itself, executed again and branched off in `main` before any runtime or thread; it has left the
//! gateway's session, so the gateway may end, be killed and start again while the run goes on. It owns the run's
//! folder and holds its lock. Its file writes are the only memory of the run.
//!
//! Order of durability: `started` is synced before `go`, `result` is synced and renamed after everything else.
//!
//! Read next: `running` (from the launch to the result), `rundir` (what the files mean together), `sandbox`.

mod running;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use countersign_runners_contract::entry::key::VKey;
use countersign_runners_contract::model::{Digest, Timestamp};
use countersign_runners_contract::{
    Evidence, Exit, FailureClass, Handle, JobSpec, LogTrust, Manifest, NetworkMode, Observation, Order, OrderError,
    Phase, SecretValue, SingleTrust, StreamEnd, Times,
};
use nix::fcntl::OFlag;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{pipe2, setsid};
use sha2::{Digest as _, Sha256};

use crate::cgroup::Group;
use crate::durable;
use crate::frames::Writer;
use crate::relay::Relay;
use crate::rundir::{self, Finished, Setup};
use crate::sandbox::{self, Launched, Payload};
use crate::spec::{ENV_ADDRESS, Level, SandboxSpec};
use crate::sys;
use crate::time::{machine_millis, monotonic};
use crate::workspace::{Trees, WorkspaceError};
use running::Running;

/// The exit code by which the launching half says that it is a shim and has detached.
pub(crate) const DETACHED: i32 = 87;

/// Why a run could not be begun.
pub(super) struct Refused {
    pub class: FailureClass,
    pub reason: String,
}

impl Refused {
    fn new(class: FailureClass, reason: impl Into<String>) -> Self {
        Self { class, reason: reason.into() }
    }

    fn infra(what: &str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::new(FailureClass::Infra, format!("cannot {what}: {error}"))
    }
}

/// The stage: detaches, then runs the job in `folder`. Never returns.
pub(crate) fn main(folder: &Path) -> ! {
    match detach() {
        Ok((lock, secrets)) => {
            let code = match run(folder, &secrets) {
                Ok(()) => 0,
                Err(error) => {
                    eprintln!("shim of `{}`: {error}", folder.display());
                    1
                }
            };
            // Held until the last word is written.
            drop(lock);
            sys::exit_now(code)
        }
        Err(error) => {
            eprintln!("shim of `{}`: cannot detach: {error}", folder.display());
            sys::exit_now(1)
        }
    }
}

/// Takes the lock (descriptor 0) and the secrets (descriptor 1) over, and leaves the gateway's session.
fn detach() -> io::Result<(OwnedFd, BTreeMap<String, Vec<u8>>)> {
    let given = sys::inherited(0)?;
    let lock = given.try_clone()?;
    let secrets = sys::inherited(1)?;
    let values = read_secrets(&mut File::from(secrets.try_clone()?))?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    // Their numbers are standard descriptors still, now of the null device.
    std::mem::forget((given, secrets));
    if sys::fork_single_threaded()?.is_some() {
        sys::exit_now(DETACHED);
    }
    setsid()?;
    Ok((lock, values))
}

/// Pairs of name and value, each with its length before it (u32, little-endian).
fn read_secrets(file: &mut File) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let mut out = BTreeMap::new();
    if file.rewind().is_err() {
        return Ok(out);
    }
    let mut next = || -> io::Result<Option<Vec<u8>>> {
        let mut length = [0; 4];
        match file.read_exact(&mut length) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        let length = usize::try_from(u32::from_le_bytes(length)).map_err(io::Error::other)?;
        let mut bytes = vec![0; length.min(1 << 20)];
        file.read_exact(&mut bytes)?;
        Ok(Some(bytes))
    };
    while let Some(name) = next()? {
        let value = next()?.ok_or_else(|| io::Error::other("a secret without a value"))?;
        out.insert(String::from_utf8(name).map_err(io::Error::other)?, value);
    }
    Ok(out)
}

/// What the shim knows while it works.
pub(super) struct Shim {
    folder: PathBuf,
    pub setup: Setup,
    fence: u64,
    pub started: Option<Timestamp>,
    pub evidence: Evidence,
    boot: Instant,
    boot_time: Timestamp,
}

fn run(folder: &Path, secrets: &BTreeMap<String, Vec<u8>>) -> io::Result<()> {
    std::env::set_current_dir(folder)?;
    let missing = |what: &str| io::Error::other(format!("`{what}` is missing"));
    let handle: Handle = durable::read_json(Path::new("handle"))?.ok_or_else(|| missing("handle"))?;
    let setup: Setup = durable::read_json(Path::new("setup"))?.ok_or_else(|| missing("setup"))?;
    let mut shim = Shim {
        folder: folder.to_owned(),
        // The gateway's clock at submission plus what has passed since: one clock decides about a start.
        boot_time: Timestamp(machine_millis().saturating_add_signed(setup.clock_offset)),
        boot: monotonic(),
        fence: handle.fence,
        setup,
        started: None,
        evidence: Evidence::default(),
    };
    let finished = match shim.begin(&handle, secrets) {
        Ok(running) => running.follow(&mut shim),
        Err(refused) => shim.never(Phase::Failed { class: refused.class, reason: refused.reason }),
    };
    // From here on the outcome is known to this file alone; without it the run counts as lost.
    durable::write_json(Path::new("result"), &finished)
}

impl Shim {
    pub(super) fn now(&self) -> Timestamp {
        let passed = u64::try_from(self.boot.elapsed().as_millis()).unwrap_or(u64::MAX);
        Timestamp(self.boot_time.0.saturating_add(passed))
    }

    pub(super) fn observation(&self, phase: Phase, never_started: bool, exit: Option<Exit>) -> Observation {
        Observation {
            phase,
            never_started,
            exit,
            oom: false,
            times: Times { submitted: Some(self.setup.submitted), started: self.started, ended: Some(self.now()) },
            evidence: self.evidence.clone(),
            workspace: None,
            fence: self.fence,
        }
    }

    pub(super) fn never(&self, phase: Phase) -> Finished {
        never_begun(self.observation(phase, true, None))
    }

    /// Checks the start, lays everything out, and launches the sandbox.
    fn begin(&mut self, handle: &Handle, secrets: &BTreeMap<String, Vec<u8>>) -> Result<Running, Refused> {
        let order = self.check(handle)?;
        let job = order.job().spec();
        let trees = self.lay_out(job)?;
        let (mut env, values) = environment(job, secrets)?;
        let relay = self.relay(job.network)?;
        let address = relay.as_ref().map_or(Ok(None), Relay::address);
        let address = address.map_err(Refused::infra("find the way to the gateway"))?;
        if let Some(address) = address {
            env.insert(ENV_ADDRESS.to_owned(), address.to_string().into());
        }
        let group = match (&self.setup.cgroup, self.setup.level) {
            (Some(parent), Level::L3) => {
                let name = rundir::name(handle.run, handle.attempt);
                Some(Group::create(parent, &name, &job.resources).map_err(Refused::infra("make a control group"))?)
            }
            _ => None,
        };
        let spec = SandboxSpec {
            level: self.setup.level,
            user: self.setup.user,
            folder: self.folder.clone(),
            command: job.command.iter().map(OsString::from).collect(),
            env,
            workdir: job.workdir.as_ref().map(|path| PathBuf::from(path.as_str())),
            network: job.network,
            port: address.map(|address| address.port()),
            resources: job.resources,
            read_only: self.setup.read_only.clone(),
            cgroup: group.as_ref().map(|group| group.path().to_owned()),
        };
        let cap = job.resources.output_bytes;
        let log = Writer::create(Path::new("log"), cap).map_err(Refused::infra("create the log"))?;
        let launch = || -> io::Result<(SignalFd, Launched, [OwnedFd; 2])> {
            // A supervisor that ends this process is heard, and what became of the run is still recorded.
            let mut mask = SigSet::empty();
            for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
                mask.add(signal);
            }
            sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mask), None)?;
            let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
            let (stdout, stdout_in) = pipe2(OFlag::O_CLOEXEC)?;
            let (stderr, stderr_in) = pipe2(OFlag::O_CLOEXEC)?;
            let null = File::open("/dev/null")?;
            let launched = sandbox::launch(&spec, &Payload::Program, [null.into(), stdout_in, stderr_in])?;
            Ok((signals, launched, [stdout, stderr]))
        };
        let (signals, launched, outputs) = launch().map_err(Refused::infra("launch the sandbox"))?;
        if let Some(relay) = relay {
            relay.serve();
        }
        Ok(Running::new(order, launched, signals, outputs, &values, log, trees, group))
    }

    /// Makes the run's folders and puts workspace and inputs into them.
    fn lay_out(&self, job: &JobSpec) -> Result<Trees, Refused> {
        // What a shim left that died before it began anything.
        let cleared = ["workspace", "tmp", "inputs", "net", "root"]
            .into_iter()
            .map(fs::remove_dir_all)
            .chain([fs::remove_file("log")])
            .find(|removed| removed.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::NotFound));
        cleared.unwrap_or(Ok(())).map_err(Refused::infra("clear the run's folder"))?;
        rundir::make_folders(&self.folder, self.setup.user).map_err(Refused::infra("make the run's folders"))?;
        let trees = Trees::open(&self.setup.trees, self.setup.caps).map_err(|error| refuse_workspace(&error))?;
        if let Some(digest) = job.workspace {
            trees
                .materialise_for(digest, Path::new("workspace"), self.setup.user)
                .map_err(|error| refuse_workspace(&error))?;
        }
        for (path, input) in &job.inputs {
            let target = Path::new("inputs").join(path.as_str());
            let write = || -> io::Result<()> {
                if let Some(parent) = target.parent() {
                    fs::create_dir_all(parent)?;
                }
                let mode = if input.executable { 0o555 } else { 0o444 };
                OpenOptions::new().write(true).create_new(true).mode(mode).open(&target)?.write_all(&input.bytes)
            };
            write().map_err(Refused::infra("write an input"))?;
        }
        Ok(trees)
    }

    fn relay(&self, network: NetworkMode) -> Result<Option<Relay>, Refused> {
        match (network, &self.setup.gateway) {
            (NetworkMode::Gateway, Some(gateway)) => {
                Relay::open(self.setup.level, gateway).map(Some).map_err(Refused::infra("open the way to the gateway"))
            }
            (NetworkMode::Gateway, None) => Err(Refused::new(FailureClass::Config, "no gateway address is configured")),
            (NetworkMode::None | NetworkMode::Open, _) => Ok(None),
        }
    }

    fn check(&self, handle: &Handle) -> Result<Order, Refused> {
        if Path::new("cancel").exists() {
            return Err(Refused::new(FailureClass::Policy, CANCELLED_BEFORE));
        }
        let sealed = fs::read("order").map_err(Refused::infra("read the order"))?;
        let refuse = |error: &OrderError| {
            let mut reason = error.to_string();
            let mut cause = std::error::Error::source(error);
            while let Some(error) = cause {
                reason = format!("{reason}: {error}");
                cause = error.source();
            }
            Refused::new(FailureClass::Policy, reason)
        };
        let root: VKey = self
            .setup
            .root_vkey
            .parse()
            .map_err(|_| Refused::new(FailureClass::Policy, "the configured root key is not a key"))?;
        // The genesis comes with the order and counts only if this root key signed it.
        let trust = SingleTrust { org: handle.org, log: LogTrust { root, genesis: Vec::new().into() } };
        let order = Order::open(&sealed, &trust, self.now()).map_err(|error| refuse(&error))?;
        let same = Handle::of(&order) == *handle && order.run().backend.as_str() == self.setup.backend;
        if same {
            Ok(order)
        } else {
            Err(Refused::new(FailureClass::Policy, "the order is not the one that this folder was made for"))
        }
    }
}

/// The environment of the workload, secrets included, and the values that are to be masked.
fn environment(
    job: &JobSpec,
    secrets: &BTreeMap<String, Vec<u8>>,
) -> Result<(BTreeMap<String, OsString>, Vec<SecretValue>), Refused> {
    let mut env: BTreeMap<String, OsString> =
        job.env.iter().map(|(name, value)| (name.clone(), OsString::from(value))).collect();
    let mut values = Vec::new();
    for (name, reference) in &job.secrets {
        let value = secrets
            .get(name)
            .cloned()
            .ok_or_else(|| Refused::new(FailureClass::Infra, format!("the secret of `{name}` did not arrive")))?;
        let value = SecretValue::new(reference, value)
            .map_err(|error| Refused::new(FailureClass::Config, error.to_string()))?;
        env.insert(name.clone(), OsString::from_vec(value.expose().to_vec()));
        values.push(value);
    }
    Ok((env, values))
}

/// The reason of a refusal that is a cancellation.
const CANCELLED_BEFORE: &str = "cancelled before it was begun";

pub(super) fn refuse_workspace(error: &WorkspaceError) -> Refused {
    let class = match error {
        WorkspaceError::Missing(_) => FailureClass::Config,
        WorkspaceError::TooLarge(_) => FailureClass::Resource,
        WorkspaceError::Damaged(_) | WorkspaceError::Io { .. } => FailureClass::Infra,
    };
    Refused::new(class, error.to_string())
}

/// The record of a run whose workload never ran: its log is empty and whole.
pub(crate) fn never_begun(mut observation: Observation) -> Finished {
    if matches!(&observation.phase, Phase::Failed { reason, .. } if reason == CANCELLED_BEFORE) {
        observation.phase = Phase::Cancelled;
    }
    let empty = StreamEnd { bytes: 0, sha256: Digest(Sha256::digest([]).into()), dropped: 0 };
    Finished { observation, manifest: Manifest::default(), stdout: Some(empty), stderr: Some(empty) }
}
