//! A program at a terminal, where somebody reads and types. The terminal is real: `script` opens it (bsdutils, which every
//! Debian has).
//!
//! Absent: programs that nobody sits at (`gateway`).

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Longest wait for a text, or for the end.
const PATIENCE: Duration = Duration::from_mins(5);

/// A program at a terminal. Dropped, it loses its terminal and ends.
pub struct Terminal {
    script: Child,
    keys: ChildStdin,
    folder: TempDir,
}

impl Terminal {
    /// Starts a program of this repository; none, and a line that says so, where there is no `script`. Standard output is
    /// the terminal too, unless it goes to `output`.
    pub fn start(
        test: &str,
        program: &Path,
        arguments: &[&str],
        variables: &[(&str, &str)],
        output: Option<&Path>,
    ) -> Option<Self> {
        let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
        let mut line = format!("exec {}", quoted(&program.display().to_string()));
        for argument in arguments {
            line.push(' ');
            line.push_str(&quoted(argument));
        }
        if let Some(path) = output {
            line.push_str(" > ");
            line.push_str(&quoted(&path.display().to_string()));
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let shown = File::create(folder.path().join("shown")).expect("a file for what is shown");
        let spawned = Command::new("script")
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap_or_default())
            .env("SHELL", "/bin/sh")
            .envs(variables.iter().copied())
            .args(["--quiet", "--flush", "--return", "--command", &line, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(shown)
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut script) = spawned else {
            let line = format!("skipped: {test}: `script` is missing: apt-get install bsdutils\n");
            std::io::stderr().write_all(line.as_bytes()).expect("a line is written");
            return None;
        };
        let keys = script.stdin.take().expect("its keys");
        Some(Self { script, keys, folder })
    }

    /// What is shown so far.
    pub fn shown(&self) -> String {
        let bytes = std::fs::read(self.folder.path().join("shown")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace("\r\n", "\n")
    }

    /// Waits until `text` is shown, and gives all that is.
    pub fn until(&mut self, text: &str) -> String {
        let begun = Instant::now();
        loop {
            let ended = self.script.try_wait().expect("it can be asked");
            let shown = self.shown();
            if shown.contains(text) {
                return shown;
            }
            assert!(ended.is_none() && begun.elapsed() < PATIENCE, "`{text}` is never shown: {shown}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Types. Byte 3 is what the key for interrupting sends.
    pub fn typed(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("somebody reads the keys");
        self.keys.flush().expect("somebody reads the keys");
    }

    /// Waits for the end: exit code, and all that was shown.
    pub fn ended(mut self) -> (i32, String) {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.script.try_wait().expect("it can be asked") {
                return (status.code().unwrap_or(-1), self.shown());
            }
            assert!(begun.elapsed() < PATIENCE, "it does not end: {}", self.shown());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}
