//! The entry of a batch of account rows: what it does, and to whom.
//!
//! Absent: writing it (`accounts`). Read next: `book`.

use countersign_gateway_identity::{
    AgentRecord, EnrolmentRecord, PersonRecord, RecordKind, Revocation, RevocationTarget, SecondFactorRecord,
    ServiceAccountRecord, ServiceRecord, StoreError, Subject, Write,
};
use countersign_gateway_model::{Digest, PrincipalKind, Pseudonym};
use countersign_runners_contract::entry::body::{Principal as PrincipalBody, PrincipalChange};
use sha2::{Digest as _, Sha256};

use super::book::{Book, record};

/// Digest of a credential's id: the id itself is of use to nobody who reads the log, and of some to a thief.
fn credential(id: &str) -> Digest {
    Digest(Sha256::new().chain_update("countersign/credential-id/v1\0").chain_update(id).finalize().into())
}

/// The entry of a batch: what it does to the account that it is about.
pub(super) fn what_happened(writes: &[Write], before: &Book) -> Result<PrincipalBody, StoreError> {
    let order = |write: &Write| match write.key.kind {
        // A person who changes beside their second factor changes by it; one who goes takes it along.
        RecordKind::Person if write.value.is_none() => 0,
        RecordKind::SecondFactor => 1,
        RecordKind::Person | RecordKind::Agent | RecordKind::Service => 2,
        RecordKind::ServiceAccount => 3,
        RecordKind::Revocation => 4,
        RecordKind::Enrolment => 5,
        RecordKind::Pseudonym => 6,
    };
    let write = writes
        .iter()
        .min_by_key(|write| order(write))
        .ok_or_else(|| StoreError::new("a batch has no rows", "nothing was written"))?;
    let old = before.get(&write.key).map(|stored| stored.value.as_slice());
    let value = write.value.as_deref().or(old);
    let value = value.ok_or_else(|| StoreError::new("a row that is not there is deleted", "nothing was written"))?;
    let directory = |subject: &Subject| before.pseudonym(write.key.org, subject);
    let change = |disabled: bool, was: Option<bool>| match (write.expected, &write.value) {
        (_, None) => PrincipalChange::Deactivated,
        (None, Some(_)) => PrincipalChange::Created,
        _ if disabled && was == Some(false) => PrincipalChange::Deactivated,
        _ => PrincipalChange::Updated,
    };
    let nobody = |change, id: &str| PrincipalBody {
        change,
        principal: Pseudonym::SYSTEM,
        kind: PrincipalKind::System,
        owner: None,
        roles: Vec::new(),
        teams: Vec::new(),
        credential: Some(credential(id)),
    };
    Ok(match write.key.kind {
        RecordKind::Person => {
            let person: PersonRecord = record(value)?;
            let was: Option<PersonRecord> = old.map(record).transpose()?;
            let mut change = change(person.disabled, was.as_ref().map(|w| w.disabled));
            if change == PrincipalChange::Updated && was.is_some_and(|w| w.credential != person.credential) {
                change = PrincipalChange::CredentialIssued;
            }
            PrincipalBody {
                change,
                principal: person.pseudonym,
                kind: PrincipalKind::Person,
                owner: None,
                roles: person.roles,
                teams: person.teams,
                credential: (change == PrincipalChange::CredentialIssued)
                    .then(|| credential(person.credential.as_str())),
            }
        }
        RecordKind::Agent => {
            let agent: AgentRecord = record(value)?;
            let was: Option<AgentRecord> = old.map(record).transpose()?;
            PrincipalBody {
                change: change(agent.disabled, was.map(|w| w.disabled)),
                principal: agent.pseudonym,
                kind: PrincipalKind::Agent,
                owner: directory(&Subject::person(agent.owner)),
                roles: Vec::new(),
                teams: agent.teams,
                credential: None,
            }
        }
        RecordKind::Service => {
            let service: ServiceRecord = record(value)?;
            let was: Option<ServiceRecord> = old.map(record).transpose()?;
            PrincipalBody {
                change: change(service.disabled, was.map(|w| w.disabled)),
                principal: service.pseudonym,
                kind: PrincipalKind::Service,
                owner: directory(&Subject::person(service.owner)),
                roles: Vec::new(),
                teams: service.teams,
                credential: None,
            }
        }
        RecordKind::ServiceAccount => {
            let account: ServiceAccountRecord = record(value)?;
            let revoked = account.disabled || write.value.is_none();
            PrincipalBody {
                change: if revoked { PrincipalChange::CredentialRevoked } else { PrincipalChange::CredentialIssued },
                principal: directory(&account.bound_to).unwrap_or(Pseudonym::SYSTEM),
                kind: account.bound_to.kind(),
                owner: None,
                roles: Vec::new(),
                teams: Vec::new(),
                credential: Some(credential(account.client_id.as_str())),
            }
        }
        RecordKind::Revocation => {
            let revocation: Revocation = record(value)?;
            let mut body = nobody(PrincipalChange::CredentialRevoked, &revocation.target.to_string());
            if let RevocationTarget::Principal(subject) = &revocation.target
                && let Some(who) = directory(subject)
            {
                body = PrincipalBody { principal: who, kind: subject.kind(), credential: None, ..body };
            }
            body
        }
        RecordKind::Enrolment => {
            let enrolment: EnrolmentRecord = record(value)?;
            let issued = write.value.is_some() && enrolment.used.is_none();
            let change = if issued { PrincipalChange::CredentialIssued } else { PrincipalChange::CredentialRevoked };
            nobody(change, enrolment.id.as_str())
        }
        RecordKind::SecondFactor => {
            let factor: SecondFactorRecord = record(value)?;
            let was: Option<SecondFactorRecord> = old.map(record).transpose()?;
            let was_in_force = was.is_some_and(|was| was.is_in_force() && was.id == factor.id);
            let person: Option<PersonRecord> =
                before.record(RecordKind::Person, write.key.org, factor.person.as_str())?;
            let (roles, teams) = person.as_ref().map(|p| (p.roles.clone(), p.teams.clone())).unwrap_or_default();
            PrincipalBody {
                change: match &write.value {
                    None if was_in_force => PrincipalChange::CredentialRevoked,
                    Some(_) if factor.is_in_force() && !was_in_force => PrincipalChange::CredentialIssued,
                    // Begun, lapsed before it was in force, or used: the login that a code was spent for is on record.
                    _ => PrincipalChange::Updated,
                },
                principal: person.map_or(Pseudonym::SYSTEM, |person| person.pseudonym),
                kind: PrincipalKind::Person,
                owner: None,
                roles,
                teams,
                credential: Some(credential(factor.id.as_str())),
            }
        }
        RecordKind::Pseudonym => nobody(PrincipalChange::Updated, &write.key.id),
    })
}

/// What a batch does to a second factor without that policy was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OfSecondFactor {
    /// A code was spent for a login.
    Used,
    /// What was begun went, as its first code never came.
    Lapsed,
    /// What was in force went, on a stopped gateway.
    TakenAway,
}

impl OfSecondFactor {
    /// By the rows as they were.
    pub(super) fn by(writes: &[Write], before: &Book) -> Result<Option<Self>, StoreError> {
        let Some(write) = writes.iter().find(|write| write.key.kind == RecordKind::SecondFactor) else {
            return Ok(None);
        };
        let was: Option<SecondFactorRecord> = before.get(&write.key).map(|s| record(&s.value)).transpose()?;
        let in_force = was.is_some_and(|was| was.is_in_force());
        Ok(Some(match &write.value {
            Some(now) if in_force && record::<SecondFactorRecord>(now)?.is_in_force() => Self::Used,
            // What a person changes of theirs has their authority.
            Some(_) => {
                return Err(StoreError::new("a second factor changes and nobody asked for it", "nothing was written"));
            }
            None if in_force => Self::TakenAway,
            None => Self::Lapsed,
        }))
    }

    /// To be kept beside the entry.
    pub(super) fn in_words(self) -> serde_json::Value {
        let word = match self {
            Self::Used => "used",
            Self::Lapsed => "lapsed",
            Self::TakenAway => "taken away by the operator",
        };
        serde_json::json!({ "second_factor": word })
    }
}

#[cfg(test)]
mod tests {
    use countersign_gateway_identity::{RecordKey, Stored};
    use countersign_gateway_model::{OrgId, Timestamp};

    use super::super::introductions::Concerned;
    use super::*;

    fn factor(in_force: bool, last_step: u64) -> Vec<u8> {
        let org = OrgId::from_bytes([1; 16]);
        let since = if in_force { "5" } else { "null" };
        format!(
            r#"{{"org":"{org}","person":"ada","id":"otp_1","secret":"GEZDGNBVGY3TQOJQ","begun":1,"in_force":{since},"last_step":{last_step}}}"#
        )
        .into_bytes()
    }

    #[test]
    fn what_becomes_of_a_second_factor_is_told_from_what_was_in_force() {
        use PrincipalChange::{CredentialIssued, CredentialRevoked, Updated};
        let key = RecordKey::new(RecordKind::SecondFactor, OrgId::from_bytes([1; 16]), "ada");
        let (begun, on, spent) = (factor(false, 0), factor(true, 7), factor(true, 8));
        for (before, after, change, unasked, anybody_is_told) in [
            // A person's own doing: it is not written without their authority.
            (None, Some(&begun), Updated, None, false),
            (Some(&begun), Some(&on), CredentialIssued, None, true),
            (Some(&begun), None, Updated, Some(OfSecondFactor::Lapsed), false),
            (Some(&on), Some(&spent), Updated, Some(OfSecondFactor::Used), false),
            (Some(&on), None, CredentialRevoked, Some(OfSecondFactor::TakenAway), true),
        ] {
            let stored = |value: &Vec<u8>| Stored { version: 1, value: value.clone() };
            let mut book = Book::default();
            if let Some(before) = before {
                book.take_up(book.change(key.clone(), Some(stored(before))).unwrap());
            }
            let expected = before.map(|_| 1);
            let writes = [Write { key: key.clone(), expected, value: after.cloned() }];
            assert_eq!(what_happened(&writes, &book).unwrap().change, change);
            assert_eq!(OfSecondFactor::by(&writes, &book).ok().flatten(), unasked);
            let changes = [book.change(key.clone(), after.map(stored)).unwrap()];
            let told = Concerned::by(&book, &changes).unwrap().introductions(&book, key.org, Timestamp(9)).unwrap();
            assert_eq!(!told.is_empty(), anybody_is_told, "{told:?}");
        }
    }
}
