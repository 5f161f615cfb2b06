//! A change of the tool catalogue that people are asked about: its gate, its permit, the entry that puts it in force.
//!
//! The gate stands in front of the start of an instance of the gateway's own workflow, and the question there is the
//! registration itself. Once people agree policy is asked again, with their agreement, for the permit of the one operation
//! (`tools.register`); that is begun, checked once more against what is in force, committed, and only then carried out.
//!
//! Absent: registrations that need nobody (`tools`). Read next: `drive`, which says whose turn it is, and `carry`.

use std::sync::Arc;

use countersign_gateway_flow::rows::{GateRow, GateState};
use countersign_gateway_flow::{Action, Actions, Create, ItemTerms, Now, Proposal, decide};
use countersign_gateway_model::{
    ActionId, Decision, Digest, GateId, InstanceId, PermitId, Principal, Pseudonym, State, Timestamp,
};
use countersign_ledger_entry::body::{Cause, Edge, GateSubject, QuestionKind, Step};
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
use crate::changes::carry::Ready;
use crate::changes::names::{REGISTER, Subject, name, workflow_version};
use crate::changes::propose::word_of;
use crate::changes::row::{ChangeRow, Checked, EXPIRED, OVERTAKEN, REJECTED, Stage, ToolLine};
use crate::changes::tool_lines;
use crate::changes::under_way::{Turn, UnderWay};
use crate::error::EngineError;
use crate::gates::Pending;
use crate::mint::MintExt as _;
use crate::org::{Org, instance_stream};
use crate::own::draft_of;
use crate::policies::CatalogueCandidate;
use crate::stream::four_eyes;
use crate::tools::ToolRegistration;

/// Entries of an instance that are read at a time.
const PAGE: usize = 64;

/// Most registrations of an organization that wait for people at a time: each keeps a whole catalogue.
const MAX_WAITING: usize = 16;

/// What people agreed to at a gate.
struct Agreed {
    /// The questions as they were asked with the agreement.
    questions: Vec<Question>,
    /// The action as it was then.
    action: Value,
    /// The id of the action that the gate was opened for.
    item: ActionId,
}

impl Agreed {
    /// Whether that is this registration, to the last byte of its catalogue.
    fn is_of(&self, row: &ChangeRow) -> bool {
        let input = self.action.get("input");
        let said = |key: &str| input.and_then(|input| input.get(key));
        self.action.get("action") == Some(&json!(self.item))
            && self.action.get("instance") == Some(&json!(row.instance))
            && said("catalogue") == Some(&json!(row.digest))
            && said("version") == Some(&json!(row.version))
            && said("predecessor") == Some(&json!(row.predecessor))
    }
}

impl Engine {
    /// The registration of the same catalogue by the same account that people are still asked about, and that can still
    /// come into force.
    pub(crate) fn registration_under_way(&self, org: &Org, who: &Principal, catalogue: &Digest) -> Option<InstanceId> {
        let same = |row: &&ChangeRow| row.author == who.pseudonym && row.digest == *catalogue;
        self.waiting_registrations(org).iter().find(same).map(|row| row.instance)
    }

    /// Whether another registration of this account may wait for people.
    ///
    /// # Errors
    /// [`EngineError::RegistrationWaiting`] where one of its own does, [`EngineError::RegistrationsWaiting`] where too many
    /// of the organization do.
    pub(crate) fn room_for_registration(&self, org: &Org, who: &Principal) -> Result<(), EngineError> {
        let waiting = self.waiting_registrations(org);
        if let Some(own) = waiting.iter().find(|row| row.author == who.pseudonym) {
            return Err(EngineError::RegistrationWaiting(own.instance));
        }
        if waiting.len() < MAX_WAITING { Ok(()) } else { Err(EngineError::RegistrationsWaiting(waiting.len())) }
    }

    /// Registrations that may still come into force, and have not.
    fn waiting_registrations(&self, org: &Org) -> Vec<ChangeRow> {
        let ended = |row: &ChangeRow| org.peek(row.instance).is_some_and(|(state, _)| state.is_terminal());
        let waits = |row: &ChangeRow| {
            row.subject == Subject::Catalogue
                && matches!(row.stage, Stage::Proposed | Stage::Asked)
                && !self.overtaken(org, row)
                && !ended(row)
        };
        org.changes.all().iter().map(|(_, change)| change.row()).filter(waits).collect()
    }

    /// Whether a registration cannot come into force any more: another catalogue did.
    pub(super) fn overtaken(&self, org: &Org, row: &ChangeRow) -> bool {
        let follows = || {
            row.predecessor.is_none_or(|before| before == self.snapshot(org.id).digests().catalogue)
                && row.version == self.policies().catalogue_version(org.id).saturating_add(1)
        };
        row.subject == Subject::Catalogue && matches!(row.stage, Stage::Proposed | Stage::Asked) && !follows()
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
        let checked = Checked {
            subject: Subject::Catalogue,
            digest: candidate.digest,
            predecessor: candidate.predecessor,
            version: candidate.version,
            root_version: candidate.root_version,
            signed_by: candidate.signed_by,
            bytes: candidate.blob.digest,
            words: sha256(&lines),
        };
        let mut row = ChangeRow {
            tools: changes.iter().map(ToolLine::of).collect(),
            ..ChangeRow::new(self.mint().instance(), who, now, &checked)
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
        if self.overtaken(org, &row) {
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
                rewritten: Vec::new(),
                found,
                terms: Vec::new(),
            };
            let scene = self.gate_scene(org, &snapshot, &author, &created, row.instance, now);
            let (terms, mut items) = self.open_gate(&scene, GateSubject::Start, &[pending], &mut beside)?;
            row.gate = Some(terms.gate);
            (gate, item) = (Some(terms), items.pop());
        }
        row.stage = Stage::Asked;
        let create = Create {
            instance: row.instance,
            created,
            start: true,
            action: Some(action),
            asked: answered.asked(Some(reference)),
            digest: Some(digest),
            gate,
            item,
        };
        self.create_change(org, change, row, create, &author, (beside, now, &snapshot)).await
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
        let questions = if let Some(gate) = row.gate {
            match self.agreed(org, &row, gate, now).await? {
                Some(agreed) if agreed.is_of(&row) => agreed.questions,
                Some(_) => return self.fail(org, change, row, "people agreed to another catalogue than this").await,
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

    /// What people agreed to at this gate, read from the ledger. None: there is nothing that they agreed to.
    async fn agreed(
        &self,
        org: &Org,
        row: &ChangeRow,
        gate: GateId,
        now: Timestamp,
    ) -> Result<Option<Agreed>, EngineError> {
        let stream = instance_stream(row.instance);
        let mut from = self.gate_row(org, gate).await?.sequence;
        let mut item = None;
        loop {
            let stored = org.log.stream_entries(stream, from, PAGE).await.map_err(EngineError::ledger)?;
            for entry in &stored {
                let header = Entry::parse(&entry.leaf)?.header;
                let Some(item) = item else {
                    // The first of them is the gate itself.
                    match &header.body {
                        Body::Gate(opened) if opened.gate == gate && opened.subject == GateSubject::Start => {
                            item = opened.items.first().map(|item| item.action);
                        }
                        _ => {}
                    }
                    if item.is_none() {
                        return Err(EngineError::damaged("a registration's gate without its entry"));
                    }
                    continue;
                };
                // The first edge out of waiting is this gate's: no other can be open beside it.
                let Body::Edge(Edge { from: State::WaitingForHuman, to, .. }) = &header.body else { continue };
                if !matches!(to, State::Approved | State::Overridden) {
                    return Ok(None);
                }
                let question = header.payloads.iter().find(|payload| payload.role == PayloadRole::Question);
                let Some(question) = question else { return Ok(None) };
                let Some(content) = self.payload(org, entry.index, &question.digest).await? else { return Ok(None) };
                return self.agreed_in(org, &content, (item, now)).map(Some);
            }
            if stored.len() < PAGE {
                return Ok(None);
            }
            from = from.saturating_add(PAGE as u64);
        }
    }

    /// The agreement in the payload of an edge that left its gate.
    fn agreed_in(&self, org: &Org, content: &[u8], (item, now): (ActionId, Timestamp)) -> Result<Agreed, EngineError> {
        let snapshot = self.snapshot(org.id);
        let evidence = StoredEvidence::read(content).map_err(EngineError::damaged)?;
        let action = serde_json::from_str(evidence.action.get()).map_err(EngineError::damaged)?;
        let mut questions = Vec::with_capacity(evidence.questions.len());
        for question in evidence.questions {
            let parsed = Question::parse(question.get().as_bytes(), &snapshot).map_err(EngineError::damaged)?;
            questions.push(Question { now, four_eyes: four_eyes(org), ..parsed });
        }
        Ok(Agreed { questions, action, item })
    }

    /// Whether a permit is for the catalogue of this row, as the ledger has it.
    async fn is_permitted(&self, org: &Org, row: &ChangeRow, permit: PermitId) -> Result<bool, EngineError> {
        let start =
            self.start_row(org, permit).await?.ok_or_else(|| EngineError::damaged("a start without its row"))?;
        let stored = org.log.stream_entries(instance_stream(row.instance), start.permit_sequence, 1).await;
        let stored = stored.map_err(EngineError::ledger)?;
        let stored = stored.first().ok_or_else(|| EngineError::damaged("a permit without its entry"))?;
        let header = Entry::parse(&stored.leaf)?.header;
        let Body::Permit(given) = header.body else { return Ok(false) };
        Ok(given.permit == permit && given.tool == name(REGISTER)? && given.tool_version == row.digest)
    }

    /// The catalogue of a permit, checked against what is in force now.
    pub(super) async fn ready_catalogue(
        &self,
        org: &Arc<Org>,
        row: &mut ChangeRow,
        permit: PermitId,
    ) -> Result<Result<Ready, String>, EngineError> {
        if !self.is_permitted(org, row, permit).await? {
            return Ok(Err("its permit is for another catalogue".to_owned()));
        }
        if row.gate.is_none() && !self.still_allowed(org, row, Operation::RegisterTool).await? {
            return Ok(Err("policy does not allow it by now, or asks for people".to_owned()));
        }
        if self.overtaken(org, row) {
            return Ok(Err(OVERTAKEN.to_owned()));
        }
        let candidate = match self.catalogue_candidate(org, self.catalogue_of(org, row).await?).await {
            Ok(candidate) if (candidate.digest, candidate.version) == (row.digest, row.version) => candidate,
            Ok(_) => return Ok(Err(OVERTAKEN.to_owned())),
            Err(EngineError::Catalogue(why)) => {
                return Ok(Err(format!("it does not fit what is in force now: {why}")));
            }
            Err(error) => return Err(error),
        };
        (row.root_version, row.signed_by) = (candidate.root_version, candidate.signed_by);
        let description =
            json!({ "instance": row.instance, "action": row.action, "signed": candidate.signed, "tools": row.tools });
        let blobs = vec![candidate.blob];
        Ok(Ok(Ready { blobs, description: Some(description), prepared: candidate.prepared }))
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
        let row = match self.change_row(&org, id).await {
            Ok(row) => Some(row).filter(|row| row.subject == Subject::Catalogue),
            Err(EngineError::NotFound(_)) => None,
            Err(error) => return Err(error),
        };
        if row.as_ref().is_none_or(|row| row.author != who.pseudonym) {
            self.may_read(&org, who, Operation::ReadPolicy, here, "tool registration")?;
        }
        let row = row.ok_or(EngineError::NotFound("tool registration"))?;
        let lines = org.log.blob(&row.diff).await.map_err(EngineError::ledger)?;
        let words = lines.map(|lines| tool_lines::text(&tool_lines::read(&lines)));
        let instance = org.peek(row.instance);
        let gate = match row.gate.filter(|_| instance.is_some_and(|(state, _)| state.is_terminal())) {
            Some(gate) => Some(self.gate_row(&org, gate).await?),
            None => None,
        };
        let standing = standing_of(&row, instance, gate.as_ref());
        Ok(registration_record(&org, &row, standing, words))
    }
}

/// How a registration stands, and why it failed: its instance may be further than its row.
fn standing_of(
    row: &ChangeRow,
    instance: Option<(State, bool)>,
    gate: Option<&GateRow>,
) -> (&'static str, Option<String>) {
    let state = match (row.stage, instance) {
        (Stage::Activated, _) => "activated",
        (Stage::Failed, _) => "failed",
        (Stage::Withdrawn, _) => "withdrawn",
        (_, Some((state, _))) if state.is_terminal() => match gate.filter(|gate| gate.state == GateState::Rejected) {
            Some(GateRow { cause: Some(Cause::Decision), .. }) => return ("failed", Some(REJECTED.to_owned())),
            Some(GateRow { cause: Some(Cause::Expiry), .. }) => return ("failed", Some(EXPIRED.to_owned())),
            _ => "withdrawn",
        },
        (Stage::Asked, Some((_, false))) => "approved",
        _ => "waiting",
    };
    (state, row.reason.clone())
}

fn registration_record(
    org: &Org,
    row: &ChangeRow,
    (state, reason): (&'static str, Option<String>),
    words: Option<String>,
) -> ToolRegistration {
    ToolRegistration {
        id: row.instance,
        catalogue: row.digest,
        predecessor: row.predecessor,
        version: row.version,
        state,
        registrar: org.label(row.author),
        registered: row.proposed,
        gate: row.gate,
        reason,
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
