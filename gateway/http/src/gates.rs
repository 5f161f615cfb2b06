//! Gates and decisions: what waits for people, the view they are shown, and their word.
//!
//! Absent: who may decide and what it does (policy and the engine).

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_gateway_engine as engine;
use countersign_gateway_engine::{Assertion, DecisionKind, Effect, GateSubject};
use countersign_gateway_model::{ActionId, DecisionId, Digest, GateId, InstanceId, ItemId, Name};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Auth;
use crate::context::{note_entry, note_instance};
use crate::input::{Id, Input, Paging, Params, Wait, param};
use crate::problem::{BODY_VALUE_INVALID, Problem};
use crate::reply;
use crate::state::AppState;
use crate::wire::{Answer, Page, Receipt, Rule, Time};
use crate::without_effect::NoEffect;

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list_gates)).routes(routes!(get_gate)).routes(routes!(decide))
}

/// One proposed action in a gate.
#[derive(Serialize, ToSchema)]
#[expect(clippy::struct_field_names, reason = "these are the names on the wire")]
pub(crate) struct Item {
    /// Its id.
    #[schema(value_type = String)]
    item: ItemId,
    /// The action.
    #[schema(value_type = String)]
    action: ActionId,
    /// The tool, where it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    tool: Option<Name>,
    /// Salted digest of what would be permitted.
    #[schema(value_type = String)]
    digest: Digest,
    /// The rules in its way, and how far each is met.
    rules: Vec<Rule>,
}

/// A pause for human authority.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "id": "gate_0192f3a1b2c37d4e8f9a0b1c2d3e4f5a", "instance": "inst_0192f3a1b2c37d4e8f9a0b1c2d3e4f5a",
    "subject": "actions", "open": false, "opened": "2026-11-20T09:00:00.000Z", "resolved": "APPROVED", "items": []
}))]
pub(crate) struct Gate {
    /// Its id.
    #[schema(value_type = String)]
    id: GateId,
    /// The instance that waits.
    #[schema(value_type = String)]
    instance: InstanceId,
    /// What it stands in front of: `start`, `actions`, `complete`, `terminate` or `grant` (a rule to be met in
    /// advance). More words may come.
    #[schema(value_type = String, example = "actions")]
    subject: GateSubject,
    /// Whether it is undecided.
    open: bool,
    /// When it opened.
    #[schema(value_type = String, format = DateTime)]
    opened: Time,
    /// When silence is acted on; absent: it waits without end.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    expires: Option<Time>,
    /// How it ended: `APPROVED`, `REJECTED`, `OVERRIDDEN`, or `WITHDRAWN`: what was asked for in advance is asked for no more.
    #[serde(skip_serializing_if = "Option::is_none")]
    resolved: Option<String>,
    /// Its items; only of an open gate.
    items: Vec<Item>,
}

impl From<engine::GateRecord> for Gate {
    fn from(record: engine::GateRecord) -> Self {
        let items = record.items.into_iter().map(|item| Item {
            item: item.item,
            action: item.action,
            tool: item.tool,
            digest: item.digest,
            rules: item.rules.into_iter().map(Into::into).collect(),
        });
        Self {
            id: record.id,
            instance: record.instance,
            subject: record.subject,
            open: record.open,
            opened: record.opened.into(),
            expires: record.expires.map(Into::into),
            resolved: record.resolved,
            items: items.collect(),
        }
    }
}

/// A gate with what a person is shown before deciding.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "gate": {
        "id": "gate_0192f3a1b2c37d4e8f9a0b1c2d3e4f5a", "instance": "inst_0192f3a1b2c37d4e8f9a0b1c2d3e4f5a",
        "subject": "actions", "open": true, "opened": "2026-11-20T09:00:00.000Z",
        "expires": "2026-11-20T10:00:00.000Z", "items": []
    },
    "view": "Gate:      gate_0192f3a1b2c37d4e8f9a0b1c2d3e4f5a\n…",
    "shown_digest": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "shown_salt": "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
}))]
pub(crate) struct GateShown {
    gate: Gate,
    /// The approval view: the same bytes for everybody. What an agent supplied comes last, quoted and escaped.
    view: String,
    /// Digest of the view: a decision must name the view that was read. SHA-256 over `countersign/shown/v1`, a zero byte,
    /// the salt, and the view.
    #[schema(value_type = String)]
    shown_digest: Digest,
    /// Salt of the digest, 32 bytes in hex; for people, while the gate is open. Whoever decides works the digest out over
    /// the text that they were shown, and does not decide where it is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    shown_salt: Option<Digest>,
}

/// Which gates to list.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct GateFilter {
    /// Only open ones (`true`), or only closed ones (`false`).
    open: Option<bool>,
    /// Only this instance's.
    instance: Option<String>,
    /// Cursor that the page before gave as `next`.
    after: Option<String>,
    /// How many at most: 1 to 200, usually 50.
    limit: Option<usize>,
}

/// A person's word at a gate.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "decision": "APPROVE", "justification": "I read the patch and its test run",
    "shown_digest": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
}))]
pub(crate) struct NewDecision {
    /// `APPROVE`, `REJECT` or `OVERRIDE`.
    #[schema(value_type = String)]
    decision: DecisionKind,
    /// The items it is about; none: all. REJECT is of the whole gate.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    items: Vec<ItemId>,
    /// Why. Required, and not blank, for APPROVE and OVERRIDE. Kept as a payload.
    #[serde(default)]
    justification: Option<String>,
    /// Digest of the view that was read.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    shown_digest: Option<Digest>,
    /// For OVERRIDE: by item, the changed keys of its input (JSON pointer to new value), or `null` to drop the item.
    #[serde(default)]
    #[schema(value_type = Object)]
    delta: BTreeMap<ItemId, Option<BTreeMap<String, Value>>>,
    /// The role used, where the person holds several.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    role: Option<Name>,
    /// The person's own signature over what was decided.
    #[serde(default)]
    assertion: Option<NewAssertion>,
}

/// A signature by the person's own key.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewAssertion {
    /// COSE algorithm number: -8 is `EdDSA`.
    alg: i32,
    /// SHA-256 of the public key, hex.
    #[schema(value_type = String)]
    key_id: Digest,
    /// The signature, base64: over `countersign/assertion/v1`, a zero byte, and the CBOR of `[log, gate, kind, [[item,
    /// digest]…], delta, shown]`, items by id; the log's origin is in the list of the person's keys.
    signature: String,
    /// For OVERRIDE: the salt of the change's digest, 32 bytes in hex. The digest is SHA-256 over `countersign/delta/v1`, a
    /// zero byte, this salt, and the change as it stands here in canonical JSON (keys sorted, no white space).
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    delta_salt: Option<Digest>,
}

/// The signature as its bytes.
pub(crate) fn assertion(given: &NewAssertion) -> Result<Assertion, Problem> {
    let signature = STANDARD.decode(&given.signature).map_err(|error| {
        Problem::new(BODY_VALUE_INVALID, format!("the signature is not base64: {error}")).at("/assertion/signature")
    })?;
    Ok(Assertion { alg: given.alg, key_id: given.key_id, signature })
}

/// What a decision did.
#[derive(Serialize, ToSchema)]
pub(crate) struct Decided {
    /// Its id.
    #[schema(value_type = String)]
    decision: DecisionId,
    /// `counted`: valid, rules are still unmet. `resolving`: the last rule is met. `not_eligible`, `stale`,
    /// `hard_denied`, `policy_error`: on record, and without effect.
    #[schema(value_type = String, example = "resolving")]
    effect: Effect,
    /// Why it has no effect; absent where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<NoEffect>,
    /// Where the instance stands.
    #[schema(value_type = String, example = "RUNNING")]
    state: &'static str,
    /// What the gate's items got, where it resolved.
    actions: Vec<Answer>,
    /// Rules that are still unmet.
    remaining: Vec<Rule>,
    /// Proof of the last entry.
    receipt: Receipt,
}

/// List gates
#[utoipa::path(
    get, path = "/api/v1/gates", operation_id = "listGates", tag = "gates",
    params(GateFilter),
    responses((status = 200, description = "A page", body = Page<Gate>)),
)]
async fn list_gates(
    State(app): State<AppState>,
    Auth(who): Auth,
    Params(filter): Params<GateFilter>,
) -> Result<Response, Problem> {
    let query = engine::GateQuery {
        open: filter.open,
        instance: param("instance", filter.instance.as_deref())?,
        after: filter.after,
        limit: Paging::limit(filter.limit)?,
    };
    reply::ok(&Page::of(app.engine.gates(&who, query).await?, Gate::from))
}

/// Read a gate
///
/// With the approval view and its digest. With `Prefer: wait=N` the answer waits up to N seconds while the gate is open
/// and nothing happens at it.
#[utoipa::path(
    get, path = "/api/v1/gates/{id}", operation_id = "getGate", tag = "gates",
    params(("id" = String, Path, description = "The gate")),
    responses((status = 200, description = "The gate", body = GateShown)),
)]
async fn get_gate(
    State(app): State<AppState>,
    Auth(who): Auth,
    Id(id): Id<GateId>,
    wait: Wait,
) -> Result<Response, Problem> {
    let mut detail = app.engine.gate(&who, id).await?;
    let instance = detail.gate.instance;
    note_instance(instance);
    let mut kept = false;
    if let (true, Some(time), Ok(_slot)) = (detail.gate.open, wait.0, app.waits.try_acquire()) {
        kept = true;
        // Whoever may see the gate but not its instance gets the answer at once.
        if let Ok(record) = app.engine.instance(&who, instance).await
            && let Ok(changed) = tokio::time::timeout(time, app.engine.changed(&who, instance, record.sequence)).await
        {
            changed?;
            detail = app.engine.gate(&who, id).await?;
        }
    }
    let shown = GateShown {
        gate: detail.gate.into(),
        view: detail.view,
        shown_digest: detail.shown_digest,
        shown_salt: detail.salt.map(|salt| Digest(salt.0)),
    };
    let response = reply::ok(&shown)?;
    Ok(if kept { reply::waited(response) } else { response })
}

/// Decide at a gate
///
/// Needs a token with scope `decide`, which a person gets by signing in for it. A decision that has no effect is on
/// record all the same; `effect` says so.
#[utoipa::path(
    post, path = "/api/v1/gates/{id}/decisions", operation_id = "decide", tag = "gates",
    params(("id" = String, Path, description = "The gate")),
    request_body = NewDecision,
    responses((status = 200, description = "It is on record", body = Decided)),
)]
async fn decide(
    State(app): State<AppState>,
    Auth(who): Auth,
    Id(id): Id<GateId>,
    input: Input,
) -> Result<Response, Problem> {
    let body: NewDecision = input.read()?;
    let assertion = body.assertion.as_ref().map(|given| {
        let delta_salt = given.delta_salt.map(|salt| engine::Salt(salt.0));
        Ok::<_, Problem>(engine::Signed { assertion: assertion(given)?, delta_salt })
    });
    let request = engine::DecisionRequest {
        kind: body.decision,
        items: body.items,
        justification: body.justification,
        shown_digest: body.shown_digest,
        delta: body.delta,
        role: body.role,
        assertion: assertion.transpose()?,
    };
    let decided = app.engine.decide(who, id, request, input.key).await?;
    note_instance(decided.instance);
    note_entry(decided.receipt.index);
    reply::ok(&Decided {
        decision: decided.decision,
        effect: decided.effect,
        problem: NoEffect::of(decided.effect, decided.why),
        state: decided.state.as_str(),
        actions: decided.items.into_iter().map(Into::into).collect(),
        remaining: decided.remaining.into_iter().map(Into::into).collect(),
        receipt: decided.receipt.into(),
    })
}
