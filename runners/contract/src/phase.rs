//! Where a run stands, how it ended, and what was seen of it.
//!
//! Absent: authority. A phase is shown and becomes an outcome; it permits nothing.
//!
//! Read next: `runner`, whose `observe` gives an [`Observation`].

use std::collections::BTreeSet;
use std::fmt;

use countersign_gateway_model::{Digest, Outcome, Timestamp};
use serde::{Deserialize, Serialize};

/// Whose fault a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// The workload's: it exited with a code other than zero or died of its own signal.
    User,
    /// The image is missing or may not be pulled.
    Image,
    /// The job cannot be run as it is written: no such program, no such folder.
    Config,
    /// A limit of the job was reached: memory, CPU time, disk.
    Resource,
    /// The machine or the backend failed.
    Infra,
    /// The runner refused: isolation too weak, start not valid.
    Policy,
    /// Nobody knows.
    Lost,
}

impl FailureClass {
    /// The name as the API spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Image => "image",
            Self::Config => "config",
            Self::Resource => "resource",
            Self::Infra => "infra",
            Self::Policy => "policy",
            Self::Lost => "lost",
        }
    }
}

impl fmt::Display for FailureClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where a run stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "phase")]
pub enum Phase {
    /// Known to the gateway alone.
    Queued,
    /// Handed to the backend, whose answer is awaited.
    Submitting,
    /// The backend has it and has not started it.
    Pending {
        /// What it waits for.
        reason: String,
    },
    /// The workload runs.
    Running,
    /// A cancellation was asked for; the workload may still run.
    Cancelling,
    /// Ended with exit code 0.
    Succeeded,
    /// Ended otherwise.
    Failed {
        /// Whose fault.
        class: FailureClass,
        /// What happened, in a sentence.
        reason: String,
    },
    /// Stopped by its deadline or its lease.
    TimedOut,
    /// Stopped on request, or never started because of one.
    Cancelled,
    /// The outcome is unknown and stays so.
    Lost,
}

impl Phase {
    /// The name as the API spells it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Submitting => "submitting",
            Self::Pending { .. } => "pending",
            Self::Running => "running",
            Self::Cancelling => "cancelling",
            Self::Succeeded => "succeeded",
            Self::Failed { .. } => "failed",
            Self::TimedOut => "timed_out",
            Self::Cancelled => "cancelled",
            Self::Lost => "lost",
        }
    }

    /// What the ledger records of a run that ended in this phase; none while it has not ended.
    pub fn outcome(&self) -> Option<Outcome> {
        match self {
            Self::Queued | Self::Submitting | Self::Pending { .. } | Self::Running | Self::Cancelling => None,
            Self::Succeeded => Some(Outcome::Succeeded),
            Self::Failed { class: FailureClass::Lost, .. } | Self::Lost => Some(Outcome::Unknown),
            Self::Failed { .. } => Some(Outcome::Failed),
            Self::TimedOut => Some(Outcome::TimedOut),
            Self::Cancelled => Some(Outcome::Cancelled),
        }
    }

    /// True if nothing can come after it.
    pub fn is_final(&self) -> bool {
        self.outcome().is_some()
    }
}

/// How the main process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// By itself, with this code, 0 to 255.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// When things happened, by the runner's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// The order was accepted.
    pub submitted: Option<Timestamp>,
    /// The workload was started.
    pub started: Option<Timestamp>,
    /// The workload ended.
    pub ended: Option<Timestamp>,
}

/// What held the workload in, as it was set up for this very run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The backend's name for its isolation, for the process runner `L0` to `L3`.
    pub isolation: String,
    /// What was enforced, one short term each: `seccomp`, `landlock:7`, `memory:rlimit_as`.
    pub enforced: BTreeSet<String>,
    /// What this machine could not enforce.
    pub absent: BTreeSet<String>,
}

/// What is known of a run at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// Where it stands.
    #[serde(flatten)]
    pub phase: Phase,
    /// True only with proof that the workload's first instruction never ran. A retry needs it.
    pub never_started: bool,
    /// How the main process ended, once it has.
    pub exit: Option<Exit>,
    /// True if the kernel killed it for memory.
    pub oom: bool,
    /// When things happened.
    pub times: Times,
    /// What held it in; empty before it was set up.
    pub evidence: Evidence,
    /// The workspace as it was left, once the run has ended and if it could be carried.
    pub workspace: Option<Digest>,
    /// The fence of the order that this run was started under.
    pub fence: u64,
}

impl Observation {
    /// True if a new attempt may follow without a person: the machine failed, and nothing had started.
    pub fn may_retry(&self) -> bool {
        self.never_started && matches!(self.phase, Phase::Failed { class: FailureClass::Infra, .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_infra_failure_that_never_started_may_be_retried() {
        let observation = |phase, never_started| Observation {
            phase,
            never_started,
            exit: None,
            oom: false,
            times: Times::default(),
            evidence: Evidence::default(),
            workspace: None,
            fence: 1,
        };
        let failed = |class| Phase::Failed { class, reason: String::new() };
        assert!(observation(failed(FailureClass::Infra), true).may_retry());
        assert!(!observation(failed(FailureClass::Infra), false).may_retry());
        assert!(!observation(failed(FailureClass::Config), true).may_retry());
        assert!(!observation(Phase::Lost, false).may_retry());
        assert!(!observation(Phase::Cancelled, true).may_retry());
    }

    #[test]
    fn an_unknown_outcome_is_never_a_yes() {
        assert_eq!(Phase::Lost.outcome(), Some(Outcome::Unknown));
        let lost = Phase::Failed { class: FailureClass::Lost, reason: String::new() };
        assert_eq!(lost.outcome(), Some(Outcome::Unknown));
        assert_eq!(Phase::Cancelling.outcome(), None);
        assert!(!Phase::Running.is_final() && Phase::TimedOut.is_final());
    }
}
