//! The one place where errors become `application/problem+json` (RFC 9457): code, status, title, and the page of each.
//!
//! `type` is `/problems/<code>`, which the gateway itself serves, so it can be followed without any network. A code
//! without a page does not compile; a page without a code fails a test (`pages`). Errors of the gateway's own are written to its
//! log once, under the request id that the caller gets; their causes never leave the process.
//!
//! Absent: what went wrong in words, which is the error's. Read next: `openapi/problems/`.

use std::borrow::Cow;
use std::error::Error;

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use countersign_gateway_engine::{AppendError, EngineError, Illegal, RegistrationError};
use countersign_gateway_identity::{IdentityError, RateLimited};
use countersign_gateway_model::GateId;
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use crate::context;
use crate::wire::Receipt;

/// One kind of problem.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// Stable name.
    pub code: &'static str,
    /// HTTP status.
    pub status: u16,
    /// One line, the same for every occurrence.
    pub title: &'static str,
    /// The page that its `type` leads to, as Markdown.
    pub page: &'static str,
}

macro_rules! kinds {
    ($($name:ident { code: $code:literal, status: $status:literal, title: $title:literal })+) => {
        $(
            pub(crate) const $name: &Kind = &Kind {
                code: $code,
                status: $status,
                title: $title,
                page: include_str!(concat!("../../../openapi/problems/", $code, ".md")),
            };
        )+

        /// Every kind of problem, in the order of the source.
        pub const KINDS: &[&Kind] = &[$($name),+];
    };
}

kinds! {
    BODY_MALFORMED { code: "body-malformed", status: 400, title: "The body is not JSON" }
    BODY_DUPLICATE_KEY { code: "body-duplicate-key", status: 400, title: "A key stands twice" }
    BODY_UNKNOWN_FIELD { code: "body-unknown-field", status: 422, title: "The body has a field that is not known" }
    BODY_MISSING_FIELD { code: "body-missing-field", status: 422, title: "The body lacks a field" }
    BODY_TYPE_MISMATCH { code: "body-type-mismatch", status: 422, title: "A field has the wrong type" }
    BODY_VALUE_INVALID { code: "body-value-invalid", status: 422, title: "A field has a value that cannot be used" }
    BODY_TOO_LARGE { code: "body-too-large", status: 413, title: "The body is too large" }
    BODY_CONTENT_TYPE { code: "body-content-type", status: 415, title: "The body has another content type" }
    BODY_TIMEOUT { code: "body-timeout", status: 408, title: "The body came too slowly" }
    BODY_ENCODING { code: "body-encoding", status: 415, title: "The body is encoded" }
    ROUTE_UNKNOWN { code: "route-unknown", status: 404, title: "There is no such path" }
    METHOD_NOT_ALLOWED { code: "method-not-allowed", status: 405, title: "The path does not take this method" }
    PARAMETER_INVALID { code: "parameter-invalid", status: 400, title: "A parameter cannot be used" }
    IDEMPOTENCY_KEY_INVALID { code: "idempotency-key-invalid", status: 400, title: "The idempotency key cannot be used" }
    IDEMPOTENCY_KEY_REUSED { code: "idempotency-key-reused", status: 409, title: "The idempotency key was used for another request" }
    OVERLOADED { code: "overloaded", status: 503, title: "The gateway is at its limit" }
    REQUEST_TIMEOUT { code: "request-timeout", status: 504, title: "The request took too long" }
    INTERNAL { code: "internal", status: 500, title: "Something went wrong inside the gateway" }
    NOT_READY { code: "not-ready", status: 503, title: "The gateway is not ready" }
    DRAINING { code: "draining", status: 503, title: "The gateway is shutting down" }
    TOKEN_MISSING { code: "token-missing", status: 401, title: "No credential" }
    TOKEN_MALFORMED { code: "token-malformed", status: 401, title: "The token is malformed" }
    TOKEN_SIGNATURE_INVALID { code: "token-signature-invalid", status: 401, title: "The token's signature does not hold" }
    TOKEN_EXPIRED { code: "token-expired", status: 401, title: "The token has expired" }
    TOKEN_NOT_YET_VALID { code: "token-not-yet-valid", status: 401, title: "The token is not valid yet" }
    TOKEN_REVOKED { code: "token-revoked", status: 401, title: "The token was revoked" }
    TOKEN_WRONG_AUDIENCE { code: "token-wrong-audience", status: 401, title: "The token is for another gateway" }
    TOKEN_WRONG_ISSUER { code: "token-wrong-issuer", status: 401, title: "The token's issuer is not trusted" }
    CREDENTIALS_INVALID { code: "credentials-invalid", status: 401, title: "The credentials do not hold" }
    ENROLMENT_INVALID { code: "enrolment-invalid", status: 401, title: "The enrolment token does not hold" }
    ENROLMENT_USED { code: "enrolment-used", status: 409, title: "The enrolment token was used" }
    ENROLMENT_EXPIRED { code: "enrolment-expired", status: 410, title: "The enrolment token has expired" }
    ENROLMENT_PURPOSE { code: "enrolment-purpose", status: 422, title: "The enrolment token is for something else" }
    SCOPE_MISSING { code: "scope-missing", status: 403, title: "The credential lacks a scope" }
    SCOPE_REFUSED { code: "scope-refused", status: 422, title: "The scope cannot be had" }
    SCOPE_UNKNOWN { code: "scope-unknown", status: 422, title: "The scope is not known" }
    CHAIN_TOO_DEEP { code: "chain-too-deep", status: 422, title: "The chain of delegation is too long" }
    CHAIN_REFUSED { code: "chain-refused", status: 403, title: "The delegation does not hold" }
    WRONG_ORGANIZATION { code: "wrong-organization", status: 404, title: "There is no such account" }
    SECOND_FACTOR_REQUIRED { code: "second-factor-required", status: 401, title: "A second factor is needed" }
    LOGIN_STALE { code: "login-stale", status: 403, title: "The login was too long ago for this" }
    SECOND_FACTOR_REFUSED { code: "second-factor-refused", status: 401, title: "The code of the second factor does not hold" }
    SECOND_FACTOR_IN_FORCE { code: "second-factor-in-force", status: 409, title: "There is a second factor already" }
    SECOND_FACTOR_UNKNOWN { code: "second-factor-unknown", status: 409, title: "There is no such second factor" }
    RATE_LIMITED { code: "rate-limited", status: 429, title: "Too many requests" }
    WEAK_SECRET { code: "weak-secret", status: 422, title: "The secret is too weak" }
    ACCOUNT_INVALID { code: "account-invalid", status: 422, title: "The account cannot be like this" }
    ACCOUNT_UNKNOWN { code: "account-unknown", status: 404, title: "There is no such account" }
    ACCOUNT_EXISTS { code: "account-exists", status: 409, title: "The account exists already" }
    ACCOUNT_CHANGED { code: "account-changed", status: 409, title: "The account was changed at the same time" }
    DEMO_REFUSED { code: "demo-refused", status: 403, title: "Demo credentials are not accepted here" }
    IDENTITY_UNAVAILABLE { code: "identity-unavailable", status: 503, title: "Accounts cannot be read" }
    NOT_FOUND { code: "not-found", status: 404, title: "There is no such thing" }
    POLICY_DENIED { code: "policy-denied", status: 403, title: "Policy refuses" }
    POLICY_ERROR { code: "policy-error", status: 403, title: "Policy could not be evaluated" }
    TOOL_UNKNOWN { code: "tool-unknown", status: 403, title: "The tool is not listed" }
    FROZEN { code: "frozen", status: 409, title: "Work is frozen" }
    INPUT_INVALID { code: "input-invalid", status: 422, title: "The tool's input does not fit" }
    DEMO_ONLY { code: "demo-only", status: 403, title: "Only a demonstration accepts this decision" }
    BUNDLE_REJECTED { code: "bundle-rejected", status: 422, title: "The policy bundle was not accepted" }
    BACKTEST_RUNNING { code: "backtest-running", status: 409, title: "A backtest is under way" }
    BUNDLE_LOCKS_OUT { code: "bundle-locks-out", status: 422, title: "The policy bundle would lock everyone out" }
    TOOLS_INVALID { code: "tools-invalid", status: 422, title: "The tools cannot be registered" }
    CATALOGUE_REJECTED { code: "catalogue-rejected", status: 422, title: "The active bundle does not stand with these tools" }
    REGISTRATION_WAITING { code: "registration-waiting", status: 409, title: "Another registration waits for people" }
    APPROVAL_UNAVAILABLE { code: "approval-unavailable", status: 409, title: "People would have to approve" }
    DIFF_UNCONFIRMED { code: "diff-unconfirmed", status: 409, title: "The difference is not confirmed" }
    DEMAND_UNMET { code: "demand-unmet", status: 403, title: "A rule demands another login" }
    SIGNATURE_MISSING { code: "signature-missing", status: 403, title: "A rule demands a signature" }
    SIGNATURE_REFUSED { code: "signature-refused", status: 422, title: "The signature is not taken" }
    KEY_KNOWN { code: "key-known", status: 409, title: "The key was registered before" }
    GRANT_NOT_GRANTABLE { code: "grant-not-grantable", status: 422, title: "The rule cannot be met in advance" }
    GRANT_TOO_WIDE { code: "grant-too-wide", status: 422, title: "The rule lets less be granted" }
    GRANT_TERMS_INVALID { code: "grant-terms-invalid", status: 422, title: "The terms do not fit a tool" }
    GRANT_UNKNOWN { code: "grant-unknown", status: 404, title: "The instance has no such grant" }
    GRANT_UNUSABLE { code: "grant-unusable", status: 409, title: "The grant cannot be used" }
    GRANT_NOT_LIFTABLE { code: "grant-not-liftable", status: 422, title: "Nobody gives a grant alone" }
    GRANT_NOT_OVERRIDABLE { code: "grant-not-overridable", status: 422, title: "A grant is given as it was asked for" }
    COUNTERS_BUSY { code: "counters-busy", status: 503, title: "The counters are busy" }
    RUNNER_UNAVAILABLE { code: "runner-unavailable", status: 503, title: "No runner takes this job" }
    RUNNER_FAILED { code: "runner-failed", status: 502, title: "The runner did not answer" }
    LEDGER_UNREADABLE { code: "ledger-unreadable", status: 503, title: "The ledger cannot be read" }
    LEDGER_DAMAGED { code: "ledger-damaged", status: 500, title: "Stored bytes are damaged" }
    LEDGER_REFUSING { code: "ledger-refusing", status: 503, title: "The ledger has stopped" }
    LEDGER_BUSY { code: "ledger-busy", status: 503, title: "The ledger is busy" }
    DISK_FULL { code: "disk-full", status: 507, title: "The disk is full" }
    CLOCK_BEHIND { code: "clock-behind", status: 503, title: "The clock is behind the ledger" }
    OUTCOME_UNKNOWN { code: "outcome-unknown", status: 503, title: "It is not known whether it happened" }
    INSTANCE_NOT_FOUND { code: "instance-not-found", status: 404, title: "There is no such instance" }
    INSTANCE_EXISTS { code: "instance-exists", status: 409, title: "The instance exists already" }
    INSTANCE_FINISHED { code: "instance-finished", status: 409, title: "The instance has finished" }
    INSTANCE_WAITING { code: "instance-waiting", status: 409, title: "The instance waits for people" }
    INSTANCE_NOT_WAITING { code: "instance-not-waiting", status: 409, title: "The instance waits for nobody" }
    INSTANCE_QUEUED { code: "instance-queued", status: 409, title: "The instance has not started" }
    ILLEGAL_TRANSITION { code: "illegal-transition", status: 409, title: "No edge leads there" }
    STARTS_OPEN { code: "starts-open", status: 409, title: "Started actions have no outcome yet" }
    PERMIT_UNKNOWN { code: "permit-unknown", status: 404, title: "The instance has no such permit" }
    PERMIT_EXPIRED { code: "permit-expired", status: 409, title: "The permit has expired" }
    PERMIT_STARTED { code: "permit-started", status: 409, title: "The permit was started before" }
    START_MISSING { code: "start-missing", status: 409, title: "The action was not started" }
    START_TOO_LATE { code: "start-too-late", status: 409, title: "It is too late to begin" }
    GATE_CLOSED { code: "gate-closed", status: 409, title: "The gate is closed" }
    GATE_EXPIRED { code: "gate-expired", status: 409, title: "The gate has expired" }
    GATE_NOT_EXPIRED { code: "gate-not-expired", status: 409, title: "The gate has not expired" }
    DEADLINE_NOT_PASSED { code: "deadline-not-passed", status: 409, title: "The deadline has not passed" }
    ITEM_UNKNOWN { code: "item-unknown", status: 404, title: "The gate has no such item" }
    RULE_NOT_ASKED { code: "rule-not-asked", status: 404, title: "The item does not ask for the rule" }
    RULE_MET { code: "rule-met", status: 409, title: "The rule is met already" }
    RULE_NOT_LIFTABLE { code: "rule-not-liftable", status: 409, title: "The rule cannot be lifted" }
    REVIEW_OVERDUE { code: "review-overdue", status: 409, title: "A review of the rule is overdue" }
    REVIEW_OWN { code: "review-own", status: 403, title: "The review is another person's" }
    REVIEW_CLOSED { code: "review-closed", status: 409, title: "The review is closed" }
    ITEM_DROPPED { code: "item-dropped", status: 409, title: "The item was dropped" }
    ITEM_STALE { code: "item-stale", status: 409, title: "The item has changed" }
    VIEW_STALE { code: "view-stale", status: 409, title: "The decision is for another view" }
    JUSTIFICATION_BLANK { code: "justification-blank", status: 422, title: "A justification is required" }
    JUSTIFICATION_LENGTH { code: "justification-length", status: 422, title: "The justification is too short or too long" }
    OVERRIDE_WITHOUT_DELTA { code: "override-without-delta", status: 422, title: "The OVERRIDE changes nothing" }
    DELTA_WITHOUT_OVERRIDE { code: "delta-without-override", status: 422, title: "Only an OVERRIDE may change something" }
    OVERRIDE_CHANGES_NOTHING { code: "override-changes-nothing", status: 422, title: "The OVERRIDE leaves an item as it is" }
    ITEM_NOT_DROPPABLE { code: "item-not-droppable", status: 422, title: "The item cannot be dropped" }
    DECISION_ITEMS { code: "decision-items", status: 422, title: "The decision names the wrong items" }
    DECIDER_NOT_A_PERSON { code: "decider-not-a-person", status: 403, title: "Only a person decides" }
    VERDICT_STALE { code: "verdict-stale", status: 409, title: "The votes changed while this was decided" }
    TIMER_FIRED { code: "timer-fired", status: 409, title: "The timer has fired before" }
    BATCH_SIZE { code: "batch-size", status: 422, title: "The batch has too few or too many actions" }
    DUPLICATE_ID { code: "duplicate-id", status: 422, title: "An id stands twice" }
    INCOMPLETE { code: "incomplete", status: 500, title: "The gateway left something out" }
    WORKSPACE_INVALID { code: "workspace-invalid", status: 422, title: "The workspace cannot be stored" }
    WORKSPACE_UNKNOWN { code: "workspace-unknown", status: 422, title: "There is no such workspace" }
    WORKSPACE_UNAVAILABLE { code: "workspace-unavailable", status: 503, title: "The workspace cannot be stored now" }
    ROOT_KEY_UNREADABLE { code: "root-key-unreadable", status: 422, title: "The root key cannot be read" }
}

/// The kind of a code.
pub fn kind(code: &str) -> Option<&'static Kind> {
    KINDS.iter().copied().find(|kind| kind.code == code)
}

/// A request that was not carried out, as its caller is told.
#[derive(Debug)]
pub(crate) struct Problem {
    kind: &'static Kind,
    detail: Cow<'static, str>,
    members: Vec<(&'static str, Value)>,
    retry_after: Option<u64>,
}

/// Seconds after which trying again makes sense, where nothing better is known.
const SHORTLY: u64 = 1;

/// Longest text of one's own making in a problem; a caller's text may be quoted in it.
const MAX_DETAIL: usize = 2000;

/// Most findings of one policy bundle that are listed.
const MAX_FINDINGS: usize = 500;

impl Problem {
    pub(crate) fn new(kind: &'static Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        let retry_after = (kind.status == 503).then_some(SHORTLY);
        Self { kind, detail: bounded(detail.into()), members: Vec::new(), retry_after }
    }

    /// With an extension member.
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.members.push((name, value.into()));
        self
    }

    /// With the place in the body that it is about, as a JSON pointer.
    pub(crate) fn at(self, pointer: &str) -> Self {
        let errors = json!([{ "pointer": pointer, "detail": self.detail }]);
        self.with("errors", errors)
    }

    pub(crate) fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds.max(1));
        self
    }

    /// Something that should not have happened: logged here, once; the caller gets the request id.
    pub(crate) fn internal(what: &str, error: &(dyn Error + 'static)) -> Self {
        Self::hidden(INTERNAL, what, error)
    }

    /// A fault on this side, of a kind that has a name. The chain of causes goes to the log and nowhere else.
    fn hidden(kind: &'static Kind, what: &str, error: &(dyn Error + 'static)) -> Self {
        let request = context::request_id().map(|id| id.to_string());
        tracing::error!(request, code = kind.code, cause = chain(error), "{what}");
        Self::new(kind, kind.title)
    }

    /// The document, for an answer that has begun with a good status.
    pub(crate) fn document(&self) -> Value {
        serde_json::to_value(Body(self)).unwrap_or_default()
    }

    #[cfg(test)]
    pub(crate) fn code(&self) -> &'static str {
        self.kind.code
    }

    #[cfg(test)]
    pub(crate) fn member(&self, name: &str) -> Option<&Value> {
        self.members.iter().find(|(n, _)| *n == name).map(|(_, value)| value)
    }
}

/// An error with its causes, for the log.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

fn bounded(detail: Cow<'static, str>) -> Cow<'static, str> {
    match detail.char_indices().nth(MAX_DETAIL) {
        Some((end, _)) => Cow::Owned(format!("{}…", detail.get(..end).unwrap_or_default())),
        None => detail,
    }
}

fn gate(id: GateId) -> Value {
    json!({ "id": id, "href": format!("/api/v1/gates/{id}") })
}

impl From<EngineError> for Problem {
    fn from(error: EngineError) -> Self {
        let Some(kind) = kind(error.code()) else {
            return Self::internal("an error has a code that is not in the table", &error);
        };
        let detail = match &error {
            // What of the gateway's own faults helps the caller.
            EngineError::NoRunner(_)
            | EngineError::Append(
                AppendError::DiskFull
                | AppendError::Unknown
                | AppendError::ClockBehind { .. }
                | AppendError::Busy { .. },
            ) => error.to_string(),
            error if kind.status >= 500 => return Self::hidden(kind, "a request failed in the engine", error),
            error => error.to_string(),
        };
        let problem = Self::new(kind, detail);
        match error {
            EngineError::Refused(refused) => {
                context::note_entry(refused.receipt.index);
                let receipt = serde_json::to_value(Receipt(refused.receipt)).unwrap_or_default();
                problem.with("receipt", receipt)
            }
            EngineError::Waiting(id)
            | EngineError::Illegal(Illegal::Waiting(id) | Illegal::GateClosed(id) | Illegal::GateExpired(id)) => {
                problem.with("gate", gate(id))
            }
            EngineError::RegistrationWaiting(id) => {
                problem.with("registration", json!({ "id": id, "href": format!("/api/v1/tools/registrations/{id}") }))
            }
            EngineError::Illegal(Illegal::OpenStarts(permits)) => problem.with("permits", json!(permits)),
            EngineError::Input { source, .. } => {
                // What is wrong with the caller's own input is no secret from the caller.
                let errors = json!([{ "detail": chain(&source) }]);
                problem.with("errors", errors)
            }
            EngineError::GrantTerms(error) => {
                let errors = json!([{ "pointer": error.pointer, "detail": error.to_string() }]);
                problem.with("errors", errors)
            }
            EngineError::Tools(RegistrationError(faults)) => {
                let each = faults.iter().take(MAX_FINDINGS);
                let each = each
                    .map(|f| json!({ "pointer": f.pointer, "detail": format!("tool `{}`: {}", f.tool, f.problem) }));
                problem.with("errors", each.collect::<Vec<_>>())
            }
            EngineError::Bundle(findings) | EngineError::LockedOut(findings) | EngineError::Catalogue(findings) => {
                // The detail is bounded; whoever mends a bundle needs every finding.
                let each = findings.lines().filter(|line| !line.trim().is_empty()).take(MAX_FINDINGS);
                problem.with("errors", each.map(|line| json!({ "detail": line })).collect::<Vec<_>>())
            }
            EngineError::ConfirmDiff { digest, diff } => {
                problem.with("diff_digest", json!(digest)).with("diff", json!(diff))
            }
            EngineError::Append(AppendError::Busy { retry_after }) => problem.retry_after(retry_after.0.div_ceil(1000)),
            _ => problem,
        }
    }
}

impl From<IdentityError> for Problem {
    fn from(error: IdentityError) -> Self {
        let Some(kind) = kind(error.code()) else {
            return Self::internal("an error has a code that is not in the table", &error);
        };
        match error {
            IdentityError::RateLimited(limited) => limited.into(),
            error if kind.status >= 500 => Self::hidden(kind, "accounts could not be read", &error),
            error => Self::new(kind, error.to_string()),
        }
    }
}

impl From<RateLimited> for Problem {
    fn from(limited: RateLimited) -> Self {
        Self::new(RATE_LIMITED, limited.to_string()).retry_after(limited.retry_after.0.div_ceil(1000))
    }
}

/// The body of a problem.
struct Body<'a>(&'a Problem);

impl Serialize for Body<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let Problem { kind, detail, members, retry_after } = self.0;
        let mut map = s.serialize_map(None)?;
        map.serialize_entry("type", &format_args!("/problems/{}", kind.code))?;
        map.serialize_entry("title", kind.title)?;
        map.serialize_entry("status", &kind.status)?;
        map.serialize_entry("detail", detail)?;
        map.serialize_entry("code", kind.code)?;
        if let Some(id) = context::request_id() {
            map.serialize_entry("instance", &id)?;
        }
        if let Some(seconds) = retry_after {
            map.serialize_entry("retry_after", seconds)?;
        }
        for (name, value) in members {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        context::note_problem(self.kind.code);
        let status = StatusCode::from_u16(self.kind.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        // Maps of strings and numbers always become JSON; an empty body is the worst that could follow.
        let body = serde_json::to_vec(&Body(&self)).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            // RFC 6750 section 3: no error word where no token came at all; and a client that reads `invalid_token` throws its
            // token away. RFC 9470 section 3 has a word for a login that is not sure enough.
            let challenge = match self.kind.code {
                "second-factor-required" => "Bearer realm=\"countersign\", error=\"insufficient_user_authentication\"",
                code if code != TOKEN_MISSING.code && code.starts_with("token-") => {
                    "Bearer realm=\"countersign\", error=\"invalid_token\""
                }
                _ => "Bearer realm=\"countersign\"",
            };
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The codes that a source file gives its errors: `=> "code"` and `code: "code"`.
    fn codes_of(source: &str) -> BTreeSet<&str> {
        source
            .lines()
            .filter(|line| line.contains("=> \"") || line.contains("code: "))
            .flat_map(|line| line.split('"').skip(1).step_by(2))
            .filter(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'))
            .collect()
    }

    #[test]
    fn every_code_of_every_room_has_a_kind() {
        let flow = include_str!("../../flow/src/error.rs");
        let engine = include_str!("../../engine/src/error.rs");
        let mut missing: BTreeSet<&str> = IdentityError::CODES.iter().copied().collect();
        let refused = ["policy-denied", "tool-unknown", "policy-error", "frozen", "approval-unavailable"];
        missing.extend([flow, engine].into_iter().flat_map(codes_of).chain(refused));
        assert!(missing.contains("view-stale") && missing.contains("disk-full") && missing.contains("token-missing"));
        missing.retain(|code| kind(code).is_none());
        assert!(missing.is_empty(), "no row in `kinds!` for: {missing:?}");
    }

    #[test]
    fn codes_are_unique_and_statuses_are_errors() {
        let codes: BTreeSet<_> = KINDS.iter().map(|kind| kind.code).collect();
        assert_eq!(codes.len(), KINDS.len());
        assert!(KINDS.iter().all(|kind| (400..600).contains(&kind.status)));
    }

    #[test]
    fn what_went_wrong_inside_stays_inside() {
        let source = std::io::Error::other("password=hunter2 at /var/lib/secret");
        let problem = Problem::from(EngineError::Ledger(Box::new(source)));
        let body = serde_json::to_string(&Body(&problem)).unwrap();
        assert!(body.contains("\"ledger-unreadable\""), "{body}");
        assert!(!body.contains("hunter2") && !body.contains("/var"), "{body}");
    }

    #[test]
    fn a_problem_is_one_object_with_its_members_and_headers() {
        let id = GateId::from_bytes([1; 16]);
        let problem = Problem::from(EngineError::Waiting(id));
        let body: Value = serde_json::to_value(Body(&problem)).unwrap();
        assert_eq!(body["type"], "/problems/instance-waiting");
        assert_eq!((&body["status"], &body["code"]), (&json!(409), &json!("instance-waiting")));
        assert_eq!(body["gate"]["href"], format!("/api/v1/gates/{id}"));
        let response = Problem::from(IdentityError::TokenExpired).into_response();
        assert_eq!(response.status(), 401);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        assert!(response.headers()[WWW_AUTHENTICATE].to_str().unwrap().contains("invalid_token"));
    }

    #[test]
    fn details_are_bounded() {
        let problem = Problem::new(PARAMETER_INVALID, "ü".repeat(5000));
        assert_eq!(problem.detail.chars().count(), MAX_DETAIL + 1);
    }
}
