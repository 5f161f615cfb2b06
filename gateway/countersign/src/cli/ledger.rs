//! The ledger: evidence out of it, a full check of it, and `verify`, which needs nothing but a pack and a key.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Error, Result};
use clap::{Args, Subcommand};
use countersign_gateway_engine::pack_of;
use countersign_gateway_model::OrgId;
use countersign_ledger_log::{Journal as _, LogError, LogHandle, Logs, LogsConfig};
use countersign_ledger_sql::{SqlJournal, SqlOptions};
use countersign_ledger_verify::{MAX_PACK, MAX_TEXT, Report, check_known, root_key, too_large, verify as verify_pack};
use countersign_runners_contract::entry::key::origin;
use countersign_runners_contract::entry::{Body, Entry, payload};
use ed25519_dalek::VerifyingKey;
use serde_json::{Value, json};

use super::{Global, USAGE, out, query};
use crate::clock::SystemClock;
use crate::folder::{DataFolder, read_mark};
use crate::gateway::genesis_of;
use crate::installation::{Recorded, compare, genesis_hash, recorded};
use crate::keys::{FileRing, Keys};
use crate::mint;
use crate::organizations::{self, Place, PlaceError};

/// The code of what is wrong with stored bytes.
const LEDGER_DAMAGED: &str = "ledger-damaged";

/// Entries looked at a time.
const PAGE: u64 = 1024;

/// Checks an evidence pack from its bytes alone: no network, no database, no clock, no configuration.
///
/// Exit codes: 0 VALID, 1 INVALID (tampered with, truncated, over limits), 2 INCONCLUSIVE, 64 wrong usage. Each problem
/// has a code of its own; `docs/problems.md` has them all.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  countersign verify audit.evidence --key root.vkey")]
pub(crate) struct Verify {
    /// The pack.
    file: PathBuf,
    /// The root key that you were given out of band: the vkey itself, or a file that holds it.
    #[arg(long)]
    key: String,
    /// What you hold from before: a checkpoint of the same log in a file, or an anchor file as it is.
    #[arg(long, value_name = "FILE")]
    known: Option<PathBuf>,
}

pub(crate) fn verify(args: &Verify, json: bool) -> ExitCode {
    let done = || -> Result<(String, u8)> {
        let root = match root_key(&args.key) {
            Ok(root) => root,
            Err(error) => match read_text(Path::new(&args.key)) {
                Ok(text) => root_key(&text).context("--key")?,
                Err(_) => {
                    return Err(
                        Error::new(error).context(format!("--key: `{}` is neither a vkey nor a file", args.key))
                    );
                }
            },
        };
        let known = args.known.as_deref().map(read_text).transpose()?;
        if let (Some(note), Some(path)) = (&known, &args.known) {
            check_known(note, &root).with_context(|| format!("--known: `{}`", path.display()))?;
        }
        let named = || format!("`{}`", args.file.display());
        let file = File::open(&args.file).with_context(named)?;
        let report = if file.metadata().with_context(named)?.len() > MAX_PACK {
            too_large(&root)
        } else {
            let mut pack = Vec::new();
            // One byte more than is looked at, for files that do not say how long they are.
            file.take(MAX_PACK + 1).read_to_end(&mut pack).with_context(named)?;
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
        Err(error) => {
            super::report(&error, json);
            ExitCode::from(USAGE)
        }
    }
}

fn rendered(report: &Report, json: bool) -> Result<String> {
    if json { Ok(serde_json::to_string_pretty(report)? + "\n") } else { Ok(report.render()) }
}

fn read_text(path: &Path) -> Result<String> {
    let named = || format!("`{}`", path.display());
    let mut text = String::new();
    File::open(path).with_context(named)?.take(MAX_TEXT).read_to_string(&mut text).with_context(named)?;
    Ok(text)
}

/// The ledger.
#[derive(Debug, Subcommand)]
pub(crate) enum Ledger {
    /// Check a whole ledger from its bytes, the installation's log and each organization's: every hash, signature,
    /// transition and payload. The gateway must be down
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
        /// Name of the organization in that folder; else `default`. A gateway is asked for the caller's own.
        #[arg(long, value_name = "NAME", requires = "data_dir")]
        organization: Option<String>,
    },
}

/// A ledger that is read and not served.
pub(super) struct Offline {
    pub(super) logs: Logs,
    /// Every log that has begun, the installation's last.
    pub(super) held: Vec<(Place, Arc<Keys>)>,
    /// Whom the installation's log names.
    installation: OrgId,
    /// Holds the lock.
    _folder: DataFolder,
}

pub(super) async fn offline(data_dir: Option<&PathBuf>, global: &Global) -> Result<Offline> {
    let flags: Vec<_> = data_dir.iter().map(|d| ("data.dir", d.display().to_string(), "--data-dir")).collect();
    let config = global.load(&flags)?.config;
    let mark = read_mark(&config.data.dir.join("countersign.json"))
        .with_context(|| format!("`{}` is no data folder", config.data.dir.display()))?;
    let folder = DataFolder::open(&config.data.dir, &mark.origin, mark.demo)?;
    let mark = folder.mark.clone();
    let mut options = SqlOptions::new(folder.ledger());
    options.reserve = 0;
    let journal = Arc::new(SqlJournal::open(options).await?);
    let mut held = Vec::new();
    let installation = organizations::installation(&folder.path, &mark)?;
    let own = installation.org;
    for place in organizations::all(&folder.path, &mark)?.into_iter().chain([installation]) {
        // One that has not begun has nothing to check; the installation's log says below whether it should have.
        if journal.log_of(place.org).await?.is_some() {
            let name = origin(&mark.origin, place.log).context("the log's origin line")?;
            let keys = Arc::new(Keys::open(&place.keys(), place.log, &name, false)?);
            held.push((place, keys));
        }
    }
    let log_config = LogsConfig::new(&mark.origin, mark.gateway, Arc::new(SystemClock), Arc::new(mint::ledger_entropy));
    let ring = FileRing::of(held.iter().map(|(_, keys)| Arc::clone(keys)));
    let logs = Logs::open(journal, log_config, Arc::new(ring)).await?;
    Ok(Offline { logs, held, installation: own, _folder: folder })
}

pub(crate) async fn ledger(verb: Ledger, global: &Global) -> Result<ExitCode> {
    match verb {
        Ledger::Fsck { data_dir } => fsck(data_dir.as_ref(), global).await,
        Ledger::Pack { out, disclose, data_dir, organization } => {
            let bytes = if data_dir.is_some() {
                let ledger = offline(data_dir.as_ref(), global).await?;
                let name = organization.as_deref().unwrap_or(organizations::DEFAULT);
                let found = ledger.held.iter().find(|(place, _)| place.name.as_str() == name);
                let (place, _) = found.ok_or_else(|| PlaceError::Unknown(name.to_owned()))?;
                let log = ledger.logs.log(place.org).await?;
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
    let (mut good, mut reports, mut here) = (true, Vec::new(), Recorded::new());
    let mut on_record = Recorded::new();
    let mut all_read = true;
    for (place, keys) in &ledger.held {
        let log = match ledger.logs.log(place.org).await {
            Ok(log) => log,
            Err(error)
                if matches!(error, LogError::Damaged { .. } | LogError::Entry { .. } | LogError::Proof { .. }) =>
            {
                reports.push(damaged_log(place, keys, &ledger.logs, &error).await?);
                (good, all_read) = (false, false);
                continue;
            }
            Err(error) => return Err(error).with_context(|| format!("the log of `{}` cannot be read", place.name)),
        };
        let (sound, report) = fsck_log(place, keys, &log, &ledger.logs).await?;
        good &= sound;
        reports.push(report);
        here.insert(place.org, genesis_hash(&genesis_of(&log).await?));
        if place.org == ledger.installation {
            on_record = recorded(&log).await?;
        }
    }
    ledger.logs.shutdown().await?;
    // What the installation's log says of the others is held against all of them, or against nothing.
    let missing = compare(&on_record, &here).err().filter(|_| all_read);
    let missing = missing.map(|error| json!({ "code": error.code(), "detail": error.to_string() }));
    good &= missing.is_none();
    let problems = Vec::from_iter(missing);
    let verdict = if good { "VALID" } else { "INVALID" };
    if global.json {
        global.document(&json!({ "verdict": verdict, "problems": problems, "logs": reports }))?;
    } else {
        for report in &reports {
            global.answer(report)?;
            out("\n")?;
        }
        global.answer(&json!({ "verdict": verdict, "problems": problems }))?;
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What is wrong with a log whose bytes do not lead to what its key signed: that, and each entry that none of its keys signed,
/// which is where to look.
async fn damaged_log(place: &Place, keys: &Keys, logs: &Logs, error: &LogError) -> Result<Value> {
    let detail = match error {
        LogError::Damaged { what, .. } => what.clone(),
        other => crate::words(other),
    };
    let mut problems = vec![json!({ "code": LEDGER_DAMAGED, "detail": detail })];
    let journal = logs.journal();
    let record = journal.log_of(place.org).await?.context("the log has begun")?;
    let (mut signers, mut from) = (vec![*keys.root_vkey().key()], 0);
    while from < record.size {
        let page = journal.entries(record.number, from..record.size.min(from + PAGE)).await?;
        let Some(last) = page.last() else { break };
        from = last.index + 1;
        for stored in &page {
            let why = match Entry::parse(&stored.leaf) {
                Err(error) => Some(error.to_string()),
                Ok(entry) => {
                    if let Body::Boot(boot) = &entry.header.body {
                        signers.extend(VerifyingKey::from_bytes(&boot.key.0));
                    }
                    let signed = || signers.iter().rev().any(|key| entry.verify(&stored.leaf, key).is_ok());
                    (entry.signature.is_some() && !signed())
                        .then(|| "its bytes are not what a key of this log signed".to_owned())
                }
            };
            problems.extend(why.map(|why| json!({ "code": LEDGER_DAMAGED, "entry": stored.index, "detail": why })));
        }
    }
    Ok(json!({ "log": place.name, "verdict": "INVALID", "entries": record.size, "problems": problems }))
}

/// Checks one log as an auditor would, and its payloads beside it. Whether it is sound, and what was found.
async fn fsck_log(place: &Place, keys: &Keys, log: &LogHandle, logs: &Logs) -> Result<(bool, Value)> {
    let pack = pack_of(log, &**logs.keys(), false).await?;
    let root = keys.root_vkey().clone();
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
            from = stored.index + 1;
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
        }
    }
    let sound = report.verdict.exit_code() == 0 && damaged.is_empty();
    let found = json!({
        "log": place.name, "verdict": report.verdict.as_str(), "entries": size, "problems": report.problems,
        "payloads": { "held": held, "absent": erased, "damaged": damaged },
    });
    Ok((sound, found))
}
