//! Task grants: rules met in advance, asked for by those whose work an instance is, listed, and taken back.
//!
//! What may be asked for is bounded by the rule's data; who may give it is asked of policy (`grantTask`), vote by vote, at a
//! gate of its own (`decisions`). Absent: what a grant is good for (`grants/terms`), and its use (`grants/uses`).

mod terms;
mod uses;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use countersign_gateway_flow::{
    AskGrant, Asked, HeldGrant, Instance, Now, Offer, OpenGate, Proposal, Reply, RevokeGrant, decide, terms_differ,
};
use countersign_gateway_model::{
    Duration, GateId, GrantId, InstanceId, Name, Principal, PrincipalKind, Pseudonym, State, Timestamp,
};
use countersign_ledger_entry::body::{GateSubject, Reservation, TaskGrant};
use countersign_ledger_entry::{PayloadRole, Receipt, payload};
use countersign_policy_decide::counters::decimal;
use countersign_policy_decide::terms::{Bound, ToolTerms};
use countersign_policy_decide::{EntityKind, EntityRef, Operation, Record};

use crate::answers::last_receipt;
use crate::api::{Idempotency, Page};
use crate::asking::{actor_of, ask, chain, question};
use crate::beside::Beside;
use crate::error::EngineError;
use crate::gates::Pending;
use crate::mint::MintExt as _;
use crate::org::{Org, instance_stream};
use crate::records::{cursor, to_cursor};
use crate::stream::{Held, four_eyes};
use crate::{Engine, Snapshot};

pub(crate) use terms::GrantTerms;
pub(crate) use uses::{Acting, Resting, Usable};

/// Longest reason of one who asks, in characters.
const MAX_REASON: usize = 2000;

/// A rule to be met in advance.
#[derive(Clone, Debug)]
pub struct GrantRequest {
    /// The rule.
    pub rule: Name,
    /// For which tools, and for which of their inputs.
    pub tools: Vec<GrantTool>,
    /// Uses at most.
    pub uses: u32,
    /// How long it lasts once it is given, in seconds.
    pub for_s: u64,
    /// How much its uses take of a counter at most.
    pub budget: Option<GrantBudget>,
    /// Why; shown to those who are asked as the asker's own words.
    pub reason: String,
}

/// One tool of a [`GrantRequest`].
#[derive(Clone, Debug)]
pub struct GrantTool {
    /// The tool.
    pub tool: Name,
    /// The one revision of its target; none: any.
    pub revision: Option<String>,
    /// By JSON pointer into the input. What is not named may not be there.
    pub input: BTreeMap<String, Bound>,
}

/// How much of a counter.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantBudget {
    /// The counter.
    pub counter: Name,
    /// Decimal text.
    pub amount: String,
}

/// A grant that people are asked for.
#[derive(Clone, Debug)]
pub struct GrantAsked {
    /// Its id.
    pub grant: GrantId,
    /// The gate at which it is asked for.
    pub gate: GateId,
    /// Where the instance stands.
    pub state: State,
    /// Proof of the last entry.
    pub receipt: Receipt,
}

/// A grant as people read it, and the agent that works under it.
#[derive(Clone, Debug)]
pub struct GrantRecord {
    /// Its id.
    pub grant: GrantId,
    /// The gate at which it is, or was, asked for.
    pub gate: GateId,
    /// The rule that it meets.
    pub rule: Name,
    /// `waiting`, `live`, `used_up`, `expired`, `stopped`, `revoked` or `ended`.
    pub state: &'static str,
    /// Why it is `stopped`: what the policy in force, or its givers' accounts, no longer are.
    pub why: Option<&'static str>,
    /// Uses at most.
    pub uses: u32,
    /// Uses so far.
    pub used: u32,
    /// When it was given.
    pub given: Option<Timestamp>,
    /// Not after.
    pub until: Option<Timestamp>,
    /// Counter, amount at most, and what its uses took.
    pub budget: Option<(Name, String, String)>,
    /// What it is good for, by tool; none if its terms were erased, or are not what is counted: then it is good for nothing.
    pub terms: Option<BTreeMap<Name, ToolTerms>>,
    /// Who gave it; for people only.
    pub approvers: Option<Vec<String>>,
}

/// What became of a request to take a grant back.
#[derive(Clone, Debug)]
pub struct GrantRevoked {
    /// It had been taken back before, or the instance has ended: nothing was done.
    pub already: bool,
    /// Proof of the entry; none where nothing was done.
    pub receipt: Option<Receipt>,
}

impl Engine {
    /// Asks people to meet a rule in advance: opens a gate of the instance.
    ///
    /// # Errors
    /// [`EngineError::NotGrantable`] and [`EngineError::GrantTooWide`] for what the rule's data does not let be granted, to
    /// whoever is no person [`EngineError::GrantRefused`] for either;
    /// [`EngineError::GrantTerms`] for terms that the tools' schemas cannot hold.
    pub async fn request_grant(
        &self,
        who: Arc<Principal>,
        id: InstanceId,
        request: GrantRequest,
        key: Option<Idempotency>,
    ) -> Result<GrantAsked, EngineError> {
        let this = self.clone();
        Self::whole(async move { Box::pin(this.ask_for_grant(&who, id, request, key)).await }).await
    }

    async fn ask_for_grant(
        &self,
        who: &Principal,
        id: InstanceId,
        request: GrantRequest,
        key: Option<Idempotency>,
    ) -> Result<GrantAsked, EngineError> {
        let org = self.org(who.org)?;
        let mut held = self.hold(&org, id).await?;
        let stream = instance_stream(id);
        let fold = held.fold()?;
        self.visible(&org, who, fold)?;
        let theirs = fold.is_insider(who.pseudonym) && !crate::changes::names::is_reserved(&fold.created().workflow);
        if !theirs {
            return Err(EngineError::NotFound("instance"));
        }
        if let Some(answer) = self.replayed(&org, stream, who, key.as_ref()).await? {
            let receipt = self.receipt_of_last(&org, id, held.fold()?.sequence()).await?;
            return asked_before(&answer, held.fold()?.state(), receipt);
        }
        if let Some(gate) = fold.gate() {
            let waiting = EngineError::Waiting(gate.gate);
            return self.asked_already(&org, who, &held, request).await?.ok_or(waiting);
        }
        if fold.created().acting_kind != PrincipalKind::Agent {
            return Err(EngineError::invalid("instance", "rules are met in advance for the work of agents only"));
        }
        let reason = request.reason.trim().to_owned();
        if reason.is_empty() || reason.chars().count() > MAX_REASON {
            return Err(EngineError::invalid("reason", format!("say why, in at most {MAX_REASON} characters")));
        }
        let snapshot = self.counted_snapshot(&org).await?;
        let (terms, budget) = GrantTerms::read(&snapshot, who.kind, request)?;
        let now = self.now();
        let mut beside = Beside::default();
        let pending = Pending {
            what: format!("meet rule {} in advance, for the agent's calls within these terms", terms.rule),
            tool: None,
            rules: vec![terms.rule.clone()],
            input: json!({ "reason": reason }),
            revision: None,
            reasons: Vec::new(),
            changed_by: None,
            rewritten: Vec::new(),
            found: Vec::new(),
            terms: terms.words(&snapshot),
        };
        let scene = self.gate_scene(&org, &snapshot, who, held.fold()?.created(), id, now);
        let (gate, mut items) = self.open_gate(&scene, GateSubject::Grant, &[pending], &mut beside)?;
        let item = items.pop().ok_or_else(|| EngineError::damaged("a gate without its item"))?;
        let (grant, gate_id) = (self.mint().grant(), gate.gate);
        let content = serde_json::to_vec(&terms).map_err(EngineError::damaged)?;
        let salt = self.mint().salt();
        let scope = payload::salted(payload::GRANT, &salt, &content);
        let reference = beside.payload(PayloadRole::Description, payload::seal(&salt, &content));
        let proposal = Proposal::AskGrant(Box::new(AskGrant {
            grant,
            action: self.mint().action(),
            tools: terms.tools.keys().cloned().collect(),
            rule: terms.rule,
            scope,
            count: terms.uses,
            budget,
            lasts: Duration::from_secs(terms.for_s),
            payloads: vec![reference],
            gate,
            item,
        }));
        let state = Now { at: now, frozen: org.is_frozen(held.live.team.as_ref()), by: actor_of(who) };
        let decided = decide(held.live.fold.as_ref(), proposal, &state)?;
        let answer = serde_json::to_vec(&json!({ "grant": grant, "gate": gate_id })).map_err(EngineError::damaged)?;
        beside.idempotency = key.as_ref().map(|k| crate::writing::idempotency(stream, who, k, answer));
        let appended = self.commit_held(&org, &mut held, decided, (beside, now, &snapshot)).await?;
        let receipt = last_receipt(&appended)?;
        Ok(GrantAsked { grant, gate: gate_id, state: held.fold()?.state(), receipt })
    }

    /// The open gate, where it stands in front of the very same request by the same account: people are asked once.
    async fn asked_already(
        &self,
        org: &Org,
        who: &Principal,
        held: &Held,
        request: GrantRequest,
    ) -> Result<Option<GrantAsked>, EngineError> {
        let fold = held.fold()?;
        let chain = who.on_behalf_of.iter().map(|delegator| delegator.pseudonym);
        let open = fold.gate().filter(|gate| gate.proposer == who.pseudonym && gate.chain.iter().copied().eq(chain));
        let Some((gate, offer)) = open.and_then(|gate| Some((gate, gate.offer.as_ref()?))) else { return Ok(None) };
        // Terms that were erased, are not what is counted, or could not be asked for any more, are those of no request.
        let Some(stands) = self.grant_terms(org, held, offer.sequence, (&offer.body, offer.lasts)).await? else {
            return Ok(None);
        };
        let same = GrantTerms::read(&self.snapshot(org.id), who.kind, request).is_ok_and(|(asked, _)| asked == stands);
        if !same {
            return Ok(None);
        }
        let receipt = self.receipt_of_last(org, fold.id(), fold.sequence()).await?;
        Ok(Some(GrantAsked { grant: offer.body.grant, gate: gate.gate, state: fold.state(), receipt }))
    }

    /// Takes a grant back: at once, for those whose work it is and for those who gave it, whatever policy says; for anybody
    /// else if policy lets them. What is only asked for is withdrawn by the one who asked, or the owner.
    ///
    /// # Errors
    /// [`EngineError::Refused`] for anybody else whom policy does not let.
    pub async fn revoke_grant(
        &self,
        who: Arc<Principal>,
        id: InstanceId,
        grant: GrantId,
        key: Option<Idempotency>,
    ) -> Result<GrantRevoked, EngineError> {
        let this = self.clone();
        Self::whole(async move { Box::pin(this.take_back(&who, id, grant, key)).await }).await
    }

    async fn take_back(
        &self,
        who: &Principal,
        id: InstanceId,
        grant: GrantId,
        key: Option<Idempotency>,
    ) -> Result<GrantRevoked, EngineError> {
        let org = self.org(who.org)?;
        let mut held = self.hold(&org, id).await?;
        let stream = instance_stream(id);
        let fold = held.fold()?;
        let offer = fold.gate().and_then(|gate| gate.offer.as_ref()).filter(|offer| offer.body.grant == grant);
        if offer.is_some() {
            return self.withdraw_grant(&org, who, held, (grant, key)).await;
        }
        let given = fold.grant(grant).cloned();
        let giver = given.as_ref().is_some_and(|given| given.is_approver(who.pseudonym));
        if !giver {
            self.visible(&org, who, fold)?;
        }
        let theirs = giver || fold.is_insider(who.pseudonym);
        if given.is_none() && theirs && self.replayed(&org, stream, who, key.as_ref()).await?.is_some() {
            // What was withdrawn is no grant any more; that it was is said again.
            let receipt = self.receipt_of_last(&org, id, held.fold()?.sequence()).await?;
            return Ok(GrantRevoked { already: false, receipt: Some(receipt) });
        }
        let given = given.ok_or(EngineError::NotFound("grant"))?;
        if self.replayed(&org, stream, who, key.as_ref()).await?.is_some() {
            let receipt = self.receipt_of_last(&org, id, held.fold()?.sequence()).await?;
            return Ok(GrantRevoked { already: false, receipt: Some(receipt) });
        }
        let giver = given.votes.iter().find_map(|vote| org.known(vote.actor));
        let giver = giver.ok_or_else(|| EngineError::damaged("nobody is known who gave the grant"))?.id;
        self.describe_grant(&org, &held, grant, giver)?;
        let snapshot = self.counted_snapshot(&org).await?;
        let now = self.now();
        let mut asked = question(who, Operation::RevokeGrant, grant_entity(&org, grant)?, now);
        asked.four_eyes = four_eyes(&org);
        let details = json!({ "question": Operation::RevokeGrant.as_str(), "instance": id, "grant": grant });
        let answered = if theirs {
            let answered = ask(&snapshot, org.facts(), chain(who, asked));
            let mut beside = Beside::default();
            let action = serde_json::to_vec(&details).map_err(EngineError::damaged)?;
            let (reference, _) = beside.add(answered.evidence(&self.mint().salt(), &action));
            Ok((answered.asked(Some(reference)), beside, now))
        } else {
            // A refusal is of the organization's stream: it says nothing about the instance.
            let allowed = self.authorize_question(&org, who, asked, &details).await;
            allowed.map(|allowed| (allowed.asked, allowed.beside, allowed.now))
        };
        if held.fold()?.gate().is_none() {
            org.forget_described(&held.cell);
        }
        let (asked, mut beside, now) = answered?;
        beside.urgent = true;
        let proposal = Proposal::RevokeGrant(Box::new(RevokeGrant { grant, asked }));
        let state = Now { at: now, frozen: false, by: actor_of(who) };
        let decided = decide(held.live.fold.as_ref(), proposal, &state)?;
        if let Reply::Nothing(_) = decided.reply {
            return Ok(GrantRevoked { already: true, receipt: None });
        }
        let answer = serde_json::to_vec(&json!({ "grant": grant })).map_err(EngineError::damaged)?;
        beside.idempotency = key.as_ref().map(|k| crate::writing::idempotency(stream, who, k, answer));
        let appended = self.commit_held(&org, &mut held, decided, (beside, now, &snapshot)).await?;
        Ok(GrantRevoked { already: false, receipt: Some(last_receipt(&appended)?) })
    }

    /// Withdraws what is asked for: its gate goes, and the instance goes on without it. By the one who asked, or the owner;
    /// to anybody else there is nothing yet to take back.
    async fn withdraw_grant(
        &self,
        org: &Arc<Org>,
        who: &Principal,
        mut held: Held,
        (grant, key): (GrantId, Option<Idempotency>),
    ) -> Result<GrantRevoked, EngineError> {
        let fold = held.fold()?;
        self.visible(org, who, fold)?;
        let asker = fold.gate().is_some_and(|gate| gate.proposer == who.pseudonym);
        if !asker && fold.created().owner != Some(who.pseudonym) {
            return Err(EngineError::NotFound("grant"));
        }
        let (stream, now, snapshot) = (instance_stream(fold.id()), self.now(), self.snapshot(org.id));
        let proposal = Proposal::RevokeGrant(Box::new(RevokeGrant { grant, asked: Asked::nothing() }));
        let state = Now { at: now, frozen: false, by: actor_of(who) };
        let decided = decide(held.live.fold.as_ref(), proposal, &state)?;
        let answer = serde_json::to_vec(&json!({ "grant": grant })).map_err(EngineError::damaged)?;
        let idempotency = key.as_ref().map(|k| crate::writing::idempotency(stream, who, k, answer));
        let beside = Beside { urgent: true, idempotency, ..Beside::default() };
        let appended = self.commit_held(org, &mut held, decided, (beside, now, &snapshot)).await?;
        Ok(GrantRevoked { already: false, receipt: Some(last_receipt(&appended)?) })
    }

    /// The grants of an instance, in the order in which they were asked for: what was given, whatever became of it, and what
    /// is asked for now.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] for those who may not see the instance.
    pub async fn task_grants(
        &self,
        who: &Principal,
        id: InstanceId,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<GrantRecord>, EngineError> {
        let after = cursor(after)?;
        let beyond = |grant: GrantId| after.as_ref().is_none_or(|after| grant.as_bytes().as_slice() > after.as_slice());
        let org = self.org(who.org)?;
        let held = self.hold(&org, id).await?;
        let fold = held.fold()?;
        self.visible(&org, who, fold)?;
        let snapshot = self.snapshot(org.id);
        let now = self.now().max(fold.latest());
        let mut records = Vec::new();
        // As it counts for the one who acts; on whose behalf, a later proposal may say anew.
        let acting = Acting { who: fold.created().acting, chain: fold.chain() };
        let offered = fold.gate().and_then(|gate| Some((gate, gate.offer.as_ref()?)));
        for given in fold.grants().filter(|given| beyond(given.body.grant)).take(limit.saturating_add(1)) {
            let terms = self.grant_terms(&org, &held, given.asked, (&given.body, given.lasts())).await?;
            let (state, why) = match uses::stopped(&org, &snapshot, fold, given, (acting, now)) {
                _ if given.revoked => ("revoked", None),
                _ if fold.state().is_terminal() => ("ended", None),
                _ if now > given.body.until => ("expired", None),
                _ if given.used >= given.body.count => ("used_up", None),
                Some(why) => ("stopped", Some(why)),
                None => ("live", None),
            };
            // Names of people are for people.
            let approvers = (who.kind == PrincipalKind::Person)
                .then(|| given.votes.iter().map(|vote| org.label(vote.actor)).collect());
            records.push(GrantRecord {
                grant: given.body.grant,
                gate: given.gate,
                rule: given.body.rule.clone(),
                state,
                why: why.filter(|_| who.kind == PrincipalKind::Person),
                uses: given.body.count,
                used: given.used,
                given: Some(given.given),
                until: Some(given.body.until),
                budget: given.body.budget.as_ref().map(|budget| spent(budget, given.spent)),
                terms: terms.map(|terms| terms.tools),
                approvers,
            });
        }
        // Its id was made after theirs.
        if let Some((gate, offer)) = offered.filter(|(_, offer)| beyond(offer.body.grant)) {
            let terms = self.grant_terms(&org, &held, offer.sequence, (&offer.body, offer.lasts)).await?;
            records.push(GrantRecord {
                grant: offer.body.grant,
                gate: gate.gate,
                rule: offer.body.rule.clone(),
                state: "waiting",
                why: None,
                uses: offer.body.count,
                used: 0,
                given: None,
                until: None,
                budget: offer.body.budget.as_ref().map(|budget| spent(budget, 0)),
                terms: terms.map(|terms| terms.tools),
                approvers: None,
            });
        }
        let more = records.len() > limit;
        records.truncate(limit);
        let next = records.last().filter(|_| more).map(|last| to_cursor(last.grant.as_bytes()));
        Ok(Page { items: records, next })
    }

    /// Tells policy of a grant that `giver` gives, gave, or is looked at for.
    pub(crate) fn describe_grant(
        &self,
        org: &Org,
        held: &Held,
        grant: GrantId,
        giver: Name,
    ) -> Result<(), EngineError> {
        let acting = held.fold()?.created().acting;
        let agent = org.known(acting).ok_or_else(|| EngineError::damaged("nobody is known who acts"))?.id;
        let id = Name::new(&grant.to_string()).map_err(EngineError::damaged)?;
        let record = Record::task_grant(org.id, id, giver, agent, self.now());
        org.describe(&held.cell, record).map_err(EngineError::damaged)
    }

    /// The grant that a gate stands in front of, described as one that `giver` would give.
    pub(crate) fn describe_offer(
        &self,
        org: &Org,
        held: &Held,
        gate: &OpenGate,
        giver: Name,
    ) -> Result<Option<EntityRef>, EngineError> {
        let Some(offer) = &gate.offer else { return Ok(None) };
        self.describe_grant(org, held, offer.body.grant, giver)?;
        grant_entity(org, offer.body.grant).map(Some)
    }

    /// The terms of a grant, from the entry that asked for it; none if they were erased, or are not what is counted.
    pub(crate) async fn grant_terms(
        &self,
        org: &Org,
        held: &Held,
        sequence: u64,
        (grant, lasts): (&TaskGrant, Duration),
    ) -> Result<Option<GrantTerms>, EngineError> {
        let stream = instance_stream(held.fold()?.id());
        let stored = org.log.stream_entries(stream, sequence, 1).await.map_err(EngineError::ledger)?;
        for entry in stored {
            let header = countersign_ledger_entry::Entry::parse(&entry.leaf)?.header;
            for named in header.payloads.iter().filter(|named| named.role == PayloadRole::Description) {
                let Some((salt, content)) = self.salted_payload(org, entry.index, &named.digest).await? else {
                    continue;
                };
                if payload::salted(payload::GRANT, &salt, &content) == grant.scope {
                    if let Some(why) = terms_differ(&content, grant, lasts) {
                        tracing::warn!(grant = %grant.grant, why, "a grant counts for nothing: it is not what people read");
                        return Ok(None);
                    }
                    return serde_json::from_slice(&content).map(Some).map_err(EngineError::damaged);
                }
            }
        }
        Ok(None)
    }
}

/// What is asked for, as a thing that `giver` would give: for those who ask who may, before anybody votes. It has a name of its
/// own, so that whoever decides meanwhile is asked about theirs; the caller forgets it.
pub(crate) fn supposed(
    org: &Org,
    fold: &Instance,
    offer: &Offer,
    (account, giver): (Pseudonym, &Name),
    now: Timestamp,
) -> Result<EntityRef, EngineError> {
    let agent = org.known(fold.created().acting).ok_or_else(|| EngineError::damaged("nobody is known who acts"))?.id;
    let id = Name::new(&format!("{}:{account}", offer.body.grant)).map_err(EngineError::damaged)?;
    let record = Record::task_grant(org.id, id, giver.clone(), agent, now);
    let entity = record.entity.clone();
    org.entities.put(record).map_err(EngineError::damaged)?;
    Ok(entity)
}

/// A grant as policy names it.
fn grant_entity(org: &Org, grant: GrantId) -> Result<EntityRef, EngineError> {
    let name = Name::new(&grant.to_string()).map_err(EngineError::damaged)?;
    Ok(EntityRef::new(org.id, EntityKind::TaskGrant, name))
}

fn spent(budget: &Reservation, spent: u64) -> (Name, String, String) {
    (budget.counter.clone(), decimal(i128::from(budget.amount)), decimal(i128::from(spent)))
}

fn asked_before(answer: &Value, state: State, receipt: Receipt) -> Result<GrantAsked, EngineError> {
    #[derive(serde::Deserialize)]
    struct Stored {
        grant: GrantId,
        gate: GateId,
    }
    let Stored { grant, gate } = serde_json::from_value(answer.clone()).map_err(EngineError::damaged)?;
    Ok(GrantAsked { grant, gate, state, receipt })
}

/// Whether what is asked for could still be given: within the rule of today, and for tools as they are today.
pub(crate) fn offer_stands(snapshot: &Snapshot, terms: Option<&GrantTerms>) -> bool {
    terms.is_some_and(|terms| terms.check(snapshot).is_ok())
}

/// Whether a grant is of an agent's work at all: what has none cannot be used.
pub(crate) fn any_live(fold: &Instance, now: Timestamp) -> bool {
    fold.grants().any(|given: &HeldGrant| given.is_live(now))
}
