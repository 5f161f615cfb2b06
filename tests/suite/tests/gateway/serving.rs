//! A gateway as whoever runs it meets it: what it greets with, what it logs, what it remembers outside, how it ends.
#![expect(clippy::disallowed_methods, reason = "a process ends in real time")]

use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use countersign_tests_testkit::{Gateway, Options, countersign, countersign_verify};
use serde_json::{Value, json};

#[test]
fn the_greeting_names_documentation_and_root_key_and_keeps_the_token_to_its_file() {
    let gateway = Gateway::start();
    let said = gateway.greeting();
    let docs = gateway.url("/docs");
    assert!(said.contains(&docs) && said.contains(&gateway.root_vkey()), "{said}");
    assert_eq!(gateway.get("/docs", "").status / 100, 2, "there it is");
    let token = gateway.enrolment_token();
    let file = gateway.data().join("enrolment.token");
    assert!(said.contains(file.to_str().unwrap()), "it says where the token is: {said}");
    assert!(token.len() > 20 && !said.contains(&token), "no terminal, no token: {said}");
    assert!(!gateway.words().contains(&token));
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);

    let json = Options { arguments: vec!["--json".to_owned()], ..Options::default() };
    let gateway = Gateway::start_with(json);
    let said = gateway.greeting();
    assert!(!said.contains(&gateway.enrolment_token()), "{said}");
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&said["docs"], &said["root_vkey"]), (&json!(gateway.url("/docs")), &json!(gateway.root_vkey())));
    assert_eq!(said["enrolment_token_file"], json!(gateway.data().join("enrolment.token")));
}

#[test]
fn an_answered_request_is_logged_with_its_id_its_instance_and_its_entry() {
    let gateway = Gateway::start_with(Options::logging());
    let (dana, decider) = gateway.enrol();
    let agent = gateway.agent(&dana, "fixer");
    gateway.workflow(&dana, "repair");
    let instance = gateway.instance(&dana, "repair", "fixer");
    let noted = gateway.propose(&agent, &instance, "notes.append", &json!({ "text": "a" })).expect_status(200);
    let refused = gateway.propose(&agent, &instance, "repo.teleport", &json!({})).expect_status(403);
    let merge = json!({ "branch": "main", "message": "fix" });
    let waiting = gateway.propose(&agent, &instance, "repo.merge", &merge).expect_status(202).json();
    let path = format!("/api/v1/gates/{}/decisions", waiting["gate"]["id"].as_str().unwrap());
    let decided = gateway.post(&path, &decider, &json!({ "decision": "REJECT" })).expect_status(200);

    let action = noted.json()["actions"][0]["action"].as_str().unwrap().to_owned();
    let at = |verb: &str| format!("/api/v1/actions/{action}/{verb}");
    let begun = gateway.post(&at("start"), &agent, &json!({}));
    assert_eq!(begun.status, 409, "it ended with its gate: {}", begun.json());

    let (words, lines) = (gateway.words(), gateway.answered());
    // What failed before there was a receipt is about the same instance.
    let id = begun.header("x-request-id").unwrap();
    let line = lines.iter().find(|line| line["span"]["id"] == id).unwrap();
    assert_eq!((&line["instance"], &line["status"], &line["entry"]), (&json!(instance), &json!(409), &Value::Null));
    for (answer, route) in [
        (noted, "/api/v1/instances/{id}/actions"),
        (refused, "/api/v1/instances/{id}/actions"),
        (decided, "/api/v1/gates/{id}/decisions"),
    ] {
        let id = answer.header("x-request-id").unwrap().to_owned();
        let mut of_it = lines.iter().filter(|line| line["span"]["id"] == id.as_str());
        let line = of_it.next().unwrap_or_else(|| panic!("nothing of {id}: {words}"));
        assert!(of_it.next().is_none(), "once: {words}");
        // A refusal is told to whoever looks for an attack.
        let level = if answer.status == 403 { "INFO" } else { "DEBUG" };
        assert_eq!((&line["level"], &line["span"]["route"]), (&json!(level), &json!(route)), "{line}");
        assert_eq!((&line["instance"], &line["status"]), (&json!(instance), &json!(answer.status)), "{line}");
        let entry = answer.json()["receipt"]["index"].clone();
        assert!(entry.is_u64(), "{}", answer.json());
        assert_eq!(line["entry"], entry, "{line}");
    }
    assert!(!words.contains(&agent) && !words.contains(&dana), "no credential is logged");
}

#[test]
fn an_anchor_holds_checkpoints_that_an_auditor_takes_for_their_own() {
    let outside = tempfile::tempdir().unwrap();
    let anchor = outside.path().join("checkpoints");
    let arguments = vec!["--anchor".to_owned(), anchor.to_str().unwrap().to_owned()];
    let mut gateway = Gateway::start_with(Options { arguments, ..Options::default() });
    let (dana, _) = gateway.enrol();
    let early = gateway.entries(&dana).len();
    assert!(gateway.stop());
    // One note a log: the installation has one too, and who audits one log takes the file as it is.
    let remembered = std::fs::read_to_string(&anchor).unwrap();
    assert_eq!(remembered.matches("\n\n\u{2014} ").count(), 2, "{remembered}");
    let vkey = gateway.root_vkey();
    let mut lines = remembered.lines();
    lines.find(|line| vkey.starts_with(&format!("{line}/"))).unwrap_or_else(|| panic!("{vkey}: {remembered}"));
    let size: usize = lines.next().unwrap().parse().unwrap();
    assert!(size >= early, "what is durable is remembered: {size} of {early}");

    gateway.up();
    let dana = gateway.login("dana", "act");
    gateway.agent(&dana, "fixer");
    let pack = gateway.pack(&dana);
    let file = outside.path().join("known");
    let held = |program: &mut Command| {
        let output = program
            .env_clear()
            .args(["--json", "--key", &gateway.root_vkey(), "--known", file.to_str().unwrap()])
            .arg(&pack)
            .output()
            .unwrap();
        (output.status.code(), serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default())
    };
    let verify = |known: &str| {
        std::fs::write(&file, known).unwrap();
        let said = held(&mut Command::new(countersign_verify()));
        assert_eq!(said, held(Command::new(countersign()).arg("verify")), "the two programs differ");
        said
    };
    let (code, report) = verify(&remembered);
    assert_eq!((code, &report["verdict"]), (Some(0), &json!("VALID")), "{report}");
    assert_eq!(report["known"], json!(size), "the auditor's own checkpoint lies on this log: {report}");
    assert!(report["population"]["to"].as_u64().unwrap() > size as u64, "{report}");
    // Without the note of this log there is nothing to compare with.
    let cut = remembered.split_inclusive('\n').skip_while(|line| !vkey.starts_with(&format!("{}/", line.trim_end())));
    let of_the_log: String = cut.take(5).collect();
    let (code, _) = verify(&remembered.replacen(&of_the_log, "", 1));
    assert_eq!(code, Some(64), "{of_the_log}");
    // Of another size it was never signed.
    let (code, report) = verify(&remembered.replacen(&format!("\n{size}\n"), &format!("\n{}\n", size - 1), 1));
    assert_ne!(code, Some(0), "{report}");
}

#[test]
fn on_sigterm_what_is_under_way_is_answered_and_nothing_new_is_taken() {
    let mut gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    let agent = gateway.agent(&dana, "fixer");
    gateway.workflow(&dana, "repair");
    let instance = gateway.instance(&dana, "repair", "fixer");
    let merge = json!({ "actions": [{ "tool": "repo.merge", "input": { "branch": "main", "message": "fix" } }] });
    let answer = std::thread::scope(|scope| {
        let slow = scope.spawn(|| {
            let path = format!("/api/v1/instances/{instance}/actions");
            let body = merge.to_string().into_bytes();
            gateway.send("POST", &path, &agent, &[("prefer", "wait=12")], Some(body))
        });
        gateway.until_under_way(2);
        let sent = Command::new("kill").args(["-TERM", &gateway.pid().to_string()]).status().unwrap();
        assert!(sent.success());
        let patience = Instant::now() + Duration::from_secs(5);
        while TcpStream::connect(gateway.address()).is_ok() {
            assert!(Instant::now() < patience, "it goes on taking connections");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(!slow.is_finished(), "new work is refused while what was taken is still under way");
        slow.join().unwrap()
    });
    assert_eq!((answer.status, answer.header("preference-applied")), (202, Some("wait")));
    assert_eq!(answer.json()["state"], "WAITING_FOR_HUMAN");
    assert_eq!(gateway.ended(), Some(0), "{}", gateway.words());
    // What it said is so.
    gateway.up();
    let dana = gateway.login("dana", "act");
    let now = gateway.get(&format!("/api/v1/instances/{instance}"), &dana).expect_status(200).json();
    assert_eq!(now["state"], "WAITING_FOR_HUMAN");
}

#[test]
fn a_refused_credential_a_refusal_and_a_rate_are_logged_as_it_comes_and_counted() {
    let narrow = [
        ("COUNTERSIGN_LOG__JSON", "true"),
        ("COUNTERSIGN_LIMITS__REQUESTS_PER_SECOND", "1"),
        ("COUNTERSIGN_LIMITS__BURST", "30"),
    ];
    let variables = narrow.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let gateway = Gateway::start_with(Options { variables: variables.into(), ..Options::default() });
    let figure = |name: &str| -> u64 {
        let text = String::from_utf8(gateway.get("/metrics", "").expect_status(200).bytes).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name).map(str::to_owned));
        line.map_or(0, |value| value.trim().parse().unwrap())
    };
    let (dana, _) = gateway.enrol();
    let agent = gateway.agent(&dana, "fixer");
    let forged = gateway.get("/api/v1/me", "not.a.token").expect_status(401);
    let denied = gateway.post("/api/v1/freezes", &agent, &json!({})).expect_status(403);
    gateway.get("/api/v1/me", &dana).expect_status(200);
    gateway.get("/api/v1/instances/inst_00000000000000000000000000000001", &dana).expect_status(404);
    gateway.post("/api/v1/instances", &dana, &json!({ "unknown": 1 })).expect_status(422);
    gateway.workflow(&dana, "repair");
    let instance = gateway.instance(&dana, "repair", "fixer");
    gateway.propose(&agent, &instance, "notes.append", &json!({ "text": "a" })).expect_status(200);
    let credentials = json!({ "path": "credentials" });
    let denied_too = gateway.propose(&agent, &instance, "repo.read", &credentials).expect_status(403);
    gateway.propose(&agent, &instance, "repo.merge", &json!({ "branch": "main" })).expect_status(202);
    let mut asked = (0..200).map(|_| gateway.get("/api/v1/me", &agent));
    let limited = asked.find(|answer| answer.status != 200).unwrap().expect_status(429);
    // A probe that comes before the start is over is warned of.
    let lines: Vec<Value> = gateway.answered().into_iter().filter(|line| line["span"]["route"] != "/readyz").collect();
    for (answer, problem) in [
        (&forged, forged.code()),
        (&denied, "policy-denied".to_owned()),
        (&denied_too, "policy-denied".to_owned()),
        (&limited, "rate-limited".to_owned()),
    ] {
        let id = answer.header("x-request-id").unwrap();
        let line = lines.iter().find(|line| line["span"]["id"] == id).unwrap_or_else(|| panic!("nothing of {problem}"));
        assert_eq!((&line["level"], &line["status"]), (&json!("INFO"), &json!(answer.status)), "{line}");
        assert_eq!(line["problem"], json!(problem), "{line}");
    }
    assert_eq!(lines.len(), 4, "what was answered well, and what was asked wrongly, is not in it: {lines:?}");

    // What was proposed is counted by what policy said of it; what was refused before it became a question is not.
    for (verdict, count) in [("allow", 1), ("needs_approval", 1), ("deny", 1)] {
        assert_eq!(figure(&format!("countersign_verdicts_total{{verdict=\"{verdict}\"}}")), count, "{verdict}");
    }
    assert_eq!(figure("countersign_rate_limited_total"), 1);
    for (code, count) in
        [("policy-denied", 2), ("instance-not-found", 1), ("body-unknown-field", 1), ("rate-limited", 1)]
    {
        assert_eq!(figure(&format!("countersign_problems_total{{code=\"{code}\"}}")), count, "{code}");
    }
    assert_eq!(figure(&format!("countersign_credentials_refused_total{{code=\"{}\"}}", forged.code())), 1);
    assert!(figure("countersign_session_hits_total") > 0 && figure("countersign_session_misses_total") > 0);
}
