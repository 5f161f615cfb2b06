//! Which stored nodes a proof needs, and how they are put together.
//!
//! A plan touches no storage: a caller whose reads are asynchronous or batched takes [`Plan::nodes`], reads them in any
//! way, and hands the hashes to [`Plan::assemble`]. Read `reader.rs` for the synchronous short cut.

use std::ops::Range;

use crate::node::{Sibling, Siblings, right_edge};
use crate::range::fold_right;
use crate::{CompactRange, Hash, MAX_SIZE, NodeId, ProofError};

/// The nodes of an inclusion or consistency proof in the order of the proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    nodes: Vec<NodeId>,
    /// The nodes that fold into one hash: the subtree that the end of the tree cuts short. A proof has at most one.
    ragged: Range<usize>,
}

impl Plan {
    fn new() -> Self {
        Self { nodes: Vec::new(), ragged: 0..0 }
    }

    fn push_siblings(&mut self, level: u8, index: u64, size: u64) {
        for sibling in Siblings::new(level, index, size) {
            match sibling {
                Sibling::Complete(id) => self.nodes.push(id),
                Sibling::Ragged(level) => self.push_ragged(size, level),
            }
        }
    }

    fn push_ragged(&mut self, size: u64, level: u8) {
        let start = self.nodes.len();
        self.nodes.extend(right_edge(size, level));
        self.ragged = start..self.nodes.len();
    }

    /// The nodes to read. Each is a complete subtree of the tree the plan was made for; at most 126 of them.
    pub fn nodes(&self) -> &[NodeId] {
        &self.nodes
    }

    /// Number of hashes of the finished proof.
    pub fn proof_length(&self) -> usize {
        self.nodes.len() - self.ragged.len() + usize::from(!self.ragged.is_empty())
    }

    /// The proof, from the hashes of [`nodes`](Self::nodes) in the same order.
    pub fn assemble(&self, hashes: &[Hash]) -> Result<Vec<Hash>, ProofError> {
        let wrong = ProofError::WrongLength { expected: self.nodes.len(), actual: hashes.len() };
        if hashes.len() != self.nodes.len() {
            return Err(wrong);
        }
        let (Some(before), Some(ragged), Some(after)) =
            (hashes.get(..self.ragged.start), hashes.get(self.ragged.clone()), hashes.get(self.ragged.end..))
        else {
            return Err(wrong);
        };
        let mut proof = Vec::with_capacity(before.len() + 1 + after.len());
        proof.extend_from_slice(before);
        proof.extend(fold_right(ragged.iter().copied()));
        proof.extend_from_slice(after);
        Ok(proof)
    }
}

/// What to read for the inclusion proof of leaf `index` in the tree of `size` leaves (RFC 9162 §2.1.3.1).
pub fn inclusion_plan(index: u64, size: u64) -> Result<Plan, ProofError> {
    check_size(size)?;
    if index >= size {
        return Err(ProofError::IndexBeyondSize { index, size });
    }
    let mut plan = Plan::new();
    plan.push_siblings(0, index, size);
    Ok(plan)
}

/// What to read for the consistency proof between the trees of `old` and `new` leaves (RFC 9162 §2.1.4.1).
/// Nothing, when `old` is 0 or equals `new`.
pub fn consistency_plan(old: u64, new: u64) -> Result<Plan, ProofError> {
    check_size(new)?;
    if old > new {
        return Err(ProofError::SizesReversed { old, new });
    }
    let mut plan = Plan::new();
    if old == 0 || old == new {
        return Ok(plan);
    }
    let level = old.trailing_zeros().try_into().unwrap_or(u8::MAX);
    let index = (old >> level) - 1;
    if !old.is_power_of_two() {
        plan.nodes.push(NodeId::new(level, index));
    }
    plan.push_siblings(level, index, new);
    Ok(plan)
}

/// What a contiguous range of leaves needs besides the leaves to reach the root: the subtrees on either side of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RangeProof {
    /// The complete subtrees of the leaves before the range, left to right: one for each bit set in its start.
    pub left: Vec<Hash>,
    /// The subtrees after the range, left to right; the last may be cut short by the end of the tree.
    pub right: Vec<Hash>,
}

/// The nodes of a [`RangeProof`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangePlan {
    plan: Plan,
    left: usize,
}

impl RangePlan {
    /// The nodes to read, see [`Plan::nodes`].
    pub fn nodes(&self) -> &[NodeId] {
        self.plan.nodes()
    }

    /// The proof, from the hashes of [`nodes`](Self::nodes) in the same order.
    pub fn assemble(&self, hashes: &[Hash]) -> Result<RangeProof, ProofError> {
        let mut left = self.plan.assemble(hashes)?;
        let right = left.split_off(self.left.min(left.len()));
        Ok(RangeProof { left, right })
    }
}

/// What to read to prove leaves `start..end` of the tree of `size` leaves.
pub fn range_plan(start: u64, end: u64, size: u64) -> Result<RangePlan, ProofError> {
    check_size(size)?;
    if start >= end || end > size {
        return Err(ProofError::RangeInvalid { start, end, size });
    }
    let mut plan = Plan::new();
    plan.nodes.extend(CompactRange::node_ids(start));
    let left = plan.nodes.len();
    let mut at = end;
    while at < size {
        let level = at.trailing_zeros().try_into().unwrap_or(u8::MAX);
        if (1 << level) <= size - at {
            plan.nodes.push(NodeId::new(level, at >> level));
            at += 1 << level;
        } else {
            plan.push_ragged(size, level);
            at = size;
        }
    }
    Ok(RangePlan { plan, left })
}

pub(crate) fn check_size(size: u64) -> Result<(), ProofError> {
    if size > MAX_SIZE { Err(ProofError::SizeTooLarge { size }) } else { Ok(()) }
}
