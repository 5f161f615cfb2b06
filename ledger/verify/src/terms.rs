//! What people read of a grant that they were asked for, where a pack discloses it: it must be what its entry counts by.
//!
//! A voter's signature is over the digest of the terms, and uses are counted by the entry's own numbers: whoever wrote both
//! could have written them apart. Absent: uses, which the state machine holds to the entry. Read next: `check`.

use std::collections::BTreeMap;

use countersign_gateway_flow::terms_differ;
use countersign_gateway_model::Duration;
use countersign_ledger_entry::body::{Body, TaskGrant};
use countersign_ledger_entry::{Header, PayloadRef, PayloadRole, payload};

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
    /// All payloads of the entry: the terms are those that the scope is of, whatever they are called there.
    payloads: Vec<PayloadRef>,
}

impl GrantTerms {
    /// Takes note of an entry that asks for a grant.
    pub(crate) fn note(&mut self, index: u64, header: &Header) {
        let Body::TaskGrant(body) = &header.body else { return };
        if body.revoked || !body.approvers.is_empty() {
            return;
        }
        let (body, lasts) = (body.clone(), body.until.since(header.claimed));
        self.asked.push(Asked { index, body, lasts, payloads: header.payloads.clone() });
    }

    /// Compares what is disclosed of them, and says of how many: each is one, however often its terms are there.
    pub(crate) fn compare(&self, parts: &BTreeMap<&str, &[u8]>) -> Result<u64, VerifyError> {
        let mut compared = 0;
        for asked in &self.asked {
            compared += u64::from(asked.compare(parts).map_err(|problem| asked.wrong(problem))?);
        }
        Ok(compared)
    }
}

impl Asked {
    fn wrong(&self, problem: &'static str) -> VerifyError {
        VerifyError::Terms { index: self.index, problem }
    }

    /// Whether its terms are here; an error where they are others than it counts by, or can be nowhere else.
    fn compare(&self, parts: &BTreeMap<&str, &[u8]>) -> Result<bool, &'static str> {
        let disclosed = |named: &PayloadRef| parts.get(format!("{PAYLOADS}{}", named.digest).as_str()).copied();
        let of_scope = |bytes| {
            let (salt, content) = payload::open(bytes)?;
            (payload::salted(payload::GRANT, &salt, content) == self.body.scope).then_some(content)
        };
        if let Some(content) = self.payloads.iter().filter_map(disclosed).find_map(of_scope) {
            return terms_differ(content, &self.body, self.lasts).map_or(Ok(true), Err);
        }
        // Terms stand in a description. Where there is none, in whatever else the entry names.
        let described = self.payloads.iter().any(|named| named.role == PayloadRole::Description);
        let mut sought =
            self.payloads.iter().filter(|named| !described || named.role == PayloadRole::Description).peekable();
        if sought.peek().is_some() && sought.all(|named| disclosed(named).is_some()) {
            return Err("its terms are not those that its digest is of");
        }
        Ok(false)
    }
}
