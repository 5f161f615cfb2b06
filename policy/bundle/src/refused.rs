//! What does not read, or does not make a snapshot, as a finding: where the element stands that is wrong, and what to do.
//!
//! Absent: the reading (`countersign_policy_decide`). Read next: `element`, `check`.

use countersign_policy_decide::BuildError;
use countersign_policy_decide::case::CaseError;
use countersign_policy_decide::data::DataError;

use crate::bundle::Bundle;
use crate::element::{offset_if_there, offset_of};
use crate::files::{CATALOGUE_FILE, MANIFEST_FILE};
use crate::finding::{Finding, Place, RuleId, json_place, words};

/// Words that say what is wrong and, behind their last semicolon, what to do.
pub(crate) fn told(text: &str, otherwise: &str) -> (String, String) {
    match text.rsplit_once("; ") {
        Some((wrong, next)) if !next.is_empty() => (wrong.to_owned(), next.to_owned()),
        _ => (text.to_owned(), otherwise.to_owned()),
    }
}

/// An element of a JSON file of the bundle.
pub(crate) fn element(bundle: &Bundle, file: &str, pointer: &str) -> Place {
    let manifest;
    let text = if file == MANIFEST_FILE {
        manifest = bundle.manifest_text();
        &*manifest
    } else {
        bundle.files().get(file).map_or("", |text| text)
    };
    Place::at(file, text, offset_of(text, pointer))
}

/// Why no snapshot could be built of a bundle whose files read.
pub(crate) fn snapshot(error: &BuildError, bundle: &Bundle) -> Finding {
    let place = match error {
        BuildError::Mask { file, at, .. } => element(bundle, file, at),
        BuildError::Data(DataError::Rule { what, at, .. }) => {
            let file = match *what {
                "masks" | "transforms" => "masks.json",
                "counters" => "counters.json",
                _ => "detectors.json",
            };
            element(bundle, file, at)
        }
        BuildError::Shadow { id, .. } => {
            let number = bundle.manifest().shadow.policies.iter().position(|shadowed| shadowed.id == *id);
            element(bundle, MANIFEST_FILE, &format!("/shadow/policies/{}/id", number.unwrap_or(0)))
        }
        BuildError::Reserved { what: "role", name } => element(bundle, "roles.json", &format!("/roles/{name}")),
        BuildError::Reserved { name, .. } | BuildError::UnknownRole { rule: name, .. } => {
            element(bundle, "rules.json", &format!("/rules/{}", name.as_str().replace('/', "~1")))
        }
        BuildError::Catalogue(_) | BuildError::Entity(_) => Place::start(CATALOGUE_FILE),
        other => match other.place() {
            Some(place) => {
                let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
                Place { file: place.file.clone(), line: number(place.line), column: number(place.column) }
            }
            None => Place::start("policies.cedar"),
        },
    };
    let (message, next) = told(&words(error), "change that part of the bundle; nothing decides with it as it is");
    Finding::error(place, RuleId::Snapshot, message, next)
}

/// Why a file of tests cannot be run.
pub(crate) fn tests(error: &CaseError, path: &str, text: &str) -> Finding {
    let pointers = error.at();
    let place = match pointers.first() {
        None => json_place::<serde::de::IgnoredAny>(path, text).0,
        Some(likely) => {
            let there = pointers.iter().find_map(|pointer| offset_if_there(text, pointer));
            Place::at(path, text, there.unwrap_or_else(|| offset_of(text, likely)))
        }
    };
    let next = match error {
        CaseError::Json(_) => "write strict JSON: no key twice, nothing behind a last comma",
        CaseError::Entity { .. } => "write the entity as the schema has it: `entity`, `attrs`, `in`, `roles`",
        CaseError::Shape(_) => {
            "a case has `name`, `ask` and `expect`; `expect` has a `decision`, and may have `rules`, \
             `determining`, `error`, `agent_message` and `input`"
        }
    };
    Finding::error(place, RuleId::TestData, words(error), next)
}
