//! An approver's own signature: what is signed, how it is checked, and the proof that who registers a key holds it.
//!
//! One function makes the bytes for all who need them: the person's tool that signs, the gateway that counts the vote, the
//! auditor who trusts neither. Only Ed25519 (COSE -8) signs. Absent: which keys are whose, which the log's `person_key`
//! entries say and `ledger/verify` and the engine hold decisions to.

use ed25519_dalek::{Signature, Signer as _, SigningKey};
use minicbor::Encode;
use sha2::{Digest as _, Sha256};

use countersign_gateway_model::{Digest, GateId, ItemId, Name, Pseudonym};

use crate::EntryError;
use crate::body::{Assertion, Decision, DecisionKind, Lift, PersonKey};
use crate::codec::{Bytes32, Bytes64};
use crate::key::public_key;

/// COSE's number of `EdDSA`, the one algorithm that signs.
pub const EDDSA: i32 = -8;

const STATEMENT: &[u8] = b"countersign/assertion/v1\0";
const LIFT: &[u8] = b"countersign/lift-assertion/v1\0";
const POSSESSION: &[u8] = b"countersign/person-key/v1\0";

/// What an approver signs: what they decide, about what, and what they were shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Origin of the log that the decision will stand in.
    pub origin: String,
    /// The gate.
    pub gate: GateId,
    /// What is decided.
    pub kind: DecisionKind,
    /// The items with their digests at the gate, in any order; none for REJECT, which is of the gate.
    pub items: Vec<(ItemId, Digest)>,
    /// Salted digest of the change, for OVERRIDE (`payload::DELTA`).
    pub delta: Option<Digest>,
    /// Salted digest of the view that was shown (`payload::SHOWN`).
    pub shown: Option<Digest>,
}

#[derive(Encode)]
#[cbor(array)]
struct Encoded<'a> {
    #[n(0)]
    origin: &'a str,
    #[n(1)]
    gate: GateId,
    #[n(2)]
    kind: DecisionKind,
    #[n(3)]
    items: Vec<(ItemId, Digest)>,
    #[n(4)]
    delta: Option<Digest>,
    #[n(5)]
    shown: Option<Digest>,
}

impl Statement {
    /// What a recorded decision says.
    pub fn of(origin: &str, decision: &Decision) -> Self {
        Self {
            origin: origin.to_owned(),
            gate: decision.gate,
            kind: decision.kind,
            items: decision.items.iter().map(|item| (item.item, item.digest)).collect(),
            delta: decision.delta,
            shown: decision.shown,
        }
    }

    /// The bytes that are signed: domain, then deterministic CBOR `[origin, gate, kind, [[item, digest]…], delta, shown]`,
    /// items by id.
    pub fn bytes(&self) -> Vec<u8> {
        let mut items = self.items.clone();
        items.sort_unstable();
        let encoded = Encoded {
            origin: &self.origin,
            gate: self.gate,
            kind: self.kind,
            items,
            delta: self.delta,
            shown: self.shown,
        };
        encode(STATEMENT, &encoded)
    }

    /// Signs it.
    pub fn sign(&self, key: &SigningKey) -> Assertion {
        sign(&self.bytes(), key)
    }

    /// Checks that `assertion` is this statement, signed by `key`.
    ///
    /// # Errors
    /// [`EntryError::Algorithm`] for another algorithm than Ed25519; [`EntryError::Signature`] where it is not by `key`.
    pub fn check(&self, assertion: &Assertion, key: &Bytes32) -> Result<(), EntryError> {
        check(&self.bytes(), assertion, key)
    }
}

/// What a person signs who lifts a rule without its quorum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiftStatement {
    /// Origin of the log that the lift will stand in.
    pub origin: String,
    /// The gate.
    pub gate: GateId,
    /// The item with its digest at the gate.
    pub item: (ItemId, Digest),
    /// The rule.
    pub rule: Name,
    /// Salted digest of the view that was shown (`payload::SHOWN`).
    pub shown: Digest,
}

#[derive(Encode)]
#[cbor(array)]
struct EncodedLift<'a> {
    #[n(0)]
    origin: &'a str,
    #[n(1)]
    gate: GateId,
    #[n(2)]
    item: (ItemId, Digest),
    #[n(3)]
    rule: &'a str,
    #[n(4)]
    shown: Digest,
}

impl LiftStatement {
    /// What a recorded lift says.
    pub fn of(origin: &str, lift: &Lift) -> Self {
        Self {
            origin: origin.to_owned(),
            gate: lift.gate,
            item: (lift.item, lift.digest),
            rule: lift.rule.clone(),
            shown: lift.shown,
        }
    }

    /// The bytes that are signed: a domain of their own, then deterministic CBOR `[origin, gate, [item, digest], rule, shown]`.
    pub fn bytes(&self) -> Vec<u8> {
        let Self { origin, gate, item, rule, shown } = self;
        encode(LIFT, &EncodedLift { origin, gate: *gate, item: *item, rule: rule.as_str(), shown: *shown })
    }

    /// Signs it.
    pub fn sign(&self, key: &SigningKey) -> Assertion {
        sign(&self.bytes(), key)
    }

    /// Checks that `assertion` is this statement, signed by `key`.
    ///
    /// # Errors
    /// As [`Statement::check`].
    pub fn check(&self, assertion: &Assertion, key: &Bytes32) -> Result<(), EntryError> {
        check(&self.bytes(), assertion, key)
    }
}

fn sign(bytes: &[u8], key: &SigningKey) -> Assertion {
    let signature = key.sign(bytes).to_bytes().to_vec();
    Assertion { alg: EDDSA, key_id: key_id(&Bytes32(key.verifying_key().to_bytes())), signature }
}

fn check(bytes: &[u8], assertion: &Assertion, key: &Bytes32) -> Result<(), EntryError> {
    check_algorithm(assertion.alg)?;
    let wrong = || EntryError::Signature("decision by the approver's own key");
    if assertion.key_id != key_id(key) {
        return Err(wrong());
    }
    let signature = <[u8; 64]>::try_from(assertion.signature.as_slice()).map_err(|_| wrong())?;
    public_key(&key.0)?.verify_strict(bytes, &Signature::from_bytes(&signature)).map_err(|_| wrong())
}

#[derive(Encode)]
#[cbor(array)]
struct Possession<'a> {
    #[n(0)]
    origin: &'a str,
    #[n(1)]
    principal: Pseudonym,
    #[n(2)]
    alg: i32,
    #[n(3)]
    key: Bytes32,
}

/// Refuses every algorithm but Ed25519.
///
/// # Errors
/// [`EntryError::Algorithm`].
pub fn check_algorithm(alg: i32) -> Result<(), EntryError> {
    if alg == EDDSA { Ok(()) } else { Err(EntryError::Algorithm(alg)) }
}

/// Names a person's key: SHA-256 of its 32 bytes.
pub fn key_id(key: &Bytes32) -> Digest {
    Digest(Sha256::digest(key.0).into())
}

/// What a key signs to be registered: domain, then `[origin, principal, algorithm, key]`. Nobody registers a key that they
/// do not hold, nor one that was registered for another person or in another log.
pub fn possession_bytes(origin: &str, principal: Pseudonym, key: &Bytes32) -> Vec<u8> {
    encode(POSSESSION, &Possession { origin, principal, alg: EDDSA, key: *key })
}

/// Proves that who registers `key` for `principal` holds it.
pub fn possess(key: &SigningKey, origin: &str, principal: Pseudonym) -> Bytes64 {
    let public = Bytes32(key.verifying_key().to_bytes());
    Bytes64(key.sign(&possession_bytes(origin, principal, &public)).to_bytes())
}

/// Checks the registration of a person's key.
///
/// # Errors
/// [`EntryError::Algorithm`] for another algorithm than Ed25519; [`EntryError::PublicKey`] for a key that is none;
/// [`EntryError::Signature`] where its holder did not sign.
pub fn check_possession(origin: &str, registered: &PersonKey) -> Result<(), EntryError> {
    check_algorithm(registered.alg)?;
    let wrong = || EntryError::Signature("registration of a person's key");
    let proof = registered.possession.ok_or_else(wrong)?;
    let bytes = possession_bytes(origin, registered.principal, &registered.key);
    public_key(&registered.key.0)?.verify_strict(&bytes, &Signature::from_bytes(&proof.0)).map_err(|_| wrong())
}

fn encode(domain: &[u8], value: &impl Encode<()>) -> Vec<u8> {
    let mut out = domain.to_vec();
    // A `Vec` never fails to be written to.
    let written = minicbor::encode(value, &mut out);
    debug_assert!(written.is_ok(), "encoding to memory");
    out
}

#[cfg(test)]
mod tests;
