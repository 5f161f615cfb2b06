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
