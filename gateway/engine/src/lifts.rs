//! A person lifts one rule of one item without its quorum: the glass is broken, on record, and a review is owed.
//!
//! Whether the rule may be lifted, and by whom, is its data (`liftable`): of the bundle that the gate was opened under and of
//! the one in force, so that neither a change of policy nor an old gate opens a way. Policy is asked too. Weighing is as of a
//! decision. Read next: `reasking`, `decisions`, `reviews`.

use std::collections::BTreeMap;
use std::sync::Arc;

use countersign_gateway_flow::rows::{LIFTS, LiftRow};
use countersign_gateway_flow::{
    Illegal, LiftRule, Lifting, Now, OpenGate, OpenItem, Proposal, SystemReject, decide, gate as counting,
};
use countersign_gateway_model::{DecisionId, GateId, Name, PolicyDigests, Principal, Timestamp};
use countersign_ledger_entry::body::Effect;
use countersign_ledger_entry::{Entry, PayloadRole, payload};
use countersign_policy_decide::{EntityKind, EntityRef, Operation};
use serde_json::{Value, json};

use crate::api::{DecisionAnswer, Idempotency, LiftAnswer, LiftRequest};
use crate::asking::{Answered, actor_of, ask, question};
use crate::beside::Beside;
use crate::counters::{REPEATS, Reading};
use crate::deciding::Deciding;
use crate::decisions::{Decision, why_before, why_of};
use crate::demands::{check_lift_signature, demands_met};
use crate::error::EngineError;
use crate::keyring::hold_keys;
use crate::liftable::{Liftable, break_glass_of, role_for};
use crate::mint::MintExt as _;
use crate::org::{Org, instance_stream};
use crate::reasking::Settled;
use crate::resolving::Runs;
use crate::stream::{Held, four_eyes};
use crate::voters::decides;
use crate::{Engine, Snapshot};

/// What was found of the policy that a gate was opened under, before the lift is weighed under its stream's lock.
pub(crate) enum Past {
    /// It was not looked for: it is the one in force, or something else stands in this person's way.
    Unasked,
    /// It was; none: it is not to be had.
    Built(Option<Snapshot>),
}

impl Engine {
    /// A person lifts one rule of one item of an open gate.
    ///
    /// # Errors
    /// [`EngineError::NotLiftable`] where the rule's data does not let anybody; [`EngineError::ReviewOverdue`] while an
    /// earlier lift of the rule waits too long for its review; else as [`Engine::decide`].
    pub async fn break_glass(
        &self,
        who: Arc<Principal>,
        id: GateId,
        request: LiftRequest,
        key: Option<Idempotency>,
    ) -> Result<LiftAnswer, EngineError> {
        let this = self.clone();
        Self::whole(async move { Box::pin(this.lift_whole(&who, id, request, key)).await }).await
    }

    async fn lift_whole(
        &self,
        who: &Principal,
        id: GateId,
        request: LiftRequest,
        key: Option<Idempotency>,
    ) -> Result<LiftAnswer, EngineError> {
        let org = self.org(who.org)?;
        let row = self.gate_row(&org, id).await?;
        crate::trail::about(row.instance);
        let mut past = Past::Unasked;
        loop {
            let held = self.hold(&org, row.instance).await?;
            self.visible_as(&org, who, held.fold()?, "gate")?;
            decides(&org, who)?;
            if let Some(answer) = self.replayed(&org, instance_stream(row.instance), who, key.as_ref()).await? {
                return self.lifted_before(&org, &held, &answer).await;
            }
            let Some(gate) = held.fold()?.gate().filter(|g| g.gate == id).cloned() else {
                return Err(Illegal::GateClosed(id).into());
            };
            let snapshot = self.counted_snapshot(&org).await?;
            let under = self.opened_under(&org, &held, &gate).await?;
            match under.filter(|under| matches!(past, Past::Unasked) && *under != snapshot.digests()) {
                // Nobody waits for the stream while a policy is built; all is read and asked again afterwards.
                Some(under) if self.may_lift(&org, &snapshot, &held, who, (&gate, &request)).await? => {
                    drop(held);
                    past = Past::Built(self.past_policy(&org, under).await?);
                }
                _ => return Box::pin(self.lift_at(&org, held, who, (gate, request, past), key)).await,
            }
        }
    }

    /// Lifts a rule at a gate that is open, under the stream's lock.
    pub(crate) async fn lift_at(
        &self,
        org: &Arc<Org>,
        mut held: Held,
        who: &Principal,
        (gate, request, past): (OpenGate, LiftRequest, Past),
        key: Option<Idempotency>,
    ) -> Result<LiftAnswer, EngineError> {
        let snapshot = self.counted_snapshot(org).await?;
        let item = chosen(&gate, &request)?;
        let liftable = self.liftable(org, &snapshot, &held, (&gate, &request, past)).await?;
        if let Some(review) = self.overdue_review(org, &request.rule).await? {
            return Err(EngineError::ReviewOverdue { rule: request.rule, review });
        }
        let opened = self.opened(org, &snapshot, &held, &gate).await?;
        self.describe_gate(org, &held, gate.gate, gate.opened, gate.expires)?;
        let cast = self.votes_cast(org, &snapshot, &gate).await?;
        // Until the lift is durable.
        let keys = hold_keys(&org.person_keys, request.assertion.is_some()).await;
        let (mut turn, mut attempt) = (None, 1);
        let (now, review_by, done) = loop {
            let now = self.now();
            let work = Deciding {
                org,
                snapshot: &snapshot,
                who,
                gate: &gate,
                opened: &opened,
                now,
                cast: &cast,
                keys: keys.as_ref(),
            };
            let reading = org.counting.reading(&snapshot, now, turn);
            let lift = (item, &liftable, &request);
            match Box::pin(self.lift_once(&work, &mut held, lift, reading, key.as_ref())).await {
                // Others took from the same counters meanwhile. From now on they wait.
                Err(EngineError::CountersBusy) if attempt < REPEATS => attempt += 1,
                lifted => break (now, liftable.review_by(now), lifted?),
            }
            turn = Some(org.counting.turn().await);
        };
        drop(keys);
        let answer = self.decided(org, held, (&snapshot, &gate, now), done).await?;
        let owed = matches!(answer.effect, Effect::Counted | Effect::Resolving);
        if owed {
            tracing::warn!(lift = %answer.decision, rule = %request.rule, gate = %gate.gate, "a rule was lifted without its quorum");
        }
        Ok(LiftAnswer { answer, review_by: owed.then_some(review_by) })
    }

    /// Weighs a lift and commits it. With [`EngineError::CountersBusy`] nothing has changed.
    async fn lift_once(
        &self,
        work: &Deciding<'_>,
        held: &mut Held,
        lift: (&OpenItem, &Liftable, &LiftRequest),
        mut reading: Reading,
        key: Option<&Idempotency>,
    ) -> Result<Decision, EngineError> {
        let Deciding { org, snapshot, who, now, .. } = *work;
        let mut beside = Beside::default();
        let weighed = self.lift_proposal(work, held, lift, (&mut beside, &mut reading));
        self.describe_instance(org, &held.live)?;
        let (lift, runs) = weighed?;
        let id = lift.lift;
        let state = Now { at: now, frozen: org.is_frozen(held.live.team.as_ref()), by: actor_of(who) };
        let decided = decide(held.live.fold.as_ref(), Proposal::Lift(Box::new(lift)), &state)?;
        let reply = decided.reply.clone();
        let stored = serde_json::to_vec(&json!({ "lift": id, "why": why_of(&reply) })).map_err(EngineError::damaged)?;
        let stream = instance_stream(held.fold()?.id());
        beside.idempotency = key.map(|k| crate::writing::idempotency(stream, who, k, stored));
        beside.reading = Some(reading);
        let appended = self.commit_held(org, held, decided, (beside, now, snapshot)).await?;
        Ok((id, reply, runs, appended))
    }

    /// Everything that the state machine needs to weigh a lift.
    fn lift_proposal(
        &self,
        work: &Deciding<'_>,
        held: &Held,
        (item, liftable, request): (&OpenItem, &Liftable, &LiftRequest),
        (beside, reading): (&mut Beside, &mut Reading),
    ) -> Result<(LiftRule, Runs), EngineError> {
        let Deciding { org, snapshot, who, gate, opened, now, .. } = *work;
        opened.held_to(Some(request.shown_digest), false)?;
        if request.role.as_ref().is_some_and(|role| !who.roles.contains(role)) {
            return Err(EngineError::invalid("role", "you do not hold this role: name one of yours, or none"));
        }
        demands_met(snapshot, (who, now), std::slice::from_ref(&request.rule), request.assertion.is_some())?;
        if let Some(assertion) = &request.assertion {
            check_lift_signature(work, assertion, item, request)?;
        }
        let role = request.role.clone().or_else(|| role_for(&liftable.current, who));
        let answered = Self::ask_lifter(org, snapshot, who, (item, role.as_ref()), now)?;
        let groups = org.known(who.pseudonym).map(|known| known.groups).unwrap_or_default();
        let named = liftable.names(who, &groups);
        if liftable.pinned.is_none()
            && answered.allowed()
            && liftable.current.authority.admits(&who.roles, &groups, &who.teams)
        {
            // Nothing known stands in their way by now, and what would tell was not looked for. It is not their refusal.
            return Err(Illegal::AskAgain.into());
        }
        // The questions themselves are asked for the state in which what they permit will be carried out.
        self.describe_instance_in(org, &held.live, countersign_gateway_model::State::Running)?;
        let mut lifting = Lifting {
            item: item.item,
            digest: item.digest,
            rule: request.rule.clone(),
            person: org.person_of(who.pseudonym),
            role,
            teams: who.teams.clone(),
            groups,
            current: Vec::new(),
            lapsed: Vec::new(),
        };
        let stale = gate.live_items().any(|item| !opened.items.contains_key(&item.item));
        let none = BTreeMap::new();
        let mut settled = Settled::default();
        if answered.allowed() && named && !stale {
            settled = self.settle(work, held, &none, &mut lifting, reading)?;
        }
        let Settled { met, mut reasked, asked_again } = settled;
        let (mut grants, mut runs) = (Vec::new(), Vec::new());
        if met {
            (grants, runs) = self.grants(work, held, &none, &mut reasked, (&mut *beside, &mut *reading))?;
        }
        let justification = reason(snapshot, &request.rule, &request.justification)?;
        let action = json!({ "question": "breakGlass", "rule": request.rule, "item": item.item });
        let action = serde_json::to_vec(&action).map_err(EngineError::damaged)?;
        let (reference, _) = beside.add(answered.evidence(&self.mint().salt(), &action));
        let mut asked = answered.asked(Some(reference));
        let sealed = payload::seal(&self.mint().salt(), justification.as_bytes());
        asked.payloads.push(beside.payload(PayloadRole::Justification, sealed));
        asked.payloads.extend(runs.iter().map(|(_, run)| run.reference));
        let lift = LiftRule {
            lift: self.mint().decision(),
            gate: gate.gate,
            lifting,
            asked,
            named,
            justification,
            shown: request.shown_digest,
            view: opened.shown(),
            assurance: who.assurance,
            assertion: request.assertion.clone(),
            review_by: liftable.review_by(now),
            stale,
            reasked: reasked.iter().map(|again| self.keep(again, beside)).collect(),
            asked_again,
            grants,
            reject: SystemReject { decision: self.mint().decision() },
        };
        Ok((lift, runs))
    }

    /// Asks policy whether this person may lift a rule of an item.
    fn ask_lifter(
        org: &Org,
        snapshot: &Snapshot,
        who: &Principal,
        (item, role): (&OpenItem, Option<&Name>),
        now: Timestamp,
    ) -> Result<Answered, EngineError> {
        let id = Name::new(&item.item.to_string()).map_err(EngineError::damaged)?;
        let mut asked = question(who, Operation::BreakGlass, EntityRef::new(org.id, EntityKind::Item, id), now);
        asked.four_eyes = four_eyes(org);
        asked.role = role.cloned();
        Ok(ask(snapshot, org.facts(), vec![asked]))
    }

    /// Whether nothing that is known without the policy that the gate was opened under stands in this person's way: only for
    /// them is it built. A yes decides nothing: all is asked again once it is there. After a no the lift is refused, on record
    /// with its reason, unless what is asked for that record has become a yes: then they are to try again.
    async fn may_lift(
        &self,
        org: &Org,
        snapshot: &Snapshot,
        held: &Held,
        who: &Principal,
        (gate, request): (&OpenGate, &LiftRequest),
    ) -> Result<bool, EngineError> {
        let Some(glass) = break_glass_of(snapshot, &request.rule) else { return Ok(false) };
        let item = chosen(gate, request)?;
        let now = self.now();
        let groups = org.known(who.pseudonym).map(|known| known.groups).unwrap_or_default();
        let demanded =
            demands_met(snapshot, (who, now), std::slice::from_ref(&request.rule), request.assertion.is_some());
        let holds = request.role.as_ref().is_none_or(|role| who.roles.contains(role));
        if demanded.is_err() || !holds || !glass.authority.admits(&who.roles, &groups, &who.teams) {
            return Ok(false);
        }
        if self.overdue_review(org, &request.rule).await?.is_some() {
            return Ok(false);
        }
        self.describe_gate(org, held, gate.gate, gate.opened, gate.expires)?;
        let role = request.role.clone().or_else(|| role_for(glass, who));
        Ok(Self::ask_lifter(org, snapshot, who, (item, role.as_ref()), now)?.allowed())
    }

    /// The policy that a gate was opened under.
    async fn opened_under(
        &self,
        org: &Org,
        held: &Held,
        gate: &OpenGate,
    ) -> Result<Option<PolicyDigests>, EngineError> {
        let stored = org.log.stream_entries(instance_stream(held.fold()?.id()), gate.sequence, 1).await;
        let stored = stored.map_err(EngineError::ledger)?;
        let entry = stored.first().ok_or_else(|| EngineError::damaged("a gate without its entry"))?;
        Ok(Entry::parse(&entry.leaf)?.header.policy)
    }

    /// A policy of the past. It may have to be built from what the ledger keeps, which is long work and waits for readers of
    /// it.
    async fn past_policy(&self, org: &Org, digests: PolicyDigests) -> Result<Option<Snapshot>, EngineError> {
        let (policies, id) = (Arc::clone(self.policies()), org.id);
        tokio::task::spawn_blocking(move || policies.past(id, &digests)).await.map_err(EngineError::damaged)
    }

    /// What the bundle of the gate and the one in force say of lifting a rule. Where either does not let anybody, or is not
    /// to be had, nobody does. One of the past is never built here, where others wait for the stream.
    async fn liftable(
        &self,
        org: &Org,
        snapshot: &Snapshot,
        held: &Held,
        (gate, request, past): (&OpenGate, &LiftRequest, Past),
    ) -> Result<Liftable, EngineError> {
        let no = |why| EngineError::NotLiftable { rule: request.rule.clone(), why };
        let current = break_glass_of(snapshot, &request.rule).cloned();
        let current = current.ok_or_else(|| no("the policy in force does not let anybody"))?;
        let pinned = match (self.opened_under(org, held, gate).await?, past) {
            (Some(under), _) if under == snapshot.digests() => Some(Arc::clone(snapshot)),
            (Some(_), Past::Built(built)) => built,
            // Whoever may not lift it does not, whatever the other one says; `lift_proposal` asks.
            (Some(_), Past::Unasked) => return Ok(Liftable { pinned: None, current }),
            (None, _) => None,
        };
        let pinned = pinned.ok_or_else(|| no("the policy that the gate was opened under is not to be had"))?;
        let pinned = break_glass_of(&pinned, &request.rule).cloned();
        let pinned = pinned.ok_or_else(|| no("the policy that the gate was opened under does not let anybody"))?;
        Ok(Liftable { pinned: Some(pinned), current })
    }

    /// What was answered when the same key came first.
    pub(crate) async fn lifted_before(
        &self,
        org: &Org,
        held: &Held,
        answer: &Value,
    ) -> Result<LiftAnswer, EngineError> {
        let lift = answer.get("lift").and_then(Value::as_str).and_then(|id| id.parse().ok());
        let lift: DecisionId = lift.ok_or_else(|| EngineError::damaged("a stored answer without its lift"))?;
        let row = self.lift_row(org, LIFTS, lift).await?.ok_or(EngineError::NotFound("lift"))?;
        let fold = held.fold()?;
        let owed = matches!(row.effect, Effect::Counted | Effect::Resolving);
        let receipt = self.receipt_of_last(org, fold.id(), row.sequence).await?;
        let answer = DecisionAnswer {
            decision: lift,
            effect: row.effect,
            why: why_before(answer)?,
            instance: fold.id(),
            state: fold.state(),
            items: Vec::new(),
            remaining: Vec::new(),
            receipt,
        };
        Ok(LiftAnswer { answer, review_by: owed.then_some(row.review_by) })
    }

    pub(crate) async fn lift_row(
        &self,
        org: &Org,
        table: &'static str,
        lift: DecisionId,
    ) -> Result<Option<LiftRow>, EngineError> {
        let columns = org.log.view(table, lift.as_bytes()).await.map_err(EngineError::ledger)?;
        columns.map(|columns| serde_json::from_slice(&columns).map_err(EngineError::damaged)).transpose()
    }
}

/// Why a rule is lifted, as long as it lets it be.
pub(crate) fn reason(snapshot: &Snapshot, rule: &Name, text: &str) -> Result<String, EngineError> {
    let bounds = snapshot.rules().get(rule.as_str()).map(|rule| rule.justification).unwrap_or_default();
    let bound = |characters: u32| usize::try_from(characters).unwrap_or(usize::MAX);
    Ok(counting::justification(text, bound(bounds.min), bound(bounds.max))?)
}

/// The item whose rule is lifted.
fn chosen<'g>(gate: &'g OpenGate, request: &LiftRequest) -> Result<&'g OpenItem, EngineError> {
    if let Some(id) = request.item {
        return gate.item(id).ok_or_else(|| Illegal::UnknownItem(id).into());
    }
    let asks = |item: &&OpenItem| item.rules.iter().any(|form| form.rule == request.rule);
    let mut asking = gate.live_items().filter(asks);
    match (asking.next(), asking.next()) {
        (Some(item), None) => Ok(item),
        (None, _) => Err(EngineError::invalid("rule", "no item of this gate asks for it: read the gate")),
        (Some(_), Some(_)) => Err(EngineError::invalid("item", "several items ask for this rule: name one of them")),
    }
}
