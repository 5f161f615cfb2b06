//! Budgets that many instances share: what is taken, held, spent and given back, and that no race takes more.

use std::collections::BTreeMap;
use std::sync::Arc;

use countersign_gateway_engine::{
    ActionAnswer, ActionResult, CounterRecord, Effect, EngineError, EntryQuery, EntryRecord, OutcomeReport, Semantic,
    verify_evidence,
};
use countersign_gateway_model::{ActionId, Decision, Duration, InstanceId, Outcome, Principal, PrincipalKind, State};
use serde_json::{Value, json};

use crate::bench::{Files, default_files};
use crate::evaluations::{asks, enforcement_point};
use crate::world::{Deciding, World, name, org};

const DAY: u64 = 86_400;

const OVER: &str = r#"
@id("over-budget")
@title("Nothing goes beyond a budget")
@agent_message("the budget is used up")
forbid (principal, action in [Countersign::Action::"callTool", Countersign::Action::"dispatch"], resource)
when
{
  context.facts.contains("over:notes") ||
  context.facts.contains("over:reads") ||
  context.facts.contains("over:refunded")
};
"#;

/// Notes are counted by the day, reads for ever, refunds by their amount.
pub(crate) fn files_of(notes: &str, window_s: u64) -> Files {
    let mut files = default_files();
    files.get_mut("policies.cedar").unwrap().push_str(OVER);
    let fixed = json!({ "fixed": "1.0" });
    let counters = json!({ "counters": {
        "notes": { "window_s": window_s, "limit": notes, "reserve": [{ "tools": ["notes.append"], "amount": fixed }] },
        "reads": { "limit": "3.0", "reserve": [{ "tools": ["repo.read"], "amount": fixed }] },
        "refunded": {
            "unit": "EUR", "window_s": DAY, "limit": "1000.0",
            "reserve": [{ "tools": ["payments.refund"], "amount": { "field": "/amount" } }],
        },
    }});
    files.insert("counters.json".to_owned(), counters.to_string());
    // The bundle's own tests of an amount that policy cannot see: what cannot be counted is denied now.
    for (_, text) in files.iter_mut().filter(|(path, _)| path.starts_with("tests/")) {
        let mut tests: Value = serde_json::from_str(text).unwrap();
        if let Some(cases) = tests["cases"].as_array_mut() {
            cases.retain(|case| case["ask"]["input"]["amount"] != json!(0.00001));
        }
        *text = tests.to_string();
    }
    files
}

struct Scene {
    world: World,
    dana: Arc<Principal>,
    agent: Arc<Principal>,
    instance: InstanceId,
}

async fn scene(notes: &str) -> Scene {
    let world = World::under(&files_of(notes, DAY)).await;
    let dana = world.person("dana", &["OPERATOR", "ADMIN", "AUDITOR"]);
    let agent = world.agent("fixer", &dana);
    world.workflow(&dana, "repair").await;
    let instance = world.instance(&dana, "repair", &agent).await.instance.id;
    Scene { world, dana, agent, instance }
}

fn note() -> (&'static str, Value) {
    ("notes.append", json!({ "text": "x" }))
}

fn refund(amount: f64) -> (&'static str, Value) {
    ("payments.refund", json!({ "amount": amount, "currency": "EUR", "order": "o-1" }))
}

fn is_permitted(answer: &ActionAnswer) -> bool {
    matches!(answer.result, ActionResult::Permitted { .. } | ActionResult::Dispatched { .. })
}

impl Scene {
    async fn standing(&self) -> Vec<CounterRecord> {
        self.world.engine.counters(&self.dana).await.unwrap()
    }

    async fn value(&self, counter: &str) -> String {
        self.standing().await.into_iter().find(|record| record.counter == name(counter)).unwrap().value
    }

    /// Another process that has nothing but the ledger counts the same.
    async fn restarts_equal(&mut self) {
        let before = self.standing().await;
        self.world.restart().await;
        assert_eq!(self.standing().await, before);
    }

    async fn note(&self) -> Result<ActionId, EngineError> {
        let proposed = self.world.propose(&self.agent, self.instance, &[note()]).await?;
        assert!(is_permitted(&proposed.items[0]), "{:?}", proposed.items[0]);
        Ok(proposed.items[0].action)
    }

    async fn started(&self) -> ActionId {
        let action = self.note().await.unwrap();
        self.world.engine.begin(Arc::clone(&self.agent), action, None).await.unwrap();
        action
    }

    async fn report(&self, action: ActionId, outcome: Outcome) {
        let report = OutcomeReport { outcome, output: None };
        self.world.engine.report(Arc::clone(&self.agent), action, report, None).await.unwrap();
    }

    async fn entries(&self, kind: &str) -> Vec<EntryRecord> {
        let mut entries = Vec::new();
        let mut from = 0;
        loop {
            let query = EntryQuery { instance: None, from, limit: 500 };
            let page = self.world.engine.entries(&self.dana, query).await.unwrap().items;
            let Some(last) = page.last() else { break };
            from = last.index + 1;
            entries.extend(page.into_iter().filter(|entry| entry.kind == kind));
        }
        entries
    }

    /// Every verdict on record, computed again from what is stored; and the log, checked by the verifier alone.
    async fn can_be_proven(&self) {
        for kind in ["permit", "refusal", "decision", "gate"] {
            for entry in self.entries(kind).await.iter().filter(|entry| entry.verdict.is_some()) {
                let again = self.world.engine.replay(&self.dana, entry.index).await.unwrap();
                assert_eq!(again.computed.as_ref(), Some(&again.stored), "entry {} of kind {kind}", entry.index);
            }
        }
        let pack = self.world.engine.pack(&self.dana, true).await.unwrap();
        let report = verify_evidence(&self.world.root_vkey(org(1)), &pack).unwrap();
        assert_eq!(report.verdict.as_str(), "VALID", "{report:?}");
    }
}

fn refused(answer: Result<ActionId, EngineError>) {
    match answer {
        Err(EngineError::Refused(refused)) => {
            assert_eq!((refused.code, refused.message.as_str()), ("policy-denied", "the budget is used up"));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_hundred_instances_that_race_for_one_budget_never_exceed_it() {
    let mut at = scene("25.0").await;
    let mut instances = Vec::new();
    for _ in 0..200 {
        instances.push(at.world.instance(&at.dana, "repair", &at.agent).await.instance.id);
    }
    let (engine, agent) = (at.world.engine.clone(), Arc::clone(&at.agent));
    let gate = Arc::new(tokio::sync::Barrier::new(instances.len()));
    let racing: Vec<_> = instances
        .into_iter()
        .map(|instance| {
            let (engine, agent, gate) = (engine.clone(), Arc::clone(&agent), Arc::clone(&gate));
            tokio::spawn(async move {
                let request = crate::world::request("notes.append", &json!({ "text": "x" }));
                gate.wait().await;
                engine.propose(agent, instance, vec![request], false, None).await
            })
        })
        .collect();
    let (mut permitted, mut denied) = (0, 0);
    for one in racing {
        match one.await.unwrap() {
            Ok(proposed) if is_permitted(&proposed.items[0]) => permitted += 1,
            Err(EngineError::Refused(refused)) if refused.code == "policy-denied" => denied += 1,
            other => panic!("neither permitted nor refused by policy: {other:?}"),
        }
    }
    assert_eq!((permitted, denied), (25, 175));
    assert_eq!(at.value("notes").await, "25.0");
    // Each took another version, in the order of the log.
    let versions: Vec<u64> = at
        .entries("permit")
        .await
        .iter()
        .flat_map(|entry| entry.body["reservations"].as_array().unwrap().clone())
        .map(|reservation| reservation["version"].as_u64().unwrap())
        .collect();
    assert_eq!(versions, (0..25).collect::<Vec<u64>>());
    at.can_be_proven().await;
    at.restarts_equal().await;
    refused(at.note().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_spends_or_gives_back_and_unknown_holds() {
    for (reports, value) in [
        (&[][..], "1.0"),
        (&[Outcome::Succeeded], "1.0"),
        (&[Outcome::Failed], "0.0"),
        (&[Outcome::Cancelled], "0.0"),
        (&[Outcome::TimedOut], "0.0"),
        (&[Outcome::Unknown], "1.0"),
        (&[Outcome::Unknown, Outcome::Failed], "0.0"),
        (&[Outcome::Unknown, Outcome::Succeeded], "1.0"),
        (&[Outcome::Succeeded, Outcome::Failed], "1.0"),
    ] {
        let mut at = scene("1.0").await;
        let action = at.started().await;
        refused(at.note().await);
        for (nth, outcome) in reports.iter().enumerate() {
            if nth > 0 {
                // Who restarted in between knows what is held, and by whom.
                at.restarts_equal().await;
            }
            at.report(action, *outcome).await;
        }
        assert_eq!(at.value("notes").await, value, "{reports:?}");
        at.restarts_equal().await;
        // However long it takes: what was started does not lapse.
        at.world.clock.forward(Duration::from_secs(3600));
        assert_eq!(at.value("notes").await, value, "{reports:?}");
        let next = at.note().await;
        if value == "0.0" {
            next.unwrap();
        } else {
            refused(next);
        }
        at.restarts_equal().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swept_start_holds_what_it_took() {
    let mut at = scene("1.0").await;
    at.started().await;
    at.world.clock.forward(Duration::from_secs(2 * 3600));
    let timers = tokio::spawn(at.world.engine.clone().run_timers());
    for _ in 0..400 {
        if !at.entries("sweep").await.is_empty() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    assert_eq!(at.entries("sweep").await.len(), 1);
    assert_eq!(at.value("notes").await, "1.0");
    at.restarts_equal().await;
    timers.await.unwrap();
    refused(at.note().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lapsed_permit_gives_back_at_the_first_entry_past_its_expiry_and_cannot_be_started_any_more() {
    let mut at = scene("1.0").await;
    let action = at.note().await.unwrap();
    at.world.clock.forward(Duration::from_secs(300));
    refused(at.note().await);
    at.world.clock.forward(Duration(1));
    // The clock alone moves nothing: the first entry past the expiry does, and it may be a refusal.
    assert_eq!(at.value("notes").await, "1.0");
    refused(at.note().await);
    assert_eq!(at.value("notes").await, "0.0");
    at.restarts_equal().await;
    at.note().await.unwrap();
    let late = at.world.engine.begin(Arc::clone(&at.agent), action, None).await;
    assert_eq!(late.unwrap_err().code(), "permit-expired");
    at.restarts_equal().await;
    at.can_be_proven().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lapsed_for_all_is_not_started_by_one_whose_clock_is_behind() {
    let at = scene("1.0").await;
    let action = at.note().await.unwrap();
    at.world.clock.forward(Duration(300_001));
    let other = at.world.instance(&at.dana, "repair", &at.agent).await.instance.id;
    at.world.propose(&at.agent, other, &[note()]).await.unwrap();
    // Another stream, whose own time has not come that far, on a clock that was set back a little.
    at.world.clock.back(Duration(1000));
    let late = at.world.engine.begin(Arc::clone(&at.agent), action, None).await;
    assert_eq!(late.unwrap_err().code(), "permit-expired");
    assert_eq!(at.value("notes").await, "1.0");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_an_instance_gives_back_what_was_not_started() {
    let mut at = scene("2.0").await;
    at.note().await.unwrap();
    let running = at.started().await;
    assert_eq!(at.value("notes").await, "2.0");
    at.world.engine.terminate(Arc::clone(&at.dana), at.instance, None).await.unwrap();
    assert_eq!(at.value("notes").await, "1.0");
    at.restarts_equal().await;
    at.report(running, Outcome::Cancelled).await;
    assert_eq!(at.value("notes").await, "0.0");
    at.restarts_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_ends_begins_anew_and_what_is_given_back_late_goes_to_its_own() {
    let mut at = scene("1.0").await;
    let yesterday = at.started().await;
    at.world.clock.forward(Duration::from_secs(DAY));
    assert_eq!(at.value("notes").await, "0.0");
    let today = at.started().await;
    refused(at.note().await);
    at.report(yesterday, Outcome::Failed).await;
    assert_eq!(at.value("notes").await, "1.0", "yesterday's is not today's");
    at.restarts_equal().await;
    at.report(today, Outcome::Failed).await;
    assert_eq!(at.value("notes").await, "0.0");
    // What has no window never begins anew.
    for _ in 0..3 {
        at.world.propose(&at.agent, at.instance, &[crate::world::read("a")]).await.unwrap();
    }
    at.world.clock.forward(Duration::from_secs(400 * DAY));
    assert_eq!(at.value("reads").await, "3.0");
    at.restarts_equal().await;
    let fourth = at.world.propose(&at.agent, at.instance, &[crate::world::read("a")]).await;
    refused(fourth.map(|proposed| proposed.items[0].action));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_item_of_a_batch_sees_what_those_before_it_take() {
    let mut at = scene("3.0").await;
    let proposed = at.world.propose(&at.agent, at.instance, &vec![note(); 16]).await.unwrap();
    let permitted: Vec<bool> = proposed.items.iter().map(is_permitted).collect();
    assert_eq!(permitted, [[true; 3].as_slice(), &[false; 13]].concat());
    assert_eq!(at.value("notes").await, "3.0");
    at.can_be_proven().await;
    at.restarts_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_gate_permits_is_taken_when_it_resolves_and_not_before() {
    let mut at = scene("2.0").await;
    let anna = at.world.person("anna", &["APPROVER"]);
    let batch = [refund(400.5), note(), refund(500.0), note()];
    let proposed = at.world.propose(&at.agent, at.instance, &batch).await.unwrap();
    let gate = proposed.gate.unwrap();
    assert_eq!((at.value("refunded").await, at.value("notes").await), ("0.0".to_owned(), "0.0".to_owned()));

    // Meanwhile another instance takes a note; the second note of the batch finds none left.
    let other = at.world.instance(&at.dana, "repair", &at.agent).await.instance.id;
    at.world.propose(&at.agent, other, &[note()]).await.unwrap();
    let vote = at.world.decide(&anna, gate, Deciding::Approve).await.unwrap();
    assert_eq!((vote.effect, vote.state), (Effect::Resolving, State::Running));
    let by_action: BTreeMap<ActionId, bool> = vote.items.iter().map(|a| (a.action, is_permitted(a))).collect();
    let permitted: Vec<bool> = proposed.items.iter().map(|item| by_action[&item.action]).collect();
    assert_eq!(permitted, [true, true, true, false]);
    assert_eq!((at.value("refunded").await, at.value("notes").await), ("900.5".to_owned(), "2.0".to_owned()));
    at.can_be_proven().await;
    at.restarts_equal().await;

    // What no longer fits is nothing that people can lift.
    let more = at.world.propose(&at.agent, at.instance, &[refund(99.0)]).await.unwrap().gate.unwrap();
    let much = at.world.propose(&at.agent, other, &[refund(99.5)]).await.unwrap().gate.unwrap();
    let vote = at.world.decide(&anna, more, Deciding::Approve).await.unwrap();
    assert_eq!(vote.effect, Effect::Resolving);
    assert_eq!(at.value("refunded").await, "999.5");
    let vote = at.world.decide(&anna, much, Deciding::Approve).await.unwrap();
    assert_eq!((vote.effect, vote.state), (Effect::HardDenied, State::Terminated));
    assert_eq!(at.value("refunded").await, "999.5");
    at.can_be_proven().await;
    at.restarts_equal().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn gates_that_resolve_at_once_share_one_budget() {
    let mut at = scene("25.0").await;
    let approvers: Vec<_> = (0..4).map(|n| at.world.person(&format!("anna-{n}"), &["APPROVER"])).collect();
    let mut gates = Vec::new();
    for _ in 0..12 {
        let instance = at.world.instance(&at.dana, "repair", &at.agent).await.instance.id;
        gates.push(at.world.propose(&at.agent, instance, &[refund(250.0)]).await.unwrap().gate.unwrap());
    }
    let voting = gates.iter().zip(approvers.iter().cycle()).map(|(gate, who)| {
        let world = &at.world;
        async move { world.decide(who, *gate, Deciding::Approve).await.unwrap().effect }
    });
    let effects = futures_of(voting).await;
    let count = |effect| effects.iter().filter(|e| **e == effect).count();
    assert_eq!((count(Effect::Resolving), count(Effect::HardDenied)), (4, 8), "{effects:?}");
    assert_eq!(at.value("refunded").await, "1000.0");
    at.can_be_proven().await;
    at.restarts_equal().await;
}

/// Polls all of them until the last is done.
async fn futures_of<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut futures: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        for (future, done) in &mut futures {
            if done.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(context)
            {
                *done = Some(value);
            }
        }
        if futures.iter().all(|(_, done)| done.is_some()) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    futures.into_iter().filter_map(|(_, done)| done).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_that_the_ledger_does_not_take_gives_back_what_it_took() {
    let mut at = scene("1.0").await;
    at.world.clock.back(Duration::from_secs(60));
    assert_eq!(at.note().await.unwrap_err().code(), "clock-behind");
    at.world.clock.forward(Duration::from_secs(60));
    assert_eq!(at.standing().await.iter().map(|c| (c.version, c.value.as_str())).collect::<Vec<_>>(), [(0, "0.0"); 3]);
    at.note().await.unwrap();
    at.restarts_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn evaluations_see_counters_and_take_nothing() {
    let at = scene("1.0").await;
    let owner = at.world.person("olga", &["ADMIN"]);
    let proxy = enforcement_point(&at.world, &owner, &["evaluate"]);
    let seen = async || {
        let mut ask = asks(PrincipalKind::Agent, "fixer", "notes.append", &json!({ "text": "x" }));
        ask.instance = Some(at.instance.to_string());
        let answer = at.world.engine.evaluate(Arc::clone(&proxy), vec![ask], Semantic::ExecuteAll).await.unwrap();
        (answer[0].decision, answer[0].reason.clone())
    };
    // The budget has room for one: two that ask are both told yes, since neither takes it.
    assert_eq!(seen().await, (Decision::Allow, None));
    assert_eq!(seen().await, (Decision::Allow, None));
    assert_eq!(at.value("notes").await, "0.0");
    at.note().await.unwrap();
    assert_eq!(seen().await, (Decision::Deny, Some("the budget is used up".to_owned())));
    for entry in at.entries("evaluation").await {
        let again = at.world.engine.replay(&at.dana, entry.index).await.unwrap();
        assert_eq!(again.computed.as_ref(), Some(&again.stored));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_with_other_windows_counts_what_was_taken_before_it() {
    let mut at = scene("2.0").await;
    at.note().await.unwrap();
    let spent = at.started().await;
    at.report(spent, Outcome::Succeeded).await;
    at.world.clock.forward(Duration::from_secs(2 * DAY));
    assert_eq!(at.value("notes").await, "0.0");
    at.world.propose(&at.agent, at.instance, &[crate::world::read("a")]).await.unwrap();
    // In force all at once, as another process would have put it there: the next question counts anew.
    at.world.policies.install(org(1), &files_of("2.0", 30 * DAY));
    assert_eq!(at.value("notes").await, "1.0", "what was not started has lapsed, what was spent is spent");
    at.note().await.unwrap();
    refused(at.note().await);
    at.can_be_proven().await;
    at.restarts_equal().await;
}

/// What this thread says to its log, in order.
#[derive(Clone, Default)]
struct Said(Arc<std::sync::Mutex<Vec<String>>>);

impl tracing::field::Visit for Said {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0.lock().unwrap().push(format!("{value:?}"));
        }
    }
}

impl tracing::Subscriber for Said {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut self.clone());
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn the_counters_of_a_bundle_are_counted_before_it_comes_into_force() {
    let world = World::new().await;
    let dana = world.person("dana", &["ADMIN", "POLICY_ADMIN", "STOP", "OPERATOR"]);
    let files = files_of("2.0", DAY);
    let confirmed = countersign_policy_bundle::sha256(format!("{} files", files.len()).as_bytes());
    let said = Said::default();
    // Beside a second one: where there is just one, the first thread to pass a place says for all whether it is heard.
    let _second = tracing::Dispatch::new(Said::default());
    let listening = tracing::subscriber::set_default(said.clone());
    let bundle = serde_json::to_vec(&files).unwrap();
    world.engine.activate_policy(Arc::clone(&dana), bundle, Some(confirmed)).await.map(drop).unwrap();
    drop(listening);
    let said = said.0.lock().unwrap().clone();
    let at =
        |words: &str| said.iter().position(|line| line.contains(words)).unwrap_or_else(|| panic!("{words}: {said:?}"));
    assert!(at("counters read from the ledger") < at("a bundle comes into force"), "{said:?}");
    assert_eq!(said.iter().filter(|line| line.contains("counters read")).count(), 1, "once: {said:?}");
}
