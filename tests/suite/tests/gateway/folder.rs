//! The data folder: one process at a time, one log over all starts, and nothing from a later version.

use std::process::Command;

use countersign_tests_testkit::{Gateway, countersign};

fn up(folder: &std::path::Path) -> (bool, String) {
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
    assert!(!ok && said.contains("another"), "{said}");
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
