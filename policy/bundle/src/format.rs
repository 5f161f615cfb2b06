//! Policies in the one form that everybody's editor agrees on. Comments stay, in their order; meaning is checked to stay.
//!
//! Cedar's own formatter does the work. It recurses, so what nests too deeply is refused before it sees it, and it has
//! no opinion about comments, so this compares them. Absent: files (the program reads and writes them), schemas and
//! JSON, which have no formatter that keeps comments. Read next: `source`.

use std::sync::Arc;

use cedar_policy_formatter::{Config, policies_str_to_pretty};

use crate::files::{FileKind, FilePath};
use crate::finding::{Finding, Place, RuleId};
use crate::source;

/// How long a line may become before it is broken: a gate's `unless` fits.
const LINE_WIDTH: usize = 100;
const INDENT: isize = 2;

/// Whether files of this kind are formatted: Cedar policies.
pub fn has_format(kind: FileKind) -> bool {
    matches!(kind, FileKind::Policies | FileKind::Invariants)
}

/// The formatted text of one file of Cedar policies. What does not parse is not touched: the findings say why.
pub fn format(path: &FilePath, text: &str) -> Result<String, Vec<Finding>> {
    countersign_policy_decide::depth::with_room(|| format_with_room(path, text))
}

fn format_with_room(path: &FilePath, text: &str) -> Result<String, Vec<Finding>> {
    let mut findings = Vec::new();
    // Refuses what would overflow a parser. What lint has to say of ids is not a reason to leave a text unformatted.
    source::parse(path, &Arc::from(text), &mut findings);
    findings.retain(|finding| matches!(finding.rule, RuleId::Syntax | RuleId::Limit));
    if !findings.is_empty() {
        return Err(findings);
    }
    if source::is_only_comments(text) {
        // Nothing to say about the form of a note.
        return Ok(text.to_owned());
    }
    let refuse = |message: String| {
        let next = "leave this file as it is, and report it with the policy that it holds";
        vec![Finding::error(Place::start(path.as_str()), RuleId::Format, message, next)]
    };
    let config = Config { line_width: LINE_WIDTH, indent_width: INDENT };
    let mut out = String::with_capacity(text.len());
    // One policy at a time: the formatter looks through all words of its text for each comment.
    let (policies, rest) = source::pieces(text);
    for policy in policies {
        // It refuses a result whose policies mean something else.
        let formatted = policies_str_to_pretty(policy, &config).map_err(|error| refuse(error.to_string()))?;
        let formatted = sections(policy, &formatted);
        let formatted = formatted.ok_or_else(|| refuse("the formatter would lose or move a comment".to_owned()))?;
        if !out.is_empty() {
            out.push('\n');
        }
        out.push_str(formatted.trim_end());
        out.push('\n');
    }
    if !source::comments(rest).is_empty() {
        // Words after the last policy stand apart from it, and empty lines among them stay.
        let mut apart = true;
        for line in rest.lines().map(str::trim) {
            if line.is_empty() {
                apart = true;
                continue;
            }
            if std::mem::take(&mut apart) {
                out.push('\n');
            }
            out.push_str(line);
            out.push('\n');
        }
    }
    Ok(out)
}

/// Puts back the empty lines that set comments between policies apart, which the formatter closes up; none if the
/// comments are not the same.
fn sections(text: &str, formatted: &str) -> Option<String> {
    let (before, after) = (source::comments(text), source::comments(formatted));
    if !before.iter().map(|(_, words)| words).eq(after.iter().map(|(_, words)| words)) {
        return None;
    }
    let mut out = String::with_capacity(formatted.len() + before.len());
    let mut copied = 0;
    for ((was, words), (is, _)) in before.iter().zip(&after) {
        let follows = |text: &str, at: usize| {
            let mut lines = text.get(at + words.len()..).unwrap_or_default().split('\n').skip(1);
            lines.next().is_some_and(|line| line.trim().is_empty()) && lines.any(|line| !line.trim().is_empty())
        };
        let alone = *is == 0 || formatted.get(..*is).is_some_and(|head| head.ends_with('\n'));
        if alone && follows(text, *was) && !follows(formatted, *is) {
            let end = is + words.len();
            out.push_str(formatted.get(copied..end)?);
            out.push('\n');
            copied = end;
        }
    }
    out.push_str(formatted.get(copied..)?);
    Some(out)
}

/// Where a text first differs from its formatted form; none if it does not.
pub fn first_difference(path: &FilePath, text: &str, formatted: &str) -> Option<Finding> {
    if text == formatted {
        return None;
    }
    let offset = text.bytes().zip(formatted.bytes()).take_while(|(a, b)| a == b).count();
    let message = "the text is not in the one form";
    let next = "write it with `countersign policy fmt`";
    Some(Finding::error(Place::at(path.as_str(), text, offset), RuleId::Format, message, next))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    fn path() -> FilePath {
        FilePath::new("policies.cedar").unwrap()
    }

    const UGLY: &str = "// head\n\n// of it\n@id(\"a\") // by hand\npermit(principal,action,resource) when{ // why\n\
        context.delegated==false&&1<2 } ;\n@id(\"b\")forbid(principal,action,resource);// tail\n// end";

    #[test]
    fn formatting_keeps_every_comment_and_settles_at_once() {
        let once = format(&path(), UGLY).unwrap();
        for comment in ["// head", "// of it", "// by hand", "// why", "// tail", "// end"] {
            assert_eq!(once.matches(comment).count(), 1, "{comment} in\n{once}");
        }
        assert!(once.contains("permit (principal, action, resource)\n"), "{once}");
        assert_eq!(format(&path(), &once).unwrap(), once);
        assert!(once.starts_with("// head\n\n// of it\n@id(\"a\")"), "{once}");
        let finding = first_difference(&path(), UGLY, &once).unwrap();
        assert_eq!((finding.rule, finding.place.to_string()), (RuleId::Format, "policies.cedar:5:7".to_owned()));
        assert_eq!(first_difference(&path(), &once, &once), None);
    }

    #[test]
    fn what_does_not_parse_is_left_alone_and_says_where() {
        let broken = format(&path(), "@id(\"a\")\npermit(principal, action, resource) when { 1 + };").unwrap_err();
        assert_eq!((broken[0].rule, broken[0].place.to_string()), (RuleId::Syntax, "policies.cedar:2:48".to_owned()));
        let deep =
            format!("permit(principal, action, resource) when {{ {}true{} }};", "(".repeat(9999), ")".repeat(9999));
        assert_eq!(format(&path(), &deep).unwrap_err()[0].rule, RuleId::Limit);
    }

    #[test]
    fn many_policies_take_as_long_as_each_of_them_alone() {
        let one = |n: usize| format!("@id(\"p{n}\") // said\npermit(principal,action,resource); // tail\n\n");
        let text: String = (0..300).map(one).collect();
        let formatted = format(&path(), &text).unwrap();
        assert_eq!(formatted.matches("// said").count(), 300);
        let alone: Vec<String> = (0..300).map(|n| format(&path(), &one(n)).unwrap()).collect();
        assert_eq!(formatted, alone.join("\n"));
    }

    #[test]
    fn words_after_the_last_policy_stay_where_they_are() {
        let text = "@id(\"a\")permit(principal,action,resource);//x\n//one\n\n\n//two\n//three";
        let formatted = format(&path(), text).unwrap();
        assert!(formatted.ends_with("//x\n\n//one\n\n//two\n//three\n"), "{formatted}");
        assert_eq!(format(&path(), &formatted).unwrap(), formatted);
    }

    #[test]
    fn a_file_of_notes_stays_as_it_is() {
        for text in ["", "// nothing yet\n", "//a\n\n//b"] {
            assert_eq!(format(&path(), text).unwrap(), text);
        }
    }

    proptest! {
        #[test]
        fn formatting_changes_no_decision_and_settles(
            spaces in prop::collection::vec("[ \n\t]{0,3}|(//[a-z ]{0,9}\n{1,3}){0,2}", 16),
        ) {
            let words = ["@id(\"a\")", "permit", "(", "principal", ",", "action", ",", "resource", ")", "when", "{",
                "context.denials", "<", "3", "}", ";"];
            let text: String = words.iter().zip(&spaces).flat_map(|(word, space)| [*word, " ", space.as_str()]).collect();
            let once = format(&path(), &text).unwrap();
            prop_assert_eq!(&format(&path(), &once).unwrap(), &once);
            let parse = |text: &str| cedar_policy::Policy::parse(None, text).unwrap().to_json().unwrap();
            prop_assert_eq!(parse(&text), parse(&once));
            let comments = |text: &str| source::comments(text).into_iter().map(|(_, c)| c.to_owned()).collect::<Vec<_>>();
            prop_assert_eq!(comments(&text), comments(&once));
        }
    }
}
