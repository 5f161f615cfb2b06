//! The small data files of a bundle: roles and ages. Strictly read; a file that is absent is empty.
//!
//! | file | form |
//! |---|---|
//! | `roles.json` | `{"roles": {"APPROVER": {"title": "Decides at gates"}}}` |
//! | `ages.json` | `{"ages_s": {"Person": 3600}}`, entity type to seconds |
//!
//! Absent: `rules`, `catalogue`, `masks`, `detectors`, `counters`, which have modules of their own. Read next: `snapshot`.

use std::collections::BTreeMap;

use countersign_gateway_model::{Duration, Name};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::json::{Json, JsonError};
use crate::reference::EntityKind;

/// What is said of a name, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Titled {
    /// One line.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub title: String,
}

/// `roles.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Roles {
    /// The members of the Cedar enum `Role`.
    #[serde(default)]
    pub roles: BTreeMap<Name, Titled>,
}

/// `ages.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ages {
    /// How many seconds old a version may be where a person is asked or decides.
    #[serde(default)]
    pub ages_s: BTreeMap<EntityKind, u64>,
}

/// Why a data file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// Not JSON, or not strict.
    #[error("not readable")]
    Json(#[from] JsonError),
    /// JSON of another shape.
    #[error("a wrong shape: {0}")]
    Shape(#[from] serde_json::Error),
    /// Something that could not be applied.
    #[error("`{what}`, `{name}`: {problem}")]
    Rule {
        /// Which part of the file.
        what: &'static str,
        /// Which entry of it.
        name: String,
        /// Where in the file: a JSON pointer. What is not there is named by where it would be.
        at: String,
        /// What is wrong and what to do.
        problem: String,
    },
}

impl DataError {
    /// `member`: which member of the entry, as a JSON pointer; empty for all of it.
    pub(crate) fn rule(what: &'static str, name: &str, member: &str, problem: &str) -> Self {
        let entry = if name.is_empty() { String::new() } else { format!("/{}", name.replace('/', "~1")) };
        Self::Rule { what, name: name.to_owned(), at: format!("/{what}{entry}{member}"), problem: problem.to_owned() }
    }

    /// Where in its file, as a JSON pointer, if it is one entry's.
    pub fn at(&self) -> Option<&str> {
        match self {
            Self::Rule { at, .. } => Some(at),
            Self::Json(_) | Self::Shape(_) => None,
        }
    }
}

pub(crate) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DataError> {
    Ok(serde_json::from_slice(&Json::parse(bytes)?.canonical())?)
}

impl Roles {
    /// Reads `roles.json`.
    pub fn parse(bytes: &[u8]) -> Result<Self, DataError> {
        read(bytes)
    }
}

impl Ages {
    /// Reads `ages.json`.
    pub fn parse(bytes: &[u8]) -> Result<Self, DataError> {
        read(bytes)
    }

    /// As spans.
    pub fn spans(&self) -> BTreeMap<EntityKind, Duration> {
        self.ages_s.iter().map(|(kind, s)| (*kind, Duration(s.saturating_mul(1000)))).collect()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn data_files_are_read_strictly() {
        let roles = Roles::parse(br#"{"roles":{"A":{"title":"x"},"B":{}}}"#).unwrap();
        assert_eq!(roles.roles.len(), 2);
        assert_eq!(
            Ages::parse(br#"{"ages_s":{"Person":60}}"#).unwrap().spans().get(&EntityKind::Person),
            Some(&Duration(60_000))
        );
        assert!(Ages::parse(br#"{"ages_s":{"Nobody":60}}"#).is_err());
        assert!(Roles::parse(br#"{"roles":{"A":{},"A":{}}}"#).is_err());
        assert!(Roles::parse(br#"{"roles":{"A B":{}}}"#).is_err());
    }
}
