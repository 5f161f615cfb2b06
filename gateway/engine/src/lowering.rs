//! Lowering the authority mode: from `four_eyes` back to `solo`, with the root threshold, while the gateway is down.
//!
//! Who may is not asked of policy, because under `four_eyes` no person alone may: whoever holds the data folder and the root
//! threshold may, and the ledger says that it was done. It is the entry of the setting, as a raise is, by SYSTEM and with
//! nobody's verdict; the signed statement is its payload. Absent: the signatures (the program, `policy/bundle`). Read next:
//! `settings`, which raises it.

use countersign_gateway_model::{Name, OrgId, Pseudonym};
use countersign_ledger_entry::body::{AuthorityMode, Body, SettingValue, Settings};
use countersign_ledger_entry::{Draft, Entry, PayloadRole, Receipt, payload};

use crate::Engine;
use crate::beside::Beside;
use crate::error::EngineError;
use crate::mint::MintExt as _;
use crate::org::Org;

/// Entries of the organization's stream looked at a time.
const PAGE: u64 = 256;

impl Engine {
    /// Index of the entry since which nobody acts alone: that of the last raise, or of the log's first entry.
    ///
    /// # Errors
    /// [`EngineError::NotRaised`] in `solo`.
    pub async fn four_eyes_since(&self, org: OrgId) -> Result<u64, EngineError> {
        let org = self.org(org)?;
        if org.authority() != AuthorityMode::FourEyes {
            return Err(EngineError::NotRaised);
        }
        last_raise(&org).await
    }

    /// Lowers the authority mode to `solo`. `signed` is the statement that the root keys signed: the caller has checked it
    /// against [`Engine::four_eyes_since`].
    ///
    /// # Errors
    /// [`EngineError::NotRaised`] in `solo`; [`EngineError::Append`]: then it did not happen.
    pub async fn lower_authority(&self, org: OrgId, signed: serde_json::Value) -> Result<Receipt, EngineError> {
        let this = self.clone();
        Self::whole(async move {
            let org = this.org(org)?;
            let _one_at_a_time = org.in_force.lock().await;
            if org.authority() != AuthorityMode::FourEyes {
                return Err(EngineError::NotRaised);
            }
            let value = |mode: AuthorityMode| Name::new(mode.as_str()).map(SettingValue::Choice);
            let body = Settings {
                setting: Name::new(AuthorityMode::SETTING).map_err(EngineError::damaged)?,
                old: Some(value(AuthorityMode::FourEyes).map_err(EngineError::damaged)?),
                new: value(AuthorityMode::Solo).map_err(EngineError::damaged)?,
            };
            let mut beside = Beside { urgent: true, ..Beside::default() };
            let content = serde_json::to_vec(&serde_json::json!({ "signed": signed })).map_err(EngineError::damaged)?;
            let mut draft = Draft::new(Body::Settings(body), Pseudonym::SYSTEM);
            let sealed = payload::seal(&this.mint().salt(), &content);
            draft.payloads.push(beside.payload(PayloadRole::Description, sealed));
            let policy = this.snapshot(org.id).digests();
            let appended = this.append_own(&org, vec![draft], beside, (this.now(), policy)).await?;
            org.set_authority(AuthorityMode::Solo);
            let last = appended.entries.into_iter().next_back();
            last.map(|entry| entry.receipt).ok_or_else(|| EngineError::damaged("an append without entries"))
        })
        .await
    }
}

async fn last_raise(org: &Org) -> Result<u64, EngineError> {
    let head = org.log.head(org.own_stream()).await?;
    let mut end = head.map_or(0, |head| head.next_sequence);
    while end > 0 {
        let from = end.saturating_sub(PAGE);
        let limit = usize::try_from(end - from).unwrap_or(usize::MAX);
        let page = org.log.stream_entries(org.own_stream(), from, limit).await.map_err(EngineError::ledger)?;
        for stored in page.iter().rev() {
            if let Body::Settings(settings) = Entry::parse(&stored.leaf)?.header.body
                && settings.setting.as_str() == AuthorityMode::SETTING
                // A raise of what is raised is on record and changes nothing: statements on their way stay good.
                && settings.old.as_ref() != Some(&settings.new)
            {
                return Ok(stored.index);
            }
        }
        end = from;
    }
    Ok(0)
}
