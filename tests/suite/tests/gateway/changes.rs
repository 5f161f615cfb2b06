//! A change of policy by two people, through the command line: proposed by one, approved by the other, carried out by the
//! gateway, and taken back again.

use std::path::{Path, PathBuf};
use std::process::Command;

use countersign_tests_testkit::{Gateway, PASSWORD, countersign};
use serde_json::{Value, json};

/// Runs the command line with somebody's token.
fn run(gateway: &Gateway, token: &str, arguments: &[&str]) -> (bool, String, String) {
    let output = Command::new(countersign())
        .env_clear()
        .args(["--json", "--server", &gateway.url(""), "--token", token])
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

#[track_caller]
fn json_of(gateway: &Gateway, token: &str, arguments: &[&str]) -> Value {
    let (ok, out, err) = run(gateway, token, arguments);
    assert!(ok, "{arguments:?}: {out}{err}");
    serde_json::from_str(&out).unwrap_or_else(|_| panic!("{arguments:?} printed no JSON: {out}"))
}

/// A second person, who may change policy too.
pub(crate) fn mia(gateway: &Gateway, dana: &str) {
    let invited = gateway.post("/api/v1/enrolments/people", dana, &json!({ "roles": ["POLICY_ADMIN"] }));
    let token = invited.expect_status(201).json()["token"].clone();
    let body = json!({ "token": token, "id": "mia", "display_name": "Mia", "password": PASSWORD, "person": "mia" });
    gateway.post("/api/v1/enrol/person", "", &body).expect_status(201);
}

/// The bundle that ships in a folder, with a comment of its own.
pub(crate) fn folder(at: &Path, comment: &str) -> PathBuf {
    let bundle = at.join("policy");
    let written = Command::new(countersign()).env_clear().args(["policy", "default"]).arg(&bundle).output().unwrap();
    assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
    let policies = bundle.join("policies.cedar");
    let text = std::fs::read_to_string(&policies).unwrap();
    std::fs::write(&policies, format!("// {comment}\n{text}")).unwrap();
    bundle
}

/// The same, as it is sent.
pub(crate) fn draft(comment: &str) -> Vec<u8> {
    let at = tempfile::tempdir().unwrap();
    draft_of(&folder(at.path(), comment))
}

/// A bundle's folder, as it is sent.
pub(crate) fn draft_of(bundle: &Path) -> Vec<u8> {
    let mut files = serde_json::Map::new();
    let mut folders = vec![bundle.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(bundle).unwrap().to_str().unwrap().to_owned();
            if name != "catalogue.json" {
                files.insert(name, std::fs::read_to_string(&path).unwrap().into());
            }
        }
    }
    serde_json::to_vec(&json!({ "format": "countersign-draft/1", "files": files })).unwrap()
}

/// The path at which a bundle is taken: with the difference confirmed, as one person alone must.
pub(crate) fn confirmed(gateway: &Gateway, token: &str, path: &str, body: &[u8]) -> String {
    let answer = gateway.send("POST", path, token, &[], Some(body.to_vec())).expect_status(409);
    assert_eq!(answer.code(), "diff-unconfirmed");
    let problem = answer.json();
    assert!(!problem["diff"].as_str().unwrap().is_empty(), "{problem}");
    format!("{path}?confirmed_diff={}", problem["diff_digest"].as_str().unwrap())
}

/// Proposes a bundle with the difference confirmed.
pub(crate) fn propose(gateway: &Gateway, token: &str, path: &str, body: &[u8]) -> Value {
    let confirmed = confirmed(gateway, token, path, body);
    let answer = gateway.send("POST", &confirmed, token, &[], Some(body.to_vec()));
    assert!(answer.status < 300, "{}", String::from_utf8_lossy(&answer.bytes));
    answer.json()
}

fn active(gateway: &Gateway, token: &str) -> Value {
    gateway.get("/api/v1/policies/active", token).expect_status(200).json()
}

#[test]
fn two_people_change_policy_and_go_back_and_neither_can_alone() {
    let gateway = Gateway::start();
    let (dana, dana_decides) = gateway.enrol();
    let (ok, out, err) = run(&gateway, &dana, &["policy", "four-eyes", "--yes"]);
    assert!(!ok && err.contains("bundle-locks-out"), "nobody else could approve: {out}{err}");
    mia(&gateway, &dana);
    let mia = gateway.login("mia", "act decide");
    json_of(&gateway, &dana, &["policy", "window", "0"]);
    json_of(&gateway, &dana, &["policy", "four-eyes", "--yes"]);
    assert_eq!(active(&gateway, &dana)["authority"], "four_eyes");

    let at = tempfile::tempdir().unwrap();
    let bundle = folder(at.path(), "reviewed by two");
    let path = bundle.to_str().unwrap();
    let proposed = json_of(&gateway, &dana, &["policy", "propose", path]);
    assert_eq!(proposed["state"], "waiting", "{proposed}");
    let gate = proposed["gate"].as_str().unwrap();
    let approve = |token: &str, gate: &str| {
        let shown = json_of(&gateway, token, &["gate", "show", gate]);
        let digest = shown["shown_digest"].as_str().unwrap().to_owned();
        let words = ["gate", "approve", gate, "--yes", "--justification", "I read it", "--shown-digest", &digest];
        (shown["view"].as_str().unwrap().to_owned(), run(&gateway, token, &words))
    };
    let (view, _) = approve(&dana_decides, gate);
    assert!(view.contains("What changes:") && view.contains("put policy version 2 in force"), "{view}");
    assert_eq!(active(&gateway, &dana)["version"], 1, "whoever proposes it does not approve it");
    let (_, (ok, out, err)) = approve(&mia, gate);
    assert!(ok && out.contains("COMPLETED"), "{out}{err}");
    assert_eq!(active(&gateway, &dana)["version"], 2);

    // At once, by one alone: policy says no, and the answer says what to do.
    std::fs::write(bundle.join("roles.json"), std::fs::read_to_string(bundle.join("roles.json")).unwrap() + "\n")
        .unwrap();
    let body = draft("another one");
    let checked =
        gateway.send("POST", "/api/v1/policies/check", &dana, &[], Some(body.clone())).expect_status(200).json();
    let at_once = format!("/api/v1/policies/activate?confirmed_diff={}", checked["diff_digest"].as_str().unwrap());
    let refused = gateway.send("POST", &at_once, &dana, &[], Some(body)).expect_status(403);
    assert!(refused.json()["detail"].as_str().unwrap().contains("propose"), "{}", refused.json());

    let back = json_of(&gateway, &mia, &["policy", "rollback"]);
    assert_eq!((&back["state"], &back["rollback"]), (&json!("waiting"), &json!(true)), "{back}");
    let (_, (ok, out, err)) = approve(&dana_decides, back["gate"].as_str().unwrap());
    assert!(ok, "{out}{err}");
    let now = active(&gateway, &dana);
    assert_eq!((&now["version"], &now["bundle"]), (&json!(3), &back["bundle"]));

    let listed = json_of(&gateway, &dana, &["policy", "proposals"]);
    let states: Vec<&str> = listed["items"].as_array().unwrap().iter().map(|p| p["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["activated", "activated"]);
    let (code, report) = gateway.verify(&gateway.pack(&dana));
    assert_eq!((code, report["verdict"].as_str()), (0, Some("VALID")), "{report}");
}

#[test]
fn a_shadow_window_ends_by_itself_and_shows_what_it_saw() {
    let gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    mia(&gateway, &dana);
    let agent = gateway.agent(&dana, "fixer");
    gateway.workflow(&dana, "repair");
    let instance = gateway.instance(&dana, "repair", "fixer");
    json_of(&gateway, &dana, &["policy", "window", "1"]);
    json_of(&gateway, &dana, &["policy", "four-eyes", "--yes"]);
    let at = tempfile::tempdir().unwrap();
    let bundle = folder(at.path(), "compared with the past");
    let proposed = json_of(&gateway, &dana, &["policy", "propose", bundle.to_str().unwrap()]);
    let id = proposed["id"].as_str().unwrap();
    gateway.propose(&agent, &instance, "notes.append", &json!({ "text": "a" })).expect_status(200);
    let path = format!("/api/v1/policies/proposals/{id}");
    let waiting = gateway.until(&path, &dana, |proposal| proposal["state"] == "waiting");
    assert!(waiting["compared"]["asked"].as_u64().unwrap() > 0, "{waiting}");
    let withdrawn = json_of(&gateway, &dana, &["policy", "withdraw", id]);
    assert_eq!(withdrawn["state"], "withdrawn");
    assert_eq!(active(&gateway, &dana)["version"], 1);
}

#[test]
fn agents_neither_change_policy_nor_see_how_it_changes() {
    let gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    let agent = gateway.agent(&dana, "fixer");
    let done = propose(&gateway, &dana, "/api/v1/policies/proposals", &draft("by dana"));
    assert_eq!(done["state"], "activated", "{done}");
    let id = done["id"].as_str().unwrap();
    // Refused before it is read: they learn no difference either.
    let tried = |path: &str, body: &[u8]| gateway.send("POST", path, &agent, &[], Some(body.to_vec()));
    for refused in [
        tried("/api/v1/policies/proposals", &draft("by an agent")),
        tried("/api/v1/policies/rollback", b"{}"),
        gateway.send("PUT", "/api/v1/settings/authority", &agent, &[], Some(br#"{"value":"four_eyes"}"#.to_vec())),
        gateway.send("PUT", "/api/v1/settings/policy.shadow_window_s", &agent, &[], Some(br#"{"value":0}"#.to_vec())),
    ] {
        assert_eq!(refused.code(), "policy-denied");
    }
    for unseen in [
        gateway.get("/api/v1/policies/proposals", &agent),
        gateway.get(&format!("/api/v1/policies/proposals/{id}"), &agent),
        gateway.post(&format!("/api/v1/policies/proposals/{id}/withdraw"), &agent, &json!({})),
    ] {
        assert_eq!(unseen.status, 404);
    }
    assert_eq!(active(&gateway, &dana)["version"], 2);
}
