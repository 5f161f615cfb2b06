//! Who decides: a person with a credential made for it; and for which rules, by its authority, a vote of theirs counts.
//!
//! Absent: whether policy lets them (`weighing`), and what rules demand beside authority (`demands`).

use countersign_gateway_flow::{Illegal, OpenGate};
use countersign_gateway_model::{Assurance, Name, Principal, PrincipalKind, Scope};

use crate::Snapshot;
use crate::error::EngineError;
use crate::gates::circles;
use crate::org::Org;

/// Deciding takes a person, with a credential that was made for it.
pub(crate) fn decides(org: &Org, who: &Principal) -> Result<(), EngineError> {
    if who.kind != PrincipalKind::Person {
        return Err(Illegal::NotAPerson.into());
    }
    if !who.has(Scope::Decide) {
        return Err(EngineError::ScopeMissing);
    }
    if who.assurance == Assurance::Demo && !org.log.is_demo() {
        return Err(EngineError::DemoOnly);
    }
    Ok(())
}

/// Whether this person's vote counts for a rule, as far as its authority goes.
pub(crate) fn admits(
    snapshot: &Snapshot,
    gate: &OpenGate,
    name: &Name,
    (person, groups): (&Principal, &[Name]),
    role: Option<&Name>,
) -> bool {
    let Some(rule) = snapshot.rules().get(name.as_str()) else {
        // The bundle no longer has it: the pinned form counts by role, and the role must be held.
        return role.is_some_and(|role| person.roles.contains(role));
    };
    circles(Some(gate), name, rule).any(|circle| circle.admits(&person.roles, groups, &person.teams))
}

pub(crate) fn default_role(who: &Principal, gate: &OpenGate, snapshot: &Snapshot) -> Option<Name> {
    gate.live_items()
        .flat_map(|i| i.rules.iter())
        .filter_map(|form| Some((&form.rule, snapshot.rules().get(form.rule.as_str())?)))
        .flat_map(|(name, rule)| circles(Some(gate), name, rule))
        .flat_map(|circle| circle.roles.iter())
        .find(|role| who.roles.contains(role))
        .cloned()
}
