//! Slows down guessing: so many logins a name, then one every few seconds, whether the name exists or not.
//! A password that holds fills the bucket again, so nobody who knows it is slowed down by using it. A code does not: whoever
//! knows the password could wait for the owner's next login with theirs, and go on guessing.
//!
//! Absent: locking accounts; a stranger could lock anyone out. Read next: `password`.

use std::num::NonZeroU32;
use std::time::Duration as StdDuration;

use countersign_gateway_model::{Digest, OrgId};
use governor::Quota;

use crate::limit::{Buckets, Ticks};
use crate::{RateLimited, secret};

/// Logins at once for one name.
const BURST: NonZeroU32 = NonZeroU32::new(10).unwrap();
/// Then one in this time: 14,400 guesses a day at most.
const EVERY: StdDuration = StdDuration::from_secs(6);
/// Codes of a second factor at once for one name: whoever is asked for one has given the right password.
const CODES: NonZeroU32 = NonZeroU32::new(10).unwrap();
/// Then one in this time. Three codes of a million hold at a time: 288 guesses a day find one in three years.
const CODE_EVERY: StdDuration = StdDuration::from_mins(5);
/// Names watched at a time.
const CAPACITY: usize = 16_384;

/// Attempts to log in, by organization and name.
#[derive(Debug)]
pub(crate) struct Attempts {
    buckets: Option<Buckets<Digest>>,
}

impl Attempts {
    /// Of passwords.
    pub(crate) fn new(ticks: Ticks) -> Self {
        Self::so_many(BURST, EVERY, ticks)
    }

    /// Of codes of a second factor.
    pub(crate) fn of_codes(ticks: Ticks) -> Self {
        Self::so_many(CODES, CODE_EVERY, ticks)
    }

    fn so_many(burst: NonZeroU32, every: StdDuration, ticks: Ticks) -> Self {
        let quota = Quota::with_period(every).map(|quota| quota.allow_burst(burst));
        Self { buckets: quota.map(|quota| Buckets::with_quota(quota, CAPACITY, ticks)) }
    }

    /// Counts one attempt; refuses it where there were too many.
    pub(crate) fn count(&self, org: OrgId, name: &str) -> Result<(), RateLimited> {
        let Some(buckets) = &self.buckets else { return Ok(()) };
        buckets.check(&key(org, name)).map(|_| ())
    }

    /// The login held.
    pub(crate) fn forgive(&self, org: OrgId, name: &str) {
        if let Some(buckets) = &self.buckets {
            buckets.refill(&key(org, name));
        }
    }
}

/// The name is a stranger's text of any length: its hash is what is kept.
fn key(org: OrgId, name: &str) -> Digest {
    secret::digest(format!("{org}/{name}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::HandClock;

    #[test]
    fn guesses_at_one_name_are_slowed_down_and_others_are_not() {
        let clock = HandClock::at(0);
        let attempts = Attempts::new(Ticks::Given(clock.clone()));
        let org = OrgId::from_bytes([1; 16]);
        for _ in 0..10 {
            attempts.count(org, "ada").unwrap();
        }
        assert!(attempts.count(org, "ada").is_err());
        attempts.count(org, "bob").unwrap();
        attempts.count(OrgId::from_bytes([2; 16]), "ada").unwrap();
        clock.advance(6_000);
        attempts.count(org, "ada").unwrap();
        assert!(attempts.count(org, "ada").is_err());
        attempts.forgive(org, "bob");
        assert!(attempts.count(org, "ada").is_err());
        attempts.forgive(org, "ada");
        attempts.count(org, "ada").unwrap();
    }

    #[test]
    fn six_digits_are_not_guessed() {
        let clock = HandClock::at(0);
        let codes = Attempts::of_codes(Ticks::Given(clock.clone()));
        let org = OrgId::from_bytes([1; 16]);
        let mut guesses = 0;
        for _ in 0..24 * 60 {
            while codes.count(org, "ada").is_ok() {
                guesses += 1;
            }
            clock.advance(60_000);
        }
        // Three codes hold at a time: a day of guessing is right with less than a chance in a thousand.
        assert!((288..=300).contains(&guesses) && f64::from(guesses) * 3.0 / 1e6 < 0.001, "{guesses}");
        codes.count(org, "bob").unwrap();
    }
}
