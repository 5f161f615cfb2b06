//! A sandbox for something that is not an action: an agent that may do nothing but ask the gateway.
//!
//! An agent's process is governed by what it asks for, not by a permit, so it needs no order; in return it gets no
//! workspace of anybody's, no secrets and no network but the gateway. Everything it wants done comes back as an order
//! to [`crate::ProcessRunner`]. It lives no longer than the process that holds [`AgentProcess`].

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use countersign_runners_contract::{NetworkMode, Resources};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use serde::{Deserialize, Serialize};

use crate::relay::Relay;
use crate::sandbox::{self, Payload, Said};
use crate::spec::{ENV_ADDRESS, GatewayEndpoint, INPUTS, Level, RunUser, SandboxSpec};
use crate::time::monotonic;
use crate::{rundir, self_exec, sys};

/// What an agent is to be.
#[derive(Debug, Clone)]
pub struct AgentSpec {
    /// A program of the machine that is copied into the sandbox and executed; none where `arguments` begin with the
    /// name of a program in a system folder.
    pub program: Option<PathBuf>,
    /// Arguments.
    pub arguments: Vec<OsString>,
    /// The environment, whole, but for what the sandbox adds.
    pub env: BTreeMap<String, OsString>,
    /// A fresh folder for its sandbox; its `workspace` starts empty.
    pub folder: PathBuf,
    /// Files and folders of the machine that it sees read-only, at the same path.
    pub read_only: Vec<PathBuf>,
    /// Limits.
    pub resources: Resources,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    spec: SandboxSpec,
    gateway: GatewayEndpoint,
}

/// A running agent. It is killed when this is dropped, or when this process ends.
#[derive(Debug)]
pub struct AgentProcess {
    child: Child,
    /// Held: its end is the agent's end.
    leash: Option<ChildStdin>,
}

impl AgentProcess {
    pub(crate) fn start(
        program: &std::ffi::OsStr,
        level: Level,
        user: Option<RunUser>,
        gateway: GatewayEndpoint,
        agent: AgentSpec,
    ) -> io::Result<Self> {
        std::fs::create_dir_all(&agent.folder)?;
        rundir::make_folders(&agent.folder, user)?;
        let folder = agent.folder.canonicalize()?;
        let mut command = agent.arguments;
        if let Some(program) = &agent.program {
            // A copy, because the run's user may not be able to enter the folder that the program is in.
            let copy = folder.join("inputs").join("agent");
            std::fs::copy(program, &copy)?;
            std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o555))?;
            let inside = if level >= Level::L2 { PathBuf::from(INPUTS).join("agent") } else { copy };
            command.insert(0, inside.into_os_string());
        }
        let wire = Wire {
            spec: SandboxSpec {
                level,
                user,
                folder,
                command,
                env: agent.env,
                workdir: None,
                network: NetworkMode::Gateway,
                port: None,
                resources: agent.resources,
                read_only: agent.read_only,
                cgroup: None,
            },
            gateway,
        };
        let mut child = self_exec::command(program, self_exec::AGENT)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut leash = child.stdin.take().ok_or_else(|| io::Error::other("the agent has no standard input"))?;
        let mut line = serde_json::to_vec(&wire)?;
        line.push(b'\n');
        leash.write_all(&line)?;
        Ok(Self { child, leash: Some(leash) })
    }

    /// Its standard output, once.
    pub fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Its standard error, once.
    pub fn take_stderr(&mut self) -> Option<ChildStderr> {
        self.child.stderr.take()
    }

    /// Its exit code if it has ended: its own, 128 and the signal that ended it, or 125 if it could not be started.
    pub fn try_wait(&mut self) -> io::Result<Option<i32>> {
        Ok(self.child.try_wait()?.map(|status| status.code().unwrap_or(125)))
    }

    /// Waits for its end; blocks this thread. As [`AgentProcess::try_wait`].
    pub fn wait(&mut self) -> io::Result<i32> {
        // Not `Child::wait`, which would close the leash that the agent hangs on.
        loop {
            if let Some(code) = self.try_wait()? {
                return Ok(code);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends it: asked to, then killed after two seconds.
    pub fn stop(&mut self) -> io::Result<i32> {
        self.leash = None;
        self.wait()
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        self.leash = None;
        let until = monotonic() + Duration::from_secs(4);
        while matches!(self.child.try_wait(), Ok(None)) {
            if monotonic() > until {
                let _ = self.child.kill();
                let _ = self.child.wait();
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The stage. Its standard output and error are the agent's.
pub(crate) fn main() -> ! {
    match stage_main() {
        Ok(code) => sys::exit_now(code),
        Err(error) => {
            eprintln!("countersign: the agent cannot be started: {error}");
            sys::exit_now(125)
        }
    }
}

fn stage_main() -> io::Result<i32> {
    let mut line = String::new();
    // Nothing follows the line but the end of the file, so nothing is lost in the buffer.
    io::stdin().lock().read_line(&mut line)?;
    let Wire { mut spec, gateway } = serde_json::from_str(&line)?;
    std::env::set_current_dir(&spec.folder)?;
    let relay = Relay::open(spec.level, &gateway)?;
    if let Some(address) = relay.address()? {
        spec.env.insert(ENV_ADDRESS.to_owned(), address.to_string().into());
        spec.port = Some(address.port());
    }
    let out = io::stdout().as_fd().try_clone_to_owned()?;
    let err = io::stderr().as_fd().try_clone_to_owned()?;
    let mut launched = sandbox::launch(&spec, &Payload::Program, [File::open("/dev/null")?.into(), out, err])?;
    relay.serve();
    let stdin = io::stdin();
    let mut held = Vec::new();
    let mut code = 125;
    let mut leashed = true;
    let mut kill_at: Option<Instant> = None;
    loop {
        let mut fds = vec![PollFd::new(launched.status.as_fd(), PollFlags::POLLIN)];
        if leashed {
            fds.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
        }
        let _ = poll(&mut fds, PollTimeout::from(100u16));
        let status_ready = fds.first().and_then(PollFd::any).unwrap_or(false);
        let leash_moved = fds.get(1).and_then(PollFd::any).unwrap_or(false);
        if status_ready {
            let mut buffer = [0u8; 1024];
            let n = nix::unistd::read(&launched.status, &mut buffer)?;
            if n == 0 {
                break;
            }
            held.extend_from_slice(buffer.get(..n).unwrap_or_default());
            for said in sandbox::parse(&mut held) {
                match said {
                    Said::Ready { .. } => launched.go()?,
                    Said::Code(n) => code = n,
                    Said::Signal(n) => code = 128 + n,
                    Said::Failed(step) => eprintln!("countersign: the agent's sandbox {step}"),
                    Said::NotExecuted(errno) => eprintln!("countersign: the agent could not be executed: {errno}"),
                    Said::Sang(_) => {}
                }
            }
        }
        if leash_moved {
            // The holder is gone, or lets go.
            leashed = false;
            launched.terminate();
            kill_at = Some(monotonic() + Duration::from_secs(2));
        }
        if kill_at.is_some_and(|at| monotonic() >= at) {
            launched.kill();
            if kill_at.is_some_and(|at| monotonic() >= at + Duration::from_secs(1)) {
                let _ = kill(launched.outer, Signal::SIGKILL);
            }
        }
    }
    let _ = waitpid(launched.outer, None);
    Ok(code)
}
