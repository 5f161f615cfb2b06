//! Every path through one gate of at most 2 items with quorum at most 2: every decision kind by several persons, in every
//! order, with expiry, deadline, stops and outcomes in between, until nothing new is reached.
//!
//! Authority is judged by an oracle of its own, which knows nothing of gates: it reads the entries of a history and asks
//! of each permit who approved exactly that digest.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use countersign_gateway_flow::*;
use countersign_gateway_model::{
    Decision as Answer, Digest, GrantId, ItemId, Name, Outcome, PermitId, Pseudonym, State, Timestamp,
};
use countersign_ledger_entry::PayloadRole;
use countersign_ledger_entry::body::{Body, DecisionKind, Effect, GateEventKind, GateSubject, QuestionKind, RuleForm};

use crate::world::*;

#[derive(Clone, Copy, Debug)]
enum Vote {
    Good,
    NotEligible,
    Stale,
    PolicyError,
    HardDeny,
    Lapse(Pseudonym),
}

#[derive(Clone, Debug)]
enum Move {
    Approve(Pseudonym, Vec<u64>, Vote),
    Drop(Pseudonym, Vec<u64>),
    Replace(Pseudonym, u64, Vec<RuleForm>),
    Lift(Pseudonym, u64, Name, Vote),
    Reject(Pseudonym, bool),
    Expire,
    Deadline,
    Terminate(Pseudonym, Answer),
    Outcome(PermitId, Pseudonym),
    Comment,
    Begin(PermitId, Pseudonym),
    Complete,
    Use(u64),
    Revoke(Pseudonym, Answer),
}

const PERSONS: [Pseudonym; 4] = [ALICE, BOB, OWNER, AGENT];

fn moves(w: &World, quorum: u8) -> Vec<Move> {
    let mut out = vec![Move::Deadline, Move::Complete, Move::Terminate(OWNER, Answer::Deny)];
    for answer in [Answer::Allow, Answer::NeedsApproval, Answer::Deny] {
        out.push(Move::Terminate(STRANGER, answer));
    }
    let the = w.the();
    // An operation is the gateway's to carry out; its proposer tries all the same.
    let hands = |operation: bool| if operation { &[AGENT, Pseudonym::SYSTEM][..] } else { &[AGENT] };
    out.extend(the.open_starts().flat_map(|(p, s)| hands(s.operation).iter().map(move |by| Move::Outcome(p, *by))));
    out.extend(the.startable(w.at).flat_map(|(p, l)| hands(l.operation).iter().map(move |by| Move::Begin(p, *by))));
    if let Some(held) = the.grants().next() {
        out.extend([Move::Use(1), Move::Use(2)]);
        out.extend([ALICE, OWNER].map(|by| Move::Revoke(by, Answer::Deny)));
        out.push(Move::Revoke(STRANGER, Answer::Allow));
        assert_eq!(held.body.grant, grant(1));
    }
    let Some(open) = the.gate() else { return out };
    out.extend([Move::Expire, Move::Comment]);
    let live: Vec<u64> = (1..).zip(&open.items).filter(|(_, i)| !i.dropped).map(|(n, _)| n).collect();
    let mut subsets: Vec<Vec<u64>> = live.iter().map(|n| vec![*n]).collect();
    if live.len() == 2 {
        subsets.push(live.clone());
    }
    for (n, rule) in live.iter().flat_map(|n| open.item(item(*n)).unwrap().rules.iter().map(|r| (*n, r.rule.clone()))) {
        // Whoever may never lift tries it once for every state.
        let tries = [
            (ALICE, Vote::Good),
            (BOB, Vote::NotEligible),
            (BOB, Vote::HardDeny),
            (OWNER, Vote::Good),
            (AGENT, Vote::Good),
        ];
        out.extend(tries.map(|(person, vote)| Move::Lift(person, n, rule.clone(), vote)));
    }
    for person in PERSONS {
        out.extend([Move::Reject(person, true), Move::Reject(person, false)]);
        if [OWNER, AGENT].contains(&person) {
            // Whoever may never approve tries it once for every state.
            out.push(Move::Approve(person, live.clone(), Vote::Good));
            out.push(Move::Drop(person, live.clone()));
            continue;
        }
        for items in &subsets {
            out.push(Move::Approve(person, items.clone(), Vote::Good));
            if person == BOB {
                for vote in [Vote::NotEligible, Vote::Stale, Vote::PolicyError, Vote::HardDeny, Vote::Lapse(ALICE)] {
                    out.push(Move::Approve(person, items.clone(), vote));
                }
            }
            out.push(Move::Drop(person, items.clone()));
        }
        for n in &live {
            // One override an item is enough to meet every kind of vote after it.
            if !open.item(item(*n)).unwrap().replaced {
                out.push(Move::Replace(person, *n, Vec::new()));
                for override_counts in [false, true] {
                    out.push(Move::Replace(person, *n, vec![RuleForm { override_counts, ..rule("q", quorum) }]));
                }
            }
        }
    }
    out
}

fn take(w: &mut World, step: &Move) -> Result<Reply, Illegal> {
    match step {
        Move::Approve(person, items, vote) => {
            let items: Vec<_> = items.iter().map(|n| (*n, Change::Keep)).collect();
            let mut ballot = w.ballot(DecisionKind::Approve, *person, &items);
            if let Vote::Lapse(who) = vote {
                ballot.lapsed = vec![*who];
            }
            let mut decide = w.decide(ballot);
            match vote {
                Vote::Good | Vote::Lapse(_) => {}
                Vote::NotEligible => {
                    decide.asked = deny();
                    decide.asked.payloads.push(payload(PayloadRole::Justification));
                }
                Vote::Stale => decide.stale = true,
                Vote::PolicyError => decide.reasked.iter_mut().for_each(|r| r.asked = error()),
                Vote::HardDeny => decide.reasked.iter_mut().for_each(|r| r.asked = deny()),
            }
            w.vote(decide)
        }
        Move::Lift(person, n, rule, vote) => {
            let mut lift = w.lifting(*person, *n, rule.as_str());
            match vote {
                Vote::HardDeny => lift.reasked.iter_mut().for_each(|r| r.asked = deny()),
                Vote::NotEligible => lift.named = false,
                _ => {}
            }
            w.propose_lift(lift)
        }
        Move::Drop(person, items) => w.drop_items(*person, items),
        Move::Replace(person, n, rules) => w.replace(*person, *n, rules),
        Move::Reject(person, eligible) => {
            let ballot = w.ballot(DecisionKind::Reject, *person, &[]);
            let mut decide = w.decide(ballot);
            if !eligible {
                decide.asked = deny();
            }
            w.vote(decide)
        }
        Move::Expire => {
            w.at = Timestamp(20_000);
            w.expire(deny())
        }
        Move::Deadline => {
            w.at = Timestamp(1_000_000);
            w.deadline(allow())
        }
        Move::Terminate(by, answer) => {
            let asked = match answer {
                Answer::Allow => allow(),
                Answer::NeedsApproval => needs(&["r"]),
                Answer::Deny => deny(),
            };
            w.terminate(*by, asked)
        }
        Move::Outcome(permit, by) => w.report_as(*by, *permit, Outcome::Succeeded),
        Move::Comment => {
            let note = GateNote {
                gate: gate(1),
                event: GateEventKind::Comment,
                rule: None,
                to: None,
                step: None,
                asked: allow(),
            };
            w.propose(ALICE, Proposal::GateEvent(Box::new(note)))
        }
        Move::Begin(permit, by) => w.begin_as(*by, *permit),
        Move::Complete => w.complete(allow()),
        Move::Use(actions) => {
            // The same names again and again: what matters is how often.
            let next = w.fresh() * 10;
            let batch = (0..*actions).map(|n| w.resting(next + n, &[1])).collect();
            w.act(batch)
        }
        Move::Revoke(by, answer) => w.revoke(*by, 1, if *answer == Answer::Allow { allow() } else { deny() }),
    }
}

/// What matters of a world for what can follow.
fn key(w: &World) -> String {
    let the = w.the();
    let items: Vec<_> = the.gate().map_or(Vec::new(), |g| {
        g.items
            .iter()
            .map(|i| {
                let votes: BTreeSet<_> = i.votes.iter().map(|v| (v.person, v.author)).collect();
                let rules: Vec<_> = i.rules.iter().map(|r| (r.rule.clone(), r.quorum, r.override_counts)).collect();
                let lifted: Vec<_> = i.lifted.iter().map(|l| (l.person, l.rule.clone())).collect();
                (i.replaced, i.dropped, votes, rules, i.authors.clone(), lifted)
            })
            .collect()
    });
    let subject = the.gate().map(|g| g.subject);
    let starts: Vec<_> = the.open_starts().map(|(p, _)| p).collect();
    let grants: Vec<_> = the.grants().map(|g| (g.body.count, g.used, g.revoked)).collect();
    format!("{:?}", (the.state(), subject, items, starts, the.startable(w.at).count(), w.at, grants))
}

/// The oracle's view of one item.
struct Judged {
    id: ItemId,
    digest: Digest,
    quorums: Vec<(Name, u8, bool)>,
    approvers: BTreeSet<Pseudonym>,
    author: Option<Pseudonym>,
    lifted: BTreeMap<Name, Pseudonym>,
    authors: BTreeSet<Pseudonym>,
    dropped: bool,
}

/// Reads a history from its entries and judges every permit, start and edge in it.
fn judge(w: &World) {
    let mut items: Vec<Judged> = Vec::new();
    let mut cleared: BTreeSet<Digest> = BTreeSet::new();
    let mut given: BTreeSet<Digest> = BTreeSet::new();
    let mut permits: BTreeSet<PermitId> = BTreeSet::new();
    let mut started: BTreeSet<PermitId> = BTreeSet::new();
    let mut operations: BTreeSet<PermitId> = BTreeSet::new();
    let mut state = State::Created;
    let mut granting = false;
    // How often each may still be used.
    let mut grants: BTreeMap<GrantId, u32> = BTreeMap::new();
    let mut resting: Vec<GrantId> = Vec::new();
    for entry in w.appends.iter().flat_map(|a| a.iter()) {
        let header = &entry.header;
        match &header.body {
            Body::Edge(edge) => {
                assert!(edges::EDGES.contains(&(edge.from, edge.to)) && edge.from == state);
                state = edge.to;
            }
            Body::Gate(gate) => {
                granting = gate.subject == GateSubject::Grant;
                cleared = gate.cleared.iter().map(|c| c.digest).collect();
                items = gate
                    .items
                    .iter()
                    .map(|i| Judged {
                        id: i.item,
                        digest: i.digest,
                        quorums: i.rules.iter().map(|r| (r.rule.clone(), r.quorum, r.override_counts)).collect(),
                        approvers: BTreeSet::new(),
                        author: None,
                        lifted: BTreeMap::new(),
                        authors: BTreeSet::new(),
                        dropped: false,
                    })
                    .collect();
            }
            Body::Decision(decision) if matches!(decision.effect, Effect::Counted | Effect::Resolving) => {
                if decision.kind == DecisionKind::Reject {
                    continue;
                }
                assert!(![AGENT, OWNER, Pseudonym::SYSTEM].contains(&decision.person), "who may never approve");
                assert!(
                    !granting || decision.kind == DecisionKind::Approve,
                    "what is asked for in advance is not changed"
                );
                for judged in &mut items {
                    for gone in &decision.lapsed {
                        judged.approvers.remove(gone);
                        judged.author = judged.author.filter(|a| a != gone);
                        judged.lifted.retain(|_, by| by != gone);
                    }
                    let Some(decided) = decision.items.iter().find(|i| i.item == judged.id) else { continue };
                    assert!(decided.digest == judged.digest && !judged.dropped);
                    match (decision.kind, decided.instead) {
                        (DecisionKind::Override, Some(digest)) => {
                            judged.digest = digest;
                            judged.approvers.clear();
                            judged.lifted.clear();
                            judged.author = Some(decision.person);
                            judged.authors.insert(decision.person);
                            let forms = decision.rules.iter().filter(|r| r.item == judged.id).flat_map(|r| &r.rules);
                            judged.quorums = forms.map(|r| (r.rule.clone(), r.quorum, r.override_counts)).collect();
                        }
                        (DecisionKind::Override, None) => judged.dropped = true,
                        (_, _) => {
                            assert!(!judged.authors.contains(&decision.person), "authors approve nothing of theirs");
                            judged.approvers.insert(decision.person);
                        }
                    }
                }
            }
            Body::Lift(lift) if matches!(lift.effect, Effect::Counted | Effect::Resolving) => {
                assert!(![AGENT, OWNER, Pseudonym::SYSTEM].contains(&lift.person), "who may never lift");
                let judged = items.iter_mut().find(|i| i.id == lift.item).unwrap();
                assert!(judged.digest == lift.digest && !judged.dropped && !judged.authors.contains(&lift.person));
                assert!(judged.quorums.iter().any(|(rule, ..)| *rule == lift.rule), "a rule that is asked for");
                assert!(judged.lifted.insert(lift.rule.clone(), lift.person).is_none(), "a rule is lifted once");
            }
            Body::Permit(permit) => {
                assert_eq!(state, State::Running);
                assert_eq!(header.verdict.as_ref().unwrap().decision, Answer::Allow);
                assert!(permits.insert(permit.permit));
                for grant in std::mem::take(&mut resting) {
                    let left = grants.get_mut(&grant).unwrap();
                    *left = left.checked_sub(1).unwrap();
                }
                if permit.question == QuestionKind::Operation {
                    operations.insert(permit.permit);
                }
                if let Some(through) = permit.item {
                    let judged = items.iter().find(|i| i.id == through.item).unwrap();
                    assert!(!judged.dropped && judged.digest == permit.digest);
                    assert!(given.insert(permit.digest), "an approval is consumed with its item");
                    for (rule, quorum, counts) in &judged.quorums {
                        if judged.lifted.contains_key(rule) {
                            continue;
                        }
                        let own = usize::from(*counts && judged.author.is_some());
                        assert!(judged.approvers.len() + own >= usize::from(*quorum), "a permit without its rules met");
                    }
                } else if !items.is_empty() && !granting {
                    assert!(cleared.contains(&permit.digest));
                }
            }
            Body::TaskGrant(grant) if grant.revoked => {
                assert!(grants.remove(&grant.grant).is_some(), "what was not given is not taken back");
            }
            Body::TaskGrant(grant) if !grant.approvers.is_empty() => {
                let [judged] = &items[..] else { panic!("a grant has one item") };
                assert!(granting && judged.digest == grant.scope);
                assert_eq!(judged.approvers, grant.approvers.iter().copied().collect());
                let quorum = judged.quorums.iter().map(|(_, quorum, _)| usize::from(*quorum)).max().unwrap();
                assert!(judged.approvers.len() >= quorum, "a grant without its quorum");
                assert!(grants.insert(grant.grant, grant.count).is_none());
            }
            Body::TaskGrantUse(used) => resting.push(used.grant),
            Body::Start(start) => {
                assert_eq!(state, State::Running);
                let by_gateway = header.actor == Pseudonym::SYSTEM;
                assert_eq!(
                    operations.contains(&start.permit),
                    by_gateway,
                    "the gateway carries out its own, and only those"
                );
                assert!(permits.contains(&start.permit) && started.insert(start.permit), "permits are single use");
            }
            _ => {}
        }
    }
    assert!(resting.is_empty(), "every use has its permit");
    assert!(edges::may_rest(state));
    assert_eq!(state, w.state());
}

/// Explores until nothing new is reached; how many states and moves.
fn explore(mut start: World, quorum: u8) -> (usize, usize, BTreeSet<(State, State)>) {
    start.keeps_rows = false;
    start.rows.clear();
    let mut seen = BTreeSet::from([key(&start)]);
    let mut queue = VecDeque::from([start]);
    let (mut moved, mut edges) = (0, BTreeSet::new());
    while let Some(world) = queue.pop_front() {
        for step in moves(&world, quorum) {
            let mut next = world.clone();
            let entries = next.appends.len();
            match take(&mut next, &step) {
                Err(illegal) => {
                    assert!(!matches!(illegal, Illegal::Incomplete(_) | Illegal::AskAgain), "{step:?}: {illegal}");
                    assert_eq!(next.appends.len(), entries, "what is illegal leaves no entry");
                    assert_eq!(next.instance, world.instance);
                    continue;
                }
                Ok(Reply::Nothing(state)) => {
                    assert!(state.is_terminal() || matches!(step, Move::Revoke(..)), "or it was taken back before");
                    continue;
                }
                Ok(_) => moved += 1,
            }
            judge(&next);
            for entry in next.appends.last().unwrap().iter() {
                if let Body::Edge(edge) = &entry.header.body {
                    edges.insert((edge.from, edge.to));
                }
            }
            if seen.insert(key(&next)) {
                // Whatever was decided evolves cleanly, from the leaf bytes too.
                assert_eq!(next.replay().as_ref(), Ok(next.the()));
                queue.push_back(next);
            }
        }
    }
    (seen.len(), moved, edges)
}

#[test]
fn every_path_through_one_gate_keeps_the_law() {
    let mut edges = BTreeSet::new();
    for quorums in [&[1][..], &[2], &[1, 1], &[1, 2], &[2, 2]] {
        let rules: Vec<Vec<RuleForm>> = quorums.iter().map(|q| vec![rule("r", *q)]).collect();
        let rules: Vec<&[RuleForm]> = rules.iter().map(Vec::as_slice).collect();
        let mut world = World::running();
        world.open_gate(&rules, &[5]).unwrap();
        let (states, moved, taken) = explore(world, 2);
        assert!(states > 20 && moved > states, "{states} {moved}");
        edges.extend(taken);
    }
    // From RUNNING on, every edge of the machine was met.
    assert_eq!(edges.len(), 10, "{edges:?}");
}

#[test]
fn every_path_through_the_gate_of_an_operation_keeps_the_law() {
    for quorum in [1, 2] {
        let mut world = World::running();
        let rules = vec![rule("r", quorum)];
        let mut operation = world.operation(1, needs(&["r"]));
        operation.item.as_mut().unwrap().rules = rules;
        world.act(vec![operation]).unwrap();
        let (states, moved, edges) = explore(world, 2);
        assert!(states > 20 && moved > states, "{states} {moved}");
        assert_eq!(edges.len(), 10, "{edges:?}");
    }
    let mut world = World::running();
    let operation = world.operation(1, allow());
    world.act(vec![operation]).unwrap();
    explore(world, 1);
}

#[test]
fn every_path_through_a_gate_with_its_callers_start_open_keeps_the_law() {
    let mut world = World::running();
    let open = world.started(9);
    let act = world.action(1, needs(&["r"]), None);
    let terms = GateTerms { caller: Some(open), ..world.gate_terms(1) };
    world.propose(AGENT, Proposal::Actions(Actions { items: vec![act], gate: Some(terms) })).unwrap();
    explore(world, 1);
}

#[test]
fn every_path_through_the_gate_of_a_start_a_completion_or_a_stop_keeps_the_law() {
    let mut start = World::empty();
    start.create(true, needs(&["r"])).unwrap();
    let mut complete = World::running();
    complete.complete(needs(&["r"])).unwrap();
    let mut stop = World::running();
    stop.terminate(STRANGER, needs(&["r"])).unwrap();
    for world in [start, complete, stop] {
        explore(world, 2);
    }
}

#[test]
fn every_path_through_the_gate_of_a_grant_keeps_the_law() {
    for quorum in [1, 2] {
        let mut world = World::running();
        world.ask_grant(1, rule("r", quorum), 3, 5_000).unwrap();
        let (states, moved, edges) = explore(world, 2);
        assert!(states > 20 && moved > states, "{states} {moved}");
        assert_eq!(edges.len(), 10, "{edges:?}");
    }
}
