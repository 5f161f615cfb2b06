//! One control group (cgroup v2) for each run: memory and processes of the run as a whole, and a kill that misses none.
//!
//! Only a group that was delegated to this process is used; none is ever created beside it. Absent: cgroup v1.
//!
//! Read next: `canary`, which decides whether this works here.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use countersign_runners_contract::Resources;

/// Puts this process, and whatever it starts from now on, into a group.
pub(crate) fn join(group: &Path) -> io::Result<()> {
    fs::write(group.join("cgroup.procs"), "0")
}

/// A group that exists for one run.
#[derive(Debug)]
pub(crate) struct Group(PathBuf);

/// The group under which runs may have theirs: the configured one, or this process' own if it may be divided.
///
/// It has to be on cgroup v2, writable, with the controllers `memory` and `pids` handed on to its children. They are
/// handed on here if they are there and no process is in the group itself.
pub(crate) fn delegated(configured: Option<&Path>) -> Option<PathBuf> {
    let group = match configured {
        Some(path) => path.to_owned(),
        None => own()?,
    };
    let handed_on = |group: &Path| {
        let text = fs::read_to_string(group.join("cgroup.subtree_control")).unwrap_or_default();
        ["memory", "pids"].iter().all(|needed| text.split_ascii_whitespace().any(|have| have == *needed))
    };
    if !handed_on(&group) {
        fs::write(group.join("cgroup.subtree_control"), "+memory +pids").ok()?;
    }
    handed_on(&group).then_some(group)
}

fn own() -> Option<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let root = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_, folder, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(folder))
    })?;
    Some(root.join(path))
}

impl Group {
    /// Creates it with its limits. An old one of the same name is replaced: its run has ended.
    pub(crate) fn create(parent: &Path, name: &str, limits: &Resources) -> io::Result<Self> {
        let path = parent.join(format!("countersign-{name}"));
        if path.exists() {
            Self(path.clone()).remove();
        }
        fs::create_dir(&path)?;
        let group = Self(path);
        let write = |file: &str, value: String| fs::write(group.0.join(file), value);
        let limited = write("memory.max", limits.memory_bytes.to_string())
            .and_then(|()| write("pids.max", limits.pids.saturating_add(3).to_string()));
        // Not every kernel accounts swap, and one that does not cannot be escaped into.
        let _ = write("memory.swap.max", "0".to_owned());
        let _ = write("memory.oom.group", "1".to_owned());
        if let Err(error) = limited {
            group.remove();
            return Err(error);
        }
        Ok(group)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// True if the kernel killed in it for want of memory.
    pub(crate) fn out_of_memory(&self) -> bool {
        let events = fs::read_to_string(self.0.join("memory.events")).unwrap_or_default();
        events.lines().any(|line| line.strip_prefix("oom_kill ").is_some_and(|count| count.trim() != "0"))
    }

    /// Kills what is in it and removes it.
    pub(crate) fn remove(self) {
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
        for _ in 0..50 {
            // Busy until the last process in it is gone.
            match fs::remove_dir(&self.0) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_without_the_controllers_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        assert!(delegated(Some(&folder.path().join("none"))).is_none());
        fs::write(folder.path().join("cgroup.subtree_control"), "cpu memory pids").unwrap();
        assert_eq!(delegated(Some(folder.path())).as_deref(), Some(folder.path()));
    }

    #[test]
    fn limits_are_written_and_a_kill_for_memory_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let limits = Resources { memory_bytes: 1 << 26, pids: 7, ..Resources::default() };
        let group = Group::create(folder.path(), "x", &limits).unwrap();
        assert_eq!(fs::read_to_string(group.path().join("memory.max")).unwrap(), "67108864");
        assert_eq!(fs::read_to_string(group.path().join("pids.max")).unwrap(), "10");
        assert!(!group.out_of_memory());
        fs::write(group.path().join("memory.events"), "low 0\noom 1\noom_kill 1\n").unwrap();
        assert!(group.out_of_memory());
    }
}
