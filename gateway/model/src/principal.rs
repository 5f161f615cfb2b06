//! Who asks: always taken from the credential, never from a body.

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::{Name, OrgId, Pseudonym, Timestamp};

/// What sort of actor a principal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Encode, Decode)]
#[serde(rename_all = "snake_case")]
#[cbor(index_only)]
pub enum PrincipalKind {
    /// A human being.
    #[n(0)]
    Person,
    /// An AI agent, with an owner.
    #[n(1)]
    Agent,
    /// A program that is not an agent.
    #[n(2)]
    Service,
    /// The gateway's own timers and sweeps.
    #[n(3)]
    System,
}

impl PrincipalKind {
    /// The Cedar entity type without namespace.
    pub fn cedar_type(self) -> &'static str {
        match self {
            Self::Person => "Person",
            Self::Agent => "Agent",
            Self::Service => "Service",
            Self::System => "System",
        }
    }
}

/// How sure the login was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Encode, Decode)]
#[serde(rename_all = "snake_case")]
#[cbor(index_only)]
pub enum Assurance {
    /// The stand-in human of a demo; only a log marked demo accepts it.
    #[n(0)]
    Demo,
    /// A client secret of a machine.
    #[n(1)]
    Secret,
    /// A password.
    #[n(2)]
    Password,
    /// More than one factor: a password, and a code of an authenticator app.
    #[n(3)]
    Mfa,
}

/// What a credential may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Ask and act.
    Act,
    /// Decide at gates: interactive, a person's, at most 15 minutes.
    Decide,
}

/// One on whose behalf an agent acts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Delegator {
    /// Its sort.
    pub kind: PrincipalKind,
    /// Its id within the organization.
    pub id: Name,
    /// What stands for it in entries.
    pub pseudonym: Pseudonym,
}

/// An authenticated actor. Built by `gateway/identity` only, from a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The organization of the credential.
    pub org: OrgId,
    /// The sort of actor; a service account is a credential, the principal is what it is bound to.
    pub kind: PrincipalKind,
    /// Id within the organization.
    pub id: Name,
    /// What stands for it in entries.
    pub pseudonym: Pseudonym,
    /// On whose behalf, outermost first; possibly empty.
    pub on_behalf_of: Vec<Delegator>,
    /// What the credential may be used for.
    pub scopes: Vec<Scope>,
    /// How sure the login was.
    pub assurance: Assurance,
    /// Roles held (persons).
    pub roles: Vec<Name>,
    /// Teams belonged to.
    pub teams: Vec<Name>,
    /// The key that says which human being this is, where one is known; accounts without one count as the same person.
    pub person: Option<Name>,
    /// When the credential was issued: for one with scope `decide`, when the person logged in.
    pub issued: Timestamp,
    /// When the credential ends.
    pub expires: Timestamp,
}

impl Principal {
    /// Whether the credential may be used for `scope`.
    pub fn has(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }
}
