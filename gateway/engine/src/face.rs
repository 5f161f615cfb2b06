//! What rooms above name of rooms below, through this one; reads that need no stream; verification of bytes alone.

use std::str::FromStr as _;

use countersign_gateway_model::Principal;
use countersign_ledger_entry::key::VKey;

pub use countersign_gateway_flow::{Illegal, WhyNot};
pub use countersign_ledger_entry::assertion::EDDSA;
pub use countersign_ledger_entry::body::{Assertion, DecisionKind, Effect, Finding, GateSubject, OnDeny};
pub use countersign_ledger_entry::payload::Salt;
pub use countersign_ledger_entry::{Bytes32, Bytes64, EntryError, Receipt};
pub use countersign_ledger_log::AppendError;
pub use countersign_ledger_verify::{Code as EvidenceCode, Report};
pub use countersign_policy_decide::{EntityKind, EntityRef, Operation};

use crate::Engine;
use crate::error::EngineError;

impl Engine {
    /// Asks policy whether `who` may read what is kept outside this engine: accounts, health. Nothing is committed.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], naming `what`, for those who may not.
    pub fn may(
        &self,
        who: &Principal,
        operation: Operation,
        resource: EntityRef,
        what: &'static str,
    ) -> Result<(), EngineError> {
        let org = self.org(who.org)?;
        self.may_read(&org, who, operation, resource, what)
    }
}

/// Checks an evidence pack under a root key in its text form. Pure: what is wrong with the pack is in the report.
///
/// # Errors
/// [`EntryError`] if `root` is no verifier key.
pub fn verify_evidence(root: &str, pack: &[u8]) -> Result<Report, EntryError> {
    Ok(countersign_ledger_verify::verify(&VKey::from_str(root)?, pack, None))
}
