//! The root document: whose signatures count, and how many; its succession; what a signed bundle amounts to under it.
//!
//! Version 1 is named by the organization's genesis entry; each next one is signed by the threshold of the one before
//! and by its own. Never part of a bundle. Absent: where documents are stored (`policy/store`), the genesis entry
//! (`ledger/entry`). Read next: `bundle`.

use std::collections::BTreeSet;

use countersign_gateway_model::{Digest, OrgId};
use serde::{Deserialize, Serialize};

use crate::canonical::{self, CanonicalError, MAX_SAFE_INTEGER};
use crate::digest::sha256;
use crate::keys::{KeyId, Vkey};
use crate::signature::{Domain, Signatures};

/// The format of root documents that this program writes and reads.
pub const ROOT_FORMAT: u32 = 1;
/// How many keys a root document may name.
pub(crate) const MAX_KEYS: usize = 32;
/// How many revoked keys a root document may list.
pub(crate) const MAX_REVOKED: usize = 256;
/// How many bytes a signed root document may have.
pub(crate) const MAX_ROOT_BYTES: usize = 64 * 1024;

/// Where a root key is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Custody {
    /// In the data folder of the gateway itself: whoever holds the machine holds the key. Verdicts say `local`.
    Local,
    /// Away from the gateway.
    Offline,
}

/// One key of a root document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootKeyEntry {
    /// The public key.
    pub vkey: Vkey,
    /// Where its private half is kept.
    pub custody: Custody,
}

/// How many distinct keys must sign what. Each is at least 1 and at most the number of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Thresholds {
    /// The next root document.
    pub root: u32,
    /// A bundle.
    pub bundle: u32,
    /// A tool catalogue.
    pub catalogue: u32,
    /// A recovery, and lowering the authority mode. At least `bundle`.
    pub recovery: u32,
}

impl Thresholds {
    /// The same number for everything.
    pub const fn all(n: u32) -> Self {
        Self { root: n, bundle: n, catalogue: n, recovery: n }
    }
}

/// The keys of an organization and their thresholds. Its digest is that of its canonical JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootDocument {
    /// [`ROOT_FORMAT`].
    pub format: u32,
    /// Whose.
    pub organization: OrgId,
    /// 1, 2, 3 …
    pub version: u64,
    /// The digest of the version before; none for version 1.
    pub previous: Option<Digest>,
    /// In the order of their key ids, none twice.
    pub keys: Vec<RootKeyEntry>,
    /// How many must sign.
    pub thresholds: Thresholds,
    /// Keys that count for nothing any more, whatever they signed and when; sorted; only ever grows.
    pub revoked: Vec<KeyId>,
}

/// Why a root document, or a signature under it, does not hold.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// Not the canonical bytes of a signed root document.
    #[error("root document does not read: {0}")]
    Syntax(#[from] CanonicalError),
    /// Too large to be one.
    #[error("root document has {0} bytes; at most {MAX_ROOT_BYTES} are read")]
    TooLarge(usize),
    /// A rule about the document itself.
    #[error("root document version {version} is not sound: {why}")]
    Unsound {
        /// Which version.
        version: u64,
        /// What is wrong and what to change.
        why: String,
    },
    /// Version 1 is not the document that genesis names.
    #[error("root document version 1 has digest `{got}`, but genesis names `{wanted}`; restore the right file")]
    NotGenesis {
        /// The digest in genesis.
        wanted: Digest,
        /// The digest of what was given.
        got: Digest,
    },
    /// No document was given.
    #[error("no root document; restore version 1, which genesis names")]
    Empty,
    /// A document does not follow the one before.
    #[error("root document version {version} does not succeed version {before}: {why}")]
    Succession {
        /// The refused version.
        version: u64,
        /// The version that stands.
        before: u64,
        /// What is wrong.
        why: String,
    },
    /// A root version that is not in the chain.
    #[error("root version {0} is unknown here; load the missing root documents first")]
    UnknownVersion(u64),
    /// Too few valid signatures.
    #[error(
        "{what} has {got} of the {wanted} signatures that root version {version} asks for; sign with another root key"
    )]
    Threshold {
        /// The document.
        what: &'static str,
        /// The root version that was asked.
        version: u64,
        /// How many distinct keys signed validly.
        got: usize,
        /// How many must.
        wanted: u32,
    },
    /// A key of the root document is named, but the signature is not its own.
    #[error(
        "the signature of root key `{0}` does not belong to this document; it was changed after \
         signing, or is another's"
    )]
    Forged(KeyId),
}

impl RootDocument {
    /// Version 1 of an organization's root document.
    pub fn first(organization: OrgId, keys: Vec<RootKeyEntry>, thresholds: Thresholds) -> Result<Self, RootError> {
        let format = ROOT_FORMAT;
        Self { format, organization, version: 1, previous: None, keys, thresholds, revoked: Vec::new() }.sound()
    }

    /// The document that follows this one; `revoke` is added to what was revoked before.
    pub fn successor(
        &self,
        keys: Vec<RootKeyEntry>,
        thresholds: Thresholds,
        revoke: impl IntoIterator<Item = KeyId>,
    ) -> Result<Self, RootError> {
        let revoked: BTreeSet<KeyId> = self.revoked.iter().cloned().chain(revoke).collect();
        Self {
            format: ROOT_FORMAT,
            organization: self.organization,
            version: self.version.saturating_add(1),
            previous: Some(self.digest()?),
            keys,
            thresholds,
            revoked: revoked.into_iter().collect(),
        }
        .sound()
    }

    /// Canonical bytes (RFC 8785).
    pub fn to_bytes(&self) -> Result<Vec<u8>, RootError> {
        Ok(canonical::write(self)?)
    }

    /// SHA-256 of the canonical bytes.
    pub fn digest(&self) -> Result<Digest, RootError> {
        Ok(sha256(&self.to_bytes()?))
    }

    fn sound(mut self) -> Result<Self, RootError> {
        self.keys.sort_by(|a, b| a.vkey.id().cmp(b.vkey.id()));
        self.check()?;
        Ok(self)
    }

    fn check(&self) -> Result<(), RootError> {
        let unsound = |why: String| Err(RootError::Unsound { version: self.version, why });
        if self.format != ROOT_FORMAT {
            return unsound(format!("format {} is not {ROOT_FORMAT}; use a program that knows it", self.format));
        }
        if (self.version == 1) != self.previous.is_none() || self.version == 0 || self.version > MAX_SAFE_INTEGER {
            return unsound("version 1 has no `previous`, every later one has".to_owned());
        }
        if self.keys.is_empty() || self.keys.len() > MAX_KEYS {
            return unsound(format!("1 to {MAX_KEYS} keys are expected, there are {}", self.keys.len()));
        }
        if !self.keys.is_sorted_by(|a, b| a.vkey.id() < b.vkey.id()) {
            return unsound("keys are not in the order of their ids, or one stands twice".to_owned());
        }
        // Two names for one key would let one holder meet a threshold of two.
        let distinct: BTreeSet<&[u8; 32]> = self.keys.iter().map(|k| k.vkey.public()).collect();
        if distinct.len() != self.keys.len() {
            return unsound("one key stands under two names".to_owned());
        }
        let Thresholds { root, bundle, catalogue, recovery } = self.thresholds;
        for (what, n) in [("root", root), ("bundle", bundle), ("catalogue", catalogue), ("recovery", recovery)] {
            if n == 0 || usize::try_from(n).is_ok_and(|n| n > self.keys.len()) {
                return unsound(format!("threshold `{what}` is {n}; 1 to {} is possible", self.keys.len()));
            }
        }
        if recovery < bundle {
            return unsound("threshold `recovery` is below `bundle`; a recovery must not be the easier way".to_owned());
        }
        if self.revoked.len() > MAX_REVOKED || !self.revoked.is_sorted_by(|a, b| a < b) {
            return unsound(format!("revoked keys are not sorted, stand twice, or are more than {MAX_REVOKED}"));
        }
        if let Some(key) = self.keys.iter().map(|k| k.vkey.id()).find(|id| self.revoked.contains(id)) {
            return unsound(format!("key `{key}` is listed and revoked at once; take it out of `keys`"));
        }
        Ok(())
    }

    /// Which keys of this document signed `digest`, less those in `revoked`.
    fn signers(
        &self,
        domain: Domain,
        digest: &Digest,
        signatures: &Signatures,
        revoked: &[KeyId],
    ) -> Result<Vec<&RootKeyEntry>, RootError> {
        let message = domain.message(digest);
        let mut signers = Vec::new();
        for signature in signatures.iter() {
            // A key that is not ours says nothing, as in signed-note; a known key's bad signature is never an accident.
            let Some(entry) = self.keys.iter().find(|k| *k.vkey.id() == signature.key) else { continue };
            if !entry.vkey.verifies(&message, &signature.sig) {
                return Err(RootError::Forged(signature.key.clone()));
            }
            if !revoked.contains(&signature.key) {
                signers.push(entry);
            }
        }
        Ok(signers)
    }

    fn met_by(
        &self,
        what: &'static str,
        wanted: u32,
        (domain, digest, signatures): (Domain, &Digest, &Signatures),
        revoked: &[KeyId],
    ) -> Result<Standing, RootError> {
        let signers = self.signers(domain, digest, signatures, revoked)?;
        if u32::try_from(signers.len()).is_ok_and(|n| n < wanted) {
            return Err(RootError::Threshold { what, version: self.version, got: signers.len(), wanted });
        }
        Ok(Standing {
            root_version: self.version,
            local: u32::try_from(signers.iter().filter(|k| k.custody == Custody::Local).count())
                .is_ok_and(|n| n >= wanted),
            signers: signers.into_iter().map(|k| k.vkey.id().clone()).collect(),
        })
    }
}

/// What a threshold of signatures amounts to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The root document that was asked.
    pub root_version: u64,
    /// The keys that counted.
    pub signers: Vec<KeyId>,
    /// Those that are kept by the gateway itself are enough: whoever holds its folder could have signed alone.
    pub local: bool,
}

/// A root document with its signatures: what is stored and sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedRoot {
    /// The document.
    pub root: RootDocument,
    /// By keys of the version before and of this one.
    pub signatures: Signatures,
}

impl SignedRoot {
    /// A document that nobody has signed yet.
    pub fn unsigned(root: RootDocument) -> Self {
        Self { root, signatures: Signatures::default() }
    }

    /// Adds a signature.
    pub fn sign(&mut self, key: &crate::RootKey) -> Result<(), RootError> {
        let digest = self.root.digest()?;
        self.signatures.add(Domain::Root, &digest, key);
        Ok(())
    }

    /// Canonical bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>, RootError> {
        Ok(canonical::write(self)?)
    }

    /// Reads canonical bytes; any other spelling of the same document is refused. Signatures are not checked here.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RootError> {
        if bytes.len() > MAX_ROOT_BYTES {
            return Err(RootError::TooLarge(bytes.len()));
        }
        Ok(canonical::read(bytes)?)
    }
}

/// The verified succession of an organization's root documents, from version 1 to the current one.
#[derive(Clone, Debug)]
pub struct RootChain {
    documents: Vec<SignedRoot>,
    current: RootDocument,
}

impl RootChain {
    /// Verifies version 1 against the digest that genesis names, and each next one against the one before.
    pub fn verify(documents: impl IntoIterator<Item = SignedRoot>, genesis: &Digest) -> Result<Self, RootError> {
        let mut documents = documents.into_iter();
        let first = documents.next().ok_or(RootError::Empty)?;
        let got = first.root.digest()?;
        if got != *genesis {
            return Err(RootError::NotGenesis { wanted: *genesis, got });
        }
        let mut chain = Self::first(first)?;
        for next in documents {
            chain.extend(next)?;
        }
        Ok(chain)
    }

    /// A chain of version 1 alone, signed by its own threshold. The caller puts its digest into genesis.
    pub fn first(document: SignedRoot) -> Result<Self, RootError> {
        let root = &document.root;
        root.check()?;
        if root.version != 1 || !root.revoked.is_empty() {
            let why = "the first document has version 1 and revokes nothing".to_owned();
            return Err(RootError::Unsound { version: root.version, why });
        }
        let digest = root.digest()?;
        root.met_by("root document", root.thresholds.root, (Domain::Root, &digest, &document.signatures), &[])?;
        Ok(Self { current: root.clone(), documents: vec![document] })
    }

    /// Verifies and appends the next document.
    pub fn extend(&mut self, next: SignedRoot) -> Result<(), RootError> {
        let (old, new) = (&self.current, &next.root);
        new.check()?;
        let refuse =
            |why: &str| Err(RootError::Succession { version: new.version, before: old.version, why: why.to_owned() });
        if new.organization != old.organization {
            return refuse("it belongs to another organization");
        }
        if new.version != old.version.saturating_add(1) {
            return refuse("its version is not the next one");
        }
        if new.previous != Some(old.digest()?) {
            return refuse("it names another predecessor");
        }
        if !old.revoked.iter().all(|id| new.revoked.contains(id)) {
            return refuse("it takes back a revocation");
        }
        // A revoked key that comes back under another name would count again.
        let revoked_bytes = self.revoked_bytes(&new.revoked);
        if new.keys.iter().any(|k| revoked_bytes.contains(k.vkey.public())) {
            return refuse("it lists a revoked key under another name");
        }
        let digest = new.digest()?;
        let signed = (Domain::Root, &digest, &next.signatures);
        old.met_by("root document", old.thresholds.root, signed, &old.revoked)?;
        new.met_by("root document", new.thresholds.root, signed, &new.revoked)?;
        self.current = next.root.clone();
        self.documents.push(next);
        Ok(())
    }

    /// The public keys behind revoked ids, as far as a document of this chain ever listed them.
    fn revoked_bytes(&self, revoked: &[KeyId]) -> BTreeSet<[u8; 32]> {
        let keys = self.documents.iter().flat_map(|d| &d.root.keys);
        keys.filter(|k| revoked.contains(k.vkey.id())).map(|k| *k.vkey.public()).collect()
    }

    /// The document in force.
    pub fn current(&self) -> &RootDocument {
        &self.current
    }

    /// The document of one version.
    pub fn at(&self, version: u64) -> Result<&RootDocument, RootError> {
        let found = self.documents.iter().find(|d| d.root.version == version);
        found.map(|d| &d.root).ok_or(RootError::UnknownVersion(version))
    }

    /// All documents, oldest first.
    pub fn documents(&self) -> &[SignedRoot] {
        &self.documents
    }

    /// Whose chain it is.
    pub fn organization(&self) -> OrgId {
        self.current.organization
    }

    /// Checks signatures over `digest` by the keys of root `version`, less every key revoked since.
    pub fn standing(
        &self,
        domain: Domain,
        digest: &Digest,
        signatures: &Signatures,
        version: u64,
        wanted: impl FnOnce(&Thresholds) -> u32,
    ) -> Result<Standing, RootError> {
        let root = self.at(version)?;
        let what = match domain {
            Domain::Bundle => "bundle",
            Domain::Root => "root document",
            Domain::Catalogue => "catalogue",
            Domain::Authority => "statement about the authority mode",
        };
        root.met_by(what, wanted(&root.thresholds), (domain, digest, signatures), &self.current.revoked)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::RootKey;

    fn key(n: u8) -> RootKey {
        RootKey::from_seed(&format!("root-{n}"), &[n; 32]).unwrap()
    }

    fn entries(keys: &[u8]) -> Vec<RootKeyEntry> {
        keys.iter().map(|n| RootKeyEntry { vkey: key(*n).vkey().clone(), custody: Custody::Offline }).collect()
    }

    fn org() -> OrgId {
        OrgId::from_bytes([7; 16])
    }

    fn signed(root: RootDocument, by: &[u8]) -> SignedRoot {
        let mut signed = SignedRoot::unsigned(root);
        for n in by {
            signed.sign(&key(*n)).unwrap();
        }
        signed
    }

    fn chain() -> RootChain {
        let first = RootDocument::first(org(), entries(&[1, 2, 3]), Thresholds::all(2)).unwrap();
        RootChain::first(signed(first, &[1, 2])).unwrap()
    }

    #[test]
    fn a_root_document_is_succeeded_only_by_both_thresholds() {
        let mut chain = chain();
        let next = chain.current().successor(entries(&[3, 4, 5]), Thresholds::all(2), []).unwrap();
        for (by, why) in [
            (vec![], "nobody"),
            (vec![4, 5], "the new ones alone"),
            (vec![1, 2], "the old ones alone"),
            (vec![1, 4, 5], "one old one"),
            (vec![1, 3], "one new one"),
        ] {
            assert!(chain.extend(signed(next.clone(), &by)).is_err(), "{why}");
        }
        chain.extend(signed(next.clone(), &[1, 3, 4])).unwrap();
        assert_eq!(chain.current(), &next);
        let genesis = chain.at(1).unwrap().digest().unwrap();
        assert_eq!(RootChain::verify(chain.documents().to_vec(), &genesis).unwrap().current(), &next);
        assert!(matches!(
            RootChain::verify(chain.documents().to_vec(), &Digest([0; 32])),
            Err(RootError::NotGenesis { .. })
        ));
        assert!(RootChain::verify([], &genesis).is_err());
    }

    #[test]
    fn a_version_is_neither_skipped_nor_repeated_nor_forked() {
        let mut chain = chain();
        let good = chain.current().successor(entries(&[1, 2, 3]), Thresholds::all(1), []).unwrap();
        let forks = [
            RootDocument { version: 3, ..good.clone() },
            RootDocument { version: 1, previous: None, ..good.clone() },
            RootDocument { previous: Some(Digest([9; 32])), ..good.clone() },
            RootDocument { organization: OrgId::from_bytes([8; 16]), ..good.clone() },
        ];
        for fork in forks {
            assert!(chain.extend(signed(fork, &[1, 2, 3])).is_err());
        }
        chain.extend(signed(good.clone(), &[1, 2])).unwrap();
        assert!(chain.extend(signed(good, &[1, 2])).is_err());
    }

    #[test]
    fn a_revoked_key_counts_no_more_and_does_not_come_back() {
        let mut chain = chain();
        let digest = Digest([5; 32]);
        let mut signatures = Signatures::default();
        signatures.add(Domain::Bundle, &digest, &key(1));
        signatures.add(Domain::Bundle, &digest, &key(2));
        let standing = |chain: &RootChain, v| chain.standing(Domain::Bundle, &digest, &signatures, v, |t| t.bundle);
        assert_eq!(standing(&chain, 1).unwrap().signers.len(), 2);

        let gone = key(1).vkey().id().clone();
        assert!(chain.current().successor(entries(&[1, 2]), Thresholds::all(2), [gone.clone()]).is_err());
        let next = chain.current().successor(entries(&[2, 3]), Thresholds::all(2), [gone.clone()]).unwrap();
        chain.extend(signed(next, &[2, 3])).unwrap();
        assert!(matches!(standing(&chain, 1), Err(RootError::Threshold { got: 1, wanted: 2, .. })));

        let back = chain.current().successor(entries(&[2, 3]), Thresholds::all(2), []).unwrap();
        assert!(back.revoked.contains(&gone));
        let forgotten = RootDocument { revoked: vec![], ..back };
        assert!(chain.extend(signed(forgotten, &[2, 3])).is_err(), "a revocation is not taken back");
        let alias = RootKey::from_seed("another-name", &[1; 32]).unwrap();
        let mut keys = entries(&[2, 3]);
        keys.push(RootKeyEntry { vkey: alias.vkey().clone(), custody: Custody::Offline });
        let renamed = chain.current().successor(keys, Thresholds::all(2), []).unwrap();
        assert!(chain.extend(signed(renamed, &[2, 3])).is_err(), "nor is the key renamed");
    }

    #[test]
    fn signatures_count_once_per_key_in_their_own_domain_over_their_own_digest() {
        let chain = chain();
        let digest = Digest([5; 32]);
        let standing = |signatures: &Signatures| chain.standing(Domain::Bundle, &digest, signatures, 1, |t| t.bundle);
        let mut one = Signatures::default();
        one.add(Domain::Bundle, &digest, &key(1));
        one.add(Domain::Bundle, &digest, &key(1));
        assert!(matches!(standing(&one), Err(RootError::Threshold { got: 1, .. })));
        one.add(Domain::Bundle, &digest, &key(9));
        assert!(matches!(standing(&one), Err(RootError::Threshold { got: 1, .. })), "a stranger does not count");

        let mut other = one.clone();
        other.add(Domain::Root, &digest, &key(2));
        assert!(matches!(standing(&other), Err(RootError::Forged(_))), "another domain");
        let mut other = one.clone();
        other.add(Domain::Bundle, &Digest([6; 32]), &key(2));
        assert!(matches!(standing(&other), Err(RootError::Forged(_))), "another digest");
        one.add(Domain::Bundle, &digest, &key(2));
        let good = standing(&one).unwrap();
        assert_eq!((good.signers.len(), good.local), (2, false));
        // A key in the gateway's own folder is one of them, and not enough alone.
        for (threshold, alone) in [(1, true), (2, false)] {
            let mut keys = entries(&[1, 2]);
            keys[0].custody = Custody::Local;
            let document = RootDocument::first(org(), keys, Thresholds::all(threshold)).unwrap();
            let chain = RootChain::first(signed(document, &[1, 2])).unwrap();
            let good = chain.standing(Domain::Bundle, &digest, &one, 1, |t| t.bundle).unwrap();
            assert_eq!((good.signers.len(), good.local), (2, alone), "{threshold}");
        }
    }

    #[test]
    fn a_document_that_could_be_met_by_nobody_or_by_one_twice_is_unsound() {
        let first = |keys: Vec<RootKeyEntry>, t| RootDocument::first(org(), keys, t);
        assert!(first(vec![], Thresholds::all(1)).is_err());
        assert!(first(entries(&[1]), Thresholds::all(0)).is_err());
        assert!(first(entries(&[1, 2]), Thresholds::all(3)).is_err());
        assert!(first(entries(&[1, 1]), Thresholds::all(1)).is_err());
        assert!(first(entries(&[1, 2]), Thresholds { recovery: 1, ..Thresholds::all(2) }).is_err());
        let mut twice = entries(&[1]);
        let alias = RootKey::from_seed("alias", &[1; 32]).unwrap();
        twice.push(RootKeyEntry { vkey: alias.vkey().clone(), custody: Custody::Local });
        assert!(first(twice, Thresholds::all(2)).is_err());
    }

    #[test]
    fn signed_root_documents_round_trip_in_canonical_form_only() {
        let chain = chain();
        let [document] = chain.documents() else { unreachable!("one document") };
        let bytes = document.to_bytes().unwrap();
        assert_eq!(SignedRoot::from_bytes(&bytes).unwrap(), *document);
        let spaced = [b" ".as_slice(), &bytes].concat();
        assert!(SignedRoot::from_bytes(&spaced).is_err());
        let text = String::from_utf8(bytes).unwrap();
        for (from, to) in
            [("\"format\":1", "\"format\":1,\"more\":1"), ("\"version\":1", "\"version\":1,\"version\":1")]
        {
            assert!(SignedRoot::from_bytes(text.replacen(from, to, 1).as_bytes()).is_err(), "{to}");
        }
    }

    #[test]
    fn every_limit_of_a_root_document_holds_with_an_error_of_its_own() {
        let many = |n: u8| -> Vec<RootKeyEntry> { entries(&(1..=n).collect::<Vec<_>>()) };
        assert!(RootDocument::first(org(), many(32), Thresholds::all(1)).is_ok());
        let error = RootDocument::first(org(), many(33), Thresholds::all(1)).unwrap_err().to_string();
        assert!(error.contains("1 to 32 keys") && error.contains("33"), "{error}");
        let ids = |n: usize| (0..n).map(|i| format!("gone-{i:03}+00000000").parse::<KeyId>().unwrap());
        let current = chain().current().clone();
        assert!(current.successor(entries(&[1, 2]), Thresholds::all(1), ids(MAX_REVOKED)).is_ok());
        let error = current.successor(entries(&[1, 2]), Thresholds::all(1), ids(MAX_REVOKED + 1)).unwrap_err();
        assert!(error.to_string().contains("more than 256"), "{error}");
        assert!(matches!(SignedRoot::from_bytes(&vec![b' '; MAX_ROOT_BYTES + 1]), Err(RootError::TooLarge(_))));
    }

    proptest::proptest! {
        #[test]
        fn a_successor_stands_exactly_if_both_thresholds_are_met(
            old in proptest::collection::btree_set(1_u8..6, 1..5),
            new in proptest::collection::btree_set(1_u8..6, 1..5),
            by in proptest::collection::btree_set(1_u8..6, 0..6),
            thresholds in (0_usize..5, 0_usize..5),
        ) {
            let list = |keys: &BTreeSet<u8>| keys.iter().copied().collect::<Vec<_>>();
            let number = |n: usize, keys: &BTreeSet<u8>| Thresholds::all(u32::try_from(n % keys.len() + 1).unwrap());
            let (was, is) = (number(thresholds.0, &old), number(thresholds.1, &new));
            let first = RootDocument::first(org(), entries(&list(&old)), was).unwrap();
            let mut chain = RootChain::first(signed(first, &list(&old))).unwrap();
            let gone: Vec<KeyId> = old.difference(&new).map(|n| key(*n).vkey().id().clone()).collect();
            let next = chain.current().successor(entries(&list(&new)), is, gone).unwrap();
            let enough = |keys: &BTreeSet<u8>, t: Thresholds| {
                keys.intersection(&by).count() >= usize::try_from(t.root).unwrap()
            };
            let stands = chain.extend(signed(next, &list(&by))).is_ok();
            proptest::prop_assert_eq!(stands, enough(&old, was) && enough(&new, is));
            proptest::prop_assert_eq!(chain.current().version, if stands { 2 } else { 1 });
        }
    }
}
