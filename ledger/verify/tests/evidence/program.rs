//! The program: its exit codes, its two outputs, and that it needs nothing from around it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use countersign_ledger_verify::MAX_PACK;

use crate::world::*;

struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn put(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

fn run(arguments: &[&str]) -> Output {
    // Nothing of the environment: an auditor's answer depends on the file and the key alone.
    Command::new(env!("CARGO_BIN_EXE_countersign-verify")).args(arguments).env_clear().output().unwrap()
}

/// Bad arguments have their code, too, in words and as JSON.
fn unusable(arguments: &[&str], code: &str) {
    let words = String::from_utf8(run(arguments).stderr).unwrap();
    assert!(words.ends_with(&format!("\n  problem: {code}\n")), "{words}");
    let output = run(&[&["--json"], arguments].concat());
    let json: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!((&json["problem"]["code"], &json["problem"]["detail"]), (&code.into(), &json["error"]), "{json}");
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn exit_codes_are_0_valid_1_invalid_2_inconclusive_64_usage() {
    let files = Files::new();
    let (world, _) = World::small();
    let key = world.vkey().to_string();
    let pack = world.open_pack();
    let good = files.put("good.evidence", &pack);
    let mut flipped = pack.clone();
    flipped[pack.len() / 2] ^= 1;
    let bad = files.put("bad.evidence", &flipped);
    let cut = files.put("cut.evidence", &pack[..pack.len() - 1]);
    let key_file = files.put("root.vkey", format!("{key}\n"));
    let mut later = world.clone();
    later.running();
    let held = files.put("held", world.checkpoint_at(3));
    let newer = files.put("newer", later.checkpoint());
    let mut other = World::new(|g| g.log = countersign_gateway_model::LogId::from_bytes([0x20; 16]));
    other.origin = countersign_ledger_entry::key::origin("countersign.example", other.genesis.log).unwrap();
    let foreign = files.put("foreign", other.checkpoint());
    let anchor = files.put("anchor", other.checkpoint() + &world.checkpoint_at(3) + &world.checkpoint_at(2));
    let foreign_anchor = files.put("foreign-anchor", other.checkpoint() + &other.checkpoint_at(1));
    let torn = files.put("torn", other.checkpoint() + "countersign.example/cut\n3\n");
    let (anchor, foreign_anchor, torn) = (text(&anchor), text(&foreign_anchor), text(&torn));
    let (other_key, absent) = (other.vkey().to_string(), files.folder.path().join("absent"));
    let huge = files.put("huge.evidence", "");
    std::fs::File::options().write(true).open(&huge).unwrap().set_len(MAX_PACK + 1).unwrap();

    let (good, bad, cut, key_file) = (text(&good), text(&bad), text(&cut), text(&key_file));
    let (held, newer, foreign, huge, absent) = (text(&held), text(&newer), text(&foreign), text(&huge), text(&absent));
    let cases: [(&[&str], i32, &str); 23] = [
        (&["--key", &key, good], 0, "VALID\n"),
        (&["--key", key_file, good], 0, "VALID\n"),
        (&["--key", &key, "--known", held, good], 0, "your checkpoint of size 3 lies on this log"),
        (&["--key", &key, "--known", anchor, good], 0, "your checkpoint of size 3 lies on this log"),
        (&["--key", &key, bad], 1, "INVALID\n"),
        (&["--key", &key, cut], 1, "INVALID\n"),
        (&["--key", &key, key_file], 1, "INVALID\n"),
        (&["--key", &key, huge], 1, "larger than 2 GiB"),
        (&["--key", &other_key, good], 1, "does not follow from the root key"),
        (&["--key", &key, "--known", newer, good], 2, "INCONCLUSIVE\n"),
        (&["--key", &key, absent], 64, "No such file"),
        (&["--key", &key, text(files.folder.path())], 64, "Is a directory"),
        (&["--key", "nonsense", good], 64, "neither a vkey nor a file"),
        (&["--key", good, good], 64, "neither a vkey nor a file"),
        (&["--key", held, good], 64, "--key"),
        (&["--key", &key, "--known", absent, good], 64, "No such file"),
        (&["--key", &key, "--known", key_file, good], 64, "--known"),
        (&["--key", &key, "--known", foreign, good], 64, "not of --key's"),
        (&["--key", &key, "--known", foreign_anchor, good], 64, "it holds no checkpoint of --key's log"),
        (&["--key", &key, "--known", torn, good], 64, "it was cut short"),
        (&["--key", &key], 64, "Usage"),
        (&[good], 64, "--key"),
        (&["--key", &key, "--sudo", good], 64, "unexpected argument"),
    ];
    for (arguments, code, said) in cases {
        let output = run(arguments);
        let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{out}{err}");
        let place = if code == 64 { &err } else { &out };
        assert!(place.contains(said), "{arguments:?} says {said}\n{out}{err}");
        assert!(if code == 64 { out.is_empty() } else { err.is_empty() }, "{arguments:?}\n{out}{err}");
    }
    for (arguments, code) in
        [(&["--key", "nonsense", good], "root-key-unreadable"), (&["--key", held, good], "root-key-unreadable")]
    {
        unusable(arguments, code);
    }
    unusable(&["--key", &key, "--known", key_file, good], "checkpoint-unreadable");
    unusable(&["--key", &key, "--known", foreign, good], "checkpoint-foreign");
    assert_eq!(run(&["--help"]).status.code(), Some(0));
    assert_eq!(run(&["--version"]).status.code(), Some(0));
}

#[test]
fn json_is_the_whole_report() {
    let files = Files::new();
    let (world, done, _) = crate::lawful::eventful();
    let pack = files.put("pack", world.pack());
    let output = run(&["--json", "--key", &world.vkey().to_string(), text(&pack)]);
    assert_eq!(output.status.code(), Some(0));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["verdict"], "VALID");
    assert_eq!(json["population"]["to"], world.leaves.len());
    let instances = json["streams"]["instances"].as_array().unwrap();
    assert!(instances.iter().any(|i| i["id"] == done.to_string() && i["closed"] == true));
    assert!(json["not_proven"].as_array().unwrap().len() >= 6);
}
