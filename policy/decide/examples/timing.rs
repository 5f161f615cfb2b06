//! Prints what one decision costs at the size of the default bundle, step by step. Run with `--release`.

#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "a program for people at a terminal that measures")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use countersign_gateway_model::{Digest, Name, OrgId, Timestamp};
use countersign_policy_decide::catalogue::Catalogue;
use countersign_policy_decide::data::Roles;
use countersign_policy_decide::rules::Rules;
use countersign_policy_decide::{
    AgentFacts, EntityKind, EntityRef, EntityStore, InstanceFacts, Operation, PersonFacts, PolicyParts, PolicySnapshot,
    Question, Record, WorkflowFacts, decide, decide_by_full_walk, input,
};

macro_rules! default_file {
    ($path:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../bundles/default/", $path))
    };
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn measure<T>(what: &str, mut work: impl FnMut() -> T) {
    let mut times = Vec::with_capacity(20_000);
    let begin = Instant::now();
    while times.len() < 20_000 && begin.elapsed().as_secs() < 2 {
        let start = Instant::now();
        black_box(work());
        times.push(start.elapsed().as_nanos());
    }
    times.sort_unstable();
    let at = |per_mille: usize| times.get(times.len() * per_mille / 1000).copied().unwrap_or(0);
    println!("{what:<52} median {:>8} ns   p99 {:>8} ns", at(500), at(990));
}

fn main() {
    let org = OrgId::from_bytes([1; 16]);
    let grants: usize = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    let mut policies = BTreeMap::from([("policies.cedar".to_owned(), default_file!("policies.cedar").to_owned())]);
    let mut text = String::new();
    for i in 0..grants {
        let _ = writeln!(
            text,
            "@id(\"grant-{i}\") permit (principal == Countersign::Agent::\"{org}/a{}\", action == \
             Countersign::Action::\"dispatch:repo.read\", resource == Countersign::Tool::\"{org}/repo.read\") when {{ \
             context has instance && context.instance.state == Countersign::State::\"RUNNING\" }};",
            i % 500
        );
    }
    policies.insert("grants.cedar".to_owned(), text);
    let parts = PolicyParts {
        bundle: Digest([7; 32]),
        policies,
        rules: Rules::parse(default_file!("rules.json").as_bytes()).unwrap(),
        roles: Roles::parse(default_file!("roles.json").as_bytes()).unwrap().roles.into_keys().collect(),
        catalogue: Some(Catalogue::parse(default_file!("tools/catalogue.json").as_bytes()).unwrap()),
        ..PolicyParts::recovery(org)
    };
    let start = Instant::now();
    let snapshot = PolicySnapshot::build(parts).unwrap();
    println!("{} policies, built in {:?}", snapshot.policies().len(), start.elapsed());

    let store = EntityStore::new();
    let at = Timestamp(1_795_219_200_000);
    store.put(Record::team(org, name("core"), vec![], at)).unwrap();
    for person in ["olga", "ida"] {
        let facts = PersonFacts { active: true, teams: vec![name("core")], ..PersonFacts::default() };
        store.put(Record::person(org, name(person), facts, at)).unwrap();
    }
    let scopes = vec![name("repo:read"), name("repo:write")];
    let agent = AgentFacts { active: true, owner: name("olga"), autonomy: 1, scopes, teams: vec![name("core")] };
    store.put(Record::agent(org, name("a1"), agent, at)).unwrap();
    let workflow =
        WorkflowFacts { team: Some(name("core")), materiality: 1, version: "1".into(), ..Default::default() };
    store.put(Record::workflow(org, name("fix"), workflow, at)).unwrap();
    let instance = InstanceFacts {
        workflow: name("fix"),
        state: countersign_gateway_model::State::Running,
        actor: EntityRef::new(org, EntityKind::Agent, name("a1")),
        initiator: EntityRef::new(org, EntityKind::Person, name("ida")),
        owner: Some(name("olga")),
        accountable: name("ida"),
        parent: None,
        team: Some(name("core")),
        legal_hold: false,
        frozen: false,
    };
    store.put(Record::instance(org, name("i1"), instance.clone(), at)).unwrap();

    let tool = Arc::clone(snapshot.tool("repo.read").unwrap());
    let bytes = br#"{"path":"src/add.sh"}"#;
    let ask = || {
        let mut question = Question::new(
            EntityRef::new(org, EntityKind::Agent, name("a1")),
            Operation::Dispatch,
            EntityRef::new(org, EntityKind::Tool, name("repo.read")),
            at,
        );
        question.instance = Some(EntityRef::new(org, EntityKind::Instance, name("i1")));
        question.input = Some(Arc::new(input::parse(&tool, bytes).unwrap()));
        question.scopes.insert("act");
        question
    };
    let question = ask();
    let slice = store.slice(&snapshot, &question);
    let answer = decide(&snapshot, &slice, &question);
    println!("{answer:?}\n{}", String::from_utf8(question.canonical()).unwrap());
    measure("typed input", || input::parse(&tool, bytes).unwrap());
    measure("question with typed input", ask);
    measure("canonical form of the question", || question.canonical());
    measure("slice", || store.slice(&snapshot, &question));
    measure("decide (context, validated request, evaluation)", || decide(&snapshot, &slice, &question));
    measure("decide by full walk", || decide_by_full_walk(&snapshot, &slice, &question));
    measure("whole: question, slice, decide, canonical form", || {
        let question = ask();
        let slice = store.slice(&snapshot, &question);
        (decide(&snapshot, &slice, &question), question.canonical())
    });
    measure("put an instance version", || store.put(Record::instance(org, name("i1"), instance.clone(), at)).unwrap());
}
