//! The nouns that every room shares: ids, names, digests, time, principals, verdicts, outcomes.
//!
//! Absent on purpose: clocks that tick, randomness, storage, HTTP, Cedar. Ids are minted in the program;
//! this crate only parses and prints them. Types here carry their invariant in the constructor.
//!
//! Read next: `ledger/entry` (how these nouns become signed bytes), then `gateway/flow`.

mod digest;
mod id;
mod name;
mod outcome;
mod principal;
mod secret;
mod state;
mod time;
mod verdict;

pub use digest::{Digest, DigestError};
pub use id::{
    ActionId, DecisionId, GateId, GatewayId, GrantId, IdError, InstanceId, ItemId, LogId, OrgId, PermitId, Pseudonym,
    RunId, StreamId,
};
pub use name::{Name, NameError};
pub use outcome::Outcome;
pub use principal::{Assurance, Delegator, Principal, PrincipalKind, Scope};
pub use secret::{SecretRef, SecretRefError};
pub use state::State;
pub use time::{Clock, Duration, TimeError, Timestamp};
pub use verdict::{Decision, Determining, PolicyDigests, Verdict};
