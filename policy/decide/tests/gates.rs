//! The rounds of a gate: what is allowed, what people are asked, and what nobody is bothered with.

#![expect(clippy::unwrap_used, reason = "tests")]

mod world;

use std::collections::BTreeMap;

use countersign_gateway_model::{Decision, Duration, Name, Timestamp, Verdict};
use countersign_policy_decide::{
    EntityKind, EntityRef, GateFacts, Operation, PolicyParts, PolicySnapshot, Question, Record, combine, ground,
};
use world::{NOW, PERMIT, ask, entity, gate, name, org, parts, person, read, snapshot, world};

fn ids(answer: &countersign_policy_decide::Answer) -> Vec<&str> {
    answer.determining.iter().map(Name::as_str).collect()
}

const HARD: &str =
    r#"@id("hard") @agent_message("No.") forbid (principal, action in Countersign::Action::"callTool", resource);"#;

#[test]
fn a_gate_asks_for_its_rule_and_a_met_rule_lifts_it() {
    let s = snapshot(&format!("{PERMIT}{}", gate("g", "a", "")));
    let store = world();
    let mut question = read(&s);
    let answer = ask(&s, &store, &question);
    assert_eq!(answer.verdict, Verdict::needs_approval(vec![name("a")]));
    assert_eq!((ids(&answer), answer.rounds), (vec!["g"], 2));
    question.satisfied.insert(name("a"));
    let answer = ask(&s, &store, &question);
    assert_eq!(answer.verdict, Verdict::allow());
    assert_eq!((ids(&answer), answer.rounds), (vec!["permit"], 1));
}

#[test]
fn all_rules_that_stand_in_the_way_are_known_at_once_and_each_is_needed() {
    let s = snapshot(&format!("{PERMIT}{}{}", gate("one", "b", ""), gate("two", "a", "")));
    let store = world();
    let mut question = read(&s);
    let answer = ask(&s, &store, &question);
    assert_eq!(answer.verdict.rules, [name("a"), name("b")], "sorted by name");
    assert_eq!(ids(&answer), ["one", "two"]);
    question.satisfied.insert(name("b"));
    assert_eq!(ask(&s, &store, &question).verdict.rules, [name("a")]);
    question.satisfied.insert(name("a"));
    assert_eq!(ask(&s, &store, &question).decision(), Decision::Allow);
}

#[test]
fn no_approval_lifts_a_hard_forbid_and_nobody_is_asked() {
    let s = snapshot(&format!("{PERMIT}{}{HARD}", gate("g", "a", "")));
    let store = world();
    let mut question = read(&s);
    let answer = ask(&s, &store, &question);
    assert_eq!(answer.verdict, Verdict::deny());
    assert_eq!((ids(&answer), answer.rounds), (vec!["g", "hard"], 1));
    assert_eq!(answer.agent_message.as_deref(), Some("No."));
    question.satisfied.insert(name("a"));
    assert_eq!(ids(&ask(&s, &store, &question)), ["hard"]);
}

#[test]
fn where_approval_would_not_suffice_nobody_is_bothered() {
    let s = snapshot(&gate("g", "a", ""));
    let answer = ask(&s, &world(), &read(&s));
    assert_eq!((answer.decision(), ids(&answer)), (Decision::Deny, vec![ground::DEFAULT]));
    assert!(answer.reasons.iter().any(|r| r.policy.as_str() == "g"), "the reader learns of the gate: {answer:?}");
}

#[test]
fn a_rule_that_the_bundle_does_not_know_satisfies_nothing() {
    let s = snapshot(&format!("{PERMIT}{}", gate("g", "a", "")));
    let mut question = read(&s);
    question.satisfied.insert(name("gone"));
    let answer = ask(&s, &world(), &question);
    assert_eq!(answer.verdict.rules, [name("a")]);
}

#[test]
fn an_override_can_be_refused_by_policy_although_its_rule_is_met() {
    let refuse = r#"@id("not-overridden") forbid (principal, action in Countersign::Action::"callTool", resource)
        when { context.overridden.contains(Countersign::ApprovalRule::"a") };"#;
    let s = snapshot(&format!("{PERMIT}{}{refuse}", gate("g", "a", "")));
    let mut question = read(&s);
    question.satisfied.insert(name("a"));
    assert_eq!(ask(&s, &world(), &question).decision(), Decision::Allow);
    question.overridden.insert(name("a"));
    assert_eq!(ids(&ask(&s, &world(), &question)), ["not-overridden"]);
}

#[test]
fn agents_learn_what_a_policy_says_to_them_and_nothing_else() {
    let titled =
        r#"@id("t") @title("internal words") forbid (principal, action in Countersign::Action::"callTool", resource);"#;
    let s = snapshot(&format!("{PERMIT}{titled}"));
    let answer = ask(&s, &world(), &read(&s));
    assert_eq!(answer.agent_message, None);
    assert_eq!(answer.reasons.first().unwrap().text, "internal words");
}

#[test]
fn the_strictest_answer_of_a_chain_stands_with_the_union_of_rules() {
    let open = snapshot(PERMIT);
    let one = snapshot(&format!("{PERMIT}{}", gate("one", "a", "")));
    let two = snapshot(&format!("{PERMIT}{}", gate("two", "b", "")));
    let hard = snapshot(&format!("{PERMIT}{HARD}"));
    let broken = snapshot(&format!(
        "{PERMIT}@id(\"broken\") forbid (principal is Countersign::Agent, action, resource) \
         when {{ principal.autonomy * 9223372036854775807 > 5 }};"
    ));
    let [open, one, two, hard, broken] = [&open, &one, &two, &hard, &broken].map(|s| ask(s, &world(), &read(s)));
    let (verdict, determining) = combine(&[open.clone(), open.clone()]);
    assert_eq!((verdict, determining.len()), (Verdict::allow(), 2));
    let (verdict, determining) = combine(&[open.clone(), two.clone(), one.clone()]);
    assert_eq!(verdict, Verdict::needs_approval(vec![name("a"), name("b")]));
    assert_eq!(determining, [vec![name("permit")], vec![name("two")], vec![name("one")]]);
    let (verdict, _) = combine(&[one.clone(), hard]);
    assert_eq!(verdict, Verdict::deny());
    let (verdict, _) = combine(&[one, broken]);
    assert_eq!((verdict.decision, verdict.error), (Decision::Deny, true));
    assert_eq!(combine(&[]).0, Verdict::deny(), "asking nobody allows nothing");
}

/// A gate that waits for approvers.
fn open_gate() -> GateFacts {
    GateFacts {
        instance: name("i1"),
        gate: name("g1"),
        rules: vec![name("a")],
        roles: vec![name("APPROVER")],
        groups: vec![],
        teams: vec![],
        involved: vec![],
        initiator: None,
        accountable: name("ida"),
        agent: None,
        tool: None,
        open: true,
        opened_at: NOW,
        expires_at: None,
        escalation: 0,
    }
}

#[test]
fn facts_too_old_to_decide_on_deny_deciding_and_gated_actions_only() {
    let old = PolicyParts {
        ages: BTreeMap::from([(EntityKind::Person, Duration::from_secs(60))]),
        ..parts(&format!("{PERMIT}{}", gate("g", "a", "when { context.denials > 0 }")))
    };
    let s = PolicySnapshot::build(old).unwrap();
    let store = world();
    let mut question = read(&s);
    question.now = Timestamp(NOW.0 + 61_000);
    assert_eq!(ask(&s, &store, &question).decision(), Decision::Allow, "not gated: any age");
    question.denials = 1;
    let answer = ask(&s, &store, &question);
    assert_eq!((answer.decision(), ids(&answer)), (Decision::Deny, vec![ground::STALE]));
    question.satisfied.insert(name("a"));
    assert_eq!(ids(&ask(&s, &store, &question)), [ground::STALE]);
    // Whoever decides is asked about at any age of the rest; the voter's own facts are what counts.
    let facts = open_gate();
    store.put(Record::gate(org(), name("g1"), &facts, NOW)).unwrap();
    store.put(Record::item(org(), name("it1"), &facts, NOW)).unwrap();
    let mut vote = Question::new(entity("Person::ida"), Operation::Approve, entity("Item::it1"), NOW);
    vote.scopes.insert("decide");
    assert_eq!(ids(&ask(&s, &store, &vote)), [ground::DEFAULT], "known as of now: policy itself is asked");
    vote.now = Timestamp(NOW.0 + 61_000);
    assert_eq!(ids(&ask(&s, &store, &vote)), [ground::STALE], "a vote stands on facts about the voter");
    for id in ["olga", "ida"] {
        store.put(Record::person(org(), name(id), person(true, "inner"), Timestamp(NOW.0 + 1000))).unwrap();
    }
    assert_eq!(ask(&s, &store, &question).decision(), Decision::Allow);
    assert_eq!(ids(&ask(&s, &store, &vote)), [ground::DEFAULT]);
}

#[test]
fn without_a_bundle_people_look_stop_and_recover_and_nothing_starts() {
    let s = PolicySnapshot::build(PolicyParts::recovery(org())).unwrap();
    assert!(s.is_recovery());
    let store = world();
    let facts = open_gate();
    store.put(Record::gate(org(), name("g1"), &facts, NOW)).unwrap();
    store.put(Record::item(org(), name("it1"), &facts, NOW)).unwrap();
    let home = EntityRef::organization(org());
    for (who, operation, what, decision) in [
        ("Person::ida", Operation::ReadInstance, entity("Instance::i1"), Decision::Allow),
        ("Person::ida", Operation::ReadHealth, home.clone(), Decision::Allow),
        ("Person::ida", Operation::Terminate, entity("Instance::i1"), Decision::Allow),
        ("Person::ida", Operation::Freeze, home.clone(), Decision::Allow),
        ("Person::ida", Operation::Recover, home.clone(), Decision::Allow),
        ("System::system", Operation::Reject, entity("Gate::g1"), Decision::Allow),
        ("Person::ida", Operation::Start, entity("Workflow::fix"), Decision::Deny),
        ("Person::ida", Operation::Approve, entity("Item::it1"), Decision::Deny),
        ("Person::ida", Operation::RegisterAgent, home.clone(), Decision::Deny),
        ("Agent::coder", Operation::ReadInstance, entity("Instance::i1"), Decision::Deny),
        ("Agent::coder", Operation::Terminate, entity("Instance::i1"), Decision::Deny),
    ] {
        let mut question = Question::new(entity(who), operation, what, NOW);
        question.scopes.insert("decide");
        assert_eq!(ask(&s, &store, &question).decision(), decision, "{who} {operation}");
    }
}

#[test]
fn every_operation_is_an_action_that_can_be_asked() {
    let s = snapshot(r#"@id("all") permit (principal, action, resource);"#);
    let known: Vec<String> = s.schema().actions().map(|a| a.id().unescaped().to_owned()).collect();
    for operation in Operation::ALL {
        assert!(known.iter().any(|k| k == operation.as_str()), "{operation}");
        assert_eq!(Operation::parse(operation.as_str()), Some(*operation));
    }
    let groups = ["read", "stop", "decide", "manage", "callTool", "dispatch"];
    for action in &known {
        let tool = action.starts_with("callTool:") || action.starts_with("dispatch:");
        assert!(tool || groups.contains(&action.as_str()) || Operation::parse(action).is_some(), "{action}");
    }
}

#[test]
fn a_key_of_a_record_hides_nothing_that_a_policy_reads() {
    for key in ["a", "Value", "Var", ".", "has", "Record", "left"] {
        for (effect, fact, part) in [
            ("permit", "satisfied", "`context.satisfied` may stand only as"),
            ("forbid", "satisfied", "`context.satisfied` may stand only as"),
            ("permit", "granted", "may be read in forbids only"),
        ] {
            let policy = format!(
                r#"@id("x") {effect} (principal, action in Countersign::Action::"callTool", resource)
                when {{ {{"{key}": context.{fact}}}["{key}"].contains(Countersign::ApprovalRule::"a") }};"#
            );
            let error = PolicySnapshot::build(parts(&policy)).unwrap_err().to_string();
            assert!(error.contains(part), "{policy}: {error}");
        }
        let whole = format!(
            r#"@id("x") forbid (principal, action, resource) when {{ {{"{key}": context}}["{key}"] has denials }};"#
        );
        let error = PolicySnapshot::build(parts(&whole)).unwrap_err().to_string();
        assert!(error.contains("used as a whole"), "{whole}: {error}");
    }
}

#[test]
fn what_is_allowed_is_evaluated_once_beside_fifty_policies_that_apply_to_everyone() {
    let everyone = (0..50).map(|n| match n % 3 {
        0 => gate(&format!("g{n}"), "a", &format!("when {{ context.denials > {n} }}")),
        1 => format!(
            r#"@id("f{n}") forbid (principal, action, resource) when {{ context.denials > {n} && !context.delegated }};"#
        ),
        _ => format!(r#"@id("p{n}") permit (principal, action, resource) when {{ context.denials > {n} }};"#),
    });
    let policies: String = std::iter::once(PERMIT.to_owned()).chain(everyone).collect();
    let s = snapshot(&policies);
    let (store, mut question) = (world(), read(&s));
    let answer = ask(&s, &store, &question);
    assert_eq!((answer.decision(), ids(&answer), answer.rounds), (Decision::Allow, vec!["permit"], 1));
    // They do apply: one more denial than the first of them bears, and it stands in the way.
    question.denials = 1;
    let answer = ask(&s, &store, &question);
    assert_eq!((answer.verdict.rules, answer.rounds), (vec![name("a")], 2));
}
