//! The solver behind proofs, where this program was built with them and the machine has one.
//!
//! It is cvc5, a program of its own. A gateway uses the one that `policy.solver` names and no other; the command line also
//! takes the one on the search path. Without it every invariant is said to be not proved: nothing passes because nobody
//! looked. Absent: the proofs (`policy/prove`), what a missing one means (`policy/bundle`).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use countersign_policy_store::Prover;

/// Longest time for one query.
pub(crate) const QUERY: Duration = Duration::from_secs(10);

/// How two bundles differ, as far as it is proved.
#[derive(Debug)]
pub(crate) struct Compared {
    /// The whole of it.
    pub document: serde_json::Value,
    /// In words.
    pub words: String,
    /// Something is newly allowed.
    pub loosens: bool,
    /// Of some of it nobody knows.
    pub unknown: bool,
}

/// A bundle to compare.
#[derive(Clone, Copy)]
pub(crate) struct Side<'a> {
    /// What decides.
    pub snapshot: &'a countersign_policy_store::decide::PolicySnapshot,
    /// Files and settings.
    pub draft: &'a countersign_policy_store::bundle::Draft,
}

#[cfg(feature = "prove")]
mod with {
    use std::fmt::Write as _;
    use std::path::PathBuf;

    use anyhow::Context as _;
    use countersign_gateway_model::Timestamp;
    use countersign_policy_prove::{Limits, Outcome, Solver, Subject, compare, prove};
    use countersign_policy_store::bundle::{Draft, Proof};
    use countersign_policy_store::decide::PolicySnapshot;

    use super::{Arc, Compared, Duration, Path, Prover, QUERY, Result, Side};

    /// A solver, or none.
    #[derive(Clone, Debug)]
    pub(crate) struct Proofs(Option<Solver>);

    impl Proofs {
        /// The solver at a path; without a path, none.
        pub(crate) fn at(path: Option<&Path>, total: Duration) -> Result<Self> {
            Ok(Self(path.map(|path| Solver::at(path, limits(total))).transpose()?))
        }

        /// The solver at a path, else the one in a folder of the search path, if it is in one.
        pub(crate) fn find(path: Option<&Path>, folders: Vec<PathBuf>, total: Duration) -> Result<Self> {
            match path {
                Some(_) => Self::at(path, total),
                None => Ok(Self(Solver::find(folders, limits(total)))),
            }
        }

        /// Whether there is anybody to ask.
        pub(crate) fn has_solver(&self) -> bool {
            self.0.is_some()
        }

        /// For the policy store.
        pub(crate) fn prover(self) -> Option<Arc<dyn Prover>> {
            self.0.is_some().then(|| Arc::new(self) as Arc<dyn Prover>)
        }

        /// What the second bundle newly allows and denies.
        pub(crate) fn compare(&self, old: Side<'_>, new: Side<'_>, now: Timestamp) -> Result<Compared> {
            let found = compare(subject(old), subject(new), now, self.0.as_ref())?;
            let mut words = String::new();
            // Writing to a text cannot fail.
            for (title, changes) in [("NEWLY ALLOWED", &found.newly_allowed), ("newly denied", &found.newly_denied)] {
                for change in changes {
                    let _ = writeln!(words, "{title}: {change}");
                }
            }
            for (environment, doubt) in &found.not_proved {
                let _ = writeln!(words, "not proved: {environment}: {doubt}");
            }
            for policy in &found.shadowed {
                let _ = writeln!(words, "left out, as it is in shadow: `{policy}`");
            }
            let _ = writeln!(words, "{} kinds of requests are proved to be judged alike", found.alike);
            Ok(Compared {
                document: serde_json::to_value(&found).context("the comparison cannot be written")?,
                words,
                loosens: !found.newly_allowed.is_empty(),
                unknown: !found.not_proved.is_empty(),
            })
        }
    }

    fn limits(total: Duration) -> Limits {
        Limits { query: QUERY.min(total), total, ..Limits::default() }
    }

    fn subject(side: Side<'_>) -> Subject<'_> {
        Subject { snapshot: side.snapshot, files: &side.draft.files, settings: &side.draft.settings }
    }

    impl Prover for Proofs {
        fn prove(&self, snapshot: &PolicySnapshot, bundle: &Draft, now: Timestamp) -> Vec<(String, Proof)> {
            let subject = subject(Side { snapshot, draft: bundle });
            let proofs = match prove(subject, now, self.0.as_ref()) {
                Ok(proofs) => proofs,
                // Then nothing is known of any: each stays as it was, not proved.
                Err(error) => {
                    tracing::warn!(error = %crate::words(&error), "no invariant could be proved");
                    return Vec::new();
                }
            };
            proofs
                .into_iter()
                .map(|proof| {
                    let words = proof.to_string();
                    let (_, told) = words.split_once("is refuted: ").unwrap_or(("", words.as_str()));
                    let said = match proof.outcome {
                        Outcome::Proved { .. } => Proof::Proved,
                        Outcome::Refuted { example } => {
                            Proof::Refuted { words: told.to_owned(), question: example.question.clone() }
                        }
                        Outcome::NotProved { doubt, environment: None } => Proof::NotProved { why: doubt.to_string() },
                        Outcome::NotProved { doubt, environment: Some(environment) } => {
                            Proof::NotProved { why: format!("{doubt} (about {environment})") }
                        }
                    };
                    (proof.invariant, said)
                })
                .collect()
        }
    }
}

#[cfg(not(feature = "prove"))]
mod without {
    use std::path::PathBuf;

    use anyhow::bail;
    use countersign_gateway_model::Timestamp;

    use super::{Arc, Compared, Duration, Path, Prover, Result, Side};

    /// What is said of everything.
    const WITHOUT: &str = "this program was built without proofs (feature `prove`)";

    /// No solver.
    #[derive(Clone, Debug)]
    pub(crate) struct Proofs;

    impl Proofs {
        pub(crate) fn at(path: Option<&Path>, _: Duration) -> Result<Self> {
            match path {
                Some(path) => bail!("`{}` cannot be used: {WITHOUT}", path.display()),
                None => Ok(Self),
            }
        }

        pub(crate) fn find(path: Option<&Path>, _: Vec<PathBuf>, total: Duration) -> Result<Self> {
            Self::at(path, total)
        }

        #[expect(clippy::unused_self, reason = "as with proofs")]
        pub(crate) fn has_solver(&self) -> bool {
            false
        }

        #[expect(clippy::unused_self, reason = "as with proofs")]
        pub(crate) fn prover(self) -> Option<Arc<dyn Prover>> {
            None
        }

        #[expect(clippy::unused_self, reason = "as with proofs")]
        pub(crate) fn compare(&self, _: Side<'_>, _: Side<'_>, _: Timestamp) -> Result<Compared> {
            let document = serde_json::json!({ "not_proved": [WITHOUT] });
            Ok(Compared { document, words: format!("not proved: {WITHOUT}\n"), loosens: false, unknown: true })
        }
    }
}

#[cfg(feature = "prove")]
pub(crate) use with::Proofs;
#[cfg(not(feature = "prove"))]
pub(crate) use without::Proofs;
