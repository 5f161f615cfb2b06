//! The right edge of a tree: all that is needed to append to it.
//!
//! A tree of `n` leaves is held as one hash for each bit set in `n`. Old leaves cannot be proven from it: read
//! `extension.rs` for the proofs a batch can give of itself, and `reader.rs` for proofs of older leaves.

use crate::node::right_edge;
use crate::{EMPTY_ROOT, Hash, MAX_SIZE, NodeId, ProofError, node_hash};

/// The complete subtrees that make up a tree of `size` leaves, largest (leftmost) first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CompactRange {
    size: u64,
    nodes: Vec<Hash>,
}

impl CompactRange {
    /// The empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// The tree of `size` leaves whose complete subtrees have these hashes, largest first.
    ///
    /// The hashes are believed; compare [`root`](Self::root) with a signed one.
    pub fn from_parts(size: u64, nodes: Vec<Hash>) -> Result<Self, ProofError> {
        if size > MAX_SIZE {
            return Err(ProofError::SizeTooLarge { size });
        }
        let expected = size.count_ones() as usize;
        if nodes.len() != expected {
            return Err(ProofError::WrongLength { expected, actual: nodes.len() });
        }
        Ok(Self { size, nodes })
    }

    /// For ranges whose parts were computed together.
    pub(crate) fn from_checked(size: u64, nodes: Vec<Hash>) -> Self {
        Self { size, nodes }
    }

    /// Number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The hashes, largest subtree first: one for each bit set in the size. At most 63.
    pub fn nodes(&self) -> &[Hash] {
        &self.nodes
    }

    /// The names of [`nodes`](Self::nodes) in a tree of `size` leaves, in the same order.
    pub fn node_ids(size: u64) -> impl DoubleEndedIterator<Item = NodeId> {
        right_edge(size, 63)
    }

    /// Appends one leaf, given by its hash (see [`leaf_hash`](crate::leaf_hash)).
    pub fn push(&mut self, leaf_hash: Hash) {
        self.push_subtree(0, leaf_hash);
    }

    /// Appends a complete subtree of `1 << level` leaves. The size must be a multiple of that.
    pub(crate) fn push_subtree(&mut self, level: u8, hash: Hash) {
        let mut hash = hash;
        for _ in 0..(self.size >> level).trailing_ones() {
            let Some(left) = self.nodes.pop() else { break };
            hash = node_hash(&left, &hash);
        }
        self.nodes.push(hash);
        // A size from outside is at most 2^62 and pushing as many again takes a century, so this never saturates.
        self.size = self.size.saturating_add(1 << level);
    }

    /// The RFC 6962 root of the tree.
    pub fn root(&self) -> Hash {
        fold_right(self.nodes.iter().copied()).unwrap_or(EMPTY_ROOT)
    }

    /// The root of the tree of `size` leaves that starts with this one and goes on with the subtrees in `right`, as
    /// [`RangeProof::right`](crate::RangeProof) names them. This is how a range read leaf by leaf is checked: start from
    /// [`RangeProof::left`](crate::RangeProof), push every leaf, and compare this root with the signed one.
    pub fn root_with(&self, size: u64, right: &[Hash]) -> Result<Hash, ProofError> {
        if size > MAX_SIZE {
            return Err(ProofError::SizeTooLarge { size });
        }
        if self.size == 0 || self.size > size {
            return Err(ProofError::RangeInvalid { start: 0, end: self.size, size });
        }
        let mut range = self.clone();
        let mut hashes = right.iter();
        let mut used = 0_usize;
        while range.size < size {
            let Some(hash) = hashes.next() else {
                let expected = used + remaining(range.size, size);
                return Err(ProofError::WrongLength { expected, actual: right.len() });
            };
            used += 1;
            let level = range.size.trailing_zeros();
            if (1 << level) <= size - range.size {
                range.push_subtree(level.try_into().unwrap_or(u8::MAX), *hash);
            } else {
                // Only the end of the tree cuts a subtree short, so this hash covers all that is left.
                range.nodes.push(*hash);
                range.size = size;
            }
        }
        if used != right.len() {
            return Err(ProofError::WrongLength { expected: used, actual: right.len() });
        }
        Ok(fold_right(range.nodes.iter().copied()).unwrap_or(EMPTY_ROOT))
    }
}

/// Number of hashes needed right of a tree of `from` leaves to complete one of `size`.
fn remaining(from: u64, size: u64) -> usize {
    let (mut at, mut count) = (from, 0);
    while at < size {
        count += 1;
        at = at.saturating_add(1 << at.trailing_zeros().min(62));
    }
    count
}

/// Joins subtrees given left to right into one hash, as the end of a tree does: from the right.
pub(crate) fn fold_right(hashes: impl DoubleEndedIterator<Item = Hash>) -> Option<Hash> {
    hashes.rev().reduce(|right, left| node_hash(&left, &right))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definition::{LEAVES, ROOTS, hashes, leaves, root};
    use crate::leaf_hash;

    #[test]
    fn pushing_the_published_leaves_gives_the_published_roots() {
        let mut range = CompactRange::new();
        for (size, expected) in hashes(&ROOTS).into_iter().enumerate() {
            assert_eq!((range.size(), range.root()), (size as u64, expected));
            if let Some(leaf) = LEAVES.get(size) {
                range.push(leaf_hash(leaf));
            }
        }
    }

    #[test]
    fn every_size_has_the_defined_root_and_reads_back_from_its_parts() {
        let leaves = leaves(520);
        let mut range = CompactRange::new();
        for size in 0..=leaves.len() {
            assert_eq!(range.root(), root(&leaves[..size]), "{size}");
            let parts = CompactRange::from_parts(range.size(), range.nodes().to_vec()).unwrap();
            assert_eq!(parts, range);
            assert_eq!(CompactRange::node_ids(range.size()).count(), range.nodes().len());
            if let Some(leaf) = leaves.get(size) {
                range.push(*leaf);
            }
        }
    }

    #[test]
    fn parts_that_do_not_fit_the_size_are_refused() {
        let node = leaf_hash(b"");
        for (size, count, expected) in [(0, 1, 0), (1, 0, 1), (6, 3, 2), (7, 2, 3), (MAX_SIZE, 0, 1)] {
            assert_eq!(
                CompactRange::from_parts(size, vec![node; count]),
                Err(ProofError::WrongLength { expected, actual: count })
            );
        }
        for size in [MAX_SIZE + 1, u64::MAX] {
            assert_eq!(CompactRange::from_parts(size, vec![node; 64]), Err(ProofError::SizeTooLarge { size }));
        }
    }

    #[test]
    fn a_range_cannot_be_completed_to_a_tree_it_does_not_fit() {
        let hash = leaf_hash(b"");
        let of = |size: u64| CompactRange::from_parts(size, vec![hash; size.count_ones() as usize]).unwrap();
        assert_eq!(of(0).root_with(5, &[]), Err(ProofError::RangeInvalid { start: 0, end: 0, size: 5 }));
        assert_eq!(of(6).root_with(5, &[]), Err(ProofError::RangeInvalid { start: 0, end: 6, size: 5 }));
        assert_eq!(
            of(6).root_with(MAX_SIZE + 1, &[]),
            Err(ProofError::SizeTooLarge { size: MAX_SIZE + 1 }),
            "a size that no log has"
        );
        for (end, size, expected) in [(1, 1, 0), (1, 2, 1), (1, 8, 3), (6, 8, 1), (6, 9, 2), (1, MAX_SIZE, 62)] {
            assert!(of(end).root_with(size, &vec![hash; expected]).is_ok());
            for actual in (0..expected).chain([expected + 1]) {
                let refused = of(end).root_with(size, &vec![hash; actual]);
                assert_eq!(refused, Err(ProofError::WrongLength { expected, actual }), "{end} to {size}");
            }
        }
    }

    #[test]
    fn the_largest_tree_from_outside_can_still_grow() {
        let mut range = CompactRange::from_parts(MAX_SIZE, vec![leaf_hash(b"")]).unwrap();
        range.push(leaf_hash(b"a"));
        assert_eq!((range.size(), range.nodes().len()), (MAX_SIZE + 1, 2));
        let extension = range.extend(&[leaf_hash(b"b"), leaf_hash(b"c")]);
        assert_eq!((extension.size(), extension.range().nodes().len()), (MAX_SIZE + 3, 3));
        assert_eq!(extension.inclusion(1).unwrap().len(), 2);
    }
}
