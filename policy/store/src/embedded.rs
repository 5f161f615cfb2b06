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

    use countersign_policy_bundle::{OrgId, check_draft};

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
    fn the_default_bundle_passes_its_checks_and_its_tests_cover_every_policy() {
        let catalogue = default_catalogue().unwrap();
        let checked = check_draft(&default_draft().unwrap(), OrgId::from_bytes([1; 16]), Some(&catalogue));
        assert!(checked.accepted().is_some(), "{}", checked.report);
        let tests = checked.report.tests.as_ref().unwrap();
        assert_eq!(tests.percent(), 100, "not covered: {:?}", tests.uncovered);
        assert_eq!(checked.report.warnings(), 0, "{}", checked.report);
    }
}
