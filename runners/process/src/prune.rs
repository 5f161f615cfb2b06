//! Removes trees that nobody needs any more, and the contents that only they named.
//!
//! Who decides what is needed is the caller: it names the trees that live instances name. Added to these are the trees of
//! runs that were not reaped, and whatever was taken, laid out or renewed within the retention: a tree that was just
//! uploaded, or just left by a run whose outcome is not committed yet, is named by nobody so far.
//!
//! A tree is taken and laid out, also by the shims, under a shared lock of the store's `lock` file, and removed under the
//! exclusive one, so none is removed half-way through. Read next: `workspace`.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use countersign_runners_contract::model::Digest;

use crate::durable::sync_folder;
use crate::time::machine;
use crate::workspace::{Trees, While as _, WorkspaceError};

/// What was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pruned {
    /// Trees.
    pub trees: usize,
    /// Contents that no tree is left to name.
    pub contents: usize,
    /// Bytes of both.
    pub bytes: u64,
}

/// Holds off whoever would remove a tree.
#[derive(Debug)]
pub(crate) struct Using {
    /// Unlocked when it is closed, also by a crash.
    _lock: File,
}

/// Holds off whoever would take a tree, lay one out, or begin a run with one.
#[derive(Debug)]
pub(crate) struct Alone<'s> {
    store: &'s Trees,
    _lock: File,
}

fn open_lock(folder: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(folder.join("lock"))
}

impl Trees {
    /// Waits for a removal under way, and keeps the next one off.
    pub(crate) fn using(&self) -> Result<Using, WorkspaceError> {
        let lock = open_lock(self.folder()).and_then(|lock| lock.lock_shared().map(|()| lock));
        lock.map(|lock| Using { _lock: lock }).while_(|| "lock the store".to_owned())
    }

    /// Waits for all that use a tree now, and keeps the next ones off.
    pub(crate) fn alone(&self) -> Result<Alone<'_>, WorkspaceError> {
        let lock = open_lock(self.folder()).and_then(|lock| lock.lock().map(|()| lock));
        lock.map(|lock| Alone { store: self, _lock: lock }).while_(|| "lock the store".to_owned())
    }

    /// Makes a tree young again: its retention begins anew. Whoever is about to name an older tree calls it first, so that
    /// it is not removed before it is named.
    ///
    /// # Errors
    /// [`WorkspaceError::Missing`] if the store has no such tree.
    pub fn renew(&self, digest: Digest) -> Result<(), WorkspaceError> {
        let _using = self.using()?;
        self.renew_used(digest)
    }

    /// As [`Trees::renew`]; false if the store has no such tree.
    ///
    /// # Errors
    /// The file system's.
    pub fn renew_if_kept(&self, digest: Digest) -> Result<bool, WorkspaceError> {
        match self.renew(digest) {
            Ok(()) => Ok(true),
            Err(WorkspaceError::Missing(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// As [`Trees::renew`], for whoever is using the store already.
    pub(crate) fn renew_used(&self, digest: Digest) -> Result<(), WorkspaceError> {
        match OpenOptions::new().write(true).open(self.tree_path(digest)).and_then(|file| file.set_modified(machine()))
        {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(WorkspaceError::Missing(digest)),
            other => other.while_(|| format!("renew tree `{digest}`")),
        }
    }
}

/// A file of the store whose name is a digest.
struct Named {
    path: PathBuf,
    digest: Digest,
    metadata: fs::Metadata,
}

impl Alone<'_> {
    /// Removes every tree that is not in `keep` and is older than `before`, then every content that no tree is left to name.
    ///
    /// Crash anywhere: trees go first, durably, so a tree that is still there has all its contents; contents that nobody
    /// names any more go with the next call. A tree that is kept but cannot be read stops it before anything is removed.
    pub(crate) fn prune(&self, keep: &BTreeSet<Digest>, before: SystemTime) -> Result<Pruned, WorkspaceError> {
        let folder = self.store.folder();
        let (mut named, mut old) = (BTreeSet::new(), Vec::new());
        for tree in digests(folder)? {
            let young = tree.metadata.modified().map_or(true, |at| at >= before);
            if young || keep.contains(&tree.digest) {
                named.extend(self.store.tree(tree.digest)?.files.values().map(|file| file.sha256));
            } else {
                old.push(tree);
            }
        }
        let mut gone = Pruned { trees: old.len(), ..Pruned::default() };
        for tree in &old {
            remove(tree, &mut gone.bytes)?;
        }
        if !old.is_empty() {
            // A tree that came back after a power cut would name contents that did not.
            sync_folder(folder).while_(|| "sync the store".to_owned())?;
        }
        let blobs = folder.join("blobs");
        for part in list(&blobs)? {
            if part.metadata().while_(|| format!("look at `{}`", part.display()))?.is_file() {
                // Nobody takes a tree now, so this is what a process left that ended while it did.
                fs::remove_file(&part).while_(|| format!("remove `{}`", part.display()))?;
                continue;
            }
            for content in digests(&part)?.iter().filter(|content| !named.contains(&content.digest)) {
                remove(content, &mut gone.bytes)?;
                gone.contents += 1;
            }
        }
        Ok(gone)
    }
}

fn list(folder: &Path) -> Result<Vec<PathBuf>, WorkspaceError> {
    let what = || format!("list `{}`", folder.display());
    fs::read_dir(folder).while_(what)?.map(|entry| entry.map(|e| e.path()).while_(what)).collect()
}

fn digests(folder: &Path) -> Result<Vec<Named>, WorkspaceError> {
    let mut found = Vec::new();
    for path in list(folder)? {
        if let Some(digest) = path.file_name().and_then(|name| name.to_str()?.parse().ok()) {
            let metadata = fs::metadata(&path).while_(|| format!("look at `{}`", path.display()))?;
            found.push(Named { path, digest, metadata });
        }
    }
    Ok(found)
}

fn remove(file: &Named, bytes: &mut u64) -> Result<(), WorkspaceError> {
    fs::remove_file(&file.path).while_(|| format!("remove `{}`", file.path.display()))?;
    *bytes = bytes.saturating_add(file.metadata.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::workspace::Caps;

    const LONG: Duration = Duration::from_hours(1);

    fn store(folder: &Path) -> Trees {
        Trees::open(&folder.join("trees"), Caps::default()).unwrap()
    }

    /// Takes a tree of two files, one of which all of them share.
    fn take(trees: &Trees, folder: &Path, text: &str) -> Digest {
        let work = folder.join("work");
        fs::create_dir_all(&work).unwrap();
        fs::write(work.join("shared"), "shared").unwrap();
        fs::write(work.join("own"), text).unwrap();
        trees.snapshot(&work).unwrap().digest
    }

    fn age(trees: &Trees, digest: Digest) {
        let Ok(file) = OpenOptions::new().write(true).open(trees.tree_path(digest)) else { return };
        file.set_modified(machine() - 2 * LONG).unwrap();
    }

    fn whole(trees: &Trees, digest: Digest) -> bool {
        let folder = tempfile::tempdir().unwrap();
        trees.materialise(digest, folder.path()).is_ok()
    }

    fn prune(trees: &Trees, keep: &[Digest]) -> Result<Pruned, WorkspaceError> {
        trees.alone().unwrap().prune(&keep.iter().copied().collect(), machine() - LONG)
    }

    #[test]
    fn only_what_is_old_and_named_by_nobody_goes() {
        let dir = tempfile::tempdir().unwrap();
        let trees = store(dir.path());
        let [live, young, old, renewed, taken_again] =
            ["live", "young", "old", "renewed", "taken again"].map(|text| take(&trees, dir.path(), text));
        for digest in [live, old, renewed, taken_again] {
            age(&trees, digest);
        }
        trees.renew(renewed).unwrap();
        assert_eq!(take(&trees, dir.path(), "taken again"), taken_again);
        let gone = prune(&trees, &[live]).unwrap();
        assert_eq!((gone.trees, gone.contents), (1, 1));
        assert!(gone.bytes > 3);
        assert!(matches!(trees.tree(old), Err(WorkspaceError::Missing(_))));
        assert!(matches!(trees.renew(old), Err(WorkspaceError::Missing(_))));
        for digest in [live, young, renewed, taken_again] {
            assert!(whole(&trees, digest));
        }
        assert_eq!(prune(&trees, &[live]).unwrap(), Pruned::default());
        // What is taken after it is whole, also where it has contents that were removed.
        let again = take(&trees, dir.path(), "old");
        assert_eq!(again, old);
        assert!(whole(&trees, again));
    }

    #[test]
    fn what_a_crash_left_goes_with_the_next_call() {
        let dir = tempfile::tempdir().unwrap();
        let trees = store(dir.path());
        let (kept, gone) = (take(&trees, dir.path(), "kept"), take(&trees, dir.path(), "gone"));
        // As after a crash between the trees and the contents, and one while a tree was taken.
        fs::remove_file(trees.tree_path(gone)).unwrap();
        let partial = trees.folder().join("blobs/partial.1.x");
        fs::write(&partial, "half").unwrap();
        assert_eq!(prune(&trees, &[]).unwrap().contents, 1);
        assert!(!partial.exists());
        assert!(whole(&trees, kept));
    }

    #[test]
    fn a_kept_tree_that_cannot_be_read_stops_it_before_anything_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let trees = store(dir.path());
        let (kept, old) = (take(&trees, dir.path(), "kept"), take(&trees, dir.path(), "old"));
        fs::write(trees.tree_path(kept), "damaged").unwrap();
        age(&trees, old);
        assert!(matches!(prune(&trees, &[kept]), Err(WorkspaceError::Damaged(_))));
        assert!(whole(&trees, old));
    }

    #[test]
    fn nothing_is_removed_while_a_tree_is_taken_or_laid_out() {
        let dir = tempfile::tempdir().unwrap();
        let trees = store(dir.path());
        let old = take(&trees, dir.path(), "old");
        age(&trees, old);
        let using = trees.using().unwrap();
        let pruning = std::thread::spawn({
            let trees = trees.clone();
            move || prune(&trees, &[]).unwrap()
        });
        // The other thread waits for the lock, and the kernel says so.
        let waits = || {
            let locks = fs::read_to_string("/proc/locks").unwrap();
            let own = format!(" {} ", std::process::id());
            locks.lines().any(|line| line.contains("-> FLOCK") && line.contains(&own))
        };
        let begin = crate::time::monotonic();
        while !waits() && begin.elapsed() < Duration::from_secs(20) {
            assert!(!pruning.is_finished(), "it did not wait");
            std::thread::yield_now();
        }
        assert!(whole_under(&trees, old, &using));
        drop(using);
        assert_eq!(pruning.join().unwrap().trees, 1);
        assert!(!whole(&trees, old));
    }

    /// Under a lock that is held already: a second one would wait behind whoever waits for the first.
    fn whole_under(trees: &Trees, digest: Digest, _: &Using) -> bool {
        trees.tree(digest).is_ok_and(|tree| tree.files.values().all(|file| trees.blob(file.sha256).is_ok()))
    }

    #[test]
    fn trees_taken_while_others_are_removed_are_whole() {
        let dir = tempfile::tempdir().unwrap();
        let trees = store(dir.path());
        let mut gone = 0;
        std::thread::scope(|scope| {
            let mut tasks = Vec::new();
            for task in 0..2 {
                let (trees, folder) = (&trees, dir.path().join(format!("task{task}")));
                tasks.push(scope.spawn(move || {
                    for n in 0..60 {
                        let digest = take(trees, &folder, &format!("{task} {}", n % 3));
                        assert!(whole(trees, digest), "{n}");
                        // From here on it may go at any time; the content that all of them share goes with the last one.
                        age(trees, digest);
                    }
                }));
            }
            while !tasks.iter().all(std::thread::ScopedJoinHandle::is_finished) {
                gone += prune(&trees, &[]).unwrap().trees;
            }
        });
        gone += prune(&trees, &[]).unwrap().trees;
        assert!(gone >= 6, "each of the six trees was left old: {gone}");
    }
}
