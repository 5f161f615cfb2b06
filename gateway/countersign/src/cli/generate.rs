//! Documents made from the program itself: completions, references, the API. They need no state and no environment.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use countersign_gateway_http::{Page, Place, pages};
use serde_json::{Map, Value, json};

use super::{Global, OWN_VARIABLES, command, out};
use crate::client::{Source, Whom, whom};
use crate::config::reference;
use crate::environment;

/// What is shown instead of a secret, however long that is.
const MASK: &str = "********";

/// Prints completions for a shell.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  countersign completions bash > /etc/bash_completion.d/countersign")]
pub(crate) struct Completions {
    /// The shell.
    shell: clap_complete::Shell,
}

pub(crate) fn completions(args: &Completions) -> Result<ExitCode> {
    let mut bytes = Vec::new();
    // Completions offer hidden verbs too, so they are made of what is left without them.
    let whole = command();
    let mut shown = clap::Command::new("countersign")
        .version(env!("CARGO_PKG_VERSION"))
        .args(whole.get_arguments().cloned())
        .subcommands(whole.get_subcommands().filter(|verb| !verb.is_hide_set()).cloned());
    clap_complete::generate(args.shell, &mut shown, "countersign", &mut bytes);
    out(&String::from_utf8(bytes).context("the completions are not UTF-8")?)?;
    Ok(ExitCode::SUCCESS)
}

/// The configuration.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    /// Show every setting, what later commands would use, and where each value came from; secrets are masked
    #[command(after_help = "Example:\n  countersign config show")]
    Show,
    /// Say whether the configuration can be used
    #[command(after_help = "Example:\n  countersign config check --config countersign.toml")]
    Check,
}

pub(crate) fn config(verb: &ConfigVerb, global: &Global) -> Result<()> {
    let loaded = global.load(&[])?;
    if matches!(verb, ConfigVerb::Check) {
        return global.answer(&json!({ "good": true }));
    }
    let settings = loaded.shown().into_iter().map(|(key, value, origin)| (key, value, origin.to_string()));
    let all = settings.chain(of_commands(global));
    if global.json {
        let all = all.map(|(key, value, from)| (key, json!({ "value": value, "from": from })));
        return global.document(&Value::Object(all.collect::<Map<_, _>>()));
    }
    let rows: Vec<Value> = all.map(|(key, value, from)| json!({ "key": key, "value": value, "from": from })).collect();
    out(&crate::text::table(&rows, &["key", "value", "from"]))
}

/// What commands use beside the settings: server and token, and the command line's own variables that are set.
fn of_commands(global: &Global) -> Vec<(String, Value, String)> {
    let key = |variable: &str| format!("command.{}", variable.trim_start_matches("COUNTERSIGN_").to_ascii_lowercase());
    let from = |source: Source, variable: &str, flag: &str, value: &str| match source {
        Source::Given if environment::text(variable).as_deref() == Some(value) => variable.to_owned(),
        Source::Given => flag.to_owned(),
        Source::Kept(path) => path.display().to_string(),
        Source::Default => "default".to_owned(),
    };
    let mut rows = Vec::new();
    match whom(global.server.as_deref(), global.token.as_deref()) {
        Ok(Whom { server: (server, source), token }) => {
            let given = global.server.as_deref().unwrap_or_default();
            let source = from(source, "COUNTERSIGN_SERVER", "--server", given);
            rows.push((key("COUNTERSIGN_SERVER"), json!(without_password(&server)), source));
            rows.extend(token.map(|(token, source)| {
                let source = from(source, "COUNTERSIGN_TOKEN", "--token", &token);
                (key("COUNTERSIGN_TOKEN"), json!(MASK), source)
            }));
        }
        // Whoever asks wants to know what is wrong.
        Err(error) => rows.push((key("COUNTERSIGN_SERVER"), Value::Null, format!("{error:#}"))),
    }
    if let Some(file) = &global.config {
        let file = file.display().to_string();
        let source = from(Source::Given, "COUNTERSIGN_CONFIG", "--config", &file);
        rows.push((key("COUNTERSIGN_CONFIG"), json!(file), source));
    }
    let shown = ["COUNTERSIGN_SERVER", "COUNTERSIGN_TOKEN", "COUNTERSIGN_CONFIG"];
    for (variable, secret) in OWN_VARIABLES.into_iter().filter(|(variable, _)| !shown.contains(variable)) {
        let row = |value| (key(variable), json!(if secret { MASK.to_owned() } else { value }), variable.to_owned());
        rows.extend(environment::text(variable).map(row));
    }
    rows
}

/// An address as it may be shown: what stands between `//` and `@` can hold a password.
fn without_password(server: &str) -> String {
    match server.split_once("//").map(|(scheme, rest)| (scheme, rest.split_once('@'))) {
        Some((scheme, Some((_, host)))) => format!("{scheme}//{MASK}@{host}"),
        _ => server.to_owned(),
    }
}

/// Generated documents.
#[derive(Debug, Subcommand)]
pub(crate) enum Generate {
    /// The OpenAPI document
    Openapi,
    /// The reference page of the configuration
    ConfigReference,
    /// The reference page of the command line
    CliReference,
    /// The reference page of every code
    ProblemReference,
}

pub(crate) fn generate(what: &Generate) -> Result<ExitCode> {
    let mut text = match what {
        Generate::Openapi => {
            serde_json::to_string_pretty(&countersign_gateway_http::document()).context("the OpenAPI document")?
        }
        Generate::ConfigReference => reference(),
        Generate::CliReference => cli_reference(),
        Generate::ProblemReference => problem_reference(),
    };
    text.truncate(text.trim_end().len());
    text.push('\n');
    out(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// One section a verb, in the order of the program.
fn cli_reference() -> String {
    let mut text =
        String::from("# Command line\n\nGenerated from the program by `cargo xtask generate`; do not edit.\n");
    let mut root = command().term_width(100).disable_help_subcommand(true);
    root.build();
    section(&mut text, &root, "countersign");
    text
}

fn section(text: &mut String, verb: &clap::Command, path: &str) {
    let mut verb_of_its_own = verb.clone().bin_name(path);
    let help = verb_of_its_own.render_long_help().to_string();
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    // Writing to a text cannot fail.
    let _ = write!(text, "\n## `{path}`\n\n```text\n{}\n```\n", lines.join("\n").trim_end());
    for sub in verb.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
        section(text, sub, &format!("{path} {}", sub.get_name()));
    }
}

/// What stands above the tables of codes.
const CODES: &str = "\
# Codes

Generated from the program by `cargo xtask generate`; do not edit.

Whatever is refused, or is not as it should be, is told by a stable code. Each code has one page, which says what happened
and what to do: `openapi/problems/<code>.md`, and at a gateway `GET /problems/<code>`.

| Where | How the code is told |
|---|---|
| an answer | `application/problem+json` (RFC 9457): `code`, and `type` that leads to the page |
| a decision that is on record and has no effect | the answer has status 200 and a receipt; its `problem` has `code` and `type` |
| a report on evidence | `problems`, a list of `code`, `detail` and, where it is about a single entry, `entry` |
| the command line | the last line says `problem: <code>`; with `--json`, standard error has one object with `problem` |

## Evidence

A pack is checked by `countersign-verify`, by `countersign verify`, and by `POST /api/v1/verify`, in the same way. The verdict is
`VALID` (exit code 0), `INVALID` (1) or `INCONCLUSIVE` (2). A script reads the codes of the JSON report:

```sh
countersign-verify --json --key root.vkey audit.evidence | jq -r '.problems[].code'
```

The first defect ends the check, so an INVALID pack has one problem: the container first, then the note over its parts, the root
key, the checkpoint, the entries in order, what is disclosed, and the checkpoint that the auditor holds.

What the bytes cannot say:

- A file that was cut is `pack-truncated`, wherever it was cut. So is a whole file whose last header claims more bytes than
  follow: whether the length lies or the rest is missing, nobody can tell.
- A file that was cut and filled up again, one with a changed byte in a part, and one that never was a pack are all
  `pack-not-canonical`.
- A pack that somebody packed again with compression and a bomb are both `pack-compressed`: nothing is unpacked to find out.
- `pack-untrusted-root` is a forged log, or a right one under another key: compare the key with the one that you were given.

";

/// Every code, by where it is met.
fn problem_reference() -> String {
    let mut text = CODES.to_owned();
    let mut table = |title: &str, met: &str, is_here: fn(Place) -> bool| {
        let (column, rule) = if met.is_empty() { (String::new(), "") } else { (format!(" {met} |"), "---|") };
        let _ = write!(text, "{title}| code |{column} meaning |\n|---|{rule}---|\n");
        for Page { code, title, place, .. } in pages().filter(|page| is_here(page.place)) {
            let cell = match place {
                Place::Answer(status) => format!(" {status} |"),
                Place::Invalid => " INVALID |".to_owned(),
                Place::Inconclusive => " INCONCLUSIVE |".to_owned(),
                Place::Decision | Place::Program => String::new(),
            };
            let _ = writeln!(text, "| [`{code}`](../openapi/problems/{code}.md) |{cell} {title} |");
        }
    };
    table("", "verdict", |place| matches!(place, Place::Invalid | Place::Inconclusive));
    let shared = "`policy-error` and `policy-denied` are told of a decision or a lift, too.";
    table(&format!("\n## Decisions and lifts without effect\n\n{shared}\n\n"), "", |place| place == Place::Decision);
    let shared = "`root-key-unreadable`, `checkpoint-foreign` and `ledger-damaged` are told by the program, too.";
    table(&format!("\n## The program\n\n{shared}\n\n"), "", |place| place == Place::Program);
    table("\n## Answers\n\n", "status", |place| matches!(place, Place::Answer(_)));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_of_codes_names_every_code_once() {
        let text = problem_reference();
        for page in pages() {
            let row = format!("\n| [`{0}`](../openapi/problems/{0}.md) | ", page.code);
            assert_eq!(text.matches(&row).count(), 1, "{}", page.code);
        }
    }

    #[test]
    fn the_reference_has_a_section_for_every_verb() {
        let text = cli_reference();
        for section in
            ["countersign up", "countersign gate approve", "countersign ledger fsck", "countersign policy activate"]
        {
            assert!(text.contains(&format!("\n## `{section}`\n")), "{section}");
        }
        assert!(!text.contains("__agent"));
    }
}
