//! Slows down guessing: so many logins a name, then one every few seconds, whether the name exists or not.
//! A login that holds fills the bucket again, so nobody who knows the password is slowed down by using it.
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
/// Names watched at a time.
const CAPACITY: usize = 16_384;

/// Attempts to log in, by organization and name.
#[derive(Debug)]
pub(crate) struct Attempts {
    buckets: Option<Buckets<Digest>>,
}

impl Attempts {
    pub(crate) fn new(ticks: Ticks) -> Self {
        let quota = Quota::with_period(EVERY).map(|quota| quota.allow_burst(BURST));
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
}
