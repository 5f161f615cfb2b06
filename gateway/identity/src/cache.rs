//! Verified sessions by the hash of their token, until expiry or revocation; the live revocations beside them.
//!
//! Bounded: full shards drop what has expired, then what ends first. Only tokens whose signature holds come in, so
//! strangers cannot push others out. Absent: verification. Read next: `authenticate`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use countersign_gateway_model::{OrgId, Timestamp};

use crate::revocation::{Facts, Revocation, Revocations};
use crate::{Session, Subject};

/// More than the cores of any machine this runs on, so that two requests seldom meet.
const SHARDS: usize = 64;

type Hash = [u8; 32];
type Shard = HashMap<Hash, Arc<Session>>;

/// The sessions of one gateway process.
pub(crate) struct Sessions {
    shards: Vec<Mutex<Shard>>,
    per_shard: usize,
    /// Grows with everything that may end a session, before sessions are dropped for it.
    generation: AtomicU64,
    revocations: RwLock<Revocations>,
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sessions").field("cached", &self.len()).finish_non_exhaustive()
    }
}

impl Sessions {
    /// At most `capacity` sessions, rounded up to a multiple of the number of shards.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            per_shard: capacity.div_ceil(SHARDS).max(1),
            generation: AtomicU64::new(0),
            revocations: RwLock::default(),
        }
    }

    /// The live session of a token's hash, seen through `view` while the shard is held.
    pub(crate) fn get<T>(&self, hash: &Hash, now: Timestamp, view: impl FnOnce(&Arc<Session>) -> T) -> Option<T> {
        let mut shard = self.shard(hash)?;
        let session = shard.get(hash)?;
        if now < session.principal.expires {
            return Some(view(session));
        }
        shard.remove(hash);
        None
    }

    /// What to hand to [`Self::insert`], taken before the account is read.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Keeps a session, unless something may have ended it since `generation` was taken: whoever ends sessions counts
    /// up first and drops them after, so either the new one is dropped there or it is taken back here.
    pub(crate) fn insert(&self, hash: Hash, session: Arc<Session>, generation: u64, now: Timestamp) {
        if let Some(mut shard) = self.shard(&hash) {
            if shard.len() >= self.per_shard && !shard.contains_key(&hash) {
                make_room(&mut shard, now);
            }
            shard.insert(hash, session);
        }
        if self.generation() != generation
            && let Some(mut shard) = self.shard(&hash)
        {
            shard.remove(&hash);
        }
    }

    /// Adds a revocation and drops what it ends.
    pub(crate) fn revoke(&self, revocation: &Revocation) {
        self.revocations.write().unwrap_or_else(PoisonError::into_inner).add(revocation);
        self.drop_where(|session| session.facts().hit_by(revocation));
    }

    /// Whether a revocation ends this token.
    pub(crate) fn is_revoked(&self, facts: &Facts<'_>) -> bool {
        self.revocations.read().unwrap_or_else(PoisonError::into_inner).hit(facts)
    }

    /// Drops the sessions of an account, and those in whose chain it stands: the next request reads it anew.
    pub(crate) fn forget(&self, org: OrgId, subject: &Subject) {
        self.drop_where(|session| {
            session.principal.org == org
                && (session.subject == *subject || session.chain.iter().any(|link| link.subject == *subject))
        });
    }

    /// Drops all sessions.
    pub(crate) fn forget_all(&self) {
        self.drop_where(|_| true);
    }

    /// Drops expired sessions and revocations.
    pub(crate) fn sweep(&self, now: Timestamp) {
        for shard in &self.shards {
            lock(shard).retain(|_, session| now < session.principal.expires);
        }
        self.revocations.write().unwrap_or_else(PoisonError::into_inner).sweep(now);
    }

    /// Sessions held now.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    /// Revocations held now.
    pub(crate) fn revocations(&self) -> usize {
        self.revocations.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn drop_where(&self, ended: impl Fn(&Session) -> bool) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        for shard in &self.shards {
            lock(shard).retain(|_, session| !ended(session));
        }
    }

    fn shard(&self, hash: &Hash) -> Option<MutexGuard<'_, Shard>> {
        let [first, ..] = hash;
        self.shards.get(usize::from(*first) % SHARDS).map(lock)
    }
}

/// A map of whole entries is whole whatever panicked beside it.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

fn make_room(shard: &mut Shard, now: Timestamp) {
    let before = shard.len();
    shard.retain(|_, session| now < session.principal.expires);
    if shard.len() == before
        && let Some(first) = shard.iter().min_by_key(|(_, session)| session.principal.expires).map(|(hash, _)| *hash)
    {
        shard.remove(&first);
    }
}

impl Session {
    pub(crate) fn facts(&self) -> Facts<'_> {
        Facts {
            org: self.principal.org,
            token: &self.token,
            credential: self.credential.as_ref(),
            subject: &self.subject,
            chain: &self.chain,
            issued: self.issued,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::session;

    fn hash(n: u32) -> Hash {
        *crate::secret::digest(&n.to_be_bytes()).as_bytes()
    }

    #[test]
    fn the_cache_never_holds_more_than_its_bound_and_drops_what_ends_first() {
        let sessions = Sessions::new(128);
        for n in 0..10_000 {
            let session = Arc::new(session("person:ada", Timestamp(1_000_000 + u64::from(n))));
            sessions.insert(hash(n), session, 0, Timestamp(0));
            assert!(sessions.len() <= 128);
        }
        assert!(sessions.get(&hash(9_999), Timestamp(0), |_| ()).is_some());
        assert!(sessions.get(&hash(0), Timestamp(0), |_| ()).is_none());
        sessions.sweep(Timestamp(2_000_000));
        assert_eq!(sessions.len(), 0);
    }

    #[test]
    fn an_expired_session_is_dropped_when_it_is_asked_for() {
        let sessions = Sessions::new(64);
        sessions.insert(hash(1), Arc::new(session("person:ada", Timestamp(10))), 0, Timestamp(0));
        assert!(sessions.get(&hash(1), Timestamp(9), |_| ()).is_some());
        assert!(sessions.get(&hash(1), Timestamp(10), |_| ()).is_none());
        assert_eq!(sessions.len(), 0);
    }

    #[test]
    fn a_session_verified_before_a_change_and_kept_after_it_is_not_kept() {
        let sessions = Sessions::new(64);
        let ada = "person:ada".parse().unwrap();
        let generation = sessions.generation();
        let verified = Arc::new(session("person:ada", Timestamp(10)));
        sessions.forget(verified.principal.org, &ada);
        sessions.insert(hash(1), verified, generation, Timestamp(0));
        assert_eq!(sessions.len(), 0);
    }

    #[test]
    fn forgetting_an_account_drops_its_sessions_and_nobody_elses() {
        let sessions = Sessions::new(64);
        for (n, subject) in [(1, "person:ada"), (2, "person:bob"), (3, "agent:ada")] {
            sessions.insert(hash(n), Arc::new(session(subject, Timestamp(10))), sessions.generation(), Timestamp(0));
        }
        sessions.forget(session("person:ada", Timestamp(0)).principal.org, &"person:ada".parse().unwrap());
        assert_eq!(sessions.len(), 2);
        sessions.forget(OrgId::from_bytes([9; 16]), &"person:bob".parse().unwrap());
        assert_eq!(sessions.len(), 2);
        sessions.forget_all();
        assert_eq!(sessions.len(), 0);
    }
}
