//! Why a decision that is on record has no effect: a problem (RFC 9457) inside a good answer.
//!
//! An attempt is evidence, so it is committed and answered with its receipt and status 200; what it did not do is said as
//! everywhere else, by a code that has a page. Absent: who may decide (policy and the engine).

use countersign_gateway_engine::{Effect, WhyNot};
use serde::Serialize;
use utoipa::ToSchema;

use crate::pages::page;
use crate::problem::POLICY_DENIED;

/// Why a decision on record has no effect: a problem without a status, because the request itself was carried out.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "type": "/problems/acting-chain", "title": "Whoever decides acts here", "code": "acting-chain"
}))]
pub(crate) struct NoEffect {
    /// Leads to its page.
    #[serde(rename = "type")]
    place: String,
    /// One line, the same for every occurrence.
    #[schema(value_type = String)]
    title: &'static str,
    /// Stable name. `acting-chain`: they act, or somebody acts on their behalf. `decider-involved`: as initiator, owner,
    /// issuer or accountable person, or as author of the change. `decider-refused`: policy does not let them.
    /// `decider-not-named`: the rule's data does not name them among those who may lift it. `policy-error`: policy could not
    /// be evaluated. `policy-denied`: by now policy denies what the gate is about, and the gate is rejected. `gate-stale`:
    /// what the gate rested on has changed. More words may come.
    #[schema(value_type = String)]
    code: &'static str,
}

impl NoEffect {
    /// What is said of a decision; nothing of one that counts.
    pub(crate) fn of(effect: Effect, why: Option<WhyNot>) -> Option<Self> {
        let code = match (effect, why) {
            (_, Some(why)) => why.code(),
            (Effect::HardDenied, None) => POLICY_DENIED.code,
            _ => return None,
        };
        let title = page(code).map_or(code, |page| page.title);
        Some(Self { place: format!("/problems/{code}"), title, code })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_told_with_its_own_page_and_what_counts_has_none() {
        for why in WhyNot::ALL {
            let told = NoEffect::of(Effect::NotEligible, Some(why)).unwrap();
            assert_eq!((told.code, told.place), (why.code(), format!("/problems/{}", why.code())));
            assert_eq!(told.title, page(why.code()).unwrap().title);
        }
        assert_eq!(NoEffect::of(Effect::HardDenied, None).unwrap().code, "policy-denied");
        assert!(NoEffect::of(Effect::Counted, None).is_none() && NoEffect::of(Effect::Resolving, None).is_none());
    }
}
