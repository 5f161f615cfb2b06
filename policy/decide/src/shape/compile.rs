//! A JSON Schema, as a registrar gives it, to the shape that inputs are checked and typed by.
//!
//! What Cedar has a type for is typed; everything else is opaque, with the reason, and is never guessed at. References
//! are followed within the schema itself; nothing is ever fetched. Absent: values. Read next: `sight`.

use std::collections::{BTreeMap, BTreeSet};

use super::pattern::Pattern;
use super::{Field, Hidden, Kind, RESERVED, Shape, ShapeError, Span, below};
use crate::json::Json;

/// Deepest schema nesting that is typed; deeper is opaque.
const MAX_TYPED_DEPTH: usize = 16;

/// Most properties of one schema that are typed, references followed; what comes after is opaque. References to
/// references would else make a small schema a large type.
const MAX_TYPED_FIELDS: usize = 2048;

/// Most patterns of one schema that are checked; what comes after is opaque. Each takes memory as long as it is listed.
const MAX_PATTERNS: usize = 256;

/// Annotations, which assert nothing.
const ANNOTATIONS: [&str; 12] = [
    "title",
    "description",
    "default",
    "examples",
    "format",
    "deprecated",
    "readOnly",
    "writeOnly",
    "$schema",
    "$id",
    "$comment",
    "contentMediaType",
];

impl Shape {
    /// Makes a schema ready. The root must be an object type; properties that it does not declare are refused
    /// whatever `additionalProperties` says.
    pub fn compile(schema: &serde_json::Value) -> Result<Self, ShapeError> {
        let schema = Json::from_serde(schema);
        if schema.get("type").and_then(Json::as_text) != Some("object") {
            return Err(ShapeError::RootNotObject);
        }
        let mut reader = Reader { root: &schema, left: MAX_TYPED_FIELDS, patterns: MAX_PATTERNS, followed: vec!["#"] };
        reader.object(&schema, "", 0)
    }
}

/// Reads one schema.
struct Reader<'s> {
    root: &'s Json,
    /// How many more properties are typed.
    left: usize,
    /// How many more patterns are made ready.
    patterns: usize,
    /// The references that led here: one that comes again is recursion.
    followed: Vec<&'s str>,
}

impl<'s> Reader<'s> {
    /// A pattern, as long as there are not too many of them.
    fn pattern(&mut self, text: &str) -> Option<Pattern> {
        self.patterns = self.patterns.checked_sub(1)?;
        Pattern::compile(text)
    }

    fn object(&mut self, schema: &'s Json, path: &str, depth: usize) -> Result<Shape, ShapeError> {
        let wrong = |keyword: &str| ShapeError::Keyword { path: path.to_owned(), keyword: keyword.to_owned() };
        let required: BTreeSet<&str> = match schema.get("required") {
            None => BTreeSet::new(),
            Some(list) => list
                .as_array()
                .and_then(|items| items.iter().map(Json::as_text).collect())
                .ok_or_else(|| wrong("required"))?,
        };
        let properties = match schema.get("properties") {
            None => &[],
            Some(map) => map.as_object().ok_or_else(|| wrong("properties"))?,
        };
        let mut fields = BTreeMap::new();
        for (name, property) in properties {
            let path = below(path, name);
            if RESERVED.contains(&name.as_str()) || !unicode_normalization::is_nfc(name) || name.contains('\0') {
                return Err(ShapeError::Name { path });
            }
            let (kind, nullable) = if self.left == 0 {
                (Kind::Opaque(Hidden::Size), false)
            } else {
                self.left -= 1;
                self.kind(property, &path, depth + 1)?
            };
            fields.insert(name.clone(), Field { kind, nullable, required: required.contains(name.as_str()) });
        }
        if let Some(name) = required.iter().find(|name| !fields.contains_key(**name)) {
            return Err(ShapeError::Keyword { path: below(path, name), keyword: "required".to_owned() });
        }
        let derived = fields.iter().filter(|(_, f)| matches!(f.kind, Kind::Array { .. }));
        for name in derived.flat_map(|(name, _)| [format!("{name}Count"), format!("{name}Text")]) {
            if fields.contains_key(&name) {
                return Err(ShapeError::Collision { path: below(path, &name) });
            }
        }
        Ok(Shape { fields })
    }

    /// What a schema of one value comes to, and whether it may be null.
    fn kind(&mut self, schema: &'s Json, path: &str, depth: usize) -> Result<(Kind, bool), ShapeError> {
        let opaque = |why: Hidden| Ok((Kind::Opaque(why), false));
        let Some(members) = schema.as_object() else {
            // `true` and `false` are schemas; neither says a type.
            return match schema {
                Json::Bool(_) => opaque(Hidden::Untyped),
                _ => Err(ShapeError::Keyword { path: path.to_owned(), keyword: "properties".to_owned() }),
            };
        };
        // References may go round without a property between them.
        if depth > MAX_TYPED_DEPTH {
            return opaque(Hidden::Depth);
        }
        let alone = |keyword: &str| members.iter().all(|(k, _)| k == keyword || ANNOTATIONS.contains(&k.as_str()));
        if let Some(reference) = schema.get("$ref") {
            let target = match reference.as_text() {
                Some(target) if alone("$ref") => target,
                _ => return opaque(Hidden::Keyword("$ref".to_owned())),
            };
            if self.followed.contains(&target) {
                return opaque(Hidden::Recursion);
            }
            let Some(found) = find(self.root, target) else { return opaque(Hidden::Unresolved) };
            self.followed.push(target);
            let kind = self.kind(found, path, depth + 1);
            self.followed.pop();
            return kind;
        }
        if let Some(other) = ["anyOf", "oneOf"].into_iter().find_map(|k| or_null(schema.get(k)?).filter(|_| alone(k))) {
            return Ok((self.kind(other, path, depth + 1)?.0, true));
        }
        let (name, nullable) = match schema.get("type") {
            Some(Json::Text(name)) => (name.as_str(), false),
            Some(Json::Array(names)) => {
                let mut others = names.iter().filter_map(Json::as_text).filter(|n| *n != "null");
                let nullable = names.iter().any(|n| n.as_text() == Some("null"));
                match (others.next(), others.next()) {
                    (Some(name), None) => (name, nullable),
                    _ => return opaque(Hidden::Union),
                }
            }
            _ => {
                let unions = ["anyOf", "oneOf", "allOf"];
                let union = members.iter().any(|(k, _)| unions.contains(&k.as_str()));
                return opaque(if union { Hidden::Union } else { Hidden::Untyped });
            }
        };
        Ok((self.typed(schema, members, name, (path, depth))?, nullable))
    }

    /// A schema that names one type.
    fn typed(
        &mut self,
        schema: &'s Json,
        members: &'s [(String, Json)],
        name: &str,
        (path, depth): (&str, usize),
    ) -> Result<Kind, ShapeError> {
        let wrong = |keyword: &str| ShapeError::Keyword { path: path.to_owned(), keyword: keyword.to_owned() };
        // A keyword that is not understood asserts something that would not be checked here.
        let unknown = |keywords: &[&str]| {
            let known = |k: &str| k == "type" || ANNOTATIONS.contains(&k) || keywords.contains(&k);
            let first = members.iter().map(|(k, _)| k).find(|k| !known(k));
            first.map(|k| Kind::Opaque(Hidden::Keyword(crate::json::shown(k))))
        };
        let number = |keyword: &str| match schema.get(keyword) {
            None => Ok(None),
            Some(Json::Number(n)) => Ok(Some(*n)),
            Some(_) => Err(wrong(keyword)),
        };
        let count = |keyword: &str| match schema.get(keyword) {
            None => Ok(None),
            Some(n) => n.as_integer().and_then(|n| u64::try_from(n).ok()).map(Some).ok_or_else(|| wrong(keyword)),
        };
        let among = || match (schema.get("enum"), schema.get("const")) {
            (None, None) => Ok(None),
            (Some(Json::Array(values)), None) => Ok(Some(values.clone())),
            (None, Some(value)) => Ok(Some(vec![value.clone()])),
            _ => Err(wrong("enum")),
        };
        let understood: &[&str] = match name {
            "integer" => &["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "enum", "const"],
            "number" => &["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"],
            "string" => &["minLength", "maxLength", "enum", "const", "pattern"],
            "array" => &["items", "minItems", "maxItems"],
            "object" => &["properties", "required", "additionalProperties"],
            _ => &[],
        };
        if let Some(opaque) = unknown(understood) {
            return Ok(opaque);
        }
        // Before draft 6 an exclusive bound was a word about the other one.
        let older = ["exclusiveMinimum", "exclusiveMaximum"].map(|k| matches!(schema.get(k), Some(Json::Bool(_))));
        if older.contains(&true) {
            return Ok(Kind::Opaque(Hidden::Keyword("exclusiveMinimum".to_owned())));
        }
        let span = || {
            let (min, max) = (number("minimum")?, number("maximum")?);
            Ok::<_, ShapeError>(Span {
                min,
                max,
                above: number("exclusiveMinimum")?,
                below: number("exclusiveMaximum")?,
            })
        };
        let pattern = match schema.get("pattern") {
            None => None,
            Some(Json::Text(text)) => match self.pattern(text) {
                Some(pattern) => Some(pattern),
                None => return Ok(Kind::Opaque(Hidden::Keyword("pattern".to_owned()))),
            },
            Some(_) => return Err(wrong("pattern")),
        };
        Ok(match name {
            "boolean" => Kind::Bool,
            "integer" => Kind::Long { span: span()?, among: among()? },
            "number" => Kind::Number { span: span()? },
            "string" => Kind::Text { min: count("minLength")?, max: count("maxLength")?, among: among()?, pattern },
            "array" => {
                let items = match schema.get("items") {
                    None => Kind::Opaque(Hidden::Untyped),
                    // An element that may be null has no Cedar type of its own.
                    Some(items) => match self.kind(items, &below(path, "*"), depth + 1)? {
                        (kind, false) => kind,
                        (_, true) => Kind::Opaque(Hidden::NullElements),
                    },
                };
                Kind::Array { items: Box::new(items), min: count("minItems")?, max: count("maxItems")? }
            }
            "object"
                if schema.get("properties").is_some()
                    && schema.get("additionalProperties").is_none_or(|a| *a == Json::Bool(false)) =>
            {
                Kind::Record(self.object(schema, path, depth)?)
            }
            "object" => Kind::Opaque(Hidden::Map),
            _ => Kind::Opaque(Hidden::Untyped),
        })
    }
}

/// Of a union of two, the one that is not null, if the other one is.
fn or_null(union: &Json) -> Option<&Json> {
    let null = |schema: &&Json| schema.get("type").and_then(Json::as_text) == Some("null");
    match union.as_array()? {
        [one, other] if null(&other) && !null(&one) => Some(one),
        [one, other] if null(&one) && !null(&other) => Some(other),
        _ => None,
    }
}

/// What a reference within a schema points at: `#` and a JSON pointer (RFC 6901). Anything else is not followed.
fn find<'s>(root: &'s Json, reference: &str) -> Option<&'s Json> {
    let pointer = reference.strip_prefix('#')?;
    let Some(pointer) = pointer.strip_prefix('/') else { return pointer.is_empty().then_some(root) };
    pointer.split('/').try_fold(root, |at, step| match at {
        Json::Array(items) => items.get(step.parse::<usize>().ok()?),
        object => object.get(&step.replace("~1", "/").replace("~0", "~")),
    })
}
