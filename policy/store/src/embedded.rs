//! The bundles that are compiled in: the default one, with which the embedded profile starts, and the examples.
//!
//! Not sealed and not signed: organization and key are known at the first start only. Read next: `store`.

use std::path::Path;

use countersign_policy_bundle::{BundleError, Draft};
use countersign_policy_decide::catalogue::{Catalogue, CatalogueError};

use crate::folder::FolderError;

/// One bundle as it is compiled in: its files but the catalogue, and the catalogue.
struct Shipped {
    name: &'static str,
    files: &'static [(&'static str, &'static str)],
    catalogue: &'static str,
}

macro_rules! shipped {
    ($name:literal: $($path:literal),+ $(,)?) => {
        Shipped {
            name: $name,
            files: &[$(($path, include_str!(concat!("../../bundles/", $name, "/", $path)))),+],
            catalogue: include_str!(concat!("../../bundles/", $name, "/tools/catalogue.json")),
        }
    };
}

/// What the embedded profile starts with.
const DEFAULT: Shipped = shipped!["default":
    "README.md",
    "policies.cedar",
    "roles.json",
    "rules.json",
    "tests/approved.json",
    "tests/deciding.json",
    "tests/managing.json",
    "tests/reading.json",
    "tests/stopping.json",
    "tests/work.json",
];

/// What others begin from.
const EXAMPLES: [Shipped; 3] = [
    shipped!["customer-support":
        "README.md",
        "policies/foundation.cedar",
        "policies/support.cedar",
        "roles.json",
        "rules.json",
        "tests/foundation.json",
        "tests/support.json",
    ],
    shipped!["payments":
        "README.md",
        "policies/foundation.cedar",
        "policies/payments.cedar",
        "roles.json",
        "rules.json",
        "tests/foundation.json",
        "tests/payments.json",
    ],
    shipped!["software-delivery":
        "README.md",
        "policies/delivery.cedar",
        "policies/foundation.cedar",
        "roles.json",
        "rules.json",
        "tests/delivery.json",
        "tests/foundation.json",
    ],
];

impl Shipped {
    fn draft(&self) -> Result<Draft, BundleError> {
        Draft::from_files(self.files.iter().map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec())))
    }
}

/// The default bundle, to be sealed for an organization.
pub fn default_draft() -> Result<Draft, BundleError> {
    DEFAULT.draft()
}

/// The small catalogue that comes with it.
pub fn default_catalogue() -> Result<Catalogue, CatalogueError> {
    Catalogue::parse(DEFAULT.catalogue.as_bytes())
}

/// The names of the example bundles.
pub fn example_names() -> impl Iterator<Item = &'static str> {
    EXAMPLES.iter().map(|example| example.name)
}

/// An example bundle with its catalogue; none of that name.
pub fn example(name: &str) -> Option<Result<(Draft, Catalogue), FolderError>> {
    let example = EXAMPLES.iter().find(|example| example.name == name)?;
    let path = || Path::new(name).to_owned();
    let draft = example.draft().map_err(|source| FolderError::Bundle { path: path(), source });
    let catalogue = Catalogue::parse(example.catalogue.as_bytes());
    let catalogue = catalogue.map_err(|source| FolderError::Catalogue { path: path(), source });
    Some(draft.and_then(|draft| Ok((draft, catalogue?))))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use countersign_policy_bundle::{Name, OrgId, People, Timestamp, check_draft, format, has_format, locked_out};
    use countersign_policy_decide::{EntityStore, PersonFacts, Record};

    use super::*;

    /// Every bundle of this repository: name, draft, catalogue.
    fn all() -> Vec<(&'static str, Draft, Catalogue)> {
        let mut all = vec![(DEFAULT.name, default_draft().unwrap(), default_catalogue().unwrap())];
        all.extend(example_names().map(|name| {
            let (draft, catalogue) = example(name).unwrap().unwrap();
            (name, draft, catalogue)
        }));
        all
    }

    fn org() -> OrgId {
        OrgId::from_bytes([1; 16])
    }

    #[test]
    fn every_file_of_every_bundle_is_compiled_in() {
        let bundles = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bundles");
        let mut folders = std::fs::read_dir(&bundles).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>();
        folders.retain(|path| path.is_dir());
        assert_eq!(folders.len(), all().len(), "list every bundle");
        for (name, draft, catalogue) in all() {
            let on_disk = crate::read_draft(&bundles.join(name)).unwrap();
            let names = |draft: &Draft| draft.files.iter().map(|(path, _)| path.to_string()).collect::<Vec<_>>();
            assert_eq!(names(&draft), names(&on_disk), "list every file of `{name}`");
            assert!(draft == on_disk, "{name}");
            assert_eq!(crate::read_catalogue(&bundles.join(name)).unwrap().unwrap(), catalogue, "{name}");
        }
        assert!(example("nothing").is_none());
    }

    #[test]
    fn every_bundle_passes_its_checks_without_a_warning_and_its_tests_cover_every_policy_and_rule() {
        for (name, draft, catalogue) in all() {
            let checked = check_draft(&draft, org(), Some(&catalogue));
            assert!(checked.accepted().is_some(), "{name}: {}", checked.report);
            let tests = checked.report.tests.as_ref().unwrap();
            assert_eq!(tests.percent(), 100, "{name}: not covered: {:?}", tests.uncovered);
            assert_eq!(tests.rule_percent(), 100, "{name}: {:?}", tests.rules);
            assert_eq!(checked.report.warnings(), 0, "{name}: {}", checked.report);
        }
    }

    #[test]
    fn the_page_of_every_bundle_explains_its_policies_rules_and_roles_and_nothing_that_is_gone() {
        for (name, draft, catalogue) in all() {
            let page = draft.files.get("README.md").unwrap();
            let checked = check_draft(&draft, org(), Some(&catalogue));
            let snapshot = checked.built().unwrap();
            let policies: Vec<_> = snapshot.policies().iter().filter(|p| p.file != "kernel").collect();
            let mut wanted: Vec<String> =
                policies.iter().map(|p| format!("| `{}` | {} |", p.id, p.title.as_deref().unwrap())).collect();
            wanted.extend(snapshot.rules().rules.iter().map(|(rule, r)| format!("| `{rule}` | {} |", r.title)));
            wanted.extend(snapshot.roles().iter().map(|role| format!("| `{role}` | ")));
            let missing: Vec<&String> = wanted.iter().filter(|row| !page.contains(row.as_str())).collect();
            assert!(missing.is_empty(), "bundles/{name}/README.md lacks {missing:#?}");
            let known = |id: &str| {
                policies.iter().any(|p| p.id.as_str() == id)
                    || snapshot.rules().rules.keys().any(|rule| rule.as_str() == id)
                    || snapshot.roles().iter().any(|role| role.as_str() == id)
                    || snapshot.tool(id).is_some()
            };
            let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
            let stale: Vec<&str> = rows.map(|(id, _)| id).filter(|id| !known(id)).collect();
            assert!(stale.is_empty(), "bundles/{name}/README.md explains what is gone: {stale:?}");
        }
    }

    #[test]
    fn every_bundle_is_in_the_one_form_and_the_examples_stand_on_the_same_foundation() {
        for (name, draft, _) in all() {
            for (path, text) in draft.files.iter().filter(|(path, _)| has_format(path.kind())) {
                assert_eq!(format(path, text).unwrap(), **text, "{name}/{path}: `countersign policy fmt` writes it");
            }
        }
        for file in ["policies/foundation.cedar", "tests/foundation.json"] {
            let draft = |name| example(name).unwrap().unwrap().0;
            let texts: std::collections::BTreeSet<_> =
                example_names().map(|name| draft(name).files.get(file).unwrap().clone()).collect();
            assert_eq!(texts.len(), 1, "{file} is the same in every example");
        }
    }

    #[test]
    fn no_example_locks_out_who_holds_its_roles() {
        let now = Timestamp(1_795_219_200_000);
        for name in example_names() {
            let (draft, catalogue) = example(name).unwrap().unwrap();
            let checked = check_draft(&draft, org(), Some(&catalogue));
            let store = EntityStore::new();
            let persons = ["first", "second"].map(|id| Name::new(id).unwrap());
            let held = [["ADMIN", "POLICY_ADMIN", "STOP"], ["SECURITY", "AUDITOR", "OPERATOR"]];
            for (id, roles) in persons.iter().zip(held) {
                let roles = roles.map(|role| Name::new(role).unwrap()).to_vec();
                let facts = PersonFacts { active: true, roles, person: Some(id.clone()), ..PersonFacts::default() };
                store.put(Record::person(org(), id.clone(), facts, now)).unwrap();
            }
            for four_eyes in [false, true] {
                let second_factors = &BTreeSet::new();
                let people = People { store: &store, persons: &persons, second_factors, now, four_eyes };
                assert_eq!(locked_out(checked.accepted().unwrap(), &people).unwrap(), [], "{name}");
            }
        }
    }

    #[test]
    fn the_default_bundle_locks_nobody_out_who_holds_its_roles() {
        let (org, now) = (OrgId::from_bytes([1; 16]), Timestamp(1_795_219_200_000));
        let catalogue = default_catalogue().unwrap();
        let checked = check_draft(&default_draft().unwrap(), org, Some(&catalogue));
        let snapshot = checked.accepted().unwrap();
        let findings = |people: &[(&str, &str, &[&str])], four_eyes: bool| {
            let store = EntityStore::new();
            let name = |text: &str| Name::new(text).unwrap();
            for (id, key, roles) in people {
                let roles = roles.iter().map(|r| name(r)).collect();
                let facts = PersonFacts { active: true, roles, person: Some(name(key)), ..PersonFacts::default() };
                store.put(Record::person(org, name(id), facts, now)).unwrap();
            }
            let persons: Vec<Name> = people.iter().map(|(id, ..)| name(id)).collect();
            let second_factors = &BTreeSet::new();
            let people = People { store: &store, persons: &persons, second_factors, now, four_eyes };
            locked_out(snapshot, &people).unwrap().len()
        };
        let first = ("root", "r", ["ADMIN", "POLICY_ADMIN", "STOP"].as_slice());
        assert_eq!(findings(&[first], false), 0, "solo: one person is enough");
        assert_eq!(findings(&[first], true), 1, "four eyes: a second one is missing");
        assert_eq!(findings(&[first, ("sec", "s", &["SECURITY"])], true), 0);
        assert_eq!(findings(&[first, ("other", "r", &["SECURITY"])], true), 1, "the same person twice");
    }
}
