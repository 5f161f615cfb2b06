//! Verifies proofs, step by step as RFC 9162 §2.1.3.2 and §2.1.4.2 say.
//!
//! Total on hostile input: any sizes and any hashes end in a verdict, after at most two hash operations for each hash
//! given. Sizes and indices must come from what was signed or asked for, never from the proof: the same root and path can
//! fit several pairs of them.

use crate::plan::check_size;
use crate::{CompactRange, EMPTY_ROOT, Hash, ProofError, RangeProof, consistency_plan, inclusion_plan, node_hash};

/// Checks that the leaf with hash `leaf` is leaf `index` of the tree with `size` leaves and root `root`.
pub fn verify_inclusion(leaf: &Hash, index: u64, size: u64, proof: &[Hash], root: &Hash) -> Result<(), ProofError> {
    meets(root, root_of_inclusion(leaf, index, size, proof)?)
}

/// The root that an inclusion proof leads to (RFC 9162 §2.1.3.2). It proves nothing until compared with a signed root.
pub fn root_of_inclusion(leaf: &Hash, index: u64, size: u64, proof: &[Hash]) -> Result<Hash, ProofError> {
    check_size(size)?;
    if index >= size {
        return Err(ProofError::IndexBeyondSize { index, size });
    }
    let wrong_length = || wrong_length(inclusion_plan(index, size).map(|plan| plan.proof_length()), proof);
    let (mut at, mut last) = (index, size - 1);
    let mut hash = *leaf;
    for sibling in proof {
        if last == 0 {
            return Err(wrong_length());
        }
        if at & 1 == 1 || at == last {
            hash = node_hash(sibling, &hash);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        at >>= 1;
        last >>= 1;
    }
    if last == 0 { Ok(hash) } else { Err(wrong_length()) }
}

/// Checks that the tree with `new` leaves and `new_root` begins with the tree with `old` leaves and `old_root`
/// (RFC 9162 §2.1.4.2).
///
/// From an empty tree, or to a tree of the same size, there is nothing to prove and the proof must be empty.
pub fn verify_consistency(
    old: u64,
    new: u64,
    proof: &[Hash],
    old_root: &Hash,
    new_root: &Hash,
) -> Result<(), ProofError> {
    check_size(new)?;
    if old > new {
        return Err(ProofError::SizesReversed { old, new });
    }
    let wrong_length = || wrong_length(consistency_plan(old, new).map(|plan| plan.proof_length()), proof);
    if old == 0 || old == new {
        if !proof.is_empty() {
            return Err(wrong_length());
        }
        if old == 0 {
            meets(old_root, EMPTY_ROOT)?;
        }
        return if old == new { meets(new_root, *old_root) } else { Ok(()) };
    }

    let (mut at, mut last) = (old - 1, new - 1);
    while at & 1 == 1 {
        at >>= 1;
        last >>= 1;
    }
    let mut siblings = proof.iter();
    // An old tree that is one complete subtree is its own first hash, and the proof leaves it out.
    let first = if old.is_power_of_two() { old_root } else { siblings.next().ok_or_else(wrong_length)? };
    let (mut old_hash, mut new_hash) = (*first, *first);
    for sibling in siblings {
        if last == 0 {
            return Err(wrong_length());
        }
        if at & 1 == 1 || at == last {
            old_hash = node_hash(sibling, &old_hash);
            new_hash = node_hash(sibling, &new_hash);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            new_hash = node_hash(&new_hash, sibling);
        }
        at >>= 1;
        last >>= 1;
    }
    if last != 0 {
        return Err(wrong_length());
    }
    meets(old_root, old_hash)?;
    meets(new_root, new_hash)
}

/// Checks that `leaves` (leaf hashes) are leaves `start..start + leaves.len()`, none left out, of the tree with `size`
/// leaves and root `root`. For a range too long for memory see [`CompactRange::root_with`].
pub fn verify_range(start: u64, leaves: &[Hash], size: u64, proof: &RangeProof, root: &Hash) -> Result<(), ProofError> {
    check_size(size)?;
    let end = start.saturating_add(leaves.len() as u64);
    if leaves.is_empty() || end > size {
        return Err(ProofError::RangeInvalid { start, end, size });
    }
    let mut range = CompactRange::from_parts(start, proof.left.clone())?;
    for leaf in leaves {
        range.push(*leaf);
    }
    meets(root, range.root_with(size, &proof.right)?)
}

fn meets(expected: &Hash, actual: Hash) -> Result<(), ProofError> {
    if *expected == actual { Ok(()) } else { Err(ProofError::RootMismatch { expected: *expected, actual }) }
}

fn wrong_length(expected: Result<usize, ProofError>, proof: &[Hash]) -> ProofError {
    match expected {
        Ok(expected) => ProofError::WrongLength { expected, actual: proof.len() },
        Err(error) => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definition::leaves;
    use crate::{HashReader, MAX_SIZE, Tree, leaf_hash};

    /// Sizes around every shape of tree there is below them.
    const SIZES: std::ops::RangeInclusive<u64> = 1..=36;

    /// Every way to change one hash by one bit (`all_bits`), or one bit of each hash, to drop one, or to add one.
    fn mutations(proof: &[Hash], all_bits: bool) -> impl Iterator<Item = Vec<Hash>> {
        let flipped = (0..proof.len()).flat_map(move |at| {
            let bits = if all_bits { 0..256 } else { (at * 37) % 256..(at * 37) % 256 + 1 };
            bits.map(move |bit| {
                let mut changed = proof.to_vec();
                changed[at].0[bit / 8] ^= 1 << (bit % 8);
                changed
            })
        });
        let dropped = (0..proof.len()).map(move |at| {
            let mut changed = proof.to_vec();
            changed.remove(at);
            changed
        });
        let added = (0..=proof.len()).flat_map(move |at| {
            let extra = [leaf_hash(b"extra"), Hash::default(), EMPTY_ROOT];
            extra.into_iter().chain(proof.iter().copied()).map(move |extra| {
                let mut changed = proof.to_vec();
                changed.insert(at, extra);
                changed
            })
        });
        let swapped = (1..proof.len()).map(move |at| {
            let mut changed = proof.to_vec();
            changed.swap(at - 1, at);
            changed
        });
        flipped.chain(dropped).chain(added).chain(swapped).filter(move |changed| changed != proof)
    }

    fn tree() -> Tree {
        leaves(*SIZES.end() + 2).into_iter().collect()
    }

    #[test]
    fn no_changed_inclusion_proof_is_accepted() {
        let tree = tree();
        for size in SIZES {
            let root = tree.root_at(size).unwrap();
            for index in 0..size {
                let leaf = tree.leaves()[usize::try_from(index).unwrap()];
                let proof = tree.inclusion(index, size).unwrap();
                assert_eq!(verify_inclusion(&leaf, index, size, &proof, &root), Ok(()));
                for changed in mutations(&proof, matches!(size, 7 | 19)) {
                    assert!(verify_inclusion(&leaf, index, size, &changed, &root).is_err(), "{index} of {size}");
                }
                for other in 0..size + 2 {
                    if other != index {
                        assert!(verify_inclusion(&leaf, other, size, &proof, &root).is_err());
                        let stranger = tree.leaves()[usize::try_from(other).unwrap()];
                        assert!(verify_inclusion(&stranger, index, size, &proof, &root).is_err());
                    }
                }
                for other in [size - 1, size + 1, size + 2] {
                    let other_root = tree.root_at(other).unwrap();
                    assert!(verify_inclusion(&leaf, index, other, &proof, &other_root).is_err());
                    assert!(verify_inclusion(&leaf, index, size, &proof, &other_root).is_err());
                }
            }
        }
    }

    #[test]
    fn no_changed_consistency_proof_is_accepted() {
        let tree = tree();
        for new in SIZES {
            let new_root = tree.root_at(new).unwrap();
            for old in 0..=new {
                let old_root = tree.root_at(old).unwrap();
                let proof = tree.consistency(old, new).unwrap();
                assert_eq!(verify_consistency(old, new, &proof, &old_root, &new_root), Ok(()));
                for changed in mutations(&proof, matches!(new, 7 | 19)) {
                    assert!(verify_consistency(old, new, &changed, &old_root, &new_root).is_err(), "{old} to {new}");
                }
                for other in 0..=new + 2 {
                    let other_root = tree.root_at(other).unwrap();
                    if other != old {
                        assert!(verify_consistency(old, new, &proof, &other_root, &new_root).is_err());
                        let restated = verify_consistency(other, new, &proof, &other_root, &new_root);
                        assert!(restated.is_err() || proof.is_empty() && matches!((old, other), (0, _) | (_, 0)));
                    }
                    // Every tree begins with the empty one, so nothing ties that proof to one later tree.
                    if other != new && old != 0 {
                        assert!(verify_consistency(old, new, &proof, &old_root, &other_root).is_err());
                        assert!(verify_consistency(old, other, &proof, &old_root, &other_root).is_err());
                    }
                }
                assert!(old == new || verify_consistency(new, old, &proof, &new_root, &old_root).is_err());
            }
        }
    }

    #[test]
    fn a_whole_range_is_accepted_and_nothing_else() {
        let tree = tree();
        for size in (1..=17).chain([31, 32, 33]) {
            let root = tree.root_at(size).unwrap();
            for start in 0..size {
                for end in start + 1..=size {
                    let leaves = &tree.leaves()[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()];
                    let proof = tree.range(start, end, size).unwrap();
                    assert_eq!(verify_range(start, leaves, size, &proof, &root), Ok(()), "{start}..{end} of {size}");

                    for changed in mutations(leaves, false) {
                        assert!(verify_range(start, &changed, size, &proof, &root).is_err());
                    }
                    for left in mutations(&proof.left, false) {
                        let changed = RangeProof { left, ..proof.clone() };
                        assert!(verify_range(start, leaves, size, &changed, &root).is_err());
                    }
                    for right in mutations(&proof.right, false) {
                        let changed = RangeProof { right, ..proof.clone() };
                        assert!(verify_range(start, leaves, size, &changed, &root).is_err());
                    }
                    for other in (0..size + 2).filter(|other| *other != start) {
                        assert!(verify_range(other, leaves, size, &proof, &root).is_err());
                    }
                    for other in [size - 1, size + 1] {
                        let other_root = tree.root_at(other).unwrap();
                        assert!(verify_range(start, leaves, other, &proof, &other_root).is_err());
                    }
                }
            }
        }
    }

    #[test]
    fn a_range_of_one_leaf_and_its_inclusion_proof_hold_the_same_hashes() {
        let tree = tree();
        for size in SIZES {
            for index in 0..size {
                let range = tree.range(index, index + 1, size).unwrap();
                let mut edges = [range.left, range.right].concat();
                let mut path = tree.inclusion(index, size).unwrap();
                edges.sort();
                path.sort();
                assert_eq!(edges, path);
            }
        }
    }

    #[test]
    fn a_range_without_leaves_proves_nothing() {
        let tree = tree();
        let root = tree.root_at(8).unwrap();
        let edges = RangeProof { left: vec![tree.root_at(4).unwrap()], right: vec![tree.node(2, 1).unwrap()] };
        let refused = Err(ProofError::RangeInvalid { start: 4, end: 4, size: 8 });
        assert_eq!(verify_range(4, &[], 8, &edges, &root), refused);
    }

    #[test]
    fn a_range_can_be_checked_leaf_by_leaf() {
        let tree = tree();
        let proof = tree.range(5, 30, 33).unwrap();
        let mut range = CompactRange::from_parts(5, proof.left).unwrap();
        for leaf in &tree.leaves()[5..30] {
            range.push(*leaf);
        }
        assert_eq!(range.root_with(33, &proof.right), tree.root_at(33));
        assert_eq!(range.root(), tree.root_at(30).unwrap(), "and gives the root the log had at its end");
    }

    #[test]
    fn the_number_of_hashes_wanted_is_told() {
        let tree = tree();
        let (root, leaf) = (tree.root_at(33).unwrap(), tree.leaves()[7]);
        let mut proof = tree.inclusion(7, 33).unwrap();
        proof.pop();
        let refused = ProofError::WrongLength { expected: 6, actual: 5 };
        assert_eq!(verify_inclusion(&leaf, 7, 33, &proof, &root), Err(refused));
        let refused = ProofError::WrongLength { expected: 6, actual: 0 };
        assert_eq!(verify_consistency(30, 33, &[], &root, &root), Err(refused));
        let refused = ProofError::WrongLength { expected: 0, actual: 1 };
        assert_eq!(verify_consistency(33, 33, &[root], &root, &root), Err(refused));
        let edges = RangeProof { left: Vec::new(), right: vec![root] };
        let refused = ProofError::WrongLength { expected: 5, actual: 1 };
        assert_eq!(verify_range(0, &tree.leaves()[..2], 33, &edges, &root), Err(refused));
    }

    #[test]
    fn a_root_alone_does_not_fix_size_and_index() {
        // Why callers must take size and root from one signature: the proof of the last leaf of 600 also leads to its
        // root when it is restated for other sizes, down to one of 64 leaves.
        let tree: Tree = leaves(600).into_iter().collect();
        let (root, leaf) = (tree.root().unwrap(), tree.leaves()[599]);
        let proof = tree.inclusion(599, 600).unwrap();
        let fits = |size: &u64| (0..*size).any(|index| verify_inclusion(&leaf, index, *size, &proof, &root).is_ok());
        assert!((1..=600).filter(fits).any(|size| size == 64));
    }

    #[test]
    fn sizes_no_log_has_are_refused_and_do_not_overflow() {
        let hash = leaf_hash(b"");
        let long = vec![hash; 200];
        for size in [MAX_SIZE + 1, 1 << 63, u64::MAX] {
            let refused = Err(ProofError::SizeTooLarge { size });
            assert_eq!(verify_inclusion(&hash, size - 1, size, &long, &hash), refused);
            assert_eq!(verify_consistency(1, size, &long, &hash, &hash), refused);
            assert_eq!(verify_range(0, &[hash], size, &RangeProof::default(), &hash), refused);
        }
        for index in [0, 1, MAX_SIZE / 2, MAX_SIZE - 1, MAX_SIZE, u64::MAX] {
            for size in [0, 1, 2, MAX_SIZE - 1, MAX_SIZE] {
                for length in [0, 1, 61, 62, 63, 64, 65, 200] {
                    let proof = &long[..length];
                    let edges = RangeProof { left: proof.to_vec(), right: proof.to_vec() };
                    assert!(verify_inclusion(&hash, index, size, proof, &hash).is_err() || (index, size) == (0, 1));
                    assert!(verify_range(index, &[hash], size, &edges, &hash).is_err() || (index, size) == (0, 1));
                    let same = index == size && size != 0;
                    assert!(verify_consistency(index, size, proof, &hash, &hash).is_err() || same);
                }
            }
        }
    }
}
