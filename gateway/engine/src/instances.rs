//! Instances: how they come into being, how they are read, how they end.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::OwnedMutexGuard;

use countersign_gateway_flow::{
    Create, Decided, Instance, Now, Proposal, Reply, StartInstance, SystemReject, Terminate, decide,
};
use countersign_gateway_model::{
    ActionId, Digest, Duration, InstanceId, Name, Principal, PrincipalKind, Pseudonym, State, Timestamp,
};
use countersign_ledger_entry::body::{Body, Created, RefusalReason};
use countersign_ledger_entry::payload;
use countersign_ledger_entry::{Entry, PayloadRole};
use countersign_ledger_log::Appended;
use countersign_ledger_merkle::leaf_hash;
use countersign_policy_decide::{EntityKind, EntityRef, InstanceFacts, Operation, Record};

use crate::api::{Idempotency, InstanceAnswer, InstanceRecord, Moved, NewInstance};
use crate::asking::{actor_of, ask, chain, question};
use crate::error::{EngineError, Refused};
use crate::gates::Pending;
use crate::mint::MintExt as _;
use crate::org::{Cell, Live, Org, instance_stream};
use crate::own::Beside;
use crate::{Engine, Snapshot};

/// Farthest deadline of an instance: ten years of 365 days.
const LONGEST_DEADLINE_S: u64 = 10 * 365 * 86_400;

/// Entries read at a time when a stream is folded.
const PAGE: usize = 512;

/// What a `created` entry's description payload holds.
#[derive(Default, serde::Serialize, serde::Deserialize)]
struct Description {
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    workspace: Option<Digest>,
}

/// A stream under its lock.
pub(crate) struct Held {
    pub(crate) cell: Arc<Cell>,
    pub(crate) live: OwnedMutexGuard<Live>,
}

impl Held {
    /// The fold; it is there once [`Engine::hold`] has answered.
    pub(crate) fn fold(&self) -> Result<&Instance, EngineError> {
        self.live.fold.as_ref().ok_or(EngineError::NotFound("instance"))
    }
}

impl Engine {
    /// Takes the lock of an instance's stream, in turn, and reads the stream if it is not in memory.
    pub(crate) async fn hold(&self, org: &Org, id: InstanceId) -> Result<Held, EngineError> {
        let cell = org.cell(id);
        let mut live = Arc::clone(&cell.live).lock_owned().await;
        if live.fold.is_none() {
            if let Err(error) = self.load(org, id, &mut live).await {
                drop((live, cell));
                org.release(id);
                return Err(error);
            }
            self.describe_instance(org, &live)?;
        }
        Ok(Held { cell, live })
    }

    async fn load(&self, org: &Org, id: InstanceId, live: &mut Live) -> Result<(), EngineError> {
        let (mut fold, mut from) = (None, 0);
        let mut loaded = Live::default();
        loop {
            let page = org.log.stream_entries(instance_stream(id), from, PAGE).await.map_err(EngineError::ledger)?;
            let count = page.len();
            for stored in page {
                let header = Entry::parse(&stored.leaf)?.header;
                let hash = Digest(leaf_hash(&stored.leaf).0);
                match &header.body {
                    Body::Created(created) => {
                        loaded.team = self.stored_workflow(org, &created.workflow).await?.and_then(|w| w.spec.team);
                        let given = header.payloads.iter().find(|p| p.role == PayloadRole::Description);
                        if let Some(given) = given
                            && let Some(content) = self.payload(org, stored.index, &given.digest).await?
                        {
                            let given: Description = serde_json::from_slice(&content).map_err(EngineError::damaged)?;
                            (loaded.labels, loaded.workspace) = (given.labels, given.workspace);
                        }
                    }
                    Body::Outcome(outcome) => loaded.workspace = outcome.workspace.or(loaded.workspace),
                    _ => {}
                }
                fold = Some(Instance::evolve(fold, &header, hash).map_err(EngineError::damaged)?);
                from = header.sequence + 1;
            }
            if count < PAGE {
                break;
            }
        }
        if fold.is_none() {
            return Err(EngineError::NotFound("instance"));
        }
        loaded.fold = fold;
        *live = loaded;
        Ok(())
    }

    /// A payload's content without its salt; none if it was erased.
    pub(crate) async fn payload(&self, org: &Org, index: u64, digest: &Digest) -> Result<Option<Vec<u8>>, EngineError> {
        Ok(self.salted_payload(org, index, digest).await?.map(|(_, content)| content))
    }

    pub(crate) async fn salted_payload(
        &self,
        org: &Org,
        index: u64,
        digest: &Digest,
    ) -> Result<Option<(payload::Salt, Vec<u8>)>, EngineError> {
        let Some(bytes) = org.log.payload(index, digest).await.map_err(EngineError::ledger)? else { return Ok(None) };
        match payload::open(&bytes) {
            Some((salt, content)) => Ok(Some((salt, content.to_vec()))),
            None => Err(EngineError::damaged("a payload without its salt")),
        }
    }

    /// Tells policy what there is to know of an instance now.
    pub(crate) fn describe_instance(&self, org: &Org, live: &Live) -> Result<(), EngineError> {
        let Some(fold) = &live.fold else { return Ok(()) };
        self.describe_instance_in(org, live, fold.state())
    }

    /// The same, in another state: what is permitted at a gate is permitted in the state that the gate leads back to.
    pub(crate) fn describe_instance_in(&self, org: &Org, live: &Live, state: State) -> Result<(), EngineError> {
        let Some(fold) = &live.fold else { return Ok(()) };
        let created = fold.created();
        let named =
            |who: Pseudonym| org.known(who).ok_or_else(|| EngineError::damaged(format!("nobody is known as `{who}`")));
        let person = |who: Pseudonym| named(who).map(|known| known.id);
        let facts = InstanceFacts {
            workflow: created.workflow.clone(),
            state,
            actor: named(created.acting)?.entity(org.id),
            initiator: named(created.initiator)?.entity(org.id),
            owner: created.owner.map(person).transpose()?,
            accountable: person(created.accountable)?,
            parent: created.parent.map(|p| Name::new(&p.to_string())).transpose().map_err(EngineError::damaged)?,
            team: live.team.clone(),
            legal_hold: false,
            frozen: org.is_frozen(live.team.as_ref()),
        };
        let id = instance_name(fold.id())?;
        org.entities.put(Record::instance(org.id, id, facts, fold.latest())).map(drop).map_err(EngineError::damaged)
    }

    /// Commits, and tells policy if the instance moved.
    pub(crate) async fn commit_held(
        &self,
        org: &Org,
        held: &mut Held,
        decided: Decided,
        (beside, now, snapshot): (Beside, Timestamp, &Snapshot),
    ) -> Result<Appended, EngineError> {
        let before = held.live.fold.as_ref().map(Instance::state);
        let appended = self.commit(org, &held.cell, &mut held.live, decided, (beside, now, snapshot)).await?;
        if held.live.fold.as_ref().map(Instance::state) != before {
            self.describe_instance(org, &held.live)?;
            self.timers().notify_one();
        }
        Ok(appended)
    }

    /// Creates an instance, and asks to start it unless it is to rest.
    ///
    /// # Errors
    /// [`EngineError::Refused`] if policy refuses the start: then there is no instance.
    pub async fn create_instance(
        &self,
        who: Arc<Principal>,
        new: NewInstance,
        key: Option<Idempotency>,
    ) -> Result<InstanceAnswer, EngineError> {
        let this = self.clone();
        Self::whole(async move { this.create(&who, new, key).await }).await
    }

    async fn create(
        &self,
        who: &Principal,
        new: NewInstance,
        key: Option<Idempotency>,
    ) -> Result<InstanceAnswer, EngineError> {
        let org = self.org(who.org)?;
        if let Some(replay) = self.replayed(&org, org.own_stream(), who, key.as_ref()).await? {
            if replay.get("refused").is_some() {
                let action = replay.get("action").and_then(Value::as_str).and_then(|id| id.parse().ok());
                let action = action.ok_or_else(|| EngineError::damaged("a stored refusal without its action"))?;
                let receipt = self.receipt_of_refusal(&org, action).await?;
                return Err(refused_before(&replay, receipt)?);
            }
            let id = replay.get("instance").and_then(Value::as_str).and_then(|id| id.parse().ok());
            let id = id.ok_or_else(|| EngineError::damaged("a stored answer without its instance"))?;
            return self.created_before(&org, id).await;
        }
        check_labels(&new.labels)?;
        if new.deadline_s.is_some_and(|s| !(1..=LONGEST_DEADLINE_S).contains(&s)) {
            return Err(EngineError::invalid("deadline_s", "give seconds from now, at least 1 and at most ten years"));
        }
        let snapshot = self.snapshot(org.id);
        let now = self.now();
        let workflow = self.stored_workflow(&org, &new.workflow).await?.ok_or(EngineError::NotFound("workflow"))?;
        let created = self.parties(&org, who, &new, &workflow, now)?;
        let id = self.mint().instance();
        let action = self.mint().action();

        let resource = EntityRef::new(org.id, EntityKind::Workflow, new.workflow.clone());
        let mut asked = question(who, Operation::Start, resource, now);
        asked.four_eyes = four_eyes(&org);
        let answered = ask(&snapshot, &org.entities, chain(who, asked));
        let details = json!({
            "question": "start", "instance": id, "action": action, "workflow": new.workflow,
            "workflow_version": workflow.digest, "workspace": new.workspace, "labels": new.labels,
            "acting": org.label(created.acting), "initiator": org.label(created.initiator),
        });
        let mut beside = Beside::default();
        let bytes = serde_json::to_vec(&details).map_err(EngineError::damaged)?;
        let (reference, digest) = beside.add(answered.evidence(&self.mint().salt(), &bytes));
        let mut asked = answered.asked(Some(reference));
        let given = Description { labels: new.labels.clone(), workspace: new.workspace };
        let content = serde_json::to_vec(&given).map_err(EngineError::damaged)?;
        let sealed = payload::seal(&self.mint().salt(), &content);
        asked.payloads.push(beside.payload(PayloadRole::Description, sealed));

        let cell = org.cell(id);
        let live = Arc::clone(&cell.live).lock_owned().await;
        let mut held = Held { cell, live };
        held.live.team.clone_from(&workflow.spec.team);
        let (gate, item) =
            if new.start && answered.verdict.decision == countersign_gateway_model::Decision::NeedsApproval {
                let pending = Pending {
                    what: format!("start an instance of workflow {}", new.workflow),
                    tool: None,
                    rules: answered.verdict.rules.clone(),
                    input: details.clone(),
                    revision: None,
                    reasons: answered.reasons().map(str::to_owned).collect(),
                };
                let scene = self.gate_scene(&org, &snapshot, who, &created, id, now);
                let (terms, mut items) = self.open_gate(&scene, "the instance starts", &[pending], &mut beside)?;
                (Some(terms), items.pop())
            } else {
                (None, None)
            };
        let proposal = Proposal::Create(Box::new(Create {
            instance: id,
            created,
            start: new.start,
            action: Some(action),
            asked,
            digest: Some(digest),
            gate,
            item,
        }));
        let state = Now { at: now, frozen: org.is_frozen(workflow.spec.team.as_ref()), by: actor_of(who) };
        let decided = decide(None, proposal, &state)?;
        let reply = decided.reply.clone();
        let mut answer = json!({ "instance": id });
        if let Reply::Refused(reason) = &reply {
            answer = refusal_record(*reason, &answered.agent_message());
            if let Some(record) = answer.as_object_mut() {
                record.insert("action".to_owned(), json!(action));
            }
        }
        let answer = serde_json::to_vec(&answer).map_err(EngineError::damaged)?;
        beside.idempotency = Self::own_idempotency(&org, who, key.as_ref(), answer);
        let appended = self.commit_held(&org, &mut held, decided, (beside, now, &snapshot)).await?;
        let receipt = last_receipt(&appended)?;
        if let Reply::Refused(reason) = reply {
            drop(held);
            org.release(id);
            return Err(refused(reason, answered.agent_message(), receipt));
        }
        held.live.labels = new.labels;
        held.live.workspace = new.workspace;
        self.describe_instance(&org, &held.live)?;
        let gate = match reply {
            Reply::Waiting { gate, .. } => Some(gate),
            _ => None,
        };
        Ok(InstanceAnswer { instance: self.record_of(&org, &held.live)?, gate, receipt })
    }

    async fn created_before(&self, org: &Org, id: InstanceId) -> Result<InstanceAnswer, EngineError> {
        let held = self.hold(org, id).await?;
        let instance = self.record_of(org, &held.live)?;
        let receipt = self.receipt_of_last(org, id, held.fold()?.sequence()).await?;
        let gate = instance.gate;
        Ok(InstanceAnswer { instance, gate, receipt })
    }

    /// Who causes, who answers, who acts.
    fn parties(
        &self,
        org: &Org,
        who: &Principal,
        new: &NewInstance,
        workflow: &crate::api::WorkflowRecord,
        now: Timestamp,
    ) -> Result<Created, EngineError> {
        let me = org.known(who.pseudonym).ok_or(EngineError::NotFound("principal"))?;
        let (acting, acting_kind, owner) = match &new.agent {
            Some(id) => {
                let (agent, known) = org.known_by_id(PrincipalKind::Agent, id).ok_or(EngineError::NotFound("agent"))?;
                (agent, PrincipalKind::Agent, known.owner)
            }
            None => (who.pseudonym, who.kind, me.owner),
        };
        // An agent causes nothing by itself: it does so for the one on whose behalf it acts, else for its owner.
        let initiator = match who.kind {
            PrincipalKind::Person | PrincipalKind::Service => who.pseudonym,
            _ => who
                .on_behalf_of
                .first()
                .filter(|d| matches!(d.kind, PrincipalKind::Person | PrincipalKind::Service))
                .map(|d| d.pseudonym)
                .or(me.owner)
                .ok_or_else(|| EngineError::invalid("accountable", "an agent without an owner can start nothing"))?,
        };
        let accountable = match &new.accountable {
            Some(id) => org.known_by_id(PrincipalKind::Person, id).ok_or(EngineError::NotFound("person"))?.0,
            None => [Some(initiator), owner, me.owner]
                .into_iter()
                .flatten()
                .find(|who| org.known(*who).is_some_and(|k| k.kind == PrincipalKind::Person))
                .ok_or_else(|| EngineError::invalid("accountable", "name the person who answers for this instance"))?,
        };
        Ok(Created {
            workflow: new.workflow.clone(),
            workflow_version: workflow.digest,
            initiator,
            accountable,
            owner,
            acting,
            acting_kind,
            parent: None,
            on_deny: if workflow.spec.on_deny == countersign_ledger_entry::body::OnDeny::Terminate {
                workflow.spec.on_deny
            } else {
                new.on_deny
            },
            deadline: new.deadline_s.map(|s| now + Duration::from_secs(s)),
            enforced: true,
        })
    }

    /// Starts an instance that was created to rest.
    ///
    /// # Errors
    /// [`EngineError::Refused`] if policy refuses: the instance is then terminated.
    pub async fn start_instance(
        &self,
        who: Arc<Principal>,
        id: InstanceId,
        key: Option<Idempotency>,
    ) -> Result<Moved, EngineError> {
        let this = self.clone();
        Self::whole(async move {
            let resource = |fold: &Instance, org: &Org| {
                EntityRef::new(org.id, EntityKind::Workflow, fold.created().workflow.clone())
            };
            this.move_instance(&who, id, key, Operation::Start, "the instance starts", resource, |parts| {
                Proposal::Start(Box::new(StartInstance {
                    action: Some(parts.action),
                    asked: parts.asked,
                    digest: Some(parts.digest),
                    gate: parts.gate,
                    item: parts.item,
                }))
            })
            .await
        })
        .await
    }

    /// Completes an instance.
    ///
    /// # Errors
    /// [`EngineError::Illegal`] while a start is open; [`EngineError::Refused`] by policy.
    pub async fn complete(
        &self,
        who: Arc<Principal>,
        id: InstanceId,
        key: Option<Idempotency>,
    ) -> Result<Moved, EngineError> {
        let this = self.clone();
        Self::whole(async move {
            this.move_instance(&who, id, key, Operation::Complete, "the instance completes", of_instance, |parts| {
                Proposal::Complete(Box::new(countersign_gateway_flow::Complete {
                    action: Some(parts.action),
                    asked: parts.asked,
                    digest: Some(parts.digest),
                    gate: parts.gate,
                    item: parts.item,
                }))
            })
            .await
        })
        .await
    }

    /// Stops an instance. Those whose work it is cannot be vetoed: a denial is an objection on record.
    ///
    /// # Errors
    /// [`EngineError::Refused`] for others, by policy.
    pub async fn terminate(
        &self,
        who: Arc<Principal>,
        id: InstanceId,
        key: Option<Idempotency>,
    ) -> Result<Moved, EngineError> {
        let this = self.clone();
        Self::whole(async move {
            let stop_role = Name::new(STOP).ok().filter(|role| who.roles.contains(role));
            let decision = this.mint().decision();
            this.move_instance(&who, id, key, Operation::Terminate, "the instance ends", of_instance, |parts| {
                Proposal::Terminate(Box::new(Terminate {
                    action: Some(parts.action),
                    asked: parts.asked,
                    stop_role,
                    reject: SystemReject { decision },
                    digest: Some(parts.digest),
                    gate: parts.gate,
                    item: parts.item,
                }))
            })
            .await
        })
        .await
    }

    /// What start, complete and terminate have in common.
    #[expect(clippy::too_many_arguments, reason = "the three proposals differ in exactly these")]
    async fn move_instance(
        &self,
        who: &Principal,
        id: InstanceId,
        key: Option<Idempotency>,
        operation: Operation,
        next: &str,
        resource: impl FnOnce(&Instance, &Org) -> EntityRef,
        proposal: impl FnOnce(MoveParts) -> Proposal,
    ) -> Result<Moved, EngineError> {
        let org = self.org(who.org)?;
        let mut held = self.hold(&org, id).await?;
        let stream = instance_stream(id);
        if let Some(answer) = self.replayed(&org, stream, who, key.as_ref()).await? {
            let fold = held.fold()?;
            let receipt = self.receipt_of_last(&org, id, fold.sequence()).await?;
            if answer.get("refused").is_some() {
                return Err(refused_before(&answer, receipt)?);
            }
            let gate = fold.gate().map(|g| g.gate);
            return Ok(Moved { state: fold.state(), gate, already: false, receipt: Some(receipt) });
        }
        let snapshot = self.snapshot(org.id);
        let now = self.now();
        let fold = held.fold()?;
        self.visible(&org, who, fold)?;
        let action = self.mint().action();
        let mut asked = question(who, operation, resource(fold, &org), now);
        asked.instance = Some(EntityRef::new(org.id, EntityKind::Instance, instance_name(id)?));
        asked.four_eyes = four_eyes(&org);
        asked.denials = u64::from(fold.denials());
        let answered = ask(&snapshot, &org.entities, chain(who, asked));
        let details = json!({ "question": operation.as_str(), "instance": id, "action": action });
        let bytes = serde_json::to_vec(&details).map_err(EngineError::damaged)?;
        let mut beside = Beside { urgent: operation == Operation::Terminate, ..Beside::default() };
        let (reference, digest) = beside.add(answered.evidence(&self.mint().salt(), &bytes));
        let (gate, item) = if answered.verdict.decision == countersign_gateway_model::Decision::NeedsApproval {
            let pending = Pending {
                what: format!("{} instance {id}", operation.as_str()),
                tool: None,
                rules: answered.verdict.rules.clone(),
                input: details,
                revision: None,
                reasons: answered.reasons().map(str::to_owned).collect(),
            };
            let scene = self.gate_scene(&org, &snapshot, who, fold.created(), id, now);
            let (terms, mut items) = self.open_gate(&scene, next, &[pending], &mut beside)?;
            (Some(terms), items.pop())
        } else {
            (None, None)
        };
        let parts = MoveParts { action, asked: answered.asked(Some(reference)), digest, gate, item };
        let state = Now { at: now, frozen: org.is_frozen(held.live.team.as_ref()), by: actor_of(who) };
        let decided = decide(held.live.fold.as_ref(), proposal(parts), &state)?;
        let reply = decided.reply.clone();
        if let Reply::Nothing(state) = reply {
            return Ok(Moved { state, gate: None, already: true, receipt: None });
        }
        let answer = match &reply {
            Reply::Refused(reason) => refusal_record(*reason, &answered.agent_message()),
            Reply::Denied { .. } => refusal_record(RefusalReason::Policy, &answered.agent_message()),
            _ => json!({ "instance": id }),
        };
        let answer = serde_json::to_vec(&answer).map_err(EngineError::damaged)?;
        beside.idempotency = key.as_ref().map(|k| crate::writing::idempotency(stream, who, k, answer));
        let appended = self.commit_held(&org, &mut held, decided, (beside, now, &snapshot)).await?;
        let receipt = last_receipt(&appended)?;
        let fold = held.fold()?;
        match reply {
            Reply::Refused(reason) => return Err(refused(reason, answered.agent_message(), receipt)),
            Reply::Denied { .. } => {
                return Err(refused(RefusalReason::Policy, answered.agent_message(), receipt));
            }
            Reply::Terminated { cancel, .. } => self.cancel_runs(&org, fold, &cancel),
            _ => {}
        }
        Ok(Moved { state: fold.state(), gate: fold.gate().map(|g| g.gate), already: false, receipt: Some(receipt) })
    }

    /// Refuses those who may not even know of the instance, as if it did not exist.
    pub(crate) fn visible(&self, org: &Org, who: &Principal, fold: &Instance) -> Result<(), EngineError> {
        // Those whose work it is need no policy to see it.
        if fold.is_insider(who.pseudonym) {
            return Ok(());
        }
        let entity = EntityRef::new(org.id, EntityKind::Instance, instance_name(fold.id())?);
        self.may_read(org, who, Operation::ReadInstance, entity, "instance")
    }

    /// What was answered to this idempotency key before.
    pub(crate) async fn replayed(
        &self,
        org: &Org,
        stream: countersign_ledger_entry::Stream,
        who: &Principal,
        key: Option<&Idempotency>,
    ) -> Result<Option<Value>, EngineError> {
        let Some(key) = key else { return Ok(None) };
        let scope = countersign_ledger_log::IdempotencyScope { stream, principal: who.pseudonym };
        let found = org.log.idempotent(scope, &crate::writing::key_digest(&key.key)).await?;
        match found {
            None => Ok(None),
            Some(replay) if replay.request != key.request => Err(EngineError::IdempotencyReused),
            Some(replay) => serde_json::from_slice(&replay.answer).map(Some).map_err(EngineError::damaged),
        }
    }

    /// An instance as people read it.
    pub(crate) fn record_of(&self, org: &Org, live: &Live) -> Result<InstanceRecord, EngineError> {
        let fold = live.fold.as_ref().ok_or(EngineError::NotFound("instance"))?;
        let created = fold.created();
        let mut reasons = Vec::new();
        if fold.state().is_terminal() {
            reasons.push("finished".to_owned());
        }
        if org.is_frozen(live.team.as_ref()) {
            reasons.push("frozen".to_owned());
        }
        if fold.gate().is_some() {
            reasons.push("waiting_for_human".to_owned());
        }
        Ok(InstanceRecord {
            id: fold.id(),
            workflow: created.workflow.clone(),
            workflow_version: created.workflow_version,
            state: fold.state(),
            initiator: org.label(created.initiator),
            accountable: org.label(created.accountable),
            owner: created.owner.map(|who| org.label(who)),
            acting: org.label(created.acting),
            created: fold.created_at(),
            updated: fold.latest(),
            gate: fold.gate().map(|g| g.gate),
            open_starts: fold.open_starts().map(|(permit, _)| permit).collect(),
            denials: u64::from(fold.denials()),
            workspace: live.workspace,
            labels: live.labels.clone(),
            deadline: created.deadline,
            runnable: reasons.is_empty(),
            reasons,
            sequence: fold.sequence() + 1,
        })
    }

    /// Waits until the instance's stream grows beyond `seen` entries.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] if `who` may not see the instance.
    pub async fn changed(&self, who: &Principal, id: InstanceId, seen: u64) -> Result<(), EngineError> {
        let org = self.org(who.org)?;
        let mut changes = {
            let held = self.hold(&org, id).await?;
            self.visible(&org, who, held.fold()?)?;
            if held.fold()?.sequence() + 1 > seen {
                return Ok(());
            }
            held.cell.changed.subscribe()
        };
        let mut ending = self.ending();
        tokio::select! {
            _ = changes.wait_for(|sequence| *sequence > seen) => Ok(()),
            _ = ending.wait_for(|ending| *ending) => Err(EngineError::Draining),
        }
    }
}

/// What a move of an instance needs beside its own terms.
struct MoveParts {
    action: ActionId,
    asked: countersign_gateway_flow::Asked,
    digest: Digest,
    gate: Option<countersign_gateway_flow::GateTerms>,
    item: Option<countersign_gateway_flow::ItemTerms>,
}

/// The role whose holders stop anything.
pub(crate) const STOP: &str = "STOP";

fn of_instance(fold: &Instance, org: &Org) -> EntityRef {
    // The text of an id is always a name.
    let id = instance_name(fold.id()).unwrap_or_else(|_| fold.created().workflow.clone());
    EntityRef::new(org.id, EntityKind::Instance, id)
}

/// The instance's id as policy names it.
pub(crate) fn instance_name(id: InstanceId) -> Result<Name, EngineError> {
    Name::new(&id.to_string()).map_err(EngineError::damaged)
}

pub(crate) fn four_eyes(org: &Org) -> bool {
    org.authority() == countersign_ledger_entry::body::AuthorityMode::FourEyes
}

pub(crate) fn last_receipt(appended: &Appended) -> Result<countersign_ledger_entry::Receipt, EngineError> {
    appended
        .entries
        .last()
        .map(|entry| entry.receipt.clone())
        .ok_or_else(|| EngineError::damaged("an append without entries"))
}

/// A refusal that is on record, in the caller's words.
pub(crate) fn refused(
    reason: RefusalReason,
    message: String,
    receipt: countersign_ledger_entry::Receipt,
) -> EngineError {
    let (code, message) = refusal_words(reason, message);
    EngineError::Refused(Box::new(Refused { code, message, receipt }))
}

/// A refusal as it is kept with an idempotency key: the same request is refused again, in the same words.
pub(crate) fn refusal_record(reason: RefusalReason, message: &str) -> Value {
    json!({ "refused": reason, "message": message })
}

/// The refusal that [`refusal_record`] kept.
pub(crate) fn refused_before(
    answer: &Value,
    receipt: countersign_ledger_entry::Receipt,
) -> Result<EngineError, EngineError> {
    let reason = answer.get("refused").cloned().unwrap_or_default();
    let reason: RefusalReason = serde_json::from_value(reason).map_err(EngineError::damaged)?;
    let message = answer.get("message").and_then(Value::as_str).unwrap_or_default();
    Ok(refused(reason, message.to_owned(), receipt))
}

/// Problem code and words of a refusal.
pub(crate) fn refusal_words(reason: RefusalReason, message: String) -> (&'static str, String) {
    match reason {
        RefusalReason::Policy => ("policy-denied", message),
        RefusalReason::PolicyError => ("policy-error", "refused: a policy could not be evaluated".to_owned()),
        RefusalReason::UnknownTool => ("tool-unknown", "refused: the catalogue does not list this tool".to_owned()),
        RefusalReason::Frozen => ("frozen", "refused: work is frozen until a person lifts the freeze".to_owned()),
    }
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), EngineError> {
    let good = labels.len() <= 16
        && labels.iter().all(|(key, value)| {
            Name::new(key).is_ok() && key.len() <= 64 && value.chars().count() <= 200 && !value.contains('\0')
        });
    if good {
        Ok(())
    } else {
        Err(EngineError::invalid("labels", "give at most 16 names of 64 with values of 200 characters"))
    }
}
