//! Stopping cannot be vetoed, and nothing is carried out whose start is not durable.

use countersign_gateway_flow::*;
use countersign_gateway_model::{Pseudonym, State, Timestamp};
use countersign_ledger_entry::Draft;
use countersign_ledger_entry::body::{Body, Cause};

use crate::world::*;

/// An instance in each state that it can rest in and be stopped from.
fn stoppable() -> [(State, World); 3] {
    [
        (State::Created, World::queued()),
        (State::Running, World::running()),
        (State::WaitingForHuman, World::waiting(&[&[rule("r", 1)]])),
    ]
}

#[test]
fn stopping_cannot_be_vetoed() {
    for (state, world) in stoppable() {
        for answer in [allow(), needs(&["r"]), deny(), error(), Asked::nothing()] {
            let objects =
                answer.verdict.as_ref().is_none_or(|v| v.decision != countersign_gateway_model::Decision::Allow);
            for (who, role) in [(AGENT, None), (OWNER, None), (INITIATOR, None), (STRANGER, Some("stop"))] {
                for frozen in [false, true] {
                    let mut w = world.clone();
                    assert_eq!(w.state(), state);
                    w.frozen = frozen;
                    let reply = w.terminate_with(who, answer.clone(), role);
                    assert_eq!(
                        reply,
                        Ok(Reply::Terminated { objection: objects, cancel: Vec::new() }),
                        "{state} {who}"
                    );
                    assert_eq!(w.state(), State::Terminated);
                    for entry in w.appends.last().unwrap().iter() {
                        match &entry.header.body {
                            Body::Edge(edge) => assert_eq!(edge.objection, objects),
                            Body::Decision(decision) => {
                                assert_eq!(entry.header.actor, Pseudonym::SYSTEM);
                                assert_eq!(decision.on_behalf, Some(who), "SYSTEM's REJECT names the stopper");
                            }
                            body => panic!("{body:?}"),
                        }
                    }
                    assert_eq!(w.replay().as_ref(), Ok(w.the()));
                }
            }
        }
    }
}

#[test]
fn one_on_whose_behalf_the_instance_acts_can_stop_it() {
    let mut w = World::empty();
    let create = Create {
        instance: World::id(),
        created: created(),
        start: true,
        action: None,
        asked: allow(),
        digest: None,
        gate: None,
        item: None,
    };
    let by = Actor { actor: AGENT, on_behalf_of: vec![DELEGATOR] };
    w.propose_as(by, Proposal::Create(Box::new(create))).unwrap();
    assert!(matches!(w.terminate(DELEGATOR, deny()), Ok(Reply::Terminated { objection: true, .. })));
}

#[test]
fn clocks_stop_whatever_policy_says_but_not_before_their_time() {
    for (state, world) in stoppable() {
        for answer in [allow(), deny(), error(), Asked::nothing()] {
            let mut w = world.clone();
            w.at = Timestamp(999_999);
            assert_eq!(w.deadline(answer.clone()), Err(Illegal::DeadlineNotPassed));
            w.at = Timestamp(1_000_000);
            assert!(matches!(w.deadline(answer), Ok(Reply::Terminated { .. })), "{state}");
            assert_eq!(w.state(), State::Terminated);
        }
    }
    let mut w = World::waiting(&[&[rule("r", 1)]]);
    let due = w.the().gate().unwrap().expires.unwrap();
    w.at = Timestamp(due.0 - 1);
    assert_eq!(w.expire(allow()), Err(Illegal::GateNotExpired(gate(1))));
    w.at = due;
    assert_eq!(w.approve(ALICE, &[1]), Err(Illegal::GateExpired(gate(1))));
    assert_eq!(w.reject(ALICE), Err(Illegal::GateExpired(gate(1))));
    w.expire(deny()).unwrap();
    assert_eq!(w.shape(), "system_reject WAITING_FOR_HUMAN>REJECTED REJECTED>TERMINATED");
    let ballot = World::waiting(&[&[rule("r", 1)]]).ballot(
        countersign_ledger_entry::body::DecisionKind::Approve,
        ALICE,
        &[(1, Change::Keep)],
    );
    let decide = World::waiting(&[&[rule("r", 1)]]).decide(ballot);
    assert_eq!(w.vote(decide).unwrap_err().code(), "instance-finished");
}

#[test]
fn a_gate_that_never_expires_does_not() {
    let mut w = World::running();
    let act = w.action(1, needs(&["r"]), None);
    let terms =
        GateTerms { expires: None, on_timeout: countersign_ledger_entry::body::OnTimeout::Never, ..w.gate_terms(1) };
    w.propose(AGENT, Proposal::Actions(Actions { items: vec![act], gate: Some(terms) })).unwrap();
    w.at = Timestamp(900_000);
    assert_eq!(w.expire(allow()), Err(Illegal::GateNotExpired(gate(1))));
    w.approve(ALICE, &[1]).unwrap();
}

#[test]
fn termination_names_every_start_to_cancel_and_voids_permits_without_entries() {
    let mut w = World::running();
    let (a, b) = (w.started(2), w.started(3));
    let act = w.action(4, allow(), None);
    let ready = act.permit.as_ref().unwrap().permit;
    w.act(vec![act]).unwrap();
    assert_eq!(w.terminate(OWNER, allow()), Ok(Reply::Terminated { objection: false, cancel: vec![a, b] }));
    assert_eq!(w.shape(), "RUNNING>TERMINATED");
    assert_eq!(w.begin(ready), Err(Illegal::Finished(State::Terminated)));
    assert_eq!(w.the().startable(w.at).count(), 0);
}

/// Every answer that lets work begin comes with the entry of a start, and nothing else does: the caller is told once the
/// drafts are durable.
#[test]
fn nothing_is_carried_out_whose_start_is_not_durable() {
    fn starts(drafts: &[Draft]) -> usize {
        drafts.iter().filter(|d| matches!(d.body, Body::Start(_))).count()
    }
    let mut w = World::running();
    let now = |w: &World| Now { at: w.at, frozen: false, by: World::by(AGENT) };
    for (answer, begin, expected) in
        [(allow(), true, 1), (allow(), false, 0), (deny(), true, 0), (needs(&["r"]), true, 0)]
    {
        for dispatch in [true, false] {
            let terms = if dispatch { w.run_start(4) } else { w.agent_start() };
            if dispatch && !begin {
                continue;
            }
            let act = w.action(1, answer.clone(), begin.then_some(terms));
            let proposal = Proposal::Actions(Actions { items: vec![act], gate: Some(w.gate_terms(1)) });
            let decided = decide(w.instance.as_ref(), proposal, &now(&w)).unwrap();
            assert_eq!(starts(&decided.drafts), expected);
            let begun = format!("{:?}", decided.reply).contains("Begun");
            assert_eq!(begun, expected == 1);
        }
    }
    // Deciding is not doing: until an append is applied, the permit is as live as before, and only one start follows.
    let act = w.action(2, allow(), None);
    let id = act.permit.as_ref().unwrap().permit;
    w.act(vec![act]).unwrap();
    let begin = || Proposal::Begin(Begin { permit: id, terms: w.agent_start(), payloads: Vec::new() });
    let once = decide(w.instance.as_ref(), begin(), &now(&w)).unwrap();
    let twice = decide(w.instance.as_ref(), begin(), &now(&w)).unwrap();
    assert_eq!(once, twice);
    let (first, second) = (w.seal(once.drafts), w.seal(twice.drafts));
    let mut w = w.clone();
    w.apply(first).unwrap();
    assert!(matches!(w.apply(second), Err(EvolveError::Sequence { .. })), "a stale append does not fit the stream");
    assert!(w.the().open_start(id).is_some());
}

#[test]
fn a_stop_from_waiting_takes_the_gate_with_it() {
    let mut w = World::waiting(&[&[rule("r", 1)]]);
    w.terminate(OWNER, deny()).unwrap();
    let causes: Vec<_> =
        w.last().iter().filter_map(|b| if let Body::Edge(e) = b { Some(e.cause) } else { None }).collect();
    assert_eq!(causes, [Cause::Terminate, Cause::Follow]);
    assert!(w.the().gate().is_none());
}
