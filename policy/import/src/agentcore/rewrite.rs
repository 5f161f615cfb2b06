//! Conditions of the source said in this program's terms: exactly, or on the safe side.
//!
//! Each part is said exactly or not at all. What cannot be said becomes `true` where the whole may only grow, and
//! `false` where it may only shrink; the direction turns at each `!`. Absent: scopes of actions. Read next: `super`.

use std::collections::BTreeSet;

use countersign_policy_bundle::Name;
use serde_json::Value;

use super::tools::{Inputs, Kind, input_path, is_input};
use super::{Caller, PRINCIPALS, Whole};
use crate::Options;
use crate::cedar;

/// Claims that say which scopes a credential has.
const SCOPE_TAGS: [&str; 2] = ["scope", "scp"];
/// Claims that say which roles a person has.
const ROLE_TAGS: [&str; 5] = ["role", "roles", "group", "groups", "cognito:groups"];

pub(super) struct Rewriting<'a> {
    options: &'a Options,
    inputs: &'a Inputs,
    /// The tools that the policy names; none where it is about all of them.
    tools: Option<&'a BTreeSet<Name>>,
    /// The types of principals that the source asks for.
    kinds: &'a BTreeSet<String>,
    /// What could not be said.
    pub(super) problems: Vec<String>,
    /// What was said under a reading.
    pub(super) readings: BTreeSet<String>,
    /// Roles that are named.
    pub(super) roles: BTreeSet<Name>,
    /// Scopes that are named.
    pub(super) scopes: BTreeSet<Name>,
}

/// The opposite.
pub(super) fn negated(text: &str) -> String {
    match text {
        "true" => "false".to_owned(),
        "false" => "true".to_owned(),
        other => format!("!({other})"),
    }
}

fn joined(parts: Vec<String>, neutral: &str, absorbing: &str, by: fn(&[String]) -> String) -> String {
    if parts.iter().any(|part| part == absorbing) {
        return absorbing.to_owned();
    }
    let rest: Vec<String> = parts.into_iter().filter(|part| part != neutral).collect();
    if rest.is_empty() { neutral.to_owned() } else { by(&rest) }
}

fn all(parts: Vec<String>) -> String {
    joined(parts, "true", "false", cedar::all)
}

fn any(parts: Vec<String>) -> String {
    joined(parts, "false", "true", cedar::any)
}

/// Both sides of an operator.
fn sides<'v>(expression: &'v Value, operator: &str) -> Option<(&'v Value, &'v Value)> {
    let operands = expression.get(operator)?;
    Some((operands.get("left")?, operands.get("right")?))
}

/// The operands of a chain of one operator.
fn chain<'v>(expression: &'v Value, operator: &str, found: &mut Vec<&'v Value>) {
    match sides(expression, operator) {
        Some((left, right)) => {
            chain(left, operator, found);
            chain(right, operator, found);
        }
        None => found.push(expression),
    }
}

fn is_principal(expression: &Value) -> bool {
    expression.get("Var").and_then(Value::as_str) == Some("principal")
}

fn text_of(expression: &Value) -> Option<&str> {
    expression.get("Value").and_then(Value::as_str)
}

/// The key of `principal.hasTag("key")` or `principal.getTag("key")`.
fn tag_key<'v>(expression: &'v Value, operator: &str) -> Option<&'v str> {
    let (left, right) = sides(expression, operator)?;
    is_principal(left).then(|| text_of(right)).flatten()
}

/// Whether it can hold only where the principal has the tag.
fn implies_tag(expression: &Value, key: &str) -> bool {
    let operands = |operator| {
        let mut found = Vec::new();
        chain(expression, operator, &mut found);
        found
    };
    let (ands, ors) = (operands("&&"), operands("||"));
    if ands.len() > 1 {
        return ands.iter().any(|part| implies_tag(part, key));
    }
    if ors.len() > 1 {
        return ors.iter().all(|part| implies_tag(part, key));
    }
    let compared = ["==", "like"].iter().filter_map(|operator| expression.get(*operator));
    compared.filter_map(|operands| operands.get("left")).any(|left| tag_key(left, "getTag") == Some(key))
}

impl<'a> Rewriting<'a> {
    pub(super) fn new(whole: &Whole<'a>, tools: Option<&'a BTreeSet<Name>>) -> Self {
        Self {
            options: whole.options,
            inputs: whole.inputs,
            tools,
            kinds: whole.kinds,
            problems: Vec::new(),
            readings: BTreeSet::new(),
            roles: BTreeSet::new(),
            scopes: BTreeSet::new(),
        }
    }

    fn unsaid(&mut self, problem: String, grows: bool) -> String {
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
        grows.to_string()
    }

    /// The scope of the principal, as conditions.
    pub(super) fn principal(&mut self, scope: &Value, permits: bool) -> Vec<String> {
        let within = scope.get("in").and_then(|within| within.get("entity"));
        let entity = scope.get("entity").or(within);
        let named = scope.get("op").and_then(Value::as_str);
        match (named, entity) {
            (Some("All"), None) => Vec::new(),
            (Some("is"), None) => {
                let kind = scope.get("entity_type").and_then(Value::as_str).unwrap_or_default();
                self.kind(kind).map_or_else(|problem| vec![self.unsaid(problem, !permits)], |()| Vec::new())
            }
            (Some("=="), Some(uid)) => {
                vec![self.entity(uid, !permits)]
            }
            _ => vec![self.unsaid("a group of principals has no counterpart".to_owned(), !permits)],
        }
    }

    /// Whether the principal is of a type of the source. Every caller here is of one kind, which can stand for one of
    /// them; where the source tells them apart, nobody knows which.
    fn kind(&mut self, kind: &str) -> Result<(), String> {
        if !PRINCIPALS.contains(&kind) {
            return Err(format!("no caller here is a `{}`", kind.escape_debug()));
        }
        if self.kinds.len() > 1 {
            return Err(format!("the source tells `{kind}` from other callers, and here all are of one kind"));
        }
        self.readings.insert(format!("every caller is read as a `{kind}`"));
        Ok(())
    }

    /// One principal by its type and id.
    fn entity(&mut self, uid: &Value, grows: bool) -> String {
        let part = |name| uid.get(name).and_then(Value::as_str).unwrap_or_default();
        match self.kind(part("type")) {
            Ok(()) => self.named(part("id"), grows),
            Err(problem) => self.unsaid(problem, grows),
        }
    }

    fn named(&mut self, id: &str, grows: bool) -> String {
        self.one_principal(id).unwrap_or_else(|problem| self.unsaid(problem, grows))
    }

    /// One principal by its id, which begins with the organization here.
    fn one_principal(&self, id: &str) -> Result<String, String> {
        let organization = self.options.organization.ok_or_else(|| {
            format!("principal `{}` can be named only if the organization is known", id.escape_debug())
        })?;
        Name::new(id).map_err(|_| format!("principal `{}` cannot be the id of anyone here", id.escape_debug()))?;
        let ty = match self.options.caller {
            Caller::Agent => "Agent",
            Caller::Person => "Person",
        };
        Ok(format!("principal == {}", cedar::entity(ty, &format!("{organization}/{id}"))))
    }

    /// A condition. `grows`: what cannot be said is taken to hold.
    pub(super) fn condition(&mut self, expression: &Value, grows: bool) -> String {
        let operands = |operator: &str| {
            let mut found = Vec::new();
            chain(expression, operator, &mut found);
            (found.len() > 1).then_some(found)
        };
        if let Some(parts) = operands("&&") {
            let implied = |part: &Value| {
                tag_key(part, "hasTag").is_some_and(|key| parts.iter().any(|other| implies_tag(other, key)))
            };
            let needed: Vec<&Value> = parts.iter().copied().filter(|part| !implied(part)).collect();
            return all(needed.into_iter().map(|part| self.condition(part, grows)).collect());
        }
        if let Some(parts) = operands("||") {
            if of_every_kind(&parts) {
                return "true".to_owned();
            }
            return any(parts.into_iter().map(|part| self.condition(part, grows)).collect());
        }
        if let Some(inner) = expression.get("!").and_then(|operand| operand.get("arg")) {
            return negated(&self.condition(inner, !grows));
        }
        if let Some(truth) = expression.get("Value").and_then(Value::as_bool) {
            return truth.to_string();
        }
        if let Some(kind) = principal_type(expression) {
            return match self.kind(kind) {
                Ok(()) => "true".to_owned(),
                Err(problem) => self.unsaid(problem, grows),
            };
        }
        let found = self.about_principal(expression, grows);
        let found = found.or_else(|| self.about_number(expression, grows)).or_else(|| self.exact(expression));
        found.unwrap_or_else(|| {
            let text = cedar_text(expression);
            self.unsaid(format!("`{text}` cannot be said here"), grows)
        })
    }

    /// What is asked of the principal and its claims.
    fn about_principal(&mut self, expression: &Value, grows: bool) -> Option<String> {
        if let Some(key) = tag_key(expression, "hasTag") {
            let scoped = self.options.caller == Caller::Agent && SCOPE_TAGS.contains(&key);
            return scoped.then(|| "!principal.scopes.isEmpty()".to_owned());
        }
        if let Some((left, right)) = sides(expression, "==") {
            if is_principal(left) {
                return Some(self.entity(right.get("Value")?.get("__entity")?, grows));
            }
            let own_id = left.get(".").is_some_and(|access| {
                access.get("left").is_some_and(is_principal) && access.get("attr").and_then(Value::as_str) == Some("id")
            });
            if own_id {
                return Some(self.named(text_of(right)?, grows));
            }
            let key = tag_key(left, "getTag")?;
            return self.claim(key, text_of(right)?, false, grows);
        }
        let like = expression.get("like")?;
        let key = tag_key(like.get("left")?, "getTag")?;
        // `*word*` asks whether the claim contains the word.
        let pieces = like.get("pattern").and_then(Value::as_array)?;
        let star = |piece: &Value| piece.as_str() == Some("Wildcard");
        let inner = pieces.get(1..pieces.len().checked_sub(1)?)?;
        if !star(pieces.first()?) || !star(pieces.last()?) || inner.iter().any(star) || grows {
            return None;
        }
        let word: String = inner.iter().filter_map(|piece| piece.get("Literal").and_then(Value::as_str)).collect();
        self.claim(key, &word, true, grows)
    }

    fn claim(&mut self, key: &str, value: &str, within: bool, grows: bool) -> Option<String> {
        let name = Name::new(value).ok()?;
        match self.options.caller {
            Caller::Agent if SCOPE_TAGS.contains(&key) => {
                self.scopes.insert(name);
                let how = "claim `scope` is read as the agent's scopes, one by one";
                self.readings.insert(how.to_owned());
                if within || grows {
                    return Some(format!("principal.scopes.contains({})", cedar::text(value)));
                }
                Some(format!("principal.scopes == [{}]", cedar::text(value)))
            }
            Caller::Person if ROLE_TAGS.contains(&key) && name.as_str() != "none" => {
                self.roles.insert(name);
                self.readings.insert(format!("claim `{key}` is read as the person's roles, one by one"));
                Some(format!("principal in {}", cedar::entity("Role", value)))
            }
            _ => None,
        }
    }

    /// A comparison of a number, which policy may not see exactly.
    fn about_number(&mut self, expression: &Value, grows: bool) -> Option<String> {
        const METHODS: [(&str, &str); 4] = [
            ("lessThan", "greaterThan"),
            ("lessThanOrEqual", "greaterThanOrEqual"),
            ("greaterThan", "lessThan"),
            ("greaterThanOrEqual", "lessThanOrEqual"),
        ];
        let (method, turned, left, right) = METHODS
            .iter()
            .find_map(|(method, turned)| match expression.get(*method)?.as_array()?.as_slice() {
                [left, right] => Some((*method, *turned, left, right)),
                _ => None,
            })
            .or_else(|| {
                let operator = ["==", "!="].into_iter().find(|operator| expression.get(*operator).is_some())?;
                sides(expression, operator).map(|(left, right)| (operator, operator, left, right))
            })?;
        let (field, method, number) = match (input_path(left), input_path(right)) {
            (Some(field), None) => (field, method, decimal(right)?),
            (None, Some(field)) => (field, turned, decimal(left)?),
            _ => return None,
        };
        if self.inputs.kind(self.tools?, &field)? != Kind::Number {
            return None;
        }
        let path = path_text(&field);
        let compared = match method {
            "==" | "!=" => format!("{path} {method} {number}"),
            method => format!("{path}.{method}({number})"),
        };
        let seen = has_text(&field);
        // Cedar sees that the field is there only to the right of an `&&`.
        Some(if grows { format!("!({seen} && !({compared}))") } else { format!("{seen} && {compared}") })
    }

    /// Everything else is said word for word, if every word of it has a counterpart.
    fn exact(&self, expression: &Value) -> Option<String> {
        if let Some(has) = expression.get("has") {
            return self.has(has);
        }
        if let Some(path) = input_path(expression) {
            let kind = self.inputs.kind(self.tools?, &path)?;
            return (kind != Kind::Number).then(|| path_text(&path));
        }
        if let Some(value) = expression.get("Value") {
            return match value {
                Value::String(text) => Some(cedar::text(text)),
                Value::Number(number) => {
                    Some(if number.as_i64() < Some(0) { format!("({number})") } else { number.to_string() })
                }
                Value::Bool(truth) => Some(truth.to_string()),
                _ => None,
            };
        }
        if let Some(Value::Array(items)) = expression.get("Set") {
            let items: Option<Vec<String>> = items.iter().map(|item| self.exact(item)).collect();
            return Some(format!("[{}]", items?.join(", ")));
        }
        if let Some(like) = expression.get("like") {
            let left = self.exact(like.get("left")?)?;
            let mut pieces = vec![String::new()];
            for piece in like.get("pattern").and_then(Value::as_array)? {
                if piece.as_str() == Some("Wildcard") {
                    pieces.push(String::new());
                } else {
                    pieces.last_mut()?.push_str(piece.get("Literal").and_then(Value::as_str)?);
                }
            }
            return Some(format!("{left} like {}", cedar::pattern(pieces.iter().map(String::as_str))));
        }
        for operator in ["==", "!=", "<", "<=", ">", ">=", "+", "-", "*"] {
            if let Some((left, right)) = sides(expression, operator) {
                return Some(format!("({} {operator} {})", self.exact(left)?, self.exact(right)?));
            }
        }
        for method in ["contains", "containsAll", "containsAny"] {
            if let Some((left, right)) = sides(expression, method) {
                return Some(format!("{}.{method}({})", self.exact(left)?, self.exact(right)?));
            }
        }
        let empty = expression.get("isEmpty").and_then(|operand| operand.get("arg"))?;
        Some(format!("{}.isEmpty()", self.exact(empty)?))
    }

    /// Whether a field is there. A number that policy cannot see is there, too.
    fn has(&self, has: &Value) -> Option<String> {
        let left = has.get("left")?;
        let mut path = if is_input(left) { Vec::new() } else { input_path(left)? };
        let names: Vec<&str> = match has.get("attr")? {
            Value::String(name) => vec![name],
            Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
            _ => return None,
        };
        let mut parts = Vec::new();
        for name in names {
            path.push(name.to_owned());
            let seen = has_text(&path);
            parts.push(match self.inputs.kind(self.tools?, &path) {
                Some(Kind::Number) => {
                    let pointer = cedar::pointer(&path);
                    format!("{seen} || context.opaque.contains({})", cedar::text(&pointer))
                }
                Some(_) => seen,
                None => return None,
            });
        }
        Some(cedar::all(&parts))
    }
}

/// The types of principals that a policy asks for, each by itself.
pub(super) fn kinds(policy: &Value, found: &mut BTreeSet<String>) {
    let scope = policy.get("principal").unwrap_or(&Value::Null);
    let named = [scope.get("entity_type"), scope.get("entity").and_then(|uid| uid.get("type"))];
    let mut all: BTreeSet<&str> = named.into_iter().flatten().filter_map(Value::as_str).collect();
    kinds_within(policy.get("conditions").unwrap_or(&Value::Null), &mut all);
    found.extend(all.into_iter().filter(|kind| PRINCIPALS.contains(kind)).map(str::to_owned));
}

fn kinds_within<'v>(expression: &'v Value, found: &mut BTreeSet<&'v str>) {
    if let Some(kind) = principal_type(expression) {
        found.insert(kind);
        return;
    }
    let mut parts = Vec::new();
    chain(expression, "||", &mut parts);
    if parts.len() > 1 {
        let every = of_every_kind(&parts);
        parts.retain(|part| !every || principal_type(part).is_none());
        for part in parts {
            kinds_within(part, found);
        }
        return;
    }
    match expression {
        Value::Object(members) => {
            found.extend(members.get("__entity").and_then(|uid| uid.get("type")).and_then(Value::as_str));
            members.values().for_each(|member| kinds_within(member, found));
        }
        Value::Array(items) => items.iter().for_each(|item| kinds_within(item, found)),
        _ => {}
    }
}

/// Whether a chain of `||` asks for each type of principal, so that all are meant.
fn of_every_kind(parts: &[&Value]) -> bool {
    let kinds: BTreeSet<&str> = parts.iter().filter_map(|part| principal_type(part)).collect();
    PRINCIPALS.iter().all(|kind| kinds.contains(kind))
}

/// The type that a condition asks of the principal, and no more than that.
fn principal_type(expression: &Value) -> Option<&str> {
    let is = expression.get("is")?;
    if is.get("in").is_some_and(|within| !within.is_null()) {
        return None;
    }
    is.get("left").filter(|left| is_principal(left))?;
    is.get("entity_type").and_then(Value::as_str)
}

fn decimal(expression: &Value) -> Option<String> {
    let text = text_of(expression.get("decimal")?.as_array()?.first()?)?;
    Some(format!("decimal({})", cedar::text(text)))
}

fn path_text(path: &[String]) -> String {
    format!("context.input{}", cedar::access(path))
}

fn has_text(path: &[String]) -> String {
    let last = path.last().map(String::as_str).unwrap_or_default();
    let holder = path_text(path.get(..path.len().saturating_sub(1)).unwrap_or_default());
    format!("{holder} has {}", cedar::text(last))
}

/// A condition as it may be shown: short.
fn cedar_text(expression: &Value) -> String {
    let json = serde_json::json!({
        "effect": "permit", "principal": {"op": "All"}, "action": {"op": "All"}, "resource": {"op": "All"},
        "conditions": [{"kind": "when", "body": expression}],
    });
    let text = cedar_policy::Policy::from_json(None, json).ok().and_then(|policy| policy.to_cedar());
    let text = text.unwrap_or_else(|| expression.to_string());
    let inner =
        text.split_once("when {").and_then(|(_, rest)| rest.rsplit_once('}')).map_or(text.as_str(), |(inner, _)| inner);
    let words: Vec<&str> = inner.split_whitespace().collect();
    words.join(" ").chars().take(160).collect()
}
