//! What is asked of policies beyond Cedar's types: gates in their one safe shape, facts read only where they may be,
//! nothing that can fail open or never applies.
//!
//! Works on Cedar's JSON form of each policy, so no spelling escapes it. Absent: types (`check` asks Cedar), meaning
//! (tests ask that). Read next: `check`.

pub(crate) mod approval;

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy::Effect;
use countersign_gateway_model::{Name, OrgId};
use countersign_policy_decide::entity_literals;
use serde_json::{Value, json};

use crate::bundle::Bundle;
use crate::finding::{Finding, Place, RuleId};
use crate::manifest::{Manifest, Shadow, Shadowed};
use crate::refused::element;
use crate::source::SourcePolicy;

/// The annotation that routes a gate to its rule.
pub(crate) const REQUIRES: &str = "requires_approval";
/// The annotation that makes a forbid wait for a transform.
pub(crate) const TRANSFORM: &str = "transform";
/// Workflows whose names begin with this are the gateway's own: nobody registers one, and none is in shadow.
pub const RESERVED_WORKFLOWS: &str = "countersign.";

/// The annotation that keeps a policy out of shadow.
pub(crate) const SEVERITY: &str = "severity";

/// How many broad policies the others are compared with; what is beyond is not seen, which is what lint may do.
const MAX_BROAD: usize = 200;

/// Annotations that mean something, to the program or to people.
const KNOWN: [&str; 8] = ["id", REQUIRES, TRANSFORM, SEVERITY, "agent_message", "title", "doc", "control"];

/// How long the text that an agent is shown may be.
const MAX_AGENT_MESSAGE: usize = 200;

/// Facts of the context that only the engine's counting may fill, and where policies may read them.
const COUNTED: [(&str, bool); 4] = [("satisfied", false), ("applied", false), ("overridden", true), ("granted", true)];

/// The rule of a policy that carries the gate annotation.
pub(crate) fn rule_of(policy: &SourcePolicy) -> Option<&str> {
    policy.annotation(REQUIRES)
}

/// All lint rules over all policies. `reserved`: the counters that some tool takes from when it is allowed.
pub(crate) fn lint(
    bundle: &Bundle,
    policies: &[SourcePolicy],
    rules: Option<&BTreeSet<Name>>,
    reserved: &BTreeSet<Name>,
) -> Vec<Finding> {
    let Manifest { organization, shadow, .. } = bundle.manifest();
    let mut findings = Vec::new();
    unique_ids(policies, &mut findings);
    for policy in policies {
        annotations(policy, &mut findings);
        gate(policy, &mut findings);
        facts(policy, &mut findings);
        foreign(*organization, policy, &mut findings);
        can_error(policy, &mut findings);
        advisory(policy, reserved, &mut findings);
    }
    if let Some(rules) = rules {
        rules_used(policies, rules, |pointer| element(bundle, "rules.json", pointer), &mut findings);
    }
    twice(policies, &mut findings);
    covered(policies, &mut findings);
    redundant(policies, &mut findings);
    let place = |pointer: &str| element(bundle, crate::MANIFEST_FILE, pointer);
    shadowed(policies, shadow, place, &mut findings);
    findings
}

fn unique_ids(policies: &[SourcePolicy], findings: &mut Vec<Finding>) {
    let mut first: BTreeMap<&Name, &SourcePolicy> = BTreeMap::new();
    for policy in policies {
        if let Some(other) = first.get(&policy.id) {
            let message = format!("the id is taken by the policy at {}", other.place());
            let finding = Finding::error(policy.place(), RuleId::PolicyId, message, "give each policy its own `@id`");
            findings.push(finding.of(&policy.id));
        } else {
            first.insert(&policy.id, policy);
        }
    }
}

fn annotations(policy: &SourcePolicy, findings: &mut Vec<Finding>) {
    for (key, value) in policy.policy.annotations() {
        let place = || policy.place_of(key);
        let problem = match key {
            SEVERITY if value != "hard" => Some((
                format!("`@severity(\"{}\")` means nothing", value.escape_debug()),
                "write `hard`, or leave it out",
            )),
            SEVERITY if policy.effect() == Effect::Permit => {
                Some(("a permit has no severity".to_owned(), "put it on the forbid that must always hold"))
            }
            "agent_message" if value.is_empty() || value.chars().count() > MAX_AGENT_MESSAGE => Some((
                format!("the message has {} characters", value.chars().count()),
                "agents are told 1 to 200 characters; shorten it",
            )),
            "agent_message" if value.chars().any(char::is_control) => {
                Some(("the message has control characters".to_owned(), "write one plain line"))
            }
            "agent_message" if policy.effect() == Effect::Permit => {
                Some(("a permit refuses nothing, so its message is never shown".to_owned(), "put it on a forbid"))
            }
            _ => None,
        };
        if let Some((message, next)) = problem {
            findings.push(Finding::error(place(), RuleId::Annotation, message, next).of(&policy.id));
        } else if !KNOWN.contains(&key) && !key.starts_with("x_") {
            let message = format!("annotation `@{key}` means nothing here");
            let next = format!("known are {}; begin your own with `x_`", KNOWN.map(|k| format!("@{k}")).join(" "));
            findings.push(Finding::warning(place(), RuleId::Annotation, message, next).of(&policy.id));
        }
    }
}

/// `context.<fact>` in Cedar's JSON.
fn context_attr(fact: &str) -> Value {
    json!({".": {"left": {"Var": "context"}, "attr": fact}})
}

fn clauses<'p>(policy: &'p SourcePolicy, kind: &str) -> Vec<&'p Value> {
    let conditions = policy.est.get("conditions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let of_kind = conditions.iter().filter(|c| c.get("kind").and_then(Value::as_str) == Some(kind));
    of_kind.filter_map(|c| c.get("body")).collect()
}

/// The gate clause that an annotation asks for: what the one `unless` must be, word for word.
fn gate_clause(annotation: &str, value: &str) -> Value {
    let (fact, member) = if annotation == REQUIRES {
        ("satisfied", json!({"Value": {"__entity": {"type": "Countersign::ApprovalRule", "id": value}}}))
    } else {
        ("applied", json!({"Value": value}))
    };
    json!({"contains": {"left": context_attr(fact), "right": member}})
}

/// Whether the policy is a gate in the one shape, and for which annotation.
pub(crate) fn gate_of(policy: &SourcePolicy) -> Option<&'static str> {
    [REQUIRES, TRANSFORM].into_iter().find(|annotation| {
        let wanted = policy.annotation(annotation).map(|value| gate_clause(annotation, value));
        let unless = clauses(policy, "unless");
        policy.effect() == Effect::Forbid && unless.len() == 1 && wanted.as_ref() == unless.first().copied()
    })
}

fn gate(policy: &SourcePolicy, findings: &mut Vec<Finding>) {
    let (rule, transform) = (policy.annotation(REQUIRES), policy.annotation(TRANSFORM));
    for (annotation, value) in [(REQUIRES, rule), (TRANSFORM, transform)] {
        let Some(value) = value else { continue };
        let place = policy.place_of(annotation);
        if policy.effect() == Effect::Permit {
            findings.push(
                Finding::error(
                    place,
                    RuleId::GateOnPermit,
                    format!("`@{annotation}` stands on a permit, which any second permit bypasses"),
                    "make it a `forbid … unless { context.satisfied.contains(…) }`",
                )
                .of(&policy.id),
            );
        } else if let Err(error) = Name::new(value) {
            let next = "name a rule of `rules.json`";
            findings.push(Finding::error(place, RuleId::GateShape, error.to_string(), next).of(&policy.id));
        } else if rule.is_some() && transform.is_some() {
            let message = "one policy cannot be the gate of a rule and of a transform";
            findings.push(Finding::error(place, RuleId::GateShape, message, "write two policies").of(&policy.id));
            return;
        } else if gate_of(policy) != Some(annotation) {
            let clause = if annotation == REQUIRES {
                format!("context.satisfied.contains(Countersign::ApprovalRule::\"{value}\")")
            } else {
                format!("context.applied.contains(\"{value}\")")
            };
            findings.push(
                Finding::error(
                    place,
                    RuleId::GateShape,
                    format!("`@{annotation}(\"{value}\")` routes, but the policy does not enforce it"),
                    format!("give it exactly one `unless` clause, which is exactly `{{ {clause} }}`"),
                )
                .of(&policy.id),
            );
        }
    }
}

/// Calls `visit` with each node of an expression and whether it is the left side of an attribute access.
fn walk<'v>(node: &'v Value, under_access: bool, visit: &mut impl FnMut(&'v Value, bool)) {
    visit(node, under_access);
    match node {
        Value::Object(map) => {
            for (key, child) in map {
                // A literal's content is data: an entity id or string there names nothing of the context.
                if key == "Value" {
                    continue;
                }
                // The author chose these keys: `Value` or `.` among them is a name, and what it holds is read.
                if let ("Record", Value::Object(members)) = (key.as_str(), child) {
                    members.values().for_each(|member| walk(member, false, visit));
                } else if key == "." || key == "has" {
                    child.get("left").into_iter().for_each(|left| walk(left, true, visit));
                } else {
                    walk(child, false, visit);
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| walk(item, false, visit)),
        _ => {}
    }
}

/// The attribute names that a node reads: of `.` one, of `has` one or a path.
fn attributes(node: &Value) -> Vec<&str> {
    [node.get("."), node.get("has")]
        .into_iter()
        .flatten()
        .filter_map(|access| access.get("attr"))
        .flat_map(|attr| match attr {
            Value::Array(path) => path.iter().filter_map(Value::as_str).collect(),
            other => other.as_str().into_iter().collect::<Vec<_>>(),
        })
        .collect()
}

fn facts(policy: &SourcePolicy, findings: &mut Vec<Finding>) {
    let gate = gate_of(policy);
    // In a gate the one `unless` was compared whole; everything else is walked.
    let mut bodies = clauses(policy, "when");
    if gate.is_none() {
        bodies.extend(clauses(policy, "unless"));
    }
    let mut read: BTreeSet<&str> = BTreeSet::new();
    let mut whole = false;
    for body in bodies {
        walk(body, false, &mut |node, under_access| {
            read.extend(attributes(node));
            whole |= !under_access && node.get("Var").and_then(Value::as_str) == Some("context");
        });
    }
    for (fact, in_forbids) in COUNTED {
        if !read.contains(fact) || (in_forbids && policy.effect() == Effect::Forbid) {
            continue;
        }
        let (message, next) = if in_forbids {
            (
                format!("`{fact}` is read in a permit: an approval must never grant"),
                "read it in a forbid only".to_owned(),
            )
        } else {
            let next = "gates read it, in the shape `forbid … unless { context.satisfied.contains(…) }` with \
                        `@requires_approval`; nothing else may";
            (format!("`{fact}` is read outside the gate shape"), next.to_owned())
        };
        findings.push(Finding::error(policy.place_of(fact), RuleId::ReservedFact, message, next).of(&policy.id));
    }
    if whole {
        findings.push(
            Finding::error(
                policy.place_of("context"),
                RuleId::WholeContext,
                "the context as a whole is a value here, which hides what the policy reads from it",
                "name the attributes: `context.now`, `context.input.amount`",
            )
            .of(&policy.id),
        );
    }
}

/// An entity that can never be asked about: a forbid that names it fails open, and a permit or an invariant says nothing.
pub(crate) fn foreign(organization: OrgId, policy: &SourcePolicy, findings: &mut Vec<Finding>) {
    for literal in entity_literals(&policy.est) {
        if let Some((message, next)) = literal.misnamed(organization) {
            let place = policy.place_of_entity(&literal.id);
            findings.push(Finding::error(place, RuleId::ForeignEntity, message, next).of(&policy.id));
        }
    }
}

/// Operators that fail for some values of the right type (overflow of integers, datetimes, durations), and how the same
/// is said without them. Cedar's types leave no other way for a policy to fail over a closed slice: attributes that may
/// be missing are asked for with `has`, constructors take literals.
const FALLIBLE: [(&str, &str, &str); 7] = [
    (
        "+",
        "integer addition",
        "compare without it (`a > 9` for `a + 1 > 10`), or bound it first: `a < 1000 && a + 1 > 10`",
    ),
    ("-", "integer subtraction", "compare without it (`a > b` for `a - b > 0`), or bound both sides first"),
    (
        "*",
        "integer multiplication",
        "compare with the product written out, or bound it first: `a < 1000 && a * 2 > 10`",
    ),
    ("neg", "integer negation", "compare with a negative literal: `a < -3` for `-a > 3`"),
    (
        "offset",
        "`offset` of a datetime",
        "compare two datetimes of the context, or bound the datetime by a literal first",
    ),
    (
        "durationSince",
        "`durationSince` of a datetime",
        "compare the datetimes, or let `ages.json` say how old a fact may be",
    ),
    ("toDate", "`toDate` of a datetime", "compare with `datetime(\"2030-01-01\")` and the like"),
];

fn can_error(policy: &SourcePolicy, findings: &mut Vec<Finding>) {
    if policy.effect() == Effect::Permit {
        return;
    }
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for body in [clauses(policy, "when"), clauses(policy, "unless")].concat() {
        walk(body, false, &mut |node, _| {
            for (operator, name, next) in FALLIBLE {
                if node.get(operator).is_some() && seen.insert(operator) {
                    let word = if operator == "neg" { "-" } else { operator };
                    findings.push(
                        Finding::warning(
                            policy.place_of(word),
                            RuleId::ForbidCanError,
                            format!("{name} can overflow; the forbid then denies whatever it is asked about"),
                            next,
                        )
                        .of(&policy.id),
                    );
                }
            }
        });
    }
}

/// What is put before the name of a counter beyond its limit, to make a fact of it.
const OVER: &str = "over:";

/// The counters that a node reads: `context.counters.x`, `context.after.x`, `context.facts.contains("over:x")`.
fn counters_of(node: &Value) -> Vec<&str> {
    let access = node.get(".").or_else(|| node.get("has"));
    let left = access.and_then(|access| access.get("left"));
    if left.is_some_and(|left| *left == context_attr("counters") || *left == context_attr("after")) {
        return attributes(node);
    }
    let contains = ["contains", "containsAny", "containsAll"].into_iter().find_map(|operator| node.get(operator));
    let Some(contains) = contains.filter(|c| c.get("left") == Some(&context_attr("facts"))) else { return Vec::new() };
    let mut found = Vec::new();
    // What is looked for is a text, or a set that names some.
    let mut queue = vec![contains.get("right")];
    while let Some(next) = queue.pop() {
        match next {
            Some(Value::String(text)) => found.extend(text.strip_prefix(OVER)),
            Some(Value::Array(items)) => queue.extend(items.iter().map(Some)),
            Some(Value::Object(members)) => queue.extend(members.values().map(Some)),
            _ => {}
        }
    }
    found
}

/// A counter that no tool reserves is read when the question is asked, and nothing of it is held until the work is done.
fn advisory(policy: &SourcePolicy, reserved: &BTreeSet<Name>, findings: &mut Vec<Finding>) {
    if policy.effect() == Effect::Permit {
        return;
    }
    let mut read: BTreeSet<&str> = BTreeSet::new();
    for body in [clauses(policy, "when"), clauses(policy, "unless")].concat() {
        walk(body, false, &mut |node, _| read.extend(counters_of(node)));
    }
    for counter in read.into_iter().filter(|counter| !reserved.iter().any(|name| name.as_str() == *counter)) {
        let message =
            format!("it reads counter `{counter}`, which nothing reserves: two at the same moment may both pass");
        let next = "give the counter a `reserve` in `counters.json`, or let a person decide near the limit";
        let place = policy.place_of(counter);
        findings.push(Finding::warning(place, RuleId::AdvisoryCounter, message, next).of(&policy.id));
    }
}

fn rules_used(
    policies: &[SourcePolicy],
    rules: &BTreeSet<Name>,
    place: impl Fn(&str) -> Place,
    findings: &mut Vec<Finding>,
) {
    let used: BTreeMap<&str, &SourcePolicy> =
        policies.iter().filter_map(|p| rule_of(p).map(|rule| (rule, p))).collect();
    for (rule, policy) in &used {
        if !rules.iter().any(|r| r.as_str() == *rule) {
            findings.push(
                Finding::error(
                    policy.place_of(REQUIRES),
                    RuleId::RulesUsed,
                    format!("rule `{rule}` is not in `rules.json`"),
                    "add it there with who may approve, or name another rule",
                )
                .of(&policy.id),
            );
        }
    }
    for rule in rules.iter().filter(|r| !used.contains_key(r.as_str())) {
        findings.push(Finding::error(
            place(&format!("/rules/{}", rule.as_str().replace('/', "~1"))),
            RuleId::RulesUsed,
            format!("no policy asks for rule `{rule}`"),
            "remove it, or write its gate",
        ));
    }
}

/// Everything that decides, without id and words for people.
fn meaning(policy: &SourcePolicy) -> String {
    let part = |key: &str| policy.est.get(key).map(Value::to_string).unwrap_or_default();
    ["effect", "principal", "action", "resource", "conditions"].map(part).join("\n")
}

fn twice(policies: &[SourcePolicy], findings: &mut Vec<Finding>) {
    let mut first: BTreeMap<String, &SourcePolicy> = BTreeMap::new();
    for policy in policies {
        match first.entry(meaning(policy)) {
            std::collections::btree_map::Entry::Vacant(slot) => drop(slot.insert(policy)),
            std::collections::btree_map::Entry::Occupied(other) => {
                let message = format!("it says the same as `{}` at {}", other.get().id, other.get().place());
                let finding = Finding::warning(policy.place(), RuleId::Duplicate, message, "remove one of them");
                findings.push(finding.of(&policy.id));
            }
        }
    }
}

fn text<'v>(v: &'v Value, key: &str) -> Option<&'v str> {
    v.get(key).and_then(Value::as_str)
}

/// The entity type of one position of a head.
fn entity_type(v: &Value) -> Option<&str> {
    text(v, "entity_type").or_else(|| v.get("entity").and_then(|e| e.get("type")).and_then(Value::as_str))
}

/// The entities that one position of a head names.
fn members(v: &Value) -> Vec<&Value> {
    match v.get("entities") {
        Some(Value::Array(list)) => list.iter().collect(),
        _ => v.get("entity").into_iter().collect(),
    }
}

/// Whether whatever `inner` matches in one scope position, `outer` matches, too. Syntactic: "no" may mean "not seen".
pub(crate) fn covers(outer: Option<&Value>, inner: Option<&Value>) -> bool {
    let (Some(outer), Some(inner)) = (outer, inner) else { return false };
    match text(outer, "op") {
        Some("All") => true,
        Some("is") if outer.get("in").is_none() => match text(inner, "op") {
            Some("is" | "==") => entity_type(inner) == entity_type(outer),
            _ => false,
        },
        Some(_) => {
            let mine = members(outer);
            outer == inner
                || (text(outer, "op") == Some("in")
                    && outer.get("in").is_none()
                    && matches!(text(inner, "op"), Some("in" | "=="))
                    && inner.get("in").is_none()
                    && !members(inner).is_empty()
                    && members(inner).iter().all(|m| mine.contains(m)))
        }
        None => false,
    }
}

fn covered(policies: &[SourcePolicy], findings: &mut Vec<Finding>) {
    let bare = |p: &&SourcePolicy| p.effect() == Effect::Forbid && !p.policy.has_non_scope_constraint();
    let walls: Vec<&SourcePolicy> = policies.iter().filter(bare).collect();
    for permit in policies.iter().filter(|p| p.effect() == Effect::Permit) {
        let scope = |wall: &SourcePolicy, key: &str| covers(wall.est.get(key), permit.est.get(key));
        let wall = walls.iter().find(|w| ["principal", "action", "resource"].iter().all(|key| scope(w, key)));
        if let Some(wall) = wall {
            let message = format!("forbid `{}` at {} denies everything that it permits", wall.id, wall.place());
            let next = "remove the permit, or narrow the forbid";
            findings.push(Finding::warning(permit.place(), RuleId::Unreachable, message, next).of(&permit.id));
        }
    }
}

/// What matters of a policy when it is compared with all others.
struct Compared<'p> {
    policy: &'p SourcePolicy,
    conditions: Vec<&'p Value>,
    rule: Option<&'p str>,
    meaning: String,
}

/// A policy of the same effect that is wider in its head and asks for nothing more makes this one superfluous; so does a
/// plain forbid a gate, whose approval then never helps. Syntactic, like everything here.
fn redundant(policies: &[SourcePolicy], findings: &mut Vec<Finding>) {
    let one = |policy: &SourcePolicy| {
        let op = |key: &str| policy.est.get(key).and_then(|scope| scope.get("op")).and_then(Value::as_str);
        op("principal") == Some("==") || op("resource") == Some("==")
    };
    let compared =
        |policy| Compared { policy, conditions: conditions(policy), rule: rule_of(policy), meaning: meaning(policy) };
    let all = || policies.iter().filter(|policy| policy.annotation(TRANSFORM).is_none());
    let broad: Vec<Compared<'_>> = all().filter(|policy| !one(policy)).take(MAX_BROAD).map(compared).collect();
    for inner in all().map(compared) {
        // What tells most of them apart at once is asked first.
        let wider = broad.iter().find(|outer| {
            outer.policy.effect() == inner.policy.effect()
                && outer.conditions.len() <= inner.conditions.len()
                && (outer.rule.is_none() || outer.rule == inner.rule)
                && ["action", "principal", "resource"]
                    .iter()
                    .all(|key| covers(outer.policy.est.get(*key), inner.policy.est.get(*key)))
                && outer.conditions.iter().all(|clause| inner.conditions.contains(clause))
                && outer.policy.id != inner.policy.id
                // Of two that say the same, the duplicate is named.
                && outer.meaning != inner.meaning
        });
        let Some(outer) = wider else { continue };
        let (wall, place) = (&outer.policy.id, outer.policy.place());
        let message = match (outer.rule, inner.rule) {
            (None, Some(rule)) => {
                format!("forbid `{wall}` at {place} denies all of it for good, so rule `{rule}` never helps")
            }
            _ => format!("`{wall}` at {place} says all of it already"),
        };
        let next = "remove it, or narrow the wider one";
        let finding = Finding::warning(inner.policy.place(), RuleId::Redundant, message, next);
        findings.push(finding.of(&inner.policy.id));
    }
}

/// Every condition clause, kind and body; without the clause that makes a gate one.
fn conditions(policy: &SourcePolicy) -> Vec<&Value> {
    let all = policy.est.get("conditions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let gate = gate_of(policy).is_some();
    all.iter().filter(|c| !gate || c.get("kind").and_then(Value::as_str) != Some("unless")).collect()
}

fn shadowed(policies: &[SourcePolicy], shadow: &Shadow, place: impl Fn(&str) -> Place, findings: &mut Vec<Finding>) {
    for (number, Shadowed { id, .. }) in shadow.policies.iter().enumerate() {
        let place = || place(&format!("/shadow/policies/{number}/id"));
        match policies.iter().find(|p| p.id == *id) {
            None => findings.push(Finding::error(
                place(),
                RuleId::Shadow,
                format!("`shadow.policies` names `{id}`, which is no policy of this bundle"),
                "correct the id, or remove it",
            )),
            Some(policy) if policy.annotation(SEVERITY).is_some() => findings.push(
                Finding::error(
                    place(),
                    RuleId::Shadow,
                    format!("`{id}` is `@severity(\"hard\")` and is never in shadow"),
                    "remove it from `shadow.policies`",
                )
                .of(id),
            ),
            Some(_) => {}
        }
    }
    for (number, Shadowed { id, .. }) in shadow.workflows.iter().enumerate() {
        let place = || place(&format!("/shadow/workflows/{number}/id"));
        if id.as_str().starts_with(RESERVED_WORKFLOWS) {
            findings.push(Finding::error(
                place(),
                RuleId::Shadow,
                format!("`shadow.workflows` names `{id}`, which is the gateway's own and is never in shadow"),
                "remove it from `shadow.workflows`",
            ));
        }
    }
}

#[cfg(test)]
mod tests;
