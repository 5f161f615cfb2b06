//! What permits hold of counters: rows that stand while it counts, and versions of which no two are the same.

use countersign_gateway_flow::rows::{COUNTERS, CounterRow, RESERVATIONS, ReservationRow, reservation_of};
use countersign_gateway_flow::*;
use countersign_gateway_model::{Outcome, PermitId, Timestamp, Verdict};
use countersign_ledger_entry::Draft;
use countersign_ledger_entry::body::{self, Permit, QuestionKind, Reservation};

use crate::histories::{append, refuse};
use crate::world::*;

fn takes(counter: &str, version: u64) -> Reservation {
    Reservation { counter: name(counter), version, amount: 25 }
}

/// An action whose permit takes these, and its permit.
fn reserving(w: &mut World, n: u64, held: Vec<Reservation>, begin: bool) -> (Action, PermitId) {
    let start = begin.then(|| w.agent_start());
    let mut action = w.action(n, allow(), start);
    let terms = action.permit.as_mut().unwrap();
    terms.reservations = held;
    let permit = terms.permit;
    (action, permit)
}

fn held(w: &World) -> Vec<(PermitId, ReservationRow)> {
    let of = w.rows.iter().filter(|((table, _), _)| *table == RESERVATIONS);
    of.map(|((_, key), columns)| (reservation_of(key).unwrap().1, serde_json::from_slice(columns).unwrap())).collect()
}

fn version(w: &World, counter: &str) -> u64 {
    let row = &w.rows[&(COUNTERS, counter.as_bytes().to_vec())];
    serde_json::from_slice::<CounterRow>(row).unwrap().version
}

#[test]
fn an_outcome_settles_or_releases_and_unknown_keeps() {
    for (reports, stands, settled) in [
        (&[][..], true, false),
        (&[Outcome::Succeeded], true, true),
        (&[Outcome::Failed], false, false),
        (&[Outcome::Cancelled], false, false),
        (&[Outcome::TimedOut], false, false),
        (&[Outcome::Unknown], true, false),
        (&[Outcome::Unknown, Outcome::Succeeded], true, true),
        (&[Outcome::Unknown, Outcome::Failed], false, false),
        // What comes after a final outcome is a conflict and changes nothing.
        (&[Outcome::Succeeded, Outcome::Failed], true, true),
        (&[Outcome::Failed, Outcome::Succeeded], false, false),
    ] {
        let mut w = World::running();
        let (action, permit) = reserving(&mut w, 2, vec![takes("calls", 4), takes("spent", 0)], true);
        w.act(vec![action]).unwrap();
        for outcome in reports {
            w.report(permit, *outcome).unwrap();
        }
        let rows = held(&w);
        assert_eq!(!rows.is_empty(), stands, "{reports:?}");
        if let Some((of, row)) = rows.first() {
            assert_eq!((*of, row.started, row.settled), (permit, true, settled), "{reports:?}");
            assert_eq!(row.held.iter().map(|h| (h.version, h.amount)).collect::<Vec<_>>(), [(4, 25), (0, 25)]);
        }
        assert_eq!((version(&w, "calls"), version(&w, "spent")), (5, 1));
        assert_eq!(w.replay().as_ref(), Ok(w.the()));
    }
}

#[test]
fn what_was_not_started_is_released_when_the_instance_ends_and_what_was_is_not() {
    let mut w = World::running();
    let (waits, unstarted) = reserving(&mut w, 2, vec![takes("spent", 0)], false);
    let (runs, started) = reserving(&mut w, 3, vec![takes("spent", 1)], true);
    w.act(vec![waits, runs]).unwrap();
    assert_eq!(
        held(&w).iter().map(|(p, row)| (*p, row.started)).collect::<Vec<_>>(),
        [(unstarted, false), (started, true)]
    );
    w.terminate(OWNER, allow()).unwrap();
    assert_eq!(held(&w).iter().map(|(p, _)| *p).collect::<Vec<_>>(), [started]);
    w.report(started, Outcome::Cancelled).unwrap();
    assert!(held(&w).is_empty());
    assert_eq!(version(&w, "spent"), 2, "what was read stays read");
}

#[test]
fn no_two_reservations_of_a_stream_read_the_same_version() {
    let mut w = World::running();
    let (action, _) = reserving(&mut w, 2, vec![takes("spent", 3)], false);
    w.act(vec![action]).unwrap();
    let permitted = |held: Vec<Reservation>| Permit {
        permit: permit(9),
        action: action_id(9),
        item: None,
        question: QuestionKind::CallTool,
        tool: name("repo/write"),
        tool_version: digest(2),
        digest: digest(1009),
        expires: Timestamp(9000),
        mutable_target: false,
        reservations: held,
        enforced: true,
    };
    let forged = |held| vec![Draft { verdict: Some(Verdict::allow()), ..Draft::new(permitted(held), AGENT) }];
    let bad: [(&str, Vec<body::Reservation>); 3] = [
        ("the same version", vec![takes("spent", 3)]),
        ("an earlier version", vec![takes("spent", 2)]),
        ("one counter twice from the same version", vec![takes("spent", 4), takes("spent", 4)]),
    ];
    for (what, held) in bad {
        refuse(&w, what, |f| append(f, forged(held)));
    }
    let (action, _) = reserving(&mut w, 4, vec![takes("calls", 0), takes("spent", 4)], false);
    w.act(vec![action]).unwrap();
}

fn action_id(n: u64) -> countersign_gateway_model::ActionId {
    crate::world::action(n)
}
