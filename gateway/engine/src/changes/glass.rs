//! A shadow window cut short: one person ends it, opens the gate and lifts the rule that stands in front of the activation.
//!
//! Checks, tests and who would be locked out are held to as ever. What can be known beforehand is looked at beforehand, and
//! policy is asked about the item that the gate will have: whom it does not let, ends no window. Where the lift is not
//! effective all the same, or a crash comes in between, the proposal fails. Read next: `lifts`.

use std::collections::BTreeSet;
use std::sync::Arc;

use countersign_gateway_model::{Duration, InstanceId, Name, Principal, PrincipalKind};
use countersign_ledger_entry::body::Created;
use countersign_policy_decide::rules::Authority;
use countersign_policy_decide::{EntityRef, GateFacts, Operation, Record};
use serde_json::json;

use crate::api::{Idempotency, LiftAnswer, LiftRequest, PolicyGlass};
use crate::asking::{ask, chain, question};
use crate::changes::drive::AskedFor;
use crate::changes::names::name;
use crate::changes::row::{ChangeRow, Stage};
use crate::demands::demands_met;
use crate::error::EngineError;
use crate::gates::involved;
use crate::liftable::{break_glass_of, role_for};
use crate::lifts::Past;
use crate::lifts::reason;
use crate::org::{Org, instance_stream};
use crate::stream::instance_name;
use crate::voters::decides;
use crate::{Engine, Snapshot};

impl Engine {
    /// Cuts the shadow window of a proposal short and lifts a rule that its activation asks for.
    ///
    /// # Errors
    /// [`EngineError::Waiting`] where people are asked already: the glass is broken at that gate;
    /// [`EngineError::ConfirmDiff`] until the request names the difference; else as [`Engine::break_glass`].
    pub async fn break_glass_policy(
        &self,
        who: Arc<Principal>,
        id: InstanceId,
        request: PolicyGlass,
        key: Option<Idempotency>,
    ) -> Result<LiftAnswer, EngineError> {
        let this = self.clone();
        Self::whole(async move { Box::pin(this.cut_window(&who, id, request, key)).await }).await
    }

    async fn cut_window(
        &self,
        who: &Principal,
        id: InstanceId,
        request: PolicyGlass,
        key: Option<Idempotency>,
    ) -> Result<LiftAnswer, EngineError> {
        let org = self.org(who.org)?;
        self.may_read(&org, who, Operation::ReadPolicy, EntityRef::organization(org.id), "policy proposal")?;
        let stored = self.policy_row(&org, id).await?;
        decides(&org, who)?;
        if let Some(answer) = self.replayed(&org, instance_stream(id), who, key.as_ref()).await? {
            let held = self.hold(&org, id).await?;
            return self.lifted_before(&org, &held, &answer).await;
        }
        let over = || EngineError::invalid("id", "its shadow window is over: read the proposal");
        let change = org.changes.get(id).ok_or_else(over)?;
        let turn = change.turn.lock().await;
        let mut row = change.row();
        if let (Stage::Asked, Some(gate)) = (row.stage, row.gate) {
            return Err(EngineError::Waiting(gate));
        }
        if row.stage != Stage::Shadowing || self.now() >= row.window_ends {
            return Err(over());
        }
        if org.is_frozen(None) {
            return Err(countersign_gateway_flow::Illegal::Frozen.into());
        }
        if request.diff_digest != stored.diff {
            let diff = org.log.blob(&stored.diff).await.map_err(EngineError::ledger)?.unwrap_or_default();
            let diff = String::from_utf8_lossy(&diff).into_owned();
            return Err(EngineError::ConfirmDiff { digest: stored.diff, diff });
        }
        self.may_cut(&org, who, &row, &request).await?;
        row.window_ends = self.now();
        row.cut = true;
        let held = match self.ask_for(&org, &change, row).await? {
            AskedFor::Held(held) => held,
            AskedFor::Not(_) => return Err(over()),
        };
        // Crash here: a gate without its lift. The next start finds it so, and the proposal fails.
        drop(turn);
        let gate = held.fold()?.gate().cloned();
        let gate = gate.ok_or_else(|| EngineError::damaged("a gate that was opened is not there"))?;
        let snapshot = self.counted_snapshot(&org).await?;
        let opened = self.opened(&org, &snapshot, &held, &gate).await?;
        let lift = LiftRequest {
            rule: request.rule,
            item: None,
            justification: request.justification,
            // What was read is the difference; the view says it again, with what the window has shown so far.
            shown_digest: opened.shown(),
            role: request.role,
            assertion: None,
        };
        let lifted = Box::pin(self.lift_at(&org, *held, who, (gate, lift, Past::Unasked), key)).await;
        // Where nothing was lifted, it fails now and not at the next turn of the clock.
        if let Err(error) = Box::pin(self.advance(&org, id)).await {
            tracing::warn!(%error, change = %id, "a change whose window was cut short waits to be taken further");
        }
        lifted
    }

    /// What can be known before the window is cut: whether the activation asks for the rule, whether its data names this person
    /// and policy lets them, and whether the lift has what the rule wants.
    async fn may_cut(
        &self,
        org: &Arc<Org>,
        who: &Principal,
        row: &ChangeRow,
        request: &PolicyGlass,
    ) -> Result<(), EngineError> {
        let no = |why| EngineError::NotLiftable { rule: request.rule.clone(), why };
        let snapshot = self.counted_snapshot(org).await?;
        let glass = break_glass_of(&snapshot, &request.rule);
        let glass = glass.ok_or_else(|| no("the policy in force does not let anybody"))?;
        if request.role.as_ref().is_some_and(|role| !who.roles.contains(role)) {
            return Err(EngineError::invalid("role", "you do not hold this role: name one of yours, or none"));
        }
        let groups = org.known(who.pseudonym).map(|known| known.groups).unwrap_or_default();
        if !glass.authority.admits(&who.roles, &groups, &who.teams) {
            return Err(no("its data names others"));
        }
        let person = org.person_of(who.pseudonym);
        if who.pseudonym == row.author || person.is_none() || person == org.person_of(row.author) {
            return Err(no("the proposal is yours, or whose account yours is is not known"));
        }
        if snapshot.rules().get(request.rule.as_str()).is_some_and(|rule| rule.demand.assertion) {
            return Err(no("it demands a signature, and there is no gate yet to sign for: wait for its gate"));
        }
        demands_met(&snapshot, (who, self.now()), std::slice::from_ref(&request.rule), false)?;
        reason(&snapshot, &request.rule, &request.justification)?;
        if let Some(review) = self.overdue_review(org, &request.rule).await? {
            return Err(EngineError::ReviewOverdue { rule: request.rule.clone(), review });
        }
        // As it will be asked once the window is over.
        let over = ChangeRow { window_ends: self.now(), ..row.clone() };
        self.describe_row(org, &over)?;
        let asked = self.question_of(org, &Self::author(org, row)?, row, Operation::ActivatePolicy)?;
        let answered = ask(&snapshot, org.facts(), chain(&Self::author(org, row)?, asked));
        self.describe_row(org, row)?;
        let asks = answered.verdict.decision == countersign_gateway_model::Decision::NeedsApproval;
        if !asks || !answered.verdict.rules.contains(&request.rule) {
            return Err(no("its activation does not ask for it"));
        }
        let rules = answered.verdict.rules.clone();
        let held = self.hold(org, row.instance).await?;
        let created = held.fold()?.created().clone();
        // The refusal goes to another stream, whose turn nobody waits for with this one in hand.
        drop(held);
        let facts = self.supposed_facts(org, &snapshot, row, (&created, &rules))?;
        let role = request.role.clone().or_else(|| role_for(glass, who));
        self.policy_lets(org, who, (facts, role, &request.rule)).await
    }

    /// What policy would be told of the gate that the activation would open now.
    fn supposed_facts(
        &self,
        org: &Org,
        snapshot: &Snapshot,
        row: &ChangeRow,
        (created, rules): (&Created, &[Name]),
    ) -> Result<GateFacts, EngineError> {
        let author = Self::author(org, row)?;
        let asked = || rules.iter().filter_map(|name| snapshot.rules().get(name.as_str()));
        let union = |pick: fn(&Authority) -> &[Name]| {
            let all: BTreeSet<Name> = asked().flat_map(|rule| pick(&rule.authority)).cloned().collect();
            all.into_iter().collect()
        };
        let known = |account| org.known(account);
        let accountable = known(created.accountable).map(|known| known.id);
        let key = |person: &_| known(*person).and_then(|known| known.person_key);
        let chain: Vec<_> = author.on_behalf_of.iter().map(|delegator| delegator.pseudonym).collect();
        let involved: BTreeSet<Name> =
            involved(org, created, (author.pseudonym, &chain), rules, snapshot).iter().filter_map(key).collect();
        let now = self.now();
        Ok(GateFacts {
            instance: instance_name(row.instance)?,
            gate: name(&format!("supposed:{}", row.instance))?,
            rules: rules.to_vec(),
            roles: union(|authority| &authority.roles),
            groups: union(|authority| &authority.groups),
            teams: union(|authority| &authority.teams),
            involved: involved.into_iter().collect(),
            initiator: known(created.initiator)
                .filter(|known| known.kind == PrincipalKind::Person)
                .map(|known| known.id),
            accountable: accountable.ok_or_else(|| EngineError::damaged("the accountable person is not known"))?,
            agent: known(created.acting).filter(|known| known.kind == PrincipalKind::Agent).map(|known| known.id),
            tool: None,
            open: true,
            opened_at: now,
            expires_at: asked().filter_map(|rule| rule.timeout_s).min().map(|s| now + Duration::from_secs(s)),
            escalation: 0,
        })
    }

    /// Asks policy about a supposed item of a supposed gate. A no is recorded; of a yes the lift itself is the record.
    async fn policy_lets(
        &self,
        org: &Arc<Org>,
        who: &Principal,
        (facts, role, rule): (GateFacts, Option<Name>, &Name),
    ) -> Result<(), EngineError> {
        let now = self.now();
        let gate = Record::gate(org.id, facts.gate.clone(), &GateFacts { involved: Vec::new(), ..facts.clone() }, now);
        let item = Record::item(org.id, facts.gate.clone(), &facts, now);
        let supposed = [item.entity.clone(), gate.entity.clone()];
        let mut asked = question(who, Operation::BreakGlass, item.entity.clone(), now);
        asked.role = role;
        for record in [gate, item] {
            org.entities.put(record).map_err(EngineError::damaged)?;
        }
        let details = json!({ "operation": "breakGlass", "rule": rule, "proposal": facts.instance });
        let allowed = self.authorize_question(org, who, asked, &details).await;
        for entity in &supposed {
            org.entities.forget(entity);
        }
        allowed.map(drop)
    }
}
