//! Workspaces as content-addressed trees: taken from a folder, kept by digest, laid out for the next run.
//!
//! A tree is its folders and regular files with their contents; modes are 0644 or 0755; owners, times, links and
//! everything else are not part of it. Its digest is SHA-256 over `countersign/tree/v1\0` and the canonical bytes,
//! which begin with a salt of the store: equal trees of one store have equal digests, and nobody else can guess a
//! tree from one. Links are never followed, neither taking nor laying out.
//!
//! ```text
//! trees/salt            32 random bytes
//! trees/lock            shared while a tree is taken or laid out, exclusive while some are removed (`prune`)
//! trees/<digest>        canonical bytes of a tree
//! trees/blobs/ab/<sha>  contents, by plain SHA-256
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CString, OsStr};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use countersign_runners_contract::model::Digest;
use countersign_runners_contract::{Artifact, Manifest, Pattern, Refusal, Refused, TreePath};
use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstatat};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::durable::{sync_folder, write_durably};
use crate::spec::RunUser;

const DOMAIN: &[u8] = b"countersign/tree/v1\0";

/// The most things that are listed as left out.
const MAX_REFUSED: usize = 100;

/// Caps of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Caps {
    /// Files and folders.
    pub entries: usize,
    /// Bytes of all files together.
    pub bytes: u64,
}

impl Default for Caps {
    /// 20,000 entries, 1 GiB.
    fn default() -> Self {
        Self { entries: 20_000, bytes: 1 << 30 }
    }
}

/// Why a tree cannot be taken or laid out.
#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    /// The store has no such tree.
    #[error("workspace `{0}` is not in this store")]
    Missing(Digest),
    /// What is stored is not what its name says.
    #[error("`{0}` is damaged in the store: restore it from a copy")]
    Damaged(String),
    /// Over a cap.
    #[error("the workspace is over the cap of {0}")]
    TooLarge(String),
    /// The machine failed.
    #[error("cannot {what}")]
    Io {
        /// What was being done.
        what: String,
        /// What the machine said.
        #[source]
        source: io::Error,
    },
}

pub(crate) trait While<T> {
    fn while_(self, what: impl FnOnce() -> String) -> Result<T, WorkspaceError>;
}

impl<T> While<T> for io::Result<T> {
    fn while_(self, what: impl FnOnce() -> String) -> Result<T, WorkspaceError> {
        self.map_err(|source| WorkspaceError::Io { what: what(), source })
    }
}

impl<T> While<T> for nix::Result<T> {
    fn while_(self, what: impl FnOnce() -> String) -> Result<T, WorkspaceError> {
        self.map_err(io::Error::from).while_(what)
    }
}

/// A tree: what its digest is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tree {
    format: u32,
    salt: Digest,
    /// Folders, without the root.
    pub folders: BTreeSet<TreePath>,
    /// Files by path.
    pub files: BTreeMap<TreePath, TreeFile>,
}

/// One file of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TreeFile {
    /// True: 0755, false: 0644.
    pub executable: bool,
    /// Length in bytes.
    pub size: u64,
    /// SHA-256 of the contents.
    pub sha256: Digest,
}

impl Tree {
    fn canonical(&self) -> Result<Vec<u8>, WorkspaceError> {
        serde_json::to_vec(self).map_err(io::Error::from).while_(|| "write a tree".to_owned())
    }

    fn digest_of(canonical: &[u8]) -> Digest {
        Digest(Sha256::new().chain_update(DOMAIN).chain_update(canonical).finalize().into())
    }

    /// The files that patterns name, within a cap, with what was left out.
    pub fn select(&self, patterns: &[Pattern], cap: u64, refused: &[Refused]) -> Manifest {
        let mut manifest = Manifest::default();
        let mut left = cap;
        for (path, file) in &self.files {
            if !patterns.iter().any(|pattern| pattern.matches(path)) {
                continue;
            }
            if file.size > left {
                push(&mut manifest.refused, Refused::new(path.as_str(), Refusal::TooLarge));
                continue;
            }
            left -= file.size;
            let mode = if file.executable { 0o755 } else { 0o644 };
            manifest.files.push(Artifact { path: path.clone(), size: file.size, sha256: file.sha256, mode });
        }
        for other in refused {
            // What has no sound name cannot be matched, and is told in case it was meant.
            let named = TreePath::new(&other.path).map_or(true, |path| patterns.iter().any(|p| p.matches(&path)));
            if named && !patterns.is_empty() {
                push(&mut manifest.refused, other.clone());
            }
        }
        manifest
    }
}

fn push(list: &mut Vec<Refused>, refused: Refused) {
    if list.len() < MAX_REFUSED {
        list.push(refused);
    }
}

/// What taking a tree gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The tree's digest.
    pub digest: Digest,
    /// The tree.
    pub tree: Tree,
    /// What was left out.
    pub refused: Vec<Refused>,
}

/// A store of trees in a folder.
#[derive(Debug, Clone)]
pub struct Trees {
    folder: PathBuf,
    caps: Caps,
    salt: Digest,
}

impl Trees {
    /// Opens a store, or makes one. Only its owner may read it.
    pub fn open(folder: &Path, caps: Caps) -> Result<Self, WorkspaceError> {
        let blobs = folder.join("blobs");
        fs::create_dir_all(&blobs).while_(|| format!("create `{}`", blobs.display()))?;
        fs::set_permissions(folder, Permissions::from_mode(0o700))
            .while_(|| format!("close `{}`", folder.display()))?;
        let path = folder.join("salt");
        let salt = match read_salt(&path) {
            Ok(salt) => salt,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut salt = [0; 32];
                let mut random = File::open("/dev/urandom").while_(|| "open `/dev/urandom`".to_owned())?;
                random.read_exact(&mut salt).while_(|| "read `/dev/urandom`".to_owned())?;
                // Two that open a new store at once: the first name wins, both read it back.
                let fresh = folder.join(format!("salt.{}.{:?}", std::process::id(), std::thread::current().id()));
                write_durably(&fresh, &salt).while_(|| "write the store's salt".to_owned())?;
                match fs::hard_link(&fresh, &path) {
                    Ok(()) => sync_folder(folder).while_(|| "sync the store".to_owned())?,
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    Err(error) => return Err(error).while_(|| "name the store's salt".to_owned()),
                }
                fs::remove_file(&fresh).while_(|| "clear up the store's salt".to_owned())?;
                read_salt(&path).while_(|| "read the store's salt".to_owned())?
            }
            Err(error) => return Err(error).while_(|| format!("read `{}`", path.display())),
        };
        Ok(Self { folder: folder.to_owned(), caps, salt })
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The caps of a tree.
    pub fn caps(&self) -> Caps {
        self.caps
    }

    /// Takes the tree of a folder, whoever owns the files in it.
    pub fn snapshot(&self, folder: &Path) -> Result<Snapshot, WorkspaceError> {
        self.snapshot_of(folder, None)
    }

    /// Takes the tree of a folder that a workload wrote: files that are not `owner`'s are left out, so that a link to
    /// somebody else's file does not carry it along.
    pub(crate) fn snapshot_of(&self, folder: &Path, owner: Option<u32>) -> Result<Snapshot, WorkspaceError> {
        let _using = self.using()?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let root = nix::fcntl::open(folder, flags, Mode::empty()).while_(|| format!("open `{}`", folder.display()))?;
        let tree = Tree { format: 1, salt: self.salt, folders: BTreeSet::new(), files: BTreeMap::new() };
        let mut walk = Walk { store: self, owner, tree, refused: Vec::new(), bytes: 0, entries: 0, kept: 0 };
        walk.folder(root, "")?;
        let Walk { tree, refused, kept, .. } = walk;
        let canonical = tree.canonical()?;
        let digest = Tree::digest_of(&canonical);
        if kept > 0 {
            // Contents first, then the tree that names them; one sync for all of them.
            let handle = File::open(&self.folder).while_(|| "open the store".to_owned())?;
            nix::unistd::syncfs(&handle).while_(|| "sync the store".to_owned())?;
        }
        let path = self.tree_path(digest);
        if path.exists() {
            self.renew_used(digest)?;
        } else {
            write_durably(&path, &canonical).while_(|| format!("write tree `{digest}`"))?;
        }
        Ok(Snapshot { digest, tree, refused })
    }

    /// The tree of a digest.
    pub fn tree(&self, digest: Digest) -> Result<Tree, WorkspaceError> {
        let bytes = match fs::read(self.tree_path(digest)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(WorkspaceError::Missing(digest)),
            Err(error) => return Err(error).while_(|| format!("read tree `{digest}`")),
        };
        let damaged = || WorkspaceError::Damaged(digest.to_string());
        if Tree::digest_of(&bytes) != digest {
            return Err(damaged());
        }
        serde_json::from_slice(&bytes).map_err(|_| damaged())
    }

    /// Lays a tree out in an empty folder. Every content is checked against its digest on the way.
    pub fn materialise(&self, digest: Digest, folder: &Path) -> Result<Tree, WorkspaceError> {
        self.materialise_for(digest, folder, None)
    }

    /// As [`Trees::materialise`], owned by the run's user.
    pub(crate) fn materialise_for(
        &self,
        digest: Digest,
        folder: &Path,
        user: Option<RunUser>,
    ) -> Result<Tree, WorkspaceError> {
        let _using = self.using()?;
        let tree = self.tree(digest)?;
        let own = |path: &Path| match user {
            Some(user) => chown(path, Some(user.uid), Some(user.gid)),
            None => Ok(()),
        };
        for path in &tree.folders {
            let target = folder.join(path.as_str());
            // In order of path, so a parent comes before what is in it.
            fs::create_dir(&target)
                .and_then(|()| fs::set_permissions(&target, Permissions::from_mode(0o755)))
                .and_then(|()| own(&target))
                .while_(|| format!("create folder `{path}`"))?;
        }
        for (path, file) in &tree.files {
            let target = folder.join(path.as_str());
            let mode = if file.executable { 0o755 } else { 0o644 };
            let mut out = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(mode)
                .open(&target)
                .while_(|| format!("create file `{path}`"))?;
            let mut blob = self.blob(file.sha256)?;
            let (size, sha256) = copy(&mut blob, &mut out).while_(|| format!("lay out file `{path}`"))?;
            if (size, sha256) != (file.size, file.sha256) {
                return Err(WorkspaceError::Damaged(file.sha256.to_string()));
            }
            out.set_permissions(Permissions::from_mode(mode))
                .and_then(|()| own(&target))
                .while_(|| format!("finish file `{path}`"))?;
        }
        Ok(tree)
    }

    /// Opens a content.
    pub fn blob(&self, sha256: Digest) -> Result<File, WorkspaceError> {
        match File::open(self.blob_path(sha256)) {
            Ok(file) => Ok(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(WorkspaceError::Damaged(format!("content {sha256}")))
            }
            Err(error) => Err(error).while_(|| format!("open content `{sha256}`")),
        }
    }

    pub(crate) fn tree_path(&self, digest: Digest) -> PathBuf {
        self.folder.join(digest.to_string())
    }

    fn blob_path(&self, sha256: Digest) -> PathBuf {
        let name = sha256.to_string();
        let (first, _) = name.split_at_checked(2).unwrap_or((&name, ""));
        self.folder.join("blobs").join(first).join(&name)
    }

    /// Stores a content under its digest; true if it was not there.
    fn keep(&self, file: &mut File) -> io::Result<(u64, Digest, bool)> {
        let partial =
            self.folder.join("blobs").join(format!("partial.{}.{:?}", std::process::id(), std::thread::current().id()));
        let mut out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
        let (size, sha256) = copy(file, &mut out)?;
        let path = self.blob_path(sha256);
        let known = path.exists();
        if known {
            fs::remove_file(&partial)?;
        } else {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            fs::rename(&partial, &path)?;
        }
        Ok((size, sha256, !known))
    }
}

fn read_salt(path: &Path) -> io::Result<Digest> {
    let bytes = fs::read(path)?;
    bytes.try_into().map(Digest).map_err(|_| io::Error::other("the store's salt is not 32 bytes"))
}

fn copy(from: &mut File, to: &mut File) -> io::Result<(u64, Digest)> {
    let mut hash = Sha256::new();
    let mut size = 0u64;
    let mut buffer = vec![0; 128 * 1024];
    loop {
        let n = from.read(&mut buffer)?;
        let Some(part) = buffer.get(..n).filter(|part| !part.is_empty()) else { break };
        hash.update(part);
        to.write_all(part)?;
        size += u64::try_from(n).map_err(io::Error::other)?;
    }
    Ok((size, Digest(hash.finalize().into())))
}

/// Bytes and entries below a folder, as far as they can be counted; for watching a workspace while it is written to.
pub(crate) fn usage(folder: &Path, stop_at: u64) -> u64 {
    let mut open = vec![folder.to_owned()];
    let mut bytes = 0u64;
    while let Some(folder) = open.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            // Blocks, not length: a sparse file is charged for what it takes, and every entry for one block.
            bytes = bytes.saturating_add(metadata.blocks().saturating_mul(512).max(512));
            if metadata.is_dir() {
                open.push(entry.path());
            }
            if bytes > stop_at {
                return bytes;
            }
        }
    }
    bytes
}

struct Walk<'a> {
    store: &'a Trees,
    owner: Option<u32>,
    tree: Tree,
    refused: Vec<Refused>,
    bytes: u64,
    entries: usize,
    /// Contents that the store did not have.
    kept: usize,
}

impl Walk<'_> {
    fn folder(&mut self, fd: OwnedFd, prefix: &str) -> Result<(), WorkspaceError> {
        let mut dir = Dir::from_fd(fd).while_(|| format!("read folder `{prefix}`"))?;
        let mut names: Vec<CString> = Vec::new();
        for entry in dir.iter() {
            let entry = entry.while_(|| format!("read folder `{prefix}`"))?;
            let name = entry.file_name();
            if name != c"." && name != c".." {
                names.push(name.to_owned());
            }
            if self.entries + names.len() > self.store.caps.entries {
                return Err(WorkspaceError::TooLarge(format!("{} files and folders", self.store.caps.entries)));
            }
        }
        self.entries += names.len();
        names.sort();
        for name in names {
            let shown = format!("{prefix}{}", OsStr::from_bytes(name.as_bytes()).to_string_lossy());
            let sound = std::str::from_utf8(name.as_bytes()).is_ok();
            let Some(path) = TreePath::new(&shown).ok().filter(|_| sound) else {
                push(&mut self.refused, Refused::new(&shown, Refusal::BadName));
                continue;
            };
            self.entry(&dir, &name, path)?;
        }
        Ok(())
    }

    fn entry(&mut self, dir: &Dir, name: &CString, path: TreePath) -> Result<(), WorkspaceError> {
        let mut refuse = |why| push(&mut self.refused, Refused::new(path.as_str(), why));
        let Ok(stat) = fstatat(dir, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) else {
            refuse(Refusal::Unreadable);
            return Ok(());
        };
        match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFDIR => {
                let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let Ok(fd) = openat(dir, name.as_c_str(), flags, Mode::empty()) else {
                    refuse(Refusal::Unreadable);
                    return Ok(());
                };
                let prefix = format!("{path}/");
                self.tree.folders.insert(path);
                self.folder(fd, &prefix)
            }
            SFlag::S_IFREG => {
                // The open must not follow a link nor wait for a pipe's other end, should the name have changed hands.
                let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
                let Ok(fd) = openat(dir, name.as_c_str(), flags, Mode::empty()) else {
                    refuse(Refusal::Unreadable);
                    return Ok(());
                };
                let mut file = File::from(fd);
                let metadata = file.metadata().while_(|| format!("look at `{path}`"))?;
                if !metadata.is_file() {
                    refuse(Refusal::NotAFile);
                    return Ok(());
                }
                if self.owner.is_some_and(|owner| owner != metadata.uid()) {
                    refuse(Refusal::Foreign);
                    return Ok(());
                }
                self.bytes = self.bytes.saturating_add(metadata.len());
                if self.bytes > self.store.caps.bytes {
                    return Err(WorkspaceError::TooLarge(format!("{} bytes", self.store.caps.bytes)));
                }
                let (size, sha256, fresh) = self.store.keep(&mut file).while_(|| format!("keep `{path}`"))?;
                self.kept += usize::from(fresh);
                let executable = metadata.mode() & 0o111 != 0;
                self.tree.files.insert(path, TreeFile { executable, size, sha256 });
                Ok(())
            }
            SFlag::S_IFLNK => {
                refuse(Refusal::Symlink);
                Ok(())
            }
            _ => {
                refuse(Refusal::NotAFile);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn store(folder: &Path) -> Trees {
        Trees::open(&folder.join("trees"), Caps::default()).unwrap()
    }

    fn fill(folder: &Path) {
        fs::create_dir_all(folder.join("src/empty")).unwrap();
        fs::write(folder.join("src/a.sh"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(folder.join("src/a.sh"), Permissions::from_mode(0o700)).unwrap();
        fs::write(folder.join("b"), [0u8, 255, 10]).unwrap();
    }

    #[test]
    fn a_tree_laid_out_and_taken_again_has_the_same_digest() {
        let dir = tempfile::tempdir().unwrap();
        let trees = store(dir.path());
        fill(&dir.path().join("one"));
        fill(&dir.path().join("two"));
        fs::set_permissions(dir.path().join("two/b"), Permissions::from_mode(0o600)).unwrap();
        let one = trees.snapshot(&dir.path().join("one")).unwrap();
        let two = trees.snapshot(&dir.path().join("two")).unwrap();
        assert_eq!(one.digest, two.digest);
        let laid = dir.path().join("laid");
        fs::create_dir(&laid).unwrap();
        trees.materialise(one.digest, &laid).unwrap();
        assert!(laid.join("src/empty").is_dir());
        assert_eq!(fs::metadata(laid.join("src/a.sh")).unwrap().mode() & 0o777, 0o755);
        assert_eq!(store(dir.path()).snapshot(&laid).unwrap().digest, one.digest);
        fs::write(laid.join("b"), "changed").unwrap();
        assert_ne!(trees.snapshot(&laid).unwrap().digest, one.digest);
        // Another store has another salt.
        let other = Trees::open(&dir.path().join("other"), Caps::default()).unwrap();
        assert_ne!(other.snapshot(&dir.path().join("one")).unwrap().digest, one.digest);
    }

    #[test]
    fn links_devices_and_foreign_files_are_left_out_and_told() {
        let dir = tempfile::tempdir().unwrap();
        let trees = store(dir.path());
        let work = dir.path().join("work");
        fill(&work);
        symlink("/etc/passwd", work.join("link")).unwrap();
        symlink("src", work.join("folder-link")).unwrap();
        nix::unistd::mkfifo(&work.join("pipe"), Mode::S_IRWXU).unwrap();
        fs::write(work.join("bad\nname"), "x").unwrap();
        let got = trees.snapshot(&work).unwrap();
        let whys: Vec<Refusal> = got.refused.iter().map(|r| r.why).collect();
        assert_eq!(whys, [Refusal::BadName, Refusal::Symlink, Refusal::Symlink, Refusal::NotAFile]);
        assert_eq!(got.tree.files.len(), 2);
        let foreign = trees.snapshot_of(&work, Some(u32::MAX - 7)).unwrap();
        assert!(foreign.tree.files.is_empty());
        assert!(foreign.refused.iter().any(|r| r.why == Refusal::Foreign));
    }

    #[test]
    fn artifacts_are_what_patterns_name_within_the_cap() {
        let dir = tempfile::tempdir().unwrap();
        let trees = store(dir.path());
        let work = dir.path().join("work");
        fill(&work);
        symlink("/etc/passwd", work.join("link.xml")).unwrap();
        symlink("/etc/passwd", work.join("other")).unwrap();
        let got = trees.snapshot(&work).unwrap();
        let patterns = [Pattern::new("**/*.sh").unwrap(), Pattern::new("*.xml").unwrap()];
        let manifest = got.tree.select(&patterns, 100, &got.refused);
        assert_eq!(manifest.files.iter().map(|f| f.path.as_str()).collect::<Vec<_>>(), ["src/a.sh"]);
        assert_eq!(manifest.refused, [Refused::new("link.xml", Refusal::Symlink)]);
        let capped = got.tree.select(&patterns, 3, &[]);
        assert_eq!(capped.refused, [Refused::new("src/a.sh", Refusal::TooLarge)]);
    }

    #[test]
    fn damage_and_size_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let trees = store(dir.path());
        let work = dir.path().join("work");
        fill(&work);
        let got = trees.snapshot(&work).unwrap();
        let small = Trees::open(&dir.path().join("trees"), Caps { entries: 3, bytes: 1 << 20 }).unwrap();
        assert!(matches!(small.snapshot(&work), Err(WorkspaceError::TooLarge(_))));
        let small = Trees::open(&dir.path().join("trees"), Caps { entries: 30, bytes: 5 }).unwrap();
        assert!(matches!(small.snapshot(&work), Err(WorkspaceError::TooLarge(_))));
        let lay = |name: &str| {
            let folder = dir.path().join(name);
            fs::create_dir(&folder).unwrap();
            trees.materialise(got.digest, &folder)
        };
        let blob = got.tree.files.values().next().unwrap().sha256;
        fs::write(trees.blob_path(blob), "other").unwrap();
        assert!(matches!(lay("x"), Err(WorkspaceError::Damaged(_))));
        let path = dir.path().join("trees").join(got.digest.to_string());
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replacen("src/a.sh", "../../a.sh", 1)).unwrap();
        assert!(matches!(lay("y"), Err(WorkspaceError::Damaged(_))));
        assert!(matches!(trees.tree(Digest([0; 32])), Err(WorkspaceError::Missing(_))));
    }
}
