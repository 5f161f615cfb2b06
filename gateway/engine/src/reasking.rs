//! Policy is asked again before a gate resolves, until nothing new comes of it: about those whose votes and lifts count, and
//! about what waits, with the rules satisfied that they satisfy.
//!
//! A decision and a lift are weighed by the same rounds. Where those do not come to an end, nothing is decided. Absent: how
//! votes add up (`flow::gate`). Read next: `decisions`, `lifts`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use countersign_gateway_flow::{Ballot, Current, Illegal, Lifting, OpenGate, Reasked, Tally, gate as counting};
use countersign_gateway_model::{ItemId, Name, Pseudonym, Scope};
use countersign_ledger_entry::body::{GateSubject, Reservation};
use countersign_ledger_entry::payload::Salt;
use countersign_policy_decide::{EntityKind, EntityRef, Operation, Question};

use crate::asking::{Answered, ask, ask_reading, with_satisfied};
use crate::beside::Beside;
use crate::counters::Reading;
use crate::deciding::Deciding;
use crate::demands::expired_votes;
use crate::error::EngineError;
use crate::liftable::still_liftable;
use crate::mint::MintExt as _;
use crate::org::Org;
use crate::overrides::Replaced;
use crate::stream::{Held, four_eyes};
use crate::{Engine, Snapshot};

/// Most rounds. Each can only add rules and take votes away, so a policy that answers the same to the same needs few.
const ROUNDS: usize = 16;

/// What a person is about to do at a gate, before its effect is known.
pub(crate) trait Weighed {
    /// What the votes come to with it.
    fn tally(&self, gate: &OpenGate, by: Pseudonym) -> Result<Tally, Illegal>;

    /// Rules as the policy in force has them.
    fn current(&mut self) -> &mut Vec<Current>;

    /// Persons whose votes and lifts count no longer.
    fn lapsed(&mut self) -> &mut Vec<Pseudonym>;
}

impl Weighed for Ballot {
    fn tally(&self, gate: &OpenGate, by: Pseudonym) -> Result<Tally, Illegal> {
        counting::tally(gate, self, by)
    }

    fn current(&mut self) -> &mut Vec<Current> {
        &mut self.current
    }

    fn lapsed(&mut self) -> &mut Vec<Pseudonym> {
        &mut self.lapsed
    }
}

impl Weighed for Lifting {
    fn tally(&self, gate: &OpenGate, _: Pseudonym) -> Result<Tally, Illegal> {
        counting::tally_lift(gate, self)
    }

    fn current(&mut self) -> &mut Vec<Current> {
        &mut self.current
    }

    fn lapsed(&mut self) -> &mut Vec<Pseudonym> {
        &mut self.lapsed
    }
}

/// What the rounds came to.
#[derive(Default)]
pub(crate) struct Settled {
    /// All rules are met: the gate resolves if policy lets it.
    pub(crate) met: bool,
    /// What policy says now to the questions that wait.
    pub(crate) reasked: Vec<Again>,
    /// Persons who were asked about again, because their votes or lifts count.
    pub(crate) asked_again: Vec<Pseudonym>,
}

/// A question asked again.
pub(crate) struct Again {
    pub(crate) item: ItemId,
    pub(crate) answered: Answered,
    /// What it takes from counters, where it is allowed.
    pub(crate) reservations: Vec<Reservation>,
    action: Vec<u8>,
    salt: Salt,
}

fn rules_of(again: &Again) -> Vec<Name> {
    again.answered.verdict.rules.clone()
}

/// Whether a round brought an item a rule that it had neither at the gate, or as it was put in its place, nor in the round
/// before. Each item is counted by forms of its own: what another one has is no form of this one's.
fn has_grown(gate: &OpenGate, replaced: &BTreeMap<ItemId, Replaced>, before: &[Again], round: &[Again]) -> bool {
    let pinned = |item: ItemId, rule: &Name| match replaced.get(&item) {
        Some(new) => new.answered.verdict.rules.contains(rule),
        None => gate.item(item).is_some_and(|item| item.rules.iter().any(|form| form.rule == *rule)),
    };
    let asked = |item: ItemId, rule: &Name| {
        before.iter().any(|again| again.item == item && again.answered.verdict.rules.contains(rule))
    };
    let mut rules = round.iter().flat_map(|again| again.answered.verdict.rules.iter().map(|rule| (again.item, rule)));
    rules.any(|(item, rule)| !pinned(item, rule) && !asked(item, rule))
}

/// Goes round until there is nothing new. What does not come to an end in time is not decided: the last answers would be to
/// other votes, or without rules that policy names by now.
fn until_settled<T>(mut round: impl FnMut() -> Result<ControlFlow<T>, EngineError>) -> Result<T, EngineError> {
    for _ in 0..ROUNDS {
        if let ControlFlow::Break(settled) = round()? {
            return Ok(settled);
        }
    }
    Err(Illegal::AskAgain.into())
}

impl Engine {
    /// Makes `weighed` into what can be counted: with the rules of the policy in force, and without the votes that lapsed.
    ///
    /// # Errors
    /// [`Illegal::AskAgain`] where that comes to no end.
    pub(crate) fn settle(
        &self,
        work: &Deciding<'_>,
        held: &Held,
        replaced: &BTreeMap<ItemId, Replaced>,
        weighed: &mut impl Weighed,
        reading: &mut Reading,
    ) -> Result<Settled, EngineError> {
        let Deciding { snapshot, gate, who, .. } = *work;
        *weighed.lapsed() = expired_votes(work);
        let mut reasked = Vec::new();
        until_settled(|| {
            *weighed.current() = self.current_forms(snapshot, gate, replaced, &reasked)?;
            let tally = weighed.tally(gate, who.pseudonym)?;
            let mut asked_again = Vec::new();
            if tally.met {
                let (asked, ineligible) = self.ask_counted(work, held, gate, &tally)?;
                let lapsed = weighed.lapsed();
                let gone: BTreeSet<Pseudonym> = lapsed.iter().copied().chain(ineligible).collect();
                if gone.len() > lapsed.len() {
                    *lapsed = gone.into_iter().collect();
                    return Ok(ControlFlow::Continue(()));
                }
                asked_again = asked;
            }
            let before = std::mem::replace(&mut reasked, self.reask(work, gate, replaced, &tally, reading)?);
            if has_grown(gate, replaced, &before, &reasked) {
                return Ok(ControlFlow::Continue(()));
            }
            Ok(ControlFlow::Break(Settled { met: tally.met, reasked: std::mem::take(&mut reasked), asked_again }))
        })
    }

    /// Asks again whether those whose votes and lifts count are still eligible. Gives who was asked, and who is not.
    fn ask_counted(
        &self,
        work: &Deciding<'_>,
        held: &Held,
        gate: &OpenGate,
        tally: &Tally,
    ) -> Result<(Vec<Pseudonym>, Vec<Pseudonym>), EngineError> {
        let (mut asked, mut lapsed) = (BTreeSet::new(), BTreeSet::new());
        let votes = gate.live_items().flat_map(|i| i.votes.iter().map(move |v| (i.item, v)));
        for (item, vote) in votes.filter(|(_, vote)| tally.counted.contains(&vote.person)) {
            // An author may not approve what they made; whether they may still override is what their vote rests on.
            let operation = if vote.author { Operation::Override } else { Operation::Approve };
            let of = Self::item_entity(work.org, item)?;
            // A grant is given in one's own name: it is described as theirs whose vote it is.
            let giver = work.org.known(vote.actor).map(|known| known.id);
            let offer = giver.map(|giver| self.describe_offer(work.org, held, gate, giver)).transpose()?.flatten();
            let on = offer.map_or((operation, of), |offer| (Operation::GrantTask, offer));
            // One vote of a person says whether they may still decide at this gate.
            if asked.insert(vote.person) && !Self::still(work, vote.actor, on, vote.role.as_ref()) {
                lapsed.insert(vote.person);
            }
        }
        let lifts = gate.live_items().flat_map(|i| i.lifted.iter().map(move |l| (i.item, l)));
        for (item, lifted) in lifts.filter(|(_, lifted)| tally.lifters.contains(&lifted.person)) {
            asked.insert(lifted.person);
            let on = (Operation::BreakGlass, Self::item_entity(work.org, item)?);
            let stands = still_liftable(work.org, work.snapshot, lifted);
            if !stands || !Self::still(work, lifted.actor, on, lifted.role.as_ref()) {
                lapsed.insert(lifted.person);
            }
        }
        Ok((asked.into_iter().collect(), lapsed.into_iter().collect()))
    }

    /// An item as policy names it.
    fn item_entity(org: &Org, item: ItemId) -> Result<EntityRef, EngineError> {
        let id = Name::new(&item.to_string()).map_err(EngineError::damaged)?;
        Ok(EntityRef::new(org.id, EntityKind::Item, id))
    }

    /// Whether policy still lets an account do what it did.
    fn still(
        work: &Deciding<'_>,
        actor: Pseudonym,
        (operation, resource): (Operation, EntityRef),
        role: Option<&Name>,
    ) -> bool {
        let Deciding { org, snapshot, who, now, .. } = *work;
        let Some(known) = org.known(actor) else { return false };
        let mut again = Question::new(known.entity(org.id), operation, resource, now);
        // It was done with an interactive credential; what is asked now is whether the person may still.
        again.scopes = [Scope::Act, Scope::Decide].into_iter().map(countersign_policy_decide::scope_name).collect();
        again.assurance = who.assurance;
        again.role = role.cloned();
        again.four_eyes = four_eyes(org);
        ask(snapshot, org.facts(), vec![again]).allowed()
    }

    /// Asks the questions of the gate's items again, with the rules satisfied that the votes satisfy.
    fn reask(
        &self,
        work: &Deciding<'_>,
        gate: &OpenGate,
        replaced: &BTreeMap<ItemId, Replaced>,
        tally: &Tally,
        reading: &mut Reading,
    ) -> Result<Vec<Again>, EngineError> {
        let Deciding { org, snapshot, opened, now, .. } = *work;
        let mut out = Vec::new();
        // Each is asked with what those before it take.
        reading.forget_taken();
        if gate.subject == GateSubject::Grant {
            // Nothing waits for a grant: what it is good for is asked about when it comes.
            return Ok(out);
        }
        for item in &tally.items {
            let open = gate.item(item.item).ok_or(Illegal::UnknownItem(item.item))?;
            let (questions, action, changed, salt) = if let Some(new) = replaced.get(&item.item) {
                (&new.questions, new.canonical.clone(), true, new.salt)
            } else {
                let stored = opened
                    .items
                    .get(&item.item)
                    .ok_or_else(|| EngineError::damaged("the item's question was erased"))?;
                let action = serde_json::to_vec(&stored.action).map_err(EngineError::damaged)?;
                (&stored.questions, action, open.replaced, self.mint().salt())
            };
            let overridden = if changed { &item.satisfied } else { &item.lifted };
            let asked = with_satisfied(questions, &item.satisfied, overridden, now);
            let answered = ask_reading(snapshot, &org.entities, asked, reading);
            let allowed = answered.allowed().then(|| answered.questions().first()).flatten();
            let reservations = reading.reserve(snapshot, allowed)?;
            out.push(Again { item: item.item, answered, reservations, action, salt });
        }
        Ok(out)
    }

    pub(crate) fn keep(&self, again: &Again, beside: &mut Beside) -> Reasked {
        let (reference, _) = beside.add(again.answered.evidence(&again.salt, &again.action));
        Reasked { item: again.item, asked: again.answered.asked(Some(reference)) }
    }

    /// Counting forms under the current bundle.
    fn current_forms(
        &self,
        snapshot: &Snapshot,
        gate: &OpenGate,
        replaced: &BTreeMap<ItemId, Replaced>,
        reasked: &[Again],
    ) -> Result<Vec<Current>, EngineError> {
        gate.live_items()
            .map(|item| {
                let again = reasked.iter().find(|r| r.item == item.item);
                let names: BTreeSet<Name> = match replaced.get(&item.item) {
                    Some(new) => {
                        new.answered.verdict.rules.iter().cloned().chain(again.into_iter().flat_map(rules_of)).collect()
                    }
                    None => item
                        .rules
                        .iter()
                        .map(|r| r.rule.clone())
                        .filter(|r| snapshot.rules().get(r.as_str()).is_some())
                        .chain(again.into_iter().flat_map(rules_of))
                        .collect(),
                };
                let rules = self.rule_forms(snapshot, &names.into_iter().collect::<Vec<_>>())?;
                Ok(Current { item: item.item, rules })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_to_no_end_is_not_decided() {
        let mut rounds = 0;
        let endless = until_settled(|| {
            rounds += 1;
            Ok(ControlFlow::<()>::Continue(()))
        });
        assert!(matches!(endless, Err(EngineError::Illegal(Illegal::AskAgain))));
        assert_eq!(rounds, ROUNDS);
    }

    #[test]
    fn the_first_round_that_brings_nothing_new_is_the_answer() {
        let mut rounds = 0;
        let settled = until_settled(|| {
            rounds += 1;
            Ok(if rounds == ROUNDS { ControlFlow::Break(rounds) } else { ControlFlow::Continue(()) })
        });
        assert_eq!(settled.ok(), Some(ROUNDS));
    }
}
