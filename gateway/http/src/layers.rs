//! The one layer around every handler: request id, span, bound, time limit, panics, figures, headers.
//!
//! One layer instead of seven, because each costs a box and a wake-up on a path that is measured in microseconds.
//! Absent: authentication and bodies, which are extractors (`auth`, `input`).

use std::panic::AssertUnwindSafe;

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{ALLOW, CACHE_CONTROL, HeaderName};
use axum::http::{HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use countersign_gateway_engine::trail::Trail;
use countersign_gateway_identity::RateFacts;
use futures::FutureExt as _;
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::context::{CURRENT, Context, RequestId};
use crate::metrics::Route;
use crate::problem::{INTERNAL, METHOD_NOT_ALLOWED, OVERLOADED, Problem, REQUEST_TIMEOUT, ROUTE_UNKNOWN};
use crate::state::AppState;

/// Names a request, and is given back where the caller chose it.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const CONTENT_TYPE_OPTIONS: HeaderName = HeaderName::from_static("x-content-type-options");
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Works on one request within its bounds.
pub(crate) async fn request(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = RequestId(state.engine.mint().id());
    let method = request.method().clone();
    let route = Route(request.extensions().get::<MatchedPath>().cloned());
    let span = tracing::info_span!("request", %id, method = %method, route = route.as_str());
    let context = Context::new(id);
    state.metrics.in_flight.inc();
    let trail = Trail::default();
    let work = CURRENT.scope(context, async {
        let mut response = trail.clone().follow(bounded(&state, &route, request, next)).await;
        let facts = CURRENT.with(|c| (c.rate.get(), c.instance.get(), c.entry.get(), c.problem.get()));
        finish(&mut response, id, facts.0);
        (response, facts)
    });
    let (response, (_, instance, entry, problem)) = work.instrument(span.clone()).await;
    state.metrics.in_flight.dec();
    let status = response.status().as_u16();
    // What the answer itself names comes first: a request may have led to more than it asked for.
    let (instance, entry) = (instance.or_else(|| trail.instance()), entry.or_else(|| trail.entry()));
    let took = started.elapsed();
    span.in_scope(|| {
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let instance = instance.map(tracing::field::display);
        if status >= 500 {
            tracing::warn!(status, instance, entry, problem, millis, "answered");
        } else if matches!(status, 401 | 403 | 429) {
            // Whoever looks for an attack has the log as it is by default.
            tracing::info!(status, instance, entry, problem, millis, "answered");
        } else {
            tracing::debug!(status, instance, entry, problem, millis, "answered");
        }
    });
    state.metrics.answered(route, &method, status, problem, took);
    response
}

async fn bounded(state: &AppState, route: &Route, request: Request, next: Next) -> Response {
    // Whoever watches the gateway must get an answer just when it is full.
    let counted = ["/api/", "/access/"].iter().any(|root| route.as_str().starts_with(root))
        || route.as_str().starts_with("/log/");
    let _slot = if counted {
        match state.requests.try_acquire() {
            Ok(slot) => Some(slot),
            Err(_) => {
                return Problem::new(OVERLOADED, "as many requests as are taken at a time are under way")
                    .into_response();
            }
        }
    } else {
        None
    };
    let work = AssertUnwindSafe(next.run(request)).catch_unwind();
    match tokio::time::timeout(state.limits.request_time, work).await {
        Ok(Ok(response)) => response,
        Ok(Err(panic)) => {
            state.metrics.panics.inc();
            let text =
                panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
            tracing::error!(panic = text.unwrap_or("no text"), "a handler panicked");
            Problem::new(INTERNAL, INTERNAL.title).into_response()
        }
        Err(_) => Problem::new(REQUEST_TIMEOUT, "the gateway stopped waiting; what was asked may still be carried out")
            .into_response(),
    }
}

/// Adds what every reply has.
fn finish(response: &mut Response, id: RequestId, rate: Option<RateFacts>) {
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id.to_string()) {
        headers.entry(REQUEST_ID).or_insert(value);
    }
    headers.insert(CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if !headers.contains_key(CACHE_CONTROL) {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    if let Some(facts) = rate {
        let reset = facts.reset.0.div_ceil(1000);
        let left = HeaderValue::from_str(&format!("\"principal\";r={};t={reset}", facts.remaining));
        let policy = HeaderValue::from_str(&format!("\"principal\";q={}", facts.limit));
        if let (Ok(left), Ok(policy)) = (left, policy) {
            headers.insert(RATE_LIMIT, left);
            headers.insert(RATE_LIMIT_POLICY, policy);
        }
    }
}

/// No route has this path.
pub(crate) async fn unknown_route() -> Problem {
    Problem::new(ROUTE_UNKNOWN, "no operation has this path: see `/openapi.json`")
}

/// The route does not take this method. The router adds `allow`.
pub(crate) async fn unknown_method(method: Method) -> Response {
    let problem = Problem::new(METHOD_NOT_ALLOWED, format!("this path does not take `{method}`"));
    let mut response = problem.into_response();
    response.headers_mut().remove(ALLOW);
    response
}
