//! The stable names of what a report finds, one for each kind of defect that its reader treats differently.
//!
//! A defect has one code. Each has a page `openapi/problems/<code>.md`: what it means, and what to do. Absent: the words
//! of the single case (`error`), and the order of the checks, which says what is found first (`check`).

use std::fmt;

use serde::{Serialize, Serializer};

use crate::VerifyError;

macro_rules! codes {
    ($($(#[$doc:meta])+ $name:ident => $code:literal)+) => {
        /// What a problem of a report is, for a program that reads it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Code {
            $($(#[$doc])+ $name,)+
        }

        impl Code {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// Its name, which is that of its page.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $code,)+
                }
            }
        }
    };
}

codes! {
    /// INVALID: larger than is looked at, or of more parts.
    OverLimit => "pack-over-limit"
    /// INVALID: a part is compressed, as a bomb's are. Nothing is ever unpacked.
    Compressed => "pack-compressed"
    /// INVALID: the file ends before the pack does.
    Truncated => "pack-truncated"
    /// INVALID: whole or not, these are not the bytes that an export writes.
    NotCanonical => "pack-not-canonical"
    /// INVALID: the note over the parts is missing, malformed, not the log key's, or of other parts.
    Evidence => "pack-evidence"
    /// INVALID: the log is not the one that the root key vouches for.
    UntrustedRoot => "pack-untrusted-root"
    /// INVALID: the checkpoint is malformed, not the log key's, or of other entries.
    Checkpoint => "pack-checkpoint"
    /// INVALID: a part is missing, one too many, or of other content than the entries imply.
    Part => "pack-part"
    /// INVALID: the bytes of an entry are none that would have been written.
    Entry => "pack-entry"
    /// INVALID: an entry does not stand at its place: log, stream, order, link, append, time.
    Chain => "pack-chain"
    /// INVALID: an entry is not by a gateway key that the log introduced before.
    Signature => "pack-signature"
    /// INVALID: the state machine, or a rule that binds everybody, does not allow an entry.
    Unlawful => "pack-unlawful"
    /// INVALID: an entry states another authority mode than the log leads to.
    Authority => "pack-authority"
    /// INVALID: the key of a person, or what is signed with it, does not hold.
    PersonKey => "pack-person-key"
    /// INVALID: what people read of a grant is not what is counted.
    Terms => "pack-terms"
    /// INVALID: the checkpoint that the auditor holds shows a second history.
    Fork => "pack-fork"
    /// INVALID: the checkpoint that the auditor holds is none of this log's.
    CheckpointForeign => "checkpoint-foreign"
    /// INCONCLUSIVE: the checkpoint that the auditor holds is newer than the pack.
    CheckpointNewer => "checkpoint-newer"
    /// INCONCLUSIVE: entries of a later version, whose meaning is not known.
    LaterVersion => "pack-later-version"
    /// INCONCLUSIVE: the root key or the log key changes, which cannot be followed.
    KeyChange => "pack-key-change"
    /// INCONCLUSIVE: payloads are here that the log calls erased.
    ErasedPayload => "pack-erased-payload"
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl VerifyError {
    /// What kind of defect it is.
    pub fn code(&self) -> Code {
        match self {
            Self::Limit(_) => Code::OverLimit,
            Self::Compressed => Code::Compressed,
            Self::Truncated(_) => Code::Truncated,
            Self::Container(_) => Code::NotCanonical,
            Self::Evidence(_) | Self::EvidenceNote(_) => Code::Evidence,
            Self::Trust(_) => Code::UntrustedRoot,
            Self::Checkpoint(_) | Self::Root | Self::Proof(_) => Code::Checkpoint,
            Self::Part(_) => Code::Part,
            Self::Entry { .. } => Code::Entry,
            Self::Broken { .. } => Code::Chain,
            Self::Signer { .. } => Code::Signature,
            Self::Unlawful { .. } | Self::Rule { .. } => Code::Unlawful,
            Self::Authority { .. } => Code::Authority,
            Self::PersonKey { .. } => Code::PersonKey,
            Self::Terms { .. } => Code::Terms,
            Self::Known(_) => Code::CheckpointForeign,
            Self::Fork { .. } => Code::Fork,
        }
    }

    /// The entry that it is about, where it is about one.
    pub fn entry(&self) -> Option<u64> {
        match self {
            Self::Entry { index, .. }
            | Self::Broken { index, .. }
            | Self::Signer { index, .. }
            | Self::Unlawful { index, .. }
            | Self::Rule { index, .. }
            | Self::Authority { index, .. }
            | Self::PersonKey { index, .. }
            | Self::Terms { index, .. } => Some(*index),
            _ => None,
        }
    }
}
