//! Workflows: versioned templates. A version is immutable once it is registered.

use std::sync::Arc;

use serde_json::json;
use sha2::{Digest as _, Sha256};

use countersign_gateway_model::{Digest, Name, Principal};
use countersign_ledger_entry::body::Workflow;
use countersign_ledger_entry::{Receipt, Row};
use countersign_policy_decide::{EntityKind, EntityRef, Operation, Record, WorkflowFacts};

use crate::Engine;
use crate::api::{WorkflowRecord, WorkflowSpec};
use crate::error::EngineError;
use crate::org::Org;
use crate::own::OwnEntry;

/// Table of registered workflows: id to the newest version.
pub(crate) const WORKFLOWS: &str = "workflows";

impl WorkflowSpec {
    /// Digest of the canonical form.
    pub(crate) fn digest(&self) -> Result<Digest, EngineError> {
        let bytes = serde_json::to_vec(self).map_err(EngineError::damaged)?;
        Ok(Digest(Sha256::new().chain_update("countersign/workflow/v1\0").chain_update(bytes).finalize().into()))
    }

    fn check(&self) -> Result<(), EngineError> {
        if self.materiality > 4 {
            return Err(EngineError::invalid("materiality", "give 0 (none) to 4 (critical)"));
        }
        if self.version.is_empty() || self.version.len() > 64 || !self.version.chars().all(|c| c.is_ascii_graphic()) {
            return Err(EngineError::invalid("version", "give 1 to 64 printable ASCII characters"));
        }
        if self.title.chars().count() > 200 {
            return Err(EngineError::invalid("title", "give at most 200 characters"));
        }
        Ok(())
    }

    pub(crate) fn record(&self, org: &Org, now: countersign_gateway_model::Timestamp) -> Record {
        let facts = WorkflowFacts {
            team: self.team.clone(),
            materiality: self.materiality,
            version: self.version.clone(),
            tools: self.tools.clone(),
            runners: None,
            open: true,
        };
        Record::workflow(org.id, self.id.clone(), facts, now)
    }
}

impl Engine {
    /// Registers a workflow version.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] for a version that is registered with another content.
    pub async fn register_workflow(
        &self,
        who: Arc<Principal>,
        spec: WorkflowSpec,
    ) -> Result<(WorkflowRecord, Receipt), EngineError> {
        let this = self.clone();
        Self::whole(async move {
            spec.check()?;
            if crate::changes::names::is_reserved(&spec.id) {
                return Err(EngineError::invalid("id", "names that begin with `countersign.` are the gateway's own"));
            }
            let org = this.org(who.org)?;
            let digest = spec.digest()?;
            let before = this.stored_workflow(&org, &spec.id).await?;
            if let Some(before) = &before
                && before.spec.version == spec.version
                && before.digest != digest
            {
                return Err(EngineError::invalid(
                    "version",
                    "this version is registered with another content: raise it",
                ));
            }
            let details = json!({ "operation": "registerWorkflow", "workflow": spec.id, "digest": digest });
            let resource = EntityRef::organization(org.id);
            let allowed = this.authorize(&who, Operation::RegisterWorkflow, resource, &details).await?;
            let mut entry = OwnEntry::new(Workflow { workflow: spec.id.clone(), version: digest });
            entry.rows.push(Row {
                table: WORKFLOWS,
                key: spec.id.as_str().as_bytes().to_vec(),
                columns: Some(serde_json::to_vec(&spec).map_err(EngineError::damaged)?),
            });
            entry.description = Some(json!(spec));
            if let Some(team) = &spec.team {
                this.ensure_team(&org, team)?;
            }
            let record = spec.record(&org, this.now());
            let receipt = this.commit_own(&who, allowed, entry).await?;
            org.entities.put(record).map_err(EngineError::damaged)?;
            if before.is_some_and(|before| before.spec.team != spec.team) {
                // A freeze of the team is a freeze of what it has from now on.
                this.tell_team(&org, &spec.id, spec.team.as_ref()).await;
                this.cancel_frozen(&org).await;
            }
            Ok((WorkflowRecord { spec, digest }, receipt))
        })
        .await
    }

    /// A team that policy can name, where nobody described it in more detail.
    pub(crate) fn ensure_team(&self, org: &Org, team: &Name) -> Result<(), EngineError> {
        let entity = EntityRef::new(org.id, EntityKind::Team, team.clone());
        if org.entities.get(&entity).is_none() {
            let record = Record::team(org.id, team.clone(), Vec::new(), self.now());
            org.entities.put(record).map_err(EngineError::damaged)?;
        }
        Ok(())
    }

    /// The newest version of a workflow.
    ///
    /// # Errors
    /// [`EngineError::NotFound`].
    pub async fn workflow(&self, who: &Principal, id: &Name) -> Result<WorkflowRecord, EngineError> {
        let org = self.org(who.org)?;
        let entity = EntityRef::new(org.id, EntityKind::Workflow, id.clone());
        self.may_read(&org, who, Operation::ReadWorkflow, entity, "workflow")?;
        self.stored_workflow(&org, id).await?.ok_or(EngineError::NotFound("workflow"))
    }

    /// All workflows, newest versions, by id.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] for those who may not list them.
    pub async fn workflows(&self, who: &Principal) -> Result<Vec<WorkflowRecord>, EngineError> {
        let org = self.org(who.org)?;
        self.may_read(&org, who, Operation::ListWorkflows, EntityRef::organization(org.id), "workflow list")?;
        self.all_workflows(&org).await
    }

    pub(crate) async fn all_workflows(&self, org: &Org) -> Result<Vec<WorkflowRecord>, EngineError> {
        let named: Vec<Name> = org.own_fold().workflows.keys().cloned().collect();
        let mut found = Vec::with_capacity(named.len());
        for id in named {
            found.extend(self.stored_workflow(org, &id).await?);
        }
        Ok(found)
    }

    /// The newest version of a workflow: the one that the log names, or none.
    ///
    /// # Errors
    /// [`EngineError::Damaged`] where the row has another content than the log names.
    pub(crate) async fn stored_workflow(&self, org: &Org, id: &Name) -> Result<Option<WorkflowRecord>, EngineError> {
        if let Some(found) = as_named(org, id).await? {
            return Ok(found);
        }
        // A version may be on its way into the log at this moment: its row is there a little before memory follows.
        let _turn = org.own.lock().await;
        let found = as_named(org, id).await?;
        found.ok_or_else(|| {
            EngineError::damaged(format!("the row of workflow `{id}` is not what the log says was registered"))
        })
    }
}

/// The row of a workflow where it is what the log names; none where it is not.
async fn as_named(org: &Org, id: &Name) -> Result<Option<Option<WorkflowRecord>>, EngineError> {
    let row = org.log.view(WORKFLOWS, id.as_str().as_bytes()).await.map_err(EngineError::ledger)?;
    let found = row.map(|columns| read_workflow(&columns)).transpose()?;
    let same = found.as_ref().map(|found| found.digest) == org.own_fold().workflows.get(id).copied();
    Ok(same.then_some(found))
}

fn read_workflow(columns: &[u8]) -> Result<WorkflowRecord, EngineError> {
    let spec: WorkflowSpec = serde_json::from_slice(columns).map_err(EngineError::damaged)?;
    let digest = spec.digest()?;
    Ok(WorkflowRecord { spec, digest })
}
