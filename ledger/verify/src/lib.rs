//! Checks evidence from its bytes alone.
//!
//! The verifier trusts nobody: not the database, not the gateway, not its operator. It is given one root key and one
//! pack, needs no network, no database and no clock, and says what is proven, what is covered, and what it cannot
//! prove. Every transition is replayed through `gateway/flow`. Absent on purpose: evaluating policy (that replay is
//! the gateway's), and anything that could make it depend on who runs it.
//!
//! Read next: `pack` (the file), `check` (the order of the checks), `walk` (what is asked of each entry), `report` (what
//! is said), `code` (how each problem is named).

mod check;
mod code;
mod error;
mod given;
mod keys;
mod pack;
mod person_keys;
mod report;
mod reviews;
mod streams;
mod terms;
mod text;
mod walk;
mod zip;

pub use check::{too_large, verify};
pub use code::Code;
pub use error::VerifyError;
pub use given::{GivenError, MAX_TEXT, check_known, root_key};
pub use pack::{Contents, write};
pub use report::{
    Counts, Facts, Grants, InstanceReport, Lifts, OpenReview, Payloads, PersonKeySeen, PolicySeen, Population, Problem,
    Recovered, Report, Streams, TimeRange, Verdict, Witnesses,
};
pub use zip::MAX_PACK;
