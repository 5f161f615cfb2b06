//! Secrets in memory: masked when printed, wiped when dropped; the form and the hash of the random ones.
//!
//! A random secret is 256 bits, so its hash at rest is one SHA-256: there is nothing to guess that a slow hash would
//! slow down, and a slow hash at the token endpoint would let strangers burn the gateway's CPU and memory. Passwords
//! are what people choose, and go through Argon2id (`password`).
//!
//! Absent: storage. Read next: `weak`.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_gateway_model::Digest;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::entropy::draw;
use crate::{Entropy, EntropyError};

/// A text that must not be shown: password, client secret, token. `Debug` and `Display` are masked.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes a text over.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text itself: to be written to its one reader.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// `prefix` and 256 random bits in base64url. The prefix lets scanners of leaked secrets recognise it.
    pub(crate) fn mint(prefix: &str, entropy: &dyn Entropy) -> Result<Self, EntropyError> {
        let bytes = Zeroizing::new(draw::<32>(entropy)?);
        let mut text = Zeroizing::new(String::with_capacity(prefix.len() + 43));
        text.push_str(prefix);
        URL_SAFE_NO_PAD.encode_string(bytes.as_slice(), &mut text);
        Ok(Self(text))
    }

    /// SHA-256 of the whole text: what is stored of a random secret.
    pub(crate) fn digest(&self) -> Digest {
        digest(self.0.as_bytes())
    }

    /// Whether this text hashes to `stored`. Takes the same time wherever they differ.
    pub(crate) fn matches(&self, stored: &Digest) -> bool {
        self.digest().as_bytes().ct_eq(stored.as_bytes()).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// SHA-256.
pub(crate) fn digest(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Counted;

    #[test]
    fn secrets_are_masked_and_compare_by_hash() {
        let secret = Secret::mint("cs_client_", &Counted::new()).unwrap();
        assert_eq!(format!("{secret:?} {secret}"), "Secret(…) …");
        assert_eq!(secret.expose().len(), "cs_client_".len() + 43);
        assert!(secret.matches(&secret.digest()));
        assert!(!Secret::new(format!("{}x", secret.expose())).matches(&secret.digest()));
        assert!(!secret.matches(&Digest([0; 32])));
    }
}
