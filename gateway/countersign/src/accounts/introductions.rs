//! What the engine must be told of accounts: who is who, and what policy may know of them.
//!
//! Absent: telling it (`accounts`), and the rows (`book`).

use std::collections::BTreeSet;

use countersign_gateway_engine::Known;
use countersign_gateway_identity::{
    AgentRecord, PersonRecord, RecordKey, RecordKind, SecondFactorRecord, ServiceAccountRecord, ServiceRecord,
    StoreError, Subject,
};
use countersign_gateway_model::{Name, OrgId, PrincipalKind, Pseudonym, Timestamp};
use countersign_policy_store::decide::{AgentFacts, PersonFacts, Record, ServiceFacts};

use super::book::{Book, Change, Handle};

/// One thing to tell.
#[derive(Debug)]
pub(super) enum Introduction {
    /// A principal.
    Principal { who: Pseudonym, known: Box<Known>, record: Record },
    /// Something that is no principal any more, or never was: a team, a group, an erased person.
    Other(Record),
}

/// The accounts that a set of changes can concern.
#[derive(Debug, Default)]
pub(super) struct Concerned {
    persons: BTreeSet<Name>,
    agents: BTreeSet<Name>,
    services: BTreeSet<Name>,
}

impl Concerned {
    /// By changes that are not taken up yet. Those that share a human being with a person are told again, as another of
    /// them may now be the first.
    pub(super) fn by(book: &Book, changes: &[Change]) -> Result<Self, StoreError> {
        let mut concerned = Self::default();
        for change in changes {
            let [before, after] = change.handles();
            if change.key().kind == RecordKind::SecondFactor && before == after {
                // A code was spent: nobody is told, or each login would make new versions of all that is known of its person.
                continue;
            }
            concerned.account(change.key())?;
            for handle in [before, after] {
                match handle {
                    Handle::Person { human, account } => {
                        concerned.persons.insert(account.clone());
                        concerned.persons.extend(book.accounts_of(change.key().org, human).cloned());
                    }
                    Handle::Credential { bound_to, .. } => concerned.subject(bound_to),
                    Handle::SecondFactor | Handle::Key => {}
                }
            }
        }
        Ok(concerned)
    }

    /// Everybody of an organization.
    pub(super) fn all(book: &Book, org: OrgId) -> Result<Self, StoreError> {
        let mut concerned = Self::default();
        for kind in [RecordKind::Person, RecordKind::Agent, RecordKind::Service] {
            for (key, _) in book.list(kind, Some(org), None) {
                concerned.account(key)?;
            }
        }
        Ok(concerned)
    }

    fn account(&mut self, key: &RecordKey) -> Result<(), StoreError> {
        let into = match key.kind {
            // A second factor goes by the id of its person.
            RecordKind::Person | RecordKind::SecondFactor => &mut self.persons,
            RecordKind::Agent => &mut self.agents,
            RecordKind::Service => &mut self.services,
            RecordKind::ServiceAccount | RecordKind::Enrolment | RecordKind::Pseudonym | RecordKind::Revocation => {
                return Ok(());
            }
        };
        into.insert(Name::new(&key.id).map_err(|e| StoreError::new("an account's id is no name", e))?);
        Ok(())
    }

    fn subject(&mut self, subject: &Subject) {
        match subject.kind() {
            PrincipalKind::Person => drop(self.persons.insert(subject.id().clone())),
            PrincipalKind::Agent => drop(self.agents.insert(subject.id().clone())),
            PrincipalKind::Service => drop(self.services.insert(subject.id().clone())),
            PrincipalKind::System => {}
        }
    }

    /// What to tell of them, by a book that has taken the changes up.
    pub(super) fn introductions(
        &self,
        book: &Book,
        org: OrgId,
        now: Timestamp,
    ) -> Result<Vec<Introduction>, StoreError> {
        let mut told = Telling { book, org, now, said: Vec::new() };
        for id in &self.persons {
            match book.record::<PersonRecord>(RecordKind::Person, org, id.as_str())? {
                Some(person) => told.person(person)?,
                // An erased person is nobody to policy: known by id, never active, without a role.
                None => {
                    told.said.push(Introduction::Other(Record::person(org, id.clone(), PersonFacts::default(), now)));
                }
            }
        }
        for id in &self.agents {
            if let Some(agent) = book.record::<AgentRecord>(RecordKind::Agent, org, id.as_str())? {
                told.agent(agent)?;
            }
        }
        for id in &self.services {
            if let Some(service) = book.record::<ServiceRecord>(RecordKind::Service, org, id.as_str())? {
                told.service(service)?;
            }
        }
        Ok(told.said)
    }
}

struct Telling<'a> {
    book: &'a Book,
    org: OrgId,
    now: Timestamp,
    said: Vec<Introduction>,
}

impl Telling<'_> {
    fn principal(&mut self, who: Pseudonym, known: Known, record: Record) {
        let (org, now) = (self.org, self.now);
        let teams = known.teams.iter().map(|team| Record::team(org, team.clone(), Vec::new(), now));
        let groups = known.groups.iter().map(|group| Record::group(org, group.clone(), Vec::new(), now));
        self.said.extend(groups.chain(teams).map(Introduction::Other));
        self.said.push(Introduction::Principal { who, known: Box::new(known), record });
    }

    fn person(&mut self, person: PersonRecord) -> Result<(), StoreError> {
        let facts = PersonFacts {
            active: !person.disabled,
            roles: person.roles,
            teams: person.teams.clone(),
            groups: person.groups.clone(),
            person: person.person.clone(),
        };
        let record = Record::person(self.org, person.id.clone(), facts, self.now);
        let factor: Option<SecondFactorRecord> =
            self.book.record(RecordKind::SecondFactor, self.org, person.id.as_str())?;
        let known = Known {
            kind: PrincipalKind::Person,
            id: person.id,
            person: person.person.as_ref().map(|human| self.first(human)).transpose()?.flatten(),
            person_key: person.person,
            owner: None,
            issuers: BTreeSet::new(),
            teams: person.teams,
            groups: person.groups,
            second_factor: factor.is_some_and(|factor| factor.is_in_force()),
        };
        self.principal(person.pseudonym, known, record);
        Ok(())
    }

    /// The oldest account stands for the human being behind all of them.
    fn first(&self, human: &Name) -> Result<Option<Pseudonym>, StoreError> {
        let mut oldest: Option<(Timestamp, Pseudonym)> = None;
        for id in self.book.accounts_of(self.org, human) {
            let account: Option<PersonRecord> = self.book.record(RecordKind::Person, self.org, id.as_str())?;
            if let Some(account) = account {
                let this = (account.created, account.pseudonym);
                oldest = Some(oldest.map_or(this, |oldest| oldest.min(this)));
            }
        }
        Ok(oldest.map(|(_, pseudonym)| pseudonym))
    }

    fn issuers(&self, subject: &Subject) -> Result<BTreeSet<Pseudonym>, StoreError> {
        let mut issuers = BTreeSet::new();
        for id in self.book.credentials_of(self.org, subject) {
            let account: Option<ServiceAccountRecord> =
                self.book.record(RecordKind::ServiceAccount, self.org, id.as_str())?;
            issuers.extend(account.and_then(|account| self.book.pseudonym(self.org, &account.issued_by)));
        }
        Ok(issuers)
    }

    fn agent(&mut self, agent: AgentRecord) -> Result<(), StoreError> {
        let known = Known {
            kind: PrincipalKind::Agent,
            id: agent.id.clone(),
            person: None,
            person_key: None,
            owner: self.book.pseudonym(self.org, &Subject::person(agent.owner.clone())),
            issuers: self.issuers(&Subject::agent(agent.id.clone()))?,
            teams: agent.teams.clone(),
            groups: Vec::new(),
            second_factor: false,
        };
        let facts = AgentFacts {
            active: !agent.disabled,
            owner: agent.owner,
            autonomy: agent.autonomy,
            scopes: agent.scopes,
            teams: agent.teams,
        };
        let record = Record::agent(self.org, agent.id, facts, self.now);
        self.principal(agent.pseudonym, known, record);
        Ok(())
    }

    fn service(&mut self, service: ServiceRecord) -> Result<(), StoreError> {
        let known = Known {
            kind: PrincipalKind::Service,
            id: service.id.clone(),
            person: None,
            person_key: None,
            owner: self.book.pseudonym(self.org, &Subject::person(service.owner.clone())),
            issuers: self.issuers(&Subject::service(service.id.clone()))?,
            teams: service.teams.clone(),
            groups: Vec::new(),
            second_factor: false,
        };
        let facts = ServiceFacts {
            active: !service.disabled,
            owner: Some(service.owner),
            scopes: service.scopes,
            purpose: None,
            teams: service.teams,
        };
        let record = Record::service(self.org, service.id, facts, self.now);
        self.principal(service.pseudonym, known, record);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use countersign_gateway_identity::Stored;
    use countersign_gateway_model::Digest;
    use proptest::prelude::*;
    use serde::Serialize;

    use super::*;

    const ORG: OrgId = OrgId::from_bytes([7; 16]);
    const OTHER: OrgId = OrgId::from_bytes([9; 16]);

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn at(millis: u64) -> Timestamp {
        Timestamp(millis)
    }

    fn who(kind: u8, id: u8) -> Pseudonym {
        Pseudonym::from_bytes([1, kind, id, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    }

    fn stored(record: &impl Serialize) -> Stored {
        Stored { version: 1, value: serde_json::to_vec(record).unwrap() }
    }

    fn person(org: OrgId, id: u8, human: Option<u8>, created: u64, disabled: bool) -> (RecordKey, Stored) {
        let record = PersonRecord {
            org,
            id: name(&format!("p{id}")),
            pseudonym: who(0, id),
            display_name: String::new(),
            roles: vec![name("owner")],
            teams: vec![name("blue")],
            groups: vec![name("legal")],
            person: human.map(|human| name(&format!("h{human}"))),
            password: None,
            demo: false,
            credential: name("pw_1"),
            disabled,
            created: at(created),
            created_by: None,
        };
        (RecordKey::new(RecordKind::Person, org, format!("p{id}")), stored(&record))
    }

    fn agent(org: OrgId, id: u8, autonomy: u8) -> (RecordKey, Stored) {
        let record = AgentRecord {
            org,
            id: name(&format!("a{id}")),
            pseudonym: who(1, id),
            display_name: String::new(),
            owner: name("p0"),
            teams: vec![name("blue")],
            autonomy,
            scopes: Vec::new(),
            disabled: false,
            created: at(1),
            created_by: Subject::person(name("p0")),
        };
        (RecordKey::new(RecordKind::Agent, org, format!("a{id}")), stored(&record))
    }

    fn credential(org: OrgId, id: u8, agent: u8, issuer: u8) -> (RecordKey, Stored) {
        let record = ServiceAccountRecord {
            client_id: name(&format!("client_{id}")),
            org,
            bound_to: Subject::agent(name(&format!("a{agent}"))),
            secret: Digest([0; 32]),
            generation: 1,
            issued_by: Subject::person(name(&format!("p{issuer}"))),
            created: at(1),
            expires: None,
            disabled: false,
        };
        (RecordKey::new(RecordKind::ServiceAccount, org, format!("client_{id}")), stored(&record))
    }

    fn factor(org: OrgId, id: u8, in_force: bool) -> (RecordKey, Stored) {
        let record = serde_json::json!({
            "org": org, "person": format!("p{id}"), "id": format!("otp_{id}"), "secret": "A", "begun": 1,
            "in_force": in_force.then_some(2), "last_step": 0,
        });
        (RecordKey::new(RecordKind::SecondFactor, org, format!("p{id}")), stored(&record))
    }

    /// A row that is written, or one that is taken away.
    fn step() -> impl Strategy<Value = (RecordKey, Option<Stored>)> {
        let org = prop_oneof![Just(ORG), Just(OTHER)];
        let written = prop_oneof![
            // `p0` owns and issues: what is told of an agent names it, and a real owner is not erased before the agent.
            (org.clone(), 0..6u8, prop::option::of(0..2u8), 0..4u64, any::<bool>())
                .prop_map(|(org, id, human, created, disabled)| (person(org, id, human, created, disabled), id > 3)),
            (org.clone(), 0..6u8, any::<bool>()).prop_map(|(org, id, in_force)| (factor(org, id, in_force), true)),
            (org.clone(), 0..3u8, 0..4u8).prop_map(|(org, id, autonomy)| (agent(org, id, autonomy), false)),
            // Client ids are unique over all organizations.
            (0..4u8, 0..3u8, 0..4u8).prop_map(|(id, agent, issuer)| (
                credential(if id < 2 { ORG } else { OTHER }, id, agent, issuer),
                true
            )),
        ];
        (written, any::<bool>())
            .prop_map(|(((key, stored), may_go), gone)| (key, (!(may_go && gone)).then_some(stored)))
    }

    fn told(into: &mut BTreeMap<String, String>, introductions: Vec<Introduction>) {
        for introduction in introductions {
            match introduction {
                Introduction::Principal { who, known, record } => {
                    into.insert(record.entity.to_string(), format!("{who} {known:?} {record:?}"));
                }
                Introduction::Other(record) => {
                    into.insert(record.entity.to_string(), format!("{record:?}"));
                }
            }
        }
    }

    proptest! {
        /// The whole of a directory told at once is the oracle: a change must tell all that it concerns.
        #[test]
        fn a_change_tells_all_that_it_concerns(steps in prop::collection::vec(step(), 1..40)) {
            let (mut book, mut naive, mut heard) = (Book::default(), BTreeMap::new(), BTreeMap::new());
            for id in 0..4 {
                for (key, stored) in [person(ORG, id, None, 9, false), person(OTHER, id, None, 9, false)] {
                    let change = book.change(key.clone(), Some(stored.clone())).unwrap();
                    book.take_up(change);
                    naive.insert(key, stored);
                }
            }
            told(&mut heard, Concerned::all(&book, ORG).unwrap().introductions(&book, ORG, at(0)).unwrap());
            for (key, stored) in steps {
                let org = key.org;
                let changes = vec![book.change(key.clone(), stored.clone()).unwrap()];
                let concerned = Concerned::by(&book, &changes).unwrap();
                for change in changes {
                    book.take_up(change);
                }
                let said = concerned.introductions(&book, org, at(0)).unwrap();
                if org == ORG {
                    told(&mut heard, said);
                }
                match stored {
                    Some(stored) => drop(naive.insert(key, stored)),
                    None => drop(naive.remove(&key)),
                }
                let mut whole = BTreeMap::new();
                told(&mut whole, Concerned::all(&book, ORG).unwrap().introductions(&book, ORG, at(0)).unwrap());
                for (entity, said) in &whole {
                    prop_assert_eq!(heard.get(entity), Some(said));
                }
                for kind in RecordKind::ALL {
                    for org in [None, Some(ORG), Some(OTHER)] {
                        let of = |key: &RecordKey| key.kind == kind && org.is_none_or(|org| key.org == org);
                        let all: Vec<_> = naive.iter().filter(|(key, _)| of(key)).collect();
                        prop_assert_eq!(book.list(kind, org, None).collect::<Vec<_>>(), all.clone());
                        for after in naive.keys() {
                            let rest: Vec<_> = all.iter().copied().filter(|(key, _)| *key > after).collect();
                            prop_assert_eq!(book.list(kind, org, Some(after)).collect::<Vec<_>>(), rest);
                        }
                    }
                }
                for id in 0..4 {
                    let id = format!("client_{id}");
                    let found = naive.iter().find(|(key, _)| key.kind == RecordKind::ServiceAccount && key.id == id);
                    prop_assert_eq!(book.find(RecordKind::ServiceAccount, &id), found);
                }
            }
            // Read again from what is stored it is the same book: every change keeps what rows are looked up by.
            let mut again = Book::default();
            for org in [ORG, OTHER, ORG] {
                let mut fresh = Book::default();
                for (key, stored) in naive.iter().filter(|(key, _)| key.org == org) {
                    let change = fresh.change(key.clone(), Some(stored.clone())).unwrap();
                    fresh.take_up(change);
                }
                again.replace(org, fresh);
            }
            prop_assert_eq!(again, book);
        }
    }
}
