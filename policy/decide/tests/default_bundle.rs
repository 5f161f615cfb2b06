//! The default bundle decides as its own tests say, and builds on the catalogue that ships with it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;

use countersign_gateway_model::{Digest, OrgId};
use countersign_policy_decide::case::CaseFile;
use countersign_policy_decide::catalogue::Catalogue;
use countersign_policy_decide::data::Roles;
use countersign_policy_decide::rules::Rules;
use countersign_policy_decide::{PolicyParts, PolicySnapshot, decide, decide_by_full_walk, replay};

macro_rules! default_file {
    ($path:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../bundles/default/", $path))
    };
}

fn snapshot() -> PolicySnapshot {
    let parts = PolicyParts {
        bundle: Digest([7; 32]),
        policies: BTreeMap::from([("policies.cedar".to_owned(), default_file!("policies.cedar").to_owned())]),
        rules: Rules::parse(default_file!("rules.json").as_bytes()).unwrap(),
        roles: Roles::parse(default_file!("roles.json").as_bytes()).unwrap().roles.into_keys().collect(),
        catalogue: Some(Catalogue::parse(default_file!("tools/catalogue.json").as_bytes()).unwrap()),
        ..PolicyParts::recovery(OrgId::from_bytes([1; 16]))
    };
    PolicySnapshot::build(parts).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn the_default_bundle_decides_as_its_tests_say() {
    let snapshot = snapshot();
    let mut determining = std::collections::BTreeSet::new();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../bundles/default/tests");
    let mut failures = Vec::new();
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let file = CaseFile::parse(&std::fs::read(&path).unwrap()).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        for outcome in file.run(&snapshot).unwrap_or_else(|e| panic!("{path:?}: {e:?}")) {
            count += 1;
            if let Some(failure) = outcome.failure {
                failures.push(format!("{}: {failure}", outcome.name));
            }
            determining.extend(outcome.answer.into_iter().flat_map(|a| a.determining));
        }
    }
    assert!(count > 100, "the bundle's tests were found");
    assert!(failures.is_empty(), "{} of {count} differ:\n{}", failures.len(), failures.join("\n"));
    let untested: Vec<_> = snapshot.policies().iter().map(|p| &p.id).filter(|id| !determining.contains(*id)).collect();
    let expected_untested = |id: &&&countersign_gateway_model::Name| id.as_str() == "kernel:organizations-do-not-mix";
    assert!(untested.iter().all(|id| expected_untested(&id)), "no test is determined by {untested:?}");
}

#[test]
fn every_verdict_of_the_default_bundle_is_computed_again_from_its_bytes() {
    let snapshot = snapshot();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../bundles/default/tests");
    for entry in std::fs::read_dir(folder).unwrap() {
        let file = CaseFile::parse(&std::fs::read(entry.unwrap().path()).unwrap()).unwrap();
        let store = file.store(&snapshot).unwrap();
        for case in file.cases() {
            let question = case.question(&snapshot).unwrap();
            let slice = store.slice(&snapshot, &question);
            let answer = decide(&snapshot, &slice, &question);
            assert_eq!(answer, decide_by_full_walk(&snapshot, &slice, &question), "{}", case.name);
            let blobs: Vec<&[u8]> = slice.members().iter().map(|m| &**m.blob()).collect();
            assert_eq!(replay(&snapshot, &question.canonical(), &blobs).unwrap(), answer, "{}", case.name);
        }
    }
}
