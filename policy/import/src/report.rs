//! What an import says of itself: each rule of the source, what became of it, and where it stands.
//!
//! Nothing of a source disappears in silence. What could not be carried leaves the bundle stricter than the source, or
//! is named as left out. Absent: the rules. Read next: one of the importers.

use std::fmt;
use std::fmt::Write as _;

use countersign_policy_bundle::Place;
use serde::Serialize;

/// What became of a part of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// The bundle decides as the source says.
    Carried,
    /// The source leaves it open; the bundle decides under the reading that is named.
    Interpreted,
    /// The bundle denies or asks where the source would not.
    Stricter,
    /// Nothing of it is in the bundle.
    LeftOut,
}

impl Fate {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Carried => "carried",
            Self::Interpreted => "interpreted",
            Self::Stricter => "stricter",
            Self::LeftOut => "left out",
        }
    }
}

/// One part of the source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Where it stands.
    #[serde(flatten)]
    pub place: Place,
    /// What became of it.
    pub fate: Fate,
    /// What it is, as the source calls it.
    pub what: String,
    /// How the bundle says it, or why it does not.
    pub how: String,
}

/// `policy.yaml:3:1: carried: …`
impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}: {}", self.place, self.fate.as_str(), self.what, self.how)
    }
}

/// A text of the source as it may stand in a line or a comment of ours: what breaks a line or does not show is escaped.
pub(crate) fn on_one_line(text: &str) -> String {
    let mut line = String::new();
    for c in text.chars() {
        if "\\'\"".contains(c) {
            line.push(c);
        } else {
            line.extend(c.escape_debug());
        }
    }
    line
}

/// All of them, in the order of the source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The entries.
    pub entries: Vec<Entry>,
}

impl Report {
    pub(crate) fn say(&mut self, place: &Place, fate: Fate, what: impl Into<String>, how: impl Into<String>) {
        let (what, how) = (on_one_line(&what.into()), on_one_line(&how.into()));
        self.entries.push(Entry { place: place.clone(), fate, what, how });
    }

    /// A key that the importer does not know.
    pub(crate) fn unknown(&mut self, key: &crate::yaml::Key) {
        let what = format!("`{}`", key.name.escape_debug());
        self.say(&key.place, Fate::LeftOut, what, "this importer does not know it; nothing of it is in the bundle");
    }

    pub(crate) fn sort(&mut self) {
        self.entries.sort_by(|a, b| a.place.cmp(&b.place));
    }

    /// Entries of one fate.
    pub fn of(&self, fate: Fate) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| entry.fate == fate)
    }

    /// Whether the bundle decides all that the source decides, under the readings that are named.
    pub fn is_complete(&self) -> bool {
        self.of(Fate::Stricter).chain(self.of(Fate::LeftOut)).next().is_none()
    }

    /// As a note that travels with the bundle.
    pub fn to_markdown(&self, source: &str) -> String {
        let mut text = format!("# Imported from `{source}`\n");
        let parts = [
            (Fate::LeftOut, "Left out", "Nothing of this is in the bundle."),
            (Fate::Stricter, "Stricter than the source", "The bundle denies or asks where the source would not."),
            (Fate::Interpreted, "Interpreted", "The source leaves this open; the bundle reads it as said here."),
            (Fate::Carried, "Carried", "The bundle decides as the source says."),
        ];
        for (fate, title, meaning) in parts {
            let mut entries = self.of(fate).peekable();
            if entries.peek().is_none() {
                continue;
            }
            let _ = write!(text, "\n## {title}\n\n{meaning}\n\n");
            for entry in entries {
                let _ = writeln!(text, "- line {}: {}: {}", entry.place.line, entry.what, entry.how);
            }
        }
        text
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for entry in &self.entries {
            writeln!(f, "{entry}")?;
        }
        let count = |fate| self.of(fate).count();
        write!(
            f,
            "{} carried, {} interpreted, {} stricter, {} left out",
            count(Fate::Carried),
            count(Fate::Interpreted),
            count(Fate::Stricter),
            count(Fate::LeftOut)
        )
    }
}
