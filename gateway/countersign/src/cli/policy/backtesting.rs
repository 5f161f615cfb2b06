//! `backtest`: what a candidate would have said to the questions that the ledger holds.
//!
//! A gateway that runs is asked over HTTP and streams its progress; the ledger of one that does not is read from its data
//! folder. Both are the same fold over the same source. Absent: the fold (`policy/bundle`), the source (`engine`).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use countersign_gateway_engine::{BacktestLimits, BacktestProgress, BacktestWindow, all_threads, backtest_log};
use countersign_gateway_model::{Clock as _, Duration, Timestamp};
use countersign_policy_store::bundle::{BacktestReport, Counts, Shift};
use countersign_policy_store::read_catalogue;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::ledger::offline;
use super::super::{Global, out, query};
use crate::clock::SystemClock;
use crate::organizations::{self, PlaceError};
use crate::policies::{active_catalogue, tried};
use crate::text::plain;

/// Rows of a table that people read; the JSON and HTML forms have all.
const MAX_ROWS: usize = 12;

/// Examples of each kind of change that people read in the terminal.
const MAX_SHOWN: usize = 3;

/// Characters of the bar.
const BAR: usize = 30;

/// Backtests a candidate.
#[derive(Debug, Args)]
pub(crate) struct Backtest {
    /// The candidate: a folder, or a bundle file.
    path: PathBuf,
    /// Only questions since then: a time (`2026-11-20T09:00:00Z`, `2026-11-20`) or a span before now (`90m`, `12h`, `30d`).
    #[arg(long, value_name = "WHEN")]
    since: Option<Since>,
    /// Only questions of before this time.
    #[arg(long, value_name = "TIME")]
    until: Option<Timestamp>,
    /// Only the newest so many questions.
    #[arg(long, value_name = "N")]
    last: Option<u64>,
    /// Examples of each kind of change in the report. They show inputs of the past; 0 keeps them out.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(0..=1000))]
    examples: u16,
    /// What ends with exit code 1.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "any", value_name = "WHICH")]
    fail_on: Vec<FailOn>,
    /// Write the report as one HTML page, too; replaces a file of that name.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Read the ledger of this data folder instead of asking a gateway, which must be down then.
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
    /// Name of the organization in that folder; else `default`. A gateway is asked for the caller's own.
    #[arg(long, value_name = "NAME", requires = "data_dir")]
    organization: Option<String>,
    /// Tool catalogue to try it with; else the one in force.
    #[arg(long, value_name = "FILE", requires = "data_dir")]
    catalogue: Option<PathBuf>,
}

/// What a pipeline stops at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FailOn {
    /// Something would be answered differently.
    Any,
    /// Something would pass more easily, or be asked of other people.
    Looser,
    /// Something would pass less easily, or be asked of other people.
    Stricter,
    /// Something cannot be computed: its facts were erased, or its tool is another one now.
    NotComputable,
    /// Nothing.
    Nothing,
}

/// An instant, or a span before now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Since {
    At(Timestamp),
    Before(Duration),
}

impl std::str::FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unit = |unit: char| -> Option<u64> {
            Some(match unit {
                'm' => 60,
                'h' => 3_600,
                'd' => 86_400,
                'w' => 604_800,
                _ => return None,
            })
        };
        let mut digits = text.chars();
        let span = digits.next_back().and_then(unit).zip(digits.as_str().parse::<u64>().ok());
        if let Some((seconds, count)) = span.filter(|_| !digits.as_str().starts_with('+')) {
            return Ok(Self::Before(Duration::from_secs(seconds.saturating_mul(count))));
        }
        text.parse().map(Self::At).map_err(|error| format!("{error}; or as a span: `90m`, `12h`, `30d`, `4w`"))
    }
}

impl Since {
    fn at(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::Before(span) => Timestamp(now.0.saturating_sub(span.0)),
        }
    }
}

impl FailOn {
    fn found(self, report: &BacktestReport) -> bool {
        let changed = |shifts: &[Shift]| shifts.iter().any(|shift| report.all.changed.contains_key(shift));
        match self {
            Self::Any => report.all.changes() > 0,
            // Other people may be more or fewer: who stops at either looks at it.
            Self::Looser => report.loosens() || changed(&[Shift::OtherRules]),
            Self::Stricter => changed(&[
                Shift::OtherRules,
                Shift::AllowToNeedsApproval,
                Shift::AllowToDeny,
                Shift::NeedsApprovalToDeny,
            ]),
            Self::NotComputable => report.all.not_computable > 0,
            Self::Nothing => false,
        }
    }
}

/// Asks, and prints what came out. False where something was found that `--fail-on` names.
pub(crate) async fn backtest(args: &Backtest, global: &Global) -> Result<bool> {
    let since = args.since.map(|since| since.at(SystemClock.now()));
    let bar = Bar::new(!global.json);
    let report = match &args.data_dir {
        Some(_) => from_folder(args, since, global, bar).await?,
        None => from_gateway(args, since, global, &bar).await?,
    };
    if let Some(file) = &args.html {
        super::replace(file, report.to_html().as_bytes())?;
    }
    let found: Vec<FailOn> = args.fail_on.iter().copied().filter(|which| which.found(&report)).collect();
    if global.json {
        global.document(&json!({ "passes": found.is_empty(), "report": report }))?;
    } else {
        out(&plain(&words(&report)))?;
        if let Some(file) = &args.html {
            out(&format!("\nwritten to {}\n", file.display()))?;
        }
    }
    Ok(found.is_empty())
}

async fn from_folder(args: &Backtest, since: Option<Timestamp>, global: &Global, bar: Bar) -> Result<BacktestReport> {
    let bytes = super::transport(&args.path)?;
    let ledger = offline(args.data_dir.as_ref(), global).await?;
    let name = args.organization.as_deref().unwrap_or(organizations::DEFAULT);
    let found = ledger.held.iter().find(|(place, _)| place.name.as_str() == name);
    let (place, _) = found.ok_or_else(|| PlaceError::Unknown(name.to_owned()))?;
    let log = ledger.logs.log(place.org).await?;
    let catalogue = match &args.catalogue {
        Some(file) => {
            let read = read_catalogue(file)?;
            Some(read.with_context(|| format!("`{}` holds no catalogue", file.display()))?)
        }
        None => active_catalogue(&log).await?,
    };
    let candidate = tried(place.org, &bytes, catalogue.as_ref())?;
    let limits = BacktestLimits { examples: usize::from(args.examples) };
    let window = BacktestWindow { since, until: args.until, last: args.last, limits };
    let (told, mut tells) = tokio::sync::watch::channel(None);
    let watch = move |progress: BacktestProgress| {
        told.send_replace(Some(progress));
        ControlFlow::Continue(())
    };
    let shown = tokio::spawn(async move {
        while tells.changed().await.is_ok() {
            if let Some(BacktestProgress { entries, of, asked }) = *tells.borrow_and_update() {
                bar.show(entries, of, asked);
            }
        }
        bar.clear();
    });
    let report = backtest_log(&log, candidate, window, all_threads(), watch, ()).await?;
    shown.await.context("the progress could not be shown")?;
    ledger.logs.shutdown().await?;
    report.context("the backtest was broken off")
}

async fn from_gateway(args: &Backtest, since: Option<Timestamp>, global: &Global, bar: &Bar) -> Result<BacktestReport> {
    let bytes = super::transport(&args.path)?;
    let (since, until) = (since.map(|at| at.to_string()), args.until.map(|at| at.to_string()));
    let (last, examples) = (args.last.map(|n| n.to_string()), args.examples.to_string());
    let window = query(
        &[
            ("since", since.as_deref()),
            ("until", until.as_deref()),
            ("last", last.as_deref()),
            ("examples", Some(examples.as_str())),
        ],
        None,
    );
    let mut report = None;
    let path = format!("/api/v1/policies/backtest{window}");
    let told = global
        .client()?
        .post_for_lines(&path, bytes, |line| {
            if let Some(progress) = line.get("progress") {
                let number = |key: &str| progress.get(key).and_then(Value::as_u64).unwrap_or_default();
                bar.show(number("entries"), number("of"), number("asked"));
            }
            if let Some(problem) = line.get("problem") {
                let words = problem.get("detail").and_then(Value::as_str).unwrap_or_default();
                bail!("the gateway broke it off: {}", plain(words));
            }
            if let Some(found) = line.get("report") {
                report = Some(serde_json::from_value(found.clone()).context("the report does not read")?);
            }
            Ok(())
        })
        .await;
    bar.clear();
    told?;
    report.context("the answer was cut off before the report: ask again")
}

/// What is shown on a terminal while it goes on.
#[derive(Debug)]
struct Bar {
    /// None where nobody looks.
    began: Option<Instant>,
}

impl Bar {
    fn new(wanted: bool) -> Self {
        Self { began: (wanted && std::io::stderr().is_terminal()).then(Instant::now) }
    }

    fn show(&self, entries: u64, of: u64, asked: u64) {
        let Some(began) = self.began else { return };
        // Nothing can be done about a closed terminal.
        let _ = write!(std::io::stderr(), "\r{}\u{1b}[K", bar(entries, of, asked, began.elapsed().as_secs()));
    }

    fn clear(&self) {
        if self.began.is_some() {
            let _ = write!(std::io::stderr(), "\r\u{1b}[K");
        }
    }
}

fn bar(entries: u64, of: u64, asked: u64, seconds: u64) -> String {
    let share = |whole: u64| entries.min(of).saturating_mul(whole).checked_div(of).unwrap_or(whole);
    let full = usize::try_from(share(u64::try_from(BAR).unwrap_or(0))).unwrap_or(BAR);
    let rate = asked / seconds.max(1);
    let left = of.saturating_sub(entries).saturating_mul(seconds).checked_div(entries).unwrap_or(0);
    format!(
        "[{}{}] {:3} %  {asked} questions, {rate} a second, {left} s left",
        "#".repeat(full),
        "-".repeat(BAR.saturating_sub(full)),
        share(100)
    )
}

fn words(report: &BacktestReport) -> String {
    let mut text = String::new();
    // Writing to a text cannot fail.
    let _ = write_words(report, &mut text);
    text
}

fn write_words(report: &BacktestReport, text: &mut String) -> std::fmt::Result {
    let BacktestReport { asked, all, .. } = report;
    let range = report.entries.map(|(first, last)| format!(", entries {first} to {last}")).unwrap_or_default();
    writeln!(text, "{asked} questions asked again{range}")?;
    writeln!(text, "  {:>9}  answered as then", all.unchanged)?;
    for shift in Shift::ALL {
        if let Some(count) = all.changed.get(&shift) {
            writeln!(text, "  {count:>9}  {}", ascii(shift))?;
        }
    }
    if all.not_computable > 0 {
        writeln!(text, "  {:>9}  not computable:", all.not_computable)?;
        for (why, count) in &report.reasons {
            writeln!(text, "  {count:>9}    {why}")?;
        }
    }
    for (title, group) in [
        ("By tool or operation", &report.by_tool),
        ("By who asked", &report.by_agent),
        ("By policy that decides now", &report.by_policy),
        ("By policy that decided then", &report.by_policy_before),
    ] {
        write_group(title, group, text)?;
    }
    for shift in Shift::ALL {
        for example in report.examples.get(&shift).into_iter().flatten().take(MAX_SHOWN) {
            let names = |names: &[countersign_gateway_model::Name]| {
                names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            };
            writeln!(
                text,
                "\nentry {}: {} {} {}\n  {}: then by {}, now by {}",
                example.index,
                example.asked,
                example.operation,
                example.resource,
                ascii(shift),
                names(&example.before.by),
                names(&example.after.by),
            )?;
            for reason in &example.reasons {
                writeln!(text, "  {reason}")?;
            }
        }
    }
    Ok(())
}

/// A terminal may have no arrow, and what is made plain keeps none.
fn ascii(shift: Shift) -> String {
    shift.words().replace('→', "->")
}

/// The names of a group that have changes, the most changed first.
fn write_group(title: &str, group: &BTreeMap<String, Counts>, text: &mut String) -> std::fmt::Result {
    let mut changed: Vec<(&String, &Counts)> = group.iter().filter(|(_, counts)| counts.changes() > 0).collect();
    changed.sort_by_key(|(name, counts)| (std::cmp::Reverse(counts.changes()), *name));
    if changed.is_empty() {
        return Ok(());
    }
    writeln!(text, "\n{title}:")?;
    for (name, counts) in changed.iter().take(MAX_ROWS) {
        let kinds: Vec<String> =
            counts.changed.iter().map(|(shift, count)| format!("{} {count}", ascii(*shift))).collect();
        writeln!(text, "  {:>9}  {name} ({})", counts.changes(), kinds.join(", "))?;
    }
    if changed.len() > MAX_ROWS {
        writeln!(text, "             and {} more", changed.len() - MAX_ROWS)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_an_instant_or_a_span_before_now() {
        let now = Timestamp(1_795_219_200_000);
        let at = |text: &str| text.parse::<Since>().map(|since| since.at(now).to_string());
        assert_eq!(at("90m").unwrap(), "2026-11-20T22:30:00.000Z");
        assert_eq!(at("1d").unwrap(), "2026-11-20T00:00:00.000Z");
        assert_eq!(at("2w").unwrap(), "2026-11-07T00:00:00.000Z");
        assert_eq!(at("2026-01-02").unwrap(), "2026-01-02T00:00:00.000Z");
        assert_eq!(at("99999999w").unwrap(), "1970-01-01T00:00:00.000Z");
        for wrong in ["", "d", "1y", "-1d", "+1d", "yesterday", "1.5h"] {
            assert!(at(wrong).unwrap_err().contains("as a span"), "{wrong}");
        }
    }

    #[test]
    fn the_bar_is_empty_at_first_and_full_at_last() {
        assert_eq!(bar(0, 100, 0, 0).matches('#').count(), 0);
        assert!(bar(50, 100, 500, 10).contains("50 %  500 questions, 50 a second, 10 s left"));
        assert_eq!(bar(100, 100, 9, 1).matches('#').count(), BAR);
        assert_eq!(bar(0, 0, 0, 0).matches('#').count(), BAR, "of nothing all is done");
    }
}
