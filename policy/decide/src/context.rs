//! The context of a question as Cedar sees it. Internal.
//!
//! Rules and counters that the snapshot does not know are left out: no policy can name them. Read next: `decide`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use cedar_policy_core::ast::{Context, Value};
use countersign_gateway_model::Name;

use crate::counters;
use crate::question::{Question, assurance_name};
use crate::reference::{enum_uid, well_known};
use crate::snapshot::PolicySnapshot;
use crate::standing::{CounterNow, Standing, standing};
use crate::value;

/// Why a question has no context, in words.
pub(crate) type Unfit = String;

fn rule_set(snapshot: &PolicySnapshot, rules: &BTreeSet<Name>) -> Value {
    value::set(rules.iter().filter_map(|rule| snapshot.rule_uid(rule)).map(|uid| value::entity(Arc::clone(uid))))
}

fn texts<'a>(texts: impl IntoIterator<Item = &'a str>) -> Value {
    value::set(texts.into_iter().map(value::string))
}

fn assurance(question: &Question) -> (Value, Value) {
    static MEMBERS: LazyLock<BTreeMap<&'static str, Value>> = LazyLock::new(|| {
        ["demo", "secret", "password", "mfa"]
            .into_iter()
            .map(|name| (name, value::entity(enum_uid("Assurance", &well_known(name)))))
            .collect()
    });
    let (name, level) = assurance_name(question.assurance);
    let member = MEMBERS.get(name).cloned().unwrap_or_else(|| value::entity(enum_uid("Assurance", &well_known(name))));
    (member, Value::from(level))
}

/// The context, with `satisfied` as it stands in this round.
pub(crate) fn context(
    snapshot: &PolicySnapshot,
    question: &Question,
    satisfied: &BTreeSet<Name>,
) -> Result<Context, Unfit> {
    let mut pairs: Vec<(&'static str, Value)> = Vec::with_capacity(24);
    let (member, level) = assurance(question);
    let standing = standing(snapshot.counters(), question).map_err(|error| error.to_string())?;
    // In the order of the names, so that the map is built without sorting.
    pairs.push((
        "advisory",
        texts(standing.counters.iter().filter(|c| c.taken.is_none() || question.unreserved).map(|c| c.name.as_str())),
    ));
    pairs.push(("after", decimals(&standing, CounterNow::after)?));
    pairs.push(("applied", texts(question.input.iter().flat_map(|input| input.applied()).map(Name::as_str))));
    pairs.push(("asDelegator", Value::from(question.as_delegator)));
    pairs.push(("asserted", Value::from(question.asserted)));
    pairs.push(("assurance", member));
    pairs.push(("assuranceLevel", level));
    if let Some(at) = question.authenticated_at {
        pairs.push(("authenticatedAt", value::datetime(at).ok_or("`authenticated_at` lies beyond a datetime")?));
    }
    pairs.push(("claims", texts(question.claims.iter().map(String::as_str))));
    pairs.push(("counters", decimals(&standing, |counter| counter.before)?));
    pairs.push(("delegated", Value::from(question.delegated)));
    pairs.push(("denials", Value::from(i64::try_from(question.denials).unwrap_or(i64::MAX))));
    pairs.push(("facts", facts(question, &standing)));
    pairs.push(("fourEyes", Value::from(question.four_eyes)));
    pairs.push(("granted", rule_set(snapshot, &question.granted)));
    if let Some(input) = &question.input {
        pairs.push(("input", input.record().clone()));
    }
    if let Some(instance) = &question.instance {
        pairs.push(("instance", value::entity(instance.uid())));
    }
    pairs.push(("now", value::datetime(question.now).ok_or("`now` lies beyond what a datetime holds")?));
    pairs.push(("opaque", texts(question.input.iter().flat_map(|input| input.opaque()).map(String::as_str))));
    pairs.push(("overridden", rule_set(snapshot, &question.overridden)));
    if let Some(revision) = &question.revision {
        pairs.push(("revision", value::string(revision)));
    }
    if let Some(role) = &question.role
        && snapshot.roles().contains(role)
    {
        pairs.push(("role", value::entity(enum_uid("Role", role))));
    }
    pairs.push(("satisfied", rule_set(snapshot, satisfied)));
    pairs.push(("scopes", texts(question.scopes.iter().copied())));
    if let Some(person) = &question.standing_in_for {
        pairs.push(("standingInFor", value::entity(person.uid())));
    }
    Ok(Context::Value(Arc::new(pairs.into_iter().map(|(k, v)| (k.into(), v)).collect())))
}

/// The same context in a later round.
pub(crate) fn satisfy(context: &mut Context, snapshot: &PolicySnapshot, satisfied: &BTreeSet<Name>) {
    if let Context::Value(members) = context {
        Arc::make_mut(members).insert("satisfied".into(), rule_set(snapshot, satisfied));
    }
}

/// Counters as Cedar reads them; every one that the bundle names is there.
fn decimals(standing: &Standing, of: impl Fn(&CounterNow) -> i128) -> Result<Value, Unfit> {
    static NONE: LazyLock<Value> = LazyLock::new(|| value::record([]));
    if standing.counters.is_empty() {
        return Ok(NONE.clone());
    }
    let mut pairs = Vec::with_capacity(standing.counters.len());
    for counter in &standing.counters {
        let decimal = value::decimal(&counters::decimal(of(counter)))
            .ok_or_else(|| format!("counter `{}` lies beyond what a decimal holds", counter.name))?;
        pairs.push((counter.name.as_str().to_owned(), decimal));
    }
    Ok(value::record(pairs))
}

/// What is known of the question, what masks and detectors say of its input, and which limits it exceeds.
fn facts(question: &Question, standing: &Standing) -> Value {
    let of_input = question.input.iter().flat_map(|input| input.masked().iter().chain(input.detected()));
    let over =
        standing.counters.iter().filter(|counter| counter.over).map(|c| value::string(format!("over:{}", c.name)));
    value::set(question.facts.iter().chain(of_input).map(|name| value::string(name.as_str())).chain(over))
}
