//! Output of a run: two streams with byte offsets, read by cursor, gaps said aloud.
//!
//! Absent: how a backend stores them. Offsets count the bytes that are stored, after masking.
//!
//! Read next: `runner`, whose `logs` gives a [`LogRead`].

use countersign_gateway_model::{Digest, Timestamp};
use serde::{Deserialize, Serialize};

/// One of the two outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// The name as the API spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Where a reader stands: the next byte it wants of each stream. The default is the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogCursor {
    /// Of standard output.
    pub stdout: u64,
    /// Of standard error.
    pub stderr: u64,
}

impl LogCursor {
    /// The offset of one stream.
    pub fn of(&self, stream: Stream) -> u64 {
        match stream {
            Stream::Stdout => self.stdout,
            Stream::Stderr => self.stderr,
        }
    }

    /// The same cursor with one stream moved.
    pub fn set(&mut self, stream: Stream, offset: u64) {
        match stream {
            Stream::Stdout => self.stdout = offset,
            Stream::Stderr => self.stderr = offset,
        }
    }
}

/// Why bytes are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapReason {
    /// The output cap was reached; what followed was counted and dropped.
    OutputCap,
    /// The last write was torn, or its writer died before it wrote what it had read.
    Torn,
    /// The backend dropped them.
    Dropped,
}

/// What a stream was in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamEnd {
    /// Bytes stored.
    pub bytes: u64,
    /// SHA-256 of the bytes stored.
    pub sha256: Digest,
    /// Bytes dropped beyond the output cap.
    pub dropped: u64,
}

/// One thing that a reader gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogItem {
    /// Bytes of one stream.
    Chunk {
        /// Which.
        stream: Stream,
        /// Offset of the first byte.
        offset: u64,
        /// The bytes, as the workload wrote them but for masked secrets; any bytes, not lines.
        bytes: Vec<u8>,
        /// When they were read from the workload.
        at: Timestamp,
    },
    /// Bytes that are not there.
    Gap {
        /// Which stream, if that is known.
        stream: Option<Stream>,
        /// The first missing offset.
        from: u64,
        /// The offset after the last missing byte, if that is known.
        to: Option<u64>,
        /// Why.
        reason: GapReason,
    },
    /// Nothing comes after it. Without it the log may go on.
    Eof {
        /// Standard output, whole; none if its writer died before it could say.
        stdout: Option<StreamEnd>,
        /// Standard error, whole; none as above.
        stderr: Option<StreamEnd>,
    },
}

/// One answer of `logs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRead {
    /// In the order in which they were read from the workload. Empty: nothing new yet.
    pub items: Vec<LogItem>,
    /// What to ask with next.
    pub next: LogCursor,
}

impl LogRead {
    /// True if this answer holds the end.
    pub fn ended(&self) -> bool {
        self.items.iter().any(|item| matches!(item, LogItem::Eof { .. }))
    }
}
