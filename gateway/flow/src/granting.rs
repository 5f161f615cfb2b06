//! Task grants as they are proposed: asked for, given by the last vote, used by an action, taken back.
//!
//! Absent: what a grant is, and how a use is weighed (`grant`). Read next: `propose`, `decision`.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use countersign_gateway_model::{ActionId, Decision as Answer, GrantId, Name, State};
use countersign_ledger_entry::Draft;
use countersign_ledger_entry::body::{
    Cause, GateItem, GateSubject, QuestionKind, Reservation, TaskGrant, TaskGrantUse,
};

use crate::error::Illegal;
use crate::gate::{Offer, OpenGate, distinct};
use crate::grant::{HeldGrant, MAX_USES, OPERATION, approvers, malformed};
use crate::proposal::{Actor, AskGrant, Asked, ItemTerms, RevokeGrant};
use crate::reply::Reply;
use crate::scene::{Row, Scene, draft, draft_with, edge};

impl Scene<'_> {
    /// The grant, its gate, and the edge that waits at it. It confers nothing, so policy is asked of those who answer.
    pub(crate) fn ask_grant(&self, ask: AskGrant) -> Row {
        self.running()?;
        if self.now.frozen {
            return Err(Illegal::Frozen);
        }
        let AskGrant { grant, action, rule, tools, scope, count, budget, lasts, payloads, gate, item } = ask;
        let by = &self.now.by;
        if !self.instance.is_insider(by.actor) {
            return Err(Illegal::Incomplete("one whose work the instance is"));
        }
        if self.instance.grant(grant).is_some() {
            return Err(Illegal::Duplicate("grant"));
        }
        let until = self.now.at + lasts;
        let body = TaskGrant { grant, rule, tools, scope, count, budget, until, approvers: Vec::new(), revoked: false };
        if let Some(why) = malformed(&body) {
            return Err(Illegal::Incomplete(why));
        }
        if lasts.0 == 0 {
            return Err(Illegal::Incomplete("how long the grant lasts"));
        }
        if !item.rules.iter().map(|form| &form.rule).eq([&body.rule]) {
            return Err(Illegal::Incomplete("the counting form of the grant's rule"));
        }
        let tool = Some(Name::new(OPERATION).map_err(|_| Illegal::Incomplete("the operation's name"))?);
        let ItemTerms { item, rules, involved } = item;
        let question = QuestionKind::Operation;
        let item = GateItem { item, action, question, tool, digest: scope, rules, involved };
        let (gate, opened, view) = self.gate_of(gate, GateSubject::Grant, item)?;
        let asked = Asked::nothing();
        let mut offered = draft(body, by, &asked);
        offered.payloads = payloads;
        let mut opened = draft(opened, by, &asked);
        opened.payloads = view;
        let waits = edge(State::Running, State::WaitingForHuman, Cause::Gate, Some(action), false);
        Ok((vec![offered, opened, draft(waits, by, &asked)], Reply::Waiting { gate, actions: Vec::new() }))
    }

    pub(crate) fn revoke_grant(&self, revoke: &RevokeGrant) -> Row {
        if let Some((gate, offer)) = self.instance.gate().and_then(|gate| Some((gate, gate.offer.as_ref()?)))
            && offer.body.grant == revoke.grant
        {
            return self.withdraw_grant(gate, offer);
        }
        let Some(held) = self.instance.grant(revoke.grant) else {
            return Err(Illegal::UnknownGrant(revoke.grant));
        };
        if held.revoked || self.instance.state().is_terminal() {
            return Ok((Vec::new(), Reply::Nothing(self.instance.state())));
        }
        let by = &self.now.by;
        let allowed = revoke.asked.verdict.as_ref().is_some_and(|v| v.decision == Answer::Allow);
        if !allowed && !self.instance.is_insider(by.actor) && !held.is_approver(by.actor) {
            return Err(Illegal::Incomplete("policy's yes to one who neither gave the grant nor works under it"));
        }
        let body = TaskGrant { revoked: true, ..held.body.clone() };
        Ok((vec![draft_with(body, by, &revoke.asked)], Reply::Revoked(revoke.grant)))
    }

    /// What is asked for is asked for no more: its gate goes, and the instance goes on without it. As asking for it, that
    /// is no question to policy.
    fn withdraw_grant(&self, gate: &OpenGate, offer: &Offer) -> Row {
        let by = &self.now.by;
        if !gate.may_withdraw(by.actor, self.instance.created().owner) {
            return Err(Illegal::Incomplete("the one who asked for the grant, or the owner"));
        }
        let asked = Asked::nothing();
        let body = TaskGrant { revoked: true, ..offer.body.clone() };
        let (waiting, overridden, resumed) = (State::WaitingForHuman, State::Overridden, State::Resumed);
        let mut drafts = vec![draft(body, by, &asked)];
        for (from, to) in [(waiting, overridden), (overridden, resumed), (resumed, State::Running)] {
            drafts.push(draft(edge(from, to, Cause::Follow, None, false), by, &asked));
        }
        Ok((drafts, Reply::Revoked(offer.body.grant)))
    }

    /// What the last vote at a grant's gate gives.
    pub(crate) fn given(&self, gate: &OpenGate) -> Result<TaskGrant, Illegal> {
        let offer = gate.offer.as_ref().ok_or(Illegal::Incomplete("what the gate's grant is"))?;
        let until = self.now.at + offer.lasts;
        Ok(TaskGrant { approvers: approvers(gate), until, ..offer.body.clone() })
    }
}

/// The grants of a proposal as its actions use them, one after the other.
pub(crate) struct Uses<'a> {
    scene: &'a Scene<'a>,
    held: BTreeMap<GrantId, HeldGrant>,
}

impl<'a> Uses<'a> {
    pub(crate) fn of(scene: &'a Scene<'a>) -> Self {
        Self { scene, held: BTreeMap::new() }
    }

    /// The entries that say what an action's permit rests on; they stand right before it.
    pub(crate) fn by(
        &mut self,
        action: ActionId,
        grants: &[GrantId],
        (tool, reservations): (&Name, &[Reservation]),
        (by, asked): (&Actor, &Asked),
        drafts: &mut Vec<Draft>,
    ) -> Result<(), Illegal> {
        if grants.len() > MAX_USES || !distinct(grants.iter()) {
            return Err(Illegal::Duplicate("grant"));
        }
        for id in grants {
            let held = match self.held.entry(*id) {
                Entry::Occupied(held) => held.into_mut(),
                Entry::Vacant(free) => {
                    free.insert(self.scene.instance.grant(*id).ok_or(Illegal::UnknownGrant(*id))?.clone())
                }
            };
            let taken = held.take((by.actor, &by.on_behalf_of), tool, reservations, self.scene.at);
            let used = taken.map_err(|why| Illegal::GrantUnusable(*id, why))?;
            drafts.push(draft(TaskGrantUse { grant: *id, action, used }, by, asked));
        }
        Ok(())
    }
}
