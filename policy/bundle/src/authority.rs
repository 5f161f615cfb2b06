//! Lowering the authority mode, as root keys sign it: whose, from what to what, and since when it was the other.
//!
//! A statement names the entry since which the mode has been what it is, so that it is good once: raised again, the mode
//! takes a new statement to lower. Absent: doing it, and the entry (the engine). Read next: `root`, whose threshold
//! for recoveries it needs.

use countersign_gateway_model::{Digest, OrgId};
use serde::{Deserialize, Serialize};

use crate::canonical::{self, CanonicalError};
use crate::digest::sha256;
use crate::keys::RootKey;
use crate::root::{RootChain, RootError, Standing};
use crate::signature::{Domain, Signatures};

/// What a statement calls its form.
pub const AUTHORITY_FORMAT: &str = "countersign-authority/1";

/// Which mode is to come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthorityStatement {
    /// Always [`AUTHORITY_FORMAT`].
    pub format: String,
    /// Whose it is.
    pub organization: OrgId,
    /// Always `four_eyes`.
    pub from: String,
    /// Always `solo`.
    pub to: String,
    /// Index of the entry of the organization's log since which the mode has been `from`.
    pub since: u64,
    /// The root document under which it is signed.
    pub root_version: u64,
}

impl AuthorityStatement {
    /// The one that lowers the mode of an organization, which has been `four_eyes` since an entry.
    pub fn lowering(organization: OrgId, since: u64, root_version: u64) -> Self {
        let (from, to) = ("four_eyes".to_owned(), "solo".to_owned());
        Self { format: AUTHORITY_FORMAT.to_owned(), organization, from, to, since, root_version }
    }

    /// What is signed.
    pub fn digest(&self) -> Result<Digest, CanonicalError> {
        Ok(sha256(&canonical::write(self)?))
    }
}

/// A statement with its signatures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedAuthority {
    /// The statement.
    pub statement: AuthorityStatement,
    /// By keys of its root document.
    pub signatures: Signatures,
}

impl SignedAuthority {
    /// A statement that nobody has signed yet.
    pub fn unsigned(statement: AuthorityStatement) -> Self {
        Self { statement, signatures: Signatures::default() }
    }

    /// Adds a signature.
    pub fn sign(&mut self, key: &RootKey) -> Result<(), CanonicalError> {
        let digest = self.statement.digest()?;
        self.signatures.add(Domain::Authority, &digest, key);
        Ok(())
    }

    /// Whose signatures stand, for the one statement that can lower the mode now: of the current root document, by its
    /// threshold for recoveries.
    pub fn verify(&self, chain: &RootChain, since: u64) -> Result<Standing, RootError> {
        let current = chain.current();
        let statement = &self.statement;
        let wanted = AuthorityStatement::lowering(chain.organization(), since, current.version);
        if *statement != wanted {
            let why = format!(
                "the statement is not the one that lowers the authority mode here and now: of organization {}, \
                 `four_eyes` since entry {since}, under root version {}",
                wanted.organization, wanted.root_version
            );
            return Err(RootError::Unsound { version: statement.root_version, why });
        }
        let digest = statement.digest()?;
        chain.standing(Domain::Authority, &digest, &self.signatures, statement.root_version, |t| t.recovery)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::root::{Custody, RootDocument, RootKeyEntry, SignedRoot, Thresholds};

    fn key(n: u8) -> RootKey {
        RootKey::from_seed(&format!("root-{n}"), &[n; 32]).unwrap()
    }

    fn org(n: u8) -> OrgId {
        OrgId::from_bytes([n; 16])
    }

    fn chain(recovery: u32) -> RootChain {
        let entries = [1, 2, 3].map(|n| RootKeyEntry { vkey: key(n).vkey().clone(), custody: Custody::Offline });
        let thresholds = Thresholds { recovery, ..Thresholds::all(1) };
        let mut signed = SignedRoot::unsigned(RootDocument::first(org(1), entries.to_vec(), thresholds).unwrap());
        signed.sign(&key(1)).unwrap();
        RootChain::first(signed).unwrap()
    }

    fn signed(statement: AuthorityStatement, by: &[u8]) -> SignedAuthority {
        let mut signed = SignedAuthority::unsigned(statement);
        for n in by {
            signed.sign(&key(*n)).unwrap();
        }
        signed
    }

    #[test]
    fn the_mode_is_lowered_by_the_recovery_threshold_of_root_keys_and_by_no_fewer() {
        let (chain, statement) = (chain(2), AuthorityStatement::lowering(org(1), 7, 1));
        for by in [&[][..], &[1], &[1, 9], &[8, 9]] {
            assert!(signed(statement.clone(), by).verify(&chain, 7).is_err(), "{by:?}");
        }
        assert!(!signed(statement.clone(), &[1, 3]).verify(&chain, 7).unwrap().local);
        assert!(signed(statement, &[1, 2, 3]).verify(&chain, 7).is_ok());
    }

    #[test]
    fn a_statement_is_good_for_its_organization_its_entry_and_its_root_document_alone() {
        let chain = chain(1);
        let good = AuthorityStatement::lowering(org(1), 7, 1);
        assert!(signed(good.clone(), &[1]).verify(&chain, 7).is_ok());
        assert!(signed(good.clone(), &[1]).verify(&chain, 8).is_err(), "it was raised again since");
        for other in [
            AuthorityStatement::lowering(org(2), 7, 1),
            AuthorityStatement::lowering(org(1), 7, 2),
            AuthorityStatement { to: "none".to_owned(), ..good.clone() },
            AuthorityStatement { format: "countersign-authority/2".to_owned(), ..good.clone() },
        ] {
            assert!(signed(other.clone(), &[1]).verify(&chain, 7).is_err(), "{other:?}");
        }
        // A signature of another sort of document, over the same digest, serves for none.
        let mut forged = SignedAuthority::unsigned(good.clone());
        forged.signatures.add(Domain::Catalogue, &good.digest().unwrap(), &key(1));
        assert!(forged.verify(&chain, 7).is_err());
    }
}
