//! What a run of `cargo xtask test` found: one line a step, and the closing line that machines read.
//!
//! Absent: running anything. Next: `test.rs`.

use std::fmt;
use std::time::Duration;

/// How often something passed, failed, and could not be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// Held.
    pub passed: u64,
    /// Did not hold.
    pub failed: u64,
    /// Could not be asked here.
    pub skipped: u64,
}

impl Count {
    /// Nothing yet.
    pub const NONE: Self = Self { passed: 0, failed: 0, skipped: 0 };
    /// One that held.
    pub const PASSED: Self = Self { passed: 1, ..Self::NONE };
    /// One that did not.
    pub const FAILED: Self = Self { failed: 1, ..Self::NONE };
    /// One that could not be asked.
    pub const SKIPPED: Self = Self { skipped: 1, ..Self::NONE };

    /// Both together.
    pub fn and(self, other: Self) -> Self {
        Self {
            passed: self.passed.saturating_add(other.passed),
            failed: self.failed.saturating_add(other.failed),
            skipped: self.skipped.saturating_add(other.skipped),
        }
    }

    /// The same where nothing may be skipped.
    pub fn strict(self) -> Self {
        Self { failed: self.failed.saturating_add(self.skipped), skipped: 0, ..self }
    }
}

/// `N passed, N failed`, and how many were skipped if any were: the form that continuous integration counts.
impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)?;
        }
        Ok(())
    }
}

/// What one step found.
#[derive(Debug)]
pub struct Finding {
    /// Its count.
    pub count: Count,
    /// What a person needs beside it: names of failed tests, reasons of skipped ones. One line each.
    pub notes: Vec<String>,
}

impl Finding {
    /// A step that held, or did not.
    pub fn held(held: bool) -> Self {
        Self { count: if held { Count::PASSED } else { Count::FAILED }, notes: Vec::new() }
    }

    /// A step that failed, and why.
    pub fn failed(why: String) -> Self {
        Self { count: Count::FAILED, notes: vec![why] }
    }

    /// A step that could not be asked, and why.
    pub fn skipped(why: String) -> Self {
        Self { count: Count::SKIPPED, notes: vec![why] }
    }
}

/// All steps of a run.
pub struct Report {
    strict: bool,
    rows: Vec<(&'static str, Duration, Finding)>,
}

impl Report {
    /// An empty one. `strict`: what is skipped has failed.
    pub fn new(strict: bool) -> Self {
        Self { strict, rows: Vec::new() }
    }

    /// Adds what a step found.
    pub fn add(&mut self, step: &'static str, took: Duration, mut finding: Finding) {
        if self.strict && finding.count.skipped > 0 {
            finding.count = finding.count.strict();
            finding.notes.push("with CI=true what is skipped has failed".to_owned());
        }
        self.rows.push((step, took, finding));
    }

    /// Everything counted.
    pub fn count(&self) -> Count {
        self.rows.iter().fold(Count::NONE, |sum, (_, _, finding)| sum.and(finding.count))
    }

    /// Whether all that was asked held, and something was.
    pub fn holds(&self) -> bool {
        let count = self.count();
        count.failed == 0 && count.passed > 0
    }
}

/// The table, then the closing line alone.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (step, took, finding) in &self.rows {
            let word = match finding.count {
                Count { failed: 1.., .. } => "FAILED",
                Count { passed: 0, .. } => "skipped",
                _ => "ok",
            };
            let (seconds, tenths) = (took.as_secs(), took.subsec_millis() / 100);
            writeln!(f, "{word:>8}  {step:<10} {seconds:>5}.{tenths} s  {}", finding.count)?;
            for note in &finding.notes {
                writeln!(f, "{:>10}{note}", "")?;
            }
        }
        write!(f, "\n{}", self.count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(strict: bool, findings: impl IntoIterator<Item = Finding>) -> Report {
        let mut report = Report::new(strict);
        for finding in findings {
            report.add("step", Duration::from_millis(1_290), finding);
        }
        report
    }

    #[test]
    fn the_closing_line_stands_alone_in_the_form_that_machines_count() {
        let cases = [
            (vec![Finding::held(true), Finding::held(false)], "1 passed, 1 failed"),
            (vec![Finding::held(true), Finding::skipped("no `cc`".into())], "1 passed, 0 failed, 1 skipped"),
        ];
        for (findings, expected) in cases {
            let shown = report(false, findings).to_string();
            assert_eq!(shown.lines().last(), Some(expected));
        }
    }

    #[test]
    fn a_skipped_test_is_shown_with_its_reason_and_fails_in_continuous_integration() {
        let findings = || [Finding::held(true), Finding::skipped("no `cc`".to_owned())];
        let at_home = report(false, findings());
        assert!(at_home.holds());
        assert!(at_home.to_string().contains("no `cc`"), "{at_home}");
        let in_ci = report(true, findings());
        assert!(!in_ci.holds());
        assert_eq!(in_ci.count(), Count { passed: 1, failed: 1, skipped: 0 });
        assert!(in_ci.to_string().contains("no `cc`"), "{in_ci}");
    }

    #[test]
    fn a_run_that_asked_nothing_does_not_hold() {
        assert!(!report(false, []).holds());
        assert!(!report(false, [Finding::skipped("no reason".to_owned())]).holds());
    }

    #[test]
    fn a_step_is_shown_with_its_duration() {
        assert!(
            report(false, [Finding::held(true)]).to_string().starts_with("      ok  step           1.2 s  1 passed")
        );
    }
}
