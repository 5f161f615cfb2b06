//! `policy root install`: the next root document, put in force on a stopped gateway. From then on its keys and its
//! thresholds say what signs a bundle, a tool catalogue, a recovery, and the document after it.
//!
//! Absent: making and signing it (`roots`), the succession and the record of it (`crate::policies`).

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use countersign_policy_store::bundle::SignedRoot;
use serde_json::json;

use super::super::stopped::{self, Stopped};
use super::super::{Global, confirm};
use super::signing::read_root;
use crate::gateway::Gateway;

/// Puts the next root document in force. The gateway must be down.
#[derive(Debug, Args)]
pub(crate) struct Install {
    /// The signed root document.
    file: PathBuf,
    /// The data folder.
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
    /// Name of the organization in that folder; else `default`.
    #[arg(long, value_name = "NAME")]
    organization: Option<String>,
    /// Install it even if the bundle in force does not stand under it: then the kernel alone decides until `countersign
    /// recover`. For a key that was stolen.
    #[arg(long)]
    drop_bundle: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

pub(super) async fn install(args: &Install, global: &Global) -> Result<()> {
    let signed = read_root(&args.file)?;
    let folder = Stopped::at(args.data_dir.as_deref(), global)?;
    let question = format!(
        "Put root document version {} in force? Only its keys sign from then on, and no version comes back.",
        signed.root.version
    );
    if !args.yes && !confirm(&question, "--yes")? {
        bail!("nothing was changed");
    }
    folder.work(None, async |gateway| carry_out(gateway, args, signed, global).await).await
}

async fn carry_out(gateway: &Gateway, args: &Install, signed: SignedRoot, global: &Global) -> Result<()> {
    let org = stopped::organization(gateway, args.organization.as_deref())?;
    let next = gateway.policies.next_root(org, signed)?;
    if let Some(lost) = next.lost.as_ref().filter(|_| !args.drop_bundle) {
        bail!(
            "nothing was changed: the bundle in force would not stand under this root document ({}). Put one in force first \
             that keys sign which stay, or, where a key was stolen, give --drop-bundle: then the kernel alone decides until \
             `countersign recover`",
            crate::words(lost)
        );
    }
    let (document, stands) = (next.document().clone(), next.stands);
    let entry = gateway.policies.install_root(&gateway.engine, next).await?;
    let keys: Vec<String> = document.keys.iter().map(|key| key.vkey.id().to_string()).collect();
    global.answer(&json!({
        "organization": org, "version": document.version, "digest": document.digest()?, "keys": keys,
        "thresholds": document.thresholds, "revoked": document.revoked, "bundle_stands": stands, "entry": entry,
    }))
}
