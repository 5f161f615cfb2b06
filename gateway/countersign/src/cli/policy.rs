//! Policy: write, check, test, compare and sign a bundle before anybody else sees it, and put it in force.
//!
//! What an author or a pipeline does needs no gateway and no network, and ends with codes that a pipeline can rely on:
//! 0 good, 1 something was found, 2 it could not be done (a file, a key, an argument that means nothing). Read next:
//! `checking`, `comparing`, `backtesting`, `proving`, `signing`, `roots`, `explaining`, `querying`.

mod backtesting;
mod checking;
mod comparing;
mod explaining;
mod installing;
mod lowering;
mod proposing;
mod proving;
mod querying;
mod refusal;
mod roots;
mod signing;
mod solving;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;
use countersign_policy_store::bundle::{CATALOGUE_FILE, SIGNATURES_FILE};
use countersign_policy_store::{default_catalogue, default_draft, example, example_names, read_catalogue, read_folder};
use serde_json::{Value, json};

use self::proving::Proven;
use super::{Global, confirm};
use crate::policies::DraftFiles;
use crate::text::plain;

/// It could not be done: a file, a key, an argument that means nothing.
const COULD_NOT: u8 = 2;

/// Policy.
#[derive(Debug, Subcommand)]
#[command(
    after_help = "check, fmt, lint, test, diff, prove, import, default, sign, verify, pack, unpack, key and root ask no gateway;\n\
    root install and solo work on a stopped one.\n\n\
    Their exit codes: 0 good, 1 something was found, 2 it could not be done (a file, a key); 64 wrong usage."
)]
pub(crate) enum Policy {
    /// Check a bundle: syntax, types, lint, its own tests. Asks no gateway
    #[command(
        after_help = "Example:\n  countersign policy check ./policy\n\nExit codes: 0 nothing stands in the way, \
        1 something does, 2 it cannot be read."
    )]
    Check(checking::Check),
    /// Bring policies into the one form; comments stay. Asks no gateway
    #[command(
        after_help = "Examples:\n  countersign policy fmt ./policy\n  countersign policy fmt --check ./policy\n\n\
        Exit codes: 0 written, or in the one form; 1 something is not, or does not parse; 2 it cannot be read."
    )]
    Fmt(checking::Fmt),
    /// Look for what is legal and still wrong: gates that do not hold, policies that never apply. Asks no gateway
    #[command(
        after_help = "Examples:\n  countersign policy lint ./policy\n  countersign policy lint --github ./policy\n\n\
        Exit codes: 0 no error, 1 an error (with --deny-warnings, a warning too), 2 it cannot be read."
    )]
    Lint(checking::Lint),
    /// Run a bundle's own tests. Asks no gateway
    #[command(after_help = "Examples:\n  countersign policy test ./policy\n  \
        countersign policy test ./policy --coverage --min-coverage 100\n\n\
        Exit codes: 0 all agree and enough is covered, 1 not, 2 it cannot be read.")]
    Test(checking::Test),
    /// Say in words what another bundle would newly allow and deny. Asks no gateway
    #[command(after_help = "Examples:\n  countersign policy diff ./policy-in-force ./policy\n  \
        countersign policy diff old.bundle ./policy --fail-on unclear\n\n\
        No solver is asked: `countersign policy prove NEW --against OLD` is the one that proves that nothing more is allowed.\n\n\
        Exit codes: 0 nothing that --fail-on names, 1 something, 2 one of them cannot be read.")]
    Diff(comparing::Compare),
    /// Say what another bundle would have said to what was really asked: the ledger's questions, all of them again
    #[command(after_help = "Examples:\n  countersign policy backtest ./policy --since 30d\n  \
        countersign policy backtest ./policy --last 100000 --fail-on looser,not-computable --html report.html\n  \
        countersign policy backtest ./policy --data-dir ./countersign-data\n\n\
        Exit codes: 0 nothing that --fail-on names, 1 something, 2 it could not be done.")]
    Backtest(backtesting::Backtest),
    /// Prove what a bundle never allows, and what it newly allows beside another one. Asks no gateway
    #[command(after_help = "Examples:\n  countersign policy prove ./policy\n  \
        countersign policy prove ./policy --against ./policy-in-force --solver /opt/cvc5/bin/cvc5\n\n\
        Exit codes: 0 all of it is proved; 1 an invariant is refuted, or something is newly allowed; 2 neither, but \
        something is not proved, or it could not be done.")]
    Prove(proving::Prove),
    /// Seal a bundle and sign it with root keys, offline
    #[command(
        after_help = "Examples:\n  countersign policy sign ./policy --key root-1.key --after ./policy-in-force\n  \
        countersign policy sign ./policy --key root-1.key --organization org_… --out first.bundle\n  \
        countersign policy sign first.bundle --key root-2.key\n\n\
        Exit codes: 0 signed, 1 it does not pass its checks, 2 a file or a key cannot be used."
    )]
    Sign(signing::Sign),
    /// Lower the authority mode, with the root keys and the gateway down: from here on one person changes policy alone
    Solo(lowering::Solo),
    /// Check the signatures of a bundle against root documents, offline
    #[command(
        after_help = "Example:\n  countersign policy verify next.bundle --root root-1.json --genesis HEX --after \
        current.bundle\n\nExit codes: 0 it may become active, 1 it may not, 2 a file cannot be read."
    )]
    Verify(signing::Verify),
    /// Turn a sealed folder into one file
    #[command(
        after_help = "Example:\n  countersign policy pack ./policy --out policy.bundle\n\nExit codes: 0 written, \
        1 the folder is not what was sealed, 2 a file cannot be read or written."
    )]
    Pack(signing::Pack),
    /// Turn a bundle file into a folder
    #[command(
        after_help = "Example:\n  countersign policy unpack policy.bundle --out ./policy\n\nExit codes: 0 written, \
        1 the file is no whole bundle, 2 a file cannot be read or written."
    )]
    Unpack(signing::Unpack),
    /// Make a root key for signing bundles, in a file that only you may read
    #[command(after_help = "Example:\n  countersign policy key --name root-1 --out root-1.key")]
    Key(signing::NewKey),
    /// Root documents: whose signatures count, and how many
    #[command(subcommand)]
    Root(roots::Root),
    /// Say which clause stood in the way of something, policy by policy
    #[command(
        after_help = "Examples:\n  countersign policy explain 41\n  countersign policy explain --question what-if.json\n\n\
        A question is written as in a bundle's tests:\n  { \"asked\": \"Agent::fixer\", \"op\": \"callTool\", \
        \"resource\": \"Tool::notes.append\", \"input\": { \"text\": \"a\" } }"
    )]
    Explain(explaining::Explain),
    /// Read the rules of another system into a bundle draft, and say what did not carry over. Asks no gateway
    #[command(after_help = "Example:\n  countersign policy import tool-scopes tool_scopes.yaml --out ./policy\n\n\
        Exit codes: 0 written, 1 something of the source is left out (--incomplete goes on), 2 it cannot be read.")]
    Import(explaining::Import),
    /// Show what changes, and put a bundle in force at once, where one person changes policy alone
    #[command(
        after_help = "Example:\n  countersign policy activate ./policy\n\nWhere policy asks for a shadow window or \
        another person it is refused: `countersign policy propose` it."
    )]
    Activate {
        /// A folder, or a bundle file.
        path: PathBuf,
        /// Do not ask; needs --confirmed-diff, so that a script activates what somebody has read.
        #[arg(long, requires = "confirmed_diff")]
        yes: bool,
        /// Digest of the difference that was read.
        #[arg(long, value_name = "HEX")]
        confirmed_diff: Option<String>,
    },
    /// Say what a principal may do now: allowed, with people's approval, or not
    #[command(
        after_help = "One line for each operation on the organization, each workflow and each tool, and for one instance.\n\
        Tools are asked about in --instance, else in the newest open one in which the principal acts, with the smallest\n\
        input that their schema takes. Nothing is permitted by it and nothing recorded; it needs `queryPolicy`.\n\n\
        Examples:\n  countersign policy can agent:fixer\n  countersign policy can agent:fixer --instance inst_0192… --only allow"
    )]
    Can(querying::Can),
    /// Say what policy would answer to the questions of a file
    #[command(
        name = "what-if",
        after_help = "The file holds one question, a list of up to 100, or {\"questions\": […]}, each as a bundle's tests write it:\n  \
        {\"asked\": \"Agent::fixer\", \"op\": \"callTool\", \"resource\": \"Tool::notes.append\",\n   \
        \"instance\": \"Instance::inst_0192…\", \"input\": {\"text\": \"a\"}}\n\n\
        Nothing is permitted by it and nothing recorded; it needs `queryPolicy`.\n\n\
        Example:\n  countersign policy what-if questions.json\n\nExit codes: 0 each was answered, 1 one is no question."
    )]
    WhatIf(querying::WhatIf),
    #[command(flatten)]
    Proposing(proposing::Proposing),
    /// Show which policy is in force
    #[command(after_help = "Example:\n  countersign policy show")]
    Show,
    /// Show what the counters of the policy in force stand at
    #[command(after_help = "Example:\n  countersign policy counters")]
    Counters,
    /// Write the default bundle, or an example, to a folder, to begin from
    #[command(after_help = "Examples:\n  countersign policy default ./policy\n  \
        countersign policy default --example payments ./policy")]
    Default {
        /// An example instead: customer-support, payments or software-delivery.
        #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(example_names()))]
        example: Option<String>,
        /// A folder that is not there yet.
        folder: PathBuf,
    },
}

pub(crate) async fn policy(verb: Policy, global: &Global) -> Result<ExitCode> {
    let mut unknown = false;
    let good = match verb {
        Policy::Activate { path, yes, confirmed_diff } => {
            activate(&path, yes, confirmed_diff, global).await?;
            return Ok(ExitCode::SUCCESS);
        }
        Policy::Proposing(verb) => {
            proposing::proposing(verb, global).await?;
            return Ok(ExitCode::SUCCESS);
        }
        Policy::Explain(args) => {
            explaining::explain(&args, global).await?;
            return Ok(ExitCode::SUCCESS);
        }
        Policy::Can(args) => {
            querying::can(&args, global).await?;
            return Ok(ExitCode::SUCCESS);
        }
        Policy::WhatIf(args) => {
            let all = querying::what_if(&args, global).await?;
            return Ok(if all { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Policy::Import(args) => explaining::import(&args, global),
        Policy::Show => {
            global.answer(&global.client()?.get("/api/v1/policies/active").await?)?;
            return Ok(ExitCode::SUCCESS);
        }
        Policy::Counters => {
            global.answer(&global.client()?.get("/api/v1/counters").await?)?;
            return Ok(ExitCode::SUCCESS);
        }
        Policy::Default { folder, example } => {
            write_default(&folder, example.as_deref())?;
            global.answer(&json!({ "written": folder }))?;
            return Ok(ExitCode::SUCCESS);
        }
        Policy::Check(args) => checking::check(&args, global),
        Policy::Fmt(args) => checking::fmt(&args, global),
        Policy::Lint(args) => checking::lint(&args, global),
        Policy::Test(args) => checking::test(&args, global),
        Policy::Diff(args) => comparing::compare(&args, global),
        Policy::Backtest(args) => backtesting::backtest(&args, global).await,
        Policy::Prove(args) => proving::prove(&args, global).map(|proven| {
            unknown = proven == Proven::Unknown;
            proven == Proven::All
        }),
        Policy::Sign(args) => signing::sign(&args, global),
        Policy::Solo(args) => {
            lowering::solo(args, global).await?;
            return Ok(ExitCode::SUCCESS);
        }
        Policy::Verify(args) => signing::verify(&args, global),
        Policy::Pack(args) => signing::pack(&args, global),
        Policy::Unpack(args) => signing::unpack(&args, global),
        Policy::Key(args) => signing::new_key(&args, global),
        Policy::Root(verb) => roots::root(&verb, global).await,
    };
    // A pipeline tells "the policy is bad" from "nothing was looked at".
    Ok(match good {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) if unknown => ExitCode::from(COULD_NOT),
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            super::report(&error, global.json);
            ExitCode::from(COULD_NOT)
        }
    })
}

/// Writes a file that is not there yet.
pub(super) fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write as _;
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create_new(true).open(path);
    file.and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .with_context(|| format!("`{}` cannot be written: give a name that is not taken", path.display()))
}

/// Replaces a file whole or not at all; its permissions stay.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write as _;
    let cannot = || format!("`{}` cannot be written", path.display());
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).with_context(cannot)?;
    let permissions = match std::fs::metadata(path) {
        Ok(meta) => meta.permissions(),
        Err(_) => std::os::unix::fs::PermissionsExt::from_mode(0o644),
    };
    file.as_file().set_permissions(permissions).with_context(cannot)?;
    file.write_all(bytes).and_then(|()| file.as_file().sync_all()).with_context(cannot)?;
    // Crash before this: the old file stands whole, and a hidden temporary one beside it, which no bundle takes.
    file.persist(path).with_context(cannot)?;
    Ok(())
}

/// Writes a folder that is not there yet, whole or not at all.
fn write_folder<'f>(folder: &Path, files: impl IntoIterator<Item = (&'f str, &'f [u8])>) -> Result<()> {
    if folder.exists() {
        bail!("`{}` is there already: give a folder that is not", folder.display());
    }
    let parent = folder.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let cannot = |path: &Path| format!("`{}` cannot be written", path.display());
    std::fs::create_dir_all(parent).with_context(|| cannot(parent))?;
    let build =
        tempfile::Builder::new().permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755)).tempdir_in(parent);
    let build = build.with_context(|| cannot(parent))?;
    for (name, bytes) in files {
        let path = build.path().join(name);
        if let Some(inner) = path.parent() {
            std::fs::create_dir_all(inner).with_context(|| cannot(inner))?;
        }
        std::fs::write(&path, bytes).with_context(|| cannot(&path))?;
    }
    std::fs::rename(build.keep(), folder).with_context(|| cannot(folder))
}

/// A bundle as it is sent: a file as it is, a folder as a draft, which the gateway seals and signs with its local root key.
fn transport(path: &Path) -> Result<Vec<u8>> {
    if !path.is_dir() {
        return std::fs::read(path).with_context(|| format!("`{}` cannot be read", path.display()));
    }
    let mut files = BTreeMap::new();
    for (name, bytes) in read_folder(path)? {
        // Tools are registered on their own, and a draft has not been signed.
        if name == CATALOGUE_FILE || name == SIGNATURES_FILE {
            continue;
        }
        let text = String::from_utf8(bytes).with_context(|| format!("`{name}` is not UTF-8"))?;
        files.insert(name, text);
    }
    Ok(serde_json::to_vec(&DraftFiles { format: DraftFiles::FORMAT.to_owned(), files })?)
}

async fn activate(path: &Path, yes: bool, confirmed: Option<String>, global: &Global) -> Result<()> {
    let client = global.client()?;
    let bytes = transport(path)?;
    if let Some(catalogue) = read_catalogue(path).ok().flatten().filter(|_| path.is_dir()) {
        let active = client.get("/api/v1/policies/active").await?;
        if active.get("catalogue").and_then(Value::as_str) != Some(&catalogue.digest().to_string()) {
            let file = path.join(CATALOGUE_FILE);
            eprintln!(
                "`{}` is not the tool catalogue in force, and is not activated with the bundle. The bundle is checked with\n\
                 the tools in force. To register those of the file first: countersign tool register {} --check\n",
                file.display(),
                file.display()
            );
        }
    }
    let confirmed = match confirmed {
        Some(digest) if yes => digest,
        given => {
            let candidate = client.post_bytes("/api/v1/policies/check", bytes.clone()).await?;
            let text = |key: &str| candidate.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            eprintln!("What changes:\n{}\n", plain(&text("diff")).trim_end());
            if candidate.get("weakens").and_then(Value::as_bool) == Some(true) {
                eprintln!("This WEAKENS what is in force.");
            }
            let digest = text("diff_digest");
            if given.is_some_and(|read| read != digest) {
                bail!("the difference is not the one that you read any more: read it above and confirm again");
            }
            if !confirm("Put it in force?", &format!("--yes --confirmed-diff {digest}"))? {
                bail!("nothing was activated");
            }
            digest
        }
    };
    let query = super::query(&[("confirmed_diff", Some(confirmed.as_str()))], None);
    global.answer(&client.post_bytes(&format!("/api/v1/policies/activate{query}"), bytes).await?)
}

fn write_default(folder: &Path, name: Option<&str>) -> Result<()> {
    let (draft, catalogue) = match name {
        None => (default_draft()?, default_catalogue()?),
        Some(name) => example(name).with_context(|| format!("there is no example `{name}`"))??,
    };
    let catalogue: Value = serde_json::from_slice(&catalogue.canonical())?;
    let catalogue = format!("{}\n", serde_json::to_string_pretty(&catalogue)?);
    let files = draft.files.iter().map(|(name, text)| (name.as_str(), text.as_bytes()));
    write_folder(folder, files.chain([(CATALOGUE_FILE, catalogue.as_bytes())]))
}
