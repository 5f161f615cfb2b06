//! What a permit is for, where that is not what the agent sent: policy masked a part of it, or had it transformed, or a
//! person changed it at a gate. Whoever carries the action out must be told, or would carry out what nobody permitted.
//!
//! It is read from the question that the permit's entry keeps, which never held what a mask took away. Absent: who may be
//! told (the callers ask that first). Read next: `actions`.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use countersign_gateway_model::{InstanceId, Name, PermitId};
use countersign_ledger_entry::{Entry, PayloadRole};
use countersign_policy_decide::input::TypedInput;

use crate::Engine;
use crate::api::{ActionAnswer, ActionResult, ChangedBy, Instead};
use crate::asking::StoredEvidence;
use crate::error::EngineError;
use crate::org::{Org, instance_stream};
use crate::stream::Held;

/// The fact that a mask or a transform leaves behind, up to its name.
const MASKED: &str = "masked:";

/// The fact besides, where what was to take the place of a value did not fit.
const FAILED: &str = "mask-failed:";

/// What changed an input. Transforms leave the facts of masks too, so that those of their names are theirs.
fn changed_by(applied: &BTreeSet<Name>, facts: &BTreeSet<Name>, overridden: bool) -> Vec<ChangedBy> {
    let masks = facts.iter().filter_map(|fact| fact.as_str().strip_prefix(MASKED));
    let masked = masks.into_iter().any(|mask| !applied.iter().any(|transform| transform.as_str() == mask));
    let by =
        [(masked, ChangedBy::Mask), (!applied.is_empty(), ChangedBy::Transform), (overridden, ChangedBy::Override)];
    by.into_iter().filter_map(|(did, what)| did.then_some(what)).collect()
}

/// What is asked about, where policy made it into something else than was sent.
pub(crate) fn instead_of(input: &TypedInput) -> Option<Instead> {
    let changed_by = changed_by(input.applied(), input.masked(), false);
    (!changed_by.is_empty()).then(|| Instead { input: input.shared(), changed_by })
}

/// The masks and transforms that made an input what it is, in words.
pub(crate) fn rewritten(input: &TypedInput) -> Vec<String> {
    let dropped = |name: &str| input.masked().iter().any(|fact| fact.as_str().strip_prefix(FAILED) == Some(name));
    let words = input.masked().iter().filter_map(|fact| fact.as_str().strip_prefix(MASKED)).map(|name| {
        let what =
            if input.applied().iter().any(|transform| transform.as_str() == name) { "transform" } else { "mask" };
        let failed = if dropped(name) { " (it did not fit: the field is left out)" } else { "" };
        format!("{what} {name}{failed}")
    });
    words.collect()
}

/// What a stored question is about, where that is something else than was sent.
fn stored_instead(content: &[u8]) -> Result<Option<Instead>, serde_json::Error> {
    #[derive(serde::Deserialize)]
    struct Action {
        overridden_by: Option<IgnoredAny>,
    }
    #[derive(serde::Deserialize)]
    struct Asked<'a> {
        #[serde(default)]
        applied: BTreeSet<Name>,
        #[serde(default)]
        facts: BTreeSet<Name>,
        #[serde(borrow, default)]
        input: Option<&'a RawValue>,
    }
    let stored = StoredEvidence::read(content)?;
    let Action { overridden_by } = serde_json::from_str(stored.action.get())?;
    let Some(question) = stored.questions.first() else { return Ok(None) };
    let Asked { applied, facts, input } = serde_json::from_str(question.get())?;
    let changed_by = changed_by(&applied, &facts, overridden_by.is_some());
    let input = input.filter(|_| !changed_by.is_empty());
    Ok(input.map(|input| Instead { input: Arc::from(input.get().as_bytes()), changed_by }))
}

impl Engine {
    /// What a permit is for instead of what was sent; none where it is for that. `sequence` is that of its entry.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] where the question was erased: then nobody knows any more what was permitted.
    pub(crate) async fn permitted_instead(
        &self,
        org: &Org,
        instance: InstanceId,
        sequence: u64,
    ) -> Result<Option<Instead>, EngineError> {
        let stored = org.log.stream_entries(instance_stream(instance), sequence, 1).await;
        let stored = stored.map_err(EngineError::ledger)?;
        let entry = stored.first().ok_or_else(|| EngineError::damaged("a permit without its entry"))?;
        let header = Entry::parse(&entry.leaf)?.header;
        // A permit carries its own question, and no other.
        let question = header.payloads.iter().find(|payload| payload.role == PayloadRole::Question);
        let Some(question) = question else { return Ok(None) };
        let kept = self.payload(org, entry.index, &question.digest).await?;
        let content = kept.ok_or(EngineError::NotFound("question of the permit: it was erased"))?;
        stored_instead(&content).map_err(EngineError::damaged)
    }

    /// The same, for those who read what became of an action: what was erased is not there to be read.
    pub(crate) async fn readable_instead(
        &self,
        org: &Org,
        instance: InstanceId,
        sequence: Option<u64>,
    ) -> Result<Option<Instead>, EngineError> {
        let Some(sequence) = sequence else { return Ok(None) };
        match self.permitted_instead(org, instance, sequence).await {
            Err(EngineError::NotFound(_)) => Ok(None),
            read => read,
        }
    }

    /// Says of each action that a gate let through what it is permitted for, where that is not what was sent.
    pub(crate) async fn tell_instead(
        &self,
        org: &Org,
        held: &mut Held,
        answers: &mut [ActionAnswer],
    ) -> Result<(), EngineError> {
        let instance = held.fold()?.id();
        for answer in answers.iter_mut() {
            let Some(permit) = permit_of(&answer.result) else { continue };
            let fold = held.fold()?;
            let live = fold.live_permit(permit).map(|live| live.sequence);
            let sequence = live.or_else(|| fold.open_start(permit).map(|start| start.permit_sequence));
            answer.instead = self.readable_instead(org, instance, sequence).await?;
        }
        remember(held, answers);
        Ok(())
    }
}

pub(crate) fn permit_of(result: &ActionResult) -> Option<PermitId> {
    match result {
        ActionResult::Permitted { permit, .. } => Some(*permit),
        ActionResult::Started(start) | ActionResult::Dispatched { start, .. } => Some(start.permit),
        ActionResult::Waiting { .. } | ActionResult::Refused { .. } => None,
    }
}

/// Remembers which permits are for what was sent, so that nothing need be read when they are begun.
pub(crate) fn remember(held: &mut Held, answers: &[ActionAnswer]) {
    let unchanged = answers.iter().filter(|answer| answer.instead.is_none()).filter_map(|answer| match answer.result {
        ActionResult::Permitted { permit, .. } => Some(permit),
        _ => None,
    });
    let live = &mut *held.live;
    live.as_sent.extend(unchanged);
    // What is gone is forgotten once it is the larger part: to look at all of them each time would cost every proposal.
    if let Some(fold) = live.fold.as_ref().filter(|fold| live.as_sent.len() > 2 * fold.live_permits() + 64) {
        live.as_sent.retain(|permit| fold.live_permit(*permit).is_some());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(texts: &[&str]) -> BTreeSet<Name> {
        texts.iter().filter_map(|text| Name::new(text).ok()).collect()
    }

    #[test]
    fn a_transforms_own_fact_is_no_mask_and_other_facts_change_nothing() {
        use ChangedBy::{Mask, Override, Transform};
        for (applied, facts, overridden, expected) in [
            (&[][..], &["secret-in-input"][..], false, vec![]),
            (&[], &["masked:card"], false, vec![Mask]),
            (&["shorten"], &["masked:shorten"], false, vec![Transform]),
            (&["shorten"], &["masked:shorten", "masked:card"], true, vec![Mask, Transform, Override]),
            (&[], &[], true, vec![Override]),
        ] {
            assert_eq!(changed_by(&names(applied), &names(facts), overridden), expected, "{applied:?} {facts:?}");
        }
    }
}
