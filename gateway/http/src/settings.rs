//! What changes how the whole organization is treated: freezes and ledgered settings.
//!
//! Absent: the program's own configuration, which is no tenant's.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use countersign_gateway_engine::Recording;
use countersign_gateway_model::Name;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Auth;
use crate::input::Input;
use crate::problem::{PARAMETER_INVALID, Problem};
use crate::reply;
use crate::state::AppState;
use crate::wire::Recorded;

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(get_settings))
        .routes(routes!(set_public_read))
        .routes(routes!(set_evaluations_record))
        .routes(routes!(set_shadow_window))
        .routes(routes!(raise_authority))
        .routes(routes!(freeze))
        .routes(routes!(lift_freeze))
}

/// What to freeze, or to lift.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "team": "core" }))]
pub(crate) struct FreezeScope {
    /// One team; absent: the whole organization.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    team: Option<Name>,
}

/// Settings by name.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "settings": { "log.public_read": false, "evaluations.record": "all", "policy.shadow_window_s": 0, "authority": "solo", "frozen": { "all": false, "teams": [] } }
}))]
pub(crate) struct Settings {
    /// `log.public_read`: the log may be read without a credential. `evaluations.record`: which evaluations leave an
    /// entry. `policy.shadow_window_s`: how long a proposed policy is compared with what is asked. `authority`: `solo` or
    /// `four_eyes`. `frozen`: what is.
    #[schema(value_type = Object)]
    settings: BTreeMap<String, Value>,
}

/// Whether the log may be read without a credential.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "value": true }))]
pub(crate) struct PublicRead {
    /// `true`: checkpoints, tiles and entries under `/log/` are for everybody. Payloads never are.
    value: bool,
}

/// Which evaluations leave an entry.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "value": "denials" }))]
pub(crate) struct EvaluationsRecord {
    /// `all`, `denials` or `none`.
    value: String,
}

/// For how long a proposed policy is compared with what is asked.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "value": 86400 }))]
pub(crate) struct ShadowWindow {
    /// Seconds, at most 7776000 (90 days). 0: nobody waits for it.
    value: u64,
}

/// Who may approve what, for the whole organization.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "value": "four_eyes" }))]
pub(crate) struct Authority {
    /// `four_eyes`. Going back to `solo` is not possible through the interface.
    value: String,
}

/// Read settings
#[utoipa::path(
    get, path = "/api/v1/settings", operation_id = "getSettings", tag = "settings",
    responses((status = 200, description = "All of them", body = Settings)),
)]
async fn get_settings(State(app): State<AppState>, Auth(who): Auth) -> Result<Response, Problem> {
    reply::ok(&Settings { settings: app.engine.settings(&who)?.into_iter().collect() })
}

/// Open or close the log to the public
#[utoipa::path(
    put, path = "/api/v1/settings/log.public_read", operation_id = "setPublicRead", tag = "settings",
    request_body = PublicRead,
    responses((status = 200, description = "It is on record", body = Recorded)),
)]
async fn set_public_read(State(app): State<AppState>, Auth(who): Auth, input: Input) -> Result<Response, Problem> {
    let PublicRead { value } = input.read()?;
    let receipt = app.engine.set_public_read(who, value, input.key).await?;
    let index = receipt.index;
    reply::committed(StatusCode::OK, &Recorded { receipt: receipt.into() }, index)
}

/// Say which evaluations leave an entry
#[utoipa::path(
    put, path = "/api/v1/settings/evaluations.record", operation_id = "setEvaluationsRecord", tag = "settings",
    request_body = EvaluationsRecord,
    responses((status = 200, description = "It is on record", body = Recorded)),
)]
async fn set_evaluations_record(
    State(app): State<AppState>,
    Auth(who): Auth,
    input: Input,
) -> Result<Response, Problem> {
    let EvaluationsRecord { value } = input.read()?;
    let recording = Recording::parse(&value)
        .ok_or_else(|| Problem::new(PARAMETER_INVALID, "`value` is `all`, `denials` or `none`").at("/value"))?;
    let receipt = app.engine.set_evaluations_record(who, recording, input.key).await?;
    let index = receipt.index;
    reply::committed(StatusCode::OK, &Recorded { receipt: receipt.into() }, index)
}

/// Say for how long a proposed policy is compared with what is asked
///
/// What was proposed before keeps its window. Without a setting: nothing in `solo`, a day under `four_eyes`; there a shorter
/// one counts once the one before it has passed.
#[utoipa::path(
    put, path = "/api/v1/settings/policy.shadow_window_s", operation_id = "setShadowWindow", tag = "settings",
    request_body = ShadowWindow,
    responses((status = 200, description = "It is on record", body = Recorded)),
)]
async fn set_shadow_window(State(app): State<AppState>, Auth(who): Auth, input: Input) -> Result<Response, Problem> {
    let ShadowWindow { value } = input.read()?;
    let receipt = app.engine.set_shadow_window(who, value, input.key).await?;
    let index = receipt.index;
    reply::committed(StatusCode::OK, &Recorded { receipt: receipt.into() }, index)
}

/// Raise the authority mode
///
/// From here on nobody approves what is their own, and policy changes by the approval of somebody else; gates that are open
/// keep the exclusions that they were opened with. Refused with `bundle-locks-out` while nobody could then change policy
/// (enrol a second person first), and while one person alone could put a weaker policy in force.
#[utoipa::path(
    put, path = "/api/v1/settings/authority", operation_id = "raiseAuthority", tag = "settings",
    request_body = Authority,
    responses((status = 200, description = "It is on record", body = Recorded)),
)]
async fn raise_authority(State(app): State<AppState>, Auth(who): Auth, input: Input) -> Result<Response, Problem> {
    let Authority { value } = input.read()?;
    if value != "four_eyes" {
        let words = "`value` is `four_eyes`: the mode is raised here, and never lowered";
        return Err(Problem::new(PARAMETER_INVALID, words).at("/value"));
    }
    let receipt = app.engine.raise_authority(who, input.key).await?;
    let index = receipt.index;
    reply::committed(StatusCode::OK, &Recorded { receipt: receipt.into() }, index)
}

/// Freeze
///
/// Proposals, starts, APPROVE and OVERRIDE are refused at once, and running work is cancelled. Terminating, REJECT and
/// outcomes pass.
#[utoipa::path(
    post, path = "/api/v1/freezes", operation_id = "freeze", tag = "settings",
    request_body = Option<FreezeScope>,
    responses((status = 200, description = "It is frozen", body = Recorded)),
)]
async fn freeze(State(app): State<AppState>, Auth(who): Auth, input: Input) -> Result<Response, Problem> {
    let FreezeScope { team } = input.read_or_default()?;
    let receipt = app.engine.freeze(who, team, false, input.key).await?;
    let index = receipt.index;
    reply::committed(StatusCode::OK, &Recorded { receipt: receipt.into() }, index)
}

/// Lift a freeze
#[utoipa::path(
    post, path = "/api/v1/freezes/lift", operation_id = "liftFreeze", tag = "settings",
    request_body = Option<FreezeScope>,
    responses((status = 200, description = "Work goes on", body = Recorded)),
)]
async fn lift_freeze(State(app): State<AppState>, Auth(who): Auth, input: Input) -> Result<Response, Problem> {
    let FreezeScope { team } = input.read_or_default()?;
    let receipt = app.engine.freeze(who, team, true, input.key).await?;
    let index = receipt.index;
    reply::committed(StatusCode::OK, &Recorded { receipt: receipt.into() }, index)
}
