//! The gateway's face: wire types, extractors, handlers, problems, and the OpenAPI document that is made of them.
//!
//! A handler's argument list is its authorization (`auth`), every error becomes a problem in one place (`problem`), one
//! layer stands around all of it (`layers`). Absent on purpose: what may be done (policy), what becomes of it (the
//! engine), sockets, TLS, configuration (the program).
//!
//! Read next: [`AppState`] (what the program lends), `actions` (the hot path), [`document`] (the contract).

#![cfg_attr(
    test,
    expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on has found something")
)]

mod actions;
mod agents;
mod audit;
mod auth;
mod backtest;
mod context;
mod counters;
mod enrolments;
mod evaluations;
mod gates;
mod governed;
mod grants;
mod health;
mod input;
mod instances;
mod json;
mod layers;
mod log;
mod metrics;
mod openapi;
mod pages;
mod people;
mod person_keys;
mod policies;
mod problem;
mod proposals;
mod queries;
mod recovery;
mod reply;
mod reviews;
mod runs;
mod second_factors;
mod service_accounts;
mod services;
mod settings;
mod state;
mod tokens;
mod tools;
mod wire;
mod without_effect;
mod workflows;
mod workspaces;

use axum::Router;
use utoipa_axum::router::OpenApiRouter;

pub use metrics::Metrics;
pub use openapi::{OPEN, WITHOUT_ENTRY, WITHOUT_IDEMPOTENCY};
pub use pages::{Page, Place, page, pages};
pub use problem::{KINDS, Kind, kind};
pub use state::{AppState, Info, Lifecycle, Limits, Parts, Phase, Shared, WorkspaceError, WorkspaceFile, Workspaces};

/// All operations with their descriptions.
fn operations() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(openapi::frame())
        .merge(instances::routes())
        .merge(actions::routes())
        .merge(gates::routes())
        .merge(grants::routes())
        .merge(runs::routes())
        .merge(workspaces::routes())
        .merge(tools::routes())
        .merge(workflows::routes())
        .merge(policies::routes())
        .merge(backtest::routes())
        .merge(recovery::routes())
        .merge(reviews::routes())
        .merge(queries::routes())
        .merge(proposals::routes())
        .merge(counters::routes())
        .merge(audit::routes())
        .merge(evaluations::routes())
        .merge(log::routes())
        .merge(people::routes())
        .merge(person_keys::routes())
        .merge(second_factors::routes())
        .merge(agents::routes())
        .merge(services::routes())
        .merge(service_accounts::routes())
        .merge(enrolments::routes())
        .merge(tokens::routes())
        .merge(settings::routes())
        .merge(health::routes())
}

/// Everything that the gateway serves over HTTP. The program gives it a listener.
pub fn router(state: AppState) -> Router {
    let (operations, _) = operations().split_for_parts();
    operations
        .merge(health::documentation())
        .fallback(layers::unknown_route)
        .method_not_allowed_fallback(layers::unknown_method)
        .layer(axum::middleware::from_fn_with_state(state.clone(), layers::request))
        .with_state(state)
}

/// The OpenAPI 3.1 document of everything that [`router`] serves. The same every time.
pub fn document() -> utoipa::openapi::OpenApi {
    let (_, mut api) = operations().split_for_parts();
    openapi::complete(&mut api);
    api
}
