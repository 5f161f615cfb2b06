//! Organizations: the operator's commands on a data folder. Making one needs the gateway to be down; listing does not.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Subcommand;
use serde_json::{Value, json};

use super::{Global, out};
use crate::config::Config;
use crate::folder::read_mark;
use crate::gateway::{Gateway, Options};
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

fn config(data_dir: Option<&PathBuf>, global: &Global) -> Result<Config> {
    let flags: Vec<_> = data_dir.iter().map(|d| ("data.dir", d.display().to_string(), "--data-dir")).collect();
    Ok(global.load(&flags)?.config)
}

pub(crate) async fn organization(verb: Organization, global: &Global) -> Result<()> {
    match verb {
        Organization::Create { name, data_dir } => create(name, config(data_dir.as_ref(), global)?, global).await,
        Organization::List { data_dir } => list(&config(data_dir.as_ref(), global)?, global),
    }
}

/// Opens the gateway once with the new organization in it, and closes it: there is one way in which one comes to be.
async fn create(name: String, mut config: Config, global: &Global) -> Result<()> {
    let mark = read_mark(&config.data.dir.join("countersign.json"))
        .with_context(|| format!("`{}` is no data folder: `countersign up` makes one", config.data.dir.display()))?;
    // Nothing is run here.
    config.runner.process = false;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let gateway =
        Gateway::open(&config, &Options { demo: mark.demo, address, begin: Some(name.clone()), offline: true }).await?;
    let made = gateway.organizations.iter().find(|made| made.place.name.as_str() == name);
    let made = made.context("the organization was made and is not there")?;
    let (place, root_vkey) = (made.place.clone(), made.root_vkey.clone());
    let token = gateway.first_token(&place).await?;
    gateway.close().await?;
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

fn list(config: &Config, global: &Global) -> Result<()> {
    let data = &config.data.dir;
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
