//! What the program itself refuses, by the code that its page has: folders, keys and organizations that it does not use.
//!
//! A failed command says its code as a gateway's problem does, in words and with `--json`. Absent: the words, which are the
//! errors' own; what a gateway answered (`client`).

use countersign_gateway_http::page;
use countersign_gateway_identity::IdentityError;
use countersign_ledger_log::LogError;
use countersign_ledger_sql::SqlError;
use countersign_ledger_verify::GivenError;
use serde_json::{Value, json};

use crate::folder::FolderError;
use crate::installation::InstallationError;
use crate::keys::KeysError;
use crate::organizations::PlaceError;
use crate::policies::PoliciesError;

/// The code of what stopped a command: the outermost error of its causes that has one.
pub(crate) fn code_of(error: &anyhow::Error) -> Option<&'static str> {
    error.chain().find_map(|cause| {
        None.or_else(|| cause.downcast_ref::<FolderError>().and_then(FolderError::code))
            .or_else(|| cause.downcast_ref::<KeysError>().and_then(KeysError::code))
            .or_else(|| cause.downcast_ref::<PlaceError>().and_then(PlaceError::code))
            .or_else(|| cause.downcast_ref::<PoliciesError>().and_then(PoliciesError::code))
            .or_else(|| cause.downcast_ref::<InstallationError>().map(InstallationError::code))
            .or_else(|| cause.downcast_ref::<SqlError>().map(SqlError::code))
            .or_else(|| cause.downcast_ref::<GivenError>().map(GivenError::code))
            .or_else(|| cause.downcast_ref::<LogError>().and_then(of_log))
            .or_else(|| cause.downcast_ref::<IdentityError>().and_then(of_secret))
    })
}

/// What the ledger refuses about the bytes that it found.
fn of_log(error: &LogError) -> Option<&'static str> {
    match error {
        LogError::Later { .. } => Some("folder-newer"),
        LogError::RolledBack { .. } => Some("folder-rolled-back"),
        LogError::Forked { .. } => Some("folder-forked"),
        LogError::Anchor { .. } => Some("anchor-unusable"),
        LogError::Entry { .. } | LogError::Proof { .. } | LogError::Damaged { .. } => Some("ledger-damaged"),
        _ => None,
    }
}

/// A secret in the environment that is absent, empty or some example's.
fn of_secret(error: &IdentityError) -> Option<&'static str> {
    matches!(error, IdentityError::WeakSecret { .. }).then(|| error.code())
}

/// The problem as one object (RFC 9457). It has no status: nobody was asked over HTTP.
pub(crate) fn problem(code: &str, detail: &str) -> Value {
    let title = page(code).map_or(code, |page| page.title);
    json!({ "type": format!("/problems/{code}"), "title": title, "detail": detail, "code": code })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io;
    use std::path::PathBuf;

    use countersign_gateway_http::{Place, pages};
    use countersign_gateway_model::{Digest, LogId, OrgId};
    use countersign_runners_contract::entry::key::VKey;
    use ed25519_dalek::SigningKey;

    use super::*;

    /// Whatever the program refuses and has a name for, once each.
    fn refusals() -> Vec<anyhow::Error> {
        let path = || PathBuf::from("/data");
        let absent = || io::Error::from(io::ErrorKind::NotFound);
        let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
        let (org, log) = (OrgId::from_bytes([1; 16]), LogId::from_bytes([2; 16]));
        let root = VKey::new("x/root", SigningKey::from_bytes(&[1; 32]).verifying_key()).unwrap();
        let known = countersign_ledger_verify::check_known("x", &root);
        vec![
            FolderError::Keys(KeysError::Open { path: path(), mode: 0o755, wanted: 0o700 }).into(),
            FolderError::Io { path: path(), source: absent() }.into(),
            FolderError::Io { path: path(), source: denied() }.into(),
            FolderError::Locked(path()).into(),
            FolderError::Newer { path: path(), found: 2 }.into(),
            FolderError::Mark(path()).into(),
            FolderError::Genesis("default".to_owned()).into(),
            FolderError::Demo(path()).into(),
            FolderError::NotDemo(path()).into(),
            FolderError::Foreign(path()).into(),
            KeysError::Io { doing: "read", path: path(), source: denied() }.into(),
            KeysError::Taken(path()).into(),
            KeysError::Form(path()).into(),
            KeysError::NoPersonKey(path()).into(),
            KeysError::Missing(path()).into(),
            PlaceError::Io { path: path(), source: denied() }.into(),
            PlaceError::File(path()).into(),
            PlaceError::Name("A".to_owned()).into(),
            PlaceError::Exists("north".to_owned()).into(),
            PlaceError::Twice { one: path(), other: path() }.into(),
            PlaceError::Unknown("north".to_owned()).into(),
            PoliciesError::RootMissing { wanted: Digest([0; 32]), version: 1 }.into(),
            InstallationError::Missing(org).into(),
            InstallationError::Other(org).into(),
            SqlError::Locked(path()).into(),
            SqlError::Newer { found: 9, supported: 1 }.into(),
            SqlError::Foreign(path()).into(),
            SqlError::Network { path: path(), kind: "nfs" }.into(),
            SqlError::OldSqlite { found: "3.1.0".to_owned(), minimum: "3.51.3" }.into(),
            SqlError::Setting { pragma: "synchronous", expected: "2", found: "0".to_owned() }.into(),
            SqlError::Io { doing: "made", path: path(), source: denied() }.into(),
            SqlError::Database { path: path(), source: "locked".into() }.into(),
            LogError::Later { log, semantics: 3 }.into(),
            LogError::Damaged { log, what: "an entry".to_owned() }.into(),
            LogError::RolledBack { log, local: 1, anchor: 2, path: path(), evidence: path() }.into(),
            LogError::Forked { log, size: 1, path: path(), evidence: path() }.into(),
            LogError::Anchor { path: path(), what: "it is none".to_owned() }.into(),
            countersign_ledger_verify::root_key("nonsense").unwrap_err().into(),
            known.unwrap_err().into(),
            GivenError::OtherLog("other".to_owned()).into(),
            countersign_gateway_identity::refuse_default_secret("SHOP_KEY", "").unwrap_err().into(),
        ]
    }

    #[test]
    fn whatever_the_program_refuses_has_a_page_and_no_page_of_the_program_is_left_over() {
        let refused = refusals();
        let nameless: Vec<_> = refused.iter().filter(|error| code_of(error).and_then(page).is_none()).collect();
        assert!(nameless.is_empty(), "no code, or no page: {nameless:?}");
        let told: BTreeSet<&str> = refused.iter().filter_map(code_of).collect();
        let own: BTreeSet<&str> = pages().filter(|page| page.place == Place::Program).map(|page| page.code).collect();
        assert_eq!(own.difference(&told).collect::<Vec<_>>(), Vec::<&&str>::new());
    }

    #[test]
    fn a_context_hides_no_code() {
        use anyhow::Context as _;
        let refused: Result<(), _> = Err(SqlError::Locked(PathBuf::from("/data")));
        let error = refused.context("the ledger cannot be opened").context("up").unwrap_err();
        assert_eq!(code_of(&error), Some("folder-in-use"));
        let shown = problem("folder-in-use", "words");
        assert_eq!(shown.pointer("/type"), Some(&json!("/problems/folder-in-use")));
        assert_eq!(shown.pointer("/title"), Some(&json!("The data folder is in use")));
    }
}
