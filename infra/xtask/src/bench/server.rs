//! A server under load: what the generator is told, what the server has used, and the rows that come of it.
//!
//! Absent: how a server is started, and what it is asked (`gateway.rs`, `actions.rs`, `evaluations.rs`). Next: `table.rs`.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::exchange::get;
use crate::surroundings::Stopwatch;

/// Where a run builds, writes, and how long it measures.
pub struct Bench {
    /// The folder of the programs under test.
    pub programs: PathBuf,
    /// A folder of its own.
    pub folder: PathBuf,
    /// Seconds of each measurement.
    pub seconds: f64,
    /// Passes over the servers, in alternation.
    pub passes: u32,
}

impl Bench {
    /// Writes a file of this run.
    pub fn file(&self, name: &str, content: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        std::fs::write(&path, content)?;
        Ok(path)
    }
}

/// What one kind of request came to.
pub struct Measured {
    /// One for each server, load and pass.
    pub rows: Vec<Row>,
    /// What belongs to the figures, by name.
    pub beside: Vec<(&'static str, Value)>,
}

/// One row of the table.
pub struct Row {
    /// Which pass, from 1.
    pub pass: u32,
    /// Which server.
    pub what: &'static str,
    /// What the generator says.
    pub load: Value,
    /// User and system time of the server a request, in microseconds.
    pub cpu_us: f64,
    /// What else the server has used.
    pub extra: Value,
}

impl Row {
    /// As it stands in the report.
    pub fn json(&self) -> Value {
        json!({
            "pass": self.pass, "what": self.what, "load": self.load, "server_cpu_us": self.cpu_us, "extra": self.extra,
        })
    }
}

/// Every answered request left its entry: without that the figures are not of what they say.
pub fn all_on_record(rows: &[Row]) -> Result<()> {
    for row in rows {
        let (requests, entries) = (row.load["requests"].as_f64(), row.extra["entries"].as_f64());
        if entries < requests {
            bail!("{requests:?} requests were answered, and {entries:?} entries were committed");
        }
    }
    Ok(())
}

/// Connections, and requests a second; none: a closed loop.
pub type Load = (u32, Option<u32>);

/// What is sent to a server.
pub struct Requests {
    /// Bearer token.
    pub token: String,
    /// File of paths, one a line, taken in turn.
    pub targets: PathBuf,
    /// File of bodies, one a line, taken in turn.
    pub bodies: PathBuf,
    /// What every answer has in it.
    pub expect: &'static str,
}

/// A program that serves, killed when this is dropped.
pub struct Process {
    child: Child,
    /// Where it listens.
    pub address: String,
    /// What it has written, removed with it: what it left to be written back would cost whoever is measured next.
    pub data: Option<PathBuf>,
}

impl Process {
    /// Starts a program that will listen at `address`, and waits until `path` answers 200 there.
    pub fn start(command: &mut Command, address: String, path: &str) -> Result<Self> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let child = child.with_context(|| format!("`{}` does not start", command.get_program().display()))?;
        let process = Self { child, address, data: None };
        let begun = Stopwatch::start();
        while get(&process.address, path).map_or(true, |(status, _)| status != 200) {
            if begun.elapsed() > Duration::from_mins(1) {
                bail!("`{}` is not ready after 60 s", command.get_program().display());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(process)
    }

    /// A program that says itself where it listens.
    pub fn announced(mut child: Child) -> Result<Self> {
        let mut address = String::new();
        let output = child.stdout.take().context("a program without output")?;
        std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut address)?;
        if address.trim().is_empty() {
            bail!("the program ended before it listened: {}", child.wait()?);
        }
        Ok(Self { child, address: address.trim().to_owned(), data: None })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(data) = &self.data {
            let _ = std::fs::remove_dir_all(data);
        }
    }
}

/// A server with what it is sent.
pub struct Server {
    /// Its name in the table.
    pub what: &'static str,
    /// The program.
    pub process: Process,
    /// What is sent.
    pub requests: Requests,
}

impl Server {
    /// Warms it up, then measures each load.
    pub fn measure(&self, bench: &Bench, pass: u32, loads: &[Load]) -> Result<Vec<Row>> {
        self.load(&bench.programs, 8, 1.0, None)?;
        loads.iter().map(|load| self.row(bench, pass, *load)).collect()
    }

    fn row(&self, bench: &Bench, pass: u32, (connections, rate): Load) -> Result<Row> {
        let probe = if self.process.data.is_some() { sync_probe(&bench.folder)? } else { Value::Null };
        // The peak is of this load alone. Linux, `Documentation/filesystems/proc.rst`: 5 resets it.
        let _ = std::fs::write(format!("/proc/{}/clear_refs", self.process.child.id()), "5");
        let before = self.figures();
        let load = self.load(&bench.programs, connections, bench.seconds, rate)?;
        let after = self.figures();
        let requests = load["requests"].as_f64().unwrap_or(1.0).max(1.0);
        let cpu_us = (after.cpu_s - before.cpu_s) * 1e6 / requests;
        eprintln!(
            "  {} {connections:>2} connections {}: {:.0}/s, p50 {:.0} us, {cpu_us:.0} us of server CPU each",
            self.what,
            rate.map_or("closed".to_owned(), |rate| format!("at {rate}/s")),
            load["per_s"].as_f64().unwrap_or(0.0),
            load["p50_us"].as_f64().unwrap_or(0.0),
        );
        if load["unsent"] != json!(0) {
            eprintln!("  {} more were due and not sent any more", load["unsent"]);
        }
        if let Some(sample) = load["error_sample"].as_str() {
            eprintln!("  wrong answer: {sample}");
        }
        let grown = |name: &str| after.metric(name) - before.metric(name);
        let extra = json!({
            "sync_probe_us": probe,
            "peak_rss_mb": after.peak_rss_kb * 1024 / 1_000_000,
            "written_bytes_each": (after.written - before.written) as f64 / requests,
            "commits": grown("countersign_ledger_commits_total"),
            "syncs": grown("countersign_ledger_syncs_total"),
            "entries": grown("countersign_ledger_entries_total"),
            "batches": grown_batches(&before.metrics, &after.metrics),
        });
        Ok(Row { pass, what: self.what, load, cpu_us, extra })
    }

    fn load(&self, programs: &Path, connections: u32, seconds: f64, rate: Option<u32>) -> Result<Value> {
        let Requests { token, targets, bodies, expect } = &self.requests;
        let output = Command::new(programs.join("examples/load"))
            .args(["--address", &self.process.address, "--targets"])
            .arg(targets)
            .args(["--token", token, "--bodies"])
            .arg(bodies)
            .args(["--connections", &connections.to_string(), "--seconds", &seconds.to_string()])
            .args(["--rate", &rate.unwrap_or(0).to_string(), "--expect", expect])
            .stderr(Stdio::inherit())
            .output()?;
        serde_json::from_slice(&output.stdout).context("the generator printed no report")
    }

    fn figures(&self) -> Figures {
        let pid = self.process.child.id();
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
        let metrics = get(&self.process.address, "/metrics").map(|(_, body)| body).unwrap_or_default();
        Figures {
            // utime and stime are fields 14 and 15; the name, field 2, was cut off with what is before it.
            cpu_s: (ticks(11) + ticks(12)) / 100.0,
            peak_rss_kb: number(&read("status"), "VmHWM"),
            written: number(&read("io"), "write_bytes"),
            metrics,
        }
    }
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
        let series = self.metrics.lines().filter(|line| line.starts_with(name));
        series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

/// How many commits had at least so many entries, and fewer than the next line's: what was added between two readings of a
/// gateway's metrics.
fn grown_batches(before: &str, after: &str) -> Vec<Value> {
    let batches = |metrics: &str| -> BTreeMap<u64, u64> {
        let series = metrics.lines().filter_map(|line| line.strip_prefix("countersign_ledger_batches_total{least=\""));
        series
            .filter_map(|rest| {
                let (least, count) = rest.split_once("\"} ")?;
                Some((least.parse().ok()?, count.trim().parse().ok()?))
            })
            .collect()
    };
    let before = batches(before);
    let grown = batches(after).into_iter().map(|(least, count)| (least, count - before.get(&least).unwrap_or(&0)));
    grown.filter(|(_, count)| *count > 0).map(|(least, count)| json!({ "least": least, "commits": count })).collect()
}

/// Median and 99th percentile of appending 4 KiB and syncing, in microseconds.
pub fn sync_probe(folder: &Path) -> Result<Value> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_histogram_is_what_a_load_added_to_it() {
        let before =
            "countersign_ledger_batches_total{least=\"1\"} 5\ncountersign_ledger_batches_total{least=\"2\"} 1\n";
        let after = "# HELP countersign_ledger_batches Batches by number of entries.\n\
                     countersign_ledger_batches_total{least=\"1\"} 5\ncountersign_ledger_batches_total{least=\"2\"} 4\n\
                     countersign_ledger_batches_total{least=\"4\"} 2\ncountersign_ledger_batches_total{least=\"8\"} 0\n";
        let grown = grown_batches(before, after);
        assert_eq!(grown, [json!({ "least": 2, "commits": 3 }), json!({ "least": 4, "commits": 2 })]);
    }
}
