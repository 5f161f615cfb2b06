//! Evaluations for enforcement points: on record before they are answered, never a permit, and many in one append.

use std::collections::BTreeSet;
use std::sync::Arc;

use countersign_gateway_engine::{
    EngineError, EntryQuery, EntryRecord, EvaluationAnswer, EvaluationRequest, EvaluationTarget, Known, Recording,
    Semantic,
};
use countersign_gateway_model::{
    Assurance, Decision, Duration, InstanceId, Principal, PrincipalKind, Pseudonym, Scope, Timestamp,
};
use countersign_policy_decide::{Record, ServiceFacts};
use serde_json::{Value, json};

use crate::bench::{Files, default_files};
use crate::world::{Of, World, name, org};

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
        second_factor: false,
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
        instance: None,
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

/// The default bundle, in which agents may write notes and merge outside of any instance; a merge waits for people there, too.
fn anywhere() -> Files {
    let mut files = default_files();
    files.get_mut("policies.cedar").unwrap().push_str(
        r#"
@id("outside-of-instances")
@title("Agents write notes and merge outside of instances")
permit (
  principal is Countersign::Agent,
  action in [Countersign::Action::"callTool:notes.append", Countersign::Action::"callTool:repo.merge"],
  resource is Countersign::Tool
)
when { !(context has instance) };
"#,
    );
    files
}

type Ask = fn() -> EvaluationRequest;

/// What is allowed as it stands under [`anywhere`].
fn allowed() -> EvaluationRequest {
    asks(PrincipalKind::Agent, "fixer", "notes.append", &json!({ "text": "a" }))
}

/// What a person would have to approve.
fn gated() -> EvaluationRequest {
    asks(PrincipalKind::Agent, "fixer", "repo.merge", &json!({ "branch": "main", "message": "m" }))
}

/// What nobody can lift.
fn denied() -> EvaluationRequest {
    asks(PrincipalKind::Agent, "fixer", "secrets.read", &json!({ "name": "root" }))
}

async fn scene() -> Scene {
    scene_under(&default_files()).await
}

async fn scene_under(files: &Files) -> Scene {
    let world = World::under(files).await;
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
    let Scene { world, admin, proxy } = scene_under(&anywhere()).await;
    let mut claiming = gated();
    claiming.claims =
        ["satisfied=merge", "satisfied=[\"merge\"]", "overridden=merge", "granted=merge"].map(str::to_owned).into();
    let requests = vec![allowed(), gated(), claiming];
    let answers = world.engine.evaluate(proxy, requests, Semantic::ExecuteAll).await.unwrap();
    let (allow, needs) = (Decision::Allow, Decision::NeedsApproval);
    let decisions: Vec<Decision> = answers.iter().map(|answer| answer.decision).collect();
    assert_eq!(decisions, [allow, needs, needs]);
    let approve = Some("a person would have to approve it");
    let reasons: Vec<Option<&str>> = answers.iter().map(|answer| answer.reason.as_deref()).collect();
    assert_eq!(reasons, [None, approve, approve]);
    for (entry, answer) in evaluations(&world, &admin).await.iter().zip(&answers) {
        let verdict = entry.verdict.as_ref().unwrap();
        assert_eq!((verdict.decision, verdict.rules.len()), (answer.decision, usize::from(answer.decision == needs)));
        let replay = world.engine.replay(&admin, entry.index).await.unwrap();
        assert_eq!(replay.computed.as_ref(), Some(&replay.stored));
    }
    let query = EntryQuery { instance: None, from: 0, limit: 200 };
    let entries = world.engine.entries(&admin, query).await.unwrap().items;
    assert!(entries.iter().all(|entry| entry.kind != "permit" && entry.kind != "gate"));
}

/// Everything that an answer says but its place in the log.
fn said(answers: &[EvaluationAnswer]) -> Vec<(Decision, Option<&str>)> {
    answers.iter().map(|answer| (answer.decision, answer.reason.as_deref())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_is_allowed_in_the_subjects_own_running_instance_and_in_no_other() {
    let world = World::with(&[org(1), org(2)]).await;
    let admin = world.person("ada", &["ADMIN", "AUDITOR", "SECURITY", "OPERATOR"]);
    let proxy = enforcement_point(&world, &admin, &["evaluate"]);
    let (fixer, other) = (world.agent("fixer", &admin), world.agent("other", &admin));
    world.workflow(&admin, "repair").await;
    let own = world.instance(&admin, "repair", &fixer).await.instance.id;
    let others = world.instance(&admin, "repair", &other).await.instance.id;
    // Another organization has people of the same names.
    let abroad = Of { roles: &["ADMIN", "OPERATOR"], ..Of::default() };
    let abroad = world.person_of(org(2), "ada", abroad);
    let namesake = world.agent("fixer", &abroad);
    world.workflow(&abroad, "repair").await;
    let foreign = world.instance(&abroad, "repair", &namesake).await.instance.id;

    let inside = |request: EvaluationRequest, instance: &str| EvaluationRequest {
        instance: Some(instance.to_owned()),
        ..request
    };
    let here = own.to_string();
    let evaluate = async |requests: Vec<EvaluationRequest>| {
        world.engine.evaluate(Arc::clone(&proxy), requests, Semantic::ExecuteAll).await.unwrap()
    };
    let answers = evaluate(vec![inside(allowed(), &here), inside(gated(), &here), inside(denied(), &here)]).await;
    let decisions: Vec<Decision> = answers.iter().map(|answer| answer.decision).collect();
    assert_eq!(decisions, [Decision::Allow, Decision::NeedsApproval, Decision::Deny], "{answers:?}");
    // Outside of it the default bundle lets an agent call nothing.
    assert_eq!(evaluate(vec![allowed()]).await[0].decision, Decision::Deny);

    // One that is not there, another agent's, another organization's and what is no id: one answer.
    let unknown = InstanceId::from_bytes([7; 16]).to_string();
    let named = [unknown, others.to_string(), foreign.to_string(), "nowhere".to_owned(), String::new()];
    let elsewhere = evaluate(named.iter().map(|instance| inside(allowed(), instance)).collect()).await;
    assert_eq!(said(&elsewhere), [(Decision::Deny, Some("the subject acts in no such instance")); 5]);
    // Nor may somebody else's word be lent: a person is asked about in the agent's instance.
    let ada = asks(PrincipalKind::Person, "ada", "notes.append", &json!({ "text": "a" }));
    let nobody = asks(PrincipalKind::Agent, "nobody", "notes.append", &json!({ "text": "a" }));
    let lent = evaluate(vec![inside(ada, &here), inside(nobody, &here)]).await;
    assert_eq!(said(&lent), [(Decision::Deny, Some("the subject acts in no such instance")); 2]);

    world.engine.freeze(Arc::clone(&admin), None, false, None).await.unwrap();
    assert_eq!(
        said(&evaluate(vec![inside(allowed(), &here)]).await),
        [(Decision::Deny, Some("work in the instance is frozen"))]
    );
    world.engine.freeze(Arc::clone(&admin), None, true, None).await.unwrap();
    assert_eq!(evaluate(vec![inside(allowed(), &here)]).await[0].decision, Decision::Allow);
    // While people are asked, nothing else is done in it.
    let merge = ("repo.merge", json!({ "branch": "main", "message": "m" }));
    world.propose(&fixer, own, &[merge]).await.unwrap();
    assert_eq!(
        said(&evaluate(vec![inside(allowed(), &here)]).await),
        [(Decision::Deny, Some("the instance is not running"))]
    );
    for entry in evaluations(&world, &admin).await {
        let replay = world.engine.replay(&admin, entry.index).await.unwrap();
        assert_eq!(replay.computed.as_ref(), Some(&replay.stored), "entry {}", entry.index);
    }
    let query = EntryQuery { instance: None, from: 0, limit: 200 };
    let entries = world.engine.entries(&admin, query).await.unwrap().items;
    assert!(entries.iter().all(|entry| entry.kind != "permit"));
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
    use Decision::{Allow, Deny, NeedsApproval};
    use Semantic::{DenyOnFirstDeny, ExecuteAll, PermitOnFirstPermit};
    let Scene { world, proxy, .. } = scene_under(&anywhere()).await;
    let cases: [(Semantic, &[Ask], &[Decision]); 9] = [
        (ExecuteAll, &[denied, allowed, denied], &[Deny, Allow, Deny]),
        (DenyOnFirstDeny, &[denied, allowed, denied], &[Deny]),
        (PermitOnFirstPermit, &[denied, allowed, denied], &[Deny, Allow]),
        (ExecuteAll, &[allowed, denied, allowed], &[Allow, Deny, Allow]),
        (DenyOnFirstDeny, &[allowed, denied, allowed], &[Allow, Deny]),
        (PermitOnFirstPermit, &[allowed, denied, allowed], &[Allow]),
        // What people would have to approve is not allowed as it stands.
        (DenyOnFirstDeny, &[allowed, gated, allowed], &[Allow, NeedsApproval]),
        (PermitOnFirstPermit, &[gated, allowed, denied], &[NeedsApproval, Allow]),
        (PermitOnFirstPermit, &[gated, denied], &[NeedsApproval, Deny]),
    ];
    for (semantic, requests, expected) in cases {
        let asked = requests.iter().map(|request| request()).collect();
        let answers = world.engine.evaluate(Arc::clone(&proxy), asked, semantic).await.unwrap();
        let decisions: Vec<Decision> = answers.iter().map(|answer| answer.decision).collect();
        assert_eq!(decisions, expected, "{semantic:?}");
    }
    let too_many = world.engine.evaluate(proxy, vec![denied(); 65], ExecuteAll).await;
    assert_eq!(too_many.unwrap_err().code(), "parameter-invalid");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_recorded_is_a_ledgered_setting_that_outlives_a_restart() {
    let Scene { mut world, admin, proxy } = scene_under(&anywhere()).await;
    let requests = || vec![allowed(), denied(), gated()];
    let recorded = |answers: &[EvaluationAnswer]| -> Vec<Option<u64>> {
        answers.iter().map(|answer| answer.receipt.as_ref().map(|receipt| receipt.index)).collect()
    };
    world.engine.set_evaluations_record(Arc::clone(&admin), Recording::None, None).await.unwrap();
    world.restart().await;
    let proxy_again = enforcement_point(&world, &admin, &["evaluate"]);
    assert_eq!(proxy.pseudonym, proxy_again.pseudonym);
    let evaluate = async || world.engine.evaluate(Arc::clone(&proxy), requests(), Semantic::ExecuteAll).await.unwrap();
    assert_eq!(recorded(&evaluate().await), [None; 3]);
    assert!(evaluations(&world, &admin).await.is_empty());

    world.engine.set_evaluations_record(Arc::clone(&admin), Recording::Denials, None).await.unwrap();
    let answers = evaluate().await;
    assert_eq!(answers[0].decision, Decision::Allow);
    let entries = evaluations(&world, &admin).await;
    let indices: Vec<Option<u64>> = entries.iter().map(|entry| Some(entry.index)).collect();
    // What is allowed leaves nothing; each of the others its one entry.
    assert_eq!(recorded(&answers), [&[None], &indices[..]].concat());
    let kept: Vec<Decision> = entries.iter().map(|entry| entry.verdict.as_ref().unwrap().decision).collect();
    assert_eq!(kept, [Decision::Deny, Decision::NeedsApproval]);

    world.engine.set_evaluations_record(Arc::clone(&admin), Recording::All, None).await.unwrap();
    assert!(recorded(&evaluate().await).iter().all(Option::is_some));
    assert_eq!(evaluations(&world, &admin).await.len(), 2 + 3);
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

/// The bundle of [`anywhere`], with a forbid and a workflow in shadow.
fn shadowed() -> Files {
    let mut files = anywhere();
    files.get_mut("policies.cedar").unwrap().push_str(
        r#"
@id("no-notes")
forbid (principal, action == Countersign::Action::"callTool:notes.append", resource is Countersign::Tool);
"#,
    );
    let until = 1_900_000_000_000_u64;
    let shadow = json!({
        "policies": [{ "id": "no-notes", "until": until }], "workflows": [{ "id": "trial", "until": until }],
    });
    files.insert("bundle.json".to_owned(), json!({ "shadow": shadow }).to_string());
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_shadow_would_have_said_is_explained_and_changes_no_evaluation() {
    let mut answered = Vec::new();
    for (files, in_shadow) in [(anywhere(), false), (shadowed(), true)] {
        let world = World::under(&files).await;
        let admin = world.person("ada", &["ADMIN", "AUDITOR", "OPERATOR"]);
        let proxy = enforcement_point(&world, &admin, &["evaluate"]);
        let fixer = world.agent("fixer", &admin);
        world.workflow(&admin, "trial").await;
        let trial = world.instance(&admin, "trial", &fixer).await.instance.id;
        let inside = |request: EvaluationRequest| EvaluationRequest { instance: Some(trial.to_string()), ..request };
        let requests = vec![allowed(), inside(allowed()), inside(gated()), inside(denied())];
        let answers = world.engine.evaluate(proxy, requests, Semantic::ExecuteAll).await.unwrap();
        answered.push(answers.iter().map(|one| (one.decision, one.reason.clone())).collect::<Vec<_>>());

        let mut explained = Vec::new();
        for answer in &answers {
            let index = answer.receipt.as_ref().unwrap().index;
            let one = world.engine.explain(&admin, index).await.unwrap().remove(0);
            assert_eq!((one.verdict.decision, one.enforced), (answer.decision, true), "{}", one.text);
            let replay = world.engine.replay(&admin, index).await.unwrap();
            assert_eq!(replay.computed.as_ref(), Some(&replay.stored), "entry {index}");
            explained.push(one);
        }
        if !in_shadow {
            assert!(
                explained.iter().all(|one| one.would_be.is_none() && !one.text.contains("shadow")),
                "{explained:?}"
            );
            continue;
        }
        // The forbid in shadow would have stopped the notes, and says so beside the yes that was given.
        for note in &explained[..2] {
            let would_be = note.would_be.as_ref().unwrap();
            assert_eq!((would_be.verdict.decision, &would_be.shadow), (Decision::Deny, &vec![name("no-notes")]));
            let said = "with what is in shadow in force: deny (in shadow: no-notes)\n";
            assert!(note.text.starts_with("allow\n") && note.text.contains(said), "{}", note.text);
        }
        assert!(explained[2..].iter().all(|one| one.would_be.is_none()), "{explained:?}");
        // What is proposed in the workflow in shadow is not held to policy; an evaluation says what policy says.
        let beside = "\nan evaluation is answered with this; what is proposed is not held to it";
        let firm = "\nenforced although the workflow is in shadow: this no is firm";
        for (one, (soft, hard)) in explained.iter().zip([(false, false), (true, false), (true, false), (false, true)]) {
            assert_eq!((one.text.contains(beside), one.text.contains(firm)), (soft, hard), "{}", one.text);
        }
        let merge = ("repo.merge", json!({ "branch": "main", "message": "m" }));
        assert!(world.propose(&fixer, trial, &[merge]).await.unwrap().gate.is_none());
    }
    assert_eq!(answered[0], answered[1]);
    let decisions: Vec<Decision> = answered[0].iter().map(|(decision, _)| *decision).collect();
    assert_eq!(decisions, [Decision::Allow, Decision::Allow, Decision::NeedsApproval, Decision::Deny]);
}
