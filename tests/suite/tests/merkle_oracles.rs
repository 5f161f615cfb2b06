//! The ledger's tree arithmetic agrees with two implementations written by others, at every size to 600 and at sizes no
//! machine could hold.
//!
//! `ct-merkle` judges roots, inclusion and consistency; `rs_merkle` with an RFC 6962 hasher judges roots and inclusion.
//! Large trees are sparse: all leaves but a few are the same, so any node of them can be computed. The published vectors
//! and the recursive definition are beside the code, in `ledger/merkle`.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use countersign_ledger_merkle::{
    BundleCoord, CompactRange, EMPTY_ROOT, Hash, HashReader, LogPath, MAX_SIZE, NodeId, ProofError, RangeProof,
    TileCoord, TileSet, Tree, compact_range, consistency_plan, consistency_proof, decode_bundle, decode_tile,
    encode_bundle, encode_tile, inclusion_plan, inclusion_proof, leaf_hash, node_hash, range_plan, range_proof, root,
    tile_hashes, tiles_between, verify_consistency, verify_inclusion, verify_range,
};
use ct_merkle::mem_backed_tree::MemoryBackedTree;
use ct_merkle::{ConsistencyProof, InclusionProof, RootHash};
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use rs_merkle::{Hasher, MerkleTree};
use sha2::Sha256;

const LARGEST_EXHAUSTIVE: u64 = 600;

/// RFC 6962 for `rs_merkle`, whose own hashers do not tell leaves from nodes.
#[derive(Clone)]
struct Rfc6962;

impl Hasher for Rfc6962 {
    type Hash = [u8; 32];

    fn hash(data: &[u8]) -> [u8; 32] {
        leaf_hash(data).0
    }

    fn concat_and_hash(left: &[u8; 32], right: Option<&[u8; 32]>) -> [u8; 32] {
        right.map_or(*left, |right| node_hash(&Hash(*left), &Hash(*right)).0)
    }
}

fn leaf(index: u64) -> [u8; 8] {
    index.to_be_bytes()
}

fn bytes(hashes: &[Hash]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| hash.0).collect()
}

#[test]
fn ct_merkle_makes_the_same_roots_and_proofs_at_every_size_to_600() {
    let mut ours = Tree::new();
    let mut range = CompactRange::new();
    let mut theirs = MemoryBackedTree::<Sha256, [u8; 8]>::new();
    for size in 1..=LARGEST_EXHAUSTIVE {
        let new = leaf(size - 1);
        let before = (ours.root().unwrap(), ours.size());
        ours.push_leaf(&new);
        range.push(leaf_hash(&new));
        theirs.push(new);

        let root = ours.root().unwrap();
        assert_eq!(root.as_bytes()[..], theirs.root().as_bytes()[..], "root of {size}");
        assert_eq!(range.root(), root);
        verify_consistency(before.1, size, &ours.consistency(before.1, size).unwrap(), &before.0, &root).unwrap();

        for index in 0..size {
            let proof = ours.inclusion(index, size).unwrap();
            let position = usize::try_from(index).unwrap();
            assert_eq!(bytes(&proof), theirs.prove_inclusion(position).as_bytes(), "leaf {index} of {size}");
            verify_inclusion(&leaf_hash(&leaf(index)), index, size, &proof, &root).unwrap();
        }
        for old in 1..size {
            let proof = ours.consistency(old, size).unwrap();
            let additions = usize::try_from(size - old).unwrap();
            assert_eq!(bytes(&proof), theirs.prove_consistency(additions).as_bytes(), "{old} to {size}");
            if old.is_multiple_of(7) || old.is_power_of_two() || size - old < 3 {
                verify_consistency(old, size, &proof, &ours.root_at(old).unwrap(), &root).unwrap();
            }
        }
    }
}

#[test]
fn rs_merkle_makes_the_same_roots_and_proofs_at_every_size_to_600() {
    let leaves: Vec<[u8; 32]> = (0..LARGEST_EXHAUSTIVE).map(|index| leaf_hash(&leaf(index)).0).collect();
    let ours: Tree = leaves.iter().copied().map(Hash).collect();
    for size in 1..=leaves.len() {
        let theirs = MerkleTree::<Rfc6962>::from_leaves(&leaves[..size]);
        assert_eq!(ours.root_at(size as u64).unwrap().0, theirs.root().unwrap(), "root of {size}");
        for index in 0..size {
            let proof: Vec<[u8; 32]> =
                ours.inclusion(index as u64, size as u64).unwrap().into_iter().map(|hash| hash.0).collect();
            assert_eq!(proof, theirs.proof(&[index]).proof_hashes(), "leaf {index} of {size}");
        }
    }
}

/// A tree of any size whose leaves are all `leaf_hash(b"")` but for a few. Every subtree without one of those has the
/// hash its level has.
struct Sparse {
    leaves: BTreeMap<u64, Hash>,
    plain: Vec<Hash>,
}

impl Sparse {
    /// The leaf at each index given is the index itself.
    fn new(indices: impl IntoIterator<Item = u64>) -> Self {
        let plain = std::iter::successors(Some(leaf_hash(b"")), |hash| Some(node_hash(hash, hash)));
        Self {
            leaves: indices.into_iter().map(|index| (index, leaf_hash(&leaf(index)))).collect(),
            plain: plain.take(64).collect(),
        }
    }

    fn root(&self, size: u64) -> Hash {
        root(size, self).unwrap()
    }
}

impl HashReader for Sparse {
    type Error = Infallible;

    fn node(&self, level: u8, index: u64) -> Result<Hash, Infallible> {
        if self.leaves.range(index << level..(index + 1) << level).next().is_none() {
            return Ok(self.plain[usize::from(level)]);
        }
        if level == 0 {
            return Ok(self.leaves[&index]);
        }
        Ok(node_hash(&self.node(level - 1, 2 * index)?, &self.node(level - 1, 2 * index + 1)?))
    }
}

/// A size up to 2^40, of any magnitude, so that small and odd shapes come up as often as large ones.
fn size() -> impl Strategy<Value = u64> {
    (0_u32..=40).prop_flat_map(|bits| {
        let top = 1_u64 << bits;
        prop_oneof![3 => 1..=top, 1 => Just(top), 1 => Just(top.saturating_sub(1).max(1)), 1 => Just((top + 1).min(1 << 40))]
    })
}

/// A size and a few indices below it.
fn size_and_indices() -> impl Strategy<Value = (u64, Vec<u64>)> {
    size().prop_flat_map(|size| {
        let index = prop_oneof![4 => 0..size, 1 => Just(size - 1), 1 => Just(0), 1 => Just(size / 2)];
        (Just(size), btree_set(index, 1..5).prop_map(|indices| indices.into_iter().collect()))
    })
}

/// A size, a smaller one (of at least 1), and a few indices below the larger.
fn two_sizes() -> impl Strategy<Value = (u64, u64, Vec<u64>)> {
    size_and_indices().prop_flat_map(|(new, indices)| {
        let old = prop_oneof![2 => 1..=new, 1 => (0..new.ilog2() + 1).prop_map(|bits| 1_u64 << bits), 1 => Just(new)];
        (old, Just(new), Just(indices))
    })
}

/// One way to spoil a list of hashes: the place, the bit, and what to do there.
#[derive(Debug, Clone, Copy)]
enum Change {
    Flip(prop::sample::Index, usize),
    Drop(prop::sample::Index),
    Add(prop::sample::Index, [u8; 32]),
    Repeat(prop::sample::Index),
}

fn change() -> impl Strategy<Value = Change> {
    let place = any::<prop::sample::Index>;
    prop_oneof![
        3 => (place(), 0_usize..256).prop_map(|(at, bit)| Change::Flip(at, bit)),
        1 => place().prop_map(Change::Drop),
        1 => (place(), any::<[u8; 32]>()).prop_map(|(at, hash)| Change::Add(at, hash)),
        1 => place().prop_map(Change::Repeat),
    ]
}

/// The list after the change; an empty list can only be added to.
fn changed(hashes: &[Hash], change: Change) -> Vec<Hash> {
    let mut hashes = hashes.to_vec();
    let length = hashes.len();
    match change {
        Change::Add(at, hash) => hashes.insert(at.index(length + 1), Hash(hash)),
        _ if length == 0 => hashes.push(EMPTY_ROOT),
        Change::Flip(at, bit) => hashes[at.index(length)].0[bit / 8] ^= 1 << (bit % 8),
        Change::Drop(at) => {
            hashes.remove(at.index(length));
        }
        Change::Repeat(at) => hashes.insert(at.index(length), hashes[at.index(length)]),
    }
    hashes
}

fn their_root(hash: Hash, size: u64) -> RootHash<Sha256> {
    RootHash::new(hash.0.into(), size)
}

fn their_digests(hashes: &[Hash]) -> Vec<ct_merkle::digest::Output<Sha256>> {
    hashes.iter().map(|hash| hash.0.into()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_inclusion_proof_holds_at_any_size_and_ct_merkle_accepts_it((size, indices) in size_and_indices()) {
        let tree = Sparse::new(indices.iter().copied());
        let root = tree.root(size);
        for index in indices {
            let proof = inclusion_proof(index, size, &tree).unwrap();
            prop_assert_eq!(verify_inclusion(&leaf_hash(&leaf(index)), index, size, &proof, &root), Ok(()));
            prop_assert!(proof.len() <= 40);
            let digests = their_digests(&proof);
            let theirs = InclusionProof::<Sha256>::from_digests(&digests);
            prop_assert!(their_root(root, size).verify_inclusion(&leaf(index), index, &theirs).is_ok());
        }
    }

    #[test]
    fn a_consistency_proof_holds_at_any_sizes_and_ct_merkle_accepts_it((old, new, indices) in two_sizes()) {
        let tree = Sparse::new(indices);
        let (old_root, new_root) = (tree.root(old), tree.root(new));
        let proof = consistency_proof(old, new, &tree).unwrap();
        prop_assert_eq!(verify_consistency(old, new, &proof, &old_root, &new_root), Ok(()));
        if old < new {
            let digests = their_digests(&proof);
            let theirs = ConsistencyProof::<Sha256>::from_digests(&digests);
            let accepted = their_root(new_root, new).verify_consistency(&their_root(old_root, old), &theirs);
            prop_assert!(accepted.is_ok());
        }
    }

    #[test]
    fn no_changed_proof_is_accepted_at_any_size(
        (old, new, indices) in two_sizes(),
        change in change(),
        step in 1_u64..4,
    ) {
        let index = indices[0];
        let tree = Sparse::new(indices);
        let (old_root, new_root) = (tree.root(old), tree.root(new));
        let this = leaf_hash(&leaf(index));

        let proof = inclusion_proof(index, new, &tree).unwrap();
        prop_assert!(verify_inclusion(&this, index, new, &changed(&proof, change), &new_root).is_err());
        for other in [index.wrapping_sub(step), index + step, index ^ 1, new - 1 - index] {
            prop_assert!(other == index || verify_inclusion(&this, other, new, &proof, &new_root).is_err());
        }
        prop_assert!(verify_inclusion(&this, index, new + step, &proof, &tree.root(new + step)).is_err());
        prop_assert!(verify_inclusion(&leaf_hash(b"other"), index, new, &proof, &new_root).is_err());

        let proof = consistency_proof(old, new, &tree).unwrap();
        prop_assert!(verify_consistency(old, new, &changed(&proof, change), &old_root, &new_root).is_err());
        // Where equal leaves make the proofs of two pairs of sizes equal, one may stand for the other.
        for (earlier, later) in [(old, new + step), (old.saturating_sub(step).max(1), new)] {
            let verdict = verify_consistency(earlier, later, &proof, &tree.root(earlier), &tree.root(later));
            prop_assert_eq!(verdict.is_ok(), consistency_proof(earlier, later, &tree).unwrap() == proof);
        }
        if old < new {
            prop_assert!(verify_consistency(old, new, &proof, &new_root, &old_root).is_err());
            // The last leaf of the old tree was another one.
            let fork = Sparse::new(tree.leaves.keys().copied().chain([old - 1]));
            if tree.leaves.contains_key(&(old - 1)) {
                let plain = Sparse::new(tree.leaves.keys().copied().filter(|kept| *kept != old - 1));
                prop_assert!(verify_consistency(old, new, &proof, &plain.root(old), &new_root).is_err());
            } else {
                prop_assert!(verify_consistency(old, new, &proof, &fork.root(old), &new_root).is_err());
            }
        }
    }

    #[test]
    fn a_batch_on_a_tree_of_any_size_proves_itself(old in size(), batch in 0_u64..40, rest in size_and_indices()) {
        let indices: Vec<u64> = rest.1.into_iter().filter(|index| *index < old).chain(old..old + batch).collect();
        let tree = Sparse::new(indices);
        let leaves: Vec<Hash> = (old..old + batch).map(|index| leaf_hash(&leaf(index))).collect();
        let before = compact_range(old, &tree).unwrap();
        let extension = before.extend(&leaves);
        let new = old + batch;
        prop_assert_eq!(extension.root(), tree.root(new));
        prop_assert_eq!(extension.range(), &compact_range(new, &tree).unwrap());
        prop_assert_eq!(extension.consistency().unwrap(), consistency_proof(old, new, &tree).unwrap());
        for position in 0..leaves.len() {
            let expected = inclusion_proof(old + position as u64, new, &tree).unwrap();
            prop_assert_eq!(extension.inclusion(position).unwrap(), expected);
        }
    }

    #[test]
    fn a_range_of_a_tree_of_any_size_is_proven_whole(
        (size, indices) in size_and_indices(),
        length in 1_u64..70,
        change in change(),
    ) {
        let start = indices[0];
        let end = (start + length).min(size);
        let tree = Sparse::new(indices.into_iter().chain(start..end));
        let root = tree.root(size);
        let leaves: Vec<Hash> = (start..end).map(|index| leaf_hash(&leaf(index))).collect();
        let proof = range_proof(start, end, size, &tree).unwrap();
        prop_assert_eq!(verify_range(start, &leaves, size, &proof, &root), Ok(()));
        prop_assert!(proof.left.len() <= 40 && proof.right.len() <= 40);

        prop_assert!(verify_range(start, &changed(&leaves, change), size, &proof, &root).is_err());
        let left = RangeProof { left: changed(&proof.left, change), right: proof.right.clone() };
        prop_assert!(verify_range(start, &leaves, size, &left, &root).is_err());
        let right = RangeProof { left: proof.left.clone(), right: changed(&proof.right, change) };
        prop_assert!(verify_range(start, &leaves, size, &right, &root).is_err());
        prop_assert!(verify_range(start + 1, &leaves, size, &proof, &root).is_err());
        prop_assert!(verify_range(start, &leaves, size + 1, &proof, &tree.root(size + 1)).is_err());
    }

    #[test]
    fn a_proof_reads_the_same_from_the_tiles_it_needs((old, new, indices) in two_sizes()) {
        let index = indices[0];
        let tree = Sparse::new(indices);
        let inclusion = inclusion_plan(index, new).unwrap();
        let consistency = consistency_plan(old, new).unwrap();
        let range = range_plan(old - 1, old, new).unwrap();
        let mut tiles = TileSet::new();
        for node in inclusion.nodes().iter().chain(consistency.nodes()).chain(range.nodes()) {
            let (tile, positions) = TileCoord::of_node(*node, new).unwrap();
            prop_assert!(tile.is_within(new) && positions.end <= usize::from(tile.width()));
            prop_assert_eq!(tile.path().parse::<LogPath>(), Ok(LogPath::Tile(tile)));
            prop_assert_eq!(TileCoord::new(tile.level(), tile.index(), tile.width()), Ok(tile));
            let hashes = tile_hashes(tile, &tree).unwrap();
            let encoded = encode_tile(&hashes);
            prop_assert_eq!(decode_tile(tile, &encoded), Ok(hashes));
            tiles.insert(tile, &encoded).unwrap();
        }
        prop_assert_eq!(inclusion_proof(index, new, &tiles).ok(), inclusion_proof(index, new, &tree).ok());
        prop_assert_eq!(consistency_proof(old, new, &tiles).ok(), consistency_proof(old, new, &tree).ok());
        prop_assert_eq!(range_proof(old - 1, old, new, &tiles).ok(), range_proof(old - 1, old, new, &tree).ok());
    }

    #[test]
    fn the_tiles_between_two_sizes_complete_the_tiles_of_the_first(old in 0_u64..200_000, more in 0_u64..3000) {
        let new = old + more;
        let before: BTreeSet<TileCoord> = tiles_between(0, old).collect();
        let after: BTreeSet<TileCoord> = tiles_between(0, new).collect();
        let between: Vec<TileCoord> = tiles_between(old, new).collect();
        let distinct: BTreeSet<TileCoord> = between.iter().copied().collect();
        prop_assert_eq!(distinct.len(), between.len());
        prop_assert!(distinct.iter().eq(after.difference(&before)));
        let hashes: u64 = tiles_between(0, new).filter(|tile| tile.level() == 0).map(|t| u64::from(t.width())).sum();
        prop_assert_eq!(hashes, new);
    }

    #[test]
    fn a_bundle_reads_back(entries in vec(vec(any::<u8>(), 0..20), 1..=256), cut in any::<prop::sample::Index>()) {
        let coord = BundleCoord::new(5, u16::try_from(entries.len()).unwrap()).unwrap();
        let encoded = encode_bundle(&entries).unwrap();
        prop_assert_eq!(decode_bundle(coord, &encoded).unwrap(), entries);
        prop_assert!(decode_bundle(coord, &encoded[..cut.index(encoded.len())]).is_err());
        prop_assert!(decode_bundle(coord, &[&encoded[..], &[0]].concat()).is_err());
    }

    #[test]
    fn a_path_of_any_coordinate_reads_back(level in 0_u8..8, index in any::<u64>(), width in 1_u16..=256) {
        let index = index % (MAX_SIZE >> (8 * level)).div_ceil(256);
        if let Ok(tile) = TileCoord::new(level, index, width) {
            prop_assert_eq!(tile.path().parse(), Ok(LogPath::Tile(tile)));
        }
        if let Ok(bundle) = BundleCoord::new(index, width) {
            prop_assert_eq!(bundle.path().parse(), Ok(LogPath::Entries(bundle)));
        }
    }

    #[test]
    fn hostile_input_ends_in_a_verdict(
        numbers in prop::array::uniform3(prop_oneof![any::<u64>(), 0_u64..70, MAX_SIZE - 3..=MAX_SIZE + 3, u64::MAX - 3..]),
        hashes in vec(any::<[u8; 32]>().prop_map(Hash), 0..70),
        split in any::<prop::sample::Index>(),
        level in any::<u8>(),
        text in "(tile/(entries|[0-9]{1,3})/)?[x0-9./p]{0,40}|\\PC{0,40}",
    ) {
        let [first, second, third] = numbers;
        let (left, right) = hashes.split_at(split.index(hashes.len() + 1));
        let this = leaf_hash(b"");
        let edges = RangeProof { left: left.to_vec(), right: right.to_vec() };
        prop_assert!(verify_inclusion(&this, first, second, &hashes, &EMPTY_ROOT).is_err());
        prop_assert!(verify_range(first, &hashes, second, &edges, &EMPTY_ROOT).is_err());
        let nothing_to_prove = hashes.is_empty() && first == second && second <= MAX_SIZE && first != 0;
        let verdict = verify_consistency(first, second, &hashes, &this, &this);
        prop_assert_eq!(verdict.is_ok(), nothing_to_prove);
        if let Ok(range) = CompactRange::from_parts(first, left.to_vec()) {
            let _ = range.root_with(second, right);
            let extension = range.extend(right);
            prop_assert_eq!(extension.size(), first + right.len() as u64);
            let consistency = extension.consistency().unwrap();
            if extension.size() <= MAX_SIZE {
                let (old, new) = (range.root(), extension.root());
                prop_assert_eq!(verify_consistency(first, extension.size(), &consistency, &old, &new), Ok(()));
            }
            let past = extension.inclusion(right.len() + split.index(100));
            let refused = matches!(past, Err(ProofError::IndexBeyondSize { .. }));
            prop_assert!(refused);
        }
        let _ = inclusion_plan(first, second);
        let _ = consistency_plan(first, second);
        let _ = range_plan(first, second, third);
        let _ = TileCoord::of_node(NodeId::new(level, first), second);
        let _ = BundleCoord::of_entry(first, second);
        let _ = TileSet::new().node(level, first);
        let _ = Tree::new().node(level, first);
        if let Ok(path) = text.parse::<LogPath>() {
            prop_assert_eq!(path.to_string(), text);
        }
        if let Ok(tile) = TileCoord::new(level % 8, first % 1000, 256) {
            let _ = decode_tile(tile, &bytes(&hashes));
            let _ = tile.is_within(second);
        }
        if let Ok(bundle) = BundleCoord::new(first, 3) {
            let _ = decode_bundle(bundle, &bytes(&hashes));
            let _ = bundle.is_within(second);
        }
    }
}
