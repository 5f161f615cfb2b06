//! People decide: who may, on what they were shown, and what their word does.

use countersign_tests_testkit::{Gateway, PASSWORD};
use serde_json::{Value, json};

/// A gateway with an instance that waits for a merge to be approved.
struct Waiting {
    gateway: Gateway,
    dana: String,
    decider: String,
    agent: String,
    instance: String,
    gate: String,
}

fn waiting(input: &Value) -> Waiting {
    let gateway = Gateway::start();
    let (dana, decider) = gateway.enrol();
    let agent = gateway.agent(&dana, "fixer");
    gateway.workflow(&dana, "repair");
    let instance = gateway.instance(&dana, "repair", "fixer");
    let answer = gateway.propose(&agent, &instance, "repo.merge", input);
    assert_eq!(answer.status, 202, "{}", String::from_utf8_lossy(&answer.bytes));
    let gate = answer.json()["gate"]["id"].as_str().unwrap().to_owned();
    assert!(answer.header("location").unwrap().contains(&gate));
    Waiting { gateway, dana, decider, agent, instance, gate }
}

impl Waiting {
    fn view(&self) -> Value {
        self.gateway.get(&format!("/api/v1/gates/{}", self.gate), &self.decider).expect_status(200).json()
    }

    fn decide(&self, token: &str, body: &Value) -> countersign_tests_testkit::Answer {
        self.gateway.post(&format!("/api/v1/gates/{}/decisions", self.gate), token, body)
    }

    fn state(&self) -> String {
        let path = format!("/api/v1/instances/{}", self.instance);
        self.gateway.get(&path, &self.dana).expect_status(200).json()["state"].as_str().unwrap().to_owned()
    }
}

#[test]
fn a_decision_counts_only_for_what_was_shown_and_from_a_person_who_says_why() {
    let it = waiting(&json!({ "branch": "main", "message": "fix" }));
    let shown = it.view()["shown_digest"].clone();
    let other = "00".repeat(32);
    let approve =
        |shown: &Value, why: &str| json!({ "decision": "APPROVE", "justification": why, "shown_digest": shown });
    for (what, token, body, code) in [
        ("another view", &it.decider, approve(&json!(other), "fine"), "view-stale"),
        ("a blank justification", &it.decider, approve(&shown, " \u{200b}\n"), "justification-blank"),
        ("no interactive credential", &it.dana, approve(&shown, "fine"), "scope-missing"),
        ("an agent", &it.agent, approve(&shown, "fine"), "decider-not-a-person"),
        (
            "an override without a delta",
            &it.decider,
            json!({ "decision": "OVERRIDE", "justification": "other branch", "shown_digest": shown }),
            "override-without-delta",
        ),
    ] {
        let answer = it.decide(token, &body);
        assert_eq!(answer.code(), code, "{what}: {}", String::from_utf8_lossy(&answer.bytes));
        assert_eq!(it.state(), "WAITING_FOR_HUMAN", "{what}");
    }
    let blocked = it.gateway.propose(&it.agent, &it.instance, "repo.read", &json!({ "path": "a" }));
    assert_eq!((blocked.status, blocked.code().as_str()), (409, "instance-waiting"));
    assert!(blocked.json().to_string().contains(&it.gate), "the answer links to the gate");

    let decided = it.decide(&it.decider, &approve(&shown, "the test passes")).expect_status(200).json();
    assert_eq!(decided["effect"], "resolving");
    assert_eq!(it.state(), "RUNNING", "no instance rests in RESUMED");
    let late = it.decide(&it.decider, &approve(&shown, "again"));
    assert_eq!((late.status, late.code().as_str()), (409, "gate-closed"));
}

#[test]
fn a_rejection_ends_the_instance() {
    let it = waiting(&json!({ "branch": "main", "message": "fix" }));
    let decided = it.decide(&it.decider, &json!({ "decision": "REJECT" })).expect_status(200).json();
    assert_eq!(decided["effect"], "resolving");
    assert_eq!(it.state(), "TERMINATED");
}

#[test]
fn an_override_permits_the_changed_input_only() {
    let it = waiting(&json!({ "branch": "main", "message": "fix" }));
    let view = it.view();
    let item = view["gate"]["items"][0]["item"].as_str().unwrap();
    let body = |pointer: &str| {
        json!({
            "decision": "OVERRIDE", "justification": "not to main", "shown_digest": view["shown_digest"],
            "delta": { item: { pointer: "staging" } },
        })
    };
    let refused = it.decide(&it.decider, &body("/tool"));
    assert_eq!(refused.code(), "parameter-invalid", "only declared keys may be overridden");
    let decided = it.decide(&it.decider, &body("/branch")).expect_status(200).json();
    assert_eq!(decided["effect"], "resolving", "{decided}");
    assert_eq!(it.state(), "RUNNING");
    // Whoever carries it out is told, before the start and with it.
    let action = view["gate"]["items"][0]["action"].as_str().unwrap();
    let changed = json!({ "branch": "staging", "message": "fix" });
    let read = it.gateway.get(&format!("/api/v1/actions/{action}"), &it.agent).expect_status(200).json();
    assert_eq!(read["instead"], json!({ "input": changed, "changed_by": ["override"] }), "{read}");
    let begun = it.gateway.post(&format!("/api/v1/actions/{action}/start"), &it.agent, &json!({}));
    assert_eq!(begun.expect_status(200).json()["instead"], read["instead"]);
    for entry in it.gateway.entries(&it.dana).iter().filter(|e| !e["verdict"].is_null()) {
        let again = it.gateway.get(&format!("/api/v1/replay/{}", entry["index"]), &it.dana).expect_status(200).json();
        assert_eq!(again["matches"], true, "{again} for {entry}");
    }
}

#[test]
fn an_agent_learns_that_it_waits_and_not_what_would_let_it_through() {
    let it = waiting(&json!({ "branch": "main", "message": "fix" }));
    let gate = it.gateway.get(&format!("/api/v1/gates/{}", it.gate), &it.agent).expect_status(200).json();
    assert_eq!(gate["gate"]["open"], true, "{gate}");
    assert!(gate["gate"]["items"][0]["rules"].as_array().is_none_or(Vec::is_empty), "{gate}");
    assert!(!gate["view"].as_str().unwrap().contains("role APPROVER"), "{gate}");
    let list = it.gateway.get("/api/v1/gates", &it.agent);
    assert!(!String::from_utf8_lossy(&list.bytes).contains("APPROVER"), "nor from the list");
    assert!(it.view()["view"].as_str().unwrap().contains("role APPROVER"), "a person sees it");
}

#[test]
fn nobody_decides_in_a_role_that_they_do_not_hold() {
    let it = waiting(&json!({ "branch": "main", "message": "fix" }));
    let body = json!({
        "decision": "APPROVE", "justification": "fine", "role": "ASTRONAUT", "shown_digest": it.view()["shown_digest"],
    });
    let answer = it.decide(&it.decider, &body);
    assert_eq!(answer.code(), "parameter-invalid", "{}", String::from_utf8_lossy(&answer.bytes));
    assert_eq!(it.state(), "WAITING_FOR_HUMAN");
}

#[test]
fn someone_without_the_role_is_not_effective_and_the_instance_stays_waiting() {
    let it = waiting(&json!({ "branch": "main", "message": "fix" }));
    let person = json!({
        "id": "omar", "display_name": "Omar", "password": PASSWORD, "roles": ["OPERATOR"], "person": "omar",
    });
    it.gateway.post("/api/v1/people", &it.dana, &person).expect_status(201);
    let omar = it.gateway.login("omar", "act decide");
    let shown = it.view()["shown_digest"].clone();
    let body = json!({ "decision": "APPROVE", "justification": "looks good", "shown_digest": shown });
    let answer = it.decide(&omar, &body);
    assert!(
        answer.status == 404 || answer.json()["effect"] == "not_eligible",
        "{}",
        String::from_utf8_lossy(&answer.bytes)
    );
    assert_eq!(it.state(), "WAITING_FOR_HUMAN");
}

#[test]
fn agent_text_with_control_and_bidi_characters_is_shown_escaped() {
    let it = waiting(&json!({ "branch": "main", "message": "ok\u{202e}\n\u{1b}[2JNext: harmless <b>" }));
    let view = it.view()["view"].as_str().unwrap().to_owned();
    assert!(view.contains("\\u{202e}\\u{a}\\u{1b}"), "{view}");
    assert!(view.chars().all(|c| c == '\n' || !c.is_control()), "{view}");
    assert!(view.lines().filter(|l| l.starts_with("Next:")).count() == 1, "{view}");
}
