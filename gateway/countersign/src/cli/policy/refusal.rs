//! Why a bundle is not verified: which file, which rule, what to do next.
//!
//! Absent: the verification (`signing`). The names of the rules are stable, as those of findings are.

use std::path::{Path, PathBuf};

use countersign_policy_store::bundle::{BundleError, MANIFEST_FILE, RootError, SIGNATURES_FILE};
use serde::Serialize;

use super::super::Global;

/// What a failed verification says.
#[derive(Debug, Serialize)]
pub(super) struct Refusal {
    verified: bool,
    why: String,
    /// The file that is wrong.
    file: String,
    /// The rule that it breaks.
    rule: &'static str,
    next_step: &'static str,
}

/// Where a bundle and its root documents were read from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sources<'a> {
    pub(super) bundle: &'a Path,
    pub(super) roots: &'a [PathBuf],
}

impl Sources<'_> {
    /// A file of the bundle: within the folder, or within the one file.
    fn of_bundle(&self, name: &str) -> String {
        let path = if self.bundle.is_dir() { self.bundle.join(name) } else { self.bundle.to_owned() };
        path.display().to_string()
    }

    /// The root document of that version; they are given from version 1 on, in their order.
    fn root(&self, version: u64) -> String {
        let at = usize::try_from(version).unwrap_or(usize::MAX).saturating_sub(1);
        self.roots.get(at).or(self.roots.last()).map(|path| path.display().to_string()).unwrap_or_default()
    }
}

impl Refusal {
    /// The bundle was not to be activated any more.
    pub(super) fn expired(sources: &Sources<'_>, why: String) -> Self {
        let next_step = "seal and sign it again with a later end date";
        Self { verified: false, why, file: sources.of_bundle(MANIFEST_FILE), rule: "bundle-expired", next_step }
    }

    pub(super) fn of(error: &BundleError, sources: &Sources<'_>) -> Self {
        let (name, rule, next_step) = match error {
            BundleError::Root(error) => return Self::of_root(error, sources),
            BundleError::Succession { .. } => (
                MANIFEST_FILE,
                "bundle-replayed",
                "take the bundle that follows, or seal and sign this one again: `countersign policy sign --after`",
            ),
            BundleError::RootVersion { .. } => {
                (MANIFEST_FILE, "root-version", "seal and sign it again under the current root document")
            }
            BundleError::Organization => {
                (MANIFEST_FILE, "other-organization", "take this organization's bundle, or seal it for this one")
            }
            BundleError::Changed(path) | BundleError::Missing(path) | BundleError::Unlisted(path) => (
                path.as_str(),
                "bundle-changed",
                "restore the file as it was sealed, or seal and sign the bundle again: `countersign policy sign`",
            ),
            BundleError::Document { file, .. } => {
                (*file, "bundle-unreadable", "restore the file as it was sealed, or seal and sign the bundle again")
            }
            BundleError::NoManifest => {
                (MANIFEST_FILE, "bundle-unsealed", "seal and sign it: `countersign policy sign`")
            }
            BundleError::File(_) | BundleError::Manifest(_) | BundleError::TooLarge(_) => {
                (MANIFEST_FILE, "bundle-unreadable", "restore the bundle as it was sealed, or seal and sign it again")
            }
        };
        Self { verified: false, why: crate::words(error), file: sources.of_bundle(name), rule, next_step }
    }

    pub(super) fn of_root(error: &RootError, sources: &Sources<'_>) -> Self {
        let (file, rule, next_step) = match error {
            RootError::Threshold { what: "bundle", .. } => (
                sources.of_bundle(SIGNATURES_FILE),
                "signature-threshold",
                "have it signed with another root key that counts: `countersign policy sign`",
            ),
            RootError::Forged(_) => (
                sources.of_bundle(SIGNATURES_FILE),
                "signature-forged",
                "take the bundle as it was signed, or have it signed again by that key's holder",
            ),
            RootError::UnknownVersion(_) => (
                sources.of_bundle(MANIFEST_FILE),
                "root-version",
                "give every root document with --root, in their order",
            ),
            RootError::NotGenesis { .. } => {
                (sources.root(1), "root-genesis", "give the root document that the first ledger entry names")
            }
            RootError::Succession { version, .. } | RootError::Unsound { version, .. } => (
                sources.root(*version),
                "root-succession",
                "give the root documents as they were signed, in their order",
            ),
            RootError::Threshold { version, .. } => (
                sources.root(*version),
                "root-threshold",
                "have the root document signed by more keys: `countersign policy root sign`",
            ),
            RootError::Syntax(_) | RootError::TooLarge(_) | RootError::Empty => {
                (sources.root(1), "root-unreadable", "give the root documents as they were signed, from version 1 on")
            }
        };
        Self { verified: false, why: crate::words(error), file, rule, next_step }
    }

    /// Says it; nothing is verified.
    pub(super) fn answer(&self, global: &Global) -> anyhow::Result<bool> {
        global.answer(&serde_json::to_value(self)?)?;
        Ok(false)
    }
}
