//! What became of a start.

use std::fmt;

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// How a started action ended. `Unknown` is never a yes and is never retried blindly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, Encode, Decode)]
#[serde(rename_all = "snake_case")]
#[cbor(index_only)]
pub enum Outcome {
    /// Did what it was to do.
    #[n(0)]
    Succeeded,
    /// Did not, and says so.
    #[n(1)]
    Failed,
    /// Was stopped on request.
    #[n(2)]
    Cancelled,
    /// Was stopped by its deadline.
    #[n(3)]
    TimedOut,
    /// Nobody knows; may be superseded once by a known outcome.
    #[n(4)]
    Unknown,
}

impl Outcome {
    /// The name as the API spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::TimedOut => "timed_out",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
