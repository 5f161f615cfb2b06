//! The proposal table, row by row: what allow, needs approval and deny make of each proposal, and what is illegal.

use countersign_gateway_flow::*;
use countersign_gateway_model::{Decision as Answer, Outcome, Pseudonym, State, Timestamp, Verdict};
use countersign_ledger_entry::body::{Body, Cause, DecisionKind, Effect, OnDeny, RefusalReason};

use crate::world::*;

fn code<T: std::fmt::Debug>(result: Result<T, Illegal>) -> &'static str {
    result.unwrap_err().code()
}

#[test]
fn start_allowed_runs_in_the_creating_append() {
    let mut w = World::empty();
    assert_eq!(w.create(true, allow()), Ok(Reply::Running));
    assert_eq!((w.shape().as_str(), w.state()), ("created CREATED>RUNNING", State::Running));
}

#[test]
fn start_that_needs_approval_waits_and_gives_no_permit_before_its_end() {
    let mut w = World::empty();
    assert_eq!(w.create(true, needs(&["r"])), Ok(Reply::Waiting { gate: gate(1), actions: Vec::new() }));
    assert_eq!(w.shape(), "created CREATED>RUNNING gate RUNNING>WAITING_FOR_HUMAN");
    let act = w.action(2, allow(), None);
    assert_eq!(code(w.act(vec![act])), "instance-waiting");
    let reply = w.approve(ALICE, &[1]).unwrap();
    assert!(matches!(reply, Reply::Resolved { through: State::Approved, state: State::Running, .. }), "{reply:?}");
    assert_eq!(w.shape(), "decision WAITING_FOR_HUMAN>APPROVED APPROVED>RESUMED RESUMED>RUNNING");
}

#[test]
fn new_start_refused_makes_no_instance_and_the_refusal_goes_to_the_organization() {
    for (answer, reason) in [(deny(), RefusalReason::Policy), (error(), RefusalReason::PolicyError)] {
        let mut w = World::empty();
        assert_eq!(w.create(true, answer), Ok(Reply::Refused(reason)));
        assert!(w.instance.is_none());
        assert!(matches!(&w.organization[0].body, Body::Refusal(r) if r.reason == reason));
        assert!(w.organization[0].verdict.is_some());
    }
}

#[test]
fn queued_start_refused_goes_through_running_to_terminated() {
    let mut w = World::queued();
    assert_eq!((w.shape().as_str(), w.state()), ("created", State::Created));
    assert!(matches!(w.start(deny()), Ok(Reply::Denied { .. })));
    assert_eq!(w.shape(), "refusal CREATED>RUNNING RUNNING>TERMINATED");
    assert_eq!(code(w.start(allow())), "instance-finished");
}

#[test]
fn queued_start_allowed_and_gated() {
    let mut w = World::queued();
    assert_eq!(w.start(allow()), Ok(Reply::Running));
    assert_eq!(w.shape(), "CREATED>RUNNING");
    assert_eq!(code(w.start(allow())), "illegal-transition");
    let mut w = World::queued();
    w.start(needs(&["r"])).unwrap();
    assert_eq!(w.shape(), "CREATED>RUNNING gate RUNNING>WAITING_FOR_HUMAN");
    let act = w.action(2, allow(), None);
    assert_eq!(code(World::queued().act(vec![act])), "instance-queued");
}

#[test]
fn action_allowed_gets_a_permit_which_one_start_consumes() {
    let mut w = World::running();
    let act = w.action(2, allow(), None);
    let permit = act.permit.as_ref().unwrap().permit;
    assert!(matches!(w.act(vec![act]), Ok(Reply::Answered(a)) if matches!(a[0], ActionAnswer::Permitted { .. })));
    assert_eq!(w.shape(), "permit");
    assert_eq!(code(w.report(permit, Outcome::Succeeded)), "start-missing");
    assert_eq!(code(w.sweep(permit)), "start-missing");
    let sequence = w.the().sequence() + 1;
    assert_eq!(w.begin(permit), Ok(Reply::Begun { permit, sequence }));
    assert_eq!(code(w.begin(permit)), "permit-started");
    w.report(permit, Outcome::Succeeded).unwrap();
    assert_eq!(code(w.begin(permit)), "permit-started");
    assert_eq!(code(w.begin(crate::world::permit(4444))), "permit-unknown");
}

#[test]
fn permit_and_start_with_begin_are_adjacent_and_a_dispatch_always_begins() {
    let mut w = World::running();
    w.started(2);
    assert_eq!(w.shape(), "permit start");
    let (agent, run) = (w.agent_start(), w.run_start(3));
    let batch = vec![w.action(3, allow(), Some(run)), w.action(4, allow(), Some(agent)), w.action(5, allow(), None)];
    let Ok(Reply::Answered(answers)) = w.act(batch) else { panic!() };
    assert_eq!(w.shape(), "permit start permit start permit");
    let fence = match w.last()[1] {
        Body::Start(start) => match &start.by {
            countersign_ledger_entry::body::StartedBy::Run(run) => run.fence,
            countersign_ledger_entry::body::StartedBy::Agent => panic!(),
        },
        _ => panic!(),
    };
    assert!(matches!(answers[0], ActionAnswer::Begun { sequence, .. } if sequence == fence));
    let run = w.run_start(3);
    let mut dispatch = w.action(6, allow(), Some(run));
    dispatch.permit.as_mut().unwrap().begin = None;
    assert_eq!(code(w.act(vec![dispatch])), "incomplete");
}

#[test]
fn an_operation_is_asked_gated_and_permitted_like_any_action_and_carried_out_by_the_gateway_alone() {
    let mut w = World::running();
    let allowed = w.operation(2, allow());
    let permit = allowed.permit.as_ref().unwrap().permit;
    assert!(matches!(w.act(vec![allowed]), Ok(Reply::Answered(a)) if matches!(a[0], ActionAnswer::Permitted { .. })));
    assert_eq!(w.shape(), "permit");
    assert_eq!(code(w.begin(permit)), "permit-unknown", "whoever proposed it does not carry it out");
    w.begin_as(Pseudonym::SYSTEM, permit).unwrap();
    assert_eq!(code(w.report(permit, Outcome::Succeeded)), "permit-unknown", "nor says how it ended");
    w.report_as(Pseudonym::SYSTEM, permit, Outcome::Succeeded).unwrap();
    assert_eq!(w.complete(allow()), Ok(Reply::Completed));

    let mut w = World::running();
    let denied = w.operation(2, deny());
    assert!(matches!(w.act(vec![denied]), Ok(Reply::Answered(a)) if matches!(a[0], ActionAnswer::Refused { .. })));
    assert_eq!((w.shape().as_str(), w.the().denials()), ("refusal", 1));
    let gated = w.operation(1, needs(&["r"]));
    w.act(vec![gated]).unwrap();
    assert_eq!(w.shape(), "gate RUNNING>WAITING_FOR_HUMAN");
    let Ok(Reply::Resolved { actions, .. }) = w.approve(ALICE, &[1]) else { panic!() };
    let [ActionAnswer::Permitted { permit, .. }] = actions[..] else { panic!("{actions:?}") };
    assert_eq!(w.shape(), "decision WAITING_FOR_HUMAN>APPROVED APPROVED>RESUMED RESUMED>RUNNING permit");
    assert_eq!(code(w.begin_as(ALICE, permit)), "permit-unknown", "nor does whoever approved it");
    w.begin_as(Pseudonym::SYSTEM, permit).unwrap();

    // It is begun in an append of its own: its proposer is not the one who begins it.
    let mut w = World::running();
    let start = w.agent_start();
    let mut begun = w.operation(3, allow());
    begun.permit.as_mut().unwrap().begin = Some(start);
    assert_eq!(code(w.act(vec![begun])), "incomplete");
}

#[test]
fn a_permit_lapses_at_its_expiry_and_stream_time_never_goes_back() {
    let mut w = World::running();
    let act = w.action(2, allow(), None);
    let terms = act.permit.clone().unwrap();
    w.act(vec![act]).unwrap();
    let other = w.started(3);
    w.at = terms.expires;
    w.clone().begin(terms.permit).unwrap();
    w.at = Timestamp(terms.expires.0 + 1);
    assert_eq!(code(w.begin(terms.permit)), "permit-expired");
    w.report(other, Outcome::Succeeded).unwrap();
    // The clock is set back; the stream has seen a later time.
    w.at = Timestamp(terms.expires.0 - 10);
    assert_eq!(code(w.begin(terms.permit)), "permit-expired");
}

#[test]
fn action_denied_is_refused_counted_and_the_instance_goes_on() {
    let mut w = World::running();
    let mut unknown = w.action(4, deny(), None);
    unknown.tool_version = None;
    let batch = vec![w.action(2, deny(), None), w.action(3, allow(), None), unknown, w.action(5, error(), None)];
    let Ok(Reply::Answered(answers)) = w.act(batch) else { panic!() };
    assert_eq!(w.shape(), "refusal permit refusal refusal");
    let reasons: Vec<_> = answers
        .iter()
        .filter_map(|a| if let ActionAnswer::Refused { reason, .. } = a { Some(*reason) } else { None })
        .collect();
    assert_eq!(reasons, [RefusalReason::Policy, RefusalReason::UnknownTool, RefusalReason::PolicyError]);
    assert_eq!((w.state(), w.the().denials()), (State::Running, 3));
}

#[test]
fn action_denied_ends_the_stricter_workflow_and_permits_nothing_of_the_batch() {
    let mut w = World::empty();
    w.create_with(countersign_ledger_entry::body::Created { on_deny: OnDeny::Terminate, ..created() }, true, allow())
        .unwrap();
    let open = w.started(9);
    let batch = vec![w.action(2, allow(), None), w.action(3, deny(), None), w.action(4, needs(&["r"]), None)];
    let Ok(Reply::Denied { actions, cancel }) = w.act(batch) else { panic!() };
    assert_eq!(w.shape(), "refusal RUNNING>TERMINATED");
    assert_eq!(cancel, [open]);
    assert!(matches!(actions[..], [ActionAnswer::Voided(_), ActionAnswer::Refused { .. }, ActionAnswer::Voided(_)]));
    assert!(!w.the().is_closed());
    w.report(open, Outcome::Cancelled).unwrap();
    assert!(w.the().is_closed());
}

#[test]
fn action_that_needs_approval_waits_and_allowed_ones_of_the_batch_wait_with_it() {
    let mut w = World::running();
    let batch = vec![
        w.action(1, needs(&["r"]), None),
        w.action(2, allow(), None),
        w.action(3, deny(), None),
        w.action(4, needs(&["q"]), None),
    ];
    let Ok(Reply::Waiting { actions, .. }) = w.act(batch) else { panic!() };
    assert!(matches!(
        actions[..],
        [
            ActionAnswer::Waiting { .. },
            ActionAnswer::Cleared(_),
            ActionAnswer::Refused { .. },
            ActionAnswer::Waiting { .. }
        ]
    ));
    assert_eq!(w.shape(), "refusal gate RUNNING>WAITING_FOR_HUMAN");
    let verdict = w.appends.last().unwrap()[1].header.verdict.clone();
    assert_eq!(verdict, Some(Verdict::needs_approval(vec![name("q"), name("r")])));
    assert!(matches!(w.approve(ALICE, &[1]), Ok(Reply::Counted { effect: Effect::Counted, .. })));
    let Ok(Reply::Resolved { actions, .. }) = w.approve(BOB, &[4]) else { panic!() };
    assert_eq!(actions.len(), 3);
    assert_eq!(w.shape(), "decision WAITING_FOR_HUMAN>APPROVED APPROVED>RESUMED RESUMED>RUNNING permit permit permit");
}

#[test]
fn an_approved_dispatch_is_started_in_the_approving_append() {
    let mut w = World::running();
    let run = w.run_start(7);
    let dispatch = w.action(1, needs(&["r"]), Some(run));
    w.act(vec![dispatch]).unwrap();
    w.approve(ALICE, &[1]).unwrap();
    assert_eq!(w.shape(), "decision WAITING_FOR_HUMAN>APPROVED APPROVED>RESUMED RESUMED>RUNNING permit start");
}

#[test]
fn what_needed_nobody_may_be_denied_by_the_time_its_gate_resolves() {
    let mut w = World::running();
    w.open_gate(&[&[rule("r", 1)]], &[2]).unwrap();
    let ballot = w.ballot(DecisionKind::Approve, ALICE, &[(1, Change::Keep)]);
    let mut decide = w.decide(ballot);
    decide.grants[1].cleared = Some(deny());
    w.vote(decide).unwrap();
    assert_eq!(w.shape(), "decision WAITING_FOR_HUMAN>APPROVED APPROVED>RESUMED RESUMED>RUNNING permit refusal");
}

#[test]
fn complete_allowed_gated_and_refused() {
    let mut w = World::running();
    assert_eq!(w.complete(deny()), Ok(Reply::Refused(RefusalReason::Policy)));
    assert_eq!(w.state(), State::Running);
    assert!(matches!(w.complete(needs(&["r"])), Ok(Reply::Waiting { .. })));
    assert_eq!(code(w.complete(allow())), "instance-waiting");
    let mut dropped = w.clone();
    assert!(matches!(w.approve(ALICE, &[1]), Ok(Reply::Resolved { state: State::Completed, .. })));
    assert_eq!(w.shape(), "decision WAITING_FOR_HUMAN>APPROVED APPROVED>RESUMED RESUMED>RUNNING RUNNING>COMPLETED");
    assert_eq!(w.complete(allow()), Ok(Reply::Nothing(State::Completed)));
    // Going on without completing: the instance runs.
    assert!(matches!(dropped.drop_items(ALICE, &[1]), Ok(Reply::Resolved { state: State::Running, .. })));
    assert_eq!(dropped.shape(), "decision WAITING_FOR_HUMAN>OVERRIDDEN OVERRIDDEN>RESUMED RESUMED>RUNNING");
    assert_eq!(dropped.complete(allow()), Ok(Reply::Completed));
    assert_eq!(dropped.shape(), "RUNNING>COMPLETED");
}

#[test]
fn completed_and_waiting_are_refused_while_a_start_is_open_and_list_it() {
    let mut w = World::running();
    let open = w.started(2);
    assert_eq!(w.complete(allow()), Err(Illegal::OpenStarts(vec![open])));
    assert_eq!(w.complete(needs(&["r"])), Err(Illegal::OpenStarts(vec![open])));
    assert_eq!(w.open_gate(&[&[rule("r", 1)]], &[]), Err(Illegal::OpenStarts(vec![open])));
    assert_eq!(w.terminate(STRANGER, needs(&["r"])), Err(Illegal::OpenStarts(vec![open])));
    // But the proposer may wait inside its own start.
    let act = w.action(1, needs(&["r"]), None);
    let terms = GateTerms { caller: Some(open), ..w.gate_terms(1) };
    w.propose(AGENT, Proposal::Actions(Actions { items: vec![act], gate: Some(terms) })).unwrap();
    assert_eq!(w.state(), State::WaitingForHuman);
    w.report(open, Outcome::Succeeded).unwrap();
    assert_eq!(w.state(), State::WaitingForHuman);
    // A start that has its outcome is nobody's to wait in.
    let mut w = World::running();
    let ended = w.started(2);
    w.report(ended, Outcome::Succeeded).unwrap();
    let act = w.action(1, needs(&["r"]), None);
    let terms = GateTerms { caller: Some(ended), ..w.gate_terms(1) };
    w.propose(AGENT, Proposal::Actions(Actions { items: vec![act], gate: Some(terms) })).unwrap();
    assert_eq!(w.the().gate().unwrap().caller, None);
}

#[test]
fn outcomes_are_final_once_but_unknown_is_superseded_once() {
    let mut w = World::running();
    let permit = w.started(2);
    w.sweep(permit).unwrap();
    assert_eq!(w.shape(), "sweep");
    assert_eq!(w.sweep(permit), Ok(Reply::Nothing(State::Running)));
    assert_eq!(w.report(permit, Outcome::Unknown), Ok(Reply::Conflict(permit)));
    let known = Reply::Recorded { permit, outcome: Outcome::Failed, supersedes: true };
    assert_eq!(w.report(permit, Outcome::Failed), Ok(known));
    assert_eq!(w.report(permit, Outcome::Succeeded), Ok(Reply::Conflict(permit)));
    assert_eq!(w.shape(), "conflict");
    assert_eq!(w.the().settled(permit), Some(Settled::Outcome(Outcome::Failed)));
    assert_eq!(code(w.report(crate::world::permit(4444), Outcome::Failed)), "permit-unknown");
}

#[test]
fn outcomes_are_accepted_in_every_state() {
    for end in ["waiting", "terminated"] {
        let mut w = World::running();
        let open = w.started(2);
        if end == "waiting" {
            let act = w.action(1, needs(&["r"]), None);
            let terms = GateTerms { caller: Some(open), ..w.gate_terms(1) };
            w.propose(AGENT, Proposal::Actions(Actions { items: vec![act], gate: Some(terms) })).unwrap();
        } else {
            w.terminate(OWNER, allow()).unwrap();
        }
        let state = w.state();
        w.report(open, Outcome::Unknown).unwrap();
        w.report(open, Outcome::Succeeded).unwrap();
        assert_eq!(w.state(), state);
    }
}

#[test]
fn terminate_by_anyone_else_follows_policy() {
    let mut w = World::running();
    assert_eq!(w.terminate(STRANGER, deny()), Ok(Reply::Refused(RefusalReason::Policy)));
    assert_eq!(w.state(), State::Running);
    let mut gated = w.clone();
    assert!(matches!(gated.terminate(STRANGER, needs(&["r"])), Ok(Reply::Waiting { .. })));
    assert!(matches!(gated.approve(ALICE, &[1]), Ok(Reply::Resolved { state: State::Terminated, .. })));
    assert!(gated.shape().ends_with("RESUMED>RUNNING RUNNING>TERMINATED"));
    assert!(matches!(w.terminate(STRANGER, allow()), Ok(Reply::Terminated { objection: false, .. })));
    assert_eq!(w.terminate(STRANGER, allow()), Ok(Reply::Nothing(State::Terminated)));
    let mut w = World::waiting(&[&[rule("r", 1)]]);
    assert_eq!(code(w.terminate(STRANGER, needs(&["r"]))), "instance-waiting");
    assert_eq!(w.terminate(STRANGER, deny()), Ok(Reply::Refused(RefusalReason::Policy)));
    assert!(matches!(w.terminate(STRANGER, allow()), Ok(Reply::Terminated { objection: false, .. })));
    let mut w = World::queued();
    assert_eq!(
        w.terminate(STRANGER, needs(&["r"])),
        Err(Illegal::Edge { from: State::Created, to: State::WaitingForHuman })
    );
    assert!(matches!(w.terminate(STRANGER, allow()), Ok(Reply::Terminated { objection: false, .. })));
}

#[test]
fn a_freeze_refuses_what_moves_forward_and_lets_pass_what_stops() {
    let mut w = World::empty();
    w.frozen = true;
    assert_eq!(w.create(true, Asked::nothing()), Ok(Reply::Refused(RefusalReason::Frozen)));
    assert!(w.instance.is_none());

    let mut w = World::queued();
    w.frozen = true;
    assert_eq!(w.start(allow()), Ok(Reply::Refused(RefusalReason::Frozen)));
    assert_eq!(w.state(), State::Created);

    let mut w = World::running();
    let act = w.action(2, allow(), None);
    let ready = act.permit.as_ref().unwrap().permit;
    w.act(vec![act]).unwrap();
    let open = w.started(3);
    w.frozen = true;
    let batch = vec![w.action(4, allow(), None), w.action(5, needs(&["r"]), None), w.action(6, deny(), None)];
    w.act(batch).unwrap();
    assert_eq!(w.shape(), "refusal refusal refusal");
    assert_eq!((w.state(), w.the().denials()), (State::Running, 0));
    assert_eq!(w.complete(Asked::nothing()), Ok(Reply::Refused(RefusalReason::Frozen)));
    assert_eq!(w.begin(ready), Err(Illegal::Frozen));
    w.report(open, Outcome::Succeeded).unwrap();
    assert!(matches!(w.terminate(OWNER, deny()), Ok(Reply::Terminated { .. })));

    let mut w = World::waiting(&[&[rule("r", 1)]]);
    w.frozen = true;
    assert_eq!(w.approve(ALICE, &[1]), Ok(Reply::Refused(RefusalReason::Frozen)));
    assert_eq!(w.shape(), "refusal");
    assert_eq!(w.drop_items(ALICE, &[1]), Ok(Reply::Refused(RefusalReason::Frozen)));
    assert!(matches!(w.reject(ALICE), Ok(Reply::Rejected { .. })));
}

#[test]
fn a_batch_has_1_to_16_distinct_actions() {
    let mut w = World::running();
    assert_eq!(code(w.act(Vec::new())), "batch-size");
    let full: Vec<_> = (1..=16).map(|n| w.action(n, needs(&["r"]), None)).collect();
    let over: Vec<_> = (1..=17).map(|n| w.action(n, needs(&["r"]), None)).collect();
    assert_eq!(code(w.act(over)), "batch-size");
    let twice = vec![w.action(1, allow(), None), w.action(1, allow(), None)];
    assert_eq!(code(w.act(twice)), "duplicate-id");
    w.clone().act(full).unwrap();
    let run: Vec<_> = (1..=16)
        .map(|n| {
            let run = w.run_start(u8::try_from(n).unwrap());
            w.action(n, allow(), Some(run))
        })
        .collect();
    w.act(run).unwrap();
    assert_eq!(w.last().len(), 32);
}

#[test]
fn the_largest_gate_resolves_in_one_append() {
    let mut w = World::running();
    let full: Vec<_> = (1..=16)
        .map(|n| {
            let run = w.run_start(7);
            w.action(n, needs(&["r"]), Some(run))
        })
        .collect();
    w.act(full).unwrap();
    let all: Vec<u64> = (1..=16).collect();
    w.approve(ALICE, &all).unwrap();
    assert_eq!(w.last().len(), 4 + 32);
}

#[test]
fn a_permit_id_is_given_once() {
    let mut w = World::running();
    let used = w.started(2);
    w.report(used, Outcome::Succeeded).unwrap();
    let mut again = w.action(3, allow(), None);
    again.permit.as_mut().unwrap().permit = used;
    assert_eq!(code(w.act(vec![again])), "duplicate-id");
}

#[test]
fn proposals_to_what_is_not_there_or_finished_change_nothing() {
    let mut w = World::empty();
    let act = w.action(1, allow(), None);
    assert_eq!(code(w.act(vec![act.clone()])), "instance-not-found");
    let mut w = World::running();
    assert_eq!(code(w.create(true, allow())), "instance-exists");
    assert_eq!(code(w.expire(allow())), "instance-not-waiting");
    w.terminate(OWNER, allow()).unwrap();
    let entries = w.appends.len();
    assert_eq!(code(w.act(vec![act])), "instance-finished");
    assert_eq!(code(w.begin(permit(1))), "instance-finished");
    assert_eq!(code(w.complete(allow())), "instance-finished");
    assert_eq!(w.expire(allow()), Ok(Reply::Nothing(State::Terminated)));
    w.at = Timestamp(2_000_000);
    assert_eq!(w.deadline(allow()), Ok(Reply::Nothing(State::Terminated)));
    assert_eq!(w.appends.len(), entries);
}

#[test]
fn edges_that_only_follow_carry_the_verdict_they_follow_from() {
    let mut w = World::waiting(&[&[rule("r", 1)]]);
    w.approve(ALICE, &[1]).unwrap();
    let verdicts: Vec<_> =
        w.appends.last().unwrap().iter().map(|e| e.header.verdict.as_ref().unwrap().decision).collect();
    assert!(verdicts.iter().all(|v| *v == Answer::Allow));
    let mut w = World::waiting(&[&[rule("r", 1)]]);
    w.at = Timestamp(w.at.0 + 10_000);
    w.expire(deny()).unwrap();
    for entry in w.appends.last().unwrap().iter() {
        assert_eq!(entry.header.verdict.as_ref().unwrap().decision, Answer::Deny);
        assert_eq!(entry.header.actor, Pseudonym::SYSTEM);
        if let Body::Edge(edge) = &entry.header.body {
            assert!(edge.objection);
            assert!(matches!(edge.cause, Cause::Expiry | Cause::Follow));
        }
    }
}

#[test]
fn gate_events_move_nothing_and_a_timers_step_fires_once() {
    use countersign_ledger_entry::body::GateEventKind as K;
    let mut w = World::waiting(&[&[rule("r", 1)]]);
    let note = |event, to, step| GateNote { gate: gate(1), event, rule: Some(name("r")), to, step, asked: allow() };
    let send = |w: &mut World, n: GateNote| w.propose(ALICE, Proposal::GateEvent(Box::new(n)));
    assert_eq!(send(&mut w, note(K::Comment, None, None)), Ok(Reply::Noted(gate(1))));
    assert_eq!(send(&mut w, note(K::Reassign, Some(BOB), None)), Ok(Reply::Noted(gate(1))));
    assert_eq!(send(&mut w, note(K::Reminder, None, Some(0))), Ok(Reply::Noted(gate(1))));
    assert_eq!(send(&mut w, note(K::Escalation, None, Some(0))), Ok(Reply::Noted(gate(1))));
    assert_eq!(code(send(&mut w, note(K::Reminder, None, Some(0)))), "timer-fired");
    assert_eq!(send(&mut w, note(K::Reminder, None, Some(1))), Ok(Reply::Noted(gate(1))));
    let refused = GateNote { asked: deny(), ..note(K::Comment, None, None) };
    assert_eq!(send(&mut w, refused), Ok(Reply::Refused(RefusalReason::Policy)));
    assert_eq!(w.state(), State::WaitingForHuman);
}
