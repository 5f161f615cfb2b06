//! What a principal may do, and what-if questions by the dozen: asked of the gateway, shown as a table.
//!
//! Absent: the answers themselves (the gateway's). Read next: `explaining`.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::{Value, json};

use super::super::{Global, out};
use crate::text::{plain, table};

/// What `can` is told.
#[derive(Debug, Args)]
pub(crate) struct Can {
    /// `person:<id>`, `agent:<id>` or `service:<id>`.
    principal: String,
    /// The instance in which tools are asked about.
    #[arg(long)]
    instance: Option<String>,
    /// Only lines with this answer.
    #[arg(long, value_name = "ANSWER", value_parser = ["allow", "needs_approval", "deny"])]
    only: Option<String>,
}

/// Asks what a principal may do, and prints a table.
pub(crate) async fn can(args: &Can, global: &Global) -> Result<()> {
    let mut body = json!({ "principal": args.principal });
    if let (Some(instance), Some(body)) = (&args.instance, body.as_object_mut()) {
        body.insert("instance".to_owned(), json!(instance));
    }
    let mut answer = global.client()?.post("/api/v1/policies/permissions", &body).await?;
    if let (Some(only), Some(lines)) = (&args.only, answer.get_mut("permissions").and_then(Value::as_array_mut)) {
        lines.retain(|line| line.get("decision").and_then(Value::as_str) == Some(only));
    }
    if global.json {
        return global.document(&answer);
    }
    let lines = answer.get("permissions").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut text = table(&lines, &["decision", "operation", "resource", "rules", "determining"]);
    if let Some(instance) = answer.get("instance").and_then(Value::as_str) {
        let _ = writeln!(text, "\ninstance: {}", plain(instance));
    }
    for note in answer.get("notes").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        let _ = writeln!(text, "note: {}", plain(note));
    }
    out(&text)
}

/// What `what-if` is told.
#[derive(Debug, Args)]
pub(crate) struct WhatIf {
    /// A JSON file.
    file: PathBuf,
}

/// Asks what policy would say to each question. False where one of them is none.
pub(crate) async fn what_if(args: &WhatIf, global: &Global) -> Result<bool> {
    let name = args.file.display();
    let bytes = std::fs::read(&args.file).with_context(|| format!("`{name}` cannot be read"))?;
    let read: Value = serde_json::from_slice(&bytes)
        .map_err(|error| anyhow::anyhow!("{name}:{}:{}: not JSON: {error}", error.line(), error.column()))?;
    let body = match read {
        Value::Array(questions) => json!({ "questions": questions }),
        all if all.get("questions").is_some() => all,
        one => json!({ "questions": [one] }),
    };
    let answer = global.client()?.post("/api/v1/policies/what-if", &body).await?;
    let answers = answer.get("answers").and_then(Value::as_array).cloned().unwrap_or_default();
    let all = answers.iter().all(|answer| answer.get("problem").is_none());
    if global.json {
        global.document(&answer)?;
        return Ok(all);
    }
    let mut text = String::new();
    for (at, answer) in answers.iter().enumerate() {
        let member = |name: &str| plain(answer.pointer(name).and_then(Value::as_str).unwrap_or_default());
        if let Some(problem) = answer.get("problem").and_then(Value::as_str) {
            let _ = writeln!(text, "{}. no question: {}\n", at + 1, plain(problem));
            continue;
        }
        let (asked, op, resource) =
            (member("/explained/asked"), member("/explained/operation"), member("/explained/resource"));
        let _ = writeln!(text, "{}. {asked} {op} {resource}\n{}", at + 1, member("/explained/text"));
    }
    out(&text)?;
    Ok(all)
}
