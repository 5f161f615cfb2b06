//! A gateway that is killed in the middle of a run loses nothing and repeats nothing.
#![expect(clippy::disallowed_methods, reason = "a run goes on in real time")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use countersign_tests_testkit::{Gateway, Options, countersign};
use serde_json::{Value, json};

#[test]
fn a_run_outlives_a_killed_gateway_is_adopted_and_its_outcome_is_committed_once() {
    let mut gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    let agent = gateway.agent(&dana, "fixer");
    gateway.workflow(&dana, "repair");
    let files =
        json!({ "files": [{ "path": "test.sh", "text": "echo begun; sleep 4; echo over >> count; wc -l count\n" }] });
    let tree = gateway.post("/api/v1/workspaces", &dana, &files).expect_status(201).json();
    let body = json!({ "workflow": "repair", "agent": "fixer", "workspace": tree["workspace"] });
    let instance = gateway.post("/api/v1/instances", &dana, &body).expect_status(201).json();
    let instance = instance["instance"]["id"].as_str().unwrap().to_owned();
    let answer = gateway.propose(&agent, &instance, "repo.run_tests", &json!({})).json();
    let run = answer["actions"][0]["run"].as_str().unwrap().to_owned();
    gateway.until(&format!("/api/v1/runs/{run}"), &agent, |r| r["phase"] == "running");

    gateway.kill();
    gateway.up();

    // Tokens are signed by a key on disk: they outlive the process too.
    let ended = gateway.until(&format!("/api/v1/runs/{run}"), &agent, |r| !r["outcome"].is_null());
    assert_eq!(ended["outcome"], "succeeded", "{ended}");
    let log = gateway.get(&format!("/api/v1/runs/{run}/logs"), &agent).expect_status(200).json().to_string();
    assert!(log.contains("begun") && log.contains("1 count"), "carried out once: {log}");
    let entries = gateway.entries(&dana);
    let kinds: Vec<&str> = entries.iter().filter_map(|e| e["kind"].as_str()).collect();
    assert_eq!(kinds.iter().filter(|k| **k == "outcome").count(), 1);
    assert_eq!(kinds.iter().filter(|k| **k == "start").count(), 1);
    assert_eq!(kinds.iter().filter(|k| **k == "boot").count(), 2, "each boot introduces itself");
    let pack = gateway.pack(&dana);
    assert_eq!(gateway.verify(&pack).0, 0);
}

/// Makes every sync of a running process fail, or says why it cannot.
fn syncs_fail(pid: u32) -> Option<Child> {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-o", "/dev/null", "-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:error=EIO"]);
    let spawned = strace.args(["-p", &pid.to_string()]).stdin(Stdio::null()).stderr(Stdio::piped()).spawn();
    let attached = spawned.ok().and_then(|mut child| {
        let mut said = BufReader::new(child.stderr.take()?).lines().map_while(Result::ok);
        said.any(|line| line.contains("attached")).then(|| {
            // It has more to say, and ends if nobody listens.
            std::thread::spawn(move || said.for_each(drop));
            child
        })
    });
    if attached.is_none() {
        let line = "skipped: a_failed_sync: `strace` is missing or may not trace: apt-get install strace\n";
        std::io::stderr().write_all(line.as_bytes()).unwrap();
    }
    attached
}

#[test]
fn after_a_failed_sync_nobody_is_told_yes_the_last_answers_leave_and_the_next_start_knows() {
    let mut gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    gateway.agent(&dana, "fixer");
    gateway.workflow(&dana, "repair");
    let mut known = vec![gateway.instance(&dana, "repair", "fixer")];
    let Some(mut strace) = syncs_fail(gateway.pid()) else { return };
    let body = json!({ "workflow": "repair", "agent": "fixer" });
    let (mut refused, mut rounds) = (0, 0);
    // The tracer takes hold of a busy thread a little later than of the others: until then a sync is a sync.
    while refused == 0 {
        rounds += 1;
        assert!(rounds < 500, "no sync has failed");
        // The first that meets the fault, and those that wait with it, are told before the process ends.
        let answers: Vec<_> = std::thread::scope(|scope| {
            let ask = || gateway.post("/api/v1/instances", &dana, &body);
            let asking: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            asking.into_iter().map(|one| one.join().unwrap()).collect()
        });
        for answer in answers {
            if answer.status == 201 {
                known.push(answer.json()["instance"]["id"].as_str().unwrap().to_owned());
                continue;
            }
            refused += 1;
            assert_eq!(answer.status, 503, "{}", answer.json());
            assert!(["outcome-unknown", "ledger-refusing"].contains(&answer.code().as_str()), "{}", answer.json());
        }
    }
    assert_eq!(gateway.ended(), Some(70), "only a new start, which reads the disk again, may sign anything");
    assert!(gateway.words().contains("the ledger has stopped"), "{}", gateway.words());
    strace.wait().unwrap();
    gateway.up();
    for instance in known {
        gateway.get(&format!("/api/v1/instances/{instance}"), &dana).expect_status(200);
    }
    let pack = gateway.pack(&dana);
    assert_eq!(gateway.verify(&pack).0, 0);
    gateway.post("/api/v1/instances", &dana, &body).expect_status(201);
}

/// The folders of runs that are not reaped.
fn unreaped(runs: &Path) -> Vec<PathBuf> {
    let all = std::fs::read_dir(runs).unwrap().map(|entry| entry.unwrap().path());
    all.filter(|path| path.is_dir()).collect()
}

/// The first run's folder, once it holds its result.
fn ended_in(runs: &Path) -> PathBuf {
    let begun = Instant::now();
    loop {
        if let Some(folder) = unreaped(runs).into_iter().find(|folder| folder.join("result").exists()) {
            return folder;
        }
        assert!(begun.elapsed() < Duration::from_mins(2), "no run ends in `{}`", runs.display());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A copy of a folder, with links as they are.
fn copied(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(status.success());
}

#[test]
fn a_run_that_ended_while_no_gateway_ran_is_collected_once() {
    let json = Options { arguments: vec!["--json".to_owned()], ..Options::default() };
    let mut gateway = Gateway::start_with(json);
    let (dana, _) = gateway.enrol();
    let agent = gateway.agent(&dana, "fixer");
    gateway.workflow(&dana, "repair");
    let files = json!({ "files": [{ "path": "test.sh", "text": "echo begun; sleep 2; echo over\n" }] });
    let tree = gateway.post("/api/v1/workspaces", &dana, &files).expect_status(201).json();
    let body = json!({ "workflow": "repair", "agent": "fixer", "workspace": tree["workspace"] });
    let instance = gateway.post("/api/v1/instances", &dana, &body).expect_status(201).json();
    let instance = instance["instance"]["id"].as_str().unwrap().to_owned();
    let answer = gateway.propose(&agent, &instance, "repo.run_tests", &json!({})).json();
    let run = answer["actions"][0]["run"].as_str().unwrap().to_owned();
    gateway.until(&format!("/api/v1/runs/{run}"), &agent, |r| r["phase"] == "running");
    gateway.kill();

    let runs = gateway.data().join("runner/runs");
    let folder = ended_in(&runs);
    let aside = gateway.beside("as-it-was");
    copied(&folder, &aside);
    let greeted = |gateway: &Gateway| -> Value { serde_json::from_str(&gateway.greeting()).unwrap() };
    let mut levels = Vec::new();
    for start in 0..2 {
        gateway.up();
        levels.push(greeted(&gateway)["sandbox_level"].clone());
        let ended = gateway.until(&format!("/api/v1/runs/{run}"), &agent, |r| !r["outcome"].is_null());
        assert_eq!(ended["outcome"], "succeeded", "{ended}");
        let log = gateway.get(&format!("/api/v1/runs/{run}/logs"), &agent).expect_status(200).json().to_string();
        assert!(log.contains("begun") && log.contains("over"), "{log}");
        let patience = Instant::now() + Duration::from_mins(2);
        while !unreaped(&runs).is_empty() {
            assert!(Instant::now() < patience, "start {start}: never reaped: {:?}", unreaped(&runs));
            std::thread::sleep(Duration::from_millis(50));
        }
        let kinds = |kind: &str| gateway.entries(&dana).iter().filter(|entry| entry["kind"] == kind).count();
        assert_eq!((kinds("start"), kinds("outcome")), (1, 1), "start {start}: committed once");
        if start == 0 {
            // As after a crash between the outcome and the reaping.
            gateway.kill();
            copied(&aside, &folder);
            let tombstone = folder.with_extension("reaped");
            assert!(tombstone.exists(), "{}", tombstone.display());
            std::fs::remove_file(tombstone).unwrap();
        }
    }

    // Under which walls it ran is the same in the greeting, in each boot, in the outcome and in an auditor's report.
    let entries = gateway.entries(&dana);
    let of = |kind: &str| -> Vec<Value> {
        let found = entries.iter().filter(|entry| entry["kind"] == kind);
        found.map(|entry| entry["body"]["sandbox_level"].clone()).collect()
    };
    let level: u8 = levels[0].as_str().unwrap().strip_prefix('L').unwrap().parse().unwrap();
    assert_eq!(levels[0], levels[1]);
    assert_eq!(of("boot"), vec![json!(level); 3]);
    assert_eq!(of("outcome"), [json!(level)]);
    let (code, report) = gateway.verify(&gateway.pack(&dana));
    assert_eq!((code, &report["verdict"]), (0, &json!("VALID")), "{report}");
    assert!(report.to_string().contains(&format!("\"sandbox_levels\":[{level}]")), "{report}");
}

#[test]
fn below_the_minimum_level_nothing_is_run_and_the_outcome_and_the_doctor_say_what_would_help() {
    let doctor = |folder: &Path| -> Value {
        let mut command = Command::new(countersign());
        command.env_clear().env("COUNTERSIGN_RUNNER__MIN_LEVEL", "3").args(["--json", "doctor", "--data-dir"]);
        serde_json::from_slice(&command.arg(folder).output().unwrap().stdout).unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    let report = doctor(folder.path());
    let sandbox = report["findings"].as_array().unwrap().iter().find(|finding| finding["what"] == "sandbox").unwrap();
    if sandbox["good"] == true {
        let line = "skipped: below_the_minimum_level: this machine holds the highest level\n";
        std::io::stderr().write_all(line.as_bytes()).unwrap();
        return;
    }
    let advice = report["findings"].as_array().unwrap().iter().find(|finding| finding["what"] == "advice").unwrap();
    assert!(!advice["fix"].as_str().unwrap().is_empty() && report["good"] == false, "{report}");

    let mut options = Options::default();
    options.variables.push(("COUNTERSIGN_RUNNER__MIN_LEVEL".to_owned(), "3".to_owned()));
    let gateway = Gateway::start_with(options);
    let (dana, _) = gateway.enrol();
    let agent = gateway.agent(&dana, "fixer");
    gateway.workflow(&dana, "repair");
    let files = json!({ "files": [{ "path": "test.sh", "text": "echo run > ran\n" }] });
    let tree = gateway.post("/api/v1/workspaces", &dana, &files).expect_status(201).json();
    let body = json!({ "workflow": "repair", "agent": "fixer", "workspace": tree["workspace"] });
    let made = gateway.post("/api/v1/instances", &dana, &body).expect_status(201).json();
    let instance = made["instance"]["id"].as_str().unwrap();
    let answer = gateway.propose(&agent, instance, "repo.run_tests", &json!({})).json();
    let run = answer["actions"][0]["run"].as_str().unwrap_or_else(|| panic!("{answer}"));
    let ended = gateway.until(&format!("/api/v1/runs/{run}"), &agent, |r| !r["outcome"].is_null());
    assert_eq!((&ended["outcome"], &ended["exit"]), (&json!("failed"), &Value::Null), "{ended}");
    let outcome = gateway.entries(&dana).into_iter().find(|entry| entry["kind"] == "outcome").unwrap();
    assert_eq!(outcome["body"]["sandbox_level"], Value::Null, "nothing was enforced, since nothing ran: {outcome}");
    let pack = std::fs::read(gateway.pack(&dana)).unwrap();
    assert!(String::from_utf8_lossy(&pack).contains("sandbox"), "its output says why");
}
