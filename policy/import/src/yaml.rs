//! YAML read strictly into a tree that knows where each value stands.
//!
//! Only what a policy file needs: maps with text keys, lists, scalars. A key that stands twice, an alias, a tag or a
//! merge key is refused: each reads differently in different programs, and a rule must not. JSON is YAML, too. Absent:
//! what the values mean. Read next: `report`.

use std::collections::BTreeSet;

use countersign_policy_bundle::Place;
use saphyr_parser::{Event, Parser, ScalarStyle, Span};

/// How many bytes a source may have.
pub(crate) const MAX_SOURCE: usize = 1024 * 1024;
/// How deep a source may nest.
const MAX_DEPTH: usize = 32;
/// How many values a source may have.
const MAX_NODES: usize = 50_000;

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Integer(i64),
    /// A number that is no integer, as it is written.
    Number(String),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// A key of a map.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Key {
    pub(crate) place: Place,
    pub(crate) name: String,
}

/// Why a text is not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct YamlError {
    /// Where.
    pub place: Place,
    /// What is wrong, and what to do.
    pub problem: String,
}

/// Reads every document of a text.
pub(crate) fn read(file: &str, text: &str) -> Result<Vec<Node>, YamlError> {
    let mut reader = Reader { file, parser: Parser::new_from_str(text), nodes: 0 };
    if text.len() > MAX_SOURCE {
        return Err(YamlError {
            place: Place::start(file),
            problem: format!("more than {MAX_SOURCE} bytes; split it"),
        });
    }
    let mut documents = Vec::new();
    loop {
        match reader.next()? {
            (Event::StreamEnd, _) => return Ok(documents),
            (Event::DocumentStart(_), _) => {
                let (event, span) = reader.next()?;
                documents.push(reader.node(event, span, 0)?);
            }
            _ => {}
        }
    }
}

struct Reader<'t> {
    file: &'t str,
    parser: Parser<'t, saphyr_parser::StrInput<'t>>,
    nodes: usize,
}

impl<'t> Reader<'t> {
    fn place(&self, span: Span) -> Place {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Place {
            file: self.file.to_owned(),
            line: number(span.start.line()).max(1),
            column: number(span.start.col()).saturating_add(1),
        }
    }

    fn wrong<T>(&self, span: Span, problem: impl Into<String>) -> Result<T, YamlError> {
        Err(YamlError { place: self.place(span), problem: problem.into() })
    }

    fn next(&mut self) -> Result<(Event<'t>, Span), YamlError> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => {
                let span = Span::empty(*error.marker());
                self.wrong(span, format!("{}; correct the text there", error.info()))
            }
            None => self.wrong(Span::default(), "the text ends within a value"),
        }
    }

    fn node(&mut self, event: Event<'t>, span: Span, depth: usize) -> Result<Node, YamlError> {
        self.nodes += 1;
        if depth > MAX_DEPTH || self.nodes > MAX_NODES {
            return self.wrong(span, format!("more than {MAX_DEPTH} levels or {MAX_NODES} values; split the file"));
        }
        let tagged = matches!(&event, Event::Scalar(_, _, _, Some(_)) | Event::SequenceStart(_, Some(_)))
            || matches!(&event, Event::MappingStart(_, Some(_)));
        if tagged {
            return self.wrong(span, "a tag; write the value without it");
        }
        let place = self.place(span);
        let value = match event {
            Event::Scalar(text, style, _, None) => scalar(&text, style),
            Event::SequenceStart(..) => self.list(depth)?,
            Event::MappingStart(..) => self.map(depth)?,
            Event::Alias(_) => return self.wrong(span, "an alias; write the value out"),
            _ => return self.wrong(span, "a value is expected here"),
        };
        Ok(Node { place, value })
    }

    fn list(&mut self, depth: usize) -> Result<Value, YamlError> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Value::List(items)),
                (event, span) => items.push(self.node(event, span, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Value, YamlError> {
        let mut members = Vec::new();
        let mut seen = BTreeSet::new();
        loop {
            let (event, span) = self.next()?;
            let name = match event {
                Event::MappingEnd => return Ok(Value::Map(members)),
                Event::Scalar(text, ScalarStyle::Plain, _, None) if text == "<<" => {
                    return self.wrong(span, "a merge key; write its members out");
                }
                Event::Scalar(text, _, _, None) => text.into_owned(),
                _ => return self.wrong(span, "a key that is no plain text; write it as one"),
            };
            if !seen.insert(name.clone()) {
                return self.wrong(span, format!("`{}` stands twice here; keep one", name.escape_debug()));
            }
            let key = Key { place: self.place(span), name };
            let (event, span) = self.next()?;
            members.push((key, self.node(event, span, depth + 1)?));
        }
    }
}

/// The core schema of YAML 1.2; only what is written plainly can be anything but text.
fn scalar(text: &str, style: ScalarStyle) -> Value {
    if style != ScalarStyle::Plain {
        return Value::Text(text.to_owned());
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ => {
            if let Ok(number) = text.parse::<i64>() {
                return Value::Integer(number);
            }
            let digits = text.bytes().any(|b| b.is_ascii_digit());
            let numeric = text.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b));
            if digits && numeric && text.parse::<f64>().is_ok_and(f64::is_finite) {
                Value::Number(text.to_owned())
            } else {
                Value::Text(text.to_owned())
            }
        }
    }
}

impl Node {
    pub(crate) fn as_map(&self) -> Option<&[(Key, Self)]> {
        match &self.value {
            Value::Map(members) => Some(members),
            _ => None,
        }
    }

    pub(crate) fn as_list(&self) -> Option<&[Self]> {
        match &self.value {
            Value::List(items) => Some(items),
            _ => None,
        }
    }

    pub(crate) fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The words that YAML 1.1 takes for booleans are taken here, where a boolean is expected.
    pub(crate) fn as_bool(&self) -> Option<bool> {
        match &self.value {
            Value::Bool(value) => Some(*value),
            Value::Text(text) => match text.to_ascii_lowercase().as_str() {
                "yes" | "on" => Some(true),
                "no" | "off" => Some(false),
                _ => None,
            },
            _ => None,
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        self.as_map()?.iter().find(|(k, _)| k.name == key).map(|(_, node)| node)
    }

    /// What it is, for people.
    pub(crate) fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Integer(_) | Value::Number(_) => "a number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> String {
        read("f.yaml", text).unwrap_err().to_string()
    }

    #[test]
    fn values_have_their_core_types_and_their_places() {
        let text = "a: 1\nb: [true, 'true', 0.5, ~]\nc:\n  d: no # word\n  é: \"x\\ny\"\n";
        let documents = read("f.yaml", text).unwrap();
        let map = documents[0].as_map().unwrap();
        assert_eq!(map[0].1.value, Value::Integer(1));
        let list = map[1].1.as_list().unwrap();
        let values: Vec<&Value> = list.iter().map(|n| &n.value).collect();
        let expected = [Value::Bool(true), Value::Text("true".into()), Value::Number("0.5".into()), Value::Null];
        assert_eq!(values, expected.iter().collect::<Vec<_>>());
        assert_eq!(list[1].place.to_string(), "f.yaml:2:11");
        let d = documents[0].get("c").unwrap().get("d").unwrap();
        assert_eq!((d.as_text(), d.as_bool(), d.place.to_string().as_str()), (Some("no"), Some(false), "f.yaml:4:6"));
        assert_eq!(read("f", "--- 1\n--- 2\n").unwrap().len(), 2);
        assert_eq!(read("f", "{\"a\": [1]}").unwrap()[0].get("a").unwrap().kind(), "a list");
        assert!(read("f", "").unwrap().is_empty());
    }

    #[test]
    fn what_programs_read_differently_is_refused_where_it_stands() {
        for (text, at, part) in [
            ("a: 1\na: 2", "f.yaml:2:1", "stands twice"),
            ("a: &x 1\nb: *x", "f.yaml:2:4", "alias"),
            ("a: !!str 1", "f.yaml:1:", "tag"),
            ("a: {}\nb:\n  <<: {c: 1}", "f.yaml:3:3", "merge key"),
            ("[1]: 2", "f.yaml:1:", "key"),
            ("a: [1", "f.yaml:", ""),
            ("a: \"x", "f.yaml:", ""),
        ] {
            let problem = problem(text);
            assert!(problem.starts_with(at) && problem.contains(part), "{text}: {problem}");
        }
        let nested = |deep: usize| format!("{}1{}", "[".repeat(deep), "]".repeat(deep));
        assert!(read("f", &nested(MAX_DEPTH)).is_ok());
        assert!(problem(&nested(MAX_DEPTH + 1)).contains("levels"));
        assert!(!problem(&"[".repeat(100_000)).is_empty());
        assert!(problem(&format!("[{}]", "1,".repeat(MAX_NODES + 1))).contains("values"));
        assert!(problem(&" ".repeat(MAX_SOURCE + 1)).contains("bytes"));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(\\PC|[\n:\\[\\]{}&*!\"'#-]){0,80}") {
            drop(read("f", &text));
        }
    }
}
