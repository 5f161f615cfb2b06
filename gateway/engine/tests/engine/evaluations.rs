//! Evaluations for enforcement points: on record before they are answered, never a permit, and many in one append.

use std::collections::BTreeSet;
use std::sync::Arc;

use countersign_gateway_engine::{
    EngineError, EntryQuery, EntryRecord, EvaluationRequest, EvaluationTarget, Known, Recording, Semantic,
};
use countersign_gateway_model::{Assurance, Decision, Duration, Principal, PrincipalKind, Pseudonym, Scope, Timestamp};
use countersign_policy_decide::{Record, ServiceFacts};
use serde_json::{Value, json};

use crate::world::{World, name};

/// An enforcement point: a service that may ask about others.
pub(crate) fn enforcement_point(world: &World, owner: &Principal, scopes: &[&str]) -> Arc<Principal> {
    let who = Pseudonym::from_bytes([0xee; 16]);
    let facts = ServiceFacts {
        active: true,
        owner: Some(owner.id.clone()),
        scopes: scopes.iter().map(|scope| name(scope)).collect(),
        purpose: None,
        teams: Vec::new(),
    };
    let known = Known {
        kind: PrincipalKind::Service,
        id: name("proxy"),
        person: None,
        person_key: None,
        owner: Some(owner.pseudonym),
        issuers: BTreeSet::new(),
        teams: Vec::new(),
        groups: Vec::new(),
    };
    let record = Record::service(owner.org, name("proxy"), facts, world.engine.now());
    world.engine.introduce(owner.org, who, known, record).unwrap();
    Arc::new(Principal {
        org: owner.org,
        kind: PrincipalKind::Service,
        id: name("proxy"),
        pseudonym: who,
        on_behalf_of: Vec::new(),
        scopes: vec![Scope::Act],
        assurance: Assurance::Secret,
        roles: Vec::new(),
        teams: Vec::new(),
        person: None,
        issued: Timestamp(0),
        expires: Timestamp(u64::MAX),
    })
}

pub(crate) fn asks(kind: PrincipalKind, id: &str, tool: &str, input: &Value) -> EvaluationRequest {
    EvaluationRequest {
        subject: Some((kind, name(id))),
        target: Some(EvaluationTarget::Tool { tool: name(tool), input: serde_json::to_vec(input).unwrap() }),
        claims: BTreeSet::new(),
        asked: json!({ "tool": tool }),
    }
}

async fn evaluations(world: &World, auditor: &Principal) -> Vec<EntryRecord> {
    let query = EntryQuery { instance: None, from: 0, limit: 200 };
    let page = world.engine.entries(auditor, query).await.unwrap();
    page.items.into_iter().filter(|entry| entry.kind == "evaluation").collect()
}

struct Scene {
    world: World,
    admin: Arc<Principal>,
    proxy: Arc<Principal>,
}

async fn scene() -> Scene {
    let world = World::new().await;
    let admin = world.person("ada", &["ADMIN", "AUDITOR", "SECURITY"]);
    let proxy = enforcement_point(&world, &admin, &["evaluate"]);
    world.agent("fixer", &admin);
    Scene { world, admin, proxy }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evaluation_is_on_record_before_it_is_answered_and_can_be_computed_again() {
    let Scene { world, admin, proxy } = scene().await;
    let requests = vec![
        asks(PrincipalKind::Agent, "fixer", "notes.append", &json!({ "text": "a" })),
        asks(PrincipalKind::Agent, "fixer", "repo.merge", &json!({ "branch": "main", "message": "m" })),
        asks(PrincipalKind::Agent, "nobody", "notes.append", &json!({ "text": "a" })),
        asks(PrincipalKind::Agent, "fixer", "no.such.tool", &json!({})),
        asks(PrincipalKind::Agent, "fixer", "notes.append", &json!({ "text": 1 })),
    ];
    let answers = world.engine.evaluate(proxy, requests, Semantic::ExecuteAll).await.unwrap();
    let decisions: Vec<Decision> = answers.iter().map(|answer| answer.decision).collect();
    let deny = Decision::Deny;
    // Outside an instance the default bundle lets an agent call nothing; what it says is what stands on record.
    assert_eq!(decisions[2..], [deny, deny, deny]);
    let entries = evaluations(&world, &admin).await;
    assert_eq!(entries.len(), 5);
    for (entry, answer) in entries.iter().zip(&answers) {
        assert_eq!(entry.index, answer.receipt.as_ref().unwrap().index);
        assert_eq!(entry.verdict.as_ref().unwrap().decision, answer.decision);
        let replay = world.engine.replay(&admin, entry.index).await.unwrap();
        assert_eq!(replay.computed.as_ref(), Some(&replay.stored), "entry {}", entry.index);
    }
    assert!(answers[4].reason.as_ref().unwrap().contains("text"), "{:?}", answers[4].reason);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evaluation_is_never_a_permit_and_nothing_is_satisfied_in_it() {
    let Scene { world, admin, proxy } = scene().await;
    let mut request = asks(PrincipalKind::Person, "ada", "repo.merge", &json!({ "branch": "main", "message": "m" }));
    request.claims = BTreeSet::from(["satisfied=merge".to_owned()]);
    let answers = world.engine.evaluate(proxy, vec![request], Semantic::ExecuteAll).await.unwrap();
    assert_ne!(answers[0].decision, Decision::Allow);
    let query = EntryQuery { instance: None, from: 0, limit: 200 };
    let entries = world.engine.entries(&admin, query).await.unwrap().items;
    assert!(entries.iter().all(|entry| entry.kind != "permit" && entry.kind != "gate"));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_holds_evaluate_for_may_ask_and_the_refusal_is_on_record() {
    let Scene { world, admin, .. } = scene().await;
    let other = enforcement_point(&world, &admin, &[]);
    let agent = world.agent("asker", &admin);
    for who in [other, agent] {
        for subject in ["fixer", "nobody"] {
            let request = asks(PrincipalKind::Agent, subject, "notes.append", &json!({ "text": "a" }));
            let refused = world.engine.evaluate(Arc::clone(&who), vec![request], Semantic::ExecuteAll).await;
            let Err(EngineError::Refused(refused)) = refused else { panic!("{refused:?}") };
            let entry = world.engine.entry(&admin, refused.receipt.index).await.unwrap();
            assert_eq!((entry.kind, &entry.body["tool"]), ("refusal", &json!("evaluateFor")));
        }
    }
    assert!(evaluations(&world, &admin).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_ask_at_the_same_moment_share_appends_and_each_gets_its_own_receipt() {
    let Scene { world, admin, proxy } = scene().await;
    let calls: Vec<_> = (0..100)
        .map(|n: usize| {
            let (engine, proxy) = (world.engine.clone(), Arc::clone(&proxy));
            tokio::spawn(async move {
                let request = asks(PrincipalKind::Agent, "fixer", "notes.append", &json!({ "text": format!("{n}") }));
                let answers = engine.evaluate(proxy, vec![request; 1 + n % 3], Semantic::ExecuteAll).await.unwrap();
                answers.into_iter().map(|answer| answer.receipt.unwrap().index).collect::<Vec<u64>>()
            })
        })
        .collect();
    let mut seen = BTreeSet::new();
    for call in calls {
        let mine = call.await.unwrap();
        assert!(mine.windows(2).all(|pair| pair[0] + 1 == pair[1]), "one call's entries stand together: {mine:?}");
        for index in mine {
            assert!(seen.insert(index), "a receipt was given twice");
        }
    }
    assert_eq!(seen.len(), 199);
    assert_eq!(world.engine.entry(&admin, *seen.last().unwrap()).await.unwrap().kind, "evaluation");
    let commits = world.engine.logs().stats().commits;
    assert!(commits < 150, "199 evaluations took {commits} commits");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_ends_where_its_semantic_says() {
    let Scene { world, proxy, .. } = scene().await;
    let denied = asks(PrincipalKind::Agent, "fixer", "no.such.tool", &json!({}));
    for (semantic, expected) in
        [(Semantic::ExecuteAll, 3), (Semantic::DenyOnFirstDeny, 1), (Semantic::PermitOnFirstPermit, 3)]
    {
        let requests = vec![denied.clone(); 3];
        let answers = world.engine.evaluate(Arc::clone(&proxy), requests, semantic).await.unwrap();
        assert_eq!(answers.len(), expected, "{semantic:?}");
    }
    let too_many = world.engine.evaluate(proxy, vec![denied; 65], Semantic::ExecuteAll).await;
    assert_eq!(too_many.unwrap_err().code(), "parameter-invalid");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_recorded_is_a_ledgered_setting_that_outlives_a_restart() {
    let Scene { mut world, admin, proxy } = scene().await;
    let request = asks(PrincipalKind::Agent, "fixer", "no.such.tool", &json!({}));
    world.engine.set_evaluations_record(Arc::clone(&admin), Recording::None).await.unwrap();
    world.restart().await;
    let proxy_again = enforcement_point(&world, &admin, &["evaluate"]);
    assert_eq!(proxy.pseudonym, proxy_again.pseudonym);
    let answers = world.engine.evaluate(Arc::clone(&proxy), vec![request.clone()], Semantic::ExecuteAll).await.unwrap();
    assert!(answers[0].receipt.is_none());
    assert!(evaluations(&world, &admin).await.is_empty());
    world.engine.set_evaluations_record(Arc::clone(&admin), Recording::Denials).await.unwrap();
    let answers = world.engine.evaluate(proxy, vec![request], Semantic::ExecuteAll).await.unwrap();
    assert!(answers[0].receipt.is_some(), "a denial is recorded again");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_over_quota_leave_one_entry_a_minute() {
    let Scene { world, admin, proxy } = scene().await;
    let timers = tokio::spawn(world.engine.clone().run_timers());
    for _ in 0..7 {
        world.engine.over_quota(&proxy);
    }
    tokio::time::sleep(std::time::Duration::from_millis(1200)).await;
    assert!(evaluations(&world, &admin).await.is_empty(), "the minute is not over");
    world.clock.forward(Duration::from_secs(61));
    for _ in 0..200 {
        if !evaluations(&world, &admin).await.is_empty() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    let entries = evaluations(&world, &admin).await;
    assert_eq!(entries.len(), 1);
    assert_eq!((&entries[0].body["calls"], &entries[0].body["over_quota"]), (&json!(7), &json!(true)));
    world.engine.end();
    timers.await.unwrap();
}
