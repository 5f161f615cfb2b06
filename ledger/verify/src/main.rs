//! `countersign-verify`: the auditor's program. One pack, one root key; no network, no database, no clock.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use countersign_ledger_entry::key::VKey;
use countersign_ledger_verify::{MAX_PACK, verify};

/// Checks an evidence pack from its bytes alone.
///
/// Exit codes: 0 VALID, 1 INVALID (tampered with, truncated, over limits), 2 INCONCLUSIVE, 64 wrong usage.
#[derive(Parser)]
#[command(
    name = "countersign-verify",
    version,
    after_help = "Example:\n  countersign-verify --key countersign.local/3f…/root+9a8b7c6d+AeZ… audit.evidence"
)]
struct Args {
    /// The pack.
    file: PathBuf,
    /// The root key that you were given out of band: the vkey itself, or a file that holds it.
    #[arg(long)]
    key: String,
    /// A checkpoint of the same log that you hold from before: a signed note in a file.
    #[arg(long)]
    known: Option<PathBuf>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let usage = error.use_stderr();
            // Nothing can be done about a closed terminal.
            let _ = error.print();
            return ExitCode::from(if usage { 64 } else { 0 });
        }
    };
    match run(&args) {
        Ok(code) => code,
        Err(message) => {
            eprintln!("countersign-verify: {message}");
            ExitCode::from(64)
        }
    }
}

fn run(args: &Args) -> Result<ExitCode, String> {
    let text = match std::fs::read_to_string(&args.key) {
        Ok(text) => text,
        Err(_) => args.key.clone(),
    };
    let root: VKey = text.trim().parse().map_err(|e| format!("--key: {e}; give a vkey or a file that holds one"))?;
    let known = args.known.as_deref().map(|path| read_text(path)).transpose()?;
    let size = std::fs::metadata(&args.file).map_err(|e| format!("`{}`: {e}", args.file.display()))?.len();
    let report = if size > MAX_PACK {
        verify(&root, &[], known.as_deref())
    } else {
        let pack = std::fs::read(&args.file).map_err(|e| format!("`{}`: {e}", args.file.display()))?;
        verify(&root, &pack, known.as_deref())
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report).map_err(|e| e.to_string())?);
    } else {
        print!("{}", report.render());
    }
    Ok(ExitCode::from(report.verdict.exit_code()))
}

fn read_text(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|e| format!("`{}`: {e}", path.display()))
}
