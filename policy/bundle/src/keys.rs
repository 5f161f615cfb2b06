//! Root keys: Ed25519 keys in the text forms of C2SP signed-note, so that any tool of that family reads them.
//!
//! Absent: key generation (the program mints seeds) and key files. Read next: `signature`.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature as RawSignature, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// The signature algorithm byte of Ed25519 in a signed-note key.
const ED25519: u8 = 0x01;
/// How many bytes a key name may have.
const MAX_NAME: usize = 128;

/// Why a key's text was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not `name+hash+key`.
    #[error("`{0}` is not a key: `name+8 hex digits+base64` is expected")]
    Shape(String),
    /// A name that a note may not carry.
    #[error("`{0}` is not a key name: 1 to 128 printable characters without space or `+` are expected")]
    Name(String),
    /// The hash does not belong to name and key: a typing error, or someone swapped the key.
    #[error("the hash in key `{0}` does not belong to its name and key; copy the whole line again")]
    Hash(String),
    /// Another algorithm than Ed25519.
    #[error("key `{0}` is not an ed25519 key; make one with `countersign ledger keys`")]
    Algorithm(String),
    /// The bytes are no point on the curve, or a weak one.
    #[error("key `{0}` is not a valid ed25519 public key")]
    Point(String),
}

/// Names a key: its name and the first four bytes of a hash over name and key. Text: `name+8 hex digits`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId {
    name: String,
    hash: [u8; 4],
}

impl KeyId {
    /// The name part.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{:08x}", self.name, u32::from_be_bytes(self.hash))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for KeyId {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let (name, hash) = text.split_once('+').ok_or_else(|| KeyError::Shape(shown(text)))?;
        check_name(name)?;
        Ok(Self { name: name.to_owned(), hash: hash_from_hex(hash).ok_or_else(|| KeyError::Shape(shown(text)))? })
    }
}

/// A public root key with its name. Text form: the `vkey` of signed-note.
#[derive(Clone, PartialEq, Eq)]
pub struct Vkey {
    id: KeyId,
    key: VerifyingKey,
}

impl Vkey {
    /// Binds a public key to a name.
    pub fn new(name: &str, key: [u8; 32]) -> Result<Self, KeyError> {
        check_name(name)?;
        let key = VerifyingKey::from_bytes(&key).ok().filter(|k| !k.is_weak());
        let key = key.ok_or_else(|| KeyError::Point(shown(name)))?;
        Ok(Self { id: KeyId { name: name.to_owned(), hash: key_hash(name, &key) }, key })
    }

    /// What signatures by this key are filed under.
    pub fn id(&self) -> &KeyId {
        &self.id
    }

    /// The 32 bytes of the public key.
    pub fn public(&self) -> &[u8; 32] {
        self.key.as_bytes()
    }

    /// Whether `signature` is this key's over `message`, without the malleable cases that plain Ed25519 lets through.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        self.key.verify_strict(message, &RawSignature::from_bytes(signature)).is_ok()
    }
}

impl fmt::Display for Vkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::with_capacity(33);
        bytes.push(ED25519);
        bytes.extend_from_slice(self.public());
        write!(f, "{}+{}", self.id, STANDARD.encode(bytes))
    }
}

impl fmt::Debug for Vkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Vkey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let (name, hash, key) = split_key(text, text)?;
        let vkey = Self::new(name, key)?;
        if vkey.id.hash == hash { Ok(vkey) } else { Err(KeyError::Hash(shown(text))) }
    }
}

impl Serialize for Vkey {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Vkey {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A private root key with its name. Printing it shows the public half only.
pub struct RootKey {
    vkey: Vkey,
    secret: SigningKey,
}

impl RootKey {
    /// A key from 32 random bytes that the caller minted.
    pub fn from_seed(name: &str, seed: &[u8; 32]) -> Result<Self, KeyError> {
        let secret = SigningKey::from_bytes(seed);
        Ok(Self { vkey: Vkey::new(name, secret.verifying_key().to_bytes())?, secret })
    }

    /// Reads the private text form of signed-note: `PRIVATE+KEY+name+hash+base64`.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        // Errors must not repeat what follows the name: it is the secret.
        let label = text.split('+').nth(2).unwrap_or("private key");
        let rest = text.strip_prefix("PRIVATE+KEY+").ok_or_else(|| KeyError::Shape("private key".to_owned()))?;
        let (name, hash, seed) = split_key(rest, label)?;
        let key = Self::from_seed(name, &seed)?;
        if key.vkey.id.hash == hash { Ok(key) } else { Err(KeyError::Hash(shown(label))) }
    }

    /// The private text form. The caller keeps it from other eyes.
    pub fn to_private_text(&self) -> String {
        let mut bytes = Vec::with_capacity(33);
        bytes.push(ED25519);
        bytes.extend_from_slice(self.secret.as_bytes());
        format!("PRIVATE+KEY+{}+{}", self.vkey.id, STANDARD.encode(bytes))
    }

    /// The public half.
    pub fn vkey(&self) -> &Vkey {
        &self.vkey
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.secret.sign(message).to_bytes()
    }
}

impl fmt::Debug for RootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RootKey({})", self.vkey)
    }
}

/// What errors may show of a text that came from outside.
fn shown(text: &str) -> String {
    text.chars().take(200).map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn check_name(name: &str) -> Result<(), KeyError> {
    let ok = |c: char| !c.is_control() && !c.is_whitespace() && c != '+';
    if (1..=MAX_NAME).contains(&name.len()) && name.chars().all(ok) { Ok(()) } else { Err(KeyError::Name(shown(name))) }
}

fn key_hash(name: &str, key: &VerifyingKey) -> [u8; 4] {
    let hash = Sha256::new().chain_update(name).chain_update([b'\n', ED25519]).chain_update(key.as_bytes());
    let [a, b, c, d, ..]: [u8; 32] = hash.finalize().into();
    [a, b, c, d]
}

fn hash_from_hex(hex: &str) -> Option<[u8; 4]> {
    let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    (hex.len() == 8 && hex.bytes().all(lower)).then(|| u32::from_str_radix(hex, 16).ok())?.map(u32::to_be_bytes)
}

fn split_key<'t>(text: &'t str, label: &str) -> Result<(&'t str, [u8; 4], [u8; 32]), KeyError> {
    let shape = || KeyError::Shape(shown(label));
    let mut parts = text.splitn(3, '+');
    let (Some(name), Some(hash), Some(key)) = (parts.next(), parts.next(), parts.next()) else { return Err(shape()) };
    let hash = hash_from_hex(hash).ok_or_else(shape)?;
    let bytes = STANDARD.decode(key).map_err(|_| shape())?;
    match bytes.split_first() {
        Some((&ED25519, key)) => Ok((name, hash, key.try_into().map_err(|_| shape())?)),
        Some(_) => Err(KeyError::Algorithm(shown(label))),
        None => Err(shape()),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn keys_read_the_texts_that_the_reference_tools_write() {
        // From the documentation of golang.org/x/mod/sumdb/note.
        let skey = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";
        let vkey = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
        let key = RootKey::parse(skey).unwrap();
        assert_eq!(key.vkey().to_string(), vkey);
        assert_eq!(key.to_private_text(), skey);
        assert_eq!(vkey.parse::<Vkey>().unwrap(), *key.vkey());
        assert_eq!(key.vkey().id().to_string(), "PeterNeumann+c74f20a3");
        assert!(!format!("{key:?}").contains("AYEKFALV"), "a private key never prints");
    }

    #[test]
    fn a_key_that_is_not_whole_is_refused() {
        for bad in [
            "",
            "PeterNeumann",
            "PeterNeumann+c74f20a3",
            "PeterNeumann+c74f20a4+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
            "PeterNeuman+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
            "PeterNeumann+C74F20A3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
            "PeterNeumann+c74f20a3+AhpC2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
            "Peter Neumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
            "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10T",
        ] {
            assert!(bad.parse::<Vkey>().is_err(), "{bad}");
        }
        assert!(Vkey::new("zero", [0; 32]).is_err(), "a key of small order signs for everyone");
        let secret = "PRIVATE+KEY+PeterNeumann+c74f20a4+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";
        assert!(!RootKey::parse(secret).unwrap_err().to_string().contains("AYEK"));
    }
}
