//! YAML of materiality, approvers and timeouts, in both of its forms: one policy, or a `kind: Policy` with rules.
//!
//! There, an instance waits for a person if its materiality is HIGH or the policy requires it; a rule with a condition
//! requires or waives an approval. Here, that is a gate on starting a workflow, and gates on a tool that stands for the
//! conditions' subject. Who may approve, and when time is up, becomes an approval rule. Read next: `condition`.

use std::collections::{BTreeMap, BTreeSet};

use countersign_policy_bundle::Name;
use serde_json::{Map, Value, json};

use crate::bundle::{Case, Parts, Tool, ask_start, with, workflow};
use crate::cedar::{self, Written};
use crate::condition::{Condition, Kind, input_schema};
use crate::report::Fate;
use crate::source::{documents, members, name, unusable};
use crate::yaml::{Node, Value as Yaml};
use crate::{Format, ImportError, Options, Source};

/// How long a gate is open where the source says nothing, in seconds: its own default.
const DEFAULT_TIMEOUT_S: u64 = 86_400;
/// The levels, as workflows carry them.
const LEVELS: [(&str, i64); 4] = [("LOW", 1), ("MEDIUM", 2), ("HIGH", 3), ("CRITICAL", 4)];
/// From this level on a person is asked.
const ASKS_FROM: i64 = 3;

pub(crate) fn read(source: Source<'_>, options: &Options) -> Result<Parts, ImportError> {
    let prefix = options.name()?;
    let documents = documents(source)?;
    let mut parts = Parts::default();
    let mut taken = BTreeSet::new();
    let many = documents.len() > 1;
    for (index, document) in documents.iter().enumerate() {
        let own = if many { format!("{prefix}-{}", index + 1) } else { prefix.to_owned() };
        if document.get("apiVersion").is_some() || document.get("spec").is_some() {
            rules(document, &own, &mut taken, &mut parts)?;
        } else if ["materiality", "requires_human_approval"].iter().any(|key| document.get(key).is_some()) {
            policy(document, &own, &mut taken, &mut parts)?;
        } else {
            return Err(nothing(source));
        }
    }
    if parts.rules.is_empty() {
        return Err(nothing(source));
    }
    start_cases(&mut parts);
    Ok(parts)
}

fn nothing(source: Source<'_>) -> ImportError {
    ImportError::Nothing {
        file: source.file.to_owned(),
        format: Format::Materiality,
        expected: "`materiality` or `requires_human_approval`, or `kind: Policy` with `spec.rules`",
    }
}

/// The name of a policy or rule: its own, if it has one.
fn own_name(
    named: Option<&Node>,
    within: &Node,
    fallback: &str,
    taken: &mut BTreeSet<Name>,
    parts: &mut Parts,
) -> Result<Name, ImportError> {
    let at = named.unwrap_or(within);
    let found = match named.map(Node::as_text) {
        Some(Some(text)) => name(&text.replace(['.', ':', '/'], "-"), at, "policy", parts)?,
        Some(None) => return Err(unusable(at, "a name", "it is no text; quote it")),
        None => Name::new(fallback).map_err(|_| ImportError::Name)?,
    };
    let reserved = ["policy-change", "none"].contains(&found.as_str());
    if reserved || !taken.insert(found.clone()) {
        return Err(unusable(at, format!("`{found}`"), "the name is taken; choose another"));
    }
    Ok(found)
}

fn policy(document: &Node, own: &str, taken: &mut BTreeSet<Name>, parts: &mut Parts) -> Result<(), ImportError> {
    const KNOWN: [&str; 9] = [
        "id",
        "name",
        "description",
        "materiality",
        "requires_human_approval",
        "approvers",
        "timeouts",
        "approval_timeout_seconds",
        "escalation_roles",
    ];
    let found: BTreeMap<&str, &Node> = members("a policy", document, &KNOWN, &mut parts.report)?
        .into_iter()
        .map(|(key, node)| (key.name.as_str(), node))
        .collect();
    let rule = own_name(found.get("id").or(found.get("name")).copied(), document, own, taken, parts)?;
    let level = found.get("materiality").map(|node| materiality(node, parts)).transpose()?;
    let required = match found.get("requires_human_approval") {
        None => false,
        Some(node) => node
            .as_bool()
            .ok_or_else(|| unusable(node, "`requires_human_approval`", "it is neither true nor false; correct it"))?,
    };
    let always = required || level.is_some_and(|level| level >= ASKS_FROM);
    let data = approval_rule(document, &found, &format!("Starting a workflow under `{rule}`"), parts)?;
    parts.rules.insert(rule.clone(), data);
    let (title, when) = if always {
        (format!("`{rule}`: every start needs a person"), Vec::new())
    } else {
        let text = format!("`{rule}`: starting a workflow of materiality {ASKS_FROM} and more needs a person");
        (text, vec![format!("resource.materiality >= {ASKS_FROM}")])
    };
    parts.policies.push(Written {
        id: format!("gate-start-{rule}"),
        title,
        rule: Some(rule.to_string()),
        agent_message: Some("A person must approve the start.".to_owned()),
        action: cedar::actions(["start"]),
        resource: "resource is Countersign::Workflow".to_owned(),
        when,
        ..Written::default()
    });
    if always {
        parts.start_rules.insert(rule.clone());
    }
    let how = if always {
        "whoever starts a workflow waits for rule "
    } else {
        "a start goes through, unless the workflow itself is of materiality 3 or more; then it waits for rule "
    };
    let place = &document.place;
    parts.report.say(place, Fate::Carried, "`materiality` and `requires_human_approval`", format!("{how}`{rule}`"));
    let how = "there, a policy is bound to a workflow; here, it governs every workflow, and asks also where the \
               workflow was registered with materiality 3 or more";
    parts.report.say(place, Fate::Interpreted, "what the policy governs", how);
    Ok(())
}

fn materiality(node: &Node, parts: &mut Parts) -> Result<i64, ImportError> {
    let text =
        node.as_text().ok_or_else(|| unusable(node, "`materiality`", "it is no text; write LOW, MEDIUM or HIGH"))?;
    let upper = text.trim().to_ascii_uppercase();
    if let Some((_, level)) = LEVELS.iter().find(|(name, _)| *name == upper) {
        return Ok(*level);
    }
    let what = format!("materiality `{}`", text.escape_debug());
    parts.report.say(&node.place, Fate::Stricter, what, "it is no level that is known; it is read as HIGH");
    Ok(ASKS_FROM)
}

/// Who may approve.
#[derive(Default)]
struct Approvers {
    roles: Vec<Name>,
    groups: Vec<Name>,
}

impl Approvers {
    fn read(node: &Node, what: &str, parts: &mut Parts) -> Result<Self, ImportError> {
        let items = node.as_list().ok_or_else(|| unusable(node, what, format!("it is {}, not a list", node.kind())))?;
        let mut found = Self::default();
        for item in items {
            let (kind, text, at) = match (&item.value, item.get("role"), item.get("group")) {
                (Yaml::Text(text), _, _) => match text.split_once(':') {
                    Some((kind @ ("role" | "group"), rest)) => (kind, rest.trim(), item),
                    Some(_) => return Err(unusable(item, what, "an approver is `role:…` or `group:…`; correct it")),
                    None => ("role", text.as_str(), item),
                },
                (_, Some(role), None) => ("role", role.as_text().unwrap_or_default(), role),
                (_, None, Some(group)) => ("group", group.as_text().unwrap_or_default(), group),
                _ => {
                    return Err(unusable(item, what, "an approver is a `role` or a `group`; others cannot be carried"));
                }
            };
            if item.as_map().is_some() {
                members(what, item, &["role", "group"], &mut parts.report)?;
            }
            let name = name(text, at, kind, parts)?;
            if kind == "role" && name.as_str() == "none" {
                return Err(unusable(at, what, "a role called `none` is reserved; choose another"));
            }
            let list = if kind == "role" { &mut found.roles } else { &mut found.groups };
            if !list.contains(&name) {
                list.push(name);
            }
        }
        for role in &found.roles {
            parts.roles.entry(role.clone()).or_insert_with(|| "Approves, from the imported policy".to_owned());
        }
        Ok(found)
    }

    fn is_empty(&self) -> bool {
        self.roles.is_empty() && self.groups.is_empty()
    }

    fn authority(&self) -> Value {
        let mut authority = serde_json::Map::new();
        for (key, names) in [("roles", &self.roles), ("groups", &self.groups)] {
            if !names.is_empty() {
                authority.insert(key.to_owned(), json!(names));
            }
        }
        Value::Object(authority)
    }
}

/// The approval rule of one policy or of one of its rules.
fn approval_rule(
    document: &Node,
    found: &BTreeMap<&str, &Node>,
    title: &str,
    parts: &mut Parts,
) -> Result<Value, ImportError> {
    let approvers = found.get("approvers").map(|node| Approvers::read(node, "`approvers`", parts)).transpose()?;
    let approvers = approvers.unwrap_or_default();
    let mut rule = Map::from_iter([("title".to_owned(), json!(title))]);
    if approvers.is_empty() {
        rule.insert("authority".to_owned(), json!({"roles": ["APPROVER"]}));
        let how = "none are named; holders of role `APPROVER` approve";
        parts.report.say(&document.place, Fate::Interpreted, "`approvers`", how);
    } else {
        rule.insert("authority".to_owned(), approvers.authority());
        let place = &found.get("approvers").map_or(&document.place, |node| &node.place).clone();
        if approvers.groups.len() > 1 {
            rule.insert("quorum".to_owned(), json!({"persons": approvers.groups.len(), "groups": approvers.groups}));
            let how = "several groups: each is represented by a person of its own";
            parts.report.say(place, Fate::Interpreted, "`approvers`", how);
        } else if approvers.roles.len() + approvers.groups.len() > 1 {
            let how = "several roles: one person who holds any of them is enough";
            parts.report.say(place, Fate::Interpreted, "`approvers`", how);
        } else {
            parts.report.say(place, Fate::Carried, "`approvers`", "the rule's authority");
        }
    }
    times(document, found, &mut rule, parts)?;
    Ok(Value::Object(rule))
}

/// Timeouts, reminders and escalation.
fn times(
    document: &Node,
    found: &BTreeMap<&str, &Node>,
    rule: &mut Map<String, Value>,
    parts: &mut Parts,
) -> Result<(), ImportError> {
    let mut primary = None;
    let mut second = None;
    if let Some(node) = found.get("timeouts") {
        for (key, value) in members("`timeouts`", node, &["primary", "escalation"], &mut parts.report)? {
            let span = span(value, &format!("`timeouts.{}`", key.name))?;
            *(if key.name == "primary" { &mut primary } else { &mut second }) = Some((span, value));
        }
    }
    for key in ["approval_timeout_seconds", "timeout"] {
        if let Some(node) = found.get(key)
            && primary.is_none()
        {
            let seconds = match node.value {
                // Zero is the source's word for its default.
                Yaml::Integer(0) => DEFAULT_TIMEOUT_S,
                _ => span(node, &format!("`{key}`"))?,
            };
            primary = Some((seconds, node));
        }
    }
    let circle =
        found.get("escalation_roles").map(|node| Approvers::read(node, "`escalation_roles`", parts)).transpose()?;
    let circle = circle.filter(|circle| !circle.is_empty());
    let Some((first, place)) = primary.or(second) else {
        rule.insert("timeout_s".to_owned(), json!(DEFAULT_TIMEOUT_S));
        parts.report.say(
            &document.place,
            Fate::Interpreted,
            "`timeouts`",
            "none is named; after 24 h it is rejected, as there",
        );
        if let (Some(circle), Some(node)) = (circle, found.get("escalation_roles")) {
            rule.insert(
                "escalation".to_owned(),
                json!([{"after_s": DEFAULT_TIMEOUT_S / 2, "authority": circle.authority()}]),
            );
            parts.report.say(&node.place, Fate::Interpreted, "`escalation_roles`", "asked after half of the 24 h");
        }
        return Ok(());
    };
    let Some((last, second_place)) = second.filter(|_| primary.is_some()) else {
        rule.insert("timeout_s".to_owned(), json!(first));
        parts.report.say(&place.place, Fate::Carried, "the timeout", format!("after {first} s it is rejected"));
        if let (Some(circle), Some(node)) = (circle, found.get("escalation_roles")) {
            rule.insert("escalation".to_owned(), json!([{"after_s": first / 2, "authority": circle.authority()}]));
            parts.report.say(&node.place, Fate::Interpreted, "`escalation_roles`", "asked after half of the timeout");
        }
        return Ok(());
    };
    // Whether the second counts from the opening or from the first is open; the shorter reading ends sooner.
    let end = if last > first { last } else { first.saturating_add(last) };
    rule.insert("timeout_s".to_owned(), json!(end));
    let what = "`timeouts`";
    if let Some(circle) = circle {
        rule.insert("escalation".to_owned(), json!([{"after_s": first, "authority": circle.authority()}]));
        let how = format!("after {first} s the second circle is asked, too; after {end} s in all it is rejected");
        parts.report.say(&place.place, Fate::Interpreted, what, how);
    } else {
        rule.insert("reminders_s".to_owned(), json!([first]));
        let how =
            format!("nobody is named to escalate to: after {first} s it reminds, after {end} s in all it is rejected");
        parts.report.say(&second_place.place, Fate::Interpreted, what, how);
    }
    Ok(())
}

/// A span in whole seconds: a number of seconds, or `1h30m`.
fn span(node: &Node, what: &str) -> Result<u64, ImportError> {
    let refuse = || unusable(node, what, "it is no span; write it as `30m`, `1h30m` or in seconds");
    let seconds = match &node.value {
        Yaml::Integer(seconds) => u64::try_from(*seconds).map_err(|_| refuse())?,
        Yaml::Text(text) => {
            let mut rest = text.trim();
            let mut total = 0_u64;
            while !rest.is_empty() {
                let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
                let number: u64 = rest.get(..digits).unwrap_or_default().parse().map_err(|_| refuse())?;
                rest = rest.get(digits..).unwrap_or_default();
                let factor = match rest.chars().next() {
                    Some('s') => 1,
                    Some('m') => 60,
                    Some('h') => 3_600,
                    Some('d') => 86_400,
                    _ => return Err(refuse()),
                };
                rest = rest.get(1..).unwrap_or_default();
                total = number.checked_mul(factor).and_then(|n| total.checked_add(n)).ok_or_else(refuse)?;
            }
            total
        }
        _ => return Err(refuse()),
    };
    if (1..=31_536_000).contains(&seconds) { Ok(seconds) } else { Err(refuse()) }
}

/// What a start needs, tried for every level.
fn start_cases(parts: &mut Parts) {
    if !parts.policies.iter().any(|policy| policy.id.starts_with("gate-start-")) {
        return;
    }
    for (name, level) in LEVELS {
        let id = format!("of-{level}");
        parts.entities.push(workflow(&id, level));
        let gates =
            |policy: &&Written| policy.id.starts_with("gate-start-") && (policy.when.is_empty() || level >= ASKS_FROM);
        let rules: Vec<String> = parts.policies.iter().filter(gates).filter_map(|policy| policy.rule.clone()).collect();
        let expect = if rules.is_empty() {
            json!({"decision": "allow", "determining": ["operator-starts"]})
        } else {
            let mut rules = rules;
            rules.sort();
            json!({"decision": "needs_approval", "rules": rules})
        };
        parts.cases.push(Case {
            name: format!("starting a workflow of materiality {name}"),
            ask: ask_start(&id),
            expect,
        });
    }
}

/// One rule of a `kind: Policy`.
struct Ruled {
    name: Name,
    condition: Condition,
    requires: bool,
}

fn rules(document: &Node, own: &str, taken: &mut BTreeSet<Name>, parts: &mut Parts) -> Result<(), ImportError> {
    let mut policy_name = None;
    let mut list = None;
    for (key, value) in members("a policy", document, &["apiVersion", "kind", "metadata", "spec"], &mut parts.report)? {
        match key.name.as_str() {
            "kind" if value.as_text() != Some("Policy") => {
                return Err(unusable(value, "`kind`", "it is not `Policy`, and nothing else is read"));
            }
            "metadata" => {
                policy_name =
                    members("`metadata`", value, &["name"], &mut parts.report)?.first().map(|(_, node)| *node);
            }
            "spec" => list = members("`spec`", value, &["rules"], &mut parts.report)?.first().map(|(_, node)| *node),
            _ => {}
        }
    }
    let list =
        list.ok_or_else(|| unusable(document, "`spec.rules`", "it is missing; a policy without rules says nothing"))?;
    let items =
        list.as_list().ok_or_else(|| unusable(list, "`spec.rules`", format!("it is {}, not a list", list.kind())))?;
    let policy = own_name(policy_name, document, own, taken, parts)?;
    let mut ruled: BTreeMap<String, Vec<Ruled>> = BTreeMap::new();
    let mut everyone = Approvers::default();
    for (index, item) in items.iter().enumerate() {
        const KNOWN: [&str; 6] = ["name", "condition", "action", "approvers", "timeout", "escalation_roles"];
        let found: BTreeMap<&str, &Node> = members("a rule", item, &KNOWN, &mut parts.report)?
            .into_iter()
            .map(|(key, node)| (key.name.as_str(), node))
            .collect();
        let name = own_name(found.get("name").copied(), item, &format!("{policy}-{}", index + 1), taken, parts)?;
        let action = found.get("action").and_then(|node| node.as_text());
        let requires = match action {
            Some("REQUIRE_APPROVAL") => true,
            Some("AUTO_APPROVE") => false,
            _ => {
                return Err(unusable(
                    item,
                    format!("rule `{name}`"),
                    "its `action` is neither REQUIRE_APPROVAL nor AUTO_APPROVE",
                ));
            }
        };
        let at = found.get("condition").copied().unwrap_or(item);
        let text = at.as_text().unwrap_or_default();
        let parsed = Condition::parse(text).and_then(|condition| {
            let mut fields = BTreeMap::new();
            condition.fields(&mut fields).ok_or("a field is compared as two kinds of values")?;
            let subjects: BTreeSet<&String> = fields.keys().filter_map(|path| path.first()).collect();
            match subjects.into_iter().collect::<Vec<_>>().as_slice() {
                [one] => Ok(((*one).clone(), condition)),
                _ => Err("it is about more than one subject".to_owned()),
            }
        });
        let (subject, condition) = match parsed {
            Ok(parsed) => parsed,
            // A waiver that is not understood waives nothing.
            Err(problem) if !requires => {
                let how = format!("its condition cannot be carried ({problem}); what it waives is asked for");
                parts.report.say(&at.place, Fate::Stricter, format!("rule `{name}`"), how);
                continue;
            }
            // A demand that is not understood cannot be dropped, and nothing says which tools it is about.
            Err(problem) => {
                return Err(unusable(at, format!("rule `{name}`"), format!("{problem}; say it in simpler terms")));
            }
        };
        if requires {
            let title = format!("`{name}`: {text}");
            let data = approval_rule(item, &found, &title, parts)?;
            parts.rules.insert(name.clone(), data);
            if let Some(node) = found.get("approvers") {
                let more = Approvers::read(node, "`approvers`", &mut Parts::default())?;
                everyone
                    .roles
                    .extend(more.roles.into_iter().filter(|role| !everyone.roles.contains(role)).collect::<Vec<_>>());
                everyone.groups.extend(
                    more.groups.into_iter().filter(|group| !everyone.groups.contains(group)).collect::<Vec<_>>(),
                );
            }
        }
        let how = if requires { "a gate on the tool that stands for its subject" } else { "no gate where it holds" };
        parts.report.say(&at.place, Fate::Carried, format!("rule `{name}`"), how);
        ruled.entry(subject).or_default().push(Ruled { name, condition, requires });
    }
    if ruled.is_empty() {
        return Err(unusable(list, "`spec.rules`", "none of the rules can be carried"));
    }
    for (subject, ruled) in ruled {
        subject_tool(document, &policy, &subject, &ruled, &everyone, parts)?;
    }
    Ok(())
}

/// A tool that stands for a subject, with the gates of its rules and one for what no rule speaks of.
fn subject_tool(
    document: &Node,
    policy: &Name,
    subject: &str,
    ruled: &[Ruled],
    everyone: &Approvers,
    parts: &mut Parts,
) -> Result<(), ImportError> {
    let mixed = |problem: &str| unusable(document, format!("subject `{subject}`"), problem.to_owned());
    let mut fields: BTreeMap<Vec<String>, Kind> = BTreeMap::new();
    for rule in ruled {
        rule.condition
            .fields(&mut fields)
            .ok_or_else(|| mixed("rules compare one of its fields as two kinds of values"))?;
    }
    let fields: BTreeMap<Vec<String>, Kind> =
        fields.into_iter().map(|(path, kind)| (path.into_iter().skip(1).collect(), kind)).collect();
    let input = input_schema(&fields).ok_or_else(|| mixed("one of its fields is a value and has fields of its own"))?;
    let simple = |c: char| if c.is_ascii_alphanumeric() || "_-".contains(c) { c } else { '-' };
    let server: String = policy.as_str().chars().map(simple).take(48).collect();
    let name = Name::new(&format!("{server}.{subject}")).map_err(|error| mixed(&error.to_string()))?;
    let tool = Tool { name: name.clone(), description: String::new(), input, scopes: Vec::new() };
    let how = format!(
        "tool `{name}` stands for it; register the real tool with the same fields, and rename it in the policies"
    );
    parts.report.say(&document.place, Fate::Interpreted, format!("subject `{subject}`"), how);
    let action = cedar::actions([tool.action().as_str()]);
    let resource = "resource is Countersign::Tool".to_owned();
    parts.policies.push(Written {
        id: format!("use-{name}"),
        title: format!("Agents use `{name}`, under the gates below"),
        permit: true,
        principal: "principal is Countersign::Agent".to_owned(),
        action: action.clone(),
        resource: resource.clone(),
        ..Written::default()
    });
    for rule in ruled.iter().filter(|rule| rule.requires) {
        parts.policies.push(Written {
            id: format!("gate-{}", rule.name),
            title: format!("`{}` needs a person", rule.name),
            rule: Some(rule.name.to_string()),
            agent_message: Some("A person must approve this.".to_owned()),
            action: action.clone(),
            resource: resource.clone(),
            when: vec![rule.condition.to_cedar(true)],
            ..Written::default()
        });
    }
    let spoken: Vec<String> = ruled.iter().map(|rule| rule.condition.to_cedar(rule.requires)).collect();
    let rest = Name::new(&format!("{server}.{subject}-otherwise")).map_err(|error| mixed(&error.to_string()))?;
    let authority = if everyone.is_empty() { json!({"roles": ["APPROVER"]}) } else { everyone.authority() };
    let data = json!({
        "title": format!("`{name}` where no rule says anything"), "authority": authority, "timeout_s": DEFAULT_TIMEOUT_S,
    });
    parts.rules.insert(rest.clone(), data);
    parts.policies.push(Written {
        id: format!("gate-{rest}"),
        title: format!("`{name}` needs a person where no rule says anything"),
        rule: Some(rest.to_string()),
        agent_message: Some("A person must approve this.".to_owned()),
        action,
        resource,
        unless: Vec::new(),
        when: vec![format!("!({})", cedar::any(&spoken))],
        ..Written::default()
    });
    let how = "where no rule holds, whoever approves any of the rules is asked: an empty answer waits for a person there, too";
    parts.report.say(&document.place, Fate::Interpreted, format!("rules about `{subject}`"), how);
    subject_cases(&name, ruled, &rest, parts);
    parts.tools.insert(name, tool);
    Ok(())
}

/// One test for each answer that a few values of the fields bring about.
fn subject_cases(tool: &Name, ruled: &[Ruled], rest: &Name, parts: &mut Parts) {
    const MOST: usize = 256;
    let mut tries = BTreeMap::new();
    for rule in ruled {
        rule.condition.tries(&mut tries);
    }
    let mut inputs = vec![json!({})];
    for (path, values) in tries {
        inputs = inputs
            .iter()
            .flat_map(|input| values.iter().map(|value| with(input, &path, value)).collect::<Vec<_>>())
            .take(MOST)
            .collect();
    }
    let mut seen = BTreeSet::new();
    for input in inputs {
        let holding: Vec<&Ruled> = ruled.iter().filter(|rule| rule.condition.holds(&input)).collect();
        let mut rules: Vec<&Name> = holding.iter().filter(|rule| rule.requires).map(|rule| &rule.name).collect();
        if holding.is_empty() {
            rules.push(rest);
        }
        rules.sort();
        let key: Vec<Name> = rules.iter().map(|name| (*name).clone()).collect();
        if !seen.insert(key) {
            continue;
        }
        if rules.is_empty() {
            parts.ask_tool(format!("{tool} without an approval"), tool, &input, json!({"decision": "allow"}));
            continue;
        }
        let named = rules.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
        let expect = json!({"decision": "needs_approval", "rules": rules});
        parts.ask_tool(format!("{tool} waits for {named}"), tool, &input, expect);
    }
}
