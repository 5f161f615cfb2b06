//! Proofs about bundles, by a solver: what a bundle never allows, what another one newly allows or denies, which forbid
//! can fail, and what nobody may ever do.
//!
//! Cedar is translated to SMT by `cedar-policy-symcc` and decided by cvc5, a program of its own that is found by its
//! path. Whatever is not proved is said to be not proved, with the reason: no solver, no time, no translation. Nothing
//! passes because nobody looked. A refutation comes with a request, which is run through Cedar again before it is told.
//!
//! A forbid in shadow proves nothing, because it is not enforced; a permit in shadow counts, because it will be.
//! A whole workflow in shadow is not enforced, whatever is proved of the policies.
//!
//! What is proved is about one evaluation, kernel included, with every count (`satisfied`, counters) free: it says
//! nothing about quorums. A forbid that fails is skipped by Cedar and denies at the gateway; proofs follow Cedar, so
//! they hold at the gateway, too. Absent: the decision what a missing proof means (activation). Read next: `invariant`.
#![cfg_attr(test, expect(clippy::unwrap_used, clippy::panic, reason = "tests"))]

mod difference;
mod example;
mod invariant;
mod prover;
mod reach;
mod solver;
mod subject;

pub use difference::{Change, Difference, compare};
pub use example::{Example, Judgement};
pub use invariant::{Outcome, Proof, prove};
pub use prover::Doubt;
pub use reach::{Failing, Reach, reach};
pub use solver::{Limits, Solver, SolverError};
pub use subject::{Environment, Subject, SubjectError};
