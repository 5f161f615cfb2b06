//! What people are shown of a change before they decide, and what is kept of it with the question: the gateway's words.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::changes::proofs;
use crate::changes::row::{ChangeRow, Compared};

/// Most lines of a difference that an approval view shows; the digest covers all of them.
const MAX_LINES: usize = 400;

impl ChangeRow {
    /// The input of the operation: what the permit's digest is over.
    pub(super) fn facts(&self) -> Value {
        json!({
            "bundle": self.digest,
            "version": self.version,
            "predecessor": self.predecessor,
            "root_version": self.root_version,
            "diff": self.diff,
            "weakens": self.weakens,
            "rollback": self.rollback,
            "proposed": self.proposed,
            "window_ends": self.window_ends,
            "compared": self.compared,
        })
    }

    /// The lines that go into the approval view. `diff` is against what is in force now.
    pub(super) fn findings(&self, author: &str, diff: &str) -> Vec<String> {
        let digest = |digest: Option<countersign_gateway_model::Digest>| {
            digest.map_or_else(|| "nothing".to_owned(), |digest| digest.to_string())
        };
        let mut lines = vec![
            format!("Bundle:    version {}, {}", self.version, self.digest),
            format!("Follows:   {}", digest(self.predecessor)),
            format!("Signed by: {}", signed_by(self)),
            format!("Author:    {author}"),
            "Checks:    strict validation, lint and its own tests passed; nobody is locked out".to_owned(),
            format!("Weakens:   {}", if self.weakens { "YES, or it may" } else { "nothing that can be told" }),
        ];
        lines.extend(proofs::words(&self.proofs));
        if self.rollback {
            lines.push("Rollback:  the content of the bundle that was in force before".to_owned());
        }
        lines.push(match &self.compared {
            Some(compared) => format!("Shadow:    {}", compared.words()),
            None if self.window_ends <= self.proposed => "Shadow:    no window was asked for".to_owned(),
            None => format!("Shadow:    from {} to {}", self.proposed, self.window_ends),
        });
        if self.cut {
            lines.push("Window:    cut short by one who breaks the glass".to_owned());
        }
        lines.push("What changes:".to_owned());
        let all: Vec<&str> = diff.lines().collect();
        lines.extend(all.iter().take(MAX_LINES).map(|line| format!("  {line}")));
        if all.len() > MAX_LINES {
            lines.push(format!("  … {} more lines: read all of them with the proposal", all.len() - MAX_LINES));
        }
        lines
    }
}

fn signed_by(row: &ChangeRow) -> &'static str {
    match row.signed_by {
        countersign_ledger_entry::body::SignedBy::Local => "the gateway's own root key",
        countersign_ledger_entry::body::SignedBy::Threshold => "a threshold of root keys",
    }
}

impl Compared {
    /// In one line.
    pub(super) fn words(&self) -> String {
        let mut words = format!("{} questions asked again, {} answered as then", self.asked, self.unchanged);
        for (shift, count) in &self.changed {
            // Writing to a string cannot fail.
            let _ = write!(words, ", {count} {}", shift.replace('_', " "));
        }
        if self.not_computable > 0 {
            let _ = write!(words, ", {} not to be answered any more", self.not_computable);
        }
        words
    }
}
