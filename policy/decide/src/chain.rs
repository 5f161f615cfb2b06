//! Asking for a whole chain: the acting principal, then each on whose behalf it acts, about one and the same input.
//!
//! Where policy asks for transforms and denies for nothing else, they are applied in the manifest's order, the new input
//! is typed and searched, and all are asked again from the first round, once. A transform that is asked for then is a
//! denial. Whoever comes after (approver, digest, permit, tool) gets the questions that this gives back, and with them
//! the new input alone. Absent: which questions a chain has. Read next: `decide`.

use std::collections::BTreeSet;
use std::sync::Arc;

use countersign_gateway_model::{Decision, Name};

use crate::decide::{Answer, decide};
use crate::input::{self, TypedInput};
use crate::masks;
use crate::question::Question;
use crate::round::ground;
use crate::snapshot::PolicySnapshot;
use crate::store::Slice;

/// What policy says to a chain.
#[derive(Clone, Debug)]
pub struct Decided {
    /// The questions as they were answered in the end.
    pub questions: Vec<Question>,
    /// One answer to each.
    pub answers: Vec<Answer>,
    /// The input before transforms, where any was applied: for the entry's commitment to it, and for nobody else.
    pub before: Option<Arc<TypedInput>>,
}

/// Answers the questions of one chain, each over its own slice ([`EntityStore::slices`](crate::EntityStore::slices)).
pub fn decide_chain(snapshot: &PolicySnapshot, slices: &[Slice], questions: Vec<Question>) -> Decided {
    let answers = ask(snapshot, slices, &questions);
    let missing: BTreeSet<Name> = answers.iter().flat_map(|a| a.transforms.iter().cloned()).collect();
    let denied = |a: &Answer| a.verdict.decision == Decision::Deny && a.transforms.is_empty();
    if missing.is_empty() || answers.iter().any(denied) {
        return Decided { questions, answers, before: None };
    }
    let before = questions.iter().find_map(|question| question.input.clone());
    let after = before.as_ref().and_then(|input| transformed(snapshot, input, &missing));
    let Some(after) = after else {
        let text = "what a transform leaves of the input does not fit the tool's schema";
        let refused = |_: &Question| Answer::refused(ground::TRANSFORM_FAILED, text.to_owned(), 1);
        return Decided { answers: questions.iter().map(refused).collect(), questions, before: None };
    };
    let questions: Vec<Question> = questions
        .into_iter()
        .map(|mut question| {
            question.input = Some(Arc::clone(&after));
            question
        })
        .collect();
    let answers = ask(snapshot, slices, &questions);
    Decided { questions, answers, before }
}

fn ask(snapshot: &PolicySnapshot, slices: &[Slice], questions: &[Question]) -> Vec<Answer> {
    questions
        .iter()
        .enumerate()
        .map(|(at, question)| match slices.get(at) {
            Some(slice) => decide(snapshot, slice, question),
            None => Answer::refused(ground::MISSING_ENTITY, "the question has no slice".to_owned(), 0),
        })
        .collect()
}

fn transformed(snapshot: &PolicySnapshot, input: &TypedInput, names: &BTreeSet<Name>) -> Option<Arc<TypedInput>> {
    let tool = snapshot.tool(input.tool().as_str())?;
    let steps = masks::steps_for(input.tool().as_str(), snapshot.transforms(names));
    input::transformed(tool, input, names, &steps).ok().map(Arc::new)
}
