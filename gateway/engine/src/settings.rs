//! Ledgered settings and the freeze: what changes how the whole organization is treated.

use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use serde_json::json;

use countersign_gateway_model::{Name, Principal};
use countersign_ledger_entry::Receipt;
use countersign_ledger_entry::body::{AuthorityMode, Freeze, SettingValue, Settings};
use countersign_policy_decide::{EntityKind, EntityRef, Operation};

use crate::Engine;
use crate::api::Idempotency;
use crate::error::EngineError;
use crate::org::Org;
use crate::own::OwnEntry;
use crate::policies::Electorate;
use crate::recording::Recording;
use crate::terms::{EVALUATIONS_RECORD, PUBLIC_READ, SHADOW_WINDOW};

/// Longest shadow window: 90 days.
const LONGEST_WINDOW_S: u64 = 90 * 86_400;

/// A setting's next value.
struct Change {
    setting: &'static str,
    old: SettingValue,
    new: SettingValue,
    /// As policy is asked of it.
    text: String,
}

impl Engine {
    /// Settings with their values.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] for those who may not read them.
    pub fn settings(&self, who: &Principal) -> Result<Vec<(String, serde_json::Value)>, EngineError> {
        let org = self.org(who.org)?;
        self.may_read(&org, who, Operation::ReadSettings, EntityRef::organization(org.id), "settings")?;
        let frozen = org.frozen();
        Ok(vec![
            (PUBLIC_READ.to_owned(), json!(org.public_read.load(Ordering::Acquire))),
            (EVALUATIONS_RECORD.to_owned(), json!(org.recording().as_str())),
            (SHADOW_WINDOW.to_owned(), json!(org.shadow_window(self.now()).0 / 1000)),
            (AuthorityMode::SETTING.to_owned(), json!(org.authority().as_str())),
            ("frozen".to_owned(), json!({ "all": frozen.all, "teams": frozen.teams })),
        ])
    }

    /// Changes whether the log may be read without a credential.
    ///
    /// # Errors
    /// [`EngineError::Refused`] by policy.
    pub async fn set_public_read(
        &self,
        who: Arc<Principal>,
        on: bool,
        key: Option<Idempotency>,
    ) -> Result<Receipt, EngineError> {
        let this = self.clone();
        Self::whole(async move {
            let org = this.org(who.org)?;
            let _one_at_a_time = org.in_force.lock().await;
            if let Some((_, receipt)) = this.own_before(&org, &who, key.as_ref()).await? {
                return Ok(receipt);
            }
            let old = SettingValue::Flag(org.public_read.load(Ordering::Acquire));
            let change = Change { setting: PUBLIC_READ, old, new: SettingValue::Flag(on), text: on.to_string() };
            let receipt = this.change_setting(&org, &who, change, key.as_ref()).await?;
            org.public_read.store(on, Ordering::Release);
            Ok(receipt)
        })
        .await
    }

    /// Changes which evaluations leave an entry.
    ///
    /// # Errors
    /// [`EngineError::Refused`] by policy.
    pub async fn set_evaluations_record(
        &self,
        who: Arc<Principal>,
        recording: Recording,
        key: Option<Idempotency>,
    ) -> Result<Receipt, EngineError> {
        let this = self.clone();
        Self::whole(async move {
            let org = this.org(who.org)?;
            let _one_at_a_time = org.in_force.lock().await;
            if let Some((_, receipt)) = this.own_before(&org, &who, key.as_ref()).await? {
                return Ok(receipt);
            }
            let value = |recording: Recording| Name::new(recording.as_str()).map(SettingValue::Choice);
            let change = Change {
                setting: EVALUATIONS_RECORD,
                old: value(org.recording()).map_err(EngineError::damaged)?,
                new: value(recording).map_err(EngineError::damaged)?,
                text: recording.as_str().to_owned(),
            };
            let receipt = this.change_setting(&org, &who, change, key.as_ref()).await?;
            org.set_recording(recording);
            Ok(receipt)
        })
        .await
    }

    /// Changes for how long a proposed policy is compared with the past before anybody is asked. What was proposed
    /// before keeps its window; under `four_eyes` a shorter one counts once the one before it has passed.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] beyond 90 days; [`EngineError::Refused`] by policy.
    pub async fn set_shadow_window(
        &self,
        who: Arc<Principal>,
        seconds: u64,
        key: Option<Idempotency>,
    ) -> Result<Receipt, EngineError> {
        let this = self.clone();
        Self::whole(async move {
            if seconds > LONGEST_WINDOW_S {
                return Err(EngineError::invalid("value", "give seconds, at most 7776000 (90 days)"));
            }
            let org = this.org(who.org)?;
            let _one_at_a_time = org.in_force.lock().await;
            if let Some((_, receipt)) = this.own_before(&org, &who, key.as_ref()).await? {
                return Ok(receipt);
            }
            let change = Change {
                setting: SHADOW_WINDOW,
                old: SettingValue::Number(org.shadow_window(this.now()).0 / 1000),
                new: SettingValue::Number(seconds),
                text: seconds.to_string(),
            };
            let receipt = this.change_setting(&org, &who, change, key.as_ref()).await?;
            org.set_shadow_window(org.own_fold().shadow_window);
            Ok(receipt)
        })
        .await
    }

    /// Raises the authority mode to `four_eyes`: at gates that open from here on nobody approves what is their own, and
    /// policy changes by the approval of somebody else. Gates that are open keep the exclusions they were opened with.
    /// Going back needs the root keys and a stopped gateway: `lowering`.
    ///
    /// # Errors
    /// [`EngineError::LockedOut`] where nobody could then change policy; [`EngineError::Refused`] by policy.
    pub async fn raise_authority(&self, who: Arc<Principal>, key: Option<Idempotency>) -> Result<Receipt, EngineError> {
        let this = self.clone();
        Self::whole(async move {
            let org = this.org(who.org)?;
            let _one_at_a_time = org.in_force.lock().await;
            if let Some((_, receipt)) = this.own_before(&org, &who, key.as_ref()).await? {
                return Ok(receipt);
            }
            let (policies, asked, now) = (Arc::clone(this.policies()), Arc::clone(&org), this.now());
            let check = move || {
                let (persons, second_factors) = (asked.persons(), asked.second_factors());
                let entities = &asked.entities;
                let people = Electorate { entities, persons, second_factors, now, four_eyes: true };
                policies.locked_out(asked.id, &people)
            };
            let locked = tokio::task::spawn_blocking(check).await.map_err(EngineError::damaged)?;
            let value = |mode: AuthorityMode| Name::new(mode.as_str()).map(SettingValue::Choice);
            let change = Change {
                setting: AuthorityMode::SETTING,
                old: value(org.authority()).map_err(EngineError::damaged)?,
                new: value(AuthorityMode::FourEyes).map_err(EngineError::damaged)?,
                text: AuthorityMode::FourEyes.as_str().to_owned(),
            };
            // Asked more strictly from before its entry on, so that nothing after the entry was decided by one person alone;
            // what entries say changes with the entry itself.
            let raise = || {
                locked?;
                org.set_authority(AuthorityMode::FourEyes);
                Ok(())
            };
            let before = org.authority();
            let raised = this.change_setting_after(&org, &who, (change, key.as_ref()), raise).await;
            if let Err(error) = &raised
                && !matches!(error, EngineError::Append(countersign_ledger_log::AppendError::Unknown))
            {
                // Nothing says that it was raised.
                org.set_authority(before);
            }
            raised
        })
        .await
    }

    async fn change_setting(
        &self,
        org: &Org,
        who: &Principal,
        change: Change,
        key: Option<&Idempotency>,
    ) -> Result<Receipt, EngineError> {
        self.change_setting_after(org, who, (change, key), || Ok(())).await
    }

    /// Asks policy, then does what must be so before the entry is durable, then commits.
    async fn change_setting_after(
        &self,
        org: &Org,
        who: &Principal,
        (change, key): (Change, Option<&Idempotency>),
        before: impl FnOnce() -> Result<(), EngineError>,
    ) -> Result<Receipt, EngineError> {
        let details = json!({ "operation": "manageSettings", "setting": change.setting, "value": change.text });
        let resource = EntityRef::organization(org.id);
        let allowed = self.authorize(who, Operation::ManageSettings, resource, &details).await?;
        let setting = Name::new(change.setting).map_err(EngineError::damaged)?;
        before()?;
        let entry = OwnEntry::new(Settings { setting, old: Some(change.old), new: change.new });
        self.commit_own_once(who, allowed, entry, key).await
    }

    /// Freezes a team, or everything: proposals, starts, APPROVE and OVERRIDE are refused at once, running work is
    /// cancelled. `lift` ends it, and is a person's to do.
    ///
    /// # Errors
    /// [`EngineError::Refused`] by policy.
    pub async fn freeze(
        &self,
        who: Arc<Principal>,
        team: Option<Name>,
        lift: bool,
        key: Option<Idempotency>,
    ) -> Result<Receipt, EngineError> {
        let this = self.clone();
        Self::whole(async move {
            let org = this.org(who.org)?;
            let one_at_a_time = org.in_force.lock().await;
            if let Some((_, receipt)) = this.own_before(&org, &who, key.as_ref()).await? {
                return Ok(receipt);
            }
            let operation = if lift { Operation::Lift } else { Operation::Freeze };
            if let Some(team) = &team {
                this.ensure_team(&org, team)?;
            }
            let resource = match &team {
                Some(team) => EntityRef::new(org.id, EntityKind::Team, team.clone()),
                None => EntityRef::organization(org.id),
            };
            let details = json!({ "operation": operation.as_str(), "team": team });
            let mut allowed = this.authorize(&who, operation, resource, &details).await?;
            allowed.beside.urgent = !lift;
            let entry = OwnEntry::new(Freeze { lift, team: team.clone() });
            let receipt = this.commit_own_once(&who, allowed, entry, key.as_ref()).await?;
            {
                let mut frozen = org.frozen.write().unwrap_or_else(PoisonError::into_inner);
                match (&team, lift) {
                    (None, lift) => frozen.all = !lift,
                    (Some(team), true) => drop(frozen.teams.remove(team)),
                    (Some(team), false) => drop(frozen.teams.insert(team.clone())),
                }
            }
            drop(one_at_a_time);
            if !lift {
                this.cancel_frozen(&org).await;
            }
            this.tell_frozen(&org).await;
            Ok(receipt)
        })
        .await
    }
}
