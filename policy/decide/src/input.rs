//! Typed tool input: JSON read once and strictly, checked against the tool's schema, converted by declared type.
//!
//! Digest, stored blob and the tool itself all use [`TypedInput::canonical`]. Conversion never looks at the value to
//! choose a Cedar type, so an entity cannot be smuggled in as JSON. What Cedar cannot type is *opaque*: it is passed
//! on, its path is listed, and policy sees the list. Absent: decisions. Read next: `compile` (JSON Schema to a shape),
//! `sight` (what of it policy sees), `schema`, `context`.
//!
//! | JSON Schema | Cedar |
//! |---|---|
//! | `boolean` | `Bool` |
//! | `integer` | `Long` |
//! | `number` | optional `decimal`; inexact within 4 places: absent and opaque |
//! | `string` | `String` |
//! | `array` of a typed element | `<f>: Set<…>` (optional if an element may be opaque), `<f>Count: Long`, `<f>Text: String` |
//! | nullable (`"type": [T, "null"]`, or `anyOf` of T and null), or not required | optional |
//! | `$ref` to a definition of the same schema | what it refers to |
//! | `object` with declared properties | record |
//! | union, map, recursion, anything else | absent and opaque |

mod compile;
mod pattern;
mod sight;
mod smallest;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use cedar_policy_core::ast::Value;
use countersign_gateway_model::{Digest, Name};

use crate::catalogue::CompiledTool;
use crate::detectors::{self, Found};
use crate::json::{Digits, Json, JsonError, shown};
use crate::masks::{self, Step};
use crate::value;

use pattern::Pattern;
pub use sight::{Blind, Hidden, Seen, Sight};

/// Largest input that is read, in bytes.
pub const MAX_INPUT: usize = 1 << 20;

/// Keys that mean something in Cedar's JSON forms and are therefore refused everywhere in an input.
const RESERVED: [&str; 3] = ["__entity", "__extn", "__expr"];

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

    pub(crate) fn record(&self) -> &Value {
        &self.record
    }
}

/// Why an input is refused. `path` is a JSON pointer; the root is empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    /// Not strict JSON.
    #[error("the input cannot be read")]
    Json(#[from] JsonError),
    /// Too many bytes.
    #[error("the input has {size} bytes; at most {MAX_INPUT} are read")]
    TooLarge {
        /// How many.
        size: usize,
    },
    /// A value of another type than declared.
    #[error("`{path}` is not {expected}; see the tool's input schema")]
    WrongType {
        /// Where.
        path: String,
        /// What the schema declares.
        expected: String,
    },
    /// A property that the schema does not declare.
    #[error("`{path}` is not declared by the tool's input schema; leave it out")]
    Undeclared {
        /// Where.
        path: String,
    },
    /// A required property is absent.
    #[error("`{path}` is required by the tool's input schema; add it")]
    Missing {
        /// Where.
        path: String,
    },
    /// A field must not be passed on raw, and the tool takes neither its replacement nor its absence.
    #[error("the tool's input schema takes neither what mask `{mask}` leaves of a field nor its absence")]
    Unmaskable {
        /// Which mask or transform.
        mask: String,
    },
    /// A key that would mean something to Cedar.
    #[error("`{path}` is a reserved key; rename it")]
    Reserved {
        /// Where.
        path: String,
    },
}

/// Why a JSON Schema cannot be a tool's input schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// The root is not an object type.
    #[error("its root is not `\"type\": \"object\"`; wrap the value in an object")]
    RootNotObject,
    /// A keyword holds a value of another form than JSON Schema gives it.
    #[error("keyword `{keyword}` at `{path}` has a wrong form")]
    Keyword {
        /// Where.
        path: String,
        /// Which.
        keyword: String,
    },
    /// A property whose name is reserved, or not NFC.
    #[error("property `{path}` has a name that cannot be used; rename it")]
    Name {
        /// Where.
        path: String,
    },
    /// Two properties would be the same Cedar attribute.
    #[error("property `{path}` collides with what an array beside it adds (`…Count`, `…Text`); rename it")]
    Collision {
        /// Where.
        path: String,
    },
}

/// A tool's input schema, ready to check and convert.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    fields: BTreeMap<String, Field>,
}

#[derive(Clone, Debug, PartialEq)]
struct Field {
    kind: Kind,
    required: bool,
    nullable: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Bool,
    Long {
        span: Span,
        among: Option<Vec<Json>>,
    },
    Number {
        span: Span,
    },
    Text {
        min: Option<u64>,
        max: Option<u64>,
        among: Option<Vec<Json>>,
        pattern: Option<Pattern>,
    },
    Array {
        items: Box<Kind>,
        min: Option<u64>,
        max: Option<u64>,
    },
    Record(Shape),
    /// All that is known is that Cedar cannot type it, and why.
    Opaque(Hidden),
}

/// Where a number may lie.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Span {
    min: Option<f64>,
    max: Option<f64>,
    above: Option<f64>,
    below: Option<f64>,
}

impl Span {
    fn holds(&self, n: f64) -> bool {
        self.min.is_none_or(|min| n >= min)
            && self.max.is_none_or(|max| n <= max)
            && self.above.is_none_or(|above| n > above)
            && self.below.is_none_or(|below| n < below)
    }
}

/// How surely a mask replaces what stands at a place; the last one counts where several apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reach {
    /// The schema has no such place.
    Nothing,
    /// Whatever passes the schema has the value there, or does not have it.
    Sure,
    /// One element of an array, which is another one as soon as an element before it is left out.
    OneElement,
    /// Below a value of which the schema says nothing: the same may stand elsewhere in it.
    BelowOpaque,
}

impl Shape {
    /// The Cedar record type, in schema syntax.
    pub(crate) fn cedar_type(&self, out: &mut String) {
        out.push('{');
        let mut first = true;
        let mut attribute = |out: &mut String, name: &str, optional: bool, write: &dyn Fn(&mut String)| {
            if !std::mem::take(&mut first) {
                out.push_str(", ");
            }
            value::write_cedar_string(name, out);
            out.push_str(if optional { "?: " } else { ": " });
            write(out);
        };
        for (name, field) in &self.fields {
            let optional = !field.required || field.nullable;
            match &field.kind {
                Kind::Opaque(_) => {}
                Kind::Array { items, .. } => {
                    if items.typable() {
                        attribute(out, name, optional || items.may_be_opaque(), &|out| {
                            out.push_str("Set<");
                            items.cedar_type(out);
                            out.push('>');
                        });
                    }
                    attribute(out, &format!("{name}Count"), optional, &|out| out.push_str("Long"));
                    attribute(out, &format!("{name}Text"), optional, &|out| out.push_str("String"));
                }
                kind => attribute(out, name, optional || kind.may_be_opaque(), &|out| kind.cedar_type(out)),
            }
        }
        out.push('}');
    }

    /// Whether a value at that place may pass the schema.
    pub(crate) fn declares(&self, steps: &[String]) -> bool {
        let Some((step, rest)) = steps.split_first() else { return true };
        let below = |field: &Field| field.kind.declares(rest);
        if step == "*" { self.fields.values().any(below) } else { self.fields.get(step).is_some_and(below) }
    }

    /// How surely whatever stands at a place is replaced there.
    pub(crate) fn reach(&self, steps: &[String]) -> Reach {
        let Some((step, rest)) = steps.split_first() else { return Reach::Sure };
        let below = |field: &Field| field.kind.reach(rest);
        if step == "*" {
            self.fields.values().map(below).max().unwrap_or(Reach::Nothing)
        } else {
            self.fields.get(step).map_or(Reach::Nothing, below)
        }
    }

    /// Whether a value passes the schema.
    pub(crate) fn check(&self, value: &Json) -> Result<(), InputError> {
        self.convert(value, "", &mut BTreeSet::new()).map(drop)
    }

    /// Checks one value and converts it.
    fn convert(&self, value: &Json, path: &str, opaque: &mut BTreeSet<String>) -> Result<Value, InputError> {
        let members = value.as_object().ok_or_else(|| wrong_type(path, "an object"))?;
        if let Some((name, _)) = members.iter().find(|(name, _)| !self.fields.contains_key(name)) {
            return Err(InputError::Undeclared { path: below(path, name) });
        }
        let mut record: Vec<(String, Value)> = Vec::with_capacity(self.fields.len());
        for (name, field) in &self.fields {
            let Some(member) = value.get(name) else {
                if field.required {
                    return Err(InputError::Missing { path: below(path, name) });
                }
                continue;
            };
            let path = below(path, name);
            if *member == Json::Null && field.nullable {
                continue;
            }
            if let Kind::Array { items, min, max } = &field.kind {
                let list = member.as_array().ok_or_else(|| wrong_type(&path, "an array"))?;
                let count = count_within(list, *min, *max, &path)?;
                if let Some(set) = items.convert_items(list, &path, opaque)? {
                    record.push((name.clone(), set));
                }
                record.push((format!("{name}Count"), Value::from(i64::try_from(count).unwrap_or(i64::MAX))));
                let mut text = String::new();
                member.write(&mut text);
                record.push((format!("{name}Text"), value::string(text)));
            } else if let Some(value) = field.kind.convert(member, &path, opaque)? {
                record.push((name.clone(), value));
            }
        }
        Ok(value::record(record))
    }
}

impl Kind {
    fn declares(&self, steps: &[String]) -> bool {
        match (self, steps.split_first()) {
            (_, None) | (Self::Opaque(_), _) => true,
            (Self::Record(shape), _) => shape.declares(steps),
            (Self::Array { items, .. }, Some((step, rest))) => {
                (step == "*" || step.parse::<usize>().is_ok()) && items.declares(rest)
            }
            _ => false,
        }
    }

    fn reach(&self, steps: &[String]) -> Reach {
        match (self, steps.split_first()) {
            (_, None) => Reach::Sure,
            (Self::Record(shape), _) => shape.reach(steps),
            (Self::Array { items, .. }, Some((step, rest))) if step == "*" => items.reach(rest),
            (Self::Array { .. }, Some((step, _))) if step.parse::<usize>().is_ok() => Reach::OneElement,
            (Self::Opaque(_), _) => Reach::BelowOpaque,
            _ => Reach::Nothing,
        }
    }

    /// Whether Cedar has a type for it as an element of a set.
    fn typable(&self) -> bool {
        !matches!(self, Self::Opaque(_) | Self::Array { .. })
    }

    /// Whether a value that passes may still be absent in Cedar.
    fn may_be_opaque(&self) -> bool {
        matches!(self, Self::Number { .. } | Self::Opaque(_))
    }

    fn cedar_type(&self, out: &mut String) {
        match self {
            Self::Long { .. } => out.push_str("Long"),
            Self::Number { .. } => out.push_str("decimal"),
            Self::Text { .. } => out.push_str("String"),
            Self::Record(shape) => shape.cedar_type(out),
            // The last two are never asked: neither stands in a type (`typable`), and such a field has its own rule.
            Self::Bool | Self::Array { .. } | Self::Opaque(_) => out.push_str("Bool"),
        }
    }

    /// `None`: passed, and opaque.
    fn convert(&self, value: &Json, path: &str, opaque: &mut BTreeSet<String>) -> Result<Option<Value>, InputError> {
        let listed = |among: &Option<Vec<Json>>| among.as_ref().is_none_or(|list| list.contains(value));
        match (self, value) {
            (Self::Bool, Json::Bool(b)) => Ok(Some(Value::from(*b))),
            (Self::Long { span, among }, Json::Number(n)) => {
                let long = value.as_integer().ok_or_else(|| wrong_type(path, "an integer"))?;
                if span.holds(*n) && listed(among) {
                    Ok(Some(Value::from(long)))
                } else {
                    Err(wrong_type(path, "an integer within its declared bounds"))
                }
            }
            (Self::Number { span }, Json::Number(n)) => {
                if !span.holds(*n) {
                    return Err(wrong_type(path, "a number within its declared bounds"));
                }
                let exact = decimal(*n).and_then(|text| value::decimal(&text));
                if exact.is_none() {
                    opaque.insert(path.to_owned());
                }
                Ok(exact)
            }
            (Self::Text { min, max, among, pattern }, Json::Text(s)) => {
                let length = u64::try_from(s.chars().count()).unwrap_or(u64::MAX);
                if min.is_some_and(|min| length < min) || max.is_some_and(|max| length > max) || !listed(among) {
                    return Err(wrong_type(path, "a string that the schema allows"));
                }
                if pattern.as_ref().is_some_and(|pattern| !pattern.holds(s)) {
                    return Err(wrong_type(path, "a string that matches the schema's pattern"));
                }
                Ok(Some(value::string(s.clone())))
            }
            (Self::Record(shape), Json::Object(_)) => shape.convert(value, path, opaque).map(Some),
            (Self::Array { items, min, max }, Json::Array(list)) => {
                count_within(list, *min, *max, path)?;
                items.convert_items(list, path, &mut BTreeSet::new())?;
                opaque.insert(path.to_owned());
                Ok(None)
            }
            (Self::Opaque(_), _) => {
                opaque.insert(path.to_owned());
                Ok(None)
            }
            (Self::Array { .. }, _) => Err(wrong_type(path, "an array")),
            (Self::Bool, _) => Err(wrong_type(path, "a boolean")),
            (Self::Long { .. }, _) => Err(wrong_type(path, "an integer")),
            (Self::Number { .. }, _) => Err(wrong_type(path, "a number")),
            (Self::Text { .. }, _) => Err(wrong_type(path, "a string")),
            (Self::Record(_), _) => Err(wrong_type(path, "an object")),
        }
    }

    /// The set of an array's elements; absent if any of them is opaque, and then the array's path is listed.
    fn convert_items(
        &self,
        list: &[Json],
        path: &str,
        opaque: &mut BTreeSet<String>,
    ) -> Result<Option<Value>, InputError> {
        let mut values = Vec::with_capacity(list.len());
        let mut inner = BTreeSet::new();
        for (i, item) in list.iter().enumerate() {
            values.extend(self.convert(item, &below(path, &i.to_string()), &mut inner)?);
        }
        if !inner.is_empty() {
            opaque.insert(path.to_owned());
        }
        // A set that lacks an element would be a lie that `containsAll` believes.
        Ok((self.typable() && values.len() == list.len()).then(|| value::set(values)))
    }
}

/// Decimal text with at most four places, if the double is exactly that within Cedar's `decimal`.
fn decimal(n: f64) -> Option<String> {
    let Digits { digits, exponent } = Digits::shortest(n);
    let count = i64::try_from(digits.len()).ok()?;
    let places = (count - exponent).max(0);
    if places > 4 || exponent > 15 {
        return None;
    }
    let mut text = String::new();
    if n < 0.0 {
        text.push('-');
    }
    let int = usize::try_from(exponent.max(0)).ok()?;
    let mut all = "0".repeat(usize::try_from((-exponent).max(0)).ok()?);
    all.push_str(&digits);
    while all.len() < int {
        all.push('0');
    }
    let (whole, fraction) = all.split_at_checked(int)?;
    let _ = write!(text, "{}.{:0<1}", if whole.is_empty() { "0" } else { whole }, fraction);
    Some(text)
}

fn count_within(list: &[Json], min: Option<u64>, max: Option<u64>, path: &str) -> Result<u64, InputError> {
    let count = u64::try_from(list.len()).unwrap_or(u64::MAX);
    if min.is_some_and(|min| count < min) || max.is_some_and(|max| count > max) {
        return Err(wrong_type(path, "an array of the declared length"));
    }
    Ok(count)
}

fn wrong_type(path: &str, expected: &str) -> InputError {
    InputError::WrongType { path: path.to_owned(), expected: expected.to_owned() }
}

/// RFC 6901.
fn below(path: &str, name: &str) -> String {
    format!("{path}/{}", shown(name).replace('~', "~0").replace('/', "~1"))
}

fn refuse_reserved(value: &Json, path: &str) -> Result<(), InputError> {
    match value {
        Json::Object(members) => members.iter().try_for_each(|(name, member)| {
            if RESERVED.contains(&name.as_str()) {
                return Err(InputError::Reserved { path: below(path, name) });
            }
            refuse_reserved(member, &below(path, name))
        }),
        Json::Array(items) => {
            items.iter().enumerate().try_for_each(|(i, item)| refuse_reserved(item, &below(path, &i.to_string())))
        }
        _ => Ok(()),
    }
}

/// Reads, checks, masks and converts the input of one tool. What a mask takes away is in nothing that this gives.
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
    rewritten(tool, value, &tool.masks)
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

    #[test]
    fn schemas_that_cannot_hold_are_refused_when_registered() {
        for (schema, part) in [
            (json!({"type": "array"}), "root"),
            (json!({"type": "object", "required": ["a"]}), "required"),
            (json!({"type": "object", "properties": {"__entity": {"type": "string"}}}), "cannot be used"),
            (
                json!({"type": "object", "properties": {"a": {"type": "array"}, "aCount": {"type": "integer"}}}),
                "collides",
            ),
            (json!({"type": "object", "properties": {"a": {"type": "string", "maxLength": "9"}}}), "wrong form"),
            (json!({"type": "object", "properties": []}), "wrong form"),
        ] {
            let error = Shape::compile(&schema).unwrap_err().to_string();
            assert!(error.contains(part), "{schema}: {error}");
        }
    }

    proptest! {
        #[test]
        fn a_decimal_keeps_the_value_of_its_number(units in -9_000_000_000_000_000_i64..9_000_000_000_000_000, places in 0_u32..=4) {
            let scale = 10_i64.pow(places);
            let text = format!("{}{}.{:0width$}", if units < 0 { "-" } else { "" }, units.abs() / scale,
                units.abs() % scale, width = places.max(1) as usize);
            if let Ok(Json::Number(n)) = Json::parse(text.as_bytes()) {
                prop_assume!(units.abs() / scale < 900_000_000_000_000);
                let shown = decimal(n).unwrap();
                let same = |t: &str| {
                    let (whole, fraction) = t.trim_start_matches('-').split_once('.').unwrap();
                    (whole.trim_start_matches('0').to_owned(), fraction.trim_end_matches('0').to_owned())
                };
                prop_assert_eq!(same(&shown), same(&text));
                prop_assert!(value::decimal(&shown).is_some());
            }
        }

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
