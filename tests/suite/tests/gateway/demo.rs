//! The demo is the whole product once: it succeeds only if all of it held, and says what it saw.

use std::path::Path;
use std::process::{Command, Stdio};

use countersign_gateway_model::Assurance;
use countersign_ledger_entry::body::Decision;
use countersign_ledger_entry::{Body, Entry};
use countersign_ledger_merkle::{BundleCoord, decode_bundle};
use countersign_tests_testkit::{Gateway, Terminal, countersign, countersign_verify};
use serde_json::Value;

/// What it prints.
fn demo(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new(countersign())
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .args(["demo", "--yes"])
        .args(arguments)
        .arg("--data-dir")
        .arg(folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_demo_tells_its_steps_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let told = demo(&folder.path().join("demo"), &[]);
    let steps = [
        "the gateway starts on http://127.0.0.1:",
        "root key (an auditor is given this, and nothing else): ",
        "a person registers a workflow and an agent",
        "instance inst_",
        "the agent starts in a sandbox",
        "network none, homes []",
        "the agent asks: repo.",
        "allowed; the permit and its start are on record",
        "outcome: failed",
        "outcome: succeeded",
        "a person must approve; the agent waits",
        "the approval view",
        "APPROVED; the decision is on record",
        "DENIED (policy-denied)",
        "the instance is COMPLETED",
        "verdicts are computed again from what is on record",
        "the evidence is exported",
        "VALID",
        "Proven:",
        "Not proven:",
        "any human was involved",
        "one bit of a copy is flipped",
        "INVALID",
        "all of it held",
    ];
    let mut rest = told.as_str();
    for step in steps {
        let (_, after) = rest.split_once(step).unwrap_or_else(|| panic!("no `{step}` in its place: {told}"));
        rest = after;
    }
}

#[test]
fn the_demo_shows_every_part_and_its_evidence_holds_for_somebody_else() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("demo");
    let summary: Value = serde_json::from_str(&demo(&data, &["--json"])).unwrap();
    assert_eq!(summary["verdict"], "VALID", "{summary}");
    assert_eq!(summary["tampered_verdict"], "INVALID");
    let instance = summary["instance_id"].as_str().unwrap();
    assert!(instance.strip_prefix("inst_").is_some_and(|id| id.len() == 32), "{summary}");
    assert_eq!((summary["denied"].as_u64(), summary["approved"].as_u64()), (Some(1), Some(1)));
    let states: Vec<&str> = summary["states"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(
        states,
        ["CREATED", "RUNNING", "WAITING_FOR_HUMAN", "APPROVED", "RESUMED", "RUNNING", "COMPLETED"],
        "the states in order"
    );
    let pack = summary["pack"].as_str().unwrap();
    let output = Command::new(countersign_verify())
        .env_clear()
        .args(["--json", "--key", summary["vkey"].as_str().unwrap(), pack])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["population"]["to"], summary["entries"], "entries are the leaves of the pack");
    assert_eq!(report["demo"], true);
    assert!(summary["replayed"].as_u64().unwrap() > 15, "each verdict of its own log was computed again: {summary}");
    // How sure it is that a person approved stands in the entry, for ever.
    let decided = decisions(&std::fs::read(pack).unwrap());
    assert_eq!(decided.iter().map(|one| one.assurance).collect::<Vec<_>>(), [Assurance::Demo]);

    let up = Command::new(countersign())
        .env_clear()
        .args(["up", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(&data)
        .output()
        .unwrap();
    assert!(!up.status.success(), "`up` refuses the folder of a demo");
    let said = String::from_utf8_lossy(&up.stderr);
    assert!(said.ends_with("\n  problem: folder-demo\n"), "{said}");
    let mut gateway = Gateway::start();
    assert!(gateway.stop());
    let refused = Command::new(countersign())
        .env_clear()
        .args(["demo", "--yes", "--data-dir"])
        .arg(gateway.data())
        .output()
        .unwrap();
    assert!(!refused.status.success(), "`demo` refuses every other folder");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.ends_with("\n  problem: folder-not-demo\n"), "{said}");
}

/// The decisions in the first bundle of a pack's log. A pack's ZIP holds its parts as they are.
fn decisions(pack: &[u8]) -> Vec<Decision> {
    let mut found = Vec::new();
    let mut rest = pack;
    while rest.starts_with(b"PK\x03\x04") {
        let number = |at: usize| usize::from(u16::from_le_bytes([rest[at], rest[at + 1]]));
        let (size, name, extra) = (number(18) + (number(20) << 16), number(26), number(28));
        let path = std::str::from_utf8(&rest[30..30 + name]).unwrap();
        let from = 30 + name + extra;
        if let Some(width) = path.strip_prefix("tile/entries/000.p/") {
            let bundle = BundleCoord::new(0, width.parse().unwrap()).unwrap();
            for leaf in decode_bundle(bundle, &rest[from..from + size]).unwrap() {
                if let Body::Decision(decision) = Entry::parse(leaf).unwrap().header.body {
                    found.push(decision);
                }
            }
        }
        rest = &rest[from + size..];
    }
    found
}

/// Where `demo` puts what it does not keep.
fn temporary() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("newcomer-").tempdir().unwrap()
}

/// What is left in a folder of temporary files.
fn left_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_newcomer_types_demo_and_nothing_else() {
    let folder = temporary();
    let output = Command::new(countersign())
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("TMPDIR", folder.path())
        .arg("demo")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{told}{}", String::from_utf8_lossy(&output.stderr));
    let unasked = "nobody is asked: the demo's stand-in human approves, with assurance `demo`";
    assert!(told.contains(unasked), "{told}");
    // The evidence is all that is left, and the printed command checks it.
    let left = left_in(folder.path());
    let [pack] = &left[..] else { panic!("left behind: {left:?}") };
    assert!(pack.starts_with("countersign-demo-inst_") && pack.ends_with(".evidence"), "{pack}");
    let (_, command) = told.split_once("countersign verify ").unwrap();
    let (path, key) = command.trim().split_once(" --key ").unwrap();
    assert_eq!(Path::new(path), folder.path().join(pack));
    let checked = Command::new(countersign_verify())
        .env_clear()
        .args([path, "--key", key.trim().trim_matches('\'')])
        .output()
        .unwrap();
    assert_eq!(checked.status.code(), Some(0), "{}", String::from_utf8_lossy(&checked.stdout));
}

#[test]
fn a_demo_folder_can_be_used_again() {
    let folder = temporary();
    let data = folder.path().join("demo");
    let run = || -> Value { serde_json::from_str(&demo(&data, &["--json"])).unwrap() };
    let (first, second) = (run(), run());
    assert_eq!((&first["verdict"], &second["verdict"]), (&"VALID".into(), &"VALID".into()), "{second}");
    assert!(second["entries"].as_u64() > first["entries"].as_u64(), "one log: {first} {second}");
    assert_eq!(first["vkey"], second["vkey"], "one log: {first} {second}");
    assert_ne!(first["instance_id"], second["instance_id"]);
}

#[test]
fn whoever_says_no_at_the_terminal_ends_the_demos_instance() {
    let folder = temporary();
    let data = folder.path().join("demo");
    let arguments = ["demo", "--data-dir", data.to_str().unwrap()];
    let name = "whoever_says_no_at_the_terminal_ends_the_demos_instance";
    let Some(mut terminal) = Terminal::start(name, &countersign(), &arguments, &[], None) else { return };
    let shown = terminal.until("Approve the merge? [y/N] ");
    assert!(shown.contains("repo.merge") && !shown.contains("nobody is asked"), "{shown}");
    terminal.typed("n\n");
    let (code, shown) = terminal.ended();
    assert_eq!(code, 1, "{shown}");
    assert!(shown.contains("you rejected the merge, and that ended the instance"), "{shown}");
    assert!(!shown.contains("APPROVED;"), "{shown}");
    // On the same folder it goes on, and the rejection is on record.
    let again: Value = serde_json::from_str(&demo(&data, &["--json"])).unwrap();
    let checked = Command::new(countersign_verify())
        .env_clear()
        .args(["--json", "--key", again["vkey"].as_str().unwrap(), again["pack"].as_str().unwrap()])
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&checked.stdout).unwrap();
    let states = &report["streams"]["states"];
    assert_eq!((&states["TERMINATED"], &states["COMPLETED"]), (&1.into(), &1.into()), "{report}");
}

#[test]
fn at_a_terminal_the_demo_approves_nothing_unasked_also_where_it_prints_json() {
    let folder = temporary();
    let (data, summary) = (folder.path().join("demo"), folder.path().join("summary"));
    let arguments = ["demo", "--json", "--data-dir", data.to_str().unwrap()];
    let name = "at_a_terminal_the_demo_approves_nothing_unasked_also_where_it_prints_json";
    let Some(mut terminal) = Terminal::start(name, &countersign(), &arguments, &[], Some(&summary)) else { return };
    let shown = terminal.until("Approve the merge? [y/N] ");
    assert!(shown.contains("repo.merge"), "whoever is asked reads what about: {shown}");
    terminal.typed("y\n");
    let (code, shown) = terminal.ended();
    assert_eq!(code, 0, "{shown}");
    let summary: Value = serde_json::from_slice(&std::fs::read(summary).unwrap()).unwrap();
    assert_eq!((&summary["approved"], &summary["verdict"]), (&1.into(), &"VALID".into()), "{summary}");
}

#[test]
fn what_the_first_entry_says_of_a_demo_is_held_against_the_folders_mark() {
    let folder = temporary();
    let data = folder.path().join("demo");
    demo(&data, &[]);
    let mut gateway = Gateway::start();
    assert!(gateway.stop());
    let turned = |folder: &Path, demo: bool| {
        let path = folder.join("countersign.json");
        let mut mark: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(mark["demo"], !demo, "{mark}");
        mark["demo"] = demo.into();
        std::fs::write(path, mark.to_string()).unwrap();
    };
    turned(&data, false);
    turned(&gateway.data(), true);
    let size = |folder: &Path| std::fs::metadata(folder.join("ledger/ledger.db")).unwrap().len();
    for (arguments, folder) in
        [(&["up", "--listen", "127.0.0.1:0"][..], data.clone()), (&["demo", "--yes"][..], gateway.data())]
    {
        let before = size(&folder);
        let output =
            Command::new(countersign()).env_clear().args(arguments).arg("--data-dir").arg(&folder).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("disagree on whether this is a demo"), "{said}");
        assert!(said.ends_with("\n  problem: folder-damaged\n"), "{said}");
        assert_eq!(size(&folder), before, "nothing is written");
    }
}
