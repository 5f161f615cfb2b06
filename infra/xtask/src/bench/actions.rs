//! Governed actions: one request is authenticated, decided by Cedar, signed, synced, and answered with its receipt.
//!
//! Gateway and floor are asked for the same action, spread over the same number of instances. Next: `server.rs`.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::exchange::{Connection, text};
use super::gateway::Gateway;
use super::server::{Bench, Load, Measured, Process, Requests, Server, all_on_record};

/// Instances that actions are spread over.
const INSTANCES: usize = 64;

const LOADS: [Load; 6] = [(1, None), (8, None), (64, None), (64, Some(1_000)), (64, Some(5_000)), (64, Some(10_000))];

/// Measures gateway and floor in alternation.
pub fn run(bench: &Bench) -> Result<Measured> {
    let mut rows = Vec::new();
    for pass in 1..=bench.passes {
        let measured = gateway(bench, pass)?.measure(bench, pass, &LOADS)?;
        all_on_record(&measured)?;
        rows.extend(measured);
        rows.extend(floor(bench)?.measure(bench, pass, &LOADS)?);
    }
    Ok(Measured { rows, beside: Vec::new() })
}

/// A gateway with one agent and running instances.
fn gateway(bench: &Bench, pass: u32) -> Result<Server> {
    let mut gateway = Gateway::start(bench, pass)?;
    let agent = json!({
        "id": "bench", "display_name": "Bench", "owner": "bench", "autonomy": 2, "scopes": ["notes:write", "repo:read"],
    });
    gateway.call("/api/v1/agents", &agent)?;
    gateway.call("/api/v1/workflows", &json!({ "id": "bench", "version": "1" }))?;
    let token = gateway.credential("agent:bench")?;
    let mut targets = Vec::with_capacity(INSTANCES);
    for _ in 0..INSTANCES {
        let made = gateway.call("/api/v1/instances", &json!({ "workflow": "bench", "agent": "bench" }))?;
        targets.push(format!("/api/v1/instances/{}/actions", text(&made["instance"]["id"])?));
    }
    let requests = requests(bench, "gateway", (token, &targets), "\"status\":\"permitted\"")?;
    let server = Server { what: "gateway", process: gateway.process, requests };
    answers_as_decided(&server, &targets, "\"receipt\":{", "policy-denied")?;
    Ok(server)
}

fn floor(bench: &Bench) -> Result<Server> {
    let child = Command::new(bench.programs.join("examples/floor")).stdout(Stdio::piped()).spawn();
    let process = Process::announced(child.context("the floor does not start")?)?;
    let targets: Vec<String> = (0..INSTANCES).map(|n| format!("/api/v1/instances/inst_{n:032x}/actions")).collect();
    let requests = requests(bench, "floor", ("none".to_owned(), &targets), "\"decision\":\"allow\"")?;
    let server = Server { what: "floor", process, requests };
    answers_as_decided(&server, &targets, "\"decision\":\"allow\"", "\"decision\":\"deny\"")?;
    Ok(server)
}

fn requests(
    bench: &Bench,
    what: &str,
    (token, targets): (String, &[String]),
    expect: &'static str,
) -> Result<Requests> {
    Ok(Requests {
        token,
        targets: bench.file(&format!("{what}.targets"), &targets.join("\n"))?,
        bodies: bench.file(&format!("{what}.bodies"), &allowed().to_string())?,
        expect,
    })
}

/// What is sent all the time.
fn allowed() -> Value {
    json!({ "actions": [{ "tool": "notes.append", "input": { "text": "one governed action" } }] })
}

/// A server that lets everything pass, or that does not decide, would be fast: one action that policy allows and one that
/// it denies before anything is measured.
fn answers_as_decided(server: &Server, targets: &[String], yes: &str, no: &str) -> Result<()> {
    let denied = json!({ "actions": [{ "tool": "repo.read", "input": { "path": "credentials" } }] });
    let mut connection = Connection::open(&server.process.address)?;
    let target = targets.first().context("no target")?;
    for (body, expected) in [(allowed(), yes), (denied, no)] {
        let (status, answer) = connection.send("POST", target, &server.requests.token, body.to_string().as_bytes())?;
        ensure!(answer.contains(expected), "{} answered {status} {answer} to {body}: no {expected}", server.what);
    }
    Ok(())
}
