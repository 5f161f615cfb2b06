//! What approval rules ask for beyond votes: how sure and how fresh a login is, how long a vote counts, reminders, and
//! further circles of people after a while.

use std::sync::Arc;

use countersign_gateway_engine::{Effect, EngineError, EntryQuery, EntryRecord, verify_evidence};
use countersign_gateway_model::{Assurance, Duration, GateId, InstanceId, Principal, State};
use serde_json::{Value, json};

use crate::bench::{Files, with_rule};
use crate::world::{Deciding, Of, World, org, replace};

struct Gated {
    world: World,
    auditor: Arc<Principal>,
    instance: InstanceId,
    gate: GateId,
}

fn merge_under(change: impl FnOnce(&mut Value)) -> Files {
    with_rule("merge", change)
}

async fn gated(files: &Files) -> Gated {
    let world = World::under(files).await;
    let owner = world.person("olga", &["OPERATOR", "ADMIN"]);
    let auditor = world.person("august", &["AUDITOR"]);
    let agent = world.agent("robot", &owner);
    world.workflow(&owner, "fix").await;
    let instance = world.instance(&owner, "fix", &agent).await.instance.id;
    let merge = ("repo.merge", json!({ "branch": "main", "message": "m" }));
    let gate = world.propose(&agent, instance, &[merge]).await.unwrap().gate.unwrap();
    Gated { world, auditor, instance, gate }
}

fn code<T: std::fmt::Debug>(answer: Result<T, EngineError>) -> &'static str {
    answer.unwrap_err().code()
}

impl Gated {
    async fn entries(&self, kind: &str) -> Vec<EntryRecord> {
        let query = EntryQuery { instance: Some(self.instance), from: 0, limit: 500 };
        let entries = self.world.engine.entries(&self.auditor, query).await.unwrap().items;
        entries.into_iter().filter(|entry| entry.kind == kind).collect()
    }

    /// Which reminders and escalations are on record, by rule and step.
    async fn steps(&self) -> Vec<(String, u64)> {
        let events = self.entries("gate_event").await;
        events
            .iter()
            .map(|entry| {
                let event = entry.body["event"].as_str().unwrap().to_owned();
                assert_eq!(entry.body["rule"], "merge");
                (event, entry.body["step"].as_u64().unwrap())
            })
            .collect()
    }

    /// Lets the clocks turn until there are so many steps, and a little longer.
    async fn until_steps(&self, wanted: usize) {
        let timers = tokio::spawn(self.world.engine.clone().run_timers());
        for _ in 0..400 {
            if self.steps().await.len() >= wanted {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(25)).await;
        }
        // Whatever would be taken a second time is taken in the next turn.
        tokio::time::sleep(std::time::Duration::from_millis(1600)).await;
        timers.abort();
        assert_eq!(self.steps().await.len(), wanted);
    }

    async fn verifies(&self) {
        for entry in self.entries("gate_event").await.iter().chain(&self.entries("decision").await) {
            let again = self.world.engine.replay(&self.auditor, entry.index).await.unwrap();
            assert_eq!(again.computed.as_ref(), Some(&again.stored), "entry {}", entry.index);
        }
        let pack = self.world.engine.pack(&self.auditor, true).await.unwrap();
        let report = verify_evidence(&self.world.root_vkey(org(1)), &pack).unwrap();
        assert_eq!(report.verdict.as_str(), "VALID", "{report:?}");
    }

    fn forward(&self, seconds: u64) {
        self.world.clock.forward(Duration::from_secs(seconds));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vote_needs_a_login_as_sure_and_as_fresh_as_its_rule_demands_and_a_rejection_does_not() {
    let at = gated(&merge_under(|rule| rule["demand"] = json!({ "assurance": "mfa", "fresh_s": 300 }))).await;
    let anna = at.world.person("anna", &["APPROVER"]);
    let item = at.world.engine.gate(&anna, at.gate).await.unwrap().gate.items[0].item;
    for decision in [Deciding::Approve, replace(item, "/branch", json!("next"))] {
        assert_eq!(code(at.world.decide(&anna, at.gate, decision).await), "demand-unmet");
    }
    let sure = Arc::new(Principal { assurance: Assurance::Mfa, ..(*anna).clone() });
    at.forward(301);
    assert_eq!(code(at.world.decide(&sure, at.gate, Deciding::Approve).await), "demand-unmet");
    assert!(at.entries("decision").await.is_empty(), "nothing was decided");
    let fresh = Arc::new(Principal { issued: at.world.engine.now(), ..(*sure).clone() });
    at.forward(300);
    let vote = at.world.decide(&fresh, at.gate, Deciding::Approve).await.unwrap();
    assert_eq!((vote.effect, vote.state), (Effect::Resolving, State::Running));
    at.verifies().await;

    let at = gated(&merge_under(|rule| rule["demand"] = json!({ "assurance": "mfa" }))).await;
    let anna = at.world.person("anna", &["APPROVER"]);
    let vote = at.world.decide(&anna, at.gate, Deciding::Reject).await.unwrap();
    assert_eq!(vote.state, State::Terminated);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vote_by_a_password_alone_is_gone_once_its_rule_demands_a_second_factor() {
    let two = |rule: &mut Value| rule["quorum"]["persons"] = 2.into();
    let at = gated(&merge_under(two)).await;
    let [anna, bert, carl] = ["anna", "bert", "carl"].map(|id| at.world.person(id, &["APPROVER"]));
    let sure = |who: &Arc<Principal>| Arc::new(Principal { assurance: Assurance::Mfa, ..(**who).clone() });
    assert_eq!(at.world.decide(&anna, at.gate, Deciding::Approve).await.unwrap().effect, Effect::Counted);
    let files = merge_under(|rule| {
        two(rule);
        rule["demand"] = json!({ "assurance": "mfa" });
    });
    at.world.policies.install(org(1), &files);
    let vote = at.world.decide(&sure(&bert), at.gate, Deciding::Approve).await.unwrap();
    assert_eq!((vote.effect, vote.remaining[0].counted), (Effect::Counted, 1), "the vote by a password is over");
    let last = at.entries("decision").await.pop().unwrap();
    assert_eq!(last.body["lapsed"].as_array().unwrap().len(), 1);
    // One that was cast with a second factor goes on to count.
    let vote = at.world.decide(&sure(&carl), at.gate, Deciding::Approve).await.unwrap();
    assert_eq!((vote.effect, vote.state), (Effect::Resolving, State::Running));
    at.verifies().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vote_counts_as_long_as_its_rule_says_and_no_longer() {
    let files = merge_under(|rule| {
        rule["quorum"]["persons"] = 2.into();
        rule["validity_s"] = 3600.into();
    });
    let mut at = gated(&files).await;
    let [anna, bert] = ["anna", "bert"].map(|id| at.world.person(id, &["APPROVER"]));
    let vote = at.world.decide(&anna, at.gate, Deciding::Approve).await.unwrap();
    assert_eq!(vote.effect, Effect::Counted);
    at.forward(3601);
    // The time of a vote is in the ledger, not in this process.
    at.world.restart().await;
    let vote = at.world.decide(&bert, at.gate, Deciding::Approve).await.unwrap();
    assert_eq!((vote.effect, vote.remaining[0].counted), (Effect::Counted, 1), "the first vote is over");
    let last = at.entries("decision").await.pop().unwrap();
    assert_eq!(last.body["lapsed"].as_array().unwrap().len(), 1);
    at.forward(3600);
    let vote = at.world.decide(&anna, at.gate, Deciding::Approve).await.unwrap();
    assert_eq!((vote.effect, vote.state), (Effect::Resolving, State::Running));
    at.verifies().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reminders_come_once_each_over_restarts_and_none_after_the_end() {
    let files = merge_under(|rule| {
        rule["reminders_s"] = json!([60, 600, 7000]);
        rule["timeout_s"] = 7200.into();
    });
    let mut at = gated(&files).await;
    at.until_steps(0).await;
    at.forward(61);
    at.until_steps(1).await;
    at.world.restart().await;
    at.until_steps(1).await;
    at.forward(600);
    at.until_steps(2).await;
    assert_eq!(at.steps().await, [("reminder".to_owned(), 0), ("reminder".to_owned(), 1)]);
    at.verifies().await;
    // The gateway was down when the third was due, and comes back after the end.
    at.forward(7200);
    at.world.restart().await;
    at.until_steps(2).await;
    assert_eq!(at.world.state(&at.auditor, at.instance).await, State::Terminated);
    at.verifies().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_further_circle_may_vote_once_it_is_asked_and_not_before() {
    let files = merge_under(|rule| {
        rule["escalation"] = json!([
            { "after_s": 900, "authority": { "roles": ["STOP"] } },
            { "after_s": 1800, "authority": { "groups": ["board"] } },
        ]);
        rule["reminders_s"] = json!([]);
    });
    let mut at = gated(&files).await;
    let stop = at.world.person("stefan", &["STOP"]);
    let board = at.world.person_of(org(1), "bea", Of { groups: &["board"], ..Of::default() });
    let early = at.world.decide(&stop, at.gate, Deciding::Approve).await.unwrap();
    assert_eq!((early.effect, early.state), (Effect::NotEligible, State::WaitingForHuman));
    at.forward(900);
    at.until_steps(1).await;
    assert_eq!(at.steps().await, [("escalation".to_owned(), 0)]);
    let early = at.world.decide(&board, at.gate, Deciding::Approve).await.unwrap();
    assert_eq!(early.effect, Effect::NotEligible);
    at.forward(900);
    at.until_steps(2).await;
    // Who was asked stays asked: another process knows it from the ledger.
    at.world.restart().await;
    let vote = at.world.decide(&stop, at.gate, Deciding::Approve).await.unwrap();
    assert_eq!((vote.effect, vote.state), (Effect::Resolving, State::Running));
    at.verifies().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_further_circle_has_its_own_say() {
    let files = merge_under(|rule| {
        rule["escalation"] = json!([{ "after_s": 900, "authority": { "groups": ["board"] } }]);
        rule["reminders_s"] = json!([]);
        rule["quorum"]["persons"] = 2.into();
    });
    let at = gated(&files).await;
    let anna = at.world.person("anna", &["APPROVER"]);
    let board = at.world.person_of(org(1), "bea", Of { groups: &["board"], ..Of::default() });
    assert_eq!(at.world.decide(&anna, at.gate, Deciding::Approve).await.unwrap().effect, Effect::Counted);
    assert_eq!(at.world.decide(&board, at.gate, Deciding::Approve).await.unwrap().effect, Effect::NotEligible);
    at.forward(900);
    at.until_steps(1).await;
    let vote = at.world.decide(&board, at.gate, Deciding::Approve).await.unwrap();
    assert_eq!((vote.effect, vote.state), (Effect::Resolving, State::Running));
    at.verifies().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_policy_refuses_is_on_record_once() {
    let mut files = merge_under(|rule| rule["reminders_s"] = json!([60]));
    let forbid = "\n@id(\"no-reminders\")\n@title(\"Nobody is reminded\")\nforbid (principal is Countersign::System, action == \
                  Countersign::Action::\"remind\", resource);\n";
    files.get_mut("policies.cedar").unwrap().push_str(forbid);
    let at = gated(&files).await;
    at.forward(61);
    at.until_steps(0).await;
    at.until_steps(0).await;
    assert_eq!(at.entries("refusal").await.len(), 1);
    // Another policy is asked again, without a restart, once a minute has passed.
    at.world.policies.install(org(1), &merge_under(|rule| rule["reminders_s"] = json!([60])));
    at.until_steps(0).await;
    at.forward(60);
    at.until_steps(1).await;
    assert_eq!(at.entries("refusal").await.len(), 1);
    at.verifies().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quorum_of_distinct_teams_counts_teams() {
    let files = merge_under(|rule| rule["quorum"] = json!({ "persons": 2, "distinct_teams": 2 }));
    let at = gated(&files).await;
    let of = |teams| Of { roles: &["APPROVER"], teams, ..Of::default() };
    let [anna, bert] = ["anna", "bert"].map(|id| at.world.person_of(org(1), id, of(&["core"])));
    let cora = at.world.person_of(org(1), "cora", of(&["web"]));
    for one in [&anna, &bert] {
        assert_eq!(at.world.decide(one, at.gate, Deciding::Approve).await.unwrap().effect, Effect::Counted);
    }
    let vote = at.world.decide(&cora, at.gate, Deciding::Approve).await.unwrap();
    assert_eq!((vote.effect, vote.state), (Effect::Resolving, State::Running));
    at.verifies().await;
}
