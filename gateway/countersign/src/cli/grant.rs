//! Task grants: a rule met in advance, asked for, listed, taken back.
//!
//! Absent: giving one, which is a decision at the gate that a request opens (`gate`).

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::{Global, Paging, query};
use crate::client::segment;

/// Task grants.
#[derive(Debug, Subcommand)]
pub(crate) enum Grant {
    /// Ask people to meet a rule in advance, for calls within bounds
    #[command(
        after_help = "A bound is for one place of a tool's input: TOOL, a JSON pointer, `=`, and `any` or JSON: `{\"equals\":…}`,\n\
        `{\"one_of\":[…]}`, `{\"each_of\":[…]}` of a list, `{\"prefix\":\"src/\"}`, `{\"maximum\":500}`, `{\"between\":[1,5]}`.\n\
        What no bound names may not be in the input. The rule's own quorum gives it, at a gate of the instance.\n\n\
        Example:\n  countersign grant request inst_0192… --rule external-communication --uses 5 --for-s 3600 \\\n    \
        --bound 'mail.send/to={\"each_of\":[\"shop@example.com\"]}' --bound mail.send/subject=any --bound mail.send/body=any \\\n    \
        --reason \"five reminders to one shop\""
    )]
    Request {
        /// The instance.
        instance: String,
        /// The approval rule.
        #[arg(long)]
        rule: String,
        /// Uses at most.
        #[arg(long)]
        uses: u32,
        /// How long it lasts once it is given, in seconds.
        #[arg(long)]
        for_s: u64,
        /// A tool whose input needs no bounds, because it has no keys.
        #[arg(long = "tool", value_name = "TOOL")]
        tools: Vec<String>,
        /// What may stand at one place of a tool's input.
        #[arg(long = "bound", value_name = "TOOL/POINTER=BOUND")]
        bounds: Vec<String>,
        /// The one revision of a tool's target.
        #[arg(long = "revision", value_name = "TOOL=REVISION")]
        revisions: Vec<String>,
        /// How much its uses take of a counter at most.
        #[arg(long, value_name = "COUNTER=AMOUNT")]
        budget: Option<String>,
        /// Why; shown to those who are asked.
        #[arg(long)]
        reason: String,
    },
    /// List the grants of an instance
    #[command(after_help = "Example:\n  countersign grant list inst_0192…")]
    List {
        /// The instance.
        instance: String,
        #[command(flatten)]
        paging: Paging,
    },
    /// Take a grant back, or withdraw the request for one; what was permitted under it stays permitted
    #[command(
        visible_alias = "withdraw",
        after_help = "While people are still asked, whoever asked and the owner withdraw it: its gate goes, and the instance goes on.\n\n\
        Example:\n  countersign grant revoke inst_0192… grant_0192…"
    )]
    Revoke {
        /// The instance.
        instance: String,
        /// The grant.
        grant: String,
    },
}

pub(crate) async fn grant(verb: Grant, global: &Global) -> Result<()> {
    let client = global.client()?;
    match verb {
        Grant::Request { instance, rule, uses, for_s, tools, bounds, revisions, budget, reason } => {
            let body = json!({
                "rule": rule, "uses": uses, "for_s": for_s, "reason": reason,
                "tools": terms(&tools, &bounds, &revisions)?, "budget": budget.as_deref().map(counted).transpose()?,
            });
            let path = format!("/api/v1/instances/{}/grants", segment(&instance)?);
            global.answer(&client.post(&path, &body).await?)
        }
        Grant::List { instance, paging } => {
            let path = format!("/api/v1/instances/{}/grants{}", segment(&instance)?, query(&[], Some(&paging)));
            let page = client.get(&path).await?;
            global.page(&page, &["id", "rule", "state", "used", "uses", "until", "gate"])
        }
        Grant::Revoke { instance, grant } => {
            let path = format!("/api/v1/instances/{}/grants/{}/revoke", segment(&instance)?, segment(&grant)?);
            global.answer(&client.post(&path, &json!({})).await?)
        }
    }
}

/// The tools with their bounds, in the order in which they are first named.
fn terms(tools: &[String], bounds: &[String], revisions: &[String]) -> Result<Vec<Value>> {
    let mut all: Vec<(String, Map<String, Value>, Option<String>)> =
        tools.iter().map(|tool| (tool.clone(), Map::new(), None)).collect();
    let place = |all: &mut Vec<(String, Map<String, Value>, Option<String>)>, tool: &str| {
        all.iter().position(|(name, ..)| name == tool).unwrap_or_else(|| {
            all.push((tool.to_owned(), Map::new(), None));
            all.len() - 1
        })
    };
    for bound in bounds {
        let (at, value) =
            bound.split_once('=').with_context(|| format!("`{bound}` is no bound: give TOOL/POINTER=BOUND"))?;
        let slash = at.find('/').with_context(|| format!("`{bound}` names no place: give TOOL/POINTER=BOUND"))?;
        let (tool, pointer) = at.split_at(slash);
        let value = match value {
            "any" => json!("any"),
            value => serde_json::from_str(value).with_context(|| {
                format!("`{value}` is no bound: give `any` or JSON, as in '{{\"equals\":\"main\"}}'")
            })?,
        };
        let at = place(&mut all, tool);
        let taken = all.get_mut(at).and_then(|(_, input, _)| input.insert(pointer.to_owned(), value));
        if taken.is_some() {
            bail!("`{tool}{pointer}` has two bounds: give one");
        }
    }
    for revision in revisions {
        let (tool, one) =
            revision.split_once('=').with_context(|| format!("`{revision}` is no revision: give TOOL=REVISION"))?;
        let at = place(&mut all, tool);
        if let Some((_, _, revision)) = all.get_mut(at) {
            *revision = Some(one.to_owned());
        }
    }
    Ok(all
        .into_iter()
        .map(|(tool, input, revision)| json!({ "tool": tool, "input": input, "revision": revision }))
        .collect())
}

fn counted(budget: &str) -> Result<Value> {
    let (counter, amount) =
        budget.split_once('=').with_context(|| format!("`{budget}` is no budget: give COUNTER=AMOUNT"))?;
    Ok(json!({ "counter": counter, "amount": amount }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(all: &[&str]) -> Vec<String> {
        all.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn bounds_are_gathered_by_tool_and_none_is_lost() {
        let bounds = texts(&["m.s/to={\"equals\":\"a=b\"}", "m.s/a/b=any", "p.t/amount={\"maximum\":5}"]);
        let terms = terms(&texts(&["x.y"]), &bounds, &texts(&["p.t=r1"])).unwrap();
        let wanted = json!([
            { "tool": "x.y", "input": {}, "revision": null },
            { "tool": "m.s", "input": { "/to": { "equals": "a=b" }, "/a/b": "any" }, "revision": null },
            { "tool": "p.t", "input": { "/amount": { "maximum": 5 } }, "revision": "r1" },
        ]);
        assert_eq!(Value::from(terms), wanted);
        for wrong in ["m.s/to", "m.s=any", "m.s/to=all", "m.s/to={"] {
            assert!(super::terms(&[], &texts(&[wrong]), &[]).is_err(), "{wrong}");
        }
        assert!(super::terms(&[], &texts(&["m.s/to=any", "m.s/to=any"]), &[]).is_err());
        assert!(counted("eur").is_err());
        assert_eq!(counted("eur=5.0").unwrap(), json!({ "counter": "eur", "amount": "5.0" }));
    }
}
