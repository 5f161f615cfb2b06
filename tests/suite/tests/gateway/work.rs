//! One governed action after the other, from HTTP through Cedar, the ledger and a sandbox to an offline verification.

use countersign_tests_testkit::{Answer, Gateway};
use serde_json::{Value, json};

/// A repository whose test fails until `value` says 2.
fn workspace(gateway: &Gateway, token: &str) -> String {
    let files = json!({ "files": [
        { "path": "test.sh", "text": "grep -q 2 value && echo good || { echo bad >&2; exit 3; }\n", "executable": true },
        { "path": "value", "text": "1\n" },
        { "path": "credentials", "text": "not really a secret\n" },
    ] });
    let answer = gateway.post("/api/v1/workspaces", token, &files).expect_status(201).json();
    answer["workspace"].as_str().unwrap().to_owned()
}

#[test]
fn every_step_of_work_is_governed_and_every_verdict_can_be_computed_again() {
    let mut gateway = Gateway::start();
    let (dana, decider) = gateway.enrol();
    let agent = gateway.agent(&dana, "fixer");
    gateway.workflow(&dana, "repair");
    let workspace = workspace(&gateway, &dana);
    let body = json!({ "workflow": "repair", "agent": "fixer", "workspace": workspace });
    let instance = gateway.post("/api/v1/instances", &dana, &body).expect_status(201).json();
    let instance = instance["instance"]["id"].as_str().unwrap().to_owned();

    let run_of = |answer: Value| answer["actions"][0]["run"].as_str().unwrap().to_owned();
    let ended = |run: &str| gateway.until(&format!("/api/v1/runs/{run}"), &agent, |r| !r["outcome"].is_null());

    // Nothing is carried out whose start is not durable: the answer to a dispatch holds its start's receipt.
    let first = gateway.propose(&agent, &instance, "repo.run_tests", &json!({}));
    let first = first.json();
    assert_eq!(first["actions"][0]["status"], "dispatched", "{first}");
    assert!(first["actions"][0]["start"]["first"].as_bool().unwrap());
    let failed = ended(&run_of(first));
    assert_eq!((failed["outcome"].as_str(), failed["exit"].as_i64()), (Some("failed"), Some(3)), "{failed}");

    let input = json!({ "path": "value", "content": "2\n" });
    let written = gateway.propose(&agent, &instance, "repo.write_patch", &input).json();
    let written = ended(&run_of(written));
    assert_eq!(written["outcome"], "succeeded", "{written}");

    let second = gateway.propose(&agent, &instance, "repo.run_tests", &json!({})).json();
    let run = run_of(second);
    assert_eq!(ended(&run)["outcome"], "succeeded", "the workspace is carried from run to run");
    let log = gateway.get(&format!("/api/v1/runs/{run}/logs"), &agent).expect_status(200).json();
    assert!(log.to_string().contains("good"), "{log}");

    let refused = gateway.propose(&agent, &instance, "repo.read", &json!({ "path": "credentials" }));
    assert_eq!((refused.status, refused.code().as_str()), (403, "policy-denied"));
    assert!(refused.json()["receipt"]["index"].is_u64(), "a refusal is committed too");

    let merge = json!({ "branch": "main", "message": "fix" });
    let waiting = gateway.propose(&agent, &instance, "repo.merge", &merge).json();
    let gate = waiting["gate"]["id"].as_str().unwrap().to_owned();
    let view = gateway.get(&format!("/api/v1/gates/{gate}"), &decider).expect_status(200).json();
    assert!(view["view"].as_str().unwrap().contains("repo.merge"), "{view}");
    let decision = json!({
        "decision": "APPROVE", "justification": "the test passes", "shown_digest": view["shown_digest"],
    });
    let decided =
        gateway.post(&format!("/api/v1/gates/{gate}/decisions"), &decider, &decision).expect_status(200).json();
    assert_eq!(decided["effect"], "resolving", "{decided}");
    let action = decided["actions"][0]["action"].as_str().unwrap().to_owned();
    let begun = gateway.post(&format!("/api/v1/actions/{action}/start"), &agent, &json!({})).expect_status(200);
    assert_eq!(begun.json()["first"], true);
    let again = gateway.post(&format!("/api/v1/actions/{action}/start"), &agent, &json!({}));
    assert_eq!(again.code(), "permit-started", "a permit is good for one start");
    let outcome = json!({ "outcome": "succeeded", "output": { "commit": "abc" } });
    gateway.post(&format!("/api/v1/actions/{action}/outcome"), &agent, &outcome).expect_status(200);
    gateway.post(&format!("/api/v1/instances/{instance}/complete"), &agent, &json!({})).expect_status(200);

    // From here on the history is read: each verdict again from its stored inputs, then everything offline.
    let entries = gateway.entries(&dana);
    let mut replayed = 0;
    for entry in &entries {
        gateway.get(&format!("/api/v1/audit/receipts/{}", entry["index"]), &dana).expect_status(200);
        if entry["verdict"].is_null() {
            continue;
        }
        let again = gateway.get(&format!("/api/v1/replay/{}", entry["index"]), &dana).expect_status(200).json();
        assert_eq!(again["matches"], true, "{again} for {entry}");
        replayed += 1;
    }
    assert!(replayed > 15, "{replayed} of {} entries carry a verdict", entries.len());

    let pack = gateway.pack(&dana);
    let (code, report) = gateway.verify(&pack);
    assert_eq!((code, report["verdict"].as_str()), (0, Some("VALID")), "{report}");
    assert_eq!(report["streams"]["states"]["COMPLETED"], 1);
    assert_eq!(report["counts"]["approved"], 1);
    assert!(!report["not_proven"].as_array().unwrap().is_empty());
    assert!(gateway.stop(), "it drains on SIGTERM");
}

#[test]
fn one_key_and_body_give_one_answer_and_another_body_is_refused() {
    let gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    let agent = gateway.agent(&dana, "fixer");
    gateway.workflow(&dana, "repair");
    let instance = gateway.instance(&dana, "repair", "fixer");
    let path = format!("/api/v1/instances/{instance}/actions");
    let body = json!({ "actions": [{ "tool": "notes.append", "input": { "text": "a" } }], "begin": true });
    let first = gateway.post_once(&path, &agent, "one", &body).expect_status(200).json();
    let second = gateway.post_once(&path, &agent, "one", &body).expect_status(200).json();
    assert_eq!(first["actions"][0]["action"], second["actions"][0]["action"]);
    assert_eq!(first["actions"][0]["start"]["first"], true);
    assert_eq!(second["actions"][0]["start"]["first"], false, "only the first answer to a start is authority");
    let other = json!({ "actions": [{ "tool": "notes.append", "input": { "text": "b" } }], "begin": true });
    let refused = gateway.post_once(&path, &agent, "one", &other);
    assert_eq!((refused.status, refused.code().as_str()), (409, "idempotency-key-reused"));
    let entries = gateway.entries(&dana);
    let permits = entries.iter().filter(|e| e["kind"] == "permit").count();
    assert_eq!(permits, 1);
}

#[test]
fn what_is_set_with_a_key_is_set_once() {
    let gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    let send = |method: &str, path: &str, key: &str, body: &Value| {
        let body = Some(body.to_string().into_bytes());
        gateway.send(method, &format!("/api/v1/{path}"), &dana, &[("idempotency-key", key)], body)
    };
    let index = |answer: &Answer| answer.json()["receipt"]["index"].as_u64().unwrap();
    // A lift that comes late for the second time does not lift what was frozen since.
    send("POST", "freezes", "one", &json!({})).expect_status(200);
    let lifted = send("POST", "freezes/lift", "two", &json!({})).expect_status(200);
    send("POST", "freezes", "three", &json!({})).expect_status(200);
    let again = send("POST", "freezes/lift", "two", &json!({})).expect_status(200);
    assert_eq!(index(&again), index(&lifted));
    let settings = gateway.get("/api/v1/settings", &dana).expect_status(200).json();
    assert_eq!(settings["settings"]["frozen"]["all"], true, "{settings}");
    send("POST", "freezes/lift", "four", &json!({})).expect_status(200);

    crate::changes::mia(&gateway, &dana);
    for (n, (path, value, other)) in [
        ("log.public_read", json!(true), json!(false)),
        ("evaluations.record", json!("none"), json!("all")),
        ("policy.shadow_window_s", json!(60), json!(61)),
        ("authority", json!("four_eyes"), Value::Null),
    ]
    .into_iter()
    .enumerate()
    {
        let (path, key) = (format!("settings/{path}"), format!("set-{n}"));
        let set = |value: &Value| send("PUT", &path, &key, &json!({ "value": value }));
        let first = set(&value).expect_status(200);
        let size = gateway.entries(&dana).len();
        assert_eq!(index(&set(&value).expect_status(200)), index(&first), "{path}");
        if !other.is_null() {
            assert_eq!(set(&other).code(), "idempotency-key-reused", "{path}");
        }
        assert_eq!(gateway.entries(&dana).len(), size, "{path}: a repeat leaves nothing");
    }
}

#[test]
fn an_instances_entries_are_its_own_and_one_that_rests_starts_or_ends_at_its_start() {
    let gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    let agent = gateway.agent(&dana, "fixer");
    gateway.workflow(&dana, "repair");
    let eve = crate::glass::person(&gateway, &dana, "eve", "APPROVER");
    let resting = |token: &str| {
        let body = json!({ "workflow": "repair", "agent": "fixer", "start": false });
        let made = gateway.post("/api/v1/instances", token, &body).expect_status(201).json();
        assert_eq!(made["instance"]["state"], "CREATED");
        made["instance"]["id"].as_str().unwrap().to_owned()
    };
    let (one, two) = (resting(&dana), resting(&dana));
    let start = |id: &str, token: &str| gateway.post(&format!("/api/v1/instances/{id}/start"), token, &json!({}));
    assert_eq!(start(&one, &dana).expect_status(200).json()["state"], "RUNNING");
    // Whoever may not start it has ended it: a refused start is no start later.
    let refused = start(&two, &eve).expect_status(403);
    assert_eq!(refused.code(), "policy-denied");
    let state =
        |id: &str| gateway.get(&format!("/api/v1/instances/{id}"), &dana).expect_status(200).json()["state"].clone();
    assert_eq!((&state(&one), &state(&two)), (&json!("RUNNING"), &json!("TERMINATED")), "{}", refused.json());

    gateway.propose(&agent, &one, "notes.append", &json!({ "text": "a" })).expect_status(200);
    for (own, other) in [(&one, &two), (&two, &one)] {
        let entries = gateway.listed(&format!("/api/v1/audit/entries?instance={own}"), &dana);
        assert!(entries.len() > 1, "{own}: {entries:?}");
        for (place, entry) in entries.iter().enumerate() {
            assert_eq!((&entry["stream_id"], &entry["sequence"]), (&json!(own), &json!(place)), "{entry}");
            assert!(!entry.to_string().contains(other.as_str()), "{entry}");
        }
    }
}
