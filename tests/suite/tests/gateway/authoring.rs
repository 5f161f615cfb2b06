//! Writing policy needs no gateway: the program checks, formats, tests, compares, signs and packs bundles by itself, and
//! a pipeline can rely on its exit codes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use countersign_tests_testkit::countersign;
use serde_json::Value;

const ORG: &str = "org_01010101010101010101010101010101";

struct Desk(tempfile::TempDir);

struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Said {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {}{}", self.out, self.err))
    }

    #[track_caller]
    fn ended(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
        self
    }
}

impl Desk {
    /// A folder with the default bundle in `policy`.
    fn new() -> Self {
        let desk = Self(tempfile::tempdir().unwrap());
        desk.policy(&["default", "policy"]).ended(0);
        desk
    }

    fn policy(&self, arguments: &[&str]) -> Said {
        let output =
            Command::new(countersign()).env_clear().current_dir(self.0.path()).arg("policy").args(arguments).output();
        let output = output.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Said { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn edit(&self, name: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.path(name)).unwrap();
        assert!(text.contains(from), "{from} in {name}");
        fs::write(self.path(name), text.replacen(from, to, 1)).unwrap();
    }

    /// A second folder with the same bundle.
    fn copy(&self, name: &str) {
        self.policy(&["default", name]).ended(0);
    }
}

fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push((path.strip_prefix(folder).unwrap().to_owned(), fs::read(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn exit_codes_tell_a_bad_policy_from_one_that_was_not_looked_at() {
    let desk = Desk::new();
    for verb in ["check", "lint", "test", "fmt"] {
        assert_eq!(desk.policy(&[verb, "policy"]).code, 0, "{verb} of the default bundle");
        assert_eq!(desk.policy(&[verb, "nowhere"]).code, 2, "{verb} of what is not there");
        assert_eq!(desk.policy(&[verb]).code, 64, "{verb} of nothing");
    }
    desk.edit("policy/policies.cedar", "principal is Countersign::Person,", "principal is Countersign::Persona,");
    for verb in ["check", "lint", "test"] {
        let said = desk.policy(&[verb, "policy"]).ended(1);
        assert!(
            said.out.contains("policy/policies.cedar:") && said.out.contains("error[type]"),
            "{verb}: {}",
            said.out
        );
    }
    desk.edit("policy/policies.cedar", "principal is Countersign::Persona,", "principal is is,");
    let said = desk.policy(&["fmt", "policy"]).ended(1);
    assert!(said.out.contains("error[syntax]"), "{}", said.out);
}

#[test]
fn every_example_is_good_as_it_is_written() {
    let desk = Desk::new();
    for name in ["customer-support", "payments", "software-delivery"] {
        desk.policy(&["default", "--example", name, name]).ended(0);
        desk.policy(&["check", name, "--deny-warnings"]).ended(0);
        desk.policy(&["fmt", name, "--check"]).ended(0);
        desk.policy(&["test", name, "--min-coverage", "100"]).ended(0);
    }
    desk.policy(&["default", "--example", "nothing", "nothing"]).ended(64);
    desk.policy(&["default", "payments"]).ended(1);
}

#[test]
fn findings_have_file_line_column_rule_and_next_step_for_people_and_programs() {
    let desk = Desk::new();
    desk.edit("policy/policies.cedar", "@requires_approval(\"merge\")", "@requires_approval(\"merging\")");
    let found = desk.policy(&["lint", "policy", "--json"]).ended(1).json();
    let shape = found["findings"].as_array().unwrap().iter().find(|f| f["rule"] == "gate-shape").unwrap();
    assert_eq!((&shape["file"], &shape["policy"]), (&"policies.cedar".into(), &"gate-merge".into()));
    assert!(shape["line"].as_u64().unwrap() > 600 && shape["column"] == 2, "{shape}");
    assert!(shape["next_step"].as_str().unwrap().contains("unless"), "{shape}");
    let line = shape["line"].to_string();
    let said = desk.policy(&["lint", "policy", "--github"]).ended(1).out;
    let wanted = format!("::error file=policy/policies.cedar,line={line},col=2,title=gate-shape::");
    assert!(said.contains(&wanted), "{said}");
}

#[test]
fn a_failing_test_shows_the_question_the_expectation_and_what_determined_the_answer() {
    let desk = Desk::new();
    let least = ["test", "policy", "--coverage", "--min-coverage", "100"];
    let said = desk.policy(&least).ended(0).out;
    assert!(said.contains("determined") && said.contains("rule merge"), "{said}");

    desk.edit("policy/tests/deciding.json", r#""determining": ["eligible-approves"]"#, r#""determining": ["other"]"#);
    let said = desk.policy(&["test", "policy"]).ended(1).out;
    for part in [
        "policy/tests/deciding.json:",
        "`an approver approves` fails",
        r#""op":"approve""#,
        "\"other\"",
        "eligible-approves",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    let document = desk.policy(&["test", "policy", "--json"]).ended(1).json();
    let failed: Vec<&Value> = document["cases"].as_array().unwrap().iter().filter(|c| c["passed"] == false).collect();
    assert_eq!((failed.len(), &document["failed"]), (1, &1.into()));
    assert_eq!(failed[0]["failure"]["question"]["op"], "approve");

    fs::remove_file(desk.path("policy/tests/deciding.json")).unwrap();
    desk.policy(&["test", "policy"]).ended(0);
    let said = desk.policy(&["test", "policy", "--min-coverage", "100"]).ended(1).out;
    assert!(said.contains("--min-coverage"), "{said}");
    let said = desk.policy(&["test", "policy", "--coverage"]).ended(0).out;
    assert!(said.contains("eligible-approves") && said.contains("never determined"), "{said}");
}

#[test]
fn formatting_keeps_comments_and_a_pipeline_can_ask_for_it() {
    let desk = Desk::new();
    desk.policy(&["fmt", "policy", "--check"]).ended(0);
    let before = fs::read_to_string(desk.path("policy/policies.cedar")).unwrap();
    fs::write(
        desk.path("policy/policies.cedar"),
        format!("{before}\n// mine\n@id(\"x\")permit(principal,action,resource)when{{false}};"),
    )
    .unwrap();
    let said = desk.policy(&["fmt", "policy", "--check"]).ended(1).out;
    assert!(said.contains("error[format]"), "{said}");
    desk.policy(&["fmt", "policy"]).ended(0);
    let after = fs::read_to_string(desk.path("policy/policies.cedar")).unwrap();
    assert!(after.contains("// mine\n@id(\"x\")\npermit (principal, action, resource)"), "{after}");
    desk.policy(&["fmt", "policy", "--check"]).ended(0);
}

#[test]
fn a_difference_says_what_becomes_allowed_and_denied_and_marks_what_weakens() {
    let desk = Desk::new();
    desk.copy("next");
    let said = desk.policy(&["diff", "policy", "next"]).ended(0).out;
    assert_eq!(said, "nothing changes\n");

    desk.edit("next/policies.cedar", "@id(\"frozen\")", "@id(\"icy\")");
    desk.edit(
        "next/policies.cedar",
        "when { context has instance && context.instance.frozen }",
        "when { context has instance && context.instance.frozen && context.denials > 9 }",
    );
    let said = desk.policy(&["diff", "policy", "next"]).ended(1).out;
    assert!(said.contains("Newly allowed") && said.contains("policy `frozen`") && said.contains("WEAKER"), "{said}");
    assert!(said.contains("was denied by frozen"), "with an example: {said}");
    desk.policy(&["diff", "policy", "next", "--fail-on", "nothing"]).ended(0);
    let said = desk.policy(&["diff", "next", "policy", "--json"]).json();
    assert_eq!(said["examples_asked"], true);
    let stricter = said["examples"].as_array().unwrap().iter().filter(|e| e["weaker"] == false).count();
    assert!(stricter > 0, "{said}");
}

#[test]
fn a_bundle_is_sealed_signed_by_a_threshold_and_verified_offline_and_an_older_one_is_refused() {
    let desk = Desk::new();
    let key = |name: &str| -> String {
        let file = format!("{name}.key");
        let made = desk.policy(&["key", "--name", name, "--out", &file, "--json"]).ended(0).json();
        assert_eq!(fs::metadata(desk.path(&file)).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!made.to_string().contains("PRIVATE"));
        desk.policy(&["key", "--name", name, "--out", &file]).ended(2);
        made["vkey"].as_str().unwrap().to_owned()
    };
    let (one, two, three) = (key("one"), key("two"), key("three"));
    let root = ["root", "new", "--organization", ORG, "--public", &one, "--public", &two, "--threshold", "2"];
    let root = desk.policy(&[&root[..], &["--key", "one.key", "--out", "1.json", "--json"]].concat()).ended(0).json();
    let genesis = root["digest"].as_str().unwrap().to_owned();
    desk.policy(&["root", "show", "--root", "1.json", "--genesis", &genesis]).ended(1);
    desk.policy(&["root", "sign", "1.json", "--key", "two.key"]).ended(0);
    desk.policy(&["root", "show", "--root", "1.json", "--genesis", &genesis]).ended(0);

    let verify = |bundle: &str, more: &[&str]| {
        desk.policy(&[&["verify", bundle, "--root", "1.json", "--genesis", &genesis, "--json"], more].concat())
    };
    desk.policy(&["sign", "policy", "--key", "one.key"]).ended(2);
    let signed = desk.policy(&["sign", "policy", "--key", "one.key", "--organization", ORG, "--json"]).ended(0).json();
    assert_eq!(signed["version"], 1);
    let why = verify("policy", &[]).ended(1).json();
    assert!(why["why"].as_str().unwrap().contains("1 of the 2 signatures"), "{why}");
    let refused = |said: &Value, rule: &str, file: &str, next: &str| {
        assert_eq!((said["rule"].as_str(), said["file"].as_str()), (Some(rule), Some(file)), "{said}");
        assert!(said["next_step"].as_str().unwrap().contains(next), "{said}");
    };
    refused(&why, "signature-threshold", "policy/signatures.json", "another root key");
    let said = desk.policy(&["verify", "policy", "--root", "1.json", "--genesis", &genesis]).ended(1).out;
    for part in ["signature-threshold", "policy/signatures.json", "another root key"] {
        assert!(said.contains(part), "people are told as well: {said}");
    }
    desk.policy(&["sign", "policy", "--key", "two.key"]).ended(0);
    let good = verify("policy", &[]).ended(0).json();
    assert_eq!((&good["digest"], good["signed_by"].as_array().unwrap().len()), (&signed["digest"], 2));
    desk.policy(&["pack", "policy", "--out", "first.bundle"]).ended(0);

    // The next one, and the older one again.
    desk.edit("policy/policies.cedar", "@title(\"Lists stay within the repository\")", "@title(\"Lists stay in\")");
    let why = verify("policy", &[]).ended(1).json();
    assert!(why["why"].as_str().unwrap().contains("changed after"), "{why}");
    refused(&why, "bundle-changed", "policy/policies.cedar", "sign the bundle again");
    let both = ["--key", "one.key", "--key", "two.key"];
    desk.policy(&[&["sign", "policy", "--after", "first.bundle", "--out", "second.bundle"], &both[..]].concat())
        .ended(0);
    verify("second.bundle", &["--after", "first.bundle"]).ended(0);
    for replayed in ["first.bundle", "second.bundle"] {
        let why = verify(replayed, &["--after", "second.bundle"]).ended(1).json();
        assert!(why["why"].as_str().unwrap().contains("is next"), "{why}");
        refused(&why, "bundle-replayed", replayed, "--after");
    }
    // A signature of the bundle before, under the manifest of this one.
    desk.policy(&["unpack", "second.bundle", "--out", "moved"]).ended(0);
    fs::copy(desk.path("policy/signatures.json"), desk.path("moved/signatures.json")).unwrap();
    let why = verify("moved", &[]).ended(1).json();
    refused(&why, "signature-forged", "moved/signatures.json", "as it was signed");
    let mut bytes = fs::read(desk.path("second.bundle")).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(desk.path("forged.bundle"), bytes).unwrap();
    verify("forged.bundle", &[]).ended(1);
    verify("nowhere.bundle", &[]).ended(2);

    // A key is lost: the root document's next version takes it out for good.
    let lost = desk.policy(&["root", "show", "--root", "1.json", "--genesis", &genesis, "--json"]).json();
    let lost =
        lost["keys"].as_array().unwrap().iter().find(|k| k.as_str().unwrap().starts_with("one+")).unwrap().clone();
    let next = ["root", "next", "--root", "1.json", "--revoke", lost.as_str().unwrap(), "--add", &three];
    desk.policy(&[&next[..], &both, &["--key", "three.key", "--out", "2.json"]].concat()).ended(0);
    desk.policy(&["root", "show", "--root", "1.json", "--root", "2.json", "--genesis", &genesis]).ended(0);
    let why = verify("second.bundle", &["--root", "2.json"]).ended(1).json();
    assert!(why["why"].as_str().unwrap().contains("root version"), "{why}");
    refused(&why, "root-version", "second.bundle", "current root document");

    fs::set_permissions(desk.path("two.key"), fs::Permissions::from_mode(0o640)).unwrap();
    let said = desk.policy(&["sign", "policy", "--key", "two.key", "--organization", ORG]).ended(2);
    assert!(said.err.contains("may be read by others"), "{}", said.err);
    assert!(!said.err.contains("PRIVATE+KEY"));
    desk.edit("policy/policies.cedar", "@id(\"frozen\")", "@id(\"frozen\") @id2(\"x\"");
    let said = desk.policy(&["sign", "policy", "--key", "three.key", "--organization", ORG, "--json"]).ended(1).json();
    assert_eq!(said["signed"], false, "what does not pass its check is not signed");
}

#[test]
fn a_folder_and_its_one_file_turn_into_each_other_byte_by_byte() {
    let desk = Desk::new();
    desk.policy(&["pack", "policy", "--out", "draft.bundle"]).ended(1);
    desk.policy(&["key", "--name", "one", "--out", "one.key"]).ended(0);
    desk.policy(&["sign", "policy", "--key", "one.key", "--organization", ORG]).ended(0);
    // The catalogue is signed on its own.
    let said = desk.policy(&["pack", "policy", "--out", "a.bundle", "--json"]).ended(0).json();
    assert_eq!(said["left_out"], "tools/catalogue.json");
    fs::remove_dir_all(desk.path("policy/tools")).unwrap();
    desk.policy(&["unpack", "a.bundle", "--out", "again"]).ended(0);
    assert_eq!(files(&desk.path("policy")), files(&desk.path("again")));
    desk.policy(&["pack", "again", "--out", "b.bundle"]).ended(0);
    assert_eq!(fs::read(desk.path("a.bundle")).unwrap(), fs::read(desk.path("b.bundle")).unwrap());
    desk.policy(&["unpack", "a.bundle", "--out", "again"]).ended(2);
    desk.policy(&["pack", "again", "--out", "b.bundle"]).ended(2);
}
