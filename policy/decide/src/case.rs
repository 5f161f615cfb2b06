//! A bundle's own tests: questions with the answers that are expected, as data.
//!
//! ```json
//! {"entities": [{"entity": "Person::alice", "attrs": {"active": true}, "roles": ["APPROVER"], "in": ["Team::core"]}],
//!  "cases": [{"name": "alice may read",
//!             "ask": {"asked": "Person::alice", "op": "listTools", "resource": "Organization::self"},
//!             "expect": {"decision": "allow", "determining": ["read"]}}]}
//! ```
//!
//! Entities and questions have their stored forms, without the organization. `expect` names a decision, and may name
//! `rules` (all of them), `determining` (all of them), `error`, `agent_message` and `input`: what masks and transforms leave
//! of the input. Run with the production slicer; transforms that policy asks for are applied, as for any proposal.
//! Absent: files. Read next: `policy/bundle`.

use countersign_gateway_model::{Decision, Name};

use crate::chain::decide_chain;
use crate::counters::decimal;
use crate::decide::{Answer, combine, decide};
use crate::entity::{EntityError, Record};
use crate::json::{Json, JsonError};
use crate::question::{Question, QuestionError};
use crate::shape::below;
use crate::snapshot::PolicySnapshot;
use crate::store::EntityStore;

/// One file of tests.
#[derive(Clone, Debug)]
pub struct CaseFile {
    entities: Vec<Json>,
    cases: Vec<Case>,
}

/// One question with its expected answer.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it shows.
    pub name: String,
    ask: Json,
    expect: Expect,
}

#[derive(Clone, Debug)]
struct Expect {
    decision: Decision,
    rules: Option<Vec<Name>>,
    determining: Option<Vec<Name>>,
    error: Option<bool>,
    agent_message: Option<String>,
    input: Option<Json>,
}

/// Why a test file cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum CaseError {
    /// Not strict JSON.
    #[error("the test file cannot be read")]
    Json(#[from] JsonError),
    /// Another shape, at a JSON pointer.
    #[error("the test file has a wrong shape at `{0}`")]
    Shape(String),
    /// An entity of the file.
    #[error("entity {index} of the test file")]
    Entity {
        /// Which, from 0.
        index: usize,
        /// Why.
        source: EntityError,
    },
}

impl CaseError {
    /// Where in the file: JSON pointers, the likeliest first; none where the file is no JSON.
    pub fn at(&self) -> Vec<String> {
        match self {
            Self::Json(_) => Vec::new(),
            Self::Shape(at) => vec![at.clone()],
            Self::Entity { index, source: EntityError::Shape(key) } => {
                let key = key.replace('~', "~0").replace('/', "~1");
                vec![format!("/entities/{index}/attrs/{key}"), format!("/entities/{index}/{key}")]
            }
            Self::Entity { index, .. } => vec![format!("/entities/{index}")],
        }
    }
}

/// How one case went.
#[derive(Debug)]
pub struct CaseOutcome {
    /// What it shows.
    pub name: String,
    /// What policy said in the end; `None` if the question cannot be read.
    pub answer: Option<Answer>,
    /// The policies that asked for a transform of the input, where one was applied before that.
    pub transforming: Vec<Name>,
    /// What differs from what was expected, in words; `None`: passed.
    pub failure: Option<String>,
}

impl CaseFile {
    /// Reads a test file.
    pub fn parse(bytes: &[u8]) -> Result<Self, CaseError> {
        let json = Json::parse(bytes)?;
        let bad = |at: &str| CaseError::Shape(at.to_owned());
        let members = json.as_object().ok_or_else(|| bad(""))?;
        if let Some((key, _)) = members.iter().find(|(k, _)| k != "entities" && k != "cases") {
            return Err(bad(&below("", key)));
        }
        let list = |key: &str| match json.get(key) {
            None => Ok(&[][..]),
            Some(list) => list.as_array().ok_or_else(|| bad(&below("", key))),
        };
        let cases = list("cases")?
            .iter()
            .enumerate()
            .map(|(i, case)| Case::parse(case, &format!("/cases/{i}")).map_err(CaseError::Shape))
            .collect::<Result<_, _>>()?;
        Ok(Self { entities: list("entities")?.to_vec(), cases })
    }

    /// The cases.
    pub fn cases(&self) -> &[Case] {
        &self.cases
    }

    /// A store that holds the file's entities.
    pub fn store(&self, snapshot: &PolicySnapshot) -> Result<EntityStore, CaseError> {
        let store = EntityStore::new();
        for (index, json) in self.entities.iter().enumerate() {
            Record::from_json(snapshot.org(), json)
                .and_then(|record| store.put(record))
                .map_err(|source| CaseError::Entity { index, source })?;
        }
        Ok(store)
    }

    /// Asks every question of a snapshot.
    pub fn run(&self, snapshot: &PolicySnapshot) -> Result<Vec<CaseOutcome>, CaseError> {
        let store = self.store(snapshot)?;
        Ok(self.cases.iter().map(|case| case.run(snapshot, &store)).collect())
    }
}

impl Case {
    /// The error says where.
    fn parse(json: &Json, at: &str) -> Result<Self, String> {
        const KEYS: [&str; 3] = ["name", "ask", "expect"];
        const EXPECT: [&str; 6] = ["decision", "rules", "determining", "error", "agent_message", "input"];
        let known = |json: &Json, at: &str, keys: &[&str]| {
            let members = json.as_object().ok_or_else(|| at.to_owned())?;
            let other = members.iter().find(|(key, _)| !keys.contains(&key.as_str()));
            other.map_or(Ok(()), |(key, _)| Err(below(at, key)))
        };
        known(json, at, &KEYS)?;
        let (asked, expected) = (below(at, "ask"), below(at, "expect"));
        let expect = json.get("expect").ok_or_else(|| expected.clone())?;
        known(expect, &expected, &EXPECT)?;
        // What is absent is left open; what is there must read.
        let member = |key: &str| (expect.get(key), below(&expected, key));
        let names = |key: &str| {
            let (Some(list), at) = member(key) else { return Ok(None) };
            let mut names = Vec::new();
            for (i, name) in list.as_array().ok_or_else(|| at.clone())?.iter().enumerate() {
                let name = name.as_text().and_then(|text| Name::new(text).ok());
                names.push(name.ok_or_else(|| below(&at, &i.to_string()))?);
            }
            names.sort();
            Ok::<_, String>(Some(names))
        };
        let (decision, place) = member("decision");
        let decision = match decision.and_then(Json::as_text) {
            Some("allow") => Decision::Allow,
            Some("needs_approval") => Decision::NeedsApproval,
            Some("deny") => Decision::Deny,
            _ => return Err(place),
        };
        let agent_message = match member("agent_message") {
            (None, _) => None,
            (Some(text), place) => Some(text.as_text().ok_or(place)?.to_owned()),
        };
        let error = match member("error") {
            (None, _) => None,
            (Some(error), place) => Some(error.as_bool().ok_or(place)?),
        };
        Ok(Self {
            name: json.get("name").and_then(Json::as_text).ok_or_else(|| below(at, "name"))?.to_owned(),
            ask: json.get("ask").ok_or(asked)?.clone(),
            expect: Expect {
                decision,
                rules: names("rules")?,
                determining: names("determining")?,
                error,
                agent_message,
                input: member("input").0.cloned(),
            },
        })
    }

    /// The question, typed by the snapshot's catalogue. A counter that it does not name stands at zero.
    pub fn question(&self, snapshot: &PolicySnapshot) -> Result<Question, QuestionError> {
        let mut question = Question::proposed(&self.ask, snapshot)?;
        for counter in snapshot.counters().keys() {
            question.counters.entry(counter.clone()).or_insert_with(|| decimal(0));
        }
        Ok(question)
    }

    fn run(&self, snapshot: &PolicySnapshot, store: &EntityStore) -> CaseOutcome {
        match self.question(snapshot) {
            Ok(question) => {
                let tried = tried(snapshot, store, question);
                let failure = self.expect.differs(&tried);
                let Tried { answer, transforming, .. } = tried;
                CaseOutcome { name: self.name.clone(), failure, answer: Some(answer), transforming }
            }
            Err(error) => {
                let failure = Some(words(&error));
                CaseOutcome { name: self.name.clone(), answer: None, transforming: Vec::new(), failure }
            }
        }
    }
}

/// What policy says to a question of one principal, as to a proposal: transforms that it asks for are applied first.
#[derive(Clone, Debug)]
pub struct Tried {
    /// The answer in the end.
    pub answer: Answer,
    /// The policies that asked for a transform of the input, where one was applied before that.
    pub transforming: Vec<Name>,
    /// The question as it was answered in the end.
    pub question: Question,
}

/// Asks one question as the gateway asks about a proposal.
pub fn tried(snapshot: &PolicySnapshot, store: &EntityStore, question: Question) -> Tried {
    let slice = store.slice(snapshot, &question);
    let first = decide(snapshot, &slice, &question);
    if first.transforms.is_empty() {
        return Tried { answer: first, transforming: Vec::new(), question };
    }
    let mut decided = decide_chain(snapshot, std::slice::from_ref(&slice), vec![question.clone()]);
    Tried {
        // One question in, one question and one answer out.
        answer: decided.answers.pop().unwrap_or_else(|| first.clone()),
        transforming: first.determining,
        question: decided.questions.pop().unwrap_or(question),
    }
}

fn words(error: &QuestionError) -> String {
    crate::schema::report(error)
}

impl Expect {
    fn differs(&self, tried: &Tried) -> Option<String> {
        let answer = &tried.answer;
        let (verdict, _) = combine(std::slice::from_ref(answer));
        let input = tried.question.input.as_ref().map(|input| input.canonical());
        if let Some(expected) = self.input.as_ref().map(Json::canonical)
            && input != Some(expected.as_slice())
        {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let got = input.map_or_else(|| "none".to_owned(), text);
            return Some(format!("expected input {}, got {got}", text(&expected)));
        }
        let agrees = verdict.decision == self.decision
            && self.rules.as_ref().is_none_or(|rules| *rules == verdict.rules)
            && self.determining.as_ref().is_none_or(|ids| *ids == answer.determining)
            && self.error.is_none_or(|error| error == verdict.error)
            && self.agent_message.as_ref().is_none_or(|m| Some(m) == answer.agent_message.as_ref());
        if agrees {
            return None;
        }
        let reasons: Vec<String> = answer.reasons.iter().map(|r| format!("{}: {}", r.policy, r.text)).collect();
        Some(format!(
            "expected {:?}{}{}, got {:?} with rules {:?} by {:?} ({})",
            self.decision,
            self.rules.as_ref().map(|r| format!(" with rules {r:?}")).unwrap_or_default(),
            self.determining.as_ref().map(|d| format!(" by {d:?}")).unwrap_or_default(),
            verdict.decision,
            verdict.rules,
            answer.determining,
            reasons.join("; ")
        ))
    }
}
