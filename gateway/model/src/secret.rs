//! Where a secret is, as text that may stand anywhere: it names a provider and a place, never a value.
//!
//! Absent: values, and who has them (`runners/contract`, the program).

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// `secret://<provider>/<path>` with an optional `?key=<key>`; every part of `[A-Za-z0-9._/-]`, no `..` in the path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretRef {
    provider: String,
    path: String,
    key: Option<String>,
}

/// The text is no reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a secret reference: `secret://<provider>/<path>?key=<key>` is expected")]
pub struct SecretRefError(String);

impl SecretRef {
    /// Which provider: `env`, `file`, `vault`, `kubernetes`, `aws`.
    pub fn provider(&self) -> &str {
        &self.provider
    }

    /// The path at the provider, without a leading slash.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The key within the secret, if one was named.
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }
}

impl FromStr for SecretRef {
    type Err = SecretRefError;

    fn from_str(text: &str) -> Result<Self, SecretRefError> {
        let parse = || {
            let plain = |part: &str| {
                !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._/-".contains(&b))
            };
            if text.len() > 512 {
                return None;
            }
            let rest = text.strip_prefix("secret://")?;
            let (rest, key) = match rest.split_once("?key=") {
                Some((rest, key)) => (rest, Some(key)),
                None => (rest, None),
            };
            let (provider, path) = rest.split_once('/')?;
            let sound = plain(provider)
                && plain(path)
                && key.is_none_or(plain)
                && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
            sound.then(|| Self { provider: provider.into(), path: path.into(), key: key.map(Into::into) })
        };
        parse().ok_or_else(|| SecretRefError(text.chars().take(80).filter(|c| !c.is_control()).collect()))
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "secret://{}/{}", self.provider, self.path)?;
        self.key.iter().try_for_each(|key| write!(f, "?key={key}"))
    }
}

impl fmt::Debug for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for SecretRef {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SecretRef {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Cow::<'de, str>::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn references_round_trip_and_refuse_every_other_text() {
        for good in ["secret://env/TOKEN", "secret://vault/kv/data/ci?key=pass", "secret://file/a.b-c"] {
            assert_eq!(good.parse::<SecretRef>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "secret://",
            "secret://env",
            "secret://env/",
            "secret:///x",
            "secret://file/../x",
            "env/TOKEN",
            "secret://file//x",
            "secret://env/a b",
            "secret://env/a?key=",
            "secret://env/a?other=b",
        ] {
            assert!(bad.parse::<SecretRef>().is_err(), "{bad}");
        }
    }
}
