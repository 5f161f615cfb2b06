//! `recover`: out of a policy that locked everyone out, or that cannot be read. Offline, with the root threshold; and the
//! review that it owes, which is a person's. And out of a second factor that its person has lost.
//!
//! Absent: which bundle that is and its signatures (`crate::policies`), the entries (`engine`).

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use countersign_gateway_model::Name;
use countersign_policy_store::read_bundle;
use serde_json::json;

use super::stopped::{self, Stopped};
use super::{Global, confirm};
use crate::gateway::Gateway;

/// Puts the bundle that ships in force, past the one that is, with the root threshold. The gateway must be down. Until a
/// person closes the review of it, every pack of the log says so.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  countersign recover --data-dir ./countersign-data\n  \
        countersign recover --out recovery.bundle\n  countersign policy sign recovery.bundle --key root-1.key\n  \
        countersign recover --bundle recovery.bundle\n  countersign recover review\n  \
        countersign recover second-factor ada --data-dir ./countersign-data"
)]
pub(crate) struct Recover {
    #[command(subcommand)]
    other: Option<Other>,
    /// The data folder.
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
    /// Name of the organization in that folder; else `default`.
    #[arg(long, value_name = "NAME")]
    organization: Option<String>,
    /// The bundle that --out wrote, signed by as many root keys as a recovery needs; else the one that ships, signed by the
    /// key in the data folder.
    #[arg(long, value_name = "FILE", conflicts_with = "out")]
    bundle: Option<PathBuf>,
    /// Put nothing in force; write what has to be signed.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

/// What is due after it, and what else is recovered.
#[derive(Debug, Subcommand)]
enum Other {
    /// Say that you have looked at what happened: closes the review of a recovery. Asks the gateway
    #[command(after_help = "Example:\n  countersign recover review")]
    Review {
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Take a second factor away that its person has lost, where no administrator can log in to do so. The gateway must be
    /// down. It leaves an entry, and the password alone is asked for then
    #[command(after_help = "Example:\n  countersign recover second-factor ada --data-dir ./countersign-data")]
    SecondFactor {
        /// Whose.
        person: Name,
        /// The data folder.
        #[arg(long, value_name = "FOLDER")]
        data_dir: Option<PathBuf>,
        /// Name of the organization in that folder; else `default`.
        #[arg(long, value_name = "NAME")]
        organization: Option<String>,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
}

pub(crate) async fn recover(args: Recover, global: &Global) -> Result<()> {
    match args.other {
        Some(Other::Review { yes }) => review(yes, global).await,
        Some(Other::SecondFactor { person, data_dir, organization, yes }) => {
            let folder = Stopped::at(data_dir.as_deref(), global)?;
            let question =
                format!("Take the second factor of `{person}` away? Their password alone is asked for then.");
            if !yes && !confirm(&question, "--yes")? {
                bail!("nothing was changed");
            }
            folder.work(None, async |gateway| withdraw(gateway, &person, organization.as_deref(), global).await).await
        }
        None => Box::pin(offline(args, global)).await,
    }
}

async fn withdraw(gateway: &Gateway, person: &Name, organization: Option<&str>, global: &Global) -> Result<()> {
    let org = stopped::organization(gateway, organization)?;
    gateway.identity.second_factors.withdraw(org, person).await?;
    global.answer(&json!({ "organization": org, "person": person, "state": "none" }))
}

async fn review(yes: bool, global: &Global) -> Result<()> {
    let client = global.client()?;
    let question = "Have you looked at what was done since the recovery, and is the policy in force the right one?";
    if !yes && !confirm(question, "--yes")? {
        bail!("the review stays open");
    }
    global.answer(&client.post("/api/v1/policies/recovery/review", &json!({})).await?)
}

async fn offline(args: Recover, global: &Global) -> Result<()> {
    let folder = Stopped::at(args.data_dir.as_deref(), global)?;
    let given = args.bundle.as_deref().map(read_bundle).transpose()?;
    let question =
        "Put the bundle that ships in force, past the policy that is? Every pack says so until it is reviewed.";
    if args.out.is_none() && !args.yes && !confirm(question, "--yes")? {
        bail!("nothing was changed");
    }
    folder.work(None, async |gateway| carry_out(gateway, &args, given, global).await).await
}

async fn carry_out(
    gateway: &Gateway,
    args: &Recover,
    given: Option<countersign_policy_store::bundle::Bundle>,
    global: &Global,
) -> Result<()> {
    let org = stopped::organization(gateway, args.organization.as_deref())?;
    let bundle = match given {
        Some(bundle) => bundle,
        None => gateway.policies.recovery_bundle(org).await?,
    };
    if let Some(file) = &args.out {
        super::policy::write_new(file, &bundle.to_bytes()?)?;
        return global.answer(&json!({ "written": file, "bundle": bundle.digest() }));
    }
    let digest = bundle.digest();
    let (entries, prepared) = gateway.policies.recovery(org, bundle).await?;
    let receipt = gateway.engine.record_recovery(org, digest, entries).await?;
    // Durable: a crash here leaves an activation that the next start carries out.
    gateway.policies.commit(prepared).await;
    global.answer(&json!({
        "organization": org, "bundle": digest, "entry": receipt.index,
        "review": "open: close it with `countersign recover review` when you have looked at what happened",
    }))
}
