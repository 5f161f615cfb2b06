//! Changes as they are stored, read back: those that are not settled at a start, one, and what is in force since when.

use countersign_gateway_model::{InstanceId, PrincipalKind};
use countersign_policy_decide::Record;

use crate::Engine;
use crate::changes::names::Subject;
use crate::changes::row::{ACTIVATIONS, CHANGES, ChangeRow, IN_FORCE, InForce};
use crate::error::EngineError;
use crate::org::Org;

impl Engine {
    /// Changes that are not settled, into memory: what is left to do is done by the timers' next turn.
    pub(crate) async fn load_changes(&self, org: &Org) -> Result<(), EngineError> {
        let mut after = None;
        loop {
            let page = org.log.scan(CHANGES, b"", after.as_deref(), 256, false).await.map_err(EngineError::ledger)?;
            let whole = page.len() == 256;
            for row in page {
                let change = ChangeRow::read(&row.columns)?;
                after = Some(row.key);
                if !change.settled {
                    org.changes.insert(&change);
                }
            }
            if !whole {
                return Ok(());
            }
        }
    }

    /// A change of policy.
    pub(super) async fn policy_row(&self, org: &Org, id: InstanceId) -> Result<ChangeRow, EngineError> {
        let row = self.change_row(org, id).await?;
        if row.subject == Subject::Bundle { Ok(row) } else { Err(EngineError::NotFound("policy proposal")) }
    }

    pub(super) async fn change_row(&self, org: &Org, id: InstanceId) -> Result<ChangeRow, EngineError> {
        let columns = org.log.view(CHANGES, id.as_bytes()).await.map_err(EngineError::ledger)?;
        ChangeRow::read(&columns.ok_or(EngineError::NotFound("policy proposal"))?)
    }

    /// When the bundle in force came into force, where that is on record.
    pub(super) async fn in_force_since(&self, org: &Org) -> Result<Option<InForce>, EngineError> {
        let columns = org.log.view(ACTIVATIONS, IN_FORCE).await.map_err(EngineError::ledger)?;
        columns.map(|columns| serde_json::from_slice(&columns).map_err(EngineError::damaged)).transpose()
    }

    /// What policy may know of a candidate now.
    pub(super) fn candidate_record(&self, org: &Org, row: &ChangeRow) -> Result<Record, EngineError> {
        let author = org.known(row.author).filter(|known| known.kind == PrincipalKind::Person).map(|known| known.id);
        row.record(org.id, author, self.now())
    }
}
