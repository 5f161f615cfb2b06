//! Takes a change further, from wherever it is: its instance, the end of its window, the question, the answer, its end.
//!
//! Each turn does one step, which is one append: a crash between two steps leaves the row at the first, and the next
//! start goes on with the second. Read next: `carry`, the step that puts a bundle in force.

use std::ops::ControlFlow;
use std::sync::Arc;

use countersign_gateway_flow::rows::{ActionStatus, GateRow, GateState};
use countersign_gateway_flow::{
    Action, Actions, Actor, Asked, Create, ItemTerms, Now, PermitTerms, Proposal, Reply, Report, SystemReject,
    Terminate, decide,
};
use countersign_gateway_model::{
    Decision, Duration, InstanceId, Outcome, PermitId, Principal, PrincipalKind, Pseudonym, State, Timestamp,
};
use countersign_ledger_entry::body::{Cause, Created, GateSubject, OnDeny, QuestionKind, Step};
use countersign_ledger_entry::payload;
use countersign_ledger_entry::{Draft, Entry, Payload, PayloadRole};
use countersign_ledger_log::Appended;
use countersign_policy_decide::{EntityRef, Operation, Question};
use serde_json::json;

use crate::actions::canonical_action;
use crate::asking::{actor_of, ask, chain, question};
use crate::backtest::BacktestWindow;
use crate::beside::Beside;
use crate::changes::names::{
    ACTIVATE, POLICY_CHANGE, Subject, TOOL_REGISTRATION, bundle_entity, name, workflow_version,
};
use crate::changes::row::{ChangeRow, Compared, EXPIRED, InForce, OVERTAKEN, REJECTED, Stage};
use crate::changes::under_way::{Turn, UnderWay};
use crate::error::EngineError;
use crate::gates::Pending;
use crate::mint::MintExt as _;
use crate::org::{Org, instance_stream};
use crate::stream::{Held, four_eyes};
use crate::{BacktestLimits, Engine, Snapshot};

/// How long an approved operation waits for the gateway. It is begun at once: only a crash or a freeze is in between.
const PERMIT: Duration = Duration::from_secs(86_400);

/// How long after its shadow window a change can stay undecided.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// What became of asking the policy in force for an activation.
pub(super) enum AskedFor {
    /// It is on record; the stream is held still.
    Held(Box<Held>),
    /// There was nothing to ask.
    Not(Turn),
}

impl Engine {
    /// Takes every change further for which something is to be done. Answers at once; the work is done beside.
    pub(crate) fn drive_changes(&self, org: &Arc<Org>) {
        for (id, change) in org.changes.all() {
            if change.rests(self.now()) || !self.is_due(org, &change.row()) || change.turn.try_lock().is_err() {
                continue;
            }
            let (this, org) = (self.clone(), Arc::clone(org));
            tokio::spawn(async move {
                if let Err(error) = this.advance(&org, id).await {
                    tracing::warn!(error = %words(&error), change = %id, "a change could not be taken further yet");
                }
            });
        }
    }

    /// Whether there may be something to do. While people are asked there is not.
    fn is_due(&self, org: &Org, row: &ChangeRow) -> bool {
        if org.is_frozen(None) {
            // What somebody ended is on record as ended, freeze or not.
            return org.peek(row.instance).is_some_and(|(state, _)| state.is_terminal());
        }
        match row.stage {
            Stage::Shadowing if self.now() < row.window_ends => {
                // Unless somebody ended it before its time.
                org.peek(row.instance).is_none_or(|(state, _)| state.is_terminal())
            }
            // A window was cut short for a lift, of which a crash may have left nothing.
            Stage::Asked if row.cut => true,
            // Nobody is asked on about what cannot come into force any more.
            Stage::Asked if self.overtaken(org, row) => true,
            // While people are asked, of the change or of a stop, there is nothing to do.
            Stage::Shadowing | Stage::Asked => org.peek(row.instance).is_none_or(|(_, waits)| !waits),
            _ => true,
        }
    }

    /// Takes a change as far as it goes now.
    pub(crate) async fn advance(&self, org: &Arc<Org>, id: InstanceId) -> Result<(), EngineError> {
        let Some(change) = org.changes.get(id) else { return Ok(()) };
        let _turn = change.turn.lock().await;
        while !change.row().settled {
            match self.step(org, &change).await {
                Ok(Turn::Further) => {}
                Ok(Turn::Wait) => return Ok(()),
                Err(error) => {
                    change.rest(self.now());
                    // What is in memory may be behind or ahead of what is durable.
                    if let Ok(row) = self.change_row(org, id).await {
                        change.set(row);
                    }
                    return Err(error);
                }
            }
        }
        if change.row().subject == Subject::Bundle {
            org.entities.forget(&bundle_entity(org.id, &change.row().digest)?);
        }
        org.changes.remove(id);
        Ok(())
    }

    async fn step(&self, org: &Arc<Org>, change: &UnderWay) -> Result<Turn, EngineError> {
        let row = change.row();
        if org.is_frozen(None) && !self.ended_early(org, &row).await.unwrap_or(false) {
            return Ok(Turn::Wait);
        }
        match row.stage {
            Stage::Proposed if row.subject == Subject::Catalogue => self.begin_registration(org, change, row).await,
            Stage::Proposed => self.begin_change(org, change, row).await,
            Stage::Shadowing => self.end_window(org, change, row).await,
            Stage::Asked => self.answered_change(org, change, row).await,
            Stage::Activated | Stage::Failed | Stage::Withdrawn => self.settle_change(org, change, row).await,
        }
    }

    /// The author as the one who acts: what the credential of the proposal was good for, and what is known of them now.
    pub(super) fn author(org: &Org, row: &ChangeRow) -> Result<Principal, EngineError> {
        let known = org.known(row.author).ok_or_else(|| EngineError::damaged("nobody is known as the author"))?;
        // A second factor that was taken away since, as after a theft, makes nothing surer any more.
        let assurance = row.assurance.min(known.assurance());
        Ok(Principal {
            org: org.id,
            kind: known.kind,
            id: known.id,
            pseudonym: row.author,
            on_behalf_of: Vec::new(),
            scopes: row.scopes.clone(),
            assurance,
            roles: Vec::new(),
            teams: known.teams,
            person: known.person_key,
            // Whoever only proposes is held to no login's age.
            issued: Timestamp(0),
            expires: Timestamp(u64::MAX),
        })
    }

    /// Tells policy what there is to know of a candidate under way.
    pub(crate) fn describe_change(&self, org: &Org, id: InstanceId) -> Result<(), EngineError> {
        match org.changes.get(id) {
            Some(change) => self.describe_row(org, &change.row()),
            None => Ok(()),
        }
    }

    pub(super) fn describe_row(&self, org: &Org, row: &ChangeRow) -> Result<(), EngineError> {
        if row.subject == Subject::Catalogue {
            // Policy is asked about the organization's catalogue; a candidate is no resource of its own.
            return Ok(());
        }
        org.entities.put(self.candidate_record(org, row)?).map(drop).map_err(EngineError::damaged)
    }

    pub(super) fn question_of(
        &self,
        org: &Org,
        author: &Principal,
        row: &ChangeRow,
        operation: Operation,
    ) -> Result<Question, EngineError> {
        let resource = match row.subject {
            Subject::Bundle => bundle_entity(org.id, &row.digest)?,
            Subject::Catalogue => EntityRef::organization(org.id),
        };
        let mut asked = question(author, operation, resource, self.now());
        asked.four_eyes = four_eyes(org);
        Ok(asked)
    }

    /// What the instance of a change is made with.
    pub(super) fn created_for(org: &Org, author: &Principal, row: &ChangeRow) -> Result<Created, EngineError> {
        let me = org.known(row.author).ok_or_else(|| EngineError::damaged("nobody is known as the author"))?;
        let accountable = if author.kind == PrincipalKind::Person { Some(row.author) } else { me.owner };
        let workflow = match row.subject {
            Subject::Bundle => POLICY_CHANGE,
            Subject::Catalogue => TOOL_REGISTRATION,
        };
        Ok(Created {
            workflow: name(workflow)?,
            workflow_version: workflow_version(row.subject),
            initiator: row.author,
            accountable: accountable.ok_or_else(|| EngineError::damaged("nobody answers for the author"))?,
            owner: me.owner,
            acting: row.author,
            acting_kind: author.kind,
            parent: None,
            on_deny: OnDeny::Terminate,
            deadline: Some(row.window_ends + LONGEST),
            enforced: true,
        })
    }

    /// The instance: created and started by the author's proposal, which policy allowed.
    async fn begin_change(&self, org: &Arc<Org>, change: &UnderWay, mut row: ChangeRow) -> Result<Turn, EngineError> {
        let author = Self::author(org, &row)?;
        let created = Self::created_for(org, &author, &row)?;
        self.describe_row(org, &row)?;
        let snapshot = self.counted_snapshot(org).await?;
        let asked = self.question_of(org, &author, &row, Operation::ProposePolicy)?;
        let now = asked.now;
        let answered = ask(&snapshot, org.facts(), chain(&author, asked));
        if !answered.allowed() {
            return self.fail(org, change, row, "policy does not let its author propose it any more").await;
        }
        let action = self.mint().action();
        let details = json!({ "question": "proposePolicy", "instance": row.instance, "bundle": row.digest });
        let details = serde_json::to_vec(&details).map_err(EngineError::damaged)?;
        let mut beside = Beside::default();
        let (reference, digest) = beside.add(answered.evidence(&self.mint().salt(), &details));
        row.stage = Stage::Shadowing;
        let create = Create {
            instance: row.instance,
            created,
            start: true,
            action: Some(action),
            asked: answered.asked(Some(reference)),
            digest: Some(digest),
            gate: None,
            item: None,
        };
        self.create_change(org, change, row, create, &author, (beside, now, &snapshot)).await
    }

    /// Makes the instance of a change, by its author's proposal, with the row as it is then.
    pub(super) async fn create_change(
        &self,
        org: &Arc<Org>,
        change: &UnderWay,
        row: ChangeRow,
        create: Create,
        author: &Principal,
        (mut beside, now, snapshot): (Beside, Timestamp, &Snapshot),
    ) -> Result<Turn, EngineError> {
        beside.rows.push(row.to_row()?);
        let cell = org.cell(row.instance);
        let live = Arc::clone(&cell.live).lock_owned().await;
        let mut held = Held { cell, live };
        let state = Now { at: now, frozen: false, by: actor_of(author) };
        let decided = decide(None, Proposal::Create(Box::new(create)), &state)?;
        // Durable with its row: a crash before this leaves a change without its instance and gate, which the next start
        // makes.
        self.commit_held(org, &mut held, decided, (beside, now, snapshot)).await?;
        self.describe_instance(org, &held.live)?;
        change.set(row);
        Ok(Turn::Further)
    }

    /// At the end of the window: what it showed, then the question itself.
    async fn end_window(&self, org: &Arc<Org>, change: &UnderWay, row: ChangeRow) -> Result<Turn, EngineError> {
        if self.ended_early(org, &row).await? {
            return self.end_by_gate(org, change, row).await;
        }
        if self.now() < row.window_ends {
            return Ok(Turn::Wait);
        }
        if self.hold(org, row.instance).await?.fold()?.state() != State::Running {
            return Ok(Turn::Wait);
        }
        match self.ask_for(org, change, row).await? {
            AskedFor::Held(_) => Ok(Turn::Further),
            AskedFor::Not(turn) => Ok(turn),
        }
    }

    /// Asks the policy in force for the activation, and people where it says so.
    pub(super) async fn ask_for(
        &self,
        org: &Arc<Org>,
        change: &UnderWay,
        mut row: ChangeRow,
    ) -> Result<AskedFor, EngineError> {
        let bundle = self.bundle_of(org, &row).await?;
        // Asked again now, so that nobody is bothered with what cannot come into force any more.
        let checked = self.checked(org, bundle).await.map(|candidate| (candidate.diff, candidate.proofs));
        let diff = match checked {
            Ok((diff, proofs)) => {
                // Under the policy and the tools in force by now, and with the solver that is there by now.
                row.proofs = proofs;
                diff
            }
            Err(EngineError::Bundle(why) | EngineError::LockedOut(why)) => {
                let why = format!("it does not fit what is in force now: {why}");
                return self.fail(org, change, row, &why).await.map(AskedFor::Not);
            }
            Err(error) => return Err(error),
        };
        if row.window_ends > row.proposed {
            row.compared = Some(self.compare(org, &row).await?);
        }
        let author = Self::author(org, &row)?;
        let mut held = self.hold(org, row.instance).await?;
        match held.fold()?.state() {
            State::Running => {}
            state if state.is_terminal() => return Ok(AskedFor::Not(Turn::Further)),
            // Somebody asked for it to be stopped, and people are asked about that.
            _ => return Ok(AskedFor::Not(Turn::Wait)),
        }
        self.describe_row(org, &row)?;
        let snapshot = self.counted_snapshot(org).await?;
        let asked = self.question_of(org, &author, &row, Operation::ActivatePolicy)?;
        let now = asked.now;
        let answered = ask(&snapshot, org.facts(), chain(&author, asked));
        let id = self.mint().action();
        let tool = name(ACTIVATE)?;
        let created = held.fold()?.created().clone();
        let input = serde_json::to_vec(&row.facts()).map_err(EngineError::damaged)?;
        let canonical = canonical_action(
            &author,
            row.instance,
            &created.workflow_version,
            id,
            Operation::ActivatePolicy.as_str(),
            (&tool, Some(&row.digest), None),
            &input,
        )?;
        let mut beside = Beside::default();
        let (reference, digest) = beside.add(answered.evidence(&self.mint().salt(), &canonical));
        let (mut gate, mut item) = (None, None::<ItemTerms>);
        if answered.verdict.decision == Decision::NeedsApproval {
            let pending = Pending {
                what: format!("put policy version {} in force", row.version),
                tool: None,
                rules: answered.verdict.rules.clone(),
                input: serde_json::Value::Null,
                revision: Some(row.digest.to_string()),
                reasons: answered.reasons().map(str::to_owned).collect(),
                changed_by: None,
                rewritten: Vec::new(),
                found: row.findings(&org.label(row.author), &diff),
                terms: Vec::new(),
            };
            let scene = self.gate_scene(org, &snapshot, &author, &created, row.instance, now);
            let (terms, mut items) = self.open_gate(&scene, GateSubject::Actions, &[pending], &mut beside)?;
            row.gate = Some(terms.gate);
            (gate, item) = (Some(terms), items.pop());
        }
        let action = Action {
            action: id,
            question: QuestionKind::Operation,
            tool,
            tool_version: Some(row.digest),
            digest,
            mutable_target: false,
            asked: answered.asked(Some(reference)),
            permit: Some(self.operation_terms(now)),
            item,
            grants: Vec::new(),
        };
        let state = Now { at: now, frozen: false, by: actor_of(&author) };
        let proposal = Proposal::Actions(Actions { items: vec![action], gate });
        let decided = decide(held.live.fold.as_ref(), proposal, &state)?;
        row.action = Some(id);
        row.stage = Stage::Asked;
        beside.rows.push(row.to_row()?);
        self.commit_held(org, &mut held, decided, (beside, now, &snapshot)).await?;
        change.set(row);
        Ok(AskedFor::Held(Box::new(held)))
    }

    /// What the candidate would have said to everything that was asked since it was proposed. Nothing waits for it: it
    /// reads the ledger as any reader does, on threads of its own.
    async fn compare(&self, org: &Arc<Org>, row: &ChangeRow) -> Result<Compared, EngineError> {
        let (policies, id, bundle) = (Arc::clone(self.policies()), org.id, self.bundle_of(org, row).await?);
        let candidate = tokio::task::spawn_blocking(move || policies.candidate(id, &bundle)).await;
        let candidate = candidate.map_err(EngineError::damaged)??;
        // Counts alone: an example would show inputs, and the row outlives what is erased.
        let limits = BacktestLimits { examples: 0 };
        let window = BacktestWindow { since: Some(row.proposed), limits, ..BacktestWindow::default() };
        let report = self.backtest(org.id, candidate, window, |_| ControlFlow::Continue(())).await?;
        let report = report.ok_or(EngineError::Draining)?;
        Ok(Compared::of(&report))
    }

    /// Terms of the permit of an operation.
    pub(crate) fn operation_terms(&self, now: Timestamp) -> PermitTerms {
        PermitTerms { permit: self.mint().permit(), expires: now + PERMIT, reservations: Vec::new(), begin: None }
    }

    /// Policy was asked: what became of it?
    async fn answered_change(&self, org: &Arc<Org>, change: &UnderWay, row: ChangeRow) -> Result<Turn, EngineError> {
        let held = self.hold(org, row.instance).await?;
        let fold = held.fold()?;
        if row.cut && fold.lifts().is_empty() && !fold.state().is_terminal() {
            drop(held);
            return self.fail(org, change, row, "its window was cut short, and no rule was lifted").await;
        }
        if row.action.is_none() && !fold.state().is_terminal() && self.overtaken(org, &row) {
            drop(held);
            return self.fail(org, change, row, OVERTAKEN).await;
        }
        if fold.gate().is_some() {
            return Ok(Turn::Wait);
        }
        if row.subject == Subject::Catalogue && row.action.is_none() {
            let state = fold.state();
            drop(held);
            return match state {
                State::Running => self.permit_registration(org, change, row).await,
                state if state.is_terminal() => self.end_by_gate(org, change, row).await,
                _ => Ok(Turn::Wait),
            };
        }
        let action = row.action.ok_or_else(|| EngineError::damaged("a question without its action"))?;
        let facts = self.action_row(org, action).await?;
        let permit = facts.permit.filter(|permit| {
            let live =
                fold.live_permit(*permit).is_some_and(|live| !fold.state().is_terminal() && self.now() <= live.expires);
            live || fold.open_start(*permit).is_some() || fold.unknown_start(*permit).is_some()
        });
        let (terminal, status) = (fold.state().is_terminal(), facts.status());
        drop(held);
        match (permit, status) {
            (Some(permit), _) => self.carry_out(org, change, row, permit).await.map(|()| Turn::Further),
            (None, ActionStatus::Refused) => {
                self.fail(org, change, row, "the policy in force does not allow its activation").await
            }
            (None, _) if terminal => self.end_by_gate(org, change, row).await,
            (None, ActionStatus::Dropped) => self.fail(org, change, row, "a person decided to go on without it").await,
            (None, _) => self.fail(org, change, row, "its approval was not used in time").await,
        }
    }

    /// Whether the instance ended while the window ran.
    async fn ended_early(&self, org: &Arc<Org>, row: &ChangeRow) -> Result<bool, EngineError> {
        Ok(self.hold(org, row.instance).await?.fold()?.state().is_terminal())
    }

    /// The instance was ended by somebody: at its gate, by the gate's clock, or as any instance is stopped.
    pub(super) async fn end_by_gate(
        &self,
        org: &Arc<Org>,
        change: &UnderWay,
        row: ChangeRow,
    ) -> Result<Turn, EngineError> {
        let gate: Option<GateRow> = match row.gate {
            Some(gate) => Some(self.gate_row(org, gate).await?),
            None => None,
        };
        match gate.filter(|gate| gate.state == GateState::Rejected).and_then(|gate| gate.cause) {
            Some(Cause::Decision) => self.fail(org, change, row, REJECTED).await,
            Some(Cause::Expiry) => self.fail(org, change, row, EXPIRED).await,
            _ => {
                let mut row = row;
                row.stage = Stage::Withdrawn;
                row.settled = self.is_over(org, &row).await?;
                self.note(org, change, row, &[Step::Withdrawn], (Beside::default(), Asked::nothing()))
                    .await
                    .map(|_| Turn::Further)
            }
        }
    }

    /// Nothing changes; the entry says that it did not.
    pub(super) async fn fail_change(
        &self,
        org: &Arc<Org>,
        change: &UnderWay,
        mut row: ChangeRow,
        steps: &[Step],
        why: &str,
    ) -> Result<(), EngineError> {
        tracing::info!(subject = ?row.subject, digest = %row.digest, why, "a change did not come into force");
        row.stage = Stage::Failed;
        row.reason = Some(why.to_owned());
        row.settled = self.is_over(org, &row).await?;
        self.note(org, change, row, steps, (Beside::default(), Asked::nothing())).await.map(drop)
    }

    pub(super) async fn fail(
        &self,
        org: &Arc<Org>,
        change: &UnderWay,
        row: ChangeRow,
        why: &str,
    ) -> Result<Turn, EngineError> {
        self.fail_change(org, change, row, &[Step::Failed], why).await.map(|()| Turn::Further)
    }

    /// Commits steps to the organization's stream, with the row as it is then. `after` is what policy said to what they
    /// follow from.
    pub(super) async fn note(
        &self,
        org: &Arc<Org>,
        change: &UnderWay,
        row: ChangeRow,
        steps: &[Step],
        with: (Beside, Asked),
    ) -> Result<Appended, EngineError> {
        let description = row.description();
        self.note_saying(org, change, row, (steps, description), with).await
    }

    pub(super) async fn note_saying(
        &self,
        org: &Arc<Org>,
        change: &UnderWay,
        mut row: ChangeRow,
        (steps, description): (&[Step], serde_json::Value),
        (mut beside, after): (Beside, Asked),
    ) -> Result<Appended, EngineError> {
        let now = self.now();
        let content = serde_json::to_vec(&description).map_err(EngineError::damaged)?;
        let mut drafts = Vec::with_capacity(steps.len());
        for step in steps {
            row.stepped(*step, now);
            let mut draft = Draft::new(row.body(*step), Pseudonym::SYSTEM);
            draft.verdict.clone_from(&after.verdict);
            draft.determining.clone_from(&after.determining);
            if drafts.is_empty() {
                draft.payloads.clone_from(&after.payloads);
                let sealed = payload::seal(&self.mint().salt(), &content);
                draft.payloads.push(beside.payload(PayloadRole::Description, sealed));
            }
            drafts.push(draft);
        }
        if row.stage == Stage::Activated && row.subject == Subject::Bundle {
            beside.rows.push(InForce::row(row.digest, row.predecessor, now)?);
        }
        beside.rows.push(row.to_row()?);
        let policy = beside.policy.take().unwrap_or_else(|| self.snapshot(org.id).digests());
        let appended = self.append_own(org, drafts, beside, (now, policy)).await?;
        change.set(row);
        Ok(appended)
    }

    /// Ends the instance of a change whose end is on record.
    async fn settle_change(&self, org: &Arc<Org>, change: &UnderWay, mut row: ChangeRow) -> Result<Turn, EngineError> {
        let permit = match row.action {
            Some(action) => self.action_row(org, action).await?.permit,
            None => None,
        };
        let mut held = self.hold(org, row.instance).await?;
        let begun = |held: &Held, permit: PermitId| -> Result<bool, EngineError> {
            let fold = held.fold()?;
            Ok(fold.open_start(permit).is_some() || fold.unknown_start(permit).is_some())
        };
        let activated = row.stage == Stage::Activated;
        let started = match permit {
            Some(permit) => begun(&held, permit)?,
            None => false,
        };
        row.settled = held.fold()?.state().is_terminal();
        if let (Some(permit), true) = (permit, started) {
            let proposal = Proposal::Outcome(Box::new(Report {
                permit,
                outcome: if activated { Outcome::Succeeded } else { Outcome::Failed },
                output: None,
                workspace: None,
                sandbox_level: None,
                asked: Asked::nothing(),
            }));
            let mut beside = Beside::default();
            beside.rows.push(row.to_row()?);
            // Crash before this: the row says how it ended, and the next start reports it.
            self.commit_outcome(org, &mut held, proposal, Actor::SYSTEM, beside).await?;
        } else if held.fold()?.state() == State::Running
            || (row.cut || row.subject == Subject::Catalogue && !activated) && !row.settled
        {
            row.settled = true;
            // Crash before this: the outcome is on record, and the next start ends the instance.
            self.end_instance(org, &mut held, &row, permit.filter(|_| activated)).await?;
        } else if !row.settled {
            // People are asked whether it is to be stopped: their answer ends it, or it goes on to its end here.
            return Ok(Turn::Wait);
        }
        change.set(row);
        Ok(Turn::Further)
    }

    /// COMPLETED after what was permitted is done; TERMINATED where nothing was.
    async fn end_instance(
        &self,
        org: &Arc<Org>,
        held: &mut Held,
        row: &ChangeRow,
        permit: Option<PermitId>,
    ) -> Result<(), EngineError> {
        let now = self.now();
        let snapshot = self.counted_snapshot(org).await?;
        let mut beside = Beside::default();
        beside.rows.push(row.to_row()?);
        let state = Now { at: now, frozen: false, by: Actor::SYSTEM };
        let proposal = if let Some(permit) = permit {
            Proposal::Complete(Box::new(countersign_gateway_flow::Complete {
                action: row.action,
                asked: self.permitted(org, row.instance, permit, &mut beside).await?,
                digest: None,
                gate: None,
                item: None,
            }))
        } else {
            let resource = Self::instance_entity(org, row.instance)?;
            let mut asked = Question::new(EntityRef::system(org.id), Operation::Terminate, resource, now);
            asked.four_eyes = four_eyes(org);
            let answered = ask(&snapshot, org.facts(), vec![asked]);
            if !answered.allowed() {
                // Its deadline ends it: that is nobody's to refuse.
                tracing::info!(instance = %row.instance, "policy leaves the instance of a failed change to its deadline");
                return Ok(());
            }
            let action = json!({ "question": "terminate", "instance": row.instance });
            let action = serde_json::to_vec(&action).map_err(EngineError::damaged)?;
            let (reference, digest) = beside.add(answered.evidence(&self.mint().salt(), &action));
            Proposal::Terminate(Box::new(Terminate {
                action: Some(self.mint().action()),
                asked: answered.asked(Some(reference)),
                stop_role: None,
                reject: SystemReject { decision: self.mint().decision() },
                digest: Some(digest),
                gate: None,
                item: None,
            }))
        };
        let decided = decide(held.live.fold.as_ref(), proposal, &state)?;
        if let Reply::Refused(reason) = &decided.reply {
            return Err(EngineError::damaged(format!("the end of a change was refused: {reason:?}")));
        }
        self.commit_held(org, held, decided, (beside, now, &snapshot)).await.map(drop)
    }

    /// What policy said when it permitted, with what it was computed from: what is done under the permit follows from it.
    pub(super) async fn permitted(
        &self,
        org: &Org,
        id: InstanceId,
        permit: PermitId,
        beside: &mut Beside,
    ) -> Result<Asked, EngineError> {
        let row = self.start_row(org, permit).await?.ok_or_else(|| EngineError::damaged("a start without its row"))?;
        let stored = org.log.stream_entries(instance_stream(id), row.permit_sequence, 1).await;
        let stored = stored.map_err(EngineError::ledger)?;
        let stored = stored.first().ok_or_else(|| EngineError::damaged("a permit without its entry"))?;
        let header = Entry::parse(&stored.leaf)?.header;
        let verdict = header.verdict.ok_or_else(|| EngineError::damaged("a permit without its verdict"))?;
        let mut asked = Asked::answer(verdict, header.determining);
        for reference in header.payloads.into_iter().filter(|payload| payload.role == PayloadRole::Question) {
            let bytes = org.log.payload(stored.index, &reference.digest).await.map_err(EngineError::ledger)?;
            // Erased since: then the verdict stands without what it was computed from, as everywhere.
            if let Some(bytes) = bytes {
                beside.payloads.push(Payload { digest: reference.digest, bytes });
                asked.payloads.push(reference);
            }
        }
        beside.policy = header.policy;
        Ok(asked)
    }

    /// Whether nothing can happen to the change's instance any more; it may never have come into being.
    async fn is_over(&self, org: &Arc<Org>, row: &ChangeRow) -> Result<bool, EngineError> {
        match self.hold(org, row.instance).await {
            Ok(held) => Ok(held.fold()?.is_closed()),
            Err(EngineError::NotFound(_)) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// The transport form of a candidate.
    pub(super) async fn bundle_of(&self, org: &Org, row: &ChangeRow) -> Result<Vec<u8>, EngineError> {
        let bundle = org.log.blob(&row.bundle).await.map_err(EngineError::ledger)?;
        bundle.ok_or_else(|| EngineError::damaged("the candidate's bytes are gone"))
    }
}

fn words(error: &EngineError) -> String {
    let mut out = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        out.push_str(": ");
        out.push_str(&inner.to_string());
        cause = inner.source();
    }
    out
}
