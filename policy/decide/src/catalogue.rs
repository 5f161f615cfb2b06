//! The tool catalogue as typed data: what a tool is called, what it takes, how much harm it can do.
//!
//! Risk, data class and scopes are the registrar's word, never the server's; left out, they are the highest. A tool
//! that is not listed is unknown, and every question about it is denied. Absent: calling anything.
//! Read next: `input` (a tool's schema at work), `schema` (the Cedar action made from it).

use std::collections::BTreeMap;
use std::sync::Arc;

use countersign_gateway_model::{Digest, Name, SecretRef};
use serde::{Deserialize, Serialize};

use crate::detectors::Compiled;
use crate::json::{Json, JsonError};
use crate::masks::Step;
use crate::shape::{Shape, ShapeError};

/// The highest risk, and what a tool without a word about it has.
pub const MAX_RISK: u8 = 4;

/// The catalogue of one organization (`tools/catalogue.json`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    /// The tools, in any order; the canonical form sorts them by name.
    #[serde(default)]
    pub tools: Vec<Tool>,
}

/// One tool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    /// `<server>.<tool>`: the part before the first dot names the server.
    pub name: Name,
    /// What it does; untrusted text, never read by policy.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// JSON Schema of the input; an object.
    pub input: serde_json::Value,
    /// JSON Schema of the output, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<serde_json::Value>,
    /// 0 reads only, 1 changes what is the agent's own, 2 changes what others see, 3 is hard to undo, 4 cannot be undone.
    #[serde(default = "highest_risk")]
    pub risk: u8,
    /// The most confidential data it touches.
    #[serde(default)]
    pub data_class: DataClass,
    /// Scopes the calling agent must hold, all of them.
    #[serde(default)]
    pub scopes: Vec<Name>,
    /// Its target has no revision that a permit could be bound to; shown to approvers, rechecked by the runner.
    #[serde(default)]
    pub mutable_target: bool,
    /// Present: the tool is a dispatch, carried out by a runner of ours. Absent: the agent carries it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner: Option<ToolRunner>,
}

/// How a dispatched tool is run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolRunner {
    /// Which adapter.
    pub kind: RunnerKind,
    /// Where its effects land.
    pub environment: Environment,
    /// Program and arguments, run in the workspace; fixed by the registrar, never taken from the input.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Longest run, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_s: Option<u64>,
    /// Variables of its environment whose values are secrets, by name; resolved by the runner just before it starts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, SecretRef>,
}

impl ToolRunner {
    /// The name of a variable that no job could have.
    fn unusable_variable(&self) -> Option<&str> {
        let sound = |name: &str| {
            name.len() <= 100
                && !name.starts_with("COUNTERSIGN_")
                && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        };
        self.secrets.keys().map(String::as_str).find(|name| !sound(name))
    }
}

macro_rules! word {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $text)] $variant),+
        }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name as JSON and Cedar spell it.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text),+
                }
            }
        }
    };
}

word! {
    /// How confidential data is.
    DataClass {
        /// Anyone may see it.
        Public = "public",
        /// The organization's own.
        Internal = "internal",
        /// For those who need it.
        Confidential = "confidential",
        /// Credentials, secrets, special categories.
        Restricted = "restricted",
    }
}

word! {
    /// A runner adapter.
    RunnerKind {
        /// The sandboxed process runner.
        Process = "process",
        /// Docker.
        Docker = "docker",
        /// Kubernetes.
        Kubernetes = "kubernetes",
        /// Modal.
        Modal = "modal",
        /// A pull runner elsewhere.
        Remote = "remote",
    }
}

word! {
    /// Where effects land.
    Environment {
        /// A workspace of the instance's own.
        Sandbox = "sandbox",
        /// Development.
        Dev = "dev",
        /// Staging.
        Staging = "staging",
        /// Production.
        Production = "production",
    }
}

#[expect(clippy::derivable_impls, reason = "the highest class is the safe default, which a derive would hide")]
impl Default for DataClass {
    fn default() -> Self {
        Self::Restricted
    }
}

fn highest_risk() -> u8 {
    MAX_RISK
}

/// Why a catalogue cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// Not JSON, or not strict.
    #[error("the tool catalogue cannot be read")]
    Json(#[from] JsonError),
    /// JSON of another shape.
    #[error("the tool catalogue has a wrong shape: {0}")]
    Shape(#[from] serde_json::Error),
    /// A tool that breaks a rule.
    #[error("tool `{tool}`: {problem}")]
    Tool {
        /// Its name.
        tool: Name,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A tool whose input schema cannot be used.
    #[error("tool `{tool}`: its input schema cannot be used")]
    Input {
        /// Its name.
        tool: Name,
        /// Why.
        source: ShapeError,
    },
}

/// A tool as the gateway uses it: its definition, its version, and its input schema made ready.
#[derive(Debug)]
pub struct CompiledTool {
    /// What was registered.
    pub tool: Tool,
    /// SHA-256 over the canonical {name, description, input, output, runner}: what the server says of itself, and what
    /// our runner carries out. Another definition is another version.
    pub version: Digest,
    /// The input schema, ready.
    pub shape: Shape,
    /// What of the input is masked while it is read; the bundle's.
    pub(crate) masks: Vec<(Name, Step)>,
    /// What is looked for in the input; the bundle's.
    pub(crate) detectors: Vec<Arc<Compiled>>,
}

impl Tool {
    /// The server: what stands before the first dot.
    pub fn server(&self) -> &str {
        self.name.as_str().split_once('.').map_or("", |(server, _)| server)
    }

    /// The version digest.
    pub fn version(&self) -> Digest {
        let mut members = vec![
            ("name".to_owned(), Json::text(self.name.as_str())),
            ("description".to_owned(), Json::text(&*self.description)),
            ("input".to_owned(), Json::from_serde(&self.input)),
        ];
        if let Some(output) = &self.output {
            members.push(("output".to_owned(), Json::from_serde(output)));
        }
        // What is carried out is what was approved: another command is another tool.
        if let Some(Ok(runner)) = self.runner.as_ref().map(serde_json::to_value) {
            members.push(("runner".to_owned(), Json::from_serde(&runner)));
        }
        crate::sha256(&Json::object(members).canonical())
    }
}

impl Catalogue {
    /// Reads `catalogue.json`, strictly. Tools are checked by [`Catalogue::compile`].
    pub fn parse(bytes: &[u8]) -> Result<Self, CatalogueError> {
        let json = Json::parse(bytes)?;
        let mut catalogue: Self = serde_json::from_slice(&json.canonical())?;
        catalogue.tools.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(catalogue)
    }

    /// The canonical bytes (RFC 8785), tools sorted by name.
    pub fn canonical(&self) -> Vec<u8> {
        let mut sorted = self.clone();
        sorted.tools.sort_by(|a, b| a.name.cmp(&b.name));
        // Names, numbers, strings and JSON values always serialize; an empty form would change the digest and be seen.
        serde_json::to_value(&sorted).map(|v| Json::from_serde(&v).canonical()).unwrap_or_default()
    }

    /// Plain SHA-256 of the canonical bytes.
    pub fn digest(&self) -> Digest {
        crate::sha256(&self.canonical())
    }

    /// Checks every tool and makes its schema ready.
    pub fn compile(&self) -> Result<BTreeMap<Name, Arc<CompiledTool>>, CatalogueError> {
        let mut compiled = BTreeMap::new();
        for tool in &self.tools {
            let bad =
                |problem: &str| Err(CatalogueError::Tool { tool: tool.name.clone(), problem: problem.to_owned() });
            let simple = |part: &str| {
                !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
            };
            match tool.name.as_str().split_once('.') {
                Some((server, rest)) if simple(server) && rest.split('.').all(simple) => {}
                _ => return bad("a tool is called `<server>.<tool>`, of letters, digits, `_` and `-`"),
            }
            if tool.name.as_str().len() > 100 {
                return bad("the name is longer than 100 bytes; shorten it");
            }
            if tool.risk > MAX_RISK {
                return bad("`risk` lies between 0 and 4");
            }
            if let Some(variable) = tool.runner.as_ref().and_then(ToolRunner::unusable_variable) {
                return bad(&format!(
                    "`secrets` names the variable `{variable}`: use letters, digits and `_`, and not the prefix `COUNTERSIGN_`"
                ));
            }
            let shape = Shape::compile(&tool.input)
                .map_err(|source| CatalogueError::Input { tool: tool.name.clone(), source })?;
            let ready = CompiledTool {
                version: tool.version(),
                shape,
                tool: tool.clone(),
                masks: Vec::new(),
                detectors: Vec::new(),
            };
            if compiled.insert(tool.name.clone(), Arc::new(ready)).is_some() {
                return bad("it is listed twice; keep one");
            }
        }
        Ok(compiled)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn what_the_registrar_does_not_say_is_the_highest() {
        let c = Catalogue::parse(br#"{"tools":[{"name":"a.b","input":{"type":"object"}}]}"#).unwrap();
        let tool = c.tools.first().unwrap();
        assert_eq!((tool.risk, tool.data_class), (MAX_RISK, DataClass::Restricted));
    }

    #[test]
    fn the_digest_does_not_depend_on_order_or_spelling_and_the_version_only_on_the_definition() {
        let a = Catalogue::parse(
            br#"{"tools":[{"name":"a.b","input":{"type":"object","properties":{}}},{"name":"a.a","input":{"type":"object"}}]}"#,
        )
        .unwrap();
        let b = Catalogue::parse(
            br#"{ "tools" : [ {"input":{"type":"object"},"name":"a.a"},{"input":{"properties":{},"type":"object"},"name":"a.b"}]}"#,
        )
        .unwrap();
        assert_eq!(a.digest(), b.digest());
        assert_eq!(Catalogue::parse(&a.canonical()).unwrap(), a);
        let mut risk = a.tools.first().unwrap().clone();
        let version = risk.version();
        risk.risk = 0;
        assert_eq!(risk.version(), version);
        risk.description = "other".to_owned();
        assert_ne!(risk.version(), version);
    }

    #[test]
    fn a_tool_that_breaks_a_rule_is_refused_by_name() {
        for (tools, part) in [
            (r#"{"name":"nodot","input":{"type":"object"}}"#, "<server>.<tool>"),
            (r#"{"name":"a.b/c","input":{"type":"object"}}"#, "<server>.<tool>"),
            (r#"{"name":"a.b","input":{"type":"object"},"risk":5}"#, "between 0 and 4"),
            (r#"{"name":"a.b","input":{"type":"string"}}"#, "input schema"),
            (
                r#"{"name":"a.b","input":{"type":"object"},"runner":{"kind":"process","environment":"dev",
                    "secrets":{"COUNTERSIGN_X":"secret://env/TOKEN"}}}"#,
                "COUNTERSIGN_X",
            ),
            (r#"{"name":"a.b","input":{"type":"object"}},{"name":"a.b","input":{"type":"object"}}"#, "listed twice"),
        ] {
            let c = Catalogue::parse(format!(r#"{{"tools":[{tools}]}}"#).as_bytes()).unwrap();
            let error = c.compile().unwrap_err().to_string();
            assert!(error.contains(part), "{tools}: {error}");
        }
    }
}
