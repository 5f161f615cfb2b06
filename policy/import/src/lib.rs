//! The rules of other systems, read into a bundle draft and a report. Text in, files out; pure.
//!
//! Each importer reads one format, says of every part of it what became of it (file, line, and why), and never makes a
//! bundle that allows what the source denies: what cannot be carried leaves the bundle stricter, or is named. The bundle
//! stands on a small ground of its own (who reads, decides, stops, manages), so that it passes the checks as it is.
//! Absent: files and folders, signing, activation. Read next: `report`, then one of the importers.
#![cfg_attr(test, expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests"))]

mod admission;
mod agentcore;
mod bundle;
mod cedar;
mod condition;
mod materiality;
mod patterns;
mod report;
mod source;
mod tool_scopes;
mod yaml;

use std::collections::BTreeMap;
use std::fmt;

use countersign_policy_bundle::{BundleError, CATALOGUE_FILE, Draft, OrgId, Place};
use countersign_policy_decide::catalogue::{Catalogue, CatalogueError};

pub use agentcore::Caller;
pub use report::{Entry, Fate, Report};
pub use yaml::YamlError;

/// What is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// YAML of materiality, approvers and timeouts (`requires_human_approval`).
    Materiality,
    /// `tool_scopes.yaml`: scopes, and those that are allowed by default.
    ToolScopes,
    /// Forbidden patterns, allowed stacks and the most files of a build.
    ForbiddenPatterns,
    /// Admission rules of runs: labels, images, secrets, service accounts.
    Admission,
    /// Cedar policies of Amazon Bedrock `AgentCore`.
    AgentCore,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Materiality, Self::ToolScopes, Self::ForbiddenPatterns, Self::Admission, Self::AgentCore];

    /// The name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Materiality => "materiality",
            Self::ToolScopes => "tool-scopes",
            Self::ForbiddenPatterns => "forbidden-patterns",
            Self::Admission => "admission",
            Self::AgentCore => "agentcore",
        }
    }

    /// From its name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.as_str() == text)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A file of the source.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Its name, for the report; a bare name is best, because it travels with the bundle.
    pub file: &'a str,
    /// Its text.
    pub text: &'a str,
}

/// What the source does not say and the bundle needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// What the imported rules and tools are called by where the source has no name: letters, digits, `_` and `-`.
    /// Default: `imported`.
    pub name: Option<String>,
    /// The organization: without it, a policy about one principal cannot be carried, because ids begin with it.
    pub organization: Option<OrgId>,
    /// `AgentCore`: the gateway whose policies are imported, where the file has those of several.
    pub gateway: Option<String>,
    /// `AgentCore`: whose credential its principal is.
    pub caller: Caller,
}

impl Options {
    pub(crate) fn name(&self) -> Result<&str, ImportError> {
        let name = self.name.as_deref().unwrap_or("imported");
        let simple = |b: u8| b.is_ascii_alphanumeric() || b"_-".contains(&b);
        if (1..=40).contains(&name.len()) && name.bytes().all(simple) { Ok(name) } else { Err(ImportError::Name) }
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The files of the bundle's folder, the tool catalogue among them.
    pub files: BTreeMap<String, Vec<u8>>,
    /// What became of each part of the source. The same stands in `IMPORT.md`.
    pub report: Report,
}

impl Imported {
    /// The bundle, to check, edit and seal.
    pub fn draft(&self) -> Result<Draft, BundleError> {
        Draft::from_files(self.files.clone())
    }

    /// The tools that the source implies, to register after review.
    pub fn catalogue(&self) -> Result<Catalogue, CatalogueError> {
        Catalogue::parse(self.files.get(CATALOGUE_FILE).map_or(b"{}".as_slice(), Vec::as_slice))
    }
}

/// Why nothing is imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The text does not read.
    #[error(transparent)]
    Yaml(#[from] YamlError),
    /// The text is no Cedar.
    #[error("{place}: {problem}")]
    Cedar {
        /// Where.
        place: Place,
        /// Cedar's words.
        problem: String,
    },
    /// The text has nothing of the format.
    #[error("`{file}` has nothing that `{format}` reads: {expected}")]
    Nothing {
        /// The file.
        file: String,
        /// The format.
        format: Format,
        /// What is looked for.
        expected: &'static str,
    },
    /// A part without which the rest would decide otherwise than meant.
    #[error("{place}: {what}: {problem}")]
    Unusable {
        /// Where.
        place: Place,
        /// What.
        what: String,
        /// Why, and what to do.
        problem: String,
    },
    /// A name for what has none.
    #[error("the name for imported rules has 1 to 40 letters, digits, `_` and `-`; choose another")]
    Name,
}

/// Reads a source into a bundle.
pub fn import(format: Format, source: Source<'_>, options: &Options) -> Result<Imported, ImportError> {
    // The name stands in comments, titles and notes of the bundle, where a line break would end what it stands in.
    let file = report::on_one_line(source.file);
    let source = Source { file: &file, ..source };
    let parts = match format {
        Format::Materiality => materiality::read(source, options),
        Format::ToolScopes => tool_scopes::read(source, options),
        Format::ForbiddenPatterns => patterns::read(source, options),
        Format::Admission => admission::read(source, options),
        Format::AgentCore => agentcore::read(source, options),
    }?;
    let (files, report) = parts.files(source.file);
    Ok(Imported { files, report })
}
