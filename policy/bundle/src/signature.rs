//! Threshold signatures by root keys over the digest of a document, each kind of document in its own domain.
//!
//! Absent: which keys count (that is `root`). Read next: `root`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_gateway_model::Digest;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::keys::{KeyId, RootKey};

/// How many signatures one document may carry.
pub(crate) const MAX_SIGNATURES: usize = 64;

/// What sort of document is signed: the bytes before the digest, so that no signature serves for another sort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domain {
    /// A bundle's manifest.
    Bundle,
    /// A root document.
    Root,
    /// A tool catalogue.
    Catalogue,
    /// A statement that lowers the authority mode.
    Authority,
}

impl Domain {
    /// The prefix of the signed message, with its closing zero byte.
    pub fn prefix(self) -> &'static [u8] {
        match self {
            Self::Bundle => b"countersign/bundle/v1\0",
            Self::Root => b"countersign/root/v1\0",
            Self::Catalogue => b"countersign/catalogue/v1\0",
            Self::Authority => b"countersign/authority/v1\0",
        }
    }

    /// What is signed: prefix, then the 32 bytes of the digest.
    pub fn message(self, digest: &Digest) -> Vec<u8> {
        [self.prefix(), digest.as_bytes()].concat()
    }
}

/// One key's signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// Which key.
    pub key: KeyId,
    /// The 64 bytes.
    #[serde(serialize_with = "write_signature", deserialize_with = "read_signature")]
    pub sig: [u8; 64],
}

/// Signatures of distinct keys, in the order of their key ids.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Signatures(Vec<Signature>);

impl Signatures {
    /// Signs with `key`; a second signature of one key replaces the first.
    pub fn add(&mut self, domain: Domain, digest: &Digest, key: &RootKey) {
        self.insert(Signature { key: key.vkey().id().clone(), sig: key.sign(&domain.message(digest)) });
    }

    /// Files a signature that was made elsewhere (an offline key). It is checked where it counts.
    pub fn insert(&mut self, signature: Signature) {
        match self.0.binary_search_by(|s| s.key.cmp(&signature.key)) {
            Ok(at) => self.0.get_mut(at).into_iter().for_each(|slot| *slot = signature.clone()),
            Err(at) => self.0.insert(at, signature),
        }
    }

    /// The signatures, by key id.
    pub fn iter(&self) -> impl Iterator<Item = &Signature> {
        self.0.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'de> Deserialize<'de> for Signatures {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let list = Vec::<Signature>::deserialize(d)?;
        if list.len() > MAX_SIGNATURES {
            return Err(serde::de::Error::custom(format!("more than {MAX_SIGNATURES} signatures")));
        }
        if list.is_sorted_by(|a, b| a.key < b.key) {
            Ok(Self(list))
        } else {
            Err(serde::de::Error::custom("signatures are not in the order of their keys, or one key signs twice"))
        }
    }
}

fn write_signature<S: Serializer>(sig: &[u8; 64], s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&STANDARD.encode(sig))
}

fn read_signature<'de, D: Deserializer<'de>>(d: D) -> Result<[u8; 64], D::Error> {
    let text = String::deserialize(d)?;
    let bytes = STANDARD.decode(&text).map_err(serde::de::Error::custom)?;
    bytes.try_into().map_err(|_| serde::de::Error::custom("a signature has 64 bytes in base64"))
}
