//! Gates and decisions, replayed: the votes are counted again from their entries.

use countersign_gateway_model::{Decision as Answer, GateId, Pseudonym, State, Verdict};
use countersign_ledger_entry::body::{
    Cause, Decision, DecisionKind, Edge, Effect, Gate, GateEvent, GateEventKind, GateItem, GateItemRef, GateSubject,
    OnTimeout, QuestionKind, RefusalReason,
};
use countersign_ledger_entry::{Body, PayloadRole};

use super::step::{Grants, Reading, Rejecting, Step};
use super::{GateBefore, Instance};
use crate::MAX_ITEMS;
use crate::error::EvolveError;
use crate::gate::{Cast, Offer, OpenGate, OpenItem, distinct, is_action};
use crate::grant::is_item;

impl Instance {
    pub(super) fn rejected_edge(&mut self, now: Reading<'_>, edge: &Edge, by: Rejecting) -> Result<(), EvolveError> {
        let (fits, objection) = match by {
            Rejecting::Person | Rejecting::Denied => (edge.cause == Cause::Decision, false),
            Rejecting::System { stopper: Some(stopper) } => {
                (edge.cause == Cause::Terminate && now.header.actor == stopper, now.objects())
            }
            Rejecting::System { stopper: None } => {
                (matches!(edge.cause, Cause::Expiry | Cause::Deadline), now.objects())
            }
        };
        now.ensure(fits, "the cause is not that of the REJECT before")?;
        self.check_clock(now, edge.cause)?;
        self.edge(now, edge, State::Rejected, edge.cause, objection)?;
        self.step = Step::Fall { objection, verdict: now.verdict() };
        Ok(())
    }

    pub(super) fn resolving_edge(
        &mut self,
        now: Reading<'_>,
        edge: &Edge,
        decided: Option<&Verdict>,
    ) -> Result<(), EvolveError> {
        now.allowed()?;
        let Some(gate) = &self.gate else { return Err(now.unlawful("no gate is open")) };
        let to = if gate.is_overridden() { State::Overridden } else { State::Approved };
        if gate.live_items().next().is_none() || gate.subject == GateSubject::Grant {
            // Nothing is left to be asked about: the edge follows from the decision itself.
            now.same(decided)?;
        }
        self.edge(now, edge, to, Cause::Decision, false)?;
        self.step = Step::Resume { verdict: now.verdict() };
        Ok(())
    }

    /// Opens a gate; `answered` actions of the same batch stand before it in the append.
    pub(super) fn open_gate(
        &mut self,
        now: Reading<'_>,
        gate: &Gate,
        answered: usize,
        offer: Option<Box<Offer>>,
    ) -> Result<(), EvolveError> {
        now.ensure(self.gate.is_none(), "a gate is open")?;
        let asks = now.header.verdict.as_ref().filter(|v| v.decision == Answer::NeedsApproval);
        // A grant is asked for: whose rule that is stands before the gate, and policy is asked of those who answer.
        let rules = match (&offer, asks) {
            (Some(offer), _) => std::slice::from_ref(&offer.body.rule),
            (None, Some(verdict)) => verdict.rules.as_slice(),
            (None, None) => return Err(now.unlawful("policy asked nobody")),
        };
        now.ensure((gate.subject == GateSubject::Grant) == offer.is_some(), "no grant is asked for before it")?;
        let scope = offer.as_ref().map(|offer| offer.body.scope);
        now.ensure(
            scope.is_none_or(|scope| gate.items.iter().all(|item| item.digest == scope)),
            "its item is not the grant that is asked for",
        )?;
        let count = gate.items.len() + gate.cleared.len();
        now.ensure(!gate.items.is_empty() && count + answered <= MAX_ITEMS, "a gate has 1 to 16 items")?;
        now.ensure(distinct(gate.items.iter().map(|i| i.item)), "an item stands twice")?;
        let actions = gate.items.iter().map(|i| i.action).chain(gate.cleared.iter().map(|c| c.action));
        now.ensure(distinct(actions), "an action stands twice")?;
        now.ensure(gate.items.iter().all(|item| item_fits(gate.subject, item)), "an item is not the gate's subject's")?;
        let single = gate.subject == GateSubject::Actions || (gate.items.len() == 1 && gate.cleared.is_empty());
        now.ensure(single, "only actions come in batches")?;
        now.ensure(gate.items.iter().all(rules_are_sound), "an item has no rules, or not in order")?;
        let named = gate.items.iter().flat_map(|i| &i.rules).all(|r| rules.contains(&r.rule));
        let covered = rules.iter().all(|n| gate.items.iter().any(|i| i.rules.iter().any(|r| r.rule == *n)));
        now.ensure(named && covered, "its rules are not those of the verdict")?;
        let expiry = match gate.on_timeout {
            OnTimeout::Reject => gate.expires.is_some_and(|expires| expires > now.at),
            OnTimeout::Never => gate.expires.is_none(),
        };
        now.ensure(expiry, "expiry and timeout do not agree")?;
        now.ensure(gate.caller.is_none() || gate.subject != GateSubject::Complete, "COMPLETED waits for every start")?;
        self.keep_gate();
        self.gate = Some(Box::new(OpenGate {
            gate: gate.gate,
            subject: gate.subject,
            sequence: now.header.sequence,
            view: now.header.sequence,
            opened: now.header.claimed,
            expires: gate.expires,
            on_timeout: gate.on_timeout,
            caller: gate.caller,
            proposer: now.header.actor,
            chain: now.header.on_behalf_of.clone(),
            items: gate.items.iter().map(|item| open_item(item, now.header.sequence)).collect(),
            cleared: gate.cleared.clone(),
            offer,
            fired: std::collections::BTreeSet::new(),
        }));
        self.step = Step::Wait { verdict: now.verdict() };
        Ok(())
    }

    /// Remembers the gate as it was when the append began.
    pub(super) fn keep_gate(&mut self) {
        if matches!(self.undo.gate, GateBefore::Untouched) {
            self.undo.gate = GateBefore::Was(self.gate.clone());
        }
    }

    pub(super) fn take_gate(&mut self) -> Option<Box<OpenGate>> {
        self.keep_gate();
        self.gate.take()
    }

    pub(super) fn waiting_at(&self, now: Reading<'_>, gate: GateId) -> Result<&OpenGate, EvolveError> {
        now.ensure(self.core.state == State::WaitingForHuman, "the instance is not waiting")?;
        match &self.gate {
            Some(open) if open.gate == gate => Ok(open),
            _ => Err(now.unlawful("the gate is not open")),
        }
    }

    pub(super) fn gate_event(&mut self, now: Reading<'_>, event: &GateEvent) -> Result<(), EvolveError> {
        let open = self.waiting_at(now, event.gate)?;
        now.ensure(now.answer() != Some(Answer::Deny), "policy refused it")?;
        now.ensure(
            (event.event == GateEventKind::Reassign) == event.to.is_some(),
            "only a reassignment names a person",
        )?;
        let fired = OpenGate::fired_key(event.event, event.rule.as_ref(), event.step);
        now.ensure(fired.is_some() == event.step.is_some(), "only a timer has steps, and has one")?;
        if let Some(fired) = fired {
            now.ensure(!open.fired.contains(&fired), "this step has fired before")?;
            self.keep_gate();
            if let Some(gate) = &mut self.gate {
                gate.fired.insert(fired);
            }
        }
        self.step = Step::Whole;
        Ok(())
    }

    pub(super) fn system_reject(&self, now: Reading<'_>, decision: &Decision) -> Result<(), EvolveError> {
        self.waiting_at(now, decision.gate)?;
        let system = now.header.actor == Pseudonym::SYSTEM && decision.person == Pseudonym::SYSTEM;
        now.ensure(system && decision.kind == DecisionKind::Reject, "it is not SYSTEM's REJECT")?;
        let bare = decision.items.is_empty()
            && decision.rules.is_empty()
            && decision.lapsed.is_empty()
            && decision.delta.is_none()
            && decision.effect == Effect::Resolving;
        now.ensure(bare, "SYSTEM decides about the gate as a whole")
    }

    pub(super) fn decision(&mut self, now: Reading<'_>, decision: &Decision) -> Result<(), EvolveError> {
        if now.header.actor == Pseudonym::SYSTEM || decision.person == Pseudonym::SYSTEM {
            self.system_reject(now, decision)?;
            let by = Rejecting::System { stopper: decision.on_behalf };
            self.step = Step::Reject { by, verdict: now.verdict() };
            return Ok(());
        }
        let open = self.waiting_at(now, decision.gate)?;
        now.ensure(decision.on_behalf.is_none(), "a person decides for themselves")?;
        now.ensure(!open.has_expired(now.at), "the gate had expired")?;
        now.ensure(now.header.verdict.is_some(), "policy was not asked who may decide")?;
        check_form(now, open, decision)?;
        let excluded = open.excluded(
            decision.kind,
            now.header.actor,
            decision.person,
            decision.items.iter().map(|i| i.item),
            &self.chain,
        );
        let eligible = !now.objects() && excluded.is_none();
        match decision.effect {
            Effect::NotEligible => now.ensure(!eligible, "the person is eligible")?,
            Effect::Stale | Effect::PolicyError => {
                let erred = now.header.verdict.as_ref().is_some_and(|v| v.error);
                now.ensure(
                    eligible || (decision.effect == Effect::PolicyError && erred),
                    "the person is not eligible",
                )?;
            }
            Effect::HardDenied => {
                now.ensure(eligible && decision.kind != DecisionKind::Reject, "the person is not eligible")?;
                now.ensure(
                    decision.rules.is_empty() && decision.lapsed.is_empty(),
                    "what is not effective changes nothing",
                )?;
                self.step = Step::SystemReject;
                return Ok(());
            }
            Effect::Counted | Effect::Resolving => {
                now.ensure(eligible, "the person is not eligible")?;
                return self.effective(now, decision);
            }
        }
        now.ensure(decision.rules.is_empty() && decision.lapsed.is_empty(), "what is not effective changes nothing")?;
        self.step = Step::Whole;
        Ok(())
    }

    /// An eligible vote: counted again, from its entry.
    pub(super) fn effective(&mut self, now: Reading<'_>, decision: &Decision) -> Result<(), EvolveError> {
        let resolving = decision.effect == Effect::Resolving;
        if decision.kind == DecisionKind::Reject {
            now.ensure(resolving, "an eligible REJECT ends the instance")?;
            self.step = Step::Reject { by: Rejecting::Person, verdict: now.verdict() };
            return Ok(());
        }
        self.keep_gate();
        let Some(gate) = &mut self.gate else { return Err(now.unlawful("no gate is open")) };
        gate.cast(&Cast::of(decision, now.header.actor, now.header.claimed));
        now.ensure(gate.is_met() == resolving, "the votes do not come to what the decision claims")?;
        if decision.kind == DecisionKind::Override && !resolving {
            let holds = |role| now.header.payloads.iter().any(|p| p.role == role);
            let replaced = decision.items.iter().filter(|decided| decided.instead.is_some());
            let questions = now.header.payloads.iter().filter(|p| p.role == PayloadRole::Question).count();
            // One question is the decider's own: whether they may.
            let shows_each = holds(PayloadRole::Shown) && questions > replaced.clone().count();
            for decided in replaced {
                // Whoever votes next must be able to see, and policy to be asked, what there is to decide about by now.
                now.ensure(shows_each, "the new input is not shown")?;
                if let Some(item) = gate.items.iter_mut().find(|item| item.item == decided.item) {
                    item.asked = now.header.sequence;
                }
            }
            if holds(PayloadRole::Shown) {
                gate.view = now.header.sequence;
            }
        }
        self.step = if resolving { Step::Resolve { decision: now.verdict() } } else { Step::Whole };
        Ok(())
    }

    pub(super) fn next_of_grants(
        &mut self,
        now: Reading<'_>,
        body: &Body,
        mut grants: Grants,
    ) -> Result<(), EvolveError> {
        if let Some(fresh) = grants.fresh.take() {
            match body {
                Body::Start(start) if start.permit == fresh.permit => {
                    // A tool's start is begun by its agent, which is not there while people are asked.
                    now.ensure(fresh.dispatch, "an approved action is begun by its agent")?;
                    now.same(fresh.verdict.as_ref())?;
                    self.start(now, start, true)?;
                    self.step = Step::Grant(grants);
                    return Ok(());
                }
                _ => now.ensure(!fresh.dispatch, "a dispatch is started in its permit's append")?,
            }
        }
        match body {
            Body::Permit(permit) => {
                now.ensure(!grants.given.contains(&permit.action), "one approval gives one permit")?;
                let item = grants.gate.live_items().find(|i| i.action == permit.action);
                let fits = if let Some(item) = item {
                    let through = GateItemRef { gate: grants.gate.gate, item: item.item };
                    permit.item == Some(through)
                        && permit.question == item.question
                        && Some(&permit.tool) == item.tool.as_ref()
                        && permit.digest == item.digest
                } else {
                    let cleared = grants.gate.cleared.iter().find(|c| c.action == permit.action);
                    permit.item.is_none() && cleared.is_some_and(|c| c.digest == permit.digest)
                };
                now.ensure(fits, "it is not what was approved")?;
                grants.fresh = Some(self.permit(now, permit)?);
                grants.given.push(permit.action);
            }
            Body::Refusal(refusal) => {
                let cleared = refusal.action.filter(|a| grants.gate.cleared.iter().any(|c| c.action == *a));
                let Some(action) = cleared else { return Err(now.unlawful("what was approved is not refused")) };
                now.ensure(!grants.given.contains(&action), "it was answered before")?;
                now.ensure(
                    now.objects() && refusal.reason != RefusalReason::Frozen,
                    "reason and verdict do not agree",
                )?;
                self.denied(refusal);
                grants.given.push(action);
            }
            _ => return Err(now.unlawful("it does not follow from the entry before")),
        }
        self.step = Step::Grant(grants);
        Ok(())
    }
}

/// What can be told of a decision's form from its entry.
fn check_form(now: Reading<'_>, gate: &OpenGate, decision: &Decision) -> Result<(), EvolveError> {
    let reject = decision.kind == DecisionKind::Reject;
    now.ensure(
        decision.kind != DecisionKind::Override || gate.subject != GateSubject::Grant,
        "a grant is given as it was asked for",
    )?;
    now.ensure(reject == decision.items.is_empty(), "APPROVE and OVERRIDE name items, REJECT is of the gate")?;
    now.ensure(
        (decision.kind == DecisionKind::Override) == decision.delta.is_some(),
        "an OVERRIDE, and only it, has a delta",
    )?;
    now.ensure(distinct(decision.items.iter().map(|i| i.item)), "an item stands twice")?;
    now.ensure(distinct(decision.rules.iter().map(|i| i.item)), "an item stands twice")?;
    for decided in &decision.items {
        let Some(item) = gate.item(decided.item).filter(|i| !i.dropped) else {
            return Err(now.unlawful("the gate has no such item"));
        };
        now.ensure(item.digest == decided.digest, "it decides about something else")?;
        let approve = decision.kind == DecisionKind::Approve;
        now.ensure(!approve || decided.instead.is_none(), "only an OVERRIDE changes an item")?;
        now.ensure(decided.instead != Some(item.digest), "an OVERRIDE changes its item")?;
        let dropped = decision.kind == DecisionKind::Override && decided.instead.is_none();
        now.ensure(!dropped || gate.subject != GateSubject::Start, "a start cannot be dropped")?;
    }
    for forms in &decision.rules {
        let sorted = forms.rules.is_sorted_by(|a, b| a.rule < b.rule) && !forms.rules.is_empty();
        now.ensure(sorted && gate.item(forms.item).is_some_and(|i| !i.dropped), "its rules are not in order")?;
    }
    if reject {
        return now.ensure(decision.rules.is_empty() && decision.lapsed.is_empty(), "a REJECT counts nothing");
    }
    let justified = now.header.payloads.iter().any(|p| p.role == PayloadRole::Justification);
    now.ensure(justified, "it has no justification")?;
    now.ensure(decision.shown.is_some(), "it does not say what was shown")
}

fn item_fits(subject: GateSubject, item: &GateItem) -> bool {
    match subject {
        GateSubject::Start => item.question == QuestionKind::Start && item.tool.is_none(),
        GateSubject::Complete => item.question == QuestionKind::Complete && item.tool.is_none(),
        GateSubject::Terminate => item.question == QuestionKind::Terminate && item.tool.is_none(),
        GateSubject::Actions => is_action(item.question) && item.tool.is_some(),
        GateSubject::Grant => is_item(item),
    }
}

fn rules_are_sound(item: &GateItem) -> bool {
    !item.rules.is_empty() && item.rules.is_sorted_by(|a, b| a.rule < b.rule)
}

fn open_item(item: &GateItem, asked: u64) -> OpenItem {
    OpenItem {
        item: item.item,
        action: item.action,
        question: item.question,
        tool: item.tool.clone(),
        digest: item.digest,
        asked,
        rules: item.rules.clone(),
        involved: item.involved.clone(),
        authors: Vec::new(),
        votes: Vec::new(),
        lifted: Vec::new(),
        replaced: false,
        dropped: false,
    }
}
