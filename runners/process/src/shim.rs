//! The process beside a workload: it checks the start once more, runs the job, and records what became of it.
//!
//! It is the program itself, executed again and branched off in `main` before any runtime or thread; it has left the
//! gateway's session, so the gateway may end, be killed and start again while the run goes on. It owns the run's
//! folder and holds its lock. Its file writes are the only memory of the run.
//!
//! Order of durability: `started` is synced before `go`, `result` is synced and renamed after everything else.
//!
//! Read next: `rundir` (what the files mean together), `sandbox` (what holds the workload).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use countersign_runners_contract::entry::key::VKey;
use countersign_runners_contract::model::Timestamp;
use countersign_runners_contract::{
    Evidence, Exit, FailureClass, Handle, LogTrust, Manifest, Masker, NetworkMode, Observation, Order, OrderError,
    Phase, SecretValue, SingleTrust, Stream, StreamEnd, Times,
};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{pipe2, setsid};

use crate::cgroup::Group;
use crate::frames::Writer;
use crate::relay::Relay;
use crate::rundir::{self, Finished, Setup, Started};
use crate::sandbox::{self, Launched, Payload, Said};
use crate::spec::{ENV_ADDRESS, Level, SandboxSpec};
use crate::sys;
use crate::time::{machine, machine_millis, monotonic};
use crate::workspace::{self, Trees, WorkspaceError};

/// The exit code by which the launching half says that it is a shim and has detached.
pub(crate) const DETACHED: i32 = 87;

/// How often the files of the run are looked at.
const TICK: Duration = Duration::from_millis(40);

/// How long a sandbox may take to be set up.
const SETUP_TIME: Duration = Duration::from_secs(60);

/// From asking to killing, when the deadline or a limit ends a run.
const LIMIT_GRACE: Duration = Duration::from_secs(2);

/// How long output is awaited after everything inside was killed.
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// Why a run ended before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    Cancelled,
    Deadline,
    Lease,
    Disk,
    Shutdown,
    Log,
}

/// Why a run could not be begun.
struct Refused {
    class: FailureClass,
    reason: String,
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
            let code = match run(folder, secrets) {
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
    use std::io::Seek as _;
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
struct Shim {
    folder: PathBuf,
    setup: Setup,
    fence: u64,
    started: Option<Timestamp>,
    evidence: Evidence,
    boot: Instant,
    boot_time: Timestamp,
}

fn run(folder: &Path, secrets: BTreeMap<String, Vec<u8>>) -> io::Result<()> {
    std::env::set_current_dir(folder)?;
    let missing = |what: &str| io::Error::other(format!("`{what}` is missing"));
    let handle: Handle = rundir::read_json(Path::new("handle"))?.ok_or_else(|| missing("handle"))?;
    let setup: Setup = rundir::read_json(Path::new("setup"))?.ok_or_else(|| missing("setup"))?;
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
    rundir::write_json(Path::new("result"), &finished)
}

impl Shim {
    fn now(&self) -> Timestamp {
        let passed = u64::try_from(self.boot.elapsed().as_millis()).unwrap_or(u64::MAX);
        Timestamp(self.boot_time.0.saturating_add(passed))
    }

    fn cancelled() -> bool {
        Path::new("cancel").exists()
    }

    fn observation(&self, phase: Phase, never_started: bool, exit: Option<Exit>) -> Observation {
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

    fn never(&self, phase: Phase) -> Finished {
        never_begun(self.observation(phase, true, None))
    }

    /// Checks the start, lays everything out, and launches the sandbox.
    fn begin(&mut self, handle: &Handle, secrets: BTreeMap<String, Vec<u8>>) -> Result<Running, Refused> {
        let order = self.check(handle)?;
        let job = order.job().spec().clone();
        let resources = job.resources;
        // What a shim left that died before it began anything.
        for name in ["workspace", "tmp", "inputs", "net", "root"] {
            match fs::remove_dir_all(name) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Refused::infra("clear the run's folder")(error));
                }
                _ => {}
            }
        }
        match fs::remove_file("log") {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Refused::infra("clear the run's log")(error));
            }
            _ => {}
        }
        rundir::make_folders(&self.folder, self.setup.user).map_err(Refused::infra("make the run's folders"))?;
        let trees = Trees::open(&self.setup.trees, self.setup.caps).map_err(refuse_workspace)?;
        if let Some(digest) = job.workspace {
            trees.materialise_for(digest, Path::new("workspace"), self.setup.user).map_err(refuse_workspace)?;
        }
        for (path, input) in &job.inputs {
            let target = Path::new("inputs").join(path.as_str());
            let mode = if input.executable { 0o555 } else { 0o444 };
            let write = || -> io::Result<()> {
                use std::io::Write as _;
                if let Some(parent) = target.parent() {
                    fs::create_dir_all(parent)?;
                }
                let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&target)?;
                file.write_all(&input.bytes)
            };
            write().map_err(Refused::infra("write an input"))?;
        }

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

        let relay = match (job.network, &self.setup.gateway) {
            (NetworkMode::Gateway, Some(gateway)) => {
                Some(Relay::open(self.setup.level, gateway).map_err(Refused::infra("open the way to the gateway"))?)
            }
            (NetworkMode::Gateway, None) => {
                return Err(Refused::new(FailureClass::Config, "no gateway address is configured"));
            }
            _ => None,
        };
        let address = match &relay {
            Some(relay) => relay.address().map_err(Refused::infra("find the way to the gateway"))?,
            None => None,
        };
        if let Some(address) = address {
            env.insert(ENV_ADDRESS.to_owned(), address.to_string().into());
        }
        let group = match (&self.setup.cgroup, self.setup.level) {
            (Some(parent), Level::L3) => {
                let name = rundir::name(handle.run, handle.attempt);
                Some(Group::create(parent, &name, &resources).map_err(Refused::infra("make a control group"))?)
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
            resources,
            read_only: self.setup.read_only.clone(),
            cgroup: group.as_ref().map(|group| group.path().to_owned()),
        };
        let log = Writer::create(Path::new("log"), resources.output_bytes).map_err(Refused::infra("create the log"))?;

        // A supervisor that ends this process is heard, and what became of the run is still recorded.
        let mut mask = SigSet::empty();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            mask.add(signal);
        }
        let signals = sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mask), None)
            .and_then(|()| SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK))
            .map_err(io::Error::from)
            .map_err(Refused::infra("watch signals"))?;
        let launch = || -> io::Result<(Launched, OwnedFd, OwnedFd)> {
            let (stdout, stdout_in) = pipe2(OFlag::O_CLOEXEC)?;
            let (stderr, stderr_in) = pipe2(OFlag::O_CLOEXEC)?;
            let null = File::open("/dev/null")?;
            let launched = sandbox::launch(&spec, &Payload::Program, [null.into(), stdout_in, stderr_in])?;
            Ok((launched, stdout, stderr))
        };
        let (launched, stdout, stderr) = launch().map_err(Refused::infra("launch the sandbox"))?;
        if let Some(relay) = relay {
            relay.serve();
        }
        let stream = |fd| Output { fd: Some(File::from(fd)), masker: Masker::new(&values) };
        Ok(Running {
            order,
            launched,
            signals,
            stdout: stream(stdout),
            stderr: stream(stderr),
            log: Some(log),
            trees,
            group,
            held: Vec::new(),
            status_open: true,
            ready: None,
            not_executed: None,
            exit: None,
            broken: None,
            cut: None,
            kill_at: None,
        })
    }

    fn check(&self, handle: &Handle) -> Result<Order, Refused> {
        if Self::cancelled() {
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

/// The reason of a refusal that is a cancellation.
const CANCELLED_BEFORE: &str = "cancelled before it was begun";

fn refuse_workspace(error: WorkspaceError) -> Refused {
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
    let empty = StreamEnd {
        bytes: 0,
        sha256: countersign_runners_contract::model::Digest(<sha2::Sha256 as sha2::Digest>::digest([]).into()),
        dropped: 0,
    };
    Finished { observation, manifest: Manifest::default(), stdout: Some(empty), stderr: Some(empty) }
}

struct Output {
    fd: Option<File>,
    masker: Masker,
}

/// A launched sandbox and everything that is read from it.
struct Running {
    order: Order,
    launched: Launched,
    signals: SignalFd,
    stdout: Output,
    stderr: Output,
    log: Option<Writer>,
    trees: Trees,
    group: Option<Group>,
    held: Vec<u8>,
    status_open: bool,
    ready: Option<(bool, bool)>,
    not_executed: Option<Errno>,
    exit: Option<Exit>,
    broken: Option<sandbox::Step>,
    /// The first reason to end the run early, and when it came.
    cut: Option<(Cut, Instant)>,
    kill_at: Option<Instant>,
}

impl Running {
    fn follow(mut self, shim: &mut Shim) -> Finished {
        let begun = monotonic();
        let resources = self.order.job().spec().resources;
        let lease = self.order.job().spec().lease.map(|lease| Duration::from_millis(lease.0));
        let mut deadline = begun + SETUP_TIME;
        let mut next_look = begun;
        let mut drained_by: Option<Instant> = None;
        loop {
            let open = self.status_open || self.stdout.fd.is_some() || self.stderr.fd.is_some();
            if !open {
                break;
            }
            self.wait();
            self.read_status();
            if self.ready.is_some() && shim.started.is_none() {
                match self.begin_workload(shim) {
                    Ok(()) => deadline = monotonic() + Duration::from_millis(resources.wall.0),
                    Err(phase) => {
                        self.launched.kill();
                        self.clear_up();
                        return shim.never(phase);
                    }
                }
            }
            if let Err(error) = self.read_output(shim.now()) {
                eprintln!("cannot write the log: {error}");
                self.cut(Cut::Log, LIMIT_GRACE);
                // Nothing more can be stored, and a full pipe would only hold the end up.
                (self.stdout.fd, self.stderr.fd, self.log) = (None, None, None);
            }
            let now = monotonic();
            if self.status_open {
                if let Some(grace) = cancel_grace() {
                    self.cut(Cut::Cancelled, grace);
                }
                if matches!(self.signals.read_signal(), Ok(Some(_))) {
                    self.cut(Cut::Shutdown, LIMIT_GRACE);
                }
                if now >= deadline {
                    self.cut(Cut::Deadline, LIMIT_GRACE);
                }
                if now >= next_look && shim.started.is_some() {
                    let looked = monotonic();
                    if workspace::usage(Path::new("workspace"), resources.workspace_bytes) > resources.workspace_bytes {
                        self.cut(Cut::Disk, Duration::ZERO);
                    }
                    if lease.is_some_and(|lease| unfollowed_for() > lease) {
                        self.cut(Cut::Lease, LIMIT_GRACE);
                    }
                    // Looking may take no more than a twentieth of the time.
                    next_look = now + Duration::from_millis(500).max(looked.elapsed() * 20);
                }
                if let Some(at) = self.kill_at.filter(|at| now >= *at) {
                    self.launched.kill();
                    // If its first process does not obey, the outermost takes everything along.
                    if now >= at + Duration::from_secs(3) {
                        let _ = kill(self.launched.outer, Signal::SIGKILL);
                    }
                }
            } else {
                let by = *drained_by.get_or_insert(now + DRAIN_TIME);
                if now >= by {
                    (self.stdout.fd, self.stderr.fd) = (None, None);
                }
            }
        }
        self.conclude(shim)
    }

    /// Makes the start durable, then lets the workload begin; or says why it may not.
    fn begin_workload(&mut self, shim: &mut Shim) -> Result<(), Phase> {
        let infra = |what: &str, error: &io::Error| {
            let reason = format!("cannot {what}: {error}");
            Phase::Failed { class: FailureClass::Infra, reason }
        };
        let now = shim.now();
        if cancel_grace().is_some() {
            return Err(Phase::Cancelled);
        }
        if let Err(error) = self.order.check_time(now) {
            return Err(Phase::Failed { class: FailureClass::Policy, reason: error.to_string() });
        }
        let job = self.order.job().spec();
        let (proc, landlock) = self.ready.unwrap_or_default();
        let facts = BTreeMap::from([
            ("proc", proc),
            ("landlock", landlock),
            ("open", job.network == NetworkMode::Open),
            ("user", true),
        ]);
        shim.evidence = rundir::evidence(shim.setup.level, &job.resources, &facts, shim.setup.landlock_version);
        let pid = nix::unistd::getpid().as_raw();
        let started = Started {
            at: now,
            pid,
            start_time: crate::procfs::start_time(pid).unwrap_or_default(),
            boot: crate::procfs::boot_id(),
            evidence: shim.evidence.clone(),
        };
        // After this the run counts as begun, whatever happens: if no result follows, it is lost, never repeated.
        rundir::write_json(Path::new("started"), &started).map_err(|e| infra("record the start", &e))?;
        shim.started = Some(now);
        self.launched.go().map_err(|e| infra("let the workload begin", &e))
    }

    /// Ends the run early. The first reason stands; a later one may only shorten the time that is left.
    fn cut(&mut self, why: Cut, grace: Duration) {
        let (_, since) = *self.cut.get_or_insert_with(|| {
            self.launched.terminate();
            (why, monotonic())
        });
        let at = since + grace;
        self.kill_at = Some(self.kill_at.map_or(at, |earlier| earlier.min(at)));
    }

    fn wait(&self) {
        let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        if self.status_open {
            fds.push(PollFd::new(self.launched.status.as_fd(), PollFlags::POLLIN));
        }
        for output in [&self.stdout, &self.stderr] {
            if let Some(fd) = &output.fd {
                fds.push(PollFd::new(fd.as_fd(), PollFlags::POLLIN));
            }
        }
        let timeout = u16::try_from(TICK.as_millis()).unwrap_or(u16::MAX);
        // An interrupted wait is a short one.
        let _ = poll(&mut fds, PollTimeout::from(timeout));
    }

    fn read_status(&mut self) {
        while self.status_open && is_readable(&self.launched.status) {
            let mut buffer = [0u8; 4096];
            match nix::unistd::read(&self.launched.status, &mut buffer) {
                Ok(0) => self.status_open = false,
                Ok(n) => self.held.extend_from_slice(buffer.get(..n).unwrap_or_default()),
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(_) => self.status_open = false,
            }
            for said in sandbox::parse(&mut self.held) {
                match said {
                    Said::Ready { proc, landlock } => self.ready = Some((proc, landlock)),
                    Said::NotExecuted(errno) => self.not_executed = Some(errno),
                    Said::Code(code) => self.exit = Some(Exit::Code(code)),
                    Said::Signal(signal) => self.exit = Some(Exit::Signal(signal)),
                    Said::Failed(step) => self.broken = Some(step),
                    Said::Sang(_) => {}
                }
            }
        }
    }

    /// Stores what the workload wrote, masked.
    fn read_output(&mut self, at: Timestamp) -> io::Result<()> {
        let mut buffer = vec![0u8; 64 * 1024];
        for (stream, output) in [(Stream::Stdout, &mut self.stdout), (Stream::Stderr, &mut self.stderr)] {
            // A few reads for each in turn, so that a loud stream does not hold the other up.
            for _ in 0..4 {
                let Some(fd) = output.fd.as_mut().filter(|fd| is_readable(fd)) else { break };
                let n = match fd.read(&mut buffer) {
                    Ok(n) => n,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(error),
                };
                let masked = match buffer.get(..n).filter(|bytes| !bytes.is_empty()) {
                    Some(bytes) => output.masker.push(bytes),
                    None => {
                        output.fd = None;
                        output.masker.finish()
                    }
                };
                if let Some(log) = self.log.as_mut().filter(|_| !masked.is_empty()) {
                    log.write(stream, &masked, at)?;
                }
            }
        }
        Ok(())
    }

    /// Nothing inside is left, and nothing of it outside.
    fn clear_up(&mut self) {
        let until = monotonic() + Duration::from_secs(5);
        loop {
            match waitpid(self.launched.outer, Some(WaitPidFlag::WNOHANG)) {
                Ok(nix::sys::wait::WaitStatus::StillAlive) if monotonic() < until => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                Ok(nix::sys::wait::WaitStatus::StillAlive) => {
                    let _ = kill(self.launched.outer, Signal::SIGKILL);
                    let _ = waitpid(self.launched.outer, None);
                    break;
                }
                _ => break,
            }
        }
        if let Some(group) = self.group.take() {
            group.remove();
        }
    }

    fn conclude(mut self, shim: &Shim) -> Finished {
        let oom = self.group.as_ref().is_some_and(Group::out_of_memory);
        self.clear_up();
        if let Some(step) = self.broken.take().filter(|_| shim.started.is_none()) {
            // What the job itself names wrongly is its own fault; everything else is the machine's.
            let class = if step.step.contains("working folder") { FailureClass::Config } else { FailureClass::Infra };
            return shim.never(Phase::Failed { class, reason: format!("the sandbox {step}") });
        }
        if shim.started.is_none() {
            let phase = match self.cut {
                Some((Cut::Cancelled, _)) => Phase::Cancelled,
                _ => {
                    let reason = "the sandbox ended before it was set up".to_owned();
                    Phase::Failed { class: FailureClass::Infra, reason }
                }
            };
            return shim.never(phase);
        }
        let at = shim.now();
        let mut ends = (None, None);
        if let Some(mut log) = self.log.take() {
            let out = self.stdout.masker.finish();
            let err = self.stderr.masker.finish();
            let written = log.write(Stream::Stdout, &out, at).and_then(|()| log.write(Stream::Stderr, &err, at));
            match written.and_then(|()| log.finish()) {
                Ok((stdout, stderr)) => ends = (Some(stdout), Some(stderr)),
                Err(error) => eprintln!("cannot finish the log: {error}"),
            }
        }
        let job = self.order.job().spec();
        let mut observation = shim.observation(self.phase(oom), self.not_executed.is_some(), self.exit);
        if self.not_executed.is_some() {
            observation.exit = None;
        }
        observation.oom = oom;
        let mut manifest = Manifest::default();
        let owner = shim.setup.user.map_or_else(|| nix::unistd::geteuid().as_raw(), |user| user.uid);
        match self.trees.snapshot_of(Path::new("workspace"), Some(owner)) {
            Ok(snapshot) => {
                manifest = snapshot.tree.select(&job.artifacts, job.resources.artifact_bytes, &snapshot.refused);
                observation.workspace = Some(snapshot.digest);
            }
            Err(error) => {
                eprintln!("cannot take the workspace: {error}");
                // A success whose result cannot be carried on is none.
                if observation.phase == Phase::Succeeded {
                    let refused = refuse_workspace(error);
                    observation.phase = Phase::Failed { class: refused.class, reason: refused.reason };
                }
            }
        }
        Finished { observation, manifest, stdout: ends.0, stderr: ends.1 }
    }

    fn phase(&self, oom: bool) -> Phase {
        let failed = |class, reason: String| Phase::Failed { class, reason };
        if let Some(errno) = self.not_executed {
            let program = self.order.job().spec().command.first().map_or("", String::as_str);
            let plain: String = program.chars().filter(|c| !c.is_control()).take(120).collect();
            return failed(FailureClass::Config, format!("`{plain}` could not be executed: {}", errno.desc()));
        }
        match self.cut {
            Some((Cut::Cancelled, _)) => return Phase::Cancelled,
            Some((Cut::Deadline | Cut::Lease, _)) => return Phase::TimedOut,
            Some((Cut::Disk, _)) => {
                return failed(FailureClass::Resource, "the workspace grew beyond its limit".to_owned());
            }
            Some((Cut::Shutdown, _)) => {
                return failed(FailureClass::Infra, "the machine asked the run's shim to end".to_owned());
            }
            Some((Cut::Log, _)) => {
                return failed(FailureClass::Infra, "its output could not be stored".to_owned());
            }
            None => {}
        }
        if oom {
            return failed(FailureClass::Resource, "the run was out of memory".to_owned());
        }
        match self.exit {
            Some(Exit::Code(0)) => Phase::Succeeded,
            Some(Exit::Code(code)) => failed(FailureClass::User, format!("it exited with code {code}")),
            Some(Exit::Signal(libc::SIGXCPU)) => failed(FailureClass::Resource, "it used up its CPU time".to_owned()),
            Some(Exit::Signal(libc::SIGXFSZ)) => {
                failed(FailureClass::Resource, "it wrote a file beyond its limit".to_owned())
            }
            Some(Exit::Signal(signal)) => failed(FailureClass::User, format!("it was ended by signal {signal}")),
            None => failed(FailureClass::Infra, "the sandbox ended without a word".to_owned()),
        }
    }
}

/// The grace of a cancellation, if one was asked for.
fn cancel_grace() -> Option<Duration> {
    let text = fs::read_to_string("cancel").ok()?;
    // A request that cannot be read is one for the shortest grace.
    Some(Duration::from_millis(text.trim().parse().unwrap_or_default()))
}

/// How long ago somebody last asked how the run is.
fn unfollowed_for() -> Duration {
    let modified = fs::metadata("contact").and_then(|metadata| metadata.modified());
    // A time in the future is now: the clock was set back.
    modified.map_or(Duration::MAX, |at| machine().duration_since(at).unwrap_or_default())
}

fn is_readable(fd: &impl std::os::fd::AsFd) -> bool {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    // An end of file or an error is there to be read as well.
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|n| n > 0)
}
