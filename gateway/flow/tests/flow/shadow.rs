//! Workflows in shadow: policy is asked and its word recorded, and only a firm no stops anything.

use countersign_gateway_flow::*;
use countersign_gateway_model::{Decision as Answer, State, Verdict};
use countersign_ledger_entry::body::{Body, Created, Permit};

use crate::histories::{edit, last, pick, refuse};
use crate::world::*;

const SOFT: Force = Force::Shadow { firm: false };
const FIRM: Force = Force::Shadow { firm: true };

fn with(asked: Asked, force: Force) -> Asked {
    Asked { force, ..asked }
}

/// RUNNING, and begun in shadow under this answer.
fn shadowed(asked: Asked) -> World {
    let mut world = World::empty();
    let created = Created { enforced: false, ..created() };
    world.create_with(created, true, asked).unwrap();
    world
}

fn permit_of(world: &World) -> (bool, Answer) {
    let entry = world.appends.last().unwrap().iter().find(|e| matches!(e.header.body, Body::Permit(_))).unwrap();
    let Body::Permit(Permit { enforced, .. }) = entry.header.body else { unreachable!() };
    (enforced, entry.header.verdict.as_ref().unwrap().decision)
}

#[test]
fn what_policy_would_not_allow_is_done_in_shadow_and_the_permit_says_so() {
    for asked in [deny(), needs(&["two-eyes"]), allow()] {
        let answer = asked.verdict.as_ref().unwrap().decision;
        let mut w = shadowed(with(asked.clone(), SOFT));
        assert_eq!(w.state(), State::Running, "a start never waits: {answer:?}");
        let action = w.action(7, with(asked.clone(), SOFT), None);
        let reply = w.act(vec![action]).unwrap();
        assert!(
            matches!(&reply, Reply::Answered(all) if matches!(all[0], ActionAnswer::Permitted { .. })),
            "{reply:?}"
        );
        assert_eq!(permit_of(&w), (false, answer), "the verdict stays what policy said");
        let begin = w.run_start(1);
        let action = w.action(8, with(asked.clone(), SOFT), Some(begin));
        w.act(vec![action]).unwrap();
        assert_eq!((w.shape().as_str(), permit_of(&w).0), ("permit start", false));
        let mut idle = shadowed(with(asked.clone(), SOFT));
        let complete = Complete {
            action: Some(crate::world::action(9)),
            asked: with(asked, SOFT),
            digest: Some(digest(5)),
            gate: None,
            item: None,
        };
        idle.propose(AGENT, Proposal::Complete(Box::new(complete))).unwrap();
        assert_eq!(idle.state(), State::Completed);
        assert_eq!(idle.replay().unwrap().state(), State::Completed);
    }
}

#[test]
fn a_firm_no_and_an_error_stop_as_they_always_do() {
    for asked in [with(deny(), FIRM), with(error(), SOFT), with(error(), FIRM), deny()] {
        let mut w = shadowed(with(allow(), SOFT));
        let action = w.action(7, asked.clone(), None);
        let reply = w.act(vec![action]).unwrap();
        assert!(matches!(&reply, Reply::Answered(all) if matches!(all[0], ActionAnswer::Refused { .. })), "{reply:?}");
        let mut none = World::empty();
        let created = Created { enforced: false, ..created() };
        assert!(matches!(none.create_with(created, true, asked).unwrap(), Reply::Refused(_)));
        assert!(none.instance.is_none());
    }
    let mut w = shadowed(with(allow(), SOFT));
    let action = w.action(7, with(needs(&["two-eyes"]), FIRM), None);
    assert!(matches!(w.act(vec![action]).unwrap(), Reply::Waiting { .. }), "a hard gate asks people");
    let w = shadowed(with(needs(&["two-eyes"]), FIRM));
    assert_eq!(w.state(), State::WaitingForHuman);
    assert_eq!(w.replay().unwrap().state(), State::WaitingForHuman);
}

#[test]
fn a_shadow_that_has_ended_is_over_for_instances_that_began_in_it() {
    let mut w = shadowed(with(deny(), SOFT));
    let action = w.action(7, allow(), None);
    w.act(vec![action]).unwrap();
    assert_eq!(permit_of(&w), (true, Answer::Allow));
    let action = w.action(8, deny(), None);
    let reply = w.act(vec![action]).unwrap();
    assert!(matches!(&reply, Reply::Answered(all) if matches!(all[0], ActionAnswer::Refused { .. })), "{reply:?}");
    let action = w.action(9, needs(&["two-eyes"]), None);
    assert!(matches!(w.act(vec![action]).unwrap(), Reply::Waiting { .. }));
}

#[test]
fn a_forger_cannot_pass_a_denial_off_as_shadow() {
    let mut w = shadowed(with(deny(), SOFT));
    let action = w.action(7, with(deny(), SOFT), None);
    w.act(vec![action]).unwrap();
    refuse(&w, "a permit that claims to be enforced", |f| edit(last(f), pick!(Permit), |p| p.enforced = true));
    refuse(&w, "an instance that was not in shadow", |f| edit(&mut f[0].drafts, pick!(Created), |c| c.enforced = true));
    refuse(&w, "a permit under an error", |f| {
        last(f)[0].verdict = Some(Verdict { error: true, ..Verdict::deny() });
    });
    refuse(&w, "a permit without a verdict", |f| last(f)[0].verdict = None);
    refuse(&w, "a start under an error", |f| {
        for draft in &mut f[0].drafts {
            draft.verdict = Some(Verdict { error: true, ..Verdict::deny() });
        }
    });
    let mut held = World::running();
    let action = held.action(7, allow(), None);
    held.act(vec![action]).unwrap();
    refuse(&held, "an unenforced permit of another workflow", |f| edit(last(f), pick!(Permit), |p| p.enforced = false));
}

#[test]
fn a_gate_of_a_shadow_is_of_what_waits_alone() {
    let mut w = shadowed(with(allow(), SOFT));
    let soft = w.action(7, with(deny(), SOFT), None);
    let other = w.action(8, with(needs(&["another"]), SOFT), None);
    let firm = w.action(9, with(needs(&["two-eyes"]), FIRM), None);
    let reply = w.act(vec![soft, other, firm]).unwrap();
    let Reply::Waiting { actions, .. } = reply else { panic!("{reply:?}") };
    let [ActionAnswer::Cleared(_), ActionAnswer::Cleared(_), ActionAnswer::Waiting { .. }] = actions.as_slice() else {
        panic!("{actions:?}")
    };
    let gate = &w.appends.last().unwrap()[0].header;
    assert_eq!(gate.verdict, needs(&["two-eyes"]).verdict);
    assert_eq!(w.replay().as_ref(), Ok(w.the()));
}
