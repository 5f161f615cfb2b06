//! Where in a tool's input something is done: JSON pointers in which `*` stands for every element, and tool names.
//!
//! Absent: what is done there. Read next: `masks`, `detectors`.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::json::Json;

/// How many steps a pointer may have.
const MAX_STEPS: usize = 16;

/// A JSON pointer (RFC 6901) in which a step `*` stands for every element of an array and every member of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pointer {
    steps: Vec<String>,
}

impl TryFrom<String> for Pointer {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let Some(rest) = text.strip_prefix('/') else {
            return Err(format!("`{text}` is not a json pointer; it starts with `/`"));
        };
        let steps: Vec<String> = rest.split('/').map(|step| step.replace("~1", "/").replace("~0", "~")).collect();
        if steps.len() > MAX_STEPS {
            return Err(format!("`{text}` has more than {MAX_STEPS} steps; shorten it"));
        }
        Ok(Self { steps })
    }
}

impl From<Pointer> for String {
    fn from(pointer: Pointer) -> Self {
        pointer.to_string()
    }
}

impl std::fmt::Display for Pointer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.steps.iter().try_for_each(|step| write!(f, "/{}", step.replace('~', "~0").replace('/', "~1")))
    }
}

impl Pointer {
    pub(crate) fn steps(&self) -> &[String] {
        &self.steps
    }

    /// Calls `visit` with each value that the pointer leads to, and with its own pointer.
    pub(crate) fn each(&self, value: &Json, visit: &mut dyn FnMut(&str, &Json)) {
        fn descend(value: &Json, steps: &[String], path: &mut String, visit: &mut dyn FnMut(&str, &Json)) {
            let Some((step, rest)) = steps.split_first() else { return visit(path, value) };
            let length = path.len();
            for (name, member) in children(value).filter(|(name, _)| step == "*" || name == step) {
                push(path, &name);
                descend(member, rest, path, visit);
                path.truncate(length);
            }
        }
        descend(value, &self.steps, &mut String::new(), visit);
    }

    /// Gives each value that the pointer leads to away, for another or for none. Gives how many there were.
    pub(crate) fn replace(&self, value: &mut Json, with: &mut dyn FnMut(&Json) -> Option<Json>) -> usize {
        fn descend(value: &mut Json, steps: &[String], with: &mut dyn FnMut(&Json) -> Option<Json>) -> usize {
            let Some((step, rest)) = steps.split_first() else { return 0 };
            let mut count = 0;
            let mut visit = |name: &str, member: &mut Json| {
                if step != "*" && name != step {
                    return true;
                }
                if !rest.is_empty() {
                    count += descend(member, rest, with);
                    return true;
                }
                count += 1;
                with(member).is_some_and(|new| {
                    *member = new;
                    true
                })
            };
            match value {
                Json::Object(members) => members.retain_mut(|(name, member)| visit(name, member)),
                Json::Array(items) => {
                    let mut at = 0_usize;
                    items.retain_mut(|item| {
                        at += 1;
                        visit(&(at - 1).to_string(), item)
                    });
                }
                _ => {}
            }
            count
        }
        descend(value, &self.steps, with)
    }
}

fn children<'j>(value: &'j Json) -> Box<dyn Iterator<Item = (String, &'j Json)> + 'j> {
    match value {
        Json::Object(members) => Box::new(members.iter().map(|(name, member)| (name.clone(), member))),
        Json::Array(items) => Box::new(items.iter().enumerate().map(|(at, item)| (at.to_string(), item))),
        _ => Box::new(std::iter::empty()),
    }
}

/// Appends one step (RFC 6901).
pub(crate) fn push(path: &mut String, step: &str) {
    path.push('/');
    for c in step.chars() {
        match c {
            '~' => path.push_str("~0"),
            '/' => path.push_str("~1"),
            c => path.push(c),
        }
    }
}

/// Calls `visit` with every string within `value`, and with its pointer.
pub(crate) fn each_text(value: &Json, path: &mut String, visit: &mut dyn FnMut(&str, &str)) {
    match value {
        Json::Text(text) => visit(path, text),
        Json::Object(_) | Json::Array(_) => {
            let length = path.len();
            for (name, member) in children(value) {
                push(path, &name);
                each_text(member, path, visit);
                path.truncate(length);
            }
        }
        Json::Null | Json::Bool(_) | Json::Number(_) => {}
    }
}

/// Calls `visit` with each member of an object that stands in one of the `open` places or below it: with its pointer,
/// its name and its value.
pub(crate) fn each_open_member(
    value: &Json,
    path: &mut String,
    open: &BTreeSet<String>,
    visit: &mut dyn FnMut(&str, &str, &Json),
) {
    fn descend(
        value: &Json,
        path: &mut String,
        above: bool,
        open: &BTreeSet<String>,
        visit: &mut dyn FnMut(&str, &str, &Json),
    ) {
        let inside = above || open.contains(path.as_str());
        let named = inside && value.as_object().is_some();
        let length = path.len();
        for (name, member) in children(value) {
            push(path, &name);
            if named {
                visit(path, &name, member);
            }
            descend(member, path, inside, open, visit);
            path.truncate(length);
        }
    }
    if open.is_empty() {
        return;
    }
    let above = path.match_indices('/').any(|(at, _)| path.get(..at).is_some_and(|above| open.contains(above)));
    descend(value, path, above, open, visit);
}

/// Which tools: one by its name, all of one server (`payments.*`), or all (`*`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ToolPattern(String);

impl TryFrom<String> for ToolPattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let exact = text.strip_suffix(".*").unwrap_or(&text);
        if text == "*" || (!exact.is_empty() && !exact.contains('*')) {
            Ok(Self(text))
        } else {
            Err(format!("`{text}` names no tools; write `<server>.<tool>`, `<server>.*` or `*`"))
        }
    }
}

impl From<ToolPattern> for String {
    fn from(pattern: ToolPattern) -> Self {
        pattern.0
    }
}

impl ToolPattern {
    /// Every tool.
    pub fn all() -> Self {
        Self("*".to_owned())
    }

    /// Whether it names this tool.
    pub fn admits(&self, tool: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(server) => tool.starts_with(server),
            None => self.0 == tool,
        }
    }
}

/// What data files mean where they name no tools.
pub(crate) fn all_tools() -> Vec<ToolPattern> {
    vec![ToolPattern::all()]
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn pointer(text: &str) -> Pointer {
        Pointer::try_from(text.to_owned()).unwrap()
    }

    #[test]
    fn a_pointer_leads_to_every_value_that_it_names() {
        let value = Json::parse(br#"{"a":[{"b":"1"},{"b":"2"},{"c":"3"}],"x/y":"4","d":{"e":"5"}}"#).unwrap();
        for (text, expected) in [
            ("/a/*/b", vec!["/a/0/b", "/a/1/b"]),
            ("/a/1/b", vec!["/a/1/b"]),
            ("/x~1y", vec!["/x~1y"]),
            ("/*/e", vec!["/d/e"]),
            ("/nothing", vec![]),
            ("/a/b", vec![]),
        ] {
            let mut found = Vec::new();
            pointer(text).each(&value, &mut |path, _| found.push(path.to_owned()));
            assert_eq!(found, expected, "{text}");
            assert_eq!(pointer(text).to_string(), text);
            let mut copy = value.clone();
            assert_eq!(pointer(text).replace(&mut copy, &mut |_| None), expected.len(), "{text}");
            let mut left = 0;
            pointer(text).each(&copy, &mut |_, _| left += 1);
            // What stood behind a dropped element of an array moves up, and is not what was named.
            assert!(left == 0 || text == "/a/1/b", "{text}");
        }
        assert!(Pointer::try_from("a".to_owned()).is_err());
        assert!(Pointer::try_from("/a".repeat(MAX_STEPS + 1)).is_err());
    }

    #[test]
    fn a_pattern_names_one_tool_a_server_or_all() {
        let admits = |pattern: &str, tool: &str| ToolPattern::try_from(pattern.to_owned()).unwrap().admits(tool);
        assert!(admits("*", "a.b") && admits("a.*", "a.b") && admits("a.b", "a.b"));
        assert!(!admits("a.*", "ab.c") && !admits("a.b", "a.bc"));
        for wrong in ["", "a*", "*.b", "**", ".*"] {
            assert!(ToolPattern::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }
}
