//! Evaluations for enforcement points, each on record before it is answered, beside the floor and OPA with the same grants.
//!
//! The gateway gets its grants as a user would give them: agents, a tool and an enforcement point are registered, and
//! the default bundle with a file of grants is checked and activated. The floor gets the same file, OPA the same grants
//! as data that it looks up by key; both keep nothing. Next: `grants.rs`, `server.rs`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde_json::{Value, json};

use super::exchange::{Connection, free_address, get, text};
use super::gateway::Gateway;
use super::grants::{Grants, REGO, tool};
use super::server::{Bench, Load, Measured, Process, Requests, Server, all_on_record};
use crate::surroundings::{Stopwatch, is_executable};

const LOADS: [Load; 5] = [(1, None), (8, None), (64, None), (64, Some(1_000)), (64, Some(5_000))];

/// Agents are registered over this many connections.
const REGISTRARS: usize = 8;

/// Where AuthZEN has its one question.
const EVALUATION: &str = "/access/v1/evaluation";

/// Flags of `bench evaluations`.
#[derive(Args)]
pub struct Arguments {
    /// Agents, each with one grant in a policy of its own.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(2..))]
    grants: u32,
    /// The program of Open Policy Agent, to be measured in the same run.
    #[arg(long, value_name = "PROGRAM")]
    opa: Option<PathBuf>,
}

impl Arguments {
    /// What can be known to be wrong before anything is built.
    pub fn check(&self) -> Result<()> {
        if let Some(opa) = &self.opa {
            ensure!(is_executable(opa), "`{}` is no program: name OPA's own", opa.display());
        }
        Ok(())
    }
}

/// Measures gateway, floor and OPA in alternation.
pub fn run(bench: &Bench, arguments: &Arguments) -> Result<Measured> {
    let grants = Grants(arguments.grants);
    let mut rows = Vec::new();
    let mut activations = Vec::new();
    for pass in 1..=bench.passes {
        let (gateway, organization, activation) = gateway(bench, pass, grants)?;
        eprintln!("  gateway: {activation}");
        activations.push(activation);
        let measured = gateway.measure(bench, pass, &LOADS)?;
        all_on_record(&measured)?;
        rows.extend(measured);
        drop(gateway);
        rows.extend(floor(bench, grants, &organization)?.measure(bench, pass, &LOADS)?);
        if let Some(program) = &arguments.opa {
            rows.extend(opa(bench, program, grants)?.measure(bench, pass, &LOADS)?);
        }
    }
    let mut beside = vec![("grants", json!(grants.0)), ("activations", json!(activations))];
    if let Some(program) = &arguments.opa {
        let output = Command::new(program).arg("version").output()?;
        let version = String::from_utf8_lossy(&output.stdout);
        beside.push(("opa", json!(version.lines().next().unwrap_or_default())));
    }
    Ok(Measured { rows, beside })
}

/// A gateway where the grants are in force; with its organization, and what the activation took.
fn gateway(bench: &Bench, pass: u32, grants: Grants) -> Result<(Server, String, Value)> {
    let mut gateway = Gateway::start(bench, pass)?;
    let info: Value = serde_json::from_str(&get(&gateway.process.address, "/api/v1/info")?.1)?;
    let organization = text(&info["organization"])?;
    register_agents(&gateway, grants)?;
    gateway.call("/api/v1/tools", &json!({ "tools": [tool()] }))?;
    let activation = activate(bench, &mut gateway, grants.policies(&organization))?;
    let service =
        json!({ "id": "point", "display_name": "Enforcement point", "owner": "bench", "scopes": ["evaluate"] });
    gateway.call("/api/v1/services", &service)?;
    let token = gateway.credential("service:point")?;
    let requests = requests(bench, token, EVALUATION, grants, |body| body, "\"decision\":true")?;
    let server = Server { what: "gateway", process: gateway.process, requests };
    answers_as_granted(&server, EVALUATION, grants, |body| body, "decision")?;
    Ok((server, organization, activation))
}

fn register_agents(gateway: &Gateway, grants: Grants) -> Result<()> {
    let ids: Vec<String> = grants.agents().collect();
    let (address, person) = (gateway.process.address.as_str(), gateway.person.as_str());
    let register = |ids: &[String]| -> Result<()> {
        let mut connection = Connection::open(address)?;
        for id in ids {
            let agent = json!({ "id": id, "display_name": id, "owner": "bench", "autonomy": 1, "scopes": [] });
            connection.call("/api/v1/agents", person, &agent)?;
        }
        Ok(())
    };
    let failed = |_| anyhow::anyhow!("a thread that registers agents failed");
    thread::scope(|scope| {
        let shares: Vec<_> = ids.chunks(ids.len().div_ceil(REGISTRARS)).collect();
        let threads: Vec<_> = shares.into_iter().map(|share| scope.spawn(move || register(share))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(failed)?)
    })
}

/// Puts the default bundle with the grants beside it in force, as a person does: checked, its difference confirmed, activated.
fn activate(bench: &Bench, gateway: &mut Gateway, grants: String) -> Result<Value> {
    let folder = bench.folder.join("bundle");
    if !folder.exists() {
        let made =
            Command::new(bench.programs.join("countersign")).args(["policy", "default"]).arg(&folder).output()?;
        ensure!(made.status.success(), "no default bundle: {}", String::from_utf8_lossy(&made.stderr));
    }
    let mut files = BTreeMap::new();
    read_below(&folder, "", &mut files)?;
    // The catalogue is no part of a bundle.
    files.remove("tools/catalogue.json");
    files.insert("policies/grants.cedar".to_owned(), grants);
    let draft = json!({ "format": "countersign-draft/1", "files": files }).to_string();
    let person = gateway.person.clone();
    let begun = Stopwatch::start();
    let checked = gateway.connection.post("/api/v1/policies/check", &person, draft.as_bytes())?;
    let check = begun.elapsed();
    let path = format!("/api/v1/policies/activate?confirmed_diff={}", text(&checked["diff_digest"])?);
    let begun = Stopwatch::start();
    gateway.connection.post(&path, &person, draft.as_bytes())?;
    let activation = begun.elapsed();
    let milliseconds = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Ok(json!({
        "draft_bytes": draft.len(), "check_ms": milliseconds(check), "activate_ms": milliseconds(activation),
    }))
}

/// Every file below a folder, by its path from there.
fn read_below(folder: &Path, prefix: &str, files: &mut BTreeMap<String, String>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().display());
        if entry.file_type()?.is_dir() {
            read_below(&entry.path(), &format!("{name}/"), files)?;
        } else {
            files.insert(name, std::fs::read_to_string(entry.path())?);
        }
    }
    Ok(())
}

fn floor(bench: &Bench, grants: Grants, organization: &str) -> Result<Server> {
    let agents: Vec<String> = grants.agents().collect();
    let child = Command::new(bench.programs.join("examples/floor"))
        .args(["--organization", organization, "--policies"])
        .arg(bench.file("grants.cedar", &grants.policies(organization))?)
        .arg("--tool")
        .arg(bench.file("tool.json", &tool().to_string())?)
        .arg("--agents")
        .arg(bench.file("agents", &agents.join("\n"))?)
        .stdout(Stdio::piped())
        .spawn();
    let process = Process::announced(child.context("the floor does not start")?)?;
    let requests = requests(bench, "none".to_owned(), EVALUATION, grants, |body| body, "\"decision\":true")?;
    let server = Server { what: "floor", process, requests };
    answers_as_granted(&server, EVALUATION, grants, |body| body, "decision")?;
    Ok(server)
}

/// OPA with the same grants as data, and without a decision log.
fn opa(bench: &Bench, program: &Path, grants: Grants) -> Result<Server> {
    const ALLOW: &str = "/v1/data/countersign/bench/allow";
    let address = free_address()?;
    let mut command = Command::new(program);
    command
        .args(["run", "--server", "--log-level", "error", "--disable-telemetry", "--addr", &address])
        .arg(bench.file("grants.rego", REGO)?)
        .arg(bench.file("grants.json", &grants.data().to_string())?);
    let process = Process::start(&mut command, address, "/health")?;
    let input = |body| json!({ "input": body });
    let requests = requests(bench, "none".to_owned(), ALLOW, grants, input, "\"result\":true")?;
    let server = Server { what: "opa", process, requests };
    answers_as_granted(&server, ALLOW, grants, input, "result")?;
    Ok(server)
}

fn requests(
    bench: &Bench,
    token: String,
    target: &str,
    grants: Grants,
    form: impl Fn(Value) -> Value,
    expect: &'static str,
) -> Result<Requests> {
    let bodies: Vec<String> = grants.granted().into_iter().map(|body| form(body).to_string()).collect();
    Ok(Requests {
        token,
        targets: bench.file("targets", target)?,
        bodies: bench.file("bodies", &bodies.join("\n"))?,
        expect,
    })
}

/// A server that says yes to everything, or no, would be fast: one of each before anything is measured.
fn answers_as_granted(
    server: &Server,
    target: &str,
    grants: Grants,
    form: impl Fn(Value) -> Value,
    member: &str,
) -> Result<()> {
    let mut connection = Connection::open(&server.process.address)?;
    let granted = grants.granted().into_iter().next().context("no request")?;
    for (body, expected) in [(granted, true), (grants.ungranted(), false)] {
        let answer = connection.call(target, &server.requests.token, &form(body))?;
        ensure!(answer[member] == json!(expected), "{} answered {answer} where {expected} is right", server.what);
    }
    Ok(())
}
