//! Why a question is answered as it is: per policy in reach, clause by clause, the first one that stood in the way.
//!
//! What is listed are the policies whose head fits the question (principal, action, resource). A clause is a conjunct of
//! a `when`, or a whole `unless`, in the words of its author. Clauses are evaluated in order, by the evaluator that
//! decides, up to the first that is not true. Absent: who may ask this (never an agent), text for a terminal beyond one
//! line a policy. Read next: `decide`.

use std::fmt;

use cedar_policy_core::ast::{Expr, ExprKind, Literal, Value, ValueKind};
use cedar_policy_core::evaluator::Evaluator;
use cedar_policy_core::extensions::Extensions;
use countersign_gateway_model::{Decision, Name, Verdict};
use serde::Serialize;

use crate::context::context;
use crate::decide::{Answer, decide};
use crate::detectors::Found;
use crate::prepared::Prepared;
use crate::question::Question;
use crate::snapshot::PolicySnapshot;
use crate::store::Slice;

/// What was asked for, policy by policy.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// What policy says to the question, as [`decide`] says it.
    pub answer: Answer,
    /// Every policy whose head fits, in this order: forbids that hold or err, permits that hold, permits that nearly
    /// held, forbids that do not hold; the nearest first.
    pub policies: Vec<Explained>,
    /// What detectors found in the input.
    pub found: Vec<Found>,
    /// The transforms that made the input what it is.
    pub applied: Vec<Name>,
}

/// One policy, for one question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explained {
    /// Its id.
    pub policy: Name,
    /// Whether it forbids (or permits).
    pub forbids: bool,
    /// The approval rule that lifts it, if it is a gate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gate: Option<Name>,
    /// The transform that lifts it, if it asks for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transform: Option<Name>,
    /// Whether it is judged and not enforced.
    pub shadow: bool,
    /// `@title`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Where it stands: file, line, column.
    pub place: String,
    /// Whether it holds.
    pub outcome: Outcome,
    /// Its clauses up to the first that is not true.
    pub clauses: Vec<Clause>,
    /// How many clauses stand behind that one.
    pub unasked: usize,
}

/// One clause, for one question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Clause {
    /// In the words of its author, on one line.
    pub text: String,
    /// What it came to.
    pub outcome: Outcome,
}

/// What a condition came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// True.
    Holds,
    /// False.
    Fails,
    /// It could not be evaluated: in Cedar's words.
    Errs(String),
}

/// Explains the answer to one question, or to a what-if question.
pub fn explain(snapshot: &PolicySnapshot, slice: &Slice, question: &Question) -> Explanation {
    let answer = decide(snapshot, slice, question);
    let found = question.input.iter().flat_map(|input| input.found()).cloned().collect();
    let applied = question.input.iter().flat_map(|input| input.applied()).cloned().collect();
    let mut explanation = Explanation { answer, policies: Vec::new(), found, applied };
    // Without a request that the schema admits no policy was asked, and the answer says why.
    let request =
        context(snapshot, question, &question.satisfied).and_then(|context| snapshot.request(question, context));
    let Ok(request) = request else { return explanation };
    if !slice.problems().is_empty() || question.input.as_ref().is_some_and(|input| input.unmaskable().is_some()) {
        return explanation;
    }
    let evaluator = Evaluator::new(request, slice.cedar(), Extensions::all_available());
    let mut candidates = Vec::new();
    snapshot.candidates(question, slice.principal.as_deref(), slice.resource.as_deref(), &mut candidates);
    explanation.policies = candidates.into_iter().map(|policy| explained(&evaluator, policy, question)).collect();
    explanation.policies.sort_by_cached_key(|policy| {
        let holds = policy.outcome != Outcome::Fails;
        let rank = match (policy.forbids, holds) {
            (true, true) => 0,
            (false, true) => 1,
            (false, false) => 2,
            (true, false) => 3,
        };
        (rank, policy.unasked, policy.policy.clone())
    });
    explanation
}

fn explained(evaluator: &Evaluator<'_>, policy: &Prepared, question: &Question) -> Explained {
    let mut conjuncts = Vec::new();
    if let Some(clauses) = policy.core.non_scope_constraints() {
        flatten(clauses, &mut conjuncts);
    }
    let mut clauses = Vec::with_capacity(conjuncts.len());
    for conjunct in &conjuncts {
        let outcome = match evaluator.interpret(conjunct, policy.core.env()) {
            Ok(Value { value: ValueKind::Lit(Literal::Bool(true)), .. }) => Outcome::Holds,
            Ok(Value { value: ValueKind::Lit(Literal::Bool(false)), .. }) => Outcome::Fails,
            Ok(other) => Outcome::Errs(format!("it is not a boolean but {other}")),
            Err(error) => Outcome::Errs(error.to_string()),
        };
        let holds = outcome == Outcome::Holds;
        clauses.push(Clause { text: words(conjunct), outcome });
        if !holds {
            break;
        }
    }
    Explained {
        policy: policy.id.clone(),
        forbids: policy.forbids,
        gate: policy.gate.clone(),
        transform: policy.transform.clone(),
        shadow: policy.in_shadow(question.now),
        title: policy.title.clone(),
        place: format!("{}:{}:{}", policy.file, policy.at.0, policy.at.1),
        outcome: clauses.last().map_or(Outcome::Holds, |clause| clause.outcome.clone()),
        unasked: conjuncts.len() - clauses.len(),
        clauses,
    }
}

/// The conjuncts of a condition, in the order in which Cedar evaluates them.
fn flatten<'e>(expr: &'e Expr, found: &mut Vec<&'e Expr>) {
    match expr.expr_kind() {
        ExprKind::And { left, right } => {
            flatten(left, found);
            flatten(right, found);
        }
        _ => found.push(expr),
    }
}

/// A clause as its author wrote it, white space drawn together; as Cedar prints it where that is not known.
fn words(expr: &Expr) -> String {
    let text = expr.source_loc().and_then(|loc| loc.snippet()).map_or_else(|| expr.to_string(), str::to_owned);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A verdict: the decision, and the rules that it asks for.
fn said(f: &mut fmt::Formatter<'_>, verdict: &Verdict) -> fmt::Result {
    let decision = match verdict.decision {
        Decision::Allow => "allow",
        Decision::NeedsApproval => "needs approval",
        Decision::Deny => "deny",
    };
    write!(f, "{decision}")?;
    listed(f, &verdict.rules, " by ")
}

fn listed(f: &mut fmt::Formatter<'_>, ids: &[Name], before: &str) -> fmt::Result {
    ids.iter().enumerate().try_for_each(|(n, id)| write!(f, "{}{id}", if n == 0 { before } else { ", " }))
}

/// One line a policy: what it came to, and the clause that stood in the way.
impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = &self.answer.verdict;
        said(f, verdict)?;
        for reason in &self.answer.reasons {
            write!(f, "\n  {}: {}", reason.policy, reason.text)?;
        }
        if !self.applied.is_empty() {
            listed(f, &self.applied, "\ntransformed: ")?;
        }
        if let Some(would_be) = &self.answer.would_be {
            write!(f, "\nwith what is in shadow in force: ")?;
            said(f, &would_be.verdict)?;
            listed(f, &would_be.shadow, " (in shadow: ")?;
            write!(f, ")")?;
        }
        for policy in &self.policies {
            let effect = match (policy.forbids, policy.gate.is_some() || policy.transform.is_some()) {
                (false, _) => "permit",
                (true, false) => "forbid",
                (true, true) => "gate",
            };
            let shadow = if policy.shadow { ", in shadow" } else { "" };
            write!(f, "\n{effect} {} ({}{shadow}): ", policy.policy, policy.place)?;
            match (&policy.outcome, policy.clauses.last()) {
                (Outcome::Holds, _) | (_, None) => write!(f, "holds")?,
                (Outcome::Fails, Some(clause)) => write!(f, "`{}` is not true", clause.text)?,
                (Outcome::Errs(error), Some(clause)) => write!(f, "`{}` errs: {error}", clause.text)?,
            }
        }
        self.found
            .iter()
            .try_for_each(|found| write!(f, "\nfound {}: {} at `{}`", found.detector, found.what, found.at))
    }
}
