//! Gates over the real policy: overrides that still need votes, groups, what is shown, and verdicts computed again.

use std::collections::BTreeMap;
use std::sync::Arc;

use countersign_gateway_engine::{
    ActionAnswer, ActionRequest, ActionResult, Effect, EngineError, EntryQuery, Idempotency, Proposed, verify_evidence,
};
use countersign_gateway_model::{ActionId, Clock as _, Digest, Duration, GateId, InstanceId, ItemId, Principal, State};
use serde_json::json;

use crate::bench::{default_files, with_rule};
use crate::runner::Asked;
use crate::world::{Deciding, Of, World, org, read, replace, request};

struct Gated {
    world: World,
    agent: Arc<Principal>,
    auditor: Arc<Principal>,
    instance: InstanceId,
    gate: GateId,
    items: Vec<(ItemId, ActionId)>,
}

/// An agent's batch that waits for people, under a bundle with one changed rule.
async fn gated(
    rule: &str,
    change: impl FnOnce(&mut serde_json::Value),
    actions: &[(&str, serde_json::Value)],
) -> Gated {
    let world = World::under(&with_rule(rule, change)).await;
    let owner = world.person("olga", &["OPERATOR", "ADMIN"]);
    let auditor = world.person("august", &["AUDITOR"]);
    let agent = world.agent("robot", &owner);
    world.workflow(&owner, "fix").await;
    let instance = world.instance(&owner, "fix", &agent).await.instance.id;
    let proposed = world.propose(&agent, instance, actions).await.unwrap();
    let gate = proposed.gate.unwrap();
    let detail = world.engine.gate(&auditor, gate).await.unwrap();
    let items = detail.gate.items.iter().map(|item| (item.item, item.action)).collect();
    Gated { world, agent, auditor, instance, gate, items }
}

fn code<T: std::fmt::Debug>(answer: Result<T, EngineError>) -> &'static str {
    answer.unwrap_err().code()
}

impl Gated {
    async fn status(&self, action: ActionId) -> String {
        self.world.engine.action(&self.agent, action).await.unwrap().status
    }

    /// Every verdict on record, computed again from what is stored; how many there are.
    async fn replays(&self) -> usize {
        let query = EntryQuery { limit: 500, ..EntryQuery::default() };
        let entries = self.world.engine.entries(&self.auditor, query).await.unwrap().items;
        let mut replayed = 0;
        for entry in entries.iter().filter(|entry| entry.verdict.is_some()) {
            let again = self.world.engine.replay(&self.auditor, entry.index).await.unwrap();
            assert_eq!(again.computed.as_ref(), Some(&again.stored), "entry {} of kind {}", entry.index, entry.kind);
            replayed += 1;
        }
        replayed
    }

    /// The whole log as evidence, checked by the verifier that knows nothing but the root key.
    async fn verifies(&self) {
        let pack = self.world.engine.pack(&self.auditor, true).await.unwrap();
        let root = self.world.root_vkey(org(1));
        let report = verify_evidence(&root, &pack).unwrap();
        assert_eq!(report.verdict.as_str(), "VALID", "{report:?}");
    }
}

fn refund(amount: u32) -> (&'static str, serde_json::Value) {
    ("payments.refund", json!({ "amount": amount, "currency": "EUR", "order": "o-1" }))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_override_with_votes_missing_shows_the_next_person_what_it_made() {
    let mut at = gated("payment", |rule| rule["quorum"]["persons"] = 2.into(), &[refund(100)]).await;
    let [anna, bert, cora] = ["anna", "bert", "cora"].map(|id| at.world.person(id, &["APPROVER"]));
    let (item, action) = at.items[0];
    let before = at.world.engine.gate(&anna, at.gate).await.unwrap();
    assert!(before.view.contains("1.amount = \"100\""), "{}", before.view);

    let vote = at.world.decide(&anna, at.gate, Deciding::Approve).await.unwrap();
    assert_eq!((vote.effect, vote.remaining[0].counted), (Effect::Counted, 1));
    let vote = at.world.decide(&bert, at.gate, replace(item, "/amount", json!(40))).await.unwrap();
    assert_eq!((vote.effect, vote.state), (Effect::Counted, State::WaitingForHuman));
    assert_eq!(vote.remaining[0].counted, 0, "the first vote was for another input, and an author's does not count");
    assert_eq!(at.status(action).await, "waiting");

    // The old view decides nothing any more, and the new one says what changed and who changed it.
    let old = at.world.decide_shown(&cora, at.gate, Deciding::Approve, before.shown_digest).await;
    assert_eq!(code(old), "view-stale");
    let after = at.world.engine.gate(&cora, at.gate).await.unwrap();
    assert_ne!(before.gate.items[0].digest, after.gate.items[0].digest);
    assert!(after.view.contains("1.amount = \"40\"") && !after.view.contains("100"), "{}", after.view);
    assert!(after.view.contains("Override:  person/bert changed the input"), "{}", after.view);

    // All of it is on record: another process shows the same, and asks the same.
    at.world.restart().await;
    let again = at.world.engine.gate(&cora, at.gate).await.unwrap();
    assert_eq!((&again.view, again.shown_digest), (&after.view, after.shown_digest));

    let author = at.world.decide(&bert, at.gate, Deciding::Approve).await.unwrap();
    assert_eq!(author.effect, Effect::NotEligible, "the author approves nothing of their own");
    let vote = at.world.decide(&cora, at.gate, Deciding::Approve).await.unwrap();
    assert_eq!((vote.effect, vote.remaining[0].counted), (Effect::Counted, 1));
    let vote = at.world.decide(&anna, at.gate, Deciding::Approve).await.unwrap();
    assert_eq!((vote.effect, vote.state), (Effect::Resolving, State::Running));
    assert!(matches!(vote.items[0].result, ActionResult::Permitted { .. }));
    assert_eq!(at.world.engine.gate(&anna, at.gate).await.unwrap().gate.resolved.as_deref(), Some("OVERRIDDEN"));

    // The permit is bound to what was shown last, and to nothing before it.
    let query = EntryQuery { instance: Some(at.instance), from: 0, limit: 500 };
    let entries = at.world.engine.entries(&at.auditor, query).await.unwrap().items;
    let permit = entries.iter().find(|entry| entry.kind == "permit").unwrap();
    assert_eq!(permit.body["digest"], json!(after.gate.items[0].digest));
    assert!(at.replays().await > 10);
    at.verifies().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overrider_counts_as_one_vote_where_the_rule_says_so() {
    let merge = ("repo.merge", json!({ "branch": "main", "message": "m" }));
    let at = gated("merge", |rule| rule["quorum"]["persons"] = 2.into(), &[merge]).await;
    let [anna, bert] = ["anna", "bert"].map(|id| at.world.person(id, &["APPROVER"]));
    let (item, _) = at.items[0];
    let vote = at.world.decide(&anna, at.gate, replace(item, "/branch", json!("next"))).await.unwrap();
    assert_eq!((vote.effect, vote.remaining[0].counted), (Effect::Counted, 1));
    let vote = at.world.decide(&bert, at.gate, Deciding::Approve).await.unwrap();
    assert_eq!((vote.effect, vote.state), (Effect::Resolving, State::Running));
    at.replays().await;
    at.verifies().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_override_may_be_overridden_and_rejected() {
    let at = gated("payment", |rule| rule["quorum"]["persons"] = 2.into(), &[refund(100)]).await;
    let [anna, bert, cora] = ["anna", "bert", "cora"].map(|id| at.world.person(id, &["APPROVER"]));
    let (item, action) = at.items[0];
    at.world.decide(&anna, at.gate, replace(item, "/amount", json!(40))).await.unwrap();
    let vote = at.world.decide(&bert, at.gate, replace(item, "/amount", json!(30))).await.unwrap();
    assert_eq!(vote.effect, Effect::Counted);
    let view = at.world.engine.gate(&cora, at.gate).await.unwrap().view;
    assert!(view.contains("= \"30\"") && view.contains("person/bert changed"), "{view}");
    for author in [&anna, &bert] {
        let vote = at.world.decide(author, at.gate, Deciding::Approve).await.unwrap();
        assert_eq!(vote.effect, Effect::NotEligible);
    }
    // What is not to be changed under the rule is not changed in two steps either.
    let other = at.world.decide(&cora, at.gate, replace(item, "/order", json!("o-2"))).await;
    assert_eq!(code(other), "parameter-invalid");
    let vote = at.world.decide(&cora, at.gate, Deciding::Reject).await.unwrap();
    assert_eq!(vote.state, State::Terminated);
    assert_eq!(at.status(action).await, "rejected");
    at.replays().await;
    at.verifies().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_override_that_drops_an_item_shows_the_rest() {
    let merge = ("repo.merge", json!({ "branch": "main" }));
    let at = gated("payment", |rule| rule["quorum"]["persons"] = 2.into(), &[merge, refund(100)]).await;
    let [anna, bert, cora] = ["anna", "bert", "cora"].map(|id| at.world.person(id, &["APPROVER"]));
    let drop = Deciding::Override(BTreeMap::from([(at.items[0].0, None)]));
    let vote = at.world.decide(&anna, at.gate, drop).await.unwrap();
    assert_eq!(vote.effect, Effect::Counted);
    let view = at.world.engine.gate(&bert, at.gate).await.unwrap().view;
    assert!(view.contains("payments.refund") && !view.contains("repo.merge"), "{view}");
    at.world.decide(&bert, at.gate, Deciding::Approve).await.unwrap();
    let vote = at.world.decide(&cora, at.gate, Deciding::Approve).await.unwrap();
    assert_eq!((vote.effect, vote.state), (Effect::Resolving, State::Running));
    at.replays().await;
    at.verifies().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_verdict_of_a_gate_with_several_items_is_computed_again_from_its_inputs() {
    // Two items under different rules, one action that needs nobody, one that is denied.
    let actions = [
        ("repo.merge", json!({ "branch": "main" })),
        refund(100),
        ("notes.append", json!({ "text": "x" })),
        ("repo.read", json!({ "path": "../secret" })),
    ];
    let at = gated("merge", |rule| rule["quorum"]["persons"] = 2.into(), &actions).await;
    let [anna, bert] = ["anna", "bert"].map(|id| at.world.person(id, &["APPROVER"]));
    assert_eq!(at.items.len(), 2);
    let first = Deciding::ApproveItems(vec![at.items[0].0]);
    assert_eq!(at.world.decide(&anna, at.gate, first).await.unwrap().effect, Effect::Counted);
    let vote = at.world.decide(&bert, at.gate, Deciding::Approve).await.unwrap();
    assert_eq!(vote.effect, Effect::Resolving);
    let query = EntryQuery { instance: Some(at.instance), from: 0, limit: 500 };
    let entries = at.world.engine.entries(&at.auditor, query).await.unwrap().items;
    let gate = entries.iter().find(|entry| entry.kind == "gate").unwrap();
    let rules: Vec<String> = gate.verdict.as_ref().unwrap().rules.iter().map(ToString::to_string).collect();
    assert_eq!(rules, ["merge", "payment"], "the gate's verdict is over both items");
    assert!(at.replays().await > 12);
    at.verifies().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quorum_of_groups_is_met_by_people_of_those_groups() {
    let merge = ("repo.merge", json!({ "branch": "main" }));
    let change = |rule: &mut serde_json::Value| {
        rule["quorum"] = json!({ "persons": 2, "groups": ["finance", "legal"] });
    };
    let at = gated("merge", change, &[merge]).await;
    let of = |groups| Of { roles: &["APPROVER"], groups, ..Of::default() };
    let lea = at.world.person_of(org(1), "lea", of(&["legal"]));
    let lou = at.world.person_of(org(1), "lou", of(&["legal"]));
    let fay = at.world.person_of(org(1), "fay", of(&["finance"]));
    for lawyer in [&lea, &lou] {
        let vote = at.world.decide(lawyer, at.gate, Deciding::Approve).await.unwrap();
        assert_eq!((vote.effect, vote.state), (Effect::Counted, State::WaitingForHuman), "two persons of one group");
    }
    let vote = at.world.decide(&fay, at.gate, Deciding::Approve).await.unwrap();
    assert_eq!((vote.effect, vote.state), (Effect::Resolving, State::Running));
    at.verifies().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_after_its_gate_has_expired_is_refused_as_that_and_leaves_no_entry() {
    let merge = ("repo.merge", json!({ "branch": "main" }));
    let at = gated("merge", |rule| rule["quorum"]["persons"] = 2.into(), &[merge]).await;
    let [anna, bert] = ["anna", "bert"].map(|id| at.world.person(id, &["APPROVER"]));
    let expires = at.world.engine.gate(&anna, at.gate).await.unwrap().gate.expires.unwrap();
    at.world.clock.forward(Duration(expires.0 - at.world.clock.now().0 - 1));
    let vote = at.world.decide(&anna, at.gate, Deciding::Approve).await.unwrap();
    assert_eq!(vote.effect, Effect::Counted, "in its last millisecond");
    at.world.clock.forward(Duration(1));
    let size = || at.world.engine.log_of(org(1)).unwrap().checkpoint().checkpoint().size;
    let before = size();
    let drop = Deciding::Override(BTreeMap::from([(at.items[0].0, None)]));
    for decision in [Deciding::Approve, Deciding::Reject, drop] {
        let answer = at.world.decide(&bert, at.gate, decision.clone()).await;
        assert_eq!(code(answer), "gate-expired", "{decision:?}");
    }
    assert_eq!(size(), before, "what comes too late is no decision");
    assert_eq!(
        at.world.state(&at.agent, at.instance).await,
        State::WaitingForHuman,
        "silence is the timers' to act on"
    );
    at.verifies().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn authority_by_group_needs_no_role() {
    let merge = ("repo.merge", json!({ "branch": "main" }));
    let at = gated("merge", |rule| rule["authority"] = json!({ "groups": ["legal"] }), &[merge]).await;
    let nobody = at.world.person("nora", &["APPROVER"]);
    let vote = at.world.decide(&nobody, at.gate, Deciding::Approve).await.unwrap();
    assert_ne!(vote.effect, Effect::Resolving, "a role that the rule does not name lifts nothing");
    let lea = at.world.person_of(org(1), "lea", Of { groups: &["legal"], roles: &["APPROVER"], ..Of::default() });
    let vote = at.world.decide(&lea, at.gate, Deciding::Approve).await.unwrap();
    assert_eq!((vote.effect, vote.state), (Effect::Resolving, State::Running));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vote_of_one_who_lost_the_role_or_the_account_does_not_count_when_the_quorum_is_met() {
    for closed in [false, true] {
        let merge = ("repo.merge", json!({ "branch": "main" }));
        let at = gated("merge", |rule| rule["quorum"]["persons"] = 2.into(), &[merge]).await;
        let [anna, bert, cora] = ["anna", "bert", "cora"].map(|id| at.world.person(id, &["APPROVER"]));
        at.world.decide(&anna, at.gate, Deciding::Approve).await.unwrap();
        if closed {
            at.world.deactivate(&anna);
        } else {
            at.world.reassign(&anna, &[]);
        }
        let vote = at.world.decide(&bert, at.gate, Deciding::Approve).await.unwrap();
        assert_eq!((vote.effect, vote.state), (Effect::Counted, State::WaitingForHuman), "closed: {closed}");
        assert_eq!(vote.remaining[0].counted, 1, "bert's alone");
        let query = EntryQuery { instance: Some(at.instance), from: 0, limit: 500 };
        let entries = at.world.engine.entries(&at.auditor, query).await.unwrap().items;
        let last = entries.iter().rfind(|entry| entry.kind == "decision").unwrap();
        assert_eq!(last.body["lapsed"], json!([anna.pseudonym]), "the entry says whose vote is gone");
        let vote = at.world.decide(&cora, at.gate, Deciding::Approve).await.unwrap();
        assert_eq!((vote.effect, vote.state), (Effect::Resolving, State::Running));
        at.verifies().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_policy_forbids_by_the_time_of_the_last_vote_no_vote_lifts() {
    let merge = ("repo.merge", json!({ "branch": "main" }));
    let at = gated("merge", |rule| rule["quorum"]["persons"] = 2.into(), &[merge]).await;
    let [anna, bert] = ["anna", "bert"].map(|id| at.world.person(id, &["APPROVER"]));
    at.world.decide(&anna, at.gate, Deciding::Approve).await.unwrap();
    let mut files = default_files();
    files.retain(|path, _| !path.starts_with("tests/"));
    files.get_mut("policies.cedar").unwrap().push_str(
        "\n@id(\"no-merges-today\")\n@severity(\"hard\")\n@title(\"Nothing is merged today\")\n\
         forbid (principal, action == Countersign::Action::\"callTool:repo.merge\", resource);\n",
    );
    at.world.policies.install(org(1), &files);
    let vote = at.world.decide(&bert, at.gate, Deciding::Approve).await.unwrap();
    assert_eq!((vote.effect, vote.state), (Effect::HardDenied, State::Terminated));
    assert_eq!(at.status(at.items[0].1).await, "rejected");
    let query = EntryQuery { instance: Some(at.instance), from: 0, limit: 500 };
    let entries = at.world.engine.entries(&at.auditor, query).await.unwrap().items;
    assert!(entries.iter().all(|entry| entry.kind != "permit"));
    let last = entries.iter().rfind(|entry| entry.kind == "decision").unwrap();
    let system = json!(countersign_gateway_model::Pseudonym::SYSTEM).as_str().unwrap().to_owned();
    assert_eq!((&last.body["kind"], &last.actor), (&json!("REJECT"), &system));
    at.replays().await;
    at.verifies().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_ends_an_instance_that_asked_for_it_and_its_runs() {
    let world = World::new().await;
    let owner = world.person("olga", &["OPERATOR", "ADMIN", "AUDITOR"]);
    let agent = world.agent("robot", &owner);
    world.workflow(&owner, "fix").await;
    let instance = world.instance_that_a_denial_ends(&owner, "fix", &agent).await.instance.id;
    world.propose(&agent, instance, &[read("README.md")]).await.unwrap();
    world.runner.until("an order", |asked| !asked.is_empty()).await;
    let note = ("notes.append", json!({ "text": "x" }));
    let batch = [note, ("repo.read", json!({ "path": "../secret" }))];
    let requests: Vec<_> = batch.iter().map(|(tool, input)| request(tool, input)).collect();
    let key = || Some(Idempotency { key: "once".to_owned(), request: Digest([1; 32]) });
    let propose = || world.engine.propose(Arc::clone(&agent), instance, requests.clone(), false, key());
    let refused = propose().await.unwrap();
    let codes = |proposed: &Proposed| -> Vec<&'static str> {
        let code = |item: &ActionAnswer| match item.result {
            ActionResult::Refused { code, .. } => code,
            _ => "none",
        };
        proposed.items.iter().map(code).collect()
    };
    assert_eq!((codes(&refused), refused.state), (vec!["instance-finished", "policy-denied"], State::Terminated));
    world.runner.until("the end of the run", |asked| asked.iter().any(|a| matches!(a, Asked::Cancel(_)))).await;
    let again = propose().await.unwrap();
    assert_eq!((codes(&again), again.first), (codes(&refused), false), "the same answer to the same key");
    let late = world.propose(&agent, instance, &[read("README.md")]).await;
    assert_eq!(code(late), "instance-finished");

    // Alone it is answered as every denial is; what asked for nothing of the kind goes on.
    let secret = ("repo.read", json!({ "path": "../secret" }));
    for (ends, state) in [(true, State::Terminated), (false, State::Running)] {
        let instance = if ends {
            world.instance_that_a_denial_ends(&owner, "fix", &agent).await
        } else {
            world.instance(&owner, "fix", &agent).await
        };
        let denied = world.propose(&agent, instance.instance.id, std::slice::from_ref(&secret)).await;
        assert_eq!(code(denied), "policy-denied");
        assert_eq!(world.state(&owner, instance.instance.id).await, state);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_revision_binds_is_shown_and_recorded_as_mutable() {
    // Neither is declared as a tool whose target has no revision.
    let actions = [("repo.merge", json!({ "branch": "main" })), ("notes.append", json!({ "text": "x" }))];
    let world = World::new().await;
    let owner = world.person("olga", &["OPERATOR", "ADMIN", "AUDITOR"]);
    let ada = world.person("ada", &["APPROVER"]);
    let agent = world.agent("robot", &owner);
    world.workflow(&owner, "fix").await;
    for (revision, mutable, line) in [
        (None, true, "Revision:  mutable: the proposer named none\n"),
        (Some("9f86d081"), false, "Revision:  9f86d081\n"),
    ] {
        let instance = world.instance(&owner, "fix", &agent).await.instance.id;
        let named = |(tool, input): &(&str, serde_json::Value)| {
            let revision = revision.map(str::to_owned);
            ActionRequest { revision, ..request(tool, input) }
        };
        let propose = |requests| world.engine.propose(Arc::clone(&agent), instance, requests, false, None);
        // Allowed at once, cleared at a gate, and approved there.
        propose(vec![named(&actions[1])]).await.unwrap();
        let gate = propose(actions.iter().map(named).collect()).await.unwrap().gate.unwrap();
        let view = world.engine.gate(&ada, gate).await.unwrap().view;
        assert!(view.contains(line), "{view}");
        world.decide(&ada, gate, Deciding::Approve).await.unwrap();
        let query = EntryQuery { instance: Some(instance), from: 0, limit: 500 };
        let entries = world.engine.entries(&owner, query).await.unwrap().items;
        let permits = entries.iter().filter(|entry| entry.kind == "permit");
        let flags: Vec<_> = permits.map(|entry| entry.body["mutable_target"].clone()).collect();
        assert_eq!(flags, vec![json!(mutable); 3], "{revision:?}");
    }
    // What is declared so stays so, whatever is named.
    let instance = world.instance(&owner, "fix", &agent).await.instance.id;
    let patch = request("repo.write_patch", &json!({ "path": "a", "content": "b" }));
    let patch = ActionRequest { revision: Some("9f86d081".to_owned()), ..patch };
    world.engine.propose(Arc::clone(&agent), instance, vec![patch], false, None).await.unwrap();
    let query = EntryQuery { instance: Some(instance), from: 0, limit: 500 };
    let entries = world.engine.entries(&owner, query).await.unwrap().items;
    assert_eq!(entries.iter().find(|entry| entry.kind == "permit").unwrap().body["mutable_target"], json!(true));
}
