//! Organizations: the operator's commands on a data folder. Making one needs the gateway to be down; listing does not.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Subcommand;
use serde_json::{Value, json};

use super::stopped::Stopped;
use super::{Global, out};
use crate::folder::read_mark;
use crate::organizations::{self, Place};

/// Organizations.
#[derive(Debug, Subcommand)]
pub(crate) enum Organization {
    /// Begin an organization: its keys, its log, its default policy, and the token of its first person. The gateway must
    /// be down
    #[command(after_help = "Example:\n  countersign organization create north --data-dir ./countersign-data")]
    Create {
        /// What you call it: lowercase letters, digits and dashes. No entry and no log holds it.
        name: String,
        /// The data folder.
        #[arg(long, value_name = "FOLDER")]
        data_dir: Option<PathBuf>,
    },
    /// List the organizations of a data folder, and the installation's own log
    #[command(after_help = "Example:\n  countersign organization list --data-dir ./countersign-data")]
    List {
        /// The data folder.
        #[arg(long, value_name = "FOLDER")]
        data_dir: Option<PathBuf>,
    },
}

pub(crate) async fn organization(verb: Organization, global: &Global) -> Result<()> {
    match verb {
        Organization::Create { name, data_dir } => create(name, data_dir.as_deref(), global).await,
        Organization::List { data_dir } => list(data_dir.as_deref(), global),
    }
}

/// Opens the gateway once with the new organization in it, and closes it: there is one way in which one comes to be.
async fn create(name: String, data_dir: Option<&Path>, global: &Global) -> Result<()> {
    let begun = Stopped::at(data_dir, global)?.work(Some(name.clone()), async |gateway| {
        let made = gateway.organizations.iter().find(|made| made.place.name.as_str() == name);
        let made = made.context("the organization was made and is not there")?;
        let token = gateway.first_token(&made.place).await?;
        Ok((made.place.clone(), made.root_vkey.clone(), token))
    });
    let (place, root_vkey, token) = begun.await?;
    let file = place.enrolment();
    global.answer(&json!({
        "name": place.name, "organization": place.org, "log": place.log, "root_vkey": root_vkey,
        "enrolment_token_file": token.as_ref().map(|_| &file), "enrolment_token_expires": token.map(|t| t.expires.to_string()),
    }))?;
    if global.json {
        return Ok(());
    }
    out(&format!(
        "\nStart the gateway; each start writes a new one-time token while nobody is there. Then:\n  \
         countersign enrol person --token-file {} --id YOUR-NAME\n  \
         countersign login YOUR-NAME --organization {}\n",
        file.display(),
        place.org
    ))
}

fn list(data_dir: Option<&Path>, global: &Global) -> Result<()> {
    let flags: Vec<_> = data_dir.iter().map(|d| ("data.dir", d.display().to_string(), "--data-dir")).collect();
    let data = &global.load(&flags)?.config.data.dir;
    let mark =
        read_mark(&data.join("countersign.json")).with_context(|| format!("`{}` is no data folder", data.display()))?;
    let row = |place: &Place| -> Value {
        let root = std::fs::read_to_string(place.root_vkey()).ok().map(|text| text.trim().to_owned());
        json!({ "name": place.name, "organization": place.org, "log": place.log, "root_vkey": root })
    };
    let items: Vec<Value> = organizations::all(data, &mark)?.iter().map(row).collect();
    // A folder of before has no such log until its next start.
    let installation = mark.installation.as_ref().map(|_| organizations::installation(data, &mark)).transpose()?;
    if global.json {
        return global.document(&json!({ "items": items, "installation": installation.as_ref().map(row) }));
    }
    global.page(&json!({ "items": items }), &["name", "organization", "log", "root_vkey"])?;
    match installation {
        Some(place) => {
            let root = std::fs::read_to_string(place.root_vkey()).unwrap_or_default();
            out(&format!("\nThe installation's own log is {}\n  root key  {}\n", place.log, root.trim()))
        }
        None => out("\nThe installation has no log of its own yet: it gets one at its next start.\n"),
    }
}
