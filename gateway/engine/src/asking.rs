//! Asking policy: one question for the acting principal, one for each on whose behalf it acts; all must allow.
//!
//! What a verdict was computed from goes into one payload: the canonical questions, the digests of the entity versions
//! and the canonical action. The payload's salt is the salt of the action's digest, so that one disclosure proves all.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::json;
use serde_json::value::RawValue;

use countersign_gateway_flow::{Actor, Asked, Force};
use countersign_gateway_model::{Decision, Digest, Name, Principal, Timestamp, Verdict};
use countersign_ledger_entry::payload::{self, Salt};
use countersign_ledger_entry::{Blob, Payload, PayloadRef, PayloadRole};
use countersign_policy_decide::input::TypedInput;
use countersign_policy_decide::{
    Answer, Decided, EntityRef, EntityStore, EntityVersion, Operation, PolicySnapshot, Question, Slice, combine,
    combine_would_be, decide, decide_chain, scope_name,
};

use crate::counters::{Counting, Reading};

/// Path of the commitment to an input before transforms.
const BEFORE: &str = "/input/before";

/// The principal as policy names it.
pub(crate) fn entity_of(who: &Principal) -> EntityRef {
    EntityRef::new(who.org, who.kind.into(), who.id.clone())
}

/// The principal as entries name it.
pub(crate) fn actor_of(who: &Principal) -> Actor {
    Actor { actor: who.pseudonym, on_behalf_of: who.on_behalf_of.iter().map(|d| d.pseudonym).collect() }
}

/// A question of `who`, with everything that follows from the credential.
pub(crate) fn question(who: &Principal, operation: Operation, resource: EntityRef, now: Timestamp) -> Question {
    let mut question = Question::new(entity_of(who), operation, resource, now);
    question.scopes = who.scopes.iter().map(|s| scope_name(*s)).collect();
    question.assurance = who.assurance;
    question.delegated = !who.on_behalf_of.is_empty();
    question
}

/// The same question for each that must allow it: the principal first, then its chain, outermost first.
pub(crate) fn chain(who: &Principal, question: Question) -> Vec<Question> {
    let mut questions = Vec::with_capacity(1 + who.on_behalf_of.len());
    for delegator in &who.on_behalf_of {
        let mut asked = question.clone();
        asked.asked = EntityRef::new(who.org, delegator.kind.into(), delegator.id.clone());
        asked.as_delegator = true;
        questions.push(asked);
    }
    questions.insert(0, question);
    questions
}

/// What policy said, and what it was computed from.
pub(crate) struct Answered {
    /// The strictest over all asked.
    pub(crate) verdict: Verdict,
    answers: Vec<Answer>,
    questions: Vec<Question>,
    versions: Vec<Arc<EntityVersion>>,
    /// The input before transforms, where policy asked for some.
    before: Option<Arc<TypedInput>>,
    /// Its instance's workflow is in shadow.
    shadow: bool,
}

/// Asks all of `questions` as they stand: where policy asks for a transform of the input, that is a denial.
///
/// Each is told the counters as they stand at its time, whatever it was told before.
pub(crate) fn ask(
    snapshot: &PolicySnapshot,
    (entities, counting): (&EntityStore, &Counting),
    questions: Vec<Question>,
) -> Answered {
    let at = questions.first().map_or(Timestamp(0), |question| question.now);
    let reading = counting.reading(snapshot, at, None);
    ask_reading(snapshot, entities, questions, &reading)
}

fn told(mut questions: Vec<Question>, reading: &Reading) -> Vec<Question> {
    let counters = reading.counters();
    for question in &mut questions {
        question.counters.clone_from(&counters);
    }
    questions
}

/// As [`ask`], with counters as a decision read them and what it has taken so far.
pub(crate) fn ask_reading(
    snapshot: &PolicySnapshot,
    entities: &EntityStore,
    questions: Vec<Question>,
    reading: &Reading,
) -> Answered {
    let questions = told(questions, reading);
    let slices = entities.slices(snapshot, &questions);
    let answers = questions.iter().zip(&slices).map(|(question, slice)| decide(snapshot, slice, question)).collect();
    answered(&slices, Decided { questions, answers, before: None })
}

/// Asks about an input that may still change: transforms that policy asks for are applied first. What comes after must
/// take the input from [`Answered::input`].
pub(crate) fn ask_transforming(
    snapshot: &PolicySnapshot,
    entities: &EntityStore,
    questions: Vec<Question>,
    reading: &Reading,
) -> Answered {
    let questions = told(questions, reading);
    let slices = entities.slices(snapshot, &questions);
    answered(&slices, decide_chain(snapshot, &slices, questions))
}

fn answered(slices: &[Slice], decided: Decided) -> Answered {
    let mut versions: Vec<Arc<EntityVersion>> = Vec::new();
    for member in slices.iter().flat_map(Slice::members) {
        if !versions.iter().any(|v| Arc::ptr_eq(v, member)) {
            versions.push(Arc::clone(member));
        }
    }
    let Decided { questions, answers, before } = decided;
    let (verdict, _) = combine(&answers);
    Answered { verdict, answers, questions, versions, before, shadow: false }
}

impl Answered {
    /// People may still lift what stands in the way, and nothing else does.
    pub(crate) fn waits_for_people(&self) -> bool {
        let waits = self.decision() == Decision::NeedsApproval && !self.shadow;
        waits && !self.verdict.error && !self.wants_transforms()
    }

    /// Whether it may go on: policy's yes, or an instance in shadow and a no that is not firm.
    pub(crate) fn allowed(&self) -> bool {
        self.decision() == Decision::Allow
    }

    /// What is done about the answer. The verdict stays what policy said, and is what is recorded.
    pub(crate) fn decision(&self) -> Decision {
        match self.force() {
            Force::Shadow { firm: false } => Decision::Allow,
            _ => self.verdict.decision,
        }
    }

    /// Says whether the workflow of the instance is in shadow.
    pub(crate) fn in_shadow(self, shadow: bool) -> Self {
        Self { shadow, ..self }
    }

    pub(crate) fn force(&self) -> Force {
        if !self.shadow {
            return Force::Enforced;
        }
        let mut against = self.answers.iter().filter(|answer| answer.verdict.decision != Decision::Allow);
        Force::Shadow { firm: self.verdict.error || against.any(|answer| answer.firm) }
    }

    /// The input that was decided on, after transforms.
    pub(crate) fn input(&self) -> Option<&Arc<TypedInput>> {
        self.questions.first().and_then(|question| question.input.as_ref())
    }

    /// Policy asks for transforms of the input that were not applied; nothing else stands in the way.
    pub(crate) fn wants_transforms(&self) -> bool {
        self.answers.iter().any(|answer| !answer.transforms.is_empty())
    }

    /// The questions as they were answered in the end.
    pub(crate) fn questions(&self) -> &[Question] {
        &self.questions
    }

    /// What an agent may be told of a denial: the policy's own words, no ids, thresholds, patterns or names.
    pub(crate) fn agent_message(&self) -> String {
        self.answers
            .iter()
            .filter(|a| a.verdict.decision == Decision::Deny)
            .find_map(|a| a.agent_message.clone())
            .unwrap_or_else(|| "refused by policy".to_owned())
    }

    /// The titles of the policies that stand in the way, for those who may read verdicts.
    pub(crate) fn reasons(&self) -> impl Iterator<Item = &str> {
        self.answers.iter().flat_map(|a| a.reasons.iter().map(|r| r.text.as_str()))
    }

    /// The answer as the state machine takes it, with the payload that `evidence` made.
    pub(crate) fn asked(&self, evidence: Option<PayloadRef>) -> Asked {
        let (verdict, determining) = combine(&self.answers);
        Asked {
            verdict: Some(verdict),
            determining,
            payloads: evidence.into_iter().collect(),
            fields: Vec::new(),
            force: self.force(),
        }
    }

    /// The payload from which the verdict can be computed again, the blobs that it names, and the digest of `action`
    /// (canonical JSON of what would be permitted) under the payload's salt.
    pub(crate) fn evidence(&self, salt: &Salt, action: &[u8]) -> Evidence {
        let mut content = Vec::with_capacity(1024);
        content.extend_from_slice(b"{\"action\":");
        content.extend_from_slice(action);
        content.extend_from_slice(b",\"entities\":[");
        for (at, version) in self.versions.iter().enumerate() {
            content.extend_from_slice(if at == 0 { b"\"" } else { b",\"" });
            content.extend_from_slice(version.digest().to_string().as_bytes());
            content.push(b'"');
        }
        content.extend_from_slice(b"],\"questions\":[");
        for (at, question) in self.questions.iter().enumerate() {
            if at > 0 {
                content.push(b',');
            }
            content.extend_from_slice(&question.canonical());
        }
        content.push(b']');
        if let Some((verdict, determining)) = combine_would_be(&self.answers) {
            let shadow: BTreeSet<&Name> =
                self.answers.iter().filter_map(|a| a.would_be.as_ref()).flat_map(|w| &w.shadow).collect();
            let would_be = json!({ "verdict": verdict, "determining": determining, "shadow": shadow });
            content.extend_from_slice(b",\"would_be\":");
            content.extend_from_slice(would_be.to_string().as_bytes());
        }
        content.push(b'}');
        // Where transforms were applied the input before them is kept nowhere; whoever has it can show what came.
        let fields = self
            .before
            .iter()
            .map(|before| payload::field_commitment(&payload::field_salt(salt, BEFORE), BEFORE, before.canonical()));
        let fields = fields.collect();
        let bytes = payload::seal(salt, &content);
        let digest = payload::digest(&bytes);
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        Evidence {
            reference: PayloadRef { role: PayloadRole::Question, digest, length },
            payload: Payload { digest, bytes },
            action: payload::salted(payload::ACTION, salt, action),
            fields,
            blobs: self.versions.iter().map(|v| Blob { digest: v.digest(), bytes: Arc::clone(v.blob()) }).collect(),
        }
    }
}

/// What travels beside an entry that carries a verdict.
pub(crate) struct Evidence {
    pub(crate) reference: PayloadRef,
    pub(crate) payload: Payload,
    /// Salted digest of the action.
    pub(crate) action: Digest,
    /// Commitments to what the payload does not hold.
    pub(crate) fields: Vec<Digest>,
    pub(crate) blobs: Vec<Blob>,
}

/// The payload of a question, read back.
#[derive(serde::Deserialize)]
pub(crate) struct StoredEvidence<'a> {
    #[serde(borrow)]
    pub(crate) action: &'a RawValue,
    pub(crate) entities: Vec<Digest>,
    #[serde(borrow)]
    pub(crate) questions: Vec<&'a RawValue>,
}

impl<'a> StoredEvidence<'a> {
    /// Reads a payload's content.
    pub(crate) fn read(content: &'a [u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(content)
    }
}

/// Satisfied rules on every question of a chain; `overridden` are those of them that were lifted, or met for an input that
/// a person changed.
pub(crate) fn with_satisfied(
    questions: &[Question],
    satisfied: &BTreeSet<countersign_gateway_model::Name>,
    overridden: &BTreeSet<countersign_gateway_model::Name>,
    now: Timestamp,
) -> Vec<Question> {
    questions
        .iter()
        .cloned()
        .map(|mut q| {
            q.now = now;
            q.satisfied.clone_from(satisfied);
            q.overridden.clone_from(overridden);
            q.granted = BTreeSet::new();
            q
        })
        .collect()
}
