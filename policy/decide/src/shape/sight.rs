//! What policy sees of a tool's input, and what it cannot: the report that a registrar reads before a tool is listed.
//!
//! Absent: values; what a particular input hides from policy is in its own `opaque`.

use std::fmt;

use serde::Serialize;

use super::{Kind, Shape, below};

/// Why Cedar cannot type something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hidden {
    /// No type is named.
    Untyped,
    /// One of several types.
    Union,
    /// An object whose properties are not declared, or not all of them.
    Map,
    /// It refers to what it is a part of.
    Recursion,
    /// It refers to what is not in the schema.
    Unresolved,
    /// A keyword that is checked, and that no type of Cedar can say.
    Keyword(String),
    /// An array of arrays.
    Nested,
    /// An array whose elements may be null.
    NullElements,
    /// Nested deeper than is typed.
    Depth,
    /// More properties than are typed.
    Size,
}

impl fmt::Display for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Untyped => "its schema names no type",
            Self::Union => "it may be of several types",
            Self::Map => "its properties are not all declared",
            Self::Recursion => "it is recursive",
            Self::Unresolved => "its `$ref` leads to nothing in the schema",
            Self::Keyword(keyword) => return write!(f, "keyword `{keyword}` has no counterpart in a policy type"),
            Self::Nested => "its elements are arrays",
            Self::NullElements => "its elements may be null",
            Self::Depth => "it is nested too deep",
            Self::Size => "the schema has too many properties",
        })
    }
}

/// Something that policy can ask about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// JSON pointer in the input; `*` stands for every element.
    pub pointer: String,
    /// How a policy writes it.
    pub attribute: String,
    /// Its Cedar type.
    #[serde(rename = "type")]
    pub cedar_type: String,
    /// A policy must ask `has` first.
    pub optional: bool,
}

/// Something that policy cannot see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Blind {
    /// JSON pointer in the input.
    pub pointer: String,
    /// Why.
    pub reason: String,
}

/// What policy sees of a tool's input.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sight {
    /// What it sees, in the order of the names.
    pub seen: Vec<Seen>,
    /// What it sees unless the value has no exact form: then it is listed in `context.opaque`.
    pub sometimes: Vec<Blind>,
    /// What it never sees: listed in `context.opaque` wherever it stands in an input.
    pub never: Vec<Blind>,
}

const INEXACT: &str = "absent where a number is not exact in four decimal places";

impl Shape {
    /// JSON pointers of declared properties that policy can never see.
    pub fn never_seen(&self) -> Vec<String> {
        self.sight().never.into_iter().map(|blind| blind.pointer).collect()
    }

    /// What policy sees of an input and what it does not, for the registrar's report.
    pub fn sight(&self) -> Sight {
        let mut sight = Sight::default();
        self.look("", "context.input", &mut sight);
        sight
    }

    fn look(&self, path: &str, attribute: &str, sight: &mut Sight) {
        for (name, field) in &self.fields {
            let pointer = below(path, name);
            let attribute_of = |name: &str| {
                if !name.is_empty() && name.bytes().enumerate().all(|(at, b)| identifier(at, b)) {
                    return format!("{attribute}.{name}");
                }
                let mut quoted = String::new();
                crate::value::write_cedar_string(name, &mut quoted);
                format!("{attribute}[{quoted}]")
            };
            let optional = !field.required || field.nullable;
            let mut seen = |name: &str, cedar_type: String, optional: bool| {
                let (pointer, attribute) = (pointer.clone(), attribute_of(name));
                sight.seen.push(Seen { pointer, attribute, cedar_type, optional });
            };
            let typed = |kind: &Kind| {
                let mut text = String::new();
                kind.cedar_type(&mut text);
                text
            };
            match &field.kind {
                Kind::Opaque(why) => sight.never.push(Blind { pointer, reason: why.to_string() }),
                Kind::Record(shape) => {
                    // The record itself, so that a policy can ask whether it is there.
                    if optional {
                        seen(name, "record".to_owned(), true);
                    }
                    shape.look(&pointer, &attribute_of(name), sight);
                }
                Kind::Array { items, .. } => {
                    if items.typable() {
                        seen(name, format!("Set<{}>", typed(items)), optional || items.may_be_opaque());
                    }
                    seen(&format!("{name}Count"), "Long".to_owned(), optional);
                    seen(&format!("{name}Text"), "String".to_owned(), optional);
                    match &**items {
                        Kind::Opaque(why) => {
                            sight.never.push(Blind { pointer, reason: format!("its elements: {why}") });
                        }
                        Kind::Array { .. } => sight.never.push(Blind { pointer, reason: Hidden::Nested.to_string() }),
                        items => items.blind(&pointer, sight),
                    }
                }
                kind => {
                    seen(name, typed(kind), optional || kind.may_be_opaque());
                    kind.blind(&pointer, sight);
                }
            }
        }
    }
}

impl Kind {
    /// What of a typed value, or of an element of an array, may or must stay unseen.
    fn blind(&self, pointer: &str, sight: &mut Sight) {
        match self {
            Self::Number { .. } => {
                sight.sometimes.push(Blind { pointer: pointer.to_owned(), reason: INEXACT.to_owned() });
            }
            // The set has the elements without what cannot be typed of them, and the array is listed as opaque.
            Self::Record(shape) => {
                let inner = shape.sight();
                let each = |blind: Blind| Blind { pointer: format!("{pointer}/*{}", blind.pointer), ..blind };
                sight.sometimes.extend(inner.sometimes.into_iter().map(each));
                sight.never.extend(inner.never.into_iter().map(each));
            }
            _ => {}
        }
    }
}

fn identifier(at: usize, byte: u8) -> bool {
    byte == b'_' || byte.is_ascii_alphabetic() || (at > 0 && byte.is_ascii_digit())
}
