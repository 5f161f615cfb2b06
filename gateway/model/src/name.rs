//! Names that may stand in a signed entry: policy, rule, role, tool and workflow ids.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// `[A-Za-z0-9._:/-]{1,128}`: no free text can hide in it. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

/// The text is empty, too long, or has a character that a name may not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a valid name: 1 to 128 of the characters A-Z a-z 0-9 . _ : / - are expected")]
pub struct NameError(String);

impl Name {
    /// Checks and wraps a text.
    pub fn new(text: &str) -> Result<Self, NameError> {
        let ok = |b: u8| b.is_ascii_alphanumeric() || b"._:/-".contains(&b);
        if (1..=128).contains(&text.len()) && text.bytes().all(ok) {
            Ok(Self(text.into()))
        } else {
            Err(NameError(text.chars().take(40).map(|c| if c.is_control() { '?' } else { c }).collect()))
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(s: &str) -> Result<Self, NameError> {
        Self::new(s)
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::new(&Cow::<'de, str>::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}

impl<C> minicbor::Encode<C> for Name {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.str(&self.0)?.ok()
    }
}

impl<'b, C> minicbor::Decode<'b, C> for Name {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        Self::new(d.str()?).map_err(|e| minicbor::decode::Error::message(e.to_string()))
    }
}
