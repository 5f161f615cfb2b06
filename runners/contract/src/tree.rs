//! Paths and patterns inside a workspace, safe by construction.
//!
//! Absent: the file system. A [`TreePath`] can be joined to a folder without leaving it as long as no
//! component is a symbolic link, which is for whoever opens it to refuse.
//!
//! Read next: `job` (who names them), `artifact` (what is collected under them).

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest path or pattern, in bytes.
const MAX_BYTES: usize = 1024;

/// The most components of a path or pattern.
const MAX_DEPTH: usize = 64;

/// A text that may not name something inside a workspace.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{path}` cannot name something inside a workspace: {why}")]
pub struct PathError {
    path: String,
    why: &'static str,
}

impl PathError {
    fn new(path: &str, why: &'static str) -> Self {
        Self { path: path.chars().take(80).map(|c| if c.is_control() { '?' } else { c }).collect(), why }
    }
}

/// A relative path: components joined by `/`, none empty, `.` or `..`, no control characters, at most
/// 1024 bytes and 64 components. Ordered by its bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreePath(String);

impl TreePath {
    /// Checks and wraps a text.
    pub fn new(text: &str) -> Result<Self, PathError> {
        check(text)?;
        Ok(Self(text.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The components, outermost first; never empty.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }
}

fn check(text: &str) -> Result<(), PathError> {
    let refuse = |why| Err(PathError::new(text, why));
    if text.is_empty() {
        return refuse("it is empty");
    }
    if text.len() > MAX_BYTES {
        return refuse("it is longer than 1024 bytes");
    }
    if text.starts_with('/') {
        return refuse("it is absolute");
    }
    if text.chars().any(char::is_control) {
        return refuse("it has a control character");
    }
    if text.split('/').count() > MAX_DEPTH {
        return refuse("it has more than 64 components");
    }
    if text.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return refuse("it has an empty, `.` or `..` component");
    }
    Ok(())
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl Serialize for TreePath {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for TreePath {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::new(&Cow::<'de, str>::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}

/// A pattern over [`TreePath`]s: `?` is one character and `*` any run of characters within a component,
/// `**` as a whole component is any number of components. Everything else stands for itself.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern(String);

impl Pattern {
    /// Checks and wraps a text; the rules of [`TreePath`] hold for it too.
    pub fn new(text: &str) -> Result<Self, PathError> {
        check(text)?;
        if text.split('/').any(|part| part != "**" && part.contains("**")) {
            return Err(PathError::new(text, "`**` has to be a whole component"));
        }
        Ok(Self(text.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True if the whole path matches.
    pub fn matches(&self, path: &TreePath) -> bool {
        let pattern: Vec<&str> = self.0.split('/').collect();
        let path: Vec<&str> = path.components().collect();
        wildcard(&pattern, &path, |part| *part == "**", |part, name| component(part, name))
    }
}

fn component(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    wildcard(&pattern, &name, |p| *p == '*', |p, c| *p == '?' || p == c)
}

/// Greedy matching with one point of return: linear in practice, never worse than the product of the lengths, so a
/// hostile pattern cannot stall a collection.
fn wildcard<T, U>(pattern: &[T], text: &[U], any: impl Fn(&T) -> bool, one: impl Fn(&T, &U) -> bool) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while let Some(item) = text.get(t) {
        match pattern.get(p) {
            Some(part) if any(part) => {
                retry = Some((p + 1, t));
                p += 1;
            }
            Some(part) if one(part, item) => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((after, from)) = retry else { return false };
                retry = Some((after, from + 1));
                p = after;
                t = from + 1;
            }
        }
    }
    pattern.get(p..).is_none_or(|rest| rest.iter().all(any))
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::new(&Cow::<'de, str>::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_cannot_leave_its_tree() {
        for good in ["a", "a/b", "..a", "a..", "...", "src/main.rs", "sp ace", "ü/ß"] {
            assert!(TreePath::new(good).is_ok(), "{good}");
        }
        for bad in ["", "/", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "a/./b", "a\0b", "a\nb", &"x".repeat(1025)]
        {
            assert!(TreePath::new(bad).is_err(), "{bad}");
            assert!(Pattern::new(bad).is_err(), "{bad}");
        }
        assert!(TreePath::new(&"a/".repeat(64)).is_err());
        assert!(Pattern::new("a**").is_err());
    }

    #[test]
    fn a_pattern_matches_what_a_shell_user_expects() {
        for (pattern, path, expected) in [
            ("a", "a", true),
            ("a", "b", false),
            ("*", "a", true),
            ("*", "a/b", false),
            ("**", "a/b/c", true),
            ("**/c", "a/b/c", true),
            ("**/c", "c", true),
            ("a/**", "a/b/c", true),
            ("a/**", "b/a", false),
            ("a/**/d", "a/d", true),
            ("a/**/d", "a/b/c/d", true),
            ("a/**/d", "a/b/c/e", false),
            ("*.txt", "x.txt", true),
            ("*.txt", "x.txt.bak", false),
            ("?.t", "ü.t", true),
            ("r*p*t.xml", "report.xml", true),
            ("**/*.xml", "a/b/junit.xml", true),
            ("**/a/**/b", "x/a/y/a/z/b", true),
        ] {
            let matched = Pattern::new(pattern).unwrap().matches(&TreePath::new(path).unwrap());
            assert_eq!(matched, expected, "{pattern} over {path}");
        }
    }

    #[test]
    fn a_hostile_pattern_is_answered_at_once() {
        let pattern = Pattern::new(&"*a".repeat(200)).unwrap();
        assert!(!pattern.matches(&TreePath::new(&"a".repeat(190)).unwrap()));
        let deep = Pattern::new(&["**", "x"].repeat(30).join("/")).unwrap();
        assert!(!deep.matches(&TreePath::new(&["x"; 29].join("/")).unwrap()));
    }
    /// Matching as one would define it, without care for time.
    fn oracle(pattern: &[&str], path: &[&str]) -> bool {
        fn name(pattern: &[char], text: &[char]) -> bool {
            match pattern.split_first() {
                None => text.is_empty(),
                Some(('*', rest)) => (0..=text.len()).any(|skip| name(rest, &text[skip..])),
                Some((p, rest)) => {
                    text.split_first().is_some_and(|(c, after)| (*p == '?' || p == c) && name(rest, after))
                }
            }
        }
        let chars = |text: &str| text.chars().collect::<Vec<_>>();
        match pattern.split_first() {
            None => path.is_empty(),
            Some((&"**", rest)) => (0..=path.len()).any(|skip| oracle(rest, &path[skip..])),
            Some((p, rest)) => {
                path.split_first().is_some_and(|(c, after)| name(&chars(p), &chars(c)) && oracle(rest, after))
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn matching_is_what_its_definition_says(pattern in "([ab?*]{1,3}|\\*\\*)(/([ab?*]{1,3}|\\*\\*)){0,4}",
                                                path in "[ab]{1,3}(/[ab]{1,3}){0,5}") {
            let Ok(checked) = Pattern::new(&pattern) else { return Ok(()) };
            let parts: Vec<&str> = pattern.split('/').collect();
            let names: Vec<&str> = path.split('/').collect();
            let matched = checked.matches(&TreePath::new(&path).unwrap());
            proptest::prop_assert_eq!(matched, oracle(&parts, &names), "{} over {}", pattern, path);
        }
    }
}
