//! The review of a recovery: the one thing about it that is done while the gateway runs.
//!
//! Absent: recovering itself, which is offline and takes the root threshold (the program).

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use countersign_gateway_model::Digest;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Auth;
use crate::input::Input;
use crate::instances::Empty;
use crate::problem::Problem;
use crate::reply;
use crate::state::AppState;
use crate::wire::Receipt;

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(review_recovery))
}

/// A recovery whose review is closed, with the proof.
#[derive(Serialize, ToSchema)]
pub(crate) struct RecoveryReviewed {
    /// Digest of the bundle that it put in force.
    #[schema(value_type = String)]
    bundle: Digest,
    /// Proof of the review's entry.
    receipt: Receipt,
}

/// Close the review of a recovery
///
/// A person says that they have looked at what happened. Until then every pack of the log says that the review is open. Each
/// recovery owes one of its own; the oldest is closed first. Where none is open the answer is `not-found`.
#[utoipa::path(
    post, path = "/api/v1/policies/recovery/review", operation_id = "reviewRecovery", tag = "policies",
    responses((status = 200, description = "The review is closed", body = RecoveryReviewed)),
)]
async fn review_recovery(State(app): State<AppState>, Auth(who): Auth, input: Input) -> Result<Response, Problem> {
    let Empty {} = input.read_or_default()?;
    let (bundle, receipt) = app.engine.close_recovery(who, input.key).await?;
    let index = receipt.index;
    reply::committed(StatusCode::OK, &RecoveryReviewed { bundle, receipt: receipt.into() }, index)
}
