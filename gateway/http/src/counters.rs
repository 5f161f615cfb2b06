//! Counters: what budgets that many instances share have left, for those who may query policy.
//!
//! Absent: counting (the engine), and what a counter means (the bundle's `counters.json`).

use axum::extract::State;
use axum::response::Response;
use countersign_gateway_engine as engine;
use countersign_gateway_model::Name;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Auth;
use crate::problem::Problem;
use crate::reply;
use crate::state::AppState;

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(get_counters))
}

/// One counter of the policy in force.
#[derive(Serialize, ToSchema)]
pub(crate) struct Counter {
    /// Its name in the bundle.
    #[schema(value_type = String)]
    #[serde(rename = "counter")]
    name: Name,
    /// Its value in the window that is now, in decimal text. What is held counts: by a permit that was not started and has
    /// not lapsed, by a start that has no outcome, and by one whose outcome is `unknown`. `succeeded` spends it; `failed`,
    /// `cancelled` and `timed_out` give it back.
    value: String,
    /// How often it was taken from, ever.
    version: u64,
    /// When the window began; the Unix epoch for a counter that never starts anew.
    since: String,
}

/// The counters of the policy in force; at most 64.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({ "counters": [
    { "counter": "spent-today", "value": "412.5", "version": 9, "since": "2026-11-21T00:00:00.000Z" }
] }))]
pub(crate) struct Counters {
    /// By name.
    counters: Vec<Counter>,
}

impl From<engine::CounterRecord> for Counter {
    fn from(record: engine::CounterRecord) -> Self {
        let engine::CounterRecord { counter: name, version, value, since } = record;
        Self { name, value, version, since: since.to_string() }
    }
}

/// Read the counters
///
/// What the facts that span instances, such as money spent today, stand at. Not for agents.
#[utoipa::path(
    get, path = "/api/v1/counters", operation_id = "getCounters", tag = "policies",
    responses((status = 200, description = "Every counter of the policy in force", body = Counters)),
)]
async fn get_counters(State(app): State<AppState>, Auth(who): Auth) -> Result<Response, Problem> {
    let counters = app.engine.counters(&who).await?;
    reply::ok(&Counters { counters: counters.into_iter().map(Counter::from).collect() })
}
