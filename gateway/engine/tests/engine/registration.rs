//! Registrations of tools that people are asked about: their gate, what is approved, and what never comes into force.

use std::sync::Arc;
use std::time::Duration as Span;

use countersign_gateway_engine::{
    Definition, Effect, EngineError, EntryQuery, ToolRegistration, ToolsChanged, ToolsRequest, Words, verify_evidence,
};
use countersign_gateway_model::{Digest, Duration, GateId, InstanceId, Principal, Scope, State};
use serde_json::json;

use crate::bench::{default_files, with_rule};
use crate::faulty::Fault;
use crate::tools::{approved_registration, internal, register, schema, tickets};
use crate::world::{Deciding, World, name, org};

struct Desk {
    world: World,
    /// Registers.
    sam: Arc<Principal>,
    /// Approves.
    grace: Arc<Principal>,
}

impl Desk {
    async fn open() -> Self {
        let world = World::under(&approved_registration()).await;
        let sam = world.person("sam", &["SECURITY", "ADMIN", "AUDITOR", "OPERATOR", "POLICY_ADMIN"]);
        let grace = world.person("grace", &["POLICY_ADMIN"]);
        Self { world, sam, grace }
    }

    async fn asks(&self) -> ToolRegistration {
        waiting(register(&self.world, &self.sam, tickets(schema(), internal())).await.unwrap())
    }

    async fn registers(&self, tools: Vec<Definition>) -> Result<ToolsChanged, EngineError> {
        self.world.engine.change_tools(Arc::clone(&self.sam), ToolsRequest::Register(tools)).await
    }

    /// A registration that was asked for and approved.
    async fn approved(&self, tools: Vec<Definition>) {
        let asked = waiting(self.registers(tools).await.unwrap());
        self.world.decide(&self.grace, gate(&asked), Deciding::Approve).await.unwrap();
        assert_eq!(self.read(asked.id).await.state, "activated");
    }

    async fn shown(&self, asked: &ToolRegistration) -> String {
        self.world.engine.gate(&self.grace, gate(asked)).await.unwrap().view
    }

    /// Lets the gateway's clock loop run into something that goes wrong once, and starts another on the same folder.
    async fn crashes_at_its_next_step(&mut self) {
        *self.world.faults.lock().unwrap() = Some(Fault::StoredAndLost);
        let timers = tokio::spawn(self.world.engine.clone().run_timers());
        for _ in 0..400 {
            if self.world.faults.lock().unwrap().is_none() {
                break;
            }
            tokio::time::sleep(Span::from_millis(25)).await;
        }
        timers.abort();
        assert!(self.world.faults.lock().unwrap().is_none(), "a step was taken");
        self.world.restart().await;
    }

    /// A registration that needed nobody once it was its turn, permitted and not begun: the gateway crashed in between.
    async fn permitted_without_people(&mut self) -> ToolRegistration {
        self.world.engine.freeze(Arc::clone(&self.sam), None, false, None).await.unwrap();
        let asked = self.asks().await;
        self.world.policies.install(org(1), &default_files());
        self.world.engine.freeze(Arc::clone(&self.sam), None, true, None).await.unwrap();
        self.crashes_at_its_next_step().await;
        self.crashes_at_its_next_step().await;
        asked
    }

    async fn read(&self, id: InstanceId) -> ToolRegistration {
        self.world.engine.tool_registration(&self.sam, id).await.unwrap()
    }

    fn in_force(&self) -> Digest {
        self.world.engine.snapshot(org(1)).digests().catalogue
    }

    /// Lets the gateway's clock loop run until a registration is as far as this, and its instance too.
    async fn until(&self, id: InstanceId, state: &str, ended: State) -> ToolRegistration {
        let timers = tokio::spawn(self.world.engine.clone().run_timers());
        let mut seen = self.read(id).await;
        for _ in 0..400 {
            // While work is frozen its instance is not there yet.
            let there = self.world.engine.instance(&self.sam, id).await;
            // An end is told before it is on record.
            let recorded = state == "waiting" || words(&seen).last() == Some(&state);
            if seen.state == state && recorded && there.is_ok_and(|instance| instance.state == ended) {
                break;
            }
            tokio::time::sleep(Span::from_millis(25)).await;
            seen = self.read(id).await;
        }
        timers.abort();
        // Row and state are of one append: read after the state, the row has its gate.
        seen = self.read(id).await;
        assert_eq!((seen.state, self.world.state(&self.sam, id).await), (state, ended), "{seen:?}");
        seen
    }

    /// The steps of catalogues on record, in order.
    async fn steps(&self) -> Vec<String> {
        let query = EntryQuery { limit: 500, ..EntryQuery::default() };
        let entries = self.world.engine.entries(&self.sam, query).await.unwrap().items;
        let catalogue = entries.iter().filter(|entry| entry.kind == "catalogue");
        catalogue.map(|entry| entry.body["step"].as_str().unwrap().to_owned()).collect()
    }

    /// Every verdict on record is what comes out of what is stored; an auditor who has nothing else finds nothing wrong.
    async fn holds(&self) {
        let query = EntryQuery { limit: 500, ..EntryQuery::default() };
        for entry in self.world.engine.entries(&self.sam, query).await.unwrap().items {
            if entry.verdict.is_some() {
                let again = self.world.engine.replay(&self.sam, entry.index).await.unwrap();
                assert_eq!(again.computed.as_ref(), Some(&again.stored), "entry {} {}", entry.index, entry.kind);
            }
        }
        let pack = self.world.engine.pack(&self.sam, true).await.unwrap();
        let report = verify_evidence(&self.world.root_vkey(org(1)), &pack).unwrap();
        assert_eq!(report.verdict.as_str(), "VALID", "{report:?}");
    }
}

/// What people are asked about, and nothing has changed.
fn waiting(answer: ToolsChanged) -> ToolRegistration {
    assert!(answer.receipt.is_none(), "{answer:?}");
    let registration = answer.registration.unwrap();
    assert_eq!(registration.state, "waiting");
    registration
}

fn words(registration: &ToolRegistration) -> Vec<&'static str> {
    registration.steps.iter().map(|step| step.step).collect()
}

fn code<T: std::fmt::Debug>(answer: Result<T, EngineError>) -> &'static str {
    answer.unwrap_err().code()
}

fn gate(registration: &ToolRegistration) -> GateId {
    registration.gate.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_that_people_must_approve_are_in_force_once_somebody_else_approved_them() {
    let desk = Desk::open().await;
    let before = desk.in_force();
    let asked = desk.asks().await;
    let shown = desk.world.engine.gate(&desk.grace, gate(&asked)).await.unwrap().view;
    for told in [
        "put tool catalogue version 2 in force",
        "tickets.create of server tickets: added",
        "risk       4 of 4",
        "data       internal",
        "scopes     notes:write",
        "input      schema ",
        "person/sam",
        "the gateway carries it out at once",
    ] {
        assert!(shown.contains(told), "{told}: {shown}");
    }
    let version = asked.words.lines().find(|line| line.contains("version ")).unwrap();
    assert!(shown.contains(version.trim()), "{shown}");
    assert!(!shown.contains("Supplied by"), "{shown}");
    assert_eq!(
        (desk.in_force(), desk.world.engine.tools(&desk.sam).unwrap().len()),
        (before, {
            let known = desk.world.engine.snapshot(org(1));
            known.tools().count()
        })
    );
    assert!(desk.world.engine.tool(&desk.sam, &name("tickets.create")).is_err(), "an unlisted tool is unknown");
    // Nobody else begins or ends what is the gateway's to do.
    let item = desk.world.engine.gate(&desk.grace, gate(&asked)).await.unwrap().gate.items[0].clone();
    assert_eq!(code(desk.world.engine.begin(Arc::clone(&desk.sam), item.action, None).await), "not-found");

    let decided = desk.world.decide(&desk.grace, gate(&asked), Deciding::Approve).await.unwrap();
    assert_eq!(decided.state, State::Completed, "the gateway carried it out before it answered");
    let done = desk.read(asked.id).await;
    assert_eq!((done.state, done.catalogue), ("activated", desk.in_force()));
    assert_eq!(words(&done), ["proposed", "checked", "tested", "approved", "activated"]);
    assert_eq!(desk.steps().await, ["proposed", "checked", "tested", "approved", "activated"]);
    assert_eq!(desk.world.engine.tool(&desk.sam, &name("tickets.create")).unwrap().tool.risk, 4);
    desk.holds().await;

    // Taking a tool from the list goes the same way.
    let retired = ToolsRequest::Retire(name("tickets.create"));
    let retired = waiting(desk.world.engine.change_tools(Arc::clone(&desk.sam), retired).await.unwrap());
    assert!(retired.words.contains("tickets.create of server tickets: retired"), "{}", retired.words);
    desk.world.decide(&desk.grace, gate(&retired), Deciding::Approve).await.unwrap();
    assert!(desk.world.engine.tool(&desk.sam, &name("tickets.create")).is_err());
    assert_eq!(desk.in_force(), before, "the catalogue that was");
}

#[tokio::test(flavor = "multi_thread")]
async fn under_four_eyes_whoever_registers_a_tool_does_not_approve_it() {
    let desk = Desk::open().await;
    desk.world.engine.raise_authority(Arc::clone(&desk.sam), None).await.unwrap();
    let before = desk.in_force();
    let asked = desk.asks().await;
    let own = desk.world.decide(&desk.sam, gate(&asked), Deciding::Approve).await.unwrap();
    assert_eq!(own.effect, Effect::NotEligible);
    assert_eq!((desk.read(asked.id).await.state, desk.in_force()), ("waiting", before));
    let others = desk.world.decide(&desk.grace, gate(&asked), Deciding::Approve).await.unwrap();
    assert_eq!(others.state, State::Completed);
    assert_eq!(desk.in_force(), asked.catalogue);
    desk.holds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_an_expired_and_a_withdrawn_registration_change_nothing_and_say_why() {
    let desk = Desk::open().await;
    let before = desk.in_force();
    let rejected = desk.asks().await;
    desk.world.decide(&desk.grace, gate(&rejected), Deciding::Reject).await.unwrap();
    let told = desk.read(rejected.id).await;
    assert_eq!((told.state, told.reason.as_deref()), ("failed", Some("it was rejected")), "from the decision on");
    let rejected = desk.until(rejected.id, "failed", State::Terminated).await;
    assert_eq!(rejected.reason.as_deref(), Some("it was rejected"));

    let expired = desk.asks().await;
    let until = desk.world.engine.gate(&desk.sam, gate(&expired)).await.unwrap().gate.expires.unwrap();
    desk.world.clock.forward(Duration(until.0 - desk.world.engine.now().0 + 1000));
    let expired = desk.until(expired.id, "failed", State::Terminated).await;
    assert_eq!(expired.reason.as_deref(), Some("nobody approved it in time"));

    let withdrawn = desk.asks().await;
    desk.world.engine.terminate(Arc::clone(&desk.sam), withdrawn.id, None).await.unwrap();
    assert_eq!(desk.read(withdrawn.id).await.state, "withdrawn");
    desk.until(withdrawn.id, "withdrawn", State::Terminated).await;
    assert_eq!(desk.in_force(), before);
    let steps = desk.steps().await;
    let ends: Vec<&String> = steps.iter().filter(|step| ["failed", "withdrawn"].contains(&step.as_str())).collect();
    assert_eq!(ends, ["failed", "failed", "withdrawn"]);
    desk.holds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_whose_catalogue_was_replaced_meanwhile_fails_and_says_so() {
    let desk = Desk::open().await;
    let first = desk.asks().await;
    let other = tickets(schema(), Words { risk: Some(1), ..internal() });
    let sue = desk.world.person("sue", &["SECURITY"]);
    let second = waiting(register(&desk.world, &sue, other).await.unwrap());
    assert_ne!((first.id, first.catalogue), (second.id, second.catalogue));
    desk.world.decide(&desk.grace, gate(&second), Deciding::Approve).await.unwrap();
    let decided = desk.world.decide(&desk.grace, gate(&first), Deciding::Approve).await.unwrap();
    assert!(decided.state.is_terminal());
    let first = desk.read(first.id).await;
    assert_eq!((first.state, words(&first).last()), ("failed", Some(&"failed")));
    assert_eq!(first.reason.as_deref(), Some("the tool catalogue changed meanwhile: register it again"));
    assert_eq!(desk.in_force(), second.catalogue);
    desk.holds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_registration_again_finds_the_gate_that_is_open() {
    let desk = Desk::open().await;
    let first = desk.asks().await;
    let on_record = desk.steps().await;
    let again = desk.asks().await;
    assert_eq!((again.id, again.gate), (first.id, first.gate));
    assert_eq!(desk.steps().await, on_record, "the ledger says it once");
    // Another account's is its own.
    let sue = desk.world.person("sue", &["SECURITY"]);
    let others = waiting(register(&desk.world, &sue, tickets(schema(), internal())).await.unwrap());
    assert_ne!(others.id, first.id);
    // Once it is decided, the same is asked about anew.
    desk.world.decide(&desk.grace, gate(&first), Deciding::Reject).await.unwrap();
    desk.until(first.id, "failed", State::Terminated).await;
    assert_ne!(desk.asks().await.id, first.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_waits_through_a_restart_and_a_freeze() {
    let mut desk = Desk::open().await;
    desk.world.engine.freeze(Arc::clone(&desk.sam), None, false, None).await.unwrap();
    let asked = waiting(register(&desk.world, &desk.sam, tickets(schema(), internal())).await.unwrap());
    assert_eq!(asked.gate, None, "while work is frozen it is on record, and nobody is asked");
    desk.world.restart().await;
    desk.world.engine.freeze(Arc::clone(&desk.sam), None, true, None).await.unwrap();
    let waits = desk.until(asked.id, "waiting", State::WaitingForHuman).await;
    desk.world.restart().await;
    desk.world.decide(&desk.grace, gate(&waits), Deciding::Approve).await.unwrap();
    assert_eq!(desk.in_force(), asked.catalogue);
    desk.holds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_register_opens_no_gate_and_who_acts_for_another_is_told_so() {
    let desk = Desk::open().await;
    let ada = desk.world.person("ada", &["ADMIN", "AUDITOR"]);
    let none = Definition { ..tickets(schema(), internal()) };
    assert_eq!(code(register(&desk.world, &ada, none.clone()).await), "policy-denied");
    let mut behalf = (*desk.sam).clone();
    behalf.on_behalf_of = vec![countersign_gateway_model::Delegator {
        kind: desk.sam.kind,
        id: desk.sam.id.clone(),
        pseudonym: desk.sam.pseudonym,
    }];
    behalf.scopes = vec![Scope::Act];
    assert_eq!(code(register(&desk.world, &Arc::new(behalf), none).await), "approval-unavailable");
    assert_eq!(desk.steps().await, Vec::<String>::new());
    // What another organization waits for is nobody's to read here, nor what there is not.
    let asked = desk.asks().await;
    let agent = desk.world.agent("robot", &desk.sam);
    assert_eq!(code(desk.world.engine.tool_registration(&agent, asked.id).await), "not-found");
    let proposals = desk.world.engine.policy_proposals(&desk.sam, None, 10).await.unwrap();
    assert!(proposals.items.is_empty(), "it is no proposal of a policy");
    assert_eq!(code(desk.world.engine.policy_proposal(&desk.sam, asked.id).await), "not-found");
    let spec = json!({ "id": "countersign.tool-registration", "version": "2" });
    let spec = serde_json::from_value(spec).unwrap();
    assert_eq!(code(desk.world.engine.register_workflow(Arc::clone(&desk.sam), spec).await), "parameter-invalid");
}

fn named(tool: &str) -> Definition {
    Definition { name: name(tool), ..tickets(schema(), internal()) }
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_that_stay_as_they_are_push_no_changed_tool_out_of_the_view() {
    let desk = Desk::open().await;
    let many: Vec<Definition> = (0..25).map(|n| named(&format!("a.t{n}"))).collect();
    desk.approved(many.clone()).await;
    let more: Vec<Definition> = (0..25).map(|n| named(&format!("b.t{n}"))).collect();
    desk.approved(more.clone()).await;
    let all = many.into_iter().chain(more).chain([named("z.exec")]).collect();
    let asked = waiting(desk.registers(all).await.unwrap());
    let shown = desk.shown(&asked).await;
    assert!(shown.contains("|   added        z.exec\n"), "{shown}");
    assert!(shown.contains("z.exec of server z: added"), "{shown}");
    assert!(!shown.contains("a.t1"), "what stays as it is takes no line: {shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_of_more_than_one_view_holds_opens_no_gate_and_says_what_to_do() {
    let desk = Desk::open().await;
    let many: Vec<Definition> = (0..60).map(|n| named(&format!("a.t{n}"))).collect();
    let refused = desk.registers(many.clone()).await.unwrap_err();
    assert_eq!(refused.code(), "tools-invalid");
    let EngineError::Tools(found) = refused else { panic!("{refused:?}") };
    assert!(found.to_string().contains("register fewer at a time"), "{found}");
    assert_eq!(desk.steps().await, Vec::<String>::new());
    let gates = desk.world.engine.gates(&desk.grace, countersign_gateway_engine::GateQuery::default()).await.unwrap();
    assert!(gates.items.is_empty(), "{gates:?}");
    // Fewer are asked about, and the view names each, whole.
    let asked = waiting(desk.registers(many[..20].to_vec()).await.unwrap());
    let shown = desk.shown(&asked).await;
    for tool in &many[..20] {
        assert!(shown.contains(&format!("|   added        {}\n", tool.name)), "{shown}");
        assert!(shown.contains(&format!("{} of server a: added", tool.name)), "{shown}");
    }
    assert!(!shown.contains("more lines"), "{shown}");
}

fn runner(command: &[&str], more: &serde_json::Value) -> countersign_gateway_engine::ToolRunner {
    let mut runner = json!({ "kind": "process", "environment": "sandbox", "command": command });
    runner.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(runner).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_view_of_a_registration_shows_all_that_a_runner_gets_and_cuts_nothing_of_it() {
    let desk = Desk::open().await;
    let long = format!("{}END", "x".repeat(2500));
    let with = runner(
        &["sh", "-c", "a b", "one\nRisk: none", &long],
        &json!({ "environment": "production", "deadline_s": 77, "secrets": { "TOKEN": "secret://vault/prod/root" } }),
    );
    let asked = waiting(desk.registers(vec![Definition { runner: Some(with), ..named("a.run") }]).await.unwrap());
    let shown = desk.shown(&asked).await;
    for told in [
        "done by    a runner of kind process",
        "runs in    production",
        "deadline   77 seconds",
        "secret TOKEN secret:\\u{2f}/vault/prod/root",
        "command    5 arguments, ",
        "argument   1 of 5, 2 characters: sh\n",
        "argument   2 of 5, 2 characters: -c\n",
        "argument   3 of 5, 3 characters: a b\n",
        "argument   4 of 5, 14 characters: one\\u{a}Risk: none\n",
        "argument   5 of 5, 2503 characters, part 1 of 5: xxx",
        "argument   5 of 5, 2503 characters, part 5 of 5: ",
        "END\n",
    ] {
        assert!(shown.contains(told), "{told}: {shown}");
    }
    let argument = |line: &str| line.split_once("part ").and_then(|(_, part)| part.split_once(": ")).map(|p| p.1.len());
    assert_eq!(shown.lines().filter_map(argument).sum::<usize>(), 2503, "not one character is missing: {shown}");
    assert!(shown.lines().filter(|line| line.starts_with("|   argument")).count() == 9, "{shown}");
    for line in asked.words.lines() {
        assert!(shown.contains(line), "whoever reads the registration reads what is shown: {line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_that_was_listed_before_is_shown_with_what_it_was_and_what_it_becomes() {
    let desk = Desk::open().await;
    let secrets = json!({ "secrets": { "KEY": "secret://env/ONE", "OLD": "secret://env/OLD" } });
    let first = Definition { runner: Some(runner(&["ls"], &secrets)), ..named("a.run") };
    desk.approved(vec![first.clone()]).await;
    let words = Words {
        risk: Some(0),
        data_class: Some(countersign_gateway_engine::DataClass::Public),
        scopes: Some(vec![name("other:scope")]),
        mutable_target: Some(true),
    };
    let asked = waiting(desk.registers(vec![Definition { words, ..first.clone() }]).await.unwrap());
    let shown = desk.shown(&asked).await;
    for told in [
        "reclassified a.run",
        "risk       from 4 of 4 to 0 of 4",
        "data       from internal to public",
        "scopes     from notes:write to other:scope",
        "target     from has a revision to has no revision",
        "argument   1 of 1, 2 characters: ls\n",
    ] {
        assert!(shown.contains(told), "{told}: {shown}");
    }
    assert!(!shown.contains("|   was "), "the command line stays: {shown}");
    desk.world.decide(&desk.grace, gate(&asked), Deciding::Reject).await.unwrap();
    desk.until(asked.id, "failed", State::Terminated).await;

    let changed = runner(
        &["rm", "-rf"],
        &json!({ "environment": "production", "secrets": {
        "KEY": "secret://env/TWO", "NEW": "secret://env/NEW"
    } }),
    );
    let asked = waiting(desk.registers(vec![Definition { runner: Some(changed), ..first }]).await.unwrap());
    let shown = desk.shown(&asked).await;
    for told in [
        "redefined    a.run",
        "runs in    from sandbox to production",
        "was        1 of 1, 2 characters: ls\n",
        "argument   1 of 2, 2 characters: rm\n",
        "argument   2 of 2, 3 characters: -rf\n",
        "secret KEY from secret:\\u{2f}/env/ONE to secret:\\u{2f}/env/TWO",
        "secret NEW secret:\\u{2f}/env/NEW, and none before",
        "secret OLD none any more, before secret:\\u{2f}/env/OLD",
    ] {
        assert!(shown.contains(told), "{told}: {shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_that_was_overtaken_asks_nobody_on_and_is_never_the_same_as_a_later_one() {
    let desk = Desk::open().await;
    let first = desk.asks().await;
    let sue = desk.world.person("sue", &["SECURITY"]);
    let other = tickets(schema(), Words { risk: Some(1), ..internal() });
    let second = waiting(register(&desk.world, &sue, other).await.unwrap());
    desk.world.decide(&desk.grace, gate(&second), Deciding::Approve).await.unwrap();
    // The same tools make the same catalogue, after another one.
    let again = desk.asks().await;
    assert_eq!(again.catalogue, first.catalogue);
    assert_ne!((again.id, again.gate), (first.id, first.gate));
    assert_eq!(again.predecessor, Some(second.catalogue));
    // Nobody has to decide for the first one to end.
    let ended = desk.until(first.id, "failed", State::Terminated).await;
    assert_eq!(ended.reason.as_deref(), Some("the tool catalogue changed meanwhile: register it again"));
    let late = desk.world.decide(&desk.grace, gate(&first), Deciding::Approve).await;
    assert_eq!(code(late), "gate-closed");
    desk.world.decide(&desk.grace, gate(&again), Deciding::Approve).await.unwrap();
    assert_eq!(desk.in_force(), again.catalogue);
    desk.holds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_people_agreed_to_is_what_comes_into_force_whatever_a_row_says() {
    let mut desk = Desk::open().await;
    let before = desk.in_force();
    let asked = desk.asks().await;
    let sue = desk.world.person("sue", &["SECURITY"]);
    let other = waiting(register(&desk.world, &sue, named("z.exec")).await.unwrap());
    assert_eq!((other.predecessor, other.version), (asked.predecessor, asked.version));
    *desk.world.faults.lock().unwrap() = Some(Fault::OtherCatalogue(asked.catalogue, other.catalogue));
    desk.world.restart().await;
    assert_eq!(desk.read(asked.id).await.catalogue, other.catalogue, "the row says another catalogue");
    desk.world.decide(&desk.grace, gate(&asked), Deciding::Approve).await.unwrap();
    let failed = desk.until(asked.id, "failed", State::Terminated).await;
    assert_eq!(failed.reason.as_deref(), Some("people agreed to another catalogue than this"));
    assert_eq!(desk.in_force(), before);
    assert!(desk.world.engine.tool(&desk.sam, &name("z.exec")).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permit_puts_no_other_catalogue_in_force_than_the_one_it_names() {
    let mut desk = Desk::open().await;
    let before = desk.in_force();
    let asked = desk.permitted_without_people().await;
    *desk.world.faults.lock().unwrap() = Some(Fault::OtherCatalogue(asked.catalogue, before));
    desk.world.restart().await;
    let failed = desk.until(asked.id, "failed", State::Terminated).await;
    assert_eq!(failed.reason.as_deref(), Some("its permit is for another catalogue"));
    assert_eq!(desk.in_force(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_that_needed_nobody_is_asked_about_again_before_it_comes_into_force() {
    let mut desk = Desk::open().await;
    let before = desk.in_force();
    let asked = desk.permitted_without_people().await;
    assert_eq!(asked.gate, None);
    // Permitted, and now policy asks for people again.
    desk.world.policies.install(org(1), &approved_registration());
    let failed = desk.until(asked.id, "failed", State::Terminated).await;
    assert_eq!(failed.reason.as_deref(), Some("policy does not allow it by now, or asks for people"));
    assert_eq!(desk.in_force(), before);
    desk.holds().await;

    // Where policy still lets it, it comes into force.
    let mut desk = Desk::open().await;
    let asked = desk.permitted_without_people().await;
    desk.until(asked.id, "activated", State::Completed).await;
    assert_eq!(desk.in_force(), asked.catalogue);
    desk.holds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_has_one_registration_that_waits_and_an_organization_a_bounded_number() {
    let desk = Desk::open().await;
    let first = desk.asks().await;
    let refused = desk.registers(vec![named("z.exec")]).await.unwrap_err();
    assert_eq!(refused.code(), "registration-waiting");
    assert!(matches!(refused, EngineError::RegistrationWaiting(id) if id == first.id), "{refused:?}");
    assert!(refused.to_string().contains(&first.id.to_string()), "{refused}");
    for n in 1..16 {
        let other = desk.world.person(&format!("registrar-{n}"), &["SECURITY"]);
        waiting(register(&desk.world, &other, named("z.exec")).await.unwrap());
    }
    let last = desk.world.person("last", &["SECURITY"]);
    let refused = register(&desk.world, &last, named("z.exec")).await.unwrap_err();
    assert!(matches!(refused, EngineError::RegistrationsWaiting(16)), "{refused:?}");
    // One that is decided makes room, for its account and for others.
    desk.world.decide(&desk.grace, gate(&first), Deciding::Reject).await.unwrap();
    waiting(register(&desk.world, &last, named("z.exec")).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_that_cannot_be_read_is_not_one_that_is_not_there() {
    let desk = Desk::open().await;
    let asked = desk.asks().await;
    *desk.world.faults.lock().unwrap() = Some(Fault::Unreadable);
    assert_eq!(code(desk.world.engine.tool_registration(&desk.sam, asked.id).await), "ledger-unreadable");
    assert_eq!(desk.read(asked.id).await.id, asked.id);
    let none = "inst_0198c7a4e1b27c4e9a3f5d6b7c8d9e0f".parse().unwrap();
    assert_eq!(code(desk.world.engine.tool_registration(&desk.sam, none).await), "not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn registrations_between_proposals_leave_no_page_short() {
    let desk = Desk::open().await;
    desk.world.engine.set_shadow_window(Arc::clone(&desk.sam), 3600, None).await.unwrap();
    let sue = desk.world.person("sue", &["SECURITY"]);
    let mut proposed = Vec::new();
    for (persons, registers) in [(2, Some(&desk.sam)), (3, Some(&sue)), (4, None)] {
        let files = with_rule("merge", |rule| rule["quorum"]["persons"] = persons.into());
        let confirmed = countersign_policy_bundle::sha256(format!("{} files", files.len()).as_bytes());
        let bundle = serde_json::to_vec(&files).unwrap();
        let made = desk.world.engine.propose_policy(Arc::clone(&desk.sam), bundle, Some(confirmed), None).await;
        proposed.insert(0, made.unwrap().id);
        if let Some(who) = registers {
            waiting(register(&desk.world, who, named("z.exec")).await.unwrap());
        }
    }
    let page = desk.world.engine.policy_proposals(&desk.sam, None, 2).await.unwrap();
    assert_eq!(page.items.iter().map(|item| item.id).collect::<Vec<_>>(), proposed[..2]);
    let page = desk.world.engine.policy_proposals(&desk.sam, page.next.as_deref(), 2).await.unwrap();
    assert_eq!(page.items.iter().map(|item| item.id).collect::<Vec<_>>(), proposed[2..]);
    assert_eq!(page.next, None);
}
