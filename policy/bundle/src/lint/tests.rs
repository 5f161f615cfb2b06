//! Every lint rule, by a policy that breaks it and one that does not.
#![expect(clippy::unwrap_used, reason = "tests")]

use countersign_gateway_model::Timestamp;

use super::*;
use crate::files::FilePath;
use crate::finding::Severity;

fn lint_text(text: &str, rules: &[&str], shadow: &Shadow) -> Vec<(RuleId, Severity, String)> {
    let mut findings = Vec::new();
    let policies = crate::source::parse(&FilePath::new("policies.cedar").unwrap(), &text.into(), &mut findings);
    assert!(findings.is_empty(), "{findings:?}");
    let rules = rules.iter().map(|r| Name::new(r).unwrap()).collect();
    let found = lint(&policies, Some(&rules), shadow);
    for finding in &found {
        assert!(!finding.message.is_empty() && !finding.next_step.is_empty(), "{finding}");
    }
    found.into_iter().map(|f| (f.rule, f.severity, f.place.to_string())).collect()
}

const GATE: &str = r#"@id("g")
@requires_approval("r")
forbid (principal, action, resource)
when { context.denials > 1 }
unless { context.satisfied.contains(Countersign::ApprovalRule::"r") };
"#;

fn rules_of(text: &str) -> Vec<RuleId> {
    lint_text(&format!("{GATE}{text}"), &["r"], &Shadow::default()).into_iter().map(|(rule, ..)| rule).collect()
}

#[test]
fn a_gate_in_its_one_shape_passes() {
    assert_eq!(lint_text(GATE, &["r"], &Shadow::default()), []);
    assert_eq!(
        rules_of(
            r#"@id("t") @transform("mask") forbid(principal, action, resource) unless { context.applied.contains("mask") };"#
        ),
        []
    );
}

#[test]
fn an_approval_annotation_without_its_enforcement_is_an_error() {
    let gate = |annotation: &str, effect: &str, conditions: &str| {
        rules_of(&format!("@id(\"x\") {annotation} {effect}(principal, action, resource) {conditions};"))
    };
    let own = r#"@requires_approval("r")"#;
    let clause = r#"context.satisfied.contains(Countersign::ApprovalRule::"r")"#;
    for conditions in [
        String::new(),
        "unless { true }".to_owned(),
        format!("when {{ {clause} }}"),
        format!("when {{ !({clause}) }}"),
        format!("unless {{ {clause} || context.denials > 1 }}"),
        format!("unless {{ {clause} }} unless {{ context.denials > 1 }}"),
        r#"unless { context.satisfied.contains(Countersign::ApprovalRule::"other") }"#.to_owned(),
        r#"unless { context.overridden.contains(Countersign::ApprovalRule::"r") }"#.to_owned(),
        r#"unless { context.satisfied.containsAny([Countersign::ApprovalRule::"r"]) }"#.to_owned(),
    ] {
        assert!(gate(own, "forbid", &conditions).contains(&RuleId::GateShape), "{conditions}");
    }
    assert_eq!(gate(own, "permit", ""), [RuleId::GateOnPermit]);
    assert!(gate("", "forbid", &format!("unless {{ {clause} }}")).contains(&RuleId::ReservedFact), "no annotation");
    assert!(
        gate(r#"@requires_approval("r") @transform("r")"#, "forbid", &format!("unless {{ {clause} }}"))
            .contains(&RuleId::GateShape)
    );
    assert!(gate(r#"@requires_approval("not a name")"#, "forbid", "").contains(&RuleId::GateShape));
}

#[test]
fn counted_facts_are_read_only_where_they_may_be_however_they_are_spelled() {
    let policy = |effect: &str, body: &str| {
        rules_of(&format!("@id(\"x\") {effect}(principal, action, resource) when {{ {body} }};"))
    };
    for body in [
        "context.satisfied.isEmpty()",
        r#"context["satisfied"].isEmpty()"#,
        "context has satisfied",
        r#"context has "satisfied""#,
        "if true then context.satisfied.isEmpty() else false",
        "[context.satisfied].contains(context.satisfied)",
        "{a: context.applied} has b",
    ] {
        assert!(policy("forbid", body).contains(&RuleId::ReservedFact), "{body}");
        assert!(policy("permit", body).contains(&RuleId::ReservedFact), "{body}");
    }
    for body in ["context.overridden.isEmpty()", "context.granted.isEmpty()"] {
        assert_eq!(policy("forbid", body), [], "{body}");
        assert_eq!(policy("permit", body), [RuleId::ReservedFact], "{body}");
    }
    for body in ["{a: context}.a has b", "context == context", "(if true then context else context) has now"] {
        assert!(policy("forbid", body).contains(&RuleId::WholeContext), "{body}");
    }
    assert!(
        policy("permit", "(if true then context else context).satisfied.isEmpty()").contains(&RuleId::ReservedFact)
    );
    assert_eq!(policy("permit", r#"context.claims.contains("satisfied") && context.now > context.now"#), []);
}

#[test]
fn ids_are_unique_and_findings_say_where() {
    let text = format!(
        "{GATE}@id(\"a\") permit(principal, action, resource);\n  @id(\"a\") permit(principal, action, resource) when {{ true }};"
    );
    let found = lint_text(&text, &["r"], &Shadow::default());
    assert_eq!(found, [(RuleId::PolicyId, Severity::Error, "policies.cedar:7:3".to_owned())]);
}

#[test]
fn rules_in_policies_and_data_are_the_same() {
    assert_eq!(lint_text(GATE, &[], &Shadow::default())[0].0, RuleId::RulesUsed);
    assert_eq!(lint_text(GATE, &[], &Shadow::default())[0].2, "policies.cedar:2:2");
    let found = lint_text(GATE, &["r", "s"], &Shadow::default());
    assert_eq!(found, [(RuleId::RulesUsed, Severity::Error, "rules.json:1:1".to_owned())]);
}

#[test]
fn a_forbid_that_can_fail_is_named_and_a_permit_is_not() {
    for body in [
        "context.denials + 1 > 3",
        "context.denials * 2 > 3",
        "-context.denials < 0",
        "context.denials - 1 > 3",
        "context.now.offset(duration(\"1h\")) > context.now",
        "context.now.durationSince(context.now) > duration(\"1h\")",
    ] {
        let policy = |effect| rules_of(&format!("@id(\"x\") {effect}(principal, action, resource) when {{ {body} }};"));
        assert_eq!(policy("forbid"), [RuleId::ForbidCanError], "{body}");
        assert_eq!(policy("permit"), [], "{body}");
    }
}

#[test]
fn what_never_applies_or_says_the_same_is_named() {
    let wall = r#"@id("w") forbid(principal, action in [Countersign::Action::"a", Countersign::Action::"b"], resource is Countersign::Tool);"#;
    for (permit, covered) in [
        (r#"permit(principal, action == Countersign::Action::"a", resource is Countersign::Tool)"#, true),
        (
            r#"permit(principal is Countersign::Agent, action == Countersign::Action::"b", resource == Countersign::Tool::"t") when { context.denials > 1 }"#,
            true,
        ),
        (r#"permit(principal, action in [Countersign::Action::"b"], resource is Countersign::Tool)"#, true),
        (r#"permit(principal, action == Countersign::Action::"c", resource is Countersign::Tool)"#, false),
        (
            r#"permit(principal, action in [Countersign::Action::"a", Countersign::Action::"c"], resource is Countersign::Tool)"#,
            false,
        ),
        (r#"permit(principal, action == Countersign::Action::"a", resource)"#, false),
        ("permit(principal, action, resource is Countersign::Tool)", false),
    ] {
        let found = rules_of(&format!("{wall}@id(\"p\") {permit};"));
        assert_eq!(found.contains(&RuleId::Unreachable), covered, "{permit}");
    }
    assert_eq!(
        rules_of(
            r#"@id("a") permit(principal, action, resource) when { true }; @id("b") @title("x") permit(principal, action, resource) when { true };"#
        ),
        [RuleId::Duplicate]
    );
}

#[test]
fn annotations_that_mean_nothing_are_named() {
    let policy = |annotation: &str, effect: &str| {
        rules_of(&format!(
            "@id(\"x\") {annotation} {effect}(principal, action, resource) when {{ context.denials > 1 }};"
        ))
    };
    assert_eq!(policy(r#"@severity("soft")"#, "forbid"), [RuleId::Annotation]);
    assert_eq!(policy(r#"@severity("hard")"#, "permit"), [RuleId::Annotation]);
    assert_eq!(policy(r#"@severity("hard")"#, "forbid"), []);
    assert_eq!(policy(r#"@require_approval("r")"#, "forbid"), [RuleId::Annotation]);
    assert_eq!(policy(r#"@x_team("core")"#, "forbid"), []);
    assert_eq!(policy(r#"@agent_message("")"#, "forbid"), [RuleId::Annotation]);
    assert_eq!(policy(r#"@agent_message("a\nb")"#, "forbid"), [RuleId::Annotation]);
    assert_eq!(policy(r#"@agent_message("no")"#, "permit"), [RuleId::Annotation]);
}

#[test]
fn shadow_names_policies_that_exist_and_are_not_hard() {
    let shadow = |id: &str| Shadow {
        policies: vec![Shadowed { id: Name::new(id).unwrap(), until: Timestamp(1) }],
        workflows: vec![],
    };
    let text = format!(
        "{GATE}@id(\"h\") @severity(\"hard\") forbid(principal, action, resource) when {{ context.delegated }};"
    );
    assert_eq!(lint_text(&text, &["r"], &shadow("g")), []);
    assert_eq!(lint_text(&text, &["r"], &shadow("h"))[0].0, RuleId::Shadow);
    assert_eq!(lint_text(&text, &["r"], &shadow("nobody"))[0].0, RuleId::Shadow);
}
