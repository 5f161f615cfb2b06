//! Why policy said what it said, and what other systems' rules are here: `explain` asks the gateway, `import` nobody.
//!
//! Absent: the explanation itself (`policy/decide`), and what an importer understands (`policy/import`).

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{ArgGroup, Args};
use countersign_policy_import::{Caller, Format, Options, Source, import as read};
use serde_json::{Value, json};

use super::super::Global;
use crate::text::plain;

/// What `explain` is told.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true))]
pub(crate) struct Explain {
    /// An entry with a verdict: its index in the log.
    #[arg(group = "what")]
    index: Option<u64>,
    /// A question that nobody has asked, as a bundle's tests write it: a JSON file.
    #[arg(long, value_name = "FILE", group = "what")]
    question: Option<PathBuf>,
}

/// Asks the gateway, and prints its words.
pub(crate) async fn explain(args: &Explain, global: &Global) -> Result<()> {
    let client = global.client()?;
    let questions = if let Some(file) = &args.question {
        let bytes = std::fs::read(file).with_context(|| format!("`{}` cannot be read", file.display()))?;
        json!({ "questions": [client.post_bytes("/api/v1/policies/explain", bytes).await?] })
    } else {
        let index = args.index.unwrap_or_default();
        client.get(&format!("/api/v1/audit/entries/{index}/explanation")).await?
    };
    if global.json {
        return global.document(&questions);
    }
    let mut text = String::new();
    for question in questions.get("questions").and_then(Value::as_array).into_iter().flatten() {
        let member = |name: &str| question.get(name).and_then(Value::as_str).unwrap_or_default();
        let _ = writeln!(text, "{} {} {}", member("asked"), member("operation"), member("resource"));
        text.push_str(member("text"));
        text.push('\n');
    }
    super::super::out(&plain(&text))
}

/// What `import` is told.
#[derive(Debug, Args)]
pub(crate) struct Import {
    /// What the file is: materiality, tool-scopes, forbidden-patterns, admission or agentcore.
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(Format::ALL.map(Format::as_str)))]
    format: String,
    /// The file.
    file: PathBuf,
    /// A folder that is not there yet: the bundle draft, with the report in `IMPORT.md`.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// The rules are for people, not for agents.
    #[arg(long)]
    people: bool,
    /// Go on although something of the source is left out.
    #[arg(long)]
    incomplete: bool,
}

/// Reads another system's rules into a bundle draft. False where something was left out and nothing written.
pub(crate) fn import(args: &Import, global: &Global) -> Result<bool> {
    let format = Format::parse(&args.format).context("the format is none that can be read")?;
    let text = std::fs::read_to_string(&args.file)
        .with_context(|| format!("`{}` cannot be read as text", args.file.display()))?;
    let name = args.file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let caller = if args.people { Caller::Person } else { Caller::Agent };
    let options = Options { caller, ..Options::default() };
    let imported = read(format, Source { file: &name, text: &text }, &options)?;
    let complete = imported.report.is_complete();
    let written = complete || args.incomplete;
    if written {
        let files = imported.files.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice()));
        super::write_folder(&args.out, files)?;
    }
    if global.json {
        global.document(&json!({
            "complete": complete, "written": written.then_some(&args.out), "report": imported.report,
        }))?;
    } else {
        let mut text = imported.report.to_string();
        let _ = match (written, complete) {
            (true, true) => writeln!(text, "\nwritten to {}", args.out.display()),
            (true, false) => {
                writeln!(
                    text,
                    "\nwritten to {}; read what did not carry over before you activate it",
                    args.out.display()
                )
            }
            (false, _) => {
                writeln!(
                    text,
                    "\nnothing was written: some of it does not carry over; --incomplete goes on all the same"
                )
            }
        };
        super::super::out(&plain(&text))?;
    }
    Ok(written)
}
