//! Projection rows, computed beside each entry from leaf facts alone: a rebuild from leaf bytes gives the same rows.
//!
//! Keys are id bytes (16), but for [`RUNS`] (run ‖ attempt, 32 bits big-endian), [`TIMERS`] (due time in milliseconds,
//! 64 bits big-endian ‖ id), whose scan gives what is due first, [`RESERVATIONS`] (likewise, by the time of taking) and
//! [`COUNTERS`] (the counter's name). Columns are one JSON object a row. What people read
//! (descriptions, inputs, views) is joined by the engine, from payloads that the audit names by digest.
//!
//! Nothing here is authority: rows are thrown away and rebuilt at will. One append writes a key at most once.

use serde::Serialize;

use countersign_gateway_model::{
    ActionId, Assurance, DecisionId, Digest, GateId, InstanceId, ItemId, Name, Outcome as OutcomeKind, PermitId,
    PrincipalKind, Pseudonym, RunId, State, Timestamp,
};
use countersign_ledger_entry::body::{
    Cause, Decision, DecisionKind, Edge, Effect, GateSubject, Lift, OnDeny, OnTimeout, Permit, QuestionKind, Refusal,
    RefusalReason, Reservation, RuleForm, RunStart, Start,
};
use countersign_ledger_entry::{Body, Header, Row};

use crate::fold::{Instance, OpenStart, Reserved};
use crate::gate::{OpenGate, OpenItem};

/// Instances, by instance id: [`InstanceRow`].
pub const INSTANCES: &str = "instances";
/// Actions, by action id: [`ActionRow`]. What became of a permitted one stands in [`STARTS`], by its permit.
pub const ACTIONS: &str = "actions";
/// Gates, by gate id: [`GateRow`].
pub const GATES: &str = "gates";
/// Gates that are open, by gate id: [`OpenGateRow`]. The row goes when the gate closes.
pub const OPEN_GATES: &str = "open_gates";
/// Decisions, by decision id: [`DecisionRow`].
pub const DECISIONS: &str = "decisions";
/// Starts with their outcomes, by permit id: [`StartRow`].
pub const STARTS: &str = "starts";
/// Attempts of runs, by run id ‖ attempt: [`RunRow`].
pub const RUNS: &str = "runs";
/// What is to happen at a time, by due time ‖ id: [`TimerRow`]. The row goes when it is no longer to happen.
pub const TIMERS: &str = "timers";
/// What permits hold of counters, by the time of taking ‖ permit id: [`ReservationRow`]. The row goes when it is released.
pub const RESERVATIONS: &str = "reservations";
/// Counters that were ever taken from, by name: [`CounterRow`].
pub const COUNTERS: &str = "counters";

/// Lifts of rules, by lift id: [`LiftRow`].
pub const LIFTS: &str = "lifts";
/// Lifts whose review is owed, by lift id: [`LiftRow`]. The row goes with the entry that closes the review, which is of the
/// organization's stream.
pub const OWED_REVIEWS: &str = "owed_reviews";

/// Every table written here.
pub const TABLES: [&str; 12] = [
    INSTANCES,
    ACTIONS,
    GATES,
    OPEN_GATES,
    DECISIONS,
    LIFTS,
    OWED_REVIEWS,
    STARTS,
    RUNS,
    TIMERS,
    RESERVATIONS,
    COUNTERS,
];

/// Columns of [`INSTANCES`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct InstanceRow {
    /// Workflow id.
    pub workflow: Name,
    /// Digest of the workflow version.
    pub workflow_version: Digest,
    /// Who caused it.
    pub initiator: Pseudonym,
    /// The person answerable.
    pub accountable: Pseudonym,
    /// Who answers for the agent.
    pub owner: Option<Pseudonym>,
    /// The principal that acts in it.
    pub acting: Pseudonym,
    /// Its sort.
    pub acting_kind: PrincipalKind,
    /// The instance that made it.
    pub parent: Option<InstanceId>,
    /// What a denial does.
    pub on_deny: OnDeny,
    /// When SYSTEM terminates it.
    pub deadline: Option<Timestamp>,
    /// False under a shadow workflow.
    pub enforced: bool,
    /// Where it stands.
    pub state: State,
    /// First entry.
    pub created: Timestamp,
    /// Last edge.
    pub updated: Timestamp,
    /// The open gate.
    pub gate: Option<GateId>,
    /// Actions denied so far.
    pub denials: u32,
    /// Terminal, and every start has its outcome.
    pub closed: bool,
}

/// What became of a proposed action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActionStatus {
    /// It has a permit.
    Permitted,
    /// It is an item of an open gate.
    Waiting,
    /// It needs nobody and waits for the gate of its batch.
    Cleared,
    /// Policy, or a freeze, refused it.
    Refused,
    /// Its gate was rejected.
    Rejected,
    /// An OVERRIDE went on without it.
    Dropped,
}

/// Columns of [`ACTIONS`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct ActionRow {
    /// The instance.
    pub instance: InstanceId,
    /// What became of it.
    pub status: ActionStatus,
    /// What was asked.
    pub question: Option<QuestionKind>,
    /// The tool.
    pub tool: Option<Name>,
    /// Digest of the tool's version, of a permitted one.
    pub tool_version: Option<Digest>,
    /// Salted digest of what is (or would be) permitted.
    pub digest: Option<Digest>,
    /// Who proposed it.
    pub proposer: Pseudonym,
    /// When it was proposed.
    pub proposed: Timestamp,
    /// Stream sequence of the entry that answers it.
    pub sequence: u64,
    /// The gate.
    pub gate: Option<GateId>,
    /// The item.
    pub item: Option<ItemId>,
    /// The permit.
    pub permit: Option<PermitId>,
    /// No start after this.
    pub expires: Option<Timestamp>,
    /// The target may change between approval and work: the tool says so, or no revision was named.
    pub mutable_target: bool,
    /// False under a shadow workflow.
    pub enforced: bool,
    /// Why it was refused.
    pub reason: Option<RefusalReason>,
}

/// Where a gate stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateState {
    /// People are asked.
    Open,
    /// As proposed.
    Approved,
    /// With a change.
    Overridden,
    /// Not at all.
    Rejected,
}

/// Columns of [`GATES`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct GateRow {
    /// The instance.
    pub instance: InstanceId,
    /// What it stands in front of.
    pub subject: GateSubject,
    /// Where it stands.
    pub state: GateState,
    /// Who proposed.
    pub proposer: Pseudonym,
    /// On whose behalf, outermost first.
    pub on_behalf_of: Vec<Pseudonym>,
    /// When it was opened.
    pub opened: Timestamp,
    /// Stream sequence of its entry.
    pub sequence: u64,
    /// When silence is acted on.
    pub expires: Option<Timestamp>,
    /// What silence does.
    pub on_timeout: OnTimeout,
    /// The start inside which the proposer runs.
    pub caller: Option<PermitId>,
    /// The items.
    pub items: Vec<GateItemRow>,
    /// Actions of the same batch that need nobody.
    pub cleared: Vec<ActionId>,
    /// When it closed.
    pub closed: Option<Timestamp>,
    /// Why it closed.
    pub cause: Option<Cause>,
}

/// One item in a [`GateRow`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct GateItemRow {
    /// Its id.
    pub item: ItemId,
    /// The proposal.
    pub action: ActionId,
    /// What is asked.
    pub question: QuestionKind,
    /// The tool.
    pub tool: Option<Name>,
    /// Its digest now.
    pub digest: Digest,
    /// An OVERRIDE replaced it.
    pub replaced: bool,
    /// An OVERRIDE dropped it.
    pub dropped: bool,
    /// The rules.
    pub rules: Vec<RuleRow>,
    /// Votes that count.
    pub votes: Vec<VoteRow>,
    /// Persons who may not approve or override it.
    pub involved: Vec<Pseudonym>,
}

/// One rule in a [`GateItemRow`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct RuleRow {
    /// The rule.
    pub rule: Name,
    /// How many persons.
    pub quorum: u8,
    /// Of different teams.
    pub distinct_teams: bool,
    /// Roles of which a voter must hold one.
    pub roles: Vec<Name>,
    /// Groups each of which must be represented.
    pub groups: Vec<Name>,
    /// Whether an overrider counts.
    pub override_counts: bool,
    /// How many persons' votes count for it. Rows that were written before this was told say none.
    #[serde(default)]
    pub counted: usize,
    /// Whether it is met.
    pub met: bool,
    /// The lift by which it is met.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifted: Option<DecisionId>,
}

/// One vote in a [`GateItemRow`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct VoteRow {
    /// The decision.
    pub decision: DecisionId,
    /// The person.
    pub person: Pseudonym,
    /// The role used.
    pub role: Option<Name>,
    /// Cast by the author of an override.
    pub author: bool,
}

/// Columns of [`OPEN_GATES`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct OpenGateRow {
    /// The instance.
    pub instance: InstanceId,
    /// When it was opened.
    pub opened: Timestamp,
}

/// Columns of [`DECISIONS`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct DecisionRow {
    /// The instance.
    pub instance: InstanceId,
    /// The gate.
    pub gate: GateId,
    /// What was decided.
    pub kind: DecisionKind,
    /// The items; empty for REJECT.
    pub items: Vec<DecidedRow>,
    /// The account; SYSTEM's is all zero.
    pub actor: Pseudonym,
    /// The person.
    pub person: Pseudonym,
    /// The role used.
    pub role: Option<Name>,
    /// What it did.
    pub effect: Effect,
    /// Digest of the view that was shown.
    pub shown: Option<Digest>,
    /// Digest of the changed input.
    pub delta: Option<Digest>,
    /// How sure the login was.
    pub assurance: Assurance,
    /// The approver's own signature came with it.
    pub asserted: bool,
    /// Whom SYSTEM names as the stopper.
    pub on_behalf: Option<Pseudonym>,
    /// When.
    pub at: Timestamp,
    /// Stream sequence of its entry.
    pub sequence: u64,
}

/// Columns of [`LIFTS`] and [`OWED_REVIEWS`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct LiftRow {
    /// The instance.
    pub instance: InstanceId,
    /// The gate.
    pub gate: GateId,
    /// The item.
    pub item: ItemId,
    /// The tool that the item is about.
    pub tool: Option<Name>,
    /// The rule.
    pub rule: Name,
    /// The account.
    pub actor: Pseudonym,
    /// The person.
    pub person: Pseudonym,
    /// The role used.
    pub role: Option<Name>,
    /// What it did.
    pub effect: Effect,
    /// How sure the login was.
    pub assurance: Assurance,
    /// The acting principal of the instance and those on whose behalf it acts: they review nothing of theirs.
    pub acting: Vec<Pseudonym>,
    /// Whose instance it is, and who is involved in the item: nor do they.
    #[serde(default)]
    pub concerned: Vec<Pseudonym>,
    /// The review is owed until then.
    pub review_by: Timestamp,
    /// When.
    pub at: Timestamp,
    /// Stream sequence of its entry.
    pub sequence: u64,
}

impl LiftRow {
    /// Whether the rule was lifted, so that a review of it is owed.
    pub fn owes_review(&self) -> bool {
        matches!(self.effect, Effect::Counted | Effect::Resolving)
    }
}

/// One item in a [`DecisionRow`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct DecidedRow {
    /// The item.
    pub item: ItemId,
    /// Its digest as decided.
    pub digest: Digest,
    /// For OVERRIDE: the digest instead; none drops the item.
    pub instead: Option<Digest>,
}

/// What became of a start, in [`StartRow`] and [`RunRow`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct OutcomeRow {
    /// How it ended.
    pub outcome: OutcomeKind,
    /// Digest of the output.
    pub output: Option<Digest>,
    /// Digest of the workspace tree.
    pub workspace: Option<Digest>,
    /// Sandbox level that was enforced.
    pub sandbox_level: Option<u8>,
    /// Nobody reported it: SYSTEM swept the start.
    pub swept: bool,
    /// It replaced an earlier `unknown`.
    pub supersedes: bool,
    /// When.
    pub at: Timestamp,
    /// Stream sequence of its entry.
    pub sequence: u64,
}

/// Columns of [`STARTS`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct StartRow {
    /// The instance.
    pub instance: InstanceId,
    /// Stream sequence of the start: the fence.
    pub sequence: u64,
    /// Stream sequence of the permit.
    pub permit_sequence: u64,
    /// When it was started.
    pub started: Timestamp,
    /// Nothing may be begun after this.
    pub not_after: Timestamp,
    /// The run; none: the agent itself.
    pub run: Option<RunId>,
    /// The attempt.
    pub attempt: Option<u32>,
    /// What became of it.
    pub outcome: Option<OutcomeRow>,
}

/// Columns of [`RUNS`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct RunRow {
    /// The instance.
    pub instance: InstanceId,
    /// The permit.
    pub permit: PermitId,
    /// The runner's kind.
    pub backend: Name,
    /// The name under which the backend knows it.
    pub external_name: Name,
    /// Digest of the job.
    pub job: Digest,
    /// The fence.
    pub fence: u64,
    /// When it was started.
    pub started: Timestamp,
    /// Nothing may be begun after this.
    pub not_after: Timestamp,
    /// What became of it.
    pub outcome: Option<OutcomeRow>,
}

/// What a timer is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimerKind {
    /// A gate expires. The id is the gate's.
    Gate,
    /// An instance's deadline. The id is the instance's.
    Deadline,
    /// A start may not be begun any more, so that its outcome is due. The id is the permit's.
    Start,
}

/// Columns of [`TIMERS`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct TimerRow {
    /// What it is about.
    pub kind: TimerKind,
    /// The instance.
    pub instance: InstanceId,
}

/// Columns of [`RESERVATIONS`]. One that was never started counts until the log's time passes `expires`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct ReservationRow {
    /// The instance.
    pub instance: InstanceId,
    /// Its permit lapses after this.
    pub expires: Timestamp,
    /// Its permit was started.
    pub started: bool,
    /// It is spent for good: its outcome is `succeeded`.
    pub settled: bool,
    /// By counter: how much, and the version that was read.
    pub held: Vec<HeldRow>,
}

/// One counter in a [`ReservationRow`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct HeldRow {
    /// The counter.
    pub counter: Name,
    /// The version that was read.
    pub version: u64,
    /// How much, in ten-thousandths of the counter's unit.
    pub amount: u64,
}

/// Columns of [`COUNTERS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct CounterRow {
    /// The version that the next taking reads.
    pub version: u64,
}

/// Key of a reservation: when it was taken, and by which permit.
pub fn reservation_key(at: Timestamp, permit: PermitId) -> Vec<u8> {
    timer_key(at, permit.as_bytes())
}

/// Time and permit of a reservation's key.
pub fn reservation_of(key: &[u8]) -> Option<(Timestamp, PermitId)> {
    timer_of(key).map(|(at, id)| (at, PermitId::from_bytes(id)))
}

/// Key of a timer.
pub fn timer_key(due: Timestamp, id: &[u8; 16]) -> Vec<u8> {
    let mut key = Vec::with_capacity(24);
    key.extend_from_slice(&due.0.to_be_bytes());
    key.extend_from_slice(id);
    key
}

/// Due time and id of a timer's key.
pub fn timer_of(key: &[u8]) -> Option<(Timestamp, [u8; 16])> {
    let (due, id) = key.split_first_chunk::<8>()?;
    Some((Timestamp(u64::from_be_bytes(*due)), id.try_into().ok()?))
}

/// Key of an attempt of a run.
pub fn run_key(run: RunId, attempt: u32) -> Vec<u8> {
    let mut key = Vec::with_capacity(20);
    key.extend_from_slice(run.as_bytes());
    key.extend_from_slice(&attempt.to_be_bytes());
    key
}

/// Run and attempt of its key.
pub fn run_of(key: &[u8]) -> Option<(RunId, u32)> {
    let (run, attempt) = key.split_first_chunk::<16>()?;
    Some((RunId::from_bytes(*run), u32::from_be_bytes(attempt.try_into().ok()?)))
}

/// The rows that an entry implies, after `instance` has taken it in. In an append, a later row of a key replaces an earlier.
pub fn project(instance: &Instance, header: &Header, rows: &mut Vec<Row>) {
    let rows = &mut Rows(rows);
    let id = instance.id();
    match &header.body {
        Body::Created(created) => {
            rows.instance(instance);
            if let Some(due) = created.deadline {
                rows.timer(due, id.as_bytes(), Some(TimerRow { kind: TimerKind::Deadline, instance: id }));
            }
        }
        Body::Edge(edge) => rows.edge(instance, header, edge),
        Body::Permit(permit) => rows.permit(instance, header, permit),
        Body::Refusal(refusal) => {
            rows.instance(instance);
            rows.refusal(instance, header, refusal);
        }
        Body::Gate(_) => rows.gate_opened(instance, header),
        Body::Decision(decision) => {
            rows.decision(id, header, decision);
            if let Some(gate) = instance.gate() {
                rows.gate(id, gate, GateState::Open, None);
            }
        }
        Body::Lift(lift) => {
            rows.lift(instance, header, lift);
            if let Some(gate) = instance.gate() {
                rows.gate(id, gate, GateState::Open, None);
            }
        }
        Body::Start(start) => rows.start(instance, start),
        Body::Outcome(outcome) => {
            let row = OutcomeRow {
                outcome: outcome.outcome,
                output: outcome.output,
                workspace: outcome.workspace,
                sandbox_level: outcome.sandbox_level,
                swept: false,
                supersedes: outcome.supersedes,
                at: header.claimed,
                sequence: header.sequence,
            };
            rows.outcome(instance, outcome.permit, &row);
        }
        Body::Sweep(sweep) => {
            let row = OutcomeRow {
                outcome: OutcomeKind::Unknown,
                output: None,
                workspace: None,
                sandbox_level: None,
                swept: true,
                supersedes: false,
                at: header.claimed,
                sequence: header.sequence,
            };
            rows.outcome(instance, sweep.permit, &row);
        }
        // Conflicts and gate events change nothing that is listed; the audit shows them. The rest is of other streams.
        _ => {}
    }
}

/// Of several rows of one key, the last.
pub(crate) fn latest(mut rows: Vec<Row>) -> Vec<Row> {
    if rows.len() < 2 {
        return rows;
    }
    let mut seen = std::collections::BTreeSet::new();
    let keep: Vec<bool> = rows.iter().rev().map(|row| seen.insert((row.table, row.key.clone()))).collect();
    let mut keep = keep.into_iter().rev();
    rows.retain(|_| keep.next().unwrap_or(true));
    rows
}

struct Rows<'r>(&'r mut Vec<Row>);

impl Rows<'_> {
    fn put(&mut self, table: &'static str, key: Vec<u8>, columns: &impl Serialize) {
        // Writing these types to memory never fails; were it to, a missing row is mended by a rebuild.
        let columns = serde_json::to_vec(columns).ok();
        debug_assert!(columns.is_some(), "columns are plain data");
        self.0.push(Row { table, key, columns });
    }

    fn delete(&mut self, table: &'static str, key: Vec<u8>) {
        self.0.push(Row { table, key, columns: None });
    }

    fn timer(&mut self, due: Timestamp, id: &[u8; 16], row: Option<TimerRow>) {
        match row {
            Some(row) => self.put(TIMERS, timer_key(due, id), &row),
            None => self.delete(TIMERS, timer_key(due, id)),
        }
    }

    fn instance(&mut self, instance: &Instance) {
        let created = instance.created();
        let row = InstanceRow {
            workflow: created.workflow.clone(),
            workflow_version: created.workflow_version,
            initiator: created.initiator,
            accountable: created.accountable,
            owner: created.owner,
            acting: created.acting,
            acting_kind: created.acting_kind,
            parent: created.parent,
            on_deny: created.on_deny,
            deadline: created.deadline,
            enforced: created.enforced,
            state: instance.state(),
            created: instance.created_at(),
            updated: instance.updated(),
            gate: instance.gate().map(|g| g.gate),
            denials: instance.denials(),
            closed: instance.is_closed(),
        };
        self.put(INSTANCES, instance.id().as_bytes().to_vec(), &row);
    }

    fn edge(&mut self, instance: &Instance, header: &Header, edge: &Edge) {
        let id = instance.id();
        self.instance(instance);
        if edge.to.is_terminal() {
            if let Some(due) = instance.created().deadline {
                self.timer(due, id.as_bytes(), None);
            }
            // What was permitted and not started is void from here on.
            for (permit, reserved) in instance.live_reserved() {
                self.released(permit, reserved);
            }
        }
        let state = match edge.to {
            State::Approved => GateState::Approved,
            State::Overridden => GateState::Overridden,
            State::Rejected => GateState::Rejected,
            _ => return,
        };
        let Some(gate) = instance.gate() else { return };
        self.gate(id, gate, state, Some((header.claimed, edge.cause)));
        self.delete(OPEN_GATES, gate.gate.as_bytes().to_vec());
        if let Some(due) = gate.expires {
            self.timer(due, gate.gate.as_bytes(), None);
        }
        if gate.subject != GateSubject::Actions {
            return;
        }
        for item in &gate.items {
            // What was approved gets its row from its permit.
            let status = match (item.dropped, state) {
                (true, _) => ActionStatus::Dropped,
                (false, GateState::Rejected) => ActionStatus::Rejected,
                (false, _) => continue,
            };
            self.item(instance, gate, item, status, header.sequence);
        }
        if state == GateState::Rejected {
            for cleared in &gate.cleared {
                let row = waiting(instance, gate, ActionStatus::Rejected, header.sequence);
                let row = ActionRow { digest: Some(cleared.digest), ..row };
                self.put(ACTIONS, cleared.action.as_bytes().to_vec(), &row);
            }
        }
    }

    fn permit(&mut self, instance: &Instance, header: &Header, permit: &Permit) {
        let through = instance.resolving();
        let row = ActionRow {
            instance: instance.id(),
            status: ActionStatus::Permitted,
            question: Some(permit.question),
            tool: Some(permit.tool.clone()),
            tool_version: Some(permit.tool_version),
            digest: Some(permit.digest),
            proposer: through.map_or(header.actor, |g| g.proposer),
            proposed: through.map_or(header.claimed, |g| g.opened),
            sequence: header.sequence,
            gate: through.map(|g| g.gate),
            item: permit.item.map(|i| i.item),
            permit: Some(permit.permit),
            expires: Some(permit.expires),
            mutable_target: permit.mutable_target,
            enforced: permit.enforced,
            reason: None,
        };
        self.put(ACTIONS, permit.action.as_bytes().to_vec(), &row);
        if let Some(live) = instance.live_permit(permit.permit)
            && let Some(reserved) = &live.reserved
        {
            self.reserved(instance.id(), permit.permit, reserved, (false, false));
            for held in &reserved.held {
                let row = CounterRow { version: held.version.saturating_add(1) };
                self.put(COUNTERS, held.counter.as_str().as_bytes().to_vec(), &row);
            }
        }
    }

    fn reserved(
        &mut self,
        instance: InstanceId,
        permit: PermitId,
        reserved: &Reserved,
        (started, settled): (bool, bool),
    ) {
        let held = |r: &Reservation| HeldRow { counter: r.counter.clone(), version: r.version, amount: r.amount };
        let held = reserved.held.iter().map(held).collect();
        let row = ReservationRow { instance, expires: reserved.expires, started, settled, held };
        self.put(RESERVATIONS, reservation_key(reserved.at, permit), &row);
    }

    fn released(&mut self, permit: PermitId, reserved: &Reserved) {
        self.delete(RESERVATIONS, reservation_key(reserved.at, permit));
    }

    fn refusal(&mut self, instance: &Instance, header: &Header, refusal: &Refusal) {
        let Some(action) = refusal.action else { return };
        let through = instance.resolving();
        let row = ActionRow {
            instance: instance.id(),
            status: ActionStatus::Refused,
            question: Some(refusal.question),
            tool: refusal.tool.clone(),
            tool_version: None,
            digest: refusal.digest,
            proposer: through.map_or(header.actor, |g| g.proposer),
            proposed: through.map_or(header.claimed, |g| g.opened),
            sequence: header.sequence,
            gate: through.map(|g| g.gate),
            item: None,
            permit: None,
            expires: None,
            mutable_target: false,
            enforced: instance.created().enforced,
            reason: Some(refusal.reason),
        };
        self.put(ACTIONS, action.as_bytes().to_vec(), &row);
    }

    fn item(&mut self, instance: &Instance, gate: &OpenGate, item: &OpenItem, status: ActionStatus, sequence: u64) {
        let row = ActionRow {
            question: Some(item.question),
            tool: item.tool.clone(),
            digest: Some(item.digest),
            item: Some(item.item),
            ..waiting(instance, gate, status, sequence)
        };
        self.put(ACTIONS, item.action.as_bytes().to_vec(), &row);
    }

    fn gate_opened(&mut self, instance: &Instance, header: &Header) {
        let Some(gate) = instance.gate() else { return };
        let id = instance.id();
        self.gate(id, gate, GateState::Open, None);
        let open = OpenGateRow { instance: id, opened: gate.opened };
        self.put(OPEN_GATES, gate.gate.as_bytes().to_vec(), &open);
        if let Some(due) = gate.expires {
            self.timer(due, gate.gate.as_bytes(), Some(TimerRow { kind: TimerKind::Gate, instance: id }));
        }
        if gate.subject != GateSubject::Actions {
            return;
        }
        for item in &gate.items {
            self.item(instance, gate, item, ActionStatus::Waiting, header.sequence);
        }
        for cleared in &gate.cleared {
            let row = waiting(instance, gate, ActionStatus::Cleared, header.sequence);
            let row = ActionRow { digest: Some(cleared.digest), ..row };
            self.put(ACTIONS, cleared.action.as_bytes().to_vec(), &row);
        }
    }

    fn gate(&mut self, instance: InstanceId, gate: &OpenGate, state: GateState, closed: Option<(Timestamp, Cause)>) {
        let row = GateRow {
            instance,
            subject: gate.subject,
            state,
            proposer: gate.proposer,
            on_behalf_of: gate.chain.clone(),
            opened: gate.opened,
            sequence: gate.sequence,
            expires: gate.expires,
            on_timeout: gate.on_timeout,
            caller: gate.caller,
            items: gate.items.iter().map(item_row).collect(),
            cleared: gate.cleared.iter().map(|c| c.action).collect(),
            closed: closed.map(|(at, _)| at),
            cause: closed.map(|(_, cause)| cause),
        };
        self.put(GATES, gate.gate.as_bytes().to_vec(), &row);
    }

    fn decision(&mut self, instance: InstanceId, header: &Header, decision: &Decision) {
        let items = decision.items.iter();
        let row = DecisionRow {
            instance,
            gate: decision.gate,
            kind: decision.kind,
            items: items.map(|i| DecidedRow { item: i.item, digest: i.digest, instead: i.instead }).collect(),
            actor: header.actor,
            person: decision.person,
            role: decision.role.clone(),
            effect: decision.effect,
            shown: decision.shown,
            delta: decision.delta,
            assurance: decision.assurance,
            // Under version 1 nobody checked a signature before it was written: there it says nothing.
            asserted: decision.assertion.is_some() && header.semantics > 1,
            on_behalf: decision.on_behalf,
            at: header.claimed,
            sequence: header.sequence,
        };
        self.put(DECISIONS, decision.decision.as_bytes().to_vec(), &row);
    }

    fn lift(&mut self, instance: &Instance, header: &Header, lift: &Lift) {
        let item = instance.gate().and_then(|gate| gate.item(lift.item));
        let row = LiftRow {
            instance: instance.id(),
            gate: lift.gate,
            item: lift.item,
            tool: item.and_then(|item| item.tool.clone()),
            rule: lift.rule.clone(),
            actor: header.actor,
            person: lift.person,
            role: lift.role.clone(),
            effect: lift.effect,
            assurance: lift.assurance,
            acting: instance.chain().to_vec(),
            concerned: instance.concerned(lift.item),
            review_by: lift.review_by,
            at: header.claimed,
            sequence: header.sequence,
        };
        self.put(LIFTS, lift.lift.as_bytes().to_vec(), &row);
        if row.owes_review() {
            self.put(OWED_REVIEWS, lift.lift.as_bytes().to_vec(), &row);
        }
    }

    fn start(&mut self, instance: &Instance, start: &Start) {
        let Some(open) = instance.open_start(start.permit) else { return };
        self.started(instance.id(), start.permit, open, None);
        let timer = TimerRow { kind: TimerKind::Start, instance: instance.id() };
        self.timer(open.not_after, start.permit.as_bytes(), Some(timer));
        if let Some(reserved) = &open.reserved {
            self.reserved(instance.id(), start.permit, reserved, (true, false));
        }
    }

    fn started(&mut self, instance: InstanceId, permit: PermitId, open: &OpenStart, outcome: Option<&OutcomeRow>) {
        let run = open.run.as_deref();
        let row = StartRow {
            instance,
            sequence: open.sequence,
            permit_sequence: open.permit_sequence,
            started: open.started,
            not_after: open.not_after,
            run: run.map(|r| r.run),
            attempt: run.map(|r| r.attempt),
            outcome: outcome.cloned(),
        };
        self.put(STARTS, permit.as_bytes().to_vec(), &row);
        let Some(RunStart { run, attempt, backend, external_name, job, fence }) = run else { return };
        let row = RunRow {
            instance,
            permit,
            backend: backend.clone(),
            external_name: external_name.clone(),
            job: *job,
            fence: *fence,
            started: open.started,
            not_after: open.not_after,
            outcome: outcome.cloned(),
        };
        self.put(RUNS, run_key(*run, *attempt), &row);
    }

    fn outcome(&mut self, instance: &Instance, permit: PermitId, outcome: &OutcomeRow) {
        let Some(open) = instance.just_settled(permit) else { return };
        self.started(instance.id(), permit, open, Some(outcome));
        self.timer(open.not_after, permit.as_bytes(), None);
        if let Some(reserved) = &open.reserved {
            match outcome.outcome {
                OutcomeKind::Succeeded => self.reserved(instance.id(), permit, reserved, (true, true)),
                // It may have happened: held until somebody knows.
                OutcomeKind::Unknown => {}
                // It did not happen, says who reports it. Whoever cannot say so reports `unknown`.
                OutcomeKind::Failed | OutcomeKind::Cancelled | OutcomeKind::TimedOut => self.released(permit, reserved),
            }
        }
        // The last outcome closes the stream of a finished instance.
        if instance.state().is_terminal() {
            self.instance(instance);
        }
    }
}

/// The row of an action that stands at a gate.
fn waiting(instance: &Instance, gate: &OpenGate, status: ActionStatus, sequence: u64) -> ActionRow {
    ActionRow {
        instance: instance.id(),
        status,
        question: None,
        tool: None,
        tool_version: None,
        digest: None,
        proposer: gate.proposer,
        proposed: gate.opened,
        sequence,
        gate: Some(gate.gate),
        item: None,
        permit: None,
        expires: None,
        mutable_target: false,
        enforced: instance.created().enforced,
        reason: None,
    }
}

fn item_row(item: &OpenItem) -> GateItemRow {
    let votes = item.votes.iter();
    GateItemRow {
        item: item.item,
        action: item.action,
        question: item.question,
        tool: item.tool.clone(),
        digest: item.digest,
        replaced: item.replaced,
        dropped: item.dropped,
        rules: item.rules.iter().map(|rule| rule_row(rule, item)).collect(),
        votes: votes
            .map(|v| VoteRow { decision: v.decision, person: v.person, role: v.role.clone(), author: v.author })
            .collect(),
        involved: item.involved.clone(),
    }
}

fn rule_row(rule: &RuleForm, item: &OpenItem) -> RuleRow {
    RuleRow {
        rule: rule.rule.clone(),
        quorum: rule.quorum,
        distinct_teams: rule.distinct_teams,
        roles: rule.roles.clone(),
        groups: rule.groups.clone(),
        override_counts: rule.override_counts,
        counted: item.counted(rule),
        met: item.is_rule_met(rule),
        lifted: item.lift_of(&rule.rule).map(|lifted| lifted.lift),
    }
}
