//! A request that the solver found, in words and as JSON, with what Cedar makes of it.
//!
//! The words name what the policies in play look at and nothing else: a solver fills in the rest as it likes. Absent:
//! finding it (`prover`). Read next: `invariant`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::str::FromStr;

use cedar_policy::{
    Authorizer, Decision, Effect, EntityUid, EvalResult, Expression, Policy, PolicySet, Schema, eval_expression,
};
use cedar_policy_symcc::Env;
use serde::Serialize;
use serde_json::{Value, json};

/// What Cedar says to a request, and because of which policies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Judgement {
    /// Allowed, with nothing left to ask and nothing failing.
    pub allowed: bool,
    /// Ids of the policies that determined it.
    pub determining: Vec<String>,
    /// Approval rules that would have to be met first, where nothing else stands in the way.
    pub asks_for: BTreeSet<String>,
    /// Ids of forbids that fail on it; the gateway then denies.
    pub failing: Vec<String>,
}

/// A concrete request.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Example {
    /// In one sentence: who asks for what, and what the policies in play look at.
    pub words: String,
    /// `asked`, `op`, `resource`, `context` and the `entities` it takes, in Cedar's JSON forms.
    pub question: Value,
    /// How it was judged.
    pub judgement: Judgement,
}

/// Asks Cedar itself.
pub(crate) fn judge(env: &Env, policies: &PolicySet) -> Judgement {
    let response = Authorizer::new().is_authorized(&env.request, policies, &env.entities);
    let policy = |id| policies.policy(id);
    let reasons: Vec<&Policy> = response.diagnostics().reason().filter_map(policy).collect();
    let failing = response.diagnostics().errors().filter_map(|error| match error {
        cedar_policy::AuthorizationError::PolicyEvaluationError(e) => policy(e.policy_id()),
    });
    let mut failing: Vec<String> =
        failing.filter(|p| p.effect() == Effect::Forbid).map(|p| p.id().to_string()).collect();
    failing.sort();
    let mut determining: Vec<String> = reasons.iter().map(|p| p.id().to_string()).collect();
    determining.sort();
    let allowed = response.decision() == Decision::Allow;
    // The gateway changes the input itself where a transform is missing; that is nobody's to approve.
    let obstacles = reasons.iter().filter(|p| !allowed && p.annotation("transform").is_none());
    let rules = obstacles.map(|p| p.annotation("requires_approval").map(str::to_owned));
    let asks_for = rules.collect::<Option<BTreeSet<String>>>().unwrap_or_default();
    Judgement { allowed: allowed && failing.is_empty(), determining, asks_for, failing }
}

impl Judgement {
    /// In words.
    pub(crate) fn words(&self) -> String {
        let list =
            |ids: &mut dyn Iterator<Item = &String>| ids.map(|id| format!("`{id}`")).collect::<Vec<_>>().join(", ");
        match self {
            Self { failing, .. } if !failing.is_empty() => {
                format!("denied, because {} fails", list(&mut failing.iter()))
            }
            Self { allowed: true, determining, .. } => format!("allowed by {}", list(&mut determining.iter())),
            Self { asks_for, .. } if !asks_for.is_empty() => {
                format!("denied until {} is met", list(&mut asks_for.iter()))
            }
            Self { determining, .. } if determining.is_empty() => "denied, as nothing permits it".to_owned(),
            Self { determining, .. } => format!("denied by {}", list(&mut determining.iter())),
        }
    }
}

impl Example {
    /// `in_play`: the policies whose reading is worth telling.
    pub(crate) fn new<'p>(
        env: &Env,
        schema: &Schema,
        in_play: impl IntoIterator<Item = &'p Policy>,
        judgement: Judgement,
    ) -> Self {
        let mut paths = BTreeSet::new();
        for policy in in_play {
            for condition in policy.to_json().ok().iter().filter_map(|json| json.get("conditions")) {
                read_paths(condition, &mut paths);
            }
        }
        let mut facts = Vec::new();
        for path in &paths {
            let value =
                Expression::from_str(path).ok().and_then(|e| eval_expression(&env.request, &env.entities, &e).ok());
            if let Some(value) = value {
                facts.push(format!("{path} is {}", shown(&value)));
            }
        }
        let mut words = format!(
            "{} asks for `{}` on {}",
            env.request.principal().map(name).unwrap_or_default(),
            env.request.action().map(|a| a.id().unescaped().to_owned()).unwrap_or_default(),
            env.request.resource().map(name).unwrap_or_default(),
        );
        for (i, fact) in facts.iter().enumerate() {
            let _ = write!(words, "{} {fact}", if i == 0 { ", where" } else { "," });
        }
        Self { words, question: question(env, schema), judgement }
    }
}

fn name(uid: &EntityUid) -> String {
    format!("{}::{:?}", uid.type_name().basename(), uid.id().unescaped())
}

fn question(env: &Env, schema: &Schema) -> Value {
    let request = &env.request;
    let uid = |uid: Option<&EntityUid>| uid.map_or(Value::Null, |uid| json!(name(uid)));
    let context = request.context().and_then(|context| context.to_json_value().ok()).unwrap_or(Value::Null);
    // Tools and rules come from data; what is left out is what the schema says by itself.
    let actions: BTreeSet<EntityUid> = schema.actions().cloned().collect();
    let entities = env.entities.iter().filter(|entity| !actions.contains(&entity.uid()));
    let mut by_name: BTreeMap<String, Value> = BTreeMap::new();
    for entity in entities {
        if let Ok(json) = entity.to_json_value() {
            by_name.insert(name(&entity.uid()), json);
        }
    }
    json!({
        "asked": uid(request.principal()),
        "op": request.action().map(|action| action.id().unescaped().to_owned()),
        "resource": uid(request.resource()),
        "context": context,
        "entities": by_name.into_values().collect::<Vec<_>>(),
    })
}

/// The attribute paths that an expression reads, as Cedar writes them; of nested ones the longest.
fn read_paths(expression: &Value, found: &mut BTreeSet<String>) {
    if let Some(path) = path_of(expression) {
        if path.contains('.') {
            found.insert(path);
        }
        return;
    }
    match expression {
        Value::Object(map) => {
            for (key, value) in map {
                // A literal's content is data.
                if key != "Value" {
                    read_paths(value, found);
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| read_paths(item, found)),
        _ => {}
    }
}

/// `principal.a.b`, if the expression is that.
fn path_of(expression: &Value) -> Option<String> {
    if let Some(var) = expression.get("Var").and_then(Value::as_str) {
        return Some(var.to_owned());
    }
    let access = expression.get(".")?;
    let attr = access.get("attr").and_then(Value::as_str)?;
    let plain = attr.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let base = path_of(access.get("left")?)?;
    Some(if plain { format!("{base}.{attr}") } else { format!("{base}[{attr:?}]") })
}

fn shown(value: &EvalResult) -> String {
    match value {
        EvalResult::EntityUid(uid) => name(uid),
        EvalResult::Set(set) => {
            let mut members: Vec<String> = set.iter().map(shown).collect();
            members.sort();
            if members.is_empty() { "empty".to_owned() } else { format!("[{}]", members.join(", ")) }
        }
        EvalResult::Record(record) => {
            let fields: Vec<String> = record.iter().map(|(key, value)| format!("{key}: {}", shown(value))).collect();
            format!("{{{}}}", fields.join(", "))
        }
        EvalResult::String(text) => format!("{text:?}"),
        EvalResult::Bool(truth) => truth.to_string(),
        EvalResult::Long(number) => number.to_string(),
        EvalResult::ExtensionValue(text) => text.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_paths_are_told_and_literals_are_not() {
        let text = r#"permit(principal, action, resource) when {
            principal.owner.active && context.input["a b"] > 3 && "context.x" == resource.id && context has instance
            && principal == resource };"#;
        let policy = Policy::from_str(text).unwrap();
        let mut paths = BTreeSet::new();
        read_paths(policy.to_json().unwrap().get("conditions").unwrap(), &mut paths);
        let expected = ["context.input[\"a b\"]", "principal.owner.active", "resource.id"];
        assert_eq!(paths.into_iter().collect::<Vec<_>>(), expected);
    }
}
