//! Votes and counting: persons, teams, groups, exclusions, overrides, changed bundles; what a decision must say.

use countersign_gateway_flow::gate::{justification, tally};
use countersign_gateway_flow::*;
use countersign_gateway_model::{Outcome, Pseudonym, State};
use countersign_ledger_entry::PayloadRole;
use countersign_ledger_entry::body::{Body, Decision, DecisionKind, Effect, RuleForm};

use crate::world::*;

fn effect(w: &World) -> Effect {
    match w.last()[0] {
        Body::Decision(decision) => decision.effect,
        body => panic!("{body:?}"),
    }
}

fn recorded(w: &World) -> Decision {
    match w.last()[0] {
        Body::Decision(decision) => decision.clone(),
        body => panic!("{body:?}"),
    }
}

fn counted(result: &Result<Reply, Illegal>) -> bool {
    matches!(result, Ok(Reply::Counted { effect: Effect::Counted, .. }))
}

fn resolved(result: &Result<Reply, Illegal>) -> bool {
    matches!(result, Ok(Reply::Resolved { .. }))
}

fn why(result: Result<Reply, Illegal>) -> (Effect, Option<WhyNot>) {
    match result {
        Ok(Reply::Counted { effect, why }) => (effect, why),
        other => panic!("{other:?}"),
    }
}

#[test]
fn quorum_counts_persons_not_accounts_and_not_votes() {
    let mut w = World::waiting(&[&[rule("r", 2)]]);
    assert!(counted(&w.approve(ALICE, &[1])));
    assert!(counted(&w.approve(ALICE, &[1])), "the same person again");
    // Another account of the same person.
    let ballot = w.ballot(DecisionKind::Approve, ALICE, &[(1, Change::Keep)]);
    let vote = w.decide(ballot);
    assert!(counted(&w.propose(who(99), Proposal::Decide(Box::new(vote)))));
    assert!(resolved(&w.approve(BOB, &[1])));
}

#[test]
fn accounts_without_a_person_count_as_the_same_person() {
    let mut w = World::waiting(&[&[rule("r", 2)]]);
    for account in [ALICE, BOB, CAROL] {
        let mut ballot = w.ballot(DecisionKind::Approve, account, &[(1, Change::Keep)]);
        ballot.person = None;
        let vote = w.decide(ballot);
        assert!(counted(&w.propose(account, Proposal::Decide(Box::new(vote)))));
    }
    assert_eq!(recorded(&w).person, UNNAMED_PERSON);
    let mut w = World::running();
    let mut act = w.action(1, needs(&["r"]), None);
    act.item.as_mut().unwrap().involved = vec![UNNAMED_PERSON];
    w.act(vec![act]).unwrap();
    let mut ballot = w.ballot(DecisionKind::Approve, BOB, &[(1, Change::Keep)]);
    ballot.person = None;
    let vote = w.decide(ballot);
    let reply = w.propose(BOB, Proposal::Decide(Box::new(vote)));
    assert_eq!(why(reply), (Effect::NotEligible, Some(WhyNot::Involved)));
}

#[test]
fn approval_by_the_acting_principal_or_its_chain_is_always_refused() {
    let mut w = World::running();
    let act = w.action(1, needs(&["r"]), None);
    let gate = Some(w.gate_terms(1));
    let by = Actor { actor: AGENT, on_behalf_of: vec![DELEGATOR] };
    w.propose_as(by, Proposal::Actions(Actions { items: vec![act], gate })).unwrap();
    for person in [AGENT, DELEGATOR] {
        assert_eq!(why(w.approve(person, &[1])), (Effect::NotEligible, Some(WhyNot::ActingChain)));
        assert_eq!(why(w.drop_items(person, &[1])), (Effect::NotEligible, Some(WhyNot::ActingChain)));
    }
    // Policy refuses them too, in words that do not say why.
    let mut vote = w.decide(w.ballot(DecisionKind::Approve, DELEGATOR, &[(1, Change::Keep)]));
    vote.asked.verdict = deny().verdict;
    let reply = w.propose(DELEGATOR, Proposal::Decide(Box::new(vote)));
    assert_eq!(why(reply), (Effect::NotEligible, Some(WhyNot::ActingChain)));
    // Not by another account of that person either.
    let ballot = w.ballot(DecisionKind::Approve, DELEGATOR, &[(1, Change::Keep)]);
    let vote = w.decide(ballot);
    let reply = w.propose(ALICE, Proposal::Decide(Box::new(vote)));
    assert_eq!(why(reply), (Effect::NotEligible, Some(WhyNot::ActingChain)));
    assert_eq!(why(w.approve(OWNER, &[1])), (Effect::NotEligible, Some(WhyNot::Involved)));
    assert!(matches!(w.reject(OWNER), Ok(Reply::Rejected { .. })), "stopping needs only an eligible person");
}

#[test]
fn distinct_teams_need_a_team_of_their_own_for_each_voter() {
    let form = RuleForm { distinct_teams: true, ..rule("r", 3) };
    let teams: [(Pseudonym, &[&str]); 4] =
        [(ALICE, &["a", "b"]), (BOB, &["a"]), (who(14), &["a", "b"]), (CAROL, &["c", "a"])];
    let mut w = World::waiting(&[&[form]]);
    for (at, (person, teams)) in teams.iter().enumerate() {
        let mut ballot = w.ballot(DecisionKind::Approve, *person, &[(1, Change::Keep)]);
        ballot.teams = teams.iter().map(|t| name(t)).collect();
        let vote = w.decide(ballot);
        let reply = w.vote(vote);
        // Three voters share two teams; the fourth brings the third team.
        assert!(if at < 3 { counted(&reply) } else { resolved(&reply) }, "{at}: {reply:?}");
    }
}

#[test]
fn distinct_teams_equal_a_brute_force_matching() {
    use proptest::prelude::*;
    fn brute(voters: &[Vec<u8>], taken: &mut Vec<u8>) -> usize {
        let Some((first, rest)) = voters.split_first() else { return 0 };
        let mut best = brute(rest, taken);
        for team in first {
            if !taken.contains(team) {
                taken.push(*team);
                best = best.max(1 + brute(rest, taken));
                taken.pop();
            }
        }
        best
    }
    let voters = prop::collection::vec(prop::collection::vec(0u8..5, 0..4), 1..6);
    proptest!(ProptestConfig::with_cases(200), |(voters in voters, quorum in 1u8..6)| {
        let form = RuleForm { distinct_teams: true, ..rule("r", quorum) };
        let w = World::waiting(&[&[form]]);
        let mut open = w.the().gate().unwrap().clone();
        for (at, teams) in (0u8..).zip(&voters) {
            open.items[0].votes.push(Vote {
                decision: decision(u64::from(at)),
                person: who(100 + at),
                actor: who(100 + at),
                at: open.opened,
                author: false,
                role: None,
                teams: teams.iter().map(|t| name(&format!("t{t}"))).collect(),
                groups: Vec::new(),
                rules: vec![name("r")],
            });
        }
        let met = voters.len() >= usize::from(quorum) && brute(&voters, &mut Vec::new()) >= usize::from(quorum);
        prop_assert_eq!(open.is_met(), met);
    });
}

#[test]
fn every_named_group_is_represented() {
    let form = RuleForm { groups: vec![name("finance"), name("legal")], ..rule("r", 1) };
    let mut w = World::waiting(&[&[form]]);
    for (person, groups, done) in
        [(ALICE, vec!["legal"], false), (BOB, vec!["ops"], false), (CAROL, vec!["finance"], true)]
    {
        let mut ballot = w.ballot(DecisionKind::Approve, person, &[(1, Change::Keep)]);
        ballot.groups = groups.into_iter().map(name).collect();
        let vote = w.decide(ballot);
        assert_eq!(resolved(&w.vote(vote)), done);
    }
}

#[test]
fn a_vote_counts_only_for_rules_and_roles_that_it_may() {
    let form = RuleForm { roles: vec![name("lead")], ..rule("r", 1) };
    let mut w = World::waiting(&[&[form, rule("s", 1)]]);
    assert!(counted(&w.approve(ALICE, &[1])), "approver is not lead");
    let mut ballot = w.ballot(DecisionKind::Approve, BOB, &[(1, Change::Keep)]);
    ballot.role = Some(name("lead"));
    ballot.items[0].rules = vec![name("s")];
    let vote = w.decide(ballot.clone());
    assert!(counted(&w.vote(vote)), "counts for another rule");
    ballot.items[0].rules = vec![name("r")];
    let vote = w.decide(ballot);
    assert!(resolved(&w.vote(vote)));
}

#[test]
fn nothing_is_approved_by_being_in_the_same_gate() {
    let mut w = World::waiting(&[&[rule("r", 1)], &[rule("r", 1)]]);
    assert!(counted(&w.approve(ALICE, &[1])));
    assert_eq!(w.the().gate().unwrap().items[1].votes.len(), 0);
    assert!(resolved(&w.approve(ALICE, &[2])));
}

#[test]
fn tally_says_what_to_ask_again_with_and_whom() {
    let mut w = World::waiting(&[&[rule("r", 1), rule("s", 2)]]);
    w.approve(ALICE, &[1]).unwrap();
    let ballot = w.ballot(DecisionKind::Approve, BOB, &[(1, Change::Keep)]);
    let before = w.the().gate().unwrap().standing();
    assert_eq!((before.items[0].satisfied.len(), before.items[0].remaining.len(), before.met), (1, 1, false));
    let after = tally(w.the().gate().unwrap(), &ballot, BOB).unwrap();
    assert_eq!((after.items[0].satisfied.len(), after.met), (2, true));
    assert_eq!(after.counted, [ALICE]);
}

#[test]
fn reject_needs_only_an_eligible_person_and_ends_the_instance() {
    let mut w = World::waiting(&[&[rule("r", 2)], &[rule("s", 2)]]);
    let ballot = w.ballot(DecisionKind::Reject, ALICE, &[]);
    let mut vote = w.decide(ballot);
    vote.asked = deny();
    vote.justification = None;
    assert_eq!(why(w.vote(vote.clone())), (Effect::NotEligible, Some(WhyNot::Policy)));
    vote.asked = allow();
    vote.shown = None;
    assert!(matches!(w.vote(vote), Ok(Reply::Rejected { .. })));
    assert_eq!(w.shape(), "decision WAITING_FOR_HUMAN>REJECTED REJECTED>TERMINATED");
}

#[test]
fn what_is_not_effective_is_recorded_and_moves_nothing() {
    let mut w = World::waiting(&[&[rule("r", 1)]]);
    let ballot = w.ballot(DecisionKind::Approve, ALICE, &[(1, Change::Keep)]);
    let good = w.decide(ballot);
    let justified = |mut asked: Asked| {
        asked.payloads.push(payload(PayloadRole::Justification));
        asked
    };
    let mut next = 500;
    let mut cast = |w: &mut World, change: &dyn Fn(&mut Decide)| {
        let mut vote = good.clone();
        next += 1;
        vote.decision = decision(next);
        change(&mut vote);
        let reply = why(w.vote(vote));
        assert_eq!(effect(w), reply.0);
        assert_eq!(w.state(), State::WaitingForHuman);
        assert!(w.the().gate().unwrap().items[0].votes.is_empty());
        reply
    };
    assert_eq!(cast(&mut w, &|v| v.asked = justified(deny())), (Effect::NotEligible, Some(WhyNot::Policy)));
    assert_eq!(cast(&mut w, &|v| v.asked = justified(needs(&["q"]))), (Effect::NotEligible, Some(WhyNot::Policy)));
    assert_eq!(cast(&mut w, &|v| v.asked = justified(error())), (Effect::PolicyError, Some(WhyNot::PolicyError)));
    assert_eq!(cast(&mut w, &|v| v.stale = true), (Effect::Stale, Some(WhyNot::Stale)));
    assert_eq!(cast(&mut w, &|v| v.reasked[0].asked = error()), (Effect::PolicyError, Some(WhyNot::PolicyError)));
    assert!(resolved(&w.vote(good)));
}

#[test]
fn a_hard_deny_by_now_is_not_effective_and_system_rejects() {
    for kind in [DecisionKind::Approve, DecisionKind::Override] {
        let mut w = World::waiting(&[&[rule("r", 2)]]);
        let change = if kind == DecisionKind::Approve { Change::Keep } else { Change::Replace(digest(99)) };
        let ballot = w.ballot(kind, ALICE, &[(1, change)]);
        let mut vote = w.decide(ballot);
        vote.reasked = vec![Reasked { item: item(1), asked: deny() }];
        assert!(matches!(w.vote(vote), Ok(Reply::HardDenied { .. })));
        assert_eq!(w.shape(), "decision system_reject WAITING_FOR_HUMAN>REJECTED REJECTED>TERMINATED");
        assert_eq!(effect(&w), Effect::HardDenied);
    }
}

#[test]
fn an_override_replaces_the_digest_and_earlier_approvals_do_not_carry_over() {
    let mut w = World::waiting(&[&[rule("r", 2)]]);
    w.approve(ALICE, &[1]).unwrap();
    assert!(counted(&w.replace(BOB, 1, &[rule("q", 1), rule("r", 1)])));
    let at = w.the().gate().unwrap().items[0].clone();
    assert!(at.replaced && at.rules.len() == 2 && at.votes.len() == 1);
    assert_eq!(why(w.approve(BOB, &[1])), (Effect::NotEligible, Some(WhyNot::Involved)), "the author approves nothing");
    let reply = w.approve(CAROL, &[1]);
    assert!(matches!(reply, Ok(Reply::Resolved { through: State::Overridden, .. })), "{reply:?}");
    let permitted = w.last().into_iter().find_map(|b| if let Body::Permit(p) = b { Some(p.digest) } else { None });
    assert_eq!(permitted, Some(at.digest));
}

#[test]
fn an_override_with_votes_missing_brings_view_and_question_of_what_it_made() {
    let mut w = World::waiting(&[&[rule("r", 1)], &[rule("r", 1)]]);
    let opened = w.the().gate().unwrap().clone();
    assert_eq!((opened.view, opened.items[0].asked), (opened.sequence, opened.sequence));
    let ballot = w.ballot(DecisionKind::Override, ALICE, &[(1, Change::Replace(digest(3)))]);
    let vote = w.decide(ballot);
    for missing in [PayloadRole::Shown, PayloadRole::Question] {
        let mut vote = vote.clone();
        vote.asked.payloads.retain(|p| p.role != missing);
        assert_eq!(w.vote(vote).unwrap_err().code(), "incomplete", "{missing:?}");
    }
    assert!(counted(&w.vote(vote)));
    let changed = w.the().gate().unwrap().clone();
    let sequence = w.the().sequence();
    assert_eq!((changed.view, changed.items[0].asked, changed.items[1].asked), (sequence, sequence, opened.sequence));
    // A vote that changes no input leaves the view where it is.
    w.replace(BOB, 1, &[rule("r", 2)]).unwrap();
    let view = w.the().gate().unwrap().view;
    assert!(counted(&w.approve(CAROL, &[2])));
    assert_eq!(w.the().gate().unwrap().view, view);
}

#[test]
fn an_overrider_counts_as_one_vote_only_where_the_rule_says_so() {
    let counts = |yes| RuleForm { override_counts: yes, ..rule("r", 1) };
    let mut w = World::waiting(&[&[rule("r", 2)]]);
    assert!(counted(&w.replace(ALICE, 1, &[counts(false)])));
    let mut w = World::waiting(&[&[rule("r", 2)]]);
    assert!(resolved(&w.replace(ALICE, 1, &[counts(true)])));
    let mut w = World::waiting(&[&[rule("r", 2)]]);
    assert!(counted(&w.replace(ALICE, 1, &[RuleForm { override_counts: true, ..rule("r", 2) }])));
    assert!(resolved(&w.approve(BOB, &[1])));
    // A new input that needs nobody: one eligible decider suffices.
    let mut w = World::waiting(&[&[rule("r", 2)]]);
    assert!(resolved(&w.replace(ALICE, 1, &[])));
}

#[test]
fn going_on_without_an_item_needs_one_decider_and_confers_no_permit() {
    let mut w = World::running();
    w.open_gate(&[&[rule("r", 2)], &[rule("r", 1)]], &[3]).unwrap();
    assert!(counted(&w.drop_items(ALICE, &[1])));
    let twice = w.ballot(DecisionKind::Approve, BOB, &[(1, Change::Keep)]);
    let twice = w.decide(twice);
    assert_eq!(w.vote(twice), Err(Illegal::ItemDropped(item(1))));
    let Ok(Reply::Resolved { through, actions, .. }) = w.approve(BOB, &[2]) else { panic!() };
    assert_eq!(through, State::Overridden);
    assert_eq!(actions[0], ActionAnswer::Dropped(action(1)));
    assert_eq!(w.shape().matches("permit").count(), 2);
    let mut w = World::waiting(&[&[rule("r", 2)], &[rule("r", 2)]]);
    assert!(resolved(&w.drop_items(ALICE, &[1, 2])));
    assert!(!w.shape().contains("permit"));
}

#[test]
fn a_start_is_never_gone_on_without() {
    let mut w = World::queued();
    w.start(needs(&["r"])).unwrap();
    assert_eq!(w.drop_items(ALICE, &[1]), Err(Illegal::CannotDrop));
    assert!(resolved(&w.replace(ALICE, 1, &[])));
}

#[test]
fn a_changed_bundle_only_makes_a_gate_stricter() {
    let w = World::waiting(&[&[rule("r", 2)]]);
    let vote = |w: &mut World, person, current: &[RuleForm]| {
        let mut ballot = w.ballot(DecisionKind::Approve, person, &[(1, Change::Keep)]);
        ballot.current.push(Current { item: item(1), rules: current.to_vec() });
        for form in current {
            ballot.items[0].rules.push(form.rule.clone());
        }
        let vote = w.decide(ballot);
        w.vote(vote)
    };
    // A lower quorum is not taken over, and not recorded.
    let mut lower = w.clone();
    assert!(counted(&vote(&mut lower, ALICE, &[rule("r", 1)])));
    assert!(recorded(&lower).rules.is_empty());
    assert!(resolved(&vote(&mut lower, BOB, &[rule("r", 1)])));
    // A larger one is, and stays.
    let mut larger = w.clone();
    assert!(counted(&vote(&mut larger, ALICE, &[rule("r", 3)])));
    assert!(counted(&larger.approve(BOB, &[1])));
    assert!(resolved(&larger.approve(CAROL, &[1])));
    // A rule is added.
    let mut added = w.clone();
    assert!(counted(&vote(&mut added, ALICE, &[rule("s", 1)])));
    let mut ballot = added.ballot(DecisionKind::Approve, BOB, &[(1, Change::Keep)]);
    ballot.items[0].rules = vec![name("r")];
    let bob = added.decide(ballot);
    assert!(resolved(&added.vote(bob)), "alice's vote counts for the added rule");
    // A rule that is gone from the bundle is counted from its pinned form: `current` does not have it.
    let mut gone = w.clone();
    assert!(counted(&vote(&mut gone, ALICE, &[])));
    assert!(resolved(&vote(&mut gone, BOB, &[])));
}

#[test]
fn counted_approvers_who_are_no_longer_eligible_drop_out() {
    let mut w = World::waiting(&[&[rule("r", 2)]]);
    w.approve(ALICE, &[1]).unwrap();
    let mut ballot = w.ballot(DecisionKind::Approve, BOB, &[(1, Change::Keep)]);
    ballot.lapsed = vec![ALICE];
    let mut vote = w.decide(ballot);
    vote.asked_again = vec![ALICE];
    assert!(counted(&w.vote(vote)));
    assert_eq!((recorded(&w).asked, recorded(&w).lapsed), (vec![ALICE], vec![ALICE]));
    assert!(resolved(&w.approve(CAROL, &[1])));
}

#[test]
fn policy_must_have_been_asked_with_what_the_votes_satisfy() {
    let mut w = World::waiting(&[&[rule("r", 1)]]);
    let ballot = w.ballot(DecisionKind::Approve, ALICE, &[(1, Change::Keep)]);
    let mut vote = w.decide(ballot);
    vote.reasked[0].asked = needs(&["r"]);
    assert_eq!(w.vote(vote.clone()), Err(Illegal::AskAgain));
    vote.reasked[0].asked = needs(&["unknown-rule"]);
    assert_eq!(w.vote(vote.clone()).unwrap_err().code(), "incomplete");
    vote.reasked.clear();
    assert_eq!(w.vote(vote).unwrap_err().code(), "incomplete");
}

#[test]
fn a_decision_says_what_it_must() {
    let mut w = World::waiting(&[&[rule("r", 2)]]);
    let approve = w.ballot(DecisionKind::Approve, ALICE, &[(1, Change::Keep)]);
    let approve = w.decide(approve);
    let change = w.ballot(DecisionKind::Override, ALICE, &[(1, Change::Replace(digest(3)))]);
    let change = w.decide(change);
    let reject = w.ballot(DecisionKind::Reject, ALICE, &[]);
    let reject = w.decide(reject);
    type Edit = fn(&mut Decide);
    let cases: [(&Decide, Edit, &str); 21] = [
        (&approve, |d| d.gate = gate(2), "gate-closed"),
        (&approve, |d| d.shown = Some(digest(7)), "view-stale"),
        (&approve, |d| d.shown = None, "view-stale"),
        (&approve, |d| d.view = digest(7), "view-stale"),
        (&reject, |d| d.shown = Some(digest(7)), "view-stale"),
        (&approve, |d| d.justification = None, "justification-blank"),
        (&approve, |d| d.justification = Some(" \t\u{200b}\n".to_owned()), "justification-blank"),
        (&change, |d| d.justification = Some(String::new()), "justification-blank"),
        (&approve, |d| d.asked.payloads.clear(), "incomplete"),
        (&change, |d| d.delta = None, "override-without-delta"),
        (&approve, |d| d.delta = Some(digest(1)), "delta-without-override"),
        (&approve, |d| d.ballot.items[0].change = Change::Drop, "delta-without-override"),
        (&change, |d| d.ballot.items[0].change = Change::Keep, "override-changes-nothing"),
        (&change, |d| d.ballot.items[0].change = Change::Replace(d.ballot.items[0].digest), "override-changes-nothing"),
        (&approve, |d| d.ballot.items[0].digest = digest(1), "item-stale"),
        (&approve, |d| d.ballot.items[0].item = item(9), "item-unknown"),
        (&approve, |d| d.ballot.items.push(d.ballot.items[0].clone()), "duplicate-id"),
        (&approve, |d| d.ballot.items.clear(), "decision-items"),
        (
            &reject,
            |d| {
                d.ballot.items.push(BallotItem {
                    item: item(1),
                    digest: digest(1),
                    rules: Vec::new(),
                    change: Change::Keep,
                })
            },
            "decision-items",
        ),
        (&approve, |d| d.ballot.person = Some(Pseudonym::SYSTEM), "decider-not-a-person"),
        (&approve, |d| d.asked.verdict = None, "incomplete"),
    ];
    for (at, (decide, edit, code)) in cases.iter().enumerate() {
        let mut edited = (*decide).clone();
        edit(&mut edited);
        let before = w.appends.len();
        let by = Pseudonym::from_bytes([11; 16]);
        let reply = w.propose(by, Proposal::Decide(Box::new(edited)));
        assert_eq!(reply.unwrap_err().code(), *code, "case {at}");
        assert_eq!(w.appends.len(), before);
    }
    let system = w.propose(Pseudonym::SYSTEM, Proposal::Decide(Box::new(approve.clone())));
    assert_eq!(system, Err(Illegal::NotAPerson));
    assert!(counted(&w.vote(approve)));
}

#[test]
fn justifications_are_normalised_and_never_cut() {
    assert_eq!(justification("a\r\nb\rc", 1, 10), Ok("a\nb\nc".to_owned()));
    for blank in ["", "  ", "\r\n\t", "\u{feff}\u{200d}"] {
        assert_eq!(justification(blank, 0, 10), Err(Illegal::BlankJustification));
    }
    assert_eq!(justification("abc", 4, 10), Err(Illegal::JustificationLength { min: 4, max: 10, got: 3 }));
    assert_eq!(justification("äöü", 1, 3), Ok("äöü".to_owned()));
    assert_eq!(justification("abcd", 1, 3), Err(Illegal::JustificationLength { min: 1, max: 3, got: 4 }));
}

#[test]
fn an_approval_is_consumed_with_its_item() {
    let mut w = World::waiting(&[&[rule("r", 1)]]);
    w.approve(ALICE, &[1]).unwrap();
    let permit =
        w.last().into_iter().find_map(|b| if let Body::Permit(p) = b { Some(p.permit) } else { None }).unwrap();
    w.begin(permit).unwrap();
    w.report(permit, Outcome::Succeeded).unwrap();
    let act = w.action(1, needs(&["r"]), None);
    let gate = Some(GateTerms { gate: gate(2), ..w.gate_terms(2) });
    w.propose(AGENT, Proposal::Actions(Actions { items: vec![act], gate })).unwrap();
    assert!(w.the().gate().unwrap().items[0].votes.is_empty());
}
