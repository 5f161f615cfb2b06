//! Tests of the imported bundle: what Cedar says to the source's own policies, asked again of the bundle.
//!
//! Inputs are made from the values that the policies compare with and their neighbours. Where something could not be
//! carried, the bundle is stricter than the source, and only what the source denies is asked. Absent: the policies
//! themselves. Read next: `super`.

use std::collections::BTreeSet;
use std::str::FromStr;

use cedar_policy::{
    Authorizer, Context, Decision, Entities, Entity, EntityId, EntityTypeName, EntityUid, PolicySet, Request,
    RestrictedExpression,
};
use countersign_policy_bundle::Name;
use serde_json::{Value, json};

use super::tools::{Field, Inputs, Kind};
use super::{Caller, Found, GATEWAY, PRINCIPALS, Whole, named_actions, tool_name};
use crate::Options;
use crate::bundle::{Parts, with};
use crate::report::Fate;

/// The type of the source's actions.
const ACTION: &str = "AgentCore::Action";
/// How many inputs of one tool are tried.
const MOST: usize = 128;

/// Who is asked about: who they are here, and the claims that they have there.
struct Asked {
    entity: String,
    tags: Vec<(&'static str, String)>,
}

pub(super) fn write(found: &[Found], whole: &Whole<'_>, parts: &mut Parts) {
    let Whole { prefix, options, inputs, .. } = *whole;
    let mut source = PolicySet::new();
    for (index, policy) in found.iter().enumerate() {
        let id = cedar_policy::PolicyId::new(index.to_string());
        if source.add(policy.policy.new_id(id)).is_err() {
            return;
        }
    }
    let stricter = parts.report.of(Fate::Stricter).next().is_some();
    let asked = asked(options, parts);
    let mut tools: BTreeSet<(String, Name)> = BTreeSet::new();
    for action in found.iter().flat_map(named_actions) {
        tools.extend(tool_name(&action, prefix).map(|tool| (action, tool)));
    }
    for (action, tool) in tools {
        let mut seen: BTreeSet<(String, BTreeSet<String>)> = BTreeSet::new();
        for input in tries(inputs, &tool) {
            for asked in &asked {
                let Some((allowed, because)) = decided(&source, asked, &action, (found, whole), &input) else {
                    continue;
                };
                if (stricter && allowed) || !seen.insert((asked.entity.clone(), because)) || seen.len() > 12 {
                    continue;
                }
                let decision = if allowed { "allow" } else { "deny" };
                let name = format!("{} and {tool}, case {}", asked.entity, seen.len());
                parts.ask_tool(name, &tool, &input, json!({"decision": decision}));
                if let Some(Value::Object(ask)) = parts.cases.last_mut().map(|case| &mut case.ask) {
                    ask.insert("asked".to_owned(), json!(asked.entity));
                    if options.caller == Caller::Person {
                        ask.insert("as_delegator".to_owned(), json!(true));
                        ask.insert("delegated".to_owned(), json!(true));
                    }
                }
            }
        }
        if options.caller == Caller::Person
            && let Some(input) = tries(inputs, &tool).into_iter().next()
            && parts.policies.iter().all(|policy| policy.permit || policy.principal.contains("Person"))
        {
            parts.ask_tool(format!("the agent's own part in {tool}"), &tool, &input, json!({"decision": "allow"}));
            if let Some(Value::Object(ask)) = parts.cases.last_mut().map(|case| &mut case.ask) {
                ask.insert("delegated".to_owned(), json!(true));
            }
        }
    }
}

/// For agents one with every scope; for persons one with each role, and one with none.
fn asked(options: &Options, parts: &mut Parts) -> Vec<Asked> {
    match options.caller {
        Caller::Agent => {
            let scopes: Vec<&str> = parts.scopes.iter().map(Name::as_str).collect();
            let tags = if scopes.is_empty() { Vec::new() } else { vec![("scope", scopes.join(" "))] };
            vec![Asked { entity: "Agent::worker".to_owned(), tags }]
        }
        Caller::Person => {
            let mut asked = vec![Asked { entity: "Person::answers".to_owned(), tags: Vec::new() }];
            for (index, role) in parts.roles.keys().enumerate() {
                let entity = format!("Person::holder-{}", index + 1);
                parts.entities.push(json!({"entity": entity, "attrs": {"active": true}, "roles": [role]}));
                let claims = ["role", "roles", "group", "groups", "cognito:groups"];
                asked.push(Asked { entity, tags: claims.map(|claim| (claim, role.to_string())).to_vec() });
            }
            asked
        }
    }
}

/// Inputs of a tool, from the values that its fields are compared with.
fn tries(inputs: &Inputs, tool: &Name) -> Vec<Value> {
    let mut found = vec![json!({})];
    for (path, field) in inputs.fields(tool) {
        if inputs.fields(tool).any(|(other, _)| other.len() > path.len() && other.starts_with(path)) {
            continue;
        }
        let values = values(field);
        found = found
            .iter()
            .flat_map(|input| values.iter().map(|value| with(input, path, value)).collect::<Vec<_>>())
            .take(MOST)
            .collect();
    }
    found
}

fn values(field: &Field) -> Vec<Value> {
    let mut values = Vec::new();
    for literal in &field.literals {
        match field.kind {
            Some(Kind::Integer) => {
                let number = literal.parse::<i64>().unwrap_or(0);
                values.extend([number, number.saturating_add(1), number.saturating_sub(1)].map(|n| json!(n)));
            }
            Some(Kind::Number) => {
                let number = literal.parse::<f64>().unwrap_or(0.0);
                values.extend([number, number + 1.0, number - 1.0].map(|n| json!(n)));
            }
            Some(Kind::Texts) => values.extend([json!([literal]), json!([])]),
            Some(Kind::Integers) => values.push(json!([literal.parse::<i64>().unwrap_or(0)])),
            Some(Kind::Text) => values.push(json!(literal)),
            _ => {}
        }
    }
    match field.kind {
        Some(Kind::Bool) => values.extend([json!(true), json!(false)]),
        Some(Kind::Integer | Kind::Number) if values.is_empty() => values.push(json!(1)),
        Some(Kind::Text | Kind::Untold) | None => values.push(json!("other")),
        Some(Kind::Texts | Kind::Integers) if values.is_empty() => values.push(json!([])),
        _ => {}
    }
    values.dedup();
    values
}

/// What the source's policies say, and which of them.
fn decided(
    source: &PolicySet,
    asked: &Asked,
    action: &str,
    (found, whole): (&[Found], &Whole<'_>),
    input: &Value,
) -> Option<(bool, BTreeSet<String>)> {
    let uid = |ty: &str, id: &str| {
        Some(EntityUid::from_type_name_and_id(EntityTypeName::from_str(ty).ok()?, EntityId::new(id)))
    };
    let gateway = found.iter().find_map(|policy| super::gateway_of(&policy.json)).unwrap_or("gateway");
    // The one type that the source asks for, as which every caller is read.
    let kind = whole.kinds.first().map(String::as_str).or(PRINCIPALS.first().copied())?;
    let principal = uid(kind, asked.entity.split("::").nth(1)?)?;
    let tags =
        asked.tags.iter().map(|(key, value)| ((*key).to_owned(), RestrictedExpression::new_string(value.clone())));
    let attrs = [("id".to_owned(), RestrictedExpression::new_string(principal.id().unescaped().to_owned()))];
    let entity = Entity::new_with_tags(principal.clone(), attrs, [], tags).ok()?;
    let groups = super::GROUPS.iter().filter_map(|group| uid(ACTION, group)).collect();
    let tool = Entity::new_no_attrs(uid(ACTION, action)?, groups);
    let entities = Entities::from_entities([entity, tool], None).ok()?;
    let typed = decimals(input);
    let context = Context::from_json_value(json!({"input": typed}), None).ok()?;
    let request = Request::new(principal, uid(ACTION, action)?, uid(GATEWAY, gateway)?, context, None).ok()?;
    let response = Authorizer::new().is_authorized(&request, source, &entities);
    let because = response.diagnostics().reason().map(ToString::to_string).collect();
    Some((response.decision() == Decision::Allow, because))
}

/// A JSON number that is no integer is a decimal there.
fn decimals(input: &Value) -> Value {
    match input {
        Value::Object(members) => members.iter().map(|(key, value)| (key.clone(), decimals(value))).collect(),
        Value::Number(number) if number.is_f64() => {
            let text = number.to_string();
            let text = if text.contains('.') { text } else { format!("{text}.0") };
            json!({"__extn": {"fn": "decimal", "arg": text}})
        }
        other => other.clone(),
    }
}
