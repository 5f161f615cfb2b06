//! Protected changes: what the gateway itself carries out once people agreed, as an action of an instance of its own.
//!
//! A change of policy is proposed, checked, compared with the past, asked of the policy in force, approved where that one
//! says so, and then carried out by the gateway: the instance's one action is an operation (`policy.activate`). So gates,
//! votes, expiry, history and evidence are those of every action. Each step is an entry of the organization's stream
//! too. A row says how far a change is; what it says next is done by `drive`, from wherever a crash left it.
//!
//! Absent: what policy or a gate makes of it (`gateway/flow`, `policy/decide`), checks of a bundle (the program's door).
//! Read next: `row` (how far a change is), `propose`, `drive`, `carry`.

mod carry;
mod drive;
mod propose;
mod row;
mod shown;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use countersign_gateway_model::{Digest, InstanceId, Name, OrgId, Timestamp};
use countersign_policy_decide::{EntityKind, EntityRef, Record, WorkflowFacts};
use sha2::{Digest as _, Sha256};

pub(crate) use crate::changes::row::{ChangeRow, InForce};
use crate::error::EngineError;

/// Names that begin with this are the gateway's own: nobody registers a workflow, or proposes an action, under them.
pub(crate) const RESERVED: &str = "countersign.";

/// The workflow of a change of policy.
const POLICY_CHANGE: &str = "countersign.policy-change";

/// The operation that puts a bundle in force, as permits and gates name it.
const ACTIVATE: &str = "policy.activate";

/// Whether an instance of this workflow is the gateway's to act in.
pub(crate) fn is_reserved(workflow: &Name) -> bool {
    workflow.as_str().starts_with(RESERVED)
}

/// Changes under way, by instance.
#[derive(Default)]
pub(crate) struct Changes(Mutex<BTreeMap<InstanceId, Arc<UnderWay>>>);

/// One change under way.
pub(crate) struct UnderWay {
    row: Mutex<ChangeRow>,
    /// One at a time takes it further.
    turn: tokio::sync::Mutex<()>,
}

impl UnderWay {
    fn row(&self) -> ChangeRow {
        guard(&self.row).clone()
    }

    fn set(&self, row: ChangeRow) {
        *guard(&self.row) = row;
    }
}

impl Changes {
    fn insert(&self, row: &ChangeRow) {
        let under_way = UnderWay { row: Mutex::new(row.clone()), turn: tokio::sync::Mutex::default() };
        guard(&self.0).insert(row.instance, Arc::new(under_way));
    }

    fn get(&self, id: InstanceId) -> Option<Arc<UnderWay>> {
        guard(&self.0).get(&id).cloned()
    }

    fn remove(&self, id: InstanceId) {
        guard(&self.0).remove(&id);
    }

    fn all(&self) -> Vec<(InstanceId, Arc<UnderWay>)> {
        guard(&self.0).iter().map(|(id, change)| (*id, Arc::clone(change))).collect()
    }
}

fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
fn workflow_version() -> Digest {
    Digest(Sha256::new().chain_update("countersign/workflow/policy-change/1\0").finalize().into())
}

fn name(text: &str) -> Result<Name, EngineError> {
    Name::new(text).map_err(EngineError::damaged)
}

/// A bundle, as policy names it.
fn bundle_entity(org: OrgId, digest: &Digest) -> Result<EntityRef, EngineError> {
    Ok(EntityRef::new(org, EntityKind::PolicyBundle, name(&digest.to_string())?))
}
