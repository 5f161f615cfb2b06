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
