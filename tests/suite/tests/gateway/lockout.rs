//! A bundle under which nobody could change policy again is refused, although it is sound in itself.

use std::path::Path;
use std::process::Command;

use countersign_tests_testkit::{Gateway, countersign};
use serde_json::{Value, json};

/// Renames a role in every file of a bundle: policies, roles and tests agree, and nobody of the organization holds it.
fn rename_role(folder: &Path, from: &str, to: &str) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rename_role(&path, from, to);
        } else {
            let text = std::fs::read_to_string(&path).unwrap();
            std::fs::write(&path, text.replace(from, to)).unwrap();
        }
    }
}

fn run(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(countersign()).env_clear().args(arguments).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn a_bundle_that_locks_everyone_out_is_not_activated() {
    let gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("policy");
    let bundle = bundle.to_str().unwrap();
    let (ok, said) = run(&["policy", "default", bundle]);
    assert!(ok, "{said}");
    rename_role(Path::new(bundle), "POLICY_ADMIN", "POLICY_OWNER");
    let (ok, said) = run(&["policy", "check", bundle]);
    assert!(ok, "nothing is wrong with it but that nobody holds the role: {said}");

    let active = || gateway.get("/api/v1/policies/active", &dana).expect_status(200).json();
    let (before, entries) = (active(), gateway.entries(&dana).len());
    let url = gateway.url("");
    let activate = ["--json", "--server", &url, "--token", &dana, "policy", "activate", bundle, "--yes"];
    let (ok, said) = run(&[&activate[..], &["--confirmed-diff", &"0".repeat(64)]].concat());
    assert!(!ok && said.contains("bundle-locks-out"), "{said}");
    let error = said.lines().find_map(|line| serde_json::from_str::<Value>(line).ok()).unwrap();
    let findings = error["problem"]["errors"].to_string();
    assert_eq!(error["problem"]["status"], json!(422));
    for words in ["propose a policy", "carried through", "proposePolicy", "activatePolicy"] {
        assert!(findings.contains(words), "{words}: {findings}");
    }
    assert!(!findings.contains("terminate"), "stopping is somebody's still: {findings}");
    assert_eq!(active(), before, "the active bundle stays");
    assert_eq!(gateway.entries(&dana).len(), entries, "a bundle that fails a check is no question");
}
