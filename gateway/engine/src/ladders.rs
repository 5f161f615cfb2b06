//! Where open gates stand on the ladders of their rules: reminders, and further circles of people.
//!
//! When a step is due follows from the gate's entry and the rules of the policy in force. Nothing here is kept over a
//! restart: which steps were taken is in the ledger. Absent: taking them. Read next: `climbing`.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use countersign_gateway_model::{Duration, GateId, Name, PolicyDigests, Timestamp};
use countersign_ledger_entry::body::GateEventKind;
use countersign_policy_decide::PolicySnapshot;

/// A step: what it is, of which rule, and which in the rule's ladder.
pub(crate) type Step = (GateEventKind, Name, u16);

/// Where each open gate stands.
#[derive(Default)]
pub(crate) struct Ladders(Mutex<HashMap<GateId, Rung>>);

/// One gate.
#[derive(Default)]
struct Rung {
    /// Under which policy the next step was found.
    policy: Option<PolicyDigests>,
    next: Option<Timestamp>,
    /// Steps that policy refused: they are on record, and not asked about again by this process.
    refused: HashSet<Step>,
}

impl Ladders {
    /// Whether nothing is due yet.
    pub(crate) fn rests(&self, gate: GateId, policy: PolicyDigests, now: Timestamp) -> bool {
        let rungs = self.lock();
        let rung = rungs.get(&gate).filter(|rung| rung.policy == Some(policy));
        rung.is_some_and(|rung| rung.next.is_none_or(|next| next > now))
    }

    /// What was refused at a gate.
    pub(crate) fn refused(&self, gate: GateId) -> HashSet<Step> {
        self.lock().get(&gate).map(|rung| rung.refused.clone()).unwrap_or_default()
    }

    /// What was due has been taken, but for what policy refused.
    pub(crate) fn rest(
        &self,
        gate: GateId,
        (policy, next): (PolicyDigests, Option<Timestamp>),
        refused: impl IntoIterator<Item = Step>,
    ) {
        let mut rungs = self.lock();
        let rung = rungs.entry(gate).or_default();
        (rung.policy, rung.next) = (Some(policy), next);
        rung.refused.extend(refused);
    }

    /// Forgets every gate that is not open.
    pub(crate) fn keep(&self, open: &HashSet<GateId>) {
        self.lock().retain(|gate, _| open.contains(gate));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<GateId, Rung>> {
        // Whatever is lost with a panic is found again from the ledger.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Every step of these rules with the time at which it is due, in that order; none at or after the gate's end.
pub(crate) fn steps<'r>(
    snapshot: &PolicySnapshot,
    rules: impl Iterator<Item = &'r Name>,
    (opened, expires): (Timestamp, Option<Timestamp>),
) -> Vec<(Timestamp, Step)> {
    let mut steps = Vec::new();
    let named: BTreeSet<&Name> = rules.collect();
    for (name, rule) in named.into_iter().filter_map(|name| Some((name, snapshot.rules().get(name.as_str())?))) {
        let reminders = (0_u16..).zip(&rule.reminders_s).map(|(step, s)| (*s, GateEventKind::Reminder, step));
        let circles = (0_u16..).zip(&rule.escalation);
        let circles = circles.map(|(step, further)| (further.after_s, GateEventKind::Escalation, step));
        for (s, event, step) in reminders.chain(circles) {
            let due = opened + Duration::from_secs(s);
            if expires.is_none_or(|expires| due < expires) {
                steps.push((due, (event, name.clone(), step)));
            }
        }
    }
    steps.sort_by_key(|(due, _)| *due);
    steps
}
