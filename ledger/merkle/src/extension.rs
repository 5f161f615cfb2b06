//! Appends a batch of leaves and proves each of them, from memory alone.
//!
//! This is the committer's hot path: for `m` new leaves it hashes about `m` nodes once, and each proof after that only
//! copies hashes. Proofs of leaves older than the batch need a store: read `reader.rs`.

use crate::node::{Sibling, Siblings};
use crate::{CompactRange, EMPTY_ROOT, Hash, ProofError, node_hash};

/// A tree after a batch of leaves was appended to it, with every node that the batch touched.
#[derive(Debug, Clone)]
pub struct Extension {
    old_size: u64,
    range: CompactRange,
    root: Hash,
    /// Level by level: the last subtree of the old tree if it stands at an even place, then the subtrees completed by
    /// the batch. So a level begins at index `old_size >> level` rounded down to even, and every pair is whole.
    nodes: Vec<Hash>,
    /// Where each level begins in `nodes`.
    starts: Vec<usize>,
    /// For each level, the subtree that the end of the new tree cuts short, if there is one.
    ragged: Vec<Option<Hash>>,
}

impl CompactRange {
    /// Appends `leaves` (leaf hashes, in order) and keeps what their proofs need. `self` stays as it is, so that a
    /// commit that fails leaves the old tree in force.
    pub fn extend(&self, leaves: &[Hash]) -> Extension {
        let old_size = self.size();
        let new_size = old_size.saturating_add(leaves.len() as u64);
        let levels = (u64::BITS - new_size.leading_zeros()) as usize;

        let mut nodes = Vec::with_capacity(2 * leaves.len() + 2 * levels);
        let mut starts: Vec<usize> = Vec::with_capacity(levels);
        let mut ragged = Vec::with_capacity(levels);
        let mut peaks = Vec::with_capacity(new_size.count_ones() as usize);
        let mut old_peaks = self.nodes().iter().rev();
        let mut edge: Option<Hash> = None;
        for level in 0..levels {
            let below = starts.last().copied().unwrap_or(0)..nodes.len();
            starts.push(nodes.len());
            if (old_size >> level) & 1 == 1 {
                nodes.extend(old_peaks.next().copied());
            }
            if level == 0 {
                nodes.extend_from_slice(leaves);
            } else {
                for pair in 0..below.len() / 2 {
                    let at = below.start + 2 * pair;
                    if let Some([left, right]) = nodes.get(at..at + 2) {
                        nodes.push(node_hash(left, right));
                    }
                }
            }
            ragged.push(edge);
            if (new_size >> level) & 1 == 1
                && let Some(peak) = nodes.last().copied()
            {
                peaks.push(peak);
                edge = Some(edge.map_or(peak, |cut| node_hash(&peak, &cut)));
            }
        }
        peaks.reverse();
        Extension {
            old_size,
            range: CompactRange::from_checked(new_size, peaks),
            root: edge.unwrap_or(EMPTY_ROOT),
            nodes,
            starts,
            ragged,
        }
    }
}

impl Extension {
    /// The new tree's right edge.
    pub fn range(&self) -> &CompactRange {
        &self.range
    }

    /// The new tree's right edge, when the proofs are no longer needed.
    pub fn into_range(self) -> CompactRange {
        self.range
    }

    /// The new tree's root.
    pub fn root(&self) -> Hash {
        self.root
    }

    /// Number of leaves before the batch: the index of its first leaf.
    pub fn old_size(&self) -> u64 {
        self.old_size
    }

    /// Number of leaves after the batch.
    pub fn size(&self) -> u64 {
        self.range.size()
    }

    /// Inclusion proof, in the new tree, of the leaf at `position` in the batch (its index is `old_size + position`).
    pub fn inclusion(&self, position: usize) -> Result<Vec<Hash>, ProofError> {
        let mut proof = Vec::with_capacity(self.starts.len());
        self.inclusion_into(position, &mut proof)?;
        Ok(proof)
    }

    /// As [`inclusion`](Self::inclusion), appended to `proof`.
    pub fn inclusion_into(&self, position: usize, proof: &mut Vec<Hash>) -> Result<(), ProofError> {
        let index = self.old_size.saturating_add(position as u64);
        if index >= self.size() {
            return Err(ProofError::IndexBeyondSize { index, size: self.size() });
        }
        for sibling in Siblings::new(0, index, self.size()) {
            proof.push(self.sibling(sibling)?);
        }
        Ok(())
    }

    /// Consistency proof from the old tree to the new one; empty when the old tree is empty or the batch is.
    pub fn consistency(&self) -> Result<Vec<Hash>, ProofError> {
        if self.old_size == 0 || self.old_size == self.size() {
            return Ok(Vec::new());
        }
        let level = self.old_size.trailing_zeros().try_into().unwrap_or(u8::MAX);
        let index = (self.old_size >> level) - 1;
        let mut proof = Vec::with_capacity(self.starts.len() + 1);
        if !self.old_size.is_power_of_two() {
            proof.push(self.node(level, index)?);
        }
        for sibling in Siblings::new(level, index, self.size()) {
            proof.push(self.sibling(sibling)?);
        }
        Ok(proof)
    }

    /// The subtrees of `level` that the batch completed: index of the first, and their hashes. Level 0 is the batch.
    pub fn completed(&self, level: u8) -> (u64, &[Hash]) {
        let first = self.old_size.checked_shr(level.into()).unwrap_or(0);
        let start = self.starts.get(usize::from(level)).copied().unwrap_or(self.nodes.len());
        let end = self.starts.get(usize::from(level) + 1).copied().unwrap_or(self.nodes.len());
        let kept_from_old = usize::from(first & 1 == 1);
        (first, self.nodes.get(start + kept_from_old..end).unwrap_or_default())
    }

    fn node(&self, level: u8, index: u64) -> Result<Hash, ProofError> {
        let missing = || ProofError::NodeMissing { level, index };
        let start = *self.starts.get(usize::from(level)).ok_or_else(missing)?;
        let end = self.starts.get(usize::from(level) + 1).copied().unwrap_or(self.nodes.len());
        let offset = index.checked_sub((self.old_size >> level) & !1).ok_or_else(missing)?;
        let offset = usize::try_from(offset).map_err(|_| missing())?;
        self.nodes.get(start..end).and_then(|row| row.get(offset)).copied().ok_or_else(missing)
    }

    fn sibling(&self, sibling: Sibling) -> Result<Hash, ProofError> {
        match sibling {
            Sibling::Complete(id) => self.node(id.level, id.index),
            Sibling::Ragged(level) => self
                .ragged
                .get(usize::from(level))
                .copied()
                .flatten()
                .ok_or(ProofError::NodeMissing { level, index: self.size().checked_shr(level.into()).unwrap_or(0) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definition::leaves;
    use crate::{HashReader, Tree, verify_consistency, verify_inclusion};

    #[test]
    fn a_batch_proves_itself_as_the_whole_tree_would() {
        let leaves = leaves(132);
        let whole: Tree = leaves.iter().copied().collect();
        let mut old = CompactRange::new();
        for split in 0..=leaves.len() {
            for end in split..=leaves.len() {
                let (old_size, size) = (split as u64, end as u64);
                let extension = old.extend(&leaves[split..end]);
                assert_eq!((extension.old_size(), extension.size()), (old_size, size));
                assert_eq!(extension.root(), whole.root_at(size).unwrap());
                assert_eq!(extension.range().root(), extension.root());
                assert_eq!(extension.consistency(), whole.consistency(old_size, size));
                for position in 0..end - split {
                    let index = old_size + position as u64;
                    assert_eq!(extension.inclusion(position), whole.inclusion(index, size), "{split}..{end} {index}");
                }
                assert_eq!(
                    extension.inclusion(end - split),
                    Err(ProofError::IndexBeyondSize { index: size, size }),
                    "a batch proves no leaf after it"
                );
            }
            if let Some(leaf) = leaves.get(split) {
                old.push(*leaf);
            }
        }
    }

    #[test]
    fn the_right_edge_after_a_batch_is_the_one_that_single_pushes_give() {
        let leaves = leaves(300);
        for split in [0, 1, 2, 7, 8, 100, 255, 256, 257, 300] {
            let mut one_by_one = CompactRange::new();
            leaves[..split].iter().for_each(|leaf| one_by_one.push(*leaf));
            let extension = one_by_one.extend(&leaves[split..]);
            leaves[split..].iter().for_each(|leaf| one_by_one.push(*leaf));
            assert_eq!(extension.range(), &one_by_one);
            assert_eq!(extension.into_range(), one_by_one);
        }
    }

    #[test]
    fn the_completed_subtrees_are_those_the_store_lacks() {
        let leaves = leaves(70);
        let whole: Tree = leaves.iter().copied().collect();
        let mut old = CompactRange::new();
        for split in 0..=leaves.len() {
            let extension = old.extend(&leaves[split..]);
            for level in 0..9 {
                let (first, completed) = extension.completed(level);
                assert_eq!(first, split as u64 >> level);
                assert_eq!(completed.len() as u64, (70 >> level) - first);
                for (offset, hash) in completed.iter().enumerate() {
                    assert_eq!(Ok(*hash), whole.node(level, first + offset as u64));
                }
            }
            assert_eq!(extension.completed(200).1, &[]);
            if let Some(leaf) = leaves.get(split) {
                old.push(*leaf);
            }
        }
    }

    #[test]
    fn proofs_of_a_batch_append_to_what_is_there() {
        let leaves = leaves(9);
        let extension = CompactRange::new().extend(&leaves);
        let mut proofs = Vec::new();
        let mut ends = Vec::new();
        for position in 0..leaves.len() {
            extension.inclusion_into(position, &mut proofs).unwrap();
            ends.push(proofs.len());
        }
        let mut start = 0;
        for (index, end) in ends.into_iter().enumerate() {
            verify_inclusion(&leaves[index], index as u64, 9, &proofs[start..end], &extension.root()).unwrap();
            start = end;
        }
    }

    #[test]
    fn a_chain_of_batches_is_consistent_link_by_link() {
        let leaves = leaves(1000);
        let mut rest = leaves.as_slice();
        let mut range = CompactRange::new();
        for size in [1, 2, 1, 0, 60, 64, 128, 1, 255, 300] {
            let (batch, after) = rest.split_at(size);
            let extension = range.extend(batch);
            let proof = extension.consistency().unwrap();
            verify_consistency(range.size(), extension.size(), &proof, &range.root(), &extension.root()).unwrap();
            range = extension.into_range();
            rest = after;
        }
        assert_eq!(range.root(), crate::definition::root(&leaves[..812]));
    }
}
