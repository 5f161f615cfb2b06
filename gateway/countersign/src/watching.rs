//! A watched folder: a bundle that is put there is checked as a candidate is, and the log says what was found.
//!
//! Nothing comes into force by it, and nothing is proposed. A proposal has an author, who comes from a credential; in mode
//! `solo` a person confirms the difference that they have read; SYSTEM approves nothing. A folder is none of these. Absent:
//! looking (`policy/store`), the checks (`engine`).

use std::path::PathBuf;
use std::time::Duration;

use countersign_gateway_engine::{Engine, EngineError};
use countersign_gateway_model::OrgId;
use countersign_policy_store::bundle::Bundle;
use countersign_policy_store::{NotTaken, watch};

/// Looks, for as long as it is polled.
pub(crate) async fn watching(engine: Engine, org: OrgId, path: PathBuf, every: Duration) {
    watch(path, every, move |bundle| checked(engine.clone(), org, bundle)).await;
}

/// Checks one, and says how people go on.
async fn checked(engine: Engine, org: OrgId, bundle: Bundle) -> Result<(), NotTaken<String>> {
    let bytes = bundle.to_bytes().map_err(|error| NotTaken::Refused(crate::words(&error)))?;
    match engine.try_policy(org, bytes).await {
        Ok(candidate) => {
            let weakens = if candidate.weakens { ", and it may WEAKEN what is in force" } else { "" };
            Err(NotTaken::Left(format!(
                "version {} passes every check{weakens}; the digest of its difference is {}: read it and activate it, or \
                 propose it, with `countersign policy`",
                candidate.version, candidate.diff_digest
            )))
        }
        Err(EngineError::Bundle(findings) | EngineError::LockedOut(findings)) => {
            for finding in findings.lines().filter(|line| !line.trim().is_empty()) {
                tracing::warn!(finding = %crate::text::plain(finding), "the watched bundle does not pass");
            }
            Err(NotTaken::Refused("it does not pass its checks".to_owned()))
        }
        Err(error) => Err(NotTaken::Failed(crate::words(&error))),
    }
}
