//! A person lifts one rule of one item without its quorum: counted, resolving, or recorded as not effective.
//!
//! The rule counts as met from there on, and nothing else changes: what was asked is asked again, and a denial is nothing
//! that people can lift. Votes are `gate`'s, what follows from the last rule is `decision`'s. Absent: whether the rule's
//! data lets it be lifted, and the review that is owed, which are the caller's to say and to keep.

use countersign_gateway_model::{Decision as Answer, Pseudonym};
use countersign_ledger_entry::body::{DecisionKind, Effect, GateSubject, Lift};
use countersign_ledger_entry::{Draft, PayloadRole};

use crate::decision::{Following, check_reasked, denied, ineligible, reasked, resolve};
use crate::error::Illegal;
use crate::gate::{Lifted, OpenGate, is_blank};
use crate::proposal::LiftRule;
use crate::reply::{Reply, WhyNot};
use crate::scene::{Row, Scene, answer, draft_with};

pub(crate) fn decide(scene: &Scene<'_>, lift: LiftRule) -> Row {
    let gate = scene.waiting_at(lift.gate)?;
    let by = &scene.now.by;
    if gate.has_expired(scene.at) {
        return Err(Illegal::GateExpired(lift.gate));
    }
    check_form(scene, gate, &lift)?;
    if scene.now.frozen {
        return Err(Illegal::Frozen);
    }
    let not_effective = |effect, why| {
        let body = body(&lift, gate, effect);
        (vec![draft_with(body, by, &lift.asked)], Reply::Counted { effect, why: Some(why) })
    };
    let (item, person) = (lift.lifting.item, lift.lifting.person());
    // Whoever may not approve the item may not lift its rules either.
    let barred = gate.excluded(DecisionKind::Approve, by.actor, person, std::iter::once(item), scene.instance.chain());
    if let Some((effect, why)) = ineligible(&lift.asked, barred)? {
        return Ok(not_effective(effect, why));
    }
    if !lift.named {
        return Ok(not_effective(Effect::NotEligible, WhyNot::NotNamed));
    }
    if lift.stale {
        return Ok(not_effective(Effect::Stale, WhyNot::Stale));
    }
    let asked = reasked(&lift.reasked, item).ok_or(Illegal::Incomplete("the question, asked again"))?;
    if answer(asked)? == Answer::Deny {
        return Ok(denied(scene, asked, (lift.gate, lift.reject), not_effective));
    }
    let body = body(&lift, gate, Effect::Counted);
    let mut after = gate.clone();
    after.lift(&body.rules, Lifted::of(&body, by.actor, scene.now.at), item, &body.lapsed);
    for item in after.live_items() {
        if let Some(asked) = reasked(&lift.reasked, item.item) {
            check_reasked(item, asked)?;
            if answer(asked)? == Answer::Deny {
                return Ok(denied(scene, asked, (lift.gate, lift.reject), not_effective));
            }
        }
    }
    if !after.is_met() {
        let drafts = vec![draft_with(body, by, &lift.asked)];
        return Ok((drafts, Reply::Counted { effect: Effect::Counted, why: None }));
    }
    let first: Draft = draft_with(Lift { effect: Effect::Resolving, ..body }, by, &lift.asked);
    let following = Following { decided: &lift.asked, reasked: &lift.reasked, grants: lift.grants };
    resolve(scene, &after, first, following)
}

/// What a request must have to be a lift at all.
fn check_form(scene: &Scene<'_>, gate: &OpenGate, lift: &LiftRule) -> Result<(), Illegal> {
    let by = &scene.now.by;
    // In their own name: nobody else has given them this.
    let person = by.actor != Pseudonym::SYSTEM && lift.lifting.person() != Pseudonym::SYSTEM;
    if !person || !by.on_behalf_of.is_empty() {
        return Err(Illegal::NotAPerson);
    }
    if scene.instance.has_lift(lift.lift) {
        return Err(Illegal::Duplicate("lift"));
    }
    if gate.subject == GateSubject::Grant {
        return Err(Illegal::GrantLift);
    }
    if lift.shown != lift.view {
        return Err(Illegal::StaleView);
    }
    if is_blank(&lift.justification) {
        return Err(Illegal::BlankJustification);
    }
    if !lift.asked.payloads.iter().any(|p| p.role == PayloadRole::Justification) {
        return Err(Illegal::Incomplete("the justification's payload"));
    }
    if lift.review_by <= scene.at {
        return Err(Illegal::Incomplete("a time in the future at which the review is owed"));
    }
    gate.check_lift(&lift.lifting)
}

/// The lift's entry.
fn body(lift: &LiftRule, gate: &OpenGate, effect: Effect) -> Lift {
    let effective = matches!(effect, Effect::Counted | Effect::Resolving);
    let lifting = &lift.lifting;
    Lift {
        lift: lift.lift,
        gate: lift.gate,
        item: lifting.item,
        digest: lifting.digest,
        rule: lifting.rule.clone(),
        person: lifting.person(),
        role: lifting.role.clone(),
        teams: lifting.teams.clone(),
        groups: lifting.groups.clone(),
        shown: lift.shown,
        effect,
        assurance: lift.assurance,
        review_by: lift.review_by,
        assertion: lift.assertion.clone(),
        asked: lift.asked_again.clone(),
        rules: if effective { gate.raised_by_lift(lifting) } else { Vec::new() },
        lapsed: if effective { lifting.lapsed.clone() } else { Vec::new() },
    }
}
