//! What the store keeps on disk: root documents by version, bundles and catalogues by digest, and which pair was last
//! good.
//!
//! Content is immutable and named by its digest, so a verdict of years ago finds its bundle. Every file is written to a
//! temporary name, synced, renamed, and its folder synced. Absent: what is in force (the ledger says). Read next:
//! `store`.
//!
//! ```text
//! <folder>/<org>/roots/<version>.json      signed root documents
//! <folder>/<org>/bundles/<digest>.json     bundles in transport form
//! <folder>/<org>/catalogues/<digest>.json  catalogues in canonical form
//! <folder>/<org>/active.json               {"bundle": digest, "catalogue": digest or null}
//! ```

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use countersign_policy_bundle::{Digest, MAX_TRANSPORT_BYTES, OrgId};
use serde::{Deserialize, Serialize};

use crate::folder::{FolderError, read_bounded};

/// How many bytes a pointer or a root document may have.
const MAX_SMALL: usize = 64 * 1024;

/// Which bundle and catalogue were last good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pointer {
    pub(crate) bundle: Digest,
    pub(crate) catalogue: Option<Digest>,
}

/// One organization's folder.
#[derive(Clone, Debug)]
pub(crate) struct OrgFolder(PathBuf);

impl OrgFolder {
    pub(crate) fn new(root: &Path, org: OrgId) -> Self {
        Self(root.join(org.to_string()))
    }

    fn root(&self, version: u64) -> PathBuf {
        self.0.join("roots").join(format!("{version}.json"))
    }

    fn bundle(&self, digest: &Digest) -> PathBuf {
        self.0.join("bundles").join(format!("{digest}.json"))
    }

    fn catalogue(&self, digest: &Digest) -> PathBuf {
        self.0.join("catalogues").join(format!("{digest}.json"))
    }

    fn pointer(&self) -> PathBuf {
        self.0.join("active.json")
    }

    pub(crate) fn write_root(&self, version: u64, bytes: &[u8]) -> Result<(), FolderError> {
        write(&self.root(version), bytes)
    }

    /// The signed root documents from version 1 on, as far as they go.
    pub(crate) fn read_roots(&self) -> Result<Vec<Vec<u8>>, FolderError> {
        let mut documents = Vec::new();
        for version in 1.. {
            match read_bounded(&self.root(version), MAX_SMALL) {
                Ok(bytes) => documents.push(bytes),
                Err(FolderError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(error),
            }
        }
        Ok(documents)
    }

    pub(crate) fn write_bundle(&self, digest: &Digest, bytes: &[u8]) -> Result<(), FolderError> {
        write(&self.bundle(digest), bytes)
    }

    pub(crate) fn read_bundle(&self, digest: &Digest) -> Result<Vec<u8>, FolderError> {
        read_bounded(&self.bundle(digest), MAX_TRANSPORT_BYTES)
    }

    pub(crate) fn write_catalogue(&self, digest: &Digest, bytes: &[u8]) -> Result<(), FolderError> {
        write(&self.catalogue(digest), bytes)
    }

    pub(crate) fn read_catalogue(&self, digest: &Digest) -> Result<Vec<u8>, FolderError> {
        read_bounded(&self.catalogue(digest), MAX_TRANSPORT_BYTES)
    }

    pub(crate) fn write_pointer(&self, pointer: &Pointer) -> Result<(), FolderError> {
        let io = |e: serde_json::Error| FolderError::Io { path: self.pointer(), source: e.into() };
        write(&self.pointer(), &serde_json::to_vec(pointer).map_err(io)?)
    }

    /// The last good pair; none before the first activation, and none if the pointer was damaged.
    pub(crate) fn read_pointer(&self) -> Result<Option<Pointer>, FolderError> {
        match read_bounded(&self.pointer(), MAX_SMALL) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(FolderError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Replaces a file whole or not at all, and makes that durable.
fn write(path: &Path, bytes: &[u8]) -> Result<(), FolderError> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let io = |source| FolderError::Io { path: path.to_owned(), source };
    let folder = path.parent().ok_or_else(|| io(io::ErrorKind::InvalidInput.into()))?;
    create_folder(folder).map_err(io)?;
    // Two writers of one file never share a temporary name; what a crash leaves behind is hidden and never read.
    let temporary = folder.join(format!(".{}-{}.tmp", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    let result = (|| {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).open(&temporary)?;
        file.write_all(bytes)?;
        // Crash before this sync: the old file stands, a torn temporary one is left.
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        // Crash before this sync: either file stands, whole; the caller was not told that it is kept.
        fs::File::open(folder)?.sync_all()
    })();
    if result.is_err() {
        // Best effort: the error that matters is the one that is returned.
        let _ = fs::remove_file(&temporary);
    }
    result.map_err(io)
}

/// Creates a folder and makes every new name on the way durable.
fn create_folder(folder: &Path) -> io::Result<()> {
    // The parent of a bare relative name is the empty path, which is the current folder.
    if folder.as_os_str().is_empty() || folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent() {
        create_folder(parent)?;
        match fs::create_dir(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        fs::File::open(parent)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let org = OrgFolder::new(dir.path(), OrgId::from_bytes([1; 16]));
        assert_eq!(org.read_pointer().unwrap(), None);
        for n in 0..3 {
            let pointer = Pointer { bundle: Digest([n; 32]), catalogue: (n > 1).then_some(Digest([n; 32])) };
            org.write_pointer(&pointer).unwrap();
            assert_eq!(org.read_pointer().unwrap(), Some(pointer));
        }
        assert_eq!(fs::read_dir(&org.0).unwrap().count(), 1, "no temporary file stays");
        fs::write(org.pointer(), "{\"bundle\":").unwrap();
        assert_eq!(org.read_pointer().unwrap(), None, "a damaged pointer points nowhere");
    }

    #[test]
    fn a_write_that_cannot_be_kept_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "x").unwrap();
        let org = OrgFolder(dir.path().join("file"));
        assert!(org.write_bundle(&Digest([1; 32]), b"x").is_err());
    }
}
