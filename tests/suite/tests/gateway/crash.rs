//! A gateway that is killed in the middle of a run loses nothing and repeats nothing.

use countersign_tests_testkit::Gateway;
use serde_json::json;

#[test]
fn a_run_outlives_a_killed_gateway_is_adopted_and_its_outcome_is_committed_once() {
    let mut gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    let agent = gateway.agent(&dana, "fixer");
    gateway.workflow(&dana, "repair");
    let files =
        json!({ "files": [{ "path": "test.sh", "text": "echo begun; sleep 4; echo over >> count; wc -l count\n" }] });
    let tree = gateway.post("/api/v1/workspaces", &dana, &files).expect_status(201).json();
    let body = json!({ "workflow": "repair", "agent": "fixer", "workspace": tree["workspace"] });
    let instance = gateway.post("/api/v1/instances", &dana, &body).expect_status(201).json();
    let instance = instance["instance"]["id"].as_str().unwrap().to_owned();
    let answer = gateway.propose(&agent, &instance, "repo.run_tests", &json!({})).json();
    let run = answer["actions"][0]["run"].as_str().unwrap().to_owned();
    gateway.until(&format!("/api/v1/runs/{run}"), &agent, |r| r["phase"] == "running");

    gateway.kill();
    gateway.up();

    // Tokens are signed by a key on disk: they outlive the process too.
    let ended = gateway.until(&format!("/api/v1/runs/{run}"), &agent, |r| !r["outcome"].is_null());
    assert_eq!(ended["outcome"], "succeeded", "{ended}");
    let log = gateway.get(&format!("/api/v1/runs/{run}/logs"), &agent).expect_status(200).json().to_string();
    assert!(log.contains("begun") && log.contains("1 count"), "carried out once: {log}");
    let entries = gateway.entries(&dana);
    let kinds: Vec<&str> = entries.iter().filter_map(|e| e["kind"].as_str()).collect();
    assert_eq!(kinds.iter().filter(|k| **k == "outcome").count(), 1);
    assert_eq!(kinds.iter().filter(|k| **k == "start").count(), 1);
    assert_eq!(kinds.iter().filter(|k| **k == "boot").count(), 2, "each boot introduces itself");
    let pack = gateway.pack(&dana);
    assert_eq!(gateway.verify(&pack).0, 0);
}
