//! The default bundle as a snapshot, without a gateway around it.

use anyhow::{Context as _, Result};
use countersign_gateway_model::OrgId;
use countersign_policy_bundle::check_draft;
use countersign_policy_decide::PolicySnapshot;

/// The default bundle, checked as it is at activation.
///
/// # Errors
/// If the bundle that ships does not pass its own checks.
pub fn default_snapshot(org: OrgId) -> Result<PolicySnapshot> {
    let draft = countersign_policy_store::default_bundle()?;
    let checked = check_draft(&draft, org, None);
    let accepted = checked.accepted().context("the default bundle does not pass its own checks")?;
    PolicySnapshot::build(accepted.parts()).context("the default bundle does not build")
}
