//! Histories that must be refused: broken ones, and ones that a gateway with a valid key could have forged.

use proptest::prelude::*;

use countersign_gateway_flow::*;
use countersign_gateway_model::{Digest, GrantId, Outcome, Pseudonym, State, Timestamp, Verdict};
use countersign_ledger_entry::append::seal;
use countersign_ledger_entry::body::{self, Body, Cause, DecisionKind, Effect, OnDeny, RefusalReason};
use countersign_ledger_entry::{Draft, Frame, Header, SEMANTICS, SignedEntry};

use crate::world::*;

fn draft(header: &Header) -> Draft {
    Draft {
        body: header.body.clone(),
        verdict: header.verdict.clone(),
        determining: header.determining.clone(),
        actor: header.actor,
        on_behalf_of: header.on_behalf_of.clone(),
        payloads: header.payloads.clone(),
        fields: header.fields.clone(),
    }
}

/// One append before it is signed again.
#[derive(Clone)]
pub(crate) struct Forged {
    pub(crate) drafts: Vec<Draft>,
    pub(crate) claimed: Timestamp,
}

fn appends(w: &World) -> Vec<Forged> {
    w.appends
        .iter()
        .map(|a| Forged { drafts: a.iter().map(|e| draft(&e.header)).collect(), claimed: a[0].header.claimed })
        .collect()
}

/// Chains and signs forged appends, as a gateway with a valid key could, and folds them.
fn fold(forged: Vec<Forged>) -> Result<Option<Instance>, EvolveError> {
    let mut instance: Option<Instance> = None;
    let mut sequence = 0;
    let mut previous = None;
    for append in forged {
        let frame = Frame { sequence, previous, claimed: append.claimed, ..World::empty().frame() };
        let entries = seal(&frame, append.drafts, None).unwrap();
        for entry in &entries {
            instance = Some(Instance::evolve(instance, &entry.header, Digest(entry.hash.0))?);
            sequence += 1;
            previous = Some(Digest(entry.hash.0));
        }
    }
    Ok(instance)
}

/// A forgery of `world` must be refused; the history itself must not.
pub(crate) fn refuse(world: &World, what: &str, forge: impl FnOnce(&mut Vec<Forged>)) {
    let honest = appends(world);
    assert_eq!(fold(honest.clone()).unwrap().as_ref(), Some(world.the()), "{what}: the honest history");
    let mut forged = honest;
    forge(&mut forged);
    assert!(fold(forged).is_err(), "accepted: {what}");
}

pub(crate) fn last(f: &mut [Forged]) -> &mut Vec<Draft> {
    &mut f.last_mut().unwrap().drafts
}

pub(crate) fn edit<T>(drafts: &mut [Draft], pick: impl Fn(&mut Body) -> Option<&mut T>, change: impl FnOnce(&mut T)) {
    change(drafts.iter_mut().find_map(|d| pick(&mut d.body)).unwrap());
}

macro_rules! pick {
    ($variant:ident) => {
        |b: &mut Body| if let Body::$variant(x) = b { Some(x) } else { None }
    };
}
pub(crate) use pick;

pub(crate) fn append(f: &mut Vec<Forged>, drafts: Vec<Draft>) {
    let claimed = f.last().unwrap().claimed;
    f.push(Forged { drafts, claimed });
}

#[test]
fn starts_without_authority_are_refused() {
    let mut w = World::running();
    let permit = w.started(2);
    refuse(&w, "a second start", |f| {
        let start = last(f)[1].clone();
        append(f, vec![Draft { verdict: None, ..start }]);
    });
    refuse(&w, "a start without a permit", |f| {
        last(f).remove(0);
    });
    refuse(&w, "a start of nothing", |f| {
        let start = last(f).remove(1);
        f.pop();
        append(f, vec![Draft { verdict: None, ..start }]);
    });
    refuse(&w, "a start of another permit", |f| {
        edit(last(f), pick!(Start), |s| s.permit = crate::world::permit(4));
    });
    refuse(&w, "a permit that was given before", |f| {
        let permit = last(f)[0].clone();
        append(f, vec![permit]);
    });
    refuse(&w, "a permit that policy denied", |f| {
        for d in last(f) {
            d.verdict = Some(Verdict::deny());
        }
    });
    refuse(&w, "a permit that policy was not asked for", |f| last(f).iter_mut().for_each(|d| d.verdict = None));
    refuse(&w, "a permit that needs approval", |f| {
        for d in last(f) {
            d.verdict = Some(Verdict::needs_approval(vec![name("r")]));
        }
    });
    refuse(&w, "another verdict on the start", |f| last(f)[1].verdict = Some(Verdict::deny()));
    refuse(&w, "a start after the permit's expiry", |f| {
        let expiry = w.at.0 + 5001;
        let start = last(f).remove(1);
        f.push(Forged { drafts: vec![Draft { verdict: None, ..start }], claimed: Timestamp(expiry) });
    });
    refuse(&w, "a start that may not begin", |f| edit(last(f), pick!(Start), |s| s.not_after = Timestamp(1)));
    refuse(&w, "a tool started by a runner", |f| {
        edit(last(f), pick!(Start), |s| {
            s.by = body::StartedBy::Run(body::RunStart {
                run: countersign_gateway_model::RunId::from_bytes([1; 16]),
                attempt: 1,
                backend: name("process"),
                external_name: name("x"),
                job: digest(1),
                fence: 3,
            });
        });
    });
    refuse(&w, "a permit that is enforced otherwise", |f| edit(last(f), pick!(Permit), |p| p.enforced = false));
    refuse(&w, "a permit that names a gate", |f| {
        let item = body::GateItemRef { gate: gate(1), item: item(1) };
        edit(last(f), pick!(Permit), |p| p.item = Some(item));
    });
    refuse(&w, "a permit for a start of an instance", |f| {
        edit(last(f), pick!(Permit), |p| p.question = body::QuestionKind::Start);
    });
    refuse(&w, "completion while a start is open", |f| {
        let edge = body::Edge {
            from: State::Running,
            to: State::Completed,
            cause: Cause::Complete,
            action: None,
            objection: false,
        };
        append(f, vec![Draft { verdict: Some(Verdict::allow()), ..Draft::new(edge, AGENT) }]);
    });
    w.terminate(OWNER, allow()).unwrap();
    refuse(&w, "a permit after the end", |f| {
        let mut permit = f[1].drafts[0].clone();
        edit(std::slice::from_mut(&mut permit), pick!(Permit), |p| p.permit = crate::world::permit(5));
        append(f, vec![permit]);
    });
    w.report(permit, Outcome::Succeeded).unwrap();
    refuse(&w, "a second outcome", |f| {
        let outcome = last(f)[0].clone();
        append(f, vec![outcome]);
    });
    refuse(&w, "a superseding of what was known", |f| {
        let mut outcome = last(f)[0].clone();
        edit(std::slice::from_mut(&mut outcome), pick!(Outcome), |o| o.supersedes = true);
        append(f, vec![outcome]);
    });
    refuse(&w, "an outcome of nothing", |f| edit(last(f), pick!(Outcome), |o| o.permit = crate::world::permit(5)));
    refuse(&w, "a sweep by an agent", |f| *last(f) = vec![Draft::new(body::Sweep { permit }, AGENT)]);
    refuse(&w, "a conflict with nothing", |f| {
        let conflict = body::Conflict { permit, outcome: Outcome::Failed, output: None };
        *last(f) = vec![Draft::new(conflict, AGENT)];
    });
    refuse(&w, "a replayed start", |f| {
        let start = f[1].drafts[1].clone();
        append(f, vec![Draft { verdict: None, ..start }]);
    });
}

#[test]
fn dispatches_are_started_in_their_permits_append_under_their_own_fence() {
    let mut w = World::running();
    let run = w.run_start(7);
    let act = w.action(2, allow(), Some(run));
    w.act(vec![act]).unwrap();
    refuse(&w, "a dispatch without its start", |f| {
        last(f).remove(1);
    });
    refuse(&w, "a dispatch begun later", |f| {
        let start = last(f).remove(1);
        append(f, vec![Draft { verdict: None, ..start }]);
    });
    let fence = |by: &mut body::Start, to| {
        if let body::StartedBy::Run(run) = &mut by.by {
            run.fence = to;
        }
    };
    refuse(&w, "a fence of another start", |f| edit(last(f), pick!(Start), |s| fence(s, 2)));
    refuse(&w, "a dispatch carried out by the agent", |f| {
        edit(last(f), pick!(Start), |s| s.by = body::StartedBy::Agent);
    });
}

/// Quorum 2: alice, then bob resolves. Two items, one cleared.
fn approved() -> World {
    let mut w = World::running();
    w.open_gate(&[&[rule("r", 2)], &[rule("s", 1)]], &[3]).unwrap();
    w.approve(ALICE, &[1, 2]).unwrap();
    w.approve(BOB, &[1]).unwrap();
    w
}

#[test]
fn no_permit_comes_from_a_gate_whose_rules_are_not_met() {
    let w = approved();
    refuse(&w, "a vote left out", |f| {
        f.remove(2);
    });
    refuse(&w, "the same person twice", |f| edit(last(f), pick!(Decision), |d| d.person = ALICE));
    refuse(&w, "a vote for another rule", |f| {
        edit(last(f), pick!(Decision), |d| d.items[0].rules = vec![name("s")]);
    });
    refuse(&w, "a vote on another digest", |f| edit(last(f), pick!(Decision), |d| d.items[0].digest = digest(9)));
    refuse(&w, "a vote on an item that is not there", |f| {
        edit(last(f), pick!(Decision), |d| d.items[0].item = item(9));
    });
    refuse(&w, "a vote at another gate", |f| edit(last(f), pick!(Decision), |d| d.gate = gate(9)));
    refuse(&w, "a vote by the owner", |f| edit(last(f), pick!(Decision), |d| d.person = OWNER));
    refuse(&w, "a vote by the agent", |f| last(f)[0].actor = AGENT);
    refuse(&w, "a vote by the agent's person", |f| edit(last(f), pick!(Decision), |d| d.person = AGENT));
    refuse(&w, "SYSTEM approves", |f| {
        last(f)[0].actor = Pseudonym::SYSTEM;
        edit(last(f), pick!(Decision), |d| d.person = Pseudonym::SYSTEM);
    });
    refuse(&w, "a vote that policy did not allow", |f| last(f)[0].verdict = Some(Verdict::deny()));
    refuse(&w, "a vote that policy was not asked for", |f| last(f)[0].verdict = None);
    refuse(&w, "a vote without a justification", |f| last(f)[0].payloads.clear());
    refuse(&w, "a vote that does not say what was shown", |f| edit(last(f), pick!(Decision), |d| d.shown = None));
    refuse(&w, "a lapsed vote counted", |f| edit(last(f), pick!(Decision), |d| d.lapsed = vec![ALICE]));
    refuse(&w, "a rule added and not met", |f| {
        let rules = body::ItemRules { item: item(1), rules: vec![rule("z", 1)] };
        edit(last(f), pick!(Decision), |d| d.rules = vec![rules]);
    });
    refuse(&w, "a quorum raised and not met", |f| {
        let rules = body::ItemRules { item: item(1), rules: vec![rule("r", 3)] };
        edit(last(f), pick!(Decision), |d| d.rules = vec![rules]);
    });
    for effect in [Effect::Counted, Effect::NotEligible, Effect::Stale, Effect::HardDenied, Effect::PolicyError] {
        refuse(&w, "another effect", |f| edit(last(f), pick!(Decision), |d| d.effect = effect));
    }
    refuse(&w, "a resolving first vote", |f| {
        edit(&mut f[2].drafts, pick!(Decision), |d| d.effect = Effect::Resolving);
    });
    refuse(&w, "a quorum lowered by a vote", |f| {
        let rules = body::ItemRules { item: item(1), rules: vec![rule("r", 1)] };
        edit(&mut f[2].drafts, pick!(Decision), |d| d.rules = vec![rules]);
        edit(&mut f[2].drafts, pick!(Decision), |d| d.effect = Effect::Resolving);
        let rest = last(f).split_off(1);
        f.pop();
        last(f).extend(rest);
    });
}

#[test]
fn an_operation_that_the_gateway_did_not_carry_out_is_refused() {
    let mut w = World::running();
    let operation = w.operation(2, allow());
    let permit = operation.permit.as_ref().unwrap().permit;
    w.act(vec![operation]).unwrap();
    w.begin_as(Pseudonym::SYSTEM, permit).unwrap();
    refuse(&w, "an operation begun by its proposer", |f| last(f)[0].actor = AGENT);
    refuse(&w, "an operation begun by a runner", |f| {
        edit(last(f), pick!(Start), |s| {
            s.by = body::StartedBy::Run(body::RunStart {
                run: countersign_gateway_model::RunId::from_bytes([1; 16]),
                attempt: 1,
                backend: name("process"),
                external_name: name("x"),
                job: digest(1),
                fence: 3,
            });
        });
    });
    w.report_as(Pseudonym::SYSTEM, permit, Outcome::Succeeded).unwrap();
    refuse(&w, "an outcome that its proposer tells", |f| last(f)[0].actor = AGENT);
}

#[test]
fn what_was_approved_is_what_is_permitted() {
    let w = approved();
    assert_eq!(w.shape(), "decision WAITING_FOR_HUMAN>APPROVED APPROVED>RESUMED RESUMED>RUNNING permit permit permit");
    refuse(&w, "another digest", |f| edit(last(f), pick!(Permit), |p| p.digest = digest(9)));
    refuse(&w, "another tool", |f| edit(last(f), pick!(Permit), |p| p.tool = name("bank/pay")));
    refuse(&w, "another action", |f| edit(last(f), pick!(Permit), |p| p.action = action(9)));
    refuse(&w, "another item", |f| {
        edit(last(f), pick!(Permit), |p| p.item = Some(body::GateItemRef { gate: gate(1), item: item(2) }));
    });
    refuse(&w, "no item", |f| edit(last(f), pick!(Permit), |p| p.item = None));
    refuse(&w, "another question", |f| {
        edit(last(f), pick!(Permit), |p| p.question = body::QuestionKind::Dispatch);
    });
    refuse(&w, "two permits for one approval", |f| {
        let mut again = last(f)[4].clone();
        edit(std::slice::from_mut(&mut again), pick!(Permit), |p| p.permit = permit(9));
        last(f).push(again);
    });
    refuse(&w, "another digest of what was cleared", |f| {
        let drafts = last(f);
        let at = drafts.len() - 1;
        edit(&mut drafts[at..], pick!(Permit), |p| p.digest = digest(9));
    });
    for at in 0..7 {
        refuse(&w, "any entry of the approving append left out", |f| {
            last(f).remove(at);
        });
    }
    for at in 0..4 {
        refuse(&w, "any two of its first entries exchanged", |f| last(f).swap(at, at + 1));
    }
    for at in 1..7 {
        refuse(&w, "the append cut in two", |f| {
            let rest = last(f).split_off(at);
            append(f, rest);
        });
    }
    refuse(&w, "an approval called an override", |f| {
        edit(last(f), pick!(Edge), |e| e.to = State::Overridden);
    });
    for at in 1..4 {
        for verdict in [None, Some(Verdict::deny())] {
            refuse(&w, "an edge with another verdict", |f| last(f)[at].verdict = verdict.clone());
        }
        for cause in [Cause::Start, Cause::Terminate, Cause::Denial] {
            refuse(&w, "an edge with another cause", |f| {
                if let Body::Edge(edge) = &mut last(f)[at].body {
                    edge.cause = cause;
                }
            });
        }
        refuse(&w, "an edge with an objection", |f| {
            if let Body::Edge(edge) = &mut last(f)[at].body {
                edge.objection = true;
            }
        });
    }
    refuse(&w, "a permit begun where nobody is", |f| {
        let id = if let Body::Permit(p) = &last(f)[4].body { p.permit } else { panic!() };
        let start = body::Start { permit: id, not_after: Timestamp(90_000), by: body::StartedBy::Agent };
        last(f).insert(5, Draft { verdict: Some(Verdict::allow()), ..Draft::new(start, BOB) });
    });
}

#[test]
fn gates_are_what_policy_asked_for() {
    let w = World::waiting(&[&[rule("r", 1)], &[rule("s", 1)]]);
    type Forge = fn(&mut body::Gate);
    let cases: [(&str, Forge); 14] = [
        ("no items", |g| g.items.clear()),
        ("an item without rules", |g| g.items[0].rules.clear()),
        ("a rule that policy did not name", |g| g.items[0].rules[0].rule = name("z")),
        ("rules out of order", |g| g.items[0].rules = vec![rule("s", 1), rule("r", 1)]),
        ("a rule twice", |g| g.items[0].rules = vec![rule("r", 1), rule("r", 1)]),
        ("an item twice", |g| g.items[1].item = g.items[0].item),
        ("an action twice", |g| g.items[1].action = g.items[0].action),
        ("more than 16", |g| {
            g.cleared = (0..15).map(|n| body::ClearedItem { action: action(50 + n), digest: digest(n) }).collect();
        }),
        ("a start among actions", |g| g.items[0].question = body::QuestionKind::Start),
        ("an action without a tool", |g| g.items[0].tool = None),
        ("another subject", |g| g.subject = body::GateSubject::Complete),
        ("expired at once", |g| g.expires = Some(Timestamp(1))),
        ("no expiry", |g| g.expires = None),
        ("a caller that is not there", |g| g.caller = Some(permit(9))),
    ];
    for (what, forge) in cases {
        refuse(&w, what, |f| edit(last(f), pick!(Gate), forge));
    }
    refuse(&w, "no gate", |f| {
        last(f).remove(0);
    });
    refuse(&w, "no edge", |f| {
        last(f).remove(1);
    });
    refuse(&w, "a gate that policy did not ask for", |f| {
        last(f).iter_mut().for_each(|d| d.verdict = Some(Verdict::allow()));
    });
    refuse(&w, "a second gate", |f| {
        let again = last(f).clone();
        append(f, again);
    });
}

#[test]
fn refusals_and_denials_are_what_policy_said() {
    let mut w = World::running();
    let act = w.action(2, deny(), None);
    w.act(vec![act]).unwrap();
    for verdict in [None, Some(Verdict::allow()), Some(Verdict::needs_approval(vec![name("r")]))] {
        refuse(&w, "a refusal that policy did not say", |f| last(f)[0].verdict = verdict.clone());
    }
    refuse(&w, "an error that was none", |f| {
        edit(last(f), pick!(Refusal), |r| r.reason = RefusalReason::PolicyError);
    });
    refuse(&w, "an end by denial where a denial ends nothing", |f| {
        let edge = body::Edge {
            from: State::Running,
            to: State::Terminated,
            cause: Cause::Denial,
            action: None,
            objection: false,
        };
        last(f).push(Draft { verdict: Some(Verdict::deny()), ..Draft::new(edge, AGENT) });
    });
    let mut w = World::empty();
    w.create_with(body::Created { on_deny: OnDeny::Terminate, ..created() }, true, allow()).unwrap();
    let act = w.action(2, deny(), None);
    w.act(vec![act]).unwrap();
    refuse(&w, "a denial that ends the instance, and did not", |f| {
        last(f).pop();
    });
    let mut w = World::queued();
    w.start(deny()).unwrap();
    refuse(&w, "a refused start that stays queued", |f| last(f).truncate(1));
    refuse(&w, "a refused start that runs", |f| last(f).truncate(2));
    refuse(&w, "an end by denial without the refusal", |f| {
        last(f).remove(0);
    });
}

#[test]
fn stops_and_clocks_are_what_they_say() {
    let mut w = World::waiting(&[&[rule("r", 1)]]);
    w.at = Timestamp(11_000);
    let waiting = w.clone();
    w.expire(deny()).unwrap();
    refuse(&w, "expiry before its time", |f| f[2].claimed = Timestamp(10_999));
    refuse(&w, "expiry by a person", |f| last(f)[1].actor = ALICE);
    refuse(&w, "no objection", |f| {
        for d in last(f) {
            if let Body::Edge(e) = &mut d.body {
                e.objection = false;
            }
        }
    });
    refuse(&w, "a deadline before its time", |f| edit(last(f), pick!(Edge), |e| e.cause = Cause::Deadline));
    refuse(&w, "a stopper where a clock stopped", |f| {
        edit(last(f), pick!(Decision), |d| d.on_behalf = Some(OWNER));
    });
    refuse(&w, "SYSTEM overrides", |f| edit(last(f), pick!(Decision), |d| d.kind = DecisionKind::Override));
    refuse(&w, "SYSTEM only counts", |f| edit(last(f), pick!(Decision), |d| d.effect = Effect::Counted));
    refuse(&w, "rest in REJECTED", |f| {
        last(f).pop();
    });
    let mut w = waiting;
    w.terminate(OWNER, allow()).unwrap();
    refuse(&w, "another stopper than SYSTEM names", |f| last(f)[1].actor = INITIATOR);
    let mut w = World::running();
    w.terminate(OWNER, deny()).unwrap();
    refuse(&w, "a hidden objection", |f| edit(last(f), pick!(Edge), |e| e.objection = false));
    refuse(&w, "completion by a denied edge", |f| {
        edit(last(f), pick!(Edge), |e| (e.to, e.cause, e.objection) = (State::Completed, Cause::Complete, false));
    });
    refuse(&w, "work after the end", |f| {
        let again = last(f).clone();
        append(f, again);
    });
}

#[test]
fn an_instance_begins_once_with_created() {
    let w = World::running();
    refuse(&w, "a second beginning", |f| {
        let again = f[0].drafts.clone();
        append(f, again);
    });
    refuse(&w, "another beginning", |f| {
        f[0].drafts.remove(0);
    });
    refuse(&w, "a beginning that policy denied", |f| {
        f[0].drafts.iter_mut().for_each(|d| d.verdict = Some(Verdict::deny()));
    });
    refuse(&w, "a start that needs approval and got none", |f| {
        let verdict = Some(Verdict::needs_approval(vec![name("r")]));
        f[0].drafts.iter_mut().for_each(|d| d.verdict.clone_from(&verdict));
    });
    refuse(&w, "a kind that no row of the table writes", |f| {
        let grant = body::TaskGrant {
            grant: GrantId::from_bytes([1; 16]),
            rule: name("r"),
            tools: Vec::new(),
            scope: digest(1),
            count: 1,
            budget: None,
            until: Timestamp(1),
            approvers: vec![ALICE],
            revoked: false,
        };
        append(f, vec![Draft::new(grant, ALICE)]);
    });
}

#[test]
fn an_edge_that_is_none_is_refused_for_that_whatever_row_it_claims() {
    let completed = {
        let mut w = World::running();
        w.complete(allow()).unwrap();
        w
    };
    let mut offered = 0;
    for w in [World::queued(), World::running(), World::waiting(&[&[rule("r", 1)]]), completed] {
        let state = w.the().state();
        let honest = appends(&w);
        for (from, to) in State::ALL.into_iter().flat_map(|from| State::ALL.map(|to| (from, to))) {
            if from == state && edges::is_edge(from, to) {
                continue;
            }
            for cause in [Cause::Start, Cause::Complete, Cause::Terminate, Cause::Follow] {
                let edge = body::Edge { from, to, cause, action: None, objection: false };
                let mut forged = honest.clone();
                append(&mut forged, vec![Draft { verdict: Some(Verdict::allow()), ..Draft::new(edge, OWNER) }]);
                let why = fold(forged).unwrap_err();
                let named =
                    matches!(why, EvolveError::Edge { state: s, from: f, to: t, .. } if (s, f, t) == (state, from, to));
                // Nothing at all follows a terminal state: that is said first.
                let over = state.is_terminal() && why.to_string().contains("the instance is terminal");
                assert!(named || over, "{state}: {from} to {to} by {cause:?}: {why}");
                offered += 1;
            }
        }
    }
    // All pairs in four states, but for the edges that lead on from there: 1, 3, 3 and none.
    assert_eq!(offered, 4 * (4 * 81 - 7));
}

/// Plays a history out of a seed: moves that happen to be illegal are passed over.
fn play(seed: &[u8]) -> World {
    let mut w = World::empty();
    for (n, byte) in (10..).zip(seed) {
        w.at = Timestamp(w.at.0 + u64::from(byte % 7) * 100);
        let open = w.instance.as_ref().and_then(|i| i.open_starts().next().map(|(p, _)| p));
        let live = w.instance.as_ref().and_then(|i| i.startable(w.at).next().map(|(p, _)| p));
        let waiting = w.instance.as_ref().is_some_and(|i| i.gate().is_some());
        let answer = match byte >> 6 {
            0 | 1 => allow(),
            2 => needs(&["r"]),
            _ => deny(),
        };
        // Illegal moves leave no entry, which is all that is wanted of them here.
        let _ = match byte % 16 {
            _ if w.instance.is_none() => w.create(byte % 3 != 0, if byte % 3 == 0 { Asked::nothing() } else { answer }),
            0 => w.start(answer),
            1 | 2 if !waiting => {
                let begin = (byte % 2 == 0).then(|| w.agent_start());
                let batch = vec![w.action(n * 4, answer, begin), w.action(n * 4 + 1, allow(), None)];
                w.act(batch)
            }
            3 if !waiting => {
                let run = w.run_start(*byte);
                let batch = vec![w.action(n * 4, answer, Some(run))];
                w.act(batch)
            }
            4 if !waiting => w.open_gate(&[&[rule("r", 2)], &[rule("s", 1)]], &[n * 4 + 3]),
            5 if waiting && w.the().gate().unwrap().items.len() == 2 => w.approve(ALICE, &[1, 2]),
            6 if waiting && w.the().gate().unwrap().items.len() == 2 => w.approve(BOB, &[1]),
            7 if waiting && w.the().gate().unwrap().item(item(1)).is_some() => w.replace(CAROL, 1, &[rule("r", 1)]),
            8 if waiting && byte % 5 == 0 => w.reject(ALICE),
            9 | 10 if live.is_some() => w.begin(live.unwrap()),
            11 | 12 if open.is_some() => {
                w.report(open.unwrap(), if byte % 2 == 0 { Outcome::Unknown } else { Outcome::Failed })
            }
            13 if open.is_some() => w.sweep(open.unwrap()),
            14 if byte % 5 == 0 => w.terminate(OWNER, answer),
            15 if byte % 5 == 0 => w.complete(answer),
            _ => w.propose(
                AGENT,
                Proposal::Begin(Begin { permit: permit(1), terms: w.agent_start(), payloads: Vec::new() }),
            ),
        };
    }
    w
}

fn fold_signed<'a>(entries: impl Iterator<Item = &'a SignedEntry>) -> Result<Option<Instance>, EvolveError> {
    let mut instance = None;
    for entry in entries {
        instance = Some(Instance::evolve(instance, &entry.header, Digest(entry.hash.0))?);
    }
    Ok(instance)
}

/// The instance, if the history was accepted and is whole.
fn accepted(folded: Result<Option<Instance>, EvolveError>) -> Option<Instance> {
    folded.ok().flatten().filter(Instance::is_whole)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn decided_histories_evolve_cleanly(seed in prop::collection::vec(any::<u8>(), 1..40)) {
        let w = play(&seed);
        if w.instance.is_some() {
            let replayed = w.replay();
            prop_assert_eq!(replayed.as_ref(), Ok(w.the()));
        }
    }

    #[test]
    fn evolve_refuses_every_drop_repetition_and_reordering(seed in prop::collection::vec(any::<u8>(), 4..40)) {
        let w = play(&seed);
        let entries: Vec<SignedEntry> = w.appends.iter().flat_map(|a| a.iter()).cloned().collect();
        for at in 0..entries.len() {
            let mut twice = entries.clone();
            twice.insert(at, entries[at].clone());
            prop_assert!(fold_signed(twice.iter()).is_err());
            for other in at + 1..entries.len() {
                let mut moved = entries.clone();
                moved.swap(at, other);
                prop_assert!(fold_signed(moved.iter()).is_err());
            }
            let mut dropped = entries.clone();
            dropped.remove(at);
            if at + 1 < entries.len() {
                prop_assert!(fold_signed(dropped.iter()).is_err());
            } else {
                // What is cut off at the end of a stream shows only where an append is torn.
                let whole = entries[at].header.append.length == 1;
                prop_assert_eq!(accepted(fold_signed(dropped.iter())).is_some(), whole && at > 0);
            }
        }
    }

    #[test]
    fn evolve_refuses_every_mutation_that_is_not_signed_anew_to_the_end(
        seed in prop::collection::vec(any::<u8>(), 4..30),
        what in 0usize..12,
    ) {
        let w = play(&seed);
        let entries: Vec<SignedEntry> = w.appends.iter().flat_map(|a| a.iter()).cloned().collect();
        for at in 0..entries.len() {
            let mut header = entries[at].header.clone();
            match what {
                0 => header.sequence += 1,
                1 => header.previous = Some(digest(3)),
                2 => header.append.length += 1,
                3 => header.append.index = header.append.length - 1,
                4 => header.claimed.0 += 1,
                5 => header.actor = STRANGER,
                6 => header.on_behalf_of.push(STRANGER),
                7 => header.verdict = Some(Verdict::needs_approval(vec![name("zz")])),
                8 => header.determining.push(vec![name("zz")]),
                9 => header.boot += 1,
                10 => header.payloads.clear(),
                _ => header.fields.push(digest(3)),
            }
            if header == entries[at].header {
                continue;
            }
            // As a leaf of its own it has another hash, which the next entry does not name.
            let Ok(mutated) = header.unsigned() else { continue };
            let mut all = entries.clone();
            all[at] = mutated;
            if at + 1 < entries.len() {
                prop_assert!(fold_signed(all.iter()).is_err());
            } else if what < 4 {
                prop_assert!(accepted(fold_signed(all.iter())).is_none());
            }
        }
    }
}

#[test]
fn entries_of_other_streams_and_semantics_are_refused() {
    let w = World::running();
    let entry = &w.appends[0][0];
    let with = |change: &dyn Fn(&mut Header)| {
        let mut header = entry.header.clone();
        change(&mut header);
        Instance::evolve(None, &header, Digest(entry.hash.0))
    };
    assert!(with(&|_| ()).is_ok());
    assert!(with(&|h| h.semantics = 1).is_ok(), "what version 1 wrote is read");
    assert_eq!(with(&|h| h.semantics = 0), Err(EvolveError::Semantics(0)));
    assert_eq!(with(&|h| h.semantics = SEMANTICS + 1), Err(EvolveError::Semantics(SEMANTICS + 1)));
    assert_eq!(with(&|h| h.stream.kind = countersign_ledger_entry::StreamKind::Organization), Err(EvolveError::Stream));
    let next = &w.appends[0][1];
    let mut other = next.header.clone();
    other.stream.id = countersign_gateway_model::StreamId::from_bytes([7; 16]);
    let first = Instance::evolve(None, &entry.header, Digest(entry.hash.0)).unwrap();
    assert_eq!(Instance::evolve(Some(first.clone()), &other, Digest(next.hash.0)), Err(EvolveError::Stream));
    let mut back = next.header.clone();
    back.semantics = SEMANTICS - 1;
    let backwards = EvolveError::Backwards { from: SEMANTICS, to: SEMANTICS - 1 };
    assert_eq!(Instance::evolve(Some(first), &back, Digest(next.hash.0)), Err(backwards));
}
