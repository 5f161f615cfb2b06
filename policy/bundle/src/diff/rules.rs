//! What changes between two sets of approval rules, field by field.
//!
//! Read next: `countersign_policy_decide::rules` for what each field means.

use std::collections::BTreeSet;

use countersign_gateway_model::Name;
use countersign_policy_decide::rules::{ApprovalRule, Authority, Rules};

use super::{Change, Direction};

pub(super) fn compare(old: &Rules, new: &Rules, changes: &mut Vec<Change>) {
    let names: BTreeSet<&Name> = old.rules.keys().chain(new.rules.keys()).collect();
    for name in names {
        let mut say = |direction, words: String| changes.push(Change::new(direction, format!("rule `{name}`"), words));
        match (old.rules.get(name), new.rules.get(name)) {
            (None, Some(rule)) => say(Direction::Neutral, format!("it is new: {}", wants(rule))),
            // Whether something passes more easily is said where its gate changes.
            (Some(_), None) => say(Direction::Neutral, "it is gone".to_owned()),
            (Some(a), Some(b)) if a != b => fields(a, b, &mut say),
            _ => {}
        }
    }
}

fn wants(rule: &ApprovalRule) -> String {
    let persons = rule.quorum.persons;
    format!("{persons} {} of {}", if persons == 1 { "person" } else { "persons" }, whom(&rule.authority))
}

fn whom(authority: &Authority) -> String {
    let list = |what: &str, names: &[Name]| {
        let names: Vec<&str> = names.iter().map(Name::as_str).collect();
        (!names.is_empty()).then(|| format!("{what} {}", names.join(", ")))
    };
    let parts = [list("role", &authority.roles), list("group", &authority.groups), list("team", &authority.teams)];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "nobody".to_owned() } else { parts.join(" or ") }
}

/// More of it is stricter.
fn up<T: PartialOrd>(old: &T, new: &T) -> Option<Direction> {
    match new.partial_cmp(old)? {
        std::cmp::Ordering::Greater => Some(Direction::Stricter),
        std::cmp::Ordering::Less => Some(Direction::Weaker),
        std::cmp::Ordering::Equal => None,
    }
}

/// More of it is weaker.
fn down<T: PartialOrd>(old: &T, new: &T) -> Option<Direction> {
    up(new, old)
}

/// More members are weaker.
fn members(old: &[Name], new: &[Name]) -> Option<Direction> {
    let (a, b): (BTreeSet<_>, BTreeSet<_>) = (old.iter().collect(), new.iter().collect());
    match (a.is_subset(&b), b.is_subset(&a)) {
        (true, true) => None,
        (true, false) => Some(Direction::Weaker),
        (false, true) => Some(Direction::Stricter),
        (false, false) => Some(Direction::Unclear),
    }
}

/// Two directions of one thing: the same way, or unclear.
fn both(a: Option<Direction>, b: Option<Direction>) -> Option<Direction> {
    match (a, b) {
        (Some(a), Some(b)) if a != b => Some(Direction::Unclear),
        (a, b) => a.or(b),
    }
}

fn authority(old: &Authority, new: &Authority) -> Option<Direction> {
    let either = both(members(&old.roles, &new.roles), members(&old.groups, &new.groups));
    both(either, members(&old.teams, &new.teams))
}

/// None is "without limit": larger than any number.
fn limit(of: Option<u64>) -> u64 {
    of.unwrap_or(u64::MAX)
}

fn fields(a: &ApprovalRule, b: &ApprovalRule, say: &mut dyn FnMut(Direction, String)) {
    let mut note = |direction: Option<Direction>, words: String| {
        if let Some(direction) = direction {
            say(direction, words);
        }
    };
    note(
        authority(&a.authority, &b.authority),
        format!("{} may vote; before: {}", whom(&b.authority), whom(&a.authority)),
    );
    note(
        up(&a.quorum.persons, &b.quorum.persons),
        format!("{} must agree; before: {}", b.quorum.persons, a.quorum.persons),
    );
    note(
        up(&a.quorum.distinct_teams, &b.quorum.distinct_teams),
        format!("they come from {} distinct teams; before: {}", b.quorum.distinct_teams, a.quorum.distinct_teams),
    );
    let groups = members(&b.quorum.groups, &a.quorum.groups);
    note(groups, "which groups must be represented among them changed".to_owned());
    for (who, old, new) in [
        ("the initiator", a.exclude.initiator, b.exclude.initiator),
        ("the agent's owner", a.exclude.owner, b.exclude.owner),
        ("the credential's issuer", a.exclude.issuer, b.exclude.issuer),
        ("the accountable person", a.exclude.accountable, b.exclude.accountable),
    ] {
        let may = if new { "may not vote any more" } else { "may vote now" };
        note(up(&old, &new), format!("{who} {may}"));
    }
    note(up(&a.veto, &b.veto), format!("one refusal {} the matter", if b.veto { "ends" } else { "no longer ends" }));
    let grant = match (a.grantable, b.grantable) {
        (None, None) => None,
        (None, Some(_)) => Some(Direction::Weaker),
        (Some(_), None) => Some(Direction::Stricter),
        (Some(a), Some(b)) => both(down(&a.max_s, &b.max_s), down(&a.max_uses, &b.max_uses)),
    };
    note(grant, "what a task grant may meet in advance changed".to_owned());
    note(down(&limit(a.validity_s), &limit(b.validity_s)), "how long a vote counts changed".to_owned());
    note(down(&limit(a.timeout_s), &limit(b.timeout_s)), "how long the gate stays open changed".to_owned());
    let circle = match (a.escalation == b.escalation, a.escalation.is_empty(), b.escalation.is_empty()) {
        (true, ..) => None,
        (_, true, _) => Some(Direction::Weaker),
        (_, _, true) => Some(Direction::Stricter),
        _ => Some(Direction::Unclear),
    };
    note(circle, "who else is asked after a while changed".to_owned());
    let pointers = |list: &[String]| list.iter().cloned().collect::<BTreeSet<String>>();
    let (old, new) = (pointers(&a.overridable), pointers(&b.overridable));
    if old != new {
        let wider = if new.is_superset(&old) {
            Direction::Weaker
        } else if old.is_superset(&new) {
            Direction::Stricter
        } else {
            Direction::Unclear
        };
        note(Some(wider), "which input keys a person may change changed".to_owned());
    }
    let counts = if b.override_counts { "counts as a vote now" } else { "no longer counts as a vote" };
    note(down(&a.override_counts, &b.override_counts), format!("who changes the input {counts}"));
    let glass = match (&a.break_glass, &b.break_glass) {
        (None, None) => None,
        (None, Some(_)) => Some(Direction::Weaker),
        (Some(_), None) => Some(Direction::Stricter),
        (Some(a), Some(b)) => both(authority(&a.authority, &b.authority), down(&a.review_within_s, &b.review_within_s)),
    };
    note(glass, "who may lift it without its quorum changed".to_owned());
    note(up(&a.demand.assurance, &b.demand.assurance), "how sure the voter's login must be changed".to_owned());
    note(down(&limit(a.demand.fresh_s), &limit(b.demand.fresh_s)), "how fresh that login must be changed".to_owned());
    let signs = if b.demand.assertion { "must sign with their own key" } else { "need not sign with their own key" };
    note(up(&a.demand.assertion, &b.demand.assertion), format!("voters {signs}"));
    let justified = both(
        up(&a.justification.min, &b.justification.min),
        (a.justification.max != b.justification.max).then_some(Direction::Neutral),
    );
    note(justified, "how long a justification must or may be changed".to_owned());
    if a.title != b.title || a.reminders_s != b.reminders_s {
        note(Some(Direction::Neutral), "its title or reminders changed".to_owned());
    }
    if a.on_timeout != b.on_timeout {
        note(Some(Direction::Unclear), "what silence means changed".to_owned());
    }
}
