//! The body of a request, read whole and bounded, with its idempotency key; path, query and header values, checked.
//!
//! Absent: what the body means (`json` reads it into a type). Read next: `json`.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Query, RawPathParams, Request};
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method};
use bytes::Bytes;
use countersign_gateway_engine::Idempotency;
use countersign_gateway_model::Digest;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};
use tokio::sync::OwnedSemaphorePermit;

use crate::json;
use crate::problem::{
    BODY_CONTENT_TYPE, BODY_ENCODING, BODY_MALFORMED, BODY_TIMEOUT, BODY_TOO_LARGE, IDEMPOTENCY_KEY_INVALID,
    OVERLOADED, PARAMETER_INVALID, Problem,
};
use crate::state::AppState;

/// The header that makes a repeated request the same request.
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

const MAX_KEY: usize = 255;

/// A request's body with what came beside it.
pub(crate) struct Input {
    bytes: Bytes,
    json: bool,
    /// The caller's idempotency key with the digest of this request.
    pub(crate) key: Option<Idempotency>,
}

impl Input {
    /// Reads the body as strict JSON.
    pub(crate) fn read<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Problem> {
        if !self.json {
            return Err(Problem::new(BODY_CONTENT_TYPE, "this operation reads `content-type: application/json`"));
        }
        json::parse(&self.bytes)
    }

    /// As [`Self::read`], for operations that need no body.
    pub(crate) fn read_or_default<'a, T: Deserialize<'a> + Default>(&'a self) -> Result<T, Problem> {
        if self.bytes.is_empty() { Ok(T::default()) } else { self.read() }
    }
}

impl FromRequest<AppState> for Input {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let json = is_json(&parts.headers);
        let key = idempotency_key(&parts.headers)?;
        let bytes = collect(&parts.headers, body, state.limits.body_bytes, state.limits.body_time).await?;
        let key = key.map(|key| Idempotency { key, request: digest(&parts.method, parts.uri.path(), &bytes) });
        Ok(Self { bytes, json, key })
    }
}

/// A large body that is not JSON, or JSON that carries files.
///
/// Few are held in memory at a time; what comes above that is turned away before it is read.
pub(crate) struct Upload {
    pub(crate) bytes: Bytes,
    json: bool,
    /// The caller's idempotency key with the digest of this request.
    pub(crate) key: Option<Idempotency>,
    pub(crate) slot: OwnedSemaphorePermit,
}

impl Upload {
    /// Reads the body as strict JSON.
    pub(crate) fn read<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Problem> {
        if !self.json {
            return Err(Problem::new(BODY_CONTENT_TYPE, "this operation reads `content-type: application/json`"));
        }
        json::parse(&self.bytes)
    }
}

impl FromRequest<AppState> for Upload {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let slot = Arc::clone(&state.uploads).try_acquire_owned();
        let slot =
            slot.map_err(|_| Problem::new(OVERLOADED, "as many uploads as are taken at a time are under way"))?;
        let json = is_json(&parts.headers);
        let key = idempotency_key(&parts.headers)?;
        let bytes = collect(&parts.headers, body, state.limits.upload_bytes, state.limits.upload_time).await?;
        let key = key.map(|key| Idempotency { key, request: digest(&parts.method, parts.uri.path(), &bytes) });
        Ok(Self { bytes, json, key, slot })
    }
}

/// SHA-256 over method, path and body, each told apart from the next.
fn digest(method: &Method, path: &str, body: &[u8]) -> Digest {
    let hash = Sha256::new().chain_update(method.as_str()).chain_update([0]).chain_update(path).chain_update([0]);
    Digest(hash.chain_update(body).finalize().into())
}

async fn collect(headers: &HeaderMap, body: Body, limit: usize, time: Duration) -> Result<Bytes, Problem> {
    if headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding.as_bytes() != b"identity") {
        return Err(Problem::new(BODY_ENCODING, "bodies are read as they are: leave `content-encoding` out"));
    }
    let too_large = || Problem::new(BODY_TOO_LARGE, format!("at most {limit} bytes are read")).with("limit", limit);
    let announced = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u64>().ok());
    if announced.is_some_and(|length| usize::try_from(length).map_or(true, |length| length > limit)) {
        return Err(too_large());
    }
    match tokio::time::timeout(time, Limited::new(body, limit).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Problem::new(BODY_MALFORMED, "the body ended early")),
        Err(_) => Err(Problem::new(BODY_TIMEOUT, format!("the body did not arrive within {} s", time.as_secs()))),
    }
}

/// `application/json`, or a type with `+json`; parameters are of no account, the text is UTF-8 anyway.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE) else { return false };
    if value.as_bytes() == b"application/json" {
        return true;
    }
    let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let good = |bytes: &[u8]| (1..=MAX_KEY).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic);
    match value.to_str() {
        Ok(text) if good(value.as_bytes()) && values.next().is_none() => Ok(Some(text.to_owned())),
        _ => {
            Err(Problem::new(IDEMPOTENCY_KEY_INVALID, "`idempotency-key` has 1 to 255 visible ASCII characters, once"))
        }
    }
}

/// A part of the path that is an id or a name.
pub(crate) struct Id<T>(pub(crate) T);

impl<S: Send + Sync, T: FromStr<Err: fmt::Display>> FromRequestParts<S> for Id<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let params = RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|error| Problem::new(PARAMETER_INVALID, error.to_string()))?;
        let mut params = params.iter();
        let (Some((_, text)), None) = (params.next(), params.next()) else {
            return Err(Problem::new(PARAMETER_INVALID, "the path has another number of parts"));
        };
        text.parse().map(Self).map_err(|error: T::Err| Problem::new(PARAMETER_INVALID, error.to_string()))
    }
}

/// Two ids of a path, in their order.
pub(crate) struct Ids<A, B>(pub(crate) A, pub(crate) B);

impl<S, A, B> FromRequestParts<S> for Ids<A, B>
where
    S: Send + Sync,
    A: FromStr<Err: fmt::Display>,
    B: FromStr<Err: fmt::Display>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let wrong = |error: String| Problem::new(PARAMETER_INVALID, error);
        let params = RawPathParams::from_request_parts(parts, state).await.map_err(|error| wrong(error.to_string()))?;
        let mut params = params.iter();
        let (Some((_, first)), Some((_, second)), None) = (params.next(), params.next(), params.next()) else {
            return Err(wrong("the path has another number of parts".to_owned()));
        };
        let first = first.parse().map_err(|error: A::Err| wrong(error.to_string()))?;
        let second = second.parse().map_err(|error: B::Err| wrong(error.to_string()))?;
        Ok(Self(first, second))
    }
}

/// Query parameters; unknown ones, and ones that stand twice, are refused.
pub(crate) struct Params<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Query::<T>::try_from_uri(&parts.uri).map(|Query(value)| Self(value)).map_err(|error| {
            let text = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            Problem::new(PARAMETER_INVALID, text)
        })
    }
}

/// How long the caller would wait: `Prefer: wait=N` (RFC 7240), at most 25 seconds.
///
/// A preference that cannot be understood is none, as the standard has it.
#[derive(Clone, Copy)]
pub(crate) struct Wait(pub(crate) Option<Duration>);

const LONGEST_WAIT: u64 = 25;

impl<S: Send + Sync> FromRequestParts<S> for Wait {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let all = parts.headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
        let wait = all.flat_map(|value| value.split(',')).find_map(|preference| {
            let (name, value) = preference.split_once('=')?;
            let seconds = value.split(';').next()?.trim().trim_matches('"').parse::<u64>().ok()?;
            name.trim().eq_ignore_ascii_case("wait").then_some(seconds.min(LONGEST_WAIT))
        });
        Ok(Self(wait.filter(|seconds| *seconds > 0).map(Duration::from_secs)))
    }
}

/// Where a page begins and how long it may be, in a query.
pub(crate) struct Paging;

impl Paging {
    const USUAL: usize = 50;
    const MOST: usize = 200;

    /// The length of a page.
    pub(crate) fn limit(asked: Option<usize>) -> Result<usize, Problem> {
        match asked {
            None => Ok(Self::USUAL),
            Some(limit) if (1..=Self::MOST).contains(&limit) => Ok(limit),
            Some(_) => Err(Problem::new(PARAMETER_INVALID, format!("`limit` is 1 to {}", Self::MOST))),
        }
    }
}

/// Reads an optional query parameter as an id or a name.
pub(crate) fn param<T: FromStr<Err: fmt::Display>>(name: &str, text: Option<&str>) -> Result<Option<T>, Problem> {
    text.map(|text| text.parse().map_err(|error: T::Err| Problem::new(PARAMETER_INVALID, format!("`{name}`: {error}"))))
        .transpose()
}

/// An opaque cursor over lists that go by name.
pub(crate) struct Cursor<T>(PhantomData<T>);

impl<T: FromStr<Err: fmt::Display> + fmt::Display> Cursor<T> {
    /// From its text form.
    pub(crate) fn read(text: Option<&str>) -> Result<Option<T>, Problem> {
        use base64::Engine as _;
        let Some(text) = text else { return Ok(None) };
        let bad = || Problem::new(PARAMETER_INVALID, "`after` is not a cursor that this list gave out");
        let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).map_err(|_| bad())?;
        std::str::from_utf8(&bytes).map_err(|_| bad())?.parse().map(Some).map_err(|_| bad())
    }

    /// Its text form.
    pub(crate) fn write(last: &T) -> String {
        use base64::Engine as _;
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(last.to_string())
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use countersign_gateway_model::Name;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn json_is_told_by_its_content_type() {
        for (value, expected) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/problem+json", true),
            ("text/json", false),
            ("application/x-www-form-urlencoded", false),
            ("application/jsonx", false),
            ("", false),
        ] {
            assert_eq!(is_json(&headers(&[("content-type", value)])), expected, "{value}");
        }
        assert!(!is_json(&HeaderMap::new()));
    }

    #[test]
    fn idempotency_keys_are_short_visible_and_single() {
        let long = "k".repeat(256);
        for (pairs, good) in [
            (&[("idempotency-key", "a")][..], true),
            (&[("idempotency-key", "")], false),
            (&[("idempotency-key", "a b")], false),
            (&[("idempotency-key", &long)], false),
            (&[("idempotency-key", "a"), ("idempotency-key", "a")], false),
        ] {
            assert_eq!(idempotency_key(&headers(pairs)).is_ok(), good, "{pairs:?}");
        }
        assert_eq!(idempotency_key(&HeaderMap::new()).unwrap(), None);
    }

    #[test]
    fn another_method_path_or_body_is_another_request() {
        let base = digest(&Method::POST, "/a", b"b");
        assert_eq!(base, digest(&Method::POST, "/a", b"b"));
        for other in [
            digest(&Method::PUT, "/a", b"b"),
            digest(&Method::POST, "/ab", b""),
            digest(&Method::POST, "/a", b"c"),
            digest(&Method::POST, "/", b"ab"),
        ] {
            assert_ne!(base, other);
        }
    }

    #[tokio::test]
    async fn bodies_are_bounded_whether_they_say_their_length_or_not() {
        let second = Duration::from_secs(1);
        let body = |n: usize| Body::from("x".repeat(n));
        assert_eq!(collect(&HeaderMap::new(), body(10), 10, second).await.unwrap().len(), 10);
        let code = |result: Result<Bytes, Problem>| result.unwrap_err().code();
        assert_eq!(code(collect(&HeaderMap::new(), body(11), 10, second).await), "body-too-large");
        let announced = headers(&[("content-length", "11")]);
        assert_eq!(code(collect(&announced, Body::empty(), 10, second).await), "body-too-large");
        let zipped = headers(&[("content-encoding", "gzip")]);
        assert_eq!(code(collect(&zipped, body(1), 10, second).await), "body-encoding");
        let never = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
        let short = Duration::from_millis(5);
        assert_eq!(code(collect(&HeaderMap::new(), never, 10, short).await), "body-timeout");
    }

    #[tokio::test]
    async fn waits_are_bounded_and_nonsense_is_no_preference() {
        for (value, expected) in [
            ("wait=5", Some(5)),
            ("respond-async, wait=10", Some(10)),
            ("Wait=\"7\"", Some(7)),
            ("wait=3600", Some(25)),
            ("wait=0", None),
            ("wait=-1", None),
            ("wait", None),
            ("handling=strict", None),
        ] {
            let request = Request::builder().header("prefer", value).body(()).unwrap();
            let (mut parts, ()) = request.into_parts();
            let Ok(Wait(wait)) = Wait::from_request_parts(&mut parts, &()).await;
            assert_eq!(wait.map(|w| w.as_secs()), expected, "{value}");
        }
    }

    #[test]
    fn cursors_round_trip_and_refuse_what_they_did_not_write() {
        let name = Name::new("a/b:c").unwrap();
        assert_eq!(Cursor::<Name>::read(Some(&Cursor::write(&name))).unwrap(), Some(name));
        assert!(Cursor::<Name>::read(Some("!!")).is_err());
        assert!(Cursor::<Name>::read(Some("IA")).is_err());
    }
}
