//! Reads tiles, nodes and proofs of a log from the journal.
//!
//! Full tiles are stored when they are completed; the last, partial one of each level is put together from entries
//! (level 0) or from the subtree hashes of the full tiles below it. Absent: the arithmetic (`ledger/merkle`).

use std::collections::BTreeMap;

use countersign_ledger_merkle::{
    CompactRange, Hash, HashReader as _, NodeId, ProofError, TILE_WIDTH, TileCoord, TileSet, consistency_plan,
    decode_tile, encode_tile, inclusion_plan, leaf_hash,
};

use crate::journal::{Journal, JournalError, LogNumber};

const WIDTH: u64 = TILE_WIDTH as u64;

/// Why the tree could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TreeError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Proof(#[from] ProofError),
}

/// The hashes of one tile, in order.
pub(crate) async fn tile_hashes(
    journal: &dyn Journal,
    log: LogNumber,
    tile: TileCoord,
) -> Result<Vec<Hash>, JournalError> {
    let width = usize::from(tile.width());
    if let Some(bytes) = journal.tile(log, tile.level(), tile.index()).await? {
        let full = TileCoord::new(tile.level(), tile.index(), TILE_WIDTH)
            .and_then(|full| decode_tile(full, &bytes))
            .map_err(|e| JournalError::Corrupt(format!("tile `{tile}`: {e}")))?;
        return Ok(full.into_iter().take(width).collect());
    }
    let first = tile.index() * WIDTH;
    let range = first..first + u64::from(tile.width());
    let hashes: Vec<Hash> = if tile.level() == 0 {
        journal.entries(log, range).await?.iter().map(|entry| leaf_hash(&entry.leaf)).collect()
    } else {
        journal.tile_roots(log, tile.level() - 1, range).await?
    };
    if hashes.len() == width {
        Ok(hashes)
    } else {
        Err(JournalError::Corrupt(format!("tile `{tile}` has {} hashes", hashes.len())))
    }
}

/// Nodes of the tree of `size` leaves, in the order asked.
pub(crate) async fn nodes(
    journal: &dyn Journal,
    log: LogNumber,
    size: u64,
    ids: &[NodeId],
) -> Result<Vec<Hash>, TreeError> {
    // The widest form of each tile that any of the nodes needs.
    let mut wanted: BTreeMap<(u8, u64), TileCoord> = BTreeMap::new();
    for id in ids {
        let (tile, _) = TileCoord::of_node(*id, size)?;
        wanted.insert((tile.level(), tile.index()), tile);
    }
    let mut tiles = TileSet::new();
    for tile in wanted.into_values() {
        let hashes = tile_hashes(journal, log, tile).await?;
        tiles.insert(tile, &encode_tile(&hashes)).map_err(|e| JournalError::Corrupt(format!("tile `{tile}`: {e}")))?;
    }
    ids.iter().map(|id| tiles.node(id.level, id.index).map_err(TreeError::from)).collect()
}

/// The right edge of the tree of `size` leaves.
pub(crate) async fn edge(journal: &dyn Journal, log: LogNumber, size: u64) -> Result<CompactRange, TreeError> {
    let ids: Vec<NodeId> = CompactRange::node_ids(size).collect();
    Ok(CompactRange::from_parts(size, nodes(journal, log, size, &ids).await?)?)
}

pub(crate) async fn inclusion(
    journal: &dyn Journal,
    log: LogNumber,
    index: u64,
    size: u64,
) -> Result<Vec<Hash>, TreeError> {
    let plan = inclusion_plan(index, size)?;
    Ok(plan.assemble(&nodes(journal, log, size, plan.nodes()).await?)?)
}

pub(crate) async fn consistency(
    journal: &dyn Journal,
    log: LogNumber,
    old: u64,
    new: u64,
) -> Result<Vec<Hash>, TreeError> {
    let plan = consistency_plan(old, new)?;
    Ok(plan.assemble(&nodes(journal, log, new, plan.nodes()).await?)?)
}
