//! Writing Cedar: texts, patterns, lists and whole policies in one layout.
//!
//! Absent: what is written. Read next: `bundle`.

use std::fmt::Write as _;

/// A string literal.
pub(crate) fn text(content: &str) -> String {
    let mut out = String::from("\"");
    content.chars().for_each(|c| escaped(c, &mut out));
    out.push('"');
    out
}

fn escaped(c: char, out: &mut String) {
    match c {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\0' => out.push_str("\\0"),
        c if c.is_control() => {
            let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
        }
        c => out.push(c),
    }
}

/// A pattern of `like`: the pieces are literal, and anything may stand between them.
pub(crate) fn pattern<'p>(pieces: impl IntoIterator<Item = &'p str>) -> String {
    let mut out = String::from("\"");
    for (i, piece) in pieces.into_iter().enumerate() {
        if i > 0 {
            out.push('*');
        }
        for c in piece.chars() {
            if c == '*' { out.push_str("\\*") } else { escaped(c, &mut out) }
        }
    }
    out.push('"');
    out
}

/// A list of string literals.
pub(crate) fn texts<'t>(items: impl IntoIterator<Item = &'t str>) -> String {
    format!("[{}]", items.into_iter().map(text).collect::<Vec<_>>().join(", "))
}

/// A literal of an entity of the program's namespace.
pub(crate) fn entity(of: &str, id: &str) -> String {
    format!("Countersign::{of}::{}", text(id))
}

/// The scope of actions.
pub(crate) fn actions<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let all: Vec<String> = names.into_iter().map(|name| entity("Action", name)).collect();
    match all.as_slice() {
        [one] => format!("action == {one}"),
        _ => format!("action in [{}]", all.join(", ")),
    }
}

/// Attribute access by each of the names.
pub(crate) fn access<'n>(names: impl IntoIterator<Item = &'n String>) -> String {
    names.into_iter().fold(String::new(), |mut out, name| {
        let _ = write!(out, "[{}]", text(name));
        out
    })
}

/// A JSON pointer.
pub(crate) fn pointer<'n>(names: impl IntoIterator<Item = &'n String>) -> String {
    names.into_iter().fold(String::new(), |mut out, name| {
        let _ = write!(out, "/{}", name.replace('~', "~0").replace('/', "~1"));
        out
    })
}

/// One policy.
#[derive(Clone, Debug, Default)]
pub(crate) struct Written {
    pub(crate) comment: String,
    pub(crate) id: String,
    pub(crate) title: String,
    /// A forbid that no approval lifts says so.
    pub(crate) hard: bool,
    /// The rule of a gate.
    pub(crate) rule: Option<String>,
    pub(crate) agent_message: Option<String>,
    pub(crate) permit: bool,
    pub(crate) principal: String,
    pub(crate) action: String,
    pub(crate) resource: String,
    pub(crate) when: Vec<String>,
    pub(crate) unless: Vec<String>,
}

impl Written {
    pub(crate) fn write(&self, out: &mut String) {
        let or = |text: &str, default: &str| if text.is_empty() { default.to_owned() } else { text.to_owned() };
        for line in self.comment.lines() {
            let _ = writeln!(out, "// {line}");
        }
        let _ = writeln!(out, "@id({})", text(&self.id));
        if let Some(rule) = &self.rule {
            let _ = writeln!(out, "@requires_approval({})", text(rule));
        }
        if self.hard {
            out.push_str("@severity(\"hard\")\n");
        }
        let _ = writeln!(out, "@title({})", text(&self.title));
        if let Some(message) = &self.agent_message {
            let _ = writeln!(out, "@agent_message({})", text(message));
        }
        let effect = if self.permit { "permit" } else { "forbid" };
        let (principal, resource) = (or(&self.principal, "principal"), or(&self.resource, "resource"));
        let _ = write!(out, "{effect} (\n  {principal},\n  {},\n  {resource}\n)", or(&self.action, "action"));
        for when in &self.when {
            let _ = write!(out, "\nwhen {{ {when} }}");
        }
        for unless in &self.unless {
            let _ = write!(out, "\nunless {{ {unless} }}");
        }
        if let Some(rule) = &self.rule {
            let _ = write!(out, "\nunless {{ context.satisfied.contains({}) }}", entity("ApprovalRule", rule));
        }
        out.push_str(";\n");
    }
}

/// A conjunction; nothing is always true.
pub(crate) fn all(parts: &[String]) -> String {
    joined(parts, " && ", "true")
}

/// A disjunction; nothing is never true.
pub(crate) fn any(parts: &[String]) -> String {
    joined(parts, " || ", "false")
}

fn joined(parts: &[String], by: &str, none: &str) -> String {
    match parts {
        [] => none.to_owned(),
        [one] => one.clone(),
        many => many.iter().map(|part| format!("({part})")).collect::<Vec<_>>().join(by),
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use cedar_policy::{EvalResult, Expression};

    use super::*;

    fn holds(expression: &str) -> bool {
        let expression = Expression::from_str(expression).unwrap();
        let uid = || "E::\"x\"".parse().unwrap();
        let context = cedar_policy::Context::empty();
        let request = cedar_policy::Request::new(uid(), uid(), uid(), context, None).unwrap();
        let entities = cedar_policy::Entities::empty();
        matches!(cedar_policy::eval_expression(&request, &entities, &expression), Ok(EvalResult::Bool(true)))
    }

    proptest::proptest! {
        #[test]
        fn a_literal_is_the_text_and_a_pattern_without_gaps_matches_it_alone(content in "\\PC{0,20}|[\\x00-\\x7f]{0,20}") {
            let longer = format!("{content}x");
            let (whole, open) = (pattern([content.as_str()]), pattern([content.as_str(), ""]));
            for (value, pattern, expected) in [(&content, &whole, true), (&longer, &whole, false), (&longer, &open, true)] {
                let like = format!("{} like {pattern}", text(value));
                proptest::prop_assert_eq!(holds(&like), expected, "{}", like);
            }
        }
    }
}
