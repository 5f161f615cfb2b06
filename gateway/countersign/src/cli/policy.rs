//! Policy: look at a bundle before anybody else does, and put it in force.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;
use countersign_gateway_model::OrgId;
use countersign_policy_store::bundle::{CATALOGUE_FILE, SIGNATURES_FILE, check_draft};
use countersign_policy_store::{default_catalogue, default_draft, read_catalogue, read_draft, read_folder};
use serde_json::{Value, json};

use super::{Global, confirm, out};
use crate::policies::DraftFiles;
use crate::text::plain;

/// Policy.
#[derive(Debug, Subcommand)]
pub(crate) enum Policy {
    /// Check a bundle: syntax, types, lint, its own tests. Asks no gateway
    #[command(after_help = "Example:\n  countersign policy check ./policy")]
    Check {
        /// A folder, or a bundle file.
        path: PathBuf,
    },
    /// Run a bundle's own tests. Asks no gateway
    #[command(after_help = "Example:\n  countersign policy test ./policy")]
    Test {
        /// A folder, or a bundle file.
        path: PathBuf,
    },
    /// Show what changes, and put a bundle in force
    #[command(after_help = "Example:\n  countersign policy activate ./policy")]
    Activate {
        /// A folder, or a bundle file.
        path: PathBuf,
        /// Do not ask; needs --confirmed-diff, so that a script activates what somebody has read.
        #[arg(long, requires = "confirmed_diff")]
        yes: bool,
        /// Digest of the difference that was read.
        #[arg(long, value_name = "HEX")]
        confirmed_diff: Option<String>,
    },
    /// Show which policy is in force
    #[command(after_help = "Example:\n  countersign policy show")]
    Show,
    /// Write the default bundle to a folder, to begin from
    #[command(after_help = "Example:\n  countersign policy default ./policy")]
    Default {
        /// A folder that is not there yet.
        folder: PathBuf,
    },
}

pub(crate) async fn policy(verb: Policy, global: &Global) -> Result<ExitCode> {
    match verb {
        Policy::Check { path } => check(&path, false, global),
        Policy::Test { path } => check(&path, true, global),
        Policy::Activate { path, yes, confirmed_diff } => {
            activate(&path, yes, confirmed_diff, global).await?;
            Ok(ExitCode::SUCCESS)
        }
        Policy::Show => {
            global.answer(&global.client()?.get("/api/v1/policies/active").await?)?;
            Ok(ExitCode::SUCCESS)
        }
        Policy::Default { folder } => {
            write_default(&folder)?;
            global.answer(&json!({ "written": folder }))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn check(path: &Path, tests_only: bool, global: &Global) -> Result<ExitCode> {
    let draft = read_draft(path)?;
    let catalogue = if path.is_dir() { read_catalogue(path)? } else { None };
    let catalogue = match catalogue {
        Some(catalogue) => catalogue,
        None => default_catalogue()?,
    };
    // Nobody's in particular: what belongs to whom is checked where it is activated.
    let checked = check_draft(&draft, OrgId::from_bytes([0; 16]), Some(&catalogue));
    let report = &checked.report;
    let tests = report.tests.as_ref();
    let passes = report.passes();
    if global.json {
        global.document(&json!({
            "passes": passes, "errors": report.errors(), "warnings": report.warnings(), "report": report.to_string(),
            "tests": tests.map(|run| json!({ "covered_percent": run.percent(), "uncovered": run.uncovered })),
        }))?;
    } else {
        let covered = tests.map(|run| format!(", tests cover {} % of the policies", run.percent())).unwrap_or_default();
        if !tests_only || !passes {
            out(&plain(&report.to_string()))?;
        }
        out(&format!(
            "\n{}: {} errors, {} warnings{covered}\n",
            if passes { "passes" } else { "does not pass" },
            report.errors(),
            report.warnings()
        ))?;
    }
    Ok(if passes { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A bundle as it is sent: a file as it is, a folder as a draft, which the gateway seals and signs with its local root key.
fn transport(path: &Path) -> Result<Vec<u8>> {
    if !path.is_dir() {
        return std::fs::read(path).with_context(|| format!("`{}` cannot be read", path.display()));
    }
    let mut files = BTreeMap::new();
    for (name, bytes) in read_folder(path)? {
        // Tools are registered on their own, and a draft has not been signed.
        if name == CATALOGUE_FILE || name == SIGNATURES_FILE {
            continue;
        }
        let text = String::from_utf8(bytes).with_context(|| format!("`{name}` is not UTF-8"))?;
        files.insert(name, text);
    }
    Ok(serde_json::to_vec(&DraftFiles { format: DraftFiles::FORMAT.to_owned(), files })?)
}

async fn activate(path: &Path, yes: bool, confirmed: Option<String>, global: &Global) -> Result<()> {
    let client = global.client()?;
    let bytes = transport(path)?;
    let confirmed = match confirmed {
        Some(digest) if yes => digest,
        given => {
            let candidate = client.post_bytes("/api/v1/policies/check", bytes.clone()).await?;
            let text = |key: &str| candidate.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            eprintln!("What changes:\n{}\n", plain(&text("diff")).trim_end());
            if candidate.get("weakens").and_then(Value::as_bool) == Some(true) {
                eprintln!("This WEAKENS what is in force.");
            }
            let digest = text("diff_digest");
            if given.is_some_and(|read| read != digest) {
                bail!("the difference is not the one that you read any more: read it above and confirm again");
            }
            if !confirm("Put it in force?", &format!("--yes --confirmed-diff {digest}"))? {
                bail!("nothing was activated");
            }
            digest
        }
    };
    let query = super::query(&[("confirmed_diff", Some(confirmed.as_str()))], None);
    global.answer(&client.post_bytes(&format!("/api/v1/policies/activate{query}"), bytes).await?)
}

fn write_default(folder: &Path) -> Result<()> {
    if folder.exists() {
        bail!("`{}` is there already: give a folder that is not", folder.display());
    }
    let write = |name: &str, bytes: &[u8]| -> Result<()> {
        let path = folder.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).with_context(|| format!("`{}` cannot be made", parent.display()))?;
        }
        std::fs::write(&path, bytes).with_context(|| format!("`{}` cannot be written", path.display()))
    };
    for (name, text) in default_draft()?.files.iter() {
        write(name.as_str(), text.as_bytes())?;
    }
    let catalogue: Value = serde_json::from_slice(&default_catalogue()?.canonical())?;
    write(CATALOGUE_FILE, format!("{}\n", serde_json::to_string_pretty(&catalogue)?).as_bytes())
}
