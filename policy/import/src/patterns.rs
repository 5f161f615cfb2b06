//! Forbidden patterns, allowed stacks and the most files of a build.
//!
//! There, a build is refused before anything runs. Here, submitting a build is a tool; the stack and the number of files
//! are conditions over its input, and the patterns are a detector whose finding a forbid reads. A pattern that the
//! detector cannot run leaves every build waiting for a person. Read next: `bundle`.

use std::fmt::Write as _;

use countersign_policy_bundle::Name;
use regex::RegexBuilder;
use serde_json::{Value, json};

use crate::bundle::{Parts, Tool};
use crate::cedar::{self, Written};
use crate::report::Fate;
use crate::source::{documents, members, texts, unusable};
use crate::yaml::{Node, Value as Yaml};
use crate::{Format, ImportError, Options, Source};

/// How large the program of one pattern may be, in bytes; the detector has a bound of its own for all of them.
const MAX_PROGRAM: usize = 1 << 20;
/// The rule that asks a person where a pattern could not be carried.
const UNSCANNED: &str = "build-not-scanned";

pub(crate) fn read(source: Source<'_>, options: &Options) -> Result<Parts, ImportError> {
    let prefix = options.name()?;
    let documents = documents(source)?;
    let known = ["allowed_stacks", "forbidden_patterns", "max_files"];
    let nothing = || ImportError::Nothing {
        file: source.file.to_owned(),
        format: Format::ForbiddenPatterns,
        expected: "one document with `allowed_stacks`, `forbidden_patterns` or `max_files`",
    };
    let [document] = documents.as_slice() else { return Err(nothing()) };
    if known.iter().all(|key| document.get(key).is_none()) {
        return Err(nothing());
    }
    let mut parts = Parts::default();
    let tool = Name::new(&format!("{prefix}.submit_build")).map_err(|_| ImportError::Name)?;
    let text = json!({"type": "string"});
    let file =
        json!({"type": "object", "properties": {"content": text, "path": text}, "required": ["content", "path"]});
    let input = json!({
        "type": "object",
        "properties": {
            "audit_command": text, "files": {"type": "array", "items": file, "minItems": 1},
            "project_name": text, "run_command": text, "stack": text,
        },
        "required": ["audit_command", "files", "project_name", "run_command", "stack"],
    });
    let description = "Submits a build: a stack, its files, and the commands that audit and run it".to_owned();
    let written = Tool { name: tool.clone(), description, input, scopes: Vec::new() };
    let mut build =
        Build { prefix, action: written.action(), tool: tool.clone(), stack: "python".to_owned(), parts: &mut parts };
    build.parts.tools.insert(tool, written);
    build.permit();
    for (key, value) in members("the document", document, &known, &mut build.parts.report)? {
        match key.name.as_str() {
            "allowed_stacks" => build.stacks(value)?,
            "max_files" => build.files(value)?,
            _ => build.patterns(value)?,
        }
    }
    for key in known.iter().filter(|key| document.get(key).is_none()) {
        let how = "it is absent and restricts nothing here";
        build.parts.report.say(&document.place, Fate::Interpreted, format!("`{key}`"), how);
    }
    build.allowed_case();
    Ok(parts)
}

struct Build<'p> {
    prefix: &'p str,
    tool: Name,
    action: String,
    /// One that is allowed, for the tests.
    stack: String,
    parts: &'p mut Parts,
}

impl Build<'_> {
    fn policy(&mut self, id: &str, title: &str, message: &str, when: String) {
        self.parts.policies.push(Written {
            id: format!("{}-{id}", self.prefix),
            title: title.to_owned(),
            hard: true,
            agent_message: Some(message.to_owned()),
            action: cedar::actions([self.action.as_str()]),
            resource: "resource is Countersign::Tool".to_owned(),
            when: vec![when],
            ..Written::default()
        });
    }

    fn permit(&mut self) {
        self.parts.policies.push(Written {
            id: format!("{}-submits-builds", self.prefix),
            title: "Agents submit builds, under the rules below".to_owned(),
            permit: true,
            principal: "principal is Countersign::Agent".to_owned(),
            action: cedar::actions([self.action.as_str()]),
            resource: "resource is Countersign::Tool".to_owned(),
            ..Written::default()
        });
    }

    fn input(&self, stack: &str, contents: &[&str]) -> Value {
        let file = |(n, content): (usize, &&str)| json!({"content": content, "path": format!("src/{n}.txt")});
        json!({
            "audit_command": "true", "files": contents.iter().enumerate().map(file).collect::<Vec<_>>(),
            "project_name": "app", "run_command": "true", "stack": stack,
        })
    }

    fn case(&mut self, name: &str, input: &Value, expect: Value) {
        let tool = self.tool.clone();
        self.parts.ask_tool(name, &tool, input, expect);
    }

    fn denied(&self, id: &str) -> Value {
        json!({"decision": "deny", "determining": [format!("{}-{id}", self.prefix)]})
    }

    fn stacks(&mut self, node: &Node) -> Result<(), ImportError> {
        let items = texts("`allowed_stacks`", node)?;
        let list = cedar::texts(items.iter().map(|(text, _)| *text));
        let when = if items.is_empty() { "true".to_owned() } else { format!("!{list}.contains(context.input.stack)") };
        self.policy("allowed-stacks", "A build's stack is allowed", "The stack is not allowed.", when);
        self.parts.report.say(
            &node.place,
            Fate::Carried,
            "`allowed_stacks`",
            format!("a forbid unless the stack is one of {list}"),
        );
        if let Some((stack, _)) = items.first() {
            (*stack).clone_into(&mut self.stack);
        }
        let input = self.input("nobody-named-this", &["x"]);
        let expect = self.denied("allowed-stacks");
        self.case("a stack that is not allowed", &input, expect);
        Ok(())
    }

    fn files(&mut self, node: &Node) -> Result<(), ImportError> {
        let Yaml::Integer(most @ 0..) = node.value else {
            return Err(unusable(node, "`max_files`", "it is no whole number; correct it"));
        };
        let when = format!("context.input.filesCount > {most}");
        self.policy("max-files", "A build has no more files than allowed", "There are too many files.", when);
        self.parts.report.say(
            &node.place,
            Fate::Carried,
            "`max_files`",
            format!("a forbid from {} files on", most.saturating_add(1)),
        );
        if most < 500 {
            let stack = self.stack.clone();
            let contents = vec!["x"; usize::try_from(most).unwrap_or(0) + 1];
            let (input, expect) = (self.input(&stack, &contents), json!({"decision": "deny"}));
            self.case("one file more than allowed", &input, expect);
        }
        Ok(())
    }

    fn patterns(&mut self, node: &Node) -> Result<(), ImportError> {
        let items = texts("`forbidden_patterns`", node)?;
        let mut carried = Vec::new();
        let mut missed = false;
        for (text, at) in items {
            let runs = translated(text).and_then(|pattern| {
                match RegexBuilder::new(&pattern).size_limit(MAX_PROGRAM).build() {
                    Ok(_) => Ok(pattern),
                    Err(error) => {
                        let problem = error.to_string();
                        let problem = problem.lines().last().unwrap_or_default().trim();
                        let problem = problem.trim_start_matches("error: ");
                        Err(format!("it cannot be run in time linear in the text ({problem})"))
                    }
                }
            });
            match runs {
                Ok(pattern) => {
                    self.parts.report.say(
                        &at.place,
                        Fate::Carried,
                        format!("pattern `{text}`"),
                        "looked for in the contents of every file, whatever its case",
                    );
                    carried.push(pattern);
                }
                Err(problem) => {
                    missed = true;
                    let how = format!("{problem}; every build waits for a person until it is said otherwise");
                    self.parts.report.say(&at.place, Fate::Stricter, format!("pattern `{text}`"), how);
                }
            }
        }
        if !carried.is_empty() {
            self.detector(&carried)?;
        }
        if missed {
            self.unscanned();
        }
        let how = "paths and commands of a build are not looked at, as there; detectors for them can be added";
        self.parts.report.say(&node.place, Fate::Interpreted, "`forbidden_patterns`", how);
        Ok(())
    }

    fn detector(&mut self, patterns: &[String]) -> Result<(), ImportError> {
        let fact = Name::new(&format!("{}-forbidden-pattern", self.prefix)).map_err(|_| ImportError::Name)?;
        let when = format!("context.facts.contains({})", cedar::text(fact.as_str()));
        self.policy(
            "forbidden-patterns",
            "A build's files have no forbidden pattern",
            "A file has a forbidden pattern.",
            when,
        );
        self.parts.detectors = Some(json!({"detectors": {
            fact.as_str(): {
                "title": "Forbidden patterns in the contents of a build's files",
                "tools": [self.tool],
                "at": ["/files/*/content"],
                "find": {"patterns": patterns},
            },
        }}));
        Ok(())
    }

    fn unscanned(&mut self) {
        self.parts.policies.push(Written {
            id: format!("gate-{}-not-scanned", self.prefix),
            title: "A pattern could not be carried, so that every build needs a person".to_owned(),
            rule: Some(UNSCANNED.to_owned()),
            agent_message: Some("A person must look at the build.".to_owned()),
            action: cedar::actions([self.action.as_str()]),
            resource: "resource is Countersign::Tool".to_owned(),
            ..Written::default()
        });
        let data = json!({
            "title": "A build that was not scanned for every forbidden pattern",
            "authority": {"roles": ["APPROVER"]}, "timeout_s": 86_400,
        });
        self.parts.rules.extend(Name::new(UNSCANNED).ok().map(|rule| (rule, data)));
    }

    fn allowed_case(&mut self) {
        let input = self.input(&self.stack.clone(), &["print('hello')"]);
        let expect = if self.parts.rules.is_empty() {
            json!({"decision": "allow"})
        } else {
            json!({"decision": "needs_approval", "rules": [UNSCANNED]})
        };
        let refused = self.parts.policies.iter().any(|policy| policy.when == ["true"]);
        if !refused {
            self.case("a build within the rules", &input, expect);
        }
        if self.parts.detectors.is_some() {
            // The finding itself, whatever text brought it about.
            self.case("a build in which a forbidden pattern was found", &input, json!({"decision": "deny"}));
            let fact = format!("{}-forbidden-pattern", self.prefix);
            if let Some(Value::Object(ask)) = self.parts.cases.last_mut().map(|case| &mut case.ask) {
                ask.insert("facts".to_owned(), json!([fact]));
            }
        }
    }
}

/// As the detector's dialect spells it: letter case ignored, and an end before a last line break is an end, too. What
/// stands for itself in a character class there and is an operator here is an error.
fn translated(pattern: &str) -> Result<String, String> {
    let mut out = String::from("(?i)");
    let mut chars = pattern.chars().peekable();
    // Within a class: whether something stands in it already, and the character before, if it stands for itself.
    let mut class: Option<(bool, Option<char>)> = None;
    while let Some(c) = chars.next() {
        match (c, class) {
            ('\\', _) => {
                match chars.next() {
                    Some('Z') => out.push_str("\\z"),
                    Some(next) => {
                        let _ = write!(out, "\\{next}");
                    }
                    None => out.push('\\'),
                }
                class = class.map(|_| (true, None));
                continue;
            }
            ('$', None) => {
                out.push_str("(?:\\n?\\z)");
                continue;
            }
            ('[', None) => {
                out.push('[');
                out.extend(chars.next_if_eq(&'^'));
                class = Some((false, None));
                continue;
            }
            ('[', Some(_)) => {
                return Err("it means something else here: `[` in a character class; write `\\[`".to_owned());
            }
            (']', Some((true, _))) => class = None,
            (c @ ('&' | '-' | '~'), Some((_, Some(before)))) if c == before => {
                return Err(format!("it means something else here: `{c}{c}` in a character class; write `\\{c}`"));
            }
            (c, Some(_)) => class = Some((true, Some(c))),
            (_, None) => {}
        }
        out.push(c);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_something_else_in_a_class_of_the_other_dialect_is_not_carried() {
        for pattern in ["[a-z&&b]", "[&&]", "[^a--c]", "[a~~b]", "[[:alpha:]]", "x[a[b]", "[]&&]"] {
            assert!(translated(pattern).is_err(), "{pattern}");
        }
        for (pattern, expected) in [
            ("[&\\&]", "(?i)[&\\&]"),
            ("[a&-]&&--~~", "(?i)[a&-]&&--~~"),
            ("\\[&&$", "(?i)\\[&&(?:\\n?\\z)"),
            ("[]$]$", "(?i)[]$](?:\\n?\\z)"),
            ("[^]$]\\Z", "(?i)[^]$]\\z"),
        ] {
            assert_eq!(translated(pattern).unwrap(), expected);
            assert!(RegexBuilder::new(expected).build().is_ok(), "{expected}");
        }
        let text = "forbidden_patterns: ['a[b&&c]']";
        let parts = read(Source { file: "f", text }, &Options::default()).unwrap();
        assert_eq!(parts.report.of(Fate::Stricter).count(), 1, "{}", parts.report);
        assert!(parts.detectors.is_none() && parts.rules.keys().any(|rule| rule.as_str() == UNSCANNED));
    }
}
