//! Proposing a change of policy, following it, taking it back, going back; and how strictly policy changes at all.
//!
//! Deciding is done at the proposal's gate: `countersign gate approve`.

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::path::PathBuf;

use super::transport;
use crate::cli::{Global, Paging, confirm, query};
use crate::client::{Client, ProblemError, segment};
use crate::text::plain;

/// What becomes of a proposal.
#[derive(Debug, Subcommand)]
pub(crate) enum Proposing {
    /// Propose a bundle: checked, compared with what is asked, approved by somebody else where policy says so
    #[command(
        after_help = "Examples:\n  countersign policy propose ./policy\n  countersign policy propose next.bundle\n\n\
        The gateway checks the bundle, waits for its shadow window (`policy window`), asks the policy in force, and puts \
        the bundle in force by itself once the others have approved at the gate:\n  countersign gate show gate_0192…\n  \
        countersign gate approve gate_0192… --justification \"I read what changes\""
    )]
    Propose {
        /// A folder, or a bundle file.
        path: PathBuf,
        #[command(flatten)]
        confirmed: Confirmed,
    },
    /// List proposals, newest first, or show one with what it changes
    #[command(after_help = "Examples:\n  countersign policy proposals\n  countersign policy proposals inst_0192…\n\n\
        States: shadowing (its window runs), waiting (at its gate), approved, activated, failed, withdrawn.")]
    Proposals {
        /// Only this one, with the difference in words.
        id: Option<String>,
        #[command(flatten)]
        paging: Paging,
    },
    /// Take a proposal back
    #[command(after_help = "Example:\n  countersign policy withdraw inst_0192…")]
    Withdraw {
        /// The proposal.
        id: String,
    },
    /// Break the glass: end a proposal's shadow window, and lift one rule of its gate; another person must review it
    #[command(
        name = "break-glass",
        after_help = "Only where the rule's data names who may (`break_glass`), and policy agrees. If the lift has no effect, the \
        proposal fails. Once its gate is open: `countersign gate break-glass`.\n\nExample:\n  countersign policy break-glass inst_0192… --rule policy-change --justification \"The rule in force stops every refund\""
    )]
    BreakGlass {
        /// The proposal.
        id: String,
        /// The rule.
        #[arg(long)]
        rule: String,
        /// Why; kept with the lift.
        #[arg(long)]
        justification: String,
        /// The role that you use, where you hold several.
        #[arg(long)]
        role: Option<String>,
        #[command(flatten)]
        confirmed: Confirmed,
    },
    /// Propose to go back to the policy that the one in force replaced
    #[command(
        after_help = "Example:\n  countersign policy rollback\n\nWithin a day of the replacement it needs no shadow \
        window; it needs whatever approval policy asks for. Where a threshold of root keys must sign, seal the bundle \
        before anew (`policy sign OLD --after CURRENT`) and propose it."
    )]
    Rollback {
        #[command(flatten)]
        confirmed: Confirmed,
    },
    /// Say for how long a proposed policy is compared with what is asked before anybody is asked
    #[command(
        after_help = "Example:\n  countersign policy window 86400\n\nUnless it was said: nothing while one person \
        changes policy alone (`solo`), a day where two must (`four_eyes`). There a shorter one counts once the one before \
        it has passed."
    )]
    Window {
        /// Seconds, at most 7776000 (90 days).
        seconds: u64,
    },
    /// Raise the authority mode: from here on policy changes by the approval of somebody else
    #[command(
        name = "four-eyes",
        after_help = "Example:\n  countersign policy four-eyes\n\nNobody approves what is their own any more, at gates that open from here on. It is refused \
        while there is nobody who could approve: enrol a second person with the role first. The way back is \
        `countersign policy solo`, with the gateway down."
    )]
    FourEyes {
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
}

/// What was read before.
#[derive(Debug, Args)]
pub(crate) struct Confirmed {
    /// Do not ask; needs --confirmed-diff, so that a script proposes what somebody has read.
    #[arg(long, requires = "confirmed_diff")]
    yes: bool,
    /// Digest of the difference that was read; asked for only while one person changes policy alone.
    #[arg(long, value_name = "HEX")]
    confirmed_diff: Option<String>,
}

pub(crate) async fn proposing(verb: Proposing, global: &Global) -> Result<()> {
    let client = global.client()?;
    match verb {
        Proposing::Propose { path, confirmed } => {
            let bytes = transport(&path)?;
            let size = bytes.len();
            eprintln!(
                "Checking {size} bytes of policy: syntax, types, lint, its own tests, who could change it again…"
            );
            let proposal = confirming(&client, "/api/v1/policies/proposals", &bytes, confirmed).await?;
            tell(&proposal);
            global.answer(&proposal)
        }
        Proposing::Rollback { confirmed } => {
            let proposal = confirming(&client, "/api/v1/policies/rollback", b"{}", confirmed).await?;
            tell(&proposal);
            global.answer(&proposal)
        }
        Proposing::Proposals { id: Some(id), .. } => {
            let proposal = client.get(&format!("/api/v1/policies/proposals/{}", segment(&id)?)).await?;
            if !global.json {
                eprintln!("What changes:\n{}\n", plain(text(&proposal, "diff")).trim_end());
            }
            global.answer(&proposal)
        }
        Proposing::Proposals { id: None, paging } => {
            let page = client.get(&format!("/api/v1/policies/proposals{}", query(&[], Some(&paging)))).await?;
            global.page(&page, &["id", "version", "state", "author", "proposed", "window_ends", "gate"])
        }
        Proposing::Withdraw { id } => {
            let path = format!("/api/v1/policies/proposals/{}/withdraw", segment(&id)?);
            global.answer(&client.post(&path, &json!({})).await?)
        }
        Proposing::BreakGlass { id, rule, justification, role, confirmed } => {
            let path = format!("/api/v1/policies/proposals/{}", segment(&id)?);
            let digest = if confirmed.yes {
                confirmed.confirmed_diff.unwrap_or_default()
            } else {
                let proposal = client.get(&path).await?;
                eprintln!("What changes:\n{}\n", plain(text(&proposal, "diff")).trim_end());
                let question = format!(
                    "End its window and lift rule `{}`? It is on record under your name, and another person reviews it.",
                    plain(&rule)
                );
                if !confirm(&question, "--yes with --confirmed-diff")? {
                    bail!("nothing was lifted");
                }
                text(&proposal, "diff_digest").to_owned()
            };
            let mut body = json!({ "rule": rule, "justification": justification, "diff_digest": digest });
            if let (Some(role), Some(body)) = (role, body.as_object_mut()) {
                body.insert("role".to_owned(), json!(role));
            }
            global.answer(&client.post(&format!("{path}/break-glass"), &body).await?)
        }
        Proposing::Window { seconds } => {
            let set = client.put("/api/v1/settings/policy.shadow_window_s", &json!({ "value": seconds })).await?;
            global.answer(&set)
        }
        Proposing::FourEyes { yes } => {
            if !yes
                && !confirm(
                    "From here on nobody changes policy alone, and the way back takes the root keys. Go on?",
                    "--yes",
                )?
            {
                bail!("nothing was changed");
            }
            global.answer(&client.put("/api/v1/settings/authority", &json!({ "value": "four_eyes" })).await?)
        }
    }
}

/// Asks; where the gateway wants the difference confirmed, shows it and asks again.
async fn confirming(client: &Client, path: &str, bytes: &[u8], confirmed: Confirmed) -> Result<Value> {
    let ask = async |digest: Option<&str>| {
        let query = query(&[("confirmed_diff", digest)], None);
        client.post_bytes(&format!("{path}{query}"), bytes.to_vec()).await
    };
    let given = confirmed.confirmed_diff.filter(|_| confirmed.yes);
    let error = match ask(given.as_deref()).await {
        Ok(proposal) => return Ok(proposal),
        Err(error) => error,
    };
    let problem = error.downcast_ref::<ProblemError>().filter(|problem| problem.code == "diff-unconfirmed");
    let Some(problem) = problem.map(|problem| problem.body.clone()) else { return Err(error) };
    eprintln!("What changes:\n{}\n", plain(text(&problem, "diff")).trim_end());
    let digest = text(&problem, "diff_digest");
    if given.is_some() {
        bail!("the difference is not the one that you read any more: read it above and confirm again");
    }
    if !confirm("Put it in force?", &format!("--yes --confirmed-diff {digest}"))? {
        bail!("nothing was proposed");
    }
    ask(Some(digest)).await.context("the proposal was confirmed, and not taken")
}

/// What happens next, for whoever reads the terminal.
fn tell(proposal: &Value) {
    let gate = plain(text(proposal, "gate"));
    let id = plain(text(proposal, "id"));
    match text(proposal, "state") {
        "shadowing" => {
            let ends = plain(text(proposal, "window_ends"));
            eprintln!("Its shadow window runs until {ends}. Then the others are asked. Follow it with:");
            eprintln!("  countersign policy proposals {id}");
        }
        "waiting" => {
            eprintln!("It waits for somebody else, who reads and decides with:");
            eprintln!("  countersign gate show {gate}");
            eprintln!("  countersign gate approve {gate} --justification \"…\"");
        }
        "activated" => eprintln!("It is in force."),
        "failed" => eprintln!("It was not put in force: {}.", plain(text(proposal, "reason"))),
        _ => {}
    }
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}
