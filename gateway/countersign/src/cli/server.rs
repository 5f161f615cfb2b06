//! `up` and `doctor`: serving, and what this machine is good for.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use countersign_gateway_http::Phase;
use countersign_gateway_model::{Name, OrgId};
use countersign_ledger_log::Journal as _;
use countersign_ledger_sql::{SqlJournal, SqlOptions};
use countersign_runners_contract::{LogTrust, NoSecrets, Trust};
use countersign_runners_process::{Level, ProcessConfig, ProcessRunner, RunUser};
use serde_json::{Value, json};

use super::{Global, out};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::folder::read_mark;
use crate::gateway::{FirstToken, Gateway, Options, level, reachable};
use crate::organizations::{self, Place};
use crate::serve::{self, Transport};

/// Serves a gateway from a data folder: the first start makes keys, ledger, default policy and a one-time token; later
/// starts continue the same log. SIGTERM and SIGINT drain.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  countersign up --data-dir ./countersign-data --listen 127.0.0.1:7777")]
pub(crate) struct Up {
    /// Folder of ledger, keys, policy and runs; made with mode 0700.
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
    /// Address and port; port 0 takes a free one.
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// PEM file with the certificate chain.
    #[arg(long, value_name = "FILE")]
    tls_certificate: Option<PathBuf>,
    /// PEM file with the private key.
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Answer plain HTTP off loopback, where something in front ends TLS.
    #[arg(long)]
    insecure_listen: bool,
    /// File that checkpoints are remembered in, outside the data folder: it shows a rollback.
    #[arg(long, value_name = "FILE")]
    anchor: Option<PathBuf>,
}

impl Up {
    fn flags(&self) -> Vec<(&'static str, String, &'static str)> {
        let path = |path: &PathBuf| path.display().to_string();
        let mut flags = Vec::new();
        let mut flag = |key, value: Option<String>, name| flags.extend(value.map(|value| (key, value, name)));
        flag("data.dir", self.data_dir.as_ref().map(path), "--data-dir");
        flag("listen.address", self.listen.clone(), "--listen");
        flag("listen.tls_certificate", self.tls_certificate.as_ref().map(path), "--tls-certificate");
        flag("listen.tls_key", self.tls_key.as_ref().map(path), "--tls-key");
        flag("listen.insecure", self.insecure_listen.then(|| "true".to_owned()), "--insecure-listen");
        flag("ledger.anchor", self.anchor.as_ref().map(path), "--anchor");
        flags
    }
}

pub(crate) async fn up(args: Up, global: &Global) -> Result<()> {
    let config = global.load(&args.flags())?.config;
    crate::telemetry::begin(&config.log)?;
    let (listener, transport) = serve::bind(&config.listen).await?;
    let address = listener.local_addr().context("the listener has no address")?;
    let gateway = Gateway::open(&config, &Options { demo: false, address, begin: None, offline: false }).await?;
    let handle = serve::handle();
    let scheme = if matches!(transport, Transport::Tls(..)) { "https" } else { "http" };
    let mut server = tokio::spawn(serve::serve(listener, transport, (*handle).clone(), gateway.router()));
    let tokens = gateway.first_tokens().await?;
    let watching = config.policy.watch.clone().map(|path| {
        let every = Duration::from_secs(config.policy.watch_s.max(1));
        tokio::spawn(crate::watching::watching(gateway.engine.clone(), gateway.org(), path, every))
    });
    gateway.set(Phase::Ready);
    greet(&gateway, &format!("{scheme}://{}", reachable(address)), &tokens, global)?;

    let ended = tokio::select! {
        reason = serve::asked_to_end() => Ok(reason?),
        served = &mut server => Err(served),
    };
    match ended {
        Ok(reason) => {
            tracing::info!(reason, "draining");
            gateway.set(Phase::Draining);
            handle.graceful_shutdown(Some(Duration::from_secs(config.listen.drain_s)));
            // Requests under way are answered, or their time is over.
            server.await.context("the server ended early")??;
        }
        Err(served) => {
            gateway.set(Phase::Draining);
            served.context("the server ended early")??;
        }
    }
    if let Some(watching) = watching {
        watching.abort();
    }
    gateway.close().await?;
    tracing::info!("ended in good order");
    Ok(())
}

fn greet(gateway: &Gateway, url: &str, tokens: &[FirstToken], global: &Global) -> Result<()> {
    let terminal = std::io::stdout().is_terminal();
    let level = gateway.runner().map(|runner| runner.level().as_str());
    if global.json {
        // The token itself is in its file: standard output may be kept by a supervisor for ever.
        let file = |org: OrgId| tokens.iter().find(|t| t.place.org == org).map(|t| t.place.enrolment());
        let organizations: Vec<Value> = gateway
            .organizations
            .iter()
            .map(|each| {
                let Place { name, org, .. } = &each.place;
                json!({ "name": name, "organization": org, "root_vkey": each.root_vkey, "enrolment_token_file": file(*org) })
            })
            .collect();
        let document = json!({
            "url": url, "docs": format!("{url}/docs"), "root_vkey": gateway.root_vkey(),
            "organization": gateway.org(), "organizations": organizations, "data": gateway.folder.path,
            "fresh": gateway.folder.fresh, "enrolment_token_file": file(gateway.org()),
            "sandbox_level": level, "adopted_runs": gateway.adopted,
        });
        return out(&format!("{document}\n"));
    }
    let mut text = format!(
        "countersign {} serves {}\n  documentation  {url}/docs\n  root key       {}\n  sandbox level  {}\n",
        env!("CARGO_PKG_VERSION"),
        gateway.folder.path.display(),
        gateway.root_vkey(),
        level.unwrap_or("no process runner"),
    );
    // Writing to a text cannot fail.
    if gateway.adopted > 0 {
        let _ = writeln!(text, "  adopted runs   {}", gateway.adopted);
    }
    for other in gateway.organizations.iter().skip(1) {
        let Place { name, org, .. } = &other.place;
        let _ = writeln!(text, "  organization   {name}: {org}, root key {}", other.root_vkey);
    }
    for token in tokens {
        let (until, file, name) = (token.expires, token.place.enrolment(), &token.place.name);
        let of = if token.place.org == gateway.org() { String::new() } else { format!(" of organization `{name}`") };
        let _ =
            write!(text, "\nNobody{of} can log in yet. The first person enrols with a one-time token, until {until}");
        let _ = if terminal { writeln!(text, ":\n  {}", token.token) } else { writeln!(text, ".") };
        let path = file.display();
        let _ = writeln!(
            text,
            "It is in {path} (readable by you alone). In another terminal:\n  \
             countersign enrol person --server {url} --token-file {path} --id YOUR-NAME"
        );
        if token.place.org != gateway.org() {
            let _ = writeln!(text, "  countersign login YOUR-NAME --server {url} --organization {}", token.place.org);
        }
    }
    if gateway.runner().is_some_and(|runner| runner.level() == Level::L0) {
        text.push_str("\nThis machine can sandbox nothing, so no run is taken: see `countersign doctor`.\n");
    }
    out(&text)
}

/// Says what this machine can do, and what would make it better. Changes nothing.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  countersign doctor --data-dir ./countersign-data")]
pub(crate) struct Doctor {
    /// The data folder to look at.
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
}

/// One thing that was looked at.
struct Finding {
    what: &'static str,
    good: bool,
    facts: String,
    fix: String,
}

/// Nobody's orders are taken while the doctor looks.
struct Nobody;

impl Trust for Nobody {
    fn of(&self, _: OrgId) -> Option<LogTrust> {
        None
    }
}

pub(crate) async fn doctor(args: Doctor, global: &Global) -> Result<ExitCode> {
    let flags: Vec<_> = args.data_dir.iter().map(|d| ("data.dir", d.display().to_string(), "--data-dir")).collect();
    let config = global.load(&flags)?.config;
    let place = existing(&config.data.dir);
    let folder = tempfile::Builder::new().prefix(".countersign-doctor-").tempdir_in(&place);
    let folder = folder.or_else(|_| tempfile::tempdir()).context("no folder can be made to look from")?;
    let mut findings = sandbox(&config, folder.path()).await?;
    findings.extend(ledger(&config, folder.path()).await);
    findings.push(permissions(&config.data.dir));
    findings.push(clock());
    let good = findings.iter().all(|finding| finding.good);
    if global.json {
        let list: Vec<Value> = findings
            .iter()
            .map(|f| json!({ "what": f.what, "good": f.good, "facts": f.facts, "fix": f.fix }))
            .collect();
        global.document(&json!({ "good": good, "findings": list }))?;
    } else {
        for finding in &findings {
            let mark = if finding.good { "ok  " } else { "SEE " };
            out(&format!("{mark} {:<12} {}\n", finding.what, finding.facts))?;
            if !finding.fix.is_empty() {
                out(&format!("                  -> {}\n", finding.fix))?;
            }
        }
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The nearest folder that is there.
fn existing(path: &Path) -> PathBuf {
    let mut at = Some(path);
    while let Some(path) = at {
        if path.is_dir() {
            return path.to_owned();
        }
        at = path.parent();
    }
    PathBuf::from(".")
}

async fn sandbox(config: &Config, folder: &Path) -> Result<Vec<Finding>> {
    let mut process = ProcessConfig::new(folder.join("runner"), Name::new("process")?);
    process.user = RunUser { uid: config.runner.uid, gid: config.runner.uid };
    process.minimum = config.runner.min_level.and_then(level);
    let look = move || -> Result<_> {
        let runner = ProcessRunner::open(
            process,
            std::sync::Arc::new(Nobody),
            std::sync::Arc::new(NoSecrets),
            std::sync::Arc::new(SystemClock),
        )?;
        Ok(runner.doctor()?)
    };
    let doctor = tokio::task::spawn_blocking(look).await.context("the sandbox")??;
    let facts: Vec<String> = doctor.facts.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let good = doctor.level >= config.runner.min_level.and_then(level).unwrap_or(Level::L1).max(Level::L1);
    let mut findings = vec![Finding {
        what: "sandbox",
        good,
        facts: format!("level {} ({})", doctor.level, facts.join(", ")),
        fix: String::new(),
    }];
    for advice in doctor.advice {
        // Advice on a machine that holds well enough is advice; below that it is what is wrong.
        findings.push(Finding { what: "advice", good, facts: advice.what, fix: advice.fix });
    }
    Ok(findings)
}

async fn ledger(config: &Config, folder: &Path) -> Vec<Finding> {
    let mut options = SqlOptions::new(folder.join("ledger"));
    options.reserve = 0;
    let journal = match SqlJournal::open(options).await {
        Ok(journal) => journal,
        Err(error) => {
            let fix = "the ledger cannot be kept there; choose another folder with --data-dir".to_owned();
            return vec![Finding { what: "ledger", good: false, facts: crate::words(&error), fix }];
        }
    };
    let free = journal.stats().free_bytes;
    let version = journal.sqlite_version().await;
    let _ = journal.close().await;
    let version = match version {
        Ok(version) => version,
        Err(error) => {
            let fix = "the ledger cannot be read there; choose another folder with --data-dir".to_owned();
            return vec![Finding { what: "ledger", good: false, facts: crate::words(&error), fix }];
        }
    };
    let wanted = config.data.reserve_bytes.saturating_mul(4);
    let enough = free.is_none_or(|free| free > wanted);
    vec![
        Finding {
            what: "ledger",
            good: true,
            facts: format!("SQLite {version} and the file system are fit for it"),
            fix: String::new(),
        },
        Finding {
            what: "disk",
            good: enough,
            facts: free.map_or_else(|| "free room is not known".to_owned(), |free| format!("{} MiB free", free >> 20)),
            fix: if enough {
                String::new()
            } else {
                format!("make room: below {} MiB only stopping is recorded", config.data.reserve_bytes >> 20)
            },
        },
    ]
}

/// Folders of keys with the files in them: the first organization's, which also has the token key, and all others'.
fn secret_paths(data: &Path) -> Vec<PathBuf> {
    let mut folders = vec![data.join("keys")];
    if let Ok(mark) = read_mark(&data.join("countersign.json")) {
        let places = organizations::all(data, &mark).unwrap_or_default();
        let installation = organizations::installation(data, &mark).ok();
        folders.extend(places.iter().chain(&installation).map(Place::keys));
    }
    folders.dedup();
    let files = |folder: &PathBuf| ["root.key", "log.key", "token.key"].map(|file| folder.join(file));
    let files: Vec<PathBuf> = folders.iter().flat_map(files).collect();
    [vec![data.to_owned()], folders, files].concat()
}

fn permissions(data: &Path) -> Finding {
    use std::os::unix::fs::PermissionsExt as _;
    let mut open = Vec::new();
    for path in secret_paths(data) {
        if let Ok(meta) = std::fs::metadata(&path)
            && meta.permissions().mode() & 0o077 != 0
        {
            open.push(format!("`{}` ({:o})", path.display(), meta.permissions().mode() & 0o777));
        }
    }
    let there = data.exists();
    Finding {
        what: "folder",
        good: open.is_empty(),
        facts: match (there, open.is_empty()) {
            (false, _) => format!("`{}` is not there yet", data.display()),
            (true, true) => format!("`{}` is closed to others", data.display()),
            (true, false) => format!("open to others: {}", open.join(", ")),
        },
        fix: if open.is_empty() {
            String::new()
        } else {
            "`chmod go-rwx` them; treat keys that somebody may have read as stolen".to_owned()
        },
    }
}

fn clock() -> Finding {
    use countersign_gateway_model::Clock as _;
    let now = SystemClock.now();
    // Nobody runs this program before it was written.
    let sane = now.0 > 1_767_225_600_000;
    let synchronized = Path::new("/run/systemd/timesync/synchronized").exists() || Path::new("/run/chrony").exists();
    let source = if synchronized { "kept by a time service" } else { "no time service was recognised" };
    Finding {
        what: "clock",
        good: sane,
        facts: format!("{now}, {source}"),
        fix: if sane {
            String::new()
        } else {
            "set the clock: entries carry the time, and it may not go back".to_owned()
        },
    }
}
