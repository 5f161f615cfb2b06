//! Instances: how they come into being, how they are read, how they end.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use countersign_gateway_flow::{
    Create, Instance, Now, Proposal, Reply, StartInstance, SystemReject, Terminate, decide,
};
use countersign_gateway_model::{ActionId, Digest, Duration, InstanceId, Name, Principal, PrincipalKind, Timestamp};
use countersign_ledger_entry::PayloadRole;
use countersign_ledger_entry::body::{Created, GateSubject, RefusalReason};
use countersign_ledger_entry::payload;
use countersign_policy_decide::{EntityKind, EntityRef, Operation};

use crate::Engine;
use crate::answers::{last_receipt, refusal_record, refused, refused_before};
use crate::api::{Idempotency, InstanceAnswer, Moved, NewInstance};
use crate::asking::{actor_of, ask, chain, question};
use crate::beside::Beside;
use crate::error::EngineError;
use crate::gates::Pending;
use crate::mint::MintExt as _;
use crate::org::{Org, instance_stream};
use crate::permits::in_shadow;
use crate::stream::{Description, Held, four_eyes, instance_name};

/// Farthest deadline of an instance: ten years of 365 days.
const LONGEST_DEADLINE_S: u64 = 10 * 365 * 86_400;

impl Engine {
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
        let snapshot = self.counted_snapshot(&org).await?;
        let now = self.now();
        let workflow = self.stored_workflow(&org, &new.workflow).await?.ok_or(EngineError::NotFound("workflow"))?;
        let mut created = self.parties(&org, who, &new, &workflow, now)?;
        created.enforced = !snapshot.workflow_in_shadow(&new.workflow, now);
        let id = self.mint().instance();
        let action = self.mint().action();

        let resource = EntityRef::new(org.id, EntityKind::Workflow, new.workflow.clone());
        let mut asked = question(who, Operation::Start, resource, now);
        asked.four_eyes = four_eyes(&org);
        let answered = ask(&snapshot, org.facts(), chain(who, asked)).in_shadow(in_shadow(&snapshot, &created, now));
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
        let (gate, item) = if new.start && answered.decision() == countersign_gateway_model::Decision::NeedsApproval {
            let pending = Pending {
                what: format!("start an instance of workflow {}", new.workflow),
                tool: None,
                rules: answered.verdict.rules.clone(),
                input: details.clone(),
                revision: None,
                reasons: answered.reasons().map(str::to_owned).collect(),
                changed_by: None,
                rewritten: Vec::new(),
                found: Vec::new(),
                terms: Vec::new(),
            };
            let scene = self.gate_scene(&org, &snapshot, who, &created, id, now);
            let (terms, mut items) = self.open_gate(&scene, GateSubject::Start, &[pending], &mut beside)?;
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
            this.move_instance(&who, id, key, Operation::Start, GateSubject::Start, resource, |parts| {
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
            this.move_instance(&who, id, key, Operation::Complete, GateSubject::Complete, of_instance, |parts| {
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
            this.move_instance(&who, id, key, Operation::Terminate, GateSubject::Terminate, of_instance, |parts| {
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
        subject: GateSubject,
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
        let snapshot = self.counted_snapshot(&org).await?;
        let now = self.now();
        let fold = held.fold()?;
        self.visible(&org, who, fold)?;
        if operation != Operation::Terminate && crate::changes::names::is_reserved(&fold.created().workflow) {
            // What the gateway carries out by itself is the gateway's to complete; anybody may ask for it to be stopped.
            return Err(EngineError::NotFound("instance"));
        }
        let action = self.mint().action();
        let mut asked = question(who, operation, resource(fold, &org), now);
        asked.instance = Some(EntityRef::new(org.id, EntityKind::Instance, instance_name(id)?));
        asked.four_eyes = four_eyes(&org);
        asked.denials = u64::from(fold.denials());
        // Whoever stops is asked as always: what is in shadow is what is started, done and completed.
        let shadow = operation != Operation::Terminate && in_shadow(&snapshot, fold.created(), now);
        let answered = ask(&snapshot, org.facts(), chain(who, asked)).in_shadow(shadow);
        let details = json!({ "question": operation.as_str(), "instance": id, "action": action });
        let bytes = serde_json::to_vec(&details).map_err(EngineError::damaged)?;
        let mut beside = Beside { urgent: operation == Operation::Terminate, ..Beside::default() };
        let (reference, digest) = beside.add(answered.evidence(&self.mint().salt(), &bytes));
        let (gate, item) = if answered.decision() == countersign_gateway_model::Decision::NeedsApproval {
            let pending = Pending {
                what: format!("{} instance {id}", operation.as_str()),
                tool: None,
                rules: answered.verdict.rules.clone(),
                input: details,
                revision: None,
                reasons: answered.reasons().map(str::to_owned).collect(),
                changed_by: None,
                rewritten: Vec::new(),
                found: Vec::new(),
                terms: Vec::new(),
            };
            let scene = self.gate_scene(&org, &snapshot, who, fold.created(), id, now);
            let (terms, mut items) = self.open_gate(&scene, subject, &[pending], &mut beside)?;
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
