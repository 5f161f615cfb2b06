//! The steps of `cargo xtask test`, in the order in which each uses what the one before it built.
//!
//! One target folder and one profile: lints and documentation share the checked dependencies, the build step builds every target
//! of the workspace at once, and generated files and tests run what it built. Next: `lane.rs` for the tests themselves.

use std::process::Command;

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use crate::report::{Count, Finding, Report};
use crate::surroundings::{Stopwatch, Surroundings};
use crate::{generate, lane, tools};

/// Which steps `cargo xtask test` runs.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only these steps, in the order given [default: all]
    #[arg(value_enum)]
    steps: Vec<Step>,
}

/// One judgement of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Step {
    /// rustfmt would change nothing
    Fmt,
    /// clippy finds nothing in any target
    Clippy,
    /// The documentation builds, private items too, and its links lead somewhere
    Doc,
    /// Licences, banned crates and sources of all dependencies (cargo-deny, built once if it is not there)
    Deny,
    /// Every target of the workspace builds
    Build,
    /// Committed files that the program generates are what it generates
    Generated,
    /// All tests of all lanes
    Tests,
}

impl Step {
    fn name(self) -> &'static str {
        match self {
            Self::Fmt => "fmt",
            Self::Clippy => "clippy",
            Self::Doc => "doc",
            Self::Deny => "deny",
            Self::Build => "build",
            Self::Generated => "generated",
            Self::Tests => "tests",
        }
    }
}

/// Runs the steps and prints the report. True if all held.
pub fn run(surroundings: &Surroundings, arguments: &Arguments) -> bool {
    let steps = if arguments.steps.is_empty() { Step::value_variants() } else { arguments.steps.as_slice() };
    let mut report = Report::new(surroundings.ci);
    let mut run = Run { surroundings, built: None };
    let total = Stopwatch::start();
    for (index, step) in steps.iter().enumerate() {
        println!("── {}/{} {}", index.saturating_add(1), steps.len(), step.name());
        let watch = Stopwatch::start();
        let finding = run.step(*step).unwrap_or_else(|error| Finding::failed(format!("{error:#}")));
        report.add(step.name(), watch.elapsed(), finding);
    }
    println!("── cargo xtask test: {} s", total.elapsed().as_secs());
    println!("{report}");
    report.holds()
}

/// What the steps of one run share.
struct Run<'a> {
    surroundings: &'a Surroundings,
    /// Whether the workspace built, once that was tried.
    built: Option<bool>,
}

impl Run<'_> {
    fn step(&mut self, step: Step) -> Result<Finding> {
        match step {
            Step::Fmt => self.component("rustfmt", &["fmt", "--all", "--check"]),
            Step::Clippy => self.component(
                "clippy",
                &["clippy", "--workspace", "--all-targets", "--keep-going", "--", "--deny", "warnings"],
            ),
            Step::Doc => {
                let document = ["doc", "--workspace", "--no-deps", "--document-private-items", "--keep-going"];
                succeeds(self.surroundings.cargo(&document).env("RUSTDOCFLAGS", "--deny warnings")).map(Finding::held)
            }
            Step::Deny => self.deny(),
            Step::Build => self.build().map(Finding::held),
            Step::Generated => self.generated(),
            Step::Tests => self.tests(),
        }
    }

    /// Runs a step that needs a component of the toolchain, which minimal installations lack.
    fn component(&self, component: &str, arguments: &[&str]) -> Result<Finding> {
        let verb = arguments.first().context("a step without a verb")?;
        let is_there =
            || self.surroundings.cargo(&[verb, "--version"]).output().is_ok_and(|output| output.status.success());
        if !is_there() && self.surroundings.find("rustup").is_some() {
            println!("adding the component `{component}` to the toolchain");
            succeeds(
                Command::new("rustup").args(["component", "add", component]).current_dir(&self.surroundings.root),
            )?;
        }
        if !is_there() {
            return Ok(Finding::skipped(format!("`{component}` missing; run: rustup component add {component}")));
        }
        succeeds(&mut self.surroundings.cargo(arguments)).map(Finding::held)
    }

    fn deny(&self) -> Result<Finding> {
        let cargo_deny = match tools::cargo_deny(self.surroundings) {
            Ok(path) => path,
            Err(error) => return Ok(Finding::skipped(format!("no `cargo-deny`: {error:#}"))),
        };
        // Two versions of one crate are a warning, a page each; `cargo deny check bans` shows them to whoever wants to see.
        let check = ["--log-level", "error", "check", "--hide-inclusion-graph", "licenses", "bans", "sources"];
        succeeds(Command::new(cargo_deny).args(check).current_dir(&self.surroundings.root)).map(Finding::held)
    }

    /// Builds, once a run, what `cargo test --workspace` will use, so that the program which tests start is of the same build.
    fn build(&mut self) -> Result<bool> {
        if let Some(built) = self.built {
            return Ok(built);
        }
        let built = succeeds(&mut self.surroundings.cargo(&["build", "--workspace", "--all-targets"]))?;
        self.built = Some(built);
        Ok(built)
    }

    fn generated(&mut self) -> Result<Finding> {
        if !self.build()? {
            return Ok(Finding::failed("the workspace does not build".to_owned()));
        }
        let mut notes = generate::check(self.surroundings, &self.surroundings.built_program())?;
        if self.surroundings.ci && self.surroundings.find("git").is_some() {
            // Cargo has completed the lock file by now if it was not whole.
            let lock = ["diff", "--exit-code", "--stat", "--", "Cargo.lock"];
            if !succeeds(Command::new("git").args(lock).current_dir(&self.surroundings.root))? {
                notes.push("Cargo.lock: is not what the manifests ask for; commit it".to_owned());
            }
        }
        Ok(Finding { count: if notes.is_empty() { Count::PASSED } else { Count::FAILED }, notes })
    }

    fn tests(&mut self) -> Result<Finding> {
        if !self.build()? {
            return Ok(Finding::failed("the workspace does not build".to_owned()));
        }
        let mut all = Finding { count: Count::NONE, notes: Vec::new() };
        for lane in &lane::LANES {
            println!("── lane {}", lane.name);
            let found = lane
                .run(self.surroundings)
                .unwrap_or_else(|error| Finding::failed(format!("lane `{}`: {error:#}", lane.name)));
            all.count = all.count.and(found.count);
            all.notes.extend(found.notes);
        }
        Ok(all)
    }
}

fn succeeds(command: &mut Command) -> Result<bool> {
    let status = command.status().with_context(|| format!("cannot run `{}`", command.get_program().display()))?;
    Ok(status.success())
}
