//! From Cedar text to prepared policies: parsed, named, their gates checked, and validated strictly. Internal.
//!
//! This is the only place where Cedar text is parsed. Absent: the schema they are held against (`schema`), the groups
//! they are found by (`index`). Read next: `gate`, `snapshot`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::str::FromStr;
use std::sync::Arc;

use cedar_policy::{Effect, Policy, PolicyId, PolicySet, Schema, ValidationMode, Validator};
use cedar_policy_core::ast::Policy as CorePolicy;
use countersign_gateway_model::{Digest, Name, OrgId, Timestamp};

use crate::alike;
use crate::clauses;
use crate::gate::{self, Known};
use crate::literal::entity_literals;
use crate::parts::{BuildError, Place, line_starts};
use crate::prepared::Prepared;
use crate::schema;

/// How deep attribute access may go in a policy (Cedar's level); slices are closed to it.
pub const LEVEL: u32 = 2;

/// Policies as they are loaded, file by file.
pub(crate) struct Loading<'p> {
    pub(crate) prepared: Vec<Arc<Prepared>>,
    pub(crate) set: PolicySet,
    pub(crate) places: HashMap<String, Place>,
    /// What strict validation can tell apart, as digests: texts of ten thousand policies are megabytes.
    pub(crate) forms: HashMap<PolicyId, Digest>,
    org: OrgId,
    shadow: &'p BTreeMap<Name, Timestamp>,
}

impl<'p> Loading<'p> {
    pub(crate) fn new(org: OrgId, shadow: &'p BTreeMap<Name, Timestamp>) -> Self {
        let (places, forms) = (HashMap::new(), HashMap::new());
        Self { prepared: Vec::new(), set: PolicySet::new(), places, forms, org, shadow }
    }

    /// Adds a file's policies; only the program's own may have the program's ids.
    pub(crate) fn load(&mut self, file: &str, text: &str, kernel: bool, known: &Known<'_>) -> Result<(), BuildError> {
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
            let json = policy.to_json().map_err(|error| {
                let problem = format!("it has no json form ({error}); rewrite it");
                BuildError::Gate { place: place.clone(), id: id.clone(), problem }
            })?;
            let misnamed = entity_literals(&json).iter().find_map(|literal| literal.misnamed(self.org));
            if let Some((text, next)) = misnamed {
                return Err(BuildError::ForeignEntity { place, id, problem: format!("{text}; {next}") });
            }
            self.forms.insert(policy.id().clone(), alike::form(&json));
            let lift = gate::check(&policy, &json, known).map_err(|problem| BuildError::Gate {
                place: place.clone(),
                id: id.clone(),
                problem,
            })?;
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

/// Validates strictly, to [`LEVEL`]: a warning is an error. Of policies that strict validation cannot tell apart one is asked.
pub(crate) fn validate(
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
