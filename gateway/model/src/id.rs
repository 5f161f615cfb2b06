//! 128-bit identifiers, each its own type, printed with a prefix that names the kind.
//!
//! Text form: prefix, then 32 lowercase hex digits (`inst_0192…`). The bits are a `UUIDv7` where the
//! program mints them, so ids sort by time; nothing here relies on that.

use std::fmt;
use std::str::FromStr;

use minicbor::bytes::ByteArray;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The text is not an id of the kind that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{got}` is not a valid id: expected `{prefix}` and 32 lowercase hex digits")]
pub struct IdError {
    got: String,
    prefix: &'static str,
}

/// Parses exactly `2 × N` lowercase hex digits.
pub(crate) fn unhex<const N: usize>(s: &str) -> Option<[u8; N]> {
    let bytes = s.as_bytes();
    if bytes.len() != 2 * N {
        return None;
    }
    let nibble = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let mut out = [0u8; N];
    for (slot, pair) in out.iter_mut().zip(bytes.chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *slot = nibble(*high)? << 4 | nibble(*low)?;
    }
    Some(out)
}

/// Room for the longest prefix and the 64 digits of a digest.
const LONGEST: usize = 80;

/// The text form of an id or a digest, on the stack: it is made several times for each request.
pub(crate) struct Text {
    bytes: [u8; LONGEST],
    length: usize,
}

impl Text {
    /// A prefix, then `bytes` as lowercase hex.
    pub(crate) fn new(prefix: &str, bytes: &[u8]) -> Self {
        let mut text = Self { bytes: [0; LONGEST], length: 0 };
        let (head, rest) = text.bytes.split_at_mut(prefix.len());
        head.copy_from_slice(prefix.as_bytes());
        let digits = rest.get_mut(..2 * bytes.len()).unwrap_or_default();
        // Refused only for a slice of another length, and this one was cut to fit.
        if const_hex::encode_to_slice(bytes, digits).is_ok() {
            text.length = prefix.len() + 2 * bytes.len();
        }
        text
    }

    /// It as text.
    pub(crate) fn as_str(&self) -> &str {
        self.bytes.get(..self.length).and_then(|held| std::str::from_utf8(held).ok()).unwrap_or_default()
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
            /// What the text form starts with.
            pub const PREFIX: &'static str = $prefix;

            /// Wraps 128 bits that were minted or stored as this kind of id.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// The 128 bits.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(Text::new($prefix, &self.0).as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(s: &str) -> Result<Self, IdError> {
                s.strip_prefix($prefix)
                    .and_then(unhex)
                    .map(Self)
                    .ok_or_else(|| IdError { got: s.chars().take(80).collect(), prefix: $prefix })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(Text::new($prefix, &self.0).as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl<C> minicbor::Encode<C> for $name {
            fn encode<W: minicbor::encode::Write>(
                &self,
                e: &mut minicbor::Encoder<W>,
                _: &mut C,
            ) -> Result<(), minicbor::encode::Error<W::Error>> {
                e.bytes(&self.0)?.ok()
            }
        }

        impl<'b, C> minicbor::Decode<'b, C> for $name {
            fn decode(d: &mut minicbor::Decoder<'b>, c: &mut C) -> Result<Self, minicbor::decode::Error> {
                ByteArray::<16>::decode(d, c).map(|b| Self(*b))
            }
        }
    };
}

id!(/** The tenant. Nothing crosses it. */ OrgId, "org_");
id!(/** One governed execution. */ InstanceId, "inst_");
id!(/** One proposal: to call a tool, dispatch, start, complete or stop. */ ActionId, "act_");
id!(/** A pause for human authority. */ GateId, "gate_");
id!(/** One proposed action in a gate. */ ItemId, "item_");
id!(/** A person's (or SYSTEM's) decision at a gate. */ DecisionId, "dec_");
id!(/** Authority to start one action, once. */ PermitId, "perm_");
id!(/** One dispatched job. */ RunId, "run_");
id!(/** A person's bounded advance approval. */ GrantId, "grant_");
id!(/** One log; the path segment under `/log/`. */ LogId, "log_");
id!(/** One gateway process installation. */ GatewayId, "gw_");
id!(
    /** 128 random bits that stand for a person, agent or service of one organization inside entries. */
    Pseudonym, "who_"
);
id!(
    /** The 128 bits that name a stream of entries: an instance's, an organization's or a log's id. */
    StreamId, "stream_"
);

impl Pseudonym {
    /// SYSTEM: timers, sweeps, expiry. All zero, in every organization.
    pub const SYSTEM: Self = Self([0; 16]);
}

impl From<InstanceId> for StreamId {
    fn from(id: InstanceId) -> Self {
        Self(id.0)
    }
}

impl From<OrgId> for StreamId {
    fn from(id: OrgId) -> Self {
        Self(id.0)
    }
}

impl From<LogId> for StreamId {
    fn from(id: LogId) -> Self {
        Self(id.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_and_refuse_every_other_text() {
        let id = InstanceId::from_bytes([0xab; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "inst_", "gate_abababababababababababababababab", "inst_ABABABABABABABABABABABABABABABAB"] {
            assert!(bad.parse::<InstanceId>().is_err(), "{bad}");
        }
        assert!(format!("{id}0").parse::<InstanceId>().is_err());
    }
}
