//! What the vault keeps of persons, agents, services and their credentials. No secret, only hashes.
//!
//! Absent: how they change (`directory`), and second factors (`second_factor`). Read next: `accounts`.

use countersign_gateway_model::{Digest, Name, OrgId, Pseudonym, Timestamp};
use serde::{Deserialize, Serialize};

use crate::Subject;

/// A human being of one organization.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PersonRecord {
    /// The organization.
    pub org: OrgId,
    /// Id within the organization; the login name.
    pub id: Name,
    /// What stands for the person in entries. Never changes.
    pub pseudonym: Pseudonym,
    /// How people call them; free text of at most 200 characters, for views only.
    pub display_name: String,
    /// Roles held.
    pub roles: Vec<Name>,
    /// Teams belonged to.
    pub teams: Vec<Name>,
    /// Named groups that approval rules count.
    pub groups: Vec<Name>,
    /// Which human being this is; accounts without one count as the same person.
    pub person: Option<Name>,
    /// Argon2id in PHC form; `None` where no password was ever set.
    pub password: Option<String>,
    /// The stand-in human of a demo: has no password, accepted only where the log is marked demo.
    pub demo: bool,
    /// Id of the current password (or demo credential). A new password has a new id, and so has one beside which a second
    /// factor comes or goes: tokens of before end.
    pub credential: Name,
    /// No login, no token, while this is so.
    pub disabled: bool,
    /// When the account was made.
    pub created: Timestamp,
    /// Who made it; `None` for the first person, who came with the enrolment token of the first start.
    pub created_by: Option<Subject>,
}

/// An AI agent of one organization.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentRecord {
    /// The organization.
    pub org: OrgId,
    /// Id within the organization.
    pub id: Name,
    /// What stands for the agent in entries. Never changes.
    pub pseudonym: Pseudonym,
    /// For views only, at most 200 characters.
    pub display_name: String,
    /// The person who answers for it.
    pub owner: Name,
    /// Teams it belongs to.
    pub teams: Vec<Name>,
    /// 0 none … 4 unattended: what policy lets it begin by itself.
    #[serde(default)]
    pub autonomy: u8,
    /// Tool scopes held, such as `repo:read`.
    #[serde(default)]
    pub scopes: Vec<Name>,
    /// No token while this is so.
    pub disabled: bool,
    /// When the account was made.
    pub created: Timestamp,
    /// Who made it.
    pub created_by: Subject,
}

/// A program of one organization that is not an agent: CI, a runner, a webhook receiver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceRecord {
    /// The organization.
    pub org: OrgId,
    /// Id within the organization.
    pub id: Name,
    /// What stands for the service in entries. Never changes.
    pub pseudonym: Pseudonym,
    /// For views only, at most 200 characters.
    pub display_name: String,
    /// The person who answers for it.
    pub owner: Name,
    /// Teams it belongs to.
    pub teams: Vec<Name>,
    /// Tool scopes held, such as `repo:read`.
    #[serde(default)]
    pub scopes: Vec<Name>,
    /// No token while this is so.
    pub disabled: bool,
    /// When the account was made.
    pub created: Timestamp,
    /// Who made it.
    pub created_by: Subject,
}

/// A client id with a secret: a credential. The principal is the agent or service it is bound to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceAccountRecord {
    /// Unique over all organizations: `client_` and 32 hex digits. Also the credential id in tokens.
    pub client_id: Name,
    /// The organization.
    pub org: OrgId,
    /// The agent or service that it speaks for.
    pub bound_to: Subject,
    /// SHA-256 of the secret's text, which is 256 random bits: see `secret` for why no slow hash.
    pub secret: Digest,
    /// Secrets may be changed; tokens of an earlier one end with it. Tokens carry it after the client id.
    pub generation: u32,
    /// Who issued it: approval rules exclude them.
    pub issued_by: Subject,
    /// When it was issued.
    pub created: Timestamp,
    /// When it ends by itself; `None` for never.
    pub expires: Option<Timestamp>,
    /// No token while this is so.
    pub disabled: bool,
}

impl ServiceAccountRecord {
    /// The credential id that tokens of the current secret carry: client id, slash, generation.
    pub fn credential(&self) -> Option<Name> {
        Name::new(&format!("{}/{}", self.client_id, self.generation)).ok()
    }

    /// Whether it may be used at `now`.
    pub(crate) fn is_live(&self, now: Timestamp) -> bool {
        !self.disabled && self.expires.is_none_or(|end| now < end)
    }
}
