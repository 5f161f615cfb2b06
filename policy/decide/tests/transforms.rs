//! Masks and transforms: what is masked is in nothing that comes after, and policy decides the input that is carried out.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod world;

use std::collections::BTreeSet;
use std::sync::Arc;

use countersign_gateway_model::{Decision, Name};
use countersign_policy_decide::catalogue::Catalogue;
use countersign_policy_decide::detectors::Detectors;
use countersign_policy_decide::masks::Masks;
use countersign_policy_decide::{
    Answer, BuildError, Decided, PolicyParts, PolicySnapshot, Question, decide_chain, explain, ground, input, replay,
};
use proptest::prelude::*;
use world::{PERMIT, ask, call, gate, name, parts, read, world};

const PAN: &str = "4111111111111111";

fn with(policies: &str, masks: &str, order: &[&str]) -> PolicyParts {
    let mut parts = parts(policies);
    parts.masks = Masks::parse(masks.as_bytes()).unwrap();
    parts.transforms = order.iter().map(|n| name(n)).collect();
    parts
}

fn snapshot(policies: &str, masks: &str, order: &[&str]) -> PolicySnapshot {
    PolicySnapshot::build(with(policies, masks, order)).unwrap_or_else(|e| panic!("{e}"))
}

/// Denies until the transform was applied.
fn asks(id: &str, transform: &str, when: &str) -> String {
    format!(
        r#"@id("{id}") @transform("{transform}") forbid (principal, action in Countersign::Action::"callTool", resource)
        {when} unless {{ context.applied.contains("{transform}") }};"#
    )
}

const TRANSFORMS: &str = r#"{"transforms":{
    "mask-currency":{"steps":[{"tools":["pay.*"],"at":["/currency"],"with":"last4"}]},
    "drop-extra":{"steps":[{"at":["/extra"],"with":"drop"}]},
    "hide-path":{"steps":[{"at":["/path"],"with":"stars"}]}}}"#;
const ORDER: [&str; 3] = ["hide-path", "drop-extra", "mask-currency"];

fn refund(s: &PolicySnapshot) -> Question {
    call(s, "pay.refund", &format!(r#"{{"amount":5,"currency":"{PAN}"}}"#))
}

fn chain(s: &PolicySnapshot, questions: Vec<Question>) -> Decided {
    let slices = world().slices(s, &questions);
    decide_chain(s, &slices, questions)
}

fn ids(answer: &Answer) -> Vec<&str> {
    answer.determining.iter().map(Name::as_str).collect()
}

#[test]
fn a_masked_field_is_raw_in_nothing_that_comes_after() {
    let masks = r#"{"masks":{"pan":{"steps":[{"tools":["pay.refund"],"at":["/currency"],"with":"last4"}]}}}"#;
    let sees = r#"@id("sees") forbid (principal, action == Countersign::Action::"callTool:pay.refund", resource)
        when { context.facts.contains("masked:pan") && context.input has currency && context.input.currency like "*1111" };"#;
    let s = snapshot(&format!("{PERMIT}{sees}"), masks, &[]);
    let question = refund(&s);
    let input = question.input.clone().unwrap();
    assert_eq!(input.canonical(), br#"{"amount":5,"currency":"************1111"}"#);
    assert_eq!(input.masked(), &BTreeSet::from([name("masked:pan")]));
    assert!(!format!("{question:?}").contains(PAN), "nor anywhere in what is held");
    let bytes = question.canonical();
    assert!(!String::from_utf8(bytes.clone()).unwrap().contains(PAN), "nor in the kept question");
    let answer = ask(&s, &world(), &question);
    assert_eq!(ids(&answer), ["sees"], "policy sees the fact and the replacement");
    // The raw value is gone; what policy knew of it is in the question, so the verdict still repeats.
    let slice = world().slice(&s, &question);
    let blobs: Vec<&[u8]> = slice.members().iter().map(|m| &**m.blob()).collect();
    assert_eq!(replay(&s, &bytes, &blobs).unwrap(), answer);
    assert_eq!(Question::parse(&bytes, &s).unwrap().canonical(), bytes);
}

#[test]
fn a_mask_that_fails_drops_the_field_and_says_so_and_never_passes_it_raw() {
    // Stars do not fit a number; the amount is required, the other field is not.
    let on = |at: &str| {
        format!(r#"{{"masks":{{"m":{{"steps":[{{"tools":["pay.refund"],"at":["{at}"],"with":"stars"}}]}}}}}}"#)
    };
    let s = snapshot(PERMIT, &on("/amount"), &[]);
    let question = call(&s, "pay.refund", r#"{"amount":98765,"currency":"EUR"}"#);
    let answer = ask(&s, &world(), &question);
    assert_eq!((answer.decision(), ids(&answer)), (Decision::Deny, vec![ground::MASK_FAILED]));
    assert!(answer.firm, "nor does a workflow in shadow let it through");
    let bytes = question.canonical();
    assert!(!format!("{question:?} {answer:?} {}", String::from_utf8_lossy(&bytes)).contains("98765"));
    assert_eq!(question.input.as_ref().unwrap().canonical(), br#"{"currency":"EUR"}"#, "the rest is on record");
    let slice = world().slice(&s, &question);
    let blobs: Vec<&[u8]> = slice.members().iter().map(|m| &**m.blob()).collect();
    assert_eq!(replay(&s, &bytes, &blobs).unwrap(), answer, "and the denial is computed again from it");
    let constant = r#"{"masks":{"m":{"steps":[{"tools":["pay.refund"],"at":["/currency"],"with":{"constant":7}}]}}}"#;
    let s = snapshot(PERMIT, constant, &[]);
    let input = refund(&s).input.unwrap();
    assert_eq!(input.canonical(), br#"{"amount":5}"#);
    assert_eq!(input.masked(), &BTreeSet::from([name("mask-failed:m"), name("masked:m")]));
}

#[test]
fn a_mask_that_does_not_fit_an_optional_field_drops_it_and_the_last_four_of_a_short_value_are_not_shown() {
    let stars = r#"{"masks":{"m":{"steps":[{"tools":["repo.read"],"at":["/extra"],"with":"stars"}]}}}"#;
    let s = snapshot(PERMIT, stars, &[]);
    let input = call(&s, "repo.read", r#"{"path":"a","extra":{"k":"v"}}"#).input.unwrap();
    assert_eq!(input.canonical(), br#"{"path":"a"}"#);
    assert_eq!(input.masked(), &BTreeSet::from([name("mask-failed:m"), name("masked:m")]));
    let last4 = r#"{"masks":{"m":{"steps":[{"tools":["repo.read"],"at":["/path"],"with":"last4"}]}}}"#;
    let s = snapshot(PERMIT, last4, &[]);
    for (raw, masked) in
        [("", ""), ("abcd", "****"), ("abcdefg", "*******"), ("abcdefgh", "****efgh"), ("äöüßéèçñ", "****éèçñ")]
    {
        let input = call(&s, "repo.read", &serde_json::json!({ "path": raw }).to_string()).input.unwrap();
        assert_eq!(input.canonical(), serde_json::json!({ "path": masked }).to_string().as_bytes());
    }
}

#[test]
fn a_raw_value_of_a_wrong_type_is_refused_and_not_masked_into_a_right_one() {
    let masks = r#"{"masks":{"m":{"steps":[{"tools":["pay.refund"],"at":["/currency"],"with":{"constant":"EUR"}}]}}}"#;
    let s = snapshot(PERMIT, masks, &[]);
    let tool = s.tool("pay.refund").unwrap();
    for wrong in [r#"{"amount":1,"currency":5}"#, r#"{"amount":1,"currency":{"__entity":{}}}"#] {
        assert!(input::parse(tool, wrong.as_bytes()).is_err(), "{wrong}");
    }
}

#[test]
fn a_mask_that_names_a_place_that_no_tool_has_does_not_load() {
    let masks = |at: &str, tools: &str| {
        format!(r#"{{"masks":{{"m":{{"steps":[{{"tools":["{tools}"],"at":["{at}"],"with":"drop"}}]}}}}}}"#)
    };
    for (at, tools, fits) in [
        ("/currency", "pay.refund", true),
        ("/curency", "pay.refund", false),
        ("/currency/x", "pay.*", false),
        ("/extra", "repo.read", true),
        ("/extra/anything", "repo.read", false),
        ("/extra/*", "*", false),
        ("/*/anything", "repo.read", false),
        ("/path", "*", true),
        ("/nothing", "gone.tool", true),
    ] {
        let built = PolicySnapshot::build(with(PERMIT, &masks(at, tools), &[]));
        match built {
            Ok(_) => assert!(fits, "{at} {tools}"),
            Err(BuildError::Mask { problem, .. }) => assert!(!fits && problem.contains(at), "{problem}"),
            Err(other) => panic!("{other}"),
        }
    }
}

/// The parts with one tool, `repo.read`, whose input has these properties.
fn over(masks: &str, properties: &str) -> PolicyParts {
    let catalogue = format!(
        r#"{{"tools":[{{"name":"repo.read","risk":0,"data_class":"internal",
        "input":{{"type":"object","properties":{{{properties}}}}}}}]}}"#
    );
    let mut parts = with(PERMIT, masks, &[]);
    parts.catalogue = Some(Catalogue::parse(catalogue.as_bytes()).unwrap());
    parts
}

#[test]
fn a_mask_names_all_elements_of_an_array_and_none_by_its_number() {
    let cards = r#""cards":{"type":"array","items":{"type":"object","properties":{"pan":{"type":"string"}}}},
        "by_number":{"type":"object","properties":{"0":{"type":"string"}}}"#;
    let masks = |at: &str| format!(r#"{{"masks":{{"m":{{"steps":[{{"at":{at},"with":"drop"}}]}}}}}}"#);
    // The second place would be another element, once the first was dropped.
    for numbered in [r#"["/cards/0","/cards/1"]"#, r#"["/cards/1/pan"]"#] {
        let error = PolicySnapshot::build(over(&masks(numbered), cards)).unwrap_err().to_string();
        assert!(error.contains("by its number"), "{error}");
    }
    let s = PolicySnapshot::build(over(&masks(r#"["/cards/*/pan","/by_number/0"]"#), cards)).unwrap();
    let input = call(&s, "repo.read", r#"{"cards":[{"pan":"1"},{"pan":"2"}],"by_number":{"0":"3"}}"#).input.unwrap();
    assert_eq!(input.canonical(), br#"{"by_number":{},"cards":[{},{}]}"#);
}

#[test]
fn where_one_mask_fails_nothing_that_another_hides_is_on_record_either() {
    let masks = r#"{"masks":{
        "a":{"steps":[{"tools":["pay.refund"],"at":["/amount"],"with":"stars"}]},
        "b":{"steps":[{"tools":["pay.refund"],"at":["/currency"],"with":"last4"}]}}}"#;
    let s = snapshot(PERMIT, masks, &[]);
    let question = refund(&s);
    assert_eq!(question.input.as_ref().unwrap().canonical(), b"{}");
    assert_eq!(question.input.as_ref().unwrap().masked(), &BTreeSet::from([name("mask-failed:a")]));
    assert_eq!(ids(&ask(&s, &world(), &question)), [ground::MASK_FAILED]);
    let explanation = explain(&s, &world().slice(&s, &question), &question);
    assert!(explanation.policies.is_empty(), "no policy was asked");
    assert!(explanation.to_string().contains("mask `a`"), "{explanation}");
}

#[test]
fn a_step_that_could_only_refuse_is_named_before_and_one_that_may_work_is_not() {
    let catalogue = Catalogue::parse(
        br#"{"tools":[{"name":"a.b","input":{"type":"object",
        "required":["text","number","listed","shape","any","list","deep","starred"],"properties":{
        "text":{"type":"string"},"number":{"type":"number"},"listed":{"type":"string","enum":["CHF","EUR"]},
        "shape":{"type":"string","pattern":"^[a-z]+$"},"any":{},"list":{"type":"array","minItems":1,"items":{"type":"integer"}},
        "deep":{"type":"object","required":["in"],"properties":{"in":{"type":["boolean","null"]}}},
        "starred":{"type":"string","enum":["***"]},"optional":{"type":"number"}}}},
        {"name":"a.c","input":{"type":"object","properties":{"text":{"type":"integer"}}}}]}"#,
    )
    .unwrap()
    .compile()
    .unwrap();
    let misfits = |at: &str, with: &str| {
        let masks = format!(r#"{{"masks":{{"m":{{"steps":[{{"at":{at},"with":{with}}}]}}}}}}"#);
        let masks = Masks::parse(masks.as_bytes()).unwrap();
        let found = masks.misfits(&catalogue.iter().map(|(name, tool)| (name, &tool.shape)));
        found.into_iter().map(|misfit| misfit.at).collect::<Vec<_>>()
    };
    let (drop, stars, last4) = (r#""drop""#, r#""stars""#, r#""last4""#);
    for (at, with) in [
        ("/text", drop),
        ("/number", stars),
        ("/number", last4),
        ("/number", r#"{"constant":"x"}"#),
        ("/listed", stars),
        ("/listed", r#"{"constant":"XXX"}"#),
        ("/list/*", drop),
        ("/list/*", stars),
        ("/deep/in", drop),
        ("/deep/in", stars),
        ("/deep", stars),
        ("/shape", r#"{"constant":"A"}"#),
        ("/*", stars),
    ] {
        assert_eq!(misfits(&format!(r#"["{at}"]"#), with), ["/masks/m/steps/0/at/0"], "{at} {with}");
    }
    for (at, with) in [
        ("/text", stars),
        ("/text", last4),
        ("/text", r#"{"constant":""}"#),
        ("/number", r#"{"constant":0}"#),
        ("/listed", r#"{"constant":"EUR"}"#),
        ("/starred", stars),
        ("/shape", stars),
        ("/any", stars),
        ("/list/*", r#"{"constant":0}"#),
        ("/deep/in", r#"{"constant":null}"#),
        ("/optional", drop),
        ("/optional", stars),
    ] {
        assert_eq!(misfits(&format!(r#"["{at}"]"#), with), Vec::<String>::new(), "{at} {with}");
    }
    // What does not fit an optional field drops the whole step's, a required one among them.
    assert_eq!(misfits(r#"["/text","/optional"]"#, stars), ["/masks/m/steps/0/at/1"]);
}

#[test]
fn null_stays_null_where_a_text_would_be_starred() {
    for with in ["stars", "last4"] {
        let masks = format!(r#"{{"masks":{{"m":{{"steps":[{{"at":["/note"],"with":"{with}"}}]}}}}}}"#);
        let s = PolicySnapshot::build(over(&masks, r#""note":{"type":["string","null"]}"#)).unwrap();
        let input = call(&s, "repo.read", r#"{"note":null}"#).input.unwrap();
        assert_eq!(input.canonical(), br#"{"note":null}"#, "{with}");
        assert_eq!(input.masked(), &BTreeSet::from([name("masked:m")]), "nothing failed");
    }
}

#[test]
fn transforms_are_applied_in_the_manifests_order_before_any_gate_and_the_new_input_is_decided() {
    let policies = format!(
        "{PERMIT}{}{}{}",
        asks("a", "drop-extra", ""),
        asks("b", "hide-path", ""),
        gate("g", "a", r#"when { context.applied.contains("hide-path") }"#)
    );
    let s = snapshot(&policies, TRANSFORMS, &ORDER);
    let question = call(&s, "repo.read", r#"{"path":"abc","extra":{"k":"v"}}"#);
    // One decision alone denies, and says what is missing; whoever does not transform carries nothing out.
    let first = ask(&s, &world(), &question);
    assert_eq!((first.decision(), ids(&first)), (Decision::Deny, vec!["a", "b"]));
    assert_eq!(first.transforms, [name("hide-path"), name("drop-extra")], "the manifest's order, not the policies'");
    let decided = chain(&s, vec![question.clone()]);
    let after = decided.questions.first().unwrap();
    assert_eq!(after.input.as_ref().unwrap().canonical(), br#"{"path":"***"}"#);
    assert_eq!(*after.input.as_ref().unwrap().applied(), BTreeSet::from([name("drop-extra"), name("hide-path")]));
    assert_eq!(decided.before.unwrap().canonical(), question.input.unwrap().canonical());
    let answer = decided.answers.first().unwrap();
    assert_eq!(answer.verdict.rules, [name("a")], "the gate is about the new input");
    assert!(answer.transforms.is_empty());
    let slice = world().slice(&s, after);
    let blobs: Vec<&[u8]> = slice.members().iter().map(|m| &**m.blob()).collect();
    assert_eq!(&replay(&s, &after.canonical(), &blobs).unwrap(), answer, "the stored question gives the answer again");
}

#[test]
fn a_transform_that_is_asked_for_after_transforming_is_a_denial() {
    let again = asks("again", "hide-path", r#"when { context.applied.contains("drop-extra") }"#);
    let s = snapshot(&format!("{PERMIT}{}{again}", asks("first", "drop-extra", "")), TRANSFORMS, &ORDER);
    let decided = chain(&s, vec![read(&s)]);
    assert_eq!(ids(decided.answers.first().unwrap()), [ground::TRANSFORM_AGAIN]);
    // A stored question says what was done to its input.
    let stored = String::from_utf8(read(&s).canonical()).unwrap().replacen('{', r#"{"applied":["drop-extra"],"#, 1);
    let claimed = Question::parse(stored.as_bytes(), &s).unwrap();
    assert_eq!(ids(&ask(&s, &world(), &claimed)), [ground::TRANSFORM_AGAIN]);
}

#[test]
fn another_input_starts_without_what_was_done_to_the_one_before() {
    let s = snapshot(&format!("{PERMIT}{}", asks("t", "hide-path", "")), TRANSFORMS, &ORDER);
    let decided = chain(&s, vec![read(&s)]);
    let done = decided.questions.into_iter().next().unwrap();
    assert_eq!(decided.answers.first().unwrap().decision(), Decision::Allow);
    let bytes = done.canonical();
    let mut again = Question::parse(&bytes, &s).unwrap();
    assert_eq!(again.canonical(), bytes);
    assert_eq!(ask(&s, &world(), &again).decision(), Decision::Allow, "the stored question needs no second transform");
    // Someone changes the input: what was transformed for the old one says nothing of the new one.
    again.input = read(&s).input;
    assert_eq!(ask(&s, &world(), &again).transforms, [name("hide-path")]);
}

#[test]
fn a_hard_forbid_stands_before_transforms_and_an_error_before_both() {
    let hard = r#"@id("hard") forbid (principal, action in Countersign::Action::"callTool", resource);"#;
    let s = snapshot(&format!("{PERMIT}{}{hard}", asks("t", "drop-extra", "")), TRANSFORMS, &ORDER);
    let decided = chain(&s, vec![read(&s)]);
    assert_eq!(ids(decided.answers.first().unwrap()), ["hard"]);
    assert!(decided.before.is_none(), "nothing was transformed for a call that is refused");
}

#[test]
fn every_principal_of_a_chain_is_asked_about_the_transformed_input() {
    // Only the delegator's team asks for it; the acting principal's question changes all the same.
    let only = asks("only", "hide-path", "when { context.asDelegator }");
    let permit = r#"@id("all") permit (principal, action, resource);"#;
    let s = snapshot(&format!("{permit}{only}"), TRANSFORMS, &ORDER);
    let mut delegator = read(&s);
    delegator.asked = world::entity("Person::ida");
    delegator.as_delegator = true;
    let decided = chain(&s, vec![read(&s), delegator]);
    assert!(decided.answers.iter().all(|a| a.decision() == Decision::Allow), "{:?}", decided.answers);
    for question in &decided.questions {
        assert_eq!(question.input.as_ref().unwrap().canonical(), br#"{"path":"*"}"#);
    }
}

#[test]
fn a_transform_policy_of_another_shape_does_not_load() {
    let head = r#"forbid (principal, action in Countersign::Action::"callTool", resource)"#;
    let unless = r#"unless { context.applied.contains("hide-path") }"#;
    for (policy, part) in [
        (format!(r#"@id("x") @transform("hide-path") {head};"#), "exactly one"),
        (format!(r#"@id("x") @transform("hide-path") {head} {unless} {unless};"#), "exactly one"),
        (format!(r#"@id("x") @transform("drop-extra") {head} {unless};"#), "exactly one"),
        (
            format!(r#"@id("x") @transform("gone") {head} unless {{ context.applied.contains("gone") }};"#),
            "names no transform",
        ),
        (
            format!(r#"@id("x") @transform("hide-path") @requires_approval("a") {head} {unless};"#),
            "stand on one policy",
        ),
        (r#"@id("x") @transform("hide-path") permit (principal, action, resource);"#.to_owned(), "on a permit"),
        (
            r#"@id("x") permit (principal, action, resource) when { context.applied.contains("hide-path") };"#
                .to_owned(),
            "forbids only",
        ),
    ] {
        let error =
            PolicySnapshot::build(with(&format!("{PERMIT}{policy}"), TRANSFORMS, &ORDER)).unwrap_err().to_string();
        assert!(error.contains(part), "{policy}: {error}");
    }
    let unordered = PolicySnapshot::build(with(PERMIT, TRANSFORMS, &["hide-path"])).unwrap_err().to_string();
    assert!(unordered.contains("does not say when"), "{unordered}");
    let unknown = PolicySnapshot::build(with(PERMIT, "{}", &["hide-path"])).unwrap_err().to_string();
    assert!(unknown.contains("does not have it"), "{unknown}");
    for wrong in [
        r#"{"masks":{"m":{"steps":[]}}}"#,
        r#"{"masks":{"m":{"steps":[{"at":[],"with":"drop"}]}}}"#,
        r#"{"masks":{"m":{"steps":[{"at":["x"],"with":"drop"}]}}}"#,
        r#"{"masks":{"m":{"steps":[{"at":["/x"],"with":"raw"}]}}}"#,
        r#"{"masks":{"m":{"steps":[{"at":["/x"],"with":"drop"}]}},"transforms":{"m":{"steps":[{"at":["/x"],"with":"drop"}]}}}"#,
    ] {
        assert!(Masks::parse(wrong.as_bytes()).is_err(), "{wrong}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn masking_what_was_masked_changes_nothing(text in ".{0,20}", with in 0..4_usize) {
        use std::sync::OnceLock;
        static SNAPSHOTS: OnceLock<Vec<Arc<PolicySnapshot>>> = OnceLock::new();
        let all = SNAPSHOTS.get_or_init(|| {
            [r#""drop""#, r#""stars""#, r#""last4""#, r#"{"constant":"x"}"#]
                .map(|w| format!(r#"{{"masks":{{"m":{{"steps":[{{"tools":["pay.refund"],"at":["/currency"],"with":{w}}}]}}}}}}"#))
                .map(|masks| Arc::new(snapshot(PERMIT, &masks, &[])))
                .to_vec()
        });
        let tool = all.get(with).unwrap().tool("pay.refund").unwrap();
        let raw = serde_json::json!({"amount": 1, "currency": text}).to_string();
        let once = input::parse(tool, raw.as_bytes()).unwrap();
        let twice = input::parse(tool, once.canonical()).unwrap();
        prop_assert_eq!(once.canonical(), twice.canonical());
        if text.chars().count() > 4 && !text.contains('*') {
            let masked = String::from_utf8(once.canonical().to_vec()).unwrap();
            prop_assert!(!masked.contains(serde_json::json!(text).as_str().unwrap()) , "{}", masked);
        }
    }
}

const KEY: &str = "-----BEGIN RSA PRIVATE KEY-----";

/// A transform that is asked for where a key is found, and a forbid on what is still found after it.
fn searching(transforms: &str, order: &[&str], asked: &str) -> PolicySnapshot {
    let asks = asks("asks", asked, r#"when { context.facts.contains("key") || context.denials > 0 }"#);
    let still = r#"@id("still") forbid (principal, action in Countersign::Action::"callTool", resource)
        when { context.facts.contains("key") && !context.applied.isEmpty() };"#;
    let mut parts = with(&format!("{PERMIT}{asks}{still}"), transforms, order);
    parts.detectors = Detectors::parse(br#"{"detectors":{"key":{"find":{"secrets":{}}}}}"#).unwrap();
    PolicySnapshot::build(parts).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn detectors_search_what_a_transform_leaves_and_what_it_brings() {
    let s = searching(TRANSFORMS, &ORDER, "drop-extra");
    let asked = |input: serde_json::Value| call(&s, "repo.read", &input.to_string());
    // The key goes with the field: nothing is found in what is decided, carried out and kept.
    let decided = chain(&s, vec![asked(serde_json::json!({ "path": "a", "extra": { "k": KEY } }))]);
    let last = decided.questions.first().unwrap().input.as_ref().unwrap();
    assert_eq!(decided.before.as_ref().unwrap().detected(), &BTreeSet::from([name("key")]), "it was found before");
    assert_eq!((last.detected().len(), last.found().len(), last.canonical()), (0, 0, &br#"{"path":"a"}"#[..]));
    assert_eq!(ids(decided.answers.first().unwrap()), ["permit"]);
    // A key that the transform does not reach is found again, and denies.
    let decided = chain(&s, vec![asked(serde_json::json!({ "path": KEY, "extra": { "k": "v" } }))]);
    assert_eq!(ids(decided.answers.first().unwrap()), ["still"]);
    assert_eq!(decided.questions.first().unwrap().input.as_ref().unwrap().found().first().unwrap().at, "/path");
    // One that a constant brings in is found, though there was none before.
    let brings = serde_json::json!({ "transforms": { "brings": { "steps": [{ "at": ["/path"], "with": { "constant": KEY } }] } } });
    let s = searching(&brings.to_string(), &["brings"], "brings");
    let mut question = call(&s, "repo.read", r#"{"path":"a"}"#);
    question.denials = 1;
    let decided = chain(&s, vec![question]);
    assert!(decided.before.as_ref().unwrap().detected().is_empty());
    assert_eq!(ids(decided.answers.first().unwrap()), ["still"]);
}

#[test]
fn what_a_transform_leaves_that_fits_no_schema_is_a_denial_of_the_whole_chain() {
    let drops = r#"{"transforms":{"drops":{"steps":[{"tools":["repo.read"],"at":["/path"],"with":"drop"}]}}}"#;
    let s = snapshot(&format!("{PERMIT}{}", asks("t", "drops", "when { !context.asDelegator }")), drops, &["drops"]);
    let mut delegator = read(&s);
    delegator.as_delegator = true;
    let decided = chain(&s, vec![read(&s), delegator]);
    assert!(decided.before.is_none(), "nothing was transformed");
    for (answer, question) in decided.answers.iter().zip(&decided.questions) {
        assert_eq!((answer.decision(), ids(answer)), (Decision::Deny, vec![ground::TRANSFORM_FAILED]));
        assert!(answer.firm && answer.transforms.is_empty(), "nor does a workflow in shadow let it through");
        assert_eq!(question.input.as_ref().unwrap().canonical(), br#"{"path":"a"}"#);
    }
    assert_eq!(decided.answers.len(), 2);
}
