//! Verdicts computed again from what is stored: the question, the entities that it reached, the policy that was in force.
//!
//! An entry's verdict may be the strictest over several questions (the items of a gate, or what a gate's resolution led
//! to). Which questions those are follows from the entry's place in its append, as `gateway/flow` drafted it.

use std::sync::Arc;

use countersign_gateway_model::{Digest, Principal, Verdict};
use countersign_ledger_entry::body::{Body, Cause, DecisionKind, Effect};
use countersign_ledger_entry::payload::{self, Salt};
use countersign_ledger_entry::{Entry, Header, PayloadRole};
use countersign_policy_decide::{combine, replay};

use crate::api::Replay;
use crate::asking::StoredEvidence;
use crate::error::EngineError;
use crate::org::Org;
use crate::receipts::stored_entry;
use crate::{Engine, Snapshot};

impl Engine {
    /// Computes the verdict of an entry again from its stored inputs.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] for an entry without a verdict.
    pub async fn replay(&self, who: &Principal, index: u64) -> Result<Replay, EngineError> {
        let org = self.org(who.org)?;
        self.may_audit(&org, who, "entry")?;
        let header = Entry::parse(&stored_entry(&org, index).await?.leaf)?.header;
        let stored = header.verdict.ok_or(EngineError::NotFound("verdict"))?;
        let Some(behind) = self.behind(&org, index).await? else {
            return Ok(Replay { index, stored, computed: None });
        };
        let mut verdicts = Vec::new();
        for content in &behind.evidence {
            let again = match content {
                Some(content) => replay_evidence(&org, &behind.snapshot, content).await?,
                None => None,
            };
            // Of a verdict over several questions nothing can be said where one of them was erased.
            let Some(again) = again else { return Ok(Replay { index, stored, computed: None }) };
            verdicts.push(again);
        }
        Ok(Replay { index, stored, computed: strictest(verdicts) })
    }

    /// What an entry's verdict was computed from; nothing where this program has not got the policy of then.
    pub(crate) async fn behind(&self, org: &Org, index: u64) -> Result<Option<Behind>, EngineError> {
        let header = Entry::parse(&stored_entry(org, index).await?.leaf)?.header;
        let digests = header.policy.filter(|_| header.verdict.is_some()).ok_or(EngineError::NotFound("verdict"))?;
        // It may have to be built from what the ledger keeps, which is long work and waits for readers of the ledger.
        let (policies, id) = (Arc::clone(self.policies()), org.id);
        let past = tokio::task::spawn_blocking(move || policies.past(id, &digests)).await;
        let Some(snapshot) = past.map_err(EngineError::damaged)? else { return Ok(None) };
        let at = usize::from(header.append.index);
        let first = index.saturating_sub(u64::from(header.append.index));
        let append = org.log.entries(first..first + u64::from(header.append.length)).await;
        let append = append
            .map_err(EngineError::ledger)?
            .iter()
            .map(|entry| Ok((entry.index, Entry::parse(&entry.leaf)?.header)))
            .collect::<Result<Vec<_>, EngineError>>()?;
        let headers: Vec<&Header> = append.iter().map(|(_, header)| header).collect();
        let mut evidence = Vec::new();
        for (of, digest) in questions_behind(&headers, at) {
            let Some((place, header)) = append.get(of) else { continue };
            let kept = self.salted_payload(org, *place, &digest).await?;
            if !kept.as_ref().is_some_and(|(salt, content)| is_cleared(header, salt, content)) {
                evidence.push(kept.map(|(_, content)| content));
            }
        }
        Ok(Some(Behind { snapshot, evidence }))
    }
}

/// What a verdict was computed from.
pub(crate) struct Behind {
    /// The policy that was in force.
    pub(crate) snapshot: Snapshot,
    /// Content of each question's payload; none where it was erased.
    pub(crate) evidence: Vec<Option<Vec<u8>>>,
}

/// The questions whose strictest answer is the verdict of the entry at `at` of an append: entry and payload of each.
fn questions_behind(append: &[&Header], at: usize) -> Vec<(usize, Digest)> {
    let own = |of: usize| -> Vec<(usize, Digest)> {
        let Some(header) = append.get(of) else { return Vec::new() };
        let questions = header.payloads.iter().filter(|p| p.role == PayloadRole::Question).map(|p| (of, p.digest));
        match header.body {
            // The first is who may decide; what follows is asked of those who decide next.
            Body::Decision(_) => questions.take(1).collect(),
            _ => questions.collect(),
        }
    };
    let nearest = |from: usize| (from..at).rev().map(own).find(|found| !found.is_empty());
    let found = own(at);
    if !found.is_empty() {
        return found;
    }
    if matches!(append.get(at).map(|h| &h.body), Some(Body::TaskGrantUse(_))) {
        // A use stands before the permit that rests on it, which carries the question.
        let permit = (at..append.len()).find(|of| matches!(append.get(*of).map(|h| &h.body), Some(Body::Permit(_))));
        return permit.map(own).unwrap_or_default();
    }
    let is_edge = |cause: Cause| matches!(append.get(at).map(|h| &h.body), Some(Body::Edge(e)) if e.cause == cause);
    if is_edge(Cause::Denial) {
        let refused = (0..at).find(|of| matches!(append.get(*of).map(|h| &h.body), Some(Body::Refusal(_))));
        return refused.map(own).unwrap_or_default();
    }
    let resolving = append.iter().take(at).rposition(|header| match &header.body {
        Body::Decision(d) => d.effect == Effect::Resolving && d.kind != DecisionKind::Reject,
        Body::Lift(lift) => lift.effect == Effect::Resolving,
        _ => false,
    });
    match resolving {
        Some(decision) if matches!(append.get(at).map(|h| &h.body), Some(Body::Edge(_))) => {
            // What the gate stood in front of was asked again: at the first edge, or at each permit after the edges.
            nearest(decision + 1).unwrap_or_else(|| {
                let permits = append.iter().enumerate().skip(at);
                let through = permits.filter(|(_, h)| matches!(&h.body, Body::Permit(p) if p.item.is_some()));
                let asked: Vec<_> = through.flat_map(|(of, _)| own(of)).collect();
                // Where every item was dropped nothing was left to ask, and the edges follow from the decision.
                if asked.is_empty() { own(decision) } else { asked }
            })
        }
        _ => nearest(0).unwrap_or_default(),
    }
}

/// Whether a question that stands at a gate is that of an action that waits for nobody: the gate's verdict is not of it.
fn is_cleared(header: &Header, salt: &Salt, content: &[u8]) -> bool {
    let Body::Gate(gate) = &header.body else { return false };
    if gate.cleared.is_empty() {
        return false;
    }
    StoredEvidence::read(content).is_ok_and(|stored| {
        let digest = payload::salted(payload::ACTION, salt, stored.action.get().as_bytes());
        gate.cleared.iter().any(|cleared| cleared.digest == digest)
    })
}

/// As the state machine combines the answers of one append.
fn strictest(verdicts: Vec<Verdict>) -> Option<Verdict> {
    verdicts.into_iter().reduce(|mut all, one| {
        all.decision = all.decision.max(one.decision);
        all.error |= one.error;
        all.rules.extend(one.rules);
        all.rules.sort();
        all.rules.dedup();
        all
    })
}

async fn replay_evidence(org: &Org, snapshot: &Snapshot, content: &[u8]) -> Result<Option<Verdict>, EngineError> {
    let stored = StoredEvidence::read(content).map_err(EngineError::damaged)?;
    let mut blobs = Vec::with_capacity(stored.entities.len());
    for digest in &stored.entities {
        match org.log.blob(digest).await.map_err(EngineError::ledger)? {
            Some(blob) => blobs.push(blob),
            None => return Ok(None),
        }
    }
    let entities: Vec<&[u8]> = blobs.iter().map(Vec::as_slice).collect();
    let mut answers = Vec::with_capacity(stored.questions.len());
    for question in &stored.questions {
        answers.push(replay(snapshot, question.get().as_bytes(), &entities).map_err(EngineError::damaged)?);
    }
    Ok(Some(combine(&answers).0))
}
