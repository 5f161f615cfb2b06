//! The terms of a task grant and its entry: what both say must be the same.
//!
//! People read the terms, and their signatures are over the terms' digest; uses are counted by the entry's own numbers. Whoever
//! has both holds one to the other here: the engine before it counts on terms, the verifier where a pack discloses them.
//! Absent: what the terms say of a tool's input, which the entry does not (`policy/decide`).

use std::collections::BTreeMap;

use countersign_gateway_model::{Duration, Name};
use countersign_ledger_entry::body::TaskGrant;
use serde::Deserialize;
use serde_json::Value;

/// What the terms say that the entry says, too.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stated {
    rule: Name,
    uses: u32,
    for_s: u64,
    budget: Option<StatedBudget>,
    tools: BTreeMap<Name, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StatedBudget {
    counter: Name,
    amount: String,
}

/// What the entry that asks for `grant`, which lasts for `lasts` once it is given, says other than its terms, the content of
/// the payload that it names; none: the same.
pub fn terms_differ(content: &[u8], grant: &TaskGrant, lasts: Duration) -> Option<&'static str> {
    let Ok(stated) = serde_json::from_slice::<Stated>(content) else { return Some("its terms cannot be read") };
    let budget = match (&stated.budget, &grant.budget) {
        (None, None) => true,
        (Some(stated), Some(counted)) => {
            stated.counter == counted.counter && ten_thousandths(&stated.amount) == Some(counted.amount)
        }
        _ => false,
    };
    if stated.rule != grant.rule {
        Some("its terms are of another rule")
    } else if !stated.tools.keys().eq(&grant.tools) {
        Some("its terms are for other tools")
    } else if stated.uses != grant.count {
        Some("its terms allow another number of uses")
    } else if !budget {
        Some("its terms have another budget")
    } else if Duration::from_secs(stated.for_s) != lasts {
        Some("its terms last for another time")
    } else {
        None
    }
}

/// Decimal text as counters count: digits, a point, one to four places.
fn ten_thousandths(text: &str) -> Option<u64> {
    let (whole, places) = text.split_once('.')?;
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(places) || places.len() > 4 {
        return None;
    }
    whole.parse::<u64>().ok()?.checked_mul(10_000)?.checked_add(format!("{places:0<4}").parse().ok()?)
}
