//! The lanes of the test run: what each needs on the machine, which servers it starts, and the tests it runs.
//!
//! To add a lane (a PostgreSQL, a ClickHouse): a row in [`LANES`] with the packages that bring its server, and a `start` that
//! lets it listen on a free loopback port with its data in a folder of its own and names the address in the environment that
//! the lane's tests read. Stopping is [`Running`]'s: what was started ends with it, also when a test fails. Next: `harness.rs`.

use std::process::Child;

use anyhow::Result;

use crate::harness;
use crate::packages::{self, Need};
use crate::report::Finding;
use crate::surroundings::Surroundings;
use crate::tools;

/// Tests that need the same of the machine.
#[derive(Debug)]
pub struct Lane {
    /// As printed.
    pub name: &'static str,
    /// Programs, with the packages that bring them.
    pub needs: &'static [Need],
    /// Programs that single tests run: brought where that is possible, else those tests say that they were skipped.
    pub wants: &'static [Need],
    /// Starts its servers; they listen on loopback only.
    pub start: fn(&Surroundings) -> Result<Running>,
    /// What `cargo` is given. The build step has built all of it already.
    pub tests: &'static [&'static str],
}

/// In the order in which they run, one after the other.
pub const LANES: [Lane; 1] = [Lane {
    name: "workspace",
    needs: &[
        Need { program: "cc", packages: &["gcc", "libc6-dev"] },
        // The tests ask git nothing, but the sandboxed ones run these as a workload would.
        Need { program: "sh", packages: &["dash"] },
        Need { program: "cat", packages: &["coreutils"] },
    ],
    // Fails single system calls, and writes down what would be lost in a power cut.
    wants: &[Need { program: "strace", packages: &["strace"] }],
    start: |surroundings| Ok(Running { environment: solver(surroundings), servers: Vec::new() }),
    tests: &["test", "--workspace", "--no-fail-fast"],
}];

/// Tests of proofs find the solver in their environment, or skip and say that it is not named there.
fn solver(surroundings: &Surroundings) -> Vec<(&'static str, String)> {
    match tools::cvc5(surroundings) {
        Ok(program) => vec![("COUNTERSIGN_CVC5", program.display().to_string())],
        Err(error) => {
            println!("no cvc5, so proofs are not tried: {error:#}");
            Vec::new()
        }
    }
}

/// The servers of a lane, which end when this is dropped.
#[derive(Debug)]
pub struct Running {
    /// What the lane's tests find in their environment.
    pub environment: Vec<(&'static str, String)>,
    /// Started by us, and ended by us.
    pub servers: Vec<Child>,
}

impl Drop for Running {
    fn drop(&mut self) {
        for server in &mut self.servers {
            // One that has ended already cannot be killed, and that is fine.
            if let Err(error) = server.kill().and_then(|()| server.wait().map(drop)) {
                eprintln!("could not stop the server with process id {}: {error}", server.id());
            }
        }
    }
}

impl Lane {
    /// Provides, starts, tests, stops.
    pub fn run(&self, surroundings: &Surroundings) -> Result<Finding> {
        if let Err(missing) = packages::provide(surroundings, self.needs) {
            return Ok(Finding::skipped(format!("skipped: lane `{}`: {missing}", self.name)));
        }
        if let Err(missing) = packages::provide(surroundings, self.wants) {
            println!("some tests of this lane will be skipped: {missing}");
        }
        let running = (self.start)(surroundings)?;
        let mut command = surroundings.cargo(self.tests);
        command.envs(running.environment.iter().map(|(name, value)| (name, value)));
        harness::run(&mut command)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test whose process cannot start has failed")]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_server_ends_with_its_lane() {
        let server = Command::new("sleep").arg("600").spawn().unwrap();
        let process = format!("/proc/{}", server.id());
        assert!(Path::new(&process).exists());
        drop(Running { environment: Vec::new(), servers: vec![server] });
        assert!(!Path::new(&process).exists());
    }

    #[test]
    fn every_lane_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = LANES.iter().map(|lane| lane.name).collect();
        assert_eq!(names.len(), LANES.len());
    }
}
