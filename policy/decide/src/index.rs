//! Which policies can apply to a question: by action, by the types of principal and resource, and by the entities that
//! their heads name. Internal.
//!
//! The groups are exact: a policy stands in one if, and only if, its scopes hold for every question that finds it there.
//! A property test holds what is found against all policies. Absent: questions (`asking`). Read next: `decide`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use cedar_policy::{ActionConstraint, PrincipalConstraint, ResourceConstraint, Schema};
use cedar_policy_core::ast::{Entity as CedarEntity, EntityUID};
use countersign_gateway_model::Name;

use crate::catalogue::CompiledTool;
use crate::operation::Operation;
use crate::prepared::Prepared;
use crate::reference::{self, EntityKind};
use crate::schema;

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
    pub(crate) shared: Arc<EntityUID>,
    pub(crate) entities: Vec<Arc<CedarEntity>>,
    buckets: BTreeMap<(EntityKind, EntityKind), Bucket>,
}

/// Every action's policies, and which action a tool is.
#[derive(Debug)]
pub(crate) struct Index {
    actions: HashMap<String, ActionSet>,
    tool_actions: HashMap<Name, String>,
}

impl Index {
    pub(crate) fn new(schema: &Schema, policies: &[Arc<Prepared>], tools: &BTreeMap<Name, Arc<CompiledTool>>) -> Self {
        let tool_actions = tools.values().map(|t| (t.tool.name.clone(), schema::tool_action(t))).collect();
        Self { actions: actions(schema, policies), tool_actions }
    }

    /// The action of an operation on a resource; the resource tells for tools alone.
    pub(crate) fn action(&self, operation: Operation, resource: &Name) -> Option<&ActionSet> {
        let name = match operation {
            Operation::CallTool | Operation::Dispatch => {
                let action = self.tool_actions.get(resource)?;
                // A tool with a runner is never called, one without is never dispatched.
                if !action.strip_prefix(operation.as_str()).is_some_and(|rest| rest.starts_with(':')) {
                    return None;
                }
                action.as_str()
            }
            operation => operation.as_str(),
        };
        self.actions.get(name)
    }
}

impl ActionSet {
    /// What can apply to a question of that principal and resource, by type and by the entities that policies name.
    pub(crate) fn candidates<'s>(
        &'s self,
        kinds: (EntityKind, EntityKind),
        principal: Option<&CedarEntity>,
        resource: Option<&CedarEntity>,
        found: &mut Vec<&'s Prepared>,
    ) {
        let Some(bucket) = self.buckets.get(&kinds) else { return };
        found.extend(bucket.everyone.iter().map(|p| &**p));
        let nothing_by_resource = bucket.by_resource.is_empty() && bucket.by_both.is_empty();
        let resources = if nothing_by_resource { Vec::new() } else { keys(resource) };
        for resource in &resources {
            found.extend(bucket.by_resource.get(resource).into_iter().flatten().map(|p| &**p));
        }
        if bucket.by_principal.is_empty() && bucket.by_both.is_empty() {
            return;
        }
        for principal in keys(principal) {
            found.extend(bucket.by_principal.get(&principal).into_iter().flatten().map(|p| &**p));
            if let Some(both) = bucket.by_both.get(&principal) {
                for resource in &resources {
                    found.extend(both.get(resource).into_iter().flatten().map(|p| &**p));
                }
            }
        }
    }
}

/// Whatever a policy's head can name that holds for an entity.
fn keys(entity: Option<&CedarEntity>) -> Vec<Key> {
    entity.map_or_else(Vec::new, |e| {
        [Key::Same(e.uid().clone()), Key::Within(e.uid().clone())]
            .into_iter()
            .chain(e.ancestors().map(|a| Key::Within(a.clone())))
            .collect()
    })
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
    use countersign_gateway_model::OrgId;

    use super::*;
    use crate::gate::Known;
    use crate::loading::Loading;

    #[test]
    fn an_action_of_another_namespace_never_stands_in_for_the_programs() {
        let fragment = |text: &str| SchemaFragment::from_cedarschema_str(text).unwrap().0;
        let mine = "namespace Mine { entity T; action approve appliesTo { principal: [T], resource: [T] }; }";
        for additions in ["namespace Mine { entity T; }", mine] {
            let schema = Schema::from_schema_fragments([fragment(schema::BASE), fragment(additions)]).unwrap();
            let (none, no_shadow) = (BTreeSet::new(), BTreeMap::new());
            let mut loading = Loading::new(OrgId::from_bytes([1; 16]), &no_shadow);
            let kernel = include_str!("kernel.cedar");
            loading.load("kernel", kernel, true, &Known { rules: &none, transforms: &none }).unwrap();
            let sets = actions(&schema, &loading.prepared);
            let approve = sets.get("approve").unwrap();
            assert_eq!(approve.uid.to_string(), "Countersign::Action::\"approve\"", "{additions}");
            let forbids = approve.buckets.get(&(EntityKind::Agent, EntityKind::Item)).map_or(0, |b| b.everyone.len());
            assert!(forbids > 0, "the kernel holds under {additions}");
        }
    }
}
