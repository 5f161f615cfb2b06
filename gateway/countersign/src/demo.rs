//! The demo: one governed piece of work from beginning to end, and an auditor's look at it.
//!
//! Everything in it is real but three things: the agent follows a script instead of a model, the person may be a stand-in
//! (and the log says so in its first entry), and the repository is a scenario that is compiled in. It goes through the
//! HTTP API like anybody else. Absent: shortcuts.

use std::io::{BufRead as _, BufReader, IsTerminal as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use countersign_gateway_http::Phase;
use countersign_gateway_identity::NewPerson;
use countersign_gateway_model::Name;
use countersign_runners_contract::Resources;
use countersign_runners_process::Level;
use countersign_runners_process::agent::{AgentProcess, AgentSpec};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::agent;
use crate::client::Client;
use crate::config::Config;
use crate::gateway::{FIRST_ROLES, Gateway, Options};
use crate::serve::{self, Transport};
use crate::text::plain;

/// The scenario's repository, as the agent's workspace is when it starts.
const REPOSITORY: [(&str, &str, bool); 4] = [
    ("README.md", include_str!("../../../tests/scenarios/fix_test_failure/repository/README.md"), false),
    ("add.sh", include_str!("../../../tests/scenarios/fix_test_failure/repository/add.sh"), true),
    ("credentials", include_str!("../../../tests/scenarios/fix_test_failure/repository/credentials"), false),
    ("test.sh", include_str!("../../../tests/scenarios/fix_test_failure/repository/test.sh"), true),
];

/// The demo's human and agent.
const PERSON: &str = "newcomer";
const AGENT: &str = "fixer";
const WORKFLOW: &str = "fix-test-failure";

/// All of it must be done by then.
const LONGEST: Duration = Duration::from_mins(4);

/// How the demo is run.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  countersign demo --yes --data-dir /tmp/countersign-demo")]
pub(crate) struct Args {
    /// Keep everything in this folder, which must be new or a demo's; without it a temporary folder is used.
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
    /// Approve as the demo's stand-in human instead of asking.
    #[arg(long)]
    yes: bool,
}

/// What happened, for `--json`.
#[derive(Debug, Default, serde::Serialize)]
struct Summary {
    instance_id: String,
    entries: u64,
    states: Vec<String>,
    denied: u64,
    approved: u64,
    /// Verdicts that were computed again, and came out the same.
    replayed: u64,
    pack: Option<PathBuf>,
    vkey: String,
    verdict: String,
    tampered_verdict: String,
}

/// Says what happens, where somebody reads along.
struct Teller {
    quiet: bool,
    begun: Instant,
}

impl Teller {
    fn line(&self, text: &str) {
        if !self.quiet {
            println!("{text}");
        }
    }

    fn head(&self, text: &str) {
        self.line(&format!("\n[{:>5.1} s] {text}", self.begun.elapsed().as_secs_f32()));
    }

    fn block(&self, text: &str) {
        for line in plain(text).lines() {
            self.line(&format!("          | {line}"));
        }
    }
}

/// Runs the demo. True: everything held.
pub(crate) async fn run(args: Args, json: bool) -> Result<bool> {
    #[expect(clippy::disallowed_methods, reason = "how long the demo takes is for the person who watches")]
    let teller = Teller { quiet: json, begun: Instant::now() };
    let temporary = match &args.data_dir {
        Some(_) => None,
        None => Some(tempfile::Builder::new().prefix("countersign-demo-").tempdir().context("no temporary folder")?),
    };
    let data = match (&args.data_dir, &temporary) {
        (Some(folder), _) => folder.clone(),
        (None, Some(folder)) => folder.path().join("data"),
        (None, None) => bail!("there is no folder to work in"),
    };
    let mut config = Config::default();
    config.data.dir.clone_from(&data);
    config.data.reserve_bytes = 1 << 20;
    config.listen.address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));

    let work = tokio::time::timeout(LONGEST, whole(&args, &config, &teller)).await;
    let (mut summary, held) = work.map_err(|_| anyhow!("the demo did not end within {} s", LONGEST.as_secs()))??;
    match temporary {
        Some(folder) => {
            summary.pack = keep_pack(summary.pack.as_deref(), &summary.instance_id)?;
            drop(folder);
            if let Some(pack) = &summary.pack {
                teller.line(&format!(
                    "\nThe ledger was temporary and is gone; its evidence is kept:\n  countersign verify {} --key '{}'",
                    pack.display(),
                    summary.vkey
                ));
            }
        }
        None => teller.line(&format!("\nEverything is kept in {}", data.display())),
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&summary)?);
    }
    Ok(held)
}

/// Moves the evidence out of a folder that is about to go.
fn keep_pack(pack: Option<&Path>, instance: &str) -> Result<Option<PathBuf>> {
    let Some(pack) = pack else { return Ok(None) };
    let kept = std::env::temp_dir().join(format!("countersign-demo-{instance}.evidence"));
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&kept)
        .with_context(|| format!("`{}` cannot be written", kept.display()))?;
    file.write_all(&std::fs::read(pack)?)?;
    Ok(Some(kept))
}

async fn whole(args: &Args, config: &Config, teller: &Teller) -> Result<(Summary, bool)> {
    teller.line("countersign demo: an agent fixes a failing test, and can do nothing that is not decided, recorded and provable");
    let (listener, transport) = serve::bind(&config.listen).await?;
    let address = listener.local_addr()?;
    teller.head(&format!(
        "the gateway starts on http://{address} with an empty ledger, marked as a demo in its first entry"
    ));
    let gateway = Gateway::open(config, &Options { demo: true, address, begin: None, offline: false }).await?;
    let handle = serve::handle();
    let server =
        tokio::spawn(serve::serve(listener, transport_plain(&transport)?, (*handle).clone(), gateway.router()));
    gateway.set(Phase::Ready);

    let outcome = scenario(args, config, &gateway, &format!("http://{address}"), teller).await;
    gateway.set(Phase::Draining);
    handle.graceful_shutdown(Some(Duration::from_secs(2)));
    let served = server.await.context("the server ended early")?;
    let closed = gateway.close().await;
    let done = outcome?;
    served?;
    closed?;
    Ok(done)
}

fn transport_plain(transport: &Transport) -> Result<Transport> {
    match transport {
        Transport::Plain => Ok(Transport::Plain),
        Transport::Tls(..) => bail!("the demo listens on loopback, in the clear"),
    }
}

async fn scenario(
    args: &Args,
    config: &Config,
    gateway: &Gateway,
    url: &str,
    teller: &Teller,
) -> Result<(Summary, bool)> {
    let runner = gateway.runner().context("the process runner is switched off: the demo needs it")?;
    let level = runner.level();
    if !walls(level, runner.minimum()) {
        let doctor = runner.doctor().context("the machine cannot be examined")?;
        bail!(without_walls(level, doctor.advice.iter().map(|advice| (advice.what.as_str(), advice.fix.as_str()))));
    }
    teller.line(&format!("          root key (an auditor is given this, and nothing else): {}", gateway.root_vkey()));
    teller.line(&format!("          sandbox level of this machine: {level}"));

    let mut summary = Summary { vkey: gateway.root_vkey().to_owned(), ..Summary::default() };
    let human = human(gateway, url).await?;
    let (agent_token, instance) = prepare(&human, teller).await?;
    summary.instance_id.clone_from(&instance);
    let agent = start_agent(gateway, config, &agent_token, &instance)?;
    follow(args, &human, agent, &instance, &mut summary, teller).await?;
    summary.states = states(&human, &instance).await?;
    let held = audit(gateway, &human, &mut summary, teller).await?;

    let whole = held && is_whole(&summary);
    teller.head(if whole { "all of it held" } else { "something did not hold; see above" });
    Ok((summary, whole))
}

/// Whether an agent may be run here at all.
fn walls(level: Level, minimum: Option<Level>) -> bool {
    level >= Level::L1 && minimum.is_some()
}

/// Why the demo does not begin, and what would help: what is missing with what mends it.
fn without_walls<'a>(level: Level, advice: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let advice: Vec<String> = advice.map(|(what, fix)| format!("  - {what}: {fix}")).collect();
    format!(
        "this machine can sandbox nothing (level {level}), and the demo runs no agent without walls. What would help:\n{}",
        advice.join("\n")
    )
}

/// Whether everything has happened that the demo shows.
fn is_whole(summary: &Summary) -> bool {
    summary.states.last().is_some_and(|state| state == "COMPLETED")
        && summary.denied == 1
        && summary.approved == 1
        && summary.replayed > 0
}

/// Makes the demo's human, who has no password and is believed in this log only.
async fn human(gateway: &Gateway, url: &str) -> Result<Client> {
    let (org, now, id) = (gateway.org(), gateway.engine.now(), Name::new(PERSON)?);
    if gateway.identity.directory.person(org, &id).await?.is_none() {
        let new = NewPerson {
            id: id.clone(),
            display_name: "The demo's stand-in human".to_owned(),
            roles: FIRST_ROLES.into_iter().map(Name::new).collect::<Result<Vec<_>, _>>()?,
            teams: Vec::new(),
            groups: Vec::new(),
            person: Some(id.clone()),
            password: None,
            demo: true,
        };
        gateway.identity.directory.create_person(org, new, None, now).await?;
    }
    let grant = gateway.identity.tokens.demo_login(org, &id, "act decide", now).await?;
    Client::new(Some(url), Some(grant.token.expose()))
}

/// Workflow, agent, credential, workspace, instance: what a person sets up before an agent works.
async fn prepare(human: &Client, teller: &Teller) -> Result<(String, String)> {
    teller.head("a person registers a workflow and an agent, uploads the repository, and starts an instance");
    let workflow = json!({
        "id": WORKFLOW, "version": "1", "title": "Fix a failing test", "materiality": 1,
        "tools": ["repo.list", "repo.read", "repo.write_patch", "repo.run_tests", "repo.merge"],
    });
    human.post("/api/v1/workflows", &workflow).await?;
    if human.get(&format!("/api/v1/agents/{AGENT}")).await.is_err() {
        let agent = json!({
            "id": AGENT, "display_name": "The demo's agent", "owner": PERSON, "autonomy": 1,
            "scopes": ["repo:read", "repo:write", "repo:test", "repo:merge"],
        });
        human.post("/api/v1/agents", &agent).await?;
    }
    let account = json!({ "bound_to": format!("agent:{AGENT}"), "expires_s": 3600 });
    let account = human.post("/api/v1/service-accounts", &account).await?;
    let credentials = json!({
        "client_id": text(&account, "/service_account/client_id")?,
        "client_secret": text(&account, "/client_secret")?,
    });
    let token = human.anonymous().post("/api/v1/tokens/client-credentials", &credentials).await?;
    let files: Vec<Value> = REPOSITORY
        .iter()
        .map(|(path, content, executable)| json!({ "path": path, "text": content, "executable": executable }))
        .collect();
    let workspace = human.post("/api/v1/workspaces", &json!({ "files": files })).await?;
    let new = json!({
        "workflow": WORKFLOW, "agent": AGENT, "workspace": text(&workspace, "/workspace")?,
        "labels": { "scenario": "fix_test_failure" }, "deadline_s": 900,
    });
    let created = human.post("/api/v1/instances", &new).await?;
    let id = text(&created, "/instance/id")?;
    teller.line(&format!("          instance {id} is {}", text(&created, "/instance/state")?));
    Ok((text(&token, "/access_token")?, id))
}

fn text(value: &Value, pointer: &str) -> Result<String> {
    let found = value.pointer(pointer).and_then(Value::as_str);
    found.map(str::to_owned).with_context(|| format!("the gateway's answer has no `{pointer}`"))
}

fn start_agent(gateway: &Gateway, config: &Config, token: &str, instance: &str) -> Result<AgentProcess> {
    let runner = gateway.runner().context("the process runner is switched off: the demo needs it")?;
    let folder = gateway.folder.path.join("runner").join(format!("agent-{instance}"));
    hand_over(&folder.join("inputs"), token, config.runner.uid).context("the agent cannot be given its token")?;
    let spec = AgentSpec {
        program: Some(PathBuf::from("/proc/self/exe")),
        arguments: ["__agent", "--instance", instance].into_iter().map(Into::into).collect(),
        env: std::collections::BTreeMap::new(),
        folder,
        read_only: Vec::new(),
        resources: Resources::default(),
    };
    runner.start_agent(spec).context("the agent cannot be started in its sandbox")
}

/// Puts the token where only the agent reads it: an argument would be seen by everybody on the machine.
fn hand_over(inputs: &Path, token: &str, uid: u32) -> Result<()> {
    std::fs::create_dir_all(inputs)?;
    let path = inputs.join(agent::TOKEN);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o400).open(&path)?;
    file.write_all(token.as_bytes())?;
    // As root, the agent becomes another user.
    if file.metadata()?.uid() == 0 {
        std::os::unix::fs::fchown(&file, Some(uid), None)?;
    }
    Ok(())
}

/// Reads what the agent says, tells it, and answers for the person at the gate.
async fn follow(
    args: &Args,
    human: &Client,
    mut agent: AgentProcess,
    instance: &str,
    summary: &mut Summary,
    teller: &Teller,
) -> Result<()> {
    let (send, mut steps) = mpsc::channel::<Value>(64);
    let stdout = agent.take_stdout().context("the agent has no standard output")?;
    let stderr = agent.take_stderr().context("the agent has no standard error")?;
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if send.blocking_send(serde_json::from_str(&line).unwrap_or(Value::String(line))).is_err() {
                return;
            }
        }
    });
    let complaints = std::thread::spawn(move || {
        BufReader::new(stderr).lines().map_while(Result::ok).collect::<Vec<String>>().join("\n")
    });
    while let Some(step) = steps.recv().await {
        let facts = step.get("facts").cloned().unwrap_or(Value::Null);
        let part = |name: &str| facts.get(name).cloned().unwrap_or_default();
        let field = |name: &str| facts.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        match step.get("step").and_then(Value::as_str).unwrap_or_default() {
            "surroundings" => {
                teller.head("the agent starts in a sandbox: another process of this program, with the gateway's door and nothing else");
                teller.line(&format!(
                    "          it sees: environment {}, network {}, homes {}",
                    plain(&part("environment").to_string()),
                    if part("network") == json!(true) { "OPEN" } else { "none" },
                    plain(&part("homes").to_string()),
                ));
                if part("network") == json!(true) {
                    bail!("the agent reaches the network: its sandbox does not hold");
                }
            }
            "asks" => {
                let input = plain(&part("input").to_string());
                teller.head(&format!("the agent asks: {} {input}", plain(&field("tool"))));
            }
            "allowed" => teller.line(&format!(
                "          allowed; the permit and its start are on record (entry {}); a runner carries it out",
                part("entry")
            )),
            "outcome" => {
                teller.line(&format!("          outcome: {}", plain(&field("outcome"))));
                teller.block(&field("output"));
            }
            "refused" => {
                summary.denied += 1;
                teller.line(&format!(
                    "          DENIED ({}): {}; the refusal is on record",
                    plain(&field("code")),
                    plain(&field("detail"))
                ));
            }
            "waiting" => {
                teller.line("          a person must approve; the agent waits");
                decide(args, human, &field("gate"), summary, teller).await?;
            }
            "completed" => teller.head(&format!("the instance is {}", plain(&field("state")))),
            _ => teller.block(&step.to_string()),
        }
    }
    let code = tokio::task::spawn_blocking(move || agent.wait()).await.context("the agent")??;
    if code != 0 {
        let complaints = complaints.join().unwrap_or_default();
        bail!("the agent ended with code {code} in instance {instance}:\n{}", plain(&complaints));
    }
    Ok(())
}

/// The person at the gate: asked in a terminal, also where the summary is JSON; else the stand-in.
async fn decide(args: &Args, human: &Client, gate: &str, summary: &mut Summary, teller: &Teller) -> Result<()> {
    let shown = human.get(&format!("/api/v1/gates/{}", crate::client::segment(gate)?)).await?;
    let view = text(&shown, "/view")?;
    let asks = !args.yes && std::io::stdin().is_terminal();
    teller.head("the approval view, as whoever decides reads it (its digest goes into the decision)");
    teller.block(&view);
    let justification = if asks {
        if teller.quiet {
            // Standard output is for the summary alone; whoever is asked reads what about all the same.
            eprintln!("{}", plain(&view));
        }
        eprint!("\n          Approve the merge? [y/N] ");
        let answer = tokio::task::spawn_blocking(|| {
            let mut line = String::new();
            std::io::stdin().read_line(&mut line).map(|_| line)
        });
        let answer = answer.await.context("the terminal")??;
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            let body = json!({
                "decision": "REJECT", "shown_digest": shown.get("shown_digest"),
                "justification": "Rejected at the terminal of the demo",
            });
            human.post(&format!("/api/v1/gates/{gate}/decisions"), &body).await?;
            bail!("you rejected the merge, and that ended the instance; run the demo again to see the rest");
        }
        "Approved at the terminal of the demo"
    } else {
        let said =
            "nobody is asked: the demo's stand-in human approves, with assurance `demo`, which no other log accepts";
        teller.line(&format!("          {said}"));
        if teller.quiet {
            eprintln!("{said}");
        }
        "Approved by the demo's stand-in human"
    };
    let body = json!({
        "decision": "APPROVE", "shown_digest": shown.get("shown_digest"), "justification": justification,
    });
    let decided = human.post(&format!("/api/v1/gates/{gate}/decisions"), &body).await?;
    summary.approved += 1;
    teller.line(&format!(
        "          APPROVED; the decision is on record (entry {})",
        decided.pointer("/receipt/index").cloned().unwrap_or_default()
    ));
    Ok(())
}

/// The states of an instance in their order, from the entries of its stream.
async fn states(human: &Client, instance: &str) -> Result<Vec<String>> {
    let mut states = vec!["CREATED".to_owned()];
    for entry in entries(human, &format!("&instance={instance}")).await? {
        if entry.get("kind").and_then(Value::as_str) == Some("edge")
            && let Some(to) = entry.pointer("/body/to").or_else(|| entry.pointer("/body/Edge/to"))
        {
            states.push(to.as_str().unwrap_or_default().to_owned());
        }
    }
    Ok(states)
}

/// The entries of the log, or of what the query narrows it to, page for page.
async fn entries(human: &Client, query: &str) -> Result<Vec<Value>> {
    let (mut entries, mut after) = (Vec::new(), String::new());
    loop {
        let mut page = human.get(&format!("/api/v1/audit/entries?limit=200{query}{after}")).await?;
        if let Some(Value::Array(items)) = page.get_mut("items").map(Value::take) {
            entries.extend(items);
        }
        match page.get("next").and_then(Value::as_str) {
            Some(next) => after = format!("&after={}", crate::client::segment(next)?),
            None => return Ok(entries),
        }
    }
}

/// Exports the evidence, and has it checked by a process that knows nothing else; then once more with one bit flipped.
async fn audit(gateway: &Gateway, human: &Client, summary: &mut Summary, teller: &Teller) -> Result<bool> {
    let (same, verdicts) = replayed(human).await?;
    summary.replayed = same;
    teller.head(&format!("{verdicts} verdicts are computed again from what is on record: {same} come out the same"));

    let folder = &gateway.folder.path;
    let pack = folder.join("demo.evidence");
    let bytes = human.bytes("/api/v1/audit/pack").await?;
    std::fs::write(&pack, &bytes).with_context(|| format!("`{}` cannot be written", pack.display()))?;
    teller.head(&format!(
        "the evidence is exported ({} bytes) and verified by another process that has the pack and the root key only",
        bytes.len()
    ));
    let (code, report, words) = verify(&pack, gateway.root_vkey()).await?;
    teller.block(&words);
    report.get("verdict").and_then(Value::as_str).unwrap_or("none").clone_into(&mut summary.verdict);
    summary.entries = report.pointer("/population/to").and_then(Value::as_u64).unwrap_or(0);
    summary.pack = Some(pack);

    let mut tampered = bytes;
    let at = tampered.len() / 2;
    if let Some(byte) = tampered.get_mut(at) {
        *byte ^= 1;
    }
    let copy = folder.join("demo.tampered.evidence");
    std::fs::write(&copy, &tampered).with_context(|| format!("`{}` cannot be written", copy.display()))?;
    teller.head(&format!("one bit of a copy is flipped (byte {at}), and the copy is verified"));
    let (tampered_code, report, words) = verify(&copy, gateway.root_vkey()).await?;
    teller.block(&words);
    report.get("verdict").and_then(Value::as_str).unwrap_or("none").clone_into(&mut summary.tampered_verdict);
    Ok(code == 0 && tampered_code == 1 && same == verdicts)
}

/// Computes every verdict of the log again: how many came out the same, and of how many.
async fn replayed(human: &Client) -> Result<(u64, u64)> {
    let (mut same, mut verdicts) = (0, 0);
    for entry in entries(human, "").await?.iter().filter(|entry| entry.get("verdict").is_some()) {
        let index = entry.get("index").and_then(Value::as_u64).context("an entry without its place")?;
        let again = human.get(&format!("/api/v1/replay/{index}")).await?;
        verdicts += 1;
        same += u64::from(again.get("matches") == Some(&Value::Bool(true)));
    }
    Ok((same, verdicts))
}

/// Verifies in a process of its own, with an empty environment. Gives exit code, report, and the report in words.
async fn verify(pack: &Path, vkey: &str) -> Result<(i32, Value, String)> {
    let (pack, vkey) = (pack.to_owned(), vkey.to_owned());
    let run = move || -> Result<(i32, Value, String)> {
        let once = |json: bool| {
            let mut command = Command::new("/proc/self/exe");
            command.env_clear().current_dir("/").stdin(Stdio::null()).arg("verify").arg(&pack).arg("--key").arg(&vkey);
            if json {
                command.arg("--json");
            }
            command.output().context("the verifier cannot be started")
        };
        let (machine, people) = (once(true)?, once(false)?);
        let report = serde_json::from_slice(&machine.stdout).context("the verifier printed no report")?;
        Ok((machine.status.code().unwrap_or(-1), report, String::from_utf8_lossy(&people.stdout).into_owned()))
    };
    tokio::task::spawn_blocking(run).await.context("the verifier")?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_walls_there_is_no_demo_and_it_says_what_would_help() {
        assert!(!walls(Level::L0, Some(Level::L0)), "a machine without any");
        assert!(!walls(Level::L2, None), "a runner that takes nothing");
        assert!(walls(Level::L1, Some(Level::L1)));
        let said =
            without_walls(Level::L0, [("user namespaces", "sysctl x=1"), ("Landlock", "a newer kernel")].into_iter());
        assert_eq!(
            said,
            "this machine can sandbox nothing (level L0), and the demo runs no agent without walls. What would help:\n  \
             - user namespaces: sysctl x=1\n  - Landlock: a newer kernel"
        );
    }

    type Taking = fn(&mut Summary);

    #[test]
    fn a_demo_of_which_any_part_is_missing_is_not_whole() {
        let good = || Summary {
            states: vec!["CREATED".to_owned(), "COMPLETED".to_owned()],
            denied: 1,
            approved: 1,
            replayed: 20,
            ..Summary::default()
        };
        assert!(is_whole(&good()));
        let without: [(&str, Taking); 6] = [
            ("its end", |summary| summary.states.truncate(1)),
            ("any state", |summary| summary.states.clear()),
            ("the refusal", |summary| summary.denied = 0),
            ("one refusal alone", |summary| summary.denied = 2),
            ("the approval", |summary| summary.approved = 0),
            ("verdicts that come out the same", |summary| summary.replayed = 0),
        ];
        for (what, without) in without {
            let mut summary = good();
            without(&mut summary);
            assert!(!is_whole(&summary), "{what}");
        }
    }
}
