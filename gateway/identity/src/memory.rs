//! Accounts in memory: for tests and for tools that need none to last. The program keeps them in its vault.
//!
//! Read next: `accounts`.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use countersign_gateway_model::OrgId;

use crate::{Accounts, RecordKey, RecordKind, StoreError, Stored, Write};

/// Keeps rows until it is dropped, with the same promises as a durable store but durability.
#[derive(Debug, Default)]
pub struct MemoryAccounts {
    rows: Mutex<BTreeMap<RecordKey, Stored>>,
}

impl MemoryAccounts {
    /// No rows.
    pub fn new() -> Self {
        Self::default()
    }

    fn rows(&self) -> MutexGuard<'_, BTreeMap<RecordKey, Stored>> {
        // A batch is checked before its first row is written, so a poisoned map is a whole one.
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Accounts for MemoryAccounts {
    async fn get(&self, key: &RecordKey) -> Result<Option<Stored>, StoreError> {
        Ok(self.rows().get(key).cloned())
    }

    async fn find(&self, kind: RecordKind, id: &str) -> Result<Option<(RecordKey, Stored)>, StoreError> {
        let rows = self.rows();
        let found = rows.iter().find(|(key, _)| key.kind == kind && key.id == id);
        Ok(found.map(|(key, stored)| (key.clone(), stored.clone())))
    }

    async fn list(
        &self,
        kind: RecordKind,
        org: Option<OrgId>,
        after: Option<&RecordKey>,
        limit: usize,
    ) -> Result<Vec<(RecordKey, Stored)>, StoreError> {
        let rows = self.rows();
        let wanted = rows
            .iter()
            .filter(|(key, _)| key.kind == kind && org.is_none_or(|org| key.org == org))
            .filter(|(key, _)| after.is_none_or(|after| *key > after));
        Ok(wanted.take(limit).map(|(key, stored)| (key.clone(), stored.clone())).collect())
    }

    async fn put(&self, writes: &[Write]) -> Result<bool, StoreError> {
        let mut rows = self.rows();
        if writes.iter().any(|write| rows.get(&write.key).map(|stored| stored.version) != write.expected) {
            return Ok(false);
        }
        for write in writes {
            match &write.value {
                Some(value) => {
                    let version = write.expected.unwrap_or(0).saturating_add(1);
                    rows.insert(write.key.clone(), Stored { version, value: value.clone() });
                }
                None => {
                    rows.remove(&write.key);
                }
            }
        }
        Ok(true)
    }
}
