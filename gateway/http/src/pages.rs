//! Every code that anybody is told by this product, and its page: problems of answers, and what reports, decisions and the
//! program itself name beyond them.
//!
//! The gateway serves each page under `/problems/<code>`. A code has one page wherever it is met; one that an answer and a
//! decision share means the same in both. Absent: statuses and who gives which code (`problem`, and the rooms whose codes
//! these are, which tests compare with this list). Read next: `openapi/problems/`.

use std::fmt;

use crate::problem::KINDS;

/// Where a code is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// As the problem of an answer, with this status.
    Answer(u16),
    /// Beside a decision that is on record and has no effect.
    Decision,
    /// In the report on evidence that is INVALID.
    Invalid,
    /// In the report on evidence that is INCONCLUSIVE.
    Inconclusive,
    /// On the command line, where the program itself refuses.
    Program,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer(status) => write!(f, "status {status}"),
            Self::Decision => f.write_str("in a decision without effect"),
            Self::Invalid => f.write_str("verdict INVALID"),
            Self::Inconclusive => f.write_str("verdict INCONCLUSIVE"),
            Self::Program => f.write_str("from the program"),
        }
    }
}

/// A code and its page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Stable name.
    pub code: &'static str,
    /// Where it is met first of all.
    pub place: Place,
    /// One line, the same for every occurrence.
    pub title: &'static str,
    /// Markdown.
    pub text: &'static str,
}

macro_rules! pages {
    ($({ code: $code:literal, place: $place:ident, title: $title:literal })+) => {
        /// What no answer has as its problem.
        const BEYOND: &[Page] = &[
            $(Page {
                code: $code,
                place: Place::$place,
                title: $title,
                text: include_str!(concat!("../../../openapi/problems/", $code, ".md")),
            },)+
        ];
    };
}

pages! {
    { code: "pack-over-limit", place: Invalid, title: "The pack is larger than is looked at" }
    { code: "pack-compressed", place: Invalid, title: "A part of the pack is compressed" }
    { code: "pack-truncated", place: Invalid, title: "The pack ends too early" }
    { code: "pack-not-canonical", place: Invalid, title: "The file is not a pack in its one form" }
    { code: "pack-evidence", place: Invalid, title: "The note over the parts does not hold" }
    { code: "pack-untrusted-root", place: Invalid, title: "The log does not follow from the root key" }
    { code: "pack-checkpoint", place: Invalid, title: "The checkpoint is not of these entries" }
    { code: "pack-part", place: Invalid, title: "A part is missing, one too many, or of other content" }
    { code: "pack-entry", place: Invalid, title: "The bytes of an entry are not acceptable" }
    { code: "pack-chain", place: Invalid, title: "An entry does not stand at its place" }
    { code: "pack-signature", place: Invalid, title: "An entry is not by a key that the log knows" }
    { code: "pack-unlawful", place: Invalid, title: "An entry does what nobody may do" }
    { code: "pack-authority", place: Invalid, title: "An entry states another authority mode than the log leads to" }
    { code: "pack-person-key", place: Invalid, title: "A person's key or signature does not hold" }
    { code: "pack-terms", place: Invalid, title: "People read of another grant than is counted" }
    { code: "pack-fork", place: Invalid, title: "The checkpoint that you hold is of another history" }
    { code: "checkpoint-foreign", place: Invalid, title: "The checkpoint that you hold is not one of this log" }
    { code: "checkpoint-newer", place: Inconclusive, title: "The checkpoint that you hold is newer than the pack" }
    { code: "pack-later-version", place: Inconclusive, title: "The pack has entries of a later version" }
    { code: "pack-key-change", place: Inconclusive, title: "The root key or the log key changes" }
    { code: "pack-erased-payload", place: Inconclusive, title: "Erased payloads are disclosed" }
    { code: "acting-chain", place: Decision, title: "Whoever decides acts here" }
    { code: "decider-involved", place: Decision, title: "Whoever decides is involved" }
    { code: "decider-refused", place: Decision, title: "Policy does not let them decide" }
    { code: "decider-not-named", place: Decision, title: "The rule does not name them" }
    { code: "gate-stale", place: Decision, title: "What the gate rested on has changed" }
    { code: "folder-newer", place: Program, title: "The data folder is of a newer version" }
    { code: "folder-in-use", place: Program, title: "The data folder is in use" }
    { code: "folder-demo", place: Program, title: "The folder is that of a demo" }
    { code: "folder-not-demo", place: Program, title: "The folder is that of a gateway" }
    { code: "folder-foreign", place: Program, title: "The folder holds something else" }
    { code: "folder-missing", place: Program, title: "There is no data folder" }
    { code: "folder-damaged", place: Program, title: "The folder does not say what it is" }
    { code: "folder-incomplete", place: Program, title: "A part of the folder is missing or too old" }
    { code: "folder-duplicate", place: Program, title: "Two folders are of one organization" }
    { code: "folder-network", place: Program, title: "The folder is on a network file system" }
    { code: "folder-rolled-back", place: Program, title: "The folder is older than its anchor" }
    { code: "folder-forked", place: Program, title: "The folder and its anchor are of two histories" }
    { code: "anchor-unusable", place: Program, title: "The anchor cannot be used" }
    { code: "folder-open-to-others", place: Program, title: "Others may read what is private" }
    { code: "folder-unusable", place: Program, title: "The folder cannot be read or written" }
    { code: "database-unsafe", place: Program, title: "The database could lose data" }
    { code: "key-file-missing", place: Program, title: "A key is missing" }
    { code: "key-file-invalid", place: Program, title: "The file holds no key of this kind" }
    { code: "key-file-exists", place: Program, title: "The key file is there already" }
    { code: "organization-name-invalid", place: Program, title: "That cannot be the name of an organization" }
    { code: "organization-exists", place: Program, title: "There is an organization of that name" }
    { code: "organization-unknown", place: Program, title: "There is no such organization" }
    { code: "checkpoint-unreadable", place: Program, title: "The checkpoint cannot be read" }
}

/// Every page: first those of answers, in the order of the source.
pub fn pages() -> impl Iterator<Item = Page> {
    let answers = KINDS.iter().map(|kind| Page {
        code: kind.code,
        place: Place::Answer(kind.status),
        title: kind.title,
        text: kind.page,
    });
    answers.chain(BEYOND.iter().copied())
}

/// The page of a code.
pub fn page(code: &str) -> Option<Page> {
    pages().find(|page| page.code == code)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use countersign_gateway_engine::{EvidenceCode, WhyNot};

    use super::*;

    fn codes(place: impl Fn(Place) -> bool) -> BTreeSet<&'static str> {
        pages().filter(|page| place(page.place)).map(|page| page.code).collect()
    }

    #[test]
    fn every_code_has_one_page_and_every_page_a_code() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../openapi/problems");
        let files: BTreeSet<String> =
            std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
        let expected: Vec<String> = pages().map(|page| format!("{}.md", page.code)).collect();
        assert_eq!(files.len(), expected.len(), "a code stands twice, or a page is left over");
        assert_eq!(files, expected.into_iter().collect());
        for Page { code, place, title, text } in pages() {
            assert!(text.starts_with(&format!("# {title}\n")), "{code}: the page has another title");
            assert!(text.contains(&format!("`{code}`, {place}\n")), "{code}: the page does not say where it is met");
            assert!(text.contains("## What to do"), "{code}: the page does not say what to do");
        }
    }

    #[test]
    fn the_pages_of_reports_are_those_of_the_verifiers_codes() {
        let told: BTreeSet<&str> = EvidenceCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(codes(|place| matches!(place, Place::Invalid | Place::Inconclusive)), told);
    }

    #[test]
    fn the_pages_of_decisions_are_those_of_why_they_have_no_effect() {
        let mut told: BTreeSet<&str> = WhyNot::ALL.iter().map(|why| why.code()).collect();
        assert!(told.contains("acting-chain"));
        told.retain(|code| !matches!(page(code).unwrap().place, Place::Answer(403)));
        assert_eq!(codes(|place| place == Place::Decision), told);
    }
}
