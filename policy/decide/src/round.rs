//! What one evaluation of all candidates gave, and the grounds that are the gateway's own. Internal, but for the grounds.
//!
//! Absent: the answer made of it (`decide`, `shadow`).

use countersign_gateway_model::Name;

use crate::prepared::Prepared;

/// Grounds that are the gateway's own, as they stand among determining ids.
pub mod ground {
    /// The tool is not in the catalogue.
    pub const UNKNOWN_TOOL: &str = "gateway:unknown-tool";
    /// An entity that the question needs is not known.
    pub const MISSING_ENTITY: &str = "gateway:missing-entity";
    /// Something of another organization is named.
    pub const FOREIGN: &str = "gateway:foreign-organization";
    /// The question does not fit the schema.
    pub const INVALID: &str = "gateway:invalid-question";
    /// What is known is too old for a person to decide on.
    pub const STALE: &str = "gateway:stale-entity";
    /// No policy permits it.
    pub const DEFAULT: &str = "gateway:default-deny";
    /// A transform is asked for although some were applied: that is done once.
    pub const TRANSFORM_AGAIN: &str = "gateway:transform-again";
    /// What a transform leaves of the input does not fit the tool's schema.
    pub const TRANSFORM_FAILED: &str = "gateway:transform-failed";
    /// A mask could neither replace nor drop a field that must not pass raw.
    pub const MASK_FAILED: &str = "gateway:mask-failed";
    /// A gate whose rule does not lift it.
    pub const STUCK_GATE: &str = "gateway:stuck-gate";
}

/// What one evaluation of all candidates gave.
#[derive(Default)]
pub(crate) struct Round<'s> {
    pub(crate) permits: Vec<&'s Prepared>,
    pub(crate) hard: Vec<&'s Prepared>,
    pub(crate) transforms: Vec<(&'s Prepared, &'s Name)>,
    pub(crate) gates: Vec<(&'s Prepared, &'s Name)>,
    pub(crate) broken: Vec<(&'s Prepared, String)>,
    pub(crate) broken_permits: Vec<(&'s Prepared, String)>,
}

impl<'s> Round<'s> {
    /// The policy's condition is true.
    pub(crate) fn holds(&mut self, prepared: &'s Prepared) {
        match (prepared.forbids, &prepared.gate, &prepared.transform) {
            (false, ..) => self.permits.push(prepared),
            (true, Some(rule), _) => self.gates.push((prepared, rule)),
            (true, None, Some(transform)) => self.transforms.push((prepared, transform)),
            (true, None, None) => self.hard.push(prepared),
        }
    }

    /// Every policy that holds or errs.
    pub(crate) fn all(&self) -> impl Iterator<Item = &'s Prepared> {
        let named = self.transforms.iter().chain(&self.gates).map(|(p, _)| *p);
        let errors = self.broken.iter().chain(&self.broken_permits).map(|(p, _)| *p);
        self.permits.iter().chain(&self.hard).copied().chain(named).chain(errors)
    }

    /// What is said must not depend on the order in which policies were looked up.
    pub(crate) fn in_order(mut self) -> Self {
        self.broken.sort_by(|(a, _), (b, _)| a.id.cmp(&b.id));
        self.broken_permits.sort_by(|(a, _), (b, _)| a.id.cmp(&b.id));
        self
    }
}

pub(crate) fn sorted<'p>(policies: impl Iterator<Item = &'p Prepared>) -> Vec<&'p Prepared> {
    let mut all: Vec<_> = policies.collect();
    all.sort_by(|a, b| a.id.cmp(&b.id));
    all.dedup_by(|a, b| a.id == b.id);
    all
}
