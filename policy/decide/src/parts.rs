//! What a policy snapshot is made of, and why it cannot be made: the words of the checks.
//!
//! Absent: the checks. Read next: `loading`, `snapshot`.

use std::collections::{BTreeMap, BTreeSet};

use countersign_gateway_model::{Digest, Duration, Name, OrgId, Timestamp};

use crate::catalogue::{Catalogue, CatalogueError};
use crate::counters::Counter;
use crate::data::DataError;
use crate::detectors::Detectors;
use crate::entity::EntityError;
use crate::masks::Masks;
use crate::reference::EntityKind;
use crate::rules::Rules;
use crate::schema::SchemaError;

/// What a snapshot is made of. Text comes with the name of its file, for errors.
#[derive(Clone, Debug)]
pub struct PolicyParts {
    /// Whose snapshot it is.
    pub org: OrgId,
    /// The plain digest of the bundle's manifest; all zero without a bundle.
    pub bundle: Digest,
    /// Cedar policies: file to text.
    pub policies: BTreeMap<String, String>,
    /// Schema additions in the bundle's own namespaces: file to text.
    pub schema: BTreeMap<String, String>,
    /// Approval rules.
    pub rules: Rules,
    /// Roles.
    pub roles: BTreeSet<Name>,
    /// Counters.
    pub counters: BTreeMap<Name, Counter>,
    /// Masks and transforms.
    pub masks: Masks,
    /// In which order missing transforms are applied; exactly those of `masks`.
    pub transforms: Vec<Name>,
    /// What is looked for in inputs.
    pub detectors: Detectors,
    /// Policies that are judged and not enforced, each until an instant.
    pub shadow: BTreeMap<Name, Timestamp>,
    /// Workflows whose instances are judged and not held to it, each until an instant.
    pub shadow_workflows: BTreeMap<Name, Timestamp>,
    /// How old an entity version may be where a person is asked or decides; absent: any age.
    pub ages: BTreeMap<EntityKind, Duration>,
    /// The tool catalogue.
    pub catalogue: Option<Catalogue>,
}

impl PolicyParts {
    /// No bundle, no catalogue: reading, stopping and recovering only.
    pub fn recovery(org: OrgId) -> Self {
        Self {
            org,
            bundle: Digest([0; 32]),
            policies: BTreeMap::new(),
            schema: BTreeMap::new(),
            rules: Rules::default(),
            roles: BTreeSet::new(),
            counters: BTreeMap::new(),
            masks: Masks::default(),
            transforms: Vec::new(),
            detectors: Detectors::default(),
            shadow: BTreeMap::new(),
            shadow_workflows: BTreeMap::new(),
            ages: BTreeMap::new(),
            catalogue: None,
        }
    }
}

/// Where in a file something stands, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: String,
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

impl Place {
    /// `starts` are the byte offsets at which the text's lines start.
    pub(crate) fn at(file: &str, text: &str, starts: &[usize], offset: usize) -> Self {
        let line = starts.partition_point(|start| *start <= offset).max(1);
        let start = starts.get(line - 1).copied().unwrap_or(0);
        let column = text.get(start..offset).map_or(0, |before| before.chars().count()) + 1;
        Self { file: file.to_owned(), line, column }
    }
}

/// The byte offsets at which the lines of a text start.
pub(crate) fn line_starts(text: &str) -> Vec<usize> {
    std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect()
}

/// Why a snapshot cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A policy file does not parse.
    #[error("{place}: {reason}")]
    Parse {
        /// Where.
        place: Place,
        /// Cedar's words.
        reason: String,
    },
    /// A policy without `@id`, or with one that is no name.
    #[error("{place}: the policy has no usable `@id`; give it one of 1 to 128 of A-Z a-z 0-9 . _ : / -")]
    Id {
        /// Where.
        place: Place,
    },
    /// Two policies with one id.
    #[error("{place}: `@id(\"{id}\")` stands on another policy too; ids are unique in a bundle")]
    DuplicateId {
        /// Where the second one stands.
        place: Place,
        /// The id.
        id: String,
    },
    /// An id in a space that is the program's.
    #[error("{place}: ids that start with `kernel:` or `gateway:` are the program's; rename `{id}`")]
    ReservedId {
        /// Where.
        place: Place,
        /// The id.
        id: String,
    },
    /// A policy that nests deeper than it can safely be walked.
    #[error("{place}: the policy has more than {max} marks; split it", max = crate::depth::MAX_MARKS)]
    TooDeep {
        /// Where it passes the bound.
        place: Place,
    },
    /// A policy with more conditions than can be validated in good time: each may double the work.
    #[error("{place}: the policy has more than {max} `if`s; split it", max = crate::depth::MAX_IFS)]
    TooManyIfs {
        /// Where the first one beyond the bound stands.
        place: Place,
    },
    /// A template; bundles have static policies only.
    #[error("{file}: templates are not supported; write the policy with its principal and resource")]
    Template {
        /// The file.
        file: String,
    },
    /// A gate that would not hold, or context read where it may not be.
    #[error("{place}: policy `{id}`: {problem}")]
    Gate {
        /// Where.
        place: Place,
        /// The policy.
        id: Name,
        /// What is wrong and what to do.
        problem: String,
    },
    /// An entity that cannot exist: a policy that names it would apply to nothing.
    #[error("{place}: policy `{id}`: {problem}")]
    ForeignEntity {
        /// Where.
        place: Place,
        /// The policy.
        id: Name,
        /// What is wrong and what to do.
        problem: String,
    },
    /// Strict validation failed, or warned.
    #[error("{place}: policy `{id}`: {reason}")]
    Invalid {
        /// Where.
        place: Place,
        /// The policy.
        id: String,
        /// Cedar's words.
        reason: String,
    },
    /// A mask or a transform that would let something through, or that nothing orders.
    #[error("`{file}`: `{name}`: {problem}")]
    Mask {
        /// Which.
        name: Name,
        /// `masks.json`, or `bundle.json`, which says when a transform is applied.
        file: &'static str,
        /// Where in that file: a JSON pointer.
        at: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A policy that cannot be in shadow.
    #[error("the manifest's `shadow.policies`: `{id}` {problem}")]
    Shadow {
        /// Which.
        id: Name,
        /// Why not, and what to do.
        problem: &'static str,
    },
    /// Masks or detectors.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A name in the data that is reserved.
    #[error("`{name}` is reserved and cannot be a {what}; choose another")]
    Reserved {
        /// What.
        what: &'static str,
        /// The name.
        name: Name,
    },
    /// An approval rule names a role that is not listed.
    #[error("approval rule `{rule}` names role `{role}`, which `roles.json` does not list; add it or correct the name")]
    UnknownRole {
        /// The rule.
        rule: Name,
        /// The role.
        role: Name,
    },
    /// The schema.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// The catalogue.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// An entity that follows from the catalogue.
    #[error(transparent)]
    Entity(#[from] EntityError),
}

impl BuildError {
    /// Where a policy stands that is refused, if it is one.
    pub fn place(&self) -> Option<&Place> {
        match self {
            Self::Parse { place, .. }
            | Self::Id { place }
            | Self::DuplicateId { place, .. }
            | Self::ReservedId { place, .. }
            | Self::TooDeep { place }
            | Self::TooManyIfs { place }
            | Self::Gate { place, .. }
            | Self::ForeignEntity { place, .. }
            | Self::Invalid { place, .. } => Some(place),
            _ => None,
        }
    }
}
