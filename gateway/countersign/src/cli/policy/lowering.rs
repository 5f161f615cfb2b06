//! `policy solo`: from `four_eyes` back to `solo`. Offline, with as many root keys as a recovery needs.
//!
//! A statement says what is lowered, and is good once. The key in the data folder signs it; where that is not enough it is
//! written to a file, carried to where the other keys are, signed there (`policy solo sign`), and brought back. Absent: the
//! entry (`engine`), whose signatures count (`crate::policies`).

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use countersign_policy_store::bundle::SignedAuthority;
use serde_json::json;

use super::super::stopped::{self, Stopped};
use super::super::{Global, confirm};
use super::signing::private_keys;
use super::{replace, write_new};
use crate::gateway::Gateway;

/// Largest statement that is read, in bytes.
const MAX_STATEMENT: u64 = 1 << 20;

/// Lowers the authority mode. The gateway must be down.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Gates that are open keep the exclusions they were opened with. Every entry, permit and pack says `solo` from then on,\n\
        and where it changed.\n\n\
        Examples:\n  countersign policy solo --data-dir ./countersign-data\n  \
        countersign policy solo --out solo.json\n  countersign policy solo sign solo.json --key root-1.key\n  \
        countersign policy solo --statement solo.json"
)]
pub(crate) struct Solo {
    #[command(subcommand)]
    sign: Option<Offline>,
    /// The data folder.
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
    /// Name of the organization in that folder; else `default`.
    #[arg(long, value_name = "NAME")]
    organization: Option<String>,
    /// What --out wrote, signed by as many root keys as a recovery needs; else it is signed by the key in the data folder.
    #[arg(long, value_name = "FILE", conflicts_with = "out")]
    statement: Option<PathBuf>,
    /// Lower nothing; write what has to be signed.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

/// What is done where the keys are.
#[derive(Debug, Subcommand)]
enum Offline {
    /// Sign what --out wrote. Asks no gateway
    #[command(after_help = "Example:\n  countersign policy solo sign solo.json --key root-1.key")]
    Sign {
        /// The file; the signatures are added to it.
        file: PathBuf,
        /// File of a private root key; once for each key.
        #[arg(long, value_name = "FILE", required = true)]
        key: Vec<PathBuf>,
    },
}

pub(crate) async fn solo(args: Solo, global: &Global) -> Result<()> {
    match args.sign {
        Some(Offline::Sign { file, key }) => sign(&file, &key, global),
        None => lower(args, global).await,
    }
}

fn read(path: &Path) -> Result<SignedAuthority> {
    use std::io::Read as _;
    let mut text = String::new();
    let file = std::fs::File::open(path).with_context(|| format!("`{}` cannot be read", path.display()))?;
    file.take(MAX_STATEMENT)
        .read_to_string(&mut text)
        .with_context(|| format!("`{}` cannot be read", path.display()))?;
    serde_json::from_str(&text).with_context(|| {
        format!("`{}` is no statement: write one with `countersign policy solo --out`", path.display())
    })
}

fn text_of(signed: &SignedAuthority) -> Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(signed)?;
    text.push(b'\n');
    Ok(text)
}

fn sign(file: &Path, keys: &[PathBuf], global: &Global) -> Result<()> {
    let mut signed = read(file)?;
    for key in private_keys(keys)? {
        signed.sign(&key)?;
    }
    replace(file, &text_of(&signed)?)?;
    let keys: Vec<String> = signed.signatures.iter().map(|signature| signature.key.to_string()).collect();
    global.answer(&json!({ "written": file, "statement": signed.statement, "signatures": keys }))
}

async fn lower(args: Solo, global: &Global) -> Result<()> {
    let folder = Stopped::at(args.data_dir.as_deref(), global)?;
    let given = args.statement.as_deref().map(read).transpose()?;
    let question =
        "Lower the authority mode to `solo`? One person then changes policy alone, and approves their own agents.";
    if args.out.is_none() && !args.yes && !confirm(question, "--yes")? {
        bail!("nothing was changed");
    }
    folder.work(None, async |gateway| carry_out(gateway, &args, given, global).await).await
}

async fn carry_out(gateway: &Gateway, args: &Solo, given: Option<SignedAuthority>, global: &Global) -> Result<()> {
    let org = stopped::organization(gateway, args.organization.as_deref())?;
    let since = gateway.engine.four_eyes_since(org).await?;
    let signed = match given {
        Some(signed) => signed,
        None => gateway.policies.lowering(org, since)?,
    };
    if let Some(file) = &args.out {
        write_new(file, &text_of(&signed)?)?;
        return global.answer(&json!({ "written": file, "statement": signed.statement }));
    }
    let standing = gateway.policies.may_lower(org, since, &signed)?;
    let receipt = gateway.engine.lower_authority(org, serde_json::to_value(&signed)?).await?;
    let signers: Vec<String> = standing.signers.iter().map(ToString::to_string).collect();
    // Durable: the entry says `solo`, and so does whatever is begun from here on.
    global.answer(&json!({
        "organization": org, "authority": "solo", "entry": receipt.index,
        "signed_by": signers, "local_key": standing.local,
    }))
}
