//! The first hour of one person, through the command line: up, enrol, agent, gate, approve, edit policy, activate.

use std::path::Path;
use std::process::Command;

use countersign_tests_testkit::{Gateway, PASSWORD, countersign};
use serde_json::{Value, json};

/// A person at a terminal: a home folder of their own.
pub(crate) struct Person<'a> {
    gateway: &'a Gateway,
    pub(crate) home: tempfile::TempDir,
}

impl<'a> Person<'a> {
    pub(crate) fn new(gateway: &'a Gateway) -> Self {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("password"), PASSWORD).unwrap();
        Self { gateway, home }
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> (bool, String, String) {
        let output = Command::new(countersign())
            .env_clear()
            .env("HOME", self.home.path())
            .env("COUNTERSIGN_SERVER", self.gateway.url(""))
            .current_dir(self.home.path())
            .args(arguments)
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    }

    #[track_caller]
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let (ok, out, err) = self.run(&[&["--json"], arguments].concat());
        assert!(ok, "{arguments:?}: {out}{err}");
        serde_json::from_str(&out).unwrap_or_else(|_| panic!("{arguments:?} printed no JSON: {out}"))
    }
}

/// Whatever holds the text of that key, however deep.
fn seek(value: &Value, key: &str) -> String {
    match value {
        Value::Object(map) => match map.get(key).and_then(Value::as_str) {
            Some(text) => text.to_owned(),
            None => map.values().map(|inner| seek(inner, key)).find(|found| !found.is_empty()).unwrap_or_default(),
        },
        Value::Array(list) => list.iter().map(|inner| seek(inner, key)).find(|f| !f.is_empty()).unwrap_or_default(),
        _ => String::new(),
    }
}

#[test]
fn one_person_gets_from_an_empty_folder_to_a_changed_policy() {
    let gateway = Gateway::start();
    let dana = Person::new(&gateway);
    let token = gateway.data().join("enrolment.token");
    dana.json(&[
        "enrol",
        "person",
        "--id",
        "dana",
        "--token-file",
        token.to_str().unwrap(),
        "--password-file",
        "password",
    ]);
    dana.json(&["login", "dana", "--scope", "act decide", "--password-file", "password"]);
    assert!(dana.json(&["token", "whoami"]).to_string().contains("dana"));
    let made = dana.json(&[
        "agent",
        "create",
        "fixer",
        "--autonomy",
        "2",
        "--scope",
        "repo:merge",
        "--scope",
        "notes:write",
        "--credential",
    ]);
    let (client, secret) = (seek(&made, "client_id"), seek(&made, "client_secret"));
    assert!(!client.is_empty() && !secret.is_empty(), "{made}");
    dana.json(&["workflow", "register", "repair", "--version", "1"]);
    let instance = dana.json(&["instance", "create", "--workflow", "repair", "--agent", "fixer"]);
    let instance = {
        let id = seek(&instance, "id");
        assert!(id.starts_with("inst_"), "{instance}");
        id
    };
    let credentials = json!({ "client_id": client, "client_secret": secret });
    let agent = gateway.post("/api/v1/tokens/client-credentials", "", &credentials).expect_status(200).json();
    let agent = agent["access_token"].as_str().unwrap();
    let waiting = gateway.propose(agent, &instance, "repo.merge", &json!({ "branch": "main" })).expect_status(202);
    let gate = waiting.json()["gate"]["id"].as_str().unwrap().to_owned();

    let listed = dana.json(&["gate", "list"]);
    assert!(listed.to_string().contains(&gate), "{listed}");
    let shown = dana.json(&["gate", "show", &gate]);
    let (ok, _, said) = dana.run(&["gate", "approve", &gate, "--yes", "--justification", "read it"]);
    assert!(!ok && said.contains("shown-digest"), "a script must name what somebody has read: {said}");
    dana.json(&[
        "gate",
        "approve",
        &gate,
        "--yes",
        "--justification",
        "read it",
        "--shown-digest",
        &seek(&shown, "shown_digest"),
    ]);
    assert_eq!(seek(&dana.json(&["instance", "show", &instance]), "state"), "RUNNING");

    let bundle = dana.home.path().join("policy");
    let (ok, out, err) = dana.run(&["policy", "default", bundle.to_str().unwrap()]);
    assert!(ok, "{out}{err}");
    change(&bundle);
    let (ok, out, err) = dana.run(&["policy", "check", bundle.to_str().unwrap()]);
    assert!(ok, "{out}{err}");
    let (ok, out, err) = dana.run(&["policy", "test", bundle.to_str().unwrap()]);
    assert!(ok, "{out}{err}");
    let unread = dana.run(&["--json", "policy", "activate", bundle.to_str().unwrap(), "--yes"]);
    assert!(!unread.0, "the difference must be confirmed: {unread:?}");
    let token = gateway.login("dana", "act");
    activate(&gateway, &token, &bundle);
    let pack = dana.home.path().join("audit.evidence");
    dana.json(&["ledger", "pack", "--out", pack.to_str().unwrap()]);
    let report = dana.json(&["verify", pack.to_str().unwrap(), "--key", &gateway.root_vkey()]);
    assert_eq!(report["verdict"], "VALID");
}

/// A comment is a change: another digest, another version, no other decision.
fn change(bundle: &Path) {
    let policies = bundle.join("policies.cedar");
    let text = std::fs::read_to_string(&policies).unwrap();
    std::fs::write(&policies, format!("// reviewed by dana\n{text}")).unwrap();
}

/// Activates a folder as the command line does: first refused with the digest of the difference, then confirmed.
pub(crate) fn activate(gateway: &Gateway, token: &str, bundle: &Path) {
    let run = |more: &[&str]| {
        let output = Command::new(countersign())
            .env_clear()
            .args(["--json", "--server", &gateway.url(""), "--token", token, "policy", "activate"])
            .arg(bundle)
            .arg("--yes")
            .args(more)
            .output()
            .unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
        )
    };
    // A confirmation of something else is refused, and the refusal names what there is to confirm.
    let wrong = "0".repeat(64);
    let (ok, said) = run(&["--confirmed-diff", &wrong]);
    assert!(!ok, "{said}");
    let digest = said
        .split(|c: char| !c.is_ascii_hexdigit())
        .find(|word| word.len() == 64 && **word != *wrong)
        .unwrap_or_else(|| panic!("no digest in: {said}"))
        .to_owned();
    let (ok, said) = run(&["--confirmed-diff", &digest]);
    assert!(ok, "{said}");
}

/// For the walk over all operations.
pub(crate) fn activate_a_changed_bundle(gateway: &Gateway, dana: &str) {
    activate_edited(gateway, dana, change);
}

/// Activates the default bundle with something changed in its folder.
pub(crate) fn activate_edited(gateway: &Gateway, dana: &str, change: impl FnOnce(&Path)) {
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("policy");
    let written = Command::new(countersign()).env_clear().args(["policy", "default"]).arg(&bundle).output().unwrap();
    assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
    change(&bundle);
    activate(gateway, dana, &bundle);
}
