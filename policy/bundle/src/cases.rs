//! A bundle's own tests: run with the production slicer, reported where they stand, with coverage by policy and rule.
//!
//! A failing test shows its question, what was expected and which policies determined the answer. A policy that no
//! test ever determines is named, and so is an approval rule that no test asks for or no test meets.
//! Absent: how a case is read and asked (`countersign_policy_decide::case`). Read next: `check`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use countersign_gateway_model::{Decision, Name};
use countersign_policy_decide::case::{CaseFile, CaseOutcome};
use countersign_policy_decide::json::Json;
use countersign_policy_decide::{Answer, PolicySnapshot};
use serde::Serialize;
use serde_json::Value;

use crate::files::{FileKind, FilePath, Files};
use crate::finding::{Finding, Place, RuleId};
use crate::refused;
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
    /// Policies of the bundle that determined the answer of a case that agreed, or the input that it is about, and of how
    /// many.
    pub covered: BTreeMap<Name, usize>,
    /// Policies of the bundle that determined none.
    pub uncovered: BTreeSet<Name>,
    /// Every approval rule, and how many cases that agreed took each of its two ways.
    pub rules: BTreeMap<Name, Branches>,
    /// Every case, in the order of files and lines.
    pub cases: Vec<CaseRun>,
}

/// The two ways of an approval rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Branches {
    /// Cases whose answer is that it must be met.
    pub asked: usize,
    /// Cases that are allowed with it met.
    pub met: usize,
}

/// How one case went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CaseRun {
    /// Where it stands.
    #[serde(flatten)]
    pub place: Place,
    /// What it shows.
    pub name: String,
    /// Whether it agreed.
    pub passed: bool,
    /// What policy said; absent if the question does not read.
    pub decision: Option<Decision>,
    /// The rules that must be met.
    pub rules: Vec<Name>,
    /// The policies that determined the answer.
    pub determining: Vec<Name>,
    /// The policies that asked for a transform of the input, where one was applied before that.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub transforming: Vec<Name>,
    /// What went wrong, if something did.
    pub failure: Option<CaseFailure>,
}

/// Everything that is needed to understand a case that did not agree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CaseFailure {
    /// The question, as it stands in the file.
    pub question: Value,
    /// What was expected of it, as it stands in the file.
    pub expected: Value,
    /// What is different, in words.
    pub difference: String,
}

impl TestRun {
    /// Covered policies in a hundred, rounded down; 100 for a bundle without policies.
    pub fn percent(&self) -> usize {
        share(self.covered.len(), self.covered.len() + self.uncovered.len())
    }

    /// Ways of approval rules that a case took, in a hundred, rounded down; 100 for a bundle without rules.
    pub fn rule_percent(&self) -> usize {
        let taken = self.rules.values().map(|b| usize::from(b.asked > 0) + usize::from(b.met > 0)).sum();
        share(taken, 2 * self.rules.len())
    }

    fn note(&mut self, outcome: CaseOutcome, text: &str, path: &FilePath, case: Option<&Json>) {
        let member = |key: &str| case.and_then(|case| case.get(key));
        let answer = outcome.answer.as_ref();
        if outcome.failure.is_none() {
            self.passed += 1;
            self.cover(answer, &outcome.transforming, member("ask"));
        } else {
            self.failed += 1;
        }
        self.cases.push(CaseRun {
            place: case_place(path, text, &outcome.name),
            passed: outcome.failure.is_none(),
            decision: answer.map(Answer::decision),
            rules: answer.map(|a| a.verdict.rules.clone()).unwrap_or_default(),
            determining: answer.map(|a| a.determining.clone()).unwrap_or_default(),
            transforming: outcome.transforming,
            failure: outcome.failure.map(|difference| CaseFailure {
                question: value(member("ask")),
                expected: value(member("expect")),
                difference,
            }),
            name: outcome.name,
        });
    }

    fn cover(&mut self, answer: Option<&Answer>, transforming: &[Name], ask: Option<&Json>) {
        let Some(answer) = answer else { return };
        for id in answer.determining.iter().chain(transforming) {
            *self.covered.entry(id.clone()).or_default() += 1;
        }
        for rule in &answer.verdict.rules {
            self.rules.entry(rule.clone()).or_default().asked += 1;
        }
        let satisfied = ask.and_then(|ask| ask.get("satisfied")?.as_array());
        for rule in satisfied.into_iter().flatten().filter_map(Json::as_text) {
            if answer.decision() == Decision::Allow
                && let Some((_, branches)) = self.rules.iter_mut().find(|(name, _)| name.as_str() == rule)
            {
                branches.met += 1;
            }
        }
    }
}

fn share(part: usize, all: usize) -> usize {
    (100 * part).checked_div(all).unwrap_or(100)
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
        )?;
        if !self.rules.is_empty() {
            write!(f, ", both ways of {} approval rules ({} %)", self.rules.len(), self.rule_percent())?;
        }
        Ok(())
    }
}

/// Runs every test file; a case that differs, and a file that does not read, is an error.
pub(crate) fn run(
    files: &Files,
    policies: &[SourcePolicy],
    snapshot: &PolicySnapshot,
    findings: &mut Vec<Finding>,
) -> TestRun {
    let rules = snapshot.rules().rules.keys().map(|rule| (rule.clone(), Branches::default()));
    let mut run = TestRun { rules: rules.collect(), ..TestRun::default() };
    for (path, text) in files.of(FileKind::Tests) {
        let outcomes = CaseFile::parse(text.as_bytes()).and_then(|file| file.run(snapshot));
        let outcomes = match outcomes {
            Ok(outcomes) => outcomes,
            Err(error) => {
                findings.push(refused::tests(&error, path.as_str(), text));
                continue;
            }
        };
        let json = Json::parse(text.as_bytes()).ok();
        let cases = json.as_ref().and_then(|json| json.get("cases")?.as_array()).unwrap_or_default();
        for (index, outcome) in outcomes.into_iter().enumerate() {
            run.note(outcome, text, path, cases.get(index));
        }
    }
    findings.extend(run.cases.iter().filter_map(failed));
    let own: BTreeSet<Name> = policies.iter().map(|p| p.id.clone()).collect();
    run.covered.retain(|id, _| own.contains(id));
    run.uncovered = own.into_iter().filter(|id| !run.covered.contains_key(id)).collect();
    for policy in policies.iter().filter(|p| run.uncovered.contains(&p.id)).take(MAX_NAMED) {
        let next = "add a test whose answer it determines";
        let message = "no passing test is determined by it";
        findings.push(Finding::warning(policy.place(), RuleId::Coverage, message, next).of(&policy.id));
    }
    for (rule, branches) in run.rules.iter().take(MAX_NAMED) {
        let (message, next) = match branches {
            Branches { asked: 0, .. } => ("no passing test asks for", "add a test whose answer is that it must be met"),
            Branches { met: 0, .. } => ("no passing test meets", "add a test that is allowed with it in `satisfied`"),
            _ => continue,
        };
        let text = files.get("rules.json").map_or("", |text| text);
        let place = Place::at("rules.json", text, text.find(&format!("\"{rule}\"")).unwrap_or(0));
        findings.push(Finding::warning(place, RuleId::Coverage, format!("{message} rule `{rule}`"), next));
    }
    run
}

fn failed(case: &CaseRun) -> Option<Finding> {
    let CaseFailure { question, difference, .. } = case.failure.as_ref()?;
    let message = format!("`{}` fails: {difference}; asked: {question}", case.name);
    let next = "change the policy, or what the test expects";
    Some(Finding::error(case.place.clone(), RuleId::Test, message, next))
}

fn case_place(path: &FilePath, text: &str, name: &str) -> Place {
    // The name as JSON spells it, which is how it stands in the file unless it is escaped needlessly.
    let quoted = String::from_utf8(Json::text(name).canonical()).unwrap_or_default();
    Place::at(path.as_str(), text, text.find(&quoted).unwrap_or(0))
}

fn value(json: Option<&Json>) -> Value {
    json.and_then(|json| serde_json::from_slice(&json.canonical()).ok()).unwrap_or_default()
}
