//! `tool_scopes.yaml`: the scopes that tools may ask for, and those that are allowed by default.
//!
//! There, a call is refused if one of its tool's scopes is not on the allow-list. Here, that is a forbid over the
//! scopes of the tool in the catalogue, which no approval lifts, and a permit for the rest. The file names no tools; a
//! tool for each scope stands in the catalogue until the real ones are registered. Read next: `bundle`.

use std::collections::{BTreeMap, BTreeSet};

use countersign_policy_bundle::{Name, Place};
use serde_json::json;

use crate::bundle::{Parts, Tool};
use crate::cedar::{self, Written};
use crate::report::Fate;
use crate::source::{documents, members, name, texts, unusable};
use crate::yaml::Node;
use crate::{Format, ImportError, Options, Source};

struct Scope {
    place: Place,
    description: String,
}

pub(crate) fn read(source: Source<'_>, options: &Options) -> Result<Parts, ImportError> {
    let prefix = options.name()?;
    let documents = documents(source)?;
    let [document] = documents.as_slice() else {
        return Err(ImportError::Nothing {
            file: source.file.to_owned(),
            format: Format::ToolScopes,
            expected: "one document with `scopes` and `policies.default_allowlist`",
        });
    };
    let mut parts = Parts::default();
    let mut scopes: BTreeMap<Name, Scope> = BTreeMap::new();
    let mut allowed: Option<(Vec<Name>, &Node)> = None;
    for (key, value) in members("the document", document, &["scopes", "policies"], &mut parts.report)? {
        if key.name == "scopes" {
            read_scopes(value, &mut scopes, &mut parts)?;
            continue;
        }
        for (_, list) in members("`policies`", value, &["default_allowlist"], &mut parts.report)? {
            let mut names = Vec::new();
            for (text, node) in texts("`default_allowlist`", list)? {
                names.push(name(text, node, "scope", &mut parts)?);
            }
            allowed = Some((names, list));
        }
    }
    let Some((allowed, place)) = allowed else {
        return Err(unusable(
            document,
            "`policies.default_allowlist`",
            "it is missing, so that nothing is allowed; add it",
        ));
    };
    for scope in allowed.iter().filter(|scope| !scopes.contains_key(*scope)) {
        parts.report.say(
            &place.place,
            Fate::Interpreted,
            format!("scope `{scope}`"),
            "it is allowed but not listed under `scopes`; it is allowed here, too",
        );
    }
    let allowed: BTreeSet<Name> = allowed.into_iter().collect();
    write(prefix, &scopes, &allowed, place, &mut parts);
    Ok(parts)
}

fn read_scopes(node: &Node, scopes: &mut BTreeMap<Name, Scope>, parts: &mut Parts) -> Result<(), ImportError> {
    let items =
        node.as_list().ok_or_else(|| unusable(node, "`scopes`", format!("it is {}, not a list", node.kind())))?;
    for item in items {
        let (text, at, description) = match (item.as_text(), item.get("name")) {
            (Some(text), _) => (text, item, ""),
            (None, Some(named)) => {
                let text = named.as_text().ok_or_else(|| unusable(named, "a scope's `name`", "it is no text"))?;
                members("a scope", item, &["name", "description"], &mut parts.report)?;
                (text, named, item.get("description").and_then(Node::as_text).unwrap_or_default())
            }
            (None, None) => return Err(unusable(item, "a scope", "it has no `name`; add one")),
        };
        let name = name(text, at, "scope", parts)?;
        let scope = Scope { place: at.place.clone(), description: description.to_owned() };
        if scopes.insert(name.clone(), scope).is_some() {
            return Err(unusable(at, format!("scope `{name}`"), "it is listed twice; keep one"));
        }
    }
    Ok(())
}

fn write(prefix: &str, scopes: &BTreeMap<Name, Scope>, allowed: &BTreeSet<Name>, place: &Node, parts: &mut Parts) {
    let list = cedar::texts(allowed.iter().map(Name::as_str));
    parts.policies.push(Written {
        comment: "The allow-list. A tool whose scopes are all on it is used freely.".to_owned(),
        id: format!("{prefix}-tools-of-allowed-scopes"),
        title: "Agents use tools whose scopes are all allowed".to_owned(),
        permit: true,
        principal: "principal is Countersign::Agent".to_owned(),
        action: cedar::actions(["callTool", "dispatch"]),
        resource: "resource is Countersign::Tool".to_owned(),
        when: vec![contains_all(&list, allowed)],
        ..Written::default()
    });
    parts.policies.push(Written {
        comment: "The same as a wall: whatever else permits a tool, its scopes stay within the allow-list.".to_owned(),
        id: format!("{prefix}-scopes-not-allowed"),
        title: "No tool of a scope that is not allowed".to_owned(),
        hard: true,
        agent_message: Some("The tool asks for a scope that is not allowed.".to_owned()),
        action: cedar::actions(["callTool", "dispatch"]),
        resource: "resource is Countersign::Tool".to_owned(),
        unless: vec![contains_all(&list, allowed)],
        ..Written::default()
    });
    parts.report.say(
        &place.place,
        Fate::Carried,
        "`policies.default_allowlist`",
        format!("a tool is denied unless its scopes in the catalogue are all of {list}"),
    );
    for (scope, Scope { place, description }) in scopes {
        let tool = tool_name(prefix, scope, &parts.tools);
        let what = format!("scope `{scope}`");
        let how = format!(
            "tool `{tool}` stands for the tools of this scope; register the real ones with it, with their input and risk"
        );
        parts.report.say(place, Fate::Interpreted, what, how);
        let input = json!({"type": "object", "properties": {}});
        let (decision, by) = if allowed.contains(scope) {
            ("allow", format!("{prefix}-tools-of-allowed-scopes"))
        } else {
            ("deny", format!("{prefix}-scopes-not-allowed"))
        };
        let expect = json!({"decision": decision, "determining": [by]});
        parts.ask_tool(format!("a tool of scope {scope}"), &tool, &json!({}), expect);
        let tool = Tool { name: tool, description: description.clone(), input, scopes: vec![scope.clone()] };
        parts.tools.insert(tool.name.clone(), tool);
    }
}

/// An empty list has no type in Cedar.
fn contains_all(list: &str, allowed: &BTreeSet<Name>) -> String {
    if allowed.is_empty() {
        "resource.scopes.isEmpty()".to_owned()
    } else {
        format!("{list}.containsAll(resource.scopes)")
    }
}

fn simple(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// A scope is called as its tool would be, or gets a tool of another name.
fn tool_name(prefix: &str, scope: &Name, taken: &BTreeMap<Name, Tool>) -> Name {
    let whole = scope
        .as_str()
        .split_once('.')
        .is_some_and(|(server, rest)| scope.as_str().len() <= 100 && simple(server) && rest.split('.').all(simple));
    if whole && !taken.contains_key(scope) {
        return scope.clone();
    }
    let ok = |c: char| if c.is_ascii_alphanumeric() || "_-".contains(c) { c } else { '-' };
    let rest: String = scope.as_str().chars().map(ok).take(40).collect();
    let numbered =
        (1_usize..).map(|n| if n == 1 { format!("{prefix}.{rest}") } else { format!("{prefix}.{rest}-{n}") });
    let mut free = numbered.filter_map(|text| Name::new(&text).ok()).filter(|name| !taken.contains_key(name));
    free.next().unwrap_or_else(|| scope.clone())
}
