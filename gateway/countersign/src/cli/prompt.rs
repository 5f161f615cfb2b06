//! What is asked for and not shown: passwords, one-time tokens, codes. From a terminal, unless told otherwise. Internal.
//!
//! Absent: what they are for (`people`, `second_factor`).

use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::environment;

/// Where a password comes from: a terminal, unless told otherwise.
#[derive(Debug, Args)]
pub(super) struct Password {
    /// File with the password.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Read the password from standard input, its first line; a login takes a code from the second one.
    #[arg(long, conflicts_with = "password_file")]
    password_stdin: bool,
}

impl Password {
    pub(super) fn read(&self, prompt: &str) -> Result<String> {
        Ok(self.read_with_code(prompt)?.0)
    }

    /// With the code of a second factor, where standard input has one.
    pub(super) fn read_with_code(&self, prompt: &str) -> Result<(String, Option<String>)> {
        if let Some(path) = &self.password_file {
            return Ok((secret_file(path)?, None));
        }
        if self.password_stdin {
            let mut text = String::new();
            std::io::stdin().take(4096).read_to_string(&mut text).context("standard input cannot be read")?;
            return Ok(two_lines(&text));
        }
        if let Some(password) = environment::text("COUNTERSIGN_PASSWORD") {
            return Ok((password, None));
        }
        Ok((hidden(prompt, "--password-file or --password-stdin")?, None))
    }
}

/// A password, and a code where there is a second line.
fn two_lines(text: &str) -> (String, Option<String>) {
    let mut lines = text.lines().map(str::to_owned);
    (lines.next().unwrap_or_default(), lines.next().filter(|line| !line.trim().is_empty()))
}

/// Where a code of a second factor comes from: a terminal, unless told otherwise.
#[derive(Debug, Args)]
pub(super) struct Code {
    /// The code that your authenticator app shows, where you have a second factor.
    #[arg(long, value_name = "CODE", env = "COUNTERSIGN_OTP", hide_env_values = true)]
    pub(super) otp: Option<String>,
}

impl Code {
    /// Asks in the terminal where none was given.
    pub(super) fn read(self) -> Result<String> {
        self.otp.map_or_else(ask_code, Ok)
    }
}

/// Asks for a code in the terminal.
pub(super) fn ask_code() -> Result<String> {
    hidden("Code that your authenticator app shows", "--otp")
}

/// Whether somebody can be asked.
pub(super) fn somebody_is_there() -> bool {
    std::io::stdin().is_terminal()
}

pub(super) fn secret_file(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| format!("`{}` cannot be read", path.display()))?;
    Ok(text.trim().to_owned())
}

/// Asks in the terminal, without showing what is typed.
pub(super) fn hidden(prompt: &str, instead: &str) -> Result<String> {
    if !somebody_is_there() {
        bail!("nobody can be asked here: give {instead}");
    }
    let echo = |word: &str| std::process::Command::new("stty").arg(word).status();
    eprint!("{prompt}: ");
    let quiet = echo("-echo").is_ok_and(|status| status.success());
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line);
    if quiet {
        let _ = echo("echo");
        eprintln!();
    }
    read.context("the terminal cannot be read")?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_input_gives_a_password_and_a_code_in_lines_of_their_own() {
        let of = |text: &str| two_lines(text);
        assert_eq!(of("pass word "), ("pass word ".to_owned(), None));
        assert_eq!(of("pass\r\n"), ("pass".to_owned(), None));
        assert_eq!(of("pass\n\n"), ("pass".to_owned(), None));
        assert_eq!(of("pass\n123 456\n"), ("pass".to_owned(), Some("123 456".to_owned())));
        assert_eq!(of(""), (String::new(), None));
    }
}
