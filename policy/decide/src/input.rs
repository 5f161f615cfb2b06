//! Typed tool input: JSON read once and strictly, checked against the tool's schema, converted by declared type.
//!
//! Digest, stored blob and the tool itself all use [`TypedInput::canonical`]. Conversion never looks at the value to
//! choose a Cedar type, so an entity cannot be smuggled in as JSON. What Cedar cannot type is *opaque*: it is passed
//! on, its path is listed, and policy sees the list. Absent: decisions. Read next: `shape`, `context`.

use std::collections::BTreeSet;
use std::sync::Arc;

use cedar_policy_core::ast::Value;
use countersign_gateway_model::{Digest, Name};

use crate::catalogue::CompiledTool;
use crate::detectors::{self, Found};
use crate::json::Json;
use crate::masks::{self, Step};
use crate::shape::{InputError, MAX_INPUT, refuse_reserved};

/// A tool input that passed: canonical bytes, and the Cedar record made from them.
#[derive(Clone, Debug)]
pub struct TypedInput {
    tool: Name,
    version: Digest,
    canonical: Arc<[u8]>,
    record: Value,
    opaque: BTreeSet<String>,
    applied: BTreeSet<Name>,
    masked: BTreeSet<Name>,
    detected: BTreeSet<Name>,
    found: Vec<Found>,
}

impl TypedInput {
    /// The tool whose schema it passed.
    pub fn tool(&self) -> &Name {
        &self.tool
    }

    /// The version of that tool.
    pub fn version(&self) -> Digest {
        self.version
    }

    /// The canonical bytes (RFC 8785): the one form that digest, blob and tool use.
    pub fn canonical(&self) -> &[u8] {
        &self.canonical
    }

    /// The canonical bytes, shared.
    pub fn shared(&self) -> Arc<[u8]> {
        Arc::clone(&self.canonical)
    }

    /// JSON pointers of what policy cannot see.
    pub fn opaque(&self) -> &BTreeSet<String> {
        &self.opaque
    }

    /// The transforms that made it what it is.
    pub fn applied(&self) -> &BTreeSet<Name> {
        &self.applied
    }

    /// What masks and transforms did to it: `masked:<name>`, and `mask-failed:<name>` where that dropped the field.
    pub fn masked(&self) -> &BTreeSet<Name> {
        &self.masked
    }

    /// The names of the detectors that found something.
    pub fn detected(&self) -> &BTreeSet<Name> {
        &self.detected
    }

    /// Where they did, the first [`MAX_FINDS`](crate::detectors::MAX_FINDS) places.
    pub fn found(&self) -> &[Found] {
        &self.found
    }

    /// The mask that could neither replace nor drop a field of it. Then nothing that masks would change stands in it, it
    /// passes no schema, and the question is denied.
    pub(crate) fn unmaskable(&self) -> Option<&str> {
        masks::failed(&self.masked)
    }

    pub(crate) fn record(&self) -> &Value {
        &self.record
    }
}

/// Reads, checks, masks and converts the input of one tool. What a mask takes away is in nothing that this gives. Where a
/// mask can neither replace nor drop a field, the rest is given, so that it can be put on record: policy denies it.
pub fn parse(tool: &CompiledTool, bytes: &[u8]) -> Result<TypedInput, InputError> {
    if bytes.len() > MAX_INPUT {
        return Err(InputError::TooLarge { size: bytes.len() });
    }
    masked(tool, Json::parse(bytes)?)
}

/// The same for an input that was read strictly.
pub(crate) fn masked(tool: &CompiledTool, value: Json) -> Result<TypedInput, InputError> {
    if tool.masks.is_empty() {
        return convert(tool, &value);
    }
    match rewritten(tool, value.clone(), &tool.masks) {
        Err(InputError::Unmaskable { mask }) => Ok(unmaskable(tool, value, &mask)),
        read => read,
    }
}

/// What is left of an input of which a mask could neither replace nor drop a field.
fn unmaskable(tool: &CompiledTool, mut value: Json, mask: &str) -> TypedInput {
    let masked = masks::dropped(&tool.masks, mask, &mut value);
    withheld(tool, &value, masked)
}

fn withheld(tool: &CompiledTool, value: &Json, masked: BTreeSet<Name>) -> TypedInput {
    TypedInput {
        tool: tool.tool.name.clone(),
        version: tool.version,
        canonical: value.canonical().into(),
        record: crate::value::record([]),
        opaque: BTreeSet::new(),
        applied: BTreeSet::new(),
        masked,
        detected: BTreeSet::new(),
        found: Vec::new(),
    }
}

/// An input with some steps applied to it.
fn rewritten(tool: &CompiledTool, mut value: Json, steps: &[(Name, Step)]) -> Result<TypedInput, InputError> {
    refuse_reserved(&value, "")?;
    // A raw value that does not pass is refused as such: a mask must not make it pass.
    tool.shape.check(&value)?;
    let facts = masks::apply(steps, &tool.shape, &mut value)?;
    let mut typed = convert(tool, &value)?;
    typed.masked.extend(facts);
    Ok(typed)
}

/// The input with transforms applied, typed and searched anew.
pub(crate) fn transformed(
    tool: &CompiledTool,
    input: &TypedInput,
    names: &BTreeSet<Name>,
    steps: &[(Name, Step)],
) -> Result<TypedInput, InputError> {
    let mut typed = rewritten(tool, Json::parse(&input.canonical)?, steps)?;
    typed.masked.extend(input.masked.iter().cloned());
    typed.applied = input.applied.union(names).cloned().collect();
    Ok(typed)
}

/// A stored input, with what was done to it when it was first asked about. Both belong to the input, so that a question
/// about another one starts without them.
pub(crate) fn restored(
    tool: &CompiledTool,
    value: &Json,
    applied: BTreeSet<Name>,
    masked: BTreeSet<Name>,
) -> Result<TypedInput, InputError> {
    if masks::failed(&masked).is_some() {
        refuse_reserved(value, "")?;
        return Ok(withheld(tool, value, masked));
    }
    Ok(TypedInput { applied, masked, ..convert(tool, value)? })
}

/// Checks and converts an input as it stands, such as a stored one: masks were applied when it was first read.
pub fn convert(tool: &CompiledTool, value: &Json) -> Result<TypedInput, InputError> {
    refuse_reserved(value, "")?;
    let mut opaque = BTreeSet::new();
    let record = tool.shape.convert(value, "", &mut opaque)?;
    let (detected, found) = if tool.detectors.is_empty() {
        (BTreeSet::new(), Vec::new())
    } else {
        detectors::detect(&tool.detectors, value, &opaque)
    };
    Ok(TypedInput {
        applied: BTreeSet::new(),
        masked: BTreeSet::new(),
        detected,
        found,
        tool: tool.tool.name.clone(),
        version: tool.version,
        canonical: value.canonical().into(),
        record,
        opaque,
    })
}

/// Reads an input that has no schema (a workflow's, a start's), strictly; gives the canonical bytes.
pub fn canonicalize(bytes: &[u8]) -> Result<Vec<u8>, InputError> {
    if bytes.len() > MAX_INPUT {
        return Err(InputError::TooLarge { size: bytes.len() });
    }
    let value = Json::parse(bytes)?;
    refuse_reserved(&value, "")?;
    Ok(value.canonical())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::catalogue::Catalogue;

    fn tool(input: &serde_json::Value) -> Arc<CompiledTool> {
        let text = json!({"tools": [{"name": "a.b", "input": input}]}).to_string();
        let compiled = Catalogue::parse(text.as_bytes()).unwrap().compile().unwrap();
        Arc::clone(compiled.values().next().unwrap())
    }

    fn wide() -> Arc<CompiledTool> {
        tool(&json!({"type": "object", "required": ["s", "n"], "properties": {
            "s": {"type": "string", "maxLength": 5}, "i": {"type": "integer", "minimum": -5, "maximum": 9},
            "n": {"type": "number"}, "b": {"type": "boolean"}, "e": {"type": "string", "enum": ["x", "y"]},
            "list": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
            "prices": {"type": "array", "items": {"type": "number"}},
            "grid": {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
            "maybe": {"type": ["string", "null"]}, "either": {"type": ["string", "integer"]},
            "any": {}, "map": {"type": "object", "additionalProperties": {"type": "string"}},
            "pattern": {"type": "string", "pattern": "^(?=a)"}, "one": {"oneOf": [{"type": "string"}]},
            "rec": {"type": "object", "properties": {"deep": {"type": "boolean"}, "loop": {"$ref": "#"}}}
        }}))
    }

    fn typed(value: &serde_json::Value) -> Result<TypedInput, InputError> {
        parse(&wide(), value.to_string().as_bytes())
    }

    #[test]
    fn each_declared_type_becomes_its_cedar_type() {
        let mut text = String::new();
        wide().shape.cedar_type(&mut text);
        assert_eq!(
            text,
            "{\"b\"?: Bool, \"e\"?: String, \"gridCount\"?: Long, \"gridText\"?: String, \"i\"?: Long, \
             \"list\"?: Set<String>, \"listCount\"?: Long, \"listText\"?: String, \"maybe\"?: String, \
             \"n\"?: decimal, \"prices\"?: Set<decimal>, \"pricesCount\"?: Long, \"pricesText\"?: String, \
             \"rec\"?: {\"deep\"?: Bool}, \"s\": String}"
        );
        assert_eq!(wide().shape.never_seen(), ["/any", "/either", "/grid", "/map", "/one", "/pattern", "/rec/loop"]);
    }

    #[test]
    fn references_are_followed_recursion_is_opaque_and_a_union_with_null_is_optional() {
        let schema = json!({"type": "object", "required": ["to"], "properties": {
            "to": {"$ref": "#/$defs/Address"}, "tree": {"$ref": "#/$defs/Node", "description": "a tree"},
            "limit": {"anyOf": [{"type": "integer", "maximum": 9}, {"type": "null"}], "default": null},
            "lost": {"$ref": "#/$defs/Nowhere"}, "far": {"$ref": "https://example.com/schema"},
            "bound": {"$ref": "#/$defs/Address", "minProperties": 1}, "round": {"$ref": "#/$defs/Round"}
        }, "$defs": {
            "Address": {"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}},
            "Node": {"type": "object", "properties": {"label": {"type": "string"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/Node"}}}},
            "Round": {"$ref": "#/$defs/Round"}
        }});
        let tool = tool(&schema);
        let mut text = String::new();
        tool.shape.cedar_type(&mut text);
        assert_eq!(
            text,
            "{\"limit\"?: Long, \"to\": {\"city\": String}, \"tree\"?: {\"childrenCount\"?: Long, \
             \"childrenText\"?: String, \"label\"?: String}}"
        );
        let never: Vec<(String, String)> =
            tool.shape.sight().never.into_iter().map(|blind| (blind.pointer, blind.reason)).collect();
        let of = |pointer: &str, reason: &str| (pointer.to_owned(), reason.to_owned());
        assert_eq!(
            never,
            [
                of("/bound", "keyword `$ref` has no counterpart in a policy type"),
                of("/far", "its `$ref` leads to nothing in the schema"),
                of("/lost", "its `$ref` leads to nothing in the schema"),
                of("/round", "it is recursive"),
                of("/tree/children", "its elements: it is recursive"),
            ]
        );
        let take = |value: serde_json::Value| parse(&tool, value.to_string().as_bytes());
        assert!(take(json!({"to": {"city": "Bern"}, "limit": null})).unwrap().opaque().is_empty());
        assert!(take(json!({"to": {"city": "Bern"}, "limit": 10})).is_err(), "the bound behind the union holds");
        assert!(take(json!({"to": {"town": "Bern"}})).is_err(), "the schema behind the reference holds");
        let deep = json!({"to": {"city": "Bern"}, "tree": {"children": [{"label": "a"}]}});
        assert_eq!(take(deep).unwrap().opaque().iter().collect::<Vec<_>>(), ["/tree/children"]);
    }

    #[test]
    fn patterns_and_exclusive_bounds_are_checked_and_seen() {
        let tool = tool(&json!({"type": "object", "properties": {
            "repo": {"type": "string", "pattern": "^[a-z]+$"}, "age": {"type": "integer", "exclusiveMinimum": 0},
            "rate": {"type": "number", "exclusiveMaximum": 1}, "old": {"type": "number", "minimum": 0, "exclusiveMinimum": true}
        }}));
        for (value, passes) in [
            (json!({"repo": "abc", "age": 1, "rate": 0.5}), true),
            (json!({"repo": "ABC"}), false),
            (json!({"repo": 7}), false),
            (json!({"age": 0}), false),
            (json!({"rate": 1}), false),
        ] {
            assert_eq!(parse(&tool, value.to_string().as_bytes()).is_ok(), passes, "{value}");
        }
        assert_eq!(tool.shape.never_seen(), ["/old"]);
    }

    #[test]
    fn the_smallest_input_passes_its_own_schema() {
        let schema = json!({"type": "object", "properties": {
            "i": {"type": "integer", "minimum": 2.5, "maximum": 9}, "j": {"type": "integer", "maximum": -3.5},
            "n": {"type": "number", "minimum": 0.5}, "x": {"type": "integer", "exclusiveMinimum": 0},
            "y": {"type": "number", "exclusiveMaximum": 0, "minimum": -9}, "s": {"type": "string", "minLength": 3}, "b": {"type": "boolean"},
            "e": {"type": "string", "enum": [7, "x"]}, "c": {"type": "integer", "const": 4, "minimum": 4},
            "list": {"type": "array", "minItems": 2, "items": {"type": "string", "minLength": 1}},
            "maybe": {"type": ["string", "null"]}, "any": {"oneOf": []},
            "rec": {"type": "object", "required": ["deep"], "properties": {"deep": {"type": "boolean"}, "not": {}}}
        }});
        let mut all = schema.clone();
        let names: Vec<_> = schema.pointer("/properties").unwrap().as_object().unwrap().keys().cloned().collect();
        all.as_object_mut().unwrap().insert("required".to_owned(), json!(names));
        for schema in [schema, all] {
            let tool = tool(&schema);
            let input = tool.shape.smallest().unwrap();
            let typed = convert(&tool, &input).unwrap();
            assert_eq!(typed.canonical(), input.canonical());
        }
        assert!(convert(&wide(), &wide().shape.smallest().unwrap()).is_ok());
        let mut nested = json!({"type": "string", "minLength": 1000});
        for _ in 0..6 {
            nested = json!({"type": "array", "minItems": 1000, "items": nested});
        }
        let large = tool(&json!({"type": "object", "required": ["a"], "properties": {"a": nested}}));
        assert_eq!(large.shape.smallest(), None, "what would not fit in memory is not made up");
    }

    #[test]
    fn references_to_references_do_not_make_a_small_schema_a_large_type() {
        let mut definitions = serde_json::Map::new();
        for level in 0..12 {
            let next = json!({"$ref": format!("#/$defs/L{}", level + 1)});
            let members: serde_json::Map<_, _> = (0..8).map(|n| (format!("p{n}"), next.clone())).collect();
            definitions.insert(format!("L{level}"), json!({"type": "object", "properties": members}));
        }
        definitions.insert("L12".to_owned(), json!({"type": "string"}));
        let schema = json!({"type": "object", "properties": {"a": {"$ref": "#/$defs/L0"}}, "$defs": definitions});
        let sight = tool(&schema).shape.sight();
        assert!(sight.never.iter().any(|blind| blind.reason == "the schema has too many properties"));
        assert!(sight.seen.len() + sight.never.len() < 5000, "{}", sight.seen.len() + sight.never.len());
    }

    #[test]
    fn the_report_names_each_property_with_its_type_or_why_it_has_none() {
        let sight = wide().shape.sight();
        let seen = |pointer: &str| sight.seen.iter().filter(|s| s.pointer == pointer).collect::<Vec<_>>();
        let [prices, count, text] = seen("/prices")[..] else { panic!("{:?}", seen("/prices")) };
        assert_eq!((prices.cedar_type.as_str(), prices.optional), ("Set<decimal>", true));
        assert_eq!(
            (count.attribute.as_str(), text.attribute.as_str()),
            ("context.input.pricesCount", "context.input.pricesText")
        );
        assert_eq!(sight.sometimes.iter().map(|b| b.pointer.as_str()).collect::<Vec<_>>(), ["/n", "/prices"]);
        let why: Vec<&str> = sight.never.iter().map(|b| b.reason.as_str()).collect();
        assert_eq!(
            why,
            [
                "its schema names no type",
                "it may be of several types",
                "its elements are arrays",
                "its properties are not all declared",
                "it may be of several types",
                "keyword `pattern` has no counterpart in a policy type",
                "it is recursive",
            ]
        );
        // Every property is in the report, and what it calls seen is what the Cedar type has.
        let mut cedar = String::new();
        wide().shape.cedar_type(&mut cedar);
        for seen in &sight.seen {
            let last = seen.attribute.rsplit('.').next().unwrap();
            assert!(cedar.contains(&format!("\"{last}\"")), "{} is not in {cedar}", seen.attribute);
        }
    }

    #[test]
    fn what_cedar_cannot_type_is_listed_and_passed_on() {
        let input = typed(&json!({"s": "a", "n": 0.00001, "either": 1, "map": {"k": "v"}, "any": [1], "list": ["a"],
            "prices": [1.5, 0.123_45], "grid": [[1]], "pattern": "b", "maybe": null, "rec": {"loop": {}}}))
        .unwrap();
        let opaque: Vec<&str> = input.opaque().iter().map(String::as_str).collect();
        assert_eq!(opaque, ["/any", "/either", "/grid", "/map", "/n", "/pattern", "/prices", "/rec/loop"]);
        let record = input.record().to_string();
        assert!(record.contains("pricesCount: 2") && record.contains("pricesText: \"[1.5,0.12345]\""), "{record}");
        assert!(!record.contains("prices:"), "a set that lacks an element would be a lie: {record}");
        assert!(record.contains(r#"list: ["a"]"#) && !record.contains("maybe"), "{record}");
    }

    #[test]
    fn numbers_become_decimals_only_if_exact_in_four_places() {
        for (number, expected) in [
            ("500", Some("500.0")),
            ("0.1", Some("0.1")),
            ("-12.3456", Some("-12.3456")),
            ("1e3", Some("1000.0")),
            ("0", Some("0.0")),
            ("0.0001", Some("0.0001")),
            ("0.00001", None),
            ("1.23456", None),
            ("1e21", None),
            ("922337203685477.5", Some("922337203685477.5")),
            ("922337203685478", None),
        ] {
            let input = parse(&wide(), format!(r#"{{"s":"a","n":{number}}}"#).as_bytes()).unwrap();
            let record = input.record().to_string();
            match expected {
                Some(text) => assert!(record.contains(&format!("decimal(\"{text}\")")), "{number}: {record}"),
                None => assert!(!record.contains("n:") && input.opaque().contains("/n"), "{number}: {record}"),
            }
        }
    }

    #[test]
    fn wrong_types_and_undeclared_or_smuggled_properties_are_refused() {
        let entity = json!({"__entity": {"type": "Countersign::Role", "id": "ADMIN"}});
        for (value, part) in [
            (json!({"n": 1}), "`/s` is required"),
            (json!({"s": 1, "n": 1}), "`/s` is not a string"),
            (json!({"s": "toolong", "n": 1}), "`/s`"),
            (json!({"s": "a", "n": "1"}), "`/n` is not a number"),
            (json!({"s": "a", "n": 1, "i": 1.5}), "`/i` is not an integer"),
            (json!({"s": "a", "n": 1, "i": 10}), "`/i`"),
            (json!({"s": "a", "n": 1, "b": "true"}), "`/b` is not a boolean"),
            (json!({"s": "a", "n": 1, "e": "z"}), "`/e`"),
            (json!({"s": "a", "n": 1, "list": ["a", 1]}), "`/list/1` is not a string"),
            (json!({"s": "a", "n": 1, "list": ["a", "a", "a", "a"]}), "`/list`"),
            (json!({"s": "a", "n": 1, "grid": [["x"]]}), "`/grid/0/0` is not an integer"),
            (json!({"s": null, "n": 1}), "`/s` is not a string"),
            (json!({"s": "a", "n": 1, "x": 1}), "`/x` is not declared"),
            (json!({"s": "a", "n": 1, "rec": {"x": 1}}), "`/rec/x` is not declared"),
            (json!({"s": entity, "n": 1}), "reserved"),
            (json!({"s": "a", "n": 1, "any": [{"k": entity}]}), "reserved"),
            (json!({"s": "a", "n": 1, "map": {"__extn": {"fn": "decimal", "arg": "1"}}}), "reserved"),
            (json!([]), "`` is not an object"),
        ] {
            let error = typed(&value).unwrap_err().to_string();
            assert!(error.contains(part), "{value}: {error}");
        }
        assert!(matches!(parse(&wide(), br#"{"s":"a","s":"b","n":1}"#), Err(InputError::Json(_))));
        assert!(matches!(parse(&wide(), &vec![b' '; MAX_INPUT + 1]), Err(InputError::TooLarge { .. })));
    }

    proptest! {
        #[test]
        fn the_canonical_form_is_typed_the_same(s in ".{0,5}", n in any::<f64>(), list in prop::collection::vec(".{0,3}", 0..3)) {
            prop_assume!(n.is_finite() && (n.fract() != 0.0 || n.abs() < 1e15));
            let first = typed(&json!({"list": list, "s": s, "n": n}));
            if let Ok(first) = first {
                let second = parse(&wide(), first.canonical()).unwrap();
                prop_assert_eq!(first.canonical(), second.canonical());
                prop_assert_eq!(first.record(), second.record());
                prop_assert_eq!(first.opaque(), second.opaque());
            }
        }
    }
}
