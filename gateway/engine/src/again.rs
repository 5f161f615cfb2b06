//! The same actions again, while people are asked about them: the gate that is open, and no second one.
//!
//! The same is what the same account, on behalf of the same, asks of the same instance: every action with its tool, tool
//! version, revision and typed input. An action of another instance is another one, whatever it says: its digest names its
//! instance, its permit is good there alone, and other people may be involved in it. Nothing is decided here and nothing
//! committed: what waits is on record once. Read next: `actions`.

use serde_json::Value;

use countersign_gateway_flow::OpenGate;
use countersign_gateway_model::{ActionId, ItemId, Name, Principal};
use countersign_ledger_entry::body::GateSubject;
use countersign_policy_decide::input;

use crate::api::{ActionAnswer, ActionRequest, ActionResult, Proposed};
use crate::error::EngineError;
use crate::opened::Opened;
use crate::org::Org;
use crate::stream::Held;
use crate::{Engine, Snapshot};

/// An action that waits at a gate.
struct Waits<'a> {
    action: ActionId,
    /// None: it needs nobody itself, and waits for its batch.
    item: Option<ItemId>,
    canonical: &'a Value,
}

impl Engine {
    /// The answer to a batch that waits already; none where something else waits.
    pub(crate) async fn proposed_already(
        &self,
        org: &Org,
        snapshot: &Snapshot,
        who: &Principal,
        held: &Held,
        requests: &[ActionRequest],
    ) -> Result<Option<Proposed>, EngineError> {
        let fold = held.fold()?;
        let Some(gate) = fold.gate().filter(|gate| is_theirs(gate, who)) else { return Ok(None) };
        // What was erased, or was changed at the gate, is not what is asked for now.
        let Ok(opened) = self.opened(org, snapshot, held, gate).await else { return Ok(None) };
        let Some(mut waits) = waiting(gate, &opened) else { return Ok(None) };
        if waits.len() != requests.len() {
            return Ok(None);
        }
        let mut items = Vec::with_capacity(requests.len());
        for request in requests {
            let same = waits.iter().position(|one| is_same(snapshot, request, one.canonical));
            let Some(Waits { action, item, .. }) = same.map(|at| waits.remove(at)) else { return Ok(None) };
            items.push(ActionAnswer {
                action,
                tool: request.tool.clone(),
                result: ActionResult::Waiting { item },
                instead: None,
            });
        }
        let receipt = self.receipt_of_last(org, fold.id(), fold.sequence()).await?;
        Ok(Some(Proposed { items, gate: Some(gate.gate), state: fold.state(), receipt, first: false }))
    }
}

fn is_theirs(gate: &OpenGate, who: &Principal) -> bool {
    let chain = who.on_behalf_of.iter().map(|delegator| delegator.pseudonym);
    gate.subject == GateSubject::Actions && gate.proposer == who.pseudonym && gate.chain.iter().copied().eq(chain)
}

/// What waits at the gate, action by action; none where a part of it cannot be read, or is not what was proposed any more.
fn waiting<'a>(gate: &OpenGate, opened: &'a Opened) -> Option<Vec<Waits<'a>>> {
    let mut waits = Vec::with_capacity(gate.items.len() + gate.cleared.len());
    for item in &gate.items {
        let read = opened.items.get(&item.item).filter(|_| !item.dropped && !item.replaced)?;
        waits.push(Waits { action: item.action, item: Some(item.item), canonical: &read.action });
    }
    for cleared in &gate.cleared {
        let read = opened.cleared.get(&cleared.action)?;
        waits.push(Waits { action: cleared.action, item: None, canonical: &read.action });
    }
    Some(waits)
}

/// Whether a request asks for what waits, under the catalogue of today.
fn is_same(snapshot: &Snapshot, request: &ActionRequest, canonical: &Value) -> bool {
    let text = |key: &str| canonical.get(key).and_then(Value::as_str);
    let Some(tool) = snapshot.tool(request.tool.as_str()) else { return false };
    let Ok(input) = input::parse(tool, &request.input) else { return false };
    let input: Result<Value, _> = serde_json::from_slice(input.canonical());
    text("tool") == Some(Name::as_str(&request.tool))
        && text("tool_version") == Some(tool.version.to_string().as_str())
        && text("revision") == request.revision.as_deref()
        && input.is_ok_and(|input| Some(&input) == canonical.get("input"))
}
