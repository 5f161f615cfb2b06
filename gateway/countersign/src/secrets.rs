//! Where the values behind secret references come from: variables of the gateway's environment, and files.
//!
//! A value is looked up for one run, just before it starts, and is kept by nobody. An organization has files of its own;
//! the environment is the first organization's. Absent: what a reference is (`gateway/model`), masking
//! (`runners/contract`), which tool gets which secret (the tool catalogue).

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use countersign_gateway_identity::{IdentityError, refuse_default_secret};
use countersign_gateway_model::{OrgId, SecretRef};
use countersign_runners_contract::{MAX_SECRET_BYTES, SecretError, SecretSource, SecretValue};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use crate::config::Secrets;

/// The providers of one organization.
#[derive(Clone, Debug)]
pub(crate) struct OrgSecrets {
    /// Variables that tools may refer to.
    variables: BTreeSet<String>,
    /// Its own folder of files.
    folder: Option<PathBuf>,
}

/// Refuses variables that tools may name and that are not there, empty, or some example's.
///
/// # Errors
/// The first of them, by name.
pub(crate) fn refuse_defaults(config: &Secrets) -> Result<(), IdentityError> {
    config.environment.iter().try_for_each(|name| {
        let value = crate::environment::variable(name).unwrap_or_default();
        refuse_default_secret(name, &value.to_string_lossy())
    })
}

impl OrgSecrets {
    /// What is configured for an organization; `first`: it is the one that the installation was made with.
    pub(crate) fn of(config: &Secrets, org: OrgId, first: bool) -> Self {
        let variables = if first { config.environment.iter().cloned().collect() } else { BTreeSet::new() };
        Self { variables, folder: config.folder.as_ref().map(|folder| folder.join(org.to_string())) }
    }

    fn variable(&self, reference: &SecretRef) -> Result<SecretValue, SecretError> {
        if reference.key().is_some() {
            return Err(unusable(reference, "a variable has no keys: leave `?key=` out"));
        }
        // A variable that nobody listed is not there: a tool's registrar learns nothing of the gateway's environment.
        let listed = self.variables.contains(reference.path());
        let value = listed.then(|| crate::environment::variable(reference.path())).flatten();
        SecretValue::new(reference, value.ok_or_else(|| SecretError::Missing(reference.clone()))?.into_vec())
    }

    fn file(&self, reference: &SecretRef) -> Result<SecretValue, SecretError> {
        let folder = self.folder.as_ref().ok_or_else(|| SecretError::NoProvider(reference.clone()))?;
        let mut bytes = read(folder, reference)?;
        if let Some(key) = reference.key() {
            bytes = member(reference, key, &bytes)?;
        } else if bytes.last() == Some(&b'\n') {
            // Editors and `echo` end a file so; no secret does.
            bytes.pop();
        }
        if refuse_default_secret(reference.path(), &String::from_utf8_lossy(&bytes)).is_err() {
            return Err(unusable(reference, "it is empty, or the default of some example"));
        }
        SecretValue::new(reference, bytes)
    }
}

fn unusable(reference: &SecretRef, why: &'static str) -> SecretError {
    SecretError::Unusable { reference: reference.clone(), why }
}

/// A file below `folder`: no link leads out of it, and nobody else may read it.
fn read(folder: &Path, reference: &SecretRef) -> Result<Vec<u8>, SecretError> {
    let failed = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::NotFound => SecretError::Missing(reference.clone()),
        _ => SecretError::Provider { reference: reference.clone(), source: Box::new(source) },
    };
    let root = File::open(folder).map_err(failed)?;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = File::from(openat2(&root, reference.path(), how).map_err(|errno| failed(errno.into()))?);
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(unusable(reference, "it is no file"));
    }
    if metadata.mode() & 0o027 != 0 {
        return Err(unusable(
            reference,
            "others may read the file, or its group may write it: chmod it to 0400 or 0440",
        ));
    }
    let mut bytes = Vec::new();
    // One byte more than a value may have, so that a longer one is refused and not cut.
    let limit = u64::try_from(MAX_SECRET_BYTES).unwrap_or(u64::MAX).saturating_add(2);
    file.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// One text member of a JSON object.
fn member(reference: &SecretRef, key: &str, bytes: &[u8]) -> Result<Vec<u8>, SecretError> {
    let mut object: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(bytes)
        .map_err(|_| unusable(reference, "the file is no JSON object, so it has no keys"))?;
    match object.remove(key) {
        Some(serde_json::Value::String(text)) => Ok(text.into_bytes()),
        Some(_) => Err(unusable(reference, "what stands under the key is no text")),
        None => Err(SecretError::Missing(reference.clone())),
    }
}

#[async_trait]
impl SecretSource for OrgSecrets {
    async fn resolve(&self, reference: &SecretRef) -> Result<SecretValue, SecretError> {
        match reference.provider() {
            "env" => self.variable(reference),
            "file" => {
                let (this, wanted) = (self.clone(), reference.clone());
                let failed = |source: tokio::task::JoinError| SecretError::Provider {
                    reference: reference.clone(),
                    source: Box::new(source),
                };
                tokio::task::spawn_blocking(move || this.file(&wanted)).await.map_err(failed)?
            }
            _ => Err(SecretError::NoProvider(reference.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    const VALUE: &str = "correct-horse-battery";

    fn org(byte: u8) -> OrgId {
        OrgId::from_bytes([byte; 16])
    }

    fn write(path: &Path, text: &str, mode: u32) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    async fn ask(secrets: &OrgSecrets, text: &str) -> Result<String, String> {
        let value = secrets.resolve(&text.parse().unwrap()).await;
        value.map(|v| String::from_utf8(v.expose().to_vec()).unwrap()).map_err(|e| e.to_string())
    }

    #[tokio::test]
    async fn a_file_is_given_whole_or_by_key_and_only_to_its_own_organization() {
        let dir = tempfile::tempdir().unwrap();
        let config = Secrets { folder: Some(dir.path().to_owned()), environment: Vec::new() };
        let own = dir.path().join(org(1).to_string());
        write(&own.join("ci/token"), &format!("{VALUE}\n"), 0o400);
        write(&own.join("ci.json"), &format!(r#"{{"password":"{VALUE}","port":1}}"#), 0o440);
        write(&own.join("example"), "changeme\n", 0o400);
        write(&own.join("example.json"), r#"{"password":"${PASSWORD}"}"#, 0o400);
        let first = OrgSecrets::of(&config, org(1), true);
        assert_eq!(ask(&first, "secret://file/ci/token").await.unwrap(), VALUE);
        assert_eq!(ask(&first, "secret://file/ci.json?key=password").await.unwrap(), VALUE);
        for (text, part) in [
            ("secret://file/ci.json?key=port", "no text"),
            ("secret://file/ci.json?key=user", "does not exist"),
            ("secret://file/ci/token?key=password", "no JSON object"),
            ("secret://file/absent", "does not exist"),
            ("secret://file/ci", "no file"),
            ("secret://file/example", "the default of some example"),
            ("secret://file/example.json?key=password", "the default of some example"),
            ("secret://vault/ci", "does not have"),
        ] {
            let error = ask(&first, text).await.unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        let other = OrgSecrets::of(&config, org(2), false);
        assert!(ask(&other, "secret://file/ci/token").await.unwrap_err().contains("does not exist"));
        let none = OrgSecrets::of(&Secrets::default(), org(1), true);
        assert!(ask(&none, "secret://file/ci/token").await.unwrap_err().contains("does not have"));
    }

    #[tokio::test]
    async fn a_file_that_others_can_read_or_that_lies_elsewhere_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let config = Secrets { folder: Some(dir.path().to_owned()), environment: Vec::new() };
        let own = dir.path().join(org(1).to_string());
        write(&own.join("open"), VALUE, 0o444);
        write(&own.join("shared"), VALUE, 0o460);
        write(&dir.path().join("outside"), VALUE, 0o400);
        symlink("../outside", own.join("link")).unwrap();
        symlink("/proc/self/environ", own.join("environ")).unwrap();
        write(&own.join("..data/token"), VALUE, 0o400);
        symlink("..data/token", own.join("mounted")).unwrap();
        let secrets = OrgSecrets::of(&config, org(1), true);
        for text in ["open", "shared"] {
            assert!(ask(&secrets, &format!("secret://file/{text}")).await.unwrap_err().contains("chmod"), "{text}");
        }
        for text in ["link", "environ"] {
            let error = ask(&secrets, &format!("secret://file/{text}")).await.unwrap_err();
            assert!(error.contains("could not be resolved"), "{text}: {error}");
        }
        // The way Kubernetes mounts a secret: a link to a folder beside it.
        assert_eq!(ask(&secrets, "secret://file/mounted").await.unwrap(), VALUE);
    }

    #[test]
    fn a_listed_variable_that_is_not_set_is_refused_at_start() {
        let listed = |name: &str| Secrets { folder: None, environment: vec![name.to_owned()] };
        refuse_defaults(&listed("CARGO_MANIFEST_DIR")).unwrap();
        let error = refuse_defaults(&listed("NOBODY_SETS_THIS_ONE")).unwrap_err().to_string();
        assert!(error.contains("`NOBODY_SETS_THIS_ONE` is empty"), "{error}");
    }

    #[tokio::test]
    async fn a_variable_is_given_only_if_it_is_listed_and_to_the_first_organization() {
        // Every process has it, and nobody lists it by accident.
        let config = Secrets { folder: None, environment: vec!["CARGO_MANIFEST_DIR".to_owned()] };
        let first = OrgSecrets::of(&config, org(1), true);
        assert_eq!(ask(&first, "secret://env/CARGO_MANIFEST_DIR").await.unwrap(), env!("CARGO_MANIFEST_DIR"));
        assert!(ask(&first, "secret://env/CARGO_PKG_NAME").await.unwrap_err().contains("does not exist"));
        assert!(ask(&first, "secret://env/CARGO_MANIFEST_DIR?key=a").await.unwrap_err().contains("no keys"));
        let other = OrgSecrets::of(&config, org(2), false);
        assert!(ask(&other, "secret://env/CARGO_MANIFEST_DIR").await.unwrap_err().contains("does not exist"));
    }
}
