//! Reading projections: rows by key and by list, joined with names.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use countersign_gateway_flow::Instance;
use countersign_gateway_flow::rows::{
    self, ActionRow, ActionStatus, GateRow, GateState, InstanceRow, RunRow, StartRow,
};
use countersign_gateway_model::{
    ActionId, Digest, GateId, InstanceId, Name, OrgId, PermitId, Principal, PrincipalKind, RunId,
};
use countersign_ledger_entry::body::Cause;
use countersign_policy_decide::{EntityKind, EntityRef, Operation};

use crate::Engine;
use crate::api::{
    ActionRecord, GateItemRecord, GateQuery, GateRecord, InstanceQuery, InstanceRecord, Instead, Page, RuleProgress,
};
use crate::error::EngineError;
use crate::org::{Live, Org};
use crate::permits::in_shadow;
use crate::stream::instance_name;

/// Most items of one page.
pub(crate) const MAX_PAGE: usize = 200;

/// Most rows looked at for one page.
const MAX_SCAN: usize = 5_000;

/// What is known of an action from its row.
pub(crate) struct ActionFacts {
    pub(crate) id: ActionId,
    pub(crate) instance: InstanceId,
    pub(crate) permit: Option<PermitId>,
    pub(crate) run: Option<RunId>,
    row: ActionRow,
    start: Option<StartRow>,
}

fn parse<T: serde::de::DeserializeOwned>(columns: &[u8]) -> Result<T, EngineError> {
    serde_json::from_slice(columns).map_err(EngineError::damaged)
}

/// A cursor is the hex of the last key.
pub(crate) fn cursor(after: Option<&str>) -> Result<Option<Vec<u8>>, EngineError> {
    let Some(text) = after else { return Ok(None) };
    let bad = || EngineError::invalid("cursor", "give a cursor that an earlier page answered with");
    if text.len() % 2 != 0 || text.len() > 200 || !text.is_ascii() {
        return Err(bad());
    }
    (0..text.len())
        .step_by(2)
        .map(|at| text.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()).ok_or_else(bad))
        .collect::<Result<Vec<u8>, _>>()
        .map(Some)
}

pub(crate) fn to_cursor(key: &[u8]) -> String {
    key.iter().fold(String::with_capacity(2 * key.len()), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn id16(key: &[u8]) -> Result<[u8; 16], EngineError> {
    key.try_into().map_err(|_| EngineError::damaged("a row's key is no id"))
}

impl ActionFacts {
    /// Stream sequence of its permit's entry.
    pub(crate) fn permit_entry(&self) -> Option<u64> {
        self.permit.map(|_| self.row.sequence)
    }

    /// What became of the proposal itself.
    pub(crate) fn status(&self) -> ActionStatus {
        self.row.status
    }
}

impl Engine {
    pub(crate) async fn action_row(&self, org: &Org, id: ActionId) -> Result<ActionFacts, EngineError> {
        let columns = org.log.view(rows::ACTIONS, id.as_bytes()).await.map_err(EngineError::ledger)?;
        let row: ActionRow = parse(&columns.ok_or(EngineError::NotFound("action"))?)?;
        crate::trail::about(row.instance);
        let start = match row.permit {
            Some(permit) => self.start_row(org, permit).await?,
            None => None,
        };
        let run = start.as_ref().and_then(|s| s.run);
        Ok(ActionFacts { id, instance: row.instance, permit: row.permit, run, row, start })
    }

    pub(crate) async fn start_row(&self, org: &Org, permit: PermitId) -> Result<Option<StartRow>, EngineError> {
        let columns = org.log.view(rows::STARTS, permit.as_bytes()).await.map_err(EngineError::ledger)?;
        columns.map(|c| parse(&c)).transpose()
    }

    pub(crate) fn action_record(&self, facts: &ActionFacts, fold: &Instance, instead: Option<Instead>) -> ActionRecord {
        let outcome = facts.start.as_ref().and_then(|s| s.outcome.as_ref()).map(|o| o.outcome.as_str());
        let status = outcome
            .or_else(|| facts.permit.and_then(|p| crate::permits::permit_status(fold, p, self.now())))
            .unwrap_or(match facts.row.status {
                ActionStatus::Permitted => "lapsed",
                ActionStatus::Waiting | ActionStatus::Cleared => "waiting",
                ActionStatus::Refused => "refused",
                ActionStatus::Rejected => "rejected",
                ActionStatus::Dropped => "dropped",
            });
        ActionRecord {
            id: facts.id,
            instance: facts.instance,
            tool: facts.row.tool.clone().unwrap_or_else(|| fold.created().workflow.clone()),
            status: status.to_owned(),
            run: facts.run,
            permit: facts.permit,
            proposed: facts.row.proposed,
            instead,
        }
    }

    /// An instance.
    ///
    /// # Errors
    /// [`EngineError::NotFound`].
    pub async fn instance(&self, who: &Principal, id: InstanceId) -> Result<InstanceRecord, EngineError> {
        let org = self.org(who.org)?;
        let held = self.hold(&org, id).await?;
        self.visible(&org, who, held.fold()?)?;
        self.record_of(&org, &held.live)
    }

    /// Instances, newest first.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] for those who may not list them.
    pub async fn instances(&self, who: &Principal, query: InstanceQuery) -> Result<Page<InstanceRecord>, EngineError> {
        let org = self.org(who.org)?;
        self.may_read(&org, who, Operation::ListInstances, EntityRef::organization(org.id), "instance list")?;
        let limit = query.limit.clamp(1, MAX_PAGE);
        let mut after = cursor(query.after.as_deref())?;
        let frozen = self.frozen_workflows(&org).await?;
        let (mut items, mut looked) = (Vec::new(), 0);
        loop {
            let page =
                org.log.scan(rows::INSTANCES, b"", after.as_deref(), limit, true).await.map_err(EngineError::ledger)?;
            let whole = page.len() == limit;
            for row in page {
                looked += 1;
                after = Some(row.key.clone());
                let columns: InstanceRow = parse(&row.columns)?;
                let wanted = query.state.is_none_or(|s| s == columns.state)
                    && query.workflow.as_ref().is_none_or(|w| *w == columns.workflow);
                if !wanted {
                    continue;
                }
                let id = InstanceId::from_bytes(id16(&row.key)?);
                let held = org.is_frozen(None) || frozen.contains(&columns.workflow);
                items.push(self.record_of_row(&org, id, columns, held));
                if items.len() == limit {
                    return Ok(Page { items, next: after.map(|key| to_cursor(&key)) });
                }
            }
            if !whole {
                return Ok(Page { items, next: None });
            }
            if looked >= MAX_SCAN {
                return Ok(Page { items, next: after.map(|key| to_cursor(&key)) });
            }
        }
    }

    /// Every workspace that an instance names which may still run something in it.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] for an unknown organization, and those of the ledger.
    pub async fn live_workspaces(&self, org: OrgId) -> Result<BTreeSet<Digest>, EngineError> {
        let org = self.org(org)?;
        let (mut named, mut after) = (BTreeSet::new(), None);
        loop {
            let page = org
                .log
                .scan(rows::INSTANCES, b"", after.as_deref(), MAX_PAGE, true)
                .await
                .map_err(EngineError::ledger)?;
            let whole = page.len() == MAX_PAGE;
            for row in page {
                let columns: InstanceRow = parse(&row.columns)?;
                if !columns.state.is_terminal() {
                    let id = InstanceId::from_bytes(id16(&row.key)?);
                    let resting = !org.in_memory(id);
                    named.extend(self.hold(&org, id).await?.live.workspace);
                    if resting {
                        org.release(id);
                        org.entities.forget(&Self::instance_entity(&org, id)?);
                    }
                }
                after = Some(row.key);
            }
            if !whole {
                return Ok(named);
            }
        }
    }

    /// An instance as people read it.
    pub(crate) fn record_of(&self, org: &Org, live: &Live) -> Result<InstanceRecord, EngineError> {
        let fold = live.fold.as_ref().ok_or(EngineError::NotFound("instance"))?;
        let created = fold.created();
        let mut reasons = Vec::new();
        if fold.state().is_terminal() {
            reasons.push("finished".to_owned());
        }
        if org.is_frozen(live.team.as_ref()) {
            reasons.push("frozen".to_owned());
        }
        if fold.gate().is_some() {
            reasons.push("waiting_for_human".to_owned());
        }
        Ok(InstanceRecord {
            id: fold.id(),
            workflow: created.workflow.clone(),
            workflow_version: created.workflow_version,
            state: fold.state(),
            initiator: org.label(created.initiator),
            accountable: org.label(created.accountable),
            owner: created.owner.map(|who| org.label(who)),
            acting: org.label(created.acting),
            created: fold.created_at(),
            updated: fold.latest(),
            gate: fold.gate().map(|g| g.gate),
            open_starts: fold.open_starts().map(|(permit, _)| permit).collect(),
            denials: u64::from(fold.denials()),
            workspace: live.workspace,
            labels: live.labels.clone(),
            deadline: created.deadline,
            runnable: reasons.is_empty(),
            reasons,
            enforced: !in_shadow(&self.snapshot(org.id), created, self.now()),
            sequence: fold.sequence() + 1,
        })
    }

    /// The workflows of teams that are frozen. Rows of instances do not say whose work they are.
    async fn frozen_workflows(&self, org: &Org) -> Result<BTreeSet<Name>, EngineError> {
        let teams = org.frozen().teams;
        if teams.is_empty() {
            return Ok(BTreeSet::new());
        }
        let workflows = self.all_workflows(org).await?.into_iter().map(|workflow| workflow.spec);
        let theirs = workflows.filter(|spec| spec.team.as_ref().is_some_and(|team| teams.contains(team)));
        Ok(theirs.map(|spec| spec.id).collect())
    }

    fn record_of_row(&self, org: &Org, id: InstanceId, row: InstanceRow, frozen: bool) -> InstanceRecord {
        let mut reasons = Vec::new();
        if row.state.is_terminal() {
            reasons.push("finished".to_owned());
        }
        // In the order in which a single read says them.
        if frozen {
            reasons.push("frozen".to_owned());
        }
        if row.gate.is_some() {
            reasons.push("waiting_for_human".to_owned());
        }
        let shadow = || self.snapshot(org.id).workflow_in_shadow(&row.workflow, self.now());
        let enforced = row.enforced || !shadow();
        InstanceRecord {
            id,
            workflow: row.workflow,
            workflow_version: row.workflow_version,
            state: row.state,
            initiator: org.label(row.initiator),
            accountable: org.label(row.accountable),
            owner: row.owner.map(|who| org.label(who)),
            acting: org.label(row.acting),
            created: row.created,
            updated: row.updated,
            gate: row.gate,
            open_starts: Vec::new(),
            denials: u64::from(row.denials),
            workspace: None,
            labels: std::collections::BTreeMap::new(),
            deadline: row.deadline,
            runnable: reasons.is_empty(),
            reasons,
            enforced,
            sequence: 0,
        }
    }

    pub(crate) async fn gate_row(&self, org: &Org, id: GateId) -> Result<GateRow, EngineError> {
        let columns = org.log.view(rows::GATES, id.as_bytes()).await.map_err(EngineError::ledger)?;
        parse(&columns.ok_or(EngineError::NotFound("gate"))?)
    }

    /// Gates, newest first.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] for those who may not list them.
    pub async fn gates(&self, who: &Principal, query: GateQuery) -> Result<Page<GateRecord>, EngineError> {
        let org = self.org(who.org)?;
        self.may_read(&org, who, Operation::ListGates, EntityRef::organization(org.id), "gate list")?;
        let limit = query.limit.clamp(1, MAX_PAGE);
        let table = if query.open == Some(true) { rows::OPEN_GATES } else { rows::GATES };
        let mut after = cursor(query.after.as_deref())?;
        let (mut items, mut looked) = (Vec::new(), 0);
        loop {
            let page = org.log.scan(table, b"", after.as_deref(), limit, true).await.map_err(EngineError::ledger)?;
            let whole = page.len() == limit;
            for row in page {
                looked += 1;
                after = Some(row.key.clone());
                let id = GateId::from_bytes(id16(&row.key)?);
                let gate = self.gate_row(&org, id).await?;
                let open = gate.state == GateState::Open;
                let wanted = query.open.is_none_or(|o| o == open) && query.instance.is_none_or(|i| i == gate.instance);
                if !wanted {
                    continue;
                }
                items.push(self.gate_record(&org, who, id, gate));
                if items.len() == limit {
                    return Ok(Page { items, next: after.map(|key| to_cursor(&key)) });
                }
            }
            if !whole {
                return Ok(Page { items, next: None });
            }
            if looked >= MAX_SCAN {
                return Ok(Page { items, next: after.map(|key| to_cursor(&key)) });
            }
        }
    }

    /// A gate as `who` may read it: an agent learns that it waits, and not what would let it through.
    pub(crate) fn gate_record(&self, org: &Org, who: &Principal, id: GateId, row: GateRow) -> GateRecord {
        let person = who.kind == PrincipalKind::Person;
        let snapshot = self.snapshot(org.id);
        let resolved = match row.state {
            GateState::Open => None,
            GateState::Approved => Some("APPROVED"),
            // Nobody decided: what was asked for is asked for no more.
            GateState::Overridden if row.cause == Some(Cause::Follow) => Some("WITHDRAWN"),
            GateState::Overridden => Some("OVERRIDDEN"),
            GateState::Rejected => Some("REJECTED"),
        };
        let items = row
            .items
            .into_iter()
            .map(|item| GateItemRecord {
                item: item.item,
                action: item.action,
                tool: item.tool,
                digest: item.digest,
                rules: item
                    .rules
                    .into_iter()
                    .filter(|_| person)
                    .map(|rule| RuleProgress {
                        quorum: u32::from(rule.quorum),
                        counted: u32::try_from(rule.counted).unwrap_or(u32::MAX),
                        met: rule.met,
                        lifted: rule.lifted.is_some(),
                        liftable: crate::liftable::break_glass_of(&snapshot, &rule.rule).is_some(),
                        title: snapshot.rules().get(rule.rule.as_str()).map(|r| r.title.clone()).unwrap_or_default(),
                        roles: rule.roles,
                        rule: rule.rule,
                    })
                    .collect(),
            })
            .collect();
        GateRecord {
            id,
            instance: row.instance,
            subject: row.subject,
            open: resolved.is_none(),
            opened: row.opened,
            expires: row.expires,
            resolved: resolved.map(str::to_owned),
            items,
        }
    }

    pub(crate) async fn run_rows(
        &self,
        org: &Org,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<(RunId, u32, RunRow)>, Option<String>), EngineError> {
        let limit = limit.clamp(1, MAX_PAGE);
        let after = cursor(after)?;
        let page = org.log.scan(rows::RUNS, b"", after.as_deref(), limit, true).await.map_err(EngineError::ledger)?;
        let next = (page.len() == limit).then(|| page.last().map(|row| to_cursor(&row.key))).flatten();
        let rows = page
            .into_iter()
            .map(|row| {
                let (run, attempt) = rows::run_of(&row.key).ok_or_else(|| EngineError::damaged("a run's key"))?;
                Ok((run, attempt, parse(&row.columns)?))
            })
            .collect::<Result<Vec<_>, EngineError>>()?;
        Ok((rows, next))
    }

    /// The newest attempt of a run.
    pub(crate) async fn run_row(&self, org: &Org, run: RunId) -> Result<(u32, RunRow), EngineError> {
        let page = org.log.scan(rows::RUNS, run.as_bytes(), None, 1, true).await.map_err(EngineError::ledger)?;
        let row = page.into_iter().next().ok_or(EngineError::NotFound("run"))?;
        let (_, attempt) = rows::run_of(&row.key).ok_or_else(|| EngineError::damaged("a run's key"))?;
        Ok((attempt, parse(&row.columns)?))
    }

    /// Entity of a gate for policy.
    pub(crate) fn gate_entity(org: &Org, id: GateId) -> Result<EntityRef, EngineError> {
        let name = countersign_gateway_model::Name::new(&id.to_string()).map_err(EngineError::damaged)?;
        Ok(EntityRef::new(org.id, EntityKind::Gate, name))
    }

    pub(crate) fn instance_entity(org: &Org, id: InstanceId) -> Result<EntityRef, EngineError> {
        Ok(EntityRef::new(org.id, EntityKind::Instance, instance_name(id)?))
    }
}
