//! `pattern` of JSON Schema: an ECMA-262 expression as one of linear time, or none where the two would not mean the same.
//!
//! A pattern comes from whoever describes a tool: it must not be able to hold a request up. Absent: look-around and
//! back-references, which take more than linear time.

use std::fmt::Write as _;

use regex::{Regex, RegexBuilder};

/// Longest pattern, in bytes.
const MAX_PATTERN: usize = 1000;

/// Largest automaton of one pattern, in bytes. A schema may have many patterns, and there are two automata of each.
const MAX_AUTOMATON: usize = 64 << 10;

/// A pattern that is ready. Two are equal if their texts are.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    text: String,
    regex: Regex,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Pattern {
    /// A pattern; none if it cannot be checked here with the meaning that its author gave it.
    pub(super) fn compile(text: &str) -> Option<Self> {
        if text.len() > MAX_PATTERN {
            return None;
        }
        let regex = RegexBuilder::new(&translated(text)?).size_limit(MAX_AUTOMATON).build().ok()?;
        Some(Self { text: text.to_owned(), regex })
    }

    /// Whether a part of the value matches: patterns are not anchored.
    pub(super) fn holds(&self, value: &str) -> bool {
        self.regex.is_match(value)
    }
}

/// The expression with the classes that the two languages read differently spelled out; none where that is not enough.
fn translated(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len() + 16);
    let mut inside = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next()? {
                // ASCII in ECMA-262, all of Unicode in the other.
                'd' => out.push_str("[0-9]"),
                'D' => out.push_str("[^0-9]"),
                'w' => out.push_str("[0-9A-Za-z_]"),
                'W' => out.push_str("[^0-9A-Za-z_]"),
                'b' | 'B' if inside => return None,
                'b' => out.push_str("(?-u:\\b)"),
                'B' => out.push_str("(?-u:\\B)"),
                // A byte order mark is white space there.
                's' => out.push_str("[\\s\\u{feff}]"),
                'S' => out.push_str("[^\\s\\u{feff}]"),
                'u' => {
                    let digits: String = chars.by_ref().take(4).collect();
                    let code = u32::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 4)?;
                    write!(out, "\\u{{{:x}}}", u32::from(char::from_u32(code)?)).ok()?;
                }
                letter @ ('t' | 'n' | 'r' | 'f' | 'v') => {
                    out.push('\\');
                    out.push(letter);
                }
                // Back-references, properties, control letters and whatever else is a letter or a digit.
                other if other.is_alphanumeric() => return None,
                other => out.push_str(&regex::escape(&other.to_string())),
            },
            '[' if inside => return None,
            '[' => {
                inside = true;
                out.push('[');
                if chars.peek() == Some(&'^') {
                    out.push('^');
                    chars.next();
                }
                // An empty class, or its complement.
                if chars.peek() == Some(&']') {
                    return None;
                }
            }
            ']' if inside => {
                inside = false;
                out.push(']');
            }
            // A lone bracket is itself there, and a mistake here.
            ']' => out.push_str("\\]"),
            // A class as the end of a range: what came before it and the `-` are two characters there, a range here.
            '-' if inside && {
                let mut next = chars.clone();
                next.next() == Some('\\') && matches!(next.next(), Some('d' | 'D' | 'w' | 'W' | 's' | 'S'))
            } =>
            {
                return None;
            }
            // Set operations here, the characters themselves there.
            '&' | '~' | '-' if inside && chars.peek() == Some(&c) => return None,
            '&' | '~' if inside => {
                out.push('\\');
                out.push(c);
            }
            // A dot does not match a line end; there are four there.
            '.' if !inside => out.push_str("[^\\n\\r\\u{2028}\\u{2029}]"),
            // Groups that are more than groups: flags, names, look-around.
            '(' if !inside && chars.peek() == Some(&'?') => {
                chars.next();
                if chars.next() != Some(':') {
                    return None;
                }
                out.push_str("(?:");
            }
            other => out.push(other),
        }
    }
    (!inside).then_some(out)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_pattern_means_what_its_author_meant() {
        // Expected values are those of ECMA-262.
        for (pattern, value, holds) in [
            ("^[A-Za-z0-9._-]+$", "a.b-c_1", true),
            ("^[A-Za-z0-9._-]+$", "a/b", false),
            ("^\\d+$", "12", true),
            ("^\\d+$", "१२", false),
            ("^\\w+$", "ü", false),
            ("^[\\w.]+$", "a.b", true),
            ("^[^\\d]$", "1", false),
            ("b", "abc", true),
            ("^a.c$", "a\rc", false),
            ("^\\s$", "\u{feff}", true),
            ("^\\u00e9$", "é", true),
            ("^a\\/b$", "a/b", true),
            ("^(?:ab|cd){2}$", "abcd", true),
            ("^a$", "a\n", false),
            ("^[a&b~c]$", "&", true),
            ("]", "]", true),
        ] {
            assert_eq!(Pattern::compile(pattern).unwrap().holds(value), holds, "{pattern} {value:?}");
        }
    }

    #[test]
    fn what_would_mean_something_else_or_takes_its_time_is_none() {
        for pattern in [
            "(?=a)",
            "(?!a)",
            "(?<n>a)",
            "(?i)a",
            "(a)\\1",
            "\\p{L}",
            "[a[b]]",
            "[a&&b]",
            "[a--b]",
            "[+-\\w]",
            "[0-9.-\\d]",
            "[]",
            "[^]",
            "\\cJ",
            "\\k<a>",
            "a{1000}{1000}",
            "[",
            "(",
            "\\",
            "\\uzzzz",
            "\\ud800",
        ] {
            assert!(Pattern::compile(pattern).is_none(), "{pattern}");
        }
        assert!(Pattern::compile(&"a".repeat(MAX_PATTERN + 1)).is_none());
    }
}
