//! The demo is the whole product once: it succeeds only if all of it held, and says what it saw.

use std::path::Path;
use std::process::Command;

use countersign_tests_testkit::{Gateway, countersign, countersign_verify};
use serde_json::Value;

/// What it prints.
fn demo(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new(countersign())
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .args(["demo", "--yes"])
        .args(arguments)
        .arg("--data-dir")
        .arg(folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_demo_tells_its_steps_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let told = demo(&folder.path().join("demo"), &[]);
    let steps = [
        "the gateway starts on http://127.0.0.1:",
        "root key (an auditor is given this, and nothing else): ",
        "a person registers a workflow and an agent",
        "instance inst_",
        "the agent starts in a sandbox",
        "the agent asks: repo.",
        "allowed; the permit and its start are on record",
        "a person must approve; the agent waits",
        "the approval view",
        "APPROVED; the decision is on record",
        "DENIED (policy-denied)",
        "the instance is COMPLETED",
        "the evidence is exported",
        "VALID",
        "one bit of a copy is flipped",
        "INVALID",
        "all of it held",
    ];
    let mut rest = told.as_str();
    for step in steps {
        let (_, after) = rest.split_once(step).unwrap_or_else(|| panic!("no `{step}` in its place: {told}"));
        rest = after;
    }
}

#[test]
fn the_demo_shows_every_part_and_its_evidence_holds_for_somebody_else() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("demo");
    let summary: Value = serde_json::from_str(&demo(&data, &["--json"])).unwrap();
    assert_eq!(summary["verdict"], "VALID", "{summary}");
    assert_eq!(summary["tampered_verdict"], "INVALID");
    let instance = summary["instance_id"].as_str().unwrap();
    assert!(instance.strip_prefix("inst_").is_some_and(|id| id.len() == 32), "{summary}");
    assert_eq!((summary["denied"].as_u64(), summary["approved"].as_u64()), (Some(1), Some(1)));
    let states: Vec<&str> = summary["states"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(
        states,
        ["CREATED", "RUNNING", "WAITING_FOR_HUMAN", "APPROVED", "RESUMED", "RUNNING", "COMPLETED"],
        "the states in order"
    );
    let pack = summary["pack"].as_str().unwrap();
    let output = Command::new(countersign_verify())
        .env_clear()
        .args(["--json", "--key", summary["vkey"].as_str().unwrap(), pack])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["population"]["to"], summary["entries"], "entries are the leaves of the pack");
    assert_eq!(report["demo"], true);

    let up = Command::new(countersign())
        .env_clear()
        .args(["up", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(&data)
        .output()
        .unwrap();
    assert!(!up.status.success(), "`up` refuses the folder of a demo");
    let said = String::from_utf8_lossy(&up.stderr);
    assert!(said.ends_with("\n  problem: folder-demo\n"), "{said}");
    let mut gateway = Gateway::start();
    assert!(gateway.stop());
    let refused = Command::new(countersign())
        .env_clear()
        .args(["demo", "--yes", "--data-dir"])
        .arg(gateway.data())
        .output()
        .unwrap();
    assert!(!refused.status.success(), "`demo` refuses every other folder");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.ends_with("\n  problem: folder-not-demo\n"), "{said}");
}
