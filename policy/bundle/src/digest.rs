//! SHA-256 as the workspace's digest value. Absent: domains and salts; what is digested here is public.

use countersign_gateway_model::Digest;
use sha2::{Digest as _, Sha256};

/// Plain SHA-256.
pub fn sha256(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}
