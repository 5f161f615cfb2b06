//! The installation's own log: which organizations there are, and each start of this gateway. No organization's evidence
//! needs it, and no credential reads it: it is the operator's, for `ledger fsck` and `organization list`.
//!
//! Each organization is one `settings` entry in the stream of the installation, named `organization/<hex of its id>`,
//! whose value is the SHA-256 leaf hash of the genesis of its log. So a folder that goes missing, or that comes back with
//! another log, is noticed at the next start. Each start is the log's boot entry. Absent: names of organizations, which
//! would be names of tenants.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use countersign_gateway_model::{Clock, Digest, Name, OrgId, Pseudonym};
use countersign_ledger_log::{Append, LogHandle, Sealing};
use countersign_runners_contract::entry::body::{SettingValue, Settings};
use countersign_runners_contract::entry::{Body, Draft, Entry, Stream, StreamKind};
use sha2::{Digest as _, Sha256};

/// First part of the setting's name.
const SETTING: &str = "organization/";

/// Entries looked at a time.
const PAGE: usize = 256;

/// Why an installation is not served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InstallationError {
    /// Another log stands where that of an organization was.
    #[error("the log of `{0}` is not the one that the installation began: restore its folder")]
    Other(OrgId),
    /// An organization is on record and has no folder.
    #[error(
        "`{0}` is on record and its folder is not here: restore it under `organizations/`; nothing is served without it"
    )]
    Missing(OrgId),
}

impl InstallationError {
    /// Stable name of the problem, for `openapi/problems/<code>.md`.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Other(_) | Self::Missing(_) => "folder-incomplete",
        }
    }
}

/// Leaf hash (RFC 6962) of the genesis of each organization on record.
pub(crate) type Recorded = BTreeMap<OrgId, Digest>;

/// The stream that keeps the organizations.
fn stream(log: &LogHandle) -> Stream {
    Stream { kind: StreamKind::Organization, id: log.org().into() }
}

/// Leaf hash of a log's genesis.
pub(crate) fn genesis_hash(leaf: &[u8]) -> Digest {
    Digest(Sha256::new().chain_update([0]).chain_update(leaf).finalize().into())
}

fn hex(id: OrgId) -> String {
    id.to_string().trim_start_matches(OrgId::PREFIX).to_owned()
}

/// The organizations that the installation's log knows.
pub(crate) async fn recorded(log: &LogHandle) -> Result<Recorded> {
    let (mut all, mut from) = (Recorded::new(), 0);
    loop {
        let page = log.stream_entries(stream(log), from, PAGE).await.context("the installation's log")?;
        for stored in &page {
            let Body::Settings(setting) = Entry::parse(&stored.leaf)?.header.body else { continue };
            let Some(id) = setting.setting.as_str().strip_prefix(SETTING) else { continue };
            let damaged = || format!("entry {} of the installation's log cannot be read", stored.index);
            let SettingValue::Choice(genesis) = &setting.new else { bail!(damaged()) };
            let org: OrgId = format!("{}{id}", OrgId::PREFIX).parse().ok().with_context(damaged)?;
            all.insert(org, genesis.as_str().parse().ok().with_context(damaged)?);
        }
        if page.len() < PAGE {
            return Ok(all);
        }
        from += u64::try_from(PAGE).unwrap_or(u64::MAX);
    }
}

/// Puts an organization on record, whose log has begun.
pub(crate) async fn record(log: &LogHandle, clock: &dyn Clock, org: OrgId, genesis: Digest) -> Result<()> {
    let stream = stream(log);
    let head = log.head(stream).await.context("the installation's log")?;
    let sealing = Sealing {
        stream,
        sequence: head.map_or(0, |head| head.next_sequence),
        previous: head.map(|head| head.last_hash),
        policy: None,
        authority: log.authority(),
        claimed: clock.now(),
    };
    let body = Settings {
        setting: Name::new(&format!("{SETTING}{}", hex(org)))?,
        old: None,
        new: SettingValue::Choice(Name::new(&genesis.to_string())?),
    };
    let entries = log.seal(&sealing, vec![Draft::new(body, Pseudonym::SYSTEM)])?;
    let append = Append { expected: sealing.sequence, entries, ..Append::default() };
    log.append(append).await.context("the organization cannot be put on record")?;
    Ok(())
}

/// Refuses to go on where an organization on record is missing here, or has another log.
pub(crate) fn compare(recorded: &Recorded, here: &Recorded) -> Result<(), InstallationError> {
    for (org, genesis) in recorded {
        match here.get(org) {
            Some(found) if found == genesis => {}
            Some(_) => return Err(InstallationError::Other(*org)),
            None => return Err(InstallationError::Missing(*org)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_organization_that_is_missing_or_has_another_log_stops_the_start() {
        let org = |n| OrgId::from_bytes([n; 16]);
        let is = |pairs: &[(u8, u8)]| -> Recorded {
            pairs.iter().map(|(n, genesis)| (org(*n), Digest([*genesis; 32]))).collect()
        };
        assert!(compare(&is(&[(1, 1)]), &is(&[(1, 1), (2, 2)])).is_ok());
        let missing = compare(&is(&[(1, 1), (2, 2)]), &is(&[(1, 1)])).unwrap_err().to_string();
        assert!(missing.contains(&org(2).to_string()) && missing.contains("restore"), "{missing}");
        let other = compare(&is(&[(1, 1)]), &is(&[(1, 9)])).unwrap_err().to_string();
        assert!(other.contains("not the one"), "{other}");
    }
}
