//! What may be proposed: one variant a row of the table, with everything that is not ours to make passed in.
//!
//! Ids, digests, expiries and verdicts come from the engine. What the verdict does not call for (gate terms of an
//! allowed action) is ignored; what it calls for and is absent is [`crate::Illegal::Incomplete`].
//! What each becomes: `propose`, `decision` and `lift`.

use countersign_gateway_model::{
    ActionId, Assurance, Decision as Answer, DecisionId, Determining, Digest, Duration, GateId, GrantId, InstanceId,
    ItemId, Name, Outcome, PermitId, Pseudonym, RunId, Timestamp, Verdict,
};
use countersign_ledger_entry::PayloadRef;
use countersign_ledger_entry::body::{
    Assertion, Created, GateEventKind, OnTimeout, QuestionKind, Reservation, RuleForm,
};

use crate::gate::{Ballot, Lifting};

/// Who proposes, as entries say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// The principal.
    pub actor: Pseudonym,
    /// On whose behalf, outermost first.
    pub on_behalf_of: Vec<Pseudonym>,
}

impl Actor {
    /// The gateway's own timers and sweeps.
    pub const SYSTEM: Self = Self { actor: Pseudonym::SYSTEM, on_behalf_of: Vec::new() };
}

/// When and under which conditions something is proposed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Now {
    /// The time; the append must be claimed at this time (if it is signed again at another, decide again).
    pub at: Timestamp,
    /// Whether a freeze covers this instance (its organization or its team).
    pub frozen: bool,
    /// Who proposes.
    pub by: Actor,
}

/// What policy said to one question, the strictest over all asked principals, with what travels beside the entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// The answer; none where nothing was asked (a freeze answers before policy does).
    pub verdict: Option<Verdict>,
    /// The policies that determined it, per asked principal.
    pub determining: Determining,
    /// Payloads that belong to this question (question, input, view, justification …).
    pub payloads: Vec<PayloadRef>,
    /// Salted commitments to single fields.
    pub fields: Vec<Digest>,
    /// Whether the instance is held to it.
    pub force: Force,
}

/// Whether an instance is held to what policy says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Force {
    /// It is.
    #[default]
    Enforced,
    /// Its workflow is in shadow: what is not a yes is on record and stops nothing.
    Shadow {
        /// The no is of a kind that holds in shadow too: of the kernel, of a policy that is never in shadow, an error.
        firm: bool,
    },
}

impl Asked {
    /// What is done about the answer: policy's word, or for a workflow in shadow a yes, unless the no is a firm one.
    pub fn effective(&self) -> Option<Answer> {
        let verdict = self.verdict.as_ref()?;
        match self.force {
            Force::Shadow { firm: false } if !verdict.error => Some(Answer::Allow),
            _ => Some(verdict.decision),
        }
    }

    /// Nothing was asked and nothing travels beside.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// An answer without payloads.
    pub fn answer(verdict: Verdict, determining: Determining) -> Self {
        Self { verdict: Some(verdict), determining, ..Self::default() }
    }
}

/// A proposal: a request to move or act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proposal {
    /// A new instance, started at once or queued.
    Create(Box<Create>),
    /// Start of an instance that was queued.
    Start(Box<StartInstance>),
    /// One batch of actions.
    Actions(Actions),
    /// Consume a permit.
    Begin(Begin),
    /// End as intended.
    Complete(Box<Complete>),
    /// Stop.
    Terminate(Box<Terminate>),
    /// A gate's time is over (SYSTEM).
    Expire(Box<Expire>),
    /// The instance's time is over (SYSTEM).
    Deadline(Box<Deadline>),
    /// A person's decision at a gate.
    Decide(Box<Decide>),
    /// A person lifts a rule.
    Lift(Box<LiftRule>),
    /// What became of a start.
    Outcome(Box<Report>),
    /// A start whose outcome never came (SYSTEM).
    Sweep(SweepStart),
    /// Something happened at a gate without moving it.
    GateEvent(Box<GateNote>),
    /// Ask people to meet a rule in advance.
    AskGrant(Box<AskGrant>),
    /// Take back what was given in advance.
    RevokeGrant(Box<RevokeGrant>),
}

/// A new instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Create {
    /// Its id: the stream's.
    pub instance: InstanceId,
    /// What the first entry says.
    pub created: Created,
    /// False: queued, `start` is asked later and `asked` holds no denial. True: started in the same append.
    pub start: bool,
    /// The start's proposal id.
    pub action: Option<ActionId>,
    /// What policy said to `start`.
    pub asked: Asked,
    /// Salted digest of what is asked (`payload::ACTION`): names the item of a gate, and a refusal.
    pub digest: Option<Digest>,
    /// For `needs_approval`.
    pub gate: Option<GateTerms>,
    /// For `needs_approval`.
    pub item: Option<ItemTerms>,
}

/// Start of an instance that was queued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartInstance {
    /// The proposal's id.
    pub action: Option<ActionId>,
    /// What policy said to `start`.
    pub asked: Asked,
    /// As [`Create::digest`].
    pub digest: Option<Digest>,
    /// For `needs_approval`.
    pub gate: Option<GateTerms>,
    /// For `needs_approval`.
    pub item: Option<ItemTerms>,
}

/// One batch of 1 to 16 actions, answered in one append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actions {
    /// The actions.
    pub items: Vec<Action>,
    /// For `needs_approval` of any item.
    pub gate: Option<GateTerms>,
}

/// A proposal to call a tool, to dispatch a job, or to have the gateway carry out an operation of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// Its id.
    pub action: ActionId,
    /// `CallTool`, `Dispatch` or `Operation`.
    pub question: QuestionKind,
    /// The tool, or the name of the operation.
    pub tool: Name,
    /// Digest of the tool's version; none: the catalogue does not list it, so policy can only have denied. Of an
    /// operation: what it is carried out on.
    pub tool_version: Option<Digest>,
    /// Salted digest of everything that a permit would be bound to.
    pub digest: Digest,
    /// The target may change between approval and work: the tool says so, or no revision was named.
    pub mutable_target: bool,
    /// What policy said.
    pub asked: Asked,
    /// For `allow`.
    pub permit: Option<PermitTerms>,
    /// For `needs_approval`.
    pub item: Option<ItemTerms>,
    /// For `allow`: the task grants without which policy would not allow it.
    pub grants: Vec<GrantId>,
}

/// Terms of a permit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PermitTerms {
    /// Its id.
    pub permit: PermitId,
    /// No start after this.
    pub expires: Timestamp,
    /// Amounts held.
    pub reservations: Vec<Reservation>,
    /// Start in the same append: asked for with `begin`, and always for a dispatch.
    pub begin: Option<StartTerms>,
}

/// Terms of a start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartTerms {
    /// Nothing may be begun after this.
    pub not_after: Timestamp,
    /// The run, for a dispatch; none: the agent itself carries it out. The fence is computed here.
    pub run: Option<RunTerms>,
}

/// One attempt of one dispatched job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunTerms {
    /// The run.
    pub run: RunId,
    /// From 1.
    pub attempt: u32,
    /// The runner's kind.
    pub backend: Name,
    /// The name under which the backend knows it.
    pub external_name: Name,
    /// Salted digest of the job.
    pub job: Digest,
}

/// Terms of a gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateTerms {
    /// Its id.
    pub gate: GateId,
    /// When silence is acted on; must be none with [`OnTimeout::Never`] and set with [`OnTimeout::Reject`].
    pub expires: Option<Timestamp>,
    /// What silence does.
    pub on_timeout: OnTimeout,
    /// The started permit inside which the proposer itself runs, and which stays open while people are asked.
    pub caller: Option<PermitId>,
    /// Payloads of the gate itself: the approval view.
    pub payloads: Vec<PayloadRef>,
}

/// Terms of one item of a gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemTerms {
    /// Its id.
    pub item: ItemId,
    /// Counting forms of exactly the verdict's rules.
    pub rules: Vec<RuleForm>,
    /// Persons who may not approve or override.
    pub involved: Vec<Pseudonym>,
}

/// Consume a permit. Not a question: the permit's verdict stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begin {
    /// The permit.
    pub permit: PermitId,
    /// Terms.
    pub terms: StartTerms,
    /// Payloads beside the start.
    pub payloads: Vec<PayloadRef>,
}

/// End as intended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complete {
    /// The proposal's id.
    pub action: Option<ActionId>,
    /// What policy said to `complete`.
    pub asked: Asked,
    /// As [`Create::digest`].
    pub digest: Option<Digest>,
    /// For `needs_approval`; `caller` must be none, since COMPLETED waits for every start.
    pub gate: Option<GateTerms>,
    /// For `needs_approval`.
    pub item: Option<ItemTerms>,
}

/// Stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terminate {
    /// The proposal's id.
    pub action: Option<ActionId>,
    /// What policy said to `terminate`.
    pub asked: Asked,
    /// The role `stop`, where a person with it asks: their stop cannot be vetoed. The acting principal, its chain, the
    /// owner and the initiator are known from the stream.
    pub stop_role: Option<Name>,
    /// Ids for SYSTEM's REJECT, should a gate be open.
    pub reject: SystemReject,
    /// As [`Create::digest`].
    pub digest: Option<Digest>,
    /// For `needs_approval` of anyone else.
    pub gate: Option<GateTerms>,
    /// For `needs_approval` of anyone else.
    pub item: Option<ItemTerms>,
}

/// What SYSTEM's REJECT needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SystemReject {
    /// Its id.
    pub decision: DecisionId,
}

/// A gate's time is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expire {
    /// The gate.
    pub gate: GateId,
    /// What policy said; a denial is an objection on record.
    pub asked: Asked,
    /// Ids for SYSTEM's REJECT.
    pub reject: SystemReject,
}

/// The instance's time is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// What policy said; a denial is an objection on record.
    pub asked: Asked,
    /// Ids for SYSTEM's REJECT, should a gate be open.
    pub reject: SystemReject,
}

/// A person's decision at a gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decide {
    /// Its id.
    pub decision: DecisionId,
    /// The gate.
    pub gate: GateId,
    /// What is decided, by whom, and for which rules it counts.
    pub ballot: Ballot,
    /// What policy said to `approve`, `reject` or `override`. Its payloads hold the justification and the delta.
    pub asked: Asked,
    /// The justification, after [`crate::gate::justification`]; required for APPROVE and OVERRIDE.
    pub justification: Option<String>,
    /// Digest of the view that the person names; required for APPROVE and OVERRIDE.
    pub shown: Option<Digest>,
    /// Digest of the view as it is rendered for this gate now.
    pub view: Digest,
    /// Salted digest of the changed input; required for OVERRIDE.
    pub delta: Option<Digest>,
    /// How sure the login was.
    pub assurance: Assurance,
    /// The approver's own signature.
    pub assertion: Option<Assertion>,
    /// The facts that the gate rested on have changed: recorded, not effective.
    pub stale: bool,
    /// What policy says now to the questions themselves, with the rules satisfied that [`crate::gate::tally`] gives.
    /// Needed for every item of the ballot that is not dropped, and for every item of the gate if this resolves it.
    pub reasked: Vec<Reasked>,
    /// Counted approvers who were asked again; those no longer eligible stand in the ballot's `lapsed`.
    pub asked_again: Vec<Pseudonym>,
    /// Permits for the gate's actions, by action: needed if this resolves a gate of actions.
    pub grants: Vec<Grant>,
    /// Ids for SYSTEM's REJECT, should policy deny by now.
    pub reject: SystemReject,
}

/// A person lifts one rule of one item without its quorum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiftRule {
    /// Its id.
    pub lift: DecisionId,
    /// The gate.
    pub gate: GateId,
    /// Which rule of which item, and who lifts it.
    pub lifting: Lifting,
    /// What policy said to `breakGlass`. Its payloads hold the justification.
    pub asked: Asked,
    /// Whether the rule's data, pinned and in force, name this person among those who may.
    pub named: bool,
    /// The justification, after [`crate::gate::justification`].
    pub justification: String,
    /// Digest of the view that the person names.
    pub shown: Digest,
    /// Digest of the view as it is rendered for this gate now.
    pub view: Digest,
    /// How sure the login was.
    pub assurance: Assurance,
    /// The person's own signature.
    pub assertion: Option<Assertion>,
    /// The review is owed until then.
    pub review_by: Timestamp,
    /// As [`Decide::stale`].
    pub stale: bool,
    /// As [`Decide::reasked`]: needed for the item, and for every item of the gate if this resolves it.
    pub reasked: Vec<Reasked>,
    /// Those whose votes and lifts count, who were asked again; those no longer eligible stand in `lapsed`.
    pub asked_again: Vec<Pseudonym>,
    /// As [`Decide::grants`].
    pub grants: Vec<Grant>,
    /// Ids for SYSTEM's REJECT, should policy deny by now.
    pub reject: SystemReject,
}

/// What policy says now to the question of one item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reasked {
    /// The item.
    pub item: ItemId,
    /// The answer.
    pub asked: Asked,
}

/// What one action of a resolving gate gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The action: an item's or a cleared one's.
    pub action: ActionId,
    /// `CallTool`, `Dispatch` or `Operation`.
    pub question: QuestionKind,
    /// The tool.
    pub tool: Name,
    /// Digest of the tool's version.
    pub tool_version: Digest,
    /// The target may change between approval and work: the tool says so, or no revision was named.
    pub mutable_target: bool,
    /// Terms of its permit.
    pub permit: PermitTerms,
    /// For a cleared action: what policy says to it. Not allowed any more: refused. Ignored for items (see `reasked`).
    pub cleared: Option<Asked>,
}

/// What became of a start. Accepted in every state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The permit that was started.
    pub permit: PermitId,
    /// How it ended.
    pub outcome: Outcome,
    /// Salted digest of the output.
    pub output: Option<Digest>,
    /// Digest of the workspace tree after a run.
    pub workspace: Option<Digest>,
    /// Sandbox level that was enforced.
    pub sandbox_level: Option<u8>,
    /// What policy said to the report, if it was asked, and the output's payloads.
    pub asked: Asked,
}

/// A start whose outcome never came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SweepStart {
    /// The permit that was started.
    pub permit: PermitId,
}

/// Something that happened at a gate without moving it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateNote {
    /// The gate.
    pub gate: GateId,
    /// What.
    pub event: GateEventKind,
    /// The rule concerned; with `step` for reminders and escalations.
    pub rule: Option<Name>,
    /// The person concerned, for a reassignment.
    pub to: Option<Pseudonym>,
    /// Position in the rule's ladder, so that a timer fires once.
    pub step: Option<u16>,
    /// What policy said, and the comment's payload.
    pub asked: Asked,
}

/// Ask people to meet a rule in advance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AskGrant {
    /// The grant's id.
    pub grant: GrantId,
    /// The proposal's id.
    pub action: ActionId,
    /// The rule.
    pub rule: Name,
    /// Tools, sorted.
    pub tools: Vec<Name>,
    /// Salted digest of the terms (`payload::GRANT`).
    pub scope: Digest,
    /// Uses at most.
    pub count: u32,
    /// Amount at most; its version means nothing and is 0.
    pub budget: Option<Reservation>,
    /// How long it lasts once it is given.
    pub lasts: Duration,
    /// The terms' payload.
    pub payloads: Vec<PayloadRef>,
    /// The gate.
    pub gate: GateTerms,
    /// Its one item, with the form of exactly that rule.
    pub item: ItemTerms,
}

/// Take a grant back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokeGrant {
    /// The grant.
    pub grant: GrantId,
    /// What policy said to `revokeGrant`; to those whose work it is, and to those who gave it, a denial is an objection on
    /// record.
    pub asked: Asked,
}
