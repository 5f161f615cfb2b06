//! A gateway that is killed in the middle of a run loses nothing and repeats nothing.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};

use countersign_tests_testkit::Gateway;
use serde_json::json;

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
