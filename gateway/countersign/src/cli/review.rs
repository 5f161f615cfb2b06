//! Reviews: who has looked at what was lifted without its quorum, and what they found.

use anyhow::{Result, bail};
use clap::{Subcommand, ValueEnum};
use serde_json::json;

use super::{Global, Paging, confirm, query};
use crate::client::segment;
use crate::text::plain;

/// Reviews.
#[derive(Debug, Subcommand)]
pub(crate) enum Review {
    /// List the reviews that are owed, oldest first
    #[command(after_help = "Example:\n  countersign review list --overdue")]
    List {
        /// Only those whose time has passed.
        #[arg(long)]
        overdue: bool,
        #[command(flatten)]
        paging: Paging,
    },
    /// Close a review: say what you found
    #[command(
        after_help = "Not for whoever lifted the rule. Nothing is undone by it.\n\nExample:\n  countersign review close dec_0192… --finding upheld --justification \"I read the incident\""
    )]
    Close {
        /// The lift.
        id: String,
        /// What you found.
        #[arg(long)]
        finding: Finding,
        /// What you looked at; kept with the review.
        #[arg(long)]
        justification: String,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
}

/// What a review finds.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Finding {
    /// It was right.
    Upheld,
    /// It was not.
    #[value(name = "not-upheld")]
    NotUpheld,
}

pub(crate) async fn review(verb: Review, global: &Global) -> Result<()> {
    let client = global.client()?;
    match verb {
        Review::List { overdue, paging } => {
            let path = format!("/api/v1/reviews{}", query(&[("overdue", overdue.then_some("true"))], Some(&paging)));
            let page = client.get(&path).await?;
            global.page(&page, &["id", "rule", "tool", "by", "at", "review_by", "overdue", "instance", "justification"])
        }
        Review::Close { id, finding, justification, yes } => {
            let word = match finding {
                Finding::Upheld => "upheld",
                Finding::NotUpheld => "not_upheld",
            };
            if !yes && !confirm(&format!("Close review {} as {word}? It is closed once.", plain(&id)), "--yes")? {
                bail!("the review stays open");
            }
            let body = json!({ "finding": word, "justification": justification });
            global.answer(&client.post(&format!("/api/v1/reviews/{}", segment(&id)?), &body).await?)
        }
    }
}
