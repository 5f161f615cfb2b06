//! What a snapshot knows of one question: its action, the request that the schema admits, the policies that can apply,
//! what it takes from counters. Internal.
//!
//! Absent: entities (`store`), evaluation. Read next: `decide`.

use std::sync::{Arc, PoisonError};

use cedar_policy_core::ast::{Context, Entity as CedarEntity, EntityUID, EntityUIDEntry, Request};
use cedar_policy_core::extensions::Extensions;

use crate::counters::{CounterError, Reservation};
use crate::index::ActionSet;
use crate::prepared::Prepared;
use crate::question::Question;
use crate::schema;
use crate::snapshot::PolicySnapshot;
use crate::standing::{CounterNow, standing};
use crate::value;

impl PolicySnapshot {
    /// What a question takes from counters if it is allowed: what its permit reserves.
    pub fn reservations(&self, question: &Question) -> Result<Vec<Reservation>, CounterError> {
        let standing = standing(self.counters(), question)?;
        let taken = |now: CounterNow| now.taken.map(|amount| Reservation { counter: now.name, amount });
        Ok(standing.counters.into_iter().filter_map(taken).collect())
    }

    pub(crate) fn action(&self, question: &Question) -> Option<&ActionSet> {
        self.index().action(question.operation, &question.resource.id)
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
        if self.admitted().read().unwrap_or_else(PoisonError::into_inner).contains(&signature) {
            let known = |euid: Arc<EntityUID>| EntityUIDEntry::Known { euid, loc: None };
            let action = known(Arc::clone(&action.shared));
            return Ok(Request::new_unchecked(known(principal), action, known(resource), Some(context)));
        }
        let request = Request::new(
            (Arc::unwrap_or_clone(principal), None),
            (action.uid.clone(), None),
            (Arc::unwrap_or_clone(resource), None),
            context,
            Some(schema::core(self.schema())),
            Extensions::all_available(),
        )
        .map_err(|e| e.to_string())?;
        self.admitted().write().unwrap_or_else(PoisonError::into_inner).insert(signature);
        Ok(request)
    }

    /// What can apply to a question, by type and by the entities that policies name. Nothing that could apply is
    /// left out: a property test holds it against all policies. `principal` and `resource` come with their ancestors.
    pub(crate) fn candidates<'s>(
        &'s self,
        question: &Question,
        principal: Option<&CedarEntity>,
        resource: Option<&CedarEntity>,
        found: &mut Vec<&'s Prepared>,
    ) {
        if let Some(action) = self.action(question) {
            action.candidates((question.asked.kind, question.resource.kind), principal, resource, found);
        }
    }
}
