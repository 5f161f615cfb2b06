//! Passwords of people: Argon2id with OWASP's parameters, few at a time, the same work whether the account exists or
//! not.
//!
//! Absent: which passwords are refused (`weak`), and accounts. Read next: `attempts`, `token`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher as _, PasswordVerifier as _, Version};
use countersign_gateway_model::Duration;
use tokio::sync::Semaphore;
use unicode_normalization::UnicodeNormalization as _;
use zeroize::Zeroizing;

use crate::{IdentityError, RateLimited, Secret};

/// 19 MiB, two passes, one lane: OWASP's first choice for Argon2id.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// Hashes at a time: each takes 19 MiB and a core for some 20 ms.
const AT_ONCE: usize = 2;
/// Logins that may wait for a place; more are told to come back.
const WAITING: usize = 64;
/// Longer texts are not hashed; no account can have such a password.
const MAX_BYTES: usize = 4096;

/// A hash that no password has: salt and output are zeros, the parameters are those of every account.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Hashes and checks passwords on blocking threads.
#[derive(Debug)]
pub(crate) struct Passwords {
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    computed: Arc<AtomicU64>,
}

impl Passwords {
    pub(crate) fn new() -> Self {
        Self { places: Arc::new(Semaphore::new(AT_ONCE)), waiting: AtomicUsize::new(0), computed: Arc::default() }
    }

    /// The PHC text to store.
    pub(crate) async fn hash(&self, password: &Secret, salt: [u8; 16]) -> Result<String, IdentityError> {
        let password = prepared(password);
        self.compute(move || {
            let hashed = argon2()?.hash_password_with_salt(password.as_bytes(), &salt);
            hashed.map(|hash| hash.to_string()).map_err(|source| IdentityError::internal("hashing a password", source))
        })
        .await
    }

    /// Whether the password is the one of `stored`. Without one the same work is done, and the answer is no.
    pub(crate) async fn verify(&self, password: &Secret, stored: Option<&str>) -> Result<bool, IdentityError> {
        let password = prepared(password);
        let known = stored.is_some();
        let phc = stored.unwrap_or(NOBODY).to_owned();
        self.compute(move || {
            let phc = PasswordHash::new(&phc)
                .map_err(|source| IdentityError::internal("reading a password's hash", source))?;
            Ok(argon2()?.verify_password(password.as_bytes(), &phc).is_ok() && known)
        })
        .await
    }

    /// Hashes computed since start.
    #[cfg(test)]
    pub(crate) fn computed(&self) -> u64 {
        self.computed.load(Ordering::SeqCst)
    }

    async fn compute<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, IdentityError> + Send + 'static,
    ) -> Result<T, IdentityError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| IdentityError::internal("hashing", source);
        let place = {
            let _waiting = Waiting::enter(&self.waiting)?;
            Arc::clone(&self.places).acquire_owned().await.map_err(|source| failed(source.into()))?
        };
        let computed = Arc::clone(&self.computed);
        // The place goes along: where the caller goes away, the hash still ends before another one begins.
        let task = tokio::task::spawn_blocking(move || {
            let _place = place;
            computed.fetch_add(1, Ordering::SeqCst);
            work()
        });
        task.await.map_err(|source| failed(source.into()))?
    }
}

/// One who waits for a place; leaves also where the request is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn enter(count: &'a AtomicUsize) -> Result<Self, IdentityError> {
        let guard = Self(count);
        if count.fetch_add(1, Ordering::SeqCst) < WAITING {
            return Ok(guard);
        }
        let (retry_after, limit) = (Duration::from_secs(1), u32::try_from(WAITING).unwrap_or(u32::MAX));
        Err(RateLimited { retry_after, limit, remaining: 0, reset: retry_after }.into())
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn argon2() -> Result<Argon2<'static>, IdentityError> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, Some(32))
        .map_err(|source| IdentityError::internal("setting up Argon2id", source))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

/// One spelling of each text, so that two keyboards give one password. A text too long to be one becomes none.
fn prepared(password: &Secret) -> Zeroizing<String> {
    let text = password.expose();
    let text = if text.len() > MAX_BYTES { "" } else { text };
    Zeroizing::new(text.nfc().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_holds_in_every_spelling_of_it_and_no_other_does() {
        let passwords = Passwords::new();
        let phc = passwords.hash(&Secret::new("Gr\u{f6}\u{df}e-\u{dc}bermut"), [5; 16]).await.unwrap();
        assert!(phc.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{phc}");
        for (text, holds) in [
            ("Gr\u{f6}\u{df}e-\u{dc}bermut", true),
            ("Gro\u{308}\u{df}e-U\u{308}bermut", true),
            ("Grosse-Uebermut", false),
            ("", false),
        ] {
            assert_eq!(passwords.verify(&Secret::new(text), Some(&phc)).await.unwrap(), holds, "{text}");
        }
        assert!(!passwords.verify(&Secret::new("x".repeat(5000)), Some(&phc)).await.unwrap());
    }

    #[tokio::test]
    async fn an_unknown_account_costs_the_same_hash_and_never_holds() {
        let passwords = Passwords::new();
        let before = passwords.computed();
        assert!(!passwords.verify(&Secret::new("anything at all"), None).await.unwrap());
        assert_eq!(passwords.computed(), before + 1);
        let (known, nobody) = (passwords.hash(&Secret::new("x"), [1; 16]).await.unwrap(), NOBODY);
        let params = |phc: &str| phc.rsplitn(3, '$').nth(2).unwrap().to_owned();
        assert_eq!(params(&known), params(nobody));
        assert_eq!(known.len(), nobody.len());
    }

    #[tokio::test]
    async fn a_stored_text_that_is_no_hash_is_an_error_not_a_no() {
        let error = Passwords::new().verify(&Secret::new("x"), Some("plain text")).await.unwrap_err();
        assert_eq!(error.code(), "identity-unavailable");
    }

    #[tokio::test]
    async fn too_many_who_wait_are_told_to_come_back() {
        let passwords = Arc::new(Passwords::new());
        let held = Arc::clone(&passwords.places).acquire_many_owned(2).await.unwrap();
        let waiting: Vec<_> = (0..WAITING)
            .map(|_| {
                let passwords = Arc::clone(&passwords);
                tokio::spawn(async move { passwords.verify(&Secret::new("x"), None).await.map(|_| ()) })
            })
            .collect();
        while passwords.waiting.load(Ordering::SeqCst) < WAITING {
            tokio::task::yield_now().await;
        }
        let error = passwords.verify(&Secret::new("x"), None).await.unwrap_err();
        assert_eq!(error.code(), "rate-limited");
        for task in waiting {
            task.abort();
            let _ = task.await;
        }
        drop(held);
        assert!(!passwords.verify(&Secret::new("x"), None).await.unwrap());
    }
}
