//! The configuration: one typed tree, and where each value came from.
//!
//! Defaults, then `countersign.toml`, then `COUNTERSIGN_*` variables (two underscores between levels:
//! `COUNTERSIGN_LISTEN__ADDRESS`), then flags; a later one wins. Unknown keys are errors that name the nearest key.
//! Secrets are references or file paths, never values. Read next: `tree` (the settings), `load` (the layers).

mod load;
mod tree;

pub(crate) use load::{Loaded, load, reference};
pub(crate) use tree::{Config, Listen, Log, Runner, Secrets};
