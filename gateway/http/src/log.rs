//! The log itself in tlog-tiles form, for witnesses, mirrors and auditors. No payload is ever in it.
//!
//! For principals who may read verdicts, or for everybody where the organization has opened its log.
//! Absent: entries for people to read (`audit`).

use axum::extract::{Path, State};
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use countersign_gateway_engine::EngineError;
use countersign_gateway_model::LogId;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Auth;
use crate::input::Id;
use crate::problem::Problem;
use crate::state::AppState;

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(get_checkpoint)).routes(routes!(get_tile))
}

/// Read the newest checkpoint
///
/// A signed note (C2SP tlog-checkpoint).
#[utoipa::path(
    get, path = "/log/{id}/checkpoint", operation_id = "getCheckpoint", tag = "log",
    security((), ("bearer" = [])),
    params(("id" = String, Path, description = "The log")),
    responses((status = 200, description = "The note", body = String, content_type = "text/plain",
        example = json!("countersign/log_0192\n42\nq7Zq…\n\n— gw wXyz…\n"))),
)]
async fn get_checkpoint(
    State(app): State<AppState>,
    who: Option<Auth>,
    Id(id): Id<LogId>,
) -> Result<Response, Problem> {
    let note = app.engine.log_checkpoint(who.as_ref().map(|auth| &*auth.0), id)?;
    Ok(note.into_response())
}

/// Read a tile
///
/// Hashes (`<level>/<index>`) or entries (`entries/<index>`), as C2SP tlog-tiles has them.
#[utoipa::path(
    get, path = "/log/{id}/tile/{*path}", operation_id = "getTile", tag = "log",
    security((), ("bearer" = [])),
    params(
        ("id" = String, Path, description = "The log"),
        ("path" = String, Path, description = "Which tile: `0/000`, `entries/x001/234.p/5`"),
    ),
    responses((status = 200, description = "The tile", body = String, content_type = "application/octet-stream")),
)]
async fn get_tile(
    State(app): State<AppState>,
    who: Option<Auth>,
    Path((id, path)): Path<(String, String)>,
) -> Result<Response, Problem> {
    // One who may not know of a log cannot tell a wrong name from a hidden one.
    let id: LogId = id.parse().map_err(|_| EngineError::NotFound("log"))?;
    let partial = path.contains(".p/");
    let bytes = app.engine.log_tile(who.as_ref().map(|auth| &*auth.0), id, &format!("tile/{path}")).await?;
    let mut response = bytes.into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    if !partial && who.is_none() {
        // A full tile never changes; one that needed a credential stays with whoever had it.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable"));
    }
    Ok(response)
}
