//! Cedar values from plain ones, and text that is safe inside a Cedar schema. Internal.
//!
//! Values are made directly instead of through expressions: the result is the same and costs a tenth. Whatever is made
//! here is still checked against the schema when the request is built. Read next: `context`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::{Arc, LazyLock};

use cedar_policy_core::ast::{EntityUID, InternalName, Literal, Name, PartialValue, Value, ValueKind};
use cedar_policy_core::extensions::Extensions;
use countersign_gateway_model::Timestamp;

static DECIMAL: LazyLock<Option<Name>> = LazyLock::new(|| "decimal".parse().ok());
static DATETIME: LazyLock<Option<Name>> = LazyLock::new(|| "datetime".parse().ok());

pub(crate) fn string(text: impl AsRef<str>) -> Value {
    Value::from(text.as_ref())
}

pub(crate) fn entity(uid: Arc<EntityUID>) -> Value {
    Value::new(ValueKind::Lit(Literal::EntityUID(uid)), None)
}

pub(crate) fn set(values: impl IntoIterator<Item = Value>) -> Value {
    static EMPTY: LazyLock<Value> = LazyLock::new(|| Value::empty_set(None));
    let mut values = values.into_iter().peekable();
    if values.peek().is_none() { EMPTY.clone() } else { Value::set(values, None) }
}

pub(crate) fn record(pairs: impl IntoIterator<Item = (String, Value)>) -> Value {
    Value::record(pairs, None)
}

fn construct(name: Option<&Name>, text: &str) -> Option<Value> {
    let function = Extensions::all_available().func(name?).ok()?;
    match function.call(&[string(text)]).ok()? {
        PartialValue::Value(value) => Some(value),
        PartialValue::Residual(_) => None,
    }
}

/// `None` if Cedar's `decimal` cannot hold it.
pub(crate) fn decimal(text: &str) -> Option<Value> {
    construct(DECIMAL.as_ref(), text)
}

/// `None` after the year 9999.
pub(crate) fn datetime(at: Timestamp) -> Option<Value> {
    construct(DATETIME.as_ref(), &at.to_string())
}

/// A string literal as Cedar reads it, quotes included.
pub(crate) fn write_cedar_string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            ' '..='~' => out.push(c),
            c => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
        }
    }
    out.push('"');
}

/// Writes all that a schema can see of a value: kinds, keys, entity types, and the ids of entities that have no record
/// (enum members, actions). Two values with the same signature pass, or fail, the same schema.
pub(crate) fn write_signature(value: &Value, out: &mut Vec<u8>) {
    match value.value_kind() {
        ValueKind::Lit(Literal::Bool(_)) => out.push(b'b'),
        ValueKind::Lit(Literal::Long(_)) => out.push(b'l'),
        ValueKind::Lit(Literal::String(_)) => out.push(b's'),
        ValueKind::Lit(Literal::EntityUID(uid)) => {
            if let Some(kind) = crate::reference::kind_of(uid.entity_type()) {
                out.extend([b'e', kind as u8]);
            } else {
                out.push(b'u');
                write_type(uid.entity_type().name(), out);
                write_text(uid.eid().as_ref(), out);
            }
        }
        ValueKind::Set(set) => {
            let signature = |member| {
                let mut signature = Vec::new();
                write_signature(member, &mut signature);
                signature
            };
            let members: BTreeSet<Vec<u8>> = set.iter().map(signature).collect();
            out.push(b'[');
            out.extend(members.into_iter().flatten());
            out.push(b']');
        }
        ValueKind::Record(members) => {
            out.push(b'{');
            for (key, member) in members.iter() {
                write_text(key, out);
                write_signature(member, out);
            }
            out.push(b'}');
        }
        ValueKind::ExtensionValue(extension) => {
            out.push(b'x');
            write_type(&extension.typename(), out);
        }
    }
}

fn write_type(name: &Name, out: &mut Vec<u8>) {
    let name: &InternalName = name.as_ref();
    let parts = name.namespace_components().chain(std::iter::once(name.basename()));
    parts.for_each(|part| write_text(part.as_ref(), out));
    out.push(b'.');
}

/// Length, then bytes: no text can be mistaken for another's beginning.
pub(crate) fn write_text(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&text.len().to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}
