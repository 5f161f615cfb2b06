//! `cargo xtask bench`: what the gateway does a second over HTTP, on an empty folder, beside the floor in the same run.
//!
//! Two measurements: governed actions, and evaluations for enforcement points; in both, each answer was synced to disk
//! before it was given. The floor is an axum endpoint that asks Cedar the same question and keeps nothing. Generator,
//! gateway and floor share the machine's cores, and are built as what is shipped is. Figures without the machine and the
//! date that this prints are not figures. Next: `actions.rs`, `evaluations.rs`, then `server.rs`.

#![expect(clippy::indexing_slicing, reason = "a JSON member that is missing reads as null")]
#![expect(clippy::cast_precision_loss, reason = "counts of a benchmark are far below 2^52")]

mod actions;
mod evaluations;
mod exchange;
mod gateway;
mod grants;
mod medians;
mod server;
mod table;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use crate::surroundings::Surroundings;

/// Flags of `bench`.
#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    measurement: Option<Measurement>,
    /// Seconds of each load.
    #[arg(long, default_value_t = 6.0, global = true)]
    seconds: f64,
    /// Passes over the servers, in alternation.
    #[arg(long, default_value_t = 3, global = true, value_parser = clap::value_parser!(u32).range(1..))]
    passes: u32,
    /// Print one JSON object instead of tables.
    #[arg(long, global = true)]
    json: bool,
    /// Build with another profile than what is shipped, to try the benchmark itself out; its figures are worth nothing.
    #[arg(long, default_value = "dist", global = true, hide = true)]
    profile: String,
}

/// What is measured.
#[derive(Subcommand)]
enum Measurement {
    /// Governed actions (the default): authenticated, decided, signed, synced, answered with a receipt.
    Actions,
    /// Evaluations for enforcement points (AuthZEN) with a grant for each of many agents, each on record before its answer.
    #[command(
        after_help = "Examples:\n  cargo xtask bench evaluations                       beside the floor alone\n  \
                      cargo xtask bench evaluations --opa /usr/bin/opa    and beside Open Policy Agent"
    )]
    Evaluations(evaluations::Arguments),
}

/// Measures, and prints what came out.
pub fn run(surroundings: &Surroundings, arguments: &Arguments) -> Result<bool> {
    if let Some(Measurement::Evaluations(arguments)) = &arguments.measurement {
        arguments.check()?;
    }
    build(surroundings, &arguments.profile)?;
    let bench = server::Bench {
        programs: surroundings.target.join(folder_of(&arguments.profile)),
        folder: scratch(surroundings)?,
        seconds: arguments.seconds,
        passes: arguments.passes,
    };
    let measured = measure(&bench, arguments.measurement.as_ref());
    let _ = std::fs::remove_dir_all(&bench.folder);
    let (measured, [probe_before, probe_after]) = measured?;
    let rows: Vec<Value> = measured.rows.iter().map(server::Row::json).collect();
    let beside = measured.beside.into_iter().map(|(name, value)| (name.to_owned(), value));
    let report = json!({
        "machine": machine(),
        "date": command_line("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]),
        "measured": match arguments.measurement {
            None | Some(Measurement::Actions) => "governed actions",
            Some(Measurement::Evaluations(_)) => "evaluations",
        },
        "profile": arguments.profile,
        "durable": "SQLite WAL, synchronous=FULL: COMMIT returns after the sync of the log; a receipt is released after COMMIT",
        "sync_probe_us": { "before": probe_before, "after": probe_after },
        "beside": beside.collect::<Map<_, _>>(),
        "medians": medians::medians(&rows),
        "rows": rows,
    });
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        table::print(&report);
    }
    let wrong = measured.rows.iter().any(|row| row.load["errors"] != json!(0));
    Ok(!wrong)
}

/// The measurement, and the sync probes before and after it.
fn measure(bench: &server::Bench, measurement: Option<&Measurement>) -> Result<(server::Measured, [Value; 2])> {
    let before = server::sync_probe(&bench.folder)?;
    let measured = match measurement {
        None | Some(Measurement::Actions) => actions::run(bench)?,
        Some(Measurement::Evaluations(arguments)) => evaluations::run(bench, arguments)?,
    };
    Ok((measured, [before, server::sync_probe(&bench.folder)?]))
}

fn build(surroundings: &Surroundings, profile: &str) -> Result<()> {
    for arguments in [
        &["build", "--profile", profile, "-p", "countersign"][..],
        &["build", "--profile", profile, "-p", "countersign-tests-testkit", "--examples"][..],
    ] {
        let status = surroundings.cargo(arguments).status()?;
        if !status.success() {
            bail!("`cargo {}` failed", arguments.join(" "));
        }
    }
    Ok(())
}

/// Where cargo puts what it builds with a profile.
fn folder_of(profile: &str) -> &str {
    match profile {
        "dev" | "test" => "debug",
        "bench" => "release",
        other => other,
    }
}

fn scratch(surroundings: &Surroundings) -> Result<PathBuf> {
    let folder = surroundings.target.join(format!("bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn machine() -> Value {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or_default();
    json!({
        "cpu": model.trim_start_matches([' ', '\t', ':']),
        "cores": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        "kernel": command_line("uname", &["-sr"]),
        "load": std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim(),
    })
}

fn command_line(program: &str, arguments: &[&str]) -> String {
    Command::new(program)
        .args(arguments)
        .output()
        .map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
        .unwrap_or_default()
}
