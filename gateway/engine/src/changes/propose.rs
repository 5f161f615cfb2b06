//! Proposing a change of policy, withdrawing it, going back to the bundle before, and reading how far each is.
//!
//! A candidate is checked before policy is asked, so that what stands on record as proposed has passed. Everything after
//! the first entry is `drive`'s.

use std::sync::Arc;

use countersign_gateway_model::{Digest, Duration, InstanceId, Principal, Timestamp};
use countersign_ledger_entry::body::{AuthorityMode, Step};
use countersign_ledger_entry::payload;
use countersign_ledger_entry::{Blob, Draft, PayloadRole};
use countersign_policy_bundle::sha256;
use countersign_policy_decide::{EntityRef, Operation};
use serde_json::{Value, json};

use crate::Engine;
use crate::api::{Compared, Idempotency, Page, PolicyProposal, ProposalStep};
use crate::changes::names::{Subject, bundle_entity};
use crate::changes::row::{CHANGES, ChangeRow, Checked, Stage};
use crate::error::EngineError;
use crate::mint::MintExt as _;
use crate::org::Org;
use crate::own::draft_of;
use crate::policies::Candidate;
use crate::records::{cursor, to_cursor};

/// How long after it was replaced a bundle may come back without a shadow window.
const WAY_BACK: Duration = Duration::from_secs(86_400);

/// Most proposals of one page.
const MAX_PAGE: usize = 100;

impl Engine {
    /// Proposes a bundle. It is checked, compared with the past for as long as the shadow window says, asked of the
    /// policy in force, approved where that one says so, and then put in force by the gateway itself.
    ///
    /// # Errors
    /// [`EngineError::Bundle`] and [`EngineError::LockedOut`] with every finding; [`EngineError::ConfirmDiff`] in `solo`
    /// until `confirmed` names the difference; [`EngineError::Refused`] by policy.
    pub async fn propose_policy(
        &self,
        who: Arc<Principal>,
        bundle: Vec<u8>,
        confirmed: Option<Digest>,
        key: Option<Idempotency>,
    ) -> Result<PolicyProposal, EngineError> {
        let this = self.clone();
        Self::whole(async move {
            let org = this.org(who.org)?;
            if let Some(before) = this.proposed_earlier(&org, &who, key.as_ref()).await? {
                return Ok(before);
            }
            this.may_change_policy(&org, &who, Operation::ProposePolicy, &bundle).await?;
            this.propose_change(&org, &who, bundle, confirmed, key.as_ref()).await
        })
        .await
    }

    /// Proposes to go back to the bundle that the one in force replaced: its content under the next version, signed anew.
    ///
    /// # Errors
    /// As [`Engine::propose_policy`]; [`EngineError::Bundle`] where there is nothing to go back to.
    pub async fn rollback_policy(
        &self,
        who: Arc<Principal>,
        confirmed: Option<Digest>,
        key: Option<Idempotency>,
    ) -> Result<PolicyProposal, EngineError> {
        let this = self.clone();
        Self::whole(async move {
            let org = this.org(who.org)?;
            if let Some(before) = this.proposed_earlier(&org, &who, key.as_ref()).await? {
                return Ok(before);
            }
            this.may_change_policy(&org, &who, Operation::ProposePolicy, b"rollback").await?;
            let (policies, id) = (Arc::clone(this.policies()), org.id);
            let one_at_a_time = Arc::clone(&org.checking).lock_owned().await;
            let previous = move || {
                let _one_at_a_time = one_at_a_time;
                policies.previous(id)
            };
            let bundle = tokio::task::spawn_blocking(previous).await.map_err(EngineError::damaged)??;
            this.propose_change(&org, &who, bundle, confirmed, key.as_ref()).await
        })
        .await
    }

    async fn proposed_earlier(
        &self,
        org: &Arc<Org>,
        who: &Principal,
        key: Option<&Idempotency>,
    ) -> Result<Option<PolicyProposal>, EngineError> {
        let Some(answer) = self.replayed(org, org.own_stream(), who, key).await? else { return Ok(None) };
        let id = answer.get("change").and_then(Value::as_str).and_then(|id| id.parse().ok());
        let id = id.ok_or_else(|| EngineError::damaged("a stored answer without its proposal"))?;
        self.proposal_record(org, self.policy_row(org, id).await?).await.map(Some)
    }

    async fn propose_change(
        &self,
        org: &Arc<Org>,
        who: &Arc<Principal>,
        bundle: Vec<u8>,
        confirmed: Option<Digest>,
        key: Option<&Idempotency>,
    ) -> Result<PolicyProposal, EngineError> {
        let mut candidate = self.checked(org, bundle).await?;
        // Nothing is prepared for as long as people think: it is checked again when it is carried out.
        candidate.prepared = Box::new(());
        if org.authority() == AuthorityMode::Solo && confirmed != Some(candidate.diff_digest) {
            return Err(EngineError::ConfirmDiff { digest: candidate.diff_digest, diff: candidate.diff });
        }
        let now = self.now();
        let (restores, predecessor) = (candidate.restores, candidate.predecessor);
        let window_ends = self.window_end(org, restores, predecessor, now).await?;
        let mut row = ChangeRow {
            window_ends,
            weakens: candidate.weakens,
            rollback: candidate.restores,
            proofs: std::mem::take(&mut candidate.proofs),
            ..ChangeRow::new(self.mint().instance(), who, now, &checked(&candidate))
        };
        let entity = bundle_entity(org.id, &row.digest)?;
        org.entities.put(self.candidate_record(org, &row)?).map_err(EngineError::damaged)?;
        let details = json!({ "operation": "proposePolicy", "bundle": row.digest, "diff": row.diff });
        let allowed = match self.authorize(who, Operation::ProposePolicy, entity.clone(), &details).await {
            Ok(allowed) if who.on_behalf_of.is_empty() => allowed,
            answer => {
                if !org.changes.all().iter().any(|(_, other)| other.row().digest == row.digest) {
                    org.entities.forget(&entity);
                }
                answer?;
                return Err(EngineError::invalid("credential", "propose a policy in your own name, not for another"));
            }
        };
        let crate::own::Allowed { mut asked, mut beside, policy, .. } = allowed;
        let description = json!({ "instance": row.instance, "diff": candidate.diff });
        let content = serde_json::to_vec(&description).map_err(EngineError::damaged)?;
        asked.payloads.push(beside.payload(PayloadRole::Description, payload::seal(&self.mint().salt(), &content)));
        let mut drafts = vec![draft_of(who, row.body(Step::Proposed), &asked)];
        row.stepped(Step::Proposed, now);
        let window = (row.window_ends > now).then_some(Step::Shadowed);
        let tried = (!row.proofs.is_empty()).then_some(Step::Invariants);
        for step in [Step::Checked, Step::Tested].into_iter().chain(tried).chain(window) {
            let mut draft = Draft::new(row.body(step), countersign_gateway_model::Pseudonym::SYSTEM);
            if step == Step::Invariants {
                // What is known of each: the entry says that they were tried, and its payload what came of it.
                let content = serde_json::to_vec(&json!({ "invariants": row.proofs })).map_err(EngineError::damaged)?;
                let sealed = payload::seal(&self.mint().salt(), &content);
                draft.payloads.push(beside.payload(PayloadRole::Description, sealed));
            }
            drafts.push(draft);
            row.stepped(step, now);
        }
        beside.blobs.append(&mut candidate.blobs);
        beside.blobs.push(Blob { digest: row.bundle, bytes: candidate.transport.into() });
        beside.blobs.push(Blob { digest: row.diff, bytes: candidate.diff.into_bytes().into() });
        beside.rows.push(row.to_row()?);
        let answer = serde_json::to_vec(&json!({ "change": row.instance })).map_err(EngineError::damaged)?;
        beside.idempotency = Self::own_idempotency(org, who, key, answer);
        self.append_own(org, drafts, beside, (now, policy)).await?;
        // Durable with its row: a crash here leaves a proposal whose instance the next start makes.
        let id = row.instance;
        org.changes.insert(&row);
        if let Err(error) = Box::pin(self.advance(org, id)).await {
            tracing::warn!(%error, change = %id, "a change could not be taken further yet");
        }
        self.timers().notify_one();
        self.proposal_record(org, self.policy_row(org, id).await?).await
    }

    /// When the shadow window of a candidate ends: now, where none is asked for.
    pub(crate) async fn window_end(
        &self,
        org: &Org,
        restores: bool,
        predecessor: Option<Digest>,
        now: Timestamp,
    ) -> Result<Timestamp, EngineError> {
        // What was in force until a moment ago was compared with the past before it came into force.
        if restores {
            let since = self.in_force_since(org).await?;
            if since.is_some_and(|since| Some(since.digest) == predecessor && now <= since.at + WAY_BACK) {
                return Ok(now);
            }
        }
        Ok(now + org.shadow_window(now))
    }

    /// Withdraws a proposal: its instance is terminated. Its author cannot be vetoed.
    ///
    /// # Errors
    /// [`EngineError::Refused`] for others, by policy.
    pub async fn withdraw_policy(
        &self,
        who: Arc<Principal>,
        id: InstanceId,
        key: Option<Idempotency>,
    ) -> Result<PolicyProposal, EngineError> {
        let org = self.org(who.org)?;
        self.may_read(&org, &who, Operation::ReadPolicy, EntityRef::organization(org.id), "policy proposal")?;
        self.policy_row(&org, id).await?;
        self.terminate(Arc::clone(&who), id, key).await?;
        let this = self.clone();
        Self::whole(async move {
            this.advance(&org, id).await?;
            this.proposal_record(&org, this.policy_row(&org, id).await?).await
        })
        .await
    }

    /// A proposal, with the difference in words.
    ///
    /// # Errors
    /// [`EngineError::NotFound`].
    pub async fn policy_proposal(&self, who: &Principal, id: InstanceId) -> Result<PolicyProposal, EngineError> {
        let org = self.org(who.org)?;
        self.may_read(&org, who, Operation::ReadPolicy, EntityRef::organization(org.id), "policy proposal")?;
        self.proposal_record(&org, self.policy_row(&org, id).await?).await
    }

    /// Proposals, newest first, without their differences.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] for those who may not read policy.
    pub async fn policy_proposals(
        &self,
        who: &Principal,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<PolicyProposal>, EngineError> {
        let org = self.org(who.org)?;
        self.may_read(&org, who, Operation::ReadPolicy, EntityRef::organization(org.id), "policy proposal")?;
        let limit = limit.clamp(1, MAX_PAGE);
        let mut after = cursor(after)?;
        let mut items = Vec::with_capacity(limit);
        loop {
            let page =
                org.log.scan(CHANGES, b"", after.as_deref(), MAX_PAGE, true).await.map_err(EngineError::ledger)?;
            let last = page.len() < MAX_PAGE;
            for row in page {
                let change = ChangeRow::read(&row.columns)?;
                // Changes of the tool catalogue are in the same table.
                if change.subject == Subject::Bundle {
                    if items.len() == limit {
                        let next = after.as_deref().map(to_cursor);
                        return Ok(Page { items, next });
                    }
                    items.push(self.record_of_change(&org, change));
                }
                after = Some(row.key);
            }
            if last {
                return Ok(Page { items, next: None });
            }
        }
    }

    async fn proposal_record(&self, org: &Org, row: ChangeRow) -> Result<PolicyProposal, EngineError> {
        let diff = org.log.blob(&row.diff).await.map_err(EngineError::ledger)?;
        let mut record = self.record_of_change(org, row);
        record.diff = diff.map(|diff| String::from_utf8_lossy(&diff).into_owned());
        Ok(record)
    }

    fn record_of_change(&self, org: &Org, row: ChangeRow) -> PolicyProposal {
        let waits = org.peek(row.instance).is_none_or(|(_, waits)| waits) && row.gate.is_some();
        let state = match row.stage {
            Stage::Proposed | Stage::Shadowing => "shadowing",
            Stage::Asked if waits => "waiting",
            Stage::Asked => "approved",
            Stage::Activated => "activated",
            Stage::Failed => "failed",
            Stage::Withdrawn => "withdrawn",
        };
        let compared = row.compared.as_ref().map(|compared| Compared {
            asked: compared.asked,
            unchanged: compared.unchanged,
            changed: compared.changed.clone(),
            not_computable: compared.not_computable,
        });
        PolicyProposal {
            id: row.instance,
            bundle: row.digest,
            predecessor: row.predecessor,
            version: row.version,
            state,
            author: org.label(row.author),
            proposed: row.proposed,
            window_ends: row.window_ends,
            weakens: row.weakens,
            rollback: row.rollback,
            break_glass: row.break_glass,
            gate: row.gate,
            reason: row.reason,
            steps: row.steps.iter().map(|s| ProposalStep { step: word_of(s.step), at: s.at }).collect(),
            compared,
            proofs: row.proofs,
            diff_digest: row.diff,
            diff: None,
        }
    }
}

fn checked(bundle: &Candidate) -> Checked {
    Checked {
        subject: Subject::Bundle,
        digest: bundle.digest,
        predecessor: bundle.predecessor,
        version: bundle.version,
        root_version: bundle.root_version,
        signed_by: bundle.signed_by,
        bytes: sha256(&bundle.transport),
        words: bundle.diff_digest,
    }
}

pub(super) fn word_of(step: Step) -> &'static str {
    match step {
        Step::Proposed => "proposed",
        Step::Checked => "checked",
        Step::Tested => "tested",
        Step::Invariants => "invariants",
        Step::Shadowed => "shadowed",
        Step::Approved => "approved",
        Step::Activated => "activated",
        Step::Failed => "failed",
        Step::Withdrawn => "withdrawn",
    }
}
