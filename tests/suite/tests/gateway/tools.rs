//! Tools by the command line, on the program that users run: registered, imported, called, changed, kept, retired.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use countersign_tests_testkit::{Gateway, countersign};
use serde_json::{Value, json};

use crate::said::Said;

fn run(gateway: &Gateway, token: &str, arguments: &[&str]) -> Said {
    let mut command = Command::new(countersign());
    command.env_clear().current_dir(gateway.beside("")).args(arguments);
    Said::by(command.env("COUNTERSIGN_SERVER", gateway.url("")).env("COUNTERSIGN_TOKEN", token))
}

fn file(gateway: &Gateway, name: &str, text: &str) {
    fs::write(gateway.beside(name), text).unwrap();
}

const TICKET: &str = r#"{
  "name": "tickets.create",
  "description": "Creates a ticket",
  "input": {
    "type": "object",
    "properties": {"title": {"type": "string", "maxLength": 40}},
    "required": ["title"]
  },
  "data_class": "internal",
  "scopes": ["notes:write"]
}
"#;

#[test]
fn a_tool_is_registered_called_changed_kept_over_a_restart_and_retired() {
    let mut gateway = Gateway::start();
    let (dana, decider) = gateway.enrol();
    let agent = gateway.agent(&dana, "fixer");
    gateway.workflow(&dana, "repair");
    let propose = |gateway: &Gateway, dana: &str, agent: &str, input: Value| {
        let instance = gateway.instance(dana, "repair", "fixer");
        gateway.propose(agent, &instance, "tickets.create", &input)
    };
    let broken = || json!({ "title": "broken" });
    assert_eq!(propose(&gateway, &dana, &agent, broken()).code(), "tool-unknown");

    // What is wrong is said with file, line and column, and nothing is taken.
    file(&gateway, "ticket.json", &TICKET.replace("\"type\": \"object\"", "\"type\": \"array\""));
    let said = run(&gateway, &dana, &["tool", "register", "ticket.json"]).ended(1);
    assert!(
        said.err.contains("ticket.json:4:12 /tools/0/input: tool `tickets.create`: its input schema"),
        "{}",
        said.err
    );
    file(&gateway, "ticket.json", &TICKET.replace("\"name\"", "name"));
    let said = run(&gateway, &dana, &["tool", "register", "ticket.json"]).ended(1);
    assert!(said.err.contains("ticket.json:2:3: not JSON"), "{}", said.err);

    // A check changes nothing; an agent may not even check.
    file(&gateway, "ticket.json", TICKET);
    let size = gateway.entries(&dana).len();
    let said = run(&gateway, &dana, &["tool", "register", "ticket.json", "--check"]).ended(0);
    assert!(said.out.contains("added") && said.out.contains("would be in force"), "{}", said.out);
    run(&gateway, &agent, &["tool", "register", "ticket.json", "--check"]).ended(1);
    assert_eq!(gateway.entries(&dana).len(), size);
    let said = run(&gateway, &agent, &["--json", "tool", "register", "ticket.json"]).ended(1);
    assert!(said.err.contains("policy-denied"), "{}", said.err);
    assert_eq!(gateway.entries(&dana).len(), size + 1, "the refusal is on record");

    let first = run(&gateway, &dana, &["--json", "tool", "register", "ticket.json"]).ended(0).json();
    assert_eq!((&first["version"], &first["tools"][0]["change"]), (&json!(2), &json!("added")));
    let entry = gateway.entries(&dana).pop().unwrap();
    assert_eq!((&entry["kind"], &entry["body"]["digest"]), (&json!("catalogue"), &first["catalogue"]));
    // Nothing was said of its risk: the highest, which asks people.
    let waiting = propose(&gateway, &dana, &agent, broken()).expect_status(202).json();
    assert_eq!(propose(&gateway, &dana, &agent, json!({ "title": 7 })).code(), "input-invalid");
    assert_eq!(propose(&gateway, &dana, &agent, json!({ "titel": "x" })).code(), "input-invalid");

    // Another definition is another version, and the gate of the one before counts no votes any more.
    file(&gateway, "ticket.json", &TICKET.replace("\"maxLength\": 40", "\"maxLength\": 80"));
    let second = run(&gateway, &dana, &["--json", "tool", "register", "ticket.json"]).ended(0).json();
    assert_eq!((&second["version"], &second["tools"][0]["change"]), (&json!(3), &json!("redefined")));
    assert_eq!(second["tools"][0]["before"], first["tools"][0]["version"]);
    assert_ne!(second["tools"][0]["version"], first["tools"][0]["version"]);
    let gate = waiting["gate"]["id"].as_str().unwrap();
    let shown = gateway.get(&format!("/api/v1/gates/{gate}"), &dana).expect_status(200).json();
    let body = json!({ "decision": "APPROVE", "justification": "seen", "shown_digest": shown["shown_digest"] });
    let vote = gateway.post(&format!("/api/v1/gates/{gate}/decisions"), &decider, &body).expect_status(200).json();
    assert_eq!((&vote["effect"], &vote["state"]), (&json!("stale"), &json!("WAITING_FOR_HUMAN")), "{vote}");

    // A restart keeps it: the ledger says which catalogue is in force.
    let before = gateway.get("/api/v1/tools/tickets.create", &dana).expect_status(200).json();
    assert!(gateway.stop());
    gateway.up();
    let dana = gateway.login("dana", "act");
    let agent = gateway.credentials(&dana, "agent:fixer");
    assert_eq!(gateway.get("/api/v1/tools/tickets.create", &dana).expect_status(200).json(), before);
    assert_eq!(before["version"], second["tools"][0]["version"]);
    propose(&gateway, &dana, &agent, broken()).expect_status(202);
    let active = gateway.get("/api/v1/policies/active", &dana).expect_status(200).json();
    assert_eq!(active["catalogue"], second["catalogue"]);

    // What the active bundle rests on is not taken from under it; another tool goes, and its version counts on.
    let said = run(&gateway, &dana, &["tool", "retire", "repo.read", "--yes"]).ended(1);
    assert!(said.err.contains("catalogue-rejected") && said.err.contains("dispatch:repo.read"), "{}", said.err);
    let gone = run(&gateway, &dana, &["--json", "tool", "retire", "tickets.create", "--yes"]).ended(0).json();
    assert_eq!((&gone["version"], &gone["tools"][0]["change"]), (&json!(4), &json!("retired")));
    assert_eq!(propose(&gateway, &dana, &agent, broken()).code(), "tool-unknown");
    run(&gateway, &dana, &["tool", "show", "tickets.create"]).ended(1);

    // An auditor follows all of it: the evidence verifies, and verdicts under each catalogue are computed again.
    let (code, report) = gateway.verify(&gateway.pack(&dana));
    assert_eq!((code, &report["verdict"]), (0, &json!("VALID")), "{report}");
    let verdicts = gateway.entries(&dana).into_iter().filter(|e| e["kind"] == "gate" || e["kind"] == "catalogue");
    let mut replayed = 0;
    for entry in verdicts.filter(|entry| !entry["verdict"].is_null()) {
        let replay = gateway.get(&format!("/api/v1/replay/{}", entry["index"]), &dana).expect_status(200).json();
        assert_eq!(replay["matches"], true, "{entry}");
        replayed += 1;
    }
    assert!(replayed >= 3, "{replayed}");
}

#[test]
fn the_tools_of_an_mcp_server_come_with_a_report_of_what_policy_cannot_see() {
    let gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gateway/mcp"));
    let list = folder.join("tools-list.json");
    let list = list.to_str().unwrap();
    file(&gateway, "words.json", r#"{"create_issue": {"risk": 2, "scopes": ["issues:write"]}, "ping": {"risk": 0}}"#);
    let arguments = ["--json", "tool", "import-mcp", list, "--as", "hub", "--data-class", "internal"];
    let with_words = [&arguments[..], &["--words", "words.json"]].concat();
    let mut answer = run(&gateway, &dana, &with_words).ended(0).json();
    // What else is listed is the default catalogue's, and no part of this promise.
    answer.as_object_mut().unwrap().retain(|key, _| !["receipt", "catalogue", "predecessor"].contains(&key.as_str()));
    let golden = folder.join("report.json");
    let shown = format!("{}\n", serde_json::to_string_pretty(&answer).unwrap());
    let kept = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("mcp-report.json");
    fs::write(&kept, &shown).unwrap();
    assert_eq!(shown, fs::read_to_string(&golden).unwrap(), "read the difference; the new one is {}", kept.display());

    // The server's word about itself is not taken, the registrar's is, and what is left out is the highest.
    let tool = |name: &str| gateway.get(&format!("/api/v1/tools/{name}"), &dana).expect_status(200).json();
    let words = |name: &str| (tool(name)["risk"].clone(), tool(name)["scopes"].clone());
    assert_eq!(words("hub.create_issue"), (json!(2), json!(["issues:write"])));
    assert_eq!(words("hub.query"), (json!(4), json!(["hub:query"])));
    // Text of others is escaped where a person reads it.
    let said = run(&gateway, &dana, &["tool", "show", "hub.query"]).ended(0);
    assert!(!said.out.contains('\u{1b}') && said.out.contains("\\u{1b}[2J"), "{}", said.out);
    assert!(said.out.contains("unseen  /parameters: its properties are not all declared"), "{}", said.out);

    // The same list again changes nothing; half a list is refused.
    let again = run(&gateway, &dana, &arguments).ended(0).json();
    assert!(
        again["receipt"].is_null() && again["tools"].as_array().unwrap().iter().all(|t| t["change"] == "unchanged")
    );
    assert_eq!(words("hub.create_issue").0, 2, "a definition that did not change keeps its words");
    file(&gateway, "half.json", r#"{"tools": [], "nextCursor": "abc"}"#);
    let said = run(&gateway, &dana, &["tool", "import-mcp", "half.json", "--as", "hub"]).ended(1);
    assert!(
        said.err.contains("half.json:1:29 /tools_list/nextCursor") && said.err.contains("all pages"),
        "{}",
        said.err
    );
}

const GATE: &str = r#"
@id("tools-need-approval")
@requires_approval("policy-change")
@title("Registering tools takes a second person")
forbid (principal, action == Countersign::Action::"registerTool", resource)
unless { context.satisfied.contains(Countersign::ApprovalRule::"policy-change") };
"#;

/// A bundle under which registering tools takes a second person.
fn asks_people(gateway: &Gateway) -> Vec<u8> {
    let bundle = crate::changes::folder(&gateway.beside(""), "tools take two");
    let policies = bundle.join("policies.cedar");
    fs::write(&policies, fs::read_to_string(&policies).unwrap() + GATE).unwrap();
    for entry in fs::read_dir(bundle.join("tests")).unwrap() {
        let path = entry.unwrap().path();
        let mut tests: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        if let Some(cases) = tests["cases"].as_array_mut() {
            cases.retain(|case| case["ask"]["op"] != "registerTool");
            fs::write(&path, tests.to_string()).unwrap();
        }
    }
    crate::changes::draft_of(&bundle)
}

#[test]
fn a_tool_that_takes_a_second_person_waits_at_a_gate_and_is_listed_once_approved() {
    let mut gateway = Gateway::start();
    let (dana, dana_decides) = gateway.enrol();
    crate::changes::mia(&gateway, &dana);
    let mia = gateway.login("mia", "act decide");
    crate::changes::propose(&gateway, &dana, "/api/v1/policies/proposals", &asks_people(&gateway));
    file(&gateway, "ticket.json", TICKET);
    let tool: Value = serde_json::from_str(TICKET).unwrap();

    // Over HTTP: 202, and where to look.
    let answer = gateway.post("/api/v1/tools", &dana, &json!({ "tools": [tool] })).expect_status(202);
    let waits = answer.json()["registration"].clone();
    let place = format!("/api/v1/tools/registrations/{}", waits["id"].as_str().unwrap());
    assert_eq!(answer.header("location").unwrap(), place);
    assert_eq!(gateway.get(&place, &dana).expect_status(200).json()["state"], "waiting");
    gateway.get("/api/v1/tools/tickets.create", &dana).expect_status(404);

    // By the command line: the same gate again, in words.
    let gate = waits["gate"].as_str().unwrap();
    let said = run(&gateway, &dana, &["tool", "register", "ticket.json"]).ended(0);
    assert!(said.out.contains("waits for people") && said.out.contains(gate), "{}", said.out);

    // Another one of the same account is told which one waits.
    let other = json!({ "tools": [{ "name": "tickets.close", "input": { "type": "object" } }] });
    let refused = gateway.post("/api/v1/tools", &dana, &other).expect_status(409).json();
    assert_eq!((&refused["code"], &refused["registration"]["href"]), (&json!("registration-waiting"), &json!(place)));

    let approve = |token: &str| {
        let shown = gateway.get(&format!("/api/v1/gates/{gate}"), token).expect_status(200).json();
        let view = shown["view"].as_str().unwrap();
        assert!(view.contains("tickets.create of server tickets: added") && view.contains("notes:write"), "{view}");
        let body = json!({ "decision": "APPROVE", "justification": "seen", "shown_digest": shown["shown_digest"] });
        gateway.post(&format!("/api/v1/gates/{gate}/decisions"), token, &body).expect_status(200).json()
    };
    assert_eq!(approve(&dana_decides)["effect"], "not_eligible", "whoever registers it does not approve it");
    assert_eq!(approve(&mia)["state"], "COMPLETED");
    let said = run(&gateway, &dana, &["tool", "registration", waits["id"].as_str().unwrap()]).ended(0);
    assert!(said.out.contains("activated"), "{}", said.out);
    let listed = gateway.get("/api/v1/tools/tickets.create", &dana).expect_status(200).json();
    let (code, report) = gateway.verify(&gateway.pack(&dana));
    assert_eq!((code, &report["verdict"]), (0, &json!("VALID")), "{report}");

    // A restart loads what people approved.
    assert!(gateway.stop());
    gateway.up();
    let dana = gateway.login("dana", "act");
    assert_eq!(gateway.get("/api/v1/tools/tickets.create", &dana).expect_status(200).json(), listed);
}

#[test]
fn a_bundle_names_the_tool_catalogue_in_force_by_digest_and_version_or_none() {
    let gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    run(&gateway, &dana, &["policy", "default", "policy"]).ended(0);
    let active = gateway.get("/api/v1/policies/active", &dana).expect_status(200).json()["catalogue"].clone();
    let check = |catalogue: &Value| {
        let read = |name: &str| json!(fs::read_to_string(gateway.beside("policy").join(name)).unwrap());
        let files = json!({
            "bundle.json": json!({ "catalogue": catalogue }).to_string(), "policies.cedar": read("policies.cedar"),
            "roles.json": read("roles.json"), "rules.json": read("rules.json"),
        });
        let draft = json!({ "format": "countersign-draft/1", "files": files });
        gateway.post("/api/v1/policies/check", &dana, &draft)
    };
    check(&json!({ "version": 1, "digest": active })).expect_status(200);
    check(&Value::Null).expect_status(200);
    let other = "0".repeat(64);
    for (catalogue, part) in [
        (json!({ "version": 1, "digest": other }), format!("names tool catalogue `{other}`")),
        (json!({ "version": 2, "digest": active }), "names version 2 of the tool catalogue, and version 1".to_owned()),
    ] {
        let refused = check(&catalogue);
        let said = refused.json().to_string();
        assert!(refused.code() == "bundle-rejected" && said.contains(&part), "{catalogue}: {said}");
    }
}

#[test]
fn the_way_back_to_a_bundle_that_names_its_tools_is_open_after_tools_changed() {
    let gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    let active = || gateway.get("/api/v1/policies/active", &dana).expect_status(200).json();
    let proposals = "/api/v1/policies/proposals";
    let mut names: Value = serde_json::from_slice(&crate::changes::draft("names its tools")).unwrap();
    names["files"]["bundle.json"] =
        json!({ "catalogue": { "version": 1, "digest": active()["catalogue"] } }).to_string().into();
    crate::changes::propose(&gateway, &dana, proposals, names.to_string().as_bytes());
    file(&gateway, "ticket.json", TICKET);
    run(&gateway, &dana, &["tool", "register", "ticket.json"]).ended(0);
    crate::changes::propose(&gateway, &dana, proposals, &crate::changes::draft("names none"));
    let back = crate::changes::propose(&gateway, &dana, "/api/v1/policies/rollback", b"{}");
    assert_eq!((&back["state"], &back["rollback"]), (&json!("activated"), &json!(true)), "{back}");
    assert_eq!(active()["version"], 4, "the content of the second, with the tools in force");
    gateway.get("/api/v1/tools/tickets.create", &dana).expect_status(200);
}
