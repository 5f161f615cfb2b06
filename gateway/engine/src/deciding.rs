//! What an act of a person at a gate is weighed in: the gate as it is and as it was stored, the policy in force, the time.
//!
//! Absent: the act itself, a decision (`weighing`) or a lift (`lifts`).

use std::collections::BTreeMap;

use countersign_gateway_flow::OpenGate;
use countersign_gateway_model::{Assurance, DecisionId, Principal, Timestamp};

use crate::Snapshot;
use crate::keyring::HeldKeys;
use crate::opened::Opened;
use crate::org::Org;

/// How a vote at the gate was cast. How fresh its login was is not kept, and cannot be demanded afterwards.
pub(crate) struct Cast {
    pub(crate) asserted: bool,
    pub(crate) assurance: Assurance,
}

/// What a decision is weighed in.
pub(crate) struct Deciding<'a> {
    pub(crate) org: &'a Org,
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) who: &'a Principal,
    pub(crate) gate: &'a OpenGate,
    pub(crate) opened: &'a Opened,
    pub(crate) now: Timestamp,
    /// How votes were cast, where a rule demands something of that.
    pub(crate) cast: &'a BTreeMap<DecisionId, Cast>,
    /// Persons' keys, where the decision is signed.
    pub(crate) keys: Option<&'a HeldKeys<'a>>,
}
