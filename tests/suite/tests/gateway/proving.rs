//! What a bundle must never allow is proved by a real solver, or it is said that it is not; a refuted invariant is not
//! activated.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use countersign_tests_testkit::{Gateway, Options, countersign};
use serde_json::{Value, json};

/// The solver that `cargo xtask test` names, or the one that it has laid down before. None: the test is skipped.
#[expect(clippy::disallowed_methods, reason = "a test finds out what the machine has")]
fn solver(test: &str) -> Option<String> {
    let named = std::env::var_os("COUNTERSIGN_CVC5").map(PathBuf::from);
    let laid_down = std::env::var_os("HOME")
        .map(|home| PathBuf::from(home).join(".cache/countersign/tools/cvc5-1.3.1/bin/cvc5"))
        .filter(|path| path.is_file());
    if let Some(path) = named.or(laid_down) {
        return Some(path.to_str().unwrap().to_owned());
    }
    let in_ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false");
    assert!(!in_ci, "no cvc5: `cargo xtask test` lays it down");
    let line = format!("skipped: {test}: no cvc5; `cargo xtask test` lays it down\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    None
}

/// Where a shell and an interpreter are, and no solver.
const SEARCH: &str = "/usr/local/bin:/usr/bin:/bin";

fn policy(arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new(countersign());
    command.env_clear().arg("policy").args(arguments);
    if arguments.contains(&"--solver") {
        command.env("PATH", SEARCH);
    }
    let output = command.output().unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (output.status.code().unwrap(), said)
}

#[track_caller]
fn ends(arguments: &[&str], code: i32, words: &[&str]) -> String {
    let (got, said) = policy(arguments);
    assert_eq!(got, code, "{arguments:?}: {said}");
    for word in words {
        assert!(said.contains(word), "{arguments:?}, {word}: {said}");
    }
    said
}

const APPROVED: &str = "@id(\"no-refund-alone\")\n@title(\"No refund without approval\")\npermit (principal, action == \
    Countersign::Action::\"callTool:payments.refund\", resource)\nwhen { \
    !context.satisfied.contains(Countersign::ApprovalRule::\"payment\") };\n";

const NEVER: &str = "@id(\"no-notes-ever\")\npermit (principal, action == \
    Countersign::Action::\"callTool:notes.append\", resource);\n";

fn bundle(folder: &Path, name: &str, invariants: &str) -> String {
    let path = folder.join(name);
    let text = path.to_str().unwrap().to_owned();
    let (code, said) = policy(&["default", &text]);
    assert_eq!(code, 0, "{said}");
    std::fs::create_dir(path.join("invariants")).unwrap();
    std::fs::write(path.join("invariants/all.cedar"), invariants).unwrap();
    text
}

#[test]
fn without_a_solver_nothing_is_proved_and_nothing_passes_as_proved() {
    let folder = tempfile::tempdir().unwrap();
    let good = bundle(folder.path(), "good", APPROVED);
    ends(&["prove", &good], 2, &["`no-refund-alone` is not proved", "there is no solver"]);
    let document: Value = serde_json::from_str(&ends(&["prove", &good, "--json"], 2, &[])).unwrap();
    assert_eq!((&document["proved"], &document["solver"]), (&json!(false), &json!(false)));
    assert_eq!(document["invariants"][0]["outcome"], "not_proved");
    // A pipeline sees it; whether it stands in the way is the invariant's own to say.
    ends(&["check", &good], 0, &["warning[unproved]", "is not proved: no solver was asked"]);
    let strict = bundle(folder.path(), "strict", &APPROVED.replacen("@title", "@unproved(\"refuse\")\n@title", 1));
    ends(&["check", &strict], 1, &["error[unproved]"]);
    ends(&["prove", &good, "--solver", "/nowhere/cvc5"], 2, &["is no program that can be run"]);
    ends(&["prove", "nowhere"], 2, &[]);
}

#[test]
fn an_invariant_is_proved_or_refuted_with_a_request_and_what_is_newly_allowed_is_found() {
    let Some(solver) = solver("an_invariant_is_proved_or_refuted_with_a_request_and_what_is_newly_allowed_is_found")
    else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let good = bundle(folder.path(), "good", &APPROVED.replacen("@title", "@unproved(\"refuse\")\n@title", 1));
    let bad = bundle(folder.path(), "bad", NEVER);
    ends(&["prove", &good, "--solver", &solver], 0, &["invariant `no-refund-alone` is proved"]);
    ends(&["check", &good, "--solver", &solver], 0, &["0 errors"]);
    ends(&["prove", &bad, "--solver", &solver], 1, &["`no-notes-ever` is refuted", "callTool:notes.append"]);
    ends(&["check", &bad, "--solver", &solver], 1, &["error[unproved]", "is refuted"]);
    let document = ends(&["prove", &bad, "--solver", &solver, "--json"], 1, &[]);
    let document: Value = serde_json::from_str(&document).unwrap();
    assert_eq!(document["invariants"][0]["outcome"], "refuted");
    assert_eq!(document["invariants"][0]["question"]["op"], "callTool:notes.append");

    // What lets more pass is found, although no invariant speaks of it.
    let looser = bundle(folder.path(), "looser", "");
    let file = Path::new(&looser).join("policies.cedar");
    let text = std::fs::read_to_string(&file).unwrap();
    let more = "\n@id(\"anybody-reads-policy\")\npermit (principal is Countersign::Agent, action == \
                Countersign::Action::\"readPolicy\", resource is Countersign::Organization);\n";
    std::fs::write(&file, text + more).unwrap();
    ends(&["prove", &looser, "--against", &good, "--solver", &solver], 1, &["NEWLY ALLOWED", "readPolicy"]);
}

#[test]
fn a_gateway_with_a_solver_refuses_what_is_refuted_and_shows_what_is_proved() {
    let Some(solver) = solver("a_gateway_with_a_solver_refuses_what_is_refuted_and_shows_what_is_proved") else {
        return;
    };
    let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let variables = vec![variable("COUNTERSIGN_POLICY__SOLVER", &solver), variable("PATH", SEARCH)];
    let gateway = Gateway::start_with(Options { variables, ..Options::default() });
    let (dana, _) = gateway.enrol();
    let draft = |invariants: &str| {
        let folder = tempfile::tempdir().unwrap();
        let path = bundle(folder.path(), "policy", invariants);
        let mut files = serde_json::Map::new();
        for name in ["policies.cedar", "roles.json", "rules.json", "invariants/all.cedar"] {
            files.insert(name.to_owned(), std::fs::read_to_string(Path::new(&path).join(name)).unwrap().into());
        }
        json!({ "format": "countersign-draft/1", "files": files })
    };
    let checked = gateway.post("/api/v1/policies/check", &dana, &draft(APPROVED)).expect_status(200).json();
    let diff = checked["diff"].as_str().unwrap();
    assert!(diff.contains("invariant `no-refund-alone` is proved"), "what a person confirms says it: {diff}");
    for path in ["check", "activate"] {
        let answer = gateway.post(&format!("/api/v1/policies/{path}"), &dana, &draft(NEVER));
        assert_eq!(answer.code(), "bundle-rejected", "{path}");
        assert!(answer.json()["errors"].to_string().contains("`no-notes-ever` is refuted"), "{}", answer.json());
    }
    let version = gateway.get("/api/v1/policies/active", &dana).expect_status(200).json()["version"].clone();
    assert_eq!(version, 1, "nothing was activated");
}
