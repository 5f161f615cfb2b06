//! What a run leaves behind: a manifest of files with digests, and of what was refused.
//!
//! Absent: the bytes, which `Runner::fetch` gives, and any following of links.
//!
//! Read next: `tree` (paths), `runner`.

use countersign_gateway_model::Digest;
use serde::{Deserialize, Serialize};

use crate::TreePath;

/// One collected file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artifact {
    /// Where it was in the workspace.
    pub path: TreePath,
    /// Its length in bytes.
    pub size: u64,
    /// SHA-256 of its bytes, unsalted: it names the bytes, and whoever commits it salts.
    pub sha256: Digest,
    /// Permission bits: 0644 or 0755.
    pub mode: u32,
}

/// Why something that a pattern named was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// A symbolic link. None is followed.
    Symlink,
    /// A device, socket or pipe.
    NotAFile,
    /// A file that is not the run's own.
    Foreign,
    /// Beyond the cap on bytes.
    TooLarge,
    /// Beyond the cap on the number of files.
    TooMany,
    /// Its name is no path that could be carried.
    BadName,
    /// It could not be read.
    Unreadable,
}

/// Something that was left out, as it was called: the name is the workload's, so treat it as hostile text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refused {
    /// The name, with everything but printable ASCII replaced by `?`, at most 200 bytes.
    pub path: String,
    /// Why.
    pub why: Refusal,
}

impl Refused {
    /// Names what was left out.
    pub fn new(path: &str, why: Refusal) -> Self {
        let plain = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
        Self { path: path.chars().take(200).map(plain).collect(), why }
    }
}

/// What `collect` gives. Files are sorted by path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// What was collected.
    pub files: Vec<Artifact>,
    /// What was left out, at most 100 of them.
    pub refused: Vec<Refused>,
}
