//! What each kind of change is said to be.
#![expect(clippy::unwrap_used, reason = "tests")]

use countersign_gateway_model::Decision;

use super::*;
use crate::manifest::{Settings, Shadow};

fn draft(policies: &str, rules: &str) -> Draft {
    let files = [("policies.cedar", policies), ("rules.json", rules)];
    Draft::from_files(files.map(|(p, t)| (p.to_owned(), t.as_bytes().to_vec()))).unwrap()
}

fn directions(old: &str, new: &str) -> Vec<Direction> {
    let none = r#"{"rules":{}}"#;
    let diff = diff(&draft(old, none), &draft(new, none));
    diff.changes.iter().for_each(|c| assert!(!c.words.is_empty() && c.subject.starts_with("policy `a`"), "{c}"));
    diff.changes.into_iter().map(|c| c.direction).collect()
}

const GATE: &str = r#"@id("a") @requires_approval("r") forbid(principal, action, resource) when { context.denials > 1 }
unless { context.satisfied.contains(Countersign::ApprovalRule::"r") };"#;

#[test]
fn every_change_of_a_policy_has_the_direction_its_effect_gives_it() {
    use Direction::{Neutral, Stricter, Unclear, Weaker};
    let p = |effect: &str, scope: &str, conditions: &str| {
        format!("@id(\"a\") {effect}(principal, action, {scope}) {conditions};")
    };
    let tool = "resource is Countersign::Tool";
    let when = "when { context.delegated }";
    let permit = p("permit", tool, when);
    let forbid = p("forbid", tool, when);
    for (old, new, wanted) in [
        (String::new(), permit.clone(), vec![Weaker]),
        (permit.clone(), String::new(), vec![Stricter]),
        (String::new(), forbid.clone(), vec![Stricter]),
        (forbid.clone(), String::new(), vec![Weaker]),
        (GATE.to_owned(), String::new(), vec![Weaker]),
        (forbid.clone(), permit.clone(), vec![Weaker]),
        (permit.clone(), forbid.clone(), vec![Stricter]),
        (permit.clone(), p("permit", "resource", when), vec![Weaker]),
        (forbid.clone(), p("forbid", "resource", when), vec![Stricter]),
        (p("forbid", "resource", when), forbid.clone(), vec![Weaker]),
        (permit.clone(), p("permit", "resource is Countersign::Run", when), vec![Unclear]),
        (permit.clone(), p("permit", tool, ""), vec![Weaker]),
        (forbid.clone(), p("forbid", tool, ""), vec![Stricter]),
        (permit.clone(), p("permit", tool, &format!("{when} unless {{ context.asserted }}")), vec![Stricter]),
        (forbid.clone(), p("forbid", tool, &format!("{when} unless {{ context.asserted }}")), vec![Weaker]),
        (permit.clone(), p("permit", tool, "when { context.asserted }"), vec![Unclear]),
        (permit.clone(), permit.replace("permit(", "@title(\"t\") permit("), vec![Neutral]),
        (forbid.replace("forbid(", "@severity(\"hard\") forbid("), forbid.clone(), vec![Weaker]),
        (permit.clone(), format!("// said\n{}", permit.replace("when {", "when\n{ //x\n")), vec![]),
        (GATE.to_owned(), GATE.replace("\"r\"", "\"s\""), vec![Unclear]),
        (GATE.to_owned(), GATE.replace("context.denials > 1", "context.denials > 9"), vec![Unclear]),
        (GATE.to_owned(), GATE.replace("when { context.denials > 1 }", ""), vec![Stricter]),
    ] {
        assert_eq!(directions(&old, &new), wanted, "{old}\n→ {new}");
    }
    let hard = "@id(\"a\") forbid(principal, action, resource) when { context.denials > 1 };";
    assert_eq!(directions(hard, GATE), [Weaker], "a hard forbid that becomes a gate can be approved");
    assert_eq!(directions(GATE, hard), [Unclear]);
    let transform = |name: &str| {
        format!(
            r#"@id("a") @transform("{name}") forbid(principal, action, resource) when {{ context.denials > 1 }}
            unless {{ context.applied.contains("{name}") }};"#
        )
    };
    assert_eq!(directions(hard, &transform("t")), [Weaker], "a hard forbid that asks for a transform can be lifted");
    assert_eq!(directions(&transform("t"), &transform("u")), [Unclear]);
    assert_eq!(directions(&transform("t"), hard), [Unclear]);
    assert_eq!(directions(&transform("t"), &transform("t")), []);
    for (old, new) in [(GATE.to_owned(), transform("t")), (transform("t"), GATE.to_owned())] {
        assert_eq!(directions(&old, &new), [Unclear, Unclear], "one way of lifting for another");
    }
}

#[test]
fn every_field_of_a_rule_has_its_direction() {
    use Direction::{Stricter, Unclear, Weaker};
    let base = r#""authority":{"roles":["LEAD"]},"quorum":{"persons":2,"distinct_teams":2}"#;
    let rules = |body: &str| format!(r#"{{"rules":{{"r":{{{body}}}}}}}"#);
    let compare = |a: &str, b: &str| {
        let diff = diff(&draft("", &rules(a)), &draft("", &rules(b)));
        diff.changes.into_iter().map(|c| c.direction).collect::<Vec<_>>()
    };
    for (new, wanted) in [
        (r#""authority":{"roles":["LEAD","DEV"]},"quorum":{"persons":2,"distinct_teams":2}"#, Weaker),
        (r#""authority":{"roles":["CTO"]},"quorum":{"persons":2,"distinct_teams":2}"#, Unclear),
        (r#""authority":{"roles":["LEAD"]},"quorum":{"persons":3,"distinct_teams":2}"#, Stricter),
        (r#""authority":{"roles":["LEAD"]},"quorum":{"persons":2,"distinct_teams":1}"#, Weaker),
        (&format!(r#"{base},"exclude":{{"owner":true}}"#), Stricter),
        (&format!(r#"{base},"veto":false"#), Weaker),
        (&format!(r#"{base},"grantable":{{"max_s":1,"max_uses":1}}"#), Weaker),
        (&format!(r#"{base},"timeout_s":60"#), Stricter),
        (&format!(r#"{base},"validity_s":60"#), Stricter),
        (&format!(r#"{base},"overridable":["/a"]"#), Weaker),
        (&format!(r#"{base},"override_counts":true"#), Weaker),
        (&format!(r#"{base},"break_glass":{{"authority":{{"roles":["CTO"]}},"review_within_s":5}}"#), Weaker),
        (&format!(r#"{base},"demand":{{"assurance":"mfa"}}"#), Stricter),
        (&format!(r#"{base},"demand":{{"fresh_s":60}}"#), Stricter),
        (&format!(r#"{base},"demand":{{"assertion":true}}"#), Stricter),
        (&format!(r#"{base},"escalation":[{{"after_s":5,"authority":{{"roles":["CTO"]}}}}]"#), Weaker),
    ] {
        assert_eq!(compare(base, new), [wanted], "{new}");
        let back = match wanted {
            Weaker => Stricter,
            Stricter => Weaker,
            other => other,
        };
        assert_eq!(compare(new, base), [back], "back from {new}");
    }
    assert_eq!(compare(base, base), []);
}

#[test]
fn shadow_masks_and_unreadable_files_are_told() {
    use Direction::{Stricter, Unclear, Weaker};
    let of = |text: &str, until: Option<u64>| {
        let policies = until.map(|until| Shadowed { id: Name::new("a").unwrap(), until: Timestamp(until) });
        let shadow = Shadow { policies: policies.into_iter().collect(), workflows: vec![] };
        Draft { settings: Settings { shadow, ..Settings::default() }, ..draft(text, r#"{"rules":{}}"#) }
    };
    let forbid = "@id(\"a\") forbid(principal, action, resource);";
    let permit = "@id(\"a\") permit(principal, action, resource);";
    for (before, after, of_forbid, of_permit) in [
        (None, Some(5), Weaker, Stricter),
        (Some(5), None, Stricter, Weaker),
        (Some(5), Some(6), Weaker, Stricter),
        (Some(5), Some(4), Stricter, Weaker),
    ] {
        let directions = |text: &str| {
            let diff = diff(&of(text, before), &of(text, after));
            diff.changes.into_iter().map(|change| change.direction).collect::<Vec<_>>()
        };
        assert_eq!(directions(forbid), [of_forbid], "{before:?} {after:?}");
        assert_eq!(directions(permit), [of_permit], "a permit in shadow grants nothing: {before:?} {after:?}");
        assert_eq!(directions(""), [Unclear], "what is in no file has no effect that is known");
    }
    assert!(diff(&of(forbid, Some(5)), &of(forbid, Some(5))).is_empty());
    // A workflow's rules hold something back, whatever its policies are.
    let trial = |until: Option<u64>| {
        let workflows = until.map(|until| Shadowed { id: Name::new("trial").unwrap(), until: Timestamp(until) });
        let shadow = Shadow { policies: vec![], workflows: workflows.into_iter().collect() };
        Draft { settings: Settings { shadow, ..Settings::default() }, ..draft(permit, r#"{"rules":{}}"#) }
    };
    for (before, after, wanted) in
        [(None, Some(5), Weaker), (Some(5), None, Stricter), (Some(5), Some(6), Weaker), (Some(5), Some(4), Stricter)]
    {
        let diff = diff(&trial(before), &trial(after));
        assert_eq!(diff.weakens(), wanted == Weaker, "{before:?} {after:?}");
        let changes: Vec<_> = diff.changes.into_iter().map(|change| (change.subject, change.direction)).collect();
        assert_eq!(changes, [("workflow `trial`".to_owned(), wanted)], "{before:?} {after:?}");
    }

    let with = |path: &str| Draft::from_files([(path.to_owned(), b"{}".to_vec())]).unwrap();
    assert!(diff(&with("masks.json"), &Draft::default()).weakens());
    assert!(diff(&with("tests/a.json"), &Draft::default()).may_weaken());
    assert!(!diff(&Draft::default(), &with("README.md")).may_weaken());

    let broken = draft("permit(", "{");
    let diff = diff(&Draft::default(), &broken);
    assert!(diff.may_weaken() && diff.changes.len() == 2, "{diff}");
}

#[test]
fn examples_show_on_the_tests_questions_what_becomes_allowed_and_what_denied() {
    let permit = |id: &str, operation: &str, when: &str| {
        format!(
            "@id(\"{id}\") permit(principal is Countersign::Person, action == Countersign::Action::\"{operation}\", \
             resource is Countersign::Organization) {when};"
        )
    };
    let ask = |name: &str, operation: &str| {
        format!(
            r#"{{"name":"{name}","expect":{{"decision":"deny"}},
               "ask":{{"asked":"Person::ann","op":"{operation}","resource":"Organization::self","now":1}}}}"#
        )
    };
    let tests = format!(
        r#"{{"entities":[{{"entity":"Person::ann","attrs":{{"active":true}}}}],"cases":[{},{},{}]}}"#,
        ask("a", "listTools"),
        ask("b", "listRuns"),
        ask("c", "listGates")
    );
    let draft = |policies: String| {
        let files = [("policies.cedar", policies), ("tests/t.json", tests.clone())];
        Draft::from_files(files.map(|(path, text)| (path.to_owned(), text.into_bytes()))).unwrap()
    };
    let old = draft(permit("tools", "listTools", "") + &permit("gates", "listGates", ""));
    let new = draft(permit("runs", "listRuns", "") + &permit("gates", "listGates", "when { context.denials < 1 }"));
    let org = countersign_gateway_model::OrgId::from_bytes([1; 16]);
    let (before, after) = (crate::check_draft(&old, org, None), crate::check_draft(&new, org, None));
    let found = examples((before.built().unwrap(), &old.files), (after.built().unwrap(), &new.files));
    let short: Vec<_> = found.iter().map(|e| (e.weaker, &*e.name, e.before, e.after)).collect();
    assert_eq!(short, [(true, "b", Decision::Deny, Decision::Allow), (false, "a", Decision::Allow, Decision::Deny)]);
    let line = found[0].to_string();
    for part in ["WEAKER", "was denied by gateway:default-deny", "is allowed by runs", "\"op\":\"listRuns\""] {
        assert!(line.contains(part), "{line}");
    }
    assert_eq!(examples((before.built().unwrap(), &old.files), (before.built().unwrap(), &old.files)), []);
}
