//! What the program can be told: verbs by noun, each with `--json`, an example, and errors that say what to do next.
//!
//! Exit codes: 0 done, 1 not done (the error says why), 2 inconclusive (`verify` alone), 64 wrong usage. Read next:
//! `server` (up, doctor), `organization`, `people`, `work`, `tool`, `gate`, `grant`, `key`, `policy`, `ledger`, `generate`.

mod gate;
mod generate;
mod grant;
mod key;
mod ledger;
mod organization;
mod people;
mod policy;
mod prompt;
mod recover;
mod review;
mod second_factor;
mod server;
mod stopped;
mod tool;
mod work;

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use serde_json::Value;

use crate::client::Client;
use crate::config::{self, Loaded};
use crate::environment;
use crate::refusals;

/// Wrong usage.
const USAGE: u8 = 64;

/// Variables that are the command line's own and no settings, and whether what is in them is a secret.
const OWN_VARIABLES: [(&str, bool); 9] = [
    ("COUNTERSIGN_CVC5", false),
    ("COUNTERSIGN_ORGANIZATION", false),
    ("COUNTERSIGN_SERVER", false),
    ("COUNTERSIGN_TOKEN", true),
    ("COUNTERSIGN_CONFIG", false),
    ("COUNTERSIGN_OTP", true),
    ("COUNTERSIGN_PASSWORD", true),
    ("COUNTERSIGN_CLIENT_SECRET", true),
    ("COUNTERSIGN_INPUTS", false),
];

/// An authorization gateway in front of AI agents: every action is decided by policy, paused for people where policy says
/// so, recorded in a signed ledger, and only then carried out.
#[derive(Debug, Parser)]
#[command(
    name = "countersign",
    version,
    arg_required_else_help = true,
    after_help = "Examples:\n  countersign demo --yes\n  countersign up --data-dir ./countersign-data\n  countersign gate list"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

/// What every verb takes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Global {
    /// Answer with one JSON document.
    #[arg(long, global = true)]
    pub json: bool,
    /// Configuration file; else `countersign.toml` in the working directory, where there is one.
    #[arg(long, global = true, value_name = "FILE", env = "COUNTERSIGN_CONFIG", hide_env_values = true)]
    pub config: Option<PathBuf>,
    /// The gateway's address; else the one of the last login, else `http://127.0.0.1:7777`.
    #[arg(long, global = true, value_name = "URL", env = "COUNTERSIGN_SERVER", hide_env_values = true)]
    pub server: Option<String>,
    /// A token; else the one that `login` kept.
    #[arg(long, global = true, value_name = "TOKEN", env = "COUNTERSIGN_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Serve a gateway from a data folder
    Up(server::Up),
    /// Watch one governed piece of work from beginning to end, and verify its evidence
    Demo(crate::demo::Args),
    /// Check an evidence pack from its bytes alone
    Verify(ledger::Verify),
    /// Say what this machine can do, and what would make it better
    Doctor(server::Doctor),
    /// Organizations of a data folder: what the operator of a gateway does
    #[command(subcommand)]
    Organization(organization::Organization),
    /// Use a one-time token: become a person, or get a service account
    #[command(subcommand)]
    Enrol(people::Enrol),
    /// Log in as a person and keep the token for later commands
    Login(people::Login),
    /// Tokens: for agents and services, who one is, revocation
    #[command(subcommand)]
    Token(people::Token),
    /// Agents
    #[command(subcommand)]
    Agent(people::Agent),
    /// Persons
    #[command(subcommand)]
    Person(people::Person),
    /// Workflows
    #[command(subcommand)]
    Workflow(work::Workflow),
    /// Tools: what agents may call
    #[command(subcommand)]
    Tool(tool::Tool),
    /// Instances: governed pieces of work
    #[command(subcommand)]
    Instance(work::Instance),
    /// Actions: what an agent proposes
    #[command(subcommand)]
    Action(work::Action),
    /// Gates: what waits for people
    #[command(subcommand)]
    Gate(gate::Gate),
    /// Reviews: what was lifted without its quorum, and who has looked at it
    #[command(subcommand)]
    Review(review::Review),
    /// Your own signing key, for decisions that must be signed
    #[command(subcommand)]
    Key(key::Key),
    /// Task grants: rules met in advance
    #[command(subcommand)]
    Grant(grant::Grant),
    /// Runs: what a runner carries out
    #[command(subcommand)]
    Run(work::Run),
    /// The signed ledger
    #[command(subcommand)]
    Ledger(ledger::Ledger),
    /// Policy
    #[command(subcommand)]
    Policy(policy::Policy),
    /// Get an organization out of a policy that locked everyone out, offline
    Recover(recover::Recover),
    /// The configuration
    #[command(subcommand)]
    Config(generate::ConfigVerb),
    /// Print completions for a shell
    Completions(generate::Completions),
    /// Print generated documents
    #[command(subcommand, hide = true)]
    Generate(generate::Generate),
    /// The demo's agent
    #[command(name = "__agent", hide = true)]
    DemoAgent(crate::agent::Args),
}

/// Parses, runs, and turns the outcome into an exit code.
pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let usage = error.use_stderr();
            // Nothing can be done about a closed terminal.
            let _ = error.print();
            return ExitCode::from(if usage { USAGE } else { 0 });
        }
    };
    let json = cli.global.json;
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            report(&error, json);
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    // Verbs without a runtime first: they must work on a machine where nothing else does.
    match cli.verb {
        Verb::Verify(args) => Ok(ledger::verify(&args, cli.global.json)),
        Verb::Completions(args) => generate::completions(&args),
        Verb::Generate(what) => generate::generate(&what),
        verb => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
            let code = runtime.block_on(verb_with(verb, &cli.global));
            // A prompt that nobody answers must not hold the process.
            runtime.shutdown_timeout(std::time::Duration::from_secs(2));
            code
        }
    }
}

async fn verb_with(verb: Verb, global: &Global) -> Result<ExitCode> {
    match verb {
        Verb::Up(args) => server::up(args, global).await?,
        Verb::Demo(args) => {
            if !crate::demo::run(args, global.json).await? {
                return Ok(ExitCode::FAILURE);
            }
        }
        Verb::Doctor(args) => return server::doctor(args, global).await,
        Verb::Organization(verb) => organization::organization(verb, global).await?,
        Verb::Enrol(verb) => people::enrol(verb, global).await?,
        Verb::Login(args) => people::login(args, global).await?,
        Verb::Token(verb) => people::token(verb, global).await?,
        Verb::Agent(verb) => people::agent(verb, global).await?,
        Verb::Person(verb) => people::person(verb, global).await?,
        Verb::Workflow(verb) => work::workflow(verb, global).await?,
        Verb::Tool(verb) => tool::tool(verb, global).await?,
        Verb::Instance(verb) => work::instance(verb, global).await?,
        Verb::Action(verb) => work::action(verb, global).await?,
        Verb::Gate(verb) => gate::gate(verb, global).await?,
        Verb::Review(verb) => review::review(verb, global).await?,
        Verb::Key(verb) => key::key(verb, global).await?,
        Verb::Grant(verb) => grant::grant(verb, global).await?,
        Verb::Run(verb) => work::run(verb, global).await?,
        Verb::Ledger(verb) => return ledger::ledger(verb, global).await,
        Verb::Policy(verb) => return Box::pin(policy::policy(verb, global)).await,
        Verb::Recover(args) => Box::pin(recover::recover(args, global)).await?,
        Verb::Config(verb) => generate::config(&verb, global)?,
        Verb::DemoAgent(args) => crate::agent::run(args).await?,
        Verb::Verify(_) | Verb::Completions(_) | Verb::Generate(_) => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn report(error: &anyhow::Error, json: bool) {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    // A gateway's problem is the answer's; of its own refusals the program says the code in the same place.
    let answered = error.downcast_ref::<crate::client::ProblemError>().map(|problem| problem.body.clone());
    let own = if answered.is_none() { refusals::code_of(error) } else { None };
    let problem = answered.or_else(|| own.map(|code| refusals::problem(code, &text)));
    // Nothing can be done about a closed pipe.
    let _ = match (json, own) {
        (true, _) => {
            writeln!(std::io::stderr(), "{}", serde_json::json!({ "error": text, "problem": problem }))
        }
        (false, Some(code)) => writeln!(std::io::stderr(), "countersign: {text}\n  problem: {code}"),
        (false, None) => writeln!(std::io::stderr(), "countersign: {text}"),
    };
}

impl Global {
    /// The configuration, with these flags above all other layers.
    pub(crate) fn load(&self, flags: &[(&str, String, &str)]) -> Result<Loaded> {
        let own = |name: &str| OWN_VARIABLES.iter().any(|(variable, _)| *variable == name);
        let variables = environment::variables().filter(|(name, _)| !own(name));
        Ok(config::load(self.config.as_deref(), variables, flags)?)
    }

    /// A client of the gateway.
    pub(crate) fn client(&self) -> Result<Client> {
        Client::new(self.server.as_deref(), self.token.as_deref())
    }

    /// Prints an answer: as it is with `--json`, else as fields.
    pub(crate) fn answer(&self, value: &Value) -> Result<()> {
        if self.json { self.document(value) } else { out(&crate::text::fields(value)) }
    }

    /// Prints a page: as it is with `--json`, else as a table.
    pub(crate) fn page(&self, page: &Value, columns: &[&str]) -> Result<()> {
        if self.json {
            return self.document(page);
        }
        let items = page.get("items").or(Some(page)).and_then(Value::as_array).cloned().unwrap_or_default();
        out(&crate::text::table(&items, columns))?;
        if let Some(next) = page.get("next").and_then(Value::as_str) {
            out(&format!("more: --after {}\n", crate::text::plain(next)))?;
        }
        Ok(())
    }

    /// Prints a JSON document.
    pub(crate) fn document(&self, value: &Value) -> Result<()> {
        out(&format!("{}\n", serde_json::to_string_pretty(value)?))
    }
}

/// Prints, and ends quietly where nobody reads any more.
pub(crate) fn out(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("the answer cannot be printed")
        }
        _ => Ok(()),
    }
}

/// Asks a question in the terminal. An error where there is none: scripts say yes with a flag.
pub(crate) fn confirm(question: &str, flag: &str) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("nobody can be asked here: give {flag}");
    }
    eprint!("{question} [y/N] ");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).context("the terminal cannot be read")?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}

/// Where a page begins and how long it is.
#[derive(Clone, Debug, Args)]
pub(crate) struct Paging {
    /// Cursor that an earlier page ended with.
    #[arg(long, value_name = "CURSOR")]
    after: Option<String>,
    /// How many at most.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=200))]
    limit: u16,
}

/// A query string of what is there.
pub(crate) fn query(parts: &[(&str, Option<&str>)], paging: Option<&Paging>) -> String {
    let mut all: Vec<(String, String)> = Vec::new();
    for (name, value) in parts {
        if let Some(value) = value {
            all.push(((*name).to_owned(), (*value).to_owned()));
        }
    }
    if let Some(paging) = paging {
        if let Some(after) = &paging.after {
            all.push(("after".to_owned(), after.clone()));
        }
        all.push(("limit".to_owned(), paging.limit.to_string()));
    }
    if all.is_empty() {
        return String::new();
    }
    let pairs: Vec<String> = all.iter().map(|(name, value)| format!("{name}={}", escaped(value))).collect();
    format!("?{}", pairs.join("&"))
}

/// Percent-encodes what a query may not carry as it is (RFC 3986, section 2.3).
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = std::fmt::Write::write_fmt(&mut out, format_args!("%{byte:02X}"));
        }
    }
    out
}

/// The command line's own description.
pub(crate) fn command() -> clap::Command {
    Cli::command()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound_and_every_verb_has_an_example() {
        fn walk(command: &clap::Command, path: &str, missing: &mut Vec<String>) {
            for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
                let path = format!("{path} {}", sub.get_name());
                if sub.has_subcommands() {
                    walk(sub, &path, missing);
                } else if !sub.get_after_help().is_some_and(|help| help.to_string().contains("countersign")) {
                    missing.push(path);
                }
            }
        }
        command().debug_assert();
        let mut missing = Vec::new();
        walk(&command(), "countersign", &mut missing);
        assert_eq!(missing, Vec::<String>::new(), "verbs without an example");
    }

    /// Commands of `countersign` in a workflow file, as words of a shell, up to what is piped on.
    fn commands_of(workflow: &str) -> Vec<Vec<String>> {
        let after = |line: &str| line.find("countersign ").map(|at| line.split_at(at).1.to_owned());
        let lines = workflow.lines().filter(|line| !line.trim_start().starts_with('#')).filter_map(after);
        let words = |line: String| {
            let end = line.find([')', '|']).unwrap_or(line.len());
            // What the runner fills in is one word here.
            let filled = line.split_at(end).0.replace("${{ vars.COUNTERSIGN_CLIENT_ID", "client_0f }}");
            filled.split_whitespace().map(|word| word.trim_matches('"').to_owned()).collect()
        };
        lines.map(words).collect()
    }

    #[test]
    fn the_example_pipeline_says_only_what_the_command_line_understands() {
        let workflow = include_str!("../../../../docs/examples/policy-ci.yml");
        let mut seen = std::collections::BTreeSet::new();
        for words in commands_of(workflow) {
            let words: Vec<String> = words.into_iter().filter(|word| word != "}}").collect();
            let refused = Cli::try_parse_from(&words).err().map(|error| error.to_string());
            assert_eq!(refused, None, "{words:?}");
            seen.insert(words.into_iter().skip(1).take(2).collect::<Vec<_>>().join(" "));
        }
        for verb in ["check", "fmt", "lint", "test", "diff", "backtest"] {
            assert!(seen.contains(&format!("policy {verb}")), "{verb}: {seen:?}");
        }
        let wrong = commands_of("run: countersign policy check policy --no-such-flag | tee log");
        assert_eq!(wrong.len(), 1);
        assert!(wrong.iter().all(|words| Cli::try_parse_from(words).is_err()), "a flag that is none would be noticed");
    }

    /// Commands of `countersign` in the examples of a page, as words of a shell.
    fn examples_of(page: &str) -> Vec<Vec<String>> {
        commands_in(page.split("```").skip(1).step_by(2).flat_map(str::lines))
    }

    /// Commands of `countersign` in lines of a shell, as words.
    fn commands_in<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<Vec<String>> {
        let alone = lines.filter_map(|line| line.split(" #").next()).flat_map(|line| line.split(" && "));
        let words = |line: &str| {
            // What stands in quotes of either kind is one word, and holds those of the other kind.
            let (mut words, mut word, mut open) = (Vec::new(), None::<String>, None);
            for c in line.chars() {
                match (open, c) {
                    (Some(quote), c) if c == quote => open = None,
                    (None, '"' | '\'') => {
                        open = Some(c);
                        word.get_or_insert_default();
                    }
                    (None, c) if c.is_whitespace() => words.extend(word.take()),
                    (_, c) => word.get_or_insert_default().push(c),
                }
            }
            words.extend(word);
            words
        };
        alone.map(str::trim).filter(|line| line.starts_with("countersign ")).map(words).collect()
    }

    #[test]
    fn the_pages_say_only_what_the_command_line_understands() {
        let pages = [
            include_str!("../../../../README.md"),
            include_str!("../../../../docs/policy.md"),
            include_str!("../../../../docs/tools.md"),
            include_str!("../../../../docs/backtest.md"),
        ];
        let examples: Vec<_> = pages.into_iter().flat_map(examples_of).collect();
        assert!(examples.len() > 40, "this test no longer finds the examples: {}", examples.len());
        for words in examples {
            let refused = Cli::try_parse_from(&words).err().map(|error| error.to_string());
            assert_eq!(refused, None, "{words:?}");
        }
        assert!(examples_of("```sh\ncountersign no-such-verb\n```").iter().all(|w| Cli::try_parse_from(w).is_err()));
    }

    /// An example with what whoever types it puts in the place of a word in capitals or of what is cut short; without what
    /// is the shell's.
    fn filled(words: Vec<String>) -> Vec<String> {
        use countersign_runners_contract::entry::key::VKey;
        let key = ed25519_dalek::SigningKey::from_bytes(&[1; 32]).verifying_key();
        let fill = |word: String| match word.as_str() {
            "org_…" => format!("org_{}", "0".repeat(32)),
            "HEX" => "0".repeat(64),
            "VKEY" => VKey::new("root", key).unwrap().to_string(),
            _ => word,
        };
        words.into_iter().take_while(|word| word != ">").map(fill).collect()
    }

    #[test]
    fn the_examples_of_each_verbs_help_are_what_the_command_line_understands() {
        fn walk(command: &clap::Command, path: &str, seen: &mut usize, wrong: &mut Vec<String>) {
            for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
                let path = format!("{path} {}", sub.get_name());
                walk(sub, &path, seen, wrong);
                let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
                let examples: Vec<_> = commands_in(help.replace("\\\n", " ").lines()).into_iter().map(filled).collect();
                let its_own = |words: &Vec<String>| words.join(" ").starts_with(&path);
                if !sub.has_subcommands() && !examples.iter().any(its_own) {
                    wrong.push(format!("{path}: no example of its own"));
                }
                *seen += examples.len();
                let refused = examples.iter().filter_map(|words| Cli::try_parse_from(words).err());
                wrong.extend(refused.map(|error| format!("{path}: {error}")));
            }
        }
        let (mut seen, mut wrong) = (0, Vec::new());
        walk(&command(), "countersign", &mut seen, &mut wrong);
        assert_eq!(wrong, Vec::<String>::new());
        assert!(seen > 80, "this test no longer finds the examples: {seen}");
    }

    #[test]
    fn queries_carry_what_they_are_given_and_nothing_more() {
        assert_eq!(query(&[("a", None)], None), "");
        assert_eq!(query(&[("state", Some("A&b=c")), ("x", None)], None), "?state=A%26b%3Dc");
    }
}
