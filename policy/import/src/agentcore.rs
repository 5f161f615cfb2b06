//! Cedar policies of Amazon Bedrock `AgentCore`: who may call which tool behind a gateway, with which input.
//!
//! Its principal is a credential (`OAuthUser` with claims as tags, or `IamEntity`); here that is the agent, or the person
//! behind it. Its actions are tools; here each is one of the catalogue, whose input is inferred from what the policies
//! read. What cannot be said here shrinks a permit and widens a forbid, never the other way. Read next: `rewrite`.

mod cases;
mod rewrite;
mod tools;

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use cedar_policy::{Effect, Policy, PolicySet};
use countersign_policy_bundle::{Name, Place};
use countersign_policy_decide::depth;
use serde_json::Value;

use crate::bundle::Parts;
use crate::cedar;
use crate::report::{Fate, Report};
use crate::{Format, ImportError, Options, Source};
use rewrite::Rewriting;
use tools::Inputs;

/// Whose credential the principal of the source is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Caller {
    /// The agent's own. Its `scope` claim becomes the agent's scopes; claims about roles cannot be carried.
    #[default]
    Agent,
    /// That of the person on whose behalf the agent acts. Claims `role`, `roles`, `groups` become roles.
    Person,
}

/// The types of the source.
const PRINCIPALS: [&str; 2] = ["AgentCore::OAuthUser", "AgentCore::IamEntity"];
const GATEWAY: &str = "AgentCore::Gateway";
/// Action groups of the source, and methods that are no tools.
const GROUPS: [&str; 2] = ["CallTool", "Mcp"];
const METHODS: [&str; 4] = ["initialize", "tools/list", "ping", "notifications/initialized"];

/// One policy of the source.
struct Found {
    place: Place,
    id: Option<String>,
    policy: Policy,
    json: Value,
}

/// What is known of the source as a whole.
struct Whole<'a> {
    prefix: &'a str,
    options: &'a Options,
    inputs: &'a Inputs,
    /// The types of principals that it asks for.
    kinds: &'a BTreeSet<String>,
}

pub(crate) fn read(source: Source<'_>, options: &Options) -> Result<Parts, ImportError> {
    let prefix = options.name()?;
    let found = parse(source)?;
    let gateway = gateway(&found, options)?;
    let mut parts = Parts::default();
    let found: Vec<Found> = found
        .into_iter()
        .filter(|policy| {
            let own = gateway_of(&policy.json).is_none_or(|arn| Some(arn) == gateway.as_deref());
            if !own {
                let how = "it is about another gateway than the one that is imported";
                parts.report.say(&policy.place, Fate::LeftOut, shown(policy), how);
            }
            own
        })
        .collect();
    let mut inputs = Inputs::default();
    for policy in &found {
        for tool in named_actions(policy).iter().filter_map(|action| tool_name(action, prefix)) {
            inputs.read(&tool, policy.json.get("conditions").unwrap_or(&Value::Null));
        }
    }
    let mut kinds = BTreeSet::new();
    for policy in &found {
        rewrite::kinds(&policy.json, &mut kinds);
    }
    let whole = Whole { prefix, options, inputs: &inputs, kinds: &kinds };
    let mut taken: BTreeSet<String> = BTreeSet::new();
    for (index, policy) in found.iter().enumerate() {
        let wished = policy.id.clone().unwrap_or_else(|| format!("{prefix}-{}", index + 1));
        let mut id: String = wished
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || "._/-".contains(c) { c } else { '-' })
            .take(100)
            .collect();
        if !taken.insert(id.clone()) {
            id = format!("{id}-{}", index + 1);
            taken.insert(id.clone());
        }
        write(policy, &id, &whole, &mut parts);
    }
    inputs.catalogue(source.file, &mut parts);
    if options.caller == Caller::Person {
        // The source says for which persons an agent may use a tool.
        parts.persons_delegate = false;
        if !parts.tools.is_empty() {
            agents_use(prefix, &mut parts);
        }
    }
    cases::write(&found, &whole, &mut parts);
    if let Some(arn) = gateway {
        let how = format!("the bundle is about gateway `{arn}`; a tool belongs to it by standing in the catalogue");
        parts.report.say(&Place::start(source.file), Fate::Interpreted, "the resource", how);
    }
    Ok(parts)
}

fn parse(source: Source<'_>) -> Result<Vec<Found>, ImportError> {
    let error =
        |at: usize, problem: String| ImportError::Cedar { place: Place::at(source.file, source.text, at), problem };
    if source.text.len() > crate::yaml::MAX_SOURCE {
        return Err(error(0, format!("more than {} bytes; split it", crate::yaml::MAX_SOURCE)));
    }
    if let Some(at) = depth::too_deep(source.text).or_else(|| depth::too_many_ifs(source.text)) {
        return Err(error(at, "a policy nests too deep; split it".to_owned()));
    }
    let set = match depth::with_room(|| PolicySet::from_str(source.text).map_err(|error| error.to_string())) {
        Ok(set) => set,
        Err(problem) => return Err(error(0, format!("{problem}; correct the policies"))),
    };
    if set.templates().next().is_some() {
        return Err(error(0, "a template says nothing until it is linked; write it out".to_owned()));
    }
    let start = |policy: &Policy| {
        let core: &cedar_policy_core::ast::Policy = policy.as_ref();
        core.loc().map_or(0, cedar_policy_core::parser::Loc::start)
    };
    let mut found = Vec::new();
    for policy in set.policies() {
        let at = start(policy);
        let json = policy.to_json().map_err(|problem| error(at, problem.to_string()))?;
        let id = policy.annotation("id").map(str::to_owned);
        found.push((at, Found { place: Place::at(source.file, source.text, at), id, policy: policy.clone(), json }));
    }
    found.sort_by_key(|(at, _)| *at);
    if found.is_empty() {
        return Err(ImportError::Nothing {
            file: source.file.to_owned(),
            format: Format::AgentCore,
            expected: "Cedar policies about `AgentCore::Action`",
        });
    }
    Ok(found.into_iter().map(|(_, found)| found).collect())
}

fn shown(policy: &Found) -> String {
    let effect = if policy.policy.effect() == Effect::Permit { "permit" } else { "forbid" };
    policy.id.as_ref().map_or_else(|| format!("a {effect}"), |id| format!("{effect} `{}`", id.escape_debug()))
}

/// The gateway that a policy is bound to in its scope.
fn gateway_of(policy: &Value) -> Option<&str> {
    let resource = policy.get("resource")?;
    let uid = resource.get("entity").or_else(|| resource.get("in")?.get("entity"))?;
    uid.get("id").and_then(Value::as_str)
}

/// The one gateway that is imported: policies of several do not become rules for all of them.
fn gateway(found: &[Found], options: &Options) -> Result<Option<String>, ImportError> {
    if options.gateway.is_some() {
        return Ok(options.gateway.clone());
    }
    let mut named: BTreeMap<&str, &Found> = BTreeMap::new();
    for policy in found {
        if let Some(arn) = gateway_of(&policy.json) {
            named.entry(arn).or_insert(policy);
        }
    }
    let mut named = named.into_iter();
    match (named.next(), named.next()) {
        (_, Some((arn, policy))) => Err(ImportError::Unusable {
            place: policy.place.clone(),
            what: format!("gateway `{arn}`"),
            problem: "the file has policies of several gateways; say which one is imported".to_owned(),
        }),
        (first, None) => Ok(first.map(|(arn, _)| arn.to_owned())),
    }
}

/// The actions that the scope names one by one.
fn named_actions(policy: &Found) -> Vec<String> {
    let action = policy.json.get("action").cloned().unwrap_or_default();
    let one = action.get("entity").into_iter();
    let many = action.get("entities").and_then(Value::as_array).into_iter().flatten();
    let ids = one.chain(many).filter_map(|uid| uid.get("id").and_then(Value::as_str));
    ids.map(str::to_owned).filter(|id| !GROUPS.contains(&id.as_str())).collect()
}

/// `Target___tool` is `Target.tool` in the catalogue.
fn tool_name(action: &str, prefix: &str) -> Option<Name> {
    if METHODS.contains(&action) {
        return None;
    }
    let (server, tool) = action.split_once("___").or_else(|| action.split_once("__")).unwrap_or((prefix, action));
    let simple = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    let name = Name::new(&format!("{server}.{tool}")).ok()?;
    (simple(server) && simple(tool) && name.as_str().len() <= 100).then_some(name)
}

/// What the scope of actions becomes: tools by name, or all of them.
enum Actions {
    All,
    Tools(BTreeSet<Name>),
    /// Nothing of it can be carried.
    None,
}

fn actions(policy: &Found, what: &str, prefix: &str, report: &mut Report) -> Actions {
    let action = policy.json.get("action").cloned().unwrap_or_default();
    let op = action.get("op").and_then(Value::as_str).unwrap_or_default();
    let text = action.to_string();
    let group = action.get("entity").and_then(|uid| uid.get("id")).and_then(Value::as_str);
    if op == "=="
        && let Some(group) = group.filter(|id| GROUPS.contains(id))
    {
        // Of a group, `==` matches the group itself, which nobody asks for.
        if policy.policy.effect() == Effect::Permit {
            let how = format!("`== \"{group}\"` matches no tool call; write `in` if every tool is meant");
            report.say(&policy.place, Fate::LeftOut, what, how);
            return Actions::None;
        }
        let how = format!("`== \"{group}\"` matches no tool call; it forbids every tool here, as `in` would");
        report.say(&policy.place, Fate::Stricter, what, how);
        return Actions::All;
    }
    if op == "All" || GROUPS.iter().any(|group| text.contains(&format!("\"id\":\"{group}\""))) {
        return Actions::All;
    }
    let mut tools = BTreeSet::new();
    for name in named_actions(policy) {
        if let Some(tool) = tool_name(&name, prefix) {
            tools.insert(tool);
        } else if METHODS.contains(&name.as_str()) {
            let how = format!("`{name}` is no tool: who lists tools is said by the ground of the bundle");
            report.say(&policy.place, Fate::LeftOut, what, how);
        } else {
            let how = format!("`{name}` is no name that a tool of the catalogue can have");
            report.say(&policy.place, Fate::LeftOut, what, how);
        }
    }
    if tools.is_empty() { Actions::None } else { Actions::Tools(tools) }
}

fn write(found: &Found, id: &str, whole: &Whole<'_>, parts: &mut Parts) {
    let what = shown(found);
    for (key, _) in found.policy.annotations().filter(|(key, _)| *key != "id") {
        let how = format!("annotation `@{}` means nothing here", key.escape_debug());
        parts.report.say(&found.place, Fate::LeftOut, what.clone(), how);
    }
    let permits = found.policy.effect() == Effect::Permit;
    let actions = actions(found, &what, whole.prefix, &mut parts.report);
    let action = match &actions {
        Actions::None => return,
        Actions::All => "action in Countersign::Action::\"callTool\"".to_owned(),
        Actions::Tools(tools) => {
            let names: Vec<String> = tools.iter().map(|tool| format!("callTool:{tool}")).collect();
            cedar::actions(names.iter().map(String::as_str))
        }
    };
    let tools = match &actions {
        Actions::Tools(tools) => Some(tools),
        _ => None,
    };
    let mut rewriting = Rewriting::new(whole, tools);
    let mut when = rewriting.principal(found.json.get("principal").unwrap_or(&Value::Null), permits);
    for condition in found.json.get("conditions").and_then(Value::as_array).into_iter().flatten() {
        let body = condition.get("body").unwrap_or(&Value::Null);
        let unless = condition.get("kind").and_then(Value::as_str) == Some("unless");
        // A permit must not grow and a forbid must not shrink; an `unless` is the other way round.
        let text = rewriting.condition(body, permits == unless);
        when.push(if unless { rewrite::negated(&text) } else { text });
    }
    let impossible = when.iter().any(|text| text == "false");
    for problem in &rewriting.problems {
        let how = match (permits, impossible) {
            (true, true) => format!("{problem}; nothing of it is left that could be permitted"),
            (true, false) => format!("{problem}; it is permitted only where that does not matter"),
            (false, _) => format!("{problem}; it is forbidden whether or not that holds"),
        };
        parts.report.say(&found.place, Fate::Stricter, what.clone(), how);
    }
    if impossible && permits {
        return;
    }
    when.retain(|text| text != "true");
    if rewriting.problems.is_empty() && rewriting.readings.is_empty() {
        parts.report.say(&found.place, Fate::Carried, what, format!("policy `{id}`"));
    } else if !rewriting.readings.is_empty() {
        let readings: Vec<&str> = rewriting.readings.iter().map(String::as_str).collect();
        parts.report.say(&found.place, Fate::Interpreted, what, format!("policy `{id}`; {}", readings.join("; ")));
    }
    for role in &rewriting.roles {
        parts.roles.entry(role.clone()).or_insert_with(|| "From the imported policies".to_owned());
    }
    parts.scopes.extend(rewriting.scopes.iter().cloned());
    let (principal, as_delegator) = match (whole.options.caller, permits) {
        (Caller::Agent, true) => ("principal is Countersign::Agent", false),
        (Caller::Agent, false) if when.iter().any(|text| text.contains("principal")) => {
            ("principal is Countersign::Agent", false)
        }
        (Caller::Person, _) => ("principal is Countersign::Person", true),
        (Caller::Agent, false) => ("principal", false),
    };
    if as_delegator {
        when.insert(0, "context.asDelegator".to_owned());
    }
    let mut text = cedar::Written {
        id: id.to_owned(),
        title: format!("From `{}`", found.place),
        hard: !permits,
        permit: permits,
        principal: principal.to_owned(),
        action,
        resource: "resource is Countersign::Tool".to_owned(),
        ..cedar::Written::default()
    };
    if !when.is_empty() {
        text.when = vec![cedar::all(&when)];
    }
    parts.policies.push(text);
}

/// Where the person behind an agent is the one that policies are about, the agent itself needs a permit, too.
fn agents_use(prefix: &str, parts: &mut Parts) {
    let names: Vec<String> = parts.tools.values().map(crate::bundle::Tool::action).collect();
    parts.policies.push(cedar::Written {
        comment: "Everyone in the chain is asked: this is the agent's part, the person's part is above.".to_owned(),
        id: format!("{prefix}-agents-use-tools"),
        title: "Agents use the tools of the catalogue where the person behind them may".to_owned(),
        permit: true,
        principal: "principal is Countersign::Agent".to_owned(),
        action: cedar::actions(names.iter().map(String::as_str)),
        resource: "resource is Countersign::Tool".to_owned(),
        when: vec!["context.delegated".to_owned()],
        ..cedar::Written::default()
    });
}
