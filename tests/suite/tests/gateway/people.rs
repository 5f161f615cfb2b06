//! People and those who act for them, through the command line: invited with roles that mean something, lending their
//! authority to one agent.

use std::path::Path;
use std::process::Command;

use countersign_tests_testkit::{Gateway, PASSWORD, countersign};
use serde_json::{Value, json};

/// A command with a token: whether it did, and what it said.
fn run(gateway: &Gateway, token: &str, arguments: &[&str]) -> (bool, Value) {
    let output = Command::new(countersign())
        .env_clear()
        .env("COUNTERSIGN_TOKEN", token)
        .args(["--json", "--server", &gateway.url("")])
        .args(arguments)
        .output()
        .unwrap();
    let said = if output.status.success() { output.stdout } else { output.stderr };
    (output.status.success(), serde_json::from_slice(&said).unwrap())
}

fn kept(folder: &Path, name: &str, secret: &Value) -> String {
    let path = folder.join(name);
    std::fs::write(&path, secret.as_str().unwrap()).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn nobody_is_given_a_role_that_policy_does_not_know() {
    let gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    let entries = gateway.entries(&dana).len();
    let (ok, said) = run(&gateway, &dana, &["person", "invite", "--role", "APROVER"]);
    assert!(!ok && said["error"].as_str().unwrap().contains("APPROVER"), "the roles that there are: {said}");
    assert_eq!(said["problem"]["code"], "body-value-invalid");
    let new = json!({ "id": "eve", "display_name": "Eve", "roles": ["APROVER"] });
    assert_eq!(gateway.post("/api/v1/people", &dana, &new).code(), "body-value-invalid");
    let change = json!({ "roles": ["APROVER"] }).to_string().into_bytes();
    assert_eq!(gateway.send("PATCH", "/api/v1/people/dana", &dana, &[], Some(change)).code(), "body-value-invalid");
    assert_eq!(gateway.entries(&dana).len(), entries);

    let (ok, invited) = run(&gateway, &dana, &["person", "invite", "--role", "APPROVER"]);
    assert!(ok, "{invited}");
    let folder = tempfile::tempdir().unwrap();
    let token = kept(folder.path(), "token", &invited["token"]);
    let password = kept(folder.path(), "password", &json!(PASSWORD));
    let enrol = ["enrol", "person", "--id", "eve", "--token-file", &token, "--password-file", &password];
    let (ok, eve) = run(&gateway, "", &enrol);
    assert!(ok, "{eve}");
    assert_eq!((&eve["roles"], &eve["display_name"]), (&json!(["APPROVER"]), &json!("eve")));
}

#[test]
fn a_consent_is_good_for_the_agent_that_it_names() {
    let gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    let (fixer, other) = (gateway.agent(&dana, "fixer"), gateway.agent(&dana, "other"));
    let (ok, consent) = run(&gateway, &dana, &["token", "consent", "fixer", "--life-s", "600"]);
    assert!(ok, "{consent}");
    let folder = tempfile::tempdir().unwrap();
    let file = kept(folder.path(), "consent", &consent["access_token"]);
    let exchange = ["token", "exchange", "--consent-file", &file];
    let (ok, refused) = run(&gateway, &other, &exchange);
    assert!(!ok && refused["problem"]["code"] == "chain-refused", "{refused}");
    let (ok, token) = run(&gateway, &fixer, &exchange);
    assert!(ok, "{token}");
    let (ok, who) = run(&gateway, token["access_token"].as_str().unwrap(), &["token", "whoami"]);
    assert!(ok, "{who}");
    assert_eq!((&who["subject"], &who["on_behalf_of"]), (&json!("agent:fixer"), &json!(["person:dana"])));
}

#[test]
fn who_an_agent_acts_for_approves_nothing_of_it_and_is_told_why() {
    let gateway = Gateway::start();
    let (dana, dana_decides) = gateway.enrol();
    let agent = gateway.agent(&dana, "fixer");
    let anna = crate::glass::person(&gateway, &dana, "anna", "APPROVER");
    gateway.workflow(&dana, "repair");
    let instance = gateway.instance(&dana, "repair", "fixer");
    let consent = gateway.post("/api/v1/tokens/consent", &dana, &json!({ "agent": "fixer", "life_s": 600 }));
    let consent = json!({ "consent": consent.expect_status(200).json()["access_token"] });
    let acting = gateway.post("/api/v1/tokens/exchange", &agent, &consent).expect_status(200).json();
    let merge = json!({ "branch": "main", "message": "fix" });
    let waiting = gateway.propose(acting["access_token"].as_str().unwrap(), &instance, "repo.merge", &merge);
    let waiting = waiting.expect_status(202).json();
    let gate = waiting["gate"]["id"].as_str().unwrap();
    let approve = |token: &str| {
        let shown = gateway.get(&format!("/api/v1/gates/{gate}"), token).expect_status(200).json();
        let body = json!({ "decision": "APPROVE", "justification": "seen", "shown_digest": shown["shown_digest"] });
        gateway.post_once(&format!("/api/v1/gates/{gate}/decisions"), token, "once", &body).expect_status(200).json()
    };
    let own = approve(&dana_decides);
    let problem =
        json!({ "type": "/problems/acting-chain", "title": "Whoever decides acts here", "code": "acting-chain" });
    assert_eq!((&own["effect"], &own["problem"]), (&json!("not_eligible"), &problem), "{own}");
    let page = gateway.get("/problems/acting-chain", "").expect_status(200);
    assert!(String::from_utf8_lossy(&page.bytes).starts_with("# Whoever decides acts here\n"));
    assert_eq!((&own["state"], &own["remaining"][0]["counted"]), (&json!("WAITING_FOR_HUMAN"), &json!(0)), "{own}");
    let again = approve(&dana_decides);
    assert_eq!((&again["decision"], &again["problem"]), (&own["decision"], &own["problem"]), "one key, one answer");
    let other = approve(&anna);
    assert_eq!((&other["effect"], other.get("problem")), (&json!("resolving"), None), "{other}");
    let (code, report) = gateway.verify(&gateway.pack(&dana));
    assert_eq!((code, &report["verdict"]), (0, &json!("VALID")), "{report}");
}

#[test]
fn who_gives_the_current_password_gets_a_new_one_and_the_old_one_ends() {
    const NEW: &str = "quite another passphrase 8";
    let gateway = Gateway::start();
    let (dana, deciding) = gateway.enrol();
    let entries = gateway.entries(&dana).len();
    let set = |body: Value| {
        let body = body.to_string().into_bytes();
        gateway.send("PUT", "/api/v1/people/dana/password", &dana, &[], Some(body))
    };
    let login = |password: &str| {
        let body = json!({ "id": "dana", "password": password, "scope": "act" });
        gateway.post("/api/v1/tokens/login", "", &body)
    };
    assert_eq!(set(json!({ "password": NEW })).code(), "body-missing-field");
    assert_eq!(set(json!({ "password": NEW, "current": NEW })).code(), "credentials-invalid");
    assert_eq!(gateway.entries(&dana).len(), entries, "nothing came of either");
    login(PASSWORD).expect_status(200);

    let said = set(json!({ "password": NEW, "current": PASSWORD })).expect_status(200).json();
    assert_eq!(said["id"], "dana");
    // Whoever had the old password, or a token of it, has nothing by now.
    for token in [&dana, &deciding] {
        assert_eq!(gateway.get("/api/v1/me", token).status, 401);
    }
    assert_eq!(login(PASSWORD).code(), "credentials-invalid");
    let token = login(NEW).expect_status(200).json()["access_token"].as_str().unwrap().to_owned();
    let who = run(&gateway, &token, &["token", "whoami"]);
    assert!(who.0 && who.1["subject"] == "person:dana", "{who:?}");
    let recorded = gateway.entries(&token);
    assert_eq!(recorded.len(), entries + 1, "the change is on record, once");
    let words = format!("{recorded:?}");
    assert!(!words.contains(NEW) && !words.contains(PASSWORD), "and no password is");
}
