//! What a check has to say: where, which rule, what is wrong, what to do next.
//!
//! Absent: the checks (`check`, `lint`, `cases`). Read next: `check`.

use std::fmt;

use countersign_gateway_model::Name;
use countersign_policy_decide::json::{Json, JsonError};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// How much a finding weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The bundle is not activated.
    Error,
    /// Worth a look; does not stand in the way.
    Warning,
}

macro_rules! rules {
    ($($(#[$doc:meta])* $variant:ident = $text:literal),+ $(,)?) => {
        /// Which rule a finding belongs to. The text form is stable; more may be added.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        pub enum RuleId {
            $($(#[$doc])* #[serde(rename = $text)] $variant),+
        }

        impl RuleId {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The stable text form.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text),+
                }
            }
        }
    };
}

rules! {
    /// A file of policies does not parse.
    Syntax = "syntax",
    /// A schema addition does not parse, does not fit the base schema, or claims its namespace.
    Schema = "schema",
    /// Cedar's strict validation refuses a policy.
    Type = "type",
    /// Cedar's strict validation warns (a policy that never applies, confusable characters).
    CedarWarning = "cedar-warning",
    /// A policy reaches further into the entities than the slice is loaded.
    Level = "level",
    /// A policy has no `@id`, one that an entry cannot carry, or one that is taken.
    PolicyId = "policy-id",
    /// A policy template, which nothing links.
    Template = "template",
    /// An entity that cannot exist: without its organization, or of another one.
    ForeignEntity = "foreign-entity",
    /// An annotation that means nothing, or has a value that means nothing.
    Annotation = "annotation",
    /// A gate that is not `forbid … unless { context.satisfied.contains(ApprovalRule::"x") }` with
    /// `@requires_approval("x")`.
    GateShape = "gate-shape",
    /// A gate annotation on a permit: any other permit bypasses it.
    GateOnPermit = "gate-on-permit",
    /// `satisfied`, `overridden` or `granted` where a policy may not read it.
    ReservedFact = "reserved-fact",
    /// The whole context used as a value, which hides what is read from it.
    WholeContext = "whole-context",
    /// `rules.json` does not read.
    RulesData = "rules-data",
    /// A rule that is used but not in the data, or in the data but not used.
    RulesUsed = "rules-used",
    /// `roles.json` does not read, or a rule names a role that it does not list.
    Roles = "roles",
    /// Another data file does not read.
    Data = "data",
    /// A mask or a transform that could only ever refuse.
    Mask = "mask",
    /// A forbid whose evaluation can fail: then it denies everything it applies to.
    ForbidCanError = "forbid-can-error",
    /// A forbid that reads a counter which nothing reserves: two at once may both pass.
    AdvisoryCounter = "advisory-counter",
    /// A reminder, a further circle or a vote that comes after the gate has ended, or ends before it matters.
    RuleTimes = "rule-times",
    /// A quorum that could never be met.
    Quorum = "quorum",
    /// An overridable key that no tool has.
    Overridable = "overridable",
    /// A rule that can be met in advance by nobody, or never.
    Grantable = "grantable",
    /// A rule that may be lifted without its quorum, by nobody.
    BreakGlass = "break-glass",
    /// A permit that a forbid covers whole.
    Unreachable = "unreachable",
    /// A policy that another one makes superfluous.
    Redundant = "redundant",
    /// Two policies that say the same.
    Duplicate = "duplicate",
    /// A shadow setting that names nothing, or what may not be shadowed.
    Shadow = "shadow",
    /// A part of a bundle that this program does not apply: it is refused rather than ignored.
    Unsupported = "unsupported",
    /// A bundle that names another tool catalogue than the one it is checked with.
    Catalogue = "catalogue",
    /// An invariant of which nothing could be proved as it is written.
    Invariant = "invariant",
    /// An invariant that is refuted, or not proved.
    Unproved = "unproved",
    /// Too many of something.
    Limit = "limit",
    /// The bundle does not make a policy snapshot.
    Snapshot = "snapshot",
    /// A test file does not read.
    TestData = "test-data",
    /// A test of the bundle fails.
    Test = "test",
    /// A policy that no test determines.
    Coverage = "coverage",
    /// A file of policies is not in the one form, or cannot be brought into it.
    Format = "format",
    /// After activation nobody could change policy, or stop what runs.
    LockedOut = "locked-out",
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A place in a file of a bundle.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// The path within the bundle.
    pub file: String,
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
}

impl Place {
    /// The start of a file.
    pub fn start(file: impl Into<String>) -> Self {
        Self { file: file.into(), line: 1, column: 1 }
    }

    /// The place of byte `offset` in `text`.
    pub fn at(file: impl Into<String>, text: &str, offset: usize) -> Self {
        Self::start(file).further(text, offset)
    }

    /// The place of byte `offset` in `text`, which begins here.
    pub(crate) fn further(self, text: &str, offset: usize) -> Self {
        let before = text.get(..text.floor_char_boundary(offset.min(text.len()))).unwrap_or(text);
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let lines = before.bytes().filter(|b| *b == b'\n').count();
        let last = before.rsplit('\n').next().unwrap_or_default().chars().count();
        let from = if lines == 0 { self.column } else { 1 };
        Self { line: self.line.saturating_add(count(lines)), column: from.saturating_add(count(last)), file: self.file }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// One thing that a check found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// Where.
    #[serde(flatten)]
    pub place: Place,
    /// How much it weighs.
    pub severity: Severity,
    /// Which rule.
    pub rule: RuleId,
    /// Which policy, where it is one.
    pub policy: Option<Name>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub next_step: String,
}

impl Finding {
    pub(crate) fn error(place: Place, rule: RuleId, message: impl Into<String>, next_step: impl Into<String>) -> Self {
        let (message, next_step) = (message.into(), next_step.into());
        Self { place, severity: Severity::Error, rule, policy: None, message, next_step }
    }

    pub(crate) fn warning(
        place: Place,
        rule: RuleId,
        message: impl Into<String>,
        next_step: impl Into<String>,
    ) -> Self {
        Self { severity: Severity::Warning, ..Self::error(place, rule, message, next_step) }
    }

    pub(crate) fn of(self, policy: &Name) -> Self {
        Self { policy: Some(policy.clone()), ..self }
    }
}

/// `policies.cedar:12:3: error[gate-shape] in "refund": …; …`
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{}: {severity}[{}]", self.place, self.rule)?;
        if let Some(policy) = &self.policy {
            write!(f, " in `{policy}`")?;
        }
        write!(f, ": {}; {}", self.message, self.next_step)
    }
}

/// An error with the reasons behind it, on one line.
pub(crate) fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = cause.source();
    }
    text.replace('\n', " ")
}

/// Where a JSON file goes wrong: where the strict reader stops, else where its shape is another, and then in which way.
pub(crate) fn json_place<T: DeserializeOwned>(path: &str, text: &str) -> (Place, Option<String>) {
    match Json::parse(text.as_bytes()) {
        Err(
            JsonError::Syntax { at, .. }
            | JsonError::DuplicateKey { at, .. }
            | JsonError::KeyNotNfc { at, .. }
            | JsonError::InexactNumber { at, .. }
            | JsonError::TooDeep { at },
        ) => (Place::at(path, text, at), None),
        Ok(_) => match serde_json::from_str::<T>(text) {
            Err(error) if error.line() > 0 => {
                let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).max(1);
                let place = Place { file: path.to_owned(), line: number(error.line()), column: number(error.column()) };
                let text = error.to_string();
                // The place is told apart from the words.
                let words = text.rsplit_once(" at line ").map_or(text.as_str(), |(words, _)| words);
                (place, Some(words.to_owned()))
            }
            _ => (Place::start(path), None),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_lines_and_characters_from_one() {
        let text = "a\nöb\r\nc";
        let at = |offset| Place::at("f", text, offset).to_string();
        assert_eq!([at(0), at(2), at(4), at(7), at(99)], ["f:1:1", "f:2:1", "f:2:2", "f:3:1", "f:3:2"]);
        assert_eq!(at(3), "f:2:1", "inside a character is its start");
    }

    #[test]
    fn the_page_of_findings_explains_every_rule_and_no_other() {
        let page = include_str!("../../../docs/policy-findings.md");
        let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
        let explained: std::collections::BTreeSet<&str> = rows.map(|(rule, _)| rule).collect();
        let rules = RuleId::ALL.iter().map(|rule| rule.as_str()).collect();
        assert_eq!(explained, rules, "docs/policy-findings.md");
    }
}
