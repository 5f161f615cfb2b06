//! The keys of persons as an organization holds them in memory, and which of them signs at a gate.
//!
//! Absent: registering and taking back (`person_keys`), and signatures (`demands`).

use std::collections::HashMap;

use tokio::sync::RwLockReadGuard;

use countersign_gateway_model::{Digest, Pseudonym, Timestamp};
use countersign_ledger_entry::Bytes32;

/// The keys of an organization, by id.
///
/// Whoever commits a signed decision holds it for reading until that is durable, so that no key is taken back between the
/// check and the entry.
pub(crate) type PersonKeys = tokio::sync::RwLock<HashMap<Digest, KeyRow>>;

/// The keys, kept from being taken back while a signed decision is on its way into the log.
pub(crate) type HeldKeys<'a> = RwLockReadGuard<'a, HashMap<Digest, KeyRow>>;

/// What is known of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct KeyRow {
    pub(crate) principal: Pseudonym,
    #[serde(with = "hex32")]
    pub(crate) key: Bytes32,
    /// The claimed time of its entry.
    pub(crate) registered: Timestamp,
    pub(crate) revoked: Option<Timestamp>,
}

mod hex32 {
    //! 32 bytes as a digest is written.
    use countersign_gateway_model::Digest;
    use countersign_ledger_entry::Bytes32;
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    pub(super) fn serialize<S: Serializer>(key: &Bytes32, to: S) -> Result<S::Ok, S::Error> {
        Digest(key.0).serialize(to)
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<Bytes32, D::Error> {
        Digest::deserialize(from).map(|digest| Bytes32(digest.0))
    }
}

/// Why a key does not sign at a gate, if it does not.
pub(crate) fn why_not(row: &KeyRow, who: Pseudonym, opened: Timestamp) -> Option<&'static str> {
    if row.principal != who {
        Some("the key is not yours")
    } else if row.revoked.is_some() {
        Some("the key was taken back")
    } else if row.registered >= opened {
        Some("the key was registered after the gate opened: it signs at gates that open from now on")
    } else {
        None
    }
}

/// Holds the keys where the decision is signed.
pub(crate) async fn hold_keys(keys: &PersonKeys, signed: bool) -> Option<HeldKeys<'_>> {
    if signed { Some(keys.read().await) } else { None }
}
