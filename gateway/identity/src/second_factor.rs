//! A person's second factor: codes of an authenticator app (TOTP, RFC 6238: SHA-1, six digits, thirty seconds).
//!
//! Begun with a secret that is shown once, in force from the first code that holds, taken away by its person with a fresh
//! login that used it, or by somebody whom policy lets. A code is accepted once: the step of the last one is stored before
//! the login is granted, and only a later one holds. The secret must be readable to check a code, so it is the one thing of
//! an account that is not kept as a hash; it is in no entry, and nothing prints it.
//!
//! Absent: codes by mail or telephone, and codes for a rainy day; who has lost theirs has it taken away. Read next: `token`.

use std::sync::Arc;

use countersign_gateway_model::{Assurance, Duration, Name, OrgId, Principal, PrincipalKind, Scope, Timestamp};
use serde::{Deserialize, Serialize};
use totp_rs::{Builder, Totp};

use crate::accounts::{self, RecordKey, RecordKind, Versioned, Write, read};
use crate::attempts::Attempts;
use crate::cache::Sessions;
use crate::entropy::{draw, hex128};
use crate::{Accounts, Directory, Entropy, IdentityError, PersonRecord, Secret, Subject, require_scope};

/// How long a secret that was shown waits for its first code.
pub const SECOND_FACTOR_LIFE: Duration = Duration::from_secs(15 * 60);

/// How old the login may be of whoever takes a second factor away.
const FRESH: Duration = Duration::from_secs(5 * 60);

/// Steps before and after the present one whose codes hold: clocks differ, and people type slowly.
const SKEW: u16 = 1;

/// Whose codes these are, in an app.
const ISSUER: &str = "Countersign";

/// Tries before giving up on a row that keeps changing.
const TRIES: usize = 8;

/// A person's second factor as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecondFactorRecord {
    /// The organization.
    pub org: OrgId,
    /// Whose.
    pub person: Name,
    /// `otp_` and 32 hex digits: names this secret and no other.
    pub id: Name,
    /// The secret, 160 bits in base32.
    #[serde(with = "at_rest")]
    secret: Secret,
    /// When the secret was shown.
    pub begun: Timestamp,
    /// Since when it is asked for; `None`: its first code has not come yet.
    pub in_force: Option<Timestamp>,
    /// The time step of the last code that was accepted.
    pub last_step: u64,
}

impl SecondFactorRecord {
    /// Whether logins of its person need a code.
    pub fn is_in_force(&self) -> bool {
        self.in_force.is_some()
    }

    /// Whether it waits for its first code in vain.
    fn has_lapsed(&self, now: Timestamp) -> bool {
        self.in_force.is_none() && now >= self.begun + SECOND_FACTOR_LIFE
    }

    /// The step of a code that holds now and is later than the last one that did.
    fn step_of(&self, code: &Secret, now: Timestamp) -> Result<u64, IdentityError> {
        let totp = totp(&self.secret, "")?;
        // As apps show it: in two groups.
        let code: String = code.expose().chars().filter(|c| !c.is_ascii_whitespace()).collect();
        let step = totp.check(&code, now.0 / 1000).filter(|step| *step > self.last_step);
        step.ok_or(IdentityError::SecondFactorRefused {
            reason: "it does not hold: a code holds once, for a minute or so; wait for the next one",
        })
    }
}

/// The one place where a secret is written in the clear: its row.
mod at_rest {
    use serde::{Deserialize as _, Deserializer, Serializer};

    use crate::Secret;

    pub(super) fn serialize<S: Serializer>(secret: &Secret, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(secret.expose())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Secret, D::Error> {
        String::deserialize(d).map(Secret::new)
    }
}

/// A secret to be put into an authenticator app: shown once.
#[derive(Clone, Debug)]
pub struct NewSecondFactor {
    /// In base32, to be typed.
    pub secret: Secret,
    /// `otpauth://totp/…`, to be opened or shown as a QR code.
    pub uri: Secret,
    /// Until when its first code must have come, exclusive.
    pub expires: Timestamp,
}

/// Second factors of all organizations; each call names one.
pub struct SecondFactors {
    accounts: Arc<dyn Accounts>,
    entropy: Arc<dyn Entropy>,
    sessions: Arc<Sessions>,
    directory: Arc<Directory>,
    codes: Attempts,
}

impl std::fmt::Debug for SecondFactors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecondFactors").finish_non_exhaustive()
    }
}

impl SecondFactors {
    pub(crate) fn new(
        accounts: Arc<dyn Accounts>,
        entropy: Arc<dyn Entropy>,
        sessions: Arc<Sessions>,
        directory: Arc<Directory>,
        codes: Attempts,
    ) -> Self {
        Self { accounts, entropy, sessions, directory, codes }
    }

    /// What a person has; `None` also where what was begun has lapsed.
    pub async fn of(
        &self,
        org: OrgId,
        person: &Name,
        now: Timestamp,
    ) -> Result<Option<SecondFactorRecord>, IdentityError> {
        let found = self.read(org, person).await?.map(|found| found.record);
        Ok(found.filter(|record| !record.has_lapsed(now)))
    }

    /// Gives `who`, whose password was just asked for again, a secret of their own. Nothing changes for their logins until a
    /// code of it has come; what was begun before and waits is replaced.
    pub async fn begin(
        &self,
        who: &Principal,
        person: &Name,
        now: Timestamp,
    ) -> Result<NewSecondFactor, IdentityError> {
        may_enrol(who, person)?;
        let found = self.read(who.org, person).await?;
        if found.as_ref().is_some_and(|found| found.record.is_in_force()) {
            return Err(IdentityError::SecondFactorInForce(person.to_string()));
        }
        let secret = totp_rs::Secret::new_stack(draw::<20>(&*self.entropy)?);
        let secret = Secret::new(secret.to_base32());
        let uri = Secret::new(totp(&secret, person.as_str())?.to_url().map_err(failed)?);
        let record = SecondFactorRecord {
            org: who.org,
            person: person.clone(),
            id: crate::directory::minted(&format!("otp_{}", hex128(&*self.entropy)?))?,
            secret: secret.clone(),
            begun: now,
            in_force: None,
            last_step: 0,
        };
        let write = accounts::write(key(who.org, person), found.map(|found| found.version), &record)?;
        self.directory.commit(vec![write], || changed(person)).await?;
        Ok(NewSecondFactor { secret, uri, expires: now + SECOND_FACTOR_LIFE })
    }

    /// Puts what `who` has begun in force, by its first code. Every token of theirs from before ends: from here on each login
    /// needs a code.
    pub async fn confirm(
        &self,
        who: &Principal,
        person: &Name,
        code: &Secret,
        now: Timestamp,
    ) -> Result<SecondFactorRecord, IdentityError> {
        may_enrol(who, person)?;
        let found = self.read(who.org, person).await?.filter(|found| !found.record.has_lapsed(now));
        let none = || IdentityError::SecondFactorUnknown { what: "none waits for its first code: begin one" };
        let Versioned { version, mut record } = found.ok_or_else(none)?;
        if record.is_in_force() {
            return Err(IdentityError::SecondFactorInForce(person.to_string()));
        }
        self.codes.count(who.org, person.as_str())?;
        record.last_step = record.step_of(code, now)?;
        record.in_force = Some(now);
        let write = accounts::write(key(who.org, person), Some(version), &record)?;
        self.commit_with_new_credential(who.org, person, write).await?;
        Ok(record)
    }

    /// Takes a person's second factor away, as `who` may by policy, with a login for decisions that was just made. Whoever takes
    /// their own away, from whichever of their accounts, has used a code for it; accounts of which it is not known whose they
    /// are may be one human being's.
    pub async fn remove(&self, who: &Principal, person: &Name, now: Timestamp) -> Result<(), IdentityError> {
        if who.kind != PrincipalKind::Person || !who.on_behalf_of.is_empty() {
            let problem = "can be taken away by a person alone, in their own name";
            return Err(IdentityError::Invalid { field: "second factor", problem });
        }
        require_scope(who, Scope::Decide)?;
        if now.since(who.issued) > FRESH {
            return Err(IdentityError::LoginStale);
        }
        let human = self.directory.person(who.org, person).await?.and_then(|record| record.person);
        let known = human.is_some();
        if (who.id == *person || human == who.person) && who.assurance != Assurance::Mfa {
            return Err(IdentityError::SecondFactorRequired {
                reason: if known {
                    "your own is taken away with a login that used its code"
                } else {
                    "nothing says that this account is another human being's than yours: sign in with a second factor of \
                     your own, or give the accounts their person keys"
                },
            });
        }
        self.withdraw(who.org, person).await
    }

    /// Takes a person's second factor away, whoever asks: for the operator of a stopped gateway.
    pub async fn withdraw(&self, org: OrgId, person: &Name) -> Result<(), IdentityError> {
        let found = self.read(org, person).await?.filter(|found| found.record.is_in_force());
        let none = || IdentityError::SecondFactorUnknown { what: "none is in force: there is nothing to take away" };
        let Versioned { version, .. } = found.ok_or_else(none)?;
        let write = Write { key: key(org, person), expected: Some(version), value: None };
        self.commit_with_new_credential(org, person, write).await
    }

    /// Spends a code for a login whose password held: whether a second factor was used. Without one a login needs none, and
    /// with one it is refused without a code.
    pub(crate) async fn spend(
        &self,
        org: OrgId,
        person: &Name,
        code: Option<&Secret>,
        now: Timestamp,
    ) -> Result<bool, IdentityError> {
        let mut counted = false;
        for _ in 0..TRIES {
            let found = self.read(org, person).await?.filter(|found| found.record.is_in_force());
            let (Versioned { version, mut record }, code) = match (found, code) {
                (Some(found), Some(code)) => (found, code),
                (Some(_), None) => {
                    return Err(IdentityError::SecondFactorRequired {
                        reason: "give the code that your authenticator app shows as `otp`",
                    });
                }
                (None, Some(_)) => {
                    return Err(IdentityError::SecondFactorRefused {
                        reason: "no second factor is in force for you: sign in without a code, or enrol one",
                    });
                }
                (None, None) => return Ok(false),
            };
            if !counted {
                self.codes.count(org, person.as_str())?;
                counted = true;
            }
            record.last_step = record.step_of(code, now)?;
            let write = accounts::write(key(org, person), Some(version), &record)?;
            // Durable before anything is granted: of two logins with one code, one comes in.
            if self.accounts.put(&[write]).await? {
                return Ok(true);
            }
        }
        Err(changed(person))
    }

    /// Deletes secrets whose first code never came; the number of them.
    pub(crate) async fn sweep(&self, now: Timestamp) -> Result<usize, IdentityError> {
        let lapsed = |record: &SecondFactorRecord| record.has_lapsed(now);
        Ok(accounts::sweep(&*self.accounts, RecordKind::SecondFactor, lapsed).await?)
    }

    /// Writes with a new credential id of the person, so that every token and consent of before ends.
    async fn commit_with_new_credential(&self, org: OrgId, person: &Name, write: Write) -> Result<(), IdentityError> {
        let subject = Subject::person(person.clone());
        let row = RecordKey::new(RecordKind::Person, org, person.as_str());
        let found: Option<Versioned<PersonRecord>> = read(&*self.accounts, &row).await?;
        let unknown = || IdentityError::AccountUnknown(subject.to_string());
        let Versioned { version, mut record } = found.ok_or_else(unknown)?;
        record.credential = self.directory.new_credential()?;
        let writes = vec![accounts::write(row, Some(version), &record)?, write];
        self.directory.commit(writes, || changed(person)).await?;
        self.sessions.forget(org, &subject);
        Ok(())
    }

    async fn read(&self, org: OrgId, person: &Name) -> Result<Option<Versioned<SecondFactorRecord>>, IdentityError> {
        Ok(read(&*self.accounts, &key(org, person)).await?)
    }
}

fn key(org: OrgId, person: &Name) -> RecordKey {
    RecordKey::new(RecordKind::SecondFactor, org, person.as_str())
}

fn changed(person: &Name) -> IdentityError {
    IdentityError::AccountChanged(Subject::person(person.clone()).to_string())
}

fn failed(source: totp_rs::TotpError) -> IdentityError {
    IdentityError::internal("reading a second factor", source)
}

/// A person enrols themselves, with a login for decisions.
fn may_enrol(who: &Principal, person: &Name) -> Result<(), IdentityError> {
    let own = who.kind == PrincipalKind::Person && who.on_behalf_of.is_empty() && who.id == *person;
    if !own || who.assurance < Assurance::Password {
        let problem = "is enrolled by its person alone, in their own name, with a password";
        return Err(IdentityError::Invalid { field: "second factor", problem });
    }
    require_scope(who, Scope::Decide)
}

/// What makes and checks the codes of a secret; `account` is what an app calls it.
fn totp(secret: &Secret, account: &str) -> Result<Totp, IdentityError> {
    let secret = totp_rs::Secret::try_from_base32(secret.expose())
        .map_err(|source| IdentityError::internal("reading a second factor", source))?;
    // A colon would end the issuer's name.
    let account = account.replace(':', "-");
    let built = Builder::new().with_secret(secret).with_skew(SKEW).with_account_name(account).with_issuer(Some(ISSUER));
    built.build().map_err(failed)
}

#[cfg(test)]
mod tests;
