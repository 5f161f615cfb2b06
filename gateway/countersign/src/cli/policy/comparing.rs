//! `diff`: what another bundle newly allows and newly denies, in words and on questions that both answer.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};
use countersign_policy_store::bundle::{Direction, Example, check_draft, diff, examples};
use countersign_policy_store::read_draft;
use serde_json::json;

use super::super::{Global, out};
use super::checking::Source;
use crate::text::plain;

/// Compares two bundles.
#[derive(Debug, Args)]
pub(crate) struct Compare {
    /// The one that is in force: a folder, or a bundle file.
    old: PathBuf,
    /// The one that is to come.
    new: PathBuf,
    /// Tool catalogue of both; else the one in each folder, else the one that a new organization starts with.
    #[arg(long, value_name = "FILE")]
    catalogue: Option<PathBuf>,
    /// Which change ends with exit code 1.
    #[arg(long, value_enum, default_value = "weaker", value_name = "WHICH")]
    fail_on: FailOn,
}

/// Which change a pipeline stops at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FailOn {
    /// One that certainly lets more pass, or asks fewer people.
    Weaker,
    /// One that might, too.
    Unclear,
    /// Any that changes a decision or might.
    Any,
    /// None.
    Nothing,
}

const SECTIONS: [(Direction, &str); 4] = [
    (Direction::Weaker, "Newly allowed, or asked of fewer people (WEAKER):"),
    (Direction::Unclear, "May be either; read it:"),
    (Direction::Stricter, "Newly denied, or asked of more people:"),
    (Direction::Neutral, "Changes no decision:"),
];

pub(super) fn compare(args: &Compare, global: &Global) -> Result<bool> {
    let (old, new) = (read_draft(&args.old)?, read_draft(&args.new)?);
    let difference = diff(&old, &new);
    let check = |path: &PathBuf, draft| -> Result<_> {
        let catalogue = Source::catalogue(path, args.catalogue.as_deref())?;
        Ok(check_draft(draft, Source::organization(path, None, draft), Some(&catalogue)))
    };
    let (before, after) = (check(&args.old, &old)?, check(&args.new, &new)?);
    let shown: Option<Vec<Example>> = match (before.built(), after.built()) {
        (Some(before), Some(after)) => Some(examples((before, &old.files), (after, &new.files))),
        // One of them decides nothing as it is; the words stand alone.
        _ => None,
    };
    let loosens = shown.iter().flatten().any(|example| example.weaker);
    let weakens = difference.weakens() || loosens;
    let decides = difference.changes.iter().any(|change| change.direction != Direction::Neutral);
    let found = match args.fail_on {
        FailOn::Weaker => weakens,
        FailOn::Unclear => weakens || difference.may_weaken(),
        FailOn::Any => weakens || decides || shown.as_ref().is_some_and(|examples| !examples.is_empty()),
        FailOn::Nothing => false,
    };
    if global.json {
        global.document(&json!({
            "weakens": weakens, "may_weaken": weakens || difference.may_weaken(), "changes": difference.changes,
            "examples": shown, "examples_asked": shown.is_some(),
        }))?;
        return Ok(!found);
    }
    let mut text = String::new();
    for (direction, title) in SECTIONS {
        let lines: Vec<String> =
            difference.of(direction).map(|change| format!("  {}: {}\n", change.subject, change.words)).collect();
        if !lines.is_empty() {
            text.extend([title, "\n", &lines.concat(), "\n"]);
        }
    }
    match &shown {
        None => text += "No question was asked: one of the bundles does not pass its check.\n",
        Some(examples) if !examples.is_empty() => {
            text += "Questions of their tests that are answered differently:\n";
            text.extend(examples.iter().map(|example| format!("  {example}\n")));
        }
        Some(_) if difference.is_empty() => text += "nothing changes\n",
        Some(_) => text += "Every question of their tests is answered as before. That proves nothing about others.\n",
    }
    if !difference.is_empty() {
        text += "Whether anything at all is newly allowed is a solver's to say: countersign policy prove NEW --against OLD\n";
    }
    out(&plain(&text))?;
    Ok(!found)
}
