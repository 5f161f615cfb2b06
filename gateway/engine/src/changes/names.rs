//! What the gateway calls its own: the reserved workflow of a change, and the operation that its one action is.

use countersign_gateway_model::{Digest, Name, OrgId, Timestamp};
use countersign_policy_bundle::RESERVED_WORKFLOWS;
use countersign_policy_decide::{EntityKind, EntityRef, Record, WorkflowFacts};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::EngineError;

/// The workflow of a change of policy.
pub(crate) const POLICY_CHANGE: &str = "countersign.policy-change";

/// The operation that puts a bundle in force, as permits and gates name it.
pub(crate) const ACTIVATE: &str = "policy.activate";

/// The workflow of a change of the tool catalogue that people are asked about.
pub(crate) const TOOL_REGISTRATION: &str = "countersign.tool-registration";

/// The operation that puts a tool catalogue in force, as permits name it.
pub(crate) const REGISTER: &str = "tools.register";

/// What comes into force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Subject {
    /// A policy bundle. Rows that were written before there was another say nothing.
    #[default]
    Bundle,
    /// A tool catalogue.
    Catalogue,
}

/// Whether an instance of this workflow is the gateway's to act in.
pub(crate) fn is_reserved(workflow: &Name) -> bool {
    workflow.as_str().starts_with(RESERVED_WORKFLOWS)
}

/// A workflow of the gateway's own as policy knows it: instances refer to it. Nobody starts it: a proposal does.
fn workflow_record(org: OrgId, id: &str, now: Timestamp) -> Result<Record, EngineError> {
    let facts = WorkflowFacts {
        team: None,
        materiality: 4,
        version: "1".to_owned(),
        tools: Some(Vec::new()),
        runners: None,
        open: false,
    };
    Ok(Record::workflow(org, name(id)?, facts, now))
}

/// Both of them.
pub(crate) fn workflow_records(org: OrgId, now: Timestamp) -> Result<[Record; 2], EngineError> {
    Ok([workflow_record(org, POLICY_CHANGE, now)?, workflow_record(org, TOOL_REGISTRATION, now)?])
}

/// Digest of the one version of the workflow of such a change.
pub(crate) fn workflow_version(subject: Subject) -> Digest {
    let of = match subject {
        Subject::Bundle => "countersign/workflow/policy-change/1\0",
        Subject::Catalogue => "countersign/workflow/tool-registration/1\0",
    };
    Digest(Sha256::new().chain_update(of).finalize().into())
}

pub(crate) fn name(text: &str) -> Result<Name, EngineError> {
    Name::new(text).map_err(EngineError::damaged)
}

/// A bundle, as policy names it.
pub(crate) fn bundle_entity(org: OrgId, digest: &Digest) -> Result<EntityRef, EngineError> {
    Ok(EntityRef::new(org, EntityKind::PolicyBundle, name(&digest.to_string())?))
}
