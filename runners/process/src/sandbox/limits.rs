//! Resource limits of each process, and how many processes a user may have where no namespace counts them.
//!
//! Absent: limits of the run as a whole, which are the control group's (`cgroup`) and the shim's.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::spec::{Level, SandboxSpec};

/// Sets them for this process and its descendants; none can be raised again.
pub(crate) fn apply(spec: &SandboxSpec, tasks_before: u64) -> io::Result<()> {
    let r = &spec.resources;
    // Where this process is held tighter already, that stays.
    let set = |resource, soft: u64, hard: u64| -> io::Result<()> {
        let (_, ceiling) = getrlimit(resource)?;
        Ok(setrlimit(resource, soft.min(ceiling), hard.min(ceiling))?)
    };
    set(Resource::RLIMIT_CORE, 0, 0)?;
    set(Resource::RLIMIT_AS, r.memory_bytes, r.memory_bytes)?;
    // At the soft limit comes SIGXCPU, which a program may use to say so; two seconds later SIGKILL.
    set(Resource::RLIMIT_CPU, r.cpu_seconds, r.cpu_seconds.saturating_add(2))?;
    set(Resource::RLIMIT_FSIZE, r.file_bytes, r.file_bytes)?;
    set(Resource::RLIMIT_NOFILE, r.open_files.into(), r.open_files.into())?;
    set(Resource::RLIMIT_MSGQUEUE, 1 << 20, 1 << 20)?;
    set(Resource::RLIMIT_MEMLOCK, 1 << 20, 1 << 20)?;
    // The two processes that hold the sandbox count as well. In a user namespace the run alone is counted (Linux 5.14);
    // without one, everything its user runs is.
    let own = u64::from(r.pids) + 2;
    let pids = if spec.level >= Level::L2 { own } else { own + tasks_before };
    set(Resource::RLIMIT_NPROC, pids, pids)
}

/// Threads and processes of a user on this machine, now.
pub(crate) fn tasks_of(uid: u32) -> u64 {
    let Ok(processes) = fs::read_dir("/proc") else { return 0 };
    processes
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit()))
        .filter(|entry| entry.metadata().is_ok_and(|m| m.uid() == uid))
        .map(|entry| fs::read_dir(entry.path().join("task")).map_or(1, Iterator::count))
        .map(|threads| u64::try_from(threads).unwrap_or(u64::MAX))
        .sum()
}
