//! The closed schema of an entry's body, kind by kind.
//!
//! A body holds enums, numbers, ids, digests and names, never free text and never a digest over guessable bytes.
//! Whatever the fold of authority needs is here; what people read is in payloads. Unknown fields are INVALID:
//! [`Body::decode`] accepts only bytes that encode back to themselves.
//!
//! Adding a kind raises the semantics version ([`Kind::since`]); changing one is a new format version (the golden bytes
//! say so).
//! Read next: `header`, then `gateway/flow` (which bodies each proposal writes).

use minicbor::{Decode, Encode};

use countersign_gateway_model::{
    ActionId, Assurance, DecisionId, Digest, GateId, GatewayId, GrantId, InstanceId, ItemId, LogId, Name, OrgId,
    Outcome as OutcomeKind, PermitId, PrincipalKind, Pseudonym, RunId, State, Timestamp,
};

use crate::EntryError;
use crate::codec::{Bytes32, Bytes64};

/// Which kind of stream an entry belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[cbor(index_only)]
pub enum StreamKind {
    /// One governed execution.
    #[n(0)]
    Instance,
    /// What belongs to the organization and to no instance.
    #[n(1)]
    Organization,
    /// What belongs to the log itself.
    #[n(2)]
    Log,
}

/// What was asked, where an entry must say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[cbor(index_only)]
pub enum QuestionKind {
    /// To start an instance.
    #[n(0)]
    Start,
    /// To call a tool.
    #[n(1)]
    CallTool,
    /// To dispatch a job to a runner.
    #[n(2)]
    Dispatch,
    /// To complete.
    #[n(3)]
    Complete,
    /// To stop.
    #[n(4)]
    Terminate,
    /// To approve at a gate.
    #[n(5)]
    Approve,
    /// To reject at a gate.
    #[n(6)]
    Reject,
    /// To override at a gate.
    #[n(7)]
    Override,
    /// To freeze a team or the organization.
    #[n(8)]
    Freeze,
    /// To lift a freeze.
    #[n(9)]
    Lift,
    /// One of the gateway's own operations; the entry's `tool` names it.
    #[n(10)]
    Operation,
}

/// What a denied action does to its instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[cbor(index_only)]
pub enum OnDeny {
    /// The action is refused; the instance goes on.
    #[n(0)]
    Refuse,
    /// The instance is terminated.
    #[n(1)]
    Terminate,
}

/// Why an edge was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[cbor(index_only)]
pub enum Cause {
    /// A start proposal.
    #[n(0)]
    Start,
    /// A complete proposal.
    #[n(1)]
    Complete,
    /// A terminate proposal.
    #[n(2)]
    Terminate,
    /// A gate's timeout.
    #[n(3)]
    Expiry,
    /// The instance's deadline.
    #[n(4)]
    Deadline,
    /// A gate was opened.
    #[n(5)]
    Gate,
    /// A decision at a gate.
    #[n(6)]
    Decision,
    /// Follows from the edge before it.
    #[n(7)]
    Follow,
    /// A denial ended the instance (`on_deny: terminate`, or a queued start that policy refused).
    #[n(8)]
    Denial,
}

/// An instance comes into being. State CREATED.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[cbor(array)]
pub struct Created {
    /// Workflow id.
    #[n(0)]
    pub workflow: Name,
    /// Digest of the workflow version.
    #[n(1)]
    pub workflow_version: Digest,
    /// Who caused the instance: a person or a service.
    #[n(2)]
    pub initiator: Pseudonym,
    /// The person answerable; confers no permission.
    #[n(3)]
    pub accountable: Pseudonym,
    /// Who answers for the agent.
    #[n(4)]
    pub owner: Option<Pseudonym>,
    /// The principal that acts in the instance.
    #[n(5)]
    pub acting: Pseudonym,
    /// Its sort.
    #[n(6)]
    pub acting_kind: PrincipalKind,
    /// The instance that this one was made by.
    #[n(7)]
    pub parent: Option<InstanceId>,
    /// What a denial does.
    #[n(8)]
    pub on_deny: OnDeny,
    /// When SYSTEM terminates it.
    #[n(9)]
    pub deadline: Option<Timestamp>,
    /// False for a shadow workflow: its permits say so too.
    #[n(10)]
    pub enforced: bool,
}

/// One edge of the state machine.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[cbor(array)]
pub struct Edge {
    /// State before.
    #[n(0)]
    pub from: State,
    /// State after.
    #[n(1)]
    pub to: State,
    /// Why.
    #[n(2)]
    pub cause: Cause,
    /// The proposal that this edge answers, where there is one.
    #[n(3)]
    pub action: Option<ActionId>,
    /// Policy would have refused; stopping cannot be vetoed, so the objection is on record only.
    #[n(4)]
    pub objection: bool,
}

/// An amount held by a permit until its outcome settles it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[cbor(array)]
pub struct Reservation {
    /// The counter.
    #[n(0)]
    pub counter: Name,
    /// The counter's version that the decision read.
    #[n(1)]
    pub version: u64,
    /// How much, in the counter's unit.
    #[n(2)]
    pub amount: u64,
}

/// Authority to start one action, once.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[cbor(array)]
pub struct Permit {
    /// Its id.
    #[n(0)]
    pub permit: PermitId,
    /// The proposal it answers.
    #[n(1)]
    pub action: ActionId,
    /// The gate and item through which it was approved.
    #[n(2)]
    pub item: Option<GateItemRef>,
    /// `callTool`, `dispatch`, or an operation of the gateway's own.
    #[n(3)]
    pub question: QuestionKind,
    /// The tool, or the name of the operation.
    #[n(4)]
    pub tool: Name,
    /// Digest of the tool's version in the catalogue; of an operation, what it is carried out on.
    #[n(5)]
    pub tool_version: Digest,
    /// Salted digest of everything the permit is bound to (`payload::ACTION`).
    #[n(6)]
    pub digest: Digest,
    /// No start after this.
    #[n(7)]
    pub expires: Timestamp,
    /// The target may change between approval and work: the tool says so, or no revision was named.
    #[n(8)]
    pub mutable_target: bool,
    /// Amounts held.
    #[n(9)]
    pub reservations: Vec<Reservation>,
    /// False under a shadow workflow: a runner may refuse it.
    #[n(10)]
    pub enforced: bool,
}

/// One item of one gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[cbor(array)]
pub struct GateItemRef {
    /// The gate.
    #[n(0)]
    pub gate: GateId,
    /// The item.
    #[n(1)]
    pub item: ItemId,
}

/// Consumes a permit.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[cbor(array)]
pub struct Start {
    /// The permit.
    #[n(0)]
    pub permit: PermitId,
    /// Nothing may be begun after this.
    #[n(1)]
    pub not_after: Timestamp,
    /// Who carries it out.
    #[n(2)]
    pub by: StartedBy,
}

/// Who carries a start out.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StartedBy {
    /// The agent itself; for an operation of the gateway's own, the gateway.
    #[n(0)]
    Agent,
    /// A runner.
    #[n(1)]
    Run(#[n(0)] RunStart),
}

/// One attempt of one dispatched job.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[cbor(array)]
pub struct RunStart {
    /// The run.
    #[n(0)]
    pub run: RunId,
    /// From 1; each attempt has a permit and a start of its own.
    #[n(1)]
    pub attempt: u32,
    /// The runner's kind.
    #[n(2)]
    pub backend: Name,
    /// The name under which the backend knows it: the idempotency key of submit.
    #[n(3)]
    pub external_name: Name,
    /// Salted digest of the job (`payload::JOB`).
    #[n(4)]
    pub job: Digest,
    /// Stream sequence of this start; a lower one is refused.
    #[n(5)]
    pub fence: u64,
}

/// What became of a start.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[cbor(array)]
pub struct Outcome {
    /// The permit that was started.
    #[n(0)]
    pub permit: PermitId,
    /// How it ended.
    #[n(1)]
    pub outcome: OutcomeKind,
    /// Salted digest of the output (`payload::OUTPUT`).
    #[n(2)]
    pub output: Option<Digest>,
    /// Digest of the workspace tree after a run; trees carry their own salt.
    #[n(3)]
    pub workspace: Option<Digest>,
    /// Replaces an earlier `unknown`.
    #[n(4)]
    pub supersedes: bool,
    /// Sandbox level that was enforced, 0 to 3, where a runner with levels ran it.
    #[n(5)]
    pub sandbox_level: Option<u8>,
}

/// A second, different outcome; changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[cbor(array)]
pub struct Conflict {
    /// The permit that already has its final outcome.
    #[n(0)]
    pub permit: PermitId,
    /// What was claimed now.
    #[n(1)]
    pub outcome: OutcomeKind,
    /// Salted digest of the output claimed now.
    #[n(2)]
    pub output: Option<Digest>,
}

/// Why something was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[cbor(index_only)]
pub enum RefusalReason {
    /// Policy said no.
    #[n(0)]
    Policy,
    /// A `forbid` could not be evaluated.
    #[n(1)]
    PolicyError,
    /// The catalogue does not list the tool.
    #[n(2)]
    UnknownTool,
    /// The organization or the team is frozen.
    #[n(3)]
    Frozen,
}

/// A committed "no".
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[cbor(array)]
pub struct Refusal {
    /// What was asked.
    #[n(0)]
    pub question: QuestionKind,
    /// The proposal, where it had an id.
    #[n(1)]
    pub action: Option<ActionId>,
    /// The tool, or the name of the operation.
    #[n(2)]
    pub tool: Option<Name>,
    /// Salted digest of what was asked (`payload::ACTION`).
    #[n(3)]
    pub digest: Option<Digest>,
    /// Why.
    #[n(4)]
    pub reason: RefusalReason,
}

/// What a gate stands in front of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[cbor(index_only)]
pub enum GateSubject {
    /// The start of the instance.
    #[n(0)]
    Start,
    /// One or more actions.
    #[n(1)]
    Actions,
    /// Completion.
    #[n(2)]
    Complete,
    /// Termination by someone whose work it is not.
    #[n(3)]
    Terminate,
    /// A task grant: a rule to be met in advance. Semantics version 2.
    #[n(4)]
    Grant,
}

/// What silence does at a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[cbor(index_only)]
pub enum OnTimeout {
    /// SYSTEM rejects.
    #[n(0)]
    Reject,
    /// The gate never expires.
    #[n(1)]
    Never,
}

/// A pause for human authority.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[cbor(array)]
pub struct Gate {
    /// Its id.
    #[n(0)]
    pub gate: GateId,
    /// What it stands in front of.
    #[n(1)]
    pub subject: GateSubject,
    /// 1 to 16 items, each with its own digest, rules and votes.
    #[n(2)]
    pub items: Vec<GateItem>,
    /// Items of the same batch that policy allowed: they get their permits when the gate resolves.
    #[n(3)]
    pub cleared: Vec<ClearedItem>,
    /// When silence is acted on; none if it never is.
    #[n(4)]
    pub expires: Option<Timestamp>,
    /// What silence does.
    #[n(5)]
    pub on_timeout: OnTimeout,
    /// The started permit inside which the proposer itself runs: the one start that may stay open while people are asked.
    #[n(6)]
    pub caller: Option<PermitId>,
}

/// One proposed action in a gate.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[cbor(array)]
pub struct GateItem {
    /// Its id.
    #[n(0)]
    pub item: ItemId,
    /// The proposal.
    #[n(1)]
    pub action: ActionId,
    /// What is asked.
    #[n(2)]
    pub question: QuestionKind,
    /// The tool, for actions.
    #[n(3)]
    pub tool: Option<Name>,
    /// Salted digest of what would be permitted (`payload::ACTION`).
    #[n(4)]
    pub digest: Digest,
    /// The rules that stand in the way, in counting form, sorted by name.
    #[n(5)]
    pub rules: Vec<RuleForm>,
    /// Persons who may not decide: initiator, chain, owners, issuers, authors of an override.
    #[n(6)]
    pub involved: Vec<Pseudonym>,
}

/// An item of a mixed batch that needs nobody.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[cbor(array)]
pub struct ClearedItem {
    /// The proposal.
    #[n(0)]
    pub action: ActionId,
    /// Salted digest of what will be permitted.
    #[n(1)]
    pub digest: Digest,
}

/// An approval rule as it counts, pinned at the gate.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[cbor(array)]
pub struct RuleForm {
    /// The rule.
    #[n(0)]
    pub rule: Name,
    /// How many persons.
    #[n(1)]
    pub quorum: u8,
    /// Whether they must be of different teams.
    #[n(2)]
    pub distinct_teams: bool,
    /// Roles of which a voter must hold one; empty: any eligible person.
    #[n(3)]
    pub roles: Vec<Name>,
    /// Groups each of which must be represented by at least one voter.
    #[n(4)]
    pub groups: Vec<Name>,
    /// Whether an overrider counts as one vote.
    #[n(5)]
    pub override_counts: bool,
}

/// What happened at a gate without moving it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[cbor(array)]
pub struct GateEvent {
    /// The gate.
    #[n(0)]
    pub gate: GateId,
    /// What.
    #[n(1)]
    pub event: GateEventKind,
    /// The rule concerned, for a reminder or an escalation.
    #[n(2)]
    pub rule: Option<Name>,
    /// The person concerned, for a reassignment.
    #[n(3)]
    pub to: Option<Pseudonym>,
    /// Position in the rule's ladder, so that a timer fires once.
    #[n(4)]
    pub step: Option<u16>,
}

/// The kinds of gate event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[cbor(index_only)]
pub enum GateEventKind {
    /// People were reminded.
    #[n(0)]
    Reminder,
    /// Somebody commented; the text is a payload.
    #[n(1)]
    Comment,
    /// Reassigned to another person.
    #[n(2)]
    Reassign,
    /// The ladder went up a step.
    #[n(3)]
    Escalation,
    /// Somebody asked for information; the gate stays pending.
    #[n(4)]
    InformationRequested,
}

/// What a person decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[cbor(index_only)]
pub enum DecisionKind {
    /// As proposed.
    #[n(0)]
    Approve,
    /// Not at all; ends the instance.
    #[n(1)]
    Reject,
    /// With a changed input.
    #[n(2)]
    Override,
}

/// What a decision did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[cbor(index_only)]
pub enum Effect {
    /// Valid; rules are still unmet.
    #[n(0)]
    Counted,
    /// Met the last rule.
    #[n(1)]
    Resolving,
    /// The person is not eligible.
    #[n(2)]
    NotEligible,
    /// The facts it rested on have changed.
    #[n(3)]
    Stale,
    /// Policy denies the proposal by now, whoever approves it.
    #[n(4)]
    HardDenied,
    /// A policy could not be evaluated.
    #[n(5)]
    PolicyError,
}

/// A person's decision, or SYSTEM's REJECT.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[cbor(array)]
pub struct Decision {
    /// Its id.
    #[n(0)]
    pub decision: DecisionId,
    /// The gate.
    #[n(1)]
    pub gate: GateId,
    /// What was decided.
    #[n(2)]
    pub kind: DecisionKind,
    /// The items decided with their digests; empty for REJECT, which is of the gate.
    #[n(3)]
    pub items: Vec<DecidedItem>,
    /// The human being behind the account; quorum counts these.
    #[n(4)]
    pub person: Pseudonym,
    /// The role used.
    #[n(5)]
    pub role: Option<Name>,
    /// The person's teams that count.
    #[n(6)]
    pub teams: Vec<Name>,
    /// The person's groups that count.
    #[n(7)]
    pub groups: Vec<Name>,
    /// Salted digest of the approval view that was shown (`payload::SHOWN`).
    #[n(8)]
    pub shown: Option<Digest>,
    /// What it did.
    #[n(9)]
    pub effect: Effect,
    /// How sure the login was.
    #[n(10)]
    pub assurance: Assurance,
    /// Salted digest of the changed input, for OVERRIDE (`payload::DELTA`).
    #[n(11)]
    pub delta: Option<Digest>,
    /// The approver's own signature.
    #[n(12)]
    pub assertion: Option<Assertion>,
    /// Counted approvers who were asked again at a resolving vote.
    #[n(13)]
    pub asked: Vec<Pseudonym>,
    /// Why SYSTEM rejects, or whom it names as the stopper.
    #[n(14)]
    pub on_behalf: Option<Pseudonym>,
    /// Counting forms from here on. For OVERRIDE: every rule of the new verdict, of each item that it changes. For
    /// APPROVE: rules that the policy in force adds or makes stricter; merged by the strictest, so never a weakening.
    #[n(15)]
    pub rules: Vec<ItemRules>,
    /// Persons who were asked again and are no longer eligible, or whose vote was older than a rule lets it count: their
    /// votes at this gate are gone.
    #[n(16)]
    pub lapsed: Vec<Pseudonym>,
}

/// Rules of one item, in counting form.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[cbor(array)]
pub struct ItemRules {
    /// The item.
    #[n(0)]
    pub item: ItemId,
    /// The rules, sorted by name.
    #[n(1)]
    pub rules: Vec<RuleForm>,
}

/// One item that a decision speaks of.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[cbor(array)]
pub struct DecidedItem {
    /// The item.
    #[n(0)]
    pub item: ItemId,
    /// Its digest at the gate, so that nobody approves one thing and gets another.
    #[n(1)]
    pub digest: Digest,
    /// The rules that this vote counts for.
    #[n(2)]
    pub rules: Vec<Name>,
    /// For OVERRIDE: the digest of what is permitted instead; none drops the item.
    #[n(3)]
    pub instead: Option<Digest>,
}

/// The approver's own signature over gate id, item digests, kind, delta digest and shown digest
/// ([`crate::assertion::Statement`]). Held to be valid from semantics version 2 on.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[cbor(array)]
pub struct Assertion {
    /// COSE algorithm number.
    #[n(0)]
    pub alg: i32,
    /// Digest of the public key.
    #[n(1)]
    pub key_id: Digest,
    /// The signature.
    #[n(2)]
    #[cbor(with = "minicbor::bytes")]
    #[serde(serialize_with = "crate::codec::hex")]
    pub signature: Vec<u8>,
}

/// A person's bounded advance approval. Written from semantics version 2 on, in three places.
///
/// Asked for, by whoever's work the instance is: nobody has approved it, and its gate follows in the same append; `until` is
/// how long it would last if it were given at once. Given: after the last vote and its edges, equal but for the approvers
/// and for `until`, which counts from then. Taken back: equal to what was given but for `revoked`. Withdrawn before anything was
/// given, by the one who asked or the owner: equal to what was asked for but for `revoked`, and the edges that leave its gate
/// follow.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[cbor(array)]
pub struct TaskGrant {
    /// Its id.
    #[n(0)]
    pub grant: GrantId,
    /// The rule whose quorum it needed and which it stands for.
    #[n(1)]
    pub rule: Name,
    /// Tools it covers.
    #[n(2)]
    pub tools: Vec<Name>,
    /// Salted digest of the resource scope (`payload::GRANT`).
    #[n(3)]
    pub scope: Digest,
    /// Uses at most.
    #[n(4)]
    pub count: u32,
    /// Amount at most, in the budget counter's unit.
    #[n(5)]
    pub budget: Option<Reservation>,
    /// Not after.
    #[n(6)]
    pub until: Timestamp,
    /// The persons who approved it.
    #[n(7)]
    pub approvers: Vec<Pseudonym>,
    /// True where this entry takes the grant back.
    #[n(8)]
    pub revoked: bool,
}

/// One use of a task grant: it stands right before the permit of its action, which rests on it. Semantics version 2.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[cbor(array)]
pub struct TaskGrantUse {
    /// The grant.
    #[n(0)]
    pub grant: GrantId,
    /// The proposal it was used for.
    #[n(1)]
    pub action: ActionId,
    /// Uses so far, this one included.
    #[n(2)]
    pub used: u32,
}

/// One rule of one item is lifted without its quorum: the glass is broken, and a review is owed. Semantics version 2.
///
/// In the instance's stream while its gate is open; signed by the gateway, with the person as actor and what policy said to
/// `breakGlass` as verdict. After [`Effect::Resolving`] the edges and permits of the gate follow in the same append, after
/// [`Effect::HardDenied`] SYSTEM's REJECT. That the rule's data let it be lifted is in the bundle that the entry names.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[cbor(array)]
pub struct Lift {
    /// Its id; the review names it.
    #[n(0)]
    pub lift: DecisionId,
    /// The gate.
    #[n(1)]
    pub gate: GateId,
    /// The item.
    #[n(2)]
    pub item: ItemId,
    /// Its digest at the gate, so that nobody lifts a rule from one thing and gets another.
    #[n(3)]
    pub digest: Digest,
    /// The rule.
    #[n(4)]
    pub rule: Name,
    /// The human being behind the account.
    #[n(5)]
    pub person: Pseudonym,
    /// The role used.
    #[n(6)]
    pub role: Option<Name>,
    /// The person's teams.
    #[n(7)]
    pub teams: Vec<Name>,
    /// The person's groups.
    #[n(8)]
    pub groups: Vec<Name>,
    /// Salted digest of the approval view that was shown (`payload::SHOWN`).
    #[n(9)]
    pub shown: Digest,
    /// What it did.
    #[n(10)]
    pub effect: Effect,
    /// How sure the login was.
    #[n(11)]
    pub assurance: Assurance,
    /// The review is owed until then, where the rule was lifted.
    #[n(12)]
    pub review_by: Timestamp,
    /// The person's own signature.
    #[n(13)]
    pub assertion: Option<Assertion>,
    /// Counted approvers who were asked again.
    #[n(14)]
    pub asked: Vec<Pseudonym>,
    /// Rules that the policy in force adds or makes stricter, as in a [`Decision`].
    #[n(15)]
    pub rules: Vec<ItemRules>,
    /// Persons whose votes at this gate are gone, as in a [`Decision`].
    #[n(16)]
    pub lapsed: Vec<Pseudonym>,
}

/// A start whose outcome never came is closed as `unknown`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[cbor(array)]
pub struct Sweep {
    /// The permit that was started.
    #[n(0)]
    pub permit: PermitId,
}

/// A question answered for an enforcement point: never a permit.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[cbor(array)]
pub struct Evaluation {
    /// Who the question was about.
    #[n(0)]
    pub subject: Pseudonym,
    /// What was asked.
    #[n(1)]
    pub operation: Name,
    /// Salted digest of the question (`payload::QUESTION`).
    #[n(2)]
    pub question: Option<Digest>,
    /// How many calls this entry stands for; more than 1 only where a quota coalesced them.
    #[n(3)]
    pub calls: u32,
    /// The calls were over quota and not answered.
    #[n(4)]
    pub over_quota: bool,
}

/// A ledgered setting changed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[cbor(array)]
pub struct Settings {
    /// The setting.
    #[n(0)]
    pub setting: Name,
    /// Value before.
    #[n(1)]
    pub old: Option<SettingValue>,
    /// Value after.
    #[n(2)]
    pub new: SettingValue,
}

/// The value of a ledgered setting.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SettingValue {
    /// Yes or no.
    #[n(0)]
    Flag(#[n(0)] bool),
    /// A whole number.
    #[n(1)]
    Number(#[n(0)] u64),
    /// One of a closed set of names.
    #[n(2)]
    Choice(#[n(0)] Name),
}

/// What happened to a principal or one of its credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[cbor(index_only)]
pub enum PrincipalChange {
    /// Came into being.
    #[n(0)]
    Created,
    /// Roles, teams, scopes or attributes changed.
    #[n(1)]
    Updated,
    /// A credential was issued.
    #[n(2)]
    CredentialIssued,
    /// A credential, or all of them, was revoked.
    #[n(3)]
    CredentialRevoked,
    /// No longer active.
    #[n(4)]
    Deactivated,
}

/// A person, agent or service and its standing.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[cbor(array)]
pub struct Principal {
    /// What happened.
    #[n(0)]
    pub change: PrincipalChange,
    /// Who.
    #[n(1)]
    pub principal: Pseudonym,
    /// Its sort.
    #[n(2)]
    pub kind: PrincipalKind,
    /// Who answers for it.
    #[n(3)]
    pub owner: Option<Pseudonym>,
    /// Roles from now on.
    #[n(4)]
    pub roles: Vec<Name>,
    /// Teams from now on.
    #[n(5)]
    pub teams: Vec<Name>,
    /// Digest of the credential's id, for changes of one credential.
    #[n(6)]
    pub credential: Option<Digest>,
}

/// A workflow version was registered.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[cbor(array)]
pub struct Workflow {
    /// Its id.
    #[n(0)]
    pub workflow: Name,
    /// Digest of its canonical form.
    #[n(1)]
    pub version: Digest,
}

/// A step in the life of a bundle or a catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[cbor(index_only)]
pub enum Step {
    /// Put forward.
    #[n(0)]
    Proposed,
    /// Strict validation, levels and lint passed.
    #[n(1)]
    Checked,
    /// Its own tests passed.
    #[n(2)]
    Tested,
    /// The shadow window began.
    #[n(3)]
    Shadowed,
    /// The approval rule of a change was met.
    #[n(4)]
    Approved,
    /// In force from here on.
    #[n(5)]
    Activated,
    /// A check failed; nothing changed.
    #[n(6)]
    Failed,
    /// Withdrawn by its author.
    #[n(7)]
    Withdrawn,
    /// Its invariants were tried: none is refuted, and none is unproved that must be proved. Semantics version 2.
    #[n(8)]
    Invariants,
}

/// Who signed a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[cbor(index_only)]
pub enum SignedBy {
    /// The key of an embedded first start, on the gateway's own disk.
    #[n(0)]
    Local,
    /// A threshold of root keys.
    #[n(1)]
    Threshold,
}

/// A step of a bundle (kind `policy`) or of a tool catalogue (kind `catalogue`).
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[cbor(array)]
pub struct PolicyStep {
    /// Which step.
    #[n(0)]
    pub step: Step,
    /// What it is about.
    #[n(1)]
    pub digest: Digest,
    /// What it follows.
    #[n(2)]
    pub predecessor: Option<Digest>,
    /// Its version.
    #[n(3)]
    pub version: u64,
    /// Version of the root document it is signed under.
    #[n(4)]
    pub root_version: u64,
    /// Who signed.
    #[n(5)]
    pub signed_by: SignedBy,
    /// Break-glass: an after-review is owed.
    #[n(6)]
    pub break_glass: bool,
}

/// A counter was set by hand.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[cbor(array)]
pub struct Counter {
    /// The counter.
    #[n(0)]
    pub counter: Name,
    /// Its version after.
    #[n(1)]
    pub version: u64,
    /// Its value after.
    #[n(2)]
    pub value: u64,
}

/// Work is held, or released again.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[cbor(array)]
pub struct Freeze {
    /// False freezes, true lifts.
    #[n(0)]
    pub lift: bool,
    /// The team; none: the whole organization.
    #[n(1)]
    pub team: Option<Name>,
}

/// Payloads were erased.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[cbor(array)]
pub struct Erasure {
    /// Whose data; none where payloads are named instead.
    #[n(0)]
    pub subject: Option<Pseudonym>,
    /// Digests of the payloads erased.
    #[n(1)]
    pub payloads: Vec<Digest>,
    /// Digest of the order to erase, which is kept elsewhere.
    #[n(2)]
    pub authority: Digest,
}

/// The journal no longer holds what is older.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[cbor(array)]
pub struct Prune {
    /// First index still held.
    #[n(0)]
    pub minimum: u64,
    /// Where verified copies are.
    #[n(1)]
    pub copies: Vec<Name>,
}

/// Records of an instance are kept from erasure and pruning, or no longer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[cbor(array)]
pub struct LegalHold {
    /// The instance.
    #[n(0)]
    pub instance: InstanceId,
    /// Held from here on, or released.
    #[n(1)]
    pub held: bool,
}

/// What an integrity scrub found.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[cbor(array)]
pub struct Scrub {
    /// Which copy was scrubbed.
    #[n(0)]
    pub target: Name,
    /// First index read.
    #[n(1)]
    pub from: u64,
    /// First index not read.
    #[n(2)]
    pub to: u64,
    /// Entries that do not match.
    #[n(3)]
    pub bad: u64,
}

/// A sink missed entries.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[cbor(array)]
pub struct SinkGap {
    /// The sink.
    #[n(0)]
    pub sink: Name,
    /// First index missed.
    #[n(1)]
    pub from: u64,
    /// First index not missed.
    #[n(2)]
    pub to: u64,
}

/// A shipped safe bundle was put in force with the root threshold.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[cbor(array)]
pub struct Recovery {
    /// The bundle.
    #[n(0)]
    pub bundle: Digest,
    /// False opens, true closes the review that it owes.
    #[n(1)]
    pub reviewed: bool,
}

/// What is reviewed after the fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reviewed {
    /// A rule that was lifted.
    #[n(0)]
    Lift(#[n(0)] LiftRef),
}

/// One lift of one instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode, serde::Serialize)]
#[cbor(array)]
pub struct LiftRef {
    /// The instance in whose stream it stands.
    #[n(0)]
    pub instance: InstanceId,
    /// The lift.
    #[n(1)]
    pub lift: DecisionId,
}

/// What a review found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[cbor(index_only)]
pub enum Finding {
    /// It was right.
    #[n(0)]
    Upheld,
    /// It was not. Nothing is undone by that.
    #[n(1)]
    NotUpheld,
}

impl Finding {
    /// The word in reports and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Upheld => "upheld",
            Self::NotUpheld => "not_upheld",
        }
    }
}

/// A review is closed. Semantics version 2.
///
/// In the organization's stream, after the entry that owes it; signed by the gateway, with the reviewer as actor and what
/// policy said to them as verdict. Once: a second review of the same matter is no entry.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[cbor(array)]
pub struct Review {
    /// Of what.
    #[n(0)]
    pub of: Reviewed,
    /// The human being behind the account.
    #[n(1)]
    pub person: Pseudonym,
    /// What they found.
    #[n(2)]
    pub finding: Finding,
    /// How sure the login was.
    #[n(3)]
    pub assurance: Assurance,
}

/// A person's own key, with which they sign decisions, is registered or taken back. Semantics version 2.
///
/// In the organization's stream; signed by the gateway, with who did it as actor: registered by that person alone, taken back
/// by them or by whom policy lets. It follows nothing, and once taken back a key is never registered again. A crash right
/// after it loses nothing: keys are read from here.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[cbor(array)]
pub struct PersonKey {
    /// The person's account: the actor of the decisions that the key signs.
    #[n(0)]
    pub principal: Pseudonym,
    /// COSE algorithm number: -8.
    #[n(1)]
    pub alg: i32,
    /// The public key.
    #[n(2)]
    pub key: Bytes32,
    /// True where this entry takes the key back.
    #[n(3)]
    pub revoked: bool,
    /// Signature by the key itself over [`crate::assertion::possession_bytes`]; none where it is taken back.
    #[n(4)]
    pub possession: Option<Bytes64>,
}

/// How entries are signed, for the life of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[cbor(index_only)]
pub enum SignatureMode {
    /// Each entry by a gateway key.
    #[n(0)]
    PerEntry,
    /// Only checkpoints.
    #[n(1)]
    CheckpointOnly,
}

impl SignatureMode {
    /// The word in reports and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PerEntry => "per_entry",
            Self::CheckpointOnly => "checkpoint_only",
        }
    }
}

/// Who may approve what, for an organization.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[cbor(index_only)]
pub enum AuthorityMode {
    /// The owner may approve their own agent.
    #[n(0)]
    Solo,
    /// Somebody else must.
    #[n(1)]
    FourEyes,
}

impl AuthorityMode {
    /// The setting whose entries say which mode holds from them on.
    pub const SETTING: &str = "authority";

    /// The mode that a setting is set to; none where it is another setting, or no mode.
    pub fn of(setting: &Settings) -> Option<Self> {
        let SettingValue::Choice(word) = &setting.new else { return None };
        let named = [Self::Solo, Self::FourEyes].into_iter().find(|mode| mode.as_str() == word.as_str());
        named.filter(|_| setting.setting.as_str() == Self::SETTING)
    }

    /// The word in reports and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Solo => "solo",
            Self::FourEyes => "four_eyes",
        }
    }
}

/// When a receipt is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cbor(index_only)]
pub enum Durability {
    /// Synced to the journal.
    #[n(0)]
    Journal,
    /// And to Objects.
    #[n(1)]
    #[serde(rename = "journal+objects")]
    JournalObjects,
    /// And to ClickHouse.
    #[n(2)]
    #[serde(rename = "journal+clickhouse")]
    JournalClickhouse,
    /// To all three.
    #[n(3)]
    All,
}

impl Durability {
    /// The word in reports and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Journal => "journal",
            Self::JournalObjects => "journal+objects",
            Self::JournalClickhouse => "journal+clickhouse",
            Self::All => "all",
        }
    }
}

/// The first entry of a log, signed by the root key; it certifies the log key.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[cbor(array)]
pub struct Genesis {
    /// The organization of the log.
    #[n(0)]
    pub org: OrgId,
    /// The log.
    #[n(1)]
    pub log: LogId,
    /// Public keys of root document version 1.
    #[n(2)]
    pub root_keys: Vec<Bytes32>,
    /// How many of them a change of root, bundle or mode needs.
    #[n(3)]
    pub root_threshold: u8,
    /// Plain digest of root document version 1.
    #[n(4)]
    pub root_document: Digest,
    /// The key that signs checkpoints and evidence.
    #[n(5)]
    pub log_key: Bytes32,
    /// How entries are signed.
    #[n(6)]
    pub signatures: SignatureMode,
    /// When a receipt is released.
    #[n(7)]
    pub durability: Durability,
    /// A demonstration: the only log that accepts the stand-in human.
    #[n(8)]
    pub demo: bool,
}

/// Who certified a gateway key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[cbor(index_only)]
pub enum CertifiedBy {
    /// A root key.
    #[n(0)]
    Root,
    /// The log key.
    #[n(1)]
    Log,
}

/// A gateway introduces itself to a log, before its first entry of this boot.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[cbor(array)]
pub struct Boot {
    /// The gateway.
    #[n(0)]
    pub gateway: GatewayId,
    /// Its boots in this log, from 1.
    #[n(1)]
    pub boot: u64,
    /// The key that signs its entries of this boot.
    #[n(2)]
    pub key: Bytes32,
    /// Signature over [`crate::key::certificate_bytes`].
    #[n(3)]
    pub certificate: Bytes64,
    /// Whose signature that is.
    #[n(4)]
    pub certified_by: CertifiedBy,
    /// Size of the log that this gateway saw when it started.
    #[n(5)]
    pub size_seen: u64,
    /// Sandbox level of its process runner, 0 to 3; none without one.
    #[n(6)]
    pub sandbox_level: Option<u8>,
}

/// What happens to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[cbor(index_only)]
pub enum KeyChange {
    /// Valid from here on.
    #[n(0)]
    Added,
    /// No longer used from here on.
    #[n(1)]
    Retired,
    /// Not to be trusted from here on.
    #[n(2)]
    Revoked,
}

/// What a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[cbor(index_only)]
pub enum KeyRole {
    /// Of the organization.
    #[n(0)]
    Root,
    /// Of checkpoints and evidence.
    #[n(1)]
    Log,
    /// Of entries.
    #[n(2)]
    Gateway,
}

/// A key's validity changes, by position in the log and not by wall time.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[cbor(array)]
pub struct Key {
    /// What happens.
    #[n(0)]
    pub change: KeyChange,
    /// What it is for.
    #[n(1)]
    pub role: KeyRole,
    /// The public key.
    #[n(2)]
    pub key: Bytes32,
    /// Signature by the root threshold's first key over [`crate::key::change_bytes`].
    #[n(3)]
    pub certificate: Bytes64,
}

macro_rules! bodies {
    ($($(#[$doc:meta])* $number:literal $variant:ident($body:ty) in $($stream:ident)|+, $text:literal, since $since:literal;)+) => {
        /// The body of an entry: one variant a kind.
        #[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
        #[serde(untagged)]
        pub enum Body {
            $($(#[$doc])* $variant($body),)+
        }

        /// Kind of an entry, without its body. The number is what is signed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $($(#[$doc])* $variant,)+
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The number in the entry.
            pub fn number(self) -> u16 {
                match self { $(Self::$variant => $number,)+ }
            }

            /// The kind with this number.
            pub fn from_number(number: u16) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)+ _ => None }
            }

            /// The name in the API.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// The semantics version that it came with: under an earlier one there is no such kind.
            pub fn since(self) -> u16 {
                match self { $(Self::$variant => $since,)+ }
            }

            /// Whether the kind may stand in a stream of this kind.
            pub fn belongs_in(self, stream: StreamKind) -> bool {
                match self { $(Self::$variant => matches!(stream, $(StreamKind::$stream)|+),)+ }
            }
        }

        impl Body {
            /// The kind.
            pub fn kind(&self) -> Kind {
                match self { $(Self::$variant(_) => Kind::$variant,)+ }
            }

            /// Deterministic CBOR of the body.
            pub fn encode(&self) -> Vec<u8> {
                let mut out = Vec::with_capacity(256);
                let written = match self { $(Self::$variant(b) => minicbor::encode(b, &mut out),)+ };
                // A `Vec` never fails to be written to.
                debug_assert!(written.is_ok(), "encoding to memory");
                out
            }

            /// Reads a body of `kind` from exactly `bytes`.
            ///
            /// # Errors
            /// [`EntryError::Body`] if the bytes are not that kind, or not in their one canonical form.
            pub fn decode(kind: Kind, bytes: &[u8]) -> Result<Self, EntryError> {
                let body = match kind {
                    $(Kind::$variant => minicbor::decode::<$body>(bytes).map(Self::$variant),)+
                }
                .map_err(|source| EntryError::Body { kind: kind.as_str(), source })?;
                if body.encode() == bytes { Ok(body) } else { Err(EntryError::NotCanonical) }
            }
        }
    };
}

bodies! {
    /// See [`Created`].
    1 Created(Created) in Instance, "created", since 1;
    /// See [`Edge`].
    2 Edge(Edge) in Instance, "edge", since 1;
    /// See [`Permit`].
    3 Permit(Permit) in Instance, "permit", since 1;
    /// See [`Start`].
    4 Start(Start) in Instance, "start", since 1;
    /// See [`Outcome`].
    5 Outcome(Outcome) in Instance, "outcome", since 1;
    /// See [`Conflict`].
    6 Conflict(Conflict) in Instance, "conflict", since 1;
    /// See [`Refusal`].
    7 Refusal(Refusal) in Instance | Organization, "refusal", since 1;
    /// See [`Gate`].
    8 Gate(Gate) in Instance, "gate", since 1;
    /// See [`GateEvent`].
    9 GateEvent(GateEvent) in Instance, "gate_event", since 1;
    /// See [`Decision`].
    10 Decision(Decision) in Instance, "decision", since 1;
    /// See [`TaskGrant`].
    11 TaskGrant(TaskGrant) in Instance, "task_grant", since 1;
    /// See [`TaskGrantUse`].
    12 TaskGrantUse(TaskGrantUse) in Instance, "task_grant_use", since 1;
    /// See [`Sweep`].
    13 Sweep(Sweep) in Instance, "sweep", since 1;
    /// See [`Lift`].
    14 Lift(Lift) in Instance, "lift", since 2;
    /// See [`Evaluation`].
    32 Evaluation(Evaluation) in Organization, "evaluation", since 1;
    /// See [`Settings`].
    33 Settings(Settings) in Organization, "settings", since 1;
    /// See [`Principal`].
    34 Principal(Principal) in Organization, "principal", since 1;
    /// See [`Workflow`].
    35 Workflow(Workflow) in Organization, "workflow", since 1;
    /// A step of a policy bundle, see [`PolicyStep`].
    36 Policy(PolicyStep) in Organization, "policy", since 1;
    /// A step of a tool catalogue, see [`PolicyStep`].
    37 Catalogue(PolicyStep) in Organization, "catalogue", since 1;
    /// See [`Counter`].
    38 Counter(Counter) in Organization, "counter", since 1;
    /// See [`Freeze`].
    39 Freeze(Freeze) in Organization, "freeze", since 1;
    /// See [`Erasure`].
    40 Erasure(Erasure) in Organization, "erasure", since 1;
    /// See [`Prune`].
    41 Prune(Prune) in Organization, "prune", since 1;
    /// See [`LegalHold`].
    42 LegalHold(LegalHold) in Organization, "legal_hold", since 1;
    /// See [`Scrub`].
    43 Scrub(Scrub) in Organization, "scrub", since 1;
    /// See [`SinkGap`].
    44 SinkGap(SinkGap) in Organization, "sink_gap", since 1;
    /// See [`Recovery`].
    45 Recovery(Recovery) in Organization, "recovery", since 1;
    /// See [`Review`].
    46 Review(Review) in Organization, "review", since 2;
    /// See [`PersonKey`].
    47 PersonKey(PersonKey) in Organization, "person_key", since 2;
    /// See [`Genesis`].
    64 Genesis(Genesis) in Log, "genesis", since 1;
    /// See [`Boot`].
    65 Boot(Boot) in Log, "boot", since 1;
    /// See [`Key`].
    66 Key(Key) in Log, "key", since 1;
}

/// A body type that one kind of entry holds: what `Committed<T>` may be made of.
pub trait Fact: Sized {
    /// The body, if it is of this type.
    fn from_body(body: &Body) -> Option<&Self>;
}

macro_rules! facts {
    ($($variant:ident),+) => {$(
        impl From<$variant> for Body {
            fn from(body: $variant) -> Self {
                Self::$variant(body)
            }
        }

        impl Fact for $variant {
            fn from_body(body: &Body) -> Option<&Self> {
                match body { Body::$variant(b) => Some(b), _ => None }
            }
        }
    )+};
}

facts!(
    Created,
    Edge,
    Permit,
    Start,
    Outcome,
    Conflict,
    Refusal,
    Gate,
    GateEvent,
    Decision,
    TaskGrant,
    TaskGrantUse,
    Sweep,
    Lift,
    Evaluation,
    Settings,
    Principal,
    Workflow,
    Counter,
    Freeze,
    Erasure,
    Prune,
    LegalHold,
    Scrub,
    SinkGap,
    Recovery,
    Review,
    PersonKey,
    Genesis,
    Boot,
    Key
);
