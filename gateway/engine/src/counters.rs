//! Counters: what permits hold and have spent, by window, and the turn in which it is taken.
//!
//! The book is a projection. It is fed with the rows that the state machine writes beside each entry (`rows::RESERVATIONS`,
//! `rows::COUNTERS`), when they are durable; a start reads the same rows from the ledger, as far back as the windows of
//! the policy in force reach. What is on its way into the log counts from the moment it is taken.
//!
//! A decision reads the values, and its permits take under the same values or not at all: what another took in between
//! makes it decide again. Takings go to the log in turn, so a counter's versions ascend in the order of the log.
//!
//! - `succeeded`: spent, in the window in which it was taken. `failed`, `cancelled`, `timed_out`: released; whoever
//!   cannot say that nothing happened reports `unknown`, which holds it until somebody knows.
//! - Not started: released once the log's time passes the permit's expiry, or when the instance ends. From then on it
//!   cannot be started.
//!
//! Absent: what a question takes (`policy/decide`), and the rows (`gateway/flow`). Read next: `writing`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedMutexGuard, RwLock, RwLockReadGuard};

use countersign_gateway_flow::rows::{self, COUNTERS, CounterRow, RESERVATIONS, ReservationRow};
use countersign_gateway_flow::{Illegal, Instance};
use countersign_gateway_model::{Duration, Name, PermitId, Timestamp};
use countersign_ledger_entry::body::{Body, Reservation};
use countersign_ledger_entry::{Draft, Row};
use countersign_ledger_log::{LogHandle, ViewRow};
use countersign_policy_decide::counters::{Counter, decimal, window_start};
use countersign_policy_decide::{PolicySnapshot, Question};

use crate::error::EngineError;

/// How long after its end a window is kept: claimed times lie a few seconds apart, and no more.
const SLACK: Duration = Duration::from_secs(3600);

/// How far the log's time moves before windows that nobody asks for any more are looked for.
const PRUNE: Duration = Duration::from_secs(600);

/// Rows read at a time.
const PAGE: usize = 512;

/// How often a decision is repeated before it is given up. From the second time on others wait for it, so that only
/// what is released, and a window that ends, can come between.
pub(crate) const REPEATS: usize = 16;

/// How long the counters of a policy count, by counter.
type Windows = BTreeMap<Name, Option<u64>>;

/// A counter as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CounterRecord {
    /// The counter.
    pub counter: Name,
    /// How often it was taken from, ever.
    pub version: u64,
    /// Its value in the window that is now, what is held included: decimal text.
    pub value: String,
    /// When that window began; the Unix epoch for one that never starts anew.
    pub since: Timestamp,
}

/// The counters of one organization.
pub(crate) struct Counting {
    log: LogHandle,
    book: Mutex<Book>,
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Held by every commit until its rows are in the book, and alone by whoever reads the book from the ledger.
    still: RwLock<()>,
}

/// What a decision read, and what it has taken so far.
pub(crate) struct Reading {
    windows: Windows,
    at: Timestamp,
    values: BTreeMap<Name, i128>,
    taken: BTreeMap<Name, i128>,
    turn: Option<OwnedMutexGuard<()>>,
}

/// What an append on its way holds of the book.
#[derive(Default)]
pub(crate) struct Taking {
    held: Vec<(Timestamp, PermitId)>,
    versions: BTreeMap<Name, (u64, u64)>,
    started: Vec<(Timestamp, PermitId)>,
}

/// What is held and spent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Book {
    accounts: BTreeMap<Name, Account>,
    holds: BTreeMap<(Timestamp, PermitId), Hold>,
    /// Holds of permits that were not started, by expiry.
    lapsing: BTreeSet<(Timestamp, (Timestamp, PermitId))>,
    /// As of when windows that nobody asks for any more were last forgotten, in milliseconds.
    pruned: u64,
}

/// One counter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Account {
    /// The version that the next taking reads.
    version: u64,
    /// By length of window and start of window: everything held and spent.
    sums: BTreeMap<Option<u64>, BTreeMap<Timestamp, u128>>,
}

/// What a permit holds and may still give back.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hold {
    expires: Timestamp,
    /// Its permit was started, or is on its way: it does not lapse.
    pinned: bool,
    held: Vec<(Name, u64)>,
}

impl Counting {
    pub(crate) fn new(log: LogHandle) -> Self {
        Self { log, book: Mutex::default(), turn: Arc::default(), still: RwLock::default() }
    }

    /// What a decision of the moment `at` reads under `snapshot`. `turn`: others wait until it has taken.
    pub(crate) fn reading(
        &self,
        snapshot: &PolicySnapshot,
        at: Timestamp,
        turn: Option<OwnedMutexGuard<()>>,
    ) -> Reading {
        let windows = windows_of(snapshot.counters());
        let newest = || self.log.newest();
        let values = if windows.is_empty() { BTreeMap::new() } else { self.book().values(&windows, at, newest()) };
        Reading { windows, at, values, taken: BTreeMap::new(), turn }
    }

    /// The turn of those who take.
    pub(crate) async fn turn(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.turn).lock_owned().await
    }

    /// Held from taking to [`Counting::put`] or [`Counting::give_back`].
    pub(crate) async fn still(&self) -> RwLockReadGuard<'_, ()> {
        self.still.read().await
    }

    /// Takes what permits among `drafts` reserve, if the values are those that were read, and writes the versions into
    /// them; keeps from lapsing what is started.
    pub(crate) fn take(
        &self,
        drafts: &mut [Draft],
        fold: Option<&Instance>,
        reading: Option<&Reading>,
    ) -> Result<Taking, EngineError> {
        let mut book = self.book();
        // Read under the lock: what somebody lapsed before this one came has lapsed for this one too.
        let newest = self.log.newest();
        book.lapse(newest);
        let mut taking = Taking::default();
        for draft in drafts {
            match &mut draft.body {
                Body::Permit(permit) if !permit.reservations.is_empty() => {
                    let read = reading.ok_or_else(|| EngineError::damaged("a reservation that read nothing"))?;
                    if taking.held.is_empty() {
                        // What this append takes itself was counted while it was decided.
                        book.unchanged(read, newest)?;
                    }
                    let key = (read.at, permit.permit);
                    book.take(key, permit.expires, &mut permit.reservations, &mut taking.versions);
                    taking.held.push(key);
                }
                Body::Start(start) => {
                    let live = fold.and_then(|fold| fold.live_permit(start.permit));
                    let Some(reserved) = live.and_then(|live| live.reserved) else { continue };
                    if newest > reserved.expires {
                        // Released already: somebody else may have it by now.
                        book.give_back(&taking);
                        return Err(Illegal::PermitExpired(start.permit).into());
                    }
                    let key = (reserved.at, start.permit);
                    if book.pin(key, true) {
                        taking.started.push(key);
                    }
                }
                _ => {}
            }
        }
        Ok(taking)
    }

    /// The append is durable: its rows are what counts.
    pub(crate) fn put(&self, rows: &[Row]) -> Result<(), EngineError> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut book = self.book();
        for row in rows.iter().filter(|row| row.table == RESERVATIONS) {
            let key = rows::reservation_of(&row.key).ok_or_else(|| EngineError::damaged("a reservation's key"))?;
            match &row.columns {
                Some(columns) => book.put(key, &serde_json::from_slice(columns).map_err(EngineError::damaged)?),
                None => book.release(key),
            }
        }
        Ok(())
    }

    /// The append did not become durable.
    pub(crate) fn give_back(&self, taking: &Taking) {
        self.book().give_back(taking);
    }

    /// Makes sure that the counters of a policy are counted over their windows.
    pub(crate) async fn count_under(&self, counters: &BTreeMap<Name, Counter>) -> Result<(), EngineError> {
        let windows = windows_of(counters);
        if self.book().counts_under(&windows) {
            return Ok(());
        }
        let _nobody_commits = self.still.write().await;
        if self.book().counts_under(&windows) {
            // Somebody was faster.
            return Ok(());
        }
        let known = self.book().windows();
        let newest = self.log.newest();
        let mut book = Book::under(known.into_iter().chain(windows));
        self.each(COUNTERS, None, |row| {
            let name = std::str::from_utf8(&row.key).map_err(EngineError::damaged)?;
            let name = Name::new(name).map_err(EngineError::damaged)?;
            let row: CounterRow = serde_json::from_slice(&row.columns).map_err(EngineError::damaged)?;
            book.accounts.entry(name).or_default().version = row.version;
            Ok(())
        })
        .await?;
        let before = book.reach(newest).0.checked_sub(1);
        let before = before.map(|before| rows::timer_key(Timestamp(before), &[0xff; 16]));
        self.each(RESERVATIONS, before, |row| {
            let key = rows::reservation_of(&row.key).ok_or_else(|| EngineError::damaged("a reservation's key"))?;
            book.put(key, &serde_json::from_slice(&row.columns).map_err(EngineError::damaged)?);
            Ok(())
        })
        .await?;
        book.prune(newest);
        book.lapse(newest);
        tracing::debug!(held = book.holds.len(), "counters read from the ledger");
        *self.book() = book;
        Ok(())
    }

    /// Every row of a table, a page at a time: years of reservations are never in memory at once.
    async fn each(
        &self,
        table: &str,
        mut after: Option<Vec<u8>>,
        mut take: impl FnMut(&ViewRow) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        loop {
            let page = self.log.scan(table, b"", after.as_deref(), PAGE, false).await.map_err(EngineError::ledger)?;
            page.iter().try_for_each(&mut take)?;
            if page.len() < PAGE {
                return Ok(());
            }
            after = page.into_iter().next_back().map(|row| row.key);
        }
    }

    /// The counters of a policy as they stand at `now`.
    pub(crate) fn records(&self, snapshot: &PolicySnapshot, now: Timestamp) -> Vec<CounterRecord> {
        let values = self.reading(snapshot, now, None).values;
        let book = self.book();
        let record = |(name, value): (Name, i128)| {
            let since = snapshot.counters().get(&name).map_or(Timestamp(0), |counter| counter.window_start(now));
            let version = book.accounts.get(&name).map_or(0, |account| account.version);
            CounterRecord { version, value: decimal(value), since, counter: name }
        };
        values.into_iter().map(record).collect()
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // A change is whole before the lock goes; a panic in between is a bug that leaves too much held, not too little.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reading {
    /// The counters of a question of this decision, what was taken before it included.
    pub(crate) fn counters(&self) -> BTreeMap<Name, String> {
        let with = |(name, value): (&Name, &i128)| {
            let taken = self.taken.get(name).copied().unwrap_or_default();
            (name.clone(), decimal(value.saturating_add(taken)))
        };
        self.values.iter().map(with).collect()
    }

    /// What an allowed question takes, counted for those that are asked after it.
    pub(crate) fn reserve(
        &mut self,
        snapshot: &PolicySnapshot,
        question: Option<&Question>,
    ) -> Result<Vec<Reservation>, EngineError> {
        let Some(question) = question.filter(|_| !self.windows.is_empty()) else { return Ok(Vec::new()) };
        let taken = snapshot.reservations(question).map_err(EngineError::damaged)?;
        let reserve = |one: countersign_policy_decide::counters::Reservation| {
            let sum = self.taken.entry(one.counter.clone()).or_default();
            *sum = sum.saturating_add(i128::from(one.amount));
            // The version is that of the moment at which it is taken.
            Reservation { counter: one.counter, version: 0, amount: one.amount }
        };
        Ok(taken.into_iter().filter(|one| one.amount > 0).map(reserve).collect())
    }

    /// Begins anew: what was taken so far is asked about again.
    pub(crate) fn forget_taken(&mut self) {
        self.taken.clear();
    }

    /// The turn, where it was had from the start.
    pub(crate) fn take_turn(&mut self) -> Option<OwnedMutexGuard<()>> {
        self.turn.take()
    }
}

/// The rows that the book is fed with.
pub(crate) fn rows_of(rows: &[Row]) -> Vec<Row> {
    rows.iter().filter(|row| row.table == RESERVATIONS).cloned().collect()
}

/// Whether an append takes from counters.
pub(crate) fn takes(drafts: &[Draft]) -> bool {
    drafts.iter().any(|draft| matches!(&draft.body, Body::Permit(permit) if !permit.reservations.is_empty()))
}

fn windows_of(counters: &BTreeMap<Name, Counter>) -> Windows {
    counters.iter().map(|(name, counter)| (name.clone(), counter.window_s)).collect()
}

impl Book {
    /// A book that counts under these windows and has nothing in it.
    fn under(windows: impl IntoIterator<Item = (Name, Option<u64>)>) -> Self {
        let mut book = Self::default();
        for (name, window) in windows {
            book.accounts.entry(name).or_default().sums.insert(window, BTreeMap::new());
        }
        book
    }

    fn counts_under(&self, windows: &Windows) -> bool {
        windows
            .iter()
            .all(|(name, window)| self.accounts.get(name).is_some_and(|account| account.sums.contains_key(window)))
    }

    /// Every counter and every window that is counted.
    fn windows(&self) -> Vec<(Name, Option<u64>)> {
        let of = |(name, account): (&Name, &Account)| {
            account.sums.keys().map(|window| (name.clone(), *window)).collect::<Vec<_>>()
        };
        self.accounts.iter().flat_map(of).collect()
    }

    /// The values at `at`. One that is not counted, or whose window is no longer kept, is left out: a question without
    /// it is denied.
    fn values(&mut self, windows: &Windows, at: Timestamp, newest: Timestamp) -> BTreeMap<Name, i128> {
        self.lapse(newest);
        let value = |(name, window): (&Name, &Option<u64>)| {
            let sums = self.accounts.get(name)?.sums.get(window)?;
            let start = window_start(*window, at);
            if start < kept_from(*window, Timestamp(self.pruned)) {
                return None;
            }
            let sum = sums.get(&start).copied().unwrap_or_default();
            Some((name.clone(), i128::try_from(sum).ok()?))
        };
        windows.iter().filter_map(value).collect()
    }

    /// Whether what was read is still so, of the counters that are taken from.
    fn unchanged(&mut self, read: &Reading, newest: Timestamp) -> Result<(), EngineError> {
        let now = self.values(&read.windows, read.at, newest);
        let same = read.taken.keys().all(|name| now.get(name).is_some_and(|now| read.values.get(name) == Some(now)));
        if same { Ok(()) } else { Err(EngineError::CountersBusy) }
    }

    fn take(
        &mut self,
        key: (Timestamp, PermitId),
        expires: Timestamp,
        reservations: &mut [Reservation],
        versions: &mut BTreeMap<Name, (u64, u64)>,
    ) {
        for reservation in &mut *reservations {
            let account = self.accounts.entry(reservation.counter.clone()).or_default();
            reservation.version = account.version;
            account.version = account.version.saturating_add(1);
            let took = versions.entry(reservation.counter.clone()).or_insert((reservation.version, 0));
            took.1 = account.version;
        }
        let held = reservations.iter().map(|r| (r.counter.clone(), r.amount)).collect();
        self.hold(key, Hold { expires, pinned: true, held });
    }

    /// Versions go back only where nobody read a later one; a number that is never used is no harm.
    fn give_back(&mut self, taking: &Taking) {
        for key in &taking.held {
            self.release(*key);
        }
        for key in &taking.started {
            self.pin(*key, false);
        }
        for (name, (first, after)) in &taking.versions {
            if let Some(account) = self.accounts.get_mut(name).filter(|account| account.version == *after) {
                account.version = *first;
            }
        }
    }

    fn put(&mut self, key: (Timestamp, PermitId), row: &ReservationRow) {
        self.release(key);
        let held: Vec<(Name, u64)> = row.held.iter().map(|h| (h.counter.clone(), h.amount)).collect();
        for held in &row.held {
            let account = self.accounts.entry(held.counter.clone()).or_default();
            account.version = account.version.max(held.version.saturating_add(1));
        }
        if row.settled {
            // Nothing takes it back any more: only the sum is kept.
            self.add(key.0, &held);
        } else {
            self.hold(key, Hold { expires: row.expires, pinned: row.started, held });
        }
    }

    fn hold(&mut self, key: (Timestamp, PermitId), hold: Hold) {
        self.add(key.0, &hold.held);
        if !hold.pinned {
            self.lapsing.insert((hold.expires, key));
        }
        self.holds.insert(key, hold);
    }

    fn release(&mut self, key: (Timestamp, PermitId)) {
        let Some(hold) = self.holds.remove(&key) else { return };
        self.lapsing.remove(&(hold.expires, key));
        for (name, amount) in &hold.held {
            let Some(account) = self.accounts.get_mut(name) else { continue };
            for (window, sums) in &mut account.sums {
                let start = window_start(*window, key.0);
                if let Some(sum) = sums.get_mut(&start) {
                    *sum = sum.saturating_sub(u128::from(*amount));
                    if *sum == 0 {
                        sums.remove(&start);
                    }
                }
            }
        }
    }

    fn pin(&mut self, key: (Timestamp, PermitId), pinned: bool) -> bool {
        let Some(hold) = self.holds.get_mut(&key) else { return false };
        if hold.pinned == pinned {
            return false;
        }
        hold.pinned = pinned;
        if pinned { self.lapsing.remove(&(hold.expires, key)) } else { self.lapsing.insert((hold.expires, key)) }
    }

    fn add(&mut self, at: Timestamp, held: &[(Name, u64)]) {
        for (name, amount) in held {
            for (window, sums) in &mut self.accounts.entry(name.clone()).or_default().sums {
                let sum = sums.entry(window_start(*window, at)).or_default();
                *sum = sum.saturating_add(u128::from(*amount));
            }
        }
    }

    /// Permits that were not started by `newest` have lapsed.
    fn lapse(&mut self, newest: Timestamp) {
        while let Some((expires, key)) = self.lapsing.first().copied() {
            if expires >= newest {
                break;
            }
            self.release(key);
        }
        if newest > Timestamp(self.pruned) + PRUNE {
            self.prune(newest);
        }
    }

    /// Forgets windows that ended long ago, and what is held in none that is kept.
    fn prune(&mut self, newest: Timestamp) {
        self.pruned = newest.0;
        for account in self.accounts.values_mut() {
            for (window, sums) in &mut account.sums {
                let from = kept_from(*window, newest);
                *sums = sums.split_off(&from);
            }
        }
        let from = self.reach(newest);
        let lapsing = &mut self.lapsing;
        self.holds.retain(|key, hold| {
            let keep = key.0 >= from;
            if !keep {
                lapsing.remove(&(hold.expires, *key));
            }
            keep
        });
    }

    /// The earliest time that still counts in some window.
    fn reach(&self, newest: Timestamp) -> Timestamp {
        let windows = self.accounts.values().flat_map(|account| account.sums.keys());
        windows.map(|window| kept_from(*window, newest)).min().unwrap_or(newest)
    }
}

/// Windows that begin earlier are not kept.
fn kept_from(window: Option<u64>, newest: Timestamp) -> Timestamp {
    window_start(window, Timestamp(newest.0.saturating_sub(SLACK.0)))
}

#[cfg(test)]
mod tests;
