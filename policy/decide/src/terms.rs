//! Terms of a task grant: for which inputs of which tools people said yes in advance. Closed, typed, and read strictly.
//!
//! Terms are checked against the tools' schemas when they are asked for, and hold for a typed input or do not. What they
//! do not name may not be in the input; what they name must be, but where anything may stand there. Whatever is in doubt
//! does not hold: then people are asked as if nothing had been said.
//!
//! | bound | holds for |
//! |---|---|
//! | `any` | whatever the schema lets stand there, or nothing |
//! | `equals`, `one_of` | that text, number, truth value or null; one of them |
//! | `each_of` | a list of nothing but these |
//! | `prefix` | a text that begins so, and in whose rest is no `..`, `%`, `\` or `@` |
//! | `maximum` | a number from 0 to that |
//! | `between` | a number within both, both included |
//!
//! Absent: uses, times, budgets and votes (`gateway/flow`). Read next: `shape`.

use std::collections::BTreeMap;

use countersign_gateway_model::{Digest, Name};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::catalogue::CompiledTool;
use crate::counters::units;
use crate::input::TypedInput;
use crate::json::Json;
use crate::shape::{Field, Kind, Shape, below, decimal};

/// Most bounds of one tool.
pub const MAX_BOUNDS: usize = 64;
/// Most values of a `one_of`.
const MAX_VALUES: usize = 32;
/// Longest pointer and longest text.
const MAX_TEXT: usize = 512;
/// Where a prefix may end: no longer name begins with it, but what it is the folder, the host or the family of.
const ENDS: [char; 5] = ['/', ':', '#', '-', '_'];
/// Beyond this not every integer is a double.
const MAX_INTEGER: u64 = 1 << 53;

/// What is said in advance of one tool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolTerms {
    /// The version of the tool that people read the terms for: another one is another tool.
    pub version: Digest,
    /// The one revision of the target; absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// By JSON pointer into the input.
    #[serde(default)]
    pub input: BTreeMap<String, Bound>,
}

/// What may stand at a place of the input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// Anything.
    Any,
    /// This.
    Equals(Value),
    /// One of these.
    OneOf(Vec<Value>),
    /// A list each of whose elements is one of these.
    EachOf(Vec<Value>),
    /// A text that begins so.
    Prefix(String),
    /// A number from 0 to this.
    Maximum(Value),
    /// A number from the first to the second.
    Between(Value, Value),
}

/// Why terms are none for a tool.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{pointer}` of tool `{tool}`: {problem}")]
pub struct TermsError {
    /// The tool.
    pub tool: Name,
    /// Where in its input; empty: the tool as a whole.
    pub pointer: String,
    /// What is wrong, and what would do.
    pub problem: &'static str,
}

impl ToolTerms {
    /// Whether the terms can be those of the tool.
    ///
    /// # Errors
    /// The first place that its schema does not have, or that cannot hold what the bound says.
    pub fn check(&self, tool: &CompiledTool) -> Result<(), TermsError> {
        let wrong = |pointer: &str, problem: &'static str| {
            Err(TermsError { tool: tool.tool.name.clone(), pointer: pointer.to_owned(), problem })
        };
        if self.version != tool.version {
            return wrong("", "the catalogue has another version of it by now");
        }
        if self.input.len() > MAX_BOUNDS {
            return wrong("", "more than 64 bounds: name a whole part with `any`, or grant less");
        }
        for (pointer, bound) in &self.input {
            if pointer.len() > MAX_TEXT {
                return wrong("", "a pointer is longer than 512 bytes");
            }
            let Some(steps) = steps(pointer) else {
                return wrong(pointer, "a JSON pointer begins with `/`");
            };
            let Some(field) = find(&tool.shape, &steps) else {
                return wrong(pointer, "the input schema declares no such place");
            };
            if self.input.keys().any(|other| other.strip_prefix(pointer.as_str()).is_some_and(|o| o.starts_with('/'))) {
                return wrong(pointer, "another bound is for a part of it: bound the whole or its parts");
            }
            if let Err(problem) = bound.fits(field) {
                return wrong(pointer, problem);
            }
        }
        match missing(&tool.shape, "", &self.input) {
            Some(pointer) => {
                wrong(&pointer, "every input has it, so the terms must say what it may be (`any` will do)")
            }
            None => Ok(()),
        }
    }

    /// Whether they hold for an input and a revision.
    pub fn hold(&self, input: &TypedInput, revision: Option<&str>) -> bool {
        if self.version != input.version() || self.revision.as_deref().is_some_and(|one| Some(one) != revision) {
            return false;
        }
        // The canonical bytes were written by this program: they always read.
        let Ok(value) = Json::parse(input.canonical()) else { return false };
        let bounded = self.input.iter().all(|(pointer, bound)| {
            matches!(bound, Bound::Any)
                || steps(pointer).and_then(|steps| at(&value, &steps)).is_some_and(|value| bound.holds(value))
        });
        bounded && self.covers(&value, "")
    }

    /// Whether everything in a value is named.
    fn covers(&self, value: &Json, path: &str) -> bool {
        if self.input.contains_key(path) {
            return true;
        }
        let Some(members) = value.as_object() else { return false };
        let named = || self.input.keys().any(|key| key.strip_prefix(path).is_some_and(|rest| rest.starts_with('/')));
        // An empty part of the input is one whose members are all left out.
        path.is_empty() && members.is_empty()
            || (!members.is_empty() || named())
                && members.iter().all(|(name, value)| self.covers(value, &below(path, name)))
    }
}

impl Bound {
    /// Whether a value of the field could be within it.
    fn fits(&self, field: &Field) -> Result<(), &'static str> {
        let number = matches!(field.kind, Kind::Long { .. } | Kind::Number { .. });
        match self {
            Self::Equals(value) => scalar(value, &field.kind, field.nullable),
            Self::OneOf(values) if (1..=MAX_VALUES).contains(&values.len()) => {
                values.iter().try_for_each(|value| scalar(value, &field.kind, field.nullable))
            }
            Self::EachOf(values) if (1..=MAX_VALUES).contains(&values.len()) => match &field.kind {
                Kind::Array { items, .. } => values.iter().try_for_each(|value| scalar(value, items, false)),
                _ => Err("only a list has elements"),
            },
            Self::OneOf(_) | Self::EachOf(_) => Err("`one_of` and `each_of` have 1 to 32 values"),
            Self::Prefix(_) if !matches!(field.kind, Kind::Text { .. }) => Err("only a text begins with something"),
            Self::Prefix(text) if text.len() > MAX_TEXT => Err("a prefix has at most 512 bytes"),
            Self::Prefix(text) if !text.ends_with(ENDS) => {
                Err("a prefix ends in `/`, `:`, `#`, `-` or `_`, so that no longer name begins with it by chance")
            }
            Self::Any | Self::Prefix(_) => Ok(()),
            Self::Maximum(_) | Self::Between(..) if !number => Err("only a number has a maximum"),
            Self::Maximum(most) => match amount(most) {
                Some(0..) => Ok(()),
                _ => Err("a maximum is a number from 0 with at most 4 places"),
            },
            Self::Between(least, most) => match (amount(least), amount(most)) {
                (Some(least), Some(most)) if least <= most => Ok(()),
                _ => Err("`between` has two numbers with at most 4 places, the lower one first"),
            },
        }
    }

    fn holds(&self, value: &Json) -> bool {
        let within = |least: Option<i128>, most: &Value| {
            let value = if let Json::Number(n) = value { decimal(*n).and_then(|text| units(&text)) } else { None };
            match (value, least, amount(most)) {
                (Some(value), Some(least), Some(most)) => (least..=most).contains(&value),
                _ => false,
            }
        };
        match self {
            Self::Any => true,
            Self::Equals(one) => Json::from_serde(one) == *value,
            Self::OneOf(values) => values.iter().any(|one| Json::from_serde(one) == *value),
            Self::EachOf(values) => value.as_array().is_some_and(|list| {
                list.iter().all(|element| values.iter().any(|one| Json::from_serde(one) == *element))
            }),
            Self::Prefix(text) => {
                let rest = value.as_text().and_then(|value| value.strip_prefix(text.as_str()));
                // A way up, or a character that a reader may take for one, leads out of what the prefix names; so does what
                // makes a name and a password of the host before it.
                rest.is_some_and(|rest| !rest.contains("..") && !rest.contains(['%', '\\', '@']))
            }
            Self::Maximum(most) => within(Some(0), most),
            Self::Between(least, most) => within(amount(least), most),
        }
    }
}

/// Whether a plain value may stand there.
fn scalar(value: &Value, kind: &Kind, nullable: bool) -> Result<(), &'static str> {
    let long = value.as_str().is_some_and(|text| text.len() > MAX_TEXT);
    let integer = value.as_i64().map(i64::unsigned_abs).or_else(|| value.as_u64());
    if long || integer.is_some_and(|n| n > MAX_INTEGER) {
        return Err("the value is too long");
    }
    let plain = matches!(kind, Kind::Bool | Kind::Long { .. } | Kind::Number { .. } | Kind::Text { .. });
    if !plain {
        return Err("a map or a union can be bounded by `any` alone, a list of plain values by `each_of`, too");
    }
    if value.is_null() {
        return if nullable { Ok(()) } else { Err("the schema lets no null stand there") };
    }
    let value = Json::from_serde(value);
    match kind.convert(&value, "", &mut std::collections::BTreeSet::new()) {
        Ok(Some(_)) => Ok(()),
        _ => Err("the schema lets no such value stand there"),
    }
}

/// Ten-thousandths of a number that is exactly that.
fn amount(value: &Value) -> Option<i128> {
    let Json::Number(number) = Json::from_serde(value) else { return None };
    let integer = value.as_i64().map(i64::unsigned_abs).or_else(|| value.as_u64());
    if integer.is_some_and(|n| n > MAX_INTEGER) {
        return None;
    }
    units(&decimal(number)?)
}

fn steps(pointer: &str) -> Option<Vec<String>> {
    let rest = pointer.strip_prefix('/')?;
    Some(rest.split('/').map(|step| step.replace("~1", "/").replace("~0", "~")).collect())
}

fn find<'s>(shape: &'s Shape, steps: &[String]) -> Option<&'s Field> {
    let (step, rest) = steps.split_first()?;
    let field = shape.fields.get(step)?;
    match &field.kind {
        _ if rest.is_empty() => Some(field),
        Kind::Record(shape) => find(shape, rest),
        _ => None,
    }
}

fn at<'v>(value: &'v Json, steps: &[String]) -> Option<&'v Json> {
    steps.iter().try_fold(value, |value, step| value.as_object().and_then(|_| value.get(step)))
}

/// The first place that every input has and no bound speaks of.
fn missing(shape: &Shape, path: &str, bounds: &BTreeMap<String, Bound>) -> Option<String> {
    shape.fields.iter().filter(|(_, field)| field.required).find_map(|(name, field)| {
        let path = below(path, name);
        match &field.kind {
            _ if bounds.contains_key(&path) => None,
            Kind::Record(shape) if !shape.fields.is_empty() => {
                let named =
                    bounds.keys().any(|key| key.strip_prefix(path.as_str()).is_some_and(|k| k.starts_with('/')));
                if named { missing(shape, &path, bounds) } else { Some(path) }
            }
            _ => Some(path),
        }
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::sync::Arc;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::catalogue::Catalogue;
    use crate::input::parse;

    fn tool() -> Arc<CompiledTool> {
        let input = json!({"type": "object", "required": ["to", "amount"], "properties": {
            "to": {"type": "string", "maxLength": 40}, "amount": {"type": "number"},
            "count": {"type": "integer"}, "memo": {"type": ["string", "null"]}, "dry": {"type": "boolean"},
            "tags": {"type": "array", "items": {"type": "string"}}, "free": {},
            "where": {"type": "object", "properties": {"path": {"type": "string"}, "line": {"type": "integer"}}}
        }});
        let text = json!({"tools": [{"name": "pay.send", "input": input}]}).to_string();
        let compiled = Catalogue::parse(text.as_bytes()).unwrap().compile().unwrap();
        Arc::clone(compiled.values().next().unwrap())
    }

    fn terms(input: &Value) -> ToolTerms {
        let version = tool().version;
        serde_json::from_value(json!({"version": version, "input": input})).unwrap()
    }

    fn holds(bounds: &Value, input: &Value) -> bool {
        let terms = terms(bounds);
        terms.check(&tool()).unwrap();
        terms.hold(&parse(&tool(), input.to_string().as_bytes()).unwrap(), None)
    }

    #[test]
    fn what_terms_do_not_name_may_not_be_in_the_input() {
        let bounds = json!({"/to": {"one_of": ["a", "b"]}, "/amount": {"maximum": 10.5}});
        assert!(holds(&bounds, &json!({"to": "a", "amount": 10.5})));
        assert!(!holds(&bounds, &json!({"to": "a", "amount": 10.5, "memo": "x"})), "a key that nobody spoke of");
        assert!(!holds(&bounds, &json!({"to": "a", "amount": 1, "where": {}})), "nor an empty part");
        assert!(!holds(&bounds, &json!({"to": "a", "amount": 1, "where": {"path": "x"}})));
        assert!(!holds(&bounds, &json!({"to": "a", "amount": 1, "free": {}})));
        let whole = json!({"/to": "any", "/amount": "any", "/where": "any", "/free": "any", "/tags": "any"});
        assert!(holds(&whole, &json!({"to": "z", "amount": -1, "where": {"path": "x"}, "free": [1], "tags": ["t"]})));
        assert!(holds(&whole, &json!({"to": "z", "amount": -1})));
        let part = json!({"/to": "any", "/amount": "any", "/where/line": "any"});
        assert!(holds(&part, &json!({"to": "z", "amount": 0, "where": {"line": 3}})));
        assert!(holds(&part, &json!({"to": "z", "amount": 0, "where": {}})));
        assert!(!holds(&part, &json!({"to": "z", "amount": 0, "where": {"line": 3, "path": "p"}})));
    }

    #[test]
    fn what_terms_bound_must_be_in_the_input_and_within() {
        let with = |key: &str, bound: Value| {
            json!({"/to": "any", "/amount": "any"})
                .as_object()
                .map(|map| {
                    let mut map = map.clone();
                    map.insert(key.to_owned(), bound);
                    Value::Object(map)
                })
                .unwrap()
        };
        let input = |key: &str, value: Value| {
            let mut map = json!({"to": "t", "amount": 1}).as_object().unwrap().clone();
            map.insert(key.to_owned(), value);
            Value::Object(map)
        };
        let plain = json!({"to": "t", "amount": 1});
        assert!(!holds(&with("/dry", json!({"equals": true})), &plain), "absent, the tool would choose");
        assert!(holds(&with("/dry", json!({"equals": true})), &input("dry", json!(true))));
        assert!(!holds(&with("/dry", json!({"equals": true})), &input("dry", json!(false))));
        assert!(holds(&with("/memo", json!({"equals": null})), &input("memo", json!(null))));
        assert!(!holds(&with("/memo", json!({"equals": "null"})), &input("memo", json!(null))));
        for (maximum, value, within) in [
            (json!(10), json!(10), true),
            (json!(10), json!(10.0001), false),
            (json!(10), json!(-1), false),
            (json!(10), json!(10.00001), false),
            (json!(10), json!(0.00001), false),
            (json!(0.3), json!(0.3), true),
        ] {
            assert_eq!(
                holds(&with("/amount", json!({"maximum": maximum})), &input("amount", value.clone())),
                within,
                "{value}"
            );
        }
        let each = with("/tags", json!({"each_of": ["a", "b"]}));
        assert!(holds(&each, &input("tags", json!(["b", "a", "b"]))) && holds(&each, &input("tags", json!([]))));
        assert!(!holds(&each, &input("tags", json!(["a", "c"]))) && !holds(&each, &plain));
        assert!(holds(&with("/count", json!({"between": [-3, 3]})), &input("count", json!(-3))));
        assert!(!holds(&with("/count", json!({"between": [-3, 3]})), &input("count", json!(4))));
        for (value, within) in [
            ("src/a.rs", true),
            ("src/", true),
            ("src", false),
            ("srcs/a", false),
            ("src/../etc/passwd", false),
            ("src/%2e%2e/x", false),
            ("src/a\\b", false),
            ("/src/a", false),
        ] {
            assert_eq!(holds(&with("/to", json!({"prefix": "src/"})), &input("to", json!(value))), within, "{value}");
        }
        for (value, within) in [
            ("https://shop.test:8443/a", true),
            ("https://shop.test:x@evil.test/a", false),
            ("https://shop.test:8443@evil.test/a", false),
        ] {
            let host = with("/to", json!({"prefix": "https://shop.test:"}));
            assert_eq!(holds(&host, &input("to", json!(value))), within, "{value}");
        }
    }

    #[test]
    fn terms_of_another_version_or_revision_do_not_hold() {
        let input = parse(&tool(), br#"{"to":"t","amount":1}"#).unwrap();
        let any = terms(&json!({"/to": "any", "/amount": "any"}));
        assert!(any.hold(&input, None) && any.hold(&input, Some("r1")));
        let other = ToolTerms { version: Digest([7; 32]), ..any.clone() };
        assert!(!other.hold(&input, None));
        assert!(other.check(&tool()).is_err());
        let one = ToolTerms { revision: Some("r1".to_owned()), ..any };
        assert!(one.hold(&input, Some("r1")) && !one.hold(&input, Some("r2")) && !one.hold(&input, None));
    }

    #[test]
    fn terms_that_the_schema_cannot_hold_are_refused_where_they_stand() {
        let required = |map: &Value| {
            let mut all = json!({"/to": "any", "/amount": "any"}).as_object().unwrap().clone();
            all.extend(map.as_object().unwrap().clone());
            Value::Object(all)
        };
        for (bounds, pointer) in [
            (json!({"/amount": "any"}), "/to"),
            (required(&json!({"/no": "any"})), "/no"),
            (required(&json!({"no": "any"})), "no"),
            (required(&json!({"": "any"})), ""),
            (required(&json!({"/to": {"maximum": 3}})), "/to"),
            (required(&json!({"/to": {"equals": 3}})), "/to"),
            (required(&json!({"/to": {"equals": null}})), "/to"),
            (required(&json!({"/to": {"prefix": ""}})), "/to"),
            (required(&json!({"/to": {"prefix": "https://example.com"}})), "/to"),
            (required(&json!({"/amount": {"prefix": "1/"}})), "/amount"),
            (required(&json!({"/amount": {"maximum": -1}})), "/amount"),
            (required(&json!({"/amount": {"maximum": 0.00001}})), "/amount"),
            (required(&json!({"/amount": {"maximum": "9"}})), "/amount"),
            (required(&json!({"/amount": {"between": [3, 2]}})), "/amount"),
            (required(&json!({"/count": {"equals": 1.5}})), "/count"),
            (required(&json!({"/count": {"equals": 9_007_199_254_740_993_u64}})), "/count"),
            (required(&json!({"/tags": {"equals": "x"}})), "/tags"),
            (required(&json!({"/free": {"equals": "x"}})), "/free"),
            (required(&json!({"/free/x": "any"})), "/free/x"),
            (required(&json!({"/where": "any", "/where/path": "any"})), "/where"),
            (required(&json!({"/to": {"one_of": []}})), "/to"),
            (required(&json!({"/to": {"each_of": ["x"]}})), "/to"),
            (required(&json!({"/tags": {"each_of": [3]}})), "/tags"),
            (required(&json!({"/tags": {"each_of": []}})), "/tags"),
            (required(&json!({"/to": {"equals": "x".repeat(41)}})), "/to"),
        ] {
            assert_eq!(terms(&bounds).check(&tool()).unwrap_err().pointer, pointer, "{bounds}");
        }
        for strange in [json!("all"), json!({"equals": 1, "maximum": 2}), json!({"atmost": 2}), json!({"between": [1]})]
        {
            let read: Result<ToolTerms, _> =
                serde_json::from_value(json!({"version": tool().version, "input": {"/to": strange}}));
            assert!(read.is_err(), "{strange}");
        }
    }

    proptest! {
        /// The oracle: a number is within a maximum if it is one of at most four places, from 0 to that.
        #[test]
        fn a_maximum_is_kept_to_the_last_place(most in 0..2_000_000_u32, value in -2_000_000..2_000_000_i32) {
            let (most_text, value_text) = (f64::from(most) / 10_000.0, f64::from(value) / 10_000.0);
            let bounds = json!({"/to": "any", "/amount": {"maximum": most_text}});
            let within = value >= 0 && i64::from(value) <= i64::from(most);
            prop_assert_eq!(holds(&bounds, &json!({"to": "t", "amount": value_text})), within);
        }
    }
}
