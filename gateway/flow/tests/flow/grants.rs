//! Rules met in advance: what stood at the gate is what is given, and nobody gets more out of it than was said.

use countersign_gateway_flow::*;
use countersign_gateway_model::{Digest, Duration, Name, Outcome, Pseudonym, State, Timestamp, Verdict};
use countersign_ledger_entry::body::{self, Body, DecisionKind, Reservation, TaskGrant, TaskGrantUse};
use countersign_ledger_entry::{Draft, Header, PayloadRole};
use proptest::prelude::*;

use crate::histories::{append, edit, last, pick, refuse};
use crate::world::*;

/// A world in which grant 1 was given: rule `r`, quorum 1, by ALICE.
fn granted(count: u32) -> World {
    let mut w = World::running();
    w.ask_grant(1, rule("r", 1), count, 5_000).unwrap();
    w.approve(ALICE, &[1]).unwrap();
    w
}

fn allowed(body: impl Into<Body>, by: Pseudonym) -> Draft {
    Draft { verdict: Some(Verdict::allow()), ..Draft::new(body, by) }
}

fn used(n: u64, action_: u64, used: u32) -> TaskGrantUse {
    TaskGrantUse { grant: grant(n), action: action(action_), used }
}

#[test]
fn a_grant_is_asked_for_given_used_and_taken_back() {
    let mut w = World::running();
    let reply = w.ask_grant(1, rule("r", 2), 2, 5_000).unwrap();
    assert_eq!(reply, Reply::Waiting { gate: gate(1), actions: Vec::new() });
    assert_eq!(w.shape(), "task_grant gate RUNNING>WAITING_FOR_HUMAN");
    assert_eq!(w.the().grants().count(), 0, "what is asked for is not given");
    w.approve(ALICE, &[1]).unwrap();
    assert_eq!(w.shape(), "decision");
    w.at = Timestamp(3000);
    let reply = w.approve(BOB, &[1]).unwrap();
    assert!(matches!(reply, Reply::Resolved { through: State::Approved, state: State::Running, .. }), "{reply:?}");
    let edges = "WAITING_FOR_HUMAN>APPROVED APPROVED>RESUMED RESUMED>RUNNING";
    assert_eq!(w.shape(), format!("decision {edges} task_grant"));
    let held = w.the().grant(grant(1)).unwrap().clone();
    assert_eq!(held.body.approvers, [ALICE, BOB]);
    assert_eq!((held.used, held.body.until), (0, Timestamp(8000)), "it lasts from when it is given");
    let begun = Action { permit: Some(w.permit_terms(Some(w.agent_start()))), ..w.resting(5, &[1]) };
    let batch = vec![begun, w.resting(6, &[1])];
    w.act(batch).unwrap();
    assert_eq!(w.shape(), "task_grant_use permit start task_grant_use permit");
    assert_eq!(w.the().grant(grant(1)).unwrap().used, 2);
    let third = w.resting(7, &[1]);
    assert_eq!(w.act(vec![third]), Err(Illegal::GrantUnusable(grant(1), "the grant is used up")));
    // Taken back by one who gave it, against policy's objection; a second time there is nothing to take.
    w.revoke(BOB, 1, deny()).unwrap();
    assert_eq!(w.shape(), "task_grant");
    assert_eq!(w.revoke(ALICE, 1, allow()), Ok(Reply::Nothing(State::Running)));
    assert_eq!(w.revoke(ALICE, 2, allow()), Err(Illegal::UnknownGrant(grant(2))));
    assert_eq!(w.replay().as_ref(), Ok(w.the()));
}

#[test]
fn a_grant_is_good_until_its_time_and_for_its_tools() {
    let mut w = granted(9);
    w.at = Timestamp(6000);
    let act = w.resting(5, &[1]);
    w.act(vec![act]).unwrap();
    w.at = Timestamp(6001);
    let act = w.resting(6, &[1]);
    assert_eq!(w.act(vec![act]), Err(Illegal::GrantUnusable(grant(1), "the grant has expired")));
    // A clock that was set back gives it no second life.
    let act = w.action(7, allow(), None);
    w.act(vec![act]).unwrap();
    w.at = Timestamp(5000);
    let act = w.resting(8, &[1]);
    assert_eq!(w.act(vec![act]), Err(Illegal::GrantUnusable(grant(1), "the grant has expired")));
    let mut w = granted(9);
    let act = Action { tool: name("repo/delete"), ..w.resting(5, &[1]) };
    assert_eq!(w.act(vec![act]), Err(Illegal::GrantUnusable(grant(1), "the grant is not for this tool")));
    let act = w.resting(5, &[1, 1]);
    assert_eq!(w.act(vec![act]), Err(Illegal::Duplicate("grant")));
    let act = w.resting(5, &[2]);
    assert_eq!(w.act(vec![act]), Err(Illegal::UnknownGrant(grant(2))));
}

#[test]
fn a_budget_is_kept_over_all_uses_of_a_grant() {
    let euros = |amount| Reservation { counter: name("spent"), version: 0, amount };
    let mut w = World::running();
    let ask = AskGrant { budget: Some(euros(100)), ..w.grant_terms(1, rule("r", 1), 9, 5_000) };
    w.propose(AGENT, Proposal::AskGrant(Box::new(ask))).unwrap();
    w.approve(ALICE, &[1]).unwrap();
    let taking = |w: &mut World, n: u64, version: u64, amount: u64| {
        let mut act = w.resting(n, &[1]);
        act.permit.as_mut().unwrap().reservations = vec![Reservation { version, ..euros(amount) }];
        w.act(vec![act])
    };
    taking(&mut w, 5, 1, 60).unwrap();
    let spent = Err(Illegal::GrantUnusable(grant(1), "the grant's budget is spent"));
    assert_eq!(taking(&mut w, 6, 2, 41), spent);
    taking(&mut w, 7, 3, 40).unwrap();
    assert_eq!(taking(&mut w, 8, 4, 1), spent);
    let free = w.resting(9, &[1]);
    assert!(matches!(w.act(vec![free]), Err(Illegal::GrantUnusable(..))), "what takes nothing is not what it bounds");
    assert_eq!(w.the().grant(grant(1)).unwrap().spent, 100);
    refuse(&w, "a permit that takes from the counter a second time", |f| {
        edit(last(f), pick!(Permit), |p| {
            let second = Reservation { version: 4, ..p.reservations[0].clone() };
            p.reservations.push(second);
        });
    });
    let mut beyond = w.the().grant(grant(1)).unwrap().clone();
    let twice = [euros(u64::MAX), euros(1)];
    assert_eq!(
        beyond.take((AGENT, &[]), &w.resting(9, &[1]).tool, &twice, Timestamp(2000)),
        Err("the grant's budget is spent"),
        "a sum that no number holds"
    );
    refuse(&w, "a permit that takes more than the budget has left", |f| {
        edit(last(f), pick!(Permit), |p| p.reservations[0].amount = 41);
    });
}

#[test]
fn nobody_asks_for_a_grant_but_those_whose_work_it_is_and_none_of_them_gives_it() {
    let mut w = World::running();
    let ask = w.grant_terms(1, rule("r", 1), 1, 5_000);
    let of = |ask: &AskGrant| Proposal::AskGrant(Box::new(ask.clone()));
    assert!(matches!(w.propose(STRANGER, of(&ask)), Err(Illegal::Incomplete(_))));
    for broken in [
        AskGrant { count: 0, ..ask.clone() },
        AskGrant { tools: Vec::new(), ..ask.clone() },
        AskGrant { tools: vec![name("b"), name("a")], ..ask.clone() },
        AskGrant { lasts: Duration(0), ..ask.clone() },
        AskGrant { rule: name("other"), ..ask.clone() },
        AskGrant { budget: Some(Reservation { counter: name("c"), version: 0, amount: 0 }), ..ask.clone() },
    ] {
        assert!(matches!(w.propose(AGENT, of(&broken)), Err(Illegal::Incomplete(_))), "{broken:?}");
    }
    w.frozen = true;
    assert_eq!(w.propose(AGENT, of(&ask)), Err(Illegal::Frozen));
    w.frozen = false;
    let open = w.started(9);
    assert_eq!(w.propose(AGENT, of(&ask)), Err(Illegal::OpenStarts(vec![open])));
    w.report(open, Outcome::Succeeded).unwrap();
    // Whoever asks does not answer, nor does anybody whose work it is.
    let mut asked_by_owner = w.clone();
    asked_by_owner.propose(OWNER, of(&ask)).unwrap();
    for (world, who, why) in [
        (&mut asked_by_owner, OWNER, WhyNot::ActingChain),
        (
            &mut {
                w.propose(AGENT, of(&ask)).unwrap();
                w.clone()
            },
            OWNER,
            WhyNot::Involved,
        ),
        (&mut w.clone(), AGENT, WhyNot::ActingChain),
    ] {
        let reply = world.approve(who, &[1]).unwrap();
        assert!(matches!(reply, Reply::Counted { why: Some(w), .. } if w == why), "{reply:?}");
        assert_eq!(world.the().grants().count(), 0);
    }
    // There is nothing to change about it, and no doing without.
    assert_eq!(w.replace(ALICE, 1, &[rule("r", 1)]), Err(Illegal::GrantOverride));
    assert_eq!(w.drop_items(ALICE, &[1]), Err(Illegal::GrantOverride));
    w.reject(ALICE).unwrap();
    assert_eq!(w.state(), State::Terminated);
}

#[test]
fn who_neither_gave_a_grant_nor_works_under_it_takes_it_back_only_with_policys_yes() {
    for (who, asked, done) in [
        (ALICE, deny(), true),
        (AGENT, deny(), true),
        (OWNER, error(), true),
        (INITIATOR, needs(&["r"]), true),
        (STRANGER, allow(), true),
        (STRANGER, deny(), false),
        (STRANGER, needs(&["r"]), false),
        (BOB, error(), false),
    ] {
        let mut w = granted(1);
        assert_eq!(w.revoke(who, 1, asked.clone()).is_ok(), done, "{who}");
        let act = w.resting(5, &[1]);
        assert_eq!(w.act(vec![act]).is_err(), done);
    }
    // While people are asked about something else, too; not once the instance has ended.
    let mut w = granted(1);
    w.open_gate(&[&[rule("r", 1)]], &[]).unwrap();
    w.revoke(OWNER, 1, allow()).unwrap();
    let mut w = granted(1);
    w.terminate(OWNER, allow()).unwrap();
    assert_eq!(w.revoke(OWNER, 1, allow()), Ok(Reply::Nothing(State::Terminated)));
}

#[test]
fn what_was_not_asked_for_is_not_given() {
    let mut w = World::running();
    w.ask_grant(1, rule("r", 2), 2, 5_000).unwrap();
    let asked = |why: &str, change: &dyn Fn(&mut TaskGrant)| {
        refuse(&w, why, |f| edit(last(f), pick!(TaskGrant), |g| change(g)));
    };
    asked("for no use", &|g| g.count = 0);
    asked("of no tool", &|g| g.tools.clear());
    asked("given already", &|g| g.approvers = vec![ALICE]);
    asked("taken back before it is given", &|g| g.revoked = true);
    asked("over before it begins", &|g| g.until = Timestamp(1000));
    asked("of other terms than its gate's", &|g| g.scope = digest(1));
    asked("of another rule than its gate's", &|g| g.rule = name("q"));
    refuse(&w, "asked for by a stranger", |f| last(f).iter_mut().for_each(|d| d.actor = STRANGER));
    refuse(&w, "asked of policy", |f| {
        last(f).iter_mut().for_each(|d| d.verdict = Some(Verdict::needs_approval(vec![name("r")])));
    });
    refuse(&w, "without its gate", |f| last(f).truncate(1));
    refuse(&w, "a gate without what is asked for", |f| {
        last(f).remove(0);
    });
    refuse(&w, "a gate of actions after it", |f| {
        edit(last(f), pick!(Gate), |g| g.subject = body::GateSubject::Actions);
    });
    refuse(&w, "an item that is no grant's", |f| {
        edit(last(f), pick!(Gate), |g| g.items[0].tool = Some(name("policy.activate")));
    });
    w.approve(ALICE, &[1]).unwrap();
    refuse(&w, "given before its quorum", |f| {
        let mut given = f[f.len() - 2].drafts[0].clone();
        if let Body::TaskGrant(g) = &mut given.body {
            g.approvers = vec![ALICE];
        }
        append(f, vec![given]);
    });
    w.at = Timestamp(3000);
    w.approve(BOB, &[1]).unwrap();
    let given = |why: &str, change: &dyn Fn(&mut TaskGrant)| {
        refuse(&w, why, |f| edit(last(f), pick!(TaskGrant), |g| change(g)));
    };
    given("more uses than were read", &|g| g.count = 3);
    given("another tool than was read", &|g| g.tools = vec![name("repo/delete")]);
    given("other terms than were read", &|g| g.scope = digest(1));
    given("another rule than was read", &|g| g.rule = name("q"));
    given("longer than was read", &|g| g.until = Timestamp(8001));
    given("by somebody who did not vote", &|g| g.approvers = vec![ALICE, CAROL]);
    given("by fewer than voted", &|g| g.approvers = vec![ALICE]);
    given("under another name", &|g| g.grant = grant(2));
    given("with a budget that nobody read", &|g| {
        g.budget = Some(Reservation { counter: name("c"), version: 0, amount: 1 });
    });
    refuse(&w, "nothing, though it was approved", |f| {
        last(f).pop();
    });
    refuse(&w, "twice", |f| {
        let again = last(f).last().unwrap().clone();
        last(f).push(again);
    });
    refuse(&w, "under another verdict than the decision's", |f| {
        last(f).iter_mut().skip(1).for_each(|d| d.verdict = Some(Verdict { error: true, ..Verdict::allow() }));
    });
    refuse(&w, "a permit instead", |f| {
        let mut other = World::running();
        let act = other.action(5, allow(), None);
        other.act(vec![act]).unwrap();
        let permit = other.appends.last().unwrap()[0].header.body.clone();
        *last(f).last_mut().unwrap() = allowed(permit, BOB);
    });
}

#[test]
fn nobody_acts_under_a_grant_that_they_gave() {
    let mut w = granted(2);
    let given = Err(Illegal::GrantUnusable(grant(1), "one who gave the grant acts under it"));
    let act = w.resting(5, &[1]);
    let of = |act: &Action| Proposal::Actions(Actions { items: vec![act.clone()], gate: None });
    let for_alice = Actor { actor: AGENT, on_behalf_of: vec![BOB, ALICE] };
    assert_eq!(w.propose_as(for_alice, of(&act)), given);
    let for_bob = Actor { actor: AGENT, on_behalf_of: vec![BOB] };
    w.propose_as(for_bob, of(&act)).unwrap();
    refuse(&w, "a use on behalf of its giver", |f| {
        last(f).iter_mut().for_each(|draft| draft.on_behalf_of = vec![ALICE]);
    });
    refuse(&w, "a use by its giver", |f| last(f).iter_mut().for_each(|draft| draft.actor = ALICE));
}

#[test]
fn a_permit_rests_on_no_more_than_was_given() {
    let mut w = granted(2);
    let act = w.resting(5, &[1]);
    w.act(vec![act]).unwrap();
    let use_ = |why: &str, change: &dyn Fn(&mut TaskGrantUse)| {
        refuse(&w, why, |f| edit(last(f), pick!(TaskGrantUse), |u| change(u)));
    };
    use_("counted as if it were not the first", &|u| u.used = 2);
    use_("counted as none", &|u| u.used = 0);
    use_("of a grant that nobody gave", &|u| u.grant = grant(2));
    use_("for another action", &|u| u.action = action(6));
    refuse(&w, "a use without a permit", |f| last(f).truncate(1));
    refuse(&w, "a use after its permit", |f| last(f).reverse());
    refuse(&w, "a use that policy did not allow", |f| last(f)[0].verdict = Some(Verdict::deny()));
    refuse(&w, "a use that asked nobody", |f| last(f)[0].verdict = None);
    refuse(&w, "a use under another verdict than its permit's", |f| {
        last(f)[0].verdict = Some(Verdict { rules: vec![name("r")], ..Verdict::allow() });
    });
    refuse(&w, "one use twice for one permit", |f| {
        last(f).insert(1, allowed(used(1, 5, 2), AGENT));
    });
    refuse(&w, "a permit of another tool", |f| edit(last(f), pick!(Permit), |p| p.tool = name("repo/delete")));
    refuse(&w, "a use in front of a refusal", |f| {
        let refusal = body::Refusal {
            question: body::QuestionKind::CallTool,
            action: Some(action(5)),
            tool: None,
            digest: None,
            reason: body::RefusalReason::Policy,
        };
        last(f)[1] = Draft { verdict: Some(Verdict::deny()), ..Draft::new(refusal, AGENT) };
    });
    let act = w.resting(6, &[1]);
    w.act(vec![act]).unwrap();
    refuse(&w, "one use more than was given", |f| {
        let mut third = last(f).clone();
        edit(&mut third, pick!(TaskGrantUse), |u| {
            u.used = 3;
            u.action = action(7);
        });
        edit(&mut third, pick!(Permit), |p| {
            p.permit = permit(9999);
            p.action = action(7);
        });
        append(f, third);
    });
    refuse(&w, "a use after its time", |f| f.last_mut().unwrap().claimed = Timestamp(6001));
    w.revoke(OWNER, 1, allow()).unwrap();
    let back = |why: &str, change: &dyn Fn(&mut TaskGrant)| {
        refuse(&w, why, |f| edit(last(f), pick!(TaskGrant), |g| change(g)));
    };
    back("something else than was given", &|g| g.count = 5);
    back("a grant that nobody gave", &|g| g.grant = grant(2));
    back("and asked for in one", &|g| g.approvers.clear());
    refuse(&w, "taken back by a stranger without policy's yes", |f| {
        last(f)[0].actor = STRANGER;
        last(f)[0].verdict = Some(Verdict::deny());
    });
    refuse(&w, "taken back twice", |f| {
        let again = last(f).clone();
        append(f, again);
    });
    refuse(&w, "a use of what was taken back", |f| {
        let last_two = f.len() - 2;
        f.swap(last_two, last_two + 1);
    });
}

#[test]
fn before_grants_there_were_none() {
    let mut w = World::running();
    w.ask_grant(1, rule("r", 1), 2, 5_000).unwrap();
    let read = |semantics: u16| {
        let mut instance = None;
        for entry in w.appends.iter().flat_map(|a| a.iter()) {
            let header = Header { semantics, ..entry.header.clone() };
            instance = Some(Instance::evolve(instance, &header, Digest(entry.hash.0))?);
        }
        Ok::<_, EvolveError>(instance)
    };
    assert!(read(2).is_ok());
    let error = read(1).unwrap_err().to_string();
    assert!(error.contains("no task grants under this semantics version"), "{error}");
}

#[test]
fn a_grant_is_given_by_its_quorum_and_by_nobody_who_lifts_the_rule() {
    let mut w = World::running();
    w.ask_grant(1, rule("r", 2), 2, 5_000).unwrap();
    assert_eq!(w.lift(ALICE, 1, "r"), Err(Illegal::GrantLift));
    w.approve(ALICE, &[1]).unwrap();
    // The lift of another gate, as if it were of this one.
    let mut other = World::waiting(&[&[rule("r", 2)]]);
    other.lift(BOB, 1, "r").unwrap();
    let lift = other.appends.last().unwrap()[0].header.clone();
    let Body::Lift(lifted) = &lift.body else { panic!("a lift begins its append") };
    let lifted = body::Lift { digest: digest(701), effect: body::Effect::Counted, ..lifted.clone() };
    refuse(&w, "the rule of a grant is lifted", |f| {
        let draft = Draft { verdict: lift.verdict, payloads: lift.payloads, ..Draft::new(lifted, BOB) };
        append(f, vec![draft]);
    });
}

/// What a history says was used of each grant, counted by nobody else's rules.
fn uses(w: &World) -> std::collections::BTreeMap<Name, (u32, u32)> {
    let mut out = std::collections::BTreeMap::new();
    for entry in w.appends.iter().flat_map(|a| a.iter()) {
        match &entry.header.body {
            Body::TaskGrant(g) if !g.approvers.is_empty() && !g.revoked => {
                out.insert(name(&g.grant.to_string()), (0, g.count));
            }
            Body::TaskGrantUse(u) => out.get_mut(&name(&u.grant.to_string())).unwrap().0 += 1,
            _ => {}
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever is proposed in whatever order, in batches, over restarts and with time going on, a grant is used as often as
    /// was said and no more; and as often as was said if there is time.
    #[test]
    fn no_grant_is_used_more_often_than_was_said(seed in proptest::collection::vec(any::<u8>(), 1..60)) {
        let mut w = World::running();
        for (n, byte) in (10_u64..).zip(&seed) {
            w.at = Timestamp(w.at.0 + u64::from(byte % 5) * 50);
            let target = 1 + u64::from(byte >> 6) % 2;
            let _ = match byte % 8 {
                0 => w.ask_grant(target, rule("r", 1 + byte / 128), 1 + u32::from(byte % 4), 2_000),
                1 if w.the().gate().is_some() => w.approve(ALICE, &[1]),
                2 if w.the().gate().is_some() => w.approve(BOB, &[1]),
                3 if byte % 3 == 0 => w.revoke(ALICE, target, deny()),
                4 => {
                    // What is in memory is thrown away; what was written is read again.
                    w.instance = Some(w.replay().unwrap());
                    continue;
                }
                other => {
                    let batch = (0..u64::from(other % 4)).map(|k| w.resting(n * 8 + k, &[target])).collect();
                    w.act(batch)
                }
            };
            let counted = uses(&w);
            for held in w.the().grants() {
                let (used, count) = counted[&name(&held.body.grant.to_string())];
                prop_assert!(used <= count);
                prop_assert_eq!((used, count), (held.used, held.body.count));
            }
        }
        let read = w.replay().unwrap();
        prop_assert_eq!(&read, w.the());
    }
}

#[test]
fn the_votes_of_a_grant_are_counted_again_under_the_rule_of_today() {
    let mut w = World::running();
    w.ask_grant(1, rule("r", 1), 2, 5_000).unwrap();
    let mut ballot = w.ballot(DecisionKind::Approve, ALICE, &[(1, Change::Keep)]);
    ballot.teams = vec![name("a")];
    ballot.groups = vec![name("legal")];
    let mut decide = w.decide(ballot);
    decide.asked.payloads.push(payload(PayloadRole::Question));
    w.vote(decide).unwrap();
    let held = w.the().grant(grant(1)).unwrap();
    let form = rule("r", 1);
    assert!(held.still_meets(&form, |_| true));
    assert!(!held.still_meets(&form, |vote| vote.person != ALICE), "whose vote is gone");
    assert!(!held.still_meets(&rule("q", 1), |_| true), "another rule");
    assert!(!held.still_meets(&rule("r", 2), |_| true), "a higher quorum");
    let groups = vec![name("finance")];
    assert!(!held.still_meets(&body::RuleForm { groups, ..form.clone() }, |_| true), "a group that was not asked");
    let roles = vec![name("security")];
    assert!(!held.still_meets(&body::RuleForm { roles, ..form.clone() }, |_| true), "another role");
    assert!(held.still_meets(&body::RuleForm { groups: vec![name("legal")], distinct_teams: true, ..form }, |_| true));
}

#[test]
fn what_is_asked_for_is_withdrawn_by_the_one_who_asked_or_the_owner_and_the_instance_goes_on() {
    for who in [AGENT, OWNER] {
        let mut w = World::running();
        w.ask_grant(1, rule("r", 2), 1, 5_000).unwrap();
        w.approve(ALICE, &[1]).unwrap();
        for other in [STRANGER, ALICE, Pseudonym::SYSTEM] {
            assert!(matches!(w.revoke(other, 1, allow()), Err(Illegal::Incomplete(_))), "{other}");
        }
        assert_eq!(w.revoke(who, 2, allow()), Err(Illegal::UnknownGrant(grant(2))));
        let ballot = w.ballot(DecisionKind::Approve, BOB, &[(1, Change::Keep)]);
        let late = w.decide(ballot);
        assert_eq!(w.revoke(who, 1, allow()), Ok(Reply::Revoked(grant(1))));
        assert_eq!(w.the().state(), State::Running);
        assert!(w.the().gate().is_none() && w.the().grant(grant(1)).is_none(), "nothing was given");
        refuse(&w, "withdrawn by a stranger", |f| last(f).iter_mut().for_each(|d| d.actor = STRANGER));
        refuse(&w, "something else withdrawn", |f| edit(last(f), pick!(TaskGrant), |g| g.count = 7));
        refuse(&w, "its gate left without a word", |f| {
            last(f).remove(0);
        });
        refuse(&w, "withdrawn, and the gate left open", |f| last(f).truncate(1));
        refuse(&w, "withdrawn, and nobody goes on", |f| last(f).truncate(3));
        refuse(&w, "withdrawn, as if it had been approved", |f| {
            edit(last(f), pick!(Edge), |edge| edge.to = State::Approved);
        });
        refuse(&w, "withdrawn, as if somebody had decided", |f| {
            edit(last(f), pick!(Edge), |edge| edge.cause = body::Cause::Decision);
        });
        assert!(w.vote(late).is_err(), "its gate has gone");
        // It goes on as ever, and the same may be asked for again.
        let act = w.action(5, allow(), None);
        w.act(vec![act]).unwrap();
        assert_eq!(w.revoke(who, 1, allow()), Err(Illegal::UnknownGrant(grant(1))));
    }
}
