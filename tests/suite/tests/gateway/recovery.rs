//! An organization whose policy cannot be read, so that the kernel alone decides, is recovered offline; every pack says so
//! until a person closes the review.

use std::path::{Path, PathBuf};
use std::process::Command;

use countersign_tests_testkit::{Gateway, countersign};
use serde_json::{Value, json};

/// The files of active bundles in a data folder.
fn bundles(data: &Path) -> Vec<PathBuf> {
    let organizations = std::fs::read_dir(data.join("policy")).unwrap().map(|entry| entry.unwrap().path());
    let folders = organizations.map(|path| path.join("bundles")).filter(|path| path.is_dir());
    folders.flat_map(|folder| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path())).collect()
}

fn run(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(countersign()).env_clear().args(arguments).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// Empties the signatures of a bundle file, wherever they stand in it.
fn unsigned(document: &mut Value) -> bool {
    let Some(map) = document.as_object_mut() else { return false };
    if let Some(signatures) = map.get_mut("signatures") {
        *signatures = if signatures.is_array() { json!([]) } else { json!({}) };
        return true;
    }
    map.values_mut().any(unsigned)
}

#[test]
fn an_organization_without_a_readable_policy_is_recovered_and_every_pack_says_so_until_it_is_reviewed() {
    let mut gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    let agent = gateway.agent(&dana, "fixer");
    gateway.workflow(&dana, "repair");
    let work = |gateway: &Gateway, dana: &str| {
        gateway.post("/api/v1/instances", dana, &json!({ "workflow": "repair", "agent": "fixer" }))
    };
    work(&gateway, &dana).expect_status(201);

    // The bundle is damaged on disk: no older one takes its place.
    assert!(gateway.stop());
    for file in bundles(&gateway.data()) {
        std::fs::write(file, "{}").unwrap();
    }
    gateway.up();
    let dana = gateway.login("dana", "act");
    assert_eq!(work(&gateway, &dana).code(), "policy-denied", "nothing starts under the kernel alone");
    let (ok, said) = gateway.operate(&["recover", "--yes"]);
    assert!(!ok && said.contains("in use by another process"), "{said}");
    let review = || gateway.post("/api/v1/policies/recovery/review", &dana, &json!({}));
    assert_eq!(review().code(), "not-found", "nothing is open");

    // What is not signed by the root threshold, and what is no recovery, changes nothing.
    assert!(gateway.stop());
    let file = gateway.beside("recovery.bundle");
    let (ok, said) = gateway.operate(&["recover", "--out", file.to_str().unwrap()]);
    assert!(ok, "{said}");
    let whole = std::fs::read(&file).unwrap();
    let mut document: Value = serde_json::from_slice(&whole).unwrap();
    assert!(unsigned(&mut document));
    let stripped = gateway.beside("stripped.bundle");
    std::fs::write(&stripped, document.to_string()).unwrap();
    let (ok, said) = gateway.operate(&["recover", "--yes", "--bundle", stripped.to_str().unwrap()]);
    assert!(!ok && said.contains("signature"), "{said}");
    let folder = gateway.beside("other");
    let (ok, said) = run(&["policy", "default", "--example", "payments", folder.to_str().unwrap()]);
    assert!(ok, "{said}");
    let key = gateway.beside("other.key");
    let (ok, said) = run(&["policy", "key", "--name", "other", "--out", key.to_str().unwrap()]);
    assert!(ok, "{said}");
    let organization = gateway.tenants()[0].organization.clone();
    let other = gateway.beside("other.bundle");
    let sign = ["policy", "sign", folder.to_str().unwrap(), "--key", key.to_str().unwrap()];
    let rest = ["--organization", &organization, "--out", other.to_str().unwrap()];
    let (ok, said) = run(&[&sign[..], &rest].concat());
    assert!(ok, "{said}");
    let (ok, said) = gateway.operate(&["recover", "--yes", "--bundle", other.to_str().unwrap()]);
    assert!(!ok && said.contains("is not the one that a recovery puts in force"), "{said}");

    let (ok, said) = gateway.operate(&["recover", "--yes", "--bundle", file.to_str().unwrap()]);
    assert!(ok, "{said}");
    let recovered: Value = serde_json::from_str(&said).unwrap();
    gateway.up();
    let dana = gateway.login("dana", "act");
    work(&gateway, &dana).expect_status(201);
    let active = || gateway.get("/api/v1/policies/active", &dana).expect_status(200).json();
    assert_eq!((&active()["version"], &active()["recovery"]), (&json!(2), &recovered["bundle"]));
    let (code, report) = gateway.verify(&gateway.pack(&dana));
    assert_eq!(code, 0, "{report:#}");
    assert_eq!(report["recovery"][0]["from"], recovered["entry"]);
    assert!(report["not_proven"].to_string().contains("reviewed the recovery at entry"), "{report:#}");
    let pack = gateway.pack(&dana);
    let (ok, said) = run(&["verify", pack.to_str().unwrap(), "--key", &gateway.root_vkey()]);
    assert!(ok && said.contains(" is OPEN: "), "{said}");

    // No program closes it, a person does, once.
    assert_eq!(gateway.post("/api/v1/policies/recovery/review", &agent, &json!({})).status, 403);
    let url = gateway.url("");
    let review = ["--server", &url, "--token", &dana, "recover", "review", "--yes"];
    let (ok, said) = run(&review);
    assert!(ok, "{said}");
    let (ok, said) = run(&review);
    assert!(!ok && said.contains("not-found"), "{said}");
    assert_eq!(active().get("recovery"), None);
    let (code, report) = gateway.verify(&gateway.pack(&dana));
    assert_eq!((code, &report["recovery"], &report["recoveries"]), (0, &Value::Null, &json!(1)));
}

#[test]
fn a_recovery_needs_nothing_to_be_broken_and_takes_the_place_of_what_is_in_force() {
    let mut gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    crate::first_hour::activate_a_changed_bundle(&gateway, &dana);
    let before = gateway.get("/api/v1/policies/active", &dana).expect_status(200).json();
    assert_eq!(before["version"], 2);
    assert!(gateway.stop());
    let (ok, said) = gateway.operate(&["recover", "--yes"]);
    assert!(ok, "{said}");
    gateway.up();
    let dana = gateway.login("dana", "act");
    let after = gateway.get("/api/v1/policies/active", &dana).expect_status(200).json();
    assert_eq!(after["version"], 3);
    assert_ne!(after["bundle"], before["bundle"]);
    assert_eq!(after["recovery"], after["bundle"]);
    // A second one, before the first was looked at, leaves two reviews open: each is closed by itself.
    assert!(gateway.stop());
    let (ok, said) = gateway.operate(&["recover", "--yes"]);
    assert!(ok, "{said}");
    gateway.up();
    let dana = gateway.login("dana", "act");
    let (code, report) = gateway.verify(&gateway.pack(&dana));
    assert_eq!((code, &report["recoveries"]), (0, &json!(2)), "{report:#}");
    let active = gateway.get("/api/v1/policies/active", &dana).expect_status(200).json();
    let of = |at: usize| report["recovery"][at]["bundle"].clone();
    assert_eq!((of(0), of(1)), (after["bundle"].clone(), active["bundle"].clone()), "{report:#}");
    assert_eq!(active["recovery"], after["bundle"], "the oldest");
    for bundle in [of(0), of(1)] {
        // A repeat with its key closes no other.
        let close = || gateway.post_once("/api/v1/policies/recovery/review", &dana, &bundle.to_string(), &json!({}));
        let reviewed = close().expect_status(200).json();
        assert_eq!(reviewed["bundle"], bundle);
        let again = close().expect_status(200).json();
        assert_eq!((&again["bundle"], &again["receipt"]["index"]), (&bundle, &reviewed["receipt"]["index"]));
    }
    let (code, report) = gateway.verify(&gateway.pack(&dana));
    assert_eq!((code, &report["recovery"], &report["recoveries"]), (0, &Value::Null, &json!(2)), "{report:#}");
}

#[test]
fn the_authority_mode_is_lowered_offline_with_the_root_threshold_and_never_without() {
    let mut gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    crate::changes::mia(&gateway, &dana);
    let raise = |gateway: &Gateway, dana: &str| {
        let body = json!({ "value": "four_eyes" }).to_string().into_bytes();
        gateway.send("PUT", "/api/v1/settings/authority", dana, &[], Some(body)).expect_status(200);
    };
    let mode = |gateway: &Gateway, dana: &str| {
        gateway.get("/api/v1/policies/active", dana).expect_status(200).json()["authority"].clone()
    };
    raise(&gateway, &dana);
    let (ok, said) = gateway.operate(&["policy", "solo", "--yes"]);
    assert!(!ok && said.contains("in use by another process"), "{said}");
    let body = json!({ "value": "solo" }).to_string().into_bytes();
    let refused = gateway.send("PUT", "/api/v1/settings/authority", &dana, &[], Some(body));
    assert!(refused.status >= 400, "it is not lowered by anybody who asks");

    // Without the root keys' signatures, or with those of another statement, nothing changes.
    assert!(gateway.stop());
    let file = gateway.beside("solo.json");
    let path = file.to_str().unwrap();
    let (ok, said) = gateway.operate(&["policy", "solo", "--out", path]);
    assert!(ok, "{said}");
    let whole: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let written = |document: &Value| std::fs::write(&file, document.to_string()).unwrap();
    let mut stripped = whole.clone();
    assert!(unsigned(&mut stripped));
    written(&stripped);
    let key = gateway.beside("other.key");
    let (ok, said) = run(&["policy", "key", "--name", "other", "--out", key.to_str().unwrap()]);
    assert!(ok, "{said}");
    let lower = |gateway: &Gateway| gateway.operate(&["policy", "solo", "--yes", "--statement", path]);
    let (ok, said) = lower(&gateway);
    assert!(!ok && said.contains("signature"), "{said}");
    let (ok, said) = run(&["policy", "solo", "sign", path, "--key", key.to_str().unwrap()]);
    assert!(ok, "{said}");
    let (ok, said) = lower(&gateway);
    assert!(!ok && said.contains("signature"), "a key that is none of the root's: {said}");
    let mut other = whole.clone();
    other["statement"]["since"] = json!(0);
    written(&other);
    let (ok, said) = lower(&gateway);
    assert!(!ok && said.contains("is not the one that lowers the authority mode here and now"), "{said}");

    written(&whole);
    let (ok, said) = lower(&gateway);
    assert!(ok, "{said}");
    let lowered: Value = serde_json::from_str(&said).unwrap();
    let signers: Vec<&Value> =
        whole["signatures"].as_array().unwrap().iter().map(|signature| &signature["key"]).collect();
    assert_eq!((&lowered["signed_by"], &lowered["local_key"]), (&json!(signers), &json!(true)), "who signed is named");
    gateway.up();
    let dana = gateway.login("dana", "act");
    assert_eq!(mode(&gateway, &dana), "solo");
    let entry = gateway.get(&format!("/api/v1/audit/entries/{}", lowered["entry"]), &dana).expect_status(200).json();
    assert_eq!((&entry["kind"], &entry["body"]["setting"]), (&json!("settings"), &json!("authority")));
    let (code, report) = gateway.verify(&gateway.pack(&dana));
    assert_eq!((code, &report["verdict"]), (0, &json!("VALID")), "{report}");

    // What was signed is good once: raised again, it takes another statement.
    raise(&gateway, &dana);
    assert!(gateway.stop());
    let (ok, said) = lower(&gateway);
    assert!(!ok && said.contains("is not the one that lowers the authority mode here and now"), "{said}");
    gateway.up();
    let dana = gateway.login("dana", "act");
    assert_eq!(mode(&gateway, &dana), "four_eyes");
}
