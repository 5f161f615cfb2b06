//! What is known of a candidate's invariants, as a proposal keeps and shows it.
//!
//! They are tried where the candidate is checked: one that is refuted, or unproved where it must not be, refuses it there.
//! What passes is a step of the proposal. Absent: the solver, which is the program's.

use std::fmt::Write as _;

use countersign_gateway_model::Name;
use countersign_policy_bundle::{Invariant, Proof};
use serde::{Deserialize, Serialize};

/// One invariant, and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvariantOutcome {
    /// Its id.
    pub invariant: Name,
    /// `proved` or `not_proved`; one that is refuted comes no further than its check.
    pub outcome: String,
    /// Why it is not proved.
    pub why: Option<String>,
}

impl InvariantOutcome {
    /// What a check found.
    pub fn of(invariants: &[Invariant]) -> Vec<Self> {
        let one = |invariant: &Invariant| {
            let (outcome, why) = match &invariant.proof {
                Proof::Proved => ("proved", None),
                Proof::Refuted { words, .. } => ("refuted", Some(words.clone())),
                Proof::NotProved { why } => ("not_proved", Some(why.clone())),
            };
            Self { invariant: invariant.id.clone(), outcome: outcome.to_owned(), why }
        };
        invariants.iter().map(one).collect()
    }
}

/// The line of the approval view; none where the candidate has no invariants.
pub(super) fn words(proofs: &[InvariantOutcome]) -> Option<String> {
    let unproved: Vec<&InvariantOutcome> = proofs.iter().filter(|proof| proof.outcome != "proved").collect();
    let mut line = format!("Proofs:    {} of {} invariants are proved", proofs.len() - unproved.len(), proofs.len());
    for proof in unproved {
        // Writing to a string cannot fail.
        let _ = write!(line, "; NOT {}: {}", proof.invariant, proof.why.as_deref().unwrap_or("nobody knows"));
    }
    (!proofs.is_empty()).then_some(line)
}
