//! A watched folder puts nothing in force: what is there is checked, and the log says what was found.

use std::process::Command;
use std::time::Duration;

use countersign_tests_testkit::{Gateway, Options, countersign};

/// Waits until the gateway has said this.
#[track_caller]
fn until_said(gateway: &Gateway, words: &str) -> String {
    for _ in 0..1_200 {
        let said = gateway.words();
        if said.contains(words) {
            return said;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("never said `{words}`: {}", gateway.words());
}

fn run(arguments: &[&str]) {
    let output = Command::new(countersign()).env_clear().args(arguments).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
}

#[test]
fn what_is_put_into_a_watched_folder_is_checked_and_told_and_never_put_in_force() {
    let mut gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    let organization = gateway.tenants()[0].organization.clone();
    let path = |gateway: &Gateway, name: &str| gateway.beside(name).to_str().unwrap().to_owned();
    // One that may become active, signed by the organization's own root key; and one that a stranger has signed.
    assert!(gateway.stop());
    let (good, folder, key) = (path(&gateway, "good.bundle"), path(&gateway, "policy"), path(&gateway, "stranger.key"));
    let (ok, said) = gateway.operate(&["recover", "--out", &good]);
    assert!(ok, "{said}");
    let foreign = path(&gateway, "foreign.bundle");
    run(&["policy", "default", &folder]);
    run(&["policy", "key", "--name", "stranger", "--out", &key]);
    run(&["policy", "sign", &folder, "--key", &key, "--organization", &organization, "--out", &foreign]);
    drop(dana);

    let watched = path(&gateway, "next.bundle");
    gateway.set_variable("COUNTERSIGN_POLICY__WATCH", &watched);
    gateway.set_variable("COUNTERSIGN_POLICY__WATCH_S", "1");
    gateway.up();
    let dana = gateway.login("dana", "act");
    let active = || gateway.get("/api/v1/policies/active", &dana).expect_status(200).json();
    let (before, entries) = (active(), gateway.entries(&dana).len());
    std::fs::write(&watched, "no bundle at all").unwrap();
    until_said(&gateway, "the watched bundle is not one");
    std::fs::copy(&foreign, &watched).unwrap();
    let said = until_said(&gateway, "the watched bundle is refused");
    assert!(said.contains("the watched bundle does not pass"), "{said}");
    std::fs::copy(&good, &watched).unwrap();
    let said = until_said(&gateway, "the watched bundle is left to people");
    assert!(said.contains("version 2 passes every check"), "{said}");
    assert_eq!(active(), before, "what was in force is");
    assert_eq!(gateway.entries(&dana).len(), entries, "and nothing was proposed");
}

#[test]
fn a_place_that_is_not_there_yet_stops_nothing() {
    let variables = vec![("COUNTERSIGN_POLICY__WATCH".to_owned(), "not-there-yet".to_owned())];
    let gateway = Gateway::start_with(Options { variables, ..Options::default() });
    gateway.enrol();
    until_said(&gateway, "the watched bundle is not one");
}
