//! `ledger fsck` on a ledger of which one bit has changed: it says so, which entry it is, and with its exit code.

use std::fs;
use std::path::Path;
use std::process::Command;

use countersign_ledger_merkle::leaf_hash;
use countersign_tests_testkit::{Gateway, countersign};
use rusqlite::{Connection, params};
use serde_json::{Value, json};

/// Exit code, what it said as a document, and in words.
fn fsck(data: &Path) -> (Option<i32>, Value, String) {
    let run = |json: &[&str]| {
        let output = Command::new(countersign())
            .env_clear()
            .args(json)
            .args(["ledger", "fsck", "--data-dir"])
            .arg(data)
            .output();
        output.unwrap()
    };
    let (machine, people) = (run(&["--json"]), run(&[]));
    let text = |output: &std::process::Output| {
        String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
    };
    assert_eq!(machine.status.code(), people.status.code(), "{}{}", text(&machine), text(&people));
    let said = text(&machine);
    let last = said.lines().last().unwrap_or_default();
    let document = serde_json::from_str(&said).or_else(|_| serde_json::from_str(last));
    (machine.status.code(), document.unwrap_or_else(|_| panic!("no document: {said}")), text(&people))
}

/// The same bytes with one bit the other way round.
fn flipped(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    bytes[at] ^= 1;
    bytes
}

#[test]
fn a_full_check_names_the_entry_of_which_one_bit_has_changed() {
    let mut gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    let agent = gateway.agent(&dana, "fixer");
    gateway.workflow(&dana, "repair");
    let instance = gateway.instance(&dana, "repair", "fixer");
    gateway.propose(&agent, &instance, "notes.append", &json!({ "text": "a" })).expect_status(200);
    let entries = gateway.entries(&dana);
    let permit = entries.iter().find(|entry| entry["kind"] == "permit").unwrap();
    let digest = permit["payloads"][0]["digest"].as_str().unwrap();
    assert!(gateway.stop());
    let (code, said, words) = fsck(&gateway.data());
    assert_eq!((code, &said["verdict"]), (Some(0), &json!("VALID")), "{said}{words}");

    let path = gateway.data().join("ledger/ledger.db");
    let whole = fs::read(&path).unwrap();
    let leaf = {
        let ledger = Connection::open(&path).unwrap();
        let mut rows = ledger.prepare("SELECT leaf FROM entry").unwrap();
        let rows = rows.query_map([], |row| row.get::<_, Vec<u8>>(0)).unwrap();
        rows.map(Result::unwrap).find(|leaf| permit["hash"] == leaf_hash(leaf).to_string()).unwrap()
    };
    let payload: Vec<u8> = {
        let digest: Vec<u8> = (0..32).map(|at| u8::from_str_radix(&digest[2 * at..2 * at + 2], 16).unwrap()).collect();
        let ledger = Connection::open(&path).unwrap();
        ledger.query_row("SELECT bytes FROM payload WHERE digest = ?", params![digest], |row| row.get(0)).unwrap()
    };
    let (header, signature) = (leaf.len() / 2, leaf.len() - 1);
    let leaf_is = "UPDATE entry SET leaf = ?1 WHERE leaf = ?2";
    let payload_is = "UPDATE payload SET bytes = ?1 WHERE bytes = ?2";
    let unsigned = "its bytes are not what a key of this log signed".to_owned();
    let of_the_entry = format!("entry {}: payload `{digest}` has other bytes", permit["index"]);
    for (what, statement, before, at, told) in [
        ("what an entry says", leaf_is, &leaf, header, &unsigned),
        ("a signature", leaf_is, &leaf, signature, &unsigned),
        ("a payload", payload_is, &payload, payload.len() / 2, &of_the_entry),
    ] {
        let ledger = Connection::open(&path).unwrap();
        // Whoever can write to the file is not held by its triggers.
        let stays: String =
            ledger.query_row("SELECT sql FROM sqlite_schema WHERE name = 'entry_stays'", [], |row| row.get(0)).unwrap();
        ledger.execute_batch("DROP TRIGGER entry_stays").unwrap();
        assert_eq!(ledger.execute(statement, params![flipped(before.clone(), at), before]).unwrap(), 1, "{what}");
        ledger.execute_batch(&stays).unwrap();
        ledger.close().unwrap();

        let (code, said, words) = fsck(&gateway.data());
        assert_eq!((code, &said["verdict"]), (Some(1), &json!("INVALID")), "{what}: {said}");
        assert!(said.to_string().contains(told) && words.contains(told), "{what}: {said}{words}");
        let of_default = said["logs"].as_array().unwrap().iter().find(|log| log["log"] == "default").unwrap();
        let problems = of_default["problems"].as_array().unwrap();
        let named: Vec<&Value> = problems.iter().map(|problem| &problem["entry"]).filter(|at| !at.is_null()).collect();
        if told == &unsigned {
            assert_eq!(
                (&of_default["verdict"], &named[..]),
                (&json!("INVALID"), &[&permit["index"]][..]),
                "{what}: {said}"
            );
            assert!(problems.iter().all(|problem| problem["code"] == "ledger-damaged"), "{what}: {said}");
            assert!(!said.to_string().contains("ledger fsck"), "nobody is told to do what they do: {said}");
        }
        let others = said["logs"].as_array().unwrap().iter().filter(|log| log["log"] != "default");
        assert!(others.into_iter().all(|log| log["verdict"] == "VALID"), "the installation's own is sound: {said}");
        for file in ["ledger.db-wal", "ledger.db-shm"] {
            let _ = fs::remove_file(path.with_file_name(file));
        }
        fs::write(&path, &whole).unwrap();
    }
    assert_eq!(fsck(&gateway.data()).0, Some(0), "nothing but the bits was wrong");
}
