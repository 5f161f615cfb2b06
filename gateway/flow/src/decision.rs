//! A person's decision at a gate: counted, resolving, or recorded as not effective.
//!
//! Who may decide, and what policy says to the question now, comes with the proposal; how the votes add up is `gate`'s,
//! and the fold counts again from the entry. Effects that follow (edges, permits, what was approved) are in the same append.

use countersign_gateway_model::{ActionId, Decision as Answer, GateId, ItemId, Pseudonym, State, Verdict};
use countersign_ledger_entry::body::{
    Cause, Decision, DecisionKind, Effect, GateItemRef, GateSubject, QuestionKind, Refusal, RefusalReason,
};
use countersign_ledger_entry::{Draft, PayloadRole};

use crate::error::Illegal;
use crate::gate::{Ballot, Cast, Change, OpenGate, OpenItem, is_blank};
use crate::proposal::{Actor, Asked, Decide, Grant, Reasked, SystemReject};
use crate::reply::{ActionAnswer, Reply, WhyNot};
use crate::scene::{Permitted, Row, Scene, answer, draft, draft_with, edge, strictest, system_reject};

pub(crate) fn decide(scene: &Scene<'_>, decide: Decide) -> Row {
    let gate = scene.waiting_at(decide.gate)?;
    let by = &scene.now.by;
    if gate.has_expired(scene.at) {
        return Err(Illegal::GateExpired(decide.gate));
    }
    check_form(gate, &decide, by.actor)?;
    if scene.now.frozen && decide.ballot.kind != DecisionKind::Reject {
        let question = match decide.ballot.kind {
            DecisionKind::Override => QuestionKind::Override,
            DecisionKind::Approve | DecisionKind::Reject => QuestionKind::Approve,
        };
        let reason = RefusalReason::Frozen;
        let refusal = Refusal { question, action: None, tool: None, digest: None, reason };
        return Ok((vec![draft_with(refusal, by, &decide.asked)], Reply::Refused(reason)));
    }
    let ballot = &decide.ballot;
    let items = ballot.items.iter().map(|i| i.item);
    let excluded = gate.excluded(ballot.kind, by.actor, ballot.person(), items, scene.instance.chain());
    if let Some((effect, why)) = ineligible(&decide.asked, excluded)? {
        return Ok(not_effective(scene, &decide, effect, why));
    }
    if ballot.kind == DecisionKind::Reject {
        return Ok(reject(scene, &decide));
    }
    if decide.stale {
        return Ok(not_effective(scene, &decide, Effect::Stale, WhyNot::Stale));
    }
    // The question itself is asked again: a denial by now is nothing that people can lift.
    // Of a grant nothing is asked but whether each may give it: there is no question that waits.
    let waits = |change| change != Change::Drop && gate.subject != GateSubject::Grant;
    for voted in ballot.items.iter().filter(|v| waits(v.change)) {
        let asked = reasked(&decide.reasked, voted.item).ok_or(Illegal::Incomplete("the question, asked again"))?;
        if answer(asked)? == Answer::Deny {
            return Ok(overruled(scene, asked, &decide));
        }
    }
    let body = body(&decide, gate, Effect::Counted);
    let mut after = gate.clone();
    after.cast(&Cast::of(&body, by.actor, scene.now.at));
    for item in after.live_items() {
        if let Some(asked) = reasked(&decide.reasked, item.item) {
            check_reasked(item, asked)?;
            if answer(asked)? == Answer::Deny {
                return Ok(overruled(scene, asked, &decide));
            }
        }
    }
    if !after.is_met() {
        let held = |role| decide.asked.payloads.iter().filter(|p| p.role == role).count();
        let replaced = ballot.items.iter().filter(|voted| matches!(voted.change, Change::Replace(_))).count();
        // One question is the decider's own: whether they may.
        if replaced > 0 && (held(PayloadRole::Shown) == 0 || held(PayloadRole::Question) <= replaced) {
            return Err(Illegal::Incomplete("view and question of the new input, for those who vote next"));
        }
        let drafts = vec![draft_with(body, by, &decide.asked)];
        return Ok((drafts, Reply::Counted { effect: Effect::Counted, why: None }));
    }
    let resolving = Decision { effect: Effect::Resolving, ..body };
    let Decide { asked, reasked, grants, .. } = decide;
    let first = draft_with(resolving, by, &asked);
    resolve(scene, &after, first, Following { decided: &asked, reasked: &reasked, grants })
}

/// Why this person's act has no effect, whatever it is about: policy refuses them, or they are excluded.
pub(crate) fn ineligible(asked: &Asked, excluded: Option<WhyNot>) -> Result<Option<(Effect, WhyNot)>, Illegal> {
    if answer(asked)? == Answer::Allow {
        return Ok(excluded.map(|why| (Effect::NotEligible, why)));
    }
    if asked.verdict.as_ref().is_some_and(|v| v.error) {
        return Ok(Some((Effect::PolicyError, WhyNot::PolicyError)));
    }
    // Policy refuses those who are excluded too, and cannot say which way they are.
    Ok(Some((Effect::NotEligible, excluded.unwrap_or(WhyNot::Policy))))
}

/// What a request must have to be a decision at all.
fn check_form(gate: &OpenGate, decide: &Decide, actor: Pseudonym) -> Result<(), Illegal> {
    let Ballot { kind, .. } = decide.ballot;
    if kind == DecisionKind::Override && gate.subject == GateSubject::Grant {
        return Err(Illegal::GrantOverride);
    }
    if actor == Pseudonym::SYSTEM || decide.ballot.person() == Pseudonym::SYSTEM {
        return Err(Illegal::NotAPerson);
    }
    if kind != DecisionKind::Override && decide.delta.is_some() {
        return Err(Illegal::DeltaWithoutOverride);
    }
    if kind == DecisionKind::Override && decide.delta.is_none() {
        return Err(Illegal::OverrideWithoutDelta);
    }
    if decide.shown.is_some_and(|shown| shown != decide.view) {
        return Err(Illegal::StaleView);
    }
    if kind != DecisionKind::Reject {
        if decide.shown.is_none() {
            return Err(Illegal::StaleView);
        }
        if decide.justification.as_deref().is_none_or(is_blank) {
            return Err(Illegal::BlankJustification);
        }
        if !decide.asked.payloads.iter().any(|p| p.role == PayloadRole::Justification) {
            return Err(Illegal::Incomplete("the justification's payload"));
        }
    }
    gate.check_ballot(&decide.ballot)
}

/// What a gate that resolves is resolved with.
pub(crate) struct Following<'a> {
    /// What policy said of the act that resolves it.
    pub(crate) decided: &'a Asked,
    /// What policy says to the questions now.
    pub(crate) reasked: &'a [Reasked],
    /// Permits for the gate's actions.
    pub(crate) grants: Vec<Grant>,
}

pub(crate) fn reasked(all: &[Reasked], item: ItemId) -> Option<&Asked> {
    all.iter().find(|r| r.item == item).map(|r| &r.asked)
}

/// Policy's answer and the votes must speak of the same rules.
pub(crate) fn check_reasked(item: &OpenItem, asked: &Asked) -> Result<(), Illegal> {
    let Some(verdict) = &asked.verdict else { return Err(Illegal::Incomplete("the verdict")) };
    if verdict.decision != Answer::NeedsApproval {
        return Ok(());
    }
    if !verdict.rules.iter().all(|name| item.rules.iter().any(|r| r.rule == *name)) {
        return Err(Illegal::Incomplete("counting forms of every rule that policy names by now"));
    }
    // It still asks for people although the votes satisfy every rule: it was asked without them.
    if item.is_met() { Err(Illegal::AskAgain) } else { Ok(()) }
}

/// The decision's entry.
fn body(decide: &Decide, gate: &OpenGate, effect: Effect) -> Decision {
    let effective = matches!(effect, Effect::Counted | Effect::Resolving);
    let ballot = &decide.ballot;
    let reject = ballot.kind == DecisionKind::Reject;
    Decision {
        decision: decide.decision,
        gate: decide.gate,
        kind: ballot.kind,
        items: ballot.items(),
        person: ballot.person(),
        role: ballot.role.clone(),
        teams: ballot.teams.clone(),
        groups: ballot.groups.clone(),
        shown: decide.shown,
        effect,
        assurance: decide.assurance,
        delta: decide.delta,
        assertion: decide.assertion.clone(),
        asked: decide.asked_again.clone(),
        on_behalf: None,
        rules: if effective && !reject { gate.raised(ballot) } else { Vec::new() },
        lapsed: if effective && !reject { ballot.lapsed.clone() } else { Vec::new() },
    }
}

fn not_effective(scene: &Scene<'_>, decide: &Decide, effect: Effect, why: WhyNot) -> (Vec<Draft>, Reply) {
    let by = &scene.now.by;
    let Some(gate) = scene.instance.gate() else { return (Vec::new(), Reply::Nothing(scene.instance.state())) };
    let body = body(decide, gate, effect);
    (vec![draft_with(body, by, &decide.asked)], Reply::Counted { effect, why: Some(why) })
}

fn reject(scene: &Scene<'_>, decide: &Decide) -> (Vec<Draft>, Reply) {
    let by = &scene.now.by;
    let Some(gate) = scene.instance.gate() else { return (Vec::new(), Reply::Nothing(scene.instance.state())) };
    let body = body(decide, gate, Effect::Resolving);
    let mut drafts = vec![draft_with(body, by, &decide.asked)];
    let rejected = edge(State::WaitingForHuman, State::Rejected, Cause::Decision, None, false);
    drafts.push(draft(rejected, by, &decide.asked));
    drafts.push(draft(edge(State::Rejected, State::Terminated, Cause::Follow, None, false), by, &decide.asked));
    (drafts, Reply::Rejected { cancel: scene.cancel() })
}

fn overruled(scene: &Scene<'_>, asked: &Asked, decide: &Decide) -> (Vec<Draft>, Reply) {
    denied(scene, asked, (decide.gate, decide.reject), |effect, why| not_effective(scene, decide, effect, why))
}

/// Policy says no by now. An error of policy is not effective; a denial is nothing that people can lift, so SYSTEM rejects.
pub(crate) fn denied(
    scene: &Scene<'_>,
    asked: &Asked,
    (gate, ids): (GateId, SystemReject),
    not_effective: impl FnOnce(Effect, WhyNot) -> (Vec<Draft>, Reply),
) -> (Vec<Draft>, Reply) {
    if asked.verdict.as_ref().is_some_and(|v| v.error) {
        return not_effective(Effect::PolicyError, WhyNot::PolicyError);
    }
    let system = &Actor::SYSTEM;
    let (mut drafts, _) = not_effective(Effect::HardDenied, WhyNot::Policy);
    drafts.push(draft_with(system_reject(gate, ids, None, None), system, asked));
    let rejected = edge(State::WaitingForHuman, State::Rejected, Cause::Decision, None, false);
    drafts.push(draft(rejected, system, asked));
    drafts.push(draft(edge(State::Rejected, State::Terminated, Cause::Follow, None, false), system, asked));
    (drafts, Reply::HardDenied { cancel: scene.cancel() })
}

/// The last rule is met: the edges, and what was approved, in the append of `first`, the act that met it.
pub(crate) fn resolve(scene: &Scene<'_>, after: &OpenGate, first: Draft, following: Following<'_>) -> Row {
    let by = &scene.now.by;
    let Following { decided, reasked: again, grants } = following;
    let mut answers = Vec::new();
    for item in after.live_items().filter(|_| after.subject != GateSubject::Grant) {
        let asked = reasked(again, item.item)
            .filter(|a| a.verdict.as_ref().is_some_and(|v| v.decision == Answer::Allow))
            .ok_or(Illegal::Incomplete("the question of every item, asked again"))?;
        answers.push(asked);
    }
    // Where every item was dropped, or a grant is given, nothing is left to ask about: the edges follow from the decision.
    let follows = if answers.is_empty() {
        Asked::answer(decided.verdict.clone().unwrap_or_else(Verdict::deny), decided.determining.clone())
    } else {
        strictest(answers.iter().copied())
    };
    let through = if after.is_overridden() { State::Overridden } else { State::Approved };
    let carried = after.live_items().next().map(|i| i.action);
    let actions = after.subject == GateSubject::Actions;
    let mut drafts = vec![first];
    let mut left = draft(edge(State::WaitingForHuman, through, Cause::Decision, None, false), by, &follows);
    if !actions {
        // A permit carries the payloads of its own question; here the edge is what the question led to.
        left.payloads = answers.iter().flat_map(|a| a.payloads.iter().copied()).collect();
        left.fields = answers.iter().flat_map(|a| a.fields.iter().copied()).collect();
    }
    drafts.push(left);
    drafts.push(draft(edge(through, State::Resumed, Cause::Follow, None, false), by, &follows));
    drafts.push(draft(edge(State::Resumed, State::Running, Cause::Follow, None, false), by, &follows));
    let resolved = |state, actions, cancel| Reply::Resolved { through, state, actions, cancel };
    match (after.subject, carried) {
        (GateSubject::Complete, Some(action)) => {
            let end = edge(State::Running, State::Completed, Cause::Complete, Some(action), false);
            drafts.push(draft(end, by, &follows));
            Ok((drafts, resolved(State::Completed, Vec::new(), Vec::new())))
        }
        (GateSubject::Terminate, Some(action)) => {
            let end = edge(State::Running, State::Terminated, Cause::Terminate, Some(action), false);
            drafts.push(draft(end, by, &follows));
            Ok((drafts, resolved(State::Terminated, Vec::new(), scene.cancel())))
        }
        (GateSubject::Grant, _) => {
            drafts.push(draft(scene.given(after)?, by, &follows));
            Ok((drafts, resolved(State::Running, Vec::new(), Vec::new())))
        }
        (GateSubject::Start | GateSubject::Complete | GateSubject::Terminate, _) => {
            Ok((drafts, resolved(State::Running, Vec::new(), Vec::new())))
        }
        (GateSubject::Actions, _) => {
            let actions = grant(scene, after, again, grants, &mut drafts)?;
            Ok((drafts, resolved(State::Running, actions, Vec::new())))
        }
    }
}

/// Permits of a resolved gate of actions: items first, then what needed nobody.
fn grant(
    scene: &Scene<'_>,
    gate: &OpenGate,
    answers: &[Reasked],
    mut grants: Vec<Grant>,
    drafts: &mut Vec<Draft>,
) -> Result<Vec<ActionAnswer>, Illegal> {
    let by = &scene.now.by;
    let mut take = |action: ActionId| {
        let at = grants.iter().position(|g| g.action == action);
        at.map(|at| grants.swap_remove(at)).ok_or(Illegal::Incomplete("the permit of every action of the gate"))
    };
    let mut replies = Vec::with_capacity(gate.items.len() + gate.cleared.len());
    for item in &gate.items {
        if item.dropped {
            replies.push(ActionAnswer::Dropped(item.action));
            continue;
        }
        let grant = take(item.action)?;
        let asked = reasked(answers, item.item).ok_or(Illegal::Incomplete("the question, asked again"))?;
        if grant.question != item.question || Some(&grant.tool) != item.tool.as_ref() {
            return Err(Illegal::Incomplete("the permit of what was approved"));
        }
        let permitted = Permitted {
            action: item.action,
            item: Some(GateItemRef { gate: gate.gate, item: item.item }),
            question: item.question,
            tool: grant.tool,
            tool_version: grant.tool_version,
            digest: item.digest,
            mutable_target: grant.mutable_target,
            asked,
            by,
        };
        replies.push(scene.permit(permitted, grant.permit, false, drafts)?);
    }
    for cleared in &gate.cleared {
        let grant = take(cleared.action)?;
        let asked = grant.cleared.unwrap_or_default();
        if answer(&asked)? != Answer::Allow {
            // What needed nobody is denied by now, or needs somebody: refused, and may be proposed again.
            let error = asked.verdict.as_ref().is_some_and(|v| v.error);
            let reason = if error { RefusalReason::PolicyError } else { RefusalReason::Policy };
            let refusal = Refusal {
                question: grant.question,
                action: Some(cleared.action),
                tool: Some(grant.tool),
                digest: Some(cleared.digest),
                reason,
            };
            drafts.push(draft_with(refusal, by, &asked));
            replies.push(ActionAnswer::Refused { action: cleared.action, reason });
            continue;
        }
        let permitted = Permitted {
            action: cleared.action,
            item: None,
            question: grant.question,
            tool: grant.tool,
            tool_version: grant.tool_version,
            digest: cleared.digest,
            mutable_target: grant.mutable_target,
            asked: &asked,
            by,
        };
        replies.push(scene.permit(permitted, grant.permit, false, drafts)?);
    }
    Ok(replies)
}
