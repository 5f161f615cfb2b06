//! Strict JSON in: one value, UTF-8, no key twice, no unknown field, each fault with its own code and its place.
//!
//! The typed read by serde comes first and is all that a good request costs beside one walk over its bytes for keys
//! that stand twice. Only a bad request is looked at again, to say what and where. Numbers and depth inside tool input
//! are judged by the engine. Absent: reading the body off the wire (`input`).

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt::Write as _;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::problem::{
    BODY_DUPLICATE_KEY, BODY_MALFORMED, BODY_MISSING_FIELD, BODY_TYPE_MISMATCH, BODY_UNKNOWN_FIELD, BODY_VALUE_INVALID,
    Problem,
};

/// Reads `T` from JSON, borrowing where it can.
pub(crate) fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Problem> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let (line, column) = place(bytes, error.valid_up_to());
        malformed("the body is not UTF-8", line, column)
    })?;
    if !text.trim_start_matches([' ', '\t', '\r', '\n']).starts_with('{')
        && serde_json::from_str::<IgnoredAny>(text).is_ok()
    {
        // serde would read a list as an object by position.
        return Err(Problem::new(BODY_TYPE_MISMATCH, "invalid type: the body must be an object").at(""));
    }
    match serde_json::from_str::<T>(text) {
        Ok(value) => match Walk::new(text).find(|step| matches!(step, Step::Duplicate { .. })) {
            None => Ok(value),
            Some(step) => Err(duplicate(step)),
        },
        Err(error) => Err(explain(text, &error)),
    }
}

/// Why `text` could not be read: malformed first, then keys that stand twice, then what the types say.
fn explain(text: &str, error: &serde_json::Error) -> Problem {
    if let Err(syntax) = serde_json::from_str::<IgnoredAny>(text) {
        return malformed(&said(&syntax), syntax.line(), syntax.column());
    }
    if let Some(step) = Walk::new(text).find(|step| matches!(step, Step::Duplicate { .. })) {
        return duplicate(step);
    }
    if error.is_syntax() || error.is_eof() {
        // Only the typed read minds this: nesting deeper than any operation's body, or a lone surrogate.
        return malformed(&said(error), error.line(), error.column());
    }
    let detail = said(error);
    let kind = if detail.starts_with("unknown field") {
        BODY_UNKNOWN_FIELD
    } else if detail.starts_with("missing field") {
        BODY_MISSING_FIELD
    } else if detail.starts_with("invalid type") || detail.starts_with("invalid length") {
        BODY_TYPE_MISMATCH
    } else {
        BODY_VALUE_INVALID
    };
    let allowed = (kind == BODY_UNKNOWN_FIELD).then(|| {
        let rest = detail.split_once("expected").map_or("", |(_, rest)| rest);
        rest.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()
    });
    let pointer = pointer_at(text, offset(text, error.line(), error.column()));
    let problem = Problem::new(kind, detail).at(&pointer);
    match allowed {
        Some(allowed) => problem.with("allowed", allowed),
        None => problem,
    }
}

fn malformed(detail: &str, line: usize, column: usize) -> Problem {
    Problem::new(BODY_MALFORMED, detail.to_owned()).with("line", line).with("column", column)
}

fn duplicate(step: Step<'_>) -> Problem {
    let Step::Duplicate { pointer, key } = step else {
        return malformed("the body is not JSON", 0, 0);
    };
    let key: String = key.chars().take(80).collect();
    Problem::new(BODY_DUPLICATE_KEY, format!("key `{key}` stands twice in one object")).at(&pointer)
}

/// The message of serde without the place, which has members of its own.
fn said(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(end) => text.get(..end).unwrap_or_default().to_owned(),
        None => text,
    }
}

/// Line and column, both from 1, of a byte offset.
fn place(bytes: &[u8], offset: usize) -> (usize, usize) {
    let before = bytes.get(..offset).unwrap_or(bytes);
    let line_start = before.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    (before.split(|b| *b == b'\n').count(), offset - line_start + 1)
}

/// Byte offset of a line and a column as serde counts them: columns are bytes read of the line.
fn offset(text: &str, line: usize, column: usize) -> usize {
    let start: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    start + column.saturating_sub(1)
}

/// JSON pointer (RFC 6901) of the value around a byte offset.
fn pointer_at(text: &str, offset: usize) -> String {
    let mut walk = Walk::new(text);
    // The next token may lie behind the offset: then it is not walked over any more.
    while let Some(next) = walk.peek()
        && next <= offset
    {
        walk.next();
    }
    walk.pointer()
}

/// What a walk meets.
enum Step<'a> {
    /// Something that needs no attention.
    Token,
    /// A key that stood in the same object before.
    Duplicate { pointer: String, key: Cow<'a, str> },
}

/// Where in the value the walk is.
enum Level<'a> {
    Array { index: usize },
    Object { keys: Keys<'a>, awaits_key: bool },
}

/// Keys of one object: few are compared one by one, many are hashed.
#[derive(Default)]
struct Keys<'a> {
    list: Vec<Cow<'a, str>>,
    set: HashSet<Cow<'a, str>>,
}

const FEW: usize = 16;

impl<'a> Keys<'a> {
    /// Whether `key` is new here.
    fn add(&mut self, key: Cow<'a, str>) -> bool {
        let new = if self.list.len() <= FEW {
            !self.list.contains(&key)
        } else {
            if self.set.is_empty() {
                self.set.extend(self.list.iter().cloned());
            }
            self.set.insert(key.clone())
        };
        self.list.push(key);
        new
    }
}

/// Walks over a text that is known to be JSON, without recursion.
struct Walk<'a> {
    text: &'a str,
    at: usize,
    levels: Vec<Level<'a>>,
}

impl<'a> Walk<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, at: 0, levels: Vec::new() }
    }

    fn pointer(&self) -> String {
        let mut pointer = String::new();
        for level in &self.levels {
            match level {
                Level::Array { index } => {
                    let _ = write!(pointer, "/{index}");
                }
                Level::Object { keys, awaits_key: false } => {
                    pointer.push('/');
                    let key = keys.list.last().map_or("", |key| key.as_ref());
                    pointer.push_str(&key.replace('~', "~0").replace('/', "~1"));
                }
                // Between two members: the object itself is meant.
                Level::Object { awaits_key: true, .. } => break,
            }
        }
        pointer
    }

    /// Where the next token is.
    fn peek(&self) -> Option<usize> {
        let token = |b: &u8| matches!(b, b'{' | b'}' | b'[' | b']' | b',' | b'"');
        Some(self.at + self.text.as_bytes().get(self.at..)?.iter().position(token)?)
    }

    /// The string that begins at `start`, and the walk behind it.
    fn string(&mut self, start: usize) -> &'a str {
        let bytes = self.text.as_bytes();
        let mut end = start + 1;
        loop {
            match bytes.get(end) {
                Some(b'\\') => end += 2,
                Some(b'"') | None => break,
                Some(_) => end += 1,
            }
        }
        self.at = end + 1;
        self.text.get(start..=end).unwrap_or_default()
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = Step<'a>;

    fn next(&mut self) -> Option<Step<'a>> {
        let start = self.peek()?;
        let byte = *self.text.as_bytes().get(start)?;
        self.at = start + 1;
        match byte {
            b'{' => self.levels.push(Level::Object { keys: Keys::default(), awaits_key: true }),
            b'[' => self.levels.push(Level::Array { index: 0 }),
            b'}' | b']' => drop(self.levels.pop()),
            b',' => match self.levels.last_mut() {
                Some(Level::Array { index }) => *index += 1,
                Some(Level::Object { awaits_key, .. }) => *awaits_key = true,
                None => {}
            },
            b'"' => {
                let quoted = self.string(start);
                if let Some(Level::Object { keys, awaits_key }) = self.levels.last_mut()
                    && *awaits_key
                {
                    *awaits_key = false;
                    let bare = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default();
                    let key = if bare.contains('\\') {
                        Cow::Owned(serde_json::from_str(quoted).unwrap_or_else(|_| bare.to_owned()))
                    } else {
                        Cow::Borrowed(bare)
                    };
                    if !keys.add(key.clone()) {
                        return Some(Step::Duplicate { pointer: self.pointer(), key });
                    }
                }
            }
            _ => {}
        }
        Some(Step::Token)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read into")]
    struct Outer {
        name: String,
        #[serde(default)]
        count: u8,
        #[serde(default)]
        list: Vec<Inner>,
        #[serde(default)]
        free: Value,
        #[serde(default)]
        map: BTreeMap<String, String>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read into")]
    struct Inner {
        id: countersign_gateway_model::InstanceId,
    }

    #[test]
    fn every_fault_of_a_body_has_its_own_code_and_its_place() {
        for (text, code, place) in [
            ("", "body-malformed", json!([1, 0])),
            ("{", "body-malformed", json!([1, 1])),
            (r#"{"name":"a",}"#, "body-malformed", json!([1, 13])),
            ("{\"name\":\n 'a'}", "body-malformed", json!([2, 2])),
            (r#"{"name":"a"} x"#, "body-malformed", json!([1, 14])),
            (r#"{"name":"a"}{"name":"a"}"#, "body-malformed", json!([1, 13])),
            (r#"{"name":NaN}"#, "body-malformed", json!([1, 9])),
            ("\u{feff}{}", "body-malformed", json!([1, 1])),
            (r#"{"name":"a","name":"b"}"#, "body-duplicate-key", json!("/name")),
            (r#"{"name":"a","n\u0061me":"b"}"#, "body-duplicate-key", json!("/name")),
            (
                r#"{"name":"a","free":{"x":[{},{"a~b/c":1,"a~b/c":2}]}}"#,
                "body-duplicate-key",
                json!("/free/x/1/a~0b~1c"),
            ),
            (r#"{"name":"a","map":{"k":"1","k":"2"}}"#, "body-duplicate-key", json!("/map/k")),
            (r#"{"name":"a","nme":"b"}"#, "body-unknown-field", json!("/nme")),
            (r#"{"name":"a","list":[{"id":"x","no":1}]}"#, "body-value-invalid", json!("/list/0/id")),
            (r#"{"count":1}"#, "body-missing-field", json!("")),
            (r#"{"name":"a","list":[{}]}"#, "body-missing-field", json!("/list/0")),
            (r#"{"name":5}"#, "body-type-mismatch", json!("/name")),
            (r#"{"name":null}"#, "body-type-mismatch", json!("/name")),
            (r#"{"name":"a","count":"1"}"#, "body-type-mismatch", json!("/count")),
            (r#"{"name":"a","count":1.5}"#, "body-type-mismatch", json!("/count")),
            (r#"{"name":"a","count":300}"#, "body-value-invalid", json!("/count")),
            (r#"{"name":"a","list":{}}"#, "body-type-mismatch", json!("/list")),
            (r#"["a"]"#, "body-type-mismatch", json!("")),
            ("5", "body-type-mismatch", json!("")),
        ] {
            let problem = parse::<Outer>(text.as_bytes()).unwrap_err();
            assert_eq!(problem.code(), code, "{text}");
            let found = match problem.member("errors") {
                Some(errors) => errors[0]["pointer"].clone(),
                None => json!([problem.member("line"), problem.member("column")]),
            };
            assert_eq!(found, place, "{text}");
        }
    }

    #[test]
    fn what_is_not_utf_8_is_named_by_its_place() {
        let problem = parse::<Outer>(b"{\"name\":\n\"\xff\"}").unwrap_err();
        assert_eq!(
            (problem.code(), problem.member("line"), problem.member("column")),
            ("body-malformed", Some(&json!(2)), Some(&json!(2)))
        );
    }

    #[test]
    fn unknown_fields_come_with_the_known_ones() {
        let problem = parse::<Outer>(br#"{"nme":1}"#).unwrap_err();
        assert_eq!(problem.member("allowed"), Some(&json!(["name", "count", "list", "free", "map"])));
    }

    #[test]
    fn many_keys_are_compared_too() {
        let mut text = String::from(r#"{"name":"a","free":{"#);
        for at in 0..200 {
            write!(text, "\"k{at}\":{at},").unwrap();
        }
        for (last, expected) in
            [("\"k200\":0}}", None), ("\"k3\":0}}", Some("/free/k3")), ("\"k150\":0}}", Some("/free/k150"))]
        {
            let whole = format!("{text}{last}");
            let found = parse::<Outer>(whole.as_bytes()).err();
            let pointer = found.map(|problem| problem.member("errors").unwrap()[0]["pointer"].clone());
            assert_eq!(pointer, expected.map(Value::from));
        }
    }

    #[test]
    fn deep_nesting_overflows_nothing() {
        let deep = format!(r#"{{"name":"a","free":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(parse::<Outer>(deep.as_bytes()).unwrap_err().code(), "body-malformed");
    }

    #[test]
    fn brackets_and_quotes_inside_strings_are_text() {
        let text = r#"{"name":"}],{\"a\":\\","free":{"a":"{\"b\":1,\"b\":2}","b":"\\"},"count":3}"#;
        assert_eq!(parse::<Outer>(text.as_bytes()).unwrap().count, 3);
    }
}
