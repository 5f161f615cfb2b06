//! Keys of persons as the log itself registers them, and the decisions that are signed with them.
//!
//! A key is registered by the person's own account, with proof that whoever registers holds it; it signs at gates that open
//! after that and until it is taken back, and is never registered again. A signature that does not hold makes the log
//! INVALID. Absent: whose hand held the key, which no bytes can say.

use std::collections::{HashMap, HashSet};

use countersign_gateway_model::{Decision as Answer, Digest, GateId, PrincipalKind, Pseudonym, StreamId, Timestamp};
use countersign_ledger_entry::assertion::{LiftStatement, Statement, check_algorithm, check_possession, key_id};
use countersign_ledger_entry::body::{Assertion, Body, Decision, PersonKey};
use countersign_ledger_entry::{Bytes32, EntryError, Header};

use crate::PersonKeySeen;

/// The semantics version from which on signatures are held to be valid; before it none was checked.
const SINCE: u16 = 2;

/// The keys registered so far.
#[derive(Default)]
pub(crate) struct PersonKeys {
    keys: HashMap<Digest, Registered>,
    /// Keys in the order of their registration.
    seen: Vec<PersonKeySeen>,
    /// Agents and services.
    programs: HashSet<Pseudonym>,
    /// By stream, its latest gate and when that opened.
    gates: HashMap<StreamId, (GateId, Timestamp)>,
    /// Signatures that hold.
    pub(crate) signed: u64,
    /// Signatures of before semantics version 2, which nobody checked.
    pub(crate) unchecked: u64,
}

struct Registered {
    principal: Pseudonym,
    key: Bytes32,
    at: Timestamp,
    revoked: bool,
    /// Its place in the list.
    place: usize,
}

impl PersonKeys {
    /// Takes up what an entry says of keys, and checks what it signs with them. `origin` is the log's.
    pub(crate) fn entry(&mut self, index: u64, origin: &str, header: &Header) -> Result<(), String> {
        match &header.body {
            Body::Principal(known) if known.kind != PrincipalKind::Person => {
                self.programs.insert(known.principal);
            }
            Body::Gate(gate) => {
                self.gates.insert(header.stream.id, (gate.gate, header.claimed));
            }
            Body::PersonKey(key) => return self.key(index, origin, header, key),
            Body::Decision(decision) => return self.decision(origin, header, decision),
            Body::Lift(lift) => {
                let check = |assertion: &_, key: &_| LiftStatement::of(origin, lift).check(assertion, key);
                return self.signature(header, lift.gate, lift.assertion.as_ref(), check).map(drop);
            }
            _ => {}
        }
        Ok(())
    }

    fn key(&mut self, index: u64, origin: &str, header: &Header, change: &PersonKey) -> Result<(), String> {
        let allowed = header.verdict.as_ref().is_some_and(|verdict| verdict.decision == Answer::Allow);
        if !allowed {
            return Err("a person's key changes without policy's yes".to_owned());
        }
        check_algorithm(change.alg).map_err(|error| error.to_string())?;
        let id = key_id(&change.key);
        if change.revoked {
            let held = self.keys.get_mut(&id).filter(|held| held.principal == change.principal && !held.revoked);
            let held = held.ok_or("it takes back a key that is not registered")?;
            if change.possession.is_some() {
                return Err("it takes a key back, and brings a proof that is for registering one".to_owned());
            }
            held.revoked = true;
            if let Some(seen) = self.seen.get_mut(held.place) {
                seen.revoked = Some(index);
            }
            return Ok(());
        }
        if header.actor != change.principal || !header.on_behalf_of.is_empty() {
            return Err("a person's key is registered by another than that person".to_owned());
        }
        if header.actor == Pseudonym::SYSTEM || self.programs.contains(&change.principal) {
            return Err("a key is registered for a principal that is no person".to_owned());
        }
        check_possession(origin, change)
            .map_err(|error| format!("who registers the key has not shown to hold it: {error}"))?;
        if self.keys.contains_key(&id) {
            return Err("a key is registered that was registered before".to_owned());
        }
        let (principal, key) = (change.principal, change.key);
        self.keys.insert(id, Registered { principal, key, at: header.claimed, revoked: false, place: self.seen.len() });
        self.seen.push(PersonKeySeen {
            principal: principal.to_string(),
            key: id.to_string(),
            from: index,
            revoked: None,
            signed: 0,
        });
        Ok(())
    }

    fn decision(&mut self, origin: &str, header: &Header, decision: &Decision) -> Result<(), String> {
        if header.semantics < SINCE {
            self.unchecked += u64::from(decision.assertion.is_some());
            return Ok(());
        }
        let check = |assertion: &_, key: &_| Statement::of(origin, decision).check(assertion, key);
        let signed = self.signature(header, decision.gate, decision.assertion.as_ref(), check)?;
        self.signed += u64::from(signed);
        Ok(())
    }

    /// Checks a signature, where there is one. Gives whether there is.
    fn signature(
        &mut self,
        header: &Header,
        gate: GateId,
        assertion: Option<&Assertion>,
        check: impl FnOnce(&Assertion, &Bytes32) -> Result<(), EntryError>,
    ) -> Result<bool, String> {
        let Some(assertion) = assertion else { return Ok(false) };
        check_algorithm(assertion.alg).map_err(|error| error.to_string())?;
        let held = self.keys.get(&assertion.key_id).filter(|held| held.principal == header.actor);
        let held = held.ok_or("a decision is signed with a key that was not registered for who decided")?;
        if held.revoked {
            return Err("a decision is signed with a key that was taken back before".to_owned());
        }
        let opened = self.gates.get(&header.stream.id).filter(|(open, _)| *open == gate);
        if opened.is_none_or(|(_, opened)| held.at >= *opened) {
            return Err("a decision is signed with a key that was registered after its gate opened".to_owned());
        }
        check(assertion, &held.key).map_err(|error| format!("the approver's own signature does not hold: {error}"))?;
        if let Some(seen) = self.seen.get_mut(held.place) {
            seen.signed += 1;
        }
        Ok(true)
    }

    /// The keys, in the order of their registration.
    pub(crate) fn into_seen(self) -> Vec<PersonKeySeen> {
        self.seen
    }
}
