//! Policies in shadow are judged beside the real answer and never change it.

#![expect(clippy::unwrap_used, reason = "tests")]

mod world;

use countersign_gateway_model::{Decision, Name, Timestamp, Verdict};
use countersign_policy_decide::{Answer, BuildError, PolicySnapshot, combine_would_be};
use world::{NOW, PERMIT, ask, gate, name, parts, read, world};

fn shadowed(policies: &str, ids: &[&str], until: Timestamp) -> Result<PolicySnapshot, BuildError> {
    let mut parts = parts(policies);
    parts.shadow = ids.iter().map(|id| (name(id), until)).collect();
    PolicySnapshot::build(parts)
}

const LATER: Timestamp = Timestamp(NOW.0 + 1);
const HARD: &str = r#"@id("no") forbid (principal, action in Countersign::Action::"callTool", resource);"#;

fn ids(names: &[Name]) -> Vec<&str> {
    names.iter().map(Name::as_str).collect()
}

fn asked(s: &PolicySnapshot) -> Answer {
    ask(s, &world(), &read(s))
}

#[test]
fn a_forbid_in_shadow_denies_nothing_and_is_recorded_beside_the_answer() {
    let s = shadowed(&format!("{PERMIT}{HARD}"), &["no"], LATER).unwrap();
    let answer = asked(&s);
    assert_eq!((answer.decision(), ids(&answer.determining)), (Decision::Allow, vec!["permit"]));
    let beside = answer.would_be.clone().unwrap();
    assert_eq!(
        (beside.verdict, ids(&beside.determining), ids(&beside.shadow)),
        (Verdict::deny(), vec!["no"], vec!["no"])
    );
    let (verdict, _) = combine_would_be(&[answer]).unwrap();
    assert_eq!(verdict.decision, Decision::Deny);
}

#[test]
fn a_permit_in_shadow_permits_nothing() {
    let s = shadowed(PERMIT, &["permit"], LATER).unwrap();
    let answer = asked(&s);
    assert_eq!(answer.decision(), Decision::Deny);
    assert_eq!(answer.would_be.unwrap().verdict, Verdict::allow());
}

#[test]
fn a_gate_in_shadow_asks_nobody_and_adds_its_rule_to_the_answer_beside() {
    let s = shadowed(&format!("{PERMIT}{}{}", gate("one", "a", ""), gate("two", "b", "")), &["two"], LATER).unwrap();
    let answer = asked(&s);
    assert_eq!((answer.verdict.rules.clone(), answer.rounds), (vec![name("a")], 2));
    assert_eq!(answer.would_be.unwrap().verdict.rules, [name("a"), name("b")]);
}

#[test]
fn an_error_of_a_policy_in_shadow_is_an_error_beside_and_not_a_denial() {
    let broken = r#"@id("broken") forbid (principal is Countersign::Agent, action in Countersign::Action::"callTool", resource)
        when { principal.autonomy * 9223372036854775807 > 5 };"#;
    let answer = asked(&shadowed(&format!("{PERMIT}{broken}"), &["broken"], LATER).unwrap());
    assert_eq!((answer.decision(), answer.verdict.error), (Decision::Allow, false));
    assert!(answer.would_be.unwrap().verdict.error);
}

#[test]
fn where_no_policy_in_shadow_concerns_the_question_nothing_stands_beside() {
    let idle = r#"@id("idle") forbid (principal, action in Countersign::Action::"callTool", resource) when { context.denials > 5 };"#;
    let answer = asked(&shadowed(&format!("{PERMIT}{idle}"), &["idle"], LATER).unwrap());
    assert_eq!((answer.decision(), answer.would_be.clone()), (Decision::Allow, None));
    assert_eq!(combine_would_be(&[answer]), None);
}

#[test]
fn shadow_ends_at_its_instant_without_anything_being_activated() {
    for (until, decision) in [(LATER, Decision::Allow), (NOW, Decision::Deny), (Timestamp(0), Decision::Deny)] {
        let s = shadowed(&format!("{PERMIT}{HARD}"), &["no"], until).unwrap();
        let answer = asked(&s);
        assert_eq!(answer.decision(), decision, "{until}");
        assert_eq!(answer.would_be.is_some(), decision == Decision::Allow);
    }
}

#[test]
fn what_must_always_hold_cannot_be_put_into_shadow() {
    let hard = HARD.replace("@id", r#"@severity("hard") @id"#);
    for (policies, id) in [
        (format!("{PERMIT}{hard}"), "no"),
        (PERMIT.to_owned(), "kernel:inactive-principal"),
        (PERMIT.to_owned(), "nothing"),
    ] {
        let error = shadowed(&policies, &[id], LATER).unwrap_err();
        assert!(matches!(error, BuildError::Shadow { .. }), "{id}: {error}");
    }
}

#[test]
fn a_no_is_firm_if_it_holds_for_workflows_in_shadow_too() {
    let hard = HARD.replace("@id", r#"@severity("hard") @id"#);
    let hard_gate = gate("g", "a", "").replace("@id", r#"@severity("hard") @id"#);
    let broken = r#"@id("broken") forbid (principal is Countersign::Agent, action in Countersign::Action::"callTool", resource)
        when { principal.autonomy * 9223372036854775807 > 5 };"#;
    for (policies, decision, firm) in [
        (PERMIT.to_owned(), Decision::Allow, false),
        (format!("{PERMIT}{HARD}"), Decision::Deny, false),
        (format!("{PERMIT}{hard}"), Decision::Deny, true),
        (format!("{PERMIT}{}", gate("g", "a", "")), Decision::NeedsApproval, false),
        (format!("{PERMIT}{hard_gate}"), Decision::NeedsApproval, true),
        // A soft no hides no hard gate.
        (format!("{PERMIT}{HARD}{hard_gate}"), Decision::Deny, true),
        (hard_gate.clone(), Decision::Deny, true),
        (format!("{PERMIT}{broken}"), Decision::Deny, true),
        // That nothing permits it is a judgement of the bundle's.
        (gate("g", "a", ""), Decision::Deny, false),
    ] {
        let answer = asked(&PolicySnapshot::build(parts(&policies)).unwrap());
        assert_eq!((answer.decision(), answer.firm), (decision, firm), "{policies}");
    }
}
