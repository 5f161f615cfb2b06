//! History and evidence: entries, receipts, proofs, packs, verdicts computed again, and checking a pack.
//!
//! Absent: the log in tlog-tiles form (`log`).

use std::fmt::Write as _;

use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse as _, Response};
use countersign_gateway_engine as engine;
use countersign_gateway_model::{Digest, InstanceId, Name};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Auth;
use crate::input::{Cursor, Id, Paging, Params, Upload, param};
use crate::problem::{PARAMETER_INVALID, Problem, ROOT_KEY_UNREADABLE};
use crate::reply;
use crate::state::AppState;
use crate::wire::{Hash, Page, Receipt, Time, Verdict};

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list_entries))
        .routes(routes!(get_entry))
        .routes(routes!(get_receipt))
        .routes(routes!(get_inclusion))
        .routes(routes!(get_consistency))
        .routes(routes!(export_pack))
        .routes(routes!(replay))
        .routes(routes!(verify))
}

/// A payload that an entry names: a salted digest stands for it in the log.
#[derive(Serialize, ToSchema)]
pub(crate) struct PayloadName {
    /// What it is: `question`, `input`, `output`, `view`, `justification`, `description` and others to come.
    role: String,
    /// Its digest.
    #[schema(value_type = String)]
    digest: Digest,
    /// Bytes.
    length: u32,
}

/// An entry of the ledger.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "index": 41, "hash": "5b0f…", "stream": "instance", "stream_id": "inst_0192f3a1b2c37d4e8f9a0b1c2d3e4f5a",
    "sequence": 3, "kind": "permit", "body": {}, "verdict": { "decision": "allow", "rules": [], "error": false },
    "determining": [["agents-may-read"]], "actor": "who_5b0f6b2c3a9d4e1f8c7a6b5d4e3f2a1b",
    "actor_name": "agent/fixer", "on_behalf_of": [], "claimed": "2026-11-20T09:00:00.000Z", "authority": "solo",
    "payloads": [{ "role": "question", "digest": "9f86…", "length": 812 }]
}))]
pub(crate) struct Entry {
    /// Place in the log.
    index: u64,
    /// Leaf hash, hex.
    hash: String,
    /// `instance`, `organization` or `log`.
    #[schema(value_type = String)]
    stream: &'static str,
    /// Id of the stream.
    stream_id: String,
    /// Place in the stream.
    sequence: u64,
    /// What sort of entry it is. More words may come.
    #[schema(value_type = String)]
    kind: &'static str,
    /// What it says.
    #[schema(value_type = Object)]
    body: Value,
    /// What policy said, where it was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<Verdict>,
    /// Policies that determined it: one list for who acted, then one for each on whose behalf.
    #[schema(value_type = Vec<Vec<String>>)]
    determining: Vec<Vec<Name>>,
    /// Pseudonym of who acted.
    actor: String,
    /// Who that is, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    actor_name: Option<String>,
    /// Pseudonyms of those on whose behalf, outermost first.
    on_behalf_of: Vec<String>,
    /// When, as the gateway claimed.
    #[schema(value_type = String, format = DateTime)]
    claimed: Time,
    /// `solo` or `four_eyes`.
    #[schema(value_type = String)]
    authority: &'static str,
    /// Payloads that it names.
    payloads: Vec<PayloadName>,
}

impl From<engine::EntryRecord> for Entry {
    fn from(record: engine::EntryRecord) -> Self {
        let payloads = record.payloads.into_iter().map(|(role, digest, length)| PayloadName { role, digest, length });
        Self {
            index: record.index,
            hash: record.hash,
            stream: record.stream,
            stream_id: record.stream_id,
            sequence: record.sequence,
            kind: record.kind,
            body: record.body,
            verdict: record.verdict.map(Into::into),
            determining: record.determining,
            actor: record.actor,
            actor_name: record.actor_name,
            on_behalf_of: record.on_behalf_of,
            claimed: record.claimed.into(),
            authority: record.authority,
            payloads: payloads.collect(),
        }
    }
}

/// Which entries to list.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct EntryFilter {
    /// Only this instance's stream.
    instance: Option<String>,
    /// Cursor that the page before gave as `next`.
    after: Option<String>,
    /// How many at most: 1 to 200, usually 50.
    limit: Option<usize>,
}

/// Hashes that prove something about the tree (RFC 6962).
#[derive(Serialize, ToSchema)]
#[schema(example = json!({ "proof": ["q7Zq0m2hW8u3b0xG6y1c5n4v9k2j8h7g6f5d4s3a2p0="] }))]
pub(crate) struct TreeProof {
    /// The hashes, leaf side first; base64.
    #[schema(value_type = Vec<String>)]
    proof: Vec<Hash>,
}

/// What is to be proven of an entry.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Inclusion {
    /// Place of the entry.
    index: u64,
    /// Size of the tree that it is in.
    size: u64,
}

/// Which sizes are to be shown consistent.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Consistency {
    /// The smaller size.
    old: u64,
    /// The larger size.
    new: u64,
}

/// What goes into a pack.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PackContents {
    /// Disclose payloads and what verdicts were computed from. They may hold personal data.
    #[serde(default)]
    disclose: bool,
}

/// A verdict computed again from its stored inputs.
#[derive(Serialize, ToSchema)]
pub(crate) struct Replayed {
    /// The entry.
    index: u64,
    /// What is on record.
    stored: Verdict,
    /// What comes out now; absent: the inputs, or the policy of that time, are not kept any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    computed: Option<Verdict>,
    /// Whether both are the same; absent: it could not be computed.
    #[serde(skip_serializing_if = "Option::is_none")]
    matches: Option<bool>,
}

impl From<engine::Replay> for Replayed {
    fn from(replay: engine::Replay) -> Self {
        Self {
            index: replay.index,
            matches: replay.computed.as_ref().map(|computed| *computed == replay.stored),
            stored: replay.stored.into(),
            computed: replay.computed.map(Into::into),
        }
    }
}

/// Under which key a pack is checked.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Root {
    /// The root verifier key, in its text form `name+hash+key`. Not one that came with the pack.
    root: String,
}

/// List entries
///
/// Of the whole log, or of one instance. For those who may read verdicts.
#[utoipa::path(
    get, path = "/api/v1/audit/entries", operation_id = "listEntries", tag = "audit",
    params(EntryFilter),
    responses((status = 200, description = "A page", body = Page<Entry>)),
)]
async fn list_entries(
    State(app): State<AppState>,
    Auth(who): Auth,
    Params(filter): Params<EntryFilter>,
) -> Result<Response, Problem> {
    let instance: Option<InstanceId> = param("instance", filter.instance.as_deref())?;
    let from = Cursor::<u64>::read(filter.after.as_deref())?.unwrap_or(0);
    let query = engine::EntryQuery { instance, from, limit: Paging::limit(filter.limit)? };
    let mut page = app.engine.entries(&who, query).await?;
    // The engine's is a place: in the log, or in the instance's stream.
    page.next = page.next.and_then(|place| place.parse().ok()).map(|place: u64| Cursor::write(&place));
    reply::ok(&Page::of(page, Entry::from))
}

/// Read an entry
#[utoipa::path(
    get, path = "/api/v1/audit/entries/{index}", operation_id = "getEntry", tag = "audit",
    params(("index" = u64, Path, description = "Place in the log")),
    responses((status = 200, description = "The entry", body = Entry)),
)]
async fn get_entry(State(app): State<AppState>, Auth(who): Auth, Id(index): Id<u64>) -> Result<Response, Problem> {
    reply::ok(&Entry::from(app.engine.entry(&who, index).await?))
}

/// Read a receipt
///
/// As JSON, or as a C2SP tlog-proof where `accept` asks for `text/plain`.
#[utoipa::path(
    get, path = "/api/v1/audit/receipts/{index}", operation_id = "getReceipt", tag = "audit",
    params(("index" = u64, Path, description = "Place in the log")),
    responses((status = 200, description = "The receipt", content(
        (Receipt = "application/json"),
        (String = "text/plain"),
    ))),
)]
async fn get_receipt(
    State(app): State<AppState>,
    Auth(who): Auth,
    Id(index): Id<u64>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let receipt = app.engine.receipt(&who, index).await?;
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accept.split(',').any(|kind| kind.trim_start().starts_with("text/plain")) {
        return Ok(receipt.tlog_proof().into_response());
    }
    reply::ok(&Receipt(receipt))
}

/// Prove inclusion
#[utoipa::path(
    get, path = "/api/v1/audit/proofs/inclusion", operation_id = "getInclusionProof", tag = "audit",
    params(Inclusion),
    responses((status = 200, description = "The entry is in the tree of that size", body = TreeProof)),
)]
async fn get_inclusion(
    State(app): State<AppState>,
    Auth(who): Auth,
    Params(asked): Params<Inclusion>,
) -> Result<Response, Problem> {
    if asked.index >= asked.size {
        return Err(Problem::new(PARAMETER_INVALID, "`index` must be less than `size`"));
    }
    let proof = app.engine.proof(&who, asked.index, asked.size).await?;
    reply::ok(&TreeProof { proof: proof.into_iter().map(|hash| Hash(hash.0)).collect() })
}

/// Prove consistency
#[utoipa::path(
    get, path = "/api/v1/audit/proofs/consistency", operation_id = "getConsistencyProof", tag = "audit",
    params(Consistency),
    responses((status = 200, description = "The smaller tree is the beginning of the larger one", body = TreeProof)),
)]
async fn get_consistency(
    State(app): State<AppState>,
    Auth(who): Auth,
    Params(asked): Params<Consistency>,
) -> Result<Response, Problem> {
    if asked.old > asked.new {
        return Err(Problem::new(PARAMETER_INVALID, "`old` must not be more than `new`"));
    }
    let proof = app.engine.consistency(&who, asked.old, asked.new).await?;
    reply::ok(&TreeProof { proof: proof.into_iter().map(|hash| Hash(hash.0)).collect() })
}

/// Export an evidence pack
///
/// The whole log as one file that can be checked offline under the root key alone.
#[utoipa::path(
    get, path = "/api/v1/audit/pack", operation_id = "exportPack", tag = "audit",
    params(PackContents),
    responses((status = 200, description = "The pack", body = String, content_type = "application/zip")),
)]
async fn export_pack(
    State(app): State<AppState>,
    Auth(who): Auth,
    Params(contents): Params<PackContents>,
) -> Result<Response, Problem> {
    let pack = app.engine.pack(&who, contents.disclose).await?;
    let mut response = pack.into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/zip"));
    let mut disposition = String::from("attachment; filename=\"");
    let _ = write!(disposition, "{}.evidence\"", who.org);
    if let Ok(value) = HeaderValue::from_str(&disposition) {
        headers.insert(CONTENT_DISPOSITION, value);
    }
    Ok(response)
}

/// Compute a verdict again
///
/// From the question, the entities and the policy that are on record with the entry.
#[utoipa::path(
    get, path = "/api/v1/replay/{index}", operation_id = "replayVerdict", tag = "audit",
    params(("index" = u64, Path, description = "Place in the log")),
    responses((status = 200, description = "Both verdicts", body = Replayed, example = json!({
        "index": 41, "stored": { "decision": "allow", "rules": [], "error": false },
        "computed": { "decision": "allow", "rules": [], "error": false }, "matches": true
    }))),
)]
async fn replay(State(app): State<AppState>, Auth(who): Auth, Id(index): Id<u64>) -> Result<Response, Problem> {
    reply::ok(&Replayed::from(app.engine.replay(&who, index).await?))
}

/// Check an evidence pack
///
/// The same check as the offline verifier's, for convenience: whoever trusts nobody runs that one. Nothing is kept.
///
/// `problems` says why it is not VALID: each has a stable `code`, whose page is `/problems/{code}`, a `detail` in words, and
/// the index of an `entry` where it is about a single one.
#[utoipa::path(
    post, path = "/api/v1/verify", operation_id = "verifyPack", tag = "audit",
    params(Root),
    request_body(content = String, content_type = "application/zip", description = "The pack"),
    responses((status = 200, description = "The report; `verdict` is `VALID`, `INVALID` or `INCONCLUSIVE`",
        body = serde_json::Value, examples(
            ("valid" = (summary = "Nothing is wrong", value = json!({
                "verdict": "VALID", "problems": [], "root_key": "countersign.local/3f…/root+9a8b7c6d+AeZ…",
                "origin": "countersign.local/3f…", "population": { "from": 0, "to": 42, "complete": true },
                "proven": ["every byte of entries 0 to 41 is what the log key signed at size 42"],
                "not_proven": ["that no second history exists: no witness cosigned, and you gave no checkpoint"]
            }))),
            ("invalid" = (summary = "The file was cut", value = json!({
                "verdict": "INVALID", "root_key": "countersign.local/3f…/root+9a8b7c6d+AeZ…",
                "problems": [{
                    "code": "pack-truncated",
                    "detail": "the file is not a whole evidence pack: it ends in the middle of a part"
                }],
                "proven": [], "not_proven": []
            }))),
        ))),
)]
async fn verify(
    State(_): State<AppState>,
    Auth(_who): Auth,
    Params(key): Params<Root>,
    upload: Upload,
) -> Result<Response, Problem> {
    // A `+` that was not percent-encoded comes out of the query as a space, which no verifier key has.
    let root = key.root.replace(' ', "+");
    let checked = tokio::task::spawn_blocking(move || {
        let report = engine::verify_evidence(&root, &upload.bytes);
        // The place for an upload is given back when the work is done, not when the caller has gone.
        drop(upload.slot);
        report
    });
    let report = checked.await.map_err(|error| Problem::internal("a verification ended early", &error))?;
    let report = report.map_err(|error| Problem::new(ROOT_KEY_UNREADABLE, error.to_string()))?;
    reply::ok(&report)
}

#[cfg(test)]
mod tests {
    use countersign_gateway_model::Verdict as Said;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_cannot_be_computed_any_more_is_no_mismatch() {
        let told = |computed: Option<Said>| {
            let replay = engine::Replay { index: 7, stored: Said::deny(), computed };
            serde_json::to_value(Replayed::from(replay)).ok()
        };
        let stored = json!({ "decision": "deny", "rules": [], "error": false });
        let same = json!({ "index": 7, "stored": stored, "computed": stored, "matches": true });
        assert_eq!(told(Some(Said::deny())), Some(same));
        let error = Said { error: true, ..Said::deny() };
        assert_eq!(told(Some(error)).map(|told| told["matches"].clone()), Some(json!(false)));
        assert_eq!(
            told(None),
            Some(json!({ "index": 7, "stored": stored })),
            "neither a verdict nor whether it matches"
        );
    }
}
