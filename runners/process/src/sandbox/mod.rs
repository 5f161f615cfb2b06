//! A sandbox: forked stages that become the run's user, enter namespaces, lock themselves in, and start the workload.
//!
//! ```text
//! shim ── outer ── init ── workload
//! ```
//!
//! *outer* becomes the run's user and enters the namespaces; *init* is their first process (without namespaces: the
//! subreaper), builds the root, starts the workload, and ends with it, taking every descendant along; the *workload*
//! locks itself in, says `ready`, waits for `go`, and executes the program. Each dies with its parent.
//!
//! Whoever launches one has a single thread. Absent: deadlines, logs, results (`shim`).
//!
//! Read next: `mounts`, `landlock`, `seccomp`, `limits`, then `crate::shim`.

mod escape;
mod landlock;
mod limits;
mod mounts;
pub(crate) mod seccomp;

use std::ffi::{CString, OsStr, OsString};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use countersign_runners_contract::NetworkMode;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Gid, Pid, Uid, chdir, getppid, pipe2, setgroups, sethostname, setresgid, setresuid, setsid};

use crate::spec::{INPUTS, Level, PATH, SandboxSpec, WORKSPACE};
use crate::sys;

pub(crate) use escape::{BREACHES, Bait};

/// A step of setting a sandbox up that failed. Nothing of the workload has run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot {step}: {errno}")]
pub(crate) struct Step {
    /// What was being done.
    pub step: String,
    /// What the kernel said.
    pub errno: Errno,
}

/// Names the step that failed.
pub(crate) trait At<T> {
    /// Turns the error into one that names `step`.
    fn at(self, step: &str) -> Result<T, Step>;
}

impl<T> At<T> for Result<T, Errno> {
    fn at(self, step: &str) -> Result<T, Step> {
        self.map_err(|errno| Step { step: step.to_owned(), errno })
    }
}

impl<T> At<T> for io::Result<T> {
    fn at(self, step: &str) -> Result<T, Step> {
        self.map_err(|error| Step {
            step: match error.raw_os_error() {
                Some(_) => step.to_owned(),
                None => format!("{step} ({error})"),
            },
            errno: Errno::from_raw(error.raw_os_error().unwrap_or(0)),
        })
    }
}

/// What runs inside.
pub(crate) enum Payload {
    /// The program of the spec.
    Program,
    /// The canary, with what it may not reach.
    Canary(Bait),
}

/// What a sandbox says on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    /// Everything is in force; the program starts at `go`. The word lists what was optional and could be had.
    Ready {
        /// True if there is a `/proc` inside.
        proc: bool,
        /// True if Landlock is in force.
        landlock: bool,
    },
    /// The program could not be executed.
    NotExecuted(Errno),
    /// The main process ended with this code.
    Code(i32),
    /// The main process was ended by this signal.
    Signal(i32),
    /// The canary's breaches, as bits.
    Sang(u32),
    /// A step failed.
    Failed(Step),
}

/// A sandbox that was launched.
pub(crate) struct Launched {
    /// The outermost process.
    pub outer: Pid,
    /// What it says, one line each: [`Said`].
    pub status: OwnedFd,
    go: Option<OwnedFd>,
    control: OwnedFd,
}

impl Launched {
    /// Lets the workload begin. The point of no return: whoever calls it has made the start durable.
    pub(crate) fn go(&mut self) -> io::Result<()> {
        match self.go.take() {
            Some(fd) => std::fs::File::from(fd).write_all(b"g"),
            None => Ok(()),
        }
    }

    /// Asks every process inside to end.
    pub(crate) fn terminate(&self) {
        self.order(b't');
    }

    /// Kills every process inside. The main process' end is still reported.
    pub(crate) fn kill(&self) {
        self.order(b'k');
    }

    fn order(&self, byte: u8) {
        // A sandbox that is gone needs no order.
        let _ = nix::unistd::write(&self.control, &[byte]);
    }
}

/// Reads what a sandbox said. Lines that are not whole stay in `held`.
pub(crate) fn parse(held: &mut Vec<u8>) -> Vec<Said> {
    let mut said = Vec::new();
    while let Some(end) = held.iter().position(|b| *b == b'\n') {
        let line: Vec<u8> = held.drain(..=end).collect();
        let line = String::from_utf8_lossy(&line);
        let mut words = line.trim_end().splitn(3, ' ');
        let word = words.next().unwrap_or_default();
        let number = words.next().and_then(|n| n.parse::<i32>().ok()).unwrap_or_default();
        let rest = words.next().unwrap_or_default().to_owned();
        said.push(match word {
            "ready" => Said::Ready { proc: number & 1 != 0, landlock: number & 2 != 0 },
            "code" => Said::Code(number),
            "signal" => Said::Signal(number),
            "sang" => Said::Sang(number.unsigned_abs()),
            "noexec" => Said::NotExecuted(Errno::from_raw(number)),
            _ => Said::Failed(Step { step: rest, errno: Errno::from_raw(number) }),
        });
    }
    said
}

/// Launches a sandbox with these standard descriptors.
///
/// # Errors
/// If a pipe or the fork failed, or this process has more than one thread. Failures inside come as [`Said::Failed`].
pub(crate) fn launch(spec: &SandboxSpec, payload: &Payload, stdio: [OwnedFd; 3]) -> io::Result<Launched> {
    let (status, status_in) = pipe2(OFlag::O_CLOEXEC)?;
    let (go_in, go) = pipe2(OFlag::O_CLOEXEC)?;
    let (control_in, control) = pipe2(OFlag::O_CLOEXEC)?;
    let tasks = if spec.level >= Level::L2 { 0 } else { limits::tasks_of(run_uid(spec)) };
    let parent = nix::unistd::getpid();
    if let Some(outer) = sys::fork_single_threaded()? {
        return Ok(Launched { outer, status, go: Some(go), control });
    }
    // From here on this is the child, which never returns. Descriptors are numbers in it: `arrange` closes whatever it
    // does not keep, so no owner may close one a second time.
    let numbers =
        [&stdio[0], &stdio[1], &stdio[2], &status_in, &go_in, &control_in].map(std::os::fd::AsRawFd::as_raw_fd);
    std::mem::forget((status, go, control, stdio, status_in, go_in, control_in));
    let stages = Stages { spec, payload, tasks };
    sys::exit_now(stages.outer(parent, numbers))
}

fn run_uid(spec: &SandboxSpec) -> u32 {
    spec.user.map_or_else(|| nix::unistd::geteuid().as_raw(), |user| user.uid)
}

/// Numbers of the descriptors that the stages keep, above the three standard ones.
const STATUS: i32 = 3;
const GO: i32 = 4;
const CONTROL: i32 = 5;

struct Stages<'a> {
    spec: &'a SandboxSpec,
    payload: &'a Payload,
    tasks: u64,
}

impl Stages<'_> {
    /// Becomes the run's user, enters the namespaces, starts *init* and waits for it.
    fn outer(&self, parent: Pid, numbers: [i32; 6]) -> i32 {
        // The status descriptor is not where it will be yet, so this failure shows as a sandbox that says nothing.
        if arrange(numbers).is_err() {
            return 125;
        }
        match self.outer_steps(parent) {
            Ok(code) => code,
            Err(step) => {
                say_failed(&step);
                125
            }
        }
    }

    fn outer_steps(&self, parent: Pid) -> Result<i32, Step> {
        reset_signals().at("reset signals")?;
        // While the run's folder can still be entered.
        chdir(&self.spec.folder).at("enter the run's folder")?;
        if let Some(group) = &self.spec.cgroup {
            crate::cgroup::join(group).at("join the control group")?;
        }
        if let Some(user) = self.spec.user {
            setgroups(&[]).at("drop supplementary groups")?;
            let gid = Gid::from_raw(user.gid);
            setresgid(gid, gid, gid).at("become the run's group")?;
            let uid = Uid::from_raw(user.uid);
            setresuid(uid, uid, uid).at("become the run's user")?;
        }
        // Changing the user took it away.
        die_with(parent)?;
        prctl::set_no_new_privs().at("set no_new_privs")?;
        if self.spec.level >= Level::L2 {
            self.enter_namespaces()?;
            die_with(parent)?;
            if let Some(init) = sys::fork_single_threaded().at("start the first process")? {
                // *init* speaks for the sandbox; this process only holds it.
                let _ = sys::close_from(STATUS.unsigned_abs());
                return Ok(wait_for(init));
            }
            // Inside the namespace the parent has no number.
            prctl::set_pdeathsig(Signal::SIGKILL).at("die with the parent")?;
            return self.init();
        }
        self.init()
    }

    fn enter_namespaces(&self) -> Result<(), Step> {
        let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
        // A process that changed its user is not dumpable, and what is not dumpable may not write its own maps.
        prctl::set_dumpable(true).at("become dumpable")?;
        let mut flags = CloneFlags::CLONE_NEWUSER
            | CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWCGROUP;
        if self.spec.network != NetworkMode::Open {
            flags |= CloneFlags::CLONE_NEWNET;
        }
        unshare(flags).at("enter new namespaces")?;
        std::fs::write("/proc/self/setgroups", "deny").at("deny setgroups")?;
        std::fs::write("/proc/self/gid_map", format!("{gid} {gid} 1")).at("map the group")?;
        std::fs::write("/proc/self/uid_map", format!("{uid} {uid} 1")).at("map the user")
    }

    /// The first process inside: builds the root, starts the workload, obeys orders, and ends with the workload.
    fn init(&self) -> Result<i32, Step> {
        setsid().at("begin a session")?;
        let mut proc = false;
        if self.spec.level >= Level::L2 {
            proc = mounts::enter(self.spec)?.proc;
            sethostname("countersign").at("set the host name")?;
        } else {
            prctl::set_child_subreaper(true).at("become the reaper")?;
        }
        sys::drop_capabilities().at("drop capabilities")?;
        // What it holds in memory came from the launcher; the workload, which has the same user, may not look.
        prctl::set_dumpable(false).at("stop being dumpable")?;

        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mask), None).at("block signals")?;
        let children =
            SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).at("watch children")?;
        let init = nix::unistd::getpid();
        let Some(workload) = sys::fork_single_threaded().at("start the workload")? else {
            drop(children);
            if let Err(step) = self.workload(init, proc) {
                say_failed(&step);
            }
            sys::exit_now(127);
        };
        // The workload's, not ours.
        let _ = nix::unistd::close(GO);
        if self.spec.level < Level::L2 {
            // Without a namespace that dies with it, this process has to outlive the launcher for as long as it takes to
            // end every descendant; the end of the orders tells it.
            prctl::set_pdeathsig(None).at("outlive the launcher")?;
        }
        self.supervise(workload, &children)
    }

    fn supervise(&self, workload: Pid, children: &SignalFd) -> Result<i32, Step> {
        let control = sys::inherited(CONTROL).at("take orders")?;
        loop {
            let mut fds =
                [PollFd::new(children.as_fd(), PollFlags::POLLIN), PollFd::new(control.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(Step { step: "wait for children".to_owned(), errno }),
            }
            let ordered = fds.get(1).and_then(PollFd::any).unwrap_or(false);
            while let Ok(Some(_)) = children.read_signal() {}
            loop {
                match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                    Ok(WaitStatus::Exited(pid, code)) if pid == workload => {
                        self.everyone(Signal::SIGKILL);
                        say(&format!("code {code}"));
                        return Ok(0);
                    }
                    Ok(WaitStatus::Signaled(pid, signal, _)) if pid == workload => {
                        self.everyone(Signal::SIGKILL);
                        say(&format!("signal {}", signal as i32));
                        return Ok(0);
                    }
                    Ok(WaitStatus::StillAlive) | Err(_) => break,
                    Ok(_) => {}
                }
            }
            if ordered {
                let mut byte = [0u8];
                match nix::unistd::read(&control, &mut byte) {
                    Ok(1) if byte == *b"t" => self.everyone(Signal::SIGTERM),
                    Err(Errno::EINTR | Errno::EAGAIN) => {}
                    Ok(1) => self.everyone(Signal::SIGKILL),
                    // The launcher is gone: nobody would record what happens from here on, so nothing may.
                    Ok(_) | Err(_) => {
                        self.everyone(Signal::SIGKILL);
                        return Ok(0);
                    }
                }
            }
        }
    }

    /// Signals every process of the sandbox but this one. For SIGKILL it returns when none is left to be found.
    fn everyone(&self, signal: Signal) {
        if self.spec.level >= Level::L2 {
            // In a PID namespace that is exactly the sandbox.
            let _ = kill(Pid::from_raw(-1), signal);
            return;
        }
        // Orphans come back to the subreaper, so the tree below it is complete. A process that forks while it is walked
        // is found in the next round; each round stops what it finds first, so the rounds end.
        for _ in 0..200 {
            let found = crate::procfs::descendants(nix::unistd::getpid());
            if found.is_empty() {
                return;
            }
            if signal == Signal::SIGKILL {
                for pid in &found {
                    let _ = kill(*pid, Signal::SIGSTOP);
                }
            }
            for pid in &found {
                let _ = kill(*pid, signal);
            }
            if signal != Signal::SIGKILL {
                return;
            }
            while waitpid(None, Some(WaitPidFlag::WNOHANG)).is_ok_and(|status| status != WaitStatus::StillAlive) {}
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    /// Locks itself in, waits for `go`, and becomes the program.
    fn workload(&self, init: Pid, proc: bool) -> Result<(), Step> {
        prctl::set_pdeathsig(Signal::SIGKILL).at("die with the parent")?;
        if getppid() != init {
            sys::exit_now(127);
        }
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None).at("unblock signals")?;
        setsid().at("begin a session")?;
        let inside = Inside::of(self.spec);
        chdir(&inside.start).at("enter the working folder")?;
        // Everything that allocates or opens comes before the walls close.
        let command = Command::prepare(self.spec, &inside).at("prepare the command")?;
        let rules = if self.spec.level >= Level::L1 { Some(landlock::build(self.spec)) } else { None };
        let filters = if self.spec.level >= Level::L1 {
            seccomp::filters(self.spec.network, self.spec.level)
                .map_err(io::Error::other)
                .at("build the seccomp filter")?
        } else {
            Vec::new()
        };
        limits::apply(self.spec, self.tasks).at("set resource limits")?;
        sys::drop_capabilities().at("drop capabilities")?;
        let mut locked = false;
        match rules.map(|rules| rules.and_then(landlock::apply)) {
            None => {}
            Some(Ok(())) => locked = true,
            // Below namespaces it is the second wall; without them it is the first, and the level is not had.
            Some(Err(_)) if self.spec.level >= Level::L2 => {}
            Some(Err(error)) => return Err(error).at("apply landlock"),
        }
        for filter in &filters {
            seccompiler::apply_filter(filter).map_err(io::Error::other).at("apply seccomp")?;
        }
        say(&format!("ready {}", i32::from(proc) | i32::from(locked) << 1));

        let mut go = std::fs::File::from(sys::inherited(GO).at("take the go")?);
        let mut byte = [0u8];
        match go.read(&mut byte) {
            Ok(1) => {}
            // Nobody will say go any more.
            _ => sys::exit_now(127),
        }
        drop(go);
        let _ = nix::unistd::close(CONTROL);
        // From here on the workload runs, and only a record of its end can say that it did not.
        if let Payload::Canary(bait) = self.payload {
            say(&format!("sang {}", escape::sing(bait, self.spec)));
        }
        let errno = command.execute();
        say(&format!("noexec {}", errno as i32));
        sys::exit_now(if errno == Errno::ENOENT { 127 } else { 126 })
    }
}

/// Where things are for the workload.
struct Inside {
    start: PathBuf,
    workspace: PathBuf,
    inputs: PathBuf,
    tmp: PathBuf,
}

impl Inside {
    fn of(spec: &SandboxSpec) -> Self {
        let (workspace, inputs, tmp) = if spec.level >= Level::L2 {
            (WORKSPACE.into(), INPUTS.into(), "/tmp".into())
        } else {
            (spec.folder.join("workspace"), spec.folder.join("inputs"), spec.folder.join("tmp"))
        };
        let start = spec.workdir.as_ref().map_or_else(|| PathBuf::clone(&workspace), |dir| workspace.join(dir));
        Self { start, workspace, inputs, tmp }
    }
}

/// A program with all it needs to be executed, so that nothing is allocated between `go` and `exec`.
struct Command {
    candidates: Vec<CString>,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

impl Command {
    fn prepare(spec: &SandboxSpec, inside: &Inside) -> io::Result<Self> {
        let mut env = spec.env.clone();
        let tmp = inside.tmp.as_os_str();
        for (name, value) in
            [("PATH", OsStr::new(PATH)), ("HOME", tmp), ("TMPDIR", tmp), ("LANG", OsStr::new("C.UTF-8"))]
        {
            env.entry(name.to_owned()).or_insert_with(|| value.to_owned());
        }
        env.insert(crate::spec::ENV_INPUTS.to_owned(), inside.inputs.clone().into_os_string());
        env.insert(crate::spec::ENV_WORKSPACE.to_owned(), inside.workspace.clone().into_os_string());
        if spec.level >= Level::L2 && spec.network == NetworkMode::Gateway {
            let socket = Path::new(crate::spec::NET).join(crate::spec::SOCKET);
            env.insert(crate::spec::ENV_SOCKET.to_owned(), socket.into_os_string());
        }
        let program = spec.command.first().ok_or_else(|| io::Error::other("it names no program"))?;
        let candidates = if program.as_bytes().contains(&b'/') {
            vec![c_string(program)?]
        } else {
            let path = env.get("PATH").cloned().unwrap_or_default();
            std::env::split_paths(&path)
                .map(|folder| c_string(folder.join(program).as_os_str()))
                .collect::<io::Result<_>>()?
        };
        let arguments = spec.command.iter().map(|argument| c_string(argument)).collect::<io::Result<_>>()?;
        let environment = env
            .iter()
            .map(|(name, value)| {
                let mut pair = OsString::from(name);
                pair.push("=");
                pair.push(value);
                Ok(CString::new(pair.into_vec())?)
            })
            .collect::<io::Result<_>>()?;
        Ok(Self { candidates, arguments, environment })
    }

    /// Returns only if no candidate could be executed.
    fn execute(&self) -> Errno {
        let mut worst = Errno::ENOENT;
        for candidate in &self.candidates {
            let Err(errno) = nix::unistd::execve(candidate, &self.arguments, &self.environment);
            if !matches!(errno, Errno::ENOENT | Errno::ENOTDIR) {
                worst = errno;
            }
        }
        worst
    }
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    Ok(CString::new(text.as_bytes())?)
}

/// Moves descriptors to the numbers 0 to 5 and closes all others, the launcher's lock among them.
fn arrange(numbers: [i32; 6]) -> io::Result<()> {
    // By way of numbers above all of them, so that none overwrites another.
    let above = numbers.iter().max().copied().unwrap_or_default().max(CONTROL) + 1;
    for (to, from) in (above..).zip(numbers) {
        sys::duplicate_onto(from, to)?;
    }
    for (to, from) in (0..).zip(above..).take(numbers.len()) {
        sys::duplicate_onto(from, to)?;
    }
    sys::close_from((CONTROL + 1).unsigned_abs())?;
    [STATUS, GO, CONTROL].into_iter().try_for_each(sys::close_on_exec)
}

/// Asks to be killed when the parent ends, and ends if it has ended already.
fn die_with(parent: Pid) -> Result<(), Step> {
    prctl::set_pdeathsig(Signal::SIGKILL).at("die with the parent")?;
    if getppid() != parent {
        sys::exit_now(125);
    }
    Ok(())
}

/// Handlers and masks are the launcher's, not the workload's.
fn reset_signals() -> Result<(), Errno> {
    for signal in Signal::iterator() {
        if !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP) {
            sys::default_action(signal)?;
        }
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}

fn wait_for(child: Pid) -> i32 {
    loop {
        match waitpid(child, None) {
            Ok(WaitStatus::Exited(_, code)) => return code,
            Err(Errno::EINTR) => {}
            Ok(_) | Err(_) => return 125,
        }
    }
}

fn say(line: &str) {
    // One write below PIPE_BUF is whole or not at all. A launcher that is gone needs no word.
    let line = format!("{line}\n");
    let _ = sys::write_number(STATUS, line.as_bytes());
}

fn say_failed(step: &Step) {
    let plain: String = step.step.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
    say(&format!("failed {} {plain}", step.errno as i32));
}
