//! Replies: JSON written in one go, with the headers of what waits.
//!
//! Absent: errors (`problem`). Read next: `layers`, which adds what every reply has.

use axum::http::header::{CONTENT_TYPE, HeaderName, LOCATION, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;

use crate::context;
use crate::problem::Problem;

/// Seconds after which asking again makes sense for something that waits for people.
const ASK_AGAIN: u64 = 5;

/// A reply of JSON.
pub(crate) fn json<T: Serialize>(status: StatusCode, value: &T) -> Result<Response, Problem> {
    let mut body = Vec::with_capacity(1024);
    serde_json::to_writer(&mut body, value)
        .map_err(|error| Problem::internal("a reply could not be written", &error))?;
    let mut response = (status, body).into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// A reply of JSON with status 200.
pub(crate) fn ok<T: Serialize>(value: &T) -> Result<Response, Problem> {
    json(StatusCode::OK, value)
}

/// Says where what was made, or what is waited for, can be read.
pub(crate) fn located(mut response: Response, location: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(location) {
        response.headers_mut().insert(LOCATION, value);
    }
    response
}

/// A reply to what waits for people: 202 with the place to look at.
pub(crate) fn waiting<T: Serialize>(value: &T, location: &str) -> Result<Response, Problem> {
    let mut response = located(json(StatusCode::ACCEPTED, value)?, location);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(ASK_AGAIN));
    Ok(response)
}

/// Says that the wait that the caller preferred was kept (RFC 7240).
pub(crate) fn waited(mut response: Response) -> Response {
    const APPLIED: HeaderName = HeaderName::from_static("preference-applied");
    response.headers_mut().insert(APPLIED, HeaderValue::from_static("wait"));
    response
}

/// A reply to something that left an entry: notes its index for the log.
pub(crate) fn committed<T: Serialize>(status: StatusCode, value: &T, index: u64) -> Result<Response, Problem> {
    context::note_entry(index);
    json(status, value)
}
