//! The data folder: who may use it, what it is marked as, where things lie in it.
//!
//! One process at a time; a folder of a demonstration is never served, and the other way round; one of a newer version
//! is not touched. Absent: what lies inside (`organizations`, `keys`, the ledger, the policy store).

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use countersign_gateway_model::{GatewayId, LogId, OrgId};
use serde::{Deserialize, Serialize};

use crate::keys::{KeysError, private_folder, write_private};

/// Version of the layout that this program writes.
const FORMAT: u32 = 1;

/// Why a folder is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FolderError {
    /// Permissions, or the system says no.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// It cannot be read or locked.
    #[error("`{path}` cannot be used: check the folder and its owner")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Somebody else has it.
    #[error("`{0}` is in use by another process: stop that one, or give another folder with --data-dir")]
    Locked(PathBuf),
    /// Of a newer program.
    #[error("`{path}` has format {found}, this program knows {FORMAT}: use the newer program that wrote it")]
    Newer {
        /// Which.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// Not what it should be.
    #[error("`{0}` cannot be read as the mark of a data folder: restore it from a copy of the folder")]
    Mark(PathBuf),
    /// A demonstration's, asked to be served.
    #[error("`{0}` is the folder of a demo: nothing real may be built on it; give another folder with --data-dir")]
    Demo(PathBuf),
    /// A served one, asked for a demonstration.
    #[error("`{0}` is the folder of a gateway: a demo does not touch it; give another folder, or none")]
    NotDemo(PathBuf),
    /// It has things in it that are not ours.
    #[error("`{0}` is not empty and is no data folder: give an empty one, or one that does not exist")]
    Foreign(PathBuf),
    /// Its mark and the first entry of a log contradict each other.
    #[error("genesis of `{0}` and `countersign.json` disagree on whether this is a demo: restore the folder")]
    Genesis(String),
    /// No random bytes.
    #[error("the system gives no random bytes")]
    Random(#[from] getrandom::Error),
}

impl FolderError {
    /// Stable name of the problem, for `openapi/problems/<code>.md`; none where nothing is wrong with the folder.
    pub(crate) fn code(&self) -> Option<&'static str> {
        match self {
            Self::Keys(error) => error.code(),
            // Whoever would make the folder has made it by then.
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => Some("folder-missing"),
            Self::Io { .. } => Some("folder-unusable"),
            Self::Locked(_) => Some("folder-in-use"),
            Self::Newer { .. } => Some("folder-newer"),
            Self::Mark(_) | Self::Genesis(_) => Some("folder-damaged"),
            Self::Demo(_) => Some("folder-demo"),
            Self::NotDemo(_) => Some("folder-not-demo"),
            Self::Foreign(_) => Some("folder-foreign"),
            Self::Random(_) => None,
        }
    }
}

/// What a folder says it is. Ids are made once and never change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// Version of the layout.
    pub format: u32,
    /// This installation.
    pub gateway: GatewayId,
    /// The organization `default`.
    pub org: OrgId,
    /// Its log.
    pub log: LogId,
    /// First part of the log's origin line.
    pub origin: String,
    /// A demonstration.
    pub demo: bool,
    /// The installation's own log. Folders of before it had one get it at their next start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installation: Option<InstallationIds>,
}

/// Ids of the log that belongs to no organization.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InstallationIds {
    /// Whom its entries name: no credential ever does.
    pub org: OrgId,
    /// The log.
    pub log: LogId,
}

impl InstallationIds {
    fn random() -> Result<Self, FolderError> {
        Ok(Self {
            org: OrgId::from_bytes(crate::mint::random_id()?),
            log: LogId::from_bytes(crate::mint::random_id()?),
        })
    }
}

/// A folder that this process holds.
#[derive(Debug)]
pub(crate) struct DataFolder {
    /// Where.
    pub path: PathBuf,
    /// What it is.
    pub mark: Mark,
    /// Made just now.
    pub fresh: bool,
    /// The system drops the lock with the process.
    _lock: File,
}

impl DataFolder {
    /// Takes a folder, or makes one.
    pub(crate) fn open(path: &Path, origin: &str, demo: bool) -> Result<Self, FolderError> {
        private_folder(path)?;
        let path = path.canonicalize().map_err(|source| FolderError::Io { path: path.to_owned(), source })?;
        let mark_path = path.join("countersign.json");
        let mut fresh = !mark_path.exists();
        if fresh && !is_ours(&path)? {
            return Err(FolderError::Foreign(path));
        }
        let lock_path = path.join("countersign.lock");
        let io = |source| FolderError::Io { path: lock_path.clone(), source };
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(FolderError::Locked(path)),
            Err(TryLockError::Error(source)) => return Err(FolderError::Io { path: lock_path, source }),
        }
        fresh = fresh && !mark_path.exists();
        let mark = if fresh {
            let mark = Mark {
                format: FORMAT,
                gateway: GatewayId::from_bytes(crate::mint::random_id()?),
                org: OrgId::from_bytes(crate::mint::random_id()?),
                log: LogId::from_bytes(crate::mint::random_id()?),
                origin: origin.to_owned(),
                demo,
                installation: Some(InstallationIds::random()?),
            };
            // From here on the folder has its ids; a crash later leaves a first start that the next one finishes.
            write_mark(&mark_path, &mark)?;
            mark
        } else {
            read_mark(&mark_path)?
        };
        match (mark.demo, demo) {
            (true, false) => Err(FolderError::Demo(path)),
            (false, true) => Err(FolderError::NotDemo(path)),
            _ => Ok(Self { path, mark: with_installation(&mark_path, mark)?, fresh, _lock: lock }),
        }
    }

    /// Where the ledger is.
    pub(crate) fn ledger(&self) -> PathBuf {
        self.path.join("ledger")
    }

    /// Where bundles are.
    pub(crate) fn policy(&self) -> PathBuf {
        self.path.join("policy")
    }
}

fn write_mark(path: &Path, mark: &Mark) -> Result<(), FolderError> {
    let mut text = serde_json::to_vec_pretty(mark).map_err(|_| FolderError::Mark(path.to_owned()))?;
    text.push(b'\n');
    Ok(write_private(path, &text)?)
}

/// Gives a folder of before the ids of the installation's log, once.
fn with_installation(path: &Path, mut mark: Mark) -> Result<Mark, FolderError> {
    if mark.installation.is_none() {
        mark.installation = Some(InstallationIds::random()?);
        write_mark(path, &mark)?;
    }
    Ok(mark)
}

/// Reads the mark of a folder without taking it.
pub(crate) fn read_mark(path: &Path) -> Result<Mark, FolderError> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let bytes = fs::read(path).map_err(|source| FolderError::Io { path: path.to_owned(), source })?;
    // The format first: a newer mark may have other fields.
    let Format { format } = serde_json::from_slice(&bytes).map_err(|_| FolderError::Mark(path.to_owned()))?;
    if format > FORMAT {
        return Err(FolderError::Newer { path: path.to_owned(), found: format });
    }
    serde_json::from_slice(&bytes).map_err(|_| FolderError::Mark(path.to_owned()))
}

/// Whether a folder without a mark may be made a data folder: there is nothing in it but what a start that was cut off
/// may have left.
fn is_ours(path: &Path) -> Result<bool, FolderError> {
    let io = |source| FolderError::Io { path: path.to_owned(), source };
    for entry in fs::read_dir(path).map_err(io)? {
        let name = entry.map_err(io)?.file_name();
        if name != "countersign.lock" && name != "countersign.tmp" && name != "countersign.toml" {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_of_one_process_and_keeps_its_ids() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let first = DataFolder::open(&path, "test", false).unwrap();
        assert!(first.fresh);
        assert!(matches!(DataFolder::open(&path, "test", false), Err(FolderError::Locked(_))));
        let mark = first.mark.clone();
        assert!(mark.installation.is_some());
        drop(first);
        let again = DataFolder::open(&path, "other", false).unwrap();
        assert!(!again.fresh);
        assert_eq!(again.mark, mark);
    }

    #[test]
    fn a_folder_of_before_the_installation_had_a_log_gets_its_ids_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let first = DataFolder::open(&path, "test", false).unwrap();
        let old = Mark { installation: None, ..first.mark.clone() };
        write_mark(&path.join("countersign.json"), &old).unwrap();
        drop(first);
        let given = DataFolder::open(&path, "test", false).unwrap().mark.installation.clone();
        assert!(given.is_some());
        assert_eq!(DataFolder::open(&path, "test", false).unwrap().mark.installation, given);
    }

    #[test]
    fn a_demo_and_a_gateway_do_not_share_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        drop(DataFolder::open(&dir.path().join("demo"), "test", true).unwrap());
        assert!(matches!(DataFolder::open(&dir.path().join("demo"), "test", false), Err(FolderError::Demo(_))));
        drop(DataFolder::open(&dir.path().join("up"), "test", false).unwrap());
        assert!(matches!(DataFolder::open(&dir.path().join("up"), "test", true), Err(FolderError::NotDemo(_))));
    }

    #[test]
    fn a_newer_or_foreign_folder_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        drop(DataFolder::open(&path, "test", false).unwrap());
        fs::write(path.join("countersign.json"), r#"{"format": 2, "shape": "new"}"#).unwrap();
        assert!(matches!(DataFolder::open(&path, "test", false), Err(FolderError::Newer { found: 2, .. })));
        let other = dir.path().join("other");
        private_folder(&other).unwrap();
        fs::write(other.join("thesis.tex"), "x").unwrap();
        assert!(matches!(DataFolder::open(&other, "test", false), Err(FolderError::Foreign(_))));
        assert_eq!(fs::read_dir(&other).unwrap().count(), 1);
    }
}
