//! `cargo xtask bench`: governed actions per second, over HTTP, on an empty folder, beside the floor in the same run.
//!
//! A governed action is one request that is authenticated, decided by Cedar, signed, durable (synced), and answered with
//! its receipt. The floor is an axum endpoint that asks Cedar the same question and keeps nothing. Generator, gateway
//! and floor share the machine's cores; nothing is tuned for it. Figures without the machine and the date that this
//! prints are not figures. Absent: peers (they are measured by kits of their own).

#![expect(clippy::indexing_slicing, reason = "a JSON member that is missing reads as null")]
#![expect(clippy::cast_precision_loss, reason = "counts of a benchmark are far below 2^52")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::surroundings::{Stopwatch, Surroundings};

/// Instances that actions are spread over.
const INSTANCES: usize = 64;

/// Password of the benchmark's person.
const PASSWORD: &str = "a long benchmark password 12345";

/// Flags of `bench`.
#[derive(Args)]
pub struct Arguments {
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 6.0)]
    seconds: f64,
    /// Passes over gateway and floor, in alternation.
    #[arg(long, default_value_t = 3)]
    passes: u32,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// One row of the table.
struct Row {
    pass: u32,
    what: &'static str,
    load: Value,
    cpu_us: f64,
    extra: Value,
}

/// Measures, and prints what came out.
pub fn run(surroundings: &Surroundings, arguments: &Arguments) -> Result<bool> {
    build(surroundings)?;
    let programs = surroundings.target.join("release");
    let folder = scratch(surroundings)?;
    let mut rows = Vec::new();
    let probe_before = sync_probe(&folder)?;
    for pass in 1..=arguments.passes {
        let gateway = Server::gateway(&programs, &folder, pass)?;
        measure(&programs, &gateway, pass, arguments.seconds, &mut rows)?;
        drop(gateway);
        let floor = Server::floor(&programs, &folder)?;
        measure(&programs, &floor, pass, arguments.seconds, &mut rows)?;
    }
    let probe_after = sync_probe(&folder)?;
    let _ = std::fs::remove_dir_all(&folder);
    let report = json!({
        "machine": machine(),
        "date": command_line("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]),
        "durable": "SQLite WAL, synchronous=FULL: COMMIT returns after the sync of the log; a receipt is released after COMMIT",
        "sync_probe_us": { "before": probe_before, "after": probe_after },
        "rows": rows.iter().map(|row| json!({
            "pass": row.pass, "what": row.what, "load": row.load, "server_cpu_us": row.cpu_us, "extra": row.extra,
        })).collect::<Vec<_>>(),
    });
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print_table(&report);
    }
    let wrong = rows.iter().any(|row| row.load["errors"] != json!(0));
    Ok(!wrong)
}

fn build(surroundings: &Surroundings) -> Result<()> {
    for arguments in [
        &["build", "--release", "-p", "countersign"][..],
        &["build", "--release", "-p", "countersign-tests-testkit", "--examples"][..],
    ] {
        let status = surroundings.cargo(arguments).status()?;
        if !status.success() {
            bail!("`cargo {}` failed", arguments.join(" "));
        }
    }
    Ok(())
}

fn scratch(surroundings: &Surroundings) -> Result<PathBuf> {
    let folder = surroundings.target.join(format!("bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Loads one server: closed loops with 1, 8 and 64 connections, open loops at fixed rates.
fn measure(programs: &Path, server: &Server, pass: u32, seconds: f64, rows: &mut Vec<Row>) -> Result<()> {
    server.load(programs, 8, 1.0, 0.0)?;
    for (connections, rate) in [(1, 0.0), (8, 0.0), (64, 0.0), (64, 1_000.0), (64, 5_000.0), (64, 10_000.0)] {
        let before = server.figures();
        let load = server.load(programs, connections, seconds, rate)?;
        let after = server.figures();
        let requests = load["requests"].as_f64().unwrap_or(1.0).max(1.0);
        let cpu_us = (after.cpu_s - before.cpu_s) * 1e6 / requests;
        eprintln!(
            "  {} {:>2} connections {}: {:.0}/s, p50 {:.0} us, {:.0} us of server CPU each",
            server.what,
            connections,
            if rate > 0.0 { format!("at {rate}/s") } else { "closed".to_owned() },
            load["per_s"].as_f64().unwrap_or(0.0),
            load["p50_us"].as_f64().unwrap_or(0.0),
            cpu_us
        );
        let extra = json!({
            "peak_rss_mb": after.peak_rss_kb / 1024,
            "written_bytes_each": (after.written - before.written) as f64 / requests,
            "commits": after.metric("countersign_ledger_commits_total") - before.metric("countersign_ledger_commits_total"),
            "syncs": after.metric("countersign_ledger_syncs_total") - before.metric("countersign_ledger_syncs_total"),
            "entries": after.metric("countersign_ledger_entries_total") - before.metric("countersign_ledger_entries_total"),
            "batches": after.histogram("countersign_ledger_batches"),
        });
        rows.push(Row { pass, what: server.what, load, cpu_us, extra });
    }
    Ok(())
}

/// A server under load.
struct Server {
    what: &'static str,
    child: Child,
    address: String,
    token: String,
    targets: PathBuf,
    body: PathBuf,
}

/// What a server has used so far.
struct Figures {
    cpu_s: f64,
    peak_rss_kb: u64,
    written: u64,
    metrics: String,
}

impl Figures {
    /// The sum over all series whose name begins so.
    fn metric(&self, name: &str) -> f64 {
        self.metrics
            .lines()
            .filter(|line| line.starts_with(name) && !line.contains("_bucket"))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    fn histogram(&self, name: &str) -> Vec<String> {
        self.metrics.lines().filter(|l| l.starts_with(name) && l.contains("_bucket")).map(str::to_owned).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn floor(programs: &Path, folder: &Path) -> Result<Self> {
        let mut child =
            Command::new(programs.join("examples/floor")).stdout(Stdio::piped()).spawn().context("the floor")?;
        let mut address = String::new();
        BufReader::new(child.stdout.take().context("its output")?).read_line(&mut address)?;
        let targets: Vec<String> = (0..INSTANCES).map(|n| format!("/api/v1/instances/inst_{n:032x}/actions")).collect();
        Self::ready("floor", child, address.trim().to_owned(), "none".to_owned(), &targets, folder)
    }

    /// A gateway on an empty folder, with one agent and running instances.
    fn gateway(programs: &Path, folder: &Path, pass: u32) -> Result<Self> {
        let data = folder.join(format!("data-{pass}"));
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let address = format!("127.0.0.1:{port}");
        let child = Command::new(programs.join("countersign"))
            .env_clear()
            // One agent makes all the requests here; its rate limit is not what is measured.
            .env("COUNTERSIGN_LIMITS__REQUESTS_PER_SECOND", "1000000")
            .env("COUNTERSIGN_LIMITS__BURST", "1000000")
            .env("COUNTERSIGN_LOG__FILTER", "warn")
            .args(["up", "--listen", &address, "--data-dir"])
            .arg(&data)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("the gateway")?;
        let begun = Stopwatch::start();
        while http(&address, "GET", "/readyz", "", None).map_or(true, |(status, _)| status != 200) {
            if begun.elapsed() > Duration::from_mins(1) {
                bail!("the gateway is not ready after 60 s");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let enrolment = find(&data, "enrol").context("the enrolment token's file")?;
        let token = std::fs::read_to_string(enrolment)?.trim().to_owned();
        let person =
            json!({ "token": token, "id": "bench", "display_name": "Bench", "password": PASSWORD, "person": "bench" });
        call(&address, "/api/v1/enrol/person", "", &person)?;
        let login = json!({ "id": "bench", "password": PASSWORD, "scope": "act" });
        let login = call(&address, "/api/v1/tokens/login", "", &login)?;
        let human = text(&login["access_token"])?;
        let agent = json!({
            "id": "bench", "display_name": "Bench", "owner": "bench", "autonomy": 2, "scopes": ["notes:write"],
        });
        call(&address, "/api/v1/agents", &human, &agent)?;
        call(&address, "/api/v1/workflows", &human, &json!({ "id": "bench", "version": "1" }))?;
        let account = call(&address, "/api/v1/service-accounts", &human, &json!({ "bound_to": "agent:bench" }))?;
        let credentials = json!({
            "client_id": account["service_account"]["client_id"], "client_secret": account["client_secret"],
        });
        let token = text(&call(&address, "/api/v1/tokens/client-credentials", "", &credentials)?["access_token"])?;
        let mut targets = Vec::with_capacity(INSTANCES);
        for _ in 0..INSTANCES {
            let new = json!({ "workflow": "bench", "agent": "bench" });
            let made = call(&address, "/api/v1/instances", &human, &new)?;
            targets.push(format!("/api/v1/instances/{}/actions", text(&made["instance"]["id"])?));
        }
        Self::ready("gateway", child, address, token, &targets, folder)
    }

    fn ready(
        what: &'static str,
        child: Child,
        address: String,
        token: String,
        targets: &[String],
        folder: &Path,
    ) -> Result<Self> {
        let paths = (folder.join(format!("{what}.targets")), folder.join(format!("{what}.body")));
        std::fs::write(&paths.0, targets.join("\n"))?;
        let body = json!({ "actions": [{ "tool": "notes.append", "input": { "text": "one governed action" } }] });
        std::fs::write(&paths.1, body.to_string())?;
        Ok(Self { what, child, address, token, targets: paths.0, body: paths.1 })
    }

    fn load(&self, programs: &Path, connections: u32, seconds: f64, rate: f64) -> Result<Value> {
        let output = Command::new(programs.join("examples/load"))
            .args(["--address", &self.address, "--targets"])
            .arg(&self.targets)
            .args(["--token", &self.token, "--body"])
            .arg(&self.body)
            .args(["--connections", &connections.to_string()])
            .args(["--seconds", &seconds.to_string(), "--rate", &rate.to_string()])
            .stderr(Stdio::inherit())
            .output()?;
        serde_json::from_slice(&output.stdout).context("the generator printed no report")
    }

    fn figures(&self) -> Figures {
        let pid = self.child.id();
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let stat = read("stat");
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
        let number = |text: &str, key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key))
                .and_then(|rest| rest.trim_start_matches(':').split_whitespace().next()?.parse::<u64>().ok())
                .unwrap_or(0)
        };
        let metrics = http(&self.address, "GET", "/metrics", "", None).map(|(_, body)| body).unwrap_or_default();
        Figures {
            // utime and stime are fields 14 and 15; the name, field 2, was cut off with what is before it.
            cpu_s: (ticks(11) + ticks(12)) / 100.0,
            peak_rss_kb: number(&read("status"), "VmHWM"),
            written: number(&read("io"), "write_bytes"),
            metrics,
        }
    }
}

/// Median and 99th percentile of appending 4 KiB and syncing, in microseconds.
fn sync_probe(folder: &Path) -> Result<Value> {
    let path = folder.join("probe");
    let mut file = std::fs::File::create(&path)?;
    let block = [7_u8; 4096];
    let mut taken = Vec::new();
    for _ in 0..400 {
        let begun = Stopwatch::start();
        file.write_all(&block)?;
        file.sync_data()?;
        taken.push(begun.elapsed().as_micros());
    }
    std::fs::remove_file(path)?;
    taken.sort_unstable();
    let at = |q: usize| u64::try_from(taken.get(taken.len() * q / 100).copied().unwrap_or(0)).unwrap_or(0);
    Ok(json!({ "p50": at(50), "p99": at(99) }))
}

/// One request over a fresh connection.
fn http(address: &str, method: &str, path: &str, token: &str, body: Option<&Value>) -> Result<(u16, String)> {
    use std::io::Read as _;
    let mut stream = std::net::TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let body = body.map(Value::to_string).unwrap_or_default();
    let authorization = if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{authorization}Content-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("no header end")?;
    let status = head.get(9..12).context("no status")?.parse()?;
    let body = if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        body.split("\r\n").skip(1).step_by(2).collect()
    } else {
        body.to_owned()
    };
    Ok((status, body))
}

fn call(address: &str, path: &str, token: &str, body: &Value) -> Result<Value> {
    let (status, answer) = http(address, "POST", path, token, Some(body))?;
    if !(200..300).contains(&status) {
        bail!("`{path}` answered {status}: {answer}");
    }
    Ok(serde_json::from_str(&answer)?)
}

fn text(value: &Value) -> Result<String> {
    value.as_str().map(str::to_owned).context("a text was expected")
}

fn find(folder: &Path, part: &str) -> Option<PathBuf> {
    let entries: Vec<PathBuf> = std::fs::read_dir(folder).ok()?.filter_map(|e| Some(e.ok()?.path())).collect();
    let named =
        |path: &&PathBuf| path.is_file() && path.file_name().is_some_and(|n| n.to_string_lossy().contains(part));
    entries.iter().find(named).cloned().or_else(|| entries.iter().filter(|p| p.is_dir()).find_map(|p| find(p, part)))
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

fn print_table(report: &Value) {
    println!("machine      {}", report["machine"]);
    println!("date         {}", report["date"].as_str().unwrap_or_default());
    println!("durable      {}", report["durable"].as_str().unwrap_or_default());
    println!("sync probe   4 KiB append + fdatasync, us: {}", report["sync_probe_us"]);
    println!();
    println!(
        "| pass | what | connections | loop | per s | p50 us | p99 us | p99.9 us | server CPU us | commits | syncs | bytes | peak RSS MB | errors |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for row in report["rows"].as_array().into_iter().flatten() {
        let (load, extra) = (&row["load"], &row["extra"]);
        let whole = |value: &Value| format!("{:.0}", value.as_f64().unwrap_or(0.0));
        let kind = load["offered_per_s"].as_f64().map_or("closed".to_owned(), |rate| format!("open {rate:.0}/s"));
        println!(
            "| {} | {} | {} | {kind} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            row["pass"],
            row["what"].as_str().unwrap_or_default(),
            load["connections"],
            whole(&load["per_s"]),
            whole(&load["p50_us"]),
            whole(&load["p99_us"]),
            whole(&load["p999_us"]),
            whole(&row["server_cpu_us"]),
            whole(&extra["commits"]),
            whole(&extra["syncs"]),
            whole(&extra["written_bytes_each"]),
            extra["peak_rss_mb"],
            load["errors"],
        );
    }
}
