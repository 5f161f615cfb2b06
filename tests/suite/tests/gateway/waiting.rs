//! Whoever prefers to wait is answered when people have decided, and is told that the wait was kept.

use countersign_tests_testkit::Gateway;
use serde_json::json;

struct Waiting {
    gateway: Gateway,
    dana: String,
    decider: String,
    agent: String,
    instance: String,
}

impl Waiting {
    fn begin() -> Self {
        let gateway = Gateway::start();
        let (dana, decider) = gateway.enrol();
        let agent = gateway.agent(&dana, "fixer");
        gateway.workflow(&dana, "repair");
        let instance = gateway.instance(&dana, "repair", "fixer");
        Self { gateway, dana, decider, agent, instance }
    }

    /// The gate that the instance waits at, once it does.
    fn gate(&self) -> String {
        let path = format!("/api/v1/gates?open=true&instance={}", self.instance);
        let listed = self.gateway.until(&path, &self.dana, |page| page["items"][0]["id"].is_string());
        listed["items"][0]["id"].as_str().unwrap().to_owned()
    }

    fn approve(&self, gate: &str) {
        let path = format!("/api/v1/gates/{gate}");
        let shown = self.gateway.get(&path, &self.decider).expect_status(200).json();
        let body = json!({ "decision": "APPROVE", "justification": "seen", "shown_digest": shown["shown_digest"] });
        let decided = self.gateway.post(&format!("{path}/decisions"), &self.decider, &body).expect_status(200).json();
        assert_eq!(decided["effect"], "resolving", "{decided}");
    }
}

#[test]
fn a_proposal_that_waits_is_answered_with_what_people_decided() {
    let at = Waiting::begin();
    let body = json!({ "actions": [
        { "tool": "repo.merge", "input": { "branch": "main", "message": "fix" } },
        { "tool": "notes.append", "input": { "text": "merged" } },
    ] });
    let answer = std::thread::scope(|scope| {
        let proposed = scope.spawn(|| {
            let (path, body) = (format!("/api/v1/instances/{}/actions", at.instance), body.to_string().into_bytes());
            at.gateway.send("POST", &path, &at.agent, &[("prefer", "wait=20")], Some(body))
        });
        let gate = at.gate();
        assert!(!proposed.is_finished(), "it waits for them");
        at.approve(&gate);
        proposed.join().unwrap()
    });
    assert_eq!((answer.status, answer.header("preference-applied")), (200, Some("wait")));
    let said = answer.json();
    assert_eq!((&said["state"], &said["first"]), (&json!("RUNNING"), &json!(true)), "{said}");
    for action in said["actions"].as_array().unwrap() {
        assert_eq!(action["status"], "permitted", "{said}");
        let path = format!("/api/v1/actions/{}", action["action"].as_str().unwrap());
        let start = at.gateway.post(&format!("{path}/start"), &at.agent, &json!({})).expect_status(200);
        assert_eq!(start.json()["first"], true);
        let outcome = json!({ "outcome": "succeeded" });
        at.gateway.post(&format!("{path}/outcome"), &at.agent, &outcome).expect_status(200);
    }

    // Where nobody decides, the wait ends by itself, and says what it waits for.
    let merge = json!({ "actions": [{ "tool": "repo.merge", "input": { "branch": "main", "message": "again" } }] });
    let path = format!("/api/v1/instances/{}/actions", at.instance);
    let answer = at.gateway.send("POST", &path, &at.agent, &[("prefer", "wait=1")], Some(merge.to_string().into()));
    assert_eq!((answer.status, answer.header("preference-applied")), (202, Some("wait")), "{}", answer.json());
    assert_eq!(answer.json()["gate"]["id"], at.gate().as_str());
}

#[test]
fn whoever_watches_a_gate_is_answered_when_it_closes() {
    let at = Waiting::begin();
    let merge = json!({ "branch": "main", "message": "fix" });
    at.gateway.propose(&at.agent, &at.instance, "repo.merge", &merge).expect_status(202);
    let gate = at.gate();
    let path = format!("/api/v1/gates/{gate}");
    let watch_for = |wait| at.gateway.send("GET", &path, &at.dana, &[("prefer", wait)], None);
    let watch = || watch_for("wait=20");
    let answer = std::thread::scope(|scope| {
        let watching = scope.spawn(watch);
        at.gateway.until_under_way(2);
        // It is taken; once a shorter watch that began later has ended, it has read the gate.
        assert_eq!(watch_for("wait=1").expect_status(200).header("preference-applied"), Some("wait"));
        assert!(!watching.is_finished(), "nothing has happened at it");
        at.approve(&gate);
        watching.join().unwrap()
    });
    assert_eq!((answer.status, answer.header("preference-applied")), (200, Some("wait")));
    let said = answer.json();
    assert_eq!((&said["gate"]["open"], &said["gate"]["resolved"]), (&json!(false), &json!("APPROVED")), "{said}");
    // A closed gate is nothing to wait for.
    assert_eq!(watch().expect_status(200).header("preference-applied"), None);
}
