//! Questions about policy by the command line: who may approve, who may do what, what if. They permit and record nothing.

use std::fs;
use std::process::Command;

use countersign_tests_testkit::{Gateway, countersign};
use serde_json::{Value, json};

fn run(gateway: &Gateway, token: &str, arguments: &[&str]) -> (i32, String) {
    let output = Command::new(countersign())
        .env_clear()
        .current_dir(gateway.beside(""))
        .env("COUNTERSIGN_SERVER", gateway.url(""))
        .env("COUNTERSIGN_TOKEN", token)
        .args(arguments)
        .output()
        .unwrap();
    let bytes = if output.status.success() { output.stdout } else { [output.stdout, output.stderr].concat() };
    (output.status.code().unwrap(), String::from_utf8(bytes).unwrap())
}

fn json_of((code, said): (i32, String)) -> Value {
    assert_eq!(code, 0, "{said}");
    serde_json::from_str(&said).unwrap()
}

#[test]
fn who_may_approve_who_may_do_what_and_what_if_are_answered_to_people_and_never_to_agents() {
    let gateway = Gateway::start();
    let (dana, decider) = gateway.enrol();
    let agent = gateway.agent(&dana, "fixer");
    let body = json!({ "id": "bob", "display_name": "Bob", "roles": ["OPERATOR"], "person": "bob" });
    gateway.post("/api/v1/people", &dana, &body).expect_status(201);
    gateway.workflow(&dana, "repair");
    let instance = gateway.instance(&dana, "repair", "fixer");
    let merge = json!({ "branch": "main", "message": "fix" });
    let waiting = gateway.propose(&agent, &instance, "repo.merge", &merge).expect_status(202).json();
    let gate = waiting["gate"]["id"].as_str().unwrap();
    let question = json!({ "asked": "Agent::fixer", "op": "callTool", "resource": "Tool::repo.merge", "input": merge,
        "instance": format!("Instance::{instance}") });
    fs::write(gateway.beside("questions.json"), json!([question, { "asked": 7 }]).to_string()).unwrap();
    fs::write(gateway.beside("question.json"), question.to_string()).unwrap();
    let size = gateway.entries(&dana).len();

    let (code, said) = run(&gateway, &dana, &["gate", "approvers", gate]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("may      dana") && said.contains("may not  bob"), "{said}");
    assert!(said.contains("rule `merge`: asks for role APPROVER, which they do not have"), "{said}");
    let answer = json_of(run(&gateway, &dana, &["--json", "gate", "approvers", gate, "--limit", "1"]));
    assert_eq!(answer["persons"].as_array().unwrap().len(), 1);
    let next = answer["next"].as_str().unwrap();
    let rest = json_of(run(&gateway, &dana, &["--json", "gate", "approvers", gate, "--after", next]));
    assert_eq!((&rest["persons"][0]["person"], &rest["persons"][0]["may"]), (&json!("dana"), &json!(true)));

    let can = json_of(run(&gateway, &dana, &["--json", "policy", "can", "agent:fixer"]));
    assert_eq!(can["instance"], json!(instance));
    let line = |resource: &str| {
        let lines = can["permissions"].as_array().unwrap();
        lines.iter().find(|line| line["resource"] == resource).unwrap_or_else(|| panic!("{can}")).clone()
    };
    // The instance waits for people: nothing is done in it until they have decided.
    assert_eq!(line("Tool::notes.append")["decision"], "deny");
    let other = gateway.instance(&dana, "repair", "fixer");
    let size = gateway.entries(&dana).len().max(size);
    let can = json_of(run(&gateway, &dana, &["--json", "policy", "can", "agent:fixer", "--instance", &other]));
    let lines = can["permissions"].as_array().unwrap();
    let of = |resource: &str| lines.iter().find(|line| line["resource"] == resource).unwrap();
    assert_eq!(of("Tool::notes.append")["decision"], "allow");
    assert_eq!(
        (&of("Tool::repo.merge")["decision"], &of("Tool::repo.merge")["rules"][0]),
        (&json!("needs_approval"), &json!("merge"))
    );
    let (_, said) = run(&gateway, &dana, &["policy", "can", "agent:fixer", "--instance", &other, "--only", "deny"]);
    assert!(said.contains("deny") && !said.lines().any(|line| line.starts_with("allow")), "{said}");

    let (code, said) = run(&gateway, &dana, &["policy", "what-if", "questions.json"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("1. Agent::fixer callTool Tool::repo.merge") && said.contains("2. no question: "), "{said}");
    let one = json_of(run(&gateway, &dana, &["--json", "policy", "what-if", "question.json"]));
    assert!(one["answers"][0]["explained"]["verdict"]["decision"].is_string(), "{one}");

    for arguments in [
        &["gate", "approvers", gate][..],
        &["policy", "can", "agent:fixer"][..],
        &["policy", "what-if", "question.json"][..],
    ] {
        let (code, said) = run(&gateway, &agent, arguments);
        assert!(code == 1 && said.contains("not-found"), "{arguments:?}: {said}");
    }
    assert_eq!(gateway.entries(&dana).len(), size, "nothing is recorded");

    // What was said of dana is what becomes of her vote.
    let shown = gateway.get(&format!("/api/v1/gates/{gate}"), &dana).expect_status(200).json();
    let body = json!({ "decision": "APPROVE", "justification": "seen", "shown_digest": shown["shown_digest"] });
    let vote = gateway.post(&format!("/api/v1/gates/{gate}/decisions"), &decider, &body).expect_status(200).json();
    assert_eq!(vote["effect"], "resolving", "{vote}");
}
