//! RFC 6962 Merkle tree arithmetic: hashes, the right edge of a growing tree, proofs, their verification, and C2SP tiles.
//!
//! Everything here is a function of its arguments. There is no storage, no clock, no signature and no base64: checkpoints
//! and signatures are in `ledger/entry`, the committer that grows a tree is in `ledger/log`, and reading evidence from
//! its bytes is in `ledger/verify`.
//!
//! Read in this order: [`hash`](crate::Hash) (the two hash functions), [`CompactRange`] (append), [`Extension`] (append a
//! batch and prove it), [`HashReader`] and the functions that read proofs from a store, the `verify_*` functions, and
//! [`TileCoord`] (how the tree is laid out in files).
//!
//! A node is named by [`NodeId`]: the hash of the complete subtree over leaves `index << level .. (index + 1) << level`.
//! A subtree that the end of the tree cuts short is never stored; it is folded from complete ones.
#![cfg_attr(test, expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests"))]

#[cfg(test)]
mod definition;
mod error;
mod extension;
mod hash;
mod node;
mod plan;
mod range;
mod reader;
mod tile;
mod tree;
mod verify;

pub use error::{ProofError, ReadError, TileError};
pub use extension::Extension;
pub use hash::{EMPTY_ROOT, HASH_SIZE, Hash, ParseHashError, leaf_hash, node_hash};
pub use node::NodeId;
pub use plan::{Plan, RangePlan, RangeProof, consistency_plan, inclusion_plan, range_plan};
pub use range::CompactRange;
pub use reader::{HashReader, compact_range, consistency_proof, inclusion_proof, range_proof, root, tile_hashes};
pub use tile::{
    BundleCoord, LogPath, MAX_ENTRY_SIZE, TILE_HEIGHT, TILE_WIDTH, TileCoord, TileSet, bundles_between, decode_bundle,
    decode_tile, encode_bundle, encode_tile, tiles_between,
};
pub use tree::Tree;
pub use verify::{root_of_inclusion, verify_consistency, verify_inclusion, verify_range};

/// The largest tree size this crate accepts from outside: 2^62 leaves.
///
/// It leaves room above it, so that appending to an accepted tree cannot overflow, and it fits a signed 64-bit column.
pub const MAX_SIZE: u64 = 1 << 62;
