//! Task grants, replayed: what was asked for is what was given, and no permit rests on more than that.

use countersign_gateway_model::{Decision as Answer, GrantId, State};
use countersign_ledger_entry::body::{Permit, TaskGrant, TaskGrantUse};

use super::step::{Batch, Reading, Resting, Step};
use super::{Change, Instance};
use crate::error::EvolveError;
use crate::gate::{Offer, OpenGate};
use crate::grant::{self, HeldGrant, MAX_USES};

impl Instance {
    /// Something is asked for in advance: its gate follows.
    pub(super) fn ask_grant(&mut self, now: Reading<'_>, body: &TaskGrant) -> Result<(), EvolveError> {
        known(now)?;
        now.ensure(self.core.state == State::Running, "a grant is asked for in RUNNING")?;
        now.ensure(now.header.verdict.is_none(), "policy is asked of those who answer")?;
        now.ensure(self.is_insider(now.header.actor), "it is asked for by one whose work the instance is not")?;
        now.ensure(!self.grants.contains_key(&body.grant), "the grant was given before")?;
        if let Some(why) = grant::malformed(body) {
            return Err(now.unlawful(why));
        }
        let lasts = body.until.since(now.header.claimed);
        now.ensure(body.until > now.header.claimed, "it would never be good for anything")?;
        self.step = Step::Offer(Box::new(Offer { body: body.clone(), lasts, sequence: now.header.sequence }));
        Ok(())
    }

    /// The last vote gave it: the very thing that stood at the gate, by those who voted there.
    pub(super) fn given(&mut self, now: Reading<'_>, gate: &OpenGate, body: &TaskGrant) -> Result<(), EvolveError> {
        let Some(offer) = &gate.offer else { return Err(now.unlawful("no grant was asked for")) };
        let until = now.header.claimed + offer.lasts;
        let asked = TaskGrant { approvers: grant::approvers(gate), until, ..offer.body.clone() };
        now.ensure(*body == asked, "it is not what was approved")?;
        let held = HeldGrant {
            body: asked,
            given: now.header.claimed,
            asked: offer.sequence,
            gate: gate.gate,
            votes: grant::votes(gate).cloned().collect(),
            used: 0,
            spent: 0,
            revoked: false,
        };
        self.put_grant(held);
        self.step = Step::Whole;
        Ok(())
    }

    pub(super) fn revoke_grant(&mut self, now: Reading<'_>, body: &TaskGrant) -> Result<(), EvolveError> {
        known(now)?;
        let offered = self.gate.as_ref().and_then(|gate| gate.offer.as_ref());
        if offered.is_some_and(|offer| offer.body.grant == body.grant) {
            return self.withdraw_grant(now, body);
        }
        let Some(held) = self.grants.get(&body.grant) else { return Err(now.unlawful("there is no such grant")) };
        now.ensure(!held.revoked, "the grant was taken back before")?;
        let lawful = TaskGrant { revoked: true, ..held.body.clone() };
        now.ensure(*body == lawful, "it takes back something else than was given")?;
        let who = now.header.actor;
        let theirs = self.is_insider(who) || held.is_approver(who);
        now.ensure(theirs || now.answer() == Some(Answer::Allow), "neither its giver nor policy takes it back")?;
        let held = HeldGrant { revoked: true, ..held.clone() };
        self.put_grant(held);
        self.step = Step::Whole;
        Ok(())
    }

    /// What is asked for is asked for no more: the edges that lead on without it follow.
    fn withdraw_grant(&mut self, now: Reading<'_>, body: &TaskGrant) -> Result<(), EvolveError> {
        now.ensure(self.core.state == State::WaitingForHuman, "the instance is not waiting")?;
        now.ensure(now.header.verdict.is_none(), "policy is asked of those who answer")?;
        let owner = self.created.owner;
        let Some(gate) = &self.gate else { return Err(now.unlawful("no gate is open")) };
        let theirs = gate.may_withdraw(now.header.actor, owner);
        now.ensure(theirs, "neither the one who asked for it nor the owner withdraws it")?;
        let offered = gate.offer.as_ref().map(|offer| TaskGrant { revoked: true, ..offer.body.clone() });
        now.ensure(offered.as_ref() == Some(body), "it withdraws something else than was asked for")?;
        self.keep_gate();
        if let Some(gate) = &mut self.gate {
            gate.offer = None;
        }
        self.step = Step::Withdrawn;
        Ok(())
    }

    /// A use: the permit of its action follows, or another use for it.
    pub(super) fn grant_use(
        &mut self,
        now: Reading<'_>,
        used: &TaskGrantUse,
        mut batch: Batch,
    ) -> Result<(), EvolveError> {
        known(now)?;
        now.allowed()?;
        match &mut batch.uses {
            None => {
                let uses = vec![(used.grant, used.used)];
                batch.uses = Some(Box::new(Resting { action: used.action, uses, verdict: now.verdict() }));
            }
            Some(resting) => {
                now.ensure(resting.action == used.action, "no permit rests on the use before it")?;
                now.ensure(resting.uses.len() < MAX_USES, "a permit rests on too many grants")?;
                now.ensure(
                    resting.uses.iter().all(|(grant, _)| *grant != used.grant),
                    "a grant is used once an action",
                )?;
                now.same(resting.verdict.as_ref())?;
                resting.uses.push((used.grant, used.used));
            }
        }
        self.step = Step::Batch(batch);
        Ok(())
    }

    /// The permit that uses stand before: each grant must have room for it.
    pub(super) fn rest_on(&mut self, now: Reading<'_>, permit: &Permit, resting: &Resting) -> Result<(), EvolveError> {
        now.ensure(resting.action == permit.action, "it does not rest on the uses before it")?;
        now.same(resting.verdict.as_ref())?;
        for (grant, used) in &resting.uses {
            let Some(mut held) = self.grants.get(grant).cloned() else {
                return Err(now.unlawful("it rests on a grant that nobody gave"));
            };
            let by = (now.header.actor, now.header.on_behalf_of.as_slice());
            let count = held.take(by, &permit.tool, &permit.reservations, now.at).map_err(|why| now.unlawful(why))?;
            now.ensure(count == *used, "a use is not counted as the next one")?;
            self.put_grant(held);
        }
        Ok(())
    }

    fn put_grant(&mut self, held: HeldGrant) {
        let id = held.body.grant;
        let was = self.grants.insert(id, held);
        self.undo.permits.push(Change::Grant(id, was.map(Box::new)));
    }
}

/// What may be read of an instance's grants.
impl Instance {
    /// What people gave in advance, whatever became of it.
    pub fn grants(&self) -> impl Iterator<Item = &HeldGrant> {
        self.grants.values()
    }

    /// A grant that people gave.
    pub fn grant(&self, grant: GrantId) -> Option<&HeldGrant> {
        self.grants.get(&grant)
    }
}

/// Grants came with a semantics version.
fn known(now: Reading<'_>) -> Result<(), EvolveError> {
    now.ensure(now.header.semantics >= grant::SINCE, "there are no task grants under this semantics version")
}
