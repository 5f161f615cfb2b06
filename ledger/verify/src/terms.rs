//! What people read of a grant that they were asked for, where a pack discloses it: it must be what its entry counts by.
//!
//! A voter's signature is over the digest of the terms, and uses are counted by the entry's own numbers: whoever wrote both
//! could have written them apart. Absent: uses, which the state machine holds to the entry. Read next: `check`.

use std::collections::BTreeMap;

use countersign_gateway_flow::terms_differ;
use countersign_gateway_model::{Digest, Duration};
use countersign_ledger_entry::body::{Body, TaskGrant};
use countersign_ledger_entry::{Header, PayloadRole, payload};

use crate::VerifyError;
use crate::pack::PAYLOADS;

/// The grants that people were asked for.
#[derive(Default)]
pub(crate) struct GrantTerms {
    asked: Vec<Asked>,
}

struct Asked {
    index: u64,
    body: TaskGrant,
    lasts: Duration,
    terms: Vec<Digest>,
}

impl GrantTerms {
    /// Takes note of an entry that asks for a grant.
    pub(crate) fn note(&mut self, index: u64, header: &Header) {
        let Body::TaskGrant(body) = &header.body else { return };
        if body.revoked || !body.approvers.is_empty() {
            return;
        }
        let named = header.payloads.iter().filter(|named| named.role == PayloadRole::Description);
        let terms = named.map(|named| named.digest).collect();
        self.asked.push(Asked { index, body: body.clone(), lasts: body.until.since(header.claimed), terms });
    }

    /// Compares what is disclosed of them, and says of how many.
    pub(crate) fn compare(&self, parts: &BTreeMap<&str, &[u8]>) -> Result<u64, VerifyError> {
        let mut compared = 0;
        for Asked { index, body, lasts, terms } in &self.asked {
            for digest in terms {
                let Some(bytes) = parts.get(format!("{PAYLOADS}{digest}").as_str()) else { continue };
                let wrong = |problem| Err(VerifyError::Terms { index: *index, problem });
                let Some((salt, content)) = payload::open(bytes) else { return wrong("its terms cannot be read") };
                if payload::salted(payload::GRANT, &salt, content) != body.scope {
                    return wrong("its terms are not those that its digest is of");
                }
                if let Some(problem) = terms_differ(content, body, *lasts) {
                    return wrong(problem);
                }
                compared += 1;
            }
        }
        Ok(compared)
    }
}
