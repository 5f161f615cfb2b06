//! Which key must have signed an entry, as the log itself introduces keys.

use std::collections::HashMap;

use ed25519_dalek::VerifyingKey;

use countersign_gateway_model::GatewayId;
use countersign_ledger_entry::body::{Body, Boot, CertifiedBy, Key, KeyChange, KeyRole, SignatureMode};
use countersign_ledger_entry::entry::UnknownEntry;
use countersign_ledger_entry::{Entry, EntryError, Header, TrustedLog, key};

/// The gateway keys introduced so far.
pub(crate) struct Keys<'a> {
    log: &'a TrustedLog,
    gateways: HashMap<GatewayId, Introduced>,
}

struct Introduced {
    boot: u64,
    id: [u8; 4],
    key: VerifyingKey,
    revoked: bool,
}

impl<'a> Keys<'a> {
    pub(crate) fn new(log: &'a TrustedLog) -> Self {
        Self { log, gateways: HashMap::new() }
    }

    /// Checks who signed `entry`, and takes up what it says of keys. `index` is its place in the log.
    pub(crate) fn check(&mut self, index: u64, entry: &Entry, leaf: &[u8]) -> Result<(), String> {
        let header = &entry.header;
        if let Body::Boot(boot) = &header.body {
            self.introduce(index, header, boot)?;
        }
        let key = self.signer(header.gateway, header.boot, header.key)?;
        self.signature(entry.signature.is_some(), || entry.verify(leaf, &key))?;
        if let Body::Key(change) = &header.body {
            self.change(header, change)?;
        }
        Ok(())
    }

    /// The same for an entry of a kind that is not known.
    pub(crate) fn check_unknown(&self, entry: &UnknownEntry, signed: bool, leaf: &[u8]) -> Result<(), String> {
        let key = self.signer(entry.gateway, entry.boot, entry.key)?;
        self.signature(signed, || entry.verify(leaf, &key))
    }

    fn signature(&self, signed: bool, verify: impl FnOnce() -> Result<(), EntryError>) -> Result<(), String> {
        match self.log.signatures() {
            SignatureMode::PerEntry => verify().map_err(|e| e.to_string()),
            SignatureMode::CheckpointOnly if signed => Err("it is signed in a log that signs checkpoints only".to_owned()),
            SignatureMode::CheckpointOnly => Ok(()),
        }
    }

    fn signer(&self, gateway: GatewayId, boot: u64, id: [u8; 4]) -> Result<VerifyingKey, String> {
        let introduced = self.gateways.get(&gateway).ok_or("its gateway was never introduced to this log")?;
        if introduced.revoked {
            return Err("its gateway's key was revoked before".to_owned());
        }
        if introduced.boot != boot || introduced.id != id {
            return Err("it is not by the key of its gateway's latest boot".to_owned());
        }
        Ok(introduced.key)
    }

    fn introduce(&mut self, index: u64, header: &Header, boot: &Boot) -> Result<(), String> {
        if boot.gateway != header.gateway || boot.boot != header.boot {
            return Err("a boot entry speaks of another gateway or boot than its own".to_owned());
        }
        let expected = self.gateways.get(&boot.gateway).map_or(1, |known| known.boot.saturating_add(1));
        if boot.boot != expected {
            return Err(format!("boot {} of its gateway was expected, {} is claimed", expected, boot.boot));
        }
        if boot.size_seen > index {
            return Err("the gateway claims to have seen entries that came after it".to_owned());
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
        self.gateways.insert(boot.gateway, Introduced { boot: boot.boot, id, key: public, revoked: false });
        Ok(())
    }

    fn change(&mut self, header: &Header, change: &Key) -> Result<(), String> {
        let name = match change.role {
            KeyRole::Gateway => key::gateway_name(self.log.origin(), header.gateway),
            KeyRole::Log => self.log.origin().to_owned(),
            KeyRole::Root => key::root_name(self.log.origin()),
        };
        key::check_certificate(self.log.root().key(), self.log.origin(), &name, &change.key.0, &change.certificate.0)
            .map_err(|e| format!("the change of a key is not vouched for by the root key: {e}"))?;
        if change.role == KeyRole::Gateway && change.change != KeyChange::Added {
            for known in self.gateways.values_mut().filter(|k| *k.key.as_bytes() == change.key.0) {
                known.revoked = true;
            }
        }
        Ok(())
    }
}
