//! Verbs of the command line that scripts build on: actions, runs, the configuration, completions.
#![expect(clippy::disallowed_methods, reason = "a run goes on in real time")]

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use countersign_tests_testkit::{Gateway, countersign};
use serde_json::{Value, json};

/// An agent, or whoever has a token, at a terminal in a folder.
struct Terminal<'a> {
    gateway: &'a Gateway,
    token: &'a str,
    folder: &'a Path,
}

impl Terminal<'_> {
    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(countersign())
            .env_clear()
            .env("COUNTERSIGN_SERVER", self.gateway.url(""))
            .env("COUNTERSIGN_TOKEN", self.token)
            .current_dir(self.folder)
            .args(arguments)
            .output()
            .unwrap()
    }

    #[track_caller]
    fn text(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The one document that `--json` promises.
    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Value {
        let said = self.text(&[&["--json"], arguments].concat());
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {said}"))
    }
}

#[test]
fn an_agent_proposes_begins_and_reports_at_the_command_line() {
    let gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    let token = gateway.agent(&dana, "fixer");
    gateway.workflow(&dana, "repair");
    let instance = gateway.instance(&dana, "repair", "fixer");
    let folder = tempfile::tempdir().unwrap();
    let agent = Terminal { gateway: &gateway, token: &token, folder: folder.path() };

    std::fs::write(folder.path().join("note.json"), r#"{"text": "from a file"}"#).unwrap();
    let propose = ["action", "propose", &instance, "--tool", "notes.append", "--input"];
    let proposed = agent.json(&[&propose[..], &["@note.json"]].concat());
    assert_eq!(proposed["actions"][0]["status"], "permitted", "{proposed}");
    let action = proposed["actions"][0]["action"].as_str().unwrap();
    assert_eq!(agent.json(&["action", "begin", action])["first"], true);
    let again = agent.run(&["--json", "action", "begin", action]);
    let refused: Value = serde_json::from_slice(&again.stderr).unwrap();
    assert_eq!((again.status.code(), &refused["problem"]["code"]), (Some(1), &json!("permit-started")), "{refused}");
    let outcome = ["action", "outcome", action, "succeeded", "--output", r#"{"line": 7}"#];
    let reported = agent.json(&outcome);
    assert_eq!((&reported["outcome"], &reported["conflict"]), (&json!("succeeded"), &json!(false)), "{reported}");
    let shown = agent.json(&["action", "show", action]);
    assert_eq!((&shown["status"], &shown["instance"]), (&json!("succeeded"), &json!(instance)), "{shown}");

    // In one step; refused, with the words of the refusal; and not sent at all where it is no JSON.
    let begun = agent.json(&[&propose[..], &[r#"{"text": "b"}"#, "--begin"]].concat());
    assert_eq!(
        (&begun["actions"][0]["status"], &begun["actions"][0]["start"]["first"]),
        (&json!("started"), &json!(true))
    );
    let unknown = agent.run(&["--json", "action", "propose", &instance, "--tool", "repo.teleport"]);
    let refused: Value = serde_json::from_slice(&unknown.stderr).unwrap();
    assert_eq!((unknown.status.code(), &refused["problem"]["code"]), (Some(1), &json!("tool-unknown")), "{refused}");
    assert!(refused["problem"]["receipt"]["index"].is_u64(), "{refused}");
    let entries = gateway.entries(&dana).len();
    let broken = agent.run(&[&propose[..], &["{text"]].concat());
    assert!(String::from_utf8_lossy(&broken.stderr).contains("that is not JSON"), "{broken:?}");
    assert_eq!(gateway.entries(&dana).len(), entries);
}

/// Standard output, of pages of a run's log.
fn said<'a>(pages: impl IntoIterator<Item = &'a Value>) -> String {
    let pieces = pages.into_iter().flat_map(|page| page["items"].as_array().unwrap());
    let stdout = pieces.filter(|piece| piece["stream"] == "stdout");
    stdout.map(|piece| piece["text"].as_str().unwrap()).collect()
}

#[test]
fn a_run_is_listed_shown_and_read_while_it_goes_on_and_afterwards() {
    let gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    let token = gateway.agent(&dana, "fixer");
    gateway.workflow(&dana, "repair");
    let folder = tempfile::tempdir().unwrap();
    let tests = folder.path().join("repository/test.sh");
    std::fs::create_dir(tests.parent().unwrap()).unwrap();
    std::fs::write(&tests, "#!/bin/sh\necho one\necho oh >&2\nsleep 6\necho two\nexit 3\n").unwrap();
    std::fs::set_permissions(&tests, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let person = Terminal { gateway: &gateway, token: &dana, folder: folder.path() };
    let create = ["instance", "create", "--workflow", "repair", "--agent", "fixer", "--workspace", "repository"];
    let made = person.json(&create);
    let instance = made["instance"]["id"].as_str().unwrap();
    let agent = Terminal { token: &token, ..person };
    let proposed = agent.json(&["action", "propose", instance, "--tool", "repo.run_tests"]);
    let run = proposed["actions"][0]["run"].as_str().unwrap();

    // While it goes on: what there is by now, as one document; then what comes, a line each.
    let patience = Instant::now() + Duration::from_mins(1);
    let live = loop {
        let page = agent.json(&["run", "logs", run]);
        if said([&page]) == "one\n" && page["stderr_next"] == 3 {
            break page;
        }
        assert!(Instant::now() < patience, "{page}");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!((&live["ended"], &live["stdout_next"]), (&json!(false), &json!(4)), "{live}");
    let lines = agent.text(&["--json", "run", "logs", run, "--follow"]);
    let pages: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(pages.len() > 1, "what was there and what came are told apart: {lines}");
    assert_eq!(said(&pages), "one\ntwo\n", "{lines}");
    assert_eq!(pages.last().unwrap()["ended"], true, "{lines}");

    // Afterwards: the same again, in each form.
    gateway.until(&format!("/api/v1/runs/{run}"), &token, |run| !run["outcome"].is_null());
    let whole = agent.json(&["run", "logs", run]);
    assert_eq!((said([&whole]).as_str(), &whole["ended"]), ("one\ntwo\n", &json!(true)), "{whole}");
    let output = agent.run(&["run", "logs", run, "--follow"]);
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (b"one\ntwo\n".as_slice(), b"oh\n".as_slice()));
    let shown = agent.json(&["run", "show", run]);
    assert_eq!((&shown["outcome"], &shown["exit"]), (&json!("failed"), &json!(3)), "{shown}");
    let listed = person.json(&["run", "list", "--instance", instance]);
    assert_eq!((listed["items"].as_array().unwrap().len(), &listed["items"][0]["id"]), (1, &json!(run)), "{listed}");
    let table = person.text(&["run", "list", "--instance", instance]);
    assert!(table.contains(run) && table.contains("failed"), "{table}");
}

#[test]
fn the_configuration_is_shown_with_its_sources_and_secrets_are_masked() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("countersign.toml");
    std::fs::write(&file, "[listen]\naddress = \"127.0.0.1:1234\"\n").unwrap();
    let config = |arguments: &[&str], more: &[(&str, &str)]| {
        let variables = [
            ("COUNTERSIGN_SECRETS__ENVIRONMENT", "SHOP_KEY"),
            ("SHOP_KEY", "nobody may read this"),
            ("COUNTERSIGN_TOKEN", "nor this"),
        ];
        // One that is given empty is not there.
        let all = variables.iter().filter(|(name, _)| !more.contains(&(name, ""))).chain(more);
        let output = Command::new(countersign())
            .env_clear()
            .envs(all.filter(|(_, value)| !value.is_empty()).copied())
            .current_dir(folder.path())
            .arg("config")
            .args(arguments)
            .output()
            .unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(!said.contains("nobody may read this") && !said.contains("nor this"), "{said}");
        (output.status.code(), said)
    };
    let (code, said) = config(&["show", "--json"], &[]);
    let shown: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(code, Some(0));
    assert_eq!(shown["listen.address"], json!({ "value": "127.0.0.1:1234", "from": "countersign.toml" }));
    let named = json!({ "value": ["SHOP_KEY"], "from": "COUNTERSIGN_SECRETS__ENVIRONMENT" });
    assert_eq!(shown["secrets.environment"], named, "the variable is named, and what is in it is not");
    assert_eq!(shown["runner.process"], json!({ "value": true, "from": "default" }));
    let (code, table) = config(&["show"], &[]);
    let row = |key: &str| table.lines().find(|line| line.starts_with(key)).unwrap();
    let address = row("listen.address");
    assert!(code == Some(0) && address.contains("127.0.0.1:1234") && address.contains("countersign.toml"), "{table}");
    let token = row("command.token");
    assert!(token.contains("********") && token.contains("COUNTERSIGN_TOKEN"), "{table}");

    // What commands would use beside the settings: secrets by where they came from alone, however they were given.
    let secrets = ["PASSWORD", "OTP", "CLIENT_SECRET"].map(|name| (format!("COUNTERSIGN_{name}"), "nor this"));
    let secrets: Vec<(&str, &str)> = secrets.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let (_, said) = config(&["show", "--json"], &secrets);
    let shown: Value = serde_json::from_str(&said).unwrap();
    for (key, from) in [
        ("command.token", "COUNTERSIGN_TOKEN"),
        ("command.password", "COUNTERSIGN_PASSWORD"),
        ("command.otp", "COUNTERSIGN_OTP"),
        ("command.client_secret", "COUNTERSIGN_CLIENT_SECRET"),
    ] {
        assert_eq!(shown[key], json!({ "value": "********", "from": from }), "{key}");
    }
    assert_eq!(shown["command.server"], json!({ "value": "http://127.0.0.1:7777", "from": "default" }));
    let (_, said) = config(&["show", "--json", "--token", "nor this one", "--server", "http://127.0.0.1:1/"], &[]);
    let shown: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(shown["command.token"], json!({ "value": "********", "from": "--token" }));
    assert_eq!(shown["command.server"], json!({ "value": "http://127.0.0.1:1", "from": "--server" }));
    let (_, said) =
        config(&["show", "--json", "--server", "http://ada:nor this@127.0.0.1:1", "--config", "countersign.toml"], &[]);
    let shown: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(shown["command.server"], json!({ "value": "http://********@127.0.0.1:1", "from": "--server" }));
    assert_eq!(shown["command.config"], json!({ "value": "countersign.toml", "from": "--config" }));
    let kept = folder.path().join("countersign");
    std::fs::create_dir(&kept).unwrap();
    std::fs::set_permissions(&kept, std::fs::Permissions::from_mode(0o700)).unwrap();
    let kept = kept.join("credentials.json");
    let held = json!({ "token": "nor this", "subject": "ada", "expires": "2030-01-01T00:00:00Z" });
    let login = json!({ "servers": { "http://127.0.0.1:2": held }, "last": "http://127.0.0.1:2" });
    std::fs::write(&kept, login.to_string()).unwrap();
    std::fs::set_permissions(&kept, std::fs::Permissions::from_mode(0o600)).unwrap();
    let home = [("XDG_CONFIG_HOME", folder.path().to_str().unwrap()), ("COUNTERSIGN_TOKEN", "")];
    let (_, said) = config(&["show", "--json"], &home);
    let shown: Value = serde_json::from_str(&said).unwrap();
    let from = kept.to_str().unwrap();
    assert_eq!(shown["command.token"], json!({ "value": "********", "from": from }), "{shown}");
    assert_eq!(shown["command.server"], json!({ "value": "http://127.0.0.1:2", "from": from }));
    // What is wrong with it is shown as well: that is what somebody looks here for.
    std::fs::write(&kept, "{").unwrap();
    let (code, said) = config(&["show", "--json"], &home);
    let shown: Value = serde_json::from_str(&said).unwrap();
    assert!(code == Some(0) && shown["command.server"]["from"].as_str().unwrap().contains("log in again"), "{shown}");

    let (code, said) = config(&["check", "--json"], &[]);
    assert_eq!((code, serde_json::from_str::<Value>(&said).unwrap()), (Some(0), json!({ "good": true })));
    let (code, said) = config(&["check"], &[("COUNTERSIGN_LISTEN__ADRESS", "127.0.0.1:1")]);
    assert!(code == Some(1) && said.contains("did you mean `listen.address`?"), "{said}");
    std::fs::write(&file, "[runner]\nuid = 0\n").unwrap();
    let (code, said) = config(&["check"], &[]);
    assert!(code == Some(1) && said.contains("runner.uid") && said.contains("countersign.toml"), "{said}");
}

#[test]
fn the_completions_complete_in_a_shell() {
    let output = Command::new(countersign()).env_clear().args(["completions", "bash"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let script = String::from_utf8(output.stdout).unwrap();
    let complete = |words: &[&str]| {
        let last = words.len() - 1;
        let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        let ask = format!(
            "{script}\nCOMP_WORDS=({})\nCOMP_CWORD={last}\n_countersign countersign '{}' '{}'\n\
             printf '%s\\n' \"${{COMPREPLY[@]}}\"\n",
            quoted.join(" "),
            words[last],
            words[last - 1],
        );
        let mut bash = Command::new("bash");
        bash.args(["--norc", "--noprofile", "-s"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut bash = bash.spawn().unwrap();
        bash.stdin.take().unwrap().write_all(ask.as_bytes()).unwrap();
        let output = bash.wait_with_output().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(output.status.success(), "{said}");
        said.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(complete(&["countersign", "gate", "rej"]), ["reject"]);
    let verbs = complete(&["countersign", ""]);
    assert!(verbs.iter().any(|verb| verb == "action"), "{verbs:?}");
    assert!(
        !verbs.iter().any(|verb| ["__agent", "generate"].contains(&verb.as_str())),
        "what is hidden is not completed: {verbs:?}"
    );
    assert!(complete(&["countersign", "run", "logs", "--fo"]).contains(&"--follow".to_owned()));
    for shell in ["zsh", "fish"] {
        let output = Command::new(countersign()).env_clear().args(["completions", shell]).output().unwrap();
        assert!(output.status.success() && !output.stdout.is_empty(), "{shell}");
    }
}

#[test]
fn the_life_of_an_agent_and_of_an_instance_at_the_command_line() {
    let gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    let folder = tempfile::tempdir().unwrap();
    let person = Terminal { gateway: &gateway, token: &dana, folder: folder.path() };
    let kept = |name: &str, secret: &Value| {
        std::fs::write(folder.path().join(name), secret.as_str().unwrap()).unwrap();
    };
    let of_items = |list: &Value, key: &str| -> Vec<Value> {
        list["items"].as_array().unwrap().iter().map(|item| item[key].clone()).collect()
    };

    person.json(&["agent", "create", "fixer", "--autonomy", "2", "--scope", "notes:write"]);
    person.json(&["agent", "create", "other"]);
    assert_eq!(of_items(&person.json(&["agent", "list"]), "id"), [json!("fixer"), json!("other")]);
    assert!(person.text(&["agent", "list"]).contains("fixer"));
    let shown = person.json(&["agent", "show", "fixer"]);
    assert_eq!((&shown["id"], &shown["owner"], &shown["autonomy"]), (&json!("fixer"), &json!("dana"), &json!(2)));
    assert!(person.text(&["agent", "show", "fixer"]).contains("dana"));
    let listed = person.json(&["person", "list"]);
    assert_eq!(of_items(&listed, "id"), [json!("dana")]);
    assert!(person.text(&["person", "list"]).contains("dana"));
    assert_eq!(person.json(&["person", "show", "dana"])["display_name"], "Dana");
    assert!(person.text(&["person", "show", "dana"]).contains("Dana"));
    assert!(of_items(&person.json(&["tool", "list"]), "name").contains(&json!("notes.append")));
    assert!(person.text(&["tool", "list"]).contains("notes.append"));
    assert!(person.json(&["policy", "counters"])["counters"].is_array());
    person.text(&["policy", "counters"]);

    // A credential of its own, and a token for it.
    let credential = person.json(&["agent", "credential", "fixer", "--expires-s", "3600"]);
    let client = credential["service_account"]["client_id"].as_str().unwrap();
    kept("agent.secret", &credential["client_secret"]);
    let taken = person.json(&["token", "client", "--client-id", client, "--secret-file", "agent.secret"]);
    let token = taken["access_token"].as_str().unwrap();
    let agent = Terminal { token, ..person };
    assert_eq!(agent.json(&["token", "whoami"])["subject"], "agent:fixer");

    // Another one comes in by a one-time token.
    let body = json!({ "bound_to": "agent:other" });
    let invited = gateway.post("/api/v1/enrolments/service-accounts", &dana, &body).expect_status(201).json();
    kept("agent.token", &invited["token"]);
    let enrolled = Terminal { token: "", ..person }.json(&["enrol", "service-account", "--token-file", "agent.token"]);
    assert!(enrolled["client_secret"].is_string(), "{enrolled}");

    let registered = person.json(&["workflow", "register", "repair", "--version", "1"]);
    assert_eq!(registered["workflow"]["id"], "repair", "{registered}");
    assert_eq!(of_items(&person.json(&["workflow", "list"]), "id"), [json!("repair")]);
    assert!(person.text(&["workflow", "list"]).contains("repair"));
    let create = ["instance", "create", "--workflow", "repair", "--agent", "fixer", "--no-start"];
    let [one, two] = [(); 2].map(|()| person.json(&create)["instance"]["id"].as_str().unwrap().to_owned());
    let state = |id: &str| person.json(&["instance", "show", id])["state"].as_str().unwrap().to_owned();
    assert_eq!((state(&one), state(&two)), ("CREATED".to_owned(), "CREATED".to_owned()));
    assert_eq!(person.json(&["instance", "start", &one])["state"], "RUNNING");
    assert!(person.text(&["instance", "start", &two]).contains("RUNNING"));
    let running = ["instance", "list", "--state", "RUNNING"];
    // Newest first.
    assert_eq!(of_items(&person.json(&running), "id"), [json!(two), json!(one)]);
    assert!(person.text(&running).contains(&one));
    assert_eq!(agent.json(&["instance", "complete", &one])["state"], "COMPLETED");
    assert!(person.text(&["instance", "terminate", &two]).contains("TERMINATED"));
    assert_eq!((state(&one), state(&two)), ("COMPLETED".to_owned(), "TERMINATED".to_owned()));
    assert_eq!(of_items(&person.json(&running), "id"), Vec::<Value>::new());

    // Whose token is ended is nobody any more.
    person.json(&["token", "revoke", "--account", "agent:fixer"]);
    let ended = agent.run(&["token", "whoami"]);
    assert!(!ended.status.success() && String::from_utf8_lossy(&ended.stderr).contains("token-"), "{ended:?}");
    person.text(&["token", "revoke"]);
    assert!(!person.run(&["token", "whoami"]).status.success(), "its own");
}
