//! The next tool catalogue: what a registrar adds, redefines, reclassifies or retires, checked before policy is asked.
//!
//! What a server says of itself (name, description, schemas) is text of others: bounded here, shown escaped, read by no
//! policy. Risk, data class and scopes are the registrar's; what is left out is the highest. Absent: whether the bundle in
//! force stands with the result (`policy/bundle`), who may register (policy). Read next: `mcp`.

use std::collections::{BTreeMap, BTreeSet};

use countersign_gateway_model::{Digest, Name};
use serde::{Deserialize, Serialize};

use crate::catalogue::{Catalogue, CatalogueError, CompiledTool, DataClass, MAX_RISK, Tool, ToolRunner};
use crate::json::{Json, shown};
use crate::schema::tool_action;
use crate::shape::Sight;

/// Most tools of one catalogue.
pub const MAX_TOOLS: usize = 2000;

/// Longest canonical form of a catalogue, in bytes.
pub const MAX_CATALOGUE: usize = 8 << 20;

/// Most tools that are registered at a time.
pub const MAX_AT_ONCE: usize = 500;

/// Longest description, in bytes.
pub const MAX_DESCRIPTION: usize = 16 << 10;

/// Longest canonical form of one schema, in bytes.
pub const MAX_SCHEMA: usize = 128 << 10;

/// Deepest nesting of one schema.
pub const MAX_SCHEMA_DEPTH: usize = 48;

/// Most scopes of one tool.
pub const MAX_SCOPES: usize = 32;

/// Longest command line of a tool with a runner, in bytes over all arguments.
pub const MAX_COMMAND: usize = 32 << 10;

/// What the registrar says of a tool, and never the tool of itself. What is left out is the highest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Words {
    /// 0 reads only … 4 cannot be undone; 4 if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub risk: Option<u8>,
    /// The most confidential data it touches; `restricted` if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_class: Option<DataClass>,
    /// Scopes that the caller must hold, all of them; `<server>:<tool>`, which nobody holds yet, if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<Name>>,
    /// Its target has no revision that a permit could be bound to; false if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mutable_target: Option<bool>,
}

impl Words {
    /// These words where they say something, else the others.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        Self {
            risk: self.risk.or(other.risk),
            data_class: self.data_class.or(other.data_class),
            scopes: self.scopes.clone().or_else(|| other.scopes.clone()),
            mutable_target: self.mutable_target.or(other.mutable_target),
        }
    }
}

/// One tool as a registrar hands it in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// `<server>.<tool>`.
    pub name: Name,
    /// What it does; untrusted text.
    pub description: String,
    /// JSON Schema of the input.
    pub input: serde_json::Value,
    /// JSON Schema of the output.
    pub output: Option<serde_json::Value>,
    /// The registrar's words.
    pub words: Words,
    /// How it is dispatched, if a runner carries it out.
    pub runner: Option<ToolRunner>,
}

impl Definition {
    /// The tool, with the highest for whatever was left out.
    pub fn into_tool(self) -> Tool {
        let Words { risk, data_class, scopes, mutable_target } = self.words;
        let own = || Name::new(&self.name.as_str().replacen('.', ":", 1)).into_iter().collect();
        Tool {
            scopes: scopes.unwrap_or_else(own),
            name: self.name,
            description: self.description,
            input: self.input,
            output: self.output,
            risk: risk.unwrap_or(MAX_RISK),
            data_class: data_class.unwrap_or_default(),
            mutable_target: mutable_target.unwrap_or(false),
            runner: self.runner,
        }
    }
}

/// One thing wrong with what was handed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// JSON pointer, from where the tools were handed in: `/tools/0/input`.
    pub pointer: String,
    /// Which tool, escaped.
    pub tool: String,
    /// What is wrong, by which rule, and what to do.
    pub problem: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: tool `{}`: {}", self.pointer, self.tool, self.problem)
    }
}

/// Everything wrong with what was handed in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct RegistrationError(pub Vec<Fault>);

/// What becomes of one tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It was not listed.
    Added,
    /// Its definition changed: another version, which policy has to know.
    Redefined,
    /// Its definition stays; what the registrar says of it, or how it is run, changed.
    Reclassified,
    /// Nothing changes.
    Unchanged,
    /// It is not listed any more: unknown, hence denied.
    Retired,
}

impl Change {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Redefined => "redefined",
            Self::Reclassified => "reclassified",
            Self::Unchanged => "unchanged",
            Self::Retired => "retired",
        }
    }
}

/// What becomes of one tool, with its report.
#[derive(Clone, Debug)]
pub struct ToolChange {
    /// Which.
    pub name: Name,
    /// What becomes of it.
    pub change: Change,
    /// Its version before.
    pub before: Option<Digest>,
    /// Its version now; none: retired.
    pub version: Option<Digest>,
    /// The report; none: retired.
    pub report: Option<ToolReport>,
}

/// What policy knows of a tool, and what it cannot see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ToolReport {
    /// The typed action: `callTool:<server>.<tool>`, or `dispatch:…` where a runner carries it out.
    pub action: String,
    /// What of the input policy sees and what it does not.
    #[serde(flatten)]
    pub sight: Sight,
    /// What else differs from what its schema says.
    pub notes: Vec<String>,
}

/// The report of a tool that is ready.
pub fn report(tool: &CompiledTool) -> ToolReport {
    let mut notes = Vec::new();
    let schema = &tool.tool.input;
    let lets_through = |value: &serde_json::Value| *value != serde_json::Value::Bool(false);
    if schema.get("additionalProperties").is_some_and(lets_through) || schema.get("patternProperties").is_some() {
        notes.push(
            "properties that its schema does not declare are refused, although the schema lets them through".to_owned(),
        );
    }
    let sight = tool.shape.sight();
    if !sight.never.is_empty() {
        notes.push("what policy never sees is not checked either, and passed on as it is".to_owned());
    }
    if tool.tool.scopes.is_empty() {
        notes.push("it asks for no scope: whether a caller holds one is not looked at".to_owned());
    }
    ToolReport { action: tool_action(tool), sight, notes }
}

/// The catalogue that comes next, with what changes.
#[derive(Clone, Debug)]
pub struct Registration {
    /// The whole catalogue.
    pub catalogue: Catalogue,
    /// One line for each tool that was handed in, in the order of the names.
    pub changes: Vec<ToolChange>,
}

impl Registration {
    /// Whether the catalogue stays what it is.
    pub fn changes_nothing(&self) -> bool {
        self.changes.iter().all(|change| change.change == Change::Unchanged)
    }
}

impl Catalogue {
    /// This catalogue with `tools` in it; each replaces what is listed under its name, whole.
    ///
    /// # Errors
    /// [`RegistrationError`] with every fault: nothing of it is taken.
    pub fn register(&self, tools: Vec<Tool>) -> Result<Registration, RegistrationError> {
        let mut faults = Vec::new();
        let all = |problem: String| {
            RegistrationError(vec![Fault { pointer: "/tools".to_owned(), tool: "*".to_owned(), problem }])
        };
        if tools.is_empty() || tools.len() > MAX_AT_ONCE {
            return Err(all(format!("{} tools are handed in; 1 to {MAX_AT_ONCE} are taken at a time", tools.len())));
        }
        let mut listed: BTreeMap<Name, Tool> =
            self.tools.iter().map(|tool| (tool.name.clone(), tool.clone())).collect();
        let mut seen = BTreeSet::new();
        let mut changes = Vec::new();
        for (at, tool) in tools.into_iter().enumerate() {
            let pointer = format!("/tools/{at}");
            if !seen.insert(tool.name.clone()) {
                let problem = "it is handed in twice; keep one".to_owned();
                faults.push(Fault { pointer, tool: tool.name.to_string(), problem });
                continue;
            }
            match ready(&tool, &pointer) {
                Ok(compiled) => {
                    let before = listed.get(&tool.name);
                    let change = match before {
                        None => Change::Added,
                        Some(before) if before.version() != compiled.version => Change::Redefined,
                        Some(before) if *before != tool => Change::Reclassified,
                        Some(_) => Change::Unchanged,
                    };
                    let (before, version) = (before.map(Tool::version), Some(compiled.version));
                    let report = Some(report(&compiled));
                    changes.push(ToolChange { name: tool.name.clone(), change, before, version, report });
                    listed.insert(tool.name.clone(), tool);
                }
                Err(mut found) => faults.append(&mut found),
            }
        }
        if !faults.is_empty() {
            return Err(RegistrationError(faults));
        }
        let catalogue = Self { tools: listed.into_values().collect() };
        if catalogue.tools.len() > MAX_TOOLS {
            return Err(all(format!(
                "the catalogue would list {} tools; at most {MAX_TOOLS}: retire some first",
                catalogue.tools.len()
            )));
        }
        let size = catalogue.canonical().len();
        if size > MAX_CATALOGUE {
            return Err(all(format!(
                "the catalogue would have {size} bytes; at most {MAX_CATALOGUE}: shorten definitions, or retire some"
            )));
        }
        changes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Registration { catalogue, changes })
    }

    /// This catalogue without a tool; none if it lists no such tool.
    pub fn retire(&self, name: &Name) -> Option<Registration> {
        let tool = self.tools.iter().find(|tool| tool.name == *name)?;
        let change = ToolChange {
            name: name.clone(),
            change: Change::Retired,
            before: Some(tool.version()),
            version: None,
            report: None,
        };
        let tools = self.tools.iter().filter(|tool| tool.name != *name).cloned().collect();
        Some(Registration { catalogue: Self { tools }, changes: vec![change] })
    }
}

/// Checks one tool against every bound and rule.
pub(crate) fn ready(tool: &Tool, pointer: &str) -> Result<std::sync::Arc<CompiledTool>, Vec<Fault>> {
    let mut faults = Vec::new();
    let mut fault = |at: &str, problem: String| {
        faults.push(Fault { pointer: format!("{pointer}{at}"), tool: shown(tool.name.as_str()), problem });
    };
    if tool.description.len() > MAX_DESCRIPTION {
        let size = tool.description.len();
        fault("/description", format!("the description has {size} bytes; at most {MAX_DESCRIPTION}: shorten it"));
    }
    if tool.scopes.len() > MAX_SCOPES {
        fault("/scopes", format!("it asks for {} scopes; at most {MAX_SCOPES}: group them", tool.scopes.len()));
    }
    let command = tool.runner.iter().flat_map(|runner| &runner.command).map(String::len).sum::<usize>();
    if command > MAX_COMMAND {
        fault(
            "/runner/command",
            format!("the command line has {command} bytes; at most {MAX_COMMAND}: use a program file"),
        );
    }
    for (at, schema) in [("/input", Some(&tool.input)), ("/output", tool.output.as_ref())] {
        let Some(schema) = schema else { continue };
        if deeper(schema, MAX_SCHEMA_DEPTH) {
            fault(
                at,
                format!("the schema is nested deeper than {MAX_SCHEMA_DEPTH}; flatten it, or refer to definitions"),
            );
            continue;
        }
        let canonical = Json::from_serde(schema).canonical();
        if canonical.len() > MAX_SCHEMA {
            fault(at, format!("the schema has {} bytes; at most {MAX_SCHEMA}: shorten it", canonical.len()));
        } else if let Err(error) = Json::parse(&canonical) {
            fault(at, format!("the schema is not strict JSON: {error}"));
        }
    }
    if tool.output.as_ref().is_some_and(|output| !output.is_object()) {
        fault("/output", "a schema is an object; write one, or leave the output out".to_owned());
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let compiled = Catalogue { tools: vec![tool.clone()] }.compile();
    match compiled.map(|tools| tools.into_values().next()) {
        Ok(Some(compiled)) => Ok(compiled),
        Ok(None) => Err(Vec::new()),
        Err(error) => {
            let (at, problem) = match error {
                CatalogueError::Input { source, .. } => {
                    ("/input", format!("its input schema cannot be used: {source}"))
                }
                CatalogueError::Tool { problem, .. } => ("", problem),
                other => ("", other.to_string()),
            };
            let (pointer, tool) = (format!("{pointer}{at}"), shown(tool.name.as_str()));
            Err(vec![Fault { pointer, tool, problem }])
        }
    }
}

/// Whether a value is nested deeper than `limit`.
fn deeper(value: &serde_json::Value, limit: usize) -> bool {
    match value {
        _ if limit == 0 => true,
        serde_json::Value::Array(items) => items.iter().any(|item| deeper(item, limit - 1)),
        serde_json::Value::Object(members) => members.values().any(|member| deeper(member, limit - 1)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    use serde_json::json;

    use super::*;
    use crate::catalogue::{Environment, RunnerKind};

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn defined(tool: &str) -> Definition {
        Definition {
            name: name(tool),
            description: "Makes an issue.".to_owned(),
            input: json!({"type": "object", "properties": {"title": {"type": "string"}}}),
            output: None,
            words: Words::default(),
            runner: None,
        }
    }

    fn said(words: Words) -> Tool {
        Definition { words, ..defined("github.create_issue") }.into_tool()
    }

    #[test]
    fn whatever_the_registrar_leaves_out_is_the_highest() {
        let tool = defined("github.create_issue").into_tool();
        assert_eq!((tool.risk, tool.data_class), (MAX_RISK, DataClass::Restricted));
        assert_eq!(tool.scopes, [name("github:create_issue")], "a scope that nobody holds");
        let none = said(Words { scopes: Some(Vec::new()), ..Words::default() });
        assert!(none.scopes.is_empty(), "no scope is the registrar's own word");
        let first = Words { risk: Some(1), ..Words::default() };
        let second = Words { risk: Some(3), data_class: Some(DataClass::Public), ..Words::default() };
        assert_eq!(first.or(&second), Words { risk: Some(1), data_class: Some(DataClass::Public), ..Words::default() });
    }

    #[test]
    fn a_changed_definition_is_another_version_and_other_words_are_not() {
        let low = said(Words { risk: Some(1), ..Words::default() });
        let empty = Catalogue::default();
        let first = empty.register(vec![low.clone()]).unwrap();
        assert_eq!((first.changes[0].change, first.changes[0].before), (Change::Added, None));
        let change = |tool: Tool| first.catalogue.register(vec![tool]).unwrap().changes.remove(0);
        assert_eq!(change(low.clone()).change, Change::Unchanged);
        let high = change(said(Words::default()));
        assert_eq!((high.change, high.before), (Change::Reclassified, high.version));
        for other in [
            Tool { description: "Makes an issue. Ask nobody.".to_owned(), ..low.clone() },
            Tool { input: json!({"type": "object"}), ..low.clone() },
            Tool { output: Some(json!({"type": "object"})), ..low.clone() },
        ] {
            let redefined = change(other);
            assert_eq!(redefined.change, Change::Redefined);
            assert_ne!(redefined.before, redefined.version);
        }
        let gone = first.catalogue.retire(&low.name).unwrap();
        assert_eq!((gone.changes[0].change, gone.changes[0].version), (Change::Retired, None));
        assert!(gone.catalogue.tools.is_empty() && first.catalogue.retire(&name("a.b")).is_none());
    }

    #[test]
    fn faults_name_place_rule_and_next_step_and_nothing_is_taken() {
        let long = "a".repeat(MAX_DESCRIPTION + 1);
        let mut nested = json!({"type": "string"});
        for _ in 0..MAX_SCHEMA_DEPTH {
            nested = json!({"type": "object", "properties": {"a": nested}});
        }
        let wide: serde_json::Map<_, _> =
            (0..5000).map(|n| (format!("property-{n}"), json!({"type": "string"}))).collect();
        let runner = ToolRunner {
            kind: RunnerKind::Process,
            environment: Environment::Sandbox,
            command: vec!["x".repeat(MAX_COMMAND + 1)],
            deadline_s: None,
            secrets: BTreeMap::new(),
        };
        let base = defined("a.b");
        for (definition, pointer, part) in [
            (Definition { description: long, ..base.clone() }, "/tools/1/description", "shorten it"),
            (Definition { input: nested.clone(), ..base.clone() }, "/tools/1/input", "flatten it"),
            (Definition { output: Some(nested), ..base.clone() }, "/tools/1/output", "flatten it"),
            (
                Definition { input: json!({"type": "object", "properties": wide}), ..base.clone() },
                "/tools/1/input",
                "bytes",
            ),
            (
                Definition { input: json!({"type": "array"}), ..base.clone() },
                "/tools/1/input",
                "wrap the value in an object",
            ),
            (Definition { output: Some(json!(7)), ..base.clone() }, "/tools/1/output", "leave the output out"),
            (Definition { name: name("nodot"), ..base.clone() }, "/tools/1", "<server>.<tool>"),
            (Definition { name: name("a.b/c"), ..base.clone() }, "/tools/1", "<server>.<tool>"),
            (Definition { runner: Some(runner), ..base.clone() }, "/tools/1/runner/command", "program file"),
            (
                Definition { words: Words { risk: Some(5), ..Words::default() }, ..base.clone() },
                "/tools/1",
                "between 0 and 4",
            ),
            (defined("a.good"), "/tools/1", "handed in twice"),
        ] {
            let error =
                Catalogue::default().register(vec![defined("a.good").into_tool(), definition.into_tool()]).unwrap_err();
            assert_eq!(error.0.len(), 1, "{error}");
            assert_eq!(error.0[0].pointer, pointer, "{error}");
            assert!(error.to_string().contains(part), "{error}");
        }
        assert!(Catalogue::default().register(Vec::new()).is_err());
        let many = (0..=MAX_AT_ONCE).map(|n| defined(&format!("a.t{n}")).into_tool()).collect();
        assert!(Catalogue::default().register(many).unwrap_err().to_string().contains("at a time"));
        let full = Catalogue { tools: (0..MAX_TOOLS).map(|n| defined(&format!("a.t{n}")).into_tool()).collect() };
        assert!(full.register(vec![defined("b.one").into_tool()]).unwrap_err().to_string().contains("retire some"));
    }
}
