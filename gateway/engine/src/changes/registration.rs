//! A change of the tool catalogue that people are asked about: its gate, its permit, the entry that puts it in force.
//!
//! The gate stands in front of the start of an instance of the gateway's own workflow, and the question there is the
//! registration itself. Once people agree policy is asked again, with their agreement, for the permit of the one operation
//! (`tools.register`); that is begun, checked once more against what is in force, committed, and only then carried out.
//!
//! Absent: registrations that need nobody (`tools`). Read next: `drive`, which says whose turn it is, and `carry`.

use std::sync::Arc;

use countersign_gateway_flow::{Action, Actions, Create, ItemTerms, Now, Proposal, decide};
use countersign_gateway_model::{
    ActionId, Decision, Digest, InstanceId, PermitId, Principal, Pseudonym, State, Timestamp,
};
use countersign_ledger_entry::body::{GateSubject, QuestionKind, Step};
use countersign_ledger_entry::{Blob, Body, Draft, Entry, PayloadRole, payload};
use countersign_policy_bundle::sha256;
use countersign_policy_decide::catalogue::Catalogue;
use countersign_policy_decide::registration::ToolChange;
use countersign_policy_decide::{EntityRef, Operation, Question};
use serde_json::{Value, json};

use crate::Engine;
use crate::actions::canonical_action;
use crate::api::ProposalStep;
use crate::asking::{Answered, StoredEvidence, actor_of, ask, chain};
use crate::beside::Beside;
use crate::changes::drive::Turn;
use crate::changes::names::{REGISTER, Subject, name, workflow_version};
use crate::changes::propose::word_of;
use crate::changes::row::{ChangeRow, Stage, ToolLine};
use crate::changes::tool_lines;
use crate::changes::under_way::UnderWay;
use crate::error::EngineError;
use crate::gates::Pending;
use crate::mint::MintExt as _;
use crate::org::{Org, instance_stream};
use crate::own::draft_of;
use crate::policies::CatalogueCandidate;
use crate::stream::{Held, four_eyes};
use crate::tools::ToolRegistration;

/// What stands in the way where the catalogue in force is not the one that a registration was checked against.
const OVERTAKEN: &str = "the tool catalogue changed meanwhile: register it again";

impl Engine {
    /// The registration of the same catalogue by the same account that people are still asked about.
    pub(crate) fn registration_under_way(&self, org: &Org, who: &Principal, catalogue: &Digest) -> Option<InstanceId> {
        let same = |row: &ChangeRow| {
            row.subject == Subject::Catalogue
                && row.author == who.pseudonym
                && row.digest == *catalogue
                && matches!(row.stage, Stage::Proposed | Stage::Asked)
        };
        org.changes.all().into_iter().find(|(_, change)| same(&change.row())).map(|(id, _)| id)
    }

    /// What people would be shown of it, all of it.
    ///
    /// # Errors
    /// [`EngineError::Tools`] where that is more than one view holds.
    pub(crate) fn registration_lines(
        &self,
        org: &Org,
        next: &Catalogue,
        changes: &[ToolChange],
    ) -> Result<Vec<String>, EngineError> {
        let lines = tool_lines::lines_of(self.snapshot(org.id).catalogue(), next, changes);
        match tool_lines::too_many(&lines) {
            Some(why) => Err(tool_lines::refusal(why).into()),
            None => Ok(lines),
        }
    }

    /// Puts a checked registration on record, for which policy asks for people, and opens its gate.
    pub(crate) async fn await_registration(
        &self,
        org: &Arc<Org>,
        who: &Principal,
        (candidate, changes, lines): (CatalogueCandidate, &[ToolChange], Vec<String>),
        (answered, details): (Answered, &Value),
    ) -> Result<InstanceId, EngineError> {
        let (policy, now) = (self.snapshot(org.id).digests(), self.now());
        let lines = tool_lines::stored(&lines).map_err(EngineError::damaged)?;
        let mut row = ChangeRow {
            subject: Subject::Catalogue,
            instance: self.mint().instance(),
            digest: candidate.digest,
            predecessor: candidate.predecessor,
            version: candidate.version,
            root_version: candidate.root_version,
            signed_by: candidate.signed_by,
            bundle: candidate.blob.digest,
            tools: changes.iter().map(ToolLine::of).collect(),
            diff: sha256(&lines),
            author: who.pseudonym,
            scopes: who.scopes.clone(),
            assurance: who.assurance,
            proposed: now,
            window_ends: now,
            weakens: false,
            rollback: false,
            break_glass: false,
            cut: false,
            action: None,
            gate: None,
            compared: None,
            proofs: Vec::new(),
            stage: Stage::Proposed,
            reason: None,
            steps: Vec::new(),
            settled: false,
        };
        let mut beside = Beside::default();
        let action = serde_json::to_vec(details).map_err(EngineError::damaged)?;
        let (reference, _) = beside.add(answered.evidence(&self.mint().salt(), &action));
        let mut asked = answered.asked(Some(reference));
        let description = json!({ "instance": row.instance, "tools": row.tools });
        let content = serde_json::to_vec(&description).map_err(EngineError::damaged)?;
        asked.payloads.push(beside.payload(PayloadRole::Description, payload::seal(&self.mint().salt(), &content)));
        let mut drafts = vec![draft_of(who, row.body(Step::Proposed), &asked)];
        row.stepped(Step::Proposed, now);
        for step in [Step::Checked, Step::Tested] {
            drafts.push(Draft::new(row.body(step), Pseudonym::SYSTEM));
            row.stepped(step, now);
        }
        beside.blobs.push(candidate.blob);
        beside.blobs.push(Blob { digest: row.diff, bytes: lines.into() });
        beside.rows.push(row.to_row()?);
        self.append_own(org, drafts, beside, (now, policy)).await?;
        // Durable with its row: a crash here leaves a registration without its gate, which the next start opens.
        org.changes.insert(&row);
        Ok(row.instance)
    }

    /// The instance, waiting at the gate in front of its start.
    pub(super) async fn begin_registration(
        &self,
        org: &Arc<Org>,
        change: &UnderWay,
        mut row: ChangeRow,
    ) -> Result<Turn, EngineError> {
        let snapshot = self.counted_snapshot(org).await?;
        if row.predecessor.is_some_and(|before| before != snapshot.digests().catalogue) {
            return self.fail(org, change, row, OVERTAKEN).await;
        }
        let author = Self::author(org, &row)?;
        let created = Self::created_for(org, &author, &row)?;
        let asked = self.question_of(org, &author, &row, Operation::RegisterTool)?;
        let now = asked.now;
        let answered = ask(&snapshot, org.facts(), chain(&author, asked));
        if answered.verdict.decision == Decision::Deny {
            return self.fail(org, change, row, "policy does not let its author register tools any more").await;
        }
        let action = self.mint().action();
        let canonical = canonical_registration(&author, &row, action)?;
        let mut beside = Beside::default();
        let (reference, digest) = beside.add(answered.evidence(&self.mint().salt(), &canonical));
        let (mut gate, mut item) = (None, None::<ItemTerms>);
        if answered.verdict.decision == Decision::NeedsApproval {
            let found = match self.registration_findings(org, &row).await? {
                Ok(found) => found,
                Err(why) => return self.fail(org, change, row, &why).await,
            };
            let pending = Pending {
                what: format!("put tool catalogue version {} in force", row.version),
                tool: None,
                rules: answered.verdict.rules.clone(),
                input: Value::Null,
                revision: Some(row.digest.to_string()),
                reasons: answered.reasons().map(str::to_owned).collect(),
                changed_by: None,
                found,
                terms: Vec::new(),
            };
            let scene = self.gate_scene(org, &snapshot, &author, &created, row.instance, now);
            let (terms, mut items) = self.open_gate(&scene, GateSubject::Start, &[pending], &mut beside)?;
            row.gate = Some(terms.gate);
            (gate, item) = (Some(terms), items.pop());
        }
        row.stage = Stage::Asked;
        beside.rows.push(row.to_row()?);
        let cell = org.cell(row.instance);
        let live = Arc::clone(&cell.live).lock_owned().await;
        let mut held = Held { cell, live };
        let proposal = Proposal::Create(Box::new(Create {
            instance: row.instance,
            created,
            start: true,
            action: Some(action),
            asked: answered.asked(Some(reference)),
            digest: Some(digest),
            gate,
            item,
        }));
        let state = Now { at: now, frozen: false, by: actor_of(&author) };
        let decided = decide(None, proposal, &state)?;
        // Durable with its row: a crash before this leaves a registration without its gate, which the next start opens.
        self.commit_held(org, &mut held, decided, (beside, now, &snapshot)).await?;
        self.describe_instance(org, &held.live)?;
        change.set(row);
        Ok(Turn::Further)
    }

    /// People agreed: policy is asked again, with their agreement, for the permit of the operation.
    pub(super) async fn permit_registration(
        &self,
        org: &Arc<Org>,
        change: &UnderWay,
        mut row: ChangeRow,
    ) -> Result<Turn, EngineError> {
        let author = Self::author(org, &row)?;
        let now = self.now();
        let questions = if row.gate.is_some() {
            match self.approved_questions(org, &row, now).await? {
                Some(questions) => questions,
                None => return self.fail(org, change, row, "people went on without it, or it was erased").await,
            }
        } else {
            chain(&author, self.question_of(org, &author, &row, Operation::RegisterTool)?)
        };
        let snapshot = self.counted_snapshot(org).await?;
        let mut held = self.hold(org, row.instance).await?;
        if held.fold()?.state() != State::Running {
            return Ok(Turn::Further);
        }
        let answered = ask(&snapshot, org.facts(), questions);
        if !answered.allowed() {
            drop(held);
            return self.fail(org, change, row, "policy does not allow it by now, or asks for more").await;
        }
        let id = self.mint().action();
        let canonical = canonical_registration(&author, &row, id)?;
        let mut beside = Beside::default();
        let (reference, digest) = beside.add(answered.evidence(&self.mint().salt(), &canonical));
        let action = Action {
            action: id,
            question: QuestionKind::Operation,
            tool: name(REGISTER)?,
            tool_version: Some(row.digest),
            digest,
            mutable_target: false,
            asked: answered.asked(Some(reference)),
            permit: Some(self.operation_terms(now)),
            item: None,
            grants: Vec::new(),
        };
        let state = Now { at: now, frozen: false, by: actor_of(&author) };
        let proposal = Proposal::Actions(Actions { items: vec![action], gate: None });
        let decided = decide(held.live.fold.as_ref(), proposal, &state)?;
        row.action = Some(id);
        beside.rows.push(row.to_row()?);
        // Crash before this: the agreement stands, and the next start asks for the permit.
        self.commit_held(org, &mut held, decided, (beside, now, &snapshot)).await?;
        change.set(row);
        Ok(Turn::Further)
    }

    /// What people agreed to at the gate, as it was asked with their agreement. None: there is nothing that they agreed to.
    async fn approved_questions(
        &self,
        org: &Org,
        row: &ChangeRow,
        now: Timestamp,
    ) -> Result<Option<Vec<Question>>, EngineError> {
        let stream = instance_stream(row.instance);
        let last = self.hold(org, row.instance).await?.fold()?.sequence();
        // The instance does nothing else: the edge that leaves its gate is among the last of its entries.
        let from = last.saturating_sub(63);
        let stored = org.log.stream_entries(stream, from, 64).await.map_err(EngineError::ledger)?;
        let snapshot = self.snapshot(org.id);
        for entry in stored.iter().rev() {
            let header = Entry::parse(&entry.leaf)?.header;
            let Body::Edge(edge) = &header.body else { continue };
            if edge.from != State::WaitingForHuman {
                continue;
            }
            let Some(reference) = header.payloads.iter().find(|payload| payload.role == PayloadRole::Question) else {
                return Ok(None);
            };
            let Some(content) = self.payload(org, entry.index, &reference.digest).await? else { return Ok(None) };
            let evidence = StoredEvidence::read(&content).map_err(EngineError::damaged)?;
            let mut questions = Vec::with_capacity(evidence.questions.len());
            for question in evidence.questions {
                let parsed = Question::parse(question.get().as_bytes(), &snapshot).map_err(EngineError::damaged)?;
                questions.push(Question { now, four_eyes: four_eyes(org), ..parsed });
            }
            return Ok(Some(questions));
        }
        Ok(None)
    }

    /// Puts the catalogue of a permit in force, or says why not.
    pub(super) async fn carry_out_registration(
        &self,
        org: &Arc<Org>,
        change: &UnderWay,
        mut row: ChangeRow,
        permit: PermitId,
    ) -> Result<(), EngineError> {
        // One change of what is in force at a time, so that what is checked here is what comes into force after it.
        let _one_at_a_time = org.in_force.lock().await;
        if !self.begin_operation(org, &row, permit).await? {
            return self.fail_change(org, change, row, &[Step::Failed], "it was stopped, or not begun in time").await;
        }
        row.break_glass |= !self.hold(org, row.instance).await?.fold()?.lifts().is_empty();
        // Crash here: a start without an outcome. The next start finds the row with its permit and comes here again.
        let approved = if row.gate.is_some() { &[Step::Approved][..] } else { &[] };
        let failed = [approved, &[Step::Failed]].concat();
        if row.predecessor.is_some_and(|before| before != self.snapshot(org.id).digests().catalogue) {
            return self.fail_change(org, change, row, &failed, OVERTAKEN).await;
        }
        let mut candidate = match self.catalogue_candidate(org, self.catalogue_of(org, &row).await?).await {
            Ok(candidate) if (candidate.digest, candidate.version) == (row.digest, row.version) => candidate,
            Ok(_) => return self.fail_change(org, change, row, &failed, OVERTAKEN).await,
            Err(EngineError::Catalogue(why)) => {
                let why = format!("it does not fit what is in force now: {why}");
                return self.fail_change(org, change, row, &failed, &why).await;
            }
            Err(error) => return Err(error),
        };
        let mut beside = Beside { blobs: vec![candidate.blob.clone()], ..Beside::default() };
        let asked = self.permitted(org, row.instance, permit, &mut beside).await?;
        row.stage = Stage::Activated;
        (row.root_version, row.signed_by) = (candidate.root_version, candidate.signed_by);
        let steps = [approved, &[Step::Activated]].concat();
        let description =
            json!({ "instance": row.instance, "action": row.action, "signed": candidate.signed, "tools": row.tools });
        self.note_saying(org, change, row, (&steps, description), (beside, asked)).await?;
        // Durable: a crash here leaves an entry whose catalogue is not in force. The next start loads the catalogue of the
        // newest such entry, so the swap below is only the first of two ways to the same state.
        let prepared = std::mem::replace(&mut candidate.prepared, Box::new(()));
        self.policies().activate(org.id, prepared)?;
        Ok(())
    }

    /// The catalogue of a registration.
    async fn catalogue_of(&self, org: &Org, row: &ChangeRow) -> Result<Catalogue, EngineError> {
        let bytes = org.log.blob(&row.bundle).await.map_err(EngineError::ledger)?;
        let bytes = bytes.ok_or_else(|| EngineError::damaged("the catalogue's bytes are gone"))?;
        Catalogue::parse(&bytes).map_err(EngineError::damaged)
    }

    /// What people are shown of it; or why nobody is.
    async fn registration_findings(
        &self,
        org: &Org,
        row: &ChangeRow,
    ) -> Result<Result<Vec<String>, String>, EngineError> {
        let lines = org.log.blob(&row.diff).await.map_err(EngineError::ledger)?;
        let lines = lines.ok_or_else(|| EngineError::damaged("the words of a registration are gone"))?;
        let lines = tool_lines::read(&lines);
        if let Some(why) = tool_lines::too_many(&lines) {
            return Ok(Err(why));
        }
        let follows = row.predecessor.map_or_else(|| "nothing".to_owned(), |digest| digest.to_string());
        let mut found = vec![
            format!("Catalogue:   version {}, {}", row.version, row.digest),
            format!("Follows:     {follows}"),
            format!("Registrar:   {}", org.label(row.author)),
            "Checks:      the bundle in force passes with it, and so do its tests".to_owned(),
        ];
        found.extend(lines);
        Ok(Ok(found))
    }

    /// A registration that people are, or were, asked about.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] for those who neither asked for it nor may read policy.
    pub async fn tool_registration(&self, who: &Principal, id: InstanceId) -> Result<ToolRegistration, EngineError> {
        let org = self.org(who.org)?;
        let here = EntityRef::organization(org.id);
        let row = self.change_row(&org, id).await.ok().filter(|row| row.subject == Subject::Catalogue);
        if row.as_ref().is_none_or(|row| row.author != who.pseudonym) {
            self.may_read(&org, who, Operation::ReadPolicy, here, "tool registration")?;
        }
        let row = row.ok_or(EngineError::NotFound("tool registration"))?;
        let lines = org.log.blob(&row.diff).await.map_err(EngineError::ledger)?;
        let words = lines.map(|lines| tool_lines::text(&tool_lines::read(&lines)));
        Ok(registration_record(&org, row, words))
    }
}

fn registration_record(org: &Org, row: ChangeRow, words: Option<String>) -> ToolRegistration {
    let waits = org.peek(row.instance).is_none_or(|(_, waits)| waits);
    let state = match row.stage {
        Stage::Proposed | Stage::Shadowing => "waiting",
        Stage::Asked if waits => "waiting",
        Stage::Asked => "approved",
        Stage::Activated => "activated",
        Stage::Failed => "failed",
        Stage::Withdrawn => "withdrawn",
    };
    ToolRegistration {
        id: row.instance,
        catalogue: row.digest,
        predecessor: row.predecessor,
        version: row.version,
        state,
        registrar: org.label(row.author),
        registered: row.proposed,
        gate: row.gate,
        reason: row.reason,
        steps: row.steps.iter().map(|s| ProposalStep { step: word_of(s.step), at: s.at }).collect(),
        words: words.unwrap_or_default(),
    }
}

impl ToolLine {
    fn of(change: &ToolChange) -> Self {
        Self {
            name: change.name.clone(),
            change: change.change.as_str().to_owned(),
            before: change.before,
            version: change.version,
        }
    }
}

/// Canonical JSON of the one operation.
fn canonical_registration(author: &Principal, row: &ChangeRow, action: ActionId) -> Result<Vec<u8>, EngineError> {
    let facts = json!({
        "catalogue": row.digest, "version": row.version, "predecessor": row.predecessor, "tools": row.tools,
    });
    let input = serde_json::to_vec(&facts).map_err(EngineError::damaged)?;
    canonical_action(
        author,
        row.instance,
        &workflow_version(Subject::Catalogue),
        action,
        Operation::RegisterTool.as_str(),
        (&name(REGISTER)?, Some(&row.digest), None),
        &input,
    )
}
