//! What the answer would be if the policies in shadow were in force. Internal, but for the answer's part.
//!
//! A policy in shadow is left out of the real decision and evaluated beside it, once, in the first round: a gate's
//! condition is the only one that `satisfied` changes, and it changes it to false. The ages of entities are not asked
//! again for the would-be answer. Absent: who may put a policy into shadow. Read next: `decide`.

use std::collections::BTreeSet;

use countersign_gateway_model::{Name, Verdict};

use crate::prepared::Prepared;
use crate::reference::well_known;
use crate::round::{Round, ground, sorted};
use crate::snapshot::PolicySnapshot;

/// The answer with the policies in shadow in force. Recorded beside the real one, never acted on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WouldBe {
    /// What would be signed.
    pub verdict: Verdict,
    /// Ids of the policies that would determine it, sorted.
    pub determining: Vec<Name>,
    /// Transforms that would be asked for, in the manifest's order.
    pub transforms: Vec<Name>,
    /// The policies in shadow that hold or err, sorted.
    pub shadow: Vec<Name>,
}

/// `None` where no policy in shadow holds or errs: the answer would be the same.
pub(crate) fn would_be(snapshot: &PolicySnapshot, real: &Round<'_>, shadow: &Round<'_>) -> Option<WouldBe> {
    let ids = |policies: Vec<&Prepared>| -> Vec<Name> { policies.into_iter().map(|p| p.id.clone()).collect() };
    let concerned = ids(sorted(shadow.all()));
    if concerned.is_empty() {
        return None;
    }
    let both = [real, shadow];
    let of = |verdict: Verdict, policies: Vec<&Prepared>| {
        Some(WouldBe { verdict, determining: ids(policies), transforms: Vec::new(), shadow: concerned.clone() })
    };
    let broken = sorted(both.iter().flat_map(|r| r.broken.iter().map(|(p, _)| *p)));
    if !broken.is_empty() {
        return of(Verdict { error: true, ..Verdict::deny() }, broken);
    }
    let gates = || both.iter().flat_map(|r| r.gates.iter().map(|(p, _)| *p));
    if both.iter().any(|r| !r.hard.is_empty()) {
        return of(Verdict::deny(), sorted(both.iter().flat_map(|r| r.hard.iter().copied()).chain(gates())));
    }
    let transforms: BTreeSet<Name> =
        both.iter().flat_map(|r| r.transforms.iter().map(|(_, name)| (*name).clone())).collect();
    if !transforms.is_empty() {
        let asking = sorted(both.iter().flat_map(|r| r.transforms.iter().map(|(p, _)| *p)));
        let mut answer = of(Verdict::deny(), asking)?;
        answer.transforms = snapshot.transforms(&transforms).map(|(name, _)| name.clone()).collect();
        return Some(answer);
    }
    let permits = sorted(both.iter().flat_map(|r| r.permits.iter().copied()));
    if permits.is_empty() {
        let mut answer = of(Verdict::deny(), Vec::new())?;
        answer.determining = vec![well_known(ground::DEFAULT)];
        return Some(answer);
    }
    let rules: Vec<Name> = both.iter().flat_map(|r| r.gates.iter().map(|(_, rule)| (*rule).clone())).collect();
    if rules.is_empty() { of(Verdict::allow(), permits) } else { of(Verdict::needs_approval(rules), sorted(gates())) }
}
