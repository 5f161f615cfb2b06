//! One policy, ready to be evaluated.
//!
//! Absent: parsing it (`loading`), finding it for a question (`index`). Read next: `decide`.

use cedar_policy::Policy;
use cedar_policy_core::ast::{Expr, Policy as CorePolicy};
use countersign_gateway_model::{Name, Timestamp};

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
    pub(crate) policy: Policy,
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
