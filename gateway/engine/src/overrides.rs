//! An OVERRIDE: the new typed input of an item, asked about from the first round, and what it makes of the gate.
//!
//! Only keys that every rule of the item lets people change. Absent: votes and counting. Read next: `weighing`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};

use countersign_gateway_flow::OpenItem;
use countersign_gateway_model::{Digest, ItemId};
use countersign_ledger_entry::payload::{self, Salt};
use countersign_ledger_entry::{PayloadRef, PayloadRole};
use countersign_policy_decide::{Question, input};

use crate::Engine;
use crate::api::DecisionRequest;
use crate::asking::{Answered, ask, ask_transforming, with_satisfied};
use crate::beside::Beside;
use crate::deciding::Deciding;
use crate::demands::delta_bytes;
use crate::error::EngineError;
use crate::gates::Pending;
use crate::mint::MintExt as _;

/// A changed input on its way.
pub(crate) struct Replaced {
    pub(crate) digest: Digest,
    /// Salt of the digest: the evidence under the same salt opens it.
    pub(crate) salt: Salt,
    pub(crate) input: Vec<u8>,
    pub(crate) action: Value,
    pub(crate) canonical: Vec<u8>,
    pub(crate) questions: Vec<Question>,
    pub(crate) answered: Answered,
}

/// A delta as it is put on record: what each value came to. A mask may have changed what the person wrote, and what it
/// hides is kept nowhere.
fn kept_delta(
    delta: &BTreeMap<ItemId, Option<BTreeMap<String, Value>>>,
    replaced: &BTreeMap<ItemId, Replaced>,
) -> BTreeMap<ItemId, Option<BTreeMap<String, Value>>> {
    let came_to = |item: &ItemId, pointer: &String| {
        let input = replaced.get(item).and_then(|new| new.action.get("input"));
        input.and_then(|input| input.pointer(pointer)).cloned().unwrap_or_default()
    };
    delta
        .iter()
        .map(|(item, change)| {
            let change = change
                .as_ref()
                .map(|values| values.keys().map(|pointer| (pointer.clone(), came_to(item, pointer))).collect());
            (*item, change)
        })
        .collect()
}

impl Engine {
    /// Puts the change of a request on record, under the salt that its signature names: its digest, and its payload.
    pub(crate) fn keep_delta(
        &self,
        request: &DecisionRequest,
        replaced: &BTreeMap<ItemId, Replaced>,
        beside: &mut Beside,
    ) -> Result<Option<(Digest, PayloadRef)>, EngineError> {
        if request.delta.is_empty() {
            return Ok(None);
        }
        let kept = serde_json::to_value(kept_delta(&request.delta, replaced)).map_err(EngineError::damaged)?;
        let content = delta_bytes(kept).map_err(EngineError::damaged)?;
        let salt = request.assertion.as_ref().and_then(|signed| signed.delta_salt);
        let salt = salt.unwrap_or_else(|| self.mint().salt());
        let reference = beside.payload(PayloadRole::Delta, payload::seal(&salt, &content));
        Ok(Some((payload::salted(payload::DELTA, &salt, &content), reference)))
    }

    /// The new input of an OVERRIDE: only keys that every rule of the item lets people change, then schema and policy.
    pub(crate) fn replace(
        &self,
        work: &Deciding<'_>,
        item: &OpenItem,
        change: &BTreeMap<String, Value>,
    ) -> Result<Replaced, EngineError> {
        let Deciding { org, snapshot, opened, now, who, .. } = *work;
        let stored =
            opened.items.get(&item.item).ok_or_else(|| EngineError::damaged("the item's question was erased"))?;
        let tool = item.tool.as_ref().and_then(|t| snapshot.tool(t.as_str())).ok_or(EngineError::NotFound("tool"))?;
        let mut value = stored.action.get("input").cloned().unwrap_or_default();
        for (pointer, new) in change {
            let allowed = item.rules.iter().all(|form| {
                snapshot
                    .rules()
                    .get(form.rule.as_str())
                    .is_some_and(|rule| rule.overridable.iter().any(|p| p == pointer))
            });
            if !allowed {
                return Err(EngineError::invalid(
                    "delta",
                    format!("`{pointer}` may not be overridden under these rules"),
                ));
            }
            let slot = value
                .pointer_mut(pointer)
                .ok_or_else(|| EngineError::invalid("delta", format!("`{pointer}` is not in the input")))?;
            *slot = new.clone();
        }
        // Read as strictly as a proposal's input, so that a number that no double holds is refused and not rounded.
        let bytes = serde_json::to_vec(&value).map_err(EngineError::damaged)?;
        let typed = input::parse(tool, &bytes)
            .map_err(|source| EngineError::Input { tool: tool.tool.name.to_string(), source })?;
        let typed = Arc::new(typed);
        let questions: Vec<Question> = stored
            .questions
            .iter()
            .cloned()
            .map(|mut q| {
                q.input = Some(Arc::clone(&typed));
                q.now = now;
                q.satisfied = BTreeSet::new();
                q.overridden = BTreeSet::new();
                q
            })
            .collect();
        let reading = org.counting.reading(snapshot, now, None);
        let answered = ask_transforming(snapshot, &org.entities, questions, &reading);
        let typed = answered.input().cloned().unwrap_or(typed);
        let questions = answered.questions().to_vec();
        let mut action = stored.action.clone();
        if let Some(map) = action.as_object_mut() {
            // The typed form, as policy saw it and as it will be carried out.
            let typed = serde_json::from_slice(typed.canonical()).map_err(EngineError::damaged)?;
            map.insert("input".to_owned(), typed);
            map.insert("overridden_by".to_owned(), json!(org.label(who.pseudonym)));
        }
        let canonical = serde_json::to_vec(&action).map_err(EngineError::damaged)?;
        let salt = self.mint().salt();
        Ok(Replaced {
            digest: payload::salted(payload::ACTION, &salt, &canonical),
            salt,
            input: typed.canonical().to_vec(),
            action,
            canonical,
            questions,
            answered,
        })
    }

    /// The gate's items as they stand once an OVERRIDE is counted.
    pub(crate) fn after_override(
        work: &Deciding<'_>,
        request: &DecisionRequest,
        replaced: &BTreeMap<ItemId, Replaced>,
    ) -> Vec<Pending> {
        let Deciding { org, snapshot, gate, opened, now, .. } = *work;
        let stays = |item: &&OpenItem| !matches!(request.delta.get(&item.item), Some(None));
        let mut pending = Vec::new();
        for item in gate.live_items().filter(stays) {
            if let Some(new) = replaced.get(&item.item) {
                let rules = new.answered.verdict.rules.clone();
                pending.push(Pending::of_item(snapshot, item, &new.action, rules, &new.answered));
            } else if let Some(stored) = opened.items.get(&item.item) {
                let questions = with_satisfied(&stored.questions, &BTreeSet::new(), &BTreeSet::new(), now);
                let answered = ask(snapshot, org.facts(), questions);
                let rules = item.rules.iter().map(|form| form.rule.clone()).collect();
                pending.push(Pending::of_item(snapshot, item, &stored.action, rules, &answered));
            }
        }
        pending
    }
}
