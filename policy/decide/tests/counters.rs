//! Counters: what a question takes, what it only looks at, and what policy sees of both.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod world;

use countersign_gateway_model::{Decision, Timestamp};
use countersign_policy_decide::counters::{self, Counters, Reservation};
use countersign_policy_decide::{PolicySnapshot, Question, ground};
use proptest::prelude::*;
use world::{PERMIT, ask, call, name, parts, read, world};

const COUNTERS: &str = r#"{"counters":{
    "spent":{"unit":"EUR","window_s":86400,"limit":"100.0","reserve":[{"tools":["pay.*"],"amount":{"field":"/amount"}}]},
    "calls":{"unit":"calls","reserve":[{"amount":{"fixed":"1.0"}}]},
    "watched":{}}}"#;

fn snapshot(policies: &str) -> PolicySnapshot {
    let mut parts = parts(policies);
    parts.counters = Counters::parse(COUNTERS.as_bytes()).unwrap().counters;
    PolicySnapshot::build(parts).unwrap_or_else(|e| panic!("{e}"))
}

fn with(mut question: Question, spent: &str) -> Question {
    question.counters =
        [("spent", spent), ("calls", "3.0"), ("watched", "0.0")].map(|(n, v)| (name(n), v.to_owned())).into();
    question
}

fn refund(s: &PolicySnapshot, amount: &str, spent: &str) -> Question {
    with(call(s, "pay.refund", &format!(r#"{{"amount":{amount}}}"#)), spent)
}

#[test]
fn a_question_reserves_its_amount_and_policy_sees_where_the_counter_will_stand() {
    let over = r#"@id("budget") forbid (principal, action == Countersign::Action::"callTool:pay.refund", resource)
        when { context.facts.contains("over:spent") };"#;
    let after = r#"@id("after") forbid (principal, action == Countersign::Action::"callTool:pay.refund", resource)
        when { context.after.spent.greaterThan(decimal("100.0")) && !context.facts.contains("over:spent") };"#;
    let s = snapshot(&format!("{PERMIT}{over}{after}"));
    for (amount, spent, decision) in [
        ("40", "60.0", Decision::Allow),
        ("40.0001", "60.0", Decision::Deny),
        ("0", "100.0", Decision::Allow),
        ("0.0001", "100.0", Decision::Deny),
        ("1", "-5.0", Decision::Allow),
    ] {
        let answer = ask(&s, &world(), &refund(&s, amount, spent));
        assert_eq!(answer.decision(), decision, "{amount} {spent}: {answer:?}");
        assert!(answer.determining.iter().all(|id| id.as_str() != "after"), "the fact is what the decimals say");
    }
    let reserved = s.reservations(&refund(&s, "12.5", "0.0")).unwrap();
    assert_eq!(
        reserved,
        [
            Reservation { counter: name("calls"), amount: 10_000 },
            Reservation { counter: name("spent"), amount: 125_000 },
        ]
    );
    assert_eq!(s.reservations(&with(read(&s), "0.0")).unwrap().len(), 1, "another tool takes from `calls` alone");
}

#[test]
fn a_counter_that_is_only_looked_at_is_named_as_advisory() {
    let relies = r#"@id("relies") forbid (principal, action in Countersign::Action::"callTool", resource)
        when { context.advisory.contains("spent") };"#;
    let s = snapshot(&format!("{PERMIT}{relies}"));
    assert_eq!(ask(&s, &world(), &refund(&s, "1", "0.0")).decision(), Decision::Allow, "reserved");
    assert_eq!(ask(&s, &world(), &with(read(&s), "0.0")).decision(), Decision::Deny, "advisory");
}

#[test]
fn a_counter_that_is_not_known_and_an_amount_that_cannot_be_reserved_deny() {
    let s = snapshot(PERMIT);
    let absent = read(&s);
    assert_eq!(ask(&s, &world(), &absent).determining, [name(ground::INVALID)]);
    for spent in ["", "1", "1.00001", "x", "1e3", "9999999999999999.0"] {
        assert_eq!(ask(&s, &world(), &with(read(&s), spent)).determining, [name(ground::INVALID)], "{spent}");
    }
    // A negative amount would give budget back, an inexact one would take another amount than is spent.
    for amount in ["-1", "0.00001", "1e300"] {
        let question = refund(&s, amount, "0.0");
        assert_eq!(ask(&s, &world(), &question).determining, [name(ground::INVALID)], "{amount}");
        assert!(s.reservations(&question).is_err());
    }
}

#[test]
fn windows_begin_at_the_epoch_and_data_that_could_not_hold_does_not_load() {
    let counters = Counters::parse(COUNTERS.as_bytes()).unwrap().counters;
    let spent = counters.get("spent").unwrap();
    assert_eq!(spent.window_start(Timestamp(86_400_000 * 3 + 5)), Timestamp(86_400_000 * 3));
    assert_eq!(counters.get("calls").unwrap().window_start(Timestamp(7)), Timestamp(0));
    for wrong in [
        r#"{"window_s":0}"#,
        r#"{"limit":"1000"}"#,
        r#"{"reserve":[{"amount":{"fixed":"-1.0"}}]}"#,
        r#"{"reserve":[{"amount":{"field":"amount"}}]}"#,
        r#"{"reserve":[{"tools":[],"amount":{"fixed":"1.0"}}]}"#,
        r#"{"reserves":[]}"#,
    ] {
        assert!(Counters::parse(format!(r#"{{"counters":{{"c":{wrong}}}}}"#).as_bytes()).is_err(), "{wrong}");
    }
}

proptest! {
    #[test]
    fn decimal_text_and_ten_thousandths_are_one_another_s_inverse(units in -9_000_000_000_000_000_i64..9_000_000_000_000_000) {
        let text = counters::decimal(units.into());
        prop_assert_eq!(counters::units(&text), Some(units.into()), "{}", text);
    }
}
