//! The policy snapshot: kernel, base schema, bundle and tool catalogue, made ready once and never changed.
//!
//! Everything that a question needs is prebuilt here: policies by id with their annotations, grouped by what they can
//! apply to, action entities, tool entities, typed input shapes. Building is the only place where Cedar text is parsed.
//! Absent: signatures, files, activation (`policy/bundle`, `policy/store`). Read next: `decide`.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::str::FromStr;
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

use cedar_policy::{
    ActionConstraint, Effect, Policy, PolicyId, PolicySet, PrincipalConstraint, ResourceConstraint, Schema,
    ValidationMode, Validator,
};
use cedar_policy_core::ast::{
    Context, Entity as CedarEntity, EntityUID, EntityUIDEntry, Expr, Policy as CorePolicy, Request,
};
use cedar_policy_core::extensions::Extensions;
use countersign_gateway_model::{Digest, Duration, Name, OrgId, PolicyDigests, Timestamp};

use crate::alike;
use crate::catalogue::{Catalogue, CatalogueError, CompiledTool};
use crate::clauses;
use crate::counters::{self, Counter, CounterError, CounterNow, Reservation};
use crate::data::DataError;
use crate::detectors::Detectors;
use crate::entity::{EntityError, EntityVersion, Record};
use crate::gate::{self, Known};
use crate::masks::{self, Masks, Rewrite};
use crate::question::{Operation, Question};
use crate::reference::{self, EntityKind, EntityRef, enum_uid};
use crate::rules::Rules;
use crate::schema::{self, SchemaError};
use crate::store::Slice;
use crate::value;

/// The kernel's policies, always in force.
pub const KERNEL: &str = include_str!("kernel.cedar");

/// The kernel's permits while no bundle is in force.
pub const RECOVERY: &str = include_str!("recovery.cedar");

/// How deep attribute access may go in a policy (Cedar's level); slices are closed to it.
pub const LEVEL: u32 = 2;

/// How many request signatures one generation holds; there are two.
const MAX_SEEN: usize = 2048;

/// What a snapshot is made of. Text comes with the name of its file, for errors.
#[derive(Clone, Debug)]
pub struct PolicyParts {
    /// Whose snapshot it is.
    pub org: OrgId,
    /// The plain digest of the bundle's manifest; all zero without a bundle.
    pub bundle: Digest,
    /// Cedar policies: file to text.
    pub policies: BTreeMap<String, String>,
    /// Schema additions in the bundle's own namespaces: file to text.
    pub schema: BTreeMap<String, String>,
    /// Approval rules.
    pub rules: Rules,
    /// Roles.
    pub roles: BTreeSet<Name>,
    /// Counters.
    pub counters: BTreeMap<Name, Counter>,
    /// Masks and transforms.
    pub masks: Masks,
    /// In which order missing transforms are applied; exactly those of `masks`.
    pub transforms: Vec<Name>,
    /// What is looked for in inputs.
    pub detectors: Detectors,
    /// Policies that are judged and not enforced, each until an instant.
    pub shadow: BTreeMap<Name, Timestamp>,
    /// Workflows whose instances are judged and not held to it, each until an instant.
    pub shadow_workflows: BTreeMap<Name, Timestamp>,
    /// How old an entity version may be where a person is asked or decides; absent: any age.
    pub ages: BTreeMap<EntityKind, Duration>,
    /// The tool catalogue.
    pub catalogue: Option<Catalogue>,
}

impl PolicyParts {
    /// No bundle, no catalogue: reading, stopping and recovering only.
    pub fn recovery(org: OrgId) -> Self {
        Self {
            org,
            bundle: Digest([0; 32]),
            policies: BTreeMap::new(),
            schema: BTreeMap::new(),
            rules: Rules::default(),
            roles: BTreeSet::new(),
            counters: BTreeMap::new(),
            masks: Masks::default(),
            transforms: Vec::new(),
            detectors: Detectors::default(),
            shadow: BTreeMap::new(),
            shadow_workflows: BTreeMap::new(),
            ages: BTreeMap::new(),
            catalogue: None,
        }
    }
}

/// Where in a file something stands, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: String,
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

impl Place {
    /// `starts` are the byte offsets at which the text's lines start.
    fn at(file: &str, text: &str, starts: &[usize], offset: usize) -> Self {
        let line = starts.partition_point(|start| *start <= offset).max(1);
        let start = starts.get(line - 1).copied().unwrap_or(0);
        let column = text.get(start..offset).map_or(0, |before| before.chars().count()) + 1;
        Self { file: file.to_owned(), line, column }
    }
}

fn line_starts(text: &str) -> Vec<usize> {
    std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect()
}

/// Why a snapshot cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A policy file does not parse.
    #[error("{place}: {reason}")]
    Parse {
        /// Where.
        place: Place,
        /// Cedar's words.
        reason: String,
    },
    /// A policy without `@id`, or with one that is no name.
    #[error("{place}: the policy has no usable `@id`; give it one of 1 to 128 of A-Z a-z 0-9 . _ : / -")]
    Id {
        /// Where.
        place: Place,
    },
    /// Two policies with one id.
    #[error("{place}: `@id(\"{id}\")` stands on another policy too; ids are unique in a bundle")]
    DuplicateId {
        /// Where the second one stands.
        place: Place,
        /// The id.
        id: String,
    },
    /// An id in a space that is the program's.
    #[error("{place}: ids that start with `kernel:` or `gateway:` are the program's; rename `{id}`")]
    ReservedId {
        /// Where.
        place: Place,
        /// The id.
        id: String,
    },
    /// A policy that nests deeper than it can safely be walked.
    #[error("{place}: the policy has more than {max} marks; split it", max = crate::depth::MAX_MARKS)]
    TooDeep {
        /// Where it passes the bound.
        place: Place,
    },
    /// A policy with more conditions than can be validated in good time: each may double the work.
    #[error("{place}: the policy has more than {max} `if`s; split it", max = crate::depth::MAX_IFS)]
    TooManyIfs {
        /// Where the first one beyond the bound stands.
        place: Place,
    },
    /// A template; bundles have static policies only.
    #[error("{file}: templates are not supported; write the policy with its principal and resource")]
    Template {
        /// The file.
        file: String,
    },
    /// A gate that would not hold, or context read where it may not be.
    #[error("{place}: policy `{id}`: {problem}")]
    Gate {
        /// Where.
        place: Place,
        /// The policy.
        id: Name,
        /// What is wrong and what to do.
        problem: String,
    },
    /// Strict validation failed, or warned.
    #[error("{place}: policy `{id}`: {reason}")]
    Invalid {
        /// Where.
        place: Place,
        /// The policy.
        id: String,
        /// Cedar's words.
        reason: String,
    },
    /// A mask or a transform that would let something through, or that nothing orders.
    #[error("`masks.json`: `{name}`: {problem}")]
    Mask {
        /// Which.
        name: Name,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A policy that cannot be in shadow.
    #[error("the manifest's `shadow.policies`: `{id}` {problem}")]
    Shadow {
        /// Which.
        id: Name,
        /// Why not, and what to do.
        problem: &'static str,
    },
    /// Masks or detectors.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A name in the data that is reserved.
    #[error("`{name}` is reserved and cannot be a {what}; choose another")]
    Reserved {
        /// What.
        what: &'static str,
        /// The name.
        name: Name,
    },
    /// An approval rule names a role that is not listed.
    #[error("approval rule `{rule}` names role `{role}`, which `roles.json` does not list; add it or correct the name")]
    UnknownRole {
        /// The rule.
        rule: Name,
        /// The role.
        role: Name,
    },
    /// The schema.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// The catalogue.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// An entity that follows from the catalogue.
    #[error(transparent)]
    Entity(#[from] EntityError),
}

/// One policy, ready to be evaluated.
pub struct Prepared {
    /// Its `@id`.
    pub id: Name,
    /// Whether it forbids (or permits).
    pub forbids: bool,
    /// The approval rule of a gate.
    pub gate: Option<Name>,
    /// `@transform`: the change of the input that lifts it.
    pub transform: Option<Name>,
    /// Until when it is judged and not enforced.
    pub shadow_until: Option<Timestamp>,
    /// `@agent_message`: what an agent may be told.
    pub agent_message: Option<String>,
    /// `@title`: one line for people.
    pub title: Option<String>,
    /// `@severity`.
    pub severity: Option<Name>,
    /// The file it stands in; `kernel` for the program's.
    pub file: String,
    /// Line and column in it, from 1.
    pub at: (usize, usize),
    /// The whole condition, scopes included.
    pub(crate) condition: Expr,
    /// What is left of it once the scopes hold; `None`: nothing.
    pub(crate) clauses: Option<Expr>,
    pub(crate) core: CorePolicy,
    policy: Policy,
}

impl Prepared {
    /// Whether it is judged and not enforced at that time.
    pub fn in_shadow(&self, now: Timestamp) -> bool {
        self.shadow_until.is_some_and(|until| now < until)
    }

    /// Whether it holds for workflows in shadow too: the kernel's, and whatever is `@severity`-marked.
    pub(crate) fn is_firm(&self) -> bool {
        self.severity.is_some() || self.id.as_str().starts_with("kernel:")
    }

    /// The policy itself, for lint and tools.
    pub fn cedar(&self) -> &Policy {
        &self.policy
    }
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.id)
    }
}

/// Policies that can apply to one action, principal type and resource type, by the entities they name.
#[derive(Debug, Default)]
struct Bucket {
    everyone: Vec<Arc<Prepared>>,
    by_principal: HashMap<Key, Vec<Arc<Prepared>>>,
    by_resource: HashMap<Key, Vec<Arc<Prepared>>>,
    by_both: HashMap<Key, HashMap<Key, Vec<Arc<Prepared>>>>,
}

/// An entity that a policy's head names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    /// `==`: that entity alone.
    Same(EntityUID),
    /// `in`: that entity and whatever belongs to it.
    Within(EntityUID),
}

/// One action: its uid, its entities (itself and its ancestors), and what applies to it.
#[derive(Debug)]
pub(crate) struct ActionSet {
    pub(crate) uid: EntityUID,
    shared: Arc<EntityUID>,
    entities: Vec<Arc<CedarEntity>>,
    buckets: BTreeMap<(EntityKind, EntityKind), Bucket>,
}

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
    actions: HashMap<String, ActionSet>,
    tool_actions: HashMap<Name, String>,
    seen: RwLock<Seen>,
}

impl PolicySnapshot {
    /// Builds a snapshot: parses, checks ids and gates, validates strictly (a warning is an error) to [`LEVEL`].
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

        let mut loading = Loading::new(&parts.shadow);
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
        let actions = actions(&schema, &prepared);
        let tool_actions = tools.values().map(|t| (t.tool.name.clone(), schema::tool_action(t))).collect();
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
            actions,
            tool_actions,
            seen: RwLock::default(),
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

    /// What a question takes from counters if it is allowed: what its permit reserves.
    pub fn reservations(&self, question: &Question) -> Result<Vec<Reservation>, CounterError> {
        let standing = counters::standing(&self.counters, question)?;
        let taken = |now: CounterNow| now.taken.map(|amount| Reservation { counter: now.name, amount });
        Ok(standing.counters.into_iter().filter_map(taken).collect())
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

    pub(crate) fn action(&self, question: &Question) -> Option<&ActionSet> {
        let name = match question.operation {
            Operation::CallTool | Operation::Dispatch => {
                let action = self.tool_actions.get(&question.resource.id)?;
                // A tool with a runner is never called, one without is never dispatched.
                if !action.strip_prefix(question.operation.as_str()).is_some_and(|rest| rest.starts_with(':')) {
                    return None;
                }
                action.as_str()
            }
            operation => operation.as_str(),
        };
        self.actions.get(name)
    }

    pub(crate) fn action_entities(&self, question: &Question) -> &[Arc<CedarEntity>] {
        self.action(question).map_or(&[], |a| a.entities.as_slice())
    }

    /// A request that the schema admits. Cedar checks it, unless one with the same signature passed before: the
    /// signature holds all that the schema can see, so the answer would be the same.
    pub(crate) fn request(&self, question: &Question, context: Context) -> Result<Request, String> {
        let action = self.action(question).ok_or("no such action for this resource")?;
        let (principal, resource) = (question.asked.uid(), question.resource.uid());
        let mut signature = Vec::with_capacity(512);
        signature.extend([question.asked.kind as u8, question.resource.kind as u8]);
        value::write_text(action.uid.eid().as_ref(), &mut signature);
        if let Context::Value(members) = &context {
            for (key, member) in members.iter() {
                value::write_text(key, &mut signature);
                value::write_signature(member, &mut signature);
            }
        }
        let signature = crate::sha256(&signature);
        if self.seen.read().unwrap_or_else(PoisonError::into_inner).contains(&signature) {
            let known = |euid: Arc<EntityUID>| EntityUIDEntry::Known { euid, loc: None };
            let action = known(Arc::clone(&action.shared));
            return Ok(Request::new_unchecked(known(principal), action, known(resource), Some(context)));
        }
        let request = Request::new(
            (Arc::unwrap_or_clone(principal), None),
            (action.uid.clone(), None),
            (Arc::unwrap_or_clone(resource), None),
            context,
            Some(schema::core(&self.schema)),
            Extensions::all_available(),
        )
        .map_err(|e| e.to_string())?;
        self.seen.write().unwrap_or_else(PoisonError::into_inner).insert(signature);
        Ok(request)
    }

    /// What can apply to a question, by type and by the entities that policies name. Nothing that could apply is
    /// left out: a property test holds it against all policies.
    pub(crate) fn candidates<'s>(&'s self, question: &Question, slice: &Slice, found: &mut Vec<&'s Prepared>) {
        let Some(bucket) =
            self.action(question).and_then(|a| a.buckets.get(&(question.asked.kind, question.resource.kind)))
        else {
            return;
        };
        found.extend(bucket.everyone.iter().map(|p| &**p));
        let keys = |entity: &Option<Arc<CedarEntity>>| -> Vec<Key> {
            entity.as_ref().map_or_else(Vec::new, |e| {
                [Key::Same(e.uid().clone()), Key::Within(e.uid().clone())]
                    .into_iter()
                    .chain(e.ancestors().map(|a| Key::Within(a.clone())))
                    .collect()
            })
        };
        let nothing_by_resource = bucket.by_resource.is_empty() && bucket.by_both.is_empty();
        let resources = if nothing_by_resource { Vec::new() } else { keys(&slice.resource) };
        for resource in &resources {
            found.extend(bucket.by_resource.get(resource).into_iter().flatten().map(|p| &**p));
        }
        if bucket.by_principal.is_empty() && bucket.by_both.is_empty() {
            return;
        }
        for principal in keys(&slice.principal) {
            found.extend(bucket.by_principal.get(&principal).into_iter().flatten().map(|p| &**p));
            if let Some(both) = bucket.by_both.get(&principal) {
                for resource in &resources {
                    found.extend(both.get(resource).into_iter().flatten().map(|p| &**p));
                }
            }
        }
    }
}

/// Plain SHA-256 of the kernel: its policies, then those that hold without a bundle.
pub fn kernel_digest() -> Digest {
    static DIGEST: LazyLock<Digest> = LazyLock::new(|| crate::sha256(format!("{KERNEL}\0{RECOVERY}").as_bytes()));
    *DIGEST
}

/// Signatures of requests that the schema admitted, by digest: a request may be large, what is remembered of it is not.
#[derive(Debug, Default)]
struct Seen {
    young: HashSet<Digest>,
    /// What was young while the generation before filled. A request of it is checked again and is young again.
    old: HashSet<Digest>,
}

impl Seen {
    fn contains(&self, signature: &Digest) -> bool {
        self.young.contains(signature) || self.old.contains(signature)
    }

    /// The newest are always kept, so that nobody's requests crowd out everybody else's for good.
    fn insert(&mut self, signature: Digest) {
        if self.young.len() >= MAX_SEEN {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(signature);
    }
}

/// The transforms in the manifest's order. One that has no place in it could never be applied, and one that is only
/// named there would never take effect.
fn ordered_transforms(parts: &PolicyParts) -> Result<Vec<(Name, Rewrite)>, BuildError> {
    let refuse = |name: &Name, problem: &str| BuildError::Mask { name: name.clone(), problem: problem.to_owned() };
    if let Some(name) = parts.masks.transforms.keys().find(|name| !parts.transforms.contains(name)) {
        return Err(refuse(name, "the manifest's `transforms` does not say when it is applied; name it there"));
    }
    parts
        .transforms
        .iter()
        .map(|name| {
            let rewrite = parts.masks.transforms.get(name);
            let rewrite = rewrite.ok_or_else(|| refuse(name, "the manifest orders it, and it is not there; add it"))?;
            Ok((name.clone(), rewrite.clone()))
        })
        .collect()
}

/// Gives every tool its masks and detectors.
fn screen(parts: &PolicyParts, tools: &mut BTreeMap<Name, Arc<CompiledTool>>) -> Result<(), BuildError> {
    if let Some((name, problem)) = parts.masks.misplaced(&tools.iter().map(|(name, tool)| (name, &tool.shape))) {
        return Err(BuildError::Mask { name: name.clone(), problem });
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

struct Loading<'p> {
    prepared: Vec<Arc<Prepared>>,
    set: PolicySet,
    places: HashMap<String, Place>,
    /// What strict validation can tell apart, as digests: texts of ten thousand policies are megabytes.
    forms: HashMap<PolicyId, Digest>,
    shadow: &'p BTreeMap<Name, Timestamp>,
}

impl<'p> Loading<'p> {
    fn new(shadow: &'p BTreeMap<Name, Timestamp>) -> Self {
        Self { prepared: Vec::new(), set: PolicySet::new(), places: HashMap::new(), forms: HashMap::new(), shadow }
    }

    fn load(&mut self, file: &str, text: &str, kernel: bool, known: &Known<'_>) -> Result<(), BuildError> {
        let starts = line_starts(text);
        let parsed = PolicySet::from_str(text).map_err(|errors| {
            let offset = errors.iter().find_map(offset_of).unwrap_or(0);
            BuildError::Parse { place: Place::at(file, text, &starts, offset), reason: schema::report(&errors) }
        })?;
        if parsed.num_of_templates() > 0 {
            return Err(BuildError::Template { file: file.to_owned() });
        }
        let mut policies: Vec<&Policy> = parsed.policies().collect();
        let start = |p: &Policy| {
            let core: &CorePolicy = p.as_ref();
            core.loc().map_or(0, cedar_policy_core::parser::Loc::start)
        };
        policies.sort_by_key(|p| start(p));
        for policy in policies {
            let place = Place::at(file, text, &starts, start(policy));
            let Some(id) = gate::annotation(policy, "id").and_then(|id| Name::new(id).ok()) else {
                return Err(BuildError::Id { place });
            };
            let reserved = id.as_str().starts_with("kernel:") || id.as_str().starts_with("gateway:");
            if reserved && !kernel {
                return Err(BuildError::ReservedId { place, id: id.to_string() });
            }
            let policy = policy.new_id(PolicyId::new(id.as_str()));
            if self.set.add(policy.clone()).is_err() {
                return Err(BuildError::DuplicateId { place, id: id.to_string() });
            }
            // Cedar makes its JSON form by parsing the text again: once is enough.
            let lift = policy
                .to_json()
                .map_err(|error| format!("it has no json form ({error}); rewrite it"))
                .and_then(|json| {
                    self.forms.insert(policy.id().clone(), alike::form(&json));
                    gate::check(&policy, &json, known)
                })
                .map_err(|problem| BuildError::Gate { place: place.clone(), id: id.clone(), problem })?;
            let shadow_until = self.shadow.get(&id).copied();
            if shadow_until.is_some() && (kernel || gate::annotation(&policy, "severity") == Some("hard")) {
                let problem = "is the kernel's, or `@severity(\"hard\")`: it is never in shadow; remove it there";
                return Err(BuildError::Shadow { id, problem });
            }
            self.places.insert(id.to_string(), place.clone());
            let core: CorePolicy = policy.as_ref().clone();
            self.prepared.push(Arc::new(Prepared {
                forbids: policy.effect() == Effect::Forbid,
                gate: lift.rule,
                transform: lift.transform,
                shadow_until,
                agent_message: gate::annotation(&policy, "agent_message").map(str::to_owned),
                title: gate::annotation(&policy, "title").map(str::to_owned),
                severity: gate::annotation(&policy, "severity").and_then(|s| Name::new(s).ok()),
                at: (place.line, place.column),
                file: place.file,
                condition: core.condition(),
                clauses: core.non_scope_constraints().map(clauses::placeless),
                core,
                policy,
                id,
            }));
        }
        Ok(())
    }
}

fn offset_of(error: &cedar_policy::ParseError) -> Option<usize> {
    use miette::Diagnostic as _;
    error.labels().and_then(|mut labels| labels.next()).map(|label| label.offset())
}

fn validate(
    schema: &Schema,
    set: &PolicySet,
    forms: &HashMap<PolicyId, Digest>,
    places: &HashMap<String, Place>,
) -> Result<(), BuildError> {
    let mut seen = HashSet::new();
    let one_of_each =
        set.policies().filter(|policy| forms.get(policy.id()).is_none_or(|form| seen.insert(*form))).cloned();
    // Fewer policies under the same ids as in `set`, where each was added: this cannot fail, and if it does, all are asked.
    let some = PolicySet::from_policies(one_of_each);
    let asked = some.as_ref().unwrap_or(set);
    let result = Validator::new(schema.clone()).validate_with_level(asked, ValidationMode::Strict, LEVEL);
    let invalid = |id: &PolicyId, reason: String| {
        let id = AsRef::<str>::as_ref(id).to_owned();
        let place = places.get(&id).cloned().unwrap_or(Place { file: String::new(), line: 1, column: 1 });
        BuildError::Invalid { place, id, reason }
    };
    if let Some(error) = result.validation_errors().next() {
        return Err(invalid(error.policy_id(), schema::report(error)));
    }
    if let Some(warning) = result.validation_warnings().next() {
        return Err(invalid(warning.policy_id(), schema::report(warning)));
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

/// Groups policies by action, principal type and resource type, and then by the entities in their scopes. The groups
/// are exact: a policy stands in one if, and only if, its scopes hold for every question that finds it there.
fn actions(schema: &Schema, policies: &[Arc<Prepared>]) -> HashMap<String, ActionSet> {
    let kind_of = |ty: &cedar_policy::EntityTypeName| reference::kind_of(ty.as_ref());
    let entities = schema.action_entities().unwrap_or_else(|_| cedar_policy::Entities::empty());
    let arc = |uid: &EntityUID| {
        let uid: cedar_policy::EntityUid = uid.clone().into();
        entities.get(&uid).map(|e| Arc::new(AsRef::<CedarEntity>::as_ref(e).clone()))
    };
    let scopes: Vec<Scope> = policies.iter().map(|p| Scope::of(p, &kind_of)).collect();
    let mut sets: HashMap<String, ActionSet> = HashMap::new();
    for action in schema.actions() {
        let uid: &EntityUID = action.as_ref();
        // The map knows ids alone: an action of another namespace must not stand in for the program's.
        if !schema::is_action_type(uid.entity_type()) {
            continue;
        }
        let own = arc(uid);
        let ancestors = own.as_ref().map(|e| e.ancestors().filter_map(&arc).collect::<Vec<_>>()).unwrap_or_default();
        let entities: Vec<Arc<CedarEntity>> = own.into_iter().chain(ancestors).collect();
        let principals: Vec<EntityKind> =
            schema.principals_for_action(action).into_iter().flatten().filter_map(kind_of).collect();
        let resources: Vec<EntityKind> =
            schema.resources_for_action(action).into_iter().flatten().filter_map(kind_of).collect();
        let mut buckets = BTreeMap::new();
        for principal in &principals {
            for resource in &resources {
                buckets.insert((*principal, *resource), Bucket::default());
            }
        }
        for (prepared, scope) in policies.iter().zip(&scopes) {
            let holds = match &scope.actions {
                None => true,
                Some(actions) => entities.iter().any(|e| {
                    // `==` names the action itself, `in` one that it belongs to.
                    actions.contains(e.uid()) && (scope.below || e.uid() == uid)
                }),
            };
            if !holds {
                continue;
            }
            for (_, bucket) in
                buckets.iter_mut().filter(|((p, r), _)| scope.principal.admits(*p) && scope.resource.admits(*r))
            {
                let list = match (&scope.principal.key, &scope.resource.key) {
                    (None, None) => &mut bucket.everyone,
                    (Some(p), None) => bucket.by_principal.entry(p.clone()).or_default(),
                    (None, Some(r)) => bucket.by_resource.entry(r.clone()).or_default(),
                    (Some(p), Some(r)) => bucket.by_both.entry(p.clone()).or_default().entry(r.clone()).or_default(),
                };
                list.push(Arc::clone(prepared));
            }
        }
        let set = ActionSet { uid: uid.clone(), shared: Arc::new(uid.clone()), entities, buckets };
        sets.insert(AsRef::<str>::as_ref(uid.eid()).to_owned(), set);
    }
    sets
}

/// What a policy's head asks for.
struct Scope {
    principal: Head,
    resource: Head,
    /// `None`: any.
    actions: Option<BTreeSet<EntityUID>>,
    /// Whether actions below the named ones count.
    below: bool,
}

/// What a policy's head asks of principal or resource.
struct Head {
    /// `None`: any type. A type that no question has leaves an empty list.
    kinds: Option<Vec<EntityKind>>,
    key: Option<Key>,
}

impl Head {
    fn admits(&self, kind: EntityKind) -> bool {
        self.kinds.as_ref().is_none_or(|kinds| kinds.contains(&kind))
    }
}

impl Scope {
    fn of(prepared: &Prepared, kind_of: &dyn Fn(&cedar_policy::EntityTypeName) -> Option<EntityKind>) -> Self {
        let same = |uid: cedar_policy::EntityUid| Head {
            kinds: Some(kind_of(uid.type_name()).into_iter().collect()),
            key: Some(Key::Same(uid.into())),
        };
        let within = |ty: Option<cedar_policy::EntityTypeName>, uid: cedar_policy::EntityUid| Head {
            kinds: ty.map(|ty| kind_of(&ty).into_iter().collect()),
            key: Some(Key::Within(uid.into())),
        };
        let principal = match prepared.policy.principal_constraint() {
            PrincipalConstraint::Any => Head { kinds: None, key: None },
            PrincipalConstraint::Is(ty) => Head { kinds: Some(kind_of(&ty).into_iter().collect()), key: None },
            PrincipalConstraint::IsIn(ty, uid) => within(Some(ty), uid),
            PrincipalConstraint::In(uid) => within(None, uid),
            PrincipalConstraint::Eq(uid) => same(uid),
        };
        let resource = match prepared.policy.resource_constraint() {
            ResourceConstraint::Any => Head { kinds: None, key: None },
            ResourceConstraint::Is(ty) => Head { kinds: Some(kind_of(&ty).into_iter().collect()), key: None },
            ResourceConstraint::IsIn(ty, uid) => within(Some(ty), uid),
            ResourceConstraint::In(uid) => within(None, uid),
            ResourceConstraint::Eq(uid) => same(uid),
        };
        let (actions, below) = match prepared.policy.action_constraint() {
            ActionConstraint::Any => (None, true),
            ActionConstraint::Eq(uid) => (Some([EntityUID::from(uid)].into()), false),
            ActionConstraint::In(uids) => (Some(uids.into_iter().map(EntityUID::from).collect()), true),
        };
        Self { principal, resource, actions, below }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use cedar_policy::SchemaFragment;

    use super::*;

    #[test]
    fn signatures_are_bounded_and_the_newest_are_kept() {
        let mut seen = Seen::default();
        let digest = |n: usize| crate::sha256(&n.to_le_bytes());
        for n in 0..5 * MAX_SEEN {
            seen.insert(digest(n));
            assert!(seen.contains(&digest(n)), "what came last is known: {n}");
            assert!(seen.young.len() + seen.old.len() <= 2 * MAX_SEEN);
        }
        assert!(seen.contains(&digest(4 * MAX_SEEN)) && !seen.contains(&digest(0)));
    }

    #[test]
    fn an_action_of_another_namespace_never_stands_in_for_the_programs() {
        let fragment = |text: &str| SchemaFragment::from_cedarschema_str(text).unwrap().0;
        let mine = "namespace Mine { entity T; action approve appliesTo { principal: [T], resource: [T] }; }";
        for additions in ["namespace Mine { entity T; }", mine] {
            let schema = Schema::from_schema_fragments([fragment(schema::BASE), fragment(additions)]).unwrap();
            let (none, no_shadow) = (BTreeSet::new(), BTreeMap::new());
            let mut loading = Loading::new(&no_shadow);
            loading.load("kernel", KERNEL, true, &Known { rules: &none, transforms: &none }).unwrap();
            let sets = actions(&schema, &loading.prepared);
            let approve = sets.get("approve").unwrap();
            assert_eq!(approve.uid.to_string(), "Countersign::Action::\"approve\"", "{additions}");
            let forbids = approve.buckets.get(&(EntityKind::Agent, EntityKind::Item)).map_or(0, |b| b.everyone.len());
            assert!(forbids > 0, "the kernel holds under {additions}");
        }
    }
}
