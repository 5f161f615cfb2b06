//! One run from the launch of its sandbox to its result: output, deadline, cancellation, limits, the last word.
//!
//! A single loop looks at everything; the relay's threads are the only others. Absent: how the run was prepared
//! (`shim`), what the walls are (`sandbox`).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use countersign_runners_contract::model::Timestamp;
use countersign_runners_contract::{
    Exit, FailureClass, Manifest, Masker, NetworkMode, Order, Phase, SecretValue, Stream,
};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use super::{Shim, refuse_workspace};
use crate::cgroup::Group;
use crate::durable;
use crate::frames::Writer;
use crate::overdue;
use crate::rundir::{self, Finished, Started};
use crate::sandbox::{self, Launched, Said};
use crate::time::{machine, monotonic};
use crate::workspace::{self, Trees};

/// How often the files of the run are looked at.
const TICK: Duration = Duration::from_millis(40);

/// How long a sandbox may take to be set up.
const SETUP_TIME: Duration = Duration::from_mins(1);

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

struct Output {
    fd: Option<File>,
    masker: Masker,
}

/// A launched sandbox and everything that is read from it.
pub(super) struct Running {
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
    #[expect(clippy::too_many_arguments, reason = "the parts of a run, each made elsewhere")]
    pub(super) fn new(
        order: Order,
        launched: Launched,
        signals: SignalFd,
        [stdout, stderr]: [OwnedFd; 2],
        values: &[SecretValue],
        log: Writer,
        trees: Trees,
        group: Option<Group>,
    ) -> Self {
        let output = |fd: OwnedFd| Output { fd: Some(File::from(fd)), masker: Masker::new(values) };
        Self {
            order,
            launched,
            signals,
            stdout: output(stdout),
            stderr: output(stderr),
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
        }
    }

    /// Follows the run to its end.
    pub(super) fn follow(mut self, shim: &mut Shim) -> Finished {
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
            ("other_user", shim.setup.user.is_some()),
        ]);
        shim.evidence = rundir::evidence(shim.setup.level, &job.resources, &facts, shim.setup.landlock_version);
        let pid = nix::unistd::getpid().as_raw();
        let started = Started {
            at: now,
            pid,
            start_time: crate::procfs::start_time(pid).unwrap_or_default(),
            boot: crate::procfs::boot_id(),
            since_start: overdue::since_start(),
            evidence: shim.evidence.clone(),
        };
        // After this the run counts as begun, whatever happens: if no result follows, it is lost, never repeated.
        durable::write_json(Path::new("started"), &started).map_err(|e| infra("record the start", &e))?;
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
                let Some(fd) = output.fd.as_mut().filter(|fd| is_readable(*fd)) else { break };
                let n = match fd.read(&mut buffer) {
                    Ok(n) => n,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(error),
                };
                let masked = if let Some(bytes) = buffer.get(..n).filter(|bytes| !bytes.is_empty()) {
                    output.masker.push(bytes)
                } else {
                    output.fd = None;
                    output.masker.finish()
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
                Ok(WaitStatus::StillAlive) if monotonic() < until => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                Ok(WaitStatus::StillAlive) => {
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
            let phase = if matches!(self.cut, Some((Cut::Cancelled, _))) {
                Phase::Cancelled
            } else {
                let reason = "the sandbox ended before it was set up".to_owned();
                Phase::Failed { class: FailureClass::Infra, reason }
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
                    let refused = refuse_workspace(&error);
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
