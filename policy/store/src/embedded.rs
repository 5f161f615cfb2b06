//! The default bundle and its catalogue, compiled in: what the embedded profile starts with.
//!
//! Not sealed and not signed: organization and key are known at the first start only. Read next: `store`.

use countersign_policy_bundle::{BundleError, Draft};
use countersign_policy_decide::catalogue::{Catalogue, CatalogueError};

macro_rules! shipped {
    ($($path:literal),+ $(,)?) => {
        &[$(($path, include_str!(concat!("../../bundles/default/", $path)))),+]
    };
}

/// Every file of the default bundle.
const DEFAULT: &[(&str, &str)] = shipped![
    "README.md",
    "policies.cedar",
    "roles.json",
    "rules.json",
    "tests/deciding.json",
    "tests/managing.json",
    "tests/reading.json",
    "tests/stopping.json",
    "tests/work.json",
];

const CATALOGUE: &str = include_str!("../../bundles/default/tools/catalogue.json");

/// The default bundle, to be sealed for an organization.
pub fn default_draft() -> Result<Draft, BundleError> {
    Draft::from_files(DEFAULT.iter().map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec())))
}

/// The small catalogue that comes with it.
pub fn default_catalogue() -> Result<Catalogue, CatalogueError> {
    Catalogue::parse(CATALOGUE.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use countersign_policy_bundle::{Name, OrgId, People, Timestamp, check_draft, locked_out};
    use countersign_policy_decide::{EntityStore, PersonFacts, Record};

    use super::*;

    #[test]
    fn every_file_of_the_default_bundle_is_compiled_in() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bundles/default");
        let on_disk = crate::read_draft(&folder).unwrap();
        let names = |draft: &Draft| draft.files.iter().map(|(path, _)| path.to_string()).collect::<Vec<_>>();
        assert_eq!(names(&default_draft().unwrap()), names(&on_disk), "list every file in `DEFAULT`");
        assert!(default_draft().unwrap() == on_disk);
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
            locked_out(snapshot, &People { store: &store, persons: &persons, now, four_eyes }).unwrap().len()
        };
        let first = ("root", "r", ["ADMIN", "POLICY_ADMIN", "STOP"].as_slice());
        assert_eq!(findings(&[first], false), 0, "solo: one person is enough");
        assert_eq!(findings(&[first], true), 1, "four eyes: a second one is missing");
        assert_eq!(findings(&[first, ("sec", "s", &["SECURITY"])], true), 0);
        assert_eq!(findings(&[first, ("other", "r", &["SECURITY"])], true), 1, "the same person twice");
    }

    #[test]
    fn the_page_of_the_default_bundle_explains_every_policy_rule_and_role() {
        let draft = default_draft().unwrap();
        let page = draft.files.get("README.md").unwrap();
        let catalogue = default_catalogue().unwrap();
        let checked = check_draft(&draft, OrgId::from_bytes([1; 16]), Some(&catalogue));
        let snapshot = checked.built().unwrap();
        let policies = snapshot.policies().iter().filter(|p| p.file != "kernel");
        let mut wanted: Vec<String> =
            policies.map(|p| format!("| `{}` | {} |", p.id, p.title.as_deref().unwrap())).collect();
        wanted.extend(snapshot.rules().rules.keys().map(|rule| format!("| `{rule}` |")));
        wanted.extend(snapshot.roles().iter().map(|role| format!("| `{role}` |")));
        let missing: Vec<&String> = wanted.iter().filter(|row| !page.contains(row.as_str())).collect();
        assert!(missing.is_empty(), "bundles/default/README.md lacks {missing:#?}");
    }

    #[test]
    fn the_default_bundle_passes_its_checks_and_its_tests_cover_every_policy() {
        let catalogue = default_catalogue().unwrap();
        let checked = check_draft(&default_draft().unwrap(), OrgId::from_bytes([1; 16]), Some(&catalogue));
        assert!(checked.accepted().is_some(), "{}", checked.report);
        let tests = checked.report.tests.as_ref().unwrap();
        assert_eq!(tests.percent(), 100, "not covered: {:?}", tests.uncovered);
        assert_eq!(checked.report.warnings(), 0, "{}", checked.report);
    }
}
