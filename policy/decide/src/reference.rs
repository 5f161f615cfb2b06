//! What names an entity: its type, its organization and its id; and the Cedar types and uids that follow from them.
//!
//! Absent: what is known about it. Read next: `entity`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, LazyLock};

use cedar_policy_core::ast::{Eid, EntityType, EntityUID};
use countersign_gateway_model::{Name, OrgId, PrincipalKind};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::json::shown;

/// The namespace of the base schema.
pub const NAMESPACE: &str = "Countersign";

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident),+ $(,)?) => {
        /// The entity types of the base schema that have records (enum types have none).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum EntityKind {
            $($(#[$doc])* $kind),+
        }

        impl EntityKind {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$kind),+];

            /// The type's name, without namespace.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$kind => stringify!($kind)),+
                }
            }
        }
    };
}

kinds! {
    /// A team; teams nest.
    Team,
    /// A group, as an identity provider knows them; groups nest.
    Group,
    /// A human being.
    Person,
    /// An AI agent.
    Agent,
    /// A program that is not an agent.
    Service,
    /// The gateway's own timers and sweeps; its id is `system`.
    System,
    /// What offers tools; made from the catalogue.
    ToolServer,
    /// A tool; made from the catalogue.
    Tool,
    /// A workflow, one version of it.
    Workflow,
    /// A governed execution.
    Instance,
    /// A pause for human authority.
    Gate,
    /// One proposed action in a gate.
    Item,
    /// A dispatched job.
    Run,
    /// A proposed or active policy bundle.
    PolicyBundle,
    /// A bounded advance approval.
    TaskGrant,
    /// The organization itself: what lists, settings and exports are asked about; its id is `self`.
    Organization,
}

impl fmt::Display for EntityKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for EntityKind {
    type Err = ReferenceError;

    fn from_str(s: &str) -> Result<Self, ReferenceError> {
        Self::ALL.iter().copied().find(|k| k.as_str() == s).ok_or_else(|| ReferenceError(shown(s)))
    }
}

impl From<PrincipalKind> for EntityKind {
    fn from(kind: PrincipalKind) -> Self {
        match kind {
            PrincipalKind::Person => Self::Person,
            PrincipalKind::Agent => Self::Agent,
            PrincipalKind::Service => Self::Service,
            PrincipalKind::System => Self::System,
        }
    }
}

/// The Cedar type of a kind, made once.
pub(crate) fn entity_type(kind: EntityKind) -> &'static EntityType {
    static TYPES: LazyLock<Vec<EntityType>> =
        LazyLock::new(|| EntityKind::ALL.iter().map(|k| named_type(k.as_str())).collect());
    static NEVER: LazyLock<EntityType> = LazyLock::new(|| named_type("Organization"));
    TYPES.get(kind as usize).unwrap_or(&NEVER)
}

/// The kind of a Cedar type; `None` for enum types, actions and a bundle's own types.
pub(crate) fn kind_of(ty: &EntityType) -> Option<EntityKind> {
    EntityKind::ALL.iter().copied().find(|kind| entity_type(*kind) == ty)
}

/// What names an entity: organization, type, id within the organization. Text form, where the organization is known
/// from around it: `Person::alice`. In Cedar: `Countersign::Person::"<org>/alice"`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntityRef {
    /// The organization.
    pub org: OrgId,
    /// The type.
    pub kind: EntityKind,
    /// The id within the organization.
    pub id: Name,
}

impl EntityRef {
    /// Names an entity.
    pub fn new(org: OrgId, kind: EntityKind, id: Name) -> Self {
        Self { org, kind, id }
    }

    /// From the text form.
    pub fn parse(org: OrgId, text: &str) -> Result<Self, ReferenceError> {
        let (kind, id) = text.split_once("::").ok_or_else(|| ReferenceError(shown(text)))?;
        Ok(Self { org, kind: kind.parse()?, id: Name::new(id).map_err(|_| ReferenceError(shown(text)))? })
    }

    /// The organization itself.
    pub fn organization(org: OrgId) -> Self {
        Self { org, kind: EntityKind::Organization, id: well_known("self") }
    }

    /// The gateway's own timers and sweeps.
    pub fn system(org: OrgId) -> Self {
        Self { org, kind: EntityKind::System, id: well_known("system") }
    }

    pub(crate) fn uid(&self) -> Arc<EntityUID> {
        let mut id = String::with_capacity(37 + self.id.as_str().len());
        write_org(self.org, &mut id);
        id.push('/');
        id.push_str(self.id.as_str());
        Arc::new(EntityUID::from_components(entity_type(self.kind).clone(), Eid::new(id), None))
    }
}

/// The organization's text form. Questions name it several times each, and formatting machinery costs ten times as much.
pub(crate) fn write_org(org: OrgId, out: &mut String) {
    const HEX: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    let digit = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or('0');
    out.push_str(OrgId::PREFIX);
    for byte in org.as_bytes() {
        out.push(digit(byte >> 4));
        out.push(digit(byte & 15));
    }
}

/// The text form, without the organization.
impl fmt::Display for EntityRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}::{}", self.kind, self.id)
    }
}

#[expect(clippy::expect_used, reason = "the texts are constants of this file, and a test makes each")]
pub(crate) fn well_known(text: &str) -> Name {
    Name::new(text).expect("a constant that is a name")
}

#[expect(clippy::expect_used, reason = "names are constants of this crate, and a test makes each")]
pub(crate) fn named_type(name: &str) -> EntityType {
    EntityType::from(format!("{NAMESPACE}::{name}").parse::<cedar_policy_core::ast::Name>().expect("a type name"))
}

/// The uid of a member of an enum type of the base schema.
pub(crate) fn enum_uid(of: &'static str, member: &Name) -> Arc<EntityUID> {
    static TYPES: LazyLock<BTreeMap<&'static str, EntityType>> = LazyLock::new(|| {
        ["Role", "ApprovalRule", "State", "RunnerKind", "Environment", "DataClass", "Assurance"]
            .into_iter()
            .map(|name| (name, named_type(name)))
            .collect()
    });
    let ty = TYPES.get(of).cloned().unwrap_or_else(|| named_type("Role"));
    Arc::new(EntityUID::from_components(ty, Eid::new(member.as_str()), None))
}

/// Not `<Type>::<id>` with a known type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an entity reference; write `<Type>::<id>`")]
pub struct ReferenceError(String);

impl Serialize for EntityKind {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for EntityKind {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<'de, str>::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}
