//! `sign`, `verify`, `pack`, `unpack`, `key`: a bundle's seal and its signatures, made and checked without a gateway.
//!
//! A private key is named by its file, never by its text, and the file is refused if anybody else may read it. Absent:
//! whose keys count (`roots`).

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use countersign_gateway_model::{Clock as _, Digest, OrgId};
use countersign_policy_store::bundle::{
    Bundle, CATALOGUE_FILE, Lineage, RootChain, RootKey, SignedRoot, Standing, check, diff,
};
use countersign_policy_store::{FolderError, read_bundle, read_draft};
use serde_json::json;

use super::super::{Global, out};
use super::checking::Source;
use super::refusal::{Refusal, Sources};
use crate::clock::SystemClock;
use crate::keys::{read_private, write_new_private};
use crate::text::plain;

/// Seals and signs a bundle.
#[derive(Debug, Args)]
pub(crate) struct Sign {
    /// A folder, sealed or not, or a bundle file.
    path: PathBuf,
    /// File of a private root key; once for each key.
    #[arg(long, value_name = "FILE", required = true)]
    key: Vec<PathBuf>,
    /// Seal it as the next one after this bundle (a folder, or a bundle file).
    #[arg(long, value_name = "BUNDLE", conflicts_with_all = ["organization", "bundle_version", "predecessor"])]
    after: Option<PathBuf>,
    /// Seal it for this organization: as its first bundle, unless --bundle-version and --predecessor say otherwise.
    #[arg(long, value_name = "ORG")]
    organization: Option<OrgId>,
    /// Its version.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "predecessor")]
    bundle_version: u64,
    /// Digest of the bundle that it replaces.
    #[arg(long, value_name = "HEX", requires = "bundle_version")]
    predecessor: Option<Digest>,
    /// Version of the root document whose keys sign; else that of the bundle before, or 1.
    #[arg(long, value_name = "N")]
    root_version: Option<u64>,
    /// Tool catalogue that it is checked with; else the one in the folder, else that of a new organization.
    #[arg(long, value_name = "FILE")]
    catalogue: Option<PathBuf>,
    /// Sign without checking: for a key that is kept where the catalogue is not.
    #[arg(long)]
    unchecked: bool,
    /// Write one file instead of into the folder or over the file.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Checks signatures.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// A sealed folder, or a bundle file.
    path: PathBuf,
    /// Signed root documents, from version 1 on, in their order.
    #[arg(long, value_name = "FILE", required = true)]
    root: Vec<PathBuf>,
    /// Digest of root document version 1, as the organization's first ledger entry names it.
    #[arg(long, value_name = "HEX")]
    genesis: Digest,
    /// The bundle that it must follow: an older one is refused, however well signed.
    #[arg(long, value_name = "BUNDLE")]
    after: Option<PathBuf>,
}

/// Makes one file of a folder.
#[derive(Debug, Args)]
pub(crate) struct Pack {
    /// A sealed folder.
    folder: PathBuf,
    /// The file; it must not be there yet.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Makes a folder of one file.
#[derive(Debug, Args)]
pub(crate) struct Unpack {
    /// A bundle file.
    file: PathBuf,
    /// The folder; it must not be there yet.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
}

/// Makes a root key.
#[derive(Debug, Args)]
pub(crate) struct NewKey {
    /// What signatures by it are filed under, such as `root-1`.
    #[arg(long)]
    name: String,
    /// The file for its private half; it must not be there yet.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Reads private keys, each from a file that only its owner may read.
pub(super) fn private_keys(files: &[PathBuf]) -> Result<Vec<RootKey>> {
    let read = |file: &PathBuf| -> Result<RootKey> {
        let text = read_private(file)?;
        let text =
            text.with_context(|| format!("`{}` is not there: give the file of a private key", file.display()))?;
        RootKey::parse(text.trim()).with_context(|| format!("`{}` holds no root key", file.display()))
    };
    files.iter().map(read).collect()
}

pub(super) fn new_key(args: &NewKey, global: &Global) -> Result<bool> {
    let key = RootKey::from_seed(&args.name, &crate::mint::secret()?)?;
    write_new_private(&args.out, format!("{}\n", key.to_private_text()).as_bytes())?;
    global
        .answer(&json!({ "written": args.out, "key": key.vkey().id().to_string(), "vkey": key.vkey().to_string() }))?;
    Ok(true)
}

pub(super) fn sign(args: &Sign, global: &Global) -> Result<bool> {
    let keys = private_keys(&args.key)?;
    let before = args.after.as_deref().map(read_bundle).transpose()?;
    let mut bundle = sealed(args, before.as_ref())?;
    if !args.unchecked {
        let catalogue = Source::catalogue(&args.path, args.catalogue.as_deref())?;
        let report = check(&bundle, Some(&catalogue)).report;
        if !report.passes() {
            if global.json {
                global.document(&json!({ "signed": false, "findings": report.findings }))?;
            } else {
                out(&plain(&format!("{report}\nnot signed: it does not pass its check\n")))?;
            }
            return Ok(false);
        }
    }
    for key in &keys {
        bundle.sign(key);
    }
    let written = keep(args, &bundle)?;
    let signatures: Vec<String> = bundle.signatures().iter().map(|s| s.key.to_string()).collect();
    let difference = before.map(|before| diff(&before.to_draft(), &bundle.to_draft()));
    if !global.json
        && let Some(difference) = &difference
    {
        out(&plain(&format!("What it changes:\n{difference}\n")))?;
    }
    let manifest = bundle.manifest();
    global.answer(&json!({
        "signed": true, "written": written, "digest": bundle.digest(), "organization": manifest.organization,
        "version": manifest.version, "predecessor": manifest.predecessor, "root_version": manifest.root_version,
        "signatures": signatures, "weakens": difference.map(|difference| difference.may_weaken()),
    }))?;
    Ok(true)
}

/// What is signed: a whole bundle as it is, or a draft sealed where the arguments say that it stands.
fn sealed(args: &Sign, before: Option<&Bundle>) -> Result<Bundle> {
    let at = |lineage: Lineage| Lineage { root_version: args.root_version.unwrap_or(lineage.root_version), ..lineage };
    let lineage = match (before, args.organization) {
        (Some(before), _) => before.next_lineage(),
        (None, Some(organization)) => {
            Lineage { organization, version: args.bundle_version, predecessor: args.predecessor, root_version: 1 }
        }
        (None, None) => {
            // Signed by one root key before, and now by another: the seal stays as it is.
            return match read_bundle(&args.path) {
                Ok(bundle) if args.root_version.is_none_or(|wanted| wanted == bundle.manifest().root_version) => {
                    Ok(bundle)
                }
                Ok(_) => {
                    bail!("it is sealed under another root version: give --after or --organization to seal it again")
                }
                Err(error) => {
                    Err(error).context("to seal it, say where it stands: --after BUNDLE, or --organization ORG")
                }
            };
        }
    };
    Ok(read_draft(&args.path)?.seal(at(lineage))?)
}

/// Writes the seal: into the folder, over the file, or to a file of its own.
fn keep(args: &Sign, bundle: &Bundle) -> Result<Vec<PathBuf>> {
    if let Some(file) = &args.out {
        keep_apart(file, &bundle.to_bytes()?)?;
        return Ok(vec![file.clone()]);
    }
    if !args.path.is_dir() {
        super::replace(&args.path, &bundle.to_bytes()?)?;
        return Ok(vec![args.path.clone()]);
    }
    let mut written = Vec::new();
    // The files are the folder's own; manifest and signatures alone are new. Crash between them: an old signature over a
    // new manifest, which no verification takes.
    for (name, bytes) in bundle.to_files()? {
        let path = args.path.join(&name);
        if std::fs::read(&path).ok().as_deref() != Some(bytes.as_slice()) {
            super::replace(&path, &bytes)?;
            written.push(path);
        }
    }
    Ok(written)
}

/// Writes a bundle to a file of its own: a new one, or one that holds a bundle already.
fn keep_apart(file: &Path, bytes: &[u8]) -> Result<()> {
    match std::fs::symlink_metadata(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => super::write_new(file, bytes),
        Ok(meta) if meta.is_file() && read_bundle(file).is_ok() => super::replace(file, bytes),
        _ => bail!("`{}` is there already and holds no bundle: give another file", file.display()),
    }
}

pub(super) fn verify(args: &Verify, global: &Global) -> Result<bool> {
    let documents = args.root.iter().map(|file| read_root(file)).collect::<Result<Vec<_>>>()?;
    let before = args.after.as_deref().map(read_bundle).transpose()?;
    let sources = Sources { bundle: &args.path, roots: &args.root };
    let bundle = match read_bundle(&args.path) {
        Ok(bundle) => bundle,
        // Bytes that are there and are no whole bundle were changed: that is a finding.
        Err(FolderError::Bundle { source, .. }) => return Refusal::of(&source, &sources).answer(global),
        Err(error) => return Err(error.into()),
    };
    let standing = || -> Result<Standing, Refusal> {
        let chain = RootChain::verify(documents, &args.genesis).map_err(|error| Refusal::of_root(&error, &sources))?;
        let refuse = |error| Refusal::of(&error, &sources);
        let standing = bundle.verify_candidate(&chain).map_err(refuse)?;
        if let Some(before) = &before {
            bundle.follows(before).map_err(refuse)?;
        }
        if let Some(end) = bundle.manifest().expires.filter(|end| SystemClock.now() > *end) {
            let why = format!("the bundle was not to be activated after {end}");
            return Err(Refusal::expired(&sources, why));
        }
        Ok(standing)
    };
    let standing = match standing() {
        Ok(standing) => standing,
        Err(refusal) => return refusal.answer(global),
    };
    let signers: Vec<String> = standing.signers.iter().map(ToString::to_string).collect();
    let manifest = bundle.manifest();
    global.answer(&json!({
        "verified": true, "digest": bundle.digest(), "organization": manifest.organization, "version": manifest.version,
        "predecessor": manifest.predecessor, "root_version": standing.root_version, "signed_by": signers,
        "local_key": standing.local, "follows": before.map(|before| before.digest()),
    }))?;
    Ok(true)
}

/// A signed root document.
pub(super) fn read_root(file: &Path) -> Result<SignedRoot> {
    let bytes = std::fs::read(file).with_context(|| format!("`{}` cannot be read", file.display()))?;
    SignedRoot::from_bytes(&bytes).with_context(|| format!("`{}` is no root document", file.display()))
}

/// A bundle; none if the bytes are there but are none, which is said.
fn whole(path: &Path, global: &Global) -> Result<Option<Bundle>> {
    match read_bundle(path) {
        Ok(bundle) => Ok(Some(bundle)),
        Err(FolderError::Bundle { path, source }) => {
            let why = format!("`{}` is not a bundle: {}", path.display(), crate::words(&source));
            global.answer(&json!({ "written": null, "why": why }))?;
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

pub(super) fn pack(args: &Pack, global: &Global) -> Result<bool> {
    let Some(bundle) = whole(&args.folder, global)? else { return Ok(false) };
    super::write_new(&args.out, &bundle.to_bytes()?)?;
    let left_out = args.folder.join(CATALOGUE_FILE).exists().then_some(CATALOGUE_FILE);
    global.answer(&json!({ "written": args.out, "digest": bundle.digest(), "left_out": left_out }))?;
    Ok(true)
}

pub(super) fn unpack(args: &Unpack, global: &Global) -> Result<bool> {
    let Some(bundle) = whole(&args.file, global)? else { return Ok(false) };
    let files = bundle.to_files()?;
    super::write_folder(&args.out, files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())))?;
    global.answer(&json!({ "written": args.out, "digest": bundle.digest(), "files": files.len() }))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use countersign_policy_store::bundle::Draft;

    use super::*;

    #[test]
    fn a_signed_bundle_is_written_over_another_bundle_and_over_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let lineage =
            Lineage { organization: OrgId::from_bytes([1; 16]), version: 1, predecessor: None, root_version: 1 };
        let bytes = |text: &str| {
            let files = [("README.md".to_owned(), text.as_bytes().to_vec())];
            Draft::from_files(files).unwrap().seal(lineage).unwrap().to_bytes().unwrap()
        };
        let file = dir.path().join("signed.bundle");
        for text in ["one", "two"] {
            keep_apart(&file, &bytes(text)).unwrap();
            assert_eq!(std::fs::read(&file).unwrap(), bytes(text));
        }
        let notes = dir.path().join("notes.txt");
        std::fs::write(&notes, "the user's own").unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        for other in [&notes, &link, &dir.path().to_owned()] {
            let error = keep_apart(other, &bytes("three")).unwrap_err().to_string();
            assert!(error.contains("holds no bundle"), "{error}");
        }
        assert_eq!(std::fs::read(&notes).unwrap(), b"the user's own");
        assert_eq!(std::fs::read(&file).unwrap(), bytes("two"));
    }
}
