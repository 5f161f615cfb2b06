//! An instance's stream under its lock: read into a fold, described to policy, and appended to.
//!
//! Whoever changes an instance holds its stream first. Read next: `writing` (how an append is made), `org` (the cells).

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::OwnedMutexGuard;

use countersign_gateway_flow::{Decided, Instance, Now, Proposal, Reply, decide};
use countersign_gateway_model::{Digest, InstanceId, Name, Principal, Pseudonym, State, Timestamp};
use countersign_ledger_entry::body::Body;
use countersign_ledger_entry::payload;
use countersign_ledger_entry::{Entry, PayloadRole};
use countersign_ledger_log::Appended;
use countersign_ledger_merkle::leaf_hash;
use countersign_policy_decide::{EntityKind, EntityRef, InstanceFacts, Operation, Record};

use crate::api::Idempotency;
use crate::beside::Beside;
use crate::error::EngineError;
use crate::org::{Cell, Live, Org, instance_stream};
use crate::{Engine, Snapshot};

/// Entries read at a time when a stream is folded.
const PAGE: usize = 512;

/// What a `created` entry's description payload holds.
#[derive(Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Description {
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) workspace: Option<Digest>,
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

    /// Tells policy of every instance in memory whether it is frozen now.
    pub(crate) async fn tell_frozen(&self, org: &Org) {
        for (id, _) in org.cells() {
            let told = self.hold(org, id).await.and_then(|held| self.describe_instance(org, &held.live));
            if let Err(error) = told {
                tracing::warn!(%error, instance = %id, "policy is not told whether the instance is frozen");
            }
        }
    }

    /// Tells every instance of a workflow in memory which team's it is now, and policy of it.
    pub(crate) async fn tell_team(&self, org: &Org, workflow: &Name, team: Option<&Name>) {
        for (id, _) in org.cells() {
            let Ok(mut held) = self.hold(org, id).await else { continue };
            let is_of_it = held.fold().is_ok_and(|fold| fold.created().workflow == *workflow);
            if is_of_it && held.live.team.as_ref() != team {
                held.live.team = team.cloned();
                if let Err(error) = self.describe_instance(org, &held.live) {
                    tracing::warn!(%error, instance = %id, "policy is not told which team's the instance is");
                }
            }
        }
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
        let gate_of = |live: &Live| live.fold.as_ref().and_then(|fold| fold.gate().map(|open| open.gate));
        let (before, gate) = (held.live.fold.as_ref().map(Instance::state), gate_of(&held.live));
        let appended = self.commit(org, &held.cell, &mut held.live, decided, (beside, now, snapshot)).await?;
        if held.live.fold.as_ref().map(Instance::state) != before {
            self.describe_instance(org, &held.live)?;
            self.timers().notify_one();
        }
        if gate.is_some() && gate_of(&held.live) != gate {
            org.forget_described(&held.cell);
        }
        Ok(appended)
    }

    /// Commits an outcome or a sweep. Outcomes are accepted in every state.
    pub(crate) async fn commit_outcome(
        &self,
        org: &Org,
        held: &mut Held,
        proposal: Proposal,
        by: countersign_gateway_flow::Actor,
        mut beside: Beside,
    ) -> Result<(Reply, Option<Appended>), EngineError> {
        let now = self.now();
        let snapshot = self.snapshot(org.id);
        let state = Now { at: now, frozen: false, by };
        let decided = decide(held.live.fold.as_ref(), proposal, &state)?;
        let reply = decided.reply.clone();
        if decided.drafts.is_empty() {
            return Ok((reply, None));
        }
        beside.urgent = true;
        let appended = self.commit_held(org, held, decided, (beside, now, &snapshot)).await?;
        Ok((reply, Some(appended)))
    }

    /// Only the principal that acts in an instance may propose, begin and report in it.
    pub(crate) fn acts(&self, who: &Principal, held: &Held) -> Result<(), EngineError> {
        let created = held.fold()?.created();
        // In the gateway's own workflows the one action is the gateway's to carry out, whoever it is done for.
        let own = created.acting == who.pseudonym && !crate::changes::names::is_reserved(&created.workflow);
        if own { Ok(()) } else { Err(EngineError::NotFound("action")) }
    }

    /// Refuses those who may not even know of the instance, as if it did not exist.
    pub(crate) fn visible(&self, org: &Org, who: &Principal, fold: &Instance) -> Result<(), EngineError> {
        self.visible_as(org, who, fold, "instance")
    }

    /// The same for something of the instance that was named in its place: what is hidden is told as what is not there.
    pub(crate) fn visible_as(
        &self,
        org: &Org,
        who: &Principal,
        fold: &Instance,
        what: &'static str,
    ) -> Result<(), EngineError> {
        // Those whose work it is need no policy to see it.
        if fold.is_insider(who.pseudonym) {
            return Ok(());
        }
        let entity = EntityRef::new(org.id, EntityKind::Instance, instance_name(fold.id())?);
        self.may_read(org, who, Operation::ReadInstance, entity, what)
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
}

/// The instance's id as policy names it.
pub(crate) fn instance_name(id: InstanceId) -> Result<Name, EngineError> {
    Name::new(&id.to_string()).map_err(EngineError::damaged)
}

pub(crate) fn four_eyes(org: &Org) -> bool {
    org.authority() == countersign_ledger_entry::body::AuthorityMode::FourEyes
}
