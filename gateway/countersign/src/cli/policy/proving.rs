//! `prove`: what a bundle never allows, and what it newly allows beside another one, by a solver. Asks no gateway.
//!
//! Absent: the solver (`crate::proving`), the proofs (`policy/prove`).

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use countersign_gateway_model::Clock as _;
use countersign_policy_store::bundle::{Invariant, Proof, check_draft};
use countersign_policy_store::{Prover, proved, read_draft};
use serde_json::json;

use super::super::{Global, out};
use super::checking::Source;
use super::solving::Solving;
use crate::clock::SystemClock;
use crate::proving::Side;
use crate::text::plain;

/// Proves invariants, and compares.
#[derive(Debug, Args)]
pub(crate) struct Prove {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    solving: Solving,
    /// Compare with this bundle, too: a folder, or a bundle file. What is newly allowed is found, with a request.
    #[arg(long, value_name = "OLD")]
    against: Option<PathBuf>,
}

/// What came out of it all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proven {
    /// Everything that was asked.
    All,
    /// Something is refuted, or newly allowed.
    Refuted,
    /// Nothing is refuted, and something is not proved.
    Unknown,
}

impl Proven {
    fn of(invariants: &[Invariant], loosens: bool, unknown: bool) -> Self {
        let any = |wanted: fn(&Proof) -> bool| invariants.iter().any(|invariant| wanted(&invariant.proof));
        if loosens || any(|proof| matches!(proof, Proof::Refuted { .. })) {
            Self::Refuted
        } else if unknown || any(|proof| matches!(proof, Proof::NotProved { .. })) {
            Self::Unknown
        } else {
            Self::All
        }
    }
}

pub(crate) fn prove(args: &Prove, global: &Global) -> Result<Proven> {
    let proofs = args.solving.proofs()?;
    let (draft, checked) = args.source.draft()?;
    let unsound = "the bundle does not make a policy: `countersign policy check` says why";
    let snapshot = checked.built().cloned().context(unsound)?;
    let now = SystemClock.now();
    let prover = proofs.clone().prover();
    let report = proved(checked, &draft, prover.as_deref().map(|prover| prover as &dyn Prover), now).report;
    let new = Side { snapshot: &snapshot, draft: &draft };
    let compared = match &args.against {
        None => None,
        Some(path) => {
            let old = read_draft(path)?;
            let catalogue = args.source.catalogue_of(path)?;
            let checked = check_draft(&old, Source::organization(path, None, &old), Some(&catalogue));
            let before = checked.built().with_context(|| format!("`{}`: {unsound}", path.display()))?;
            Some(proofs.compare(Side { snapshot: before, draft: &old }, new, now)?)
        }
    };
    let loosens = compared.as_ref().is_some_and(|compared| compared.loosens);
    let unknown = compared.as_ref().is_some_and(|compared| compared.unknown);
    let outcome = Proven::of(&report.invariants, loosens, unknown);
    if global.json {
        global.document(&json!({
            "proved": outcome == Proven::All, "solver": proofs.has_solver(), "invariants": report.invariants,
            "difference": compared.map(|compared| compared.document),
        }))?;
        return Ok(outcome);
    }
    let mut text = String::new();
    for invariant in &report.invariants {
        // Writing to a text cannot fail.
        let _ = writeln!(text, "{}: {invariant}", invariant.place);
    }
    if report.invariants.is_empty() {
        text += "the bundle has no invariants: write them in `invariants/`\n";
    }
    if let Some(compared) = &compared {
        text += "\n";
        text += &compared.words;
    }
    if !proofs.has_solver() {
        text += "there is no solver: install cvc5 1.3.1, or name it with --solver\n";
    }
    out(&plain(&text))?;
    Ok(outcome)
}
