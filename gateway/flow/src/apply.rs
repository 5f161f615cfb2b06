//! One append on its way to the log: the fold advanced and the projection rows computed, or nothing changed.

use countersign_gateway_model::Digest;
use countersign_ledger_entry::{Row, SignedEntry};

use crate::error::EvolveError;
use crate::fold::Instance;
use crate::rows;

impl Instance {
    /// Applies one whole append in place and gives its projection rows. On an error nothing has changed. Until the append
    /// is durable, [`Instance::rollback`] takes it back.
    ///
    /// # Errors
    /// As [`Instance::evolve`], or if `entries` are not one whole append.
    pub fn apply(this: &mut Option<Self>, entries: &[SignedEntry]) -> Result<Vec<Row>, EvolveError> {
        let before = this.as_ref().map(Self::sequence);
        let mut rows = Vec::new();
        let applied = entries.iter().try_for_each(|entry| {
            let hash = Digest(entry.hash.0);
            match this {
                None => *this = Some(Self::begin(&entry.header, hash)?),
                Some(instance) => instance.advance(&entry.header, hash)?,
            }
            if let Some(instance) = this.as_ref() {
                rows::project(instance, &entry.header, &mut rows);
            }
            Ok(())
        });
        let whole = this.as_ref().is_none_or(Self::is_whole);
        let applied = applied.and_then(|()| {
            let sequence = entries.last().map_or(0, |e| e.header.sequence);
            if whole && !entries.is_empty() {
                Ok(())
            } else {
                Err(EvolveError::Append { sequence, why: "entries are missing" })
            }
        });
        match applied {
            Ok(()) => Ok(rows::latest(rows)),
            Err(error) => {
                // Only what was begun here is taken back, never the append before.
                if this.as_ref().map(Self::sequence) != before {
                    Self::rollback(this);
                }
                Err(error)
            }
        }
    }
}
