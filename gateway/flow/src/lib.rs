//! The life of an instance as a pure state machine: what a proposal becomes, and what a stream of entries means.
//!
//! Two functions carry it. [`decide`] turns a proposal, with what policy said about it, into the drafts of one append
//! or into the reason why it is illegal. [`Instance::evolve`] folds entries, leaf facts alone, and refuses every
//! history that no proposal could have written; the gateway and the offline verifier run the same fold.
//!
//! Absent on purpose: Cedar, storage, HTTP, clocks, randomness. Times, ids, salted digests and verdicts are passed in.
//! Policy is the signal, this is the authority: a verdict never moves a state, [`decide`] does.
//!
//! Read next: `edges` (the eleven), `proposal` (the rows of the table), `propose`, `decision` and `lift` (what they become),
//! `gate` (votes and counting), `grant` and `granting` (rules met in advance), `terms` (what people read of one), `fold` (the
//! authority fold), `rows` (projections), `apply` (both, for one append).

mod apply;
mod decision;
pub mod edges;
mod error;
mod fold;
pub mod gate;
mod grant;
mod granting;
mod lift;
mod proposal;
mod propose;
mod reply;
pub mod rows;
mod scene;
mod terms;

pub use error::{EvolveError, Illegal};
pub use fold::{Instance, LivePermit, OpenStart, Reserved, Settled};
pub use gate::{
    Ballot, BallotItem, Change, Current, Lifted, Lifting, Offer, OpenGate, OpenItem, Tally, TallyItem, UNNAMED_PERSON,
    Vote,
};
pub use grant::{HeldGrant, MAX_TOOLS, MAX_USES, OPERATION as GRANT_OPERATION};
pub use proposal::{
    Action, Actions, Actor, AskGrant, Asked, Begin, Complete, Create, Deadline, Decide, Expire, Force, GateNote,
    GateTerms, Grant, ItemTerms, LiftRule, Now, PermitTerms, Proposal, Reasked, Report, RevokeGrant, RunTerms,
    StartInstance, StartTerms, SweepStart, SystemReject, Terminate,
};
pub use propose::decide;
pub use reply::{ActionAnswer, Decided, Place, Reply, WhyNot};
pub use terms::terms_differ;

/// Most items in one gate, and most actions in one batch.
pub const MAX_ITEMS: usize = 16;
