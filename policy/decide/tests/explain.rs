//! An explanation names the clause that stood in the way, in the words of its author.

#![expect(clippy::unwrap_used, reason = "tests")]

mod world;

use countersign_policy_decide::detectors::Detectors;
use countersign_policy_decide::masks::Masks;
use countersign_policy_decide::{Explained, Explanation, Outcome, PolicySnapshot, Question, decide_chain, explain};
use world::{PERMIT, call, gate, name, parts, read, snapshot, world};

fn explained(s: &PolicySnapshot, question: &Question) -> Explanation {
    let slice = world().slice(s, question);
    explain(s, &slice, question)
}

fn policy<'e>(explanation: &'e Explanation, id: &str) -> &'e Explained {
    explanation.policies.iter().find(|p| p.policy.as_str() == id).unwrap()
}

const NEAR: &str = r#"
@id("near") @title("Trusted agents read")
permit (principal is Countersign::Agent, action == Countersign::Action::"callTool:repo.read", resource)
when { principal.active && principal.autonomy   >= 3 && principal.scopes.contains("repo:read") }
unless { context.denials > 9 };"#;

#[test]
fn a_permit_that_nearly_held_names_the_first_clause_that_is_not_true() {
    let s = snapshot(NEAR);
    let explanation = explained(&s, &read(&s));
    let near = policy(&explanation, "near");
    assert_eq!(near.outcome, Outcome::Fails);
    assert_eq!(near.clauses.last().unwrap().text, "principal.autonomy >= 3");
    assert_eq!((near.clauses.len(), near.unasked), (2, 2));
    assert_eq!((near.place.as_str(), near.title.as_deref()), ("test.cedar:2:1", Some("Trusted agents read")));
    let text = explanation.to_string();
    assert!(text.contains("deny\n  gateway:default-deny: no policy permits it"), "{text}");
    assert!(text.contains("permit near (test.cedar:2:1): `principal.autonomy >= 3` is not true"), "{text}");
}

#[test]
fn an_unless_that_holds_is_named_whole() {
    let s = snapshot(&NEAR.replace(">= 3", ">= 1"));
    let mut question = read(&s);
    question.denials = 10;
    let explanation = explained(&s, &question);
    let near = policy(&explanation, "near");
    assert_eq!(near.clauses.last().unwrap().text, "unless { context.denials > 9 }");
    assert_eq!((near.outcome.clone(), near.unasked), (Outcome::Fails, 0));
}

#[test]
fn a_forbid_that_fired_shows_what_was_true_and_stands_first() {
    let forbid = r#"@id("no") forbid (principal, action in Countersign::Action::"callTool", resource)
        when { context has instance && context.instance.workflow.materiality >= 2 };"#;
    let s = snapshot(&format!("{PERMIT}{NEAR}{forbid}"));
    let explanation = explained(&s, &read(&s));
    let order: Vec<&str> = explanation.policies.iter().map(|p| p.policy.as_str()).collect();
    assert_eq!(order.first(), Some(&"no"));
    assert_eq!(order.get(1..3), Some(&["permit", "near"][..]), "then what permits, then what nearly did");
    let no = policy(&explanation, "no");
    assert_eq!(no.outcome, Outcome::Holds);
    let texts: Vec<&str> = no.clauses.iter().map(|c| c.text.as_str()).collect();
    assert_eq!(texts, ["context has instance", "context.instance.workflow.materiality >= 2"]);
}

#[test]
fn gates_and_errors_say_what_they_are() {
    let broken = r#"@id("broken") forbid (principal is Countersign::Agent, action in Countersign::Action::"callTool", resource)
        when { principal.autonomy * 9223372036854775807 > 5 };"#;
    let s = snapshot(&format!("{PERMIT}{}{broken}", gate("g", "a", "")));
    let explanation = explained(&s, &read(&s));
    assert_eq!(policy(&explanation, "g").gate, Some(name("a")));
    assert_eq!(policy(&explanation, "g").outcome, Outcome::Holds);
    let Outcome::Errs(error) = &policy(&explanation, "broken").outcome else { unreachable!("{explanation}") };
    assert!(error.contains("overflow"), "{error}");
    let mut met = read(&s);
    met.satisfied.insert(name("a"));
    let lifted = explained(&s, &met);
    let clause = &policy(&lifted, "g").clauses.last().unwrap().text;
    assert_eq!(clause, r#"unless { context.satisfied.contains(Countersign::ApprovalRule::"a") }"#);
}

#[test]
fn policies_whose_head_does_not_fit_are_not_listed_and_the_structure_is_json() {
    let s = snapshot(&format!("{PERMIT}{NEAR}"));
    let explanation = explained(&s, &call(&s, "pay.refund", r#"{"amount":1}"#));
    assert!(explanation.policies.iter().all(|p| p.policy.as_str() != "near"));
    let json = serde_json::to_value(&explanation.policies).unwrap();
    let first = json.as_array().unwrap().first().unwrap();
    assert_eq!(first.get("outcome"), Some(&serde_json::json!("holds")), "{first}");
}

#[test]
fn what_was_never_asked_of_policy_is_explained_by_the_answer_alone() {
    let s = snapshot(PERMIT);
    let question = read(&s);
    let store = world();
    store.forget(&world::entity("Instance::i1"));
    let explanation = explain(&s, &store.slice(&s, &question), &question);
    assert!(explanation.policies.is_empty());
    assert!(explanation.to_string().contains("gateway:missing-entity: `Instance::i1` is not known"), "{explanation}");
}

#[test]
fn what_a_detector_found_stands_with_its_place_and_never_with_its_text() {
    let mut parts = parts(PERMIT);
    let detectors = r#"{"detectors":{"escape":{"at":["/path"],"find":"path_traversal"}}}"#;
    parts.detectors = Detectors::parse(detectors.as_bytes()).unwrap();
    let s = PolicySnapshot::build(parts).unwrap();
    let explanation = explained(&s, &call(&s, "repo.read", r#"{"path":"../../etc/shadow"}"#));
    let found = explanation.found.first().unwrap();
    assert_eq!((explanation.found.len(), found.detector.as_str(), found.at.as_str()), (1, "escape", "/path"));
    let text = explanation.to_string();
    assert!(text.ends_with(&format!("\nfound escape: {} at `/path`", found.what)), "{text}");
    assert!(!text.contains("etc/shadow"), "{text}");
    let clean = explained(&s, &call(&s, "repo.read", r#"{"path":"a"}"#));
    assert!(clean.found.is_empty() && !clean.to_string().contains("found "), "{clean}");
}

#[test]
fn transforms_that_were_applied_to_the_input_are_named() {
    let cuts = |id: &str, transform: &str| {
        format!(
            r#"@id("{id}") @transform("{transform}") forbid (principal, action in Countersign::Action::"callTool", resource)
            unless {{ context.applied.contains("{transform}") }};"#
        )
    };
    let mut parts = parts(&format!("{PERMIT}{}{}", cuts("a", "hide-path"), cuts("b", "drop-extra")));
    let masks = r#"{"transforms":{"hide-path":{"steps":[{"at":["/path"],"with":"stars"}]},
        "drop-extra":{"steps":[{"at":["/extra"],"with":"drop"}]}}}"#;
    parts.masks = Masks::parse(masks.as_bytes()).unwrap();
    parts.transforms = vec![name("hide-path"), name("drop-extra")];
    let s = PolicySnapshot::build(parts).unwrap();
    let before = explained(&s, &read(&s));
    assert!(before.applied.is_empty() && !before.to_string().contains("transformed"), "{before}");
    let questions = vec![read(&s)];
    let decided = decide_chain(&s, &world().slices(&s, &questions), questions);
    let after = explained(&s, decided.questions.first().unwrap());
    assert_eq!(after.applied, [name("drop-extra"), name("hide-path")]);
    let text = after.to_string();
    assert!(text.starts_with("allow") && text.contains("\ntransformed: drop-extra, hide-path\n"), "{text}");
}
