//! What flow promises, as tests: the table row by row, gates explored to the end, histories that must be refused.
//!
//! `world` drives an instance the way the engine does: decide, seal, apply. Read next: `table`.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![expect(
    clippy::doc_markdown,
    clippy::items_after_statements,
    clippy::match_same_arms,
    clippy::needless_for_each,
    clippy::semicolon_if_nothing_returned,
    reason = "tables of forgeries and edits read best as they stand"
)]

mod counting;
mod exhaustive;
mod forgeries;
mod grants;
mod histories;
mod lifting;
mod projections;
mod reservations;
mod shadow;
mod stopping;
mod table;
mod terms;
mod world;
