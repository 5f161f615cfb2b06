//! Protected changes: what the gateway itself carries out once people agreed, as an action of an instance of its own.
//!
//! A change of policy is proposed, checked, compared with the past, asked of the policy in force, approved where that one
//! says so, and then carried out by the gateway: the instance's one action is an operation (`policy.activate`). So gates,
//! votes, expiry, history and evidence are those of every action. Each step is an entry of the organization's stream
//! too. A row says how far a change is; what it says next is done by `drive`, from wherever a crash left it.
//!
//! A change of the tool catalogue that takes people's approval goes the same way, without a window (`tools.register`).
//!
//! Absent: what policy or a gate makes of it (`gateway/flow`, `policy/decide`), checks of a bundle (the program's door),
//! the solver that invariants are proved by.
//! Read next: `row` (how far a change is), `propose`, `drive`, `carry`, `glass` (a window cut short), `registration` (tools).

mod carry;
mod drive;
mod glass;
pub(crate) mod names;
mod proofs;
mod propose;
mod registration;
pub(crate) mod row;
mod shown;
mod stored;
mod tool_lines;
pub(crate) mod under_way;

pub use proofs::InvariantOutcome;
