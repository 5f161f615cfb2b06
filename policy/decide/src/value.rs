//! Cedar values from plain ones, and text that is safe inside a Cedar schema. Internal.
//!
//! Values are made directly instead of through expressions: the result is the same and costs a tenth. Whatever is made
//! here is still checked against the schema when the request is built. Read next: `context`.

use std::fmt::Write as _;
use std::sync::{Arc, LazyLock};

use cedar_policy_core::ast::{EntityUID, Literal, Name, PartialValue, Value, ValueKind};
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
    Value::set(values, None)
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
