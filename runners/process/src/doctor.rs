//! What a person should know about this machine as a place to run things: the level, what is missing, how to fix it.
//!
//! Facts come from the canary and from what the kernel and the supervisor say about themselves. Absent: fixing.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::Serialize;

use crate::canary::Found;
use crate::spec::Level;
use crate::time::monotonic;

/// One thing to see to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Advice {
    /// What is the case.
    pub what: String,
    /// What to do about it.
    pub fix: String,
}

/// What `doctor` shows of the process runner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Doctor {
    /// The level that is had.
    pub level: Level,
    /// The configured or remembered minimum.
    pub minimum: Option<Level>,
    /// What the canary tried, strongest level first.
    pub found: Found,
    /// Facts by short name.
    pub facts: BTreeMap<String, String>,
    /// What to see to, most important first. Empty: nothing.
    pub advice: Vec<Advice>,
}

fn sysctl(path: &str) -> Option<String> {
    fs::read_to_string(Path::new("/proc/sys").join(path)).ok().map(|text| text.trim().to_owned())
}

/// Looks at the machine.
pub(crate) fn examine(found: Found, minimum: Option<Level>) -> Doctor {
    let level = found.level();
    let mut facts = BTreeMap::new();
    let mut fact = |name: &str, value: String| drop(facts.insert(name.to_owned(), value));
    fact("level", level.to_string());
    fact("landlock", found.landlock_version.to_string());
    fact("kernel", sysctl("kernel/osrelease").unwrap_or_default());
    fact("user", nix::unistd::geteuid().to_string());
    for (name, path) in [
        ("max_user_namespaces", "user/max_user_namespaces"),
        ("unprivileged_userns_clone", "kernel/unprivileged_userns_clone"),
        ("apparmor_restrict_unprivileged_userns", "kernel/apparmor_restrict_unprivileged_userns"),
    ] {
        if let Some(value) = sysctl(path) {
            fact(name, value);
        }
    }
    let supervisor = supervisor();
    fact("supervisor", supervisor.as_ref().map_or_else(|| "none seen".to_owned(), |s| s.name.clone()));

    let mut advice = Vec::new();
    if let Some(minimum) = minimum.filter(|minimum| level < *minimum) {
        advice.push(Advice {
            what: format!("isolation is {level}, and at least {minimum} is asked for: runs are refused"),
            fix: fix(&found),
        });
    } else if level < Level::L2 {
        advice.push(Advice { what: format!("isolation is only {level}"), fix: fix(&found) });
    }
    if let Some(supervisor) = supervisor
        && let Some(fix) = supervisor.kills
    {
        advice.push(Advice {
            what: format!("{} would end running work together with the gateway", supervisor.name),
            fix,
        });
    }
    if level >= Level::L1 && found.held().is_some_and(|trial| !trial.landlock) {
        advice.push(Advice {
            what: "the kernel has no Landlock, so there is no second wall".to_owned(),
            fix: "use a kernel of version 5.13 or later with `landlock` in its `lsm=` list".to_owned(),
        });
    }
    if level == Level::L2 {
        advice.push(Advice {
            what: "memory and processes are bound per process, not per run".to_owned(),
            fix:
                "run the gateway as a systemd service with `Delegate=yes` on cgroup v2, or configure a delegated group"
                    .to_owned(),
        });
    }
    Doctor { level, minimum, found, facts, advice }
}

/// What would raise the level, as far as the machine says why it is low.
pub(crate) fn fix(found: &Found) -> String {
    if sysctl("kernel/apparmor_restrict_unprivileged_userns").as_deref() == Some("1") {
        return "AppArmor forbids user namespaces to unprivileged programs (Ubuntu 23.10 and later): give the program an \
                AppArmor profile with the rule `userns,`, or set `sysctl kernel.apparmor_restrict_unprivileged_userns=0`"
            .to_owned();
    }
    if sysctl("user/max_user_namespaces").as_deref() == Some("0") {
        return "user namespaces are switched off: set `sysctl user.max_user_namespaces=10000`".to_owned();
    }
    if sysctl("kernel/unprivileged_userns_clone").as_deref() == Some("0") {
        return "user namespaces are switched off for unprivileged users: set `sysctl kernel.unprivileged_userns_clone=1`"
            .to_owned();
    }
    if in_container() {
        return "the container forbids namespaces: run the gateway outside it, use another runner, or start it with a \
                seccomp profile that allows `unshare` and `mount` and with `--security-opt systempaths=unconfined`"
            .to_owned();
    }
    let problem = found
        .trials
        .iter()
        .find(|trial| trial.level == Level::L2 && !trial.held)
        .and_then(|trial| trial.problems.first())
        .map_or_else(|| "the machine does not say why".to_owned(), Clone::clone);
    format!("the canary says: {problem}; a Linux kernel of version 5.13 or later with user namespaces is needed")
}

fn in_container() -> bool {
    Path::new("/.dockerenv").exists() || Path::new("/run/.containerenv").exists()
}

struct Supervisor {
    name: String,
    /// Set if it ends shims with the gateway: how to change that.
    kills: Option<String>,
}

/// Who would restart or end the gateway, and whether it would take the shims along.
fn supervisor() -> Option<Supervisor> {
    if nix::unistd::getpid().as_raw() == 1 {
        return Some(Supervisor {
            name: "the container (the gateway is its first process)".to_owned(),
            kills: Some(
                "runs end with the container: start it with an init (`--init`) and let work finish before a restart, or \
                 use a runner outside it"
                    .to_owned(),
            ),
        });
    }
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let unit = service_of(&groups)?;
    let user = groups.contains("/user.slice/");
    let mode = systemctl(&["show", "--property=KillMode", "--value", &unit], user);
    let kills = match mode.as_deref() {
        Some("process" | "none") => None,
        Some(mode) => Some(format!("set `KillMode=process` in `{unit}` (it is `{mode}`)")),
        None => Some(format!("set `KillMode=process` in `{unit}` (its value could not be read)")),
    };
    Some(Supervisor { name: format!("systemd unit `{unit}`"), kills })
}

/// The service that a process of these groups belongs to.
fn service_of(groups: &str) -> Option<String> {
    let path = groups.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        (controllers.is_empty() || controllers == "name=systemd").then_some(path)
    })?;
    // The user's own manager is no service of the gateway's.
    path.rsplit('/').find(|part| part.ends_with(".service") && !part.starts_with("user@")).map(str::to_owned)
}

fn systemctl(arguments: &[&str], user: bool) -> Option<String> {
    let mut command = Command::new("systemctl");
    if user {
        command.arg("--user");
    }
    let mut child =
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
    let until = monotonic() + Duration::from_secs(2);
    while child.try_wait().ok()?.is_none() {
        if monotonic() > until {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canary::Trial;

    #[test]
    fn the_service_is_found_in_both_kinds_of_groups() {
        for (groups, unit) in [
            ("0::/system.slice/countersign.service\n", Some("countersign.service")),
            ("12:pids:/x.service\n1:name=systemd:/system.slice/a.service/gateway\n", Some("a.service")),
            ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/b.service\n", Some("b.service")),
            ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/run-1.scope\n", None),
            ("0::/\n", None),
        ] {
            assert_eq!(service_of(groups).as_deref(), unit, "{groups}");
        }
    }

    #[test]
    fn a_level_below_the_minimum_comes_first_and_says_what_to_do() {
        let trial = |level, held| Trial {
            level,
            held,
            problems: vec!["cannot enter new namespaces: EPERM".to_owned()],
            proc: false,
            landlock: true,
        };
        let found = Found { trials: vec![trial(Level::L2, false), trial(Level::L1, true)], landlock_version: 7 };
        let doctor = examine(found, Some(Level::L2));
        assert_eq!(doctor.level, Level::L1);
        let first = doctor.advice.first().unwrap();
        assert!(first.what.contains("refused") && !first.fix.is_empty(), "{first:?}");
    }
}
