//! An approver signs with a key of their own, from the command line: the rule demands it, the gateway checks it, and the
//! verifier finds the key in the pack.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use countersign_tests_testkit::Gateway;
use serde_json::{Value, json};

use crate::first_hour::{Person, activate_edited};

/// Merges ask for signatures.
fn demand(bundle: &Path) {
    let rules = bundle.join("rules.json");
    let mut document: Value = serde_json::from_slice(&std::fs::read(&rules).unwrap()).unwrap();
    document["rules"]["merge"]["demand"] = json!({ "assertion": true });
    std::fs::write(rules, document.to_string()).unwrap();
}

#[test]
fn a_person_registers_a_key_and_signs_what_a_rule_wants_signed() {
    let gateway = Gateway::start();
    let (token, _) = gateway.enrol();
    activate_edited(&gateway, &token, demand);
    let agent = gateway.agent(&token, "fixer");
    gateway.workflow(&token, "repair");
    let dana = Person::new(&gateway);
    let wait = || {
        let instance = gateway.instance(&token, "repair", "fixer");
        let merge = json!({ "branch": "main", "message": "fix" });
        let answer = gateway.propose(&agent, &instance, "repo.merge", &merge).expect_status(202).json();
        (instance, answer["gate"]["id"].as_str().unwrap().to_owned())
    };
    let early = wait();
    dana.json(&["login", "dana", "--scope", "act decide", "--password-file", "password"]);

    let made = dana.json(&["key", "create", "dana.key"]);
    let file = dana.home.path().join("dana.key");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!dana.run(&["key", "create", "dana.key"]).0, "a key is never written over");
    let key_id = made["key_id"].as_str().unwrap();
    let registered = dana.json(&["key", "register", "dana.key"]);
    assert_eq!(registered["key_id"], key_id, "{registered}");
    let private = std::fs::read_to_string(&file).unwrap();
    let private = private.split_whitespace().last().unwrap().to_owned();
    assert!(!gateway.words().contains(&private), "the private key went nowhere");
    assert_eq!(dana.json(&["key", "list"])["items"][0]["key_id"], key_id);

    let decide = |verb: &str, gate: &str, more: &[&str]| {
        let shown = dana.json(&["gate", "show", gate])["shown_digest"].as_str().unwrap().to_owned();
        let words = ["--json", "gate", verb, gate, "--yes", "--justification", "read it", "--shown-digest", &shown];
        dana.run(&[&words[..], more].concat())
    };
    let sign = ["--sign-with", "dana.key"];
    let (ok, _, said) = decide("approve", &early.1, &sign);
    assert!(!ok && said.contains("after the gate opened"), "{said}");

    let (instance, gate) = wait();
    let (ok, _, said) = decide("approve", &gate, &[]);
    assert!(!ok && said.contains("signature-missing"), "{said}");
    let item = dana.json(&["gate", "show", &gate])["gate"]["items"][0]["item"].as_str().unwrap().to_owned();
    let (ok, out, said) = decide("approve", &gate, &sign);
    assert!(ok, "{out}{said}");
    let state = dana.json(&["instance", "show", &instance])["state"].clone();
    assert_eq!(state, "RUNNING", "{item}");

    let (_, gate) = wait();
    let item = dana.json(&["gate", "show", &gate])["gate"]["items"][0]["item"].as_str().unwrap().to_owned();
    let (ok, out, said) =
        decide("override", &gate, &["--item", &item, "--set", "/branch=\"staging\"", "--sign-with", "dana.key"]);
    assert!(ok, "{out}{said}");
    let (_, gate) = wait();
    let (ok, out, said) = decide("reject", &gate, &sign);
    assert!(ok, "{out}{said}");

    let (_, gate) = wait();
    dana.json(&["key", "revoke", key_id]);
    let (ok, _, said) = decide("approve", &gate, &sign);
    assert!(!ok && said.contains("is not registered as yours"), "{said}");

    let (code, report) = gateway.verify(&gateway.pack(&token));
    assert_eq!((code, &report["verdict"]), (0, &json!("VALID")), "{report}");
    assert_eq!(report["counts"]["asserted"], 3, "{report}");
    let key = &report["person_keys"][0];
    assert_eq!((&key["key"], &key["signed"]), (&json!(key_id), &json!(3)), "{report}");
    assert!(key["revoked"].is_u64(), "{report}");
}
