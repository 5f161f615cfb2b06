//! What policy said, in the form that is signed.

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::{Digest, Name};

/// The three answers of policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Encode, Decode)]
#[serde(rename_all = "snake_case")]
#[cbor(index_only)]
pub enum Decision {
    /// Go.
    #[n(0)]
    Allow,
    /// Ask people first.
    #[n(1)]
    NeedsApproval,
    /// No; no approval lifts it.
    #[n(2)]
    Deny,
}

/// A decision with the approval rules that stand in the way (empty unless `NeedsApproval`), sorted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[cbor(array)]
pub struct Verdict {
    /// The answer.
    #[n(0)]
    pub decision: Decision,
    /// Approval rules that must be met, sorted by name.
    #[n(1)]
    pub rules: Vec<Name>,
    /// A `forbid` could not be evaluated, in any round: the denial is for that reason.
    #[n(2)]
    pub error: bool,
}

impl Verdict {
    /// Policy said yes.
    pub fn allow() -> Self {
        Self { decision: Decision::Allow, rules: Vec::new(), error: false }
    }

    /// Policy said no.
    pub fn deny() -> Self {
        Self { decision: Decision::Deny, rules: Vec::new(), error: false }
    }

    /// Policy asks for people: `rules` is not empty, and is sorted here.
    pub fn needs_approval(mut rules: Vec<Name>) -> Self {
        rules.sort();
        rules.dedup();
        Self { decision: Decision::NeedsApproval, rules, error: false }
    }
}

/// Policy ids that determined an answer: one list for the acting principal, then one for each delegator.
pub type Determining = Vec<Vec<Name>>;

/// Which policy answered: plain SHA-256 digests of the four parts of the policy snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, Encode, Decode)]
#[cbor(array)]
pub struct PolicyDigests {
    /// The fixed Cedar set in the program.
    #[n(0)]
    pub kernel: Digest,
    /// The program's schema.
    #[n(1)]
    pub schema: Digest,
    /// The active bundle; all zero before the first activation.
    #[n(2)]
    pub bundle: Digest,
    /// The tool catalogue; all zero before the first one.
    #[n(3)]
    pub catalogue: Digest,
}
