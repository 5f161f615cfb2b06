//! Runs `cargo test` and reads what it prints: counts, failed names, and what was skipped with its reason.
//!
//! The tests are counted from libtest's own lines, so plain `cargo test` is all it takes. libtest knows `#[ignore]` only; a test
//! that finds out while it runs that the machine lacks something writes a line `skipped: <test>: <reason>` straight to standard
//! error (`std::io::stderr()`, which libtest does not capture) and returns. Next: `lane.rs`, which says what is run.

use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;

use anyhow::{Context as _, Result};

use crate::report::{Count, Finding};

/// Runs the command, passes on what it prints as it comes, and says what it found.
pub fn run(command: &mut Command) -> Result<Finding> {
    run_showing(command, io::stdout(), io::stderr())
}

fn run_showing(command: &mut Command, shown: impl Write, diagnostics: impl Write + Send) -> Result<Finding> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("cannot run `cargo test`")?;
    let (out, err) = (child.stdout.take().context("no stdout")?, child.stderr.take().context("no stderr")?);
    let reading = Mutex::new(Reading::default());
    // Two pipes, two readers: a child that fills one while we wait at the other would never end.
    thread::scope(|scope| -> Result<()> {
        let errors =
            scope.spawn(|| pass_on(err, diagnostics, |line| hold(&reading, |reading| reading.diagnostic(line))));
        let outputs = pass_on(out, shown, |line| hold(&reading, |reading| reading.result(line)));
        let errors = errors.join().unwrap_or_else(|_| Err(io::Error::other("the reader of standard error panicked")));
        outputs.and(errors).context("cannot read what `cargo test` prints")
    })?;
    let status = child.wait().context("cannot wait for `cargo test`")?;
    Ok(reading.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).finding(status.success()))
}

fn hold(reading: &Mutex<Reading>, act: impl FnOnce(&mut Reading)) {
    act(&mut reading.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
}

fn pass_on(from: impl Read, mut to: impl Write, mut read: impl FnMut(&str)) -> io::Result<()> {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line)? > 0 {
        to.write_all(&line)?;
        read(String::from_utf8_lossy(&line).trim_end());
        line.clear();
    }
    to.flush()
}

/// What was read so far.
#[derive(Debug, Default)]
struct Reading {
    passed: u64,
    failed: u64,
    ignored: u64,
    skips: u64,
    notes: Vec<String>,
}

impl Reading {
    /// A line of standard output: `test a::b ... ok`, `test result: ok. 1 passed; …`.
    fn result(&mut self, line: &str) {
        if let Some(result) = line.strip_prefix("test result: ") {
            self.passed = self.passed.saturating_add(number_before(result, " passed"));
            self.failed = self.failed.saturating_add(number_before(result, " failed"));
            self.ignored = self.ignored.saturating_add(number_before(result, " ignored"));
        } else if let Some((name, outcome)) = line.strip_prefix("test ").and_then(|rest| rest.rsplit_once(" ... ")) {
            if outcome.starts_with("FAILED") {
                self.notes.push(format!("FAILED {name}"));
            } else if let Some(reason) = outcome.strip_prefix("ignored") {
                let reason = reason.strip_prefix(", ").unwrap_or("no reason is given");
                self.notes.push(format!("skipped: {name}: {reason}"));
            }
        }
    }

    /// A line of standard error: `skipped: a::b: no user namespaces on this machine`.
    fn diagnostic(&mut self, line: &str) {
        if line.starts_with("skipped: ") {
            self.skips = self.skips.saturating_add(1);
            self.notes.push(line.to_owned());
        }
    }

    fn finding(self, succeeded: bool) -> Finding {
        let mut count = Count {
            // A test that says that it skips has returned, and libtest took that for a pass.
            passed: self.passed.saturating_sub(self.skips),
            failed: self.failed,
            skipped: self.ignored.saturating_add(self.skips),
        };
        let mut notes = self.notes;
        if !succeeded && count.failed == 0 {
            // A test binary that dies (a signal, an abort) prints no result, and neither does one that does not compile.
            count.failed = 1;
            notes.push("FAILED `cargo test` itself: a test did not compile, or its process died".to_owned());
        }
        Finding { count, notes }
    }
}

fn number_before(text: &str, word: &str) -> u64 {
    let Some((before, _)) = text.split_once(word) else { return 0 };
    let digits = before.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
    digits.parse().unwrap_or(0)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test whose script cannot run has failed")]
mod tests {
    use super::*;

    // Shown nowhere: what these scripts print would be counted by the run that runs this test.
    fn finding(script: &str) -> Finding {
        run_showing(Command::new("sh").args(["-c", script]), io::sink(), io::sink()).unwrap()
    }

    #[test]
    fn tests_are_counted_over_all_binaries() {
        let script =
            "echo 'test a ... ok'; echo 'test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out'
            echo 'test result: ok. 30 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.02s'";
        let found = finding(script);
        assert_eq!(found.count, Count { passed: 42, failed: 0, skipped: 0 });
        assert!(found.notes.is_empty(), "{found:?}");
    }

    #[test]
    fn a_failed_test_is_named() {
        let script = "echo 'test flow::a - b (line 3) ... FAILED'
            echo 'test result: FAILED. 1 passed; 1 failed; 0 ignored'; exit 101";
        let found = finding(script);
        assert_eq!(found.count, Count { passed: 1, failed: 1, skipped: 0 });
        assert_eq!(found.notes, ["FAILED flow::a - b (line 3)"]);
    }

    #[test]
    fn what_is_skipped_is_counted_as_skipped_and_keeps_its_reason() {
        let script =
            "echo 'test a ... ignored, needs a second machine'; echo 'test b ... ignored'; echo 'test c ... ok'
            echo 'skipped: c: no user namespaces' >&2; echo 'test result: ok. 5 passed; 0 failed; 2 ignored'";
        let mut found = finding(script);
        found.notes.sort();
        assert_eq!(found.count, Count { passed: 4, failed: 0, skipped: 3 });
        assert_eq!(
            found.notes,
            ["skipped: a: needs a second machine", "skipped: b: no reason is given", "skipped: c: no user namespaces"]
        );
    }

    #[test]
    fn a_process_that_dies_without_a_result_has_failed() {
        let found = finding("echo 'test result: ok. 5 passed; 0 failed; 0 ignored'; kill -SEGV $$");
        assert_eq!(found.count, Count { passed: 5, failed: 1, skipped: 0 });
    }
}
