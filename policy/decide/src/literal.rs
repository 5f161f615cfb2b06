//! The entities that a policy names: whether one of them can ever be asked about.
//!
//! Every entity with a record is called `<organization>/<id>` in Cedar, teams, groups and tools too. A policy that names
//! one without its organization, or one of another organization, is well typed and applies to nothing: a forbid would fail
//! open, in silence. Actions and members of enums (roles, rules, states) are part of the schema, which knows theirs.
//! Absent: types (`loading` asks Cedar). Read next: `reference`, `loading`.

use std::fmt;

use countersign_gateway_model::{Name, OrgId};
use serde_json::Value;

use crate::reference::{EntityKind, NAMESPACE};

/// Whose a draft is while nobody has said. No organization has this id, so no entity of one is named by it.
pub const NOBODY: OrgId = OrgId::from_bytes([0; 16]);

/// An entity with a record that a policy names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntityLiteral {
    /// Its type.
    pub kind: EntityKind,
    /// What stands between the quotes.
    pub id: String,
}

/// How many characters of an id errors quote: whatever an organization and a name need.
const MAX_QUOTED: usize = 170;

fn quoted(id: &str) -> String {
    id.chars().take(MAX_QUOTED).flat_map(char::escape_debug).collect()
}

/// `Countersign::Agent::"fixer"`
impl fmt::Display for EntityLiteral {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{NAMESPACE}::{}::\"{}\"", self.kind, quoted(&self.id))
    }
}

impl EntityLiteral {
    /// The organization that it names, and the id within that.
    fn parts(&self) -> Option<(OrgId, &str)> {
        let (organization, id) = self.id.split_once('/')?;
        Some((organization.parse().ok()?, id))
    }

    /// The organization that it names.
    pub fn organization(&self) -> Option<OrgId> {
        self.parts().map(|(organization, _)| organization)
    }

    /// Why nothing in that organization is ever called so, in words, and how it is written instead.
    pub fn misnamed(&self, organization: OrgId) -> Option<(String, String)> {
        let kind = self.kind;
        let prefix = if organization == NOBODY { "<organization>".to_owned() } else { organization.to_string() };
        let written = |id: &str| format!("write `{NAMESPACE}::{kind}::\"{prefix}/{id}\"`");
        let fixed = match kind {
            EntityKind::System => Some("system"),
            EntityKind::Organization => Some("self"),
            _ => None,
        };
        match self.parts() {
            None => {
                let next = match Name::new(&self.id) {
                    Ok(id) => written(fixed.unwrap_or(id.as_str())),
                    Err(_) => written(fixed.unwrap_or("<id>")),
                };
                Some((format!("`{self}` names no organization, so nothing is ever called that"), next))
            }
            Some((other, id)) if other != organization => {
                let text = format!("`{self}` is of another organization than `{organization}`, so it never applies");
                Some((text, format!("{}, or leave it out", written(&quoted(id)))))
            }
            Some((_, id)) if fixed.is_some_and(|fixed| fixed != id) => {
                let text = format!("`{self}` is not what the one {kind} of an organization is called");
                Some((text, written(fixed.unwrap_or_default())))
            }
            Some((_, id)) => Name::new(id)
                .is_err()
                .then(|| (format!("`{self}`: no id has such a form, so nothing is ever called that"), written("<id>"))),
        }
    }
}

/// Whether a type has records, so that its ids are no part of the schema.
pub(crate) fn recorded(ty: &str) -> Option<EntityKind> {
    let name = ty.strip_prefix(NAMESPACE)?.strip_prefix("::")?;
    EntityKind::ALL.iter().copied().find(|kind| kind.as_str() == name)
}

/// Every entity with a record that a policy names in its scope or in a condition, of the policy in Cedar's JSON form: each
/// once, in the order of type and id.
pub fn entity_literals(policy: &Value) -> Vec<EntityLiteral> {
    let mut found = Vec::new();
    for part in ["principal", "action", "resource", "conditions"] {
        policy.get(part).into_iter().for_each(|part| walk(part, &mut found));
    }
    found.sort();
    found.dedup();
    found
}

fn walk(json: &Value, found: &mut Vec<EntityLiteral>) {
    match json {
        Value::Object(map) => {
            // Members of a record are expressions, never bare texts: one with these names is no literal.
            if let (Some(Value::String(ty)), Some(Value::String(id))) = (map.get("type"), map.get("id")) {
                found.extend(recorded(ty).map(|kind| EntityLiteral { kind, id: id.clone() }));
                return;
            }
            map.values().for_each(|value| walk(value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| walk(item, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use cedar_policy::Policy;

    use super::*;

    const ORG: OrgId = OrgId::from_bytes([1; 16]);

    fn named(head: &str, condition: &str) -> Vec<String> {
        let text = format!("@id(\"x\") forbid ({head}) when {{ {condition} }};");
        let json = Policy::parse(None, text).unwrap().to_json().unwrap();
        entity_literals(&json).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_entity_with_a_record_is_found_wherever_it_stands_and_nothing_else() {
        let head = r#"principal == Countersign::Agent::"a", action == Countersign::Action::"start", resource in Countersign::Team::"t""#;
        assert_eq!(named(head, "true"), [r#"Countersign::Team::"t""#, r#"Countersign::Agent::"a""#]);
        let within = r#"principal is Countersign::Person in Countersign::Group::"g", action, resource"#;
        assert_eq!(named(within, "true"), [r#"Countersign::Group::"g""#]);
        for condition in [
            r#"principal == Countersign::Tool::"t""#,
            r#"[Countersign::Tool::"t"].contains(principal)"#,
            r#"principal in [Countersign::Tool::"t"]"#,
            r#"resource is Countersign::Tool in Countersign::Tool::"t""#,
            r#"if true then false else {a: {b: Countersign::Tool::"t"}}.a.b == principal"#,
            r#"{"Value": Countersign::Tool::"t"}["Value"] == principal"#,
            r#"{"type": Countersign::Tool::"t", "id": "u"}.type == principal"#,
            r#"(Countersign::Tool::"t").org == "o" || !(principal has org)"#,
        ] {
            assert_eq!(named("principal, action, resource", condition), [r#"Countersign::Tool::"t""#], "{condition}");
        }
        for condition in [
            r#"principal in Countersign::Role::"ADMIN""#,
            r#"context.satisfied.contains(Countersign::ApprovalRule::"r")"#,
            r#"context.instance.state == Countersign::State::"RUNNING""#,
            r#"principal == Mine::Agent::"a""#,
            r#"context.claims.contains("Countersign::Agent::x")"#,
            r#"{"type": "Countersign::Agent", "id": "a"}.id == "a""#,
        ] {
            assert_eq!(named("principal, action, resource", condition), Vec::<String>::new(), "{condition}");
        }
    }

    #[test]
    fn only_an_id_within_the_organization_is_one_that_something_has() {
        let other = OrgId::from_bytes([2; 16]);
        for (kind, id, words) in [
            (EntityKind::Agent, format!("{ORG}/fixer"), None),
            (EntityKind::Tool, format!("{ORG}/repo.read"), None),
            (EntityKind::Team, format!("{ORG}/a/b"), None),
            (EntityKind::System, format!("{ORG}/system"), None),
            (EntityKind::Organization, format!("{ORG}/self"), None),
            (EntityKind::Agent, "fixer".to_owned(), Some("names no organization")),
            (EntityKind::Agent, "team/fixer".to_owned(), Some("names no organization")),
            (EntityKind::Agent, ORG.to_string(), Some("names no organization")),
            (
                EntityKind::Agent,
                format!("{}/fixer", ORG.to_string().replace("01", "AB")),
                Some("names no organization"),
            ),
            (EntityKind::Agent, format!("{other}/fixer"), Some("of another organization")),
            (EntityKind::Agent, format!("{ORG}/"), Some("no id has such a form")),
            (EntityKind::Agent, format!("{ORG}/fi xer"), Some("no id has such a form")),
            (EntityKind::System, format!("{ORG}/timer"), Some("what the one System")),
            (EntityKind::Organization, format!("{ORG}/acme"), Some("what the one Organization")),
        ] {
            let literal = EntityLiteral { kind, id };
            let said = literal.misnamed(ORG);
            match words {
                None => assert_eq!(said, None, "{literal}"),
                Some(words) => {
                    let (text, next) = said.unwrap();
                    assert!(text.contains(words), "{literal}: {text}");
                    assert!(next.contains(&format!("Countersign::{kind}::\"{ORG}/")), "{literal}: {next}");
                }
            }
        }
        let bare = EntityLiteral { kind: EntityKind::Agent, id: "fixer".to_owned() };
        assert!(bare.misnamed(ORG).unwrap().1.ends_with(&format!("Agent::\"{ORG}/fixer\"`")));
        assert!(
            bare.misnamed(NOBODY).unwrap().1.ends_with("Agent::\"<organization>/fixer\"`"),
            "nobody's id is no advice"
        );
    }
}
