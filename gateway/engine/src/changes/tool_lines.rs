//! What becomes of each tool, line by line: all that a person who is asked about a registration must know of it.
//!
//! Text of others stands in the lines as it is; whoever shows them escapes it (`view`). Nothing is left out: what is too
//! much for one view is refused before anybody is asked. Only a description is cut, and says so, and a schema is its digest.
//!
//! Absent: tools that stay as they are. Read next: `registration`.

use std::collections::BTreeMap;

use countersign_gateway_model::{Digest, Name};
use countersign_policy_bundle::sha256;
use countersign_policy_decide::catalogue::{Catalogue, Tool};
use countersign_policy_decide::json::Json;
use countersign_policy_decide::registration::{Change, Fault, RegistrationError, ToolChange};
use serde_json::Value;

use crate::view::escape;

/// Most lines of one registration: what an approval view shows of it, all of it.
pub(super) const MAX_LINES: usize = 400;

/// Most characters of a tool's description that are shown.
const MAX_SAID: usize = 400;

/// Most characters of one value in one line; longer ones take several.
const WIDTH: usize = 600;

/// What becomes of the tools of `before` in `next`: first each one's name with what becomes of it, then each whole.
pub(super) fn lines_of(before: &Catalogue, next: &Catalogue, changes: &[ToolChange]) -> Vec<String> {
    let changed: Vec<&ToolChange> = changes.iter().filter(|change| change.change != Change::Unchanged).collect();
    let mut lines = vec![format!("Changes:     {} of the tools", changed.len())];
    lines.extend(changed.iter().map(|change| format!("  {:<12} {}", change.change.as_str(), change.name)));
    let (old, new) = (by_name(before), by_name(next));
    for change in changed {
        let server = change.name.as_str().split('.').next().unwrap_or_default();
        lines.push(format!("Tool:        {} of server {server}: {}", change.name, change.change.as_str()));
        if let Some(before) = &change.before {
            lines.push(format!("  before     version {before}"));
        }
        if let Some(version) = &change.version {
            lines.push(format!("  version    {version}"));
        }
        if let Some(tool) = new.get(&change.name) {
            told(&mut lines, old.get(&change.name).copied(), tool);
        }
        if let Some(report) = &change.report {
            let hidden = report.sight.never.len() + report.sight.sometimes.len();
            lines.push(format!("  unseen     {hidden} parts of its input that policy cannot, or not always, see"));
        }
    }
    lines
}

/// Why these lines cannot be shown to anybody who is asked; none: they can.
pub(super) fn too_many(lines: &[String]) -> Option<String> {
    let count = lines.len();
    (count > MAX_LINES).then(|| {
        format!(
            "people are asked about it, and would have to read {count} lines; at most {MAX_LINES} are shown: register fewer \
             at a time, and use a program file for a long command line"
        )
    })
}

/// The refusal of [`too_many`].
pub(super) fn refusal(problem: String) -> RegistrationError {
    RegistrationError(vec![Fault { pointer: "/tools".to_owned(), tool: "*".to_owned(), problem }])
}

/// The lines as they are kept.
pub(super) fn stored(lines: &[String]) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(lines)
}

/// The lines of kept bytes; earlier ones are plain text.
pub(super) fn read(bytes: &[u8]) -> Vec<String> {
    serde_json::from_slice(bytes)
        .unwrap_or_else(|_| String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect())
}

/// The lines as people are shown them, in one text.
pub(super) fn text(lines: &[String]) -> String {
    lines.iter().map(|line| escape(line, line.len())).collect::<Vec<_>>().join("\n")
}

fn by_name(catalogue: &Catalogue) -> BTreeMap<&Name, &Tool> {
    catalogue.tools.iter().map(|tool| (&tool.name, tool)).collect()
}

/// A tool, with what it was before where that is different.
fn told(lines: &mut Vec<String>, before: Option<&Tool>, tool: &Tool) {
    let (was, is) = (before.map(fields).unwrap_or_default(), fields(tool));
    let find = |among: &[(String, String)], key: &str| {
        among.iter().find(|(other, _)| other == key).map(|(_, value)| value.clone())
    };
    for (key, value) in &is {
        match find(&was, key) {
            None if before.is_some() => valued(lines, key, &format!("{value}, and none before")),
            None => valued(lines, key, value),
            Some(before) if before == *value => valued(lines, key, value),
            Some(before) => valued(lines, key, &format!("from {before} to {value}")),
        }
    }
    for (key, value) in was.iter().filter(|(key, _)| find(&is, key).is_none()) {
        valued(lines, key, &format!("none any more, before {value}"));
    }
    let (was, is) = (before.map(command).unwrap_or_default(), command(tool));
    if before.is_some() && was != is {
        arguments(lines, "was", was);
    }
    arguments(lines, "argument", is);
    let former = before.map(|before| &*before.description).filter(|former| *former != tool.description);
    if let Some(former) = former {
        lines.push(said("said", former));
    }
    lines.push(said("says", &tool.description));
}

fn command(tool: &Tool) -> &[String] {
    tool.runner.as_ref().map(|runner| runner.command.as_slice()).unwrap_or_default()
}

/// What is known of a tool but its description and the words of its command line.
fn fields(tool: &Tool) -> Vec<(String, String)> {
    let scopes: Vec<&str> = tool.scopes.iter().map(Name::as_str).collect();
    let scopes = if scopes.is_empty() { "none: any caller may".to_owned() } else { scopes.join(", ") };
    let target = if tool.mutable_target { "has no revision" } else { "has a revision" };
    let mut fields = vec![
        ("risk", format!("{} of 4", tool.risk)),
        ("data", tool.data_class.as_str().to_owned()),
        ("scopes", scopes),
        ("target", target.to_owned()),
    ];
    let mut secrets = Vec::new();
    match &tool.runner {
        None => fields.push(("done by", "the agent".to_owned())),
        Some(runner) => {
            let deadline = runner.deadline_s.map_or_else(|| "none of its own".to_owned(), |s| format!("{s} seconds"));
            fields.push(("done by", format!("a runner of kind {}", runner.kind.as_str())));
            fields.push(("runs in", runner.environment.as_str().to_owned()));
            fields.push(("deadline", deadline));
            let given = |(variable, reference): (&String, _)| (format!("secret {variable}"), format!("{reference}"));
            secrets.extend(runner.secrets.iter().map(given));
            let bytes: usize = runner.command.iter().map(String::len).sum();
            let digest = digest_of(&Value::from(runner.command.clone()));
            let words = format!("{} arguments, {bytes} bytes; as a JSON array {digest}", runner.command.len());
            fields.push(("command", words));
        }
    }
    fields.push(("input", format!("schema {}", digest_of(&tool.input))));
    if let Some(output) = &tool.output {
        fields.push(("output", format!("schema {}", digest_of(output))));
    }
    fields.into_iter().map(|(key, value)| (key.to_owned(), value)).chain(secrets).collect()
}

fn valued(lines: &mut Vec<String>, key: &str, value: &str) {
    let parts = parts_of(value);
    let count = parts.len();
    for (at, part) in parts.into_iter().enumerate() {
        lines.push(match count {
            1 => format!("  {key:<10} {part}"),
            _ => format!("  {key:<10} part {} of {count}: {part}", at + 1),
        });
    }
}

/// One line for each word of a command line: where a word ends is never a question.
fn arguments(lines: &mut Vec<String>, word: &str, command: &[String]) {
    let all = command.len();
    for (at, argument) in command.iter().enumerate() {
        let parts = parts_of(argument);
        let (count, length) = (parts.len(), argument.chars().count());
        for (part, text) in parts.into_iter().enumerate() {
            let of = if count == 1 { String::new() } else { format!(", part {} of {count}", part + 1) };
            lines.push(format!("  {word:<10} {} of {all}, {length} characters{of}: {text}", at + 1));
        }
    }
}

/// A text in pieces of at most [`WIDTH`] characters; at least one.
fn parts_of(text: &str) -> Vec<String> {
    let characters: Vec<char> = text.chars().collect();
    if characters.is_empty() {
        return vec![String::new()];
    }
    characters.chunks(WIDTH).map(|chunk| chunk.iter().collect()).collect()
}

fn said(word: &str, description: &str) -> String {
    let count = description.chars().count();
    let shown: String = description.chars().take(MAX_SAID).collect();
    let cut = if count > MAX_SAID { format!("; cut: {count} characters in all") } else { String::new() };
    format!("  {word:<10} (not checked by anybody, {} bytes in all{cut}) {shown}", description.len())
}

/// SHA-256 of a value's canonical bytes (RFC 8785).
fn digest_of(value: &Value) -> Digest {
    sha256(&Json::from_serde(value).canonical())
}
