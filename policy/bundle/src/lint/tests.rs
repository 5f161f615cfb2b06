//! Every lint rule, by a policy that breaks it and one that does not.
#![expect(clippy::unwrap_used, reason = "tests")]

use countersign_gateway_model::Timestamp;

use super::*;
use crate::Draft;
use crate::files::FilePath;
use crate::finding::Severity;

fn lint_text(text: &str, rules: &[&str], shadow: &Shadow) -> Vec<(RuleId, Severity, String)> {
    let mut findings = Vec::new();
    let policies = crate::source::parse(&FilePath::new("policies.cedar").unwrap(), &text.into(), &mut findings);
    assert!(findings.is_empty(), "{findings:?}");
    let rules = rules.iter().map(|r| Name::new(r).unwrap()).collect();
    let found = lint(&bundle(shadow), &policies, Some(&rules), &BTreeSet::from([Name::new("held").unwrap()]));
    for finding in &found {
        assert!(!finding.message.is_empty() && !finding.next_step.is_empty(), "{finding}");
    }
    found.into_iter().map(|f| (f.rule, f.severity, f.place.to_string())).collect()
}

fn bundle(shadow: &Shadow) -> Bundle {
    let settings = crate::Settings { shadow: shadow.clone(), ..crate::Settings::default() };
    let lineage = crate::Lineage { organization: ORG, version: 1, predecessor: None, root_version: 1 };
    Draft { settings, ..Draft::default() }.seal(lineage).unwrap()
}

const ORG: OrgId = OrgId::from_bytes([1; 16]);

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
        r#"{"Value": context.satisfied}["Value"].isEmpty()"#,
        r#"{".": context.satisfied}["."].isEmpty()"#,
        r#"{"has": context.satisfied}["has"].isEmpty()"#,
        r#"{"Var": context.satisfied}["Var"].isEmpty()"#,
        r#"{"Record": {"Value": context.satisfied}}["Record"]["Value"].isEmpty()"#,
    ] {
        assert!(policy("forbid", body).contains(&RuleId::ReservedFact), "{body}");
        assert!(policy("permit", body).contains(&RuleId::ReservedFact), "{body}");
    }
    for body in ["context.overridden.isEmpty()", "context.granted.isEmpty()"] {
        assert_eq!(policy("forbid", body), [], "{body}");
        assert_eq!(policy("permit", body), [RuleId::ReservedFact], "{body}");
    }
    for body in [
        r#"{"Value": context}["Value"] has b"#,
        "{a: context}.a has b",
        "context == context",
        "(if true then context else context) has now",
    ] {
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
            "@id(\"x\") {annotation} {effect}(principal, action, resource) when {{ context.denials > 7 }};"
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

#[test]
fn a_forbid_that_can_fail_says_how_to_write_it_safely() {
    let text = r#"@id("x") forbid(principal, action, resource) when { context.denials + 1 > 3 };"#;
    let mut findings = Vec::new();
    let policies = crate::source::parse(&FilePath::new("policies.cedar").unwrap(), &text.into(), &mut findings);
    let found = lint(&bundle(&Shadow::default()), &policies, None, &BTreeSet::new());
    assert_eq!(found[0].place.to_string(), "policies.cedar:1:69");
    assert!(found[0].next_step.contains("a > 9"), "{}", found[0]);
    let safe = r#"@id("x") forbid(principal, action, resource) when { context.denials > 2 };"#;
    assert_eq!(rules_of(safe), []);
}

#[test]
fn a_forbid_on_a_counter_that_nothing_reserves_is_named() {
    let policy = |effect: &str, body: &str| {
        rules_of(&format!("@id(\"x\") {effect}(principal, action, resource) when {{ {body} }};"))
    };
    for body in [
        r#"context.counters.spent.greaterThan(decimal("5.0"))"#,
        r#"context.counters["spent"].greaterThan(decimal("5.0"))"#,
        r#"context["counters"].spent.greaterThan(decimal("5.0"))"#,
        "context.counters has spent",
        r#"context.after.spent.greaterThan(decimal("5.0"))"#,
        r#"context.facts.contains("over:spent")"#,
        r#"context.facts.containsAny(["a", "over:spent"])"#,
    ] {
        assert_eq!(policy("forbid", body), [RuleId::AdvisoryCounter], "{body}");
        assert_eq!(policy("forbid", &body.replace("spent", "held")), [], "what is reserved is exact: {body}");
        assert_eq!(policy("permit", body), [], "a permit that is too generous is stopped by forbids: {body}");
    }
    assert_eq!(policy("forbid", "context.denials > 5"), [], "an instance's own refusals are counted one by one");
}

#[test]
fn a_policy_that_another_one_makes_superfluous_is_named() {
    let tool = "resource is Countersign::Tool";
    for (outer, inner, found) in [
        (
            format!("permit(principal, action, {tool})"),
            format!("permit(principal is Countersign::Agent, action, {tool})"),
            true,
        ),
        (
            format!("permit(principal, action, {tool})"),
            format!("permit(principal, action, {tool}) when {{ context.delegated }}"),
            true,
        ),
        (
            format!("permit(principal, action, {tool}) when {{ context.delegated }}"),
            format!(
                "permit(principal is Countersign::Agent, action, {tool}) when {{ context.delegated }} unless {{ context.asserted }}"
            ),
            true,
        ),
        (
            format!("forbid(principal, action, {tool})"),
            format!(
                "@requires_approval(\"r\") forbid(principal, action, {tool}) when {{ context.delegated }} unless {{ context.satisfied.contains(Countersign::ApprovalRule::\"r\") }}"
            ),
            true,
        ),
        (
            format!("forbid(principal, action, {tool})"),
            "permit(principal is Countersign::Agent, action, resource)".to_owned(),
            false,
        ),
        (
            format!("permit(principal, action, {tool}) when {{ context.delegated }}"),
            format!("permit(principal, action, {tool}) when {{ context.asserted }}"),
            false,
        ),
        (
            format!("permit(principal, action, {tool}) when {{ context.delegated }}"),
            format!("permit(principal, action, {tool}) unless {{ context.delegated }}"),
            false,
        ),
        (
            format!("permit(principal == Countersign::Agent::\"{ORG}/a\", action, resource)"),
            "permit(principal, action, resource) when { context.delegated }".to_owned(),
            false,
        ),
    ] {
        let found_rules = rules_of(&format!("@id(\"o\") {outer};@id(\"i\") {inner};"));
        assert_eq!(found_rules.contains(&RuleId::Redundant), found, "{outer}\n{inner}\n{found_rules:?}");
    }
    let hard = "@id(\"h\") forbid(principal, action, resource) when { context.delegated };";
    assert_eq!(rules_of(hard), [], "the gate asks about other questions");
}

fn of_rules(rules: &str, gate: &str, tools: &str) -> Vec<(RuleId, Severity, String)> {
    let mut findings = Vec::new();
    let policies = crate::source::parse(&FilePath::new("policies.cedar").unwrap(), &gate.into(), &mut findings);
    let text = format!("{{\"rules\":\n{{\"r\":{rules}}}}}");
    let rules = countersign_policy_decide::rules::Rules::parse(text.as_bytes()).unwrap();
    let catalogue = countersign_policy_decide::catalogue::Catalogue::parse(tools.as_bytes()).unwrap();
    approval::lint(&rules, &text, &policies, Some(&catalogue), &mut findings);
    approval::beyond(&rules, &text, &mut findings);
    findings.into_iter().map(|f| (f.rule, f.severity, f.place.to_string())).collect()
}

#[test]
fn what_a_rule_does_after_its_gate_has_ended_is_named() {
    let rule = |rest: &str| of_rules(&format!(r#"{{"authority":{{"roles":["A"]}},{rest}}}"#), GATE, r#"{"tools":[]}"#);
    let late = |place: &str| vec![(RuleId::RuleTimes, Severity::Warning, place.to_owned())];
    assert_eq!(rule(r#""timeout_s":60,"reminders_s":[10,60]"#), late("rules.json:2:50"));
    let escalation = r#""escalation":[{"after_s":90,"authority":{"roles":["B"]}}]"#;
    assert_eq!(rule(&format!(r#""timeout_s":60,{escalation}"#)), late("rules.json:2:50"));
    assert_eq!(rule(r#""timeout_s":86400,"validity_s":60,"quorum":{"persons":2}"#), late("rules.json:2:53"));
    for good in [
        r#""timeout_s":60,"reminders_s":[10,59]"#,
        r#""reminders_s":[10,6000]"#,
        &format!(r#""timeout_s":91,{escalation}"#),
        r#""timeout_s":86400,"validity_s":60"#,
        r#""timeout_s":86400,"validity_s":3600,"quorum":{"persons":2}"#,
    ] {
        assert_eq!(rule(good), [], "{good}");
    }
}

#[test]
fn a_quorum_that_nobody_could_ever_meet_is_an_error() {
    let rule = |authority: &str, quorum: &str| {
        let rule = format!(r#"{{"authority":{authority},"quorum":{quorum}}}"#);
        of_rules(&rule, GATE, r#"{"tools":[]}"#)
            .into_iter()
            .map(|(rule, severity, _)| (rule, severity))
            .collect::<Vec<_>>()
    };
    let (error, warning) = ((RuleId::Quorum, Severity::Error), (RuleId::Quorum, Severity::Warning));
    let two = r#"{"persons":2,"distinct_teams":2}"#;
    assert_eq!(rule(r#"{"teams":["a"]}"#, two), [error]);
    assert_eq!(rule(r#"{"teams":["a","b"]}"#, two), []);
    assert_eq!(rule(r#"{"teams":["a"],"roles":["LEAD"]}"#, two), []);
    let legal = r#"{"persons":1,"groups":["legal"]}"#;
    assert_eq!(rule(r#"{"roles":["LEAD"]}"#, legal), [warning]);
    assert_eq!(rule(r#"{"roles":["LEAD"],"groups":["legal"]}"#, legal), []);
    assert_eq!(rule(r#"{"groups":["legal"]}"#, r#"{"persons":1,"groups":["legal","legal"]}"#), [warning]);
}

#[test]
fn what_a_gate_cannot_hold_people_to_is_an_error_and_not_silence() {
    let policies = format!("{GATE}\n{LIFTS}");
    let rule =
        |rest: &str| of_rules(&format!(r#"{{"authority":{{"roles":["A"]}},{rest}}}"#), &policies, r#"{"tools":[]}"#);
    for (bad, column) in [
        (r#""veto":false"#, 35),
        (r#""quorum":{"persons":3,"distinct_teams":2}"#, 57),
        (r#""quorum":{"persons":2,"distinct_teams":1}"#, 57),
        (r#""quorum":{"persons":256}"#, 35),
    ] {
        let place = format!("rules.json:2:{column}");
        assert_eq!(rule(bad), [(RuleId::Unsupported, Severity::Error, place)], "{bad}");
    }
    for good in [
        r#""demand":{"assertion":true,"assurance":"password","fresh_s":60}"#,
        r#""demand":{"fresh_s":60,"assurance":"mfa"}"#,
        r#""veto":true"#,
        r#""break_glass":{"authority":{"roles":["B"]},"review_within_s":60}"#,
        r#""quorum":{"persons":3,"distinct_teams":3}"#,
        r#""quorum":{"persons":255}"#,
    ] {
        assert_eq!(rule(good), [], "{good}");
    }
}

#[test]
fn whoever_is_to_be_notified_and_is_not_is_named() {
    let rule = |circle: &str| {
        let rule = format!(r#"{{"authority":{{"roles":["A"]}},"escalation":[{circle}]}}"#);
        of_rules(&rule, GATE, r#"{"tools":[]}"#)
    };
    let circle = r#""after_s":60,"authority":{"roles":["B"]}"#;
    assert_eq!(rule(&format!("{{{circle}}}")), []);
    let found = rule(&format!(r#"{{{circle},"notify":["mail"]}}"#));
    assert_eq!(found, [(RuleId::Unsupported, Severity::Warning, "rules.json:2:91".to_owned())]);
}

/// Somebody may lift rules.
const LIFTS: &str = r#"@id("p") permit(principal, action == Countersign::Action::"breakGlass", resource);"#;

#[test]
fn a_rule_that_may_be_lifted_is_lifted_by_somebody() {
    let found = |permit: &str| {
        let rule = r#"{"authority":{"roles":["A"]},"break_glass":{"authority":{"roles":["B"]},"review_within_s":60}}"#;
        of_rules(rule, &format!("{GATE}\n{permit}"), r#"{"tools":[]}"#)
    };
    let warned = [(RuleId::BreakGlass, Severity::Warning, "rules.json:2:35".to_owned())];
    assert_eq!(found(""), warned);
    assert_eq!(found(&LIFTS.replace("breakGlass", "approve")), warned);
    assert_eq!(found(&LIFTS.replace("permit", "forbid")), warned);
    for permit in [LIFTS.to_owned(), LIFTS.replace("== Countersign::Action::\"breakGlass\"", "")] {
        assert_eq!(found(&permit), [], "{permit}");
    }
    assert_eq!(found(&LIFTS.replace("== ", "in ").replace("breakGlass", "decide")), []);
}

#[test]
fn a_lifted_rule_is_reviewed_in_a_time_in_which_people_can_and_will() {
    let found = |seconds: u64| {
        let glass = format!(r#""break_glass":{{"authority":{{"roles":["B"]}},"review_within_s":{seconds}}}"#);
        of_rules(
            &format!(r#"{{"authority":{{"roles":["A"]}},{glass}}}"#),
            &format!("{GATE}\n{LIFTS}"),
            r#"{"tools":[]}"#,
        )
    };
    for seconds in [0, 59, 366 * 86_400 + 1, 1 << 52] {
        assert_eq!(found(seconds), [(RuleId::RuleTimes, Severity::Error, "rules.json:2:78".to_owned())], "{seconds}");
    }
    for seconds in [60, 86_400, 366 * 86_400] {
        assert_eq!(found(seconds), [], "{seconds}");
    }
}

#[test]
fn a_rule_that_can_be_met_in_advance_is_met_by_somebody_and_for_something() {
    let found = |bounds: &str, permit: &str| {
        let rule = format!(r#"{{"authority":{{"roles":["A"]}},"grantable":{bounds}}}"#);
        of_rules(&rule, &format!("{GATE}\n{permit}"), r#"{"tools":[]}"#)
    };
    let permit = |action: &str| format!("@id(\"p\") permit(principal, {action}, resource);");
    let grants = permit(r#"action == Countersign::Action::"grantTask""#);
    let at = |severity| vec![(RuleId::Grantable, severity, "rules.json:2:35".to_owned())];
    let good = r#"{"max_s":1,"max_uses":1}"#;
    assert_eq!(found(good, &grants), []);
    assert_eq!(found(good, &permit(r#"action in Countersign::Action::"decide""#)), []);
    assert_eq!(found(good, &permit("action")), []);
    assert_eq!(found(good, ""), at(Severity::Warning));
    assert_eq!(found(good, &permit(r#"action == Countersign::Action::"approve""#)), at(Severity::Warning));
    for nothing in [r#"{"max_s":0,"max_uses":1}"#, r#"{"max_s":1,"max_uses":0}"#] {
        assert_eq!(found(nothing, &grants), at(Severity::Error), "{nothing}");
    }
}

#[test]
fn an_overridable_key_is_one_of_a_tool_that_the_rule_gates() {
    let gate = |action: &str| {
        format!(
            "@id(\"g\") @requires_approval(\"r\") forbid(principal, {action}, resource) unless {{ \
             context.satisfied.contains(Countersign::ApprovalRule::\"r\") }};"
        )
    };
    let tools = r#"{"tools":[
        {"name":"pay.refund","input":{"type":"object","properties":{"amount":{"type":"number"},"to":{"type":"object","properties":{"a/b":{"type":"string"}}},"any":{"type":"object"}}}},
        {"name":"mail.send","input":{"type":"object","properties":{"body":{"type":"string"}}}},
        {"name":"repo.run","input":{"type":"object","properties":{"path":{"type":"string"}}},"runner":{"kind":"process","environment":"dev"}}]}"#;
    let found = |action: &str, pointer: &str| {
        let rule = format!(r#"{{"authority":{{"roles":["A"]}},"overridable":["{pointer}"]}}"#);
        of_rules(&rule, &gate(action), tools)
    };
    let refund = r#"action == Countersign::Action::"callTool:pay.refund""#;
    let wrong = vec![(RuleId::Overridable, Severity::Warning, "rules.json:2:50".to_owned())];
    for pointer in ["/amount", "/to", "/to/a~1b", "/any/thing"] {
        assert_eq!(found(refund, pointer), [], "{pointer}");
    }
    for pointer in ["/amout", "/to/b", "/body", "/path", "/amount/x"] {
        assert_eq!(found(refund, pointer), wrong, "{pointer}");
    }
    assert_eq!(found(r#"action in Countersign::Action::"callTool""#, "/body"), []);
    assert_eq!(found(r#"action in Countersign::Action::"callTool""#, "/path"), wrong, "a dispatch is another group");
    assert_eq!(found(r#"action in [Countersign::Action::"dispatch", Countersign::Action::"start"]"#, "/path"), []);
    assert_eq!(found("action", "/path"), []);
}

#[test]
fn an_entity_that_cannot_exist_is_an_error_where_it_is_named() {
    let other = OrgId::from_bytes([2; 16]);
    let scope = "principal, action, resource";
    for (id, wrong) in [("fixer".to_owned(), true), (format!("{other}/fixer"), true), (format!("{ORG}/fixer"), false)] {
        for (head, condition) in [
            (format!("principal == Countersign::Agent::\"{id}\", action, resource"), "true".to_owned()),
            (format!("principal, action, resource in Countersign::Team::\"{id}\""), "true".to_owned()),
            (
                format!("principal is Countersign::Person in Countersign::Group::\"{id}\", action, resource"),
                "true".to_owned(),
            ),
            (scope.to_owned(), format!("principal == Countersign::Agent::\"{id}\"")),
            (
                scope.to_owned(),
                format!("[Countersign::Tool::\"{ORG}/a.b\", Countersign::Tool::\"{id}\"].contains(resource)"),
            ),
        ] {
            // The policy's own name is the same text, and is not what is wrong.
            let text = format!("@id(\"fixer\") forbid ({head})\nwhen {{ {condition} }};");
            let line = text.lines().position(|line| line.contains(&format!("::\"{id}\""))).unwrap();
            let column = text.lines().nth(line).unwrap().find(&format!("\"{id}\"")).unwrap();
            let column = if line == 0 { text.find(&format!("::\"{id}\"")).unwrap() + 2 } else { column };
            let place = format!("policies.cedar:{}:{}", line + 1, column + 1);
            let expected = if wrong { vec![(RuleId::ForeignEntity, Severity::Error, place)] } else { vec![] };
            assert_eq!(lint_text(&text, &[], &Shadow::default()), expected, "{text}");
        }
    }
    // Members of enums, actions and a bundle's own types have the ids that the schema gives them.
    let alone = "@id(\"x\") forbid (principal, action == Countersign::Action::\"start\", resource) when { \
                 principal in Countersign::Role::\"ADMIN\" && principal != Mine::Robot::\"r\" && \
                 context.instance.state == Countersign::State::\"RUNNING\" };";
    assert_eq!(lint_text(alone, &[], &Shadow::default()), []);
}
