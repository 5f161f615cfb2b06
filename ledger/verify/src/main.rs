//! `countersign-verify`: the auditor's program. One pack, one root key; no network, no database, no clock.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use countersign_ledger_entry::key::VKey;
use countersign_ledger_verify::{GivenError, MAX_PACK, MAX_TEXT, check_known, root_key, too_large, verify};
use serde_json::json;

/// Wrong usage, as `sysexits.h` has it.
const USAGE: u8 = 64;

/// Checks an evidence pack from its bytes alone.
///
/// Exit codes: 0 VALID, 1 INVALID (tampered with, truncated, over limits), 2 INCONCLUSIVE, 64 wrong usage. Each problem
/// has a code of its own; `docs/problems.md` has them all.
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
    /// What you hold from before: a checkpoint of the same log in a file, or an anchor file as it is.
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
        Err(unusable) => {
            unusable.tell(args.json);
            ExitCode::from(USAGE)
        }
    }
}

/// Why what was given beside the pack, or the pack's file, cannot be used. It says nothing about the pack.
struct Unusable {
    text: String,
    /// Where it has a name: the system's own refusals have none.
    code: Option<&'static str>,
}

impl Unusable {
    fn given(place: &str, error: &GivenError) -> Self {
        Self { text: format!("{place}: {error}"), code: Some(error.code()) }
    }

    fn file(path: &Path, error: &std::io::Error) -> Self {
        Self { text: format!("`{}`: {error}", path.display()), code: None }
    }

    /// Nothing can be done about a closed terminal.
    fn tell(&self, json: bool) {
        let Self { text, code } = self;
        let _ = match (json, code) {
            (true, _) => {
                let problem = code.map(|code| json!({ "code": code, "detail": text }));
                writeln!(std::io::stderr(), "{}", json!({ "error": text, "problem": problem }))
            }
            (false, Some(code)) => writeln!(std::io::stderr(), "countersign-verify: {text}\n  problem: {code}"),
            (false, None) => writeln!(std::io::stderr(), "countersign-verify: {text}"),
        };
    }
}

fn run(args: &Args) -> Result<ExitCode, Unusable> {
    let root = root_of(&args.key)?;
    let known = args.known.as_deref().map(read_text).transpose()?;
    if let (Some(note), Some(path)) = (&known, &args.known) {
        check_known(note, &root).map_err(|e| Unusable::given(&format!("--known: `{}`", path.display()), &e))?;
    }
    let named = |e: std::io::Error| Unusable::file(&args.file, &e);
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
        let unwritable = |e: serde_json::Error| Unusable { text: e.to_string(), code: None };
        serde_json::to_string_pretty(&report).map_err(unwritable)? + "\n"
    } else {
        report.render()
    };
    // Whoever closed the pipe still gets the exit code.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(ExitCode::from(report.verdict.exit_code()))
}

/// The key itself, or what a file holds.
fn root_of(given: &str) -> Result<VKey, Unusable> {
    root_key(given).or_else(|error| {
        let Ok(text) = read_text(Path::new(given)) else {
            let text = format!("--key: `{given}` is neither a vkey nor a file");
            return Err(Unusable { text, code: Some(error.code()) });
        };
        root_key(&text).map_err(|e| Unusable::given("--key", &e))
    })
}

fn read_text(path: &Path) -> Result<String, Unusable> {
    let named = |e: std::io::Error| Unusable::file(path, &e);
    let mut text = String::new();
    File::open(path).map_err(named)?.take(MAX_TEXT).read_to_string(&mut text).map_err(named)?;
    Ok(text)
}
