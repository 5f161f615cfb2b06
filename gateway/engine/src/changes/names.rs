//! What the gateway calls its own: the reserved workflow of a change, and the operation that its one action is.

use countersign_gateway_model::{Digest, Name, OrgId, Timestamp};
use countersign_policy_bundle::RESERVED_WORKFLOWS;
use countersign_policy_decide::{EntityKind, EntityRef, Record, WorkflowFacts};
use sha2::{Digest as _, Sha256};

use crate::error::EngineError;

/// The workflow of a change of policy.
pub(crate) const POLICY_CHANGE: &str = "countersign.policy-change";

/// The operation that puts a bundle in force, as permits and gates name it.
pub(crate) const ACTIVATE: &str = "policy.activate";

/// Whether an instance of this workflow is the gateway's to act in.
pub(crate) fn is_reserved(workflow: &Name) -> bool {
    workflow.as_str().starts_with(RESERVED_WORKFLOWS)
}

/// The workflow as policy knows it: instances refer to it. Nobody starts it: a proposal does.
pub(crate) fn workflow_record(org: OrgId, now: Timestamp) -> Result<Record, EngineError> {
    let facts = WorkflowFacts {
        team: None,
        materiality: 4,
        version: "1".to_owned(),
        tools: Some(Vec::new()),
        runners: None,
        open: false,
    };
    Ok(Record::workflow(org, name(POLICY_CHANGE)?, facts, now))
}

/// Digest of the workflow's one version.
pub(crate) fn workflow_version() -> Digest {
    Digest(Sha256::new().chain_update("countersign/workflow/policy-change/1\0").finalize().into())
}

pub(crate) fn name(text: &str) -> Result<Name, EngineError> {
    Name::new(text).map_err(EngineError::damaged)
}

/// A bundle, as policy names it.
pub(crate) fn bundle_entity(org: OrgId, digest: &Digest) -> Result<EntityRef, EngineError> {
    Ok(EntityRef::new(org, EntityKind::PolicyBundle, name(&digest.to_string())?))
}
