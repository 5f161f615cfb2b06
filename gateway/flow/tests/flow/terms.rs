//! The terms of a grant and its entry: amounts as people write them are the amounts that are counted.

use countersign_gateway_flow::terms_differ;
use countersign_gateway_model::{Digest, Duration, GrantId, Name, Timestamp};
use countersign_ledger_entry::body::{Reservation, TaskGrant};
use proptest::prelude::*;
use serde_json::json;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn differs(text: &str, amount: u64) -> Option<&'static str> {
    let terms = json!({
        "rule": "r", "uses": 1, "for_s": 1, "budget": { "counter": "c", "amount": text }, "tools": { "t": {} },
    });
    let grant = TaskGrant {
        grant: GrantId::from_bytes([1; 16]),
        rule: name("r"),
        tools: vec![name("t")],
        scope: Digest([0; 32]),
        count: 1,
        budget: Some(Reservation { counter: name("c"), version: 0, amount }),
        until: Timestamp(1000),
        approvers: Vec::new(),
        revoked: false,
    };
    terms_differ(terms.to_string().as_bytes(), &grant, Duration(1000))
}

proptest! {
    #[test]
    fn an_amount_is_read_as_it_is_written(amount in 1..u64::MAX, other in 1..u64::MAX) {
        let text = format!("{}.{:04}", amount / 10_000, amount % 10_000);
        prop_assert_eq!(differs(&text, amount), None);
        let short = text.trim_end_matches('0');
        let short = if short.ends_with('.') { format!("{short}0") } else { short.to_owned() };
        prop_assert_eq!(differs(&short, amount), None);
        if other != amount {
            prop_assert_eq!(differs(&text, other), Some("its terms have another budget"));
        }
    }
}

#[test]
fn what_is_no_amount_is_none() {
    for text in
        ["", "1", "1.", ".1", "-1.0", "+1.0", "1.00000", "1e3.0", " 1.0", "1.0 ", "1.0.0", "1844674407370955.1616"]
    {
        for amount in [1, 10_000, 10_000_000, u64::MAX] {
            assert!(differs(text, amount).is_some(), "{text:?}");
        }
    }
}
