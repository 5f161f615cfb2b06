//! `Objects` on a folder: for export, and wherever an object store is a mounted disk.
//!
//! An object is written under a temporary name, synced, and linked to its own name, which fails if that is taken: so two
//! writers cannot overwrite each other, and after a crash a name has whole bytes or none. Absent: any other layout than
//! the names themselves; the folder of an exported log is a tlog-tiles log as it stands.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;

use crate::objects::{ObjectError, Objects, Put, check_name};

/// Objects as files of a folder.
#[derive(Clone, Debug)]
pub struct FileObjects {
    root: Arc<PathBuf>,
    next: Arc<AtomicU64>,
}

impl FileObjects {
    /// Objects below `root`, which is made if it is not there.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(root: &Path) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        Ok(Self { root: Arc::new(root.to_owned()), next: Arc::default() })
    }

    async fn blocking<T: Send + 'static>(
        &self,
        name: &str,
        doing: &'static str,
        work: impl FnOnce(&Self, &str) -> Result<T, ObjectError> + Send + 'static,
    ) -> Result<T, ObjectError> {
        check_name(name)?;
        let (this, owned) = (self.clone(), name.to_owned());
        let done = tokio::task::spawn_blocking(move || work(&this, &owned)).await;
        done.unwrap_or_else(|source| Err(ObjectError::Store { name: name.to_owned(), doing, source: Box::new(source) }))
    }

    /// Writes and syncs a file that has no name yet.
    fn write_new(&self, path: &Path, bytes: &[u8]) -> io::Result<PathBuf> {
        let folder = path.parent().unwrap_or(&self.root);
        make_folder(&self.root, folder)?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let new = folder.join(format!(".new-{}-{number}", std::process::id()));
        let mut file = File::create(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        Ok(new)
    }

    fn put_now(&self, name: &str, bytes: &[u8]) -> Result<Put, ObjectError> {
        let path = self.root.join(name);
        let failed = |source: io::Error| store_error(name, "put", source);
        let same = |held: Vec<u8>| {
            if held == bytes { Ok(Put::Unchanged) } else { Err(ObjectError::Different(name.to_owned())) }
        };
        match fs::read(&path) {
            Ok(held) => return same(held),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let new = self.write_new(&path, bytes).map_err(failed)?;
        // Crash before the link: a file without a name is left behind; it is nobody's object.
        let linked = fs::hard_link(&new, &path);
        fs::remove_file(&new).map_err(failed)?;
        match linked {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return same(fs::read(&path).map_err(failed)?);
            }
            Err(error) => return Err(failed(error)),
        }
        sync_folder(&path).map_err(failed)?;
        Ok(Put::Stored)
    }

    fn replace_now(&self, name: &str, bytes: &[u8]) -> Result<(), ObjectError> {
        let path = self.root.join(name);
        let failed = |source: io::Error| store_error(name, "replaced", source);
        let new = self.write_new(&path, bytes).map_err(failed)?;
        fs::rename(&new, &path).map_err(failed)?;
        sync_folder(&path).map_err(failed)
    }
}

fn store_error(name: &str, doing: &'static str, source: io::Error) -> ObjectError {
    ObjectError::Store { name: name.to_owned(), doing, source: Box::new(source) }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

/// Makes the folders between `root` and `folder`, each durable in the one above it.
fn make_folder(root: &Path, folder: &Path) -> io::Result<()> {
    if folder == root || folder.is_dir() {
        return Ok(());
    }
    if let Some(above) = folder.parent() {
        make_folder(root, above)?;
    }
    match fs::create_dir(folder) {
        Ok(()) => sync_folder(folder),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

#[async_trait]
impl Objects for FileObjects {
    async fn put(&self, name: &str, bytes: &[u8]) -> Result<Put, ObjectError> {
        let bytes = bytes.to_vec();
        self.blocking(name, "put", move |this, name| this.put_now(name, &bytes)).await
    }

    async fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), ObjectError> {
        let bytes = bytes.to_vec();
        self.blocking(name, "replaced", move |this, name| this.replace_now(name, &bytes)).await
    }

    async fn get(&self, name: &str) -> Result<Option<Vec<u8>>, ObjectError> {
        self.blocking(name, "read", |this, name| match fs::read(this.root.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(store_error(name, "read", error)),
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_is_given_bytes_once() {
        let folder = tempfile::tempdir().unwrap();
        let objects = FileObjects::open(&folder.path().join("deep")).unwrap();
        assert_eq!(objects.get("tile/0/000").await.unwrap(), None);
        assert_eq!(objects.put("tile/0/000", b"one").await.unwrap(), Put::Stored);
        assert_eq!(objects.put("tile/0/000", b"one").await.unwrap(), Put::Unchanged);
        assert!(matches!(objects.put("tile/0/000", b"two").await, Err(ObjectError::Different(_))));
        assert_eq!(objects.get("tile/0/000").await.unwrap().as_deref(), Some(&b"one"[..]));
        objects.replace("checkpoint", b"1").await.unwrap();
        objects.replace("checkpoint", b"2").await.unwrap();
        assert_eq!(objects.get("checkpoint").await.unwrap().as_deref(), Some(&b"2"[..]));
        let left: Vec<_> = fs::read_dir(folder.path().join("deep/tile/0")).unwrap().collect();
        assert_eq!(left.len(), 1, "no temporary file is left");
    }

    #[tokio::test]
    async fn names_that_leave_the_folder_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let objects = FileObjects::open(folder.path()).unwrap();
        for name in ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/", ".hidden", "a b", "a\\b", "a\0b"] {
            assert!(matches!(objects.put(name, b"").await, Err(ObjectError::Name(_))), "{name:?}");
        }
    }

    #[tokio::test]
    async fn of_two_writers_of_one_name_one_wins_and_the_other_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let objects = FileObjects::open(folder.path()).unwrap();
        let mut tasks = Vec::new();
        for n in 0..16_u8 {
            let objects = objects.clone();
            tasks.push(tokio::spawn(async move { objects.put("name", &[n]).await }));
        }
        let mut stored = 0;
        for task in tasks {
            match task.await.unwrap() {
                Ok(put) => stored += usize::from(put == Put::Stored),
                Err(error) => assert!(matches!(error, ObjectError::Different(_))),
            }
        }
        assert_eq!(stored, 1);
    }
}
