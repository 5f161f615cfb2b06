//! Tools from the `tools/list` result of an MCP server, as definitions for the catalogue.
//!
//! Taken over are name, description and schemas. Hints of harm (`annotations`) are the server's word about itself and are
//! not: risk, data class and scopes come from the registrar. A tool that cannot be listed is left out with the reason, and
//! what is not listed is denied. Absent: asking a server. Read next: `registration`.

use std::collections::{BTreeMap, BTreeSet};

use countersign_gateway_model::Name;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::catalogue::{Catalogue, Tool};
use crate::json::shown;
use crate::registration::{Definition, Fault, MAX_AT_ONCE, RegistrationError, Words, ready};

/// Members of a tool that are taken over.
const TAKEN: [&str; 4] = ["name", "description", "inputSchema", "outputSchema"];

/// What a registrar imports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct McpTools {
    /// What the server is called here: the part before the first dot of each name.
    pub server: Name,
    /// The result of `tools/list`, or the whole JSON-RPC answer.
    pub tools_list: Value,
    /// The registrar's words about every tool.
    #[serde(default)]
    pub defaults: Words,
    /// The registrar's words about one tool, by its name at the server; they come first.
    #[serde(default)]
    pub tools: BTreeMap<String, Words>,
}

/// What an import comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct McpImport {
    /// What can be listed.
    pub tools: Vec<Tool>,
    /// What cannot, with where it stands and why.
    pub skipped: Vec<Fault>,
    /// Members of tools that were not taken over.
    pub ignored: BTreeSet<String>,
    /// Tools that the catalogue lists for this server and the server does not: they stay until they are retired.
    pub missing: Vec<Name>,
}

impl McpTools {
    /// Reads the list. A tool whose definition is what the catalogue lists keeps what the registrar said of it; one whose
    /// definition changed is weighed anew.
    ///
    /// # Errors
    /// [`RegistrationError`] if it is no list of tools, not all of it, or if nothing in it can be listed.
    pub fn import(&self, current: &Catalogue) -> Result<McpImport, RegistrationError> {
        let wrong = |pointer: &str, tool: &str, problem: &str| {
            RegistrationError(vec![Fault {
                pointer: pointer.to_owned(),
                tool: shown(tool),
                problem: problem.to_owned(),
            }])
        };
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if !self.server.as_str().bytes().all(plain) {
            return Err(wrong(
                "/server",
                "*",
                "a server is called by letters, digits, `_` and `-`; choose such a name",
            ));
        }
        let (list, place) = match self.tools_list.get("result") {
            Some(result) => (result, "/tools_list/result"),
            None => (&self.tools_list, "/tools_list"),
        };
        let Some(tools) = list.get("tools").and_then(Value::as_array) else {
            return Err(wrong(
                place,
                "*",
                "there is no array `tools`; give the result of `tools/list` as the server sent it",
            ));
        };
        if list.get("nextCursor").is_some_and(|cursor| !cursor.is_null()) {
            let problem =
                "`nextCursor` says that the list goes on; ask for all pages and put their tools into one list";
            return Err(wrong(&format!("{place}/nextCursor"), "*", problem));
        }
        if tools.len() > MAX_AT_ONCE {
            let problem = format!("{} tools are handed in; 1 to {MAX_AT_ONCE} are taken at a time", tools.len());
            return Err(wrong(&format!("{place}/tools"), "*", &problem));
        }
        let mut import =
            McpImport { tools: Vec::new(), skipped: Vec::new(), ignored: BTreeSet::new(), missing: Vec::new() };
        let mut offered = BTreeSet::new();
        let mut spoken: BTreeSet<&str> = BTreeSet::new();
        for (at, tool) in tools.iter().enumerate() {
            let pointer = format!("{place}/tools/{at}");
            let said = tool.get("name").and_then(Value::as_str).unwrap_or_default();
            spoken.insert(said);
            let unknown = tool.as_object().into_iter().flat_map(serde_json::Map::keys);
            import.ignored.extend(unknown.filter(|key| !TAKEN.contains(&key.as_str())).map(|key| shown(key)));
            match self.listed(tool, said, current) {
                Ok(tool) if !offered.insert(tool.name.clone()) => {
                    let problem = "the list has it twice; the first is taken".to_owned();
                    import.skipped.push(Fault { pointer, tool: shown(said), problem });
                }
                Ok(tool) => match ready(&tool, &pointer) {
                    Ok(_) => import.tools.push(tool),
                    Err(faults) => import.skipped.extend(faults.into_iter().map(at_the_server)),
                },
                Err(problem) => import.skipped.push(Fault { pointer, tool: shown(said), problem }),
            }
        }
        if let Some(name) = self.tools.keys().find(|name| !spoken.contains(name.as_str())) {
            return Err(wrong("/tools", name, "the list has no such tool; correct the name, or leave it out"));
        }
        if import.tools.is_empty() {
            if import.skipped.is_empty() {
                return Err(wrong(&format!("{place}/tools"), "*", "the list is empty; there is nothing to register"));
            }
            return Err(RegistrationError(import.skipped));
        }
        let ours = current.tools.iter().filter(|tool| tool.server() == self.server.as_str());
        import.missing = ours.map(|tool| tool.name.clone()).filter(|name| !offered.contains(name)).collect();
        Ok(import)
    }

    /// One tool of the list as the catalogue would list it.
    fn listed(&self, tool: &Value, said: &str, current: &Catalogue) -> Result<Tool, String> {
        let name = Name::new(&format!("{}.{said}", self.server));
        let name = match name {
            Ok(name) if !said.is_empty() => name,
            _ => return Err("its name cannot be part of `<server>.<tool>`; rename it at the server".to_owned()),
        };
        let description = match tool.get("description") {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(_) => return Err("its description is not a text; leave it out".to_owned()),
        };
        let Some(input) = tool.get("inputSchema") else {
            return Err("it has no `inputSchema`; what it takes must be declared".to_owned());
        };
        let mut definition = Definition {
            name,
            description,
            input: input.clone(),
            output: tool.get("outputSchema").filter(|schema| !schema.is_null()).cloned(),
            words: match self.tools.get(said) {
                Some(words) => words.or(&self.defaults),
                None => self.defaults.clone(),
            },
            runner: None,
        };
        if let Some(before) = current.tools.iter().find(|tool| tool.name == definition.name) {
            if before.runner.is_some() {
                return Err("a runner carries it out here; register it as a whole instead".to_owned());
            }
            if before.version() == definition.clone().into_tool().version() {
                let kept = Words {
                    risk: Some(before.risk),
                    data_class: Some(before.data_class),
                    scopes: Some(before.scopes.clone()),
                    mutable_target: Some(before.mutable_target),
                };
                definition.words = definition.words.or(&kept);
            }
        }
        Ok(definition.into_tool())
    }
}

/// A place in a definition of ours, as the server's list spells it.
fn at_the_server(fault: Fault) -> Fault {
    let renamed = [("/input", "/inputSchema"), ("/output", "/outputSchema")]
        .into_iter()
        .find_map(|(ours, theirs)| Some(format!("{}{theirs}", fault.pointer.strip_suffix(ours)?)));
    Fault { pointer: renamed.unwrap_or(fault.pointer), ..fault }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    use serde_json::json;

    use super::*;
    use crate::catalogue::{DataClass, MAX_RISK};

    fn issue() -> Value {
        json!({"name": "create_issue", "title": "Create", "description": "Makes an issue.",
            "inputSchema": {"type": "object", "properties": {"title": {"type": "string"}}},
            "annotations": {"readOnlyHint": true, "destructiveHint": false}})
    }

    fn asked(list: Value) -> McpTools {
        McpTools {
            server: Name::new("github").unwrap(),
            tools_list: list,
            defaults: Words::default(),
            tools: BTreeMap::new(),
        }
    }

    #[test]
    fn a_servers_word_about_its_own_harm_is_not_taken() {
        let import = asked(json!({"tools": [issue()]})).import(&Catalogue::default()).unwrap();
        assert_eq!((import.tools[0].risk, import.tools[0].data_class), (MAX_RISK, DataClass::Restricted));
        assert_eq!(import.ignored.iter().collect::<Vec<_>>(), ["annotations", "title"]);
        let rpc = json!({"jsonrpc": "2.0", "id": 1, "result": {"tools": [issue()]}});
        assert_eq!(asked(rpc).import(&Catalogue::default()).unwrap(), import);
    }

    #[test]
    fn words_stay_with_a_definition_and_fall_back_to_the_highest_with_another() {
        let mut first = asked(json!({"tools": [issue()]}));
        let low = Words { risk: Some(1), data_class: Some(DataClass::Internal), ..Words::default() };
        first.tools.insert("create_issue".to_owned(), low);
        let tools = first.import(&Catalogue::default()).unwrap().tools;
        assert_eq!((tools[0].risk, tools[0].data_class), (1, DataClass::Internal));
        let current = Catalogue { tools };
        let again = asked(json!({"tools": [issue()]})).import(&current).unwrap();
        assert_eq!(again.tools, current.tools, "the same definition keeps the registrar's words");
        let mut changed = issue();
        changed["description"] = json!("Makes an issue, and pays for it.");
        let changed = asked(json!({"tools": [changed]})).import(&current).unwrap();
        assert_eq!(changed.tools[0].risk, MAX_RISK, "what changed is weighed anew");
        let gone =
            asked(json!({"tools": [{"name": "other", "inputSchema": {"type": "object"}}]})).import(&current).unwrap();
        assert_eq!(gone.missing, [current.tools[0].name.clone()]);
    }

    #[test]
    fn what_cannot_be_listed_is_left_out_with_the_reason_and_place() {
        let list = json!({"tools": [
            issue(), issue(), {"name": "a b", "inputSchema": {"type": "object"}}, {"name": "bare"},
            {"name": "list", "inputSchema": {"type": "array"}}, {"name": "odd", "description": 7, "inputSchema": {"type": "object"}},
            {"inputSchema": {"type": "object"}}, 7
        ]});
        let import = asked(list).import(&Catalogue::default()).unwrap();
        assert_eq!(import.tools.len(), 1);
        let places: Vec<&str> = import.skipped.iter().map(|fault| fault.pointer.as_str()).collect();
        assert_eq!(
            places,
            [
                "/tools_list/tools/1",
                "/tools_list/tools/2",
                "/tools_list/tools/3",
                "/tools_list/tools/4/inputSchema",
                "/tools_list/tools/5",
                "/tools_list/tools/6",
                "/tools_list/tools/7",
            ]
        );
    }

    #[test]
    fn half_a_list_no_list_and_words_about_nothing_are_refused() {
        for (list, part) in [
            (json!({"tools": [issue()], "nextCursor": "x"}), "all pages"),
            (json!({"tools": []}), "the list is empty"),
            (json!({"tools": [{"name": "bare"}]}), "inputSchema"),
            (json!([issue()]), "no array `tools`"),
        ] {
            let error = asked(list).import(&Catalogue::default()).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        let mut typo = asked(json!({"tools": [issue()]}));
        typo.tools.insert("create_isue".to_owned(), Words::default());
        assert!(typo.import(&Catalogue::default()).unwrap_err().to_string().contains("no such tool"));
        let dotted = McpTools { server: Name::new("a.b").unwrap(), ..asked(json!({"tools": [issue()]})) };
        assert!(dotted.import(&Catalogue::default()).is_err());
    }
}
