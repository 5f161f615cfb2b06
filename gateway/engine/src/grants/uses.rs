//! The use of a grant: which of an instance's grants an action may rest on, and whether policy lets it.
//!
//! A grant counts as long as what it rests on stands: the rule is in the bundle in force and may be met in advance, within
//! its bounds of today; and it is met, in its form of today, by the votes of those givers whom a gate would count now: their
//! accounts are active and still have the rule's authority, and they are not involved in what is done. The state machine
//! counts uses and holds them to time, tools and budget. Whatever is in doubt leads to the ordinary gate.

use std::collections::{BTreeMap, BTreeSet};

use countersign_gateway_flow::{HeldGrant, Instance, MAX_USES, UNNAMED_PERSON, Vote};
use countersign_gateway_model::{Decision, Duration, GrantId, Name, Pseudonym, Timestamp};
use countersign_ledger_entry::body::Reservation;
use countersign_policy_decide::input::TypedInput;
use countersign_policy_decide::rules::ApprovalRule;
use countersign_policy_decide::{EntityStore, PolicySnapshot};

use crate::asking::{Answered, ask_reading, with_satisfied};
use crate::counters::Reading;
use crate::error::EngineError;
use crate::gates::{barred, form_of};
use crate::grants::{GrantTerms, any_live};
use crate::org::Org;
use crate::stream::Held;
use crate::{Engine, Snapshot};

/// Most uses of one append: entries of an append are counted.
const MAX_IN_BATCH: usize = 24;

/// How often policy is asked again while it names further rules.
const ROUNDS: usize = 8;

/// A grant that an action may rest on, with its terms.
pub(crate) struct Usable {
    held: HeldGrant,
    terms: GrantTerms,
}

/// The grants of an instance as the actions of one batch use them, one after the other.
pub(crate) struct Resting<'a> {
    usable: &'a [Usable],
    held: BTreeMap<GrantId, HeldGrant>,
    uses: usize,
    acting: Acting<'a>,
    at: Timestamp,
}

/// Who acts under grants: the account, and on whose behalf, outermost first.
#[derive(Clone, Copy)]
pub(crate) struct Acting<'a> {
    pub(crate) who: Pseudonym,
    pub(crate) chain: &'a [Pseudonym],
}

/// An action that rests on grants.
pub(crate) struct Met {
    /// What policy says with them.
    pub(crate) answered: Answered,
    /// Which.
    pub(crate) grants: Vec<GrantId>,
    /// What it takes from counters.
    pub(crate) reservations: Vec<Reservation>,
}

impl Engine {
    /// What of an instance's grants counts under the policy in force.
    pub(crate) async fn usable_grants(
        &self,
        org: &Org,
        snapshot: &Snapshot,
        held: &Held,
        acting: Acting<'_>,
    ) -> Result<Vec<Usable>, EngineError> {
        let fold = held.fold()?;
        let now = self.now().max(fold.latest());
        let mut out = Vec::new();
        if !any_live(fold, now) {
            return Ok(out);
        }
        for given in fold.grants().filter(|given| given.is_live(now)) {
            if let Some(why) = stopped(org, snapshot, fold, given, (acting, now)) {
                tracing::debug!(grant = %given.body.grant, why, "a grant does not count");
                continue;
            }
            // Terms that were erased, or that are not what is counted, hold for nothing.
            if let Some(terms) = self.grant_terms(org, held, given.asked, (&given.body, given.lasts())).await? {
                out.push(Usable { held: given.clone(), terms });
            }
        }
        // What ends first is used first.
        out.sort_by_key(|one| (one.held.body.until, one.held.body.grant));
        Ok(out)
    }
}

/// Why a grant does not count although it was given: what it rests on no longer stands.
pub(super) fn stopped(
    org: &Org,
    snapshot: &Snapshot,
    fold: &Instance,
    given: &HeldGrant,
    (acting, now): (Acting<'_>, Timestamp),
) -> Option<&'static str> {
    let name = &given.body.rule;
    let Some(rule) = snapshot.rules().get(name.as_str()) else { return Some("the bundle no longer has its rule") };
    let Some(bounds) = rule.grantable else { return Some("its rule can no longer be met in advance") };
    if given.used >= bounds.max_uses {
        return Some("its rule allows fewer uses by now");
    }
    if now.since(given.given) > Duration::from_secs(bounds.max_s) {
        return Some("its rule allows less time by now");
    }
    if given.is_approver(acting.who) || acting.chain.iter().any(|behind| given.is_approver(*behind)) {
        return Some("one who gave it acts under it");
    }
    // As a gate that opened now would bar them.
    let barred = barred(org, fold, (acting.who, acting.chain), std::slice::from_ref(name), snapshot);
    let counts = |vote: &Vote| {
        let person = org.person_of(vote.actor).unwrap_or(UNNAMED_PERSON);
        let free = [vote.actor, vote.person, person].iter().all(|who| !barred.contains(who));
        free && still_admitted(org, rule, vote)
    };
    if given.still_meets(&form_of(name, rule), counts) {
        None
    } else {
        Some("those who gave it, as far as they could give it now, no longer meet its rule")
    }
}

/// Whether a vote would be let in today: the account is active, has the role that it voted with, and is one of those whom
/// the rule asks.
fn still_admitted(org: &Org, rule: &ApprovalRule, vote: &Vote) -> bool {
    let Some(standing) = org.standing(vote.actor).filter(|standing| standing.active) else { return false };
    if vote.role.as_ref().is_some_and(|role| !standing.roles.contains(role)) {
        return false;
    }
    // A further circle was asked if a vote with its role counted: which one has fired is the closed gate's to know.
    let further = |role: &Name| rule.escalation.iter().any(|circle| circle.authority.roles.contains(role));
    standing.is_of(&rule.authority) || vote.role.as_ref().is_some_and(further)
}

impl<'a> Resting<'a> {
    pub(crate) fn on(usable: &'a [Usable], acting: Acting<'a>, at: Timestamp) -> Self {
        Self { usable, held: BTreeMap::new(), uses: 0, acting, at }
    }

    /// What policy says to an action that waits for people, with the rules met that grants meet. None where they do not meet
    /// all, or where policy says anything but yes even so.
    pub(crate) fn ask(
        &mut self,
        (snapshot, entities): (&PolicySnapshot, &EntityStore),
        waits: &Answered,
        (input, revision): (&TypedInput, Option<&str>),
        reading: &mut Reading,
    ) -> Result<Option<Met>, EngineError> {
        let first = waits.questions().first();
        let Some(question) = first.filter(|_| waits.waits_for_people()) else { return Ok(None) };
        let now = question.now;
        let taken = snapshot.reservations(question).map_err(EngineError::damaged)?;
        let taken: Vec<Reservation> =
            taken.into_iter().map(|one| Reservation { counter: one.counter, version: 0, amount: one.amount }).collect();
        let mut rules: BTreeSet<Name> = BTreeSet::new();
        let mut chosen: Vec<HeldGrant> = Vec::new();
        let mut missing = waits.verdict.rules.clone();
        for _ in 0..ROUNDS {
            for rule in &missing {
                let Some(grant) = self.find(rule, (input, revision), &taken) else { return Ok(None) };
                chosen.push(grant);
                rules.insert(rule.clone());
            }
            if chosen.len() > MAX_USES || self.uses + chosen.len() > MAX_IN_BATCH {
                return Ok(None);
            }
            let mut questions = with_satisfied(waits.questions(), &rules, &BTreeSet::new(), now);
            for question in &mut questions {
                question.granted.clone_from(&rules);
            }
            let answered = ask_reading(snapshot, entities, questions, reading);
            match answered.verdict.decision {
                Decision::Allow => {
                    let reservations = reading.reserve(snapshot, answered.questions().first())?;
                    self.uses += chosen.len();
                    let grants = chosen.iter().map(|held| held.body.grant).collect();
                    self.held.extend(chosen.into_iter().map(|held| (held.body.grant, held)));
                    return Ok(Some(Met { answered, grants, reservations }));
                }
                // Met, and still in the way: nothing that another round could change.
                _ if answered.verdict.rules.iter().any(|rule| rules.contains(rule)) => return Ok(None),
                Decision::NeedsApproval if answered.waits_for_people() => missing.clone_from(&answered.verdict.rules),
                Decision::NeedsApproval | Decision::Deny => return Ok(None),
            }
        }
        Ok(None)
    }

    /// A grant for this rule that has room for one more use, as it stands after that.
    fn find(
        &self,
        rule: &Name,
        (input, revision): (&TypedInput, Option<&str>),
        taken: &[Reservation],
    ) -> Option<HeldGrant> {
        self.usable.iter().filter(|one| one.held.body.rule == *rule).find_map(|one| {
            let terms = one.terms.tools.get(input.tool())?;
            if !terms.hold(input, revision) {
                return None;
            }
            let mut held = self.held.get(&one.held.body.grant).unwrap_or(&one.held).clone();
            held.take((self.acting.who, self.acting.chain), input.tool(), taken, self.at).ok()?;
            Some(held)
        })
    }
}
