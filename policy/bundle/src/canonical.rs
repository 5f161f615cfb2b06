//! Documents as canonical JSON (RFC 8785): written in one form, read only in that form.
//!
//! Absent: the JSON itself (`policy/decide`). Read next: `manifest`.

use countersign_policy_decide::json::{self, Json, JsonError};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The largest integer that every JSON reader holds exactly: 2^53 - 1 (RFC 7493, section 2.2).
pub(crate) const MAX_SAFE_INTEGER: u64 = json::MAX_SAFE_INTEGER.unsigned_abs();

/// Why a document does not read or write.
#[derive(Debug, thiserror::Error)]
pub enum CanonicalError {
    /// Not strict JSON.
    #[error("{0}")]
    Json(#[from] JsonError),
    /// JSON of another shape: an unknown or missing field, a wrong type.
    #[error("{0}")]
    Shape(#[from] serde_json::Error),
    /// The right document in another spelling.
    #[error("not in canonical form (rfc 8785); write it with `countersign policy`")]
    Spelling,
}

/// The canonical bytes of a document. Its numbers are checked to be safe integers where the document is.
pub(crate) fn write<T: Serialize>(document: &T) -> Result<Vec<u8>, CanonicalError> {
    Ok(Json::from_serde(&serde_json::to_value(document)?).canonical())
}

/// Reads a document in any spelling, strictly: no duplicate keys.
pub(crate) fn read_any<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CanonicalError> {
    // The strict reader judges the text; the shape is read from the same text, so that its errors name line and column.
    Json::parse(bytes)?;
    Ok(serde_json::from_slice(bytes)?)
}

/// Reads a document from its canonical bytes; every other spelling of it is refused.
pub(crate) fn read<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<T, CanonicalError> {
    let document: T = read_any(bytes)?;
    if write(&document)? == bytes { Ok(document) } else { Err(CanonicalError::Spelling) }
}
