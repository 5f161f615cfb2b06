//! Prints how many questions of the past a backtest asks in a second: the default bundle against a changed one, on one
//! core and on two. Run with `--profile dist`; the first argument is how many questions.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a program for people at a terminal that measures"
)]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use countersign_gateway_model::{Digest, Name, OrgId, State, Timestamp};
use countersign_policy_bundle::{
    Backtest, BacktestReport, Draft, Limits, StoredQuestion, StoredQuestions, backtest, check_draft,
};
use countersign_policy_decide::catalogue::Catalogue;
use countersign_policy_decide::{
    AgentFacts, EntityKind, EntityRef, EntityStore, InstanceFacts, Operation, PersonFacts, PolicySnapshot, Question,
    Record, WorkflowFacts, decide, input,
};

macro_rules! default_file {
    ($path:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../bundles/default/", $path))
    };
}

const NOW: Timestamp = Timestamp(1_795_219_200_000);
const AGENTS: usize = 200;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn org() -> OrgId {
    OrgId::from_bytes([1; 16])
}

fn snapshot(policies: &str) -> Arc<PolicySnapshot> {
    let files = [
        ("policies.cedar", policies),
        ("rules.json", default_file!("rules.json")),
        ("roles.json", default_file!("roles.json")),
    ];
    let draft = Draft::from_files(files.map(|(path, text)| (path.to_owned(), text.as_bytes().to_vec()))).unwrap();
    let catalogue = Catalogue::parse(default_file!("tools/catalogue.json").as_bytes()).unwrap();
    Arc::clone(check_draft(&draft, org(), Some(&catalogue)).accepted().unwrap())
}

fn world() -> EntityStore {
    let store = EntityStore::new();
    let facts = PersonFacts { active: true, ..PersonFacts::default() };
    store.put(Record::person(org(), name("p"), facts, NOW)).unwrap();
    let facts = WorkflowFacts { version: "1".to_owned(), ..WorkflowFacts::default() };
    store.put(Record::workflow(org(), name("w"), facts, NOW)).unwrap();
    for n in 0..AGENTS {
        let scopes = ["repo:read", "repo:merge", "payments:refund"].map(name).to_vec();
        let facts = AgentFacts { active: true, owner: name("p"), autonomy: 2, scopes, teams: vec![] };
        store.put(Record::agent(org(), name(&format!("a{n}")), facts, NOW)).unwrap();
        let facts = InstanceFacts {
            workflow: name("w"),
            state: State::Running,
            actor: EntityRef::new(org(), EntityKind::Agent, name(&format!("a{n}"))),
            initiator: EntityRef::new(org(), EntityKind::Person, name("p")),
            owner: None,
            accountable: name("p"),
            parent: None,
            team: None,
            legal_hold: false,
            frozen: false,
        };
        store.put(Record::instance(org(), name(&format!("i{n}")), facts, NOW)).unwrap();
    }
    store
}

/// A part of what was recorded, as a log gives it: bytes.
struct Past<'p> {
    questions: std::slice::Iter<'p, StoredQuestion>,
    blobs: &'p HashMap<Digest, Vec<u8>>,
}

impl StoredQuestions for Past<'_> {
    type Error = std::convert::Infallible;

    fn next(&mut self) -> Result<Option<StoredQuestion>, Self::Error> {
        Ok(self.questions.next().cloned())
    }

    fn entity(&mut self, digest: &Digest) -> Result<Option<Vec<u8>>, Self::Error> {
        Ok(self.blobs.get(digest).cloned())
    }
}

fn record(snapshot: &PolicySnapshot, count: usize) -> (Vec<StoredQuestion>, HashMap<Digest, Vec<u8>>) {
    let store = world();
    let mut blobs = HashMap::new();
    let inputs = [
        ("repo.read", r#"{"path":"src/main.rs"}"#),
        ("repo.merge", r#"{"branch":"main"}"#),
        ("payments.refund", r#"{"amount":12.5,"currency":"EUR","order":"o1"}"#),
    ];
    // Eight of ten read.
    let [read, merge, refund] = inputs;
    let questions = (0..count).map(|n| {
        let (tool, given) = match n % 10 {
            8 => merge,
            9 => refund,
            _ => read,
        };
        let compiled = snapshot.tool(tool).unwrap();
        let operation = if compiled.tool.runner.is_some() { Operation::Dispatch } else { Operation::CallTool };
        let asked = EntityRef::new(org(), EntityKind::Agent, name(&format!("a{}", n % AGENTS)));
        let resource = EntityRef::new(org(), EntityKind::Tool, name(tool));
        let mut question = Question::new(asked, operation, resource, Timestamp(NOW.0 + n as u64));
        question.input = Some(Arc::new(input::parse(compiled, given.as_bytes()).unwrap()));
        question.instance = Some(EntityRef::new(org(), EntityKind::Instance, name(&format!("i{}", n % AGENTS))));
        let slice = store.slice(snapshot, &question);
        let answer = decide(snapshot, &slice, &question);
        let mut entities = Vec::new();
        for member in slice.members() {
            entities.push(member.digest());
            blobs.entry(member.digest()).or_insert_with(|| member.blob().to_vec());
        }
        StoredQuestion {
            index: n as u64,
            questions: vec![question.canonical()],
            entities,
            verdict: answer.verdict,
            determining: answer.determining,
        }
    });
    (questions.collect(), blobs)
}

fn say(what: &str, count: usize, begin: Instant, report: &BacktestReport) {
    let seconds = begin.elapsed().as_secs_f64();
    let each = seconds * 1e6 / count as f64;
    println!(
        "{what:<12} {count} questions in {seconds:.2} s: {:.0}/s, {each:.1} us each; a million in {:.0} s; changed {}",
        count as f64 / seconds,
        each,
        report.all.changes()
    );
}

fn main() {
    let count: usize = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(100_000);
    let old = snapshot(default_file!("policies.cedar"));
    let changed = default_file!("policies.cedar")
        .replace("context.input.path like \"*.pem\"", "context.input.path like \"*.rs\"");
    let new = snapshot(&changed);
    let (questions, blobs) = record(&old, count);

    let begin = Instant::now();
    let mut past = Past { questions: questions.iter(), blobs: &blobs };
    let Ok(whole) = backtest(&new, &mut past, Limits::default(), &mut |_| {});
    say("one core", count, begin, &whole);

    let begin = Instant::now();
    let parts: Vec<BacktestReport> = std::thread::scope(|scope| {
        let halves = questions.chunks(count.div_ceil(2));
        let workers: Vec<_> = halves
            .map(|half| {
                let (new, blobs) = (Arc::clone(&new), &blobs);
                scope.spawn(move || {
                    let mut fold = Backtest::new(new, Limits::default());
                    for stored in half {
                        let Ok(()) =
                            fold.ask(stored, |digest| Ok::<_, std::convert::Infallible>(blobs.get(digest).cloned()));
                    }
                    fold.finish()
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    let mut parts = parts.into_iter();
    let mut merged = parts.next().unwrap();
    for part in parts {
        merged.merge(part);
    }
    say("two cores", count, begin, &merged);
    assert_eq!(merged, whole);
}
