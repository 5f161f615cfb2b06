//! The policy in force, per organization: loaded, verified, checked, swapped without blocking a reader, kept on disk.
//!
//! Two phases: [`Store::prepare`] does everything that can fail and makes the bytes durable; the engine then commits
//! the ledger entry; [`Store::commit`] swaps and cannot fail. A bundle that fails anything changes nothing. The ledger
//! says which bundle is active; the disk only remembers. Absent: who may activate (the active bundle), the entry
//! (`gateway/engine`). Read next: `store`, then `disk`.
//!
//! A first start: [`Store::create`] with version 1 of the root document; seal [`default_draft`] with
//! [`Store::next_lineage`], sign it with the local key; `prepare` it with [`default_catalogue`]; commit genesis and the
//! policy entry; `commit`. A later start: [`Store::open`] with genesis' root digest and what the ledger's last policy
//! and catalogue entries name.
#![cfg_attr(test, expect(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests"))]

mod disk;
mod embedded;
mod folder;
mod store;
mod watch;

pub use countersign_policy_bundle as bundle;
pub use countersign_policy_decide as decide;
pub use embedded::{default_catalogue, default_draft, example, example_names};
pub use folder::{FolderError, read_bundle, read_catalogue, read_draft, read_folder};
pub use store::{Activation, Active, Change, LastGood, Opened, Prepared, Prover, Store, StoreError, proved};
pub use watch::{Look, NotTaken, Watched, watch};
