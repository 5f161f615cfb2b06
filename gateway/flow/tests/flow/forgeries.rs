//! More forged histories, one check of the fold each: states, batches, verdicts, clocks, gates that nobody asked for.

use countersign_gateway_model::{Decision as Answer, Outcome, Pseudonym, State, Timestamp, Verdict};
use countersign_ledger_entry::body::{
    self, Body, Cause, Edge, Gate, GateSubject, OnDeny, Permit, QuestionKind, Refusal, RefusalReason,
};
use countersign_ledger_entry::{Draft, PayloadRole};

use countersign_gateway_flow::*;

use crate::histories::{append, edit, last, pick, refuse};
use crate::world::*;

fn with(verdict: Verdict, body: impl Into<Body>, by: Pseudonym) -> Draft {
    Draft { verdict: Some(verdict), ..Draft::new(body, by) }
}

fn edge(from: State, to: State, cause: Cause) -> Edge {
    Edge { from, to, cause, action: None, objection: false }
}

fn refusal(question: QuestionKind, reason: RefusalReason) -> Draft {
    with(Verdict::deny(), Refusal { question, action: None, tool: None, digest: None, reason }, AGENT)
}

fn a_permit(n: u64) -> Permit {
    Permit {
        permit: permit(n),
        action: action(n),
        item: None,
        question: QuestionKind::CallTool,
        tool: name("repo/write"),
        tool_version: digest(2),
        digest: digest(1000 + n),
        expires: Timestamp(9000),
        mutable_target: false,
        reservations: Vec::new(),
        enforced: true,
    }
}

fn a_gate(subject: GateSubject) -> Gate {
    let (question, tool) = match subject {
        GateSubject::Start => (QuestionKind::Start, None),
        GateSubject::Complete => (QuestionKind::Complete, None),
        GateSubject::Terminate => (QuestionKind::Terminate, None),
        GateSubject::Actions => (QuestionKind::CallTool, Some(name("repo/write"))),
        GateSubject::Grant => (QuestionKind::Operation, Some(name("grantTask"))),
    };
    let item = body::GateItem {
        item: item(70),
        action: action(70),
        question,
        tool,
        digest: digest(70),
        rules: vec![rule("r", 1)],
        involved: Vec::new(),
    };
    Gate {
        gate: gate(70),
        subject,
        items: vec![item],
        cleared: Vec::new(),
        expires: Some(Timestamp(50_000)),
        on_timeout: body::OnTimeout::Reject,
        caller: None,
    }
}

/// A gate and the edge that waits at it.
fn waits(gate: Gate) -> Vec<Draft> {
    let needs = Verdict::needs_approval(vec![name("r")]);
    vec![
        with(needs.clone(), gate, AGENT),
        with(needs, edge(State::Running, State::WaitingForHuman, Cause::Gate), AGENT),
    ]
}

#[test]
fn nothing_is_permitted_or_started_while_people_are_asked() {
    let mut w = World::running();
    let act = w.action(2, allow(), None);
    let ready = act.permit.as_ref().unwrap().permit;
    w.act(vec![act]).unwrap();
    w.open_gate(&[&[rule("r", 1)]], &[]).unwrap();
    refuse(&w, "a permit in WAITING", |f| append(f, vec![with(Verdict::allow(), a_permit(9), AGENT)]));
    let start = body::Start { permit: ready, not_after: Timestamp(90_000), by: body::StartedBy::Agent };
    refuse(&w, "a start in WAITING", |f| append(f, vec![Draft::new(start.clone(), AGENT)]));
    let w = World::queued();
    refuse(&w, "a permit in CREATED", |f| append(f, vec![with(Verdict::allow(), a_permit(9), AGENT)]));
}

#[test]
fn permits_and_starts_are_of_their_time_and_ask_once() {
    let mut w = World::running();
    let act = w.action(2, allow(), None);
    let id = act.permit.as_ref().unwrap().permit;
    w.act(vec![act]).unwrap();
    refuse(&w, "a permit that has expired", |f| edit(last(f), pick!(Permit), |p| p.expires = Timestamp(1000)));
    w.begin(id).unwrap();
    refuse(&w, "a verdict on a start of its own", |f| last(f)[0].verdict = Some(Verdict::allow()));
    w.report(id, Outcome::Unknown).unwrap();
    refuse(&w, "unknown for unknown", |f| {
        let mut again = last(f).clone();
        edit(&mut again, pick!(Outcome), |o| o.supersedes = true);
        append(f, again);
    });
    refuse(&w, "a sweep of what has an outcome", |f| {
        append(f, vec![Draft::new(body::Sweep { permit: id }, Pseudonym::SYSTEM)]);
    });
    let mut w = World::running();
    let run = w.run_start(7);
    let act = w.action(2, allow(), Some(run));
    w.act(vec![act]).unwrap();
    refuse(&w, "an attempt 0", |f| {
        edit(last(f), pick!(Start), |s| {
            if let body::StartedBy::Run(run) = &mut s.by {
                run.attempt = 0;
            }
        });
    });
    refuse(&w, "a permit between a dispatch and its start", |f| {
        last(f).insert(1, with(Verdict::allow(), a_permit(9), AGENT));
    });
    refuse(&w, "a refusal between a dispatch and its start", |f| {
        last(f).insert(1, refusal(QuestionKind::CallTool, RefusalReason::Policy));
    });
}

#[test]
fn batches_hold_actions_and_at_most_16() {
    let w = World::running();
    refuse(&w, "17 permits", |f| {
        append(f, (40..57).map(|n| with(Verdict::allow(), a_permit(n), AGENT)).collect());
    });
    refuse(&w, "17 refusals", |f| append(f, vec![refusal(QuestionKind::CallTool, RefusalReason::Policy); 17]));
    refuse(&w, "another refusal among actions", |f| {
        append(
            f,
            vec![
                refusal(QuestionKind::CallTool, RefusalReason::Policy),
                refusal(QuestionKind::Complete, RefusalReason::Policy),
            ],
        );
    });
    refuse(&w, "a refusal that its verdict does not say", |f| {
        let mut second = refusal(QuestionKind::CallTool, RefusalReason::Policy);
        second.verdict = Some(Verdict::allow());
        append(f, vec![refusal(QuestionKind::CallTool, RefusalReason::Policy), second]);
    });
    refuse(&w, "a permit beside a gate", |f| {
        let mut drafts = vec![with(Verdict::allow(), a_permit(9), AGENT)];
        drafts.extend(waits(a_gate(GateSubject::Actions)));
        append(f, drafts);
    });
    refuse(&w, "a gate of something else among actions", |f| {
        let mut drafts = vec![refusal(QuestionKind::CallTool, RefusalReason::Policy)];
        drafts.extend(waits(a_gate(GateSubject::Complete)));
        append(f, drafts);
    });
    refuse(&w, "a batch of 17 with its gate", |f| {
        let mut drafts = vec![refusal(QuestionKind::CallTool, RefusalReason::Policy); 16];
        drafts.extend(waits(a_gate(GateSubject::Actions)));
        append(f, drafts);
    });
    let mut strict = World::empty();
    strict.create_with(body::Created { on_deny: OnDeny::Terminate, ..created() }, true, allow()).unwrap();
    refuse(&strict, "a gate after a denial that ends the instance", |f| {
        let mut drafts = vec![refusal(QuestionKind::CallTool, RefusalReason::Policy)];
        drafts.extend(waits(a_gate(GateSubject::Actions)));
        append(f, drafts);
    });
    refuse(&strict, "a permit beside a denial that ends the instance", |f| {
        append(
            f,
            vec![
                with(Verdict::allow(), a_permit(9), AGENT),
                refusal(QuestionKind::CallTool, RefusalReason::Policy),
                with(Verdict::deny(), edge(State::Running, State::Terminated, Cause::Denial), AGENT),
            ],
        );
    });
    refuse(&strict, "an end by a freeze", |f| {
        append(
            f,
            vec![
                refusal(QuestionKind::CallTool, RefusalReason::Frozen),
                with(Verdict::deny(), edge(State::Running, State::Terminated, Cause::Denial), AGENT),
            ],
        );
    });
}

#[test]
fn only_what_may_be_proposed_in_a_state_is_refused_in_it() {
    use QuestionKind as Q;
    use RefusalReason as R;
    let worlds = [World::queued(), World::running(), World::waiting(&[&[rule("r", 1)]])];
    let lawful = |state, question, frozen| match (state, question) {
        // A denied queued start ends the instance in the same append: alone it is torn.
        (State::Created, Q::Start) => frozen,
        (State::Running, Q::CallTool | Q::Dispatch | Q::Operation | Q::Complete) => true,
        (State::Created | State::Running | State::WaitingForHuman, Q::Terminate)
        | (State::WaitingForHuman, Q::Operation) => !frozen,
        (State::WaitingForHuman, Q::Approve | Q::Override) => frozen,
        _ => false,
    };
    for world in worlds {
        for question in [
            Q::Start,
            Q::CallTool,
            Q::Dispatch,
            Q::Complete,
            Q::Terminate,
            Q::Approve,
            Q::Reject,
            Q::Override,
            Q::Freeze,
            Q::Lift,
            Q::Operation,
        ] {
            for reason in [R::Policy, R::Frozen] {
                let mut w = world.clone();
                let entries = w.seal(vec![refusal(question, reason)]);
                let applied = Instance::apply(&mut w.instance, &entries).is_ok();
                assert_eq!(applied, lawful(w.state(), question, reason == R::Frozen), "{} {question:?}", w.state());
            }
        }
    }
}

#[test]
fn gates_open_where_policy_asks_for_them() {
    for subject in [GateSubject::Complete, GateSubject::Terminate, GateSubject::Actions] {
        let mut w = World::empty();
        w.create(true, needs(&["r"])).unwrap();
        refuse(&w, "a start gated as something else", |f| {
            edit(last(f), pick!(Gate), |g| *g = a_gate(subject));
        });
    }
    let mut w = World::running();
    refuse(&w, "a start gated again", |f| append(f, waits(a_gate(GateSubject::Start))));
    for subject in [GateSubject::Complete, GateSubject::Terminate] {
        refuse(&w, "two items where there is one proposal", |f| {
            let mut gate = a_gate(subject);
            let again = body::GateItem { item: item(71), action: action(71), ..gate.items[0].clone() };
            gate.items.push(again);
            append(f, waits(gate));
        });
        refuse(&w, "something cleared where there is one proposal", |f| {
            let mut gate = a_gate(subject);
            gate.cleared.push(body::ClearedItem { action: action(71), digest: digest(71) });
            append(f, waits(gate));
        });
    }
    let open = w.started(2);
    for subject in [GateSubject::Complete, GateSubject::Terminate, GateSubject::Actions] {
        refuse(&w, "a gate while a start is open", |f| append(f, waits(a_gate(subject))));
    }
    refuse(&w, "a completion that waits inside a start", |f| {
        append(f, waits(Gate { caller: Some(open), ..a_gate(GateSubject::Complete) }));
    });
    let mut w = World::waiting(&[&[rule("r", 1)]]);
    refuse(&w, "a gate beside a gate", |f| append(f, vec![waits(a_gate(GateSubject::Actions)).remove(0)]));
    w.drop_items(ALICE, &[1]).unwrap();
    refuse(&w, "a start dropped", |f| {
        let mut gate = a_gate(GateSubject::Start);
        gate.items[0].item = item(1);
        gate.items[0].digest = digest(1001);
        gate.gate = gate_id();
        let mut drafts = f[0].drafts.clone();
        let needs = Some(Verdict::needs_approval(vec![name("r")]));
        drafts.iter_mut().for_each(|d| d.verdict.clone_from(&needs));
        drafts.extend(waits(gate));
        f[0].drafts = drafts;
        f.remove(1);
    });
}

fn gate_id() -> countersign_gateway_model::GateId {
    crate::world::gate(1)
}

/// One world for every row of the table whose append has more than one entry.
fn rows_of_the_table() -> Vec<World> {
    let mut worlds = vec![World::running(), approved(), World::waiting(&[&[rule("r", 1)]])];
    let mut grow = |make: &dyn Fn() -> World, step: &dyn Fn(&mut World)| {
        let mut w = make();
        step(&mut w);
        worlds.push(w);
    };
    let waiting = || World::waiting(&[&[rule("r", 1)]]);
    grow(&World::empty, &|w| assert!(w.create(true, needs(&["r"])).is_ok()));
    grow(&World::queued, &|w| assert!(w.start(needs(&["r"])).is_ok()));
    grow(&World::queued, &|w| assert!(w.start(deny()).is_ok()));
    grow(&World::queued, &|w| assert!(w.terminate(OWNER, deny()).is_ok()));
    grow(&World::running, &|w| assert!(w.complete(needs(&["r"])).is_ok()));
    grow(&World::running, &|w| assert!(w.terminate(STRANGER, needs(&["r"])).is_ok()));
    grow(&waiting, &|w| assert!(w.reject(ALICE).is_ok()));
    grow(&waiting, &|w| assert!(w.terminate(OWNER, deny()).is_ok()));
    grow(&waiting, &|w| assert!(w.drop_items(ALICE, &[1]).is_ok()));
    grow(&waiting, &|w| {
        w.at = Timestamp(11_000);
        assert!(w.expire(deny()).is_ok());
    });
    grow(&waiting, &|w| {
        let ballot = w.ballot(body::DecisionKind::Approve, ALICE, &[(1, Change::Keep)]);
        let mut vote = w.decide(ballot);
        vote.reasked[0].asked = deny();
        assert!(w.vote(vote).is_ok());
    });
    for gated in [GateSubject::Complete, GateSubject::Terminate] {
        grow(&World::running, &|w| {
            let asked = if gated == GateSubject::Complete {
                w.complete(needs(&["r"]))
            } else {
                w.terminate(STRANGER, needs(&["r"]))
            };
            assert!(asked.is_ok());
            assert!(w.approve(ALICE, &[1]).is_ok());
        });
    }
    let strict = || {
        let mut w = World::empty();
        w.create_with(body::Created { on_deny: OnDeny::Terminate, ..created() }, true, allow()).unwrap();
        w
    };
    grow(&strict, &|w| {
        let act = w.action(2, deny(), None);
        assert!(w.act(vec![act]).is_ok());
    });
    worlds
}

fn approved() -> World {
    let mut w = World::waiting(&[&[rule("r", 1)]]);
    w.approve(ALICE, &[1]).unwrap();
    w
}

#[test]
fn every_entry_of_an_append_carries_the_verdict_that_it_follows_from() {
    for w in rows_of_the_table() {
        let count = w.appends.last().unwrap().len();
        assert!(count > 1, "{}", w.shape());
        for at in 0..count {
            let entry = &w.appends.last().unwrap()[at].header;
            if !matches!(entry.body, Body::Edge(_) | Body::Gate(_)) {
                continue;
            }
            let other = match entry.verdict.as_ref().map(|v| v.decision) {
                Some(Answer::Deny) => Verdict::needs_approval(vec![name("r")]),
                _ => Verdict::deny(),
            };
            let same_decision = entry.verdict.clone().map(|mut v| {
                v.rules.push(name("zz"));
                v
            });
            for verdict in [None, Some(other), same_decision] {
                let what = format!("another verdict at {at} of {}", w.shape());
                refuse(&w, &what, |f| last(f)[at].verdict = verdict);
            }
        }
    }
}

#[test]
fn no_append_of_several_entries_can_be_cut_or_shortened() {
    for w in rows_of_the_table() {
        let count = w.appends.last().unwrap().len();
        let queued = w.shape().starts_with("created CREATED>RUNNING");
        for at in 1..count {
            // A queued instance that is started later is lawful; anything else is torn.
            if !(queued && at == 1 && count == 2) {
                let what = format!("cut at {at}: {}", w.shape());
                refuse(&w, &what, |f| last(f).truncate(at));
            }
        }
    }
}

#[test]
fn clocks_are_systems_and_run_out_before_they_stop_anything() {
    for mut w in [World::queued(), World::running()] {
        w.at = Timestamp(1_000_000);
        w.deadline(deny()).unwrap();
        refuse(&w, "a deadline of a person", |f| last(f)[0].actor = OWNER);
        refuse(&w, "a deadline before its time", |f| {
            let end = f.len() - 1;
            f[end].claimed = Timestamp(999_999);
        });
    }
    let mut w = World::waiting(&[&[rule("r", 1)]]);
    w.at = Timestamp(1_000_000);
    w.deadline(deny()).unwrap();
    refuse(&w, "a deadline before its time, while waiting", |f| f[2].claimed = Timestamp(999_999));
}

#[test]
fn what_is_carried_out_is_what_was_approved() {
    for complete in [true, false] {
        let mut w = World::running();
        if complete {
            w.complete(needs(&["r"])).unwrap();
        } else {
            w.terminate(STRANGER, needs(&["r"])).unwrap();
        }
        w.approve(ALICE, &[1]).unwrap();
        refuse(&w, "another proposal", |f| {
            if let Body::Edge(edge) = &mut last(f)[4].body {
                edge.action = Some(action(9));
            }
        });
        refuse(&w, "another end", |f| {
            if let Body::Edge(edge) = &mut last(f)[4].body {
                (edge.to, edge.cause) =
                    if complete { (State::Terminated, Cause::Terminate) } else { (State::Completed, Cause::Complete) };
            }
        });
    }
}

#[test]
fn a_denial_that_came_to_light_is_systems_to_reject() {
    let mut w = World::waiting(&[&[rule("r", 1)]]);
    let ballot = w.ballot(body::DecisionKind::Approve, ALICE, &[(1, Change::Keep)]);
    let mut vote = w.decide(ballot);
    vote.reasked[0].asked = deny();
    w.vote(vote).unwrap();
    refuse(&w, "policy does not deny", |f| {
        last(f).iter_mut().for_each(|d| d.verdict = Some(Verdict::allow()));
    });
    refuse(&w, "somebody stopped it", |f| {
        if let Body::Decision(decision) = &mut last(f)[1].body {
            decision.on_behalf = Some(OWNER);
        }
    });
    refuse(&w, "a person rejects in SYSTEM's place", |f| last(f)[1].actor = ALICE);
    refuse(&w, "a person not eligible brought it to light", |f| last(f)[0].verdict = Some(Verdict::deny()));
    refuse(&w, "a denied vote that changed rules", |f| {
        if let Body::Decision(decision) = &mut last(f)[0].body {
            decision.rules = vec![body::ItemRules { item: item(1), rules: vec![rule("z", 1)] }];
        }
    });
}

#[test]
fn decisions_say_what_they_did_and_nothing_else() {
    use body::{Decision, DecisionKind, Effect};
    let change = |f: &mut Vec<super::histories::Forged>, change: &dyn Fn(&mut Decision)| {
        edit(last(f), pick!(Decision), |d| change(d));
    };
    // A first vote of two.
    let mut w = World::waiting(&[&[rule("r", 2)]]);
    w.approve(ALICE, &[1]).unwrap();
    refuse(&w, "a vote after the gate's expiry", |f| f[2].claimed = Timestamp(11_000));
    refuse(&w, "a vote for somebody else", |f| change(f, &|d| d.on_behalf = Some(BOB)));
    refuse(&w, "an eligible person called not eligible", |f| change(f, &|d| d.effect = Effect::NotEligible));
    refuse(&w, "an approval of nothing", |f| change(f, &|d| d.items.clear()));
    refuse(&w, "an item decided twice", |f| change(f, &|d| d.items.push(d.items[0].clone())));
    refuse(&w, "an approval with a delta", |f| change(f, &|d| d.delta = Some(digest(1))));
    refuse(&w, "an approval that changes its item", |f| change(f, &|d| d.items[0].instead = Some(digest(1))));
    refuse(&w, "an override without a delta", |f| change(f, &|d| d.kind = DecisionKind::Override));
    refuse(&w, "an override that changes nothing", |f| {
        change(f, &|d| {
            d.kind = DecisionKind::Override;
            d.delta = Some(digest(1));
            d.items[0].instead = Some(d.items[0].digest);
        });
    });
    let mut changed = World::waiting(&[&[rule("r", 2)]]);
    changed.replace(ALICE, 1, &[rule("r", 2)]).unwrap();
    for role in [PayloadRole::Shown, PayloadRole::Question] {
        refuse(&changed, "a new input that is not shown, or not asked about", |f| {
            last(f)[0].payloads.retain(|p| p.role != role);
        });
    }
    let rules = |rules: Vec<body::RuleForm>| vec![body::ItemRules { item: item(1), rules }];
    refuse(&w, "rules out of order", |f| change(f, &|d| d.rules = rules(vec![rule("z", 1), rule("a", 1)])));
    refuse(&w, "no rules where some are claimed", |f| change(f, &|d| d.rules = rules(Vec::new())));
    refuse(&w, "rules of an item twice", |f| {
        change(f, &|d| d.rules = [rules(vec![rule("a", 1)]), rules(vec![rule("b", 1)])].concat());
    });
    refuse(&w, "rules of no item", |f| {
        change(f, &|d| d.rules = vec![body::ItemRules { item: item(9), rules: vec![rule("a", 1)] }]);
    });
    for effect in [Effect::Stale, Effect::PolicyError] {
        refuse(&w, "a person not eligible whose facts are stale", |f| {
            change(f, &|d| d.effect = effect);
            last(f)[0].verdict = Some(Verdict::deny());
        });
        refuse(&w, "rules changed without effect", |f| {
            change(f, &|d| d.effect = effect);
            change(f, &|d| d.rules = rules(vec![rule("a", 1)]));
        });
        refuse(&w, "votes lapsed without effect", |f| {
            change(f, &|d| d.effect = effect);
            change(f, &|d| d.lapsed = vec![ALICE]);
        });
    }
    // A REJECT.
    let mut w = World::waiting(&[&[rule("r", 2)]]);
    w.reject(ALICE).unwrap();
    refuse(&w, "a REJECT of an item", |f| {
        let decided = body::DecidedItem { item: item(1), digest: digest(1001), rules: Vec::new(), instead: None };
        change(f, &|d| d.items = vec![decided.clone()]);
    });
    refuse(&w, "a REJECT that is only counted", |f| {
        change(f, &|d| d.effect = Effect::Counted);
        last(f).truncate(1);
    });
    refuse(&w, "a REJECT that policy denies by now", |f| change(f, &|d| d.effect = Effect::HardDenied));
    refuse(&w, "a REJECT that changes rules", |f| change(f, &|d| d.rules = rules(vec![rule("a", 1)])));
    // A decision where nobody is asked.
    let w = World::running();
    let mut other = World::waiting(&[&[rule("r", 2)]]);
    other.approve(ALICE, &[1]).unwrap();
    let vote = other.appends.last().unwrap()[0].header.clone();
    refuse(&w, "a decision in RUNNING", |f| {
        append(f, vec![with(Verdict::allow(), vote.body.clone(), ALICE)]);
    });
    // An approved dispatch, and what was cleared.
    let mut w = World::running();
    let run = w.run_start(7);
    let batch = vec![w.action(1, needs(&["r"]), Some(run)), w.action(2, allow(), None)];
    w.act(batch).unwrap();
    let ballot = w.ballot(DecisionKind::Approve, ALICE, &[(1, Change::Keep)]);
    let mut vote = w.decide(ballot);
    vote.grants[1].cleared = Some(deny());
    w.vote(vote).unwrap();
    assert!(w.shape().ends_with("permit start refusal"));
    refuse(&w, "an approved dispatch without its start", |f| {
        last(f).remove(5);
    });
    refuse(&w, "a refusal between a dispatch and its start", |f| last(f).swap(5, 6));
    refuse(&w, "a refusal of what was allowed", |f| last(f)[6].verdict = Some(Verdict::allow()));
    refuse(&w, "a refusal for a freeze", |f| edit(last(f), pick!(Refusal), |r| r.reason = RefusalReason::Frozen));
    refuse(&w, "a refusal twice", |f| {
        let again = last(f)[6].clone();
        last(f).push(again);
    });
    refuse(&w, "a refusal of what was approved", |f| {
        edit(last(f), pick!(Refusal), |r| r.action = Some(action(1)));
    });
    refuse(&w, "a refusal of nothing", |f| edit(last(f), pick!(Refusal), |r| r.action = None));
}

#[test]
fn gate_events_are_allowed_and_fire_once() {
    use body::GateEventKind as K;
    let mut w = World::waiting(&[&[rule("r", 1)]]);
    let note = |event, step| GateNote { gate: gate(1), event, rule: Some(name("r")), to: None, step, asked: allow() };
    w.propose(ALICE, Proposal::GateEvent(Box::new(note(K::Reminder, Some(0))))).unwrap();
    refuse(&w, "the same step again", |f| {
        let again = last(f).clone();
        append(f, again);
    });
    refuse(&w, "a reminder without a step", |f| edit(last(f), pick!(GateEvent), |e| e.step = None));
    refuse(&w, "a comment with a step", |f| edit(last(f), pick!(GateEvent), |e| e.event = K::Comment));
    refuse(&w, "a reminder to somebody", |f| edit(last(f), pick!(GateEvent), |e| e.to = Some(BOB)));
    refuse(&w, "a reassignment to nobody", |f| {
        edit(last(f), pick!(GateEvent), |e| (e.event, e.step) = (K::Reassign, None));
    });
    refuse(&w, "an event that policy denied", |f| last(f)[0].verdict = Some(Verdict::deny()));
    refuse(&w, "an event of another gate", |f| edit(last(f), pick!(GateEvent), |e| e.gate = gate(9)));
    let running = World::running();
    let event = w.appends.last().unwrap()[0].header.body.clone();
    refuse(&running, "an event where nobody is asked", |f| {
        append(f, vec![with(Verdict::allow(), event.clone(), ALICE)]);
    });
}

#[test]
fn a_gate_resolves_with_the_verdict_that_policy_gave_when_asked_again() {
    use body::Effect;
    let verdicts = |f: &mut Vec<super::histories::Forged>, to: &Verdict| {
        last(f).iter_mut().skip(1).for_each(|d| d.verdict = Some(to.clone()));
    };
    let odd = Verdict { rules: vec![name("zz")], ..Verdict::allow() };
    let mut w = World::empty();
    w.create(true, needs(&["r"])).unwrap();
    w.approve(ALICE, &[1]).unwrap();
    refuse(&w, "a start that policy denies by now", |f| verdicts(f, &Verdict::deny()));
    refuse(&w, "a start that needs more approval by now", |f| {
        verdicts(f, &Verdict::needs_approval(vec![name("q")]));
    });
    let mut w = World::waiting(&[&[rule("r", 2)]]);
    w.drop_items(ALICE, &[1]).unwrap();
    refuse(&w, "a verdict where nothing was asked", |f| verdicts(f, &odd));
    let mut w = World::running();
    let run = w.run_start(7);
    let act = w.action(1, needs(&["r"]), Some(run));
    w.act(vec![act]).unwrap();
    w.approve(ALICE, &[1]).unwrap();
    refuse(&w, "another verdict on an approved dispatch's start", |f| last(f)[5].verdict = Some(odd.clone()));
    let mut w = World::waiting(&[&[rule("r", 2)]]);
    w.replace(ALICE, 1, &[]).unwrap();
    refuse(&w, "an approval in the shape of an OVERRIDE", |f| {
        edit(last(f), pick!(Decision), |d| d.items[0].instead = Some(digest(1001)));
        edit(last(f), pick!(Permit), |p| p.digest = digest(1001));
    });
    let mut w = World::waiting(&[&[rule("r", 2)]]);
    w.reject(ALICE).unwrap();
    refuse(&w, "a REJECT that ends the instance and says that it only counts", |f| {
        edit(last(f), pick!(Decision), |d| d.effect = Effect::Counted);
    });
    let mut w = World::waiting(&[&[rule("r", 2)]]);
    w.approve(ALICE, &[1]).unwrap();
    refuse(&w, "a person whom policy was not asked about", |f| {
        edit(last(f), pick!(Decision), |d| d.effect = Effect::NotEligible);
        last(f)[0].verdict = None;
    });
}
