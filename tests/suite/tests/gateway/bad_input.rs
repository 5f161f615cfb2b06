//! Bad input gets a clear error of its own and loses nothing: each with its problem code, a page, and no entry.

use countersign_tests_testkit::{Gateway, Options};
use serde_json::{Value, json};

fn entries(gateway: &Gateway, token: &str) -> usize {
    gateway.entries(token).len()
}

#[test]
fn bad_bodies_and_credentials_are_told_apart_and_leave_no_entry() {
    let gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    let agent = gateway.agent(&dana, "fixer");
    gateway.workflow(&dana, "repair");
    let instance = gateway.instance(&dana, "repair", "fixer");
    let actions = format!("/api/v1/instances/{instance}/actions");
    let before = entries(&gateway, &dana);

    let forged = {
        let mut parts: Vec<String> = agent.split('.').map(str::to_owned).collect();
        let flipped = if parts[2].starts_with('A') { "B" } else { "A" };
        parts[2].replace_range(0..1, flipped);
        parts.join(".")
    };
    let huge = format!(r#"{{"actions":[{{"tool":"repo.read","input":{{"path":"{}"}}}}]}}"#, "x".repeat(2 << 20));
    let unknown = "/api/v1/instances/inst_00000000000000000000000000000000/actions";
    let good = r#"{"actions":[{"tool":"repo.read","input":{"path":"README"}}]}"#;
    for (what, path, token, body, status, code) in [
        ("malformed JSON", actions.as_str(), agent.as_str(), r#"{"actions":["#, 400, "body-malformed"),
        ("a duplicate key", &actions, &agent, r#"{"actions":[],"actions":[]}"#, 400, "body-duplicate-key"),
        ("an unknown field", &actions, &agent, r#"{"actions":[],"extra":1}"#, 422, "body-unknown-field"),
        ("a wrong type", &actions, &agent, r#"{"actions":7}"#, 422, "body-type-mismatch"),
        ("an over-size body", &actions, &agent, &huge, 413, "body-too-large"),
        ("an empty batch", &actions, &agent, r#"{"actions":[]}"#, 422, "batch-size"),
        ("an unknown instance", unknown, &agent, good, 404, "not-found"),
        ("no credential", &actions, "", good, 401, "token-missing"),
        ("a malformed token", &actions, "abc", good, 401, "token-malformed"),
        ("a forged token", &actions, &forged, good, 401, "token-signature-invalid"),
        (
            "a wrong type in tool input",
            &actions,
            &agent,
            r#"{"actions":[{"tool":"repo.read","input":{"path":7}}]}"#,
            422,
            "input-invalid",
        ),
        (
            "an undeclared property in tool input",
            &actions,
            &agent,
            r#"{"actions":[{"tool":"repo.read","input":{"path":"a","extra":1}}]}"#,
            422,
            "input-invalid",
        ),
        (
            "a smuggled entity in tool input",
            &actions,
            &agent,
            r#"{"actions":[{"tool":"repo.read","input":{"path":{"__entity":{"type":"Role","id":"ADMIN"}}}}]}"#,
            422,
            "input-invalid",
        ),
    ] {
        let answer = gateway.send("POST", path, token, &[], Some(body.as_bytes().to_vec()));
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (status, code),
            "{what}: {}",
            String::from_utf8_lossy(&answer.bytes)
        );
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{what}");
        let page = gateway.get(answer.json()["type"].as_str().unwrap(), "").expect_status(200);
        assert!(String::from_utf8_lossy(&page.bytes).starts_with("# "), "{what} has a page");
    }
    assert_eq!(entries(&gateway, &dana), before, "what never became a question leaves no entry");

    // An unknown tool is a question: denied, committed.
    let answer = gateway.propose(&agent, &instance, "repo.teleport", &json!({}));
    assert_eq!((answer.status, answer.code().as_str()), (403, "tool-unknown"));
    assert_eq!(entries(&gateway, &dana), before + 1);

    gateway.post(&format!("/api/v1/instances/{instance}/complete"), &agent, &json!({})).expect_status(200);
    let answer = gateway.propose(&agent, &instance, "repo.read", &json!({ "path": "a" }));
    assert_eq!((answer.status, answer.code().as_str()), (409, "instance-finished"));
}

#[test]
fn an_expired_token_is_told_from_a_revoked_one() {
    let variables = vec![("COUNTERSIGN_IDENTITY__TOKEN_TTL_S".to_owned(), "1".to_owned())];
    let gateway = Gateway::start_with(Options { variables, ..Options::default() });
    let (dana, _) = gateway.enrol();
    std::thread::sleep(std::time::Duration::from_millis(2100));
    let answer = gateway.get("/api/v1/me", &dana);
    assert_eq!((answer.status, answer.code().as_str()), (401, "token-expired"));
}

#[test]
fn a_truncated_pack_and_a_zip_bomb_are_invalid() {
    let gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    let pack = gateway.pack(&dana);
    let whole = std::fs::read(&pack).unwrap();
    assert_eq!(gateway.verify(&pack).0, 0);
    let cases: [(&str, Vec<u8>); 3] = [
        ("truncated", whole[..whole.len() / 2].to_vec()),
        ("with a byte too many", [whole.as_slice(), b"\0"].concat()),
        ("a compressed part", {
            // Method 8 (deflate) in the first local header: a bomb has to be compressed.
            let mut bomb = whole.clone();
            bomb[8] = 8;
            bomb
        }),
    ];
    for (what, bytes) in cases {
        let path = gateway.beside("bad.evidence");
        std::fs::write(&path, bytes).unwrap();
        let (code, report) = gateway.verify(&path);
        assert_eq!((code, report["verdict"].as_str()), (1, Some("INVALID")), "{what}: {report}");
        let answer: Value = gateway
            .send(
                "POST",
                &format!("/api/v1/verify?root={}", urlencode(&gateway.root_vkey())),
                &dana,
                &[("content-type", "application/octet-stream")],
                None,
            )
            .json();
        assert!(answer.is_object());
    }
}

fn urlencode(text: &str) -> String {
    text.bytes()
        .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

#[test]
fn a_full_disk_refuses_cleanly_and_still_lets_people_stop_work() {
    let mut gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    gateway.agent(&dana, "fixer");
    gateway.workflow(&dana, "repair");
    let instance = gateway.instance(&dana, "repair", "fixer");
    assert!(gateway.stop());
    // A reserve that no disk has: everything but stopping is refused.
    std::fs::write(gateway.beside("data/countersign.toml"), "").unwrap();
    let mut full = gateway;
    full.set_variable("COUNTERSIGN_DATA__RESERVE_BYTES", "1000000000000000");
    full.up();
    let dana = full.login("dana", "act");
    let body = json!({ "workflow": "repair", "agent": "fixer" });
    let refused = full.post("/api/v1/instances", &dana, &body);
    assert_eq!((refused.status, refused.code().as_str()), (507, "disk-full"));
    let stopped = full.post(&format!("/api/v1/instances/{instance}/terminate"), &dana, &json!({})).expect_status(200);
    assert_eq!(stopped.json()["state"], "TERMINATED");
}
