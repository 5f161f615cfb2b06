//! The solver on the command line: which one, for how long, and a checked bundle with what it says.
//!
//! Absent: the solver itself (`crate::proving`).

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use countersign_gateway_model::Clock as _;
use countersign_policy_store::bundle::{Checked, Draft};
use countersign_policy_store::proved;

use crate::clock::SystemClock;
use crate::environment;
use crate::proving::Proofs;

/// The solver that proofs are asked of.
#[derive(Debug, Args)]
pub(super) struct Solving {
    /// The solver, cvc5 1.3.1; else the one on the search path. Without one nothing is proved, and that is said.
    #[arg(long, value_name = "FILE", env = "COUNTERSIGN_CVC5", hide_env_values = true)]
    solver: Option<PathBuf>,
    /// Seconds that everything may take together.
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    solver_s: u32,
}

impl Solving {
    pub(super) fn proofs(&self) -> Result<Proofs> {
        let folders =
            environment::variable("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
        Proofs::find(self.solver.as_deref(), folders, Duration::from_secs(u64::from(self.solver_s)))
    }

    /// A checked draft, with what the solver says of its invariants; as it was, where there is none.
    pub(super) fn proved(&self, checked: Checked, draft: &Draft) -> Result<Checked> {
        if checked.report.invariants.is_empty() {
            return Ok(checked);
        }
        let prover = self.proofs()?.prover();
        Ok(proved(checked, draft, prover.as_deref(), SystemClock.now()))
    }
}
