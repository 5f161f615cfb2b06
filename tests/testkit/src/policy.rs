//! The default bundle as a snapshot, without a gateway around it.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use countersign_gateway_model::OrgId;
use countersign_policy_bundle::check_draft;
use countersign_policy_decide::PolicySnapshot;

/// The default bundle with the default catalogue, checked as at activation.
///
/// # Errors
/// If the bundle that ships does not pass its own checks.
pub fn default_snapshot(org: OrgId) -> Result<Arc<PolicySnapshot>> {
    let draft = countersign_policy_store::default_draft()?;
    let catalogue = countersign_policy_store::default_catalogue()?;
    let checked = check_draft(&draft, org, Some(&catalogue));
    checked.accepted().cloned().context("the default bundle does not pass its own checks")
}
