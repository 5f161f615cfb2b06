//! The demo's agent: a process that can do nothing but ask the gateway.
//!
//! It is this program executed again, in a sandbox with the gateway's socket and nothing else, with an empty environment
//! but for what the sandbox itself says. It speaks plain HTTP and knows no type of the gateway's. What it does is written
//! down here instead of thought up by a model, so that the demo is the same each time; whatever it asks is decided as if
//! it were. Each step is one line of JSON on standard output.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::environment;

/// Seconds that the gateway may wait for a change before it answers.
const WAIT: u64 = 20;

/// Most rounds of waiting for one thing.
const ROUNDS: usize = 60;

/// The file as the agent writes it: the answer of the scenario.
const PATCHED: &str = include_str!("../../../tests/scenarios/fix_test_failure/answer/add.sh");

/// File among its inputs that holds its token.
pub(crate) const TOKEN: &str = "token";

/// What the agent is told.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The instance that it works in.
    #[arg(long)]
    instance: String,
}

/// Where the gateway is, as the sandbox says.
enum Door {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

struct Agent {
    door: Door,
    token: String,
    instance: String,
    keys: u64,
}

/// What a proposed action came to.
struct Done {
    status: String,
    output: String,
    exit: Option<i64>,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let socket = environment::variable(countersign_runners_process::ENV_SOCKET).map(PathBuf::from).map(Door::Unix);
    let address = || {
        let text = environment::text(countersign_runners_process::ENV_ADDRESS)?;
        text.parse().ok().map(Door::Tcp)
    };
    let door = socket.or_else(address).context("this is the demo's agent: it is started by `countersign demo`")?;
    let inputs = environment::variable(countersign_runners_process::ENV_INPUTS).map(PathBuf::from);
    let path = inputs.context("the agent was given no inputs")?.join(TOKEN);
    let token = std::fs::read_to_string(&path).with_context(|| format!("`{}` cannot be read", path.display()))?;
    let mut agent = Agent { door, token, instance: args.instance, keys: 0 };
    agent.work().await
}

fn say(step: &str, facts: &Value) {
    println!("{}", json!({ "step": step, "facts": facts }));
}

impl Agent {
    async fn work(&mut self) -> Result<()> {
        say("surroundings", &surroundings());
        for path in ["README.md", "add.sh"] {
            let read = self.act("repo.read", json!({ "path": path })).await?;
            self.expect(&read, "succeeded", "repo.read")?;
        }
        let before = self.act("repo.run_tests", json!({})).await?;
        self.expect(&before, "failed", "repo.run_tests")?;
        let patched = self.act("repo.write_patch", json!({ "path": "add.sh", "content": PATCHED })).await?;
        self.expect(&patched, "succeeded", "repo.write_patch")?;
        let after = self.act("repo.run_tests", json!({})).await?;
        self.expect(&after, "succeeded", "repo.run_tests")?;
        self.merge().await?;
        let denied = self.act("repo.read", json!({ "path": "credentials" })).await?;
        self.expect(&denied, "refused", "repo.read")?;
        let path = format!("/api/v1/instances/{}/complete", self.instance);
        let done = self.call(Method::POST, &path, Some(json!({})), None).await?;
        say("completed", &json!({ "state": done.get("state") }));
        Ok(())
    }

    fn expect(&self, done: &Done, status: &str, tool: &str) -> Result<()> {
        if done.status == status {
            return Ok(());
        }
        bail!("`{tool}` came to `{}`, where the scenario has `{status}`: {}", done.status, done.output)
    }

    /// Proposes one action and sees it through.
    async fn act(&mut self, tool: &str, input: Value) -> Result<Done> {
        say("asks", &json!({ "tool": tool, "input": shortened(&input) }));
        let path = format!("/api/v1/instances/{}/actions", self.instance);
        let body = json!({ "actions": [{ "tool": tool, "input": input }], "begin": true });
        let answer = self.call(Method::POST, &path, Some(body), None).await?;
        if let Some(code) = answer.get("code").and_then(Value::as_str) {
            return Ok(self.refused(tool, code, answer.get("detail").and_then(Value::as_str).unwrap_or_default()));
        }
        let action = answer.pointer("/actions/0").context("an answer without its action")?;
        let status = action.get("status").and_then(Value::as_str).unwrap_or_default().to_owned();
        if let Some(refusal) = action.get("refusal") {
            let text = |key: &str| refusal.get(key).and_then(Value::as_str).unwrap_or_default();
            return Ok(self.refused(tool, text("code"), text("detail")));
        }
        let Some(run) = action.get("run").and_then(Value::as_str) else {
            return Ok(Done { status, output: String::new(), exit: None });
        };
        let entry = answer.pointer("/receipt/index").cloned().unwrap_or(Value::Null);
        say("allowed", &json!({ "tool": tool, "run": run, "entry": entry }));
        let done = self.follow(run).await?;
        say("outcome", &json!({ "tool": tool, "outcome": done.status, "exit": done.exit, "output": done.output }));
        Ok(done)
    }

    fn refused(&self, tool: &str, code: &str, detail: &str) -> Done {
        say("refused", &json!({ "tool": tool, "code": code, "detail": detail }));
        Done { status: "refused".to_owned(), output: detail.to_owned(), exit: None }
    }

    /// Waits for a run and reads its output.
    async fn follow(&mut self, run: &str) -> Result<Done> {
        for _ in 0..ROUNDS {
            let record = self.call(Method::GET, &format!("/api/v1/runs/{run}"), None, Some(WAIT)).await?;
            let Some(outcome) = record.get("outcome").and_then(Value::as_str) else { continue };
            let exit = record.get("exit").and_then(Value::as_i64);
            let logs = self.call(Method::GET, &format!("/api/v1/runs/{run}/logs"), None, None).await?;
            let mut output: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
            for piece in logs.get("items").and_then(Value::as_array).into_iter().flatten() {
                let stream = piece.get("stream").and_then(Value::as_str).unwrap_or("stdout");
                let bytes =
                    match (piece.get("text").and_then(Value::as_str), piece.get("base64").and_then(Value::as_str)) {
                        (Some(text), _) => text.as_bytes().to_vec(),
                        (None, Some(text)) => STANDARD.decode(text).unwrap_or_default(),
                        (None, None) => continue,
                    };
                output.entry(stream).or_default().extend(bytes);
            }
            let text = output.into_values().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect();
            return Ok(Done { status: outcome.to_owned(), output: text, exit });
        }
        bail!("run `{run}` does not end")
    }

    /// Asks to merge, waits for people, carries it out itself under the permit, and reports.
    async fn merge(&mut self) -> Result<()> {
        let (tool, input) =
            ("repo.merge", json!({ "branch": "main", "message": "Count the last number without a newline" }));
        say("asks", &json!({ "tool": tool, "input": input }));
        let path = format!("/api/v1/instances/{}/actions", self.instance);
        let body = json!({ "actions": [{ "tool": tool, "input": input }] });
        let answer = self.call(Method::POST, &path, Some(body), None).await?;
        let action = answer.pointer("/actions/0/action").and_then(Value::as_str).map(str::to_owned);
        let action = action.with_context(|| format!("the merge was not taken: {answer}"))?;
        if answer.pointer("/actions/0/status").and_then(Value::as_str) != Some("waiting") {
            bail!("the merge did not wait for a person: {answer}");
        }
        say("waiting", &json!({ "tool": tool, "gate": answer.pointer("/gate/id") }));
        let mut status = String::new();
        for _ in 0..ROUNDS {
            let instance =
                self.call(Method::GET, &format!("/api/v1/instances/{}", self.instance), None, Some(WAIT)).await?;
            if instance.get("gate").is_none_or(Value::is_null) {
                let record = self.call(Method::GET, &format!("/api/v1/actions/{action}"), None, None).await?;
                record.get("status").and_then(Value::as_str).unwrap_or_default().clone_into(&mut status);
                break;
            }
        }
        if status != "permitted" {
            bail!("nobody permitted the merge: it is `{status}`");
        }
        let start = self.call(Method::POST, &format!("/api/v1/actions/{action}/start"), Some(json!({})), None).await?;
        if start.get("first").and_then(Value::as_bool) != Some(true) {
            bail!("the merge may not begin: {start}");
        }
        // The tree that the tests passed on is what is merged; the branch itself is not part of the scenario.
        let instance = self.call(Method::GET, &format!("/api/v1/instances/{}", self.instance), None, None).await?;
        let tree = instance.get("workspace").cloned().unwrap_or(Value::Null);
        let report = json!({ "outcome": "succeeded", "output": { "commit": tree } });
        let recorded =
            self.call(Method::POST, &format!("/api/v1/actions/{action}/outcome"), Some(report), None).await?;
        say(
            "outcome",
            &json!({ "tool": tool, "outcome": recorded.get("outcome"), "output": format!("merged tree {tree}") }),
        );
        Ok(())
    }

    async fn call(&mut self, method: Method, path: &str, body: Option<Value>, wait: Option<u64>) -> Result<Value> {
        self.keys += 1;
        let mut request = Request::builder()
            .method(&method)
            .uri(path)
            .header("host", "gateway")
            .header("authorization", format!("Bearer {}", self.token));
        if let Some(seconds) = wait {
            request = request.header("prefer", format!("wait={seconds}"));
        }
        if method == Method::POST {
            request = request
                .header("content-type", "application/json")
                .header("idempotency-key", format!("demo-{}", self.keys));
        }
        let bytes = body.map(|body| serde_json::to_vec(&body)).transpose()?.unwrap_or_default();
        let request = request.body(Full::new(Bytes::from(bytes)))?;
        let sent = async {
            match &self.door {
                Door::Unix(path) => exchange(UnixStream::connect(path).await?, request).await,
                Door::Tcp(address) => exchange(TcpStream::connect(address).await?, request).await,
            }
        };
        let limit = Duration::from_mins(1);
        let bytes = tokio::time::timeout(limit, sent).await.context("the gateway does not answer")??;
        serde_json::from_slice(&bytes).with_context(|| format!("`{path}` was not answered with JSON"))
    }
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Bytes>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    Ok(response.into_body().collect().await?.to_bytes())
}

/// What this process can see of the machine, so that the sandbox is shown and not only claimed.
fn surroundings() -> Value {
    let names: Vec<String> = environment::variables().map(|(name, _)| name).collect();
    let outside =
        std::net::TcpStream::connect_timeout(&SocketAddr::from(([1, 1, 1, 1], 53)), Duration::from_millis(300));
    let homes = ["/root", "/home"].iter().filter(|path| std::fs::read_dir(path).is_ok_and(|mut d| d.next().is_some()));
    json!({ "environment": names, "network": outside.is_ok(), "homes": homes.collect::<Vec<_>>() })
}

/// An input as one line can show it.
fn shortened(input: &Value) -> Value {
    match input {
        Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| {
                let long = value.as_str().filter(|text| text.len() > 80);
                (key.clone(), long.map_or_else(|| value.clone(), |text| json!(format!("({} bytes)", text.len()))))
            })
            .collect(),
        other => other.clone(),
    }
}
