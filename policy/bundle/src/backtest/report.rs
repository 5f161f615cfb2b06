//! What came out of a backtest: counts, by agent, tool and policy, and a bounded number of examples of each kind.
//!
//! Reports of parts merge into the report of the whole: every number is a sum, and the examples are the first ones of the
//! log. Absent: asking (`backtest`). Read next: `html`.

use std::collections::BTreeMap;

use countersign_gateway_model::{Decision, Digest, Name};
use countersign_policy_decide::Question;
use serde::{Deserialize, Serialize};

use super::StoredQuestion;

/// How many agents, tools or policies are told apart; what is beyond counts as `(others)`.
const MAX_GROUPS: usize = 20_000;
/// How many bytes of a question an example shows.
const MAX_QUESTION: usize = 4_000;
/// How many reasons an example gives.
const MAX_REASONS: usize = 8;
/// Where what is beyond the limit is counted.
const OTHERS: &str = "(others)";

/// How much of it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Examples of each kind of change. They show inputs of the past: 0 keeps them out of the report.
    pub examples: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { examples: 20 }
    }
}

/// What would have been different.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shift {
    /// Denied then, allowed by the candidate.
    DenyToAllow,
    /// Denied then; the candidate would ask people.
    DenyToNeedsApproval,
    /// People were asked; the candidate allows.
    NeedsApprovalToAllow,
    /// People were asked; the candidate would ask for other rules.
    OtherRules,
    /// Allowed then; the candidate would ask people.
    AllowToNeedsApproval,
    /// Allowed then, denied by the candidate.
    AllowToDeny,
    /// People were asked; the candidate denies.
    NeedsApprovalToDeny,
}

impl Shift {
    /// All of them, what loosens first.
    pub const ALL: [Self; 7] = [
        Self::DenyToAllow,
        Self::DenyToNeedsApproval,
        Self::NeedsApprovalToAllow,
        Self::OtherRules,
        Self::AllowToNeedsApproval,
        Self::AllowToDeny,
        Self::NeedsApprovalToDeny,
    ];

    /// As people read it.
    pub fn words(self) -> &'static str {
        match self {
            Self::DenyToAllow => "DENY → ALLOW",
            Self::DenyToNeedsApproval => "DENY → NEEDS_APPROVAL",
            Self::NeedsApprovalToAllow => "NEEDS_APPROVAL → ALLOW",
            Self::OtherRules => "NEEDS_APPROVAL by other rules",
            Self::AllowToNeedsApproval => "ALLOW → NEEDS_APPROVAL",
            Self::AllowToDeny => "ALLOW → DENY",
            Self::NeedsApprovalToDeny => "NEEDS_APPROVAL → DENY",
        }
    }

    fn between(before: &Said, after: &Said) -> Option<Self> {
        use Decision::{Allow, Deny, NeedsApproval};
        Some(match (before.decision, after.decision) {
            (Deny, Allow) => Self::DenyToAllow,
            (Deny, NeedsApproval) => Self::DenyToNeedsApproval,
            (NeedsApproval, Allow) => Self::NeedsApprovalToAllow,
            (NeedsApproval, NeedsApproval) if before.rules != after.rules => Self::OtherRules,
            (Allow, NeedsApproval) => Self::AllowToNeedsApproval,
            (Allow, Deny) => Self::AllowToDeny,
            (NeedsApproval, Deny) => Self::NeedsApprovalToDeny,
            (Allow, Allow) | (Deny, Deny) | (NeedsApproval, NeedsApproval) => return None,
        })
    }
}

/// Why the candidate cannot be asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum NotComputable {
    /// Facts of it were erased.
    Erased,
    /// The candidate's catalogue has another definition of the tool.
    AnotherTool {
        /// The tool.
        tool: String,
    },
    /// The candidate's catalogue does not have the tool.
    UnknownTool {
        /// The tool.
        tool: String,
    },
    /// The candidate reads a counter that was not there then.
    NoCounter {
        /// The counter.
        counter: Name,
    },
    /// Its input was transformed then, and the candidate asks for another transform of it.
    Transformed,
    /// It does not read: damaged, or of another program.
    Unreadable {
        /// Why.
        why: String,
    },
}

impl std::fmt::Display for NotComputable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Erased => f.write_str("facts of it were erased"),
            Self::AnotherTool { tool } => write!(f, "tool `{tool}` has another definition now"),
            Self::UnknownTool { tool } => write!(f, "tool `{tool}` is not in the catalogue"),
            Self::NoCounter { counter } => write!(f, "counter `{counter}` was not counted then"),
            Self::Transformed => {
                f.write_str("its input was transformed then, and the candidate asks for another transform")
            }
            Self::Unreadable { why } => write!(f, "it does not read: {why}"),
        }
    }
}

/// A verdict and what determined it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// The decision.
    pub decision: Decision,
    /// The approval rules that must be met.
    pub rules: Vec<Name>,
    /// The policies that determined it.
    pub by: Vec<Name>,
}

/// How many of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Answered as then.
    pub unchanged: u64,
    /// Answered differently, by kind.
    pub changed: BTreeMap<Shift, u64>,
    /// Not answered.
    pub not_computable: u64,
}

impl Counts {
    /// All that are answered differently.
    pub fn changes(&self) -> u64 {
        self.changed.values().sum()
    }

    fn add(&mut self, other: &Self) {
        self.unchanged += other.unchanged;
        self.not_computable += other.not_computable;
        for (shift, count) in &other.changed {
            *self.changed.entry(*shift).or_default() += count;
        }
    }

    fn note(&mut self, shift: Option<Shift>) {
        match shift {
            Some(shift) => *self.changed.entry(shift).or_default() += 1,
            None => self.unchanged += 1,
        }
    }
}

/// Counts by name.
pub type Group = BTreeMap<String, Counts>;

/// One question that would be answered differently.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    /// The entry that it stands in.
    pub index: u64,
    /// Who asked.
    pub asked: String,
    /// To do what.
    pub operation: String,
    /// With what.
    pub resource: String,
    /// What was said.
    pub before: Said,
    /// What the candidate says.
    pub after: Said,
    /// Why it says so.
    pub reasons: Vec<String>,
    /// The question, in its canonical form; cut where it is long.
    pub question: String,
}

/// What came out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BacktestReport {
    /// The candidate: the plain digest of its manifest.
    pub bundle: Digest,
    /// How many questions there were.
    pub asked: u64,
    /// Entries of the first and the last one.
    pub entries: Option<(u64, u64)>,
    /// All of them.
    pub all: Counts,
    /// By who asked.
    pub by_agent: Group,
    /// By tool, or by operation where it is none.
    pub by_tool: Group,
    /// By policy that determines the candidate's answer.
    pub by_policy: Group,
    /// By policy that determined the answer that would be another one now.
    pub by_policy_before: Group,
    /// Why some are not computable.
    pub reasons: BTreeMap<String, u64>,
    /// The first of each kind of change.
    pub examples: BTreeMap<Shift, Vec<Example>>,
    /// How much of it is shown.
    pub limits: Limits,
}

impl BacktestReport {
    pub(super) fn new(bundle: Digest, limits: Limits) -> Self {
        Self {
            bundle,
            asked: 0,
            entries: None,
            all: Counts::default(),
            by_agent: Group::new(),
            by_tool: Group::new(),
            by_policy: Group::new(),
            by_policy_before: Group::new(),
            reasons: BTreeMap::new(),
            examples: BTreeMap::new(),
            limits,
        }
    }

    /// Whether something that was denied, or waited for people, would pass more easily.
    pub fn loosens(&self) -> bool {
        [Shift::DenyToAllow, Shift::DenyToNeedsApproval, Shift::NeedsApprovalToAllow]
            .iter()
            .any(|shift| self.all.changed.contains_key(shift))
    }

    fn begin(&mut self, index: u64) {
        self.asked += 1;
        let (first, last) = self.entries.unwrap_or((index, index));
        self.entries = Some((first.min(index), last.max(index)));
    }

    pub(super) fn not_computable(&mut self, stored: &StoredQuestion, why: &NotComputable) {
        self.begin(stored.index);
        self.all.not_computable += 1;
        *member(&mut self.reasons, &why.to_string()) += 1;
    }

    pub(super) fn note(&mut self, stored: &StoredQuestion, question: &Question, after: &Said, reasons: Vec<String>) {
        self.begin(stored.index);
        let before = Said {
            decision: stored.verdict.decision,
            rules: stored.verdict.rules.clone(),
            by: stored.determining.clone(),
        };
        let shift = Shift::between(&before, after);
        self.all.note(shift);
        let asked = question.asked.to_string();
        let resource = question.resource.to_string();
        member(&mut self.by_agent, &asked).note(shift);
        let tool = if question.is_tool() { &resource } else { question.operation.as_str() };
        member(&mut self.by_tool, tool).note(shift);
        for policy in &after.by {
            member(&mut self.by_policy, policy.as_str()).note(shift);
        }
        let Some(shift) = shift else { return };
        for policy in &before.by {
            member(&mut self.by_policy_before, policy.as_str()).note(Some(shift));
        }
        if self.limits.examples == 0 {
            return;
        }
        let example = || Example {
            index: stored.index,
            asked,
            operation: question.operation.as_str().to_owned(),
            resource,
            before,
            after: after.clone(),
            reasons: reasons.into_iter().take(MAX_REASONS).collect(),
            question: cut(stored.questions.first().map_or(&[], Vec::as_slice)),
        };
        keep(self.examples.entry(shift).or_default(), self.limits.examples, stored.index, example);
    }

    /// Takes in the report of another part of the same log, about the same candidate.
    pub fn merge(&mut self, other: Self) {
        self.asked += other.asked;
        self.entries = match (self.entries, other.entries) {
            (Some((a, b)), Some((c, d))) => Some((a.min(c), b.max(d))),
            (one, two) => one.or(two),
        };
        self.all.add(&other.all);
        for (mine, theirs) in [
            (&mut self.by_agent, other.by_agent),
            (&mut self.by_tool, other.by_tool),
            (&mut self.by_policy, other.by_policy),
            (&mut self.by_policy_before, other.by_policy_before),
        ] {
            for (name, counts) in theirs {
                member(mine, &name).add(&counts);
            }
        }
        for (reason, count) in other.reasons {
            *member(&mut self.reasons, &reason) += count;
        }
        for (shift, examples) in other.examples {
            let mine = self.examples.entry(shift).or_default();
            for example in examples {
                keep(mine, self.limits.examples, example.index, || example);
            }
        }
    }
}

/// The counts of a name; of `(others)` once there are too many names.
fn member<'g, T: Default>(group: &'g mut BTreeMap<String, T>, name: &str) -> &'g mut T {
    let known = group.contains_key(name) || group.len() < MAX_GROUPS;
    group.entry(if known { name } else { OTHERS }.to_owned()).or_default()
}

/// Keeps the first `most` in the order of the log, whatever order they come in.
fn keep(examples: &mut Vec<Example>, most: usize, index: u64, example: impl FnOnce() -> Example) {
    let at = examples.partition_point(|known| known.index <= index);
    if at < most {
        examples.insert(at, example());
        examples.truncate(most);
    }
}

fn cut(question: &[u8]) -> String {
    let text = String::from_utf8_lossy(question);
    match text.get(..text.floor_char_boundary(MAX_QUESTION)) {
        Some(head) if head.len() < text.len() => format!("{head}…"),
        _ => text.into_owned(),
    }
}
