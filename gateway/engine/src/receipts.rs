//! Proofs that an entry is in the log, for answers that are given after its append.
//!
//! Absent: who may read them; `audit` asks policy first.

use std::sync::Arc;

use countersign_gateway_model::{ActionId, InstanceId};
use countersign_ledger_entry::body::Body;
use countersign_ledger_entry::{Entry, Receipt, VerifiedCheckpoint};
use countersign_ledger_log::StoredEntry;
use countersign_ledger_merkle::{Hash, leaf_hash};

use crate::Engine;
use crate::error::EngineError;
use crate::org::{Org, instance_stream};

impl Engine {
    pub(crate) async fn receipt_at(&self, org: &Org, index: u64) -> Result<Receipt, EngineError> {
        let stored = stored_entry(org, index).await?;
        let checkpoint = org.log.checkpoint();
        let proof = org.log.proof(index, checkpoint.checkpoint().size).await.map_err(EngineError::ledger)?;
        Ok(self.receipt_from(index, &stored.leaf, proof, checkpoint))
    }

    pub(crate) fn receipt_from(
        &self,
        index: u64,
        leaf: &[u8],
        proof: Vec<Hash>,
        checkpoint: Arc<VerifiedCheckpoint>,
    ) -> Receipt {
        Receipt { index, leaf_hash: leaf_hash(leaf), proof, checkpoint }
    }

    /// Proof of an entry of an instance's stream.
    pub(crate) async fn receipt_of_last(
        &self,
        org: &Org,
        instance: InstanceId,
        sequence: u64,
    ) -> Result<Receipt, EngineError> {
        let stored =
            org.log.stream_entries(instance_stream(instance), sequence, 1).await.map_err(EngineError::ledger)?;
        let index = stored.first().map(|s| s.index).ok_or(EngineError::NotFound("entry"))?;
        self.receipt_at(org, index).await
    }

    /// Proof of the refusal of an action that belongs to no instance.
    pub(crate) async fn receipt_of_refusal(&self, org: &Org, action: ActionId) -> Result<Receipt, EngineError> {
        const PAGE: u64 = 256;
        let stream = org.own_stream();
        let mut before = org.log.head(stream).await?.map_or(0, |head| head.next_sequence);
        while before > 0 {
            let from = before.saturating_sub(PAGE);
            let count = usize::try_from(before - from).unwrap_or(usize::MAX);
            let page = org.log.stream_entries(stream, from, count).await.map_err(EngineError::ledger)?;
            for stored in page {
                if let Body::Refusal(refusal) = &Entry::parse(&stored.leaf)?.header.body
                    && refusal.action == Some(action)
                {
                    return self.receipt_at(org, stored.index).await;
                }
            }
            before = from;
        }
        Err(EngineError::NotFound("entry"))
    }
}

pub(crate) async fn stored_entry(org: &Org, index: u64) -> Result<StoredEntry, EngineError> {
    let mut found = org.log.entries(index..index.saturating_add(1)).await.map_err(EngineError::ledger)?;
    found.pop().ok_or(EngineError::NotFound("entry"))
}
