//! Rules lifted without their quorum: what counts, what is refused, what is recorded and changes nothing; and forgeries.

use countersign_gateway_flow::rows::{GATES, GateRow, LIFTS, LiftRow, OWED_REVIEWS};
use countersign_gateway_flow::*;
use countersign_gateway_model::{Decision as Answer, Digest, Pseudonym, State, Timestamp, Verdict};
use countersign_ledger_entry::PayloadRole;
use countersign_ledger_entry::body::{Body, Effect, ItemRules};

use crate::histories::{append, edit, last, pick, refuse};
use crate::world::*;

/// What is changed of a lift that would count.
type Change = fn(&mut LiftRule);

fn row<T: serde::de::DeserializeOwned>(w: &World, table: &'static str, key: &[u8]) -> Option<T> {
    w.rows.get(&(table, key.to_vec())).map(|columns| serde_json::from_slice(columns).unwrap())
}

#[test]
fn a_lifted_rule_counts_as_met_and_the_others_still_want_their_votes() {
    let mut w = World::waiting(&[&[rule("r", 2), rule("s", 1)]]);
    let reply = w.lift(ALICE, 1, "r").unwrap();
    assert!(matches!(reply, Reply::Counted { effect: Effect::Counted, why: None }), "{reply:?}");
    let open = w.the().gate().unwrap();
    let standing = open.standing();
    assert_eq!(standing.items[0].satisfied, [name("r")].into());
    assert_eq!(standing.items[0].lifted, [name("r")].into());
    assert_eq!(standing.items[0].remaining, [name("s")]);
    assert_eq!((standing.counted.as_slice(), standing.lifters.as_slice()), (&[][..], &[ALICE][..]));
    // The lift is no vote: the other rule is met by one.
    assert!(matches!(w.approve(BOB, &[1]).unwrap(), Reply::Resolved { through: State::Approved, .. }));
    assert_eq!(
        w.shape(),
        "decision WAITING_FOR_HUMAN>APPROVED APPROVED>RESUMED RESUMED>RUNNING permit",
        "the last vote resolves as ever"
    );
    assert_eq!(w.replay().as_ref(), Ok(w.the()));
}

#[test]
fn the_last_rule_lifted_resolves_as_the_last_vote_does() {
    let mut w = World::running();
    w.open_gate(&[&[rule("r", 2)], &[rule("s", 1)]], &[5]).unwrap();
    w.approve(BOB, &[2]).unwrap();
    let Reply::Resolved { through, state, actions, .. } = w.lift(ALICE, 1, "r").unwrap() else { panic!() };
    assert_eq!((through, state, actions.len()), (State::Approved, State::Running, 3));
    assert_eq!(w.shape(), "lift WAITING_FOR_HUMAN>APPROVED APPROVED>RESUMED RESUMED>RUNNING permit permit permit");
    let gate: GateRow = row(&w, GATES, gate(1).as_bytes()).unwrap();
    let Body::Lift(lift) = w.last()[0] else { panic!() };
    assert_eq!(gate.items[0].rules[0].lifted, Some(lift.lift));
    let owed: LiftRow = row(&w, OWED_REVIEWS, lift.lift.as_bytes()).unwrap();
    assert_eq!((owed.effect, owed.person, owed.rule.as_str()), (Effect::Resolving, ALICE, "r"));
    assert_eq!(owed.acting, [AGENT]);
    assert!([OWNER, INITIATOR].iter().all(|who| owed.concerned.contains(who)), "{:?}", owed.concerned);
}

#[test]
fn an_override_takes_back_the_lifts_of_what_it_replaces() {
    let mut w = World::waiting(&[&[rule("r", 1), rule("s", 1)]]);
    w.lift(ALICE, 1, "r").unwrap();
    w.replace(BOB, 1, &[rule("r", 1), rule("s", 1)]).unwrap();
    assert_eq!(w.the().gate().unwrap().standing().items[0].remaining, [name("r"), name("s")]);
    // And who made the new input lifts nothing from it.
    let reply = w.lift(BOB, 1, "r").unwrap();
    assert!(matches!(reply, Reply::Counted { effect: Effect::NotEligible, why: Some(WhyNot::Involved) }), "{reply:?}");
    w.lift(ALICE, 1, "r").unwrap();
    assert!(matches!(w.lift(ALICE, 1, "s").unwrap(), Reply::Resolved { through: State::Overridden, .. }));
}

#[test]
fn one_who_may_no_longer_lift_is_counted_no_longer() {
    let mut w = World::waiting(&[&[rule("r", 1), rule("s", 1)]]);
    w.lift(ALICE, 1, "r").unwrap();
    let mut ballot = w.ballot(
        countersign_ledger_entry::body::DecisionKind::Approve,
        BOB,
        &[(1, countersign_gateway_flow::Change::Keep)],
    );
    ballot.items[0].rules = vec![name("s")];
    ballot.lapsed = vec![ALICE];
    let decide = w.decide(ballot);
    assert!(matches!(w.vote(decide).unwrap(), Reply::Counted { effect: Effect::Counted, .. }));
    assert_eq!(w.the().gate().unwrap().standing().items[0].remaining, [name("r")]);
}

#[test]
fn what_policy_adds_by_now_is_asked_for_beside_a_lifted_rule() {
    let mut w = World::waiting(&[&[rule("r", 1)]]);
    let mut lift = w.lifting(ALICE, 1, "r");
    lift.lifting.current = vec![Current { item: item(1), rules: vec![rule("r", 3), rule("t", 1)] }];
    lift.reasked[0].asked = needs(&["t"]);
    assert!(matches!(w.propose_lift(lift).unwrap(), Reply::Counted { effect: Effect::Counted, .. }));
    let standing = w.the().gate().unwrap().standing();
    assert_eq!((standing.items[0].remaining.as_slice(), standing.met), (&[name("t")][..], false));
    assert!(matches!(w.approve(BOB, &[1]).unwrap(), Reply::Resolved { .. }));
}

#[test]
fn a_denial_by_now_ends_the_instance_whoever_lifts_and_an_error_does_not() {
    let mut w = World::waiting(&[&[rule("r", 1)]]);
    let mut lift = w.lifting(ALICE, 1, "r");
    lift.reasked[0].asked = error();
    assert!(matches!(w.propose_lift(lift).unwrap(), Reply::Counted { effect: Effect::PolicyError, .. }));
    let mut lift = w.lifting(ALICE, 1, "r");
    lift.reasked[0].asked = deny();
    assert!(matches!(w.propose_lift(lift).unwrap(), Reply::HardDenied { .. }));
    assert_eq!(w.shape(), "lift system_reject WAITING_FOR_HUMAN>REJECTED REJECTED>TERMINATED");
    assert!(w.rows.keys().all(|(table, _)| *table != OWED_REVIEWS), "nothing was lifted");
    assert_eq!(w.rows.keys().filter(|(table, _)| *table == LIFTS).count(), 2, "and both attempts are listed");
}

#[test]
fn who_may_not_is_recorded_and_lifts_nothing() {
    let cases: [(&str, Change, Effect, WhyNot); 4] = [
        ("policy denies", |l| l.asked.verdict = deny().verdict, Effect::NotEligible, WhyNot::Policy),
        ("policy fails", |l| l.asked.verdict = error().verdict, Effect::PolicyError, WhyNot::PolicyError),
        ("the rule names others", |l| l.named = false, Effect::NotEligible, WhyNot::NotNamed),
        ("the question cannot be read", |l| l.stale = true, Effect::Stale, WhyNot::Stale),
    ];
    for (what, change, effect, why) in cases {
        let mut w = World::waiting(&[&[rule("r", 1)]]);
        let mut lift = w.lifting(ALICE, 1, "r");
        change(&mut lift);
        assert_eq!(w.propose_lift(lift), Ok(Reply::Counted { effect, why: Some(why) }), "{what}");
        assert_eq!((w.state(), w.shape().as_str()), (State::WaitingForHuman, "lift"), "{what}");
        assert!(w.the().gate().unwrap().items[0].lifted.is_empty(), "{what}");
    }
    for (person, why) in [(AGENT, WhyNot::ActingChain), (OWNER, WhyNot::Involved)] {
        let mut w = World::waiting(&[&[rule("r", 1)]]);
        assert_eq!(w.lift(person, 1, "r"), Ok(Reply::Counted { effect: Effect::NotEligible, why: Some(why) }));
    }
}

#[test]
fn what_can_be_no_lift_leaves_no_entry() {
    let cases: [(&str, Change, &str); 8] = [
        ("of another view", |l| l.shown = digest(9), "view-stale"),
        ("without a reason", |l| l.justification = " \u{200b}".to_owned(), "justification-blank"),
        ("of an unknown item", |l| l.lifting.item = item(9), "item-unknown"),
        ("of another input", |l| l.lifting.digest = digest(9), "item-stale"),
        ("of a rule that nobody asks for", |l| l.lifting.rule = name("t"), "rule-not-asked"),
        ("at another gate", |l| l.gate = gate(9), "gate-closed"),
        ("by SYSTEM", |l| l.lifting.person = Some(Pseudonym::SYSTEM), "decider-not-a-person"),
        ("with a review in the past", |l| l.review_by = Timestamp(0), "incomplete"),
    ];
    for (what, change, code) in cases {
        let mut w = World::waiting(&[&[rule("r", 1)]]);
        let mut lift = w.lifting(ALICE, 1, "r");
        change(&mut lift);
        let before = w.appends.len();
        let refused = w.propose(ALICE, Proposal::Lift(Box::new(lift))).unwrap_err();
        assert_eq!((refused.code(), w.appends.len()), (code, before), "{what}");
    }
    let mut w = World::waiting(&[&[rule("r", 1), rule("s", 1)]]);
    w.lift(ALICE, 1, "r").unwrap();
    assert_eq!(w.lift(BOB, 1, "r").unwrap_err().code(), "rule-met");
    let lift = w.lifting(ALICE, 1, "s");
    let chained = Actor { actor: ALICE, on_behalf_of: vec![BOB] };
    assert_eq!(w.propose_as(chained, Proposal::Lift(Box::new(lift))), Err(Illegal::NotAPerson));
    w.frozen = true;
    assert_eq!(w.lift(ALICE, 1, "s"), Err(Illegal::Frozen));
    w.frozen = false;
    w.at = Timestamp(50_000);
    assert_eq!(w.lift(ALICE, 1, "s").unwrap_err().code(), "gate-expired");
}

#[test]
fn no_two_lifts_have_one_id_whatever_the_first_one_did() {
    let mut w = World::waiting(&[&[rule("r", 1), rule("s", 1)]]);
    let mut vain = w.lifting(ALICE, 1, "r");
    vain.named = false;
    w.propose_lift(vain.clone()).unwrap();
    w.lift(ALICE, 1, "r").unwrap();
    let Body::Lift(counted) = w.last()[0].clone() else { panic!() };
    for taken in [vain.lift, counted.lift] {
        let again = LiftRule { lift: taken, ..w.lifting(BOB, 1, "s") };
        let refused = w.propose(BOB, Proposal::Lift(Box::new(again))).unwrap_err();
        assert_eq!(refused, Illegal::Duplicate("lift"));
    }
    w.lift(BOB, 1, "s").unwrap();
    refuse(&w, "under the id of one that counted", |f| edit(last(f), pick!(Lift), |l| l.lift = counted.lift));
    refuse(&w, "under the id of one that did nothing", |f| edit(last(f), pick!(Lift), |l| l.lift = vain.lift));
}

#[test]
fn a_forged_lift_is_no_history() {
    let mut counted = World::waiting(&[&[rule("r", 1), rule("s", 1)], &[rule("s", 1)]]);
    counted.lift(ALICE, 1, "r").unwrap();
    let mut resolving = World::waiting(&[&[rule("r", 1)]]);
    resolving.lift(ALICE, 1, "r").unwrap();
    type Edit = fn(&mut countersign_ledger_entry::body::Lift);
    let forged: [(&str, Edit); 12] = [
        ("of a rule that is not asked for", |l| l.rule = name("t")),
        ("of another item's rule", |l| l.item = item(2)),
        ("of an item that is not there", |l| l.item = item(7)),
        ("at a gate that is not open", |l| l.gate = gate(7)),
        ("of another input", |l| l.digest = Digest([1; 32])),
        ("by SYSTEM", |l| l.person = Pseudonym::SYSTEM),
        ("by one who is involved", |l| l.person = OWNER),
        ("by the agent", |l| l.person = AGENT),
        ("with a review that was due", |l| l.review_by = Timestamp(1)),
        ("that claims to resolve", |l| l.effect = Effect::Resolving),
        ("that claims a denial", |l| l.effect = Effect::HardDenied),
        ("with rules of no item", |l| l.rules = vec![ItemRules { item: item(7), rules: vec![rule("r", 1)] }]),
    ];
    for (what, change) in forged {
        refuse(&counted, what, |f| edit(last(f), pick!(Lift), change));
    }
    refuse(&counted, "not asked", |f| last(f)[0].verdict = None);
    refuse(&counted, "denied", |f| last(f)[0].verdict = Some(Verdict::deny()));
    refuse(&counted, "needs approval", |f| last(f)[0].verdict = Some(Verdict::needs_approval(vec![name("r")])));
    refuse(&counted, "on behalf of another", |f| last(f)[0].on_behalf_of = vec![BOB]);
    refuse(&counted, "by the agent's account", |f| last(f)[0].actor = AGENT);
    refuse(&counted, "unjustified", |f| last(f)[0].payloads.retain(|p| p.role != PayloadRole::Justification));
    refuse(&counted, "twice", |f| {
        let again = last(f).clone();
        append(f, again);
    });
    refuse(&counted, "not effective, and yet it changes the rules", |f| {
        edit(last(f), pick!(Lift), |l| {
            l.effect = Effect::NotEligible;
            l.lapsed = vec![BOB];
        });
    });
    refuse(&resolving, "that claims only to count", |f| edit(last(f), pick!(Lift), |l| l.effect = Effect::Counted));
    refuse(&resolving, "whose permit is left out", |f| {
        last(f).pop();
    });
    refuse(&resolving, "whose question was not allowed", |f| {
        for draft in &mut last(f)[1..] {
            draft.verdict.as_mut().unwrap().decision = Answer::NeedsApproval;
        }
    });
}
