//! The six rules that Cedar's traps taught. Each test fails if its rule is taken out. All of them run with the
//! production slicer, by the index and by the full walk.

#![expect(clippy::unwrap_used, reason = "tests")]

mod world;

use std::sync::Arc;

use countersign_gateway_model::{Decision, OrgId};
use countersign_policy_decide::catalogue::Catalogue;
use countersign_policy_decide::masks::Masks;
use countersign_policy_decide::{
    BuildError, EntityError, EntityKind, EntityRef, EntityStore, Operation, PolicySnapshot, Question, Record,
    decide_chain, ground, input,
};
use world::{NOW, PERMIT, agent, ask, build, call, entity, gate, instance, name, org, person, read, snapshot, world};

fn ids(answer: &countersign_policy_decide::Answer) -> Vec<&str> {
    answer.determining.iter().map(countersign_gateway_model::Name::as_str).collect()
}

// ---- 1 --------------------------------------------------------------------------------------------------------------

/// Overflows at run time although it is strictly valid: Cedar skips the policy and would allow.
const OVERFLOW: &str = r#"@id("overflow") forbid (principal is Countersign::Agent,
    action in Countersign::Action::"callTool", resource)
    when { principal.autonomy * 9223372036854775807 > 5 };"#;

#[test]
fn an_error_in_a_forbid_is_a_hard_denial_with_its_own_reason() {
    let (with, without) = (snapshot(&format!("{PERMIT}{OVERFLOW}")), snapshot(PERMIT));
    assert_eq!(ask(&without, &world(), &read(&without)).decision(), Decision::Allow);
    let answer = ask(&with, &world(), &read(&with));
    assert_eq!((answer.decision(), answer.verdict.error), (Decision::Deny, true));
    assert_eq!(ids(&answer), ["overflow"]);
    assert!(answer.reasons.iter().any(|r| r.text.contains("overflow")), "{answer:?}");
}

#[test]
fn an_error_in_a_later_round_is_a_hard_denial_too() {
    // Only gates read `satisfied`, in a clause that a met rule makes false: no rule that is met lets a policy err that did not
    // before. A transform changes what every policy reads.
    let policies = format!(
        r#"{PERMIT}@id("largest") @transform("largest") forbid (principal, action in Countersign::Action::"callTool", resource)
        unless {{ context.applied.contains("largest") }};
        @id("product") forbid (principal, action == Countersign::Action::"callTool:pay.many", resource)
        when {{ context.input.count * 3 == 7 }};"#
    );
    let mut parts = world::parts(&policies);
    let catalogue = br#"{"tools":[{"name":"pay.many","risk":1,"data_class":"internal","input":{"type":"object",
        "required":["count"],"properties":{"count":{"type":"integer"}}}}]}"#;
    parts.catalogue = Some(Catalogue::parse(catalogue).unwrap());
    let masks = r#"{"transforms":{"largest":{"steps":[{"at":["/count"],"with":{"constant":9007199254740991}}]}}}"#;
    for (factor, errs) in [("3", false), ("2000", true)] {
        let mut parts = parts.clone();
        parts.policies.values_mut().for_each(|text| *text = text.replace("* 3", &format!("* {factor}")));
        parts.masks = Masks::parse(masks.as_bytes()).unwrap();
        parts.transforms = vec![name("largest")];
        let s = PolicySnapshot::build(parts).unwrap();
        let question = call(&s, "pay.many", r#"{"count":1}"#);
        let first = ask(&s, &world(), &question);
        assert_eq!((first.verdict.error, ids(&first)), (false, vec!["largest"]), "it errs in no round before");
        let questions = vec![question];
        let decided = decide_chain(&s, &world().slices(&s, &questions), questions);
        let last = ask(&s, &world(), decided.questions.first().unwrap());
        assert_eq!(decided.answers.first(), Some(&last));
        let expected =
            if errs { (Decision::Deny, true, vec!["product"]) } else { (Decision::Allow, false, vec!["permit"]) };
        assert_eq!((last.decision(), last.verdict.error, ids(&last)), expected, "times {factor}");
    }
}

#[test]
fn an_error_beside_a_gate_is_a_hard_denial_and_asks_nobody() {
    let hidden = r#"@id("hidden") @requires_approval("b") forbid (principal is Countersign::Agent,
        action in Countersign::Action::"callTool", resource)
        when { principal.autonomy == 2 }
        when { !context.overridden.contains(Countersign::ApprovalRule::"a") }
        unless { context.satisfied.contains(Countersign::ApprovalRule::"b") }
        when { principal.autonomy * 9223372036854775807 > 5 };"#;
    let s = snapshot(&format!("{PERMIT}{hidden}"));
    // Before: `unless` holds, so the product is computed and errs. After: `unless` fails first and nothing errs.
    assert!(ask(&s, &world(), &read(&s)).verdict.error);
    let mut satisfied = read(&s);
    satisfied.satisfied.insert(name("b"));
    assert_eq!(ask(&s, &world(), &satisfied).decision(), Decision::Allow);
    // With another gate in the first round, the error still denies instead of asking for approval.
    let both = snapshot(&format!("{PERMIT}{hidden}{}", gate("gate-a", "a", "")));
    let answer = ask(&both, &world(), &read(&both));
    assert_eq!((answer.decision(), answer.verdict.error), (Decision::Deny, true));
}

#[test]
fn an_error_in_a_permit_permits_nothing_and_denies_nothing_else() {
    let broken = r#"@id("broken") permit (principal is Countersign::Agent,
        action in Countersign::Action::"callTool", resource)
        when { principal.autonomy * 9223372036854775807 > 5 };"#;
    let s = snapshot(&format!("{PERMIT}{broken}"));
    let answer = ask(&s, &world(), &read(&s));
    assert_eq!((answer.decision(), answer.verdict.error), (Decision::Allow, false));
    let alone = snapshot(broken);
    assert_eq!(ids(&ask(&alone, &world(), &read(&alone))), [ground::DEFAULT]);
}

// ---- 2 --------------------------------------------------------------------------------------------------------------

#[test]
fn a_question_that_does_not_fit_the_schema_is_denied() {
    let s = snapshot(PERMIT);
    let store = world();
    let mut tool_asks =
        Question::new(entity("Tool::repo.read"), Operation::ListTools, EntityRef::organization(org()), NOW);
    assert_eq!(ids(&ask(&s, &store, &tool_asks)), [ground::INVALID]);
    tool_asks.asked = entity("Agent::coder");
    tool_asks.resource = entity("Instance::i1");
    assert_eq!(ids(&ask(&s, &store, &tool_asks)), [ground::INVALID]);
    // A tool of ours is dispatched, another is called; neither the other way round; and never without typed input.
    let mut swapped = call(&s, "repo.test", "{}");
    assert_eq!(ask(&s, &store, &swapped).decision(), Decision::Allow);
    swapped.operation = Operation::CallTool;
    assert_eq!(ids(&ask(&s, &store, &swapped)), [ground::INVALID]);
    let mut bare = read(&s);
    bare.input = None;
    assert_eq!(ids(&ask(&s, &store, &bare)), [ground::INVALID]);
}

#[test]
fn a_question_that_passed_vouches_for_none_of_another_shape() {
    let s = snapshot(PERMIT);
    let store = world();
    for _ in 0..2 {
        assert_eq!(ask(&s, &store, &read(&s)).decision(), Decision::Allow);
        let mut wrong_instance = read(&s);
        wrong_instance.instance = Some(entity("Workflow::fix"));
        assert_eq!(ids(&ask(&s, &store, &wrong_instance)), [ground::INVALID]);
        let mut wrong_person = read(&s);
        wrong_person.standing_in_for = Some(entity("Team::inner"));
        assert_eq!(ids(&ask(&s, &store, &wrong_person)), [ground::INVALID]);
        let mut wrong_asker = read(&s);
        wrong_asker.asked = entity("Team::inner");
        assert_eq!(ids(&ask(&s, &store, &wrong_asker)), [ground::INVALID]);
    }
}

#[test]
fn input_typed_for_another_tool_or_version_is_denied() {
    let s = snapshot(PERMIT);
    let mut other = read(&s);
    other.input = call(&s, "pay.refund", r#"{"amount":1}"#).input;
    assert_eq!(ids(&ask(&s, &world(), &other)), [ground::INVALID]);
    let mut parts = world::parts(PERMIT);
    for tool in &mut parts.catalogue.as_mut().unwrap().tools {
        tool.description = "changed".to_owned();
    }
    let changed = PolicySnapshot::build(parts).unwrap();
    assert_eq!(ids(&ask(&changed, &world(), &read(&s))), [ground::INVALID]);
}

#[test]
fn an_entity_smuggled_into_a_string_is_refused_and_never_becomes_one() {
    let s = snapshot(PERMIT);
    let tool = s.tool("pay.refund").unwrap();
    for text in [
        r#"{"amount":1,"currency":{"__entity":{"type":"Countersign::Role","id":"APPROVER"}}}"#,
        r#"{"amount":{"__extn":{"fn":"decimal","arg":"1.0"}}}"#,
    ] {
        assert!(input::parse(tool, text.as_bytes()).is_err(), "{text}");
    }
    let literal = r#"{"amount":1,"currency":"Countersign::Role::\"APPROVER\""}"#;
    assert!(input::parse(tool, literal.as_bytes()).is_ok(), "text that only looks like an entity stays text");
}

// ---- 3 --------------------------------------------------------------------------------------------------------------

#[test]
fn a_gate_that_could_be_bypassed_or_never_asked_for_does_not_load() {
    let head = r#"forbid (principal, action in Countersign::Action::"callTool", resource)"#;
    let satisfied = |rule: &str| format!(r#"context.satisfied.contains(Countersign::ApprovalRule::"{rule}")"#);
    let (a, b) = (satisfied("a"), satisfied("b"));
    for (policy, part) in [
        (r#"@id("x") @requires_approval("a") permit (principal, action, resource);"#.to_owned(), "permit"),
        (format!(r#"@id("x") @requires_approval("a") {head};"#), "exactly one"),
        (format!(r#"@id("x") @requires_approval("a") {head} unless {{ {b} }};"#), "may stand only"),
        (format!(r#"@id("x") @requires_approval("a") {head} unless {{ {a} }} unless {{ {a} }};"#), "exactly one"),
        (format!(r#"@id("x") @requires_approval("a") {head} unless {{ {a} || {b} }};"#), "may stand only"),
        (format!(r#"@id("x") @requires_approval("a") {head} when {{ {b} }} unless {{ {a} }};"#), "may stand only"),
        (format!(r#"@id("x") @requires_approval("c") {head} unless {{ {a} }};"#), "names no rule"),
        (format!(r#"@id("x") {head} unless {{ {a} }};"#), "may stand only"),
        (format!(r#"@id("x") permit (principal, action, resource) when {{ {a} }};"#), "may stand only"),
        (
            r#"@id("x") permit (principal, action, resource) when { context.overridden.isEmpty() };"#.to_owned(),
            "forbids only",
        ),
        (
            r#"@id("x") permit (principal, action, resource) when { context.granted.isEmpty() };"#.to_owned(),
            "forbids only",
        ),
        (r#"@id("x") permit (principal, action, resource) when { context == context };"#.to_owned(), "as a whole"),
    ] {
        let error = build(&policy).unwrap_err();
        assert!(matches!(error, BuildError::Gate { .. }), "{policy}: {error}");
        assert!(error.to_string().contains(part), "{policy}: {error}");
    }
    assert!(build(&gate("g", "a", "")).is_ok());
    let reads = format!(r#"@id("x") {head} when {{ context.overridden.contains(Countersign::ApprovalRule::"a") }};"#);
    assert!(build(&reads).is_ok(), "a forbid may read what was overridden");
}

#[test]
fn another_permit_does_not_bypass_a_gate() {
    let another = r#"@id("another") permit (principal, action, resource);"#;
    let s = snapshot(&format!("{PERMIT}{another}{}", gate("g", "a", "")));
    let answer = ask(&s, &world(), &read(&s));
    assert_eq!(answer.decision(), Decision::NeedsApproval);
    assert_eq!(answer.verdict.rules, [name("a")]);
}

// ---- 4 --------------------------------------------------------------------------------------------------------------

#[test]
fn policies_without_an_id_of_their_own_refuse_the_bundle_and_say_where() {
    let bare = "permit (principal, action, resource);";
    for (policies, part) in [
        (format!("{PERMIT}\n\n  {bare}"), "test.cedar:4:3: the policy has no usable `@id`"),
        (format!("@id(\"a b\") {bare}"), "no usable `@id`"),
        (format!("@id(\"\") {bare}"), "no usable `@id`"),
        (format!("@id(\"x\") {bare}\n@id(\"x\") {bare}"), "test.cedar:2:1: `@id(\"x\")` stands on another"),
        (format!("@id(\"kernel:mine\") {bare}"), "are the program's"),
        (format!("@id(\"gateway:mine\") {bare}"), "are the program's"),
        ("@id(\"x\")\npermit (principal, action".to_owned(), "test.cedar:2:"),
        ("@id(\"x\") permit (principal == ?principal, action, resource);".to_owned(), "templates"),
    ] {
        let error = build(&policies).unwrap_err().to_string();
        assert!(error.contains(part), "{policies}: {error}");
    }
    let mut parts = world::parts(PERMIT);
    parts.policies.insert("z.cedar".to_owned(), PERMIT.to_owned());
    assert!(matches!(PolicySnapshot::build(parts), Err(BuildError::DuplicateId { .. })), "also across files");
}

#[test]
fn what_strict_validation_refuses_or_warns_about_does_not_load() {
    for (condition, part) in [
        ("principal.nothing == 1", "nothing"),
        ("context has instance && context.instance.state == Countersign::State::\"RUNING\"", "RUNING"),
        ("principal.autonomy == \"2\"", "String"),
        ("context has instance && context.instance.workflow.team.org == \"x\"", ""),
        ("false", ""),
        ("principal in Countersign::Role::\"NOBODY\"", ""),
    ] {
        let policy = format!(
            r#"@id("x") permit (principal is Countersign::Agent, action in Countersign::Action::"callTool", resource)
            when {{ {condition} }};"#
        );
        let error = build(&policy).unwrap_err();
        assert!(matches!(error, BuildError::Invalid { .. }), "{condition}: {error}");
        assert!(error.to_string().contains(part), "{condition}: {error}");
    }
}

#[test]
fn a_policy_too_deep_to_be_walked_is_refused_and_does_not_take_the_process_down() {
    let head =
        r#"@id("x") permit (principal is Countersign::Agent, action in Countersign::Action::"callTool", resource)"#;
    for n in [10, 300, 650, 3_000, 30_000] {
        for condition in [
            vec!["context.delegated"; n].join(" || "),
            format!("{}context.delegated", "!".repeat(n)),
            format!("{}context.delegated{}", "(".repeat(n), ")".repeat(n)),
            format!("{}context.delegated{}", "if context.delegated then ".repeat(n), " else true".repeat(n)),
            format!("{}1{} == [[1]]", "[".repeat(n), "]".repeat(n)),
        ] {
            let result = build(&format!("{head} when {{ {condition} }};"));
            let known = matches!(
                result,
                Ok(_)
                    | Err(BuildError::TooDeep { .. }
                        | BuildError::TooManyIfs { .. }
                        | BuildError::Parse { .. }
                        | BuildError::Invalid { .. })
            );
            assert!(known, "{n}");
            assert_eq!(n > 2000, matches!(result, Err(BuildError::TooDeep { .. })), "{n}");
        }
    }
}

#[test]
fn a_policy_that_would_stall_validation_is_refused_and_says_where() {
    let head =
        r#"@id("x") permit (principal is Countersign::Agent, action in Countersign::Action::"callTool", resource)"#;
    let nested = |n: usize| {
        let condition =
            format!("{}context.delegated{}", "if true then ".repeat(n), " else context.delegated".repeat(n));
        build(&format!("{PERMIT}\n{head}\nwhen {{ {condition} }};"))
    };
    for n in [13, 40] {
        let error = nested(n).unwrap_err();
        assert!(matches!(error, BuildError::TooManyIfs { .. }), "{n}: {error}");
        assert_eq!(error.to_string(), "test.cedar:4:164: the policy has more than 12 `if`s; split it");
    }
    assert!(!matches!(nested(12), Err(BuildError::TooManyIfs { .. })));
}

#[test]
fn schema_additions_that_declare_actions_do_not_load() {
    let with = |additions: &str| {
        let mut parts = world::parts(PERMIT);
        parts.schema.insert("mine.cedarschema".to_owned(), additions.to_owned());
        PolicySnapshot::build(parts)
    };
    assert!(with("namespace Mine { entity Ticket; }").is_ok());
    let mine = "namespace Mine { entity T; action approve appliesTo { principal: [T], resource: [T] }; }";
    let error = with(mine).unwrap_err().to_string();
    assert!(error.contains("`mine.cedarschema` declare action `approve` in namespace `Mine`"), "{error}");
}

// ---- 5 --------------------------------------------------------------------------------------------------------------

#[test]
fn a_forbid_on_an_action_group_fires_for_the_actions_in_it() {
    let group = r#"@id("group") forbid (principal, action in Countersign::Action::"callTool", resource);"#;
    let s = snapshot(&format!("{PERMIT}{group}"));
    assert_eq!(ids(&ask(&s, &world(), &read(&s))), ["group"]);
    assert_eq!(ask(&s, &world(), &call(&s, "repo.test", "{}")).decision(), Decision::Allow, "and for no other");
}

#[test]
fn ancestors_reach_policy_through_every_generation() {
    for (who, clause) in [
        ("principal", "principal in Countersign::Team::\"ORG/outer\""),
        ("owner", "principal.owner in Countersign::Team::\"ORG/outer\""),
        ("instance", "context has instance && context.instance in Countersign::Team::\"ORG/outer\""),
    ] {
        let clause = clause.replace("ORG", &org().to_string());
        let forbid = format!(
            r#"@id("outer") forbid (principal is Countersign::Agent, action in Countersign::Action::"callTool", resource)
            when {{ {clause} }};"#
        );
        let s = snapshot(&format!("{PERMIT}{forbid}"));
        assert_eq!(ids(&ask(&s, &world(), &read(&s))), ["outer"], "{who}");
    }
}

#[test]
fn moving_a_team_moves_everyone_below_it_at_once() {
    let forbid =
        format!(r#"@id("outer") forbid (principal in Countersign::Team::"{}/outer", action, resource);"#, org());
    let s = snapshot(&format!("{PERMIT}{forbid}"));
    let store = world();
    assert_eq!(ids(&ask(&s, &store, &read(&s))), ["outer"]);
    let before = store.get(&entity("Agent::coder")).unwrap().digest();
    store.put(Record::team(org(), name("middle"), vec![], NOW)).unwrap();
    assert_eq!(ask(&s, &store, &read(&s)).decision(), Decision::Allow);
    assert_ne!(store.get(&entity("Agent::coder")).unwrap().digest(), before, "another ancestor set is another version");
}

#[test]
fn a_forbid_that_names_an_entity_that_cannot_exist_does_not_load() {
    // Cedar types it, and it would never fire: the agent is called `<organization>/coder` wherever it is asked about.
    let stop = |id: &str| {
        format!(r#"{PERMIT}@id("stop") forbid (principal == Countersign::Agent::"{id}", action, resource);"#)
    };
    let own = format!("{}/coder", org());
    let s = snapshot(&stop(&own));
    assert_eq!(ids(&ask(&s, &world(), &read(&s))), ["stop"]);
    for (id, words) in [
        ("coder".to_owned(), "names no organization"),
        (format!("{}/coder", OrgId::from_bytes([2; 16])), "of another organization"),
    ] {
        let error = build(&stop(&id)).unwrap_err();
        assert!(matches!(&error, BuildError::ForeignEntity { id, .. } if id.as_str() == "stop"), "{error:?}");
        let error = error.to_string();
        assert!(error.contains(words) && error.contains(&format!("Countersign::Agent::\"{own}\"")), "{error}");
    }
}

#[test]
fn a_missing_member_is_a_denial_that_names_it() {
    // Without the rule, Cedar would skip this forbid for want of the owner, and allow.
    let forbid = r#"@id("owner") forbid (principal is Countersign::Agent, action, resource)
        when { !principal.owner.active };"#;
    let s = snapshot(&format!("{PERMIT}{forbid}"));
    for missing in ["Agent::coder", "Person::olga", "Instance::i1", "Workflow::fix", "Person::ida"] {
        let store = world();
        store.forget(&entity(missing));
        let answer = ask(&s, &store, &read(&s));
        assert_eq!(answer.decision(), Decision::Deny, "{missing}");
        assert_eq!(ids(&answer), [ground::MISSING_ENTITY], "{missing}");
        assert!(answer.reasons.first().unwrap().text.contains(missing), "{missing}: {answer:?}");
    }
    let store = world();
    store.forget(&entity("Team::middle"));
    let answer = ask(&s, &store, &read(&s));
    assert_eq!(ids(&answer), [ground::MISSING_ENTITY]);
    assert!(
        answer.reasons.first().unwrap().text.contains("Team::middle"),
        "an ancestor that is gone leaves the set open: {answer:?}"
    );
    store.put(Record::team(org(), name("middle"), vec![name("outer")], NOW)).unwrap();
    assert_eq!(ask(&s, &store, &read(&s)).decision(), Decision::Allow, "and it closes again");
    store.put(Record::person(org(), name("olga"), person(false, "inner"), NOW)).unwrap();
    assert_eq!(ids(&ask(&s, &store, &read(&s))), ["owner"], "revocation is effective with the next question");
}

#[test]
fn attribute_access_to_the_second_level_is_always_there() {
    let forbid = r#"@id("material") forbid (principal, action in Countersign::Action::"callTool", resource)
        when { context has instance && context.instance.workflow.materiality >= 2 };"#;
    let s = snapshot(&format!("{PERMIT}{forbid}"));
    assert_eq!(ids(&ask(&s, &world(), &read(&s))), ["material"]);
}

#[test]
fn an_unknown_tool_is_a_question_that_is_denied() {
    let s = snapshot(PERMIT);
    let mut question = read(&s);
    question.resource = entity("Tool::repo.erase");
    assert_eq!(ids(&ask(&s, &world(), &question)), [ground::UNKNOWN_TOOL]);
}

#[test]
fn nothing_of_another_organization_is_sliced_stored_or_decided() {
    let s = snapshot(&format!("{PERMIT}@id(\"all\") permit (principal, action, resource);"));
    let other = OrgId::from_bytes([2; 16]);
    let store = world();
    store
        .put(Record::person(
            other,
            name("eve"),
            countersign_policy_decide::PersonFacts { active: true, ..Default::default() },
            NOW,
        ))
        .unwrap();
    let eve = EntityRef::new(other, EntityKind::Person, name("eve"));
    let home = EntityRef::organization(org());
    let list = |asked: &EntityRef, resource: &EntityRef| {
        Question::new(asked.clone(), Operation::ListTools, resource.clone(), NOW)
    };
    // Eve asks about this organization; this organization's person asks about Eve's; Eve asks with her own, here.
    assert_eq!(ids(&ask(&s, &store, &list(&eve, &home))), [ground::FOREIGN]);
    assert_eq!(
        ids(&ask(&s, &store, &list(&entity("Person::ida"), &EntityRef::organization(other)))),
        [ground::FOREIGN]
    );
    assert_eq!(ids(&ask(&s, &store, &list(&eve, &EntityRef::organization(other)))), [ground::FOREIGN]);
    assert_eq!(ask(&s, &store, &list(&entity("Person::ida"), &home)).decision(), Decision::Allow);
    let mut record = Record::agent(org(), name("mole"), agent(), NOW);
    record.parents.insert(EntityRef::new(other, EntityKind::Team, name("inner")));
    assert!(matches!(store.put(record), Err(EntityError::Foreign { .. })));
    let mut record = Record::agent(org(), name("mole"), agent(), NOW);
    record.attrs.insert("org", countersign_policy_decide::Attr::Text(other.to_string()));
    assert!(matches!(store.put(record), Err(EntityError::Foreign { .. })));
}

#[test]
fn a_record_that_breaks_the_schema_is_refused_when_it_is_written() {
    let store = EntityStore::new();
    let mut record = Record::agent(org(), name("odd"), agent(), NOW);
    record.attrs.remove("owner");
    assert!(matches!(store.put(record), Err(EntityError::Schema { .. })));
    let mut record = Record::agent(org(), name("odd"), agent(), NOW);
    record.attrs.insert("risk", countersign_policy_decide::Attr::Long(1));
    assert!(matches!(store.put(record), Err(EntityError::Schema { .. })));
    let mut record = Record::person(org(), name("odd"), person(true, "inner"), NOW);
    record.parents.insert(entity("Workflow::fix"));
    assert!(matches!(store.put(record), Err(EntityError::Schema { .. })));
    assert!(store.is_empty());
}

// ---- 6 --------------------------------------------------------------------------------------------------------------

#[test]
fn one_canonical_form_serves_digest_blob_and_tool() {
    let s = snapshot(PERMIT);
    let tool = s.tool("pay.refund").unwrap();
    let forms = [r#"{"amount":500,"currency":"EUR"}"#, " { \"currency\" : \"\\u0045UR\" , \"amount\" : 5.00e2 } "];
    let [first, second] = forms.map(|text| input::parse(tool, text.as_bytes()).unwrap());
    assert_eq!(first.canonical(), second.canonical());
    assert_eq!(first.canonical(), br#"{"amount":500,"currency":"EUR"}"#);
    let with = |input: input::TypedInput| {
        let mut question = call(&s, "pay.refund", r#"{"amount":1}"#);
        question.input = Some(Arc::new(input));
        question.digest()
    };
    assert_eq!(with(first), with(second));
    for refused in [
        r#"{"amount":1,"amount":500}"#,
        "{\"amount\":1,\"e\u{301}\":1}",
        r#"{"amount":1,"note":"x"}"#,
        r#"{"amount":"1"}"#,
    ] {
        assert!(input::parse(tool, refused.as_bytes()).is_err(), "{refused}");
    }
}

#[test]
fn what_cedar_cannot_type_is_listed_so_that_policy_can_send_it_to_a_person() {
    let opaque = gate("opaque", "a", "when { !context.opaque.isEmpty() }");
    let large = r#"@id("large") forbid (principal, action == Countersign::Action::"callTool:pay.refund", resource)
        when { context.input has amount && context.input.amount.greaterThan(decimal("500.0")) };"#;
    let s = snapshot(&format!("{PERMIT}{opaque}{large}"));
    let store = world();
    for (amount, decision) in [
        ("500", Decision::Allow),
        ("500.0001", Decision::Deny),
        ("500.00001", Decision::NeedsApproval),
        ("1e300", Decision::NeedsApproval),
    ] {
        let question = call(&s, "pay.refund", &format!(r#"{{"amount":{amount}}}"#));
        assert_eq!(ask(&s, &store, &question).decision(), decision, "{amount}");
    }
    let question = call(&s, "repo.read", r#"{"path":"a","extra":{"k":"v"}}"#);
    assert_eq!(ask(&s, &store, &question).decision(), Decision::NeedsApproval);
    let _ = instance(countersign_gateway_model::State::Running);
}
