//! Governed actions: one request is authenticated, decided by Cedar, signed, synced, and answered with its receipt.
//!
//! Gateway and floor are asked for the same action, spread over the same number of instances. Next: `server.rs`.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use serde_json::json;

use super::exchange::text;
use super::gateway::Gateway;
use super::server::{Bench, Load, Measured, Process, Requests, Server};

/// Instances that actions are spread over.
const INSTANCES: usize = 64;

const LOADS: [Load; 6] = [(1, None), (8, None), (64, None), (64, Some(1_000)), (64, Some(5_000)), (64, Some(10_000))];

/// Measures gateway and floor in alternation.
pub fn run(bench: &Bench) -> Result<Measured> {
    let mut rows = Vec::new();
    for pass in 1..=bench.passes {
        rows.extend(gateway(bench, pass)?.measure(bench, pass, &LOADS)?);
        rows.extend(floor(bench)?.measure(bench, pass, &LOADS)?);
    }
    Ok(Measured { rows, beside: Vec::new() })
}

/// A gateway with one agent and running instances.
fn gateway(bench: &Bench, pass: u32) -> Result<Server> {
    let mut gateway = Gateway::start(bench, pass)?;
    let agent = json!({
        "id": "bench", "display_name": "Bench", "owner": "bench", "autonomy": 2, "scopes": ["notes:write"],
    });
    gateway.call("/api/v1/agents", &agent)?;
    gateway.call("/api/v1/workflows", &json!({ "id": "bench", "version": "1" }))?;
    let token = gateway.credential("agent:bench")?;
    let mut targets = Vec::with_capacity(INSTANCES);
    for _ in 0..INSTANCES {
        let made = gateway.call("/api/v1/instances", &json!({ "workflow": "bench", "agent": "bench" }))?;
        targets.push(format!("/api/v1/instances/{}/actions", text(&made["instance"]["id"])?));
    }
    Ok(Server { what: "gateway", process: gateway.process, requests: requests(bench, "gateway", token, &targets)? })
}

fn floor(bench: &Bench) -> Result<Server> {
    let child = Command::new(bench.programs.join("examples/floor")).stdout(Stdio::piped()).spawn();
    let process = Process::announced(child.context("the floor does not start")?)?;
    let targets: Vec<String> = (0..INSTANCES).map(|n| format!("/api/v1/instances/inst_{n:032x}/actions")).collect();
    Ok(Server { what: "floor", process, requests: requests(bench, "floor", "none".to_owned(), &targets)? })
}

fn requests(bench: &Bench, what: &str, token: String, targets: &[String]) -> Result<Requests> {
    let body = json!({ "actions": [{ "tool": "notes.append", "input": { "text": "one governed action" } }] });
    Ok(Requests {
        token,
        targets: bench.file(&format!("{what}.targets"), &targets.join("\n"))?,
        bodies: bench.file(&format!("{what}.bodies"), &body.to_string())?,
        expect: "",
    })
}
