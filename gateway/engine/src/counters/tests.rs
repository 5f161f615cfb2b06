//! The book against a second count of the same rows, and read anew from them.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use countersign_gateway_flow::rows::HeldRow;
use countersign_gateway_model::InstanceId;
use proptest::prelude::*;

use super::*;

/// What happens to one permit.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// It takes, in the next moment, from the counters of this mask.
    Take(u8, u16),
    /// It takes, and the ledger does not take it.
    Lose(u8, u16),
    Start(usize),
    Spend(usize),
    Release(usize),
    /// Time passes.
    Pass(u32),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let one = prop_oneof![
        4 => (1_u8..4, 1_u16..1000).prop_map(|(mask, amount)| Event::Take(mask, amount)),
        1 => (1_u8..4, 1_u16..1000).prop_map(|(mask, amount)| Event::Lose(mask, amount)),
        3 => (0_usize..40).prop_map(Event::Start),
        2 => (0_usize..40).prop_map(Event::Spend),
        2 => (0_usize..40).prop_map(Event::Release),
        3 => (1_u32..5_000_000).prop_map(Event::Pass),
    ];
    proptest::collection::vec(one, 0..60)
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

const DAY: u64 = 86_400;

fn windows() -> Windows {
    BTreeMap::from([(name("day"), Some(DAY)), (name("ever"), None)])
}

/// A permit as a row says it, with its key.
type Stored = BTreeMap<(Timestamp, PermitId), ReservationRow>;

/// What the rows come to, counted in the plainest way.
fn plainly(rows: &Stored, counter: &Name, window: Option<u64>, now: Timestamp, newest: Timestamp) -> i128 {
    rows.iter()
        .filter(|((at, _), _)| window_start(window, *at) == window_start(window, now))
        .filter(|(_, row)| row.started || row.expires >= newest)
        .flat_map(|(_, row)| &row.held)
        .filter(|held| held.counter == *counter)
        .map(|held| i128::from(held.amount))
        .sum()
}

fn read_anew(rows: &Stored, versions: &BTreeMap<Name, u64>, newest: Timestamp) -> Book {
    let mut book = Book::under(windows());
    for (counter, version) in versions {
        book.accounts.get_mut(counter).unwrap().version = *version;
    }
    let from = book.reach(newest);
    for (key, row) in rows.iter().filter(|(key, _)| key.0 >= from) {
        book.put(*key, row);
    }
    book.prune(newest);
    book.lapse(newest);
    book
}

proptest! {
    #[test]
    fn a_book_read_anew_from_its_rows_is_the_book_that_was_kept(events in events()) {
        let mut book = Book::under(windows());
        let (mut rows, mut versions, mut keys) = (Stored::new(), BTreeMap::new(), Vec::new());
        let (mut now, mut minted) = (Timestamp(1_795_219_200_000), 0_u64);
        for event in events {
            match event {
                Event::Take(mask, amount) | Event::Lose(mask, amount) => {
                    now = now + Duration(1);
                    minted += 1;
                    let mut id = [0; 16];
                    id[..8].copy_from_slice(&minted.to_be_bytes());
                    let (key, expires) = ((now, PermitId::from_bytes(id)), now + Duration::from_secs(300));
                    let mut held: Vec<Reservation> = [(1, "day"), (2, "ever")]
                        .into_iter()
                        .filter(|(bit, _)| mask & bit != 0)
                        .map(|(_, counter)| Reservation { counter: name(counter), version: 0, amount: amount.into() })
                        .collect();
                    book.lapse(now);
                    let mut taking = Taking { held: vec![key], ..Taking::default() };
                    book.take(key, expires, &mut held, &mut taking.versions);
                    if matches!(event, Event::Lose(..)) {
                        book.give_back(&taking);
                        continue;
                    }
                    for reservation in &held {
                        let next = versions.entry(reservation.counter.clone()).or_insert(0);
                        prop_assert_eq!(reservation.version, *next);
                        *next += 1;
                    }
                    let held = held
                        .iter()
                        .map(|r| HeldRow { counter: r.counter.clone(), version: r.version, amount: r.amount })
                        .collect();
                    let instance = InstanceId::from_bytes([1; 16]);
                    let row = ReservationRow { instance, expires, started: false, settled: false, held };
                    book.put(key, &row);
                    rows.insert(key, row);
                    keys.push(key);
                }
                Event::Start(n) => {
                    let Some(key) = keys.get(n) else { continue };
                    let Some(row) = rows.get_mut(key).filter(|row| !row.started && row.expires >= now) else { continue };
                    row.started = true;
                    book.put(*key, row);
                }
                Event::Spend(n) => {
                    let Some(key) = keys.get(n) else { continue };
                    let Some(row) = rows.get_mut(key).filter(|row| row.started && !row.settled) else { continue };
                    row.settled = true;
                    book.put(*key, row);
                }
                Event::Release(n) => {
                    let Some(key) = keys.get(n) else { continue };
                    if rows.get(key).is_some_and(|row| !row.settled) {
                        rows.remove(key);
                        book.release(*key);
                    }
                }
                Event::Pass(ms) => now = now + Duration(ms.into()),
            }
            let values = book.values(&windows(), now, now);
            for (counter, window) in windows() {
                prop_assert_eq!(values.get(&counter).copied(), Some(plainly(&rows, &counter, window, now, now)));
            }
        }
        // Forgetting is due at any time, and changes no value.
        book.prune(now);
        prop_assert_eq!(read_anew(&rows, &versions, now), book);
    }
}

#[test]
fn what_is_not_counted_and_what_is_no_longer_kept_is_left_out() {
    let now = Timestamp(1_795_219_200_000);
    let mut book = Book::under(windows());
    let other = BTreeMap::from([(name("day"), Some(3600)), (name("week"), Some(7 * DAY)), (name("ever"), None)]);
    assert!(!book.counts_under(&other));
    let names = |values: BTreeMap<Name, i128>| values.into_keys().map(|n| n.to_string()).collect::<Vec<_>>();
    assert_eq!(names(book.values(&other, now, now)), ["ever"]);
    assert_eq!(names(book.values(&windows(), now, now)), ["day", "ever"]);
    let yesterday = Timestamp(now.0 - 2 * DAY * 1000);
    assert_eq!(names(book.values(&windows(), yesterday, now)), ["ever"], "its window is not kept any more");
}
