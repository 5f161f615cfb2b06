//! The files of an imported bundle: the ground, what was imported, its data, its tests, and the report as a note.
//!
//! The ground is the same for every source. Tests of what was imported use tools of the catalogue; the first of them
//! tries the ground's rules about tools, too. Absent: the sources. Read next: one of the importers.

use std::collections::{BTreeMap, BTreeSet};

use countersign_policy_bundle::Name;
use serde_json::{Value, json};

use crate::cedar::Written;
use crate::report::Report;

const GROUND: &str = include_str!("ground.cedar");
/// Left out where there are no tools: a policy that can never apply is refused.
const TOOLS: &str = include_str!("ground_tools.cedar");
/// Left out where the source says for which persons an agent may use a tool.
const DELEGATES: &str = include_str!("ground_delegates.cedar");
const GROUND_TESTS: &str = include_str!("ground.json");

/// Roles that the ground names, with what they are for.
const ROLES: [(&str, &str); 6] = [
    ("ADMIN", "Manages people, agents, credentials and settings"),
    ("APPROVER", "Decides at gates"),
    ("AUDITOR", "Reads everything"),
    ("OPERATOR", "Starts and completes instances"),
    ("POLICY_ADMIN", "Proposes and activates policy"),
    ("STOP", "Stops any instance and freezes teams"),
];

/// When every test takes place.
const NOW: u64 = 1_795_219_200_000;

/// A tool that the source implies.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tool {
    pub(crate) name: Name,
    pub(crate) description: String,
    pub(crate) input: Value,
    pub(crate) scopes: Vec<Name>,
}

impl Tool {
    pub(crate) fn action(&self) -> String {
        format!("callTool:{}", self.name)
    }
}

/// A question of a test, and what is expected of it.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) ask: Value,
    pub(crate) expect: Value,
}

/// Which text of the source became which name, of each kind of thing.
pub(crate) type Named = BTreeMap<(String, Name), String>;

/// What an importer makes of a source.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    pub(crate) policies: Vec<Written>,
    /// Whether persons let their agents use tools, or the source says which do.
    pub(crate) persons_delegate: bool,
    /// Scopes that the policies ask of agents; an agent of the tests has all of them.
    pub(crate) scopes: BTreeSet<Name>,
    pub(crate) rules: BTreeMap<Name, Value>,
    pub(crate) roles: BTreeMap<Name, String>,
    pub(crate) tools: BTreeMap<Name, Tool>,
    pub(crate) detectors: Option<Value>,
    pub(crate) entities: Vec<Value>,
    pub(crate) cases: Vec<Case>,
    /// Rules to be met before an operator starts the workflow of materiality 1.
    pub(crate) start_rules: BTreeSet<Name>,
    /// Names that the source's texts became.
    pub(crate) named: Named,
    pub(crate) report: Report,
}

impl Default for Parts {
    fn default() -> Self {
        Self {
            policies: Vec::new(),
            persons_delegate: true,
            scopes: BTreeSet::new(),
            rules: BTreeMap::new(),
            roles: BTreeMap::new(),
            tools: BTreeMap::new(),
            detectors: None,
            entities: Vec::new(),
            cases: Vec::new(),
            start_rules: BTreeSet::new(),
            named: Named::new(),
            report: Report::default(),
        }
    }
}

impl Parts {
    /// A test of a tool, asked by the agent of the running instance.
    pub(crate) fn ask_tool(&mut self, name: impl Into<String>, tool: &Name, input: &Value, expect: Value) {
        let ask = json!({
            "asked": "Agent::worker", "op": "callTool", "resource": format!("Tool::{tool}"),
            "instance": "Instance::run", "now": NOW, "input": input,
        });
        self.cases.push(Case { name: name.into(), ask, expect });
    }

    /// The files. `name` names the source in the note.
    pub(crate) fn files(mut self, source: &str) -> (BTreeMap<String, Vec<u8>>, Report) {
        self.report.sort();
        let mut files = BTreeMap::new();
        let mut put = |path: &str, text: String| drop(files.insert(path.to_owned(), text.into_bytes()));
        let with_tools = !self.tools.is_empty();
        let tools = if with_tools { TOOLS } else { "" };
        let delegates = if with_tools && self.persons_delegate { DELEGATES } else { "" };
        put("policies/ground.cedar", format!("{GROUND}{tools}{delegates}"));
        let satisfied: Vec<String> = self.start_rules.iter().map(|rule| format!("\"{rule}\"")).collect();
        put("tests/ground.json", GROUND_TESTS.replace("[SATISFIED]", &format!("[{}]", satisfied.join(", "))));
        put("policies/imported.cedar", self.policy_text(source));
        put("rules.json", pretty(&self.rules_json()));
        put("roles.json", pretty(&self.roles_json()));
        if let Some(detectors) = &self.detectors {
            put("detectors.json", pretty(detectors));
        }
        put("tools/catalogue.json", pretty(&self.catalogue_json()));
        put("tests/imported.json", self.tests_text());
        put("IMPORT.md", self.report.to_markdown(source));
        (files, self.report)
    }

    fn policy_text(&self, source: &str) -> String {
        let mut text = format!("// Imported from `{source}`; IMPORT.md says what became of each part of it.\n");
        for policy in &self.policies {
            text.push('\n');
            policy.write(&mut text);
        }
        // One layout for all bundles. Text that does not parse keeps its own, and the check says where it goes wrong.
        let layout = cedar_policy_formatter::Config { line_width: 120, indent_width: 2 };
        cedar_policy_formatter::policies_str_to_pretty(&text, &layout).unwrap_or(text)
    }

    fn rules_json(&self) -> Value {
        let mut rules: serde_json::Map<String, Value> =
            self.rules.iter().map(|(name, rule)| (name.to_string(), rule.clone())).collect();
        rules.insert(
            "policy-change".to_owned(),
            json!({
                "title": "Activating another policy",
                "authority": {"roles": ["ADMIN", "POLICY_ADMIN"]},
                "exclude": {"initiator": true},
                "timeout_s": 604_800,
            }),
        );
        json!({ "rules": rules })
    }

    fn roles_json(&self) -> Value {
        let own = self.roles.iter().map(|(name, title)| (name.to_string(), json!({"title": title})));
        let ground = ROLES.into_iter().map(|(name, title)| (name.to_owned(), json!({"title": title})));
        json!({"roles": own.chain(ground).collect::<serde_json::Map<_, _>>()})
    }

    fn catalogue_json(&self) -> Value {
        let tool = |tool: &Tool| {
            json!({
                "name": tool.name, "description": tool.description, "input": tool.input, "scopes": tool.scopes,
            })
        };
        json!({"tools": self.tools.values().map(tool).collect::<Vec<_>>()})
    }

    fn tests_text(&self) -> String {
        let mut entities = vec![
            json!({"entity": "Person::owner", "attrs": {"active": true}, "roles": ["OPERATOR"]}),
            json!({"entity": "Person::answers", "attrs": {"active": true}}),
            json!({
                "entity": "Agent::worker",
                "attrs": {
                    "active": true, "owner": {"ref": "Person::owner"}, "autonomy": 1, "scopes": self.scopes,
                },
            }),
            json!({
                "entity": "Agent::stranger",
                "attrs": {"active": true, "owner": {"ref": "Person::owner"}, "autonomy": 1, "scopes": []},
            }),
            workflow("work", 1),
            json!({
                "entity": "Instance::run",
                "attrs": {
                    "workflow": {"ref": "Workflow::work"}, "state": {"enum": "State::RUNNING"},
                    "accountable": {"ref": "Person::answers"}, "legalHold": false, "frozen": false,
                    "agent": {"ref": "Agent::worker"},
                },
                "in": ["Workflow::work"],
            }),
        ];
        entities.extend(self.entities.iter().cloned());
        let mut cases = self.cases.clone();
        // The ground's words about tools are tried on the first tool that a test uses.
        let tool =
            cases.iter().find(|case| case.ask.get("op") == Some(&json!("callTool"))).map(|case| case.ask.clone());
        if let Some(ask) = tool {
            let with = |changes: Value| {
                let mut ask = ask.clone();
                if let (Some(ask), Value::Object(changes)) = (ask.as_object_mut(), changes) {
                    ask.extend(changes);
                }
                ask
            };
            cases.push(Case {
                name: "an agent uses no tool in another's instance".to_owned(),
                ask: with(json!({"asked": "Agent::stranger", "as_delegator": false})),
                expect: json!({"decision": "deny"}),
            });
        }
        if self.persons_delegate {
            cases.extend(delegation(&cases));
        }
        cases.extend(afterwards(&cases));
        let line = |value: &Value| format!("    {}", spaced(value));
        let entities: Vec<String> = entities.iter().map(line).collect();
        let case = |case: &Case| line(&json!({"name": case.name, "ask": case.ask, "expect": case.expect}));
        let cases: Vec<String> = cases.iter().map(case).collect();
        format!(
            "{{\n  \"entities\": [\n{}\n  ],\n  \"cases\": [\n{}\n  ]\n}}\n",
            entities.join(",\n"),
            cases.join(",\n")
        )
    }
}

/// What waits for a rule goes on once it is met: one test for each set of rules.
fn afterwards(cases: &[Case]) -> Vec<Case> {
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let mut found = Vec::new();
    for case in cases {
        let Some(rules) = case.expect.get("rules").filter(|rules| seen.insert(rules.to_string())) else { continue };
        let ask = with(&case.ask, &["satisfied".to_owned()], rules);
        let name = format!("{}, and goes on after it", case.name);
        found.push(Case { name, ask, expect: json!({"decision": "allow"}) });
    }
    found
}

/// The person's part in the first call that is allowed.
fn delegation(cases: &[Case]) -> Option<Case> {
    let allowed = |case: &&Case| case.expect.get("decision") == Some(&json!("allow"));
    let tools = cases.iter().filter(allowed);
    let mut ask = tools.map(|case| &case.ask).find(|ask| ask.get("asked") == Some(&json!("Agent::worker")))?.clone();
    let members = ask.as_object_mut()?;
    members.insert("asked".to_owned(), json!("Person::answers"));
    members.insert("as_delegator".to_owned(), json!(true));
    members.insert("delegated".to_owned(), json!(true));
    let expect = json!({"decision": "allow", "determining": ["person-delegates-tools"]});
    Some(Case { name: "a person's agent uses a tool on their behalf".to_owned(), ask, expect })
}

/// An input with one more value, below a path of names.
pub(crate) fn with(input: &Value, path: &[String], value: &Value) -> Value {
    let Some((name, rest)) = path.split_first() else { return value.clone() };
    let mut members = input.as_object().cloned().unwrap_or_default();
    let below = members.get(name).unwrap_or(&Value::Null);
    let below = with(below, rest, value);
    members.insert(name.clone(), below);
    Value::Object(members)
}

/// A workflow for tests.
pub(crate) fn workflow(id: &str, materiality: i64) -> Value {
    json!({
        "entity": format!("Workflow::{id}"),
        "attrs": {
            "materiality": materiality, "version": "1", "open": true, "anyTool": true, "tools": [],
            "anyRunner": true, "runners": [],
        },
    })
}

/// A question whether an operator may start a workflow.
pub(crate) fn ask_start(workflow: &str) -> Value {
    json!({"asked": "Person::owner", "op": "start", "resource": format!("Workflow::{workflow}"), "now": NOW})
}

fn pretty(value: &Value) -> String {
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}

/// On one line, with a space behind each comma and colon.
fn spaced(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(spaced).collect::<Vec<_>>().join(", ")),
        Value::Object(members) => {
            let member = |(key, value): (&String, &Value)| format!("{}: {}", Value::from(key.as_str()), spaced(value));
            format!("{{{}}}", members.iter().map(member).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}
