//! Stopping never fails closed, and a freeze holds everything else.

use countersign_tests_testkit::Gateway;
use serde_json::json;

#[test]
fn stopping_cannot_be_vetoed_and_a_freeze_holds_work_until_a_person_lifts_it() {
    let gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    let agent = gateway.agent(&dana, "fixer");
    gateway.workflow(&dana, "repair");
    let instance = gateway.instance(&dana, "repair", "fixer");

    gateway.post("/api/v1/freezes", &dana, &json!({})).expect_status(200);
    let held = gateway.propose(&agent, &instance, "repo.read", &json!({ "path": "a" }));
    assert_eq!((held.status, held.code().as_str()), (409, "frozen"), "{}", String::from_utf8_lossy(&held.bytes));
    let path = format!("/api/v1/instances/{instance}/terminate");
    let stopped = gateway.post(&path, &agent, &json!({})).expect_status(200).json();
    assert_eq!(stopped["state"], "TERMINATED", "an agent may always stop its own work");
    let again = gateway.post(&path, &agent, &json!({})).expect_status(200).json();
    assert_eq!(again["already"], true, "a finished instance is a no-op that says so");

    let new = json!({ "workflow": "repair", "agent": "fixer" });
    let refused = gateway.post_once("/api/v1/instances", &dana, "frozen", &new);
    assert_eq!(refused.code(), "frozen", "{}", String::from_utf8_lossy(&refused.bytes));

    gateway.post("/api/v1/freezes/lift", &dana, &json!({})).expect_status(200);
    let same = gateway.post_once("/api/v1/instances", &dana, "frozen", &new);
    assert_eq!(same.code(), "frozen", "one key gives one answer, a refusal too");
    assert_eq!(same.json()["receipt"]["index"], refused.json()["receipt"]["index"]);
    let other = gateway.instance(&dana, "repair", "fixer");
    let go = gateway.propose(&agent, &other, "notes.append", &json!({ "text": "a" }));
    assert_eq!(go.status, 200, "{}", String::from_utf8_lossy(&go.bytes));
}
