//! Workflows, instances, actions, runs.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Subcommand;
use serde_json::{Value, json};

use super::{Global, Paging, out, query};
use crate::client::{Client, segment};

/// Most files of an uploaded folder.
const MAX_FILES: usize = 10_000;

/// Workflows.
#[derive(Debug, Subcommand)]
pub(crate) enum Workflow {
    /// Register a workflow version; it never changes afterwards
    #[command(
        after_help = "Example:\n  countersign workflow register fix-tests --version 1 --title \"Fix failing tests\" --tool repo.read"
    )]
    Register {
        /// Id.
        id: String,
        /// Its version.
        #[arg(long)]
        version: String,
        /// One line for people.
        #[arg(long, default_value = "")]
        title: String,
        /// The owning team.
        #[arg(long)]
        team: Option<String>,
        /// 0 none to 4 critical.
        #[arg(long, default_value_t = 0)]
        materiality: u8,
        /// Tools allowed; without any, every listed one.
        #[arg(long = "tool", value_name = "TOOL")]
        tools: Vec<String>,
        /// A denied action ends the instance.
        #[arg(long)]
        terminate_on_deny: bool,
    },
    /// List workflows
    #[command(after_help = "Example:\n  countersign workflow list")]
    List,
}

pub(crate) async fn workflow(verb: Workflow, global: &Global) -> Result<()> {
    let client = global.client()?;
    match verb {
        Workflow::Register { id, version, title, team, materiality, tools, terminate_on_deny } => {
            let tools = (!tools.is_empty()).then_some(tools);
            let body = json!({
                "id": id, "version": version, "title": title, "team": team, "materiality": materiality, "tools": tools,
                "on_deny": if terminate_on_deny { "terminate" } else { "refuse" },
            });
            global.answer(&client.post("/api/v1/workflows", &body).await?)
        }
        Workflow::List => {
            let page = client.get("/api/v1/workflows").await?;
            global.page(&page, &["id", "version", "title", "team", "materiality", "tools"])
        }
    }
}

/// Instances.
#[derive(Debug, Subcommand)]
pub(crate) enum Instance {
    /// Create an instance, and start it
    #[command(
        after_help = "Example:\n  countersign instance create --workflow fix-tests --agent fixer --workspace ./repository"
    )]
    Create {
        /// The workflow.
        #[arg(long)]
        workflow: String,
        /// The agent that will act; else you.
        #[arg(long)]
        agent: Option<String>,
        /// The person answerable; else you.
        #[arg(long)]
        accountable: Option<String>,
        /// Folder whose files its first run starts from.
        #[arg(long, value_name = "FOLDER")]
        workspace: Option<PathBuf>,
        /// Words of your own: `key=value`.
        #[arg(long = "label", value_name = "KEY=VALUE")]
        labels: Vec<String>,
        /// Seconds until it is terminated.
        #[arg(long)]
        deadline_s: Option<u64>,
        /// Let it rest; it is started later.
        #[arg(long)]
        no_start: bool,
    },
    /// List instances, newest first
    #[command(after_help = "Example:\n  countersign instance list --state WAITING_FOR_HUMAN")]
    List {
        /// Only those in this state.
        #[arg(long)]
        state: Option<String>,
        /// Only those of this workflow.
        #[arg(long)]
        workflow: Option<String>,
        #[command(flatten)]
        paging: Paging,
    },
    /// Show an instance
    #[command(after_help = "Example:\n  countersign instance show inst_0192…")]
    Show {
        /// Its id.
        id: String,
    },
    /// Start an instance that rests
    #[command(after_help = "Example:\n  countersign instance start inst_0192…")]
    Start {
        /// Its id.
        id: String,
    },
    /// Complete an instance
    #[command(after_help = "Example:\n  countersign instance complete inst_0192…")]
    Complete {
        /// Its id.
        id: String,
    },
    /// Stop an instance
    #[command(after_help = "Example:\n  countersign instance terminate inst_0192…")]
    Terminate {
        /// Its id.
        id: String,
    },
}

pub(crate) async fn instance(verb: Instance, global: &Global) -> Result<()> {
    let client = global.client()?;
    let (id, step) = match verb {
        Instance::Create { workflow, agent, accountable, workspace, labels, deadline_s, no_start } => {
            let workspace = match workspace {
                Some(folder) => Some(upload(&client, &folder).await?),
                None => None,
            };
            let labels = labels
                .iter()
                .map(|label| label.split_once('=').with_context(|| format!("`{label}` is no label: give KEY=VALUE")))
                .collect::<Result<BTreeMap<_, _>>>()?;
            let body = json!({
                "workflow": workflow, "agent": agent, "accountable": accountable, "workspace": workspace, "labels": labels,
                "deadline_s": deadline_s, "start": !no_start,
            });
            return global.answer(&client.post("/api/v1/instances", &body).await?);
        }
        Instance::List { state, workflow, paging } => {
            let parts = [("state", state.as_deref()), ("workflow", workflow.as_deref())];
            let page = client.get(&format!("/api/v1/instances{}", query(&parts, Some(&paging)))).await?;
            return global.page(&page, &["id", "state", "workflow", "acting", "updated"]);
        }
        Instance::Show { id } => {
            let shown = client.get(&format!("/api/v1/instances/{}", segment(&id)?)).await?;
            if shown.get("enforced") == Some(&Value::Bool(false)) && !global.json {
                eprintln!(
                    "Policy is not enforced in it: its workflow is in shadow, and what policy says is only on record."
                );
            }
            return global.answer(&shown);
        }
        Instance::Start { id } => (id, "start"),
        Instance::Complete { id } => (id, "complete"),
        Instance::Terminate { id } => (id, "terminate"),
    };
    global.answer(&client.post(&format!("/api/v1/instances/{}/{step}", segment(&id)?), &json!({})).await?)
}

/// Uploads a folder as a workspace. Links are left out of it by being refused.
async fn upload(client: &Client, folder: &Path) -> Result<String> {
    let mut files = Vec::new();
    collect(folder, "", &mut files)?;
    let answer = client.post("/api/v1/workspaces", &json!({ "files": files })).await?;
    answer
        .get("workspace")
        .and_then(Value::as_str)
        .map(str::to_owned)
        .context("the gateway's answer has no `workspace`")
}

fn collect(folder: &Path, prefix: &str, files: &mut Vec<Value>) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let entries = std::fs::read_dir(folder).with_context(|| format!("`{}` cannot be read", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_str().with_context(|| format!("`{}` has no UTF-8 name", entry.path().display()))?;
        let path = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") };
        let meta = std::fs::symlink_metadata(entry.path())?;
        if meta.is_dir() {
            if name != ".git" {
                collect(&entry.path(), &path, files)?;
            }
        } else if meta.is_file() {
            let bytes =
                std::fs::read(entry.path()).with_context(|| format!("`{}` cannot be read", entry.path().display()))?;
            let executable = meta.permissions().mode() & 0o100 != 0;
            files.push(match String::from_utf8(bytes) {
                Ok(text) => json!({ "path": path, "text": text, "executable": executable }),
                Err(error) => {
                    json!({ "path": path, "base64": STANDARD.encode(error.as_bytes()), "executable": executable })
                }
            });
            if files.len() > MAX_FILES {
                bail!("`{}` has more than {MAX_FILES} files", folder.display());
            }
        } else {
            bail!("`{}` is neither a file nor a folder: leave it out", entry.path().display());
        }
    }
    Ok(())
}

/// Actions.
#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Propose to call a tool
    #[command(
        after_help = "Example:\n  countersign action propose inst_0192… --tool repo.read --input '{\"path\": \"README.md\"}' --begin"
    )]
    Propose {
        /// The instance.
        instance: String,
        /// The tool.
        #[arg(long)]
        tool: String,
        /// Its input: JSON, or `@file`.
        #[arg(long, default_value = "{}")]
        input: String,
        /// Begin at once, where it is allowed.
        #[arg(long)]
        begin: bool,
    },
    /// Begin a permitted action
    #[command(after_help = "Example:\n  countersign action begin act_0192…")]
    Begin {
        /// The action.
        id: String,
    },
    /// Report what became of an action that you carried out
    #[command(
        after_help = "Example:\n  countersign action outcome act_0192… succeeded --output '{\"commit\": \"9f86\"}'"
    )]
    Outcome {
        /// The action.
        id: String,
        /// `succeeded`, `failed`, `cancelled`, `timed_out` or `unknown`.
        outcome: String,
        /// What came out: JSON, or `@file`.
        #[arg(long)]
        output: Option<String>,
    },
    /// Show an action
    #[command(after_help = "Example:\n  countersign action show act_0192…")]
    Show {
        /// The action.
        id: String,
    },
}

/// JSON from an argument, or from the file it names.
fn json_argument(text: &str) -> Result<Box<serde_json::value::RawValue>> {
    let text = match text.strip_prefix('@') {
        Some(path) => std::fs::read_to_string(path).with_context(|| format!("`{path}` cannot be read"))?,
        None => text.to_owned(),
    };
    serde_json::from_str(&text).context("that is not JSON")
}

/// Says where what is permitted is not what was proposed; the answer itself holds the input.
fn say_instead(answer: &Value, global: &Global) {
    let changed_by = answer.get("instead").and_then(|instead| instead.get("changed_by")).and_then(Value::as_array);
    if let Some(changed_by) = changed_by.filter(|_| !global.json) {
        let words: Vec<&str> = changed_by.iter().filter_map(Value::as_str).collect();
        let words = crate::text::plain(&words.join(", "));
        eprintln!(
            "What is permitted is not what was proposed ({words}): carry out the input under `instead`, and no other."
        );
    }
}

pub(crate) async fn action(verb: Action, global: &Global) -> Result<()> {
    /// The input as it was written: what policy sees and what is signed are these bytes.
    #[derive(serde::Serialize)]
    struct One {
        tool: String,
        input: Box<serde_json::value::RawValue>,
    }
    #[derive(serde::Serialize)]
    struct Body {
        actions: [One; 1],
        begin: bool,
    }
    let client = global.client()?;
    match verb {
        Action::Propose { instance, tool, input, begin } => {
            let body = Body { actions: [One { tool, input: json_argument(&input)? }], begin };
            let path = format!("/api/v1/instances/{}/actions", segment(&instance)?);
            let answer = client.post_bytes(&path, serde_json::to_vec(&body)?).await?;
            for one in answer.get("actions").and_then(Value::as_array).into_iter().flatten() {
                say_instead(one, global);
            }
            global.answer(&answer)
        }
        Action::Begin { id } => {
            let answer = client.post(&format!("/api/v1/actions/{}/start", segment(&id)?), &json!({})).await?;
            say_instead(&answer, global);
            global.answer(&answer)
        }
        Action::Outcome { id, outcome, output } => {
            let output = output.map(|text| json_argument(&text)).transpose()?;
            let body = json!({ "outcome": outcome, "output": output });
            global.answer(&client.post(&format!("/api/v1/actions/{}/outcome", segment(&id)?), &body).await?)
        }
        Action::Show { id } => {
            let answer = client.get(&format!("/api/v1/actions/{}", segment(&id)?)).await?;
            say_instead(&answer, global);
            global.answer(&answer)
        }
    }
}

/// Runs.
#[derive(Debug, Subcommand)]
pub(crate) enum Run {
    /// List runs, newest first
    #[command(after_help = "Example:\n  countersign run list --instance inst_0192…")]
    List {
        /// Only those of this instance.
        #[arg(long)]
        instance: Option<String>,
        #[command(flatten)]
        paging: Paging,
    },
    /// Show a run
    #[command(after_help = "Example:\n  countersign run show run_0192…")]
    Show {
        /// The run.
        id: String,
    },
    /// Print a run's output
    ///
    /// With `--json` as one document; with `--follow` besides, as one JSON object a line, as the output comes.
    #[command(after_help = "Example:\n  countersign run logs run_0192… --follow")]
    Logs {
        /// The run.
        id: String,
        /// Wait for more until the run has ended.
        #[arg(long)]
        follow: bool,
    },
}

pub(crate) async fn run(verb: Run, global: &Global) -> Result<()> {
    let client = global.client()?;
    match verb {
        Run::List { instance, paging } => {
            let page = client
                .get(&format!("/api/v1/runs{}", query(&[("instance", instance.as_deref())], Some(&paging))))
                .await?;
            global.page(&page, &["id", "phase", "outcome", "exit", "instance", "started"])
        }
        Run::Show { id } => global.answer(&client.get(&format!("/api/v1/runs/{}", segment(&id)?)).await?),
        Run::Logs { id, follow } => logs(&client, segment(&id)?, follow, global).await,
    }
}

/// Output as it was: bytes to standard output and standard error. With `--json` the pages, as one document; where more may
/// follow, a line each.
async fn logs(client: &Client, id: &str, follow: bool, global: &Global) -> Result<()> {
    let (mut stdout_from, mut stderr_from) = (0, 0);
    let mut pieces = Vec::new();
    loop {
        let path = format!("/api/v1/runs/{id}/logs?stdout_from={stdout_from}&stderr_from={stderr_from}");
        let mut page = if follow { client.get_waiting(&path, 20).await? } else { client.get(&path).await? };
        if global.json && follow {
            out(&format!("{page}\n"))?;
        } else if global.json {
            pieces.extend(page.get_mut("items").and_then(Value::as_array_mut).into_iter().flat_map(std::mem::take));
        } else {
            for piece in page.get("items").and_then(Value::as_array).into_iter().flatten() {
                piece_out(piece)?;
            }
        }
        let at = |key: &str| page.get(key).and_then(Value::as_u64);
        let next = (at("stdout_next").unwrap_or(stdout_from), at("stderr_next").unwrap_or(stderr_from));
        let ended = page.get("ended").and_then(Value::as_bool).unwrap_or(true);
        let moved = next != (stdout_from, stderr_from);
        (stdout_from, stderr_from) = next;
        if ended || !(follow || moved) {
            if let (true, false, Some(whole)) = (global.json, follow, page.as_object_mut()) {
                whole.insert("items".to_owned(), Value::Array(pieces));
                return global.document(&page);
            }
            return Ok(());
        }
    }
}

fn piece_out(piece: &Value) -> Result<()> {
    let text = |key: &str| piece.get(key).and_then(Value::as_str);
    let error = text("stream") == Some("stderr");
    if piece.get("gap").and_then(Value::as_bool) == Some(true) {
        eprintln!("countersign: output from byte {} on is missing", piece["offset"]);
        return Ok(());
    }
    let bytes = match (text("text"), text("base64")) {
        (Some(text), _) => text.as_bytes().to_vec(),
        (None, Some(text)) => STANDARD.decode(text).context("the output is not base64")?,
        (None, None) => Vec::new(),
    };
    let written = if error { std::io::stderr().write_all(&bytes) } else { std::io::stdout().write_all(&bytes) };
    written.context("the output cannot be printed")
}
