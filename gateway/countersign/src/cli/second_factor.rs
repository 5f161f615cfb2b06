//! A person's second factor: codes of an authenticator app beside the password.
//!
//! Absent: the codes themselves, which are the app's; logging in with one (`people`); taking one away on a stopped gateway
//! (`recover`).

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;
use serde_json::{Value, json};

use super::key::whose;
use super::prompt::{Code, Password, ask_code, somebody_is_there};
use super::{Global, confirm, out};
use crate::client::{Client, segment};

/// Codes of an authenticator app, beside the password.
#[derive(Debug, Subcommand)]
pub(crate) enum SecondFactor {
    /// Get a secret for your authenticator app, shown once; in a terminal, confirm it at once
    #[command(
        after_help = "Log in with `countersign login --scope \"act decide\"` first.\n\nExample:\n  countersign person second-factor enrol"
    )]
    Enrol {
        #[command(flatten)]
        password: Password,
    },
    /// Put what you began in force, with the first code that the app shows
    #[command(
        after_help = "From then on each login needs a code; tokens from before end.\n\nExample:\n  countersign person second-factor confirm --otp 287082"
    )]
    Confirm {
        #[command(flatten)]
        code: Code,
    },
    /// Say whether there is one; your own unless told otherwise
    #[command(after_help = "Example:\n  countersign person second-factor show --person ada")]
    Show {
        /// Whose.
        #[arg(long, value_name = "ID")]
        person: Option<String>,
    },
    /// Take it away: your own, with a login that used it; or another's, who has lost it. The login, with scope `decide`, may be 5
    /// minutes old
    #[command(after_help = "Example:\n  countersign person second-factor remove --person ada")]
    Remove {
        /// Whose; your own unless told otherwise.
        #[arg(long, value_name = "ID")]
        person: Option<String>,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
}

pub(crate) async fn second_factor(verb: SecondFactor, global: &Global) -> Result<()> {
    let client = global.client()?;
    match verb {
        SecondFactor::Enrol { password } => {
            let path = path(&whose(&client, None).await?)?;
            let password = password.read("Your password, once more")?;
            let begun = client.post(&path, &json!({ "password": password })).await?;
            if global.json {
                return global.document(&begun);
            }
            let text =
                |key: &str| begun.get(key).and_then(Value::as_str).context("the gateway's answer lacks a secret");
            out(&format!(
                "Put this into your authenticator app; it is shown once:\n  {}\nor open it there:\n  {}\n\n",
                text("secret")?,
                text("uri")?
            ))?;
            if !somebody_is_there() {
                return out("Then, within 15 minutes:\n  countersign person second-factor confirm --otp CODE\n");
            }
            confirmed(&client, &path, ask_code()?, global).await
        }
        SecondFactor::Confirm { code } => {
            let path = path(&whose(&client, None).await?)?;
            confirmed(&client, &path, code.read()?, global).await
        }
        SecondFactor::Show { person } => global.answer(&client.get(&path(&whose(&client, person).await?)?).await?),
        SecondFactor::Remove { person, yes } => {
            let person = whose(&client, person).await?;
            let question =
                format!("Take the second factor of `{person}` away? Their password alone is asked for then.");
            if !yes && !confirm(&question, "--yes")? {
                bail!("nothing was changed");
            }
            client.delete(&path(&person)?).await?;
            global.answer(&json!({ "person": person, "state": "none" }))
        }
    }
}

fn path(person: &str) -> Result<String> {
    Ok(format!("/api/v1/people/{}/second-factor", segment(person)?))
}

async fn confirmed(client: &Client, path: &str, code: String, global: &Global) -> Result<()> {
    let done = client.post(&format!("{path}/confirm"), &json!({ "otp": code })).await?;
    global.answer(&done)?;
    if global.json {
        return Ok(());
    }
    out("\nYour tokens from before have ended. Log in again, with the next code:\n  countersign login YOUR-NAME\n")
}
