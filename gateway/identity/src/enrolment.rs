//! One-time tokens that let the first person, an agent or a runner in: one use, 15 minutes, only a hash at rest.
//!
//! Using one and making what it stands for is one write, so a token is never spent for nothing and never used twice.
//! Absent: where the token is printed or kept. Read next: `directory`.

use std::sync::Arc;

use countersign_gateway_model::{Digest, Duration, Name, OrgId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::accounts::{self, RecordKey, RecordKind, Versioned};
use crate::entropy::hex128;
use crate::{
    Accounts, Directory, Entropy, IdentityError, NewPerson, PersonRecord, Secret, ServiceAccountRecord, Subject,
};

/// How long an enrolment token can be used.
pub const ENROLMENT_LIFE: Duration = Duration::from_secs(15 * 60);

/// How long a used or expired one is kept, to say so to whoever shows it again.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

const PREFIX: &str = "cs_enrol_";
const ID_DIGITS: usize = 32;

/// What an enrolment token is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Purpose {
    /// A person, who chooses their own name and password and gets these.
    Person {
        /// Roles held.
        roles: Vec<Name>,
        /// Teams belonged to.
        teams: Vec<Name>,
        /// Named groups.
        groups: Vec<Name>,
    },
    /// A service account for an existing agent or service: how agents and runners register.
    ServiceAccount {
        /// The agent or service.
        bound_to: Subject,
        /// When the service account is to end; `None` for never.
        expires: Option<Timestamp>,
    },
}

impl Purpose {
    fn words(&self) -> &'static str {
        match self {
            Self::Person { .. } => "a person",
            Self::ServiceAccount { .. } => "an agent or a service",
        }
    }
}

/// An enrolment as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolmentRecord {
    /// `enrol_` and 32 hex digits, unique over all organizations: the organization's own for its first person's.
    pub id: Name,
    /// The organization.
    pub org: OrgId,
    /// What it is for.
    pub purpose: Purpose,
    /// SHA-256 of the whole token.
    pub hash: Digest,
    /// Who made it; `None` for the one of a first start.
    pub issued_by: Option<Subject>,
    /// When it was made.
    pub created: Timestamp,
    /// Until when it can be used, exclusive.
    pub expires: Timestamp,
    /// When it was used.
    pub used: Option<Timestamp>,
}

/// A new enrolment with its token, which is shown once.
#[derive(Clone, Debug)]
pub struct Enrolment {
    /// Its id, for lists and logs.
    pub id: Name,
    /// What to hand over: `cs_enrol_`, 32 hex digits, `_`, 43 characters of base64url.
    pub token: Secret,
    /// Until when it can be used, exclusive.
    pub expires: Timestamp,
}

/// What a person brings to an enrolment.
#[derive(Clone, Debug)]
pub struct NewLogin {
    /// Id and login name.
    pub id: Name,
    /// For views, at most 200 characters.
    pub display_name: String,
    /// The password.
    pub password: Secret,
    /// Which human being this is; the id where it is `None`.
    pub person: Option<Name>,
}

/// Makes enrolment tokens and takes them in.
pub struct Enrolments {
    accounts: Arc<dyn Accounts>,
    entropy: Arc<dyn Entropy>,
    directory: Arc<Directory>,
}

impl std::fmt::Debug for Enrolments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Enrolments").finish_non_exhaustive()
    }
}

impl Enrolments {
    pub(crate) fn new(accounts: Arc<dyn Accounts>, entropy: Arc<dyn Entropy>, directory: Arc<Directory>) -> Self {
        Self { accounts, entropy, directory }
    }

    /// Makes a token. A service account can be enrolled for an existing agent or service only, and by somebody.
    pub async fn mint(
        &self,
        org: OrgId,
        purpose: Purpose,
        issued_by: Option<Subject>,
        now: Timestamp,
    ) -> Result<Enrolment, IdentityError> {
        if let Purpose::ServiceAccount { bound_to, .. } = &purpose {
            if issued_by.is_none() {
                return Err(IdentityError::Invalid { field: "issued_by", problem: "must name who enrols it" });
            }
            if self.directory.pseudonym_of(org, bound_to).await?.is_none() {
                return Err(IdentityError::AccountUnknown(bound_to.to_string()));
            }
        }
        // The first person's token has one place in an organization: a new one ends the one before.
        let digits = match &issued_by {
            Some(_) => hex128(&*self.entropy)?,
            None => const_hex::encode(org.as_bytes()),
        };
        let token = Secret::mint(&format!("{PREFIX}{digits}_"), &*self.entropy)?;
        let id = crate::directory::minted(&format!("enrol_{digits}"))?;
        let expires = now + ENROLMENT_LIFE;
        let record = EnrolmentRecord {
            id: id.clone(),
            org,
            purpose,
            hash: token.digest(),
            issued_by,
            created: now,
            expires,
            used: None,
        };
        let key = RecordKey::new(RecordKind::Enrolment, org, id.as_str());
        let before = self.accounts.get(&key).await?.map(|stored| stored.version);
        let write = accounts::write(key, before, &record)?;
        self.directory.commit(vec![write], || IdentityError::AccountExists(id.to_string())).await?;
        Ok(Enrolment { id, token, expires })
    }

    /// Lets a person in, who gets what the token grants and logs in with the password from then on.
    pub async fn enrol_person(
        &self,
        token: &Secret,
        login: NewLogin,
        now: Timestamp,
    ) -> Result<PersonRecord, IdentityError> {
        let (key, found) = self.open(token, now).await?;
        let Purpose::Person { roles, teams, groups } = found.record.purpose.clone() else {
            return Err(IdentityError::EnrolmentPurpose { purpose: found.record.purpose.words() });
        };
        let new = NewPerson {
            person: Some(login.person.unwrap_or_else(|| login.id.clone())),
            id: login.id,
            display_name: login.display_name,
            roles,
            teams,
            groups,
            password: Some(login.password),
            demo: false,
        };
        let by = found.record.issued_by.clone();
        let (person, mut writes) = self.directory.new_person(found.record.org, new, by, now).await?;
        writes.push(used(&key, found, now)?);
        // Past this point the token is spent and the person exists, or neither.
        if self.accounts.put(&writes).await? {
            return Ok(person);
        }
        self.open(token, now).await?;
        Err(IdentityError::AccountExists(Subject::person(person.id).to_string()))
    }

    /// Issues the service account that the token stands for: the registration of an agent or a runner.
    pub async fn register(
        &self,
        token: &Secret,
        now: Timestamp,
    ) -> Result<(ServiceAccountRecord, Secret), IdentityError> {
        let (key, found) = self.open(token, now).await?;
        let (Purpose::ServiceAccount { bound_to, expires }, Some(issued_by)) =
            (found.record.purpose.clone(), found.record.issued_by.clone())
        else {
            return Err(IdentityError::EnrolmentPurpose { purpose: found.record.purpose.words() });
        };
        let org = found.record.org;
        let (record, secret, mut writes) =
            self.directory.new_service_account(org, bound_to, issued_by, expires, now).await?;
        writes.push(used(&key, found, now)?);
        // Past this point the token is spent and the service account exists, or neither.
        if self.accounts.put(&writes).await? {
            return Ok((record, secret));
        }
        self.open(token, now).await?;
        Err(IdentityError::AccountChanged(record.client_id.to_string()))
    }

    /// The enrolment of a token, if it can be used now. Used or expired is only said to who holds the whole token.
    async fn open(
        &self,
        token: &Secret,
        now: Timestamp,
    ) -> Result<(RecordKey, Versioned<EnrolmentRecord>), IdentityError> {
        let digits = token.expose().strip_prefix(PREFIX).and_then(|rest| rest.split_once('_')).map(|(id, _)| id);
        let digits = digits.filter(|id| id.len() == ID_DIGITS && id.bytes().all(|b| b.is_ascii_hexdigit()));
        let digits = digits.ok_or(IdentityError::EnrolmentInvalid)?;
        let found = self.accounts.find(RecordKind::Enrolment, &format!("enrol_{digits}")).await?;
        let (key, stored) = found.ok_or(IdentityError::EnrolmentInvalid)?;
        let found: Versioned<EnrolmentRecord> = accounts::decode(&key, &stored)?;
        if !token.matches(&found.record.hash) {
            return Err(IdentityError::EnrolmentInvalid);
        }
        if found.record.used.is_some() {
            return Err(IdentityError::EnrolmentUsed);
        }
        if now >= found.record.expires {
            return Err(IdentityError::EnrolmentExpired);
        }
        Ok((key, found))
    }

    /// Deletes what ended a day ago; the number of rows.
    pub(crate) async fn sweep(&self, now: Timestamp) -> Result<usize, IdentityError> {
        let ended = |record: &EnrolmentRecord| record.expires + KEPT <= now;
        Ok(accounts::sweep(&*self.accounts, RecordKind::Enrolment, ended).await?)
    }
}

fn used(key: &RecordKey, found: Versioned<EnrolmentRecord>, now: Timestamp) -> Result<accounts::Write, IdentityError> {
    let record = EnrolmentRecord { used: Some(now), ..found.record };
    Ok(accounts::write(key.clone(), Some(found.version), &record)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{MINUTE, PASSWORD, START, World, ada, after, name};

    fn code<T>(result: Result<T, IdentityError>) -> &'static str {
        result.map_or_else(|error| error.code(), |_| "ok")
    }

    fn purpose() -> Purpose {
        Purpose::Person { roles: vec![name("owner")], teams: Vec::new(), groups: Vec::new() }
    }

    fn login(id: &str) -> NewLogin {
        NewLogin { id: name(id), display_name: id.into(), password: Secret::new(PASSWORD), person: None }
    }

    #[tokio::test]
    async fn the_first_person_comes_in_once_and_can_log_in() {
        let world = World::new().await;
        let enrolments = &world.identity.enrolments;
        assert!(world.identity.directory.is_empty(world.org).await.unwrap());
        let enrolment = enrolments.mint(world.org, purpose(), None, START).await.unwrap();
        assert_eq!(enrolment.expires, after(15 * MINUTE));
        let person = enrolments.enrol_person(&enrolment.token, login("ada"), START).await.unwrap();
        assert_eq!((person.roles, person.person), (vec![name("owner")], Some(name("ada"))));
        let grant = world.login("ada", "act decide", START).await;
        assert_eq!(world.code(&grant, START).await, "ok");
        let again = enrolments.enrol_person(&enrolment.token, login("eve"), after(1)).await;
        assert_eq!(code(again), "enrolment-used");
        assert!(!world.identity.directory.is_empty(world.org).await.unwrap());
    }

    #[tokio::test]
    async fn a_token_is_refused_when_late_unknown_or_altered_and_stays_good_after_a_mistake() {
        let world = World::new().await;
        world.person("ada").await;
        let enrolments = &world.identity.enrolments;
        let enrolment = enrolments.mint(world.org, purpose(), Some(ada()), START).await.unwrap();
        let other = enrolments.mint(world.org, purpose(), Some(ada()), START).await.unwrap();
        let text = enrolment.token.expose();
        let mixed = format!("{}{}", &text[..42], &other.token.expose()[42..]);
        for (token, expected) in [
            ("", "enrolment-invalid"),
            ("cs_enrol_", "enrolment-invalid"),
            ("cs_enrol_x_y", "enrolment-invalid"),
            (&text[..text.len() - 1], "enrolment-invalid"),
            (&format!("{text}x"), "enrolment-invalid"),
            (&mixed, "enrolment-invalid"),
            (&text.replace("cs_enrol_", "cs_client_"), "enrolment-invalid"),
        ] {
            let got = enrolments.enrol_person(&Secret::new(token), login("bob"), START).await;
            assert_eq!(code(got), expected, "{token}");
        }
        let late = enrolments.enrol_person(&enrolment.token, login("bob"), after(15 * MINUTE)).await;
        assert_eq!(code(late), "enrolment-expired");
        let weak = NewLogin { password: Secret::new("password"), ..login("bob") };
        assert_eq!(code(enrolments.enrol_person(&enrolment.token, weak, START).await), "weak-secret");
        let taken = enrolments.enrol_person(&enrolment.token, login("ada"), START).await;
        assert_eq!(code(taken), "account-exists");
        assert_eq!(code(enrolments.enrol_person(&enrolment.token, login("bob"), START).await), "ok");
    }

    #[tokio::test]
    async fn a_first_persons_token_ends_the_one_before() {
        let world = World::new().await;
        let enrolments = &world.identity.enrolments;
        let before = enrolments.mint(world.org, purpose(), None, START).await.unwrap().token;
        let latest = enrolments.mint(world.org, purpose(), None, after(1)).await.unwrap().token;
        let other = enrolments.mint(OrgId::from_bytes([9; 16]), purpose(), None, after(1)).await.unwrap().token;
        assert_eq!(code(enrolments.enrol_person(&before, login("eve"), after(2)).await), "enrolment-invalid");
        let (first, second) = tokio::join!(
            enrolments.enrol_person(&before, login("eve"), after(2)),
            enrolments.enrol_person(&latest, login("ada"), after(2))
        );
        assert_eq!([code(first), code(second)], ["enrolment-invalid", "ok"]);
        assert_eq!(world.identity.directory.persons(world.org, None, 10).await.unwrap().len(), 1);
        assert_eq!(code(enrolments.enrol_person(&other, login("ada"), after(2)).await), "ok", "another organization's");
    }

    #[tokio::test]
    async fn of_two_at_once_one_comes_in() {
        let world = World::new().await;
        let enrolments = &world.identity.enrolments;
        let token = enrolments.mint(world.org, purpose(), None, START).await.unwrap().token;
        let (first, second) = tokio::join!(
            enrolments.enrol_person(&token, login("ada"), START),
            enrolments.enrol_person(&token, login("eve"), START)
        );
        let mut codes = [code(first), code(second)];
        codes.sort_unstable();
        assert_eq!(codes, ["enrolment-used", "ok"]);
        assert_eq!(world.identity.directory.persons(world.org, None, 10).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn an_agent_registers_with_a_token_made_for_it() {
        let world = World::new().await;
        world.person("ada").await;
        world.agent("fixer").await;
        let enrolments = &world.identity.enrolments;
        let bound_to: Subject = "agent:fixer".parse().unwrap();
        let purpose = Purpose::ServiceAccount { bound_to: bound_to.clone(), expires: None };
        assert_eq!(code(enrolments.mint(world.org, purpose.clone(), None, START).await), "account-invalid");
        let elsewhere = OrgId::from_bytes([9; 16]);
        assert_eq!(code(enrolments.mint(elsewhere, purpose.clone(), Some(ada()), START).await), "account-unknown");
        let enrolment = enrolments.mint(world.org, purpose, Some(ada()), START).await.unwrap();
        assert_eq!(code(enrolments.enrol_person(&enrolment.token, login("eve"), START).await), "enrolment-purpose");
        let client = enrolments.register(&enrolment.token, START).await.unwrap();
        assert_eq!((client.0.bound_to.clone(), client.0.issued_by.clone()), (bound_to, ada()));
        let grant = world.exchange(&client, START).await;
        assert_eq!(world.code(&grant, START).await, "ok");
        assert_eq!(code(enrolments.register(&enrolment.token, START).await), "enrolment-used");
    }

    #[tokio::test]
    async fn no_secret_is_at_rest() {
        let world = World::new().await;
        world.person("ada").await;
        let client = world.agent("fixer").await;
        let enrolment = world.identity.enrolments.mint(world.org, purpose(), None, START).await.unwrap();
        let mut rows = String::new();
        for kind in RecordKind::ALL {
            for (_, stored) in world.accounts.list(kind, None, None, 1000).await.unwrap() {
                rows.push_str(std::str::from_utf8(&stored.value).unwrap());
            }
        }
        assert!(rows.contains("fixer") && rows.contains("argon2id"));
        for secret in [PASSWORD, client.1.expose(), enrolment.token.expose(), &enrolment.token.expose()[42..]] {
            assert!(!rows.contains(secret));
        }
    }

    #[tokio::test]
    async fn ended_enrolments_are_swept_a_day_later() {
        let world = World::new().await;
        world.identity.enrolments.mint(world.org, purpose(), None, START).await.unwrap();
        let day = 24 * 60 * MINUTE;
        assert_eq!(world.identity.sweep(after(15 * MINUTE + day - 1)).await.unwrap().enrolments, 0);
        assert_eq!(world.identity.sweep(after(15 * MINUTE + day)).await.unwrap().enrolments, 1);
    }
}
