//! What goes into an append beside its entries: payloads, shared bytes, rows, the answer to an idempotency key.

use countersign_gateway_model::{Digest, PolicyDigests};
use countersign_ledger_entry::{Blob, Payload, PayloadRef, PayloadRole, Row, payload};

use crate::asking::Evidence;
use crate::counters::Reading;

/// What goes into one append beside the entries.
#[derive(Default)]
pub(crate) struct Beside {
    pub(crate) payloads: Vec<Payload>,
    pub(crate) blobs: Vec<Blob>,
    pub(crate) rows: Vec<Row>,
    pub(crate) idempotency: Option<countersign_ledger_log::Idempotency>,
    pub(crate) urgent: bool,
    /// What was read of the counters that the append takes from.
    pub(crate) reading: Option<Reading>,
    /// The policy that the verdict was computed with, where that is not the one in force now.
    pub(crate) policy: Option<PolicyDigests>,
}

impl Beside {
    /// Takes up what a verdict was computed from.
    pub(crate) fn add(&mut self, evidence: Evidence) -> (PayloadRef, Digest) {
        // The same question, asked twice of the same moment, is one payload.
        if !self.payloads.iter().any(|held| held.digest == evidence.payload.digest) {
            self.payloads.push(evidence.payload);
        }
        self.blobs.extend(evidence.blobs);
        (evidence.reference, evidence.action)
    }

    /// Takes up a payload.
    pub(crate) fn payload(&mut self, role: PayloadRole, bytes: Vec<u8>) -> PayloadRef {
        let digest = payload::digest(&bytes);
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.payloads.push(Payload { digest, bytes });
        PayloadRef { role, digest, length }
    }
}
