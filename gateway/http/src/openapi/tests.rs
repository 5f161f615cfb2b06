//! The document keeps its promises: valid in form, the same every time, whole for every operation, true in its
//! examples.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;
use utoipa::PartialSchema;

use super::{OPEN, WITHOUT_ENTRY, WITHOUT_IDEMPOTENCY};

fn document() -> Value {
    serde_json::to_value(crate::document()).unwrap()
}

/// Every operation with its path and method.
fn operations(api: &Value) -> Vec<(String, String, &Value)> {
    let paths = api["paths"].as_object().unwrap().iter();
    let all = paths.flat_map(|(path, item)| {
        let methods = item.as_object().unwrap().iter().filter(|(key, _)| {
            ["get", "post", "put", "patch", "delete", "head", "options", "trace"].contains(&key.as_str())
        });
        methods.map(move |(method, operation)| (path.clone(), method.clone(), operation))
    });
    all.collect()
}

/// Follows a reference, if there is one.
fn resolved<'a>(api: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(reference) => api.pointer(reference.strip_prefix('#').unwrap()).unwrap_or(&Value::Null),
        None => value,
    }
}

fn walk<'a>(value: &'a Value, visit: &mut impl FnMut(&'a Value)) {
    visit(value);
    match value {
        Value::Object(map) => map.values().for_each(|inner| walk(inner, visit)),
        Value::Array(list) => list.iter().for_each(|inner| walk(inner, visit)),
        _ => {}
    }
}

#[track_caller]
fn none(breaches: &[String]) {
    assert!(breaches.is_empty(), "\n  {}", breaches.join("\n  "));
}

#[test]
fn the_document_is_openapi_3_1_and_the_same_every_time() {
    let text = crate::document().to_pretty_json().unwrap();
    assert!(text.contains("\"openapi\": \"3.1.0\""));
    assert_eq!(text, crate::document().to_pretty_json().unwrap());
}

#[test]
fn every_reference_leads_somewhere_and_every_component_is_used() {
    let api = document();
    let (mut breaches, mut used) = (Vec::new(), BTreeSet::new());
    walk(&api, &mut |value| {
        if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
            used.insert(reference.to_owned());
            if resolved(&api, value).is_null() {
                breaches.push(format!("{reference} leads nowhere"));
            }
        }
    });
    for kind in ["schemas", "responses"] {
        for name in api["components"][kind].as_object().unwrap().keys() {
            let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            if !name.chars().all(good) {
                breaches.push(format!("`{name}` is no name of a component"));
            }
            if !used.contains(&format!("#/components/{kind}/{name}")) {
                breaches.push(format!("nothing refers to {kind} `{name}`"));
            }
        }
    }
    none(&breaches);
}

#[test]
fn words_in_answers_may_grow() {
    let api = document();
    let (mut closed, mut texts) = (Vec::new(), 0);
    walk(&api, &mut |value| {
        texts += usize::from(value["type"] == "string");
        // A client that was made of a closed list fails at the first word that is added to it.
        if value.get("enum").is_some_and(Value::is_array) {
            closed.push(value.to_string());
        }
    });
    assert!(texts > 200, "this test no longer finds the texts: {texts}");
    none(&closed);
}

#[test]
fn every_operation_says_what_it_is() {
    let api = document();
    let tags: BTreeSet<_> = api["tags"].as_array().unwrap().iter().map(|tag| tag["name"].as_str().unwrap()).collect();
    let (mut breaches, mut ids) = (Vec::new(), BTreeSet::new());
    for (path, method, operation) in operations(&api) {
        let mut breach = |what: &str| breaches.push(format!("{method} {path}: {what}"));
        match operation["operationId"].as_str() {
            Some(id) if ids.insert(id.to_owned()) => {}
            _ => breach("has no operationId of its own"),
        }
        if operation["summary"].as_str().is_none_or(|text| text.is_empty() || text.ends_with('.')) {
            breach("has no summary, or one that is a sentence");
        }
        match operation["tags"].as_array() {
            Some(list) if list.len() == 1 && tags.contains(list[0].as_str().unwrap()) => {}
            _ => breach("has not one of the tags"),
        }
        let declared: BTreeSet<_> = operation["parameters"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|parameter| parameter["in"] == "path")
            .map(|parameter| parameter["name"].as_str().unwrap())
            .collect();
        let in_path: BTreeSet<_> = path.split('{').skip(1).map(|rest| rest.split('}').next().unwrap()).collect();
        if declared != in_path {
            breach("declares other path parameters than it has");
        }
        for (status, response) in operation["responses"].as_object().unwrap() {
            let response = resolved(&api, response);
            if response["description"].as_str().is_none_or(str::is_empty) {
                breach(&format!("says nothing of status {status}"));
            }
        }
        if !operation["responses"].as_object().unwrap().keys().any(|status| status.starts_with('2')) {
            breach("has no good answer");
        }
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            if parameter["description"].as_str().is_none_or(str::is_empty) {
                breach(&format!("says nothing of parameter `{}`", parameter["name"]));
            }
        }
    }
    none(&breaches);
}

#[test]
fn every_operation_needs_a_credential_or_is_on_the_list() {
    let api = document();
    let mut breaches = Vec::new();
    let mut open: BTreeMap<_, _> = OPEN.iter().copied().collect();
    for (path, method, operation) in operations(&api) {
        let id = operation["operationId"].as_str().unwrap();
        let security = operation["security"].as_array().cloned().unwrap_or_default();
        let needs = security.iter().all(|one| one.get("bearer").is_some()) && !security.is_empty();
        match (needs, open.remove(id)) {
            (false, None) => breaches.push(format!("{method} {path}: is open and not on the list")),
            (true, Some(_)) => breaches.push(format!("{method} {path}: is on the list and not open")),
            (_, Some(reason)) if reason.len() < 20 => breaches.push(format!("{id}: gives no reason")),
            _ => {}
        }
    }
    breaches.extend(open.keys().map(|id| format!("{id}: is on the list and does not exist")));
    none(&breaches);
}

#[test]
fn lists_of_exceptions_name_changing_operations_only() {
    let api = document();
    let changing: BTreeMap<_, _> = operations(&api)
        .into_iter()
        .filter(|(_, method, _)| method != "get")
        .map(|(_, _, operation)| (operation["operationId"].as_str().unwrap().to_owned(), operation))
        .collect();
    let mut breaches = Vec::new();
    for (id, reason) in WITHOUT_ENTRY.iter().chain(WITHOUT_IDEMPOTENCY) {
        if !changing.contains_key(*id) {
            breaches.push(format!("{id}: is no changing operation"));
        }
        if reason.len() < 15 {
            breaches.push(format!("{id}: gives no reason"));
        }
    }
    for (id, operation) in changing {
        let takes = operation["parameters"]
            .as_array()
            .is_some_and(|list| list.iter().any(|parameter| parameter["name"] == "Idempotency-Key"));
        if takes == WITHOUT_IDEMPOTENCY.iter().any(|(name, _)| *name == id) {
            breaches.push(format!("{id}: the list and its parameters differ about `Idempotency-Key`"));
        }
    }
    none(&breaches);
}

fn has_example(api: &Value, media: &Value) -> bool {
    let with = |value: &Value| value.get("example").is_some() || value.get("examples").is_some();
    if with(media) {
        return true;
    }
    let schema = resolved(api, &media["schema"]);
    // A page, or an answer around something else, shows it by what it is made of.
    let inside = schema["properties"].as_object().into_iter().flatten().any(|(_, property)| {
        let property = if property["type"] == "array" { &property["items"] } else { property };
        with(resolved(api, property))
    });
    with(schema) || inside
}

#[test]
fn every_operation_has_an_example() {
    let api = document();
    let mut breaches = Vec::new();
    for (path, method, operation) in operations(&api) {
        let bodies = operation["requestBody"]["content"].as_object().into_iter().flatten();
        let answers = operation["responses"].as_object().unwrap().iter().filter(|(status, _)| status.starts_with('2'));
        let answers = answers.flat_map(|(_, response)| response["content"].as_object().into_iter().flatten());
        let shown: Vec<bool> = bodies.chain(answers).map(|(_, media)| has_example(&api, media)).collect();
        let binary = ["application/octet-stream", "application/zip"];
        let bytes = operation["responses"]["200"]["content"].as_object();
        let bytes = bytes.is_some_and(|content| content.keys().any(|kind| binary.contains(&kind.as_str())));
        let nothing = operation["responses"].get("204").is_some();
        if !shown.iter().any(|shown| *shown) && !bytes && !nothing {
            breaches.push(format!("{method} {path}: has no example"));
        }
    }
    none(&breaches);
}

/// Reads the example of a request type by the type itself.
fn example_of<T: PartialSchema + for<'a> Deserialize<'a>>() {
    let name = std::any::type_name::<T>();
    let schema = serde_json::to_value(T::schema()).unwrap();
    let example = &schema["example"];
    assert!(example.is_object(), "{name} has no example");
    let refused = crate::json::parse::<T>(example.to_string().as_bytes()).err();
    assert!(refused.is_none(), "the example of {name} is refused: {refused:?}");
    let known = schema["properties"].as_object().unwrap();
    assert_eq!(schema["additionalProperties"], Value::Bool(false), "{name} takes unknown fields");
    for key in example.as_object().unwrap().keys() {
        assert!(known.contains_key(key), "the example of {name} has `{key}`, which the schema does not");
    }
}

#[test]
fn examples_of_requests_are_accepted() {
    example_of::<crate::actions::OutcomeReport>();
    example_of::<crate::agents::AgentToChange>();
    example_of::<crate::agents::AgentToCreate>();
    example_of::<crate::enrolments::PersonEnrolment>();
    example_of::<crate::enrolments::PersonInvitation>();
    example_of::<crate::enrolments::ServiceAccountEnrolment>();
    example_of::<crate::enrolments::ServiceAccountInvitation>();
    example_of::<crate::gates::NewDecision>();
    example_of::<crate::grants::NewGrant>();
    example_of::<crate::instances::NewInstance>();
    example_of::<crate::people::NewPassword>();
    example_of::<crate::people::PersonToChange>();
    example_of::<crate::people::PersonToCreate>();
    example_of::<crate::second_factors::FirstCode>();
    example_of::<crate::service_accounts::ServiceAccountToChange>();
    example_of::<crate::service_accounts::ServiceAccountToCreate>();
    example_of::<crate::services::ServiceToChange>();
    example_of::<crate::services::ServiceToCreate>();
    example_of::<crate::settings::FreezeScope>();
    example_of::<crate::settings::PublicRead>();
    example_of::<crate::tokens::ClientCredentials>();
    example_of::<crate::tokens::Exchange>();
    example_of::<crate::tokens::Login>();
    example_of::<crate::tokens::NewConsent>();
    example_of::<crate::tokens::Revoke>();
    example_of::<crate::workflows::WorkflowToRegister>();
    example_of::<crate::workspaces::Tree>();
    let proposed = serde_json::to_value(crate::actions::ProposedActions::schema()).unwrap()["example"].to_string();
    crate::json::parse::<crate::actions::ProposedActions<'_>>(proposed.as_bytes()).unwrap();
}
