//! A tool's input schema as a shape: what its inputs are checked against, and the Cedar types of what they hold.
//!
//! What Cedar cannot type is *opaque*: it is passed on, its path is listed, and policy sees the list. Absent: bytes, masks,
//! detectors (`input`). Read next: `compile` (JSON Schema to a shape), `sight` (what of it policy sees).
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

use cedar_policy_core::ast::Value;

use crate::json::{Digits, Json, JsonError, shown};
use crate::value;

use pattern::Pattern;
pub use sight::{Blind, Hidden, Seen, Sight};

/// Largest input that is read, in bytes.
pub const MAX_INPUT: usize = 1 << 20;

/// Keys that mean something in Cedar's JSON forms and are therefore refused everywhere in an input.
const RESERVED: [&str; 3] = ["__entity", "__extn", "__expr"];

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
    /// A field must not be passed on raw, and the tool takes neither its replacement nor its absence. Reading an input
    /// gives the rest of it instead, for the record of the denial.
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
    pub(crate) fields: BTreeMap<String, Field>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Field {
    pub(crate) kind: Kind,
    pub(crate) required: bool,
    pub(crate) nullable: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
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
pub(crate) struct Span {
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

/// What a schema asks of the value at one place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot<'s> {
    kind: &'s Kind,
    /// The input does not pass without it.
    pub(crate) required: bool,
    nullable: bool,
}

impl Slot<'_> {
    /// Whether this value passes there.
    pub(crate) fn takes(&self, value: &Json) -> bool {
        (self.nullable && *value == Json::Null) || self.kind.convert(value, "", &mut BTreeSet::new()).is_ok()
    }

    /// Whether a text may stand there at all.
    pub(crate) fn may_be_text(&self) -> bool {
        matches!(self.kind, Kind::Text { .. } | Kind::Opaque(_))
    }

    /// The only values that may stand there, where the schema lists them.
    pub(crate) fn listed(&self) -> Option<&[Json]> {
        match self.kind {
            Kind::Text { among, .. } | Kind::Long { among, .. } => among.as_deref(),
            _ => None,
        }
    }
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

    /// What the schema asks of whatever stands at a place, wherever a pointer leads surely.
    pub(crate) fn slots(&self, steps: &[String]) -> Vec<Slot<'_>> {
        let Some((step, rest)) = steps.split_first() else { return Vec::new() };
        let mut slots = Vec::new();
        for (_, field) in self.fields.iter().filter(|(name, _)| step == "*" || *name == step) {
            if rest.is_empty() {
                slots.push(Slot { kind: &field.kind, required: field.required, nullable: field.nullable });
            } else {
                slots.extend(field.kind.slots(rest));
            }
        }
        slots
    }

    /// Whether a value passes the schema.
    pub(crate) fn check(&self, value: &Json) -> Result<(), InputError> {
        self.convert(value, "", &mut BTreeSet::new()).map(drop)
    }

    /// Checks one value and converts it.
    pub(crate) fn convert(&self, value: &Json, path: &str, opaque: &mut BTreeSet<String>) -> Result<Value, InputError> {
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

    fn slots(&self, steps: &[String]) -> Vec<Slot<'_>> {
        match (self, steps.split_first()) {
            (Self::Record(shape), Some(_)) => shape.slots(steps),
            (Self::Array { items, min, .. }, Some((step, rest))) if step == "*" => match rest {
                // Every element is left out where one is.
                [] => vec![Slot { kind: items, required: min.is_some_and(|min| min > 0), nullable: false }],
                rest => items.slots(rest),
            },
            _ => Vec::new(),
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
    pub(crate) fn convert(
        &self,
        value: &Json,
        path: &str,
        opaque: &mut BTreeSet<String>,
    ) -> Result<Option<Value>, InputError> {
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
pub(crate) fn decimal(n: f64) -> Option<String> {
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
pub(crate) fn below(path: &str, name: &str) -> String {
    format!("{path}/{}", shown(name).replace('~', "~0").replace('/', "~1"))
}

pub(crate) fn refuse_reserved(value: &Json, path: &str) -> Result<(), InputError> {
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

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
    }
}
