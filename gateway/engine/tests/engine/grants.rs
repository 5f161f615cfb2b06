//! Rules met in advance, over the real policy: asked for, given, used, stopped, taken back; nobody gets more out of it than
//! people read, and everything about it is on record.

use std::collections::BTreeMap;
use std::sync::Arc;

use countersign_gateway_engine::{
    ActionResult, Bound, Effect, EngineError, EntryQuery, EntryRecord, GrantAsked, GrantBudget, GrantRecord,
    GrantRequest, GrantTool, Idempotency, Proposed, verify_evidence,
};
use countersign_gateway_flow::Instance;
use countersign_gateway_model::{
    Clock as _, Delegator, Digest, Duration, GateId, GrantId, InstanceId, Principal, State,
};
use countersign_ledger_entry::body::Body;
use countersign_ledger_entry::{Draft, Entry, Payload, Stream, StreamKind};
use countersign_ledger_log::{Append, Sealing};
use countersign_ledger_merkle::leaf_hash;
use serde_json::{Value, json};

use crate::bench::{Files, default_files, with_rule};
use crate::counters::files_of;
use crate::world::{Deciding, World, name, org, replace};

const RULE: &str = "external-communication";

struct Scene {
    world: World,
    owner: Arc<Principal>,
    agent: Arc<Principal>,
    auditor: Arc<Principal>,
    anna: Arc<Principal>,
    instance: InstanceId,
}

async fn scene(files: &Files) -> Scene {
    scene_of(files, &["OPERATOR", "ADMIN"]).await
}

/// The same, with an owner of these roles.
async fn scene_of(files: &Files, roles: &[&str]) -> Scene {
    let world = World::under(files).await;
    let owner = world.person("olga", roles);
    let auditor = world.person("august", &["AUDITOR"]);
    let anna = world.person("anna", &["APPROVER"]);
    let agent = world.agent("robot", &owner);
    world.workflow(&owner, "fix").await;
    let instance = world.instance(&owner, "fix", &agent).await.instance.id;
    Scene { world, owner, agent, auditor, anna, instance }
}

fn code<T: std::fmt::Debug>(answer: Result<T, EngineError>) -> &'static str {
    answer.unwrap_err().code()
}

/// Mail to one address, whatever it says.
fn mailing(uses: u32, for_s: u64) -> GrantRequest {
    let input = BTreeMap::from([
        ("/to".to_owned(), Bound::EachOf(vec![json!("shop@example.com")])),
        ("/subject".to_owned(), Bound::Any),
        ("/body".to_owned(), Bound::Any),
    ]);
    GrantRequest {
        rule: name(RULE),
        tools: vec![GrantTool { tool: name("mail.send"), revision: None, input }],
        uses,
        for_s,
        budget: None,
        reason: "the same message,\nNext: harmless".to_owned(),
    }
}

fn mail(to: &str) -> (&'static str, Value) {
    ("mail.send", json!({ "to": [to], "subject": "s", "body": "b" }))
}

const SHOP: &str = "shop@example.com";

fn is_permitted(proposed: &Proposed) -> bool {
    proposed.items.iter().all(|item| matches!(item.result, ActionResult::Permitted { .. }))
}

impl Scene {
    async fn ask(&self, request: GrantRequest) -> Result<GrantAsked, EngineError> {
        self.ask_as(&self.agent, request).await
    }

    async fn ask_as(&self, who: &Arc<Principal>, request: GrantRequest) -> Result<GrantAsked, EngineError> {
        self.world.engine.request_grant(Arc::clone(who), self.instance, request, None).await
    }

    async fn granted(&self, request: GrantRequest) -> GrantId {
        let asked = self.ask(request).await.unwrap();
        let vote = self.world.decide(&self.anna, asked.gate, Deciding::Approve).await.unwrap();
        assert_eq!((vote.effect, vote.state), (Effect::Resolving, State::Running));
        asked.grant
    }

    async fn propose(&self, actions: &[(&str, Value)]) -> Proposed {
        self.world.propose(&self.agent, self.instance, actions).await.unwrap()
    }

    /// The gate that an action led to is dealt with, so that the next one can be proposed.
    async fn answered(&self, proposed: &Proposed) {
        let gate = proposed.gate.unwrap();
        self.world.decide(&self.anna, gate, Deciding::Approve).await.unwrap();
    }

    /// All grants, read in pages of two.
    async fn list(&self, who: &Principal) -> Vec<GrantRecord> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let page = self.world.engine.task_grants(who, self.instance, after.as_deref(), 2).await.unwrap();
            all.extend(page.items);
            after = page.next;
            if after.is_none() {
                return all;
            }
        }
    }

    async fn grant(&self, grant: GrantId) -> GrantRecord {
        let all = self.list(&self.owner).await;
        all.into_iter().find(|one| one.grant == grant).unwrap()
    }

    async fn state_of(&self, grant: GrantId) -> (&'static str, u32) {
        let record = self.grant(grant).await;
        (record.state, record.used)
    }

    async fn entries(&self, kind: &str) -> Vec<EntryRecord> {
        let query = EntryQuery { limit: 500, ..EntryQuery::default() };
        let entries = self.world.engine.entries(&self.auditor, query).await.unwrap().items;
        entries.into_iter().filter(|entry| kind.is_empty() || entry.kind == kind).collect()
    }

    /// Every verdict on record, computed again from what is stored; and the log, checked by the verifier alone.
    async fn can_be_proven(&self) {
        for entry in self.entries("").await.iter().filter(|entry| entry.verdict.is_some()) {
            let again = self.world.engine.replay(&self.auditor, entry.index).await.unwrap();
            assert_eq!(again.computed.as_ref(), Some(&again.stored), "entry {} of kind {}", entry.index, entry.kind);
        }
        let pack = self.world.engine.pack(&self.auditor, true).await.unwrap();
        let report = verify_evidence(&self.world.root_vkey(org(1)), &pack).unwrap();
        assert_eq!(report.verdict.as_str(), "VALID", "{report:?}");
    }

    async fn restart_equals(&mut self) {
        let before = format!("{:?}", self.list(&self.owner).await);
        self.world.restart().await;
        let after = format!("{:?}", self.list(&self.owner).await);
        assert_eq!(before, after);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_is_met_in_advance_asks_nobody_as_often_as_was_said() {
    let mut at = scene(&default_files()).await;
    let asked = at.ask(mailing(3, 3600)).await.unwrap();
    assert_eq!(asked.state, State::WaitingForHuman);
    assert_eq!(at.state_of(asked.grant).await, ("waiting", 0));
    let shown = at.world.engine.gate(&at.anna, asked.gate).await.unwrap();
    for line in [
        "Uses:      at most 3, each of them on record",
        "Lasts:     3600 s from approval, at most as long as the instance",
        "  input    /to is a list of nothing but \"shop@example.com\"",
        "  input    /body may be anything, or left out",
        "  input    nothing that is not named above",
        "if approved, the agent's calls within these terms get permits without anybody being asked",
        "| 1.reason = \"the same message,\\u{a}Next: harmless\"",
    ] {
        assert!(shown.view.contains(line), "{line}\n{}", shown.view);
    }
    assert_eq!(code(at.ask(mailing(1, 1)).await), "instance-waiting");
    let override_ = replace(shown.gate.items[0].item, "/uses", json!(9));
    assert_eq!(code(at.world.decide(&at.anna, asked.gate, override_).await), "grant-not-overridable");
    // Whose work it is asks, and does not answer: the rule excludes nobody, and the owner is no approver here.
    let vote = at.world.decide(&at.owner, asked.gate, Deciding::Approve).await.unwrap();
    assert_eq!(vote.effect, Effect::NotEligible);
    at.world.decide(&at.anna, asked.gate, Deciding::Approve).await.unwrap();
    assert_eq!(at.state_of(asked.grant).await, ("live", 0));

    // Within the terms nobody is asked; a batch uses it once for each.
    assert!(is_permitted(&at.propose(&[mail(SHOP)]).await));
    let proposed = at.propose(&[mail(SHOP), ("notes.append", json!({ "text": "x" })), mail(SHOP)]).await;
    assert!(is_permitted(&proposed) && proposed.gate.is_none(), "{proposed:?}");
    assert_eq!(at.state_of(asked.grant).await, ("used_up", 3));
    let uses: Vec<u64> =
        at.entries("task_grant_use").await.iter().map(|entry| entry.body["used"].as_u64().unwrap()).collect();
    assert_eq!(uses, [1, 2, 3]);
    at.restart_equals().await;
    let proposed = at.propose(&[mail(SHOP)]).await;
    at.answered(&proposed).await;
    assert_eq!(at.entries("task_grant_use").await.len(), 3, "a gate of its own is no use");
    at.can_be_proven().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_within_the_terms_asks_people_as_ever() {
    let at = scene(&default_files()).await;
    let grant = at.granted(mailing(9, 600)).await;
    // Another address, and one beside the one that was said.
    let both = ("mail.send", json!({ "to": [SHOP, "evil@example.com"], "subject": "s", "body": "b" }));
    for action in [mail("evil@example.com"), both] {
        let proposed = at.propose(&[action]).await;
        at.answered(&proposed).await;
    }
    // Where somebody must be asked about one of a batch, they are asked about all of it.
    let proposed = at.propose(&[mail(SHOP), mail("evil@example.com")]).await;
    assert_eq!(at.world.engine.gate(&at.anna, proposed.gate.unwrap()).await.unwrap().gate.items.len(), 2);
    at.answered(&proposed).await;
    assert_eq!(at.state_of(grant).await, ("live", 0));
    assert!(is_permitted(&at.propose(&[mail(SHOP)]).await));
    at.world.clock.forward(Duration::from_secs(601));
    assert_eq!(at.state_of(grant).await, ("expired", 1));
    let proposed = at.propose(&[mail(SHOP)]).await;
    at.answered(&proposed).await;
    at.can_be_proven().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_granted_than_the_rule_lets_be_granted() {
    let at = scene(&default_files()).await;
    let other = |rule: &str| GrantRequest { rule: name(rule), ..mailing(1, 60) };
    let budget = |counter: &str, amount: &str| GrantRequest {
        budget: Some(GrantBudget { counter: name(counter), amount: amount.to_owned() }),
        ..mailing(1, 60)
    };
    let wide = [
        (other("merge"), "grant-not-grantable"),
        (other("no-such-rule"), "grant-not-grantable"),
        (mailing(21, 60), "grant-too-wide"),
        (mailing(20, 28_801), "grant-too-wide"),
        (budget("spent", "5.0"), "parameter-invalid"),
    ];
    for (request, told) in wide {
        // A person is told how far it goes. An agent, that it does not go: it would ask for just as much.
        assert_eq!(code(at.ask_as(&at.owner, request.clone()).await), told);
        let refused = at.ask(request).await.unwrap_err();
        assert_eq!(refused.code(), "grant-not-grantable");
        let words = refused.to_string();
        assert!(words.starts_with("this cannot be met in advance as it is asked for"), "{words}");
    }
    assert_eq!(code(at.ask(mailing(0, 60)).await), "parameter-invalid");
    assert_eq!(code(at.ask(mailing(1, 0)).await), "parameter-invalid");
    assert_eq!(code(at.ask(GrantRequest { tools: Vec::new(), ..mailing(1, 60) }).await), "parameter-invalid");
    assert_eq!(code(at.ask(GrantRequest { reason: " ".to_owned(), ..mailing(1, 60) }).await), "parameter-invalid");
    assert_eq!(code(at.ask(budget("spent", "5")).await), "parameter-invalid");
    let mut wrong = mailing(1, 60);
    wrong.tools[0].input.insert("/subject".to_owned(), Bound::Maximum(json!(3)));
    assert_eq!(code(at.ask(wrong).await), "grant-terms-invalid");
    let mut wrong = mailing(1, 60);
    wrong.tools.push(wrong.tools[0].clone());
    assert_eq!(code(at.ask(wrong).await), "parameter-invalid");
    let mut wrong = mailing(1, 60);
    wrong.tools[0].tool = name("no.such");
    assert_eq!(code(at.ask(wrong).await), "parameter-invalid");
    assert!(at.entries("task_grant").await.is_empty(), "what is no request leaves no entry");

    // It is asked for by those whose work it is; others do not learn that there is anything to ask for.
    let stranger = at.world.agent("other", &at.owner);
    for who in [&stranger, &at.anna, &at.auditor] {
        let asked = at.world.engine.request_grant(Arc::clone(who), at.instance, mailing(1, 60), None).await;
        assert_eq!(code(asked), "instance-not-found");
    }
    let asked = at.world.engine.request_grant(Arc::clone(&at.owner), at.instance, mailing(1, 60), None).await.unwrap();
    // Who asked does not answer, whatever roles they get.
    let chief = at.world.person("chief", &["APPROVER"]);
    at.world.decide(&chief, asked.gate, Deciding::Reject).await.unwrap();
    assert_eq!(at.world.state(&at.owner, at.instance).await, State::Terminated, "a rejection ends the instance");
    assert_eq!(code(at.ask(mailing(1, 60)).await), "instance-finished");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_needs_the_quorum_of_its_rule_and_lasts_from_the_last_vote() {
    let files = with_rule(RULE, |rule| rule["quorum"]["persons"] = 2.into());
    let mut at = scene(&files).await;
    let bert = at.world.person("bert", &["APPROVER"]);
    let asked = at.ask(mailing(2, 60)).await.unwrap();
    let vote = at.world.decide(&at.anna, asked.gate, Deciding::Approve).await.unwrap();
    assert_eq!((vote.effect, vote.remaining[0].counted), (Effect::Counted, 1));
    let vote = at.world.decide(&at.anna, asked.gate, Deciding::Approve).await.unwrap();
    assert_eq!(vote.effect, Effect::Counted, "a person is one person");
    at.world.clock.forward(Duration::from_secs(3600));
    at.restart_equals().await;
    let vote = at.world.decide(&bert, asked.gate, Deciding::Approve).await.unwrap();
    assert_eq!(vote.effect, Effect::Resolving);
    let record = at.grant(asked.grant).await;
    assert_eq!(record.until, Some(at.world.engine.now() + Duration::from_secs(60)));
    assert_eq!(record.approvers.unwrap(), ["person/anna", "person/bert"]);
    assert!(is_permitted(&at.propose(&[mail(SHOP)]).await));
    // The agent sees what it works under, and no names.
    let seen = at.list(&at.agent).await;
    assert_eq!((seen[0].approvers.as_ref(), seen[0].used), (None, 1));
    assert!(seen[0].terms.as_ref().unwrap().contains_key(&name("mail.send")));
    at.can_be_proven().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_is_taken_back_by_its_givers_and_by_those_whose_work_it_is_and_by_whom_policy_lets() {
    let at = scene(&default_files()).await;
    let take = |who: &Arc<Principal>, grant, key: Option<Idempotency>| {
        at.world.engine.revoke_grant(Arc::clone(who), at.instance, grant, key)
    };
    let security = at.world.person("sepp", &["SECURITY"]);
    let stranger = at.world.person("stan", &["OPERATOR"]);
    for who in [&at.anna, &at.owner, &at.agent, &security] {
        let grant = at.granted(mailing(2, 600)).await;
        let key = Idempotency { key: format!("k-{grant}"), request: Digest([7; 32]) };
        let refused = take(&stranger, grant, None).await.unwrap_err();
        assert!(["policy-denied", "not-found"].contains(&refused.code()), "{}", refused.code());
        let revoked = take(who, grant, Some(key.clone())).await.unwrap();
        assert!(!revoked.already);
        assert_eq!(at.state_of(grant).await, ("revoked", 0));
        assert!(take(who, grant, Some(key)).await.unwrap().receipt.is_some(), "the same request has the same answer");
        assert!(take(&at.owner, grant, None).await.unwrap().already);
        let proposed = at.propose(&[mail(SHOP)]).await;
        at.answered(&proposed).await;
    }
    assert_eq!(code(take(&at.owner, GrantId::from_bytes([9; 16]), None).await), "not-found");
    at.can_be_proven().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_can_refuse_what_was_granted_and_then_people_are_asked() {
    let mut files = default_files();
    files.get_mut("policies.cedar").unwrap().push_str(
        r#"
@id("no-grants-at-night")
@title("What was granted in advance does not count for urgent mail")
forbid (principal, action == Countersign::Action::"callTool:mail.send", resource)
when {
  context.granted.contains(Countersign::ApprovalRule::"external-communication") &&
  context.input.subject == "urgent"
};
"#,
    );
    let at = scene(&files).await;
    let grant = at.granted(mailing(5, 600)).await;
    assert!(is_permitted(&at.propose(&[mail(SHOP)]).await));
    let urgent = ("mail.send", json!({ "to": [SHOP], "subject": "urgent", "body": "b" }));
    let proposed = at.propose(&[urgent]).await;
    at.answered(&proposed).await;
    assert_eq!(at.state_of(grant).await, ("live", 1));
    let granted = at.entries("permit").await;
    let question = at.world.engine.replay(&at.auditor, granted[0].index).await.unwrap();
    assert_eq!(question.computed.as_ref(), Some(&question.stored), "what it rests on is in the stored question");
    at.can_be_proven().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_holds_over_the_uses_of_a_grant_and_within_the_counters_own_limit() {
    let mut files = files_of("9.0", 86_400);
    let mut rules: Value = serde_json::from_str(&files["rules.json"]).unwrap();
    rules["rules"]["payment"]["grantable"] = json!({ "max_s": 3600, "max_uses": 50 });
    files.insert("rules.json".to_owned(), rules.to_string());
    let mut at = scene(&files).await;
    let refunds = |uses, amount: &str| GrantRequest {
        rule: name("payment"),
        tools: vec![GrantTool {
            tool: name("payments.refund"),
            revision: None,
            input: BTreeMap::from([
                ("/amount".to_owned(), Bound::Maximum(json!(60))),
                ("/currency".to_owned(), Bound::Equals(json!("EUR"))),
                ("/order".to_owned(), Bound::Prefix("o-".to_owned())),
            ]),
        }],
        budget: Some(GrantBudget { counter: name("refunded"), amount: amount.to_owned() }),
        ..mailing(uses, 600)
    };
    let refund = |amount: f64| ("payments.refund", json!({ "amount": amount, "currency": "EUR", "order": "o-1" }));
    assert_eq!(code(at.ask(refunds(5, "100")).await), "parameter-invalid", "decimal text");
    let grant = at.granted(refunds(9, "100.0")).await;
    assert!(is_permitted(&at.propose(&[refund(60.0)]).await));
    let proposed = at.propose(&[refund(40.5)]).await;
    at.answered(&proposed).await;
    // Two of one batch share what is left.
    let proposed = at.propose(&[refund(20.0), refund(20.5)]).await;
    at.answered(&proposed).await;
    assert!(is_permitted(&at.propose(&[refund(20.0), refund(20.0)]).await));
    let record = at.grant(grant).await;
    assert_eq!((record.state, record.used), ("live", 3));
    assert_eq!(record.budget.unwrap(), (name("refunded"), "100.0".to_owned(), "100.0".to_owned()));
    at.restart_equals().await;
    let proposed = at.propose(&[refund(1.0)]).await;
    at.answered(&proposed).await;
    at.can_be_proven().await;
}

/// Why a grant stops, and how its rule is changed for that.
type Stop = (&'static str, fn(&mut Value));

/// Another bundle in force, with no questions asked: what comes after is what a test looks at.
fn in_force(at: &Scene, change: impl FnOnce(&mut Value)) {
    at.world.policies.install(org(1), &with_rule(RULE, change));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_stops_when_what_it_rests_on_no_longer_stands_and_counts_again_when_it_does() {
    let at = scene(&default_files()).await;
    let grant = at.granted(mailing(10, 7200)).await;
    assert!(is_permitted(&at.propose(&[mail(SHOP)]).await));
    at.world.clock.forward(Duration::from_secs(100));
    let stops: [Stop; 5] = [
        ("its rule can no longer be met in advance", |rule| {
            rule.as_object_mut().unwrap().remove("grantable");
        }),
        ("its rule allows fewer uses by now", |rule| rule["grantable"] = json!({ "max_s": 7200, "max_uses": 1 })),
        ("its rule allows less time by now", |rule| rule["grantable"] = json!({ "max_s": 99, "max_uses": 20 })),
        ("no longer meet its rule", |rule| rule["quorum"]["persons"] = 2.into()),
        ("no longer meet its rule", |rule| rule["authority"]["roles"] = json!(["SECURITY"])),
    ];
    for (why, change) in stops {
        in_force(&at, change);
        let record = at.grant(grant).await;
        assert_eq!(record.state, "stopped", "{why}");
        assert!(record.why.unwrap().contains(why), "{record:?}");
        assert!(at.list(&at.agent).await[0].why.is_none());
        in_force(&at, |_| {});
        assert_eq!(at.grant(grant).await.state, "live");
    }
    in_force(&at, |rule| rule["quorum"]["persons"] = 2.into());
    let proposed = at.propose(&[mail(SHOP)]).await;
    assert!(proposed.gate.is_some(), "a grant that stopped is used by nobody");
    in_force(&at, |_| {});
    at.world.decide(&at.world.person("bert", &["APPROVER"]), proposed.gate.unwrap(), Deciding::Approve).await.unwrap();
    at.answered(&proposed).await;

    // An account that is no longer active gave nothing.
    at.world.deactivate(&at.anna);
    assert_eq!(at.grant(grant).await.state, "stopped");
    let proposed = at.propose(&[mail(SHOP)]).await;
    assert!(proposed.gate.is_some());
    at.can_be_proven().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_stops_when_its_giver_could_not_give_it_now() {
    // The owner gave it, which the rule allowed then.
    let at = scene_of(&default_files(), &["OPERATOR", "ADMIN", "APPROVER"]).await;
    let asked = at.ask(mailing(9, 600)).await.unwrap();
    at.world.decide(&at.owner, asked.gate, Deciding::Approve).await.unwrap();
    assert!(is_permitted(&at.propose(&[mail(SHOP)]).await));
    for excluded in ["owner", "initiator", "issuer", "accountable"] {
        in_force(&at, |rule| rule["exclude"] = json!({ excluded: true }));
        assert_eq!(at.state_of(asked.grant).await, ("stopped", 1), "{excluded}");
        let proposed = at.propose(&[mail(SHOP)]).await;
        at.answered(&proposed).await;
        in_force(&at, |_| {});
        assert_eq!(at.state_of(asked.grant).await.0, "live", "{excluded}");
    }
    // The agent acts for its giver by now.
    let mut behalf = (*at.agent).clone();
    let Principal { kind, id, pseudonym, .. } = (*at.owner).clone();
    behalf.on_behalf_of = vec![Delegator { kind, id, pseudonym }];
    let proposed = at.world.propose(&Arc::new(behalf), at.instance, &[mail(SHOP)]).await;
    assert!(proposed.as_ref().is_ok_and(|proposed| proposed.gate.is_some()), "{proposed:?}");
    at.answered(&proposed.unwrap()).await;
    assert_eq!(at.state_of(asked.grant).await, ("live", 1));
    at.can_be_proven().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_stops_when_its_giver_has_lost_what_they_gave_it_with() {
    let at = scene(&default_files()).await;
    let grant = at.granted(mailing(9, 600)).await;
    // Another role, even one that the rule asks for by now, is not the one that gave it.
    at.world.reassign(&at.anna, &["SECURITY"]);
    in_force(&at, |rule| rule["authority"]["roles"] = json!(["APPROVER", "SECURITY"]));
    assert_eq!(at.state_of(grant).await, ("stopped", 0));
    let proposed = at.propose(&[mail(SHOP)]).await;
    assert!(proposed.gate.is_some());
    at.world.reassign(&at.anna, &["APPROVER"]);
    assert_eq!(at.state_of(grant).await, ("live", 0));
    at.answered(&proposed).await;
    // The rule asks a team by now, which she is not in: her role is no authority any more.
    in_force(&at, |rule| rule["authority"] = json!({ "roles": [], "teams": ["sales"] }));
    assert_eq!(at.state_of(grant).await, ("stopped", 0));
    at.can_be_proven().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_whose_bounds_changed_while_it_was_asked_for_is_not_given() {
    let at = scene(&default_files()).await;
    let asked = at.ask(mailing(10, 7200)).await.unwrap();
    in_force(&at, |rule| rule["grantable"] = json!({ "max_s": 7200, "max_uses": 9 }));
    let vote = at.world.decide(&at.anna, asked.gate, Deciding::Approve).await.unwrap();
    assert_eq!(vote.effect, Effect::Stale);
    let approvers = at.world.engine.approvers(&at.owner, asked.gate, None, 50).await.unwrap();
    assert!(approvers.notes.iter().any(|note| note.contains("can only be rejected")), "{:?}", approvers.notes);
    in_force(&at, |_| {});
    let approvers = at.world.engine.approvers(&at.owner, asked.gate, None, 50).await.unwrap();
    let may: Vec<_> = approvers.persons.iter().filter(|p| p.may).map(|p| p.person.as_str()).collect();
    assert_eq!(may, ["anna"], "{:?}", approvers.persons);
    let vote = at.world.decide(&at.anna, asked.gate, Deciding::Approve).await.unwrap();
    assert_eq!(vote.effect, Effect::Resolving);
    at.can_be_proven().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_grant_is_shared_by_racing_proposals_and_never_used_beyond_its_count() {
    let at = Arc::new(scene(&default_files()).await);
    let grant = at.granted(mailing(5, 600)).await;
    let racing: Vec<_> = (0..12)
        .map(|_| {
            let at = Arc::clone(&at);
            tokio::spawn(async move { at.world.propose(&at.agent, at.instance, &[mail(SHOP)]).await })
        })
        .collect();
    let mut permitted = 0;
    for one in racing {
        match one.await.unwrap() {
            Ok(proposed) if proposed.gate.is_none() => permitted += 1,
            Ok(_) => {}
            Err(error) => assert_eq!(error.code(), "instance-waiting"),
        }
    }
    assert_eq!(permitted, 5);
    assert_eq!(at.state_of(grant).await, ("used_up", 5));
    at.can_be_proven().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_for_a_grant_is_one_request() {
    let at = scene(&default_files()).await;
    let key = |request| Some(Idempotency { key: "k".to_owned(), request: Digest([request; 32]) });
    let ask = |request| at.world.engine.request_grant(Arc::clone(&at.agent), at.instance, mailing(1, 60), key(request));
    let first = ask(1).await.unwrap();
    let again = ask(1).await.unwrap();
    assert_eq!((first.grant, first.gate), (again.grant, again.gate));
    assert_eq!(code(ask(2).await), "idempotency-key-reused");
    assert_eq!(at.entries("task_grant").await.len(), 1);
}

/// Writes into the ledger, past the engine, that the request of `from` stands in `into`, and counts other uses than its terms
/// say. Gives its gate.
async fn forge_uses(world: &mut World, from: InstanceId, into: InstanceId, uses: u32) -> GateId {
    let log = world.engine.log_of(org(1)).unwrap();
    let stream = |id: InstanceId| Stream { kind: StreamKind::Instance, id: id.into() };
    let mut fold = None;
    for stored in log.stream_entries(stream(into), 0, 100).await.unwrap() {
        let header = Entry::parse(&stored.leaf).unwrap().header;
        fold = Some(Instance::evolve(fold, &header, Digest(leaf_hash(&stored.leaf).0)).unwrap());
    }
    let gate_id = GateId::from_bytes([0x77; 16]);
    let (mut drafts, mut payloads, mut policy) = (Vec::new(), Vec::new(), None);
    for stored in log.stream_entries(stream(from), fold.as_ref().unwrap().sequence() + 1, 100).await.unwrap() {
        let mut header = Entry::parse(&stored.leaf).unwrap().header;
        match &mut header.body {
            Body::TaskGrant(grant) => {
                grant.grant = GrantId::from_bytes([0x78; 16]);
                grant.count = uses;
                grant.until = world.clock.now() + grant.until.since(header.claimed);
            }
            Body::Gate(gate) => gate.gate = gate_id,
            _ => {}
        }
        for named in &header.payloads {
            let bytes = log.payload(stored.index, &named.digest).await.unwrap().unwrap();
            payloads.push(Payload { digest: named.digest, bytes });
        }
        policy = header.policy;
        drafts.push(Draft { payloads: header.payloads, ..Draft::new(header.body, header.actor) });
    }
    let sealing = Sealing {
        stream: stream(into),
        sequence: fold.as_ref().unwrap().sequence() + 1,
        previous: fold.as_ref().map(Instance::last),
        policy,
        authority: log.authority(),
        claimed: world.clock.now(),
    };
    let entries = log.seal(&sealing, drafts).unwrap();
    let rows = Instance::apply(&mut fold, &entries).unwrap();
    let (expected, blobs, erase) = (sealing.sequence, Vec::new(), Vec::new());
    log.append(Append { expected, entries, payloads, blobs, rows, idempotency: None, erase, urgent: false })
        .await
        .unwrap();
    world.restart().await;
    gate_id
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_counted_otherwise_than_people_read_it_is_not_given() {
    for (uses, given) in [(1, true), (9, false)] {
        let mut at = scene(&default_files()).await;
        let twin = at.world.instance(&at.owner, "fix", &at.agent).await.instance.id;
        at.ask(mailing(1, 600)).await.unwrap();
        let gate = forge_uses(&mut at.world, at.instance, twin, uses).await;
        let vote = at.world.decide(&at.anna, gate, Deciding::Approve).await.unwrap();
        let effect = if given { Effect::Resolving } else { Effect::Stale };
        assert_eq!(vote.effect, effect, "terms of 1 use, counted as {uses}");
        let grants = at.world.engine.task_grants(&at.owner, twin, None, 10).await.unwrap().items;
        assert_eq!(grants[0].terms.is_some(), given, "what is listed is what counts");
        let pack = at.world.engine.pack(&at.auditor, true).await.unwrap();
        let report = verify_evidence(&at.world.root_vkey(org(1)), &pack).unwrap();
        assert_eq!(report.verdict.as_str(), if given { "VALID" } else { "INVALID" }, "{:?}", report.problems);
        assert!(given || report.problems[0].detail.contains("another number of uses"), "{:?}", report.problems);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn identical_pending_requests_collapse() {
    let at = scene(&default_files()).await;
    // A rule to be met in advance, asked for twice.
    let asked = at.ask(mailing(3, 3600)).await.unwrap();
    let on_record = at.entries("").await.len();
    let again = GrantRequest { reason: "please".to_owned(), ..mailing(3, 3600) };
    let again = at.ask(again).await.unwrap();
    assert_eq!((again.grant, again.gate, again.state), (asked.grant, asked.gate, State::WaitingForHuman));
    // Other terms, and another account, ask for something else: it waits its turn.
    assert_eq!(code(at.ask(mailing(4, 3600)).await), "instance-waiting");
    assert_eq!(code(at.ask(mailing(3, 3601)).await), "instance-waiting");
    assert_eq!(code(at.ask_as(&at.owner, mailing(3, 3600)).await), "instance-waiting");
    assert_eq!(at.entries("").await.len(), on_record, "the ledger says it once");
    at.world.decide(&at.anna, asked.gate, Deciding::Approve).await.unwrap();
    // What is not pending any more is asked for anew.
    assert_ne!(at.ask(mailing(3, 3600)).await.unwrap().gate, asked.gate);
    at.world.decide(&at.anna, at.list(&at.owner).await[1].gate, Deciding::Approve).await.unwrap();

    // Actions: the same batch, in whatever order, is at the gate that is open.
    let other = "other@example.com";
    let note = || ("notes.append", json!({ "text": "x" }));
    let proposed = at.propose(&[mail(other), note()]).await;
    let on_record = at.entries("").await.len();
    let again = at.propose(&[note(), mail(other)]).await;
    assert_eq!((again.gate, again.first), (proposed.gate, false));
    let actions = |one: &Proposed| one.items.iter().map(|item| item.action).collect::<Vec<_>>();
    assert_eq!(actions(&again), actions(&proposed).into_iter().rev().collect::<Vec<_>>());
    assert!(again.items.iter().all(|item| matches!(item.result, ActionResult::Waiting { .. })), "{again:?}");
    for different in [vec![mail(other)], vec![mail(other), mail(other)], vec![mail("else@example.com"), note()]] {
        let refused = at.world.propose(&at.agent, at.instance, &different).await;
        assert_eq!(code(refused), "instance-waiting");
    }
    assert_eq!(at.entries("").await.len(), on_record, "the ledger says it once");

    // In another instance it is another action, with a gate of its own.
    let second = at.world.instance(&at.owner, "fix", &at.agent).await.instance.id;
    let elsewhere = at.world.propose(&at.agent, second, &[mail(other), note()]).await.unwrap();
    assert!(elsewhere.gate.is_some() && elsewhere.gate != proposed.gate && elsewhere.first);

    // What a person changed at the gate is not what is asked for again.
    let gate = at.world.engine.gate(&at.anna, proposed.gate.unwrap()).await.unwrap();
    at.world.decide(&at.anna, gate.gate.id, Deciding::Approve).await.unwrap();
    let anew = at.propose(&[mail(other), note()]).await;
    assert!(anew.first && anew.gate != proposed.gate, "an approval is consumed with what it approved");
    at.can_be_proven().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_request_is_withdrawn_by_the_one_who_asked_or_the_owner_and_its_gate_goes_away() {
    let mut at = scene(&default_files()).await;
    let stranger = at.world.person("stan", &["OPERATOR"]);
    let security = at.world.person("sepp", &["SECURITY"]);
    for who in [Arc::clone(&at.agent), Arc::clone(&at.owner)] {
        let asked = at.ask(mailing(2, 600)).await.unwrap();
        let take = async |who: &Arc<Principal>, key: Option<Idempotency>| {
            at.world.engine.revoke_grant(Arc::clone(who), at.instance, asked.grant, key).await
        };
        for other in [&stranger, &security, &at.anna] {
            assert_eq!(code(take(other, None).await), "not-found", "nothing is given yet that they could take back");
        }
        assert_eq!(at.world.state(&at.owner, at.instance).await, State::WaitingForHuman);
        let key = Idempotency { key: format!("k-{}", asked.grant), request: Digest([7; 32]) };
        let withdrawn = take(&who, Some(key.clone())).await.unwrap();
        assert!(!withdrawn.already && withdrawn.receipt.is_some());
        assert!(take(&who, Some(key)).await.unwrap().receipt.is_some(), "the same request has the same answer");
        assert_eq!(code(take(&who, None).await), "not-found");
        assert_eq!(at.world.state(&at.owner, at.instance).await, State::Running, "the instance goes on");
        assert!(at.list(&at.owner).await.iter().all(|one| one.grant != asked.grant));
        let gate = at.world.engine.gate(&at.anna, asked.gate).await.unwrap();
        assert_eq!(gate.gate.resolved.as_deref(), Some("WITHDRAWN"));
        let late = at.world.decide(&at.anna, asked.gate, Deciding::Approve).await;
        assert_eq!(code(late), "gate-closed");
        let entry = at.entries("task_grant").await.pop().unwrap();
        assert_eq!(entry.body["revoked"], json!(true));
        // Nothing was given: people are asked about the next one.
        let proposed = at.propose(&[mail(SHOP)]).await;
        at.answered(&proposed).await;
    }
    at.restart_equals().await;
    assert_eq!(at.world.state(&at.owner, at.instance).await, State::Running);
    at.can_be_proven().await;
}
