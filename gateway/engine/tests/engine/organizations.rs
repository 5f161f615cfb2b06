//! Two organizations in one engine: neither can tell what the other has.

use std::collections::BTreeMap;
use std::sync::Arc;

use countersign_gateway_engine::{
    DecisionKind, DecisionRequest, EngineError, EntityKind, EntityRef, EntryQuery, GateQuery, InstanceQuery,
    NewInstance, OnDeny, Operation, OutcomeReport,
};
use countersign_gateway_model::{
    ActionId, Digest, GateId, InstanceId, ItemId, LogId, OrgId, Outcome, Principal, RunId,
};
use countersign_policy_decide::{PersonFacts, Record};
use serde_json::json;

use crate::world::{Of, World, name, org, read, request};

/// What somebody of an organization has brought into being.
struct Made {
    instance: InstanceId,
    waiting: InstanceId,
    action: ActionId,
    run_action: ActionId,
    gate: GateId,
    item: ItemId,
    run: RunId,
    shown: Digest,
    log: LogId,
}

const EVERY_ROLE: [&str; 7] = ["ADMIN", "APPROVER", "AUDITOR", "OPERATOR", "POLICY_ADMIN", "SECURITY", "STOP"];

async fn make(world: &World, of: OrgId, workflow: &str) -> (Arc<Principal>, Arc<Principal>, Made) {
    let person = world.person_of(of, "olga", Of { roles: &EVERY_ROLE, ..Of::default() });
    let approver = world.person_of(of, "peter", Of { roles: &EVERY_ROLE, ..Of::default() });
    let agent = world.agent("robot", &person);
    world.workflow(&person, workflow).await;
    let instance = world.instance(&person, workflow, &agent).await.instance.id;
    let permitted = world.propose(&agent, instance, &[("notes.append", json!({ "text": "x" }))]).await.unwrap();
    let dispatched = world.propose(&agent, instance, &[read("README.md")]).await.unwrap();
    let run_action = dispatched.items[0].action;
    let run = world.engine.action(&person, run_action).await.unwrap().run.unwrap();
    let waiting = world.instance(&person, workflow, &agent).await.instance.id;
    let gated = world.propose(&agent, waiting, &[("repo.merge", json!({ "branch": "main" }))]).await.unwrap();
    let gate = gated.gate.unwrap();
    let detail = world.engine.gate(&approver, gate).await.unwrap();
    let made = Made {
        instance,
        waiting,
        action: permitted.items[0].action,
        run_action,
        gate,
        item: detail.gate.items[0].item,
        run,
        shown: detail.shown_digest,
        log: world.engine.log_of(of).unwrap().id(),
    };
    (approver, agent, made)
}

/// What the caller is told, in full: code, words and causes.
fn told<T>(what: &str, answer: Result<T, EngineError>) -> (String, String) {
    match answer {
        Ok(_) => panic!("{what} was answered"),
        Err(error) => (error.code().to_owned(), error.to_string()),
    }
}

/// Ids that nobody has.
fn nothing() -> Made {
    let id = [0xee; 16];
    Made {
        instance: InstanceId::from_bytes(id),
        waiting: InstanceId::from_bytes(id),
        action: ActionId::from_bytes(id),
        run_action: ActionId::from_bytes(id),
        gate: GateId::from_bytes(id),
        item: ItemId::from_bytes(id),
        run: RunId::from_bytes(id),
        shown: Digest([0xee; 32]),
        log: LogId::from_bytes(id),
    }
}

fn decision(kind: DecisionKind, made: &Made) -> DecisionRequest {
    let delta = (kind == DecisionKind::Override).then(|| (made.item, None));
    DecisionRequest {
        kind,
        items: if kind == DecisionKind::Approve { vec![made.item] } else { Vec::new() },
        justification: Some("seen and weighed".to_owned()),
        shown_digest: Some(made.shown),
        delta: delta.into_iter().collect(),
        role: None,
        assertion: None,
    }
}

fn new_instance(workflow: &str, agent: Option<&str>, accountable: Option<&str>) -> NewInstance {
    NewInstance {
        workflow: name(workflow),
        agent: agent.map(name),
        accountable: accountable.map(name),
        workspace: None,
        labels: BTreeMap::new(),
        deadline_s: None,
        on_deny: OnDeny::Refuse,
        start: true,
    }
}

/// Every call that names an id, by a principal: what each is told.
async fn every_call(world: &World, who: &Arc<Principal>, at: &Made) -> Vec<(&'static str, (String, String))> {
    let (engine, me) = (&world.engine, || Arc::clone(who));
    let wait = std::time::Duration::ZERO;
    let mut out = Vec::new();
    macro_rules! asked {
        ($what:literal, $call:expr) => {
            out.push(($what, told($what, $call.await)));
        };
    }
    asked!("read instance", engine.instance(who, at.instance));
    asked!("wait for instance", engine.changed(who, at.instance, 0));
    asked!("start instance", engine.start_instance(me(), at.instance, None));
    asked!("complete instance", engine.complete(me(), at.instance, None));
    asked!("terminate instance", engine.terminate(me(), at.instance, None));
    asked!("terminate waiting instance", engine.terminate(me(), at.waiting, None));
    let (tool, input) = read("README.md");
    asked!("propose", engine.propose(me(), at.instance, vec![request(tool, &input)], false, None));
    asked!("propose while waiting", engine.propose(me(), at.waiting, vec![request(tool, &input)], true, None));
    asked!("propose nothing", engine.propose(me(), at.instance, Vec::new(), false, None));
    asked!("read action", engine.action(who, at.action));
    asked!("read dispatched action", engine.action(who, at.run_action));
    asked!("begin action", engine.begin(me(), at.action, None));
    let report = OutcomeReport { outcome: Outcome::Succeeded, output: None };
    asked!("report action", engine.report(me(), at.action, report.clone(), None));
    asked!("report dispatched action", engine.report(me(), at.run_action, report, None));
    asked!("read gate", engine.gate(who, at.gate));
    asked!("approve", engine.decide(me(), at.gate, decision(DecisionKind::Approve, at), None));
    asked!("reject", engine.decide(me(), at.gate, decision(DecisionKind::Reject, at), None));
    asked!("override", engine.decide(me(), at.gate, decision(DecisionKind::Override, at), None));
    asked!("read run", engine.run(who, at.run));
    asked!("read run log", engine.run_logs(who, at.run, (0, 0), wait));
    out.push(("read checkpoint", told("read checkpoint", engine.log_checkpoint(Some(who), at.log))));
    asked!("read tile", engine.log_tile(Some(who), at.log, "tile/0/000.p/1"));
    asked!("read entry bundle", engine.log_tile(Some(who), at.log, "tile/entries/000.p/1"));
    out
}

/// The code for what is not there: instances have one of their own.
fn not_found(what: &str) -> &'static str {
    if what.contains("instance") || what.starts_with("propose") { "instance-not-found" } else { "not-found" }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_hidden_is_told_as_what_is_not_there() {
    let world = World::with(&[org(1)]).await;
    let (anna, _, at) = make(&world, org(1), "fix").await;
    let stranger = world.agent("stranger", &anna);
    let size = world.engine.log_of(org(1)).unwrap().checkpoint().checkpoint().size;
    let (hidden, absent) = (every_call(&world, &stranger, &at).await, every_call(&world, &stranger, &nothing()).await);
    // The log is the organization's own.
    let of_work = |calls: Vec<(&'static str, (String, String))>| {
        let work =
            calls.into_iter().filter(|(what, _)| !["checkpoint", "tile", "bundle"].iter().any(|w| what.ends_with(w)));
        work.collect::<Vec<_>>()
    };
    for (hidden, absent) in of_work(hidden).iter().zip(of_work(absent)) {
        assert_eq!(*hidden, absent, "{} tells the two apart", hidden.0);
        assert_eq!(hidden.1.0, not_found(hidden.0), "{}", hidden.0);
    }
    assert_eq!(world.engine.log_of(org(1)).unwrap().checkpoint().checkpoint().size, size, "nothing is recorded");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_id_of_one_organization_is_readable_listable_or_decidable_from_another() {
    let world = World::with(&[org(1), org(2)]).await;
    let (anna, robot_a, of_a) = make(&world, org(1), "fix-a").await;
    let (bert, robot_b, of_b) = make(&world, org(2), "fix-b").await;
    let engine = &world.engine;
    let size_of_a = engine.log_of(org(1)).unwrap().checkpoint().checkpoint().size;

    for who in [&bert, &robot_b] {
        // An id of the other organization and one that nobody has are answered alike, word for word.
        let (foreign, absent) = (every_call(&world, who, &of_a).await, every_call(&world, who, &nothing()).await);
        for (foreign, absent) in foreign.iter().zip(&absent) {
            assert_eq!(foreign, absent, "{} of `{}` tells the two apart", foreign.0, who.id);
            assert_eq!(foreign.1.0, not_found(foreign.0), "{} by `{}`", foreign.0, who.id);
        }
    }

    // Names of the other organization are no names here.
    for (what, new) in [
        ("its workflow", new_instance("fix-a", None, None)),
        ("its workflow and agent", new_instance("fix-a", Some("robot"), None)),
    ] {
        assert_eq!(told(what, engine.create_instance(Arc::clone(&bert), new, None).await).0, "not-found", "{what}");
    }
    let only_there = world.person_of(org(1), "only-there", Of { roles: &EVERY_ROLE, ..Of::default() });
    let agent_there = world.agent("robot-there", &only_there);
    for (what, new) in [
        ("its agent", new_instance("fix-b", Some(agent_there.id.as_str()), None)),
        ("its person", new_instance("fix-b", Some("robot"), Some("only-there"))),
    ] {
        assert_eq!(told(what, engine.create_instance(Arc::clone(&bert), new, None).await).0, "not-found", "{what}");
    }
    assert_eq!(told("its workflow", engine.workflow(&bert, &name("fix-a")).await).0, "not-found");
    for (kind, id) in [
        (EntityKind::Instance, of_a.instance.to_string()),
        (EntityKind::Gate, of_a.gate.to_string()),
        (EntityKind::Person, "only-there".to_owned()),
    ] {
        let there = EntityRef::new(org(1), kind, name(&id));
        let asked = engine.may(&bert, Operation::ReadInstance, there, "thing");
        assert_eq!(told("a permission over it", asked).0, "not-found", "{id}");
    }

    let facts = PersonFacts { active: true, roles: vec![name("ADMIN")], ..PersonFacts::default() };
    let record = Record::person(org(1), name("smuggled"), facts, engine.now());
    assert!(engine.describe(org(2), record).is_err(), "what policy knows of one organization came into another");

    // Lists hold what is one's own, and all of it.
    let instances = engine.instances(&bert, InstanceQuery { limit: 200, ..InstanceQuery::default() }).await.unwrap();
    let mut ids: Vec<InstanceId> = instances.items.iter().map(|i| i.id).collect();
    ids.sort();
    assert_eq!(ids, [of_b.instance, of_b.waiting]);
    let gates = engine.gates(&bert, GateQuery { limit: 200, ..GateQuery::default() }).await.unwrap();
    assert_eq!(gates.items.iter().map(|g| g.id).collect::<Vec<_>>(), [of_b.gate]);
    let there = GateQuery { instance: Some(of_a.waiting), limit: 200, ..GateQuery::default() };
    assert!(engine.gates(&bert, there).await.unwrap().items.is_empty());
    let runs = engine.runs(&bert, None, None, 200).await.unwrap();
    assert_eq!(runs.items.iter().map(|r| r.run).collect::<Vec<_>>(), [of_b.run]);
    assert!(engine.runs(&bert, Some(of_a.instance), None, 200).await.unwrap().items.is_empty());
    let workflows = engine.workflows(&bert).await.unwrap();
    assert_eq!(workflows.iter().map(|w| w.spec.id.as_str()).collect::<Vec<_>>(), ["fix-b"]);

    // Entries, proofs and packs are of one's own log alone.
    let its = EntryQuery { instance: Some(of_a.instance), from: 0, limit: 200 };
    assert!(engine.entries(&bert, its).await.unwrap().items.is_empty());
    let mine = engine.entries(&bert, EntryQuery { limit: 500, ..EntryQuery::default() }).await.unwrap();
    let known_there = [of_a.instance.to_string(), of_a.waiting.to_string()];
    assert!(mine.items.iter().all(|entry| !known_there.contains(&entry.stream_id)));
    let pack = engine.pack(&bert, true).await.unwrap();
    let holds = |text: &str| pack.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds(&of_b.log.to_string().replace("log_", "")) || holds("fix-b"), "the pack is readable text");
    for id in ["fix-a".to_owned(), "only-there".to_owned(), of_a.instance.to_string(), of_a.gate.to_string()] {
        assert!(!holds(&id), "the pack of one organization holds `{id}` of the other");
    }

    // Nothing of it left a trace in the other's log, and its own people are not hindered.
    assert_eq!(engine.log_of(org(1)).unwrap().checkpoint().checkpoint().size, size_of_a);
    assert_eq!(engine.instance(&anna, of_a.instance).await.unwrap().id, of_a.instance);
    assert_eq!(engine.action(&robot_a, of_a.action).await.unwrap().id, of_a.action);
    assert_eq!(engine.gate(&anna, of_a.gate).await.unwrap().shown_digest, of_a.shown);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_freeze_a_setting_and_a_policy_of_one_organization_leave_another_alone() {
    let world = World::with(&[org(1), org(2)]).await;
    let (anna, _, of_a) = make(&world, org(1), "fix").await;
    let (bert, robot_b, of_b) = make(&world, org(2), "fix").await;
    world.engine.freeze(Arc::clone(&anna), None, false, None).await.unwrap();
    world.engine.set_public_read(Arc::clone(&anna), true, None).await.unwrap();
    assert_eq!(world.engine.instance(&anna, of_a.instance).await.unwrap().reasons, ["frozen"]);
    assert!(world.engine.instance(&bert, of_b.instance).await.unwrap().reasons.is_empty());
    world.propose(&robot_b, of_b.instance, &[("notes.append", json!({ "text": "y" }))]).await.unwrap();
    world.engine.log_checkpoint(None, of_a.log).unwrap();
    assert_eq!(told("a private log", world.engine.log_checkpoint(None, of_b.log)).0, "not-found");
}
