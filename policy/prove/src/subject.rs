//! What proofs are about: the policies in force with a bundle, sorted by the kinds of requests that they apply to.
//!
//! Only policies that can apply to an environment are translated for it; the rest cannot change its answer. Absent:
//! asking (`prover`). Read next: `invariant`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use cedar_policy::{Effect, Policy, PolicySet, RequestEnv, Schema, SchemaFragment};
use countersign_policy_bundle::{FileKind, Files, Settings, Timestamp};
use countersign_policy_decide::PolicySnapshot;
use serde::Serialize;

/// A bundle that passed its checks: what decides, and the files that it was made from.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// What decides.
    pub snapshot: &'a PolicySnapshot,
    /// The bundle's files: its invariants and schema additions are read from them.
    pub files: &'a Files,
    /// What its manifest says: in which order inputs are changed.
    pub settings: &'a Settings,
}

/// Why nothing can be proved about a subject at all.
#[derive(Debug, thiserror::Error)]
pub enum SubjectError {
    /// The schemas of two bundles do not fit together.
    #[error("the two bundles cannot be compared: {0}; compare them with `diff`, which reads their text")]
    Schemas(String),
    /// A policy of a bundle that was checked does not fit its own schema.
    #[error("the bundle has not passed its checks: {0}; run the check first")]
    Unchecked(String),
    /// The thread that proofs run on could not be had.
    #[error("no thread to prove on; try again when the machine is less busy")]
    Thread(#[source] std::io::Error),
}

/// A kind of request: which type of principal asks for which action on which type of resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Environment {
    /// Without its namespace.
    pub principal: String,
    /// The action's name.
    pub action: String,
    /// Without its namespace.
    pub resource: String,
}

impl Environment {
    pub(crate) fn of(env: &RequestEnv) -> Self {
        let short = |name: &cedar_policy::EntityTypeName| name.basename().to_owned();
        Self {
            principal: short(env.principal()),
            action: env.action().id().unescaped().to_owned(),
            resource: short(env.resource()),
        }
    }
}

impl fmt::Display for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` by a {} on a {}", self.action, self.principal, self.resource)
    }
}

/// Policies by environment, under one schema.
pub(crate) struct Sorted {
    /// Every policy, the kernel's among them.
    pub(crate) policies: PolicySet,
    by_environment: BTreeMap<Environment, PolicySet>,
}

/// What is made of policies that are judged and not enforced until an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shadowed {
    /// What could be allowed from now on: their permits count, as they will; their forbids do not, as they do not yet.
    MostAllowed,
    /// None of them counts, as now.
    LeftOut,
}

impl Sorted {
    /// Sorts a snapshot's policies under a schema that all of them fit. One whose shadow is over is enforced.
    pub(crate) fn new(
        snapshot: &PolicySnapshot,
        schema: &Schema,
        shadowed: Shadowed,
        now: Timestamp,
    ) -> Result<Self, SubjectError> {
        let mut sorted = Self { policies: PolicySet::new(), by_environment: BTreeMap::new() };
        let wrong = |error: cedar_policy::PolicySetError| SubjectError::Unchecked(error.to_string());
        for prepared in snapshot.policies() {
            let counts = shadowed == Shadowed::MostAllowed && !prepared.forbids;
            if prepared.in_shadow(now) && !counts {
                continue;
            }
            let policy = prepared.cedar();
            sorted.policies.add(policy.clone()).map_err(wrong)?;
            let environments: BTreeSet<Environment> =
                policy.get_valid_request_envs(schema).map(|env| Environment::of(&env)).collect();
            for environment in environments {
                sorted.by_environment.entry(environment).or_default().add(policy.clone()).map_err(wrong)?;
            }
        }
        Ok(sorted)
    }

    /// The policies that can apply.
    pub(crate) fn of(&self, environment: &Environment) -> Option<&PolicySet> {
        self.by_environment.get(environment)
    }

    /// The policies that can apply, if one of them permits.
    pub(crate) fn permitting(&self, environment: &Environment) -> Option<&PolicySet> {
        self.of(environment).filter(|set| set.policies().any(permits))
    }
}

fn permits(policy: &Policy) -> bool {
    policy.effect() == Effect::Permit
}

/// The additions of a bundle, as one text each.
pub(crate) fn additions(files: &Files) -> BTreeSet<&str> {
    files.of(FileKind::Schema).map(|(_, text)| &**text).collect()
}

/// A schema from the program's text and the additions of bundles.
pub(crate) fn schema(text: &str, additions: &BTreeSet<&str>) -> Result<Schema, SubjectError> {
    let fragment = |text: &str| match SchemaFragment::from_cedarschema_str(text) {
        Ok((fragment, _)) => Ok(fragment),
        Err(error) => Err(SubjectError::Schemas(error.to_string())),
    };
    let fragments = std::iter::once(text).chain(additions.iter().copied()).map(fragment);
    let fragments = fragments.collect::<Result<Vec<SchemaFragment>, _>>()?;
    Schema::from_schema_fragments(fragments).map_err(|error| SubjectError::Schemas(error.to_string()))
}
