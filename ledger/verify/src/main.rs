//! `countersign-verify`: the auditor's program. One pack, one root key; no network, no database, no clock.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use countersign_ledger_verify::{MAX_PACK, MAX_TEXT, check_known, root_key, too_large, verify};

/// Wrong usage, as `sysexits.h` has it.
const USAGE: u8 = 64;

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
            return ExitCode::from(if usage { USAGE } else { 0 });
        }
    };
    match run(&args) {
        Ok(code) => code,
        Err(message) => {
            let _ = writeln!(std::io::stderr(), "countersign-verify: {message}");
            ExitCode::from(USAGE)
        }
    }
}

fn run(args: &Args) -> Result<ExitCode, String> {
    let root = root_key(&args.key).or_else(|_| root_key(&key_file(&args.key)?).map_err(|e| format!("--key: {e}")))?;
    let known = args.known.as_deref().map(read_text).transpose()?;
    if let (Some(note), Some(path)) = (&known, &args.known) {
        check_known(note, &root).map_err(|e| format!("--known: `{}`: {e}", path.display()))?;
    }
    let named = |e: std::io::Error| format!("`{}`: {e}", args.file.display());
    let file = File::open(&args.file).map_err(named)?;
    let report = if file.metadata().map_err(named)?.len() > MAX_PACK {
        too_large(&root)
    } else {
        let mut pack = Vec::new();
        // One byte more than is looked at, for files that do not say how long they are.
        file.take(MAX_PACK + 1).read_to_end(&mut pack).map_err(named)?;
        verify(&root, &pack, known.as_deref())
    };
    let text = if args.json {
        serde_json::to_string_pretty(&report).map_err(|e| e.to_string())? + "\n"
    } else {
        report.render()
    };
    // Whoever closed the pipe still gets the exit code.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(ExitCode::from(report.verdict.exit_code()))
}

fn key_file(given: &str) -> Result<String, String> {
    read_text(Path::new(given)).map_err(|_| format!("--key: `{given}` is neither a vkey nor a file"))
}

fn read_text(path: &Path) -> Result<String, String> {
    let named = |e: std::io::Error| format!("`{}`: {e}", path.display());
    let mut text = String::new();
    File::open(path).map_err(named)?.take(MAX_TEXT).read_to_string(&mut text).map_err(named)?;
    Ok(text)
}
