//! Conditions of approval rules: comparisons of a subject's fields with literals, joined by and, or, not.
//!
//! `transaction.amount > 10000 && transaction.currency == "EUR"`. The first name is the subject; a condition has one.
//! Numbers become Cedar decimals; one that policy cannot see exactly is treated as the stricter reading asks. Absent:
//! which reading that is (`materiality`). Read next: `materiality`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::cedar;

/// How deep a condition may nest.
const MAX_DEPTH: usize = 16;
/// How many words a condition may have.
const MAX_TOKENS: usize = 200;

/// What kind of value a field has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Number,
    Text,
    Bool,
}

/// A parsed condition.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Condition {
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Not(Box<Condition>),
    Compare { path: Vec<String>, operator: &'static str, literal: Literal },
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Literal {
    /// As Cedar's `decimal` takes it.
    Number(String),
    Text(String),
    Bool(bool),
}

impl Literal {
    fn to_json(&self) -> Value {
        match self {
            Self::Number(text) | Self::Text(text) => json!(text),
            Self::Bool(truth) => json!(truth),
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Number(_) => Kind::Number,
            Self::Text(_) => Kind::Text,
            Self::Bool(_) => Kind::Bool,
        }
    }
}

impl Condition {
    /// Reads a condition. The error says what stands in the way.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let tokens = tokens(text)?;
        let mut reading = Reading { tokens: &tokens, at: 0 };
        let condition = reading.any(0)?;
        match reading.tokens.get(reading.at) {
            None => Ok(condition),
            Some(token) => Err(format!("`{}` is not expected where it stands", token.shown())),
        }
    }

    /// The fields that it reads, each with its kind. `None`: one is read as two kinds.
    pub(crate) fn fields(&self, found: &mut BTreeMap<Vec<String>, Kind>) -> Option<()> {
        match self {
            Self::All(parts) | Self::Any(parts) => parts.iter().try_for_each(|part| part.fields(found)),
            Self::Not(inner) => inner.fields(found),
            Self::Compare { path, literal, .. } => {
                let kind = *found.entry(path.clone()).or_insert_with(|| literal.kind());
                (kind == literal.kind()).then_some(())
            }
        }
    }

    /// As Cedar over `context.input`. `unseen`: what a comparison of a number says that policy cannot see.
    pub(crate) fn to_cedar(&self, unseen: bool) -> String {
        match self {
            Self::All(parts) => cedar::all(&parts.iter().map(|part| part.to_cedar(unseen)).collect::<Vec<_>>()),
            Self::Any(parts) => cedar::any(&parts.iter().map(|part| part.to_cedar(unseen)).collect::<Vec<_>>()),
            Self::Not(inner) => format!("!({})", inner.to_cedar(!unseen)),
            Self::Compare { path, operator, literal } => {
                // The first name is the subject, which is the tool itself.
                let field = cedar::access(path.iter().skip(1));
                let value = format!("context.input{field}");
                match literal {
                    Literal::Bool(truth) => format!("{value} {operator} {truth}"),
                    Literal::Text(text) => format!("{value} {operator} {}", cedar::text(text)),
                    Literal::Number(number) => {
                        let decimal = format!("decimal({})", cedar::text(number));
                        let compared = match *operator {
                            "<" => format!("{value}.lessThan({decimal})"),
                            "<=" => format!("{value}.lessThanOrEqual({decimal})"),
                            ">" => format!("{value}.greaterThan({decimal})"),
                            ">=" => format!("{value}.greaterThanOrEqual({decimal})"),
                            equality => format!("{value} {equality} {decimal}"),
                        };
                        let (holder, last) = held(path);
                        let seen = format!("{holder} has {}", cedar::text(&last));
                        // Cedar sees that the field is there only to the right of an `&&`.
                        if unseen { format!("!({seen} && !({compared}))") } else { format!("{seen} && {compared}") }
                    }
                }
            }
        }
    }

    /// Whether it holds of an input that has all its fields.
    pub(crate) fn holds(&self, input: &Value) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.holds(input)),
            Self::Any(parts) => parts.iter().any(|part| part.holds(input)),
            Self::Not(inner) => !inner.holds(input),
            Self::Compare { path, operator, literal } => {
                let pointer = cedar::pointer(path.iter().skip(1));
                let value = input.pointer(&pointer).unwrap_or(&Value::Null);
                let Literal::Number(number) = literal else {
                    return (*value == literal.to_json()) == (*operator == "==");
                };
                let number = number.parse::<f64>().unwrap_or(f64::NAN);
                value.as_f64().and_then(|value| value.partial_cmp(&number)).is_some_and(|order| match *operator {
                    "<" => order.is_lt(),
                    "<=" => order.is_le(),
                    ">" => order.is_gt(),
                    ">=" => order.is_ge(),
                    "==" => order.is_eq(),
                    _ => order.is_ne(),
                })
            }
        }
    }

    /// Values worth trying for each field: those that it is compared with, and their neighbours.
    pub(crate) fn tries(&self, found: &mut BTreeMap<Vec<String>, Vec<Value>>) {
        match self {
            Self::All(parts) | Self::Any(parts) => parts.iter().for_each(|part| part.tries(found)),
            Self::Not(inner) => inner.tries(found),
            Self::Compare { path, literal, .. } => {
                let values = found.entry(path.iter().skip(1).cloned().collect()).or_default();
                let more = match literal {
                    Literal::Bool(_) => vec![json!(true), json!(false)],
                    Literal::Text(text) => vec![json!(text), json!("other")],
                    Literal::Number(number) => {
                        let number = number.parse::<f64>().unwrap_or_default();
                        vec![json!(number), json!(number + 1.0), json!(number - 1.0)]
                    }
                };
                for value in more {
                    if !values.contains(&value) {
                        values.push(value);
                    }
                }
            }
        }
    }
}

/// What holds the last name of a path, and the name.
fn held(path: &[String]) -> (String, String) {
    let last = path.last().cloned().unwrap_or_default();
    let between = path.get(1..path.len().saturating_sub(1)).unwrap_or_default();
    let between = cedar::access(between);
    (format!("context.input{between}"), last)
}

/// The JSON Schema of a tool whose input has these fields, all of them required. `None`: one is a value and a record.
pub(crate) fn input_schema(fields: &BTreeMap<Vec<String>, Kind>) -> Option<Value> {
    let mut below: BTreeMap<String, BTreeMap<Vec<String>, Kind>> = BTreeMap::new();
    let mut properties = serde_json::Map::new();
    for (path, kind) in fields {
        let (name, rest) = path.split_first()?;
        if rest.is_empty() {
            let ty = match kind {
                Kind::Number => "number",
                Kind::Text => "string",
                Kind::Bool => "boolean",
            };
            properties.insert(name.clone(), json!({"type": ty}));
        } else {
            below.entry(name.clone()).or_default().insert(rest.to_vec(), *kind);
        }
    }
    for (name, fields) in below {
        if properties.insert(name, input_schema(&fields)?).is_some() {
            return None;
        }
    }
    let required: Vec<String> = properties.keys().cloned().collect();
    Some(json!({"type": "object", "properties": properties, "required": required}))
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Path(Vec<String>),
    Literal(Literal),
    Mark(&'static str),
}

impl Token {
    fn shown(&self) -> String {
        match self {
            Self::Path(path) => path.join("."),
            Self::Mark(mark) => (*mark).to_owned(),
            Self::Literal(Literal::Number(text) | Literal::Text(text)) => text.escape_debug().to_string(),
            Self::Literal(Literal::Bool(truth)) => truth.to_string(),
        }
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    const MARKS: [(&str, &str); 12] = [
        ("&&", "&&"),
        ("||", "||"),
        ("==", "=="),
        ("!=", "!="),
        (">=", ">="),
        ("<=", "<="),
        (">", ">"),
        ("<", "<"),
        ("!", "!"),
        ("(", "("),
        (")", ")"),
        ("=", "=="),
    ];
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, length) = if let Some((spelt, mark)) = MARKS.iter().find(|(spelt, _)| rest.starts_with(spelt)) {
            (Token::Mark(mark), spelt.len())
        } else if first == '"' || first == '\'' {
            let end = rest.get(1..).and_then(|inner| inner.find(first)).ok_or("a quoted text is open at its end")?;
            let inner = rest.get(1..=end).unwrap_or_default();
            if inner.contains('\\') {
                return Err("an escape in a quoted text is not read".to_owned());
            }
            (Token::Literal(Literal::Text(inner.to_owned())), end + 2)
        } else if first.is_ascii_digit() || first == '-' {
            let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '-')).unwrap_or(rest.len());
            let written = rest.get(..end).unwrap_or_default();
            (Token::Literal(Literal::Number(decimal(written)?)), end)
        } else if first.is_ascii_alphabetic() || first == '_' {
            let part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
            let end = rest.find(|c: char| !part(c)).unwrap_or(rest.len());
            let word = rest.get(..end).unwrap_or_default();
            let token = match word {
                "and" | "AND" => Token::Mark("&&"),
                "or" | "OR" => Token::Mark("||"),
                "not" | "NOT" => Token::Mark("!"),
                "true" => Token::Literal(Literal::Bool(true)),
                "false" => Token::Literal(Literal::Bool(false)),
                path => {
                    let names: Vec<String> = path.split('.').map(str::to_owned).collect();
                    if names.len() < 2 || names.iter().any(String::is_empty) {
                        return Err(format!("`{path}` names no field of a subject, as `transaction.amount` does"));
                    }
                    Token::Path(names)
                }
            };
            (token, end)
        } else {
            return Err(format!("`{}` is not read in a condition", first.escape_debug()));
        };
        tokens.push(token);
        if tokens.len() > MAX_TOKENS {
            return Err(format!("it has more than {MAX_TOKENS} words"));
        }
        rest = rest.get(length..).unwrap_or_default().trim_start();
    }
    Ok(tokens)
}

/// A number as Cedar's `decimal` takes it: at most 4 places, at least 1.
fn decimal(written: &str) -> Result<String, String> {
    let refuse = || format!("`{written}` is no number with at most 4 decimal places");
    let (whole, places) = written.split_once('.').unwrap_or((written, "0"));
    let digits = whole.strip_prefix('-').unwrap_or(whole);
    let good = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !good(digits) || !good(places) || places.len() > 4 || digits.len() > 14 {
        return Err(refuse());
    }
    Ok(format!("{whole}.{places}"))
}

struct Reading<'t> {
    tokens: &'t [Token],
    at: usize,
}

impl Reading<'_> {
    fn takes(&mut self, mark: &str) -> bool {
        let found = matches!(self.tokens.get(self.at), Some(Token::Mark(m)) if *m == mark);
        self.at += usize::from(found);
        found
    }

    fn any(&mut self, depth: usize) -> Result<Condition, String> {
        let mut parts = vec![self.all(depth)?];
        while self.takes("||") {
            parts.push(self.all(depth)?);
        }
        Ok(one_or(parts, Condition::Any))
    }

    fn all(&mut self, depth: usize) -> Result<Condition, String> {
        let mut parts = vec![self.one(depth)?];
        while self.takes("&&") {
            parts.push(self.one(depth)?);
        }
        Ok(one_or(parts, Condition::All))
    }

    fn one(&mut self, depth: usize) -> Result<Condition, String> {
        if depth > MAX_DEPTH {
            return Err(format!("it nests deeper than {MAX_DEPTH}"));
        }
        if self.takes("!") {
            return Ok(Condition::Not(Box::new(self.one(depth + 1)?)));
        }
        if self.takes("(") {
            let inner = self.any(depth + 1)?;
            return if self.takes(")") { Ok(inner) } else { Err("a bracket is open at its end".to_owned()) };
        }
        let Some(Token::Path(path)) = self.tokens.get(self.at) else {
            return Err("a comparison begins with a field, as `transaction.amount` is one".to_owned());
        };
        self.at += 1;
        let operator = match self.tokens.get(self.at) {
            Some(Token::Mark(mark @ ("==" | "!=" | "<" | "<=" | ">" | ">="))) => *mark,
            // A field by itself is a truth.
            _ => return Ok(Condition::Compare { path: path.clone(), operator: "==", literal: Literal::Bool(true) }),
        };
        self.at += 1;
        let Some(Token::Literal(literal)) = self.tokens.get(self.at) else {
            return Err(format!("`{}` is compared with something that is no literal", path.join(".")));
        };
        self.at += 1;
        if literal.kind() != Kind::Number && !["==", "!="].contains(&operator) {
            return Err(format!("`{operator}` compares numbers only"));
        }
        Ok(Condition::Compare { path: path.clone(), operator, literal: literal.clone() })
    }
}

fn one_or(mut parts: Vec<Condition>, join: impl FnOnce(Vec<Condition>) -> Condition) -> Condition {
    match parts.pop() {
        Some(last) if parts.is_empty() => last,
        Some(last) => {
            parts.push(last);
            join(parts)
        }
        None => join(parts),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_bind_as_everywhere() {
        let read = |text: &str| Condition::parse(text).unwrap();
        assert_eq!(read("a.x > 1 || a.y == 'q' && !a.z"), read("(a.x>1.0) or ((a.y = \"q\") and (not (a.z == true)))"));
        assert_ne!(read("(a.x > 1 || a.y == 'q') && a.z"), read("a.x > 1 || a.y == 'q' && a.z"));
    }

    #[test]
    fn what_is_not_read_is_refused_in_words() {
        for (text, part) in [
            ("", "begins with a field"),
            ("amount > 3", "no field of a subject"),
            ("a.b > a.c", "no literal"),
            ("a.b > 1.23456", "4 decimal places"),
            ("a.b > 'x'", "numbers only"),
            ("a.b > 1 c.d", "not expected"),
            ("(a.b > 1", "bracket is open"),
            ("a.b == 'x", "open at its end"),
            ("f(a.b)", "no field"),
            ("a.b + 1 > 2", "not read"),
            ("a..b", "no field"),
        ] {
            let problem = Condition::parse(text).unwrap_err();
            assert!(problem.contains(part), "{text}: {problem}");
        }
        assert!(Condition::parse(&"!".repeat(100)).is_err());
        assert!(Condition::parse(&"(".repeat(10_000)).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "([a-z.0-9 ()!&|<>='\"-]|\\PC){0,60}") {
            drop(Condition::parse(&text));
        }
    }
}
