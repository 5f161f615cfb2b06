//! Rows follow from leaf bytes alone: a rebuild gives the same.

use std::collections::BTreeMap;

use countersign_gateway_flow::rows::{self, *};
use countersign_gateway_flow::*;
use countersign_gateway_model::{Digest, Outcome, State, Timestamp};
use countersign_ledger_entry::body::{Assertion, DecisionKind, Reservation};
use countersign_ledger_entry::{Entry, Header, SignedEntry};
use countersign_ledger_merkle::Hash;

use crate::world::*;

/// Rows of a whole history, from nothing but leaf bytes.
fn rebuild(world: &World) -> BTreeMap<(&'static str, Vec<u8>), Vec<u8>> {
    let mut instance = None;
    let mut rows = BTreeMap::new();
    for append in &world.appends {
        let entries: Vec<SignedEntry> = append
            .iter()
            .map(|e| SignedEntry {
                leaf: e.leaf.clone(),
                hash: Hash(e.hash.0),
                header: Entry::parse(&e.leaf).unwrap().header,
            })
            .collect();
        for row in Instance::apply(&mut instance, &entries).unwrap() {
            match row.columns {
                Some(columns) => rows.insert((row.table, row.key), columns),
                None => rows.remove(&(row.table, row.key)),
            };
        }
    }
    rows
}

fn get<T: serde::de::DeserializeOwned>(world: &World, table: &'static str, key: &[u8]) -> Option<T> {
    world.rows.get(&(table, key.to_vec())).map(|columns| serde_json::from_slice(columns).unwrap())
}

fn count(world: &World, table: &str) -> usize {
    world.rows.keys().filter(|(t, _)| *t == table).count()
}

/// A life with most things in it.
fn life() -> World {
    let mut w = World::running();
    let begin = w.agent_start();
    let mut action = w.action(20, allow(), Some(begin));
    let terms = action.permit.as_mut().unwrap();
    terms.reservations.push(Reservation { counter: name("spent"), version: 0, amount: 7 });
    let permit = terms.permit;
    w.act(vec![action]).unwrap();
    w.report(permit, Outcome::Unknown).unwrap();
    w.report(permit, Outcome::Succeeded).unwrap();
    let run = w.run_start(7);
    let batch = vec![w.action(21, allow(), Some(run)), w.action(22, deny(), None)];
    let run = batch[0].permit.as_ref().unwrap().permit;
    w.act(batch).unwrap();
    w.sweep(run).unwrap();
    w.open_gate(&[&[rule("r", 2), rule("t", 1)], &[rule("s", 1)]], &[3]).unwrap();
    w.lift(CAROL, 1, "t").unwrap();
    w.approve(ALICE, &[1]).unwrap();
    w.replace(BOB, 2, &[rule("s", 1)]).unwrap();
    w.approve(CAROL, &[1, 2]).unwrap();
    w.terminate(OWNER, deny()).unwrap();
    w
}

#[test]
fn a_rebuild_from_leaf_bytes_gives_the_same_rows_and_the_same_instance() {
    let w = life();
    assert_eq!(w.state(), State::Terminated);
    assert_eq!(rebuild(&w), w.rows);
    assert_eq!(w.replay().as_ref(), Ok(w.the()));
    for table in rows::TABLES {
        assert_eq!(count(&w, table) == 0, [OPEN_GATES, TIMERS].contains(&table), "{table}");
    }
}

#[test]
fn rows_say_what_happened() {
    let w = life();
    let instance: InstanceRow = get(&w, INSTANCES, World::id().as_bytes()).unwrap();
    assert_eq!((instance.state, instance.denials, instance.closed, instance.gate), (State::Terminated, 1, true, None));
    let action = |n| get::<ActionRow>(&w, ACTIONS, crate::world::action(n).as_bytes()).unwrap();
    assert_eq!(action(22).status, ActionStatus::Refused);
    for n in [1, 2, 3, 20, 21] {
        assert_eq!(action(n).status, ActionStatus::Permitted, "{n}");
    }
    assert_eq!(action(1).proposer, AGENT, "the proposer, not who approved last");
    let start: StartRow = get(&w, STARTS, action(20).permit.unwrap().as_bytes()).unwrap();
    let outcome = start.outcome.unwrap();
    assert_eq!((outcome.outcome, outcome.supersedes, outcome.swept), (Outcome::Succeeded, true, false));
    let run: RunRow = get(&w, RUNS, &run_key(countersign_gateway_model::RunId::from_bytes([7; 16]), 1)).unwrap();
    assert!(run.outcome.unwrap().swept);
    let gate: GateRow = get(&w, GATES, crate::world::gate(1).as_bytes()).unwrap();
    assert_eq!((gate.state, gate.items[1].replaced), (GateState::Overridden, true));
    assert!(gate.items.iter().all(|i| i.rules.iter().all(|r| r.met)));
    assert_eq!(count(&w, DECISIONS), 3);
}

#[test]
fn timers_stand_while_they_can_fire_in_the_order_they_are_due() {
    let mut w = World::running();
    let deadline = timer_key(Timestamp(1_000_000), World::id().as_bytes());
    assert_eq!(get::<TimerRow>(&w, TIMERS, &deadline).unwrap().kind, TimerKind::Deadline);
    let permit = w.started(2);
    assert_eq!(count(&w, TIMERS), 2);
    w.report(permit, Outcome::Succeeded).unwrap();
    w.open_gate(&[&[rule("r", 1)]], &[]).unwrap();
    let due: Vec<_> = w.rows.keys().filter(|(t, _)| *t == TIMERS).map(|(_, key)| timer_of(key).unwrap()).collect();
    assert_eq!(due[0], (Timestamp(11_000), *crate::world::gate(1).as_bytes()));
    assert_eq!(count(&w, OPEN_GATES), 1);
    w.reject(ALICE).unwrap();
    assert_eq!((count(&w, TIMERS), count(&w, OPEN_GATES)), (0, 0));
    let action: ActionRow = get(&w, ACTIONS, crate::world::action(1).as_bytes()).unwrap();
    assert_eq!(action.status, ActionStatus::Rejected);
}

#[test]
fn a_signature_that_nobody_checked_is_none() {
    let mut w = World::waiting(&[&[rule("r", 2)]]);
    let ballot = w.ballot(DecisionKind::Approve, ALICE, &[(1, Change::Keep)]);
    let assertion = Assertion { alg: -8, key_id: digest(1), signature: vec![7; 64] };
    let decide = Decide { assertion: Some(assertion), ..w.decide(ballot) };
    let id = decide.decision;
    w.vote(decide).unwrap();
    let asserted = |semantics: u16| {
        let (mut instance, mut row) = (None, None);
        for append in &w.appends {
            let of_version = |e: &SignedEntry| SignedEntry {
                leaf: e.leaf.clone(),
                hash: Hash(e.hash.0),
                header: Header { semantics, ..e.header.clone() },
            };
            let entries: Vec<_> = append.iter().map(of_version).collect();
            let rows = Instance::apply(&mut instance, &entries).unwrap();
            row = rows.into_iter().find(|row| row.table == DECISIONS && row.key == id.as_bytes()).or(row);
        }
        serde_json::from_slice::<DecisionRow>(&row.unwrap().columns.unwrap()).unwrap().asserted
    };
    assert!(!asserted(1), "under version 1 it was written as it came");
    assert!(asserted(2));
}

#[test]
fn keys_read_back() {
    let run = countersign_gateway_model::RunId::from_bytes([3; 16]);
    assert_eq!(run_of(&run_key(run, 258)), Some((run, 258)));
    assert_eq!(timer_of(&timer_key(Timestamp(5), &[7; 16])), Some((Timestamp(5), [7; 16])));
    assert!(timer_of(&[0; 23]).is_none() && run_of(&[0; 21]).is_none());
}

#[test]
fn an_append_that_did_not_become_durable_leaves_no_trace() {
    let w = life();
    for cut in 0..w.appends.len() {
        let mut instance = None;
        for append in &w.appends[..cut] {
            Instance::apply(&mut instance, append).unwrap();
        }
        let before = instance.clone();
        let rows = Instance::apply(&mut instance, &w.appends[cut]).unwrap();
        Instance::rollback(&mut instance);
        assert_eq!(instance, before, "append {cut}");
        assert_eq!(Instance::apply(&mut instance, &w.appends[cut]).unwrap(), rows);
        // And half an append is refused whole.
        let mut instance = before.clone();
        let append = &w.appends[cut];
        if append.len() > 1 {
            assert!(Instance::apply(&mut instance, &append[..append.len() - 1]).is_err());
            assert_eq!(instance, before, "append {cut}");
        }
    }
    let last = Digest(w.appends.last().unwrap().last().unwrap().hash.0);
    assert_eq!(w.the().last(), last);
}
