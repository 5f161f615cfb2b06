//! How a complete subtree is named, and the walk from a node to the root that every proof is made of.
//!
//! No hash is computed here. Read `plan.rs` next.

/// The complete subtree over leaves `index << level .. (index + 1) << level`. Leaves are level 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId {
    /// Height of the subtree: it has `1 << level` leaves.
    pub level: u8,
    /// Position among the subtrees of this level.
    pub index: u64,
}

impl NodeId {
    /// Names a node.
    pub fn new(level: u8, index: u64) -> Self {
        Self { level, index }
    }

    /// Whether a tree of `size` leaves holds this subtree complete.
    pub fn is_complete_in(self, size: u64) -> bool {
        self.index < size.checked_shr(u32::from(self.level)).unwrap_or(0)
    }
}

/// The complete subtrees, left to right, that make up the leaves `size >> level << level .. size`:
/// the part of the last subtree of `level` that exists. With `level` 63 it is the whole tree (sizes are below 2^63).
pub(crate) fn right_edge(size: u64, level: u8) -> impl DoubleEndedIterator<Item = NodeId> {
    (0..level.min(63)).rev().filter(move |l| (size >> l) & 1 == 1).map(move |l| NodeId::new(l, (size >> l) - 1))
}

/// What stands beside the path at one level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sibling {
    /// A complete subtree.
    Complete(NodeId),
    /// The last subtree of this level, cut short by the end of the tree; see [`right_edge`].
    Ragged(u8),
}

/// The siblings met when walking from node (`level`, `index`) up to the root of a tree of `size` leaves.
pub(crate) struct Siblings {
    level: u8,
    index: u64,
    size: u64,
}

impl Siblings {
    /// The node must be in the tree, complete or cut short; otherwise the walk is meaningless but ends.
    pub(crate) fn new(level: u8, index: u64, size: u64) -> Self {
        Self { level, index, size }
    }
}

impl Iterator for Siblings {
    type Item = Sibling;

    fn next(&mut self) -> Option<Sibling> {
        let last_leaf = self.size.checked_sub(1)?;
        while self.level < 63 && last_leaf >> self.level != 0 {
            let (level, index) = (self.level, self.index);
            self.level += 1;
            self.index >>= 1;
            let sibling = NodeId::new(level, index ^ 1);
            if sibling.is_complete_in(self.size) {
                return Some(Sibling::Complete(sibling));
            }
            if sibling.index <= last_leaf >> level {
                return Some(Sibling::Ragged(level));
            }
        }
        None
    }
}
