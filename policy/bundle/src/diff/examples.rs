//! What a difference does, shown on questions: those that the tests of both bundles ask, answered by both.
//!
//! An example is certain where the words of a difference only point. That there is none proves nothing. Absent: the
//! questions of the ledger (`backtest`). Read next: `countersign_policy_decide::case`.

use std::collections::BTreeSet;
use std::fmt;

use countersign_gateway_model::{Decision, Name};
use countersign_policy_decide::case::{CaseFile, tried};
use countersign_policy_decide::{Answer, PolicySnapshot};
use serde::Serialize;

use crate::files::{FileKind, Files};

/// How many examples are told.
const MAX_EXAMPLES: usize = 100;

/// One question that both bundles answer, differently.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Example {
    /// Whether more is allowed, or fewer people are asked.
    pub weaker: bool,
    /// The answer before.
    pub before: Decision,
    /// The answer after.
    pub after: Decision,
    /// What the test that asks it is called.
    pub name: String,
    /// The question, in its canonical form.
    pub question: String,
    /// What determined the answer before.
    pub before_by: Vec<Name>,
    /// What determined the answer after.
    pub after_by: Vec<Name>,
}

/// `was denied by x, is allowed by y: an agent reads`
impl fmt::Display for Example {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |decision| match decision {
            Decision::Allow => "allowed",
            Decision::NeedsApproval => "waiting for approval",
            Decision::Deny => "denied",
        };
        let by = |ids: &[Name]| ids.iter().map(Name::as_str).collect::<Vec<_>>().join(", ");
        let mark = if self.weaker { "WEAKER  " } else { "stricter" };
        let (before, after) = (word(self.before), word(self.after));
        write!(f, "{mark} `{}`: was {before} by {}, ", self.name.escape_debug(), by(&self.before_by))?;
        write!(f, "is {after} by {}; asked: {}", by(&self.after_by), self.question)
    }
}

/// Asks both snapshots what the tests of both bundles ask, and gives what changed: what loosens first, at most a
/// hundred. A test that one of them cannot read (another tool, another attribute) is no example.
pub fn examples(old: (&PolicySnapshot, &Files), new: (&PolicySnapshot, &Files)) -> Vec<Example> {
    let mut found = BTreeSet::new();
    let mut texts = BTreeSet::new();
    for (_, text) in old.1.of(FileKind::Tests).chain(new.1.of(FileKind::Tests)) {
        let Some(file) = texts.insert(text).then(|| CaseFile::parse(text.as_bytes()).ok()).flatten() else { continue };
        let (Ok(before), Ok(after)) = (file.store(old.0), file.store(new.0)) else { continue };
        for case in file.cases() {
            let (Ok(was), Ok(is)) = (case.question(old.0), case.question(new.0)) else { continue };
            let question = String::from_utf8_lossy(&is.canonical()).into_owned();
            let (was_said, is_said) = (tried(old.0, &before, was).answer, tried(new.0, &after, is).answer);
            found.extend(example(&case.name, question, was_said, is_said));
        }
    }
    // `false` sorts before `true`.
    found.into_iter().rev().take(MAX_EXAMPLES).collect()
}

fn example(name: &str, question: String, was: Answer, is: Answer) -> Option<Example> {
    let (before, after) = (was.decision(), is.decision());
    // Among approvals, fewer rules ask fewer people; other rules are for the difference in words.
    let fewer = after == before && is.verdict.rules.len() < was.verdict.rules.len();
    let more = after == before && is.verdict.rules.len() > was.verdict.rules.len();
    (after != before || fewer || more).then(|| Example {
        weaker: after < before || fewer,
        before,
        after,
        name: name.to_owned(),
        question,
        before_by: was.determining,
        after_by: is.determining,
    })
}
