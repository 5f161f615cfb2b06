//! A decision is weighed: policy is asked whether this person may decide, the vote is made, and what the last one permits is
//! prepared.
//!
//! An APPROVE asks the stored question again with fresh entities and the current bundle; an OVERRIDE asks a new one. What was
//! asked, shown and said is kept as payloads of the entries. Counting is `flow::gate`'s. Read next: `reasking`, `overrides`.

use std::collections::BTreeMap;

use countersign_gateway_flow::{
    Asked, Ballot, BallotItem, Change, Decide, Illegal, OpenGate, OpenItem, Proposal, SystemReject, gate as counting,
};
use countersign_gateway_model::{ItemId, Name, State};
use countersign_ledger_entry::body::{DecisionKind, GateSubject};
use countersign_ledger_entry::payload;
use countersign_ledger_entry::{PayloadRef, PayloadRole};
use countersign_policy_decide::{EntityKind, EntityRef, Operation};

use crate::api::DecisionRequest;
use crate::asking::{Answered, ask, question};
use crate::beside::Beside;
use crate::counters::Reading;
use crate::deciding::Deciding;
use crate::demands::{check_signature, demands_met};
use crate::error::EngineError;
use crate::mint::MintExt as _;
use crate::overrides::Replaced;
use crate::reasking::Settled;
use crate::resolving::Runs;
use crate::stream::{Held, four_eyes};
use crate::voters::{admits, default_role};
use crate::{Engine, Snapshot};

impl Engine {
    /// Everything that the state machine needs to weigh a decision.
    pub(crate) fn decision_proposal(
        &self,
        work: &Deciding<'_>,
        held: &Held,
        request: DecisionRequest,
        (beside, reading): (&mut Beside, &mut Reading),
    ) -> Result<(Proposal, Runs), EngineError> {
        let Deciding { org, snapshot, who, gate, opened, .. } = *work;
        let kind = request.kind;
        let shown = opened.held_to(request.shown_digest, kind == DecisionKind::Reject)?;
        let chosen = chosen(work, &request)?;
        let offer = self.describe_offer(org, held, gate, who.id.clone())?;
        let mut asked = self.ask_decider(work, kind, (&chosen, offer), request.role.as_ref());
        let eligible = asked.iter().all(Answered::allowed);
        // The questions themselves are asked for the state in which what they permit will be carried out.
        self.describe_instance_in(org, &held.live, State::Running)?;
        let stale = opened.is_stale(snapshot, gate);
        // OVERRIDE: a new typed input, decided from the first round.
        let mut replaced: BTreeMap<ItemId, Replaced> = BTreeMap::new();
        for (id, change) in &request.delta {
            if let (Some(item), Some(change)) = (gate.item(*id), change) {
                replaced.insert(*id, self.replace(work, item, change)?);
            }
        }
        let mut ballot = ballot_of(work, &request, (&chosen, &replaced))?;
        let mut settled = Settled::default();
        if eligible && !stale && kind != DecisionKind::Reject {
            settled = self.settle(work, held, &replaced, &mut ballot, reading)?;
        }
        let Settled { met, mut reasked, asked_again } = settled;
        let (mut runs, mut grants) = (Vec::new(), Vec::new());
        if met {
            (grants, runs) = self.grants(work, held, &replaced, &mut reasked, (&mut *beside, &mut *reading))?;
        }
        let kept = self.keep_delta(&request, &replaced, beside)?;
        let delta = kept.map(|(delta, _)| delta);
        asked.payloads.extend(kept.map(|(_, reference)| reference));
        if let Some(signed) = &request.assertion {
            check_signature(work, signed, &ballot, (delta, shown))?;
        }
        if kind == DecisionKind::Override && !met && !stale {
            // Votes are missing: whoever decides next reads, and is asked about, what this makes of the gate.
            for new in replaced.values() {
                let (reference, _) = beside.add(new.answered.evidence(&new.salt, &new.canonical));
                asked.payloads.push(reference);
            }
            let pending = Self::after_override(work, &request, &replaced);
            asked.payloads.push(self.show_again(org, snapshot, held, gate, &pending, beside)?);
        }
        let justification = justification(snapshot, gate, &request)?;
        let mut decided = asked.into_asked(self, beside)?;
        if let Some(text) = &justification {
            let sealed = payload::seal(&self.mint().salt(), text.as_bytes());
            decided.payloads.push(beside.payload(PayloadRole::Justification, sealed));
        }
        let reasked = reasked.iter().map(|again| self.keep(again, beside)).collect();
        decided.payloads.extend(runs.iter().map(|(_, run)| run.reference));
        let proposal = Proposal::Decide(Box::new(Decide {
            decision: self.mint().decision(),
            gate: gate.gate,
            ballot,
            asked: decided,
            justification,
            shown,
            view: opened.shown(),
            delta,
            assurance: who.assurance,
            assertion: request.assertion.map(|signed| signed.assertion),
            stale,
            reasked,
            asked_again,
            grants,
            reject: SystemReject { decision: self.mint().decision() },
        }));
        Ok((proposal, runs))
    }

    /// Asks policy whether this person may decide: on the gate for REJECT, on each item else.
    fn ask_decider(
        &self,
        work: &Deciding<'_>,
        kind: DecisionKind,
        (items, offer): (&[&OpenItem], Option<EntityRef>),
        role: Option<&Name>,
    ) -> DeciderAnswers {
        let Deciding { org, snapshot, who, gate, now, .. } = *work;
        let operation = match kind {
            DecisionKind::Approve if offer.is_some() => Operation::GrantTask,
            DecisionKind::Approve => Operation::Approve,
            DecisionKind::Reject => Operation::Reject,
            DecisionKind::Override => Operation::Override,
        };
        let resources: Vec<EntityRef> = if items.is_empty() {
            Self::gate_entity(org, gate.gate).into_iter().collect()
        } else if let Some(offer) = offer {
            vec![offer]
        } else {
            items
                .iter()
                .filter_map(|i| Name::new(&i.item.to_string()).ok())
                .map(|id| EntityRef::new(org.id, EntityKind::Item, id))
                .collect()
        };
        let answers = resources
            .into_iter()
            .map(|resource| {
                let mut asked = question(who, operation, resource, now);
                asked.four_eyes = four_eyes(org);
                asked.role = role.cloned();
                ask(snapshot, org.facts(), vec![asked])
            })
            .collect();
        DeciderAnswers { answers, payloads: Vec::new() }
    }
}

/// What policy said of the person who decides.
struct DeciderAnswers {
    answers: Vec<Answered>,
    payloads: Vec<PayloadRef>,
}

impl DeciderAnswers {
    fn iter(&self) -> impl Iterator<Item = &Answered> {
        self.answers.iter()
    }

    /// One answer over all items: the strictest, with the policies of each.
    fn into_asked(self, engine: &Engine, beside: &mut Beside) -> Result<Asked, EngineError> {
        let strictest = self
            .answers
            .iter()
            .max_by_key(|a| a.verdict.decision)
            .ok_or_else(|| EngineError::damaged("a decision that asked nothing"))?;
        let action = br#"{"question":"decide"}"#;
        let (reference, _) = beside.add(strictest.evidence(&engine.mint().salt(), action));
        let mut asked = strictest.asked(Some(reference));
        asked.payloads.extend(self.payloads);
        Ok(asked)
    }
}

/// The items that are decided, of a request that can be a decision at all.
fn chosen<'g>(work: &Deciding<'g>, request: &DecisionRequest) -> Result<Vec<&'g OpenItem>, EngineError> {
    let Deciding { who, gate, .. } = *work;
    let kind = request.kind;
    if request.role.as_ref().is_some_and(|role| !who.roles.contains(role)) {
        return Err(EngineError::invalid("role", "you do not hold this role: name one of yours, or none"));
    }
    if kind == DecisionKind::Override && gate.subject == GateSubject::Grant {
        return Err(Illegal::GrantOverride.into());
    }
    if kind == DecisionKind::Override && request.delta.is_empty() {
        return Err(Illegal::OverrideWithoutDelta.into());
    }
    let item = |id: &ItemId| gate.item(*id).ok_or_else(|| Illegal::UnknownItem(*id).into());
    match kind {
        DecisionKind::Reject => Ok(Vec::new()),
        _ if request.items.is_empty() && request.delta.is_empty() => Ok(gate.live_items().collect()),
        DecisionKind::Override => request.delta.keys().map(item).collect(),
        DecisionKind::Approve => request.items.iter().map(item).collect(),
    }
}

/// The vote as this person casts it: for the rules whose authority they have, if they meet what those demand.
fn ballot_of(
    work: &Deciding<'_>,
    request: &DecisionRequest,
    (chosen, replaced): (&[&OpenItem], &BTreeMap<ItemId, Replaced>),
) -> Result<Ballot, EngineError> {
    let Deciding { org, snapshot, who, gate, .. } = *work;
    let kind = request.kind;
    let role = request.role.clone().or_else(|| default_role(who, gate, snapshot));
    let mut ballot = Ballot {
        kind,
        person: org.person_of(who.pseudonym),
        role: role.clone(),
        teams: who.teams.clone(),
        groups: org.known(who.pseudonym).map(|known| known.groups).unwrap_or_default(),
        items: Vec::new(),
        current: Vec::new(),
        lapsed: Vec::new(),
    };
    for item in chosen {
        let change = match (kind, request.delta.get(&item.item)) {
            (DecisionKind::Override, Some(None)) => Change::Drop,
            (DecisionKind::Override, Some(Some(_))) => {
                replaced.get(&item.item).map_or(Change::Keep, |r| Change::Replace(r.digest))
            }
            _ => Change::Keep,
        };
        let rules: Vec<Name> = match replaced.get(&item.item) {
            Some(new) => new.answered.verdict.rules.clone(),
            None => item.rules.iter().map(|r| r.rule.clone()).collect(),
        };
        let rules: Vec<Name> =
            rules.into_iter().filter(|r| admits(snapshot, gate, r, (who, &ballot.groups), role.as_ref())).collect();
        if kind != DecisionKind::Reject {
            demands_met(snapshot, (who, work.now), &rules, request.assertion.is_some())?;
        }
        ballot.items.push(BallotItem { item: item.item, digest: item.digest, rules, change });
    }
    Ok(ballot)
}

/// What the person gives as their reason, within what the rules ask of one; whoever rejects may give none.
fn justification(
    snapshot: &Snapshot,
    gate: &OpenGate,
    request: &DecisionRequest,
) -> Result<Option<String>, EngineError> {
    let (min, max) = bounds(snapshot, gate);
    match (&request.justification, request.kind) {
        (Some(text), DecisionKind::Reject) if text.trim().is_empty() => Ok(None),
        (Some(text), _) => Ok(Some(counting::justification(text, min, max)?)),
        (None, _) => Ok(None),
    }
}

fn bounds(snapshot: &Snapshot, gate: &OpenGate) -> (usize, usize) {
    let rules = gate.live_items().flat_map(|i| i.rules.iter()).filter_map(|f| snapshot.rules().get(f.rule.as_str()));
    let (mut min, mut max) = (1, 4000);
    for rule in rules {
        min = min.max(usize::try_from(rule.justification.min).unwrap_or(usize::MAX));
        max = max.min(usize::try_from(rule.justification.max).unwrap_or(usize::MAX));
    }
    (min, max)
}
