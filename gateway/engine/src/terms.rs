//! What entries of an organization can set: the names of its settings, what is frozen, the shadow window.
//!
//! Absent: how it is read from the log (`own_fold`) and how people set it (`settings`, `roots`).

use std::collections::BTreeSet;

use countersign_gateway_model::{Duration, Name, Timestamp};
use countersign_ledger_entry::body::AuthorityMode;
use serde::{Deserialize, Serialize};

/// Which evaluations leave an entry.
pub(crate) const EVALUATIONS_RECORD: &str = "evaluations.record";

/// Whether the log's tiles and checkpoints may be read without a credential.
pub(crate) const PUBLIC_READ: &str = "log.public_read";

/// Seconds for which a proposed policy is compared with the past before anybody is asked.
pub(crate) const SHADOW_WINDOW: &str = "policy.shadow_window_s";

/// Digest of the root document in force.
pub(crate) const ROOT: &str = "policy.root";

/// What is frozen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Frozen {
    pub(crate) all: bool,
    pub(crate) teams: BTreeSet<Name>,
}

impl Frozen {
    pub(crate) fn covers(&self, team: Option<&Name>) -> bool {
        self.all || team.is_some_and(|team| self.teams.contains(team))
    }
}

/// The shadow window as it is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShadowWindow {
    /// None: what the authority mode says.
    pub(crate) set: Option<Duration>,
    /// Until then it is no shorter than this.
    pub(crate) held: Option<(Timestamp, Duration)>,
}

impl ShadowWindow {
    /// How long it is.
    pub(crate) fn at(self, mode: AuthorityMode, now: Timestamp) -> Duration {
        let window = self.set.unwrap_or(match mode {
            AuthorityMode::Solo => Duration(0),
            AuthorityMode::FourEyes => USUAL_WINDOW,
        });
        self.held.filter(|(until, _)| now < *until).map_or(window, |(_, before)| window.max(before))
    }

    /// What it is once it is set to another length. Where nobody changes policy alone, a shorter one counts once the one before
    /// it has passed: else one person would shorten it, and propose.
    pub(crate) fn changed(self, set: Duration, mode: AuthorityMode, now: Timestamp) -> Self {
        let before = self.at(mode, now);
        let held = self.held.filter(|(until, _)| now < *until);
        let shorter = mode == AuthorityMode::FourEyes && set < before;
        Self { set: Some(set), held: if shorter { Some((now + before, before)) } else { held } }
    }
}

/// The shadow window under `four_eyes`, where no setting says another.
const USUAL_WINDOW: Duration = Duration::from_secs(86_400);
