//! The data folder: one process at a time, one log over all starts, and nothing from a later version.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use countersign_gateway_http::page;
use countersign_tests_testkit::{Gateway, Options, countersign};
use serde_json::Value;

fn up(folder: &Path) -> (bool, String) {
    let output = Command::new(countersign())
        .env_clear()
        .args(["up", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(folder)
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), said)
}

#[test]
fn a_second_process_refuses_and_a_second_start_continues_the_same_log() {
    let mut gateway = Gateway::start();
    let (ok, said) = up(&gateway.data());
    assert!(!ok && said.contains("another") && said.ends_with("\n  problem: folder-in-use\n"), "{said}");
    let (dana, _) = gateway.enrol();
    let before = gateway.entries(&dana);
    let vkey = gateway.root_vkey();
    assert!(gateway.stop(), "SIGTERM drains");
    gateway.up();
    let dana = gateway.login("dana", "act");
    let after = gateway.entries(&dana);
    assert_eq!(before[..], after[..before.len()], "the same log goes on");
    assert_eq!(vkey, gateway.root_vkey());
}

#[test]
fn the_first_entry_of_a_fresh_folder_says_that_one_person_acts_alone() {
    let gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    let first = gateway.get("/api/v1/audit/entries/0", &dana).expect_status(200).json();
    assert_eq!((&first["kind"], &first["authority"]), (&"genesis".into(), &"solo".into()), "{first}");
    assert_eq!(first["body"]["demo"], false, "{first}");
    assert_eq!(gateway.get("/api/v1/policies/active", &dana).expect_status(200).json()["authority"], "solo");
    let (code, report) = gateway.verify(&gateway.pack(&dana));
    let entries = report["population"]["to"].clone();
    assert_eq!((code, &report["authority"]), (0, &serde_json::json!({ "solo": entries })), "{report}");
}

#[test]
fn keys_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let gateway = Gateway::start();
    let mut looked = 0;
    let mut folders = vec![gateway.data()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "key") {
                assert_eq!(path.metadata().unwrap().permissions().mode() & 0o077, 0, "{}", path.display());
                looked += 1;
            }
        }
    }
    assert!(looked >= 3, "root, log and token keys: {looked}");
}

/// Starts on a folder that must be refused: the code is said in words and as JSON, and has a page.
fn refused(folder: &Path, code: &str, words: &str) {
    let verbs: [&[&str]; 2] = [&["up", "--listen", "127.0.0.1:0"], &["--json", "up", "--listen", "127.0.0.1:0"]];
    for (verb, json) in verbs.into_iter().zip([false, true]) {
        let output = Command::new(countersign()).env_clear().args(verb).arg("--data-dir").arg(folder).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{code}: {said}");
        if json {
            let told: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap_or_else(|_| panic!("{said}"));
            let problem = &told["problem"];
            assert_eq!((&problem["code"], &problem["detail"]), (&code.into(), &told["error"]), "{told}");
            assert_eq!(problem["type"], format!("/problems/{code}"), "{told}");
            assert_eq!(problem["title"], page(code).unwrap().title, "{told}");
            assert!(problem["detail"].as_str().unwrap().contains(words), "{told}");
        } else {
            assert!(said.contains(words) && said.ends_with(&format!("\n  problem: {code}\n")), "{code}: {said}");
        }
    }
}

/// Every file of a folder with its bytes.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut all, mut folders) = (BTreeMap::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { drop(all.insert(path.clone(), fs::read(&path).unwrap())) }
        }
    }
    all
}

#[test]
fn a_folder_of_a_newer_version_is_refused_by_its_code_and_not_touched() {
    let mut gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    let before = gateway.entries(&dana);
    assert!(gateway.stop());
    let data = gateway.data();
    let (mark, database) = (data.join("countersign.json"), data.join("ledger/ledger.db"));
    let text = fs::read_to_string(&mark).unwrap();

    // The folder itself, which may look quite different.
    fs::write(&mark, r#"{"format": 7, "shape": "new"}"#).unwrap();
    let held = files(&data);
    refused(&data, "folder-newer", "has format 7");
    assert_eq!(files(&data), held, "nothing of it was touched");
    fs::write(&mark, &text).unwrap();

    // The database in it: `user_version` is a big-endian number at byte 60 of the file's header.
    let file = fs::File::options().read(true).write(true).open(&database).unwrap();
    let mut version = [0; 4];
    file.read_exact_at(&mut version, 60).unwrap();
    file.write_all_at(&99_u32.to_be_bytes(), 60).unwrap();
    refused(&data, "folder-newer", "is of schema version 99");
    file.write_all_at(&version, 60).unwrap();

    gateway.up();
    let dana = gateway.login("dana", "act");
    assert_eq!(before[..], gateway.entries(&dana)[..before.len()], "the log goes on as if nothing had been");
}

#[test]
fn whatever_is_wrong_with_a_folder_is_said_by_its_own_code() {
    let mut gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    let before = gateway.entries(&dana);
    assert!(gateway.stop());
    let data = gateway.data();
    let mark = data.join("countersign.json");
    let text = fs::read_to_string(&mark).unwrap();
    for (code, words, found) in [
        ("folder-demo", "nothing real may be built on it", text.replace("\"demo\": false", "\"demo\": true")),
        ("folder-damaged", "cannot be read as the mark", "{}".to_owned()),
        ("folder-damaged", "cannot be read as the mark", text.replace("\"org\"", "\"organisation\"")),
    ] {
        assert_ne!(found, text, "{code}");
        fs::write(&mark, found).unwrap();
        refused(&data, code, words);
    }
    fs::write(&mark, &text).unwrap();

    fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).unwrap();
    refused(&data, "folder-open-to-others", "may be read by others (mode 755)");
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).unwrap();

    let (key, aside) = (data.join("keys/log.key"), gateway.beside("log.key"));
    fs::rename(&key, &aside).unwrap();
    refused(&data, "key-file-missing", "is missing");
    fs::write(&key, "x").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    refused(&data, "key-file-invalid", "is not a key file");
    fs::rename(&aside, &key).unwrap();

    let other = gateway.beside("thesis");
    fs::create_dir(&other).unwrap();
    fs::set_permissions(&other, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(other.join("thesis.tex"), "x").unwrap();
    refused(&other, "folder-foreign", "is not empty and is no data folder");
    assert_eq!(files(&other).len(), 1);

    let absent = gateway.beside("absent");
    let output =
        Command::new(countersign()).env_clear().args(["ledger", "fsck", "--data-dir"]).arg(&absent).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("is no data folder") && said.ends_with("\n  problem: folder-missing\n"), "{said}");
    assert!(!absent.exists());

    gateway.up();
    let dana = gateway.login("dana", "act");
    assert_eq!(before[..], gateway.entries(&dana)[..before.len()], "nothing was lost by any of it");
}

#[test]
fn an_old_copy_of_a_folder_and_an_anchor_that_is_none_are_refused_by_their_codes() {
    let outside = tempfile::tempdir().unwrap();
    let anchor = outside.path().join("checkpoints");
    let arguments = vec!["--anchor".to_owned(), anchor.to_str().unwrap().to_owned()];
    let mut gateway = Gateway::start_with(Options { arguments, ..Options::default() });
    assert!(gateway.stop());
    let ledger = gateway.data().join("ledger");
    let old = files(&ledger);
    gateway.up();
    gateway.enrol();
    assert!(gateway.stop());
    let new = files(&ledger);
    let restore = |copy: &BTreeMap<PathBuf, Vec<u8>>| {
        for path in files(&ledger).keys().filter(|path| !copy.contains_key(*path)) {
            fs::remove_file(path).unwrap();
        }
        for (path, bytes) in copy {
            fs::write(path, bytes).unwrap();
        }
    };
    restore(&old);
    let said = gateway.try_up().unwrap_err();
    assert!(said.contains("an old copy") && said.contains("\n  problem: folder-rolled-back\n"), "{said}");
    restore(&new);
    let kept = fs::read(&anchor).unwrap();
    fs::write(&anchor, "no checkpoint\n").unwrap();
    let said = gateway.try_up().unwrap_err();
    assert!(said.contains("\n  problem: anchor-unusable\n"), "{said}");
    fs::write(&anchor, kept).unwrap();
    gateway.up();
}
