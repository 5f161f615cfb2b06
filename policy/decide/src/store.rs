//! Entity versions in memory, and the slice of them that one question needs.
//!
//! The slice is closed: the principal, the action with its ancestors from the schema, the resource, and every entity
//! that attribute access reaches from them in one further step (Cedar's level 2), each with its whole ancestor set.
//! A member that is missing is noted and makes the answer a denial: Cedar would skip the policy that trips over it.
//! Absent: IO; the engine fills the store. Read next: `decide`.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

use cedar_policy_core::ast::Entity as CedarEntity;
use cedar_policy_core::entities::{Entities, NoEntitiesSchema, TCComputation};
use cedar_policy_core::extensions::Extensions;
use countersign_gateway_model::{OrgId, Timestamp};

use crate::entity::{EntityError, EntityVersion, Record};
use crate::question::Question;
use crate::reference::{EntityKind, EntityRef};
use crate::snapshot::PolicySnapshot;

/// Entity versions of any number of organizations: the latest one of each entity. Shared between threads.
#[derive(Debug, Default)]
pub struct EntityStore {
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    versions: HashMap<EntityRef, Held>,
    /// Direct children, so that a changed ancestor set reaches all below.
    children: HashMap<EntityRef, BTreeSet<EntityRef>>,
}

#[derive(Debug)]
struct Held {
    version: Arc<EntityVersion>,
    direct: BTreeSet<EntityRef>,
    /// Ancestors that the store does not have: the version's ancestor set may not be closed.
    unresolved: BTreeSet<EntityRef>,
}

impl EntityStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes what is known about an entity now; gives the version that was made. Entities below it whose ancestors
    /// change get new versions too. Refused: a record that breaks the base schema, or refers to another organization.
    pub fn put(&self, record: Record) -> Result<Arc<EntityVersion>, EntityError> {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        inner.put(record)
    }

    /// Forgets an entity, as one that ended; what lies below it keeps its version but cannot be sliced any more.
    pub fn forget(&self, entity: &EntityRef) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = inner.versions.remove(entity) {
            for parent in &held.direct {
                if let Some(children) = inner.children.get_mut(parent) {
                    children.remove(entity);
                    if children.is_empty() {
                        inner.children.remove(parent);
                    }
                }
            }
        }
        for below in inner.below(entity) {
            if let Some(held) = inner.versions.get_mut(&below) {
                held.unresolved.insert(entity.clone());
            }
        }
    }

    /// The latest version of an entity.
    pub fn get(&self, entity: &EntityRef) -> Option<Arc<EntityVersion>> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        inner.versions.get(entity).map(|held| Arc::clone(&held.version))
    }

    /// How many entities are held.
    pub fn len(&self) -> usize {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).versions.len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The slice for one question. Another organization's ids are refused: they are noted as foreign.
    pub fn slice(&self, snapshot: &PolicySnapshot, question: &Question) -> Slice {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        inner.slice(snapshot, question)
    }

    /// The slices for the questions of one chain, all of the same moment: no entity stands in them in two versions.
    pub fn slices(&self, snapshot: &PolicySnapshot, questions: &[Question]) -> Vec<Slice> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        questions.iter().map(|question| inner.slice(snapshot, question)).collect()
    }
}

impl Inner {
    fn slice(&self, snapshot: &PolicySnapshot, question: &Question) -> Slice {
        Slice::close(snapshot, question, |entity| {
            self.versions.get(entity).map(|held| (Arc::clone(&held.version), held.unresolved.first().cloned()))
        })
    }

    fn put(&mut self, record: Record) -> Result<Arc<EntityVersion>, EntityError> {
        let entity = record.entity.clone();
        let direct = record.parents.clone();
        let (ancestors, unresolved) = self.ancestors(&entity, &direct);
        let version = EntityVersion::new(record, ancestors)?;
        let before = self.versions.insert(
            entity.clone(),
            Held { version: Arc::clone(&version), direct: direct.clone(), unresolved: unresolved.clone() },
        );
        let same_closure =
            before.as_ref().is_some_and(|b| b.version.ancestors() == version.ancestors() && b.unresolved == unresolved);
        for parent in before.iter().flat_map(|b| &b.direct).filter(|p| !direct.contains(p)) {
            if let Some(children) = self.children.get_mut(parent) {
                children.remove(&entity);
            }
        }
        for parent in direct {
            self.children.entry(parent).or_default().insert(entity.clone());
        }
        if !same_closure {
            self.refresh_below(&entity)?;
        }
        Ok(version)
    }

    /// Makes new versions of everything below `entity`.
    fn refresh_below(&mut self, entity: &EntityRef) -> Result<(), EntityError> {
        for child in self.below(entity) {
            let Some((record, direct)) =
                self.versions.get(&child).map(|h| (h.version.record().clone(), h.direct.clone()))
            else {
                continue;
            };
            let (ancestors, unresolved) = self.ancestors(&child, &direct);
            let version = EntityVersion::new(record, ancestors)?;
            self.versions.insert(child, Held { version, direct, unresolved });
        }
        Ok(())
    }

    /// Everything that has `entity` as an ancestor, once each.
    fn below(&self, entity: &EntityRef) -> Vec<EntityRef> {
        let mut seen = HashSet::from([entity]);
        let mut queue: Vec<&EntityRef> = self.children.get(entity).into_iter().flatten().collect();
        let mut found = Vec::new();
        while let Some(next) = queue.pop() {
            if seen.insert(next) {
                found.push(next.clone());
                queue.extend(self.children.get(next).into_iter().flatten());
            }
        }
        found
    }

    /// The closed ancestor set, and those in it that the store does not have. Tool servers come from the catalogue.
    fn ancestors(
        &self,
        entity: &EntityRef,
        direct: &BTreeSet<EntityRef>,
    ) -> (BTreeSet<EntityRef>, BTreeSet<EntityRef>) {
        let (mut found, mut unresolved) = (BTreeSet::new(), BTreeSet::new());
        let mut queue: Vec<&EntityRef> = direct.iter().collect();
        while let Some(next) = queue.pop() {
            // A cycle would make an entity its own ancestor; it is left out, as Cedar knows none.
            if next == entity || !found.insert(next.clone()) {
                continue;
            }
            match self.versions.get(next) {
                Some(held) => queue.extend(&held.direct),
                None => {
                    unresolved.insert(next.clone());
                }
            }
        }
        (found, unresolved)
    }
}

/// What stands between a question and an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SliceProblem {
    /// An entity that the question needs is not there.
    Missing(EntityRef),
    /// An entity's ancestors are not known to the end.
    Unresolved {
        /// The entity.
        entity: EntityRef,
        /// The ancestor that is not there.
        ancestor: EntityRef,
    },
    /// The question names another organization's entity, or the snapshot is another organization's.
    Foreign(EntityRef),
    /// The tool is not in the catalogue.
    UnknownTool(EntityRef),
}

/// The entities of one question, ready for Cedar.
#[derive(Debug)]
pub struct Slice {
    pub(crate) entities: Entities,
    members: Vec<Arc<EntityVersion>>,
    pub(crate) problems: Vec<SliceProblem>,
    /// Cedar uids of principal and resource with all their ancestors: the index's keys.
    pub(crate) principal: Option<Arc<CedarEntity>>,
    pub(crate) resource: Option<Arc<CedarEntity>>,
}

impl Slice {
    /// The entity versions it holds, whose blobs are stored with the entry. Tools, tool servers, SYSTEM and the
    /// organization are not among them: they follow from the snapshot. Nor is one whose ancestors are not known to the
    /// end: replayed without it, the question is denied as it was.
    pub fn members(&self) -> &[Arc<EntityVersion>] {
        &self.members
    }

    /// The same as Cedar takes them, actions included, for tools.
    pub fn cedar(&self) -> &Entities {
        &self.entities
    }

    /// What is wrong with it; a question over it is denied unless this is empty.
    pub fn problems(&self) -> &[SliceProblem] {
        &self.problems
    }

    /// The oldest `as_of` among members of a kind.
    pub(crate) fn oldest(&self, kind: EntityKind) -> Option<(&EntityRef, Timestamp)> {
        self.members
            .iter()
            .filter(|m| m.entity().kind == kind)
            .map(|m| (m.entity(), m.record().as_of))
            .min_by_key(|(_, at)| *at)
    }

    /// A slice from stored versions alone, for replay.
    pub fn from_versions(snapshot: &PolicySnapshot, question: &Question, versions: &[Arc<EntityVersion>]) -> Self {
        Self::close(snapshot, question, |entity| {
            versions.iter().find(|v| v.entity() == entity).map(|v| (Arc::clone(v), None))
        })
    }

    fn close(
        snapshot: &PolicySnapshot,
        question: &Question,
        find: impl Fn(&EntityRef) -> Option<(Arc<EntityVersion>, Option<EntityRef>)>,
    ) -> Self {
        let org = question.org;
        let mut building = Building {
            org,
            find,
            snapshot,
            seen: Vec::with_capacity(12),
            out: Vec::with_capacity(16),
            members: Vec::with_capacity(10),
            problems: Vec::new(),
        };
        if snapshot.org() != org {
            building.problems.push(SliceProblem::Foreign(question.asked.clone()));
        }
        let mut second: Vec<EntityRef> = Vec::with_capacity(8);
        let (mut principal, mut resource) = (None, None);
        for root in question.names() {
            if let Some(version) = building.add(root) {
                second.extend(version.record().steps().cloned());
                if *root == question.asked {
                    principal = Some(Arc::clone(&version.cedar));
                }
                // One that asks about itself is both.
                if *root == question.resource {
                    resource = Some(Arc::clone(&version.cedar));
                }
            }
        }
        for entity in &second {
            building.add(entity);
        }
        let Building { mut out, members, problems, .. } = building;
        out.extend(snapshot.action_entities(question).iter().cloned());
        // Should Cedar ever refuse them, none are there, the kernel's forbids err, and that is a denial.
        let entities = Entities::new()
            .add_entities(
                out,
                None::<&NoEntitiesSchema>,
                TCComputation::AssumeAlreadyComputed,
                Extensions::all_available(),
            )
            .unwrap_or_default();
        Self { entities, members, problems, principal, resource }
    }
}

struct Building<'s, F> {
    org: OrgId,
    find: F,
    snapshot: &'s PolicySnapshot,
    seen: Vec<EntityRef>,
    out: Vec<Arc<CedarEntity>>,
    members: Vec<Arc<EntityVersion>>,
    problems: Vec<SliceProblem>,
}

impl<F: Fn(&EntityRef) -> Option<(Arc<EntityVersion>, Option<EntityRef>)>> Building<'_, F> {
    fn add(&mut self, entity: &EntityRef) -> Option<Arc<EntityVersion>> {
        if self.seen.contains(entity) {
            return None;
        }
        self.seen.push(entity.clone());
        if entity.org != self.org {
            self.problems.push(SliceProblem::Foreign(entity.clone()));
            return None;
        }
        if let Some(own) = self.snapshot.own_entity(entity) {
            self.out.push(Arc::clone(&own.cedar));
            return Some(Arc::clone(own));
        }
        if entity.kind == EntityKind::Tool {
            self.problems.push(SliceProblem::UnknownTool(entity.clone()));
            return None;
        }
        let Some((version, unresolved)) = (self.find)(entity) else {
            self.problems.push(SliceProblem::Missing(entity.clone()));
            return None;
        };
        if let Some(ancestor) = unresolved {
            // It is no member: its blob does not tell that its ancestors are open, and whoever replays must deny too.
            self.problems.push(SliceProblem::Unresolved { entity: entity.clone(), ancestor });
            return None;
        }
        self.out.push(Arc::clone(&version.cedar));
        self.members.push(Arc::clone(&version));
        Some(version)
    }
}
