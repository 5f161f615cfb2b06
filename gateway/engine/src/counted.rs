//! The policy in force with its counters counted, and what they stand at, for people.
//!
//! Absent: the book (`counters`), which knows no organization. Read next: `counters`.

use countersign_gateway_model::Principal;

use crate::counters::CounterRecord;
use crate::error::EngineError;
use crate::org::Org;
use crate::{Engine, Snapshot};

impl Engine {
    /// The policy in force. Its counters are counted from here on: a question that misses one is denied.
    pub(crate) async fn counted_snapshot(&self, org: &Org) -> Result<Snapshot, EngineError> {
        let snapshot = self.snapshot(org.id);
        org.counting.count_under(snapshot.counters()).await?;
        Ok(snapshot)
    }

    /// The counters of the policy in force, as they stand now.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] for agents, and for those who may not query policy.
    pub async fn counters(&self, who: &Principal) -> Result<Vec<CounterRecord>, EngineError> {
        let org = self.org(who.org)?;
        let snapshot = self.counted_snapshot(&org).await?;
        self.may_query(&org, who)?;
        Ok(org.counting.records(&snapshot, self.now()))
    }
}
