//! Whoever prefers to wait is answered when people have decided, and is told that the wait was kept.

use countersign_tests_testkit::{Answer, Gateway};
use serde_json::{Value, json};

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

/// Asks in a thread of its own, does something once that is under way, and gives the answer.
fn answered_after(at: &Waiting, ask: impl Fn() -> Answer + Send + Sync, act: impl FnOnce()) -> Answer {
    std::thread::scope(|scope| {
        let asking = scope.spawn(&ask);
        at.gateway.until_under_way(2);
        act();
        asking.join().unwrap()
    })
}

#[test]
fn whoever_makes_or_watches_an_instance_is_answered_when_something_has_happened() {
    let at = Waiting::begin();
    // A payment workflow is material: whoever starts it waits for somebody else.
    let body = json!({ "id": "material", "version": "1", "title": "Of weight", "materiality": 4 });
    at.gateway.post("/api/v1/workflows", &at.dana, &body).expect_status(201);
    let anna = crate::glass::person(&at.gateway, &at.dana, "anna", "APPROVER");
    let waits = |seconds: &str| [("prefer", format!("wait={seconds}"))];
    let create = |seconds: &str| {
        let new = json!({ "workflow": "material", "agent": "fixer" }).to_string().into_bytes();
        let headers = waits(seconds);
        let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
        at.gateway.send("POST", "/api/v1/instances", &at.dana, &headers, Some(new))
    };
    let gates = || at.gateway.listed("/api/v1/gates?open=true", &at.dana);
    let made = answered_after(
        &at,
        || create("20"),
        || {
            let listed =
                at.gateway.until("/api/v1/gates?open=true", &at.dana, |page| page["items"][0]["id"].is_string());
            let path = format!("/api/v1/gates/{}", listed["items"][0]["id"].as_str().unwrap());
            let shown = at.gateway.get(&path, &anna).expect_status(200).json();
            let body = json!({ "decision": "APPROVE", "justification": "seen", "shown_digest": shown["shown_digest"] });
            at.gateway.post(&format!("{path}/decisions"), &anna, &body).expect_status(200);
        },
    );
    assert_eq!((made.status, made.header("preference-applied")), (201, Some("wait")), "{}", made.json());
    assert_eq!(made.json()["instance"]["state"], "RUNNING");
    let waiting = create("1");
    assert_eq!((waiting.status, waiting.header("preference-applied")), (202, Some("wait")), "{}", waiting.json());
    assert_eq!(waiting.header("retry-after"), Some("5"), "and when to ask again");
    assert_eq!(gates().len(), 1);

    let path = format!("/api/v1/instances/{}", at.instance);
    let watch = |wait| at.gateway.send("GET", &path, &at.dana, &[("prefer", wait)], None);
    let note = || {
        // Once a shorter watch that began later has ended, the longer one has read the instance.
        assert_eq!(watch("wait=1").expect_status(200).header("preference-applied"), Some("wait"));
        at.gateway.propose(&at.agent, &at.instance, "notes.append", &json!({ "text": "a" })).expect_status(200);
    };
    let before = watch("").json()["sequence"].as_u64();
    let seen = answered_after(&at, || watch("wait=20"), note);
    assert_eq!((seen.status, seen.header("preference-applied")), (200, Some("wait")));
    assert!(seen.json()["sequence"].as_u64() > before, "what has happened is in it: {}", seen.json());
    assert_eq!(watch("").header("preference-applied"), None, "nobody asked for a wait");
}

#[test]
fn whoever_watches_a_run_or_its_output_is_answered_when_there_is_something() {
    let at = Waiting::begin();
    let text = "echo one; while [ ! -e go ]; do sleep 1; n=$((n+1)); [ \"$n\" = 4 ] && break; done; echo two\n";
    let files = json!({ "files": [{ "path": "test.sh", "text": text }] });
    let tree = at.gateway.post("/api/v1/workspaces", &at.dana, &files).expect_status(201).json();
    let body = json!({ "workflow": "repair", "agent": "fixer", "workspace": tree["workspace"] });
    let made = at.gateway.post("/api/v1/instances", &at.dana, &body).expect_status(201).json();
    let instance = made["instance"]["id"].as_str().unwrap();
    let answer = at.gateway.propose(&at.agent, instance, "repo.run_tests", &json!({})).json();
    let run = format!("/api/v1/runs/{}", answer["actions"][0]["run"].as_str().unwrap());
    let watch = |path: &str, wait| at.gateway.send("GET", path, &at.agent, &[("prefer", wait)], None);
    let logs =
        |from: &Value| format!("{run}/logs?stdout_from={}&stderr_from={}", from["stdout_next"], from["stderr_next"]);

    let begin = json!({ "stdout_next": 0, "stderr_next": 0 });
    let first = at.gateway.until(&format!("{run}/logs"), &at.agent, |page| page["stdout_next"] == 4);
    assert_eq!(watch(&logs(&begin), "").header("preference-applied"), None, "nobody asked for a wait");
    // Nothing is there yet behind what was read: the answer comes with it, or with the end.
    let page = watch(&logs(&first), "wait=25").expect_status(200);
    assert_eq!(page.header("preference-applied"), Some("wait"));
    assert!(page.json()["stdout_next"].as_u64() > Some(4), "{}", page.json());
    let ended = watch(&run, "wait=25").expect_status(200);
    assert_eq!(ended.json()["outcome"], "succeeded", "{}", ended.json());
    // A run that has ended is nothing to wait for.
    assert_eq!(watch(&run, "wait=25").expect_status(200).header("preference-applied"), None);
}
