//! A candidate is asked about the past of a real ledger: by a gateway that runs, and from the folder of one that does not.

use std::path::Path;
use std::process::Command;

use countersign_tests_testkit::{Gateway, countersign};
use serde_json::{Value, json};

use crate::said::Said;

fn policy(arguments: &[&str]) -> Said {
    Said::by(Command::new(countersign()).env_clear().arg("policy").args(arguments))
}

/// What the backtest came to.
fn reported(said: &Said) -> Value {
    said.json()["report"].clone()
}

/// The default bundle in a folder, and beside it one that stops notes.
fn candidates(folder: &Path) -> (String, String) {
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (same, stricter) = (path("same"), path("stricter"));
    for name in [&same, &stricter] {
        policy(&["default", name]).ended(0);
    }
    let file = folder.join("stricter/policies.cedar");
    let mut text = std::fs::read_to_string(&file).unwrap();
    text.push_str(
        "\n@id(\"no-notes\")\n@title(\"Nobody writes notes\")\nforbid (principal, action == \
         Countersign::Action::\"callTool:notes.append\", resource);\n",
    );
    std::fs::write(file, text).unwrap();
    (same, stricter)
}

/// Three notes, and a merge that waits for a person.
fn work(gateway: &Gateway) -> (String, String) {
    let (dana, _) = gateway.enrol();
    let agent = gateway.agent(&dana, "fixer");
    gateway.workflow(&dana, "repair");
    let instance = gateway.instance(&dana, "repair", "fixer");
    for text in ["a", "b", "c"] {
        gateway.propose(&agent, &instance, "notes.append", &json!({ "text": text })).expect_status(200);
    }
    let merge = json!({ "branch": "main", "message": "fix" });
    gateway.propose(&agent, &instance, "repo.merge", &merge).expect_status(202);
    (dana, agent)
}

#[test]
fn a_candidate_is_asked_about_the_past_of_a_gateway_that_runs_and_of_one_that_is_stopped() {
    let mut gateway = Gateway::start();
    let (dana, agent) = work(&gateway);
    let folder = tempfile::tempdir().unwrap();
    let (same, stricter) = candidates(folder.path());
    let page = folder.path().join("report.html").to_str().unwrap().to_owned();
    let url = gateway.url("");
    let ask = |token: &str, arguments: &[&str]| {
        policy(&[&["--server", &url, "--token", token, "backtest"], arguments].concat())
    };

    let said = ask(&dana, &[&same]).ended(0);
    assert!(said.out.contains("questions asked again") && said.out.contains("answered as then"), "{}", said.out);
    let said = ask(&dana, &[&stricter, "--html", &page]).ended(1);
    for words in ["3  ALLOW -> DENY", "Tool::notes.append", "Agent::fixer", "no-notes", "Nobody writes notes"] {
        assert!(said.out.contains(words), "{words}: {}", said.out);
    }
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.starts_with("<!doctype html>") && html.contains("ALLOW → DENY"), "{html:.300}");

    // What a pipeline stops at is its own to say.
    for (which, code) in [("looser", 0), ("stricter", 1), ("looser,stricter", 1), ("not-computable", 0), ("nothing", 0)]
    {
        ask(&dana, &[&stricter, "--fail-on", which]).ended(code);
    }
    let report = reported(&ask(&dana, &[&stricter, "--json"]).ended(1));
    assert_eq!(report["all"]["changed"], json!({ "allow_to_deny": 3 }));
    assert_eq!(report["by_tool"]["Tool::notes.append"]["changed"]["allow_to_deny"], 3);
    assert_eq!(report["examples"]["allow_to_deny"].as_array().unwrap().len(), 3);
    let windowed = |arguments: &[&str]| {
        let all = [&[stricter.as_str(), "--json", "--fail-on", "nothing"], arguments].concat();
        reported(&ask(&dana, &all).ended(0))
    };
    assert_eq!(windowed(&["--since", "1h"]), report, "all of it is younger");
    assert_eq!(windowed(&["--until", "2020-01-01"])["asked"], 0);
    assert_eq!(
        windowed(&["--last", "1"])["by_tool"],
        json!({ "Tool::repo.merge": report["by_tool"]["Tool::repo.merge"] })
    );
    assert_eq!(windowed(&["--examples", "0"])["examples"], json!({}));

    // Nothing was looked at: another code than "something was found".
    let said = ask(&agent, &[&same]).ended(2);
    assert!(said.err.contains("there is no such backtest"), "{}", said.err);
    std::fs::write(folder.path().join("same/policies.cedar"), "permit (nonsense").unwrap();
    let said = ask(&dana, &[&same]).ended(2);
    assert!(said.err.contains("bundle-rejected"), "{}", said.err);
    ask(&dana, &[&stricter, "--since", "yesterday"]).ended(64);
    ask(&dana, &["nowhere"]).ended(2);

    let data = gateway.data();
    let offline = ["backtest", &stricter, "--json", "--data-dir", data.to_str().unwrap()];
    let said = policy(&offline).ended(2);
    assert!(said.err.contains("in use by another process"), "{}", said.err);
    let entries = gateway.entries(&dana).len();
    gateway.stop();
    assert_eq!(reported(&policy(&offline).ended(1)), report, "the same questions, the same answers");
    let (ok, said) = gateway.operate(&["organization", "create", "north"]);
    assert!(ok, "{said}");
    let north =
        reported(&policy(&[&offline[..], &["--organization", "north", "--fail-on", "nothing"]].concat()).ended(0));
    assert_eq!(north["by_tool"].get("Tool::notes.append"), None, "another organization's past is its own");
    gateway.up();
    let dana = gateway.login("dana", "act");
    // The creation of the other organization started it once, too.
    assert_eq!(gateway.entries(&dana).len(), entries + 2, "a backtest leaves no entry; a start leaves its own");
}

#[test]
fn the_answer_is_lines_of_json_and_the_last_one_is_the_report() {
    let gateway = Gateway::start();
    let (dana, agent) = work(&gateway);
    let folder = tempfile::tempdir().unwrap();
    let (_, stricter) = candidates(folder.path());
    let mut files = serde_json::Map::new();
    for name in ["policies.cedar", "roles.json", "rules.json"] {
        files.insert(name.to_owned(), std::fs::read_to_string(Path::new(&stricter).join(name)).unwrap().into());
    }
    let body = json!({ "format": "countersign-draft/1", "files": files });
    let answer = gateway.post("/api/v1/policies/backtest?last=4&examples=1", &dana, &body).expect_status(200);
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
    let text = String::from_utf8(answer.bytes).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (last, before) = lines.split_last().unwrap();
    assert_eq!(last["report"]["asked"], 4);
    assert_eq!(last["report"]["examples"]["allow_to_deny"].as_array().unwrap().len(), 1);
    assert!(!before.is_empty() && before.iter().all(|line| line["progress"]["of"].as_u64().is_some()), "{text}");
    for (query, token, code) in [
        ("?since=yesterday", &dana, "parameter-invalid"),
        ("?examples=1001", &dana, "parameter-invalid"),
        ("?before=1", &dana, "parameter-invalid"),
        ("", &agent, "not-found"),
    ] {
        let answer = gateway.post(&format!("/api/v1/policies/backtest{query}"), token, &body);
        assert_eq!(answer.code(), code, "{query}");
    }
}

#[test]
fn the_pipeline_of_the_example_may_try_a_candidate_and_no_other_service_may() {
    let gateway = Gateway::start();
    let (dana, _) = work(&gateway);
    let folder = tempfile::tempdir().unwrap();
    let (same, stricter) = candidates(folder.path());
    let permit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/examples/policy-ci.cedar");
    let permit = std::fs::read_to_string(permit).unwrap();
    let file = Path::new(&same).join("policies.cedar");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}\n{permit}")).unwrap();
    policy(&["fmt", "--check", &same]).ended(0);
    crate::first_hour::activate(&gateway, &dana, Path::new(&same));

    let url = gateway.url("");
    for (id, scopes, code) in [("pipeline", json!(["policy:backtest"]), 1), ("proxy", json!(["evaluate"]), 2)] {
        let body = json!({ "id": id, "display_name": id, "owner": "dana", "scopes": scopes });
        gateway.post("/api/v1/services", &dana, &body).expect_status(201);
        let token = gateway.credentials(&dana, &format!("service:{id}"));
        policy(&["--server", &url, "--token", &token, "backtest", &stricter]).ended(code);
    }
}
