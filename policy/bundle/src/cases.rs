//! A bundle's own tests: run with the production slicer, reported where they stand, with coverage by policy.
//!
//! A failing test shows its question, what was expected and which policies determined the answer. A policy that no
//! test ever determines is named. Absent: how a case is read and asked (`countersign_policy_decide::case`).
//! Read next: `check`.

use std::collections::BTreeSet;
use std::fmt;

use countersign_gateway_model::Name;
use countersign_policy_decide::PolicySnapshot;
use countersign_policy_decide::case::CaseFile;
use countersign_policy_decide::json::Json;
use serde::Serialize;

use crate::check::{json_place, words};
use crate::files::{FileKind, FilePath, Files};
use crate::finding::{Finding, Place, RuleId};
use crate::source::SourcePolicy;

/// How many policies without a test are named one by one; the run lists all of them.
const MAX_NAMED: usize = 100;

/// How the tests of a bundle went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TestRun {
    /// How many cases agreed.
    pub passed: usize,
    /// How many did not.
    pub failed: usize,
    /// Policies of the bundle that determined the answer of a case that agreed.
    pub covered: BTreeSet<Name>,
    /// Policies of the bundle that determined none.
    pub uncovered: BTreeSet<Name>,
}

impl TestRun {
    /// Covered policies in a hundred, rounded down; 100 for a bundle without policies.
    pub fn percent(&self) -> usize {
        let all = self.covered.len() + self.uncovered.len();
        (100 * self.covered.len()).checked_div(all).unwrap_or(100)
    }
}

impl fmt::Display for TestRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.covered.len() + self.uncovered.len();
        let (passed, cases) = (self.passed, self.passed + self.failed);
        write!(
            f,
            "{passed} of {cases} tests pass, {} of {all} policies covered ({} %)",
            self.covered.len(),
            self.percent()
        )
    }
}

/// Runs every test file; a case that differs, and a file that does not read, is an error.
pub(crate) fn run(
    files: &Files,
    policies: &[SourcePolicy],
    snapshot: &PolicySnapshot,
    findings: &mut Vec<Finding>,
) -> TestRun {
    let mut run = TestRun::default();
    for (path, text) in files.of(FileKind::Tests) {
        let outcomes = CaseFile::parse(text.as_bytes()).and_then(|file| file.run(snapshot));
        let outcomes = match outcomes {
            Ok(outcomes) => outcomes,
            Err(error) => {
                let (place, _) = json_place::<serde::de::IgnoredAny>(path.as_str(), text);
                let next = "correct the file; every entity and case is read strictly";
                findings.push(Finding::error(place, RuleId::TestData, words(&error), next));
                continue;
            }
        };
        for (index, outcome) in outcomes.into_iter().enumerate() {
            match outcome.failure {
                None => {
                    run.passed += 1;
                    run.covered.extend(outcome.answer.into_iter().flat_map(|answer| answer.determining));
                }
                Some(failure) => {
                    run.failed += 1;
                    findings.push(Finding::error(
                        case_place(path, text, &outcome.name),
                        RuleId::Test,
                        format!("`{}` fails: {failure}; asked: {}", outcome.name, question(text, index)),
                        "change the policy, or what the test expects",
                    ));
                }
            }
        }
    }
    let own: BTreeSet<Name> = policies.iter().map(|p| p.id.clone()).collect();
    run.covered.retain(|id| own.contains(id));
    run.uncovered = own.difference(&run.covered).cloned().collect();
    for policy in policies.iter().filter(|p| run.uncovered.contains(&p.id)).take(MAX_NAMED) {
        findings.push(
            Finding::warning(
                policy.place(),
                RuleId::Coverage,
                "no passing test is determined by it",
                "add a test whose answer it determines",
            )
            .of(&policy.id),
        );
    }
    run
}

fn case_place(path: &FilePath, text: &str, name: &str) -> Place {
    // The name as JSON spells it, which is how it stands in the file unless it is escaped needlessly.
    let quoted = String::from_utf8(Json::text(name).canonical()).unwrap_or_default();
    Place::at(path.as_str(), text, text.find(&quoted).unwrap_or(0))
}

/// The question of a case, as it stands in the file.
fn question(text: &str, index: usize) -> String {
    let json = Json::parse(text.as_bytes()).ok();
    let ask = json.as_ref().and_then(|j| j.get("cases")?.as_array()?.get(index)?.get("ask"));
    ask.map_or_else(String::new, |ask| String::from_utf8_lossy(&ask.canonical()).into_owned())
}
