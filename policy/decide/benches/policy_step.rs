//! What the whole policy step costs: typed input, question, closed slice, context, validated request, decision.
//!
//! `cargo bench --profile dist --bench policy_step` prints a table first: median and 99th percentile of single calls, by the
//! wall clock and by the CPU time of this thread (a busy machine spoils only the former), beside a bare
//! `is_authorized` over the same policies in the same run. Then Criterion measures the same steps.
//! Absent: the store's writes, the ledger. The promise: at most 100 µs at the 99th percentile with 10,000 grants.

#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "a program for people at a terminal that measures")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cedar_policy::{Authorizer, Context, Entities, EntityUid, Request, RestrictedExpression};
use countersign_gateway_model::{Digest, Name, OrgId, State, Timestamp};
use countersign_policy_decide::catalogue::Catalogue;
use countersign_policy_decide::data::Roles;
use countersign_policy_decide::rules::Rules;
use countersign_policy_decide::{
    AgentFacts, EntityKind, EntityRef, EntityStore, InstanceFacts, Operation, PersonFacts, PolicyParts, PolicySnapshot,
    Question, Record, WorkflowFacts, decide, decide_by_full_walk, input,
};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use nix::time::{ClockId, clock_gettime};

/// The program's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

macro_rules! default_file {
    ($path:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../bundles/default/", $path))
    };
}

const AT: Timestamp = Timestamp(1_795_219_200_000);

/// How many grants one agent holds, over the tools of the catalogue.
const PER_AGENT: usize = 10;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn org() -> OrgId {
    OrgId::from_bytes([1; 16])
}

fn entity(kind: EntityKind, id: &str) -> EntityRef {
    EntityRef::new(org(), kind, name(id))
}

/// The default bundle with `policies` and `tools` beside it.
fn snapshot(policies: String, tools: usize) -> PolicySnapshot {
    snapshot_with(policies, tools, &[])
}

/// The same with some of the policies in shadow.
fn snapshot_with(policies: String, tools: usize, shadow: &[&str]) -> PolicySnapshot {
    let mut catalogue = Catalogue::parse(default_file!("tools/catalogue.json").as_bytes()).unwrap();
    let model = catalogue.tools.iter().find(|t| t.name.as_str() == "repo.read").unwrap().clone();
    catalogue.tools.extend((0..tools).map(|i| {
        let mut tool = model.clone();
        tool.name = name(&format!("server{}.tool{i}", i % 40));
        tool
    }));
    let parts = PolicyParts {
        bundle: Digest([7; 32]),
        policies: BTreeMap::from([
            ("policies.cedar".to_owned(), default_file!("policies.cedar").to_owned()),
            ("more.cedar".to_owned(), policies),
        ]),
        rules: Rules::parse(default_file!("rules.json").as_bytes()).unwrap(),
        roles: Roles::parse(default_file!("roles.json").as_bytes()).unwrap().roles.into_keys().collect(),
        catalogue: Some(catalogue),
        shadow: shadow.iter().map(|id| (name(id), Timestamp(u64::MAX))).collect(),
        ..PolicyParts::recovery(org())
    };
    PolicySnapshot::build(parts).unwrap()
}

/// `count` grants, [`PER_AGENT`] to each agent, over the tools of the default catalogue.
fn grants(count: usize) -> String {
    let tools = Catalogue::parse(default_file!("tools/catalogue.json").as_bytes()).unwrap().tools;
    let mut text = String::new();
    for i in 0..count {
        let tool = tools.get(i % PER_AGENT % tools.len()).unwrap();
        let group = if tool.runner.is_some() { "dispatch" } else { "callTool" };
        let _ = writeln!(
            text,
            "@id(\"grant-{i}\") permit (principal == Countersign::Agent::\"{org}/a{agent}\", action == \
             Countersign::Action::\"{group}:{tool}\", resource == Countersign::Tool::\"{org}/{tool}\") when {{ \
             context has instance && context.instance.state == Countersign::State::\"RUNNING\" }};",
            org = org(),
            agent = i / PER_AGENT,
            tool = tool.name,
        );
    }
    text
}

/// `count` policies that apply to every agent and every tool, and stand in nobody's way.
fn for_everyone(count: usize) -> String {
    let mut text = String::new();
    for i in 0..count {
        let (effect, clause) = if i % 2 == 0 {
            ("forbid", format!("when {{ context.denials > {i} && principal.autonomy < {} }}", i % 5))
        } else {
            ("permit", format!("when {{ principal.scopes.contains(\"s{i}\") && resource.risk <= 2 }}"))
        };
        let _ = writeln!(
            text,
            "@id(\"everyone-{i}\") {effect} (principal is Countersign::Agent, action in \
             [Countersign::Action::\"callTool\", Countersign::Action::\"dispatch\"], resource is Countersign::Tool) \
             {clause};"
        );
    }
    text
}

/// `count` policies of which one in twenty is a gate on everyone, and the others are grants.
fn wildcards(count: usize) -> String {
    let mut text = grants(count - count / 20);
    for i in 0..count / 20 {
        let _ = writeln!(
            text,
            "@id(\"wild-{i}\") @requires_approval(\"merge\") forbid (principal, action in \
             [Countersign::Action::\"callTool\", Countersign::Action::\"dispatch\"], resource) when {{ \
             context.denials > {i} }} unless {{ \
             context.satisfied.contains(Countersign::ApprovalRule::\"merge\") }};"
        );
    }
    text
}

/// A policy that stands in everybody's way.
fn stopper() -> String {
    "@id(\"stopper\") forbid (principal is Countersign::Agent, action in Countersign::Action::\"dispatch\", resource);\n"
        .to_owned()
}

/// Two gates on everyone: asked once, found standing in the way, asked again with their rules met.
fn gates() -> String {
    let gate = |id: &str, rule: &str| {
        format!(
            "@id(\"{id}\") @requires_approval(\"{rule}\") forbid (principal is Countersign::Agent, action in \
             Countersign::Action::\"dispatch\", resource) unless {{ \
             context.satisfied.contains(Countersign::ApprovalRule::\"{rule}\") }};\n"
        )
    };
    gate("gate-one", "merge") + &gate("gate-two", "production")
}

fn world() -> EntityStore {
    let store = EntityStore::new();
    store.put(Record::team(org(), name("core"), vec![], AT)).unwrap();
    for person in ["olga", "ida"] {
        let facts = PersonFacts { active: true, teams: vec![name("core")], ..PersonFacts::default() };
        store.put(Record::person(org(), name(person), facts, AT)).unwrap();
    }
    let scopes = vec![name("repo:read"), name("repo:write")];
    let agent = AgentFacts { active: true, owner: name("olga"), autonomy: 1, scopes, teams: vec![name("core")] };
    store.put(Record::agent(org(), name("a1"), agent, AT)).unwrap();
    let workflow =
        WorkflowFacts { team: Some(name("core")), materiality: 1, version: "1".into(), ..Default::default() };
    store.put(Record::workflow(org(), name("fix"), workflow, AT)).unwrap();
    let instance = InstanceFacts {
        workflow: name("fix"),
        state: State::Running,
        actor: entity(EntityKind::Agent, "a1"),
        initiator: entity(EntityKind::Person, "ida"),
        owner: Some(name("olga")),
        accountable: name("ida"),
        parent: None,
        team: Some(name("core")),
        legal_hold: false,
        frozen: false,
    };
    store.put(Record::instance(org(), name("i1"), instance, AT)).unwrap();
    store
}

/// An agent reads a file of its repository, as the engine asks it.
struct Ask<'s> {
    snapshot: &'s PolicySnapshot,
    store: &'s EntityStore,
}

const TOOL: &str = "repo.read";

impl Ask<'_> {
    fn question(&self) -> Question {
        let tool = self.snapshot.tool(TOOL).unwrap();
        let (agent, resource) = (entity(EntityKind::Agent, "a1"), entity(EntityKind::Tool, TOOL));
        let mut question = Question::new(agent, Operation::Dispatch, resource, AT);
        question.instance = Some(entity(EntityKind::Instance, "i1"));
        question.input = Some(Arc::new(input::parse(tool, br#"{"path":"src/add.sh"}"#).unwrap()));
        question.scopes.insert("act");
        question
    }

    /// The whole policy step.
    fn step(&self) -> countersign_policy_decide::Answer {
        let question = self.question();
        let slice = self.store.slice(self.snapshot, &question);
        decide(self.snapshot, &slice, &question)
    }
}

fn ask<'s>(snapshot: &'s PolicySnapshot, store: &'s EntityStore) -> Ask<'s> {
    Ask { snapshot, store }
}

/// What the rows of what is allowed measure is one evaluation that allows.
fn evaluated_once(ask: &Ask<'_>) {
    let answer = ask.step();
    assert_eq!((answer.verdict, answer.rounds), (countersign_gateway_model::Verdict::allow(), 1));
}

/// The same question as plain Cedar takes it: everything prepared, one `is_authorized`.
struct Bare {
    request: Request,
    entities: Entities,
    authorizer: Authorizer,
}

impl Bare {
    fn of(ask: &Ask<'_>) -> Self {
        let uid = |ty: &str, id: &str| format!("Countersign::{ty}::\"{id}\"").parse::<EntityUid>().unwrap();
        let of = |kind: &str, id: &str| uid(kind, &format!("{}/{id}", org()));
        let slice = ask.store.slice(ask.snapshot, &ask.question());
        let set = |values: Vec<RestrictedExpression>| RestrictedExpression::new_set(values);
        let text = |t: &str| RestrictedExpression::new_string(t.to_owned());
        let no = || RestrictedExpression::new_bool(false);
        let context = Context::from_pairs([
            ("now".to_owned(), RestrictedExpression::new_datetime("2026-11-21T00:00:00Z")),
            ("satisfied".to_owned(), set(vec![])),
            ("overridden".to_owned(), set(vec![])),
            ("granted".to_owned(), set(vec![])),
            ("advisory".to_owned(), set(vec![])),
            ("after".to_owned(), RestrictedExpression::new_record([]).unwrap()),
            ("applied".to_owned(), set(vec![])),
            ("opaque".to_owned(), set(vec![])),
            ("facts".to_owned(), set(vec![])),
            ("claims".to_owned(), set(vec![])),
            ("counters".to_owned(), RestrictedExpression::new_record([]).unwrap()),
            ("scopes".to_owned(), set(vec![text("act")])),
            ("assurance".to_owned(), RestrictedExpression::new_entity_uid(uid("Assurance", "secret"))),
            ("assuranceLevel".to_owned(), RestrictedExpression::new_long(1)),
            ("asserted".to_owned(), no()),
            ("delegated".to_owned(), no()),
            ("asDelegator".to_owned(), no()),
            ("denials".to_owned(), RestrictedExpression::new_long(0)),
            ("fourEyes".to_owned(), no()),
            ("instance".to_owned(), RestrictedExpression::new_entity_uid(of("Instance", "i1"))),
            ("input".to_owned(), RestrictedExpression::new_record([("path".to_owned(), text("src/add.sh"))]).unwrap()),
        ])
        .unwrap();
        let tool = ask.snapshot.tool(TOOL).unwrap();
        let action = uid("Action", &countersign_policy_decide::schema::tool_action(tool));
        let request =
            Request::new(of("Agent", "a1"), action, of("Tool", TOOL), context, Some(ask.snapshot.schema())).unwrap();
        Self { request, entities: slice.cedar().clone().into(), authorizer: Authorizer::new() }
    }
}

fn thread_cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

/// Median and 99th percentile, in microseconds.
struct Spread {
    wall: (f64, f64),
    cpu: (f64, f64),
}

fn measure<T>(mut work: impl FnMut() -> T) -> Spread {
    for _ in 0..200 {
        black_box(work());
    }
    let (mut wall, mut cpu) = (Vec::with_capacity(20_000), Vec::with_capacity(20_000));
    let begin = Instant::now();
    while wall.len() < 20_000 && begin.elapsed().as_secs() < 3 {
        let (start, used) = (Instant::now(), thread_cpu());
        black_box(work());
        cpu.push(thread_cpu().saturating_sub(used));
        wall.push(start.elapsed());
    }
    let spread = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        let at = |per_mille: usize| times.get(times.len() * per_mille / 1000).map_or(0.0, |t| t.as_secs_f64() * 1e6);
        (at(500), at(990))
    };
    Spread { wall: spread(&mut wall), cpu: spread(&mut cpu) }
}

fn line(what: &str, spread: &Spread) {
    let Spread { wall, cpu } = spread;
    println!(
        "{what:<46} cpu median {:>9.1}  p99 {:>9.1}   wall median {:>9.1}  p99 {:>9.1} µs",
        cpu.0, cpu.1, wall.0, wall.1
    );
}

/// Resident memory of this process in MiB.
fn resident() -> f64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<f64>().ok()).map_or(0.0, |pages| pages * 4096.0 / 1_048_576.0)
}

fn built(what: &str, policies: String, tools: usize) -> PolicySnapshot {
    built_with(what, policies, tools, &[])
}

fn built_with(what: &str, policies: String, tools: usize, shadow: &[&str]) -> PolicySnapshot {
    let (before, start) = (resident(), Instant::now());
    let snapshot = snapshot_with(policies, tools, shadow);
    println!(
        "\n{what}: {} policies, {} tools; built in {:.0} ms, {:.1} MiB more resident",
        snapshot.policies().len(),
        snapshot.tools().count(),
        start.elapsed().as_secs_f64() * 1e3,
        resident() - before
    );
    snapshot
}

fn table(store: &EntityStore) {
    for count in [0, 100, 1_000, 10_000] {
        let snapshot = built(&format!("default bundle + {count} grants"), grants(count), 0);
        let ask = ask(&snapshot, store);
        evaluated_once(&ask);
        let step = measure(|| ask.step());
        let bare = Bare::of(&ask);
        let plain = measure(|| bare.authorizer.is_authorized(&bare.request, snapshot.policy_set(), &bare.entities));
        line("whole policy step", &step);
        if count == 0 {
            let question = ask.question();
            let slice = store.slice(&snapshot, &question);
            line("  typed input and question", &measure(|| ask.question()));
            line("  slice", &measure(|| store.slice(&snapshot, &question)));
            line("  decide", &measure(|| decide(&snapshot, &slice, &question)));
            line("  (canonical form of the question, beside it)", &measure(|| question.canonical()));
        }
        line("bare is_authorized, everything prepared", &plain);
        println!("one bare is_authorized is {:.1} whole steps of cpu", plain.cpu.0 / step.cpu.0);
    }
    let snapshot = built("50 policies that apply to everyone", for_everyone(50), 0);
    evaluated_once(&ask(&snapshot, store));
    line("whole policy step, allowed", &measure(|| ask(&snapshot, store).step()));
    let snapshot =
        built("50 policies that apply to everyone, and 10,000 grants", for_everyone(50) + &grants(10_000), 0);
    evaluated_once(&ask(&snapshot, store));
    line("whole policy step, allowed", &measure(|| ask(&snapshot, store).step()));
    let snapshot = built_with("one policy in shadow that would deny", stopper() + &grants(10_000), 0, &["stopper"]);
    let shadowed = ask(&snapshot, store);
    evaluated_once(&shadowed);
    assert!(shadowed.step().would_be.is_some(), "what it would be is told");
    line("whole policy step, allowed, and what it would be", &measure(|| shadowed.step()));
    let snapshot = built("two gates on everyone", gates() + &grants(10_000), 0);
    let gated = ask(&snapshot, store);
    println!("{} rounds, rules {:?}", gated.step().rounds, gated.step().verdict.rules);
    assert_eq!((gated.step().rounds, gated.step().verdict.rules.len()), (2, 2));
    line("whole policy step, sent to people", &measure(|| gated.step()));
    for count in [1_000, 10_000] {
        let snapshot = built(&format!("{count} policies, 5 % of them on everyone"), wildcards(count), 0);
        evaluated_once(&ask(&snapshot, store));
        line("whole policy step", &measure(|| ask(&snapshot, store).step()));
    }
    let snapshot = built("1,000 tools", grants(100), 1_000);
    evaluated_once(&ask(&snapshot, store));
    line("whole policy step", &measure(|| ask(&snapshot, store).step()));
    let question = ask(&snapshot, store).question();
    let slice = store.slice(&snapshot, &question);
    line("decide by full walk", &measure(|| decide_by_full_walk(&snapshot, &slice, &question)));
}

fn policy_step(criterion: &mut Criterion) {
    let store = world();
    if !std::env::args().any(|arg| arg == "--test" || arg == "--profile-time") {
        table(&store);
    }
    let mut group = criterion.benchmark_group("policy_step");
    for count in [100, 1_000, 10_000] {
        let snapshot = snapshot(grants(count), 0);
        let ask = ask(&snapshot, &store);
        evaluated_once(&ask);
        group.bench_function(BenchmarkId::new("grants", count), |b| b.iter(|| ask.step()));
    }
    let snapshot = snapshot(for_everyone(50), 0);
    let ask = ask(&snapshot, &store);
    evaluated_once(&ask);
    group.bench_function("for everyone: 50", |b| b.iter(|| ask.step()));
    group.finish();
}

criterion_group!(benches, policy_step);
criterion_main!(benches);
