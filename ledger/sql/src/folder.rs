//! The data folder: its lock, what kind of file system it is on, how much room there is, the reserve.
//!
//! Absent: the database inside it (`open`).

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nix::sys::statfs::statfs;
use nix::sys::statvfs::statvfs;

use crate::error::SqlError;

const DATABASE: &str = "ledger.db";
const LOCK: &str = "ledger.lock";
const RESERVE: &str = "ledger.reserve";

/// File systems whose locks or syncs reach another machine, by the kernel's magic numbers (statfs(2)).
const NETWORK: [(u32, &str); 11] = [
    (0x0000_6969, "nfs"),
    (0x0000_517b, "smb"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb2"),
    (0x7375_7245, "coda"),
    (0x5346_414f, "afs"),
    (0x0000_564c, "ncp"),
    (0x0102_1997, "9p"),
    (0x00c3_6400, "ceph"),
    (0x0bd0_0bd0, "lustre"),
    (0x4750_4653, "gpfs"),
];

/// A folder that this process holds.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// The operating system drops the lock with the process, so a crash leaves none behind.
    lock: Mutex<Option<File>>,
}

fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SqlError {
    move |source| SqlError::Io { doing, path: path.to_owned(), source }
}

impl Folder {
    /// Makes the folder if it is not there, and takes it for this process alone.
    pub(crate) fn take(path: &Path) -> Result<Self, SqlError> {
        std::fs::create_dir_all(path).map_err(io("made", path))?;
        if let Some(kind) = network_file_system(path)? {
            return Err(SqlError::Network { path: path.to_owned(), kind });
        }
        let name = path.join(LOCK);
        let lock =
            OpenOptions::new().create(true).truncate(false).write(true).open(&name).map_err(io("opened", &name))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), lock: Mutex::new(Some(lock)) }),
            Err(TryLockError::WouldBlock) => Err(SqlError::Locked(path.to_owned())),
            Err(TryLockError::Error(source)) => Err(SqlError::Io { doing: "locked", path: name, source }),
        }
    }

    /// A folder that this process only reads: whoever holds it goes on writing.
    pub(crate) fn look(path: &Path) -> Self {
        Self { path: path.to_owned(), lock: Mutex::new(None) }
    }

    /// Lets the next process take the folder. Nothing may be written to it any more.
    pub(crate) fn leave(&self) {
        drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.path.join(DATABASE)
    }

    pub(crate) fn wal(&self) -> PathBuf {
        self.path.join(format!("{DATABASE}-wal"))
    }

    /// Syncs a file of the folder and the folder itself.
    pub(crate) fn sync(&self, file: &Path) -> Result<(), SqlError> {
        File::open(file).and_then(|f| f.sync_all()).map_err(io("synced", file))?;
        File::open(&self.path).and_then(|f| f.sync_all()).map_err(io("synced", &self.path))
    }

    /// Bytes free for an unprivileged process.
    pub(crate) fn free_space(&self) -> Option<u64> {
        let stat = statvfs(&self.path).ok()?;
        Some(stat.blocks_available() * stat.fragment_size())
    }

    /// Takes `bytes` of room that is given up only for entries that must not be lost. Without room there is no reserve.
    pub(crate) fn keep_reserve(&self, bytes: u64) {
        let name = self.path.join(RESERVE);
        if self.free_space().is_some_and(|free| free / 2 < bytes) {
            tracing::warn!(path = %name.display(), "the disk is too full for a reserve; free some space and start again");
            return;
        }
        let kept = OpenOptions::new().create(true).truncate(false).write(true).open(&name).and_then(|file| {
            if file.metadata()?.len() < bytes {
                let length = i64::try_from(bytes).map_err(io::Error::other)?;
                nix::fcntl::posix_fallocate(&file, 0, length)?;
            }
            file.sync_all()
        });
        if let Err(error) = kept {
            tracing::warn!(path = %name.display(), %error, "the disk's reserve could not be taken");
        }
    }

    /// Gives the reserve up. True if there was one.
    pub(crate) fn release_reserve(&self) -> bool {
        let name = self.path.join(RESERVE);
        let held = std::fs::metadata(&name).is_ok_and(|meta| meta.len() > 0);
        held && std::fs::remove_file(&name).is_ok()
    }
}

/// The network file system that a path is on, if it is on one.
fn network_file_system(path: &Path) -> Result<Option<&'static str>, SqlError> {
    let stat = statfs(path).map_err(|errno| io("examined", path)(errno.into()))?;
    // The kernel's numbers have 32 bits; the type that carries them differs between architectures, sign included.
    let magic = u32::try_from(stat.filesystem_type().0 & 0xffff_ffff).unwrap_or(0);
    Ok(kind_of(magic))
}

fn kind_of(magic: u32) -> Option<&'static str> {
    NETWORK.iter().find(|(known, _)| *known == magic).map(|(_, kind)| *kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_taken_by_one_holder_at_a_time() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("deep/data");
        let held = Folder::take(&path).unwrap();
        assert!(matches!(Folder::take(&path), Err(SqlError::Locked(_))));
        drop(held);
        Folder::take(&path).unwrap();
    }

    #[test]
    fn a_folder_on_another_machine_is_told_from_one_on_this() {
        // As statfs(2) lists them, beside those of disks and memory of this machine.
        for (magic, kind) in [(0x6969, "nfs"), (0xff53_4d42, "cifs"), (0x0102_1997, "9p"), (0x00c3_6400, "ceph")] {
            assert_eq!(kind_of(magic), Some(kind));
        }
        for (magic, kind) in [(0xef53, "ext4"), (0x5846_5342, "xfs"), (0x9123_683e, "btrfs"), (0x0102_1994, "tmpfs")] {
            assert_eq!(kind_of(magic), None, "{kind}");
        }
        assert_eq!(network_file_system(tempfile::tempdir().unwrap().path()).unwrap(), None);
    }

    #[test]
    fn the_reserve_is_given_up_once() {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::take(temp.path()).unwrap();
        assert!(!folder.release_reserve());
        folder.keep_reserve(1 << 20);
        assert!(folder.release_reserve());
        assert!(!folder.release_reserve());
        assert!(folder.free_space().unwrap() > 0);
    }
}
