//! The base schema, and the effective schema made from it: members of the generated enums, one action per tool.
//!
//! Composition is text over a frozen text, in sorted order: the same data give the same bytes on every machine.
//! Absent: policies. Read next: `snapshot`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use cedar_policy::{Schema, SchemaFragment};
use cedar_policy_core::ast::EntityType;
use cedar_policy_core::validator::ValidatorSchema;
use countersign_gateway_model::{Digest, Name};

use crate::catalogue::CompiledTool;
pub use crate::reference::NAMESPACE;
use crate::reference::named_type;
use crate::value::write_cedar_string;

/// The base schema, version 1, as it ships.
pub const BASE: &str = include_str!("base.cedarschema");

/// What stands in a generated enum that the data give no member: Cedar has no empty enum.
pub(crate) const NO_MEMBER: &str = "none";

const ROLE: &str = "  entity Role;\n";
const RULE: &str = "  entity ApprovalRule;\n";
const COUNTERS: &str = "  type Counters = {};\n";
const ASK: &str = "  type Ask = {\n";

/// Plain SHA-256 of the base schema's text.
pub fn digest() -> Digest {
    static DIGEST: LazyLock<Digest> = LazyLock::new(|| crate::sha256(BASE.as_bytes()));
    *DIGEST
}

/// The base schema with its generated enums open: what entity versions are checked against.
#[expect(clippy::expect_used, reason = "the text is a constant of this crate, and a test parses it")]
pub(crate) fn open() -> &'static Schema {
    static OPEN: LazyLock<Schema> =
        LazyLock::new(|| Schema::from_cedarschema_str(BASE).expect("the base schema parses").0);
    &OPEN
}

/// The attribute of that name, if any type of the base schema has it.
pub(crate) fn attribute(name: &str) -> Option<&'static str> {
    const KNOWN: [&str; 49] = [
        "org",
        "active",
        "person",
        "owner",
        "autonomy",
        "scopes",
        "purpose",
        "risk",
        "dataClass",
        "mutableTarget",
        "version",
        "runner",
        "environment",
        "team",
        "materiality",
        "open",
        "anyTool",
        "tools",
        "anyRunner",
        "runners",
        "workflow",
        "state",
        "agent",
        "service",
        "initiator",
        "initiatorService",
        "accountable",
        "parent",
        "legalHold",
        "frozen",
        "instance",
        "rules",
        "roles",
        "groups",
        "teams",
        "involved",
        "tool",
        "openedAt",
        "expiresAt",
        "escalation",
        "gate",
        "author",
        "checked",
        "shadowed",
        "weakens",
        "rollback",
        "grantedBy",
        "source",
        "as_of",
    ];
    KNOWN.into_iter().find(|known| *known == name)
}

/// The name of a tool's action: `callTool:<tool>`, or `dispatch:<tool>` where a runner carries it out.
pub fn tool_action(tool: &CompiledTool) -> String {
    let group = if tool.tool.runner.is_some() { "dispatch" } else { "callTool" };
    format!("{group}:{}", tool.tool.name)
}

fn members<'a>(names: impl IntoIterator<Item = &'a Name>) -> String {
    let mut text = String::from("[");
    for (i, name) in names.into_iter().enumerate() {
        if i > 0 {
            text.push_str(", ");
        }
        write_cedar_string(name.as_str(), &mut text);
    }
    if text.len() == 1 {
        write_cedar_string(NO_MEMBER, &mut text);
    }
    text.push(']');
    text
}

/// The effective schema's text (without the bundle's additions).
pub fn effective(
    roles: &BTreeSet<Name>,
    rules: &BTreeSet<Name>,
    counters: &BTreeSet<Name>,
    tools: &BTreeMap<Name, Arc<CompiledTool>>,
) -> String {
    let mut counted = String::from("  type Counters = {");
    for (i, name) in counters.iter().enumerate() {
        if i > 0 {
            counted.push_str(", ");
        }
        write_cedar_string(name.as_str(), &mut counted);
        counted.push_str(": decimal");
    }
    counted.push_str("};\n");
    let ask = BASE.split_once(ASK).and_then(|(_, rest)| rest.split_once("  };\n")).map_or("", |(fields, _)| fields);
    let mut actions = String::new();
    for tool in tools.values() {
        actions.push_str("  action ");
        write_cedar_string(&tool_action(tool), &mut actions);
        let group = if tool.tool.runner.is_some() { "dispatch" } else { "callTool" };
        actions.push_str(" in [");
        actions.push_str(group);
        actions
            .push_str("] appliesTo {\n    principal: [Person, Agent, Service, System], resource: [Tool], context: {\n");
        actions.push_str(ask);
        actions.push_str("    input: ");
        tool.shape.cedar_type(&mut actions);
        actions.push_str(",\n    }\n  };\n");
    }
    let text = BASE
        .replacen(ROLE, &format!("  entity Role enum {};\n", members(roles)), 1)
        .replacen(RULE, &format!("  entity ApprovalRule enum {};\n", members(rules)), 1)
        .replacen(COUNTERS, &counted, 1);
    match text.rsplit_once('}') {
        Some((head, tail)) => format!("{head}{actions}}}{tail}"),
        None => text,
    }
}

/// Why a schema cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// The bundle's additions do not parse.
    #[error("schema additions `{file}` do not parse: {reason}")]
    Parse {
        /// The file.
        file: String,
        /// Cedar's words.
        reason: String,
    },
    /// The additions declare in the program's namespace, or in none.
    #[error("schema additions `{file}` declare in namespace `{namespace}`; use a namespace of the bundle's own")]
    Namespace {
        /// The file.
        file: String,
        /// Which.
        namespace: String,
    },
    /// The additions declare an action. Actions are the program's: a question is never about another one.
    #[error(
        "schema additions `{file}` declare action `{action}` in namespace `{namespace}`; actions are the program's, remove it"
    )]
    Action {
        /// The file.
        file: String,
        /// Its namespace.
        namespace: String,
        /// Which, the first in order.
        action: String,
    },
    /// Base and additions do not fit together.
    #[error("the schema is not consistent: {reason}")]
    Whole {
        /// Cedar's words.
        reason: String,
    },
}

/// Parses the effective schema with the bundle's additions (file name, text).
pub(crate) fn build(effective: &str, additions: &BTreeMap<String, String>) -> Result<Schema, SchemaError> {
    let whole = |reason: String| SchemaError::Whole { reason };
    let (base, _) = SchemaFragment::from_cedarschema_str(effective).map_err(|e| whole(report(&e)))?;
    let mut fragments = vec![base];
    for (file, text) in additions {
        let (fragment, _) = SchemaFragment::from_cedarschema_str(text)
            .map_err(|e| SchemaError::Parse { file: file.clone(), reason: report(&e) })?;
        for namespace in fragment.namespaces() {
            let name = namespace.map(|n| n.to_string()).unwrap_or_default();
            if name.is_empty() || name == NAMESPACE || name.starts_with("Countersign::") {
                return Err(SchemaError::Namespace { file: file.clone(), namespace: name });
            }
        }
        if let Some((namespace, action)) = declared_action(&fragment).map_err(whole)? {
            return Err(SchemaError::Action { file: file.clone(), namespace, action });
        }
        fragments.push(fragment);
    }
    Schema::from_schema_fragments(fragments).map_err(|e| whole(report(&e)))
}

/// The first action that a fragment declares, with its namespace.
fn declared_action(fragment: &SchemaFragment) -> Result<Option<(String, String)>, String> {
    let json = fragment.clone().to_json_value().map_err(|e| report(&e))?;
    let namespaces = json.as_object().ok_or("a schema is an object of namespaces")?;
    Ok(namespaces.iter().find_map(|(namespace, parts)| {
        let actions = parts.get("actions")?.as_object()?;
        actions.keys().next().map(|action| (namespace.clone(), action.clone()))
    }))
}

/// Whether a type is that of the program's actions.
pub(crate) fn is_action_type(ty: &EntityType) -> bool {
    static ACTION: LazyLock<EntityType> = LazyLock::new(|| named_type("Action"));
    *ty == *ACTION
}

/// A Cedar error with the reasons behind it, on one line.
pub(crate) fn report(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// The types that `ValidatorSchema` is needed for stay inside this crate.
pub(crate) fn core(schema: &Schema) -> &ValidatorSchema {
    schema.as_ref()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::reference::EntityKind;

    #[test]
    fn the_base_schema_stands_alone_and_has_every_kind_and_each_placeholder_once() {
        for kind in EntityKind::ALL {
            assert!(open().entity_types().any(|t| t.to_string() == format!("Countersign::{kind}")), "{kind}");
        }
        for placeholder in [ROLE, RULE, COUNTERS, ASK] {
            assert_eq!(BASE.matches(placeholder).count(), 1, "{placeholder}");
        }
    }

    #[test]
    fn additions_stay_out_of_the_programs_namespace() {
        let text = effective(&BTreeSet::new(), &BTreeSet::new(), &BTreeSet::new(), &BTreeMap::new());
        let add = |t: &str| build(&text, &BTreeMap::from([("a.cedarschema".to_owned(), t.to_owned())]));
        assert!(add("namespace Mine { entity Ticket; }").is_ok());
        assert!(matches!(add("namespace Countersign { entity Ticket; }"), Err(SchemaError::Namespace { .. })));
        assert!(matches!(add("entity Ticket;"), Err(SchemaError::Namespace { .. })));
        assert!(matches!(add("entity"), Err(SchemaError::Parse { .. })));
        for actions in [
            "namespace Mine { action approve; }",
            "namespace Mine { entity T; action \"callTool:a.b\" appliesTo { principal: [T], resource: [T] }; }",
            "namespace Mine { entity T; } namespace Mine::Below { action approve in [Countersign::Action::\"read\"]; }",
        ] {
            assert!(matches!(add(actions), Err(SchemaError::Action { .. })), "{actions}");
        }
        let again = effective(&BTreeSet::new(), &BTreeSet::new(), &BTreeSet::new(), &BTreeMap::new());
        assert_eq!(text, again);
        assert!(text.contains("entity Role enum [\"none\"]"));
    }

    #[test]
    fn every_attribute_of_the_base_schema_can_be_read_back() {
        let json = SchemaFragment::from_cedarschema_str(BASE).unwrap().0.to_json_string().unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        let types = json.pointer("/Countersign/entityTypes").and_then(serde_json::Value::as_object).unwrap();
        for (ty, def) in types {
            if let Some(attrs) = def.pointer("/shape/attributes").and_then(serde_json::Value::as_object) {
                for name in attrs.keys() {
                    assert!(attribute(name).is_some(), "{ty}.{name}");
                }
            }
        }
    }
}
