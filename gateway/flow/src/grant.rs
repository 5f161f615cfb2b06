//! Task grants: a rule met in advance, within terms that people read, for a bounded number of uses.
//!
//! A grant is asked for by those whose work the instance is, stands at a gate under the rule that it is to meet, and is
//! given by that rule's own quorum. What stood at the gate is what is given, field by field; a use says which permit
//! rests on it and how many there are by now. [`HeldGrant::take`] is the one place where a use is weighed: for the engine
//! that looks for a grant, for the proposal that uses it, and for the fold that reads the use.
//!
//! Absent: whether the terms hold for an input (their digest is here, the terms are a payload), and whether the policy in
//! force still lets the rule be met in advance; both are asked before a use is proposed. Read next: `granting`.

use std::collections::BTreeSet;

use countersign_gateway_model::{Duration, GateId, Name, Pseudonym, Timestamp};
use countersign_ledger_entry::body::{GateItem, QuestionKind, Reservation, RuleForm, TaskGrant};

use crate::gate::{OpenGate, Vote, counting, is_met};

/// Most tools of one grant.
pub const MAX_TOOLS: usize = 16;

/// Most grants that one action may rest on.
pub const MAX_USES: usize = 8;

/// The semantics version under which grants are read.
pub(crate) const SINCE: u16 = 2;

/// What an item of a grant's gate names as its tool: the operation that voters are asked about.
pub const OPERATION: &str = "grantTask";

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
