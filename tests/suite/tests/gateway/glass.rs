//! The glass is broken: one person lifts a rule of two through the command line, another reviews it, and an auditor who has
//! nothing but the pack reads both.

use std::path::Path;
use std::process::Command;

use countersign_tests_testkit::{Gateway, PASSWORD, countersign};
use serde_json::{Value, json};

use crate::first_hour::activate_edited;

/// Whom policy lets break the glass.
const PERMIT: &str = r#"
@id("security-breaks-glass")
@title("Security lifts a rule that its data lets it lift")
permit (principal is Countersign::Person, action == Countersign::Action::"breakGlass", resource is Countersign::Item)
when { principal in Countersign::Role::"SECURITY" && resource.open };
"#;

/// A merge takes two persons, or one of SECURITY and a review.
pub(crate) fn liftable(bundle: &Path) {
    let rules = bundle.join("rules.json");
    let mut data: Value = serde_json::from_str(&std::fs::read_to_string(&rules).unwrap()).unwrap();
    data["rules"]["merge"]["quorum"]["persons"] = json!(2);
    data["rules"]["merge"]["break_glass"] = json!({ "authority": { "roles": ["SECURITY"] }, "review_within_s": 3600 });
    std::fs::write(&rules, serde_json::to_string_pretty(&data).unwrap()).unwrap();
    let policies = bundle.join("policies.cedar");
    let text = std::fs::read_to_string(&policies).unwrap();
    std::fs::write(&policies, text + PERMIT).unwrap();
}

/// A weakening of policy takes another person although one changes policy alone, or one of SECURITY and a review.
fn liftable_change(bundle: &Path) {
    let rules = bundle.join("rules.json");
    let mut data: Value = serde_json::from_str(&std::fs::read_to_string(&rules).unwrap()).unwrap();
    let glass = json!({ "authority": { "roles": ["SECURITY"] }, "review_within_s": 3600 });
    data["rules"]["policy-change"]["break_glass"] = glass;
    std::fs::write(&rules, serde_json::to_string_pretty(&data).unwrap()).unwrap();
    let gate = r#"
@id("gate-weakening")
@requires_approval("policy-change")
@title("What weakens policy needs another person")
forbid (principal, action == Countersign::Action::"activatePolicy", resource is Countersign::PolicyBundle)
when { resource.weakens && !context.fourEyes }
unless { context.satisfied.contains(Countersign::ApprovalRule::"policy-change") };
"#;
    let policies = bundle.join("policies.cedar");
    let text = std::fs::read_to_string(&policies).unwrap();
    std::fs::write(&policies, text + PERMIT + gate).unwrap();
}

/// A proposal in its window that lifts take out of it, and who may: its id, the digest of its difference, the token.
fn proposed(gateway: &Gateway, dana: &str, who: &str) -> (String, String, String) {
    let sara = person(gateway, dana, who, "SECURITY");
    window(gateway, dana, 0);
    activate_edited(gateway, dana, liftable_change);
    window(gateway, dana, 3600);
    let draft = crate::changes::draft(&format!("after {who}"));
    let proposal = crate::changes::propose(gateway, dana, "/api/v1/policies/proposals", &draft);
    assert_eq!((&proposal["state"], &proposal["weakens"]), (&json!("shadowing"), &json!(true)), "{proposal}");
    let text = |key: &str| proposal[key].as_str().unwrap().to_owned();
    (text("id"), text("diff_digest"), sara)
}

/// For the walk over all operations: a window that can be cut short, as path, token and body.
pub(crate) fn cuttable(gateway: &Gateway, dana: &str, who: &str) -> (String, String, Value) {
    let (id, diff, sara) = proposed(gateway, dana, who);
    let body = json!({ "rule": "policy-change", "justification": "it stops every refund", "diff_digest": diff });
    (format!("/api/v1/policies/proposals/{id}/break-glass"), sara, body)
}

/// How long a change of policy is compared with what is asked before it is put in force.
pub(crate) fn window(gateway: &Gateway, dana: &str, seconds: u32) {
    let body = json!({ "value": seconds }).to_string().into_bytes();
    gateway.send("PUT", "/api/v1/settings/policy.shadow_window_s", dana, &[], Some(body)).expect_status(200);
}

/// A person with a role, with a token for deciding.
pub(crate) fn person(gateway: &Gateway, dana: &str, id: &str, role: &str) -> String {
    let invited = gateway.post("/api/v1/enrolments/people", dana, &json!({ "roles": [role] }));
    let token = invited.expect_status(201).json()["token"].clone();
    let body = json!({ "token": token, "id": id, "display_name": id, "password": PASSWORD, "person": id });
    gateway.post("/api/v1/enrol/person", "", &body).expect_status(201);
    gateway.login(id, "act decide")
}

fn run(gateway: &Gateway, token: &str, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(countersign())
        .env_clear()
        .args(["--json", "--server", &gateway.url(""), "--token", token])
        .args(arguments)
        .output()
        .unwrap();
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[track_caller]
fn json_of(gateway: &Gateway, token: &str, arguments: &[&str]) -> Value {
    let (ok, said) = run(gateway, token, arguments);
    assert!(ok, "{arguments:?}: {said}");
    serde_json::from_str(&said).unwrap_or_else(|_| panic!("{arguments:?} printed no JSON: {said}"))
}

/// For the walk over all operations: a rule that can be lifted, as path, token and body.
pub(crate) fn breakable(gateway: &Gateway, dana: &str, who: &str) -> (String, String, Value) {
    window(gateway, dana, 0);
    activate_edited(gateway, dana, liftable);
    let sara = person(gateway, dana, who, "SECURITY");
    let agent = gateway.agent(dana, &format!("{who}s-fixer"));
    let instance = gateway.instance(dana, "repair", &format!("{who}s-fixer"));
    let proposed = gateway.propose(&agent, &instance, "repo.merge", &json!({ "branch": "main", "message": "fix" }));
    let gate = proposed.json()["gate"]["id"].as_str().unwrap().to_owned();
    let shown = gateway.get(&format!("/api/v1/gates/{gate}"), &sara).expect_status(200).json();
    let body = json!({
        "rule": "merge", "justification": "production is down", "shown_digest": shown["shown_digest"]
    });
    (format!("/api/v1/gates/{gate}/break-glass"), sara, body)
}

/// A rule that was lifted: the lift.
pub(crate) fn broken(gateway: &Gateway, dana: &str, who: &str) -> String {
    let (path, sara, body) = breakable(gateway, dana, who);
    let lifted = gateway.post(&path, &sara, &body).expect_status(200).json();
    assert_eq!(lifted["effect"], "resolving", "{lifted}");
    lifted["lift"].as_str().unwrap().to_owned()
}

#[test]
fn one_person_breaks_the_glass_another_reviews_it_and_the_pack_tells_both() {
    let gateway = Gateway::start();
    let (dana, dana_decides) = gateway.enrol();
    gateway.workflow(&dana, "repair");
    activate_edited(&gateway, &dana, liftable);
    let sara = person(&gateway, &dana, "sara", "SECURITY");
    let anna = person(&gateway, &dana, "anna", "APPROVER");
    let rita = person(&gateway, &dana, "rita", "ADMIN");
    let agent = gateway.agent(&dana, "fixer");
    let instance = gateway.instance(&dana, "repair", "fixer");
    let merge = json!({ "branch": "main", "message": "fix" });
    let gate =
        gateway.propose(&agent, &instance, "repo.merge", &merge).json()["gate"]["id"].as_str().unwrap().to_owned();
    let shown = json_of(&gateway, &sara, &["gate", "show", &gate]);
    assert!(shown["view"].as_str().unwrap().contains("may be lifted without that by role SECURITY"), "{shown}");
    let digest = shown["shown_digest"].as_str().unwrap();
    let words = ["--justification", "production is down", "--yes", "--shown-digest", digest];
    let lift =
        |token: &str| run(&gateway, token, &[&["gate", "break-glass", &gate, "--rule", "merge"], &words[..]].concat());
    // Whoever the rule does not name, and an agent, lift nothing.
    let (ok, said) = lift(&anna);
    let unfit: Value = serde_json::from_str(&said).unwrap();
    let why = &unfit["problem"]["code"];
    assert_eq!((ok, &unfit["effect"], why), (true, &json!("not_eligible"), &json!("decider-refused")), "{unfit}");
    let (ok, said) = lift(&agent);
    assert!(!ok && said.contains("you are no person to whom its view is shown"), "{said}");
    let body = json!({ "rule": "merge", "justification": "production is down", "shown_digest": digest });
    let refused = gateway.post(&format!("/api/v1/gates/{gate}/break-glass"), &agent, &body);
    assert_eq!(refused.code(), "decider-not-a-person");
    let (ok, said) = lift(&sara);
    assert!(ok, "{said}");
    let lifted: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&lifted["effect"], &lifted["state"]), (&json!("resolving"), &json!("RUNNING")), "{lifted}");
    let id = lifted["lift"].as_str().unwrap();

    // Owed, listed, told by every pack.
    let listed = json_of(&gateway, &sara, &["review", "list"]);
    let owed = &listed["items"][0];
    assert_eq!((owed["id"].as_str(), &owed["overdue"]), (Some(id), &json!(false)), "{listed}");
    assert_eq!(owed["justification"], "production is down", "{listed}");
    assert_eq!(gateway.get("/api/v1/reviews", &agent).status, 404, "agents are told nothing of it");
    let (code, report) = gateway.verify(&gateway.pack(&dana));
    assert_eq!((code, &report["lifts"]["lifted"]), (0, &json!(1)), "{report}");
    assert_eq!(report["lifts"]["open"][0]["lift"], id, "{report}");

    let close = |token: &str| {
        run(&gateway, token, &["review", "close", id, "--finding", "upheld", "--justification", "I read it", "--yes"])
    };
    let (ok, said) = close(&sara);
    assert!(!ok && said.contains("review-own"), "{said}");
    let (ok, said) = close(&dana);
    assert!(!ok && said.contains("scope-missing"), "{said}");
    // Whose agent it was lifted for, either.
    let (ok, said) = close(&dana_decides);
    assert!(!ok && said.contains("review-own"), "{said}");
    let (ok, said) = close(&rita);
    assert!(ok, "{said}");
    let (ok, said) = close(&rita);
    assert!(!ok && said.contains("review-closed"), "{said}");
    let seen = gateway.get(&format!("/api/v1/instances/{instance}"), &dana).expect_status(200).json();
    assert_eq!(seen["lifts"][0]["review"]["finding"], "upheld", "{seen}");
    let told = gateway.get(&format!("/api/v1/instances/{instance}"), &agent).expect_status(200).json();
    assert!(told.get("lifts").is_none(), "agents are told nothing of it: {told}");
    let (code, report) = gateway.verify(&gateway.pack(&dana));
    assert_eq!((code, report["verdict"].as_str()), (0, Some("VALID")), "{report}");
    assert_eq!(report["lifts"]["open"], json!([]), "{report}");
    for entry in gateway.entries(&dana).iter().filter(|e| !e["verdict"].is_null()) {
        let again = gateway.get(&format!("/api/v1/replay/{}", entry["index"]), &dana).expect_status(200).json();
        assert_eq!(again["matches"], true, "{again} for {entry}");
    }
}

#[test]
fn a_shadow_window_is_cut_short_by_breaking_the_glass_and_the_entry_says_so() {
    let gateway = Gateway::start();
    let (dana, dana_decides) = gateway.enrol();
    let (id, diff, sara) = proposed(&gateway, &dana, "sara");
    let words = ["--rule", "policy-change", "--justification", "it stops every refund", "--yes", "--confirmed-diff"];
    let cut = |token: &str, diff: &str| {
        run(&gateway, token, &[&["policy", "break-glass", &id], &words[..], &[diff]].concat())
    };
    let (ok, said) = cut(&dana_decides, &diff);
    assert!(!ok && said.contains("rule-not-liftable"), "whoever proposes it does not lift it: {said}");
    let (ok, said) = cut(&sara, &"0".repeat(64));
    assert!(!ok && said.contains("diff-unconfirmed"), "{said}");
    let (ok, said) = cut(&sara, &diff);
    assert!(ok && said.contains("COMPLETED"), "{said}");
    let now = gateway.get(&format!("/api/v1/policies/proposals/{id}"), &dana).expect_status(200).json();
    assert_eq!((&now["state"], &now["break_glass"]), (&json!("activated"), &json!(true)), "{now}");
    let entries = gateway.entries(&dana);
    let activated = entries.iter().rfind(|entry| entry["kind"] == "policy").unwrap();
    assert_eq!((&activated["body"]["step"], &activated["body"]["break_glass"]), (&json!("activated"), &json!(true)));
    let listed = json_of(&gateway, &dana, &["review", "list"]);
    assert_eq!(listed["items"][0]["tool"], "policy.activate", "{listed}");
    let (code, report) = gateway.verify(&gateway.pack(&dana));
    assert_eq!((code, &report["lifts"]["open"][0]["rule"]), (0, &json!("policy-change")), "{report}");
}
