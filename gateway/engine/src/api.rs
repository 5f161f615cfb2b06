//! What the engine is asked and what it answers. `http` turns these into wire types; nothing here is a wire format.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use countersign_gateway_flow::WhyNot;
use countersign_gateway_model::{
    ActionId, DecisionId, Digest, GateId, InstanceId, ItemId, Name, Outcome, PermitId, RunId, State, Timestamp, Verdict,
};
use countersign_ledger_entry::Receipt;
use countersign_ledger_entry::body::{Assertion, DecisionKind, Effect, Finding, GateSubject, OnDeny};
use countersign_ledger_entry::payload::Salt;

/// An `Idempotency-Key` with the digest of the request that came with it.
#[derive(Clone, Debug)]
pub struct Idempotency {
    /// The key, as the caller made it.
    pub key: String,
    /// SHA-256 over method, path and body.
    pub request: Digest,
}

/// One page of a list, in ledger order.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Where the next page begins; none: this is the last.
    pub next: Option<String>,
}

/// A new instance.
#[derive(Clone, Debug)]
pub struct NewInstance {
    /// The workflow.
    pub workflow: Name,
    /// The agent that will act; none: the caller.
    pub agent: Option<Name>,
    /// The person answerable; none: the caller, who must then be a person.
    pub accountable: Option<Name>,
    /// The tree that its first run starts from.
    pub workspace: Option<Digest>,
    /// Words of the caller's own; at most 16.
    pub labels: BTreeMap<String, String>,
    /// Seconds until SYSTEM terminates it.
    pub deadline_s: Option<u64>,
    /// What a denied action does.
    pub on_deny: OnDeny,
    /// Start at once; else it rests in CREATED.
    pub start: bool,
}

/// An instance as people read it.
#[derive(Clone, Debug)]
pub struct InstanceRecord {
    /// Its id.
    pub id: InstanceId,
    /// The workflow.
    pub workflow: Name,
    /// Digest of the workflow version.
    pub workflow_version: Digest,
    /// Where it stands.
    pub state: State,
    /// `person/<id>` or `service/<id>`.
    pub initiator: String,
    /// The person answerable.
    pub accountable: String,
    /// Who answers for the acting agent.
    pub owner: Option<String>,
    /// Who acts in it.
    pub acting: String,
    /// When it came into being.
    pub created: Timestamp,
    /// When its stream last grew.
    pub updated: Timestamp,
    /// The open gate.
    pub gate: Option<GateId>,
    /// Permits whose start has no outcome yet.
    pub open_starts: Vec<PermitId>,
    /// Denials so far.
    pub denials: u64,
    /// The tree that the next run starts from.
    pub workspace: Option<Digest>,
    /// Words of the caller's own.
    pub labels: BTreeMap<String, String>,
    /// When SYSTEM terminates it.
    pub deadline: Option<Timestamp>,
    /// Whether a proposal could be carried out now, as far as readiness goes.
    pub runnable: bool,
    /// Why not.
    pub reasons: Vec<String>,
    /// Whether policy is held to in it now: not where its workflow is in shadow.
    pub enforced: bool,
    /// Next sequence of its stream.
    pub sequence: u64,
}

/// Which instances to list.
#[derive(Clone, Debug, Default)]
pub struct InstanceQuery {
    /// Only those in this state.
    pub state: Option<State>,
    /// Only those of this workflow.
    pub workflow: Option<Name>,
    /// From where.
    pub after: Option<String>,
    /// How many at most.
    pub limit: usize,
}

/// What became of a request to create an instance.
#[derive(Clone, Debug)]
pub struct InstanceAnswer {
    /// The instance.
    pub instance: InstanceRecord,
    /// The gate that its start waits at.
    pub gate: Option<GateId>,
    /// Proof of the last entry.
    pub receipt: Receipt,
}

/// A proposal to call a tool.
#[derive(Clone, Debug)]
pub struct ActionRequest {
    /// The tool.
    pub tool: Name,
    /// Its input as the caller wrote it: raw JSON, parsed once and strictly.
    pub input: Vec<u8>,
    /// Commit, image or content digest of the target, where the caller knows it.
    pub revision: Option<String>,
}

/// What became of one proposed action.
#[derive(Clone, Debug)]
pub struct ActionAnswer {
    /// Its id.
    pub action: ActionId,
    /// The tool.
    pub tool: Name,
    /// What became of it.
    pub result: ActionResult,
    /// What it is permitted for, where that is not what was sent.
    pub instead: Option<Instead>,
}

/// The input that was permitted in place of the one that was sent. To carry out any other is to do what nobody permitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instead {
    /// The input: canonical JSON.
    pub input: Arc<[u8]>,
    /// What changed it, at least one.
    pub changed_by: Vec<ChangedBy>,
}

/// What makes the permitted input another than the one that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangedBy {
    /// A mask of the policy, which hides a part of it from everybody.
    Mask,
    /// A transform that a policy asked for.
    Transform,
    /// A person's OVERRIDE at a gate.
    Override,
}

impl ChangedBy {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mask => "mask",
            Self::Transform => "transform",
            Self::Override => "override",
        }
    }
}

/// An action that was begun.
#[derive(Clone, Debug)]
pub struct Begun {
    /// The start.
    pub start: StartAnswer,
    /// What is to be carried out, where that is not what was sent.
    pub instead: Option<Instead>,
    /// Proof of the start's entry.
    pub receipt: Receipt,
}

/// The ways in which a proposed action is answered.
#[derive(Clone, Debug)]
pub enum ActionResult {
    /// A permit, not yet consumed.
    Permitted {
        /// The permit.
        permit: PermitId,
        /// No start after this.
        expires: Timestamp,
    },
    /// Permit and start: the agent may carry it out now.
    Started(StartAnswer),
    /// Permit and start: a runner carries it out.
    Dispatched {
        /// The run.
        run: RunId,
        /// The start.
        start: StartAnswer,
    },
    /// Waits for people.
    Waiting {
        /// The item in the gate.
        item: Option<ItemId>,
    },
    /// No.
    Refused {
        /// Problem code.
        code: &'static str,
        /// What the agent may be told.
        message: String,
    },
}

/// A consumed permit.
#[derive(Clone, Debug)]
pub struct StartAnswer {
    /// The permit.
    pub permit: PermitId,
    /// Nothing may be begun after this.
    pub not_after: Timestamp,
    /// Only the first answer to a start is authority; a replayed one must be treated as `unknown`.
    pub first: bool,
    /// Stream sequence of the start.
    pub fence: u64,
}

/// What became of a batch of actions.
#[derive(Clone, Debug)]
pub struct Proposed {
    /// In the order of the request.
    pub items: Vec<ActionAnswer>,
    /// The gate that those which wait wait at.
    pub gate: Option<GateId>,
    /// Where the instance stands.
    pub state: State,
    /// Proof of the last entry.
    pub receipt: Receipt,
    /// False for a replay of an earlier answer.
    pub first: bool,
}

/// An action as people read it.
#[derive(Clone, Debug)]
pub struct ActionRecord {
    /// Its id.
    pub id: ActionId,
    /// The instance.
    pub instance: InstanceId,
    /// The tool.
    pub tool: Name,
    /// `permitted`, `started`, `waiting`, `refused`, an outcome, `lapsed` or `voided`.
    pub status: String,
    /// Its run, if dispatched.
    pub run: Option<RunId>,
    /// Its permit.
    pub permit: Option<PermitId>,
    /// When it was proposed.
    pub proposed: Timestamp,
    /// What it was permitted for, where that is not what was sent, and is still kept.
    pub instead: Option<Instead>,
}

/// What an agent says of an action that it carried out.
#[derive(Clone, Debug)]
pub struct OutcomeReport {
    /// How it ended.
    pub outcome: Outcome,
    /// What came out; bounded, kept as a payload.
    pub output: Option<Value>,
}

/// What became of a report.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The outcome on record.
    pub outcome: Outcome,
    /// The report differed from a final outcome: a conflict is on record and nothing changed.
    pub conflict: bool,
    /// Proof of the entry.
    pub receipt: Receipt,
}

/// What became of a request to complete or to stop.
#[derive(Clone, Debug)]
pub struct Moved {
    /// Where the instance stands.
    pub state: State,
    /// The gate that it waits at.
    pub gate: Option<GateId>,
    /// The instance was already finished; nothing was done.
    pub already: bool,
    /// Proof of the last entry; none where nothing was done.
    pub receipt: Option<Receipt>,
}

/// Which gates to list.
#[derive(Clone, Debug, Default)]
pub struct GateQuery {
    /// Only open ones, or only closed ones.
    pub open: Option<bool>,
    /// Only this instance's.
    pub instance: Option<InstanceId>,
    /// From where.
    pub after: Option<String>,
    /// How many at most.
    pub limit: usize,
}

/// How far a rule is met.
#[derive(Clone, Debug)]
pub struct RuleProgress {
    /// The rule.
    pub rule: Name,
    /// Persons needed.
    pub quorum: u32,
    /// Persons counted.
    pub counted: u32,
    /// Whether it is met.
    pub met: bool,
    /// Whether it is met because somebody lifted it without its quorum.
    pub lifted: bool,
    /// Whether the rule's data in force lets somebody lift it.
    pub liftable: bool,
    /// What the bundle calls it.
    pub title: String,
    /// Roles of which a voter must hold one.
    pub roles: Vec<Name>,
}

/// One item of a gate as people read it.
#[derive(Clone, Debug)]
pub struct GateItemRecord {
    /// Its id.
    pub item: ItemId,
    /// The action.
    pub action: ActionId,
    /// The tool.
    pub tool: Option<Name>,
    /// Salted digest of what would be permitted.
    pub digest: Digest,
    /// The rules in its way.
    pub rules: Vec<RuleProgress>,
}

/// A gate as people read it.
#[derive(Clone, Debug)]
pub struct GateRecord {
    /// Its id.
    pub id: GateId,
    /// The instance that waits.
    pub instance: InstanceId,
    /// What it stands in front of.
    pub subject: GateSubject,
    /// Whether it is undecided.
    pub open: bool,
    /// When it opened.
    pub opened: Timestamp,
    /// When silence is acted on.
    pub expires: Option<Timestamp>,
    /// How it ended: a state's name.
    pub resolved: Option<String>,
    /// Its items; only of an open gate.
    pub items: Vec<GateItemRecord>,
}

/// A gate with its approval view.
#[derive(Clone)]
pub struct GateDetail {
    /// The gate.
    pub gate: GateRecord,
    /// The text to show.
    pub view: String,
    /// What a decision must name.
    pub shown_digest: Digest,
    /// The digest's salt, for people at an open gate: with it they work out for themselves that it is of this text.
    pub salt: Option<Salt>,
}

impl std::fmt::Debug for GateDetail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A salt is in no log.
        let mut shown = f.debug_struct("GateDetail");
        shown.field("gate", &self.gate).field("view", &self.view).field("shown_digest", &self.shown_digest);
        shown.finish_non_exhaustive()
    }
}

/// A person's decision.
#[derive(Clone, Debug)]
pub struct DecisionRequest {
    /// What.
    pub kind: DecisionKind,
    /// Which items; none: all.
    pub items: Vec<ItemId>,
    /// Why.
    pub justification: Option<String>,
    /// The view that was read.
    pub shown_digest: Option<Digest>,
    /// For OVERRIDE: by item, the changed keys (JSON pointer to value), or none to drop the item.
    pub delta: BTreeMap<ItemId, Option<BTreeMap<String, Value>>>,
    /// The role used.
    pub role: Option<Name>,
    /// The approver's own signature.
    pub assertion: Option<Signed>,
}

/// A decision's signature.
#[derive(Clone)]
pub struct Signed {
    /// The signature, and by which key.
    pub assertion: Assertion,
    /// For OVERRIDE: the salt under which the change was signed.
    pub delta_salt: Option<Salt>,
}

impl std::fmt::Debug for Signed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A salt is in no log.
        f.debug_struct("Signed").field("assertion", &self.assertion).finish_non_exhaustive()
    }
}

/// What became of a decision.
#[derive(Clone, Debug)]
pub struct DecisionAnswer {
    /// Its id.
    pub decision: DecisionId,
    /// What it did.
    pub effect: Effect,
    /// Why it has no effect, where that is the decider's or their view's; none: it has one, or `effect` says it all.
    pub why: Option<WhyNot>,
    /// The instance.
    pub instance: InstanceId,
    /// Where the instance stands.
    pub state: State,
    /// What the gate's items got, where it resolved.
    pub items: Vec<ActionAnswer>,
    /// Rules still unmet.
    pub remaining: Vec<RuleProgress>,
    /// Proof of the last entry.
    pub receipt: Receipt,
}

/// One rule that a person lifts without its quorum.
#[derive(Clone, Debug)]
pub struct LiftRequest {
    /// The rule.
    pub rule: Name,
    /// The item; none: the one that asks for the rule.
    pub item: Option<ItemId>,
    /// Why.
    pub justification: String,
    /// The view that was read.
    pub shown_digest: Digest,
    /// The role used.
    pub role: Option<Name>,
    /// The person's own signature.
    pub assertion: Option<Assertion>,
}

/// A rule that one person lifts, and the shadow window that they cut short for it.
#[derive(Clone, Debug)]
pub struct PolicyGlass {
    /// The rule.
    pub rule: Name,
    /// Why.
    pub justification: String,
    /// The difference that was read.
    pub diff_digest: Digest,
    /// The role used.
    pub role: Option<Name>,
}

/// What became of a lift.
#[derive(Clone, Debug)]
pub struct LiftAnswer {
    /// As of a decision; its id is the lift's, and the review's.
    pub answer: DecisionAnswer,
    /// Its review is owed until then; none where nothing was lifted.
    pub review_by: Option<Timestamp>,
}

/// A rule that was lifted without its quorum, as people read it.
#[derive(Clone, Debug)]
pub struct LiftRecord {
    /// Its id, and that of its review.
    pub id: DecisionId,
    /// The instance.
    pub instance: InstanceId,
    /// The gate.
    pub gate: GateId,
    /// The item.
    pub item: ItemId,
    /// The tool that it is about.
    pub tool: Option<Name>,
    /// The rule.
    pub rule: Name,
    /// Who lifted it.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// Why, as they said; none where it was erased.
    pub justification: Option<String>,
    /// The review is owed until then.
    pub review_by: Timestamp,
    /// The review is owed and its time has passed.
    pub overdue: bool,
    /// The review, where it is closed.
    pub review: Option<ReviewRecord>,
}

/// A review that is closed.
#[derive(Clone, Debug)]
pub struct ReviewRecord {
    /// Who reviewed.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// `upheld` or `not_upheld`.
    pub finding: Finding,
}

/// A run as people read it.
#[derive(Clone, Debug)]
pub struct RunRecord {
    /// The run.
    pub run: RunId,
    /// The instance.
    pub instance: InstanceId,
    /// The permit that it was started under.
    pub permit: PermitId,
    /// From 1.
    pub attempt: u32,
    /// The runner's kind.
    pub backend: Name,
    /// `queued` … `lost`.
    pub phase: String,
    /// The outcome on record.
    pub outcome: Option<Outcome>,
    /// Exit code, where there was one.
    pub exit: Option<i32>,
    /// Why it failed, in words.
    pub reason: Option<String>,
    /// Sandbox level enforced.
    pub sandbox_level: Option<u8>,
    /// When it was started.
    pub started: Timestamp,
    /// When its outcome was committed.
    pub ended: Option<Timestamp>,
    /// The tree that it left.
    pub workspace: Option<Digest>,
}

/// A piece of a run's output.
#[derive(Clone, Debug)]
pub enum LogItem {
    /// Bytes.
    Chunk {
        /// `stdout` or `stderr`.
        stream: &'static str,
        /// Byte offset within the stream.
        offset: u64,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Bytes that are not to be had.
    Gap {
        /// `stdout` or `stderr`.
        stream: &'static str,
        /// First byte missing.
        from: u64,
        /// First byte not missing, where known.
        to: Option<u64>,
    },
}

/// Output of a run from a position on.
#[derive(Clone, Debug)]
pub struct LogPage {
    /// The pieces.
    pub items: Vec<LogItem>,
    /// Nothing will follow.
    pub ended: bool,
    /// Offsets to go on from: stdout, stderr.
    pub next: (u64, u64),
}

/// A workflow version to register.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkflowSpec {
    /// Its id.
    pub id: Name,
    /// Its version; immutable once registered.
    pub version: String,
    /// One line for people.
    #[serde(default)]
    pub title: String,
    /// The owning team.
    #[serde(default)]
    pub team: Option<Name>,
    /// 0 none to 4 critical.
    #[serde(default)]
    pub materiality: u8,
    /// Tools allowed; none: every listed one.
    #[serde(default)]
    pub tools: Option<Vec<Name>>,
    /// What a denied action does to an instance.
    #[serde(default = "refuse")]
    pub on_deny: OnDeny,
}

fn refuse() -> OnDeny {
    OnDeny::Refuse
}

/// A workflow as people read it.
#[derive(Clone, Debug)]
pub struct WorkflowRecord {
    /// What was registered.
    pub spec: WorkflowSpec,
    /// Digest of its canonical form.
    pub digest: Digest,
}

/// Which policy is in force.
#[derive(Clone, Debug)]
pub struct PolicyRecord {
    /// Kernel, schema, bundle, catalogue.
    pub digests: countersign_gateway_model::PolicyDigests,
    /// The bundle's version.
    pub version: u64,
    /// `local` or `threshold`.
    pub signed_by: String,
    /// `solo` or `four_eyes`.
    pub authority: &'static str,
    /// Names of its policies.
    pub policies: Vec<Name>,
}

/// A proposal to put a bundle in force, as far as it is.
#[derive(Clone, Debug)]
pub struct PolicyProposal {
    /// Its id: that of the instance that it is an action of.
    pub id: InstanceId,
    /// The bundle.
    pub bundle: Digest,
    /// The bundle that it follows.
    pub predecessor: Option<Digest>,
    /// Its version.
    pub version: u64,
    /// `shadowing`, `waiting`, `approved`, `activated`, `failed` or `withdrawn`.
    pub state: &'static str,
    /// Who proposed it.
    pub author: String,
    /// When.
    pub proposed: Timestamp,
    /// When its shadow window ends; the time of the proposal where there is none.
    pub window_ends: Timestamp,
    /// It loosens something, or may.
    pub weakens: bool,
    /// It is the content of the bundle before the one in force.
    pub rollback: bool,
    /// It did not wait for its window or its quorum: an after-review is owed.
    pub break_glass: bool,
    /// The gate that it waits, or waited, at.
    pub gate: Option<GateId>,
    /// Why it failed.
    pub reason: Option<String>,
    /// Its steps, in order.
    pub steps: Vec<ProposalStep>,
    /// What it would have said to the questions of its shadow window.
    pub compared: Option<Compared>,
    /// What is known of its invariants.
    pub proofs: Vec<crate::changes::InvariantOutcome>,
    /// SHA-256 of the difference in words.
    pub diff_digest: Digest,
    /// The difference to the bundle that it follows, in words; in lists absent.
    pub diff: Option<String>,
}

/// One step of a proposal.
#[derive(Clone, Debug)]
pub struct ProposalStep {
    /// `proposed`, `checked`, `tested`, `invariants`, `shadowed`, `approved`, `activated`, `failed` or `withdrawn`.
    pub step: &'static str,
    /// When.
    pub at: Timestamp,
}

/// Questions of the past, asked of a candidate.
#[derive(Clone, Debug)]
pub struct Compared {
    /// How many.
    pub asked: u64,
    /// Answered as then.
    pub unchanged: u64,
    /// Answered differently, by kind: `allow_to_deny` and the like.
    pub changed: BTreeMap<String, u64>,
    /// Not to be answered any more.
    pub not_computable: u64,
}

/// Which entries to list.
#[derive(Clone, Debug, Default)]
pub struct EntryQuery {
    /// Only this instance's stream.
    pub instance: Option<InstanceId>,
    /// From this index (or stream sequence, with `instance`).
    pub from: u64,
    /// How many at most.
    pub limit: usize,
}

/// An entry as people read it.
#[derive(Clone, Debug)]
pub struct EntryRecord {
    /// Place in the log.
    pub index: u64,
    /// Leaf hash, hex.
    pub hash: String,
    /// `instance`, `organization` or `log`.
    pub stream: &'static str,
    /// Id of the stream.
    pub stream_id: String,
    /// Place in the stream.
    pub sequence: u64,
    /// The kind.
    pub kind: &'static str,
    /// The body, as JSON.
    pub body: Value,
    /// What policy said.
    pub verdict: Option<Verdict>,
    /// Determining policies, per asked principal.
    pub determining: Vec<Vec<Name>>,
    /// Pseudonym of who acted.
    pub actor: String,
    /// Who that is, where known.
    pub actor_name: Option<String>,
    /// Pseudonyms of the chain, outermost first.
    pub on_behalf_of: Vec<String>,
    /// When, as claimed.
    pub claimed: Timestamp,
    /// `solo` or `four_eyes`.
    pub authority: &'static str,
    /// Payloads: role, digest, length.
    pub payloads: Vec<(String, Digest, u32)>,
}

/// A verdict computed again from its stored inputs.
#[derive(Clone, Debug)]
pub struct Replay {
    /// The entry.
    pub index: u64,
    /// What is on record.
    pub stored: Verdict,
    /// What comes out now; none: the inputs were erased.
    pub computed: Option<Verdict>,
}
