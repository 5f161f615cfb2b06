//! Whether a rule may be lifted without its quorum, and by whom: its data, of the bundle that the gate was opened under and
//! of the one in force.
//!
//! Absent: lifting (`lifts`), and what policy says of it.

use countersign_gateway_flow::Lifted;
use countersign_gateway_model::{Duration, Name, Principal, Timestamp};
use countersign_policy_decide::rules::BreakGlass;

use crate::Snapshot;
use crate::org::Org;

/// What the bundle says of lifting a rule.
pub(crate) fn break_glass_of<'s>(snapshot: &'s Snapshot, rule: &Name) -> Option<&'s BreakGlass> {
    snapshot.rules().get(rule.as_str())?.break_glass.as_ref()
}

/// Whether what was lifted could be lifted today: the rule's data still lets somebody, and whoever did it is still one of
/// them, with the signature that the rule demands by now.
pub(crate) fn still_liftable(org: &Org, snapshot: &Snapshot, lifted: &Lifted) -> bool {
    let Some(glass) = break_glass_of(snapshot, &lifted.rule) else { return false };
    let signed =
        snapshot.rules().get(lifted.rule.as_str()).is_some_and(|rule| !rule.demand.assertion || lifted.asserted);
    signed && org.standing(lifted.actor).is_some_and(|standing| standing.is_of(&glass.authority))
}

/// The role with which this person lifts, of those that the rule names.
pub(crate) fn role_for(glass: &BreakGlass, who: &Principal) -> Option<Name> {
    glass.authority.roles.iter().find(|role| who.roles.contains(role)).cloned()
}

/// A rule that may be lifted, by those whom both bundles name, under the shorter of both times.
pub(crate) struct Liftable {
    /// As the bundle of the gate has it; none where that was not looked for.
    pub(crate) pinned: Option<BreakGlass>,
    pub(crate) current: BreakGlass,
}

impl Liftable {
    pub(crate) fn names(&self, who: &Principal, groups: &[Name]) -> bool {
        let admits = |glass: &BreakGlass| glass.authority.admits(&who.roles, groups, &who.teams);
        self.pinned.as_ref().is_some_and(admits) && admits(&self.current)
    }

    pub(crate) fn review_by(&self, now: Timestamp) -> Timestamp {
        let current = self.current.review_within_s;
        let within = self.pinned.as_ref().map_or(current, |pinned| pinned.review_within_s.min(current));
        now + Duration::from_secs(within.max(1))
    }
}
