//! What `/proc` says about processes: who descends from whom, and when one began.
//!
//! A process is known by number and start time together: numbers are used again.

use std::collections::BTreeMap;
use std::fs;

use nix::unistd::Pid;

/// Parent and start time of a process, in clock ticks since the machine started.
fn stat(pid: i32) -> Option<(i32, u64, char)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may hold anything, parentheses and spaces included.
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    // Field 22 of the line; state is field 3.
    let start = fields.nth(17)?.parse().ok()?;
    Some((parent, start, state))
}

/// When a living process began, in clock ticks since the machine started; none if there is none of that number.
pub(crate) fn start_time(pid: i32) -> Option<u64> {
    stat(pid).filter(|(_, _, state)| !matches!(state, 'Z' | 'X')).map(|(_, start, _)| start)
}

/// Every process below this one that is not dead yet.
pub(crate) fn descendants(root: Pid) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for pid in entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()) {
        if let Some((parent, _, state)) = stat(pid)
            && !matches!(state, 'Z' | 'X')
        {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut open = vec![root.as_raw()];
    while let Some(parent) = open.pop() {
        for child in children.remove(&parent).unwrap_or_default() {
            found.push(Pid::from_raw(child));
            open.push(child);
        }
    }
    found
}

/// Names this start of the machine, so that a start time of an earlier one is not mistaken.
pub(crate) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_found_and_its_start_time_is_its_own() {
        let mut child = std::process::Command::new("sleep").arg("5").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        assert!(descendants(nix::unistd::getpid()).contains(&Pid::from_raw(pid)));
        assert!(start_time(pid) >= start_time(nix::unistd::getpid().as_raw()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(start_time(pid), None);
        assert!(!boot_id().is_empty());
    }
}
