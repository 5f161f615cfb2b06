//! What is asked of approval rules beyond their shape: nothing that can never happen, nobody asked who cannot answer.
//!
//! Works on the data and on the gates that name it. Absent: who the people are (`lockout` asks that at activation).
//! Read next: `countersign_policy_decide::rules`.

use std::collections::BTreeSet;

use cedar_policy::Effect;
use countersign_gateway_model::Name;
use countersign_policy_decide::catalogue::{Catalogue, Tool};
use countersign_policy_decide::rules::{ApprovalRule, Authority, Rules};
use serde_json::Value;

use super::rule_of;
use crate::finding::{Finding, Place, RuleId};
use crate::source::SourcePolicy;

/// The file that all of this is about.
const FILE: &str = "rules.json";

/// All of it. `text` is `rules.json` as it stands, for the places.
pub(crate) fn lint(
    rules: &Rules,
    text: &str,
    policies: &[SourcePolicy],
    catalogue: Option<&Catalogue>,
    findings: &mut Vec<Finding>,
) {
    for (name, rule) in &rules.rules {
        let place = |key: &str| place(text, name, key);
        after_the_end(name, rule, &place, findings);
        unmet(name, rule, &place, findings);
        unsupported(name, rule, &place, findings);
        liftable(name, rule, policies, &place, findings);
        grantable(name, rule, policies, &place, findings);
        if let Some(catalogue) = catalogue {
            overridable(name, rule, policies, catalogue, text, findings);
        }
    }
}

/// Where a key of a rule stands: after the rule's name, which stands before it.
fn place(text: &str, rule: &Name, key: &str) -> Place {
    let start = text.find(&format!("\"{rule}\"")).unwrap_or(0);
    let further = text.get(start..).and_then(|rest| rest.find(&format!("\"{key}\""))).unwrap_or(0);
    Place::at(FILE, text, start + further)
}

/// Nobody is reminded, and no further circle is asked, after silence has ended the gate.
fn after_the_end(name: &Name, rule: &ApprovalRule, place: &dyn Fn(&str) -> Place, findings: &mut Vec<Finding>) {
    let Some(end) = rule.timeout_s else { return };
    let mut say = |key: &str, at: u64, what: &str| {
        let message = format!("rule `{name}` {what} after {at} s, but the gate ends after {end} s");
        let next = format!("make it earlier than `timeout_s`, or leave it out of `{key}`");
        findings.push(Finding::warning(place(key), RuleId::RuleTimes, message, next));
    };
    for at in rule.reminders_s.iter().filter(|at| **at >= end) {
        say("reminders_s", *at, "reminds");
    }
    for circle in rule.escalation.iter().filter(|circle| circle.after_s >= end) {
        say("escalation", circle.after_s, "asks a further circle");
    }
    if let Some(validity) = rule.validity_s.filter(|validity| rule.quorum.persons > 1 && *validity < end / 100) {
        let message = format!(
            "rule `{name}` needs {} votes, each of which counts for {validity} s of the {end} s that the gate is open",
            rule.quorum.persons
        );
        let next = "raise `validity_s`, or people vote again and again";
        findings.push(Finding::warning(place("validity_s"), RuleId::RuleTimes, message, next));
    }
}

/// What the data can say and a gate cannot hold people to: refused, so that nobody relies on it.
fn unsupported(name: &Name, rule: &ApprovalRule, place: &dyn Fn(&str) -> Place, findings: &mut Vec<Finding>) {
    let mut say = |key: &str, message: String, next: &str| {
        findings.push(Finding::error(place(key), RuleId::Unsupported, message, next));
    };
    if !rule.veto {
        let message = format!("rule `{name}` lets a rejection not end the matter, and every rejection does");
        say("veto", message, "leave `veto` out");
    }
    let quorum = &rule.quorum;
    if quorum.distinct_teams != 0 && quorum.distinct_teams != quorum.persons {
        let message = format!(
            "rule `{name}` asks for {} persons of {} distinct teams; a gate counts either persons or persons each of \
             another team",
            quorum.persons, quorum.distinct_teams
        );
        say("distinct_teams", message, "make `distinct_teams` as many as `persons`, or leave it out");
    }
    if u8::try_from(quorum.persons).is_err() {
        let message = format!("rule `{name}` asks for {} persons; a gate counts up to 255", quorum.persons);
        say("quorum", message, "ask for fewer");
    }
}

/// What the data can say and this program has nothing for. Asked once the snapshot is built: a bundle that was put in force
/// with it is still loaded.
pub(crate) fn beyond(rules: &Rules, text: &str, findings: &mut Vec<Finding>) {
    for (name, rule) in &rules.rules {
        for target in rule.escalation.iter().flat_map(|circle| &circle.notify) {
            let message = format!("rule `{name}` notifies `{target}` of a further circle, and nothing here is told so");
            let next = "leave `notify` out; whom the circle names finds the gate among those that wait for them";
            findings.push(Finding::warning(place(text, name, "notify"), RuleId::Unsupported, message, next));
        }
    }
}

/// Seconds that a review may take: nobody reviews in less than the one, and what is due after the other is never due.
const REVIEW: std::ops::RangeInclusive<u64> = 60..=366 * 86_400;

/// Whoever lifts a rule without its quorum is permitted to by policy, and reviewed in a time in which that can be done and
/// will be.
fn liftable(
    name: &Name,
    rule: &ApprovalRule,
    policies: &[SourcePolicy],
    place: &dyn Fn(&str) -> Place,
    findings: &mut Vec<Finding>,
) {
    let Some(within) = rule.break_glass.as_ref().map(|glass| glass.review_within_s) else { return };
    if !REVIEW.contains(&within) {
        let message = format!("rule `{name}` wants the review of a lift within {within} s");
        let next = "give a time of a minute to a year; a day is usual";
        findings.push(Finding::error(place("review_within_s"), RuleId::RuleTimes, message, next));
    }
    if !permitted(policies, &["breakGlass", "decide"]) {
        let message = format!("rule `{name}` may be lifted without its quorum, and no policy lets anybody do so");
        let next = "permit `breakGlass` to those whom the data names, or leave `break_glass` out";
        findings.push(Finding::warning(place("break_glass"), RuleId::BreakGlass, message, next));
    }
}

/// What can be met in advance by nobody, or never.
fn grantable(
    name: &Name,
    rule: &ApprovalRule,
    policies: &[SourcePolicy],
    place: &dyn Fn(&str) -> Place,
    findings: &mut Vec<Finding>,
) {
    let Some(bounds) = rule.grantable else { return };
    if bounds.max_uses == 0 || bounds.max_s == 0 {
        let message = format!("rule `{name}` can be met in advance for no use, or for no time");
        let next = "give `max_uses` and `max_s` of at least 1, or leave `grantable` out";
        findings.push(Finding::error(place("grantable"), RuleId::Grantable, message, next));
    }
    if !permitted(policies, &["grantTask", "decide"]) {
        let message = format!("rule `{name}` can be met in advance, and no policy lets anybody do so");
        let next = "permit `grantTask` to those who vote for it, or leave `grantable` out";
        findings.push(Finding::warning(place("grantable"), RuleId::Grantable, message, next));
    }
}

/// Everybody who may vote once every circle is asked.
fn circles(rule: &ApprovalRule) -> impl Iterator<Item = &Authority> {
    std::iter::once(&rule.authority).chain(rule.escalation.iter().map(|circle| &circle.authority))
}

/// A quorum that no people, however many there are, could meet.
fn unmet(name: &Name, rule: &ApprovalRule, place: &dyn Fn(&str) -> Place, findings: &mut Vec<Finding>) {
    let quorum = &rule.quorum;
    // People of other teams may vote only if a role or a group lets them.
    let by_team_alone = circles(rule).all(|circle| circle.roles.is_empty() && circle.groups.is_empty());
    let teams: BTreeSet<&Name> = circles(rule).flat_map(|circle| &circle.teams).collect();
    let wanted = usize::try_from(quorum.distinct_teams).unwrap_or(usize::MAX);
    if by_team_alone && teams.len() < wanted {
        let message =
            format!("rule `{name}` asks for {wanted} distinct teams, and its authority names {} alone", teams.len());
        let next = "name more teams or a role, or ask for fewer";
        findings.push(Finding::error(place("distinct_teams"), RuleId::Quorum, message, next));
    }
    let groups: BTreeSet<&Name> = circles(rule).flat_map(|circle| &circle.groups).collect();
    let by_group_alone = circles(rule).all(|circle| circle.roles.is_empty() && circle.teams.is_empty());
    for group in quorum.groups.iter().filter(|group| !groups.contains(group)) {
        let message = format!("rule `{name}` must have someone of group `{group}`, whom its authority does not name");
        let next = "name the group under `authority`, too, so that its members may vote";
        // Someone of the group may hold a role that lets them vote; where groups alone do, they are in another one, too.
        let finding = Finding::warning(place("quorum"), RuleId::Quorum, message, next);
        findings.push(if by_group_alone && groups.is_empty() {
            Finding { severity: crate::finding::Severity::Error, ..finding }
        } else {
            finding
        });
    }
    let listed: BTreeSet<&Name> = quorum.groups.iter().collect();
    if listed.len() < quorum.groups.len() {
        let message = format!("rule `{name}` names a group twice in its quorum");
        findings.push(Finding::warning(place("quorum"), RuleId::Quorum, message, "name each group once"));
    }
}

/// A key that a person may change must be one of some tool that the rule's gates are about.
fn overridable(
    name: &Name,
    rule: &ApprovalRule,
    policies: &[SourcePolicy],
    catalogue: &Catalogue,
    text: &str,
    findings: &mut Vec<Finding>,
) {
    let gates: Vec<&SourcePolicy> = policies.iter().filter(|p| rule_of(p) == Some(name.as_str())).collect();
    let tools: Vec<&Tool> =
        catalogue.tools.iter().filter(|tool| gates.iter().any(|gate| may_be_about(gate, tool))).collect();
    for pointer in &rule.overridable {
        if !tools.iter().any(|tool| has(&tool.input, pointer)) {
            let message = format!("rule `{name}` lets people change `{pointer}`, which is no key of any tool it gates");
            let next = "correct the json pointer, or leave it out";
            findings.push(Finding::warning(place(text, name, pointer), RuleId::Overridable, message, next));
        }
    }
}

/// Whether a gate's action scope may match a tool: it names the tool's action, a group, or none.
fn may_be_about(gate: &SourcePolicy, tool: &Tool) -> bool {
    let operation = if tool.runner.is_some() { "dispatch" } else { "callTool" };
    acts_in(gate, &[operation, &format!("{operation}:{}", tool.name)])
}

/// Whether some permit is about one of these actions.
fn permitted(policies: &[SourcePolicy], actions: &[&str]) -> bool {
    policies.iter().any(|policy| policy.effect() == Effect::Permit && acts_in(policy, actions))
}

/// Whether a policy's action scope names one of these, or none at all.
fn acts_in(policy: &SourcePolicy, actions: &[&str]) -> bool {
    let Some(scope) = policy.est.get("action") else { return true };
    let ids = |v: &Value| match v.get("entities") {
        Some(Value::Array(list)) => list.clone(),
        _ => v.get("entity").cloned().into_iter().collect(),
    };
    let named: Vec<Value> = ids(scope);
    named.is_empty() || named.iter().filter_map(|entity| entity.get("id")?.as_str()).any(|id| actions.contains(&id))
}

/// Whether a JSON Schema has a place for what a pointer names. A part that says nothing of its members may hold any.
fn has(schema: &Value, pointer: &str) -> bool {
    let mut here = schema;
    for key in pointer.split('/').skip(1) {
        let key = key.replace("~1", "/").replace("~0", "~");
        let Some(Value::Object(members)) = here.get("properties") else {
            return here.get("type").and_then(Value::as_str).is_none_or(|kind| kind == "object" || kind == "array")
                && here.get("additionalProperties") != Some(&Value::Bool(false));
        };
        match members.get(&key) {
            Some(next) => here = next,
            None => return false,
        }
    }
    true
}
