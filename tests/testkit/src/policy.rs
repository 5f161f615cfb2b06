//! The default bundle as a snapshot, without a gateway around it; alone, or with more policies and tools beside it.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use countersign_gateway_model::OrgId;
use countersign_policy_bundle::{Draft, Files, check_draft};
use countersign_policy_decide::PolicySnapshot;
use countersign_policy_decide::catalogue::Tool;

/// The default bundle with the default catalogue, checked as at activation.
///
/// # Errors
/// If the bundle that ships does not pass its own checks.
pub fn default_snapshot(org: OrgId) -> Result<Arc<PolicySnapshot>> {
    snapshot_beside_default(org, None, [])
}

/// The same with a file of policies, and tools, beside what ships.
///
/// # Errors
/// If the whole does not pass its checks.
pub fn snapshot_beside_default(
    org: OrgId,
    policies: Option<String>,
    tools: impl IntoIterator<Item = Tool>,
) -> Result<Arc<PolicySnapshot>> {
    let Draft { settings, files } = countersign_policy_store::default_draft()?;
    let shipped = files.iter().map(|(path, text)| (path.to_string(), text.as_bytes().to_vec()));
    let beside = policies.map(|text| ("policies/beside.cedar".to_owned(), text.into_bytes()));
    let draft = Draft { settings, files: Files::new(shipped.chain(beside))? };
    let mut catalogue = countersign_policy_store::default_catalogue()?;
    catalogue.tools.extend(tools);
    let checked = check_draft(&draft, org, Some(&catalogue));
    if !checked.report.passes() {
        bail!("the bundle does not pass its checks:\n{}", checked.report);
    }
    checked.accepted().cloned().context("a bundle that passes its checks decides nothing")
}
