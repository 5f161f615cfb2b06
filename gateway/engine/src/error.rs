//! Why the engine did not do as asked. `http` turns each into one problem by its `code`.

use countersign_gateway_flow::Illegal;
use countersign_gateway_model::{DecisionId, Digest, GateId, InstanceId, Name};
use countersign_ledger_entry::{EntryError, Receipt};
use countersign_ledger_log::AppendError;
use countersign_policy_decide::registration::RegistrationError;
use countersign_policy_decide::shape::InputError;
use countersign_policy_decide::terms::TermsError;

/// What is told to be absent where an instance is: it has a code of its own.
const INSTANCE: &str = "instance";

/// A refusal that is on record.
#[derive(Clone, Debug)]
pub struct Refused {
    /// Problem code: `policy-denied`, `tool-unknown`, `policy-error`, `frozen`, `approval-unavailable`.
    pub code: &'static str,
    /// What the caller may be told.
    pub message: String,
    /// Proof of the refusal's entry.
    pub receipt: Receipt,
}

/// Everything that can stand between a request and its commit.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// Unknown, of another organization, or not for this caller's eyes: the three cannot be told apart.
    #[error("there is no such {0}, or it is not yours to see")]
    NotFound(&'static str),
    /// Policy said no; the refusal is in the ledger.
    #[error("{}", .0.message)]
    Refused(Box<Refused>),
    /// The state machine does not allow it now.
    #[error(transparent)]
    Illegal(#[from] Illegal),
    /// The instance waits at a gate; the link to it helps.
    #[error("the instance waits for people at gate `{0}`: follow the gate")]
    Waiting(GateId),
    /// A tool's input does not fit its schema.
    #[error("the input of tool `{tool}` is not acceptable")]
    Input {
        /// The tool.
        tool: String,
        /// Why.
        #[source]
        source: InputError,
    },
    /// A value that the engine itself checks.
    #[error("`{field}` cannot be used: {problem}")]
    Invalid {
        /// Where.
        field: &'static str,
        /// What is wrong and what would do.
        problem: String,
    },
    /// The idempotency key came before with another request.
    #[error("this idempotency key was used before with another request: use a new key")]
    IdempotencyReused,
    /// The credential does not have the scope that deciding needs.
    #[error("deciding needs a credential with scope `decide`: log in again for it")]
    ScopeMissing,
    /// A stand-in human outside a demo.
    #[error("the stand-in human of a demo may decide in a log marked demo only")]
    DemoOnly,
    /// A candidate bundle failed a check; the active one stays.
    #[error("the bundle was not activated: {0}")]
    Bundle(String),
    /// A candidate bundle under which nobody could change policy again, or stop work; the active one stays.
    #[error("the bundle was not activated: {0}")]
    LockedOut(String),
    /// Another backtest of this organization is under way.
    #[error("a backtest of this organization is under way: wait until it has ended")]
    BacktestRunning,
    /// Tools that cannot be registered; nothing of what was handed in is taken.
    #[error("nothing was registered: of what was handed in, {} cannot be used", counted(.0.0.len()))]
    Tools(#[from] RegistrationError),
    /// The active bundle does not stand with the catalogue that would come; the one in force stays.
    #[error("nothing was registered; with these tools the active bundle does not pass its checks: {0}")]
    Catalogue(String),
    /// People are asked about another registration of this account.
    #[error(
        "your registration `{0}` waits for people: wait until they decided, or withdraw it with `countersign instance terminate`"
    )]
    RegistrationWaiting(InstanceId),
    /// People are asked about as many registrations as may wait at a time.
    #[error("{0} registrations wait for people, as many as may at a time: try again once some of them are decided")]
    RegistrationsWaiting(usize),
    /// One person may act alone already.
    #[error("the authority mode is `solo`: there is nothing to lower")]
    NotRaised,
    /// The confirmed diff is not the one of this candidate against the active bundle.
    #[error("confirm the difference to the active bundle first: its digest is `{digest}`")]
    ConfirmDiff {
        /// SHA-256 of the difference in words.
        digest: Digest,
        /// The difference in words.
        diff: String,
    },
    /// A rule demands more of a voter's login than this one has.
    #[error("rule `{rule}` demands {demand}: log in again as it asks, and decide then")]
    DemandUnmet {
        /// The rule.
        rule: Name,
        /// What it demands.
        demand: &'static str,
    },
    /// The rule cannot be lifted without its quorum.
    #[error("rule `{rule}` cannot be lifted: {why}; ask those whose votes it counts")]
    NotLiftable {
        /// The rule.
        rule: Name,
        /// Why not.
        why: &'static str,
    },
    /// Nobody lifts a rule again while an earlier lift of it waits for its review too long.
    #[error("rule `{rule}` was lifted before, and review `{review}` of that is overdue: close it first")]
    ReviewOverdue {
        /// The rule.
        rule: Name,
        /// The review: the lift's id.
        review: DecisionId,
    },
    /// Whoever did it, or has it done, does not review it.
    #[error("this review is another person's: {0}")]
    OwnReview(&'static str),
    /// The review was closed before.
    #[error("review `{0}` is closed")]
    ReviewClosed(DecisionId),
    /// A rule demands the voter's own signature, and there is none.
    #[error("rule `{0}` demands your own signature: decide with `--sign-with`, and a key that was registered before")]
    SignatureMissing(Name),
    /// The signature that came with a decision does not hold.
    #[error("the signature is not taken: {0}")]
    SignatureRefused(String),
    /// A signature or a key that is none.
    #[error("the signature is not taken: {0}")]
    Assertion(#[source] EntryError),
    /// The key was registered before, by whomever.
    #[error("this key was registered before: make a new one with `countersign key create`")]
    KeyKnown,
    /// The rule's data does not let it be met in advance.
    #[error("rule `{0}` cannot be met in advance: propose each action, and people are asked about each")]
    NotGrantable(Name),
    /// The same, and every other bound of what can be granted, as whoever is no person is told it.
    #[error("this cannot be met in advance as it is asked for: propose each action, and people are asked about each")]
    GrantRefused,
    /// More than the rule's data lets be granted.
    #[error("rule `{rule}` can be met in advance for at most {most} {what}: ask for less")]
    GrantTooWide {
        /// The rule.
        rule: Name,
        /// `uses` or `seconds`.
        what: &'static str,
        /// How many.
        most: u64,
    },
    /// Terms that a tool's schema cannot hold.
    #[error("the terms cannot be those of a grant")]
    GrantTerms(#[from] TermsError),
    /// What others took from the same counters came between reading and taking, again and again.
    #[error("the counters that this takes from changed each time that it was decided: try again")]
    CountersBusy,
    /// No runner takes this kind of job.
    #[error("no runner of kind `{0}` is configured and healthy: see `countersign doctor`")]
    NoRunner(String),
    /// The runner could not be asked.
    #[error("the runner did not answer")]
    Runner(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The ledger did not take it.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The ledger could not be read.
    #[error("the ledger could not be read")]
    Ledger(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Stored bytes are not what they must be.
    #[error("stored bytes are damaged: run `countersign ledger fsck`")]
    Damaged(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Bytes that should be an entry are none.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// The gateway is ending.
    #[error("the gateway is shutting down: try again on the next one")]
    Draining,
}

impl EngineError {
    /// Stable name of the problem, whose page is `openapi/problems/<code>.md`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound(INSTANCE) => "instance-not-found",
            Self::NotFound(_) => "not-found",
            Self::Refused(refused) => refused.code,
            Self::Illegal(illegal) => illegal.code(),
            Self::Waiting(_) => "instance-waiting",
            Self::Input { .. } => "input-invalid",
            Self::Invalid { .. } | Self::NotRaised => "parameter-invalid",
            Self::IdempotencyReused => "idempotency-key-reused",
            Self::ScopeMissing => "scope-missing",
            Self::DemoOnly => "demo-only",
            Self::Bundle(_) => "bundle-rejected",
            Self::LockedOut(_) => "bundle-locks-out",
            Self::Tools(_) => "tools-invalid",
            Self::Catalogue(_) => "catalogue-rejected",
            Self::RegistrationWaiting(_) | Self::RegistrationsWaiting(_) => "registration-waiting",
            Self::ConfirmDiff { .. } => "diff-unconfirmed",
            Self::BacktestRunning => "backtest-running",
            Self::DemandUnmet { .. } => "demand-unmet",
            Self::NotLiftable { .. } => "rule-not-liftable",
            Self::ReviewOverdue { .. } => "review-overdue",
            Self::OwnReview(_) => "review-own",
            Self::ReviewClosed(_) => "review-closed",
            Self::SignatureMissing(_) => "signature-missing",
            Self::SignatureRefused(_) | Self::Assertion(_) => "signature-refused",
            Self::KeyKnown => "key-known",
            Self::NotGrantable(_) | Self::GrantRefused => "grant-not-grantable",
            Self::GrantTooWide { .. } => "grant-too-wide",
            Self::GrantTerms(_) => "grant-terms-invalid",
            Self::CountersBusy => "counters-busy",
            Self::NoRunner(_) => "runner-unavailable",
            Self::Runner(_) => "runner-failed",
            Self::Append(error) => append_code(error),
            Self::Ledger(_) => "ledger-unreadable",
            Self::Damaged(_) | Self::Entry(_) => "ledger-damaged",
            Self::Draining => "draining",
        }
    }

    pub(crate) fn ledger(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Ledger(Box::new(error))
    }

    pub(crate) fn damaged(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Damaged(error.into())
    }

    pub(crate) fn invalid(field: &'static str, problem: impl Into<String>) -> Self {
        Self::Invalid { field, problem: problem.into() }
    }
}

fn counted(faults: usize) -> String {
    if faults == 1 { "one thing".to_owned() } else { format!("{faults} things") }
}

/// Codes of a ledger that did not take an append.
fn append_code(error: &AppendError) -> &'static str {
    match error {
        AppendError::DiskFull => "disk-full",
        AppendError::ClockBehind { .. } => "clock-behind",
        AppendError::Unknown => "outcome-unknown",
        AppendError::Refusing(_) => "ledger-refusing",
        AppendError::Replay(_) => "idempotency-key-reused",
        AppendError::Malformed(_) | AppendError::Journal(_) => "internal",
        _ => "ledger-busy",
    }
}
