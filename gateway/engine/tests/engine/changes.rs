//! Changes of policy as protected actions: proposed, compared, approved by somebody else, carried out by the gateway.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration as Span;

use countersign_gateway_engine::{
    BacktestWindow, DecisionKind, DecisionRequest, Effect, EngineError, EntryQuery, Idempotency, LiftRequest,
    PolicyGlass, PolicyProposal, verify_evidence,
};
use countersign_gateway_model::{Assurance, Digest, Duration, GateId, InstanceId, Principal, State};
use countersign_policy_bundle::{Shift, sha256};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::bench::{Files, default_files, with_rule};
use crate::world::{Deciding, World, org, read};

const DAY: Duration = Duration::from_secs(86_400);

fn bytes(files: &Files) -> Vec<u8> {
    serde_json::to_vec(files).unwrap()
}

fn confirmed(files: &Files) -> Digest {
    sha256(format!("{} files", files.len()).as_bytes())
}

/// The bundle that ships, with one number changed.
fn other(persons: u32) -> Files {
    with_rule("merge", |rule| rule["quorum"]["persons"] = persons.into())
}

struct Office {
    world: World,
    /// Proposes.
    ada: Arc<Principal>,
    /// Approves.
    grace: Arc<Principal>,
}

impl Office {
    fn new(world: World) -> Self {
        let ada = world.person("ada", &["ADMIN", "POLICY_ADMIN", "STOP", "AUDITOR"]);
        let grace = world.person("grace", &["POLICY_ADMIN"]);
        Self { world, ada, grace }
    }

    async fn solo() -> Self {
        Self::new(World::new().await)
    }

    async fn four_eyes() -> Self {
        Self::new(World::four_eyes().await)
    }

    async fn propose(&self, files: &Files, confirm: Option<Digest>) -> Result<PolicyProposal, EngineError> {
        self.world.engine.propose_policy(Arc::clone(&self.ada), bytes(files), confirm, None).await
    }

    async fn read(&self, id: InstanceId) -> PolicyProposal {
        self.world.engine.policy_proposal(&self.ada, id).await.unwrap()
    }

    async fn window(&self, seconds: u64) {
        self.world.engine.set_shadow_window(Arc::clone(&self.ada), seconds, None).await.unwrap();
        // Where nobody changes policy alone, a shorter one counts once the one before it has passed.
        let still = self.window_now();
        if still > seconds {
            self.world.clock.forward(Duration::from_secs(still));
        }
        assert_eq!(self.window_now(), seconds);
    }

    fn window_now(&self) -> u64 {
        let settings = self.world.engine.settings(&self.ada).unwrap();
        settings.iter().find(|(name, _)| name == "policy.shadow_window_s").unwrap().1.as_u64().unwrap()
    }

    /// Lets the gateway's clock loop run until a proposal is as far as this.
    async fn until(&self, id: InstanceId, state: &str) -> PolicyProposal {
        let timers = tokio::spawn(self.world.engine.clone().run_timers());
        let mut seen = self.read(id).await;
        for _ in 0..400 {
            if seen.state == state {
                break;
            }
            tokio::time::sleep(Span::from_millis(25)).await;
            seen = self.read(id).await;
        }
        timers.abort();
        assert_eq!(seen.state, state, "{seen:?}");
        seen
    }

    /// Waits until a change's instance has ended like this.
    async fn ended(&self, proposal: &PolicyProposal, state: State) {
        let timers = tokio::spawn(self.world.engine.clone().run_timers());
        for _ in 0..400 {
            if self.world.state(&self.ada, proposal.id).await == state {
                break;
            }
            tokio::time::sleep(Span::from_millis(25)).await;
        }
        timers.abort();
        assert_eq!(self.world.state(&self.ada, proposal.id).await, state);
    }

    /// Approves, and comes back when the gateway is at the last check, which it holds.
    async fn approving_until_the_last_check(&self, gate: GateId, shown: Digest) -> JoinHandle<()> {
        self.world.policies.hold_checks(true);
        let begun = self.world.policies.checks();
        let request = DecisionRequest {
            kind: DecisionKind::Approve,
            items: Vec::new(),
            justification: Some("seen and weighed".to_owned()),
            shown_digest: Some(shown),
            delta: BTreeMap::new(),
            role: None,
            assertion: None,
        };
        let (engine, grace) = (self.world.engine.clone(), Arc::clone(&self.grace));
        let approving = tokio::spawn(async move {
            engine.decide(grace, gate, request, None).await.unwrap();
        });
        for _ in 0..2000 {
            if self.world.policies.checks() > begun {
                return approving;
            }
            tokio::time::sleep(Span::from_millis(5)).await;
        }
        panic!("the approval did not lead to a last check");
    }

    fn in_force(&self) -> Digest {
        self.world.engine.snapshot(org(1)).digests().bundle
    }

    /// The kinds of policy steps on record, in order.
    async fn steps(&self) -> Vec<String> {
        let query = EntryQuery { limit: 500, ..EntryQuery::default() };
        let entries = self.world.engine.entries(&self.ada, query).await.unwrap().items;
        let policy = entries.iter().filter(|entry| entry.kind == "policy");
        policy.map(|entry| entry.body["step"].as_str().unwrap().to_owned()).collect()
    }

    /// Every verdict on record is what comes out of what is stored; an auditor who has nothing else finds nothing wrong.
    async fn holds(&self) {
        let query = EntryQuery { limit: 500, ..EntryQuery::default() };
        for entry in self.world.engine.entries(&self.ada, query).await.unwrap().items {
            if entry.verdict.is_some() {
                let again = self.world.engine.replay(&self.ada, entry.index).await.unwrap();
                assert_eq!(
                    again.computed.as_ref(),
                    Some(&again.stored),
                    "entry {} of kind {}",
                    entry.index,
                    entry.kind
                );
            }
        }
        let pack = self.world.engine.pack(&self.ada, true).await.unwrap();
        let report = verify_evidence(&self.world.root_vkey(org(1)), &pack).unwrap();
        assert_eq!(report.verdict.as_str(), "VALID", "{report:?}");
    }
}

fn code<T: std::fmt::Debug>(answer: Result<T, EngineError>) -> &'static str {
    answer.unwrap_err().code()
}

fn words(proposal: &PolicyProposal) -> Vec<&'static str> {
    proposal.steps.iter().map(|step| step.step).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_person_alone_confirms_the_difference_and_the_policy_is_in_force_at_once() {
    let office = Office::solo().await;
    let files = other(2);
    assert_eq!(code(office.propose(&files, None).await), "diff-unconfirmed");
    assert_eq!(code(office.propose(&files, Some(Digest([7; 32]))).await), "diff-unconfirmed");
    let done = office.propose(&files, Some(confirmed(&files))).await.unwrap();
    assert_eq!((done.state, words(&done)), ("activated", vec!["proposed", "checked", "tested", "activated"]));
    assert_eq!(office.in_force(), done.bundle);
    assert_eq!(office.steps().await, ["proposed", "checked", "tested", "activated"]);
    assert_eq!(office.world.state(&office.ada, done.id).await, State::Completed);
    office.holds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn under_four_eyes_a_policy_comes_into_force_by_the_approval_of_somebody_else() {
    let office = Office::four_eyes().await;
    office.window(0).await;
    let before = office.in_force();
    let waiting = office.propose(&other(2), None).await.unwrap();
    assert_eq!(waiting.state, "waiting");
    let gate = waiting.gate.unwrap();
    let shown = office.world.engine.gate(&office.grace, gate).await.unwrap().view;
    for told in ["put policy version 2 in force", "What changes:", "person/ada", "no window was asked for"] {
        assert!(shown.contains(told), "{told}: {shown}");
    }
    assert!(!shown.contains("Supplied by"), "nobody supplied an input: {shown}");
    // Whoever proposed it decides nothing of it.
    let own = office.world.decide(&office.ada, gate, Deciding::Approve).await.unwrap();
    assert_eq!(own.effect, Effect::NotEligible);
    assert_eq!(office.read(waiting.id).await.state, "waiting");
    assert_eq!(office.in_force(), before);
    let decided = office.world.decide(&office.grace, gate, Deciding::Approve).await.unwrap();
    assert_eq!(decided.state, State::Completed, "the gateway carried it out before it answered");
    let done = office.read(waiting.id).await;
    assert_eq!(words(&done), ["proposed", "checked", "tested", "approved", "activated"]);
    assert_eq!((done.state, office.in_force()), ("activated", done.bundle));
    office.holds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_the_gateway_carries_an_approved_change_out() {
    let office = Office::four_eyes().await;
    office.window(0).await;
    let waiting = office.propose(&other(2), None).await.unwrap();
    let gate = waiting.gate.unwrap();
    let item = office.world.engine.gate(&office.grace, gate).await.unwrap().gate.items[0].clone();
    let engine = &office.world.engine;
    for who in [&office.ada, &office.grace] {
        assert_eq!(code(engine.begin(Arc::clone(who), item.action, None).await), "not-found");
    }
    let tool = office.world.propose(&office.ada, waiting.id, &[read("a")]).await;
    assert_eq!(code(tool), "not-found", "the instance of a change is for its change alone");
    let agent = office.world.agent("robot", &office.ada);
    let files = other(3);
    let tried = engine.propose_policy(Arc::clone(&agent), bytes(&files), Some(confirmed(&files)), None).await;
    assert_eq!(code(tried), "policy-denied", "agents change no policy");
    let back = engine.rollback_policy(Arc::clone(&agent), None, None).await;
    assert_eq!(code(back), "policy-denied", "and go back to none");
    assert_eq!(code(engine.withdraw_policy(Arc::clone(&agent), waiting.id, None).await), "not-found");
    assert_eq!(code(engine.policy_proposals(&agent, None, 10).await), "not-found");
    let spec = json!({ "id": "countersign.policy-change", "version": "2" });
    let spec = serde_json::from_value(spec).unwrap();
    assert_eq!(code(engine.register_workflow(Arc::clone(&office.ada), spec).await), "parameter-invalid");
}

/// The bundle that ships, with an invariant that nobody proves here.
fn with_invariant(annotation: &str) -> Files {
    let mut files = default_files();
    let never = format!(
        "@id(\"no-agent-reads-policy\")\n{annotation}permit (principal is Countersign::Agent, action == \
         Countersign::Action::\"readPolicy\", resource);\n"
    );
    files.insert("invariants/agents.cedar".to_owned(), never);
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn the_invariants_of_a_candidate_are_a_step_of_its_own_between_tests_and_window() {
    let office = Office::four_eyes().await;
    let refused = office.propose(&with_invariant("@unproved(\"refuse\")\n"), None).await;
    assert_eq!(code(refused), "bundle-rejected", "not proved, where it must be");
    let proposed = office.propose(&with_invariant(""), None).await.unwrap();
    assert_eq!(words(&proposed), ["proposed", "checked", "tested", "invariants", "shadowed"]);
    let known = |proposal: &PolicyProposal| {
        let [one] = &proposal.proofs[..] else { panic!("{:?}", proposal.proofs) };
        (one.invariant.to_string(), one.outcome.clone(), one.why.clone())
    };
    let unproved = known(&proposed);
    assert_eq!((unproved.0.as_str(), unproved.1.as_str()), ("no-agent-reads-policy", "not_proved"));
    office.world.clock.forward(DAY);
    let waiting = office.until(proposed.id, "waiting").await;
    assert_eq!(known(&waiting), unproved);
    let view = office.world.engine.gate(&office.grace, waiting.gate.unwrap()).await.unwrap().view;
    assert!(view.contains("0 of 1 invariants are proved; NOT no-agent-reads-policy: no solver was asked"), "{view}");
    // On record: the step is an entry, and what came of it is its payload.
    let query = EntryQuery { instance: None, from: 0, limit: 500 };
    let entries = office.world.engine.entries(&office.ada, query).await.unwrap().items;
    let steps: Vec<_> = entries.iter().filter(|entry| entry.kind == "policy").map(|e| e.body["step"].clone()).collect();
    assert!(steps.contains(&json!("invariants")), "{steps:?}");
    let pack = office.world.engine.pack(&office.ada, true).await.unwrap();
    let report = verify_evidence(&office.world.root_vkey(org(1)), &pack).unwrap();
    assert_eq!(report.verdict.as_str(), "VALID", "{report:?}");
    // Without invariants there is no such step.
    let plain = Office::four_eyes().await.propose(&other(2), None).await.unwrap();
    assert!(plain.proofs.is_empty() && !words(&plain).contains(&"invariants"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_in_its_shadow_window_is_not_activated_by_anybody() {
    let office = Office::four_eyes().await;
    let files = other(2);
    let proposed = office.propose(&files, None).await.unwrap();
    assert_eq!((proposed.state, words(&proposed)), ("shadowing", vec!["proposed", "checked", "tested", "shadowed"]));
    assert_eq!(proposed.window_ends, proposed.proposed + DAY);
    assert_eq!(proposed.gate, None, "nobody is asked before the window is over");
    // In one step: the hard forbid of the policy in force stands in the way, and the denial is on record.
    let EngineError::Refused(refused) = office
        .world
        .engine
        .activate_policy(Arc::clone(&office.ada), bytes(&files), Some(confirmed(&files)))
        .await
        .err()
        .unwrap()
    else {
        panic!("it was refused by something else")
    };
    assert_eq!(refused.code, "policy-denied");
    let explained = office.world.engine.explain(&office.ada, refused.receipt.index).await.unwrap();
    assert!(explained[0].determining.iter().any(|id| id.as_str() == "unchecked-policy"), "{explained:?}");
    office.world.clock.forward(DAY);
    let waiting = office.until(proposed.id, "waiting").await;
    office.world.decide(&office.grace, waiting.gate.unwrap(), Deciding::Approve).await.unwrap();
    assert_eq!(office.in_force(), proposed.bundle);
    office.holds().await;
}

/// The bundle that ships, where nobody puts a policy in force without a second factor, as its own tests do.
fn for_the_sure() -> Files {
    let mut files = default_files();
    files.retain(|path, _| !path.starts_with("tests/"));
    files.get_mut("policies.cedar").unwrap().push_str(
        "\n@id(\"sure-authors\")\nforbid (\n  principal,\n  action == Countersign::Action::\"activatePolicy\",\n  \
         resource\n)\nunless { context.assuranceLevel >= 3 };\n",
    );
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_under_way_is_asked_with_no_more_than_its_authors_login_is_worth_now() {
    let mut office = Office::four_eyes().await;
    office.world.policies.install(org(1), &for_the_sure());
    for (login, then, now, state) in [
        (Assurance::Mfa, true, true, "waiting"),
        // Taken away while the window ran, as after a theft.
        (Assurance::Mfa, true, false, "failed"),
        // Enrolled since: the login that proposed was by a password alone.
        (Assurance::Password, false, true, "failed"),
    ] {
        office.world.second_factor(&office.ada, then);
        office.ada = Arc::new(Principal { assurance: login, ..(*office.ada).clone() });
        let proposed = office.propose(&other(2), None).await.unwrap();
        assert_eq!(proposed.state, "shadowing");
        office.world.second_factor(&office.ada, now);
        office.world.clock.forward(DAY);
        let asked = office.until(proposed.id, state).await;
        if state == "failed" {
            assert_eq!(
                asked.reason.as_deref(),
                Some("the policy in force does not allow its activation"),
                "{login:?} {now}"
            );
        } else {
            office.world.decide(&office.grace, asked.gate.unwrap(), Deciding::Reject).await.unwrap();
        }
    }
    office.holds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rejected_expired_and_withdrawn_changes_change_nothing_and_say_why() {
    let office = Office::four_eyes().await;
    office.window(0).await;
    let before = office.in_force();
    let rejected = office.propose(&other(2), None).await.unwrap();
    office.world.decide(&office.grace, rejected.gate.unwrap(), Deciding::Reject).await.unwrap();
    let rejected = office.until(rejected.id, "failed").await;
    assert_eq!(rejected.reason.as_deref(), Some("it was rejected"));
    let withdrawn = office.propose(&other(2), None).await.unwrap();
    let withdrawn = office.world.engine.withdraw_policy(Arc::clone(&office.ada), withdrawn.id, None).await.unwrap();
    assert_eq!((withdrawn.state, words(&withdrawn).last()), ("withdrawn", Some(&"withdrawn")));
    let expired = office.propose(&other(2), None).await.unwrap();
    office.world.clock.forward(Duration::from_secs(604_801));
    let expired = office.until(expired.id, "failed").await;
    assert_eq!(expired.reason.as_deref(), Some("nobody approved it in time"));
    for proposal in [rejected, withdrawn, expired] {
        assert_eq!(office.world.state(&office.ada, proposal.id).await, State::Terminated);
    }
    assert_eq!(office.in_force(), before);
    office.holds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_whose_predecessor_was_replaced_fails_when_it_is_carried_out() {
    let office = Office::four_eyes().await;
    office.window(0).await;
    let first = office.propose(&other(2), None).await.unwrap();
    let second = office.propose(&other(3), None).await.unwrap();
    office.world.decide(&office.grace, first.gate.unwrap(), Deciding::Approve).await.unwrap();
    let decided = office.world.decide(&office.grace, second.gate.unwrap(), Deciding::Approve).await.unwrap();
    assert!(decided.state.is_terminal());
    let second = office.read(second.id).await;
    assert_eq!((second.state, words(&second).last()), ("failed", Some(&"failed")));
    assert!(second.reason.as_deref().unwrap().contains("does not fit what is in force now"), "{second:?}");
    assert_eq!(office.in_force(), first.bundle);
    office.holds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bundle_before_comes_back_without_a_window_within_a_day_and_never_without_approval() {
    let office = Office::four_eyes().await;
    office.window(0).await;
    let next = office.propose(&other(2), None).await.unwrap();
    office.world.decide(&office.grace, next.gate.unwrap(), Deciding::Approve).await.unwrap();
    office.window(86_400).await;
    let back = office.world.engine.rollback_policy(Arc::clone(&office.ada), None, None).await.unwrap();
    assert!(back.rollback);
    assert_eq!((back.state, back.window_ends, back.version), ("waiting", back.proposed, 3));
    let shown = office.world.engine.gate(&office.grace, back.gate.unwrap()).await.unwrap().view;
    assert!(shown.contains("Rollback:"), "{shown}");
    assert_eq!(office.in_force(), next.bundle, "an approval is always needed");
    office.world.engine.withdraw_policy(Arc::clone(&office.ada), back.id, None).await.unwrap();
    // A day later it takes its window, like anything else.
    office.world.clock.forward(Duration::from_secs(86_401));
    let late = office.world.engine.rollback_policy(Arc::clone(&office.ada), None, None).await.unwrap();
    assert_eq!((late.state, late.window_ends), ("shadowing", late.proposed + DAY));
    office.world.clock.forward(DAY);
    let waiting = office.until(late.id, "waiting").await;
    office.world.decide(&office.grace, waiting.gate.unwrap(), Deciding::Approve).await.unwrap();
    let rules = |files: &Files| files["rules.json"].clone();
    assert_ne!(rules(&other(2)), rules(&default_files()));
    let merge = office.world.engine.snapshot(org(1)).rules().get("merge").unwrap().quorum.persons;
    assert_eq!(merge, 1, "the content of the first bundle is in force again");
    office.holds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_waits_or_is_lost_while_a_policy_is_put_in_force() {
    let office = Office::four_eyes().await;
    office.window(0).await;
    let world = &office.world;
    let operator = world.person("olga", &["OPERATOR", "ADMIN"]);
    let agent = world.agent("robot", &operator);
    world.workflow(&operator, "fix").await;
    let instance = world.instance(&operator, "fix", &agent).await.instance.id;
    let waiting = office.propose(&other(2), None).await.unwrap();
    let gate = waiting.gate.unwrap();
    let shown = world.engine.gate(&office.grace, gate).await.unwrap().shown_digest;
    let approving = office.approving_until_the_last_check(gate, shown).await;
    // The last check is at work; agents are not.
    for n in 0..20 {
        world.propose(&agent, instance, &[read(&format!("src/{n}"))]).await.unwrap();
    }
    assert_ne!(office.in_force(), waiting.bundle);
    world.policies.hold_checks(false);
    approving.await.unwrap();
    world.propose(&agent, instance, &[read("src/after")]).await.unwrap();
    assert_eq!(office.in_force(), waiting.bundle);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proposal_without_its_instance_gets_it_at_the_next_start() {
    let mut office = Office::four_eyes().await;
    office.window(0).await;
    // While work is frozen a proposal goes on record, and nothing else happens.
    office.world.engine.freeze(Arc::clone(&office.ada), None, false, None).await.unwrap();
    let proposed = office.propose(&other(2), None).await.unwrap();
    assert_eq!((proposed.state, proposed.gate), ("shadowing", None));
    assert_eq!(code(office.world.engine.instance(&office.ada, proposed.id).await), "instance-not-found");
    office.world.restart().await;
    assert_eq!(office.read(proposed.id).await.state, "shadowing");
    office.world.engine.freeze(Arc::clone(&office.ada), None, true, None).await.unwrap();
    let waiting = office.until(proposed.id, "waiting").await;
    office.world.restart().await;
    office.world.decide(&office.grace, waiting.gate.unwrap(), Deciding::Approve).await.unwrap();
    assert_eq!(office.in_force(), proposed.bundle);
    office.holds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_begun_before_a_crash_is_finished_after_it() {
    let mut office = Office::four_eyes().await;
    office.window(0).await;
    let waiting = office.propose(&other(2), None).await.unwrap();
    let gate = waiting.gate.unwrap();
    let shown = office.world.engine.gate(&office.grace, gate).await.unwrap().shown_digest;
    office.approving_until_the_last_check(gate, shown).await;
    // Permit and start are durable; the process ends before the bundle is in force.
    assert_eq!(office.read(waiting.id).await.state, "approved");
    office.world.restart().await;
    office.world.policies.hold_checks(false);
    let done = office.until(waiting.id, "activated").await;
    assert_eq!(words(&done), ["proposed", "checked", "tested", "approved", "activated"]);
    // The entry comes before the bundle: whoever reads between the two sees the one without the other.
    office.ended(&done, State::Completed).await;
    assert_eq!(office.in_force(), done.bundle);
    office.holds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_begun_too_long_ago_is_not_put_in_force() {
    let mut office = Office::four_eyes().await;
    office.window(0).await;
    let before = office.in_force();
    let waiting = office.propose(&other(2), None).await.unwrap();
    let gate = waiting.gate.unwrap();
    let shown = office.world.engine.gate(&office.grace, gate).await.unwrap().shown_digest;
    office.approving_until_the_last_check(gate, shown).await;
    office.world.restart().await;
    office.world.policies.hold_checks(false);
    office.world.clock.forward(Duration::from_secs(2 * 86_400));
    let failed = office.until(waiting.id, "failed").await;
    assert_eq!(failed.reason.as_deref(), Some("it was stopped, or not begun in time"));
    assert_eq!(office.in_force(), before);
    office.ended(&failed, State::Terminated).await;
    office.holds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_the_entry_and_the_swap_leaves_the_entry_in_the_right() {
    let mut office = Office::four_eyes().await;
    office.window(0).await;
    let waiting = office.propose(&other(2), None).await.unwrap();
    office.world.policies.cut_off();
    office.world.decide(&office.grace, waiting.gate.unwrap(), Deciding::Approve).await.unwrap();
    assert_eq!(office.read(waiting.id).await.state, "activated");
    assert_ne!(office.in_force(), waiting.bundle);
    office.world.policies.load(org(1));
    office.world.restart().await;
    let done = office.until(waiting.id, "activated").await;
    office.ended(&done, State::Completed).await;
    assert_eq!(office.in_force(), waiting.bundle);
    assert_eq!(office.steps().await.iter().filter(|step| *step == "activated").count(), 1);
    office.holds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn people_are_shown_what_the_candidate_would_have_said_while_its_window_ran() {
    let office = Office::four_eyes().await;
    let world = &office.world;
    let operator = world.person("olga", &["OPERATOR", "ADMIN"]);
    let agent = world.agent("robot", &operator);
    world.workflow(&operator, "fix").await;
    let instance = world.instance(&operator, "fix", &agent).await.instance.id;
    world.propose(&agent, instance, &[read("before")]).await.unwrap();
    world.clock.forward(Duration::from_secs(60));
    let mut files = default_files();
    let wall = "\n@id(\"no-reading\")\n@title(\"Nothing under private is read\")\nforbid (\n  principal,\n  \
                action == Countersign::Action::\"dispatch:repo.read\",\n  resource is Countersign::Tool\n)\n\
                when { context.input.path like \"private/*\" };\n";
    files.get_mut("policies.cedar").unwrap().push_str(wall);
    let proposed = office.propose(&files, None).await.unwrap();
    for path in ["private/a", "private/b", "src/c"] {
        world.propose(&agent, instance, &[read(path)]).await.unwrap();
    }
    assert!(office.read(proposed.id).await.compared.is_none());
    world.clock.forward(DAY);
    let waiting = office.until(proposed.id, "waiting").await;
    let compared = waiting.compared.unwrap();
    assert_eq!(compared.changed.get("allow_to_deny"), Some(&2), "{compared:?}");
    assert!(compared.unchanged >= 1, "{compared:?}");
    let shown = world.engine.gate(&office.grace, waiting.gate.unwrap()).await.unwrap().view;
    assert!(shown.contains("2 allow to deny"), "{shown}");
    office.holds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn raising_the_authority_mode_is_one_command_that_locks_nobody_out_and_outlives_a_restart() {
    let world = World::new().await;
    let ada = world.person("ada", &["ADMIN", "POLICY_ADMIN", "STOP", "AUDITOR"]);
    let alone = world.engine.raise_authority(Arc::clone(&ada), None).await;
    assert_eq!(code(alone), "bundle-locks-out", "nobody else could approve a change of policy");
    let grace = world.person("grace", &["POLICY_ADMIN"]);
    assert_eq!(code(world.engine.raise_authority(Arc::clone(&grace), None).await), "policy-denied");
    let mut office = Office { world, ada, grace };
    assert_eq!(office.world.engine.policy(&office.ada).unwrap().authority, "solo", "a refusal raises nothing");
    office.world.engine.raise_authority(Arc::clone(&office.ada), None).await.unwrap();
    office.world.restart().await;
    assert_eq!(office.world.engine.policy(&office.ada).unwrap().authority, "four_eyes");
    let proposed = office.propose(&other(2), None).await.unwrap();
    assert_eq!(proposed.state, "shadowing");
    assert_eq!(proposed.window_ends, proposed.proposed + DAY);
    office.holds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_proposal_under_the_same_key_is_one_proposal() {
    let office = Office::four_eyes().await;
    office.window(0).await;
    let files = other(2);
    let key = |request: u8| Some(Idempotency { key: "once".to_owned(), request: Digest([request; 32]) });
    let propose =
        |request| office.world.engine.propose_policy(Arc::clone(&office.ada), bytes(&files), None, key(request));
    let first = propose(1).await.unwrap();
    let again = propose(1).await.unwrap();
    assert_eq!((again.id, again.gate), (first.id, first.gate));
    assert_eq!(code(propose(2).await), "idempotency-key-reused");
    let all = office.world.engine.policy_proposals(&office.ada, None, 10).await.unwrap();
    assert_eq!((all.items.len(), all.next), (1, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_freeze_stops_what_changes_policy_and_not_who_takes_it_back() {
    let office = Office::four_eyes().await;
    office.window(0).await;
    let engine = &office.world.engine;
    let first = office.propose(&other(2), None).await.unwrap();
    let second = office.propose(&other(3), None).await.unwrap();
    engine.freeze(Arc::clone(&office.ada), None, false, None).await.unwrap();
    let approved = office.world.decide(&office.grace, first.gate.unwrap(), Deciding::Approve).await;
    assert_eq!(code(approved), "frozen");
    let withdrawn = engine.withdraw_policy(Arc::clone(&office.ada), second.id, None).await.unwrap();
    assert_eq!(withdrawn.state, "withdrawn");
    engine.freeze(Arc::clone(&office.ada), None, true, None).await.unwrap();
    office.world.decide(&office.grace, first.gate.unwrap(), Deciding::Approve).await.unwrap();
    assert_eq!(office.in_force(), first.bundle);
    office.holds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_the_gateways_to_complete_and_rests_while_people_are_asked_to_stop_it() {
    let office = Office::four_eyes().await;
    office.window(600).await;
    let proposal = office.propose(&other(2), None).await.unwrap();
    office.until(proposal.id, "shadowing").await;
    let olga = office.world.person("olga", &["OPERATOR"]);
    let completed = office.world.engine.complete(Arc::clone(&olga), proposal.id, None).await;
    assert!(matches!(completed, Err(EngineError::NotFound(_))), "it would end a change as if it had happened");
    office.world.engine.terminate(olga, proposal.id, None).await.unwrap();
    assert_eq!(office.world.state(&office.ada, proposal.id).await, State::WaitingForHuman);
    // The window is over, and the gate of the stop is not: nothing is checked meanwhile, again and again least of all.
    office.world.clock.forward(Duration::from_secs(700));
    let checks = office.world.policies.checks();
    let timers = tokio::spawn(office.world.engine.clone().run_timers());
    tokio::time::sleep(Span::from_millis(1500)).await;
    timers.abort();
    assert_eq!((office.world.policies.checks(), office.read(proposal.id).await.state), (checks, "shadowing"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shorter_window_counts_once_the_one_before_it_has_passed() {
    let mut office = Office::four_eyes().await;
    let shorten = |office: &Office, seconds| {
        let (engine, ada) = (office.world.engine.clone(), Arc::clone(&office.ada));
        async move { engine.set_shadow_window(ada, seconds, None).await.unwrap() }
    };
    shorten(&office, 0).await;
    let proposed = office.propose(&other(2), None).await.unwrap();
    assert_eq!((proposed.state, proposed.window_ends), ("shadowing", proposed.proposed + DAY));
    // Neither a restart, nor a longer one in between, nor doing it twice makes it count sooner.
    office.world.restart().await;
    assert_eq!(office.window_now(), 86_400);
    office.world.clock.forward(Duration::from_secs(86_399));
    assert_eq!(office.window_now(), 86_400);
    shorten(&office, 3600).await;
    office.world.clock.forward(Duration::from_secs(2));
    assert_eq!(office.window_now(), 86_400);
    shorten(&office, 90_000).await;
    assert_eq!(office.window_now(), 90_000, "a longer one counts at once");
    // One person alone changes it at once, as they change policy at once.
    let solo = Office::solo().await;
    shorten(&solo, 3600).await;
    shorten(&solo, 0).await;
    assert_eq!(solo.window_now(), 0);
}

/// The bundle that ships, under which two must agree to a change of policy, or SECURITY lifts that.
fn liftable() -> Files {
    let mut files = with_rule("policy-change", |rule| {
        rule["quorum"]["persons"] = 2.into();
        rule["break_glass"] = json!({ "authority": { "roles": ["SECURITY"] }, "review_within_s": 3600 });
    });
    files.get_mut("policies.cedar").unwrap().push_str(
        r#"
@id("security-breaks-glass")
permit (principal is Countersign::Person, action == Countersign::Action::"breakGlass", resource is Countersign::Item)
when { principal in Countersign::Role::"SECURITY" && resource.open };
"#,
    );
    files
}

/// A later one: a merge takes so many persons.
fn later(persons: u32) -> Files {
    let mut files = liftable();
    let mut rules: serde_json::Value = serde_json::from_str(&files["rules.json"]).unwrap();
    rules["rules"]["merge"]["quorum"]["persons"] = persons.into();
    files.insert("rules.json".to_owned(), serde_json::to_string(&rules).unwrap());
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_whose_gate_is_lifted_open_says_so_in_its_entry() {
    let office = Office::four_eyes().await;
    office.world.policies.install(org(1), &liftable());
    office.window(0).await;
    let sara = office.world.person("sara", &["SECURITY"]);
    let proposed = office.propose(&later(2), None).await.unwrap();
    let gate = proposed.gate.unwrap();
    let request = LiftRequest {
        rule: crate::world::name("policy-change"),
        item: None,
        justification: "the rule in force stops every refund".to_owned(),
        shown_digest: office.world.engine.gate(&sara, gate).await.unwrap().shown_digest,
        role: None,
        assertion: None,
    };
    let own = office.world.engine.break_glass(Arc::clone(&office.ada), gate, request.clone(), None).await.unwrap();
    assert_eq!(own.answer.effect, Effect::NotEligible, "whoever proposes it does not lift it");
    let lifted = office.world.engine.break_glass(Arc::clone(&sara), gate, request, None).await.unwrap();
    assert_eq!((lifted.answer.effect, lifted.answer.state), (Effect::Resolving, State::Completed));
    let done = office.read(proposed.id).await;
    assert_eq!((done.state, done.break_glass, office.in_force()), ("activated", true, proposed.bundle));
    let query = EntryQuery { limit: 500, ..EntryQuery::default() };
    let entries = office.world.engine.entries(&office.ada, query).await.unwrap().items;
    let activated = entries.iter().rfind(|entry| entry.kind == "policy").unwrap();
    assert_eq!((&activated.body["step"], &activated.body["break_glass"]), (&json!("activated"), &json!(true)));
    assert_eq!(office.world.engine.reviews(&sara, false, None, 10).await.unwrap().items.len(), 1);
    // The next one, approved by two, says nothing of the kind.
    let next = office.propose(&later(3), None).await.unwrap();
    for who in [&office.grace, &sara] {
        office.world.decide(who, next.gate.unwrap(), Deciding::Approve).await.unwrap();
    }
    let next = office.read(next.id).await;
    assert_eq!((next.state, next.break_glass), ("activated", false));
    office.holds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_is_cut_short_by_breaking_the_glass_and_in_no_other_way() {
    let office = Office::four_eyes().await;
    office.world.policies.install(org(1), &liftable());
    let sara = office.world.person("sara", &["SECURITY"]);
    let proposed = office.propose(&later(2), None).await.unwrap();
    assert_eq!(proposed.state, "shadowing");
    let glass = |rule: &str, diff_digest| PolicyGlass {
        rule: crate::world::name(rule),
        justification: "the rule in force stops every refund".to_owned(),
        diff_digest,
        role: None,
    };
    let cut = |who: &Arc<Principal>, glass, key| {
        let (engine, who) = (office.world.engine.clone(), Arc::clone(who));
        async move { engine.break_glass_policy(who, proposed.id, glass, key).await }
    };
    let right = || glass("policy-change", proposed.diff_digest);
    assert_eq!(code(cut(&sara, glass("policy-change", Digest([7; 32])), None).await), "diff-unconfirmed");
    assert_eq!(code(cut(&office.grace, right(), None).await), "rule-not-liftable", "its data names others");
    assert_eq!(code(cut(&sara, glass("merge", proposed.diff_digest), None).await), "rule-not-liftable");
    let blank = PolicyGlass { justification: " ".to_owned(), ..right() };
    assert_eq!(code(cut(&sara, blank, None).await), "justification-blank");
    assert_eq!(office.read(proposed.id).await.state, "shadowing", "nothing of that ends the window");

    office.world.clock.forward(Duration::from_secs(60));
    let key = Some(Idempotency { key: "once".to_owned(), request: Digest([1; 32]) });
    let lifted = cut(&sara, right(), key.clone()).await.unwrap();
    assert_eq!(lifted.answer.effect, Effect::Resolving);
    let again = cut(&sara, right(), key).await.unwrap();
    assert_eq!(again.answer.decision, lifted.answer.decision);
    let done = office.read(proposed.id).await;
    assert_eq!((done.state, done.break_glass, office.in_force()), ("activated", true, proposed.bundle));
    assert!(done.compared.is_some(), "what the window has shown so far is told");
    assert_eq!(code(cut(&sara, right(), None).await), "parameter-invalid");
    office.holds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_cut_short_for_nothing_fails_the_proposal() {
    let office = Office::four_eyes().await;
    // Policy says yes while nobody is asked, and no once the gate is there: what it rests on has changed in between.
    let mut files = liftable();
    let policies = files.get_mut("policies.cedar").unwrap();
    let running = "resource.open && resource.instance.state == Countersign::State::\"RUNNING\" };";
    *policies = policies.replace("resource.open };", running);
    office.world.policies.install(org(1), &files);
    let before = office.in_force();
    let sara = office.world.person("sara", &["SECURITY"]);
    let proposed = office.propose(&later(2), None).await.unwrap();
    let glass = PolicyGlass {
        rule: crate::world::name("policy-change"),
        justification: "the rule in force stops every refund".to_owned(),
        diff_digest: proposed.diff_digest,
        role: None,
    };
    let lifted = office.world.engine.break_glass_policy(sara, proposed.id, glass, None).await.unwrap();
    assert_eq!(lifted.answer.effect, Effect::NotEligible);
    let failed = office.until(proposed.id, "failed").await;
    assert_eq!(failed.reason.as_deref(), Some("its window was cut short, and no rule was lifted"));
    office.ended(&failed, State::Terminated).await;
    assert_eq!(office.in_force(), before);
    office.holds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_runs_on_where_policy_or_the_rule_lets_nobody_cut_it() {
    let office = Office::four_eyes().await;
    // The data names SECURITY; policy permits it to nobody.
    let mut files = liftable();
    let policies = files.get_mut("policies.cedar").unwrap();
    *policies = policies.replace("Role::\"SECURITY\" && resource.open };", "Role::\"STOP\" && resource.open };");
    office.world.policies.install(org(1), &files);
    let sara = office.world.person("sara", &["SECURITY"]);
    let proposed = office.propose(&later(2), None).await.unwrap();
    let glass = |role: Option<&str>| PolicyGlass {
        rule: crate::world::name("policy-change"),
        justification: "the rule in force stops every refund".to_owned(),
        diff_digest: proposed.diff_digest,
        role: role.map(crate::world::name),
    };
    let cut = |role| office.world.engine.break_glass_policy(Arc::clone(&sara), proposed.id, glass(role), None);
    let refusals = async || {
        let query = EntryQuery { limit: 500, ..EntryQuery::default() };
        let entries = office.world.engine.entries(&office.ada, query).await.unwrap().items;
        entries.iter().filter(|entry| entry.kind == "refusal" && entry.body["tool"] == "breakGlass").count()
    };
    assert_eq!(code(cut(Some("STOP")).await), "parameter-invalid", "a role that is not held");
    assert_eq!(refusals().await, 0);
    assert_eq!(code(cut(None).await), "policy-denied");
    assert_eq!(refusals().await, 1, "it is on record who tried");
    assert_eq!(office.read(proposed.id).await.state, "shadowing");

    // What must be signed is signed at its gate.
    let mut files = liftable();
    let mut rules: serde_json::Value = serde_json::from_str(&files["rules.json"]).unwrap();
    rules["rules"]["policy-change"]["demand"] = json!({ "assertion": true });
    files.insert("rules.json".to_owned(), serde_json::to_string(&rules).unwrap());
    office.world.policies.install(org(1), &files);
    let error = cut(None).await.unwrap_err();
    assert_eq!(error.code(), "rule-not-liftable");
    assert!(error.to_string().contains("wait for its gate"), "{error}");
    assert_eq!(office.read(proposed.id).await.state, "shadowing", "nothing of that ends the window");
    office.holds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_about_a_supposed_item_is_asked_again_by_a_backtest() {
    let office = Office::four_eyes().await;
    // The data names SECURITY; policy permits it to nobody.
    let mut closed = liftable();
    let policies = closed.get_mut("policies.cedar").unwrap();
    *policies = policies.replace("Role::\"SECURITY\" && resource.open };", "Role::\"STOP\" && resource.open };");
    office.world.policies.install(org(1), &closed);
    let sara = office.world.person("sara", &["SECURITY"]);
    let proposed = office.propose(&later(2), None).await.unwrap();
    let glass = PolicyGlass {
        rule: crate::world::name("policy-change"),
        justification: "the rule in force stops every refund".to_owned(),
        diff_digest: proposed.diff_digest,
        role: None,
    };
    let cut = office.world.engine.break_glass_policy(sara, proposed.id, glass, None).await;
    assert_eq!(code(cut), "policy-denied");
    // The item was never there, and is gone: what was said of it is with the question.
    let ask = async |files: &Files| {
        let turn = office.world.engine.begin_backtest(&office.ada, bytes(files)).await.unwrap();
        let report = turn.run(BacktestWindow::default(), |_| ControlFlow::Continue(())).await.unwrap().unwrap();
        assert_eq!(report.all.not_computable, 0, "{report:#?}");
        report.by_tool["breakGlass"].clone()
    };
    let same = ask(&closed).await;
    assert_eq!((same.unchanged, same.changes()), (1, 0), "{same:?}");
    let open = ask(&liftable()).await;
    assert_eq!((open.unchanged, open.changed.get(&Shift::DenyToAllow)), (0, Some(&1)), "{open:?}");
    office.holds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_authority_mode_is_lowered_by_an_entry_of_its_own_and_stays_so_until_it_is_raised() {
    let mut office = Office::four_eyes().await;
    let (one, statement) = (org(1), json!({ "statement": "signed by the root keys" }));
    let mode = |office: &Office| office.world.engine.policy(&office.ada).unwrap().authority;
    assert_eq!((mode(&office), office.world.engine.four_eyes_since(one).await.unwrap()), ("four_eyes", 0));
    let receipt = office.world.engine.lower_authority(one, statement.clone()).await.unwrap();
    assert_eq!(mode(&office), "solo");
    let again = office.world.engine.lower_authority(one, statement.clone()).await.unwrap_err();
    assert_eq!(again.to_string(), "the authority mode is `solo`: there is nothing to lower");
    assert!(office.world.engine.four_eyes_since(one).await.is_err());
    let query = EntryQuery { limit: 500, ..EntryQuery::default() };
    let entries = office.world.engine.entries(&office.ada, query.clone()).await.unwrap().items;
    let entry = entries.iter().find(|entry| entry.index == receipt.index).unwrap();
    assert_eq!(entry.kind, "settings");
    assert!(entry.verdict.is_none(), "nobody is asked who may");
    assert_eq!(entry.body["setting"], "authority");
    let pack = office.world.engine.pack(&office.ada, true).await.unwrap();
    let report = verify_evidence(&office.world.root_vkey(one), &pack).unwrap().render();
    assert!(report.contains(&format!("changed at entry {}", receipt.index)), "{report}");
    // A start reads it from the ledger; and one person alone changes policy again.
    office.world.restart().await;
    assert_eq!(mode(&office), "solo");
    let files = other(2);
    assert_eq!(office.propose(&files, Some(confirmed(&files))).await.unwrap().state, "activated");
    // Raised again, it is raised since another entry: what was signed before is good for nothing.
    let raised = office.world.engine.raise_authority(Arc::clone(&office.ada), None).await.unwrap();
    assert_eq!(office.world.engine.four_eyes_since(one).await.unwrap(), raised.index);
    // Raising what is raised changes nothing, and voids no statement that is carried round for signatures.
    office.world.engine.raise_authority(Arc::clone(&office.ada), None).await.unwrap();
    assert_eq!(office.world.engine.four_eyes_since(one).await.unwrap(), raised.index);
    office.world.restart().await;
    assert_eq!(mode(&office), "four_eyes");
    office.holds().await;
}

/// The bundle that ships, under which so many persons must agree to a change of policy.
fn changed_by_persons(persons: u32) -> Files {
    with_rule("policy-change", |rule| rule["quorum"]["persons"] = persons.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_policy_is_judged_by_the_policy_in_force_and_never_by_itself() {
    let office = Office::four_eyes().await;
    office.world.policies.install(org(1), &changed_by_persons(2));
    office.window(0).await;
    let hal = office.world.person("hal", &["POLICY_ADMIN"]);
    // Under the candidate one would do.
    let waiting = office.propose(&changed_by_persons(1), None).await.unwrap();
    assert_eq!(waiting.state, "waiting");
    let (gate, before) = (waiting.gate.unwrap(), office.in_force());
    let own = office.world.decide(&office.ada, gate, Deciding::Approve).await.unwrap();
    assert_eq!(own.effect, Effect::NotEligible);
    let first = office.world.decide(&office.grace, gate, Deciding::Approve).await.unwrap();
    assert_eq!((first.effect, first.remaining[0].quorum, office.in_force()), (Effect::Counted, 2, before));
    let second = office.world.decide(&hal, gate, Deciding::Approve).await.unwrap();
    assert_eq!((second.effect, second.state), (Effect::Resolving, State::Completed));
    assert_eq!(office.read(waiting.id).await.state, "activated");
    // From here on one does: what was not asked of the candidate is asked of its followers.
    let next = office.propose(&other(2), None).await.unwrap();
    let alone = office.world.decide(&office.grace, next.gate.unwrap(), Deciding::Approve).await.unwrap();
    assert_eq!((alone.effect, office.in_force()), (Effect::Resolving, next.bundle));
    office.holds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_under_which_one_person_alone_could_change_it_is_not_even_proposed() {
    let office = Office::four_eyes().await;
    office.window(0).await;
    let mut loose = default_files();
    loose.retain(|path, _| !path.starts_with("tests/"));
    let text = loose.get_mut("policies.cedar").unwrap();
    for policy in ["gate-policy-change", "unchecked-policy"] {
        let from = text.find(&format!("@id(\"{policy}\")")).unwrap();
        let end = from + text[from..].find(";\n").unwrap() + 2;
        text.replace_range(from..end, "");
    }
    let mut rules: serde_json::Value = serde_json::from_str(&loose["rules.json"]).unwrap();
    rules["rules"].as_object_mut().unwrap().remove("policy-change").unwrap();
    loose.insert("rules.json".to_owned(), rules.to_string());
    let before = office.in_force();
    assert_eq!(code(office.propose(&loose, None).await), "bundle-locks-out");
    assert_eq!(office.in_force(), before);
}
