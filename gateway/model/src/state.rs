//! The nine states of an instance (semantics version 1). The edges are `gateway/flow`'s.

use std::fmt;

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// Where an instance stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Encode, Decode)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[cbor(index_only)]
pub enum State {
    /// Recorded, not yet started.
    #[n(0)]
    Created,
    /// Working.
    #[n(1)]
    Running,
    /// A gate is open.
    #[n(2)]
    WaitingForHuman,
    /// The gate's rules are met as proposed.
    #[n(3)]
    Approved,
    /// A person, or SYSTEM, refused.
    #[n(4)]
    Rejected,
    /// The gate's rules are met with a changed input.
    #[n(5)]
    Overridden,
    /// On the way back to work; no instance rests here.
    #[n(6)]
    Resumed,
    /// Ended as intended. Terminal.
    #[n(7)]
    Completed,
    /// Ended otherwise. Terminal.
    #[n(8)]
    Terminated,
}

impl State {
    /// All nine, in the order of their numbers.
    pub const ALL: [Self; 9] = [
        Self::Created,
        Self::Running,
        Self::WaitingForHuman,
        Self::Approved,
        Self::Rejected,
        Self::Overridden,
        Self::Resumed,
        Self::Completed,
        Self::Terminated,
    ];

    /// Whether nothing can follow.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Terminated)
    }

    /// The name as the API and Cedar spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "CREATED",
            Self::Running => "RUNNING",
            Self::WaitingForHuman => "WAITING_FOR_HUMAN",
            Self::Approved => "APPROVED",
            Self::Rejected => "REJECTED",
            Self::Overridden => "OVERRIDDEN",
            Self::Resumed => "RESUMED",
            Self::Completed => "COMPLETED",
            Self::Terminated => "TERMINATED",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
