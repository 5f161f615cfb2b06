//! `check`, `fmt`, `lint`, `test`: what an author asks of a bundle, and how findings are shown to people and pipelines.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use countersign_gateway_model::OrgId;
use countersign_policy_store::bundle::{
    Bundle, Checked, Draft, FileKind, FilePath, Finding, RuleId, Severity, TestRun, check_draft, first_difference,
    format, has_format,
};
use countersign_policy_store::decide::NOBODY;
use countersign_policy_store::decide::catalogue::Catalogue;
use countersign_policy_store::{default_catalogue, read_bundle, read_catalogue, read_draft, read_folder};
use serde_json::{Value, json};

use super::super::{Global, out};
use super::solving::Solving;
use crate::text::plain;

/// Where a bundle is, and what it is judged with.
#[derive(Debug, Args)]
pub(crate) struct Source {
    /// A folder, or a bundle file.
    path: PathBuf,
    /// Tool catalogue; else `tools/catalogue.json` in the folder, else the one that a new organization starts with.
    #[arg(long, value_name = "FILE")]
    catalogue: Option<PathBuf>,
    /// Whose bundle it is; else what the sealed manifest says, else the organization that its policies name.
    #[arg(long, value_name = "ORG")]
    organization: Option<OrgId>,
}

/// How findings are shown, and which ones count.
#[derive(Debug, Args)]
pub(crate) struct Findings {
    /// A warning counts as an error.
    #[arg(long)]
    deny_warnings: bool,
    /// Show findings as annotations of GitHub Actions.
    #[arg(long, conflicts_with = "json")]
    github: bool,
}

/// Checks a bundle.
#[derive(Debug, Args)]
pub(crate) struct Check {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    findings: Findings,
    #[command(flatten)]
    solving: Solving,
}

/// Looks for what is legal and still wrong.
#[derive(Debug, Args)]
pub(crate) struct Lint {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    findings: Findings,
}

/// Runs a bundle's own tests.
#[derive(Debug, Args)]
pub(crate) struct Test {
    #[command(flatten)]
    source: Source,
    /// Show which policies determined an answer, and which way each approval rule was tried.
    #[arg(long)]
    coverage: bool,
    /// The least share of policies, and of the ways of approval rules, that tests must cover, in a hundred.
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    min_coverage: Option<u8>,
    /// Show failures as annotations of GitHub Actions.
    #[arg(long, conflicts_with = "json")]
    github: bool,
}

/// Brings policies into the one form.
#[derive(Debug, Args)]
pub(crate) struct Fmt {
    /// A folder, or a file of policies.
    path: PathBuf,
    /// Write nothing; say what is not in the one form.
    #[arg(long)]
    check: bool,
}

impl Source {
    /// The catalogue that a bundle is judged with.
    pub(super) fn catalogue(path: &Path, given: Option<&Path>) -> Result<Catalogue> {
        let found = match given {
            Some(file) => read_catalogue(file)?,
            None if path.is_dir() => read_catalogue(path)?,
            None => None,
        };
        Ok(match found {
            Some(catalogue) => catalogue,
            None => default_catalogue()?,
        })
    }

    /// Whose bundle it is. Nobody's in particular, unless somebody says so: what belongs to whom is checked again where
    /// it is activated.
    pub(super) fn organization(path: &Path, given: Option<OrgId>, draft: &Draft) -> OrgId {
        let sealed = || read_bundle(path).ok().map(|bundle: Bundle| bundle.manifest().organization);
        given.or_else(sealed).or_else(|| draft.names_organization()).unwrap_or(NOBODY)
    }

    fn checked(&self) -> Result<Checked> {
        Ok(self.draft()?.1)
    }

    /// The bundle as a draft, and what the check says of it.
    pub(super) fn draft(&self) -> Result<(Draft, Checked)> {
        let draft = read_draft(&self.path)?;
        let catalogue = self.catalogue_of(&self.path)?;
        let checked = check_draft(&draft, Self::organization(&self.path, self.organization, &draft), Some(&catalogue));
        Ok((draft, checked))
    }

    /// The catalogue that was given, else the one of a bundle.
    pub(super) fn catalogue_of(&self, path: &Path) -> Result<Catalogue> {
        Self::catalogue(path, self.catalogue.as_deref())
    }
}

pub(super) fn check(args: &Check, global: &Global) -> Result<bool> {
    let (draft, checked) = args.source.draft()?;
    let report = args.solving.proved(checked, &draft)?.report;
    let all: Vec<&Finding> = report.findings.iter().collect();
    let good = report.passes() && !(args.findings.deny_warnings && report.warnings() > 0);
    let tests = report.tests.as_ref();
    if global.json {
        global.document(&json!({
            "passes": good, "errors": report.errors(), "warnings": report.warnings(), "policies": report.policies,
            "findings": all, "report": report.to_string(), "tests": tests.map(coverage_document),
            "invariants": report.invariants,
        }))?;
        return Ok(good);
    }
    show(&args.source.path, &all, args.findings.github)?;
    let covered = tests.map(|run| format!(", tests cover {} % of the policies", run.percent())).unwrap_or_default();
    let verdict = if good { "passes" } else { "does not pass" };
    out(&format!("{verdict}: {} errors, {} warnings{covered}\n", report.errors(), report.warnings()))?;
    Ok(good)
}

pub(super) fn lint(args: &Lint, global: &Global) -> Result<bool> {
    let report = args.source.checked()?.report;
    // What the tests of the bundle say is asked with `test`.
    let of_tests = [RuleId::Test, RuleId::TestData, RuleId::Coverage];
    let found: Vec<&Finding> = report.findings.iter().filter(|f| !of_tests.contains(&f.rule)).collect();
    let errors = found.iter().filter(|f| f.severity == Severity::Error).count();
    let warnings = found.len() - errors;
    let good = errors == 0 && !(args.findings.deny_warnings && warnings > 0);
    if global.json {
        let document = json!({ "passes": good, "errors": errors, "warnings": warnings, "findings": found });
        global.document(&document)?;
        return Ok(good);
    }
    show(&args.source.path, &found, args.findings.github)?;
    out(&format!("{}: {errors} errors, {warnings} warnings\n", if good { "passes" } else { "does not pass" }))?;
    Ok(good)
}

pub(super) fn test(args: &Test, global: &Global) -> Result<bool> {
    let report = args.source.checked()?.report;
    let Some(run) = &report.tests else {
        // Nothing could be asked: what stood in the way is said instead of a number.
        let errors: Vec<&Finding> = report.findings.iter().filter(|f| f.severity == Severity::Error).collect();
        if global.json {
            global.document(&json!({ "passes": false, "findings": errors, "tests": null }))?;
        } else {
            show(&args.source.path, &errors, args.github)?;
            out("no test could be run\n")?;
        }
        return Ok(false);
    };
    let least = usize::from(args.min_coverage.unwrap_or(0));
    let broken: Vec<&Finding> = report.findings.iter().filter(|f| f.rule == RuleId::TestData).collect();
    let enough = run.percent() >= least && run.rule_percent() >= least;
    let good = run.failed == 0 && broken.is_empty() && enough;
    if global.json {
        global.document(&json!({
            "passes": good, "findings": broken, "cases": run.cases, "passed": run.passed, "failed": run.failed,
            "covered_percent": run.percent(), "covered": run.covered, "uncovered": run.uncovered,
            "rules_percent": run.rule_percent(), "rules": run.rules,
        }))?;
        return Ok(good);
    }
    show(&args.source.path, &broken, args.github)?;
    if args.github {
        let failed: Vec<&Finding> = report.findings.iter().filter(|f| f.rule == RuleId::Test).collect();
        show(&args.source.path, &failed, true)?;
    } else {
        out(&plain(&failures(&args.source.path, run)))?;
    }
    if args.coverage {
        out(&plain(&coverage(run)))?;
    }
    out(&format!("{}: {run}\n", if good { "passes" } else { "does not pass" }))?;
    if !enough {
        out(&format!("less than the {least} % that --min-coverage asks for\n"))?;
    }
    Ok(good)
}

fn coverage_document(run: &TestRun) -> Value {
    json!({
        "passed": run.passed, "failed": run.failed, "covered_percent": run.percent(), "covered": run.covered,
        "uncovered": run.uncovered, "rules_percent": run.rule_percent(), "rules": run.rules,
    })
}

/// Each failing case: where, which question, what was expected, what came and by which policies.
fn failures(path: &Path, run: &TestRun) -> String {
    let mut text = String::new();
    for case in &run.cases {
        let Some(failure) = &case.failure else { continue };
        let by: Vec<&str> = case.determining.iter().map(AsRef::as_ref).collect();
        let said =
            case.decision.map_or_else(|| "nothing".to_owned(), |d| json!(d).as_str().unwrap_or_default().to_owned());
        // Writing to a text cannot fail.
        let _ = write!(
            text,
            "{}:{}:{}: `{}` fails\n  asked     {}\n  expected  {}\n  answer    {said} by {}\n  {}\n\n",
            shown_path(path, &case.place.file),
            case.place.line,
            case.place.column,
            case.name,
            failure.question,
            failure.expected,
            by.join(", "),
            failure.difference,
        );
    }
    text
}

fn coverage(run: &TestRun) -> String {
    let mut text = String::new();
    let width = run.covered.keys().chain(&run.uncovered).map(|id| id.as_str().len()).max().unwrap_or(0);
    for (id, cases) in &run.covered {
        let _ = writeln!(text, "  {:width$}  determined {cases}", id.as_str());
    }
    for id in &run.uncovered {
        let _ = writeln!(text, "  {:width$}  never determined an answer", id.as_str());
    }
    for (rule, branches) in &run.rules {
        let _ = writeln!(text, "  rule {:width$}  asked {}, met {}", rule.as_str(), branches.asked, branches.met);
    }
    text
}

/// A place as an editor opens it.
fn shown_path(path: &Path, file: &str) -> String {
    if path.is_dir() { path.join(file).display().to_string() } else { format!("{}/{file}", path.display()) }
}

/// One finding a line; with `github`, as its workflow commands, which show it beside the changed line.
fn show(path: &Path, findings: &[&Finding], github: bool) -> Result<()> {
    let mut text = String::new();
    for finding in findings {
        let file = shown_path(path, &finding.place.file);
        if github {
            let level = if finding.severity == Severity::Error { "error" } else { "warning" };
            let message = escaped(&plain(&format!("{}; {}", finding.message, finding.next_step)));
            let file = escaped(&file).replace(':', "%3A").replace(',', "%2C");
            let (line, column, rule) = (finding.place.line, finding.place.column, finding.rule);
            let _ = writeln!(text, "::{level} file={file},line={line},col={column},title={rule}::{message}");
        } else {
            let _ = writeln!(text, "{}", plain(&finding.to_string()).replacen(&finding.place.file, &file, 1));
        }
    }
    out(&text)
}

/// What a workflow command may not carry as it is.
fn escaped(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

pub(super) fn fmt(args: &Fmt, global: &Global) -> Result<bool> {
    let mut findings: Vec<Finding> = Vec::new();
    let mut changed: Vec<String> = Vec::new();
    for (path, file, text) in policy_files(&args.path)? {
        match format(&path, &text) {
            Err(wrong) => findings.extend(wrong),
            Ok(formatted) => {
                let Some(difference) = first_difference(&path, &text, &formatted) else { continue };
                changed.push(path.to_string());
                if args.check {
                    findings.push(difference);
                } else {
                    super::replace(&file, formatted.as_bytes())?;
                }
            }
        }
    }
    let good = findings.is_empty();
    if global.json {
        let written: &[String] = if args.check { &[] } else { &changed };
        global.document(&json!({ "passes": good, "changed": changed, "written": written, "findings": findings }))?;
        return Ok(good);
    }
    show(
        if args.path.is_dir() { &args.path } else { args.path.parent().unwrap_or(Path::new("")) },
        &findings.iter().collect::<Vec<_>>(),
        false,
    )?;
    if !args.check {
        for file in &changed {
            out(&format!("written: {}\n", plain(file)))?;
        }
    }
    Ok(good)
}

/// The files of policies at a path: their path within the bundle, where they are, their text.
fn policy_files(path: &Path) -> Result<Vec<(FilePath, PathBuf, String)>> {
    let utf8 = |bytes: Vec<u8>, path: &Path| {
        String::from_utf8(bytes).with_context(|| format!("`{}` is not UTF-8", path.display()))
    };
    if !path.is_dir() {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let within = [name.to_owned(), format!("policies/{name}")];
        let within = within.iter().find_map(|name| FilePath::new(name).ok()).filter(|p| has_format(p.kind()));
        let Some(within) = within else {
            bail!("`{}` is no file of policies: their names end with `.cedar`", path.display());
        };
        let bytes = std::fs::read(path).with_context(|| format!("`{}` cannot be read", path.display()))?;
        return Ok(vec![(within, path.to_owned(), utf8(bytes, path)?)]);
    }
    let mut files = Vec::new();
    for (name, bytes) in read_folder(path)? {
        if FileKind::of(&name).is_some_and(has_format) {
            let file = path.join(&name);
            let text = utf8(bytes, &file)?;
            files.push((FilePath::new(&name)?, file, text));
        }
    }
    Ok(files)
}
