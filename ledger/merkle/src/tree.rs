//! A whole tree in memory: every complete subtree, 64 bytes a leaf.
//!
//! For evidence packs and tests. The committer holds only a [`CompactRange`](crate::CompactRange).

use crate::{
    Hash, HashReader, ProofError, RangeProof, ReadError, consistency_proof, inclusion_proof, leaf_hash, node_hash,
    range_proof, root,
};

/// An append-only tree that can prove any of its leaves at any of its sizes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tree {
    /// `levels[l][i]` is node (l, i).
    levels: Vec<Vec<Hash>>,
}

impl Tree {
    /// The empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of leaves.
    pub fn size(&self) -> u64 {
        self.levels.first().map_or(0, |leaves| leaves.len() as u64)
    }

    /// The leaf hashes in order.
    pub fn leaves(&self) -> &[Hash] {
        self.levels.first().map_or(&[], Vec::as_slice)
    }

    /// Appends a leaf, given by its hash.
    pub fn push(&mut self, leaf_hash: Hash) {
        let mut hash = leaf_hash;
        for level in 0.. {
            if self.levels.len() == level {
                self.levels.push(Vec::new());
            }
            let Some(row) = self.levels.get_mut(level) else { return };
            row.push(hash);
            match row.as_chunks::<2>() {
                (pairs, []) => {
                    let Some([left, right]) = pairs.last() else { return };
                    hash = node_hash(left, right);
                }
                _ => return,
            }
        }
    }

    /// Appends a leaf, given by its bytes.
    pub fn push_leaf(&mut self, leaf: &[u8]) {
        self.push(leaf_hash(leaf));
    }

    /// The root of the whole tree.
    pub fn root(&self) -> Result<Hash, ProofError> {
        self.root_at(self.size())
    }

    /// The root when the tree had `size` leaves.
    pub fn root_at(&self, size: u64) -> Result<Hash, ProofError> {
        root(size, self).map_err(ReadError::into_proof_error)
    }

    /// The inclusion proof of leaf `index` when the tree had `size` leaves.
    pub fn inclusion(&self, index: u64, size: u64) -> Result<Vec<Hash>, ProofError> {
        inclusion_proof(index, size, self).map_err(ReadError::into_proof_error)
    }

    /// The consistency proof between two earlier sizes.
    pub fn consistency(&self, old: u64, new: u64) -> Result<Vec<Hash>, ProofError> {
        consistency_proof(old, new, self).map_err(ReadError::into_proof_error)
    }

    /// What proves leaves `start..end` when the tree had `size` leaves.
    pub fn range(&self, start: u64, end: u64, size: u64) -> Result<RangeProof, ProofError> {
        range_proof(start, end, size, self).map_err(ReadError::into_proof_error)
    }
}

impl FromIterator<Hash> for Tree {
    fn from_iter<I: IntoIterator<Item = Hash>>(leaf_hashes: I) -> Self {
        let mut tree = Self::new();
        leaf_hashes.into_iter().for_each(|hash| tree.push(hash));
        tree
    }
}

impl HashReader for Tree {
    type Error = ProofError;

    fn node(&self, level: u8, index: u64) -> Result<Hash, ProofError> {
        self.levels
            .get(usize::from(level))
            .and_then(|row| row.get(usize::try_from(index).ok()?))
            .copied()
            .ok_or(ProofError::NodeMissing { level, index })
    }
}
