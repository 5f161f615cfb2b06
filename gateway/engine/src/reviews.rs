//! Reviews after the fact: what was lifted without its quorum, who has looked at it since, and what waits too long.
//!
//! A review is owed by the entry of the lift and closed by an entry of the organization's stream, by another person. While
//! one is overdue, its rule is not lifted again (`lifts`). Absent: the review of a recovery, which is `recovery`'s.

use std::sync::Arc;

use countersign_gateway_flow::UNNAMED_PERSON;
use countersign_gateway_flow::rows::{LIFTS, LiftRow, OWED_REVIEWS};
use countersign_gateway_model::{DecisionId, Name, Principal, PrincipalKind, Pseudonym, Timestamp};
use countersign_ledger_entry::body::{Finding, LiftRef, Review, Reviewed};
use countersign_ledger_entry::{Entry, PayloadRole, Receipt, Row, payload};
use countersign_policy_decide::{EntityRef, Operation};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::api::{Idempotency, LiftRecord, Page, ReviewRecord};
use crate::error::EngineError;
use crate::gates::human;
use crate::mint::MintExt as _;
use crate::org::{Org, instance_stream};
use crate::own::{Allowed, draft_of};
use crate::records::{MAX_PAGE, cursor, to_cursor};
use crate::voters::decides;
use crate::{Engine, trail};

/// Reviews that are closed, by lift id.
const REVIEWS: &str = "reviews";

/// Bounds of what a reviewer writes, in characters.
const WORDS: (usize, usize) = (1, 4000);

/// Columns of [`REVIEWS`].
#[derive(Serialize, Deserialize)]
struct ReviewRow {
    by: Pseudonym,
    at: Timestamp,
    finding: Finding,
    /// Of its entry, in the organization's stream.
    sequence: u64,
}

impl Engine {
    /// Lifts whose review is owed, oldest first; only those that are overdue, if asked.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] for those who may not list gates, and for all who are no persons.
    pub async fn reviews(
        &self,
        who: &Principal,
        overdue: bool,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<LiftRecord>, EngineError> {
        let org = self.org(who.org)?;
        self.may_read(&org, who, Operation::ListGates, EntityRef::organization(org.id), "review list")?;
        if who.kind != PrincipalKind::Person {
            return Err(EngineError::NotFound("review list"));
        }
        let (limit, now) = (limit.clamp(1, MAX_PAGE), self.now());
        let mut after = cursor(after)?;
        let mut items = Vec::new();
        loop {
            let page = org.log.scan(OWED_REVIEWS, b"", after.as_deref(), limit, false).await;
            let page = page.map_err(EngineError::ledger)?;
            let whole = page.len() == limit;
            for stored in page {
                let row: LiftRow = serde_json::from_slice(&stored.columns).map_err(EngineError::damaged)?;
                let id = lift_id(&stored.key)?;
                after = Some(stored.key);
                if overdue && row.review_by >= now {
                    continue;
                }
                items.push(self.lift_record(&org, id, row).await?);
                if items.len() == limit {
                    return Ok(Page { items, next: after.map(|key| to_cursor(&key)) });
                }
            }
            if !whole {
                return Ok(Page { items, next: None });
            }
        }
    }

    /// Lifts of an instance, in order, each with its review.
    ///
    /// # Errors
    /// [`EngineError::NotFound`].
    pub async fn lifts(
        &self,
        who: &Principal,
        id: countersign_gateway_model::InstanceId,
    ) -> Result<Vec<LiftRecord>, EngineError> {
        let org = self.org(who.org)?;
        let held = self.hold(&org, id).await?;
        self.visible(&org, who, held.fold()?)?;
        let lifts = held.fold()?.lifts().to_vec();
        drop(held);
        let mut out = Vec::with_capacity(lifts.len());
        // An agent learns that it waits, and not what let it through.
        for lift in lifts.into_iter().filter(|_| who.kind == PrincipalKind::Person) {
            let row = self.lift_row(&org, LIFTS, lift).await?;
            let row = row.ok_or_else(|| EngineError::damaged("a lift without its row"))?;
            out.push(self.lift_record(&org, lift, row).await?);
        }
        Ok(out)
    }

    /// A person who did not lift the rule says what they found. Nothing is undone by it.
    ///
    /// # Errors
    /// [`EngineError::OwnReview`] for whoever lifted it, or for whom it was done; [`EngineError::ReviewClosed`];
    /// [`EngineError::Refused`] by policy, which is asked as for the review of a recovery.
    pub async fn close_review(
        &self,
        who: Arc<Principal>,
        id: DecisionId,
        (finding, words): (Finding, String),
        key: Option<Idempotency>,
    ) -> Result<(LiftRecord, Receipt), EngineError> {
        let this = self.clone();
        Self::whole(async move { this.close_review_whole(&who, id, (finding, &words), key.as_ref()).await }).await
    }

    async fn close_review_whole(
        &self,
        who: &Principal,
        id: DecisionId,
        (finding, words): (Finding, &str),
        key: Option<&Idempotency>,
    ) -> Result<(LiftRecord, Receipt), EngineError> {
        let org = self.org(who.org)?;
        self.may_read(&org, who, Operation::ListGates, EntityRef::organization(org.id), "review")?;
        decides(&org, who)?;
        let row = self.lift_row(&org, LIFTS, id).await?.filter(LiftRow::owes_review);
        let row = row.ok_or(EngineError::NotFound("review"))?;
        if let Some(answer) = self.replayed(&org, org.own_stream(), who, key).await? {
            let at = answer.get("review").and_then(Value::as_str);
            if at != Some(id.to_string().as_str()) {
                return Err(EngineError::IdempotencyReused);
            }
            return self.closed_before(&org, id, row).await;
        }
        // One at a time, so that a review is closed once.
        let turn = org.own.lock().await;
        let owed = self.lift_row(&org, OWED_REVIEWS, id).await?.is_some();
        drop(turn);
        if !owed {
            return Err(EngineError::ReviewClosed(id));
        }
        others(&org, who, &row)?;
        let words = countersign_gateway_flow::gate::justification(words, WORDS.0, WORDS.1)?;
        let details = json!({ "operation": "recover", "review": id, "finding": finding });
        let allowed = self.authorize(who, Operation::Recover, EntityRef::organization(org.id), &details).await?;
        let Allowed { mut asked, mut beside, now, policy } = allowed;
        let sealed = payload::seal(&self.mint().salt(), words.as_bytes());
        asked.payloads.push(beside.payload(PayloadRole::Justification, sealed));
        let review = Review {
            of: Reviewed::Lift(LiftRef { instance: row.instance, lift: id }),
            person: org.person_of(who.pseudonym).unwrap_or(UNNAMED_PERSON),
            finding,
            assurance: who.assurance,
        };
        let turn = org.own.lock().await;
        if self.lift_row(&org, OWED_REVIEWS, id).await?.is_none() {
            return Err(EngineError::ReviewClosed(id));
        }
        let sequence = org.log.head(org.own_stream()).await?.map_or(0, |head| head.next_sequence);
        let closed = ReviewRow { by: who.pseudonym, at: now, finding, sequence };
        let columns = serde_json::to_vec(&closed).map_err(EngineError::damaged)?;
        beside.rows.push(Row { table: REVIEWS, key: id.as_bytes().to_vec(), columns: Some(columns) });
        beside.rows.push(Row { table: OWED_REVIEWS, key: id.as_bytes().to_vec(), columns: None });
        let answer = serde_json::to_vec(&json!({ "review": id })).map_err(EngineError::damaged)?;
        beside.idempotency = Self::own_idempotency(&org, who, key, answer);
        let draft = draft_of(who, review, &asked);
        let appended = self.append_in_turn(&org, &turn, vec![draft], beside, (now, policy)).await?;
        trail::leaves(&appended);
        drop(turn);
        let receipt = crate::answers::last_receipt(&appended)?;
        Ok((self.lift_record(&org, id, row).await?, receipt))
    }

    async fn closed_before(
        &self,
        org: &Org,
        id: DecisionId,
        row: LiftRow,
    ) -> Result<(LiftRecord, Receipt), EngineError> {
        let review = self.review_row(org, id).await?.ok_or(EngineError::NotFound("review"))?;
        let stored = org.log.stream_entries(org.own_stream(), review.sequence, 1).await.map_err(EngineError::ledger)?;
        let stored = stored.first().ok_or_else(|| EngineError::damaged("a review without its entry"))?;
        let receipt = self.receipt_at(org, stored.index).await?;
        Ok((self.lift_record(org, id, row).await?, receipt))
    }

    /// An overdue review of an earlier lift of a rule.
    pub(crate) async fn overdue_review(&self, org: &Org, rule: &Name) -> Result<Option<DecisionId>, EngineError> {
        let now = self.now();
        let mut after = None;
        loop {
            let page = org.log.scan(OWED_REVIEWS, b"", after.as_deref(), MAX_PAGE, false).await;
            let page = page.map_err(EngineError::ledger)?;
            let whole = page.len() == MAX_PAGE;
            for stored in page {
                let row: LiftRow = serde_json::from_slice(&stored.columns).map_err(EngineError::damaged)?;
                if row.rule == *rule && row.review_by < now {
                    return lift_id(&stored.key).map(Some);
                }
                after = Some(stored.key);
            }
            if !whole {
                return Ok(None);
            }
        }
    }

    async fn review_row(&self, org: &Org, id: DecisionId) -> Result<Option<ReviewRow>, EngineError> {
        let columns = org.log.view(REVIEWS, id.as_bytes()).await.map_err(EngineError::ledger)?;
        columns.map(|columns| serde_json::from_slice(&columns).map_err(EngineError::damaged)).transpose()
    }

    async fn lift_record(&self, org: &Org, id: DecisionId, row: LiftRow) -> Result<LiftRecord, EngineError> {
        let review = self.review_row(org, id).await?.map(|closed| ReviewRecord {
            by: org.label(closed.by),
            at: closed.at,
            finding: closed.finding,
        });
        let stored = org.log.stream_entries(instance_stream(row.instance), row.sequence, 1).await;
        let stored = stored.map_err(EngineError::ledger)?;
        let mut justification = None;
        if let Some(stored) = stored.first() {
            let payloads = Entry::parse(&stored.leaf)?.header.payloads;
            if let Some(said) = payloads.iter().find(|named| named.role == PayloadRole::Justification) {
                let said = self.payload(org, stored.index, &said.digest).await?;
                justification = said.map(|said| String::from_utf8_lossy(&said).into_owned());
            }
        }
        Ok(LiftRecord {
            id,
            instance: row.instance,
            gate: row.gate,
            item: row.item,
            tool: row.tool,
            rule: row.rule,
            by: org.label(row.actor),
            at: row.at,
            justification,
            review_by: row.review_by,
            overdue: review.is_none() && row.review_by < self.now(),
            review,
        })
    }
}

/// Whoever lifted the rule reviews nothing of it, nor do those who act in the instance, those whose it is, and those who
/// could not have approved what it was lifted for.
fn others(org: &Org, who: &Principal, row: &LiftRow) -> Result<(), EngineError> {
    let person = org.person_of(who.pseudonym).unwrap_or(UNNAMED_PERSON);
    if who.pseudonym == row.actor || person == row.person {
        return Err(EngineError::OwnReview("whoever lifted the rule does not review it"));
    }
    // Whoever is named by account or by person; of an account nobody knows whose it is, it may be theirs.
    let is_them = |named: &Pseudonym| *named == who.pseudonym || *named == person || human(org, *named) == person;
    if row.acting.iter().any(is_them) || !who.on_behalf_of.is_empty() {
        return Err(EngineError::OwnReview("it was lifted for you, or you act for another"));
    }
    if row.concerned.iter().any(is_them) {
        return Err(EngineError::OwnReview("the instance is yours, or you are involved in what it was lifted for"));
    }
    Ok(())
}

fn lift_id(key: &[u8]) -> Result<DecisionId, EngineError> {
    key.try_into().map(DecisionId::from_bytes).map_err(|_| EngineError::damaged("a row's key is no id"))
}
