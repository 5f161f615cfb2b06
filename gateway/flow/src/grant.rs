//! Task grants: a rule met in advance, within terms that people read, for a bounded number of uses.
//!
//! A grant is asked for by those whose work the instance is, stands at a gate under the rule that it is to meet, and is
//! given by that rule's own quorum. What stood at the gate is what is given, field by field; a use says which permit
//! rests on it and how many there are by now. [`HeldGrant::take`] is the one place where a use is weighed: for the engine
//! that looks for a grant, for the proposal that uses it, and for the fold that reads the use.
//!
//! Absent: whether the terms hold for an input (their digest is here, the terms are a payload), and whether the policy in
//! force still lets the rule be met in advance; both are asked before a use is proposed. Read next: `proposal`.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use countersign_gateway_model::{
    ActionId, Decision as Answer, Digest, Duration, GateId, GrantId, Name, Pseudonym, State, Timestamp,
};
use countersign_ledger_entry::body::{
    Cause, GateItem, GateSubject, QuestionKind, Reservation, RuleForm, TaskGrant, TaskGrantUse,
};
use countersign_ledger_entry::{Draft, PayloadRef};

use crate::error::Illegal;
use crate::gate::{OpenGate, Vote, counting, distinct, is_met};
use crate::proposal::{Actor, Asked, GateTerms, ItemTerms};
use crate::reply::Reply;
use crate::scene::{Row, Scene, draft, draft_with, edge};

/// Most tools of one grant.
pub const MAX_TOOLS: usize = 16;

/// Most grants that one action may rest on.
pub const MAX_USES: usize = 8;

/// The semantics version under which grants are read.
pub(crate) const SINCE: u16 = 2;

/// What an item of a grant's gate names as its tool: the operation that voters are asked about.
pub const OPERATION: &str = "grantTask";

/// Ask people to meet a rule in advance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AskGrant {
    /// The grant's id.
    pub grant: GrantId,
    /// The proposal's id.
    pub action: ActionId,
    /// The rule.
    pub rule: Name,
    /// Tools, sorted.
    pub tools: Vec<Name>,
    /// Salted digest of the terms (`payload::GRANT`).
    pub scope: Digest,
    /// Uses at most.
    pub count: u32,
    /// Amount at most; its version means nothing and is 0.
    pub budget: Option<Reservation>,
    /// How long it lasts once it is given.
    pub lasts: Duration,
    /// The terms' payload.
    pub payloads: Vec<PayloadRef>,
    /// The gate.
    pub gate: GateTerms,
    /// Its one item, with the form of exactly that rule.
    pub item: ItemTerms,
}

/// Take a grant back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokeGrant {
    /// The grant.
    pub grant: GrantId,
    /// What policy said to `revokeGrant`; to those whose work it is, and to those who gave it, a denial is an objection on
    /// record.
    pub asked: Asked,
}

/// A grant as it stands at its gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// What is asked for; nobody has approved it.
    pub body: TaskGrant,
    /// How long it lasts once it is given.
    pub lasts: Duration,
    /// Stream sequence of its entry, which names the terms.
    pub sequence: u64,
}

/// A grant that people gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldGrant {
    /// As it was given.
    pub body: TaskGrant,
    /// When.
    pub given: Timestamp,
    /// Stream sequence of the entry that asked for it, which names the terms.
    pub asked: u64,
    /// The gate at which it was given.
    pub gate: GateId,
    /// The votes that gave it.
    pub votes: Vec<Vote>,
    /// Uses so far.
    pub used: u32,
    /// What its uses took of its budget's counter.
    pub spent: u64,
    /// It was taken back.
    pub revoked: bool,
}

impl HeldGrant {
    /// What a permit of `tool` that takes `reservations` would leave of it, used once more at `at` by the account `who` on
    /// behalf of `chain`.
    ///
    /// # Errors
    /// Why the permit cannot rest on it.
    pub fn take(
        &mut self,
        (who, chain): (Pseudonym, &[Pseudonym]),
        tool: &Name,
        reservations: &[Reservation],
        at: Timestamp,
    ) -> Result<u32, &'static str> {
        // Nobody approves what they do, in advance as little as at a gate.
        if self.is_approver(who) || chain.iter().any(|behind| self.is_approver(*behind)) {
            return Err("one who gave the grant acts under it");
        }
        if self.revoked {
            return Err("the grant was taken back");
        }
        if at > self.body.until {
            return Err("the grant has expired");
        }
        if self.used >= self.body.count {
            return Err("the grant is used up");
        }
        if !self.body.tools.contains(tool) {
            return Err("the grant is not for this tool");
        }
        if let Some(budget) = &self.body.budget {
            let mut of_it = reservations.iter().filter(|one| one.counter == budget.counter);
            let taken = of_it.try_fold(0_u64, |sum, one| sum.checked_add(one.amount));
            let taken = taken.ok_or("the grant's budget is spent")?;
            // What takes nothing of the counter is not what the budget bounds.
            if taken == 0 {
                return Err("the permit takes nothing of the counter that the grant's budget is of");
            }
            let spent = self.spent.checked_add(taken).filter(|spent| *spent <= budget.amount);
            self.spent = spent.ok_or("the grant's budget is spent")?;
        }
        self.used = self.used.saturating_add(1);
        Ok(self.used)
    }

    /// How long it was given for.
    pub fn lasts(&self) -> Duration {
        self.body.until.since(self.given)
    }

    /// Whether it could be used at `at`, as far as time, count and its being taken back go.
    pub fn is_live(&self, at: Timestamp) -> bool {
        !self.revoked && at <= self.body.until && self.used < self.body.count
    }

    /// Whether `who` gave it, by account or by person.
    pub fn is_approver(&self, who: Pseudonym) -> bool {
        self.body.approvers.contains(&who) || self.votes.iter().any(|vote| vote.actor == who)
    }

    /// Whether the votes that gave it, but for those that `counts` refuses, meet a form of its rule.
    pub fn still_meets(&self, form: &RuleForm, counts: impl Fn(&Vote) -> bool) -> bool {
        let votes: Vec<Vote> = self.votes.iter().filter(|vote| counts(vote)).cloned().collect();
        form.rule == self.body.rule && is_met(form, &votes)
    }
}

/// The votes at a grant's gate that count for its rule.
pub(crate) fn votes(gate: &OpenGate) -> impl Iterator<Item = &Vote> {
    gate.live_items().flat_map(|item| item.rules.iter().flat_map(|rule| counting(rule, &item.votes)))
}

/// Whose votes they are, sorted.
pub(crate) fn approvers(gate: &OpenGate) -> Vec<Pseudonym> {
    votes(gate).map(|vote| vote.person).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Why a body cannot be that of a grant that is asked for.
pub(crate) fn malformed(grant: &TaskGrant) -> Option<&'static str> {
    let sound = !grant.revoked && grant.approvers.is_empty();
    let tools = grant.tools.is_sorted_by(|a, b| a < b) && (1..=MAX_TOOLS).contains(&grant.tools.len());
    let budget = grant.budget.as_ref().is_none_or(|budget| budget.amount > 0 && budget.version == 0);
    match (sound, tools, grant.count > 0, budget) {
        (false, ..) => Some("what is asked for is neither given nor taken back"),
        (_, false, ..) => Some("it names no tools, too many, or not in order"),
        (.., false, _) => Some("it is good for no use"),
        (.., false) => Some("its budget is none"),
        _ => None,
    }
}

/// Whether an item is the one of a grant's gate.
pub(crate) fn is_item(item: &GateItem) -> bool {
    item.question == QuestionKind::Operation && item.tool.as_ref().is_some_and(|tool| tool.as_str() == OPERATION)
}

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
