//! Keys by name: C2SP verifier keys, key ids, and the certificate by which a gateway key is introduced.
//!
//! Names: origin `<configured name>/<32 hex>`; the log key is named by the origin itself, the root key by
//! `<origin>/root`, a gateway key by `<origin>/gateway/<32 hex>`.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use sha2::{Digest as _, Sha256};

use countersign_gateway_model::{GatewayId, LogId};

use crate::EntryError;
use crate::body::{Key, KeyChange, KeyRole};

/// Signature type of plain Ed25519 (C2SP signed-note).
const ED25519: u8 = 0x01;

/// A named Ed25519 public key. Text form (C2SP): `name+hex(key id)+base64(0x01 ‖ key)`.
#[derive(Clone, PartialEq, Eq)]
pub struct VKey {
    name: String,
    key: VerifyingKey,
}

impl VKey {
    /// Names a key.
    ///
    /// # Errors
    /// [`EntryError::Note`] if the name is empty or has white space, `+` or control characters.
    pub fn new(name: &str, key: VerifyingKey) -> Result<Self, EntryError> {
        check_key_name(name)?;
        Ok(Self { name: name.to_owned(), key })
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key.
    pub fn key(&self) -> &VerifyingKey {
        &self.key
    }

    /// First four bytes of SHA-256(name ‖ 0x0A ‖ type ‖ key).
    pub fn id(&self) -> [u8; 4] {
        key_id(&self.name, &self.key)
    }
}

impl fmt::Display for VKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.name, const_hex::encode(self.id()))?;
        let mut typed = [ED25519; 33];
        if let Some(rest) = typed.get_mut(1..) {
            rest.copy_from_slice(self.key.as_bytes());
        }
        write!(f, "+{}", STANDARD.encode(typed))
    }
}

impl fmt::Debug for VKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for VKey {
    type Err = EntryError;

    fn from_str(s: &str) -> Result<Self, EntryError> {
        let bad = || EntryError::PublicKey(s.chars().take(120).collect());
        let (name, rest) = s.split_once('+').ok_or_else(bad)?;
        let (id, key) = rest.split_once('+').ok_or_else(bad)?;
        let typed = STANDARD.decode(key).map_err(|_| bad())?;
        let bytes: &[u8; 32] = match typed.split_first() {
            Some((&ED25519, key)) => key.try_into().map_err(|_| bad())?,
            _ => return Err(bad()),
        };
        let vkey = Self::new(name, public_key(bytes)?)?;
        if id == const_hex::encode(vkey.id()) { Ok(vkey) } else { Err(bad()) }
    }
}

/// C2SP key id of an Ed25519 key under a name.
pub fn key_id(name: &str, key: &VerifyingKey) -> [u8; 4] {
    let hash: [u8; 32] =
        Sha256::new().chain_update(name).chain_update([b'\n', ED25519]).chain_update(key.as_bytes()).finalize().into();
    let [a, b, c, d, ..] = hash;
    [a, b, c, d]
}

/// Reads a public key.
///
/// # Errors
/// [`EntryError::PublicKey`] if the bytes are no point of the curve, or a weak one.
pub fn public_key(bytes: &[u8; 32]) -> Result<VerifyingKey, EntryError> {
    let bad = || EntryError::PublicKey(const_hex::encode(bytes));
    let key = VerifyingKey::from_bytes(bytes).map_err(|_| bad())?;
    if key.is_weak() { Err(bad()) } else { Ok(key) }
}

/// The origin line of a log.
///
/// # Errors
/// [`EntryError::Note`] if `configured` cannot be part of a key name.
pub fn origin(configured: &str, log: LogId) -> Result<String, EntryError> {
    check_key_name(configured)?;
    Ok(format!("{configured}/{}", const_hex::encode(log.as_bytes())))
}

/// Name of the root key of a log.
pub fn root_name(origin: &str) -> String {
    format!("{origin}/root")
}

/// Name of a gateway's key in a log.
pub fn gateway_name(origin: &str, gateway: GatewayId) -> String {
    format!("{origin}/gateway/{}", const_hex::encode(gateway.as_bytes()))
}

/// What the root or the log key signs to introduce another key: domain, origin, key name, key.
pub fn certificate_bytes(origin: &str, name: &str, key: &[u8; 32]) -> Vec<u8> {
    let mut out = b"countersign/certificate/v1\0".to_vec();
    for part in [origin.as_bytes(), name.as_bytes(), key.as_slice()] {
        // Lengths of names are far below 4 GiB.
        out.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(part);
    }
    out
}

/// Certifies `key` under `name`.
pub fn certify(by: &SigningKey, origin: &str, name: &str, key: &VerifyingKey) -> [u8; 64] {
    by.sign(&certificate_bytes(origin, name, key.as_bytes())).to_bytes()
}

/// Checks a certificate.
///
/// # Errors
/// [`EntryError::Signature`] if it is not by `by`.
pub fn check_certificate(
    by: &VerifyingKey,
    origin: &str,
    name: &str,
    key: &[u8; 32],
    certificate: &[u8; 64],
) -> Result<(), EntryError> {
    by.verify_strict(&certificate_bytes(origin, name, key), &Signature::from_bytes(certificate))
        .map_err(|_| EntryError::Signature("certificate"))
}

/// What the root key signs to change what a key is good for: domain, origin, change, role, key. Other bytes than those of
/// a certificate, so that what introduced a key cannot be used again to revoke it.
pub fn change_bytes(origin: &str, change: KeyChange, role: KeyRole, key: &[u8; 32]) -> Vec<u8> {
    let mut out = b"countersign/key-change/v1\0".to_vec();
    out.extend_from_slice(&u32::try_from(origin.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(origin.as_bytes());
    let change = match change {
        KeyChange::Added => 0,
        KeyChange::Retired => 1,
        KeyChange::Revoked => 2,
    };
    let role = match role {
        KeyRole::Root => 0,
        KeyRole::Log => 1,
        KeyRole::Gateway => 2,
    };
    out.extend_from_slice(&[change, role]);
    out.extend_from_slice(key);
    out
}

/// Checks the root key's signature over [`change_bytes`].
///
/// # Errors
/// [`EntryError::Signature`] if it is not by `root`.
pub fn check_change(root: &VerifyingKey, origin: &str, change: &Key) -> Result<(), EntryError> {
    let bytes = change_bytes(origin, change.change, change.role, &change.key.0);
    root.verify_strict(&bytes, &Signature::from_bytes(&change.certificate.0))
        .map_err(|_| EntryError::Signature("key change"))
}

pub(crate) fn check_key_name(name: &str) -> Result<(), EntryError> {
    if name.is_empty() || name.chars().any(|c| c.is_whitespace() || c.is_control() || c == '+') {
        Err(EntryError::Note("a key name must not be empty or have white space, `+` or control characters"))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
