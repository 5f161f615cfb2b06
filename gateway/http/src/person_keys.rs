//! Keys of persons, with which they sign what they decide: register, list, take back.
//!
//! Only public keys come here. Absent: signing, which is the person's own tool's.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_gateway_engine as engine;
use countersign_gateway_identity::Subject;
use countersign_gateway_model::{Digest, Name, Pseudonym};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Auth;
use crate::governed::of_subject;
use crate::input::{Id, Input};
use crate::problem::{BODY_VALUE_INVALID, Problem};
use crate::reply;
use crate::state::AppState;
use crate::wire::{Receipt, Time};

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list_person_keys, register_person_key)).routes(routes!(revoke_person_key))
}

/// A key that a person signs decisions with.
#[derive(Serialize, ToSchema)]
pub(crate) struct PersonKey {
    /// SHA-256 of the key, hex.
    #[schema(value_type = String)]
    key_id: Digest,
    /// COSE algorithm number: -8 is `EdDSA` (Ed25519).
    alg: i32,
    /// The public key, 32 bytes in base64.
    key: String,
    /// It signs at gates that opened after this.
    #[schema(value_type = String, format = DateTime)]
    registered: Time,
    /// When it was taken back: it signs nothing since then.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    revoked: Option<Time>,
}

impl From<engine::PersonKeyRecord> for PersonKey {
    fn from(record: engine::PersonKeyRecord) -> Self {
        Self {
            key_id: record.id,
            alg: engine::EDDSA,
            key: STANDARD.encode(record.key.0),
            registered: record.registered.into(),
            revoked: record.revoked.map(Into::into),
        }
    }
}

/// The keys of a person, and what registering another one signs.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "log": "countersign/0192f3a1b2c37d4e8f9a0b1c2d3e4f5a", "principal": "who_5b0f6b2c3a9d4e1f8c7a6b5d4e3f2a1b",
    "items": [{
        "key_id": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", "alg": -8,
        "key": "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=", "registered": "2026-11-20T09:00:00.000Z"
    }]
}))]
pub(crate) struct PersonKeys {
    /// Origin of the organization's log: part of everything that is signed.
    log: String,
    /// What stands for the person in entries: part of what registering a key signs.
    #[schema(value_type = String)]
    principal: Pseudonym,
    /// At most 100, oldest first.
    items: Vec<PersonKey>,
}

/// A key to be registered.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "alg": -8, "key": "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=", "possession": "hFi1…"
}))]
pub(crate) struct NewPersonKey {
    /// COSE algorithm number: -8, which is `EdDSA` (Ed25519). No other is taken.
    alg: i32,
    /// The public key, 32 bytes in base64.
    key: String,
    /// Signature by the key over `countersign/person-key/v1`, a zero byte, and the CBOR of
    /// `[log, principal, alg, key]`; 64 bytes in base64.
    possession: String,
}

/// A key to be taken back.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "key_id": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08" }))]
pub(crate) struct KeyToRevoke {
    /// SHA-256 of the key, hex.
    #[schema(value_type = String)]
    key_id: Digest,
}

/// A key, and the proof of what became of it.
#[derive(Serialize, ToSchema)]
pub(crate) struct PersonKeyRecorded {
    key: PersonKey,
    /// Proof of its entry.
    receipt: Receipt,
}

fn fixed<const N: usize>(text: &str, at: &'static str) -> Result<[u8; N], Problem> {
    let bytes = STANDARD.decode(text).ok().and_then(|bytes| <[u8; N]>::try_from(bytes).ok());
    bytes.ok_or_else(|| Problem::new(BODY_VALUE_INVALID, format!("give {N} bytes in base64")).at(at))
}

/// List a person's signing keys
///
/// To the person themselves, and to those who may list principals.
#[utoipa::path(
    get, path = "/api/v1/people/{id}/keys", operation_id = "listPersonKeys", tag = "accounts",
    params(("id" = String, Path, description = "The person")),
    responses((status = 200, description = "Their keys", body = PersonKeys)),
)]
async fn list_person_keys(State(app): State<AppState>, Auth(who): Auth, Id(id): Id<Name>) -> Result<Response, Problem> {
    let list = app.engine.person_keys(&who, &id).await?;
    let items = list.keys.into_iter().map(Into::into).collect();
    reply::ok(&PersonKeys { log: list.log, principal: list.principal, items })
}

/// Register a signing key of one's own
///
/// Needs a token with scope `decide`, of that very person. The key signs at gates that open from then on. A key that was
/// registered before, by whomever, is not taken again.
#[utoipa::path(
    post, path = "/api/v1/people/{id}/keys", operation_id = "registerPersonKey", tag = "accounts",
    params(("id" = String, Path, description = "The person")),
    request_body = NewPersonKey,
    responses((status = 201, description = "It is registered", body = PersonKeyRecorded)),
)]
async fn register_person_key(
    State(app): State<AppState>,
    Auth(who): Auth,
    Id(id): Id<Name>,
    input: Input,
) -> Result<Response, Problem> {
    let body: NewPersonKey = input.read()?;
    let new = engine::NewPersonKey {
        alg: body.alg,
        key: engine::Bytes32(fixed(&body.key, "/key")?),
        possession: engine::Bytes64(fixed(&body.possession, "/possession")?),
    };
    let resource = of_subject(&app, &who, &Subject::person(id.clone())).await?;
    let (record, receipt) = app.engine.register_person_key(who, (id, resource), new).await?;
    let index = receipt.index;
    let recorded = PersonKeyRecorded { key: record.into(), receipt: receipt.into() };
    reply::committed(StatusCode::CREATED, &recorded, index)
}

/// Take a signing key back
///
/// It signs nothing from then on; what it signed before holds. By the person, and by those whom policy lets revoke their
/// credentials.
#[utoipa::path(
    post, path = "/api/v1/people/{id}/keys/revoke", operation_id = "revokePersonKey", tag = "accounts",
    params(("id" = String, Path, description = "The person")),
    request_body = KeyToRevoke,
    responses((status = 200, description = "It signs nothing any more", body = PersonKeyRecorded)),
)]
async fn revoke_person_key(
    State(app): State<AppState>,
    Auth(who): Auth,
    Id(id): Id<Name>,
    input: Input,
) -> Result<Response, Problem> {
    let KeyToRevoke { key_id } = input.read()?;
    let resource = of_subject(&app, &who, &Subject::person(id.clone())).await?;
    let (record, receipt) = app.engine.revoke_person_key(who, (id, resource), key_id).await?;
    let index = receipt.index;
    let recorded = PersonKeyRecorded { key: record.into(), receipt: receipt.into() };
    reply::committed(StatusCode::OK, &recorded, index)
}
