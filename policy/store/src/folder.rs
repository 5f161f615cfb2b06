//! A bundle from a folder or a file, bounded: no links followed, nothing special opened, limits before memory.
//!
//! Absent: what the files mean (`policy/bundle`). Read next: `store`.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use countersign_policy_bundle::{
    Bundle, BundleError, CATALOGUE_FILE, Draft, MAX_BUNDLE_BYTES, MAX_FILE_BYTES, MAX_FILES, MAX_TRANSPORT_BYTES,
};
use countersign_policy_decide::catalogue::{Catalogue, CatalogueError};

/// How deep folders are read; a bundle's paths are not longer.
const MAX_DEPTH: usize = 6;

/// Why a folder or a file is not read as a bundle.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The system says no.
    #[error("`{path}` cannot be read; check that it exists and who may read it")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A link, a socket, a device: something that is not simply there.
    #[error("`{0}` is neither a file nor a folder; a bundle holds plain files only")]
    Special(PathBuf),
    /// A name that is not UTF-8.
    #[error("`{0}` has a name that is not utf-8; rename it")]
    Name(PathBuf),
    /// Too much.
    #[error("`{path}` is too {what} for a bundle")]
    TooMuch {
        /// Where.
        path: PathBuf,
        /// `large`, `deep` or `full`.
        what: &'static str,
    },
    /// Not a bundle.
    #[error("`{path}` is not a bundle")]
    Bundle {
        /// What was read.
        path: PathBuf,
        /// Why.
        source: BundleError,
    },
    /// Not a catalogue.
    #[error("`{path}` is not a tool catalogue")]
    Catalogue {
        /// What was read.
        path: PathBuf,
        /// Why.
        source: CatalogueError,
    },
}

/// Every file under a folder, by its path with `/`. Hidden files and folders (`.git`) are left out.
pub fn read_folder(folder: &Path) -> Result<Vec<(String, Vec<u8>)>, FolderError> {
    let mut files = Vec::new();
    let mut total = 0;
    walk(folder, "", 0, &mut files, &mut total)?;
    files.sort();
    Ok(files)
}

fn walk(
    folder: &Path,
    prefix: &str,
    depth: usize,
    files: &mut Vec<(String, Vec<u8>)>,
    total: &mut usize,
) -> Result<(), FolderError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| FolderError::Io { path, source }
    };
    if depth > MAX_DEPTH {
        return Err(FolderError::TooMuch { path: folder.to_owned(), what: "deep" });
    }
    for entry in fs::read_dir(folder).map_err(io(folder))? {
        let path = entry.map_err(io(folder))?.path();
        let name = path.file_name().and_then(|n| n.to_str()).ok_or_else(|| FolderError::Name(path.clone()))?;
        if name.starts_with('.') {
            continue;
        }
        let inner = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") };
        // Of the link itself, not of what it points to: a link could lead anywhere on this machine.
        let kind = fs::symlink_metadata(&path).map_err(io(&path))?.file_type();
        if kind.is_dir() {
            walk(&path, &inner, depth + 1, files, total)?;
        } else if kind.is_file() {
            let bytes = read_bounded(&path, MAX_FILE_BYTES)?;
            *total += bytes.len();
            if *total > MAX_BUNDLE_BYTES {
                return Err(FolderError::TooMuch { path: folder.to_owned(), what: "large" });
            }
            files.push((inner, bytes));
            if files.len() > MAX_FILES + 2 {
                return Err(FolderError::TooMuch { path: folder.to_owned(), what: "full" });
            }
        } else {
            return Err(FolderError::Special(path));
        }
    }
    Ok(())
}

/// At most `limit` bytes, however large the file says it is.
pub(crate) fn read_bounded(path: &Path, limit: usize) -> Result<Vec<u8>, FolderError> {
    let io = |source| FolderError::Io { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    fs::File::open(path).map_err(io)?.take(most).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() > limit {
        return Err(FolderError::TooMuch { path: path.to_owned(), what: "large" });
    }
    Ok(bytes)
}

/// What an author works on: a folder, sealed or not, or a bundle file.
pub fn read_draft(path: &Path) -> Result<Draft, FolderError> {
    let bad = |source| FolderError::Bundle { path: path.to_owned(), source };
    if path.is_dir() { Draft::from_files(read_folder(path)?).map_err(bad) } else { Ok(read_bundle(path)?.to_draft()) }
}

/// A sealed bundle: a folder with its manifest, or a bundle file.
pub fn read_bundle(path: &Path) -> Result<Bundle, FolderError> {
    let bad = |source| FolderError::Bundle { path: path.to_owned(), source };
    if path.is_dir() {
        Bundle::from_files(read_folder(path)?).map_err(bad)
    } else {
        Bundle::from_bytes(&read_bounded(path, MAX_TRANSPORT_BYTES)?).map_err(bad)
    }
}

/// A tool catalogue: a file, or a bundle's folder in which one lies; none if none lies there.
pub fn read_catalogue(path: &Path) -> Result<Option<Catalogue>, FolderError> {
    let file = if path.is_dir() { path.join(CATALOGUE_FILE) } else { path.to_owned() };
    if path.is_dir() && !file.exists() {
        return Ok(None);
    }
    let bytes = read_bounded(&file, MAX_FILE_BYTES)?;
    Catalogue::parse(&bytes).map(Some).map_err(|source| FolderError::Catalogue { path: file, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_read_without_links_hidden_files_and_beyond_no_limit() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("policies/.git")).unwrap();
        fs::write(root.join("policies/a.cedar"), "a").unwrap();
        fs::write(root.join("policies/.git/x"), "x").unwrap();
        fs::write(root.join("README.md"), "r").unwrap();
        let names: Vec<String> = read_folder(root).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["README.md", "policies/a.cedar"]);
        assert_eq!(read_draft(root).unwrap().files.len(), 2);
        assert!(matches!(read_bundle(root), Err(FolderError::Bundle { .. })), "not sealed");

        std::os::unix::fs::symlink("/etc/passwd", root.join("policies/b.cedar")).unwrap();
        assert!(matches!(read_folder(root), Err(FolderError::Special(_))));
        fs::remove_file(root.join("policies/b.cedar")).unwrap();
        fs::write(root.join("policies/b.cedar"), vec![b' '; MAX_FILE_BYTES + 1]).unwrap();
        assert!(matches!(read_folder(root), Err(FolderError::TooMuch { .. })));
        assert!(matches!(read_folder(&root.join("nowhere")), Err(FolderError::Io { .. })));
    }
}
