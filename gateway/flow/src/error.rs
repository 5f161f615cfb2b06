//! Why a proposal is illegal, and why a history is unlawful.

use countersign_gateway_model::{Digest, GateId, GrantId, ItemId, Name, PermitId, State};

/// A proposal that changes nothing and leaves no entry. [`Illegal::code`] is stable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Illegal {
    /// Everything but a create needs an instance.
    #[error("there is no such instance")]
    NoInstance,
    /// A create names an instance that exists.
    #[error("the instance exists already")]
    Exists,
    /// The instance is terminal.
    #[error("the instance is {0} and takes no more proposals")]
    Finished(State),
    /// A gate is open; the proposal must wait for it.
    #[error("the instance waits for people at gate `{0}`: watch the gate, then propose again")]
    Waiting(GateId),
    /// A decision, expiry or gate event on an instance that is not waiting.
    #[error("the instance is {0}, not waiting for people")]
    NotWaiting(State),
    /// Not started yet.
    #[error("the instance is queued: it has to be started first")]
    Queued,
    /// No edge leads from one state to the other.
    #[error("no edge leads from {from} to {to}")]
    Edge {
        /// State now.
        from: State,
        /// State that the proposal would need.
        to: State,
    },
    /// COMPLETED or WAITING while starts are open.
    #[error("{} start(s) are open, the first under permit `{}`: report their outcomes first", .0.len(), first(.0))]
    OpenStarts(Vec<PermitId>),
    /// A freeze covers the instance.
    #[error("work is frozen: a person has to lift the freeze")]
    Frozen,
    /// The stream knows no such permit.
    #[error("permit `{0}` is not of this instance")]
    UnknownPermit(PermitId),
    /// The permit lapsed unstarted.
    #[error("permit `{0}` has expired: propose the action again")]
    PermitExpired(PermitId),
    /// The permit was consumed before. Only the first start is authority.
    #[error("permit `{0}` was started before: a permit is good for one start")]
    PermitStarted(PermitId),
    /// An outcome or sweep for a permit that was never started.
    #[error("permit `{0}` was not started, so it has no outcome")]
    NotBegun(PermitId),
    /// What is to be begun after the time at which nothing may be begun.
    #[error("nothing may be begun any more: the start's `not_after` has passed")]
    TooLate,
    /// Another gate is open, or this one closed before.
    #[error("gate `{0}` is closed")]
    GateClosed(GateId),
    /// The gate's time is over.
    #[error("gate `{0}` has expired: no decision counts any more")]
    GateExpired(GateId),
    /// Expiry proposed before its time, or of a gate that never expires.
    #[error("gate `{0}` has not expired")]
    GateNotExpired(GateId),
    /// Deadline proposed before its time, or of an instance that has none.
    #[error("the instance's deadline has not passed")]
    DeadlineNotPassed,
    /// The gate has no such item.
    #[error("item `{0}` is not of this gate")]
    UnknownItem(ItemId),
    /// The item does not ask for the rule.
    #[error("item `{item}` does not ask for rule `{rule}`: look at the gate for the rules that it asks for")]
    RuleNotAsked {
        /// The item.
        item: ItemId,
        /// The rule.
        rule: Name,
    },
    /// The rule is met already: there is nothing to lift.
    #[error("rule `{rule}` of item `{item}` is met already: there is nothing to lift")]
    RuleMet {
        /// The item.
        item: ItemId,
        /// The rule.
        rule: Name,
    },
    /// The item was dropped by an earlier OVERRIDE.
    #[error("item `{0}` was dropped from the gate")]
    ItemDropped(ItemId),
    /// The decision names another digest than the item has now.
    #[error("item `{item}` has digest `{now}` by now: look at the gate again")]
    StaleItem {
        /// The item.
        item: ItemId,
        /// Its digest now.
        now: Digest,
    },
    /// The decision names another view than the gateway rendered.
    #[error("the decision names another view than the gate shows now: look at the gate again")]
    StaleView,
    /// No justification, or nothing but white space.
    #[error("a justification is required: say why")]
    BlankJustification,
    /// Too short or too long; never cut.
    #[error("the justification has {got} characters: {min} to {max} are expected")]
    JustificationLength {
        /// Least.
        min: usize,
        /// Most.
        max: usize,
        /// Found.
        got: usize,
    },
    /// OVERRIDE without a changed input.
    #[error("an OVERRIDE needs a delta: name what is changed or dropped")]
    OverrideWithoutDelta,
    /// A delta, or changed items, beside another decision than OVERRIDE.
    #[error("only an OVERRIDE may change an item")]
    DeltaWithoutOverride,
    /// An OVERRIDE that changes nothing.
    #[error("item `{0}` is not changed by the OVERRIDE: approve it instead")]
    NothingChanged(ItemId),
    /// Going on without a start's approval would be a start without approval.
    #[error("the start of an instance cannot be dropped: approve or reject it")]
    CannotDrop,
    /// APPROVE or OVERRIDE of no item, or REJECT of single ones.
    #[error("APPROVE and OVERRIDE name items, REJECT is of the whole gate")]
    WrongItems,
    /// SYSTEM may reject, expire and escalate, never approve; agents never decide.
    #[error("only a person decides at a gate")]
    NotAPerson,
    /// The re-asked verdict does not fit the votes: asked with other satisfied rules than the tally's.
    #[error("the question was asked with other rules satisfied than the votes satisfy: ask again")]
    AskAgain,
    /// A timer's step fired before.
    #[error("this step of the gate's timer has fired before")]
    AlreadyFired,
    /// The stream knows no such grant.
    #[error("grant `{0}` is not of this instance")]
    UnknownGrant(GrantId),
    /// A permit cannot rest on the grant: a bug in the caller, who looked before.
    #[error("grant `{0}` cannot be used: {1}")]
    GrantUnusable(GrantId, &'static str),
    /// What people gave in advance is what was asked for, or nothing.
    #[error("a grant cannot be overridden: reject it, and let one be asked for within other terms")]
    GrantOverride,
    /// A grant is what its rule's own quorum gives.
    #[error("nobody gives a grant alone: lift the rule at the gate of an action, and a review is owed")]
    GrantLift,
    /// Batch outside 1 to 16.
    #[error("a batch has 1 to 16 actions, this one {0}")]
    BatchSize(usize),
    /// An id stands twice.
    #[error("the same {0} stands twice")]
    Duplicate(&'static str),
    /// The caller left out what the verdict calls for: a bug in the caller, nothing a user can mend.
    #[error("the proposal lacks what its verdict calls for: {0}")]
    Incomplete(&'static str),
}

fn first(permits: &[PermitId]) -> String {
    permits.first().map(ToString::to_string).unwrap_or_default()
}

impl Illegal {
    /// Stable name of the problem, for `openapi/problems/<code>.md`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoInstance => "instance-not-found",
            Self::Exists => "instance-exists",
            Self::Finished(_) => "instance-finished",
            Self::Waiting(_) => "instance-waiting",
            Self::NotWaiting(_) => "instance-not-waiting",
            Self::Queued => "instance-queued",
            Self::Edge { .. } => "illegal-transition",
            Self::OpenStarts(_) => "starts-open",
            Self::Frozen => "frozen",
            Self::UnknownPermit(_) => "permit-unknown",
            Self::PermitExpired(_) => "permit-expired",
            Self::PermitStarted(_) => "permit-started",
            Self::NotBegun(_) => "start-missing",
            Self::TooLate => "start-too-late",
            Self::GateClosed(_) => "gate-closed",
            Self::GateExpired(_) => "gate-expired",
            Self::GateNotExpired(_) => "gate-not-expired",
            Self::DeadlineNotPassed => "deadline-not-passed",
            Self::UnknownItem(_) => "item-unknown",
            Self::RuleNotAsked { .. } => "rule-not-asked",
            Self::RuleMet { .. } => "rule-met",
            Self::ItemDropped(_) => "item-dropped",
            Self::StaleItem { .. } => "item-stale",
            Self::StaleView => "view-stale",
            Self::BlankJustification => "justification-blank",
            Self::JustificationLength { .. } => "justification-length",
            Self::OverrideWithoutDelta => "override-without-delta",
            Self::DeltaWithoutOverride => "delta-without-override",
            Self::NothingChanged(_) => "override-changes-nothing",
            Self::CannotDrop => "item-not-droppable",
            Self::WrongItems => "decision-items",
            Self::NotAPerson => "decider-not-a-person",
            Self::AskAgain => "verdict-stale",
            Self::AlreadyFired => "timer-fired",
            Self::UnknownGrant(_) => "grant-unknown",
            Self::GrantUnusable(..) => "grant-unusable",
            Self::GrantLift => "grant-not-liftable",
            Self::GrantOverride => "grant-not-overridable",
            Self::BatchSize(_) => "batch-size",
            Self::Duplicate(_) => "duplicate-id",
            Self::Incomplete(_) => "incomplete",
        }
    }
}

/// An entry that no lawful history has at this place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvolveError {
    /// Written under rules that this program does not know.
    #[error("semantics version {0} is not known here, or knows no such entry: verify with a later program")]
    Semantics(u16),
    /// Versions ascend.
    #[error("an entry of semantics version {to} follows one of version {from}; versions only ascend")]
    Backwards {
        /// Of the entry before.
        from: u16,
        /// Found.
        to: u16,
    },
    /// Of another stream, or of no instance's.
    #[error("the entry is of another stream")]
    Stream,
    /// An entry is missing, repeated or out of order.
    #[error("the stream continues with sequence {expected}, found {found}")]
    Sequence {
        /// Next sequence.
        expected: u64,
        /// Found.
        found: u64,
    },
    /// The link to the entry before is broken.
    #[error("entry {0} does not name the leaf hash of the entry before it")]
    Previous(u64),
    /// An append is torn, or its entries do not belong together.
    #[error("the append at entry {sequence} is torn: {why}")]
    Append {
        /// Where.
        sequence: u64,
        /// How.
        why: &'static str,
    },
    /// No such edge, or not from this state.
    #[error("entry {sequence} takes an edge from {from} to {to} in state {state}, which does not exist")]
    Edge {
        /// Where.
        sequence: u64,
        /// State of the instance.
        state: State,
        /// State that the edge claims to leave.
        from: State,
        /// State that the edge claims to reach.
        to: State,
    },
    /// Any other thing that no proposal could have written.
    #[error("entry {sequence} of kind `{kind}` is unlawful: {why}")]
    Unlawful {
        /// Where.
        sequence: u64,
        /// The entry's kind.
        kind: &'static str,
        /// Why.
        why: &'static str,
    },
}
