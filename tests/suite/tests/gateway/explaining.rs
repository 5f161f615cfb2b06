//! Why policy said what it said, by the command line and over HTTP; and other systems' rules, read into a bundle draft.

use std::fs;
use std::path::Path;
use std::process::Command;

use countersign_tests_testkit::{Gateway, countersign};
use serde_json::{Value, json};

use crate::said::Said;

/// The exit code of a command line that means nothing.
const USAGE: i32 = 64;

fn policy(gateway: &Gateway, token: &str, arguments: &[&str]) -> Said {
    let mut command = Command::new(countersign());
    command.env_clear().current_dir(gateway.beside("")).arg("policy").args(arguments);
    Said::by(command.env("COUNTERSIGN_SERVER", gateway.url("")).env("COUNTERSIGN_TOKEN", token))
}

/// The line of one policy in an explanation's words.
fn line<'t>(text: &'t str, begins: &str) -> &'t str {
    text.lines().find(|line| line.starts_with(begins)).unwrap_or_else(|| panic!("no `{begins}` in:\n{text}"))
}

#[test]
fn the_clause_that_stood_in_the_way_is_named_on_the_command_line_and_over_http() {
    let gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    let agent = gateway.agent(&dana, "fixer");
    gateway.workflow(&dana, "repair");
    let instance = gateway.instance(&dana, "repair", "fixer");
    let refusal = |tool: &str, input: &Value| {
        let refused = gateway.propose(&agent, &instance, tool, input).expect_status(403).json();
        refused["receipt"]["index"].to_string()
    };
    let explained = |index: &str| {
        let http = gateway.get(&format!("/api/v1/audit/entries/{index}/explanation"), &dana).expect_status(200).json();
        assert_eq!(policy(&gateway, &dana, &["explain", index, "--json"]).ended(0).json(), http);
        let text = policy(&gateway, &dana, &["explain", index]).ended(0).out;
        assert!(text.contains(http["questions"][0]["text"].as_str().unwrap()), "{text}");
        (text, http["questions"][0].clone())
    };

    // No scope for it: nothing permits it, and the permit that came nearest says where it ended.
    let refund = json!({ "amount": 12.5, "currency": "EUR", "order": "o-1" });
    let unscoped = refusal("payments.refund", &refund);
    let (text, question) = explained(&unscoped);
    assert!(text.starts_with("Agent::fixer callTool Tool::payments.refund\ndeny"), "{text}");
    let clause = "principal.scopes.containsAll(resource.scopes)";
    let permit = line(&text, "permit agent-uses-tools (policies.cedar:");
    assert!(permit.ends_with(&format!("`{clause}` is not true")), "{permit}");
    let policies = question["policies"].as_array().unwrap();
    let near = policies.iter().find(|one| one["policy"] == "agent-uses-tools").unwrap();
    let last = near["clauses"].as_array().unwrap().last().unwrap();
    assert_eq!((&near["outcome"], last), (&json!("fails"), &json!({ "text": clause, "outcome": "fails" })));

    // A forbid that no approval lifts stands first, and what permits it beside.
    let credentials = refusal("repo.read", &json!({ "path": "credentials" }));
    let (text, question) = explained(&credentials);
    assert!(line(&text, "forbid credential-files (policies.cedar:").ends_with(": holds"), "{text}");
    assert!(line(&text, "permit agent-uses-tools (").ends_with(": holds"), "{text}");
    assert_eq!(question["policies"][0]["policy"], "credential-files");

    // A question that nobody has asked.
    let question = json!({
        "asked": "Agent::fixer", "op": "callTool", "resource": "Tool::repo.merge",
        "instance": format!("Instance::{instance}"),
        "input": { "branch": "main", "message": "fix" },
    });
    fs::write(gateway.beside("what-if.json"), question.to_string()).unwrap();
    let size = gateway.entries(&dana).len();
    let text = policy(&gateway, &dana, &["explain", "--question", "what-if.json"]).ended(0).out;
    assert!(text.starts_with("Agent::fixer callTool Tool::repo.merge\nneeds approval by merge\n"), "{text}");
    assert!(line(&text, "gate gate-merge (policies.cedar:").ends_with(": holds"), "{text}");
    let http = gateway.post("/api/v1/policies/explain", &dana, &question).expect_status(200).json();
    let shown = policy(&gateway, &dana, &["explain", "--question", "what-if.json", "--json"]).ended(0).json();
    assert_eq!(shown, json!({ "questions": [http] }));

    // An entry without a verdict, one that is not there, what is no question, a file that is not there.
    fs::write(gateway.beside("none.json"), "{}").unwrap();
    for (arguments, says) in [
        (&["explain", "0"][..], "not-found"),
        (&["explain", "999999"][..], "not-found"),
        (&["explain", "--question", "none.json"][..], "parameter-invalid"),
        (&["explain", "--question", "nowhere.json"][..], "cannot be read"),
    ] {
        let ended = policy(&gateway, &dana, arguments).ended(1);
        assert!(ended.err.contains(says), "{arguments:?}: {}", ended.err);
    }
    // Neither of the two, and both: no such command.
    policy(&gateway, &dana, &["explain"]).ended(USAGE);
    policy(&gateway, &dana, &["explain", &unscoped, "--question", "what-if.json"]).ended(USAGE);
    // What stood in the way of an agent would teach it the way round.
    for arguments in [&["explain", &unscoped][..], &["explain", "--question", "what-if.json"][..]] {
        let ended = policy(&gateway, &agent, arguments).ended(1);
        assert!(ended.err.contains("not-found") && ended.out.is_empty(), "{}{}", ended.out, ended.err);
    }
    assert_eq!(gateway.entries(&dana).len(), size, "nothing is recorded");
}

#[test]
fn what_a_policy_in_shadow_would_have_said_is_explained_and_changes_no_answer() {
    const NO_NOTES: &str = r#"
@id("no-notes")
forbid (principal, action == Countersign::Action::"callTool:notes.append", resource is Countersign::Tool);
"#;
    let gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    gateway.agent(&dana, "fixer");
    let proxy = crate::authzen::enforcement_point(&gateway, &dana);
    gateway.workflow(&dana, "repair");
    let instance = gateway.instance(&dana, "repair", "fixer");
    let evaluate = || {
        let asked = json!({
            "subject": { "type": "agent", "id": "fixer", "properties": { "instance": instance } },
            "action": { "name": "callTool", "properties": { "text": "a" } },
            "resource": { "type": "tool", "id": "notes.append" },
        });
        let answer = gateway.post("/access/v1/evaluation", &proxy, &asked).expect_status(200).json();
        (answer["decision"].clone(), answer["context"]["entry"].to_string())
    };
    let explained = |index: &str| {
        let path = format!("/api/v1/audit/entries/{index}/explanation");
        let http = gateway.get(&path, &dana).expect_status(200).json();
        assert_eq!(policy(&gateway, &dana, &["explain", index, "--json"]).ended(0).json(), http);
        (http["questions"][0].clone(), policy(&gateway, &dana, &["explain", index]).ended(0).out)
    };
    let (before, index) = evaluate();
    let (question, text) = explained(&index);
    assert!(question.get("would_be").is_none() && !text.contains("shadow"), "{text}");

    let desk = tempfile::tempdir().unwrap();
    let bundle = crate::changes::folder(desk.path(), "a forbid is tried");
    let policies = bundle.join("policies.cedar");
    fs::write(&policies, fs::read_to_string(&policies).unwrap() + NO_NOTES).unwrap();
    let shadow = json!({ "policies": [{ "id": "no-notes", "until": 4_000_000_000_000_u64 }] });
    fs::write(bundle.join("bundle.json"), json!({ "shadow": shadow }).to_string()).unwrap();
    let draft = crate::changes::draft_of(&bundle);
    crate::changes::propose(&gateway, &dana, "/api/v1/policies/activate", &draft);

    let (after, index) = evaluate();
    assert_eq!((&before, &after), (&json!(true), &json!(true)));
    let (question, text) = explained(&index);
    assert_eq!(question["verdict"]["decision"], "allow");
    let would_be = &question["would_be"];
    assert_eq!((&would_be["verdict"]["decision"], &would_be["shadow"]), (&json!("deny"), &json!(["no-notes"])));
    line(&text, "with what is in shadow in force: deny (in shadow: no-notes)");
    assert!(line(&text, "forbid no-notes (").contains(", in shadow): holds"), "{text}");
}

/// A source of one format, and what is taken out of it so that all of it carries over.
struct Kind {
    format: &'static str,
    golden: &'static str,
    left_out: &'static [&'static str],
    people: bool,
}

const KINDS: [Kind; 6] = [
    Kind {
        format: "materiality",
        golden: "materiality/source.yaml",
        left_out: &["owner: team-payments\n"],
        people: false,
    },
    Kind {
        format: "tool-scopes",
        golden: "tool-scopes/source.yaml",
        left_out: &["  org_allowlists:\n    acme: [git.write]\n"],
        people: false,
    },
    Kind {
        format: "forbidden-patterns",
        golden: "forbidden-patterns/source.yaml",
        left_out: &["colour: red\n"],
        people: false,
    },
    Kind {
        format: "admission",
        golden: "admission/source.yaml",
        left_out: &["  namespaces: [agents]\n", ", \"app.example.com/*\"", "  providerRef: {name: codex}\n"],
        people: false,
    },
    Kind {
        format: "agentcore",
        golden: "agentcore/source.cedar",
        left_out: &[", AgentCore::Action::\"tools/list\""],
        people: false,
    },
    Kind {
        format: "agentcore",
        golden: "agentcore-person/source.cedar",
        left_out: &["// Nobody exports all salaries.\n"],
        people: true,
    },
];

#[test]
fn rules_of_each_other_system_become_a_draft_or_say_what_does_not_carry_over() {
    let desk = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        Said::by(Command::new(countersign()).env_clear().current_dir(desk.path()).arg("policy").args(arguments))
    };
    let there = |name: &str| desk.path().join(name).exists();
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policy/import/tests/golden");
    for (n, kind) in KINDS.iter().enumerate() {
        let golden = fs::read_to_string(goldens.join(kind.golden)).unwrap();
        let whole = kind.left_out.iter().fold(golden.clone(), |text, part| text.replace(part, ""));
        let partly = if whole == golden { format!("{golden}{}", kind.left_out.concat()) } else { golden };
        assert!(kind.left_out.iter().all(|part| partly.contains(part)), "{}", kind.golden);
        fs::write(desk.path().join("whole"), whole).unwrap();
        fs::write(desk.path().join("partly"), partly).unwrap();
        let import = |file: &str, out: &str, more: &[&str]| {
            let people: &[&str] = if kind.people { &["--people"] } else { &[] };
            run(&[&["import", kind.format, file, "--out", out], people, more].concat())
        };

        // All of it carries over: 0, and the draft passes its checks.
        let out = format!("whole-{n}");
        let report = import("whole", &out, &["--json"]).ended(0).json();
        assert_eq!((&report["complete"], &report["written"]), (&json!(true), &json!(out)), "{report}");
        assert!(there(&format!("{out}/IMPORT.md")));
        run(&["check", &out]).ended(0);

        // A folder that is there is not written over: 2.
        assert!(import("whole", &out, &[]).ended(2).err.contains("is there already"));

        // Some of it does not: 1 and nothing is written, unless that is what is asked for.
        if kind.people {
            continue;
        }
        let out = format!("partly-{n}");
        let ended = import("partly", &out, &[]).ended(1);
        assert!(ended.out.contains("nothing was written") && ended.out.contains(": left out: "), "{}", ended.out);
        let report = import("partly", &out, &["--json"]).ended(1).json();
        assert_eq!((&report["complete"], &report["written"]), (&json!(false), &json!(null)), "{report}");
        let fates = report["report"]["entries"].as_array().unwrap().iter().map(|entry| entry["fate"].clone());
        assert!(fates.into_iter().any(|fate| fate == "left_out"), "{report}");
        assert!(!there(&out), "{}", kind.format);
        let ended = import("partly", &out, &["--incomplete"]).ended(0);
        assert!(ended.out.contains(&format!("written to {out}; read what did not carry over")), "{}", ended.out);
        let note = fs::read_to_string(desk.path().join(&out).join("IMPORT.md")).unwrap();
        assert!(note.contains("## Left out"), "{note}");
    }

    // What cannot be read at all: 2, whatever the format, also with `--incomplete`.
    fs::write(desk.path().join("broken"), "a: [1, 2\nb: }{").unwrap();
    for format in ["materiality", "tool-scopes", "forbidden-patterns", "admission", "agentcore"] {
        for file in ["broken", "nowhere"] {
            let ended = run(&["import", format, file, "--out", "never", "--incomplete"]).ended(2);
            assert!(ended.err.contains(file), "{format}: {}", ended.err);
        }
    }
    run(&["import", "rego", "broken", "--out", "never"]).ended(USAGE);
    assert!(!there("never"));
}
