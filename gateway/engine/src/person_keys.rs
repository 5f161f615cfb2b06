//! Keys of persons, with which they sign what they decide: registered by themselves, taken back, listed.
//!
//! The public key stands in the ledger, so an auditor checks a signature without asking anybody; the private one never comes
//! here. A key signs at gates that open after it was registered: whoever steals a login for an hour cannot register a key
//! and sign with it what waits. Absent: what is signed (`ledger/entry`'s `assertion`), and votes. Read next: `demands`.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::json;

use countersign_gateway_model::{Assurance, Digest, Name, Principal, PrincipalKind, Pseudonym, Scope, Timestamp};
use countersign_ledger_entry::body::PersonKey;
use countersign_ledger_entry::{Bytes32, Bytes64, Receipt, assertion, key};
use countersign_policy_decide::{EntityRef, Operation};

use crate::Engine;
use crate::error::EngineError;
use crate::keyring::KeyRow;
use crate::org::Org;
use crate::own::{Allowed, OwnEntry};

/// Most keys of one person, those taken back counted in.
const MAX_KEYS: usize = 100;

/// A key as it is listed.
#[derive(Clone, Copy, Debug)]
pub struct PersonKeyRecord {
    /// SHA-256 of the key.
    pub id: Digest,
    /// The public key.
    pub key: Bytes32,
    /// From when on it signs.
    pub registered: Timestamp,
    /// When it was taken back.
    pub revoked: Option<Timestamp>,
}

/// The keys of one person, and what the registration of another one signs.
#[derive(Clone, Debug)]
pub struct PersonKeyList {
    /// Origin of the organization's log.
    pub log: String,
    /// What stands for the person in entries.
    pub principal: Pseudonym,
    /// Oldest first.
    pub keys: Vec<PersonKeyRecord>,
}

/// A key to be registered.
#[derive(Clone, Copy, Debug)]
pub struct NewPersonKey {
    /// COSE algorithm number: -8.
    pub alg: i32,
    /// The public key.
    pub key: Bytes32,
    /// Signature by the key over [`assertion::possession_bytes`].
    pub possession: Bytes64,
}

fn record((id, row): (&Digest, &KeyRow)) -> PersonKeyRecord {
    PersonKeyRecord { id: *id, key: row.key, registered: row.registered, revoked: row.revoked }
}

impl Engine {
    /// The keys of a person, to themselves and to those who may list principals.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] for everybody else, and for a person who is not there.
    pub async fn person_keys(&self, who: &Principal, id: &Name) -> Result<PersonKeyList, EngineError> {
        let org = self.org(who.org)?;
        if !is_self(who, id) {
            self.may_read(&org, who, Operation::ListPrincipals, EntityRef::organization(org.id), "person")?;
        }
        let (principal, _) = org.known_by_id(PrincipalKind::Person, id).ok_or(EngineError::NotFound("person"))?;
        let held = org.person_keys.read().await;
        let mut keys: Vec<_> = held.iter().filter(|(_, row)| row.principal == principal).map(record).collect();
        keys.sort_by_key(|key| (key.registered, key.id));
        Ok(PersonKeyList { log: org.log.trusted().origin().to_owned(), principal, keys })
    }

    /// Registers a key of the caller's own. `resource` is the person, as policy names them.
    ///
    /// # Errors
    /// [`EngineError::Refused`] by policy; [`EngineError::ScopeMissing`] without an interactive credential;
    /// [`EngineError::Invalid`] for another's account; [`EngineError::Assertion`] for a key that is none, or whose holder did
    /// not sign; [`EngineError::KeyKnown`] for one that was registered before.
    pub async fn register_person_key(
        &self,
        who: Arc<Principal>,
        (id, resource): (Name, EntityRef),
        new: NewPersonKey,
    ) -> Result<(PersonKeyRecord, Receipt), EngineError> {
        let this = self.clone();
        Self::whole(async move {
            let org = this.org(who.org)?;
            let key_id = assertion::key_id(&new.key);
            let details = json!({ "operation": "issueToken", "id": id, "what": "signing key", "key": key_id });
            let allowed = this.authorize(&who, Operation::IssueToken, resource, &details).await?;
            if !is_self(&who, &id) {
                return Err(EngineError::invalid("id", "a key is registered by its person alone, in their own name"));
            }
            if !who.has(Scope::Decide) {
                return Err(EngineError::ScopeMissing);
            }
            if who.assurance == Assurance::Demo && !org.log.is_demo() {
                return Err(EngineError::DemoOnly);
            }
            let body = PersonKey {
                principal: who.pseudonym,
                alg: new.alg,
                key: new.key,
                revoked: false,
                possession: Some(new.possession),
            };
            key::public_key(&new.key.0)?;
            assertion::check_possession(org.log.trusted().origin(), &body).map_err(EngineError::Assertion)?;
            let mut keys = org.person_keys.write().await;
            if keys.contains_key(&key_id) {
                return Err(EngineError::KeyKnown);
            }
            if keys.values().filter(|row| row.principal == who.pseudonym).count() >= MAX_KEYS {
                return Err(EngineError::invalid("key", "you have registered 100 keys: go on with one of them"));
            }
            this.commit_key((&org, &who), allowed, &mut keys, (key_id, body)).await
        })
        .await
    }

    /// Takes a person's key back: it signs nothing from here on. What it signed before holds.
    ///
    /// # Errors
    /// [`EngineError::Refused`] by policy; [`EngineError::Invalid`] for a key that is not theirs or was taken back before, and for
    /// those who are no persons.
    pub async fn revoke_person_key(
        &self,
        who: Arc<Principal>,
        (id, resource): (Name, EntityRef),
        key_id: Digest,
    ) -> Result<(PersonKeyRecord, Receipt), EngineError> {
        let this = self.clone();
        Self::whole(async move {
            let org = this.org(who.org)?;
            let details = json!({ "operation": "revokeToken", "id": id, "what": "signing key", "key": key_id });
            let allowed = this.authorize(&who, Operation::RevokeToken, resource, &details).await?;
            let owner = org.known_by_id(PrincipalKind::Person, &id).map(|(owner, _)| owner);
            let person = who.kind == PrincipalKind::Person && who.on_behalf_of.is_empty();
            let mut keys = org.person_keys.write().await;
            let held = keys.get(&key_id).copied();
            let held = held.filter(|row| person && Some(row.principal) == owner && row.revoked.is_none());
            let none =
                || EngineError::invalid("key_id", "this person has no such key that signs: `countersign key list`");
            let held = held.ok_or_else(none)?;
            let body = PersonKey {
                principal: held.principal,
                alg: assertion::EDDSA,
                key: held.key,
                revoked: true,
                possession: None,
            };
            this.commit_key((&org, &who), allowed, &mut keys, (key_id, body)).await
        })
        .await
    }

    async fn commit_key(
        &self,
        (org, who): (&Org, &Principal),
        allowed: Allowed,
        keys: &mut HashMap<Digest, KeyRow>,
        (id, body): (Digest, PersonKey),
    ) -> Result<(PersonKeyRecord, Receipt), EngineError> {
        let receipt = self.commit_own(who, allowed, OwnEntry::new(body)).await?;
        // It is durable: what memory says is what the next start reads from the log.
        let row = org.own_fold().person_keys.get(&id).copied();
        let row = row.ok_or_else(|| EngineError::damaged("a key's entry"))?;
        keys.insert(id, row);
        Ok((record((&id, &row)), receipt))
    }
}

/// Whether `who` is the person `id`, in their own name.
fn is_self(who: &Principal, id: &Name) -> bool {
    who.kind == PrincipalKind::Person && who.on_behalf_of.is_empty() && who.id == *id
}
