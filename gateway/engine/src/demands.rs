//! What rules demand of a vote beside authority: a login that is sure and fresh, a signature of the voter's own, and that it
//! is not too old when it is counted.
//!
//! A vote that a demand is not met for is refused before anything is recorded. A signature that is given is always checked.
//! Absent: whose votes a rule counts (`voters`), and registering keys (`person_keys`).

use std::collections::{BTreeMap, BTreeSet};

use countersign_gateway_flow::rows::{DECISIONS, DecisionRow};
use countersign_gateway_flow::{Ballot, OpenGate, OpenItem};
use countersign_gateway_model::{Assurance, DecisionId, Digest, Duration, Name, Principal, Pseudonym, Timestamp};
use countersign_ledger_entry::EntryError;
use countersign_ledger_entry::assertion::{self, LiftStatement, Statement};
use countersign_ledger_entry::body::Assertion;
use countersign_policy_decide::rules::Demand;

use crate::api::{LiftRequest, Signed};
use crate::deciding::{Cast, Deciding};
use crate::error::EngineError;
use crate::keyring::{KeyRow, why_not};
use crate::org::Org;
use crate::{Engine, Snapshot};

/// Whether the login, and the signature, are what the rules demand of those whose votes count for them.
pub(crate) fn demands_met(
    snapshot: &Snapshot,
    (who, now): (&Principal, Timestamp),
    rules: &[Name],
    signed: bool,
) -> Result<(), EngineError> {
    for (name, rule) in rules.iter().filter_map(|name| Some((name, snapshot.rules().get(name.as_str())?))) {
        let unmet = |demand| Err(EngineError::DemandUnmet { rule: name.clone(), demand });
        let demand = &rule.demand;
        if let Some(least) = demand.assurance.filter(|least| who.assurance < *least) {
            return unmet(match least {
                Assurance::Mfa => "a login with a second factor",
                _ => "a surer login than this one",
            });
        }
        if demand.fresh_s.is_some_and(|s| now.since(who.issued) > Duration::from_secs(s)) {
            return unmet("a login that is not as old");
        }
        if demand.assertion && !signed {
            return Err(EngineError::SignatureMissing(name.clone()));
        }
    }
    Ok(())
}

/// Persons one of whose votes no longer counts: it was cast longer ago than a rule that it counts for lets it, or without
/// the signature or the second factor that the rule demands by now.
pub(crate) fn expired_votes(work: &Deciding<'_>) -> Vec<Pseudonym> {
    let rule = |rule: &Name| work.snapshot.rules().get(rule.as_str());
    let votes = work.gate.live_items().flat_map(|item| &item.votes);
    let expired = votes.filter(|vote| {
        let mut rules = vote.rules.iter().filter_map(rule);
        let age = work.now.since(vote.at);
        let cast = work.cast.get(&vote.decision);
        rules.any(|rule| {
            rule.validity_s.is_some_and(|s| age > Duration::from_secs(s))
                || demands_of_cast(&rule.demand) && cast.is_none_or(|cast| falls_short(cast, &rule.demand))
        })
    });
    expired.map(|vote| vote.person).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Whether something is demanded that a vote which was cast may lack.
fn demands_of_cast(demand: &Demand) -> bool {
    demand.assertion || demand.assurance.is_some()
}

/// Whether a rule of the gate demands something that its votes may lack.
fn demands_of_votes(snapshot: &Snapshot, gate: &OpenGate) -> bool {
    let mut forms = gate.live_items().flat_map(|item| &item.rules);
    forms.any(|form| snapshot.rules().get(form.rule.as_str()).is_some_and(|rule| demands_of_cast(&rule.demand)))
}

fn falls_short(cast: &Cast, demand: &Demand) -> bool {
    demand.assertion && !cast.asserted || demand.assurance.is_some_and(|least| cast.assurance < least)
}

/// Checks the signature that came with a decision against what will be recorded.
pub(crate) fn check_signature(
    work: &Deciding<'_>,
    signed: &Signed,
    ballot: &Ballot,
    (delta, shown): (Option<Digest>, Option<Digest>),
) -> Result<(), EngineError> {
    let refused = |why: &str| Err(EngineError::SignatureRefused(why.to_owned()));
    let row = signing_key(work, &signed.assertion)?;
    if delta.is_some() && signed.delta_salt.is_none() {
        return refused("an OVERRIDE is signed with the salt of its change: give `delta_salt`");
    }
    let statement = Statement {
        origin: work.org.log.trusted().origin().to_owned(),
        gate: work.gate.gate,
        kind: ballot.kind,
        items: ballot.items.iter().map(|item| (item.item, item.digest)).collect(),
        delta,
        shown,
    };
    match statement.check(&signed.assertion, &row.key) {
        Ok(()) => Ok(()),
        Err(EntryError::Signature(_)) if delta.is_some() => refused(
            "it does not hold for this gate, items, view and change; a change that a mask of the bundle rewrites cannot be \
             signed",
        ),
        Err(EntryError::Signature(_)) => refused("it does not hold for this gate, decision, items and view"),
        Err(other) => Err(EngineError::Assertion(other)),
    }
}

/// Checks the signature that came with a lift.
pub(crate) fn check_lift_signature(
    work: &Deciding<'_>,
    assertion: &Assertion,
    item: &OpenItem,
    request: &LiftRequest,
) -> Result<(), EngineError> {
    let row = signing_key(work, assertion)?;
    let statement = LiftStatement {
        origin: work.org.log.trusted().origin().to_owned(),
        gate: work.gate.gate,
        item: (item.item, item.digest),
        rule: request.rule.clone(),
        shown: request.shown_digest,
    };
    match statement.check(assertion, &row.key) {
        Err(EntryError::Signature(_)) => {
            Err(EngineError::SignatureRefused("it does not hold for this gate, item, rule and view".to_owned()))
        }
        checked => checked.map_err(EngineError::Assertion),
    }
}

/// The key of a signature, if it is one that signs here.
fn signing_key<'w>(work: &Deciding<'w>, assertion: &Assertion) -> Result<&'w KeyRow, EngineError> {
    let refused = |why: &str| Err(EngineError::SignatureRefused(why.to_owned()));
    assertion::check_algorithm(assertion.alg).map_err(EngineError::Assertion)?;
    let Some(row) = work.keys.and_then(|keys| keys.get(&assertion.key_id)) else {
        return refused(
            "its key is not registered: `countersign key register`, and sign at gates that open after that",
        );
    };
    match why_not(row, work.who.pseudonym, work.gate.opened) {
        Some(why) => refused(why),
        None => Ok(row),
    }
}

impl Engine {
    /// How the votes at the gate were cast, where a rule of it demands something of that; what is not known is not among
    /// them, and meets no demand.
    pub(crate) async fn votes_cast(
        &self,
        org: &Org,
        snapshot: &Snapshot,
        gate: &OpenGate,
    ) -> Result<BTreeMap<DecisionId, Cast>, EngineError> {
        if !demands_of_votes(snapshot, gate) {
            return Ok(BTreeMap::new());
        }
        let votes: BTreeSet<DecisionId> =
            gate.live_items().flat_map(|item| &item.votes).map(|vote| vote.decision).collect();
        let mut cast = BTreeMap::new();
        for vote in votes {
            let row = org.log.view(DECISIONS, vote.as_bytes()).await.map_err(EngineError::ledger)?;
            let row: Option<DecisionRow> =
                row.map(|row| serde_json::from_slice(&row)).transpose().map_err(EngineError::damaged)?;
            cast.extend(row.map(|row| (vote, Cast { asserted: row.asserted, assurance: row.assurance })));
        }
        Ok(cast)
    }
}

/// A change as it is kept and signed: JSON with sorted keys and no white space, so that whoever signs and the gateway make
/// the same bytes of it.
///
/// # Errors
/// Those of `serde_json`, which writes every value.
pub fn delta_bytes(mut delta: serde_json::Value) -> Result<Vec<u8>, serde_json::Error> {
    delta.sort_all_objects();
    serde_json::to_vec(&delta)
}
