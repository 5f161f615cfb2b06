//! The ledger: evidence out of it, a full check of it, and `verify`, which needs nothing but a pack and a key.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use countersign_gateway_engine::pack_of;
use countersign_ledger_log::{Logs, LogsConfig};
use countersign_ledger_sql::{SqlJournal, SqlOptions};
use countersign_ledger_verify::{MAX_PACK, Report, too_large, verify as verify_pack};
use countersign_runners_contract::entry::key::{VKey, origin, root_name};
use countersign_runners_contract::entry::note::{Checkpoint, Note};
use countersign_runners_contract::entry::{Entry, payload};
use serde_json::json;

use super::{Global, USAGE, query};
use crate::clock::SystemClock;
use crate::folder::{DataFolder, read_mark};
use crate::keys::{FileRing, Keys};
use crate::mint;

/// Most bytes of a key or a note.
const MAX_TEXT: u64 = 64 * 1024;

/// Entries looked at a time.
const PAGE: u64 = 1024;

/// Checks an evidence pack from its bytes alone: no network, no database, no clock, no configuration.
///
/// Exit codes: 0 VALID, 1 INVALID (tampered with, truncated, over limits), 2 INCONCLUSIVE, 64 wrong usage.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  countersign verify audit.evidence --key root.vkey")]
pub(crate) struct Verify {
    /// The pack.
    file: PathBuf,
    /// The root key that you were given out of band: the vkey itself, or a file that holds it.
    #[arg(long)]
    key: String,
    /// A checkpoint of the same log that you hold from before: a signed note in a file.
    #[arg(long, value_name = "FILE")]
    known: Option<PathBuf>,
}

pub(crate) fn verify(args: &Verify, json: bool) -> ExitCode {
    let done = || -> Result<(String, u8), String> {
        let root = root_key(&args.key)?;
        let known = args.known.as_deref().map(|path| known_note(path, &root)).transpose()?;
        let named = |e: std::io::Error| format!("`{}`: {e}", args.file.display());
        let file = File::open(&args.file).map_err(named)?;
        let report = if file.metadata().map_err(named)?.len() > MAX_PACK {
            too_large(&root)
        } else {
            let mut pack = Vec::new();
            // One byte more than is looked at, for files that do not say how long they are.
            file.take(MAX_PACK + 1).read_to_end(&mut pack).map_err(named)?;
            verify_pack(&root, &pack, known.as_deref())
        };
        Ok((rendered(&report, json)?, report.verdict.exit_code()))
    };
    match done() {
        Ok((text, code)) => {
            // Whoever closed the pipe still gets the exit code.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::from(code)
        }
        Err(message) => {
            let _ = writeln!(std::io::stderr(), "countersign: {message}");
            ExitCode::from(USAGE)
        }
    }
}

fn rendered(report: &Report, json: bool) -> Result<String, String> {
    if json { Ok(serde_json::to_string_pretty(report).map_err(|e| e.to_string())? + "\n") } else { Ok(report.render()) }
}

/// A vkey, or a file that holds one.
fn root_key(given: &str) -> Result<VKey, String> {
    if let Ok(key) = given.trim().parse() {
        return Ok(key);
    }
    let text = read_text(Path::new(given)).map_err(|_| format!("--key: `{given}` is neither a vkey nor a file"))?;
    text.trim().parse().map_err(|e| format!("--key: {e}; give a vkey or a file that holds one"))
}

/// A note that can be compared at all; anything else would accuse the pack of what is wrong with the question.
fn known_note(path: &Path, root: &VKey) -> Result<String, String> {
    let note = read_text(path)?;
    let parsed = Note::parse(&note).and_then(|note| Checkpoint::parse(note.text));
    let checkpoint = parsed.map_err(|e| format!("--known: `{}`: {e}", path.display()))?;
    if root_name(&checkpoint.origin) == root.name() {
        Ok(note)
    } else {
        Err(format!("--known: `{}` is a checkpoint of log `{}`, not of --key's", path.display(), checkpoint.origin))
    }
}

fn read_text(path: &Path) -> Result<String, String> {
    let named = |e: std::io::Error| format!("`{}`: {e}", path.display());
    let mut text = String::new();
    File::open(path).map_err(named)?.take(MAX_TEXT).read_to_string(&mut text).map_err(named)?;
    Ok(text)
}

/// The ledger.
#[derive(Debug, Subcommand)]
pub(crate) enum Ledger {
    /// Check a whole ledger from its bytes: every hash, signature, transition and payload. The gateway must be down
    #[command(after_help = "Example:\n  countersign ledger fsck --data-dir ./countersign-data")]
    Fsck {
        /// The data folder.
        #[arg(long, value_name = "FOLDER")]
        data_dir: Option<PathBuf>,
    },
    /// Export the evidence pack of the whole log
    #[command(after_help = "Example:\n  countersign ledger pack --out audit.evidence")]
    Pack {
        /// Where to write it.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Payloads too: what people and agents wrote, and what policy was asked.
        #[arg(long)]
        disclose: bool,
        /// Read this data folder instead of asking a gateway, which must be down then.
        #[arg(long, value_name = "FOLDER")]
        data_dir: Option<PathBuf>,
    },
}

/// A ledger that is read and not served.
struct Offline {
    logs: Logs,
    keys: Arc<Keys>,
    folder: DataFolder,
}

async fn offline(data_dir: Option<&PathBuf>, global: &Global) -> Result<Offline> {
    let flags: Vec<_> = data_dir.iter().map(|d| ("data.dir", d.display().to_string(), "--data-dir")).collect();
    let config = global.load(&flags)?.config;
    let mark = read_mark(&config.data.dir.join("countersign.json"))
        .with_context(|| format!("`{}` is no data folder", config.data.dir.display()))?;
    let folder = DataFolder::open(&config.data.dir, &mark.origin, mark.demo)?;
    let name = origin(&mark.origin, mark.log).context("the log's origin line")?;
    let keys = Arc::new(Keys::open(&folder.keys(), mark.log, &name, false)?);
    let mut options = SqlOptions::new(folder.ledger());
    options.reserve = 0;
    let journal = Arc::new(SqlJournal::open(options).await?);
    let log_config = LogsConfig::new(&mark.origin, mark.gateway, Arc::new(SystemClock), Arc::new(mint::ledger_entropy));
    let logs = Logs::open(journal, log_config, Arc::new(FileRing::of(Arc::clone(&keys)))).await?;
    Ok(Offline { logs, keys, folder })
}

pub(crate) async fn ledger(verb: Ledger, global: &Global) -> Result<ExitCode> {
    match verb {
        Ledger::Fsck { data_dir } => fsck(data_dir.as_ref(), global).await,
        Ledger::Pack { out, disclose, data_dir } => {
            let bytes = if data_dir.is_some() {
                let ledger = offline(data_dir.as_ref(), global).await?;
                let log = ledger.logs.log(ledger.folder.mark.org).await?;
                let bytes = pack_of(&log, &**ledger.logs.keys(), disclose).await?;
                ledger.logs.shutdown().await?;
                bytes
            } else {
                let query = query(&[("disclose", disclose.then_some("true"))], None);
                global.client()?.bytes(&format!("/api/v1/audit/pack{query}")).await?
            };
            std::fs::write(&out, &bytes).with_context(|| format!("`{}` cannot be written", out.display()))?;
            global.answer(&json!({ "pack": out, "bytes": bytes.len() }))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn fsck(data_dir: Option<&PathBuf>, global: &Global) -> Result<ExitCode> {
    let ledger = offline(data_dir, global).await?;
    let log = ledger.logs.log(ledger.folder.mark.org).await.context("the log does not verify")?;
    let pack = pack_of(&log, &**ledger.logs.keys(), false).await?;
    let root = ledger.keys.root_vkey().clone();
    let report = tokio::task::spawn_blocking(move || verify_pack(&root, &pack, None)).await.context("the verifier")?;

    let size = log.checkpoint().checkpoint().size;
    let (mut held, mut erased, mut damaged) = (0_u64, 0_u64, Vec::new());
    let mut from = 0;
    while from < size {
        let page = log.entries(from..size.min(from + PAGE)).await?;
        if page.is_empty() {
            break;
        }
        for stored in &page {
            let header = match Entry::parse(&stored.leaf) {
                Ok(entry) => entry.header,
                Err(error) => {
                    damaged.push(format!("entry {}: {error}", stored.index));
                    continue;
                }
            };
            for reference in &header.payloads {
                match log.payload(stored.index, &reference.digest).await? {
                    None => erased += 1,
                    Some(bytes) if payload::digest(&bytes) == reference.digest => held += 1,
                    Some(_) => {
                        damaged.push(format!("entry {}: payload `{}` has other bytes", stored.index, reference.digest));
                    }
                }
            }
            from = stored.index + 1;
        }
    }
    ledger.logs.shutdown().await?;
    let good = report.verdict.exit_code() == 0 && damaged.is_empty();
    global.answer(&json!({
        "verdict": report.verdict.as_str(), "entries": size, "problems": report.problems,
        "payloads": { "held": held, "absent": erased, "damaged": damaged },
    }))?;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
