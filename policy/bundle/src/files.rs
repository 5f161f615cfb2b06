//! The files of a bundle: which names they may have, what each is for, how large they may be.
//!
//! Absent: reading folders (`policy/store`). Read next: `manifest`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use countersign_gateway_model::Digest;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::sha256;

/// How many files a bundle may have, besides manifest and signatures.
pub const MAX_FILES: usize = 512;
/// How many bytes one file may have.
pub const MAX_FILE_BYTES: usize = 8 * 1024 * 1024;
/// How many bytes all files of a bundle may have together.
pub const MAX_BUNDLE_BYTES: usize = 32 * 1024 * 1024;
/// How long a path may be.
pub(crate) const MAX_PATH: usize = 120;
/// How many names deep a path may be.
pub(crate) const MAX_DEPTH: usize = 4;

/// The manifest's file in the directory form.
pub const MANIFEST_FILE: &str = "bundle.json";
/// The signatures' file in the directory form.
pub const SIGNATURES_FILE: &str = "signatures.json";

/// The tool catalogue may lie in a bundle's folder, but is no part of it: it is signed and versioned on its own.
pub const CATALOGUE_FILE: &str = "tools/catalogue.json";

/// What a file of a bundle is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileKind {
    /// `policies.cedar`, `policies/**/*.cedar`: what is decided.
    Policies,
    /// `schema.cedarschema`, `schema/**/*.cedarschema`: additions in the bundle's own namespaces.
    Schema,
    /// `rules.json`: approval rules.
    Rules,
    /// `roles.json`: role names.
    Roles,
    /// `masks.json`: fields that policy, approver and snapshot never see raw.
    Masks,
    /// `detectors.json`: patterns and scanners that compute facts for the context.
    Detectors,
    /// `counters.json`: facts that span instances.
    Counters,
    /// `ages.json`: how old an entity may be, per type.
    Ages,
    /// `tests/**/*.json`: questions with the answers that are expected.
    Tests,
    /// `invariants/**/*.cedar`: what must never be allowed.
    Invariants,
    /// `*.md`: words for people.
    Notes,
}

impl FileKind {
    /// What a path is for; none if no file of a bundle has such a name.
    pub fn of(path: &str) -> Option<Self> {
        let within = |folder: &str, extension: &str| {
            path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/')) && path.ends_with(extension)
        };
        Some(match path {
            "policies.cedar" => Self::Policies,
            "schema.cedarschema" => Self::Schema,
            "rules.json" => Self::Rules,
            "roles.json" => Self::Roles,
            "masks.json" => Self::Masks,
            "detectors.json" => Self::Detectors,
            "counters.json" => Self::Counters,
            "ages.json" => Self::Ages,
            _ if within("policies", ".cedar") => Self::Policies,
            _ if within("schema", ".cedarschema") => Self::Schema,
            _ if within("tests", ".json") => Self::Tests,
            _ if within("invariants", ".cedar") => Self::Invariants,
            _ if path.strip_suffix(".md").is_some_and(|stem| !stem.is_empty()) => Self::Notes,
            _ => return None,
        })
    }
}

/// Why a file is not taken into a bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// A path that could escape the folder, hide, or differ only on some systems.
    #[error(
        "`{0}` is not a path of a bundle: up to {MAX_DEPTH} names of A-Z a-z 0-9 . _ - joined by `/`, \
         none starting with `.`"
    )]
    Path(String),
    /// A name that says nothing about what the file is for.
    #[error(
        "`{0}` has no meaning in a bundle; policies go to `policies/*.cedar`, schema additions to \
         `schema/*.cedarschema`, tests to `tests/*.json`, notes to `*.md`"
    )]
    Unknown(String),
    /// Two paths that some file systems hold for one.
    #[error("`{0}` and `{1}` differ only in case; rename one")]
    Collision(String, String),
    /// A file that is not text.
    #[error("`{path}` is not utf-8 text at byte {at}; save it as utf-8")]
    NotText {
        /// The file.
        path: String,
        /// Where the first wrong byte stands.
        at: usize,
    },
    /// Too large.
    #[error("`{path}` has {got} bytes; at most {MAX_FILE_BYTES} are taken; split it")]
    TooLarge {
        /// The file.
        path: String,
        /// Its size.
        got: usize,
    },
    /// Too many files.
    #[error("{0} files; at most {MAX_FILES} are taken; merge some")]
    TooMany(usize),
    /// Too many bytes in all.
    #[error("{0} bytes in all; at most {MAX_BUNDLE_BYTES} are taken")]
    TooLargeInAll(usize),
}

/// A checked path within a bundle.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilePath(Arc<str>);

impl FilePath {
    /// Checks a path and that it means something.
    pub fn new(path: &str) -> Result<Self, FileError> {
        let ok = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        let name = |n: &str| !n.is_empty() && !n.starts_with('.') && !n.ends_with('.') && n.bytes().all(ok);
        if path.len() > MAX_PATH || path.split('/').count() > MAX_DEPTH || !path.split('/').all(name) {
            return Err(FileError::Path(path.chars().take(MAX_PATH).flat_map(char::escape_debug).collect()));
        }
        FileKind::of(path).map(|_| Self(path.into())).ok_or_else(|| FileError::Unknown(path.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What the file is for.
    pub fn kind(&self) -> FileKind {
        // The constructor saw that there is one; notes carry no meaning, should that ever change.
        FileKind::of(&self.0).unwrap_or(FileKind::Notes)
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl Serialize for FilePath {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for FilePath {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}

/// The files of one bundle: checked paths, UTF-8 texts, within the limits. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files(BTreeMap<FilePath, Arc<str>>, Beside);

/// The text of `bundle.json` as it stood beside the files, so that a finding can say where in it. It is none of them: with
/// and without it they are the same files.
#[derive(Clone, Debug, Default)]
struct Beside(Option<Arc<str>>);

impl PartialEq for Beside {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Beside {}

impl Files {
    /// Checks files as they were read. Manifest and signatures are not among them.
    pub fn new(raw: impl IntoIterator<Item = (String, Vec<u8>)>) -> Result<Self, FileError> {
        let mut files = BTreeMap::new();
        let mut folded: BTreeMap<String, String> = BTreeMap::new();
        let mut total = 0usize;
        for (path, bytes) in raw {
            let checked = FilePath::new(&path)?;
            if bytes.len() > MAX_FILE_BYTES {
                return Err(FileError::TooLarge { path, got: bytes.len() });
            }
            total = total.saturating_add(bytes.len());
            if total > MAX_BUNDLE_BYTES {
                return Err(FileError::TooLargeInAll(total));
            }
            let text = String::from_utf8(bytes)
                .map_err(|e| FileError::NotText { path: path.clone(), at: e.utf8_error().valid_up_to() })?;
            if let Some(other) = folded.insert(path.to_ascii_lowercase(), path.clone()) {
                return Err(FileError::Collision(other, path));
            }
            files.insert(checked, text.into());
            if files.len() > MAX_FILES {
                return Err(FileError::TooMany(files.len()));
            }
        }
        Ok(Self(files, Beside::default()))
    }

    /// The text of a file.
    pub fn get(&self, path: &str) -> Option<&Arc<str>> {
        self.0.iter().find(|(p, _)| p.as_str() == path).map(|(_, text)| text)
    }

    /// The same files, beside a manifest of that text.
    pub(crate) fn beside(self, manifest: &str) -> Self {
        Self(self.0, Beside(Some(manifest.into())))
    }

    /// The text of the manifest that stood beside them, if one did.
    pub(crate) fn manifest_text(&self) -> Option<&Arc<str>> {
        self.1.0.as_ref()
    }

    /// All files, by path.
    pub fn iter(&self) -> impl Iterator<Item = (&FilePath, &Arc<str>)> {
        self.0.iter()
    }

    /// The files of one kind, by path.
    pub fn of(&self, kind: FileKind) -> impl Iterator<Item = (&FilePath, &Arc<str>)> {
        self.0.iter().filter(move |(path, _)| path.kind() == kind)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Plain SHA-256 of each file.
    pub fn digests(&self) -> BTreeMap<FilePath, Digest> {
        self.0.iter().map(|(path, text)| (path.clone(), sha256(text.as_bytes()))).collect()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn files(paths: &[&str]) -> Result<Files, FileError> {
        Files::new(paths.iter().map(|p| ((*p).to_owned(), b"x".to_vec())))
    }

    #[test]
    fn a_path_that_escapes_hides_or_means_nothing_is_refused() {
        for bad in [
            "",
            "/policies.cedar",
            "../policies.cedar",
            "policies/../x.cedar",
            "policies//x.cedar",
            "policies/.x.cedar",
            ".git/x.md",
            "policies/a/b/c/d.cedar",
            "policies\\x.cedar",
            "policies/ä.cedar",
            "policies/x.cedar/",
            "policies/x.cedar\0",
            "tests/x.cedar",
            "bundle.json",
            "signatures.json",
            "policiesx/a.cedar",
            "x.sh",
            ".md",
        ] {
            assert!(FilePath::new(bad).is_err(), "{bad}");
        }
        assert!(FilePath::new(&format!("policies/{}.cedar", "x".repeat(200))).is_err());
        for (good, kind) in [
            ("policies.cedar", FileKind::Policies),
            ("policies/team/agents.cedar", FileKind::Policies),
            ("schema/ours.cedarschema", FileKind::Schema),
            ("tests/a.json", FileKind::Tests),
            ("README.md", FileKind::Notes),
            ("tests/README.md", FileKind::Notes),
        ] {
            assert_eq!(FilePath::new(good).unwrap().kind(), kind);
        }
    }

    #[test]
    fn files_that_are_too_many_too_large_or_not_text_are_refused() {
        assert!(matches!(files(&["policies/a.cedar", "policies/A.cedar"]), Err(FileError::Collision(..))));
        assert!(matches!(files(&["policies/a.cedar", "policies/a.cedar"]), Err(FileError::Collision(..))));
        let many: Vec<_> = (0..=MAX_FILES).map(|n| (format!("tests/{n}.json"), vec![])).collect();
        assert!(matches!(Files::new(many), Err(FileError::TooMany(_))));
        let text = |bytes| Files::new([("policies.cedar".to_owned(), bytes)]);
        assert!(matches!(text(vec![b'x'; MAX_FILE_BYTES + 1]), Err(FileError::TooLarge { .. })));
        assert!(matches!(text(vec![b'a', 0xff]), Err(FileError::NotText { at: 1, .. })));
        let large: Vec<_> = (0..5).map(|n| (format!("tests/{n}.json"), vec![b' '; MAX_FILE_BYTES])).collect();
        assert!(matches!(Files::new(large), Err(FileError::TooLargeInAll(_))));
    }
}
