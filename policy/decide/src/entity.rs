//! Entities: what policy may know about principals and resources, as immutable, content-addressed versions.
//!
//! A version is one typed record, its canonical JSON (the blob that is stored beside the ledger), its plain digest,
//! and the Cedar entity made from it, checked against the schema when it is written, never when it is read.
//! Every version names its organization, its source and the time it was true as of. Absent: IO, and anything that
//! looks an entity up somewhere else. Read next: `store` (many of them), `question`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use cedar_policy_core::ast::{Entity as CedarEntity, Value};
use cedar_policy_core::entities::conformance::EntitySchemaConformanceChecker;
use cedar_policy_core::extensions::Extensions;
use cedar_policy_core::validator::CoreSchema;
use countersign_gateway_model::{Digest, Name, OrgId, State, Timestamp};

use crate::catalogue::{CompiledTool, RunnerKind};
use crate::json::{Json, JsonError, shown};
use crate::reference::{EntityKind, EntityRef, ReferenceError, enum_uid, well_known};
use crate::{schema, value};

/// Why an entity cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum EntityError {
    /// What should name an entity does not.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// A reference into another organization.
    #[error("`{entity}` refers to `{reference}` of another organization; nothing crosses organizations")]
    Foreign {
        /// The entity.
        entity: String,
        /// What it refers to.
        reference: String,
    },
    /// The record is not what the base schema declares for its type.
    #[error("`{entity}` does not conform to the schema: {reason}")]
    Schema {
        /// The entity.
        entity: String,
        /// Why.
        reason: String,
    },
    /// The stored form cannot be read.
    #[error("an entity version cannot be read")]
    Json(#[from] JsonError),
    /// The stored form has another shape.
    #[error("an entity version has a wrong shape at `{0}`")]
    Shape(String),
}

/// An attribute's value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Attr {
    /// `Bool`.
    Bool(bool),
    /// `Long`.
    Long(i64),
    /// `String`.
    Text(String),
    /// `datetime`.
    Time(Timestamp),
    /// An entity of the same organization.
    Ref(EntityRef),
    /// A member of an enum type: type, member.
    Enum(&'static str, Name),
    /// A set of values.
    Set(BTreeSet<Attr>),
}

/// The enum types that a record may name.
const ENUMS: [&str; 7] = ["Role", "ApprovalRule", "State", "RunnerKind", "Environment", "DataClass", "Assurance"];

impl Attr {
    fn member(of: &'static str, name: &str) -> Self {
        Self::Enum(of, well_known(name))
    }

    fn names(names: impl IntoIterator<Item = Name>) -> Self {
        Self::Set(names.into_iter().map(|n| Self::Text(n.as_str().to_owned())).collect())
    }

    fn refs(refs: impl IntoIterator<Item = EntityRef>) -> Self {
        Self::Set(refs.into_iter().map(Self::Ref).collect())
    }

    fn members(of: &'static str, names: impl IntoIterator<Item = Name>) -> Self {
        Self::Set(names.into_iter().map(|n| Self::Enum(of, n)).collect())
    }

    fn to_json(&self) -> Json {
        let tagged = |tag: &str, value: Json| Json::object([(tag.to_owned(), value)]);
        match self {
            Self::Bool(b) => Json::Bool(*b),
            Self::Long(n) => Json::from(*n),
            Self::Text(s) => Json::text(s.clone()),
            Self::Time(at) => tagged("time", Json::from(i64::try_from(at.0).unwrap_or(i64::MAX))),
            Self::Ref(entity) => tagged("ref", Json::text(entity.to_string())),
            Self::Enum(of, name) => tagged("enum", Json::text(format!("{of}::{name}"))),
            Self::Set(values) => Json::Array(values.iter().map(Self::to_json).collect()),
        }
    }

    fn from_json(org: OrgId, json: &Json, path: &str) -> Result<Self, EntityError> {
        let bad = || EntityError::Shape(path.to_owned());
        match json {
            Json::Bool(b) => Ok(Self::Bool(*b)),
            Json::Number(_) => json.as_integer().map(Self::Long).ok_or_else(bad),
            Json::Text(s) => Ok(Self::Text(s.clone())),
            Json::Array(items) => {
                items.iter().map(|item| Self::from_json(org, item, path)).collect::<Result<_, _>>().map(Self::Set)
            }
            Json::Object(members) => match members.as_slice() {
                [(tag, value)] => match (tag.as_str(), value) {
                    ("time", n) => n
                        .as_integer()
                        .and_then(|n| u64::try_from(n).ok())
                        .map(|n| Self::Time(Timestamp(n)))
                        .ok_or_else(bad),
                    ("ref", Json::Text(text)) => Ok(Self::Ref(EntityRef::parse(org, text)?)),
                    ("enum", Json::Text(text)) => {
                        let (of, name) = text.split_once("::").ok_or_else(bad)?;
                        let of = ENUMS.into_iter().find(|e| *e == of).ok_or_else(bad)?;
                        Ok(Self::Enum(of, Name::new(name).map_err(|_| bad())?))
                    }
                    _ => Err(bad()),
                },
                _ => Err(bad()),
            },
            Json::Null => Err(bad()),
        }
    }

    fn to_cedar(&self) -> Option<Value> {
        Some(match self {
            Self::Bool(b) => Value::from(*b),
            Self::Long(n) => Value::from(*n),
            Self::Text(s) => value::string(s),
            Self::Time(at) => value::datetime(*at)?,
            Self::Ref(entity) => value::entity(entity.uid()),
            Self::Enum(of, name) => value::entity(enum_uid(of, name)),
            Self::Set(values) => value::set(values.iter().map(Self::to_cedar).collect::<Option<Vec<_>>>()?),
        })
    }

    fn each_ref<'a>(&'a self, visit: &mut dyn FnMut(&'a EntityRef)) {
        match self {
            Self::Ref(entity) => visit(entity),
            Self::Set(values) => values.iter().for_each(|v| v.each_ref(visit)),
            _ => {}
        }
    }
}

/// What is known about one entity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Which entity.
    pub entity: EntityRef,
    /// Its attributes, as the base schema declares them for its type.
    pub attrs: BTreeMap<&'static str, Attr>,
    /// Direct parents: teams, groups, a workflow, an instance …
    pub parents: BTreeSet<EntityRef>,
    /// Roles held (persons).
    pub roles: BTreeSet<Name>,
    /// Where it was learned: `local`, or the name of an identity provider or connector.
    pub source: Name,
    /// When that was true.
    pub as_of: Timestamp,
}

/// What a person is to policy.
#[derive(Clone, Debug, Default)]
pub struct PersonFacts {
    /// Not blocked, not left.
    pub active: bool,
    /// Roles held.
    pub roles: Vec<Name>,
    /// Teams belonged to.
    pub teams: Vec<Name>,
    /// Groups belonged to.
    pub groups: Vec<Name>,
    /// The key that says which human being this is.
    pub person: Option<Name>,
}

/// What an agent is to policy.
#[derive(Clone, Debug)]
pub struct AgentFacts {
    /// Not blocked.
    pub active: bool,
    /// Who answers for it.
    pub owner: Name,
    /// 0 none … 4 unattended.
    pub autonomy: u8,
    /// Tool scopes held.
    pub scopes: Vec<Name>,
    /// Teams belonged to.
    pub teams: Vec<Name>,
}

/// What a service is to policy.
#[derive(Clone, Debug, Default)]
pub struct ServiceFacts {
    /// Not blocked.
    pub active: bool,
    /// Who answers for it.
    pub owner: Option<Name>,
    /// Tool scopes held.
    pub scopes: Vec<Name>,
    /// What it is for: a word.
    pub purpose: Option<Name>,
    /// Teams belonged to.
    pub teams: Vec<Name>,
}

/// What a workflow version is to policy.
#[derive(Clone, Debug, Default)]
pub struct WorkflowFacts {
    /// The team that owns it.
    pub team: Option<Name>,
    /// 0 none … 4 critical.
    pub materiality: u8,
    /// Its version, as the workflow's author writes it.
    pub version: String,
    /// Tools it may use; `None`: every listed tool.
    pub tools: Option<Vec<Name>>,
    /// Runners it may use; `None`: every one.
    pub runners: Option<Vec<RunnerKind>>,
    /// Whether its steps are open, driven from outside.
    pub open: bool,
}

/// What an instance is to policy. A new version exists only when one of these changes.
#[derive(Clone, Debug)]
pub struct InstanceFacts {
    /// The workflow, by id.
    pub workflow: Name,
    /// Where it stands.
    pub state: State,
    /// Who acts in it: an agent, a service or a person.
    pub actor: EntityRef,
    /// Who caused it: a person or a service.
    pub initiator: EntityRef,
    /// Who owns the acting agent.
    pub owner: Option<Name>,
    /// The person answerable.
    pub accountable: Name,
    /// The instance that made it.
    pub parent: Option<Name>,
    /// The owning team.
    pub team: Option<Name>,
    /// Records are held.
    pub legal_hold: bool,
    /// A freeze is in force over it.
    pub frozen: bool,
}

/// What a gate, or one of its items, is to policy.
#[derive(Clone, Debug)]
pub struct GateFacts {
    /// The instance that waits.
    pub instance: Name,
    /// The gate, for an item; ignored for a gate.
    pub gate: Name,
    /// Rules that stand in the way.
    pub rules: Vec<Name>,
    /// Roles that may vote: the union over the unmet rules, escalation included.
    pub roles: Vec<Name>,
    /// Groups that may vote.
    pub groups: Vec<Name>,
    /// Teams that may vote.
    pub teams: Vec<Name>,
    /// Persons who may not (by person key), computed by the engine.
    pub involved: Vec<Name>,
    /// Who caused the instance, if a person.
    pub initiator: Option<Name>,
    /// The person answerable.
    pub accountable: Name,
    /// The acting agent, if one.
    pub agent: Option<Name>,
    /// The proposed tool, if one.
    pub tool: Option<Name>,
    /// Whether it is still undecided.
    pub open: bool,
    /// When it opened.
    pub opened_at: Timestamp,
    /// When it expires; `None`: never.
    pub expires_at: Option<Timestamp>,
    /// 0, then one more with each escalation.
    pub escalation: u32,
}

/// What a policy bundle is to policy.
#[expect(clippy::struct_excessive_bools, reason = "independent facts, each an attribute of the schema")]
#[derive(Clone, Debug, Default)]
pub struct BundleFacts {
    /// Who proposed it.
    pub author: Option<Name>,
    /// Its version.
    pub version: u64,
    /// All checks and its own tests passed.
    pub checked: bool,
    /// The shadow window is over, or not asked for.
    pub shadowed: bool,
    /// It loosens something.
    pub weakens: bool,
    /// It is the immediate predecessor, newly signed.
    pub rollback: bool,
}

impl Record {
    fn build(entity: EntityRef, as_of: Timestamp) -> Self {
        let org = Attr::Text(entity.org.to_string());
        Self {
            entity,
            attrs: BTreeMap::from([("org", org)]),
            parents: BTreeSet::new(),
            roles: BTreeSet::new(),
            source: well_known("local"),
            as_of,
        }
    }

    fn with(mut self, name: &'static str, value: Attr) -> Self {
        self.attrs.insert(name, value);
        self
    }

    fn with_some(self, name: &'static str, value: Option<Attr>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    fn within(mut self, kind: EntityKind, ids: impl IntoIterator<Item = Name>) -> Self {
        let org = self.entity.org;
        self.parents.extend(ids.into_iter().map(|id| EntityRef::new(org, kind, id)));
        self
    }

    fn same(&self, kind: EntityKind, id: &Name) -> EntityRef {
        EntityRef::new(self.entity.org, kind, id.clone())
    }

    /// The same, learned elsewhere.
    #[must_use]
    pub fn from_source(mut self, source: Name) -> Self {
        self.source = source;
        self
    }

    /// A team within other teams.
    pub fn team(org: OrgId, id: Name, within: Vec<Name>, as_of: Timestamp) -> Self {
        Self::build(EntityRef::new(org, EntityKind::Team, id), as_of).within(EntityKind::Team, within)
    }

    /// A group within other groups.
    pub fn group(org: OrgId, id: Name, within: Vec<Name>, as_of: Timestamp) -> Self {
        Self::build(EntityRef::new(org, EntityKind::Group, id), as_of).within(EntityKind::Group, within)
    }

    /// A person.
    pub fn person(org: OrgId, id: Name, facts: PersonFacts, as_of: Timestamp) -> Self {
        let mut record = Self::build(EntityRef::new(org, EntityKind::Person, id), as_of)
            .with("active", Attr::Bool(facts.active))
            .with_some("person", facts.person.map(|p| Attr::Text(p.as_str().to_owned())))
            .within(EntityKind::Team, facts.teams)
            .within(EntityKind::Group, facts.groups);
        record.roles = facts.roles.into_iter().collect();
        record
    }

    /// An agent.
    pub fn agent(org: OrgId, id: Name, facts: AgentFacts, as_of: Timestamp) -> Self {
        Self::build(EntityRef::new(org, EntityKind::Agent, id), as_of)
            .with("active", Attr::Bool(facts.active))
            .with("owner", Attr::Ref(EntityRef::new(org, EntityKind::Person, facts.owner)))
            .with("autonomy", Attr::Long(facts.autonomy.into()))
            .with("scopes", Attr::names(facts.scopes))
            .within(EntityKind::Team, facts.teams)
    }

    /// A service.
    pub fn service(org: OrgId, id: Name, facts: ServiceFacts, as_of: Timestamp) -> Self {
        Self::build(EntityRef::new(org, EntityKind::Service, id), as_of)
            .with("active", Attr::Bool(facts.active))
            .with_some("owner", facts.owner.map(|id| Attr::Ref(EntityRef::new(org, EntityKind::Person, id))))
            .with("scopes", Attr::names(facts.scopes))
            .with_some("purpose", facts.purpose.map(|p| Attr::Text(p.as_str().to_owned())))
            .within(EntityKind::Team, facts.teams)
    }

    /// The gateway's own timers and sweeps.
    pub fn system(org: OrgId) -> Self {
        Self::build(EntityRef::system(org), Timestamp(0)).with("active", Attr::Bool(true))
    }

    /// The organization itself.
    pub fn organization(org: OrgId) -> Self {
        Self::build(EntityRef::organization(org), Timestamp(0))
    }

    /// A workflow version; its teams are what it belongs to.
    pub fn workflow(org: OrgId, id: Name, facts: WorkflowFacts, as_of: Timestamp) -> Self {
        let team = facts.team.clone().map(|id| EntityRef::new(org, EntityKind::Team, id));
        Self::build(EntityRef::new(org, EntityKind::Workflow, id), as_of)
            .with_some("team", team.map(Attr::Ref))
            .with("materiality", Attr::Long(facts.materiality.into()))
            .with("version", Attr::Text(facts.version))
            .with("open", Attr::Bool(facts.open))
            .with("anyTool", Attr::Bool(facts.tools.is_none()))
            .with(
                "tools",
                Attr::refs(
                    facts.tools.unwrap_or_default().into_iter().map(|id| EntityRef::new(org, EntityKind::Tool, id)),
                ),
            )
            .with("anyRunner", Attr::Bool(facts.runners.is_none()))
            .with(
                "runners",
                Attr::members("RunnerKind", facts.runners.unwrap_or_default().iter().map(|r| well_known(r.as_str()))),
            )
            .within(EntityKind::Team, facts.team)
    }

    /// An instance; it belongs to its workflow and its team.
    pub fn instance(org: OrgId, id: Name, facts: InstanceFacts, as_of: Timestamp) -> Self {
        let record = Self::build(EntityRef::new(org, EntityKind::Instance, id), as_of);
        let person = |id: Name| Attr::Ref(EntityRef::new(org, EntityKind::Person, id));
        let workflow = record.same(EntityKind::Workflow, &facts.workflow);
        let actor = match facts.actor.kind {
            EntityKind::Agent => "agent",
            EntityKind::Service => "service",
            _ => "person",
        };
        let initiator = if facts.initiator.kind == EntityKind::Service { "initiatorService" } else { "initiator" };
        record
            .with("workflow", Attr::Ref(workflow))
            .with("state", Attr::member("State", facts.state.as_str()))
            .with(actor, Attr::Ref(facts.actor))
            .with(initiator, Attr::Ref(facts.initiator))
            .with_some("owner", facts.owner.map(person))
            .with("accountable", person(facts.accountable))
            .with_some("parent", facts.parent.map(|id| Attr::Ref(EntityRef::new(org, EntityKind::Instance, id))))
            .with("legalHold", Attr::Bool(facts.legal_hold))
            .with("frozen", Attr::Bool(facts.frozen))
            .within(EntityKind::Workflow, [facts.workflow])
            .within(EntityKind::Team, facts.team)
    }

    fn waiting(record: Self, facts: &GateFacts) -> Self {
        let org = record.entity.org;
        let person = |id: &Name| EntityRef::new(org, EntityKind::Person, id.clone());
        let refs = |kind: EntityKind, ids: &[Name]| {
            Attr::refs(ids.iter().map(|id| EntityRef::new(org, kind, id.clone())).collect::<Vec<_>>())
        };
        let instance = record.same(EntityKind::Instance, &facts.instance);
        record
            .with("instance", Attr::Ref(instance))
            .with("rules", Attr::members("ApprovalRule", facts.rules.iter().cloned()))
            .with("roles", Attr::members("Role", facts.roles.iter().cloned()))
            .with("groups", refs(EntityKind::Group, &facts.groups))
            .with("teams", refs(EntityKind::Team, &facts.teams))
            .with("involved", refs(EntityKind::Person, &facts.involved))
            .with_some("initiator", facts.initiator.as_ref().map(person).map(Attr::Ref))
            .with("accountable", Attr::Ref(person(&facts.accountable)))
            .with_some(
                "agent",
                facts.agent.as_ref().map(|id| Attr::Ref(EntityRef::new(org, EntityKind::Agent, id.clone()))),
            )
            .with_some(
                "tool",
                facts.tool.as_ref().map(|id| Attr::Ref(EntityRef::new(org, EntityKind::Tool, id.clone()))),
            )
            .with("open", Attr::Bool(facts.open))
            .with("openedAt", Attr::Time(facts.opened_at))
            .with_some("expiresAt", facts.expires_at.map(Attr::Time))
            .with("escalation", Attr::Long(facts.escalation.into()))
            .within(EntityKind::Instance, [facts.instance.clone()])
    }

    /// A gate: the union of what its items say.
    pub fn gate(org: OrgId, id: Name, facts: &GateFacts, as_of: Timestamp) -> Self {
        Self::waiting(Self::build(EntityRef::new(org, EntityKind::Gate, id), as_of), facts)
    }

    /// One item of a gate.
    pub fn item(org: OrgId, id: Name, facts: &GateFacts, as_of: Timestamp) -> Self {
        let gate = EntityRef::new(org, EntityKind::Gate, facts.gate.clone());
        Self::waiting(Self::build(EntityRef::new(org, EntityKind::Item, id), as_of), facts)
            .with("gate", Attr::Ref(gate))
            .within(EntityKind::Gate, [facts.gate.clone()])
    }

    /// A run of an instance.
    pub fn run(org: OrgId, id: Name, instance: Name, as_of: Timestamp) -> Self {
        let record = Self::build(EntityRef::new(org, EntityKind::Run, id), as_of);
        let parent = record.same(EntityKind::Instance, &instance);
        record.with("instance", Attr::Ref(parent)).within(EntityKind::Instance, [instance])
    }

    /// A policy bundle.
    pub fn bundle(org: OrgId, id: Name, facts: BundleFacts, as_of: Timestamp) -> Self {
        Self::build(EntityRef::new(org, EntityKind::PolicyBundle, id), as_of)
            .with_some("author", facts.author.map(|id| Attr::Ref(EntityRef::new(org, EntityKind::Person, id))))
            .with("version", Attr::Long(i64::try_from(facts.version).unwrap_or(i64::MAX)))
            .with("checked", Attr::Bool(facts.checked))
            .with("shadowed", Attr::Bool(facts.shadowed))
            .with("weakens", Attr::Bool(facts.weakens))
            .with("rollback", Attr::Bool(facts.rollback))
    }

    /// A task grant for an instance's agent, or for an agent at large.
    pub fn task_grant(org: OrgId, id: Name, granted_by: Name, agent: Name, as_of: Timestamp) -> Self {
        Self::build(EntityRef::new(org, EntityKind::TaskGrant, id), as_of)
            .with("grantedBy", Attr::Ref(EntityRef::new(org, EntityKind::Person, granted_by)))
            .with("agent", Attr::Ref(EntityRef::new(org, EntityKind::Agent, agent)))
    }

    /// A tool, from the catalogue.
    pub(crate) fn tool(org: OrgId, tool: &CompiledTool) -> Self {
        let server = tool.tool.server();
        let record = Self::build(EntityRef::new(org, EntityKind::Tool, tool.tool.name.clone()), Timestamp(0))
            .with("risk", Attr::Long(tool.tool.risk.into()))
            .with("dataClass", Attr::member("DataClass", tool.tool.data_class.as_str()))
            .with("scopes", Attr::names(tool.tool.scopes.iter().cloned()))
            .with("mutableTarget", Attr::Bool(tool.tool.mutable_target))
            .with("version", Attr::Text(tool.version.to_string()))
            .with_some("runner", tool.tool.runner.as_ref().map(|r| Attr::member("RunnerKind", r.kind.as_str())))
            .with_some(
                "environment",
                tool.tool.runner.as_ref().map(|r| Attr::member("Environment", r.environment.as_str())),
            );
        record.within(EntityKind::ToolServer, Name::new(server).ok())
    }

    /// A tool server, from the catalogue.
    pub(crate) fn tool_server(org: OrgId, id: Name) -> Self {
        Self::build(EntityRef::new(org, EntityKind::ToolServer, id), Timestamp(0))
    }

    /// Everything the record refers to.
    pub fn refers_to(&self) -> BTreeSet<&EntityRef> {
        let mut found: BTreeSet<&EntityRef> = self.parents.iter().collect();
        self.attrs.values().for_each(|a| {
            a.each_ref(&mut |r| {
                found.insert(r);
            });
        });
        found
    }

    /// The attributes that lead to an entity with a record: what attribute access can reach in one step.
    /// Members of sets are not among them: Cedar can compare a member, never look into it.
    pub(crate) fn steps(&self) -> impl Iterator<Item = &EntityRef> {
        self.attrs.values().filter_map(|a| match a {
            Attr::Ref(entity) => Some(entity),
            _ => None,
        })
    }

    /// The stored form. `ancestors` is the closed set, so that one version says all that `in` may ask.
    fn to_json(&self, ancestors: &BTreeSet<EntityRef>) -> Json {
        let mut members = vec![
            ("v".to_owned(), Json::from(1)),
            ("org".to_owned(), Json::text(self.entity.org.to_string())),
            ("entity".to_owned(), Json::text(self.entity.to_string())),
            ("source".to_owned(), Json::text(self.source.as_str())),
            ("as_of".to_owned(), Json::from(i64::try_from(self.as_of.0).unwrap_or(i64::MAX))),
            (
                "attrs".to_owned(),
                Json::object(
                    self.attrs.iter().filter(|(k, _)| **k != "org").map(|(k, v)| ((*k).to_owned(), v.to_json())),
                ),
            ),
        ];
        if !ancestors.is_empty() {
            members.push(("in".to_owned(), Json::Array(ancestors.iter().map(|a| Json::text(a.to_string())).collect())));
        }
        if !self.roles.is_empty() {
            members
                .push(("roles".to_owned(), Json::Array(self.roles.iter().map(|r| Json::text(r.as_str())).collect())));
        }
        Json::object(members)
    }

    /// Reads a record. `org` stands in where the form names none (a bundle's tests); otherwise it must agree.
    pub fn from_json(org: OrgId, json: &Json) -> Result<Self, EntityError> {
        const KEYS: [&str; 8] = ["v", "org", "entity", "source", "as_of", "attrs", "in", "roles"];
        let bad = |at: &str| EntityError::Shape(at.to_owned());
        let members = json.as_object().ok_or_else(|| bad(""))?;
        if let Some((key, _)) = members.iter().find(|(k, _)| !KEYS.contains(&k.as_str())) {
            return Err(bad(key));
        }
        let text = |key: &str| json.get(key).and_then(Json::as_text);
        if json.get("v").is_some_and(|v| v.as_integer() != Some(1)) {
            return Err(bad("v"));
        }
        let entity = EntityRef::parse(org, text("entity").ok_or_else(|| bad("entity"))?)?;
        if text("org").is_some_and(|o| o != org.to_string()) {
            return Err(EntityError::Foreign {
                entity: entity.to_string(),
                reference: shown(text("org").unwrap_or("")),
            });
        }
        let as_of = match json.get("as_of") {
            None => 0,
            Some(n) => n.as_integer().and_then(|n| u64::try_from(n).ok()).ok_or_else(|| bad("as_of"))?,
        };
        let mut record = Self::build(entity, Timestamp(as_of));
        if let Some(source) = json.get("source") {
            record.source = source.as_text().and_then(|s| Name::new(s).ok()).ok_or_else(|| bad("source"))?;
        }
        let names = |key: &str| -> Result<Vec<&str>, EntityError> {
            match json.get(key) {
                None => Ok(Vec::new()),
                Some(list) => {
                    list.as_array().and_then(|l| l.iter().map(Json::as_text).collect()).ok_or_else(|| bad(key))
                }
            }
        };
        for parent in names("in")? {
            record.parents.insert(EntityRef::parse(org, parent)?);
        }
        for role in names("roles")? {
            record.roles.insert(Name::new(role).map_err(|_| bad("roles"))?);
        }
        if let Some(attrs) = json.get("attrs") {
            for (name, value) in attrs.as_object().ok_or_else(|| bad("attrs"))? {
                let known = schema::attribute(name).ok_or_else(|| bad(name))?;
                record.attrs.insert(known, Attr::from_json(org, value, name)?);
            }
        }
        Ok(record)
    }
}

/// One immutable version of an entity, ready for Cedar.
#[derive(Clone)]
pub struct EntityVersion {
    pub(crate) record: Record,
    pub(crate) ancestors: BTreeSet<EntityRef>,
    pub(crate) cedar: Arc<CedarEntity>,
    blob: Arc<[u8]>,
    digest: Digest,
}

impl fmt::Debug for EntityVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.record.entity, self.digest)
    }
}

impl EntityVersion {
    /// Makes a version whose ancestors are known and closed. Fails if the record does not conform to the schema.
    pub(crate) fn new(record: Record, ancestors: BTreeSet<EntityRef>) -> Result<Arc<Self>, EntityError> {
        let entity = record.entity.clone();
        if let Some(foreign) =
            record.refers_to().into_iter().chain(&ancestors).find(|reference| reference.org != entity.org)
        {
            return Err(EntityError::Foreign { entity: entity.to_string(), reference: foreign.to_string() });
        }
        // The kernel compares these texts; one that says another organization would put the entity there.
        match record.attrs.get("org") {
            Some(Attr::Text(org)) if *org == entity.org.to_string() => {}
            other => {
                return Err(EntityError::Foreign {
                    entity: entity.to_string(),
                    reference: shown(&format!("{other:?}")),
                });
            }
        }
        let unfit = |reason: String| EntityError::Schema { entity: entity.to_string(), reason };
        let mut attrs = Vec::with_capacity(record.attrs.len());
        for (name, attr) in &record.attrs {
            let value = attr.to_cedar().ok_or_else(|| unfit(format!("`{name}` is out of range")))?;
            attrs.push(((*name).into(), value.into()));
        }
        let parents = ancestors
            .iter()
            .map(|a| Arc::unwrap_or_clone(a.uid()))
            .chain(record.roles.iter().map(|r| Arc::unwrap_or_clone(enum_uid("Role", r))));
        let cedar = CedarEntity::new_with_attr_partial_value(
            Arc::unwrap_or_clone(entity.uid()),
            attrs,
            std::collections::HashSet::new(),
            parents.collect(),
            [],
        );
        let open = schema::open();
        EntitySchemaConformanceChecker::new(&CoreSchema::new(open.as_ref()), Extensions::all_available())
            .validate_entity(&cedar)
            .map_err(|e| unfit(e.to_string()))?;
        let blob: Arc<[u8]> = record.to_json(&ancestors).canonical().into();
        let digest = crate::sha256(&blob);
        Ok(Arc::new(Self { record, ancestors, cedar: Arc::new(cedar), blob, digest }))
    }

    /// Reads a stored version.
    pub fn from_blob(org: OrgId, blob: &[u8]) -> Result<Arc<Self>, EntityError> {
        let record = Record::from_json(org, &Json::parse(blob)?)?;
        // The stored parents are the closed set already.
        let ancestors = record.parents.clone();
        Self::new(record, ancestors)
    }

    /// Which entity.
    pub fn entity(&self) -> &EntityRef {
        &self.record.entity
    }

    /// What is known.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Every ancestor, direct or not.
    pub fn ancestors(&self) -> &BTreeSet<EntityRef> {
        &self.ancestors
    }

    /// The canonical bytes that are stored beside the ledger.
    pub fn blob(&self) -> &Arc<[u8]> {
        &self.blob
    }

    /// Plain SHA-256 of the blob.
    pub fn digest(&self) -> Digest {
        self.digest
    }
}
