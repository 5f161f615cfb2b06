//! The per-principal rate limit that stands before decide: GCRA, one bucket a principal, bounded.
//!
//! Where a shard has no room, buckets that are full again are dropped (they say nothing); where all are busy, newcomers
//! of that shard share one bucket, so memory is bounded and nobody goes unlimited. Absent: HTTP header names;
//! [`RateFacts`] has the numbers. Read next: `authenticate`.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hash};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration as StdDuration;

use countersign_gateway_model::{Clock, Duration, OrgId, Principal, Pseudonym};
use governor::clock::{Clock as GovernorClock, MonotonicClock, Reference as _};
use governor::middleware::StateInformationMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::{Quota, RateLimiter as Governor};

/// How much a principal may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateQuota {
    /// Requests a second, over time.
    pub per_second: NonZeroU32,
    /// Requests at once, after a pause.
    pub burst: NonZeroU32,
}

/// The state of a principal's bucket after a request, for the `RateLimit` headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateFacts {
    /// Requests that the full bucket holds.
    pub limit: u32,
    /// Requests left now.
    pub remaining: u32,
    /// Until the bucket is full again, rounded up.
    pub reset: Duration,
}

/// The bucket is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many requests; try again in {} ms", retry_after.0)]
pub struct RateLimited {
    /// Until one request fits again, rounded up; at least 1 ms.
    pub retry_after: Duration,
    /// Requests that the full bucket holds.
    pub limit: u32,
    /// Requests left now: 0.
    pub remaining: u32,
    /// Until the bucket is full again, rounded up.
    pub reset: Duration,
}

/// Limits requests by principal. An agent's requests count as its own, whoever it acts for.
#[derive(Debug)]
pub struct RateLimiter {
    buckets: Buckets<(OrgId, Pseudonym)>,
}

impl RateLimiter {
    /// Principals with a bucket of their own at a time; each takes about 60 bytes.
    pub const CAPACITY: usize = 65_536;

    /// A limiter on the process's monotonic clock, which no change of the wall clock disturbs.
    pub fn new(quota: RateQuota) -> Self {
        Self { buckets: Buckets::new(quota, Self::CAPACITY, Ticks::monotonic()) }
    }

    /// A limiter on a given clock, for tests that move it, holding at most about `capacity` buckets.
    pub fn with_clock(quota: RateQuota, capacity: usize, clock: Arc<dyn Clock>) -> Self {
        Self { buckets: Buckets::new(quota, capacity, Ticks::Given(clock)) }
    }

    /// Takes one request from the principal's bucket.
    pub fn check(&self, principal: &Principal) -> Result<RateFacts, RateLimited> {
        self.buckets.check(&(principal.org, principal.pseudonym))
    }
}

/// Where the limiter gets its time.
#[derive(Clone)]
pub(crate) enum Ticks {
    Monotonic(MonotonicClock, <MonotonicClock as GovernorClock>::Instant),
    Given(Arc<dyn Clock>),
}

impl Ticks {
    pub(crate) fn monotonic() -> Self {
        Self::Monotonic(MonotonicClock, MonotonicClock.now())
    }
}

impl GovernorClock for Ticks {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        match self {
            Self::Monotonic(clock, start) => clock.now().duration_since(*start).into(),
            Self::Given(clock) => Nanos::new(clock.now().0.saturating_mul(1_000_000)),
        }
    }
}

/// Buckets by any key.
pub(crate) struct Buckets<K: Hash + Eq + Clone> {
    governor: Governor<K, Store<K>, Ticks, StateInformationMiddleware>,
    store: Store<K>,
    ticks: Ticks,
    limit: u32,
    /// From one request to the next, at the quota's rate.
    interval: StdDuration,
}

impl<K: Hash + Eq + Clone> std::fmt::Debug for Buckets<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buckets").field("limit", &self.limit).field("interval", &self.interval).finish_non_exhaustive()
    }
}

impl<K: Hash + Eq + Clone> Buckets<K> {
    pub(crate) fn new(quota: RateQuota, capacity: usize, ticks: Ticks) -> Self {
        Self::with_quota(Quota::per_second(quota.per_second).allow_burst(quota.burst), capacity, ticks)
    }

    pub(crate) fn with_quota(quota: Quota, capacity: usize, ticks: Ticks) -> Self {
        let store = Store::new(capacity, ticks.clone());
        Self {
            governor: Governor::new(quota, Store(Arc::clone(&store.0)), ticks.clone()),
            store,
            ticks,
            limit: quota.burst_size().get(),
            interval: quota.replenish_interval(),
        }
    }

    /// Fills the bucket of a key.
    pub(crate) fn refill(&self, key: &K) {
        self.store.drop_key(key);
    }

    pub(crate) fn check(&self, key: &K) -> Result<RateFacts, RateLimited> {
        match self.governor.check_key(key) {
            Ok(state) => {
                let remaining = state.remaining_burst_capacity();
                let spent = self.limit.saturating_sub(remaining);
                let reset = millis_up(self.interval.saturating_mul(spent));
                Ok(RateFacts { limit: self.limit, remaining, reset })
            }
            Err(not_until) => {
                let wait = not_until.wait_time_from(self.ticks.now());
                let rest = self.interval.saturating_mul(self.limit.saturating_sub(1));
                Err(RateLimited {
                    retry_after: Duration(millis_up(wait).0.max(1)),
                    limit: self.limit,
                    remaining: 0,
                    reset: millis_up(wait.saturating_add(rest)),
                })
            }
        }
    }
}

fn millis_up(span: StdDuration) -> Duration {
    Duration(u64::try_from(span.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX))
}

/// More than the cores of any machine this runs on, so that two requests seldom meet.
const SHARDS: usize = 64;

/// Governor's state of each bucket (the instant at which it is full again), in bounded shards. Clones share it.
struct Store<K>(Arc<Table<K>>);

struct Table<K> {
    shards: Vec<Mutex<Shard<K>>>,
    per_shard: usize,
    hasher: RandomState,
    ticks: Ticks,
    start: Nanos,
}

struct Shard<K> {
    full_at: HashMap<K, Nanos>,
    /// The bucket of those who found no room.
    shared: Option<Nanos>,
    /// No bucket here is full before then: looking for room earlier would be in vain.
    none_full_before: Nanos,
}

impl<K> Store<K> {
    fn new(capacity: usize, ticks: Ticks) -> Self {
        let shard = || Shard { full_at: HashMap::new(), shared: None, none_full_before: Nanos::default() };
        Self(Arc::new(Table {
            shards: (0..SHARDS).map(|_| Mutex::new(shard())).collect(),
            per_shard: capacity.div_ceil(SHARDS).max(1),
            hasher: RandomState::new(),
            start: ticks.now(),
            ticks,
        }))
    }
}

impl<K: Hash + Eq> Store<K> {
    fn shard(&self, key: &K) -> Option<MutexGuard<'_, Shard<K>>> {
        let index = usize::try_from(self.0.hasher.hash_one(key) % SHARDS as u64).ok()?;
        // Each change is one insert or removal, so a poisoned shard is a whole one.
        self.0.shards.get(index).map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn drop_key(&self, key: &K) {
        if let Some(mut shard) = self.shard(key) {
            shard.full_at.remove(key);
        }
    }
}

impl<K: Hash + Eq + Clone> Shard<K> {
    /// Whether `key` has or can get a bucket of its own.
    fn has_room(&mut self, key: &K, per_shard: usize, now: impl FnOnce() -> Nanos) -> bool {
        if self.full_at.len() < per_shard || self.full_at.contains_key(key) {
            return true;
        }
        let now = now();
        if now < self.none_full_before {
            return false;
        }
        self.full_at.retain(|_, full_at| now < *full_at);
        self.none_full_before = self.full_at.values().min().copied().unwrap_or_default();
        self.full_at.len() < per_shard
    }
}

impl<K: Hash + Eq + Clone> StateStore for Store<K> {
    type Key = K;

    fn measure_and_replace<T, F, E>(&self, key: &K, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let Some(mut shard) = self.shard(key) else { return measure(None).map(|(outcome, _)| outcome) };
        if shard.has_room(key, self.0.per_shard, || self.0.ticks.now().duration_since(self.0.start)) {
            if let Some(slot) = shard.full_at.get_mut(key) {
                let (outcome, full_at) = measure(Some(*slot))?;
                *slot = full_at;
                return Ok(outcome);
            }
            let (outcome, full_at) = measure(None)?;
            shard.full_at.insert(key.clone(), full_at);
            return Ok(outcome);
        }
        let (outcome, full_at) = measure(shard.shared)?;
        shard.shared = Some(full_at);
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{HandClock, principal};

    fn quota(per_second: u32, burst: u32) -> RateQuota {
        RateQuota { per_second: NonZeroU32::new(per_second).unwrap(), burst: NonZeroU32::new(burst).unwrap() }
    }

    #[test]
    fn a_burst_passes_the_next_waits_and_the_numbers_say_how_long() {
        let clock = HandClock::at(1_000_000);
        let limiter = RateLimiter::with_clock(quota(10, 5), 1000, clock.clone());
        let ada = principal("person:ada");
        for left in (0..5).rev() {
            let facts = limiter.check(&ada).unwrap();
            let reset = Duration(u64::from(5 - left) * 100);
            assert_eq!(facts, RateFacts { limit: 5, remaining: left, reset });
        }
        let refused = limiter.check(&ada).unwrap_err();
        let (retry_after, reset) = (Duration(100), Duration(500));
        assert_eq!(refused, RateLimited { retry_after, limit: 5, remaining: 0, reset });
        clock.advance(99);
        assert_eq!(limiter.check(&ada).unwrap_err().retry_after, Duration(1));
        clock.advance(1);
        assert_eq!(limiter.check(&ada).unwrap().remaining, 0);
        clock.advance(10_000);
        assert_eq!(limiter.check(&ada).unwrap().remaining, 4);
    }

    #[test]
    fn principals_do_not_share_a_bucket_nor_do_organizations() {
        let limiter = RateLimiter::with_clock(quota(1, 1), 1000, HandClock::at(0));
        let (ada, bob) = (principal("person:ada"), principal("person:bob"));
        let elsewhere = Principal { org: OrgId::from_bytes([9; 16]), ..ada.clone() };
        limiter.check(&ada).unwrap();
        limiter.check(&ada).unwrap_err();
        limiter.check(&bob).unwrap();
        limiter.check(&elsewhere).unwrap();
    }

    #[test]
    fn memory_is_bounded_and_nobody_goes_unlimited_when_all_buckets_are_busy() {
        let clock = HandClock::at(0);
        let buckets = Buckets::new(quota(1, 2), 128, Ticks::Given(clock.clone()));
        // 128 own buckets of 2 and at most 64 shared ones of 2 let so many through and no more.
        let passed = (0..10_000u32).filter(|key| buckets.check(key).is_ok()).count();
        assert!(passed <= 128 + 64 * 2, "{passed}");
        // An hour later all are full again and make room: in each shard newcomers get the own buckets and the shared one.
        clock.advance(3_600_000);
        let passed = (20_000..30_000).filter(|key| buckets.check(key).is_ok()).count();
        assert_eq!(passed, 128 + 64 * 2);
    }

    #[test]
    fn no_more_buckets_are_held_than_there_is_room_for() {
        let ticks = Ticks::Given(HandClock::at(0));
        let store: Store<u32> = Store::new(128, ticks);
        for key in 0..10_000 {
            let taken: Result<(), ()> = store.measure_and_replace(&key, |_| Ok(((), Nanos::new(1_000_000_000))));
            taken.unwrap();
        }
        let held: usize = store.0.shards.iter().map(|shard| shard.lock().unwrap().full_at.len()).sum();
        assert_eq!(held, 128);
    }
}
