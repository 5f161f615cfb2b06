//! Policies that differ only in what strict validation cannot see, so that it looks at one of each kind.
//!
//! Validation sees types, never records: ten thousand grants that differ in agent, tool and a text that they compare with
//! pass or fail together. Names are replaced in the order in which they appear, so that what is equal stays equal and what
//! differs stays different. Kept as they are: actions and members of enums, which are part of the schema; texts that are
//! not compared (arguments of `decimal` and its like, patterns, keys of tags), which validation reads; and everything
//! outside plain ASCII, which Cedar may warn about. Absent: validation. Read next: `snapshot`.

use std::collections::HashMap;

use countersign_gateway_model::Digest;
use serde_json::Value;

use crate::literal::recorded;
use crate::sha256;

/// Operators that see of a text nothing but that it is one.
const COMPARING: [&str; 3] = ["==", "!=", "contains"];

/// What two policies share only if strict validation treats them alike, of a policy in Cedar's JSON form.
pub fn form(policy: &Value) -> Digest {
    let mut json = policy.clone();
    if let Some(policy) = json.as_object_mut() {
        policy.remove("annotations");
    }
    rename(&mut json, &mut HashMap::new());
    sha256(json.to_string().as_bytes())
}

/// What was named, of which type (none for a text), and the number that stands for it.
type Names = HashMap<(Option<String>, String), usize>;

fn rename(json: &mut Value, names: &mut Names) {
    match json {
        Value::Object(map) => {
            if let (2, Some(Value::String(ty)), Some(Value::String(id))) = (map.len(), map.get("type"), map.get("id")) {
                if recorded(ty).is_some() && plain(id) {
                    let number = number(names, Some(ty), id);
                    map.insert("id".to_owned(), Value::from(number));
                }
                return;
            }
            for (operator, value) in map {
                if COMPARING.contains(&operator.as_str()) {
                    for side in ["left", "right"] {
                        if let Some(Value::String(text)) = value.get(side).and_then(|side| side.get("Value"))
                            && plain(text)
                        {
                            let number = number(names, None, text);
                            if let Some(side) = value.get_mut(side) {
                                *side = serde_json::json!({ "text": number });
                            }
                        }
                    }
                }
                rename(value, names);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rename(item, names)),
        _ => {}
    }
}

fn number(names: &mut Names, ty: Option<&String>, name: &str) -> usize {
    let next = names.len();
    *names.entry((ty.cloned(), name.to_owned())).or_insert(next)
}

fn plain(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:/-".contains(&b))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use cedar_policy::Policy;

    use super::*;

    fn of(text: &str) -> Digest {
        form(&Policy::parse(None, text).unwrap().to_json().unwrap())
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

    #[test]
    fn a_text_that_is_compared_is_like_another_and_one_that_is_read_is_not() {
        let when = |condition: &str| of(&format!("permit (principal, action, resource) when {{ {condition} }};"));
        let compared = |a: &str, b: &str| when(&format!(r#"context.input.id == "{a}" && context.input.to != "{b}""#));
        assert_eq!(compared("a", "b"), compared("c", "d"));
        assert_ne!(compared("a", "b"), compared("a", "a"));
        assert_ne!(compared("a", "b"), compared("\u{430}", "b"), "look-alike letters are warned about");
        assert_eq!(when(r#"context.claims.contains("a")"#), when(r#"context.claims.contains("b")"#));
        assert_ne!(when(r#"context.input.id == "a""#), when(r"context.input.id == 1"));
        assert_ne!(when(r#"context.input.id == "0""#), when(r"context.input.id == 0"));
        for read in [
            r#"decimal("$").lessThan(context.input.amount)"#,
            r#"context.input.at == datetime("$")"#,
            r#"context.input.id like "$*""#,
            r#"principal.hasTag("$") && principal.getTag("$") == context.input.id"#,
            r#"context.input has "$""#,
        ] {
            assert_ne!(when(&read.replace('$', "1.0")), when(&read.replace('$', "x")), "{read}");
        }
    }
}
