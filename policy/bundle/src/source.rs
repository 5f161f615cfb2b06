//! Cedar text cut into its policies, each with its place, so that every finding can name line and column.
//!
//! Cedar parses; this only finds where a policy begins and ends and where a word stands in it.
//! Absent: types and decisions. Read next: `lint`.

use std::ops::Range;
use std::str::FromStr as _;
use std::sync::Arc;

use cedar_policy::{Effect, ParseErrors, Policy, PolicyId};
use countersign_gateway_model::Name;
use countersign_policy_decide::annotation;
use miette::Diagnostic as _;
use serde_json::Value;

use crate::files::FilePath;
use crate::finding::{Finding, Place, RuleId};

/// How deep brackets may nest. Parsers of nested text recurse, and a stack that overflows ends the whole process.
const MAX_NESTING: usize = 32;
/// How many `if`s one policy may have: they nest without brackets, and each one whose condition is known to hold
/// doubles the time that Cedar's validation takes (30 of them: hours).
const MAX_IFS: usize = 12;
/// How many operator characters and words one policy may have: a chain of operators is a nest, too.
const MAX_OPERATORS: usize = 800;

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
    /// The value of an annotation.
    pub(crate) fn annotation(&self, name: &str) -> Option<&str> {
        annotation(&self.policy, name)
    }

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

    /// Where an entity of that id is first named (`Type::"id"`), outside comments; else where the policy begins.
    pub(crate) fn place_of_entity(&self, id: &str) -> Place {
        let text = self.text();
        let word = |t: &Token| text.get(t.range.clone()).unwrap_or_default();
        let hit = self.tokens.windows(3).find_map(|tokens| {
            let [first, second, third] = tokens else { return None };
            let named = word(first) == ":" && word(second) == ":" && third.kind == Kind::Text;
            (named && word(third).trim_matches('"') == id).then_some(third.range.start)
        });
        self.place_at(hit.unwrap_or(0))
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

/// A text cut after each policy, the comment behind it on its line included; and what is left after the last one.
pub(crate) fn pieces(text: &str) -> (Vec<&str>, &str) {
    let mut found = Vec::new();
    let mut begin = 0;
    for (range, _) in statements(text) {
        let behind = text.get(range.end..).unwrap_or_default();
        let line = behind.split_inclusive('\n').next().unwrap_or_default();
        let end = if is_only_comments(line) { range.end + line.len() } else { range.end };
        found.push(text.get(begin..end).unwrap_or_default());
        begin = end;
    }
    (found, text.get(begin..).unwrap_or_default())
}

/// How many policies a text has, counted without parsing them.
pub(crate) fn count(text: &str) -> usize {
    statements(text).len()
}

/// Whether a text has no policy at all.
pub(crate) fn is_only_comments(text: &str) -> bool {
    tokens(text).is_empty()
}

/// The comments of a text, in their order: where each begins, and its words without the white space around them.
pub(crate) fn comments(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut end = 0;
    for range in tokens(text).into_iter().map(|t| t.range).chain(std::iter::once(text.len()..text.len())) {
        // Between two words stand comments and white space alone.
        for line in text.get(end..range.start).unwrap_or_default().split_inclusive('\n') {
            let comment = line.trim();
            if comment.starts_with("//") {
                found.push((end + (line.len() - line.trim_start().len()), comment));
            }
            end += line.len();
        }
        end = range.end;
    }
    found
}

/// Where a text goes beyond what is safe to hand to a parser that recurses, and how.
fn excess(text: &str, tokens: &[Token]) -> Option<(usize, String)> {
    let (mut depth, mut ifs, mut operators) = (0_usize, 0_usize, 0_usize);
    for token in tokens {
        let word = text.get(token.range.clone()).unwrap_or_default();
        match (token.kind, word) {
            (Kind::Mark, "(" | "[" | "{") => depth += 1,
            (Kind::Mark, ")" | "]" | "}") => depth = depth.saturating_sub(1),
            (Kind::Mark, "," | ";" | ":" | "@") => {}
            (Kind::Word, "if") => ifs += 1,
            (Kind::Mark, _) | (Kind::Word, "in" | "has" | "like" | "is") => operators += 1,
            _ => {}
        }
        let most =
            [(depth, MAX_NESTING, "nested brackets"), (ifs, MAX_IFS, "`if`s"), (operators, MAX_OPERATORS, "operators")];
        if let Some((_, limit, what)) = most.iter().find(|(count, limit, _)| count > limit) {
            return Some((token.range.start, format!("more than {limit} {what}")));
        }
    }
    None
}

/// The same for a schema, whose types nest by `<` and `{`.
pub(crate) fn schema_excess(text: &str) -> Option<(usize, String)> {
    let mut depth = 0_usize;
    for token in tokens(text).into_iter().filter(|t| t.kind == Kind::Mark) {
        match text.get(token.range.clone()).unwrap_or_default() {
            "(" | "[" | "{" | "<" => depth += 1,
            ")" | "]" | "}" | ">" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_NESTING {
            return Some((token.range.start, format!("more than {MAX_NESTING} nested brackets")));
        }
    }
    None
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
        if let Some((offset, message)) = excess(own, &tokens) {
            let next = "split it into policies that each say one thing";
            findings.push(Finding::error(place(offset), RuleId::Limit, message, next));
            continue;
        }
        let parsed = match Policy::parse(None, own) {
            Ok(policy) => policy,
            Err(errors) => {
                findings.extend(syntax(&errors, place));
                continue;
            }
        };
        let Some(id) = annotation(&parsed, "id") else {
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

    #[test]
    fn text_that_would_overflow_a_parser_is_refused_and_text_at_the_limits_is_read() {
        let many = |n: usize, word: &str, by: &str| vec![word; n].join(by);
        let around = |n: usize, open: &str, close: &str| format!("{}true{}", open.repeat(n), close.repeat(n));
        let mut fitting = String::new();
        // The braces of `when` are one level.
        let nest = MAX_NESTING - 1;
        // The head has operators, too.
        let chain = MAX_OPERATORS - 3;
        for (deep, fits) in [
            (around(100_000, "(", ")"), around(nest, "(", ")")),
            (around(100_000, "[", "]"), format!("{0} == {0}", around(nest, "[", "]"))),
            (around(100_000, "{a:", "}"), format!("{0} == {0}", around(nest, "{a:", "}"))),
            (around(100_000, "if true then ", " else false"), around(MAX_IFS, "if true then ", " else false")),
            (around(100_000, "if true then true else ", ""), around(MAX_IFS, "if true then true else ", "")),
            (many(100_000, "true", "&&"), many(chain / 2, "true", "&&")),
            (many(100_000, "true", "||"), many(chain / 2, "true", "||")),
            (format!("{} > 1", many(100_000, "1", "+")), format!("{} > 1", many(chain - 1, "1", "+"))),
            (format!("context{}", ".a".repeat(100_000)), format!("context{}", ".a".repeat(chain))),
            (format!("context has a{}", ".a".repeat(100_000)), format!("context has a{}", ".a".repeat(chain - 1))),
            ("!".repeat(100_000), "!!!!true".to_owned()),
        ] {
            let head = "permit(principal, action == Countersign::Action::\"listTools\", resource)";
            let policy = |n: usize, body: &str| format!("@id(\"p{n}\") {head} when {{ {body} }};\n");
            let (policies, findings) = read(&policy(0, &deep));
            assert_eq!((policies.len(), findings.len(), findings[0].rule), (0, 1, RuleId::Limit));
            fitting.push_str(&policy(fitting.matches("@id").count(), &fits));
        }
        // Whole: parsed, linted, checked, compared, dropped, on a small thread's stack.
        let whole = std::thread::Builder::new().stack_size(512 * 1024).spawn(move || {
            let draft = crate::Draft::from_files([("policies.cedar".to_owned(), fitting.into_bytes())]).unwrap();
            let checked = crate::check_draft(&draft, countersign_gateway_model::OrgId::from_bytes([1; 16]), None);
            assert!(checked.report.findings.iter().all(|f| !matches!(f.rule, RuleId::Limit | RuleId::Syntax)));
            assert_eq!(crate::diff(&crate::Draft::default(), &draft).changes.len(), 11);
            checked.report.policies
        });
        assert_eq!(whole.unwrap().join().unwrap(), 11);
        let nested = |n| format!("namespace M {{ entity E {{ a: {}Long{} }}; }}", "Set<".repeat(n), ">".repeat(n));
        assert!(schema_excess(&nested(100_000)).is_some());
        assert!(schema_excess(&nested(MAX_NESTING - 2)).is_none());
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_cut_within_a_character_or_loses_a_policy(text in "(\\PC|[\"\\\\;@(){}/\n]){0,60}") {
            let pieces = statements(&text);
            for (range, tokens) in &pieces {
                let own = text.get(range.clone()).unwrap();
                proptest::prop_assert!(tokens.iter().all(|t| own.get(t.range.clone()).is_some()));
            }
            let (policies, findings) = read(&format!("{text}\n;@id(\"last\") permit(principal, action, resource);"));
            let swallowed = text.matches('"').count() > 0 || text.contains("//");
            proptest::prop_assert!(swallowed || !policies.is_empty() || findings.is_empty());
        }
    }
}
