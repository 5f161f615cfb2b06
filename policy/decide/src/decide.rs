//! Deciding: one question, one slice, one snapshot, one answer. Total, synchronous, without a clock.
//!
//! An `allow` lets go. A denial by any policy that is not a gate is final. A denial by gates alone is asked again with
//! their rules satisfied, and again while new rules appear; if that would allow, people are asked, else nobody is
//! bothered. An error in any forbid, in any round, is a denial of its own kind: Cedar would skip that policy.
//! Absent: counting votes, moving states. Read next: `snapshot`, `gate`.

use std::collections::BTreeSet;

use cedar_policy_core::ast::{Literal, Request, Value, ValueKind};
use cedar_policy_core::evaluator::Evaluator;
use cedar_policy_core::extensions::Extensions;
use countersign_gateway_model::{Decision, Determining, Name, OrgId, Verdict};

use crate::context::context;
use crate::entity::{EntityError, EntityVersion, well_known};
use crate::question::{Question, QuestionError};
use crate::schema::core;
use crate::snapshot::{PolicySnapshot, Prepared};
use crate::store::{Slice, SliceProblem};

/// Why the answer is what it is, for those who may read verdicts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The policy, or the gateway's own ground (`gateway:…`).
    pub policy: Name,
    /// In words: the policy's title, an error, a missing entity.
    pub text: String,
}

/// What policy says to one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What is signed.
    pub verdict: Verdict,
    /// Ids of the policies that determined it, sorted; `gateway:…` where no policy did.
    pub determining: Vec<Name>,
    /// What an agent may be told, if a determining policy says so.
    pub agent_message: Option<String>,
    /// For those who may read verdicts; never for the agent.
    pub reasons: Vec<Reason>,
    /// How often policies were evaluated.
    pub rounds: u32,
}

impl Answer {
    /// The decision alone.
    pub fn decision(&self) -> Decision {
        self.verdict.decision
    }

    fn refused(ground: &str, text: String, rounds: u32) -> Self {
        let policy = well_known(ground);
        Self {
            verdict: Verdict::deny(),
            determining: vec![policy.clone()],
            agent_message: None,
            reasons: vec![Reason { policy, text }],
            rounds,
        }
    }
}

/// Grounds that are the gateway's own, as they stand among determining ids.
pub mod ground {
    /// The tool is not in the catalogue.
    pub const UNKNOWN_TOOL: &str = "gateway:unknown-tool";
    /// An entity that the question needs is not known.
    pub const MISSING_ENTITY: &str = "gateway:missing-entity";
    /// Something of another organization is named.
    pub const FOREIGN: &str = "gateway:foreign-organization";
    /// The question does not fit the schema.
    pub const INVALID: &str = "gateway:invalid-question";
    /// What is known is too old for a person to decide on.
    pub const STALE: &str = "gateway:stale-entity";
    /// No policy permits it.
    pub const DEFAULT: &str = "gateway:default-deny";
    /// A gate whose rule does not lift it.
    pub const STUCK_GATE: &str = "gateway:stuck-gate";
}

/// What one evaluation of all candidates gave.
#[derive(Default)]
struct Round<'s> {
    permits: Vec<&'s Prepared>,
    hard: Vec<&'s Prepared>,
    gates: Vec<(&'s Prepared, &'s Name)>,
    broken: Vec<(&'s Prepared, String)>,
    broken_permits: Vec<(&'s Prepared, String)>,
}

/// Answers one question.
pub fn decide(snapshot: &PolicySnapshot, slice: &Slice, question: &Question) -> Answer {
    let mut candidates = Vec::with_capacity(32);
    snapshot.candidates(question, slice, &mut candidates);
    answer(snapshot, slice, question, &candidates)
}

/// The same over every policy in force: what [`decide`] must equal, kept for proofs and for doubt.
pub fn decide_by_full_walk(snapshot: &PolicySnapshot, slice: &Slice, question: &Question) -> Answer {
    let candidates: Vec<&Prepared> = snapshot.policies().iter().map(|p| &**p).collect();
    answer(snapshot, slice, question, &candidates)
}

fn answer(snapshot: &PolicySnapshot, slice: &Slice, question: &Question, candidates: &[&Prepared]) -> Answer {
    if let Some(refusal) = unfit(snapshot, slice, question) {
        return refusal;
    }
    let mut satisfied = question.satisfied.clone();
    let mut asked_for: BTreeSet<&Name> = BTreeSet::new();
    let mut gates: Vec<&Prepared> = Vec::new();
    let mut rounds = 0;
    loop {
        let round = match evaluate(snapshot, slice, question, &satisfied, candidates) {
            Ok(round) => round,
            Err(reason) => return Answer::refused(ground::INVALID, reason, rounds),
        };
        rounds += 1;
        if !round.broken.is_empty() {
            return broken(&round, rounds);
        }
        if !round.hard.is_empty() {
            let all = round.hard.iter().copied().chain(round.gates.iter().map(|(p, _)| *p));
            return said(Verdict::deny(), all, &round.hard, &round.broken_permits, rounds);
        }
        if round.gates.is_empty() {
            if round.permits.is_empty() {
                return default_deny(&gates, &round, rounds);
            }
            if asked_for.is_empty() {
                return said(Verdict::allow(), round.permits.iter().copied(), &[], &round.broken_permits, rounds);
            }
            if let Some(refusal) = stale(snapshot, slice, question, true, rounds) {
                return refusal;
            }
            let verdict = Verdict::needs_approval(asked_for.into_iter().cloned().collect());
            return said(verdict, gates.iter().copied(), &gates, &round.broken_permits, rounds);
        }
        let mut news = false;
        for (gate, rule) in &round.gates {
            gates.push(gate);
            asked_for.insert(rule);
            news |= satisfied.insert((*rule).clone());
        }
        if !news {
            return Answer::refused(
                ground::STUCK_GATE,
                "a gate is not lifted by the rule that it asks for".to_owned(),
                rounds,
            );
        }
    }
}

/// What is wrong with the question or its slice before any policy is asked.
fn unfit(snapshot: &PolicySnapshot, slice: &Slice, question: &Question) -> Option<Answer> {
    // Grounds in the order of their weight: what another organization owns is not even said to be missing.
    let weight = |problem: &SliceProblem| match problem {
        SliceProblem::Foreign(_) => 0,
        SliceProblem::UnknownTool(_) => 1,
        SliceProblem::Missing(_) | SliceProblem::Unresolved { .. } => 2,
    };
    if let Some(problem) = slice.problems().iter().min_by_key(|p| weight(p)) {
        let (ground, text) = match problem {
            SliceProblem::Foreign(entity) => (ground::FOREIGN, format!("`{entity}` is of another organization")),
            SliceProblem::UnknownTool(entity) => (ground::UNKNOWN_TOOL, format!("`{entity}` is not in the catalogue")),
            SliceProblem::Missing(entity) => (ground::MISSING_ENTITY, format!("`{entity}` is not known")),
            SliceProblem::Unresolved { entity, ancestor } => {
                (ground::MISSING_ENTITY, format!("`{ancestor}`, which `{entity}` belongs to, is not known"))
            }
        };
        return Some(Answer::refused(ground, text, 0));
    }
    let invalid = |text: &str| Some(Answer::refused(ground::INVALID, text.to_owned(), 0));
    if question.is_tool() {
        let Some(input) = &question.input else {
            return invalid("a tool question has no typed input");
        };
        let current = snapshot.tool(question.resource.id.as_str());
        if *input.tool() != question.resource.id || current.is_none_or(|t| t.version != input.version()) {
            return invalid("the input was typed for another tool, or for another version of it");
        }
    } else if question.input.is_some() {
        return invalid("only a tool question has a typed input");
    }
    stale(snapshot, slice, question, question.operation.decides() || !question.satisfied.is_empty(), 0)
}

/// Facts that are too old, where a person's authority stands on them.
fn stale(snapshot: &PolicySnapshot, slice: &Slice, question: &Question, matters: bool, rounds: u32) -> Option<Answer> {
    if !matters {
        return None;
    }
    snapshot.aged_kinds().find_map(|kind| {
        let (entity, as_of) = slice.oldest(kind)?;
        let age = question.now.since(as_of);
        let most = snapshot.max_age(kind)?;
        (age > most).then(|| {
            Answer::refused(
                ground::STALE,
                format!("`{entity}` is known as of {as_of}, longer ago than the bundle allows"),
                rounds,
            )
        })
    })
}

fn evaluate<'s>(
    snapshot: &PolicySnapshot,
    slice: &Slice,
    question: &Question,
    satisfied: &BTreeSet<Name>,
    candidates: &[&'s Prepared],
) -> Result<Round<'s>, String> {
    let extensions = Extensions::all_available();
    let action = snapshot.action(question).ok_or("no such action for this resource")?;
    let context = context(snapshot, question, satisfied)?;
    let uid = |entity: &crate::entity::EntityRef| (std::sync::Arc::unwrap_or_clone(entity.uid()), None);
    let request = Request::new(
        uid(&question.asked),
        (action.uid.clone(), None),
        uid(&question.resource),
        context,
        Some(core(snapshot.schema())),
        extensions,
    )
    .map_err(|e| e.to_string())?;
    let evaluator = Evaluator::new(request, &slice.entities, extensions);
    let mut round = Round::default();
    for prepared in candidates {
        let result = match evaluator.interpret(&prepared.condition, prepared.core.env()) {
            Ok(Value { value: ValueKind::Lit(Literal::Bool(holds)), .. }) => Ok(holds),
            Ok(other) => Err(format!("the condition is not a boolean but {other}")),
            Err(error) => Err(error.to_string()),
        };
        match (result, prepared.forbids) {
            (Ok(true), false) => round.permits.push(prepared),
            (Ok(true), true) => match &prepared.gate {
                Some(rule) => round.gates.push((prepared, rule)),
                None => round.hard.push(prepared),
            },
            (Ok(false), _) => {}
            (Err(error), true) => round.broken.push((prepared, error)),
            (Err(error), false) => round.broken_permits.push((prepared, error)),
        }
    }
    Ok(round)
}

fn sorted<'p>(policies: impl Iterator<Item = &'p Prepared>) -> Vec<&'p Prepared> {
    let mut all: Vec<_> = policies.collect();
    all.sort_by(|a, b| a.id.cmp(&b.id));
    all.dedup_by(|a, b| a.id == b.id);
    all
}

fn said<'p>(
    verdict: Verdict,
    determining: impl Iterator<Item = &'p Prepared>,
    speaking: &[&Prepared],
    broken_permits: &[(&Prepared, String)],
    rounds: u32,
) -> Answer {
    let determining = sorted(determining);
    let agent_message = sorted(speaking.iter().copied()).into_iter().find_map(|p| p.agent_message.clone());
    let told = |p: &&Prepared| Reason { policy: p.id.clone(), text: p.title.clone().unwrap_or_default() };
    let mut reasons: Vec<Reason> = determining.iter().map(told).collect();
    reasons.extend(broken_permits.iter().map(|(p, error)| Reason { policy: p.id.clone(), text: error.clone() }));
    Answer {
        verdict,
        determining: determining.into_iter().map(|p| p.id.clone()).collect(),
        agent_message,
        reasons,
        rounds,
    }
}

fn broken(round: &Round<'_>, rounds: u32) -> Answer {
    let verdict = Verdict { error: true, ..Verdict::deny() };
    let mut answer = said(verdict, round.broken.iter().map(|(p, _)| *p), &[], &round.broken_permits, rounds);
    for reason in &mut answer.reasons {
        if let Some((_, error)) = round.broken.iter().find(|(p, _)| p.id == reason.policy) {
            reason.text.clone_from(error);
        }
    }
    answer
}

fn default_deny(gates: &[&Prepared], round: &Round<'_>, rounds: u32) -> Answer {
    let mut answer = Answer::refused(ground::DEFAULT, "no policy permits it".to_owned(), rounds);
    answer.reasons.extend(
        sorted(gates.iter().copied()).into_iter().map(|p| Reason {
            policy: p.id.clone(),
            text: "would ask for approval, which would not suffice".to_owned(),
        }),
    );
    answer
        .reasons
        .extend(round.broken_permits.iter().map(|(p, error)| Reason { policy: p.id.clone(), text: error.clone() }));
    answer
}

/// The strictest of several answers: the acting principal's first, then one for each on whose behalf it acts.
/// A denial anywhere denies; else rules add up; an error anywhere is kept.
pub fn combine(answers: &[Answer]) -> (Verdict, Determining) {
    let determining = answers.iter().map(|a| a.determining.clone()).collect();
    let strictest = answers.iter().map(|a| a.verdict.decision).max().unwrap_or(Decision::Deny);
    let mut verdict = match strictest {
        Decision::Allow => Verdict::allow(),
        Decision::NeedsApproval => {
            Verdict::needs_approval(answers.iter().flat_map(|a| a.verdict.rules.iter().cloned()).collect())
        }
        Decision::Deny => Verdict::deny(),
    };
    verdict.error = answers.iter().any(|a| a.verdict.error);
    (verdict, determining)
}

/// Why a verdict cannot be computed again.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The question.
    #[error("the stored question cannot be read")]
    Question(#[from] QuestionError),
    /// An entity version.
    #[error("a stored entity version cannot be read")]
    Entity(#[from] EntityError),
}

/// Computes a stored verdict again, from the blobs and the snapshot that it names.
pub fn replay(snapshot: &PolicySnapshot, question: &[u8], entities: &[&[u8]]) -> Result<Answer, ReplayError> {
    let question = Question::parse(question, snapshot)?;
    let versions = read_versions(question.org, entities)?;
    let slice = Slice::from_versions(snapshot, &question, &versions);
    Ok(decide(snapshot, &slice, &question))
}

fn read_versions(org: OrgId, blobs: &[&[u8]]) -> Result<Vec<std::sync::Arc<EntityVersion>>, EntityError> {
    blobs.iter().map(|blob| EntityVersion::from_blob(org, blob)).collect()
}
