//! Cedar text cut into its policies, each with its place, so that every finding can name line and column.
//!
//! Cedar parses; this only finds where a policy begins and ends and where a word stands in it.
//! Absent: types and decisions. Read next: `lint`.

use std::ops::Range;
use std::str::FromStr as _;
use std::sync::Arc;

use cedar_policy::{Effect, ParseErrors, Policy, PolicyId};
use countersign_gateway_model::Name;
use miette::Diagnostic as _;
use serde_json::Value;

use crate::files::FilePath;
use crate::finding::{Finding, Place, RuleId};

/// One policy of a bundle, parsed, with its place.
#[derive(Clone, Debug)]
pub(crate) struct SourcePolicy {
    /// From `@id`.
    pub(crate) id: Name,
    /// Cedar's own, under that id.
    pub(crate) policy: Policy,
    /// Cedar's JSON form of it.
    pub(crate) est: Value,
    place: Place,
    text: Arc<str>,
    range: Range<usize>,
    tokens: Vec<Token>,
}

impl SourcePolicy {
    pub(crate) fn effect(&self) -> Effect {
        self.policy.effect()
    }

    /// Its own text, comments within it included.
    pub(crate) fn text(&self) -> &str {
        self.text.get(self.range.clone()).unwrap_or_default()
    }

    /// Where it begins.
    pub(crate) fn place(&self) -> Place {
        self.place.clone()
    }

    /// The place `offset` bytes into it.
    pub(crate) fn place_at(&self, offset: usize) -> Place {
        self.place().further(self.text(), offset)
    }

    /// Where `word` first stands in it as an identifier or a string, outside comments; else where it begins.
    pub(crate) fn place_of(&self, word: &str) -> Place {
        let text = self.text();
        let hit = self.tokens.iter().find(|t| {
            let token = text.get(t.range.clone()).unwrap_or_default();
            token == word || (t.kind == Kind::Text && token.trim_matches('"') == word)
        });
        self.place_at(hit.map_or(0, |t| t.range.start))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Word,
    Text,
    Slot,
    Mark,
}

#[derive(Clone, Debug)]
struct Token {
    kind: Kind,
    range: Range<usize>,
}

/// The words of Cedar text; comments and white space are left out. An open string ends at the end of the text.
fn tokens(text: &str) -> Vec<Token> {
    let bytes = text.as_bytes();
    let at = |i: usize| bytes.get(i).copied();
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b >= 0x80;
    let mut out = Vec::new();
    let mut i = 0;
    while let Some(byte) = at(i) {
        let start = i;
        i += 1;
        let kind = match byte {
            b if b.is_ascii_whitespace() => continue,
            b'/' if at(i) == Some(b'/') => {
                while at(i).is_some_and(|b| b != b'\n') {
                    i += 1;
                }
                continue;
            }
            b'"' => {
                while let Some(b) = at(i) {
                    i += if b == b'\\' { 2 } else { 1 };
                    if b == b'"' {
                        break;
                    }
                }
                i = i.min(bytes.len());
                Kind::Text
            }
            b if word(b) || (b == b'?' && at(i).is_some_and(word)) => {
                while at(i).is_some_and(word) {
                    i += 1;
                }
                if b == b'?' { Kind::Slot } else { Kind::Word }
            }
            _ => Kind::Mark,
        };
        out.push(Token { kind, range: start..i });
    }
    out
}

/// Cuts a file into statements: each ends with its `;`. What stands after the last `;` is a statement, too.
fn statements(text: &str) -> Vec<(Range<usize>, Vec<Token>)> {
    let mut out = Vec::new();
    let mut open: Vec<Token> = Vec::new();
    for token in tokens(text) {
        let ends = token.kind == Kind::Mark && text.get(token.range.clone()) == Some(";");
        open.push(token);
        if ends {
            out.push(std::mem::take(&mut open));
        }
    }
    if !open.is_empty() {
        out.push(open);
    }
    let range = |tokens: &[Token]| {
        let start = tokens.first().map_or(0, |t| t.range.start);
        start..tokens.last().map_or(start, |t| t.range.end)
    };
    out.into_iter()
        .map(|tokens| {
            let range = range(&tokens);
            let shift = |t: Token| Token { range: t.range.start - range.start..t.range.end - range.start, ..t };
            (range.clone(), tokens.into_iter().map(shift).collect())
        })
        .collect()
}

/// Parses every policy of a file. What does not parse, and what has no usable `@id`, becomes a finding.
pub(crate) fn parse(file: &FilePath, text: &Arc<str>, findings: &mut Vec<Finding>) -> Vec<SourcePolicy> {
    let mut out = Vec::new();
    // Lines are counted from policy to policy, not from the start of a large file each time.
    let (mut here, mut counted) = (Place::start(file.as_str()), 0);
    for (range, tokens) in statements(text) {
        here = here.further(text.get(counted..range.start).unwrap_or_default(), usize::MAX);
        counted = range.start;
        let own = text.get(range.clone()).unwrap_or_default();
        let place = |offset: usize| here.clone().further(own, offset);
        if let Some(slot) = tokens.iter().find(|t| t.kind == Kind::Slot) {
            findings.push(Finding::error(
                place(slot.range.start),
                RuleId::Template,
                "a template decides nothing until it is linked, and nothing links it",
                "write the policy out with its principal and resource",
            ));
            continue;
        }
        let parsed = match Policy::parse(None, own) {
            Ok(policy) => policy,
            Err(errors) => {
                findings.extend(syntax(&errors, place));
                continue;
            }
        };
        let Some(id) = parsed.annotation("id") else {
            findings.push(Finding::error(
                place(0),
                RuleId::PolicyId,
                "the policy has no `@id`",
                "put `@id(\"its-name\")` before it: entries name policies by it",
            ));
            continue;
        };
        let id = match Name::from_str(id) {
            Ok(id) => id,
            Err(error) => {
                let text = error.to_string();
                findings.push(Finding::error(place(0), RuleId::PolicyId, text, "choose another `@id`"));
                continue;
            }
        };
        let policy = parsed.new_id(PolicyId::new(id.as_str()));
        match policy.to_json() {
            Ok(est) => {
                out.push(SourcePolicy {
                    id,
                    policy,
                    est,
                    place: here.clone(),
                    text: Arc::clone(text),
                    range: range.clone(),
                    tokens,
                });
            }
            Err(error) => findings.push(
                Finding::error(place(0), RuleId::Syntax, error.to_string(), "write the policy in plain cedar").of(&id),
            ),
        }
    }
    out
}

/// One finding for each parse error, where Cedar saw it.
pub(crate) fn syntax(errors: &ParseErrors, place: impl Fn(usize) -> Place) -> Vec<Finding> {
    let one = |error: &cedar_policy::ParseError| {
        let offset = error.labels().and_then(|mut l| l.next()).map_or(0, |label| label.offset());
        let help = error.help().map_or_else(|| "correct the text there".to_owned(), |h| h.to_string());
        Finding::error(place(offset), RuleId::Syntax, error.to_string(), help)
    };
    errors.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn read(text: &str) -> (Vec<SourcePolicy>, Vec<Finding>) {
        let mut findings = Vec::new();
        let policies = parse(&FilePath::new("policies.cedar").unwrap(), &text.into(), &mut findings);
        (policies, findings)
    }

    #[test]
    fn policies_are_cut_where_cedar_ends_them_and_nowhere_else() {
        let text = "// one; two \"\n@id(\"a;\\\"b\")\npermit(principal,action,resource)\n when { context.x == \"};\" }; // tail;\n\
                    @id(\"b\") forbid(principal, action, resource); @id(\"c\")\nforbid(principal,action,resource);";
        let (policies, findings) = read(text);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!(findings[0].place.to_string(), "policies.cedar:2:1", "the id holds characters an entry may not");
        assert_eq!(policies.iter().map(|p| p.id.as_str()).collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!(policies[0].text(), "@id(\"b\") forbid(principal, action, resource);");
        assert_eq!(policies[1].place().to_string(), "policies.cedar:5:47");
        let whole = cedar_policy::PolicySet::from_str(text).unwrap();
        assert_eq!(whole.policies().count(), 3, "cedar cuts at the same places");
    }

    #[test]
    fn what_does_not_parse_is_found_at_its_line_and_column() {
        for (text, rule, place) in [
            ("@id(\"a\")\npermit(principal, action, resource)\nwhen { 1 + };", RuleId::Syntax, "policies.cedar:3:12"),
            ("permit(principal, action, resource);", RuleId::PolicyId, "policies.cedar:1:1"),
            (
                "\n @id(\"a\") permit(principal == ?principal, action, resource);",
                RuleId::Template,
                "policies.cedar:2:31",
            ),
            ("@id(\"a\") permit(principal, action, resource)", RuleId::Syntax, "policies.cedar:1:45"),
            ("@id(\"open", RuleId::Syntax, "policies.cedar:1:5"),
        ] {
            let (policies, findings) = read(text);
            assert!(policies.is_empty(), "{text}");
            assert_eq!((findings[0].rule, &*findings[0].place.to_string()), (rule, place), "{:?}", findings[0]);
        }
        let (policies, findings) =
            read("@id(\"bad\") permit(principal);\n@id(\"a\") permit(principal, action, resource);");
        assert_eq!((policies.len(), findings.is_empty()), (1, false), "one bad policy does not hide the next");
    }
}
