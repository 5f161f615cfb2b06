//! Approval rules as typed data: who must agree, how many, for how long, and what happens on silence.
//!
//! Cedar decides *that* a rule must be met and who may vote; this data says what "met" means. Cedar never reads it;
//! the engine counts by it. Absent: counting itself (`gateway/flow`), policies (`kernel`, `snapshot`).
//! All spans are whole seconds. Unknown fields are refused. Read next: `snapshot`.

use std::collections::BTreeMap;

use countersign_gateway_model::{Assurance, Digest, Name};
use serde::{Deserialize, Serialize};

use crate::json::Json;

/// The approval rules of one bundle (`rules.json`): rule name to rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// By name; the names become the members of the Cedar enum `ApprovalRule`.
    #[serde(default)]
    pub rules: BTreeMap<Name, ApprovalRule>,
}

/// What it takes to meet one rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApprovalRule {
    /// One line for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub title: String,
    /// Who may vote.
    pub authority: Authority,
    /// How many must agree.
    #[serde(default)]
    pub quorum: Quorum,
    /// Who may not vote beyond the acting principal and its chain, who never may.
    #[serde(default)]
    pub exclude: Exclude,
    /// Whether one eligible person's refusal ends the matter at once. Default: yes.
    #[serde(default = "yes")]
    pub veto: bool,
    /// Whether a task grant may meet it in advance, and within which bounds. Absent: no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grantable: Option<Grantable>,
    /// How long a vote counts. Absent: as long as the gate is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validity_s: Option<u64>,
    /// When silence ends the gate. Absent: never expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<u64>,
    /// What silence means.
    #[serde(default)]
    pub on_timeout: OnTimeout,
    /// When to remind, after the gate opened, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reminders_s: Vec<u64>,
    /// Who else is asked, and when, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub escalation: Vec<Escalation>,
    /// JSON pointers of the input keys that an OVERRIDE may change. Empty: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overridable: Vec<String>,
    /// Whether the overrider counts as one vote for the changed input. Default: no.
    #[serde(default)]
    pub override_counts: bool,
    /// Whether the rule can be lifted without its quorum, and by whom. Absent: no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub break_glass: Option<BreakGlass>,
    /// How sure the voter's login must be.
    #[serde(default)]
    pub demand: Demand,
    /// Bounds of a justification, in characters after trimming.
    #[serde(default)]
    pub justification: Justification,
}

/// Who may vote: anyone who holds one of the roles, or belongs to one of the groups or teams.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authority {
    /// Roles; members of the Cedar enum `Role`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<Name>,
    /// Groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Name>,
    /// Teams.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub teams: Vec<Name>,
}

/// How many must agree. A person counts once, whatever they hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quorum {
    /// Distinct persons; at least 1.
    pub persons: u32,
    /// Distinct teams among them; 0 asks for none.
    #[serde(default)]
    pub distinct_teams: u32,
    /// Groups each of which must be represented by at least one of them ("legal and finance").
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Name>,
}

impl Default for Quorum {
    fn default() -> Self {
        Self { persons: 1, distinct_teams: 0, groups: Vec::new() }
    }
}

#[expect(clippy::struct_excessive_bools, reason = "independent exclusions, each a key of the rule")]
/// Exclusions that a rule adds. The acting principal's chain is always excluded; `four_eyes` mode sets all of these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exclude {
    /// Who caused the instance.
    #[serde(default)]
    pub initiator: bool,
    /// Owners of every agent in the instance's ancestry.
    #[serde(default)]
    pub owner: bool,
    /// Who issued a credential of such an agent.
    #[serde(default)]
    pub issuer: bool,
    /// The person accountable for the instance.
    #[serde(default)]
    pub accountable: bool,
}

/// Bounds of a task grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grantable {
    /// Longest life, in seconds.
    pub max_s: u64,
    /// Most uses.
    pub max_uses: u32,
}

/// What silence means when the timeout passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnTimeout {
    /// SYSTEM rejects the gate.
    #[default]
    Reject,
}

/// A further circle of people after a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Escalation {
    /// Seconds after the gate opened.
    pub after_s: u64,
    /// Who may vote from then on, besides the rule's own authority.
    pub authority: Authority,
    /// Where to say so: names of notification targets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notify: Vec<Name>,
}

/// Lifting one rule without its quorum: a separate, reviewed action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BreakGlass {
    /// Who may.
    pub authority: Authority,
    /// Seconds within which a review must follow.
    pub review_within_s: u64,
}

/// How sure the voter's login must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Demand {
    /// The least assurance of the login.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assurance: Option<Assurance>,
    /// The login may not be older than this many seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fresh_s: Option<u64>,
    /// The voter signs with a key of their own.
    #[serde(default)]
    pub assertion: bool,
}

/// Bounds of a justification, in characters after trimming.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Justification {
    /// At least; 1 or more.
    pub min: u32,
    /// At most.
    pub max: u32,
}

impl Default for Justification {
    fn default() -> Self {
        Self { min: 1, max: 4000 }
    }
}

fn yes() -> bool {
    true
}

/// Why approval rules cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// Not JSON, or not strict.
    #[error("approval rules cannot be read")]
    Json(#[from] crate::json::JsonError),
    /// JSON of another shape.
    #[error("approval rules have a wrong shape: {0}")]
    Shape(#[from] serde_json::Error),
    /// A rule that could never be met or never be judged.
    #[error("approval rule `{rule}`: {problem}")]
    Rule {
        /// Its name.
        rule: Name,
        /// Where in `rules.json`: a JSON pointer. What is not there is named by where it would be.
        at: String,
        /// What is wrong and what to do.
        problem: String,
    },
}

impl RulesError {
    /// Where in `rules.json`, as a JSON pointer, if it is one rule's.
    pub fn at(&self) -> Option<&str> {
        match self {
            Self::Rule { at, .. } => Some(at),
            Self::Json(_) | Self::Shape(_) => None,
        }
    }
}

impl Rules {
    /// Reads and checks `rules.json`.
    pub fn parse(bytes: &[u8]) -> Result<Self, RulesError> {
        let json = Json::parse(bytes)?;
        let rules: Self = serde_json::from_slice(&json.canonical())?;
        rules.check()?;
        Ok(rules)
    }

    /// The rule of that name.
    pub fn get(&self, name: &str) -> Option<&ApprovalRule> {
        self.rules.get(name)
    }

    /// The canonical bytes (RFC 8785).
    pub fn canonical(&self) -> Vec<u8> {
        // Serializing names, numbers and booleans cannot fail; an empty form would change the digest and be seen.
        serde_json::to_value(self).map(|v| Json::from_serde(&v).canonical()).unwrap_or_default()
    }

    /// Plain SHA-256 of the canonical bytes.
    pub fn digest(&self) -> Digest {
        crate::sha256(&self.canonical())
    }

    fn check(&self) -> Result<(), RulesError> {
        for (name, rule) in &self.rules {
            let bad = |member: &str, problem: &str| {
                let at = format!("/rules/{}{member}", name.as_str().replace('/', "~1"));
                Err(RulesError::Rule { rule: name.clone(), at, problem: problem.to_owned() })
            };
            if name.as_str() == crate::schema::NO_MEMBER {
                return bad("", "the name is reserved; choose another");
            }
            if rule.authority.is_empty() {
                return bad("/authority", "`authority` names nobody; name a role, a group or a team");
            }
            if rule.quorum.persons == 0 {
                return bad("/quorum/persons", "`quorum.persons` is 0; ask for at least 1");
            }
            if rule.quorum.distinct_teams > rule.quorum.persons {
                return bad(
                    "/quorum/distinct_teams",
                    "`quorum.distinct_teams` exceeds `quorum.persons`; a person counts for one team",
                );
            }
            if rule.justification.min == 0 || rule.justification.max < rule.justification.min {
                return bad("/justification", "`justification` is never optional; give 1 <= min <= max");
            }
            for (seconds, member) in [(rule.timeout_s, "/timeout_s"), (rule.validity_s, "/validity_s")] {
                if seconds == Some(0) {
                    return bad(
                        member,
                        "`timeout_s` and `validity_s` are at least 1 second; leave them out for no limit",
                    );
                }
            }
            if !rule.reminders_s.is_sorted() {
                return bad("/reminders_s", "`reminders_s` is not in ascending order; sort it");
            }
            if !rule.escalation.is_sorted_by_key(|e| e.after_s) {
                return bad("/escalation", "`escalation` is not in ascending order; sort it by `after_s`");
            }
            if let Some(nobody) = rule.escalation.iter().position(|e| e.authority.is_empty()) {
                let member = format!("/escalation/{nobody}/authority");
                return bad(&member, "an `escalation` names nobody; name a role, a group or a team");
            }
            if rule.break_glass.as_ref().is_some_and(|b| b.authority.is_empty()) {
                return bad("/break_glass/authority", "`break_glass` names nobody; name a role, a group or a team");
            }
            if let Some(wrong) = rule.overridable.iter().position(|p| !p.starts_with('/')) {
                let member = format!("/overridable/{wrong}");
                return bad(&member, "`overridable` holds json pointers; start each with `/`");
            }
        }
        Ok(())
    }
}

impl Authority {
    /// Whether it names nobody.
    pub fn is_empty(&self) -> bool {
        self.roles.is_empty() && self.groups.is_empty() && self.teams.is_empty()
    }

    /// Whether someone with these roles, groups and teams may vote.
    pub fn admits(&self, roles: &[Name], groups: &[Name], teams: &[Name]) -> bool {
        let meet = |a: &[Name], b: &[Name]| a.iter().any(|x| b.contains(x));
        meet(&self.roles, roles) || meet(&self.groups, groups) || meet(&self.teams, teams)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_full_rule_round_trips_and_its_digest_ignores_spelling() {
        let text = r#"{"rules":{"refund":{
            "title":"Large refunds","authority":{"roles":["FINANCE"],"groups":["legal"],"teams":["core"]},
            "quorum":{"persons":2,"distinct_teams":2,"groups":["legal"]},"exclude":{"owner":true,"initiator":true},
            "veto":false,"grantable":{"max_s":3600,"max_uses":5},"validity_s":600,"timeout_s":7200,
            "on_timeout":"reject","reminders_s":[60,600],
            "escalation":[{"after_s":900,"authority":{"roles":["CFO"]},"notify":["mail"]}],
            "overridable":["/amount"],"override_counts":true,
            "break_glass":{"authority":{"roles":["CISO"]},"review_within_s":86400},
            "demand":{"assurance":"mfa","fresh_s":300,"assertion":true},"justification":{"min":10,"max":500}}}}"#;
        let rules = Rules::parse(text.as_bytes()).unwrap();
        let again = Rules::parse(&rules.canonical()).unwrap();
        assert_eq!(rules, again);
        assert_eq!(rules.digest(), again.digest());
        assert!(rules.get("refund").unwrap().authority.admits(&[], &[Name::new("legal").unwrap()], &[]));
    }

    #[test]
    fn a_rule_that_could_never_be_met_or_judged_is_refused() {
        for (rule, part) in [
            (r#"{"authority":{}}"#, "names nobody"),
            (r#"{"authority":{"roles":["A"]},"quorum":{"persons":0}}"#, "at least 1"),
            (r#"{"authority":{"roles":["A"]},"quorum":{"persons":1,"distinct_teams":2}}"#, "exceeds"),
            (r#"{"authority":{"roles":["A"]},"justification":{"min":0,"max":5}}"#, "never optional"),
            (r#"{"authority":{"roles":["A"]},"timeout_s":0}"#, "at least 1 second"),
            (r#"{"authority":{"roles":["A"]},"reminders_s":[5,2]}"#, "ascending"),
            (r#"{"authority":{"roles":["A"]},"overridable":["amount"]}"#, "json pointers"),
            (r#"{"authority":{"roles":["A"]},"unknown":1}"#, "wrong shape"),
            (r#"{"authority":{"roles":["A b"]}}"#, "wrong shape"),
        ] {
            let error = Rules::parse(format!(r#"{{"rules":{{"r":{rule}}}}}"#).as_bytes()).unwrap_err();
            assert!(error.to_string().contains(part), "{rule}: {error}");
        }
        assert!(matches!(Rules::parse(br#"{"rules":{},"rules":{}}"#), Err(RulesError::Json(_))));
    }
}
