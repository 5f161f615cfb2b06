//! Policies that differ only in which entities they name, so that strict validation looks at one of each kind. Internal.
//!
//! Validation sees types, never records: ten thousand grants that differ in agent and tool pass or fail together. Ids
//! are renamed in the order in which they appear, so that what is equal stays equal and what differs stays different.
//! Members of enums, actions, and ids outside plain ASCII (which Cedar may warn about) keep their names.
//! Read next: `snapshot`.

use std::collections::HashMap;

use cedar_policy::Policy;
use serde_json::Value;

use crate::reference::EntityKind;
use crate::schema::NAMESPACE;

/// A text that two policies share only if strict validation treats them alike; `None` if there is no telling.
pub(crate) fn form(policy: &Policy) -> Option<String> {
    let mut json = policy.to_json().ok()?;
    json.as_object_mut()?.remove("annotations");
    let mut names = HashMap::new();
    rename(&mut json, &mut names);
    Some(json.to_string())
}

fn rename(json: &mut Value, names: &mut HashMap<(String, String), usize>) {
    match json {
        Value::Object(map) => {
            if let (2, Some(Value::String(ty)), Some(Value::String(id))) = (map.len(), map.get("type"), map.get("id")) {
                if recorded(ty) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:/-".contains(&b)) {
                    let next = names.len();
                    let number = *names.entry((ty.clone(), id.clone())).or_insert(next);
                    map.insert("id".to_owned(), Value::from(number));
                }
                return;
            }
            map.values_mut().for_each(|value| rename(value, names));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rename(item, names)),
        _ => {}
    }
}

/// Whether a type has records, so that its ids are no part of the schema.
fn recorded(ty: &str) -> bool {
    ty.strip_prefix(NAMESPACE)
        .and_then(|rest| rest.strip_prefix("::"))
        .is_some_and(|name| EntityKind::ALL.iter().any(|kind| kind.as_str() == name))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn of(text: &str) -> String {
        form(&Policy::parse(None, text).unwrap()).unwrap()
    }

    #[test]
    fn only_ids_that_validation_cannot_see_are_alike() {
        let base =
            r#"@id("a") permit (principal == Countersign::Agent::"a", action, resource == Countersign::Tool::"t");"#;
        let other =
            r#"@id("b") permit (principal == Countersign::Agent::"b", action, resource == Countersign::Tool::"u");"#;
        assert_eq!(of(base), of(other));
        let when = |a: &str, b: &str, state: &str| {
            of(&format!(
                r#"permit (principal == Countersign::Agent::"{a}", action, resource)
                when {{ principal != Countersign::Agent::"{b}" && context.instance.state == Countersign::State::"{state}" }};"#
            ))
        };
        assert_eq!(when("x", "y", "RUNNING"), when("p", "q", "RUNNING"));
        assert_ne!(when("x", "y", "RUNNING"), when("p", "p", "RUNNING"), "the same entity twice is another policy");
        assert_ne!(when("x", "y", "RUNNING"), when("x", "y", "RUNING"), "members of enums are part of the schema");
        assert_ne!(when("x", "y", "RUNNING"), when("х", "y", "RUNNING"), "look-alike letters are warned about");
        assert_ne!(of(base), of(&base.replace("permit", "forbid")));
        assert_ne!(
            of(r#"permit (principal, action == Countersign::Action::"a", resource);"#),
            of(r#"permit (principal, action == Countersign::Action::"b", resource);"#)
        );
    }
}
