//! Admission rules of agent runs: labels, images, secrets and service accounts.
//!
//! Reads `controller.admissionPolicy` of Helm values and `Agent` documents with `spec.security`. There, a run that
//! breaks a rule is an invalid spec. Here, submitting a run is a tool whose input has what the rules look at, and each
//! rule is a forbid that no approval lifts. An empty list restricts nothing, there and here. Read next: `bundle`.

use std::collections::BTreeSet;

use countersign_policy_bundle::Name;
use serde_json::{Value, json};

use crate::bundle::{Parts, Tool};
use crate::cedar::{self, Written};
use crate::report::Fate;
use crate::source::{Item, documents, members, texts, unusable};
use crate::yaml::Node;
use crate::{Format, ImportError, Options, Source};

/// The rule that asks a person where policy cannot tell.
const UNTOLD: &str = "labels-untold";

/// Everything that the documents say.
#[derive(Default)]
struct Admission<'n> {
    required: Vec<Item<'n>>,
    allowed: Vec<Item<'n>>,
    denied: Vec<Item<'n>>,
    images_allowed: Vec<Item<'n>>,
    images_denied: Vec<Item<'n>>,
    secrets_blocked: Vec<Item<'n>>,
    agents: Vec<Agent<'n>>,
}

struct Agent<'n> {
    name: &'n str,
    secrets: Vec<Item<'n>>,
    accounts: Vec<Item<'n>>,
}

pub(crate) fn read(source: Source<'_>, options: &Options) -> Result<Parts, ImportError> {
    let prefix = options.name()?;
    let documents = documents(source)?;
    let mut parts = Parts::default();
    let mut found = Admission::default();
    let mut any = false;
    for document in &documents {
        if document.get("kind").and_then(Node::as_text) == Some("Agent") {
            agent(document, &mut found, &mut parts)?;
            any = true;
        } else {
            any |= values(document, &mut found, &mut parts)?;
        }
    }
    if !any {
        return Err(ImportError::Nothing {
            file: source.file.to_owned(),
            format: Format::Admission,
            expected: "`controller.admissionPolicy`, `admissionPolicy`, or a document of `kind: Agent`",
        });
    }
    write(prefix, &found, &mut parts)?;
    Ok(parts)
}

/// Helm values; the policy may stand alone. False: there is none.
fn values<'n>(document: &'n Node, found: &mut Admission<'n>, parts: &mut Parts) -> Result<bool, ImportError> {
    let (outer, policy) = match (document.get("controller"), document.get("admissionPolicy")) {
        (Some(controller), _) if controller.get("admissionPolicy").is_some() => {
            members("the document", document, &["controller"], &mut parts.report)?;
            (controller, controller.get("admissionPolicy"))
        }
        (_, policy) => (document, policy),
    };
    let Some(policy) = policy else { return Ok(false) };
    members("`controller`", outer, &["admissionPolicy"], &mut parts.report)?;
    for (key, part) in members("`admissionPolicy`", policy, &["labels", "images", "secrets"], &mut parts.report)? {
        let known: &[&str] = match key.name.as_str() {
            "labels" => &["required", "allowed", "denied"],
            "images" => &["allowed", "denied"],
            _ => &["blocked"],
        };
        for (inner, list) in members(&format!("`{}`", key.name), part, known, &mut parts.report)? {
            let slot = match (key.name.as_str(), inner.name.as_str()) {
                ("labels", "required") => &mut found.required,
                ("labels", "allowed") => &mut found.allowed,
                ("labels", _) => &mut found.denied,
                ("images", "allowed") => &mut found.images_allowed,
                ("images", _) => &mut found.images_denied,
                _ => &mut found.secrets_blocked,
            };
            slot.extend(texts(&format!("`{}.{}`", key.name, inner.name), list)?);
        }
    }
    Ok(true)
}

fn agent<'n>(document: &'n Node, found: &mut Admission<'n>, parts: &mut Parts) -> Result<(), ImportError> {
    let mut named = None;
    let mut agent = Agent { name: "", secrets: Vec::new(), accounts: Vec::new() };
    for (key, value) in members("an Agent", document, &["apiVersion", "kind", "metadata", "spec"], &mut parts.report)? {
        match key.name.as_str() {
            "metadata" => {
                let found = members("`metadata`", value, &["name"], &mut parts.report)?;
                named = found.first().and_then(|(_, name)| name.as_text());
            }
            "spec" => {
                for (_, security) in members("`spec`", value, &["security"], &mut parts.report)? {
                    let known = ["allowedSecrets", "allowedServiceAccounts"];
                    for (inner, list) in members("`security`", security, &known, &mut parts.report)? {
                        let items = texts(&format!("`{}`", inner.name), list)?;
                        *(if inner.name == "allowedSecrets" { &mut agent.secrets } else { &mut agent.accounts }) =
                            items;
                    }
                }
            }
            _ => {}
        }
    }
    agent.name = named
        .ok_or_else(|| unusable(document, "an Agent", "it has no `metadata.name`; its rules would be about nobody"))?;
    if found.agents.iter().any(|other| other.name == agent.name) {
        return Err(unusable(document, format!("Agent `{}`", agent.name), "it stands twice; keep one"));
    }
    found.agents.push(agent);
    Ok(())
}

/// Collects forbids with the tests that determine them.
struct Writer<'p> {
    prefix: &'p str,
    tool: Name,
    action: String,
    parts: &'p mut Parts,
}

impl Writer<'_> {
    fn forbid(&mut self, id: &str, title: &str, message: &str, when: String) {
        self.parts.policies.push(Written {
            id: format!("{}-{id}", self.prefix),
            title: title.to_owned(),
            hard: true,
            agent_message: Some(message.to_owned()),
            action: cedar::actions([self.action.as_str()]),
            resource: "resource is Countersign::Tool".to_owned(),
            when: vec![when],
            ..Written::default()
        });
    }

    fn carried(&mut self, items: &[Item<'_>], what: &str, how: &str) {
        if let Some((_, node)) = items.first() {
            self.parts.report.say(&node.place, Fate::Carried, what, how);
        }
    }
}

fn write(prefix: &str, found: &Admission<'_>, parts: &mut Parts) -> Result<(), ImportError> {
    let tool = Name::new(&format!("{prefix}.submit_run")).map_err(|_| ImportError::Name)?;
    let text = json!({"type": "string"});
    let list = json!({"type": "array", "items": {"type": "string"}});
    let input = json!({
        "type": "object",
        "properties": {"agent": text, "image": text, "labels": list, "secrets": list, "serviceAccount": text},
        "required": ["agent", "image", "labels", "secrets", "serviceAccount"],
    });
    let description = "Submits a run; labels: the keys of those that are not empty".to_owned();
    let written = Tool { name: tool.clone(), description, input, scopes: Vec::new() };
    let mut writer = Writer { prefix, action: written.action(), parts, tool: tool.clone() };
    writer.parts.tools.insert(tool.clone(), written);
    writer.parts.policies.push(Written {
        id: format!("{prefix}-submits-runs"),
        title: "Agents submit runs, under the rules below".to_owned(),
        permit: true,
        principal: "principal is Countersign::Agent".to_owned(),
        action: cedar::actions([writer.action.as_str()]),
        resource: "resource is Countersign::Tool".to_owned(),
        ..Written::default()
    });
    labels(found, &mut writer);
    images(found, &mut writer);
    secrets(found, &mut writer);
    cases(found, &mut writer);
    Ok(())
}

fn labels(found: &Admission<'_>, writer: &mut Writer<'_>) {
    if !found.required.is_empty() {
        let list = cedar::texts(found.required.iter().map(|(text, _)| *text));
        writer.forbid(
            "required-labels",
            "A run has every required label",
            "A required label is missing.",
            format!("!context.input.labels.containsAll({list})"),
        );
        writer.carried(&found.required, "`labels.required`", "a forbid unless the run's labels contain all of them");
    }
    if !found.denied.is_empty() {
        let conditions: Vec<String> = found.denied.iter().map(|item| denied_label(*item, writer)).collect();
        writer.forbid("denied-labels", "A run has no denied label", "A label is denied.", cedar::any(&conditions));
        writer.carried(&found.denied, "`labels.denied`", "a forbid if one of the run's labels is one of them");
    }
    if found.allowed.is_empty() || found.allowed.iter().any(|(text, _)| *text == "*") {
        writer.carried(&found.allowed, "`labels.allowed`", "`*` allows every label");
        return;
    }
    let (patterns, exact): (Vec<Item<'_>>, Vec<Item<'_>>) =
        found.allowed.iter().copied().partition(|(text, _)| text.contains('*'));
    let list = cedar::texts(exact.iter().map(|(text, _)| *text));
    let beyond = if exact.is_empty() {
        "!context.input.labels.isEmpty()".to_owned()
    } else {
        format!("!{list}.containsAll(context.input.labels)")
    };
    if patterns.is_empty() {
        writer.forbid("allowed-labels", "A run has allowed labels only", "A label is not allowed.", beyond);
        writer.carried(&exact, "`labels.allowed`", "a forbid unless all of the run's labels are among them");
        return;
    }
    // Cedar cannot ask whether each member of a set matches a pattern; a person can.
    writer.parts.policies.push(Written {
        id: format!("gate-{}-allowed-labels", writer.prefix),
        title: "Labels beyond those allowed by name need a person".to_owned(),
        rule: Some(UNTOLD.to_owned()),
        agent_message: Some("A person must look at the labels.".to_owned()),
        action: cedar::actions([writer.action.as_str()]),
        resource: "resource is Countersign::Tool".to_owned(),
        when: vec![beyond],
        ..Written::default()
    });
    if let Ok(rule) = Name::new(UNTOLD) {
        let data = json!({
            "title": "Labels of which policy cannot tell whether they are allowed",
            "authority": {"roles": ["APPROVER"]}, "timeout_s": 86_400,
        });
        writer.parts.rules.insert(rule, data);
    }
    for (text, node) in patterns {
        let how = "policy cannot match each label of a run with a pattern; a person is asked about labels beyond those \
                   that are named whole";
        writer.parts.report.say(&node.place, Fate::Stricter, format!("`labels.allowed`: `{text}`"), how);
    }
}

/// Whether one of the labels matches. The canonical text of the list has each label between quotes.
fn denied_label((text, node): Item<'_>, writer: &mut Writer<'_>) -> String {
    if text == "*" {
        return "!context.input.labels.isEmpty()".to_owned();
    }
    if !text.contains('*') {
        return format!("context.input.labels.contains({})", cedar::text(text));
    }
    let quoted = format!("\"{text}\"");
    let pieces: Vec<String> = quoted.split('*').map(in_json).collect();
    let inner = text.trim_matches('*').contains('*');
    if inner {
        let how = "it is matched over the whole list of labels, so that a match may also reach over two of them";
        writer.parts.report.say(&node.place, Fate::Stricter, format!("`labels.denied`: `{text}`"), how);
    }
    let around = std::iter::once("").chain(pieces.iter().map(String::as_str)).chain(std::iter::once(""));
    format!("context.input.labelsText like {}", cedar::pattern(around))
}

/// As it stands within a canonical JSON text; the outer quotes stay.
fn in_json(piece: &str) -> String {
    let (open, rest) = piece.strip_prefix('"').map_or(("", piece), |rest| ("\"", rest));
    let (inner, close) = rest.strip_suffix('"').map_or((rest, ""), |inner| (inner, "\""));
    let escaped = Value::from(inner).to_string();
    let escaped = escaped.get(1..escaped.len().saturating_sub(1)).unwrap_or_default();
    format!("{open}{escaped}{close}")
}

fn images(found: &Admission<'_>, writer: &mut Writer<'_>) {
    let like = |(text, _): &Item<'_>| format!("context.input.image like {}", cedar::pattern(text.split('*')));
    if !found.images_denied.is_empty() {
        let conditions: Vec<String> = found.images_denied.iter().map(like).collect();
        writer.forbid("denied-images", "A run's image is not denied", "The image is denied.", cedar::any(&conditions));
        writer.carried(&found.images_denied, "`images.denied`", "a forbid if the image matches one of them");
    }
    if !found.images_allowed.is_empty() {
        let conditions: Vec<String> = found.images_allowed.iter().map(like).collect();
        let when = format!("!({})", cedar::any(&conditions));
        writer.forbid("allowed-images", "A run's image is allowed", "The image is not allowed.", when);
        writer.carried(&found.images_allowed, "`images.allowed`", "a forbid unless the image matches one of them");
    }
}

fn secrets(found: &Admission<'_>, writer: &mut Writer<'_>) {
    if !found.secrets_blocked.is_empty() {
        let list = cedar::texts(found.secrets_blocked.iter().map(|(text, _)| *text));
        writer.forbid(
            "blocked-secrets",
            "A run asks for no blocked secret",
            "A secret is blocked.",
            format!("context.input.secrets.containsAny({list})"),
        );
        writer.carried(&found.secrets_blocked, "`secrets.blocked`", "a forbid if the run asks for one of them");
    }
    let limited = |items: fn(&Agent<'_>) -> usize| found.agents.iter().filter(move |agent| items(agent) > 0);
    let of = |agent: &Agent<'_>, condition: String| {
        format!("context.input.agent == {} && {condition}", cedar::text(agent.name))
    };
    let conditions: Vec<String> = limited(|agent| agent.secrets.len())
        .map(|agent| {
            let list = cedar::texts(agent.secrets.iter().map(|(text, _)| *text));
            of(agent, format!("!{list}.containsAll(context.input.secrets)"))
        })
        .collect();
    if !conditions.is_empty() {
        let when = cedar::any(&conditions);
        writer.forbid("agents-secrets", "An agent's run asks for its secrets only", "A secret is not allowed.", when);
    }
    let conditions: Vec<String> = limited(|agent| agent.accounts.len())
        .map(|agent| {
            let list = cedar::texts(agent.accounts.iter().map(|(text, _)| *text));
            of(agent, format!("!{list}.contains(context.input.serviceAccount)"))
        })
        .collect();
    if !conditions.is_empty() {
        let when = cedar::any(&conditions);
        let message = "The service account is not allowed.";
        writer.forbid("agents-accounts", "An agent's run uses its service accounts only", message, when);
    }
    for agent in &found.agents {
        let (secrets, accounts) =
            (format!("secrets of Agent `{}`", agent.name), format!("service accounts of Agent `{}`", agent.name));
        writer.carried(&agent.secrets, &secrets, "a forbid if its run asks for another");
        writer.carried(&agent.accounts, &accounts, "a forbid if its run uses another");
    }
}

/// Whether a pattern matches; `*` stands for anything.
fn matches(value: &str, pattern: &str) -> bool {
    let mut pieces = pattern.split('*');
    let Some(mut rest) = value.strip_prefix(pieces.next().unwrap_or_default()) else { return false };
    let between: Vec<&str> = pieces.collect();
    let Some((last, between)) = between.split_last() else { return rest.is_empty() };
    for piece in between {
        let Some(at) = rest.find(piece) else { return false };
        rest = rest.get(at + piece.len()..).unwrap_or_default();
    }
    rest.ends_with(last)
}

/// One run of the tests.
#[derive(Clone)]
struct Run {
    agent: String,
    image: String,
    labels: BTreeSet<String>,
    secrets: BTreeSet<String>,
    account: String,
}

impl Run {
    /// A run that most rules let through, made up from them.
    fn good(found: &Admission<'_>) -> Self {
        let filled = |items: &[Item<'_>], default: &str| {
            items.first().map_or(default.to_owned(), |(text, _)| text.replace('*', "x"))
        };
        let agent = found.agents.first();
        Self {
            agent: agent.map_or("any", |agent| agent.name).to_owned(),
            image: filled(&found.images_allowed, "registry.example/any:1"),
            labels: found.required.iter().map(|(text, _)| (*text).to_owned()).collect(),
            secrets: BTreeSet::new(),
            account: filled(agent.map_or(&[], |agent| &agent.accounts), "default"),
        }
    }

    fn input(&self) -> Value {
        json!({
            "agent": self.agent, "image": self.image, "labels": self.labels, "secrets": self.secrets,
            "serviceAccount": self.account,
        })
    }

    /// What the rules say to it.
    fn expected(&self, found: &Admission<'_>) -> Value {
        let listed = |items: &[Item<'_>], value: &str| items.iter().any(|(text, _)| *text == value);
        let matched = |items: &[Item<'_>], value: &str| items.iter().any(|(text, _)| matches(value, text));
        let all = json!(self.labels).to_string();
        let denied = |(text, _): &Item<'_>| match *text {
            "*" => !self.labels.is_empty(),
            text => matches(&all, &format!("*{}*", in_json(&format!("\"{text}\"")))),
        };
        let beyond = !found.allowed.is_empty()
            && !listed(&found.allowed, "*")
            && self.labels.iter().any(|label| !listed(&found.allowed, label));
        let asks = found.allowed.iter().any(|(text, _)| text.contains('*'));
        let own = found.agents.iter().find(|agent| agent.name == self.agent);
        let refused = found.required.iter().any(|(text, _)| !self.labels.contains(*text))
            || found.denied.iter().any(denied)
            || (beyond && !asks)
            || matched(&found.images_denied, &self.image)
            || (!found.images_allowed.is_empty() && !matched(&found.images_allowed, &self.image))
            || self.secrets.iter().any(|secret| listed(&found.secrets_blocked, secret))
            || own.is_some_and(|agent| {
                !agent.secrets.is_empty() && self.secrets.iter().any(|secret| !listed(&agent.secrets, secret))
            })
            || own.is_some_and(|agent| !agent.accounts.is_empty() && !listed(&agent.accounts, &self.account));
        match (refused, beyond) {
            (true, _) => json!({"decision": "deny"}),
            (false, true) => json!({"decision": "needs_approval", "rules": [UNTOLD]}),
            (false, false) => json!({"decision": "allow"}),
        }
    }
}

fn cases(found: &Admission<'_>, writer: &mut Writer<'_>) {
    let good = Run::good(found);
    let mut runs: Vec<(String, Run)> = vec![("a run within the rules".to_owned(), good.clone())];
    let mut add = |name: String, change: &dyn Fn(&mut Run)| {
        let mut run = good.clone();
        change(&mut run);
        runs.push((name, run));
    };
    if !found.required.is_empty() {
        add("a run without a required label".to_owned(), &|run| run.labels.clear());
    }
    for (text, _) in &found.denied {
        add(format!("a run with a label that `{text}` denies"), &|run| {
            run.labels.insert(text.replace('*', "x"));
        });
    }
    if !found.allowed.is_empty() {
        add("a run with a label that is not named".to_owned(), &|run| {
            run.labels.insert("nobody/named-this".to_owned());
        });
    }
    for (text, _) in &found.images_denied {
        add(format!("a run of an image that `{text}` denies"), &|run| run.image = text.replace('*', "x"));
    }
    if !found.images_allowed.is_empty() {
        add("a run of another image".to_owned(), &|run| "nowhere.invalid/nothing".clone_into(&mut run.image));
    }
    for (text, _) in &found.secrets_blocked {
        add(format!("a run with the blocked secret `{text}`"), &|run| {
            run.secrets.insert((*text).to_owned());
        });
    }
    for agent in &found.agents {
        add(format!("a run of Agent {} with another secret", agent.name), &|run| {
            agent.name.clone_into(&mut run.agent);
            run.secrets.insert("nobody-named-this".to_owned());
        });
        add(format!("a run of Agent {} with another service account", agent.name), &|run| {
            agent.name.clone_into(&mut run.agent);
            "nobody-named-this".clone_into(&mut run.account);
        });
    }
    for (name, run) in runs {
        let tool = writer.tool.clone();
        writer.parts.ask_tool(name, &tool, &run.input(), run.expected(found));
    }
}
