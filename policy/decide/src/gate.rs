//! The shape of a gate, and where a policy may read what people decided.
//!
//! A gate is a `forbid` with `@requires_approval("x")` whose only `unless` is
//! `context.satisfied.contains(Countersign::ApprovalRule::"x")`. The annotation routes, the `unless` enforces: if either
//! could stand without the other, an approval would be asked for and not needed, or needed and never asked for.
//! `satisfied` is read nowhere else; `overridden` and `granted` in forbids only, so that no approval becomes a permit.
//! A forbid with `@transform("x")` has the same shape over `context.applied.contains("x")`.
//! Absent: evaluation. Read next: `decide`.

use std::collections::BTreeSet;

use cedar_policy::{Effect, Policy};
use countersign_gateway_model::Name;
use serde_json::Value;

/// What lifts a forbid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lift {
    /// An approval rule.
    pub(crate) rule: Option<Name>,
    /// A transform of the input.
    pub(crate) transform: Option<Name>,
}

/// The names that annotations may name.
pub(crate) struct Known<'k> {
    pub(crate) rules: &'k BTreeSet<Name>,
    pub(crate) transforms: &'k BTreeSet<Name>,
}

/// The value of an annotation. Cedar's own look-up parses the name each time, at the price of a small policy.
pub fn annotation<'p>(policy: &'p Policy, name: &str) -> Option<&'p str> {
    policy.annotations().find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// Checks one policy, with its JSON form; gives what lifts it. The error says what is wrong and what to do.
pub(crate) fn check(policy: &Policy, json: &Value, known: &Known<'_>) -> Result<Lift, String> {
    let conditions = json.get("conditions").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let forbids = policy.effect() == Effect::Forbid;
    let rule = match annotation(policy, "requires_approval") {
        None => None,
        Some(_) if !forbids => {
            return Err(
                "`@requires_approval` stands on a permit, which another permit bypasses; gate with a forbid".to_owned()
            );
        }
        Some(text) => {
            let rule = Name::new(text).map_err(|e| e.to_string())?;
            if !known.rules.contains(&rule) {
                return Err(format!("`@requires_approval(\"{rule}\")` names no rule of `rules.json`; add the rule"));
            }
            Some(rule)
        }
    };
    let transform = match annotation(policy, "transform") {
        None => None,
        Some(_) if !forbids => {
            return Err("`@transform` stands on a permit, which another permit bypasses; use a forbid".to_owned());
        }
        Some(_) if rule.is_some() => {
            return Err("`@transform` and `@requires_approval` stand on one policy; write two".to_owned());
        }
        Some(text) => {
            let transform = Name::new(text).map_err(|e| e.to_string())?;
            if !known.transforms.contains(&transform) {
                return Err(format!(
                    "`@transform(\"{transform}\")` names no transform of `masks.json` that the manifest orders; add it to both"
                ));
            }
            Some(transform)
        }
    };
    let lift = rule.as_ref().map(lifted_by_rule).or_else(|| transform.as_ref().map(lifted_by_transform));
    let mut lifted = 0_usize;
    for condition in conditions {
        let body = condition.get("body").unwrap_or(&Value::Null);
        if condition.get("kind").and_then(Value::as_str) == Some("unless") && lift.as_ref() == Some(body) {
            lifted += 1;
            continue;
        }
        let reads = reads_of_context(body);
        if reads.contains("satisfied") {
            return Err(
                "`context.satisfied` may stand only as `unless { context.satisfied.contains(ApprovalRule::\"x\") }` of \
                 a forbid with `@requires_approval(\"x\")`"
                    .to_owned(),
            );
        }
        if !forbids && ["overridden", "granted", "applied"].iter().any(|fact| reads.contains(*fact)) {
            return Err(
                "`context.overridden`, `context.granted` and `context.applied` may be read in forbids only".to_owned()
            );
        }
        if reads.contains("") {
            return Err("`context` is used as a whole; name the attribute".to_owned());
        }
    }
    match (&rule, &transform, lifted) {
        (None, None, _) | (_, _, 1) => Ok(Lift { rule, transform }),
        (Some(rule), ..) => Err(format!(
            "a gate has exactly one `unless {{ context.satisfied.contains(Countersign::ApprovalRule::\"{rule}\") }}`"
        )),
        (None, Some(transform), _) => Err(format!(
            "a policy with `@transform` has exactly one `unless {{ context.applied.contains(\"{transform}\") }}`"
        )),
    }
}

/// `context.applied.contains("<transform>")`.
fn lifted_by_transform(transform: &Name) -> Value {
    serde_json::json!({
        "contains": {
            "left": { ".": { "left": { "Var": "context" }, "attr": "applied" } },
            "right": { "Value": transform.as_str() }
        }
    })
}

/// `context.satisfied.contains(Countersign::ApprovalRule::"<rule>")`.
fn lifted_by_rule(rule: &Name) -> Value {
    serde_json::json!({
        "contains": {
            "left": { ".": { "left": { "Var": "context" }, "attr": "satisfied" } },
            "right": { "Value": { "__entity": { "type": "Countersign::ApprovalRule", "id": rule.as_str() } } }
        }
    })
}

/// The attributes of `context` that an expression reads; an empty text for `context` as a whole.
fn reads_of_context(expression: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    walk(expression, &mut found);
    found
}

fn walk(expression: &Value, found: &mut BTreeSet<String>) {
    let is_context = |v: Option<&Value>| v.and_then(|v| v.get("Var")).and_then(Value::as_str) == Some("context");
    match expression {
        Value::Object(map) => {
            for (key, value) in map {
                let access = (key == "." || key == "has") && is_context(value.get("left"));
                if access {
                    match value.get("attr") {
                        Some(Value::String(attr)) => {
                            found.insert(attr.clone());
                        }
                        // `has a.b.c` is a list of names; the first one is the attribute of context.
                        Some(Value::Array(attrs)) => {
                            found.insert(attrs.first().and_then(Value::as_str).unwrap_or("").to_owned());
                        }
                        _ => {
                            found.insert(String::new());
                        }
                    }
                } else if key == "Var" && value.as_str() == Some("context") {
                    found.insert(String::new());
                } else if let ("Record", Value::Object(members)) = (key.as_str(), value) {
                    // The author chose these keys: `Value` or `.` among them is a name, and what it holds is read.
                    members.values().for_each(|member| walk(member, found));
                } else if key != "Value" {
                    walk(value, found);
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| walk(item, found)),
        _ => {}
    }
}
