//! The policy snapshot: kernel, base schema, bundle and tool catalogue, made ready once and never changed.
//!
//! Everything that a question needs is prebuilt here: policies by id with their annotations, grouped by what they can
//! apply to, action entities, tool entities, typed input shapes. Absent: signatures, files,
//! activation (`policy/bundle`, `policy/store`), questions (`asking`). Read next: `loading`, `index`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, LazyLock, RwLock};

use cedar_policy::{PolicySet, Schema};
use cedar_policy_core::ast::EntityUID;
use countersign_gateway_model::{Digest, Duration, Name, OrgId, PolicyDigests, Timestamp};

use crate::admitted::Admitted;
use crate::catalogue::{Catalogue, CompiledTool};
use crate::counters::Counter;
use crate::entity::{EntityError, EntityVersion, Record};
use crate::gate::Known;
use crate::index::Index;
use crate::loading::{Loading, validate};
use crate::masks::{self, Rewrite};
use crate::parts::{BuildError, Place, PolicyParts, line_starts};
use crate::prepared::Prepared;
use crate::reference::{EntityKind, EntityRef, enum_uid};
use crate::rules::Rules;
use crate::schema;

/// The kernel's policies, always in force.
pub const KERNEL: &str = include_str!("kernel.cedar");

/// The kernel's permits while no bundle is in force.
pub const RECOVERY: &str = include_str!("recovery.cedar");

/// Kernel, base schema, bundle and catalogue, ready. Immutable; share it in an `Arc`.
#[derive(Debug)]
pub struct PolicySnapshot {
    org: OrgId,
    digests: PolicyDigests,
    schema: Schema,
    schema_text: String,
    rules: Rules,
    rule_uids: BTreeMap<Name, Arc<EntityUID>>,
    roles: BTreeSet<Name>,
    counters: BTreeMap<Name, Counter>,
    shadow_workflows: BTreeMap<Name, Timestamp>,
    transforms: Vec<(Name, Rewrite)>,
    ages: BTreeMap<EntityKind, Duration>,
    catalogue: Catalogue,
    tools: BTreeMap<Name, Arc<CompiledTool>>,
    own: HashMap<EntityRef, Arc<EntityVersion>>,
    policies: Vec<Arc<Prepared>>,
    set: PolicySet,
    index: Index,
    admitted: RwLock<Admitted>,
}

impl PolicySnapshot {
    /// Builds a snapshot: parses, checks ids and gates, validates strictly (a warning is an error) to [`crate::LEVEL`].
    pub fn build(parts: PolicyParts) -> Result<Self, BuildError> {
        for (file, text) in &parts.policies {
            if let Some(offset) = crate::depth::too_deep(text) {
                return Err(BuildError::TooDeep { place: Place::at(file, text, &line_starts(text), offset) });
            }
            if let Some(offset) = crate::depth::too_many_ifs(text) {
                return Err(BuildError::TooManyIfs { place: Place::at(file, text, &line_starts(text), offset) });
            }
        }
        crate::depth::with_room(|| Self::build_with_room(parts))
    }

    fn build_with_room(parts: PolicyParts) -> Result<Self, BuildError> {
        let mut tools = match &parts.catalogue {
            Some(catalogue) => catalogue.compile()?,
            None => BTreeMap::new(),
        };
        check_names(&parts)?;
        let transforms = ordered_transforms(&parts)?;
        screen(&parts, &mut tools)?;
        let rule_names: BTreeSet<Name> = parts.rules.rules.keys().cloned().collect();
        let counter_names = parts.counters.keys().cloned().collect();
        let schema_text = schema::effective(&parts.roles, &rule_names, &counter_names, &tools);
        let schema = schema::build(&schema_text, &parts.schema)?;

        let mut loading = Loading::new(parts.org, &parts.shadow);
        let transform_names = parts.transforms.iter().cloned().collect();
        let known = Known { rules: &rule_names, transforms: &transform_names };
        loading.load("kernel", KERNEL, true, &known)?;
        if parts.bundle == Digest([0; 32]) {
            loading.load("kernel", RECOVERY, true, &known)?;
        }
        for (file, text) in &parts.policies {
            loading.load(file, text, false, &known)?;
        }
        if let Some(id) = parts.shadow.keys().find(|id| !loading.places.contains_key(id.as_str())) {
            return Err(BuildError::Shadow { id: id.clone(), problem: "is no policy of the bundle; remove it there" });
        }
        let Loading { prepared, set, places, forms, .. } = loading;
        validate(&schema, &set, &forms, &places)?;

        let own = own_entities(parts.org, &tools)?;
        let index = Index::new(&schema, &prepared, &tools);
        let digests = PolicyDigests {
            kernel: kernel_digest(),
            schema: schema::digest(),
            bundle: parts.bundle,
            catalogue: parts.catalogue.as_ref().map_or(Digest([0; 32]), Catalogue::digest),
        };
        let rule_uids = rule_names.into_iter().map(|name| (name.clone(), enum_uid("ApprovalRule", &name))).collect();
        Ok(Self {
            org: parts.org,
            digests,
            schema,
            schema_text,
            rules: parts.rules,
            rule_uids,
            roles: parts.roles,
            counters: parts.counters,
            shadow_workflows: parts.shadow_workflows,
            transforms,
            ages: parts.ages,
            catalogue: parts.catalogue.unwrap_or_default(),
            tools,
            own,
            policies: prepared,
            set,
            index,
            admitted: RwLock::default(),
        })
    }

    /// Whose snapshot it is.
    pub fn org(&self) -> OrgId {
        self.org
    }

    /// The four digests that a verdict names.
    pub fn digests(&self) -> PolicyDigests {
        self.digests
    }

    /// Whether no bundle is in force.
    pub fn is_recovery(&self) -> bool {
        self.digests.bundle == Digest([0; 32])
    }

    /// The effective schema.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// The effective schema's text, without the bundle's additions.
    pub fn schema_text(&self) -> &str {
        &self.schema_text
    }

    /// The approval rules.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The roles.
    pub fn roles(&self) -> &BTreeSet<Name> {
        &self.roles
    }

    /// Whether a workflow's instances are judged and not held to it at that time.
    pub fn workflow_in_shadow(&self, workflow: &Name, now: Timestamp) -> bool {
        self.shadow_workflows.get(workflow).is_some_and(|until| now < *until)
    }

    /// The counters whose values every question carries, whatever it asks.
    pub fn counters(&self) -> &BTreeMap<Name, Counter> {
        &self.counters
    }

    /// Some of the bundle's transforms, in the manifest's order, whatever order they are asked for in.
    pub(crate) fn transforms<'s>(&'s self, names: &BTreeSet<Name>) -> impl Iterator<Item = (&'s Name, &'s Rewrite)> {
        self.transforms.iter().filter(|(name, _)| names.contains(name)).map(|(name, rewrite)| (name, rewrite))
    }

    /// The catalogue.
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// A listed tool.
    pub fn tool(&self, name: &str) -> Option<&Arc<CompiledTool>> {
        self.tools.get(name)
    }

    /// Every listed tool.
    pub fn tools(&self) -> impl Iterator<Item = &Arc<CompiledTool>> {
        self.tools.values()
    }

    /// Every policy in force, the kernel's first.
    pub fn policies(&self) -> &[Arc<Prepared>] {
        &self.policies
    }

    /// The same as one Cedar policy set, for tools.
    pub fn policy_set(&self) -> &PolicySet {
        &self.set
    }

    pub(crate) fn max_age(&self, kind: EntityKind) -> Option<Duration> {
        self.ages.get(&kind).copied()
    }

    pub(crate) fn aged_kinds(&self) -> impl Iterator<Item = EntityKind> {
        self.ages.keys().copied()
    }

    pub(crate) fn rule_uid(&self, rule: &Name) -> Option<&Arc<EntityUID>> {
        self.rule_uids.get(rule)
    }

    /// A version that follows from the snapshot itself: tools, tool servers, SYSTEM, the organization.
    pub(crate) fn own_entity(&self, entity: &EntityRef) -> Option<&Arc<EntityVersion>> {
        self.own.get(entity)
    }

    pub(crate) fn index(&self) -> &Index {
        &self.index
    }

    /// Which requests passed the schema before.
    pub(crate) fn admitted(&self) -> &RwLock<Admitted> {
        &self.admitted
    }
}

/// Plain SHA-256 of the kernel: its policies, then those that hold without a bundle.
pub fn kernel_digest() -> Digest {
    static DIGEST: LazyLock<Digest> = LazyLock::new(|| crate::sha256(format!("{KERNEL}\0{RECOVERY}").as_bytes()));
    *DIGEST
}

/// The transforms in the manifest's order. One that has no place in it could never be applied, and one that is only
/// named there would never take effect.
fn ordered_transforms(parts: &PolicyParts) -> Result<Vec<(Name, Rewrite)>, BuildError> {
    let refuse = |name: &Name, (file, at): (&'static str, String), problem: &str| BuildError::Mask {
        name: name.clone(),
        file,
        at,
        problem: problem.to_owned(),
    };
    if let Some(name) = parts.masks.transforms.keys().find(|name| !parts.transforms.contains(name)) {
        let at = format!("/transforms/{}", name.as_str().replace('/', "~1"));
        return Err(refuse(
            name,
            ("masks.json", at),
            "the manifest's `transforms` does not say when it is applied; name it there",
        ));
    }
    parts
        .transforms
        .iter()
        .enumerate()
        .map(|(number, name)| {
            let rewrite = parts.masks.transforms.get(name);
            let rewrite = rewrite.ok_or_else(|| {
                let place = ("bundle.json", format!("/transforms/{number}"));
                refuse(name, place, "the manifest orders it, and `masks.json` does not have it; add it there")
            })?;
            Ok((name.clone(), rewrite.clone()))
        })
        .collect()
}

/// Gives every tool its masks and detectors.
fn screen(parts: &PolicyParts, tools: &mut BTreeMap<Name, Arc<CompiledTool>>) -> Result<(), BuildError> {
    if let Some((name, at, problem)) = parts.masks.misplaced(&tools.iter().map(|(name, tool)| (name, &tool.shape))) {
        return Err(BuildError::Mask { name: name.clone(), file: "masks.json", at, problem });
    }
    parts.detectors.misplaced(&tools.iter().map(|(name, tool)| (name, &tool.shape)))?;
    let detectors = parts.detectors.compile()?;
    for tool in tools.values_mut().filter_map(Arc::get_mut) {
        let name = tool.tool.name.as_str();
        tool.masks = masks::steps_for(name, &parts.masks.masks);
        tool.detectors = detectors.iter().filter(|detector| detector.concerns(name)).cloned().collect();
    }
    Ok(())
}

fn check_names(parts: &PolicyParts) -> Result<(), BuildError> {
    let reserved = |what: &'static str, name: &Name| BuildError::Reserved { what, name: name.clone() };
    if let Some(name) = parts.roles.get(schema::NO_MEMBER) {
        return Err(reserved("role", name));
    }
    if let Some((name, _)) = parts.rules.rules.get_key_value(schema::NO_MEMBER) {
        return Err(reserved("rule", name));
    }
    for (rule, data) in &parts.rules.rules {
        let authorities = std::iter::once(&data.authority)
            .chain(data.escalation.iter().map(|e| &e.authority))
            .chain(data.break_glass.iter().map(|b| &b.authority));
        for role in authorities.flat_map(|a| &a.roles) {
            if !parts.roles.contains(role) {
                return Err(BuildError::UnknownRole { rule: rule.clone(), role: role.clone() });
            }
        }
    }
    Ok(())
}

fn own_entities(
    org: OrgId,
    tools: &BTreeMap<Name, Arc<CompiledTool>>,
) -> Result<HashMap<EntityRef, Arc<EntityVersion>>, EntityError> {
    let servers: BTreeSet<&str> = tools.values().map(|t| t.tool.server()).collect();
    let records = [Record::system(org), Record::organization(org)]
        .into_iter()
        .chain(servers.into_iter().filter_map(|s| Name::new(s).ok()).map(|s| Record::tool_server(org, s)))
        .chain(tools.values().map(|t| Record::tool(org, t)));
    records
        .map(|record| {
            let ancestors = record.parents.clone();
            EntityVersion::new(record, ancestors).map(|version| (version.entity().clone(), version))
        })
        .collect()
}
