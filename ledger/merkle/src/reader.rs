//! Reads roots, proofs and tiles from anything that can give the hash of a complete subtree.
//!
//! Every read here is synchronous; an asynchronous store uses the plans in `plan.rs` directly. Two readers are in this
//! crate: [`Tree`](crate::Tree) and [`TileSet`](crate::TileSet).

use crate::plan::check_size;
use crate::tile::{TILE_HEIGHT, TILE_WIDTH};
use crate::{
    CompactRange, Hash, NodeId, ProofError, RangeProof, ReadError, TileCoord, consistency_plan, inclusion_plan,
    range_plan,
};

/// A store of tree nodes. It is asked only for subtrees that are complete in the size given to the caller's function.
pub trait HashReader {
    /// Why a node cannot be given.
    type Error;

    /// The hash of the complete subtree over leaves `index << level .. (index + 1) << level`.
    ///
    /// # Errors
    /// When the node is not held or cannot be read.
    fn node(&self, level: u8, index: u64) -> Result<Hash, Self::Error>;

    /// Many nodes in the order asked. Override it where one read of many is cheaper than many reads of one.
    ///
    /// # Errors
    /// When one of the nodes is not held or cannot be read.
    fn nodes(&self, ids: &[NodeId]) -> Result<Vec<Hash>, Self::Error> {
        ids.iter().map(|id| self.node(id.level, id.index)).collect()
    }
}

impl<R: HashReader + ?Sized> HashReader for &R {
    type Error = R::Error;

    fn node(&self, level: u8, index: u64) -> Result<Hash, Self::Error> {
        (**self).node(level, index)
    }

    fn nodes(&self, ids: &[NodeId]) -> Result<Vec<Hash>, Self::Error> {
        (**self).nodes(ids)
    }
}

/// The root of the tree of `size` leaves.
pub fn root<R: HashReader + ?Sized>(size: u64, reader: &R) -> Result<Hash, ReadError<R::Error>> {
    Ok(compact_range(size, reader)?.root())
}

/// The right edge of the tree of `size` leaves.
pub fn compact_range<R: HashReader + ?Sized>(size: u64, reader: &R) -> Result<CompactRange, ReadError<R::Error>> {
    check_size(size)?;
    let ids: Vec<NodeId> = CompactRange::node_ids(size).collect();
    Ok(CompactRange::from_parts(size, reader.nodes(&ids).map_err(ReadError::Read)?)?)
}

/// The inclusion proof of leaf `index` in the tree of `size` leaves, leaf side first.
pub fn inclusion_proof<R: HashReader + ?Sized>(
    index: u64,
    size: u64,
    reader: &R,
) -> Result<Vec<Hash>, ReadError<R::Error>> {
    let plan = inclusion_plan(index, size)?;
    Ok(plan.assemble(&reader.nodes(plan.nodes()).map_err(ReadError::Read)?)?)
}

/// The consistency proof between the trees of `old` and `new` leaves; empty when `old` is 0 or equals `new`.
pub fn consistency_proof<R: HashReader + ?Sized>(
    old: u64,
    new: u64,
    reader: &R,
) -> Result<Vec<Hash>, ReadError<R::Error>> {
    let plan = consistency_plan(old, new)?;
    Ok(plan.assemble(&reader.nodes(plan.nodes()).map_err(ReadError::Read)?)?)
}

/// What proves leaves `start..end` of the tree of `size` leaves, besides the leaves.
pub fn range_proof<R: HashReader + ?Sized>(
    start: u64,
    end: u64,
    size: u64,
    reader: &R,
) -> Result<RangeProof, ReadError<R::Error>> {
    let plan = range_plan(start, end, size)?;
    Ok(plan.assemble(&reader.nodes(plan.nodes()).map_err(ReadError::Read)?)?)
}

/// The hashes of a tile, in order; [`encode_tile`](crate::encode_tile) renders them.
pub fn tile_hashes<R: HashReader + ?Sized>(tile: TileCoord, reader: &R) -> Result<Vec<Hash>, R::Error> {
    let first = tile.index() * u64::from(TILE_WIDTH);
    let ids: Vec<NodeId> =
        (0..u64::from(tile.width())).map(|at| NodeId::new(tile.level() * TILE_HEIGHT, first + at)).collect();
    reader.nodes(&ids)
}

impl<E> ReadError<E> {
    /// The proof error, when both kinds are one.
    pub fn into_proof_error(self) -> ProofError
    where
        ProofError: From<E>,
    {
        match self {
            Self::Proof(error) => error,
            Self::Read(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definition::{self, CONSISTENCY, INCLUSION, LEAVES, ROOTS, hashes, leaves};
    use crate::{MAX_SIZE, Tree, leaf_hash, verify_consistency, verify_inclusion};

    #[test]
    fn the_published_proofs_are_the_proofs_made_and_accepted() {
        let tree: Tree = LEAVES.iter().map(|leaf| leaf_hash(leaf)).collect();
        let roots = hashes(&ROOTS);
        for (size, expected) in roots.iter().enumerate() {
            assert_eq!(root(size as u64, &tree), Ok(*expected));
        }
        for (index, size, proof) in INCLUSION {
            let proof = hashes(proof);
            assert_eq!(inclusion_proof(index, size, &tree), Ok(proof.clone()));
            let leaf = tree.leaves()[usize::try_from(index).unwrap()];
            let root = &roots[usize::try_from(size).unwrap()];
            assert_eq!(verify_inclusion(&leaf, index, size, &proof, root), Ok(()));
        }
        for (old, new, proof) in CONSISTENCY {
            let proof = hashes(proof);
            assert_eq!(consistency_proof(old, new, &tree), Ok(proof.clone()));
            let [old_root, new_root] = [old, new].map(|size| &roots[usize::try_from(size).unwrap()]);
            assert_eq!(verify_consistency(old, new, &proof, old_root, new_root), Ok(()));
        }
    }

    #[test]
    fn every_proof_of_every_small_tree_is_the_defined_one_and_is_accepted() {
        let leaves = leaves(100);
        let tree: Tree = leaves.iter().copied().collect();
        let roots: Vec<Hash> = (0..=leaves.len()).map(|size| definition::root(&leaves[..size])).collect();
        for size in 1..=leaves.len() {
            let leaves = &leaves[..size];
            for index in 0..size {
                let (at, of) = (index as u64, size as u64);
                let proof = tree.inclusion(at, of).unwrap();
                assert_eq!(proof, definition::path(index, leaves), "leaf {index} of {size}");
                assert_eq!(inclusion_plan(at, of).unwrap().proof_length(), proof.len());
                assert_eq!(verify_inclusion(&leaves[index], at, of, &proof, &roots[size]), Ok(()));

                let old = index + 1;
                let proof = tree.consistency(old as u64, of).unwrap();
                assert_eq!(proof, definition::consistency(old, leaves), "{old} to {size}");
                assert_eq!(consistency_plan(old as u64, of).unwrap().proof_length(), proof.len());
                assert_eq!(verify_consistency(old as u64, of, &proof, &roots[old], &roots[size]), Ok(()));
            }
        }
    }

    #[test]
    fn a_question_without_an_answer_is_an_error() {
        let tree: Tree = leaves(5).into_iter().collect();
        assert_eq!(
            inclusion_proof(5, 5, &tree),
            Err(ReadError::Proof(ProofError::IndexBeyondSize { index: 5, size: 5 }))
        );
        assert_eq!(
            inclusion_proof(0, 0, &tree),
            Err(ReadError::Proof(ProofError::IndexBeyondSize { index: 0, size: 0 }))
        );
        assert_eq!(consistency_proof(4, 3, &tree), Err(ReadError::Proof(ProofError::SizesReversed { old: 4, new: 3 })));
        for (start, end) in [(0, 0), (3, 3), (4, 3), (0, 6), (5, 6), (u64::MAX, 0), (0, u64::MAX)] {
            assert_eq!(
                range_proof(start, end, 5, &tree),
                Err(ReadError::Proof(ProofError::RangeInvalid { start, end, size: 5 }))
            );
        }
        assert!(inclusion_plan(0, MAX_SIZE).is_ok() && consistency_plan(1, MAX_SIZE).is_ok());
        let size = MAX_SIZE + 1;
        let too_large = Err(ReadError::Proof(ProofError::SizeTooLarge { size }));
        assert_eq!(inclusion_proof(0, size, &tree), too_large);
        assert_eq!(consistency_proof(1, size, &tree), too_large);
        assert_eq!(range_proof(0, 1, size, &tree), Err(ReadError::Proof(ProofError::SizeTooLarge { size })));
        assert_eq!(root(size, &tree), Err(ReadError::Proof(ProofError::SizeTooLarge { size })));
    }

    #[test]
    fn a_node_the_store_lacks_is_named() {
        let tree: Tree = leaves(5).into_iter().collect();
        assert_eq!(root(8, &tree), Err(ReadError::Read(ProofError::NodeMissing { level: 3, index: 0 })));
        assert_eq!(tree.inclusion(4, 6), Err(ProofError::NodeMissing { level: 0, index: 5 }));
        assert_eq!(tree.consistency(4, 7), Err(ProofError::NodeMissing { level: 1, index: 2 }));
    }

    #[test]
    fn from_the_empty_tree_and_to_itself_there_is_nothing_to_prove() {
        let tree: Tree = leaves(5).into_iter().collect();
        for (old, new) in [(0, 0), (0, 5), (5, 5), (1, 1)] {
            assert_eq!(tree.consistency(old, new), Ok(Vec::new()));
            let [old_root, new_root] = [old, new].map(|size| tree.root_at(size).unwrap());
            assert_eq!(verify_consistency(old, new, &[], &old_root, &new_root), Ok(()));
        }
    }

    #[test]
    fn a_plan_takes_exactly_the_hashes_it_asked_for() {
        let plan = inclusion_plan(2, 7).unwrap();
        assert_eq!(plan.nodes(), [(0, 3), (1, 0), (1, 2), (0, 6)].map(|(level, index)| NodeId::new(level, index)));
        assert_eq!(plan.proof_length(), 3);
        let hash = leaf_hash(b"");
        for count in [0, 3, 5] {
            assert_eq!(plan.assemble(&vec![hash; count]), Err(ProofError::WrongLength { expected: 4, actual: count }));
        }
    }
}
