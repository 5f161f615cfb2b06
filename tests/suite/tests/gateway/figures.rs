//! What an operator is told: figures at `/metrics`, facts by `doctor`.

use std::process::Command;

use countersign_tests_testkit::{Gateway, countersign};
use serde_json::{Value, json};

/// The value of a figure, by its whole name.
fn figure(gateway: &Gateway, name: &str) -> Option<u64> {
    let text = String::from_utf8(gateway.get("/metrics", "").expect_status(200).bytes).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name).map(str::to_owned))?;
    line.trim().parse().ok()
}

#[test]
fn runs_are_counted_by_phase() {
    let gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    let agent = gateway.agent(&dana, "fixer");
    gateway.workflow(&dana, "repair");
    let ended = |phase: &str| figure(&gateway, &format!("countersign_runs_ended_total{{phase=\"{phase}\"}}"));
    let live = || {
        ["queued", "submitting", "pending", "running", "cancelling"]
            .map(|phase| figure(&gateway, &format!("countersign_runs{{phase=\"{phase}\"}}")).unwrap())
            .iter()
            .sum::<u64>()
    };
    assert_eq!((ended("succeeded"), ended("failed"), live()), (Some(0), Some(0), 0));
    let run = |content: &str| {
        let files = json!({ "files": [{ "path": "test.sh", "text": content, "executable": true }] });
        let tree = gateway.post("/api/v1/workspaces", &dana, &files).expect_status(201).json();
        let body = json!({ "workflow": "repair", "agent": "fixer", "workspace": tree["workspace"] });
        let made = gateway.post("/api/v1/instances", &dana, &body).expect_status(201).json();
        let instance = made["instance"]["id"].as_str().unwrap().to_owned();
        let answer = gateway.propose(&agent, &instance, "repo.run_tests", &json!({})).json();
        (instance, answer["actions"][0]["run"].as_str().unwrap().to_owned())
    };
    let until_ended = |run: &str| {
        gateway.until(&format!("/api/v1/runs/{run}"), &agent, |run: &Value| !run["outcome"].is_null());
    };
    until_ended(&run("exit 0\n").1);
    until_ended(&run("exit 3\n").1);
    assert_eq!((ended("succeeded"), ended("failed"), live()), (Some(1), Some(1), 0));
    // Until it is stopped it is at work.
    let (instance, waiting) = run("sleep 300\n");
    gateway.until(&format!("/api/v1/runs/{waiting}"), &agent, |_| live() == 1);
    gateway.post(&format!("/api/v1/instances/{instance}/terminate"), &dana, &json!({})).expect_status(200);
    until_ended(&waiting);
    assert_eq!((ended("cancelled"), live()), (Some(1), 0));
}

#[test]
fn the_doctor_names_the_version_of_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let output =
        Command::new(countersign()).env_clear().args(["--json", "doctor", "--data-dir"]).arg(folder.path()).output();
    let report: Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
    let finding = report["findings"].as_array().unwrap().iter().find(|finding| finding["what"] == "ledger").unwrap();
    let facts = finding["facts"].as_str().unwrap();
    let version = facts.strip_prefix("SQLite ").and_then(|rest| rest.split_whitespace().next()).unwrap();
    assert!(version.split('.').count() == 3 && version.split('.').all(|part| part.parse::<u32>().is_ok()), "{facts}");
}
