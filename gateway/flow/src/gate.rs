//! Votes and counting: who may decide, for which rules a vote counts, and when a gate's rules are met. A rule that was
//! lifted without its quorum counts as met, whatever the votes.
//!
//! One function counts, for a vote that is being weighed and for one that is being replayed: the ballot is first made
//! into the decision that would be recorded. Who is eligible is policy's to say; how votes add up is decided here, so
//! that the counting of a rule which no longer exists does not depend on the bundle that replaced it.

use std::collections::BTreeSet;

use countersign_gateway_model::{
    ActionId, DecisionId, Digest, Duration, GateId, ItemId, Name, PermitId, Pseudonym, Timestamp,
};
use countersign_ledger_entry::body::{
    ClearedItem, DecidedItem, Decision, DecisionKind, GateEventKind, GateSubject, ItemRules, Lift, OnTimeout,
    QuestionKind, RuleForm, TaskGrant,
};

use crate::error::Illegal;
use crate::reply::WhyNot;

/// The person behind every account whose human being is not known: such accounts count as the same person.
pub const UNNAMED_PERSON: Pseudonym = Pseudonym::from_bytes([0xff; 16]);

/// A gate that is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenGate {
    /// Its id.
    pub gate: GateId,
    /// What it stands in front of.
    pub subject: GateSubject,
    /// Stream sequence of the gate's entry.
    pub sequence: u64,
    /// Stream sequence of the entry that holds the approval view as it is now: the gate's own, or that of the last
    /// counted OVERRIDE.
    pub view: u64,
    /// When it was opened.
    pub opened: Timestamp,
    /// When silence is acted on.
    pub expires: Option<Timestamp>,
    /// What silence does.
    pub on_timeout: OnTimeout,
    /// The start inside which the proposer runs.
    pub caller: Option<PermitId>,
    /// Who proposed.
    pub proposer: Pseudonym,
    /// On whose behalf, outermost first.
    pub chain: Vec<Pseudonym>,
    /// The items.
    pub items: Vec<OpenItem>,
    /// Actions of the same batch that need nobody.
    pub cleared: Vec<ClearedItem>,
    /// The grant that is asked for, where that is what it stands in front of.
    pub offer: Option<Box<Offer>>,
    /// Steps of reminders and escalations that have fired.
    pub(crate) fired: BTreeSet<(bool, Option<Name>, Option<u16>)>,
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

/// One item of an open gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenItem {
    /// Its id.
    pub item: ItemId,
    /// The proposal.
    pub action: ActionId,
    /// What is asked.
    pub question: QuestionKind,
    /// The tool, for actions.
    pub tool: Option<Name>,
    /// Digest of what would be permitted; an OVERRIDE replaces it.
    pub digest: Digest,
    /// Stream sequence of the entry that holds the question to this digest: the gate's own, or that of the OVERRIDE.
    pub asked: u64,
    /// The rules, in counting form, sorted by name.
    pub rules: Vec<RuleForm>,
    /// Persons who may not approve or override it.
    pub involved: Vec<Pseudonym>,
    /// Authors of its overrides; they may not approve it.
    pub authors: Vec<Pseudonym>,
    /// Votes that count, at most one a person.
    pub votes: Vec<Vote>,
    /// Rules that were lifted without their quorum: they count as met.
    pub lifted: Vec<Lifted>,
    /// Whether an OVERRIDE replaced the digest.
    pub replaced: bool,
    /// Whether an OVERRIDE dropped it: it stands in nobody's way and confers nothing.
    pub dropped: bool,
}

/// One person's vote on one item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vote {
    /// The decision that cast it.
    pub decision: DecisionId,
    /// The human being.
    pub person: Pseudonym,
    /// The account.
    pub actor: Pseudonym,
    /// When it was cast.
    pub at: Timestamp,
    /// Whether it is the vote of the author of an override.
    pub author: bool,
    /// The role used.
    pub role: Option<Name>,
    /// Teams.
    pub teams: Vec<Name>,
    /// Groups.
    pub groups: Vec<Name>,
    /// Rules that it counts for.
    pub rules: Vec<Name>,
}

/// One rule of one item that a person lifted without its quorum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lifted {
    /// The lift.
    pub lift: DecisionId,
    /// The rule.
    pub rule: Name,
    /// The human being.
    pub person: Pseudonym,
    /// The account.
    pub actor: Pseudonym,
    /// The role used.
    pub role: Option<Name>,
    /// When.
    pub at: Timestamp,
    /// Its review is owed until then.
    pub review_by: Timestamp,
    /// It carries a signature of the person's own.
    pub asserted: bool,
}

/// What a person decides, before its effect is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ballot {
    /// APPROVE, REJECT or OVERRIDE.
    pub kind: DecisionKind,
    /// The human being behind the account; none where that is not known ([`UNNAMED_PERSON`]).
    pub person: Option<Pseudonym>,
    /// The role used.
    pub role: Option<Name>,
    /// The person's teams that count.
    pub teams: Vec<Name>,
    /// The person's groups that count.
    pub groups: Vec<Name>,
    /// The items decided; empty for REJECT.
    pub items: Vec<BallotItem>,
    /// Counting forms under the policy in force, per item.
    pub current: Vec<Current>,
    /// Counted approvers who were asked again and are no longer eligible.
    pub lapsed: Vec<Pseudonym>,
}

/// One item of a ballot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BallotItem {
    /// The item.
    pub item: ItemId,
    /// Its digest as the person saw it.
    pub digest: Digest,
    /// The rules that this vote counts for, as policy says.
    pub rules: Vec<Name>,
    /// What becomes of the item.
    pub change: Change,
}

/// What a decision makes of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// As proposed: APPROVE.
    Keep,
    /// OVERRIDE: a changed input with this digest.
    Replace(Digest),
    /// OVERRIDE: go on without it.
    Drop,
}

/// Rules of one item as the policy in force has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Current {
    /// The item.
    pub item: ItemId,
    /// For an item that the ballot replaces: every rule of the new verdict. Else: every rule that the re-asked verdict
    /// names, and every pinned rule that the bundle still has.
    pub rules: Vec<RuleForm>,
}

/// What the votes come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    /// Per item that was not dropped.
    pub items: Vec<TallyItem>,
    /// Every item is dropped or has its rules met. The gate resolves if policy, asked again, agrees.
    pub met: bool,
    /// Persons whose votes count towards it, other than the one deciding: ask them again before resolving.
    pub counted: Vec<Pseudonym>,
    /// Persons whose lifts count towards it, other than the one lifting: ask them again before resolving.
    pub lifters: Vec<Pseudonym>,
}

/// What the votes on one item come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TallyItem {
    /// The item.
    pub item: ItemId,
    /// Rules that are met: what policy is asked again with.
    pub satisfied: BTreeSet<Name>,
    /// Those of them that were lifted: policy is told so.
    pub lifted: BTreeSet<Name>,
    /// Rules that are not.
    pub remaining: Vec<Name>,
}

/// Counts `ballot` of the account `actor` as if it were effective. Nothing is changed: this is for asking policy again with
/// `satisfied`, until its answer names no further rule; `decide` counts again for itself.
///
/// # Errors
/// As `decide` for the same ballot, where its items do not fit the gate.
pub fn tally(gate: &OpenGate, ballot: &Ballot, actor: Pseudonym) -> Result<Tally, Illegal> {
    gate.check_ballot(ballot)?;
    let mut after = gate.clone();
    let decision = ballot.items();
    let rules = gate.raised(ballot);
    after.cast(&Cast {
        decision: DecisionId::from_bytes([0; 16]),
        actor,
        person: ballot.person(),
        role: ballot.role.as_ref(),
        teams: &ballot.teams,
        groups: &ballot.groups,
        items: &decision,
        rules: &rules,
        lapsed: &ballot.lapsed,
        kind: ballot.kind,
        // How long it counts is asked of votes that were cast before.
        at: gate.opened,
    });
    Ok(after.tally(Some(ballot.person()), None))
}

/// As [`tally`], for a rule that is to be lifted: the votes are those that were cast.
///
/// # Errors
/// As `decide` for the same lift.
pub fn tally_lift(gate: &OpenGate, lift: &Lifting) -> Result<Tally, Illegal> {
    gate.check_lift(lift)?;
    let mut after = gate.clone();
    let id = DecisionId::from_bytes([0; 16]);
    after.lift(
        &gate.raised_by_lift(lift),
        lift.as_lifted(id, Pseudonym::SYSTEM, gate.opened, gate.opened),
        lift.item,
        &lift.lapsed,
    );
    Ok(after.tally(None, Some(id)))
}

/// Checks a justification: CRLF and CR become LF; blank, too short and too long are refused, nothing is cut.
///
/// # Errors
/// [`Illegal::BlankJustification`] or [`Illegal::JustificationLength`].
pub fn justification(text: &str, min: usize, max: usize) -> Result<String, Illegal> {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    if is_blank(&text) {
        return Err(Illegal::BlankJustification);
    }
    let got = text.chars().count();
    if got < min || got > max {
        return Err(Illegal::JustificationLength { min, max, got });
    }
    Ok(text)
}

/// Whether nothing of a text is visible: white space, control and zero-width characters only.
pub(crate) fn is_blank(text: &str) -> bool {
    text.chars().all(|c| {
        c.is_whitespace()
            || c.is_control()
            || matches!(c, '\u{00ad}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}')
    })
}

/// A rule that a person is about to lift, before its effect is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lifting {
    /// The item.
    pub item: ItemId,
    /// Its digest as the person saw it.
    pub digest: Digest,
    /// The rule.
    pub rule: Name,
    /// The human being behind the account; none where that is not known ([`UNNAMED_PERSON`]).
    pub person: Option<Pseudonym>,
    /// The role used.
    pub role: Option<Name>,
    /// The person's teams.
    pub teams: Vec<Name>,
    /// The person's groups.
    pub groups: Vec<Name>,
    /// As [`Ballot::current`].
    pub current: Vec<Current>,
    /// As [`Ballot::lapsed`]; of one who lifted a rule, the lift is gone with the votes.
    pub lapsed: Vec<Pseudonym>,
}

impl Lifting {
    /// The human being, as those are counted.
    pub fn person(&self) -> Pseudonym {
        self.person.unwrap_or(UNNAMED_PERSON)
    }

    fn as_lifted(&self, lift: DecisionId, actor: Pseudonym, at: Timestamp, review_by: Timestamp) -> Lifted {
        let (rule, role) = (self.rule.clone(), self.role.clone());
        // What is demanded of it was asked before.
        Lifted { lift, rule, person: self.person(), actor, role, at, review_by, asserted: false }
    }
}

impl Lifted {
    /// As an entry records it.
    pub(crate) fn of(lift: &Lift, actor: Pseudonym, at: Timestamp) -> Self {
        Self {
            lift: lift.lift,
            rule: lift.rule.clone(),
            person: lift.person,
            actor,
            role: lift.role.clone(),
            at,
            review_by: lift.review_by,
            asserted: lift.assertion.is_some(),
        }
    }
}

impl Ballot {
    /// The person that quorum counts.
    pub fn person(&self) -> Pseudonym {
        self.person.unwrap_or(UNNAMED_PERSON)
    }

    /// The items as a decision says them.
    pub(crate) fn items(&self) -> Vec<DecidedItem> {
        self.items
            .iter()
            .map(|i| DecidedItem {
                item: i.item,
                digest: i.digest,
                rules: i.rules.iter().collect::<BTreeSet<_>>().into_iter().cloned().collect(),
                instead: if let Change::Replace(digest) = i.change { Some(digest) } else { None },
            })
            .collect()
    }
}

/// A vote as it is cast, from a ballot or from a recorded decision.
pub(crate) struct Cast<'a> {
    pub(crate) decision: DecisionId,
    pub(crate) kind: DecisionKind,
    pub(crate) actor: Pseudonym,
    pub(crate) at: Timestamp,
    pub(crate) person: Pseudonym,
    pub(crate) role: Option<&'a Name>,
    pub(crate) teams: &'a [Name],
    pub(crate) groups: &'a [Name],
    pub(crate) items: &'a [DecidedItem],
    pub(crate) rules: &'a [ItemRules],
    pub(crate) lapsed: &'a [Pseudonym],
}

impl<'a> Cast<'a> {
    pub(crate) fn of(decision: &'a Decision, actor: Pseudonym, at: Timestamp) -> Self {
        Self {
            decision: decision.decision,
            kind: decision.kind,
            actor,
            at,
            person: decision.person,
            role: decision.role.as_ref(),
            teams: &decision.teams,
            groups: &decision.groups,
            items: &decision.items,
            rules: &decision.rules,
            lapsed: &decision.lapsed,
        }
    }
}

impl OpenGate {
    /// The item with this id.
    pub fn item(&self, item: ItemId) -> Option<&OpenItem> {
        self.items.iter().find(|i| i.item == item)
    }

    /// Items that still ask for something.
    pub fn live_items(&self) -> impl Iterator<Item = &OpenItem> {
        self.items.iter().filter(|i| !i.dropped)
    }

    /// What the votes cast so far come to.
    pub fn standing(&self) -> Tally {
        self.tally(None, None)
    }

    /// Whether the gate has expired at `at`.
    pub fn has_expired(&self, at: Timestamp) -> bool {
        self.on_timeout == OnTimeout::Reject && self.expires.is_some_and(|expires| at >= expires)
    }

    /// Whether the person may not approve or override whatever policy says: approval by the acting principal or its chain
    /// is always refused, and so is that of persons involved in one of the items. `acting` is the instance's chain.
    pub(crate) fn excluded(
        &self,
        kind: DecisionKind,
        actor: Pseudonym,
        person: Pseudonym,
        items: impl Iterator<Item = ItemId>,
        acting: &[Pseudonym],
    ) -> Option<WhyNot> {
        if kind == DecisionKind::Reject {
            return None;
        }
        let chain = |who: Pseudonym| who == self.proposer || self.chain.contains(&who) || acting.contains(&who);
        if chain(actor) || chain(person) {
            return Some(WhyNot::ActingChain);
        }
        let mut decided = items.filter_map(|id| self.item(id));
        let involved = decided.any(|item| {
            item.involved.contains(&person)
                || item.involved.contains(&actor)
                || kind == DecisionKind::Approve && item.authors.contains(&person)
        });
        involved.then_some(WhyNot::Involved)
    }

    /// Whether the ballot's items fit this gate.
    pub(crate) fn check_ballot(&self, ballot: &Ballot) -> Result<(), Illegal> {
        if (ballot.kind == DecisionKind::Reject) != ballot.items.is_empty() {
            return Err(Illegal::WrongItems);
        }
        let mut seen = BTreeSet::new();
        for voted in &ballot.items {
            let item = self.item(voted.item).ok_or(Illegal::UnknownItem(voted.item))?;
            if !seen.insert(voted.item) {
                return Err(Illegal::Duplicate("item"));
            }
            if item.dropped {
                return Err(Illegal::ItemDropped(voted.item));
            }
            if item.digest != voted.digest {
                return Err(Illegal::StaleItem { item: voted.item, now: item.digest });
            }
            match (ballot.kind, voted.change) {
                (DecisionKind::Override, Change::Keep) => return Err(Illegal::NothingChanged(voted.item)),
                (DecisionKind::Override, Change::Replace(digest)) if digest == item.digest => {
                    return Err(Illegal::NothingChanged(voted.item));
                }
                (DecisionKind::Override, Change::Drop) if self.subject == GateSubject::Start => {
                    return Err(Illegal::CannotDrop);
                }
                (DecisionKind::Override, _) | (_, Change::Keep) => {}
                (_, _) => return Err(Illegal::DeltaWithoutOverride),
            }
        }
        self.check_current(&ballot.current)
    }

    fn check_current(&self, current: &[Current]) -> Result<(), Illegal> {
        let mut seen = BTreeSet::new();
        for forms in current {
            if !seen.insert(forms.item) {
                return Err(Illegal::Duplicate("item"));
            }
            if self.item(forms.item).is_none() {
                return Err(Illegal::UnknownItem(forms.item));
            }
            if !distinct(forms.rules.iter().map(|r| &r.rule)) {
                return Err(Illegal::Duplicate("rule"));
            }
        }
        Ok(())
    }

    /// Whether the rule can be lifted at this gate, as far as the gate tells.
    pub(crate) fn check_lift(&self, lift: &Lifting) -> Result<(), Illegal> {
        let item = self.item(lift.item).ok_or(Illegal::UnknownItem(lift.item))?;
        if item.dropped {
            return Err(Illegal::ItemDropped(lift.item));
        }
        if item.digest != lift.digest {
            return Err(Illegal::StaleItem { item: lift.item, now: item.digest });
        }
        let form = item.rules.iter().find(|form| form.rule == lift.rule);
        let form = form.ok_or_else(|| Illegal::RuleNotAsked { item: lift.item, rule: lift.rule.clone() })?;
        if item.is_rule_met(form) {
            return Err(Illegal::RuleMet { item: lift.item, rule: lift.rule.clone() });
        }
        self.check_current(&lift.current)
    }

    /// The counting forms that a decision must record: all of a replaced item's, else those that add or make stricter.
    pub(crate) fn raised(&self, ballot: &Ballot) -> Vec<ItemRules> {
        self.raised_by(&ballot.items, &ballot.current)
    }

    /// As [`OpenGate::raised`], for a lift: it changes no item.
    pub(crate) fn raised_by_lift(&self, lift: &Lifting) -> Vec<ItemRules> {
        self.raised_by(&[], &lift.current)
    }

    fn raised_by(&self, voted: &[BallotItem], current: &[Current]) -> Vec<ItemRules> {
        let mut out = Vec::new();
        for item in self.live_items() {
            let voted = voted.iter().find(|v| v.item == item.item);
            let current = current.iter().find(|c| c.item == item.item).map_or(&[][..], |c| &c.rules);
            let mut rules: Vec<RuleForm> = match voted.map(|v| v.change) {
                Some(Change::Drop) => continue,
                Some(Change::Replace(_)) => current.to_vec(),
                Some(Change::Keep) | None => current
                    .iter()
                    .filter(|form| !item.rules.iter().any(|pinned| covers(pinned, form)))
                    .cloned()
                    .collect(),
            };
            if rules.is_empty() {
                continue;
            }
            rules.sort_by(|a, b| a.rule.cmp(&b.rule));
            out.push(ItemRules { item: item.item, rules });
        }
        out
    }

    /// Applies an effective APPROVE or OVERRIDE. The caller has checked that its items are of this gate and live.
    pub(crate) fn cast(&mut self, cast: &Cast<'_>) {
        for item in &mut self.items {
            item.forget(cast.lapsed);
            let forms = cast.rules.iter().find(|r| r.item == item.item).map_or(&[][..], |r| &r.rules);
            let decided = cast.items.iter().find(|d| d.item == item.item);
            match (cast.kind, decided) {
                (DecisionKind::Override, Some(DecidedItem { instead: None, .. })) => {
                    item.dropped = true;
                    item.votes.clear();
                    item.lifted.clear();
                }
                (DecisionKind::Override, Some(DecidedItem { instead: Some(digest), rules, .. })) => {
                    item.digest = *digest;
                    item.replaced = true;
                    // Earlier approvals and lifts were of another input.
                    item.votes = vec![cast.vote(rules, true)];
                    item.lifted.clear();
                    item.rules = forms.to_vec();
                    if !item.authors.contains(&cast.person) {
                        item.authors.push(cast.person);
                    }
                }
                (DecisionKind::Approve, Some(DecidedItem { rules, .. })) => {
                    merge(&mut item.rules, forms);
                    item.votes.retain(|v| v.person != cast.person);
                    item.votes.push(cast.vote(rules, false));
                }
                (_, _) => merge(&mut item.rules, forms),
            }
        }
    }

    /// Applies an effective lift of a rule of `item`. The caller has checked that the item is live and asks for it.
    pub(crate) fn lift(&mut self, rules: &[ItemRules], lifted: Lifted, item: ItemId, lapsed: &[Pseudonym]) {
        for open in &mut self.items {
            open.forget(lapsed);
            let forms = rules.iter().find(|r| r.item == open.item).map_or(&[][..], |r| &r.rules);
            merge(&mut open.rules, forms);
        }
        if let Some(open) = self.items.iter_mut().find(|open| open.item == item) {
            open.lifted.push(lifted);
        }
    }

    /// Whether anything but an approval as proposed is among the items: the gate then resolves through OVERRIDDEN.
    pub(crate) fn is_overridden(&self) -> bool {
        self.items.iter().any(|i| i.replaced || i.dropped)
    }

    /// Whether every item is dropped or has its rules met.
    pub fn is_met(&self) -> bool {
        self.live_items().all(OpenItem::is_met)
    }

    fn tally(&self, deciding: Option<Pseudonym>, lifting: Option<DecisionId>) -> Tally {
        let items: Vec<TallyItem> = self
            .live_items()
            .map(|item| {
                let (met, open): (Vec<_>, Vec<_>) = item.rules.iter().partition(|rule| item.is_rule_met(rule));
                let lifted = met.iter().filter(|form| item.lift_of(&form.rule).is_some());
                TallyItem {
                    item: item.item,
                    lifted: lifted.map(|r| r.rule.clone()).collect(),
                    satisfied: met.into_iter().map(|r| r.rule.clone()).collect(),
                    remaining: open.into_iter().map(|r| r.rule.clone()).collect(),
                }
            })
            .collect();
        let counted: BTreeSet<Pseudonym> = self
            .live_items()
            .flat_map(|item| &item.votes)
            .map(|v| v.person)
            .filter(|person| Some(*person) != deciding)
            .collect();
        let lifters: BTreeSet<Pseudonym> = self
            .live_items()
            .flat_map(|item| &item.lifted)
            .filter(|lifted| Some(lifted.lift) != lifting)
            .map(|lifted| lifted.person)
            .collect();
        Tally {
            met: items.iter().all(|i| i.remaining.is_empty()),
            items,
            counted: counted.into_iter().collect(),
            lifters: lifters.into_iter().collect(),
        }
    }

    /// Whether somebody may withdraw what is asked for here in advance: whoever asked for it, and the owner.
    pub(crate) fn may_withdraw(&self, who: Pseudonym, owner: Option<Pseudonym>) -> bool {
        who == self.proposer || owner == Some(who)
    }

    /// Whether this step of a rule's reminders or escalations has fired.
    pub fn has_fired(&self, event: GateEventKind, rule: &Name, step: u16) -> bool {
        Self::fired_key(event, Some(rule), Some(step)).is_some_and(|key| self.fired.contains(&key))
    }

    /// How many further circles were asked so far, over all rules.
    pub fn escalations(&self) -> usize {
        self.fired.iter().filter(|(escalation, ..)| *escalation).count()
    }

    /// What tells a step of a reminder or escalation from every other.
    pub(crate) fn fired_key(
        event: GateEventKind,
        rule: Option<&Name>,
        step: Option<u16>,
    ) -> Option<(bool, Option<Name>, Option<u16>)> {
        match event {
            GateEventKind::Reminder => Some((false, rule.cloned(), step)),
            GateEventKind::Escalation => Some((true, rule.cloned(), step)),
            GateEventKind::Comment | GateEventKind::Reassign | GateEventKind::InformationRequested => None,
        }
    }
}

impl OpenItem {
    /// Whether all its rules are met.
    pub fn is_met(&self) -> bool {
        self.rules.iter().all(|rule| self.is_rule_met(rule))
    }

    /// Whether one of its rules is met: by votes, or because it was lifted.
    pub fn is_rule_met(&self, rule: &RuleForm) -> bool {
        self.lift_of(&rule.rule).is_some() || is_met(rule, &self.votes)
    }

    /// The lift of one of its rules.
    pub fn lift_of(&self, rule: &Name) -> Option<&Lifted> {
        self.lifted.iter().find(|lifted| lifted.rule == *rule)
    }

    /// What these persons voted and lifted counts no longer.
    fn forget(&mut self, lapsed: &[Pseudonym]) {
        self.votes.retain(|vote| !lapsed.contains(&vote.person));
        self.lifted.retain(|lifted| !lapsed.contains(&lifted.person));
    }

    /// How many persons' votes count for one of its rules.
    pub fn counted(&self, rule: &RuleForm) -> usize {
        counting(rule, &self.votes).count()
    }
}

impl Cast<'_> {
    fn vote(&self, rules: &[Name], author: bool) -> Vote {
        Vote {
            decision: self.decision,
            person: self.person,
            actor: self.actor,
            at: self.at,
            author,
            role: self.role.cloned(),
            teams: self.teams.to_vec(),
            groups: self.groups.to_vec(),
            rules: rules.to_vec(),
        }
    }
}

/// Whether `pinned` is at least as strict as `form`, of the same rule. Roles are the pinned ones: who is eligible under the
/// policy in force is asked of it.
fn covers(pinned: &RuleForm, form: &RuleForm) -> bool {
    pinned.rule == form.rule
        && pinned.quorum >= form.quorum
        && (pinned.distinct_teams || !form.distinct_teams)
        && form.groups.iter().all(|g| pinned.groups.contains(g))
        && (form.override_counts || !pinned.override_counts)
}

/// Adds `forms` to the pinned rules, of two forms of one rule the strictest.
fn merge(pinned: &mut Vec<RuleForm>, forms: &[RuleForm]) {
    for form in forms {
        match pinned.iter_mut().find(|p| p.rule == form.rule) {
            Some(p) => {
                p.quorum = p.quorum.max(form.quorum);
                p.distinct_teams |= form.distinct_teams;
                p.override_counts &= form.override_counts;
                let groups: BTreeSet<Name> = p.groups.iter().chain(&form.groups).cloned().collect();
                p.groups = groups.into_iter().collect();
            }
            None => pinned.push(form.clone()),
        }
    }
    pinned.sort_by(|a, b| a.rule.cmp(&b.rule));
}

/// Whether the votes meet the rule: persons, teams and groups.
pub(crate) fn is_met(rule: &RuleForm, votes: &[Vote]) -> bool {
    let counting: Vec<&Vote> = counting(rule, votes).collect();
    // A rule that asks for nobody would be no rule.
    let quorum = usize::from(rule.quorum.max(1));
    counting.len() >= quorum
        && rule.groups.iter().all(|group| counting.iter().any(|v| v.groups.contains(group)))
        && (!rule.distinct_teams || teams_apart(&counting) >= quorum)
}

/// The votes that count for a rule.
pub(crate) fn counting<'v>(rule: &'v RuleForm, votes: &'v [Vote]) -> impl Iterator<Item = &'v Vote> {
    votes
        .iter()
        .filter(|v| v.rules.contains(&rule.rule))
        .filter(|v| !v.author || rule.override_counts)
        .filter(|v| rule.roles.is_empty() || v.role.as_ref().is_some_and(|role| rule.roles.contains(role)))
}

/// How many of the votes can be given a team each so that no team is given twice (a maximum matching).
fn teams_apart(votes: &[&Vote]) -> usize {
    fn give<'v>(
        who: usize,
        votes: &[&'v Vote],
        holders: &mut Vec<(&'v Name, usize)>,
        tried: &mut BTreeSet<&'v Name>,
    ) -> bool {
        let Some(vote) = votes.get(who) else { return false };
        for team in &vote.teams {
            if !tried.insert(team) {
                continue;
            }
            let holder = holders.iter().position(|(t, _)| *t == team);
            match holder.and_then(|at| holders.get(at).map(|(_, other)| (at, *other))) {
                None => {
                    holders.push((team, who));
                    return true;
                }
                Some((at, other)) => {
                    if give(other, votes, holders, tried) {
                        if let Some(slot) = holders.get_mut(at) {
                            *slot = (team, who);
                        }
                        return true;
                    }
                }
            }
        }
        false
    }
    let mut holders: Vec<(&Name, usize)> = Vec::new();
    (0..votes.len()).filter(|voter| give(*voter, votes, &mut holders, &mut BTreeSet::new())).count()
}

/// Whether the question is one of an action: what gets a permit of its own.
pub(crate) fn is_action(question: QuestionKind) -> bool {
    matches!(question, QuestionKind::CallTool | QuestionKind::Dispatch | QuestionKind::Operation)
}

/// Whether no two are equal.
pub(crate) fn distinct<T: Ord>(items: impl Iterator<Item = T>) -> bool {
    let mut seen = BTreeSet::new();
    items.into_iter().all(|item| seen.insert(item))
}
