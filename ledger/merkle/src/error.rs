//! What can be wrong with a size, a proof, a tile or a bundle.
//!
//! Nothing here is about storage: a reader brings its own error, carried unchanged in [`ReadError::Read`].

use crate::{Hash, MAX_SIZE};

/// A size, a position or a proof that does not hold. A proof that yields any of these proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The leaf is outside the tree.
    #[error("leaf `{index}` is not in a tree of `{size}` leaves; name a leaf below the size")]
    IndexBeyondSize {
        /// Index of the leaf.
        index: u64,
        /// Number of leaves of the tree.
        size: u64,
    },
    /// A tree cannot be consistent with a smaller later one.
    #[error("a tree of `{new}` leaves cannot extend a tree of `{old}`; give the smaller size first")]
    SizesReversed {
        /// Size said to be the earlier one.
        old: u64,
        /// Size said to be the later one.
        new: u64,
    },
    /// The size is above [`MAX_SIZE`].
    #[error("tree size `{size}` is above the limit of {MAX_SIZE}; no honest log has this size")]
    SizeTooLarge {
        /// The size given.
        size: u64,
    },
    /// The range is empty, reversed or ends outside the tree.
    #[error("leaves `{start}` to `{end}` are not a range of a tree of `{size}`; give start < end <= size")]
    RangeInvalid {
        /// First leaf of the range.
        start: u64,
        /// First leaf after the range.
        end: u64,
        /// Number of leaves of the tree.
        size: u64,
    },
    /// The number of hashes does not fit the sizes and positions.
    #[error("`{actual}` hashes given where the tree needs `{expected}`; fetch the proof again")]
    WrongLength {
        /// Number of hashes the shape of the tree needs.
        expected: usize,
        /// Number of hashes given.
        actual: usize,
    },
    /// The hashes lead to another root.
    #[error("the proof leads to root `{actual}` and not to `{expected}`; the data, the proof or the root was changed")]
    RootMismatch {
        /// The root that was to be met.
        expected: Hash,
        /// The root the proof leads to.
        actual: Hash,
    },
    /// A node was asked for that is not held.
    #[error("node `{index}` of level `{level}` is not held; read it from the full log")]
    NodeMissing {
        /// Level of the node, leaves are level 0.
        level: u8,
        /// Index of the node in its level.
        index: u64,
    },
}

/// Why a proof could not be read from a store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError<E> {
    /// The question makes no sense for a tree of this size.
    #[error(transparent)]
    Proof(#[from] ProofError),
    /// The store failed to give a node.
    #[error("a tree node could not be read; see the cause")]
    Read(#[source] E),
}

/// A tile path, tile or entry bundle that is not well formed (C2SP tlog-tiles).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TileError {
    /// No tree within [`MAX_SIZE`] has this tile.
    #[error("tile `{index}` of level `{level}` with width `{width}` is in no tree; use a width of 1 to 256")]
    OutOfRange {
        /// Level of the tile.
        level: u8,
        /// Index of the tile in its level.
        index: u64,
        /// Number of hashes or entries.
        width: u16,
    },
    /// The path is not in the one canonical form.
    #[error("`{path}` is not a tile path; use the form `tile/0/x001/234` or `tile/entries/x001/234.p/5`")]
    Path {
        /// The path given, cut to 128 bytes.
        path: String,
    },
    /// The tile has another number of bytes than its width says.
    #[error("a tile of `{width}` hashes has `{actual}` bytes; fetch it again")]
    TileLength {
        /// Number of hashes the coordinate names.
        width: u16,
        /// Number of bytes given.
        actual: usize,
    },
    /// The same tile was given twice with different hashes.
    #[error("two contents given for tile `{index}` of level `{level}`; the log forked or a tile was changed")]
    Conflict {
        /// Level of the tile.
        level: u8,
        /// Index of the tile in its level.
        index: u64,
    },
    /// An entry does not fit its 16-bit length prefix.
    #[error("entry `{position}` of a bundle has `{length}` bytes; the limit is 65535")]
    EntryTooLong {
        /// Position in the bundle.
        position: usize,
        /// Bytes of the entry.
        length: usize,
    },
    /// A bundle ends inside an entry.
    #[error("the bundle ends inside entry `{position}`; fetch it again")]
    BundleTruncated {
        /// Position of the entry that is cut short.
        position: usize,
    },
    /// A bundle holds another number of entries than its coordinate says.
    #[error("a bundle of `{expected}` entries was given another number; fetch it again")]
    BundleWidth {
        /// Number of entries the coordinate names.
        expected: u16,
    },
}
