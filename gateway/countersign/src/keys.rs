//! Keys as files, 0600 in a 0700 folder, made at the first start: a root key and a log key for each log, and one key that
//! signs the tokens of the installation.
//!
//! A file that others may read is refused: it must be treated as lost. The gateway's own signing key is no file: it is
//! made anew at each start and certified by the log key. Absent: hardware and key services, which fill the same trait.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_gateway_model::LogId;
use countersign_ledger_log::{KeyError, KeyRing};
use countersign_policy_store::bundle::RootKey;
use countersign_runners_contract::entry::key::{VKey, root_name};
use ed25519_dalek::SigningKey;

/// First word of a key file: what it is, in which form.
const FORM: &str = "countersign-key-v1";

/// The same for a person's key, which is no gateway's and signs decisions alone.
const PERSON_FORM: &str = "countersign-person-key-v1";

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeysError {
    /// The system says no.
    #[error("`{path}` cannot be {doing}: check the folder and its owner")]
    Io {
        /// Read, written …
        doing: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others may read it.
    #[error(
        "`{path}` may be read by others (mode {mode:o}): if nobody has, `chmod {wanted:o} {path}`; else treat the key as stolen"
    )]
    Open {
        /// Which.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
        /// What they may be at most.
        wanted: u32,
    },
    /// A key would be written over what is there.
    #[error("`{0}` is there already: a key is never written over anything; give another name")]
    Taken(PathBuf),
    /// Not a key file.
    #[error("`{0}` is not a key file: restore the key folder that belongs to this data folder")]
    Form(PathBuf),
    /// Not a person's key.
    #[error("`{0}` holds no signing key of a person: `countersign key create` makes one")]
    NoPersonKey(PathBuf),
    /// A key is not there although the log that it belongs to is.
    #[error("`{0}` is missing: restore the key folder that belongs to this data folder")]
    Missing(PathBuf),
    /// No random bytes.
    #[error("the system gives no random bytes")]
    Random(#[from] getrandom::Error),
    /// The name in the key is not one.
    #[error("the name of the root key cannot be used")]
    Name(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl KeysError {
    /// Stable name of the problem, for `openapi/problems/<code>.md`; none where nothing is wrong with a file.
    pub(crate) fn code(&self) -> Option<&'static str> {
        match self {
            Self::Io { .. } => Some("folder-unusable"),
            Self::Open { .. } => Some("folder-open-to-others"),
            Self::Taken(_) => Some("key-file-exists"),
            Self::Form(_) | Self::NoPersonKey(_) => Some("key-file-invalid"),
            Self::Missing(_) => Some("key-file-missing"),
            Self::Random(_) | Self::Name(_) => None,
        }
    }
}

/// Makes a folder for this user alone, or refuses one that others may enter.
pub(crate) fn private_folder(path: &Path) -> Result<(), KeysError> {
    let io = |doing| move |source| KeysError::Io { doing, path: path.to_owned(), source };
    match fs::DirBuilder::new().recursive(true).mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) => return Err(io("made")(error)),
    }
    let mode = fs::metadata(path).map_err(io("examined"))?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeysError::Open { path: path.to_owned(), mode, wanted: 0o700 });
    }
    Ok(())
}

/// Writes a file that only this user may read, whole or not at all, over what is there.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), KeysError> {
    private(path, bytes, |file| file.persist(path).map_err(|error| error.error))
}

/// The same for a file that must not be there yet.
pub(crate) fn write_new_private(path: &Path, bytes: &[u8]) -> Result<(), KeysError> {
    match private(path, bytes, |file| file.persist_noclobber(path).map_err(|error| error.error)) {
        Err(KeysError::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {
            Err(KeysError::Taken(path.to_owned()))
        }
        done => done,
    }
}

fn private(
    path: &Path,
    bytes: &[u8],
    name: impl FnOnce(tempfile::NamedTempFile) -> io::Result<fs::File>,
) -> Result<(), KeysError> {
    let io = |doing| move |source| KeysError::Io { doing, path: path.to_owned(), source };
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mode = fs::Permissions::from_mode(0o600);
    let mut file = tempfile::Builder::new().permissions(mode).tempfile_in(folder).map_err(io("written"))?;
    // Crash before it has its name: a hidden file with a name of its own is left beside, for its owner alone.
    file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(io("written"))?;
    name(file).map_err(io("named"))?;
    fs::File::open(folder).and_then(|f| f.sync_all()).map_err(io("synced"))
}

/// Reads a file that only this user may read; none if it is not there.
pub(crate) fn read_private(path: &Path) -> Result<Option<String>, KeysError> {
    let io = |doing| move |source| KeysError::Io { doing, path: path.to_owned(), source };
    let meta = match fs::metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io("examined")(error)),
    };
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeysError::Open { path: path.to_owned(), mode, wanted: 0o600 });
    }
    fs::read_to_string(path).map(Some).map_err(io("read"))
}

fn read_seed(path: &Path) -> Result<Option<[u8; 32]>, KeysError> {
    let Some(text) = read_private(path)? else { return Ok(None) };
    parse_seed(&text, FORM).map(Some).ok_or_else(|| KeysError::Form(path.to_owned()))
}

fn parse_seed(text: &str, form: &str) -> Option<[u8; 32]> {
    let encoded = text.trim().strip_prefix(form).map(str::trim)?;
    STANDARD.decode(encoded).ok()?.try_into().ok()
}

/// Makes a person's key in a file that must not be there yet.
pub(crate) fn create_person_key(path: &Path) -> Result<SigningKey, KeysError> {
    let seed = crate::mint::secret()?;
    write_new_private(path, format!("{PERSON_FORM} {}\n", STANDARD.encode(seed)).as_bytes())?;
    Ok(SigningKey::from_bytes(&seed))
}

/// Reads a person's key.
pub(crate) fn read_person_key(path: &Path) -> Result<SigningKey, KeysError> {
    let text = read_private(path)?.ok_or_else(|| KeysError::NoPersonKey(path.to_owned()))?;
    let seed = parse_seed(&text, PERSON_FORM).ok_or_else(|| KeysError::NoPersonKey(path.to_owned()))?;
    Ok(SigningKey::from_bytes(&seed))
}

/// The key of a file. `make`: it is made where it is not there.
fn seed(path: &Path, make: bool) -> Result<[u8; 32], KeysError> {
    if let Some(seed) = read_seed(path)? {
        return Ok(seed);
    }
    if !make {
        return Err(KeysError::Missing(path.to_owned()));
    }
    let seed = crate::mint::secret()?;
    write_new_private(path, format!("{FORM} {}\n", STANDARD.encode(seed)).as_bytes())?;
    Ok(seed)
}

/// Seed of the key that signs this installation's tokens, made where it is not there: tokens outlive nothing, so a lost
/// one costs everybody a login and no more.
pub(crate) fn token_seed(folder: &Path) -> Result<[u8; 32], KeysError> {
    private_folder(folder)?;
    seed(&folder.join("token.key"), true)
}

/// The keys of one log.
pub(crate) struct Keys {
    log: LogId,
    root: SigningKey,
    root_vkey: VKey,
    log_key: SigningKey,
    root_seed: [u8; 32],
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("root", &self.root_vkey).finish_non_exhaustive()
    }
}

impl Keys {
    /// Reads the keys of a folder. `make`: those that are not there are made, for a log that was not yet begun.
    pub(crate) fn open(folder: &Path, log: LogId, origin: &str, make: bool) -> Result<Self, KeysError> {
        private_folder(folder)?;
        let root_seed = seed(&folder.join("root.key"), make)?;
        let log_seed = seed(&folder.join("log.key"), make)?;
        let root = SigningKey::from_bytes(&root_seed);
        let root_vkey =
            VKey::new(&root_name(origin), root.verifying_key()).map_err(|e| KeysError::Name(Box::new(e)))?;
        Ok(Self { log, root, root_vkey, log_key: SigningKey::from_bytes(&log_seed), root_seed })
    }

    /// What an auditor is given.
    pub(crate) fn root_vkey(&self) -> &VKey {
        &self.root_vkey
    }

    /// Signs genesis.
    pub(crate) fn root_signer(&self) -> SigningKey {
        self.root.clone()
    }

    /// Signs bundles and root documents.
    pub(crate) fn bundle_key(&self) -> Result<RootKey, KeysError> {
        RootKey::from_seed(self.root_vkey.name(), &self.root_seed).map_err(|e| KeysError::Name(Box::new(e)))
    }
}

/// The key ring that the ledger asks.
#[derive(Debug)]
pub(crate) struct FileRing(BTreeMap<LogId, Arc<Keys>>);

impl FileRing {
    /// A ring with the keys of these logs.
    pub(crate) fn of(keys: impl IntoIterator<Item = Arc<Keys>>) -> Self {
        Self(keys.into_iter().map(|keys| (keys.log, keys)).collect())
    }

    fn get(&self, log: LogId, what: &'static str) -> Result<&Keys, KeyError> {
        self.0.get(&log).map(|keys| &**keys).ok_or(KeyError::Unknown { what, log })
    }
}

impl KeyRing for FileRing {
    fn root(&self, log: LogId) -> Result<VKey, KeyError> {
        Ok(self.get(log, "root key")?.root_vkey.clone())
    }

    fn log_key(&self, log: LogId) -> Result<SigningKey, KeyError> {
        Ok(self.get(log, "log key")?.log_key.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: LogId = LogId::from_bytes([7; 16]);

    #[test]
    fn keys_are_made_once_for_their_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("keys");
        let first = Keys::open(&folder, LOG, "test/07", true).unwrap();
        let again = Keys::open(&folder, LOG, "test/07", false).unwrap();
        assert_eq!(first.root_vkey().to_string(), again.root_vkey().to_string());
        assert_eq!(token_seed(&folder).unwrap(), token_seed(&folder).unwrap());
        assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o777, 0o700);
        for name in ["root.key", "log.key", "token.key"] {
            assert_eq!(fs::metadata(folder.join(name)).unwrap().mode() & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("keys");
        Keys::open(&folder, LOG, "test/07", true).unwrap();
        fs::set_permissions(folder.join("log.key"), fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Keys::open(&folder, LOG, "test/07", false), Err(KeysError::Open { mode: 0o640, .. })));
        fs::set_permissions(folder.join("log.key"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(Keys::open(&folder, LOG, "test/07", false), Err(KeysError::Open { mode: 0o755, .. })));
    }

    #[test]
    fn a_missing_key_of_an_old_log_is_an_error_and_is_not_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("keys");
        Keys::open(&folder, LOG, "test/07", true).unwrap();
        fs::remove_file(folder.join("log.key")).unwrap();
        assert!(matches!(Keys::open(&folder, LOG, "test/07", false), Err(KeysError::Missing(_))));
        fs::write(folder.join("root.key"), "x").unwrap();
        assert!(matches!(Keys::open(&folder, LOG, "test/07", true), Err(KeysError::Form(_))));
    }

    #[test]
    fn a_private_file_leaves_every_other_file_alone_and_a_new_one_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let (key, own) = (dir.path().join("root.key"), dir.path().join("root.tmp"));
        fs::write(&own, "the user's own").unwrap();
        write_new_private(&key, b"one").unwrap();
        assert_eq!(fs::metadata(&key).unwrap().mode() & 0o777, 0o600);
        assert!(matches!(write_new_private(&key, b"two"), Err(KeysError::Taken(_))));
        assert_eq!(fs::read(&key).unwrap(), b"one");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        write_private(&key, b"two").unwrap();
        assert_eq!((fs::read(&key).unwrap(), fs::metadata(&key).unwrap().mode() & 0o777), (b"two".to_vec(), 0o600));
        let dangling = dir.path().join("link.key");
        std::os::unix::fs::symlink(dir.path().join("nowhere"), &dangling).unwrap();
        assert!(matches!(write_new_private(&dangling, b"three"), Err(KeysError::Taken(_))), "a link is there, too");
        assert_eq!(fs::read(&own).unwrap(), b"the user's own");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "nothing is left beside");
    }
}
