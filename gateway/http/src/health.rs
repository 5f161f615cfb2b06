//! Health, figures, what the gateway says of itself, problem pages and documentation: what is no tenant's.
//!
//! Absent: anything about an organization but the root keys, which are public by their nature.

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, LOCATION};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use bytes::Bytes;
use countersign_gateway_model::OrgId;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Auth;
use crate::pages::page;
use crate::problem::{NOT_READY, Problem, ROUTE_UNKNOWN};
use crate::reply;
use crate::state::{AppState, Phase};

const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(healthz))
        .routes(routes!(readyz))
        .routes(routes!(startupz))
        .routes(routes!(metrics))
        .routes(routes!(info))
        .routes(routes!(problem_page))
}

/// Routes that are no operations: the document and its reader.
pub(crate) fn documentation() -> Router<AppState> {
    Router::new()
        .route("/openapi.json", get(openapi))
        .route("/docs", get(to_docs))
        .route("/docs/", get(docs_index))
        .route("/docs/{*path}", get(docs_file))
}

/// A short answer to a probe.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({ "status": "ok" }))]
pub(crate) struct Health {
    /// `ok`.
    #[schema(value_type = String)]
    status: &'static str,
}

/// What the gateway says of itself to anybody.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "version": "0.1.0", "organization": "org_0192f3a1b2c37d4e8f9a0b1c2d3e4f5a",
    "root_keys": ["countersign/root+5b0f6b2c+AQ…"], "demo": false
}))]
pub(crate) struct GatewayInfo {
    /// The program's version.
    version: String,
    /// Where people sign in who name no organization.
    #[schema(value_type = String)]
    organization: OrgId,
    /// Root verifier keys of the log of that organization. Get them from somebody you trust, and compare.
    root_keys: Vec<String>,
    /// Its log is marked as a demonstration's.
    demo: bool,
}

/// Say whether the process is alive
#[utoipa::path(
    get, path = "/healthz", operation_id = "healthz", tag = "health", security(()),
    responses((status = 200, description = "It is", body = Health)),
)]
async fn healthz() -> Result<Response, Problem> {
    reply::ok(&Health { status: "ok" })
}

/// Say whether the gateway takes work
#[utoipa::path(
    get, path = "/readyz", operation_id = "readyz", tag = "health", security(()),
    responses((status = 200, description = "It does", body = Health)),
)]
async fn readyz(State(app): State<AppState>) -> Result<Response, Problem> {
    match app.lifecycle.phase() {
        Phase::Starting => Err(Problem::new(NOT_READY, "the gateway is starting")),
        Phase::Draining => Err(Problem::new(NOT_READY, "the gateway is shutting down")),
        // Why it stopped is for the log: it may name files.
        Phase::Ready if app.engine.logs().stats().stopped.is_some() => {
            Err(Problem::new(NOT_READY, "the ledger has stopped"))
        }
        Phase::Ready => reply::ok(&Health { status: "ok" }),
    }
}

/// Say whether the gateway has started
#[utoipa::path(
    get, path = "/startupz", operation_id = "startupz", tag = "health", security(()),
    responses((status = 200, description = "It has", body = Health)),
)]
async fn startupz(State(app): State<AppState>) -> Result<Response, Problem> {
    match app.lifecycle.phase() {
        Phase::Starting => Err(Problem::new(NOT_READY, "the gateway is starting")),
        Phase::Ready | Phase::Draining => reply::ok(&Health { status: "ok" }),
    }
}

/// Read figures
///
/// In the `OpenMetrics` text format. Answers without a credential where the gateway listens on loopback only, else to
/// any that holds; no figure names a tenant.
#[utoipa::path(
    get, path = "/metrics", operation_id = "metrics", tag = "health", security((), ("bearer" = [])),
    responses((status = 200, description = "Figures", body = String, content_type = "application/openmetrics-text",
        example = json!("# HELP countersign_ledger_commits Transactions committed.\n…"))),
)]
async fn metrics(State(app): State<AppState>, who: Option<Auth>) -> Result<Response, Problem> {
    if who.is_none() && !app.info.open_metrics {
        return Err(countersign_gateway_identity::IdentityError::TokenMissing.into());
    }
    let text = app.metrics.encode().map_err(|error| Problem::internal("figures could not be written", &error))?;
    Ok(([(CONTENT_TYPE, OPEN_METRICS)], text).into_response())
}

/// Say who this gateway is
#[utoipa::path(
    get, path = "/api/v1/info", operation_id = "info", tag = "health", security(()),
    responses((status = 200, description = "Version and root keys", body = GatewayInfo)),
)]
async fn info(State(app): State<AppState>) -> Result<Response, Problem> {
    reply::ok(&GatewayInfo {
        version: app.info.version.clone(),
        organization: app.info.organization,
        root_keys: app.info.root_keys.clone(),
        demo: app.info.demo,
    })
}

/// Read about a problem
///
/// What the `type` of a problem leads to: what happened, and what to do. Every other code has its page here, too: of reports
/// on evidence, of decisions without effect, and of the program itself.
#[utoipa::path(
    get, path = "/problems/{code}", operation_id = "getProblemPage", tag = "health", security(()),
    params(("code" = String, Path, description = "The problem's code")),
    responses((status = 200, description = "The page", body = String, content_type = "text/markdown",
        example = json!("# Policy refuses\n…"))),
)]
async fn problem_page(Path(code): Path<String>, headers: HeaderMap) -> Result<Response, Problem> {
    let code = code.strip_suffix(".md").unwrap_or(&code);
    let page = page(code).ok_or_else(|| Problem::new(ROUTE_UNKNOWN, "there is no such problem"))?;
    // A browser shows plain text and saves Markdown.
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let content_type =
        if accept.contains("text/html") { "text/plain; charset=utf-8" } else { "text/markdown; charset=utf-8" };
    Ok(([(CONTENT_TYPE, HeaderValue::from_static(content_type))], page.text).into_response())
}

static DOCUMENT: LazyLock<Bytes> =
    LazyLock::new(|| Bytes::from(serde_json::to_vec(&crate::document()).unwrap_or_default()));

async fn openapi() -> Response {
    const JSON: HeaderValue = HeaderValue::from_static("application/json");
    ([(CONTENT_TYPE, JSON)], DOCUMENT.clone()).into_response()
}

async fn to_docs() -> Response {
    // Relative, so that it also holds behind a path of a proxy's.
    (StatusCode::PERMANENT_REDIRECT, [(LOCATION, HeaderValue::from_static("docs/"))]).into_response()
}

async fn docs_index() -> Result<Response, Problem> {
    docs("index.html")
}

async fn docs_file(Path(path): Path<String>) -> Result<Response, Problem> {
    docs(&path)
}

/// A file of the vendored Swagger UI: no browser asks anybody else for anything.
fn docs(path: &str) -> Result<Response, Problem> {
    static CONFIG: LazyLock<Arc<utoipa_swagger_ui::Config<'static>>> =
        LazyLock::new(|| Arc::new(utoipa_swagger_ui::Config::from("../openapi.json").validator_url("none")));
    const SECURITY: HeaderName = HeaderName::from_static("content-security-policy");
    const OWN_ONLY: HeaderValue = HeaderValue::from_static(
        "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'",
    );
    let file = utoipa_swagger_ui::serve(path, Arc::clone(&CONFIG)).map_err(|error| {
        tracing::error!(cause = %error, "documentation could not be served");
        Problem::new(crate::problem::INTERNAL, crate::problem::INTERNAL.title)
    })?;
    let file = file.ok_or_else(|| Problem::new(ROUTE_UNKNOWN, "the documentation has no such file"))?;
    let mut response = file.bytes.into_owned().into_response();
    let headers = response.headers_mut();
    if let Ok(content_type) = HeaderValue::from_str(&file.content_type) {
        headers.insert(CONTENT_TYPE, content_type);
    }
    if file.gzpipped {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    headers.insert(SECURITY, OWN_ONLY);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
    Ok(response)
}
