//! The files that are derived from the program: written by it, committed, and compared here.
//!
//! The program describes itself (`countersign generate …`, hidden), so that no second description can drift. Absent: any
//! knowledge of what stands in them. Next: `openapi/`, `docs/`.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::surroundings::Surroundings;

/// Flags of `cargo xtask generate`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Write nothing; fail if a file differs from what the program says
    #[arg(long)]
    check: bool,
}

/// A generated file and the program's word for it.
struct Document {
    word: &'static str,
    path: &'static str,
}

const DOCUMENTS: [Document; 4] = [
    Document { word: "openapi", path: "openapi/countersign.json" },
    Document { word: "config-reference", path: "docs/configuration.md" },
    Document { word: "cli-reference", path: "docs/cli.md" },
    Document { word: "problem-reference", path: "docs/problems.md" },
];

/// Builds the program, then writes or checks each document. True if nothing differs (any more).
pub fn run(surroundings: &Surroundings, arguments: &Arguments) -> Result<bool> {
    let status =
        surroundings.cargo(&["build", "--package", "countersign"]).status().context("cannot run `cargo build`")?;
    ensure!(status.success(), "the program does not build");
    let program = surroundings.built_program();
    if arguments.check {
        let differences = check(surroundings, &program)?;
        for difference in &differences {
            println!("{difference}");
        }
        return Ok(differences.is_empty());
    }
    for document in &DOCUMENTS {
        let path = surroundings.root.join(document.path);
        let generated = ask(&program, document)?;
        if committed(&path)?.as_deref() == Some(&generated) {
            println!("unchanged  {}", document.path);
        } else {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder).with_context(|| format!("cannot create `{}`", folder.display()))?;
            }
            fs::write(&path, generated).with_context(|| format!("cannot write `{}`", path.display()))?;
            println!("written    {}", document.path);
        }
    }
    Ok(true)
}

/// Says where each committed document differs from what `program` says, one line a document.
pub fn check(surroundings: &Surroundings, program: &Path) -> Result<Vec<String>> {
    let mut differences = Vec::new();
    for document in &DOCUMENTS {
        let generated = ask(program, document)?;
        let difference = match committed(&surroundings.root.join(document.path))? {
            None => Some("is not there".to_owned()),
            Some(committed) => first_difference(&committed, &generated),
        };
        if let Some(difference) = difference {
            differences.push(format!("{}: {difference}; run: cargo xtask generate", document.path));
        }
    }
    Ok(differences)
}

fn committed(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read `{}`", path.display())),
    }
}

fn ask(program: &Path, document: &Document) -> Result<String> {
    // An empty environment: a document must not depend on who generates it.
    let output = Command::new(program)
        .args(["generate", document.word])
        .env_clear()
        .output()
        .with_context(|| format!("cannot run `{}`", program.display()))?;
    ensure!(
        output.status.success(),
        "`countersign generate {}` failed with {}: {}",
        document.word,
        output.status,
        String::from_utf8_lossy(&output.stderr).trim_end()
    );
    let text = String::from_utf8(output.stdout).context("what the program printed is not UTF-8")?;
    ensure!(text.len() > 1 && text.ends_with('\n'), "`countersign generate {}` printed no whole line", document.word);
    if Path::new(document.path).extension().is_some_and(|extension| extension == "json") {
        serde_json::from_str::<serde::de::IgnoredAny>(&text)
            .with_context(|| format!("`countersign generate {}` printed no JSON", document.word))?;
    }
    Ok(text)
}

fn first_difference(committed: &str, generated: &str) -> Option<String> {
    if committed == generated {
        return None;
    }
    let mut lines = (committed.lines(), generated.lines());
    let mut number = 0_usize;
    loop {
        number = number.saturating_add(1);
        match (lines.0.next(), lines.1.next()) {
            (Some(old), Some(new)) if old == new => {}
            (None, None) => return Some("differs in its line ends".to_owned()),
            (old, new) => {
                let shown = |line: Option<&str>| line.map_or("nothing".to_owned(), |line| format!("`{}`", line.trim()));
                return Some(format!("line {number} is {}, should be {}", shown(old), shown(new)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::first_difference;

    #[test]
    fn a_difference_is_shown_where_it_begins() {
        let cases = [
            ("a\nb\n", "a\nb\n", None),
            ("a\nb\n", "a\n c\n", Some("line 2 is `b`, should be `c`")),
            ("a\n", "a\nb\n", Some("line 2 is nothing, should be `b`")),
            ("a\nb\n", "a\n", Some("line 2 is `b`, should be nothing")),
            ("a\r\n", "a\n", Some("differs in its line ends")),
        ];
        for (committed, generated, expected) in cases {
            assert_eq!(first_difference(committed, generated).as_deref(), expected, "{committed:?} {generated:?}");
        }
    }
}
