//! The tools that the policies imply, with the input that they read: its fields, each with the type it is used as.
//!
//! A field that is used as two types, or in a way that says nothing of it, is left without a type: policy cannot see it
//! then, and what reads it counts as not carried. Absent: the policies. Read next: `super::rewrite`.

use std::collections::BTreeMap;

use countersign_policy_bundle::{Name, Place};
use serde_json::{Value, json};

use crate::bundle::{Parts, Tool};
use crate::report::Fate;

/// A field's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Bool,
    Integer,
    Number,
    Text,
    Texts,
    Integers,
    /// Nobody can tell.
    Untold,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) kind: Option<Kind>,
    pub(crate) optional: bool,
    /// Values that it is compared with.
    pub(crate) literals: Vec<String>,
}

/// Fields by tool; a path of names below the input.
#[derive(Debug, Default)]
pub(crate) struct Inputs {
    tools: BTreeMap<Name, BTreeMap<Vec<String>, Field>>,
}

/// `context.input.a.b` as a path.
pub(crate) fn input_path(expression: &Value) -> Option<Vec<String>> {
    let access = expression.get(".")?;
    let attr = access.get("attr").and_then(Value::as_str)?.to_owned();
    let left = access.get("left")?;
    if is_input(left) {
        return Some(vec![attr]);
    }
    let mut path = input_path(left)?;
    path.push(attr);
    Some(path)
}

/// `context.input` itself.
pub(crate) fn is_input(expression: &Value) -> bool {
    let access = expression.get(".");
    let context = access.and_then(|a| a.get("left")).and_then(|left| left.get("Var")).and_then(Value::as_str);
    context == Some("context") && access.and_then(|a| a.get("attr")).and_then(Value::as_str) == Some("input")
}

/// The type of a literal.
fn literal(expression: &Value) -> Option<Kind> {
    if let Some(value) = expression.get("Value") {
        return match value {
            Value::Bool(_) => Some(Kind::Bool),
            Value::Number(_) => Some(Kind::Integer),
            Value::String(_) => Some(Kind::Text),
            _ => None,
        };
    }
    if expression.get("decimal").is_some() {
        return Some(Kind::Number);
    }
    match literal(expression.get("Set")?.as_array()?.first()?)? {
        Kind::Text => Some(Kind::Texts),
        Kind::Integer => Some(Kind::Integers),
        _ => None,
    }
}

fn literal_text(expression: &Value) -> Vec<String> {
    match (expression.get("Value"), expression.get("decimal"), expression.get("Set")) {
        (Some(Value::String(text)), _, _) => vec![text.clone()],
        (Some(value @ (Value::Number(_) | Value::Bool(_))), _, _) => vec![value.to_string()],
        (_, Some(call), _) => call.as_array().and_then(|c| c.first()).map(literal_text).unwrap_or_default(),
        (_, _, Some(Value::Array(items))) => items.iter().flat_map(literal_text).collect(),
        _ => Vec::new(),
    }
}

impl Inputs {
    /// Reads what the conditions of one policy say about a tool's input.
    pub(crate) fn read(&mut self, tool: &Name, conditions: &Value) {
        self.tools.entry(tool.clone()).or_default();
        self.walk(tool, conditions);
    }

    fn note(&mut self, tool: &Name, expression: &Value, kind: Option<Kind>, with: &Value) {
        let Some(path) = input_path(expression) else { return };
        let fields = self.tools.entry(tool.clone()).or_default();
        let field = fields.entry(path).or_insert(Field { kind: None, optional: false, literals: Vec::new() });
        field.kind = match (field.kind, kind) {
            (known, None) => known,
            (None, found) => found,
            (Some(known), Some(found)) if known == found => Some(known),
            _ => Some(Kind::Untold),
        };
        field.literals.extend(literal_text(with));
    }

    fn walk(&mut self, tool: &Name, expression: &Value) {
        match expression {
            Value::Array(items) => items.iter().for_each(|item| self.walk(tool, item)),
            Value::Object(map) => {
                for (operator, operands) in map {
                    self.operator(tool, operator, operands);
                }
            }
            _ => {}
        }
    }

    fn operator(&mut self, tool: &Name, operator: &str, operands: &Value) {
        let null = Value::Null;
        let part = |key: &str| operands.get(key).unwrap_or(&null);
        let (left, right) = (part("left"), part("right"));
        match operator {
            "Value" | "kind" => return,
            "body" => return self.walk(tool, operands),
            "." => {
                // Reached only where the field stands by itself: as a truth, or somewhere unexpected.
                let whole = json!({".": operands});
                self.note(tool, &whole, Some(Kind::Bool), &null);
                if input_path(&whole).is_some() {
                    return;
                }
            }
            "<" | "<=" | ">" | ">=" | "+" | "-" | "*" => {
                self.note(tool, left, Some(Kind::Integer), right);
                self.note(tool, right, Some(Kind::Integer), left);
            }
            "==" | "!=" => {
                self.note(tool, left, literal(right).or(Some(Kind::Untold)), right);
                self.note(tool, right, literal(left).or(Some(Kind::Untold)), left);
            }
            "like" => self.note(tool, left, Some(Kind::Text), &null),
            "lessThan" | "lessThanOrEqual" | "greaterThan" | "greaterThanOrEqual" => {
                if let Some([one, other]) = operands.as_array().map(Vec::as_slice) {
                    self.note(tool, one, Some(Kind::Number), other);
                    self.note(tool, other, Some(Kind::Number), one);
                }
            }
            "contains" | "containsAll" | "containsAny" => {
                let set = match literal(right) {
                    Some(Kind::Text | Kind::Texts) => Kind::Texts,
                    Some(Kind::Integer | Kind::Integers) => Kind::Integers,
                    _ => Kind::Untold,
                };
                self.note(tool, left, Some(set), right);
                let member = match (operator, literal(left)) {
                    ("contains", Some(Kind::Texts)) => Kind::Text,
                    ("contains", Some(Kind::Integers)) => Kind::Integer,
                    (_, Some(kind @ (Kind::Texts | Kind::Integers))) => kind,
                    _ => Kind::Untold,
                };
                self.note(tool, right, Some(member), left);
            }
            "has" => self.optional(tool, operands),
            _ => {}
        }
        // What was noted above must not be read as a truth below.
        let children: Vec<&Value> = match operands {
            Value::Object(map) => map.values().collect(),
            Value::Array(items) => items.iter().collect(),
            _ => Vec::new(),
        };
        let truths = ["&&", "||", "!", "if-then-else"].contains(&operator);
        for child in children {
            if truths || input_path(child).is_none() {
                self.walk(tool, child);
            }
        }
    }

    fn optional(&mut self, tool: &Name, operands: &Value) {
        let left = operands.get("left").unwrap_or(&Value::Null);
        let mut path = if is_input(left) { Vec::new() } else { input_path(left).unwrap_or_default() };
        if path.is_empty() && !is_input(left) {
            return;
        }
        let names: Vec<String> = match operands.get("attr") {
            Some(Value::String(name)) => vec![name.clone()],
            Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            _ => return,
        };
        let fields = self.tools.entry(tool.clone()).or_default();
        path.extend(names);
        fields.entry(path).or_insert(Field { kind: None, optional: false, literals: Vec::new() }).optional = true;
    }

    /// A field's type, the same for all of the tools.
    pub(crate) fn kind<'n>(&self, tools: impl IntoIterator<Item = &'n Name>, path: &[String]) -> Option<Kind> {
        let mut kinds = tools.into_iter().map(|tool| self.tools.get(tool).and_then(|fields| fields.get(path)?.kind));
        let first = kinds.next()??;
        (first != Kind::Untold && kinds.all(|kind| kind == Some(first))).then_some(first)
    }

    /// A tool's fields.
    pub(crate) fn fields(&self, tool: &Name) -> impl Iterator<Item = (&Vec<String>, &Field)> {
        self.tools.get(tool).into_iter().flatten()
    }

    /// The catalogue's tools.
    pub(crate) fn catalogue(&self, file: &str, parts: &mut Parts) {
        for (name, fields) in &self.tools {
            let leaves: Vec<(&[String], &Field)> = fields
                .iter()
                .filter(|(path, _)| !fields.keys().any(|other| other.len() > path.len() && other.starts_with(path)))
                .map(|(path, field)| (path.as_slice(), field))
                .collect();
            let input = schema(&leaves);
            let names: Vec<String> = fields.keys().map(|path| path.join(".")).collect();
            let how = if names.is_empty() {
                "no policy reads its input; register it with the schema that its server gives".to_owned()
            } else {
                format!(
                    "its input is inferred from what the policies read ({}); register it with the schema that its server gives",
                    names.join(", ")
                )
            };
            parts.report.say(&Place::start(file), Fate::Interpreted, format!("tool `{name}`"), how);
            let tool = Tool { name: name.clone(), description: String::new(), input, scopes: Vec::new() };
            parts.tools.insert(name.clone(), tool);
        }
    }
}

fn schema(leaves: &[(&[String], &Field)]) -> Value {
    let mut properties = serde_json::Map::new();
    let mut required: Vec<String> = Vec::new();
    let mut below: BTreeMap<&String, Vec<(&[String], &Field)>> = BTreeMap::new();
    for (path, field) in leaves {
        let Some((name, rest)) = path.split_first() else { continue };
        if rest.is_empty() {
            let ty = match field.kind {
                Some(Kind::Bool) => json!({"type": "boolean"}),
                Some(Kind::Integer) => json!({"type": "integer"}),
                Some(Kind::Number) => json!({"type": "number"}),
                Some(Kind::Text) => json!({"type": "string"}),
                Some(Kind::Texts) => json!({"type": "array", "items": {"type": "string"}}),
                Some(Kind::Integers) => json!({"type": "array", "items": {"type": "integer"}}),
                Some(Kind::Untold) | None => json!({}),
            };
            properties.insert(name.clone(), ty);
            if !field.optional {
                required.push(name.clone());
            }
        } else {
            below.entry(name).or_default().push((rest, field));
        }
    }
    for (name, leaves) in below {
        properties.insert(name.clone(), schema(&leaves));
        required.push(name.clone());
    }
    required.sort();
    json!({"type": "object", "properties": properties, "required": required})
}
