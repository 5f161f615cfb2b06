//! The manifest: what a bundle is, whose, after which, and the digest of every file. Its own digest names the bundle.
//!
//! Canonical JSON (RFC 8785); format 1. Absent: signatures (beside it, because they sign its digest), the root
//! document, the catalogue itself. Read next: `bundle`.

use std::collections::BTreeMap;

use countersign_gateway_model::{Digest, Name, OrgId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::canonical::MAX_SAFE_INTEGER;
use crate::files::{FilePath, MAX_FILES};

/// The format of manifests that this program writes and reads.
pub const FORMAT: u32 = 1;
/// How many bytes a manifest may have.
pub(crate) const MAX_MANIFEST_BYTES: usize = 256 * 1024;
/// How many policies and workflows may be in shadow.
pub(crate) const MAX_SHADOWED: usize = 256;
/// How many transforms may be ordered.
pub(crate) const MAX_TRANSFORMS: usize = 64;

/// Why a bundle exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// To decide.
    #[default]
    Regular,
    /// To get an organization out of a bundle that locked everyone out; asks for the `recovery` threshold.
    Recovery,
}

/// The tool catalogue that a bundle was checked against. A later version of it is checked again at activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogueRef {
    /// Its version.
    pub version: u64,
    /// Its plain SHA-256 digest.
    pub digest: Digest,
}

/// Something that is judged but not enforced, until an instant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shadowed {
    /// The policy's or workflow's id.
    pub id: Name,
    /// From this instant on (milliseconds of the Unix epoch) it is enforced.
    pub until: Timestamp,
}

/// What is in shadow. Never a runtime flag: it is part of what is signed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shadow {
    /// Policies, by id.
    #[serde(default)]
    pub policies: Vec<Shadowed>,
    /// Workflows, by id.
    #[serde(default)]
    pub workflows: Vec<Shadowed>,
}

/// What the author of a bundle sets besides its files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Why the bundle exists.
    pub purpose: Purpose,
    /// What is in shadow.
    pub shadow: Shadow,
    /// In which order missing transforms are applied.
    pub transforms: Vec<Name>,
    /// The catalogue it was checked against.
    pub catalogue: Option<CatalogueRef>,
    /// From this instant on it is not activated any more.
    pub expires: Option<Timestamp>,
}

/// Whose a bundle is and where it stands among the organization's bundles: what makes a replayed one recognisable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lineage {
    /// The organization.
    pub organization: OrgId,
    /// 1, 2, 3 …; always higher than that of the bundle it replaces.
    pub version: u64,
    /// The digest of the bundle it replaces; none for the first.
    pub predecessor: Option<Digest>,
    /// The root document whose keys sign it.
    pub root_version: u64,
}

/// The signed part of a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// Whose bundle it is.
    pub organization: OrgId,
    /// 1, 2, 3 …
    pub version: u64,
    /// The digest of the bundle it replaces; `null` for the first.
    pub predecessor: Option<Digest>,
    /// The root document whose keys sign it.
    pub root_version: u64,
    /// Why it exists.
    pub purpose: Purpose,
    /// What is in shadow.
    pub shadow: Shadow,
    /// In which order missing transforms are applied.
    pub transforms: Vec<Name>,
    /// The catalogue it was checked against, or `null`.
    pub catalogue: Option<CatalogueRef>,
    /// From this instant on (milliseconds of the Unix epoch) it is not activated any more, or `null`.
    pub expires: Option<Timestamp>,
    /// Plain SHA-256 of every file.
    pub files: BTreeMap<FilePath, Digest>,
}

impl Manifest {
    /// Where it stands.
    pub fn lineage(&self) -> Lineage {
        Lineage {
            organization: self.organization,
            version: self.version,
            predecessor: self.predecessor,
            root_version: self.root_version,
        }
    }

    /// What its author set.
    pub fn settings(&self) -> Settings {
        Settings {
            purpose: self.purpose,
            shadow: self.shadow.clone(),
            transforms: self.transforms.clone(),
            catalogue: self.catalogue,
            expires: self.expires,
        }
    }

    pub(crate) fn new(lineage: Lineage, settings: Settings, files: BTreeMap<FilePath, Digest>) -> Self {
        let Lineage { organization, version, predecessor, root_version } = lineage;
        let Settings { purpose, shadow, transforms, catalogue, expires } = settings;
        Self {
            format: FORMAT,
            organization,
            version,
            predecessor,
            root_version,
            purpose,
            shadow,
            transforms,
            catalogue,
            expires,
            files,
        }
    }

    /// What is wrong with the values, if anything.
    pub(crate) fn problem(&self) -> Option<String> {
        let safe = |n: u64| (1..=MAX_SAFE_INTEGER).contains(&n);
        if self.format != FORMAT {
            return Some(format!("format {} is not {FORMAT}; use a program that knows it", self.format));
        }
        if !safe(self.version) || !safe(self.root_version) || !self.catalogue.is_none_or(|c| safe(c.version)) {
            return Some("versions count from 1".to_owned());
        }
        // Only the first bundle of an organization replaces none; a rollback names what it replaces, too.
        if (self.version == 1) != self.predecessor.is_none() {
            return Some("version 1 has no `predecessor`, every later one has".to_owned());
        }
        let ends =
            self.expires.iter().chain(self.shadow.policies.iter().chain(&self.shadow.workflows).map(|s| &s.until));
        if ends.into_iter().any(|t| !safe(t.0)) {
            return Some("instants are milliseconds of the unix epoch, below 2^53".to_owned());
        }
        for (what, list) in [("policies", &self.shadow.policies), ("workflows", &self.shadow.workflows)] {
            if list.len() > MAX_SHADOWED || !list.is_sorted_by(|a, b| a.id < b.id) {
                return Some(format!(
                    "`shadow.{what}` is not sorted by id, names one twice, or has more than {MAX_SHADOWED}"
                ));
            }
        }
        let mut seen = std::collections::BTreeSet::new();
        if self.transforms.len() > MAX_TRANSFORMS || !self.transforms.iter().all(|t| seen.insert(t)) {
            return Some(format!("`transforms` names one twice, or more than {MAX_TRANSFORMS}"));
        }
        if self.files.len() > MAX_FILES {
            return Some(format!("{} files; at most {MAX_FILES} are taken", self.files.len()));
        }
        None
    }
}
