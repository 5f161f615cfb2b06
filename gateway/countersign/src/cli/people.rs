//! Persons, agents, services' accounts and tokens.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::prompt::{Code, Password, ask_code, hidden, secret_file, somebody_is_there};
use super::second_factor::{SecondFactor, second_factor};
use super::{Global, Paging, out, query};
use crate::client::{ProblemError, keep, segment};
use crate::environment;

/// Uses a one-time token.
#[derive(Debug, Subcommand)]
pub(crate) enum Enrol {
    /// Become a person: choose a name and a password
    #[command(
        after_help = "Example:\n  countersign enrol person --token-file countersign-data/enrolment.token --id ada"
    )]
    Person {
        /// File with the one-time token; else it is asked for.
        #[arg(long, value_name = "FILE")]
        token_file: Option<PathBuf>,
        /// Login name.
        #[arg(long)]
        id: String,
        /// How people call you; else your login name.
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        password: Password,
    },
    /// Get the client id and secret of an agent or a service
    #[command(after_help = "Example:\n  countersign enrol service-account --token-file agent.token")]
    ServiceAccount {
        /// File with the one-time token; else it is asked for.
        #[arg(long, value_name = "FILE")]
        token_file: Option<PathBuf>,
    },
}

fn one_time(file: Option<&PathBuf>) -> Result<String> {
    match file {
        Some(path) => secret_file(path),
        None => hidden("One-time token", "--token-file"),
    }
}

pub(crate) async fn enrol(verb: Enrol, global: &Global) -> Result<()> {
    let client = global.client()?.anonymous();
    match verb {
        Enrol::Person { token_file, id, name, password } => {
            let body = json!({
                "token": one_time(token_file.as_ref())?, "id": id, "display_name": name.as_ref().unwrap_or(&id),
                "password": password.read("Password (12 characters or more)")?,
            });
            let made = client.post("/api/v1/enrol/person", &body).await?;
            global.answer(&made)?;
            if !global.json {
                out(&format!(
                    "\nNow log in; give --organization too, unless it is the gateway's first:\n  \
                     countersign login {id} --server {} --scope \"act decide\"\n",
                    client.server()
                ))?;
            }
            Ok(())
        }
        Enrol::ServiceAccount { token_file } => {
            let body = json!({ "token": one_time(token_file.as_ref())? });
            global.answer(&client.post("/api/v1/enrol/service-account", &body).await?)
        }
    }
}

/// Logs in as a person and keeps the token in a file of this user alone.
#[derive(Debug, Args)]
#[command(
    after_help = "Whoever has a second factor is asked for its code, too, or gives it with --otp.\n\nExample:\n  countersign login ada --scope \"act decide\""
)]
pub(crate) struct Login {
    /// Login name.
    id: String,
    /// `act` to ask, `decide` to answer at gates (15 minutes at most).
    #[arg(long, default_value = "act")]
    scope: String,
    /// The organization (`org_…`); else the gateway's `default`.
    #[arg(long, value_name = "ORGANIZATION", env = "COUNTERSIGN_ORGANIZATION", hide_env_values = true)]
    organization: Option<String>,
    /// Print the token instead of keeping it.
    #[arg(long)]
    print: bool,
    #[command(flatten)]
    password: Password,
    #[command(flatten)]
    code: Code,
}

fn field<'a>(value: &'a Value, key: &str) -> Result<&'a str> {
    value.get(key).and_then(Value::as_str).with_context(|| format!("the gateway's answer has no `{key}`"))
}

/// Whether a login lacks nothing but a code.
fn wants_code(error: &anyhow::Error) -> bool {
    error.downcast_ref::<ProblemError>().is_some_and(|problem| problem.code == "second-factor-required")
}

pub(crate) async fn login(args: Login, global: &Global) -> Result<()> {
    let client = global.client()?.anonymous();
    let (password, second_line) = args.password.read_with_code("Password")?;
    let mut body = json!({ "id": args.id, "password": password, "scope": args.scope });
    let code = args.code.otp.or(second_line);
    let may_ask = code.is_none() && somebody_is_there();
    if let Some(body) = body.as_object_mut() {
        body.extend(args.organization.map(|organization| ("organization".to_owned(), organization.into())));
        body.extend(code.map(|code| ("otp".to_owned(), code.into())));
    }
    let token = match client.post("/api/v1/tokens/login", &body).await {
        Err(error) if may_ask && wants_code(&error) => {
            if let Some(body) = body.as_object_mut() {
                body.insert("otp".to_owned(), ask_code()?.into());
            }
            client.post("/api/v1/tokens/login", &body).await?
        }
        answer => answer?,
    };
    if args.print {
        return if global.json {
            global.document(&token)
        } else {
            out(&format!("{}\n", field(&token, "access_token")?))
        };
    }
    let kept =
        keep(client.server(), field(&token, "access_token")?, field(&token, "subject")?, field(&token, "expires")?)?;
    let said = json!({
        "subject": token.get("subject"), "scope": token.get("scope"), "expires": token.get("expires"), "kept": kept, "server": client.server(),
    });
    global.answer(&said)
}

/// Tokens.
#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Get a token for an agent or a service
    #[command(after_help = "Example:\n  countersign token client --client-id client_0f… --secret-file agent.secret")]
    Client {
        /// Client id.
        #[arg(long)]
        client_id: String,
        /// File with the secret; else `COUNTERSIGN_CLIENT_SECRET`, else it is asked for.
        #[arg(long, value_name = "FILE")]
        secret_file: Option<PathBuf>,
    },
    /// Say who the token speaks for
    #[command(after_help = "Example:\n  countersign token whoami")]
    Whoami,
    /// End the token in use, another one by its id, or all of an account
    #[command(after_help = "Example:\n  countersign token revoke --account agent:fixer")]
    Revoke {
        /// Id of a token (`tok_…`).
        #[arg(long, conflicts_with = "account")]
        id: Option<String>,
        /// An account, such as `agent:fixer`.
        #[arg(long)]
        account: Option<String>,
    },
    /// Lend your authority to an agent for a while
    #[command(after_help = "Example:\n  countersign token consent fixer --life-s 3600")]
    Consent {
        /// The agent.
        agent: String,
        /// Seconds that the consent lasts.
        #[arg(long)]
        life_s: Option<u32>,
    },
    /// As the agent that a consent names: get a token to act on behalf of whoever gave it
    #[command(after_help = "Example:\n  countersign token exchange --consent-file ada.consent")]
    Exchange {
        /// File with the consent (`access_token`); else it is asked for.
        #[arg(long, value_name = "FILE")]
        consent_file: Option<PathBuf>,
    },
}

pub(crate) async fn token(verb: Token, global: &Global) -> Result<()> {
    let client = global.client()?;
    match verb {
        Token::Client { client_id, secret_file: file } => {
            let secret = match (file, environment::text("COUNTERSIGN_CLIENT_SECRET")) {
                (Some(path), _) => secret_file(&path)?,
                (None, Some(secret)) => secret,
                (None, None) => hidden("Client secret", "--secret-file")?,
            };
            let body = json!({ "client_id": client_id, "client_secret": secret });
            let token = client.anonymous().post("/api/v1/tokens/client-credentials", &body).await?;
            if global.json { global.document(&token) } else { out(&format!("{}\n", field(&token, "access_token")?)) }
        }
        Token::Whoami => global.answer(&client.get("/api/v1/me").await?),
        Token::Revoke { id, account } => {
            let body = match (id, account) {
                (Some(id), _) => json!({ "token": id }),
                (None, Some(account)) => json!({ "account": account }),
                (None, None) => json!({}),
            };
            client.post("/api/v1/tokens/revoke", &body).await?;
            global.answer(&json!({ "revoked": true }))
        }
        Token::Consent { agent, life_s } => {
            let body = json!({ "agent": agent, "life_s": life_s });
            global.answer(&client.post("/api/v1/tokens/consent", &body).await?)?;
            if global.json {
                return Ok(());
            }
            out(&format!(
                "\nGive the consent to `{agent}`, who alone can use it, with its own token:\n  \
                 countersign --server {} token exchange --consent-file FILE\n",
                client.server()
            ))
        }
        Token::Exchange { consent_file } => {
            let consent = match consent_file {
                Some(path) => secret_file(&path)?,
                None => hidden("Consent", "--consent-file")?,
            };
            let token = client.post("/api/v1/tokens/exchange", &json!({ "consent": consent })).await?;
            if global.json { global.document(&token) } else { out(&format!("{}\n", field(&token, "access_token")?)) }
        }
    }
}

/// Agents.
#[derive(Debug, Subcommand)]
pub(crate) enum Agent {
    /// Make an agent
    #[command(
        after_help = "Example:\n  countersign agent create fixer --owner ada --scope repo:read --scope repo:write --credential"
    )]
    Create {
        /// Id.
        id: String,
        /// The person who answers for it; else you.
        #[arg(long)]
        owner: Option<String>,
        /// How people call it.
        #[arg(long, default_value = "")]
        name: String,
        /// 0 none to 4 unattended.
        #[arg(long, default_value_t = 1)]
        autonomy: u8,
        /// Tool scopes, such as `repo:read`.
        #[arg(long = "scope", value_name = "SCOPE")]
        scopes: Vec<String>,
        /// Teams.
        #[arg(long = "team", value_name = "TEAM")]
        teams: Vec<String>,
        /// Issue a client id and secret at once, and print them.
        #[arg(long)]
        credential: bool,
    },
    /// List agents
    #[command(after_help = "Example:\n  countersign agent list")]
    List {
        #[command(flatten)]
        paging: Paging,
    },
    /// Show an agent
    #[command(after_help = "Example:\n  countersign agent show fixer")]
    Show {
        /// Its id.
        id: String,
    },
    /// Issue a client id and a secret for an agent; the secret is shown once
    #[command(after_help = "Example:\n  countersign agent credential fixer --expires-s 86400")]
    Credential {
        /// The agent.
        id: String,
        /// Seconds until it ends by itself.
        #[arg(long)]
        expires_s: Option<u32>,
    },
}

async fn me(client: &crate::client::Client) -> Result<String> {
    let me = client.get("/api/v1/me").await?;
    let subject = field(&me, "subject")?;
    match subject.strip_prefix("person:") {
        Some(id) => Ok(id.to_owned()),
        None => bail!("`{subject}` is no person: give --owner"),
    }
}

pub(crate) async fn agent(verb: Agent, global: &Global) -> Result<()> {
    let client = global.client()?;
    match verb {
        Agent::Create { id, owner, name, autonomy, scopes, teams, credential } => {
            let owner = match owner {
                Some(owner) => owner,
                None => me(&client).await?,
            };
            let name = if name.is_empty() { id.clone() } else { name };
            let body = json!({
                "id": id, "display_name": name, "owner": owner, "autonomy": autonomy, "scopes": scopes, "teams": teams,
            });
            let mut made = client.post("/api/v1/agents", &body).await?;
            if credential {
                let account = json!({ "bound_to": format!("agent:{id}") });
                let account = client.post("/api/v1/service-accounts", &account).await?;
                if let Some(made) = made.as_object_mut() {
                    let part = |pointer| account.pointer(pointer).cloned().unwrap_or_default();
                    made.insert("client_id".to_owned(), part("/service_account/client_id"));
                    made.insert("client_secret".to_owned(), part("/client_secret"));
                }
            }
            global.answer(&made)
        }
        Agent::List { paging } => {
            let page = client.get(&format!("/api/v1/agents{}", query(&[], Some(&paging)))).await?;
            global.page(&page, &["id", "display_name", "owner", "autonomy", "scopes", "disabled"])
        }
        Agent::Show { id } => global.answer(&client.get(&format!("/api/v1/agents/{}", segment(&id)?)).await?),
        Agent::Credential { id, expires_s } => {
            let body = json!({ "bound_to": format!("agent:{id}"), "expires_s": expires_s });
            global.answer(&client.post("/api/v1/service-accounts", &body).await?)
        }
    }
}

/// Persons.
#[derive(Debug, Subcommand)]
pub(crate) enum Person {
    /// Invite a person: prints a one-time token to hand over
    #[command(after_help = "Example:\n  countersign person invite --role APPROVER")]
    Invite {
        /// Roles that they get.
        #[arg(long = "role", value_name = "ROLE")]
        roles: Vec<String>,
        /// Teams.
        #[arg(long = "team", value_name = "TEAM")]
        teams: Vec<String>,
        /// Groups.
        #[arg(long = "group", value_name = "GROUP")]
        groups: Vec<String>,
    },
    /// List persons
    #[command(after_help = "Example:\n  countersign person list")]
    List {
        #[command(flatten)]
        paging: Paging,
    },
    /// Show a person
    #[command(after_help = "Example:\n  countersign person show ada")]
    Show {
        /// Their id.
        id: String,
    },
    /// Second factors: codes of an authenticator app beside the password
    #[command(subcommand)]
    SecondFactor(SecondFactor),
}

pub(crate) async fn person(verb: Person, global: &Global) -> Result<()> {
    let client = global.client()?;
    match verb {
        Person::Invite { roles, teams, groups } => {
            let body = json!({ "roles": roles, "teams": teams, "groups": groups });
            global.answer(&client.post("/api/v1/enrolments/people", &body).await?)?;
            if global.json {
                return Ok(());
            }
            out(&format!(
                "\nHand the token over in a way that nobody else reads; it is good once. They choose name and password with:\n  \
                 countersign enrol person --server {} --id THEIR-NAME\n",
                client.server()
            ))
        }
        Person::List { paging } => {
            let page = client.get(&format!("/api/v1/people{}", query(&[], Some(&paging)))).await?;
            global.page(&page, &["id", "display_name", "roles", "teams", "disabled"])
        }
        Person::Show { id } => global.answer(&client.get(&format!("/api/v1/people/{}", segment(&id)?)).await?),
        Person::SecondFactor(verb) => second_factor(verb, global).await,
    }
}
