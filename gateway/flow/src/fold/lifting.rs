//! Rules that were lifted without their quorum, replayed: the gate is counted again from the entry.
//!
//! What the ledger cannot show here: that the rule's data let it be lifted, and by this person. Both are in the bundle that
//! the entry names.

use countersign_gateway_model::{Decision as Answer, Pseudonym};
use countersign_ledger_entry::PayloadRole;
use countersign_ledger_entry::body::{DecisionKind, Effect, GateSubject, Lift};

use super::Instance;
use super::step::{Reading, Step};
use crate::error::EvolveError;
use crate::gate::{Lifted, OpenGate, distinct};

impl Instance {
    pub(super) fn lift(&mut self, now: Reading<'_>, lift: &Lift) -> Result<(), EvolveError> {
        let open = self.waiting_at(now, lift.gate)?;
        let person = now.header.actor != Pseudonym::SYSTEM && lift.person != Pseudonym::SYSTEM;
        now.ensure(person && now.header.on_behalf_of.is_empty(), "a person lifts a rule in their own name")?;
        now.ensure(!open.has_expired(now.at), "the gate had expired")?;
        now.ensure(now.header.verdict.is_some(), "policy was not asked who may lift the rule")?;
        // A review is of one lift: under a name that stood before, one of the two would owe none.
        now.ensure(!self.has_lift(lift.lift), "a lift of this id is on record")?;
        check_form(now, open, lift)?;
        let items = std::iter::once(lift.item);
        let barred = open.excluded(DecisionKind::Approve, now.header.actor, lift.person, items, &self.chain);
        let eligible = !now.objects() && barred.is_none();
        match lift.effect {
            Effect::Counted | Effect::Resolving => {
                now.ensure(eligible, "the person is not eligible")?;
                return self.lifted(now, lift);
            }
            Effect::HardDenied => now.ensure(eligible, "the person is not eligible")?,
            // Who is named by the rule's data is not in the ledger; what is not effective changes nothing.
            Effect::NotEligible => {}
            Effect::Stale | Effect::PolicyError => {
                let erred = now.header.verdict.as_ref().is_some_and(|v| v.error);
                let fits = eligible || (lift.effect == Effect::PolicyError && erred);
                now.ensure(fits, "the person is not eligible")?;
            }
        }
        now.ensure(lift.rules.is_empty() && lift.lapsed.is_empty(), "what is not effective changes nothing")?;
        self.idle_lifts.push(lift.lift);
        self.step = if lift.effect == Effect::HardDenied { Step::SystemReject } else { Step::Whole };
        Ok(())
    }

    fn lifted(&mut self, now: Reading<'_>, lift: &Lift) -> Result<(), EvolveError> {
        let resolving = lift.effect == Effect::Resolving;
        now.ensure(now.answer() == Some(Answer::Allow), "policy did not allow it")?;
        self.keep_gate();
        let Some(gate) = &mut self.gate else { return Err(now.unlawful("no gate is open")) };
        let lifted = Lifted::of(lift, now.header.actor, now.header.claimed);
        gate.lift(&lift.rules, lifted, lift.item, &lift.lapsed);
        now.ensure(gate.is_met() == resolving, "the rules that are met do not come to what the lift claims")?;
        self.lifts.push(lift.lift);
        self.step = if resolving { Step::Resolve { decision: now.verdict() } } else { Step::Whole };
        Ok(())
    }
}

/// What can be told of a lift's form from its entry.
fn check_form(now: Reading<'_>, gate: &OpenGate, lift: &Lift) -> Result<(), EvolveError> {
    let Some(item) = gate.item(lift.item).filter(|i| !i.dropped) else {
        return Err(now.unlawful("the gate has no such item"));
    };
    now.ensure(gate.subject != GateSubject::Grant, "a grant is what its rule's own quorum gives")?;
    now.ensure(item.digest == lift.digest, "it lifts a rule from something else")?;
    let form = item.rules.iter().find(|form| form.rule == lift.rule);
    let Some(form) = form else { return Err(now.unlawful("the item does not ask for the rule")) };
    now.ensure(!item.is_rule_met(form), "the rule is met already")?;
    now.ensure(lift.review_by > now.at, "its review was due before it")?;
    now.ensure(distinct(lift.rules.iter().map(|i| i.item)), "an item stands twice")?;
    for forms in &lift.rules {
        let sorted = forms.rules.is_sorted_by(|a, b| a.rule < b.rule) && !forms.rules.is_empty();
        now.ensure(sorted && gate.item(forms.item).is_some_and(|i| !i.dropped), "its rules are not in order")?;
    }
    let justified = now.header.payloads.iter().any(|p| p.role == PayloadRole::Justification);
    now.ensure(justified, "it has no justification")
}
