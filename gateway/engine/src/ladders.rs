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

/// How long after a step was refused, or could not be taken, anything of the kind is tried again at the earliest.
const AGAIN: Duration = Duration::from_secs(60);

/// One gate.
#[derive(Default)]
struct Rung {
    /// Under which policy the next step was found.
    policy: Option<PolicyDigests>,
    next: Option<Timestamp>,
    /// Steps that policy refused, by which and when: they are on record, and asked about again under another policy alone.
    refused: HashMap<Step, (PolicyDigests, Timestamp)>,
    /// When a step could not be taken, and it is not known why.
    failed: Option<Timestamp>,
}

impl Ladders {
    /// Whether nothing is due yet.
    pub(crate) fn rests(&self, gate: GateId, policy: PolicyDigests, now: Timestamp) -> bool {
        let rungs = self.lock();
        let Some(rung) = rungs.get(&gate) else { return false };
        if rung.failed.is_some_and(|at| now < at + AGAIN) {
            return true;
        }
        rung.policy == Some(policy) && rung.next.is_none_or(|next| next > now)
    }

    /// Whether policy is asked about a step that is due: not if it was refused under this policy, nor a moment ago.
    pub(crate) fn asks(&self, gate: GateId, step: &Step, policy: PolicyDigests, now: Timestamp) -> bool {
        let rungs = self.lock();
        let refused = rungs.get(&gate).and_then(|rung| rung.refused.get(step));
        refused.is_none_or(|(under, at)| *under != policy && now >= *at + AGAIN)
    }

    /// Policy refused a step. Known at once, whatever becomes of those after it.
    pub(crate) fn refuse(&self, gate: GateId, step: Step, policy: PolicyDigests, now: Timestamp) {
        self.lock().entry(gate).or_default().refused.insert(step, (policy, now));
    }

    /// A step could not be taken.
    pub(crate) fn fail(&self, gate: GateId, now: Timestamp) {
        self.lock().entry(gate).or_default().failed = Some(now);
    }

    /// What was due has been taken, but for what policy refused.
    pub(crate) fn rest(&self, gate: GateId, policy: PolicyDigests, next: Option<Timestamp>) {
        let mut rungs = self.lock();
        let rung = rungs.entry(gate).or_default();
        // What an earlier policy refused a moment ago is asked of this one as soon as it may be.
        let again = rung.refused.values().filter(|(under, _)| *under != policy).map(|(_, at)| *at + AGAIN);
        rung.next = again.chain(next).min();
        (rung.policy, rung.failed) = (Some(policy), None);
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

#[cfg(test)]
mod tests {
    use countersign_gateway_model::Digest;

    use super::*;

    const GATE: GateId = GateId::from_bytes([1; 16]);

    fn policy(n: u8) -> PolicyDigests {
        PolicyDigests {
            kernel: Digest([0; 32]),
            schema: Digest([0; 32]),
            bundle: Digest([n; 32]),
            catalogue: Digest([0; 32]),
        }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp(seconds * 1000)
    }

    fn step(n: u16) -> Option<Step> {
        Some((GateEventKind::Reminder, Name::new("merge").ok()?, n))
    }

    #[test]
    fn a_refused_step_is_asked_again_under_another_policy_and_not_within_a_minute() {
        let (ladders, Some(first)) = (Ladders::default(), step(0)) else { return };
        assert!(ladders.asks(GATE, &first, policy(1), at(0)));
        ladders.refuse(GATE, first.clone(), policy(1), at(0));
        ladders.rest(GATE, policy(1), None);
        assert!(!ladders.asks(GATE, &first, policy(1), at(9_999)), "the same policy has said no");
        assert!(ladders.rests(GATE, policy(1), at(9_999)));
        // Another policy: looked at again, and asked once the minute is over.
        assert!(!ladders.rests(GATE, policy(2), at(10)));
        assert!(!ladders.asks(GATE, &first, policy(2), at(59)));
        ladders.rest(GATE, policy(2), None);
        assert!(ladders.rests(GATE, policy(2), at(59)));
        assert!(!ladders.rests(GATE, policy(2), at(60)));
        assert!(ladders.asks(GATE, &first, policy(2), at(60)));
    }

    #[test]
    fn a_step_that_cannot_be_taken_is_tried_once_a_minute_and_keeps_what_was_refused_before_it() {
        let (ladders, Some(first), Some(second)) = (Ladders::default(), step(0), step(1)) else { return };
        ladders.refuse(GATE, first.clone(), policy(1), at(0));
        ladders.fail(GATE, at(0));
        assert!(ladders.rests(GATE, policy(1), at(59)) && ladders.rests(GATE, policy(2), at(59)));
        assert!(!ladders.rests(GATE, policy(1), at(60)));
        assert!(!ladders.asks(GATE, &first, policy(1), at(60)), "it is on record as refused");
        assert!(ladders.asks(GATE, &second, policy(1), at(60)));
        ladders.rest(GATE, policy(1), Some(at(100)));
        assert!(ladders.rests(GATE, policy(1), at(99)) && !ladders.rests(GATE, policy(1), at(100)));
        ladders.keep(&HashSet::new());
        assert!(!ladders.rests(GATE, policy(1), at(99)), "what is closed is forgotten");
    }
}
