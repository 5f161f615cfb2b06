//! What a proposal is answered with.

use countersign_gateway_model::{ActionId, GateId, GrantId, InstanceId, ItemId, Outcome, PermitId, State};
use countersign_ledger_entry::Draft;
use countersign_ledger_entry::body::{Effect, RefusalReason};
use serde::{Deserialize, Serialize};

/// One append, not yet sealed, and the answer to give once it is durable. Before that nothing may be told or done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// The entries, in order; empty where nothing is to be recorded ([`Reply::Nothing`]).
    pub drafts: Vec<Draft>,
    /// Whose stream they go to.
    pub place: Place,
    /// The answer.
    pub reply: Reply,
}

/// Which stream an append goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The instance's.
    Instance(InstanceId),
    /// The organization's: a refused start makes no instance.
    Organization,
}

/// The answer to a proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Recorded; waits to be started.
    Queued,
    /// RUNNING.
    Running,
    /// `WAITING_FOR_HUMAN` at a gate. `actions` is empty unless a batch of actions was proposed.
    Waiting {
        /// The gate.
        gate: GateId,
        /// One answer per action, in the order proposed.
        actions: Vec<ActionAnswer>,
    },
    /// Every action of a batch got its answer, and the instance is RUNNING.
    Answered(Vec<ActionAnswer>),
    /// A start, complete, terminate, decision or gate event was refused; the refusal is in the append.
    Refused(RefusalReason),
    /// A denial ended the instance (a queued start, or `on_deny: terminate`).
    Denied {
        /// One answer per action, in the order proposed; empty for a start.
        actions: Vec<ActionAnswer>,
        /// Starts to cancel.
        cancel: Vec<PermitId>,
    },
    /// The permit is consumed. Authority only if this is the first answer to this start.
    Begun {
        /// The permit.
        permit: PermitId,
        /// Stream sequence of the start: the fence.
        sequence: u64,
    },
    /// COMPLETED.
    Completed,
    /// TERMINATED.
    Terminated {
        /// Policy would have refused.
        objection: bool,
        /// Starts to cancel.
        cancel: Vec<PermitId>,
    },
    /// A decision or lift that moved nothing: counted, or not effective.
    Counted {
        /// `Counted`, `NotEligible`, `Stale` or `PolicyError`.
        effect: Effect,
        /// Why not, where it is not effective.
        why: Option<WhyNot>,
    },
    /// A decision or lift by which policy's denial came to light: not effective, and SYSTEM has rejected. TERMINATED.
    HardDenied {
        /// Starts to cancel.
        cancel: Vec<PermitId>,
    },
    /// A person rejected. TERMINATED.
    Rejected {
        /// Starts to cancel.
        cancel: Vec<PermitId>,
    },
    /// A decision or lift resolved the gate.
    Resolved {
        /// APPROVED or OVERRIDDEN.
        through: State,
        /// RUNNING, or COMPLETED or TERMINATED where that was approved.
        state: State,
        /// One answer per action of the gate, items first, then cleared ones.
        actions: Vec<ActionAnswer>,
        /// Starts to cancel, if TERMINATED.
        cancel: Vec<PermitId>,
    },
    /// The outcome is recorded.
    Recorded {
        /// The permit.
        permit: PermitId,
        /// How it ended; `Unknown` for a sweep.
        outcome: Outcome,
        /// It replaced an earlier `unknown`.
        supersedes: bool,
    },
    /// The start has its final outcome already: the claim is on record and changes nothing.
    Conflict(PermitId),
    /// The grant is taken back.
    Revoked(GrantId),
    /// The gate event is recorded.
    Noted(GateId),
    /// Nothing to do and nothing recorded: the instance is terminal, or the start has its outcome.
    Nothing(State),
}

/// The answer to one action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ActionAnswer {
    /// A permit.
    Permitted {
        /// The action.
        action: ActionId,
        /// The permit.
        permit: PermitId,
        /// Stream sequence of the permit's entry.
        sequence: u64,
    },
    /// A permit and its start.
    Begun {
        /// The action.
        action: ActionId,
        /// The permit.
        permit: PermitId,
        /// Stream sequence of the start's entry: the fence.
        sequence: u64,
    },
    /// An item of a gate.
    Waiting {
        /// The action.
        action: ActionId,
        /// The item.
        item: ItemId,
    },
    /// Needs nobody; gets its permit when the gate of its batch resolves.
    Cleared(ActionId),
    /// Refused.
    Refused {
        /// The action.
        action: ActionId,
        /// Why.
        reason: RefusalReason,
    },
    /// Dropped by an OVERRIDE.
    Dropped(ActionId),
    /// The instance ended by another action's denial before this one could be granted.
    Voided(ActionId),
}

/// Why a decision is not effective. Deciders are told its code; its words are kept with their idempotency keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhyNot {
    /// Policy does not let this person decide.
    Policy,
    /// Policy could not be evaluated.
    PolicyError,
    /// The rule's data does not name this person among those who may lift it.
    NotNamed,
    /// The acting principal, or one on whose behalf it acts.
    ActingChain,
    /// One of the persons involved in the item, or the author of its override.
    Involved,
    /// The facts that the gate rested on have changed.
    Stale,
}

impl WhyNot {
    /// Every reason.
    pub const ALL: [Self; 6] =
        [Self::Policy, Self::PolicyError, Self::NotNamed, Self::ActingChain, Self::Involved, Self::Stale];

    /// Stable name of the problem, for `openapi/problems/<code>.md`.
    pub fn code(self) -> &'static str {
        match self {
            Self::Policy => "decider-refused",
            Self::PolicyError => "policy-error",
            Self::NotNamed => "decider-not-named",
            Self::ActingChain => "acting-chain",
            Self::Involved => "decider-involved",
            Self::Stale => "gate-stale",
        }
    }
}
