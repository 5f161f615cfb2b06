//! How a tree is laid out in files: C2SP tlog-tiles with tiles of height 8, and entry bundles.
//!
//! Names and bytes only; who writes them where is `ledger/log`. A tile of level `L` holds 256 consecutive hashes of tree
//! level `8 L`; a bundle holds the 256 entries whose hashes are the tile of level 0 with the same index.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use crate::plan::check_size;
use crate::{HASH_SIZE, Hash, HashReader, MAX_SIZE, NodeId, ProofError, TileError, node_hash};

/// Tree levels in a tile.
pub const TILE_HEIGHT: u8 = 8;

/// Hashes in a full tile, entries in a full bundle.
pub const TILE_WIDTH: u16 = 256;

/// Longest entry in bytes: its length is written in 16 bits.
pub const MAX_ENTRY_SIZE: usize = u16::MAX as usize;

const FULL: u64 = TILE_WIDTH as u64;

/// Level of the tile that holds the root of the largest tree.
const LAST_LEVEL: u8 = 7;

/// A tile: its level (0 to 7), its index in the level, and how many hashes of it are meant (256, or fewer when partial).
///
/// Every coordinate is within a tree of [`MAX_SIZE`]. Displayed as its path, `tile/1/x001/234.p/5`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TileCoord {
    level: u8,
    index: u64,
    width: u16,
}

/// An entry bundle: its index and how many entries of it are meant. Displayed as its path, `tile/entries/x001/234.p/5`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BundleCoord {
    index: u64,
    width: u16,
}

/// Either kind of path below a log's prefix, read with `parse`. The one canonical form of each is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogPath {
    /// `tile/<L>/<N>[.p/<W>]`
    Tile(TileCoord),
    /// `tile/entries/<N>[.p/<W>]`
    Entries(BundleCoord),
}

impl TileCoord {
    /// Names a tile that some tree within [`MAX_SIZE`] has.
    pub fn new(level: u8, index: u64, width: u16) -> Result<Self, TileError> {
        let tile = Self { level, index, width };
        let shift = u32::from(level) * u32::from(TILE_HEIGHT);
        let last = MAX_SIZE.checked_shr(shift).unwrap_or(0);
        let end = index.checked_mul(FULL).and_then(|first| first.checked_add(width.into()));
        if (1..=TILE_WIDTH).contains(&width) && end.is_some_and(|end| end <= last) {
            Ok(tile)
        } else {
            Err(TileError::OutOfRange { level, index, width })
        }
    }

    /// The tile that holds `node` (or the nodes below it from which it is hashed) in a tree of `size` leaves, as wide as
    /// that tree has it, and the positions in the tile of the hashes that make up the node.
    pub fn of_node(node: NodeId, size: u64) -> Result<(Self, Range<usize>), ProofError> {
        check_size(size)?;
        if !node.is_complete_in(size) {
            return Err(ProofError::NodeMissing { level: node.level, index: node.index });
        }
        let level = node.level / TILE_HEIGHT;
        let below = node.level % TILE_HEIGHT;
        // A node complete in an accepted size is below 2^62 leaves, so none of these shifts can overflow.
        let first = node.index << below;
        let index = first / FULL;
        let width = (size >> (level * TILE_HEIGHT)) - index * FULL;
        let start = usize::try_from(first % FULL).unwrap_or(0);
        let width = width.min(FULL).try_into().unwrap_or(TILE_WIDTH);
        Ok((Self { level, index, width }, start..start + (1 << below)))
    }

    /// Level of the tile: its hashes are nodes of tree level `8 * level`.
    pub fn level(self) -> u8 {
        self.level
    }

    /// Index of the tile in its level.
    pub fn index(self) -> u64 {
        self.index
    }

    /// Number of hashes, 1 to 256.
    pub fn width(self) -> u16 {
        self.width
    }

    /// Whether the tile has all its 256 hashes, and so will never change.
    pub fn is_full(self) -> bool {
        self.width == TILE_WIDTH
    }

    /// The first hash of the tile as a tree node; the others follow it in the same tree level.
    pub fn first_node(self) -> NodeId {
        NodeId::new(self.level * TILE_HEIGHT, self.index * FULL)
    }

    /// Whether a tree of `size` leaves, or a smaller one on the way to it, has this tile in this width.
    pub fn is_within(self, size: u64) -> bool {
        let end = self.index * FULL + u64::from(self.width);
        end <= size.checked_shr(u32::from(self.level) * u32::from(TILE_HEIGHT)).unwrap_or(0)
    }

    /// The path below the log's prefix.
    pub fn path(self) -> String {
        self.to_string()
    }
}

impl BundleCoord {
    /// Names a bundle that some log within [`MAX_SIZE`] has.
    pub fn new(index: u64, width: u16) -> Result<Self, TileError> {
        TileCoord::new(0, index, width).map(|_| Self { index, width })
    }

    /// The bundle that holds entry `entry` in a log of `size` entries, as wide as that log has it, and the entry's
    /// position in it.
    pub fn of_entry(entry: u64, size: u64) -> Result<(Self, usize), ProofError> {
        if entry >= size {
            return Err(ProofError::IndexBeyondSize { index: entry, size });
        }
        let (tile, positions) = TileCoord::of_node(NodeId::new(0, entry), size)?;
        Ok((Self { index: tile.index, width: tile.width }, positions.start))
    }

    /// Index of the bundle.
    pub fn index(self) -> u64 {
        self.index
    }

    /// Number of entries, 1 to 256.
    pub fn width(self) -> u16 {
        self.width
    }

    /// Whether the bundle has all its 256 entries, and so will never change.
    pub fn is_full(self) -> bool {
        self.width == TILE_WIDTH
    }

    /// The indices of its entries.
    pub fn entries(self) -> Range<u64> {
        let first = self.index * FULL;
        first..first + u64::from(self.width)
    }

    /// Whether a log of `size` entries, or a smaller one on the way to it, has this bundle in this width.
    pub fn is_within(self, size: u64) -> bool {
        self.entries().end <= size
    }

    /// The path below the log's prefix.
    pub fn path(self) -> String {
        self.to_string()
    }
}

impl fmt::Display for TileCoord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tile/{}/", self.level)?;
        write_index(f, self.index, self.width)
    }
}

impl fmt::Display for BundleCoord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tile/entries/")?;
        write_index(f, self.index, self.width)
    }
}

impl fmt::Display for LogPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tile(tile) => tile.fmt(f),
            Self::Entries(bundle) => bundle.fmt(f),
        }
    }
}

fn write_index(f: &mut fmt::Formatter<'_>, index: u64, width: u16) -> fmt::Result {
    let mut groups = [0_u64; 7];
    let mut rest = index;
    let mut count = 0;
    for group in &mut groups {
        *group = rest % 1000;
        rest /= 1000;
        count += 1;
        if rest == 0 {
            break;
        }
    }
    for (left, group) in groups.iter().take(count).enumerate().rev() {
        if left == 0 { write!(f, "{group:03}")? } else { write!(f, "x{group:03}/")? }
    }
    if width < TILE_WIDTH { write!(f, ".p/{width}") } else { Ok(()) }
}

impl FromStr for LogPath {
    type Err = TileError;

    /// Parses a path below the log's prefix, without a leading slash.
    fn from_str(path: &str) -> Result<Self, TileError> {
        // Two paths for one tile would let a copy hide behind the other, so only the form we write is read.
        parse(path)?
            .filter(|parsed| parsed.to_string() == path)
            .ok_or_else(|| TileError::Path { path: path.chars().take(128).collect() })
    }
}

/// `Ok(None)` for bad syntax, an error for a tile that no tree has. Accepts some forms that are not canonical.
fn parse(path: &str) -> Result<Option<LogPath>, TileError> {
    let Some((level, index)) = path.strip_prefix("tile/").and_then(|rest| rest.split_once('/')) else {
        return Ok(None);
    };
    let (index, width) = match index.split_once(".p/") {
        Some((index, width)) => (index, decimal(width)),
        None => (index, Some(FULL)),
    };
    let width = width.and_then(|width| u16::try_from(width).ok());
    let (Some(index), Some(width)) = (parse_index(index), width) else { return Ok(None) };
    if level == "entries" {
        return BundleCoord::new(index, width).map(|bundle| Some(LogPath::Entries(bundle)));
    }
    match decimal(level).and_then(|level| u8::try_from(level).ok()) {
        Some(level) => TileCoord::new(level, index, width).map(|tile| Some(LogPath::Tile(tile))),
        None => Ok(None),
    }
}

fn parse_index(text: &str) -> Option<u64> {
    let mut groups = text.split('/').peekable();
    let mut index = 0_u64;
    while let Some(group) = groups.next() {
        let digits = if groups.peek().is_some() { group.strip_prefix('x')? } else { group };
        if digits.len() != 3 {
            return None;
        }
        index = index.checked_mul(1000)?.checked_add(decimal(digits)?)?;
    }
    Some(index)
}

/// Digits only: `u64::from_str` would take a plus sign.
fn decimal(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// The tiles that a tree of `new` leaves has and one of `old` leaves did not, level by level: the full tiles completed
/// since, then the partial one if it is new. With `old` 0, every tile. Sizes above [`MAX_SIZE`] count as that.
pub fn tiles_between(old: u64, new: u64) -> impl Iterator<Item = TileCoord> {
    let (old, new) = (old.min(MAX_SIZE), new.min(MAX_SIZE));
    (0..=LAST_LEVEL).flat_map(move |level| {
        let (old, new) = (old >> (level * TILE_HEIGHT), new >> (level * TILE_HEIGHT));
        widths_between(old, new).map(move |(index, width)| TileCoord { level, index, width })
    })
}

/// The bundles that a log of `new` entries has and one of `old` entries did not, in order. With `old` 0, every bundle.
/// Sizes above [`MAX_SIZE`] count as that.
pub fn bundles_between(old: u64, new: u64) -> impl Iterator<Item = BundleCoord> {
    widths_between(old.min(MAX_SIZE), new.min(MAX_SIZE)).map(|(index, width)| BundleCoord { index, width })
}

fn widths_between(old: u64, new: u64) -> impl Iterator<Item = (u64, u16)> {
    let partial = u16::try_from(new % FULL).ok().filter(|width| *width > 0 && new > old);
    (old / FULL..new / FULL).map(|index| (index, TILE_WIDTH)).chain(partial.map(|width| (new / FULL, width)))
}

/// The bytes of a tile: its hashes one after another.
pub fn encode_tile(hashes: &[Hash]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| hash.0).collect()
}

/// The hashes of a tile, which must have exactly the width of its coordinate.
pub fn decode_tile(tile: TileCoord, bytes: &[u8]) -> Result<Vec<Hash>, TileError> {
    let (hashes, rest) = bytes.as_chunks::<HASH_SIZE>();
    if !rest.is_empty() || hashes.len() != usize::from(tile.width) {
        return Err(TileError::TileLength { width: tile.width, actual: bytes.len() });
    }
    Ok(hashes.iter().copied().map(Hash).collect())
}

/// The bytes of a bundle: each entry after its length in two bytes, big-endian.
pub fn encode_bundle<E: AsRef<[u8]>>(entries: impl IntoIterator<Item = E>) -> Result<Vec<u8>, TileError> {
    let mut bytes = Vec::new();
    for (position, entry) in entries.into_iter().enumerate() {
        let entry = entry.as_ref();
        let length =
            u16::try_from(entry.len()).map_err(|_| TileError::EntryTooLong { position, length: entry.len() })?;
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(entry);
    }
    Ok(bytes)
}

/// The entries of a bundle, which must be exactly as many as its coordinate says, with nothing after them.
pub fn decode_bundle(bundle: BundleCoord, bytes: &[u8]) -> Result<Vec<&[u8]>, TileError> {
    let mut entries = Vec::with_capacity(bundle.width.into());
    let mut rest = bytes;
    while !rest.is_empty() {
        let position = entries.len();
        if position == usize::from(bundle.width) {
            return Err(TileError::BundleWidth { expected: bundle.width });
        }
        let (entry, after) = rest
            .split_first_chunk::<2>()
            .and_then(|(length, after)| after.split_at_checked(u16::from_be_bytes(*length).into()))
            .ok_or(TileError::BundleTruncated { position })?;
        entries.push(entry);
        rest = after;
    }
    if entries.len() == usize::from(bundle.width) {
        Ok(entries)
    } else {
        Err(TileError::BundleWidth { expected: bundle.width })
    }
}

/// Some tiles of a tree, held in memory and read as tree nodes: a sparse log such as an evidence pack carries.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TileSet {
    tiles: BTreeMap<(u8, u64), Vec<Hash>>,
}

impl TileSet {
    /// No tiles.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a tile from its bytes. A partial tile may be given next to a wider one if they agree.
    pub fn insert(&mut self, tile: TileCoord, bytes: &[u8]) -> Result<(), TileError> {
        let hashes = decode_tile(tile, bytes)?;
        let held = self.tiles.entry((tile.level, tile.index)).or_default();
        if held.iter().zip(&hashes).any(|(held, given)| held != given) {
            return Err(TileError::Conflict { level: tile.level, index: tile.index });
        }
        if hashes.len() > held.len() {
            *held = hashes;
        }
        Ok(())
    }

    /// The tiles held, each in the widest form given.
    pub fn iter(&self) -> impl Iterator<Item = (TileCoord, &[Hash])> {
        self.tiles.iter().map(|((level, index), hashes)| {
            let width = hashes.len().try_into().unwrap_or(TILE_WIDTH);
            (TileCoord { level: *level, index: *index, width }, hashes.as_slice())
        })
    }
}

impl HashReader for TileSet {
    type Error = ProofError;

    fn node(&self, level: u8, index: u64) -> Result<Hash, ProofError> {
        let missing = ProofError::NodeMissing { level, index };
        let below = level % TILE_HEIGHT;
        let Some(first) = index.checked_mul(1 << below) else { return Err(missing) };
        let start = usize::try_from(first % FULL).unwrap_or(0);
        self.tiles
            .get(&(level / TILE_HEIGHT, first / FULL))
            .and_then(|hashes| hashes.get(start..start + (1 << below)))
            .and_then(complete_subtree)
            .ok_or(missing)
    }
}

/// The hash over a power of two of hashes.
fn complete_subtree(hashes: &[Hash]) -> Option<Hash> {
    let mut row = hashes.to_vec();
    while row.len() > 1 {
        row = row.as_chunks::<2>().0.iter().map(|[left, right]| node_hash(left, right)).collect();
    }
    row.first().copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definition::leaves;
    use crate::{Tree, inclusion_proof, leaf_hash, tile_hashes};

    fn tile(level: u8, index: u64, width: u16) -> TileCoord {
        TileCoord::new(level, index, width).unwrap()
    }

    #[test]
    fn a_path_is_rendered_as_the_specification_shows() {
        for (path, coord) in [
            ("tile/0/000", LogPath::Tile(tile(0, 0, 256))),
            ("tile/0/001.p/7", LogPath::Tile(tile(0, 1, 7))),
            ("tile/0/x001/x234/067", LogPath::Tile(tile(0, 1_234_067, 256))),
            ("tile/0/x001/x234/067.p/8", LogPath::Tile(tile(0, 1_234_067, 8))),
            ("tile/1/999", LogPath::Tile(tile(1, 999, 256))),
            ("tile/2/x001/000.p/255", LogPath::Tile(tile(2, 1000, 255))),
            ("tile/7/000.p/64", LogPath::Tile(tile(7, 0, 64))),
            ("tile/entries/000", LogPath::Entries(BundleCoord::new(0, 256).unwrap())),
            ("tile/entries/x273/067.p/1", LogPath::Entries(BundleCoord::new(273_067, 1).unwrap())),
            ("tile/0/x018/x014/x398/x509/x481/983.p/255", LogPath::Tile(tile(0, MAX_SIZE / 256 - 1, 255))),
        ] {
            assert_eq!(coord.to_string(), path);
            assert_eq!(path.parse(), Ok(coord));
        }
        assert_eq!(tile(1, 2, 3).path(), "tile/1/002.p/3");
        assert_eq!(BundleCoord::new(2, 3).unwrap().path(), "tile/entries/002.p/3");
    }

    #[test]
    fn a_path_in_any_other_form_is_refused() {
        for path in [
            "",
            "tile",
            "tile/",
            "tile/0",
            "tile/0/",
            "/tile/0/000",
            "tile/0/000/",
            "tile//000",
            "tile/00/000",
            "tile/+0/000",
            "tile/-1/000",
            "tile/0/0",
            "tile/0/00",
            "tile/0/0000",
            "tile/0/x000",
            "tile/0/x000/001",
            "tile/0/001/002",
            "tile/0/x001/x002",
            "tile/0/x01/002",
            "tile/0/X001/002",
            "tile/0/+01",
            "tile/0/ 01",
            "tile/0/0٣",
            "tile/0/000.p",
            "tile/0/000.p/",
            "tile/0/000.p/0",
            "tile/0/000.p/01",
            "tile/0/000.p/+1",
            "tile/0/000.p/256",
            "tile/0/000.p/257",
            "tile/0/000.p/65537",
            "tile/0/000.p/1/2",
            "tile/0/000.p/1.p/1",
            "tile/8/000",
            "tile/64/000",
            "tile/256/000",
            "tile/7/001.p/1",
            "tile/7/000",
            "tile/entries",
            "tile/entries/",
            "tile/entries/1",
            "tile/Entries/000",
            "tile/data/000",
            "tile/0/../000",
            "tile/0/x018/x446/x744/x073/x709/x551/615",
            "tile/0/x999/x999/x999/x999/x999/x999/x999/x999/999",
        ] {
            assert!(path.parse::<LogPath>().is_err(), "{path}");
        }
        let long = "tile/".repeat(1000);
        assert_eq!(long.parse::<LogPath>(), Err(TileError::Path { path: long[..128].to_owned() }));
    }

    #[test]
    fn a_coordinate_names_only_tiles_that_a_tree_can_have() {
        assert!(TileCoord::new(0, MAX_SIZE / 256 - 1, 256).is_ok());
        assert!(tile(0, 0, 256).is_full() && !tile(0, 0, 255).is_full());
        for (level, index, width) in [
            (0, 0, 0),
            (0, 0, 257),
            (0, MAX_SIZE / 256, 1),
            (0, u64::MAX, 1),
            (7, 0, 65),
            (7, 1, 1),
            (8, 0, 1),
            (u8::MAX, 0, 1),
        ] {
            assert_eq!(TileCoord::new(level, index, width), Err(TileError::OutOfRange { level, index, width }));
        }
    }

    #[test]
    fn a_tree_has_the_tiles_that_cover_it() {
        for (size, expected) in [
            (0, vec![]),
            (1, vec!["tile/0/000.p/1"]),
            (255, vec!["tile/0/000.p/255"]),
            (256, vec!["tile/0/000", "tile/1/000.p/1"]),
            (257, vec!["tile/0/000", "tile/0/001.p/1", "tile/1/000.p/1"]),
            (
                70_000,
                (0..273)
                    .map(|index| format!("tile/0/{index:03}"))
                    .chain(["tile/0/273.p/112", "tile/1/000", "tile/1/001.p/17", "tile/2/000.p/1"].map(str::to_owned))
                    .collect::<Vec<_>>()
                    .iter()
                    .map(String::as_str)
                    .collect(),
            ),
        ] {
            let tiles: Vec<String> = tiles_between(0, size).map(TileCoord::path).collect();
            assert_eq!(tiles, expected, "{size}");
            assert!(tiles_between(0, size).all(|tile| tile.is_within(size)));
        }
        assert_eq!(tiles_between(MAX_SIZE - 1, u64::MAX).last(), Some(tile(7, 0, 64)));
        assert_eq!(tiles_between(600, 600).count() + tiles_between(600, 500).count(), 0);
    }

    #[test]
    fn publishing_step_by_step_writes_every_tile_once() {
        let mut written = std::collections::BTreeSet::new();
        let mut bundles = std::collections::BTreeSet::new();
        let sizes = [0, 1, 1, 5, 256, 257, 700, 65_535, 65_536, 65_537, 131_072];
        for step in sizes.windows(2) {
            for tile in tiles_between(step[0], step[1]) {
                assert!(written.insert(tile), "{tile} written twice");
                assert!(tile.is_within(step[1]) && !tile.is_within(step[0]), "{tile} at {step:?}");
            }
            for bundle in bundles_between(step[0], step[1]) {
                assert!(bundles.insert(bundle), "{bundle} written twice");
                assert!(bundle.is_within(step[1]) && !bundle.is_within(step[0]), "{bundle} at {step:?}");
            }
        }
        for size in sizes {
            assert!(tiles_between(0, size).all(|tile| written.contains(&tile)), "{size}");
            assert!(bundles_between(0, size).all(|bundle| bundles.contains(&bundle)), "{size}");
        }
        assert_eq!(bundles.iter().filter(|bundle| bundle.is_full()).count(), 512);
    }

    #[test]
    fn every_node_is_found_in_the_tiles_of_its_tree() {
        let size = 700;
        let tree: Tree = leaves(size).into_iter().collect();
        let mut tiles = TileSet::new();
        for tile in tiles_between(0, size) {
            let bytes = encode_tile(&tile_hashes(tile, &tree).unwrap());
            assert_eq!(bytes.len(), usize::from(tile.width()) * HASH_SIZE);
            tiles.insert(tile, &bytes).unwrap();
        }
        assert_eq!(tiles.iter().map(|(tile, _)| tile).collect::<Vec<_>>(), tiles_between(0, size).collect::<Vec<_>>());
        for level in 0..10 {
            for index in 0..size >> level {
                let node = NodeId::new(level, index);
                assert_eq!(tiles.node(level, index), tree.node(level, index));
                let (tile, positions) = TileCoord::of_node(node, size).unwrap();
                assert!(tile.is_within(size) && positions.end <= usize::from(tile.width()));
                assert_eq!(tile.first_node().level, level / 8 * 8);
                let held = &tiles.tiles[&(tile.level(), tile.index())];
                assert_eq!(held.len(), usize::from(tile.width()));
                assert_eq!(complete_subtree(&held[positions]), tree.node(level, index).ok());
            }
            let missing = Err(ProofError::NodeMissing { level, index: size >> level });
            assert_eq!(tiles.node(level, size >> level), missing);
            assert!(TileCoord::of_node(NodeId::new(level, size >> level), size).is_err());
        }
        for index in 0..size {
            assert_eq!(inclusion_proof(index, size, &tiles).ok(), tree.inclusion(index, size).ok());
        }
        assert!(tiles.node(u8::MAX, u64::MAX).is_err() && tiles.node(63, 1 << 60).is_err());
    }

    #[test]
    fn a_set_of_tiles_holds_the_widest_and_refuses_a_fork() {
        let leaves = leaves(256);
        let bytes = encode_tile(&leaves);
        let mut tiles = TileSet::new();
        for width in [5, 256, 3, 200] {
            tiles.insert(tile(0, 0, width), &bytes[..usize::from(width) * HASH_SIZE]).unwrap();
        }
        assert_eq!(tiles.iter().next().unwrap().0, tile(0, 0, 256));
        let mut forked = bytes.clone();
        forked[HASH_SIZE * 2] ^= 1;
        let conflict = Err(TileError::Conflict { level: 0, index: 0 });
        assert_eq!(tiles.insert(tile(0, 0, 3), &forked[..HASH_SIZE * 3]), conflict);
        assert_eq!(tiles.insert(tile(0, 0, 256), &forked), conflict);
        assert_eq!(tiles.node(8, 0), Err(ProofError::NodeMissing { level: 8, index: 0 }));
        for length in [0, 1, 31, 33, 8191, 8193] {
            let bytes = vec![0; length];
            assert_eq!(
                tiles.insert(tile(0, 1, 256), &bytes),
                Err(TileError::TileLength { width: 256, actual: length })
            );
        }
    }

    #[test]
    fn a_bundle_reads_back_entry_by_entry() {
        let longest = vec![7; MAX_ENTRY_SIZE];
        let entries: [&[u8]; 4] = [b"", b"a", &longest, b"last"];
        let bytes = encode_bundle(entries).unwrap();
        assert_eq!(&bytes[..5], b"\0\0\0\x01a");
        let coord = BundleCoord::new(3, 4).unwrap();
        assert_eq!(decode_bundle(coord, &bytes).unwrap(), entries);
        assert_eq!(coord.entries(), 768..772);

        let wrong = BundleCoord::new(3, 5).unwrap();
        assert_eq!(decode_bundle(wrong, &bytes), Err(TileError::BundleWidth { expected: 5 }));
        let wrong = BundleCoord::new(3, 3).unwrap();
        assert_eq!(decode_bundle(wrong, &bytes), Err(TileError::BundleWidth { expected: 3 }));
        for end in 0..bytes.len().min(40) {
            assert!(decode_bundle(coord, &bytes[..end]).is_err(), "{end}");
        }
        let cut = &bytes[..bytes.len() - 1];
        assert_eq!(decode_bundle(coord, cut), Err(TileError::BundleTruncated { position: 3 }));
        let too_long = vec![0; MAX_ENTRY_SIZE + 1];
        assert_eq!(
            encode_bundle([b"".as_slice(), &too_long]),
            Err(TileError::EntryTooLong { position: 1, length: MAX_ENTRY_SIZE + 1 })
        );
    }

    #[test]
    fn an_entry_is_found_in_its_bundle() {
        for (entry, size, expected) in [
            (0, 1, Some(("tile/entries/000.p/1", 0))),
            (255, 256, Some(("tile/entries/000", 255))),
            (256, 300, Some(("tile/entries/001.p/44", 0))),
            (299, 300, Some(("tile/entries/001.p/44", 43))),
            (300, 300, None),
            (0, 0, None),
            (0, u64::MAX, None),
        ] {
            let found = BundleCoord::of_entry(entry, size).ok().map(|(bundle, at)| (bundle.path(), at));
            assert_eq!(found, expected.map(|(path, at)| (path.to_owned(), at)));
        }
        let refused = Err(ProofError::IndexBeyondSize { index: 300, size: 300 });
        assert_eq!(BundleCoord::of_entry(300, 300), refused);
        let bundle = BundleCoord::of_entry(299, 300).unwrap().0;
        let hashed: Vec<Hash> = bundle.entries().map(|index| leaf_hash(&index.to_be_bytes())).collect();
        assert_eq!(hashed, leaves(300)[256..]);
    }
}
