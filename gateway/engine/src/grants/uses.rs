//! The use of a grant: which of an instance's grants an action may rest on, and whether policy lets it.
//!
//! A grant counts as long as what it rests on stands: the rule is in the bundle in force and may be met in advance, within
//! its bounds of today; and the votes of those givers whose accounts are active meet its form of today. The state machine
//! counts uses and holds them to time, tools and budget. Whatever is in doubt leads to the ordinary gate.

use std::collections::{BTreeMap, BTreeSet};

use countersign_gateway_flow::{HeldGrant, MAX_USES};
use countersign_gateway_model::{Decision, Duration, GrantId, Name, Timestamp};
use countersign_ledger_entry::body::Reservation;
use countersign_policy_decide::input::TypedInput;
use countersign_policy_decide::{Attr, EntityStore, PolicySnapshot};

use crate::asking::{Answered, ask_reading, with_satisfied};
use crate::counters::Reading;
use crate::error::EngineError;
use crate::gates::form_of;
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
    at: Timestamp,
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
    ) -> Result<Vec<Usable>, EngineError> {
        let fold = held.fold()?;
        let now = self.now().max(fold.latest());
        let mut out = Vec::new();
        if !any_live(fold, now) {
            return Ok(out);
        }
        for given in fold.grants().filter(|given| given.is_live(now)) {
            if let Some(why) = stopped(org, snapshot, given, now) {
                tracing::debug!(grant = %given.body.grant, why, "a grant does not count");
                continue;
            }
            // Erased terms hold for nothing.
            if let Some(terms) = self.grant_terms(org, held, given.asked, &given.body.scope).await? {
                out.push(Usable { held: given.clone(), terms });
            }
        }
        // What ends first is used first.
        out.sort_by_key(|one| (one.held.body.until, one.held.body.grant));
        Ok(out)
    }
}

/// Why a grant does not count although it was given: what it rests on no longer stands.
pub(super) fn stopped(org: &Org, snapshot: &Snapshot, given: &HeldGrant, now: Timestamp) -> Option<&'static str> {
    let name = &given.body.rule;
    let Some(rule) = snapshot.rules().get(name.as_str()) else { return Some("the bundle no longer has its rule") };
    let Some(bounds) = rule.grantable else { return Some("its rule can no longer be met in advance") };
    if given.used >= bounds.max_uses {
        return Some("its rule allows fewer uses by now");
    }
    if now.since(given.given) > Duration::from_secs(bounds.max_s) {
        return Some("its rule allows less time by now");
    }
    let active = |who| {
        let known = org.known(who)?;
        let version = org.entities.get(&known.entity(org.id))?;
        Some(version.record().attrs.get("active") == Some(&Attr::Bool(true)))
    };
    if given.still_meets(&form_of(name, rule), |vote| active(vote.actor) == Some(true)) {
        None
    } else {
        Some("those who gave it, as far as their accounts are active, no longer meet its rule")
    }
}

impl<'a> Resting<'a> {
    pub(crate) fn on(usable: &'a [Usable], at: Timestamp) -> Self {
        Self { usable, held: BTreeMap::new(), uses: 0, at }
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
            held.take(input.tool(), taken, self.at).ok()?;
            Some(held)
        })
    }
}
