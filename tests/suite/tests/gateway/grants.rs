//! Rules met in advance, end to end: the program that people run, its command line, and a pack that an auditor verifies.

use std::process::Command;

use countersign_tests_testkit::{Gateway, countersign};
use serde_json::{Value, json};

const SHOP: &str = "shop@example.com";

/// A request to send mail to one address, so often.
pub(crate) fn mailing(uses: u32) -> Value {
    let input = json!({ "/to": { "each_of": [SHOP] }, "/subject": { "equals": "Reminder" }, "/body": "any" });
    json!({
        "rule": "external-communication", "uses": uses, "for_s": 3600, "reason": "the same reminder",
        "tools": [{ "tool": "mail.send", "input": input }],
    })
}

/// A grant that was asked for by the agent and given: its instance, and it.
pub(crate) fn granted(gateway: &Gateway, instance: &str, agent: &str, decider: &str) -> (String, String) {
    let path = format!("/api/v1/instances/{instance}/grants");
    let asked = gateway.post(&path, agent, &mailing(2)).expect_status(202).json();
    let gate = asked["gate"]["id"].as_str().unwrap();
    let shown = gateway.get(&format!("/api/v1/gates/{gate}"), decider).expect_status(200).json();
    let body = json!({
        "decision": "APPROVE", "justification": "twice is fine", "shown_digest": shown["shown_digest"],
    });
    let decided = gateway.post(&format!("/api/v1/gates/{gate}/decisions"), decider, &body).expect_status(200).json();
    assert_eq!(decided["effect"], "resolving", "{decided}");
    (instance.to_owned(), asked["grant"].as_str().unwrap().to_owned())
}

/// An agent that may send mail; its token.
fn mailer(gateway: &Gateway, dana: &str) -> String {
    let body = json!({
        "id": "fixer", "display_name": "fixer", "owner": "dana", "autonomy": 2, "scopes": ["mail:send", "notes:write"],
    });
    gateway.post("/api/v1/agents", dana, &body).expect_status(201);
    gateway.credentials(dana, "agent:fixer")
}

/// What the command line answers.
fn command(gateway: &Gateway, token: &str, arguments: &[&str]) -> Value {
    let output = Command::new(countersign())
        .env_clear()
        .current_dir(gateway.beside(""))
        .env("COUNTERSIGN_SERVER", gateway.url(""))
        .env("COUNTERSIGN_TOKEN", token)
        .arg("--json")
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn reminder(to: &str) -> Value {
    json!({ "to": [to], "subject": "Reminder", "body": "please" })
}

#[test]
fn an_approver_is_asked_once_and_every_use_is_on_record() {
    let mut gateway = Gateway::start();
    let (dana, decider) = gateway.enrol();
    let agent = mailer(&gateway, &dana);
    gateway.workflow(&dana, "repair");
    let instance = gateway.instance(&dana, "repair", "fixer");
    granted(&gateway, &instance, &agent, &decider);
    let list = |gateway: &Gateway, token: &str| {
        let path = format!("/api/v1/instances/{instance}/grants");
        gateway.get(&path, token).expect_status(200).json()["items"][0].clone()
    };
    assert_eq!(list(&gateway, &agent)["state"], "live");
    assert!(list(&gateway, &agent).get("approvers").is_none(), "an agent reads no names");
    assert_eq!(list(&gateway, &dana)["approvers"], json!(["person/dana"]));

    let sent = gateway.propose(&agent, &instance, "mail.send", &reminder(SHOP)).expect_status(200).json();
    assert_eq!(sent["actions"][0]["status"], "permitted", "{sent}");
    // What was counted is counted after a crash.
    gateway.kill();
    gateway.up();
    assert_eq!(list(&gateway, &agent)["used"], 1);
    gateway.propose(&agent, &instance, "mail.send", &reminder(SHOP)).expect_status(200);
    assert_eq!(list(&gateway, &agent)["state"], "used_up");
    let third = gateway.propose(&agent, &instance, "mail.send", &reminder(SHOP)).expect_status(202).json();
    let gate = third["gate"]["id"].as_str().unwrap();
    let path = format!("/api/v1/gates/{gate}/decisions");
    gateway.post(&path, &decider, &json!({ "decision": "REJECT" })).expect_status(200);
    assert_eq!(list(&gateway, &agent)["state"], "ended");

    let kinds: Vec<String> =
        gateway.entries(&dana).iter().map(|entry| entry["kind"].as_str().unwrap().to_owned()).collect();
    let of = |kind: &str| kinds.iter().filter(|one| *one == kind).count();
    assert_eq!((of("task_grant"), of("task_grant_use")), (2, 2), "asked for and given; used twice");
    let at = kinds.iter().position(|kind| kind == "task_grant_use").unwrap();
    assert_eq!(kinds[at + 1], "permit", "a use stands before what rests on it");
    let (code, report) = gateway.verify(&gateway.pack(&dana));
    assert_eq!((code, &report["verdict"]), (0, &json!("VALID")), "{report}");
    let counted = json!({ "asked": 1, "given": 1, "used": 2, "revoked": 0, "terms": 1 });
    assert_eq!(report["counts"]["grants"], counted, "{report}");
}

#[test]
fn the_command_line_asks_for_a_grant_lists_it_and_takes_it_back() {
    let gateway = Gateway::start();
    let (dana, decider) = gateway.enrol();
    let agent = mailer(&gateway, &dana);
    gateway.workflow(&dana, "repair");
    let instance = gateway.instance(&dana, "repair", "fixer");
    let bound = format!("mail.send/to={{\"each_of\":[\"{SHOP}\"]}}");
    let words = [
        "grant",
        "request",
        &instance,
        "--rule",
        "external-communication",
        "--uses",
        "3",
        "--for-s",
        "60",
        "--bound",
        &bound,
        "--bound",
        "mail.send/subject=any",
        "--bound",
        "mail.send/body=any",
        "--reason",
        "a few reminders",
    ];
    let asked = command(&gateway, &agent, &words);
    let gate = asked["gate"]["id"].as_str().unwrap();
    let shown = command(&gateway, &decider, &["gate", "show", gate]);
    let view = shown["view"].as_str().unwrap();
    assert!(view.contains("Uses:      at most 3, each of them on record"), "{view}");
    assert!(view.contains("/to is a list of nothing but \"shop@example.com\""), "{view}");
    let digest = shown["shown_digest"].as_str().unwrap();
    let approve = ["gate", "approve", gate, "--yes", "--shown-digest", digest, "--justification", "fine"];
    command(&gateway, &decider, &approve);
    let grant = asked["grant"].as_str().unwrap();
    assert_eq!(command(&gateway, &dana, &["grant", "list", &instance])["items"][0]["state"], "live");
    assert_eq!(command(&gateway, &dana, &["grant", "revoke", &instance, grant])["already"], false);
    assert_eq!(command(&gateway, &dana, &["grant", "list", &instance])["items"][0]["state"], "revoked");
    gateway.propose(&agent, &instance, "mail.send", &reminder(SHOP)).expect_status(202);
}

#[test]
fn the_same_request_again_is_at_the_open_gate_and_whoever_asked_withdraws_it() {
    let gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    let agent = mailer(&gateway, &dana);
    gateway.workflow(&dana, "repair");
    let instance = gateway.instance(&dana, "repair", "fixer");
    let path = format!("/api/v1/instances/{instance}/grants");
    let asked = gateway.post(&path, &agent, &mailing(2)).expect_status(202).json();
    let size = gateway.entries(&dana).len();
    let again = gateway.post(&path, &agent, &mailing(2)).expect_status(202).json();
    assert_eq!((&again["grant"], &again["gate"]), (&asked["grant"], &asked["gate"]));
    assert_eq!(gateway.post(&path, &agent, &mailing(3)).code(), "instance-waiting");
    assert_eq!(gateway.entries(&dana).len(), size, "the ledger says it once");

    let grant = asked["grant"].as_str().unwrap();
    let withdrawn = command(&gateway, &agent, &["grant", "withdraw", &instance, grant]);
    assert_eq!(withdrawn["already"], false);
    let shown = gateway.get(asked["gate"]["href"].as_str().unwrap(), &dana).expect_status(200).json();
    assert_eq!(shown["gate"]["resolved"], "WITHDRAWN", "{shown}");
    let state = gateway.get(&format!("/api/v1/instances/{instance}"), &dana).expect_status(200).json();
    assert_eq!((&state["state"], &state["enforced"]), (&json!("RUNNING"), &json!(true)));
    let told = gateway.get(&format!("/api/v1/instances/{instance}"), &agent).expect_status(200).json();
    assert_eq!(
        (&told["state"], told.get("enforced")),
        (&json!("RUNNING"), None),
        "an agent is not told before it asks"
    );

    // The same holds of actions: what waits is asked about once.
    let first = gateway.propose(&agent, &instance, "mail.send", &reminder(SHOP)).expect_status(202).json();
    let again = gateway.propose(&agent, &instance, "mail.send", &reminder(SHOP)).expect_status(202).json();
    assert_eq!((&again["gate"], &again["first"]), (&first["gate"], &json!(false)));
    assert_eq!(again["actions"][0]["action"], first["actions"][0]["action"]);
    let other = gateway.propose(&agent, &instance, "mail.send", &reminder("other@example.com"));
    assert_eq!(other.code(), "instance-waiting");
    let (code, report) = gateway.verify(&gateway.pack(&dana));
    assert_eq!((code, &report["verdict"]), (0, &json!("VALID")), "{report}");
    assert_eq!(
        report["counts"]["grants"],
        json!({ "asked": 1, "given": 0, "used": 0, "revoked": 1, "terms": 1 }),
        "{report}"
    );
}
