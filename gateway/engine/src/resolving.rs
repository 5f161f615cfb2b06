//! What a gate of actions gives when it resolves: a permit for each action, and the runs that begin with it.
//!
//! Absent: whether it resolves (`reasking`, and `flow`), and the handing over of runs (`runs`).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use countersign_gateway_flow::{Force, Grant, OpenItem};
use countersign_gateway_model::{ActionId, ItemId};
use countersign_ledger_entry::body::{GateSubject, QuestionKind, Reservation};

use crate::Engine;
use crate::asking::{ask_reading, with_satisfied};
use crate::beside::Beside;
use crate::counters::Reading;
use crate::deciding::Deciding;
use crate::error::EngineError;
use crate::mint::MintExt as _;
use crate::overrides::Replaced;
use crate::permits::{PreparedRun, in_shadow, may_change};
use crate::reasking::Again;
use crate::stream::Held;

/// Runs that begin with a decision, by action.
pub(crate) type Runs = Vec<(ActionId, PreparedRun)>;

impl Engine {
    /// Permits for what a gate of actions that resolves stands in front of, and the runs that they begin.
    pub(crate) fn grants(
        &self,
        work: &Deciding<'_>,
        held: &Held,
        replaced: &BTreeMap<ItemId, Replaced>,
        reasked: &mut [Again],
        (beside, reading): (&mut Beside, &mut Reading),
    ) -> Result<(Vec<Grant>, Runs), EngineError> {
        let Deciding { gate, opened, .. } = *work;
        let (mut grants, mut runs) = (Vec::new(), Vec::new());
        if gate.subject != GateSubject::Actions {
            return Ok((grants, runs));
        }
        for item in gate.live_items() {
            let input = match replaced.get(&item.item) {
                Some(new) => Some(new.input.clone()),
                None => opened.items.get(&item.item).and_then(|o| canonical_input(&o.action)),
            };
            let again = reasked.iter_mut().find(|again| again.item == item.item);
            let reservations = again.map(|again| std::mem::take(&mut again.reservations)).unwrap_or_default();
            grants.extend(self.grant_of(work, held, item, (input, reservations), beside, &mut runs)?);
        }
        for cleared in &gate.cleared {
            grants.extend(self.grant_cleared(work, held, cleared.action, (beside, &mut *reading), &mut runs)?);
        }
        Ok((grants, runs))
    }

    fn grant_of(
        &self,
        work: &Deciding<'_>,
        held: &Held,
        item: &OpenItem,
        (input, reservations): (Option<Vec<u8>>, Vec<Reservation>),
        beside: &mut Beside,
        runs: &mut Vec<(ActionId, PreparedRun)>,
    ) -> Result<Option<Grant>, EngineError> {
        if item.question == QuestionKind::Operation {
            return Ok(self.grant_operation(work, item));
        }
        let Some(tool) = item.tool.as_ref().and_then(|t| work.snapshot.tool(t.as_str())).cloned() else {
            return Ok(None);
        };
        let Some(input) = input else { return Ok(None) };
        // An OVERRIDE changes the input, and not what the permit is bound to besides.
        let revision = work.opened.items.get(&item.item).and_then(|stored| revision_of(&stored.action));
        let (permit, run) =
            self.permit_terms(Some(&tool), &input, held, (false, true, reservations), work.now, beside)?;
        if let Some(run) = run {
            runs.push((item.action, run));
        }
        Ok(Some(Grant {
            action: item.action,
            question: item.question,
            tool: tool.tool.name.clone(),
            tool_version: tool.version,
            mutable_target: may_change(&tool, revision),
            permit,
            cleared: None,
        }))
    }

    /// The permit of one of the gateway's own operations, on what the question named.
    fn grant_operation(&self, work: &Deciding<'_>, item: &OpenItem) -> Option<Grant> {
        let stored = work.opened.items.get(&item.item)?;
        Some(Grant {
            action: item.action,
            question: item.question,
            tool: item.tool.clone()?,
            tool_version: serde_json::from_value(stored.action.get("tool_version")?.clone()).ok()?,
            mutable_target: false,
            permit: self.operation_terms(work.now),
            cleared: None,
        })
    }

    fn grant_cleared(
        &self,
        work: &Deciding<'_>,
        held: &Held,
        action: ActionId,
        (beside, reading): (&mut Beside, &mut Reading),
        runs: &mut Vec<(ActionId, PreparedRun)>,
    ) -> Result<Option<Grant>, EngineError> {
        let Deciding { org, snapshot, opened, now, .. } = *work;
        let Some(stored) = opened.cleared.get(&action) else { return Ok(None) };
        let tool = stored.action.get("tool").and_then(Value::as_str).and_then(|t| snapshot.tool(t)).cloned();
        let Some(tool) = tool else { return Ok(None) };
        let Some(input) = canonical_input(&stored.action) else { return Ok(None) };
        let questions = with_satisfied(&stored.questions, &BTreeSet::new(), &BTreeSet::new(), now);
        let answered = ask_reading(snapshot, &org.entities, questions, reading).in_shadow(in_shadow(
            snapshot,
            held.fold()?.created(),
            now,
        ));
        let enforced = answered.force() == Force::Enforced;
        let allowed = answered.allowed().then(|| answered.questions().first()).flatten();
        let reservations = reading.reserve(snapshot, allowed)?;
        let bytes = serde_json::to_vec(&stored.action).map_err(EngineError::damaged)?;
        let (reference, _) = beside.add(answered.evidence(&self.mint().salt(), &bytes));
        let dispatched = tool.tool.runner.is_some();
        let (permit, run) =
            self.permit_terms(Some(&tool), &input, held, (false, enforced, reservations), now, beside)?;
        if let Some(run) = run {
            runs.push((action, run));
        }
        Ok(Some(Grant {
            action,
            question: if dispatched { QuestionKind::Dispatch } else { QuestionKind::CallTool },
            tool: tool.tool.name.clone(),
            tool_version: tool.version,
            mutable_target: may_change(&tool, revision_of(&stored.action)),
            permit,
            cleared: Some(answered.asked(Some(reference))),
        }))
    }
}

fn revision_of(action: &Value) -> Option<&str> {
    action.get("revision")?.as_str()
}

fn canonical_input(action: &Value) -> Option<Vec<u8>> {
    serde_json::to_vec(action.get("input")?).ok()
}
