//! Policy: a question, the entities it needs and a policy snapshot in; a verdict out. Pure, total, synchronous.
//!
//! Way in: [`PolicySnapshot::build`] once per activation; [`EntityStore::put`] when facts change; then, per question,
//! [`EntityStore::slices`] and [`decide_chain`]. [`replay`] computes a stored verdict again from its bytes.
//! Absent: files, signatures and activation (`policy/bundle`, `policy/store`), votes and states (`gateway/flow`),
//! clocks, IO. Read next: `snapshot`, `store`, `decide`.

mod admitted;
mod asking;
mod chain;
mod clauses;
mod context;
mod decide;
mod entity;
mod explain;
mod gate;
mod index;
mod literal;
mod loading;
mod locate;
mod operation;
mod parts;
mod prepared;
mod question;
mod reference;
mod round;
mod shadow;
mod snapshot;
mod standing;
mod store;
mod value;

pub mod alike;
pub mod case;
pub mod catalogue;
pub mod counters;
pub mod data;
pub mod depth;
pub mod detectors;
pub mod input;
pub mod json;
pub mod masks;
pub mod mcp;
pub mod registration;
pub mod rules;
pub mod schema;
pub mod shape;
pub mod terms;

pub use chain::{Decided, decide_chain};
pub use decide::{Answer, Reason, ReplayError, combine, combine_would_be, decide, decide_by_full_walk, replay};
pub use entity::{
    AgentFacts, Attr, BundleFacts, EntityError, EntityVersion, GateFacts, InstanceFacts, PersonFacts, Record,
    ServiceFacts, WorkflowFacts,
};
pub use explain::{Clause, Explained, Explanation, Outcome, explain};
pub use gate::annotation;
pub use literal::{EntityLiteral, NOBODY, entity_literals};
pub use loading::LEVEL;
pub use locate::{Pointer, ToolPattern};
pub use operation::Operation;
pub use parts::{BuildError, Place, PolicyParts};
pub use prepared::Prepared;
pub use question::{Question, QuestionError, scope_name};
pub use reference::{EntityKind, EntityRef, ReferenceError};
pub use round::ground;
pub use shadow::WouldBe;
pub use snapshot::{KERNEL, PolicySnapshot, RECOVERY, kernel_digest};
pub use store::{EntityStore, Slice, SliceProblem};

/// Plain SHA-256.
pub(crate) fn sha256(bytes: &[u8]) -> countersign_gateway_model::Digest {
    use sha2::Digest as _;
    countersign_gateway_model::Digest(sha2::Sha256::digest(bytes).into())
}
