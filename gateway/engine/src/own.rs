//! The organization's own stream: operations that belong to no instance.
//!
//! Each is asked of policy first; what is refused is committed as a refusal, what is allowed is committed with its
//! verdict, and only then carried out by whoever called.

use countersign_gateway_flow::Asked;
use countersign_gateway_model::{Digest, Name, OrgId, PolicyDigests, Principal, Pseudonym, Timestamp};
use countersign_ledger_entry::body::{QuestionKind, Refusal, RefusalReason};
use countersign_ledger_entry::payload;
use countersign_ledger_entry::{Blob, Body, Draft, Entry, PayloadRole, Receipt, Row};
use countersign_policy_decide::{EntityRef, Operation, Question};
use serde_json::json;

use crate::answers::last_receipt;
use crate::api::Idempotency;
use crate::asking::{Answered, actor_of, ask, chain, question};
use crate::beside::Beside;
use crate::error::{EngineError, Refused};
use crate::mint::MintExt as _;
use crate::org::Org;
use crate::{Engine, trail};

/// Where an answer that is kept with an idempotency key says its entry's place in the stream.
const SEQUENCE: &str = "sequence";

/// An operation that policy allowed: what its entry must carry.
pub struct Allowed {
    pub(crate) asked: Asked,
    pub(crate) beside: Beside,
    pub(crate) now: Timestamp,
    /// What policy was asked.
    pub(crate) policy: PolicyDigests,
}

/// Something to commit to the organization's stream.
pub struct OwnEntry {
    /// What happened.
    pub body: Body,
    /// Rows of projections and vaults, put in the same transaction.
    pub rows: Vec<Row>,
    /// Text that goes with it, as JSON; kept as a salted payload.
    pub description: Option<serde_json::Value>,
    /// Bytes that the entry names by their plain digest: bundles and catalogues.
    pub blobs: Vec<Blob>,
    /// Committed also where the disk is nearly full or the clock behind: without it nobody could stop anything.
    pub urgent: bool,
}

impl OwnEntry {
    /// An entry with nothing beside it.
    pub fn new(body: impl Into<Body>) -> Self {
        Self { body: body.into(), rows: Vec::new(), description: None, blobs: Vec::new(), urgent: false }
    }
}

impl Engine {
    /// Asks policy whether `who` may read. Nothing is committed; a denial looks like absence.
    pub(crate) fn may_read(
        &self,
        org: &Org,
        who: &Principal,
        operation: Operation,
        resource: EntityRef,
        what: &'static str,
    ) -> Result<(), EngineError> {
        let snapshot = self.snapshot(org.id);
        let asked = question(who, operation, resource, self.now());
        if ask(&snapshot, org.facts(), chain(who, asked)).allowed() { Ok(()) } else { Err(EngineError::NotFound(what)) }
    }

    /// Asks policy whether `who` may carry out an operation of the gateway's own. A denial is committed.
    ///
    /// # Errors
    /// [`EngineError::Refused`] with the receipt of the refusal.
    pub async fn authorize(
        &self,
        who: &Principal,
        operation: Operation,
        resource: EntityRef,
        details: &serde_json::Value,
    ) -> Result<Allowed, EngineError> {
        let org = self.org(who.org)?;
        let asked = question(who, operation, resource, self.now());
        self.authorize_question(&org, who, asked, details).await
    }

    pub(crate) async fn authorize_question(
        &self,
        org: &Org,
        who: &Principal,
        mut asked: Question,
        details: &serde_json::Value,
    ) -> Result<Allowed, EngineError> {
        let snapshot = self.counted_snapshot(org).await?;
        let now = asked.now;
        asked.four_eyes = org.authority() == countersign_ledger_entry::body::AuthorityMode::FourEyes;
        let operation = asked.operation;
        let answered = ask(&snapshot, org.facts(), chain(who, asked));
        let action = serde_json::to_vec(details).map_err(EngineError::damaged)?;
        let mut beside = Beside::default();
        let (reference, digest) = beside.add(answered.evidence(&self.mint().salt(), &action));
        let asked = answered.asked(Some(reference));
        if answered.allowed() {
            return Ok(Allowed { asked, beside, now, policy: snapshot.digests() });
        }
        Err(self.refuse_own(org, who, operation, answered, (asked, digest), (beside, now, snapshot.digests())).await)
    }

    async fn refuse_own(
        &self,
        org: &Org,
        who: &Principal,
        operation: Operation,
        answered: Answered,
        (asked, digest): (Asked, Digest),
        (beside, now, policy): (Beside, Timestamp, PolicyDigests),
    ) -> EngineError {
        let error = answered.verdict.error;
        let refusal = Refusal {
            question: QuestionKind::Operation,
            action: None,
            tool: Name::new(operation.as_str()).ok(),
            digest: Some(digest),
            reason: if error { RefusalReason::PolicyError } else { RefusalReason::Policy },
        };
        let draft = draft_of(who, refusal, &asked);
        let message = answered.agent_message();
        let appended = self.append_own(org, vec![draft], beside, (now, policy)).await;
        match appended.and_then(|appended| last_receipt(&appended)) {
            Ok(receipt) => EngineError::Refused(Box::new(Refused {
                code: if error { "policy-error" } else { "policy-denied" },
                message,
                receipt,
            })),
            Err(error) => error,
        }
    }

    /// Commits what was allowed to the organization's stream.
    ///
    /// # Errors
    /// [`EngineError::Append`]: then it did not happen and must not be carried out.
    pub async fn commit_own(&self, who: &Principal, allowed: Allowed, entry: OwnEntry) -> Result<Receipt, EngineError> {
        self.commit_own_once(who, allowed, entry, None).await
    }

    /// As [`Engine::commit_own`], for a request that may be repeated: [`Engine::own_before`] knows it again by its key.
    pub(crate) async fn commit_own_once(
        &self,
        who: &Principal,
        allowed: Allowed,
        entry: OwnEntry,
        key: Option<&Idempotency>,
    ) -> Result<Receipt, EngineError> {
        let org = self.org(who.org)?;
        let Allowed { mut asked, mut beside, now, policy } = allowed;
        if let Some(description) = &entry.description {
            let content = serde_json::to_vec(description).map_err(EngineError::damaged)?;
            let sealed = payload::seal(&self.mint().salt(), &content);
            asked.payloads.push(beside.payload(PayloadRole::Description, sealed));
        }
        beside.rows.extend(entry.rows);
        beside.blobs.extend(entry.blobs);
        beside.urgent |= entry.urgent;
        let draft = draft_of(who, entry.body, &asked);
        let turn = org.own.lock().await;
        if key.is_some() {
            let sequence = org.log.head(org.own_stream()).await?.map_or(0, |head| head.next_sequence);
            let answer = serde_json::to_vec(&json!({ SEQUENCE: sequence })).map_err(EngineError::damaged)?;
            beside.idempotency = Self::own_idempotency(&org, who, key, answer);
        }
        let appended = self.append_in_turn(&org, &turn, vec![draft], beside, (now, policy)).await?;
        trail::leaves(&appended);
        last_receipt(&appended)
    }

    /// The entry that the same request left before, if it came with the same key, with its receipt.
    pub(crate) async fn own_before(
        &self,
        org: &Org,
        who: &Principal,
        key: Option<&Idempotency>,
    ) -> Result<Option<(Body, Receipt)>, EngineError> {
        let stream = org.own_stream();
        let Some(answer) = self.replayed(org, stream, who, key).await? else { return Ok(None) };
        let sequence =
            answer.get(SEQUENCE).and_then(serde_json::Value::as_u64).ok_or(EngineError::IdempotencyReused)?;
        let stored = org.log.stream_entries(stream, sequence, 1).await.map_err(EngineError::ledger)?;
        let stored = stored.first().ok_or_else(|| EngineError::damaged("a key without its entry"))?;
        let body = Entry::parse(&stored.leaf)?.header.body;
        Ok(Some((body, self.receipt_at(org, stored.index).await?)))
    }

    /// Commits what the gateway itself does, as SYSTEM and without a verdict: the first activation, sweeps of accounts.
    ///
    /// # Errors
    /// [`EngineError::Append`]: then it did not happen and must not be carried out.
    pub async fn commit_system(&self, org: OrgId, entry: OwnEntry) -> Result<Receipt, EngineError> {
        let org = self.org(org)?;
        let mut beside = Beside { rows: entry.rows, blobs: entry.blobs, urgent: entry.urgent, ..Beside::default() };
        let mut draft = Draft::new(entry.body, Pseudonym::SYSTEM);
        if let Some(description) = &entry.description {
            let content = serde_json::to_vec(description).map_err(EngineError::damaged)?;
            let sealed = payload::seal(&self.mint().salt(), &content);
            draft.payloads.push(beside.payload(PayloadRole::Description, sealed));
        }
        let policy = self.snapshot(org.id).digests();
        last_receipt(&self.append_own(&org, vec![draft], beside, (self.now(), policy)).await?)
    }

    /// The idempotency record of a request to the organization's stream.
    pub(crate) fn own_idempotency(
        org: &Org,
        who: &Principal,
        request: Option<&Idempotency>,
        answer: Vec<u8>,
    ) -> Option<countersign_ledger_log::Idempotency> {
        request.map(|r| crate::writing::idempotency(org.own_stream(), who, r, answer))
    }
}

/// A draft by `who` that carries what policy said.
pub(crate) fn draft_of(who: &Principal, body: impl Into<Body>, asked: &Asked) -> Draft {
    let actor = actor_of(who);
    Draft {
        body: body.into(),
        verdict: asked.verdict.clone(),
        determining: asked.determining.clone(),
        actor: actor.actor,
        on_behalf_of: actor.on_behalf_of,
        payloads: asked.payloads.clone(),
        fields: asked.fields.clone(),
    }
}
