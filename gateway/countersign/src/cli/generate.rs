//! Documents made from the program itself: completions, references, the API. They need no state and no environment.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::{Global, command, out};
use crate::config::reference;

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
    /// Show every setting, and where its value came from
    #[command(after_help = "Example:\n  countersign config show")]
    Show,
    /// Say whether the configuration can be used
    #[command(after_help = "Example:\n  countersign config check --config countersign.toml")]
    Check,
}

pub(crate) fn config(verb: &ConfigVerb, global: &Global) -> Result<()> {
    let loaded = global.load(&[])?;
    match verb {
        ConfigVerb::Check => global.answer(&json!({ "good": true })),
        ConfigVerb::Show if global.json => {
            let mut all = Map::new();
            for (key, value, origin) in loaded.shown() {
                all.insert(key, json!({ "value": value, "from": origin.to_string() }));
            }
            global.document(&Value::Object(all))
        }
        ConfigVerb::Show => {
            let rows: Vec<Value> = loaded
                .shown()
                .into_iter()
                .map(|(key, value, origin)| json!({ "key": key, "value": value, "from": origin.to_string() }))
                .collect();
            out(&crate::text::table(&rows, &["key", "value", "from"]))
        }
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
}

pub(crate) fn generate(what: &Generate) -> Result<ExitCode> {
    let mut text = match what {
        Generate::Openapi => {
            serde_json::to_string_pretty(&countersign_gateway_http::document()).context("the OpenAPI document")?
        }
        Generate::ConfigReference => reference(),
        Generate::CliReference => cli_reference(),
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

#[cfg(test)]
mod tests {
    use super::*;

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
