//! Whose signatures count, and how many, is changed on a stopped gateway by root documents that succeed each other; from
//! then on the key in the data folder alone puts nothing in force, and no older document comes back.

use std::path::PathBuf;
use std::process::Command;

use countersign_tests_testkit::{Answer, Gateway, countersign};
use serde_json::{Value, json};

/// Runs the program beside a gateway's folder, without it: whether it did, and what it said.
fn offline(gateway: &Gateway, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(countersign());
    let output = command.env_clear().current_dir(gateway.beside("")).arg("--json").args(arguments).output().unwrap();
    let bytes = if output.status.success() { output.stdout } else { [output.stdout, output.stderr].concat() };
    (output.status.success(), String::from_utf8_lossy(&bytes).into_owned())
}

#[track_caller]
fn done(gateway: &Gateway, arguments: &[&str]) -> Value {
    let (ok, said) = offline(gateway, arguments);
    assert!(ok, "{arguments:?}: {said}");
    serde_json::from_str(&said).unwrap_or_else(|_| panic!("{arguments:?} printed no JSON: {said}"))
}

fn install(gateway: &Gateway, file: &str, more: &[&str]) -> (bool, String) {
    let path = gateway.beside(file);
    gateway.operate(&[&["policy", "root", "install", path.to_str().unwrap(), "--yes"], more].concat())
}

fn send(gateway: &Gateway, token: &str, path: &str, bytes: &[u8]) -> Answer {
    gateway.send("POST", &format!("/api/v1/policies/{path}"), token, &[], Some(bytes.to_vec()))
}

/// The default bundle with a comment, as the command line sends a folder: sealed and signed by the gateway itself.
fn draft(gateway: &Gateway) -> Vec<u8> {
    let folder = gateway.beside("policy");
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let names = ["policies.cedar", "rules.json", "roles.json"];
    let files: serde_json::Map<String, Value> =
        names.map(|name| (name.to_owned(), json!(read(name)))).into_iter().collect();
    serde_json::to_vec(&json!({ "format": "countersign-draft/1", "files": files })).unwrap()
}

fn active(gateway: &Gateway, token: &str) -> Value {
    gateway.get("/api/v1/policies/active", token).expect_status(200).json()
}

#[test]
fn root_documents_take_the_power_to_sign_from_the_key_in_the_data_folder_and_do_not_come_back() {
    let mut gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    let first = active(&gateway, &dana)["bundle"].as_str().unwrap().to_owned();
    let organization = gateway.tenants()[0].organization.clone();
    let roots: PathBuf = gateway.data().join("policy").join(&organization).join("roots");
    done(&gateway, &["policy", "default", "policy"]);
    let policies = gateway.beside("policy").join("policies.cedar");
    let text = std::fs::read_to_string(&policies).unwrap();
    std::fs::write(&policies, format!("// signed by two\n{text}")).unwrap();
    let key = |name: &str| {
        done(&gateway, &["policy", "key", "--name", name, "--out", &format!("{name}.key")])["vkey"].clone()
    };
    let (one, two) = (key("one"), key("two"));
    let (one, two) = (one.as_str().unwrap(), two.as_str().unwrap());
    let local = roots.join("1.json");
    let next =
        ["policy", "root", "next", "--root", local.to_str().unwrap(), "--add", one, "--add", two, "--threshold", "2"];
    done(&gateway, &[&next[..], &["--out", "unsigned.json"]].concat());
    let made = done(&gateway, &[&next[..], &["--key", "one.key", "--key", "two.key", "--out", "root-2.json"]].concat());

    // Not while it serves, and not without the signatures of those who shall sign from then on.
    let (ok, said) = install(&gateway, "root-2.json", &[]);
    assert!(!ok && said.contains("in use by another process"), "{said}");
    assert!(gateway.stop());
    let (ok, said) = install(&gateway, "unsigned.json", &[]);
    assert!(!ok && said.contains("has 1 of the 2 signatures"), "{said}");
    let (ok, said) = install(&gateway, "root-2.json", &[]);
    assert!(ok, "{said}");
    let installed: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&installed["version"], &installed["digest"]), (&json!(2), &made["digest"]));
    let entry = installed["entry"].as_u64().unwrap();
    let (ok, said) = install(&gateway, "root-2.json", &[]);
    assert!(ok, "{said}");
    assert_eq!(serde_json::from_str::<Value>(&said).unwrap()["entry"], Value::Null, "it is on record once: {said}");

    // The key in the data folder is one of three, and not enough any more.
    gateway.up();
    let dana = gateway.login("dana", "act");
    assert_eq!(active(&gateway, &dana)["bundle"], json!(first), "what is in force stays");
    let record = gateway.get(&format!("/api/v1/audit/entries/{entry}"), &dana).expect_status(200).json();
    assert_eq!((&record["kind"], &record["body"]["setting"]), (&json!("settings"), &json!("policy.root")));
    for path in [
        "check",
        "activate?confirmed_diff=0000000000000000000000000000000000000000000000000000000000000000",
        "proposals",
    ] {
        let refused = send(&gateway, &dana, path, &draft(&gateway));
        let said = refused.json().to_string();
        assert_eq!(refused.code(), "bundle-rejected", "{path}: {said}");
        assert!(said.contains("has 1 of the 2 signatures that root version 2 asks for"), "{path}: {said}");
    }
    let tool = json!({ "tools": [{ "name": "tickets.create", "input": { "type": "object" } }] });
    let refused = gateway.post("/api/v1/tools", &dana, &tool);
    let said = refused.json().to_string();
    assert_eq!(refused.code(), "catalogue-rejected", "{said}");
    assert!(said.contains("asks for 2 signatures, of which that key gives 1"), "{said}");
    gateway.get("/api/v1/tools/tickets.create", &dana).expect_status(404);

    // Signed where the keys are, by one and then by both.
    let seal =
        ["policy", "sign", "policy", "--key", "one.key", "--organization", &organization, "--bundle-version", "2"];
    let seal = [&seal[..], &["--predecessor", &first, "--root-version", "2", "--out", "next.bundle"]].concat();
    done(&gateway, &seal);
    let bundle = || std::fs::read(gateway.beside("next.bundle")).unwrap();
    let refused = send(&gateway, &dana, "check", &bundle());
    assert_eq!(refused.code(), "bundle-rejected", "one of two");
    done(&gateway, &["policy", "sign", "next.bundle", "--key", "two.key", "--out", "next.bundle"]);
    let checked = send(&gateway, &dana, "check", &bundle()).expect_status(200).json();
    let confirmed = format!("activate?confirmed_diff={}", checked["diff_digest"].as_str().unwrap());
    send(&gateway, &dana, &confirmed, &bundle()).expect_status(200);
    let now = active(&gateway, &dana);
    assert_eq!((&now["version"], &now["signed_by"]), (&json!(2), &json!("threshold")), "{now}");

    // A key that the bundle in force needs is not revoked by mistake; the one in the data folder is.
    assert!(gateway.stop());
    let second = roots.join("2.json");
    let chain = ["policy", "root", "next", "--root", local.to_str().unwrap(), "--root", second.to_str().unwrap()];
    let keys = ["--key", "one.key", "--key", "two.key"];
    let id = |vkey: &str| vkey.splitn(3, '+').take(2).collect::<Vec<_>>().join("+");
    let revoke = |key: &str, out: &str| {
        done(&gateway, &[&chain[..], &["--revoke", key, "--out", out], &keys].concat());
    };
    revoke(&id(one), "root-3-one.json");
    let (ok, said) = install(&gateway, "root-3-one.json", &[]);
    assert!(!ok && said.contains("the bundle in force would not stand"), "{said}");
    let document: Value = serde_json::from_slice(&std::fs::read(&local).unwrap()).unwrap();
    let kept = document["root"]["keys"][0]["vkey"].as_str().unwrap();
    revoke(&id(kept), "root-3.json");
    let (ok, said) = install(&gateway, "root-3.json", &[]);
    assert!(ok, "{said}");
    for (older, file) in [("the one before", "root-2.json"), ("another third", "root-3-one.json")] {
        let (ok, said) = install(&gateway, file, &["--drop-bundle"]);
        assert!(!ok && said.contains("does not succeed version 3"), "{older}: {said}");
    }
    gateway.up();
    let dana = gateway.login("dana", "act");
    assert_eq!(active(&gateway, &dana)["bundle"], now["bundle"], "two keys that stay signed it");
    let refused = send(&gateway, &dana, "check", &draft(&gateway));
    let said = refused.json().to_string();
    assert!(refused.code() == "bundle-rejected" && said.contains("has 0 of the 2 signatures"), "{said}");
    let (code, report) = gateway.verify(&gateway.pack(&dana));
    assert_eq!((code, &report["verdict"]), (0, &json!("VALID")), "{report}");

    // A folder of before, put back, is noticed.
    assert!(gateway.stop());
    std::fs::rename(roots.join("3.json"), gateway.beside("kept.json")).unwrap();
    let said = gateway.try_up().unwrap_err();
    assert!(said.contains("the ledger names root document") && said.contains("ends with version 2"), "{said}");
    std::fs::rename(gateway.beside("kept.json"), roots.join("3.json")).unwrap();
    gateway.up();
}

#[test]
fn a_document_that_is_in_force_and_not_on_record_is_put_there_by_the_next_start() {
    let mut gateway = Gateway::start();
    let organization = gateway.tenants()[0].organization.clone();
    let roots = gateway.data().join("policy").join(&organization).join("roots");
    let one = done(&gateway, &["policy", "key", "--name", "one", "--out", "one.key"])["vkey"].clone();
    let first = roots.join("1.json");
    let next = ["policy", "root", "next", "--root", first.to_str().unwrap(), "--add", one.as_str().unwrap()];
    done(&gateway, &[&next[..], &["--key", "one.key", "--out", "root-2.json"]].concat());
    assert!(gateway.stop());
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
    };
    let (data, kept) = (gateway.data(), gateway.beside("kept"));
    copy(&data, &kept);
    let (ok, said) = install(&gateway, "root-2.json", &[]);
    assert!(ok, "{said}");
    // As a crash leaves it: the document is durable, and the ledger does not name it.
    copy(&roots.join("2.json"), &kept.join("policy").join(&organization).join("roots").join("2.json"));
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&kept, &data).unwrap();
    gateway.up();
    assert!(gateway.stop());
    let (ok, said) = install(&gateway, "root-2.json", &[]);
    assert!(ok, "{said}");
    let again: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&again["entry"], &again["bundle_stands"]), (&Value::Null, &json!(true)), "the start did: {said}");
    std::fs::remove_file(roots.join("2.json")).unwrap();
    assert!(gateway.try_up().unwrap_err().contains("the ledger names root document"));
}

#[test]
fn a_stolen_key_in_the_data_folder_is_revoked_at_once_and_a_recovery_signed_elsewhere_leads_back() {
    let mut gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    gateway.agent(&dana, "fixer");
    gateway.workflow(&dana, "repair");
    let organization = gateway.tenants()[0].organization.clone();
    let roots = gateway.data().join("policy").join(&organization).join("roots");
    let path = |version: u64| roots.join(format!("{version}.json")).to_str().unwrap().to_owned();
    let one = done(&gateway, &["policy", "key", "--name", "one", "--out", "one.key"])["vkey"].clone();
    let next = ["policy", "root", "next", "--root", &path(1), "--key", "one.key"];
    done(&gateway, &[&next[..], &["--add", one.as_str().unwrap(), "--out", "root-2.json"]].concat());
    assert!(gateway.stop());
    let (ok, said) = install(&gateway, "root-2.json", &[]);
    assert!(ok, "{said}");
    let document: Value = serde_json::from_slice(&std::fs::read(roots.join("1.json")).unwrap()).unwrap();
    let stolen =
        document["root"]["keys"][0]["vkey"].as_str().unwrap().splitn(3, '+').take(2).collect::<Vec<_>>().join("+");
    let revoke = ["--root", &path(2), "--revoke", &stolen, "--out", "root-3.json"];
    done(&gateway, &[&next[..], &revoke].concat());
    let (ok, said) = install(&gateway, "root-3.json", &[]);
    assert!(!ok && said.contains("--drop-bundle"), "{said}");
    let (ok, said) = install(&gateway, "root-3.json", &["--drop-bundle"]);
    assert!(ok, "{said}");
    assert_eq!(serde_json::from_str::<Value>(&said).unwrap()["bundle_stands"], json!(false));

    // What the stolen key signed decides nothing any more; the kernel alone does.
    gateway.up();
    let dana = gateway.login("dana", "act");
    let work = |gateway: &Gateway, dana: &str| {
        gateway.post("/api/v1/instances", dana, &json!({ "workflow": "repair", "agent": "fixer" }))
    };
    assert_eq!(work(&gateway, &dana).code(), "policy-denied");
    assert!(gateway.stop());
    let (ok, said) = gateway.operate(&["recover", "--yes"]);
    assert!(!ok && said.contains("has 0 of the 1 signatures that root version 3 asks for"), "{said}");
    let bundle = gateway.beside("recovery.bundle");
    let (ok, said) = gateway.operate(&["recover", "--out", bundle.to_str().unwrap()]);
    assert!(ok, "{said}");
    done(&gateway, &["policy", "sign", "recovery.bundle", "--key", "one.key"]);
    let (ok, said) = gateway.operate(&["recover", "--yes", "--bundle", bundle.to_str().unwrap()]);
    assert!(ok, "{said}");
    gateway.up();
    let dana = gateway.login("dana", "act");
    work(&gateway, &dana).expect_status(201);
    assert_eq!(active(&gateway, &dana)["signed_by"], "threshold");
    let (code, report) = gateway.verify(&gateway.pack(&dana));
    assert_eq!((code, &report["verdict"]), (0, &json!("VALID")), "{report}");
}
