//! Payloads and the digests that commit to them without giving them away.
//!
//! A payload's bytes are a 32-byte random salt followed by its content; an entry names it by [`digest`]. Digests over
//! something that could be guessed (an input, a job, an approval view) are [`salted`] with the payload's salt, so that
//! deleting salt and value erases. A single field's salt derives from the payload's salt and the field's path.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

use countersign_gateway_model::Digest;

/// 32 random bytes. Whoever must check a digest is given the salt.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Salt(pub [u8; 32]);

/// Domain of the digest that a permit is bound to.
pub const ACTION: &str = "countersign/action/v1";
/// Domain of a job's digest.
pub const JOB: &str = "countersign/job/v1";
/// Domain of an approval view's digest.
pub const SHOWN: &str = "countersign/shown/v1";
/// Domain of an output's digest.
pub const OUTPUT: &str = "countersign/output/v1";
/// Domain of a changed input's digest.
pub const DELTA: &str = "countersign/delta/v1";
/// Domain of a question's digest.
pub const QUESTION: &str = "countersign/question/v1";
/// Domain of a task grant's scope digest.
pub const GRANT: &str = "countersign/grant/v1";
/// Domain of an idempotency key's digest.
pub const IDEMPOTENCY: &str = "countersign/idempotency/v1";

const PAYLOAD: &str = "countersign/payload/v1";
const FIELD: &str = "countersign/field/v1";

/// SHA-256(domain ‖ 0x00 ‖ salt ‖ bytes).
pub fn salted(domain: &str, salt: &Salt, bytes: &[u8]) -> Digest {
    Digest(
        Sha256::new().chain_update(domain).chain_update([0]).chain_update(salt.0).chain_update(bytes).finalize().into(),
    )
}

/// Names a payload: SHA-256(domain ‖ 0x00 ‖ payload), the salt being the payload's first 32 bytes.
pub fn digest(payload: &[u8]) -> Digest {
    Digest(Sha256::new().chain_update(PAYLOAD).chain_update([0]).chain_update(payload).finalize().into())
}

/// Salt and content of a payload.
pub fn open(payload: &[u8]) -> Option<(Salt, &[u8])> {
    payload.split_first_chunk::<32>().map(|(salt, content)| (Salt(*salt), content))
}

/// A payload of salt and content.
pub fn seal(salt: &Salt, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(32 + content.len());
    out.extend_from_slice(&salt.0);
    out.extend_from_slice(content);
    out
}

/// The salt of one field: HMAC-SHA256(payload salt, path).
pub fn field_salt(salt: &Salt, path: &str) -> Salt {
    // HMAC takes keys of every length (RFC 2104 §3).
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&salt.0) else { unreachable!("hmac accepts a key of 32 bytes") };
    mac.update(path.as_bytes());
    Salt(mac.finalize().into_bytes().into())
}

/// Commitment to one field: salted, with path and value length-prefixed so that they cannot run into each other.
pub fn field_commitment(field_salt: &Salt, path: &str, value: &[u8]) -> Digest {
    let length = |bytes: &[u8]| u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes();
    let hash = Sha256::new()
        .chain_update(FIELD)
        .chain_update([0])
        .chain_update(field_salt.0)
        .chain_update(length(path.as_bytes()))
        .chain_update(path)
        .chain_update(length(value))
        .chain_update(value);
    Digest(hash.finalize().into())
}

#[cfg(test)]
mod tests;
