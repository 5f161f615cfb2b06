//! Each importer's golden source and the bundle that it becomes, file by file; and that this bundle passes its checks,
//! locks nobody out, and tests all that it says.
//!
//! After a change that is meant, `COUNTERSIGN_BLESS=1 cargo test -p countersign-policy-import` writes the files.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use countersign_policy_bundle::{Checked, Name, OrgId, People, Severity, Timestamp, check_draft, locked_out};
use countersign_policy_decide::{EntityStore, PersonFacts, Record};
use countersign_policy_import::{Caller, Fate, Format, Imported, Options, Source, import};

/// Folder, format, and what else is said.
fn sources() -> Vec<(&'static str, Format, Options)> {
    let named = |name: &str| Options { name: Some(name.to_owned()), ..Options::default() };
    vec![
        ("materiality", Format::Materiality, Options::default()),
        ("conditions", Format::Materiality, Options::default()),
        ("tool-scopes", Format::ToolScopes, named("scopes")),
        ("forbidden-patterns", Format::ForbiddenPatterns, named("foundry")),
        ("admission", Format::Admission, named("runs")),
        ("agentcore", Format::AgentCore, named("shop")),
        ("agentcore-person", Format::AgentCore, Options { caller: Caller::Person, ..named("hr") }),
    ]
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn imported(name: &str, format: Format, options: &Options) -> Imported {
    let file = if format == Format::AgentCore { "source.cedar" } else { "source.yaml" };
    let text = fs::read_to_string(folder(name).join(file)).unwrap();
    import(format, Source { file, text: &text }, options).unwrap()
}

fn read_all(folder: &Path, below: &str, found: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = format!("{below}{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            read_all(&entry.path(), &format!("{name}/"), found);
        } else {
            found.insert(name, fs::read(entry.path()).unwrap());
        }
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "whoever changes an importer asks for the files")]
fn every_source_becomes_its_golden_bundle() {
    let write = std::env::var("COUNTERSIGN_BLESS").is_ok_and(|value| value == "1");
    for (name, format, options) in sources() {
        let imported = imported(name, format, &options);
        let bundle = folder(name).join("bundle");
        if write {
            for (path, bytes) in &imported.files {
                let path = bundle.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, bytes).unwrap();
            }
        }
        let mut golden = BTreeMap::new();
        read_all(&bundle, "", &mut golden);
        assert_eq!(golden.keys().collect::<Vec<_>>(), imported.files.keys().collect::<Vec<_>>(), "{name}");
        for (path, bytes) in &golden {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            assert_eq!(text(bytes), text(imported.files.get(path).unwrap()), "{name}/{path}");
        }
    }
}

fn org() -> OrgId {
    OrgId::from_bytes([7; 16])
}

fn checked(imported: &Imported) -> Checked {
    check_draft(&imported.draft().unwrap(), org(), Some(&imported.catalogue().unwrap()))
}

#[test]
fn every_imported_bundle_passes_its_checks_without_a_finding_and_covers_all_policies() {
    for (name, format, options) in sources() {
        let checked = checked(&imported(name, format, &options));
        assert!(checked.accepted().is_some(), "{name}: {:#?}", checked.report);
        let serious: Vec<_> = checked.report.findings.iter().map(ToString::to_string).collect();
        assert!(serious.is_empty(), "{name}: {serious:#?}");
        let tests = checked.report.tests.clone().unwrap();
        assert_eq!((tests.percent(), tests.failed), (100, 0), "{name}: {tests}");
        assert!(checked.report.findings.iter().all(|finding| finding.severity != Severity::Error));
    }
}

#[test]
fn an_imported_bundle_locks_nobody_out_in_either_mode() {
    let store = EntityStore::new();
    let names: Vec<Name> = ["a", "b"].into_iter().map(|name| Name::new(name).unwrap()).collect();
    for name in &names {
        let roles = ["ADMIN", "POLICY_ADMIN", "STOP"].map(|role| Name::new(role).unwrap()).to_vec();
        let facts = PersonFacts {
            active: true,
            roles: roles.into_iter().collect(),
            person: Some(name.clone()),
            ..PersonFacts::default()
        };
        store.put(Record::person(org(), name.clone(), facts, Timestamp(1))).unwrap();
    }
    for (name, format, options) in sources() {
        let checked = checked(&imported(name, format, &options));
        for four_eyes in [false, true] {
            let second_factors = &BTreeSet::new();
            let people = People { store: &store, persons: &names, second_factors, now: Timestamp(2), four_eyes };
            let findings = locked_out(checked.accepted().unwrap(), &people).unwrap();
            assert!(findings.is_empty(), "{name}: {findings:?}");
        }
    }
}

#[test]
fn the_report_names_every_part_of_a_source_with_its_line() {
    for (name, format, options, expected) in [
        ("materiality", 0, 0, vec![(11, Fate::LeftOut, "`owner`")]),
        ("conditions", 1, 0, vec![(21, Fate::Stricter, "rule `weekend`"), (8, Fate::Carried, "rule `large-transfer`")]),
        (
            "tool-scopes",
            2,
            0,
            vec![(16, Fate::LeftOut, "`org_allowlists`"), (14, Fate::Carried, "`policies.default_allowlist`")],
        ),
        (
            "forbidden-patterns",
            3,
            0,
            vec![(2, Fate::Carried, "`allowed_stacks`"), (5, Fate::Carried, "pattern `rm -rf`")],
        ),
        (
            "admission",
            4,
            0,
            vec![(2, Fate::LeftOut, "`namespaces`"), (6, Fate::Stricter, "`labels.allowed`: `app.example.com/*`")],
        ),
        (
            "agentcore",
            5,
            0,
            vec![
                (2, Fate::Interpreted, "permit `small-refunds`"),
                (16, Fate::LeftOut, "a permit"),
                (22, Fate::Carried, "forbid `no-bulk`"),
            ],
        ),
    ]
    .map(|(name, index, _, expected)| {
        let (_, format, options) = sources().swap_remove(index);
        (name, format, options, expected)
    }) {
        let report = imported(name, format, &options).report;
        for (line, fate, what) in expected {
            let found = report.entries.iter().any(|e| (e.place.line, e.fate, e.what.as_str()) == (line, fate, what));
            assert!(found, "{name}: {line} {fate:?} {what} in\n{report}");
        }
        assert_eq!(
            report.is_complete(),
            !report.entries.iter().any(|e| matches!(e.fate, Fate::Stricter | Fate::LeftOut))
        );
    }
}
