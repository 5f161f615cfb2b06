//! Root documents on record: the ledger says which one is in force, so that an older one does not come back with a folder.
//!
//! Put in force while the gateway is down; who may is said by the signatures, of the document before and of the new one.
//! It is an entry of the setting `policy.root`, by SYSTEM and with nobody's verdict; the signed document is its payload.
//! Absent: the documents and their succession (`policy/bundle`, `policy/store`), who installs them (the program).

use countersign_gateway_model::{Digest, Name, OrgId, Pseudonym};
use countersign_ledger_entry::body::{Body, SettingValue, Settings};
use countersign_ledger_entry::{Draft, PayloadRole, Receipt, payload};
use countersign_ledger_log::LogHandle;

use crate::Engine;
use crate::beside::Beside;
use crate::error::EngineError;
use crate::mint::MintExt as _;
use crate::own_fold::OwnFold;
use crate::terms::ROOT;

/// The root document that the ledger names last; none while that is version 1, which genesis names.
///
/// # Errors
/// [`EngineError::Ledger`] if it cannot be read.
pub async fn root_on_record(log: &LogHandle) -> Result<Option<Digest>, EngineError> {
    Ok(OwnFold::of(log).await?.root)
}

impl Engine {
    /// Says that a root document is in force, after another one. `signed` is the document with its signatures: the caller
    /// has checked that it succeeds, and keeps it.
    ///
    /// # Errors
    /// [`EngineError::Append`]: then it is not on record, and the caller says it again.
    pub async fn record_root(
        &self,
        org: OrgId,
        (before, now): (Digest, Digest),
        signed: serde_json::Value,
    ) -> Result<Receipt, EngineError> {
        let this = self.clone();
        Self::whole(async move {
            let org = this.org(org)?;
            let _one_at_a_time = org.in_force.lock().await;
            let value = |digest: Digest| Name::new(&digest.to_string()).map(SettingValue::Choice);
            let body = Settings {
                setting: Name::new(ROOT).map_err(EngineError::damaged)?,
                old: Some(value(before).map_err(EngineError::damaged)?),
                new: value(now).map_err(EngineError::damaged)?,
            };
            let mut beside = Beside { urgent: true, ..Beside::default() };
            let content = serde_json::to_vec(&serde_json::json!({ "signed": signed })).map_err(EngineError::damaged)?;
            let mut draft = Draft::new(Body::Settings(body), Pseudonym::SYSTEM);
            let sealed = payload::seal(&this.mint().salt(), &content);
            draft.payloads.push(beside.payload(PayloadRole::Description, sealed));
            let policy = this.snapshot(org.id).digests();
            let appended = this.append_own(&org, vec![draft], beside, (this.now(), policy)).await?;
            let last = appended.entries.into_iter().next_back();
            last.map(|entry| entry.receipt).ok_or_else(|| EngineError::damaged("an append without entries"))
        })
        .await
    }
}
