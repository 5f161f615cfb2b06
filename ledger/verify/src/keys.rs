//! Which key must have signed an entry, as the log itself introduces keys.
//!
//! A gateway key is good from the boot entry that introduces it, under a certificate by the log or the root key, until the
//! next boot of its gateway or until a key entry retires or revokes it; a key that was taken back is never introduced again.

use std::collections::{HashMap, HashSet};

use ed25519_dalek::VerifyingKey;

use countersign_gateway_model::GatewayId;
use countersign_ledger_entry::body::{Body, Boot, CertifiedBy, Key, KeyChange, KeyRole, SignatureMode};
use countersign_ledger_entry::entry::UnknownEntry;
use countersign_ledger_entry::{Entry, EntryError, Header, TrustedLog, key};

/// Highest sandbox level that there is.
const MAX_SANDBOX_LEVEL: u8 = 3;

/// The gateway keys introduced so far.
pub(crate) struct Keys<'a> {
    log: &'a TrustedLog,
    gateways: HashMap<GatewayId, Introduced>,
    taken_back: HashSet<[u8; 32]>,
    /// Changes of root or log keys, which this version cannot follow.
    unfollowed: Vec<u64>,
}

struct Introduced {
    boot: u64,
    id: [u8; 4],
    key: VerifyingKey,
}

impl<'a> Keys<'a> {
    pub(crate) fn new(log: &'a TrustedLog) -> Self {
        Self { log, gateways: HashMap::new(), taken_back: HashSet::new(), unfollowed: Vec::new() }
    }

    /// Checks who signed `entry`, and takes up what it says of keys. `index` is its place in the log.
    pub(crate) fn check(&mut self, index: u64, entry: &Entry, leaf: &[u8]) -> Result<(), String> {
        let header = &entry.header;
        if let Body::Boot(boot) = &header.body {
            self.introduce(index, header, boot)?;
            // Signed in every mode: who introduces a key must hold it.
            let key = self.signer(header)?;
            return entry.verify(leaf, &key).map_err(|e| e.to_string());
        }
        let key = self.signer(header)?;
        self.signature(entry.signature.is_some(), || entry.verify(leaf, &key))?;
        if let Body::Key(change) = &header.body {
            self.change(index, change)?;
        }
        Ok(())
    }

    /// The same for an entry whose body cannot be read.
    pub(crate) fn check_unknown(&self, entry: &UnknownEntry, leaf: &[u8]) -> Result<(), String> {
        let key = self.signer(&entry.header)?;
        self.signature(entry.signature.is_some(), || entry.verify(leaf, &key))
    }

    /// Indices of changes of root or log keys.
    pub(crate) fn unfollowed(&self) -> &[u64] {
        &self.unfollowed
    }

    fn signature(&self, signed: bool, verify: impl FnOnce() -> Result<(), EntryError>) -> Result<(), String> {
        match self.log.signatures() {
            SignatureMode::PerEntry => verify().map_err(|e| e.to_string()),
            SignatureMode::CheckpointOnly if signed => {
                Err("it is signed in a log that signs checkpoints only".to_owned())
            }
            SignatureMode::CheckpointOnly => Ok(()),
        }
    }

    fn signer<B>(&self, header: &Header<B>) -> Result<VerifyingKey, String> {
        let introduced = self.gateways.get(&header.gateway).ok_or("its gateway was never introduced to this log")?;
        if introduced.boot != header.boot || introduced.id != header.key {
            return Err("it is not by the key of its gateway's latest boot".to_owned());
        }
        if self.taken_back.contains(introduced.key.as_bytes()) {
            return Err("its gateway's key was retired or revoked before".to_owned());
        }
        Ok(introduced.key)
    }

    fn introduce(&mut self, index: u64, header: &Header, boot: &Boot) -> Result<(), String> {
        if boot.gateway != header.gateway || boot.boot != header.boot {
            return Err("a boot entry speaks of another gateway or boot than its own".to_owned());
        }
        let expected = self.gateways.get(&boot.gateway).map_or(1, |known| known.boot.saturating_add(1));
        if boot.boot != expected {
            return Err(format!("boot {expected} of its gateway was expected, {} is claimed", boot.boot));
        }
        if boot.size_seen > index {
            return Err("the gateway claims to have seen entries that came after it".to_owned());
        }
        if boot.sandbox_level.is_some_and(|level| level > MAX_SANDBOX_LEVEL) {
            return Err("there is no such sandbox level".to_owned());
        }
        let name = key::gateway_name(self.log.origin(), boot.gateway);
        let by = match boot.certified_by {
            CertifiedBy::Root => self.log.root().key(),
            CertifiedBy::Log => self.log.log().key(),
        };
        key::check_certificate(by, self.log.origin(), &name, &boot.key.0, &boot.certificate.0)
            .map_err(|e| format!("the gateway's certificate does not hold: {e}"))?;
        let public = key::public_key(&boot.key.0).map_err(|e| e.to_string())?;
        let id = key::key_id(&name, &public);
        if id != header.key {
            return Err("a boot entry is not signed by the key that it introduces".to_owned());
        }
        self.gateways.insert(boot.gateway, Introduced { boot: boot.boot, id, key: public });
        Ok(())
    }

    fn change(&mut self, index: u64, change: &Key) -> Result<(), String> {
        key::check_change(self.log.root().key(), self.log.origin(), change)
            .map_err(|e| format!("the change of a key is not vouched for by the root key: {e}"))?;
        match (change.role, change.change) {
            // A boot entry introduces; that a key may be introduced needs no more than its certificate.
            (KeyRole::Gateway, KeyChange::Added) => {}
            (KeyRole::Gateway, KeyChange::Retired | KeyChange::Revoked) => {
                self.taken_back.insert(change.key.0);
            }
            (KeyRole::Root | KeyRole::Log, _) => self.unfollowed.push(index),
        }
        Ok(())
    }
}
