//! The keys that sign tokens: one signs, retired ones still verify until their last token has ended.
//!
//! Token keys sign tokens and nothing else; the ledger has its own. Absent: files, and when to rotate: the program's.
//! Read next: `jws`.

use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_gateway_model::Timestamp;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest as _, Sha256};

use crate::IdentityError;

/// A key that signs no more, for the program to keep across restarts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetiredKey {
    /// The 32 bytes of the public key.
    pub public: [u8; 32],
    /// Verifies until then, exclusive.
    pub until: Timestamp,
}

/// A set of token keys. Cheap to share; reading it takes one short lock.
#[derive(Debug)]
pub struct TokenKeys {
    inner: RwLock<Arc<KeySet>>,
}

/// One state of the set.
pub(crate) struct KeySet {
    signing: SigningKey,
    kid: String,
    retired: Vec<(String, VerifyingKey, Timestamp)>,
}

impl std::fmt::Debug for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeySet").field("kid", &self.kid).field("retired", &self.retired.len()).finish_non_exhaustive()
    }
}

impl TokenKeys {
    /// A set that signs with the key of this 32-byte seed and still verifies with `retired`.
    pub fn new(seed: &[u8; 32], retired: &[RetiredKey]) -> Result<Self, IdentityError> {
        let signing = SigningKey::from_bytes(seed);
        let kid = thumbprint(&signing.verifying_key());
        let retired = retired
            .iter()
            .map(|key| {
                let public = VerifyingKey::from_bytes(&key.public)
                    .map_err(|source| IdentityError::internal("reading a retired token key", source))?;
                Ok((thumbprint(&public), public, key.until))
            })
            .collect::<Result<Vec<_>, IdentityError>>()?;
        Ok(Self { inner: RwLock::new(Arc::new(KeySet { signing, kid, retired })) })
    }

    /// Signs with a new key from now on. The old one verifies until `old_until`: choose now plus the longest life of a
    /// token. Nothing happens where the key of `seed` signs already.
    pub fn rotate(&self, seed: &[u8; 32], old_until: Timestamp) {
        let mut slot = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let signing = SigningKey::from_bytes(seed);
        let kid = thumbprint(&signing.verifying_key());
        if kid == slot.kid {
            return;
        }
        let mut retired: Vec<_> = slot.retired.iter().filter(|(old, _, _)| *old != kid).cloned().collect();
        retired.push((slot.kid.clone(), slot.signing.verifying_key(), old_until));
        *slot = Arc::new(KeySet { signing, kid, retired });
    }

    /// Forgets a retired key at once, by its id: every token it signed is refused from now on, but for those that an
    /// [`crate::Authenticator`] holds in its cache; follow with [`crate::Authenticator::forget_all`].
    pub fn withdraw(&self, kid: &str) {
        let mut slot = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let retired = slot.retired.iter().filter(|(old, _, _)| old != kid).cloned().collect();
        *slot = Arc::new(KeySet { signing: slot.signing.clone(), kid: slot.kid.clone(), retired });
    }

    /// The id of the key that signs: its RFC 7638 thumbprint.
    pub fn kid(&self) -> String {
        self.set().kid.clone()
    }

    /// Retired keys that still verify at `now`.
    pub fn retired(&self, now: Timestamp) -> Vec<RetiredKey> {
        let live = |(_, key, until): &(String, VerifyingKey, Timestamp)| {
            (now < *until).then(|| RetiredKey { public: key.to_bytes(), until: *until })
        };
        self.set().retired.iter().filter_map(live).collect()
    }

    /// The public keys as a JWK set (RFC 7517, RFC 8037).
    pub fn jwks(&self, now: Timestamp) -> serde_json::Value {
        let set = self.set();
        let jwk = |kid: &str, key: &VerifyingKey| {
            serde_json::json!({
                "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA",
                "kid": kid, "x": URL_SAFE_NO_PAD.encode(key.as_bytes()),
            })
        };
        let mut keys = vec![jwk(&set.kid, &set.signing.verifying_key())];
        keys.extend(set.retired.iter().filter(|(_, _, until)| now < *until).map(|(kid, key, _)| jwk(kid, key)));
        serde_json::json!({ "keys": keys })
    }

    pub(crate) fn set(&self) -> Arc<KeySet> {
        // The slot is replaced in one assignment, so a poisoned lock holds a whole set.
        Arc::clone(&self.inner.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl KeySet {
    pub(crate) fn kid(&self) -> &str {
        &self.kid
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.signing.sign(message).to_bytes()
    }

    /// Whether the key `kid`, live at `now`, signed `message`. Strict: no small-order points, no other encoding.
    pub(crate) fn verifies(&self, kid: &str, message: &[u8], signature: &[u8; 64], now: Timestamp) -> bool {
        let signature = Signature::from_bytes(signature);
        if kid == self.kid {
            return self.signing.verifying_key().verify_strict(message, &signature).is_ok();
        }
        let retired = self.retired.iter().find(|(old, _, until)| old == kid && now < *until);
        retired.is_some_and(|(_, key, _)| key.verify_strict(message, &signature).is_ok())
    }
}

/// RFC 7638 over the members that RFC 8037 names for Ed25519, in base64url.
fn thumbprint(key: &VerifyingKey) -> String {
    let x = URL_SAFE_NO_PAD.encode(key.as_bytes());
    let canonical = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
    URL_SAFE_NO_PAD.encode(Sha256::digest(canonical.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thumbprint_is_that_of_rfc_8037() {
        // RFC 8037 appendix A.1 to A.3.
        let seed = URL_SAFE_NO_PAD.decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A").unwrap();
        let keys = TokenKeys::new(&seed.try_into().unwrap(), &[]).unwrap();
        assert_eq!(keys.kid(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
        let jwks = keys.jwks(Timestamp(0));
        assert_eq!(jwks["keys"][0]["x"], "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");
    }

    #[test]
    fn a_retired_key_verifies_until_its_end_and_never_signs() {
        let keys = TokenKeys::new(&[1; 32], &[]).unwrap();
        let (old, old_kid) = (keys.set(), keys.kid());
        let signature = old.sign(b"m");
        keys.rotate(&[2; 32], Timestamp(1000));
        assert_ne!(keys.kid(), old_kid);
        assert!(keys.set().verifies(&old_kid, b"m", &signature, Timestamp(999)));
        assert!(!keys.set().verifies(&old_kid, b"m", &signature, Timestamp(1000)));
        assert!(!keys.set().verifies(&keys.kid(), b"m", &signature, Timestamp(0)));
        assert_eq!(keys.retired(Timestamp(999)).len(), 1);
        assert!(keys.retired(Timestamp(1000)).is_empty());

        let again = TokenKeys::new(&[2; 32], &keys.retired(Timestamp(0))).unwrap();
        assert!(again.set().verifies(&old_kid, b"m", &signature, Timestamp(0)));
        again.withdraw(&old_kid);
        assert!(!again.set().verifies(&old_kid, b"m", &signature, Timestamp(0)));
    }

    #[test]
    fn rotating_to_the_same_key_changes_nothing_and_back_is_possible() {
        let keys = TokenKeys::new(&[1; 32], &[]).unwrap();
        let first = keys.kid();
        keys.rotate(&[1; 32], Timestamp(5));
        assert!(keys.retired(Timestamp(0)).is_empty());
        keys.rotate(&[2; 32], Timestamp(5));
        keys.rotate(&[1; 32], Timestamp(9));
        assert_eq!(keys.kid(), first);
        assert_eq!(keys.jwks(Timestamp(0))["keys"].as_array().unwrap().len(), 2);
    }
}
