//! What a grant is good for: read from a request, held to the rule's bounds and the tools' schemas, put in words.
//!
//! The canonical terms are a payload whose salted digest is the grant's `scope`: what people approved, and what each use is
//! held to. Absent: whether an input is within them (`policy/decide`). Read next: `uses`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use countersign_gateway_model::{Name, PrincipalKind};
use countersign_ledger_entry::body::Reservation;
use countersign_policy_decide::counters::units;
use countersign_policy_decide::terms::{Bound, ToolTerms};

use crate::Snapshot;
use crate::error::EngineError;
use crate::grants::{GrantBudget, GrantRequest};
use crate::view::{escape, quote};

/// Longest revision that a grant may name.
const MAX_REVISION: usize = 128;

/// The terms of a grant, in the form that people's approval covers. The order of its members is part of the format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GrantTerms {
    pub(crate) rule: Name,
    pub(crate) uses: u32,
    pub(crate) for_s: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) budget: Option<GrantBudget>,
    pub(crate) tools: BTreeMap<Name, ToolTerms>,
}

impl GrantTerms {
    /// The terms that a request asks for, with their budget as a counter knows it.
    pub(crate) fn read(
        snapshot: &Snapshot,
        who: PrincipalKind,
        request: GrantRequest,
    ) -> Result<(Self, Option<Reservation>), EngineError> {
        let GrantRequest { rule, tools: asked, uses, for_s, budget, reason: _ } = request;
        if !(1..=countersign_gateway_flow::MAX_TOOLS).contains(&asked.len()) {
            let most = countersign_gateway_flow::MAX_TOOLS;
            return Err(EngineError::invalid("tools", format!("name 1 to {most} tools")));
        }
        let mut tools = BTreeMap::new();
        for one in asked {
            let Some(compiled) = snapshot.tool(one.tool.as_str()) else {
                return Err(EngineError::invalid("tools", format!("the catalogue lists no tool `{}`", one.tool)));
            };
            let plain = |text: &String| text.len() <= MAX_REVISION && text.chars().all(|c| c.is_ascii_graphic());
            if !one.revision.as_ref().is_none_or(plain) {
                return Err(EngineError::invalid("revision", "give at most 128 printable ASCII characters"));
            }
            let terms = ToolTerms { version: compiled.version, revision: one.revision, input: one.input };
            if tools.insert(one.tool.clone(), terms).is_some() {
                return Err(EngineError::invalid("tools", format!("tool `{}` stands twice", one.tool)));
            }
        }
        let terms = Self { rule, uses, for_s, budget, tools };
        // What is wrong with the amount by itself says nothing of the policy.
        terms.budget.as_ref().map(amount_of).transpose()?;
        let budget = terms.check(snapshot).map_err(|error| told(who, error))?;
        Ok((terms, budget))
    }

    /// Whether the rule, the tools and the counters of a policy let this be granted; the budget as its counter knows it.
    pub(crate) fn check(&self, snapshot: &Snapshot) -> Result<Option<Reservation>, EngineError> {
        let rule = snapshot.rules().get(self.rule.as_str());
        let bounds =
            rule.and_then(|rule| rule.grantable).ok_or_else(|| EngineError::NotGrantable(self.rule.clone()))?;
        let too_wide = |what, most| Err(EngineError::GrantTooWide { rule: self.rule.clone(), what, most });
        if self.uses == 0 || self.for_s == 0 {
            return Err(EngineError::invalid("uses", "ask for at least one use, for at least one second"));
        }
        if self.uses > bounds.max_uses {
            return too_wide("uses", u64::from(bounds.max_uses));
        }
        if self.for_s > bounds.max_s {
            return too_wide("seconds", bounds.max_s);
        }
        for (name, terms) in &self.tools {
            let tool = snapshot.tool(name.as_str()).ok_or(EngineError::NotFound("tool"))?;
            terms.check(tool)?;
        }
        self.budget.as_ref().map(|budget| self.check_budget(snapshot, budget)).transpose()
    }

    /// A budget bounds only what is counted: each tool must take from its counter.
    fn check_budget(&self, snapshot: &Snapshot, budget: &GrantBudget) -> Result<Reservation, EngineError> {
        let Some(counter) = snapshot.counters().get(&budget.counter) else {
            return Err(EngineError::invalid("budget", format!("the bundle has no counter `{}`", budget.counter)));
        };
        let takes = |tool: &Name| counter.reserve.iter().any(|one| one.tools.iter().any(|t| t.admits(tool.as_str())));
        if let Some(tool) = self.tools.keys().find(|tool| !takes(tool)) {
            let problem = format!("tool `{tool}` takes nothing of counter `{}`: leave it out", budget.counter);
            return Err(EngineError::invalid("budget", problem));
        }
        Ok(Reservation { counter: budget.counter.clone(), version: 0, amount: amount_of(budget)? })
    }

    /// The terms as people read them: fields of the gateway's own, values quoted and escaped.
    pub(crate) fn words(&self, snapshot: &Snapshot) -> Vec<(&'static str, String)> {
        let mut out = vec![
            ("Uses:", format!("at most {}, each of them on record", self.uses)),
            ("Lasts:", format!("{} s from approval, at most as long as the instance", self.for_s)),
        ];
        if let Some(budget) = &self.budget {
            let unit = snapshot.counters().get(&budget.counter).map(|c| c.unit.clone()).unwrap_or_default();
            let amount = escape(&format!("{} {unit}", budget.amount), 100);
            out.push((
                "Budget:",
                format!("at most {} of counter {}, over all uses", amount.trim_end(), budget.counter),
            ));
        }
        for (name, terms) in &self.tools {
            let compiled = snapshot.tool(name.as_str());
            let risk = compiled.map(|c| format!(", risk {} of 4, {} data", c.tool.risk, c.tool.data_class.as_str()));
            out.push(("Tool:", format!("{name}, version {}{}", terms.version, risk.unwrap_or_default())));
            let revision = terms.revision.as_ref().map(|one| quote(&Value::from(one.as_str())));
            out.push(("  revision", revision.unwrap_or_else(|| "any".to_owned())));
            for (pointer, bound) in &terms.input {
                out.push(("  input", format!("{} {}", escape(pointer, 512), in_words(bound))));
            }
            out.push(("  input", "nothing that is not named above".to_owned()));
        }
        out
    }
}

/// A budget's amount, as counters count.
fn amount_of(budget: &GrantBudget) -> Result<u64, EngineError> {
    let amount = units(&budget.amount).and_then(|units| u64::try_from(units).ok()).filter(|units| *units > 0);
    amount.ok_or_else(|| {
        EngineError::invalid("budget", "the amount is decimal text above 0 with 1 to 4 places, like \"500.0\"")
    })
}

/// What the asker is told: how far a rule may be met in advance, and what is counted, is for people to know. An agent would
/// ask for just as much.
fn told(who: PrincipalKind, error: EngineError) -> EngineError {
    match error {
        EngineError::NotGrantable(_)
        | EngineError::GrantTooWide { .. }
        | EngineError::Invalid { field: "budget", .. }
            if who != PrincipalKind::Person =>
        {
            EngineError::GrantRefused
        }
        other => other,
    }
}

fn in_words(bound: &Bound) -> String {
    match bound {
        Bound::Any => "may be anything, or left out".to_owned(),
        Bound::Equals(value) => format!("is {}", quote(value)),
        Bound::OneOf(values) => {
            let values: Vec<String> = values.iter().map(quote).collect();
            format!("is one of {}", values.join(", "))
        }
        Bound::EachOf(values) => {
            let values: Vec<String> = values.iter().map(quote).collect();
            format!("is a list of nothing but {}", values.join(", "))
        }
        Bound::Prefix(text) => format!("begins with {}", quote(&Value::from(text.as_str()))),
        Bound::Maximum(most) => format!("is a number from 0 to {}", quote(most)),
        Bound::Between(least, most) => format!("is a number from {} to {}", quote(least), quote(most)),
    }
}
