//! Who a credential speaks for: kind and id, with one text form (`person:ada`) in tokens and records.
//!
//! Absent: SYSTEM, which has no credential. Read next: `record`.

use std::fmt;
use std::str::FromStr;

use countersign_gateway_model::{Name, PrincipalKind};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A person, an agent or a service of one organization. Text form: kind, colon, id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    kind: PrincipalKind,
    id: Name,
}

/// The text names no subject.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` names no account: `person:`, `agent:` or `service:` and an id are expected")]
pub struct SubjectError(String);

impl Subject {
    /// A subject; refused for SYSTEM, which holds no credential.
    pub fn new(kind: PrincipalKind, id: Name) -> Result<Self, SubjectError> {
        match kind {
            PrincipalKind::System => Err(SubjectError(format!("system:{id}"))),
            kind => Ok(Self { kind, id }),
        }
    }

    /// A person.
    pub fn person(id: Name) -> Self {
        Self { kind: PrincipalKind::Person, id }
    }

    /// An agent.
    pub fn agent(id: Name) -> Self {
        Self { kind: PrincipalKind::Agent, id }
    }

    /// A service.
    pub fn service(id: Name) -> Self {
        Self { kind: PrincipalKind::Service, id }
    }

    /// The sort; never SYSTEM.
    pub fn kind(&self) -> PrincipalKind {
        self.kind
    }

    /// The id within its organization.
    pub fn id(&self) -> &Name {
        &self.id
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            PrincipalKind::Person => "person",
            PrincipalKind::Agent => "agent",
            PrincipalKind::Service => "service",
            PrincipalKind::System => "system",
        };
        write!(f, "{kind}:{}", self.id)
    }
}

impl FromStr for Subject {
    type Err = SubjectError;

    fn from_str(text: &str) -> Result<Self, SubjectError> {
        let refuse = || SubjectError(text.chars().take(160).filter(|c| !c.is_control()).collect());
        let (kind, id) = text.split_once(':').ok_or_else(refuse)?;
        let id = Name::new(id).map_err(|_| refuse())?;
        match kind {
            "person" => Ok(Self::person(id)),
            "agent" => Ok(Self::agent(id)),
            "service" => Ok(Self::service(id)),
            _ => Err(refuse()),
        }
    }
}

impl Serialize for Subject {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Subject {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<'de, str>::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_round_trip_and_system_has_no_text() {
        for text in ["person:ada", "agent:fixer", "service:ci/main", "person:a:b"] {
            assert_eq!(text.parse::<Subject>().unwrap().to_string(), text);
        }
        for bad in ["", "ada", "person:", "system:clock", "Person:ada", "person:a b", ":ada", "robot:x"] {
            assert!(bad.parse::<Subject>().is_err(), "{bad}");
        }
        assert!(Subject::new(PrincipalKind::System, Name::new("x").unwrap()).is_err());
    }
}
