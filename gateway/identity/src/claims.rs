//! The claims of this gateway's tokens: an access token (`at+jwt`) and a consent (`consent+jwt`).
//!
//! `sub` is always the one who acts. The chain is `on_behalf_of`, a flat list, outermost first, not RFC 8693's nested
//! `act`: there `sub` is the delegator and inner actors are for information only, while here every delegator is asked,
//! so a reader that knew `act` only would take the wrong party for the actor. `may_act` of a consent is RFC 8693's.
//!
//! Unknown and repeated members are refused: these tokens have one issuer. Absent: signatures (`jws`), accounts.
//! Read next: `verifier`.

use countersign_gateway_model::{Assurance, Name, OrgId, Scope, Timestamp};
use serde::{Deserialize, Serialize};

use crate::jws::{self, read_object};
use crate::key::KeySet;
use crate::session::ChainLink;
use crate::{IdentityError, Subject};

/// What a token says, once its signature, issuer and audience hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedToken {
    /// Who issued it.
    pub issuer: String,
    /// Its id (`jti`), unique for the issuer.
    pub token: Name,
    /// Who it speaks for.
    pub subject: Subject,
    /// Of which organization.
    pub org: OrgId,
    /// When it was issued.
    pub issued: Timestamp,
    /// From when it holds.
    pub not_before: Timestamp,
    /// Until when it holds, exclusive.
    pub expires: Timestamp,
    /// What it may be used for.
    pub scopes: Vec<Scope>,
    /// On whose behalf, outermost first.
    pub chain: Vec<ChainLink>,
    /// How sure the login was.
    pub assurance: Assurance,
    /// How the login was done (`amr`).
    pub methods: Vec<Name>,
    /// The credential in the vault that it came of: it must still be the account's. `None` where the issuer keeps
    /// credentials itself.
    pub credential: Option<Name>,
}

/// `typ` of an access token (RFC 9068).
pub(crate) const ACCESS: &str = "at+jwt";
/// `typ` of a consent: cannot be used as an access token, nor the other way round.
pub(crate) const CONSENT: &str = "consent+jwt";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claims {
    iss: String,
    aud: String,
    sub: Subject,
    org: OrgId,
    jti: Name,
    /// Seconds, as RFC 7519 has it.
    iat: u64,
    nbf: u64,
    exp: u64,
    /// Milliseconds: revocation is "all issued until now", and a login in the same second must survive it.
    iat_ms: u64,
    /// Space-separated, as RFC 6749 has it.
    scope: String,
    cid: Name,
    assurance: Assurance,
    amr: Vec<Name>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    on_behalf_of: Vec<ChainLink>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    may_act: Option<Subject>,
}

/// The names of scopes, space-separated.
pub(crate) fn scopes_to_text(scopes: &[Scope]) -> String {
    let names: Vec<_> = scopes
        .iter()
        .map(|scope| match scope {
            Scope::Act => "act",
            Scope::Decide => "decide",
        })
        .collect();
    names.join(" ")
}

/// Reads a scope parameter; repeated names count once; sorted.
pub(crate) fn scopes_from_text(text: &str) -> Result<Vec<Scope>, IdentityError> {
    let mut scopes = text
        .split_ascii_whitespace()
        .map(|name| match name {
            "act" => Ok(Scope::Act),
            "decide" => Ok(Scope::Decide),
            other => Err(IdentityError::ScopeUnknown(other.chars().filter(|c| !c.is_control()).take(40).collect())),
        })
        .collect::<Result<Vec<_>, _>>()?;
    scopes.sort_unstable();
    scopes.dedup();
    Ok(scopes)
}

/// Writes and signs a token. Times are cut to whole seconds where RFC 7519 wants them, `expires` downward.
pub(crate) fn issue(
    keys: &KeySet,
    audience: &str,
    token: &VerifiedToken,
    may_act: Option<&Subject>,
) -> Result<String, IdentityError> {
    let credential = token.credential.clone();
    let claims = Claims {
        iss: token.issuer.clone(),
        aud: audience.to_owned(),
        sub: token.subject.clone(),
        org: token.org,
        jti: token.token.clone(),
        iat: token.issued.0 / 1000,
        nbf: token.not_before.0 / 1000,
        exp: token.expires.0 / 1000,
        iat_ms: token.issued.0,
        scope: scopes_to_text(&token.scopes),
        cid: credential
            .ok_or(IdentityError::Internal { what: "issuing a token without a credential", source: None })?,
        assurance: token.assurance,
        amr: token.methods.clone(),
        on_behalf_of: token.chain.clone(),
        may_act: may_act.cloned(),
    };
    let payload = serde_json::to_vec(&claims).map_err(|source| IdentityError::internal("writing a token", source))?;
    jws::sign(keys, if may_act.is_some() { CONSENT } else { ACCESS }, &payload)
}

/// Reads a token of type `typ` whose signature holds: form, issuer and audience are checked, times are not.
pub(crate) fn read(
    keys: &KeySet,
    typ: &str,
    issuer: &str,
    audience: &str,
    token: &str,
    now: Timestamp,
) -> Result<(VerifiedToken, Option<Subject>), IdentityError> {
    let payload = jws::verify(keys, typ, token, now)?;
    let claims: Claims = read_object(&payload)?;
    if claims.iss != issuer {
        return Err(IdentityError::TokenWrongIssuer);
    }
    if claims.aud != audience {
        return Err(IdentityError::TokenWrongAudience);
    }
    if claims.iat_ms / 1000 != claims.iat || claims.may_act.is_some() != (typ == CONSENT) {
        return Err(IdentityError::malformed("its claims contradict each other"));
    }
    let millis = |seconds: u64| Timestamp(seconds.saturating_mul(1000));
    let scopes = scopes_from_text(&claims.scope)
        .map_err(|_| IdentityError::malformed("it has a scope that this gateway does not know"))?;
    let verified = VerifiedToken {
        issuer: claims.iss,
        token: claims.jti,
        subject: claims.sub,
        org: claims.org,
        issued: Timestamp(claims.iat_ms),
        not_before: millis(claims.nbf),
        expires: millis(claims.exp),
        scopes,
        chain: claims.on_behalf_of,
        assurance: claims.assurance,
        methods: claims.amr,
        credential: Some(claims.cid),
    };
    Ok((verified, claims.may_act))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TokenKeys;
    use crate::testing::{claims_json, name};

    fn verified() -> VerifiedToken {
        VerifiedToken {
            issuer: "iss".into(),
            token: name("tok_1"),
            subject: "agent:fixer".parse().unwrap(),
            org: OrgId::from_bytes([1; 16]),
            issued: Timestamp(10_500),
            not_before: Timestamp(10_000),
            expires: Timestamp(900_000),
            scopes: vec![Scope::Act],
            chain: vec![ChainLink {
                subject: "person:ada".parse().unwrap(),
                token: name("tok_0"),
                credential: name("cred_0"),
            }],
            assurance: Assurance::Secret,
            methods: vec![name("client_secret")],
            credential: Some(name("client_1/1")),
        }
    }

    #[test]
    fn tokens_and_consents_read_back_and_are_not_exchangeable() {
        let keys = TokenKeys::new(&[7; 32], &[]).unwrap();
        let set = keys.set();
        let token = issue(&set, "aud", &verified(), None).unwrap();
        let (back, may_act) = read(&set, ACCESS, "iss", "aud", &token, Timestamp(0)).unwrap();
        assert_eq!((back, may_act), (verified(), None));
        let to = "agent:b".parse().unwrap();
        let consent = issue(&set, "aud", &verified(), Some(&to)).unwrap();
        let (back, may_act) = read(&set, CONSENT, "iss", "aud", &consent, Timestamp(0)).unwrap();
        assert_eq!((back, may_act), (verified(), Some(to)));
        for (token, typ) in [(&token, CONSENT), (&consent, ACCESS)] {
            let code = read(&set, typ, "iss", "aud", token, Timestamp(0)).unwrap_err().code();
            assert_eq!(code, "token-malformed");
        }
    }

    #[test]
    fn another_audience_issuer_or_shape_is_refused_though_the_signature_holds() {
        let keys = TokenKeys::new(&[7; 32], &[]).unwrap();
        let set = keys.set();
        let good = claims_json();
        let long = format!(r#"{{"sub":"person:ada",{}"#, good.trim_start_matches('{'));
        for (claims, code) in [
            (good.clone(), "ok"),
            (good.replace(r#""iss":"iss""#, r#""iss":"iss2""#), "token-wrong-issuer"),
            (good.replace(r#""aud":"aud""#, r#""aud":"aud2""#), "token-wrong-audience"),
            (good.replace(r#""aud":"aud""#, r#""aud":["aud"]"#), "token-malformed"),
            (good.replace("person:ada", "system:clock"), "token-malformed"),
            (good.replace(r#""exp":900"#, r#""exp":"900""#), "token-malformed"),
            (good.replace(r#""exp":900"#, r#""exp":900.5"#), "token-malformed"),
            (good.replace(r#""exp":900"#, r#""exp":-1"#), "token-malformed"),
            (good.replace(r#""exp":900,"#, ""), "token-malformed"),
            (good.replace(r#""exp":900,"#, r#""exp":900,"exp":9000000,"#), "token-malformed"),
            (good.replace(r#""exp":900,"#, r#""exp":900,"e\u0078p":9000000,"#), "token-malformed"),
            (good.replace(r#""scope":"act""#, r#""scope":"act admin""#), "token-malformed"),
            (good.replace(r#""iat_ms":10500"#, r#""iat_ms":99500"#), "token-malformed"),
            (good.replace(r#""exp":900,"#, r#""exp":900,"admin":true,"#), "token-malformed"),
            (good.replace(r#""exp":900,"#, r#""exp":900,"may_act":"agent:x","#), "token-malformed"),
            (long, "token-malformed"),
            (format!("[{good}]"), "token-malformed"),
            (format!("{good}{good}"), "token-malformed"),
        ] {
            let token = jws::sign(&set, ACCESS, claims.as_bytes()).unwrap();
            let got = read(&set, ACCESS, "iss", "aud", &token, Timestamp(0)).map_or_else(|e| e.code(), |_| "ok");
            assert_eq!(got, code, "{claims}");
        }
    }

    #[test]
    fn the_longest_token_fits() {
        let long = |c: char, i: usize| name(&format!("{}{i}", c.to_string().repeat(127)));
        let mut token = verified();
        token.subject = Subject::agent(long('a', 9));
        token.chain = (0..crate::MAX_CHAIN_DEPTH)
            .map(|i| ChainLink {
                subject: Subject::agent(long('b', i)),
                token: name(&format!("tok_{}", "0".repeat(32))),
                credential: name(&format!("client_{}/4294967295", "0".repeat(32))),
            })
            .collect();
        let keys = TokenKeys::new(&[7; 32], &[]).unwrap();
        let issuer = "https://a-rather-long-name-of-a-gateway.of-some-department.example.org/countersign";
        token.issuer = issuer.into();
        issue(&keys.set(), issuer, &token, Some(&token.subject)).unwrap();
    }

    #[test]
    fn scopes_are_a_set() {
        assert_eq!(scopes_from_text("decide act  act").unwrap(), [Scope::Act, Scope::Decide]);
        assert_eq!(scopes_from_text("").unwrap(), []);
        assert_eq!(scopes_from_text("act root").unwrap_err().code(), "scope-unknown");
        assert_eq!(scopes_to_text(&[Scope::Act, Scope::Decide]), "act decide");
    }
}
