//! A bundle: manifest, files, signatures; from a draft to the sealed and signed thing, in both of its forms.
//!
//! The directory form is for git: `bundle.json` (the canonical manifest), `signatures.json`, and the files. The
//! transport form is one canonical JSON document. Both carry the same bytes; going from one to the other and back
//! changes nothing. Absent: folders and sockets (`policy/store`), the meaning of the files (`check`). Read next:
//! `root`, `check`.

use std::collections::BTreeMap;
use std::sync::Arc;

use countersign_gateway_model::{Digest, Name, OrgId};
use countersign_policy_decide::{depth, entity_literals};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::canonical::{self, CanonicalError};
use crate::digest::sha256;
use crate::files::{
    CATALOGUE_FILE, FileError, FileKind, FilePath, Files, MANIFEST_FILE, MAX_BUNDLE_BYTES, SIGNATURES_FILE,
};
use crate::keys::RootKey;
use crate::manifest::{CatalogueRef, Lineage, MAX_MANIFEST_BYTES, Manifest, Purpose, Settings, Shadow};
use crate::root::{RootChain, RootError, Standing};
use crate::signature::{Domain, Signature, Signatures};
use crate::source;

/// The first member of the transport form.
const TRANSPORT: &str = "countersign-bundle/v1";
/// How many bytes the transport form may have: escapes may double a text, and a little for the rest.
pub const MAX_TRANSPORT_BYTES: usize = 2 * MAX_BUNDLE_BYTES + 1024 * 1024;

/// Why bytes or files are not a bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A file that is not taken.
    #[error(transparent)]
    File(#[from] FileError),
    /// A document of the bundle does not read.
    #[error("`{file}` does not read: {source}")]
    Document {
        /// Which.
        file: &'static str,
        /// Why.
        source: CanonicalError,
    },
    /// The manifest reads, but says something impossible.
    #[error("`bundle.json` is not sound: {0}")]
    Manifest(String),
    /// The sealed form needs its manifest.
    #[error("`bundle.json` is missing; seal the folder first with `countersign policy sign`")]
    NoManifest,
    /// A file that the manifest names is not there.
    #[error("`{0}` is named in the manifest but missing; restore it, or seal the bundle again")]
    Missing(FilePath),
    /// A file that the manifest does not name.
    #[error("`{0}` is not named in the manifest; remove it, or seal the bundle again")]
    Unlisted(FilePath),
    /// A file is not what the manifest says.
    #[error("`{0}` was changed after the bundle was sealed; seal and sign it again")]
    Changed(FilePath),
    /// Too large to be one.
    #[error("{0} bytes are too large for a bundle; at most {MAX_TRANSPORT_BYTES} are read")]
    TooLarge(usize),
    /// Of another organization.
    #[error("the bundle belongs to another organization; seal it for this one")]
    Organization,
    /// Signed under another root document than the current one.
    #[error("the bundle names root version {got}, the current one is {current}; seal and sign it again")]
    RootVersion {
        /// In the manifest.
        got: u64,
        /// In force.
        current: u64,
    },
    /// It does not follow the bundle that it is said to follow: replayed, skipped or forked.
    #[error(
        "the bundle is version {version} after `{predecessor}`, but version {wanted} after `{before}` is next; \
         seal and sign it again"
    )]
    Succession {
        /// Its version.
        version: u64,
        /// What it names as the bundle before.
        predecessor: String,
        /// The version that would follow.
        wanted: u64,
        /// The digest of the bundle before.
        before: Digest,
    },
    /// The signatures do not hold.
    #[error(transparent)]
    Root(#[from] RootError),
}

fn document(file: &'static str) -> impl FnOnce(CanonicalError) -> BundleError {
    move |source| BundleError::Document { file, source }
}

/// `bundle.json` as an author keeps it: settings; what only sealing can know is ignored.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DraftManifest {
    #[serde(default)]
    purpose: Purpose,
    #[serde(default)]
    shadow: Shadow,
    #[serde(default)]
    transforms: Vec<Name>,
    #[serde(default)]
    catalogue: Option<CatalogueRef>,
    #[serde(default)]
    expires: Option<countersign_gateway_model::Timestamp>,
    #[serde(default, rename = "format")]
    _format: IgnoredAny,
    #[serde(default, rename = "organization")]
    _organization: IgnoredAny,
    #[serde(default, rename = "version")]
    _version: IgnoredAny,
    #[serde(default, rename = "predecessor")]
    _predecessor: IgnoredAny,
    #[serde(default, rename = "root_version")]
    _root_version: IgnoredAny,
    #[serde(default, rename = "files")]
    _files: IgnoredAny,
}

/// Files and settings that nobody has sealed yet: what an author works on. Can be checked and tested as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Draft {
    /// What is signed besides the files.
    pub settings: Settings,
    /// The files.
    pub files: Files,
}

impl Draft {
    /// From a folder's files (path, bytes). An existing `bundle.json` gives the settings; its digests and an existing
    /// `signatures.json` are ignored, because the files may have been edited since.
    pub fn from_files(raw: impl IntoIterator<Item = (String, Vec<u8>)>) -> Result<Self, BundleError> {
        let (manifest, _, files) = split(raw)?;
        let Some(bytes) = manifest else { return Ok(Self { settings: Settings::default(), files }) };
        let DraftManifest { purpose, shadow, transforms, catalogue, expires, .. } =
            canonical::read_any(&bytes).map_err(document(MANIFEST_FILE))?;
        let settings = Settings { purpose, shadow, transforms, catalogue, expires };
        // What was read as JSON is UTF-8.
        Ok(Self { settings, files: files.beside(&String::from_utf8_lossy(&bytes)) })
    }

    /// The organization whose entities its policies name one by one, the first where they name several: whose bundle it
    /// is, where nobody says so. None where it names no entity, or none of them with an organization.
    pub fn names_organization(&self) -> Option<OrgId> {
        let texts = self.files.of(FileKind::Policies).chain(self.files.of(FileKind::Invariants));
        // Most bundles name none, and are not parsed for it.
        let texts = texts.filter(|(_, text)| text.contains(OrgId::PREFIX));
        depth::with_room(|| {
            let policies = texts.flat_map(|(path, text)| source::parse(path, text, &mut Vec::new()));
            let mut literals = policies.flat_map(|policy| entity_literals(&policy.est));
            literals.find_map(|literal| literal.organization())
        })
    }

    /// Fixes lineage and digests. The result is not signed yet.
    pub fn seal(self, lineage: Lineage) -> Result<Bundle, BundleError> {
        let manifest = Manifest::new(lineage, self.settings, self.files.digests());
        Bundle::whole(manifest, self.files, Signatures::default())
    }
}

/// A sealed bundle: every file is what the manifest says. Whether its signatures hold is asked of a [`RootChain`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    manifest: Manifest,
    files: Files,
    signatures: Signatures,
    digest: Digest,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Transport {
    #[serde(rename = "type")]
    kind: String,
    manifest: Manifest,
    files: BTreeMap<String, String>,
    signatures: Signatures,
}

impl Bundle {
    /// From the directory form: every file of the folder, `bundle.json` and `signatures.json` among them.
    pub fn from_files(raw: impl IntoIterator<Item = (String, Vec<u8>)>) -> Result<Self, BundleError> {
        let (manifest, signatures, files) = split(raw)?;
        let manifest = manifest.ok_or(BundleError::NoManifest)?;
        let manifest = canonical::read(&manifest).map_err(document(MANIFEST_FILE))?;
        let signatures = match signatures {
            Some(bytes) => canonical::read(&bytes).map_err(document(SIGNATURES_FILE))?,
            None => Signatures::default(),
        };
        Self::whole(manifest, files, signatures)
    }

    /// From the transport form.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BundleError> {
        if bytes.len() > MAX_TRANSPORT_BYTES {
            return Err(BundleError::TooLarge(bytes.len()));
        }
        let transport: Transport = canonical::read(bytes).map_err(document("the bundle file"))?;
        if transport.kind != TRANSPORT {
            return Err(BundleError::Manifest(format!("`type` is not `{TRANSPORT}`")));
        }
        let files = Files::new(transport.files.into_iter().map(|(path, text)| (path, text.into_bytes())))?;
        Self::whole(transport.manifest, files, transport.signatures)
    }

    /// The manifest as its author wrote it, else as it is sealed.
    pub(crate) fn manifest_text(&self) -> Arc<str> {
        let sealed = || canonical::write(&self.manifest).unwrap_or_default();
        let written = self.files.manifest_text().cloned();
        written.unwrap_or_else(|| String::from_utf8_lossy(&sealed()).into())
    }

    /// The directory form.
    pub fn to_files(&self) -> Result<BTreeMap<String, Vec<u8>>, BundleError> {
        let file = |(path, text): (&FilePath, &std::sync::Arc<str>)| (path.to_string(), text.as_bytes().to_vec());
        let mut out: BTreeMap<String, Vec<u8>> = self.files.iter().map(file).collect();
        let manifest = canonical::write(&self.manifest).map_err(document(MANIFEST_FILE))?;
        out.insert(MANIFEST_FILE.to_owned(), manifest);
        if !self.signatures.is_empty() {
            let signatures = canonical::write(&self.signatures).map_err(document(SIGNATURES_FILE))?;
            out.insert(SIGNATURES_FILE.to_owned(), signatures);
        }
        Ok(out)
    }

    /// The transport form.
    pub fn to_bytes(&self) -> Result<Vec<u8>, BundleError> {
        let transport = Transport {
            kind: TRANSPORT.to_owned(),
            manifest: self.manifest.clone(),
            files: self.files.iter().map(|(path, text)| (path.to_string(), text.to_string())).collect(),
            signatures: self.signatures.clone(),
        };
        canonical::write(&transport).map_err(document("the bundle file"))
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The files.
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// The signatures, unchecked.
    pub fn signatures(&self) -> &Signatures {
        &self.signatures
    }

    /// SHA-256 of the canonical manifest: the bundle's name. Signatures do not change it.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Files and settings, to edit and seal again (a rollback: next version, old content).
    pub fn to_draft(&self) -> Draft {
        Draft { settings: self.manifest.settings(), files: self.files.clone() }
    }

    /// Signs with a root key; a second signature of one key replaces the first.
    pub fn sign(&mut self, key: &RootKey) {
        self.signatures.add(Domain::Bundle, &self.digest, key);
    }

    /// Files a signature that was made elsewhere.
    pub fn add_signature(&mut self, signature: Signature) {
        self.signatures.insert(signature);
    }

    /// What an offline key signs: the domain's prefix and the digest.
    pub fn message(&self) -> Vec<u8> {
        Domain::Bundle.message(&self.digest)
    }

    /// Whether it is the next bundle of the same organization: an older one, however well signed, does not come back.
    pub fn follows(&self, before: &Self) -> Result<(), BundleError> {
        let (next, last) = (&self.manifest, &before.manifest);
        if next.organization != last.organization {
            return Err(BundleError::Organization);
        }
        let wanted = last.version.saturating_add(1);
        if next.version == wanted && next.predecessor == Some(before.digest) {
            return Ok(());
        }
        let predecessor = next.predecessor.map_or_else(|| "nothing".to_owned(), |digest| digest.to_string());
        Err(BundleError::Succession { version: next.version, predecessor, wanted, before: before.digest })
    }

    /// Where the bundle that replaces it stands, under the same root document.
    pub fn next_lineage(&self) -> Lineage {
        let Lineage { organization, version, root_version, .. } = self.manifest.lineage();
        Lineage { organization, version: version.saturating_add(1), predecessor: Some(self.digest), root_version }
    }

    /// Whether the signatures allow it to become active: this organization's, under the current root document, by the
    /// threshold that its purpose asks for.
    pub fn verify_candidate(&self, chain: &RootChain) -> Result<Standing, BundleError> {
        let current = chain.current().version;
        if self.manifest.organization == chain.organization() && self.manifest.root_version != current {
            return Err(BundleError::RootVersion { got: self.manifest.root_version, current });
        }
        self.verify_active(chain)
    }

    /// Whether the signatures hold for a bundle that was activated before: under the root document that it names, less
    /// every key revoked since.
    pub fn verify_active(&self, chain: &RootChain) -> Result<Standing, BundleError> {
        if self.manifest.organization != chain.organization() {
            return Err(BundleError::Organization);
        }
        let wanted = |t: &crate::root::Thresholds| match self.manifest.purpose {
            Purpose::Regular => t.bundle,
            Purpose::Recovery => t.recovery,
        };
        Ok(chain.standing(Domain::Bundle, &self.digest, &self.signatures, self.manifest.root_version, wanted)?)
    }

    fn whole(manifest: Manifest, files: Files, signatures: Signatures) -> Result<Self, BundleError> {
        if let Some(problem) = manifest.problem() {
            return Err(BundleError::Manifest(problem));
        }
        let found = files.digests();
        if let Some((path, digest)) = manifest.files.iter().find(|(path, digest)| found.get(*path) != Some(*digest)) {
            let known = found.get(path).is_some_and(|d| d != digest);
            let path = path.clone();
            return Err(if known { BundleError::Changed(path) } else { BundleError::Missing(path) });
        }
        if let Some(path) = found.keys().find(|path| !manifest.files.contains_key(*path)) {
            return Err(BundleError::Unlisted(path.clone()));
        }
        let bytes = canonical::write(&manifest).map_err(document(MANIFEST_FILE))?;
        if bytes.len() > MAX_MANIFEST_BYTES {
            return Err(BundleError::Manifest(format!("{} bytes; at most {MAX_MANIFEST_BYTES}", bytes.len())));
        }
        Ok(Self { digest: sha256(&bytes), manifest, files, signatures })
    }
}

type Split = (Option<Vec<u8>>, Option<Vec<u8>>, Files);

/// Manifest, signatures, the rest.
fn split(raw: impl IntoIterator<Item = (String, Vec<u8>)>) -> Result<Split, BundleError> {
    let (mut manifest, mut signatures, mut rest) = (None, None, Vec::new());
    for (path, bytes) in raw {
        let slot = match path.as_str() {
            MANIFEST_FILE => &mut manifest,
            SIGNATURES_FILE => &mut signatures,
            CATALOGUE_FILE => continue,
            _ => {
                rest.push((path, bytes));
                continue;
            }
        };
        if bytes.len() > MAX_MANIFEST_BYTES {
            return Err(BundleError::TooLarge(bytes.len()));
        }
        if slot.replace(bytes).is_some() {
            return Err(FileError::Collision(path.clone(), path).into());
        }
    }
    Ok((manifest, signatures, Files::new(rest)?))
}

#[cfg(test)]
mod tests;
