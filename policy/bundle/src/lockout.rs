//! Nobody locked out: under a candidate, someone can propose a policy, a policy change can be carried through, and
//! someone can terminate work that is not their own.
//!
//! Asked of the candidate's own snapshot with the organization's real people, each with the login that they have, about a
//! stand-in bundle, instance and gate: who has no second factor votes for no rule that demands one. Absent: IO; the engine
//! gives the people. Read next: `check`.

use std::collections::{BTreeMap, BTreeSet};

use countersign_gateway_model::{Assurance, Decision, Name, NameError, OrgId, State, Timestamp};
use countersign_policy_decide::rules::ApprovalRule;
use countersign_policy_decide::{
    Answer, BundleFacts, EntityError, EntityKind, EntityRef, EntityStore, EntityVersion, GateFacts, InstanceFacts,
    Operation, PersonFacts, PolicySnapshot, Question, Record, ServiceFacts, WorkflowFacts, decide,
};

use crate::finding::{Finding, Place, RuleId};

/// The id of every stand-in.
const PROBE: &str = "countersign-probe";

/// The organization's people, as they are now.
#[derive(Clone, Copy, Debug)]
pub struct People<'a> {
    /// Where their entity versions are.
    pub store: &'a EntityStore,
    /// All persons of the organization.
    pub persons: &'a [Name],
    /// Those of them who have a second factor: every login of theirs uses it.
    pub second_factors: &'a BTreeSet<Name>,
    /// Now.
    pub now: Timestamp,
    /// Whether the organization is in `four_eyes` mode.
    pub four_eyes: bool,
}

/// Why the question could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum LockoutError {
    /// A stand-in or a person does not fit the schema.
    #[error("people cannot be asked about")]
    Entity(#[from] EntityError),
    /// A stand-in has no name.
    #[error("a stand-in cannot be named")]
    Name(#[from] NameError),
}

/// What would lock people out; nothing found means that nobody is. An activation with a finding is refused.
pub fn locked_out(snapshot: &PolicySnapshot, people: &People<'_>) -> Result<Vec<Finding>, LockoutError> {
    let probe = Probe::new(snapshot, people)?;
    let mut findings = Vec::new();
    let mut refuse = |message: String, next: &str| {
        findings.push(Finding::error(Place::start(crate::MANIFEST_FILE), RuleId::LockedOut, message, next));
    };
    if !probe.anyone(|voter| probe.proposes(voter))? {
        refuse(
            "under this bundle nobody of the organization may propose a policy".to_owned(),
            "permit `proposePolicy` to a role that someone holds",
        );
    }
    let mut obstacles = BTreeSet::new();
    if !probe.anyone(|voter| probe.carries(voter, &mut obstacles))? {
        let why: Vec<String> = obstacles.into_iter().collect();
        refuse(
            format!("under this bundle no policy change could be carried through: {}", why.join("; ")),
            "permit `activatePolicy` to a role that someone holds, and give its approval rules to enough people",
        );
    }
    if people.four_eyes && probe.anyone(|voter| probe.alone(voter))? {
        refuse(
            "under `four_eyes` one person alone could put a weaker policy in force".to_owned(),
            "gate `activatePolicy` with an approval rule when `context.fourEyes` holds",
        );
    }
    if !probe.anyone(|voter| probe.terminates(voter))? {
        refuse(
            "under this bundle nobody of the organization may terminate the work of others".to_owned(),
            "permit `terminate` to a role that someone holds",
        );
    }
    Ok(findings)
}

/// A person as one who may vote.
struct Voter {
    id: Name,
    /// Which human being; accounts without one count as the same.
    key: Option<Name>,
    teams: BTreeSet<EntityRef>,
    groups: BTreeSet<Name>,
    /// How sure a login of theirs is.
    assurance: Assurance,
}

struct Probe<'a> {
    snapshot: &'a PolicySnapshot,
    people: &'a People<'a>,
    org: OrgId,
    name: Name,
    /// The people with all that they belong to, and the stand-ins; the organization's own store is left alone.
    scratch: EntityStore,
    voters: Vec<Voter>,
}

impl<'a> Probe<'a> {
    fn new(snapshot: &'a PolicySnapshot, people: &'a People<'a>) -> Result<Self, LockoutError> {
        let org = snapshot.org();
        let mut probe =
            Self { snapshot, people, org, name: Name::new(PROBE)?, scratch: EntityStore::new(), voters: Vec::new() };
        let mut seen = BTreeSet::new();
        for id in people.persons {
            let person = EntityRef::new(org, EntityKind::Person, id.clone());
            let Some(version) = people.store.get(&person) else { continue };
            probe.copy(&person, &mut seen)?;
            let sure = people.second_factors.contains(id);
            probe.voters.push(voter(id, &version, if sure { Assurance::Mfa } else { Assurance::Password }));
        }
        probe.put_work()?;
        Ok(probe)
    }

    /// Copies an entity and all that it refers to.
    fn copy(&self, entity: &EntityRef, seen: &mut BTreeSet<EntityRef>) -> Result<(), LockoutError> {
        let mut queue = vec![entity.clone()];
        while let Some(next) = queue.pop() {
            if !seen.insert(next.clone()) {
                continue;
            }
            if let Some(version) = self.people.store.get(&next) {
                queue.extend(version.record().refers_to().into_iter().cloned());
                self.scratch.put(version.record().clone())?;
            }
        }
        Ok(())
    }

    /// An instance that a service began and acts in: nobody's own, somebody's to answer for.
    fn put_work(&self) -> Result<(), LockoutError> {
        let (org, now, name) = (self.org, self.people.now, &self.name);
        let service = EntityRef::new(org, EntityKind::Service, name.clone());
        let facts = ServiceFacts { active: true, ..ServiceFacts::default() };
        self.scratch.put(Record::service(org, name.clone(), facts, now))?;
        let person = PersonFacts::default();
        self.scratch.put(Record::person(org, name.clone(), person, now))?;
        let facts = WorkflowFacts { version: "1".to_owned(), open: true, ..WorkflowFacts::default() };
        self.scratch.put(Record::workflow(org, name.clone(), facts, now))?;
        let facts = InstanceFacts {
            workflow: name.clone(),
            state: State::Running,
            actor: service.clone(),
            initiator: service,
            owner: None,
            accountable: name.clone(),
            parent: None,
            team: None,
            legal_hold: false,
            frozen: false,
        };
        self.scratch.put(Record::instance(org, name.clone(), facts, now))?;
        Ok(())
    }

    fn anyone(&self, mut test: impl FnMut(&Voter) -> Result<bool, LockoutError>) -> Result<bool, LockoutError> {
        for voter in &self.voters {
            if test(voter)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Asks with the login that the person has.
    fn ask(&self, voter: &Voter, operation: Operation, kind: EntityKind) -> Answer {
        self.ask_as(voter, voter.assurance, operation, kind)
    }

    /// No question says when a login was, and nobody signs an operation.
    fn ask_as(&self, voter: &Voter, assurance: Assurance, operation: Operation, kind: EntityKind) -> Answer {
        let asked = EntityRef::new(self.org, EntityKind::Person, voter.id.clone());
        let resource = EntityRef::new(self.org, kind, self.name.clone());
        let mut question = Question::new(asked, operation, resource, self.people.now);
        question.scopes = BTreeSet::from(["act", "decide"]);
        question.assurance = assurance;
        question.four_eyes = self.people.four_eyes;
        question.counters = self.snapshot.counters().keys().map(|c| (c.clone(), "0.0".to_owned())).collect();
        decide(self.snapshot, &self.scratch.slice(self.snapshot, &question), &question)
    }

    fn put_bundle(&self, author: &Voter) -> Result<(), LockoutError> {
        let facts = BundleFacts {
            author: Some(author.id.clone()),
            version: 2,
            checked: true,
            shadowed: true,
            weakens: true,
            rollback: false,
        };
        self.scratch.put(Record::bundle(self.org, self.name.clone(), facts, self.people.now))?;
        Ok(())
    }

    fn proposes(&self, voter: &Voter) -> Result<bool, LockoutError> {
        self.put_bundle(voter)?;
        let answer = self.ask(voter, Operation::ProposePolicy, EntityKind::PolicyBundle);
        self.met(voter, &answer, &mut BTreeSet::new())
    }

    fn carries(&self, voter: &Voter, obstacles: &mut BTreeSet<String>) -> Result<bool, LockoutError> {
        // Whoever proposed it may be someone else: with two people, the other one activates.
        for author in &self.voters {
            self.put_bundle(author)?;
            let answer = self.ask(voter, Operation::ActivatePolicy, EntityKind::PolicyBundle);
            if self.met(voter, &answer, obstacles)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether this person activates what they wrote themselves, and nobody else is asked: with any login that they can come
    /// to have, as everybody enrols a second factor by themselves.
    fn alone(&self, voter: &Voter) -> Result<bool, LockoutError> {
        self.put_bundle(voter)?;
        let allowed = |assurance| {
            let answer = self.ask_as(voter, assurance, Operation::ActivatePolicy, EntityKind::PolicyBundle);
            answer.decision() == Decision::Allow
        };
        Ok([Assurance::Password, Assurance::Mfa].into_iter().any(allowed))
    }

    fn terminates(&self, voter: &Voter) -> Result<bool, LockoutError> {
        let answer = self.ask(voter, Operation::Terminate, EntityKind::Instance);
        self.met(voter, &answer, &mut BTreeSet::new())
    }

    /// Whether an answer to `actor` leads to the thing done: at once, or by rules whose quorum the others can meet.
    fn met(&self, actor: &Voter, answer: &Answer, obstacles: &mut BTreeSet<String>) -> Result<bool, LockoutError> {
        match answer.decision() {
            Decision::Allow => Ok(true),
            Decision::Deny => {
                let by: Vec<String> = answer.determining.iter().map(ToString::to_string).collect();
                obstacles.insert(format!("denied by {}", by.join(", ")));
                Ok(false)
            }
            Decision::NeedsApproval => {
                for name in &answer.verdict.rules {
                    let quorum = match self.snapshot.rules().get(name.as_str()) {
                        Some(rule) => self.quorum(actor, name, rule)?,
                        None => Err("is not in `rules.json`".to_owned()),
                    };
                    if let Err(why) = quorum {
                        obstacles.insert(format!("rule `{name}` {why}"));
                        return Ok(false);
                    }
                }
                Ok(true)
            }
        }
    }

    /// Whether those who may vote, the actor and whoever counts as the same person aside, are enough.
    fn quorum(&self, actor: &Voter, name: &Name, rule: &ApprovalRule) -> Result<Result<(), String>, LockoutError> {
        let facts = GateFacts {
            instance: self.name.clone(),
            gate: self.name.clone(),
            rules: vec![name.clone()],
            roles: rule.authority.roles.clone(),
            groups: rule.authority.groups.clone(),
            teams: rule.authority.teams.clone(),
            involved: vec![actor.id.clone()],
            initiator: None,
            accountable: self.name.clone(),
            agent: None,
            tool: None,
            open: true,
            opened_at: self.people.now,
            expires_at: None,
            escalation: 0,
        };
        self.scratch.put(Record::gate(self.org, self.name.clone(), &facts, self.people.now))?;
        self.scratch.put(Record::item(self.org, self.name.clone(), &facts, self.people.now))?;
        let mut eligible: BTreeMap<Option<&Name>, Vec<&Voter>> = BTreeMap::new();
        let mut unsure: Vec<&str> = Vec::new();
        for voter in self.voters.iter().filter(|v| v.id != actor.id && v.key != actor.key) {
            if self.ask(voter, Operation::Approve, EntityKind::Item).decision() != Decision::Allow {
                continue;
            }
            if rule.demand.assurance > Some(voter.assurance) {
                unsure.push(voter.id.as_str());
            } else {
                eligible.entry(voter.key.as_ref()).or_default().push(voter);
            }
        }
        let short = |what: String| Ok(Err(what + &to_enrol(&unsure)));
        let wanted = usize::try_from(rule.quorum.persons).unwrap_or(usize::MAX);
        if eligible.len() < wanted {
            return short(format!("asks for {wanted} persons, and {} may vote", eligible.len()));
        }
        let teams = distinct_teams(eligible.values());
        let wanted = usize::try_from(rule.quorum.distinct_teams).unwrap_or(usize::MAX);
        if teams < wanted {
            return short(format!("asks for {wanted} distinct teams, and {teams} can be represented"));
        }
        let represented: BTreeSet<&Name> = eligible.values().flatten().flat_map(|v| &v.groups).collect();
        match rule.quorum.groups.iter().find(|group| !represented.contains(group)) {
            Some(group) => short(format!("asks for someone of group `{group}`, and none of them may vote")),
            None => Ok(Ok(())),
        }
    }
}

/// Most persons who are named in one finding.
const NAMED: usize = 5;

/// Who would have to enrol before they can vote; nothing where that is not what is missing.
fn to_enrol(unsure: &[&str]) -> String {
    if unsure.is_empty() {
        return String::new();
    }
    let named: Vec<String> = unsure.iter().take(NAMED).map(|id| format!("`{id}`")).collect();
    let more = unsure.len().saturating_sub(NAMED);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!(
        ": it demands a login with a second factor, and {}{more} have none (`countersign person second-factor enrol`)",
        named.join(", ")
    )
}

fn voter(id: &Name, version: &EntityVersion, assurance: Assurance) -> Voter {
    use countersign_policy_decide::Attr;
    let key = match version.record().attrs.get("person") {
        Some(Attr::Text(key)) => Name::new(key).ok(),
        _ => None,
    };
    let of = |kind| version.ancestors().iter().filter(move |a| a.kind == kind);
    Voter {
        id: id.clone(),
        key,
        teams: of(EntityKind::Team).cloned().collect(),
        groups: of(EntityKind::Group).map(|g| g.id.clone()).collect(),
        assurance,
    }
}

/// The most teams that can be represented at once, each person standing for one of theirs (augmenting paths).
fn distinct_teams<'v>(persons: impl Iterator<Item = &'v Vec<&'v Voter>>) -> usize {
    let persons: Vec<BTreeSet<&EntityRef>> =
        persons.map(|accounts| accounts.iter().flat_map(|v| &v.teams).collect()).collect();
    let mut stands: BTreeMap<&EntityRef, usize> = BTreeMap::new();
    (0..persons.len()).filter(|person| place(*person, &persons, &mut stands, &mut BTreeSet::new())).count()
}

fn place<'v>(
    person: usize,
    persons: &[BTreeSet<&'v EntityRef>],
    stands: &mut BTreeMap<&'v EntityRef, usize>,
    tried: &mut BTreeSet<&'v EntityRef>,
) -> bool {
    for team in persons.get(person).into_iter().flatten().copied() {
        if !tried.insert(team) {
            continue;
        }
        let free = match stands.get(team).copied() {
            None => true,
            Some(other) => place(other, persons, stands, tried),
        };
        if free {
            stands.insert(team, person);
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests;
