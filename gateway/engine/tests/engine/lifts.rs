//! Rules lifted without their quorum, and the reviews that they owe: over the real policy, with restarts and evidence.

use std::sync::Arc;

use countersign_gateway_engine::{
    ActionResult, Effect, EngineError, EntryQuery, EntryRecord, Finding, Idempotency, LiftAnswer, LiftRequest,
    OwnEntry, verify_evidence,
};
use countersign_gateway_model::{
    Clock as _, Digest, Duration, GateId, InstanceId, Principal, PrincipalKind, Scope, State,
};
use countersign_ledger_entry::body::{Body, Principal as Recorded, PrincipalChange};
use serde_json::{Value, json};

use crate::bench::{Files, with_rule};
use crate::world::{Deciding, Of, World, name, org};

const HOUR: u64 = 3600;

/// Whom the policy in force lets break the glass, and what it forbids all the same.
const GLASS: &str = r#"
@id("on-call-breaks-glass")
permit (principal is Countersign::Person, action == Countersign::Action::"breakGlass", resource is Countersign::Item)
when { principal in [Countersign::Role::"SECURITY", Countersign::Role::"ADMIN"] && resource.open };

@id("no-lifted-refund-of-thousands")
forbid (principal, action == Countersign::Action::"callTool:payments.refund", resource is Countersign::Tool)
when { context.overridden.contains(Countersign::ApprovalRule::"payment")
    && context.input has amount && context.input.amount.greaterThan(decimal("1000.0")) };
"#;

/// The default bundle, with a rule of two persons that SECURITY may lift.
fn liftable(rule: &str, change: impl FnOnce(&mut Value)) -> Files {
    let mut files = with_rule(rule, |rule| {
        rule["quorum"]["persons"] = 2.into();
        rule["break_glass"] = json!({ "authority": { "roles": ["SECURITY"] }, "review_within_s": HOUR });
        change(rule);
    });
    files.get_mut("policies.cedar").unwrap().push_str(GLASS);
    files
}

struct Gated {
    world: World,
    olga: Arc<Principal>,
    agent: Arc<Principal>,
    auditor: Arc<Principal>,
    /// An administrator who has nothing to do with the work.
    rita: Arc<Principal>,
    instance: InstanceId,
    gate: GateId,
}

async fn gated(files: &Files, actions: &[(&str, Value)]) -> Gated {
    let world = World::under(files).await;
    let olga = world.person("olga", &["OPERATOR", "ADMIN"]);
    let auditor = world.person("august", &["AUDITOR"]);
    let agent = world.agent("robot", &olga);
    world.workflow(&olga, "fix").await;
    let instance = world.instance(&olga, "fix", &agent).await.instance.id;
    let gate = world.propose(&agent, instance, actions).await.unwrap().gate.unwrap();
    let rita = world.person("rita", &["ADMIN"]);
    // As the program records whoever it creates: only a person's review closes anything.
    for person in [&olga, &rita] {
        let body = Body::Principal(Recorded {
            change: PrincipalChange::Created,
            principal: person.pseudonym,
            kind: PrincipalKind::Person,
            owner: None,
            roles: Vec::new(),
            teams: Vec::new(),
            credential: None,
        });
        world.engine.commit_system(org(1), OwnEntry::new(body)).await.unwrap();
    }
    Gated { world, olga, agent, auditor, rita, instance, gate }
}

fn merge() -> (&'static str, Value) {
    ("repo.merge", json!({ "branch": "main", "message": "m" }))
}

fn refund(amount: u32) -> (&'static str, Value) {
    ("payments.refund", json!({ "amount": amount, "currency": "EUR", "order": "o-1" }))
}

fn code<T: std::fmt::Debug>(answer: Result<T, EngineError>) -> &'static str {
    answer.unwrap_err().code()
}

impl Gated {
    async fn request(&self, who: &Principal, gate: GateId, rule: &str) -> LiftRequest {
        LiftRequest {
            rule: name(rule),
            item: None,
            justification: "production is down".to_owned(),
            shown_digest: self.world.engine.gate(who, gate).await.unwrap().shown_digest,
            role: None,
            assertion: None,
        }
    }

    async fn lift(&self, who: &Arc<Principal>, rule: &str) -> Result<LiftAnswer, EngineError> {
        let request = self.request(who, self.gate, rule).await;
        self.world.engine.break_glass(Arc::clone(who), self.gate, request, None).await
    }

    async fn entries(&self, kind: &str) -> Vec<EntryRecord> {
        let query = EntryQuery { limit: 500, ..EntryQuery::default() };
        let entries = self.world.engine.entries(&self.auditor, query).await.unwrap().items;
        entries.into_iter().filter(|entry| entry.kind == kind).collect()
    }

    /// Every verdict on record, computed again; and the whole log as evidence, for one who has nothing but the root key.
    async fn holds(&self) -> String {
        let query = EntryQuery { limit: 500, ..EntryQuery::default() };
        for entry in self.world.engine.entries(&self.auditor, query).await.unwrap().items {
            if entry.verdict.is_some() {
                let again = self.world.engine.replay(&self.auditor, entry.index).await.unwrap();
                assert_eq!(again.computed.as_ref(), Some(&again.stored), "entry {} of {}", entry.index, entry.kind);
            }
        }
        let pack = self.world.engine.pack(&self.auditor, true).await.unwrap();
        let report = verify_evidence(&self.world.root_vkey(org(1)), &pack).unwrap();
        assert_eq!(report.verdict.as_str(), "VALID", "{report:?}");
        report.render()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_person_lifts_a_rule_of_two_and_another_reviews_it() {
    let mut at = gated(&liftable("merge", |_| ()), &[merge()]).await;
    let sara = at.world.person("sara", &["SECURITY"]);
    let view = at.world.engine.gate(&sara, at.gate).await.unwrap();
    assert!(view.view.contains("may be lifted without that by role SECURITY"), "{}", view.view);
    assert!(view.gate.items[0].rules[0].liftable);
    let told = at.world.engine.gate(&at.agent, at.gate).await.unwrap();
    assert!(!told.view.contains("SECURITY") && told.gate.items[0].rules.is_empty(), "agents are told nothing of it");

    let lifted = at.lift(&sara, "merge").await.unwrap();
    assert_eq!((lifted.answer.effect, lifted.answer.state), (Effect::Resolving, State::Running));
    assert!(matches!(lifted.answer.items[0].result, ActionResult::Permitted { .. }));
    let id = lifted.answer.decision;
    assert_eq!(lifted.review_by, Some(at.world.clock.now() + Duration::from_secs(HOUR)));
    let shown = at.world.engine.gate(&sara, at.gate).await.unwrap();
    assert!(shown.gate.items[0].rules[0].lifted && shown.gate.items[0].rules[0].met);

    // The review is owed across a restart, and whoever broke the glass does not sweep it up.
    at.world.restart().await;
    let owed = at.world.engine.reviews(&sara, false, None, 10).await.unwrap().items;
    assert_eq!((owed.len(), owed[0].id, owed[0].by.as_str()), (1, id, "person/sara"));
    assert_eq!(owed[0].justification.as_deref(), Some("production is down"));
    assert_eq!(at.world.engine.lifts(&at.olga, at.instance).await.unwrap().len(), 1);
    assert!(at.world.engine.lifts(&at.agent, at.instance).await.unwrap().is_empty(), "agents are told nothing of it");
    let say = |finding| (finding, "looked at it with the author".to_owned());
    let close =
        |who: &Arc<Principal>, finding, key| at.world.engine.close_review(Arc::clone(who), id, say(finding), key);
    assert_eq!(code(close(&sara, Finding::Upheld, None).await), "review-own");
    // Nor does she whose agent it was lifted for, though she may close others.
    let own = close(&at.olga, Finding::Upheld, None).await.unwrap_err();
    assert!(own.to_string().contains("the instance is yours"), "{own}");
    // An auditor reads and may not review: policy says who does, and its refusal is on record.
    let refusals = at.entries("refusal").await.len();
    assert_eq!(code(close(&at.auditor, Finding::Upheld, None).await), "policy-denied");
    assert_eq!(at.entries("refusal").await.len(), refusals + 1);
    assert!(at.holds().await.contains("OPEN"));
    let key = Some(Idempotency { key: "once".to_owned(), request: Digest([1; 32]) });
    let (closed, receipt) = close(&at.rita, Finding::NotUpheld, key.clone()).await.unwrap();
    assert_eq!(closed.review.as_ref().unwrap().finding, Finding::NotUpheld);
    let (again, same) = close(&at.rita, Finding::NotUpheld, key).await.unwrap();
    assert_eq!((again.review.unwrap().by.as_str(), same.index), ("person/rita", receipt.index));
    assert_eq!(code(close(&at.rita, Finding::Upheld, None).await), "review-closed");
    assert!(at.world.engine.reviews(&sara, false, None, 10).await.unwrap().items.is_empty());
    assert_eq!(at.entries("review").await.len(), 1);
    assert!(!at.holds().await.contains("OPEN"));
}

/// The default bundle with a merge that SECURITY may lift, and a rule of its own for releases.
fn releasing(change: impl FnOnce(&mut Value)) -> Files {
    let mut files = liftable("merge", change);
    files.get_mut("policies.cedar").unwrap().push_str(RELEASE);
    files
}

const RELEASE: &str = r#"
@id("gate-merge-too")
@requires_approval("production")
forbid (principal, action == Countersign::Action::"callTool:repo.merge", resource is Countersign::Tool)
when { context.input.branch == "release" }
unless { context.satisfied.contains(Countersign::ApprovalRule::"production") };
"#;

/// What has changed since the rule was lifted.
type Since = (&'static str, fn(&mut Value));

#[tokio::test(flavor = "multi_thread")]
async fn a_lift_counts_as_long_as_it_could_be_made_again() {
    let stops: [Since; 3] = [
        ("nobody may lift it", |rule| {
            rule.as_object_mut().unwrap().remove("break_glass");
        }),
        ("others may", |rule| rule["break_glass"]["authority"] = json!({ "roles": ["OPERATOR"] })),
        ("it demands a signature", |rule| rule["demand"] = json!({ "assertion": true })),
    ];
    for (why, change) in stops {
        let release = ("repo.merge", json!({ "branch": "release", "message": "m" }));
        // Whoever approves releases has no vote on merges.
        let apart = |rule: &mut Value| rule["authority"]["roles"] = json!(["SECURITY"]);
        let at = gated(&releasing(apart), &[release]).await;
        let (sara, anna) = (at.world.person("sara", &["SECURITY"]), at.world.person("anna", &["APPROVER"]));
        assert_eq!(at.lift(&sara, "merge").await.unwrap().answer.effect, Effect::Counted, "{why}");
        at.world.policies.install(
            org(1),
            &releasing(|rule| {
                apart(rule);
                change(rule);
            }),
        );
        let vote = at.world.decide(&anna, at.gate, Deciding::Approve).await.unwrap();
        assert_eq!((vote.effect, vote.state), (Effect::Counted, State::WaitingForHuman), "{why}");
        assert!(vote.remaining.iter().any(|rule| rule.rule.as_str() == "merge"), "{why}: {:?}", vote.remaining);
        at.holds().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lift_of_one_rule_leaves_the_votes_of_the_others_to_people() {
    let files = releasing(|_| ());
    let release = ("repo.merge", json!({ "branch": "release", "message": "m" }));
    let mut at = gated(&files, &[release]).await;
    let (sara, anna) = (at.world.person("sara", &["SECURITY"]), at.world.person("anna", &["APPROVER"]));
    let lifted = at.lift(&sara, "merge").await.unwrap();
    assert_eq!((lifted.answer.effect, lifted.answer.state), (Effect::Counted, State::WaitingForHuman));
    assert_eq!(code(at.lift(&sara, "merge").await), "rule-met");
    assert_eq!(code(at.lift(&sara, "production").await), "rule-not-liftable");
    // A fold that was read from the log again counts the same.
    at.world.restart().await;
    let vote = at.world.decide(&anna, at.gate, Deciding::Approve).await.unwrap();
    assert_eq!((vote.effect, vote.state), (Effect::Resolving, State::Running));
    let decision = &at.entries("decision").await[0];
    assert_eq!(decision.body["asked"].as_array().unwrap().len(), 1, "whoever lifted is asked again: {}", decision.body);
    at.holds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_one_item_has_is_asked_of_another_too_once_policy_does() {
    let merge_to = |branch: &str| ("repo.merge", json!({ "branch": branch, "message": "m" }));
    let at = gated(&releasing(|_| ()), &[merge_to("release"), merge_to("next")]).await;
    let (sara, anna) = (at.world.person("sara", &["SECURITY"]), at.world.person("anna", &["APPROVER"]));
    let items = at.world.engine.gate(&anna, at.gate).await.unwrap().gate.items;
    let rules = |n: usize| items[n].rules.iter().map(|rule| rule.rule.as_str()).collect::<Vec<_>>();
    assert_eq!((rules(0), rules(1)), (vec!["merge", "production"], vec!["merge"]));
    let mut wider = releasing(|_| ());
    let policies = wider.get_mut("policies.cedar").unwrap();
    *policies = policies.replace(r#"context.input.branch == "release""#, r#"context.input.branch != "main""#);
    at.world.policies.install(org(1), &wider);
    for item in &items {
        let request = LiftRequest { item: Some(item.item), ..at.request(&sara, at.gate, "merge").await };
        let lifted = at.world.engine.break_glass(Arc::clone(&sara), at.gate, request, None).await.unwrap();
        assert_eq!((lifted.answer.effect, lifted.answer.state), (Effect::Counted, State::WaitingForHuman));
    }
    let items = at.world.engine.gate(&anna, at.gate).await.unwrap().gate.items;
    assert!(items[1].rules.iter().any(|rule| rule.rule.as_str() == "production" && !rule.met), "{:?}", items[1].rules);
    let vote = at.world.decide(&anna, at.gate, Deciding::Approve).await.unwrap();
    assert_eq!((vote.effect, vote.state), (Effect::Resolving, State::Running));
    at.holds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_lift_is_on_record_and_the_gate_stays() {
    let at = gated(&liftable("merge", |_| ()), &[merge()]).await;
    // Policy would let an administrator, whom the rule does not name; the rule names SECURITY, which is not anna's.
    let (root, anna) = (at.world.person("root", &["ADMIN"]), at.world.person("anna", &["APPROVER"]));
    for who in [&root, &anna] {
        let lifted = at.lift(who, "merge").await.unwrap();
        assert_eq!((lifted.answer.effect, lifted.review_by), (Effect::NotEligible, None), "{}", who.id);
    }
    assert_eq!(at.entries("lift").await.len(), 2);
    assert_eq!(at.world.state(&at.olga, at.instance).await, State::WaitingForHuman);
    let sara = at.world.person("sara", &["SECURITY"]);
    let mut request = at.request(&sara, at.gate, "merge").await;
    request.justification = " ".to_owned();
    let lift = |who: &Arc<Principal>, request| at.world.engine.break_glass(Arc::clone(who), at.gate, request, None);
    assert_eq!(code(lift(&sara, request.clone()).await), "justification-blank");
    request = LiftRequest { justification: "why".to_owned(), shown_digest: Digest([9; 32]), ..request };
    assert_eq!(code(lift(&sara, request.clone()).await), "view-stale");
    assert_eq!(code(lift(&at.agent, request.clone()).await), "decider-not-a-person");
    let mut plain = Principal::clone(&sara);
    plain.scopes = vec![Scope::Act];
    assert_eq!(code(lift(&Arc::new(plain), request).await), "scope-missing");
    assert!(at.world.engine.reviews(&sara, false, None, 10).await.unwrap().items.is_empty());
    at.holds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_excluded_may_not_lift_what_they_may_not_approve() {
    let files = liftable("merge", |rule| rule["exclude"] = json!({ "owner": true }));
    let world = World::under(&files).await;
    let owner = world.person("sole", &["OPERATOR", "ADMIN", "SECURITY"]);
    let auditor = world.person("august", &["AUDITOR"]);
    let agent = world.agent("robot", &owner);
    world.workflow(&owner, "fix").await;
    let instance = world.instance(&owner, "fix", &agent).await.instance.id;
    let gate = world.propose(&agent, instance, &[merge()]).await.unwrap().gate.unwrap();
    let rita = world.person("rita", &["ADMIN"]);
    let at = Gated { world, olga: Arc::clone(&owner), agent, auditor, rita, instance, gate };
    assert_eq!(at.lift(&owner, "merge").await.unwrap().answer.effect, Effect::NotEligible);
    at.holds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hard_forbid_is_never_lifted() {
    let at = gated(&liftable("payment", |_| ()), &[refund(5000)]).await;
    let sara = at.world.person("sara", &["SECURITY"]);
    let lifted = at.lift(&sara, "payment").await.unwrap();
    assert_eq!((lifted.answer.effect, lifted.answer.state), (Effect::HardDenied, State::Terminated));
    assert!(at.world.engine.reviews(&sara, false, None, 10).await.unwrap().items.is_empty());
    at.holds().await;
    // What the policy has against a lifted refund is its amount: a small one goes through.
    let at = gated(&liftable("payment", |_| ()), &[refund(50)]).await;
    let sara = at.world.person("sara", &["SECURITY"]);
    assert_eq!(at.lift(&sara, "payment").await.unwrap().answer.state, State::Running);
    at.holds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_whose_review_is_overdue_is_not_lifted_again() {
    let at = gated(&liftable("merge", |_| ()), &[merge()]).await;
    let sara = at.world.person("sara", &["SECURITY"]);
    let first = at.lift(&sara, "merge").await.unwrap().answer.decision;
    at.world.clock.forward(Duration::from_secs(HOUR));
    let gate = at.world.propose(&at.agent, at.instance, &[merge()]).await.unwrap().gate.unwrap();
    let request = at.request(&sara, gate, "merge").await;
    let lift = || at.world.engine.break_glass(Arc::clone(&sara), gate, request.clone(), None);
    at.world.clock.forward(Duration::from_secs(1));
    assert_eq!(at.world.engine.reviews(&sara, true, None, 10).await.unwrap().items.len(), 1);
    let refused = lift().await.unwrap_err();
    assert_eq!(refused.code(), "review-overdue");
    assert!(refused.to_string().contains(&first.to_string()), "{refused}");
    let said = (Finding::Upheld, "it was right".to_owned());
    at.world.engine.close_review(Arc::clone(&at.rita), first, said, None).await.unwrap();
    assert_eq!(lift().await.unwrap().answer.effect, Effect::Resolving);
    at.holds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_a_change_of_policy_nor_an_old_gate_opens_a_way() {
    // Opened while nobody could lift it.
    let closed = with_rule("merge", |rule| rule["quorum"]["persons"] = 2.into());
    let at = gated(&closed, &[merge()]).await;
    let sara = at.world.person("sara", &["SECURITY"]);
    assert_eq!(code(at.lift(&sara, "merge").await), "rule-not-liftable");
    at.world.policies.install(org(1), &liftable("merge", |_| ()));
    assert_eq!(code(at.lift(&sara, "merge").await), "rule-not-liftable");
    // And the other way round.
    let at = gated(&liftable("merge", |_| ()), &[merge()]).await;
    let sara = at.world.person("sara", &["SECURITY"]);
    at.world.policies.install(org(1), &closed);
    assert_eq!(code(at.lift(&sara, "merge").await), "rule-not-liftable");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_of_an_old_gate_is_built_for_nobody_who_may_not_lift() {
    let at = gated(&liftable("merge", |_| ()), &[merge()]).await;
    at.world.policies.install(org(1), &liftable("merge", |rule| rule["break_glass"]["review_within_s"] = 60.into()));
    let asked = at.world.policies.past_asked();
    // Policy would let root, whom the rule does not name; anna is let and named by nobody.
    let (root, anna) = (at.world.person("root", &["ADMIN"]), at.world.person("anna", &["APPROVER"]));
    for who in [&root, &anna] {
        assert_eq!(at.lift(who, "merge").await.unwrap().answer.effect, Effect::NotEligible, "{}", who.id);
    }
    let sara = at.world.person("sara", &["SECURITY"]);
    let mut request = at.request(&sara, at.gate, "merge").await;
    request.role = Some(name("ADMIN"));
    let lift = at.world.engine.break_glass(Arc::clone(&sara), at.gate, request, None);
    assert_eq!(code(lift.await), "parameter-invalid");
    assert_eq!(*asked.borrow(), 0);
    assert_eq!(at.entries("lift").await.len(), 2, "and what they tried is on record");
    let lifted = at.lift(&sara, "merge").await.unwrap();
    assert_eq!((lifted.answer.effect, *asked.borrow()), (Effect::Resolving, 1));
    assert_eq!(lifted.review_by, Some(at.world.clock.now() + Duration::from_secs(60)), "the shorter of both");
    at.holds().await;
}

/// A bundle that says what another says.
fn and_a_word(mut files: Files) -> Files {
    files.get_mut("policies.cedar").unwrap().push_str("\n// A word more.\n");
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_who_may_lift_by_now_is_on_record_as_refused() {
    let deny = countersign_gateway_model::Decision::Deny;
    let may = liftable("merge", |_| ());
    let mut may_not = may.clone();
    let policies = may_not.get_mut("policies.cedar").unwrap();
    *policies = policies.replace(GLASS, "");
    let mut told = Vec::new();
    // Policy lets her from ever later in the course of her lift.
    for lookups in 0..12 {
        let at = gated(&may, &[merge()]).await;
        let sara = at.world.person("sara", &["SECURITY"]);
        at.world.policies.install(org(1), &may_not);
        let request = at.request(&sara, at.gate, "merge").await;
        let lift = || at.world.engine.break_glass(Arc::clone(&sara), at.gate, request.clone(), None);
        at.world.policies.install_after(lookups, org(1), &and_a_word(may.clone()));
        match lift().await {
            Ok(lifted) => {
                let record = at.entries("lift").await.remove(0);
                let said = record.verdict.unwrap().decision;
                assert_eq!(lifted.answer.effect == Effect::NotEligible, said == deny, "{lookups}: {said:?}");
                told.push(if said == deny { "refused" } else { "lifted" });
            }
            Err(error) => {
                assert_eq!(error.code(), "verdict-stale", "{lookups}");
                assert!(at.entries("lift").await.is_empty(), "{lookups}");
                assert_eq!(lift().await.unwrap().answer.effect, Effect::Resolving, "{lookups}: they are to try again");
                told.push(error.code());
            }
        }
        at.holds().await;
        if told.last() == Some(&"refused") {
            break;
        }
    }
    assert_eq!((told.first(), told.last()), (Some(&"lifted"), Some(&"refused")), "{told:?}");
    assert!(told.contains(&"verdict-stale"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_is_of_the_past_since_the_stream_is_held_is_not_built_there() {
    let mut told = Vec::new();
    for lookups in 0..12 {
        let at = gated(&liftable("merge", |_| ()), &[merge()]).await;
        let sara = at.world.person("sara", &["SECURITY"]);
        let request = at.request(&sara, at.gate, "merge").await;
        let lift = || at.world.engine.break_glass(Arc::clone(&sara), at.gate, request.clone(), None);
        let asked = at.world.policies.past_asked();
        at.world.policies.install_after(lookups, org(1), &and_a_word(liftable("merge", |_| ())));
        match lift().await {
            Ok(lifted) => {
                assert_eq!(lifted.answer.effect, Effect::Resolving, "{lookups}");
                told.push(if *asked.borrow() == 0 { "in force" } else { "built" });
            }
            Err(error) => {
                assert_eq!((error.code(), *asked.borrow()), ("verdict-stale", 0), "{lookups}");
                assert_eq!((lift().await.unwrap().answer.effect, *asked.borrow()), (Effect::Resolving, 1), "{lookups}");
                told.push(error.code());
            }
        }
        at.holds().await;
        if told.last() == Some(&"in force") {
            break;
        }
    }
    assert_eq!((told.first(), told.last()), (Some(&"built"), Some(&"in force")), "{told:?}");
    assert!(told.contains(&"verdict-stale"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_policy_of_an_old_gate_is_built_nobody_waits_for_the_stream() {
    let within = std::time::Duration::from_secs(15);
    for decided_meanwhile in [false, true] {
        let at = gated(&liftable("merge", |_| ()), &[merge()]).await;
        at.world.policies.install(org(1), &liftable("merge", |rule| rule["title"] = "merges".into()));
        let (sara, anna) = (at.world.person("sara", &["SECURITY"]), at.world.person("anna", &["APPROVER"]));
        let request = at.request(&sara, at.gate, "merge").await;
        let mut asked = at.world.policies.past_asked();
        at.world.policies.hold_past(true);
        let (engine, gate) = (at.world.engine.clone(), at.gate);
        let lift = tokio::spawn(async move { engine.break_glass(sara, gate, request, None).await });
        tokio::time::timeout(within, asked.wait_for(|asked| *asked == 1)).await.unwrap().unwrap();
        let read = tokio::time::timeout(within, at.world.engine.gate(&at.olga, at.gate)).await;
        assert!(read.unwrap().is_ok(), "whoever reads the gate waits for nobody");
        if decided_meanwhile {
            let reject = at.world.decide(&anna, at.gate, Deciding::Reject);
            let rejected = tokio::time::timeout(within, reject).await.unwrap().unwrap();
            assert_eq!(rejected.state, State::Terminated);
        }
        at.world.policies.hold_past(false);
        let lifted = lift.await.unwrap();
        if decided_meanwhile {
            assert_eq!(code(lifted), "gate-closed");
            assert!(at.entries("lift").await.is_empty());
        } else {
            assert_eq!(lifted.unwrap().answer.effect, Effect::Resolving);
        }
        at.holds().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_review_of_another_organization_is_one_of_nobodys() {
    let world = World::with(&[org(1), org(2)]).await;
    for one in [org(1), org(2)] {
        world.policies.install(one, &liftable("merge", |_| ()));
    }
    let olga = world.person("olga", &["OPERATOR", "ADMIN"]);
    let other = world.person_of(org(2), "otto", Of { roles: &["ADMIN"], ..Of::default() });
    let (agent, auditor) = (world.agent("robot", &olga), world.person("august", &["AUDITOR"]));
    world.workflow(&olga, "fix").await;
    let instance = world.instance(&olga, "fix", &agent).await.instance.id;
    let gate = world.propose(&agent, instance, &[merge()]).await.unwrap().gate.unwrap();
    let rita = world.person("rita", &["ADMIN"]);
    let at = Gated { world, olga, agent, auditor, rita, instance, gate };
    let sara = at.world.person("sara", &["SECURITY"]);
    let request = at.request(&sara, gate, "merge").await;
    let theirs = at.world.engine.break_glass(Arc::clone(&other), gate, request, None).await;
    assert_eq!(code(theirs), "not-found");
    let lift = at.lift(&sara, "merge").await.unwrap().answer.decision;
    assert!(at.world.engine.reviews(&other, false, None, 10).await.unwrap().items.is_empty());
    let said = (Finding::Upheld, "not mine".to_owned());
    assert_eq!(code(at.world.engine.close_review(other, lift, said, None).await), "not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_takes_what_lets_somebody_in_to_stop_things_and_no_other_change_of_accounts() {
    let world = World::new().await;
    let who = world.person("ada", &["ADMIN"]);
    for (urgent, expected) in [(false, Err("disk-full")), (true, Ok(()))] {
        let body = Body::Principal(Recorded {
            change: PrincipalChange::Updated,
            principal: who.pseudonym,
            kind: PrincipalKind::Person,
            owner: None,
            roles: Vec::new(),
            teams: Vec::new(),
            credential: None,
        });
        *world.faults.lock().unwrap() = Some(crate::faulty::Fault::Full);
        let done = world.engine.commit_system(org(1), OwnEntry { urgent, ..OwnEntry::new(body) }).await;
        assert_eq!(done.map(drop).map_err(|error| error.code()), expected);
        assert!(world.faults.lock().unwrap().is_none(), "the disk was full");
    }
}
