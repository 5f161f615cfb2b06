//! One version of the tool catalogue, as root keys sign it: which one, whose, and after which.
//!
//! The digest of a catalogue says what its tools are and nothing about order: a statement names version and predecessor,
//! so that the signature of an older catalogue serves for no later one. Absent: the tools (`policy/decide`).

use countersign_gateway_model::{Digest, OrgId};
use serde::{Deserialize, Serialize};

use crate::canonical::{self, CanonicalError};
use crate::digest::sha256;
use crate::keys::RootKey;
use crate::root::{RootChain, RootError, Standing};
use crate::signature::{Domain, Signatures};

/// What a statement calls its form.
pub const CATALOGUE_FORMAT: &str = "countersign-catalogue/1";

/// Which catalogue is meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogueStatement {
    /// Always [`CATALOGUE_FORMAT`].
    pub format: String,
    /// Whose it is.
    pub organization: OrgId,
    /// Its version, from 1.
    pub version: u64,
    /// The catalogue before it.
    pub predecessor: Option<Digest>,
    /// The root document under which it is signed.
    pub root_version: u64,
    /// Plain SHA-256 of the catalogue's canonical form.
    pub catalogue: Digest,
}

impl CatalogueStatement {
    /// What is signed.
    pub fn digest(&self) -> Result<Digest, CanonicalError> {
        Ok(sha256(&canonical::write(self)?))
    }
}

/// A statement with its signatures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedCatalogue {
    /// The statement.
    pub statement: CatalogueStatement,
    /// By keys of its root document.
    pub signatures: Signatures,
}

impl SignedCatalogue {
    /// A statement that nobody has signed yet.
    pub fn unsigned(statement: CatalogueStatement) -> Self {
        Self { statement, signatures: Signatures::default() }
    }

    /// Adds a signature.
    pub fn sign(&mut self, key: &RootKey) -> Result<(), CanonicalError> {
        let digest = self.statement.digest()?;
        self.signatures.add(Domain::Catalogue, &digest, key);
        Ok(())
    }

    /// Whose signatures stand: of the current root document, by its threshold for catalogues.
    pub fn verify(&self, chain: &RootChain) -> Result<Standing, RootError> {
        let statement = &self.statement;
        let current = chain.current();
        if statement.format != CATALOGUE_FORMAT || statement.organization != chain.organization() {
            let why = "the catalogue's statement is of another form, or of another organization".to_owned();
            return Err(RootError::Unsound { version: statement.root_version, why });
        }
        if statement.root_version != current.version {
            return Err(RootError::UnknownVersion(statement.root_version));
        }
        let digest = statement.digest()?;
        chain.standing(Domain::Catalogue, &digest, &self.signatures, statement.root_version, |t| t.catalogue)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::root::{Custody, RootDocument, RootKeyEntry, SignedRoot, Thresholds};

    fn org(n: u8) -> OrgId {
        OrgId::from_bytes([n; 16])
    }

    fn key(n: u8) -> RootKey {
        RootKey::from_seed(&format!("root-{n}"), &[n; 32]).unwrap()
    }

    fn chain(keys: &[u8], catalogue: u32) -> RootChain {
        let entries = keys.iter().map(|n| RootKeyEntry { vkey: key(*n).vkey().clone(), custody: Custody::Offline });
        let thresholds = Thresholds { catalogue, ..Thresholds::all(1) };
        let mut signed = SignedRoot::unsigned(RootDocument::first(org(1), entries.collect(), thresholds).unwrap());
        signed.sign(&key(*keys.first().unwrap())).unwrap();
        RootChain::first(signed).unwrap()
    }

    fn statement(version: u64) -> CatalogueStatement {
        CatalogueStatement {
            format: CATALOGUE_FORMAT.to_owned(),
            organization: org(1),
            version,
            predecessor: (version > 1).then_some(Digest([1; 32])),
            root_version: 1,
            catalogue: Digest([2; 32]),
        }
    }

    #[test]
    fn a_catalogue_stands_by_the_threshold_for_catalogues_alone() {
        let mut signed = SignedCatalogue::unsigned(statement(2));
        signed.sign(&key(1)).unwrap();
        assert!(signed.verify(&chain(&[1, 2], 1)).is_ok());
        assert!(matches!(signed.verify(&chain(&[1, 2], 2)), Err(RootError::Threshold { got: 1, wanted: 2, .. })));
        signed.sign(&key(2)).unwrap();
        assert_eq!(signed.verify(&chain(&[1, 2], 2)).unwrap().signers.len(), 2);
        let bytes = serde_json::to_vec(&signed).unwrap();
        assert_eq!(serde_json::from_slice::<SignedCatalogue>(&bytes).unwrap(), signed);
    }

    #[test]
    fn a_signature_serves_for_one_version_of_one_organization_and_no_other() {
        let mut signed = SignedCatalogue::unsigned(statement(2));
        signed.sign(&key(1)).unwrap();
        let with = |change: &dyn Fn(&mut CatalogueStatement)| {
            let mut other = signed.clone();
            change(&mut other.statement);
            other.verify(&chain(&[1, 2], 1))
        };
        assert!(with(&|_| {}).is_ok());
        assert!(with(&|s| s.version = 3).is_err(), "replayed as a later one");
        assert!(with(&|s| s.predecessor = None).is_err());
        assert!(with(&|s| s.catalogue = Digest([3; 32])).is_err());
        assert!(with(&|s| s.organization = org(2)).is_err());
        assert!(with(&|s| s.root_version = 2).is_err());
        assert!(with(&|s| s.format = "countersign-catalogue/2".to_owned()).is_err());
    }
}
