//! The scenario repository keeps its two promises: its test fails as shipped, and passes once the answer is written.
//!
//! Run as a person would: a copy in an empty folder, `sh test.sh`, an empty environment. No gateway and no sandbox here: the
//! demo itself is tested where the program is. Next: `tests/scenarios/fix_test_failure/README.md`.
#![expect(clippy::unwrap_used, reason = "a test that cannot read its own files has failed")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn scenario() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios/fix_test_failure").canonicalize().unwrap()
}

/// A copy of the repository as shipped, in a folder of its own that goes with the value.
fn workspace() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in fs::read_dir(scenario().join("repository")).unwrap() {
        let file = file.unwrap();
        assert!(file.file_type().unwrap().is_file(), "{}: the scenario is flat", file.path().display());
        fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    folder
}

fn run_its_test(workspace: &Path) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = Command::new("/bin/sh")
        .arg("test.sh")
        .current_dir(workspace)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .output()
        .unwrap();
    assert!(stderr.is_empty(), "{}", String::from_utf8_lossy(&stderr));
    (status.code(), String::from_utf8(stdout).unwrap())
}

#[test]
fn the_demo_carries_every_file_of_it_and_no_other() {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../gateway/countersign/src/demo.rs");
    let source = fs::read_to_string(demo).unwrap();
    let embedded = source.split("include_str!(\"").skip(1).filter_map(|rest| rest.split_once('"'));
    let embedded = embedded.filter_map(|(path, _)| path.split_once("fix_test_failure/repository/"));
    let mut embedded: Vec<_> = embedded.map(|(_, name)| name.to_owned()).collect();
    let files = fs::read_dir(scenario().join("repository")).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    embedded.sort();
    files.sort();
    assert_eq!(embedded, files);
}

#[test]
fn its_test_fails_as_shipped_and_says_where() {
    let workspace = workspace();
    let (code, printed) = run_its_test(workspace.path());
    assert_eq!(code, Some(1), "{printed}");
    let failed =
        "FAILED: the last number counts without a newline after it: expected 60, got 30\n1 of 4 checks failed\n";
    assert!(printed.ends_with(failed), "{printed}");
}

#[test]
fn its_test_passes_with_the_answer() {
    let workspace = workspace();
    fs::copy(scenario().join("answer/add.sh"), workspace.path().join("add.sh")).unwrap();
    let (code, printed) = run_its_test(workspace.path());
    assert_eq!(code, Some(0), "{printed}");
    assert!(printed.ends_with("all 4 checks hold\n"), "{printed}");
}

#[test]
fn its_test_says_the_same_each_time_and_writes_nothing() {
    let workspace = workspace();
    let names = |folder: &Path| {
        let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = names(workspace.path());
    let first = run_its_test(workspace.path());
    assert_eq!(run_its_test(workspace.path()), first);
    assert_eq!(names(workspace.path()), before);
}

#[test]
fn the_answer_changes_one_file_that_is_there() {
    for file in fs::read_dir(scenario().join("answer")).unwrap() {
        let name = file.unwrap().file_name();
        assert!(scenario().join("repository").join(&name).is_file(), "{} is new", name.display());
    }
}

#[test]
fn its_credentials_open_nothing() {
    let credentials = fs::read_to_string(scenario().join("repository/credentials")).unwrap();
    assert!(credentials.contains("Made up for this scenario"), "{credentials}");
    assert!(credentials.contains("FAKE"), "{credentials}");
}
