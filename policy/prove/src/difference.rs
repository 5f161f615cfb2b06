//! What a second bundle newly allows, and what it newly denies, each with a request that shows it.
//!
//! Both are read under one schema that knows the roles, rules, counters and tools of either. Policies alone are compared:
//! where what they are asked about differs (masks, detectors, counters, ages, the order of transforms, what a tool is),
//! nothing is proved; where only the input of a tool differs, nothing about that tool. Neither are policies in shadow: both bundles are compared as
//! they are enforced now, and the ids are named. "Denied" includes "denied until a person agrees"; the
//! example says which. Absent: words about text (`countersign_policy_bundle::diff`). Read next: `reach`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use cedar_policy::{PolicyId, RequestEnv, Schema};
use cedar_policy_symcc::CompiledPolicySet;
use countersign_policy_bundle::{FileKind, Files, Name, Timestamp};
use countersign_policy_decide::catalogue::{CompiledTool, Tool};
use countersign_policy_decide::schema;
use serde::Serialize;

use crate::example::{Example, Judgement, judge};
use crate::prover::{Doubt, Prover, with_prover};
use crate::solver::Solver;
use crate::subject::{Environment, Shadowed, Sorted, Subject, SubjectError, additions};

/// A request that the two bundles judge differently.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// What kind of request.
    pub environment: Environment,
    /// Such a request, judged by the second bundle.
    pub example: Example,
    /// What the first bundle says to it.
    pub before: Judgement,
}

/// How two bundles differ.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Difference {
    /// Denied, or denied until a person agrees, by the first; allowed by the second. A weakening.
    pub newly_allowed: Vec<Change>,
    /// Allowed by the first; denied, or denied until a person agrees, by the second.
    pub newly_denied: Vec<Change>,
    /// Kinds of requests that both judge alike, proved.
    pub alike: usize,
    /// Kinds of requests of which nobody knows, and why.
    pub not_proved: Vec<(Environment, Doubt)>,
    /// Policies of the second bundle that are in shadow, and were left out.
    pub shadowed: Vec<String>,
}

impl Difference {
    /// Whether it is proved that the second bundle allows nothing that the first does not, as it is enforced now.
    pub fn allows_nothing_more(&self) -> bool {
        self.newly_allowed.is_empty() && self.not_proved.is_empty()
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (before, after) = (self.before.words(), self.example.judgement.words());
        write!(f, "{}: {}; before it was {before}, now it is {after}", self.environment, self.example.words)
    }
}

/// Compares two bundles of one organization, as they are enforced at `now`.
pub fn compare(
    old: Subject<'_>,
    new: Subject<'_>,
    now: Timestamp,
    solver: Option<&Solver>,
) -> Result<Difference, SubjectError> {
    with_prover(solver, async |prover| {
        let (schema, changed) = shared_schema(old, new)?;
        let asked_otherwise = asked_otherwise(old, new);
        let before = Sorted::new(old.snapshot, &schema, Shadowed::LeftOut, now)?;
        let after = Sorted::new(new.snapshot, &schema, Shadowed::LeftOut, now)?;
        let in_shadow = new.snapshot.policies().iter().filter(|policy| policy.in_shadow(now));
        let shadowed = in_shadow.map(|policy| policy.id.to_string()).collect();
        let mut difference = Difference { shadowed, ..Difference::default() };
        let mut prover = prover;
        for env in schema.request_envs() {
            let environment = Environment::of(&env);
            let only_here = "the tool is not defined alike in the two catalogues";
            let unlike = asked_otherwise.or(changed.contains(&environment.action).then_some(only_here));
            if let Some(reason) = unlike {
                difference.not_proved.push((environment, Doubt::Unsupported { reason: reason.to_owned() }));
                continue;
            }
            let found = match &mut prover {
                Ok(prover) => one(&before, &after, &schema, &env, prover).await,
                Err(doubt) => Err(doubt.clone()),
            };
            match found {
                Ok((None, None)) => difference.alike += 1,
                Ok((allowed, denied)) => {
                    difference.newly_allowed.extend(allowed);
                    difference.newly_denied.extend(denied);
                }
                Err(doubt) => difference.not_proved.push((environment, doubt)),
            }
        }
        Ok(difference)
    })?
}

/// Why the same request may reach the policies of the two with other facts: then alike policies decide otherwise.
fn asked_otherwise(old: Subject<'_>, new: Subject<'_>) -> Option<&'static str> {
    let data = [
        (FileKind::Masks, "the masks of the two differ, so that policies see other inputs"),
        (FileKind::Detectors, "the detectors of the two differ, so that policies see other facts"),
        (FileKind::Counters, "the counters of the two differ, so that policies see other counts"),
        (FileKind::Ages, "the ages of the two differ, so that other facts are too old"),
    ];
    for (kind, reason) in data {
        if json(old.files, kind) != json(new.files, kind) {
            return Some(reason);
        }
    }
    if old.settings.transforms != new.settings.transforms || transforms(old) != transforms(new) {
        return Some("the transforms of the two differ, so that inputs are changed otherwise");
    }
    let others = |tool: &CompiledTool| Tool {
        input: serde_json::Value::Null,
        output: None,
        description: String::new(),
        ..tool.tool.clone()
    };
    let differs = |tool: &Arc<CompiledTool>| {
        new.snapshot.tool(tool.tool.name.as_str()).is_some_and(|other| others(other) != others(tool))
    };
    old.snapshot
        .tools()
        .any(differs)
        .then_some("the risk, data, scopes or runner of a tool differ in the two catalogues, which any policy may read")
}

/// The data of a bundle, whatever its layout.
fn json(files: &Files, kind: FileKind) -> Vec<Result<serde_json::Value, &str>> {
    files.of(kind).map(|(_, text)| serde_json::from_str(text).map_err(|_| &**text)).collect()
}

/// Which policies are lifted by a change of the input, and by which.
fn transforms(side: Subject<'_>) -> BTreeMap<&Name, &Name> {
    let policies = side.snapshot.policies().iter();
    policies.filter_map(|policy| Some((&policy.id, policy.transform.as_ref()?))).collect()
}

/// A schema that both fit, and the actions of tools that are defined differently.
fn shared_schema(old: Subject<'_>, new: Subject<'_>) -> Result<(Schema, BTreeSet<String>), SubjectError> {
    let both = [old, new];
    let mut tools: BTreeMap<_, Arc<CompiledTool>> = BTreeMap::new();
    let mut changed = BTreeSet::new();
    for tool in both.iter().flat_map(|side| side.snapshot.tools()) {
        let other = tools.insert(tool.tool.name.clone(), Arc::clone(tool));
        if let Some(other) = other.filter(|other| other.shape != tool.shape || !same_action(other, tool)) {
            changed.extend([schema::tool_action(&other), schema::tool_action(tool)]);
        }
    }
    // A tool of one catalogue alone cannot be called under the other, whatever its policies permit.
    let both_have = |name: &Name| both.iter().all(|side| side.snapshot.tool(name.as_str()).is_some());
    changed.extend(tools.values().filter(|tool| !both_have(&tool.tool.name)).map(|tool| schema::tool_action(tool)));
    let roles = both.iter().flat_map(|side| side.snapshot.roles()).cloned().collect();
    let rules = both.iter().flat_map(|side| side.snapshot.rules().rules.keys()).cloned().collect();
    let counters = both.iter().flat_map(|side| side.snapshot.counters().keys()).cloned().collect();
    let text = schema::effective(&roles, &rules, &counters, &tools);
    let additions = both.iter().flat_map(|side| additions(side.files)).collect();
    Ok((crate::subject::schema(&text, &additions)?, changed))
}

fn same_action(one: &CompiledTool, other: &CompiledTool) -> bool {
    schema::tool_action(one) == schema::tool_action(other)
}

type Found = (Option<Change>, Option<Change>);

async fn one(
    before: &Sorted,
    after: &Sorted,
    schema: &Schema,
    env: &RequestEnv,
    prover: &mut Prover,
) -> Result<Found, Doubt> {
    let environment = Environment::of(env);
    if before.permitting(&environment).is_none() && after.permitting(&environment).is_none() {
        return Ok((None, None));
    }
    if same(before, after, &environment) {
        return Ok((None, None));
    }
    prover.ready()?;
    let compile = |sorted: &Sorted| {
        let none = cedar_policy::PolicySet::new();
        CompiledPolicySet::compile(sorted.of(&environment).unwrap_or(&none), env, schema)
            .map_err(|error| Doubt::Unsupported { reason: error.to_string() })
    };
    let (old, new) = (compile(before)?, compile(after)?);
    let more = prover.ask(async |c| c.check_implies_with_counterexample_opt(&new, &old).await).await?;
    let less = prover.ask(async |c| c.check_implies_with_counterexample_opt(&old, &new).await).await?;
    let change = |found: Option<cedar_policy_symcc::Env>, allows: bool| {
        let Some(found) = found else { return Ok(None) };
        let (was, is) = (judge(&found, &before.policies), judge(&found, &after.policies));
        if is.allowed != allows || was.allowed == allows {
            let reason = format!("before it is {}, now it is {}", was.words(), is.words());
            return Err(Doubt::ExampleFails { reason });
        }
        let ids: BTreeSet<&String> = was.determining.iter().chain(&is.determining).collect();
        let in_play = ids.into_iter().map(PolicyId::new);
        let in_play: Vec<_> =
            in_play.flat_map(|id| [before.policies.policy(&id), after.policies.policy(&id)]).flatten().collect();
        let example = Example::new(&found, schema, in_play, is.clone());
        Ok(Some(Change { environment: environment.clone(), example, before: was }))
    };
    Ok((change(more, true)?, change(less, false)?))
}

/// Whether the same policies apply: then nothing differs, and nobody need be asked.
fn same(before: &Sorted, after: &Sorted, environment: &Environment) -> bool {
    let texts = |sorted: &Sorted| -> BTreeSet<String> {
        let policies = sorted.of(environment).into_iter().flat_map(cedar_policy::PolicySet::policies);
        policies
            .map(|policy| policy.to_json().map_or_else(|_| policy.to_string(), |json| decides(json).to_string()))
            .collect()
    };
    texts(before) == texts(after)
}

/// What of a policy decides: its annotations do not.
fn decides(mut json: serde_json::Value) -> serde_json::Value {
    if let Some(map) = json.as_object_mut() {
        map.remove("annotations");
    }
    json
}
