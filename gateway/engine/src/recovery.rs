//! A recovery: a shipped bundle put in force with the root threshold, while the gateway is down; and the review it owes.
//!
//! Who may is not asked of policy, because policy is what is broken: whoever holds the data folder and the root threshold
//! may, and the ledger says that it was done. Until a person closes the review, every pack of the log says so. Absent: which
//! bundle, and its signatures (the program, `policy/store`).

use std::sync::Arc;

use serde_json::json;

use countersign_gateway_model::{Digest, OrgId, Principal, PrincipalKind, Pseudonym};
use countersign_ledger_entry::body::{Body, Recovery};
use countersign_ledger_entry::{Draft, Receipt};
use countersign_policy_decide::{EntityRef, Operation};

use crate::Engine;
use crate::api::Idempotency;
use crate::beside::Beside;
use crate::error::EngineError;
use crate::own::OwnEntry;

impl Engine {
    /// Commits a recovery as SYSTEM, with what it puts in force, in one append: none of it is there without the rest.
    ///
    /// # Errors
    /// [`EngineError::Append`]: then it did not happen and must not be carried out.
    pub async fn record_recovery(
        &self,
        org: OrgId,
        bundle: Digest,
        in_force: Vec<OwnEntry>,
    ) -> Result<Receipt, EngineError> {
        let org = self.org(org)?;
        let policy = self.snapshot(org.id).digests();
        let mut beside = Beside { urgent: true, ..Beside::default() };
        let mut drafts = vec![Draft::new(Recovery { bundle, reviewed: false }, Pseudonym::SYSTEM)];
        for entry in in_force {
            beside.rows.extend(entry.rows);
            beside.blobs.extend(entry.blobs);
            drafts.push(Draft::new(entry.body, Pseudonym::SYSTEM));
        }
        let appended = self.append_own(&org, drafts, beside, (self.now(), policy)).await?;
        let first = appended.entries.into_iter().next();
        first.map(|entry| entry.receipt).ok_or_else(|| EngineError::damaged("an append without entries"))
    }

    /// The bundles of recoveries whose reviews are open, the oldest first.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] for an unknown organization.
    pub fn open_recoveries(&self, org: OrgId) -> Result<Vec<Digest>, EngineError> {
        Ok(self.org(org)?.own_fold().recoveries.clone())
    }

    /// Closes the review of the oldest recovery that is open: a person has looked at what happened, and says so under their
    /// own name.
    ///
    /// # Errors
    /// [`EngineError::Refused`] by policy; [`EngineError::NotFound`] where none is open, and for those who are no persons.
    pub async fn close_recovery(
        &self,
        who: Arc<Principal>,
        key: Option<Idempotency>,
    ) -> Result<(Digest, Receipt), EngineError> {
        let this = self.clone();
        Self::whole(async move {
            let org = this.org(who.org)?;
            let _one_at_a_time = org.in_force.lock().await;
            if let Some((body, receipt)) = this.own_before(&org, &who, key.as_ref()).await? {
                let Body::Recovery(Recovery { bundle, .. }) = body else { return Err(EngineError::IdempotencyReused) };
                return Ok((bundle, receipt));
            }
            let open = org.own_fold().recoveries.first().copied();
            let details = json!({ "operation": "recover", "reviewed": open });
            let allowed = this.authorize(&who, Operation::Recover, EntityRef::organization(org.id), &details).await?;
            let person = who.kind == PrincipalKind::Person && who.on_behalf_of.is_empty();
            let bundle = open.filter(|_| person).ok_or(EngineError::NotFound("open recovery"))?;
            let entry = OwnEntry::new(Body::Recovery(Recovery { bundle, reviewed: true }));
            let receipt = this.commit_own_once(&who, allowed, entry, key.as_ref()).await?;
            Ok((bundle, receipt))
        })
        .await
    }
}
