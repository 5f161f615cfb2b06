//! Compact JWS (RFC 7515) with Ed25519 (RFC 8037) and nothing else: signs, and reads strictly.
//!
//! A header has exactly `alg`, `typ` and `kid`, each once. `alg` is `EdDSA`; there is no list of algorithms to confuse,
//! no `none`, no key from the token itself (`jwk`, `jku`, `x5c`) and no `crit`. Base64url must be canonical. Claims are
//! given out only after the signature holds.
//!
//! Absent: what claims mean (`claims`), and encryption. Read next: `key`, `claims`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_gateway_model::Timestamp;
use serde::{Deserialize, Serialize};

use crate::IdentityError;
use crate::key::KeySet;

/// A longer token is refused unread. The longest that can be issued (a full chain of long ids) fits.
pub(crate) const MAX_TOKEN_BYTES: usize = 8192;

const ALG: &str = "EdDSA";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header<'a> {
    #[serde(borrow)]
    alg: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    typ: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    kid: std::borrow::Cow<'a, str>,
}

/// Signs `payload` (JSON) as `typ`.
pub(crate) fn sign(keys: &KeySet, typ: &str, payload: &[u8]) -> Result<String, IdentityError> {
    let header = Header { alg: ALG.into(), typ: typ.into(), kid: keys.kid().into() };
    let header = serde_json::to_vec(&header).map_err(|source| IdentityError::internal("writing a token", source))?;
    let mut token = String::with_capacity(payload.len().saturating_mul(4) / 3 + 256);
    URL_SAFE_NO_PAD.encode_string(header, &mut token);
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(payload, &mut token);
    let signature = keys.sign(token.as_bytes());
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, &mut token);
    if token.len() > MAX_TOKEN_BYTES {
        return Err(IdentityError::Internal { what: "writing a token of bearable length", source: None });
    }
    Ok(token)
}

/// The payload of a token of type `typ`, once its signature holds under a key of `keys` that is live at `now`.
pub(crate) fn verify(keys: &KeySet, typ: &str, token: &str, now: Timestamp) -> Result<Vec<u8>, IdentityError> {
    let [header, payload, signature] = split(token)?;
    let header = segment(header)?;
    let header: Header<'_> = read_object(&header)?;
    if header.alg != ALG {
        return Err(IdentityError::malformed("its `alg` is not `EdDSA`"));
    }
    if header.typ != typ {
        return Err(IdentityError::malformed("its `typ` is not what is asked for here"));
    }
    let signature: [u8; 64] =
        segment(signature)?.try_into().map_err(|_| IdentityError::malformed("its signature is not 64 bytes"))?;
    let signed = token.rsplit_once('.').map_or("", |(signed, _)| signed);
    if !keys.verifies(&header.kid, signed.as_bytes(), &signature, now) {
        return Err(IdentityError::TokenSignatureInvalid);
    }
    segment(payload)
}

/// The issuer that the token claims to have, unverified: to choose a verifier, for nothing else.
pub(crate) fn claimed_issuer(token: &str) -> Result<String, IdentityError> {
    #[derive(Deserialize)]
    struct Issuer {
        iss: String,
    }
    let [_, payload, _] = split(token)?;
    let claims: Issuer = read_object(&segment(payload)?)?;
    Ok(claims.iss)
}

/// Reads one JSON object of a struct that refuses duplicates (all derived ones do): not an array in its place, no rest.
pub(crate) fn read_object<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, IdentityError> {
    if json.first() != Some(&b'{') {
        return Err(IdentityError::malformed("a part of it is not a JSON object"));
    }
    serde_json::from_slice(json).map_err(|_| IdentityError::malformed("a part of it lacks, repeats or adds a member"))
}

fn split(token: &str) -> Result<[&str; 3], IdentityError> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(IdentityError::malformed("it is longer than 8192 bytes"));
    }
    let mut parts = token.split('.');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(header), Some(payload), Some(signature), None) => Ok([header, payload, signature]),
        _ => Err(IdentityError::malformed("it does not have three parts")),
    }
}

/// Base64url without padding; the engine refuses stray bits, so each byte string has one text.
fn segment(text: &str) -> Result<Vec<u8>, IdentityError> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| IdentityError::malformed("a part of it is not base64url"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::TokenKeys;

    const TYP: &str = "at+jwt";

    fn keys() -> TokenKeys {
        TokenKeys::new(&[7; 32], &[]).unwrap()
    }

    /// A token with any header bytes, signed correctly by the current key.
    fn with_header(header: &str, payload: &str) -> String {
        let keys = keys();
        let mut token = URL_SAFE_NO_PAD.encode(header.replace("KID", &keys.kid()));
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(payload, &mut token);
        let signature = keys.set().sign(token.as_bytes());
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        token
    }

    fn code(token: &str) -> &'static str {
        verify(&keys().set(), TYP, token, Timestamp(0)).map_or_else(|e| e.code(), |_| "ok")
    }

    #[test]
    fn a_header_other_than_alg_typ_kid_once_each_is_refused_though_the_signature_holds() {
        assert_eq!(code(&with_header(r#"{"alg":"EdDSA","typ":"at+jwt","kid":"KID"}"#, "{}")), "ok");
        assert_eq!(code(&with_header(r#" {"alg":"EdDSA","typ":"at+jwt","kid":"KID"}"#, "{}")), "token-malformed");
        for header in [
            r#"{"alg":"none","typ":"at+jwt","kid":"KID"}"#,
            r#"{"alg":"None","typ":"at+jwt","kid":"KID"}"#,
            r#"{"alg":"HS256","typ":"at+jwt","kid":"KID"}"#,
            r#"{"alg":"RS256","typ":"at+jwt","kid":"KID"}"#,
            r#"{"alg":"eddsa","typ":"at+jwt","kid":"KID"}"#,
            r#"{"alg":["EdDSA"],"typ":"at+jwt","kid":"KID"}"#,
            r#"{"typ":"at+jwt","kid":"KID"}"#,
            r#"{"alg":"EdDSA","kid":"KID"}"#,
            r#"{"alg":"EdDSA","typ":"at+jwt"}"#,
            r#"{"alg":"EdDSA","typ":"JWT","kid":"KID"}"#,
            r#"{"alg":"EdDSA","typ":"consent+jwt","kid":"KID"}"#,
            r#"{"alg":"EdDSA","alg":"EdDSA","typ":"at+jwt","kid":"KID"}"#,
            r#"{"alg":"EdDSA","\u0061lg":"EdDSA","typ":"at+jwt","kid":"KID"}"#,
            r#"{"alg":"EdDSA","typ":"at+jwt","kid":"KID","crit":["exp"]}"#,
            r#"{"alg":"EdDSA","typ":"at+jwt","kid":"KID","jwk":{}}"#,
            r#"{"alg":"EdDSA","typ":"at+jwt","kid":"KID","jku":"https://example.org"}"#,
            r#"["EdDSA","at+jwt","KID"]"#,
            r#"{"alg":"EdDSA","typ":"at+jwt","kid":"KID"} {}"#,
            "",
        ] {
            assert_eq!(code(&with_header(header, "{}")), "token-malformed", "{header}");
        }
        assert_eq!(
            code(&with_header(r#"{"alg":"EdDSA","typ":"at+jwt","kid":"other"}"#, "{}")),
            "token-signature-invalid"
        );
    }

    #[test]
    fn an_hmac_under_the_public_key_is_no_signature() {
        // The classic confusion: the public key as an HMAC secret. There is no HMAC here, so its bytes are just a bad
        // signature, of the wrong length too.
        let keys = keys();
        let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"HS256","typ":"at+jwt","kid":"{}"}}"#, keys.kid()));
        let token = format!("{header}.{}.{}", URL_SAFE_NO_PAD.encode("{}"), URL_SAFE_NO_PAD.encode([0u8; 32]));
        assert_eq!(code(&token), "token-malformed");
        let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"EdDSA","typ":"at+jwt","kid":"{}"}}"#, keys.kid()));
        let token = format!("{header}.{}.{}", URL_SAFE_NO_PAD.encode("{}"), URL_SAFE_NO_PAD.encode([0u8; 32]));
        assert_eq!(code(&token), "token-malformed");
        let token = format!("{header}.{}.{}", URL_SAFE_NO_PAD.encode("{}"), URL_SAFE_NO_PAD.encode([0u8; 64]));
        assert_eq!(code(&token), "token-signature-invalid");
    }

    #[test]
    fn text_that_is_no_compact_jws_is_refused() {
        let good = with_header(r#"{"alg":"EdDSA","typ":"at+jwt","kid":"KID"}"#, "{}");
        let (head, signature) = good.rsplit_once('.').unwrap();
        for bad in [
            String::new(),
            ".".into(),
            "..".into(),
            "...".into(),
            "a.b".into(),
            "a.b.c.d".into(),
            head.into(),
            format!("{head}."),
            format!("{good}."),
            format!("{good}.{signature}"),
            format!("{good}="),
            format!(" {good}"),
            format!("{head}.{}", signature.replace(['-', '_'], "+")) + "+",
            "é.é.é".into(),
            "a".repeat(MAX_TOKEN_BYTES + 1),
        ] {
            assert_eq!(code(&bad), "token-malformed", "{bad}");
        }
    }

    #[test]
    fn the_last_bits_of_a_part_have_one_spelling() {
        // 64 bytes leave four unused bits in the last character: sixteen spellings, of which one is canonical.
        let good = with_header(r#"{"alg":"EdDSA","typ":"at+jwt","kid":"KID"}"#, "{}");
        let (head, last) = good.split_at(good.len() - 1);
        let accepted = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
            .chars()
            .filter(|c| code(&format!("{head}{c}")) == "ok")
            .count();
        assert_eq!(accepted, 1, "{last}");
    }

    proptest! {
        #[test]
        fn what_is_signed_is_read_back_and_no_flipped_bit_is(
            payload in proptest::collection::vec(any::<u8>(), 0..200),
            at in any::<prop::sample::Index>(),
            bit in 0u8..7,
        ) {
            let keys = keys();
            let token = sign(&keys.set(), TYP, &payload).unwrap();
            prop_assert_eq!(verify(&keys.set(), TYP, &token, Timestamp(0)).unwrap(), payload);
            let mut bytes = token.into_bytes();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            if let Ok(text) = String::from_utf8(bytes) {
                prop_assert!(verify(&keys.set(), TYP, &text, Timestamp(0)).is_err());
            }
        }
    }
}
