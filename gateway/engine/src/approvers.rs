//! Who may approve a gate: for every person known, whether a vote of theirs would count, and in words why not.
//!
//! Asked of the same policy, by the same questions, and held to the same exclusions as a vote: what is said here is what
//! would become of one now. Nothing is recorded, and no agent may ask. Absent: votes. Read next: `voters`.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use countersign_gateway_flow::{Instance, OpenGate, OpenItem, UNNAMED_PERSON, WhyNot};
use countersign_gateway_model::{
    Assurance, GateId, ItemId, Name, Principal, PrincipalKind, Pseudonym, Scope, Timestamp,
};
use countersign_policy_decide::rules::ApprovalRule;
use countersign_policy_decide::{EntityKind, EntityRef, Operation, Outcome, explain};

use crate::api::GateRecord;
use crate::asking::{ask, question};
use crate::error::EngineError;
use crate::grants::supposed;
use crate::keyring::why_not;
use crate::org::{Known, Org};
use crate::stream::{Held, four_eyes};
use crate::voters::{admits, default_role};
use crate::{Engine, Snapshot};

/// Most persons of one answer.
const MAX_PERSONS: usize = 200;

/// Most permits of policy that are named as the ones that nearly held.
const NEAREST: usize = 2;

/// One person, for one gate.
#[derive(Clone, Debug)]
pub struct Approver {
    /// Who.
    pub person: Name,
    /// A vote of theirs would count for an item now.
    pub may: bool,
    /// Per item.
    pub items: Vec<ItemApprover>,
}

/// One person, for one item of a gate.
#[derive(Clone, Debug)]
pub struct ItemApprover {
    /// The item.
    pub item: ItemId,
    /// A vote of theirs would count.
    pub may: bool,
    /// The rules that it would count for.
    pub rules: Vec<Name>,
    /// They have voted for it.
    pub voted: bool,
    /// What stands in the way, in words; rule by rule for those that their vote would not count for.
    pub why_not: Vec<String>,
}

/// Who may approve a gate.
#[derive(Clone, Debug)]
pub struct Approvers {
    /// The gate, with its rules and how far they are met.
    pub gate: GateRecord,
    /// What stands in everybody's way.
    pub notes: Vec<String>,
    /// What a vote must bring besides, rule by rule: of this it is not known whether somebody has it.
    pub demands: Vec<String>,
    /// Persons, by id.
    pub persons: Vec<Approver>,
    /// The person after whom the next answer begins; none: this is the last.
    pub next: Option<Name>,
}

/// How often a gate is looked at that changes meanwhile.
const LOOKS: usize = 3;

/// A gate on which persons are looked at, as it stood when it was read.
struct Looking {
    org: Arc<Org>,
    snapshot: Snapshot,
    fold: Instance,
    gate: OpenGate,
    /// Who has a key that signs at it.
    keyed: HashSet<Pseudonym>,
    now: Timestamp,
}

impl Engine {
    /// Who may approve a gate: persons by id, after `after`, at most `limit`.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] for those who may not ask, and for a gate that they may not see.
    pub async fn approvers(
        &self,
        who: &Principal,
        id: GateId,
        after: Option<&Name>,
        limit: usize,
    ) -> Result<Approvers, EngineError> {
        let org = self.org(who.org)?;
        self.may_query(&org, who)?;
        let mut persons = org.persons();
        persons.retain(|person| after.is_none_or(|after| person > after));
        persons.sort();
        let rest = persons.split_off(limit.clamp(1, MAX_PERSONS).min(persons.len()));
        let mut looks = 1;
        loop {
            let gate = self.gate(who, id).await?.gate;
            let mut answer =
                Approvers { gate, notes: Vec::new(), demands: Vec::new(), persons: Vec::new(), next: None };
            let Some(looking) = self.look(&org, id, &mut answer).await? else {
                answer.notes.push("the gate is closed: nobody decides at it any more".to_owned());
                return Ok(answer);
            };
            let (sequence, instance) = (looking.fold.sequence(), looking.fold.id());
            // On a thread of its own and without the stream's lock: many persons are many questions, and whoever decides
            // meanwhile waits for none of them.
            let (asked, barred) = (persons.clone(), !answer.notes.is_empty());
            let look = move || asked.into_iter().map(|person| looking.person(person, barred)).collect();
            let looked: Result<Vec<_>, EngineError> =
                tokio::task::spawn_blocking(look).await.map_err(EngineError::damaged)?;
            answer.persons = looked?;
            answer.next = answer.persons.last().filter(|_| !rest.is_empty()).map(|last| last.person.clone());
            // What policy is told of a gate changes with it: an answer from both sides of a change is none.
            let unchanged = self.hold(&org, instance).await?.fold()?.sequence() == sequence;
            if unchanged || looks == LOOKS {
                if !unchanged {
                    answer.notes.push("the gate changed each time that it was looked at: ask again".to_owned());
                }
                return Ok(answer);
            }
            looks += 1;
        }
    }

    /// Reads what is looked at, under the stream's lock; none if the gate is closed.
    async fn look(&self, org: &Arc<Org>, id: GateId, answer: &mut Approvers) -> Result<Option<Looking>, EngineError> {
        let held = self.hold(org, answer.gate.instance).await?;
        let snapshot = self.counted_snapshot(org).await?;
        let Some(open) = held.fold()?.gate().filter(|open| open.gate == id) else { return Ok(None) };
        self.describe_gate_now(org, &held, id)?;
        answer.notes = self.everybody(org, &snapshot, &held, open).await?;
        answer.demands = demands(&snapshot, open);
        let keys = org.person_keys.read().await;
        let signs = keys.values().filter(|row| why_not(row, row.principal, open.opened).is_none());
        let keyed = signs.map(|row| row.principal).collect();
        drop(keys);
        let (gate, fold) = (open.clone(), held.fold()?.clone());
        Ok(Some(Looking { org: Arc::clone(org), snapshot, fold, gate, keyed, now: self.now() }))
    }

    /// What stands in everybody's way.
    async fn everybody(
        &self,
        org: &Org,
        snapshot: &Snapshot,
        held: &Held,
        gate: &OpenGate,
    ) -> Result<Vec<String>, EngineError> {
        let mut notes = Vec::new();
        if org.is_frozen(held.live.team.as_ref()) {
            notes.push("work is frozen: nothing is approved until it is lifted".to_owned());
        }
        if gate.has_expired(self.now()) {
            notes.push("the gate has expired".to_owned());
        }
        let opened = self.opened(org, snapshot, held, gate).await?;
        if opened.is_stale(snapshot, gate) {
            notes.push(
                "an item cannot be asked about under the policy and the tools in force: the gate can only be rejected"
                    .to_owned(),
            );
        }
        Ok(notes)
    }
}

impl Looking {
    fn person(&self, id: Name, barred: bool) -> Result<Approver, EngineError> {
        let known = self.org.known_by_id(PrincipalKind::Person, &id);
        let Some((who, known)) = known else { return Ok(Approver { person: id, may: false, items: Vec::new() }) };
        let voter = self.voter(who, &known);
        let role = default_role(&voter, &self.gate, &self.snapshot);
        let items: Result<Vec<_>, _> =
            self.gate.live_items().map(|item| self.item(&voter, &known, role.as_ref(), item)).collect();
        let mut items = items?;
        if barred {
            for item in &mut items {
                item.may = false;
            }
        }
        Ok(Approver { person: id, may: items.iter().any(|item| item.may), items })
    }

    /// The person as a credential for deciding would say it.
    fn voter(&self, who: Pseudonym, known: &Known) -> Principal {
        let entity = self.org.entities.get(&known.entity(self.org.id));
        let roles = entity.map(|version| version.record().roles.iter().cloned().collect()).unwrap_or_default();
        Principal {
            org: self.org.id,
            kind: PrincipalKind::Person,
            id: known.id.clone(),
            pseudonym: who,
            on_behalf_of: Vec::new(),
            scopes: vec![Scope::Act, Scope::Decide],
            assurance: known.assurance(),
            roles,
            teams: known.teams.clone(),
            person: known.person_key.clone(),
            issued: self.now,
            expires: Timestamp(u64::MAX),
        }
    }

    fn item(
        &self,
        voter: &Principal,
        known: &Known,
        role: Option<&Name>,
        item: &OpenItem,
    ) -> Result<ItemApprover, EngineError> {
        let name = Name::new(&item.item.to_string()).map_err(EngineError::damaged)?;
        let (operation, resource) = match &self.gate.offer {
            Some(offer) => {
                (Operation::GrantTask, supposed(&self.org, &self.fold, offer, (voter.pseudonym, &known.id), self.now)?)
            }
            None => (Operation::Approve, EntityRef::new(self.org.id, EntityKind::Item, name)),
        };
        let mut asked = question(voter, operation, resource, self.now);
        asked.four_eyes = four_eyes(&self.org);
        asked.role = role.cloned();
        let mut why_not = Vec::new();
        let person = self.org.person_of(voter.pseudonym);
        let bars = self.fold.bars(voter.pseudonym, person, item.item);
        if let Some(why) = bars {
            why_not.push(self.involvement(why, person, item));
        }
        let allowed = ask(&self.snapshot, self.org.facts(), vec![asked.clone()]).allowed();
        if !allowed {
            asked.counters = self.org.counting.reading(&self.snapshot, self.now, None).counters();
            let slice = self.org.entities.slice(&self.snapshot, &asked);
            let explanation = explain(&self.snapshot, &slice, &asked);
            why_not.extend(policy_words(&explanation, bars.is_some()));
        }
        if self.gate.offer.is_some() {
            self.org.entities.forget(&asked.resource);
        }
        let mut rules = Vec::new();
        let mut unmet = false;
        for form in &item.rules {
            // As votes are counted: the rule's authority, and where it names roles alone, the one that is used.
            let used = form.roles.is_empty() || role.is_some_and(|role| form.roles.contains(role));
            if used && admits(&self.snapshot, &self.gate, &form.rule, (voter, &known.groups), role) {
                let rule = self.snapshot.rules().get(form.rule.as_str());
                if rule.is_some_and(|rule| rule.demand.assurance > Some(voter.assurance)) {
                    why_not.push(format!(
                        "rule `{}`: demands a login with a second factor, and they have none: `countersign person \
                         second-factor enrol`",
                        form.rule
                    ));
                    unmet = true;
                }
                if rule.is_some_and(|rule| rule.demand.assertion) && !self.keyed.contains(&voter.pseudonym) {
                    why_not.push(format!(
                        "rule `{}`: demands their own signature, and they had registered no key when the gate opened",
                        form.rule
                    ));
                    // A vote that does not meet one demand is refused whole.
                    unmet = true;
                }
                rules.push(form.rule.clone());
            } else {
                why_not.push(authority_words(&form.rule, self.snapshot.rules().get(form.rule.as_str())));
            }
        }
        let voted = item.votes.iter().any(|vote| vote.person == person.unwrap_or(UNNAMED_PERSON));
        let may = allowed && bars.is_none() && !rules.is_empty() && !unmet;
        if !may {
            rules.clear();
        }
        Ok(ItemApprover { item: item.item, may, rules, voted, why_not })
    }

    fn involvement(&self, why: WhyNot, person: Option<Pseudonym>, item: &OpenItem) -> String {
        match why {
            WhyNot::ActingChain => "excluded: it is they who act, or it is done on their behalf".to_owned(),
            _ if person.is_none() => {
                "excluded: whose account this is is not known, so it may be that of somebody involved".to_owned()
            }
            _ if person.is_some_and(|person| item.authors.contains(&person)) => {
                "excluded: they changed what is proposed, and may not approve their own change".to_owned()
            }
            _ => "excluded: they are involved (initiator, owner, issuer or accountable person, as the rules say)"
                .to_owned(),
        }
    }
}

/// What policy's word rests on, one line each.
fn policy_words(explanation: &countersign_policy_decide::Explanation, barred: bool) -> Vec<String> {
    // Involvement was said already, in better words.
    let involved = |policy: &str| barred && policy == "kernel:involved-never-approves";
    let titled = |title: &Option<String>| title.as_ref().map(|title| format!(" ({title})")).unwrap_or_default();
    let forbids = explanation.policies.iter().filter(|policy| policy.forbids && policy.outcome != Outcome::Fails);
    let mut words: Vec<String> = forbids
        .filter(|policy| !involved(policy.policy.as_str()))
        .map(|policy| format!("policy `{}` forbids it{}", policy.policy, titled(&policy.title)))
        .collect();
    let permitted = explanation.policies.iter().any(|policy| !policy.forbids && policy.outcome == Outcome::Holds);
    if words.is_empty() && !permitted {
        let nearly = explanation.policies.iter().filter(|policy| !policy.forbids).take(NEAREST);
        words.extend(nearly.map(|policy| {
            let clause = policy.clauses.last().map(|clause| format!(": not so: {}", clause.text)).unwrap_or_default();
            format!("policy `{}`{} does not permit it{clause}", policy.policy, titled(&policy.title))
        }));
    }
    if words.is_empty() && !permitted {
        words.extend(explanation.answer.reasons.iter().map(|reason| reason.text.clone()));
    }
    words
}

/// What rules ask of the login of whoever votes.
fn demands(snapshot: &Snapshot, gate: &OpenGate) -> Vec<String> {
    let rules: BTreeSet<&Name> = gate.live_items().flat_map(|item| item.rules.iter().map(|form| &form.rule)).collect();
    let mut words = Vec::new();
    for (name, rule) in rules.into_iter().filter_map(|name| Some((name, snapshot.rules().get(name.as_str())?))) {
        match rule.demand.assurance {
            Some(Assurance::Mfa) => words.push(format!("rule `{name}`: a login with a second factor")),
            Some(Assurance::Password) => words.push(format!("rule `{name}`: a login with a password")),
            Some(Assurance::Secret | Assurance::Demo) | None => {}
        }
        if let Some(seconds) = rule.demand.fresh_s {
            words.push(format!("rule `{name}`: a login no older than {seconds} seconds"));
        }
        if rule.demand.assertion {
            words.push(format!(
                "rule `{name}`: a signature by a key of the voter's own, registered before the gate opened"
            ));
        }
    }
    words
}

/// Whose votes a rule counts.
fn authority_words(name: &Name, rule: Option<&ApprovalRule>) -> String {
    let Some(rule) = rule else {
        return format!("rule `{name}`: the bundle no longer has it, and counts votes by the role that it named");
    };
    let list = |what: &str, names: &[Name]| {
        let names: Vec<&str> = names.iter().map(Name::as_str).collect();
        (!names.is_empty()).then(|| format!("{what} {}", names.join(" or ")))
    };
    let authority = &rule.authority;
    let of: Vec<String> =
        [list("role", &authority.roles), list("group", &authority.groups), list("team", &authority.teams)]
            .into_iter()
            .flatten()
            .collect();
    format!("rule `{name}`: asks for {}, which they do not have", of.join(", or "))
}
