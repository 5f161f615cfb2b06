//! What the verifier owes an auditor: a lawful log is VALID and told as it was; whatever was touched is INVALID, for the
//! right reason; what cannot be judged is INCONCLUSIVE.
//!
//! Logs are made as the gateway makes them (`world`): decided by `flow`, sealed, folded. Forgers hold every key but the
//! root's, unless a test says otherwise.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod bits;
mod codes;
mod container;
mod forged;
mod granted;
mod lawful;
mod lifted;
mod notes;
mod program;
mod signed;
mod world;
