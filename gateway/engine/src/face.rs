//! What rooms above name of rooms below, through this one; reads that need no stream; verification of bytes alone.

use std::str::FromStr as _;

use countersign_gateway_model::{Digest, Name, Principal};
use countersign_ledger_entry::key::VKey;

pub use countersign_gateway_flow::Illegal;
pub use countersign_ledger_entry::body::{Assertion, DecisionKind, Effect, GateSubject, OnDeny};
pub use countersign_ledger_entry::{EntryError, Receipt};
pub use countersign_ledger_log::AppendError;
pub use countersign_ledger_verify::Report;
pub use countersign_policy_decide::{EntityKind, EntityRef, Operation};

use crate::Engine;
use crate::error::EngineError;

/// A tool of the catalogue as people and agents read it.
#[derive(Clone, Debug)]
pub struct ToolRecord {
    /// `<server>.<tool>`.
    pub name: Name,
    /// What it does, in its registrar's words.
    pub description: String,
    /// JSON Schema of its input.
    pub input: serde_json::Value,
    /// JSON Schema of its output, if it has one.
    pub output: Option<serde_json::Value>,
    /// 0 reads only … 4 cannot be undone.
    pub risk: u8,
    /// The most confidential data it touches.
    pub data_class: &'static str,
    /// Its target has no revision that a permit could be bound to.
    pub mutable_target: bool,
    /// The runner's kind, where a runner carries it out; none: the agent does.
    pub runner: Option<&'static str>,
    /// Digest of its definition.
    pub version: Digest,
}

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

    /// The tools of the catalogue in force, by name.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] for those who may not list them.
    pub fn tools(&self, who: &Principal) -> Result<Vec<ToolRecord>, EngineError> {
        self.may(who, Operation::ListTools, EntityRef::organization(who.org), "tool list")?;
        let snapshot = self.snapshot(who.org);
        let record = |compiled: &countersign_policy_decide::catalogue::CompiledTool| ToolRecord {
            name: compiled.tool.name.clone(),
            description: compiled.tool.description.clone(),
            input: compiled.tool.input.clone(),
            output: compiled.tool.output.clone(),
            risk: compiled.tool.risk,
            data_class: compiled.tool.data_class.as_str(),
            mutable_target: compiled.tool.mutable_target,
            runner: compiled.tool.runner.as_ref().map(|runner| runner.kind.as_str()),
            version: compiled.version,
        };
        let mut tools: Vec<ToolRecord> = snapshot.tools().map(|compiled| record(compiled)).collect();
        tools.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(tools)
    }
}

/// Checks an evidence pack under a root key in its text form. Pure: what is wrong with the pack is in the report.
///
/// # Errors
/// [`EntryError`] if `root` is no verifier key.
pub fn verify_evidence(root: &str, pack: &[u8]) -> Result<Report, EntryError> {
    Ok(countersign_ledger_verify::verify(&VKey::from_str(root)?, pack, None))
}
