//! The organizations of an installation, as folders: who each one is, and where its keys, its runs and its token lie.
//!
//! Ids are made once, here, and never change. The first organization, `default`, lies in the data folder itself; each
//! further one in `organizations/<name>`; the installation's own log, which is nobody's, in `installation`. Which
//! organizations there must be is said by the installation's log (`installation`), not by the folders. Absent: what
//! becomes of them (`gateway`).

use std::fs;
use std::path::{Path, PathBuf};

use countersign_gateway_model::{LogId, Name, OrgId};
use serde::{Deserialize, Serialize};

use crate::folder::{DataFolder, Mark};
use crate::keys::{KeysError, private_folder, write_private};

/// The organization that every installation begins with.
pub(crate) const DEFAULT: &str = "default";

/// Folder of all further organizations.
const FOLDER: &str = "organizations";

/// File that makes a folder an organization's.
const FILE: &str = "organization.json";

/// Most letters of a name: it is a folder's.
const LONGEST: usize = 63;

/// Why an organization is not found or not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlaceError {
    /// Permissions, or the system says no.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// It cannot be read.
    #[error("`{path}` cannot be read: check the folder and its owner")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not what it should be.
    #[error("`{0}` does not say which organization its folder belongs to: restore it from a copy of the folder")]
    File(PathBuf),
    /// Not a name that can be a folder's.
    #[error("`{0}` cannot be the name of an organization: give lowercase letters, digits and dashes, at most 63")]
    Name(String),
    /// There is one.
    #[error("there is an organization `{0}` already: choose another name")]
    Exists(String),
    /// Two folders are of one organization.
    #[error("`{one}` and `{other}` are of the same organization: move the copy out of the data folder")]
    Twice {
        /// One of them.
        one: PathBuf,
        /// The other.
        other: PathBuf,
    },
    /// There is none.
    #[error("there is no organization `{0}`: see `countersign organization list`")]
    Unknown(String),
    /// No random bytes.
    #[error("the system gives no random bytes")]
    Random(#[from] getrandom::Error),
}

impl PlaceError {
    /// Stable name of the problem, for `openapi/problems/<code>.md`; none where nothing is wrong with folder or name.
    pub(crate) fn code(&self) -> Option<&'static str> {
        match self {
            Self::Keys(error) => error.code(),
            Self::Io { .. } => Some("folder-unusable"),
            Self::File(_) => Some("folder-damaged"),
            Self::Name(_) => Some("organization-name-invalid"),
            Self::Exists(_) => Some("organization-exists"),
            Self::Twice { .. } => Some("folder-duplicate"),
            Self::Unknown(_) => Some("organization-unknown"),
            Self::Random(_) => None,
        }
    }
}

/// Where one organization lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// What the operator calls it. No entry holds it.
    pub name: Name,
    /// The organization.
    pub org: OrgId,
    /// Its log.
    pub log: LogId,
    folder: PathBuf,
}

/// What the file of an organization says.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ids {
    organization: OrgId,
    log: LogId,
}

impl Place {
    /// Where the keys of its log are.
    pub(crate) fn keys(&self) -> PathBuf {
        self.folder.join("keys")
    }

    /// Where its runs and trees are.
    pub(crate) fn runner(&self) -> PathBuf {
        self.folder.join("runner")
    }

    /// The root key's public half, to be given to auditors.
    pub(crate) fn root_vkey(&self) -> PathBuf {
        self.folder.join("root.vkey")
    }

    /// The one-time enrolment token of its first person.
    pub(crate) fn enrolment(&self) -> PathBuf {
        self.folder.join("enrolment.token")
    }
}

/// The installation's own place: a log, and no people.
pub(crate) fn installation(data: &Path, mark: &Mark) -> Result<Place, PlaceError> {
    let folder = data.join("installation");
    let named = || PlaceError::File(data.join("countersign.json"));
    let ids = mark.installation.as_ref().ok_or_else(named)?;
    let name = Name::new("installation").map_err(|_| named())?;
    Ok(Place { name, org: ids.org, log: ids.log, folder })
}

/// All organizations of a data folder: `default`, then the others by name. Changes nothing and needs no lock.
pub(crate) fn all(data: &Path, mark: &Mark) -> Result<Vec<Place>, PlaceError> {
    let name = Name::new(DEFAULT).map_err(|_| PlaceError::Name(DEFAULT.to_owned()))?;
    let mut places = vec![Place { name, org: mark.org, log: mark.log, folder: data.to_owned() }];
    let folder = data.join(FOLDER);
    let io = |source| PlaceError::Io { path: folder.clone(), source };
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(places),
        Err(error) => return Err(io(error)),
    };
    let mut others = Vec::new();
    for entry in entries {
        let path = entry.map_err(io)?.path();
        // A folder without the file is what a creation left that was cut off, or nothing of ours; one that the
        // installation's log knows is missed there.
        if path.join(FILE).exists() {
            others.push(read(path)?);
        }
    }
    others.sort_by(|a, b| a.name.cmp(&b.name));
    for other in others {
        // A copied folder would be a second life of one log.
        if let Some(same) = places.iter().find(|place| place.org == other.org || place.log == other.log) {
            return Err(PlaceError::Twice { one: same.folder.clone(), other: other.folder });
        }
        places.push(other);
    }
    Ok(places)
}

fn read(folder: PathBuf) -> Result<Place, PlaceError> {
    let file = folder.join(FILE);
    let bytes = fs::read(&file).map_err(|source| PlaceError::Io { path: file.clone(), source })?;
    let ids: Ids = serde_json::from_slice(&bytes).map_err(|_| PlaceError::File(file.clone()))?;
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(Place { name: checked(&name)?, org: ids.organization, log: ids.log, folder })
}

fn checked(name: &str) -> Result<Name, PlaceError> {
    let wrong = || PlaceError::Name(name.to_owned());
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.len() > LONGEST || name.starts_with('-') || !name.chars().all(plain) {
        return Err(wrong());
    }
    Name::new(name).map_err(|_| wrong())
}

/// Gives a new organization its ids and its folder. The caller holds the data folder.
pub(crate) fn create(folder: &DataFolder, name: &str) -> Result<Place, PlaceError> {
    let name = checked(name)?;
    if all(&folder.path, &folder.mark)?.iter().any(|place| place.name == name) {
        return Err(PlaceError::Exists(name.to_string()));
    }
    let ids = Ids {
        organization: OrgId::from_bytes(crate::mint::random_id()?),
        log: LogId::from_bytes(crate::mint::random_id()?),
    };
    let path = folder.path.join(FOLDER).join(name.as_str());
    private_folder(&folder.path.join(FOLDER))?;
    private_folder(&path)?;
    let file = path.join(FILE);
    let mut text = serde_json::to_vec_pretty(&ids).map_err(|_| PlaceError::File(file.clone()))?;
    text.push(b'\n');
    // From here on it has its ids; a crash later leaves an organization that the next start finishes.
    write_private(&file, &text)?;
    Ok(Place { name, org: ids.organization, log: ids.log, folder: path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_organization_is_made_once_and_keeps_its_ids() {
        let dir = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(&dir.path().join("data"), "test", false).unwrap();
        let made = create(&folder, "north").unwrap();
        assert!(matches!(create(&folder, "north"), Err(PlaceError::Exists(_))));
        assert!(matches!(create(&folder, DEFAULT), Err(PlaceError::Exists(_))));
        create(&folder, "east").unwrap();
        let places = all(&folder.path, &folder.mark).unwrap();
        let names: Vec<&str> = places.iter().map(|place| place.name.as_str()).collect();
        assert_eq!(names, [DEFAULT, "east", "north"]);
        assert_eq!(places.last(), Some(&made));
        let installation = installation(&folder.path, &folder.mark).unwrap();
        assert!(places.iter().all(|place| place.org != installation.org && place.log != installation.log));
    }

    #[test]
    fn a_name_stays_inside_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(&dir.path().join("data"), "test", false).unwrap();
        for name in ["", ".", "..", "a/b", "../x", "-a", "North", "a b", "ä", &"a".repeat(64)] {
            assert!(matches!(create(&folder, name), Err(PlaceError::Name(_))), "{name}");
        }
        assert_eq!(all(&folder.path, &folder.mark).unwrap().len(), 1);
    }

    #[test]
    fn what_a_cut_off_creation_left_is_no_organization_and_may_be_finished() {
        let dir = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(&dir.path().join("data"), "test", false).unwrap();
        private_folder(&folder.path.join(FOLDER).join("north")).unwrap();
        assert_eq!(all(&folder.path, &folder.mark).unwrap().len(), 1);
        create(&folder, "north").unwrap();
        fs::write(folder.path.join(FOLDER).join("north").join(FILE), "{}").unwrap();
        assert!(matches!(all(&folder.path, &folder.mark), Err(PlaceError::File(_))));
    }
}
